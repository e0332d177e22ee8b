//! An export in files, loaded day by day: reading, planning, and the run.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::days::today;
use super::job::{Job, Outcome};
use super::open::{find_lake, open_lake, period_unit};
use super::plan::{LoadPlan, Plan, plan_load};
use super::run::RunOptions;
use super::{Error, Observer, UsageError};
use crate::body::csv::describe_missing;
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::slice::{Direction, Slice};
use crate::config::{Config, Reconcile, timezone_name};
use crate::error::{counted, joined_names, thousands};
use crate::lake::Lake;
use crate::lake::report::{Remark, RemarkKind};
use crate::source::Source;
use crate::source::files::{
    Export, ExportError, ExportSource, Input, MIN_LINES_BYTES, SplitOptions, make_spool, split,
};

/// An export to be loaded.
#[derive(Clone, Debug)]
pub struct Load {
    /// Its parts, in any order.
    pub inputs: Vec<Input>,
    /// Of which direction its calls are.
    pub direction: Direction,
    /// Whether days are loaded that the lake has already.
    pub refresh: bool,
    /// Whether records that cannot be assigned to a day are left out; otherwise nothing is loaded.
    pub skip_undated: bool,
    /// Whether a slice may lose rows against what the lake has of it.
    pub allow_shrink: bool,
}

/// An export that was read.
struct ReadExport {
    export: Export,
    /// Its slices, each with its number of records.
    slices: Vec<(Slice, u64)>,
    remarks: Vec<Remark>,
    /// The lake, if there is one already.
    existing: Option<Lake>,
}

impl Load {
    /// Checks that the export may be loaded into the lake that `config` names, without reading the
    /// export.
    ///
    /// # Errors
    /// [`Error::Usage`] if not, [`Error::Export`] if a part cannot be read.
    pub fn check(&self, config: &Config) -> Result<(), Error> {
        let direction = self.direction;
        if !config.source.directions.contains(&direction) {
            return Err(UsageError::OtherDirection { direction }.into());
        }
        for input in &self.inputs {
            input.check()?;
        }
        refuse_unseen_filters(config)
    }

    /// Reads the export, and decides what would be loaded. Also returns remarks.
    ///
    /// # Errors
    /// [`Error`] if it cannot be read, or may not be loaded.
    pub async fn preview(
        self,
        config: &Config,
        observer: Arc<dyn Observer>,
        interrupt: &CancellationToken,
    ) -> Result<(Plan, Vec<Remark>), Error> {
        let refresh = self.refresh;
        let read = self.read(config, &observer, interrupt).await?;
        let lake = read.existing.as_ref();
        let planned = plan_load(config, &read.slices, refresh, lake, Timestamp::now()).await?;
        let mut remarks = read.remarks;
        remarks.extend(remark_on_differing(&planned));
        Ok((planned.plan, remarks))
    }

    /// Reads the export, opens or makes the lake, and loads what is due. `counts` provides the
    /// provider's counts; without it, counts must not be compared.
    ///
    /// # Errors
    /// [`Error`] if nothing was started. Failures of slices are in the report.
    pub async fn run(
        self,
        config: Config,
        counts: Option<Arc<dyn Source>>,
        observer: Arc<dyn Observer>,
        interrupt: CancellationToken,
    ) -> Result<Outcome, Error> {
        let (refresh, allow_shrink) = (self.refresh, self.allow_shrink);
        let read = self.read(&config, &observer, &interrupt).await?;
        let lake = open_lake(&config, false).await?;
        let now = Timestamp::now();
        let planned = plan_load(&config, &read.slices, refresh, Some(&lake), now).await?;
        let mut remarks = read.remarks;
        remarks.extend(remark_on_differing(&planned));
        let options = RunOptions {
            allow_shrink,
            remarks,
            ..RunOptions::default()
        };
        let source = ExportSource::new(read.export, counts);
        let job = Job::new(config, Arc::new(source))
            .with_observer(observer)
            .with_interrupt(interrupt);
        Ok(job.carry_out(lake, planned.plan, options).await)
    }

