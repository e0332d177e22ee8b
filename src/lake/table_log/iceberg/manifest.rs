//! Manifests, which list files, and manifest lists, which list the manifests of a snapshot.
//! <https://iceberg.apache.org/spec/#manifests>, <https://iceberg.apache.org/spec/#manifest-lists>

use serde_json::{Value as Json, json};

use super::avro::{Container, Problem, Value, Values, decode};
use super::schema;
use crate::cdr::columns::COLUMNS;
use crate::cdr::day::date_of;
use crate::cdr::period::PeriodUnit;
use crate::lake::table_log::DataFile;
use crate::slice_file::statistics::{Bound, FileStatistics};

/// The number of a manifest's entries with one status, and their rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) files: i64,
    pub(super) rows: i64,
}

impl Count {
    fn add(&mut self, rows: i64) {
        self.files += 1;
        self.rows += rows;
    }
}

/// A manifest, as a manifest list describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Its URI.
    pub(super) path: String,
    pub(super) bytes: i64,
    pub(super) spec_id: i64,
    /// Whether it lists delete files.
    pub(super) has_deletes: bool,
    /// The sequence number of the snapshot that wrote it.
    pub(super) sequence_number: i64,
    /// The smallest sequence number of its live files.
    pub(super) min_sequence_number: i64,
    /// The snapshot that wrote it.
    pub(super) snapshot_id: i64,
    pub(super) added: Count,
    pub(super) existing: Count,
    pub(super) deleted: Count,
    /// The first and the last partition of its files; `None` if they are unknown.
    pub(super) partitions: Option<(i32, i32)>,
}

impl Manifest {
    /// The number of its live files.
    pub(super) fn live(&self) -> i64 {
        self.added.files + self.existing.files
    }
}

/// What the snapshot of a manifest did with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Existing,
    Added,
    Deleted,
}

impl Status {
    fn number(self) -> i64 {
        match self {
            Self::Existing => 0,
            Self::Added => 1,
            Self::Deleted => 2,
        }
    }
}

/// Numbers or bounds of columns, by their ids.
type OfColumns<T> = Vec<(i32, T)>;

/// A file, as a manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ManifestEntry {
    pub(super) status: Status,
    /// The snapshot that added the file, or that deleted it.
    pub(super) snapshot_id: i64,
    /// The sequence numbers of the snapshot that added the file.
    pub(super) sequence_number: i64,
    pub(super) file_sequence_number: i64,
    /// Its URI.
    pub(super) path: String,
    /// Its partition: days or months since 1970-01.
    pub(super) partition: Option<i64>,
    pub(super) rows: i64,
    pub(super) bytes: i64,
    value_counts: OfColumns<i64>,
    null_counts: OfColumns<i64>,
    lower_bounds: OfColumns<Vec<u8>>,
    upper_bounds: OfColumns<Vec<u8>>,
    /// Whether the manifest contains something about the file that cdrlake does not write.
    pub(super) is_altered: bool,
}

impl ManifestEntry {
    /// The entry of a file that the snapshot of a new manifest adds.
    pub(super) fn added(
        file: &DataFile,
        path: String,
        manifest: &Manifest,
        unit: PeriodUnit,
    ) -> Self {
        let mut entry = Self {
            status: Status::Added,
            snapshot_id: manifest.snapshot_id,
            sequence_number: manifest.sequence_number,
            file_sequence_number: manifest.sequence_number,
            path,
            partition: Some(schema::partition_of(file.slice.period.first_day(), unit).into()),
            rows: signed(file.rows),
            bytes: signed(file.bytes),
            value_counts: Vec::new(),
            null_counts: Vec::new(),
            lower_bounds: Vec::new(),
            upper_bounds: Vec::new(),
            is_altered: false,
        };
        entry.set_statistics(&file.statistics);
        entry
    }

    fn set_statistics(&mut self, statistics: &FileStatistics) {
        for column in COLUMNS.iter().filter(|column| column.has_public_bounds()) {
            let Some(found) = statistics.0.get(column.name) else {
                continue;
            };
            let id = column.id();
            self.value_counts.push((id, self.rows));
            self.null_counts.push((id, signed(found.nulls)));
            let Some((lower, upper)) = &found.bounds else {
                continue;
            };
            let bytes = |bound: &Bound| schema::bound_bytes(column.kind, bound);
            if let (Some(lower), Some(upper)) = (bytes(lower), bytes(upper)) {
                self.lower_bounds.push((id, lower));
                self.upper_bounds.push((id, upper));
            }
        }
    }

    /// Puts the entry of a file of a day under the partitions of `to`.
    pub(super) fn repartition(&mut self, from: PeriodUnit, to: PeriodUnit) {
        if from == PeriodUnit::Day {
            let day = self.partition.and_then(|day| i32::try_from(day).ok());
            self.partition = day.map(|day| schema::partition_of(date_of(day), to).into());
        }
    }

