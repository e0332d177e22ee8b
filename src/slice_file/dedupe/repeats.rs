//! Finds out whether any id of a slice is there twice, at a few nanoseconds a row.
//!
//! Nearly always none is, and then there is nothing to compare: the [search for duplicates](crate::slice_file::dedupe::duplicates), which
//! sorts every row, is only made where this one finds a repeat, and only for the rows concerned.
//!
//! Each id is a hash of 64 bits, which goes to one of 64 partitions by its first bits; full blocks of a partition
//! go to one temporary file. At the end each partition is looked through by itself, in several passes if it is large:
//! each looks at those hashes that other bits give to it. Memory: 256 KiB and 8 bytes for every thousandth id, and at the end, when
//! the rows have been written, mostly up to 1 MiB.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

/// So many that with 4 KiB each they stay in a processor's own cache.
const PARTITIONS: usize = 1 << PARTITION_BITS;
const PARTITION_BITS: u32 = 6;
/// Hashes of a block: 4 KiB.
const BLOCK_HASHES: usize = 512;
const BLOCK_BYTES: usize = BLOCK_HASHES * size_of::<u64>();
/// Most hashes that are told apart: of more repeats every row is compared.
const MAX_REPEATS: usize = 1 << 16;
/// Hashes of a partition that are looked through in one pass.
const PASS_HASHES: usize = 60_000;
/// Most passes through a partition: where they are not enough every row is compared.
const MAX_PASSES: usize = 64;

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
        let partition = usize::from(hash.to_be_bytes()[0] >> (u8::BITS - PARTITION_BITS));
        let partition = &mut self.partitions[partition];
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
                return Ok(Repeats::Many);
            }
            for pass in 0..passes {
                table.clear();
                // Zero marks a free slot, so the hash that is zero is noted as another: nothing but work is lost.
                let mut note = |hash: u64| {
                    let hash = hash.max(1);
                    if pass_of(hash, passes) == pass && table.note(hash) {
                        repeats.insert(hash);
                    }
                };
                partition.hashes.iter().copied().for_each(&mut note);
                for &number in &partition.blocks {
                    if let Some(file) = &self.spilled {
                        file.read_exact_at(&mut block, offset_of(number))?;
                    }
                    let hashes = block.as_chunks::<8>().0.iter();
                    hashes.for_each(|bytes| note(u64::from_le_bytes(*bytes)));
                }
                if repeats.len() > MAX_REPEATS || table.is_full() {
                    return Ok(Repeats::Many);
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

/// The pass that looks at a hash, of a power of two of them: by bits that say neither its partition nor its slot.
fn pass_of(hash: u64, passes: usize) -> usize {
    let next_bits = (hash << PARTITION_BITS) >> u32::BITS;
    usize::try_from(next_bits).map_or(0, |bits| bits & (passes - 1))
}

/// Slots of the table at first, and at most: 2 MiB, twice as many as a pass needs, for the passes are not quite equal.
const MIN_SLOTS: usize = 1 << 10;
const MAX_SLOTS: usize = 1 << 18;

/// Hashes that were seen, at most half as many as there are slots.
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

    /// Whether it takes no more.
    fn is_full(&self) -> bool {
        2 * self.used >= MAX_SLOTS
    }

    /// Notes a hash, unless it is full. Whether it was there.
    fn note(&mut self, hash: u64) -> bool {
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
        let is_there = self.slots[slot] == hash;
        if !is_there && !self.is_full() {
            self.slots[slot] = hash;
            self.used += 1;
        }
        is_there
    }

    /// The slot of a hash, or the free one where it belongs.
    fn find(&self, hash: u64) -> usize {
        let mask = self.slots.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
        let mut slot = hash as usize & mask;
        while self.slots[slot] != 0 && self.slots[slot] != hash {
            slot = (slot + 1) & mask;
        }
        slot
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
                // Each partition of the many takes 32 passes.
                let found = finder.finish_in_passes(200).unwrap();
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
    fn the_table_grows_with_the_hashes_that_differ_and_not_without_end() {
        let mut table = HashTable::default();
        for _ in 0..1_000_000 {
            table.note(7);
        }
        assert_eq!(table.slots.len(), MIN_SLOTS);
        // All in one place, as those of one partition are not: the low bits are what is looked at.
        for hash in 1..=MAX_SLOTS as u64 {
            let is_known = hash == 7 || table.is_full() && hash <= (MAX_SLOTS / 2) as u64;
            assert_eq!(table.note(hash), is_known, "{hash}");
        }
        assert!(table.is_full());
        assert_eq!(table.slots.len(), MAX_SLOTS);
        table.clear();
        assert!(!table.note(1) && table.note(1));
    }
}
