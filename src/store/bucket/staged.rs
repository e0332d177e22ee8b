//! Files on their way into a bucket.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path as FilePath;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, MultipartUpload, ObjectStore, PutMode, PutMultipartOptions,
    PutOptions,
};
use tempfile::TempPath;

use super::failure::{Action, is_absent, is_final};
use super::{BucketStore, same_upload, spool_failed, state_of, update_of};
use crate::retry::{Retry, RetryPolicy};
use crate::store::{Lease, ObjectState, Objects, Staged, StoreError, Version};

/// Metadata by which a writer recognizes its own object after a lost reply. No hyphen: Azure
/// accepts only C# identifiers.
const TOKEN: &str = "cdrlaketoken";
/// Parts in memory at a time.
pub(crate) const PARTS_IN_FLIGHT: usize = 2;
/// Limit of parts of an upload: S3 allows ten thousand.
const MAX_PARTS: u64 = 9_000;

/// Attributes of every object of the table and of the rejects.
fn attributes(store: &BucketStore, token: &str) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::Metadata(TOKEN.into()), token.to_owned().into());
    if let Some(class) = &store.inner.options.storage_class {
        attributes.insert(Attribute::StorageClass, class.clone().into());
    }
    attributes
}

/// Reads a small file into memory, or uploads the parts of a large one.
pub(super) async fn stage(
    store: &BucketStore,
    path: &Path,
    file: TempPath,
) -> Result<Box<dyn Staged>, StoreError> {
    let token = format!("{:032x}", fastrand::u128(..));
    let size_bytes = read(file.to_path_buf(), |file| {
        file.metadata().map(|found| found.len())
    })
    .await
    .map_err(|error| spool_failed("read", &file, error))?;
    if size_bytes <= store.inner.options.single_put_bytes {
        let bytes = read(file.to_path_buf(), |file| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(Bytes::from(bytes))
        });
        let bytes = bytes
            .await
            .map_err(|error| spool_failed("read", &file, error))?;
        return Ok(Box::new(StagedPut {
            store: store.clone(),
            path: path.clone(),
            token,
            bytes,
        }));
    }
    let failed = |error| store.failed(Action::Upload, path, &error);
    let upload = begin(store, path, &token).await.map_err(failed)?;
    let mut staged = StagedUpload {
        store: store.clone(),
        path: path.clone(),
        token,
        size_bytes,
        upload: Some(upload),
    };
    staged.put_parts(&file).await?;
    Ok(Box::new(staged))
}

/// Reads a file of the spool on a thread for blocking work.
async fn read<T: Send + 'static>(
    path: std::path::PathBuf,
    work: impl FnOnce(&mut File) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(move || work(&mut File::open(path)?))
        .await
        .map_err(io::Error::other)?
}

/// A file that one request uploads. Nothing of it is in the bucket yet.
#[derive(Debug)]
struct StagedPut {
    store: BucketStore,
    path: Path,
    token: String,
    bytes: Bytes,
}

#[async_trait]
impl Staged for StagedPut {
    async fn publish(
        self: Box<Self>,
        lease: &dyn Lease,
        seen: Option<&Version>,
    ) -> Result<Option<ObjectState>, StoreError> {
        let Self {
            store,
            path,
            token,
            bytes,
        } = *self;
        let size_bytes = bytes.len() as u64;
        let mut retry = Retry::new(RetryPolicy::STORE, None);
        loop {
            if !store.is_conditional() && !is_as_seen(&store, &path, seen).await? {
                return Ok(None);
            }
            if !lease.is_held() {
                return Ok(None);
            }
            let options = PutOptions {
                mode: match seen {
                    _ if !store.is_conditional() => PutMode::Overwrite,
                    None => PutMode::Create,
                    Some(version) => PutMode::Update(update_of(version)),
                },
                tags: store.inner.options.tags.clone(),
                attributes: attributes(&store, &token),
                ..PutOptions::default()
            };
            let put = store
                .inner
                .files
                .put_opts(&path, bytes.clone().into(), options)
                .await;
            let error = match put {
                Ok(put) => {
                    return Ok(Some(state_of(path, size_bytes, put.e_tag, put.version)));
                }
                Err(error) => error,
            };
            // After an attempt with an unknown outcome, a later refusal does not prove that nothing
            // has changed.
            let failed = |error| {
                if retry.is_first() {
                    store.failed(Action::Upload, &path, error)
                } else {
                    store.failed_perhaps(Action::Upload, &path, error)
                }
            };
            if is_final(store.scheme(), &error) {
                return Err(failed(&error));
            }
            // The write may have succeeded, and only its reply failed.
            let (found, is_ours) = find(&store, &path, &token, size_bytes).await?;
            if is_ours {
                return Ok(found);
            }
            if !same_upload(found.as_ref(), seen) {
                return Ok(None);
            }
            if !retry.wait_for_next().await {
                return Err(store.failed_perhaps(Action::Upload, &path, &error));
            }
        }
    }
}

/// A file whose parts are in the bucket, invisible to readers. Dropping it aborts the upload.
#[derive(Debug)]
struct StagedUpload {
    store: BucketStore,
    path: Path,
    token: String,
    size_bytes: u64,
    /// `None` once it is completed.
    upload: Option<Box<dyn MultipartUpload>>,
}

