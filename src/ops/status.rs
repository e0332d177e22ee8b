//! The lake by day, from its ledger alone: its slices, gaps and unusual days. The day of a lake of
//! months has the rows that the ledger of the month counts of it.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::Serialize;

use super::Error;
use super::days::{DayRange, today};
use super::period_remarks::{closed_files, on_files};
use crate::cdr::amount::AmountSum;
use crate::cdr::day::end_of_day;
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::reconcile::Verdict;
use crate::cdr::slice::{Direction, Slice};
use crate::cdr::tally::{DayTotals, Totals};
use crate::config::Config;
use crate::error::counted;
use crate::lake::ledger::{Commit, Reason, State};
use crate::lake::report::Remark;
use crate::lake::{Lake, LedgerEntry, SliceState, TableFormat};

/// The disposition that [answer-seizure ratio](https://en.wikipedia.org/wiki/Answer-seizure_ratio)
/// and average call duration count as an answer.
pub(crate) const ANSWERED: &str = "answered";
/// Earlier weeks whose same weekday a day is compared with.
const WEEKS_COMPARED: i64 = 4;
/// Fewest usual calls for which days are compared: smaller numbers vary too much.
const MIN_USUAL_CALLS: u64 = 20;
/// A day is unusual with more than this multiple of the usual calls, or less than this fraction.
const UNUSUAL_FACTOR: u64 = 2;

/// The remark on the day that has not ended, of which calls were fetched.
pub(crate) const TODAY: &str = "today so far";

/// One slice, or one day of the slice of a month.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct SliceStatus {
    /// The direction of its calls.
    pub direction: Direction,
    /// The state of the slice in the ledger.
    pub state: SliceState,
    /// Records that came from the provider. `null` for a day of a month: a record without a valid
    /// date belongs to no day.
    pub records: Option<u64>,
    /// Its rows.
    pub rows: u64,
    /// Rejected records, which are no rows. `null` for a day of a month.
    pub rejected: Option<u64>,
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
    /// How the provider's count compared. `null` if nothing is committed, and for a day of a month.
    pub reconcile: Option<Verdict>,
    /// When its content was fetched. A later fetch of equal content does not change it. `null` for
    /// a day that had not ended when its month was fetched.
    pub fetched_at: Option<Timestamp>,
    /// Why the last attempt failed, or what is wrong with the ledger entry. `null` for a day of a
    /// month.
    pub problem: Option<String>,
    /// The kind of problem, if it has a remedy.
    #[serde(skip)]
    pub reason: Option<Reason>,
}

impl SliceStatus {
    /// Whether the lake has all calls of `day`, which is of this slice: they were fetched after its
    /// end.
    pub(crate) fn has_whole(&self, day: Date, timezone: &TimeZone) -> bool {
        let is_usable = !matches!(self.state, SliceState::Damaged | SliceState::Interrupted);
        // A closed month that was merged from days has the time of the first one.
        let is_after = |at| self.state == SliceState::Closed || at >= end_of_day(day, timezone);
        is_usable && self.fetched_at.is_some_and(is_after)
    }
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

/// One month of a lake of months.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct MonthStatus {
    /// The month.
    #[serde(flatten)]
    pub month: Period,
    /// Its slices, whole.
    pub slices: Vec<SliceStatus>,
    /// What needs attention beyond its days, for people.
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
    /// The periods of its slices.
    pub slice: PeriodUnit,
    /// The months with one of these days, in a lake of months.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub months: Vec<MonthStatus>,
    /// Every day from the first to the last.
    pub days: Vec<DayStatus>,
    /// A remark if the closed slices have many small files.
    #[serde(skip)]
    pub small_files: Option<Remark>,
}

