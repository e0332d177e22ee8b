//! Files on their way into the lake, and the leftovers of crashed processes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path as FilePath, PathBuf};

use object_store::path::Path;
use tempfile::TempPath;

use super::locks::is_locked;
use super::{LocalStore, failed, names_in, sync_dir};
use crate::cdr::slice::{Direction, Slice, parse_day};
use crate::slice_file::writer::{create_spool_file, remove_leftover};
use crate::store::layout::{self, LEASES, LEDGER, LOCKS, META, REJECTS, RUNNING, RUNS, TABLE};
use crate::store::{ObjectState, StoreError};

/// The suffix of a copy in progress on another file system. Its name also begins with a dot, so
/// that readers ignore it.
pub(super) const COPY: &str = ".cdrlake-copy";

impl LocalStore {
    /// Leftovers of crashed processes: spool files and copies whose lease is free, and staged
    /// objects whose directory is not locked.
    pub(super) fn leftovers(&self) -> Result<Vec<Leftover>, StoreError> {
        let mut staged = Vec::new();
        self.list_dir(&self.staging, &mut staged)?;
        let staged = staged.into_iter().map(|ObjectState { path, .. }| Leftover {
            guard: Guard::of_staged(&path),
            file: self.file_path(&path),
        });
        let mut leftovers = Vec::new();
        for leftover in staged.chain(self.unfinished_copies()?) {
            let is_held = is_locked(&self.file_path(&leftover.guard.path()))?;
            // Its process may have finished since it was listed.
            if !is_held && leftover.file.exists() {
                leftovers.push(leftover);
            }
        }
        Ok(leftovers)
    }

    /// The path of a leftover, in the lake or on this machine.
    pub(super) fn name_of(&self, leftover: &Leftover) -> Path {
        let file = &leftover.file;
        Path::from(
            &*file
                .strip_prefix(&self.root)
                .unwrap_or(file)
                .to_string_lossy(),
        )
    }

    /// Unfinished copies into directories on another file system than the staging directory. Any
    /// directory may be one: a second mount of the same file system counts as another one.
    pub(super) fn unfinished_copies(&self) -> Result<Vec<Leftover>, StoreError> {
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
            let day = day.and_then(|day| parse_day(day).ok());
            let Some((day, beside)) = day.zip(self.copy_directory(&path)) else {
                continue;
            };
            for direction in Direction::ALL {
                let slice = Slice::of_day(day, direction);
                copies.push(Leftover {
                    guard: Guard::Lease(layout::lease(slice)),
                    file: beside.copy_of(slice),
                });
            }
        }
        copies.retain(|copy| copy.file.symlink_metadata().is_ok());
        Ok(copies)
    }

    /// Removes leftovers, each while holding its lease or lock, and files of free leases.
    pub(super) fn sweep(&self) -> Result<Vec<Path>, StoreError> {
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
            // A free lease is an empty file. Releasing it removes the file.
            drop(self.lease(&path)?);
        }
        Ok(removed)
    }

    /// Moves a synced file to its place and syncs the directory.
    pub(super) fn place(&self, file: TempPath, path: &Path) -> Result<(), StoreError> {
        let target = self.file_path(path);
        let directory = target
            .parent()
            .expect("an object lies in a directory of the lake");
        self.make_dir(directory)?;
        match fs::rename(&file, &target) {
            // The file has moved: there is nothing to delete.
            Ok(()) => drop(file.keep()),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                self.copy(&file, path).map_err(failed("write", &target))?;
            }
            Err(error) => return Err(failed("write", &target)(error)),
        }
        sync_dir(directory)
    }

    /// Copies a file to another file system and renames it there, so that readers see the old or
    /// the new file, whole. The name of the copy depends on the target, so that the next attempt
    /// overwrites the leftover of a crashed process.
    pub(super) fn copy(&self, file: &FilePath, path: &Path) -> io::Result<()> {
        let target = self.file_path(path);
        let copy_by_way_of = |copy: PathBuf| {
            let mut to = create_spool_file(&copy)?;
            let copy = TempPath::try_from_path(copy)?;
            io::copy(&mut File::open(file)?, &mut to)?;
            self.settle(&to)?;
            fs::rename(&copy, &target)?;
            drop(copy.keep());
            Ok(())
        };
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let directory = target.parent().unwrap_or(FilePath::new(""));
        // Prefer a place where no reader looks for data, if it is writable and on the right file
        // system.
        if let Some((slice, beside)) =
            layout::leased_slice(path).zip(self.copy_directory(directory))
        {
            use io::ErrorKind::{CrossesDevices, PermissionDenied, ReadOnlyFilesystem};
            let copied = copy_by_way_of(beside.copy_of(slice));
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

    /// The directory for unfinished copies into a `partition`: beside the partition's real
    /// directory, or beside the table if the partition lies in it. `None` if that is another file
    /// system, or if this is not a partition.
    pub(super) fn copy_directory(&self, partition: &FilePath) -> Option<CopyDirectory> {
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
        (device_of(&directory).ok()? == device).then_some(CopyDirectory { directory, outer })
    }
}

/// A leftover of a crashed process.
#[derive(Debug)]
pub(super) struct Leftover {
    /// Its process held this.
    guard: Guard,
    file: PathBuf,
}

/// What a process holds while it writes a file.
#[derive(Debug)]
pub(super) enum Guard {
    /// The lease at this path.
    Lease(Path),
    /// The lock of the directory of this name.
    Lock(String),
}

impl Guard {
    /// The guard of the object at `target`.
    fn of_target(target: &Path) -> Self {
        layout::leased_slice(target).map_or_else(
            || Self::Lock(directory_name(target)),
            |slice| Self::Lease(layout::lease(slice)),
        )
    }

    /// The guard of the staged file at `path`.
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

/// A directory for unfinished copies into a partition, outside of it.
#[derive(Debug)]
pub(super) struct CopyDirectory {
    directory: PathBuf,
    /// The name of the partition or table beside which they lie.
    outer: String,
}

impl CopyDirectory {
    /// The copy of a file of the slice. Its lease allows one at a time.
    pub(super) fn copy_of(&self, slice: Slice) -> PathBuf {
        let Self { directory, outer } = self;
        directory.join(format!(".{outer}.{}{COPY}", layout::stem(slice)))
    }
}

/// The name of the file that will result from the copy `name`; `None` if it is not a copy.
pub(super) fn target_of_copy(name: &str) -> Option<&str> {
    name.strip_prefix('.')?.strip_suffix(COPY)
}

/// The name of the lock for the directory of an object.
pub(super) fn directory_name(path: &Path) -> String {
    let mut parts: Vec<String> = path.parts().map(|part| part.as_ref().to_owned()).collect();
    parts.pop();
    parts.join("-")
}
