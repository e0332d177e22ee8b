//! Reads single values of the configuration. Errors are half sentences: "is not a duration …".

use std::path::PathBuf;
use std::time::Duration;

use jiff::SpanRelativeTo;
use jiff::civil::Date;
use toml::Value;

use crate::cdr::slice::parse_day;
use crate::store::location::expanded;

/// A text as it stands.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        Value::String(_) => Err("is empty: write a value, or remove the key".to_owned()),
        _ => Err(format!("is {}: write a text in quotes", kind(value))),
    }
}

/// The path of a file or directory.
pub(super) fn path(value: &Value) -> Result<PathBuf, String> {
    expanded(&text(value)?).map(PathBuf::from)
}

/// `true` or `false`; a variable's text will do.
pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    match value {
        Value::Boolean(value) => Ok(*value),
        Value::String(text) => text
            .parse()
            .map_err(|_| "is neither true nor false".to_owned()),
        _ => Err(format!("is {}: write true or false", kind(value))),
    }
}

/// A whole number of at least `least`.
pub(super) fn integer<T: TryFrom<i64>>(least: i64) -> impl Fn(&Value) -> Result<T, String> {
    move |value| {
        let number = match value {
            Value::Integer(number) => Some(*number),
            Value::String(text) => text.replace('_', "").parse().ok(),
            _ => None,
        };
        let number = number.ok_or_else(|| "is not a whole number".to_owned())?;
        if number < least {
            return Err(format!("is {number}: it must be at least {least}"));
        }
        T::try_from(number).map_err(|_| format!("is {number}, which is too large"))
    }
}

/// A share between 0 and 1.
pub(super) fn ratio(value: &Value) -> Result<f64, String> {
    let number = match value {
        Value::Float(number) => Some(*number),
        Value::Integer(0) => Some(0.0),
        Value::Integer(1) => Some(1.0),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number
        .filter(|number| (0.0..=1.0).contains(number))
        .ok_or_else(|| {
            "is not a share between 0 and 1, such as 0.001 for one in a thousand".to_owned()
        })
}

/// A share above 0, and up to 1.
pub(super) fn positive_ratio(value: &Value) -> Result<f64, String> {
    let share = ratio(value).ok().filter(|&share| share > 0.0);
    share.ok_or_else(|| "is not a share above 0 and up to 1, such as 0.1 for a tenth".to_owned())
}

/// A duration with its unit.
pub(super) fn duration(value: &Value) -> Result<Duration, String> {
    let parsed = text(value)?
        .parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok());
    parsed
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "is not a duration: write \"500ms\", \"60s\", \"30m\" or \"2h\"".to_owned())
}

/// A duration with its unit, which may be days of 24 hours.
pub(super) fn days(value: &Value) -> Result<Duration, String> {
    let span = text(value)?.parse::<jiff::Span>().ok();
    span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok())
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| "is not a duration: write \"7d\", \"12h\" or \"30m\"".to_owned())
}

/// A number of bytes with its unit, at least one.
pub(super) fn bytes(value: &Value) -> Result<u64, String> {
    let size = match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        Value::String(text) => text
            .parse::<bytesize::ByteSize>()
            .ok()
            .map(|size| size.as_u64()),
        _ => None,
    };
    size.filter(|&size| size > 0)
        .ok_or_else(|| "is not a size: write \"64KiB\", \"16MiB\" or a number of bytes".to_owned())
}

/// [`bytes`], as far as memory reaches.
pub(super) fn memory_bytes(value: &Value) -> Result<usize, String> {
    usize::try_from(bytes(value)?).map_err(|_| "is too large".to_owned())
}

/// Bytes a second; zero turns the floor off.
pub(super) fn bytes_per_second(value: &Value) -> Result<u64, String> {
    let wrong = || "is not a rate: write \"1KiB/s\", or 0 for no limit".to_owned();
    match value {
        Value::Integer(0) => Ok(0),
        Value::String(text) if text == "0" => Ok(0),
        Value::String(text) => {
            let size = text.strip_suffix("/s").ok_or_else(wrong)?;
            bytes(&Value::String(size.to_owned())).map_err(|_| wrong())
        }
        _ => Err(wrong()),
    }
}

/// A calendar day, as TOML's own date or as text.
pub(super) fn day(value: &Value) -> Result<Date, String> {
    match value {
        Value::Datetime(datetime) => parse_day(&datetime.to_string()),
        Value::String(text) => parse_day(text),
        _ => Err(format!("is {}: write a day as YYYY-MM-DD", kind(value))),
    }
    .map_err(|problem| format!("is wrong: {problem}"))
}

/// A list of texts; in a variable, separated by commas.
pub(super) fn list(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        Value::String(text) => Ok(text.split(',').map(|item| item.trim().to_owned()).collect()),
        _ => Err(format!(
            "is {}: write a list, such as [\"placed\", \"received\"]",
            kind(value)
        )),
    }
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(
    words: &'static [(&'static str, T)],
) -> impl Fn(&Value) -> Result<T, String> {
    move |value| {
        let given = text(value)?;
        words
            .iter()
            .find(|(word, _)| *word == given)
            .map(|(_, meaning)| *meaning)
            .ok_or_else(|| {
                let known: Vec<String> = words
                    .iter()
                    .map(|(word, _)| format!("\"{word}\""))
                    .collect();
                format!("is \"{given}\": write {}", known.join(" or "))
            })
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a number",
        Value::Float(_) => "a decimal number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
