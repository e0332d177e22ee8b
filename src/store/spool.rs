//! The spool: temporary files of one process, on their way to or from a bucket, or split from an
//! export.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::lock::lies_at;

/// The prefix of the names of spool directories.
const PREFIX: &str = "cdrlake-spool-";
/// A file that the process locks as long as it lives.
const LOCK: &str = "lock";
/// Attempts to create a directory before giving up.
const MAX_TRIES: u32 = 10;

/// Age from which a directory without a lock file counts as abandoned: its process may still be
/// creating it.
const MAKING: Duration = Duration::from_hours(24);

/// A private directory of this process, readable by its owner only. Dropping it removes it, the
/// lock last. [`sweep`] removes the directories of crashed processes.
#[derive(Debug)]
pub(crate) struct Spool {
    directory: TempDir,
    _lock: File,
}

impl Spool {
    /// Creates one in `parent`.
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
            // A sweep may have removed it already.
            if lock.try_lock().is_ok() && lies_at(&lock, &path) {
                return Ok(Self {
                    directory,
                    _lock: lock,
                });
            }
        }
        Err(io::Error::other(
            "another program removes every directory made there",
        ))
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // If something cannot be removed, keep the lock file, so that the next sweep finds it.
        if remove_lock_last(self.path()).is_err() {
            self.directory.disable_cleanup(true);
        }
    }
}

/// Removes a spool, its lock file last: if the process dies meanwhile, the next sweep removes the
/// rest, which may contain calls.
fn remove_lock_last(spool: &Path) -> io::Result<()> {
    for path in lock_last(spool)? {
        // Links are not followed.
        if path.symlink_metadata()?.is_dir() {
            fs::remove_dir_all(path)?;
        } else {
            fs::remove_file(path)?;
        }
    }
    fs::remove_dir(spool)
}

/// The contents of a spool, the lock file last.
fn lock_last(spool: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(spool)?.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>()?;
    paths.sort_by_key(|path| path.ends_with(LOCK));
    Ok(paths)
}

/// Removes the spools of crashed processes from `parent`, and returns their paths. Skips what it
/// may not remove.
pub(crate) fn sweep(parent: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        let is_ours = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        // Ignore links: a spool is a real directory with a real lock file.
        let found = path.symlink_metadata();
        let Some(directory) = found.ok().filter(|found| is_ours && found.is_dir()) else {
            continue;
        };
        // Held until the directory is gone, so that no other sweep handles it meanwhile.
        let _lock = match path.join(LOCK).symlink_metadata() {
            Ok(lock) if lock.is_file() => {
                let Some(lock) = abandoned_lock(&path) else {
                    continue;
                };
                Some(lock)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_old(&directory) => None,
            _ => continue,
        };
        if remove_lock_last(&path).is_ok() {
            removed.push(path);
        }
    }
    Ok(removed)
}

/// The lock of a spool, if no process holds it.
fn abandoned_lock(spool: &Path) -> Option<File> {
    let lock = File::options().write(true).open(spool.join(LOCK)).ok()?;
    lock.try_lock().ok()?;
    Some(lock)
}

/// Whether a directory has not changed for so long that its process cannot still be creating it.
fn is_old(directory: &fs::Metadata) -> bool {
    let changed = directory.modified().ok();
    let age = changed.and_then(|changed| changed.elapsed().ok());
    age.is_some_and(|age| age > MAKING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_spools_of_crashed_processes_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let live = Spool::make(parent.path()).unwrap();
        fs::write(live.path().join("x"), "x").unwrap();
        // It contains calls.
        let mode = fs::metadata(live.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let dead = parent.path().join(format!("{PREFIX}dead"));
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("y"), "y").unwrap();
        // Without a lock file: its process may still be creating it.
        assert_eq!(sweep(parent.path()).unwrap(), Vec::<PathBuf>::new());
        fs::write(dead.join(LOCK), "").unwrap();
        // Its process died while it removed the directory.
        let unlocked = parent.path().join(format!("{PREFIX}unlocked"));
        fs::create_dir(&unlocked).unwrap();
        fs::write(unlocked.join("z"), "z").unwrap();
        let days_ago = std::time::SystemTime::now() - 2 * MAKING;
        let opened = File::open(&unlocked).unwrap();
        opened.set_modified(days_ago).unwrap();
        let other = parent.path().join("something else");
        fs::create_dir(&other).unwrap();
        let mut swept = sweep(parent.path()).unwrap();
        swept.sort();
        assert_eq!(swept, [dead, unlocked]);
        assert!(live.path().join("x").exists() && other.exists());
        let path = live.path().to_owned();
        fs::create_dir(path.join("a")).unwrap();
        fs::write(path.join("a").join("w"), "w").unwrap();
        drop(live);
        assert!(!path.exists());
    }

    /// The child of the test below works in this directory.
    const PARENT: &str = "TEST_SPOOL_PARENT";

    #[test]
    fn a_spool_that_is_not_removed_whole_keeps_its_lock() {
        if let Some(parent) = std::env::var_os(PARENT) {
            let spool = Spool::make(Path::new(&parent)).unwrap();
            let path = spool.path().to_owned();
            for name in ["a", "z"] {
                fs::write(path.join(name), "calls").unwrap();
            }
            // A mount point cannot be removed.
            let mounted = path.join("m");
            fs::create_dir(&mounted).unwrap();
            let run = |arguments: &[&str]| {
                let mut command = std::process::Command::new(arguments[0]);
                let done = command.args(&arguments[1..]).arg(&mounted).status();
                assert!(done.unwrap().success());
            };
            run(&["mount", "-t", "tmpfs", "none"]);
            drop(spool);
            assert!(path.join(LOCK).is_file() && mounted.is_dir());
            assert_eq!(sweep(Path::new(&parent)).unwrap(), [] as [PathBuf; 0]);
            assert!(path.join(LOCK).is_file() && mounted.is_dir());
            run(&["umount"]);
            assert_eq!(sweep(Path::new(&parent)).unwrap(), [path]);
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        crate::store::local::tests::where_it_may_mount(
            "store::spool::tests::a_spool_that_is_not_removed_whole_keeps_its_lock",
            (PARENT, parent.path()),
            ["-t", "tmpfs", "none", "/mnt"].map(std::ffi::OsStr::new),
        );
    }
}
