//! Columns, partitions and bounds in Iceberg's terms.

use std::sync::LazyLock;

use jiff::civil::Date;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::cdr::amount::AMOUNT_SCALE;
use crate::cdr::columns::{AMOUNT_PRECISION, COLUMNS, Column, Kind};
use crate::cdr::day::day_number;
use crate::cdr::period::PeriodUnit;
use crate::slice_file::statistics::Bound;

/// The column by which the table is partitioned.
const DAY: &str = "source_day";
/// The id of the first partition field of a table.
pub(super) const FIRST_PARTITION_FIELD_ID: i32 = 1000;

/// The properties of the table.
pub(super) static PROPERTIES: LazyLock<Vec<(&str, String)>> = LazyLock::new(|| {
    vec![
        (
            "comment",
            "Call records of Wavix, written by cdrlake".to_owned(),
        ),
        // Maintenance by another program must not delete files that the lake still has.
        ("gc.enabled", "false".to_owned()),
        // Files of earlier versions of cdrlake contain no ids of columns.
        ("schema.name-mapping.default", name_mapping().to_string()),
    ]
});

/// The largest id of a column.
pub(super) fn last_column_id() -> i32 {
    let ids = COLUMNS.iter().map(Column::id);
    ids.max().unwrap_or_default()
}

/// A type. <https://iceberg.apache.org/spec/#appendix-c-json-serialization>
fn type_name(kind: Kind) -> String {
    match kind {
        Kind::Id | Kind::PhoneNumber | Kind::Name | Kind::Direction | Kind::Json => "string".into(),
        Kind::Day => "date".into(),
        Kind::Time => "timestamptz".into(),
        Kind::Seconds => "int".into(),
        Kind::Amount => format!("decimal({AMOUNT_PRECISION}, {AMOUNT_SCALE})"),
    }
}

/// The schema with this id.
pub(super) fn schema(id: i32) -> Json {
    let field = |column: &Column| {
        json!({
            "id": column.id(),
            "name": column.name,
            "required": !column.nullable,
            "type": type_name(column.kind),
            "doc": column.comment,
        })
    };
    let fields: Vec<Json> = COLUMNS.iter().map(field).collect();
    json!({"type": "struct", "schema-id": id, "fields": fields})
}

/// The name of the partition field, as engines name it by default.
pub(super) fn partition_name(unit: PeriodUnit) -> &'static str {
    match unit {
        PeriodUnit::Day => DAY,
        PeriodUnit::Month => "source_day_month",
    }
}

/// The type of the partition field in Avro.
pub(super) fn partition_type(unit: PeriodUnit) -> Json {
    match unit {
        PeriodUnit::Day => json!({"type": "int", "logicalType": "date"}),
        PeriodUnit::Month => json!("int"),
    }
}

/// The partition of a day: days or months since 1970-01.
/// <https://iceberg.apache.org/spec/#partition-transforms>
pub(super) fn partition_of(day: Date, unit: PeriodUnit) -> i32 {
    match unit {
        PeriodUnit::Day => day_number(day),
        PeriodUnit::Month => (i32::from(day.year()) - 1970) * 12 + i32::from(day.month()) - 1,
    }
}

/// The partition specification with this id and this id of its field, of a lake with periods of
/// this length.
pub(super) fn spec(id: i32, field_id: i32, unit: PeriodUnit) -> Json {
    let column = COLUMNS.iter().find(|column| column.name == DAY);
    let source_id = column.expect("the table has this column").id();
    let transform = match unit {
        PeriodUnit::Day => "identity",
        PeriodUnit::Month => "month",
    };
    json!({
        "spec-id": id,
        "fields": [{
            "name": partition_name(unit),
            "transform": transform,
            "source-id": source_id,
            "field-id": field_id,
        }]
    })
}

/// The id of the field of a specification.
pub(super) fn partition_field_id(spec: &Json) -> Option<i32> {
    spec["fields"][0]["field-id"].as_i64()?.try_into().ok()
}

/// <https://iceberg.apache.org/spec/#name-mapping-serialization>
fn name_mapping() -> Json {
    let mapped = COLUMNS
        .iter()
        .map(|column| json!({"field-id": column.id(), "names": [column.name]}));
    mapped.collect()
}

#[derive(PartialEq, Deserialize)]
struct SchemaField {
    id: i32,
    name: String,
    required: bool,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    doc: Option<String>,
}

#[derive(PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SpecField {
    name: String,
    transform: String,
    source_id: i32,
}

