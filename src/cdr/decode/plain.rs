//! The plain decoder: exact and complete, based on `serde_json`. It defines the meaning of a
//! record.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::phone::{LostDigits, has_exponent, phone_number, whole_digits};
use super::time::LocalTimes;
use super::{DecodeError, MAX_DEPTH, Record, RejectReason};
use crate::cdr::amount::{Amount, AmountError, Rounded, round_i32};
use crate::cdr::columns::Field;
use crate::error::{sanitized_excerpt, truncated};

/// An object's members: decoded keys, and values as JSON text.
type Members<'a> = Vec<(Cow<'a, str>, &'a str)>;

/// A record's values by field, as JSON text.
#[derive(Default)]
struct Fields<'a> {
    known: [Option<&'a str>; Field::ALL.len()],
    other: Members<'a>,
    duplicate: Option<Field>,
    /// Whether the value of a known field was rounded, and its text is in `other`.
    is_rounded: bool,
}

impl<'a> Fields<'a> {
    fn new(members: Members<'a>) -> Self {
        let mut fields = Self::default();
        for (key, value) in members {
            match Field::of(key.as_bytes()) {
                Some(field) => {
                    if fields.known[field as usize].replace(value).is_some() {
                        fields.duplicate = Some(field);
                    }
                }
                None => fields.other.push((key, value)),
            }
        }
        fields
    }

    /// Reads the fields of an object, unless it is the server's report of a failure.
    fn read(text: &'a str) -> Result<Self, DecodeError> {
        let fields = Self::new(members(text)?);
        if fields.known.iter().all(Option::is_none)
            && let Some(message) = server_error(&fields.other)
        {
            return Err(DecodeError::ServerError { message });
        }
        Ok(fields)
    }

    fn call_time_us(&self, times: &mut LocalTimes) -> Result<Rounded<i64>, RejectReason> {
        let date = self.present(Field::Date).ok_or(RejectReason::NoDate)?;
        let date = string(date, Field::Date)?.ok_or(RejectReason::WrongType {
            field: "date",
            expected: "a string",
        })?;
        match date.trim() {
            "" => Err(RejectReason::NoDate),
            date => times.read_us(date).map_err(RejectReason::Date),
        }
    }

    /// The value for a field's column. If it was rounded, the field's text is kept in `extra`.
    fn keep_original<T>(&mut self, field: Field, rounded: Rounded<T>) -> T {
        if let (false, Some(text)) = (rounded.is_exact, self.get(field)) {
            self.other.push((Cow::Borrowed(field.name()), text));
            self.is_rounded = true;
        }
        rounded.value
    }

    fn get(&self, field: Field) -> Option<&'a str> {
        self.known[field as usize]
    }

    /// The field's value, `None` if it is absent or `null`.
    fn present(&self, field: Field) -> Option<&'a str> {
        self.get(field).filter(|text| *text != "null")
    }
}

/// Decodes one record. Its `date` must have an offset.
///
/// # Errors
/// [`DecodeError`] if the record must be rejected, or is the server's report of a failure.
pub fn decode(text: &[u8]) -> Result<Record<'_>, DecodeError> {
    decode_with(text, &mut LocalTimes::default())
}

/// Like [`decode`], with a time zone for a `date` without an offset.
pub(super) fn decode_with<'a>(
    text: &'a [u8],
    times: &mut LocalTimes,
) -> Result<Record<'a>, DecodeError> {
    let text = std::str::from_utf8(text).map_err(|error| RejectReason::InvalidUtf8 {
        at: error.valid_up_to(),
    })?;
    check_depth(text)?;
    let mut fields = Fields::read(text)?;
    if let Some(field) = fields.duplicate {
        return Err(RejectReason::DuplicateKey {
            key: Some(field.name()),
        }
        .into());
    }

    let call_time_us = fields.call_time_us(times)?;
    let call_time_us = fields.keep_original(Field::Date, call_time_us);
    let call_id = aliased(&mut fields, Field::CallId, Field::Uuid)?;
    let parent_call_id = aliased(&mut fields, Field::ParentCallId, Field::ParentUuid)?;
    Ok(Record {
        call_id,
        parent_call_id,
        call_time_us,
        from_number: number_or_string(&fields, Field::From)?,
        to_number: number_or_string(&fields, Field::To)?,
        disposition: optional_string(&fields, Field::Disposition)?,
        destination: optional_string(&fields, Field::Destination)?,
        sip_trunk: identifier(&fields, Field::SipTrunk)?,
        answered_by: optional_string(&fields, Field::AnsweredBy)?,
        duration_seconds: duration(&mut fields)?,
        per_minute_usd: amount(&mut fields, Field::PerMinute)?,
        charge_usd: amount(&mut fields, Field::Charge)?,
        forward_fee_usd: amount(&mut fields, Field::ForwardFee)?,
        is_rounded: fields.is_rounded,
        source_day: None,
        extra: extra(fields.other)?.map(Cow::Owned),
    })
}

