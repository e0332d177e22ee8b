//! A lake in an object store: S3, Google Cloud Storage, Azure Blob Storage, by the same path.
//!
//! Object stores have no rename, and replies get lost. The lake uses conditional writes. If a reply
//! is lost, it reads the object back to see whether the write happened: "already exists" may be its
//! own write, and "not found" after completing an upload may mean success.

mod connect;
mod failure;
mod lease;
mod option_error;
mod staged;
#[cfg(test)]
mod tests;
mod uploads;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, UpdateVersion,
};
use tempfile::TempPath;
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;

use super::layout::{self, LEASES, TABLE};
use super::spool::{self, Spool};
use super::{
    FailureKind, Garbage, Housekeeping, Lease, LeaseState, Leases, LocalCopy, ObjectState, Objects,
    Staged, StoreError, Swap, Version, Versioned, probe,
};
use crate::cdr::slice::Slice;
use crate::retry::{Retry, RetryPolicy};
pub use connect::{BucketOptions, BucketUrl};
pub(crate) use connect::{Scheme, take_own};
pub(crate) use option_error::OptionError;
pub(crate) use staged::PARTS_IN_FLIGHT;

use connect::RequestClass;
use failure::{Action, explain, is_absent, is_final};
use lease::Observation;
use uploads::{Upload, Uploads};

/// Size of a part of an upload, and of a range of a download.
pub(crate) const PART_BYTES: usize = 8 << 20;
/// Concurrent requests for objects that are examined or removed.
const CONCURRENT_REQUESTS: usize = 16;
/// Pause between reads of leases that may be expired.
const LEASE_POLL: Duration = Duration::from_secs(1);
/// Longest wait for the release of leases and the abort of uploads.
const SETTLE_FOR: Duration = Duration::from_secs(20);
/// Attempts to download a file that changes meanwhile.
const MAX_FETCHES: u32 = 3;

/// A lake below a prefix of a bucket. Clones share everything.
#[derive(Clone, Debug)]
pub struct BucketStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Objects below the lake's prefix, for small requests.
    objects: Arc<dyn ObjectStore>,
    /// The same objects with longer timeouts, for requests that transfer files.
    files: Arc<dyn ObjectStore>,
    /// The whole bucket.
    bucket: Arc<dyn ObjectStore>,
    url: BucketUrl,
    options: BucketOptions,
    uploads: Option<Arc<dyn Uploads>>,
    /// The directory of this machine in which the spool is created.
    spool_parent: PathBuf,
    spool: OnceLock<Spool>,
    /// Releases of leases and aborts of uploads in progress.
    tracker: TaskTracker,
    /// Leases of other processes, as last seen.
    observed: Mutex<HashMap<Path, Observation>>,
    /// Whether the store honours conditional writes, once tested.
    conditions: OnceCell<bool>,
}

impl BucketStore {
    /// The lake at `url`, with options of the library and the cloud's usual chain of credentials.
    /// The spool is created in `spool_parent`. Does no I/O.
    ///
    /// # Errors
    /// [`OptionError`] for an option that is unknown, contains a secret or is invalid.
    pub fn connect(
        url: &BucketUrl,
        library_options: &BTreeMap<String, String>,
        options: BucketOptions,
        spool_parent: &FilePath,
    ) -> Result<Self, OptionError> {
        if url.scheme == Scheme::Gs && !options.tags.encoded().is_empty() {
            return Err(OptionError {
                option: Some("tags".to_owned()),
                problem: "are not supported for gs:// lakes: remove lake.options.tags".to_owned(),
            });
        }
        let small = connect::connect(url, library_options, RequestClass::Metadata)?;
        let files = connect::connect(url, library_options, RequestClass::Data)?.objects;
        let mut store = Self::new(small.objects, url, options, spool_parent);
        let inner = Arc::get_mut(&mut store.inner).expect("it is not shared yet");
        inner.files = below(files, &url.prefix);
        inner.uploads = small.uploads;
        Ok(store)
    }

