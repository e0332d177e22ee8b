//! A file on its way into the lake: staged, published, and in its ledger entry.

use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::LakeError;
use crate::slice_file::statistics::FileStatistics;
use crate::slice_file::writer::SpoolFile;
use crate::store::{LakeStore, Lease, ObjectState, Staged, Version};

/// A file of the table, or of rejects, as a ledger entry describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedFile {
    /// Where it lies in the lake.
    pub path: String,
    /// Its rows, or its rejects.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Checksum of its bytes, as [`crate::slice_file::writer::checksum_of`] writes it.
    pub checksum: String,
    /// The store's `ETag` of this upload, if it has one. `None` before publication.
    pub etag: Option<String>,
    /// Bounds of its columns; empty for rejects.
    #[serde(default, skip_serializing_if = "FileStatistics::is_empty")]
    pub statistics: FileStatistics,
}

impl PublishedFile {
    /// Where it lies in the lake.
    pub(crate) fn location(&self) -> Path {
        Path::from(&*self.path)
    }

    /// The description of a spool file that will be published at `path`.
    pub fn planned(path: &Path, file: &SpoolFile) -> Self {
        Self {
            path: path.to_string(),
            rows: file.rows,
            bytes: file.bytes,
            checksum: file.checksum.clone(),
            etag: None,
            statistics: file.statistics.clone(),
        }
    }
}

/// Whether the lake holds the file that its ledger entry describes, as far as can be checked
/// without reading it: the same upload, or no file if the entry names none.
pub(crate) fn is_intact(expected: Option<&PublishedFile>, found: Option<&ObjectState>) -> bool {
    match (expected, found) {
        (None, None) => true,
        (Some(expected), Some(found)) => {
            expected.path == found.path.as_ref()
                && expected.bytes == found.size_bytes
                && expected.etag == found.etag
        }
        _ => false,
    }
}

/// A file that is ready for publication and not visible yet. Dropping it removes it.
#[derive(Debug)]
pub(super) struct StagedFile {
    staged: Box<dyn Staged>,
    /// The version at its path when it was staged: a later change is another run's.
    seen: Option<Version>,
    /// Its description for the ledger entry, without the `ETag`.
    pub(super) planned: PublishedFile,
}

impl StagedFile {
    /// Prepares the publication of a file at `path`, where `before` lies: everything that takes
    /// long and is not visible yet.
    pub(super) async fn stage(
        store: &dyn LakeStore,
        path: &Path,
        before: Option<&ObjectState>,
        file: SpoolFile,
    ) -> Result<Self, LakeError> {
        Ok(Self {
            planned: PublishedFile::planned(path, &file),
            staged: store.stage(path, file.path).await?,
            seen: before.and_then(|before| before.version.clone()),
        })
    }

    /// Makes it visible, or reports that another run has changed the file.
    pub(super) async fn publish(self, lease: &dyn Lease) -> Result<PublishedFile, LakeError> {
        let Self {
            staged,
            seen,
            planned,
        } = self;
        match staged.publish(lease, seen.as_ref()).await? {
            Some(state) => Ok(PublishedFile {
                etag: state.etag,
                ..planned
            }),
            None => Err(LakeError::LostLease {
                path: Path::from(planned.path),
            }),
        }
    }
}
