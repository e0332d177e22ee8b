//! The fast decoder: for records as the API writes them, whatever the order of their keys.
//!
//! One pass finds every quotation mark of a record, 16 bytes at a time, and whether anything in it is out of
//! the ordinary. Then each key is compared with the one that stood there in the record before, and only where they differ is it
//! looked up; values are converted straight from their bytes. Whatever is unexpected, an escape, white space
//! between tokens, a field without a column, another type, anything that will be rejected, is left to the
//! [plain decoder](super::decode), which defines what a record means. The two agree on every input: a
//! property test and a fuzz target hold them together.

use std::borrow::Cow;

use super::field::{Field, KEYS, Key, field_of, key_at};
use super::{Record, Refusal, decode, parse_time_us};
use crate::amount::Amount;

/// Bytes whose quotation marks share a word.
const WORD_BYTES: usize = 64;

/// Decodes the records of one body. Remembers the order of keys and the date of the record before, which
/// make it fast, and nothing that decides what comes out.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The fields of the record before, in their order.
    order: Vec<Field>,
    /// A bit for each byte that is a quotation mark.
    quotes: Vec<u64>,
    dates: DateCache,
}

impl Decoder {
    /// Decodes one record: the same as [`decode`].
    ///
    /// # Errors
    /// [`Refusal`]: the record is to be rejected, or it is the server's report of a failure.
    pub fn decode<'a>(&mut self, text: &'a [u8]) -> Result<Record<'a>, Refusal> {
        match self.try_decode(text) {
            Some(record) => Ok(record),
            None => decode(text),
        }
    }

    /// `None` if there is anything unexpected in the record.
    fn try_decode<'a>(&mut self, text: &'a [u8]) -> Option<Record<'a>> {
        let Self {
            order,
            quotes,
            dates,
        } = self;
        let text = match find_quotes(text, quotes) {
            Kind::Odd => return None,
            Kind::Ascii => as_text(text),
            Kind::Text => std::str::from_utf8(text).ok()?,
        };
        let bytes = text.as_bytes();
        if bytes.first() != Some(&b'{') {
            return None;
        }
        let mut quotes = Quotes::new(quotes);
        let mut values: Values<'_> = [Value::Null; Field::ALL.len()];
        let mut at = 1;
        let mut seen = 0_u32;
        for number in 0.. {
            let open = quotes.next()?;
            let close = quotes.next()?;
            if open != at || bytes.get(close + 1) != Some(&b':') {
                return None;
            }
            let key = key_at(bytes, open + 1, close - open - 1)?;
            let field = match order.get(number) {
                Some(field) if KEYS[*field as usize] == key => *field,
                _ => look_up(order, number, key)?,
            };
            let bit = 1 << field as u32;
            if seen & bit != 0 {
                return None;
            }
            seen |= bit;
            let slot = &mut values[field as usize];
            (*slot, at) = Value::read(text, close + 2, &mut quotes)?;
            match bytes.get(at)? {
                b',' => at += 1,
                b'}' if at + 1 == bytes.len() => break,
                _ => return None,
            }
        }
        record(&values, dates).ok()
    }
}

/// What [`find_quotes`] has found to be ASCII, as the text that it is.
fn as_text(ascii: &[u8]) -> &str {
    debug_assert!(ascii.is_ascii());
    #[expect(
        unsafe_code,
        reason = "a second look costs a twentieth of all decoding"
    )]
    // SAFETY: no byte has its highest bit set, so each is a character.
    unsafe {
        std::str::from_utf8_unchecked(ascii)
    }
}

/// Finds a field by its key and remembers that it stood here.
fn look_up(order: &mut Vec<Field>, number: usize, key: Key) -> Option<Field> {
    let field = field_of(key)?;
    match order.get_mut(number) {
        Some(expected) => *expected = field,
        None => order.push(field),
    }
    Some(field)
}

