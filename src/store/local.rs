//! A lake on local disk.

mod copies;
mod locks;

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use tempfile::TempPath;
use xxhash_rust::xxh3::xxh3_128;

use super::layout::{STAGING, TABLE, max_bytes};
use super::{
    Housekeeping, Lease, LeaseState, Leases, LocalCopy, ObjectState, Objects, Staged, StoreError,
    Swap, Version, Versioned,
};
use crate::slice_file::writer::create_spool_file;
use copies::{directory_name, target_of_copy};
use locks::is_locked;

/// A lake below one directory.
///
/// Files are staged beside the table, on the same file system, and renamed into it. For a partition
/// on another file system they are copied first. Conditional writes hold an operating-system lock,
/// and leases are such locks, too. Locks end with their process, however it dies. The file system
/// must honour `flock` between all machines that write the lake.
#[derive(Clone, Debug)]
pub struct LocalStore {
    root: PathBuf,
    staging: PathBuf,
    file_mode: u32,
    /// Directories that survive a power cut for certain.
    synced: Arc<Mutex<HashSet<PathBuf>>>,
}

impl LocalStore {
    /// The lake at `root`, which need not exist yet. Files get `file_mode`, directories the same
    /// mode with matching search bits. Does no I/O.
    pub fn new(root: &FilePath, file_mode: u32) -> Self {
        Self {
            root: root.to_owned(),
            staging: root.join(STAGING),
            file_mode,
            synced: Arc::default(),
        }
    }

    /// Creates missing directories of the lake, and tests whether they can be written.
    ///
    /// # Errors
    /// [`StoreError`] if not.
    pub fn prepare(&self) -> Result<(), StoreError> {
        self.make_dir(&self.staging)?;
        // Unnamed, so that it leaves nothing behind.
        tempfile::tempfile_in(&self.staging)
            .map(drop)
            .map_err(failed("write into", &self.staging))
    }

    fn file_path(&self, path: &Path) -> PathBuf {
        self.root.join(path.as_ref())
    }

    /// Creates a directory with its parents and syncs all of them. Existing ones, too: their
    /// creator may have died before it synced them.
    fn make_dir(&self, directory: &FilePath) -> Result<(), StoreError> {
        let with_parents = || {
            directory
                .ancestors()
                .filter(|path| !path.as_os_str().is_empty())
        };
        let missing: Vec<&FilePath> = with_parents().take_while(|path| !path.is_dir()).collect();
        let search_bits = (self.file_mode & 0o444) >> 2;
        let mode = 0o700 | self.file_mode | search_bits;
        if !missing.is_empty() {
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(directory)
                .map_err(failed("create the directory", directory))?;
        }
        let never_poisoned = "no thread panics while holding it";
        let unsynced: Vec<&FilePath> = {
            let synced = self.synced.lock().expect(never_poisoned);
            with_parents()
                .take_while(|path| {
                    missing.contains(path)
                        || (path.starts_with(&self.root) && !synced.contains(*path))
                })
                .collect()
        };
        for path in &unsynced {
            // Set the configured mode regardless of the umask. Existing directories, too: their
            // creator may have died before. The lake's root and targets of links keep the mode that
            // their owner chose.
            let is_ours = path.starts_with(&self.root) && *path != self.root && !path.is_symlink();
            if missing.contains(path) || is_ours {
                grant(path, mode).map_err(failed("set the mode of", path))?;
            }
            if missing.contains(path) {
                sync_dir(path)?;
            }
            let Some(parent) = path.parent() else {
                continue;
            };
            let parent = if parent.as_os_str().is_empty() {
                FilePath::new(".")
            } else {
                parent
            };
            match sync(parent) {
                // Directories above the lake may be unreadable for this user.
                Err(error)
                    if error.kind() == io::ErrorKind::PermissionDenied
                        && !parent.starts_with(&self.root)
                        && !missing.contains(path) => {}
                synced => synced.map_err(failed("sync", parent))?,
            }
        }
        let mut synced = self.synced.lock().expect(never_poisoned);
        synced.extend(unsynced.into_iter().map(FilePath::to_owned));
        Ok(())
    }

    fn read_file(&self, path: &Path) -> Result<Option<Versioned>, StoreError> {
        let max_bytes = max_bytes(path);
        let path = self.file_path(path);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let mut bytes = Vec::new();
        let read = file
            .take(max_bytes + 1)
            .read_to_end(&mut bytes)
            .map_err(failed("read", &path))?;
        if read as u64 > max_bytes {
            return Err(failed("read", &path)(io::Error::other(
                "it is too large for a file of cdrlake",
            )));
        }
        Ok(Some(Versioned {
            version: version_of(&bytes),
            bytes: bytes.into(),
        }))
    }

