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