/// A value as the fast path knows them.
#[derive(Clone, Copy)]
enum Value<'a> {
    Null,
    Text(&'a str),
    /// A bare number, of which only the characters are known to be a number's.
    Number(&'a str),
}

impl<'a> Value<'a> {
    /// The value that begins at `at`, and where it ends.
    fn read(text: &'a str, at: usize, quotes: &mut Quotes<'_>) -> Option<(Self, usize)> {
        let bytes = text.as_bytes();
        match bytes.get(at)? {
            b'"' => {
                // This very one.
                quotes.next()?;
                let close = quotes.next()?;
                Some((Self::Text(text.get(at + 1..close)?), close + 1))
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
        }
    }

    fn text(self) -> Result<Option<&'a str>, Unexpected> {
        match self {
            Self::Null => Ok(None),
            Self::Text(text) => Ok(Some(text)),
            Self::Number(_) => Err(Unexpected),
        }
    }

    /// Text, or the digits of a bare number.
    fn number_or_text(self) -> Result<Option<&'a str>, Unexpected> {
        let Self::Number(text) = self else {
            return self.text();
        };
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit())
            && (text.len() == 1 || !text.starts_with('0'));
        if is_plain {
            Ok(Some(text))
        } else {
            Err(Unexpected)
        }
    }

    fn amount(self) -> Result<Option<Amount>, Unexpected> {
        match self {
            Self::Null => Ok(None),
            Self::Text(text) | Self::Number(text) => Amount::parse_short(text.as_bytes())
                .or_else(|| Amount::parse(text).ok())
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

/// Something that only the plain decoder understands, or refuses.
struct Unexpected;

/// The values of a record, by field. They are only converted when all of them are there, in an order that is
/// always the same: which field comes next is what a processor guesses wrong where keys are shuffled.
type Values<'a> = [Value<'a>; Field::ALL.len()];

fn record<'a>(values: &Values<'a>, dates: &mut DateCache) -> Result<Record<'a>, Unexpected> {
    let value = |field: Field| values[field as usize];
    let text = |field| Ok(value(field).text()?.map(Cow::Borrowed));
    let number = |field| Ok(value(field).number_or_text()?.map(Cow::Borrowed));
    // An alias that says something else is kept in `extra`.
    let aliased = |field, alias| {
        let (field, alias) = (value(field).text()?, value(alias).text()?);
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
        sip_trunk: text(Field::SipTrunk)?,
        answered_by: text(Field::AnsweredBy)?,
        duration_seconds: value(Field::Duration).seconds()?,
        per_minute_usd: value(Field::PerMinute).amount()?,
        charge_usd: value(Field::Charge).amount()?,
        forward_fee_usd: value(Field::ForwardFee).amount()?,
        extra: None,
    })
}

/// Reads times, and remembers the date of the last one: calls of a slice share it.
#[derive(Debug, Default)]
struct DateCache {
    date: [u8; 10],
    /// Its first instant.
    start_us: i64,
}

impl DateCache {
    fn parse(&mut self, text: &str) -> Option<i64> {
        let quick = self.time_of_known_date(text.as_bytes());
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

    /// The time of `…Thh:mm:ss.mmmZ` if its date is the known one.
    fn time_of_known_date(&self, bytes: &[u8]) -> Option<i64> {
        let bytes: &[u8; 24] = bytes.try_into().ok()?;
        let marks = (bytes[10], bytes[13], bytes[16], bytes[19], bytes[23]);
        if marks != (b'T', b':', b':', b'.', b'Z') || bytes[..10] != self.date {
            return None;
        }
        let digit = |at: usize| bytes[at].wrapping_sub(b'0');
        let places = [11, 12, 14, 15, 17, 18, 20, 21, 22];
        if places.iter().any(|&at| digit(at) > 9) {
            return None;
        }
        let pair = |at: usize| i64::from(digit(at)) * 10 + i64::from(digit(at + 1));
        let (hour, minute, second) = (pair(11), pair(14), pair(17));
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let millis = pair(20) * 10 + i64::from(digit(22));
        let seconds = hour * 3_600 + minute * 60 + second;
        Some(self.start_us + (seconds * 1_000 + millis) * 1_000)
    }
}

/// The quotation marks of a record, one after the other.
struct Quotes<'a> {
    words: std::slice::Iter<'a, u64>,
    word: u64,
    start: usize,
}

