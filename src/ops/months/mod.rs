//! Converts a lake of days into a lake of months.
//!
//! ```text
//! lake.json: converting ─ each month: read its days ─ write a file ─ publish it ─ remove its days
//!                                                    └ with table formats: commit to logs first
//!                       └ after all months, lake.json: month
//! ```
//!
//! While `lake.json` says that the lake is being converted, nothing else writes to it. What the
//! lake has of a day stays until the ledger, and each log, names the file of its month. A
//! conversion that was interrupted continues where it ended.

mod merge;
mod survey;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use jiff::civil::Date;
use tokio_util::sync::CancellationToken;

use super::days::today;
use super::leases::wait_for_lease;
use super::tables::marked_run;
use super::{Error, Observer, UsageError};
use crate::cdr::period::PeriodUnit;
use crate::cdr::slice::Slice;
use crate::config::Config;
use crate::error::chain;
use crate::lake::identity::Identity;
use crate::lake::report::{RunReport, SliceReport, new_run_id};
use crate::lake::runs::{RunMark, Traces};
use crate::lake::{Lake, LakeError};
use crate::store::Lease;
use survey::{Month, Survey};

/// Pause between looks at a run.
const POLL: Duration = Duration::from_secs(1);
/// Days that are removed at the same time.
const CONCURRENT_REMOVALS: usize = 16;

/// The months that a conversion merged, and their files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Merged {
    /// Months of a direction.
    pub months: u64,
    /// Files of their days.
    pub files_before: u64,
    /// Bytes of the files of their days.
    pub bytes_before: u64,
    /// Files of the months.
    pub files_after: u64,
    /// Bytes of the files of the months.
    pub bytes_after: u64,
    /// Days that the lake lacks, and that no run fetches any more.
    pub remarks: Vec<String>,
}

/// Merges the files of a lake of days into months. Fetches nothing. `None` if this was interrupted.
///
/// # Errors
/// [`Error`] if a run is in progress, a day cannot be relied on, a month is pruned in part, or the
/// lake cannot be read or written. Converting again continues.
pub(crate) async fn convert_to_months(
    lake: &Lake,
    config: &Config,
    now: Timestamp,
    observer: &dyn Observer,
    interrupt: &CancellationToken,
) -> Result<Option<Merged>, Error> {
    let today = today(&config.window, now);
    let run = new_run_id(now);
    if lake.identity.converting.is_none() {
        if lake.identity.period_unit() == PeriodUnit::Month {
            return Err(UsageError::MonthsAlready.into());
        }
        if let Some(run) = marked_run(lake).await? {
            return Err(run.into());
        }
        Survey::of(lake, config, today).await?.must_be_sound()?;
        // The conversion needs logs and catalog in the end, and nothing else can write until then.
        lake.sync_everything(&run).await?;
    }
    let lake = lake.with_identity(begin).await?;
    // A run that began just before has read the old `lake.json`. One that marks itself later reads
    // the new one, and stops.
    if !end_other_runs(&lake, &run, interrupt).await? {
        return Ok(None);
    }
    let mark = lake.mark(&run, interrupt.clone());
    mark.ensure().await?;
    let mut conversion = Conversion {
        lake: &lake,
        config,
        mark,
        now,
        interrupt,
        slices: Vec::new(),
        merged: Merged::default(),
    };
    // A run that began just before may have changed a day.
    let survey = Survey::of(&lake, config, today).await?;
    conversion.merged.remarks.clone_from(&survey.remarks);
    let converted = match survey.must_be_sound() {
        Ok(months) => conversion.convert(&months, observer).await,
        Err(error) => Err(error),
    };
    let Conversion { slices, merged, .. } = conversion;
    let is_interrupted = matches!(converted, Ok(false));
    let mut warnings = merged.remarks.clone();
    warnings.extend(converted.as_ref().err().map(|error| chain(error)));
    let report = RunReport::new(run.clone(), now, slices, is_interrupted, warnings);
    let ended = lake.end_run(&run, &report).await;
    lake.settle().await;
    if converted.is_err()
        && !Survey::of(&lake, config, today).await?.has_months
        && lake.marked_runs(&run).await?.is_empty()
    {
        // Nothing of a month is written yet, so that the lake can stay one of days.
        lake.with_identity(abandon).await?;
    }
    let is_complete = converted?;
    ended?;
    Ok(is_complete.then_some(merged))
}

