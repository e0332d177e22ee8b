//! Lakes of months in several time zones, against lakes of days of the same calls.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::world::World;
use crate::cdr::day::{PeriodDays, date_of, day_number};
use crate::cdr::decode::Record;
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::slice::{Direction, Slice};
use crate::cdr::tally::DayTotals;
use crate::lake::identity::Identity;
use crate::lake::ledger::Commit;
use crate::lake::report::{Remark, RemarkKind, RunOutcome, RunReport};
use crate::ops::days::Selection;
use crate::ops::job::Job;
use crate::slice_file::writer::{WriteError, read_rows};
use crate::source::Source;
use crate::source::scripted::Answer::Lines;
use crate::source::scripted::ScriptedSource;

/// Time zones, each with months of interest.
const ZONES: [(&str, [(i16, i8); 2]); 7] = [
    // February in a leap year and in another one.
    ("UTC", [(2024, 2), (2023, 2)]),
    ("Europe/Berlin", [(2024, 3), (2024, 10)]),
    ("America/New_York", [(2024, 3), (2024, 11)]),
    // The clocks change by half an hour.
    ("Australia/Lord_Howe", [(2024, 4), (2024, 10)]),
    ("Asia/Kathmandu", [(2024, 2), (2023, 2)]),
    // A year before, the clocks changed at midnight: one day began at 1:00, another had 0:00 twice.
    ("America/Sao_Paulo", [(2018, 11), (2018, 2)]),
    // 30 December 2011 does not exist.
    ("Pacific/Apia", [(2011, 12), (2012, 1)]),
];

const HALF_AN_HOUR_US: i64 = 1_800_000_000;

/// A provider, with its calls in the order in which it lists them.
struct Provider {
    /// The zone in which it cuts days.
    timezone: TimeZone,
    calls: Vec<Timestamp>,
}

/// The days of a month.
fn days_of((year, month): (i16, i8)) -> impl Iterator<Item = Date> {
    let period = Period::containing(date(year, month, 1), PeriodUnit::Month);
    Period::touching(period.days(), PeriodUnit::Day).map(Period::first_day)
}

impl Provider {
    /// A provider with calls on both sides of each change of day and clocks in this month, and at
    /// random times in it, listed in no order.
    fn with_calls_of(month: (i16, i8), timezone: &str, random: &mut fastrand::Rng) -> Self {
        let timezone = TimeZone::get(timezone).unwrap();
        let period = Period::containing(date(month.0, month.1, 1), PeriodUnit::Month);
        let range_us = PeriodDays::new(period, &timezone).range_us();
        let starts = days_of(month).map(|day| PeriodDays::new(Period::day(day), &timezone));
        let mut edges: Vec<i64> = starts.map(|day| day.range_us().start).collect();
        let first = Timestamp::from_microsecond(range_us.start).unwrap();
        let changes = timezone.following(first);
        let changes = changes.map(|change| change.timestamp().as_microsecond());
        edges.extend(changes.take_while(|change| range_us.contains(change)));
        edges.push(range_us.end);
        let mut calls: Vec<i64> = edges
            .into_iter()
            .flat_map(|us| [us - HALF_AN_HOUR_US, us - 1, us, us + HALF_AN_HOUR_US])
            .filter(|us| range_us.contains(us))
            .collect();
        calls.extend((0..100).map(|_| random.i64(range_us.clone())));
        random.shuffle(&mut calls);
        let calls = calls.into_iter();
        Self {
            timezone,
            calls: calls
                .map(|us| Timestamp::from_microsecond(us).unwrap())
                .collect(),
        }
    }

    /// The day under which a call is listed.
    fn day_of(&self, call: Timestamp) -> Date {
        call.to_zoned(self.timezone.clone()).date()
    }

    /// What it answers for the periods of these days.
    fn source(&self, days: (Date, Date), unit: PeriodUnit) -> Arc<dyn Source> {
        let mut lines: BTreeMap<Slice, (u64, String)> = BTreeMap::new();
        for period in Period::touching(days.0..=days.1, unit) {
            lines.insert(Slice::new(period, Direction::Placed), Default::default());
        }
        for (id, call) in self.calls.iter().enumerate() {
            let period = Period::containing(self.day_of(*call), unit);
            let of_slice = lines.get_mut(&Slice::new(period, Direction::Placed));
            let Some((count, lines)) = of_slice else {
                continue;
            };
            *count += 1;
            writeln!(
                lines,
                "{{\"call_id\":\"{id}\",\"date\":\"{call}\",\"duration\":{id},\
                 \"charge\":\"0.{id}\",\"from\":\"1555{id}\",\"other\":{id}}}"
            )
            .unwrap();
        }
        let lines = lines.into_iter();
        let source = lines.fold(ScriptedSource::new(), |source, (slice, (count, lines))| {
            source.with(slice, count, (0..9).map(|_| Lines(lines.clone())))
        });
        Arc::new(source)
    }

