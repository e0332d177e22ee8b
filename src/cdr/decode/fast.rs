//! The fast decoder, for records in the API's usual form, with keys in any order.
//!
//! 1. One pass finds every quotation mark that no backslash escapes, 64 bytes at a time (with AVX2
//!    if available), and detects backslashes, control characters and non-ASCII bytes.
//! 2. Each key is compared with the key at the same place of the previous record, and looked up
//!    only if they differ. If most keys of the previous record differed, no comparison is tried.
//! 3. Values are converted directly from their bytes. A field without a column goes to `extra`.
//!
//! The [plain decoder](super::decode), which defines the meaning of a record, handles everything
//! else: control characters between tokens, escapes in keys, values of other types or that are
//! rounded, and every record that will be rejected. Both decoders return the same result for every
//! input; a property test and a fuzz target verify that.

mod extra;
mod quotes;

use std::borrow::Cow;

use extra::{ExtraWriter, Source};
use quotes::Quotes;
pub use quotes::TextClass;

use super::field::{Member, field_of, key_at};
use super::phone::{phone_number, whole_digits};
use super::plain::{call_time_us, decode_with};
use super::{DecodeError, LocalTimes, Record, parse_time_us};
use crate::cdr::amount::Amount;
use crate::cdr::columns::Field;

/// If more keys than this were mispredicted, the next record's keys are not predicted.
const MAX_MISPREDICTED_KEYS: u32 = 3;

/// Decodes the records of one body. Remembers the previous record's order of keys and its date,
/// which affect the speed but never the result.
#[derive(Debug, Default)]
pub struct Decoder {
    order: KeyOrder,
    /// A bitmap of the record's bytes: 1 for each quotation mark.
    quotes: Vec<u64>,
    class: TextClass,
    extra: ExtraWriter,
    dates: DateCache,
    /// Only the plain decoder handles local times.
    local_times: LocalTimes,
}

impl Decoder {
    /// A decoder for records whose times may lack an offset.
    pub fn new(local_times: LocalTimes) -> Self {
        Self {
            local_times,
            ..Self::default()
        }
    }

    /// Number of ambiguous local times so far, see [`LocalTimes::ambiguous`].
    pub fn ambiguous_times(&self) -> u64 {
        self.local_times.ambiguous()
    }

    /// Which kinds of characters the last record has.
    pub fn text_class(&self) -> TextClass {
        self.class
    }

    /// Decodes one record like [`decode`](super::decode), and also accepts times without an offset.
    ///
    /// # Errors
    /// [`DecodeError`] if the record must be rejected, or is the server's report of a failure.
    pub fn decode<'a>(&mut self, text: &'a [u8]) -> Result<Record<'a>, DecodeError> {
        match self.try_decode(text) {
            Some(record) => Ok(record),
            None => decode_with(text, &mut self.local_times),
        }
    }

    /// The start of a record's call, in microseconds since 1970-01-01T00:00:00Z, even if the rest
    /// of the record is invalid.
    ///
    /// # Errors
    /// [`DecodeError`] if `date` cannot be read, or the record is the server's report of a failure.
    pub(crate) fn call_time_us(&mut self, text: &[u8]) -> Result<i64, DecodeError> {
        match self.try_decode(text) {
            Some(record) => Ok(record.call_time_us),
            None => call_time_us(text, &mut self.local_times),
        }
    }

    /// `None` if the record needs the plain decoder.
    // Inlined into its callers, because a record is large and would be moved.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs a copy of the record")]
    fn try_decode<'a>(&mut self, text: &'a [u8]) -> Option<Record<'a>> {
        let (quotes, class) = Quotes::find(text, &mut self.quotes);
        self.class = class;
        // Positions have 32 bits.
        if class.has_control() || u32::try_from(text.len()).is_err() {
            return None;
        }
        let text = if class.is_ascii {
            debug_assert!(text.is_ascii());
            #[expect(
                unsafe_code,
                reason = "checking again would cost 5 % of the time for decoding"
            )]
            // SAFETY: no byte has its highest bit set, so the text is ASCII.
            unsafe {
                std::str::from_utf8_unchecked(text)
            }
        } else {
            std::str::from_utf8(text).ok()?
        };
        let source = Source {
            text,
            quotes,
            has_backslash: class.has_backslash(),
        };
        let mut values = Values::default();
        self.extra.clear();
        read_members(source, &mut self.order, &mut self.extra, &mut values)?;
        let mut record = values
            .record(text, class.has_backslash(), &mut self.dates)
            .ok()?;
        if class.has_backslash() || !self.extra.is_empty() {
            complete(&mut record, source, &mut self.extra)?;
        }
        Some(record)
    }
}

