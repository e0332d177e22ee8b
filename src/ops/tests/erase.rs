//! All calls of one number.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::faults::Faults;
use super::world::{World, day, days, key, slice, source_of_lines};
use crate::cdr::digest::Digest;
use crate::cdr::reconcile::Verdict;
use crate::config::Config;
use crate::lake::ledger::{Pending, State};
use crate::lake::report::{RunOutcome, SliceOutcome};
use crate::lake::suppression::SuppressedNumber;
use crate::lake::{Lake, TableForm};
use crate::ops::Error;
use crate::ops::days::Selection;
use crate::ops::job::Job;
use crate::ops::removal::erase::{EraseError, Erasure, Search, erase, search, slices};
use crate::ops::removal::number::{NumberFound, validate};
use crate::store::{FailureKind, layout};

const NUMBER: &str = "+1 (302) 555-0001";
/// Six records: the number is in a row, in a repetition of that row, in an extra field of another
/// row, and in a reject.
const DAY_WITH_NUMBER: &str = r#"{"call_id":"1","date":"DAYT10:00:00Z","from":"13025550001"}
{"call_id":"1","date":"DAYT10:00:00Z","from":"13025550001"}
{"call_id":"2","date":"DAYT10:00:00Z","from":"13025550002","note":"tel +1 (302) 555-0001"}
{"call_id":"3","date":"DAYT10:00:00Z","from":"13025550003"}
{"date":"broken","from":"13025550001"}
{"date":"broken","from":"13025550003"}
"#;
const DAY_WITHOUT_NUMBER: &str = r#"{"call_id":"4","date":"DAYT10:00:00Z","from":"13025550004"}
"#;
const NO_FINDINGS: [&str; 0] = [];

/// A lake of a day with the number and one without it.
async fn lake_with_number() -> World {
    lake_of(&[DAY_WITH_NUMBER, DAY_WITHOUT_NUMBER]).await
}

async fn lake_of(days: &[&str]) -> World {
    let world = World::new().await;
    let last = i8::try_from(days.len()).unwrap();
    let outcome = world.run(last, source_of_lines(days)).await;
    assert_eq!(outcome.run.report.outcome, RunOutcome::Committed);
    world
}

async fn search_for(lake: &Lake, number: &str) -> Search {
    let privacy = lake.privacy().suppressing([key().token(number)]);
    let slices = slices(lake).await.unwrap();
    search(lake, &slices, &Arc::new(privacy.unwrap()), &|| {}).await
}

/// Rows and rejects with the number.
async fn found(world: &World) -> (u64, u64) {
    let found = search_for(&world.lake, NUMBER).await;
    assert!(found.problems.is_empty(), "{found:?}");
    let of = |count: fn(&crate::ops::removal::erase::Holding) -> u64| {
        found.slices.values().map(count).sum()
    };
    (of(|holding| holding.rows), of(|holding| holding.rejects))
}

/// Erases the number with this `lake`, as one process has it, until `interrupt`.
async fn erase_until(world: &World, lake: &Lake, interrupt: &CancellationToken) -> Erasure {
    let searched = search_for(lake, NUMBER).await;
    let token = key().token(NUMBER);
    let erasure = erase(lake, &world.config, &token, &searched, interrupt, &|| {});
    erasure.await.unwrap()
}

async fn erase_with(world: &World, lake: &Lake) -> Erasure {
    erase_until(world, lake, &CancellationToken::new()).await
}

async fn suppressed(world: &World) -> SuppressedNumber {
    let list = world.lake.suppression().await.unwrap().unwrap();
    list.get(&key().token(NUMBER)).unwrap().clone()
}

