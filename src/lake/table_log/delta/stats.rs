//! Statistics of a file, by which readers skip files.
//!
//! See <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#per-file-statistics>.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::cdr::amount::Amount;
use crate::cdr::columns::{COLUMNS, Column, Kind};
use crate::lake::table_log::DataFile;
use crate::slice_file::statistics::Bound;

type Values = BTreeMap<&'static str, Box<RawValue>>;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    num_records: u64,
    // `deltalake` gives pyarrow the bounds "null" for a file whose objects are empty, which exclude
    // the file from every filter.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    min_values: Values,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    max_values: Values,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    null_count: BTreeMap<&'static str, u64>,
}

/// The statistics of a file, as JSON.
pub(super) fn encode(file: &DataFile) -> String {
    let mut stats = Written {
        num_records: file.rows,
        min_values: Values::new(),
        max_values: Values::new(),
        null_count: BTreeMap::new(),
    };
    for column in COLUMNS.iter().filter(|column| column.has_public_bounds()) {
        let Some(found) = file.statistics.0.get(column.name) else {
            continue;
        };
        stats.null_count.insert(column.name, found.nulls);
        let Some((min, max)) = &found.bounds else {
            continue;
        };
        let (min, max) = (
            value(column.kind, min, Round::Down),
            value(column.kind, max, Round::Up),
        );
        if let (Some(min), Some(max)) = (min, max) {
            stats.min_values.insert(column.name, min);
            stats.max_values.insert(column.name, max);
        }
    }
    serde_json::to_string(&stats).expect("statistics always serialise")
}

#[derive(Clone, Copy)]
enum Round {
    Down,
    Up,
}

/// A bound in the notation of its column's type; `None` if it is not one of its type.
fn value(kind: Kind, bound: &Bound, round: Round) -> Option<Box<RawValue>> {
    let text = match (kind, bound) {
        (Kind::Name | Kind::Direction, Bound::Text(text)) => quoted(text),
        (Kind::Day, Bound::Number(days)) => quoted(&day(*days)?.to_string()),
        (Kind::Time, Bound::Number(time_us)) => quoted(&time(*time_us, round)?),
        (Kind::Seconds, Bound::Number(seconds)) => seconds.to_string(),
        // A number that is exact in decimals.
        (Kind::Amount, Bound::Number(nanos)) => Amount::from_nanos(*nanos).to_string(),
        _ => return None,
    };
    Some(RawValue::from_string(text).expect("it is a JSON value"))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("text always serialises")
}

fn day(days: i64) -> Option<Date> {
    let epoch = Timestamp::UNIX_EPOCH
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    let span = jiff::Span::new().try_days(days).ok()?;
    epoch.checked_add(span).ok()
}

/// Delta Lake has milliseconds here, so the minimum is rounded down and the maximum up.
fn time(time_us: i64, round: Round) -> Option<String> {
    let time_ms = match round {
        Round::Down => time_us.div_euclid(1000),
        Round::Up => time_us.checked_add(999)?.div_euclid(1000),
    };
    let time = Timestamp::from_millisecond(time_ms).ok()?;
    Some(format!("{time:.3}"))
}

/// What is read of a file's statistics.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stats {
    pub num_records: Option<u64>,
    #[serde(default)]
    min_values: Option<Map<String, Value>>,
    #[serde(default)]
    max_values: Option<Map<String, Value>>,
}

impl Stats {
    /// Whether another program added bounds that may be phone numbers.
    pub(super) fn has_private_bounds(&self) -> bool {
        let bounds = self.min_values.iter().chain(&self.max_values);
        bounds.flat_map(Map::keys).any(|name| {
            let column = COLUMNS.iter().find(|column| column.name == name);
            !column.is_some_and(Column::has_public_bounds)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::table_log::delta::tests::file;
    use crate::slice_file::statistics::{ColumnStatistics, FileStatistics};

    #[test]
    fn bounds_have_the_notation_of_delta_lake() {
        let column = |nulls, bounds| ColumnStatistics { nulls, bounds };
        let numbers = |min, max| Some((Bound::Number(min), Bound::Number(max)));
        let text = |text: &str| Bound::Text(text.to_owned());
        let columns = [
            ("source_day", column(0, numbers(-1, 20_727))),
            ("call_time", column(0, numbers(-1, 1_790_812_800_000_001))),
            ("duration_seconds", column(3, numbers(-7, 3600))),
            (
                "charge_usd",
                column(1, numbers(-4, 999_999_999_999_999_999)),
            ),
            (
                "per_minute_usd",
                column(0, numbers(4_500_000, 2_000_000_000)),
            ),
            ("forward_fee_usd", column(5, None)),
            ("disposition", column(0, Some((text("a\"b"), text("busy"))))),
        ];
        let columns = columns.map(|(name, column)| (name.to_owned(), column));
        let mut file = file("a");
        file.rows = 5;
        file.statistics = FileStatistics(columns.into());
        let expected = r#"{"numRecords":5,"minValues":{"call_time":"1969-12-31T23:59:59.999Z","#
            .to_owned()
            + r#""charge_usd":-0.000000004,"disposition":"a\"b","duration_seconds":-7,"#
            + r#""per_minute_usd":0.0045,"source_day":"1969-12-31"},"#
            + r#""maxValues":{"call_time":"2026-10-01T00:00:00.001Z","#
            + r#""charge_usd":999999999.999999999,"disposition":"busy","duration_seconds":3600,"#
            + r#""per_minute_usd":2,"source_day":"2026-10-01"},"#
            + r#""nullCount":{"call_time":0,"charge_usd":1,"disposition":0,"duration_seconds":3,"#
            + r#""forward_fee_usd":5,"per_minute_usd":0,"source_day":0}}"#;
        assert_eq!(encode(&file), expected);
        let read: Stats = serde_json::from_str(&expected).unwrap();
        assert_eq!(read.num_records, Some(5));
        assert!(!read.has_private_bounds());
    }

    #[test]
    fn a_file_without_statistics_has_its_rows_only() {
        let mut file = file("a");
        file.rows = 5;
        file.statistics = FileStatistics::default();
        assert_eq!(encode(&file), r#"{"numRecords":5}"#);
    }

    #[test]
    fn columns_without_public_bounds_have_no_statistics() {
        let bounds = Some((Bound::Number(1), Bound::Number(33_187_000_001)));
        let column = ColumnStatistics { nulls: 0, bounds };
        let mut file = file("a");
        for name in ["from_number", "call_id", "extra", "unknown"] {
            file.statistics.0.insert(name.to_owned(), column.clone());
        }
        let stats = encode(&file);
        assert!(!stats.contains("33187000001"), "{stats}");
        let foreign = r#"{"maxValues":{"to_number":"33187000001"}}"#;
        let foreign: Stats = serde_json::from_str(foreign).unwrap();
        assert!(foreign.has_private_bounds());
    }
}
