//! Removes calls from a lake: days beyond their retention (`prune`), or all calls of a number
//! (`erase`).
//!
//! Both go through the ledger, slice by slice, under each slice's lease, and keep a run report. Its
//! `partitions_changed` lists the days that a warehouse has to load again.

pub mod erase;
pub(crate) mod number;
pub mod prune;

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::civil::Date;
use tokio_util::sync::CancellationToken;

use super::leases::wait_for_lease;
use super::run::reports::{LogWork, ReportKeeper};
use crate::cdr::slice::Slice;
use crate::error::is_disk_full;
use crate::lake::report::{RunReport, SliceOutcome, SliceReport, new_run_id};
use crate::lake::runs::{MarkedRuns, RunMark};
use crate::lake::{Lake, LakeError};
use crate::store::Lease;

/// Whether every further slice would fail likewise. Not for a full disk: removals free space, and
/// partitions may lie on other disks.
fn is_hopeless(error: &LakeError) -> bool {
    error.fate().stops_the_run() && !is_disk_full(error)
}

/// One removal under way: its mark, its report, its leases.
#[derive(Debug)]
struct Removal<'a> {
    lake: &'a Lake,
    /// By which other runs detect this one.
    mark: RunMark,
    started_at: Timestamp,
    /// Runs without a report when this began.
    marked: Result<MarkedRuns, LakeError>,
    interrupt: &'a CancellationToken,
    may_write: bool,
    /// Whether every further slice would fail like the last one.
    is_hopeless: bool,
    slices: Vec<SliceReport>,
    /// Days that an unfinished earlier attempt may have changed.
    changed_before: Vec<Date>,
}

impl<'a> Removal<'a> {
    async fn begin(lake: &'a Lake, interrupt: &'a CancellationToken) -> Result<Self, LakeError> {
        let started_at = Timestamp::now();
        let mut removal = Self {
            lake,
            mark: lake.mark(&new_run_id(started_at), interrupt.clone()),
            marked: Ok(MarkedRuns::new()),
            started_at,
            interrupt,
            may_write: true,
            is_hopeless: false,
            slices: Vec::new(),
            changed_before: Vec::new(),
        };
        let begun = removal.keeper().begin().await;
        begun.is_marked?;
        removal.marked = begun.marked;
        if let Err(problem) = begun.alone {
            removal.may_write = false;
            removal.end(vec![problem.clone()]).await;
            return Err(LakeError::NotAlone(problem));
        }
        Ok(removal)
    }

    fn keeper(&self) -> ReportKeeper<'_> {
        ReportKeeper {
            lake: self.lake,
            mark: &self.mark,
            started_at: self.started_at,
            stops: [self.interrupt, self.interrupt],
        }
    }

    /// Takes the lease of a slice, and waits while a run holds it. `None` if this was interrupted,
    /// or every further slice would fail.
    async fn lease(&self, slice: Slice) -> Result<Option<Box<dyn Lease>>, LakeError> {
        if self.is_hopeless {
            return Ok(None);
        }
        wait_for_lease(self.lake, slice, self.interrupt).await
    }

    /// Removes the replaced files of `slices` at once, with every snapshot that needs one. Returns
    /// whether all of it is done: not if this was interrupted.
    async fn purge(&self, slices: &BTreeSet<Slice>) -> Result<bool, LakeError> {
        let lake = self.lake;
        if !lake.table().keeps_replaced() {
            return Ok(true);
        }
        // What is replaced from now on was written without the removed calls.
        let limit = Timestamp::now();
        // No commit that another process has prepared may bring a removed file back.
        lake.fence_logs(self.mark.run()).await?;
        let reachable = lake.expire_logs(Timestamp::MAX).await?;
        let days = lake.days_of_months().await?;
        let mut is_complete = lake.remove_days_of_months(days).await?;
        let mut failed = None;
        for slice in lake.slices_with_replaced(limit).await? {
            if !slices.contains(&slice) {
                continue;
            }
            let Some(lease) = self.lease(slice).await? else {
                return Ok(false);
            };
            let removed = lake.remove_replaced(&*lease, slice, limit, &reachable, true);
            match removed.await {
                Ok(_) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        for slice in lake.slices_with_replaced(limit).await? {
            is_complete &= !slices.contains(&slice);
        }
        Ok(is_complete)
    }

    fn add_failed(&mut self, slice: Slice, problem: String, is_hopeless: bool) {
        self.is_hopeless |= is_hopeless;
        tracing::error!(slice = slice.to_string(), "{problem}");
        self.slices.push(SliceReport {
            error: Some(problem),
            // It may have changed: loading the day once more does no harm.
            table_changed: true,
            ..SliceReport::new(slice, SliceOutcome::Failed)
        });
    }

    fn add_skipped(&mut self, slice: Slice) {
        self.slices.push(SliceReport {
            error: Some("the command ended before this slice".to_owned()),
            ..SliceReport::new(slice, SliceOutcome::Skipped)
        });
    }

    /// Stores the report, which also lists the days that crashed runs changed.
    async fn end(mut self, warnings: Vec<String>) -> RunReport {
        let interrupted = self.interrupt.is_cancelled();
        let mut report = RunReport::new(
            self.mark.run().to_owned(),
            self.started_at,
            std::mem::take(&mut self.slices),
            interrupted,
            warnings,
        );
        report.also_changed(std::mem::take(&mut self.changed_before));
        let marked = std::mem::replace(&mut self.marked, Ok(MarkedRuns::new()));
        let changed = report.slices.iter().filter(|slice| slice.table_changed);
        let work = LogWork {
            changed: changed.map(SliceReport::slice).collect(),
            ..LogWork::default()
        };
        let work = self.may_write.then_some(work);
        self.keeper().keep(marked, &mut report, work).await;
        drop(self.mark);
        self.lake.settle().await;
        report
    }
}
