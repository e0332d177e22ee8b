//! What is taken out of a lake: days that are too old, and the calls of a number.
//!
//! Both go through the ledger, slice by slice, under its lease, and keep a run report whose `partitions_changed` says what
//! a warehouse has to load again.

pub mod erase;
pub(crate) mod number;
pub mod prune;

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use tokio_util::sync::CancellationToken;

use super::run::reports::ReportKeeper;
use crate::cdr::slice::Slice;
use crate::error::is_disk_full;
use crate::lake::report::{RunReport, SliceOutcome, SliceReport, new_run_id};
use crate::lake::runs::{MarkedRuns, RunMark};
use crate::lake::{Lake, LakeError};
use crate::store::Lease;

/// How long to leave a slice alone that a run works on.
const HELD_LEASE_POLL: Duration = Duration::from_secs(1);

/// Whether no other slice would fare better. A full disk is no such thing: what is removed makes
/// room, and partitions may lie on other disks.
fn is_hopeless(error: &LakeError) -> bool {
    error.fate().stops_the_run() && !is_disk_full(error)
}

/// One command that takes something out.
#[derive(Debug)]
struct Removal<'a> {
    lake: &'a Lake,
    /// Shows others that it is under way.
    mark: RunMark,
    started_at: Timestamp,
    /// Runs that have not kept a report.
    marked: Result<MarkedRuns, LakeError>,
    interrupt: &'a CancellationToken,
    /// Whether no slice would fare better than the last one.
    is_hopeless: bool,
    slices: Vec<SliceReport>,
    /// Days that an earlier attempt has changed.
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
            is_hopeless: false,
            slices: Vec::new(),
            changed_before: Vec::new(),
        };
        let begun = removal.keeper().begin().await;
        begun.is_marked?;
        removal.marked = begun.marked;
        if let Err(problem) = begun.alone {
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

    /// Takes the right to work on a slice, waiting for a run that has it. `None` if this was
    /// interrupted, or no slice fares better than the last one.
    async fn lease(&self, slice: Slice) -> Result<Option<Box<dyn Lease>>, LakeError> {
        let mut is_told = false;
        loop {
            if self.interrupt.is_cancelled() || self.is_hopeless {
                return Ok(None);
            }
            if let Some(lease) = self.lake.try_lease(slice).await? {
                return Ok(Some(lease));
            }
            if !std::mem::replace(&mut is_told, true) {
                tracing::info!(
                    slice = slice.to_string(),
                    "Waiting for a run that works on this slice."
                );
            }
            tokio::select! {
                () = self.interrupt.cancelled() => {}
                () = tokio::time::sleep(HELD_LEASE_POLL) => {}
            }
        }
    }

    fn failed(&mut self, slice: Slice, problem: String, is_hopeless: bool) {
        self.is_hopeless |= is_hopeless;
        tracing::error!(slice = slice.to_string(), "{problem}");
        self.slices.push(SliceReport {
            error: Some(problem),
            // Perhaps it is; who loads it once more loses nothing.
            table_changed: true,
            ..SliceReport::new(slice, SliceOutcome::Failed)
        });
    }

    fn skipped(&mut self, slice: Slice) {
        self.slices.push(SliceReport {
            error: Some("ended before this slice".to_owned()),
            ..SliceReport::new(slice, SliceOutcome::Skipped)
        });
    }

    /// Keeps the report, and adds to it what dead runs had changed.
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
        self.keeper().keep(marked, &mut report).await;
        drop(self.mark);
        self.lake.settle().await;
        report
    }
}
