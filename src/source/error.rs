//! Why calls, or their count, could not be had.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::StatusCode;

use crate::retry::{Fate, RetryHint, RetryReason, StopCause};

/// A question to the source failed. The texts hold no key, and of a server's words at most two
/// kilobytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// 401, or 403 to all of a kind: no other request will fare better.
    #[error("{}. {hint}", describe_answer(*status, message))]
    Refused {
        /// The status.
        status: StatusCode,
        /// The server's words.
        message: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A limit is met (429), and the server asks for a wait of more than twice `source.retry_max`:
    /// until then no other request will fare better.
    #[error("{0}")]
    QuotaUsedUp(String),
    /// The configuration, or this machine, does not allow to ask at all.
    #[error("{0}")]
    Setup(String),
    /// Asking again would not help.
    #[error("{0}")]
    Permanent(String),
    /// Asking again may help.
    #[error("{problem}")]
    Transient {
        /// Its kind.
        reason: RetryReason,
        /// What happened.
        problem: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
        /// Whether every slice should wait, not only this one.
        slow_down: bool,
    },
    /// The answer does not come from the API, but from something in between. It may go away, or
    /// not.
    #[error("{0}")]
    Foreign(String),
    /// What an export was split into on this machine's disk is gone, or cannot be read.
    #[error("cannot read {}, a temporary file of the export", path.display())]
    Spooled {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// The status of an answer and the server's words, unless these repeat the status.
pub(crate) fn describe_answer(status: StatusCode, message: &str) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    if message.eq_ignore_ascii_case(reason) {
        format!("the API answered {status}")
    } else {
        format!("the API answered {status}: {message}")
    }
}

impl SourceError {
    pub(super) fn transient(reason: RetryReason, problem: impl Into<String>) -> Self {
        Self::Transient {
            reason,
            problem: problem.into(),
            retry_after: None,
            slow_down: false,
        }
    }

    /// What becomes of a slice and its run because of it.
    pub fn fate(&self) -> Fate {
        match self {
            Self::Refused { .. } => Fate::StopRun(StopCause::Key),
            Self::QuotaUsedUp(_) | Self::Setup(_) => Fate::StopRun(StopCause::Source),
            Self::Permanent(_) => Fate::FailSlice,
            Self::Transient {
                reason,
                retry_after,
                slow_down,
                ..
            } => Fate::Retry(RetryHint {
                reason: *reason,
                after: *retry_after,
                slow_down: *slow_down,
            }),
            Self::Foreign(_) => Fate::retry(RetryReason::ForeignAnswer),
            // The disk is the same for all slices.
            Self::Spooled { .. } => Fate::StopRun(StopCause::Lake),
        }
    }
}
