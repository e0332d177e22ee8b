//! Converts a lake of days into a lake of months.
//!
//! ```text
//! lake.json: converting ─ each month: read its days ─ write a file ─ publish it ─ remove its days
//!                       └ after all months, lake.json: month
//!                                         └ with table formats: commit to logs ─ remove all days
//! ```
//!
//! While `lake.json` says that the lake is being converted, nothing else writes to it. What the
//! lake has of a day stays until the ledger, and each log, names the file of its month. A
//! conversion that was interrupted continues where it ended.

mod merge;
mod recover;
mod survey;

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use tokio_util::sync::CancellationToken;

use super::days::today;
use super::leases::{wait_for_conversion_lease, wait_for_lease};
use super::run::reports::{OtherRuns, end_crashed_run, wait_for_other_runs};
use super::tables::marked_run;
use super::{Error, Observer, UsageError};
use crate::cdr::period::PeriodUnit;
use crate::cdr::slice::Slice;
use crate::config::{Config, timezone_name};
use crate::error::chain;
use crate::lake::identity::Identity;
use crate::lake::report::{RunReport, SliceReport, new_run_id};
use crate::lake::runs::RunMark;
use crate::lake::{Lake, LakeError};
use crate::store::Lease;
use survey::{Month, Survey};

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
    /// Months that are open, so that the next run fetches them.
    pub open: u64,
    /// Days that the lake lacks, and that no run fetches any more.
    pub remarks: Vec<String>,
    /// Days that were damaged during the conversion. Their months are open.
    pub damaged: Vec<String>,
    /// Why the logs of table formats still have the days.
    pub log_error: Option<String>,
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
    let Some(_lease) = wait_for_conversion_lease(lake, interrupt).await? else {
        return Ok(None);
    };
    // Another conversion may have ended since the lake was opened.
    let lake = lake.as_it_is_now().await?;
    let today = today(&config.window, now);
    let run = new_run_id(now);
    if lake.identity.converting.is_none() {
        if lake.identity.period_unit() == PeriodUnit::Month {
            return Err(UsageError::MonthsAlready.into());
        }
        if let Some(run) = marked_run(&lake).await? {
            return Err(run.into());
        }
        Survey::of(&lake, config, today).await?.must_be_sound()?;
        // Better now than at the end.
        lake.sync_everything(&run).await?;
    }
    let lake = lake.with_identity(|identity| begin(identity, &run)).await?;
    if !lake.has_logs() {
        tracing::warn!(
            "Until the conversion has ended, readers of the files may count calls twice."
        );
    }
    // A run that began just before has read the old `lake.json`. One that marks itself later reads
    // the new one, and stops.
    loop {
        match wait_for_other_runs(&lake, &run, interrupt).await? {
            OtherRuns::Ended => break,
            OtherRuns::Crashed(crashed) => end_crashed_run(&lake, &crashed, &run).await?,
            OtherRuns::InProgress(_) => return Ok(None),
        }
    }
    let mark = lake.mark(&run, interrupt.clone());
    mark.ensure().await?;
    // A run that began just before may have changed a day.
    let survey = Survey::of(&lake, config, today).await?;
    let mut conversion = Conversion {
        lake: &lake,
        config,
        mark,
        now,
        interrupt,
        has_months: survey.has_months,
        slices: Vec::new(),
        merged: Merged {
            remarks: survey.remarks.clone(),
            ..Merged::default()
        },
    };
    // With a month in the ledger there is no way back: what is left is merged.
    let months = if survey.has_months {
        Ok(survey.months)
    } else {
        survey.must_be_sound()
    };
    let converted = match months {
        Ok(months) => conversion.convert(&months, observer).await,
        Err(error) => Err(error),
    };
    let Conversion { slices, merged, .. } = conversion;
    let is_interrupted = matches!(converted, Ok(false));
    let warnings = merged.remarks.iter().chain(&merged.damaged);
    let mut warnings: Vec<String> = warnings.chain(&merged.log_error).cloned().collect();
    warnings.extend(converted.as_ref().err().map(|error| chain(error)));
    let report = RunReport::new(run.clone(), now, slices, is_interrupted, warnings);
    let ended = lake.end_run(&run, &report).await;
    lake.settle().await;
    if converted.is_err()
        && !Survey::of(&lake, config, today).await?.has_months
        && lake.unended_runs(&run).await?.is_empty()
    {
        // Nothing of a month is written yet, so that the lake can stay one of days.
        lake.with_identity(|identity| abandon(identity, &run))
            .await?;
    }
    let is_complete = converted?;
    ended?;
    Ok(is_complete.then_some(merged))
}

fn begin(identity: &mut Identity, run: &str) {
    identity.converting = Some(PeriodUnit::Month);
    identity.converting_run = Some(run.to_owned());
    identity.format = Identity::format_of(identity.converting);
}

/// Leaves the lake one of days, unless another conversion has begun since: this one may have been
/// suspended for longer than its lease.
fn abandon(identity: &mut Identity, run: &str) {
    if identity.converting_run.as_deref() == Some(run) {
        end(identity, identity.slice);
    }
}

/// Ends a conversion with slices of this period.
fn end(identity: &mut Identity, slice: Option<PeriodUnit>) {
    identity.converting = None;
    identity.converting_run = None;
    identity.slice = slice;
    identity.format = Identity::format_of(slice);
}

/// A conversion under way.
struct Conversion<'a> {
    lake: &'a Lake,
    config: &'a Config,
    mark: RunMark,
    now: Timestamp,
    interrupt: &'a CancellationToken,
    /// The ledger has a month, so that the lake cannot become one of days again.
    has_months: bool,
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
        let run = self.mark.run();
        if has_logs {
            // Whatever interrupts this, a later run replaces the days in the logs.
            self.lake.note_unsynced(run).await?;
        }
        let timezone = timezone_name(&self.config.window.timezone);
        let to_months = |identity: &mut Identity| {
            end(identity, Some(PeriodUnit::Month));
            // Days were the provider's, whatever the zone. Months are cut in it from now on.
            identity.timezone.clone_from(&timezone);
        };
        let lake = self.lake.with_identity(to_months).await?;
        if has_logs {
            // The leases of the months are needed again.
            lake.settle().await;
            // One commit replaces the files of all days, which are then removed.
            let synced = lake.sync_everything(run).await;
            self.merged.log_error = synced.err().map(|error| chain(&error));
        }
        Ok(true)
    }

    /// Removes what the lake has of the days of a merged month.
    async fn remove_days(
        &self,
        lease: &dyn Lease,
        slice: Slice,
        month: &Month,
    ) -> Result<(), LakeError> {
        let days = month.days.keys();
        let days = days.map(|&day: &Date| Slice::of_day(day, slice.direction));
        self.mark.ensure().await?;
        self.lake.remove_merged(lease, days).await
    }
}
