//! Dictionaries: each distinct value gets a code, from 0 in order of first occurrence.

use arrow::array::{ArrayRef, StringBuilder};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Most entries of a dictionary. With more distinct values, plain encoding is smaller.
pub(crate) const MAX_DICTIONARY_ENTRIES: usize = 1 << 15;
/// Most bytes of text in a dictionary.
pub(crate) const MAX_DICTIONARY_BYTES: usize = 1 << 20;

/// A hash table of codes. A slot holds a code plus one, or zero if it is free.
#[derive(Debug)]
struct Slots {
    slots: Vec<u32>,
    used: usize,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            slots: vec![0; 64],
            used: 0,
        }
    }
}

impl Slots {
    /// The code for which `is_same` returns true, or `Err` with the free slot for the new entry.
    #[inline]
    fn find(&self, hash: u64, is_same: impl Fn(usize) -> bool) -> Result<u32, usize> {
        let mask = self.slots.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "any bits are suitable")]
        let mut slot = hash as usize & mask;
        loop {
            match self.slots[slot] {
                0 => return Err(slot),
                code if is_same(code as usize - 1) => return Ok(code - 1),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    /// Fills a free slot with the next code. Afterwards at most half of the slots are used.
    /// `hash` returns the hash of a code.
    fn fill(&mut self, slot: usize, hash: impl Fn(usize) -> u64) -> u32 {
        let code = code_of(self.used);
        self.slots[slot] = code + 1;
        self.used += 1;
        if 2 * self.used > self.slots.len() {
            self.slots = vec![0; 2 * self.slots.len()];
            for code in 0..self.used {
                if let Err(slot) = self.find(hash(code), |_| false) {
                    self.slots[slot] = code_of(code) + 1;
                }
            }
        }
        code
    }
}

fn code_of(entry: usize) -> u32 {
    u32::try_from(entry).expect("a dictionary has a limit")
}

/// Assigns codes to numbers.
#[derive(Debug)]
pub(crate) struct NumberInterner {
    seed: u64,
    slots: Slots,
    values: Vec<i64>,
    last: u32,
}

impl Default for NumberInterner {
    fn default() -> Self {
        Self {
            seed: fastrand::u64(..),
            slots: Slots::default(),
            values: Vec::new(),
            last: 0,
        }
    }
}

impl NumberInterner {
    /// The code of `number`.
    #[inline]
    pub(crate) fn intern(&mut self, number: i64) -> u32 {
        if self.values.get(self.last as usize) == Some(&number) {
            return self.last;
        }
        let hash = hash_of(number, self.seed);
        let found = self.slots.find(hash, |code| self.values[code] == number);
        self.last = found.unwrap_or_else(|slot| self.add(number, slot));
        self.last
    }

    #[cold]
    fn add(&mut self, number: i64, slot: usize) -> u32 {
        self.values.push(number);
        let (values, seed) = (&self.values, self.seed);
        self.slots.fill(slot, |code| hash_of(values[code], seed))
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// The numbers, by code.
    pub(crate) fn values(&self) -> &[i64] {
        &self.values
    }
}

/// Spreads the bits, because amounts differ in few of them.
fn hash_of(number: i64, seed: u64) -> u64 {
    fold(number.cast_unsigned() ^ seed, 0x9E37_79B9_7F4A_7C15)
}

/// Folds both halves of a product. Callers mix in a random seed, so that no input can be made to
/// collide in one slot.
#[inline]
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    #[expect(clippy::cast_possible_truncation, reason = "folds two halves")]
    let folded = product as u64 ^ (product >> 64) as u64;
    folded
}

/// A text of at most 16 bytes as two numbers. Together with the length they are unique. `None` for
/// longer texts.
#[inline]
fn ends_of(text: &[u8]) -> Option<(u64, u64)> {
    let four = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes));
    Some(match text {
        [] => (0, 0),
        [only] => (u64::from(*only), 0),
        [first, .., last] if text.len() < 4 => (
            u64::from(*first) << 8 | u64::from(*last),
            u64::from(text[1]),
        ),
        _ if text.len() < 8 => (four(text.first_chunk()?), four(text.last_chunk()?)),
        _ if text.len() <= 16 => (
            u64::from_le_bytes(*text.first_chunk()?),
            u64::from_le_bytes(*text.last_chunk()?),
        ),
        _ => return None,
    })
}

fn hash_of_text(text: &[u8], seed: u64) -> u64 {
    match ends_of(text) {
        Some(ends) => hash_of_ends(ends, text.len(), seed),
        None => xxh3_64_with_seed(text, seed),
    }
}

