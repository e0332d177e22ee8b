//! Locks of files and leases of slices, which the kernel gives back when their process dies.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use object_store::path::Path;

use super::{LocalStore, failed, unless_it_is_another_s};
use crate::store::layout::LOCKS;
use crate::store::lock::lies_at;
use crate::store::{Lease, StoreError};

/// How often to try for a lock that others make and remove meanwhile, and the pause in between.
const LOCK_TRIES: u32 = 100;

const LOCK_PAUSE: Duration = Duration::from_millis(10);

impl LocalStore {
    /// Locks a directory of the lake: only who holds the lock writes conditionally there. The lock
    /// is on a file of its own, for NFS passes on no locks of directories. `None` if it is held,
    /// and this does not `wait`.
    pub(super) fn lock_directory(
        &self,
        name: &str,
        wait: bool,
    ) -> Result<Option<File>, StoreError> {
        let locks = self.root.join(LOCKS);
        self.make_dir(&locks)?;
        self.lock(&locks.join(format!("{name}.lock")), wait)
    }

    /// Locks the file at `path`, which is made if there is none.
    pub(super) fn lock(&self, path: &FilePath, wait: bool) -> Result<Option<File>, StoreError> {
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
    pub(super) fn open_lock(&self, path: &FilePath) -> io::Result<Option<File>> {
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

    pub(super) fn lease(&self, path: &Path) -> Result<Option<FileLease>, StoreError> {
        let path = self.file_path(path);
        self.make_dir(
            path.parent()
                .expect("a lease lies in a directory of the lake"),
        )?;
        let file = self.lock(&path, false)?;
        Ok(file.map(|file| FileLease { path, file }))
    }
}

/// A lock on a file, which is removed when the lock is given back.
#[derive(Debug)]
pub(super) struct FileLease {
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

/// Whether somebody holds the lock at `path`. Neither makes nor changes anything, and needs no
/// right to write.
pub(super) fn is_locked(path: &FilePath) -> Result<bool, StoreError> {
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
