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
/// anything that could be a phone number.
pub fn quoted(text: &str) -> String {
    let mut shown = String::new();
    let mut digits = String::new();
    let end_number = |digits: &mut String, shown: &mut String| {
        shown.push_str(if digits.len() < MIN_HIDDEN_DIGITS {
            digits
        } else {
            "[number]"
        });
        digits.clear();
    };
    for character in text.chars() {
        if character.is_ascii_digit() {
            digits.push(character);
            continue;
        }
        end_number(&mut digits, &mut shown);
        shown.push(if character.is_control() {
            ' '
        } else {
            character
        });
        if shown.len() > 4 * MAX_QUOTED_CHARS {
            break;
        }
    }
    end_number(&mut digits, &mut shown);
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", words.get(..end).unwrap_or_default()),
        None => words,
    }
}

/// What to do about a disk that is full.
pub(crate) const MAKE_ROOM: &str = "Make room there and run again";

/// Whether the cause is a file system that takes no more.
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
        assert_eq!(quoted(&"7".repeat(10_000)), "[number]");
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
            "cannot finish the spool file x: no storage space"
        );
        assert!(is_disk_full(&error));
    }
}
