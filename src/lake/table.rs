//! The table: which file holds a slice, and how another file replaces it.
//!
//! All other code asks [`Table`] for a slice's file and assumes nothing about its name:
//!
//! - The ledger entry of a slice names its current file.
//! - [`TableForm`] names new files, and decides which paths belong to the table.
//! - Stores require one convention: a file of the table lies in the partition of its day, and its
//!   name begins with the slice's [`layout::stem`]. They derive the lease of a file from it.
//!
//! A lake with [logs](super::table_log) has immutable files. A slice's ledger entry also names the
//! files that were replaced and that older snapshots still need.

use std::collections::HashMap;
use std::sync::Arc;

use object_store::path::Path;

use super::LakeError;
use super::file::{PublishedFile, StagedFile};
use super::ledger::Entry;
use super::ledger::new_token;
use super::publish::must_hold;
use crate::cdr::slice::Slice;
use crate::slice_file::writer::SpoolFile;
use crate::store::{LakeStore, Lease, LocalCopy, ObjectState, layout};

/// How the table's files are named, and how one replaces another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableForm {
    /// Each slice has one file name. A new file replaces the old one under this name.
    Plain,
    /// Each file has a name of its own and is never overwritten. A replaced file stays until no
    /// snapshot needs it.
    Immutable,
}

impl TableForm {
    /// The path of a new file of the slice.
    pub(crate) fn new_path(self, slice: Slice) -> Path {
        match self {
            Self::Plain => plain_path(slice),
            Self::Immutable => {
                let name = format!("{}-{}.parquet", layout::stem(slice), new_token());
                layout::partition(slice.period).join(name)
            }
        }
    }

    /// The slice whose file lies, or will lie, at `path`; `None` if the table has no such file.
    pub(crate) fn slice_of(self, path: &Path) -> Option<Slice> {
        let slice = layout::leased_slice(path)?;
        let is_ours = match self {
            Self::Plain => *path == plain_path(slice),
            // A plain lake keeps its names when it gets logs.
            Self::Immutable => path.as_ref().ends_with(".parquet"),
        };
        is_ours.then_some(slice)
    }
}

fn plain_path(slice: Slice) -> Path {
    layout::partition(slice.period).join(format!("{}.parquet", layout::stem(slice)))
}

/// The files that hold the slices.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    store: Arc<dyn LakeStore>,
    form: TableForm,
}

/// The files in the table.
#[derive(Debug, Default)]
pub(crate) struct TableFiles {
    of_slices: HashMap<Slice, Vec<ObjectState>>,
    /// Files of no slice, which readers take for calls.
    pub foreign: Vec<Path>,
}

impl TableFiles {
    /// The slices that have a file.
    pub(crate) fn slices(&self) -> impl Iterator<Item = Slice> {
        self.of_slices.keys().copied()
    }

    /// Whether the slice has a file.
    pub(crate) fn has(&self, slice: Slice) -> bool {
        self.of_slices.contains_key(&slice)
    }

    /// Whether the slice has files that its ledger entry does not name.
    pub(crate) fn has_unnamed(&self, entry: &Entry) -> bool {
        let files = self.of_slices.get(&entry.slice);
        files.is_some_and(|files| files.iter().any(|file| !entry.names(&file.path)))
    }

    /// Slices, each with the size of its files.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (Slice, u64)> {
        let size = |files: &[ObjectState]| files.iter().map(|file| file.size_bytes).sum();
        let of_slices = self.of_slices.iter();
        of_slices.map(move |(slice, files)| (*slice, size(files)))
    }

    /// The same as [`Table::file`], from the listing.
    pub(crate) fn file(&self, entry: &Entry) -> Option<&ObjectState> {
        let files = self.of_slices.get(&entry.slice)?;
        match entry.file() {
            Some(named) => files.iter().find(|file| file.path.as_ref() == named.path),
            None => files.iter().find(|file| !entry.supersedes(&file.path)),
        }
    }
}

/// What a publication does to a slice's file. `F` is the state of the new file.
#[derive(Debug)]
pub(crate) enum TableChange<F = SpoolFile> {
    /// Nothing: only its ledger entry or its rejects have changed.
    Keep,
    /// The slice's file becomes this one.
    Replace(F),
    /// The slice has no rows, and therefore no file.
    Remove,
}

impl From<SpoolFile> for TableChange {
    /// A file without rows is not published, but removes the old file.
    fn from(file: SpoolFile) -> Self {
        if file.rows == 0 {
            Self::Remove
        } else {
            Self::Replace(file)
        }
    }
}

/// A prepared change of a slice's file, which is not visible yet.
#[derive(Debug)]
pub(super) struct StagedChange {
    slice: Slice,
    change: TableChange<StagedFile>,
    /// Where the slice's file was looked for.
    current: Option<Path>,
    /// The file that lay there.
    pub(super) before: Option<ObjectState>,
}

impl StagedChange {
    /// The file that the slice will have, if it has `kept` now. A new file lacks its `ETag`.
    pub(super) fn planned(&self, kept: Option<&PublishedFile>) -> Option<PublishedFile> {
        match &self.change {
            TableChange::Keep => kept.cloned(),
            TableChange::Replace(staged) => Some(staged.planned.clone()),
            TableChange::Remove => None,
        }
    }

    /// Whether the slice's file changes.
    pub(super) fn is_any(&self) -> bool {
        !matches!(self.change, TableChange::Keep)
    }
}

impl Table {
    pub(super) fn new(store: Arc<dyn LakeStore>, form: TableForm) -> Self {
        Self { store, form }
    }

    /// How its files are named.
    pub(super) fn form(&self) -> TableForm {
        self.form
    }

    /// Whether replaced files stay until no snapshot needs them.
    pub(crate) fn keeps_replaced(&self) -> bool {
        self.form == TableForm::Immutable
    }

