//! Finds duplicate rows of one slice in constant memory.
//!
//! - Same `call_id`, same content: a duplicate. Only the first row is kept.
//! - Same `call_id`, different content: a conflict. Every row is kept, because legs may share an id
//!   and no billed call may be lost.
//! - Rows without an id are never duplicates.

use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::sort::{ExternalSorter, Sorted};

/// Hash of the id, hash of the row, row number, all big-endian: sorting by bytes groups equal ids,
/// then equal rows, then orders by row number.
const KEY_BYTES: usize = 8 + 16 + 8;

/// Compares rows with repeated ids. Memory: see `ExternalSorter`.
#[derive(Debug)]
pub struct DuplicateFinder {
    directory: PathBuf,
    keys: ExternalSorter<KEY_BYTES>,
}

impl DuplicateFinder {
    /// A finder that spills into `directory`.
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            keys: ExternalSorter::new(directory),
        }
    }

    /// Adds row number `row`. `row_hash` is the hash of its whole content.
    ///
    /// # Errors
    /// The temporary file cannot be written.
    pub fn add(&mut self, call_id: Option<&str>, row_hash: u128, row: u64) -> io::Result<()> {
        let Some(call_id) = call_id.filter(|id| !id.is_empty()) else {
            return Ok(());
        };
        let mut key = [0; KEY_BYTES];
        key[..8].copy_from_slice(&xxh3_64(call_id.as_bytes()).to_be_bytes());
        key[8..24].copy_from_slice(&row_hash.to_be_bytes());
        key[24..].copy_from_slice(&row.to_be_bytes());
        self.keys.push(key)
    }

    /// Compares all added rows.
    ///
    /// # Errors
    /// The temporary file cannot be written or read.
    pub fn finish(self) -> io::Result<FoundDuplicates> {
        let mut surplus = ExternalSorter::<8>::new(&self.directory);
        let (mut duplicates, mut conflicts) = (0, 0);
        let mut previous: Option<[u8; KEY_BYTES]> = None;
        for key in self.keys.finish()? {
            let key = key?;
            if let Some(previous) = previous {
                if previous[..24] == key[..24] {
                    duplicates += 1;
                    surplus.push(*key.last_chunk().expect("a key ends with its row number"))?;
                } else if previous[..8] == key[..8] {
                    conflicts += 1;
                }
            }
            previous = Some(key);
        }
        Ok(FoundDuplicates {
            duplicates,
            conflicts,
            surplus: SurplusRows {
                rows: surplus.finish()?,
            },
        })
    }
}

/// The result of [`DuplicateFinder`].
#[derive(Debug)]
pub struct FoundDuplicates {
    /// Rows that equal an earlier row of the slice in every column.
    pub duplicates: u64,
    /// Rows that share their `call_id` with an earlier row of different content.
    pub conflicts: u64,
    /// The numbers of the duplicate rows.
    pub surplus: SurplusRows,
}

/// Numbers of the rows to drop, ascending.
#[derive(Debug)]
pub struct SurplusRows {
    rows: Sorted<8>,
}

impl Iterator for SurplusRows {
    type Item = io::Result<u64>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rows.next().map(|row| row.map(u64::from_be_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_rows_and_all_conflicts_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut finder = DuplicateFinder::new(directory.path());
        let rows = [
            (Some("a"), 1),
            (Some("b"), 2),
            (Some("a"), 1),
            (None, 9),
            (None, 9),
            (Some(""), 8),
            (Some(""), 8),
            (Some("b"), 3),
            (Some("a"), 1),
        ];
        for (row, (call_id, hash)) in rows.into_iter().enumerate() {
            finder.add(call_id, hash, row as u64).unwrap();
        }
        let found = finder.finish().unwrap();
        assert_eq!((found.duplicates, found.conflicts), (2, 1));
        assert_eq!(
            found.surplus.map(Result::unwrap).collect::<Vec<_>>(),
            [2, 8]
        );
    }
}