impl StagedUpload {
    async fn put_parts(&mut self, file: &FilePath) -> Result<(), StoreError> {
        let Self {
            store,
            path,
            upload,
            ..
        } = self;
        let upload = upload.as_mut().expect("it is not completed");
        // Equal parts except for the last: some stores require this.
        let least = usize::try_from(self.size_bytes.div_ceil(MAX_PARTS)).unwrap_or(usize::MAX);
        let part_bytes = store.inner.options.part_bytes.max(least);
        let unreadable = |error| spool_failed("read", file, error);
        let mut file = File::open(file).map_err(unreadable)?;
        let mut in_flight = FuturesUnordered::new();
        loop {
            let part = tokio::task::spawn_blocking(move || {
                let mut part = Vec::with_capacity(part_bytes);
                (&mut file).take(part_bytes as u64).read_to_end(&mut part)?;
                Ok::<_, io::Error>((file, part))
            });
            let part = part.await.map_err(io::Error::other).flatten();
            let (rest, part) = part.map_err(unreadable)?;
            file = rest;
            if part.is_empty() {
                break;
            }
            in_flight.push(upload.put_part(Bytes::from(part).into()));
            if in_flight.len() >= PARTS_IN_FLIGHT
                && let Some(put) = in_flight.next().await
            {
                put.map_err(|error| store.failed(Action::Upload, path, &error))?;
            }
        }
        while let Some(put) = in_flight.next().await {
            put.map_err(|error| store.failed(Action::Upload, path, &error))?;
        }
        Ok(())
    }
}

#[async_trait]
impl Staged for StagedUpload {
    async fn publish(
        mut self: Box<Self>,
        lease: &dyn Lease,
        seen: Option<&Version>,
    ) -> Result<Option<ObjectState>, StoreError> {
        // The library cannot complete an upload on a condition, so check just before. The next plan
        // detects a later change by the `ETag`.
        if !is_as_seen(&self.store, &self.path, seen).await? || !lease.is_held() {
            return Ok(None);
        }
        // The library retries by itself, and an upload can be completed only once.
        let upload = self.upload.as_mut().expect("it is not completed");
        let completed = upload.complete().await;
        let found = find(&self.store, &self.path, &self.token, self.size_bytes).await;
        let error = match completed {
            Ok(put) => {
                self.upload = None;
                // Use the object's own state, because some stores reply with a different `ETag`. If
                // the object was replaced since, use the reply: the next plan detects the
                // difference.
                if let Ok((Some(state), true)) = found {
                    return Ok(Some(state));
                }
                let (path, size_bytes) = (self.path.clone(), self.size_bytes);
                return Ok(Some(state_of(path, size_bytes, put.e_tag, put.version)));
            }
            Err(error) => error,
        };
        // Only the reply may have failed: a completed upload is then "not found".
        match found? {
            (found, true) => {
                self.upload = None;
                Ok(found)
            }
            _ => Err(self
                .store
                .failed_perhaps(Action::Upload, &self.path, &error)),
        }
    }
}

impl Drop for StagedUpload {
    fn drop(&mut self) {
        let Some(mut upload) = self.upload.take() else {
            return;
        };
        let (store, path) = (self.store.clone(), self.path.clone());
        let abort = async move {
            let mut retry = Retry::new(RetryPolicy::STORE, None);
            while let Err(error) = upload.abort().await {
                if is_absent(&error) {
                    break;
                }
                if !retry.wait_for_next().await {
                    let error = store.failed(Action::Abort, &path, &error);
                    let problem = crate::error::chain(&error);
                    tracing::warn!("{problem}. The bucket keeps what was uploaded, as a leftover");
                    break;
                }
            }
        };
        // Without a runtime the process is ending.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.store.inner.tracker.spawn_on(abort, &runtime);
        }
    }
}

/// Whether the object is still the version that was seen.
async fn is_as_seen(
    store: &BucketStore,
    path: &Path,
    seen: Option<&Version>,
) -> Result<bool, StoreError> {
    Ok(same_upload(store.state(path).await?.as_ref(), seen))
}

/// The object at `path`, and whether it is the upload with this token.
async fn find(
    store: &BucketStore,
    path: &Path,
    token: &str,
    size_bytes: u64,
) -> Result<(Option<ObjectState>, bool), StoreError> {
    let options = GetOptions {
        head: true,
        ..GetOptions::default()
    };
    match store.inner.objects.get_opts(path, options).await {
        Ok(found) => {
            let key = Attribute::Metadata(TOKEN.into());
            let is_ours = found.meta.size == size_bytes
                && found
                    .attributes
                    .get(&key)
                    .is_some_and(|found| found.as_ref() == token);
            let meta = found.meta;
            let state = state_of(path.clone(), meta.size, meta.e_tag, meta.version);
            Ok((Some(state), is_ours))
        }
        Err(error) if is_absent(&error) => Ok((None, false)),
        // The outcome stays unknown.
        Err(error) => Err(store.failed_perhaps(Action::Read, path, &error)),
    }
}

/// Begins an upload with all its attributes, and aborts it.
pub(super) async fn try_upload(store: &BucketStore, path: &Path) -> Result<(), StoreError> {
    let begun = begin(store, path, "check").await;
    let mut upload = begun.map_err(|error| store.failed(Action::Upload, path, &error))?;
    let aborted = upload.abort().await;
    aborted.map_err(|error| store.failed(Action::Abort, path, &error))
}

/// Begins an upload in parts.
async fn begin(
    store: &BucketStore,
    path: &Path,
    token: &str,
) -> object_store::Result<Box<dyn MultipartUpload>> {
    let options = PutMultipartOptions {
        tags: store.inner.options.tags.clone(),
        attributes: attributes(store, token),
        ..PutMultipartOptions::default()
    };
    store.inner.files.put_multipart_opts(path, options).await
}
