//! A lake on local disk.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use tempfile::TempPath;
use xxhash_rust::xxh3::xxh3_128;

use super::layout::{
    self, LEASES, LEDGER, LOCKS, META, REJECTS, RUNNING, RUNS, STAGING, TABLE, max_bytes,
};
use super::lock::lies_at;
use super::{
    Garbage, LakeStore, Lease, LeaseState, LocalCopy, ObjectState, Staged, StoreError, Swap,
    Version, Versioned,
};
use crate::cdr::slice::Direction;
use crate::slice_file::writer::{create_spool_file, remove_leftover};

/// How the name of a copy ends that is on its way to another file system. With the dot that it
/// begins with, no reader takes it for data.
const COPY: &str = ".cdrlake-copy";

/// How often to try for a lock that others make and remove meanwhile, and the pause in between.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A lake below one directory.
///
/// Files are staged beside the table, on the same file system, and renamed into it; to a partition
/// on another one they are copied first. Conditional writes hold an operating-system lock; leases
/// are such locks too. Both vanish with the process that holds them, however it dies. The file
/// system must honour `flock` between all machines that write the lake.
#[derive(Clone, Debug)]
pub struct LocalStore {
    root: PathBuf,
    staging: PathBuf,
    file_mode: u32,
    /// Directories of which it is certain that they outlast a power cut.
    synced: Arc<Mutex<HashSet<PathBuf>>>,
}

impl LocalStore {
    /// The lake at `root`, which need not exist yet. Files get `file_mode`, directories the same
    /// with the search bits that go with it. Does no I/O.
    pub fn new(root: &FilePath, file_mode: u32) -> Self {
        Self {
            root: root.to_owned(),
            staging: root.join(STAGING),
            file_mode,
            synced: Arc::default(),
        }
    }

    /// Makes the lake's directories where they are missing, and tries whether they can be written.
    ///
    /// # Errors
    /// [`StoreError`] if not.
    pub fn prepare(&self) -> Result<(), StoreError> {
        self.make_dir(&self.staging)?;
        // Unnamed, so that nothing stays behind.
        tempfile::tempfile_in(&self.staging)
            .map(drop)
            .map_err(failed("write into", &self.staging))
    }

    /// What dead processes left: files of the spool and copies whose lease nobody holds, and staged
    /// objects whose directory nobody has locked.
    fn leftovers(&self) -> Result<Vec<Leftover>, StoreError> {
        let mut staged = Vec::new();
        self.list_dir(&self.staging, &mut staged)?;
        let staged = staged.into_iter().map(|ObjectState { path, .. }| Leftover {
            guard: Guard::of_staged(&path),
            file: self.file_path(&path),
        });
        let mut leftovers = Vec::new();
        for leftover in staged.chain(self.copies()?) {
            let is_held = is_locked(&self.file_path(&leftover.guard.path()))?;
            // Its maker may have finished since it was listed.
            if !is_held && leftover.file.exists() {
                leftovers.push(leftover);
            }
        }
        Ok(leftovers)
    }

    /// What a leftover is called.
    fn name_of(&self, leftover: &Leftover) -> Path {
        let file = &leftover.file;
        Path::from(
            &*file
                .strip_prefix(&self.root)
                .unwrap_or(file)
                .to_string_lossy(),
        )
    }

    /// Copies on their way to where nothing can be renamed from the staging directory. That may be
    /// any directory: also another mount of the same file system is another one.
    fn copies(&self) -> Result<Vec<Leftover>, StoreError> {
        let mut directories = vec![META.into(), RUNS.into(), RUNNING.into()];
        for direction in Direction::ALL {
            directories.push(format!("{LEDGER}/{direction}"));
            directories.push(format!("{REJECTS}/{direction}"));
        }
        let partitions = names_in(&self.root.join(TABLE))?;
        let partitions = partitions.iter().filter(|name| name.starts_with("dt="));
        directories.extend(partitions.map(|name| format!("{TABLE}/{name}")));
        let mut copies = Vec::new();
        for directory in directories {
            let path = self.root.join(&directory);
            let names = match names_in(&path) {
                Err(error) if directory.starts_with(TABLE) && error.is_denied() => continue,
                names => names?,
            };
            for name in names {
                if let Some(target) = target_of_copy(&name) {
                    let target = Path::from(format!("{directory}/{target}"));
                    copies.push(Leftover {
                        guard: Guard::of_target(&target),
                        file: path.join(&name),
                    });
                }
            }
            let day = directory.strip_prefix(&format!("{TABLE}/dt="));
            let Some((day, beside)) = day.zip(self.beside(&path)) else {
                continue;
            };
            for direction in Direction::ALL {
                let name = format!("{direction}-{day}.parquet");
                let target = Path::from(format!("{directory}/{name}"));
                copies.push(Leftover {
                    guard: Guard::of_target(&target),
                    file: beside.copy_of(&name),
                });
            }
        }
        copies.retain(|copy| copy.file.symlink_metadata().is_ok());
        Ok(copies)
    }

