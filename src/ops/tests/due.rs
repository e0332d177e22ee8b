//! Which slices of a lake are due, with the lake in a bucket in memory.

use std::sync::Arc;

use jiff::Timestamp;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;

use crate::cdr::slice::{Direction, Slice, parse_day};
use crate::config::Config;
use crate::lake::ledger::tests::commit;
use crate::lake::ledger::{ASSUMED_TIMEZONE, Commit, Entry, Failure, State};
use crate::lake::{Lake, PublishedFile, TableForm};
use crate::ops::days::Selection;
use crate::ops::plan::{DueReason, Plan, plan, plan_load};
use crate::privacy::Privacy;
use crate::slice_file::statistics::FileStatistics;
use crate::store::bucket::BucketStore;
use crate::store::layout;

const NOW: &str = "2026-10-10T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn config(more: &[(&'static str, &str)]) -> Config {
    let all = [
        ("lake.url", "unused"),
        ("window.start", "2026-10-01"),
        ("window.timezone", "UTC"),
        ("window.lookback_days", "3"),
    ];
    Config::from_keys(all.iter().chain(more).copied()).unwrap()
}

fn placed(day: &str) -> Slice {
    let day = parse_day(day).unwrap();
    let direction = Direction::Placed;
    Slice::of_day(day, direction)
}

async fn lake() -> (Arc<InMemory>, Lake) {
    let objects = Arc::new(InMemory::new());
    let store = BucketStore::in_memory(&objects);
    let identity = config(&[]).identity(&Privacy::default());
    let lake = Lake::open(Arc::new(store), &identity, Privacy::default()).await;
    (objects, lake.unwrap())
}

async fn put(objects: &InMemory, path: &Path, bytes: impl Into<Vec<u8>>) {
    let path = Path::from(format!("lake/{path}"));
    objects.put(&path, bytes.into().into()).await.unwrap();
}

/// The lake holds three calls of a slice, fetched when its day was long over, but for what `edit`
/// makes of its ledger entry.
async fn hold(held: &(Arc<InMemory>, Lake), slice: Slice, edit: impl Fn(&mut Entry)) {
    let (objects, lake) = held;
    let path = TableForm::Plain.new_path(slice);
    put(objects, &path, "abc").await;
    let etag = lake
        .table()
        .file(&Entry::new(slice))
        .await
        .unwrap()
        .unwrap()
        .etag;
    let file = PublishedFile {
        path: path.to_string(),
        rows: 3,
        bytes: 3,
        checksum: String::new(),
        etag,
        statistics: FileStatistics::default(),
    };
    let mut committed = commit(Some(file), State::Closed);
    committed.counts.records = 3;
    committed.counts.rows = 3;
    committed.digest.rows = 3;
    let mut entry = Entry {
        committed: Some(committed),
        ..Entry::new(slice)
    };
    edit(&mut entry);
    let entry = serde_json::to_vec(&entry).unwrap();
    put(objects, &layout::ledger_entry(slice), entry).await;
}

fn committed(entry: &mut Entry) -> &mut Commit {
    entry.committed.as_mut().unwrap()
}

/// A lake in which each day is due for another reason, or for none.
async fn varied_lake() -> Lake {
    let held = lake().await;
    hold(&held, placed("2026-10-01"), |_| {}).await;
    // Nothing of 2026-10-02.
    hold(&held, placed("2026-10-03"), |_| {}).await;
    put(
        &held.0,
        &TableForm::Plain.new_path(placed("2026-10-03")),
        "other",
    )
    .await;
    hold(&held, placed("2026-10-04"), |entry| {
        committed(entry).state = State::Open;
    })
    .await;
    hold(&held, placed("2026-10-05"), |entry| {
        entry.failed = Some(Failure {
            run: "run".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            problem: "broken".to_owned(),
            reason: None,
        });
    })
    .await;
    hold(&held, placed("2026-10-06"), |entry| {
        committed(entry).fetched_at = "2027-01-01T00:00:00Z".parse().unwrap();
    })
    .await;
    for day in ["2026-10-07", "2026-10-08", "2026-10-09"] {
        hold(&held, placed(day), |_| {}).await;
    }
    put(&held.0, &Path::from("cdrs/dt=2026-10-01/x.parquet"), "x").await;
    held.1
}

