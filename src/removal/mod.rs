//! What is taken out of a lake: days that are too old, and the calls of a number.
//!
//! Both go through the ledger, slice by slice, under its lease, and keep a run report whose `partitions_changed` says what
//! a warehouse has to load again.

pub mod erase;
pub mod prune;

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use tokio_util::sync::CancellationToken;

use crate::lake::runs::{MarkedRuns, RunMark};
use crate::lake::store::Lease;
use crate::lake::{Lake, LakeError};
use crate::report::{RunReport, SliceOutcome, SliceReport, new_run_id};
use crate::run_reports::ReportKeeper;
use crate::slice::Slice;

/// How long to leave a slice alone that a run works on.
const HELD_LEASE_POLL: Duration = Duration::from_secs(1);

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
    slices: Vec<SliceReport>,
    /// Days that an earlier attempt has changed.
    changed_before: Vec<Date>,
}

impl<'a> Removal<'a> {
    async fn begin(lake: &'a Lake, interrupt: &'a CancellationToken) -> Result<Self, LakeError> {
        let started_at = Timestamp::now();
        let run = new_run_id(started_at);
        let mark = lake.mark(&run, interrupt.clone());
        mark.ensure().await?;
        // Before this one writes its own name over theirs.
        let marked = lake.marked_runs(&run).await;
        let removal = Self {
            lake,
            mark,
            marked,
            started_at,
            interrupt,
            slices: Vec::new(),
            changed_before: Vec::new(),
        };
        if !lake.honours_conditions().await?
            && let Ok(marked) = &removal.marked
            && let Some(run) = removal.keeper().find_alive(marked).await?
        {
            let problem = ReportKeeper::describe_alive(&run);
            removal.end(vec![problem.clone()]).await;
            return Err(LakeError::NotAlone(problem));
        }
        Ok(removal)
    }

    fn keeper(&self) -> ReportKeeper<'a> {
        ReportKeeper {
            lake: self.lake,
            started_at: self.started_at,
            stops: [self.interrupt, self.interrupt],
        }
    }

    /// Takes the right to work on a slice, waiting for a run that has it. `None` if this was interrupted.
    async fn lease(&self, slice: Slice) -> Result<Option<Box<dyn Lease>>, LakeError> {
        let mut is_told = false;
        loop {
            if self.interrupt.is_cancelled() {
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

    fn failed(&mut self, slice: Slice, problem: String) {
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
            error: Some("interrupted before this slice".to_owned()),
            ..SliceReport::new(slice, SliceOutcome::Skipped)
        });
    }

    /// Keeps the report, and adds to it what dead runs had changed.
    async fn end(self, warnings: Vec<String>) -> RunReport {
        let interrupted = self.interrupt.is_cancelled();
        let keeper = self.keeper();
        let mut report = RunReport::new(
            self.mark.run().to_owned(),
            self.started_at,
            self.slices,
            interrupted,
            warnings,
        );
        report.also_changed(self.changed_before);
        keeper.keep(self.marked, &mut report).await;
        drop(self.mark);
        self.lake.settle().await;
        report
    }
}
