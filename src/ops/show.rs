//! Everything that a lake knows about the slices of a day or a month: the first question after "the
//! numbers differ".

use futures::TryStreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Error;
use super::days::DayRange;
use super::rejects::{Group, Rejects};
use super::run::reports::reports;
use crate::cdr::period::Period;
use crate::cdr::slice::{Direction, Slice};
use crate::config::Config;
use crate::lake::ledger::Entry;
use crate::lake::report::SliceReport;
use crate::lake::{Lake, SliceState, is_intact};

/// What a lake knows about one slice.
#[derive(Debug, Serialize)]
pub(crate) struct SliceDetails {
    /// Its state.
    pub state: SliceState,
    /// What is wrong with its ledger entry, of which nothing else is known then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// Its ledger entry: what was asked, when, by which run, and what came of it.
    #[serde(flatten)]
    pub entry: Entry,
    /// Whether the lake has its file, in the size of its ledger entry. `null` without a file.
    pub file_is_intact: Option<bool>,
    /// Its rejects, and those of its last failed attempt, by reason. Numbers in examples are
    /// hidden.
    pub rejects: Vec<Group>,
    /// Rejects that cannot be read, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<String>,
    /// The runs for which it was due, oldest first, as far as their reports are kept.
    pub runs: Vec<SliceRun>,
}

/// What a run did with a slice, or with a day of a month before the lake was converted.
#[derive(Debug, Serialize)]
pub(crate) struct SliceRun {
    /// The run.
    pub run: String,
    /// When it ended.
    pub finished_at: Timestamp,
    /// What it reported.
    #[serde(flatten)]
    pub report: SliceReport,
}

/// The part of a run report that concerns slices.
#[derive(Deserialize)]
pub(super) struct ReportedSlices {
    pub(super) run: String,
    pub(super) finished_at: Timestamp,
    pub(super) slices: Vec<SliceReport>,
}

/// What `lake` knows about the slices of the period that contains the first day of `period`, in the
/// order of `directions`. A day of a lake of months means its month. Reports are read a few at a
/// time.
///
/// # Errors
/// [`Error`] if the lake cannot be read. A damaged ledger entry is part of the result.
pub(crate) async fn show(
    lake: &Lake,
    config: &Config,
    period: Period,
    directions: &[Direction],
    now: Timestamp,
) -> Result<Vec<SliceDetails>, Error> {
    let days = period.days();
    let mut runs: Vec<SliceRun> = Vec::new();
    let mut told = std::pin::pin!(reports::<ReportedSlices>(lake).await?);
    while let Some(told) = told.try_next().await? {
        let ReportedSlices {
            run,
            finished_at,
            slices,
        } = told;
        let of_period = slices
            .into_iter()
            .filter(|report| report.period.touches(&days));
        runs.extend(of_period.map(|report| SliceRun {
            run: run.clone(),
            finished_at,
            report,
        }));
    }
    runs.sort_by(|a, b| (&a.run, a.report.period).cmp(&(&b.run, b.report.period)));
    let mut shown = Vec::new();
    for &direction in directions {
        let slice = Slice::new(period, direction);
        let mut found = lake.entry(slice).await;
        // While a lake is converted, a month that is merged replaces its days.
        if lake.identity.converting.is_some() {
            let merged = lake.entry(slice.month()).await;
            if merged.entry.committed.is_some() {
                found = merged;
            }
        }
        let days = found.entry.slice.period.days();
        let file = lake.table().file(&found.entry).await?;
        let range = DayRange {
            from: Some(*days.start()),
            to: Some(*days.end()),
            last_days: None,
            direction: Some(direction),
        };
        let rejects = Rejects::read(lake, &config.window, &range, false, now).await?;
        let is_of_it = |run: &mut SliceRun| run.report.direction == direction;
        shown.push(SliceDetails {
            state: found.state(),
            damage: found.condition.problem(),
            file_is_intact: found
                .entry
                .file()
                .map(|expected| is_intact(Some(expected), file.as_ref())),
            entry: found.entry,
            rejects: rejects.groups,
            unreadable: rejects.unreadable,
            runs: runs.extract_if(.., is_of_it).collect(),
        });
    }
    Ok(shown)
}
