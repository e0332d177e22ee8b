//! Reports on lakes, also on damaged ones.

use jiff::Timestamp;
use jiff::civil::date;
use serde_json::Value;

use super::world::{World, day, days, month, slice, source, source_of_lines};
use crate::cdr::digest::Digest;
use crate::cdr::reconcile::Verdict;
use crate::cdr::slice::Direction;
use crate::cdr::tally::OTHER_DISPOSITIONS;
use crate::lake::ledger::{Entry, Pending, State};
use crate::ops::days::{DayRange, Selection};
use crate::ops::report::Report;
use crate::ops::{Error, UsageError};
use crate::store::layout;

fn now() -> Timestamp {
    "2020-01-10T12:00:00Z".parse().unwrap()
}

async fn made(world: &World, range: &DayRange, show_numbers: bool) -> Result<Report, Error> {
    Report::make(&world.lake, &world.config, range, show_numbers, now()).await
}

/// The report on placed calls from day 1 to `last`, as JSON.
async fn report(world: &World, last: i8) -> Value {
    let report = made(world, &days(last).range(), false).await.unwrap();
    serde_json::to_value(report).unwrap()
}

/// The kind and the text of each finding.
fn findings(report: &Value) -> Vec<(&str, &str)> {
    let findings = report["trust"]["findings"].as_array().unwrap().iter();
    findings
        .map(|it| (it["kind"].as_str().unwrap(), it["text"].as_str().unwrap()))
        .collect()
}

