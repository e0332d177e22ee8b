//! A store in which a chosen operation fails.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use tempfile::TempPath;

use crate::store::{
    Garbage, Housekeeping, LakeStore, Lease, LeaseState, Leases, LocalCopy, ObjectState, Objects,
    Staged, StoreError, Swap, Version, Versioned,
};

/// When the chosen operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Before it takes effect.
    Before,
    /// After it took effect: its reply is lost.
    After,
}

/// A store whose operations fail from the chosen one on, as if its process had died.
#[derive(Debug)]
pub(super) struct FaultStore {
    inner: Arc<dyn LakeStore>,
    moment: Moment,
    /// Operations until the chosen one.
    left: AtomicI64,
    /// Whether later operations succeed again.
    is_passing: bool,
}

impl FaultStore {
    /// All operations succeed, and are counted.
    pub(super) fn counting(inner: Arc<dyn LakeStore>) -> Self {
        Self {
            inner,
            moment: Moment::Before,
            left: AtomicI64::new(i64::MAX),
            is_passing: false,
        }
    }

    /// The operation with number `at`, from 0, fails, and all later ones.
    pub(super) fn dying(inner: Arc<dyn LakeStore>, at: i64, moment: Moment) -> Self {
        Self {
            inner,
            moment,
            left: AtomicI64::new(at),
            is_passing: false,
        }
    }

    /// Only the operation with number `at`, from 0, fails.
    pub(super) fn failing_once(inner: Arc<dyn LakeStore>, at: i64, moment: Moment) -> Self {
        Self {
            is_passing: true,
            ..Self::dying(inner, at, moment)
        }
    }

    /// The operations so far.
    pub(super) fn operations(&self) -> i64 {
        i64::MAX - self.left.load(Ordering::SeqCst)
    }

    /// Whether the chosen operation was reached.
    pub(super) fn has_failed(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    async fn run<T>(
        &self,
        path: &Path,
        operation: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        let failed = || StoreError {
            action: "use",
            path: path.to_string().into(),
            source: "the store fails".into(),
        };
        let is_chosen = left == 0;
        if left < 0 && !self.is_passing || is_chosen && self.moment == Moment::Before {
            return Err(failed());
        }
        let done = operation.await?;
        if is_chosen { Err(failed()) } else { Ok(done) }
    }
}

#[async_trait]
impl Objects for FaultStore {
    async fn read(&self, path: &Path) -> Result<Option<Versioned>, StoreError> {
        self.run(path, self.inner.read(path)).await
    }

    async fn create(&self, path: &Path, bytes: Bytes) -> Result<Swap, StoreError> {
        self.run(path, self.inner.create(path, bytes)).await
    }

    async fn replace(
        &self,
        path: &Path,
        bytes: Bytes,
        expected: &Version,
    ) -> Result<Swap, StoreError> {
        let replaced = self.inner.replace(path, bytes, expected);
        self.run(path, replaced).await
    }

    async fn state(&self, path: &Path) -> Result<Option<ObjectState>, StoreError> {
        self.run(path, self.inner.state(path)).await
    }

    async fn stage(&self, path: &Path, file: TempPath) -> Result<Box<dyn Staged>, StoreError> {
        self.run(path, self.inner.stage(path, file)).await
    }

    async fn local_copy(&self, path: &Path) -> Result<Option<LocalCopy>, StoreError> {
        self.run(path, self.inner.local_copy(path)).await
    }

    async fn list(&self, prefix: &Path) -> Result<Vec<ObjectState>, StoreError> {
        self.run(prefix, self.inner.list(prefix)).await
    }

    async fn delete(&self, path: &Path) -> Result<(), StoreError> {
        self.run(path, self.inner.delete(path)).await
    }

    fn uri(&self) -> String {
        self.inner.uri()
    }

    fn spool_dir(&self) -> &FilePath {
        self.inner.spool_dir()
    }
}

#[async_trait]
impl Leases for FaultStore {
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
impl Housekeeping for FaultStore {
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
