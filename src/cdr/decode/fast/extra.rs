//! Writes fields without a column as one JSON object in canonical form, as the plain decoder does:
//! keys sorted at every depth, no white space between tokens, scalars unchanged.

use std::ops::Range;

use serde::de::IgnoredAny;

use super::quotes::Quotes;
use super::{contains_backslash, skip_blanks};

/// Values nested deeper than this need the plain decoder.
const MAX_FAST_DEPTH: usize = 16;

/// Memory of one record that is kept for the next one.
const MAX_KEPT_BYTES: usize = 64 << 10;

/// Collects the fields of one record. Keeps its memory for the next one.
#[derive(Debug, Default)]
pub(super) struct ExtraWriter {
    /// The object so far. Each member ends with a comma.
    json: String,
    /// Members of the objects that are still open, outermost first.
    members: Vec<Member>,
    /// An object while its members are sorted.
    unsorted: String,
}

/// One member of an object, in [`ExtraWriter::json`].
#[derive(Clone, Copy, Debug)]
struct Member {
    start: usize,
    /// Where its value ends, and a comma follows.
    end: usize,
    /// Length of its key, without quotation marks.
    key_bytes: usize,
}

impl Member {
    fn key(self, json: &[u8]) -> &[u8] {
        &json[self.start + 1..][..self.key_bytes]
    }
}

/// A record's text and what is known of its bytes.
#[derive(Clone, Copy)]
pub(super) struct Source<'a, 'q> {
    pub(super) text: &'a str,
    pub(super) quotes: Quotes<'q>,
    pub(super) has_backslash: bool,
}

impl ExtraWriter {
    /// Starts a record.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.json.clear();
        self.members.clear();
        if self.json.capacity() > MAX_KEPT_BYTES {
            *self = Self::default();
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.json.is_empty()
    }

    /// The record's fields without a column. `None` if it has none, or any twice.
    pub(super) fn finish(&mut self) -> Option<String> {
        self.end_object(0);
        let json = self.json.as_bytes();
        let mut pairs = self.members.windows(2);
        let is_duplicate = pairs.any(|pair| pair[0].key(json) == pair[1].key(json));
        (!is_duplicate).then(|| self.json.clone())
    }

    /// Adds a field whose key is in this range and whose value is at `at`. Returns the end of the
    /// value, or `None` if it is not valid or needs the plain decoder.
    pub(super) fn field(
        &mut self,
        source: Source<'_, '_>,
        key: Range<usize>,
        at: usize,
    ) -> Option<usize> {
        if self.json.is_empty() {
            self.json.push('{');
        }
        self.member(source, key, at, 1)
    }

    fn member(
        &mut self,
        source: Source<'_, '_>,
        key: Range<usize>,
        at: usize,
        depth: usize,
    ) -> Option<usize> {
        if source.has_backslash && contains_backslash(source.text.get(key.clone())?) {
            return None;
        }
        let number = self.members.len();
        self.members.push(Member {
            start: self.json.len(),
            end: 0,
            key_bytes: key.len(),
        });
        if at == key.end + "\":".len() {
            self.json.push_str(source.text.get(key.start - 1..at)?);
        } else {
            // Blanks surround the colon.
            self.json
                .push_str(source.text.get(key.start - 1..=key.end)?);
            self.json.push(':');
        }
        let end = self.value(source, at, depth)?;
        self.members[number].end = self.json.len();
        self.json.push(',');
        Some(end)
    }

    fn value(&mut self, source: Source<'_, '_>, at: usize, depth: usize) -> Option<usize> {
        let bytes = source.text.as_bytes();
        let at = skip_blanks(bytes, at);
        let end = match bytes.get(at)? {
            b'"' => {
                let end = source.quotes.next(at + 1)? + 1;
                let string = source.text.get(at..end)?;
                if source.has_backslash && contains_backslash(string) {
                    check_scalar(string)?;
                }
                end
            }
            b'{' if depth < MAX_FAST_DEPTH => return self.object(source, at, depth + 1),
            b'[' if depth < MAX_FAST_DEPTH => return self.array(source, at, depth + 1),
            _ => {
                let is_part =
                    |byte: &u8| matches!(byte, b'+' | b'-' | b'.') || byte.is_ascii_alphanumeric();
                let length = bytes.get(at..)?.iter().position(|byte| !is_part(byte))?;
                check_scalar(source.text.get(at..at + length)?)?;
                at + length
            }
        };
        self.json.push_str(source.text.get(at..end)?);
        Some(end)
    }

    fn array(&mut self, source: Source<'_, '_>, open: usize, depth: usize) -> Option<usize> {
        let bytes = source.text.as_bytes();
        self.json.push('[');
        let mut at = skip_blanks(bytes, open + 1);
        if *bytes.get(at)? == b']' {
            self.json.push(']');
            return Some(at + 1);
        }
        loop {
            at = skip_blanks(bytes, self.value(source, at, depth)?);
            let byte = *bytes.get(at)?;
            at += 1;
            match byte {
                b',' => self.json.push(','),
                b']' => {
                    self.json.push(']');
                    return Some(at);
                }
                _ => return None,
            }
        }
    }

