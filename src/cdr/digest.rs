//! A digest of a slice's rows that does not depend on their order.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use xxhash_rust::xxh3::xxh3_128;

use super::amount::Amount;
use super::columns::{Kind, RowSink};
use super::decode::Record;
use super::slice::{Direction, Slice};

/// Digest of a set of rows, version 1: their count, and the wrapping 128-bit sum of their hashes.
///
/// A row's hash is xxh3-128 over its columns in schema order. A null is the byte 0; a value is the
/// byte 1 followed by the value: text as its length in bytes (unsigned, 64 bits) and its UTF-8,
/// everything else as the integer Parquet stores (signed, 32 or 64 bits), all little-endian.
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
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1:{}:{:032x}", self.rows, self.sum)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (rows, sum) = text.strip_prefix("v1:")?.split_once(':')?;
            Some(Self {
                rows: rows.parse().ok()?,
                sum: u128::from_str_radix(sum, 16).ok()?,
            })
        };
        parse().ok_or_else(|| format!("`{text}` is not a digest of version 1"))
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

/// Hashes the rows of one slice. Reuses one buffer, as large as the largest row.
#[derive(Debug)]
pub struct RowHasher {
    direction: Direction,
    day_number: i32,
    row: Vec<u8>,
}

impl RowHasher {
    /// A hasher for the rows of `slice`.
    pub fn new(slice: Slice) -> Self {
        Self {
            direction: slice.direction,
            day_number: day_number(slice.day),
            row: Vec::new(),
        }
    }

    /// The hash of the row of `record`.
    pub fn hash(&mut self, record: &Record<'_>) -> u128 {
        self.row.clear();
        record.write_to(self);
        xxh3_128(&self.row)
    }

    fn add_text(&mut self, text: &str) {
        let mut prefix = [1; 9];
        prefix[1..].copy_from_slice(&(text.len() as u64).to_le_bytes());
        self.row.extend_from_slice(&prefix);
        self.row.extend_from_slice(text.as_bytes());
    }

    fn fixed<const N: usize>(&mut self, value: Option<[u8; N]>) {
        match value {
            None => self.row.push(0),
            Some(bytes) => {
                self.row.push(1);
                self.row.extend_from_slice(&bytes);
            }
        }
    }
}

impl RowSink for RowHasher {
    fn text(&mut self, _: Kind, text: Option<&str>) {
        match text {
            None => self.row.push(0),
            Some(text) => self.add_text(text),
        }
    }

    fn time(&mut self, time_us: i64) {
        self.fixed(Some(time_us.to_le_bytes()));
    }

    fn seconds(&mut self, seconds: Option<i32>) {
        self.fixed(seconds.map(i32::to_le_bytes));
    }

    fn amount(&mut self, amount: Option<Amount>) {
        self.fixed(amount.map(|amount| amount.nanos().to_le_bytes()));
    }

    fn direction(&mut self) {
        self.add_text(self.direction.as_str());
    }

    fn day(&mut self) {
        self.fixed(Some(self.day_number.to_le_bytes()));
    }
}

/// Days since 1970-01-01, as `DATE` columns store them.
pub(crate) fn day_number(day: Date) -> i32 {
    const EPOCH: Date = Date::constant(1970, 1, 1);
    EPOCH
        .until(day)
        .map(|span| span.get_days())
        .expect("days between two dates fit")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdr::slice::parse_day;

    fn slice() -> Slice {
        Slice {
            day: parse_day("2026-10-01").unwrap(),
            direction: Direction::Placed,
        }
    }

    #[test]
    fn day_numbers_count_from_1970() {
        assert_eq!(day_number(parse_day("1970-01-01").unwrap()), 0);
        assert_eq!(day_number(parse_day("1969-12-31").unwrap()), -1);
        assert_eq!(day_number(parse_day("2026-10-01").unwrap()), 20_727);
    }

    #[test]
    fn the_digest_depends_on_every_column_but_not_on_the_order_of_rows() {
        let mut hasher = RowHasher::new(slice());
        let one = Record {
            call_id: Some("a".into()),
            ..Record::default()
        };
        let other = Record {
            parent_call_id: Some("a".into()),
            ..Record::default()
        };
        let (one, other) = (hasher.hash(&one), hasher.hash(&other));
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
    fn the_digest_of_version_1_never_changes() {
        // Verified with another implementation of xxh3.
        let record = crate::cdr::decode::decode(
            br#"{"date":"2023-08-21T06:43:36.000Z","from":"1","to":2,"duration":6,
                    "charge":"0.5","x":1}"#,
        )
        .unwrap();
        let mut digest = Digest::default();
        digest.add(RowHasher::new(slice()).hash(&record));
        assert_eq!(digest.to_string(), "v1:1:31dbf6d5034094566b197df6c73e4f44");
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }
}