fn due(plan: &Plan) -> Vec<(String, DueReason)> {
    let due = plan.due.iter();
    due.map(|due| (due.slice.period.to_string(), due.why))
        .collect()
}

fn expected(due: &[(&str, DueReason)]) -> Vec<(String, DueReason)> {
    due.iter()
        .map(|&(day, why)| (format!("2026-10-{day}"), why))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_plan_begins_with_repairs_and_continues_with_the_newest_day() {
    let (config, lake) = (config(&[]), varied_lake().await);
    let only = Selection {
        direction: Some(Direction::Placed),
        ..Selection::default()
    };
    let found = plan(&config, &only, Some(&lake), now()).await.unwrap();
    let all = [
        ("03", DueReason::Damaged),
        ("09", DueReason::LookBack),
        ("08", DueReason::LookBack),
        ("07", DueReason::LookBack),
        ("06", DueReason::Clock),
        ("05", DueReason::Failed),
        ("04", DueReason::Open),
        ("02", DueReason::Missing),
    ];
    assert_eq!(due(&found), expected(&all));
    assert_eq!(found.up_to_date, 1);
    assert_eq!(found.foreign.len(), 1);
    let token = found.due[1].committed_token.as_deref();
    assert_eq!(token, Some("token"));
    assert_eq!(found.due[7].committed_token, None);

    // Today is due for itself, and refreshing makes everything due that is sound.
    let today = Selection {
        include_today: true,
        refresh: true,
        from: Some(parse_day("2026-10-09").unwrap()),
        ..only.clone()
    };
    let found = plan(&config, &today, Some(&lake), now()).await.unwrap();
    let all = [("10", DueReason::Today), ("09", DueReason::Refresh)];
    assert_eq!(due(&found), expected(&all));

    // Shares do together what one run does.
    let mut days = Vec::new();
    for shard in ["1/3", "2/3", "3/3"] {
        let share = Selection {
            shard: Some(shard.parse().unwrap()),
            ..only.clone()
        };
        let found = plan(&config, &share, Some(&lake), now()).await.unwrap();
        assert!(found.due.len() + usize::try_from(found.up_to_date).unwrap() < 9);
        days.extend(due(&found));
    }
    assert_eq!(days.len(), 8);

    // Where there is no lake everything is missing, both ways.
    let found = plan(&config, &Selection::default(), None, now()).await;
    let found = found.unwrap();
    assert_eq!(found.due.len(), 18);
    assert!(found.due.iter().all(|due| due.why == DueReason::Missing));
    assert_eq!(found.due[0].slice, placed("2026-10-09"));
}

#[tokio::test(start_paused = true)]
async fn a_direction_that_is_not_configured_is_refused() {
    let config = config(&[("source.directions", "placed")]);
    let only = |direction| Selection {
        direction: Some(direction),
        ..Selection::default()
    };
    let refused = plan(&config, &only(Direction::Received), None, now()).await;
    let refused = refused.unwrap_err().to_string();
    assert_eq!(refused, "source.directions does not include received");
    let found = plan(&config, &only(Direction::Placed), None, now()).await;
    assert_eq!(found.unwrap().due.len(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_load_adds_missing_slices_and_reports_different_ones() {
    let (config, lake) = (config(&[]), varied_lake().await);
    let slices = |days: &[(&str, u64)]| -> Vec<(Slice, u64)> {
        let slice = |&(day, records): &(&str, u64)| (placed(&format!("2026-10-{day}")), records);
        days.iter().map(slice).collect()
    };
    let export = slices(&[
        ("01", 3),
        ("02", 5),
        ("03", 3),
        ("04", 3),
        ("05", 3),
        ("06", 3),
        ("07", 4),
        ("10", 9),
    ]);
    let load = plan_load(&config, &export, false, Some(&lake), now()).await;
    let load = load.unwrap();
    // What the next run sees to is left to it, and today is not all there.
    let all = [("03", DueReason::Damaged), ("02", DueReason::Missing)];
    assert_eq!(due(&load.plan), expected(&all));
    assert_eq!(load.plan.up_to_date, 5);
    assert_eq!(load.differing, [placed("2026-10-07")]);
    assert_eq!(load.of_other_zone, []);
    let first = placed("2026-10-01").period.first_day();
    assert_eq!(
        load.plan.days,
        first..=placed("2026-10-07").period.first_day()
    );

    let load = plan_load(&config, &export, true, Some(&lake), now()).await;
    let load = load.unwrap();
    assert_eq!((load.plan.due.len(), load.plan.up_to_date), (7, 0));
    assert_eq!(load.differing, []);

    for (export, problem) in [
        (slices(&[]), "the export has no records"),
        (slices(&[("10", 1)]), "no record of a day that has ended"),
    ] {
        let refused = plan_load(&config, &export, false, Some(&lake), now()).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(problem), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn days_loaded_in_another_time_zone_are_reported_also_next_to_the_export() {
    let held = lake().await;
    for (day, zone) in [
        ("2026-10-01", Some("Europe/Paris")),
        ("2026-10-02", Some("Europe/Berlin")),
        ("2026-10-03", None),
        ("2026-10-04", Some("Europe/Berlin")),
        ("2026-10-05", Some("Europe/Berlin")),
    ] {
        hold(&held, placed(day), |entry| {
            let zone = zone.map(|zone| (ASSUMED_TIMEZONE.to_owned(), zone.to_owned()));
            committed(entry).asked.query.extend(zone);
        })
        .await;
    }
    let export = [(placed("2026-10-02"), 3), (placed("2026-10-03"), 3)];
    let lake = held.1;
    let config = config(&[("source.assume_timezone", "Europe/Paris")]);
    let load = plan_load(&config, &export, false, Some(&lake), now()).await;
    let others = [placed("2026-10-02"), placed("2026-10-04")];
    assert_eq!(load.unwrap().of_other_zone, others);
    // What is loaded again is not kept.
    let load = plan_load(&config, &export, true, Some(&lake), now()).await;
    assert_eq!(load.unwrap().of_other_zone, [placed("2026-10-04")]);
}

#[tokio::test(start_paused = true)]
async fn foreign_files_are_named_up_to_a_limit() {
    let held = lake().await;
    let remark = async || {
        let plan = plan(&config(&[]), &Selection::default(), Some(&held.1), now()).await;
        plan.unwrap().foreign_remark()
    };
    assert_eq!(remark().await, None);
    for number in 1..=5 {
        let path = format!("cdrs/dt=2026-10-02/{number}.parquet");
        put(&held.0, &Path::from(path), "x").await;
    }
    let all = remark().await.unwrap();
    assert!(all.text.ends_with("/5.parquet"), "{all:?}");
    put(&held.0, &Path::from("cdrs/dt=2026-10-02/6.parquet"), "x").await;
    let some = remark().await.unwrap();
    assert!(some.text.ends_with("/5.parquet and 1 more"), "{some:?}");
}

#[test]
fn each_due_reason_has_its_own_text_and_only_some_are_damage() {
    let all = [
        DueReason::Missing,
        DueReason::Interrupted,
        DueReason::Damaged,
        DueReason::RejectsDamaged,
        DueReason::LedgerDamaged,
        DueReason::LedgerUnusable,
        DueReason::Failed,
        DueReason::Clock,
        DueReason::Open,
        DueReason::LookBack,
        DueReason::Refresh,
        DueReason::Today,
    ];
    let mut words: Vec<String> = all.iter().map(ToString::to_string).collect();
    assert!(words.iter().all(|words| words.len() > 4));
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), all.len());
    let damage = all.into_iter().filter(|why| why.is_damage());
    let damage: Vec<DueReason> = damage.collect();
    let expected = [
        DueReason::Damaged,
        DueReason::RejectsDamaged,
        DueReason::LedgerDamaged,
    ];
    assert_eq!(damage, expected);
}
