//! Lakes whose slices are calendar months.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;

use super::world::{World, key, month, months, source_of_months};
use crate::cdr::day::date_of;
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::slice::{Direction, Slice};
use crate::cdr::tally::DayTotals;
use crate::lake::SliceState;
use crate::lake::ledger::{Commit, Entry, Failure, State};
use crate::lake::report::{RunOutcome, SliceReport};
use crate::ops::days::{DayRange, Selection};
use crate::ops::rejects::Rejects;
use crate::ops::removal::erase::{erase, search, slices};
use crate::ops::status::LakeStatus;
use crate::ops::verify::{Fault, Verification, Verified};
use crate::ops::warehouse::{LoadScope, TableRequest};
use crate::privacy::Credentials;
use crate::slice_file::writer::{WriteError, read_rows};
use crate::source::scripted::Answer::Lines;
use crate::source::scripted::ScriptedSource;
use crate::source::{Body, Request, Source, SourceError};
use crate::warehouse::Target;

/// Three calls of January on two days, and one of February.
const CALLS: [&[(&str, i8)]; 2] = [&[("1", 20), ("2", 3), ("3", 20)], &[("4", 29)]];

async fn commit(world: &World, slice: Slice) -> Commit {
    let committed = world.lake.entry(slice).await.entry.committed;
    committed.unwrap()
}

/// The rows of each day, according to the ledger.
fn days(commit: &Commit) -> Vec<(Date, u64)> {
    let days = commit.days.iter();
    days.map(|(day, totals)| (*day, totals.rows)).collect()
}

/// The day of each row in the order of the file.
async fn source_days(world: &World, slice: Slice) -> Vec<Date> {
    let entry = world.lake.entry(slice).await.entry;
    let copy = world
        .lake
        .table()
        .local_copy(&entry)
        .await
        .unwrap()
        .unwrap();
    let mut days = Vec::new();
    read_rows(&copy.path, slice, |record| {
        days.push(date_of(record.source_day.unwrap()));
        Ok::<(), WriteError>(())
    })
    .unwrap();
    days
}

