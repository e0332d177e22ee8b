//! Finds the quotation marks of a record, 64 bytes at a time, and classifies its other bytes.

use crate::privacy::Credentials;

/// Bytes for each word of the bitmap of quotation marks.
const WORD_BYTES: usize = 64;

/// The quotation marks of a record, without escaped ones.
#[derive(Clone, Copy)]
pub(super) struct Quotes<'a> {
    /// A bit for each byte, followed by two words of zeros.
    words: &'a [u64],
}

impl Quotes<'_> {
    /// The first quotation mark at or after `at`.
    #[inline]
    pub(super) fn next(self, at: usize) -> Option<usize> {
        let (word, bit) = (at / WORD_BYTES, at % WORD_BYTES);
        let [low, high] = *self.words.get(word..)?.first_chunk::<2>()?;
        let window = low >> bit | high << 1 << (WORD_BYTES - 1 - bit);
        if window != 0 {
            return Some(at + window.trailing_zeros() as usize);
        }
        // A long string.
        let behind = self.words.get(word + 1..)?;
        let skipped = behind.iter().position(|&word| word != 0)?;
        let start = (word + 1 + skipped) * WORD_BYTES;
        Some(start + behind[skipped].trailing_zeros() as usize)
    }
}

/// Which kinds of characters a text has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextClass {
    /// [`CONTROL`] and the bits of [`MARKS`], each set if any byte is of this kind.
    bits: u8,
    pub(super) is_ascii: bool,
}

impl TextClass {
    /// The class of a text that may have any character.
    pub const UNKNOWN: Self = Self {
        bits: CONTROL | MARKS,
        is_ascii: false,
    };

    /// The class of `text`.
    #[cfg(test)]
    pub(crate) fn of(text: &[u8]) -> Self {
        find_quotes(text, &mut Vec::new())
    }

    /// Whether there is a byte below the blank.
    pub(super) fn has_control(self) -> bool {
        self.bits & CONTROL != 0
    }

    /// Whether there is a backslash.
    pub(crate) fn has_backslash(self) -> bool {
        self.bits & BACKSLASH != 0
    }

    /// Whether there is one of [`Credentials::MARKS`] besides the backslash.
    pub(crate) fn has_other_marks(self) -> bool {
        self.bits & MARKS & !BACKSLASH != 0
    }
}

impl<'a> Quotes<'a> {
    /// The quotation marks of `text`, in a bitmap that is written to `words`.
    #[inline]
    pub(super) fn find(text: &[u8], words: &'a mut Vec<u64>) -> (Self, TextClass) {
        let class = find_quotes(text, words);
        (Self { words }, class)
    }
}

/// Writes the bitmap to `words`, in the layout of [`Quotes`], and classifies `text`.
#[inline]
fn find_quotes(text: &[u8], words: &mut Vec<u64>) -> TextClass {
    let count = text.len().div_ceil(WORD_BYTES);
    words.resize(count + 2, 0);
    words[count..].fill(0);
    let words = &mut words[..count];
    let (blocks, rest) = text.as_chunks::<WORD_BYTES>();
    let mut last = [b' '; WORD_BYTES];
    last[..rest.len()].copy_from_slice(rest);
    let class = find_in_blocks(blocks, &last, words);
    if class.has_backslash() {
        remove_escaped(text, words);
    }
    class
}

#[inline]
fn find_in_blocks(blocks: &[Block], last: &Block, words: &mut [u64]) -> TextClass {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "calls a function that requires AVX2")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was just detected, and the function has no other requirement.
        return unsafe { avx2::find_in_blocks(blocks, last, words) };
    }
    find_in_blocks_portably(blocks, last, words)
}

/// Removes escaped quotation marks from the bitmap.
#[cold]
fn remove_escaped(text: &[u8], words: &mut [u64]) {
    let mut escaped = None;
    for backslash in memchr::memchr_iter(b'\\', text) {
        if escaped != Some(backslash) {
            let at = backslash + 1;
            if let Some(word) = words.get_mut(at / WORD_BYTES) {
                *word &= !(1 << (at % WORD_BYTES));
            }
            escaped = Some(at);
        }
    }
}

type Block = [u8; WORD_BYTES];

/// The bit of control characters.
const CONTROL: u8 = 1;
/// The bits of [`Credentials::MARKS`].
const MARKS: u8 = ((1 << Credentials::MARKS.len()) - 1) << 1;
const BACKSLASH: u8 = bit_of(b'\\');

/// The bit of one of [`Credentials::MARKS`]; each has its own.
const fn bit_of(mark: u8) -> u8 {
    let mut i = 0;
    while Credentials::MARKS[i] != mark {
        i += 1;
    }
    1 << (i + 1)
}

