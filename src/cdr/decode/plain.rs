//! The plain decoder: exact and complete, on top of `serde_json`. It defines what a record means.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::phone::{LostDigits, has_exponent, phone_number, whole_digits};
use super::time::LocalTimes;
use super::{MAX_DEPTH, Reason, Record, Refusal};
use crate::cdr::amount::{Amount, AmountError, Rounded, round_i32};
use crate::cdr::columns::Field;
use crate::error::{sanitized_excerpt, truncated};

/// An object's members: keys decoded, values still as their JSON text.
type Members<'a> = Vec<(Cow<'a, str>, &'a str)>;

/// A record's values by field, still as their JSON text.
#[derive(Default)]
struct Fields<'a> {
    known: [Option<&'a str>; Field::ALL.len()],
    other: Members<'a>,
    duplicate: Option<Field>,
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

    /// Reads the object that `text` is, unless it is the server's report of a failure.
    fn read(text: &'a str) -> Result<Self, Refusal> {
        let fields = Self::new(members(text)?);
        if fields.known.iter().all(Option::is_none)
            && let Some(message) = server_error(&fields.other)
        {
            return Err(Refusal::ServerError { message });
        }
        Ok(fields)
    }

    fn call_time_us(&self, times: &mut LocalTimes) -> Result<Rounded<i64>, Reason> {
        let date = self.present(Field::Date).ok_or(Reason::NoDate)?;
        let date = string(date, Field::Date)?.ok_or(Reason::WrongType {
            field: "date",
            expected: "a string",
        })?;
        match date.trim() {
            "" => Err(Reason::NoDate),
            date => times.read_us(date).map_err(Reason::Date),
        }
    }

    /// The value of a field's column. Where that is not what the field says, its text is kept among the
    /// other fields.
    fn keep_original<T>(&mut self, field: Field, rounded: Rounded<T>) -> T {
        if let (false, Some(text)) = (rounded.is_exact, self.get(field)) {
            self.other.push((Cow::Borrowed(field.name()), text));
        }
        rounded.value
    }

    fn get(&self, field: Field) -> Option<&'a str> {
        self.known[field as usize]
    }

    /// The field's value, or `None` where it is absent or `null`.
    fn present(&self, field: Field) -> Option<&'a str> {
        self.get(field).filter(|text| *text != "null")
    }
}

/// Decodes one record, whose `date` has an offset.
///
/// # Errors
/// [`Refusal`]: the record is to be rejected, or it is the server's report of a failure.
pub fn decode(text: &[u8]) -> Result<Record<'_>, Refusal> {
    decode_with(text, &mut LocalTimes::default())
}

/// The same of a record whose `date` may have none.
pub(super) fn decode_with<'a>(
    text: &'a [u8],
    times: &mut LocalTimes,
) -> Result<Record<'a>, Refusal> {
    let text = std::str::from_utf8(text).map_err(|error| Reason::InvalidUtf8 {
        at: error.valid_up_to(),
    })?;
    refuse_deep(text)?;
    let mut fields = Fields::read(text)?;
    if let Some(field) = fields.duplicate {
        return Err(Reason::DuplicateKey {
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
        extra: extra(fields.other)?.map(Cow::Owned),
    })
}

/// When the call of a record began, in microseconds since 1970-01-01T00:00:00Z, whatever else is wrong with
/// the record.
///
/// # Errors
/// [`Refusal`]: there is no `date` to be read, or it is the server's report of a failure.
pub(crate) fn call_time_us(text: &[u8], times: &mut LocalTimes) -> Result<i64, Refusal> {
    let text = String::from_utf8_lossy(text);
    Ok(Fields::read(&text)?.call_time_us(times)?.value)
}