    /// The lake at `url` with a given client of the bucket.
    pub fn new(
        bucket: Arc<dyn ObjectStore>,
        url: &BucketUrl,
        options: BucketOptions,
        spool_parent: &FilePath,
    ) -> Self {
        let objects = below(Arc::clone(&bucket), &url.prefix);
        Self {
            inner: Arc::new(Inner {
                files: Arc::clone(&objects),
                objects,
                bucket,
                url: url.clone(),
                options,
                uploads: None,
                spool_parent: spool_parent.to_owned(),
                spool: OnceLock::new(),
                tracker: TaskTracker::new(),
                observed: Mutex::default(),
                conditions: OnceCell::new(),
            }),
        }
    }

    /// The lake at `s3://bucket/lake` of a bucket in memory, as one process sees it. Its leases
    /// expire after a minute.
    #[cfg(test)]
    pub(crate) fn in_memory(objects: &Arc<object_store::memory::InMemory>) -> Self {
        let options = BucketOptions {
            single_put_bytes: 1 << 20,
            part_bytes: 1 << 10,
            lease: Duration::from_mins(1),
            storage_class: None,
            tags: object_store::TagSet::default(),
        };
        let url = "s3://bucket/lake".parse().expect("it is an address");
        let bucket = Arc::clone(objects);
        let store = Self::new(bucket, &url, options, &std::env::temp_dir());
        store.prepare().expect("files may be made where tests run");
        store
    }

    /// The same on a store that ignores conditional writes.
    #[cfg(test)]
    pub(crate) fn ignoring_conditions(self) -> Self {
        self.inner.conditions.set(false).expect("it was not asked");
        self
    }

    /// Creates the spool and removes the spools of crashed processes.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be created.
    pub fn prepare(&self) -> Result<(), StoreError> {
        let parent = &self.inner.spool_parent;
        let failed = |error| spool_failed("write into", parent, error);
        for removed in spool::sweep(parent).map_err(failed)? {
            tracing::info!(
                "Removed {}, a leftover of a crashed run.",
                removed.display()
            );
        }
        self.spool().map(drop)
    }

    /// The lake in whose table this one would lie, if there is one that this user may read.
    pub async fn lake_around(&self) -> Option<String> {
        for prefix in self.inner.url.prefixes_above(TABLE) {
            let identity = prefix.parts().chain(layout::identity().parts()).collect();
            if self.inner.bucket.head(&identity).await.is_ok() {
                return Some(self.inner.url.with_prefix(prefix).to_string());
            }
        }
        None
    }

    fn scheme(&self) -> Scheme {
        self.inner.url.scheme
    }

    /// Whether to rely on conditional writes. True until they are tested.
    fn is_conditional(&self) -> bool {
        self.inner.conditions.get() != Some(&false)
    }

    /// The client for an object that is written or read whole. A report may be as large as a file.
    fn objects_for(&self, path: &Path) -> &Arc<dyn ObjectStore> {
        if path.as_ref().starts_with(layout::RUNS) {
            &self.inner.files
        } else {
            &self.inner.objects
        }
    }

    fn spool(&self) -> Result<&Spool, StoreError> {
        let parent = &self.inner.spool_parent;
        if let Some(spool) = self.inner.spool.get() {
            return Ok(spool);
        }
        let made =
            Spool::make(parent).map_err(|error| spool_failed("write into", parent, error))?;
        // Another task may have created one meanwhile. Then this one is removed.
        Ok(self.inner.spool.get_or_init(|| made))
    }

    fn failed(&self, action: Action, path: &Path, error: &object_store::Error) -> StoreError {
        self.problem(action, path, explain(self.scheme(), action, error))
    }

    /// The same after an attempt with an unknown outcome.
    fn failed_perhaps(
        &self,
        action: Action,
        path: &Path,
        error: &object_store::Error,
    ) -> StoreError {
        let mut error = explain(self.scheme(), action, error);
        error.is_uncertain = true;
        self.problem(action, path, error)
    }

