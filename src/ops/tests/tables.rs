//! Lakes with logs of table formats.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use object_store::path::Path;
use tokio_util::sync::CancellationToken;

use super::faults::Faults;
use super::world::{World, days, month, months, slice, source, source_of_months};
use crate::lake::identity::Identity;
use crate::lake::ledger::Entry;
use crate::lake::report::RunOutcome;
use crate::lake::{Lake, PublishedFile, TableForm, TableFormat};
use crate::ops::days::{DayRange, Selection};
use crate::ops::gc::collect_garbage;
use crate::ops::job::Job;
use crate::ops::run::Stop;
use crate::ops::status::LakeStatus;
use crate::ops::tables::{convert, current_files, sync};
use crate::ops::verify::{Fault, Verification};
use crate::ops::{Error, UsageError};
use crate::retry::RetryReason;
use crate::source::SourceError;
use crate::source::scripted::Answer::{Calls, Fails};
use crate::source::scripted::ScriptedSource;
use crate::store::{FailureKind, layout};

/// Formats with which every test is done.
const FORMATS: [TableFormat; 2] = [TableFormat::Delta, TableFormat::Iceberg];

/// A lake with the log of a format, and so many calls on each of the first days.
async fn filled(format: TableFormat, calls: &[u64]) -> World {
    let world = World::with_tables(&[format]).await;
    let last = i8::try_from(calls.len()).unwrap();
    let outcome = world.run(last, source(calls)).await;
    assert_eq!(outcome.run.report.outcome, RunOutcome::Committed);
    world
}

/// The objects of a log.
async fn log_objects(world: &World, format: TableFormat) -> BTreeSet<String> {
    let paths = world.contents().await.into_keys();
    let prefix = format!("{}/", format.directory());
    paths.filter(|path| path.starts_with(&prefix)).collect()
}

/// How many versions a log has, if none was expired.
async fn versions(world: &World, format: TableFormat) -> usize {
    let suffix = match format {
        TableFormat::Delta => ".json",
        TableFormat::Iceberg => ".metadata.json",
    };
    let objects = log_objects(world, format).await;
    objects.iter().filter(|path| path.ends_with(suffix)).count()
}

/// Panics unless the log equals the ledger.
async fn assert_synced(world: &World) {
    assert_eq!(world.lake.compare_logs().await.unwrap(), []);
}

/// The current file of a day.
async fn current(world: &World, day: i8) -> Path {
    let entry = world.lake.entry(slice(day)).await.entry;
    entry.file().map(PublishedFile::location).unwrap()
}

fn refreshing(last: i8) -> Selection {
    Selection {
        refresh: true,
        ..days(last)
    }
}

/// Notes of runs that could not commit to a log.
async fn notes(world: &World) -> Vec<String> {
    let paths = world.contents().await.into_keys();
    let prefix = layout::UNSYNCED;
    paths.filter(|path| path.starts_with(prefix)).collect()
}

/// Writes to the log fail.
fn unwritable(format: TableFormat) -> Faults {
    Faults {
        action: "create",
        path: format.directory(),
        kind: FailureKind::Denied,
    }
}

fn later(days: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(24 * days)
}

#[tokio::test(start_paused = true)]
async fn a_run_commits_all_its_slices_in_one_version() {
    for format in FORMATS {
        let world = filled(format, &[3, 2, 4]).await;
        assert_eq!(versions(&world, format).await, 1);
        assert_synced(&world).await;
        world.run(5, source(&[3, 2, 4, 1, 1])).await;
        assert_eq!(versions(&world, format).await, 2);
        assert_synced(&world).await;
    }
}

