//! What has to change in a catalog's table.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use crate::cdr::period::PeriodUnit;
use crate::lake::table_log::iceberg::metadata::{self, MAIN, Metadata};
use crate::lake::table_log::iceberg::schema;

/// How long before the last update a snapshot may have been made, in milliseconds. Catalogs allow
/// for clocks that differ by a minute.
const MAX_CLOCK_DIFFERENCE_MS: i64 = 60_000;
/// Snapshots that are added at the same time. Each has some 700 bytes in a request, and catalogs
/// limit those.
const MAX_ADDED_SNAPSHOTS: usize = 100;
/// Names the schema, specification or sort order that was added last.
const LAST_ADDED: i64 = -1;

/// The changes that make a catalog's table equal to the log.
/// <https://iceberg.apache.org/rest-catalog-spec/>
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// What must hold when they are made.
    pub(super) requirements: Json,
    pub(super) updates: Vec<Json>,
    /// The reasons, one sentence each.
    pub(super) problems: Vec<String>,
    /// Whether the catalog would refuse the log's newest snapshot, because it has a later number or
    /// time already.
    pub(super) needs_later_snapshot: bool,
}

impl Changes {
    /// # Errors
    /// Why the catalog's table cannot be made equal.
    pub(super) fn between(
        catalog: &Metadata,
        log: &Metadata,
        location: &str,
        unit: PeriodUnit,
    ) -> Result<Self, String> {
        if catalog.table_uuid != log.table_uuid {
            return Err("the catalog has another table under this name".to_owned());
        }
        // Manifests name the specification by its id.
        let numbers_differ = match catalog.spec_of(log.default_spec_id) {
            Some(spec) => {
                let field_id = log.spec().and_then(schema::partition_field_id);
                !schema::is_spec(spec, unit) || schema::partition_field_id(spec) != field_id
            }
            None => catalog.has_spec_of(unit),
        };
        if numbers_differ {
            return Err("it numbers its partition specifications differently".to_owned());
        }
        let main = catalog.current().map(|snapshot| snapshot.snapshot_id);
        let mut changes = Self {
            requirements: json!([
                {"type": "assert-table-uuid", "uuid": catalog.table_uuid},
                {"type": "assert-ref-snapshot-id", "ref": MAIN, "snapshot-id": main},
            ]),
            problems: catalog.deviations(location, unit),
            ..Self::default()
        };
        changes.restore(catalog, log, location, unit);
        changes.advance(catalog, log, main);
        changes.remove_surplus(catalog, log);
        Ok(changes)
    }

    /// The changes that create the log's table in a catalog that has prepared `staged`. Some
    /// catalogs begin with nothing instead, so that every part of the table is among them.
    /// <https://iceberg.apache.org/rest-catalog-spec/>
    pub(super) fn creating(staged: &Metadata, log: &Metadata) -> Self {
        let mut updates = vec![
            json!({"action": "assign-uuid", "uuid": log.table_uuid}),
            json!({"action": "upgrade-format-version", "format-version": log.format_version}),
            add_schema(log),
            json!({"action": "set-current-schema", "schema-id": LAST_ADDED}),
        ];
        // Ids are given in this order, from 0.
        let specs = log.specs_up_to_default().into_iter();
        updates.extend(specs.map(|spec| json!({"action": "add-spec", "spec": spec})));
        updates.extend([
            json!({"action": "set-default-spec", "spec-id": LAST_ADDED}),
            json!({"action": "add-sort-order", "sort-order": metadata::unsorted()}),
            json!({"action": "set-default-sort-order", "sort-order-id": LAST_ADDED}),
            json!({"action": "set-location", "location": log.location}),
            json!({"action": "set-properties", "updates": log.properties}),
        ]);
        let mut changes = Self {
            requirements: json!([{"type": "assert-create"}]),
            updates,
            ..Self::default()
        };
        changes.advance(staged, log, None);
        changes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.updates.is_empty()
    }

