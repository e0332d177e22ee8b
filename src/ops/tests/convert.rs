//! The conversion of a lake of days into months.

use std::collections::BTreeMap;
use std::ops::Range;

use futures::FutureExt;
use jiff::Timestamp;
use jiff::civil::Date;
use tokio_util::sync::CancellationToken;

use super::faults::Faults;
use super::world::{World, day, days, slice, source, source_of_lines};
use crate::cdr::digest::Digest;
use crate::cdr::period::PeriodUnit;
use crate::cdr::reconcile::Verdict;
use crate::cdr::slice::{Direction, Slice};
use crate::cdr::tally::{Counts, Totals};
use crate::lake::identity::Identity;
use crate::lake::ledger::{Commit, Entry, Failure, Pending, State};
use crate::lake::report::RunOutcome;
use crate::lake::{Lake, LakeError, TableForm, TableFormat};
use crate::ops::days::{DayRange, Selection};
use crate::ops::gc::collect_garbage;
use crate::ops::months::{Merged, convert_to_months};
use crate::ops::plan::plan;
use crate::ops::run::Stop;
use crate::ops::status::LakeStatus;
use crate::ops::tables::{self, sync};
use crate::ops::verify::{Fault, Verification};
use crate::ops::warehouse::{LoadScope, TableRequest};
use crate::ops::{Error, Observer, UsageError, removal};
use crate::slice_file::writer::{WriteError, read_rows};
use crate::source::scripted::Answer::Lines;
use crate::source::scripted::ScriptedSource;
use crate::store::{FailureKind, layout};
use crate::warehouse::Target;

/// The table formats with which a conversion is tested.
const FORMATS: [&[TableFormat]; 4] = [
    &[],
    &[TableFormat::Delta],
    &[TableFormat::Iceberg],
    &[TableFormat::Delta, TableFormat::Iceberg],
];
const NO_FINDINGS: [&str; 0] = [];
const CALLS: &str = r#"{"call_id":"DAY-1","date":"DAYT10:00:00Z","duration":60,"charge":"0.25"}
{"call_id":"DAY-2","date":"DAYT11:00:00Z","duration":5,"disposition":"answered"}
"#;
/// A duplicate, a call of another day, and two rejects.
const ODD: &str = r#"{"call_id":"DAY-1","date":"DAYT10:00:00Z","charge":"0.5"}
{"call_id":"DAY-1","date":"DAYT10:00:00Z","charge":"0.5"}
{"call_id":"DAY-2","date":"2020-01-31T23:00:00Z"}
{"call_id":"DAY-3","date":"broken"}
{"call_id":"DAY-4","date":"broken"}
"#;

fn month() -> Slice {
    slice(1).month()
}

/// A lake with `lines` on each of the first days.
async fn filled(formats: &[TableFormat], lines: &[&str]) -> World {
    let world = World::with_tables(formats).await;
    let last = i8::try_from(lines.len()).unwrap();
    let outcome = world.run(last, source_of_lines(lines)).await;
    assert_eq!(outcome.run.report.outcome, RunOutcome::Committed);
    world
}

/// A whole month with empty days, rejects and duplicates.
fn whole_month() -> Vec<&'static str> {
    let mut lines = vec![CALLS; 31];
    (lines[1], lines[4], lines[30]) = ("", ODD, "");
    lines
}

async fn convert(world: &World, lake: &Lake) -> Result<Option<Merged>, Error> {
    let never = CancellationToken::new();
    convert_to_months(lake, &world.config, Timestamp::now(), &(), &never).await
}

/// Converts as a new process, and lets the world see the lake as it is then.
async fn converted(world: &mut World) -> Merged {
    let lake = world.opened_for_converting().await;
    let merged = convert(world, &lake).await.unwrap().unwrap();
    world.lake = world.reopened().await;
    merged
}

/// All values of the rows of a slice, each with its day.
async fn rows(world: &World, of: Slice) -> Vec<String> {
    let mut rows = Vec::new();
    let entry = world.lake.entry(of).await.entry;
    if let Some(copy) = world.lake.table().local_copy(&entry).await.unwrap() {
        // Rows that are read as a month's have their day.
        read_rows(&copy.path, of.month(), |record| {
            rows.push(format!("{record:?}"));
            Ok::<(), WriteError>(())
        })
        .unwrap();
    }
    rows
}

async fn commit(world: &World, of: Slice) -> Commit {
    world.lake.entry(of).await.entry.committed.unwrap()
}