/// Operations of a run of the first two days, without those of its own report and lease.
async fn operations_of_a_run(world: &World, selection: Selection) -> Vec<(&'static str, String)> {
    let (lake, operations) = world.dying(usize::MAX).await;
    let lake = lake.unwrap();
    operations.lock().unwrap().clear();
    world.run_in(&lake, selection, source(&[3, 2])).await;
    operations.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_run_that_changes_nothing_writes_nothing_and_makes_one_request_more_than_a_plain_lake() {
    for format in FORMATS {
        let (plain, world) = (World::filled(&[3, 2]).await, filled(format, &[3, 2]).await);
        for selection in [days(2), refreshing(2)] {
            let before = world.contents().await;
            let extra = operations_of_a_run(&world, selection.clone()).await;
            assert_eq!(world.contents().await, before);
            let usual = operations_of_a_run(&plain, selection).await;
            assert_eq!(extra.len(), usual.len() + 1, "{extra:?} {usual:?}");
            let log = extra
                .iter()
                .find(|(_, path)| path.starts_with(format.directory()));
            assert_eq!(log, None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_run_commits_about_once_a_minute() {
    for format in FORMATS {
        let world = World::with_tables(&[format]).await;
        let mut slow = ScriptedSource::new();
        for day in 1..=4 {
            let wait = Fails(SourceError::Transient {
                reason: RetryReason::RateLimit,
                problem: "the server is busy".to_owned(),
                retry_after: Some(Duration::from_secs(100)),
                slow_down: true,
            });
            slow = slow.with(slice(day), 3, [wait, Calls(3)]);
        }
        let outcome = world.run(4, Arc::new(slow)).await;
        assert_eq!(outcome.run.report.outcome, RunOutcome::Committed);
        // Days end after 100, 200, 300 and 400 seconds.
        assert_eq!(versions(&world, format).await, 4);
        assert_synced(&world).await;
    }
}

/// The table formats that `status` reports, and the runs whose changes their logs lack.
async fn reported(world: &World) -> (Vec<TableFormat>, u64) {
    let (lake, range) = (&world.lake, DayRange::default());
    let status = LakeStatus::read(lake, &world.config, &range, Timestamp::now());
    let status = status.await.unwrap();
    (status.tables, status.unsynced_runs)
}

#[tokio::test(start_paused = true)]
async fn the_next_run_commits_what_could_not_be_written_to_a_log() {
    for format in FORMATS {
        let world = World::with_tables(&[format]).await;
        let failing = world.failing(unwritable(format)).await;
        let ran = world.run_in(&failing, days(2), source(&[3, 2])).await.run;
        assert!(matches!(ran.stopped_by, Some(Stop::NoLog(_))), "{ran:?}");
        let slices = &ran.report.slices;
        assert!(slices.iter().all(|slice| slice.error.is_none()), "{ran:?}");
        let note = layout::unsynced(&ran.report.run).to_string();
        assert_eq!(notes(&world).await, [note]);
        assert_ne!(world.lake.compare_logs().await.unwrap(), []);
        assert_eq!(reported(&world).await, (vec![format], 1));
        // Nothing is due.
        let ran = world.run(2, source(&[])).await.run;
        assert_eq!(ran.stopped_by, None);
        assert_eq!(reported(&world).await, (vec![format], 0));
        assert_eq!(notes(&world).await, [] as [&str; 0]);
        assert_eq!(versions(&world, format).await, 1);
        assert_synced(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_run_commits_a_slice_whose_ledger_entry_could_not_be_read() {
    for format in FORMATS {
        let world = filled(format, &[3, 2]).await;
        // The ledger has a file that the log lacks.
        let entry = layout::ledger_entry(slice(1));
        let failing = world.failing(unwritable(format)).await;
        world.run_in(&failing, refreshing(2), source(&[4, 2])).await;
        let faults = Faults {
            action: "read",
            path: "ledger/placed/2020-01-01",
            kind: FailureKind::Denied,
        };
        let failing = world.failing(faults).await;
        let refused = failing.sync_everything("sync").await.unwrap_err();
        assert!(refused.to_string().contains(entry.as_ref()), "{refused}");
        assert_eq!(notes(&world).await.len(), 1);
        world.run(2, source(&[])).await;
        assert_eq!(notes(&world).await, [] as [&str; 0]);
        assert_synced(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_run_commits_the_slices_of_a_crashed_one() {
    for format in FORMATS {
        let world = filled(format, &[3]).await;
        let failing = world.failing(unwritable(format)).await;
        let ran = world.run_in(&failing, days(2), source(&[3, 2])).await.run;
        // As if it had crashed before its commit to the log.
        let run = &ran.report.run;
        world.delete(&layout::unsynced(run)).await;
        world.delete(&layout::run_report(run)).await;
        world.put(&layout::run_marker(run), "").await;
        assert_ne!(world.lake.compare_logs().await.unwrap(), []);
        world.run(2, source(&[])).await;
        assert_synced(&world).await;
        assert!(!world.holds(&layout::run_marker(run)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replaced_file_is_removed_at_the_end_of_a_run_after_its_time() {
    for format in FORMATS {
        let mut world = filled(format, &[3, 2]).await;
        let old = current(&world, 1).await;
        world.run_selected(refreshing(2), source(&[4, 2])).await;
        let new = current(&world, 1).await;
        assert_ne!(new, old);
        world.run(2, source(&[])).await;
        assert!(world.holds(&old).await, "it is kept for 7 days");
        world.config.lake.keep_replaced = Duration::ZERO;
        world.run(2, source(&[])).await;
        assert!(!world.holds(&old).await && world.holds(&new).await);
        assert_eq!(world.findings().await, [] as [&str; 0]);
        assert_synced(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_collection_removes_replaced_files_after_their_time() {
    for format in FORMATS {
        let world = filled(format, &[3, 2]).await;
        let old = current(&world, 1).await;
        world.run_selected(refreshing(2), source(&[4, 2])).await;
        let new = current(&world, 1).await;
        let orphan = TableForm::Immutable.new_path(slice(2));
        for (days, is_kept) in [(0, true), (6, true), (8, false)] {
            let gc = collect_garbage(&world.config, &world.lake, later(days));
            let removed = gc.await.unwrap().removed;
            assert_eq!(world.holds(&old).await, is_kept, "{removed:?}");
            assert_eq!(removed.contains(&old.to_string()), !is_kept);
            assert!(world.holds(&new).await);
            assert_synced(&world).await;
        }
        // A file that no entry names was never visible.
        world.put(&orphan, "no Parquet").await;
        let gc = collect_garbage(&world.config, &world.lake, later(0));
        assert_eq!(gc.await.unwrap().removed, [orphan.to_string()]);
        assert_eq!(world.findings().await, [] as [&str; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_stays_while_a_readable_snapshot_needs_it() {
    for format in FORMATS {
        let world = filled(format, &[3, 2]).await;
        let old = current(&world, 1).await;
        let failing = world.failing(unwritable(format)).await;
        let refreshed = world.run_in(&failing, refreshing(2), source(&[4, 2]));
        refreshed.await;
        // By the ledger it is due, but the log does not even know its successor.
        let since = later(-8);
        world
            .edit_entry(slice(1), |entry| entry.superseded[0].since = since)
            .await;
        for _ in 0..2 {
            let gc = collect_garbage(&world.config, &world.lake, later(0));
            gc.await.unwrap();
            assert!(world.holds(&old).await);
            // Its snapshot was replaced only now.
            world.run(2, source(&[])).await;
            assert_synced(&world).await;
            assert!(world.holds(&old).await);
        }
        // Nor is it removed if its snapshot cannot be expired.
        let failing = world.failing(unwritable(format)).await;
        let gc = collect_garbage(&world.config, &failing, later(8)).await;
        assert!(gc.is_err() || world.holds(&old).await, "{gc:?}");
        let gc = collect_garbage(&world.config, &world.lake, later(8));
        gc.await.unwrap();
        assert!(!world.holds(&old).await);
        assert_eq!(world.findings().await, [] as [&str; 0]);
    }
}

async fn converted(lake: &Lake, tables: &[TableFormat]) -> Result<Lake, Error> {
    let never = CancellationToken::new();
    let converted = convert(lake, tables, Timestamp::now(), &never).await;
    converted.map(|(lake, _)| lake)
}

#[tokio::test(start_paused = true)]
async fn a_converted_lake_keeps_its_files_and_replaces_them_under_other_names() {
    for format in FORMATS {
        let mut world = World::filled(&[3, 2]).await;
        let before = world.contents().await;
        let old = world.lake.clone();
        world.lake = converted(&old, &[format]).await.unwrap();
        assert_synced(&world).await;
        let after = world.contents().await;
        for (path, bytes) in before {
            assert!(path == layout::identity().as_ref() || after[&path] == bytes);
        }
        // A process that opened it as a plain lake stops, and changes nothing.
        let stopped = world.run_in(&old, refreshing(2), source(&[4, 2])).await.run;
        let Some(Stop::NoLake(problem)) = stopped.stopped_by else {
            panic!("{stopped:?}");
        };
        assert!(
            problem.contains("the table formats of the lake have changed"),
            "{problem}"
        );
        assert_eq!(world.contents().await, after);

        world.run_selected(refreshing(2), source(&[4, 2])).await;
        let plain = TableForm::Plain.new_path(slice(1));
        assert_ne!(current(&world, 1).await, plain);
        assert_eq!(
            current(&world, 2).await,
            TableForm::Plain.new_path(slice(2))
        );
        assert!(world.holds(&plain).await, "an older snapshot needs it");
        assert_eq!(world.findings().await, [] as [&str; 0]);
        let gc = collect_garbage(&world.config, &world.lake, later(8));
        gc.await.unwrap();
        assert!(!world.holds(&plain).await);
        assert_eq!(world.findings().await, [] as [&str; 0]);

        let back = converted(&world.lake, &[]).await.unwrap_err();
        assert!(
            matches!(back, Error::Usage(UsageError::BackToPlain)),
            "{back:?}"
        );
        assert_synced(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lake_is_not_converted_while_a_run_is_in_progress() {
    for format in FORMATS {
        let world = World::filled(&[3]).await;
        let before = world.contents().await;
        let other = world.other_process().await;
        let mark = other.mark("20261001T000000Z-00000000", CancellationToken::new());
        mark.ensure().await.unwrap();
        let refused = converted(&world.lake, &[format]).await.unwrap_err();
        let is_in_progress = matches!(refused, Error::Usage(UsageError::RunInProgress { .. }));
        assert!(is_in_progress, "{refused:?}");
        assert_eq!(world.contents().await, before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_crashed_run_must_be_ended_before_a_conversion() {
    // A suspended process may continue as a run in a plain lake.
    let world = World::filled(&[3]).await;
    let other = world.other_process().await;
    let mark = other.mark("20261001T000000Z-00000000", CancellationToken::new());
    mark.ensure().await.unwrap();
    drop(mark);
    other.settle().await;
    let refused = converted(&world.lake, &FORMATS).await.unwrap_err();
    let has_crashed = matches!(refused, Error::Usage(UsageError::CrashedRun { .. }));
    assert!(has_crashed, "{refused:?}");
    world.run(1, source(&[3])).await;
    converted(&world.lake, &FORMATS).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn garbage_collection_keeps_an_unnamed_file_while_the_named_one_is_missing() {
    for format in FORMATS {
        let world = filled(format, &[3]).await;
        let named = current(&world, 1).await;
        let bytes = world.get(&named).await;
        // A restored ledger entry names an older file; the rows lie in another one.
        let unnamed = TableForm::Immutable.new_path(slice(1));
        world.put(&unnamed, bytes.clone()).await;
        world.delete(&named).await;
        let gc = async || collect_garbage(&world.config, &world.lake, later(8)).await;
        gc().await.unwrap();
        assert!(world.holds(&unnamed).await);
        world.put(&named, bytes).await;
        let entry = world.lake.entry(slice(1)).await.entry;
        let found = world.lake.table().file(&entry).await.unwrap();
        let etag = found.unwrap().etag;
        let edit = |entry: &mut Entry| {
            let commit = entry.committed.as_mut().unwrap();
            commit.file.as_mut().unwrap().etag = etag;
        };
        world.edit_entry(slice(1), edit).await;
        gc().await.unwrap();
        assert!(world.holds(&named).await && !world.holds(&unnamed).await);
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_conversion_is_completed_by_the_next_one() {
    for format in FORMATS {
        let mut interrupted = 0;
        for at in 0.. {
            let mut world = World::filled(&[3, 2]).await;
            let (dying, operations) = world.dying(at).await;
            let is_done = match dying {
                Ok(dying) => converted(&dying, &[format]).await.is_ok(),
                Err(_) => false,
            };
            let context = format!("{:?}", operations.lock().unwrap().last());
            // Whatever there is of a log is equal to the ledger, after a run, too.
            let next = world.other_process().await;
            let ran = world
                .run_in(&next, refreshing(2), source(&[4, 2]))
                .await
                .run;
            assert_eq!(ran.stopped_by, None, "{context}");
            assert_eq!(next.compare_logs().await.unwrap(), [], "{context}");
            let next = world.other_process().await;
            world.lake = converted(&next, &[format]).await.unwrap();
            assert_synced(&world).await;
            assert_eq!(world.findings().await, [] as [&str; 0], "{context}");
            if is_done {
                break;
            }
            interrupted += 1;
        }
        assert!(interrupted > 5, "{interrupted}");
    }
}

/// What `verify` finds in the logs.
async fn log_findings(world: &World) -> Vec<String> {
    let verification = Verification::of(&world.config);
    let verified = verification.check_in(&world.lake, &()).await.unwrap();
    let findings = verified.found.findings.into_iter();
    let of_logs = findings.filter(|finding| finding.fault == Fault::TableLog);
    of_logs.map(|finding| finding.path).collect()
}

/// Adds a version without the file of a day, as another program may.
async fn commit_foreign_removal(world: &World, day: i8) {
    let path = layout::ledger_entry(slice(day));
    let entry = world.get(&path).await;
    world
        .edit_entry(slice(day), |entry| *entry = Entry::new(slice(day)))
        .await;
    let other = world.other_process().await;
    assert_ne!(sync(&other, Timestamp::now()).await.unwrap(), []);
    world.put(&path, entry).await;
}

#[tokio::test(start_paused = true)]
async fn differences_between_log_and_ledger_are_found_and_repaired() {
    for format in FORMATS {
        for with_repair in [true, false] {
            let world = filled(format, &[3, 2]).await;
            let old_entry = world.get(&layout::ledger_entry(slice(1))).await;
            let old = current(&world, 1).await.to_string();
            world.run_selected(refreshing(2), source(&[4, 2])).await;
            let new = current(&world, 1).await;

            commit_foreign_removal(&world, 1).await;
            assert_eq!(log_findings(&world).await, [new.to_string()]);
            restore(&world, with_repair).await;

            for path in log_objects(&world, format).await {
                world.delete(&Path::from(path)).await;
            }
            assert_eq!(log_findings(&world).await, [format.directory()]);
            restore(&world, with_repair).await;

            world.put(&layout::ledger_entry(slice(1)), old_entry).await;
            let mut expected = [old, new.to_string()];
            let mut found = log_findings(&world).await;
            expected.sort();
            found.sort();
            assert_eq!(found, expected);
            restore(&world, with_repair).await;
        }
    }
}

/// Restores the logs by `verify --repair`, or by `sync`.
async fn restore(world: &World, with_repair: bool) {
    let lake = world.other_process().await;
    if with_repair {
        let verification = Verification::of(&world.config);
        let mut verified = verification.check_in(&lake, &()).await.unwrap();
        let never = CancellationToken::new();
        let repair = verification.repair_in(&lake, &mut verified, Arc::new(()), never);
        repair.await.unwrap();
    } else {
        assert_ne!(sync(&lake, Timestamp::now()).await.unwrap(), []);
    }
    assert_synced(world).await;
    assert_eq!(sync(&lake, Timestamp::now()).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn the_current_files_are_listed() {
    for format in FORMATS {
        let world = filled(format, &[3, 0, 2]).await;
        world.run_selected(refreshing(3), source(&[4, 0, 2])).await;
        let range = DayRange::default();
        let files = current_files(&world.lake, &world.config, &range, Timestamp::now());
        let files = files.await.unwrap();
        let listed: Vec<_> = files.iter().map(|file| (file.slice, file.rows)).collect();
        assert_eq!(listed, [(slice(1), 4), (slice(3), 2)]);
        for (file, day) in files.iter().zip([1, 3]) {
            let path = current(&world, day).await;
            assert_eq!(file.path, format!("s3://bucket/lake/{path}"));
        }
        let range = days(2).range();
        let files = current_files(&world.lake, &world.config, &range, Timestamp::now());
        assert_eq!(files.await.unwrap().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lake_with_other_table_formats_than_configured_is_refused() {
    for format in FORMATS {
        let world = filled(format, &[3]).await;
        let plain = World::filled(&[3]).await;
        let identity = |world: &World, tables: Option<&[TableFormat]>| Identity {
            tables: tables.map(<[TableFormat]>::to_vec),
            ..world.lake.identity.clone()
        };
        let refused = world
            .opened_as(&identity(&world, Some(&[])))
            .await
            .unwrap_err();
        let told = refused.to_string();
        assert!(told.contains(" but this lake has [\""), "{told}");
        // A lake with logs does not become a plain one.
        assert!(told.ends_with("\"], or fill a new lake"), "{told}");
        let refused = plain.opened_as(&identity(&plain, Some(&[format]))).await;
        let refused = refused.unwrap_err().to_string();
        let name = TableFormat::ALL
            .iter()
            .find(|(_, it)| *it == format)
            .unwrap()
            .0;
        assert_eq!(
            refused,
            format!(
                "lake.tables is [\"{name}\"], but this lake has []. Set lake.tables to [], \
                 or convert the lake"
            )
        );
        // Without the key, the lake keeps its formats.
        let opened = world.opened_as(&identity(&world, None)).await.unwrap();
        assert_eq!(opened.identity.tables(), [format]);
        assert!(opened.has_logs());
        let opened = plain.opened_as(&identity(&plain, None)).await.unwrap();
        assert!(!opened.has_logs());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lake_of_months_gets_logs_by_a_conversion() {
    for format in FORMATS {
        let mut world = World::of_months(&[&[("1", 1), ("2", 31)], &[("3", 29)]]).await;
        world.lake = converted(&world.lake, &[format]).await.unwrap();
        assert_synced(&world).await;
        assert_eq!(world.findings().await, [] as [&str; 0]);
    }
}

/// Runs two months, both of which have new calls. Returns whether everything succeeded.
async fn run_months(world: &World, lake: &Lake) -> bool {
    let selection = Selection {
        refresh: true,
        ..months(2)
    };
    let calls: [&[(&str, i8)]; 2] = [&[("1", 1), ("2", 31), ("3", 31)], &[("4", 29)]];
    let job = Job::new(world.config.clone(), source_of_months(&calls));
    let ran = job.with_selection(selection).run_in(lake.clone()).await;
    ran.is_ok_and(|ran| {
        ran.run.stopped_by.is_none() && ran.run.report.outcome == RunOutcome::Committed
    })
}

#[tokio::test(start_paused = true)]
async fn the_run_after_an_interrupted_one_completes_the_months_and_their_logs() {
    let mut interrupted = 0;
    for at in 0.. {
        let world = World::of_months_with_tables(&FORMATS).await;
        let first = source_of_months(&[&[("1", 1), ("2", 31)]]);
        world.run_selected(months(1), first).await;
        assert_synced(&world).await;
        let (dying, operations) = world.dying(at).await;
        let is_done = match dying {
            Ok(dying) => run_months(&world, &dying).await,
            Err(_) => false,
        };
        let is_whole = operations.lock().unwrap().len() <= at;
        let context = format!("{:?}", operations.lock().unwrap().get(at));

        let next = world.other_process().await;
        assert!(run_months(&world, &next).await, "{context}");
        assert_synced(&world).await;
        assert_eq!(world.calls(month(1)).await, ["1", "2", "3"], "{context}");
        assert_eq!(world.calls(month(2)).await, ["4"], "{context}");
        assert_eq!(world.findings().await, [] as [&str; 0], "{context}");
        let before = world.contents().await;
        assert!(run_months(&world, &world.other_process().await).await);
        assert_eq!(world.contents().await, before, "{context}");
        if is_whole {
            assert!(is_done, "{context}");
            break;
        }
        interrupted += 1;
    }
    assert!(interrupted > 20, "{interrupted}");
}
