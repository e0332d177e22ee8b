use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cdrlake::internals::{
    BucketOptions, BucketStore, Garbage, Housekeeping, LakeStore, Lease, LeaseState, Leases,
    LocalCopy, ObjectState, Objects, Staged, StoreError, Swap, Version, Versioned,
};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as ObjectError, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, TagSet, UploadPart,
};
use tempfile::TempPath;
use tokio_util::sync::CancellationToken;

/// A fault of one operation.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Fails without effect.
    ErrorBefore,
    /// Fails permanently, without effect.
    RefusedBefore,
    /// Takes effect, but returns an error.
    ErrorAfter,
    /// Hangs without effect.
    HangBefore,
    /// Takes effect, then hangs.
    HangAfter,
    /// The process dies before the operation.
    AbortBefore,
    /// The process dies after the operation.
    AbortAfter,
    /// Waits until the token is cancelled.
    Pause(CancellationToken),
}

/// Forwards every operation, but injects a fault into one. Operations are numbered from 0.
#[derive(Clone, Debug)]
pub(crate) struct FaultStore {
    inner: Arc<dyn LakeStore>,
    faults: Arc<Faults>,
    /// Another writer always wins for objects with this prefix.
    contended: Option<&'static str>,
}

/// Counts operations and determines which one fails.
#[derive(Debug)]
pub(crate) struct Faults {
    at: usize,
    fault: Fault,
    count: AtomicUsize,
    /// Cancelled when the operation hangs or waits.
    pub(crate) reached: CancellationToken,
    /// Number of ledger entries written after the pause before the process dies.
    entries_left: AtomicUsize,
    /// Cancelled when the process has died in this way.
    pub(crate) died: CancellationToken,
    /// The action and object of every operation.
    log: Mutex<Vec<(&'static str, String)>>,
    /// Uploads that were neither completed nor aborted.
    uploads: AtomicUsize,
}

impl Faults {
    pub(crate) fn new(at: usize, fault: Fault) -> Arc<Self> {
        Self::dying_after(at, fault, usize::MAX)
    }

    /// The process dies after it has written `entries` ledger entries after the operation.
    pub(crate) fn dying_after(at: usize, fault: Fault, entries: usize) -> Arc<Self> {
        Arc::new(Self {
            entries_left: AtomicUsize::new(entries),
            died: CancellationToken::new(),
            at,
            fault,
            count: AtomicUsize::new(0),
            reached: CancellationToken::new(),
            log: Mutex::default(),
            uploads: AtomicUsize::new(0),
        })
    }

    /// Number of uploads that were neither completed nor aborted.
    pub(crate) fn uploads_under_way(&self) -> usize {
        self.uploads.load(Ordering::SeqCst)
    }

    /// Counts operations without a fault.
    pub(crate) fn none() -> Arc<Self> {
        Self::new(usize::MAX, Fault::ErrorBefore)
    }

    pub(crate) fn operations(&self) -> Vec<(&'static str, String)> {
        self.log.lock().unwrap().clone()
    }

    /// Does `work`, or injects the fault with `error` if this is the operation that fails.
    async fn pass<T, E>(
        &self,
        action: &'static str,
        path: &Path,
        error: impl FnOnce() -> E,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.log.lock().unwrap().push((action, path.to_string()));
        let count = self.count.fetch_add(1, Ordering::SeqCst);
        let is_entry = ["create", "update"].contains(&action) && path.as_ref().contains("/ledger/");
        let pause = match &self.fault {
            Fault::Pause(resume) if count == self.at => Some(resume),
            _ => None,
        };
        if is_entry && (count > self.at || pause.is_some()) {
            if let Some(resume) = pause {
                self.reached.cancel();
                resume.cancelled().await;
            }
            let done = work.await;
            if self.entries_left.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.died.cancel();
                return std::future::pending().await;
            }
            return done;
        }
        if count != self.at {
            return work.await;
        }
        match &self.fault {
            Fault::ErrorBefore | Fault::RefusedBefore => Err(error()),
            Fault::ErrorAfter => {
                work.await?;
                Err(error())
            }
            Fault::HangBefore => {
                self.reached.cancel();
                std::future::pending().await
            }
            Fault::HangAfter => {
                // The effect stays: a lease that was taken is held.
                let _done = work.await?;
                self.reached.cancel();
                std::future::pending().await
            }
            Fault::AbortBefore => std::process::abort(),
            Fault::AbortAfter => {
                let _done = work.await?;
                std::process::abort()
            }
            Fault::Pause(resume) => {
                self.reached.cancel();
                resume.cancelled().await;
                work.await
            }
        }
    }
}