/// Rows, rejects and sums of the first days.
async fn content(world: &World, last: i8) -> (Vec<String>, Vec<String>, Digest, Counts, Totals) {
    let mut all = (
        Vec::new(),
        Vec::new(),
        Digest::default(),
        Counts::default(),
        Totals::default(),
    );
    for of in (1..=last).map(slice) {
        let commit = commit(world, of).await;
        all.0.extend(rows(world, of).await);
        all.1.extend(world.rejects(&layout::rejects_file(of)).await);
        all.2.merge(commit.digest);
        all.3.merge(&commit.counts);
        all.4.merge(&commit.totals);
    }
    all
}

/// The paths of everything that belongs to days.
async fn paths_of_days(world: &World) -> Vec<String> {
    let names = world.contents().await.into_keys();
    let is_of_day = |path: &String| {
        let path = object_store::path::Path::from(path.as_str());
        let slice = layout::leased_slice(&path).or(layout::ledger_slice(&path));
        slice.is_some_and(|slice| slice.period.unit() == PeriodUnit::Day)
    };
    names.filter(is_of_day).collect()
}

#[tokio::test(start_paused = true)]
async fn a_converted_lake_has_the_same_rows_rejects_and_sums_in_one_file_for_each_month() {
    for formats in FORMATS {
        let mut world = filled(formats, &whole_month()).await;
        let (rows_before, rejects, digest, mut counts, totals) = content(&world, 31).await;
        let fetched_first = commit(&world, slice(1)).await.fetched_at;
        let merged = converted(&mut world).await;
        assert_eq!(
            (merged.months, merged.files_before, merged.files_after),
            (1, 29, 1)
        );
        assert!(merged.bytes_after < merged.bytes_before);

        assert_eq!(rows(&world, month()).await, rows_before);
        assert_eq!(world.rejects(&layout::rejects_file(month())).await, rejects);
        let commit = commit(&world, month()).await;
        assert_eq!((commit.digest, &commit.totals), (digest, &totals));
        // The call of another day lies within the month.
        assert_eq!((counts.outside_day, commit.counts.outside_day), (1, 0));
        counts.outside_day = 0;
        assert_eq!(commit.counts, counts);
        assert_eq!((counts.rejected, counts.duplicates), (2, 1));
        assert_eq!((commit.state, commit.through), (State::Closed, None));
        assert_eq!(commit.control_total, Some(counts.records));
        assert_eq!(commit.reconcile, Verdict::MatchWithDuplicates);
        let by_day: BTreeMap<_, _> = commit
            .days
            .iter()
            .map(|(day, it)| (*day, it.rows))
            .collect();
        assert_eq!((by_day.len(), by_day.get(&day(5))), (29, Some(&2)));
        assert!(commit.fetched_at <= fetched_first);

        assert_eq!(paths_of_days(&world).await, NO_FINDINGS);
        let identity = &world.lake.identity;
        assert_eq!(
            (identity.period_unit(), identity.converting),
            (PeriodUnit::Month, None)
        );
        assert_eq!(world.lake.compare_logs().await.unwrap(), []);
        assert_eq!(world.findings().await, NO_FINDINGS);
        // Nothing is due, and nothing changes.
        let after = world.contents().await;
        let ran = world.run(31, source(&[])).await.run;
        assert_eq!((ran.report.slices.len(), ran.stopped_by), (0, None));
        let gc = collect_garbage(&world.config, &world.lake, Timestamp::now());
        gc.await.unwrap();
        assert_eq!(world.contents().await, after);
        let again = convert(&world, &world.lake).await.unwrap_err();
        assert!(
            matches!(again, Error::Usage(UsageError::MonthsAlready)),
            "{again:?}"
        );
    }
}

