//! The lake by day, as its ledger has it.

use jiff::Timestamp;

use super::faults::Faults;
use super::world::{World, day, days, slice, source, source_of_lines};
use crate::cdr::slice::Direction;
use crate::lake::SliceState;
use crate::lake::ledger::{Entry, Failure, Reason, State};
use crate::ops::Error;
use crate::ops::days::{DayRange, Selection};
use crate::ops::status::{LakeStatus, TODAY};
use crate::store::{FailureKind, layout};

fn now() -> Timestamp {
    "2020-01-10T12:00:00Z".parse().unwrap()
}

/// The status of placed calls from day 1 to `last`.
async fn status(world: &World, last: i8) -> LakeStatus {
    let range = days(last).range();
    let status = LakeStatus::read(&world.lake, &world.config, &range, now());
    status.await.unwrap()
}

fn states(status: &LakeStatus) -> Vec<SliceState> {
    let slices = status.days.iter().flat_map(|day| &day.slices);
    slices.map(|slice| slice.state).collect()
}

#[tokio::test(start_paused = true)]
async fn every_state_of_the_ledger_is_counted_and_a_gap_is_missing() {
    use SliceState::{Closed, Damaged, Failed, Missing, Open, Pruned};
    let world = World::filled(&[3, 2, 1, 4, 5, 6]).await;
    world.delete(&layout::ledger_entry(slice(2))).await;
    let open = |entry: &mut Entry| {
        entry.committed.as_mut().unwrap().state = State::Open;
    };
    world.edit_entry(slice(3), open).await;
    let failure = Failure {
        run: "run".to_owned(),
        at: Timestamp::UNIX_EPOCH,
        problem: "too few".to_owned(),
        reason: Some(Reason::Mismatch),
    };
    let fail = |entry: &mut Entry| entry.failed = Some(failure);
    world.edit_entry(slice(4), fail).await;
    world.put(&layout::ledger_entry(slice(5)), "{").await;
    let prune = |entry: &mut Entry| {
        let commit = entry.committed.as_mut().unwrap();
        (commit.state, commit.file) = (State::Pruned, None);
    };
    world.edit_entry(slice(6), prune).await;

    let status = status(&world, 7).await;
    let expected = [Closed, Missing, Open, Failed, Damaged, Pruned, Missing];
    assert_eq!(states(&status), expected);
    let counts = [
        status.closed,
        status.missing,
        status.open,
        status.failed,
        status.damaged,
        status.pruned,
        status.interrupted,
    ];
    assert_eq!(counts, [1, 2, 1, 1, 1, 1, 0]);
    assert_eq!((status.from, status.to), (day(1), day(7)));
    let slices: Vec<_> = status.days.iter().map(|day| &day.slices[0]).collect();
    assert_eq!(slices[3].problem.as_deref(), Some("too few"));
    assert_eq!(slices[3].reason, Some(Reason::Mismatch));
    let damage = slices[4].problem.as_deref().unwrap();
    assert!(damage.contains("EOF"), "{damage}");
    // A pruned slice has no rows, although its entry keeps their number.
    let rows: Vec<u64> = slices.iter().map(|slice| slice.rows).collect();
    assert_eq!(rows, [3, 0, 1, 4, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_slice_has_its_records_rejects_and_seconds() {
    let world = World::new().await;
    let lines = "{\"date\":\"DAYT10:00:00Z\",\"duration\":30,\"disposition\":\"answered\"}\n\
                 {\"date\":\"DAYT10:00:00Z\",\"duration\":0,\"disposition\":\"busy\"}\n\
                 {\"date\":\"broken\"}\n";
    world.run(1, source_of_lines(&[lines])).await;
    let status = status(&world, 1).await;
    let slice = &status.days[0].slices[0];
    assert_eq!(slice.rows, 2);
    assert_eq!((slice.records, slice.rejected), (Some(3), Some(1)));
    assert_eq!((slice.answered, slice.duration_seconds), (1, 30));
    assert_eq!(slice.asr_percent, Some(50.0));
    assert_eq!(slice.acd_seconds, Some(30.0));
    assert_eq!(status.days[0].remarks, ["placed 1 of 3 rejected"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_selection_days_begin_with_the_first_of_the_ledger() {
    let world = World::new().await;
    let selection = Selection {
        from: Some(day(4)),
        ..days(5)
    };
    let source = source(&[0, 0, 0, 2, 1]);
    world.run_selected(selection, source).await;
    let all = DayRange::default();
    let status = LakeStatus::read(&world.lake, &world.config, &all, now());
    let status = status.await.unwrap();
    assert_eq!((status.from, status.to), (day(4), day(9)));
    let directions = status.days[0].slices.iter().map(|slice| slice.direction);
    assert_eq!(directions.collect::<Vec<_>>(), Direction::ALL);
    assert_eq!((status.closed, status.missing), (2, 10));
}

#[tokio::test(start_paused = true)]
async fn today_is_shown_if_it_was_fetched_and_nothing_of_it_is_missing_yet() {
    let world = World::filled(&[3, 2]).await;
    let noon = |day| {
        format!("{}T12:00:00Z", super::world::day(day))
            .parse()
            .unwrap()
    };
    let status = async |to, now| {
        let range = DayRange {
            to,
            ..DayRange::default()
        };
        let status = LakeStatus::read(&world.lake, &world.config, &range, now);
        status.await.unwrap()
    };
    let with_today = status(None, noon(2)).await;
    assert_eq!(with_today.to, day(2));
    let [before, today] = &*with_today.days else {
        panic!("{with_today:?}");
    };
    assert_eq!((before.slices.len(), today.slices.len()), (2, 1));
    assert_eq!(before.remarks, ["received missing"]);
    assert_eq!(today.remarks, [TODAY]);
    assert_eq!((with_today.closed, with_today.missing), (2, 1));
    assert_eq!(status(Some(day(1)), noon(2)).await.to, day(1));
    assert_eq!(status(None, noon(3)).await.to, day(2), "not fetched");
}

#[tokio::test(start_paused = true)]
async fn an_empty_lake_without_a_selection_has_no_days() {
    let world = World::new().await;
    let all = DayRange::default();
    let status = LakeStatus::read(&world.lake, &world.config, &all, now()).await;
    assert!(matches!(status, Err(Error::Usage(_))), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_cannot_be_read_is_damaged_and_a_failed_listing_is_an_error() {
    let world = World::filled(&[3, 2]).await;
    let faults = |action, path| Faults {
        action,
        path,
        kind: FailureKind::Denied,
    };
    let lake = world.failing(faults("read", "2020-01-01.json")).await;
    let range = days(2).range();
    let status = LakeStatus::read(&lake, &world.config, &range, now());
    let status = status.await.unwrap();
    assert_eq!(states(&status), [SliceState::Damaged, SliceState::Closed]);
    let problem = status.days[0].slices[0].problem.as_deref().unwrap();
    assert!(problem.contains("the store fails"), "{problem}");
    let lake = world.failing(faults("list", "ledger")).await;
    let status = LakeStatus::read(&lake, &world.config, &range, now()).await;
    assert!(matches!(status, Err(Error::Lake(_))), "{status:?}");
}
