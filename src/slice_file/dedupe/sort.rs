//! External merge sort of fixed-size keys.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of keys in memory before a sorted run is written to disk.
const RUN_BYTES: usize = 2 << 20;
/// Read buffer of one run while runs are merged.
const MERGE_BUFFER_BYTES: usize = 16 << 10;

/// Sorts keys of `N` bytes in byte order. Memory: 2 MiB while keys are added, then 16 KiB for every
/// 2 MiB added (0.8 %). More than 2 MiB spill to one unnamed temporary file.
#[derive(Debug)]
pub(crate) struct ExternalSorter<const N: usize> {
    directory: PathBuf,
    run_keys: usize,
    run: Vec<[u8; N]>,
    spilled: Option<Spilled>,
}

#[derive(Debug)]
struct Spilled {
    file: File,
    /// Length of each sorted run in bytes, in file order.
    runs: Vec<u64>,
}

impl<const N: usize> ExternalSorter<N> {
    /// A sorter that spills into a temporary file in `directory`.
    pub(crate) fn new(directory: &Path) -> Self {
        Self::with_run_keys(directory, RUN_BYTES / N)
    }

    fn with_run_keys(directory: &Path, run_keys: usize) -> Self {
        Self {
            directory: directory.to_owned(),
            run_keys,
            run: Vec::new(),
            spilled: None,
        }
    }

    /// Adds a key.
    ///
    /// # Errors
    /// The temporary file cannot be written.
    pub(crate) fn push(&mut self, key: [u8; N]) -> io::Result<()> {
        if self.run.len() == self.run_keys {
            self.spill()?;
        }
        self.run.push(key);
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        self.run.sort_unstable();
        let spilled = match &mut self.spilled {
            Some(spilled) => spilled,
            None => {
                let file = tempfile::tempfile_in(&self.directory)?;
                self.spilled.insert(Spilled {
                    file,
                    runs: Vec::new(),
                })
            }
        };
        let mut writer = io::BufWriter::with_capacity(MERGE_BUFFER_BYTES, &mut spilled.file);
        writer.seek(io::SeekFrom::End(0))?;
        for key in &self.run {
            writer.write_all(key)?;
        }
        writer.flush()?;
        drop(writer);
        spilled.runs.push((self.run.len() * N) as u64);
        self.run.clear();
        Ok(())
    }

    /// The keys in ascending order.
    ///
    /// # Errors
    /// The temporary file cannot be written or read. The iterator's items may fail for the same
    /// reason.
    pub(crate) fn finish(mut self) -> io::Result<Sorted<N>> {
        if self.spilled.is_none() {
            self.run.sort_unstable();
            return Ok(Sorted::InMemory(self.run.into_iter()));
        }
        self.spill()?;
        self.run = Vec::new();
        let Spilled { file, runs } = self.spilled.expect("just spilled");
        let file = Arc::new(file);
        let mut start = 0;
        let mut readers = Vec::with_capacity(runs.len());
        for length in runs {
            readers.push(RunReader {
                file: Arc::clone(&file),
                next: start,
                end: start + length,
                buffer: Vec::new(),
                at: 0,
            });
            start += length;
        }
        let mut heap = BinaryHeap::with_capacity(readers.len());
        for (run, reader) in readers.iter_mut().enumerate() {
            if let Some(key) = reader.read()? {
                heap.push(Reverse((key, run)));
            }
        }
        Ok(Sorted::Merging { readers, heap })
    }
}

/// Reads one sorted run from its part of the file.
#[derive(Debug)]
pub(crate) struct RunReader<const N: usize> {
    file: Arc<File>,
    next: u64,
    end: u64,
    buffer: Vec<u8>,
    at: usize,
}

impl<const N: usize> RunReader<N> {
    fn read(&mut self) -> io::Result<Option<[u8; N]>> {
        if self.at == self.buffer.len() {
            let whole_keys = MERGE_BUFFER_BYTES / N * N;
            let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
            self.buffer.resize(whole_keys.min(left), 0);
            self.file.read_exact_at(&mut self.buffer, self.next)?;
            self.next += self.buffer.len() as u64;
            self.at = 0;
        }
        let key = self.buffer[self.at..].first_chunk::<N>().copied();
        self.at += key.map_or(0, |key| key.len());
        Ok(key)
    }
}

/// Keys in ascending order.
#[derive(Debug)]
pub(crate) enum Sorted<const N: usize> {
    /// All keys fit into memory.
    InMemory(std::vec::IntoIter<[u8; N]>),
    /// Merged from runs on disk.
    Merging {
        /// One for each run.
        readers: Vec<RunReader<N>>,
        /// The smallest remaining key of each run.
        heap: BinaryHeap<Reverse<([u8; N], usize)>>,
    },
}

impl<const N: usize> Iterator for Sorted<N> {
    type Item = io::Result<[u8; N]>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::InMemory(keys) => keys.next().map(Ok),
            Self::Merging { readers, heap } => {
                let Reverse((key, run)) = heap.pop()?;
                match readers[run].read() {
                    Ok(Some(next)) => heap.push(Reverse((next, run))),
                    Ok(None) => {}
                    Err(error) => return Some(Err(error)),
                }
                Some(Ok(key))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_are_sorted_with_any_number_of_runs(
            keys in proptest::collection::vec(any::<[u8; 3]>(), 0..200),
            run_keys in 1_usize..50,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut sorter = ExternalSorter::with_run_keys(directory.path(), run_keys);
            for &key in &keys {
                sorter.push(key).unwrap();
            }
            let sorted: Vec<_> = sorter.finish().unwrap().map(Result::unwrap).collect();
            let mut expected = keys;
            expected.sort_unstable();
            prop_assert_eq!(sorted, expected);
        }
    }
}