    /// Removes what was left, each while its lease or lock is held, and leases that nobody holds.
    fn sweep(&self) -> Result<Vec<Path>, StoreError> {
        let mut removed = Vec::new();
        for leftover in self.leftovers()? {
            let Leftover { guard, file } = &leftover;
            let (lease, lock) = match guard {
                Guard::Lease(lease) => (self.lease(lease)?, None),
                Guard::Lock(directory) => (None, self.lock_directory(directory, false)?),
            };
            if lease.is_some() || lock.is_some() {
                remove_leftover(file).map_err(failed("delete", file))?;
                removed.push(self.name_of(&leftover));
            }
        }
        let mut leases = Vec::new();
        self.list_dir(&self.root.join(LEASES), &mut leases)?;
        for ObjectState { path, .. } in leases {
            // One that nobody holds is an empty file and bars nobody. Giving it back removes it.
            drop(self.lease(&path)?);
        }
        Ok(removed)
    }

    fn file_path(&self, path: &Path) -> PathBuf {
        self.root.join(path.as_ref())
    }

    /// Makes a directory with its parents, and makes sure that they outlast a power cut: also those
    /// that are there, for whoever made them may have died before.
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
        let never_poisoned = "nobody panics while holding it";
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
            // Whatever the umask says: the configuration has the last word. Also on those that are
            // there, for whoever made them may have died before; but the lake's own directory, and
            // what links lead to, are their makers'.
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
                // Above the lake there may be nothing for us to look into.
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
                "it is far too large to be ours",
            )));
        }
        Ok(Some(Versioned {
            version: version_of(&bytes),
            bytes: bytes.into(),
        }))
    }

    /// Gives a finished file its mode and waits until it is safely on disk.
    fn settle(&self, file: &File) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(self.file_mode))?;
        file.sync_all()
    }

    /// Locks a directory of the lake: only who holds the lock writes conditionally there. The lock
    /// is on a file of its own, for NFS passes on no locks of directories. `None` if it is held,
    /// and this does not `wait`.
    fn lock_directory(&self, name: &str, wait: bool) -> Result<Option<File>, StoreError> {
        let locks = self.root.join(LOCKS);
        self.make_dir(&locks)?;
        self.lock(&locks.join(format!("{name}.lock")), wait)
    }

    /// Locks the file at `path`, which is made if there is none.
    fn lock(&self, path: &FilePath, wait: bool) -> Result<Option<File>, StoreError> {
        for _ in 0..LOCK_TRIES {
            if let Some(file) = self
                .open_lock(path)
                .map_err(failed("open the lock", path))?
            {
                let locked = if wait {
                    file.lock().map_err(fs::TryLockError::Error)
                } else {
                    file.try_lock()
                };
                match locked {
                    Ok(()) => {}
                    Err(fs::TryLockError::WouldBlock) => return Ok(None),
                    Err(fs::TryLockError::Error(error)) => return Err(failed("lock", path)(error)),
                }
                // Somebody removed it since it was opened: a lock on that one keeps nobody away.
                // Take the one that is there now.
                if lies_at(&file, path) {
                    return Ok(Some(file));
                }
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        Err(failed("lock", path)(io::Error::other(
            "it is another file each time. Is it on a file system that does not keep its files?",
        )))
    }

    /// Opens a lock for everybody who may use the lake, whatever the umask says; `None` if somebody
    /// made it or removed it meanwhile. Links are not followed: a lock is never one.
    fn open_lock(&self, path: &FilePath) -> io::Result<Option<File>> {
        let mut options = File::options();
        options.write(true).custom_flags(libc::O_NOFOLLOW);
        let opened = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                options.create_new(true).mode(self.file_mode).open(path)
            }
            opened => opened,
        };
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            opened => opened?,
        };
        // Whoever made it may have died before it had its mode.
        if file.metadata()?.mode() & 0o777 != self.file_mode {
            let mode = Permissions::from_mode(self.file_mode);
            unless_it_is_another_s(file.set_permissions(mode))?;
        }
        Ok(Some(file))
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
                "it would be too large to be read again",
            )));
        }
        let directory = directory_name(path);
        let _lock = self.lock_directory(&directory, true)?;
        if !may_write(self.read_file(path)?.map(|found| found.version)) {
            return Ok(Swap::Refused);
        }
        // The name is the directory's, whose lock is held: what a dead process left there is
        // overwritten, and never piles up.
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

    /// Moves a settled file to its place, for good.
    fn place(&self, file: TempPath, path: &Path) -> Result<(), StoreError> {
        let target = self.file_path(path);
        let directory = target
            .parent()
            .expect("an object lies in a directory of the lake");
        self.make_dir(directory)?;
        match fs::rename(&file, &target) {
            // Nothing is left there to be removed.
            Ok(()) => drop(file.keep()),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                self.copy(&file, &target)
                    .map_err(failed("write", &target))?;
            }
            Err(error) => return Err(failed("write", &target)(error)),
        }
        sync_dir(directory)
    }

    /// Copies a file to another file system, and renames it there: readers see the old file or the
    /// new one, whole. The name of the copy is the target's, so that the next attempt overwrites
    /// what a dead process left.
    fn copy(&self, file: &FilePath, target: &FilePath) -> io::Result<()> {
        let copy_by_way_of = |copy: PathBuf| {
            let mut to = create_spool_file(&copy)?;
            let copy = TempPath::try_from_path(copy)?;
            io::copy(&mut File::open(file)?, &mut to)?;
            self.settle(&to)?;
            fs::rename(&copy, target)?;
            drop(copy.keep());
            Ok(())
        };
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let directory = target.parent().unwrap_or(FilePath::new(""));
        // Where nobody looks for data, if it may be written and is where the directory is.
        if let Some(beside) = self.beside(directory) {
            use io::ErrorKind::{CrossesDevices, PermissionDenied, ReadOnlyFilesystem};
            let copied = copy_by_way_of(beside.copy_of(&name));
            let kind = copied.as_ref().err().map(io::Error::kind);
            if !matches!(
                kind,
                Some(CrossesDevices | PermissionDenied | ReadOnlyFilesystem)
            ) {
                return copied;
            }
        }
        copy_by_way_of(target.with_file_name(format!(".{name}{COPY}")))
    }

    /// Where copies on their way to a `partition` have a place: beside the directory that it is,
    /// wherever links lead, or beside the table if that is where it lies. `None` if that is another
    /// file system, or it is no partition.
    fn beside(&self, partition: &FilePath) -> Option<Beside> {
        let table = self.root.join(TABLE);
        if partition.parent() != Some(&table) {
            return None;
        }
        let table = fs::canonicalize(table).ok()?;
        let partition = fs::canonicalize(partition).ok()?;
        let device_of = |path: &FilePath| fs::metadata(path).map(|metadata| metadata.dev());
        let device = device_of(&partition).ok()?;
        let outer = if partition.parent() == Some(&table) {
            table
        } else {
            partition
        };
        let directory = outer.parent()?.to_owned();
        let outer = outer.file_name()?.to_string_lossy().into_owned();
        (device_of(&directory).ok()? == device).then_some(Beside { directory, outer })
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
            // What is on its way is not there yet.
            if target_of_copy(&entry.file_name().to_string_lossy()).is_some() {
                continue;
            }
            let path = entry.path();
            let metadata = match fs::metadata(&path) {
                // A link to nowhere: it is listed, for readers may stumble over it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => path.symlink_metadata(),
                found => found,
            };
            let metadata = match metadata {
                Ok(metadata) => metadata,
                // Gone since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("list", &path)(error)),
            };
            // A partition may lie elsewhere, on cheaper disks. Any other link to a directory may lead
            // in circles: it is listed, and not followed.
            let is_partition = entry.file_name().as_bytes().starts_with(b"dt=")
                && *directory == self.root.join(TABLE);
            if metadata.is_dir() && (is_partition || !path.is_symlink()) {
                match self.list_dir(&path, found) {
                    // One that another user keeps to himself matters to its day only: whoever needs a
                    // file of it is told.
                    Err(error) if is_partition && error.is_denied() => {}
                    listed => listed?,
                }
            } else if let Ok(relative) = path.strip_prefix(&self.root) {
                let relative = relative.to_string_lossy();
                // As it is, so that it can be deleted; `from` would escape half of ASCII.
                let path = Path::parse(&relative).unwrap_or_else(|_| Path::from(&*relative));
                found.push(state(path, &metadata));
            }
        }
        Ok(())
    }

    fn lease(&self, path: &Path) -> Result<Option<FileLease>, StoreError> {
        let path = self.file_path(path);
        self.make_dir(
            path.parent()
                .expect("a lease lies in a directory of the lake"),
        )?;
        let file = self.lock(&path, false)?;
        Ok(file.map(|file| FileLease { path, file }))
    }

    /// Runs blocking work where it holds up no other task.
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

