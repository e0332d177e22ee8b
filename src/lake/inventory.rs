//! What is in a lake: ledger entries, files of the table, rejects, and what belongs to no slice.

use std::collections::HashMap;

use futures::{StreamExt, stream};
use object_store::path::Path;

use super::ledger::Entry;
use super::{Lake, LakeError, Newer, parse};
use crate::cdr::columns::SCHEMA_VERSION;
use crate::cdr::slice::{Direction, Slice};
use crate::store::{LocalCopy, ObjectState, Version, layout};

/// Ledger entries read at the same time: years of them in seconds, even on a slow disk or
/// in a bucket.
const CONCURRENT_READS: usize = 64;

/// Whether a ledger entry can be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is as this program writes it, or is not there yet.
    Sound,
    /// It is cut, edited or something else. The next fetch of its slice replaces it.
    Damaged(String),
    /// A later version of this program wrote it: it is left alone.
    Newer(Newer),
    /// The file system does not let it be read, or it is far too large: it is left alone.
    Unreadable(String),
}

/// A ledger entry and the version to replace.
#[derive(Clone, Debug)]
pub struct LedgerEntry {
    /// What it says; nothing if it is not [`Condition::Sound`].
    pub entry: Entry,
    /// Whether it says anything.
    pub condition: Condition,
    /// `None` if it does not exist yet.
    pub(super) version: Option<Version>,
}

impl LedgerEntry {
    /// What is known of a slice that has no ledger entry.
    pub fn absent(slice: Slice) -> Self {
        Self {
            entry: Entry::new(slice),
            condition: Condition::Sound,
            version: None,
        }
    }

    /// Whether both are the same state of the entry: nobody has written it in between.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.version == other.version && self.condition == other.condition
    }

    /// Whether rejects of attempts that failed may lie beside the slice's own.
    pub(super) fn may_have_failed(&self) -> bool {
        let is_known_not_to = self.condition == Condition::Sound
            && self.entry.committed.is_some()
            && self.entry.failed.is_none();
        !is_known_not_to
    }
}

impl Lake {
    /// The slice's ledger entry; an empty one if there is none, or none that can be relied on.
    pub async fn entry(&self, slice: Slice) -> LedgerEntry {
        let found = match self.store.read(&layout::ledger_entry(slice)).await {
            Ok(Some(found)) => found,
            Ok(None) => return LedgerEntry::absent(slice),
            Err(error) => {
                return LedgerEntry {
                    condition: Condition::Unreadable(crate::error::chain(&error)),
                    ..LedgerEntry::absent(slice)
                };
            }
        };
        let parsed = parse::<Entry>(&found).and_then(|entry| {
            // Replaced by this version, its file would lose what it does not know.
            let committed = entry.committed.as_ref();
            if let Some(version) = committed.map(|commit| commit.schema_version)
                && version > SCHEMA_VERSION
            {
                return Err(Condition::Newer(Newer::Columns(version)));
            }
            let problem = if entry.slice == slice {
                entry.contradiction()
            } else {
                Some(format!("it speaks of {}", entry.slice))
            };
            problem.map_or(Ok(entry), |problem| Err(Condition::Damaged(problem)))
        });
        let (entry, condition) = match parsed {
            Ok(entry) => (entry, Condition::Sound),
            Err(condition) => (Entry::new(slice), condition),
        };
        LedgerEntry {
            entry,
            condition,
            version: Some(found.version),
        }
    }

    /// The slice's ledger entry, where it may be replaced: an empty one in place of one that is damaged.
    ///
    /// # Errors
    /// [`LakeError`] if a newer version wrote it, or it cannot be read.
    pub async fn usable_entry(&self, slice: Slice) -> Result<LedgerEntry, LakeError> {
        let found = self.entry(slice).await;
        let path = layout::ledger_entry(slice);
        match found.condition.clone() {
            Condition::Sound | Condition::Damaged(_) => Ok(found),
            Condition::Newer(found) => Err(LakeError::NewerFormat { path, found }),
            Condition::Unreadable(problem) => Err(LakeError::Unreadable { path, problem }),
        }
    }

