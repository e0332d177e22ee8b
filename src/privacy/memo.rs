//! Remembers results for short texts: numbers and places repeat within a slice.

use std::fmt;

/// Longest text that is remembered.
const MAX_TEXT_BYTES: usize = 31;
/// Texts remembered at a time. More than the numbers of most accounts.
pub(super) const ENTRIES: usize = 2048;

/// A text padded with zeros. The last byte is its length.
type Padded = [u8; MAX_TEXT_BYTES + 1];

/// Equals no padded text, because its length is too great.
const UNUSED: Padded = [u8::MAX; MAX_TEXT_BYTES + 1];

/// Results for the texts seen last. A text replaces the one with the same place. Memory: fixed,
/// and none before the first text.
pub(crate) struct Memo<T> {
    entries: Vec<(Padded, T)>,
}

impl<T> Default for Memo<T> {
    fn default() -> Self {
        let entries = Vec::new();
        Self { entries }
    }
}

/// Omits the texts, which may be phone numbers.
impl<T> fmt::Debug for Memo<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memo").finish_non_exhaustive()
    }
}

impl<T: Copy> Memo<T> {
    /// The result for a text. Calls `compute` if the text is not remembered.
    pub(crate) fn get_or_insert_with(&mut self, text: &str, compute: impl FnOnce() -> T) -> T {
        let Some(padded) = padded(text) else {
            return compute();
        };
        let place = place(&padded);
        if let Some((known, result)) = self.entries.get(place)
            && *known == padded
        {
            return *result;
        }
        let result = compute();
        if self.entries.is_empty() {
            self.entries = vec![(UNUSED, result); ENTRIES];
        }
        self.entries[place] = (padded, result);
        result
    }

    /// Number of texts that the allocated memory can hold.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.entries.capacity()
    }
}

fn padded(text: &str) -> Option<Padded> {
    let mut padded = [0; MAX_TEXT_BYTES + 1];
    let (place, length) = padded.split_at_mut(MAX_TEXT_BYTES);
    place
        .get_mut(..text.len())?
        .copy_from_slice(text.as_bytes());
    length[0] = u8::try_from(text.len()).ok()?;
    Some(padded)
}

fn place(padded: &Padded) -> usize {
    let (words, _) = padded.as_chunks::<8>();
    let hash = words.iter().fold(0_u64, |hash, word| {
        (hash.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    });
    // The high bits depend on all bytes.
    (hash >> 32) as usize % ENTRIES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_of_a_repeated_text_is_computed_once() {
        let mut memo = Memo::default();
        let mut computed = 0;
        for _ in 0..3 {
            let result = memo.get_or_insert_with("13025550101", || {
                computed += 1;
                7
            });
            assert_eq!(result, 7);
        }
        assert_eq!(computed, 1);
    }

    #[test]
    fn texts_that_differ_in_padding_or_place_are_not_confused() {
        let mut memo = Memo::default();
        for _ in 0..2 {
            for length in 0..=MAX_TEXT_BYTES + 1 {
                for end in ["", "\0", "\0\0"] {
                    let text = "1".repeat(length) + end;
                    let expected = (length, end.len());
                    assert_eq!(memo.get_or_insert_with(&text, || expected), expected);
                }
            }
        }
    }

    #[test]
    fn memory_does_not_grow_with_the_number_of_texts() {
        let mut memo = Memo::default();
        assert_eq!(memo.capacity(), 0);
        for number in 0..20 * ENTRIES {
            let found = memo.get_or_insert_with(&number.to_string(), || number);
            assert_eq!(found, number);
        }
        assert_eq!(memo.capacity(), ENTRIES);
    }
}