/// Byte by byte; the compiler vectorizes the loop.
fn find_in_blocks_portably(blocks: &[Block], last: &Block, words: &mut [u64]) -> TextClass {
    let mut class = TextClass {
        bits: 0,
        is_ascii: true,
    };
    for (block, word) in blocks.iter().chain([last]).zip(words) {
        *word = 0;
        for (i, &byte) in block.iter().enumerate() {
            *word |= u64::from(byte == b'"') << i;
            class.bits |= u8::from(byte < b' ') * CONTROL;
            for mark in Credentials::MARKS {
                class.bits |= u8::from(byte == mark) * bit_of(mark);
            }
        }
        class.is_ascii &= block.is_ascii();
    }
    class
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm_cvtsi128_si64, _mm_extract_epi64, _mm_or_si128, _mm256_and_si256,
        _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_movemask_epi8, _mm256_or_si256,
        _mm256_set_epi64x, _mm256_set1_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8,
        _mm256_srli_epi16,
    };

    use super::{Block, CONTROL, Credentials, TextClass, bit_of};

    /// The bit of the quotation mark, which a mask of highest bits takes.
    const QUOTE: u8 = 0x80;

    /// The bits of a byte are those that its low and its high half have in common.
    const BITS_OF_LOW: [u8; 16] = bits_of_halves().0;
    const BITS_OF_HIGH: [u8; 16] = bits_of_halves().1;

    const fn bits_of_halves() -> ([u8; 16], [u8; 16]) {
        let (mut low, mut high) = ([CONTROL; 16], [0; 16]);
        high[0] |= CONTROL;
        high[1] |= CONTROL;
        low[(b'"' & 15) as usize] |= QUOTE;
        high[(b'"' >> 4) as usize] |= QUOTE;
        let mut i = 0;
        while i < Credentials::MARKS.len() {
            let mark = Credentials::MARKS[i];
            low[(mark & 15) as usize] |= bit_of(mark);
            high[(mark >> 4) as usize] |= bit_of(mark);
            i += 1;
        }
        (low, high)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn find_in_blocks(blocks: &[Block], last: &Block, words: &mut [u64]) -> TextClass {
        let (low, high) = (twice(BITS_OF_LOW), twice(BITS_OF_HIGH));
        let halves = _mm256_set1_epi8(0x0F);
        let mut all_bits = _mm256_setzero_si256();
        let mut all_bytes = _mm256_setzero_si256();
        let mut quotes_in = |bytes: __m256i| {
            // The low half of a byte with its highest bit set counts as nothing.
            let of_low = _mm256_shuffle_epi8(low, bytes);
            let high_half = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), halves);
            let bits = _mm256_and_si256(of_low, _mm256_shuffle_epi8(high, high_half));
            all_bits = _mm256_or_si256(all_bits, bits);
            all_bytes = _mm256_or_si256(all_bytes, bytes);
            u64::from(_mm256_movemask_epi8(bits).cast_unsigned())
        };
        let mut quotes = |block: &Block| {
            let (lanes, _) = block.as_chunks::<8>();
            let lane = |at: usize| u64::from_le_bytes(lanes[at]).cast_signed();
            let half = |at| _mm256_set_epi64x(lane(at + 3), lane(at + 2), lane(at + 1), lane(at));
            quotes_in(half(0)) | quotes_in(half(4)) << 32
        };
        let mut words = words.iter_mut();
        for (block, word) in blocks.iter().zip(&mut words) {
            *word = quotes(block);
        }
        // Missing if the text ends with a block.
        if let Some(word) = words.next() {
            *word = quotes(last);
        }
        TextClass {
            bits: union(all_bits) & !QUOTE,
            is_ascii: _mm256_movemask_epi8(all_bytes) == 0,
        }
    }

    #[target_feature(enable = "avx2")]
    fn twice(table: [u8; 16]) -> __m256i {
        let table = u128::from_le_bytes(table);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "splits a number into halves"
        )]
        let (low, high) = (table as i64, (table >> 64) as i64);
        _mm256_set_epi64x(high, low, high, low)
    }

    /// The bits that any byte has.
    #[target_feature(enable = "avx2")]
    fn union(bytes: __m256i) -> u8 {
        let halves = _mm_or_si128(
            _mm256_castsi256_si128(bytes),
            _mm256_extracti128_si256::<1>(bytes),
        );
        let union = _mm_cvtsi128_si64(halves) | _mm_extract_epi64::<1>(halves);
        let bytes = union.to_le_bytes();
        bytes.into_iter().fold(0, |all, byte| all | byte)
    }
}

#[cfg(test)]
mod tests;
