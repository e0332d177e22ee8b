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
    /// What becomes of a slice and its run because of it. What may pass was tried again already.
    pub fn fate(&self) -> Fate {
        if self.kind() == Some(FailureKind::Hopeless) || is_disk_full(self) {
            Fate::StopRun(StopCause::Lake)
        } else {
            Fate::FailSlice
        }
    }

    /// What kind of failure of an object store it is; `None` for local files.
    pub fn kind(&self) -> Option<FailureKind> {
        let error = self.source.downcast_ref::<ClassifiedError>()?;
        Some(error.kind)
    }

    /// Whether the store does not permit what was tried, on this object.
    pub fn is_denied(&self) -> bool {
        let io = self.source.downcast_ref::<std::io::Error>();
        io.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
            || self.kind() == Some(FailureKind::Denied)
    }

    /// Whether an object store has said that it does not do what was asked: nothing has changed.
    pub fn is_refusal(&self) -> bool {
        let error = self.source.downcast_ref::<ClassifiedError>();
        error.is_some_and(|error| error.kind != FailureKind::Passing && !error.is_uncertain)
    }
}

/// What kind of failure it is, as far as a run should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Credentials, bucket, region: whatever is tried next fares no better.
    Hopeless,
    /// This request is not permitted; those for other objects may be.
    Denied,
    /// The store does not do what was asked of it at all.
    Unsupported,
    /// It may pass.
    Passing,
    /// It will not pass, and concerns this object alone.
    Permanent,
}

/// An error of a store that tells what kind of failure it is: the source of a [`StoreError`], in
/// words for people.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct ClassifiedError {
    /// What kind of failure.
    pub kind: FailureKind,
    /// Whether an earlier try may have done, or may still do, what the last one was refused.
    pub is_uncertain: bool,
    /// What it was, and what to do.
    pub text: String,
}