impl FaultStore {
    pub(crate) fn new(inner: Arc<dyn LakeStore>, faults: &Arc<Faults>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            faults: Arc::clone(faults),
            contended: None,
        })
    }

    /// Forwards every operation, but loses every write to objects with `prefix` to another writer.
    pub(crate) fn too_late_for(inner: Arc<dyn LakeStore>, prefix: &'static str) -> Arc<Self> {
        Arc::new(Self {
            inner,
            faults: Faults::none(),
            contended: Some(prefix),
        })
    }

    fn is_too_late(&self, path: &Path) -> bool {
        self.contended
            .is_some_and(|prefix| path.as_ref().starts_with(prefix))
    }

    async fn pass<T>(
        &self,
        action: &'static str,
        path: &Path,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let error = || StoreError {
            action,
            path: PathBuf::from(path.as_ref()),
            source: "injected".into(),
        };
        self.faults.pass(action, path, error, work).await
    }
}

/// Objects that the operations wrote or deleted.
pub(crate) fn written(operations: &[(&'static str, String)]) -> BTreeSet<String> {
    operations
        .iter()
        .filter(|(action, _)| ["create", "replace", "publish", "delete"].contains(action))
        .map(|(_, path)| path.clone())
        .collect()
}

/// A staged file whose publication counts as an operation.
#[derive(Debug)]
struct FaultStaged {
    inner: Box<dyn Staged>,
    store: FaultStore,
    path: Path,
}

#[async_trait]
impl Staged for FaultStaged {
    async fn publish(
        self: Box<Self>,
        lease: &dyn Lease,
        seen: Option<&Version>,
    ) -> Result<Option<ObjectState>, StoreError> {
        let Self { inner, store, path } = *self;
        store
            .pass("publish", &path, inner.publish(lease, seen))
            .await
    }
}

#[async_trait]
impl Objects for FaultStore {
    async fn read(&self, path: &Path) -> Result<Option<Versioned>, StoreError> {
        self.pass("read", path, self.inner.read(path)).await
    }

    async fn create(&self, path: &Path, bytes: Bytes) -> Result<Swap, StoreError> {
        if self.is_too_late(path) {
            return Ok(Swap::Refused);
        }
        self.pass("create", path, self.inner.create(path, bytes))
            .await
    }

    async fn replace(
        &self,
        path: &Path,
        bytes: Bytes,
        expected: &Version,
    ) -> Result<Swap, StoreError> {
        if self.is_too_late(path) {
            return Ok(Swap::Refused);
        }
        self.pass("replace", path, self.inner.replace(path, bytes, expected))
            .await
    }

    async fn state(&self, path: &Path) -> Result<Option<ObjectState>, StoreError> {
        self.pass("state", path, self.inner.state(path)).await
    }

    async fn stage(&self, path: &Path, file: TempPath) -> Result<Box<dyn Staged>, StoreError> {
        let inner = self
            .pass("stage", path, self.inner.stage(path, file))
            .await?;
        Ok(Box::new(FaultStaged {
            inner,
            store: self.clone(),
            path: path.clone(),
        }))
    }

    async fn local_copy(&self, path: &Path) -> Result<Option<LocalCopy>, StoreError> {
        self.pass("copy", path, self.inner.local_copy(path)).await
    }

    async fn list(&self, prefix: &Path) -> Result<Vec<ObjectState>, StoreError> {
        self.pass("list", prefix, self.inner.list(prefix)).await
    }

    async fn delete(&self, path: &Path) -> Result<(), StoreError> {
        self.pass("delete", path, self.inner.delete(path)).await
    }

    fn uri(&self) -> String {
        self.inner.uri()
    }

    fn spool_dir(&self) -> &FilePath {
        self.inner.spool_dir()
    }

    async fn try_stage(&self, path: &Path) -> Result<(), StoreError> {
        self.inner.try_stage(path).await
    }
}

#[async_trait]
impl Leases for FaultStore {
    async fn try_lease(&self, path: &Path) -> Result<Option<Box<dyn Lease>>, StoreError> {
        self.pass("lease", path, self.inner.try_lease(path)).await
    }

    async fn lease_state(&self, path: &Path) -> Result<LeaseState, StoreError> {
        self.pass("leased", path, self.inner.lease_state(path))
            .await
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
        let path = Path::from("leftovers");
        self.pass("find", &path, self.inner.find_leftovers()).await
    }

    async fn remove_leftovers(&self) -> Result<Vec<Path>, StoreError> {
        let path = Path::from("leftovers");
        self.pass("sweep", &path, self.inner.remove_leftovers())
            .await
    }

    async fn collect_garbage(&self) -> Result<Garbage, StoreError> {
        self.inner.collect_garbage().await
    }
}

/// A bucket in memory with a fault in one operation.
#[derive(Clone, Debug)]
pub(crate) struct FaultBucket {
    inner: Arc<InMemory>,
    faults: Arc<Faults>,
    /// Actions and paths that are never permitted.
    refuses: fn(&str, &Path) -> bool,
}

impl FaultBucket {
    pub(crate) fn new(inner: &Arc<InMemory>, faults: &Arc<Faults>) -> Self {
        Self {
            inner: Arc::clone(inner),
            faults: Arc::clone(faults),
            refuses: |_, _| false,
        }
    }

    async fn pass<T>(
        &self,
        action: &'static str,
        path: &Path,
        work: impl Future<Output = Result<T, ObjectError>>,
    ) -> Result<T, ObjectError> {
        let is_refused = (self.refuses)(action, path);
        let is_refusal = is_refused || matches!(self.faults.fault, Fault::RefusedBefore);
        let error = || ObjectError::Generic {
            store: "test",
            source: if is_refusal {
                "injected status code: 403 Forbidden: <Code>AccessDenied</Code>".into()
            } else {
                "injected".into()
            },
        };
        if is_refused {
            return Err(error());
        }
        self.faults.pass(action, path, error, work).await
    }

    /// Also refuses the given actions and paths.
    pub(crate) fn refusing(self, refuses: fn(&str, &Path) -> bool) -> Self {
        Self { refuses, ..self }
    }
}

impl fmt::Display for FaultBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bucket with faults")
    }
}

