//! Locks of files and leases of slices. The kernel releases them when their process dies.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use object_store::path::Path;

use super::{LocalStore, failed, ignore_if_not_owner};
use crate::store::layout::LOCKS;
use crate::store::lock::lies_at;
use crate::store::{Lease, StoreError};

/// Attempts to lock a file that others create and remove meanwhile, and the pause between them.
const LOCK_TRIES: u32 = 100;

const LOCK_PAUSE: Duration = Duration::from_millis(10);

impl LocalStore {
    /// Locks a directory of the lake for conditional writes. The lock is on a separate file,
    /// because NFS does not lock directories. `None` if another process holds it and `wait` is
    /// false.
    pub(super) fn lock_directory(
        &self,
        name: &str,
        wait: bool,
    ) -> Result<Option<File>, StoreError> {
        let locks = self.root.join(LOCKS);
        self.make_dir(&locks)?;
        self.lock(&locks.join(format!("{name}.lock")), wait)
    }

    /// Locks the file at `path`, and creates it if it does not exist.
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
                // If the file was removed since it was opened, its lock excludes no other process:
                // lock the file that lies there now.
                if lies_at(&file, path) {
                    return Ok(Some(file));
                }
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        Err(failed("lock", path)(io::Error::other(
            "the lock file is replaced again and again. Use a file system with stable files and \
             `flock`",
        )))
    }

    /// Opens a lock file with `lake.file_mode`, regardless of the umask. `None` if another process
    /// created or removed it meanwhile. Does not follow links.
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
        // Its creator may have died before setting the mode.
        if file.metadata()?.mode() & 0o777 != self.file_mode {
            let mode = Permissions::from_mode(self.file_mode);
            ignore_if_not_owner(file.set_permissions(mode))?;
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

/// A lock on a file, which is removed when the lock is released.
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
        // Remove it while it is locked, so that it is certainly ours. If this fails, an empty file
        // stays, which the next lease reuses.
        if self.is_held() {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Whether a process holds the lock at `path`. Writes nothing and needs no write permission.
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