    /// Sets the mode of a finished file and syncs it.
    fn settle(&self, file: &File) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(self.file_mode))?;
        file.sync_all()
    }

    fn swap(
        &self,
        path: &Path,
        bytes: &[u8],
        may_write: impl FnOnce(Option<Version>) -> bool,
    ) -> Result<Swap, StoreError> {
        if bytes.len() as u64 > max_bytes(path) {
            let target = self.file_path(path);
            return Err(failed("write", &target)(io::Error::other(
                "it would exceed the size limit for reading",
            )));
        }
        let directory = directory_name(path);
        let _lock = self.lock_directory(&directory, true)?;
        if !may_write(self.read_file(path)?.map(|found| found.version)) {
            return Ok(Swap::Refused);
        }
        // The file is named after the directory, whose lock is held. So it overwrites the leftover
        // of a crashed process, and leftovers do not accumulate.
        let staged = self.staging.join(format!("{directory}.swap"));
        let stage = || {
            let mut file = create_spool_file(&staged)?;
            let path = TempPath::try_from_path(&staged)?;
            file.write_all(bytes)?;
            self.settle(&file)?;
            Ok(path)
        };
        let file = stage().map_err(failed("write", &staged))?;
        self.place(file, path)?;
        Ok(Swap::Done(version_of(bytes)))
    }

    fn list_dir(
        &self,
        directory: &FilePath,
        found: &mut Vec<ObjectState>,
    ) -> Result<(), StoreError> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("list", directory)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed("list", directory))?;
            // A copy in progress is not part of the lake yet.
            if target_of_copy(&entry.file_name().to_string_lossy()).is_some() {
                continue;
            }
            let path = entry.path();
            let metadata = match fs::metadata(&path) {
                // List a dangling link, because readers may fail on it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => path.symlink_metadata(),
                found => found,
            };
            let metadata = match metadata {
                Ok(metadata) => metadata,
                // It was removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("list", &path)(error)),
            };
            // A partition may be a link, for example to cheaper disks. Any other link to a
            // directory may be circular: list it, do not follow it.
            let is_partition = entry.file_name().as_bytes().starts_with(b"dt=")
                && *directory == self.root.join(TABLE);
            if metadata.is_dir() && (is_partition || !path.is_symlink()) {
                match self.list_dir(&path, found) {
                    // An unreadable partition affects its day only: access to its files reports the
                    // error.
                    Err(error) if is_partition && error.is_denied() => {}
                    listed => listed?,
                }
            } else if let Ok(relative) = path.strip_prefix(&self.root) {
                let relative = relative.to_string_lossy();
                // Keep the name as it is, so that the file can be deleted: `from` escapes many
                // characters.
                let path = Path::parse(&relative).unwrap_or_else(|_| Path::from(&*relative));
                found.push(state(path, &metadata));
            }
        }
        Ok(())
    }

    /// Runs blocking work on a thread for blocking work.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        let root = self.root.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(done) => done,
            Err(error) => Err(failed("use", &root)(io::Error::other(error))),
        }
    }
}

/// A file of the spool that was synced to disk.
#[derive(Debug)]
struct SettledFile {
    store: LocalStore,
    file: TempPath,
    /// Its state once it is in place.
    state: ObjectState,
}

#[async_trait]
impl Staged for SettledFile {
    async fn publish(
        self: Box<Self>,
        lease: &dyn Lease,
        _seen: Option<&Version>,
    ) -> Result<Option<ObjectState>, StoreError> {
        if !lease.is_held() {
            return Ok(None);
        }
        let Self { store, file, state } = *self;
        let place = move |store: &LocalStore| store.place(file, &state.path).map(|()| Some(state));
        store.blocking(place).await
    }
}

fn state(path: Path, metadata: &fs::Metadata) -> ObjectState {
    ObjectState {
        path,
        size_bytes: metadata.len(),
        etag: None,
        version: None,
    }
}

/// The names in a directory; none if it does not exist.
fn names_in(directory: &FilePath) -> Result<Vec<String>, StoreError> {
    let names = || {
        let entries = match fs::read_dir(directory) {
            Err(error) if is_not_a_directory(&error) => return Ok(Vec::new()),
            entries => entries?,
        };
        let name =
            |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        entries.map(name).collect()
    };
    names().map_err(failed("list", directory))
}

