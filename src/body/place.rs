//! Where a record of an export stands in the user's files. The place is written in front of the
//! record in the file of its day, so that its reject names a line that the user has.

use super::framing::Position;

/// Three numbers of 20 digits, each followed by a space.
const MAX_BYTES: usize = 3 * 21;

/// Where a record begins in an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Number of the file, counted from 0.
    pub(crate) file: usize,
    /// Where it begins in that file, decompressed.
    pub(crate) at: Position,
}

impl Place {
    /// Adds it to a line, of which the record is to be the rest.
    pub(crate) fn write(self, line: &mut Vec<u8>) {
        let mut text = [b' '; MAX_BYTES];
        let mut start = text.len();
        for number in [self.at.byte, self.at.line, self.file as u64] {
            // The space after it is there.
            start -= 1;
            let mut rest = number;
            loop {
                start -= 1;
                text[start] = b'0' + (rest % 10) as u8;
                rest /= 10;
                if rest == 0 {
                    break;
                }
            }
        }
        line.extend_from_slice(&text[start..]);
    }

    /// Takes it off a line, and leaves the record. `None` if none was written there.
    pub(crate) fn read(line: &[u8]) -> Option<(Self, &[u8])> {
        let (file, rest) = number(line)?;
        let (line, rest) = number(rest)?;
        let (byte, record) = number(rest)?;
        let file = usize::try_from(file).ok()?;
        let at = Position { line, byte };
        Some((Self { file, at }, record))
    }
}

/// A number, and what follows its space.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (i, &byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                let digit = u64::from(byte - b'0');
                number = number.checked_mul(10)?.checked_add(digit)?;
            }
            b' ' if i > 0 => return Some((number, &text[i + 1..])),
            _ => break,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_in_front_of_a_record_is_read_again(
            file: usize,
            line in prop_oneof![any::<u64>(), 0..=100_u64, Just(u64::MAX)],
            byte in prop_oneof![any::<u64>(), 0..=100_u64, Just(u64::MAX)],
            record: Vec<u8>,
        ) {
            let place = Place { file, at: Position { line, byte } };
            let mut text = Vec::new();
            place.write(&mut text);
            prop_assert_eq!(&text, &format!("{file} {line} {byte} ").into_bytes());
            text.extend_from_slice(&record);
            prop_assert_eq!(Place::read(&text), Some((place, &record[..])));
        }
    }

    #[test]
    fn a_line_without_a_place_has_none() {
        for line in [
            "",
            "1 2 3",
            "1 2 {}",
            " 1 2 3 ",
            "1  2 3 ",
            "1 2 18446744073709551616 ",
        ] {
            assert_eq!(Place::read(line.as_bytes()), None, "{line}");
        }
    }
}