    /// Adds bounds that only another program would write.
    #[cfg(test)]
    pub(super) fn set_bounds_for_test(&mut self, column: i32, text: &str) {
        self.lower_bounds.push((column, text.into()));
        self.upper_bounds.push((column, text.into()));
    }

    fn write(&self, out: &mut Values) {
        // The reader of a manifest takes an added file's sequence numbers from the manifest list.
        let is_added = self.status == Status::Added;
        let inherited = |number: i64| (!is_added).then_some(number);
        out.number(self.status.number());
        out.optional(Some(self.snapshot_id), Values::number);
        out.optional(inherited(self.sequence_number), Values::number);
        out.optional(inherited(self.file_sequence_number), Values::number);
        out.number(0);
        out.bytes(self.path.as_bytes());
        out.bytes(b"PARQUET");
        out.optional(self.partition, Values::number);
        out.number(self.rows);
        out.number(self.bytes);
        for counts in [&self.value_counts, &self.null_counts] {
            out.optional(Some(counts), |out, counts| {
                out.items(counts, |out, (id, count)| {
                    out.number(*id);
                    out.number(*count);
                });
            });
        }
        for bounds in [&self.lower_bounds, &self.upper_bounds] {
            out.optional(Some(bounds), |out, bounds| {
                out.items(bounds, |out, (id, bound)| {
                    out.number(*id);
                    out.bytes(bound);
                });
            });
        }
    }

    fn read(record: &Value<'_>, manifest: &Manifest) -> Option<Self> {
        let status = match record.number(0)? {
            0 => Status::Existing,
            1 => Status::Added,
            2 => Status::Deleted,
            _ => return None,
        };
        // <https://iceberg.apache.org/spec/#sequence-number-inheritance>
        let sequence_number = |id| {
            let inherited = (status == Status::Added).then_some(manifest.sequence_number);
            record.number(id).or(inherited)
        };
        let file = record.field(2)?;
        if file.number(134).is_some_and(|content| content != 0) {
            return None;
        }
        let mut is_altered = !file.text(101)?.eq_ignore_ascii_case("parquet");
        is_altered |= file.field(131).is_some();
        let is_public = |id: i32| {
            let mut columns = COLUMNS.iter();
            columns.any(|column| column.id() == id && column.has_public_bounds())
        };
        // Another program may have written bounds that contain phone numbers. They do not get into
        // another manifest.
        let mut bounds = |id, key, value| {
            let mut found = Vec::new();
            for item in file.items(id) {
                let column = item.number(key).and_then(|id| id.try_into().ok())?;
                let bytes = item.bytes(value)?.to_vec();
                if is_public(column) {
                    found.push((column, bytes));
                } else {
                    is_altered = true;
                }
            }
            Some(found)
        };
        let lower_bounds = bounds(125, 126, 127)?;
        let upper_bounds = bounds(128, 129, 130)?;
        let counts = |id, key, value| {
            let items = file.items(id).iter();
            let count = |item: &Value<'_>| {
                let column = item.number(key)?.try_into().ok()?;
                Some((column, item.number(value)?))
            };
            items.map(count).collect::<Option<OfColumns<i64>>>()
        };
        let partition = match file.field(102)? {
            Value::Record(fields) => match fields[..] {
                [(_, Value::Number(partition))] => Some(partition),
                _ => None,
            },
            _ => return None,
        };
        let count = |id| file.number(id).filter(|count| *count >= 0);
        Some(Self {
            status,
            snapshot_id: record.number(1).unwrap_or(manifest.snapshot_id),
            sequence_number: sequence_number(3)?,
            // Absent in manifests of the first version of the format.
            file_sequence_number: sequence_number(4).or_else(|| sequence_number(3))?,
            path: file.text(100)?.to_owned(),
            partition,
            rows: count(103)?,
            bytes: count(104)?,
            value_counts: counts(109, 119, 120)?,
            null_counts: counts(110, 121, 122)?,
            lower_bounds,
            upper_bounds,
            is_altered: is_altered || partition.is_none(),
        })
    }
}

/// A number of files, rows or bytes. Iceberg has signed ones.
pub(super) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn field(id: i32, name: &str, kind: &Json) -> Json {
    json!({"name": name, "type": kind, "field-id": id})
}

fn optional(id: i32, name: &str, kind: &Json) -> Json {
    json!({"name": name, "type": ["null", kind], "default": null, "field-id": id})
}

fn record(name: &str, fields: &[Json]) -> Json {
    json!({"type": "record", "name": name, "fields": fields})
}