impl LakeStatus {
    /// Reads the ledger of `lake`: the selected days, else those from `window.start` on, else those
    /// from the lake's first day on. Without a last day, today is among them if it was fetched.
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
        let mut days = range.days(&window, now)?;
        let today = today(&window, now);
        let may_have_today = range.to.is_none() && today > *days.end();
        let last = if may_have_today { today } else { *days.end() };
        let entries = lake.entries(&directions, *days.start()..=last).await?;
        if may_have_today && has_day(&entries, today) {
            days = *days.start()..=today;
        }
        Ok(Self {
            tables: lake.identity.tables().to_vec(),
            unsynced_runs: lake.unsynced_runs().await?,
            ..Self::new(
                lake.identity.period_unit(),
                &entries,
                &directions,
                days,
                today,
            )
        })
    }

    /// The status of `directions` on `days`, in a lake with periods of this `unit`. What is missing
    /// of `today` is not expected yet.
    pub(crate) fn new(
        unit: PeriodUnit,
        entries: &HashMap<Slice, LedgerEntry>,
        directions: &[Direction],
        days: RangeInclusive<Date>,
        today: Date,
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
            slice: unit,
            months: Vec::new(),
            days: Vec::new(),
            small_files: on_files(closed_files(entries)),
        };
        let mut calls = BTreeMap::new();
        for period in Period::touching(days.clone(), unit) {
            let found = |&direction| entries.get(&Slice::new(period, direction));
            let slices: Vec<SliceStatus> = directions
                .iter()
                .map(|direction| {
                    let slice = Slice::new(period, *direction);
                    match entries.get(&slice.month()) {
                        // While a lake is converted, months that are merged replace their days.
                        Some(merged)
                            if unit == PeriodUnit::Day && merged.entry.committed.is_some() =>
                        {
                            let whole = slice_status(*direction, Some(merged));
                            day_of_month(period.first_day(), &whole, committed(Some(merged)))
                        }
                        _ => slice_status(*direction, found(direction)),
                    }
                })
                .filter(|slice| slice.state != SliceState::Missing || period.first_day() < today)
                .collect();
            status.count(&slices);
            match unit {
                PeriodUnit::Day => {
                    status.add_day(period.first_day(), slices, today, &mut calls);
                }
                PeriodUnit::Month => {
                    for day in Period::touching(period.days(), PeriodUnit::Day) {
                        let day = day.first_day();
                        if days.contains(&day) {
                            let slices = slices.iter().map(|whole| {
                                day_of_month(day, whole, committed(found(&whole.direction)))
                            });
                            status.add_day(day, slices.collect(), today, &mut calls);
                        }
                    }
                    let mut remarks = Vec::new();
                    for slice in &slices {
                        remarks.extend(count_remarks(slice));
                    }
                    status.months.push(MonthStatus {
                        month: period,
                        slices,
                        remarks,
                    });
                }
            }
        }
        status
    }

    fn count(&mut self, slices: &[SliceStatus]) {
        for slice in slices {
            *match slice.state {
                SliceState::Closed => &mut self.closed,
                SliceState::Open => &mut self.open,
                SliceState::Failed => &mut self.failed,
                SliceState::Damaged => &mut self.damaged,
                SliceState::Interrupted => &mut self.interrupted,
                SliceState::Missing => &mut self.missing,
                SliceState::Pruned => &mut self.pruned,
            } += 1;
        }
    }

    /// Adds a day. `calls` are those of closed days before it.
    fn add_day(
        &mut self,
        day: Date,
        slices: Vec<SliceStatus>,
        today: Date,
        calls: &mut BTreeMap<Date, u64>,
    ) {
        let mut remarks = remarks(day, &slices, calls);
        if day >= today {
            remarks.retain(|remark| !remark.ends_with(" open"));
            remarks.insert(0, TODAY.to_owned());
        }
        if slices.iter().all(|slice| slice.state == SliceState::Closed) {
            calls.insert(day, slices.iter().map(|slice| slice.rows).sum::<u64>());
        }
        self.days.push(DayStatus {
            day,
            slices,
            remarks,
        });
    }

    /// Every slice with its period.
    pub(crate) fn slices(&self) -> impl Iterator<Item = (Slice, &SliceStatus)> {
        let of_days = self.days.iter().filter(|_| self.slice == PeriodUnit::Day);
        let of_days = of_days.map(|day| (Period::day(day.day), &day.slices));
        let of_months = self.months.iter().map(|month| (month.month, &month.slices));
        of_days.chain(of_months).flat_map(|(period, slices)| {
            let slices = slices.iter();
            slices.map(move |status| (Slice::new(period, status.direction), status))
        })
    }

    /// The same, to add to their problems.
    pub(crate) fn slices_mut(&mut self) -> impl Iterator<Item = (Slice, &mut SliceStatus)> {
        let is_of_days = self.slice == PeriodUnit::Day;
        let of_days = self.days.iter_mut().filter(move |_| is_of_days);
        let of_days = of_days.map(|day| (Period::day(day.day), &mut day.slices));
        let of_months = self.months.iter_mut();
        let of_months = of_months.map(|month| (month.month, &mut month.slices));
        of_days.chain(of_months).flat_map(|(period, slices)| {
            let slices = slices.iter_mut();
            slices.map(move |status| (Slice::new(period, status.direction), status))
        })
    }
}

