//! Decompresses a body as it arrives, and detects truncated and corrupt bodies.
//!
//! The HTTP client could do this too, but it takes the end of the first gzip member for the end of
//! the body and drops what follows without a word. Here a body is one member (or frame) after
//! another, each with its own check, and nothing else: what is cut, damaged, empty or followed by
//! anything is an error.
//!
//! No I/O. Memory: the window of the format (32 KiB for gzip, at most 8 MiB for zstd, 128 MiB in a
//! file) and [`MAX_PIECE_BYTES`], however much comes out.

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, Operation};

/// Most bytes handed out at once.
pub const MAX_PIECE_BYTES: usize = 64 << 10;
/// A gzip window is never larger: [RFC 1951](https://www.rfc-editor.org/rfc/rfc1951#section-2).
const GZIP_WINDOW_BITS: u8 = 15;
/// Largest window of a zstd body: 8 MiB, what
/// [RFC 9659](https://www.rfc-editor.org/rfc/rfc9659#section-3) allows as a content encoding.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Largest window of a zstd file: 128 MiB, the default limit of `zstd`, which `--ultra` and
/// `--long` can produce.
const ZSTD_FILE_WINDOW_LOG: u32 = 27;

/// What a gzip member begins with.
pub(crate) const GZIP_MAGIC: &[u8] = b"\x1F\x8B";
/// What a zstd frame begins with.
pub(crate) const ZSTD_MAGIC: &[u8] = b"\x28\xB5\x2F\xFD";

/// How a body is compressed (`Content-Encoding`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    #[default]
    Identity,
    /// [RFC 1952](https://www.rfc-editor.org/rfc/rfc1952): members, one after another.
    Gzip,
    /// [RFC 8878](https://www.rfc-editor.org/rfc/rfc8878): frames, one after another.
    Zstd,
}

impl Encoding {
    /// What a request for records accepts (`Accept-Encoding`).
    pub const ACCEPTED: &str = "gzip, zstd";

    /// How a file is compressed that begins with `start`: no text begins like gzip or zstd.
    fn of_file(start: &[u8]) -> Self {
        if start.starts_with(GZIP_MAGIC) {
            Self::Gzip
        } else if start.starts_with(ZSTD_MAGIC) {
            Self::Zstd
        } else {
            Self::Identity
        }
    }

