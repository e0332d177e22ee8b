//! How a slice becomes visible, all at once: its files are staged, announced in its ledger entry, moved into
//! the table, and committed there.

use object_store::path::Path;
use tempfile::TempPath;

use super::ledger::{Commit, Entry, Failure, Pending, PublishedFile, RejectsFile, State};
use super::runs::RunMark;
use super::{Lake, LakeError, LedgerEntry, json};
use crate::cdr::slice::Slice;
use crate::privacy::Privacy;
use crate::slice_file::writer::SpoolFile;
use crate::store::{Lease, ObjectState, Staged, Swap, Version, layout};

/// What a publication does to the table.
#[derive(Debug)]
pub enum TableChange {
    /// Nothing: only what the ledger says of the slice, or its rejects, has changed.
    Keep,
    /// The slice's file becomes this one of the spool.
    Replace(TempPath, PublishedFile),
    /// The slice has no rows, and therefore no file.
    Remove,
}

impl TableChange {
    /// What a finished file of the spool does to the table: one without rows is none.
    pub fn of(slice: Slice, file: SpoolFile) -> Self {
        if file.rows == 0 {
            return Self::Remove;
        }
        let published = PublishedFile {
            path: layout::table_file(slice).to_string(),
            rows: file.rows,
            bytes: file.bytes,
            checksum: file.checksum,
            etag: None,
        };
        Self::Replace(file.path, published)
    }
}

/// A publication of which everything is done that takes long and that nobody sees. Dropping it takes
/// it back.
#[derive(Debug)]
pub struct StagedSlice {
    change: StagedChange,
    /// The slice's file in the table before.
    table_before: Option<ObjectState>,
    rejects: Option<(Box<dyn Staged>, RejectsFile)>,
    rejects_before: Option<ObjectState>,
    keeps_failure: bool,
}

impl StagedSlice {
    /// The same, which says nothing of the last attempt at the slice: if that failed, it has failed nevertheless.
    #[must_use]
    pub fn keeping_failure(self) -> Self {
        Self {
            keeps_failure: true,
            ..self
        }
    }

    /// Whether the table holds a file of the slice.
    pub fn has_table_file(&self) -> bool {
        self.table_before.is_some()
    }
}

#[derive(Debug)]
enum StagedChange {
    Keep,
    Replace(Box<dyn Staged>, PublishedFile),
    Remove,
}

impl Lake {
    /// Looks at what is there of a slice and does everything about its publication that takes long
    /// and that nobody sees. Dropping the future takes back what it has done.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails; the table is then as it was.
    pub async fn stage(
        &self,
        slice: Slice,
        change: TableChange,
        rejects: Option<(TempPath, RejectsFile)>,
    ) -> Result<StagedSlice, LakeError> {
        let path = layout::table_file(slice);
        // Before anything else: what has changed since then is another run's.
        let table_before = self.store.state(&path).await?;
        let change = match change {
            TableChange::Keep => StagedChange::Keep,
            TableChange::Replace(file, planned) => {
                StagedChange::Replace(self.store.stage(&path, file).await?, planned)
            }
            TableChange::Remove => StagedChange::Remove,
        };
        let path = layout::rejects_file(slice);
        let (mut rejects_before, mut staged) = (None, None);
        if let Some((file, planned)) = rejects {
            rejects_before = self.store.state(&path).await?;
            staged = Some((self.store.stage(&path, file).await?, planned));
        }
        Ok(StagedSlice {
            change,
            table_before,
            rejects: staged,
            rejects_before,
            keeps_failure: false,
        })
    }

