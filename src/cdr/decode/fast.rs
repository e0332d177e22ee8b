//! The fast decoder: for records as the API writes them, whatever the order of their keys.
//!
//! One pass finds every quotation mark of a record, 64 bytes at a time (by AVX2 where the processor has it), and
//! whether anything in it is out of the ordinary. Then what stands at each key's place is compared with the key that
//! stood there in the record before, and only where they differ is it looked up; where most did, none is expected.
//! Values are converted straight from their bytes. Whatever is unexpected, an escape, white space between tokens, a
//! field without a column, another type, anything that will be rejected, is left to the
//! [plain decoder](super::decode), which defines what a record means. The two agree on every input: a
//! property test and a fuzz target hold them together.

use std::borrow::Cow;

use super::field::{field_of, key_at};
use super::phone::phone_number;
use super::plain::decode_with;
use super::{LocalTimes, Record, Refusal, parse_time_us};
use crate::cdr::amount::Amount;
use crate::cdr::columns::Field;

/// Of more surprises the next record's keys are not expected where they stood.
const MAX_SURPRISES: u32 = 3;

/// Bytes whose quotation marks share a word.
const WORD_BYTES: usize = 64;

/// Decodes the records of one body. Remembers the order of keys and the date of the record before, which
/// make it fast, and nothing that decides what comes out.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The fields of the record before, in their order.
    order: Vec<Field>,
    /// Keys of the record before that stood elsewhere than in the one before it.
    surprises: u32,
    /// A bit for each byte that is a quotation mark.
    quotes: Vec<u64>,
    dates: DateCache,
    /// Of these the fast path knows none.
    local_times: LocalTimes,
}

impl Decoder {
    /// For records whose times may have no offset.
    pub fn new(local_times: LocalTimes) -> Self {
        Self {
            local_times,
            ..Self::default()
        }
    }

    /// Local times so far that were ambiguous: those of [`LocalTimes::ambiguous`].
    pub fn ambiguous_times(&self) -> u64 {
        self.local_times.ambiguous()
    }

    /// Decodes one record: the same as [`decode`](super::decode), but for times without an offset.
    ///
    /// # Errors
    /// [`Refusal`]: the record is to be rejected, or it is the server's report of a failure.
    pub fn decode<'a>(&mut self, text: &'a [u8]) -> Result<Record<'a>, Refusal> {
        match self.try_decode(text) {
            Some(record) => Ok(record),
            None => decode_with(text, &mut self.local_times),
        }
    }

    /// `None` if there is anything unexpected in the record.
    // A record is large: within its only caller it is made where it is wanted, and not moved there.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs a copy of the record")]
    fn try_decode<'a>(&mut self, text: &'a [u8]) -> Option<Record<'a>> {
        let Self {
            order,
            surprises: surprises_before,
            quotes,
            dates,
            local_times: _,
        } = self;
        // To expect what hardly ever comes costs more than to look each key up.
        let is_shuffled = *surprises_before > MAX_SURPRISES;
        let mut surprises = 0;
        let text = match find_quotes(text, quotes) {
            Kind::Odd => return None,
            Kind::Ascii => {
                debug_assert!(text.is_ascii());
                #[expect(
                    unsafe_code,
                    reason = "a second look costs a twentieth of all decoding"
                )]
                // SAFETY: no byte has its highest bit set, so each is a character.
                unsafe {
                    std::str::from_utf8_unchecked(text)
                }
            }
            Kind::Text => std::str::from_utf8(text).ok()?,
        };
        let bytes = text.as_bytes();
        if bytes.first() != Some(&b'{') {
            return None;
        }
        let quotes = Quotes { words: quotes };
        let mut values: Values<'_> = [Value::Null; Field::ALL.len()];
        let mut at = 1;
        let mut seen = 0_u32;
        for number in 0.. {
            if bytes.get(at) != Some(&b'"') {
                return None;
            }
            let field = match order.get(number) {
                Some(field) if !is_shuffled && field.is_key_at(bytes, at + 1) => {
                    at += field.name().len() + 3;
                    *field
                }
                expected => {
                    let close = quotes.next(at + 1)?;
                    if bytes.get(close + 1) != Some(&b':') {
                        return None;
                    }
                    let field = field_of(key_at(bytes, at + 1, close - at - 1)?)?;
                    surprises += u32::from(expected != Some(&field));
                    match order.get_mut(number) {
                        Some(expected) => *expected = field,
                        None => order.push(field),
                    }
                    at = close + 2;
                    field
                }
            };
            let bit = 1 << field as u32;
            if seen & bit != 0 {
                return None;
            }
            seen |= bit;
            let slot = &mut values[field as usize];
            (*slot, at) = Value::read(text, at, quotes)?;
            match bytes.get(at)? {
                b',' => at += 1,
                b'}' if at + 1 == bytes.len() => break,
                _ => return None,
            }
        }
        *surprises_before = surprises;
        record(&values, dates).ok()
    }
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
    fn read(text: &'a str, at: usize, quotes: Quotes<'_>) -> Option<(Self, usize)> {
        let bytes = text.as_bytes();
        match bytes.get(at)? {
            b'"' => {
                let close = quotes.next(at + 1)?;
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

    /// A phone number: text, or the digits of a bare number.
    fn phone_number(self) -> Result<Option<&'a str>, Unexpected> {
        let text = match self {
            Self::Null => return Ok(None),
            Self::Text(text) => return phone_number(text).map(Some).map_err(|_| Unexpected),
            Self::Number(text) => text,
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
            Self::Text(text) => Amount::parse_short(text.as_bytes())
                .or_else(|| Amount::parse(text).ok())
                .map_or(Err(Unexpected), |amount| Ok(Some(amount))),
            // A bare number is JSON's, of which the other parser knows more than there are.
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

/// Something that only the plain decoder understands, or refuses.
struct Unexpected;

/// The values of a record, by field. They are only converted when all of them are there, in an order that is
/// always the same: which field comes next is what a processor guesses wrong where keys are shuffled.
type Values<'a> = [Value<'a>; Field::ALL.len()];

#[inline(always)]
#[expect(clippy::inline_always, reason = "a call costs a copy of the record")]
fn record<'a>(values: &Values<'a>, dates: &mut DateCache) -> Result<Record<'a>, Unexpected> {
    let value = |field: Field| values[field as usize];
    let text = |field| Ok(value(field).text()?.map(Cow::Borrowed));
    let number = |field| Ok(value(field).phone_number()?.map(Cow::Borrowed));
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

/// The second of the day that `hh:mm:ss` names: all eight bytes at once, the first one the lowest.
fn seconds_of_clock(clock: [u8; 8]) -> Option<u64> {
    const ZEROS: u64 = u64::from_le_bytes(*b"00:00:00");
    const COLONS: u64 = 0x0000_FF00_00FF_0000;
    const HIGHEST_BITS: u64 = 0x8080_8080_8080_8080;
    // Digits become what they stand for, and colons zero.
    let digits = u64::from_le_bytes(clock) ^ ZEROS;
    // What is more than nine reaches the highest bit, or has it.
    let beyond_nine = digits.wrapping_add(0x7676_7676_7676_7676) | digits;
    if beyond_nine & HIGHEST_BITS != 0 || digits & COLONS != 0 {
        return None;
    }
    // Each byte ten times, and the one behind it: 99 at most.
    let pairs = digits * 10 + (digits >> 8);
    let [hour, .., second, _] = pairs.to_le_bytes().map(u64::from);
    let minute = pairs >> 24 & 0xFF;
    (hour <= 23 && minute <= 59 && second <= 59).then(|| hour * 3_600 + minute * 60 + second)
}

/// The quotation marks of a record.
#[derive(Clone, Copy)]
struct Quotes<'a> {
    /// A bit for each byte, and behind them two words of none.
    words: &'a [u64],
}

impl Quotes<'_> {
    /// The first one at `at` or behind it.
    #[inline]
    fn next(self, at: usize) -> Option<usize> {
        let (word, bit) = (at / WORD_BYTES, at % WORD_BYTES);
        let [low, high] = *self.words.get(word..)?.first_chunk::<2>()?;
        let window = low >> bit | high << 1 << (WORD_BYTES - 1 - bit);
        if window != 0 {
            return Some(at + window.trailing_zeros() as usize);
        }
        // A long text.
        let behind = self.words.get(word + 1..)?;
        let skipped = behind.iter().position(|&word| word != 0)?;
        let start = (word + 1 + skipped) * WORD_BYTES;
        Some(start + behind[skipped].trailing_zeros() as usize)
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

/// Notes every quotation mark of `text` in `words`, as [`Quotes`] wants them, and says of what kind it is.
fn find_quotes(text: &[u8], words: &mut Vec<u64>) -> Kind {
    let count = text.len().div_ceil(WORD_BYTES);
    words.resize(count + 2, 0);
    words[count..].fill(0);
    let words = &mut words[..count];
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "the compiler wants to know that there is AVX2")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: it was just asked for, and the function needs nothing else.
        return unsafe { find_quotes_by_avx2(text, words) };
    }
    find_quotes_by(look_at, text, words)
}

