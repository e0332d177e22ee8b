//! What goes wrong in a store.

use std::path::PathBuf;

use crate::error::is_disk_full;
use crate::retry::{Fate, StopCause};

/// The store did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct StoreError {
    /// What was tried.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl StoreError {
    /// What the error means for a slice and its run. Passing failures were retried already.
    pub fn fate(&self) -> Fate {
        if self.kind() == Some(FailureKind::Hopeless) || is_disk_full(self) {
            Fate::StopRun(StopCause::Lake)
        } else {
            Fate::FailSlice
        }
    }

    /// The kind of failure of an object store; `None` for local files.
    pub fn kind(&self) -> Option<FailureKind> {
        let error = self.source.downcast_ref::<ClassifiedError>()?;
        Some(error.kind)
    }

    /// Whether the store denied the operation on this object.
    pub fn is_denied(&self) -> bool {
        let io = self.source.downcast_ref::<std::io::Error>();
        io.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
            || self.kind() == Some(FailureKind::Denied)
    }

    /// Whether an object store refused the operation for certain, so that nothing has changed.
    pub fn is_refusal(&self) -> bool {
        let error = self.source.downcast_ref::<ClassifiedError>();
        error.is_some_and(|error| error.kind != FailureKind::Passing && !error.is_uncertain)
    }
}

/// The kind of a store's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Credentials, bucket or region are wrong: no other operation would succeed.
    Hopeless,
    /// This request is not permitted. Requests for other objects may be.
    Denied,
    /// The store does not support the operation.
    Unsupported,
    /// It may pass: a retry may succeed.
    Passing,
    /// A retry fails, too. Other objects are not affected.
    Permanent,
}

/// A classified failure of an object store: the source of a [`StoreError`].
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct ClassifiedError {
    /// The kind of failure.
    pub kind: FailureKind,
    /// Whether an earlier attempt may have succeeded, or may still succeed, although the last one
    /// was refused.
    pub is_uncertain: bool,
    /// What failed, and the remedy.
    pub text: String,
}
