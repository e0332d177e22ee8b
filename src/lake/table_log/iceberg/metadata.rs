//! Table metadata. <https://iceberg.apache.org/spec/#table-metadata-fields>

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::avro::Problem;
use super::schema;
use crate::cdr::period::PeriodUnit;
use crate::lake::table_log::new_uuid;

/// The branch that readers see.
pub(super) const MAIN: &str = "main";
/// Earlier metadata files that the metadata lists.
const MAX_METADATA_LOG: usize = 100;

/// The metadata of a table, in version 2 of the format. Fields that are not listed here are lost
/// with the next commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Metadata {
    pub(super) format_version: u32,
    pub(super) table_uuid: String,
    pub(super) location: String,
    pub(super) last_sequence_number: i64,
    pub(super) last_updated_ms: i64,
    last_column_id: i32,
    current_schema_id: i32,
    schemas: Vec<Json>,
    pub(super) default_spec_id: i64,
    partition_specs: Vec<Json>,
    last_partition_id: i32,
    pub(super) default_sort_order_id: i32,
    sort_orders: Vec<Json>,
    #[serde(default)]
    pub(super) properties: BTreeMap<String, String>,
    /// Absent or negative in a table without snapshots.
    #[serde(default)]
    current_snapshot_id: Option<i64>,
    #[serde(default)]
    pub(super) snapshots: Vec<SnapshotRecord>,
    #[serde(default)]
    snapshot_log: Vec<SnapshotLogEntry>,
    #[serde(default, rename = "metadata-log")]
    earlier_files: Vec<EarlierFile>,
    #[serde(default)]
    pub(super) refs: BTreeMap<String, Json>,
}

/// <https://iceberg.apache.org/spec/#snapshots>
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct SnapshotRecord {
    pub(super) snapshot_id: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent_snapshot_id: Option<i64>,
    pub(super) sequence_number: i64,
    pub(super) timestamp_ms: i64,
    #[serde(default)]
    pub(super) summary: BTreeMap<String, String>,
    pub(super) manifest_list: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) schema_id: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SnapshotLogEntry {
    timestamp_ms: i64,
    snapshot_id: i64,
}

/// An earlier metadata file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct EarlierFile {
    /// When it was written.
    timestamp_ms: i64,
    metadata_file: String,
}

/// Which metadata a new version follows.
#[derive(Clone, Copy)]
pub(super) struct Base<'a> {
    pub(super) metadata: &'a Metadata,
    /// The URI of its file.
    pub(super) file: &'a str,
}

impl Metadata {
    /// The metadata of a table without snapshots.
    pub(super) fn new(location: &str, unit: PeriodUnit) -> Self {
        Self {
            format_version: 2,
            table_uuid: new_uuid(),
            location: location.to_owned(),
            last_sequence_number: 0,
            last_updated_ms: 0,
            last_column_id: schema::last_column_id(),
            current_schema_id: 0,
            schemas: vec![schema::schema(0)],
            default_spec_id: 0,
            partition_specs: vec![schema::spec(0, schema::FIRST_PARTITION_FIELD_ID, unit)],
            last_partition_id: schema::FIRST_PARTITION_FIELD_ID,
            default_sort_order_id: 0,
            sort_orders: vec![unsorted()],
            properties: properties(),
            current_snapshot_id: None,
            snapshots: Vec::new(),
            snapshot_log: Vec::new(),
            earlier_files: Vec::new(),
            refs: BTreeMap::new(),
        }
    }