/// Whether a column of a record holds another value than its field said, whose text then is in `extra`, under the
/// field's name: nothing else puts it there.
pub(crate) fn is_rounded(record: &Record<'_>) -> bool {
    static FIELDS: LazyLock<Vec<Field>> = LazyLock::new(|| {
        let fields = Field::ALL.into_iter();
        let rounded = fields.filter(|field| field.column().kind.is_rounded());
        rounded.collect()
    });
    let Some(extra) = record.extra.as_deref() else {
        return false;
    };
    let is_named =
        |field: &Field| memchr::memmem::find(extra.as_bytes(), field.name().as_bytes()).is_some();
    // It may also be a word of a text, or a key within a value.
    FIELDS.iter().any(is_named)
        && members(extra).is_ok_and(|members| {
            let mut fields = members
                .iter()
                .filter_map(|(key, _)| Field::of(key.as_bytes()));
            fields.any(|field| FIELDS.contains(&field))
        })
}

/// Refuses a record that is nested too deeply, before its values are read once for each level.
fn refuse_deep(text: &str) -> Result<(), Reason> {
    let opening = memchr::memchr2_iter(b'{', b'[', text.as_bytes());
    if opening.take(MAX_DEPTH + 1).count() <= MAX_DEPTH || depth(text) <= MAX_DEPTH {
        return Ok(());
    }
    // What is no JSON may be half of it.
    serde_json::from_str::<&RawValue>(text).map_err(|error| syntax(&error))?;
    Err(Reason::TooDeep)
}

/// How many brackets of a JSON text are open at once.
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

/// The members of the object that `text` is, in their order.
fn members(text: &str) -> Result<Members<'_>, Reason> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut broken = None;
    let visitor = MembersVisitor {
        broken: &mut broken,
    };
    let members = serde::Deserializer::deserialize_map(&mut deserializer, visitor);
    members
        .and_then(|members| deserializer.end().map(|()| members))
        .map_err(|error| {
            // A value of another type is noticed at its first byte: the rest may not be JSON either.
            let error = if error.is_data() {
                serde_json::from_str::<&RawValue>(text).err()
            } else {
                Some(error)
            };
            match (error.map(|error| syntax(&error)), broken) {
                (Some(Reason::Syntax { problem }), Some(key)) if problem != NO_COLON => {
                    let problem = format!("{problem} in `{}`", shown_key(&key));
                    Reason::Syntax { problem }
                }
                (reason, _) => reason.unwrap_or(Reason::NotAnObject),
            }
        })
}

/// What the parser says where no colon follows: what stands before it may be a value, and no key.
const NO_COLON: &str = "expected `:`";
/// Most characters of a key that are shown.
const MAX_KEY_CHARS: usize = 40;

/// A key, as it may be shown: without numbers, and not too long.
fn shown_key(key: &str) -> String {
    truncated(&sanitized_excerpt(key), MAX_KEY_CHARS)
}

/// The parser's complaint, without its line and column: the record's place is known to the caller.
fn syntax(error: &serde_json::Error) -> Reason {
    let problem = error.to_string();
    Reason::Syntax {
        problem: problem
            .split(" at line ")
            .next()
            .unwrap_or_default()
            .to_owned(),
    }
}

struct MembersVisitor<'c, 'de> {
    /// Becomes the key whose value is no JSON.
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

/// The message of an object that reports the server's own failure: no field of a record, but
/// `success: false`, `error` or `message`.
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
fn string(text: &str, field: Field) -> Result<Option<Cow<'_, str>>, Reason> {
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
        .map_err(|_| Reason::Escape {
            field: field.name(),
        })
}

fn optional_string<'a>(fields: &Fields<'a>, field: Field) -> Result<Option<Cow<'a, str>>, Reason> {
    let Some(text) = fields.present(field) else {
        return Ok(None);
    };
    match string(text, field)? {
        Some(text) => Ok(Some(text)),
        None => Err(Reason::WrongType {
            field: field.name(),
            expected: "a string or null",
        }),
    }
}

