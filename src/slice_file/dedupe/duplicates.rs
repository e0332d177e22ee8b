//! Finds rows of one slice that are there twice, in constant memory.
//!
//! Same `call_id` and same content: a duplicate, and only the first row is kept. Same `call_id`,
//! other content: a conflict, and every row is kept, for legs may share an id and a billed call
//! must not vanish. Rows without an id are never duplicates of each other.

use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::sort::{ExternalSorter, Sorted};

/// Hash of the id, hash of the row, row number: big-endian, so that byte order groups equal ids,
/// within them equal rows, and within those puts the first row first.
const KEY_BYTES: usize = 8 + 16 + 8;

/// Compares the rows of a slice whose ids are there twice. Memory: see `ExternalSorter`.
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

    /// Notes the row numbered `row`, whose whole content has the hash `row_hash`.
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

    /// Compares all rows noted.
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

/// What [`DuplicateFinder`] found.
#[derive(Debug)]
pub struct FoundDuplicates {
    /// Rows that an earlier row of the slice equals in every column.
    pub duplicates: u64,
    /// Rows whose `call_id` another row has with other content, beyond the first of each id.
    pub conflicts: u64,
    /// The duplicate rows themselves.
    pub surplus: SurplusRows,
}

/// Numbers of the rows to be left out, ascending.
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
    fn the_first_of_equal_rows_stays_and_conflicts_all_stay() {
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
