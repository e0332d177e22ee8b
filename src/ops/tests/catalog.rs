//! A catalog follows the log of Apache Iceberg.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use object_store::path::Path;
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use super::world::{World, days, slice, source};
use crate::error::chain;
use crate::lake::report::RunOutcome;
use crate::lake::table_log::{Fault, Model};
use crate::lake::{Lake, LakeError, SyncScope, TableFormat};
use crate::ops::days::Selection;
use crate::ops::removal::prune::prune;
use crate::store::layout;

/// An empty lake with a catalog.
async fn empty() -> (World, Arc<Model>) {
    let mut world = World::with_tables(&[TableFormat::Iceberg]).await;
    let model = Model::new(world.store());
    world.lake = connected(world.lake.clone(), &model);
    (world, model)
}

/// A lake with a catalog, and calls on two days.
async fn filled() -> (World, Arc<Model>) {
    let (world, model) = empty().await;
    run(&world, &world.lake, days(2), &[3, 2]).await;
    assert_follows(&world, &model).await;
    (world, model)
}

fn connected(lake: Lake, model: &Arc<Model>) -> Lake {
    lake.with_catalog(Some(model.catalog()))
}

async fn other_process(world: &World, model: &Arc<Model>) -> Lake {
    connected(world.other_process().await, model)
}

async fn run(world: &World, lake: &Lake, selection: Selection, calls: &[u64]) {
    let ran = world.run_in(lake, selection, source(calls)).await.run;
    assert_eq!(ran.report.outcome, RunOutcome::Committed, "{ran:?}");
    assert_eq!(ran.stopped_by, None);
}

fn refreshing() -> Selection {
    Selection {
        refresh: true,
        ..days(2)
    }
}

/// The newest metadata of the log.
async fn newest(world: &World) -> Json {
    let contents = world.contents().await;
    let versions = contents.iter().filter_map(|(path, bytes)| {
        let name = path.strip_prefix("_iceberg/metadata/v")?;
        let version: u64 = name.strip_suffix(".metadata.json")?.parse().ok()?;
        Some((version, bytes))
    });
    let (_, bytes) = versions.max_by_key(|(version, _)| *version).unwrap();
    serde_json::from_slice(bytes).unwrap()
}

/// Panics unless ledger, log and catalog are equal, and readers of the catalog find every file.
async fn assert_follows(world: &World, model: &Model) {
    assert_eq!(world.lake.compare_logs().await.unwrap(), []);
    let log = newest(world).await;
    assert_eq!(model.main(), log["current-snapshot-id"].as_i64());
    let snapshots = log["snapshots"].as_array().unwrap().iter();
    let known: BTreeSet<i64> = snapshots
        .map(|snapshot| snapshot["snapshot-id"].as_i64().unwrap())
        .collect();
    assert!(model.snapshots().is_subset(&known));
    assert_eq!(model.table()["table-uuid"], log["table-uuid"]);
    assert_readable(world, model).await;
}

async fn assert_readable(world: &World, model: &Model) {
    for list in model.manifest_lists() {
        assert!(world.holds(&list).await, "{list}");
    }
}

async fn is_noted(world: &World) -> bool {
    let mut paths = world.contents().await.into_keys();
    paths.any(|path| path.starts_with(layout::UNSYNCED))
}

async fn prune_first_day(lake: &Lake) -> RunOutcome {
    let slices = [slice(1)].into();
    let never = CancellationToken::new();
    prune(lake, &slices, &never, &|| {}).await.unwrap().outcome
}