fn begin(identity: &mut Identity) {
    identity.converting = Some(PeriodUnit::Month);
    identity.format = Identity::format_of(identity.converting);
}

fn abandon(identity: &mut Identity) {
    identity.converting = None;
    identity.format = Identity::format_of(identity.slice);
}

/// Waits until other runs have ended, and ends those that have crashed, so that they cannot
/// continue. Returns whether all have ended: not if this was interrupted.
async fn end_other_runs(
    lake: &Lake,
    this: &str,
    interrupt: &CancellationToken,
) -> Result<bool, LakeError> {
    while let Some(run) = lake.marked_runs(this).await?.into_keys().next() {
        if lake.has_crashed(&run, true).await? {
            let Some(crashed) = lake.claim_crashed(&run).await? else {
                continue;
            };
            let mut runs = BTreeMap::from([(run.clone(), Traces::default())]);
            lake.add_traces(&mut runs).await?;
            let traces = runs.remove(&run).unwrap_or_default();
            let made = RunReport::of_crashed_run(&run, &traces.commits, this);
            let make = |found: Option<RunReport>| match found {
                None => Some(made.clone()),
                Some(found) => found.with_slices_found_since(&made),
            };
            lake.end_crashed_run(crashed, make).await?;
            continue;
        }
        tracing::info!(run, "Waiting for a run that began before the conversion.");
        tokio::select! {
            () = interrupt.cancelled() => return Ok(false),
            () = tokio::time::sleep(POLL) => {}
        }
    }
    Ok(true)
}

/// A conversion under way.
struct Conversion<'a> {
    lake: &'a Lake,
    config: &'a Config,
    mark: RunMark,
    now: Timestamp,
    interrupt: &'a CancellationToken,
    slices: Vec<SliceReport>,
    merged: Merged,
}

impl Conversion<'_> {
    /// Returns whether everything is converted: not if this was interrupted.
    async fn convert(
        &mut self,
        months: &BTreeMap<Slice, Month>,
        observer: &dyn Observer,
    ) -> Result<bool, Error> {
        observer.slices_began(months.len());
        let has_logs = self.lake.has_logs();
        for (&slice, month) in months {
            let Some(lease) = wait_for_lease(self.lake, slice, self.interrupt).await? else {
                return Ok(false);
            };
            if !month.is_merged {
                // Boxed: the future is large.
                Box::pin(self.merge(&*lease, slice, month)).await?;
            }
            if !has_logs {
                self.remove_days(&*lease, slice, month).await?;
            }
            observer.slice_looked_at();
        }
        observer.ended();
        let to_months = |identity: &mut Identity| {
            identity.slice = Some(PeriodUnit::Month);
            identity.format = Identity::format_of(identity.slice);
        };
        let lake = self.lake.with_identity(to_months).await?;
        if has_logs {
            // One commit replaces the files of all days.
            lake.sync_everything(self.mark.run()).await?;
            // No commit that another process has prepared may bring a removed file back.
            lake.fence_logs(self.mark.run()).await?;
            lake.expire_logs(Timestamp::MAX).await?;
            for (&slice, month) in months {
                let Some(lease) = wait_for_lease(self.lake, slice, self.interrupt).await? else {
                    return Ok(false);
                };
                self.remove_days(&*lease, slice, month).await?;
            }
        }
        lake.with_identity(|identity| identity.converting = None)
            .await?;
        Ok(true)
    }

    /// Removes what the lake has of the days of a merged month.
    async fn remove_days(
        &self,
        lease: &dyn Lease,
        slice: Slice,
        month: &Month,
    ) -> Result<(), LakeError> {
        let days = month.days.keys().map(|&day: &Date| {
            let day = Slice::of_day(day, slice.direction);
            self.lake.remove_merged(&self.mark, lease, day)
        });
        stream::iter(days)
            .buffer_unordered(CONCURRENT_REMOVALS)
            .try_collect()
            .await
    }
}