/// The fields of the previous record, in their order.
#[derive(Debug, Default)]
struct KeyOrder {
    /// `None` for a field without a column.
    fields: Vec<Option<Field>>,
    /// Keys that were not where the record before had them.
    mispredicted: u32,
}

/// Finds the value of each field of a record. `None` if the record needs the plain decoder.
// Not inlined, so that the loops have the registers to themselves.
#[inline(never)]
fn read_members(
    source: Source<'_, '_>,
    order: &mut KeyOrder,
    extra: &mut ExtraWriter,
    values: &mut Values,
) -> Option<()> {
    let (bytes, quotes) = (source.text.as_bytes(), source.quotes);
    // Comparisons that mostly fail cost more than looking up every key.
    let is_shuffled = order.mispredicted > MAX_MISPREDICTED_KEYS;
    let mut mispredicted = 0;
    // The delimiter before the next member, and its position.
    let (mut delimiter, mut at) = (b'{', 0);
    let mut number = 0;
    loop {
        if !is_shuffled {
            let fields = order.fields.get(number..).unwrap_or_default();
            let read = values.read_expected(bytes, &mut at, delimiter, fields, quotes);
            if read > 0 {
                number += read;
                delimiter = b',';
            }
        }
        at = skip_blanks(bytes, at);
        let found = *bytes.get(at)?;
        if found == b'}' && delimiter == b',' && at + 1 == bytes.len() {
            break;
        }
        let open = skip_blanks(bytes, at + 1);
        if found != delimiter || bytes.get(open) != Some(&b'"') {
            return None;
        }
        let key = open + 1;
        let close = quotes.next(key)?;
        let colon = skip_blanks(bytes, close + 1);
        if bytes.get(colon) != Some(&b':') {
            return None;
        }
        let field = key_at(bytes, key, close - key).and_then(field_of);
        at = match field {
            Some(field) => values.read(field, bytes, colon + 1, quotes)?,
            None => extra.field(source, key..close, colon + 1)?,
        };
        match order.fields.get_mut(number) {
            Some(expected) => {
                mispredicted += u32::from(std::mem::replace(expected, field) != field);
            }
            None => order.fields.push(field),
        }
        delimiter = b',';
        number += 1;
    }
    order.mispredicted = mispredicted;
    Some(())
}

/// Unescapes the texts of a record, and adds the fields without a column. `None` if the record
/// needs the plain decoder.
#[inline(never)]
fn complete(
    record: &mut Record<'_>,
    source: Source<'_, '_>,
    extra: &mut ExtraWriter,
) -> Option<()> {
    if source.has_backslash {
        let bytes = source.text.as_bytes();
        let first = memchr::memchr(b'\\', bytes).unwrap_or_default();
        let last = memchr::memrchr(b'\\', bytes).unwrap_or_default();
        for (_, text) in record.texts_mut() {
            // All texts are parts of the source.
            let start = text.as_ptr().addr().wrapping_sub(bytes.as_ptr().addr());
            let may_have_escapes = start <= last && first < start + text.len();
            // A backslash always begins an escape.
            if may_have_escapes && contains_backslash(text) {
                *text = Cow::Owned(unescape(text)?);
            }
        }
    }
    if !extra.is_empty() {
        record.extra = Some(Cow::Owned(extra.finish()?));
    }
    Some(())
}