    fn problem(
        &self,
        action: Action,
        path: &Path,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> StoreError {
        StoreError {
            action: action.verb(),
            path: PathBuf::from(format!("{}/{path}", self.inner.url)),
            source: source.into(),
        }
    }

    /// Writes an object that must still be `expected`. If the reply is lost, reads the object back:
    /// no two writes have the same bytes, so equal bytes are this write.
    async fn swap(
        &self,
        path: &Path,
        bytes: Bytes,
        expected: Option<&Version>,
    ) -> Result<Swap, StoreError> {
        let mut retry = Retry::new(RetryPolicy::STORE, None);
        loop {
            if !self.is_conditional() {
                // Only one run writes, so a read replaces the condition.
                let found = self.read(path).await?.map(|found| found.version);
                if found.as_ref() != expected {
                    return Ok(Swap::Refused);
                }
            }
            let mode = match expected {
                _ if !self.is_conditional() => PutMode::Overwrite,
                None => PutMode::Create,
                Some(version) => PutMode::Update(update_of(version)),
            };
            let put = self
                .objects_for(path)
                .put_opts(path, bytes.clone().into(), mode.into());
            let error = match put.await {
                Ok(put) => return Ok(Swap::Done(version_of(put.e_tag, put.version))),
                Err(error) => error,
            };
            if is_final(self.scheme(), &error) {
                return Err(self.failed(Action::Write, path, &error));
            }
            match self.read(path).await? {
                Some(found) if found.bytes == bytes => return Ok(Swap::Done(found.version)),
                Some(found)
                    if expected.is_some_and(|old| etag_of(old) == etag_of(&found.version)) => {}
                None if expected.is_none() => {}
                _ => return Ok(Swap::Refused),
            }
            if !retry.wait_for_next().await {
                return Err(self.failed(Action::Write, path, &error));
            }
        }
    }

    /// One download of an object into a file of the spool; `None` if it does not exist.
    async fn fetch(&self, path: &Path) -> Result<Option<TempPath>, FetchError> {
        let spool_failed =
            |error| FetchError::Store(spool_failed("write into", &self.inner.spool_parent, error));
        let spool = self.spool().map_err(FetchError::Store)?.path();
        let name = format!("copy-{:016x}", fastrand::u64(..));
        let copy = spool.join(name);
        let file = crate::slice_file::writer::create_spool_file(&copy).map_err(spool_failed)?;
        let copy = TempPath::try_from_path(copy).map_err(spool_failed)?;
        let mut file = tokio::fs::File::from_std(file);
        let (mut at, mut etag) = (0_u64, None);
        loop {
            // In ranges, so that the timeout of a request does not limit the size of the file.
            let options = GetOptions {
                range: Some(GetRange::Bounded(at..at + PART_BYTES as u64)),
                if_match: etag.clone(),
                ..GetOptions::default()
            };
            let failed = |error: &object_store::Error| {
                FetchError::Store(self.failed(Action::Read, path, error))
            };
            let got = match self.inner.files.get_opts(path, options).await {
                Ok(got) => got,
                Err(error) if is_absent(&error) && at == 0 => return Ok(None),
                Err(object_store::Error::Precondition { .. }) => return Err(FetchError::Changed),
                // An empty object has no range.
                Err(error) if at == 0 => {
                    let state = self.state(path).await.map_err(FetchError::Store)?;
                    return match state {
                        Some(state) if state.size_bytes == 0 => Ok(Some(copy)),
                        _ => Err(failed(&error)),
                    };
                }
                Err(error) => return Err(failed(&error)),
            };
            let size = got.meta.size;
            if etag.is_none() {
                etag.clone_from(&got.meta.e_tag);
            } else if etag != got.meta.e_tag {
                return Err(FetchError::Changed);
            }
            let before = at;
            let mut piece = got.into_stream();
            while let Some(chunk) = piece.next().await {
                let chunk = chunk.map_err(|error| failed(&error))?;
                file.write_all(&chunk).await.map_err(spool_failed)?;
                at += chunk.len() as u64;
            }
            if at == before && at < size {
                return Err(FetchError::Changed);
            }
            if at >= size {
                file.flush().await.map_err(spool_failed)?;
                return Ok(Some(copy));
            }
        }
    }

    /// The states of leases.
    async fn states_of(&self, leases: Vec<Path>) -> Result<Vec<(Path, LeaseState)>, StoreError> {
        let looks = stream::iter(leases).map(|path| async move {
            let state = self.lease_state(&path).await?;
            Ok((path, state))
        });
        looks
            .buffer_unordered(CONCURRENT_REQUESTS)
            .try_collect()
            .await
    }

    /// Removes expired leases, of those that exist now.
    async fn collect_leases(&self, garbage: &mut Garbage) -> Result<(), StoreError> {
        let listed = self.list(&Path::from(LEASES)).await?;
        let mut unproven: Vec<Path> = listed.into_iter().map(|lease| lease.path).collect();
        let mut free = Vec::new();
        loop {
            let looked_at = self.states_of(std::mem::take(&mut unproven)).await?;
            for (path, state) in looked_at {
                match state {
                    LeaseState::Free => free.push(path),
                    LeaseState::Unproven => unproven.push(path),
                    LeaseState::Held => {}
                }
            }
            if unproven.is_empty() {
                break;
            }
            // Ends after the longest expiry: by then each lease was renewed or has expired.
            tokio::time::sleep(LEASE_POLL).await;
        }
        for path in free {
            // A lease that was released meanwhile is not garbage.
            if self.read(&path).await?.is_some()
                && let Some(lease) = self.try_lease(&path).await?
            {
                // Releasing it removes it.
                drop(lease);
                garbage.removed.push(path.to_string());
            }
        }
        self.settle().await;
        Ok(())
    }

    /// Aborts uploads for slices whose lease is free.
    async fn collect_uploads(&self, garbage: &mut Garbage) -> Result<(), StoreError> {
        let Some(uploads) = &self.inner.uploads else {
            return Ok(());
        };
        let root = Path::default();
        let failed = |path: &Path, error: &object_store::Error| {
            crate::error::chain(&self.failed(Action::ListUploads, path, error))
        };
        let listed = match uploads.list().await {
            Ok(listed) => listed,
            Err(error) => {
                // Not every store can list uploads; a lifecycle rule removes them, too.
                garbage.left.push(failed(&root, &error));
                return Ok(());
            }
        };
        let mut by_slice = BTreeMap::<Slice, Vec<Upload>>::new();
        for upload in listed {
            if let Some(slice) = layout::leased_slice(&upload.path) {
                by_slice.entry(slice).or_default().push(upload);
            }
        }
        for (slice, uploads_of_slice) in by_slice {
            let Some(lease) = self.try_lease(&layout::lease(slice)).await? else {
                let left = format!("uploads of {slice}: a run holds its lease");
                garbage.left.push(left);
                continue;
            };
            for upload in uploads_of_slice {
                match uploads.abort(&upload).await {
                    Ok(()) => garbage
                        .removed
                        .push(format!("an upload of {}", upload.path)),
                    Err(error) => garbage.left.push(failed(&upload.path, &error)),
                }
            }
            drop(lease);
        }
        Ok(())
    }
}

/// The objects below a prefix of a bucket.
fn below(bucket: Arc<dyn ObjectStore>, prefix: &Path) -> Arc<dyn ObjectStore> {
    if prefix.as_ref().is_empty() {
        bucket
    } else {
        Arc::new(PrefixStore::new(bucket, prefix.clone()))
    }
}

/// A failure on this machine, on the way to or from the bucket.
fn spool_failed(action: &'static str, path: &FilePath, error: io::Error) -> StoreError {
    StoreError {
        action,
        path: path.to_owned(),
        source: error.into(),
    }
}

/// Why an object could not be downloaded.
enum FetchError {
    Store(StoreError),
    /// The object was replaced meanwhile.
    Changed,
}

#[async_trait]
impl Objects for BucketStore {
    async fn read(&self, path: &Path) -> Result<Option<Versioned>, StoreError> {
        let failed = |error: &object_store::Error| self.failed(Action::Read, path, error);
        let get = async || {
            let got = self.objects_for(path).get(path).await?;
            let version = version_of(got.meta.e_tag.clone(), got.meta.version.clone());
            let is_small = got.meta.size <= layout::max_bytes(path);
            let bytes = if is_small {
                Some(got.bytes().await?)
            } else {
                None
            };
            Ok((bytes, version))
        };
        match get().await {
            Ok((Some(bytes), version)) => Ok(Some(Versioned { bytes, version })),
            Ok((None, _)) => {
                Err(self.problem(Action::Read, path, "it is too large for a file of cdrlake"))
            }
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn create(&self, path: &Path, bytes: Bytes) -> Result<Swap, StoreError> {
        self.swap(path, bytes, None).await
    }

    async fn replace(
        &self,
        path: &Path,
        bytes: Bytes,
        expected: &Version,
    ) -> Result<Swap, StoreError> {
        self.swap(path, bytes, Some(expected)).await
    }

    async fn state(&self, path: &Path) -> Result<Option<ObjectState>, StoreError> {
        match self.inner.objects.head(path).await {
            Ok(meta) => Ok(Some(state_of(
                path.clone(),
                meta.size,
                meta.e_tag,
                meta.version,
            ))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.failed(Action::Read, path, &error)),
        }
    }

    async fn stage(&self, path: &Path, file: TempPath) -> Result<Box<dyn Staged>, StoreError> {
        staged::stage(self, path, file).await
    }

    async fn local_copy(&self, path: &Path) -> Result<Option<LocalCopy>, StoreError> {
        for _ in 0..MAX_FETCHES {
            match self.fetch(path).await {
                Ok(fetched) => {
                    return Ok(fetched.map(|fetched| LocalCopy {
                        path: fetched.to_path_buf(),
                        fetched: Some(fetched),
                    }));
                }
                Err(FetchError::Store(error)) => return Err(error),
                Err(FetchError::Changed) => {}
            }
        }
        Err(self.problem(
            Action::Read,
            path,
            "it changed during each attempt to read it",
        ))
    }

    async fn list(&self, prefix: &Path) -> Result<Vec<ObjectState>, StoreError> {
        // Ignore the empty objects that the consoles of clouds create for folders.
        let is_folder = |meta: &ObjectMeta| {
            let name = meta.location.filename().unwrap_or_default();
            meta.size == 0 && (name.starts_with("dt=") || meta.location == *prefix)
        };
        self.inner
            .objects
            .list(Some(prefix))
            .try_filter(|meta| std::future::ready(!is_folder(meta)))
            .map_ok(|meta| ObjectState {
                version: None,
                ..state_of(meta.location, meta.size, meta.e_tag, None)
            })
            .try_collect()
            .await
            .map_err(|error| self.failed(Action::List, prefix, &error))
    }

    async fn delete(&self, path: &Path) -> Result<(), StoreError> {
        let mut retry = Retry::new(RetryPolicy::STORE, None);
        loop {
            match self.inner.objects.delete(path).await {
                Ok(()) => return Ok(()),
                Err(error) if is_absent(&error) => return Ok(()),
                // The library does not retry deletions, but they can be retried safely.
                Err(error) if is_final(self.scheme(), &error) || !retry.wait_for_next().await => {
                    return Err(self.failed(Action::Delete, path, &error));
                }
                Err(_) => {}
            }
        }
    }

    fn uri(&self) -> String {
        self.inner.url.to_string().trim_end_matches('/').to_owned()
    }

    fn spool_dir(&self) -> &FilePath {
        self.inner
            .spool
            .get()
            .map_or(&self.inner.spool_parent, |spool| spool.path())
    }

    /// Begins an upload, which readers cannot see, and aborts it. On Azure this tests nothing: its
    /// roles are for whole containers.
    async fn try_stage(&self, path: &Path) -> Result<(), StoreError> {
        staged::try_upload(self, path).await
    }
}

#[async_trait]
impl Leases for BucketStore {
    async fn try_lease(&self, path: &Path) -> Result<Option<Box<dyn Lease>>, StoreError> {
        // Most leases are free, so try that first: one request less. A store that ignores
        // conditions would overwrite the lease of another process.
        let mut taken = None;
        if self.inner.conditions.get() == Some(&true) {
            taken = lease::take(self, path, None).await?;
        }
        if taken.is_none() {
            let found = self.read(path).await?;
            if lease::observe(self, path, found.as_ref()) != LeaseState::Free {
                return Ok(None);
            }
            taken = lease::take(self, path, found).await?;
        }
        Ok(taken.map(|lease| Box::new(lease) as Box<dyn Lease>))
    }

    async fn lease_state(&self, path: &Path) -> Result<LeaseState, StoreError> {
        let found = self.read(path).await?;
        Ok(lease::observe(self, path, found.as_ref()))
    }

    fn lease_expiry(&self) -> Option<Duration> {
        Some(self.inner.options.lease)
    }

    async fn honours_conditions(&self) -> Result<bool, StoreError> {
        let probing = async || {
            // Named like a lease, so that a leftover is removed with expired leases.
            let path = Path::from(format!("{LEASES}/probe-{:016x}.lock", fastrand::u64(..)));
            match probe(self, &path).await {
                Err(error) if error.kind() == Some(FailureKind::Unsupported) => Ok(false),
                probed => probed,
            }
        };
        self.inner
            .conditions
            .get_or_try_init(probing)
            .await
            .copied()
    }
}

#[async_trait]
impl Housekeeping for BucketStore {
    async fn settle(&self) {
        self.inner.tracker.close();
        // Do not wait longer, because an interrupted run must end. Leases expire, and `gc` aborts
        // uploads.
        let settled = tokio::time::timeout(SETTLE_FOR, self.inner.tracker.wait()).await;
        self.inner.tracker.reopen();
        if settled.is_err() {
            tracing::warn!(
                "The store does not answer. Leases will expire; uploads stay as leftovers."
            );
        }
    }

    async fn collect_garbage(&self) -> Result<Garbage, StoreError> {
        let parent = &self.inner.spool_parent;
        let swept =
            spool::sweep(parent).map_err(|error| spool_failed("look into", parent, error))?;
        let mut garbage = Garbage::default();
        garbage
            .removed
            .extend(swept.iter().map(|path| path.display().to_string()));
        self.collect_leases(&mut garbage).await?;
        self.collect_uploads(&mut garbage).await?;
        self.settle().await;
        Ok(garbage)
    }
}

/// `ETag` and version ID, because stores differ in which one a condition takes.
fn version_of(e_tag: Option<String>, version: Option<String>) -> Version {
    let (e_tag, version) = (e_tag.unwrap_or_default(), version.unwrap_or_default());
    Version(format!("{e_tag}\n{version}"))
}

fn update_of(version: &Version) -> UpdateVersion {
    let (e_tag, version) = version.0.split_once('\n').unwrap_or((&version.0, ""));
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    UpdateVersion {
        e_tag: some(e_tag),
        version: some(version),
    }
}

/// The part of a version that every store returns in every reply.
fn etag_of(version: &Version) -> &str {
    version.0.split('\n').next().unwrap_or_default()
}

/// Whether an object is the version that was seen; with `None`, whether it does not exist.
fn same_upload(found: Option<&ObjectState>, seen: Option<&Version>) -> bool {
    found.and_then(|found| found.version.as_ref()).map(etag_of) == seen.map(etag_of)
}

fn state_of(
    path: Path,
    size_bytes: u64,
    e_tag: Option<String>,
    version: Option<String>,
) -> ObjectState {
    ObjectState {
        path,
        size_bytes,
        // Azure quotes it in replies, but not in listings.
        etag: e_tag
            .as_deref()
            .map(|etag| etag.trim_matches('"').to_owned()),
        version: Some(version_of(e_tag, version)),
    }
}