/// Whether a schema has the columns of the lake.
pub(super) fn is_schema(found: &Json) -> bool {
    let fields = |schema: &Json| {
        let mut fields = Vec::<SchemaField>::deserialize(&schema["fields"]).ok()?;
        for field in &mut fields {
            field.kind.retain(|c| c != ' ');
        }
        Some(fields)
    };
    fields(found).is_some_and(|found| Some(found) == fields(&schema(0)))
}

/// Whether a partition specification is that of a lake with periods of this length. The id of its
/// field may be any.
pub(super) fn is_spec(found: &Json, unit: PeriodUnit) -> bool {
    let fields = |spec: &Json| Vec::<SpecField>::deserialize(&spec["fields"]).ok();
    fields(found).is_some_and(|found| Some(found) == fields(&spec(0, 0, unit)))
}

/// A bound; `None` if it does not fit the column.
/// <https://iceberg.apache.org/spec/#appendix-d-single-value-serialization>
pub(super) fn bound_bytes(kind: Kind, bound: &Bound) -> Option<Vec<u8>> {
    match (kind, bound) {
        (Kind::Day | Kind::Seconds, Bound::Number(number)) => {
            Some(i32::try_from(*number).ok()?.to_le_bytes().to_vec())
        }
        (Kind::Time, Bound::Number(number)) => Some(number.to_le_bytes().to_vec()),
        (Kind::Amount, Bound::Number(number)) => Some(shortest(*number)),
        (Kind::Name | Kind::Direction, Bound::Text(text)) => Some(text.clone().into_bytes()),
        _ => None,
    }
}

/// The shortest big-endian form in two's complement.
fn shortest(number: i64) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let sign = if number < 0 { 0xff } else { 0 };
    let surplus = bytes
        .windows(2)
        .take_while(|pair| pair[0] == sign && (pair[1] ^ sign) < 0x80)
        .count();
    bytes[surplus..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdr::period::Period;

    #[test]
    fn bounds_have_the_single_value_serialization() {
        let bytes = |kind, number| bound_bytes(kind, &Bound::Number(number)).unwrap();
        assert_eq!(bytes(Kind::Day, 20_727), [0xf7, 0x50, 0, 0]);
        assert_eq!(bytes(Kind::Seconds, -1), [0xff; 4]);
        assert_eq!(
            bytes(Kind::Time, 1_790_812_800_000_000),
            1_790_812_800_000_000_i64.to_le_bytes()
        );
        for (number, expected) in [
            (0, vec![0]),
            (1, vec![1]),
            (127, vec![0x7f]),
            (128, vec![0, 0x80]),
            (255, vec![0, 0xff]),
            (1420, vec![0x05, 0x8c]),
            (-1, vec![0xff]),
            (-128, vec![0x80]),
            (-129, vec![0xff, 0x7f]),
            (i64::MIN, vec![0x80, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert_eq!(bytes(Kind::Amount, number), expected, "{number}");
        }
        let text = Bound::Text("placed".to_owned());
        assert_eq!(bound_bytes(Kind::Direction, &text).unwrap(), b"placed");
        assert_eq!(bound_bytes(Kind::Day, &text), None);
        assert_eq!(bound_bytes(Kind::Id, &text), None);
        assert_eq!(bound_bytes(Kind::Seconds, &Bound::Number(1 << 40)), None);
    }

    #[test]
    fn a_schema_is_compared_by_its_columns() {
        assert!(is_schema(&schema(3)));
        let mut other = schema(0);
        other["fields"][5]["initial-default"] = Json::Null;
        other["fields"][13]["type"] = json!("decimal(18,9)");
        assert!(is_schema(&other));
        other["fields"][5]["name"] = json!("renamed");
        assert!(!is_schema(&other));
        for (unit, another) in [
            (PeriodUnit::Day, PeriodUnit::Month),
            (PeriodUnit::Month, PeriodUnit::Day),
        ] {
            assert!(is_spec(&spec(7, 1000, unit), unit));
            assert!(!is_spec(&spec(7, 1000, unit), another));
            let mut other = spec(0, 1000, unit);
            other["fields"][0]["transform"] = json!("year");
            assert!(!is_spec(&other, unit));
        }
    }

    #[test]
    fn partitions_are_days_or_months_since_1970() {
        for (period, partition) in [
            ("1969-12-31", -1),
            ("1970-01-01", 0),
            ("2026-10-01", 20_727),
            ("1969-12", -1),
            ("1970-01", 0),
            ("2000-01", 360),
            ("2026-10", 681),
        ] {
            let period: Period = period.parse().unwrap();
            let found = partition_of(period.first_day(), period.unit());
            assert_eq!(found, partition, "{period}");
        }
    }
}
