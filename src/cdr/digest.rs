//! A digest of a slice's rows that does not depend on their order.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::amount::Amount;
use super::columns::{COLUMNS, Field, Kind, RowSink};
use super::day::day_number;
use super::decode::Record;
use super::slice::Slice;

/// Digest of a set of rows, version 2: their count, and the wrapping 128-bit sum of their hashes.
///
/// A row's hash is xxh3-128 over one 64-bit number for each column, in schema order, little-endian.
/// The number of a text is xxh3-64 of its UTF-8, or 0 for null. The number of any other value is
/// the integer that Parquet stores (signed), or -2⁶³ for null.
///
/// It detects damage, not forgery. It misses a changed text with a probability of 2⁻⁶⁴, and two
/// texts with the same hash can be made on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Number of rows.
    pub rows: u64,
    sum: u128,
}

impl Digest {
    /// Adds a row.
    pub fn add(&mut self, row_hash: u128) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(row_hash);
    }

    /// Adds the rows of another digest.
    pub fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v2:{}:{:032x}", self.rows, self.sum)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (rows, sum) = text.strip_prefix("v2:")?.split_once(':')?;
            Some(Self {
                rows: rows.parse().ok()?,
                sum: u128::from_str_radix(sum, 16).ok()?,
            })
        };
        parse().ok_or_else(|| format!("`{text}` is not a digest of version 2"))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowHash {
    /// Of the whole row.
    pub row: u128,
    /// Of its `call_id`, 0 if null.
    pub call_id: u64,
}

/// The first column.
const CALL_ID: usize = 0;
const _: () = assert!(matches!(COLUMNS[CALL_ID].fields, [Field::CallId, ..]));

/// Hashes the rows of one slice.
#[derive(Debug)]
pub struct RowHasher {
    direction_hash: u64,
    /// The day of rows without one.
    first_day: i32,
}

impl RowHasher {
    /// A hasher for the rows of `slice`.
    pub fn new(slice: Slice) -> Self {
        Self {
            direction_hash: text_hash(slice.direction.as_str()),
            first_day: day_number(slice.period.first_day()),
        }
    }

    /// The hashes of the row of `record`.
    pub fn hash(&self, record: &Record<'_>) -> RowHash {
        let mut row = HashedRow {
            hasher: self,
            numbers: [[0; 8]; COLUMNS.len()],
            column: 0,
        };
        record.write_to(&mut row);
        RowHash {
            row: xxh3_128(row.numbers.as_flattened()),
            call_id: u64::from_le_bytes(row.numbers[CALL_ID]),
        }
    }
}

fn text_hash(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

/// The number of each column.
struct HashedRow<'h> {
    hasher: &'h RowHasher,
    numbers: [[u8; 8]; COLUMNS.len()],
    /// The next column.
    column: usize,
}

impl HashedRow<'_> {
    #[inline]
    fn add(&mut self, number: [u8; 8]) {
        self.numbers[self.column] = number;
        self.column += 1;
    }

    #[inline]
    fn add_integer(&mut self, integer: Option<i64>) {
        self.add(integer.unwrap_or(i64::MIN).to_le_bytes());
    }
}

impl RowSink for HashedRow<'_> {
    #[inline]
    fn text(&mut self, _: Kind, text: Option<&str>) {
        self.add(text.map_or(0, text_hash).to_le_bytes());
    }

    #[inline]
    fn time(&mut self, time_us: i64) {
        self.add_integer(Some(time_us));
    }

    #[inline]
    fn seconds(&mut self, seconds: Option<i32>) {
        self.add_integer(seconds.map(i64::from));
    }

    #[inline]
    fn amount(&mut self, amount: Option<Amount>) {
        self.add_integer(amount.map(Amount::nanos));
    }

    #[inline]
    fn direction(&mut self) {
        self.add(self.hasher.direction_hash.to_le_bytes());
    }

    #[inline]
    fn day(&mut self, day: Option<i32>) {
        let day = day.unwrap_or(self.hasher.first_day);
        self.add_integer(Some(day.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdr::slice::{Direction, parse_day};

    fn slice() -> Slice {
        Slice::of_day(parse_day("2026-10-01").unwrap(), Direction::Placed)
    }

    #[test]
    fn day_numbers_count_from_1970() {
        assert_eq!(day_number(parse_day("1970-01-01").unwrap()), 0);
        assert_eq!(day_number(parse_day("1969-12-31").unwrap()), -1);
        assert_eq!(day_number(parse_day("2026-10-01").unwrap()), 20_727);
    }

    #[test]
    fn the_digest_depends_on_every_column_but_not_on_the_order_of_rows() {
        let hasher = RowHasher::new(slice());
        let one = Record {
            call_id: Some("a".into()),
            ..Record::default()
        };
        let other = Record {
            parent_call_id: Some("a".into()),
            ..Record::default()
        };
        let (one, other) = (hasher.hash(&one).row, hasher.hash(&other).row);
        assert_ne!(one, other);
        let digest = |hashes: &[u128]| {
            let mut digest = Digest::default();
            for &hash in hashes {
                digest.add(hash);
            }
            digest
        };
        assert_eq!(digest(&[one, other]), digest(&[other, one]));
        assert_ne!(digest(&[one, one]), digest(&[one]));
    }

    #[test]
    fn the_digest_of_version_2_never_changes() {
        // Verified with another implementation of xxh3.
        let record = crate::cdr::decode::decode(
            br#"{"date":"2023-08-21T06:43:36.000Z","from":"1","to":2,"duration":6,
                    "charge":"0.5","x":1}"#,
        )
        .unwrap();
        let mut digest = Digest::default();
        digest.add(RowHasher::new(slice()).hash(&record).row);
        assert_eq!(digest.to_string(), "v2:1:cf6d157b166a8e493cc143b857f7228c");
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }
}
