//! One pass over the files of the days in question, in their order.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
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
use crate::cdr::tally::{Counts, OTHER_DISPOSITIONS, Totals};
use crate::error::{Panicked, chain, sanitized_excerpt};
use crate::lake::ledger::Commit;
use crate::lake::{Condition, Lake, LakeError, LedgerEntry};
use crate::ops::status::ANSWERED;
use crate::ops::thread::on_thread;

/// Files of a lake in a bucket that are fetched at the same time.
const CONCURRENT_FETCHES: usize = 8;
/// Files of months that are read at the same time: the sums of each are some 11 MB.
const CONCURRENT_MONTHS: usize = 4;

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
    /// Ledger entries that a run changed meanwhile: the sums are those of these.
    pub(super) replaced: Vec<(Slice, LedgerEntry)>,
    pub(super) rows: u64,
    pub(super) files: u64,
    /// The time that all threads together took.
    pub(super) took: Duration,
}

impl Pass {
    /// Reads the files of these slices, which are of `directions`. Memory: a batch of rows and the
    /// sums of a file for each of a few files, some kilobytes for each day, and sums by name, whose
    /// number is bounded.
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
            replaced: Vec::new(),
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
        let is_month = |slice: &Slice| slice.period.unit() == PeriodUnit::Month;
        let at_once = if slices.iter().any(is_month) {
            at_once.min(CONCURRENT_MONTHS)
        } else {
            at_once
        };
        let reads = stream::iter(slices).map(async |slice| {
            let read = read_slice(lake, slice, &entries[&slice], scope).await;
            (slice, read)
        });
        let mut reads = std::pin::pin!(reads.buffered(at_once));
        while let Some((slice, read)) = reads.next().await {
            let (Look { sums, problem }, replaced) = read?;
            pass.replaced.extend(replaced.map(|entry| (slice, entry)));
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

/// The sums of a slice's file, and what is wrong with it.
#[derive(Debug)]
struct Look {
    sums: Option<FileSums>,
    problem: Option<FileProblem>,
}

/// Looks at a slice's file. A run may replace it meanwhile: then its new ledger entry counts, which
/// is part of the result.
async fn read_slice(
    lake: &Lake,
    slice: Slice,
    found: &LedgerEntry,
    scope: &Scope,
) -> Result<(Look, Option<LedgerEntry>), LakeError> {
    let first = look(lake, slice, found, scope).await?;
    if first.problem.is_none() {
        return Ok((first, None));
    }
    let now = lake.entry(slice).await;
    // An entry that cannot be used says nothing about the file.
    if now.is_same_as(found) || now.condition != Condition::Sound {
        return Ok((first, None));
    }
    Ok((look(lake, slice, &now, scope).await?, Some(now)))
}

async fn look(
    lake: &Lake,
    slice: Slice,
    found: &LedgerEntry,
    scope: &Scope,
) -> Result<Look, LakeError> {
    let entry = &found.entry;
    let commit = entry.committed.as_ref();
    let unreadable = |problem: &str| {
        let problem = FileProblem::Unreadable(sanitized_excerpt(problem));
        Ok(Look {
            sums: None,
            problem: Some(problem),
        })
    };
    let copy = match lake.table().local_copy(entry).await {
        Ok(Some(copy)) => copy,
        Ok(None) if entry.file().is_some() => return unreadable("its file is missing"),
        // Without rows there is no file.
        Ok(None) => {
            return Ok(Look {
                sums: None,
                problem: None,
            });
        }
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
            Ok(Look {
                sums: Some(sums),
                problem: altered.map(FileProblem::Altered),
            })
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
    let in_ledger: Vec<(Date, u64, &Totals)> = match slice.period.unit() {
        PeriodUnit::Day => {
            let rows = commit.counts.rows;
            vec![(slice.period.first_day(), rows, &commit.totals)]
        }
        PeriodUnit::Month => {
            let days = commit.days.iter();
            days.map(|(day, of)| (*day, of.rows, &of.totals)).collect()
        }
    };
    let mut in_ledger = in_ledger.into_iter();
    in_ledger.find_map(|(day, rows, totals)| {
        let of_file = sums.days.get(&day).copied().unwrap_or_default();
        let found = difference_of_day(&of_file, rows, totals);
        let (of, ledger, file) = found.filter(|_| scope.read.contains(&day))?;
        Some(format!(
            "on {day}, the {of} are {ledger} in the ledger, {file} in the file"
        ))
    })
}

/// The name of the first sum of a day that differs, with its value in the ledger and in the file.
fn difference_of_day(
    file: &DaySums,
    rows: u64,
    totals: &Totals,
) -> Option<(&'static str, String, String)> {
    let ledger = sums_of(rows, totals);
    let (in_ledger, in_file) = (ledger.outcomes, file.outcomes);
    let pair = |of: &'static str, ledger: &dyn Display, file: &dyn Display| {
        (of, ledger.to_string(), file.to_string())
    };
    let mut pairs = vec![
        pair("calls", &in_ledger.calls, &in_file.calls),
        pair(
            "seconds",
            &in_ledger.duration_seconds,
            &in_file.duration_seconds,
        ),
        pair("charges in USD", &ledger.charge_usd, &file.charge_usd),
        pair(
            "fees for forwarding in USD",
            &ledger.forward_fee_usd,
            &file.forward_fee_usd,
        ),
    ];
    // Of many dispositions the ledger has only the first ones by name.
    if !totals.by_disposition.contains_key(OTHER_DISPOSITIONS) {
        pairs.extend([
            pair("answered calls", &in_ledger.answered, &in_file.answered),
            pair("failed calls", &in_ledger.failed, &in_file.failed),
            pair("busy calls", &in_ledger.busy, &in_file.busy),
        ]);
    }
    pairs.into_iter().find(|(_, ledger, file)| ledger != file)
}

/// The sums of a ledger entry, as the report has them.
pub(super) fn sums_of(rows: u64, totals: &Totals) -> DaySums {
    let of = |disposition: &str| totals.by_disposition.get(disposition).copied();
    DaySums {
        outcomes: Outcomes {
            calls: rows,
            answered: of(ANSWERED).unwrap_or_default(),
            failed: of("failed").unwrap_or_default(),
            busy: of("busy").unwrap_or_default(),
            duration_seconds: totals.duration_seconds,
        },
        charge_usd: totals.charge_usd,
        forward_fee_usd: totals.forward_fee_usd,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::civil::date;
    use jiff::tz::TimeZone;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;
    use object_store::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::lake::PublishedFile;
    use crate::lake::ledger::tests::commit;
    use crate::lake::ledger::{Entry, State};
    use crate::privacy::{Modes, Privacy};
    use crate::slice_file::statistics::FileStatistics;
    use crate::store::bucket::BucketStore;
    use crate::store::layout;

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_changed_meanwhile_counts_only_if_it_can_be_used() {
        let objects = Arc::new(InMemory::new());
        let config = Config::from_keys([("lake.url", "s3://bucket/lake")]).unwrap();
        let privacy = || Privacy::new(Modes::default(), None);
        let store = Arc::new(BucketStore::in_memory(&objects));
        let lake = Lake::open(store, &config.identity(&privacy()), privacy()).await;
        let lake = lake.unwrap();
        let day = date(2026, 10, 1);
        let slice = Slice::of_day(day, Direction::Placed);
        let scope = Scope {
            read: day..=day,
            period: day..=day,
            before: day..=day,
            timezone: TimeZone::UTC,
        };
        // Its file was removed meanwhile.
        let file = PublishedFile {
            path: String::new(),
            rows: 1,
            bytes: 1,
            checksum: String::new(),
            etag: None,
            statistics: FileStatistics::default(),
        };
        let mut found = LedgerEntry::absent(slice);
        found.entry.committed = Some(commit(Some(file), State::Closed));
        let mut without_calls = Entry::new(slice);
        without_calls.committed = Some(commit(None, State::Closed));
        let without_calls = serde_json::to_string(&without_calls).unwrap();
        for (now, is_usable) in [(&*without_calls, true), ("{", false)] {
            let path = Path::from(format!("lake/{}", layout::ledger_entry(slice)));
            let bytes = now.as_bytes().to_vec().into();
            objects.put(&path, bytes).await.unwrap();
            let (look, replaced) = read_slice(&lake, slice, &found, &scope).await.unwrap();
            assert_eq!(look.problem.is_none(), is_usable, "{:?}", look.problem);
            let state = replaced.map(|entry| entry.state());
            assert_eq!(state, is_usable.then_some(crate::lake::SliceState::Closed));
        }
    }
}
