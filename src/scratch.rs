//! Bytes laid out one after the other, again and again in the same memory.

/// A buffer to which small pieces are added with as little ado as possible: without a call for each, and without
/// zeroing what is written next. It has the size of the most that was ever in it.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    bytes: Vec<u8>,
    /// Bytes in use.
    end: usize,
}

impl Scratch {
    /// Empties it.
    pub(crate) fn clear(&mut self) {
        self.end = 0;
    }

    /// Bytes in it.
    pub(crate) fn len(&self) -> usize {
        self.end
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.end]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.end]
    }

    /// Adds the first `used` of some bytes. All of them are copied, which is faster.
    #[inline]
    pub(crate) fn push_start<const N: usize>(&mut self, bytes: &[u8; N], used: usize) {
        debug_assert!(used <= N);
        self.room::<N>().copy_from_slice(bytes);
        self.end += used;
    }

    #[inline]
    pub(crate) fn push<const N: usize>(&mut self, bytes: [u8; N]) {
        self.push_start(&bytes, N);
    }

    /// Adds bytes of any number, mostly few.
    #[inline]
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        let length = bytes.len();
        match length {
            17..=32 => self.push_ends::<16>(bytes),
            9..=16 => self.push_ends::<8>(bytes),
            33..=64 => self.push_ends::<32>(bytes),
            _ => {
                if self.bytes.len() - self.end < length {
                    self.grow(length);
                }
                self.bytes[self.end..self.end + length].copy_from_slice(bytes);
            }
        }
        self.end += length;
    }

    /// Copies the first `N` bytes and the last `N`, which overlap or meet.
    #[inline]
    fn push_ends<const N: usize>(&mut self, bytes: &[u8]) {
        let (Some(first), Some(last)) = (bytes.first_chunk::<N>(), bytes.last_chunk::<N>()) else {
            unreachable!("as many bytes as the caller says");
        };
        let end = bytes.len();
        // Twice as much is enough.
        if self.bytes.len() - self.end < 2 * N {
            self.grow(2 * N);
        }
        let room = &mut self.bytes[self.end..self.end + 2 * N];
        room[..N].copy_from_slice(first);
        room[end - N..end].copy_from_slice(last);
    }

    fn room<const N: usize>(&mut self) -> &mut [u8; N] {
        if self.bytes.len() - self.end < N {
            self.grow(N);
        }
        self.bytes[self.end..]
            .first_chunk_mut()
            .expect("it was just made")
    }

    #[cold]
    fn grow(&mut self, additional: usize) {
        let length = (self.end + additional)
            .max(2 * self.bytes.len())
            .max(1 << 10);
        self.bytes.resize(length, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_was_added_since_it_was_emptied(
            rounds in proptest::collection::vec(proptest::collection::vec(".{0,70}", 0..40), 1..4)
        ) {
            let mut scratch = Scratch::default();
            for pieces in rounds {
                scratch.clear();
                let mut expected = Vec::new();
                for piece in pieces {
                    let bytes = piece.as_bytes();
                    scratch.extend(bytes);
                    scratch.push(bytes.len().to_le_bytes());
                    scratch.push_start(b"abcdefgh", bytes.len() % 9);
                    expected.extend_from_slice(bytes);
                    expected.extend_from_slice(&bytes.len().to_le_bytes());
                    expected.extend_from_slice(&b"abcdefgh"[..bytes.len() % 9]);
                }
                prop_assert_eq!(scratch.as_slice(), &expected);
                prop_assert_eq!(scratch.len(), expected.len());
                prop_assert_eq!(scratch.as_mut_slice(), &expected);
            }
        }
    }
}
