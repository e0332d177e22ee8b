//! The table's metadata, as cdrlake writes it, and how another program's differs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::CHECKPOINT_INTERVAL;
use super::actions::{Format, MetaData, Protocol};
use crate::cdr::amount::AMOUNT_SCALE;
use crate::cdr::columns::{AMOUNT_PRECISION, COLUMNS, Column, Kind};
use crate::cdr::period::PeriodUnit;

/// The partition column.
pub(super) const PARTITION: &str = "dt";

/// The versions that cdrlake requires of programs: those that all of them support.
///
/// See <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#protocol-evolution>.
pub(super) const PROTOCOL: Protocol = Protocol {
    min_reader_version: 1,
    min_writer_version: 2,
    reader_features: None,
    writer_features: None,
};

/// The feature that `protocol` and `metadata` require and cdrlake does not support.
pub(super) fn unsupported(protocol: &Protocol, metadata: &MetaData) -> Option<String> {
    let Protocol {
        min_reader_version: reader,
        min_writer_version: writer,
        reader_features,
        writer_features,
    } = protocol;
    let features = reader_features.iter().chain(writer_features).flatten();
    let features: Vec<&str> = features.map(String::as_str).collect();
    if *reader > PROTOCOL.min_reader_version || *writer > PROTOCOL.min_writer_version {
        return Some(format!(
            "version {reader} of the protocol for readers and version {writer} for writers"
        ));
    }
    if !features.is_empty() {
        return Some(format!("the table features {}", features.join(", ")));
    }
    let mapping = metadata.configuration.get("delta.columnMapping.mode");
    let mapping = mapping.filter(|mode| *mode != "none")?;
    Some(format!("column mapping by {mapping}"))
}

/// The metadata of a new table, or of `old` once its deviations are removed. The ID, the creation
/// time and properties of other programs are kept.
pub(super) fn metadata(
    unit: PeriodUnit,
    old: Option<&MetaData>,
    new_id: impl FnOnce() -> String,
    now_ms: i64,
) -> MetaData {
    let mut kept = old.map(|old| old.configuration.clone());
    if let Some(kept) = &mut kept {
        kept.retain(|key, _| !key.starts_with("delta."));
    }
    let mut configuration = kept.unwrap_or_default();
    configuration.extend(own_configuration());
    MetaData {
        id: old.map_or_else(new_id, |old| old.id.clone()),
        name: Some("cdrs".to_owned()),
        description: Some("Call detail records, one row per call".to_owned()),
        format: Format {
            provider: "parquet".to_owned(),
            options: BTreeMap::new(),
        },
        schema_string: schema(unit).to_string(),
        partition_columns: vec![PARTITION.to_owned()],
        configuration,
        created_time: old.map_or(Some(now_ms), |old| old.created_time),
    }
}

/// See <https://docs.delta.io/latest/table-properties.html>.
fn own_configuration() -> BTreeMap<String, String> {
    let public = COLUMNS.iter().filter(|column| column.has_public_bounds());
    let public: Vec<&str> = public.map(|column| column.name).collect();
    let property = |key: &str, value: String| (format!("delta.{key}"), value);
    [
        property("checkpointInterval", CHECKPOINT_INTERVAL.to_string()),
        // Another program must not write bounds of phone numbers.
        property("dataSkippingStatsColumns", public.join(",")),
    ]
    .into()
}

/// See <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#schema-serialization-format>.
fn schema(unit: PeriodUnit) -> Value {
    let columns = COLUMNS.iter().map(|column| {
        json!({
            "name": column.name,
            "type": type_of(column),
            "nullable": column.nullable,
            "metadata": {"comment": column.comment},
        })
    });
    let partition = json!({
        "name": PARTITION,
        "type": "date",
        "nullable": false,
        "metadata": {"comment": unit.partition_comment()},
    });
    let fields: Vec<Value> = columns.chain([partition]).collect();
    json!({"type": "struct", "fields": fields})
}

fn type_of(column: &Column) -> String {
    match column.kind {
        Kind::Id | Kind::PhoneNumber | Kind::Name | Kind::Direction | Kind::Json => "string".into(),
        Kind::Day => "date".into(),
        Kind::Time => "timestamp".into(),
        Kind::Seconds => "integer".into(),
        Kind::Amount => format!("decimal({AMOUNT_PRECISION},{AMOUNT_SCALE})"),
    }
}

/// In what the log's protocol and metadata differ from what cdrlake writes.
pub(super) fn deviations(
    protocol: &Protocol,
    metadata: &MetaData,
    unit: PeriodUnit,
) -> Vec<String> {
    let mut found = Vec::new();
    if *protocol != PROTOCOL {
        found.push(format!(
            "Its protocol versions are {} and {}, not {} and {}.",
            protocol.min_reader_version,
            protocol.min_writer_version,
            PROTOCOL.min_reader_version,
            PROTOCOL.min_writer_version
        ));
    }
    let columns = column_deviations(&metadata.schema_string, unit);
    found.extend(columns);
    if metadata.partition_columns != [PARTITION] {
        found.push(format!("It is not partitioned by {PARTITION} alone."));
    }
    let own = own_configuration();
    for (key, value) in &own {
        if metadata.configuration.get(key) != Some(value) {
            found.push(format!("Its property {key} is not {value}."));
        }
    }
    let keys = metadata.configuration.keys();
    for key in keys.filter(|key| key.starts_with("delta.") && !own.contains_key(*key)) {
        found.push(format!("It has the property {key}."));
    }
    found
}

fn column_deviations(schema_string: &str, unit: PeriodUnit) -> Vec<String> {
    let (found, own) = (
        serde_json::from_str(schema_string).unwrap_or_default(),
        schema(unit),
    );
    if found == own {
        return Vec::new();
    }
    let (found, own) = (fields(&found), fields(&own));
    let mut deviations = Vec::new();
    for (name, field) in &own {
        match found.iter().find(|(found, _)| found == name) {
            None => deviations.push(format!("It has no column {name}.")),
            Some((_, other)) if other != field => {
                deviations.push(format!("Its column {name} has another type or comment."));
            }
            Some(_) => {}
        }
    }
    for (name, _) in &found {
        if !own.iter().any(|(own, _)| own == name) {
            deviations.push(format!("It has a column {name} too many."));
        }
    }
    if deviations.is_empty() {
        deviations.push("Its columns have another order.".to_owned());
    }
    deviations
}

/// The names and descriptions of a schema's columns.
fn fields(schema: &Value) -> Vec<(&str, &Value)> {
    let fields = schema["fields"].as_array().into_iter().flatten();
    fields
        .map(|field| (field["name"].as_str().unwrap_or_default(), field))
        .collect()
}
