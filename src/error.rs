//! Functions for all error types: printing a chain of causes, making foreign text safe, and
//! recognizing some causes.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::error::Error;
use std::io::{self, Write};

use crate::privacy::numbers::{
    is_control_or_bidi, may_separate_digits, replace_numbers, without_escapes,
};
use crate::privacy::redact_addresses;

/// An error and its causes on one line. A cause that the text contains already is not repeated.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error) {
        // The Parquet library prefixes errors of other libraries with this word.
        let cause = cause.to_string();
        let cause = cause.strip_prefix("External: ").unwrap_or(&cause);
        if !text.contains(cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Longest excerpt of foreign text, in characters.
const MAX_EXCERPT_CHARS: usize = 300;

/// A number with thousands separators: `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun in the right form: `1 slice`, `2,000 slices`.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    let name = if number == 1 { one } else { many };
    format!("{} {name}", thousands(number))
}

/// Longest list of names in a message.
const MAX_NAMES: usize = 40;

/// Names separated by commas. An ellipsis stands for those beyond [`MAX_NAMES`].
pub(crate) fn joined_names(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = if names.len() > MAX_NAMES { ", …" } else { "" };
    names.take(MAX_NAMES).collect::<Vec<_>>().join(", ") + more
}

/// The known name that is most like the given one, if any is like it. Sections end with a dot.
pub(crate) fn nearest<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    // A right name in a wrong section is nearer than any other name.
    let likeness = |name: &str| {
        let whole = strsim::normalized_damerau_levenshtein(name, given);
        let part = strsim::normalized_damerau_levenshtein(&last(name), &last(given)) * 0.9;
        whole.max(part)
    };
    let nearest = known
        .into_iter()
        .map(|name| (likeness(name), name))
        .max_by(|left, right| left.0.total_cmp(&right.0));
    nearest
        .filter(|(likeness, _)| *likeness > 0.5)
        .map(|(_, name)| name)
}

/// Makes foreign text safe for logs and errors: one line of at most [`MAX_EXCERPT_CHARS`]
/// characters, without anything that could be a phone number or a credential in an address.
pub(crate) fn sanitized_excerpt(text: &str) -> String {
    // Numbers are hidden before the final cut: a cut number would no longer be recognized.
    truncated(
        &sanitized_line(text, 4 * MAX_EXCERPT_CHARS),
        MAX_EXCERPT_CHARS,
    )
}

/// The text as one line without phone numbers and credentials, cut after about `max_chars`.
pub(crate) fn sanitized_line(text: &str, max_chars: usize) -> String {
    let line = one_line(&redact_addresses(&without_escapes(text)), max_chars);
    replace_numbers(&line, |_| "[number]".to_owned()).into_owned()
}

/// The text as one line: control characters and runs of white space become single spaces. Truncated
/// after `max_chars`; a number at that point is removed whole.
pub(crate) fn one_line(text: &str, max_chars: usize) -> String {
    let mut line = String::new();
    let mut chars = 0;
    let mut is_gap = false;
    for c in text.chars() {
        if is_control_or_bidi(c) || c.is_whitespace() {
            is_gap = !line.is_empty();
            continue;
        }
        if chars >= max_chars {
            let kept = line.trim_end_matches(|c: char| c.is_numeric() || may_separate_digits(c));
            return format!("{kept}…");
        }
        if std::mem::take(&mut is_gap) {
            line.push(' ');
            chars += 1;
        }
        line.push(c);
        chars += 1;
    }
    line
}

/// The text, truncated after `max_chars`.
pub(crate) fn truncated(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", text.split_at(end).0),
        None => text.to_owned(),
    }
}

/// A thread or task panicked. Its message is dropped because it may quote a record.
#[derive(Debug, thiserror::Error)]
#[error(
    "cdrlake panicked while processing this slice. This is a bug in cdrlake: please report it, \
     with the line on standard error that begins with \"cdrlake panicked at\""
)]
pub(crate) struct Panicked;

/// The result of a thread or task.
///
/// # Errors
/// [`Panicked`] if it panicked.
pub(crate) async fn join_task<T>(thread: tokio::task::JoinHandle<T>) -> Result<T, Panicked> {
    thread.await.map_err(|_| Panicked)
}

