//! How a slice becomes visible: its files are staged, announced in its ledger entry, moved into the
//! table, and committed in the entry.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use object_store::path::Path;

use super::file::{PublishedFile, StagedFile};
use super::identity::FORMAT;
use super::ledger::{Commit, Entry, Failure, Pending, State, Superseded};
use super::runs::RunMark;
use super::table::{StagedChange, TableChange, TableForm};
use super::{Condition, Lake, LakeError, LedgerEntry, is_intact, json};
use crate::cdr::period::PeriodUnit;
use crate::cdr::slice::{Direction, Slice};
use crate::privacy::Privacy;
use crate::slice_file::writer::SpoolFile;
use crate::store::{Lease, Swap, Version, layout};

/// Days that are removed at the same time.
const CONCURRENT_REMOVALS: usize = 16;

/// Days, by their month.
pub(crate) type DaysOfMonths = BTreeMap<Slice, BTreeSet<Slice>>;

/// A prepared publication: everything that takes long and is not visible yet. Dropping it undoes
/// it.
#[derive(Debug)]
pub(crate) struct StagedSlice {
    table: StagedChange,
    /// `None` if the slice has no rejects.
    rejects: Option<StagedFile>,
    keeps_failure: bool,
    /// Whether the lake has nothing of the slice, not even rejects.
    is_new: bool,
}

/// Which files of rejects may exist already.
#[derive(Clone, Copy, Debug)]
struct OldRejects {
    of_slice: bool,
    of_failure: bool,
}

impl StagedSlice {
    /// The same, but the entry keeps a failure of the last attempt at the slice.
    #[must_use]
    pub(crate) fn keeping_failure(self) -> Self {
        Self {
            keeps_failure: true,
            ..self
        }
    }

    /// The same of a slice of which the lake has nothing, not even rejects.
    #[must_use]
    pub(crate) fn of_new_slice(self) -> Self {
        Self {
            is_new: true,
            ..self
        }
    }

    /// Whether the slice had a file when this was staged.
    pub(crate) fn had_file(&self) -> bool {
        self.table.before.is_some()
    }
}

impl Lake {
    /// Looks up the slice's files and prepares a publication: everything that takes long and is not
    /// visible yet. Dropping the future undoes it.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails. The table is then unchanged.
    pub(crate) async fn stage(
        &self,
        entry: &Entry,
        change: TableChange,
        rejects: Option<SpoolFile>,
    ) -> Result<StagedSlice, LakeError> {
        let table = self.table.stage(entry, change).await?;
        let rejects = match rejects {
            Some(file) => {
                let path = layout::rejects_file(entry.slice);
                Some(self.stage_rejects(path, file).await?)
            }
            None => None,
        };
        Ok(StagedSlice {
            table,
            rejects,
            keeps_failure: false,
            is_new: false,
        })
    }

    async fn stage_rejects(&self, path: Path, file: SpoolFile) -> Result<StagedFile, LakeError> {
        let before = self.store.state(&path).await?;
        StagedFile::stage(&*self.store, &path, before.as_ref(), file).await
    }

    /// Stores the rejects of a slice that is being committed, or removes the old ones if there are
    /// no new ones. Also removes the rejects of a failed attempt. Done while the entry is pending,
    /// so that the next run repairs a crash here.
    async fn put_rejects(
        &self,
        lease: &dyn Lease,
        slice: Slice,
        rejects: Option<StagedFile>,
        old: OldRejects,
    ) -> Result<Option<PublishedFile>, LakeError> {
        let mut stored = None;
        if let Some(staged) = rejects {
            stored = Some(staged.publish(lease).await?);
        } else if old.of_slice {
            must_hold(lease, slice)?;
            self.store.delete(&layout::rejects_file(slice)).await?;
        }
        if old.of_failure {
            must_hold(lease, slice)?;
            self.store
                .delete(&layout::failed_rejects_file(slice))
                .await?;
        }
        Ok(stored)
    }

