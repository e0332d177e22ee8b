//! Objects: what is read, written on a condition, and published.

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

/// An object's bytes and the version they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The bytes.
    pub bytes: Bytes,
    /// What to hand to [`Objects::replace`].
    pub version: Version,
}

/// How a conditional write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The object is as asked for, and has this version.
    Done(Version),
    /// The object was not as expected; nothing was written.
    Refused,
}

/// An object of the table, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectState {
    /// Where it lies.
    pub path: Path,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The store's mark of this very upload. `None` on local disk, where copying a lake or
    /// restoring it from a backup must not make it look damaged.
    pub etag: Option<String>,
    /// What to hand to [`Staged::publish`]. `None` on local disk, where the lock that is a lease
    /// lives as long as its holder, and in listings.
    pub version: Option<Version>,
}

/// An object that this machine can read as a file.
#[derive(Debug)]
pub struct LocalCopy {
    /// Where it can be read.
    pub path: PathBuf,
    /// What has to be kept until then, where the object had to be fetched.
    pub fetched: Option<TempPath>,
}

/// A file that is as far on its way as it can be without being seen. Dropping it takes it back.
#[async_trait]
pub trait Staged: fmt::Debug + Send {
    /// Makes it visible, replacing what is there. Readers see the old object or the new one, whole,
    /// and the new one outlasts a power cut once this returns. `None`, and nothing was done, if the
    /// `lease` is no longer held, or the object is no longer the version that was `seen` (`None`:
    /// that there was none), as far as the store can tell.
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

    /// Writes an object that must not exist yet. Of several who try, one succeeds.
    async fn create(&self, path: &Path, bytes: Bytes) -> Result<Swap, StoreError>;

    /// Writes an object that must still be the `expected` version. Of several who try, one
    /// succeeds.
    async fn replace(
        &self,
        path: &Path,
        bytes: Bytes,
        expected: &Version,
    ) -> Result<Swap, StoreError>;

    /// The object at `path` as it is now, or `None` if there is none.
    async fn state(&self, path: &Path) -> Result<Option<ObjectState>, StoreError>;

    /// Does everything about bringing a finished file to `path` that takes long and that nobody
    /// sees. Dropping the future takes back what it has done.
    async fn stage(&self, path: &Path, file: TempPath) -> Result<Box<dyn Staged>, StoreError>;

    /// The object at `path` as a file, or `None` if there is none.
    async fn local_copy(&self, path: &Path) -> Result<Option<LocalCopy>, StoreError>;

    /// Every object below `prefix`, in no order.
    async fn list(&self, prefix: &Path) -> Result<Vec<ObjectState>, StoreError>;

    /// Removes an object; one that is not there is removed already.
    async fn delete(&self, path: &Path) -> Result<(), StoreError>;

    /// A directory for files on their way to [`stage`](Self::stage), which is cheap from there.
    fn spool_dir(&self) -> &FilePath;

    /// Whether a file could be staged at `path`: tries it where nobody sees it. Without an
    /// implementation of its own: the store cannot be asked that, and nothing is wrong.
    async fn try_stage(&self, _path: &Path) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Tries whether conditional writes are conditional, with an object at `path` that is nobody's.
///
/// # Errors
/// [`StoreError`] if it cannot be told.
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
            source: "somebody else writes there too. Try again".into(),
        }),
    }
}
