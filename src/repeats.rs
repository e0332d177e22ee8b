//! Finds out whether any id of a slice is there twice, at a few nanoseconds a row.
//!
//! Nearly always none is, and then there is nothing to compare: the [search for duplicates](crate::duplicates), which
//! sorts every row, is only made where this one finds a repeat, and only for the rows concerned.
//!
//! Each id is a hash of 64 bits, which goes to one of 256 partitions by its first byte; full blocks of a partition
//! go to one temporary file. At the end each partition is looked through by itself. Memory: 1 MiB, and at the end
//! a table for one partition: 16 bytes for every 256th row, 8 MB at a hundred million.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

const PARTITIONS: usize = 256;
/// Hashes of a block: 4 KiB.
const BLOCK_HASHES: usize = 512;
const BLOCK_BYTES: usize = BLOCK_HASHES * size_of::<u64>();
/// Most hashes that are told apart: of more repeats every row is compared.
const MAX_REPEATS: usize = 1 << 16;

/// The hash of an id.
fn hash_of(id: &str) -> u64 {
    xxh3_64(id.as_bytes())
}

/// Notes ids as rows are written.
#[derive(Debug)]
pub struct RepeatFinder {
    directory: PathBuf,
    partitions: Vec<Partition>,
    spilled: Option<File>,
    /// Blocks in the file.
    blocks: u32,
}

#[derive(Debug, Default)]
struct Partition {
    hashes: Vec<u64>,
    /// Numbers of its blocks in the file.
    blocks: Vec<u32>,
}

/// Which ids are there twice, or may be: where two ids have one hash, nothing is wrong but some work is wasted.
#[derive(Debug)]
pub enum Repeats {
    /// None.
    None,
    /// Those with these hashes.
    Some(HashSet<u64>),
    /// So many that they are not told apart.
    Many,
}

impl Repeats {
    /// Whether the id may be there twice.
    pub fn may_hold(&self, id: &str) -> bool {
        match self {
            Self::None => false,
            Self::Some(hashes) => hashes.contains(&hash_of(id)),
            Self::Many => true,
        }
    }
}

impl RepeatFinder {
    /// A finder that spills into `directory`.
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            partitions: std::iter::repeat_with(Partition::default)
                .take(PARTITIONS)
                .collect(),
            spilled: None,
            blocks: 0,
        }
    }

    /// Notes an id.
    ///
    /// # Errors
    /// The temporary file cannot be written.
    pub fn add(&mut self, id: &str) -> io::Result<()> {
        let hash = hash_of(id);
        let partition = &mut self.partitions[(hash >> 56) as usize];
        partition.hashes.push(hash);
        if partition.hashes.len() < BLOCK_HASHES {
            return Ok(());
        }
        let file = match &self.spilled {
            Some(file) => file,
            None => self.spilled.insert(tempfile::tempfile_in(&self.directory)?),
        };
        let mut block = [0; BLOCK_BYTES];
        for (bytes, hash) in block
            .as_chunks_mut::<8>()
            .0
            .iter_mut()
            .zip(&partition.hashes)
        {
            *bytes = hash.to_le_bytes();
        }
        file.write_all_at(&block, offset_of(self.blocks))?;
        partition.blocks.push(self.blocks);
        partition.hashes.clear();
        self.blocks += 1;
        Ok(())
    }

    /// Looks for ids that were noted twice.
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub fn finish(self) -> io::Result<Repeats> {
        let mut repeats = HashSet::new();
        let mut table = Vec::new();
        let mut block = vec![0; BLOCK_BYTES];
        for mut partition in self.partitions {
            let rows = partition.hashes.len() + partition.blocks.len() * BLOCK_HASHES;
            table.clear();
            table.resize((2 * rows).next_power_of_two(), 0);
            // Zero marks a free slot, so the hash that is zero is noted as another: nothing but work is lost.
            let mut note = |hash: u64| {
                let hash = hash.max(1);
                if is_noted(&mut table, hash) {
                    repeats.insert(hash);
                }
            };
            partition.hashes.drain(..).for_each(&mut note);
            for number in partition.blocks {
                if let Some(file) = &self.spilled {
                    file.read_exact_at(&mut block, offset_of(number))?;
                }
                let hashes = block.as_chunks::<8>().0.iter();
                hashes.for_each(|bytes| note(u64::from_le_bytes(*bytes)));
            }
            if repeats.len() > MAX_REPEATS {
                return Ok(Repeats::Many);
            }
        }
        if repeats.remove(&1) {
            repeats.extend([0, 1]);
        }
        Ok(if repeats.is_empty() {
            Repeats::None
        } else {
            Repeats::Some(repeats)
        })
    }
}

fn offset_of(block: u32) -> u64 {
    u64::from(block) * BLOCK_BYTES as u64
}

/// Notes a hash in a table that is at most half full. Whether it was there.
fn is_noted(table: &mut [u64], hash: u64) -> bool {
    let mask = table.len() - 1;
    #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
    let mut slot = hash as usize & mask;
    loop {
        match table[slot] {
            0 => {
                table[slot] = hash;
                return false;
            }
            noted if noted == hash => return true,
            _ => slot = (slot + 1) & mask,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_ids_are_found_and_no_others_however_many_there_are() {
        let directory = tempfile::tempdir().unwrap();
        // Few, and so many that blocks were spilled of every partition.
        for ids in [10_u32, 400_000] {
            for repeated in [vec![], vec![3], vec![0, 7, ids - 1]] {
                let mut finder = RepeatFinder::new(directory.path());
                for id in (0..ids).chain(repeated.iter().copied()) {
                    finder.add(&format!("call-{id}")).unwrap();
                }
                assert_eq!(finder.spilled.is_some(), ids > 10);
                let found = finder.finish().unwrap();
                assert_eq!(matches!(found, Repeats::None), repeated.is_empty());
                for id in 0..ids {
                    let may_hold = found.may_hold(&format!("call-{id}"));
                    assert_eq!(may_hold, repeated.contains(&id), "{id} of {ids}");
                }
            }
        }
    }

    #[test]
    fn of_too_many_repeats_all_ids_are_suspects() {
        let directory = tempfile::tempdir().unwrap();
        let mut finder = RepeatFinder::new(directory.path());
        for id in (0..100_000).chain(0..100_000) {
            finder.add(&format!("call-{id}")).unwrap();
        }
        assert!(matches!(finder.finish().unwrap(), Repeats::Many));
    }

    #[test]
    fn the_hash_that_marks_a_free_slot_is_no_exception() {
        let mut table = vec![0; 4];
        assert!(!is_noted(&mut table, 1) && is_noted(&mut table, 1));
        assert!(!is_noted(&mut table, 5) && is_noted(&mut table, 5));
    }
}