    /// Parses and checks metadata.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Version {
            format_version: u64,
        }
        let malformed = |error: serde_json::Error| {
            let excerpt = crate::error::sanitized_excerpt(&error.to_string());
            Problem::Damaged(format!("it is not the metadata of a table: {excerpt}"))
        };
        let Version { format_version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if format_version != 2 {
            let feature = format!("version {format_version} of the Iceberg format");
            return Err(Problem::Unsupported(feature));
        }
        let metadata: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        match metadata.contradiction() {
            None => Ok(metadata),
            Some(problem) => Err(Problem::damaged(problem)),
        }
    }

    fn contradiction(&self) -> Option<&'static str> {
        let current = self.current_snapshot_id.filter(|&id| id >= 0);
        if current.is_some() && self.current().is_none() {
            return Some("it does not list its current snapshot");
        }
        let main = self.refs.get(MAIN).map(|main| main["snapshot-id"].as_i64());
        if main.is_some_and(|main| main != current) {
            return Some("its branch main is not its current snapshot");
        }
        let mut snapshots = self.snapshots.iter();
        if snapshots.any(|snapshot| snapshot.sequence_number > self.last_sequence_number) {
            return Some("one of its snapshots is newer than its last sequence number");
        }
        if self.schema().is_none() {
            return Some("it does not list its current schema");
        }
        if self.spec().is_none() {
            return Some("it does not list its default partition specification");
        }
        None
    }

    /// The current snapshot.
    pub(super) fn current(&self) -> Option<&SnapshotRecord> {
        let current = self.current_snapshot_id?;
        let mut snapshots = self.snapshots.iter();
        snapshots.find(|snapshot| snapshot.snapshot_id == current)
    }

    /// The current schema.
    pub(super) fn schema(&self) -> Option<&Json> {
        let mut schemas = self.schemas.iter();
        schemas.find(|schema| schema["schema-id"].as_i64() == Some(self.current_schema_id.into()))
    }

    /// The default partition specification.
    pub(super) fn spec(&self) -> Option<&Json> {
        self.spec_of(self.default_spec_id)
    }

    /// The partition specification with this id.
    pub(super) fn spec_of(&self, id: i64) -> Option<&Json> {
        let mut specs = self.partition_specs.iter();
        specs.find(|spec| spec["spec-id"].as_i64() == Some(id))
    }

    /// The partition specifications up to the default one, by their ids.
    pub(super) fn specs_up_to_default(&self) -> Vec<&Json> {
        let id = |spec: &&Json| spec["spec-id"].as_i64();
        let mut specs: Vec<&Json> = self.partition_specs.iter().collect();
        specs.retain(|spec| id(spec) <= Some(self.default_spec_id));
        specs.sort_by_key(id);
        specs
    }

    /// Whether it has a partition specification of a lake with periods of this length.
    pub(super) fn has_spec_of(&self, unit: PeriodUnit) -> bool {
        let mut specs = self.partition_specs.iter();
        specs.any(|spec| schema::is_spec(spec, unit))
    }

    /// The periods of the lake of which the partition specification with this id is.
    pub(super) fn unit_of(&self, id: i64) -> Option<PeriodUnit> {
        let spec = self.spec_of(id)?;
        let mut units = PeriodUnit::ALL.into_iter().map(|(_, unit)| unit);
        units.find(|unit| schema::is_spec(spec, *unit))
    }

    /// Whether the partition specification with this id is the lake's.
    pub(super) fn has_lake_spec(&self, id: i64, unit: PeriodUnit) -> bool {
        self.unit_of(id) == Some(unit)
    }

    /// Whether a property has this value. Catalogs format JSON in their own way.
    pub(super) fn has_property(&self, name: &str, value: &str) -> bool {
        self.properties.get(name).is_some_and(|found| {
            let parsed = |text: &str| serde_json::from_str::<Json>(text).ok();
            found == value || parsed(value).is_some_and(|value| parsed(found) == Some(value))
        })
    }

    /// The id of a schema with the columns of the lake.
    pub(super) fn lake_schema(&self) -> Option<i64> {
        let mut schemas = self.schemas.iter().filter(|found| schema::is_schema(found));
        schemas.find_map(|found| found["schema-id"].as_i64())
    }

    /// In what it differs from what cdrlake writes.
    pub(super) fn deviations(&self, location: &str, unit: PeriodUnit) -> Vec<String> {
        let mut found = Vec::new();
        if self.location != location {
            found.push(format!(
                "its location is {}, but it lies at {location}: readers find no files until the \
                 next commit, which writes it again without its history",
                self.location
            ));
        }
        if !self.schema().is_some_and(schema::is_schema) {
            found.push("its columns differ from those of the lake".to_owned());
        }
        if !self.has_lake_spec(self.default_spec_id, unit) {
            let name = schema::partition_name(unit);
            found.push(format!("it is not partitioned by {name}"));
        }
        if self.default_sort_order_id != 0 {
            found.push("it has a sort order".to_owned());
        }
        for (name, value) in &*schema::PROPERTIES {
            if !self.has_property(name, value) {
                found.push(format!("its property {name} was changed"));
            }
        }
        for name in self.refs.keys().filter(|name| *name != MAIN) {
            found.push(format!("it has another branch or tag, {name:?}"));
        }
        found
    }

    /// Restores what [`deviations`](Self::deviations) finds. After a move of the lake the history
    /// begins anew, because snapshots contain the URIs of their files.
    pub(super) fn restore(&mut self, location: &str, unit: PeriodUnit) {
        if self.location != location {
            location.clone_into(&mut self.location);
            self.snapshots.clear();
            self.snapshot_log.clear();
            self.earlier_files.clear();
            self.current_snapshot_id = None;
        }
        let next_id = |items: &[Json], key: &str| {
            let ids = items.iter().filter_map(|item| item[key].as_i64());
            ids.max().map_or(0, |last| last + 1)
        };
        let found = |items: &[Json], key: &str, is_ours: &dyn Fn(&Json) -> bool| {
            let mut ours = items.iter().filter(|item| is_ours(item));
            ours.find_map(|item| item[key].as_i64())
        };
        if !self.schema().is_some_and(schema::is_schema) {
            let known = found(&self.schemas, "schema-id", &schema::is_schema);
            let id = known.unwrap_or_else(|| next_id(&self.schemas, "schema-id"));
            self.current_schema_id = i32::try_from(id).unwrap_or_default();
            if known.is_none() {
                self.schemas.push(schema::schema(self.current_schema_id));
            }
        }
        self.last_column_id = self.last_column_id.max(schema::last_column_id());
        if !self.has_lake_spec(self.default_spec_id, unit) {
            let is_ours = |spec: &Json| schema::is_spec(spec, unit);
            let known = found(&self.partition_specs, "spec-id", &is_ours);
            let id = known.unwrap_or_else(|| next_id(&self.partition_specs, "spec-id"));
            self.default_spec_id = id;
            if known.is_none() {
                let id = i32::try_from(id).unwrap_or_default();
                // Fields of different transforms must have different ids.
                let first = schema::FIRST_PARTITION_FIELD_ID;
                self.last_partition_id = (self.last_partition_id + 1).max(first);
                let spec = schema::spec(id, self.last_partition_id, unit);
                self.partition_specs.push(spec);
            }
        }
        self.default_sort_order_id = 0;
        let mut orders = self.sort_orders.iter();
        if !orders.any(|order| order["order-id"].as_i64() == Some(0)) {
            self.sort_orders.push(unsorted());
        }
        self.properties.extend(properties());
        self.refs.retain(|name, _| name == MAIN);
    }

    /// The time of the next version. Times rise even if clocks differ.
    pub(super) fn time_after(&self, at: Timestamp) -> i64 {
        at.as_millisecond().max(self.last_updated_ms + 1)
    }

    /// Adds the file of the version that this one follows to the metadata log.
    pub(super) fn follow(&mut self, base: Base<'_>) {
        self.earlier_files.push(EarlierFile {
            timestamp_ms: base.metadata.last_updated_ms,
            metadata_file: base.file.to_owned(),
        });
        let surplus = self.earlier_files.len().saturating_sub(MAX_METADATA_LOG);
        self.earlier_files.drain(..surplus);
    }

    /// Adds a snapshot and makes it the current one.
    pub(super) fn add(&mut self, snapshot: SnapshotRecord) {
        self.last_sequence_number = snapshot.sequence_number;
        self.last_updated_ms = snapshot.timestamp_ms;
        self.current_snapshot_id = Some(snapshot.snapshot_id);
        self.snapshot_log.push(SnapshotLogEntry {
            timestamp_ms: snapshot.timestamp_ms,
            snapshot_id: snapshot.snapshot_id,
        });
        let main = json!({"snapshot-id": snapshot.snapshot_id, "type": "branch"});
        self.refs.insert(MAIN.to_owned(), main);
        self.snapshots.push(snapshot);
    }

    /// Removes snapshots and metadata files that were replaced before `limit`, in milliseconds
    /// since 1970-01-01, and every branch and tag.
    pub(super) fn expire(&mut self, limit: i64) {
        self.refs.retain(|name, _| name == MAIN);
        let current = self.current_snapshot_id;
        self.snapshots
            .sort_by_key(|snapshot| snapshot.sequence_number);
        let times = self.snapshots.iter().map(|snapshot| snapshot.timestamp_ms);
        let mut replaced: Vec<Option<i64>> = times.skip(1).map(Some).collect();
        replaced.push(None);
        let mut replaced = replaced.into_iter();
        self.snapshots.retain(|snapshot| {
            // Snapshots of another branch were never replaced, but they are no history of main.
            let replaced_ms = replaced.next().flatten();
            Some(snapshot.snapshot_id) == current || replaced_ms.is_some_and(|at| at >= limit)
        });
        let snapshots = &self.snapshots;
        self.snapshot_log.retain(|entry| {
            let mut kept = snapshots.iter();
            kept.any(|snapshot| snapshot.snapshot_id == entry.snapshot_id)
        });
        let first = self
            .metadata_replaced_ms()
            .position(|(_, replaced_ms)| replaced_ms >= limit);
        self.earlier_files
            .drain(..first.unwrap_or(self.earlier_files.len()));
    }

    /// The earlier metadata files that it lists, and when they were replaced.
    fn metadata_replaced_ms(&self) -> impl Iterator<Item = (&str, i64)> {
        let times = self.earlier_files.iter().map(|entry| entry.timestamp_ms);
        let successors = times.skip(1).chain([self.last_updated_ms]);
        let files = self.earlier_files.iter();
        files.map(|entry| &*entry.metadata_file).zip(successors)
    }

    /// The earlier metadata files that it lists.
    pub(super) fn metadata_files(&self) -> impl Iterator<Item = &str> {
        self.earlier_files.iter().map(|entry| &*entry.metadata_file)
    }
}

fn properties() -> BTreeMap<String, String> {
    let properties = schema::PROPERTIES.iter();
    let owned = properties.map(|(name, value)| ((*name).to_owned(), value.clone()));
    owned.collect()
}

/// The sort order of a table without one.
pub(super) fn unsorted() -> Json {
    json!({"order-id": 0, "fields": []})
}
