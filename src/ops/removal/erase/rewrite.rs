//! A committed slice published again without the number.

use std::sync::Arc;

use super::error::{EraseError, blocking};
use super::rejects::RemainingRejects;
use super::slice::Eraser;
use crate::TOOL;
use crate::cdr::columns::SCHEMA_VERSION;
use crate::cdr::reconcile::verdict;
use crate::cdr::slice::Slice;
use crate::lake::ledger::{Commit, new_token};
use crate::lake::report::{Change, SliceOutcome, SliceReport};
use crate::lake::{LedgerEntry, PublishedFile, TableChange, is_intact};
use crate::ops::rewrite::{rewrite_options, rewrite_rows};
use crate::privacy::Privacy;
use crate::slice_file::convert::Converted;
use crate::slice_file::writer::checksum_of;
use crate::store::Lease;

impl Eraser<'_> {
    /// Publishes the slice without the number; `old` is what its entry `before` committed.
    pub(super) async fn rewrite(
        &self,
        lease: &dyn Lease,
        mut before: LedgerEntry,
        old: Commit,
        privacy: &Arc<Privacy>,
    ) -> Result<SliceReport, EraseError> {
        let (lake, mark) = (self.removal.lake, &self.removal.mark);
        let slice = before.entry.slice;
        let pending = before.entry.pending.as_ref();
        let is_pending = pending.is_some();
        let planned = pending.and_then(|pending| pending.planned.clone());
        let rejects = RemainingRejects::of_commit(lake, slice, privacy).await?;
        // A crashed run may have stored the rejects of its planned commit already. An erasure
        // keeps the time of the fetch.
        let are_planned = planned.as_ref().is_some_and(|planned| {
            planned.counts.rejected == rejects.total() && planned.fetched_at == old.fetched_at
        });
        if rejects.total() != old.counts.rejected && !are_planned {
            return Err(EraseError::Uncertain);
        }
        let old = self.commit_in_table(&before, old, planned).await?;
        before.entry.committed = Some(old.clone());
        let rows = match &old.file {
            Some(file) => Some(self.remaining_rows(slice, file, privacy).await?),
            None => None,
        };
        // A crashed run may still have a conditional write under way. The file is rewritten even
        // without the number, so that the stale write fails.
        let rows = rows.filter(|rows| is_pending || rows.counts.suppressed > 0);
        let commit = commit_without(&old, mark.run(), rejects.left, rows.as_ref());
        let table_changed = rows.is_some() || is_pending;
        let change = match rows {
            None => TableChange::Keep,
            Some(rows) => {
                let metadata = commit.file_metadata(slice);
                blocking(move || Ok(rows.write_footer(metadata)?))
                    .await?
                    .into()
            }
        };
        let staged = lake.stage(&before.entry, change, rejects.file).await?;
        let entry = lake
            .publish(
                mark,
                lease,
                before,
                staged.keeping_failure(),
                commit,
                privacy,
            )
            .await?;
        let commit = entry.committed.expect("just committed");
        let mut report = SliceReport::new(slice, SliceOutcome::Committed);
        report.describe(&commit);
        report.table_changed = table_changed;
        report.change = Change::between(&old, &commit);
        Ok(report)
    }

    /// The commit whose file is in the table: the last one, or that of a pending publication.
    async fn commit_in_table(
        &self,
        before: &LedgerEntry,
        committed: Commit,
        planned: Option<Box<Commit>>,
    ) -> Result<Commit, EraseError> {
        let lake = self.removal.lake;
        let found = lake.table().file(&before.entry).await?;
        if before.entry.pending.is_none() {
            return if is_intact(committed.file.as_ref(), found.as_ref()) {
                Ok(committed)
            } else {
                Err(EraseError::Uncertain)
            };
        }
        let checksum = match lake.table().local_copy(&before.entry).await? {
            Some(copy) => Some(blocking(move || Ok(checksum_of(&copy.path)?)).await?),
            None => None,
        };
        let is_it =
            |commit: &Commit| commit.file.as_ref().map(|file| &file.checksum) == checksum.as_ref();
        let candidates = [Some(committed), planned.map(|planned| *planned)];
        let known = candidates.into_iter().flatten().find(is_it);
        let mut commit = known.ok_or(EraseError::Uncertain)?;
        if let (Some(file), Some(found)) = (&mut commit.file, found) {
            file.etag = found.etag;
        }
        Ok(commit)
    }

    /// The rows of the slice without those of the number.
    async fn remaining_rows(
        &self,
        slice: Slice,
        file: &PublishedFile,
        privacy: &Arc<Privacy>,
    ) -> Result<Converted, EraseError> {
        let lake = self.removal.lake;
        let options = rewrite_options(lake, self.config, slice, Arc::clone(privacy));
        let Some(copy) = lake.local_copy(&file.location()).await? else {
            return Err(EraseError::Uncertain);
        };
        let rows = blocking(move || Ok(rewrite_rows(options, &[copy])?)).await?;
        if rows.counts.rows + rows.counts.suppressed != file.rows {
            return Err(EraseError::Uncertain);
        }
        Ok(rows)
    }
}

/// What the ledger records of a slice that was `old` and keeps so many rejects and these `rows`;
/// `None` if its file stays as it is.
fn commit_without(old: &Commit, run: &str, rejects_left: u64, rows: Option<&Converted>) -> Commit {
    let mut commit = Commit {
        run: run.to_owned(),
        token: new_token(),
        tool_version: TOOL.to_owned(),
        rejects: None,
        ..old.clone()
    };
    let counts = &mut commit.counts;
    // Includes rejects that an interrupted erasure removed already.
    counts.suppressed += old.counts.rejected.saturating_sub(rejects_left);
    counts.rejected = rejects_left;
    if let Some(rows) = rows {
        counts.suppressed += rows.counts.suppressed;
        counts.rows = rows.counts.rows;
        counts.conflicts = rows.counts.conflicts;
        counts.rounded = rows.counts.rounded;
        counts.outside_day = rows.counts.outside_day;
        counts.missing_charge = rows.counts.missing_charge;
        counts.missing_duration = rows.counts.missing_duration;
        commit.schema_version = SCHEMA_VERSION;
        commit.totals = rows.totals.clone();
        commit.days.clone_from(&rows.days);
        commit.digest = rows.digest;
    }
    if commit.reconcile.has_equal_count() {
        commit.reconcile = verdict(&commit.counts, commit.control_total);
    }
    commit
}