/// The string that stands for `text` in JSON. `None` if an escape is invalid.
fn unescape(text: &str) -> Option<String> {
    let mut unescaped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(backslash) = memchr::memchr(b'\\', rest.as_bytes()) {
        unescaped.push_str(rest.get(..backslash)?);
        let (escape, behind) = rest.get(backslash + 1..)?.split_at_checked(1)?;
        rest = behind;
        unescaped.push(match escape.as_bytes() {
            b"\"" => '"',
            b"\\" => '\\',
            b"/" => '/',
            b"b" => '\u{8}',
            b"f" => '\u{c}',
            b"n" => '\n',
            b"r" => '\r',
            b"t" => '\t',
            b"u" => {
                let (digits, behind) = rest.split_at_checked(4)?;
                rest = behind;
                let code = digits
                    .chars()
                    .try_fold(0, |code, digit| Some(code * 16 + digit.to_digit(16)?))?;
                match char::from_u32(code) {
                    Some(char) => char,
                    // Half of a surrogate pair.
                    None => return serde_json::from_str(&format!("\"{text}\"")).ok(),
                }
            }
            _ => return None,
        });
    }
    unescaped.push_str(rest);
    Some(unescaped)
}

fn contains_backslash(text: &str) -> bool {
    memchr::memchr(b'\\', text.as_bytes()).is_some()
}

/// The first byte at or after `at` that is not a blank.
#[inline]
fn skip_blanks(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at) == Some(&b' ') {
        at += 1;
    }
    at
}

/// A value that the fast path supports: where it is in the record's text.
#[derive(Clone, Copy, Debug, Default)]
enum Value {
    #[default]
    Absent,
    Null,
    /// A string without its quotation marks, possibly with escapes, which [`complete`] replaces.
    Text(Span),
    /// A JSON number. Only its characters were checked.
    Number(Span),
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    #[expect(clippy::cast_possible_truncation, reason = "longer texts were refused")]
    fn new(start: usize, end: usize) -> Self {
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    fn of(self, text: &str) -> Result<&str, Unexpected> {
        text.get(self.start as usize..self.end as usize)
            .ok_or(Unexpected)
    }
}

impl Value {
    /// Reads the string that begins at `at`. Returns its end.
    #[inline]
    fn read_text(&mut self, at: usize, quotes: Quotes<'_>) -> Option<usize> {
        let close = quotes.next(at + 1)?;
        *self = Self::Text(Span::new(at + 1, close));
        Some(close + 1)
    }

    /// Reads the value that begins at `at` or after blanks. Returns its end.
    #[inline(never)]
    fn read_other(&mut self, bytes: &[u8], at: usize, quotes: Quotes<'_>) -> Option<usize> {
        let at = skip_blanks(bytes, at);
        match bytes.get(at)? {
            b'"' => self.read_text(at, quotes),
            b'n' => {
                *self = Self::Null;
                let literal = bytes.get(at..)?.first_chunk::<4>()?;
                (literal == b"null").then_some(at + literal.len())
            }
            b'-' | b'0'..=b'9' => {
                let rest = bytes.get(at..)?;
                let length = rest
                    .iter()
                    .position(|byte| !matches!(byte, b'0'..=b'9' | b'.' | b'-'))?;
                *self = Self::Number(Span::new(at, at + length));
                Some(at + length)
            }
            _ => None,
        }
    }

    #[inline]
    fn text(self, text: &str) -> Result<Option<&str>, Unexpected> {
        match self {
            Self::Absent | Self::Null => Ok(None),
            Self::Text(span) => span.of(text).map(Some),
            Self::Number(_) => Err(Unexpected),
        }
    }

    /// An id or a name: a string, or the digits of a JSON number.
    #[inline]
    fn identifier(self, text: &str) -> Result<Option<&str>, Unexpected> {
        match self {
            Self::Number(span) => whole_number(span.of(text)?).map(Some),
            _ => self.text(text),
        }
    }

    /// A phone number: a string, or the digits of a JSON number.
    fn phone_number(self, text: &str, has_backslash: bool) -> Result<Option<&str>, Unexpected> {
        match self {
            // The marks of a spreadsheet may be escaped.
            Self::Text(span) => match phone_number(span.of(text)?) {
                Ok(number) if !has_backslash || !contains_backslash(number) => Ok(Some(number)),
                _ => Err(Unexpected),
            },
            _ => self.identifier(text),
        }
    }

