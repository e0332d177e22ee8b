//! One pass over the files of the days in question, in their order.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::civil::Date;

use super::file::{FileSums, RankedNames, Scope, read_file};
use super::hours::{Quarters, seconds_around};
use super::peaks::{Peak, Sweep};
use super::prices::Prices;
use super::sums::{DaySums, Outcomes};
use crate::cdr::columns::SCHEMA_VERSION;
use crate::cdr::period::PeriodUnit;
use crate::cdr::slice::{Direction, Slice};
use crate::cdr::tally::{Counts, DayTotals, OTHER_DISPOSITIONS, Totals};
use crate::error::{Panicked, chain, sanitized_excerpt};
use crate::lake::ledger::Commit;
use crate::lake::{Lake, LakeError, LedgerEntry};
use crate::ops::status::ANSWERED;
use crate::ops::thread::on_thread;

/// Files of a lake in a bucket that are fetched at the same time.
const CONCURRENT_FETCHES: usize = 8;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FileProblem {
    /// It cannot be read, and nothing of it is in the report.
    Unreadable(String),
    /// Its rows are in the report, and not what the ledger has.
    Altered(String),
    /// So many calls begin, or last, more than a day outside the days of the slice.
    Outside { begin: u64, last: u64 },
}

/// The sums of all files.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) days: BTreeMap<(Date, Direction), DaySums>,
    /// Of every direction, also without calls: their hours count.
    pub(super) quarters: BTreeMap<Direction, Quarters>,
    pub(super) peaks: Vec<Peak>,
    pub(super) names: RankedNames,
    pub(super) prices: Prices,
    pub(super) problems: BTreeMap<Slice, Vec<FileProblem>>,
    pub(super) rows: u64,
    pub(super) files: u64,
    /// The time that all threads together took.
    pub(super) took: Duration,
}

impl Pass {
    /// Reads the files of these slices, which are of `directions`. Memory: a batch of rows and the sums of a file for each of
    /// a few files, some kilobytes for each day, and sums by name, whose number is bounded.
    ///
    /// # Errors
    /// [`LakeError`] if the lake cannot be read at all. A file that cannot be read is a problem.
    pub(super) async fn read(
        lake: &Lake,
        entries: &HashMap<Slice, LedgerEntry>,
        directions: &[Direction],
        scope: &Scope,
    ) -> Result<Self, LakeError> {
        let mut slices: Vec<Slice> = entries.keys().copied().collect();
        // The sweep and prices need the order of days.
        slices.sort_unstable();
        let seconds = seconds_around(&scope.read, &scope.timezone);
        let quarters = directions.iter().copied();
        let quarters = quarters.map(|direction| (direction, Quarters::within(&seconds)));
        let mut pass = Pass {
            days: BTreeMap::new(),
            quarters: quarters.collect(),
            peaks: Vec::new(),
            names: RankedNames::default(),
            prices: Prices::default(),
            problems: BTreeMap::new(),
            rows: 0,
            files: 0,
            took: Duration::ZERO,
        };
        let mut sweep = Sweep::new(scope.timezone.clone());
        let at_once = match lake.lease_expiry() {
            // In a bucket most of the time is latency.
            Some(_) => CONCURRENT_FETCHES,
            None => std::thread::available_parallelism().map_or(2, usize::from),
        };
        let reads = stream::iter(slices).map(async |slice| {
            let read = read_slice(lake, slice, &entries[&slice], scope).await;
            (slice, read)
        });
        let mut reads = std::pin::pin!(reads.buffered(at_once));
        while let Some((slice, read)) = reads.next().await {
            let (sums, problem) = read?;
            let mut problems: Vec<FileProblem> = problem.into_iter().collect();
            if let Some(sums) = sums {
                let (begin, last) = (sums.outside, sums.overlong);
                if begin + last > 0 {
                    problems.push(FileProblem::Outside { begin, last });
                }
                pass.add(slice.direction, sums, &mut sweep);
            }
            if !problems.is_empty() {
                pass.problems.insert(slice, problems);
            }
        }
        pass.peaks = sweep.finish();
        pass.peaks.retain(|peak| scope.period.contains(&peak.day));
        Ok(pass)
    }

    /// Adds the sums of a file.
    fn add(&mut self, direction: Direction, sums: FileSums, sweep: &mut Sweep) {
        for (day, of_day) in sums.days {
            self.days
                .entry((day, direction))
                .or_default()
                .merge(&of_day);
        }
        if let Some(quarters) = self.quarters.get_mut(&direction) {
            quarters.merge(&sums.quarters);
        }
        if let Some(differences) = &sums.differences {
            sweep.add(differences);
        }
        if let Some(names) = sums.names {
            self.names.merge(names);
        }
        for (day, destination, price) in sums.prices {
            self.prices.add(destination, day, price);
        }
        self.rows += sums.rows;
        self.files += 1;
        self.took += sums.took;
    }
}