/// Converts in a store of which these operations fail, and then again. Returns whether one failed.
async fn converts_after_failure(formats: &[TableFormat], failing: Range<usize>) -> bool {
    let at = format!("{formats:?} {failing:?}");
    let mut world = filled(formats, &[CALLS, ODD]).await;
    let (rows_before, rejects, digest, ..) = content(&world, 2).await;
    world.lake.identity.converting = Some(PeriodUnit::Month);
    let (lake, operations) = world.failing_at(failing.clone()).await;
    if let Ok(lake) = lake {
        drop(convert(&world, &lake).await);
    }
    let has_failed = operations.lock().unwrap().len() > failing.start;
    // The ledger names every row once, and no log has a part of the days.
    let entries = world.lake.all_entries().await.unwrap();
    let counted: u64 = entries
        .filter_map(|(_, entry)| Some(entry.committed?.counts.rows))
        .sum();
    assert_eq!(counted, 4, "{at}");

    let lake = world.opened_for_converting().await;
    match convert(&world, &lake).await {
        // Only the logs, or the end of the run failed.
        Err(Error::Usage(UsageError::MonthsAlready)) => {}
        converted => assert!(converted.unwrap().is_some()),
    }
    world.lake = world.reopened().await;
    assert_eq!(world.lake.identity.converting, None, "{at}");
    if world.lake.has_logs() {
        sync(&world.lake, Timestamp::now()).await.unwrap();
        assert_eq!(world.lake.unsynced_runs().await.unwrap(), 0, "{at}");
    }
    assert_eq!(rows(&world, month()).await, rows_before, "{at}");
    let rejects_after = world.rejects(&layout::rejects_file(month())).await;
    assert_eq!(rejects_after, rejects, "{at}");
    let commit = commit(&world, month()).await;
    assert_eq!((commit.digest, commit.counts.records), (digest, 7), "{at}");
    assert_eq!(paths_of_days(&world).await, NO_FINDINGS, "{at}");
    assert_eq!(world.lake.compare_logs().await.unwrap(), [], "{at}");
    let gc = collect_garbage(&world.config, &world.lake, Timestamp::now());
    gc.await.unwrap();
    assert_eq!(world.findings().await, NO_FINDINGS, "{at}");
    has_failed
}