    /// Publishes a [staged](Self::stage) slice: announces it in the entry, stores the rejects,
    /// changes the table, commits. `commit` contains everything but its files. If the run crashes
    /// in between, the entry stays pending, and the next run fetches the slice again. Refuses a
    /// slice if a number was erased since `privacy` was read. An erasure first adds the number to
    /// the list and then reads the ledger; this first announces the slice in the ledger and then
    /// reads the list. So one of them sees the other.
    ///
    /// The run is marked before anything is written.
    ///
    /// # Errors
    /// [`LakeError::LostLease`] if the entry differs from `before`, the `lease` is lost,
    /// or the table has changed meanwhile; [`LakeError::Unmarked`]; errors of the store. The table
    /// is then unchanged. [`LakeError::NotRecorded`] if the table may have changed, but the ledger
    /// entry was not updated.
    pub(crate) async fn publish(
        &self,
        mark: &RunMark,
        lease: &dyn Lease,
        before: LedgerEntry,
        staged: StagedSlice,
        mut commit: Commit,
        privacy: &Privacy,
    ) -> Result<Entry, LakeError> {
        let may_have_failed = before.may_have_failed() && !staged.keeps_failure && !staged.is_new;
        let may_have_rejects = before.may_have_rejects() && !staged.is_new;
        let LedgerEntry {
            mut entry,
            version,
            condition,
        } = before;
        let StagedSlice {
            table,
            rejects,
            keeps_failure,
            ..
        } = staged;
        let slice = entry.slice;
        let kept = entry.committed.as_ref().and_then(|kept| kept.file.clone());
        let file = table.planned(kept.as_ref());
        // A crashed run may have written the file that it announced.
        let announced = entry.pending.take().and_then(|pending| pending.file);
        if self.table.form() == TableForm::Immutable {
            entry.supersede(announced.as_ref());
            if condition != Condition::Sound {
                // The damaged entry named some of these.
                for path in self.table.unnamed_files(&entry).await? {
                    entry.supersede_path(path.as_ref());
                }
            }
        }
        entry.pending = Some(Pending {
            run: commit.run.clone(),
            token: commit.token.clone(),
            digest: commit.digest,
            planned: Some(Box::new(Commit {
                file: file.clone(),
                rejects: rejects.as_ref().map(|staged| staged.planned.clone()),
                ..commit.clone()
            })),
            file,
        });
        mark.ensure_held().await?;
        must_hold(lease, slice)?;
        let version = self.swap(&entry, version.as_ref()).await?;
        // A run that declares this one crashed from now on sees the announcement. If one did so
        // before, this one must be marked again.
        mark.ensure().await?;
        self.must_know_all_erased(privacy).await?;
        let old = OldRejects {
            of_slice: may_have_rejects,
            of_failure: may_have_failed,
        };
        commit.rejects = self.put_rejects(lease, slice, rejects, old).await?;
        // From here on the table may have changed despite an error, unless the store refused.
        let not_recorded = |source: LakeError| LakeError::NotRecorded {
            slice,
            source: Box::new(source),
        };
        let changes_table = table.is_any();
        let published = self.table.publish(lease, table, kept.clone()).await;
        commit.file = published.map_err(|source| match source {
            LakeError::LostLease { .. } => source,
            LakeError::Store(ref error) if error.is_refusal() => source,
            source => not_recorded(source),
        })?;
        entry.committed = Some(commit);
        entry.pending = None;
        if !keeps_failure {
            entry.failed = None;
        }
        if self.table.form() == TableForm::Immutable {
            entry.supersede(kept.as_ref());
        }
        let swapped = self.swap(&entry, Some(&version)).await;
        if let (Err(LakeError::LostLease { .. }), Some(file)) = (&swapped, entry.file()) {
            self.remove_if_unnamed(slice, file).await;
        }
        swapped.map_err(|source| match source {
            LakeError::LostLease { .. } if !changes_table => source,
            source => not_recorded(source),
        })?;
        mark.ensure_after().await;
        Ok(entry)
    }

    /// Removes the file of a publication that came too late, so that it is not left in the table: a
    /// number may have been erased meanwhile. Best effort, because garbage collection does the
    /// same.
    async fn remove_if_unnamed(&self, slice: Slice, file: &PublishedFile) {
        if self.table.form() == TableForm::Plain {
            return;
        }
        let now = self.entry(slice).await;
        let path = file.location();
        if now.condition == Condition::Sound && !now.entry.names(&path) {
            drop(self.store.delete(&path).await);
        }
    }