impl<'a> Quotes<'a> {
    fn new(words: &'a [u64]) -> Self {
        let mut words = words.iter();
        Self {
            word: words.next().copied().unwrap_or_default(),
            words,
            start: 0,
        }
    }

    fn next(&mut self) -> Option<usize> {
        while self.word == 0 {
            self.word = *self.words.next()?;
            self.start += WORD_BYTES;
        }
        let at = self.start + self.word.trailing_zeros() as usize;
        self.word &= self.word - 1;
        Some(at)
    }
}

/// What a text is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Characters of one byte.
    Ascii,
    /// Other bytes too.
    Text,
    /// There is an escape or a control character in it.
    Odd,
}

/// Notes every quotation mark of `text` in `words`, and says of what kind it is.
fn find_quotes(text: &[u8], words: &mut Vec<u64>) -> Kind {
    words.clear();
    let (blocks, rest) = text.as_chunks::<WORD_BYTES>();
    let (mut is_odd, mut is_ascii) = (false, true);
    let mut note = |block: &[u8; WORD_BYTES]| {
        let found = look_at(block);
        words.push(found.quotes);
        is_odd |= found.is_odd;
        is_ascii &= found.is_ascii;
    };
    blocks.iter().for_each(&mut note);
    if !rest.is_empty() {
        let mut block = [b' '; WORD_BYTES];
        block[..rest.len()].copy_from_slice(rest);
        note(&block);
    }
    match (is_odd, is_ascii) {
        (true, _) => Kind::Odd,
        (false, true) => Kind::Ascii,
        (false, false) => Kind::Text,
    }
}

/// What there is in 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    /// A bit for each quotation mark.
    quotes: u64,
    /// Whether there is an escape or a control character.
    is_odd: bool,
    is_ascii: bool,
}

fn look_at(block: &[u8; WORD_BYTES]) -> Found {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "the compiler wants to know that there is SSE2")]
    // SAFETY: every x86-64 processor has SSE2, and the function needs nothing else.
    return unsafe { look_by_sse2(block) };
    #[cfg(not(target_arch = "x86_64"))]
    look_one_by_one(block)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
fn look_by_sse2(block: &[u8; WORD_BYTES]) -> Found {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x,
        _mm_set1_epi8, _mm_setzero_si128,
    };

    let (lanes, _) = block.as_chunks::<16>();
    let mut quotes = 0;
    let mut odd = _mm_setzero_si128();
    let mut all = _mm_setzero_si128();
    for (i, lane) in lanes.iter().enumerate() {
        let lane = u128::from_le_bytes(*lane);
        #[expect(clippy::cast_possible_truncation, reason = "two halves")]
        let bytes = _mm_set_epi64x((lane >> 64) as i64, lane as i64);
        let is_quote = _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"'.cast_signed())));
        quotes |= u64::from(is_quote.cast_unsigned()) << (16 * i);
        let escape = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\'.cast_signed()));
        let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1F)), bytes);
        odd = _mm_or_si128(odd, _mm_or_si128(escape, control));
        all = _mm_or_si128(all, bytes);
    }
    Found {
        quotes,
        is_odd: _mm_movemask_epi8(odd) != 0,
        // The highest bit of each.
        is_ascii: _mm_movemask_epi8(all) == 0,
    }
}

/// One byte after the other, which compilers make into whatever the processor has.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn look_one_by_one(block: &[u8; WORD_BYTES]) -> Found {
    let mut found = Found {
        quotes: 0,
        is_odd: false,
        is_ascii: block.is_ascii(),
    };
    for (i, &byte) in block.iter().enumerate() {
        found.quotes |= u64::from(byte == b'"') << i;
        found.is_odd |= byte == b'\\' || byte < 0x20;
    }
    found
}

#[cfg(test)]
mod tests;
