//! Bounds of a file's columns, for the ledger and the logs of table formats.

use std::collections::BTreeMap;

use parquet::data_type::ByteArray;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};

use crate::cdr::columns::COLUMNS;

/// The summaries of a file's columns, by their names. Contains only columns whose bounds are
/// [public](crate::cdr::columns::Column::has_public_bounds).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileStatistics(pub BTreeMap<String, ColumnStatistics>);

/// The values of one column of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnStatistics {
    /// Rows without a value.
    pub nulls: u64,
    /// The smallest and the largest value; `None` if there is no value, or they are unknown.
    pub bounds: Option<(Bound, Bound)>,
}

/// The smallest or the largest value of a column, in the unit of its file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bound {
    /// Days or microseconds since 1970-01-01, seconds, or billionths of a dollar.
    Number(i64),
    /// A text of letters, which cannot contain a phone number.
    Text(String),
}

impl FileStatistics {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads the statistics of a file's row groups.
    pub(crate) fn of(file: &ParquetMetaData) -> Self {
        let mut columns = BTreeMap::new();
        for (at, column) in COLUMNS.iter().enumerate() {
            if !column.has_public_bounds() {
                continue;
            }
            let chunks = file.row_groups().iter().map(|group| group.column(at));
            let summaries: Option<Vec<_>> = chunks
                .map(|chunk| summary(chunk.statistics()?, chunk.num_values()))
                .collect();
            let merged = summaries.and_then(|all| all.into_iter().reduce(ColumnStatistics::merge));
            if let Some(merged) = merged {
                columns.insert(column.name.to_owned(), merged);
            }
        }
        Self(columns)
    }
}

impl ColumnStatistics {
    fn merge(self, other: Self) -> Self {
        let bounds = match (self.bounds, other.bounds) {
            (Some((min, max)), Some((other_min, other_max))) => {
                Some((min.min(other_min), max.max(other_max)))
            }
            (one, None) | (None, one) => one,
        };
        Self {
            nulls: self.nulls + other.nulls,
            bounds,
        }
    }
}

/// The summary of a row group's column; `None` if its bounds are unknown, or not public.
fn summary(statistics: &Statistics, rows: i64) -> Option<ColumnStatistics> {
    let number = |min: Option<i64>, max: Option<i64>| min.zip(max).map(numbers);
    let bounds = match statistics {
        Statistics::Int32(it) => {
            let wide = |bound: Option<&i32>| bound.copied().map(i64::from);
            number(wide(it.min_opt()), wide(it.max_opt()))
        }
        Statistics::Int64(it) => number(it.min_opt().copied(), it.max_opt().copied()),
        Statistics::ByteArray(it) => match (it.min_opt(), it.max_opt()) {
            (Some(min), Some(max)) => Some((letters(min)?, letters(max)?)),
            _ => None,
        },
        _ => return None,
    };
    let nulls = statistics.null_count_opt()?;
    let is_known = bounds.is_some() || i64::try_from(nulls) == Ok(rows);
    is_known.then_some(ColumnStatistics { nulls, bounds })
}

fn numbers((min, max): (i64, i64)) -> (Bound, Bound) {
    (Bound::Number(min), Bound::Number(max))
}

/// A short text of letters and blanks; `None` for any other.
fn letters(text: &ByteArray) -> Option<Bound> {
    let text = std::str::from_utf8(text.data()).ok()?;
    let is_public = text.len() <= 32 && text.chars().all(|c| c.is_ascii_alphabetic() || c == ' ');
    is_public.then(|| Bound::Text(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use parquet::basic::Compression;

    use super::*;
    use crate::cdr::amount::Amount;
    use crate::cdr::decode::Record;
    use crate::cdr::slice::{Direction, Slice};
    use crate::slice_file::options::ParquetOptions;
    use crate::slice_file::writer::{SpoolFile, SpoolWriter};

    fn statistics_of(records: &[Record<'_>], row_group_rows: usize) -> FileStatistics {
        let spool = tempfile::tempdir().unwrap();
        let slice = Slice::of_day(jiff::civil::date(2026, 10, 1), Direction::Placed);
        let options = ParquetOptions {
            compression: Compression::UNCOMPRESSED,
            row_group_rows,
            row_group_bytes: usize::MAX,
        };
        let path = spool.path().join("file");
        let mut writer = SpoolWriter::try_new(&path, slice, &options).unwrap();
        for record in records {
            writer.append(record).unwrap();
        }
        let file: SpoolFile = writer.end().unwrap().finish(Vec::new()).unwrap();
        file.statistics
    }

    fn bounds(of: &FileStatistics, column: &str) -> Option<(Bound, Bound)> {
        of.0[column].bounds.clone()
    }

    #[test]
    fn bounds_span_all_row_groups() {
        let record = |day: i64, charge: Option<i64>| Record {
            call_time_us: day * 86_400_000_000,
            from_number: Some("33187000001".into()),
            disposition: Some(if day > 2 { "busy" } else { "answered" }.into()),
            charge_usd: charge.map(Amount::from_nanos),
            ..Record::default()
        };
        let records = [
            record(3, None),
            record(2, Some(7)),
            record(5, None),
            record(1, Some(-4)),
        ];
        for row_group_rows in [1, 2, 3, 100] {
            let found = statistics_of(&records, row_group_rows);
            let text = |text: &str| Bound::Text(text.to_owned());
            let charges = (Bound::Number(-4), Bound::Number(7));
            assert_eq!(bounds(&found, "charge_usd"), Some(charges));
            assert_eq!(found.0["charge_usd"].nulls, 2);
            let dispositions = Some((text("answered"), text("busy")));
            assert_eq!(bounds(&found, "disposition"), dispositions);
            let times = [1, 5].map(|day| Bound::Number(day * 86_400_000_000));
            assert_eq!(bounds(&found, "call_time"), Some(times.into()));
            assert_eq!(bounds(&found, "duration_seconds"), None);
            assert_eq!(found.0["duration_seconds"].nulls, 4);
        }
    }

    #[test]
    fn statistics_never_contain_texts_that_may_be_phone_numbers() {
        let record = |disposition: &'static str| Record {
            call_id: Some("33187000001".into()),
            from_number: Some("33187000001".into()),
            destination: Some("33187000001".into()),
            disposition: Some(disposition.into()),
            ..Record::default()
        };
        let found = statistics_of(&[record("answered"), record("busy 33187000001")], 1);
        assert!(!found.0.contains_key("disposition"));
        let text = serde_json::to_string(&found).unwrap();
        assert!(!text.contains("33187000001"), "{text}");
        let names: Vec<&str> = found.0.keys().map(String::as_str).collect();
        let public = "call_time charge_usd direction duration_seconds forward_fee_usd \
             per_minute_usd source_day";
        assert_eq!(names.join(" "), public);
    }
}
