//! Where a process keeps files that belong to no lake yet: on their way to and from a bucket, or split from
//! an export.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::lake::local::lies_at;

/// What the names of such directories begin with.
const PREFIX: &str = "cdrlake-spool-";
/// Locked for as long as the process lives that made the directory.
const LOCK: &str = "lock";
/// How often to try to make one before something is wrong with more than luck.
const MAX_TRIES: u32 = 10;

/// A directory of this process alone, readable by its owner only. Dropping it removes it; what a
/// process that died has left, [`sweep`] removes.
#[derive(Debug)]
pub(crate) struct Spool {
    directory: TempDir,
    _lock: File,
}

impl Spool {
    /// Makes one in `parent`.
    pub(crate) fn make(parent: &Path) -> io::Result<Self> {
        for _ in 0..MAX_TRIES {
            let directory = tempfile::Builder::new()
                .prefix(PREFIX)
                .permissions(fs::Permissions::from_mode(0o700))
                .tempdir_in(parent)?;
            let path = directory.path().join(LOCK);
            let lock = File::options()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&path)?;
            // Whoever sweeps may have been quicker.
            if lock.try_lock().is_ok() && lies_at(&lock, &path) {
                return Ok(Self {
                    directory,
                    _lock: lock,
                });
            }
        }
        Err(io::Error::other(
            "somebody takes away every directory made there",
        ))
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes the directories of processes that are dead from `parent`, and says which. What belongs to
/// somebody else, or cannot be removed, stays.
pub(crate) fn sweep(parent: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        let is_ours = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if !is_ours {
            continue;
        }
        // Held until it is gone: nobody takes it for a live one meanwhile.
        if let Some(lock) = lock_of_the_dead(&path) {
            if fs::remove_dir_all(&path).is_ok() {
                removed.push(path);
            }
            drop(lock);
        }
    }
    Ok(removed)
}

/// The lock of a spool, if nobody holds it. A directory that has none yet is being made.
fn lock_of_the_dead(directory: &Path) -> Option<File> {
    // Links are somebody's trick: ours are real directories with a real file.
    let is_real = |path: &Path, is: fn(&fs::Metadata) -> bool| {
        path.symlink_metadata().is_ok_and(|metadata| is(&metadata))
    };
    let lock = directory.join(LOCK);
    if !is_real(directory, fs::Metadata::is_dir) || !is_real(&lock, fs::Metadata::is_file) {
        return None;
    }
    let lock = File::options().write(true).open(lock).ok()?;
    lock.try_lock().ok()?;
    Some(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_process_left_is_removed_and_a_live_one_s_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let live = Spool::make(parent.path()).unwrap();
        fs::write(live.path().join("x"), "x").unwrap();
        // Calls lie in there.
        let mode = fs::metadata(live.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let dead = parent.path().join(format!("{PREFIX}dead"));
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("y"), "y").unwrap();
        // Not yet locked: it may be in the making.
        assert_eq!(sweep(parent.path()).unwrap(), Vec::<PathBuf>::new());
        fs::write(dead.join(LOCK), "").unwrap();
        let other = parent.path().join("something else");
        fs::create_dir(&other).unwrap();
        assert_eq!(sweep(parent.path()).unwrap(), [dead]);
        assert!(live.path().join("x").exists() && other.exists());
        let path = live.path().to_owned();
        drop(live);
        assert!(!path.exists());
    }
}
