//! Files beside a lake that appear whole, or not at all.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A file whose readers see the earlier content or the new one.
#[derive(Clone, Debug)]
pub(crate) struct WholeFile {
    path: PathBuf,
    /// Who may read it.
    mode: u32,
}

impl WholeFile {
    /// The file at `path`, to be written with these permissions.
    pub(crate) fn new(path: PathBuf, mode: u32) -> Self {
        Self { path, mode }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it can be written, as far as that shows before.
    ///
    /// # Errors
    /// Why not. A directory, a pipe or a device at the path is never replaced.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.path.exists() && !self.path.is_file() {
            return Err(io::Error::other("it exists, and is not a file"));
        }
        self.temporary().map(drop)
    }

    /// Replaces its content.
    ///
    /// # Errors
    /// Why it cannot be written. The earlier file then stays.
    pub(crate) fn write(&self, text: &str) -> io::Result<()> {
        let mut file = self.temporary()?;
        file.write_all(text.as_bytes())?;
        file.as_file()
            .set_permissions(Permissions::from_mode(self.mode))?;
        // After a power cut, it would be empty.
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Keeps other processes from changing it until the result is dropped, if they ask here too.
    /// The lock is on a hidden file beside it, which stays, because the file itself is replaced.
    ///
    /// # Errors
    /// If that file cannot be made or locked.
    pub(crate) fn lock(&self) -> io::Result<File> {
        let name = self.path.file_name().unwrap_or_default();
        let path = self
            .directory()
            .join(format!(".{}.lock", name.to_string_lossy()));
        // One that another user made can be locked without being written.
        let file = File::options().create(true).append(true).open(&path);
        let file = file.or_else(|_| File::open(&path));
        let file = file.map_err(|error| without_path(&error))?;
        file.lock()?;
        Ok(file)
    }

    /// A hidden file beside it that only its owner can read.
    fn temporary(&self) -> io::Result<NamedTempFile> {
        let file = tempfile::Builder::new()
            .prefix(".cdrlake-")
            .suffix(".tmp")
            .tempfile_in(self.directory());
        file.map_err(|error| without_path(&error))
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        }
    }
}

/// The cause alone: the error names a file that is not there.
fn without_path(error: &io::Error) -> io::Error {
    error.kind().into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let name = |entry: io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let names = entries.map(|entry| name(entry).into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_with_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for (text, mode) in [("one\n", 0o600), ("two\n", 0o644)] {
            let file = WholeFile::new(path.clone(), mode);
            file.check().unwrap();
            file.write(text).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert_eq!(path.metadata().unwrap().mode() & 0o777, mode);
        }
        assert_eq!(names(directory.path()), ["file"], "nothing else is left");
    }

    #[test]
    fn a_directory_that_is_gone_and_one_in_place_of_the_file_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        for (path, why) in [
            (directory.path().join("gone/file"), "entity not found"),
            (directory.path().to_owned(), "it exists, and is not a file"),
        ] {
            let file = WholeFile::new(path, 0o600);
            assert_eq!(file.check().unwrap_err().to_string(), why);
            assert!(file.write("x").is_err());
        }
        assert_eq!(names(directory.path()), [] as [&str; 0]);
    }

    #[test]
    fn what_several_add_under_the_lock_is_kept() {
        const ADDED: usize = 20;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = WholeFile::new(path.clone(), 0o600);
        file.write("").unwrap();
        let add = || {
            for _ in 0..ADDED {
                let _lock = file.lock().unwrap();
                let text = std::fs::read_to_string(&path).unwrap();
                file.write(&(text + "x")).unwrap();
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(add);
            }
        });
        assert_eq!(path.metadata().unwrap().len(), 4 * ADDED as u64);
        assert_eq!(names(directory.path()), [".file.lock", "file"]);
    }
}
