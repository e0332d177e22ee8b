//! Dictionaries: each distinct value gets a code, from 0 in order of first occurrence.

use arrow::array::{ArrayRef, StringBuilder};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Most entries of a dictionary. With more distinct values, plain encoding is smaller.
pub(crate) const MAX_DICTIONARY_ENTRIES: usize = 1 << 15;
/// Most bytes of text in a dictionary.
pub(crate) const MAX_DICTIONARY_BYTES: usize = 1 << 20;

/// A hash table of codes. A slot holds a code plus one, or zero if it is free.
#[derive(Debug, Default)]
struct Slots {
    slots: Vec<u32>,
    used: usize,
}

impl Slots {
    /// The code for which `is_same` returns true, or `Err` with the free slot for the new entry.
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

    /// Makes room for one more entry, so that at most half of the slots are used. `hash` returns
    /// the hash of a code.
    fn reserve(&mut self, hash: impl Fn(usize) -> u64) {
        if 2 * (self.used + 1) <= self.slots.len() {
            return;
        }
        self.slots = vec![0; (4 * self.used).max(64).next_power_of_two()];
        for code in 0..self.used {
            if let Err(slot) = self.find(hash(code), |_| false) {
                self.slots[slot] = code_of(code) + 1;
            }
        }
    }

    fn fill(&mut self, slot: usize) -> u32 {
        let code = code_of(self.used);
        self.slots[slot] = code + 1;
        self.used += 1;
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
    pub(crate) fn intern(&mut self, number: i64) -> u32 {
        let Self {
            seed,
            slots,
            values,
            last,
        } = self;
        if values.get(*last as usize) == Some(&number) {
            return *last;
        }
        slots.reserve(|code| hash_of(values[code], *seed));
        *last = match slots.find(hash_of(number, *seed), |code| values[code] == number) {
            Ok(code) => code,
            Err(slot) => {
                values.push(number);
                slots.fill(slot)
            }
        };
        *last
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
        let Self {
            seed,
            slots,
            text: all,
            ends,
            ..
        } = self;
        let entry = |code: usize| {
            let start = if code == 0 { 0 } else { ends[code - 1] };
            &all[start..ends[code]]
        };
        slots.reserve(|code| hash_of_text(entry(code), *seed));
        match slots.find(hash, |code| entry(code) == text) {
            Ok(code) => code,
            Err(slot) => {
                all.extend_from_slice(text);
                ends.push(all.len());
                self.array = None;
                slots.fill(slot)
            }
        }
    }

    fn entry(&self, code: usize) -> &[u8] {
        let start = if code == 0 { 0 } else { self.ends[code - 1] };
        &self.text[start..self.ends[code]]
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