    /// Stores the rejects of a slice that is being committed, or removes the old ones if there are
    /// none any more; what an attempt that failed had kept goes too. While the entry is still due,
    /// so that a run that dies here is mended by the next.
    async fn put_rejects(
        &self,
        lease: &dyn Lease,
        slice: Slice,
        rejects: Option<(Box<dyn Staged>, RejectsFile)>,
        before: Option<&ObjectState>,
        may_have_failed: bool,
    ) -> Result<Option<RejectsFile>, LakeError> {
        let path = layout::rejects_file(slice);
        let stored = if let Some((staged, planned)) = rejects {
            let state = publish_staged(staged, lease, before, &path).await?;
            Some(RejectsFile {
                etag: state.etag,
                ..planned
            })
        } else {
            must_hold(lease, slice)?;
            self.store.delete(&path).await?;
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

    /// Publishes a slice that was [staged](Self::stage): intend, store the rejects, change the table,
    /// commit. What was fetched is published only if no number was erased since `privacy` was read: whoever erases one adds it to the
    /// list before it looks at the ledger, and this announces the slice there before it looks at the list, so that one of them sees the
    /// other. `commit` comes with everything but its files. A run that dies anywhere in between
    /// leaves the `pending` part, by which the next run finds the slice and mends it.
    ///
    /// The `mark` is that of the run, which others can see before anything is written.
    ///
    /// # Errors
    /// [`LakeError::LostLease`] if the entry is no longer what `before` says, the `lease` is gone
    /// or somebody changed the table meanwhile, [`LakeError::Unmarked`], and the store's; the table
    /// is then as it was. [`LakeError::NotRecorded`] if the table may have changed, but the ledger
    /// could not be told.
    pub async fn publish(
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
            change,
            table_before,
            rejects,
            rejects_before,
            keeps_failure,
        } = staged;
        let slice = entry.slice;
        let kept = entry.committed.as_ref().and_then(|kept| kept.file.clone());
        let file = match &change {
            StagedChange::Keep => kept.clone(),
            StagedChange::Replace(_, planned) => Some(planned.clone()),
            StagedChange::Remove => None,
        };
        entry.pending = Some(Pending {
            run: commit.run.clone(),
            token: commit.token.clone(),
            digest: commit.digest,
            planned: Some(Box::new(Commit {
                file: file.clone(),
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
        let rejects_before = rejects_before.as_ref();
        commit.rejects = self
            .put_rejects(lease, slice, rejects, rejects_before, may_have_failed)
            .await?;
        let path = layout::table_file(slice);
        // From here on the table may have changed, whatever goes wrong, unless the store refused.
        let not_recorded = |source: LakeError| match source {
            LakeError::LostLease { .. } => source,
            LakeError::Store(ref error) if error.is_refusal() => source,
            source => LakeError::NotRecorded {
                path: path.clone(),
                source: Box::new(source),
            },
        };
        let is_changed = !matches!(change, StagedChange::Keep);
        commit.file = match change {
            StagedChange::Keep => kept,
            StagedChange::Replace(staged, planned) => {
                let state = publish_staged(staged, lease, table_before.as_ref(), &path)
                    .await
                    .map_err(not_recorded)?;
                Some(PublishedFile {
                    etag: state.etag,
                    ..planned
                })
            }
            StagedChange::Remove => {
                self.remove(lease, slice, table_before.as_ref())
                    .await
                    .map_err(not_recorded)?;
                None
            }
        };
        entry.committed = Some(commit);
        entry.pending = None;
        if !keeps_failure {
            entry.failed = None;
        }
        self.swap(&entry, Some(&version))
            .await
            .map_err(|source| match source {
                LakeError::LostLease { .. } if !is_changed => source,
                source => LakeError::NotRecorded {
                    path: path.clone(),
                    source: Box::new(source),
                },
            })?;
        mark.ensure_after().await;
        Ok(entry)
    }

    /// Removes the slice's file, which no store of ours does on a condition: another look is all there is.
    async fn remove(
        &self,
        lease: &dyn Lease,
        slice: Slice,
        before: Option<&ObjectState>,
    ) -> Result<(), LakeError> {
        let path = layout::table_file(slice);
        if self.store.state(&path).await?.as_ref() != before {
            return Err(LakeError::LostLease { path });
        }
        must_hold(lease, slice)?;
        Ok(self.store.delete(&path).await?)
    }

    /// Records that an attempt at the slice failed, so that it is due until one succeeds, and keeps
    /// the rejects of that attempt beside those of the slice as it is in the lake. Writes no entry
    /// that says what the last one said.
    ///
    /// # Errors
    /// [`LakeError`] as for [`publish`](Self::publish).
    pub async fn fail(
        &self,
        mark: &RunMark,
        lease: &dyn Lease,
        before: LedgerEntry,
        failure: Failure,
        rejects: Option<TempPath>,
        privacy: &Privacy,
    ) -> Result<(), LakeError> {
        let slice = before.entry.slice;
        let path = layout::failed_rejects_file(slice);
        let known = before.entry.failed.as_ref();
        if known.is_none_or(|known| known.problem != failure.problem) {
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
            let there = self.store.state(&path).await?;
            let staged = self.store.stage(&path, rejects).await?;
            publish_staged(staged, lease, there.as_ref(), &path).await?;
        }
        Ok(())
    }

    /// Removes the rejects of an attempt at the slice that failed, or those of the slice itself.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, the lease is lost, or the run cannot be marked.
    pub async fn remove_rejects(
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

    /// Removes everything that the lake holds of a slice. The ledger says so first: whoever dies in between leaves files of a
    /// slice that is pruned, which no run fetches again and `verify` finds.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, the lease is lost, or the run cannot be marked.
    pub async fn prune(
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
        let files = [
            layout::table_file(slice),
            layout::rejects_file(slice),
            layout::failed_rejects_file(slice),
        ];
        for path in files {
            must_hold(lease, slice)?;
            self.store.delete(&path).await?;
        }
        mark.ensure_after().await;
        Ok(commit)
    }

    async fn swap(&self, entry: &Entry, expected: Option<&Version>) -> Result<Version, LakeError> {
        let path = layout::ledger_entry(entry.slice);
        let swap = match expected {
            None => self.store.create(&path, json(entry)).await?,
            Some(version) => self.store.replace(&path, json(entry), version).await?,
        };
        match swap {
            Swap::Done(version) => Ok(version),
            Swap::Refused => Err(LakeError::LostLease { path }),
        }
    }
}

/// Makes visible what was staged, or says that another run was quicker.
async fn publish_staged(
    staged: Box<dyn Staged>,
    lease: &dyn Lease,
    before: Option<&ObjectState>,
    path: &Path,
) -> Result<ObjectState, LakeError> {
    let seen = before.and_then(|before| before.version.as_ref());
    let published = staged.publish(lease, seen).await?;
    published.ok_or_else(|| LakeError::LostLease { path: path.clone() })
}

/// The last look before something is written that no condition protects.
fn must_hold(lease: &dyn Lease, slice: Slice) -> Result<(), LakeError> {
    if lease.is_held() {
        Ok(())
    } else {
        Err(LakeError::LostLease {
            path: layout::lease(slice),
        })
    }
}