#[inline]
fn hash_of_ends((first, last): (u64, u64), length: usize, seed: u64) -> u64 {
    fold(
        first ^ seed ^ length as u64,
        last ^ seed.rotate_left(u32::BITS),
    )
}

/// Size of the cache of [`TextInterner`], a power of two.
const RECENT_TEXTS: usize = 64;

/// A cached short text and its code.
#[derive(Clone, Copy, Debug)]
struct RecentText {
    ends: (u64, u64),
    /// `usize::MAX` in an empty entry.
    length: usize,
    code: u32,
}

/// Assigns codes to texts.
#[derive(Debug)]
pub(crate) struct TextInterner {
    seed: u64,
    /// Cache of short texts: the latest text of each hash.
    recent: Box<[RecentText; RECENT_TEXTS]>,
    slots: Slots,
    text: Vec<u8>,
    /// Where each entry ends.
    ends: Vec<usize>,
    /// The entries as an array, until one is added.
    array: Option<ArrayRef>,
}

impl Default for TextInterner {
    fn default() -> Self {
        let none = RecentText {
            ends: (0, 0),
            length: usize::MAX,
            code: 0,
        };
        Self {
            seed: fastrand::u64(..),
            recent: Box::new([none; RECENT_TEXTS]),
            slots: Slots::default(),
            text: Vec::new(),
            ends: Vec::new(),
            array: None,
        }
    }
}

impl TextInterner {
    /// The code of `text`.
    #[inline]
    pub(crate) fn intern(&mut self, text: &str) -> u32 {
        let text = text.as_bytes();
        let Some(ends) = ends_of(text) else {
            return self.look_up(text, xxh3_64_with_seed(text, self.seed));
        };
        let hash = hash_of_ends(ends, text.len(), self.seed);
        #[expect(clippy::cast_possible_truncation, reason = "any bits are suitable")]
        let place = hash as usize % RECENT_TEXTS;
        let recent = self.recent[place];
        if recent.ends == ends && recent.length == text.len() {
            return recent.code;
        }
        let code = self.look_up(text, hash);
        self.recent[place] = RecentText {
            ends,
            length: text.len(),
            code,
        };
        code
    }

    fn look_up(&mut self, text: &[u8], hash: u64) -> u32 {
        match self.slots.find(hash, |code| self.entry(code) == text) {
            Ok(code) => code,
            Err(slot) => self.add(text, slot),
        }
    }

    #[cold]
    fn add(&mut self, text: &[u8], slot: usize) -> u32 {
        self.text.extend_from_slice(text);
        self.ends.push(self.text.len());
        self.array = None;
        let (all, ends, seed) = (&self.text, &self.ends, self.seed);
        self.slots
            .fill(slot, |code| hash_of_text(entry(all, ends, code), seed))
    }

    fn entry(&self, code: usize) -> &[u8] {
        entry(&self.text, &self.ends, code)
    }

    /// The entries, by code.
    pub(crate) fn array(&mut self) -> ArrayRef {
        if let Some(array) = &self.array {
            return ArrayRef::clone(array);
        }
        let mut builder = StringBuilder::with_capacity(self.ends.len(), self.text.len());
        for code in 0..self.ends.len() {
            let text = std::str::from_utf8(self.entry(code)).expect("only strings were added");
            builder.append_value(text);
        }
        let array: ArrayRef = std::sync::Arc::new(builder.finish());
        self.array = Some(ArrayRef::clone(&array));
        array
    }

    /// Whether the dictionary is too large and should be replaced.
    pub(crate) fn is_full(&self) -> bool {
        self.ends.len() > MAX_DICTIONARY_ENTRIES || self.text.len() > MAX_DICTIONARY_BYTES
    }
}

/// An entry of a [`TextInterner`].
fn entry<'a>(text: &'a [u8], ends: &[usize], code: usize) -> &'a [u8] {
    let start = if code == 0 { 0 } else { ends[code - 1] };
    &text[start..ends[code]]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_keep_the_code_of_their_first_occurrence(
            texts in proptest::collection::vec(
                "[ab]{0,3}|[a-c]{4,9}|[ab]{14,18}|.{0,40}",
                0..300,
            ),
        ) {
            let mut interner = TextInterner::default();
            let mut codes = HashMap::new();
            for text in &texts {
                let next = u32::try_from(codes.len()).unwrap();
                let expected = *codes.entry(text).or_insert(next);
                prop_assert_eq!(interner.intern(text), expected);
            }
        }
    }
}
