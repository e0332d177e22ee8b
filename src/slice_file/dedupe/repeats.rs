//! Detects repeated ids of a slice, at a few nanoseconds for each row.
//!
//! Most slices have none, and need no comparison of rows. Only if an id repeats, the
//! [search for duplicates](crate::slice_file::dedupe::duplicates) sorts and compares the rows with
//! such ids.
//!
//! Each id is hashed to 64 bits, whose first bits select one of 64 partitions. Full blocks of a
//! partition are written to a temporary file. At the end each partition is scanned, in several
//! passes if it is large; other bits of the hash select the pass.
//!
//! Memory: 256 KiB and 8 bytes for every thousandth id; at the end, after the rows have been
//! written, usually up to 1 MiB.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// With 4 KiB each, all partitions fit into a processor's own cache.
const PARTITIONS: usize = 1 << PARTITION_BITS;
const PARTITION_BITS: u32 = 6;
/// Hashes of a block: 4 KiB.
const BLOCK_HASHES: usize = 512;
const BLOCK_BYTES: usize = BLOCK_HASHES * size_of::<u64>();
/// Most repeated hashes kept. If there are more, every row is compared.
const MAX_REPEATS: usize = 1 << 16;
/// Hashes of a partition scanned in one pass.
const PASS_HASHES: usize = 60_000;
/// Most passes through a partition. If they do not suffice, every row is compared.
const MAX_PASSES: usize = 64;

/// Collects ids while rows are written.
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

/// Which ids may be repeated. Two ids with the same hash cost an unnecessary comparison.
#[derive(Debug)]
pub enum Repeats {
    /// None.
    None,
    /// The ids with these hashes.
    Some(HashSet<u64>),
    /// Too many to list: every id counts as repeated.
    TooMany,
}