    /// Fetches the periods of these days again.
    async fn fill(&self, world: &World, days: (Date, Date), allow_shrink: bool) -> RunReport {
        let selection = Selection {
            from: Some(days.0),
            to: Some(days.1),
            refresh: true,
            direction: Some(Direction::Placed),
            ..Selection::default()
        };
        let source = self.source(days, world.lake.identity.period_unit());
        let job = Job::new(world.config.clone(), source)
            .with_selection(selection)
            .with_allow_shrink(allow_shrink);
        let outcome = job.run_in(world.lake.clone()).await.unwrap();
        outcome.run.report
    }
}

fn slices(days: (Date, Date), unit: PeriodUnit) -> impl Iterator<Item = Slice> {
    let periods = Period::touching(days.0..=days.1, unit);
    periods.map(|period| Slice::new(period, Direction::Placed))
}

/// The rows of a slice in the order of its file, each with its day.
async fn rows(world: &World, slice: Slice) -> Vec<(Date, String)> {
    let entry = world.lake.entry(slice).await.entry;
    let mut rows = Vec::new();
    if let Some(copy) = world.lake.table().local_copy(&entry).await.unwrap() {
        read_rows(&copy.path, slice, |record| {
            let day = record.source_day.map_or(slice.period.first_day(), date_of);
            let source_day = Some(day_number(day));
            let row = Record {
                source_day,
                ..record.clone()
            };
            rows.push((day, format!("{row:?}")));
            Ok::<(), WriteError>(())
        })
        .unwrap();
    }
    rows
}