/// The start of a record's call, in microseconds since 1970-01-01T00:00:00Z, even if the rest of
/// the record is invalid.
///
/// # Errors
/// [`DecodeError`] if `date` cannot be read, or the record is the server's report of a failure.
pub(super) fn call_time_us(text: &[u8], times: &mut LocalTimes) -> Result<i64, DecodeError> {
    let text = String::from_utf8_lossy(text);
    Ok(Fields::read(&text)?.call_time_us(times)?.value)
}

/// Whether a row with this `extra` has a rounded value. Then `extra` holds the original text under
/// the field's name, which occurs in `extra` for no other reason.
pub(crate) fn is_rounded(extra: &str) -> bool {
    let is_rounded =
        |key: &[u8]| Field::of(key).is_some_and(|field| field.column().kind.is_rounded());
    // The name may also occur in a string, or as a key within a value.
    let mut after_quote = 0;
    let occurs = memchr::memchr_iter(b'"', extra.as_bytes()).any(|quote| {
        let start = std::mem::replace(&mut after_quote, quote + 1);
        is_rounded(&extra.as_bytes()[start..quote])
    });
    occurs
        && members(extra)
            .is_ok_and(|members| members.iter().any(|(key, _)| is_rounded(key.as_bytes())))
}

/// Checks the nesting before values are read, because that takes time for each level.
fn check_depth(text: &str) -> Result<(), RejectReason> {
    let opening = memchr::memchr2_iter(b'{', b'[', text.as_bytes());
    if opening.take(MAX_DEPTH + 1).count() <= MAX_DEPTH || depth(text) <= MAX_DEPTH {
        return Ok(());
    }
    // Invalid JSON may be a truncated record, which is a syntax error.
    serde_json::from_str::<&RawValue>(text).map_err(|error| syntax(&error))?;
    Err(RejectReason::TooDeep)
}