#[async_trait]
impl ObjectStore for FaultBucket {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult, ObjectError> {
        let action = match options.mode {
            PutMode::Overwrite => "overwrite",
            PutMode::Create => "create",
            PutMode::Update(_) => "update",
        };
        let work = self.inner.put_opts(path, payload, options);
        self.pass(action, path, work).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>, ObjectError> {
        let begin = async {
            let inner = self.inner.put_multipart_opts(path, options).await?;
            self.faults.uploads.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(FaultUpload {
                inner: Arc::new(tokio::sync::Mutex::new(inner)),
                bucket: self.clone(),
                path: path.clone(),
            }) as _)
        };
        self.pass("begin", path, begin).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult, ObjectError> {
        let action = if options.head { "head" } else { "get" };
        self.pass(action, path, self.inner.get_opts(path, options))
            .await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path, ObjectError>>,
    ) -> BoxStream<'static, Result<Path, ObjectError>> {
        let bucket = self.clone();
        paths
            .and_then(move |path| {
                let bucket = bucket.clone();
                async move {
                    let work = bucket.inner.delete(&path);
                    bucket.pass("delete", &path, work).await?;
                    Ok(path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta, ObjectError>> {
        let (bucket, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        let listed = async move {
            let work = bucket.inner.list(Some(&prefix)).try_collect::<Vec<_>>();
            let listed = bucket.pass("list", &prefix, work).await?;
            Ok::<_, ObjectError>(futures::stream::iter(listed).map(Ok))
        };
        futures::stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult, ObjectError> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> Result<(), ObjectError> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultUpload {
    inner: Arc<tokio::sync::Mutex<Box<dyn MultipartUpload>>>,
    bucket: FaultBucket,
    path: Path,
}

#[async_trait]
impl MultipartUpload for FaultUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        // In memory, parts keep the order of their requests.
        let part = self.inner.try_lock().unwrap().put_part(data);
        let (bucket, path) = (self.bucket.clone(), self.path.clone());
        Box::pin(async move { bucket.pass("part", &path, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult, ObjectError> {
        let complete = async {
            let put = self.inner.lock().await.complete().await?;
            self.bucket.faults.uploads.fetch_sub(1, Ordering::SeqCst);
            Ok(put)
        };
        self.bucket.pass("complete", &self.path, complete).await
    }

    async fn abort(&mut self) -> Result<(), ObjectError> {
        let abort = async {
            self.bucket.faults.uploads.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        };
        self.bucket.pass("abort", &self.path, abort).await
    }
}

/// A process's store for the lake in `bucket`. Files larger than `single_put_bytes` are uploaded in
/// parts of a kilobyte.
pub(crate) fn bucket_lake(
    bucket: Arc<dyn ObjectStore>,
    single_put_bytes: u64,
    lease: Duration,
) -> BucketStore {
    let options = BucketOptions {
        single_put_bytes,
        part_bytes: 1 << 10,
        lease,
        storage_class: None,
        tags: TagSet::default(),
    };
    let url = "s3://bucket/some/lake".parse().unwrap();
    let store = BucketStore::new(bucket, &url, options, &std::env::temp_dir());
    store.prepare().unwrap();
    store
}

/// Lets the leases of crashed processes expire.
pub(crate) async fn expire_leases(bucket: &InMemory) {
    let leases = Path::from("some/lake/_cdrlake/leases");
    let expired: Vec<ObjectMeta> = bucket.list(Some(&leases)).try_collect().await.unwrap();
    for lease in expired {
        bucket.delete(&lease.location).await.unwrap();
    }
}
