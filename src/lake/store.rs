//! What a lake needs of the place it lies in.

use std::fmt;
use std::path::Path as FilePath;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use tempfile::TempPath;

/// A state of an object, for [`LakeStore::replace`]: equal versions mean equal bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

/// An object's bytes and the version they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The bytes.
    pub bytes: Bytes,
    /// What to hand to [`LakeStore::replace`].
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
}

/// An object that this machine can read as a file.
#[derive(Debug)]
pub struct LocalCopy {
    /// Where it can be read.
    pub path: PathBuf,
    /// What has to be kept until then, where the object had to be fetched.
    pub fetched: Option<TempPath>,
}

/// The right to work on something, for as long as it is held. Dropping it gives it back.
pub trait Lease: fmt::Debug + Send + Sync {
    /// Whether it is still held: nobody took it over, nobody removed it.
    fn is_held(&self) -> bool;
}

/// Reads, conditional writes and atomic publication: all a lake asks of local disk or of an
/// object store. Paths are relative to the lake.
#[async_trait]
pub trait LakeStore: fmt::Debug + Send + Sync {
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

    /// Moves a finished file to `path`, replacing what is there. Readers see the old object or
    /// the new one, whole, and the new one outlasts a power cut once this returns.
    async fn publish(&self, path: &Path, file: TempPath) -> Result<ObjectState, StoreError>;

    /// The object at `path` as a file, or `None` if there is none.
    async fn local_copy(&self, path: &Path) -> Result<Option<LocalCopy>, StoreError>;

    /// Every object below `prefix`, in no order.
    async fn list(&self, prefix: &Path) -> Result<Vec<ObjectState>, StoreError>;

    /// Removes an object; one that is not there is removed already.
    async fn delete(&self, path: &Path) -> Result<(), StoreError>;

    /// Takes the lease named `path`, or returns `None` if another process, or another task of this
    /// one, holds it.
    async fn try_lease(&self, path: &Path) -> Result<Option<Box<dyn Lease>>, StoreError>;

    /// Whether somebody holds the lease named `path`. Writes nothing.
    async fn is_leased(&self, path: &Path) -> Result<bool, StoreError>;

    /// What dead processes left behind on the way to [`publish`](Self::publish) or a conditional
    /// write, and no live one holds. Never anything of the table. Writes nothing.
    async fn find_leftovers(&self) -> Result<Vec<Path>, StoreError>;

    /// Removes what [`find_leftovers`](Self::find_leftovers) finds, and says what it was.
    async fn remove_leftovers(&self) -> Result<Vec<Path>, StoreError>;

    /// A directory for files on their way to [`publish`](Self::publish), which is cheap from there.
    fn spool_dir(&self) -> &FilePath;
}

/// The store did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct StoreError {
    /// What was tried.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    pub source: std::io::Error,
}
