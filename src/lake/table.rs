//! The table: which file holds a slice, and how another takes its place.
//!
//! Whoever lists, reads, compares, replaces or removes a slice's file asks [`Table`], and assumes
//! nothing of its name. The form that it has is the plain one: each slice has one name, made of the
//! slice alone, and a file takes the place of the one before by taking its name.
//!
//! A form whose files never have a name twice, and whose log says which of them holds a slice now,
//! would have to give:
//!
//! - [`place_of`](Table::place_of): a new name for each file, asked once for each that is staged;
//!   [`layout::slice_of`] then tells of either name whose it is, for leases, what dead processes
//!   left and the warehouses' statements go by names;
//! - [`files`](Table::files), [`file`](Table::file): what its log holds. Files that it no longer
//!   holds are nobody's, but readers do not take them for calls;
//! - [`stage`](Table::stage), [`publish`](Table::publish): the file under its new name first, then
//!   an entry of the log that puts it in the place of what was there before, on the condition that
//!   nobody was quicker;
//! - [`remove`](Table::remove): an entry of the log, too, and the bytes gone.
//!
//! What the ledger keeps of a file, its path included, and [`is_intact`](super::is_intact) do for
//! both. It lies in this room because a table is changed under a slice's lease, and tells of one
//! that was lost as the ledger does.

use std::collections::HashMap;
use std::sync::Arc;

use object_store::path::Path;

use super::LakeError;
use super::file::{PublishedFile, StagedFile};
use super::publish::must_hold;
use crate::cdr::slice::Slice;
use crate::slice_file::writer::SpoolFile;
use crate::store::{LakeStore, Lease, LocalCopy, ObjectState, layout};

/// The files that hold the slices.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    store: Arc<dyn LakeStore>,
}

/// What lies in the table.
#[derive(Debug, Default)]
pub(crate) struct TableFiles {
    /// The file of each slice that has one.
    pub of_slices: HashMap<Slice, ObjectState>,
    /// Files that are no slice's although readers take them for calls.
    pub foreign: Vec<Path>,
}

/// What a publication does to a slice's file. `F` is the file that takes its place, as far on its
/// way as it is.
#[derive(Debug)]
pub(crate) enum TableChange<F = SpoolFile> {
    /// Nothing: only what the ledger says of the slice, or its rejects, has changed.
    Keep,
    /// The slice's file becomes this one.
    Replace(F),
    /// The slice has no rows, and therefore no file.
    Remove,
}

impl From<SpoolFile> for TableChange {
    /// What a finished file does to the table: one without rows is none.
    fn from(file: SpoolFile) -> Self {
        if file.rows == 0 {
            Self::Remove
        } else {
            Self::Replace(file)
        }
    }
}

/// A change of a slice's file, as far on its way as it can be without being seen.
#[derive(Debug)]
pub(super) struct StagedChange {
    slice: Slice,
    change: TableChange<StagedFile>,
    /// The slice's file before.
    pub(super) before: Option<ObjectState>,
}

impl StagedChange {
    /// The file that the slice will have, where the ledger knows of `kept` now. A new one still
    /// lacks the store's mark.
    pub(super) fn planned(&self, kept: Option<&PublishedFile>) -> Option<PublishedFile> {
        match &self.change {
            TableChange::Keep => kept.cloned(),
            TableChange::Replace(staged) => Some(staged.planned.clone()),
            TableChange::Remove => None,
        }
    }

    /// Whether the table will have another file of the slice than before, or none.
    pub(super) fn is_any(&self) -> bool {
        !matches!(self.change, TableChange::Keep)
    }
}

impl Table {
    pub(super) fn new(store: Arc<dyn LakeStore>) -> Self {
        Self { store }
    }

    /// Where a file of the slice lies, or will lie. Who wants one that is there asks
    /// [`file`](Self::file).
    pub(crate) fn place_of(slice: Slice) -> Path {
        layout::table_file(slice)
    }

    /// Every file.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn files(&self) -> Result<TableFiles, LakeError> {
        let mut files = TableFiles::default();
        for object in self.store.list(&Path::from(layout::TABLE)).await? {
            match layout::slice_of(&object.path) {
                Some(slice) => drop(files.of_slices.insert(slice, object)),
                None => files.foreign.push(object.path),
            }
        }
        Ok(files)
    }

    /// The file that holds the slice now; `None` if none does.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn file(&self, slice: Slice) -> Result<Option<ObjectState>, LakeError> {
        Ok(self.store.state(&Self::place_of(slice)).await?)
    }

    /// The file that holds the slice now, where this machine can read it; `None` if none does.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn local_copy(&self, slice: Slice) -> Result<Option<LocalCopy>, LakeError> {
        Ok(self.store.local_copy(&Self::place_of(slice)).await?)
    }

    /// Looks at what is there of the slice, and does everything about a change that takes long and
    /// that nobody sees. Dropping the future takes back what it has done.
    pub(super) async fn stage(
        &self,
        slice: Slice,
        change: TableChange,
    ) -> Result<StagedChange, LakeError> {
        // Before anything else: what has changed since then is another run's.
        let before = self.file(slice).await?;
        let change = match change {
            TableChange::Keep => TableChange::Keep,
            TableChange::Remove => TableChange::Remove,
            TableChange::Replace(file) => {
                let path = Self::place_of(slice);
                let staged = StagedFile::stage(&*self.store, &path, before.as_ref(), file);
                TableChange::Replace(staged.await?)
            }
        };
        Ok(StagedChange {
            slice,
            change,
            before,
        })
    }

    /// Makes a change visible, all at once, or says that another run was quicker. Returns the file
    /// that the slice has then, where the ledger knew of `kept`.
    pub(super) async fn publish(
        &self,
        lease: &dyn Lease,
        staged: StagedChange,
        kept: Option<PublishedFile>,
    ) -> Result<Option<PublishedFile>, LakeError> {
        let StagedChange {
            slice,
            change,
            before,
        } = staged;
        match change {
            TableChange::Keep => Ok(kept),
            TableChange::Replace(staged) => Ok(Some(staged.publish(lease).await?)),
            TableChange::Remove => {
                // No store of ours deletes on a condition: another look is all there is.
                if self.file(slice).await? != before {
                    let path = Self::place_of(slice);
                    return Err(LakeError::LostLease { path });
                }
                self.remove(lease, slice).await?;
                Ok(None)
            }
        }
    }

    /// Removes the slice's file, whatever it is.
    pub(super) async fn remove(&self, lease: &dyn Lease, slice: Slice) -> Result<(), LakeError> {
        must_hold(lease, slice)?;
        Ok(self.store.delete(&Self::place_of(slice)).await?)
    }
}