fn calls_by_day(report: &Value) -> Vec<u64> {
    let days = report["days"].as_array().unwrap().iter();
    days.map(|day| day["calls"].as_u64().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_lake_without_calls_of_the_days_has_no_report() {
    let world = World::new().await;
    let nothing = made(
        &world,
        &DayRange {
            last_days: Some(5),
            ..DayRange::default()
        },
        false,
    )
    .await;
    let error = nothing.unwrap_err();
    assert!(matches!(
        error,
        Error::Usage(UsageError::NothingFetched { known: None, .. })
    ));
    assert!(
        error.to_string().contains("nothing was fetched yet"),
        "{error}"
    );
    // Without any day it is not even known which days are meant.
    let nothing = made(&world, &DayRange::default(), false).await.unwrap_err();
    assert!(
        matches!(nothing, Error::Usage(UsageError::NoDays)),
        "{nothing}"
    );
    let world = World::filled(&[1, 2]).await;
    let later = DayRange {
        from: Some(day(5)),
        to: Some(day(6)),
        ..days(2).range()
    };
    let error = made(&world, &later, false).await.unwrap_err().to_string();
    let expected = "the lake has no calls from 2020-01-05 to 2020-01-06: it has days from \
         2020-01-01 to 2020-01-02";
    assert_eq!(error, expected);
}

#[tokio::test(start_paused = true)]
async fn by_default_a_report_begins_with_the_first_day_of_a_young_lake() {
    let world = World::filled(&[3, 2, 1]).await;
    let placed = DayRange {
        direction: Some(Direction::Placed),
        ..DayRange::default()
    };
    let report = made(&world, &placed, false).await.unwrap();
    assert_eq!((report.from, report.to), (day(1), day(9)));
    assert!(report.before.is_none());
    let until = DayRange {
        to: Some(day(2)),
        ..placed
    };
    let report = made(&world, &until, false).await.unwrap();
    assert_eq!((report.from, report.to), (day(1), day(2)));
}

#[tokio::test(start_paused = true)]
async fn a_period_is_compared_with_the_one_before_only_if_the_lake_has_both_whole() {
    let world = World::filled(&[1, 2, 3, 4]).await;
    let last_two = DayRange {
        from: Some(day(3)),
        ..days(4).range()
    };
    let json = |report| serde_json::to_value::<Report>(report).unwrap();
    let report = json(made(&world, &last_two, false).await.unwrap());
    assert_eq!(report["before"]["from"], "2020-01-01");
    assert_eq!(report["totals"][0]["calls"], 7);
    assert_eq!(report["totals"][0]["before"]["calls"], 3);
    assert_eq!(report["trunks"]["rows"][0]["before"]["calls"], 3);
    for (of, is_fetched_at_noon) in [(1, false), (1, true), (4, false), (4, true)] {
        let world = World::filled(&[1, 2, 3, 4]).await;
        if is_fetched_at_noon {
            world.edit_entry(slice(of), fetched_at_noon).await;
        } else {
            world.delete(&layout::ledger_entry(slice(of))).await;
        }
        let report = json(made(&world, &last_two, false).await.unwrap());
        assert_eq!(
            (&report["before"], &report["totals"][0]["before"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(report["changes"], Value::Array(Vec::new()));
    }
}

/// Leaves the slice of a day as if it was fetched on it, and never again.
fn fetched_at_noon(entry: &mut Entry) {
    let day = entry.slice.period.first_day();
    let commit = entry.committed.as_mut().unwrap();
    commit.state = State::Open;
    commit.fetched_at = format!("{day}T12:00:00Z").parse().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_day_is_compared_with_the_week_before_only_if_the_lake_has_both_whole() {
    for fetched_early in [None, Some(1), Some(8)] {
        let world = World::filled(&[1, 2, 3, 4, 5, 6, 7, 8]).await;
        if let Some(of) = fetched_early {
            world.edit_entry(slice(of), fetched_at_noon).await;
        }
        let report = report(&world, 8).await;
        let calls = fetched_early.is_none().then_some(1);
        let week_before = &report["days"][7]["week_before"];
        assert_eq!(week_before["calls"].as_u64(), calls, "{week_before}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_rhythm_counts_the_hours_of_whole_days_also_without_calls() {
    let world = World::filled(&[0, 0, 1]).await;
    world.edit_entry(slice(2), fetched_at_noon).await;
    let hours = |report: &Value| {
        let rhythm = report["rhythm"].as_array().unwrap().iter();
        rhythm.map(|it| it["hours"].as_u64().unwrap()).sum::<u64>()
    };
    let placed = report(&world, 2).await;
    assert_eq!((hours(&placed), &placed["pass"]["files"]), (24, &0.into()));
    let both = DayRange {
        direction: None,
        ..days(3).range()
    };
    let both = made(&world, &both, false).await.unwrap();
    let both = serde_json::to_value(both).unwrap();
    assert_eq!((hours(&both), &both["totals"][2]["calls"]), (0, &1.into()));
}

#[tokio::test(start_paused = true)]
async fn by_default_a_report_on_months_begins_within_the_window() {
    let mut world = World::of_months(&[&[("1", 25)], &[("2", 20)]]).await;
    let now = "2020-02-28T12:00:00Z".parse().unwrap();
    for (start, from) in [(None, 29), (Some(20), 20)] {
        world.config.window.start = start.map(|start| date(2020, 2, start));
        let range = DayRange {
            direction: Some(Direction::Placed),
            ..DayRange::default()
        };
        let report = Report::make(&world.lake, &world.config, &range, false, now);
        assert_eq!(report.await.unwrap().from.day(), from);
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_be_read_of_a_damaged_lake_is_shown_and_the_rest_is_a_finding() {
    let world = World::filled(&[3, 2, 1, 4, 5, 6, 7]).await;
    // A ledger entry that cannot be parsed: its file is there.
    world.put(&layout::ledger_entry(slice(2)), "{").await;
    // One of a later version.
    let newer = "{\"format\": 99}";
    world.put(&layout::ledger_entry(slice(3)), newer).await;
    // A file that is missing, one that is cut, and one with other rows.
    world.delete(&world.table_file(slice(4)).await.path).await;
    let path = world.table_file(slice(5)).await.path;
    let bytes = world.get(&path).await;
    world.put(&path, &bytes[..bytes.len() - 100]).await;
    let edit = |entry: &mut Entry| {
        entry.committed.as_mut().unwrap().totals.duration_seconds += 1;
    };
    world.edit_entry(slice(6), edit).await;
    let prune = |entry: &mut Entry| {
        let commit = entry.committed.as_mut().unwrap();
        (commit.state, commit.file) = (State::Pruned, None);
    };
    world.delete(&world.table_file(slice(7)).await.path).await;
    world.edit_entry(slice(7), prune).await;

    let made = made(&world, &days(8).range(), false).await.unwrap();
    assert!(made.trust.is_any_damaged());
    let report = serde_json::to_value(made).unwrap();
    assert_eq!(calls_by_day(&report), [3, 2, 1, 0, 0, 6, 0, 0]);
    let found = findings(&report);
    let kinds: Vec<&str> = found.iter().map(|(kind, _)| *kind).collect();
    let expected = [
        "damaged",
        "damaged",
        "unreadable",
        "unreadable",
        "altered",
        "pruned",
        "missing",
    ];
    assert_eq!(kinds, expected, "{found:?}");
    for (text, part) in found.iter().map(|it| it.1).zip([
        "2020-01-02 placed: its ledger entry cannot be used, so its calls are unproven: EOF",
        "2020-01-03 placed: its ledger entry cannot be used, so its calls are unproven: a newer",
        "2020-01-04 placed: its calls are not in the report: its file is missing.",
        "2020-01-05 placed: its calls are not in the report: cannot read the Parquet file",
        "2020-01-06 placed: its file is not what the ledger has: on 2020-01-06, the seconds \
         are 157 in the ledger, 156 in the file.",
        "2020-01-07 placed: removed for its age.",
        "2020-01-08 placed: not fetched yet.",
    ]) {
        assert!(text.starts_with(part), "{text}");
    }
    let sound = World::filled(&[3]).await;
    let range = days(1).range();
    let made = self::made(&sound, &range, false).await.unwrap();
    assert!(!made.trust.is_any_damaged());
}

#[tokio::test(start_paused = true)]
async fn rejects_changes_and_other_counts_are_findings_that_damage_nothing() {
    const LINES: &str = "{\"call_id\":\"1\",\"date\":\"DAYT10:00:00Z\",\"duration\":60}\n\
         {\"call_id\":\"2\",\"date\":\"broken\"}\n";
    let world = World::new().await;
    world.run(2, source_of_lines(&[LINES, LINES])).await;
    let again = Selection {
        refresh: true,
        to: Some(day(1)),
        ..days(2)
    };
    world.run_selected(again, source(&[3])).await;
    let edit = |entry: &mut Entry| {
        let commit = entry.committed.as_mut().unwrap();
        (commit.reconcile, commit.control_total) = (Verdict::Mismatch, Some(9));
    };
    world.edit_entry(slice(2), edit).await;

    let made = made(&world, &days(2).range(), false).await.unwrap();
    assert!(!made.trust.is_any_damaged());
    let report = serde_json::to_value(made).unwrap();
    let found = findings(&report);
    let kinds: Vec<&str> = found.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["changed", "mismatch", "rejects"], "{found:?}");
    let changed = found[0].1;
    assert!(changed.ends_with(": 1 → 3 rows, 0 → 0 USD."), "{changed}");
    assert!(
        found[1]
            .1
            .ends_with("the provider counts 9 calls, and the lake read 2 records.")
    );
    let trust = &report["trust"];
    assert_eq!(
        (&trust["matching"], &trust["rejected"]),
        (&1.into(), &1.into())
    );
    assert_eq!(trust["list"][0]["changes"][0]["rows_after"], 3);
    assert_eq!(trust["list"][1]["provider_count"], 9);
}

#[tokio::test(start_paused = true)]
async fn a_day_that_grew_while_it_lasted_did_not_change() {
    let world = World::filled(&[1]).await;
    world.edit_entry(slice(1), fetched_at_noon).await;
    let again = || Selection {
        refresh: true,
        ..days(1)
    };
    for calls in 2..=6 {
        world.run_selected(again(), source(&[calls])).await;
        let report = report(&world, 1).await;
        let of_slice = &report["trust"]["list"][0];
        // The first of these runs completed the day.
        assert_eq!(of_slice["changed"], calls - 2);
        let shown = of_slice["changes"].as_array().unwrap();
        assert_eq!(shown.len() as u64, (calls - 2).min(3));
        let last = shown.last().map(|it| &it["rows_after"]);
        assert!(last.is_none_or(|rows| *rows == calls));
        assert_eq!(findings(&report).is_empty(), calls == 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_an_interrupted_run_replaced_is_no_damage() {
    let world = World::filled(&[3, 2]).await;
    let entry = |of| world.lake.entry(slice(of));
    let pending = Pending {
        run: "run".to_owned(),
        token: "token".to_owned(),
        file: entry(1).await.entry.committed.unwrap().file,
        digest: Digest::default(),
        planned: None,
    };
    let edit = |entry: &mut Entry| {
        entry.pending = Some(pending);
        entry.committed.as_mut().unwrap().totals.duration_seconds += 1;
    };
    world.edit_entry(slice(1), edit).await;
    let made = made(&world, &days(2).range(), false).await.unwrap();
    assert!(!made.trust.is_any_damaged());
    let report = serde_json::to_value(made).unwrap();
    let found = findings(&report);
    let kinds: Vec<&str> = found.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["interrupted", "interrupted"], "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn outcomes_that_the_ledger_has_among_others_are_no_difference() {
    let altered = async |other: bool| {
        let world = World::filled(&[3]).await;
        let edit = |entry: &mut Entry| {
            let names = &mut entry.committed.as_mut().unwrap().totals.by_disposition;
            names.insert("answered".to_owned(), 2);
            if other {
                names.insert(OTHER_DISPOSITIONS.to_owned(), 1);
            }
        };
        world.edit_entry(slice(1), edit).await;
        let report = report(&world, 1).await;
        let found = findings(&report).first().map(|it| it.1.to_owned());
        found.unwrap_or_default()
    };
    assert_eq!(altered(true).await, "");
    let found = altered(false).await;
    let expected = "the answered calls are 2 in the ledger, 0 in the file.";
    assert!(found.ends_with(expected), "{found}");
}

#[tokio::test(start_paused = true)]
async fn numbers_that_the_lake_keeps_are_hidden_unless_they_are_asked_for() {
    const LINES: &str = "{\"call_id\":\"1\",\"date\":\"DAYT10:00:00Z\",\"from\":\"13025550101\",\
         \"destination\":\"13025550199\"}\n\
         {\"call_id\":\"2\",\"date\":\"DAYT10:00:00Z\",\"from\":\"13025550102\",\
         \"destination\":\"sip:anna1234@example.com\"}\n";
    let world = World::new().await;
    world.run(1, source_of_lines(&[LINES])).await;
    let names = |report: &Value, ranking: &str| -> Vec<(String, u64)> {
        let rows = report[ranking]["rows"].as_array().unwrap().iter();
        rows.map(|row| {
            (
                row["name"].as_str().unwrap().to_owned(),
                row["calls"].as_u64().unwrap(),
            )
        })
        .collect()
    };
    let hidden = report(&world, 1).await;
    assert_eq!(hidden["numbers"], "hidden");
    let apart = ["1302555… #1", "1302555… #2"].map(|name| (name.to_owned(), 1));
    assert_eq!(names(&hidden, "own_numbers"), apart);
    let destinations = names(&hidden, "destinations");
    assert_eq!(destinations[0], ("1302555… #1".to_owned(), 1));
    assert!(!hidden.to_string().contains("1234"), "{hidden}");
    let shown = made(&world, &days(1).range(), true).await.unwrap();
    let shown = serde_json::to_value(shown).unwrap();
    assert_eq!(shown["numbers"], "shown");
    let numbers = ["13025550101", "13025550102"].map(|number| (number.to_owned(), 1));
    assert_eq!(names(&shown, "own_numbers"), numbers);
}

#[tokio::test(start_paused = true)]
async fn very_many_dispositions_are_no_difference_from_the_ledger() {
    let line = |id: String, disposition: &str| {
        format!(
            "{{\"call_id\":\"{id}\",\"date\":\"DAYT10:00:00Z\",\
             \"disposition\":\"{disposition}\"}}\n"
        )
    };
    let lines = (0..100).flat_map(|number| {
        let other = line(format!("other-{number}"), &format!("a{number}"));
        [other, line(format!("failed-{number}"), "failed")]
    });
    let lines: String = lines.collect();
    let world = World::new().await;
    world.run(1, source_of_lines(&[&lines])).await;
    let report = report(&world, 1).await;
    assert_eq!(findings(&report), []);
    assert_eq!(report["totals"][0]["failed"], 100);
}

#[tokio::test(start_paused = true)]
async fn a_day_of_a_lake_of_months_has_the_sums_that_the_ledger_has_of_it() {
    let world = World::of_months(&[&[("1", 3), ("2", 3), ("3", 9)], &[("4", 1)]]).await;
    let now = "2020-03-10T12:00:00Z".parse().unwrap();
    let range = DayRange {
        from: Some(day(3)),
        to: Some(month(2).period.first_day()),
        ..days(1).range()
    };
    let report = Report::make(&world.lake, &world.config, &range, false, now)
        .await
        .unwrap();
    let report = serde_json::to_value(report).unwrap();
    let calls = calls_by_day(&report);
    assert_eq!((calls.len(), calls[0], calls[6], calls[29]), (30, 2, 1, 1));
    assert_eq!(findings(&report), []);
    assert_eq!(report["trust"]["list"].as_array().unwrap().len(), 2);
    assert_eq!(report["totals"][0]["charge_usd"], "2");
    assert_eq!(report["peaks"][0]["calls"], 2);
}