/// The same, in as many words as the text needs, by a function that looks at one of them.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "so that it is compiled for the processor that its caller knows"
)]
fn find_quotes_by(
    look_at: impl Fn(&[u8; WORD_BYTES]) -> Found,
    text: &[u8],
    words: &mut [u64],
) -> Kind {
    let (blocks, rest) = text.as_chunks::<WORD_BYTES>();
    let (mut is_odd, mut is_ascii) = (false, true);
    let mut last = [b' '; WORD_BYTES];
    last[..rest.len()].copy_from_slice(rest);
    for (block, word) in blocks.iter().chain([&last]).zip(words) {
        let found = look_at(block);
        *word = found.quotes;
        is_odd |= found.is_odd;
        is_ascii &= found.is_ascii;
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn find_quotes_by_avx2(text: &[u8], words: &mut [u64]) -> Kind {
    find_quotes_by(|block| look_by_avx2(block), text, words)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn look_by_avx2(block: &[u8; WORD_BYTES]) -> Found {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256,
        _mm256_set_epi64x, _mm256_set1_epi8,
    };

    let (lanes, _) = block.as_chunks::<8>();
    let lane = |at: usize| u64::from_le_bytes(lanes[at]).cast_signed();
    let half = |at: usize| _mm256_set_epi64x(lane(at + 3), lane(at + 2), lane(at + 1), lane(at));
    let (low, high) = (half(0), half(4));
    let mask = |bytes: __m256i| u64::from(_mm256_movemask_epi8(bytes).cast_unsigned());
    let is = |bytes, byte: u8| _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte.cast_signed()));
    let odd = |bytes| {
        let control = _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(0x1F)), bytes);
        _mm256_or_si256(is(bytes, b'\\'), control)
    };
    Found {
        quotes: mask(is(low, b'"')) | mask(is(high, b'"')) << 32,
        is_odd: mask(_mm256_or_si256(odd(low), odd(high))) != 0,
        // The highest bit of each.
        is_ascii: mask(_mm256_or_si256(low, high)) == 0,
    }
}

/// One byte after the other, which compilers make into whatever the processor has.
fn look_at(block: &[u8; WORD_BYTES]) -> Found {
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
