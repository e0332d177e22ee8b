//! Finds the quotation marks of a record, 64 bytes at a time, and classifies its other bytes.

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

/// What characters a text has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TextClass {
    pub(super) is_ascii: bool,
    /// Whether there is a byte below the blank.
    pub(super) has_control: bool,
    pub(super) has_backslash: bool,
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
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "calls a function that requires AVX2")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was just detected, and the function has no other requirement.
        return unsafe { find_quotes_avx2(text, words) };
    }
    find_quotes_with(scan_block, text, words)
}

/// Like [`find_quotes`], with `words` of the right length and a function that scans one block.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "so that it is compiled with the target features of its caller"
)]
fn find_quotes_with(
    scan_block: impl Fn(&[u8; WORD_BYTES]) -> BlockScan,
    text: &[u8],
    words: &mut [u64],
) -> TextClass {
    let (blocks, rest) = text.as_chunks::<WORD_BYTES>();
    let (mut has_special, mut is_ascii) = (false, true);
    let mut last = [b' '; WORD_BYTES];
    last[..rest.len()].copy_from_slice(rest);
    for (block, word) in blocks.iter().chain([&last]).zip(&mut *words) {
        let scan = scan_block(block);
        *word = scan.quotes;
        has_special |= scan.has_special;
        is_ascii &= scan.is_ascii;
    }
    let mut class = TextClass {
        is_ascii,
        has_control: false,
        has_backslash: false,
    };
    if has_special {
        class.has_control = text.iter().any(|&byte| byte < b' ');
        class.has_backslash = remove_escaped(text, words);
    }
    class
}

/// Removes escaped quotation marks from the bitmap. Returns whether there is a backslash.
#[cold]
fn remove_escaped(text: &[u8], words: &mut [u64]) -> bool {
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
    escaped.is_some()
}

/// What 64 bytes contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BlockScan {
    /// A bit for each quotation mark.
    quotes: u64,
    /// Whether there is a backslash or a control character.
    has_special: bool,
    is_ascii: bool,
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn find_quotes_avx2(text: &[u8], words: &mut [u64]) -> TextClass {
    find_quotes_with(|block| scan_block_avx2(block), text, words)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn scan_block_avx2(block: &[u8; WORD_BYTES]) -> BlockScan {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256,
        _mm256_set_epi64x, _mm256_set1_epi8,
    };

    let (lanes, _) = block.as_chunks::<8>();
    let lane = |at: usize| u64::from_le_bytes(lanes[at]).cast_signed();
    let half = |at: usize| _mm256_set_epi64x(lane(at + 3), lane(at + 2), lane(at + 1), lane(at));
    let (low, high) = (half(0), half(4));
    let mask = |bytes: __m256i| u64::from(_mm256_movemask_epi8(bytes).cast_unsigned());
    let is = |bytes, byte: u8| _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte.cast_signed()));
    let special = |bytes| {
        let control = _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(0x1F)), bytes);
        _mm256_or_si256(is(bytes, b'\\'), control)
    };
    BlockScan {
        quotes: mask(is(low, b'"')) | mask(is(high, b'"')) << 32,
        has_special: mask(_mm256_or_si256(special(low), special(high))) != 0,
        // Tests the highest bit of each byte.
        is_ascii: mask(_mm256_or_si256(low, high)) == 0,
    }
}

/// Scans byte by byte; the compiler vectorizes the loop.
fn scan_block(block: &[u8; WORD_BYTES]) -> BlockScan {
    let mut scan = BlockScan {
        quotes: 0,
        has_special: false,
        is_ascii: block.is_ascii(),
    };
    for (i, &byte) in block.iter().enumerate() {
        scan.quotes |= u64::from(byte == b'"') << i;
        scan.has_special |= byte == b'\\' || byte < b' ';
    }
    scan
}

#[cfg(test)]
mod tests;