    /// Records a failed attempt at the slice, so that the slice is due until one succeeds. Stores
    /// the rejects of the attempt beside the slice's own. Does not write an entry that repeats the
    /// last failure.
    ///
    /// # Errors
    /// [`LakeError`] as for [`publish`](Self::publish).
    pub(crate) async fn fail(
        &self,
        mark: &RunMark,
        lease: &dyn Lease,
        before: LedgerEntry,
        failure: Failure,
        rejects: Option<SpoolFile>,
        privacy: &Privacy,
    ) -> Result<(), LakeError> {
        let slice = before.entry.slice;
        let path = layout::failed_rejects_file(slice);
        let known = before.entry.failed.as_ref();
        let content = |failure: &Failure| (failure.problem.clone(), failure.reason);
        if known.is_none_or(|known| content(known) != content(&failure)) {
            let entry = Entry {
                failed: Some(failure),
                ..before.entry
            };
            mark.ensure().await?;
            must_hold(lease, slice)?;
            self.swap(&entry, before.version.as_ref()).await?;
        }
        if let Some(rejects) = rejects {
            mark.ensure().await?;
            self.must_know_all_erased(privacy).await?;
            let staged = self.stage_rejects(path, rejects).await?;
            staged.publish(lease).await?;
        }
        Ok(())
    }

    /// Removes the rejects of a failed attempt at the slice, or the slice's own.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, the lease is lost, or the run cannot be marked.
    pub(crate) async fn remove_rejects(
        &self,
        mark: &RunMark,
        lease: &dyn Lease,
        slice: Slice,
        of_failure: bool,
    ) -> Result<(), LakeError> {
        let path = if of_failure {
            layout::failed_rejects_file(slice)
        } else {
            layout::rejects_file(slice)
        };
        mark.ensure().await?;
        must_hold(lease, slice)?;
        Ok(self.store.delete(&path).await?)
    }

    /// Removes the files of a slice. The entry is changed first: after a crash in between, the
    /// slice is pruned, no run fetches it again, and `verify` finds the files. Files that a log
    /// contains are only superseded: [`remove_replaced`](Self::remove_replaced) removes them
    /// once the logs have changed.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, the lease is lost, or the run cannot be marked.
    pub(crate) async fn prune(
        &self,
        mark: &RunMark,
        lease: &dyn Lease,
        before: LedgerEntry,
    ) -> Result<Commit, LakeError> {
        let slice = before.entry.slice;
        mark.ensure().await?;
        let commit = match before.entry.committed {
            Some(commit) if commit.state == State::Pruned => commit,
            committed => {
                let old = committed.as_ref().and_then(|commit| commit.file.clone());
                let announced = before.entry.pending.and_then(|pending| pending.file);
                let commit = Commit::pruned(committed, mark.run());
                let mut entry = Entry {
                    committed: Some(commit.clone()),
                    superseded: before.entry.superseded,
                    ..Entry::new(slice)
                };
                if self.table.form() == TableForm::Immutable {
                    entry.supersede(old.as_ref());
                    entry.supersede(announced.as_ref());
                }
                must_hold(lease, slice)?;
                self.swap(&entry, before.version.as_ref()).await?;
                commit
            }
        };
        if self.table.form() == TableForm::Plain {
            let path = TableForm::Plain.new_path(slice);
            self.table.remove(lease, slice, &[path]).await?;
        }
        let rejects = [
            layout::rejects_file(slice),
            layout::failed_rejects_file(slice),
        ];
        for path in rejects {
            must_hold(lease, slice)?;
            self.store.delete(&path).await?;
        }
        mark.ensure_after().await;
        Ok(commit)
    }

    /// Removes everything that the lake has of `days` whose month holds their rows, under the lease
    /// of the month. They never come back, so that even a process that was declared dead may do
    /// this.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, or the lease is lost.
    pub(crate) async fn remove_merged(
        &self,
        lease: &dyn Lease,
        days: impl IntoIterator<Item = Slice>,
    ) -> Result<(), LakeError> {
        let removals = days.into_iter().map(|day| self.remove_day(lease, day));
        stream::iter(removals)
            .buffer_unordered(CONCURRENT_REMOVALS)
            .try_collect()
            .await
    }

    /// The entry goes last: after a crash in between, this is repeated.
    async fn remove_day(&self, lease: &dyn Lease, day: Slice) -> Result<(), LakeError> {
        let files = self.table.paths_of(day).await?;
        self.table.remove(lease, day, &files).await?;
        let rest = [
            layout::rejects_file(day),
            layout::failed_rejects_file(day),
            layout::ledger_entry(day),
        ];
        for path in rest {
            must_hold(lease, day)?;
            self.store.delete(&path).await?;
        }
        Ok(())
    }

