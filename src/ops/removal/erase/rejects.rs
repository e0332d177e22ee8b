//! Rejects with and without the number.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::path::Path;

use super::error::{EraseError, blocking};
use crate::cdr::slice::Slice;
use crate::lake::Lake;
use crate::privacy::Privacy;
use crate::slice_file::rejects::{RejectsWriter, read_rejects};
use crate::slice_file::writer::SpoolFile;
use crate::store::layout;

/// How many rejects of the file at `path` hold a number that `privacy` suppresses.
pub(super) async fn matching_rejects(
    lake: &Lake,
    path: &Path,
    privacy: &Arc<Privacy>,
) -> Result<u64, EraseError> {
    let Some(copy) = lake.local_copy(path).await? else {
        return Ok(0);
    };
    let privacy = Arc::clone(privacy);
    blocking(move || {
        let mut rejects = 0;
        read_rejects(&copy.path, |reject| {
            rejects += u64::from(privacy.suppresses_text(&reject.shown()));
            Ok::<(), std::io::Error>(())
        })?;
        Ok(rejects)
    })
    .await
}

/// A rejects file without the number.
#[derive(Debug, Default)]
pub(super) struct RemainingRejects {
    /// The rejects without the number; `None` if none remain.
    pub(super) file: Option<SpoolFile>,
    /// How many remain.
    pub(super) left: u64,
    /// How many held the number.
    pub(super) dropped: u64,
}

impl RemainingRejects {
    /// Of a slice as it was committed.
    pub(super) async fn of_commit(
        lake: &Lake,
        slice: Slice,
        privacy: &Arc<Privacy>,
    ) -> Result<Self, EraseError> {
        let path = layout::rejects_file(slice);
        Self::of(lake, &path, spool_file(lake, slice, "kept"), privacy).await
    }

    /// Of the last attempt at a slice, which failed.
    pub(super) async fn of_failure(
        lake: &Lake,
        slice: Slice,
        privacy: &Arc<Privacy>,
    ) -> Result<Self, EraseError> {
        let path = layout::failed_rejects_file(slice);
        Self::of(lake, &path, spool_file(lake, slice, "failed"), privacy).await
    }

    /// Copies the rejects at `path` that `privacy` does not suppress into a file at `spool`.
    async fn of(
        lake: &Lake,
        path: &Path,
        spool: PathBuf,
        privacy: &Arc<Privacy>,
    ) -> Result<Self, EraseError> {
        let Some(copy) = lake.local_copy(path).await? else {
            return Ok(Self::default());
        };
        let privacy = Arc::clone(privacy);
        blocking(move || {
            let (mut writer, mut dropped) = (RejectsWriter::new(spool), 0);
            read_rejects(&copy.path, |reject| {
                if privacy.suppresses_text(&reject.shown()) {
                    dropped += 1;
                    return Ok(());
                }
                writer.add(reject)
            })?;
            let left = writer.count();
            Ok(Self {
                file: writer.finish()?,
                left,
                dropped,
            })
        })
        .await
    }

    /// How many there were.
    pub(super) fn total(&self) -> u64 {
        self.left + self.dropped
    }
}

fn spool_file(lake: &Lake, slice: Slice, name: &str) -> PathBuf {
    lake.spool_dir()
        .join(format!("{}.{name}", layout::stem(slice)))
}
