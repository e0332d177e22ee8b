//! The contents of a lake: ledger entries, rejects, and files that belong to no slice.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, stream};
use object_store::path::Path;
use serde::Serialize;

use super::ledger::{Entry, State};
use super::{Lake, LakeError, parse};
use crate::cdr::period::PeriodUnit;
use crate::cdr::slice::{Direction, Slice};
use crate::store::{LocalCopy, ObjectState, Version, layout};

/// Concurrent reads of ledger entries, so that years of them take seconds, even in a bucket.
const CONCURRENT_READS: usize = 64;

/// The condition of a ledger entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is valid, or does not exist yet.
    Sound,
    /// It is invalid. The next fetch of its slice replaces it.
    Damaged(String),
    /// A later version of cdrlake wrote it, in this format. It is not changed.
    Newer(u32),
    /// It cannot be read, or is too large. It is not changed.
    Unreadable(String),
}

impl Condition {
    /// Why the entry cannot be used; `None` if it can.
    pub(crate) fn problem(&self) -> Option<String> {
        match self {
            Self::Sound => None,
            Self::Damaged(problem) | Self::Unreadable(problem) => Some(problem.clone()),
            Self::Newer(found) => Some(format!("a newer cdrlake wrote it (format {found})")),
        }
    }
}

/// The state of a slice by its ledger entry. A run's reaction is its
/// [reason](crate::ops::plan::DueReason); a problem with the slice's files is a
/// [fault](crate::ops::verify::Fault).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SliceState {
    /// Complete, and its day had settled.
    Closed,
    /// Complete when fetched, but its day had not settled: it is fetched again.
    Open,
    /// The last attempt failed. It has its earlier content, and is fetched again.
    Failed,
    /// A run crashed during its publication: it is fetched again.
    Interrupted,
    /// Its ledger entry cannot be used, so its state is unknown.
    Damaged,
    /// Never committed.
    Missing,
    /// Removed for its age. It is not fetched again.
    Pruned,
}

/// A ledger entry with its condition and version.
#[derive(Clone, Debug)]
pub struct LedgerEntry {
    /// Its content; empty unless [`Condition::Sound`].
    pub entry: Entry,
    /// Its condition.
    pub condition: Condition,
    /// `None` if it does not exist yet.
    pub(super) version: Option<Version>,
}

impl LedgerEntry {
    /// For a slice without a ledger entry.
    pub fn absent(slice: Slice) -> Self {
        Self {
            entry: Entry::new(slice),
            condition: Condition::Sound,
            version: None,
        }
    }

    /// Whether it does not exist.
    pub(crate) fn is_absent(&self) -> bool {
        self.condition == Condition::Sound && self.version.is_none()
    }

    /// The state of its slice.
    pub fn state(&self) -> SliceState {
        let Entry {
            committed,
            pending,
            failed,
            ..
        } = &self.entry;
        match committed.as_ref().map(|commit| commit.state) {
            _ if self.condition != Condition::Sound => SliceState::Damaged,
            _ if pending.is_some() => SliceState::Interrupted,
            Some(State::Pruned) => SliceState::Pruned,
            _ if failed.is_some() => SliceState::Failed,
            Some(State::Open) => SliceState::Open,
            Some(State::Closed) => SliceState::Closed,
            None => SliceState::Missing,
        }
    }

    /// Whether both are the same version of the entry: it was not written in between.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.version == other.version && self.condition == other.condition
    }

    /// Whether rejects of failed attempts may exist beside the slice's own. They are stored after
    /// the entry.
    pub(super) fn may_have_failed(&self) -> bool {
        let is_known_not_to = self.condition == Condition::Sound
            && self.entry.committed.is_some()
            && self.entry.failed.is_none();
        !is_known_not_to
    }

    /// Whether rejects of the slice may exist. They are stored after the entry announces them.
    pub(super) fn may_have_rejects(&self) -> bool {
        let committed = self.entry.committed.as_ref();
        let is_known_not_to = self.condition == Condition::Sound
            && self.entry.pending.is_none()
            && committed.is_some_and(|commit| commit.rejects.is_none());
        !is_known_not_to
    }
}