    async fn read(
        self,
        config: &Config,
        observer: &Arc<dyn Observer>,
        interrupt: &CancellationToken,
    ) -> Result<ReadExport, Error> {
        self.check(config)?;
        // Another lake than the one meant shows before the work, not after it.
        let existing = find_lake(config).await?;
        if let Some(lake) = &existing {
            refuse_other_timezone(config, lake)?;
        }
        let direction = self.direction;
        let export = split_aside(self.inputs, config, observer, interrupt).await?;
        let now = Timestamp::now();
        let today = today(&config.window, now);
        let mut remarks = remarks(self.skip_undated, &export, config, today)?;
        let unit = period_unit(config, existing.as_ref());
        let slices = slices(export.days(), direction, unit, today);
        if unit == PeriodUnit::Month {
            remarks.extend(remark_on_parts(&export, today));
        }
        // A wrong export is reported before a lake is made.
        plan_load(config, &slices, self.refresh, None, now).await?;
        Ok(ReadExport {
            export,
            slices,
            remarks,
            existing,
        })
    }
}

/// A run asks the provider for days as the provider cuts them; a load cuts them itself.
fn refuse_other_timezone(config: &Config, lake: &Lake) -> Result<(), Error> {
    let configured = timezone_name(&config.window.timezone);
    let existing = lake.identity.timezone.clone();
    if configured == existing {
        return Ok(());
    }
    let error = UsageError::OtherTimezone {
        configured,
        existing,
    };
    Err(error.into())
}

/// A lake of a part of the calls must not receive all of them. Only the provider's counts show a
/// difference: an export does not contain its filters.
fn refuse_unseen_filters(config: &Config) -> Result<(), Error> {
    match config.source.changed_filter() {
        Some(filter) if config.quality.reconcile != Reconcile::Fail => {
            let filter = filter.to_owned();
            Err(UsageError::UncheckedFilter { filter }.into())
        }
        _ => Ok(()),
    }
}

/// The slices of an export's days, each with its number of records. Of a month that has not ended,
/// only the days before `today` count.
fn slices(
    days: impl Iterator<Item = (Date, u64)>,
    direction: Direction,
    unit: PeriodUnit,
    today: Date,
) -> Vec<(Slice, u64)> {
    let mut slices = BTreeMap::new();
    for (day, records) in days {
        let period = Period::containing(day, unit);
        if day < today || period.first_day() >= today {
            *slices.entry(Slice::new(period, direction)).or_default() += records;
        }
    }
    slices.into_iter().collect()
}

/// A remark if the export begins or ends in the middle of a month: the slices of the lake are whole
/// months.
fn remark_on_parts(export: &Export, today: Date) -> Option<Remark> {
    let days = export.days().map(|(day, _)| day);
    let days: Vec<Date> = days.filter(|day| *day < today).collect();
    let (first, last) = (*days.first()?, *days.last()?);
    let begins = first > first.first_of_month();
    let ends = last < last.last_of_month() && last.tomorrow().is_ok_and(|next| next < today);
    (begins || ends).then(|| {
        format!(
            "the export has calls from {first} to {last}, but slices of this lake are whole \
             months. If the provider has calls before or after, load all files of a month together"
        )
        .into()
    })
}

/// Remarks on slices that differ in the lake.
fn remark_on_differing(planned: &LoadPlan) -> Vec<Remark> {
    let days = |slices: &[Slice]| {
        let days = slices.iter().map(|slice| slice.period.to_string());
        (!slices.is_empty()).then(|| joined_names(days))
    };
    let differing = days(&planned.differing).map(|days| {
        RemarkKind::DifferingDays.remark(format!(
            "for these days, the lake and the export have different numbers of records, and the \
             lake was not changed: {days}"
        ))
    });
    let other_zone = days(&planned.of_other_zone).map(|days| {
        RemarkKind::OtherTimezone.remark(format!(
            "these days were loaded with another source.assume_timezone, and were not changed: \
             {days}. Calls that moved to another day are stored twice"
        ))
    });
    differing.into_iter().chain(other_zone).collect()
}