/// A file of the spool that is safely on disk.
#[derive(Debug)]
struct SettledFile {
    store: LocalStore,
    file: TempPath,
    /// What it will be in its place.
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

/// A lock on a file, which is removed when the lock is given back.
#[derive(Debug)]
struct FileLease {
    path: PathBuf,
    file: File,
}

impl Lease for FileLease {
    fn is_held(&self) -> bool {
        lies_at(&self.file, &self.path)
    }
}

impl Drop for FileLease {
    fn drop(&mut self) {
        // While it is still locked, so that nobody's lock is removed but ours. If it stays, it is
        // an empty file that the next lease uses.
        if self.is_held() {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// What a dead process left.
#[derive(Debug)]
struct Leftover {
    /// What its maker held.
    guard: Guard,
    file: PathBuf,
}

/// What whoever writes a file holds from before its first byte on.
#[derive(Debug)]
enum Guard {
    /// The lease at this path.
    Lease(Path),
    /// The lock of the directory of this name.
    Lock(String),
}

impl Guard {
    /// That of the object at `target`.
    fn of_target(target: &Path) -> Self {
        let of_rejects = || Some(layout::rejects_slice(target)?.0);
        let slice = layout::slice_of(target).or_else(of_rejects);
        slice.map_or_else(
            || Self::Lock(directory_name(target)),
            |slice| Self::Lease(layout::lease(slice)),
        )
    }

    /// That of the staged file at `path`.
    fn of_staged(path: &Path) -> Self {
        let name = path.filename().unwrap_or_default();
        if let Some(directory) = name.strip_suffix(".swap") {
            return Self::Lock(directory.to_owned());
        }
        let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
        Self::Lease(Path::from(format!("{LEASES}/{stem}.lock")))
    }

    fn path(&self) -> Path {
        match self {
            Self::Lease(path) => path.clone(),
            Self::Lock(directory) => Path::from(format!("{LOCKS}/{directory}.lock")),
        }
    }
}

/// Where copies on their way to a partition have a place, outside of it.
#[derive(Debug)]
struct Beside {
    directory: PathBuf,
    /// What the directory is called that is not to have them in it.
    outer: String,
}

impl Beside {
    /// The copy of the file of this name.
    fn copy_of(&self, name: &str) -> PathBuf {
        let Self { directory, outer } = self;
        directory.join(format!(".{outer}.{name}{COPY}"))
    }
}

/// The file that a copy of this name is on its way to, if it is one.
fn target_of_copy(name: &str) -> Option<&str> {
    name.strip_prefix('.')?.strip_suffix(COPY)
}

/// What the directory of an object is called among the locks.
fn directory_name(path: &Path) -> String {
    let mut parts: Vec<String> = path.parts().map(|part| part.as_ref().to_owned()).collect();
    parts.pop();
    parts.join("-")
}

/// Names of what lies in a directory; none if there is none.
fn names_in(directory: &FilePath) -> Result<Vec<String>, StoreError> {
    let names = || {
        let entries = match fs::read_dir(directory) {
            Err(error) if is_no_directory(&error) => return Ok(Vec::new()),
            entries => entries?,
        };
        let name =
            |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        entries.map(name).collect()
    };
    names().map_err(failed("list", directory))
}

/// Whether there is no directory where one was looked for.
fn is_no_directory(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Lets others use a directory as `mode` says, whose bits are added to those that it has: whose
/// group it is, the directory above says.
fn grant(directory: &FilePath, mode: u32) -> io::Result<()> {
    let found = fs::metadata(directory)?.mode() & 0o7777;
    if found & mode == mode {
        return Ok(());
    }
    let mode = Permissions::from_mode(found | mode);
    unless_it_is_another_s(fs::set_permissions(directory, mode))
}

/// Only whose something is may set its mode.
fn unless_it_is_another_s(set: io::Result<()>) -> io::Result<()> {
    match set {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        set => set,
    }
}

/// Whether somebody holds the lock at `path`. Neither makes nor changes anything, and needs no right
/// to write.
fn is_locked(path: &FilePath) -> Result<bool, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("open the lock", path)(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(fs::TryLockError::WouldBlock) => Ok(true),
        Err(fs::TryLockError::Error(error)) => Err(failed("lock", path)(error)),
    }
}

#[async_trait]
impl LakeStore for LocalStore {
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
        self.blocking(move |_| {
            Ok(path.is_file().then_some(LocalCopy {
                path,
                fetched: None,
            }))
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

    /// They hold a lock.
    async fn honours_conditions(&self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// Whatever is dropped here is gone at once.
    /// Each partition may belong to somebody else.
    async fn try_table(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn settle(&self) {}

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

    async fn collect_garbage(&self) -> Result<Garbage, StoreError> {
        let removed = self.remove_leftovers().await?;
        Ok(Garbage {
            removed: removed.iter().map(Path::to_string).collect(),
            left: Vec::new(),
        })
    }

    fn spool_dir(&self) -> &FilePath {
        &self.staging
    }
}

fn version_of(bytes: &[u8]) -> Version {
    Version(format!("{:032x}", xxh3_128(bytes)))
}

/// Makes what happened in a directory outlast a power cut.
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
pub(crate) mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn open() -> (tempfile::TempDir, LocalStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::new(&directory.path().join("lake"), 0o600);
        store.prepare().unwrap();
        (directory, store)
    }

    fn done(swap: Swap) -> Version {
        match swap {
            Swap::Done(version) => version,
            Swap::Refused => panic!("the write was refused"),
        }
    }

    #[tokio::test]
    async fn only_the_first_creation_and_the_expected_version_are_written() {
        let (_directory, store) = open();
        let path = Path::from("_cdrlake/ledger/x.json");
        assert_eq!(store.read(&path).await.unwrap(), None);
        let first = done(store.create(&path, "1".into()).await.unwrap());
        assert_eq!(
            store.create(&path, "2".into()).await.unwrap(),
            Swap::Refused
        );
        let second = done(store.replace(&path, "3".into(), &first).await.unwrap());
        assert_eq!(
            store.replace(&path, "4".into(), &first).await.unwrap(),
            Swap::Refused
        );
        let found = store.read(&path).await.unwrap().unwrap();
        assert_eq!((&found.bytes[..], found.version), (b"3".as_slice(), second));
        store.delete(&path).await.unwrap();
        store.delete(&path).await.unwrap();
        assert_eq!(store.read(&path).await.unwrap(), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_writers_one_wins() {
        let (_directory, store) = open();
        let path = Path::from("x.json");
        let first = done(store.create(&path, "0".into()).await.unwrap());
        let attempts = (1..=16).map(|i| {
            let (store, path, first) = (store.clone(), path.clone(), first.clone());
            tokio::spawn(async move {
                store
                    .replace(&path, i.to_string().into(), &first)
                    .await
                    .unwrap()
            })
        });
        let swaps = futures::future::join_all(attempts.collect::<Vec<_>>()).await;
        assert_eq!(
            swaps
                .into_iter()
                .filter(|swap| *swap.as_ref().unwrap() != Swap::Refused)
                .count(),
            1
        );
    }

    #[tokio::test]
    async fn a_lease_is_held_by_one_and_given_back_by_dropping() {
        let (_directory, store) = open();
        let path = Path::from("_cdrlake/leases/x.lock");
        let lease = store.try_lease(&path).await.unwrap().unwrap();
        assert!(store.try_lease(&path).await.unwrap().is_none());
        drop(lease);
        let lease = store.try_lease(&path).await.unwrap();
        assert!(lease.is_some());
        drop(lease);
        assert_eq!(
            store.list(&Path::from("_cdrlake/leases")).await.unwrap(),
            []
        );
    }

    #[tokio::test]
    async fn files_and_directories_belong_to_their_owner_alone() {
        let (directory, store) = open();
        store
            .create(&Path::from("a/b.json"), "x".into())
            .await
            .unwrap();
        let mode = |path: &str| {
            fs::metadata(directory.path().join("lake").join(path))
                .unwrap()
                .mode()
                & 0o777
        };
        assert_eq!(
            (mode("a/b.json"), mode("a"), mode("_cdrlake")),
            (0o600, 0o700, 0o700)
        );
    }

    #[tokio::test]
    async fn a_published_file_replaces_the_old_one_and_leaves_no_staging() {
        let (_directory, store) = open();
        let path = Path::from("cdrs/dt=2026-10-01/placed-2026-10-01.parquet");
        let lease = Path::from("_cdrlake/leases/x.lock");
        let lease = store.try_lease(&lease).await.unwrap().unwrap();
        for content in ["old", "newer"] {
            let staged = store.spool_dir().join("x.parquet");
            fs::write(&staged, content).unwrap();
            let staged = TempPath::try_from_path(staged).unwrap();
            let staged = store.stage(&path, staged).await.unwrap();
            let state = staged.publish(&*lease, None).await.unwrap().unwrap();
            assert_eq!(state.size_bytes, content.len() as u64);
            assert_eq!(store.list(&Path::from("cdrs")).await.unwrap(), [state]);
        }
        assert_eq!(store.list(&Path::from(STAGING)).await.unwrap(), []);
    }

    /// Says it also where the output of tests is kept back.
    fn skipped(what: &str) {
        drop(writeln!(io::stderr(), "skipped: {what}"));
    }

    /// Runs a test again in a process that may mount, and has mounted already what `mount` says, with
    /// a variable that tells it so. Whether that is possible here.
    pub(crate) fn where_it_may_mount<const N: usize>(
        test: &str,
        (variable, value): (&str, &FilePath),
        mount: [&OsStr; N],
    ) -> bool {
        let script =
            r#"this=$1; test=$2; shift 2; mount "$@" || exit 77; exec "$this" --exact "$test""#;
        let child = std::process::Command::new("unshare")
            .args(["-rm", "sh", "-c", script, "sh"])
            .arg(std::env::current_exe().unwrap())
            .arg(test)
            .args(mount)
            .env(variable, value)
            .output();
        match child {
            Ok(child) if child.status.success() => {
                let said = String::from_utf8_lossy(&child.stdout);
                assert!(said.contains("1 passed"), "{said}");
                true
            }
            Ok(child) if child.status.code() == Some(101) => {
                panic!("{}", String::from_utf8_lossy(&child.stdout))
            }
            _ => {
                skipped("nothing can be mounted here");
                false
            }
        }
    }

    /// A directory on another file system, if this machine has one.
    fn on_another_file_system(directory: &FilePath) -> Option<tempfile::TempDir> {
        let device_of = |path: &FilePath| fs::metadata(path).unwrap().dev();
        let other = tempfile::tempdir_in("/dev/shm").ok();
        let other = other.filter(|other| device_of(other.path()) != device_of(directory));
        if other.is_none() {
            skipped("/dev/shm is no other file system");
        }
        other
    }

    async fn publish(store: &LocalStore, path: &Path, content: &str) {
        let lease = layout::lease(layout::slice_of(path).unwrap());
        let lease = store.try_lease(&lease).await.unwrap().unwrap();
        let staged = store.spool_dir().join("x.parquet");
        fs::write(&staged, content).unwrap();
        let staged = TempPath::try_from_path(staged).unwrap();
        let staged = store.stage(path, staged).await.unwrap();
        staged.publish(&*lease, None).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_partition_on_another_file_system_is_written_whole_and_leaves_nothing() {
        let (directory, store) = open();
        let Some(other) = on_another_file_system(directory.path()) else {
            return;
        };
        let partition = other.path().join("october");
        fs::create_dir(&partition).unwrap();
        let table = directory.path().join("lake/cdrs");
        fs::create_dir(&table).unwrap();
        std::os::unix::fs::symlink(&partition, table.join("dt=2026-10-01")).unwrap();
        let path = Path::from("cdrs/dt=2026-10-01/placed-2026-10-01.parquet");
        for content in ["old", "newer"] {
            publish(&store, &path, content).await;
            let file = partition.join("placed-2026-10-01.parquet");
            assert_eq!(fs::read_to_string(&file).unwrap(), content);
            assert_eq!(fs::metadata(file).unwrap().mode() & 0o777, 0o600);
        }
        let names = |path: &FilePath| names_in(path).unwrap();
        assert_eq!(names(&partition), ["placed-2026-10-01.parquet"]);
        assert_eq!(names(other.path()), ["october"]);
        assert_eq!(store.list(&Path::from(STAGING)).await.unwrap(), []);

        // What processes leave that die while they copy is seen by no listing, found, and removed
        // once they are dead.
        let beside = other
            .path()
            .join(format!(".october.placed-2026-10-01.parquet{COPY}"));
        let within = partition.join(format!(".received-2026-10-01.parquet{COPY}"));
        fs::write(&beside, "calls").unwrap();
        fs::write(&within, "calls").unwrap();
        assert_eq!(store.list(&Path::from(TABLE)).await.unwrap().len(), 1);
        let lease = Path::from("_cdrlake/leases/placed-2026-10-01.lock");
        let alive = store.try_lease(&lease).await.unwrap().unwrap();
        assert_eq!(store.find_leftovers().await.unwrap().len(), 1);
        assert_eq!(store.remove_leftovers().await.unwrap().len(), 1);
        assert!(beside.exists() && !within.exists());
        drop(alive);
        assert_eq!(store.remove_leftovers().await.unwrap().len(), 1);
        assert!(!beside.exists());
    }

    #[tokio::test]
    async fn a_table_on_another_file_system_has_no_copy_in_it_while_it_is_written() {
        let (directory, store) = open();
        let Some(other) = on_another_file_system(directory.path()) else {
            return;
        };
        let table = other.path().join("table");
        fs::create_dir(&table).unwrap();
        std::os::unix::fs::symlink(&table, directory.path().join("lake/cdrs")).unwrap();
        let path = Path::from("cdrs/dt=2026-10-01/placed-2026-10-01.parquet");
        publish(&store, &path, "rows").await;
        let target = store.file_path(&path);
        assert_eq!(fs::read_to_string(&target).unwrap(), "rows");
        let beside = store.beside(target.parent().unwrap()).unwrap();
        let copy = beside.copy_of("placed-2026-10-01.parquet");
        assert_eq!(copy.parent(), Some(other.path()));
        fs::write(&copy, "rows").unwrap();
        assert_eq!(store.remove_leftovers().await.unwrap().len(), 1);
        assert_eq!(names_in(other.path()).unwrap(), ["table"]);
    }

    #[tokio::test]
    async fn the_ledger_may_lie_on_another_file_system_too() {
        let (directory, store) = open();
        let Some(other) = on_another_file_system(directory.path()) else {
            return;
        };
        let ledger = directory.path().join("lake").join(LEDGER);
        std::os::unix::fs::symlink(other.path(), ledger).unwrap();
        let path = Path::from("_cdrlake/ledger/placed/2026-10-01.json");
        let first = done(store.create(&path, "1".into()).await.unwrap());
        done(store.replace(&path, "2".into(), &first).await.unwrap());
        let left = other.path().join(format!("placed/.2026-10-02.json{COPY}"));
        fs::write(&left, "{}").unwrap();
        assert_eq!(store.remove_leftovers().await.unwrap().len(), 1);
        assert!(!left.exists());
        let listed = store.list(&Path::from("_cdrlake/ledger/placed")).await;
        assert_eq!(listed.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn locks_and_leases_have_the_mode_of_files_and_directories_keep_whose_group_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("lake");
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, Permissions::from_mode(0o2770)).unwrap();
        // No umask that tests run with leaves this group and these others all bits.
        let store = LocalStore::new(&root, 0o666);
        store.prepare().unwrap();
        store
            .create(&Path::from("a/b.json"), "x".into())
            .await
            .unwrap();
        let lease = Path::from("_cdrlake/leases/x.lock");
        let _lease = store.try_lease(&lease).await.unwrap().unwrap();
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().mode() & 0o7777;
        assert_eq!(mode("_cdrlake/leases/x.lock"), 0o666);
        assert_eq!(mode("_cdrlake/locks/a.lock"), 0o666);
        assert_eq!(mode("a/b.json"), 0o666);
        for made in ["a", "_cdrlake", STAGING, LEASES, LOCKS] {
            assert_eq!(mode(made), 0o2777, "{made}");
        }
    }

    #[tokio::test]
    async fn plain_files_where_partitions_should_be_hide_nothing_and_are_no_hindrance() {
        let (directory, store) = open();
        let Some(other) = on_another_file_system(directory.path()) else {
            return;
        };
        fs::write(other.path().join("f.txt"), "note").unwrap();
        fs::write(other.path().join("_SUCCESS"), "").unwrap();
        fs::write(other.path().join("dt=note"), "").unwrap();
        let table = directory.path().join("lake").join(TABLE);
        for linked in [
            &table,
            &table.join("dt=2026-10-01"),
            &table.join("notes.txt"),
        ] {
            let is_note = linked.ends_with("notes.txt");
            if *linked != table {
                fs::create_dir_all(&table).unwrap();
            }
            let to = if is_note {
                other.path().join("f.txt")
            } else {
                other.path().to_owned()
            };
            std::os::unix::fs::symlink(to, linked).unwrap();
            assert_eq!(store.find_leftovers().await.unwrap(), [], "{linked:?}");
            assert_eq!(store.remove_leftovers().await.unwrap(), []);
            if *linked == table {
                fs::remove_file(&table).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn only_where_nothing_can_be_beside_a_partition_is_a_copy_in_it() {
        let (directory, store) = open();
        let Some(other) = on_another_file_system(directory.path()) else {
            return;
        };
        let partition = other.path().join("october");
        fs::create_dir(&partition).unwrap();
        let path = Path::from("cdrs/dt=2026-10-01/placed-2026-10-01.parquet");
        let target = store.file_path(&path);
        let table = directory.path().join("lake").join(TABLE);
        fs::create_dir(&table).unwrap();
        std::os::unix::fs::symlink(&partition, target.parent().unwrap()).unwrap();
        let beside = store.beside(target.parent().unwrap()).unwrap();
        // Something goes wrong there that would go wrong inside, too.
        let copy = beside.copy_of("placed-2026-10-01.parquet");
        fs::create_dir(&copy).unwrap();
        let file = store.spool_dir().join("x.parquet");
        fs::write(&file, "rows").unwrap();
        let file = TempPath::try_from_path(file).unwrap();
        let refused = store.copy(&file, &target).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::IsADirectory);
        assert_eq!(names_in(&partition).unwrap(), [] as [&str; 0]);
    }

    /// Tells the child of the test below its lake, whose partition is a mount.
    const MOUNTED: &str = "TEST_MOUNTED";

    #[test]
    fn a_partition_that_is_another_mount_of_the_same_file_system_is_written_and_swept() {
        let path = Path::from("cdrs/dt=2026-10-01/placed-2026-10-01.parquet");
        if let Some(root) = std::env::var_os(MOUNTED) {
            let store = LocalStore::new(FilePath::new(&root), 0o600);
            let runtime = tokio::runtime::Runtime::new().unwrap();
            return runtime.block_on(async {
                store.prepare().unwrap();
                let target = store.file_path(&path);
                let partition = target.parent().unwrap();
                publish(&store, &path, "rows").await;
                assert_eq!(fs::read_to_string(&target).unwrap(), "rows");
                assert_eq!(names_in(partition).unwrap(), ["placed-2026-10-01.parquet"]);
                // What a process leaves that dies while it copies, outside and inside.
                let name = "placed-2026-10-01.parquet";
                let beside = store.beside(partition).unwrap().copy_of(name);
                let within = partition.join(format!(".{name}{COPY}"));
                for copy in [&beside, &within] {
                    fs::write(copy, "calls").unwrap();
                }
                assert_eq!(store.find_leftovers().await.unwrap().len(), 2);
                assert_eq!(store.remove_leftovers().await.unwrap().len(), 2);
                assert!(!beside.exists() && !within.exists());
            });
        }
        let (directory, store) = open();
        let target = store.file_path(&path);
        let partition = target.parent().unwrap();
        let elsewhere = directory.path().join("elsewhere");
        fs::create_dir_all(partition).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        let has_run = where_it_may_mount(
            "store::local::tests::\
            a_partition_that_is_another_mount_of_the_same_file_system_is_written_and_swept",
            (MOUNTED, &directory.path().join("lake")),
            [OsStr::new("--bind"), elsewhere.as_ref(), partition.as_ref()],
        );
        // It was the mount that was written to.
        let written = elsewhere.join("placed-2026-10-01.parquet");
        assert_eq!(written.is_file(), has_run);
    }

    #[test]
    fn a_lock_that_is_a_link_is_refused_and_not_tried_for_ever() {
        let (directory, store) = open();
        let locks = directory.path().join("lake").join(LOCKS);
        fs::create_dir_all(&locks).unwrap();
        let outside = directory.path().join("outside");
        std::os::unix::fs::symlink(&outside, locks.join("x.lock")).unwrap();
        for is_there in [false, true] {
            let refused = store.lock_directory("x", true).unwrap_err();
            assert!(refused.path.ends_with("x.lock"), "{refused}");
            assert_eq!(outside.exists(), is_there);
            fs::write(&outside, "").unwrap();
        }
    }

    #[test]
    fn what_a_dead_process_left_without_its_mode_gets_it_and_what_is_another_s_keeps_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("lake");
        let set = |path: &FilePath, mode: u32| {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        let mode = |path: &FilePath| fs::metadata(path).unwrap().mode() & 0o777;
        let locks = root.join(LOCKS);
        fs::create_dir_all(&locks).unwrap();
        fs::write(locks.join("a.lock"), "").unwrap();
        set(&locks.join("a.lock"), 0o600);
        set(&locks, 0o700);
        set(&root, 0o750);
        let store = LocalStore::new(&root, 0o660);
        drop(store.lock_directory("a", true).unwrap());
        assert_eq!(mode(&locks), 0o770);
        assert_eq!(mode(&locks.join("a.lock")), 0o660);
        assert_eq!(mode(&root), 0o750);
        // Nobody may set this one's mode, not even who may do everything.
        let another_s = FilePath::new("/proc/self");
        let refused = fs::set_permissions(another_s, Permissions::from_mode(0o777));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        grant(another_s, 0o777).unwrap();
    }

    /// Whether somebody waits for a lock on the file.
    fn is_waited_for(file: &File) -> bool {
        let inode = format!(":{} ", file.metadata().unwrap().ino());
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks
            .lines()
            .any(|line| line.contains("->") && line.contains(&inode))
    }

    #[test]
    fn a_lock_whose_file_was_removed_meanwhile_keeps_nobody_away_and_is_not_taken_for_one() {
        let (directory, store) = open();
        let path = directory.path().join("lake").join(LOCKS).join("a.lock");
        let first = store.lock_directory("a", true).unwrap().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| store.lock_directory("a", true).unwrap().unwrap());
            while !is_waited_for(&first) {
                std::thread::yield_now();
            }
            fs::remove_file(&path).unwrap();
            let second = store.lock_directory("a", true).unwrap().unwrap();
            drop(first);
            while !is_waited_for(&second) {
                assert!(!waiting.is_finished(), "two hold the lock");
                std::thread::yield_now();
            }
            drop(second);
            assert!(lies_at(&waiting.join().unwrap(), &path));
        });
    }
}