/// Makes panics print only their location. Their message may quote a record, and with it a phone
/// number.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let place = place.unwrap_or_else(|| "an unknown location".to_owned());
        let mut message = format!(
            "cdrlake panicked at {place}. This is a bug in cdrlake: please report this line"
        );
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            message = format!("{message}\n{trace}");
        }
        drop(writeln!(io::stderr(), "{message}"));
    }));
}

/// The remedy for a full disk.
pub(crate) const MAKE_ROOM: &str = "Make room there and run again";

/// Whether the cause is a full file system, a quota, or a limit on file sizes.
pub(crate) fn is_disk_full(error: &(dyn Error + 'static)) -> bool {
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

/// Whether the cause is a file at a path that should be a directory.
pub(crate) fn is_not_a_directory(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|error| error.kind() == io::ErrorKind::NotADirectory)
    })
}

/// The causes of an error, the nearest first.
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
    use crate::store::StoreError;

    #[test]
    fn every_cause_is_printed_once() {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        let error = StoreError {
            action: "write",
            path: "x".into(),
            source: source.into(),
        };
        assert_eq!(chain(&error), "cannot write x: no storage space");
        let error = crate::lake::LakeError::from(error);
        assert_eq!(chain(&error), "cannot write x: no storage space");
        assert!(is_disk_full(&error));
    }

    #[test]
    fn an_excerpt_of_foreign_text_is_one_short_line_without_phone_numbers() {
        assert_eq!(
            sanitized_excerpt("call +13025550101\n at 12:30\u{1b}[31m 123456"),
            "call +[number] at 12:30 [31m 123456"
        );
        assert_eq!(
            sanitized_excerpt(&"é ".repeat(10_000)).chars().count(),
            MAX_EXCERPT_CHARS + 1
        );
        assert_eq!(sanitized_excerpt(&"7".repeat(10_000)), "…");
        assert_eq!(
            sanitized_excerpt("call (1) 302-555-0101, or 1302.555.0101!"),
            "call ([number], or [number]!"
        );
        assert_eq!(
            sanitized_excerpt(
                r#""date":"2026-13-01 10:00","charge":"-0.0123456789","to":"20261001""#
            ),
            r#""date":"2026-13-01 10:00","charge":"-0.0123456789","to":"[number]""#
        );
        assert_eq!(sanitized_excerpt("2026-10-01 13025550101"), "[number]");
        for number in [
            r"1302\u00a0555\u00a00101",
            "1302\u{fffd}555\u{fffd}0102",
            "1302\u{2011}555\u{2011}0103",
            "+1 (302) 555 - 0104",
            "١٣٠٢٥٥٥٠١٠١",
            "1\u{200b}3\u{200b}0\u{200b}2\u{200b}5\u{200b}5\u{200b}5\u{200b}0",
        ] {
            let shown = sanitized_excerpt(number);
            assert!(
                shown.trim_start_matches('+') == "[number]",
                "{number}: {shown}"
            );
        }
        for number in [
            r"0221\/123456",
            "(0221) - 123456",
            r"1302\\u00a0555\\u00a00101",
            r"1302\t555\t0101",
            "1302&nbsp;555&nbsp;0101",
            "302,555,0101",
        ] {
            let shown = sanitized_excerpt(number);
            assert!(
                shown.trim_start_matches('(') == "[number]",
                "{number}: {shown}"
            );
        }
        // Wherever a text is truncated, no recognizable part of a number is left.
        for number in [
            "13025550101",
            "302-555-0101",
            "302 555 0101",
            r"302\u00a0555\u00a00101",
        ] {
            for length in 0..25 {
                let text = format!("{}{number} and so on", "x".repeat(1_200 - length));
                assert!(
                    !sanitized_excerpt(&text).contains("302"),
                    "{length}: {number}"
                );
                let line = sanitized_line(&text, 1_200);
                assert!(!line.contains("302"), "{length}: {number}: {line}");
            }
        }
        // Escaped text does not become a terminal command.
        let shown = sanitized_excerpt(r"\u001b[31mred\u0007\u000aforged\u202eline");
        assert_eq!(shown, "[31mred forged line");
    }

    #[test]
    fn the_prefix_of_the_parquet_library_is_not_printed() {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        let error = crate::slice_file::writer::WriteError::Parquet {
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
