//! The lake by day, from its ledger alone: its slices, gaps and unusual days.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use serde::Serialize;

use super::Error;
use super::days::DayRange;
use crate::cdr::amount::AmountSum;
use crate::cdr::reconcile::Verdict;
use crate::cdr::slice::{Direction, Slice};
use crate::config::Config;
use crate::error::counted;
use crate::lake::ledger::{Commit, Reason, State};
use crate::lake::{Condition, Lake, LedgerEntry, SliceState, TableFormat};

/// The disposition that [answer-seizure ratio](https://en.wikipedia.org/wiki/Answer-seizure_ratio)
/// and average call duration count as an answer.
pub(crate) const ANSWERED: &str = "answered";
/// Earlier weeks whose same weekday a day is compared with.
const WEEKS_COMPARED: i64 = 4;
/// Fewest usual calls for which days are compared: smaller numbers vary too much.
const MIN_USUAL_CALLS: u64 = 20;
/// A day is unusual with more than this multiple of the usual calls, or less than this fraction.
const UNUSUAL_FACTOR: u64 = 2;

/// One slice.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct SliceStatus {
    /// The direction of its calls.
    pub direction: Direction,
    /// Its state in the ledger.
    pub state: SliceState,
    /// Records that came from the provider.
    pub records: u64,
    /// Its rows.
    pub rows: u64,
    /// Rejected records, which are no rows.
    pub rejected: u64,
    /// Its answered calls.
    pub answered: u64,
    /// Seconds talked.
    pub duration_seconds: i64,
    /// Charges, in US dollars.
    pub charge_usd: AmountSum,
    /// Answered calls among all, in percent. `null` without calls.
    pub asr_percent: Option<f64>,
    /// Seconds talked for each answered call. `null` without any.
    pub acd_seconds: Option<f64>,
    /// How the provider's count compared. `null` if nothing is committed.
    pub reconcile: Option<Verdict>,
    /// When its content was fetched. A later fetch of equal content does not change it.
    pub fetched_at: Option<Timestamp>,
    /// Why the last attempt failed, or what is wrong with the ledger entry.
    pub problem: Option<String>,
    /// The kind of problem, if it has a remedy.
    #[serde(skip)]
    pub reason: Option<Reason>,
}

/// One day.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct DayStatus {
    /// The day.
    pub day: Date,
    /// Its slices.
    pub slices: Vec<SliceStatus>,
    /// What needs attention, for people.
    pub remarks: Vec<String>,
}

/// The lake.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct LakeStatus {
    /// The first day.
    pub from: Date,
    /// The last day.
    pub to: Date,
    /// Slices that are closed.
    pub closed: u64,
    /// Slices that are open.
    pub open: u64,
    /// Slices whose last attempt failed.
    pub failed: u64,
    /// Slices whose ledger entry cannot be read.
    pub damaged: u64,
    /// Slices whose publication was interrupted.
    pub interrupted: u64,
    /// Slices that were never committed.
    pub missing: u64,
    /// Slices that were removed for their age.
    pub pruned: u64,
    /// The table formats of which the lake has a log.
    pub tables: Vec<TableFormat>,
    /// Runs whose changes these logs lack.
    pub unsynced_runs: u64,
    /// Every day from the first to the last.
    pub days: Vec<DayStatus>,
}

impl LakeStatus {
    /// Reads the ledger of `lake`: the selected days, else those from `window.start` on, else those
    /// from the lake's first day on.
    ///
    /// # Errors
    /// [`Error`] if the lake cannot be read, or the selection has no days.
    pub(crate) async fn read(
        lake: &Lake,
        config: &Config,
        range: &DayRange,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let directions = range.directions(&config.source.directions);
        let mut window = config.window.clone();
        if window.start.is_none() {
            window.start = lake.first_day(&directions).await?;
        }
        let days = range.days(&window, now)?;
        let entries = lake.entries(&directions, days.clone()).await?;
        Ok(Self {
            tables: lake.identity.tables().to_vec(),
            unsynced_runs: lake.unsynced_runs().await?,
            ..Self::new(&entries, &directions, days)
        })
    }

