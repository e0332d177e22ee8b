//! Encoded bytes in reusable blocks.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

/// Unused blocks, shared by all slices. Reusing them avoids fragmentation: blocks freed between
/// small long-lived allocations (the page index) could not be merged. Their number never exceeds
/// the blocks of the row groups that were encoded at the same time.
static SPARE_BLOCKS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn spare_blocks() -> MutexGuard<'static, Vec<Vec<u8>>> {
    SPARE_BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A growing buffer of blocks: growing copies nothing and reserves at most one block.
#[derive(Default)]
pub(super) struct Blocks {
    blocks: Vec<Vec<u8>>,
}

impl Blocks {
    /// Appends the blocks of another buffer without copying.
    pub(super) fn append(&mut self, mut other: Self) {
        self.blocks.append(&mut other.blocks);
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.blocks.iter_mut().for_each(Vec::clear);
        spare_blocks().append(&mut self.blocks);
    }
}

const BLOCK_BYTES: usize = 64 << 10;

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self
            .blocks
            .last()
            .map_or(0, |last| BLOCK_BYTES - last.len());
        if room == 0 {
            let spare = spare_blocks().pop();
            self.blocks
                .push(spare.unwrap_or_else(|| Vec::with_capacity(BLOCK_BYTES)));
        }
        let room = if room == 0 { BLOCK_BYTES } else { room };
        let taken = bytes.len().min(room);
        if let Some(last) = self.blocks.last_mut() {
            last.extend_from_slice(&bytes[..taken]);
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A complete column chunk. Can only be read from its beginning.
pub(super) struct Chunk(Arc<Blocks>);

impl From<Blocks> for Chunk {
    fn from(blocks: Blocks) -> Self {
        Self(Arc::new(blocks))
    }
}

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.0.blocks.iter().map(|block| block.len() as u64).sum()
    }
}

impl ChunkReader for Chunk {
    type T = ChunkRead;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        if start != 0 {
            let problem = "a column chunk is read from its beginning".to_owned();
            return Err(ParquetError::General(problem));
        }
        Ok(ChunkRead {
            chunk: Arc::clone(&self.0),
            block: 0,
            at: 0,
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let mut bytes = Vec::with_capacity(length);
        let mut read = self.get_read(start)?.take(length as u64);
        read.read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }
}

pub(super) struct ChunkRead {
    chunk: Arc<Blocks>,
    block: usize,
    at: usize,
}

impl Read for ChunkRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(block) = self.chunk.blocks.get(self.block) {
            let rest = &block[self.at..];
            if rest.is_empty() {
                self.block += 1;
                self.at = 0;
                continue;
            }
            let taken = rest.len().min(buffer.len());
            buffer[..taken].copy_from_slice(&rest[..taken]);
            self.at += taken;
            return Ok(taken);
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(bytes: &[u8], piece: usize) -> Blocks {
        let mut blocks = Blocks::default();
        bytes
            .chunks(piece)
            .for_each(|piece| blocks.write_all(piece).unwrap());
        blocks
    }

    #[test]
    fn written_bytes_are_read_back_also_from_reused_blocks() {
        let bytes: Vec<u8> = (0..=250).cycle().take(3 * BLOCK_BYTES + 77).collect();
        for piece in [1, 1000, BLOCK_BYTES, bytes.len()] {
            let (first, second) = bytes.split_at(BLOCK_BYTES + 5);
            let mut both = blocks(first, piece);
            both.append(blocks(second, piece));
            assert!(
                both.blocks
                    .iter()
                    .all(|block| block.capacity() == BLOCK_BYTES)
            );
            let chunk = Chunk::from(both);
            assert_eq!(chunk.len(), bytes.len() as u64);
            let mut read = Vec::new();
            chunk.get_read(0).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == bytes, "in pieces of {piece}");
            assert_eq!(chunk.get_bytes(0, 300).unwrap(), bytes[..300]);
            assert!(chunk.get_read(1).is_err());
        }
    }
}
