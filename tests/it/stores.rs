use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write;
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

/// What the ledger of a lake said at each moment.
#[derive(Debug, Default)]
pub(crate) struct LedgerHistory {
    /// The file of every slice that has one, by its entry, after each change.
    moments: Mutex<Vec<BTreeMap<String, String>>>,
    /// Entries that could not be read. A log keeps what it has of their slices.
    unreadable: Mutex<BTreeSet<String>>,
    /// Where changes are written, too, for a process that dies.
    journal: Option<PathBuf>,
}

impl LedgerHistory {
    /// Also writes changes to a file.
    pub(crate) fn with_journal(journal: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            journal: Some(journal),
            ..Self::default()
        })
    }

    /// The same history, which continues on its own.
    pub(crate) fn fork(&self) -> Arc<Self> {
        let moments = self.moments.lock().unwrap().clone().into();
        Arc::new(Self {
            moments,
            ..Self::default()
        })
    }

    /// Notes a moment.
    pub(crate) fn add(&self, files: BTreeMap<String, String>) {
        self.moments.lock().unwrap().push(files);
    }

    /// Adds the changes that a process wrote to its journal.
    pub(crate) fn replay(&self, journal: &FilePath) {
        let text = std::fs::read_to_string(journal).unwrap_or_default();
        for (entry, file) in text.lines().map(|line| line.split_once(' ').unwrap()) {
            self.change(entry, file);
        }
    }

    /// Notes that an entry has another file, or none if `file` is empty.
    fn change(&self, entry: &str, file: &str) {
        let mut moments = self.moments.lock().unwrap();
        let mut files = moments.last().cloned().unwrap_or_default();
        files.remove(entry);
        if !file.is_empty() {
            files.insert(entry.to_owned(), file.to_owned());
        }
        moments.push(files);
        if let Some(journal) = &self.journal {
            let options = std::fs::File::options()
                .create(true)
                .append(true)
                .open(journal);
            writeln!(options.unwrap(), "{entry} {file}").unwrap();
        }
    }

    /// Whether the ledger named exactly these files at some moment. Of a slice whose entry could
    /// not be read, they may have the file of another moment.
    pub(crate) fn contains(&self, files: &BTreeSet<String>) -> bool {
        let moments = self.moments.lock().unwrap();
        let unreadable = self.unreadable.lock().unwrap();
        let of_these = |moment: &BTreeMap<String, String>| {
            let files = unreadable.iter().filter_map(|entry| moment.get(entry));
            files.cloned().collect::<Vec<_>>()
        };
        let other: BTreeSet<String> = moments.iter().flat_map(of_these).collect();
        let files: BTreeSet<&String> = files.difference(&other).collect();
        let is_equal = |moment: &BTreeMap<String, String>| {
            let named = moment.values().filter(|file| !other.contains(*file));
            named.collect::<BTreeSet<_>>() == files
        };
        files.is_empty() || moments.iter().any(is_equal)
    }

    /// Whether the ledger named this file at some moment.
    pub(crate) fn contains_file(&self, file: &str) -> bool {
        let moments = self.moments.lock().unwrap();
        let mut files = moments.iter().flat_map(BTreeMap::values);
        files.any(|found| found == file)
    }

    fn note_unreadable(&self, path: &Path) {
        if let Some((_, entry)) = path.as_ref().split_once("_cdrlake/ledger/") {
            self.unreadable.lock().unwrap().insert(entry.to_owned());
        }
    }

    /// Notes a successful write to a ledger entry. Without bytes, the entry was deleted.
    fn note(&self, path: &Path, bytes: Option<&[u8]>) {
        let Some((_, entry)) = path.as_ref().split_once("_cdrlake/ledger/") else {
            return;
        };
        let written = bytes.map(|bytes| serde_json::from_slice(bytes).unwrap());
        let written: serde_json::Value = written.unwrap_or_default();
        let file = &written["committed"]["file"]["path"];
        self.change(entry, file.as_str().unwrap_or_default());
    }
}

/// Forwards every operation, but injects a fault into one. Operations are numbered from 0.
#[derive(Clone, Debug)]
pub(crate) struct FaultStore {
    inner: Arc<dyn LakeStore>,
    faults: Arc<Faults>,
    /// Another writer always wins for objects with this prefix.
    contended: Option<&'static str>,
    uri: String,
    history: Arc<LedgerHistory>,
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
        let uri = inner.uri();
        Self::of_lake(inner, faults, uri, &Arc::default())
    }

    /// The store of the lake with this URI and history.
    pub(crate) fn of_lake(
        inner: Arc<dyn LakeStore>,
        faults: &Arc<Faults>,
        uri: String,
        history: &Arc<LedgerHistory>,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner,
            faults: Arc::clone(faults),
            contended: None,
            uri,
            history: Arc::clone(history),
        })
    }

    /// Forwards every operation, but loses every write to objects with `prefix` to another writer.
    pub(crate) fn too_late_for(inner: Arc<dyn LakeStore>, prefix: &'static str) -> Arc<Self> {
        let uri = inner.uri();
        Arc::new(Self {
            inner,
            faults: Faults::none(),
            contended: Some(prefix),
            uri,
            history: Arc::default(),
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
        let found = self.pass("read", path, self.inner.read(path)).await;
        found.inspect_err(|_| self.history.note_unreadable(path))
    }

    async fn create(&self, path: &Path, bytes: Bytes) -> Result<Swap, StoreError> {
        if self.is_too_late(path) {
            return Ok(Swap::Refused);
        }
        let work = async {
            let swap = self.inner.create(path, bytes.clone()).await?;
            if matches!(swap, Swap::Done(_)) {
                self.history.note(path, Some(&bytes));
            }
            Ok(swap)
        };
        self.pass("create", path, work).await
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
        let work = async {
            let swap = self.inner.replace(path, bytes.clone(), expected).await?;
            if matches!(swap, Swap::Done(_)) {
                self.history.note(path, Some(&bytes));
            }
            Ok(swap)
        };
        self.pass("replace", path, work).await
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
        let work = async {
            self.inner.delete(path).await?;
            self.history.note(path, None);
            Ok(())
        };
        self.pass("delete", path, work).await
    }

    fn uri(&self) -> String {
        self.uri.clone()
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
    history: Arc<LedgerHistory>,
}

impl FaultBucket {
    pub(crate) fn new(inner: &Arc<InMemory>, faults: &Arc<Faults>) -> Self {
        Self {
            inner: Arc::clone(inner),
            faults: Arc::clone(faults),
            refuses: |_, _| false,
            history: Arc::default(),
        }
    }

    /// Records what the ledger says.
    pub(crate) fn recording(self, history: &Arc<LedgerHistory>) -> Self {
        let history = Arc::clone(history);
        Self { history, ..self }
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
        let work = async {
            let bytes = Bytes::from(payload.clone());
            let put = self.inner.put_opts(path, payload, options).await?;
            self.history.note(path, Some(&bytes));
            Ok(put)
        };
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
        let work = async {
            // Some errors are a part of the protocol.
            Ok(self.inner.get_opts(path, options).await)
        };
        let found = self.pass(action, path, work).await;
        found.inspect_err(|_| self.history.note_unreadable(path))?
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
                    let work = async {
                        bucket.inner.delete(&path).await?;
                        bucket.history.note(&path, None);
                        Ok(())
                    };
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