    /// The status of `directions` on `days`.
    pub(crate) fn new(
        entries: &HashMap<Slice, LedgerEntry>,
        directions: &[Direction],
        days: RangeInclusive<Date>,
    ) -> Self {
        let mut status = Self {
            from: *days.start(),
            to: *days.end(),
            closed: 0,
            open: 0,
            failed: 0,
            damaged: 0,
            interrupted: 0,
            missing: 0,
            pruned: 0,
            tables: Vec::new(),
            unsynced_runs: 0,
            days: Vec::new(),
        };
        let mut calls = BTreeMap::new();
        let all_days = std::iter::successors(Some(*days.start()), |day| day.tomorrow().ok())
            .take_while(|day| days.contains(day));
        for day in all_days {
            let slices: Vec<SliceStatus> = directions
                .iter()
                .map(|&direction| {
                    slice_status(direction, entries.get(&Slice::of_day(day, direction)))
                })
                .collect();
            for slice in &slices {
                *match slice.state {
                    SliceState::Closed => &mut status.closed,
                    SliceState::Open => &mut status.open,
                    SliceState::Failed => &mut status.failed,
                    SliceState::Damaged => &mut status.damaged,
                    SliceState::Interrupted => &mut status.interrupted,
                    SliceState::Missing => &mut status.missing,
                    SliceState::Pruned => &mut status.pruned,
                } += 1;
            }
            let remarks = remarks(day, &slices, &calls);
            if slices.iter().all(|slice| slice.state == SliceState::Closed) {
                calls.insert(day, slices.iter().map(|slice| slice.rows).sum::<u64>());
            }
            status.days.push(DayStatus {
                day,
                slices,
                remarks,
            });
        }
        status
    }
}

fn slice_status(direction: Direction, found: Option<&LedgerEntry>) -> SliceStatus {
    let entry = found.map(|found| &found.entry);
    let committed = entry.and_then(|entry| entry.committed.as_ref());
    let failed = entry.and_then(|entry| entry.failed.as_ref());
    let damage = match found.map(|found| &found.condition) {
        None | Some(Condition::Sound) => None,
        Some(Condition::Damaged(problem) | Condition::Unreadable(problem)) => Some(problem.clone()),
        Some(Condition::Newer(found)) => Some(format!("a newer cdrlake wrote it (format {found})")),
    };
    // The entry of a pruned slice keeps counts of rows that are gone.
    let committed = committed.filter(|commit| commit.state != State::Pruned);
    let of = |count: fn(&Commit) -> u64| committed.map_or(0, count);
    let rows = of(|commit| commit.counts.rows);
    let answered = of(|commit| {
        commit
            .totals
            .by_disposition
            .get(ANSWERED)
            .copied()
            .unwrap_or_default()
    });
    let duration_seconds = committed.map_or(0, |commit| commit.totals.duration_seconds);
    SliceStatus {
        direction,
        state: found.map_or(SliceState::Missing, LedgerEntry::state),
        records: of(|commit| commit.counts.records),
        rows,
        rejected: of(|commit| commit.counts.rejected),
        answered,
        duration_seconds,
        charge_usd: committed.map_or_else(AmountSum::default, |commit| commit.totals.charge_usd),
        asr_percent: asr_percent(answered, rows),
        acd_seconds: acd_seconds(duration_seconds, answered),
        reconcile: committed.map(|commit| commit.reconcile),
        fetched_at: committed.map(|commit| commit.fetched_at),
        reason: failed
            .filter(|_| damage.is_none())
            .and_then(|failed| failed.reason),
        problem: damage.or_else(|| failed.map(|failed| failed.problem.clone())),
    }
}

