//! How a slice becomes visible, all at once: its files are staged, announced in its ledger entry,
//! moved into the table, and committed there.

use object_store::path::Path;

use super::file::{PublishedFile, StagedFile};
use super::identity::FORMAT;
use super::ledger::{Commit, Entry, Failure, Pending, State};
use super::runs::RunMark;
use super::table::{StagedChange, TableChange};
use super::{Lake, LakeError, LedgerEntry, json};
use crate::cdr::slice::Slice;
use crate::privacy::Privacy;
use crate::slice_file::writer::SpoolFile;
use crate::store::{Lease, Swap, Version, layout};

/// A publication of which everything is done that takes long and that nobody sees. Dropping it
/// takes it back.
#[derive(Debug)]
pub(crate) struct StagedSlice {
    table: StagedChange,
    /// `None` if the slice has no rejects.
    rejects: Option<StagedFile>,
    keeps_failure: bool,
}

impl StagedSlice {
    /// The same, which says nothing of the last attempt at the slice: if that failed, it has failed
    /// nevertheless.
    #[must_use]
    pub(crate) fn keeping_failure(self) -> Self {
        Self {
            keeps_failure: true,
            ..self
        }
    }

    /// Whether the table held a file of the slice when this was staged.
    pub(crate) fn had_file(&self) -> bool {
        self.table.before.is_some()
    }
}

impl Lake {
    /// Looks at what is there of a slice and does everything about its publication that takes long
    /// and that nobody sees. Dropping the future takes back what it has done.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails; the table is then as it was.
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
        })
    }

    async fn stage_rejects(&self, path: Path, file: SpoolFile) -> Result<StagedFile, LakeError> {
        let before = self.store.state(&path).await?;
        StagedFile::stage(&*self.store, &path, before.as_ref(), file).await
    }

    /// Stores the rejects of a slice that is being committed, or removes the old ones if there are
    /// none any more; what an attempt that failed had kept goes too. While the entry is still due,
    /// so that a run that dies here is mended by the next.
    async fn put_rejects(
        &self,
        lease: &dyn Lease,
        slice: Slice,
        rejects: Option<StagedFile>,
        may_have_failed: bool,
    ) -> Result<Option<PublishedFile>, LakeError> {
        let stored = if let Some(staged) = rejects {
            Some(staged.publish(lease).await?)
        } else {
            must_hold(lease, slice)?;
            self.store.delete(&layout::rejects_file(slice)).await?;
            None
        };
        if may_have_failed {
            must_hold(lease, slice)?;
            self.store
                .delete(&layout::failed_rejects_file(slice))
                .await?;
        }
        Ok(stored)
    }

    /// Publishes a slice that was [staged](Self::stage): intend, store the rejects, change the
    /// table, commit. What was fetched is published only if no number was erased since `privacy`
    /// was read: whoever erases one adds it to the list before it looks at the ledger, and this
    /// announces the slice there before it looks at the list, so that one of them sees the other.
    /// `commit` comes with everything but its files. A run that dies anywhere in between leaves the
    /// `pending` part, by which the next run finds the slice and mends it.
    ///
    /// The `mark` is that of the run, which others can see before anything is written.
    ///
    /// # Errors
    /// [`LakeError::LostLease`] if the entry is no longer what `before` says, the `lease` is gone
    /// or somebody changed the table meanwhile, [`LakeError::Unmarked`], and the store's; the table
    /// is then as it was. [`LakeError::NotRecorded`] if the table may have changed, but the ledger
    /// could not be told.
    pub(crate) async fn publish(
        &self,
        mark: &RunMark,
        lease: &dyn Lease,
        before: LedgerEntry,
        staged: StagedSlice,
        mut commit: Commit,
        privacy: &Privacy,
    ) -> Result<Entry, LakeError> {
        let may_have_failed = before.may_have_failed() && !staged.keeps_failure;
        let LedgerEntry {
            mut entry, version, ..
        } = before;
        let StagedSlice {
            table,
            rejects,
            keeps_failure,
        } = staged;
        let slice = entry.slice;
        let kept = entry.committed.as_ref().and_then(|kept| kept.file.clone());
        let file = table.planned(kept.as_ref());
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
        mark.ensure().await?;
        must_hold(lease, slice)?;
        let version = self.swap(&entry, version.as_ref()).await?;
        // Whoever takes the run for dead from now on sees what it has announced; who did before,
        // did not.
        mark.ensure().await?;
        self.must_know_all_erased(privacy).await?;
        commit.rejects = self
            .put_rejects(lease, slice, rejects, may_have_failed)
            .await?;
        // From here on the table may have changed, whatever goes wrong, unless the store refused.
        let not_recorded = |source: LakeError| LakeError::NotRecorded {
            slice,
            source: Box::new(source),
        };
        let changes_table = table.is_any();
        let published = self.table.publish(lease, table, kept).await;
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
        self.swap(&entry, Some(&version))
            .await
            .map_err(|source| match source {
                LakeError::LostLease { .. } if !changes_table => source,
                source => not_recorded(source),
            })?;
        if let Some(file) = entry.file()
            && let Err(error) = self.table.remove(lease, slice, Some(file)).await
        {
            tracing::warn!(
                "{slice}: the replaced file was not removed: {}. Run `cdrlake verify --repair`.",
                crate::error::chain(&error)
            );
        }
        mark.ensure_after().await;
        Ok(entry)
    }

    /// Records that an attempt at the slice failed, so that it is due until one succeeds, and keeps
    /// the rejects of that attempt beside those of the slice as it is in the lake. Writes no entry
    /// that says what the last one said.
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
        let says = |failure: &Failure| (failure.problem.clone(), failure.reason);
        if known.is_none_or(|known| says(known) != says(&failure)) {
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

    /// Removes the rejects of an attempt at the slice that failed, or those of the slice itself.
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

    /// Removes everything that the lake holds of a slice. The ledger says so first: whoever dies in
    /// between leaves files of a slice that is pruned, which no run fetches again and `verify`
    /// finds.
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
                let commit = Commit::pruned(committed, mark.run());
                let entry = Entry {
                    committed: Some(commit.clone()),
                    ..Entry::new(slice)
                };
                must_hold(lease, slice)?;
                self.swap(&entry, before.version.as_ref()).await?;
                commit
            }
        };
        self.table.remove(lease, slice, None).await?;
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

    async fn swap(&self, entry: &Entry, expected: Option<&Version>) -> Result<Version, LakeError> {
        let path = layout::ledger_entry(entry.slice);
        // What an earlier version wrote becomes what this one writes.
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

/// The last look before something is written that no condition protects.
pub(super) fn must_hold(lease: &dyn Lease, slice: Slice) -> Result<(), LakeError> {
    if lease.is_held() {
        Ok(())
    } else {
        Err(LakeError::LostLease {
            path: layout::lease(slice),
        })
    }
}