    /// The days that a lake of months has in its ledger or its table, by month: a conversion left
    /// them because a log named their files.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn days_of_months(&self) -> Result<DaysOfMonths, LakeError> {
        let mut days = DaysOfMonths::new();
        if self.identity.period_unit() == PeriodUnit::Month {
            let ledger = self.ledger_slices(&Direction::ALL).await?.into_iter();
            let table = self.table.files().await?;
            for slice in ledger.chain(table.slices()) {
                if slice.period.unit() == PeriodUnit::Day {
                    days.entry(slice.month()).or_default().insert(slice);
                }
            }
        }
        Ok(days)
    }

    /// Removes [these days](Self::days_of_months), which no log may name now. Returns whether all
    /// are removed: not if a run works on their month, or the ledger lacks it.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn remove_days_of_months(
        &self,
        days: DaysOfMonths,
    ) -> Result<bool, LakeError> {
        let mut is_complete = true;
        for (month, days) in days {
            let lease = self.try_lease(month).await?;
            let found = self.usable_entry(month).await?;
            match lease.filter(|_| found.entry.committed.is_some()) {
                Some(lease) => self.remove_merged(&*lease, days).await?,
                None => is_complete = false,
            }
        }
        Ok(is_complete)
    }

    /// Slices with files that were replaced before `limit`, or that their entry does not name. Of a
    /// slice without a commit, a file may be the last copy.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn slices_with_replaced(
        &self,
        limit: Timestamp,
    ) -> Result<Vec<Slice>, LakeError> {
        let files = self.table.files().await?;
        let has_replaced = |(_, entry): &(Slice, Entry)| {
            let has_unnamed = entry.committed.is_some() && files.has_unnamed(entry);
            has_unnamed || entry.superseded.iter().any(|it| it.since <= limit)
        };
        let entries = self.all_entries().await?.filter(has_replaced);
        let mut slices: Vec<Slice> = entries.map(|(slice, _)| slice).collect();
        slices.sort_unstable();
        Ok(slices)
    }

    /// Removes files of the slice that were replaced before `limit` and that no log makes
    /// `reachable`, and returns them. With `unnamed` also those that its entry does not name. The
    /// files go first: after a crash in between, this is repeated.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, the entry cannot be used, or the lease is lost.
    pub(crate) async fn remove_replaced(
        &self,
        lease: &dyn Lease,
        slice: Slice,
        limit: Timestamp,
        reachable: &BTreeSet<String>,
        unnamed: bool,
    ) -> Result<Vec<Path>, LakeError> {
        let found = self.usable_entry(slice).await?;
        let mut removed = Vec::new();
        // Without the file that it names, another one may be the last copy of the slice.
        let current = self.table.file(&found.entry).await?;
        let is_whole = is_intact(found.entry.file(), current.as_ref());
        if unnamed && found.entry.committed.is_some() && is_whole {
            removed = self.table.unnamed_files(&found.entry).await?;
            removed.retain(|path| !reachable.contains(path.as_ref()));
            self.table.remove(lease, slice, &removed).await?;
        }
        let mut entry = found.entry;
        let is_due = |it: &Superseded| it.since <= limit && !reachable.contains(&it.path);
        let (due, kept): (Vec<_>, Vec<_>) = entry.superseded.into_iter().partition(is_due);
        if due.is_empty() {
            return Ok(removed);
        }
        entry.superseded = kept;
        let due: Vec<Path> = due.iter().map(|it| Path::from(&*it.path)).collect();
        self.table.remove(lease, slice, &due).await?;
        must_hold(lease, slice)?;
        self.swap(&entry, found.version.as_ref()).await?;
        removed.extend(due);
        Ok(removed)
    }

    async fn swap(&self, entry: &Entry, expected: Option<&Version>) -> Result<Version, LakeError> {
        let path = layout::ledger_entry(entry.slice);
        // An entry of an earlier format gets the current one.
        let entry = json(&Entry {
            format: FORMAT,
            ..entry.clone()
        });
        let swap = match expected {
            None => self.store.create(&path, entry).await?,
            Some(version) => self.store.replace(&path, entry, version).await?,
        };
        match swap {
            Swap::Done(version) => Ok(version),
            Swap::Refused => Err(LakeError::LostLease { path }),
        }
    }
}

/// The last check of the lease before an unconditional write.
pub(super) fn must_hold(lease: &dyn Lease, slice: Slice) -> Result<(), LakeError> {
    if lease.is_held() {
        Ok(())
    } else {
        Err(LakeError::LostLease {
            path: layout::lease(slice),
        })
    }
}