impl Lake {
    /// The slice's ledger entry; an empty one if it does not exist, or cannot be used.
    pub async fn entry(&self, slice: Slice) -> LedgerEntry {
        let path = layout::ledger_entry(slice);
        let found = match self.store.read(&path).await {
            Ok(Some(found)) => found,
            Ok(None) => return LedgerEntry::absent(slice),
            Err(error) => {
                return LedgerEntry {
                    condition: Condition::Unreadable(crate::error::chain(&error)),
                    ..LedgerEntry::absent(slice)
                };
            }
        };
        let parsed = parse::<Entry>(&path, &found).and_then(|entry| {
            let problem = if entry.slice == slice {
                entry.contradiction(self.table.form())
            } else {
                Some(format!("it belongs to {}", entry.slice))
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

    /// The slice's ledger entry for replacement; an empty one if it is damaged.
    ///
    /// # Errors
    /// [`LakeError`] if a newer version wrote it, or it cannot be read.
    pub(crate) async fn usable_entry(&self, slice: Slice) -> Result<LedgerEntry, LakeError> {
        let found = self.entry(slice).await;
        let path = layout::ledger_entry(slice);
        match found.condition.clone() {
            Condition::Sound | Condition::Damaged(_) => Ok(found),
            Condition::Newer(found) => Err(LakeError::NewerFormat { path, found }),
            Condition::Unreadable(problem) => Err(LakeError::Unreadable { path, problem }),
        }
    }

    /// Every ledger entry of `directions` whose period has one of `days`. A month that was merged
    /// from days replaces them, even while their entries remain.
    ///
    /// # Errors
    /// [`LakeError`] if the ledger cannot be listed.
    pub(crate) async fn entries(
        &self,
        directions: &[Direction],
        days: std::ops::RangeInclusive<jiff::civil::Date>,
    ) -> Result<HashMap<Slice, LedgerEntry>, LakeError> {
        let mut slices = self.ledger_slices(directions).await?;
        slices.retain(|slice| slice.period.touches(&days));
        let read =
            stream::iter(slices).map(|slice| async move { (slice, self.entry(slice).await) });
        let mut entries: HashMap<Slice, LedgerEntry> =
            read.buffer_unordered(CONCURRENT_READS).collect().await;
        let merged: HashSet<Slice> = entries
            .iter()
            .filter(|(slice, found)| {
                // Whether a month is committed that cannot be read is unknown: it may have them.
                let may_have_days =
                    found.entry.committed.is_some() || found.condition != Condition::Sound;
                slice.period.unit() == PeriodUnit::Month && may_have_days
            })
            .map(|(slice, _)| *slice)
            .collect();
        entries.retain(|slice, _| merged.contains(slice) || !merged.contains(&slice.month()));
        Ok(entries)
    }

    /// The first day in the ledger.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn first_day(
        &self,
        directions: &[Direction],
    ) -> Result<Option<jiff::civil::Date>, LakeError> {
        let slices = self.ledger_slices(directions).await?;
        Ok(slices.iter().map(|slice| slice.period.first_day()).min())
    }

    /// The slices of `directions` that have a ledger entry.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn ledger_slices(
        &self,
        directions: &[Direction],
    ) -> Result<Vec<Slice>, LakeError> {
        let ledgers: Vec<Path> = directions.iter().map(|&of| layout::ledger(of)).collect();
        let lists = ledgers.iter().map(|ledger| self.store.list(ledger));
        let listed = futures::future::try_join_all(lists).await?;
        Ok(listed
            .iter()
            .flatten()
            .filter_map(|object| layout::ledger_slice(&object.path))
            .collect())
    }

    /// All files of rejects.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn rejects(&self) -> Result<HashMap<Path, ObjectState>, LakeError> {
        let listed = self.store.list(&Path::from(layout::REJECTS)).await?;
        Ok(listed
            .into_iter()
            .map(|object| (object.path.clone(), object))
            .collect())
    }

    /// Files in the ledger that belong to no slice.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn foreign_entries(&self) -> Result<Vec<Path>, LakeError> {
        let listed = self.store.list(&Path::from(layout::LEDGER)).await?;
        let paths = listed.into_iter().map(|object| object.path);
        Ok(paths
            .filter(|path| layout::ledger_slice(path).is_none())
            .collect())
    }

    /// Removes a file that belongs to no slice, according to the [`table`](Self::table), the
    /// [ledger](Self::foreign_entries) or the [`rejects`](Self::rejects).
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn remove_foreign(&self, path: &Path) -> Result<(), LakeError> {
        Ok(self.store.delete(path).await?)
    }

    /// The state of the slice's rejects.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn rejects_of(&self, slice: Slice) -> Result<Option<ObjectState>, LakeError> {
        Ok(self.store.state(&layout::rejects_file(slice)).await?)
    }

    /// The state of the rejects of a failed attempt at the slice.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn failed_rejects_of(
        &self,
        slice: Slice,
    ) -> Result<Option<ObjectState>, LakeError> {
        Ok(self
            .store
            .state(&layout::failed_rejects_file(slice))
            .await?)
    }

    /// A file of the lake as a local file; `None` if it does not exist.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn local_copy(&self, path: &Path) -> Result<Option<LocalCopy>, LakeError> {
        Ok(self.store.local_copy(path).await?)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::cdr::digest::Digest;
    use crate::lake::ledger::tests::commit;
    use crate::lake::ledger::{Failure, Pending};

    #[test]
    fn the_state_of_a_slice_is_the_most_severe_that_its_entry_implies() {
        let slice = Slice::of_day(jiff::civil::date(2026, 10, 1), Direction::Placed);
        let mut found = LedgerEntry::absent(slice);
        assert_eq!(found.state(), SliceState::Missing);
        for (state, state_of_slice) in [
            (State::Closed, SliceState::Closed),
            (State::Open, SliceState::Open),
        ] {
            found.entry.committed = Some(commit(None, state));
            assert_eq!(found.state(), state_of_slice);
        }
        found.entry.failed = Some(Failure {
            run: String::new(),
            at: Timestamp::UNIX_EPOCH,
            problem: String::new(),
            reason: None,
        });
        assert_eq!(found.state(), SliceState::Failed);
        found.entry.committed = None;
        assert_eq!(found.state(), SliceState::Failed);
        found.entry.committed = Some(commit(None, State::Pruned));
        assert_eq!(found.state(), SliceState::Pruned);
        found.entry.pending = Some(Pending {
            run: String::new(),
            token: String::new(),
            file: None,
            digest: Digest::default(),
            planned: None,
        });
        assert_eq!(found.state(), SliceState::Interrupted);
        found.condition = Condition::Newer(2);
        assert_eq!(found.state(), SliceState::Damaged);
    }
}