    /// The slice whose file lies, or will lie, at `path`; `None` if the table has no such file.
    pub(crate) fn slice_of(&self, path: &Path) -> Option<Slice> {
        self.form.slice_of(path)
    }

    /// Every file.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn files(&self) -> Result<TableFiles, LakeError> {
        let mut files = TableFiles::default();
        for object in self.store.list(&Path::from(layout::TABLE)).await? {
            match self.slice_of(&object.path) {
                Some(slice) => files.of_slices.entry(slice).or_default().push(object),
                None => files.foreign.push(object.path),
            }
        }
        Ok(files)
    }

    /// The file that holds the slice, which its ledger entry names. If the entry names none: a file
    /// of the slice that lies in the table nevertheless. `None` if there is no such file.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn file(&self, entry: &Entry) -> Result<Option<ObjectState>, LakeError> {
        self.state(self.path_of(entry).await?.as_ref()).await
    }

    /// The same [`file`](Self::file), where this machine can read it.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn local_copy(&self, entry: &Entry) -> Result<Option<LocalCopy>, LakeError> {
        match self.path_of(entry).await? {
            Some(path) => Ok(self.store.local_copy(&path).await?),
            None => Ok(None),
        }
    }

    /// Files of the slice that its ledger entry does not name: a run left them that crashed, or
    /// that lost its lease. A run that holds the slice's lease may be about to name them.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn unnamed_files(&self, entry: &Entry) -> Result<Vec<Path>, LakeError> {
        match self.form {
            TableForm::Plain => Ok(Vec::new()),
            TableForm::Immutable => {
                let mut paths = self.paths_of(entry.slice).await?;
                paths.retain(|path| !entry.names(path));
                Ok(paths)
            }
        }
    }

    /// Files of the slice besides the current one, which snapshots may need: superseded ones, and
    /// those that its entry does not name.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn replaced_files(&self, entry: &Entry) -> Result<Vec<Path>, LakeError> {
        match self.form {
            TableForm::Plain => Ok(Vec::new()),
            TableForm::Immutable => {
                let current = self.path_of(entry).await?;
                let mut paths = self.paths_of(entry.slice).await?;
                paths.retain(|path| Some(path) != current.as_ref());
                Ok(paths)
            }
        }
    }

    /// Where [`file`](Self::file) checks.
    async fn path_of(&self, entry: &Entry) -> Result<Option<Path>, LakeError> {
        match entry.file() {
            Some(named) => Ok(Some(named.location())),
            None => {
                let mut paths = self.paths_of(entry.slice).await?.into_iter();
                Ok(paths.find(|path| !entry.supersedes(path)))
            }
        }
    }

    /// Where files of the slice may lie.
    pub(super) async fn paths_of(&self, slice: Slice) -> Result<Vec<Path>, LakeError> {
        match self.form {
            TableForm::Plain => Ok(vec![plain_path(slice)]),
            TableForm::Immutable => {
                let listed = self.store.list(&layout::partition(slice.period)).await?;
                let paths = listed.into_iter().map(|object| object.path);
                Ok(paths
                    .filter(|path| self.slice_of(path) == Some(slice))
                    .collect())
            }
        }
    }

    async fn state(&self, path: Option<&Path>) -> Result<Option<ObjectState>, LakeError> {
        match path {
            Some(path) => Ok(self.store.state(path).await?),
            None => Ok(None),
        }
    }

    /// Looks up the slice's file and does everything about a change that takes long and that
    /// readers cannot see. Dropping the future undoes what it has done.
    pub(super) async fn stage(
        &self,
        entry: &Entry,
        change: TableChange,
    ) -> Result<StagedChange, LakeError> {
        // First of all: later changes are another run's.
        let current = match self.form {
            TableForm::Plain => self.path_of(entry).await?,
            TableForm::Immutable => entry.file().map(PublishedFile::location),
        };
        let before = self.state(current.as_ref()).await?;
        let change = match change {
            TableChange::Keep => TableChange::Keep,
            TableChange::Remove => TableChange::Remove,
            TableChange::Replace(file) => {
                let path = self.form.new_path(entry.slice);
                let replaced = before.as_ref().filter(|before| before.path == path);
                let staged = StagedFile::stage(&*self.store, &path, replaced, file);
                TableChange::Replace(staged.await?)
            }
        };
        Ok(StagedChange {
            slice: entry.slice,
            change,
            current,
            before,
        })
    }

    /// Makes a change visible, all at once, or reports that another run was quicker. Returns the
    /// file that the slice then has. The ledger named `kept` until now.
    pub(super) async fn publish(
        &self,
        lease: &dyn Lease,
        staged: StagedChange,
        kept: Option<PublishedFile>,
    ) -> Result<Option<PublishedFile>, LakeError> {
        let StagedChange {
            slice,
            change,
            current,
            before,
        } = staged;
        match change {
            TableChange::Keep => Ok(kept),
            TableChange::Replace(staged) => Ok(Some(staged.publish(lease).await?)),
            // Readers of older snapshots still need it.
            TableChange::Remove if self.form == TableForm::Immutable => Ok(None),
            TableChange::Remove => {
                // Stores cannot delete on a condition, so check again just before.
                if self.state(current.as_ref()).await? != before {
                    let path = layout::lease(slice);
                    return Err(LakeError::LostLease { path });
                }
                self.remove(lease, slice, &[plain_path(slice)]).await?;
                Ok(None)
            }
        }
    }

    /// Removes these files of the slice.
    pub(super) async fn remove(
        &self,
        lease: &dyn Lease,
        slice: Slice,
        paths: &[Path],
    ) -> Result<(), LakeError> {
        for path in paths {
            must_hold(lease, slice)?;
            self.store.delete(path).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
