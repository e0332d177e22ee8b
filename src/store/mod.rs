//! What a lake needs of the place it lies in.

pub mod bucket;
pub mod layout;
pub mod local;
pub mod location;
pub(crate) mod lock;
pub(crate) mod retry;
pub(crate) mod spool;
pub(crate) mod tls;

use std::fmt;
use std::path::Path as FilePath;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use serde::Serialize;
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

/// The right to work on something, for as long as it is held. Dropping it gives it back.
pub trait Lease: fmt::Debug + Send + Sync {
    /// Whether it is still held: nobody took it over, nobody removed it.
    fn is_held(&self) -> bool;
}

/// Longest time that is granted to anybody, whatever its lease says.
pub const MAX_LEASE_EXPIRY: Duration = Duration::from_hours(1);

/// Whether somebody holds a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Nobody.
    Free,
    /// Somebody who is alive.
    Held,
    /// Somebody who may be dead: on an object store only time tells, at most
    /// [`LakeStore::lease_expiry`].
    Unproven,
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

    /// Takes the lease named `path`, or returns `None` if another process, or another task of this
    /// one, holds it.
    async fn try_lease(&self, path: &Path) -> Result<Option<Box<dyn Lease>>, StoreError>;

    /// Whether somebody holds the lease named `path`. Writes nothing.
    async fn lease_state(&self, path: &Path) -> Result<LeaseState, StoreError>;

    /// How long the lease of a dead process bars others; `None` if it dies with the process.
    fn lease_expiry(&self) -> Option<Duration>;

    /// Whether conditional writes are conditional here, and leases therefore leases. Where not,
    /// only one run at a time may write. Asked once.
    async fn honours_conditions(&self) -> Result<bool, StoreError>;

    /// Whether any file of the table may be written: tries it where nobody sees it. Where the store
    /// cannot be asked that, nothing is wrong.
    async fn try_table(&self) -> Result<(), StoreError>;

    /// Waits until leases that were dropped are given back, and staged files that were dropped
    /// are taken back.
    async fn settle(&self);

    /// What dead processes left behind on the way to [`stage`](Self::stage) or a conditional
    /// write, and no live one holds, as far as a look can tell. Never anything of the table. Writes
    /// nothing.
    async fn find_leftovers(&self) -> Result<Vec<Path>, StoreError>;

    /// Removes what [`find_leftovers`](Self::find_leftovers) finds, and says what it was.
    async fn remove_leftovers(&self) -> Result<Vec<Path>, StoreError>;

    /// Removes everything that dead processes left, also where it takes
    /// [`lease_expiry`](Self::lease_expiry) to know that they are dead, and says what it was.
    async fn collect_garbage(&self) -> Result<Garbage, StoreError>;

    /// A directory for files on their way to [`stage`](Self::stage), which is cheap from there.
    fn spool_dir(&self) -> &FilePath;
}

/// What [`LakeStore::collect_garbage`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Garbage {
    /// What was removed, by its path in the lake or on this machine.
    pub removed: Vec<String>,
    /// What could not be looked at or removed, and why.
    pub left: Vec<String>,
}

/// Tries whether conditional writes are conditional, with an object at `path` that is nobody's.
///
/// # Errors
/// [`StoreError`] if it cannot be told.
pub async fn probe(store: &dyn LakeStore, path: &Path) -> Result<bool, StoreError> {
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

/// An error of a store that tells what kind of failure it is: the source of a [`StoreError`], in words
/// for people.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct ClassifiedError {
    /// What kind of failure.
    pub kind: FailureKind,
    /// Whether an earlier try may have done, or may still do, what the last one was refused.
    pub is_uncertain: bool,
    /// What it was, and what to do.
    pub text: String,
}
