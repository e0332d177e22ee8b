//! What a lake tells about one slice.

use jiff::Timestamp;

use super::world::{World, days, slice, source, source_of_lines};
use crate::cdr::reconcile::Verdict;
use crate::cdr::slice::Direction;
use crate::lake::SliceState;
use crate::lake::report::SliceOutcome;
use crate::ops::days::Selection;
use crate::ops::show::{SliceDetails, show};
use crate::store::layout;

const LINES: &str = r#"{"call_id":"DAY-1","date":"DAYT10:00:00Z","duration":60,"charge":"0.25"}
{"call_id":"DAY-2","date":"broken","from":"13025550101"}
"#;

async fn shown(world: &World, of: i8) -> SliceDetails {
    let (lake, config) = (&world.lake, &world.config);
    let (period, now) = (slice(of).period, Timestamp::now());
    let shown = show(lake, config, period, &[Direction::Placed], now);
    shown.await.unwrap().remove(0)
}

fn refreshing() -> Selection {
    Selection {
        refresh: true,
        ..days(2)
    }
}

#[tokio::test(start_paused = true)]
async fn a_slice_is_shown_with_its_commit_its_rejects_and_the_runs_that_did_it() {
    let world = World::new().await;
    let first = world
        .run(2, source_of_lines(&[LINES, LINES]))
        .await
        .run
        .report;
    let second = world.run_selected(refreshing(), source(&[3, 3])).await;
    let second = second.run.report;

    let details = shown(&world, 1).await;
    let commit = details.entry.committed.as_ref().unwrap();
    assert_eq!((details.state, commit.counts.rows), (SliceState::Closed, 3));
    assert_eq!(
        (commit.control_total, commit.reconcile),
        (Some(3), Verdict::Match)
    );
    assert_eq!(details.file_is_intact, Some(true));
    let runs: Vec<(&str, SliceOutcome, u64)> = details
        .runs
        .iter()
        .map(|it| (&*it.run, it.report.outcome, it.report.counts.rows))
        .collect();
    let committed = SliceOutcome::Committed;
    let mut expected = [(&*first.run, committed, 1), (&*second.run, committed, 3)];
    expected.sort_unstable_by_key(|(run, ..)| *run);
    assert_eq!(runs, expected);
    assert!(details.runs.iter().any(|it| it.report.change.is_some()));
}

#[tokio::test(start_paused = true)]
async fn rejects_are_shown_without_numbers_and_a_lost_file_is_noticed() {
    let world = World::new().await;
    world.run(2, source_of_lines(&[LINES, LINES])).await;
    world.delete(&world.table_file(slice(1)).await.path).await;
    let details = shown(&world, 1).await;
    assert_eq!(details.file_is_intact, Some(false));
    let [group] = &*details.rejects else {
        panic!("{details:?}");
    };
    assert_eq!((group.records, &*group.code), (1, "date"));
    let json = serde_json::to_string(&details).unwrap();
    assert!(!json.contains("13025550101"), "{json}");
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_was_never_fetched_or_whose_entry_is_damaged_is_shown_as_such() {
    let world = World::filled(&[3]).await;
    let never = shown(&world, 2).await;
    assert_eq!(never.state, SliceState::Missing);
    assert!(never.entry.committed.is_none() && never.runs.is_empty());
    world.put(&layout::ledger_entry(slice(1)), "{").await;
    let damaged = shown(&world, 1).await;
    assert_eq!(damaged.state, SliceState::Damaged);
    assert!(damaged.damage.is_some() && damaged.runs.len() == 1);
}