/// Deepest nesting of a JSON text.
fn depth(text: &str) -> usize {
    let (mut open, mut deepest) = (0_usize, 0);
    let (mut is_text, mut is_escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_text,
            b'"' => is_text = !is_text,
            b'{' | b'[' if !is_text => {
                open += 1;
                deepest = deepest.max(open);
            }
            b'}' | b']' if !is_text => open = open.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The members of an object, in their order.
fn members(text: &str) -> Result<Members<'_>, RejectReason> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut broken = None;
    let visitor = MembersVisitor {
        broken: &mut broken,
    };
    let members = serde::Deserializer::deserialize_map(&mut deserializer, visitor);
    members
        .and_then(|members| deserializer.end().map(|()| members))
        .map_err(|error| {
            // A wrong type is an error at the first byte, so the rest has not been parsed yet.
            let error = if error.is_data() {
                serde_json::from_str::<&RawValue>(text).err()
            } else {
                Some(error)
            };
            match (error.map(|error| syntax(&error)), broken) {
                (Some(RejectReason::Syntax { problem }), Some(key)) if problem != MISSING_COLON => {
                    let problem = format!("{problem} in `{}`", sanitized_key(&key));
                    RejectReason::Syntax { problem }
                }
                (reason, _) => reason.unwrap_or(RejectReason::NotAnObject),
            }
        })
}

/// The parser's message for a missing colon. The text before it may be a value, not a key.
const MISSING_COLON: &str = "expected `:`";
/// Longest part of a key in a message, in characters.
const MAX_KEY_CHARS: usize = 40;

/// A key for messages: without numbers, and shortened.
fn sanitized_key(key: &str) -> String {
    truncated(&sanitized_excerpt(key), MAX_KEY_CHARS)
}

/// The parser's message without line and column: the caller adds the record's position.
fn syntax(error: &serde_json::Error) -> RejectReason {
    let problem = error.to_string();
    RejectReason::Syntax {
        problem: problem
            .split(" at line ")
            .next()
            .unwrap_or_default()
            .to_owned(),
    }
}

struct MembersVisitor<'c, 'de> {
    /// Receives the key whose value is not valid JSON.
    broken: &'c mut Option<Cow<'de, str>>,
}

impl<'de> Visitor<'de> for MembersVisitor<'_, 'de> {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members::new();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            match map.next_value::<&'de RawValue>() {
                Ok(value) => members.push((key, value.get())),
                Err(error) => {
                    *self.broken = Some(key);
                    return Err(error);
                }
            }
        }
        Ok(members)
    }
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// The message of an object that reports the server's own failure: it has `success: false`, `error`
/// or `message`, and no field of a record.
fn server_error(fields: &[(Cow<'_, str>, &str)]) -> Option<String> {
    let value = |name: &str| {
        fields
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, text)| *text)
    };
    let (message, error) = (value("message"), value("error"));
    if value("success") != Some("false") && message.is_none() && error.is_none() {
        return None;
    }
    let text = message.or(error).unwrap_or("\"success\": false");
    Some(serde_json::from_str::<String>(text).unwrap_or_else(|_| text.to_owned()))
}

/// A JSON string's content, or `None` if the value is not a string.
fn string(text: &str, field: Field) -> Result<Option<Cow<'_, str>>, RejectReason> {
    let Some(inside) = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
    else {
        return Ok(None);
    };
    if !inside.contains('\\') {
        return Ok(Some(Cow::Borrowed(inside)));
    }
    serde_json::from_str::<String>(text)
        .map(|text| Some(Cow::Owned(text)))
        .map_err(|_| RejectReason::Escape {
            field: field.name(),
        })
}

fn optional_string<'a>(
    fields: &Fields<'a>,
    field: Field,
) -> Result<Option<Cow<'a, str>>, RejectReason> {
    let Some(text) = fields.present(field) else {
        return Ok(None);
    };
    match string(text, field)? {
        Some(text) => Ok(Some(text)),
        None => Err(RejectReason::WrongType {
            field: field.name(),
            expected: "a string or null",
        }),
    }
}

/// A phone number: a string, or a whole JSON number.
fn number_or_string<'a>(
    fields: &Fields<'a>,
    field: Field,
) -> Result<Option<Cow<'a, str>>, RejectReason> {
    let Some(text) = fields.present(field) else {
        return Ok(None);
    };
    if let Some(digits) = whole_digits(text) {
        return Ok(Some(Cow::Borrowed(digits)));
    }
    let lost = |LostDigits| RejectReason::LostDigits {
        field: field.name(),
    };
    match string(text, field)? {
        Some(Cow::Borrowed(text)) => phone_number(text).map(|text| Some(text.into())),
        Some(Cow::Owned(text)) => phone_number(&text).map(|text| Some(text.to_owned().into())),
        None if has_exponent(text) => Err(LostDigits),
        None => {
            return Err(RejectReason::WrongType {
                field: field.name(),
                expected: "a string, digits or null",
            });
        }
    }
    .map_err(lost)
}

/// An id or a name: a string, or a whole JSON number.
fn identifier<'a>(fields: &Fields<'a>, field: Field) -> Result<Option<Cow<'a, str>>, RejectReason> {
    let Some(text) = fields.present(field) else {
        return Ok(None);
    };
    if let Some(digits) = whole_digits(text) {
        return Ok(Some(digits.into()));
    }
    let wrong = if has_exponent(text) {
        RejectReason::LostDigits {
            field: field.name(),
        }
    } else {
        RejectReason::WrongType {
            field: field.name(),
            expected: "a string, digits or null",
        }
    };
    string(text, field)?.map(Some).ok_or(wrong)
}