/// A phone number: a string, or a bare JSON number that is whole.
fn number_or_string<'a>(fields: &Fields<'a>, field: Field) -> Result<Option<Cow<'a, str>>, Reason> {
    let Some(text) = fields.present(field) else {
        return Ok(None);
    };
    if let Some(digits) = whole_digits(text) {
        return Ok(Some(Cow::Borrowed(digits)));
    }
    let lost = |LostDigits| Reason::LostDigits {
        field: field.name(),
    };
    match string(text, field)? {
        Some(Cow::Borrowed(text)) => phone_number(text).map(|text| Some(text.into())),
        Some(Cow::Owned(text)) => phone_number(&text).map(|text| Some(text.to_owned().into())),
        None if has_exponent(text) => Err(LostDigits),
        None => {
            return Err(Reason::WrongType {
                field: field.name(),
                expected: "a string, digits or null",
            });
        }
    }
    .map_err(lost)
}

/// A name that is not counted with: a string, or a bare JSON number that is whole.
fn identifier<'a>(fields: &Fields<'a>, field: Field) -> Result<Option<Cow<'a, str>>, Reason> {
    let Some(text) = fields.present(field) else {
        return Ok(None);
    };
    if let Some(digits) = whole_digits(text) {
        return Ok(Some(digits.into()));
    }
    let wrong = if has_exponent(text) {
        Reason::LostDigits {
            field: field.name(),
        }
    } else {
        Reason::WrongType {
            field: field.name(),
            expected: "a string, digits or null",
        }
    };
    string(text, field)?.map(Some).ok_or(wrong)
}

/// The field, else its deprecated alias. An alias that says something else is kept in `extra`.
fn aliased<'a>(
    fields: &mut Fields<'a>,
    field: Field,
    alias: Field,
) -> Result<Option<Cow<'a, str>>, Reason> {
    let value = identifier(fields, field)?;
    let deprecated = identifier(fields, alias)?;
    if value.is_some() && deprecated.is_some() && value != deprecated {
        let text = fields.get(alias).unwrap_or("null");
        fields.other.push((Cow::Borrowed(alias.name()), text));
    }
    Ok(value.or(deprecated))
}

/// The text of a number, which may be a string. An empty one is absent, as it is in CSV.
fn decimal<'a>(
    fields: &Fields<'a>,
    field: Field,
    expected: &'static str,
) -> Result<Option<Cow<'a, str>>, Reason> {
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
            return Err(Reason::WrongType {
                field: field.name(),
                expected,
            });
        }
    };
    Ok(Some(number).filter(|number| !number.is_empty()))
}

fn duration(fields: &mut Fields<'_>) -> Result<Option<i32>, Reason> {
    let (field, expected) = (
        Field::Duration,
        "a number of seconds within 32 bits, or null",
    );
    let wrong = Reason::WrongType {
        field: field.name(),
        expected,
    };
    let comma = Reason::Amount {
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

fn amount(fields: &mut Fields<'_>, field: Field) -> Result<Option<Amount>, Reason> {
    let expected = "a decimal number, as a number or a string, or null";
    let amount = decimal(fields, field, expected)?.map(|text| Amount::round(&text));
    let amount = amount.transpose().map_err(|error| Reason::Amount {
        field: field.name(),
        error,
    })?;
    Ok(amount.map(|amount| fields.keep_original(field, amount)))
}

/// The fields without a column, as one JSON object in canonical form.
fn extra(mut fields: Members<'_>) -> Result<Option<String>, Reason> {
    if fields.is_empty() {
        return Ok(None);
    }
    fields.sort_by(|(left, _), (right, _)| left.cmp(right));
    if fields.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(Reason::DuplicateKey { key: None });
    }
    let mut text = String::new();
    write_members(&fields, &mut text)?;
    Ok(Some(text))
}

fn write_members(members: &[(Cow<'_, str>, &str)], out: &mut String) -> Result<(), Reason> {
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

/// Writes one JSON value, which is not nested too deeply, without white space, keys of objects
/// sorted at every depth, scalars as they stood. Inside a value a key may stand twice: both are
/// kept, in their order.
fn write_canonical(value: &str, out: &mut String) -> Result<(), Reason> {
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