    fn amount(self, text: &str) -> Result<Option<Amount>, Unexpected> {
        match self {
            Self::Absent | Self::Null => Ok(None),
            Self::Text(span) => {
                let text = span.of(text)?;
                let amount = Amount::parse_short(text.as_bytes());
                let amount = amount.or_else(|| Amount::parse(text).ok());
                amount.map(Some).ok_or(Unexpected)
            }
            // `Amount::parse` would accept notations that JSON does not permit.
            Self::Number(span) => {
                let amount = Amount::parse_short(span.of(text)?.as_bytes());
                amount.map(Some).ok_or(Unexpected)
            }
        }
    }

    fn seconds(self, text: &str) -> Result<Option<i32>, Unexpected> {
        let text = match self {
            Self::Absent | Self::Null => return Ok(None),
            Self::Number(span) => span.of(text)?.as_bytes(),
            Self::Text(_) => return Err(Unexpected),
        };
        // Nine digits fit.
        if text.len() > 9 || (text.len() > 1 && text[0] == b'0') {
            return Err(Unexpected);
        }
        let seconds = text.iter().try_fold(0_i32, |sum, byte| {
            byte.is_ascii_digit()
                .then(|| sum * 10 + i32::from(byte - b'0'))
        });
        seconds.map(Some).ok_or(Unexpected)
    }
}

/// The digits of a number whose characters were checked. JSON permits no leading zero.
#[inline(never)]
fn whole_number(text: &str) -> Result<&str, Unexpected> {
    whole_digits(text)
        .filter(|digits| digits.len() == 1 || !digits.starts_with('0'))
        .ok_or(Unexpected)
}

/// The record needs the plain decoder.
struct Unexpected;

/// The values of a record, by field. They are converted after all have been read, in a fixed order:
/// converting shuffled fields as they come would cause branch mispredictions.
#[derive(Debug, Default)]
struct Values([Value; Field::ALL.len()]);

impl Values {
    /// Reads members as long as their keys are those of `fields` and there are no blanks. The first
    /// one follows `delimiter` at `at`. Moves `at` behind them, and returns their number.
    #[inline]
    fn read_expected(
        &mut self,
        bytes: &[u8],
        at: &mut usize,
        mut delimiter: u8,
        fields: &[Option<Field>],
        quotes: Quotes<'_>,
    ) -> usize {
        let mut end = *at;
        let mut read = 0;
        for field in fields {
            let next = field.and_then(|field| {
                let value = Member::of(field).value_at(bytes, end, delimiter)?;
                self.read(field, bytes, value, quotes)
            });
            let Some(next) = next else { break };
            end = next;
            delimiter = b',';
            read += 1;
        }
        *at = end;
        read
    }

    /// Reads the value of `field` at `at`. Returns the end of the value, or `None` if the field has
    /// a value already, or it needs the plain decoder.
    #[inline]
    fn read(&mut self, field: Field, bytes: &[u8], at: usize, quotes: Quotes<'_>) -> Option<usize> {
        let value = &mut self.0[field as usize];
        if !matches!(value, Value::Absent) {
            return None;
        }
        if bytes.get(at) == Some(&b'"') {
            value.read_text(at, quotes)
        } else {
            value.read_other(bytes, at, quotes)
        }
    }

