//! Days beyond their retention.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::ToSpan;
use tokio_util::sync::CancellationToken;

use super::faults::Faults;
use super::world::{World, day, month, slice, source, source_of_lines};
use crate::cdr::slice::Slice;
use crate::lake::ledger::State;
use crate::lake::report::{RunOutcome, RunReport, SliceOutcome};
use crate::lake::{Condition, Lake, TableForm};
use crate::ops::Error;
use crate::ops::removal::prune::{Old, find_old, first_kept, prune, prune_before};
use crate::store::{FailureKind, layout};
use SliceOutcome::{Committed, Failed, Skipped};

/// Prunes the first days with this `lake`, as one process has it.
async fn prune_first(lake: &Lake, last: i8) -> RunReport {
    let slices = (1..=last).map(slice).collect();
    let never = CancellationToken::new();
    prune(lake, &slices, &never, &|| {}).await.unwrap()
}

fn outcomes(report: &RunReport) -> Vec<SliceOutcome> {
    report.slices.iter().map(|slice| slice.outcome).collect()
}

async fn state(world: &World, slice: Slice) -> Option<State> {
    let committed = world.lake.entry(slice).await.entry.committed;
    committed.map(|commit| commit.state)
}

#[tokio::test(start_paused = true)]
async fn a_pruned_day_loses_its_file_and_all_rejects_and_keeps_its_counts() {
    let world = World::new().await;
    let lines = format!("{}\n{}\n", call(1), "{\"date\":\"broken\"}");
    world.run(2, source_of_lines(&[&lines, &lines])).await;
    let failed = layout::failed_rejects_file(slice(1));
    let kept = layout::rejects_file(slice(2));
    world.put(&failed, world.get(&kept).await).await;

    let report = prune_first(&world.lake, 1).await;
    assert_eq!(report.outcome, RunOutcome::Committed);
    assert_eq!(report.partitions_changed, [day(1)]);
    for path in [
        TableForm::Plain.new_path(slice(1)),
        layout::rejects_file(slice(1)),
        failed,
    ] {
        assert!(!world.holds(&path).await, "{path}");
    }
    let commit = world.lake.entry(slice(1)).await.entry.committed.unwrap();
    assert_eq!((commit.state, commit.file), (State::Pruned, None));
    assert_eq!((commit.counts.rows, commit.counts.rejected), (1, 1));
    assert!(world.holds(&TableForm::Plain.new_path(slice(2))).await);
    assert!(world.holds(&kept).await);
    assert_eq!(world.findings().await, [] as [&str; 0]);
}

fn call(id: u32) -> String {
    format!("{{\"call_id\":\"{id}\",\"date\":\"DAYT10:00:00Z\"}}")
}

#[tokio::test(start_paused = true)]
async fn old_slices_include_those_with_only_a_file_an_entry_or_rejects() {
    let world = World::filled(&[3, 2, 1]).await;
    let (entry, file) = (
        layout::ledger_entry(slice(1)),
        TableForm::Plain.new_path(slice(2)),
    );
    world.delete(&entry).await;
    world.delete(&file).await;
    world.put(&layout::rejects_file(slice(5)), "12345").await;
    world.put(&layout::rejects_file(slice(9)), "12345").await;
    let old = find_old(&world.lake, day(9)).await.unwrap().slices;
    assert_eq!(
        old.keys().copied().collect::<Vec<_>>(),
        [1, 2, 3, 5].map(slice)
    );
    assert_eq!(old[&slice(1)].rows, 0, "the ledger has no entry");
    assert!(old[&slice(1)].bytes > 0);
    assert_eq!((old[&slice(2)].rows, old[&slice(2)].bytes), (2, 0));
    assert_eq!((old[&slice(5)].rows, old[&slice(5)].bytes), (0, 5));
    // The first day that is kept is not old.
    let old = find_old(&world.lake, day(1)).await.unwrap();
    assert_eq!(old, Old::default());
}

#[tokio::test(start_paused = true)]
async fn a_damaged_entry_is_pruned_and_one_of_a_newer_version_fails_its_slice_only() {
    let world = World::filled(&[3, 2, 1]).await;
    world.put(&layout::ledger_entry(slice(1)), "{").await;
    let newer = layout::ledger_entry(slice(2));
    world.put(&newer, "{\"format\":99}").await;
    let report = prune_first(&world.lake, 3).await;
    assert_eq!(outcomes(&report), [Committed, Failed, Committed]);
    let problem = report.slices[1].error.as_deref().unwrap();
    assert!(problem.contains("has format 99"), "{problem}");
    assert_eq!(state(&world, slice(1)).await, Some(State::Pruned));
    let found = world.lake.entry(slice(2)).await;
    assert_eq!(found.condition, Condition::Newer(99));
    assert!(world.holds(&TableForm::Plain.new_path(slice(2))).await);
    assert_eq!(state(&world, slice(3)).await, Some(State::Pruned));
    assert_eq!(report.outcome, RunOutcome::Partial);
}