    fn object(&mut self, source: Source<'_, '_>, open: usize, depth: usize) -> Option<usize> {
        let bytes = source.text.as_bytes();
        self.json.push('{');
        let mut at = skip_blanks(bytes, open + 1);
        if *bytes.get(at)? == b'}' {
            self.json.push('}');
            return Some(at + 1);
        }
        let first = self.members.len();
        loop {
            if *bytes.get(at)? != b'"' {
                return None;
            }
            let close = source.quotes.next(at + 1)?;
            let key = at + 1..close;
            let colon = skip_blanks(bytes, close + 1);
            if *bytes.get(colon)? != b':' {
                return None;
            }
            at = skip_blanks(bytes, self.member(source, key, colon + 1, depth)?);
            match bytes.get(at)? {
                b',' => at = skip_blanks(bytes, at + 1),
                b'}' => break,
                _ => return None,
            }
        }
        self.end_object(first);
        self.members.truncate(first);
        Some(at + 1)
    }

    /// Sorts the members of an object by their keys; members with the same key stay in their order.
    /// Ends the object.
    fn end_object(&mut self, first: usize) {
        let Some(members) = self.members.get_mut(first..).filter(|all| !all.is_empty()) else {
            return;
        };
        let json = self.json.as_bytes();
        if !members.is_sorted_by_key(|member| member.key(json)) {
            // Only this object is copied: a copy of everything so far would take quadratic time.
            let start = members[0].start;
            members.sort_by(|left, right| left.key(json).cmp(right.key(json)));
            self.unsorted.clear();
            self.unsorted.push_str(
                self.json
                    .get(start..)
                    .expect("members start at a character"),
            );
            self.json.truncate(start);
            for member in members {
                let text = self.unsorted.get(member.start - start..member.end - start);
                member.start = self.json.len();
                self.json
                    .push_str(text.expect("a member starts and ends at a character"));
                member.end = self.json.len();
                self.json.push(',');
            }
        }
        self.json.pop();
        self.json.push('}');
    }
}

/// Checks a string, number or literal as the plain decoder does.
fn check_scalar(text: &str) -> Option<()> {
    // The most frequent ones are checked here because it is faster.
    let is_checked = match text.as_bytes() {
        b"null" | b"true" | b"false" | b"0" => true,
        [b'1'..=b'9', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    (is_checked || serde_json::from_str::<IgnoredAny>(text).is_ok()).then_some(())
}

#[cfg(test)]
mod tests {
    use super::super::Decoder;
    use super::*;
    use crate::cdr::decode::{MAX_DEPTH, decode};

    /// Asserts that both decoders agree on a record. Returns whether the fast path decoded it.
    fn is_fast(members: &str) -> bool {
        let text = format!(r#"{{{members},"date":"2026-10-01T10:00:00Z"}}"#);
        let mut decoder = Decoder::default();
        assert_eq!(decoder.decode(text.as_bytes()), decode(text.as_bytes()));
        decoder.try_decode(text.as_bytes()).is_some()
    }

    #[test]
    fn fields_without_a_column_are_sorted_at_every_depth_and_have_no_blanks() {
        for members in [
            r#""k" :1"#,
            r#""b" : [ ] , "a" : { } , "c" : [ 1 , { "y" : 2 , "x" : "z" } , 3 ]"#,
            r#""a":1,"b":2,"aa":3,"":4"#,
            r#""c":{"b":1,"a":{"d":1,"c":[{"f":1,"e":2}]}},"a":{"a":1,"b":2,"c":3},"b":0"#,
            r#""b":{"abc":1,"abd":2,"abb":3},"a":{"x":1,"x":2,"w":3}"#,
            r#""b":"\\","note":"\u00e9","a":["x"]"#,
        ] {
            assert!(is_fast(members), "{members}");
        }
    }

    #[test]
    fn the_plain_decoder_handles_repeated_keys_escapes_in_keys_and_broken_values() {
        for members in [
            r#""x":1,"x":1"#,
            r#""abc":1,"b":2,"abc":3"#,
            r#""\u0078":1"#,
            r#""x":{"\u0078":1}"#,
            r#""x":"\u12""#,
            r#""x":["\q"]"#,
            r#""x":[1 2]"#,
            r#""x":[1}"#,
            r#""x":{"a" 1}"#,
            r#""x":{a:1}"#,
            r#""x":{"a":1]"#,
            r#""x":{"a":1 "b":2}"#,
            r#""x":01"#,
            r#""x":1a"#,
        ] {
            assert!(!is_fast(members), "{members}");
        }
    }

    #[test]
    fn the_plain_decoder_handles_deep_values() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let is_fast = |depth| {
                is_fast(&format!(
                    "\"x\":{}0{}",
                    open.repeat(depth),
                    close.repeat(depth)
                ))
            };
            // The record's own braces count.
            assert!(is_fast(MAX_FAST_DEPTH - 1));
            assert!(!is_fast(MAX_FAST_DEPTH));
            assert!(!is_fast(MAX_DEPTH));
        }
    }

    #[test]
    fn only_the_memory_of_a_long_record_is_freed() {
        for (bytes, is_kept) in [
            (100, true),
            (MAX_KEPT_BYTES, true),
            (MAX_KEPT_BYTES + 1, false),
        ] {
            let mut writer = ExtraWriter {
                json: String::with_capacity(bytes),
                ..ExtraWriter::default()
            };
            writer.clear();
            assert_eq!(writer.json.capacity() >= bytes, is_kept, "{bytes}");
        }
    }
}