/// Answered calls among all, in percent, to one decimal.
#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
pub(crate) fn asr_percent(answered: u64, rows: u64) -> Option<f64> {
    (rows > 0).then(|| (answered as f64 / rows as f64 * 1000.0).round() / 10.0)
}

/// Seconds talked for each answered call, to one decimal.
#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
pub(crate) fn acd_seconds(duration_seconds: i64, answered: u64) -> Option<f64> {
    (answered > 0).then(|| (duration_seconds as f64 / answered as f64 * 10.0).round() / 10.0)
}

fn remarks(day: Date, slices: &[SliceStatus], calls_before: &BTreeMap<Date, u64>) -> Vec<String> {
    let mut remarks = Vec::new();
    for slice in slices {
        match slice.state {
            SliceState::Missing => remarks.push(format!("{} missing", slice.direction)),
            SliceState::Failed => remarks.push(format!("{} failed", slice.direction)),
            SliceState::Damaged => {
                remarks.push(format!("{} ledger entry damaged", slice.direction));
            }
            SliceState::Interrupted => remarks.push(format!("{} interrupted", slice.direction)),
            SliceState::Open => remarks.push(format!("{} open", slice.direction)),
            SliceState::Pruned => remarks.push(format!("{} pruned", slice.direction)),
            SliceState::Closed if slice.records == 0 => {
                remarks.push(format!("{} without calls", slice.direction));
            }
            SliceState::Closed => {}
        }
        match slice.reconcile {
            Some(Verdict::Mismatch) => {
                remarks.push(format!("{} count mismatch", slice.direction));
            }
            Some(Verdict::MatchWithDuplicates) => {
                remarks.push(format!(
                    "{} count matches only with duplicates",
                    slice.direction
                ));
            }
            _ => {}
        }
        if slice.rejected > 0 {
            remarks.push(format!(
                "{} {} of {} rejected",
                slice.direction, slice.rejected, slice.records
            ));
        }
    }
    if slices.iter().any(|slice| slice.state != SliceState::Closed) {
        return remarks;
    }
    let same_weekdays = (1..=WEEKS_COMPARED)
        .filter_map(|weeks| calls_before.get(&day.checked_sub(weeks.weeks()).ok()?));
    let mut before: Vec<u64> = same_weekdays.copied().collect();
    before.sort_unstable();
    let calls: u64 = slices.iter().map(|slice| slice.rows).sum();
    if let Some(&usual) = before.get(before.len() / 2)
        && usual >= MIN_USUAL_CALLS
        && (calls > usual.saturating_mul(UNUSUAL_FACTOR)
            || calls.saturating_mul(UNUSUAL_FACTOR) < usual)
    {
        remarks.push(format!(
            "unusual: {}, usually {usual} on this weekday",
            counted(calls, "call", "calls")
        ));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdr::slice::parse_day;
    use crate::lake::ledger::tests::commit;

    fn entry(day: Date, rows: u64, state: State) -> (Slice, LedgerEntry) {
        let slice = Slice::of_day(day, Direction::Placed);
        let mut commit = commit(None, state);
        commit.counts.rows = rows;
        commit.counts.records = rows;
        commit.totals.duration_seconds = 30;
        commit
            .totals
            .by_disposition
            .insert(ANSWERED.to_owned(), rows / 2);
        let mut found = LedgerEntry::absent(slice);
        found.entry.committed = Some(commit);
        (slice, found)
    }

    fn remarks_of(status: &LakeStatus, day: &str) -> Vec<String> {
        let day = parse_day(day).unwrap();
        status
            .days
            .iter()
            .find(|status| status.day == day)
            .unwrap()
            .remarks
            .clone()
    }

    #[test]
    fn gaps_and_unusual_days_have_remarks() {
        let first = parse_day("2026-09-01").unwrap();
        let last = parse_day("2026-09-30").unwrap();
        let rows = |day: Date| match day.to_string().as_str() {
            "2026-09-20" => 0,
            "2026-09-22" => 250,
            "2026-09-23" => 45,
            "2026-09-24" => 55,
            _ => 100,
        };
        let days = std::iter::successors(Some(first), |day| day.tomorrow().ok())
            .take_while(|day| *day <= last);
        let mut entries: HashMap<Slice, LedgerEntry> = days
            .filter(|day| day.to_string() != "2026-09-15")
            .map(|day| {
                entry(
                    day,
                    rows(day),
                    if day == last {
                        State::Open
                    } else {
                        State::Closed
                    },
                )
            })
            .collect();
        let dead = Slice::of_day(parse_day("2026-09-16").unwrap(), Direction::Placed);
        let pending = crate::lake::ledger::Pending {
            run: String::new(),
            token: String::new(),
            file: None,
            digest: crate::cdr::digest::Digest::default(),
            planned: None,
        };
        entries.get_mut(&dead).unwrap().entry.pending = Some(pending);
        let status = LakeStatus::new(&entries, &[Direction::Placed], first..=last);
        assert_eq!(
            (
                status.closed,
                status.open,
                status.interrupted,
                status.missing
            ),
            (27, 1, 1, 1)
        );
        assert_eq!(remarks_of(&status, "2026-09-15"), ["placed missing"]);
        assert_eq!(remarks_of(&status, "2026-09-16"), ["placed interrupted"]);
        assert_eq!(
            remarks_of(&status, "2026-09-20"),
            [
                "placed without calls",
                "unusual: 0 calls, usually 100 on this weekday"
            ]
        );
        assert_eq!(
            remarks_of(&status, "2026-09-22"),
            ["unusual: 250 calls, usually 100 on this weekday"]
        );
        assert_eq!(
            remarks_of(&status, "2026-09-23"),
            ["unusual: 45 calls, usually 100 on this weekday"]
        );
        assert_eq!(remarks_of(&status, "2026-09-24"), [] as [&str; 0]);
        assert_eq!(remarks_of(&status, "2026-09-30"), ["placed open"]);
        let slice = &status.days[0].slices[0];
        assert_eq!(
            (slice.asr_percent, slice.acd_seconds),
            (Some(50.0), Some(0.6))
        );
    }

    #[test]
    fn a_count_that_matches_only_with_duplicates_has_a_remark() {
        let day = parse_day("2026-10-01").unwrap();
        let remarks = |verdict| {
            let (slice, mut found) = entry(day, 3, State::Closed);
            found.entry.committed.as_mut().unwrap().reconcile = verdict;
            let entries = HashMap::from([(slice, found)]);
            let status = LakeStatus::new(&entries, &[Direction::Placed], day..=day);
            status.days[0].remarks.clone()
        };
        assert_eq!(remarks(Verdict::Match), [] as [&str; 0]);
        assert_eq!(remarks(Verdict::Mismatch), ["placed count mismatch"]);
        assert_eq!(
            remarks(Verdict::MatchWithDuplicates),
            ["placed count matches only with duplicates"]
        );
    }

    #[test]
    fn rejects_have_a_remark_and_a_day_with_only_rejects_is_not_a_day_without_calls() {
        let day = parse_day("2026-10-01").unwrap();
        let remarks = |rows, rejected| {
            let (slice, mut found) = entry(day, rows, State::Closed);
            let counts = &mut found.entry.committed.as_mut().unwrap().counts;
            counts.rejected = rejected;
            counts.records += rejected;
            let entries = HashMap::from([(slice, found)]);
            let status = LakeStatus::new(&entries, &[Direction::Placed], day..=day);
            assert_eq!(status.days[0].slices[0].rejected, rejected);
            status.days[0].remarks.clone()
        };
        assert_eq!(remarks(0, 0), ["placed without calls"]);
        assert_eq!(remarks(0, 3), ["placed 3 of 3 rejected"]);
        assert_eq!(remarks(97, 3), ["placed 3 of 100 rejected"]);
    }
}