    /// The encoding of that name, which HTTP writes in any case. Names of no compression count for
    /// nothing, also beside others: some servers write the charset here.
    pub fn from_name(name: &str) -> Option<Self> {
        let names = name.split(',').map(|name| name.trim().to_ascii_lowercase());
        let mut names =
            names.filter(|name| !matches!(&**name, "" | "identity" | "none" | "utf-8" | "utf8"));
        let only = names.next();
        match (only.as_deref(), names.next()) {
            (None, _) => Some(Self::Identity),
            // The old name is the same thing: RFC 9110, section 8.4.1.3.
            (Some("gzip" | "x-gzip"), None) => Some(Self::Gzip),
            (Some("zstd"), None) => Some(Self::Zstd),
            _ => None,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// A body does not match its encoding, or is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecompressError {
    /// A member or frame is damaged, or something else stands where one should begin.
    #[error("the {encoding} body is damaged after byte {at}, or followed by other data")]
    Damaged {
        /// What it should be.
        encoding: Encoding,
        /// How much had been read, in compressed bytes.
        at: u64,
    },
    /// The body ended within a member or frame.
    #[error("the {encoding} body is cut after {at} bytes")]
    Cut {
        /// What it should be.
        encoding: Encoding,
        /// How much there was, in compressed bytes.
        at: u64,
    },
    /// The body has not one member or frame, which even an empty text has.
    #[error("the body is empty, but declared as {encoding}")]
    Empty {
        /// What it should be.
        encoding: Encoding,
    },
}

/// Decompresses one body. See the module for what is an error.
pub struct Decompressor {
    encoding: Encoding,
    /// Of the member or frame that is under way.
    decoder: Option<Decoder>,
    /// Members or frames that have ended.
    ended: u64,
    /// Compressed bytes read.
    read: u64,
    piece: Vec<u8>,
    zstd_window_log: u32,
}

enum Decoder {
    Gzip(Decompress),
    Zstd(ZstdDecoder<'static>),
}

/// What one step did.
struct Step {
    taken: usize,
    made: usize,
    is_end: bool,
}

impl fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressor")
            .field("encoding", &self.encoding)
            .field("ended", &self.ended)
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

impl Decompressor {
    /// For one body.
    pub fn new(encoding: Encoding) -> Self {
        let is_plain = encoding == Encoding::Identity;
        Self {
            encoding,
            decoder: None,
            ended: 0,
            read: 0,
            piece: vec![0; if is_plain { 0 } else { MAX_PIECE_BYTES }],
            zstd_window_log: ZSTD_WINDOW_LOG,
        }
    }

    /// For a file that begins with `start`. Its window may be as large as 128 MiB.
    pub fn of_file(start: &[u8]) -> Self {
        Self {
            zstd_window_log: ZSTD_FILE_WINDOW_LOG,
            ..Self::new(Encoding::of_file(start))
        }
    }

    /// Whether the body is not compressed.
    pub(crate) fn is_plain(&self) -> bool {
        self.encoding == Encoding::Identity
    }

    /// Takes the next bytes and hands out what they decompress to, in pieces of at most
    /// [`MAX_PIECE_BYTES`]; bytes that are not compressed as they are.
    ///
    /// # Errors
    /// [`DecompressError::Damaged`], or what `on_bytes` returns; neither leaves the decompressor
    /// usable.
    pub fn push<E: From<DecompressError>>(
        &mut self,
        chunk: &[u8],
        mut on_bytes: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.encoding == Encoding::Identity {
            return on_bytes(chunk);
        }
        let mut rest = chunk;
        let mut may_hold_more = false;
        while !rest.is_empty() || may_hold_more {
            let Step {
                taken,
                made,
                is_end,
            } = self.step(rest).ok_or(DecompressError::Damaged {
                encoding: self.encoding,
                at: self.read,
            })?;
            self.read += taken as u64;
            rest = &rest[taken..];
            // A full piece may have left something in the decoder that needs no more input.
            may_hold_more = made == self.piece.len() && !is_end;
            if is_end {
                self.decoder = None;
                self.ended += 1;
            }
            if made > 0 {
                on_bytes(&self.piece[..made])?;
            }
        }
        Ok(())
    }

    /// Ends the body.
    ///
    /// # Errors
    /// [`DecompressError`] if it is cut, or has not even one member or frame.
    pub fn finish(&self) -> Result<(), DecompressError> {
        let (encoding, at) = (self.encoding, self.read);
        match encoding {
            Encoding::Identity => Ok(()),
            _ if self.decoder.is_some() => Err(DecompressError::Cut { encoding, at }),
            _ if self.ended == 0 => Err(DecompressError::Empty { encoding }),
            _ => Ok(()),
        }
    }

    /// Decompresses into `piece` until it is full or the input or the member ends. `None` if that
    /// is not possible.
    fn step(&mut self, input: &[u8]) -> Option<Step> {
        if self.decoder.is_none() {
            self.decoder = Some(match self.encoding {
                Encoding::Zstd => {
                    let mut decoder = ZstdDecoder::new().ok()?;
                    let limit = DParameter::WindowLogMax(self.zstd_window_log);
                    decoder.set_parameter(limit).ok()?;
                    Decoder::Zstd(decoder)
                }
                _ => Decoder::Gzip(Decompress::new_gzip(GZIP_WINDOW_BITS)),
            });
        }
        let step = match self.decoder.as_mut()? {
            Decoder::Gzip(decoder) => {
                let (read, written) = (decoder.total_in(), decoder.total_out());
                let status = decoder
                    .decompress(input, &mut self.piece, FlushDecompress::None)
                    .ok()?;
                Step {
                    taken: usize::try_from(decoder.total_in() - read).ok()?,
                    made: usize::try_from(decoder.total_out() - written).ok()?,
                    is_end: status == Status::StreamEnd,
                }
            }
            Decoder::Zstd(decoder) => {
                let status = decoder.run_on_buffers(input, &mut self.piece).ok()?;
                Step {
                    taken: status.bytes_read,
                    made: status.bytes_written,
                    is_end: status.remaining == 0,
                }
            }
        };
        // No progress on non-empty input: the stream is corrupt.
        let is_stuck = !input.is_empty() && step.taken == 0 && step.made == 0 && !step.is_end;
        (!is_stuck).then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const COMPRESSED: [Encoding; 2] = [Encoding::Gzip, Encoding::Zstd];

    fn compress(encoding: Encoding, text: &[u8]) -> Vec<u8> {
        if encoding == Encoding::Zstd {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.write_all(text).unwrap();
            return encoder.finish().unwrap();
        }
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn decompress(
        encoding: Encoding,
        body: &[u8],
        chunk_bytes: usize,
    ) -> Result<Vec<u8>, DecompressError> {
        let mut text = Vec::new();
        let mut decompressor = Decompressor::new(encoding);
        for chunk in body.chunks(chunk_bytes) {
            decompressor.push(chunk, |bytes| {
                assert!(bytes.len() <= MAX_PIECE_BYTES);
                text.extend_from_slice(bytes);
                Ok::<(), DecompressError>(())
            })?;
        }
        decompressor.finish().map(|()| text)
    }

    fn text() -> Vec<u8> {
        // Longer than a piece, and not all the same.
        (0..20_000)
            .flat_map(|number| format!("{{\"call\":{number}}}\n").into_bytes())
            .collect()
    }

    #[test]
    fn every_member_is_read_however_the_body_is_cut() {
        for encoding in COMPRESSED {
            let (first, second) = (text(), b"and more\n".to_vec());
            let body = [
                compress(encoding, &first),
                compress(encoding, b""),
                compress(encoding, &second),
            ]
            .concat();
            let whole = [first, second].concat();
            for chunk_bytes in [1, 2, 7, 1000, usize::MAX] {
                let found = decompress(encoding, &body, chunk_bytes);
                assert!(
                    found.as_ref() == Ok(&whole),
                    "{encoding} in {chunk_bytes}: {:?}",
                    found.map(|found| found.len())
                );
            }
        }
    }

    #[test]
    fn wherever_a_body_is_cut_it_is_noticed_but_where_a_member_ends() {
        for encoding in COMPRESSED {
            let first = compress(encoding, b"{\"a\":1}\n{\"a\":2}\n");
            let body = [first.clone(), compress(encoding, b"{\"a\":3}\n")].concat();
            for end in 1..body.len() {
                let found = decompress(encoding, &body[..end], 5);
                if end == first.len() {
                    // The transport signals whether more bytes follow.
                    assert_eq!(found.unwrap(), b"{\"a\":1}\n{\"a\":2}\n");
                } else {
                    let at = end as u64;
                    assert_eq!(
                        found,
                        Err(DecompressError::Cut { encoding, at }),
                        "{encoding} {end}"
                    );
                }
            }
            assert_eq!(
                decompress(encoding, b"", 1),
                Err(DecompressError::Empty { encoding })
            );
        }
    }

    #[test]
    fn whichever_bit_is_another_the_text_is_right_or_refused() {
        for encoding in COMPRESSED {
            let whole = b"{\"charge\":\"0.00325\"}\n{\"charge\":\"0.00326\"}\n";
            let body = compress(encoding, whole);
            let mut refused = 0;
            for bit in 0..body.len() * 8 {
                let mut damaged = body.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                match decompress(encoding, &damaged, usize::MAX) {
                    // A header's time and operating system can have any value.
                    Ok(found) => assert_eq!(found, whole, "{encoding} bit {bit}"),
                    Err(_) => refused += 1,
                }
            }
            assert!(refused > body.len() * 8 / 2, "{encoding}: {refused}");
        }
    }

    #[test]
    fn uncompressed_data_is_an_error_and_so_is_data_after_the_last_member() {
        for encoding in COMPRESSED {
            for garbage in [b"{}\n".as_slice(), b"garbage garbage", b"\0\0\0\0\0\0\0\0"] {
                let body = [&compress(encoding, b"{}\n"), garbage].concat();
                let found = decompress(encoding, &body, usize::MAX);
                assert!(found.is_err(), "{encoding} {garbage:?}: {found:?}");
                assert!(
                    decompress(encoding, garbage, usize::MAX).is_err(),
                    "{encoding} {garbage:?}"
                );
            }
        }
    }

    #[test]
    fn a_hundred_million_zeros_are_decompressed_in_pieces() {
        for encoding in COMPRESSED {
            let body = compress(encoding, &vec![0; 100_000_000]);
            assert!(body.len() < 1_000_000);
            let mut bytes = 0;
            let mut decompressor = Decompressor::new(encoding);
            decompressor
                .push(&body, |piece| {
                    assert!(piece.len() <= MAX_PIECE_BYTES);
                    bytes += piece.len();
                    Ok::<(), DecompressError>(())
                })
                .unwrap();
            assert_eq!((bytes, decompressor.finish()), (100_000_000, Ok(())));
        }
    }

    #[test]
    fn a_window_beyond_what_http_allows_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(ZSTD_WINDOW_LOG + 1).unwrap();
        encoder.write_all(&vec![7; 20 << 20]).unwrap();
        let body = encoder.finish().unwrap();
        let found = decompress(Encoding::Zstd, &body, usize::MAX);
        assert!(
            matches!(found, Err(DecompressError::Damaged { .. })),
            "{:?}",
            found.map(|text| text.len())
        );
    }
}
