//! Objects: reads, conditional writes, publication.

use std::fmt;
use std::path::{Path as FilePath, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use tempfile::TempPath;

use super::{Lease, StoreError};

/// A state of an object, for [`Objects::replace`]: equal versions mean equal bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

/// An object's bytes and their version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The bytes.
    pub bytes: Bytes,
    /// The expected version for [`Objects::replace`].
    pub version: Version,
}

/// How a conditional write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The object was written and has this version.
    Done(Version),
    /// The object was not the expected version. Nothing was written.
    Refused,
}

/// An object of the table, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectState {
    /// Where it lies.
    pub path: Path,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The store's `ETag` of this upload. `None` on local disk, so that a copied or restored lake
    /// is not reported as damaged.
    pub etag: Option<String>,
    /// The seen version for [`Staged::publish`]. `None` in listings, and on local disk, where a
    /// lease cannot expire.
    pub version: Option<Version>,
}

/// An object as a local file.
#[derive(Debug)]
pub struct LocalCopy {
    /// Where it can be read.
    pub path: PathBuf,
    /// The downloaded file, deleted on drop. `None` if the object lies on this machine.
    pub fetched: Option<TempPath>,
}

/// A file that is ready for publication and not visible yet. Dropping it removes it.
#[async_trait]
pub trait Staged: fmt::Debug + Send {
    /// Makes it visible and replaces the old object. Readers see either object, whole. Once this
    /// returns, the new object survives a power cut. `None` if nothing was done, because the
    /// `lease` is lost or the object is no longer the version that was `seen` (`None`: no object),
    /// as far as the store can check this.
    async fn publish(
        self: Box<Self>,
        lease: &dyn Lease,
        seen: Option<&Version>,
    ) -> Result<Option<ObjectState>, StoreError>;
}

/// Reads, conditional writes and atomic publication. Paths are relative to the lake.
#[async_trait]
pub trait Objects: fmt::Debug + Send + Sync {
    /// The object at `path`, or `None` if there is none. For small objects: it is read whole.
    async fn read(&self, path: &Path) -> Result<Option<Versioned>, StoreError>;

    /// Writes an object that must not exist yet. Of concurrent writers, one succeeds.
    async fn create(&self, path: &Path, bytes: Bytes) -> Result<Swap, StoreError>;

    /// Writes an object that must still be the `expected` version. Of concurrent writers, one
    /// succeeds.
    async fn replace(
        &self,
        path: &Path,
        bytes: Bytes,
        expected: &Version,
    ) -> Result<Swap, StoreError>;

    /// The object at `path` as it is now, or `None` if there is none.
    async fn state(&self, path: &Path) -> Result<Option<ObjectState>, StoreError>;

    /// Prepares the publication of a finished file at `path`: everything that takes long and is not
    /// visible yet. Dropping the future undoes it.
    async fn stage(&self, path: &Path, file: TempPath) -> Result<Box<dyn Staged>, StoreError>;

    /// The object at `path` as a file, or `None` if there is none.
    async fn local_copy(&self, path: &Path) -> Result<Option<LocalCopy>, StoreError>;

    /// Every object below `prefix`, in no order.
    async fn list(&self, prefix: &Path) -> Result<Vec<ObjectState>, StoreError>;

    /// Removes an object; one that is not there is removed already.
    async fn delete(&self, path: &Path) -> Result<(), StoreError>;

    /// The lake's absolute address, by which other programs find its objects, without a slash at
    /// the end: `file:///srv/lake`, `s3://bucket/prefix`.
    fn uri(&self) -> String;

    /// The directory for files that will be [staged](Self::stage), which is cheap from there.
    fn spool_dir(&self) -> &FilePath;

    /// Tests whether a file can be staged at `path`, without a visible effect. The default
    /// implementation is for stores that cannot test this.
    async fn try_stage(&self, _path: &Path) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Tests whether the store honours conditional writes, with a temporary object at `path`.
///
/// # Errors
/// [`StoreError`] if the test fails.
pub async fn probe(store: &dyn Objects, path: &Path) -> Result<bool, StoreError> {
    let write = |text: &'static str| Bytes::from_static(text.as_bytes());
    store.delete(path).await?;
    let first = store.create(path, write("1")).await?;
    let second = store.create(path, write("2")).await?;
    let (mut replaced, mut stale) = (Swap::Refused, Swap::Refused);
    if let Swap::Done(version) = &first {
        replaced = store.replace(path, write("3"), version).await?;
        stale = store.replace(path, write("4"), version).await?;
    }
    store.delete(path).await?;
    match (first, second, replaced, stale) {
        (Swap::Done(_), Swap::Refused, Swap::Done(_), Swap::Refused) => Ok(true),
        (_, Swap::Done(_), _, _) | (_, _, _, Swap::Done(_)) => Ok(false),
        _ => Err(StoreError {
            action: "try conditional writes at",
            path: PathBuf::from(path.as_ref()),
            source: "another program writes there, too. Try again".into(),
        }),
    }
}
