//! Dictionaries: each distinct value gets a code, from 0 in order of first occurrence.

use std::sync::Arc;

use arrow::array::{StringArray, StringBuilder};
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
    /// The first slot for a hash.
    #[inline]
    fn slot_of(&self, hash: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "any bits are suitable")]
        let bits = hash as usize;
        bits & (self.slots.len() - 1)
    }

    /// The code in the first slot for a hash.
    #[inline]
    fn first(&self, hash: u64) -> Option<u32> {
        self.slots[self.slot_of(hash)].checked_sub(1)
    }

    /// The code for which `is_same` returns true, or `Err` with the free slot for the new entry.
    #[inline]
    fn find(&self, hash: u64, is_same: impl Fn(usize) -> bool) -> Result<u32, usize> {
        let mut slot = self.slot_of(hash);
        loop {
            match self.slots[slot] {
                0 => return Err(slot),
                code if is_same(code as usize - 1) => return Ok(code - 1),
                _ => slot = (slot + 1) & (self.slots.len() - 1),
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

/// Longest text that a [`Key`] holds.
const SHORT_BYTES: usize = 16;

/// Short texts are equal if their keys are. Long texts have equal keys if they are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    length: usize,
    ends: (u64, u64),
}

impl Key {
    #[inline]
    fn of(text: &[u8], seed: u64) -> Self {
        Self {
            length: text.len(),
            ends: ends_of(text).unwrap_or_else(|| (xxh3_64_with_seed(text, seed), 0)),
        }
    }

    #[inline]
    fn hash(self, seed: u64) -> u64 {
        fold(
            self.ends.0 ^ seed ^ self.length as u64,
            self.ends.1 ^ seed.rotate_left(u32::BITS),
        )
    }
}

/// A text of at most [`SHORT_BYTES`] as two numbers. Together with the length they are unique.
/// `None` for longer texts.
#[inline]
fn ends_of(text: &[u8]) -> Option<(u64, u64)> {
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        let ends = (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
        return (text.len() <= SHORT_BYTES).then_some(ends);
    }
    let four = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes));
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        return Some((four(first), four(last)));
    }
    Some(match *text {
        [] => (0, 0),
        [only] => (only.into(), 0),
        [first, second, ..] => (
            u64::from(first) << 8 | u64::from(text[text.len() - 1]),
            second.into(),
        ),
    })
}

/// Assigns codes to texts.
#[derive(Debug)]
pub(crate) struct TextInterner {
    seed: u64,
    slots: Slots,
    keys: Vec<Key>,
    text: Vec<u8>,
    /// Where each entry ends.
    ends: Vec<usize>,
    /// The entries as an array, until one is added.
    array: Option<Arc<StringArray>>,
}

impl Default for TextInterner {
    fn default() -> Self {
        Self {
            seed: fastrand::u64(..),
            slots: Slots::default(),
            keys: Vec::new(),
            text: Vec::new(),
            ends: Vec::new(),
            array: None,
        }
    }
}

impl TextInterner {
    /// The code of `text`. The code of a short text is usually in the first slot.
    #[expect(clippy::inline_always, reason = "a call would take as long")]
    #[inline(always)]
    pub(crate) fn intern(&mut self, text: &str) -> u32 {
        if let Some(ends) = ends_of(text.as_bytes()) {
            let length = text.len();
            let key = Key { length, ends };
            if let Some(code) = self.slots.first(key.hash(self.seed))
                && self.keys[code as usize] == key
            {
                return code;
            }
        }
        self.look_up(text.as_bytes())
    }

    #[inline(never)]
    fn look_up(&mut self, text: &[u8]) -> u32 {
        let key = Key::of(text, self.seed);
        let found = self.slots.find(key.hash(self.seed), |code| {
            self.keys[code] == key && (key.length <= SHORT_BYTES || self.entry(code) == text)
        });
        found.unwrap_or_else(|slot| self.add(text, key, slot))
    }

    #[cold]
    fn add(&mut self, text: &[u8], key: Key, slot: usize) -> u32 {
        self.text.extend_from_slice(text);
        self.ends.push(self.text.len());
        self.keys.push(key);
        self.array = None;
        let (keys, seed) = (&self.keys, self.seed);
        self.slots.fill(slot, |code| keys[code].hash(seed))
    }

    #[inline(never)]
    fn entry(&self, code: usize) -> &[u8] {
        let start = if code == 0 { 0 } else { self.ends[code - 1] };
        &self.text[start..self.ends[code]]
    }

    /// The entries, by code.
    pub(crate) fn array(&mut self) -> Arc<StringArray> {
        if let Some(array) = &self.array {
            return Arc::clone(array);
        }
        let mut builder = StringBuilder::with_capacity(self.ends.len(), self.text.len());
        for code in 0..self.ends.len() {
            let text = std::str::from_utf8(self.entry(code)).expect("only strings were added");
            builder.append_value(text);
        }
        let array = Arc::new(builder.finish());
        self.array = Some(Arc::clone(&array));
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
