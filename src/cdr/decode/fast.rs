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

use super::field::{field_of, key_at};
use super::phone::{phone_number, whole_digits};
use super::plain::decode_with;
use super::{DecodeError, LocalTimes, Record, parse_time_us};
use crate::cdr::amount::Amount;
use crate::cdr::columns::Field;

/// If more keys than this were mispredicted, the next record's keys are not predicted.
const MAX_MISPREDICTED_KEYS: u32 = 3;

/// Decodes the records of one body. Remembers the previous record's order of keys and its date,
/// which affect the speed but never the result.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The fields of the previous record, in their order; `None` for one without a column.
    order: Vec<Option<Field>>,
    /// Keys of the previous record that were not where its predecessor had them.
    mispredicted_keys: u32,
    /// A bitmap of the record's bytes: 1 for each quotation mark.
    quotes: Vec<u64>,
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

    /// `None` if the record needs the plain decoder.
    // Inlined into its only caller, because a record is large and would be moved.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs a copy of the record")]
    fn try_decode<'a>(&mut self, text: &'a [u8]) -> Option<Record<'a>> {
        let Self {
            order,
            mispredicted_keys,
            quotes,
            extra,
            dates,
            local_times: _,
        } = self;
        // Comparisons that mostly fail cost more than looking up every key.
        let is_shuffled = *mispredicted_keys > MAX_MISPREDICTED_KEYS;
        let mut mispredicted = 0;
        let (quotes, class) = Quotes::find(text, quotes);
        if class.has_control {
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
            has_backslash: class.has_backslash,
        };
        let bytes = text.as_bytes();
        if bytes.first() != Some(&b'{') {
            return None;
        }
        extra.clear();
        let mut values: Values<'_> = [Value::Null; Field::ALL.len()];
        let mut at = 1;
        let mut seen = 0_u32;
        'members: for number in 0.. {
            if bytes.get(at) != Some(&b'"') {
                at = skip_blanks(bytes, at);
                if bytes.get(at) != Some(&b'"') {
                    return None;
                }
            }
            let field = match order.get(number) {
                Some(Some(field)) if !is_shuffled && field.is_key_at(bytes, at + 1) => {
                    at += field.name().len() + 3;
                    Some(*field)
                }
                expected => {
                    let key = at + 1;
                    let close = quotes.next(key)?;
                    let colon = skip_blanks(bytes, close + 1);
                    if bytes.get(colon) != Some(&b':') {
                        return None;
                    }
                    at = colon + 1;
                    let field = key_at(bytes, key, close - key).and_then(field_of);
                    mispredicted += u32::from(expected != Some(&field));
                    match order.get_mut(number) {
                        Some(expected) => *expected = field,
                        None => order.push(field),
                    }
                    if field.is_none() {
                        at = extra.field(source, text.get(key..close)?, at)?;
                    }
                    field
                }
            };
            if let Some(field) = field {
                let bit = 1 << field as u32;
                if seen & bit != 0 {
                    return None;
                }
                seen |= bit;
                let slot = &mut values[field as usize];
                (*slot, at) = Value::read(text, at, quotes)?;
            }
            loop {
                let byte = *bytes.get(at)?;
                at += 1;
                match byte {
                    b',' => break,
                    b'}' if at == bytes.len() => break 'members,
                    b' ' => {}
                    _ => return None,
                }
            }
        }
        *mispredicted_keys = mispredicted;
        let record = record(&values, dates).ok()?;
        if class.has_backslash || !extra.is_empty() {
            return complete(record, class.has_backslash, extra);
        }
        Some(record)
    }
}

/// Unescapes the texts of a record, and adds the fields without a column.
#[inline(never)]
fn complete<'a>(
    mut record: Record<'a>,
    has_backslash: bool,
    extra: &mut ExtraWriter,
) -> Option<Record<'a>> {
    if has_backslash {
        for (_, text) in record.texts_mut() {
            // A backslash always begins an escape.
            if text.contains('\\') {
                *text = Cow::Owned(serde_json::from_str(&format!("\"{text}\"")).ok()?);
            }
        }
    }
    if !extra.is_empty() {
        record.extra = Some(Cow::Owned(extra.finish()?));
    }
    Some(record)
}

/// The first byte at or after `at` that is not a blank.
fn skip_blanks(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at) == Some(&b' ') {
        at += 1;
    }
    at
}

