//! A file on its way into the lake: staged, published, and as its ledger entry knows it.

use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::LakeError;
use crate::slice_file::writer::SpoolFile;
use crate::store::{LakeStore, Lease, ObjectState, Staged, Version};

/// What the ledger says of a file: of the table, or of rejects.
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
    /// The store's mark of this upload, if it gives one. `None` also until it is published.
    pub etag: Option<String>,
}

impl PublishedFile {
    /// Where it lies in the lake.
    pub(crate) fn location(&self) -> Path {
        Path::from(&*self.path)
    }

    /// What will be said of a file of the spool that is to lie at `path`.
    pub fn planned(path: &Path, file: &SpoolFile) -> Self {
        Self {
            path: path.to_string(),
            rows: file.rows,
            bytes: file.bytes,
            checksum: file.checksum.clone(),
            etag: None,
        }
    }
}

/// Whether the lake holds the file that its ledger speaks of, as far as can be told without reading
/// it: this very upload, or none where there should be none.
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

/// A file that is as far on its way as it can be without being seen. Dropping it takes it back.
#[derive(Debug)]
pub(super) struct StagedFile {
    staged: Box<dyn Staged>,
    /// What lay at its path before: whatever has changed since then is another run's.
    seen: Option<Version>,
    /// What the ledger will say of it, but for the store's mark.
    pub(super) planned: PublishedFile,
}

impl StagedFile {
    /// Does everything about bringing a file to `path`, where `before` lies, that takes long and
    /// that nobody sees.
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

    /// Makes it visible, or says that another run was quicker.
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