impl Repeats {
    /// Whether the id with this hash may be repeated.
    pub fn may_contain(&self, id_hash: u64) -> bool {
        match self {
            Self::None => false,
            Self::Some(hashes) => hashes.contains(&id_hash),
            Self::TooMany => true,
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

    /// Adds an id's hash.
    ///
    /// # Errors
    /// The temporary file cannot be written.
    pub fn add(&mut self, id_hash: u64) -> io::Result<()> {
        let partition = usize::from(id_hash.to_be_bytes()[0] >> (u8::BITS - PARTITION_BITS));
        let partition = &mut self.partitions[partition];
        partition.hashes.push(id_hash);
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

    /// Finds repeated ids.
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub fn finish(self) -> io::Result<Repeats> {
        self.finish_in_passes(PASS_HASHES)
    }

    fn finish_in_passes(self, pass_hashes: usize) -> io::Result<Repeats> {
        let mut repeats = HashSet::new();
        let mut table = HashTable::default();
        let mut block = vec![0; BLOCK_BYTES];
        for partition in self.partitions {
            let hashes = partition.hashes.len() + partition.blocks.len() * BLOCK_HASHES;
            let passes = hashes.div_ceil(pass_hashes).next_power_of_two();
            if passes > MAX_PASSES {
                return Ok(Repeats::TooMany);
            }
            for pass in 0..passes {
                table.clear();
                // Zero marks a free slot, so hash 0 counts as hash 1.
                let mut insert = |hash: u64| {
                    let hash = hash.max(1);
                    if pass_of(hash, passes) == pass && table.insert(hash) {
                        repeats.insert(hash);
                    }
                };
                partition.hashes.iter().copied().for_each(&mut insert);
                for &number in &partition.blocks {
                    if let Some(file) = &self.spilled {
                        file.read_exact_at(&mut block, offset_of(number))?;
                    }
                    let hashes = block.as_chunks::<8>().0.iter();
                    hashes.for_each(|bytes| insert(u64::from_le_bytes(*bytes)));
                }
                if repeats.len() > MAX_REPEATS || table.is_full() {
                    return Ok(Repeats::TooMany);
                }
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

/// The pass that scans a hash. `passes` is a power of two. Uses bits that select neither the
/// partition nor the slot.
fn pass_of(hash: u64, passes: usize) -> usize {
    let next_bits = (hash << PARTITION_BITS) >> u32::BITS;
    usize::try_from(next_bits).map_or(0, |bits| bits & (passes - 1))
}

/// Initial and largest number of slots. The largest (2 MiB) is twice what an average pass needs,
/// because passes differ in size.
const MIN_SLOTS: usize = 1 << 10;
const MAX_SLOTS: usize = 1 << 18;

/// A set of hashes with open addressing, at most half full.
#[derive(Debug, Default)]
struct HashTable {
    slots: Vec<u64>,
    used: usize,
}

impl HashTable {
    fn clear(&mut self) {
        self.slots.fill(0);
        self.used = 0;
    }

    /// Whether the table has reached its limit.
    fn is_full(&self) -> bool {
        2 * self.used >= MAX_SLOTS
    }

    /// Adds a hash, unless the table is full. Returns whether it was present.
    fn insert(&mut self, hash: u64) -> bool {
        if 2 * self.used >= self.slots.len() && !self.is_full() {
            let larger = (2 * self.slots.len()).max(MIN_SLOTS);
            for hash in std::mem::replace(&mut self.slots, vec![0; larger]) {
                if hash != 0 {
                    let slot = self.find(hash);
                    self.slots[slot] = hash;
                }
            }
        }
        let slot = self.find(hash);
        let is_present = self.slots[slot] == hash;
        if !is_present && !self.is_full() {
            self.slots[slot] = hash;
            self.used += 1;
        }
        is_present
    }

    /// The slot of a hash, or the free slot for it.
    fn find(&self, hash: u64) -> usize {
        let mask = self.slots.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "any bits are suitable")]
        let mut slot = hash as usize & mask;
        while self.slots[slot] != 0 && self.slots[slot] != hash {
            slot = (slot + 1) & mask;
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    fn hash_of(id: u32) -> u64 {
        xxh3_64(&id.to_le_bytes())
    }

    #[test]
    fn exactly_the_repeated_ids_are_found() {
        let directory = tempfile::tempdir().unwrap();
        // Few ids, and enough that every partition spills blocks.
        for ids in [10_u32, 400_000] {
            for repeated in [vec![], vec![3], vec![0, 7, ids - 1]] {
                let mut finder = RepeatFinder::new(directory.path());
                for id in (0..ids).chain(repeated.iter().copied()) {
                    finder.add(hash_of(id)).unwrap();
                }
                assert_eq!(finder.spilled.is_some(), ids > 10);
                // With many ids, each partition takes 32 passes.
                let found = finder.finish_in_passes(200).unwrap();
                assert_eq!(matches!(found, Repeats::None), repeated.is_empty());
                for id in 0..ids {
                    let may_contain = found.may_contain(hash_of(id));
                    assert_eq!(may_contain, repeated.contains(&id), "{id} of {ids}");
                }
            }
        }
    }

    #[test]
    fn if_too_many_ids_repeat_every_id_counts_as_repeated() {
        let directory = tempfile::tempdir().unwrap();
        let mut finder = RepeatFinder::new(directory.path());
        for id in (0..100_000).chain(0..100_000) {
            finder.add(hash_of(id)).unwrap();
        }
        assert!(matches!(finder.finish().unwrap(), Repeats::TooMany));
    }

    #[test]
    fn the_table_grows_with_distinct_hashes_up_to_a_limit() {
        let mut table = HashTable::default();
        for _ in 0..1_000_000 {
            table.insert(7);
        }
        assert_eq!(table.slots.len(), MIN_SLOTS);
        // Consecutive hashes occupy consecutive slots, because the low bits select the slot.
        for hash in 1..=MAX_SLOTS as u64 {
            let is_known = hash == 7 || table.is_full() && hash <= (MAX_SLOTS / 2) as u64;
            assert_eq!(table.insert(hash), is_known, "{hash}");
        }
        assert!(table.is_full());
        assert_eq!(table.slots.len(), MAX_SLOTS);
        table.clear();
        assert!(!table.insert(1) && table.insert(1));
    }
}