    /// Undoes what is neither files nor history.
    fn restore(&mut self, catalog: &Metadata, log: &Metadata, location: &str, unit: PeriodUnit) {
        let updates = &mut self.updates;
        if catalog.location != location {
            updates.push(json!({"action": "set-location", "location": location}));
        }
        if !catalog.schema().is_some_and(schema::is_schema) {
            let id = catalog.lake_schema().unwrap_or_else(|| {
                updates.push(add_schema(log));
                LAST_ADDED
            });
            updates.push(json!({"action": "set-current-schema", "schema-id": id}));
        }
        if !catalog.has_lake_spec(catalog.default_spec_id, unit) {
            let id = log.default_spec_id;
            if catalog.spec_of(id).is_none() {
                updates.push(json!({"action": "add-spec", "spec": log.spec()}));
            }
            updates.push(json!({"action": "set-default-spec", "spec-id": id}));
        }
        if catalog.default_sort_order_id != 0 {
            updates.push(json!({"action": "set-default-sort-order", "sort-order-id": 0}));
        }
        let wanted = schema::PROPERTIES.iter();
        let changed = wanted.filter(|(name, value)| !catalog.has_property(name, value));
        let changed: serde_json::Map<String, Json> = changed
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        if !changed.is_empty() {
            updates.push(json!({"action": "set-properties", "updates": changed}));
        }
    }

    /// Makes the log's snapshot that of the branch main. Adds those before it that the catalog
    /// lacks, because it was away, so that they can be read by their ids.
    fn advance(&mut self, catalog: &Metadata, log: &Metadata, main: Option<i64>) {
        let Some(newest) = log.current() else {
            return;
        };
        if main == Some(newest.snapshot_id) {
            return;
        }
        let mut known = log.snapshots.iter();
        let problem = match main {
            None => "it has no snapshot",
            Some(main) if known.any(|snapshot| snapshot.snapshot_id == main) => {
                "it lacks the newest snapshot of the log"
            }
            Some(_) => {
                "its snapshot is not in the log: it has expired, or another program \
                committed it"
            }
        };
        self.problems.push(problem.to_owned());
        let listed: BTreeSet<i64> = ids(catalog).collect();
        let mut last = (catalog.last_sequence_number, catalog.last_updated_ms);
        let surplus = log.snapshots.len().saturating_sub(MAX_ADDED_SNAPSHOTS);
        let missing = log.snapshots[surplus..].iter();
        for snapshot in missing.filter(|snapshot| !listed.contains(&snapshot.snapshot_id)) {
            let (number, time_ms) = (snapshot.sequence_number, snapshot.timestamp_ms);
            let is_refused = number <= last.0 || time_ms + MAX_CLOCK_DIFFERENCE_MS < last.1;
            self.needs_later_snapshot |= is_refused && snapshot.snapshot_id == newest.snapshot_id;
            if !is_refused {
                last = (number, time_ms);
                let mut snapshot = snapshot.clone();
                snapshot.schema_id = catalog.lake_schema();
                self.updates
                    .push(json!({"action": "add-snapshot", "snapshot": snapshot}));
            }
        }
        self.updates.push(json!({
            "action": "set-snapshot-ref",
            "ref-name": MAIN,
            "type": "branch",
            "snapshot-id": newest.snapshot_id,
        }));
    }

    /// Removes branches, tags, and snapshots that the log does not have.
    fn remove_surplus(&mut self, catalog: &Metadata, log: &Metadata) {
        for name in catalog.refs.keys().filter(|name| *name != MAIN) {
            self.updates
                .push(json!({"action": "remove-snapshot-ref", "ref-name": name}));
        }
        let known: BTreeSet<i64> = ids(log).collect();
        let surplus: Vec<i64> = ids(catalog).filter(|id| !known.contains(id)).collect();
        if !surplus.is_empty() {
            self.problems.push(format!(
                "it has {}, which the log does not have",
                crate::error::counted(surplus.len() as u64, "snapshot", "snapshots")
            ));
            self.updates
                .push(json!({"action": "remove-snapshots", "snapshot-ids": surplus}));
        }
    }
}

fn add_schema(log: &Metadata) -> Json {
    json!({
        "action": "add-schema",
        "schema": log.schema(),
        "last-column-id": schema::last_column_id(),
    })
}

/// The ids of its snapshots.
fn ids(metadata: &Metadata) -> impl Iterator<Item = i64> {
    let snapshots = metadata.snapshots.iter();
    snapshots.map(|snapshot| snapshot.snapshot_id)
}
