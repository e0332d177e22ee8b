//! Why a slice could not be searched or rewritten.

use crate::lake::LakeError;
use crate::ops::removal::is_hopeless;
use crate::ops::thread::on_thread;
use crate::slice_file::convert::ConvertError;
use crate::slice_file::writer::WriteError;

/// A slice could not be searched or rewritten.
#[derive(Debug, thiserror::Error)]
pub(super) enum EraseError {
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(
        "cannot read or rewrite its rows (if its file is damaged, run `cdrlake verify --repair`, \
         which fetches the slice without the number; then erase again)"
    )]
    Rows(#[from] ConvertError),
    #[error("cannot read or write one of its files")]
    File(#[from] std::io::Error),
    #[error(
        "it holds the number, but does not match its ledger entry, or has none. Restore its \
         files, or run `cdrlake verify --repair`, which fetches the slice without the number; \
         then erase again"
    )]
    Uncertain,
    #[error(
        "its first publication was announced but not committed, so its content is unknown. \
         Run `cdrlake run`, then erase again"
    )]
    Announced,
    #[error("the Parquet library panicked on its file. Run `cdrlake verify`")]
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