/// The field, otherwise its deprecated alias. A different alias is kept in `extra`.
fn aliased<'a>(
    fields: &mut Fields<'a>,
    field: Field,
    alias: Field,
) -> Result<Option<Cow<'a, str>>, RejectReason> {
    let value = identifier(fields, field)?;
    let deprecated = identifier(fields, alias)?;
    if value.is_some() && deprecated.is_some() && value != deprecated {
        let text = fields.get(alias).unwrap_or("null");
        fields.other.push((Cow::Borrowed(alias.name()), text));
    }
    Ok(value.or(deprecated))
}

/// The text of a number or of a string with a number. An empty string means no value, as in CSV.
fn decimal<'a>(
    fields: &Fields<'a>,
    field: Field,
    expected: &'static str,
) -> Result<Option<Cow<'a, str>>, RejectReason> {
    let Some(text) = fields.present(field) else {
        return Ok(None);
    };
    let number = match string(text, field)? {
        Some(Cow::Borrowed(text)) => Cow::Borrowed(text.trim()),
        Some(Cow::Owned(text)) => Cow::Owned(text.trim().to_owned()),
        None if text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
            Cow::Borrowed(text)
        }
        None => {
            return Err(RejectReason::WrongType {
                field: field.name(),
                expected,
            });
        }
    };
    Ok(Some(number).filter(|number| !number.is_empty()))
}

fn duration(fields: &mut Fields<'_>) -> Result<Option<i32>, RejectReason> {
    let (field, expected) = (
        Field::Duration,
        "a number of seconds within 32 bits, or null",
    );
    let wrong = RejectReason::WrongType {
        field: field.name(),
        expected,
    };
    let comma = RejectReason::Amount {
        field: field.name(),
        error: AmountError::Comma,
    };
    let seconds = decimal(fields, field, expected)?.map(|text| match round_i32(&text) {
        None if Amount::round(&text) == Err(AmountError::Comma) => Err(comma),
        seconds => seconds.ok_or(wrong),
    });
    let seconds = seconds.transpose()?;
    Ok(seconds.map(|seconds| fields.keep_original(field, seconds)))
}

fn amount(fields: &mut Fields<'_>, field: Field) -> Result<Option<Amount>, RejectReason> {
    let expected = "a decimal number, as a number or a string, or null";
    let amount = decimal(fields, field, expected)?.map(|text| Amount::round(&text));
    let amount = amount.transpose().map_err(|error| RejectReason::Amount {
        field: field.name(),
        error,
    })?;
    Ok(amount.map(|amount| fields.keep_original(field, amount)))
}

/// The fields without a column, as one JSON object in canonical form.
fn extra(mut fields: Members<'_>) -> Result<Option<String>, RejectReason> {
    if fields.is_empty() {
        return Ok(None);
    }
    fields.sort_by(|(left, _), (right, _)| left.cmp(right));
    if fields.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(RejectReason::DuplicateKey { key: None });
    }
    let mut text = String::new();
    write_members(&fields, &mut text)?;
    Ok(Some(text))
}

fn write_members(members: &[(Cow<'_, str>, &str)], out: &mut String) -> Result<(), RejectReason> {
    out.push('{');
    for (i, (key, value)) in members.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(&serde_json::to_string(key).expect("a string always serialises"));
        out.push(':');
        write_canonical(value, out)?;
    }
    out.push('}');
    Ok(())
}

/// Writes a JSON value without white space, with keys sorted at every depth, and scalars unchanged.
/// Inside a value a key may occur twice: both members are kept, in their order. The caller has
/// checked the depth.
fn write_canonical(value: &str, out: &mut String) -> Result<(), RejectReason> {
    if !value.starts_with(['{', '[']) {
        out.push_str(value);
        return Ok(());
    }
    if value.starts_with('{') {
        let mut members = members(value)?;
        members.sort_by(|(left, _), (right, _)| left.cmp(right));
        return write_members(&members, out);
    }
    let elements: Vec<&RawValue> = serde_json::from_str(value).map_err(|error| syntax(&error))?;
    out.push('[');
    for (i, element) in elements.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write_canonical(element.get(), out)?;
    }
    out.push(']');
    Ok(())
}

#[cfg(test)]
mod tests;
