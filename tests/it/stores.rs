use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use cdrlake::lake::store::{
    LakeStore, Lease, LocalCopy, ObjectState, StoreError, Swap, Version, Versioned,
};
use object_store::path::Path;
use tempfile::{TempDir, TempPath};
use tokio_util::sync::CancellationToken;

/// A lake in memory, as an object store would keep it: every upload has an etag of its own, and a
/// lease can expire under its holder.
#[derive(Clone, Debug)]
pub(crate) struct MemoryStore {
    objects: Arc<Mutex<Objects>>,
    /// The spool of one process: another process has another.
    spool: Arc<TempDir>,
}

#[derive(Clone, Debug, Default)]
struct Objects {
    by_path: BTreeMap<String, (Bytes, u64)>,
    leases: BTreeMap<String, u64>,
    /// Counts versions and leases.
    serial: u64,
}

impl MemoryStore {
    pub(crate) fn new() -> Self {
        Self::of(Objects::default())
    }

    fn of(objects: Objects) -> Self {
        Self {
            objects: Arc::new(Mutex::new(objects)),
            spool: Arc::new(tempfile::tempdir().unwrap()),
        }
    }

    /// The same lake as another process sees it.
    pub(crate) fn seen_by_another(&self) -> Self {
        Self {
            objects: Arc::clone(&self.objects),
            spool: Arc::new(tempfile::tempdir().unwrap()),
        }
    }

    /// A copy of the lake as it is now, with a life of its own.
    pub(crate) fn snapshot(&self) -> Self {
        Self::of(self.objects.lock().unwrap().clone())
    }

    /// Every lease expires: whoever holds one has lost it.
    pub(crate) fn expire_leases(&self) {
        self.objects.lock().unwrap().leases.clear();
    }

    fn swap(&self, path: &Path, bytes: Bytes, may_write: impl FnOnce(Option<u64>) -> bool) -> Swap {
        let mut objects = self.objects.lock().unwrap();
        let version = objects.by_path.get(path.as_ref()).map(|(_, v)| *v);
        if !may_write(version) {
            return Swap::Refused;
        }
        Swap::Done(Version(objects.put(path, bytes).to_string()))
    }
}

impl Objects {
    fn put(&mut self, path: &Path, bytes: Bytes) -> u64 {
        self.serial += 1;
        self.by_path.insert(path.to_string(), (bytes, self.serial));
        self.serial
    }
}

fn state(path: &str, bytes: &Bytes, version: u64) -> ObjectState {
    ObjectState {
        path: Path::parse(path).unwrap(),
        size_bytes: bytes.len() as u64,
        etag: Some(version.to_string()),
    }
}

#[derive(Debug)]
struct MemoryLease {
    objects: Arc<Mutex<Objects>>,
    path: String,
    serial: u64,
}

impl Lease for MemoryLease {
    fn is_held(&self) -> bool {
        self.objects.lock().unwrap().leases.get(&self.path) == Some(&self.serial)
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        if self.is_held() {
            self.objects.lock().unwrap().leases.remove(&self.path);
        }
    }
}

#[async_trait]
impl LakeStore for MemoryStore {
    async fn read(&self, path: &Path) -> Result<Option<Versioned>, StoreError> {
        let objects = self.objects.lock().unwrap();
        Ok(objects
            .by_path
            .get(path.as_ref())
            .map(|(bytes, version)| Versioned {
                bytes: bytes.clone(),
                version: Version(version.to_string()),
            }))
    }

    async fn create(&self, path: &Path, bytes: Bytes) -> Result<Swap, StoreError> {
        Ok(self.swap(path, bytes, |found| found.is_none()))
    }

    async fn replace(
        &self,
        path: &Path,
        bytes: Bytes,
        expected: &Version,
    ) -> Result<Swap, StoreError> {
        Ok(self.swap(path, bytes, |found| {
            found.is_some_and(|found| found.to_string() == expected.0)
        }))
    }

    async fn publish(&self, path: &Path, file: TempPath) -> Result<ObjectState, StoreError> {
        let bytes = Bytes::from(std::fs::read(&file).unwrap());
        let version = self.objects.lock().unwrap().put(path, bytes.clone());
        Ok(state(path.as_ref(), &bytes, version))
    }

    async fn local_copy(&self, path: &Path) -> Result<Option<LocalCopy>, StoreError> {
        let Some(found) = self.read(path).await? else {
            return Ok(None);
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &found.bytes).unwrap();
        let file = file.into_temp_path();
        Ok(Some(LocalCopy {
            path: file.to_path_buf(),
            fetched: Some(file),
        }))
    }

    async fn list(&self, prefix: &Path) -> Result<Vec<ObjectState>, StoreError> {
        let objects = self.objects.lock().unwrap();
        Ok(objects
            .by_path
            .iter()
            .filter(|(path, _)| Path::parse(path).unwrap().prefix_matches(prefix))
            .map(|(path, (bytes, version))| state(path, bytes, *version))
            .collect())
    }