    /// The record without its `extra`, and with texts still escaped.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs a copy of the record")]
    fn record<'a>(
        &self,
        text: &'a str,
        has_backslash: bool,
        dates: &mut DateCache,
    ) -> Result<Record<'a>, Unexpected> {
        let value = |field: Field| self.0[field as usize];
        let name = |field| Ok(value(field).text(text)?.map(Cow::Borrowed));
        let number = |field| {
            let number = value(field).phone_number(text, has_backslash)?;
            Ok(number.map(Cow::Borrowed))
        };
        // The plain decoder keeps a different alias in `extra`.
        let aliased = |field, alias| {
            let (field, alias) = (
                value(field).identifier(text)?,
                value(alias).identifier(text)?,
            );
            match (field, alias) {
                (Some(field), Some(alias)) if field != alias => Err(Unexpected),
                (field, alias) => Ok(field.or(alias).map(Cow::Borrowed)),
            }
        };
        let Value::Text(date) = value(Field::Date) else {
            return Err(Unexpected);
        };
        Ok(Record {
            call_id: aliased(Field::CallId, Field::Uuid)?,
            parent_call_id: aliased(Field::ParentCallId, Field::ParentUuid)?,
            call_time_us: dates.parse(date.of(text)?).ok_or(Unexpected)?,
            from_number: number(Field::From)?,
            to_number: number(Field::To)?,
            disposition: name(Field::Disposition)?,
            destination: name(Field::Destination)?,
            sip_trunk: value(Field::SipTrunk).identifier(text)?.map(Cow::Borrowed),
            answered_by: name(Field::AnsweredBy)?,
            duration_seconds: value(Field::Duration).seconds(text)?,
            per_minute_usd: value(Field::PerMinute).amount(text)?,
            charge_usd: value(Field::Charge).amount(text)?,
            forward_fee_usd: value(Field::ForwardFee).amount(text)?,
            extra: None,
            // The plain decoder rounds values.
            is_rounded: false,
            source_day: None,
        })
    }
}

/// Parses times and caches the last date, which most calls of a slice share.
#[derive(Debug, Default)]
struct DateCache {
    date: [u8; 10],
    /// The first instant of `date`.
    start_us: i64,
}

impl DateCache {
    fn parse(&mut self, text: &str) -> Option<i64> {
        let quick = self.time_of_cached_date(text.as_bytes());
        if quick.is_some() {
            return quick;
        }
        let time_us = parse_time_us(text).ok()?;
        if let Some(date) = text.as_bytes().first_chunk::<10>() {
            let date_text = text.get(..10)?;
            self.start_us = parse_time_us(&format!("{date_text}T00:00:00Z")).ok()?;
            self.date = *date;
        }
        Some(time_us)
    }

    /// Parses `…Thh:mm:ss.mmmZ` if it has the cached date.
    fn time_of_cached_date(&self, bytes: &[u8]) -> Option<i64> {
        let (date, bytes) = bytes.split_first_chunk::<10>()?;
        let bytes: &[u8; 14] = bytes.try_into().ok()?;
        let [b'T', clock @ .., b'.', hundreds, tens, ones, b'Z'] = bytes else {
            return None;
        };
        if *date != self.date {
            return None;
        }
        let digit = |byte: u8| {
            let digit = byte.wrapping_sub(b'0');
            (digit <= 9).then_some(u64::from(digit))
        };
        let millis = (digit(*hundreds)? * 10 + digit(*tens)?) * 10 + digit(*ones)?;
        let seconds = seconds_of_clock(*clock)?;
        Some(self.start_us + ((seconds * 1_000 + millis) * 1_000).cast_signed())
    }
}

/// The second of the day of `hh:mm:ss`. Processes all eight bytes at once, the first as the lowest.
fn seconds_of_clock(clock: [u8; 8]) -> Option<u64> {
    const ZEROS: u64 = u64::from_le_bytes(*b"00:00:00");
    const COLONS: u64 = 0x0000_FF00_00FF_0000;
    const HIGHEST_BITS: u64 = 0x8080_8080_8080_8080;
    // Digits become their values, and colons zero.
    let digits = u64::from_le_bytes(clock) ^ ZEROS;
    // Values above nine set the highest bit.
    let beyond_nine = digits.wrapping_add(0x7676_7676_7676_7676) | digits;
    if beyond_nine & HIGHEST_BITS != 0 || digits & COLONS != 0 {
        return None;
    }
    // Ten times each byte plus the next byte: at most 99.
    let pairs = digits * 10 + (digits >> 8);
    let [hour, .., second, _] = pairs.to_le_bytes().map(u64::from);
    let minute = pairs >> 24 & 0xFF;
    (hour <= 23 && minute <= 59 && second <= 59).then(|| hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests;