/// A map with numbers as keys, which Avro does not have.
fn map(key_id: i32, value_id: i32, value: &str) -> Json {
    let fields = [
        field(key_id, "key", &json!("int")),
        field(value_id, "value", &json!(value)),
    ];
    let items = record(&format!("k{key_id}_v{value_id}"), &fields);
    json!({"type": "array", "logicalType": "map", "items": items})
}

/// The schema of [`ManifestEntry::write`].
fn entry_schema(form: Form<'_>) -> Json {
    let (int, long, string) = (json!("int"), json!("long"), json!("string"));
    let (name, kind) = (
        schema::partition_name(form.unit),
        schema::partition_type(form.unit),
    );
    let id = schema::partition_field_id(form.spec).unwrap_or_default();
    let partition = record("r102", &[optional(id, name, &kind)]);
    let data_file = [
        field(134, "content", &int),
        field(100, "file_path", &string),
        field(101, "file_format", &string),
        field(102, "partition", &partition),
        field(103, "record_count", &long),
        field(104, "file_size_in_bytes", &long),
        optional(109, "value_counts", &map(119, 120, "long")),
        optional(110, "null_value_counts", &map(121, 122, "long")),
        optional(125, "lower_bounds", &map(126, 127, "bytes")),
        optional(128, "upper_bounds", &map(129, 130, "bytes")),
    ];
    let entry = [
        field(0, "status", &int),
        optional(1, "snapshot_id", &long),
        optional(3, "sequence_number", &long),
        optional(4, "file_sequence_number", &long),
        field(2, "data_file", &record("r2", &data_file)),
    ];
    record("manifest_entry", &entry)
}

/// The schema and the partitions under which a snapshot writes its manifest.
#[derive(Clone, Copy)]
pub(super) struct Form<'a> {
    pub(super) schema: &'a Json,
    pub(super) spec: &'a Json,
    pub(super) unit: PeriodUnit,
}

/// A manifest that is written entry by entry.
pub(super) struct ManifestWriter {
    container: Container,
    manifest: Manifest,
}

impl ManifestWriter {
    /// A manifest of a snapshot.
    pub(super) fn new(path: String, form: Form<'_>, snapshot_id: i64, sequence: i64) -> Self {
        let (schema, spec) = (form.schema, form.spec);
        let metadata = [
            ("schema", schema.to_string()),
            ("schema-id", schema["schema-id"].to_string()),
            ("partition-spec", spec["fields"].to_string()),
            ("partition-spec-id", spec["spec-id"].to_string()),
            ("format-version", "2".to_owned()),
            ("content", "data".to_owned()),
        ];
        Self {
            container: Container::new(&entry_schema(form), &metadata),
            manifest: Manifest {
                path,
                bytes: 0,
                spec_id: spec["spec-id"].as_i64().unwrap_or_default(),
                has_deletes: false,
                sequence_number: sequence,
                min_sequence_number: sequence,
                snapshot_id,
                added: Count::default(),
                existing: Count::default(),
                deleted: Count::default(),
                partitions: None,
            },
        }
    }

    /// The manifest's description so far.
    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Appends an entry.
    pub(super) fn append(&mut self, entry: &ManifestEntry) {
        let manifest = &mut self.manifest;
        let count = match entry.status {
            Status::Existing => &mut manifest.existing,
            Status::Added => &mut manifest.added,
            Status::Deleted => &mut manifest.deleted,
        };
        count.add(entry.rows);
        if entry.status != Status::Deleted {
            let smallest = manifest.min_sequence_number.min(entry.sequence_number);
            manifest.min_sequence_number = smallest;
        }
        if let Some(partition) = entry.partition.and_then(|it| i32::try_from(it).ok()) {
            let (first, last) = manifest.partitions.unwrap_or((partition, partition));
            manifest.partitions = Some((first.min(partition), last.max(partition)));
        }
        self.container.append(|out| entry.write(out));
    }

    /// The manifest's description and bytes; `None` if it has no entries.
    pub(super) fn finish(self) -> Option<(Manifest, Vec<u8>)> {
        let Self {
            container,
            mut manifest,
        } = self;
        if manifest.live() + manifest.deleted.files == 0 {
            return None;
        }
        let bytes = container.finish();
        manifest.bytes = signed(bytes.len() as u64);
        Some((manifest, bytes))
    }
}

/// Reads a manifest, one entry after the other.
pub(super) fn read_manifest(
    bytes: &[u8],
    manifest: &Manifest,
    mut take: impl FnMut(ManifestEntry) -> Result<(), Problem>,
) -> Result<(), Problem> {
    if signed(bytes.len() as u64) != manifest.bytes {
        return Err(Problem::damaged("its size differs from the manifest list"));
    }
    let mut counts = [0_i64; 3];
    decode(bytes, |record| {
        let entry = ManifestEntry::read(record, manifest);
        let entry = entry.ok_or_else(|| Problem::damaged("one of its entries is malformed"))?;
        counts[match entry.status {
            Status::Existing => 0,
            Status::Added => 1,
            Status::Deleted => 2,
        }] += 1;
        take(entry)
    })?;
    let expected = [manifest.existing, manifest.added, manifest.deleted];
    if counts == expected.map(|count| count.files) {
        Ok(())
    } else {
        Err(Problem::damaged(
            "its entries differ from the manifest list",
        ))
    }
}