/// Splits the export on its own thread. The thread may block on standard input for ever, so an
/// interrupted load does not wait for it.
async fn split_aside(
    inputs: Vec<Input>,
    config: &Config,
    observer: &Arc<dyn Observer>,
    interrupt: &CancellationToken,
) -> Result<Export, Error> {
    let options = SplitOptions {
        timezone: config.window.timezone.clone(),
        assume_timezone: config.source.assume_timezone.clone(),
        max_record_bytes: config.limits.max_record_bytes,
        spool_parent: config.limits.spool_dir.clone(),
        min_lines_bytes: MIN_LINES_BYTES,
    };
    let sizes = inputs.iter().filter_map(Input::size_bytes);
    observer.reading_began(sizes.sum());
    let spool = make_spool(&options.spool_parent)?;
    let (done, split_export) = oneshot::channel();
    let (may_wait, token) = (inputs.iter().any(Input::may_wait), interrupt.clone());
    std::thread::spawn({
        let (observer, spool) = (Arc::clone(observer), Arc::clone(&spool));
        // After an interruption, no one receives it.
        move || {
            let told = |bytes| observer.bytes_read(bytes);
            let export = split(&inputs, &options, spool, &token, told);
            drop(done.send(export));
        }
    });
    let export = tokio::select! {
        export = split_export => export.expect("splitting does not panic"),
        () = interrupt.cancelled(), if may_wait => {
            // The thread still has it, and ends with the process.
            drop(std::fs::remove_dir_all(spool.path()));
            Err(ExportError::Interrupted)
        }
    };
    observer.ended();
    let export = export?;
    let records: u64 = export.days().map(|(_, records)| records).sum();
    let days = export.days().count();
    tracing::info!(records, days, "Split.");
    Ok(export)
}

/// Remarks on the export.
///
/// # Errors
/// [`Error::Undated`] if it has records without a day, and they are not to be left out.
fn remarks(
    skip_undated: bool,
    export: &Export,
    config: &Config,
    today: Date,
) -> Result<Vec<Remark>, Error> {
    let mut remarks: Vec<Remark> = Vec::new();
    let undated = &export.undated;
    if undated.records > 0 {
        if !skip_undated {
            return Err(Error::Undated {
                undated: undated.clone(),
            });
        }
        let were = if undated.records == 1 { "was" } else { "were" };
        let (records, examples) = (undated.counted(), undated.listed());
        remarks.push(format!("{records}, and {were} left out: {examples}").into());
    }
    if !export.missing_fields.is_empty() {
        remarks.push(describe_missing(&export.missing_fields).into());
    }
    let empty = export.empty_files();
    if !empty.is_empty() {
        remarks.push(format!("no records in {}", empty.join(", ")).into());
    }
    if let Some((read, total)) = export.missing_pages() {
        let text = format!(
            "the export has {} of a list of {}: pages are missing",
            counted(read, "call", "calls"),
            thousands(total)
        );
        remarks.push(text.into());
    }
    if let Some(start) = config.window.start
        && let Some((first, _)) = export.days().next()
        && first < start
    {
        let text = format!("days from {first} on are before window.start ({start})");
        remarks.push(RemarkKind::DaysBeforeStart.remark(text));
    }
    if !export.unended.is_empty() {
        let text = format!(
            "the last line of {} has no newline, so its last value may be cut",
            export.unended.join(", ")
        );
        remarks.push(text.into());
    }
    let (days, records) = export
        .days()
        .filter(|(day, _)| *day >= today)
        .fold((0, 0), |(days, sum), (_, records)| {
            (days + 1, sum + records)
        });
    if days > 0 {
        remarks.push(RemarkKind::UnendedDays.remark(format!(
            "{} of {} that had not ended {} left out",
            counted(records, "record", "records"),
            counted(days, "day", "days"),
            if records == 1 { "was" } else { "were" },
        )));
    }
    Ok(remarks)
}