/// Whether the lake has something of this day.
fn has_day(entries: &HashMap<Slice, LedgerEntry>, day: Date) -> bool {
    entries.iter().any(|(slice, found)| {
        let is_through = |commit: &Commit| commit.through.is_none_or(|through| through >= day);
        slice.period.days().contains(&day) && committed(Some(found)).is_some_and(is_through)
    })
}

/// The last commit of a slice; `None` if it is pruned, because its rows were removed.
fn committed(found: Option<&LedgerEntry>) -> Option<&Commit> {
    let committed = found?.entry.committed.as_ref();
    committed.filter(|commit| commit.state != State::Pruned)
}

fn slice_status(direction: Direction, found: Option<&LedgerEntry>) -> SliceStatus {
    let failed = found.and_then(|found| found.entry.failed.as_ref());
    let damage = found.and_then(|found| found.condition.problem());
    let committed = committed(found);
    let of = |count: fn(&Commit) -> u64| committed.map_or(0, count);
    SliceStatus {
        records: Some(of(|commit| commit.counts.records)),
        rejected: Some(of(|commit| commit.counts.rejected)),
        reconcile: committed.map(|commit| commit.reconcile),
        fetched_at: committed.map(|commit| commit.fetched_at),
        reason: failed
            .filter(|_| damage.is_none())
            .and_then(|failed| failed.reason),
        problem: damage.or_else(|| failed.map(|failed| failed.problem.clone())),
        ..with_sums(
            direction,
            found.map_or(SliceState::Missing, LedgerEntry::state),
            of(|commit| commit.counts.rows),
            committed.map(|commit| &commit.totals),
        )
    }
}

/// A day of a month with the status `whole`, of which this is committed.
fn day_of_month(day: Date, whole: &SliceStatus, committed: Option<&Commit>) -> SliceStatus {
    // After a conversion, the lake may have days after the first one that it lacks.
    let of_day = committed.and_then(|commit| commit.days.get(&day));
    let fetched = committed.filter(|commit| {
        let is_asked = commit.from.is_none_or(|from| from <= day)
            && commit.through.is_none_or(|through| day <= through);
        is_asked || of_day.is_some()
    });
    SliceStatus {
        fetched_at: fetched.map(|commit| commit.fetched_at),
        ..with_sums(
            whole.direction,
            whole.state,
            of_day.map_or(0, |DayTotals { rows, .. }| *rows),
            of_day.map(|of_day| &of_day.totals),
        )
    }
}