/// The sums of a slice's file, and what is wrong with it. A run may replace the file meanwhile:
/// then its new ledger entry counts.
async fn read_slice(
    lake: &Lake,
    slice: Slice,
    found: &LedgerEntry,
    scope: &Scope,
) -> Result<(Option<FileSums>, Option<FileProblem>), LakeError> {
    let (sums, problem) = look(lake, slice, found, scope).await?;
    if problem.is_none() {
        return Ok((sums, None));
    }
    let now = lake.entry(slice).await;
    if now.is_same_as(found) {
        return Ok((sums, problem));
    }
    look(lake, slice, &now, scope).await
}

async fn look(
    lake: &Lake,
    slice: Slice,
    found: &LedgerEntry,
    scope: &Scope,
) -> Result<(Option<FileSums>, Option<FileProblem>), LakeError> {
    let entry = &found.entry;
    let commit = entry.committed.as_ref();
    let unreadable = |problem: &str| {
        let problem = FileProblem::Unreadable(sanitized_excerpt(problem));
        Ok((None, Some(problem)))
    };
    let copy = match lake.table().local_copy(entry).await {
        Ok(Some(copy)) => copy,
        Ok(None) if entry.file().is_some() => return unreadable("its file is missing"),
        // Without rows there is no file.
        Ok(None) => return Ok((None, None)),
        Err(error) if error.is_denied() => return unreadable(&chain(&error)),
        Err(error) => return Err(error),
    };
    let version = commit.map_or(SCHEMA_VERSION, |commit| commit.schema_version);
    let of_thread = scope.clone();
    let read = on_thread(move || read_file(&copy.path, slice, version, &of_thread)).await;
    match read {
        None => unreadable(&Panicked.to_string()),
        Some(Err(error)) => unreadable(&chain(&error)),
        Some(Ok(sums)) => {
            let altered = commit.and_then(|commit| difference(slice, &sums, commit, scope));
            Ok((Some(sums), altered.map(FileProblem::Altered)))
        }
    }
}

/// The first difference between the rows of a file and its ledger entry.
fn difference(slice: Slice, sums: &FileSums, commit: &Commit, scope: &Scope) -> Option<String> {
    if sums.rows != commit.counts.rows {
        let Counts { rows, .. } = commit.counts;
        return Some(format!(
            "{rows} rows in the ledger, {} in the file",
            sums.rows
        ));
    }
    let of_file = |day: Date| sums.days.get(&day).copied().unwrap_or_default();
    let in_ledger: Vec<(Date, DaySums)> = match slice.period.unit() {
        PeriodUnit::Day => {
            let day = slice.period.first_day();
            let sums = sums_of(commit.counts.rows, &commit.totals, of_file(day));
            vec![(day, sums)]
        }
        PeriodUnit::Month => {
            let sums = |(day, of): (&Date, &DayTotals)| {
                (*day, sums_of(of.rows, &of.totals, of_file(*day)))
            };
            commit.days.iter().map(sums).collect()
        }
    };
    let differing = in_ledger
        .into_iter()
        .find(|(day, in_ledger)| scope.read.contains(day) && *in_ledger != of_file(*day));
    differing.map(|(day, in_ledger)| {
        let shown = |sums: &DaySums| {
            let Outcomes {
                calls,
                duration_seconds,
                ..
            } = sums.outcomes;
            format!(
                "{calls} calls, {duration_seconds} seconds, {} USD",
                sums.charge_usd
            )
        };
        format!(
            "on {day}, {} in the ledger, {} in the file",
            shown(&in_ledger),
            shown(&of_file(day))
        )
    })
}

/// The sums of a ledger entry, as the report has them. It may lack a disposition among very many:
/// then `found` counts.
fn sums_of(rows: u64, totals: &Totals, found: DaySums) -> DaySums {
    let of = |disposition: &str| totals.by_disposition.get(disposition).copied();
    let has_all = !totals.by_disposition.contains_key(OTHER_DISPOSITIONS);
    let outcomes = Outcomes {
        calls: rows,
        duration_seconds: totals.duration_seconds,
        ..found.outcomes
    };
    DaySums {
        outcomes: if has_all {
            Outcomes {
                answered: of(ANSWERED).unwrap_or_default(),
                failed: of("failed").unwrap_or_default(),
                busy: of("busy").unwrap_or_default(),
                ..outcomes
            }
        } else {
            outcomes
        },
        charge_usd: totals.charge_usd,
        forward_fee_usd: totals.forward_fee_usd,
    }
}