#[tokio::test(start_paused = true)]
async fn a_conversion_that_dies_at_any_operation_continues_without_loss() {
    for formats in [FORMATS[0], FORMATS[3]] {
        let mut at = 0;
        while converts_after_failure(formats, at..usize::MAX).await {
            at += 1;
        }
        assert!(at > 30, "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_conversion_of_which_any_operation_fails_continues_without_loss() {
    for formats in [FORMATS[0], FORMATS[3]] {
        let mut at = 0;
        while converts_after_failure(formats, at..at + 1).await {
            at += 1;
        }
        assert!(at > 30, "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_month_with_missing_or_open_days_is_open_and_is_fetched_whole() {
    let mut world = filled(&[], &[CALLS, CALLS, CALLS, CALLS]).await;
    // Never fetched.
    for path in [
        layout::ledger_entry(slice(3)),
        TableForm::Plain.new_path(slice(3)),
    ] {
        world.delete(&path).await;
    }
    converted(&mut world).await;
    let open = commit(&world, month()).await;
    assert_eq!((open.state, open.through), (State::Open, Some(day(2))));
    assert_eq!(open.counts.rows, 6);
    let (january, now) = (days(31), Timestamp::now());
    let due = plan(&world.config, &january, Some(&world.lake), now);
    let due: Vec<_> = due.await.unwrap().due.iter().map(|due| due.slice).collect();
    assert_eq!(due, [month()]);

    let mut world = filled(&[], &whole_month()).await;
    let open = |entry: &mut Entry| {
        entry.committed.as_mut().unwrap().state = State::Open;
    };
    world.edit_entry(slice(31), open).await;
    converted(&mut world).await;
    let open = commit(&world, month()).await;
    assert_eq!((open.state, open.through), (State::Open, None));
}

#[tokio::test(start_paused = true)]
async fn counts_that_were_not_compared_on_some_day_are_not_compared_in_the_month() {
    for (verdict, total, expected) in [
        (Verdict::Match, Some(2), (Verdict::Match, Some(4))),
        (Verdict::Off, None, (Verdict::Off, None)),
        (Verdict::NotChecked, None, (Verdict::NotChecked, None)),
        (Verdict::Mismatch, Some(9), (Verdict::Mismatch, Some(11))),
        (Verdict::Mismatch, None, (Verdict::Mismatch, None)),
    ] {
        let mut world = filled(&[], &[CALLS, CALLS]).await;
        let edit = |entry: &mut Entry| {
            let commit = entry.committed.as_mut().unwrap();
            (commit.reconcile, commit.control_total) = (verdict, total);
        };
        world.edit_entry(slice(2), edit).await;
        converted(&mut world).await;
        let commit = commit(&world, month()).await;
        assert_eq!((commit.reconcile, commit.control_total), expected);
    }
}

async fn prune(world: &World, last: i8) {
    let slices = (1..=last).map(slice).collect();
    let never = CancellationToken::new();
    let pruned = removal::prune::prune(&world.lake, &slices, &never, &|| {});
    assert_eq!(pruned.await.unwrap().outcome, RunOutcome::Committed);
}

#[tokio::test(start_paused = true)]
async fn a_pruned_month_stays_pruned_and_keeps_its_counts() {
    for formats in FORMATS {
        let mut world = filled(formats, &whole_month()).await;
        prune(&world, 31).await;
        let merged = converted(&mut world).await;
        assert_eq!(
            (merged.months, merged.files_before, merged.files_after),
            (1, 0, 0)
        );
        assert_eq!(merged.remarks, NO_FINDINGS);
        let pruned = commit(&world, month()).await;
        assert_eq!((pruned.state, pruned.file), (State::Pruned, None));
        assert_eq!((pruned.counts.rows, pruned.counts.rejected), (58, 2));
        assert_eq!(paths_of_days(&world).await, NO_FINDINGS);
        assert_eq!(world.findings().await, NO_FINDINGS);
        let ran = world.run(31, source(&[])).await.run;
        assert_eq!(ran.report.slices, []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_that_was_never_fetched_is_not_declared_pruned_unnoticed() {
    // The days up to the 4th are fetched, and the rest of the month is not.
    let world = filled(&[], &[CALLS, CALLS, CALLS, CALLS]).await;
    prune(&world, 4).await;
    let before = world.contents().await;
    let lake = world.opened_for_converting().await;
    let refused = convert(&world, &lake).await.unwrap_err().to_string();
    let problem = "placed 2020-01: its days are pruned, but 2020-01-05 and 26 other days were \
                   never fetched. Fetch them, and prune the whole month";
    assert!(refused.ends_with(problem), "{refused}");
    assert_eq!(world.contents().await, before);

    // A day before a pruned one is as old.
    let mut world = filled(&[], &whole_month()).await;
    prune(&world, 31).await;
    world.delete(&layout::ledger_entry(slice(5))).await;
    let merged = converted(&mut world).await;
    let remark = "placed 2020-01: its days are pruned, and 2020-01-05 was never fetched. No run \
                  fetches the month";
    assert_eq!(merged.remarks, [remark]);
    assert_eq!(commit(&world, month()).await.state, State::Pruned);
}

#[tokio::test(start_paused = true)]
async fn a_month_with_more_rejects_than_a_slice_may_have_is_refused_before_anything_is_written() {
    let mut world = filled(&[], &[ODD; 6]).await;
    world.config.quality.fail_reject_ratio = 0.5;
    let before = world.contents().await;
    let lake = world.opened_for_converting().await;
    let refused = convert(&world, &lake).await.unwrap_err().to_string();
    let problem = "placed 2020-01, as one slice: 12 of 30 records were rejected, more than \
                   quality.max_rejects and quality.max_reject_ratio allow";
    assert!(refused.ends_with(problem), "{refused}");
    assert_eq!(world.contents().await, before);
    world.config.quality.max_rejects = 12;
    converted(&mut world).await;
    assert_eq!(commit(&world, month()).await.counts.rejected, 12);
}

#[tokio::test(start_paused = true)]
async fn a_lake_that_cannot_be_relied_on_is_refused_and_stays_as_it_is() {
    let problems: [(&str, &str); 6] = [
        (
            "damaged",
            "placed 2020-01-02: its ledger entry cannot be used",
        ),
        (
            "pending",
            "placed 2020-01-02: a run crashed while it published the day",
        ),
        ("failed", "placed 2020-01-02: the last attempt failed"),
        (
            "no file",
            "placed 2020-01-02: its file differs from its ledger entry",
        ),
        ("no entry", "placed 2020-01-02: it was never committed"),
        (
            "pruned",
            "placed 2020-01: some of its days are pruned. Prune all days up to 2020-01-31 first",
        ),
    ];
    for (damage, problem) in problems {
        let world = filled(&[], &[CALLS, CALLS, CALLS]).await;
        let entry = layout::ledger_entry(slice(2));
        match damage {
            "damaged" => world.put(&entry, "{").await,
            "no file" => world.delete(&TableForm::Plain.new_path(slice(2))).await,
            "no entry" => world.delete(&entry).await,
            "pruned" => prune(&world, 2).await,
            _ => {
                let edit = |entry: &mut Entry| match damage {
                    "pending" => {
                        entry.pending = Some(Pending {
                            run: "run".to_owned(),
                            token: "token".to_owned(),
                            file: None,
                            digest: Digest::default(),
                            planned: None,
                        });
                    }
                    _ => {
                        entry.failed = Some(Failure {
                            run: "run".to_owned(),
                            at: Timestamp::UNIX_EPOCH,
                            problem: "too few".to_owned(),
                            reason: None,
                        });
                    }
                };
                world.edit_entry(slice(2), edit).await;
            }
        }
        let before = world.contents().await;
        let lake = world.opened_for_converting().await;
        let refused = convert(&world, &lake).await.unwrap_err().to_string();
        assert!(refused.ends_with(problem), "{damage}: {refused}");
        assert_eq!(world.contents().await, before, "{damage}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changed_unnoticed_ends_the_conversion_before_its_day_is_removed() {
    let world = filled(&[], &[CALLS, CALLS]).await;
    let edit = |entry: &mut Entry| {
        let commit = entry.committed.as_mut().unwrap();
        commit.totals.duration_seconds += 1;
    };
    world.edit_entry(slice(2), edit).await;
    let lake = world.opened_for_converting().await;
    let refused = convert(&world, &lake).await.unwrap_err().to_string();
    let expected = "the days of placed 2020-01 could not be merged: the sums of its 2 days do not \
                    add up to those of its rows";
    assert_eq!(refused, expected);
    assert_eq!(paths_of_days(&world).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn nothing_else_writes_to_a_lake_that_is_being_converted() {
    for formats in FORMATS {
        let mut world = filled(formats, &[CALLS, CALLS]).await;
        let old = world.lake.clone();
        let begin = |identity: &mut Identity| identity.converting = Some(PeriodUnit::Month);
        old.with_identity(begin).await.unwrap();
        let before = world.contents().await;
        // A process that opened the lake before.
        let refreshing = Selection {
            refresh: true,
            ..days(2)
        };
        let stopped = world.run_in(&old, refreshing, source(&[4, 2])).await.run;
        let Some(Stop::NoLake(problem)) = stopped.stopped_by else {
            panic!("{stopped:?}");
        };
        let expected = "the period of the lake's slices has changed since the run opened it";
        assert!(problem.contains(expected), "{problem}");
        // One that opens it now.
        let refused = world.opened_as(&old.identity).await.unwrap_err();
        assert!(
            matches!(refused, LakeError::Converting { .. }),
            "{refused:?}"
        );
        assert_eq!(world.contents().await, before);
        assert_eq!(world.findings().await, NO_FINDINGS);
        let merged = converted(&mut world).await;
        assert_eq!((merged.files_before, merged.files_after), (2, 1));
        assert_eq!(world.findings().await, NO_FINDINGS);
    }
}

/// Received calls of a day or, with 0, of the month.
fn received(day: i8) -> Slice {
    let slice = Slice::new(slice(day.max(1)).period, Direction::Received);
    if day == 0 { slice.month() } else { slice }
}

/// A lake with these lines on the first two days, of both directions.
async fn filled_in_both_directions(formats: &[TableFormat]) -> World {
    let world = World::with_tables(formats).await;
    let source = [1, 2]
        .into_iter()
        .fold(ScriptedSource::new(), |source, day| {
            let lines = CALLS.replace("DAY", &slice(day).period.to_string());
            let source = source.with(slice(day), 2, [Lines(lines.clone())]);
            source.with(received(day), 2, [Lines(lines)])
        });
    let both = Selection {
        direction: None,
        ..days(2)
    };
    let outcome = world.run_selected(both, std::sync::Arc::new(source)).await;
    assert_eq!(outcome.run.report.outcome, RunOutcome::Committed);
    world
}

/// Interrupts a conversion after its first month.
#[derive(Debug)]
struct AfterFirstMonth(CancellationToken);

impl Observer for AfterFirstMonth {
    fn slice_looked_at(&self) {
        self.0.cancel();
    }
}

/// Begins a conversion, and interrupts it after its first month.
async fn convert_first_month(world: &World) {
    let lake = world.opened_for_converting().await;
    let interrupt = CancellationToken::new();
    let observer = AfterFirstMonth(interrupt.clone());
    let now = Timestamp::now();
    let none = convert_to_months(&lake, &world.config, now, &observer, &interrupt);
    assert_eq!(none.await.unwrap(), None);
}

/// Ways to damage the second received day, each with its rows that can still be read.
const DAMAGE: [(&str, u64); 6] = [
    ("the file is lost", 0),
    ("the file is no Parquet", 0),
    ("the entry is no JSON", 2),
    ("the entry is lost", 2),
    ("the entry has other sums", 2),
    ("the entry has rejects", 2),
];

async fn damage_second_day(world: &World, how: &str) {
    let damaged = received(2);
    let entry = layout::ledger_entry(damaged);
    let file = world
        .lake
        .entry(damaged)
        .await
        .entry
        .file()
        .unwrap()
        .location();
    match how {
        "the file is lost" => world.delete(&file).await,
        "the file is no Parquet" => world.put(&file, "no Parquet").await,
        "the entry is no JSON" => world.put(&entry, "{").await,
        "the entry is lost" => world.delete(&entry).await,
        _ => {
            let edit = |entry: &mut Entry| {
                let commit = entry.committed.as_mut().unwrap();
                match how {
                    "the entry has other sums" => commit.totals.duration_seconds += 1,
                    _ => {
                        let rejects = commit.file.clone();
                        (commit.counts.rejected, commit.rejects) = (2, rejects);
                        commit.counts.records += 2;
                        commit.reconcile = Verdict::Off;
                    }
                }
            };
            world.edit_entry(damaged, edit).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_that_is_damaged_after_a_month_was_merged_makes_its_month_open() {
    for formats in [FORMATS[0], FORMATS[3]] {
        for (how, readable) in DAMAGE {
            let mut world = filled_in_both_directions(formats).await;
            convert_first_month(&world).await;
            assert!(commit(&world, month()).await.file.is_some());

            damage_second_day(&world, how).await;
            let merged = converted(&mut world).await;
            let [problem] = &*merged.damaged else {
                panic!("{how}: {merged:?}");
            };
            let beginning = "received 2020-01-02 was damaged during the conversion, and ";
            assert!(problem.starts_with(beginning), "{how}: {problem}");
            let end = "could be read. received 2020-01 is open, and the next run fetches it whole";
            assert!(problem.ends_with(end), "{how}: {problem}");
            let open = commit(&world, received(0)).await;
            assert_eq!(
                (open.state, open.counts.rows),
                (State::Open, 2 + readable),
                "{how}"
            );
            assert_eq!(open.reconcile, Verdict::NotChecked, "{how}");
            assert_eq!(paths_of_days(&world).await, NO_FINDINGS, "{how}");
            assert_eq!(world.lake.compare_logs().await.unwrap(), [], "{how}");
            assert_eq!(world.findings().await, NO_FINDINGS, "{how}");

            let lines: String = [1, 2]
                .map(|day| CALLS.replace("DAY", &self::day(day).to_string()))
                .concat();
            let source = ScriptedSource::new().with(received(0), 4, [Lines(lines)]);
            let whole = Selection {
                direction: Some(Direction::Received),
                ..days(31)
            };
            let ran = world
                .run_selected(whole, std::sync::Arc::new(source))
                .await
                .run;
            assert_eq!(ran.report.outcome, RunOutcome::Committed, "{how}");
            assert_eq!(rows(&world, received(0)).await.len(), 4, "{how}");
            assert_eq!(world.findings().await, NO_FINDINGS, "{how}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_conversion_whose_days_are_damaged_before_a_month_is_merged_goes_back() {
    let mut world = filled_in_both_directions(&[]).await;
    let begin = |identity: &mut Identity| identity.converting = Some(PeriodUnit::Month);
    world.lake.with_identity(begin).await.unwrap();
    world.delete(&TableForm::Plain.new_path(slice(1))).await;
    let lake = world.opened_for_converting().await;
    let refused = convert(&world, &lake).await.unwrap_err();
    assert!(matches!(refused, Error::NotMergeable { .. }), "{refused}");
    world.lake = world.reopened().await;
    assert_eq!(world.lake.identity.converting, None);
    // A run repairs the day.
    let ran = world.run(1, source(&[2])).await.run;
    assert_eq!(ran.report.outcome, RunOutcome::Committed);
}

/// Another process, which begins to convert the lake while this one is suspended.
#[derive(Debug)]
struct Another(Lake);

impl Observer for Another {
    fn slices_began(&self, _: usize) {
        let begin = |identity: &mut Identity| identity.converting_run = Some("another".to_owned());
        let begun = self.0.with_identity(begin).now_or_never();
        begun.expect("memory does not wait").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_conversion_that_fails_does_not_end_another_one_that_has_begun_since() {
    let world = filled(&[], &[CALLS, CALLS]).await;
    let edit = |entry: &mut Entry| {
        let commit = entry.committed.as_mut().unwrap();
        commit.totals.duration_seconds += 1;
    };
    world.edit_entry(slice(2), edit).await;
    let lake = world.opened_for_converting().await;
    let (another, never) = (Another(world.lake.clone()), CancellationToken::new());
    let now = Timestamp::now();
    let refused = convert_to_months(&lake, &world.config, now, &another, &never).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("do not add up"), "{refused}");
    let identity = lake.as_it_is_now().await.unwrap().identity;
    assert_eq!(identity.converting, Some(PeriodUnit::Month));
    assert_eq!(identity.converting_run.as_deref(), Some("another"));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_fails_at_the_end_does_not_keep_the_lake_from_becoming_one_of_months() {
    for (formats, log) in [(FORMATS[1], "_delta_log"), (FORMATS[3], "_iceberg")] {
        let mut world = filled(formats, &whole_month()).await;
        let before = rows(&world, slice(1)).await;
        world.lake.identity.converting = Some(PeriodUnit::Month);
        let faults = Faults {
            action: "create",
            path: log,
            kind: FailureKind::Permanent,
        };
        let merged = convert(&world, &world.failing(faults).await).await;
        let merged = merged.unwrap().unwrap();
        assert!(merged.log_error.is_some(), "{merged:?}");
        world.lake = world.reopened().await;
        let identity = &world.lake.identity;
        assert_eq!(
            (identity.period_unit(), identity.converting),
            (PeriodUnit::Month, None)
        );
        assert_eq!(world.lake.unsynced_runs().await.unwrap(), 1);
        // Readers of the log still have the files of days.
        assert_eq!(rows(&world, slice(1)).await, before);
        // The next run mends it.
        let ran = world.run(31, source(&[])).await.run;
        assert_eq!(ran.report.warnings, NO_FINDINGS);
        assert_eq!(paths_of_days(&world).await, NO_FINDINGS);
        assert_eq!(world.lake.unsynced_runs().await.unwrap(), 0);
        assert_eq!(world.lake.compare_logs().await.unwrap(), []);
        assert_eq!(world.findings().await, NO_FINDINGS);
    }
}

#[tokio::test(start_paused = true)]
async fn a_number_is_erased_from_days_that_a_failed_log_still_has() {
    let mut world = filled(FORMATS[3], &[CALLS, CALLS]).await;
    world.lake.identity.converting = Some(PeriodUnit::Month);
    let faults = Faults {
        action: "create",
        path: "_delta_log",
        kind: FailureKind::Permanent,
    };
    let failing = world.failing(faults).await;
    assert!(convert(&world, &failing).await.unwrap().is_some());
    world.lake = world.reopened().await;
    assert_ne!(paths_of_days(&world).await, NO_FINDINGS);
    let lake = &world.lake;
    let token = super::world::key().token("15551");
    let privacy = lake.privacy().suppressing([token]).unwrap();
    let token = super::world::key().token("15551");
    let all = removal::erase::slices(lake).await.unwrap();
    let found = removal::erase::search(lake, &all, &std::sync::Arc::new(privacy), &|| {}).await;
    let never = CancellationToken::new();
    let erasure = removal::erase::erase(lake, &world.config, &token, &found, &never, &|| {});
    assert!(erasure.await.unwrap().is_complete);
    assert_eq!(paths_of_days(&world).await, NO_FINDINGS);
    assert_eq!(world.findings().await, NO_FINDINGS);
}

#[tokio::test(start_paused = true)]
async fn of_two_conversions_at_once_one_waits_for_the_other() {
    for formats in [FORMATS[0], FORMATS[3]] {
        let mut world = filled(formats, &[CALLS, ODD]).await;
        let one = world.opened_for_converting().await;
        let other = world.opened_for_converting().await;
        let converted = tokio::join!(convert(&world, &one), convert(&world, &other));
        assert!(converted.0.unwrap().is_some());
        let refused = converted.1.unwrap_err();
        assert!(
            matches!(refused, Error::Usage(UsageError::MonthsAlready)),
            "{refused}"
        );
        world.lake = world.reopened().await;
        assert_eq!(paths_of_days(&world).await, NO_FINDINGS);
        assert_eq!(world.findings().await, NO_FINDINGS);
    }
}

#[tokio::test(start_paused = true)]
async fn table_formats_are_added_before_or_after_a_conversion_to_months_but_not_during_it() {
    for tables_first in [true, false] {
        let mut world = filled(&[], &[CALLS, ODD]).await;
        let before = [rows(&world, slice(1)).await, rows(&world, slice(2)).await].concat();
        let months = world.opened_for_converting().await;
        let plain = world.lake.clone();
        let never = CancellationToken::new();
        let tables = tables::convert(&plain, FORMATS[3], Timestamp::now(), &never);
        let months = convert(&world, &months);
        let (tables, months) = if tables_first {
            tokio::join!(tables, months)
        } else {
            let (months, tables) = tokio::join!(months, tables);
            (tables, months)
        };
        assert!(months.unwrap().is_some());
        assert_eq!(tables.unwrap().0.identity.tables(), FORMATS[3]);
        let formats = Some(FORMATS[3].to_vec());
        world.lake.identity.tables = formats;
        world.lake = world.reopened().await;
        assert_eq!(world.lake.identity.period_unit(), PeriodUnit::Month);
        assert_eq!(rows(&world, month()).await, before);
        assert_eq!(paths_of_days(&world).await, NO_FINDINGS);
        assert_eq!(world.lake.compare_logs().await.unwrap(), []);
        assert_eq!(world.findings().await, NO_FINDINGS);
    }
}

#[tokio::test(start_paused = true)]
async fn days_before_the_start_of_the_lake_are_not_missing_in_its_first_month() {
    for (start, from) in [
        (None, Some(day(3))),
        (Some(3), Some(day(3))),
        (Some(2), None),
    ] {
        let mut world = filled(&[], &whole_month()).await;
        for of in [1, 2].map(slice) {
            world.delete(&layout::ledger_entry(of)).await;
            if !rows(&world, of).await.is_empty() {
                world.delete(&TableForm::Plain.new_path(of)).await;
            }
        }
        world.config.window.start = start.map(day);
        converted(&mut world).await;
        let commit = commit(&world, month()).await;
        let january = Selection {
            from: start.is_none().then(|| day(3)),
            ..days(31)
        };
        let due = plan(&world.config, &january, Some(&world.lake), Timestamp::now());
        let due = due.await.unwrap().due.len();
        if from.is_some() {
            assert_eq!((commit.from, commit.through), (from, None));
            assert_eq!(commit.state, State::Closed);
            assert_eq!(due, usize::from(start.is_none()));
        } else {
            // The second day was never fetched.
            assert_eq!((commit.from, commit.through), (Some(day(2)), Some(day(1))));
            assert_eq!((commit.state, due), (State::Open, 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_converted_lake_is_shown_and_verified_as_what_it_holds_and_is_not_planned() {
    for formats in FORMATS {
        let mut world = filled_in_both_directions(formats).await;
        let whole = status(&world).await;
        convert_first_month(&world).await;
        let identity = world.lake.identity.clone();
        world.lake = Lake::find_any(world.store()).await.unwrap().unwrap();
        assert_ne!(world.lake.identity, identity);

        let half = status(&world).await;
        let sums = |status: &LakeStatus| {
            let days = status.days.iter().flat_map(|day| &day.slices);
            let days = days.map(|day| (day.direction, day.rows, day.charge_usd));
            days.collect::<Vec<_>>()
        };
        assert_eq!(sums(&half), sums(&whole), "{formats:?}");
        assert_eq!(half.missing, 0, "{formats:?}");

        let verified = Verification::of(&world.config)
            .check_in(&world.lake, &())
            .await;
        let verified = verified.unwrap();
        assert_eq!(verified.found.rows, 8, "{formats:?}");
        assert!(verified.not_fetched.is_empty() && !verified.is_proven());
        let findings: Vec<Fault> = verified.found.findings.iter().map(|it| it.fault).collect();
        assert_eq!(findings, [Fault::Converting], "{formats:?}");

        // A warehouse would miss what changes until the end of the conversion.
        let statements = TableRequest {
            target: Target::Snowflake,
            table: "cdrs".to_owned(),
            location: None,
            form: None,
        };
        let everything = LoadScope::Days(Date::MIN..=Date::MAX);
        let refused = statements.load(&world.config, &world.lake, &everything);
        let refused = refused.await.unwrap_err();
        let is_converting = matches!(refused, Error::Lake(LakeError::Converting { .. }));
        assert!(is_converting, "{refused:?}");

        // The next month is announced, or its entry is damaged.
        let mut announced = Entry::new(received(0));
        announced.pending = Some(Pending {
            run: "run".to_owned(),
            token: "token".to_owned(),
            file: None,
            digest: Digest::default(),
            planned: None,
        });
        let announced = serde_json::to_vec(&announced).unwrap();
        world
            .put(&layout::ledger_entry(received(0)), announced)
            .await;
        assert_eq!(sums(&status(&world).await), sums(&whole), "{formats:?}");
        world.put(&layout::ledger_entry(month()), "{").await;
        let entries = world.lake.entries(&Direction::ALL, day(1)..=day(2)).await;
        let of_damaged = |slice: &&Slice| slice.direction == Direction::Placed;
        let entries = entries.unwrap();
        let found: Vec<&Slice> = entries.keys().filter(of_damaged).collect();
        assert_eq!(found, [&month()], "{formats:?}");
    }
}

/// Both directions of the first two days.
async fn status(world: &World) -> LakeStatus {
    let range = DayRange {
        direction: None,
        ..days(2).range()
    };
    let now = "2020-03-10T12:00:00Z".parse().unwrap();
    let status = LakeStatus::read(&world.lake, &world.config, &range, now);
    status.await.unwrap()
}
