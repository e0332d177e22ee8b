//! Decompressing any body: bounded pieces, and the same result for any chunks.

#![no_main]

use cdrlake::Encoding;
use cdrlake::internals::{DecompressError, Decompressor, MAX_PIECE_BYTES};
use libfuzzer_sys::fuzz_target;

/// Enough to detect a difference between two ways of chunking.
const MAX_OUTPUT_BYTES: usize = 1 << 20;

fn decompress(encoding: Encoding, body: &[u8], chunk_bytes: usize) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut decompressor = Decompressor::new(encoding);
    for chunk in body.chunks(chunk_bytes) {
        let pushed = decompressor.push(chunk, |bytes| {
            assert!(bytes.len() <= MAX_PIECE_BYTES);
            let room = MAX_OUTPUT_BYTES.saturating_sub(text.len());
            text.extend_from_slice(&bytes[..bytes.len().min(room)]);
            Ok::<(), DecompressError>(())
        });
        pushed.ok()?;
    }
    decompressor.finish().ok()?;
    Some(text)
}

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (is_gzip, chunk, body) = input;
    let encoding = if is_gzip {
        Encoding::Gzip
    } else {
        Encoding::Zstd
    };
    let whole = decompress(encoding, body, usize::MAX);
    assert_eq!(decompress(encoding, body, usize::from(chunk) + 1), whole);
});
