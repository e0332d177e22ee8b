//! A reusable byte buffer.

/// Bytes copied at once: enough for an id or a phone number.
const COPY_BYTES: usize = 48;

/// A larger buffer is freed when it is cleared.
const KEPT_BYTES: usize = 16 << 20;

/// A buffer optimised for appending small pieces: without a function call for each, and without
/// zeroing memory first. Its size is at most twice the longest content.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    bytes: Vec<u8>,
    /// Bytes in use.
    end: usize,
}

impl Scratch {
    /// Removes the content.
    pub(crate) fn clear(&mut self) {
        self.end = 0;
        if self.bytes.len() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
    }

    /// Length of the content.
    pub(crate) fn len(&self) -> usize {
        self.end
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.end]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.end]
    }

    /// Appends the first `used` bytes. Copies all of them, which is faster.
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

    /// Appends bytes.
    #[inline]
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        if self.bytes.len() - self.end < bytes.len() {
            self.grow(bytes.len());
        }
        self.bytes[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Appends the text `bytes[start..end]` preceded by its length in 32 bits. Copies a short text
    /// together with the bytes after it, which is faster.
    #[expect(clippy::inline_always, reason = "a call would take as long")]
    #[inline(always)]
    pub(crate) fn push_text(&mut self, bytes: &[u8], start: usize, end: usize) {
        let length = end - start;
        match bytes.get(start..).and_then(<[u8]>::first_chunk) {
            Some(chunk) if length <= COPY_BYTES => {
                let room = self.room::<{ 4 + COPY_BYTES }>();
                let (length_room, text_room) = room.split_at_mut(4);
                length_room.copy_from_slice(&u32_of(length).to_le_bytes());
                text_room.copy_from_slice(chunk as &[u8; COPY_BYTES]);
                self.end += 4 + length;
            }
            _ => self.push_long_text(&bytes[start..end]),
        }
    }

    #[inline(never)]
    fn push_long_text(&mut self, text: &[u8]) {
        self.push(u32_of(text.len()).to_le_bytes());
        self.extend(text);
    }

    #[inline]
    fn room<const N: usize>(&mut self) -> &mut [u8; N] {
        if self.bytes.len() - self.end < N {
            self.grow(N);
        }
        self.bytes[self.end..]
            .first_chunk_mut()
            .expect("`grow` just made room")
    }

    #[cold]
    fn grow(&mut self, additional: usize) {
        let length = (self.end + additional)
            .max(2 * self.bytes.len())
            .max(1 << 10);
        self.bytes.resize(length, 0);
    }
}

fn u32_of(length: usize) -> u32 {
    u32::try_from(length).expect("a batch has some megabytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_everything_appended_since_the_last_clear(
            rounds in proptest::collection::vec(proptest::collection::vec(".{0,70}", 0..40), 1..4)
        ) {
            let mut scratch = Scratch::default();
            for pieces in rounds {
                scratch.clear();
                let mut expected = Vec::new();
                for piece in pieces {
                    let bytes = piece.as_bytes();
                    let half = bytes.len() / 2;
                    scratch.extend(&bytes[..half]);
                    scratch.push_text(bytes, half, bytes.len());
                    scratch.push_text(&[bytes, &[7; 50]].concat(), 0, bytes.len());
                    scratch.push(bytes.len().to_le_bytes());
                    scratch.push_start(b"abcdefgh", bytes.len() % 9);
                    let length = |bytes: usize| u32::try_from(bytes).unwrap().to_le_bytes();
                    expected.extend_from_slice(&bytes[..half]);
                    expected.extend_from_slice(&length(bytes.len() - half));
                    expected.extend_from_slice(&bytes[half..]);
                    expected.extend_from_slice(&length(bytes.len()));
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