/// Whether a directory does not exist.
fn is_not_a_directory(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Adds the bits of `mode` to the mode of a directory. Keeps the other bits, such as set-group-ID.
fn grant(directory: &FilePath, mode: u32) -> io::Result<()> {
    let found = fs::metadata(directory)?.mode() & 0o7777;
    if found & mode == mode {
        return Ok(());
    }
    let mode = Permissions::from_mode(found | mode);
    ignore_if_not_owner(fs::set_permissions(directory, mode))
}

/// Ignores a denied change of mode: only the owner may change it.
fn ignore_if_not_owner(set: io::Result<()>) -> io::Result<()> {
    match set {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        set => set,
    }
}

#[async_trait]
impl Objects for LocalStore {
    async fn read(&self, path: &Path) -> Result<Option<Versioned>, StoreError> {
        let path = path.clone();
        self.blocking(move |store| store.read_file(&path)).await
    }

    async fn create(&self, path: &Path, bytes: Bytes) -> Result<Swap, StoreError> {
        let path = path.clone();
        self.blocking(move |store| store.swap(&path, &bytes, |found| found.is_none()))
            .await
    }

    async fn replace(
        &self,
        path: &Path,
        bytes: Bytes,
        expected: &Version,
    ) -> Result<Swap, StoreError> {
        let (path, expected) = (path.clone(), expected.clone());
        self.blocking(move |store| store.swap(&path, &bytes, |found| found == Some(expected)))
            .await
    }

    async fn state(&self, path: &Path) -> Result<Option<ObjectState>, StoreError> {
        let path = path.clone();
        self.blocking(move |store| {
            let file = store.file_path(&path);
            match fs::metadata(&file) {
                Ok(metadata) => Ok(Some(state(path, &metadata))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(failed("look at", &file)(error)),
            }
        })
        .await
    }

    async fn stage(&self, path: &Path, file: TempPath) -> Result<Box<dyn Staged>, StoreError> {
        let path = path.clone();
        self.blocking(move |store| {
            let settle = || {
                let staged = File::open(&file)?;
                store.settle(&staged)?;
                staged.metadata()
            };
            let metadata = settle().map_err(failed("finish", &file))?;
            Ok(Box::new(SettledFile {
                store: store.clone(),
                state: state(path, &metadata),
                file,
            }) as Box<dyn Staged>)
        })
        .await
    }

    async fn local_copy(&self, path: &Path) -> Result<Option<LocalCopy>, StoreError> {
        let path = self.file_path(path);
        self.blocking(move |_| match path.metadata() {
            Ok(found) => Ok(found.is_file().then_some(LocalCopy {
                path,
                fetched: None,
            })),
            Err(error) if is_not_a_directory(&error) => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        })
        .await
    }

    async fn list(&self, prefix: &Path) -> Result<Vec<ObjectState>, StoreError> {
        let prefix = prefix.clone();
        self.blocking(move |store| {
            let mut found = Vec::new();
            store.list_dir(&store.file_path(&prefix), &mut found)?;
            Ok(found)
        })
        .await
    }

    async fn delete(&self, path: &Path) -> Result<(), StoreError> {
        let path = path.clone();
        self.blocking(move |store| {
            let target = store.file_path(&path);
            match fs::remove_file(&target) {
                Ok(()) => sync_dir(
                    target
                        .parent()
                        .expect("an object lies in a directory of the lake"),
                ),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(failed("delete", &target)(error)),
            }
        })
        .await
    }

    /// The same for every spelling of the root, because logs contain it.
    fn uri(&self) -> String {
        let absolute = || std::path::absolute(&self.root);
        let root = self.root.canonicalize().or_else(|_| absolute());
        let root = root.unwrap_or_else(|_| self.root.clone());
        format!(
            "file://{}",
            root.display().to_string().trim_end_matches('/')
        )
    }

    fn spool_dir(&self) -> &FilePath {
        &self.staging
    }
}

#[async_trait]
impl Leases for LocalStore {
    async fn try_lease(&self, path: &Path) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let path = path.clone();
        self.blocking(move |store| {
            Ok(store
                .lease(&path)?
                .map(|lease| Box::new(lease) as Box<dyn Lease>))
        })
        .await
    }

    async fn lease_state(&self, path: &Path) -> Result<LeaseState, StoreError> {
        let path = self.file_path(path);
        let is_locked = self.blocking(move |_| is_locked(&path)).await?;
        Ok(if is_locked {
            LeaseState::Held
        } else {
            LeaseState::Free
        })
    }

    fn lease_expiry(&self) -> Option<Duration> {
        None
    }

    /// Conditional writes hold a lock.
    async fn honours_conditions(&self) -> Result<bool, StoreError> {
        Ok(true)
    }
}

#[async_trait]
impl Housekeeping for LocalStore {
    async fn find_leftovers(&self) -> Result<Vec<Path>, StoreError> {
        self.blocking(|store| {
            let leftovers = store.leftovers()?;
            Ok(leftovers
                .iter()
                .map(|leftover| store.name_of(leftover))
                .collect())
        })
        .await
    }

    async fn remove_leftovers(&self) -> Result<Vec<Path>, StoreError> {
        self.blocking(Self::sweep).await
    }

    async fn remove_empty_directories(&self, directory: &Path) -> Result<(), StoreError> {
        let directory = directory.clone();
        self.blocking(move |store| {
            let directory = store.file_path(&directory);
            remove_empty(&directory).map_err(failed("remove", &directory))
        })
        .await
    }
}

/// Removes this directory and those below it, except those with a file.
fn remove_empty(directory: &FilePath) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error)
            if ![io::ErrorKind::DirectoryNotEmpty, io::ErrorKind::NotFound]
                .contains(&error.kind()) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

fn version_of(bytes: &[u8]) -> Version {
    Version(format!("{:032x}", xxh3_128(bytes)))
}

/// Syncs a directory, so that its changes survive a power cut.
fn sync_dir(directory: &FilePath) -> Result<(), StoreError> {
    sync(directory).map_err(failed("sync", directory))
}

fn sync(directory: &FilePath) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn failed(action: &'static str, path: &FilePath) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError {
        action,
        path,
        source: source.into(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
