//! What has to change in a catalog's table.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use crate::cdr::period::PeriodUnit;
use crate::lake::table_log::iceberg::metadata::{MAIN, Metadata};
use crate::lake::table_log::iceberg::schema;

/// How long before the last update a snapshot may have been made, in milliseconds. Catalogs allow
/// for clocks that differ by a minute.
const MAX_CLOCK_DIFFERENCE_MS: i64 = 60_000;

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
        let has_other_spec = catalog.spec_of(log.default_spec_id).is_some_and(|spec| {
            let field_id = log.spec().and_then(schema::partition_field_id);
            !schema::is_spec(spec, unit) || schema::partition_field_id(spec) != field_id
        });
        if has_other_spec {
            return Err("its partition specification with the log's id is another one".to_owned());
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
                updates.push(json!({
                    "action": "add-schema",
                    "schema": log.schema(),
                    "last-column-id": schema::last_column_id(),
                }));
                -1
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

    /// Makes the log's snapshot that of the branch main.
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
        let mut listed = catalog.snapshots.iter();
        if !listed.any(|snapshot| snapshot.snapshot_id == newest.snapshot_id) {
            self.needs_later_snapshot = newest.sequence_number <= catalog.last_sequence_number
                || newest.timestamp_ms + MAX_CLOCK_DIFFERENCE_MS < catalog.last_updated_ms;
            let mut snapshot = newest.clone();
            snapshot.schema_id = catalog.lake_schema();
            self.updates
                .push(json!({"action": "add-snapshot", "snapshot": snapshot}));
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
        let known = log.snapshots.iter().map(|snapshot| snapshot.snapshot_id);
        let known: BTreeSet<i64> = known.collect();
        let listed = catalog.snapshots.iter();
        let surplus: Vec<i64> = listed
            .map(|snapshot| snapshot.snapshot_id)
            .filter(|id| !known.contains(id))
            .collect();
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
