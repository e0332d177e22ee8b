//! Removes days beyond their retention.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use jiff::{Span, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{Removal, is_hopeless};
use crate::cdr::period::Period;
use crate::cdr::slice::{Direction, Slice};
use crate::config::Config;
use crate::error::chain;
use crate::lake::ledger::State;
use crate::lake::report::{RunReport, SliceOutcome, SliceReport};
use crate::lake::{Lake, LakeError};
use crate::ops::days::today;
use crate::ops::{Error, Observer, UsageError};
use crate::store::layout;

/// The result of a prune.
#[derive(Debug)]
pub struct Pruned {
    /// The slices that were beyond their retention.
    pub old: Old,
    /// The run report; `None` if there were no such slices.
    pub report: Option<RunReport>,
}

/// The first day that is kept at `now` with a retention of `age`, in the account's time zone.
///
/// # Errors
/// [`Error::Usage`] if the calendar has no such day.
pub fn first_kept(config: &Config, age: Span, now: Timestamp) -> Result<Date, Error> {
    let first = today(&config.window, now).checked_sub(age);
    Ok(first.map_err(|_| UsageError::BeforeCalendar)?)
}

/// Removes the slices that end before `before`.
///
/// # Errors
/// [`LakeError`] if the lake cannot be listed, or cannot be written at all.
pub async fn prune_before(
    lake: &Lake,
    before: Date,
    observer: &dyn Observer,
    interrupt: &CancellationToken,
) -> Result<Pruned, LakeError> {
    let old = find_old(lake, before).await?;
    let mut report = None;
    if !old.slices.is_empty() {
        observer.slices_began(old.slices.len());
        let slices = old.slices.keys().copied().collect();
        let done = || observer.slice_looked_at();
        report = Some(prune(lake, &slices, interrupt, &done).await?);
        observer.ended();
    }
    Ok(Pruned { old, report })
}

/// What of a lake is beyond its retention.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Old {
    /// The slices that ended before the first day that is kept.
    pub slices: BTreeMap<Slice, OldSlice>,
    /// The period that has days before the first day that is kept, and is kept for the others.
    pub kept_with_old_days: Option<Period>,
}

/// What the lake holds of a slice beyond its retention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OldSlice {
    /// Its rows, according to the ledger.
    pub rows: u64,
    /// Bytes of its file and of its rejects.
    pub bytes: u64,
}

/// The slices that end before `before`, and that have a file or rejects, or that a run may fetch
/// again.
///
/// # Errors
/// [`LakeError`] if the lake cannot be listed.
pub async fn find_old(lake: &Lake, before: Date) -> Result<Old, LakeError> {
    let Ok(last) = before.yesterday() else {
        return Ok(Old::default());
    };
    let (entries, table, rejects) = futures::try_join!(
        lake.entries(&Direction::ALL, Date::MIN..=last),
        lake.table().files(),
        lake.rejects()
    )?;
    let mut found: BTreeMap<Slice, OldSlice> = BTreeMap::new();
    let mut kept_with_old_days = None;
    for (slice, known) in entries {
        if slice.period.last_day() >= before {
            kept_with_old_days = Some(slice.period);
            continue;
        }
        let committed = known.entry.committed;
        if committed
            .as_ref()
            .is_none_or(|commit| commit.state != State::Pruned)
        {
            let rows = committed.map_or(0, |commit| commit.counts.rows);
            found.entry(slice).or_default().rows = rows;
        }
    }
    let of_rejects = rejects.iter().filter_map(|(path, object)| {
        let (slice, _) = layout::rejects_slice(path)?;
        Some((slice, object.size_bytes))
    });
    for (slice, bytes) in table.sizes().chain(of_rejects) {
        if slice.period.last_day() < before {
            found.entry(slice).or_default().bytes += bytes;
        }
    }
    Ok(Old {
        slices: found,
        kept_with_old_days,
    })
}

/// Removes everything that the lake holds of `slices`, so that no run fetches them again. Calls
/// `done` after each. Failures are part of the report.
///
/// # Errors
/// [`LakeError`] if the lake cannot be written at all.
pub async fn prune(
    lake: &Lake,
    slices: &BTreeSet<Slice>,
    interrupt: &CancellationToken,
    done: &(dyn Fn() + Sync),
) -> Result<RunReport, LakeError> {
    let mut removal = Removal::begin(lake, interrupt).await?;
    for &slice in slices {
        match prune_slice(&removal, slice).await {
            Ok(Some(report)) => removal.slices.push(report),
            Ok(None) => removal.add_skipped(slice),
            Err(error) => removal.add_failed(slice, chain(&error), is_hopeless(&error)),
        }
        done();
    }
    let mut warnings = Vec::new();
    let problem = match removal.purge(slices).await {
        Ok(true) => None,
        Ok(false) => Some("the command ended before its files were removed".to_owned()),
        Err(error) => Some(chain(&error)),
    };
    if let Some(problem) = problem {
        for slice in &mut removal.slices {
            slice.outcome = SliceOutcome::Failed;
            slice.error.get_or_insert_with(|| problem.clone());
        }
        warnings.push(format!(
            "files of pruned days may be left: {problem}. Prune again"
        ));
    }
    Ok(removal.end(warnings).await)
}

/// `None` if this was interrupted, or every further slice would fail.
async fn prune_slice(
    removal: &Removal<'_>,
    slice: Slice,
) -> Result<Option<SliceReport>, LakeError> {
    let Some(lease) = removal.lease(slice).await? else {
        return Ok(None);
    };
    let before = removal.lake.usable_entry(slice).await?;
    let had_file = removal.lake.table().file(&before.entry).await?.is_some();
    removal.lake.prune(&removal.mark, &*lease, before).await?;
    // Its counts stay zero: a report counts what is in the lake.
    let mut report = SliceReport::new(slice, SliceOutcome::Committed);
    report.state = Some(State::Pruned);
    report.table_changed = had_file;
    Ok(Some(report))
}