/// A value that the fast path supports.
#[derive(Clone, Copy)]
enum Value<'a> {
    Null,
    /// A string as it stands, possibly with escapes, which [`complete`] replaces.
    Text(&'a str),
    /// A JSON number. Only its characters were checked.
    Number(&'a str),
}

impl<'a> Value<'a> {
    /// The value that begins at `at`, and where it ends.
    fn read(text: &'a str, mut at: usize, quotes: Quotes<'_>) -> Option<(Self, usize)> {
        let bytes = text.as_bytes();
        loop {
            return match bytes.get(at)? {
                b'"' => {
                    let close = quotes.next(at + 1)?;
                    Some((Self::Text(text.get(at + 1..close)?), close + 1))
                }
                b' ' => {
                    at += 1;
                    continue;
                }
                b'n' => {
                    let end = at + b"null".len();
                    (bytes.get(at..end)? == b"null").then_some((Self::Null, end))
                }
                b'-' | b'0'..=b'9' => {
                    let rest = bytes.get(at..)?;
                    let length = rest
                        .iter()
                        .position(|byte| !matches!(byte, b'0'..=b'9' | b'.' | b'-'))?;
                    let end = at + length;
                    Some((Self::Number(text.get(at..end)?), end))
                }
                _ => None,
            };
        }
    }

    fn text(self) -> Result<Option<&'a str>, Unexpected> {
        match self {
            Self::Null => Ok(None),
            Self::Text(text) => Ok(Some(text)),
            Self::Number(_) => Err(Unexpected),
        }
    }

    /// An id or a name: a string, or the digits of a JSON number.
    fn identifier(self) -> Result<Option<&'a str>, Unexpected> {
        match self {
            Self::Number(text) => whole_number(text).map(Some),
            _ => self.text(),
        }
    }

    /// A phone number: a string, or the digits of a JSON number.
    fn phone_number(self) -> Result<Option<&'a str>, Unexpected> {
        match self {
            // The marks of a spreadsheet may be escaped.
            Self::Text(text) => match phone_number(text) {
                Ok(number) if !number.contains('\\') => Ok(Some(number)),
                _ => Err(Unexpected),
            },
            _ => self.identifier(),
        }
    }

    fn amount(self) -> Result<Option<Amount>, Unexpected> {
        match self {
            Self::Null => Ok(None),
            Self::Text(text) => Amount::parse_short(text.as_bytes())
                .or_else(|| Amount::parse(text).ok())
                .map_or(Err(Unexpected), |amount| Ok(Some(amount))),
            // `Amount::parse` would accept notations that JSON does not permit.
            Self::Number(text) => Amount::parse_short(text.as_bytes())
                .map_or(Err(Unexpected), |amount| Ok(Some(amount))),
        }
    }

    fn seconds(self) -> Result<Option<i32>, Unexpected> {
        let text = match self {
            Self::Null => return Ok(None),
            Self::Number(text) => text.as_bytes(),
            Self::Text(_) => return Err(Unexpected),
        };
        // Nine digits fit.
        if text.len() > 9 || (text.len() > 1 && text[0] == b'0') {
            return Err(Unexpected);
        }
        text.iter()
            .try_fold(0_i32, |sum, byte| {
                byte.is_ascii_digit()
                    .then(|| sum * 10 + i32::from(byte - b'0'))
            })
            .map_or(Err(Unexpected), |seconds| Ok(Some(seconds)))
    }
}

/// The digits of a number whose characters were checked. JSON permits no leading zero.
fn whole_number(text: &str) -> Result<&str, Unexpected> {
    whole_digits(text)
        .filter(|digits| digits.len() == 1 || !digits.starts_with('0'))
        .ok_or(Unexpected)
}

/// The record needs the plain decoder.
struct Unexpected;

/// The values of a record, by field. They are converted after all have been read, in a fixed order:
/// converting shuffled fields as they come would cause branch mispredictions.
type Values<'a> = [Value<'a>; Field::ALL.len()];

#[inline(always)]
#[expect(clippy::inline_always, reason = "a call costs a copy of the record")]
fn record<'a>(values: &Values<'a>, dates: &mut DateCache) -> Result<Record<'a>, Unexpected> {
    let value = |field: Field| values[field as usize];
    let text = |field| Ok(value(field).text()?.map(Cow::Borrowed));
    let number = |field| Ok(value(field).phone_number()?.map(Cow::Borrowed));
    // The plain decoder keeps a different alias in `extra`.
    let aliased = |field, alias| {
        let (field, alias) = (value(field).identifier()?, value(alias).identifier()?);
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
        call_time_us: dates.parse(date).ok_or(Unexpected)?,
        from_number: number(Field::From)?,
        to_number: number(Field::To)?,
        disposition: text(Field::Disposition)?,
        destination: text(Field::Destination)?,
        sip_trunk: value(Field::SipTrunk).identifier()?.map(Cow::Borrowed),
        answered_by: text(Field::AnsweredBy)?,
        duration_seconds: value(Field::Duration).seconds()?,
        per_minute_usd: value(Field::PerMinute).amount()?,
        charge_usd: value(Field::Charge).amount()?,
        forward_fee_usd: value(Field::ForwardFee).amount()?,
        extra: None,
    })
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
