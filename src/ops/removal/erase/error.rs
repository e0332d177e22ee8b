//! Why a slice could not be searched or rewritten.

use crate::lake::LakeError;
use crate::ops::removal::is_hopeless;
use crate::ops::thread::on_thread;
use crate::slice_file::convert::ConvertError;
use crate::slice_file::writer::WriteError;

/// A slice could not be searched or rewritten.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// The lake could not be read or written.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// Its file may be damaged.
    #[error("cannot read or rewrite its rows")]
    Rows(#[from] ConvertError),
    /// One of its files, or a file in the spool, could not be read or written.
    #[error("cannot read or write one of its files")]
    File(#[from] std::io::Error),
    /// Its files cannot be relied on.
    #[error("it holds the number, but does not match its ledger entry, or has none")]
    Uncertain,
    /// A run crashed while it published the slice.
    #[error("its first publication was announced but not committed, so its content is unknown")]
    Announced,
    /// The Parquet library panicked.
    #[error("the Parquet library panicked on its file")]
    Panic,
}

impl EraseError {
    /// Whether every further slice would fail likewise.
    pub(super) fn is_hopeless(&self) -> bool {
        matches!(self, Self::Lake(error) if is_hopeless(error))
    }
}

impl From<WriteError> for EraseError {
    fn from(error: WriteError) -> Self {
        Self::Rows(error.into())
    }
}

/// Does blocking work on a thread of its own, where a panic becomes an error.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EraseError> + Send + 'static,
) -> Result<T, EraseError> {
    on_thread(work).await.unwrap_or(Err(EraseError::Panic))
}