    /// Every ledger entry of `directions` whose day lies within `days`.
    ///
    /// # Errors
    /// [`LakeError`] if the ledger cannot be listed.
    pub async fn entries(
        &self,
        directions: &[Direction],
        days: std::ops::RangeInclusive<jiff::civil::Date>,
    ) -> Result<HashMap<Slice, LedgerEntry>, LakeError> {
        let mut slices = self.ledger_slices(directions).await?;
        slices.retain(|slice| days.contains(&slice.day));
        let read =
            stream::iter(slices).map(|slice| async move { (slice, self.entry(slice).await) });
        Ok(read.buffer_unordered(CONCURRENT_READS).collect().await)
    }

    /// The first day that the ledger knows of.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn first_day(
        &self,
        directions: &[Direction],
    ) -> Result<Option<jiff::civil::Date>, LakeError> {
        let slices = self.ledger_slices(directions).await?;
        Ok(slices.iter().map(|slice| slice.day).min())
    }

    /// The slices of `directions` that have a ledger entry.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn ledger_slices(&self, directions: &[Direction]) -> Result<Vec<Slice>, LakeError> {
        let ledgers: Vec<Path> = directions.iter().map(|&of| layout::ledger(of)).collect();
        let lists = ledgers.iter().map(|ledger| self.store.list(ledger));
        let listed = futures::future::try_join_all(lists).await?;
        Ok(listed
            .iter()
            .flatten()
            .filter_map(|object| layout::ledger_slice(&object.path))
            .collect())
    }

    /// The table's files by slice. Files that belong to no slice are left out.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn table(&self) -> Result<HashMap<Slice, ObjectState>, LakeError> {
        Ok(self.table_and_foreign_files().await?.0)
    }

    /// The table's files by slice, and those that are no slice's although readers take them for
    /// calls.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn table_and_foreign_files(
        &self,
    ) -> Result<(HashMap<Slice, ObjectState>, Vec<Path>), LakeError> {
        let (mut table, mut foreign) = (HashMap::new(), Vec::new());
        for object in self.store.list(&Path::from(layout::TABLE)).await? {
            match layout::slice_of(&object.path) {
                Some(slice) => drop(table.insert(slice, object)),
                None => foreign.push(object.path),
            }
        }
        Ok((table, foreign))
    }

    /// Every rejects file, of whatever slice.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn rejects(&self) -> Result<HashMap<Path, ObjectState>, LakeError> {
        let listed = self.store.list(&Path::from(layout::REJECTS)).await?;
        Ok(listed
            .into_iter()
            .map(|object| (object.path.clone(), object))
            .collect())
    }

    /// Files of the table and of the ledger that are no slice's.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn foreign_files(&self) -> Result<Vec<Path>, LakeError> {
        let (_, mut foreign) = self.table_and_foreign_files().await?;
        let ledger = self
            .store
            .list(&Path::from(layout::LEDGER))
            .await?
            .into_iter();
        let ledger = ledger.map(|object| object.path);
        foreign.extend(ledger.filter(|path| layout::ledger_slice(path).is_none()));
        Ok(foreign)
    }

    /// Removes a file that [`foreign_files`](Self::foreign_files) or a look at the
    /// [`rejects`](Self::rejects) has shown to be no slice's.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn remove_foreign(&self, path: &Path) -> Result<(), LakeError> {
        Ok(self.store.delete(path).await?)
    }

    /// The slice's file as it lies in the table.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn table_file(&self, slice: Slice) -> Result<Option<ObjectState>, LakeError> {
        Ok(self.store.state(&layout::table_file(slice)).await?)
    }

    /// The slice's rejects as they lie in the lake.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn rejects_of(&self, slice: Slice) -> Result<Option<ObjectState>, LakeError> {
        Ok(self.store.state(&layout::rejects_file(slice)).await?)
    }

    /// The rejects of an attempt at the slice that failed, as they lie in the lake.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn failed_rejects_of(&self, slice: Slice) -> Result<Option<ObjectState>, LakeError> {
        Ok(self
            .store
            .state(&layout::failed_rejects_file(slice))
            .await?)
    }

    /// A file of the lake, where this machine can read it; `None` if there is none.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn local_copy(&self, path: &Path) -> Result<Option<LocalCopy>, LakeError> {
        Ok(self.store.local_copy(path).await?)
    }
}

/// Whether an object still is the upload of this size and etag; with `None`, whether there is none.
pub fn is_intact(expected: Option<(u64, Option<&str>)>, found: Option<&ObjectState>) -> bool {
    expected == found.map(|found| (found.size_bytes, found.etag.as_deref()))
}
