//! Dictionaries: each distinct value gets a code, counted from 0 in the order of first sight.

use arrow::array::{ArrayRef, StringBuilder};
use xxhash_rust::xxh3::xxh3_64;

/// Most entries of a dictionary: of more distinct values it does not pay.
pub(crate) const MAX_DICTIONARY_ENTRIES: usize = 1 << 15;
/// Most text of a dictionary.
pub(crate) const MAX_DICTIONARY_BYTES: usize = 1 << 20;

/// Slots by hash. A slot holds a code plus one, and zero where it is free.
#[derive(Debug, Default)]
struct Slots {
    slots: Vec<u32>,
    used: usize,
}

impl Slots {
    /// The code of the entry that `is_same` knows by its code, or `Err` with the slot where it belongs.
    fn find(&self, hash: u64, is_same: impl Fn(usize) -> bool) -> Result<u32, usize> {
        let mask = self.slots.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
        let mut slot = hash as usize & mask;
        loop {
            match self.slots[slot] {
                0 => return Err(slot),
                code if is_same(code as usize - 1) => return Ok(code - 1),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    /// Makes room for one more, so that at most half of the slots are used. `hash` knows the hash of each code.
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

/// Codes of numbers.
#[derive(Debug, Default)]
pub(crate) struct NumberInterner {
    slots: Slots,
    values: Vec<i64>,
    last: u32,
}

impl NumberInterner {
    /// The code of `number`.
    pub(crate) fn intern(&mut self, number: i64) -> u32 {
        let Self {
            slots,
            values,
            last,
        } = self;
        if values.get(*last as usize) == Some(&number) {
            return *last;
        }
        slots.reserve(|code| hash_of(values[code]));
        *last = match slots.find(hash_of(number), |code| values[code] == number) {
            Ok(code) => code,
            Err(slot) => {
                values.push(number);
                slots.fill(slot)
            }
        };
        *last
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// The numbers, by code.
    pub(crate) fn values(&self) -> &[i64] {
        &self.values
    }
}

/// Multiplies the bits about: amounts differ in few of them.
fn hash_of(number: i64) -> u64 {
    let product = number.cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ (product >> 32)
}

/// Codes of texts.
#[derive(Debug, Default)]
pub(crate) struct TextInterner {
    slots: Slots,
    text: Vec<u8>,
    /// Where each entry ends.
    ends: Vec<usize>,
    last: u32,
    /// The entries as an array, as long as none was added.
    array: Option<ArrayRef>,
}

impl TextInterner {
    /// The code of `text`.
    pub(crate) fn intern(&mut self, text: &str) -> u32 {
        let text = text.as_bytes();
        if !self.ends.is_empty() && self.entry(self.last as usize) == text {
            return self.last;
        }
        let Self {
            slots,
            text: all,
            ends,
            ..
        } = self;
        let entry = |code: usize| {
            let start = if code == 0 { 0 } else { ends[code - 1] };
            &all[start..ends[code]]
        };
        slots.reserve(|code| xxh3_64(entry(code)));
        self.last = match slots.find(xxh3_64(text), |code| entry(code) == text) {
            Ok(code) => code,
            Err(slot) => {
                all.extend_from_slice(text);
                ends.push(all.len());
                self.array = None;
                slots.fill(slot)
            }
        };
        self.last
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
            let text = std::str::from_utf8(self.entry(code)).expect("it was text when it came in");
            builder.append_value(text);
        }
        let array: ArrayRef = std::sync::Arc::new(builder.finish());
        self.array = Some(ArrayRef::clone(&array));
        array
    }

    /// Whether it is so large that it is better begun anew.
    pub(crate) fn is_full(&self) -> bool {
        self.ends.len() > MAX_DICTIONARY_ENTRIES || self.text.len() > MAX_DICTIONARY_BYTES
    }
}