#[tokio::test(start_paused = true)]
async fn a_prune_waits_for_the_lease_of_another_run() {
    let world = World::filled(&[3]).await;
    let other = world.other_process().await;
    let lease = other.try_lease(slice(1)).await.unwrap().unwrap();
    let busy = Duration::from_secs(20);
    let begun = tokio::time::Instant::now();
    let (report, ()) = tokio::join!(prune_first(&world.lake, 1), async {
        tokio::time::sleep(busy).await;
        drop(lease);
        other.settle().await;
    });
    assert_eq!(report.outcome, RunOutcome::Committed);
    assert!(begun.elapsed() >= busy, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_ends_the_wait_for_a_lease_and_skips_the_remaining_slices() {
    let world = World::filled(&[3, 2, 1]).await;
    let before = world.contents().await;
    let other = world.other_process().await;
    let lease = other.try_lease(slice(1)).await.unwrap().unwrap();
    let interrupt = CancellationToken::new();
    let slices: BTreeSet<Slice> = (1..=3).map(slice).collect();
    let (report, ()) = tokio::join!(
        async {
            prune(&world.lake, &slices, &interrupt, &|| {})
                .await
                .unwrap()
        },
        async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            interrupt.cancel();
        }
    );
    assert_eq!(report.outcome, RunOutcome::Interrupted);
    assert_eq!(outcomes(&report), [Skipped; 3]);
    assert_eq!(world.contents().await, before);
    drop(lease);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_removed_fails_its_slice_and_the_next_prune_removes_it() {
    let world = World::filled(&[3, 2]).await;
    let failing = Faults {
        action: "delete",
        path: "cdrs/dt=2020-01-01",
        kind: FailureKind::Denied,
    };
    let report = prune_first(&world.failing(failing).await, 2).await;
    assert_eq!(outcomes(&report), [Failed, Committed]);
    assert_eq!(report.partitions_changed, [day(1), day(2)]);
    // The ledger entry changed first: no run fetches the day again, and `verify` finds the file.
    assert_eq!(state(&world, slice(1)).await, Some(State::Pruned));
    assert_eq!(world.findings().await.len(), 1);
    let old = find_old(&world.lake, day(9)).await.unwrap();
    assert_eq!(old.slices.len(), 1);
    let report = prune_first(&world.lake, 1).await;
    assert_eq!(report.outcome, RunOutcome::Committed);
    assert_eq!(world.findings().await, [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_everything_skips_the_remaining_slices() {
    let world = World::filled(&[3, 2, 1]).await;
    let failing = Faults {
        action: "replace",
        path: "ledger",
        kind: FailureKind::Hopeless,
    };
    let before = world.contents().await;
    let report = prune_first(&world.failing(failing).await, 3).await;
    assert_eq!(outcomes(&report), [Failed, Skipped, Skipped]);
    assert_eq!(world.contents().await, before);
}

#[tokio::test(start_paused = true)]
async fn no_run_fetches_a_pruned_day_again() {
    let world = World::filled(&[3, 2]).await;
    prune_first(&world.lake, 1).await;
    let refresh = crate::ops::days::Selection {
        refresh: true,
        ..super::world::days(2)
    };
    let again = world.run_selected(refresh, source(&[3, 2])).await;
    assert_eq!((again.plan.due.len(), again.plan.up_to_date), (1, 1));
    assert!(!world.holds(&TableForm::Plain.new_path(slice(1))).await);
}

#[tokio::test(start_paused = true)]
async fn a_retention_is_counted_back_from_today_in_the_time_zone_of_the_account() {
    let mut config = World::new().await.config;
    config.window.timezone = jiff::tz::TimeZone::get("Asia/Tokyo").unwrap();
    // 31 March, 01:00 in Tokyo.
    let now = "2026-03-30T16:00:00Z".parse().unwrap();
    for (age, first) in [
        (1.day(), jiff::civil::date(2026, 3, 30)),
        (1.month(), jiff::civil::date(2026, 2, 28)),
        (2.years(), jiff::civil::date(2024, 3, 31)),
    ] {
        assert_eq!(first_kept(&config, age, now).unwrap(), first);
    }
    let refused = first_kept(&config, 19_000.years(), now).unwrap_err();
    assert!(matches!(refused, Error::Usage(_)), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_month_is_pruned_only_once_its_last_day_is_old() {
    let months: [&[(&str, i8)]; 3] = [&[("1", 3)], &[("2", 3), ("3", 29)], &[("4", 1)]];
    let world = World::of_months(&months).await;
    let before = jiff::civil::date(2020, 2, 29);
    let never = CancellationToken::new();
    let pruned = prune_before(&world.lake, before, &(), &never)
        .await
        .unwrap();
    let removed: Vec<Slice> = pruned.old.slices.into_keys().collect();
    assert_eq!(removed, [month(1)]);
    assert_eq!(pruned.old.kept_with_old_days, Some(month(2).period));
    assert_eq!(world.calls(month(1)).await, [""; 0]);
    assert_eq!(world.calls(month(2)).await, ["2", "3"]);
    let old = find_old(&world.lake, before.tomorrow().unwrap()).await;
    let old = old.unwrap();
    assert_eq!(old.slices.into_keys().collect::<Vec<_>>(), [month(2)]);
    assert_eq!(old.kept_with_old_days, None);
    assert_eq!(world.findings().await, [] as [&str; 0]);
    // No run fetches the month again, whatever days of it are selected.
    let selection = crate::ops::days::Selection {
        from: Some(day(15)),
        refresh: true,
        ..super::world::months(1)
    };
    let source = super::world::source_of_months(&months);
    let again = world.run_selected(selection, source).await;
    assert_eq!((again.plan.due.len(), again.plan.up_to_date), (0, 1));
}
