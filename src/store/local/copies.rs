//! Files on their way into the lake, and what is left of them when their process dies.

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

/// How the name of a copy ends that is on its way to another file system. With the dot that it
/// begins with, no reader takes it for data.
pub(super) const COPY: &str = ".cdrlake-copy";

impl LocalStore {
    /// What dead processes left: files of the spool and copies whose lease nobody holds, and staged
    /// objects whose directory nobody has locked.
    pub(super) fn leftovers(&self) -> Result<Vec<Leftover>, StoreError> {
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
    pub(super) fn name_of(&self, leftover: &Leftover) -> Path {
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
    pub(super) fn copies(&self) -> Result<Vec<Leftover>, StoreError> {
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
            let Some((day, beside)) = day.zip(self.beside(&path)) else {
                continue;
            };
            for direction in Direction::ALL {
                let slice = Slice { day, direction };
                copies.push(Leftover {
                    guard: Guard::Lease(layout::lease(slice)),
                    file: beside.copy_of(slice),
                });
            }
        }
        copies.retain(|copy| copy.file.symlink_metadata().is_ok());
        Ok(copies)
    }

    /// Removes what was left, each while its lease or lock is held, and leases that nobody holds.
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
            // One that nobody holds is an empty file and bars nobody. Giving it back removes it.
            drop(self.lease(&path)?);
        }
        Ok(removed)
    }

    /// Moves a settled file to its place, for good.
    pub(super) fn place(&self, file: TempPath, path: &Path) -> Result<(), StoreError> {
        let target = self.file_path(path);
        let directory = target
            .parent()
            .expect("an object lies in a directory of the lake");
        self.make_dir(directory)?;
        match fs::rename(&file, &target) {
            // Nothing is left there to be removed.
            Ok(()) => drop(file.keep()),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                self.copy(&file, path).map_err(failed("write", &target))?;
            }
            Err(error) => return Err(failed("write", &target)(error)),
        }
        sync_dir(directory)
    }

    /// Copies a file to another file system, and renames it there: readers see the old file or the
    /// new one, whole. The name of the copy is the target's, so that the next attempt overwrites
    /// what a dead process left.
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
        // Where nobody looks for data, if it may be written and is where the directory is.
        if let Some((slice, beside)) = layout::leased_slice(path).zip(self.beside(directory)) {
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

    /// Where copies on their way to a `partition` have a place: beside the directory that it is,
    /// wherever links lead, or beside the table if that is where it lies. `None` if that is another
    /// file system, or it is no partition.
    pub(super) fn beside(&self, partition: &FilePath) -> Option<Beside> {
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
}

/// What a dead process left.
#[derive(Debug)]
pub(super) struct Leftover {
    /// What its maker held.
    guard: Guard,
    file: PathBuf,
}

/// What whoever writes a file holds from before its first byte on.
#[derive(Debug)]
pub(super) enum Guard {
    /// The lease at this path.
    Lease(Path),
    /// The lock of the directory of this name.
    Lock(String),
}

impl Guard {
    /// That of the object at `target`.
    fn of_target(target: &Path) -> Self {
        layout::leased_slice(target).map_or_else(
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
pub(super) struct Beside {
    directory: PathBuf,
    /// What the directory is called that is not to have them in it.
    outer: String,
}

impl Beside {
    /// The copy of a file of the slice. Its lease allows one at a time.
    pub(super) fn copy_of(&self, slice: Slice) -> PathBuf {
        let Self { directory, outer } = self;
        directory.join(format!(".{outer}.{}{COPY}", layout::stem(slice)))
    }
}

/// The file that a copy of this name is on its way to, if it is one.
pub(super) fn target_of_copy(name: &str) -> Option<&str> {
    name.strip_prefix('.')?.strip_suffix(COPY)
}

/// What the directory of an object is called among the locks.
pub(super) fn directory_name(path: &Path) -> String {
    let mut parts: Vec<String> = path.parts().map(|part| part.as_ref().to_owned()).collect();
    parts.pop();
    parts.join("-")
}