fn list_schema() -> Json {
    let (int, long) = (json!("int"), json!("long"));
    let (boolean, bytes) = (json!("boolean"), json!("bytes"));
    let summary = [
        field(509, "contains_null", &boolean),
        optional(518, "contains_nan", &boolean),
        optional(510, "lower_bound", &bytes),
        optional(511, "upper_bound", &bytes),
    ];
    let summaries = json!({
        "type": "array", "items": record("r508", &summary), "element-id": 508
    });
    let fields = [
        field(500, "manifest_path", &json!("string")),
        field(501, "manifest_length", &long),
        field(502, "partition_spec_id", &int),
        field(517, "content", &int),
        field(515, "sequence_number", &long),
        field(516, "min_sequence_number", &long),
        field(503, "added_snapshot_id", &long),
        field(504, "added_files_count", &int),
        field(505, "existing_files_count", &int),
        field(506, "deleted_files_count", &int),
        field(512, "added_rows_count", &long),
        field(513, "existing_rows_count", &long),
        field(514, "deleted_rows_count", &long),
        optional(507, "partitions", &summaries),
    ];
    record("manifest_file", &fields)
}

/// Encodes the manifest list of a snapshot.
pub(super) fn manifest_list(
    manifests: &[Manifest],
    snapshot_id: i64,
    parent: Option<i64>,
    sequence: i64,
) -> Vec<u8> {
    let mut metadata = vec![
        ("format-version", "2".to_owned()),
        ("snapshot-id", snapshot_id.to_string()),
        ("sequence-number", sequence.to_string()),
    ];
    metadata.extend(parent.map(|parent| ("parent-snapshot-id", parent.to_string())));
    let mut container = Container::new(&list_schema(), &metadata);
    for manifest in manifests {
        container.append(|out| write_manifest(manifest, out));
    }
    container.finish()
}

fn write_manifest(manifest: &Manifest, out: &mut Values) {
    out.bytes(manifest.path.as_bytes());
    out.number(manifest.bytes);
    out.number(manifest.spec_id);
    out.number(i64::from(manifest.has_deletes));
    out.number(manifest.sequence_number);
    out.number(manifest.min_sequence_number);
    out.number(manifest.snapshot_id);
    let counts = [manifest.added, manifest.existing, manifest.deleted];
    for count in counts {
        out.number(count.files);
    }
    for count in counts {
        out.number(count.rows);
    }
    out.optional(manifest.partitions, |out, partitions| {
        out.items(&[partitions], |out, (first, last)| {
            out.boolean(false);
            out.optional(Some(false), Values::boolean);
            for partition in [first, last] {
                out.optional(Some(&partition.to_le_bytes()[..]), Values::bytes);
            }
        });
    });
}

/// Reads a manifest list.
pub(super) fn read_manifest_list(bytes: &[u8]) -> Result<Vec<Manifest>, Problem> {
    let mut manifests = Vec::new();
    decode(bytes, |record| {
        if record.field(519).is_some() {
            return Err(Problem::Unsupported("encryption".to_owned()));
        }
        let manifest = read_list_entry(record);
        manifests
            .push(manifest.ok_or_else(|| Problem::damaged("one of its entries is malformed"))?);
        Ok(())
    })?;
    Ok(manifests)
}

fn read_list_entry(record: &Value<'_>) -> Option<Manifest> {
    let count = |files, rows| {
        let count = Count {
            files: record.number(files)?,
            rows: record.number(rows)?,
        };
        (count.files >= 0 && count.rows >= 0).then_some(count)
    };
    let partitions = match record.items(507) {
        [summary] if summary.field(509) == Some(&Value::Boolean(false)) => {
            let bound = |id| Some(i32::from_le_bytes(summary.bytes(id)?.try_into().ok()?));
            bound(510).zip(bound(511))
        }
        _ => None,
    };
    Some(Manifest {
        path: record.text(500)?.to_owned(),
        bytes: record.number(501)?,
        spec_id: record.number(502)?,
        has_deletes: record.number(517)? != 0,
        sequence_number: record.number(515)?,
        min_sequence_number: record.number(516)?,
        snapshot_id: record.number(503)?,
        added: count(504, 512)?,
        existing: count(505, 513)?,
        deleted: count(506, 514)?,
        partitions,
    })
}