/// A status with these rows and their sums.
fn with_sums(
    direction: Direction,
    state: SliceState,
    rows: u64,
    totals: Option<&Totals>,
) -> SliceStatus {
    let answered = totals.and_then(|totals| totals.by_disposition.get(ANSWERED));
    let answered = answered.copied().unwrap_or_default();
    let duration_seconds = totals.map_or(0, |totals| totals.duration_seconds);
    SliceStatus {
        direction,
        state,
        records: None,
        rows,
        rejected: None,
        answered,
        duration_seconds,
        charge_usd: totals.map_or_else(AmountSum::default, |totals| totals.charge_usd),
        asr_percent: asr_percent(answered, rows),
        acd_seconds: acd_seconds(duration_seconds, answered),
        reconcile: None,
        fetched_at: None,
        reason: None,
        problem: None,
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
            // The records of a day are not known in a lake of months: a day without rows.
            SliceState::Closed if slice.records.unwrap_or(slice.rows) == 0 => {
                remarks.push(format!("{} without calls", slice.direction));
            }
            SliceState::Closed => {}
        }
        remarks.extend(count_remarks(slice));
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

/// Remarks on the counts of a slice.
fn count_remarks(slice: &SliceStatus) -> Vec<String> {
    let direction = slice.direction;
    let verdict = match slice.reconcile {
        Some(Verdict::Mismatch) => Some(format!("{direction} count mismatch")),
        Some(Verdict::MatchWithDuplicates) => {
            Some(format!("{direction} count matches only with duplicates"))
        }
        _ => None,
    };
    let rejected = slice.rejected.filter(|rejected| *rejected > 0);
    let rejected = rejected
        .zip(slice.records)
        .map(|(rejected, records)| format!("{direction} {rejected} of {records} rejected"));
    verdict.into_iter().chain(rejected).collect()
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
        let status = LakeStatus::new(
            PeriodUnit::Day,
            &entries,
            &[Direction::Placed],
            first..=last,
            last.tomorrow().unwrap(),
        );
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
    fn a_day_is_whole_if_it_was_fetched_after_its_end_in_the_time_zone() {
        let day = parse_day("2026-10-01").unwrap();
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let is_whole = |state, fetched_at: Option<&str>| {
            let status = SliceStatus {
                fetched_at: fetched_at.map(|at| at.parse().unwrap()),
                ..with_sums(Direction::Placed, state, 0, None)
            };
            status.has_whole(day, &berlin)
        };
        let (before, at_end) = ("2026-10-01T21:59:59Z", "2026-10-01T22:00:00Z");
        for state in [SliceState::Open, SliceState::Failed] {
            assert!(!is_whole(state, None));
            assert!(!is_whole(state, Some(before)));
            assert!(is_whole(state, Some(at_end)));
        }
        for state in [SliceState::Damaged, SliceState::Interrupted] {
            assert!(!is_whole(state, Some(at_end)));
        }
        assert!(is_whole(SliceState::Closed, Some(before)));
        assert!(!is_whole(SliceState::Closed, None));
    }

    /// The status of placed calls on a day that has ended.
    fn status_of(day: Date, entries: &HashMap<Slice, LedgerEntry>) -> LakeStatus {
        let (placed, next) = ([Direction::Placed], day.tomorrow().unwrap());
        LakeStatus::new(PeriodUnit::Day, entries, &placed, day..=day, next)
    }

    #[test]
    fn a_count_that_matches_only_with_duplicates_has_a_remark() {
        let day = parse_day("2026-10-01").unwrap();
        let remarks = |verdict| {
            let (slice, mut found) = entry(day, 3, State::Closed);
            found.entry.committed.as_mut().unwrap().reconcile = verdict;
            let entries = HashMap::from([(slice, found)]);
            let status = status_of(day, &entries);
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
            let status = status_of(day, &entries);
            assert_eq!(status.days[0].slices[0].rejected, Some(rejected));
            status.days[0].remarks.clone()
        };
        assert_eq!(remarks(0, 0), ["placed without calls"]);
        assert_eq!(remarks(0, 3), ["placed 3 of 3 rejected"]);
        assert_eq!(remarks(97, 3), ["placed 3 of 100 rejected"]);
    }
}