async fn verified(world: &World, source: Option<&Arc<dyn Source>>, range: DayRange) -> Verified {
    let verification = Verification {
        range,
        source,
        ask_source: source.is_some(),
        ..Verification::of(&world.config)
    };
    verification.check_in(&world.lake, &()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_erasure_keeps_the_days_and_the_order_of_the_other_calls_of_a_month() {
    let world = World::of_months(&CALLS).await;
    assert_eq!(world.calls(month(1)).await, ["2", "1", "3"]);
    let number = "15553";
    let token = key().token(number);
    let privacy = world.lake.privacy().suppressing([token]);
    let all = slices(&world.lake).await.unwrap();
    let found = search(&world.lake, &all, &Arc::new(privacy.unwrap()), &|| {}).await;
    let never = CancellationToken::new();
    let token = key().token(number);
    let erasure = erase(&world.lake, &world.config, &token, &found, &never, &|| {});
    let erasure = erasure.await.unwrap();
    assert!(erasure.is_complete);
    assert_eq!(erasure.report.partitions_changed, [date(2020, 1, 1)]);
    assert_eq!(world.calls(month(1)).await, ["2", "1"]);
    let (third, twentieth) = (date(2020, 1, 3), date(2020, 1, 20));
    assert_eq!(source_days(&world, month(1)).await, [third, twentieth]);
    let erased = commit(&world, month(1)).await;
    assert_eq!(days(&erased), [(third, 1), (twentieth, 1)]);
    assert_eq!(world.findings().await, [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_count_of_the_provider_is_compared_for_the_whole_month_and_a_repair_fetches_it_again() {
    let world = World::of_months(&CALLS).await;
    let more: [&[(&str, i8)]; 2] = [&[("1", 20), ("5", 31), ("2", 3), ("3", 20)], CALLS[1]];
    let source = source_of_months(&more);
    // A day of the month selects it.
    let range = DayRange {
        from: Some(date(2020, 1, 15)),
        to: Some(date(2020, 1, 16)),
        ..DayRange::default()
    };
    let mut found = verified(&world, Some(&source), range.clone()).await;
    assert_eq!(found.source.as_ref().unwrap().asked, 1);
    let findings: Vec<_> = found.found.findings.iter().collect();
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].fault, Fault::ControlTotal);
    assert_eq!(findings[0].slice, Some(month(1)));

    let verification = Verification {
        range,
        source: Some(&source),
        ask_source: true,
        ..Verification::of(&world.config)
    };
    let never = CancellationToken::new();
    let repair = verification.repair_in(&world.lake, &mut found, Arc::new(()), never);
    repair.await.unwrap();
    assert_eq!(found.repair.unwrap().remaining, []);
    assert_eq!(world.calls(month(1)).await, ["2", "1", "3", "5"]);
    let fetched = commit(&world, month(1)).await;
    assert_eq!(fetched.through, None);
    let expected = [(3, 1), (20, 2), (31, 1)].map(|(day, rows)| (date(2020, 1, day), rows));
    assert_eq!(days(&fetched), expected);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_with_other_rows_of_a_day_is_found() {
    let world = World::of_months(&CALLS).await;
    let edit = |entry: &mut Entry| {
        let days = &mut entry.committed.as_mut().unwrap().days;
        let of_day = days.remove(&date(2020, 1, 3)).unwrap();
        days.insert(date(2020, 1, 4), of_day);
    };
    world.edit_entry(month(1), edit).await;
    let findings = world.findings().await;
    assert_eq!(findings.len(), 1, "{findings:?}");
    let source = source_of_months(&CALLS);
    let again = world.run_selected(months(1), source).await;
    // The file is the same, and the ledger is corrected only by a fetch, which is not due.
    assert_eq!(again.plan.due.len(), 0);
    let refresh = Selection {
        refresh: true,
        ..months(1)
    };
    world.run_selected(refresh, source_of_months(&CALLS)).await;
    assert_eq!(world.findings().await, [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn rejects_of_a_month_are_listed_with_its_first_and_last_day() {
    let world = World::of_months(&[]).await;
    let lines = "{\"date\":\"2020-02-03T10:00:00Z\"}\n{\"date\":\"broken\"}\n".to_owned();
    let source = ScriptedSource::new().with(month(2), 2, [Lines(lines)]);
    let selection = Selection {
        from: Some(date(2020, 2, 10)),
        ..months(2)
    };
    let outcome = world.run_selected(selection, Arc::new(source)).await;
    assert_eq!(outcome.run.report.outcome, RunOutcome::Committed);
    let range = DayRange {
        from: Some(date(2020, 2, 20)),
        ..DayRange::default()
    };
    let now = jiff::Timestamp::now();
    let rejects = Rejects::read(&world.lake, &world.config.window, &range, false, now);
    let rejects = rejects.await.unwrap();
    let group = &rejects.groups[0];
    assert_eq!((group.records, group.slices), (1, 1));
    assert_eq!(group.first_day..=group.last_day, month(2).period.days());
}

#[tokio::test(start_paused = true)]
async fn a_load_covers_months_with_selected_days_and_those_that_a_run_changed() {
    let mut world = World::of_months(&CALLS).await;
    let request = |target| TableRequest {
        target,
        table: "cdrs".to_owned(),
        location: Some("s3://bucket/lake".to_owned()),
        form: None,
    };
    let load = async |world: &World, which| {
        let load = request(Target::Snowflake);
        let load = load.load(&world.config, &world.lake, &which);
        load.await.unwrap()
    };
    let months_of = |load: &str| {
        let mut months = vec!["2020-01", "2020-02", "2020-03"];
        months.retain(|month| load.contains(&format!("BETWEEN DATE '{month}-01' AND")));
        months
    };
    let middle = LoadScope::Days(date(2020, 1, 10)..=date(2020, 1, 12));
    assert_eq!(months_of(&load(&world, middle).await), ["2020-01"]);
    let first = world.lake.runs().await.unwrap();
    let more = source_of_months(&[CALLS[0], &[("4", 29), ("6", 2)], &[("7", 31)]]);
    let selection = Selection {
        from: Some(date(2020, 2, 15)),
        refresh: true,
        ..months(3)
    };
    world.run_selected(selection, more).await;
    let last = LoadScope::ChangedBy("last".to_owned());
    assert_eq!(months_of(&load(&world, last).await), ["2020-02", "2020-03"]);
    let since = LoadScope::ChangedSince(first.last().unwrap().clone());
    assert_eq!(
        months_of(&load(&world, since).await),
        ["2020-02", "2020-03"]
    );
    // Projected partitions begin with a month, whatever day the lake begins with.
    world.config.window.start = Some(date(2019, 12, 5));
    let athena = request(Target::Athena);
    let definition = athena.definition(&world.config, Some(&world.lake)).await;
    let (definition, _) = definition.unwrap();
    assert!(definition.contains("'2019-12-01,NOW'"), "{definition}");
}

/// The status of these days of 2020, for placed calls.
async fn status(world: &World, days: (Date, Date), now: &str) -> LakeStatus {
    let range = DayRange {
        from: Some(days.0),
        to: Some(days.1),
        direction: Some(Direction::Placed),
        ..DayRange::default()
    };
    let now = now.parse().unwrap();
    let status = LakeStatus::read(&world.lake, &world.config, &range, now);
    status.await.unwrap()
}

/// A day of the status, counted from 1: its state, its rows, and its charges if it was fetched.
fn shown(status: &LakeStatus, day: i8) -> (SliceState, u64, Option<String>) {
    let slice = &status.days[usize::try_from(day).unwrap() - 1].slices[0];
    let charge = slice.fetched_at.map(|_| slice.charge_usd.to_string());
    (slice.state, slice.rows, charge)
}

#[tokio::test(start_paused = true)]
async fn the_status_has_a_line_a_day_with_the_rows_that_the_month_counts_of_it() {
    use SliceState::{Closed, Missing, Open};
    let world = World::of_months(&CALLS).await;
    let open = |entry: &mut Entry| {
        let commit = entry.committed.as_mut().unwrap();
        (commit.state, commit.through) = (State::Open, Some(date(2020, 2, 4)));
        commit.days.clear();
        commit.days.insert(date(2020, 2, 3), DayTotals::default());
    };
    world.edit_entry(month(2), open).await;
    let now = "2020-02-10T12:00:00Z";
    let january = status(&world, (date(2020, 1, 1), date(2020, 2, 9)), now).await;
    assert_eq!(january.days.len(), 40);
    let charge = |usd: &str| Some(usd.to_owned());
    assert_eq!(shown(&january, 3), (Closed, 1, charge("0.5")));
    assert_eq!(shown(&january, 20), (Closed, 2, charge("1")));
    assert_eq!(shown(&january, 31), (Closed, 0, charge("0")));
    let twentieth = &january.days[19].slices[0];
    assert_eq!((twentieth.answered, twentieth.duration_seconds), (2, 60));
    assert_eq!((twentieth.records, twentieth.rejected), (None, None));
    assert_eq!(january.days[30].remarks, ["placed without calls"]);
    // A day that ended after the fetch of its month was not fetched.
    assert_eq!(shown(&january, 31 + 4), (Open, 0, charge("0")));
    assert_eq!(shown(&january, 31 + 5), (Open, 0, None));
    // Slices are months, and each is counted once.
    assert_eq!((january.closed, january.open, january.missing), (1, 1, 0));
    let months = january.months.iter();
    let rows = months.map(|it| (it.month.to_string(), it.slices[0].records));
    let expected = [("2020-01", 3), ("2020-02", 1)];
    let expected = expected.map(|(month, records)| (month.to_owned(), Some(records)));
    assert_eq!(rows.collect::<Vec<_>>(), expected);
    let json = serde_json::to_value(&january).unwrap();
    assert_eq!(
        (&json["slice"], &json["months"][0]["month"]),
        (&"month".into(), &"2020-01".into())
    );
    assert!(json["days"][0]["slices"][0]["records"].is_null(), "{json}");
    // Also of a part of a month.
    let part = status(&world, (date(2020, 1, 19), date(2020, 1, 20)), now).await;
    assert_eq!((part.days.len(), part.closed), (2, 1));
    let missing = (date(2019, 12, 30), date(2020, 1, 3));
    let missing = status(&world, missing, now).await;
    assert_eq!(shown(&missing, 1), (Missing, 0, None));
    assert_eq!((missing.closed, missing.missing), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_failure_and_rejects_of_a_month_are_reported_once() {
    let world = World::of_months(&[]).await;
    let lines = "{\"date\":\"2020-01-03T10:00:00Z\"}\n{\"date\":\"broken\"}\n";
    let source = ScriptedSource::new().with(month(1), 2, [Lines(lines.to_owned())]);
    world.run_selected(months(1), Arc::new(source)).await;
    let fail = |entry: &mut Entry| {
        entry.failed = Some(Failure {
            run: "run".to_owned(),
            at: jiff::Timestamp::UNIX_EPOCH,
            problem: "too few".to_owned(),
            reason: None,
        });
    };
    world.edit_entry(month(1), fail).await;
    let days = (date(2020, 1, 1), date(2020, 1, 31));
    let mut status = status(&world, days, "2020-03-10T12:00:00Z").await;
    assert_eq!((status.failed, status.closed), (1, 0));
    let problems = status
        .slices_mut()
        .map(|(slice, it)| (slice, it.problem.clone()));
    let expected = [(month(1), Some("too few".to_owned()))];
    assert_eq!(problems.collect::<Vec<_>>(), expected);
    assert_eq!(status.months[0].remarks, ["placed 1 of 2 rejected"]);
    for day in &status.days {
        assert_eq!(day.remarks, ["placed failed"]);
        assert_eq!(day.slices[0].problem, None);
    }
    assert_eq!(shown(&status, 3).1, 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_of_some_days_of_a_month_fetches_the_month_and_warns_once() {
    let world = World::of_months(&[]).await;
    let selection = Selection {
        from: Some(date(2020, 1, 5)),
        to: Some(date(2020, 2, 10)),
        ..months(1)
    };
    let outcome = world
        .run_selected(selection, source_of_months(&CALLS))
        .await;
    let report = outcome.run.report;
    assert_eq!(
        report.warnings,
        [
            "2020-01-05 lies in the middle of 2020-01: slices are whole months, so \
             fetching begins with 2020-01-01",
            "2020-02-10 lies in the middle of 2020-02: slices are whole months, so \
             fetching ends with 2020-02-29",
        ]
    );
    let done = report.slices.iter().map(SliceReport::slice);
    assert_eq!(done.collect::<Vec<_>>(), [month(1), month(2)]);
    assert_eq!(world.calls(month(1)).await, ["2", "1", "3"]);
}

/// The total grows, and the provider's count agrees.
#[tokio::test(start_paused = true)]
async fn a_month_that_lost_calls_of_a_day_is_refused_although_it_has_more_calls() {
    let world = World::of_months(&CALLS[..1]).await;
    let refreshing = || Selection {
        refresh: true,
        ..months(1)
    };
    let source = source_of_months(&[&[("1", 20), ("2", 3), ("4", 21), ("5", 21)]]);
    let report = world.run_selected(refreshing(), source).await.run.report;
    let error = report.slices[0].error.as_deref().unwrap();
    assert!(
        error.contains("2020-01-20 has 1 row, and the lake 2"),
        "{error}"
    );
    assert_eq!(world.calls(month(1)).await, ["2", "1", "3"]);
    // Calls that are only added are accepted.
    let source = source_of_months(&[&[("1", 20), ("2", 3), ("3", 20), ("4", 21)]]);
    let report = world.run_selected(refreshing(), source).await.run.report;
    assert_eq!(report.outcome, RunOutcome::Committed, "{report:?}");
}

/// Records what was asked.
#[derive(Debug)]
struct Recording(Arc<dyn Source>, Mutex<Vec<Request>>);

#[async_trait]
impl Source for Recording {
    async fn open(&self, request: Request) -> Result<Body, SourceError> {
        self.1.lock().unwrap().push(request);
        self.0.open(request).await
    }

    async fn count(&self, request: Request) -> Result<u64, SourceError> {
        self.1.lock().unwrap().push(request);
        self.0.count(request).await
    }

    fn credentials(&self) -> &Arc<Credentials> {
        self.0.credentials()
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_asks_for_no_fewer_days_than_the_lake_has() {
    let world = World::of_months(&[]).await;
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let period = Period::containing(today, PeriodUnit::Month);
    let slice = Slice::new(period, Direction::Placed);
    let source = ScriptedSource::new().with(slice, 0, (0..9).map(|_| Lines(String::new())));
    let source = Arc::new(Recording(Arc::new(source), Mutex::default()));
    let selection = |include_today| Selection {
        from: Some(period.first_day().yesterday().unwrap().first_of_month()),
        include_today,
        refresh: true,
        direction: Some(Direction::Placed),
        ..Selection::default()
    };
    for include_today in [true, false] {
        let source = Arc::clone(&source) as Arc<dyn Source>;
        world.run_selected(selection(include_today), source).await;
    }
    let asked = source.1.lock().unwrap();
    let asked = asked.iter().filter(|request| request.slice == slice);
    let asked: Vec<Date> = asked.map(|request| request.last_day).collect();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|last_day| *last_day == today), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lake_of_months_begins_with_the_day_of_its_start() {
    let mut world = World::of_months(&[]).await;
    world.config.window.start = Some(date(2020, 1, 10));
    let source = source_of_months(&[&[("1", 20)]]);
    let source = Arc::new(Recording(source, Mutex::default()));
    let january = || Selection {
        from: None,
        ..months(1)
    };
    let run = async |world: &World, selection| {
        let shared = Arc::clone(&source) as Arc<dyn Source>;
        let report = world.run_selected(selection, shared).await.run.report;
        assert_eq!(report.outcome, RunOutcome::Committed, "{report:?}");
        let asked = std::mem::take(&mut *source.1.lock().unwrap());
        asked.into_iter().map(|it| it.first_day).max()
    };
    let asked = run(&world, january()).await;
    assert_eq!(asked, Some(date(2020, 1, 10)));
    let first = commit(&world, month(1)).await;
    assert_eq!(
        (first.from, first.through, first.state),
        (asked, None, State::Closed)
    );
    assert_eq!(run(&world, january()).await, None);
    let now = "2020-03-10T12:00:00Z";
    let status = status(&world, (date(2020, 1, 9), date(2020, 1, 10)), now).await;
    let fetched = status.days.iter().map(|it| it.slices[0].fetched_at);
    assert_eq!(fetched.collect::<Vec<_>>(), [None, Some(first.fetched_at)]);
    // The provider's count is that of the same days.
    let shared = Arc::clone(&source) as Arc<dyn Source>;
    verified(&world, Some(&shared), DayRange::default()).await;
    let asked = std::mem::take(&mut *source.1.lock().unwrap());
    assert_eq!(asked[0].first_day, date(2020, 1, 10));
    // A later start does not lose days that the lake has.
    world.config.window.start = Some(date(2020, 1, 15));
    assert_eq!(run(&world, january()).await, None);
    let refresh = Selection {
        refresh: true,
        ..january()
    };
    assert_eq!(run(&world, refresh).await, Some(date(2020, 1, 10)));
    // An earlier one, or an earlier selection, makes the month due.
    world.config.window.start = Some(date(2020, 1, 8));
    assert_eq!(run(&world, january()).await, Some(date(2020, 1, 8)));
    let earlier = Selection {
        from: Some(date(2020, 1, 5)),
        ..january()
    };
    assert_eq!(run(&world, earlier).await, Some(date(2020, 1, 1)));
    assert_eq!(commit(&world, month(1)).await.from, None);
    assert_eq!(run(&world, january()).await, None);
}