async fn commit(world: &World, slice: Slice) -> Commit {
    world.lake.entry(slice).await.entry.committed.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_month_has_the_rows_of_its_days_in_their_order_in_every_time_zone() {
    let mut random = fastrand::Rng::with_seed(0);
    for (zone, months) in ZONES {
        for month in months {
            let provider = Provider::with_calls_of(month, zone, &mut random);
            compare_with_days(&provider, month, zone).await;
        }
    }
}

/// Fills a lake of months and one of days from this provider, and compares rows and ledger.
async fn compare_with_days(provider: &Provider, month: (i16, i8), zone: &str) {
    let first = date(month.0, month.1, 1);
    let days = (first, first.last_of_month());
    let mut found = Vec::new();
    for unit in [PeriodUnit::Day, PeriodUnit::Month] {
        let world = World::in_zone(zone, &[], Some(unit)).await;
        let report = provider.fill(&world, days, false).await;
        assert_eq!(report.outcome, RunOutcome::Committed, "{zone} {month:?}");
        assert_eq!(report.warnings, [] as [&str; 0], "{zone} {month:?}");
        assert_eq!(world.findings().await, [] as [&str; 0]);
        let mut all = Vec::new();
        let mut totals: BTreeMap<Date, DayTotals> = BTreeMap::new();
        for slice in slices(days, unit) {
            all.extend(rows(&world, slice).await);
            let commit = commit(&world, slice).await;
            assert_eq!(commit.counts.outside_day, 0, "{zone} {slice}");
            totals.extend(commit.days);
            if unit == PeriodUnit::Day && commit.counts.rows > 0 {
                let (rows, of_day) = (commit.counts.rows, commit.totals);
                let of_day = DayTotals {
                    rows,
                    totals: of_day,
                };
                totals.insert(slice.period.first_day(), of_day);
            }
        }
        found.push((all, totals));
    }
    let (of_months, of_days) = (found.pop().unwrap(), found.pop().unwrap());
    assert!(of_months == of_days, "{zone} {month:?}");
    // Every call once, in the day of its local time.
    assert_eq!(of_months.0.len(), provider.calls.len());
    for day in days_of(month) {
        let calls = provider.calls.iter();
        let expected = calls.filter(|call| provider.day_of(**call) == day).count();
        let rows = of_months.0.iter().filter(|(of, _)| *of == day).count();
        assert_eq!(rows, expected, "{zone} {day}");
    }
}

/// January and February of 2020.
const MONTHS: (Date, Date) = (date(2020, 1, 1), date(2020, 2, 29));
const KATHMANDU: &str = "Asia/Kathmandu";

/// A call every hour, from two days before [`MONTHS`] to two days after.
fn hourly(timezone: &str) -> Provider {
    let first: Timestamp = "2019-12-30T00:00:00Z".parse().unwrap();
    let calls = (0..24 * 64).map(|hour| first + SignedDuration::from_hours(hour));
    Provider {
        timezone: TimeZone::get(timezone).unwrap(),
        calls: calls.collect(),
    }
}

impl World {
    /// Every row of [`MONTHS`] with its day, sorted.
    async fn rows_of_months(&self) -> Vec<(Date, String)> {
        let mut all = Vec::new();
        for slice in slices(MONTHS, PeriodUnit::Month) {
            all.extend(rows(self, slice).await);
        }
        all.sort();
        all
    }

    /// The same lake with another `window.timezone`, and the remarks on it.
    async fn move_to(&mut self, timezone: &str) -> Vec<Remark> {
        self.config.window.timezone = TimeZone::get(timezone).unwrap();
        let identity = Identity {
            timezone: timezone.to_owned(),
            ..self.lake.identity.clone()
        };
        let lake = self.opened_as(&identity).await.unwrap();
        lake.remarks
    }
}

/// What a lake has that was filled in this zone from the beginning.
async fn filled_in(provider: &Provider, timezone: &str) -> Vec<(Date, String)> {
    let world = World::in_zone(timezone, &[], Some(PeriodUnit::Month)).await;
    let report = provider.fill(&world, MONTHS, false).await;
    assert_eq!(report.outcome, RunOutcome::Committed);
    world.rows_of_months().await
}

#[tokio::test(start_paused = true)]
async fn a_corrected_time_zone_moves_calls_to_other_days_of_their_month() {
    let provider = hourly(KATHMANDU);
    let mut world = World::in_zone("UTC", &[], Some(PeriodUnit::Month)).await;
    let report = provider.fill(&world, MONTHS, false).await;
    // Each month has its calls, although five of them are not of it in this zone.
    assert_eq!(report.outcome, RunOutcome::Committed);
    let of_month = |month| {
        format!(
            "placed 2020-0{month}: 5 rows lie on another day. Check that window.timezone is \
             the time zone of the account's days"
        )
    };
    assert_eq!(report.warnings, [of_month(2), of_month(1)]);
    let wrong = world.rows_of_months().await;
    let right = filled_in(&provider, KATHMANDU).await;
    assert_eq!(wrong.len(), right.len());
    assert_ne!(wrong, right);

    let remarks = world.move_to(KATHMANDU).await;
    let remark = RemarkKind::OtherDays.remark(
        "window.timezone is Asia/Kathmandu, but this lake was created with UTC, and months that \
         were fetched before have the days of UTC"
            .to_owned(),
    );
    assert_eq!(remarks, [remark]);
    // Days lose rows, and no month does.
    let report = provider.fill(&world, MONTHS, false).await;
    assert_eq!(report.outcome, RunOutcome::Committed, "{report:?}");
    assert_eq!(report.warnings, [] as [&str; 0]);
    assert_eq!(world.rows_of_months().await, right);
    assert_eq!(world.findings().await, [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn after_a_move_of_the_account_all_months_are_fetched_again_to_have_every_call_once() {
    let mut world = World::in_zone("UTC", &[], Some(PeriodUnit::Month)).await;
    let report = hourly("UTC").fill(&world, MONTHS, false).await;
    assert_eq!(report.outcome, RunOutcome::Committed);
    world.move_to(KATHMANDU).await;
    let provider = hourly(KATHMANDU);
    let right = filled_in(&provider, KATHMANDU).await;
    // February now has five calls that January also has.
    let february = (date(2020, 2, 1), MONTHS.1);
    provider.fill(&world, february, false).await;
    let calls = |rows: Vec<(Date, String)>| {
        let rows = rows.into_iter();
        let ids = rows.map(|(_, row)| row.split("parent").next().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    let mut twice = calls(world.rows_of_months().await);
    let number = twice.len();
    twice.sort();
    twice.dedup();
    assert_eq!(number - twice.len(), 5);

    let report = provider.fill(&world, MONTHS, false).await;
    assert_eq!(report.outcome, RunOutcome::Committed, "{report:?}");
    assert_eq!(world.rows_of_months().await, right);
    assert_eq!(world.findings().await, [] as [&str; 0]);
}