fn error(erasure: &Erasure) -> &str {
    let mut slices = erasure.report.slices.iter();
    let error = slices.find_map(|slice| slice.error.as_deref());
    error.unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_absent_number_joins_the_list_and_no_slice_changes() {
    let world = lake_of(&[DAY_WITHOUT_NUMBER, DAY_WITHOUT_NUMBER]).await;
    let before = world.contents().await;
    let searched = search_for(&world.lake, NUMBER).await;
    assert_eq!((searched.slices.len(), searched.holding().count()), (2, 0));
    let erasure = erase_with(&world, &world.lake).await;
    assert!(erasure.is_complete);
    assert_eq!(erasure.report.slices, []);
    assert_eq!(erasure.report.partitions_changed, []);
    assert!(suppressed(&world).await.erased_at.is_some());
    let mut after = world.contents().await;
    assert!(after.remove(layout::suppression().as_ref()).is_some());
    assert_eq!(after, before);
}

#[tokio::test(start_paused = true)]
async fn a_number_is_erased_from_rows_extra_fields_and_rejects() {
    let world = lake_with_number().await;
    let other_day = world.get(&TableForm::Plain.new_path(slice(2))).await;
    assert_eq!(found(&world).await, (2, 1));
    let erasure = erase_with(&world, &world.lake).await;
    assert!(erasure.is_complete);
    assert_eq!(erasure.report.partitions_changed, [day(1)]);
    assert_eq!(found(&world).await, (0, 0));
    assert_eq!(world.calls(slice(1)).await, ["3"]);
    let rejects = world.rejects(&layout::rejects_file(slice(1))).await;
    assert_eq!(rejects, ["{\"date\":\"broken\",\"from\":\"13025550003\"}"]);
    // The ledger accounts for every record.
    let commit = world.lake.entry(slice(1)).await.entry.committed.unwrap();
    let counts = &commit.counts;
    assert_eq!((counts.records, counts.rows, counts.rejected), (6, 1, 1));
    assert_eq!((counts.duplicates, counts.suppressed), (1, 3));
    assert_eq!(commit.reconcile, Verdict::MatchWithDuplicates);
    assert_eq!(world.findings().await, NO_FINDINGS);
    let change = erasure.report.slices[0].change.unwrap();
    assert_eq!((change.before.rows, change.after.rows), (3, 1));
    assert_eq!(
        world.get(&TableForm::Plain.new_path(slice(2))).await,
        other_day
    );
}

#[tokio::test(start_paused = true)]
async fn a_slice_with_only_erased_calls_loses_its_file_and_its_rejects() {
    let only = DAY_WITH_NUMBER.lines().take(2).collect::<Vec<_>>();
    let reject = "{\"date\":\"broken\",\"from\":\"13025550001\"}";
    let world = lake_of(&[&[&only[..], &[reject]].concat().join("\n")]).await;
    assert!(erase_with(&world, &world.lake).await.is_complete);
    assert!(!world.holds(&TableForm::Plain.new_path(slice(1))).await);
    assert!(!world.holds(&layout::rejects_file(slice(1))).await);
    assert_eq!(world.findings().await, NO_FINDINGS);
}

#[tokio::test(start_paused = true)]
async fn a_later_run_leaves_an_erased_number_out() {
    let world = lake_with_number().await;
    assert!(erase_with(&world, &world.lake).await.is_complete);
    let table = world.get(&TableForm::Plain.new_path(slice(1))).await;
    let refresh = Selection {
        refresh: true,
        ..days(2)
    };
    let source = source_of_lines(&[DAY_WITH_NUMBER, DAY_WITH_NUMBER]);
    let report = world.run_selected(refresh, source).await.run.report;
    assert_eq!(report.outcome, RunOutcome::Committed);
    assert_eq!(report.totals.counts.suppressed, 6);
    assert_eq!(found(&world).await, (0, 0));
    // The first day is as it was, the second lacks the number.
    assert_eq!(world.get(&TableForm::Plain.new_path(slice(1))).await, table);
    assert_eq!(world.calls(slice(2)).await, ["3"]);
}

#[tokio::test(start_paused = true)]
async fn the_next_erasure_completes_an_interrupted_one_and_reports_its_days() {
    let world = lake_of(&[DAY_WITH_NUMBER, DAY_WITH_NUMBER]).await;
    let searched = search_for(&world.lake, NUMBER).await;
    let (interrupt, token) = (CancellationToken::new(), key().token(NUMBER));
    let after_one = || interrupt.cancel();
    let half = erase(
        &world.lake,
        &world.config,
        &token,
        &searched,
        &interrupt,
        &after_one,
    );
    let half = half.await.unwrap();
    assert!(!half.is_complete);
    assert_eq!(half.report.outcome, RunOutcome::Interrupted);
    assert_eq!(half.report.partitions_changed, [day(1)]);
    assert_eq!(half.report.slices[1].outcome, SliceOutcome::Skipped);
    assert_eq!(suppressed(&world).await.erased_at, None);
    assert_eq!(found(&world).await, (2, 1));

    let rest = erase_with(&world, &world.other_process().await).await;
    assert!(rest.is_complete);
    assert_eq!(rest.report.slices.len(), 1);
    assert_eq!(rest.report.partitions_changed, [day(1), day(2)]);
    assert!(suppressed(&world).await.erased_at.is_some());
    assert_eq!(found(&world).await, (0, 0));
    // Once an erasure is complete, the next one has nothing to report.
    let again = erase_with(&world, &world.lake).await;
    assert!(again.is_complete);
    assert_eq!(again.report.partitions_changed, []);
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_cannot_be_written_keeps_the_number_until_the_next_erasure() {
    let world = lake_of(&[DAY_WITH_NUMBER, DAY_WITH_NUMBER]).await;
    for action in ["stage", "replace"] {
        let failing = Faults {
            action,
            path: "2020-01-01",
            kind: FailureKind::Permanent,
        };
        let half = erase_with(&world, &world.failing(failing).await).await;
        assert!(!half.is_complete, "{action}");
        assert_eq!(half.report.slices[0].outcome, SliceOutcome::Failed);
        assert_eq!(found(&world).await, (2, 1), "{action}");
        assert_eq!(suppressed(&world).await.erased_at, None);
    }
    let rest = erase_with(&world, &world.lake).await;
    assert!(rest.is_complete);
    assert_eq!(found(&world).await, (0, 0));
    assert_eq!(world.findings().await, NO_FINDINGS);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_everything_skips_the_remaining_slices() {
    let world = lake_of(&[DAY_WITH_NUMBER, DAY_WITH_NUMBER]).await;
    let failing = Faults {
        action: "stage",
        path: "cdrs",
        kind: FailureKind::Hopeless,
    };
    let erasure = erase_with(&world, &world.failing(failing).await).await;
    let outcomes = erasure.report.slices.iter().map(|slice| slice.outcome);
    let outcomes: Vec<SliceOutcome> = outcomes.collect();
    assert_eq!(outcomes, [SliceOutcome::Failed, SliceOutcome::Skipped]);
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_cannot_be_read_is_a_problem_of_the_search_and_fails_the_erasure() {
    let world = lake_with_number().await;
    let failing = Faults {
        action: "fetch",
        path: "cdrs/dt=2020-01-02",
        kind: FailureKind::Denied,
    };
    let lake = world.failing(failing).await;
    let searched = search_for(&lake, NUMBER).await;
    assert_eq!(searched.problems.keys().collect::<Vec<_>>(), [&slice(2)]);
    assert_eq!(searched.holding().count(), 1);
    let erasure = erase_with(&world, &lake).await;
    assert!(!erasure.is_complete);
    assert!(error(&erasure).contains("the store fails"), "{erasure:?}");
    assert_eq!(found(&world).await, (0, 0), "the other slice is rewritten");
}

#[tokio::test(start_paused = true)]
async fn an_erasure_waits_for_the_lease_of_another_run() {
    let world = lake_with_number().await;
    let other = world.other_process().await;
    let lease = other.try_lease(slice(1)).await.unwrap().unwrap();
    let busy = Duration::from_secs(20);
    let begun = tokio::time::Instant::now();
    let (erasure, ()) = tokio::join!(erase_with(&world, &world.lake), async {
        tokio::time::sleep(busy).await;
        drop(lease);
        other.settle().await;
    });
    assert!(erasure.is_complete);
    assert!(begun.elapsed() >= busy, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_ends_the_wait_for_a_lease() {
    let world = lake_with_number().await;
    let other = world.other_process().await;
    let lease = other.try_lease(slice(1)).await.unwrap().unwrap();
    let interrupt = CancellationToken::new();
    let (erasure, ()) = tokio::join!(erase_until(&world, &world.lake, &interrupt), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        interrupt.cancel();
    });
    assert_eq!(erasure.report.outcome, RunOutcome::Interrupted);
    assert_eq!(found(&world).await, (2, 1));
    drop(lease);
}

/// A slice without the number is examined under its lease if it changed since the search.
#[tokio::test(start_paused = true)]
async fn a_slice_that_was_published_after_the_search_is_erased_too() {
    let world = lake_of(&[DAY_WITHOUT_NUMBER]).await;
    let searched = search_for(&world.lake, NUMBER).await;
    let refresh = Selection {
        refresh: true,
        ..days(2)
    };
    let source = source_of_lines(&[DAY_WITH_NUMBER, DAY_WITH_NUMBER]);
    world.run_selected(refresh, source).await;
    assert_eq!(found(&world).await, (4, 2));
    let (token, never) = (key().token(NUMBER), CancellationToken::new());
    let done = AtomicU32::new(0);
    let count = || {
        done.fetch_add(1, Ordering::SeqCst);
    };
    let erasure = erase(
        &world.lake,
        &world.config,
        &token,
        &searched,
        &never,
        &count,
    );
    assert!(erasure.await.unwrap().is_complete);
    assert_eq!(done.into_inner(), 2);
    assert_eq!(found(&world).await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn rejects_of_a_failed_attempt_lose_the_number_and_the_slice_stays_failed() {
    let world = lake_of(&[DAY_WITHOUT_NUMBER]).await;
    let rejects = format!(
        "{}{}",
        "{\"date\":\"broken\",\"from\":\"13025550001\"}\n".repeat(20),
        "{\"date\":\"broken\",\"from\":\"13025550002\"}\n"
    );
    let refresh = Selection {
        refresh: true,
        ..days(2)
    };
    let source = source_of_lines(&[&rejects, &rejects]);
    let report = world.run_selected(refresh, source).await.run.report;
    assert_eq!(report.outcome, RunOutcome::Failed);
    // The first day was committed before, the second never.
    assert_eq!(found(&world).await, (0, 40));
    let entries = [
        world.lake.entry(slice(1)).await,
        world.lake.entry(slice(2)).await,
    ];
    let erasure = erase_with(&world, &world.lake).await;
    assert!(erasure.is_complete, "{erasure:?}");
    assert_eq!(found(&world).await, (0, 0));
    for (day, before) in (1..).zip(entries) {
        let entry = world.lake.entry(slice(day)).await.entry;
        assert!(entry.failed.is_some());
        assert_eq!(entry.failed, before.entry.failed);
        let rejects = layout::failed_rejects_file(slice(day));
        assert_eq!(world.rejects(&rejects).await.len(), 1);
    }
    assert_eq!(world.calls(slice(1)).await, ["4"]);
}

#[tokio::test(start_paused = true)]
async fn a_first_publication_that_was_never_committed_fails_its_slice() {
    let world = lake_with_number().await;
    world
        .edit_entry(slice(1), |entry| {
            entry.committed = None;
            entry.pending = Some(pending());
        })
        .await;
    let erasure = erase_with(&world, &world.lake).await;
    assert!(!erasure.is_complete);
    let expected =
        "its first publication was announced but not committed, so its content is unknown";
    assert_eq!(error(&erasure), expected);
    let failure = erasure.failures.get(&slice(1));
    assert!(
        matches!(failure, Some(EraseError::Announced)),
        "{failure:?}"
    );
    assert_eq!(world.calls(slice(1)).await.len(), 3);
}

fn pending() -> Pending {
    Pending {
        run: "run".to_owned(),
        token: "token".to_owned(),
        file: None,
        digest: Digest::default(),
        planned: None,
    }
}

/// The crashed run may still have its conditional write under way: a new version of the file makes
/// that write fail.
#[tokio::test(start_paused = true)]
async fn a_slice_with_an_interrupted_publication_is_rewritten_even_without_the_number() {
    let world = lake_of(&[DAY_WITHOUT_NUMBER]).await;
    let committed = world.lake.entry(slice(1)).await.entry.committed.unwrap();
    let mark = world.table_file(slice(1)).await;
    world
        .edit_entry(slice(1), |entry| entry.pending = Some(pending()))
        .await;
    let erasure = erase_with(&world, &world.lake).await;
    assert!(erasure.is_complete, "{erasure:?}");
    assert_eq!(erasure.report.partitions_changed, [day(1)]);
    let entry = world.lake.entry(slice(1)).await.entry;
    assert_eq!(entry.pending, None);
    assert_eq!(entry.committed.unwrap().digest, committed.digest);
    let rewritten = world.table_file(slice(1)).await;
    assert_ne!(rewritten.version, mark.version);
    assert_eq!(world.findings().await, NO_FINDINGS);
}

/// The run crashed after its file was in the table: the ledger still has the commit before.
#[tokio::test(start_paused = true)]
async fn a_planned_commit_counts_once_its_file_is_in_the_table() {
    let world = lake_of(&[DAY_WITHOUT_NUMBER]).await;
    let before = world.lake.entry(slice(1)).await.entry.committed;
    let refresh = Selection {
        refresh: true,
        ..days(1)
    };
    let lines: String = DAY_WITH_NUMBER.split_inclusive('\n').take(4).collect();
    world
        .run_selected(refresh, source_of_lines(&[&lines]))
        .await;
    world
        .edit_entry(slice(1), |entry| {
            let planned = std::mem::replace(&mut entry.committed, before).unwrap();
            entry.pending = Some(Pending {
                file: planned.file.clone(),
                digest: planned.digest,
                planned: Some(Box::new(planned)),
                ..pending()
            });
        })
        .await;
    assert!(erase_with(&world, &world.lake).await.is_complete);
    assert_eq!(world.calls(slice(1)).await, ["3"]);
    assert_eq!(world.findings().await, NO_FINDINGS);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_does_not_match_its_ledger_entry_is_left_alone() {
    for damage in ["file", "entry", "rejects"] {
        let world = lake_with_number().await;
        match damage {
            "file" => {
                // The file of another day's fetch, which this program wrote too.
                world
                    .edit_entry(slice(1), |entry| {
                        let commit = entry.committed.as_mut().unwrap();
                        commit.file.as_mut().unwrap().etag = Some("other".to_owned());
                    })
                    .await;
            }
            "entry" => world.delete(&layout::ledger_entry(slice(1))).await,
            _ => world.delete(&layout::rejects_file(slice(1))).await,
        }
        let table = world.get(&TableForm::Plain.new_path(slice(1))).await;
        let erasure = erase_with(&world, &world.lake).await;
        assert!(!erasure.is_complete, "{damage}");
        let problem = error(&erasure);
        let expected = "does not match its ledger entry, or has none";
        assert!(problem.contains(expected), "{damage}: {problem}");
        assert_eq!(world.get(&TableForm::Plain.new_path(slice(1))).await, table);
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_file_fails_its_slice_as_one_that_cannot_be_read() {
    let world = lake_with_number().await;
    world
        .put(&TableForm::Plain.new_path(slice(1)), "no Parquet")
        .await;
    let searched = search_for(&world.lake, NUMBER).await;
    assert_eq!(searched.problems.len(), 1);
    let erasure = erase_with(&world, &world.lake).await;
    assert!(!erasure.is_complete);
    let problem = error(&erasure);
    assert!(
        problem.starts_with("cannot read or rewrite its rows"),
        "{problem}"
    );
    let failure = erasure.failures.get(&slice(1));
    assert!(matches!(failure, Some(EraseError::Rows(_))), "{failure:?}");
}

#[tokio::test(start_paused = true)]
async fn files_that_an_interrupted_prune_left_are_removed() {
    let world = lake_with_number().await;
    world
        .edit_entry(slice(1), |entry| {
            let commit = entry.committed.as_mut().unwrap();
            commit.state = State::Pruned;
            (commit.file, commit.rejects) = (None, None);
        })
        .await;
    let erasure = erase_with(&world, &world.lake).await;
    assert!(erasure.is_complete, "{erasure:?}");
    assert_eq!(erasure.report.partitions_changed, [day(1)]);
    assert!(!world.holds(&TableForm::Plain.new_path(slice(1))).await);
    assert!(!world.holds(&layout::rejects_file(slice(1))).await);
}

#[tokio::test(start_paused = true)]
async fn rejects_without_an_entry_are_removed() {
    let world = lake_with_number().await;
    world.delete(&layout::ledger_entry(slice(1))).await;
    world.delete(&TableForm::Plain.new_path(slice(1))).await;
    assert!(erase_with(&world, &world.lake).await.is_complete);
    assert!(!world.holds(&layout::rejects_file(slice(1))).await);
}

#[tokio::test(start_paused = true)]
async fn an_erasure_with_another_key_than_the_list_is_refused() {
    let world = lake_with_number().await;
    world
        .lake
        .suppress("another key", &key().token("1"), None)
        .await
        .unwrap();
    let before = world.contents().await;
    let never = CancellationToken::new();
    let (token, searched) = (key().token(NUMBER), Search::default());
    let refused = erase(
        &world.lake,
        &world.config,
        &token,
        &searched,
        &never,
        &|| {},
    );
    let refused = refused.await.unwrap_err().to_string();
    assert!(refused.contains("Set privacy.key"), "{refused}");
    assert_eq!(world.contents().await, before);
}

#[tokio::test(start_paused = true)]
async fn every_erased_number_stays_on_the_list_with_its_own_date() {
    let world = lake_with_number().await;
    let other = key().token("13025550003");
    world
        .lake
        .suppress(key().id(), &other, Some(Timestamp::UNIX_EPOCH))
        .await
        .unwrap();
    assert!(erase_with(&world, &world.lake).await.is_complete);
    let list = world.lake.suppression().await.unwrap().unwrap();
    assert_eq!(list.numbers.len(), 2);
    let known = list.get(&other).unwrap().erased_at;
    assert_eq!(known, Some(Timestamp::UNIX_EPOCH));
    // A rewrite leaves out every number on the list.
    assert!(!world.holds(&TableForm::Plain.new_path(slice(1))).await);
}

#[tokio::test(start_paused = true)]
async fn a_number_that_the_lake_does_not_hold_is_erased_only_on_request() {
    let world = lake_of(&[DAY_WITHOUT_NUMBER]).await;
    let never = CancellationToken::new();
    let lake = world.other_process().await;
    let number = NumberFound::search(lake, &world.config, NUMBER, &(), &never).await;
    let number = number.unwrap().unwrap();
    let refused = number.erase(&world.config, false, &(), &never).await;
    assert!(matches!(refused, Err(Error::NumberNotFound { .. })));
    assert_eq!(world.lake.suppression().await.unwrap(), None);
    let erased = number.erase(&world.config, true, &(), &never).await;
    assert!(erased.unwrap().is_complete);
    // A number on the list may be erased again without that.
    let lake = world.other_process().await;
    let number = NumberFound::search(lake, &world.config, NUMBER, &(), &never).await;
    let number = number.unwrap().unwrap();
    let erased = number.erase(&world.config, false, &(), &never);
    assert!(erased.await.unwrap().is_complete);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_search_changes_nothing() {
    let world = lake_with_number().await;
    let before = world.contents().await;
    let interrupt = CancellationToken::new();
    interrupt.cancel();
    let lake = world.other_process().await;
    let number = NumberFound::search(lake, &world.config, NUMBER, &(), &interrupt).await;
    assert!(number.unwrap().is_none());
    assert_eq!(world.contents().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_lake_that_is_filtered_by_the_number_is_refused() {
    let mut world = lake_with_number().await;
    let keys = [
        ("lake.url", "unused"),
        ("source.from_search", "13025550001"),
    ];
    world.config = Config::from_keys(keys).unwrap();
    let never = CancellationToken::new();
    let lake = world.other_process().await;
    let refused = NumberFound::search(lake, &world.config, NUMBER, &(), &never).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("source.from_search limits this lake to the calls of that number"),
        "{refused}"
    );
}

#[test]
fn a_text_without_exactly_one_number_is_refused_and_so_is_a_lake_of_truncated_numbers() {
    let config = |more: &[(&'static str, &'static str)]| {
        let keys = [&[("lake.url", "unused")], more].concat();
        Config::from_keys(keys).unwrap()
    };
    let plain = config(&[]);
    assert!(validate(&plain, NUMBER).is_ok());
    let truncated = config(&[("privacy.to_number", "truncate")]);
    for (config, number, problem) in [
        (&plain, "+", "is not a phone number"),
        (
            &plain,
            "13025550001,13025550002",
            "more than one phone number",
        ),
        (&truncated, NUMBER, "drops the last four digits"),
    ] {
        let refused = validate(config, number).unwrap_err().to_string();
        assert!(refused.contains(problem), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_erasure_removes_the_old_file_if_the_new_one_has_another_name() {
    let mut world = lake_with_number().await;
    world.lake = world.lake.with_table_form(TableForm::Immutable);
    let old = TableForm::Plain.new_path(slice(1));
    assert!(world.holds(&old).await);
    assert!(erase_with(&world, &world.lake).await.is_complete);
    assert!(!world.holds(&old).await);
    assert_eq!(world.calls(slice(1)).await, ["3"]);
    assert_eq!(found(&world).await, (0, 0));
    assert_eq!(world.findings().await, NO_FINDINGS);
}

#[tokio::test(start_paused = true)]
async fn a_number_in_a_replaced_file_is_found_and_erased() {
    let mut world = lake_of(&[DAY_WITH_NUMBER]).await;
    world.lake = world.lake.with_table_form(TableForm::Immutable);
    let refresh = Selection {
        refresh: true,
        ..days(1)
    };
    let source = source_of_lines(&[DAY_WITHOUT_NUMBER]);
    let job = Job::new(world.config.clone(), source).with_selection(refresh);
    let job = job.with_allow_shrink(true);
    job.run_in(world.lake.clone()).await.unwrap();
    let old = TableForm::Plain.new_path(slice(1));
    assert!(world.holds(&old).await, "an older snapshot needs it");
    assert_eq!(found(&world).await, (0, 0));
    let searched = search_for(&world.lake, NUMBER).await;
    assert_eq!(searched.holding().count(), 1);
    assert!(erase_with(&world, &world.lake).await.is_complete);
    assert!(!world.holds(&old).await);
    assert_eq!(search_for(&world.lake, NUMBER).await.holding().count(), 0);
}
