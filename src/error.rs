//! What all errors have in common: how they are told, and what can be told from them.

use std::error::Error;
use std::io;

/// An error and its causes on one line, without repeating what was already said.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error) {
        // The Parquet library's word for "not my error", in front of the error itself.
        let cause = cause.to_string();
        let cause = cause.strip_prefix("External: ").unwrap_or(&cause);
        if !text.contains(cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Most characters shown of what somebody else said.
const MAX_QUOTED_CHARS: usize = 300;
/// From so many digits on a number may be a phone number.
const MIN_HIDDEN_DIGITS: usize = 7;

/// Makes words from outside fit for logs and errors: on one line, not too long, and without
/// anything that could be a phone number, with or without separators.
pub fn quoted(text: &str) -> String {
    // Cut before and after: what stands for a number is longer or shorter than it.
    let line = one_line(text, 4 * MAX_QUOTED_CHARS);
    cut(&hide_numbers(&line), MAX_QUOTED_CHARS)
}

/// A text on one line, its control characters and runs of white space made single spaces, cut after
/// `max_chars`.
pub fn one_line(text: &str, max_chars: usize) -> String {
    let mut line = String::new();
    let words = text
        .split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty());
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > 4 * max_chars {
            break;
        }
    }
    cut(&line, max_chars)
}

fn cut(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", text.split_at(end).0),
        None => text.to_owned(),
    }
}

/// A text in which `[number]` stands for everything that could be a phone number. Dates that begin
/// with a year of these centuries and decimals below one are no such numbers.
pub fn hide_numbers(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, number) = rest.split_at(start);
        let end = number
            .find(|c: char| !c.is_ascii_digit() && !" ().-/".contains(c))
            .unwrap_or(number.len());
        let (number, after) = number.split_at(end);
        // What separates digits belongs to the number, what follows the last does not.
        let digits_end = number
            .rfind(|c: char| c.is_ascii_digit())
            .map_or(0, |last| last + 1);
        let (number, tail) = number.split_at(digits_end);
        let is_hidden = number.bytes().filter(u8::is_ascii_digit).count() >= MIN_HIDDEN_DIGITS
            && !is_date_or_fraction(number);
        shown.push_str(before);
        shown.push_str(if is_hidden { "[number]" } else { number });
        shown.push_str(tail);
        rest = after;
    }
    shown.push_str(rest);
    shown
}

/// Whether digits and what separates them are `20YY-MM-DD` or `19YY-MM-DD`, perhaps with an hour
/// behind, or `0.` and decimals.
fn is_date_or_fraction(number: &str) -> bool {
    let are_digits = |text: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    if let Some(decimals) = number.strip_prefix("0.") {
        return are_digits(decimals, 1..=usize::MAX);
    }
    let (date, hour) = number.split_once(' ').unwrap_or((number, "00"));
    let mut parts = date.split('-');
    let parts = [parts.next(), parts.next(), parts.next(), parts.next()];
    let [Some(year), Some(month), Some(day), None] = parts else {
        return false;
    };
    (year.starts_with("19") || year.starts_with("20"))
        && are_digits(year, 4..=4)
        && [month, day, hour]
            .into_iter()
            .all(|part| are_digits(part, 2..=2))
}

/// What to do about a disk that is full.
pub(crate) const MAKE_ROOM: &str = "Make room there and run again";

/// Whether the cause is a file system that takes no more from anybody.
pub fn is_disk_full(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::FileTooLarge
            )
        })
    })
}

/// Everything below an error, the nearest first.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause: &&'a (dyn Error + 'static)| {
        (*cause).source()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::store::StoreError;

    #[test]
    fn every_cause_is_told_once() {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        let error = StoreError {
            action: "write",
            path: "x".into(),
            source,
        };
        assert_eq!(chain(&error), "cannot write x: no storage space");
        let error = crate::lake::LakeError::from(error);
        assert_eq!(chain(&error), "cannot write x: no storage space");
        assert!(is_disk_full(&error));
    }

    #[test]
    fn words_from_outside_are_short_on_one_line_and_hold_no_phone_number() {
        assert_eq!(
            quoted("call +13025550101\n at 12:30\u{1b}[31m 123456"),
            "call +[number] at 12:30 [31m 123456"
        );
        assert_eq!(
            quoted(&"é ".repeat(10_000)).chars().count(),
            MAX_QUOTED_CHARS + 1
        );
        assert_eq!(quoted(&"7".repeat(10_000)), "[number]…");
        assert_eq!(
            quoted("call (1) 302-555-0101, or 1302.555.0101!"),
            "call ([number], or [number]!"
        );
        assert_eq!(
            quoted(r#""date":"2026-13-01 10:00","charge":"-0.0123456789","to":"20261001""#),
            r#""date":"2026-13-01 10:00","charge":"-0.0123456789","to":"[number]""#
        );
        assert_eq!(quoted("2026-10-01 13025550101"), "[number]");
    }

    #[test]
    fn the_parquet_library_s_wrapping_is_not_told() {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        let error = crate::writer::WriteError::Parquet {
            action: "finish",
            path: "x".into(),
            source: parquet::errors::ParquetError::External(Box::new(source)),
        };
        assert_eq!(
            chain(&error),
            "cannot finish the Parquet file x: no storage space"
        );
        assert!(is_disk_full(&error));
    }
}