fn assert_without_secrets(text: &str) {
    assert!(!text.contains("CANARY"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_new_table_is_registered_and_later_snapshots_are_committed() {
    let (world, model) = filled().await;
    assert_eq!(model.changes(), 0, "it was registered");
    run(&world, &world.lake, days(3), &[3, 2, 4]).await;
    assert_follows(&world, &model).await;
    assert_eq!((model.changes(), model.snapshots().len()), (1, 2));
    let lake = other_process(&world, &model).await;
    run(&world, &lake, refreshing(), &[4, 2]).await;
    assert_follows(&world, &model).await;
    assert_eq!(model.changes(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_run_without_changes_asks_the_catalog_for_nothing() {
    let (world, model) = filled().await;
    let before = model.requests().len();
    run(&world, &world.lake, days(2), &[]).await;
    assert_eq!(model.requests().len(), before);
    assert_eq!(world.lake.sync_everything("sync").await.unwrap(), []);
    let asked = &model.requests()[before..];
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].starts_with("GET"), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_cannot_register_creates_the_table_with_the_same_uuid() {
    let (world, model) = empty().await;
    model.refuse_to_register();
    run(&world, &world.lake, days(2), &[3, 2]).await;
    assert_follows(&world, &model).await;
    run(&world, &world.lake, refreshing(), &[4, 2]).await;
    assert_follows(&world, &model).await;
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_can_neither_register_nor_create_the_table_is_reported_with_both_reasons() {
    let (world, model) = empty().await;
    model.refuse_to_register();
    run(&world, &world.lake, days(2), &[3, 2]).await;
    let requests = model.requests();
    for (end, action) in [("/tables", "create"), ("/tables/cdrs", "commit to")] {
        let is_refused = |asked: &String| asked.starts_with("POST") && asked.ends_with(end);
        let at = requests.iter().position(is_refused).unwrap();
        let (world, model) = empty().await;
        model.refuse_to_register();
        model.fail(at, Fault::Status(400));
        let ran = world
            .run_in(&world.lake, days(2), source(&[3, 2]))
            .await
            .run;
        let stopped = format!("{:?}", ran.stopped_by);
        for expected in [
            &format!("cannot {action} telephony.eu.cdrs"),
            "400 Bad Request: broken for [credential]. Before, it refused to register",
            "metadata-location must be in the warehouse",
        ] {
            assert!(stopped.contains(expected), "{stopped}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_numbers_partition_specifications_differently_stays_as_it_is() {
    let (world, model) = filled().await;
    model.edit(|table| {
        table["default-spec-id"] = json!(7);
        table["partition-specs"][0]["spec-id"] = json!(7);
    });
    let before = model.table();
    let found = world.findings().await;
    let problem = "it numbers its partition specifications differently";
    assert!(found[0].contains(problem), "{found:?}");
    let refused = world.lake.sync_everything("sync").await.unwrap_err();
    let refused = chain(&refused);
    assert!(refused.contains(problem), "{refused}");
    assert!(
        refused.contains("drop that table from the catalog"),
        "{refused}"
    );
    assert_eq!(model.table(), before);
}

#[tokio::test(start_paused = true)]
async fn the_next_run_updates_a_catalog_that_was_away() {
    let (world, model) = filled().await;
    model.set_away(true);
    let ran = world
        .run_in(&world.lake, refreshing(), source(&[4, 2]))
        .await
        .run;
    let stopped = format!("{:?}", ran.stopped_by);
    assert!(stopped.contains("connection refused"), "{stopped}");
    assert!(is_noted(&world).await);
    let found = world.findings().await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("https://catalog.example/iceberg"),
        "{found:?}"
    );
    model.set_away(false);
    let found = world.findings().await;
    assert!(
        found[0].contains("it lacks the newest snapshot of the log"),
        "{found:?}"
    );
    run(&world, &world.lake, days(2), &[]).await;
    assert!(!is_noted(&world).await);
    assert_follows(&world, &model).await;
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_was_away_for_several_commits_gets_every_snapshot() {
    let (world, model) = filled().await;
    model.set_away(true);
    for calls in [[4, 2], [5, 2], [5, 3]] {
        let ran = world
            .run_in(&world.lake, refreshing(), source(&calls))
            .await
            .run;
        assert!(ran.stopped_by.is_some());
    }
    model.set_away(false);
    let before = model.changes();
    run(&world, &world.lake, days(2), &[]).await;
    assert_follows(&world, &model).await;
    assert_eq!(model.changes(), before + 1);
    let log = newest(&world).await;
    let ids = |table: &Json| -> Vec<i64> {
        let snapshots = table["snapshots"].as_array().unwrap().iter();
        let ids = snapshots.map(|snapshot| snapshot["snapshot-id"].as_i64().unwrap());
        ids.collect()
    };
    assert_eq!(ids(&model.table()), ids(&log));
    assert_eq!(ids(&log).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_replaced_once_and_no_message_contains_one() {
    let (world, model) = filled().await;
    model.expire_token();
    run(&world, &world.lake, days(3), &[3, 2, 1]).await;
    assert_follows(&world, &model).await;
    for status in [400, 401, 403, 404, 419, 500] {
        let lake = other_process(&world, &model).await;
        for at in 0..4 {
            model.fail(at, Fault::Status(status));
            if let Err(error) = lake.sync_everything("sync").await {
                let text = chain(&error);
                assert_without_secrets(&text);
                assert_without_secrets(&format!("{error:?}"));
                assert!(text.contains("catalog.example"), "{text}");
            }
        }
    }
    assert_without_secrets(&format!("{:?}", world.lake));
}

#[tokio::test(start_paused = true)]
async fn another_table_of_this_name_stays_as_it_is() {
    let (world, model) = filled().await;
    model.edit(|table| table["table-uuid"] = json!("another"));
    let before = model.table();
    let ran = world
        .run_in(&world.lake, refreshing(), source(&[4, 2]))
        .await
        .run;
    let stopped = format!("{:?}", ran.stopped_by);
    assert!(
        stopped.contains("another table under this name"),
        "{stopped}"
    );
    assert_eq!(model.table(), before);
    assert!(is_noted(&world).await);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_snapshot_is_reported_and_removed() {
    let (world, model) = filled().await;
    model.commit_foreign(77);
    let found = world.findings().await;
    assert!(
        found[0].contains("another program committed it"),
        "{found:?}"
    );
    assert_eq!(
        world.lake.sync_everything("sync").await.unwrap(),
        [TableFormat::Iceberg]
    );
    assert_follows(&world, &model).await;
    assert!(!model.snapshots().contains(&77));
    // The next snapshot needs a number above that of the foreign one, and a later time.
    run(&world, &world.lake, refreshing(), &[4, 2]).await;
    assert_follows(&world, &model).await;
    model.commit_foreign(78);
    run(&world, &world.lake, refreshing(), &[4, 3]).await;
    assert_follows(&world, &model).await;
}

#[tokio::test(start_paused = true)]
async fn changes_of_the_table_are_restored() {
    let (world, model) = filled().await;
    model.edit(|table| {
        table["location"] = json!("s3://elsewhere");
        table["properties"]["gc.enabled"] = json!("true");
        table["schemas"][0]["fields"][5]["name"] = json!("renamed");
        table["refs"]["tag"] = json!({"type": "tag", "snapshot-id": 1});
    });
    assert!(world.findings().await.len() >= 4);
    assert_eq!(
        world.lake.sync_everything("sync").await.unwrap(),
        [TableFormat::Iceberg]
    );
    assert_follows(&world, &model).await;
}

#[tokio::test(start_paused = true)]
async fn a_process_with_an_old_snapshot_does_not_set_the_catalog_back() {
    let (world, model) = filled().await;
    let other = other_process(&world, &model).await;
    run(&world, &other, refreshing(), &[4, 2]).await;
    // It has the first snapshot in memory.
    let scope = SyncScope::Slices([slice(1)].into());
    world.lake.sync_logs(&scope, "late").await.unwrap();
    assert_follows(&world, &model).await;
    run(&world, &world.lake, refreshing(), &[5, 2]).await;
    assert_follows(&world, &model).await;
    let scope = SyncScope::Everything;
    other.sync_logs(&scope, "late").await.unwrap();
    assert_follows(&world, &model).await;
}

#[tokio::test(start_paused = true)]
async fn two_runs_at_once_leave_the_catalog_at_the_newest_snapshot() {
    let (world, model) = empty().await;
    let others = [
        other_process(&world, &model).await,
        other_process(&world, &model).await,
    ];
    for day in [1, 3, 5, 7] {
        let of = |first: i8| Selection {
            from: Some(super::world::day(first)),
            to: Some(super::world::day(first)),
            ..days(first)
        };
        let calls = [1; 9];
        tokio::join!(
            run(&world, &others[0], of(day), &calls),
            run(&world, &others[1], of(day + 1), &calls),
        );
        assert_follows(&world, &model).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_leaves_only_the_newest_snapshot_in_the_catalog() {
    let (world, model) = filled().await;
    run(&world, &world.lake, refreshing(), &[4, 2]).await;
    assert_eq!(model.snapshots().len(), 2);
    assert_eq!(prune_first_day(&world.lake).await, RunOutcome::Committed);
    assert_follows(&world, &model).await;
    assert_eq!(model.snapshots().len(), 1);
    // The catalog needs its own metadata file in the directory of the log.
    assert!(world.holds(&model.own_file()).await);
}

#[tokio::test(start_paused = true)]
async fn files_stay_while_the_catalog_has_a_snapshot_that_needs_them() {
    let (world, model) = filled().await;
    run(&world, &world.lake, refreshing(), &[4, 2]).await;
    model.set_away(true);
    let before = world.contents().await;
    assert_ne!(prune_first_day(&world.lake).await, RunOutcome::Committed);
    let after = world.contents().await;
    let is_data = |path: &&String| path.starts_with("cdrs/");
    let files: Vec<&String> = before.keys().filter(is_data).collect();
    assert!(
        files.iter().all(|path| after.contains_key(*path)),
        "{files:?}"
    );
    assert_readable(&world, &model).await;
    model.set_away(false);
    assert_eq!(prune_first_day(&world.lake).await, RunOutcome::Committed);
    assert_follows(&world, &model).await;
}

#[tokio::test(start_paused = true)]
async fn a_fence_makes_a_new_snapshot_in_log_and_catalog() {
    let (world, model) = filled().await;
    let before = model.main();
    world.lake.fence_logs("fence").await.unwrap();
    assert_follows(&world, &model).await;
    assert_ne!(model.main(), before);
}

#[tokio::test(start_paused = true)]
async fn whatever_request_fails_the_next_run_mends_the_catalog_and_another_writes_nothing() {
    let faults = [
        Fault::Status(500),
        Fault::Status(409),
        Fault::Status(401),
        Fault::Status(429),
        Fault::DoneBut(500),
        Fault::DoneBut(409),
        Fault::Lost,
    ];
    for fault in faults {
        let mut at = 0;
        loop {
            let context = format!("{fault:?} at request {at}");
            let (world, model) = empty().await;
            model.fail(at, fault);
            let ran = world
                .run_in(&world.lake, days(2), source(&[3, 2]))
                .await
                .run;
            let first = model.requests().len();
            model.heal();
            let later = other_process(&world, &model).await;
            let ran_again = world
                .run_in(&later, refreshing(), source(&[4, 2]))
                .await
                .run;
            assert_eq!(ran_again.stopped_by, None, "{context}: {ran:?}");
            assert_follows(&world, &model).await;
            let before = world.contents().await;
            let committed = later.sync_everything("sync").await.unwrap();
            assert_eq!(committed, [], "{context}");
            assert_eq!(world.contents().await, before, "{context}");
            if at > first {
                break;
            }
            at += 1;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_can_be_repeated_whatever_request_fails() {
    for fault in [
        Fault::Status(503),
        Fault::Status(409),
        Fault::Lost,
        Fault::Status(403),
    ] {
        for at in 0..12 {
            let context = format!("{fault:?} at request {at}");
            let (world, model) = filled().await;
            run(&world, &world.lake, refreshing(), &[4, 2]).await;
            model.fail(at, fault);
            prune_first_day(&world.lake).await;
            assert_readable(&world, &model).await;
            model.heal();
            let later = other_process(&world, &model).await;
            let outcome = prune_first_day(&later).await;
            assert_eq!(outcome, RunOutcome::Committed, "{context}");
            assert_follows(&world, &model).await;
            assert_eq!(model.snapshots().len(), 1, "{context}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn collecting_garbage_mends_a_catalog_first() {
    let (world, model) = filled().await;
    model.set_away(true);
    world
        .run_in(&world.lake, refreshing(), source(&[4, 2]))
        .await;
    let refused = world.lake.expire_logs(Timestamp::MAX).await.unwrap_err();
    assert!(matches!(refused, LakeError::Catalog(_)), "{refused}");
    assert_readable(&world, &model).await;
    model.set_away(false);
    model.commit_foreign(79);
    world.lake.expire_logs(Timestamp::MAX).await.unwrap();
    assert_follows(&world, &model).await;
    assert_eq!(model.snapshots().len(), 1);
    assert!(
        !world
            .holds(&Path::from("_iceberg/metadata/v1.metadata.json"))
            .await
    );
}
