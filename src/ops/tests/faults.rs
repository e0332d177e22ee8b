//! A store that fails when told to.

use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use tempfile::TempPath;

use crate::store::bucket::BucketStore;
use crate::store::{
    ClassifiedError, FailureKind, Garbage, Housekeeping, Lease, LeaseState, Leases, LocalCopy,
    ObjectState, Objects, Staged, StoreError, Swap, Version, Versioned,
};

/// Which operations fail, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// The name of the operation.
    pub(super) action: &'static str,
    /// What the path of its object contains.
    pub(super) path: &'static str,
    pub(super) kind: FailureKind,
}

/// The operations of a store: their names and objects.
pub(super) type Operations = Arc<Mutex<Vec<(&'static str, String)>>>;

/// A store whose operations fail as [`Faults`] say.
#[derive(Debug)]
pub(super) struct Failing {
    inner: BucketStore,
    faults: Option<Faults>,
    /// Numbers of operations that fail, from 0 on.
    numbers: Range<usize>,
    pub(super) operations: Operations,
}

impl Failing {
    pub(super) fn new(inner: BucketStore, faults: Faults) -> Self {
        Self {
            faults: Some(faults),
            ..Self::at(inner, usize::MAX..usize::MAX)
        }
    }

    /// A store whose operations with these numbers fail, from 0 on. If they have no end, it is as
    /// if the process had died.
    pub(super) fn at(inner: BucketStore, numbers: Range<usize>) -> Self {
        Self {
            inner,
            faults: None,
            numbers,
            operations: Operations::default(),
        }
    }

    fn may(&self, action: &'static str, path: &Path) -> Result<(), StoreError> {
        let mut operations = self.operations.lock().unwrap();
        let is_failing = self.numbers.contains(&operations.len());
        operations.push((action, path.to_string()));
        let chosen = self
            .faults
            .filter(|faults| action == faults.action && path.as_ref().contains(faults.path));
        let kind = match chosen {
            Some(faults) => faults.kind,
            None if is_failing => FailureKind::Permanent,
            None => return Ok(()),
        };
        Err(StoreError {
            action,
            path: PathBuf::from(path.as_ref()),
            source: Box::new(ClassifiedError {
                kind,
                is_uncertain: false,
                text: "the store fails".to_owned(),
            }),
        })
    }
}

#[async_trait]
impl Objects for Failing {
    async fn read(&self, path: &Path) -> Result<Option<Versioned>, StoreError> {
        self.may("read", path)?;
        self.inner.read(path).await
    }

    async fn create(&self, path: &Path, bytes: Bytes) -> Result<Swap, StoreError> {
        self.may("create", path)?;
        self.inner.create(path, bytes).await
    }

    async fn replace(
        &self,
        path: &Path,
        bytes: Bytes,
        expected: &Version,
    ) -> Result<Swap, StoreError> {
        self.may("replace", path)?;
        self.inner.replace(path, bytes, expected).await
    }

    async fn state(&self, path: &Path) -> Result<Option<ObjectState>, StoreError> {
        self.may("state", path)?;
        self.inner.state(path).await
    }

    async fn stage(&self, path: &Path, file: TempPath) -> Result<Box<dyn Staged>, StoreError> {
        self.may("stage", path)?;
        self.inner.stage(path, file).await
    }

    async fn local_copy(&self, path: &Path) -> Result<Option<LocalCopy>, StoreError> {
        self.may("fetch", path)?;
        self.inner.local_copy(path).await
    }

    async fn list(&self, prefix: &Path) -> Result<Vec<ObjectState>, StoreError> {
        self.may("list", prefix)?;
        self.inner.list(prefix).await
    }

    async fn delete(&self, path: &Path) -> Result<(), StoreError> {
        self.may("delete", path)?;
        self.inner.delete(path).await
    }

    fn uri(&self) -> String {
        self.inner.uri()
    }

    fn spool_dir(&self) -> &FilePath {
        self.inner.spool_dir()
    }
}

#[async_trait]
impl Leases for Failing {
    async fn try_lease(&self, path: &Path) -> Result<Option<Box<dyn Lease>>, StoreError> {
        self.inner.try_lease(path).await
    }

    async fn lease_state(&self, path: &Path) -> Result<LeaseState, StoreError> {
        self.inner.lease_state(path).await
    }

    fn lease_expiry(&self) -> Option<Duration> {
        self.inner.lease_expiry()
    }

    async fn honours_conditions(&self) -> Result<bool, StoreError> {
        self.inner.honours_conditions().await
    }
}

#[async_trait]
impl Housekeeping for Failing {
    async fn settle(&self) {
        self.inner.settle().await;
    }

    async fn find_leftovers(&self) -> Result<Vec<Path>, StoreError> {
        self.inner.find_leftovers().await
    }

    async fn remove_leftovers(&self) -> Result<Vec<Path>, StoreError> {
        self.inner.remove_leftovers().await
    }

    async fn collect_garbage(&self) -> Result<Garbage, StoreError> {
        self.inner.collect_garbage().await
    }
}
