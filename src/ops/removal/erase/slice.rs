//! One slice under its lease: what is erased, by the state of its ledger entry.

use std::sync::Arc;

use super::error::EraseError;
use super::rejects::RemainingRejects;
use super::search::{Holding, search_slice};
use crate::cdr::slice::Slice;
use crate::config::Config;
use crate::lake::ledger::State;
use crate::lake::report::{SliceOutcome, SliceReport};
use crate::lake::{Condition, LakeError, LedgerEntry};
use crate::ops::removal::Removal;
use crate::privacy::Privacy;
use crate::store::{Lease, LeaseState};

/// Attempts at a slice while other erasures extend the suppression list.
const MAX_ATTEMPTS: u32 = 5;

/// Erases the number from slices, one after the other.
pub(super) struct Eraser<'a> {
    pub(super) removal: &'a Removal<'a>,
    pub(super) config: &'a Config,
}

/// What became of a slice.
#[derive(Debug)]
pub(super) enum ErasedSlice {
    /// It held the number, or may have held it, and was changed.
    Changed(Box<SliceReport>),
    /// It does not hold the number.
    NothingFound,
    /// The erasure was interrupted, or every further slice would fail.
    NotBegun,
}

impl Eraser<'_> {
    /// Removes the number from a slice; `searched` is what an earlier search found in it.
    pub(super) async fn erase_from(
        &self,
        slice: Slice,
        searched: Option<&Holding>,
    ) -> Result<ErasedSlice, EraseError> {
        if let Some(searched) = searched.filter(|searched| !searched.is_any())
            && self.is_unchanged(slice, searched).await?
        {
            return Ok(ErasedSlice::NothingFound);
        }
        let Some(lease) = self.removal.lease(slice).await? else {
            return Ok(ErasedSlice::NotBegun);
        };
        let mut attempt = 1;
        loop {
            match self.erase_leased(&*lease, slice).await {
                // Another erasure extended the list: this slice has to leave out both numbers.
                Err(EraseError::Lake(LakeError::ErasedMeanwhile)) if attempt < MAX_ATTEMPTS => {
                    attempt += 1;
                }
                Ok(Some(report)) => return Ok(ErasedSlice::Changed(Box::new(report))),
                Ok(None) => return Ok(ErasedSlice::NothingFound),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether a slice is as it was when it was searched, and no run works on it. A run that takes
    /// it from now on reads the suppression list. The lease is checked before the entry: a run
    /// publishes before it gives its lease back.
    async fn is_unchanged(&self, slice: Slice, searched: &Holding) -> Result<bool, EraseError> {
        let lake = self.removal.lake;
        if lake.lease_state(slice).await? != LeaseState::Free {
            return Ok(false);
        }
        let entry = lake.entry(slice).await;
        // Rejects of failed attempts may be replaced without a change of the entry.
        let has_failed_rejects = lake.failed_rejects_of(slice).await?.is_some();
        Ok(entry.condition == Condition::Sound
            && entry.is_same_as(&searched.entry)
            && entry.entry.pending.is_none()
            && !has_failed_rejects)
    }

    /// `None` if the slice does not hold the number.
    async fn erase_leased(
        &self,
        lease: &dyn Lease,
        slice: Slice,
    ) -> Result<Option<SliceReport>, EraseError> {
        let lake = self.removal.lake;
        let privacy = lake.privacy_now().await?;
        let holding = search_slice(lake, slice, &privacy).await?;
        let before = lake.usable_entry(slice).await?;
        let is_announced = before.entry.pending.is_some();
        // Replaced files are removed in the end.
        if !holding.is_current() && !is_announced {
            return Ok(None);
        }
        if is_announced && before.entry.committed.is_none() {
            // On local disk a lease ends with its holder, so no write can still arrive.
            let may_be_written = lake.lease_expiry().is_some();
            return if may_be_written || holding.is_any() {
                Err(EraseError::Announced)
            } else {
                Ok(None)
            };
        }
        self.erase_failed_rejects(lease, &before, &privacy).await?;
        let mark = &self.removal.mark;
        let report = match before.entry.committed.clone() {
            // Files that an interrupted prune left.
            Some(commit) if commit.state == State::Pruned => {
                lake.prune(mark, lease, before).await?;
                SliceReport {
                    table_changed: holding.rows > 0,
                    ..SliceReport::new(slice, SliceOutcome::Committed)
                }
            }
            // Boxed: the future of a rewrite is large.
            Some(commit) => Box::pin(self.rewrite(lease, before, commit, &privacy)).await?,
            None if holding.rows > 0 || before.condition != Condition::Sound => {
                return Err(EraseError::Uncertain);
            }
            // Never committed: no entry refers to these rejects.
            None => {
                lake.remove_rejects(mark, lease, slice, false).await?;
                SliceReport::new(slice, SliceOutcome::Committed)
            }
        };
        Ok(Some(report))
    }

    /// Removes the number from the rejects of the last attempt, if that failed.
    async fn erase_failed_rejects(
        &self,
        lease: &dyn Lease,
        before: &LedgerEntry,
        privacy: &Arc<Privacy>,
    ) -> Result<(), EraseError> {
        let (lake, mark) = (self.removal.lake, &self.removal.mark);
        let slice = before.entry.slice;
        let rejects = RemainingRejects::of_failure(lake, slice, privacy).await?;
        if rejects.dropped == 0 {
            return Ok(());
        }
        match (before.entry.failed.clone(), rejects.file) {
            // The slice stays failed.
            (Some(failure), file @ Some(_)) => {
                lake.fail(mark, lease, before.clone(), failure, file, privacy)
                    .await?;
            }
            _ => lake.remove_rejects(mark, lease, slice, true).await?,
        }
        Ok(())
    }
}
