//! Looks up the [`Field`] of a key.

use crate::cdr::columns::Field;

impl Field {
    /// The field with this key.
    pub(super) fn of(key: &[u8]) -> Option<Self> {
        // A key that ends in zero bytes has the same number, but another length.
        field_of(key_at(key, 0, key.len())?).filter(|field| field.name().len() == key.len())
    }
}

/// A field as it stands in a record: its key, a quotation mark and a colon.
pub(super) struct Member {
    text: Key,
    /// Covers `text`.
    mask: Key,
    /// Length of `text`.
    bytes: usize,
}

impl Member {
    const fn new(field: Field) -> Self {
        let length = field.name().len();
        let bytes = length + b"\":".len();
        assert!(bytes <= KEY_BYTES);
        Self {
            text: KEYS[field as usize] | key_of(b"\":") << (8 * length),
            mask: Key::MAX >> (8 * (KEY_BYTES - bytes)),
            bytes,
        }
    }

    #[inline]
    pub(super) fn of(field: Field) -> &'static Self {
        &MEMBERS[field as usize]
    }

    /// Where the value begins if the delimiter and the key are at `at`, without blanks. `None` if
    /// they are not, or the text ends soon.
    #[inline]
    pub(super) fn value_at(&self, text: &[u8], at: usize, delimiter: u8) -> Option<usize> {
        let [before, quote, key @ ..] = text.get(at..)?.first_chunk::<{ 2 + KEY_BYTES }>()?;
        let is_key = Key::from_le_bytes(*key) & self.mask == self.text;
        (*before == delimiter && *quote == b'"' && is_key).then_some(at + 2 + self.bytes)
    }
}

/// A key as a number: its bytes, padded with zeros. All known keys fit.
pub(super) type Key = u128;

const KEY_BYTES: usize = size_of::<Key>();

/// The key of `length` bytes at `at`; `None` if it is too long.
pub(super) fn key_at(text: &[u8], at: usize, length: usize) -> Option<Key> {
    if length > KEY_BYTES {
        return None;
    }
    let Some(bytes) = text.get(at..).and_then(<[u8]>::first_chunk::<KEY_BYTES>) else {
        return Some(key_of(text.get(at..at + length)?));
    };
    // Masks the bytes after the key.
    let unused_bits = u32::try_from(8 * (KEY_BYTES - length)).ok()?;
    let mask = Key::MAX.checked_shr(unused_bits).unwrap_or(0);
    Some(Key::from_le_bytes(*bytes) & mask)
}

const fn key_of(name: &[u8]) -> Key {
    let mut key = 0;
    let mut i = name.len();
    while i > 0 {
        i -= 1;
        key = key << 8 | name[i] as Key;
    }
    key
}

/// The keys of all fields.
pub(super) const KEYS: [Key; Field::ALL.len()] = {
    let mut keys = [0; Field::ALL.len()];
    let mut i = 0;
    while i < keys.len() {
        keys[i] = key_of(Field::ALL[i].name().as_bytes());
        i += 1;
    }
    keys
};

static MEMBERS: [Member; Field::ALL.len()] = {
    let mut members = [const { Member::new(Field::Date) }; Field::ALL.len()];
    let mut i = 0;
    while i < members.len() {
        members[i] = Member::new(Field::ALL[i]);
        i += 1;
    }
    members
};

/// Number of slots in the table of keys, as a power of two.
const SLOT_BITS: u32 = 5;
/// A multiplier without collisions: the first one in a sequence of odd numbers.
const SLOT_MULTIPLIER: u64 = {
    let mut multiplier = 0x2E47_DC0E_959F_3A51_u64;
    while !is_collision_free(multiplier) {
        multiplier = multiplier.wrapping_mul(0x5851_F42D_4C95_7F2D);
    }
    multiplier
};

#[expect(clippy::cast_possible_truncation, reason = "folds two halves")]
const fn slot_of(key: Key, multiplier: u64) -> usize {
    let folded = key as u64 ^ (key >> 64) as u64;
    (folded.wrapping_mul(multiplier) >> (u64::BITS - SLOT_BITS)) as usize
}

/// Whether no two keys have the same slot.
const fn is_collision_free(multiplier: u64) -> bool {
    let mut taken = 0_u32;
    let mut i = 0;
    while i < KEYS.len() {
        taken |= 1 << slot_of(KEYS[i], multiplier);
        i += 1;
    }
    taken.count_ones() as usize == KEYS.len()
}

/// The field in each slot. Unused slots hold an arbitrary field.
const SLOTS: [Field; 1 << SLOT_BITS] = {
    let mut slots = [Field::Date; 1 << SLOT_BITS];
    let mut i = 0;
    while i < KEYS.len() {
        slots[slot_of(KEYS[i], SLOT_MULTIPLIER)] = Field::ALL[i];
        i += 1;
    }
    slots
};

/// The field of a key. No branch depends on the key.
pub(super) fn field_of(key: Key) -> Option<Field> {
    let field = SLOTS[slot_of(key, SLOT_MULTIPLIER)];
    (KEYS[field as usize] == key).then_some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_at_most_sixteen_bytes() {
        let text = b"0123456789abcdefg";
        assert_eq!(key_at(text, 0, 16), Some(key_of(&text[..16])));
        assert_eq!(key_at(text, 0, 3), Some(key_of(b"012")));
        assert_eq!(key_at(text, 15, 2), Some(key_of(b"fg")));
        assert_eq!(key_at(text, 0, 17), None);
        assert_eq!(key_at(text, 15, 3), None);
    }

    #[test]
    fn keys_in_the_same_slot_are_a_collision() {
        assert!(is_collision_free(SLOT_MULTIPLIER));
        assert!(!is_collision_free(0));
    }
}
