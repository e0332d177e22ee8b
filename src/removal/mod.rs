//! What is taken out of a lake: days that are too old, and the calls of a number.
//!
//! Both go through the ledger, slice by slice, under its lease, and keep a run report whose `partitions_changed` says what
//! a warehouse has to load again.

pub mod erase;
pub mod prune;

use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::lake::store::Lease;
use crate::lake::{Lake, LakeError};
use crate::report::{RunReport, SliceOutcome, SliceReport, new_run_id};
use crate::slice::Slice;

/// How long to leave a slice alone that a run works on.
const HELD_LEASE_POLL: Duration = Duration::from_secs(1);

/// One command that takes something out.
#[derive(Debug)]
struct Removal<'a> {
    lake: &'a Lake,
    run: String,
    started_at: Timestamp,
    /// Held while it lasts.
    lease: Box<dyn Lease>,
    interrupt: &'a CancellationToken,
    slices: Vec<SliceReport>,
}

impl<'a> Removal<'a> {
    async fn begin(lake: &'a Lake, interrupt: &'a CancellationToken) -> Result<Self, LakeError> {
        let started_at = Timestamp::now();
        let run = new_run_id(started_at);
        Ok(Self {
            lake,
            lease: lake.begin_run(&run).await?,
            run,
            started_at,
            interrupt,
            slices: Vec::new(),
        })
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
            ..SliceReport::new(slice, SliceOutcome::Failed)
        });
    }

    fn skipped(&mut self, slice: Slice) {
        self.slices.push(SliceReport {
            error: Some("interrupted before this slice".to_owned()),
            ..SliceReport::new(slice, SliceOutcome::Skipped)
        });
    }

    /// Keeps the report.
    async fn end(self, mut warnings: Vec<String>) -> RunReport {
        let interrupted = self.interrupt.is_cancelled();
        let report = |warnings| {
            RunReport::new(
                self.run.clone(),
                self.started_at,
                self.slices.clone(),
                interrupted,
                warnings,
            )
        };
        let kept = self
            .lake
            .end_run(&self.run, &report(warnings.clone()))
            .await;
        if let Err(error) = kept {
            warnings.push(format!(
                "the run report could not be kept in the lake: {}",
                crate::error::chain(&error)
            ));
        }
        let report = report(warnings);
        drop(self.lease);
        self.lake.settle().await;
        report
    }
}
