//! Reports of runs in the lake: kept, read again, and made for runs that ended without one.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::lake::{Lake, LakeError, MarkedRuns};
use crate::report::{RunReport, new_run_id};

/// What is said of a store on which two runs would harm each other.
pub const IGNORES_CONDITIONS: &str =
    "the store ignores conditional writes, by which runs keep out of each other's way";
/// A run that began so long ago and has committed nothing is looked at more closely.
const LONG_AGO: Duration = Duration::from_mins(10);

/// How long a run may take at most: of those that began earlier than so long before another, reports are not looked at.
const LONGEST_RUN: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Reports that are read at the same time.
const CONCURRENT_READS: usize = 16;

/// The reports of runs that may have ended after `then`.
pub(crate) async fn reports_since(
    lake: &Lake,
    then: Timestamp,
) -> Result<Vec<RunReport>, LakeError> {
    let runs = lake.runs().await?;
    // Names begin with the time.
    let first = new_run_id(then.checked_sub(LONGEST_RUN).unwrap_or(Timestamp::MIN));
    let runs = runs.iter().filter(|run| **run >= first);
    stream::iter(runs)
        .map(|run| lake.run_report::<RunReport>(run))
        .buffer_unordered(CONCURRENT_READS)
        .try_filter_map(|report| std::future::ready(Ok(report)))
        .try_collect()
        .await
}

/// Keeps reports.
#[derive(Debug)]
pub(crate) struct ReportKeeper<'a> {
    pub(crate) lake: &'a Lake,
    pub(crate) started_at: Timestamp,
    /// Whoever cancels one of them does not want to wait.
    pub(crate) stops: [&'a CancellationToken; 2],
}

impl ReportKeeper<'_> {
    /// Keeps the report in the lake, and with it what the `marked` runs had done that ended without one. Whether it is
    /// kept.
    pub(crate) async fn keep(
        &self,
        marked: Result<MarkedRuns, LakeError>,
        report: &mut RunReport,
    ) -> bool {
        let marked = marked.unwrap_or_else(|error| {
            report.warnings.push(crate::error::chain(&error));
            MarkedRuns::new()
        });
        let mut dead = Vec::new();
        for (run, commits) in &marked {
            // Worth waiting for if there is something to tell, or if it should have ended long ago.
            let is_patient = !commits.is_empty() || began_long_before(run, self.started_at);
            match self.is_dead(run, is_patient).await {
                Ok(true) => dead.push(RunReport::of_dead_run(run, commits, &report.run)),
                Ok(false) => {}
                Err(error) => report.warnings.push(crate::error::chain(&error)),
            }
        }
        for dead in dead.iter().filter(|dead| !dead.slices.is_empty()) {
            report.tell_for(dead);
        }
        let mut kept = self.lake.end_run(&report.run, report).await;
        let is_kept = kept.is_ok();
        for dead in &dead {
            // Only once it was told: whoever is interrupted here tells it twice, not never.
            if kept.is_ok() {
                kept = self.lake.end_dead_run(&dead.run, dead).await;
            }
        }
        if let Err(error) = kept {
            report.warnings.push(format!(
                "the run report could not be kept in the lake: {}",
                crate::error::chain(&error)
            ));
        }
        is_kept
    }

    /// Of the `marked` runs one that may be under way. Whoever asks has marked itself before, so of two that begin at
    /// once at least one sees the other.
    pub(crate) async fn find_alive(
        &self,
        marked: &MarkedRuns,
    ) -> Result<Option<String>, LakeError> {
        for run in marked.keys() {
            if !self.is_dead(run, true).await? {
                return Ok(Some(run.clone()));
            }
        }
        Ok(None)
    }

    /// What is said to whoever has to be alone.
    pub(crate) fn describe_alive(run: &str) -> String {
        format!(
            "{IGNORES_CONDITIONS}, and run {run} seems to be under way. Run again when it has ended"
        )
    }

    /// Whether a run is dead. Who is interrupted does not wait to know: the next run will.
    pub(crate) async fn is_dead(&self, run: &str, is_patient: bool) -> Result<bool, LakeError> {
        tokio::select! {
            dead = self.lake.is_dead(run, is_patient) => dead,
            () = self.stops[0].cancelled() => Ok(false),
            () = self.stops[1].cancelled() => Ok(false),
        }
    }
}

/// Whether a run's name says that it began much earlier than `now`.
fn began_long_before(run: &str, now: Timestamp) -> bool {
    let name = now.checked_sub(LONG_AGO).map(new_run_id);
    name.is_ok_and(|then| *run < *then)
}