    async fn delete(&self, path: &Path) -> Result<(), StoreError> {
        self.objects.lock().unwrap().by_path.remove(path.as_ref());
        Ok(())
    }

    async fn try_lease(&self, path: &Path) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let mut objects = self.objects.lock().unwrap();
        if objects.leases.contains_key(path.as_ref()) {
            return Ok(None);
        }
        objects.serial += 1;
        let serial = objects.serial;
        objects.leases.insert(path.to_string(), serial);
        Ok(Some(Box::new(MemoryLease {
            objects: Arc::clone(&self.objects),
            path: path.to_string(),
            serial,
        })))
    }

    async fn is_leased(&self, path: &Path) -> Result<bool, StoreError> {
        Ok(self
            .objects
            .lock()
            .unwrap()
            .leases
            .contains_key(path.as_ref()))
    }

    async fn find_leftovers(&self) -> Result<Vec<Path>, StoreError> {
        Ok(Vec::new())
    }

    async fn remove_leftovers(&self) -> Result<Vec<Path>, StoreError> {
        Ok(Vec::new())
    }

    fn spool_dir(&self) -> &FilePath {
        self.spool.path()
    }
}

/// What happens to one operation.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It fails, and has done nothing.
    ErrorBefore,
    /// It is done, and fails.
    ErrorAfter,
    /// It neither is done nor returns.
    HangBefore,
    /// It is done, and does not return.
    HangAfter,
    /// The process dies before it.
    AbortBefore,
    /// The process dies after it.
    AbortAfter,
    /// It waits until it is told to go on.
    Pause(CancellationToken),
}

/// Passes every operation on, and lets one of them fail. Operations are counted from 0.
#[derive(Debug)]
pub(crate) struct FaultStore {
    inner: Arc<dyn LakeStore>,
    at: usize,
    fault: Fault,
    count: AtomicUsize,
    /// Cancelled once the operation hangs or waits.
    pub(crate) reached: CancellationToken,
    /// Every operation: what, and on which object.
    log: Mutex<Vec<(&'static str, String)>>,
}

impl FaultStore {
    pub(crate) fn new(inner: Arc<dyn LakeStore>, at: usize, fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            inner,
            at,
            fault,
            count: AtomicUsize::new(0),
            reached: CancellationToken::new(),
            log: Mutex::default(),
        })
    }

    /// Counts operations, and lets none fail.
    pub(crate) fn counting(inner: Arc<dyn LakeStore>) -> Arc<Self> {
        Self::new(inner, usize::MAX, Fault::ErrorBefore)
    }

    pub(crate) fn operations(&self) -> Vec<(&'static str, String)> {
        self.log.lock().unwrap().clone()
    }

    /// Objects that were written or deleted.
    pub(crate) fn written(&self) -> BTreeSet<String> {
        self.operations()
            .into_iter()
            .filter(|(action, _)| ["create", "replace", "publish", "delete"].contains(action))
            .map(|(_, path)| path)
            .collect()
    }

    async fn pass<T>(
        &self,
        action: &'static str,
        path: &Path,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.log.lock().unwrap().push((action, path.to_string()));
        if self.count.fetch_add(1, Ordering::SeqCst) != self.at {
            return work.await;
        }
        let fault = || StoreError {
            action,
            path: PathBuf::from(path.as_ref()),
            source: io::Error::other("injected"),
        };
        match &self.fault {
            Fault::ErrorBefore => Err(fault()),
            Fault::ErrorAfter => {
                work.await?;
                Err(fault())
            }
            Fault::HangBefore => {
                self.reached.cancel();
                std::future::pending().await
            }
            Fault::HangAfter => {
                // What was done stays done: a lease that it took is held, too.
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

#[async_trait]
impl LakeStore for FaultStore {
    async fn read(&self, path: &Path) -> Result<Option<Versioned>, StoreError> {
        self.pass("read", path, self.inner.read(path)).await
    }

    async fn create(&self, path: &Path, bytes: Bytes) -> Result<Swap, StoreError> {
        self.pass("create", path, self.inner.create(path, bytes))
            .await
    }

    async fn replace(
        &self,
        path: &Path,
        bytes: Bytes,
        expected: &Version,
    ) -> Result<Swap, StoreError> {
        self.pass("replace", path, self.inner.replace(path, bytes, expected))
            .await
    }

    async fn publish(&self, path: &Path, file: TempPath) -> Result<ObjectState, StoreError> {
        self.pass("publish", path, self.inner.publish(path, file))
            .await
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

    async fn try_lease(&self, path: &Path) -> Result<Option<Box<dyn Lease>>, StoreError> {
        self.pass("lease", path, self.inner.try_lease(path)).await
    }

    async fn is_leased(&self, path: &Path) -> Result<bool, StoreError> {
        self.pass("leased", path, self.inner.is_leased(path)).await
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

    fn spool_dir(&self) -> &FilePath {
        self.inner.spool_dir()
    }
}
