use object_store::memory::InMemory;

use super::*;
use crate::lake::ledger::Pending;
use crate::lake::tests::{EXPIRY, LostAt, get, lake, placed, put};
use crate::store::bucket::BucketStore;

const RUN: &str = "20261001T120000Z-00000001";
const OTHER: &str = "20261001T120000Z-00000002";
/// A lease whose holder may have crashed.
const UNPROVEN: &str = "{\"holder\":\"crashed\",\"renewals\":9,\"expiry_ms\":60000}";

fn mark_of(lake: &Lake, run: &str) -> RunMark {
    lake.mark(run, CancellationToken::new())
}

async fn is_marked(lake: &Lake, run: &str) -> bool {
    get(lake, &layout::run_marker(run)).await.is_some()
}

/// A run that crashed: its marker, and its lease if it did not expire yet.
async fn crash(objects: &InMemory, run: &str, lease: Option<&str>) {
    put(objects, &layout::run_marker(run), "").await;
    if let Some(lease) = lease {
        put(objects, &layout::run_lease(run), lease).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_takes_its_lease_again_once_an_unproven_holder_s_has_expired() {
    let (objects, lake) = lake().await;
    put(&objects, &layout::run_lease(RUN), UNPROVEN).await;
    let begun = Instant::now();
    mark_of(&lake, RUN).ensure().await.unwrap();
    let took = begun.elapsed();
    assert!(took >= EXPIRY && took < EXPIRY + LEASE_PATIENCE, "{took:?}");
    assert!(is_marked(&lake, RUN).await);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_run_does_not_wait_for_its_lease() {
    let (objects, lake) = lake().await;
    put(&objects, &layout::run_lease(RUN), UNPROVEN).await;
    let stop = CancellationToken::new();
    let mark = lake.mark(RUN, stop.clone());
    let begun = Instant::now();
    let wait = Duration::from_secs(5);
    let (refused, ()) = tokio::join!(mark.ensure(), async {
        tokio::time::sleep(wait).await;
        stop.cancel();
    });
    let refused = refused.unwrap_err();
    assert!(matches!(refused, LakeError::Unmarked { .. }), "{refused}");
    assert_eq!(begun.elapsed(), wait);
    assert!(
        !is_marked(&lake, RUN).await,
        "a run without its lease has no marker"
    );
}

/// The lease of a run expires while the run is suspended, and no other run notices.
#[tokio::test(start_paused = true)]
async fn a_run_whose_lease_expired_unnoticed_takes_it_again_and_reports_nothing() {
    let (_, lake) = lake().await;
    let mark = mark_of(&lake, RUN);
    mark.ensure().await.unwrap();
    lake.store.delete(&layout::run_lease(RUN)).await.unwrap();
    tokio::time::sleep(EXPIRY).await;
    mark.ensure_after().await;
    assert_eq!(mark.unseen(), Vec::<String>::new());
    assert!(is_marked(&lake, RUN).await);
    assert!(
        lake.claim_crashed(RUN).await.unwrap().is_none(),
        "the lease is held"
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_or_renews_its_lease_while_another_waits_has_not_crashed() {
    for is_renewed in [true, false] {
        let (objects, lake) = lake().await;
        crash(&objects, RUN, Some(UNPROVEN)).await;
        assert!(
            !lake.has_crashed(RUN, false).await.unwrap(),
            "it is not certain yet"
        );
        let begun = Instant::now();
        let (has_crashed, ()) = tokio::join!(lake.has_crashed(RUN, true), async {
            tokio::time::sleep(EXPIRY / 2).await;
            if is_renewed {
                let renewed = UNPROVEN.replace(":9,", ":10,");
                put(&objects, &layout::run_lease(RUN), &renewed).await;
            } else {
                lake.store.delete(&layout::run_marker(RUN)).await.unwrap();
            }
        });
        assert!(!has_crashed.unwrap(), "renewed: {is_renewed}");
        assert!(begun.elapsed() < EXPIRY, "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn the_report_of_a_crashed_run_is_replaced_only_by_a_new_one_and_if_it_is_damaged() {
    let (objects, lake) = lake().await;
    let report = layout::run_report(RUN);
    for (found, expected) in [
        (Some("\"old\""), None),
        (Some("{"), Some("\"new\"\n")),
        (None, Some("\"new\"\n")),
    ] {
        lake.store.delete(&report).await.unwrap();
        if let Some(found) = found {
            put(&objects, &report, found).await;
        }
        crash(&objects, RUN, None).await;
        let crashed = lake.claim_crashed(RUN).await.unwrap().unwrap();
        let make = |old: Option<String>| old.is_none().then(|| "new".to_owned());
        lake.end_crashed_run(crashed, make).await.unwrap();
        lake.settle().await;
        let expected = expected.or(found);
        assert_eq!(get(&lake, &report).await.as_deref(), expected);
        assert!(!is_marked(&lake, RUN).await);
    }
}

/// The run that was declared crashed continues: it takes over the lease and marks itself again.
#[tokio::test(start_paused = true)]
async fn the_marker_of_a_run_that_continues_is_kept() {
    for last in 0..=2 {
        let (objects, lake) = lake().await;
        crash(&objects, RUN, None).await;
        let lease = LostAt {
            last,
            ..LostAt::default()
        };
        let crashed = CrashedRun {
            run: RUN.to_owned(),
            lease: Box::new(lease),
        };
        let make = |_: Option<String>| Some("report".to_owned());
        lake.end_crashed_run(crashed, make).await.unwrap();
        assert_eq!(
            is_marked(&lake, RUN).await,
            last < 2,
            "lost after {last} checks"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn announcements_and_commits_are_attributed_to_the_run_that_made_them() {
    let (objects, lake) = lake().await;
    for run in [RUN, OTHER] {
        crash(&objects, run, None).await;
    }
    put(&objects, &layout::run_marker("not a run"), "").await;
    let mut commit = crate::lake::tests::commit_of(0, 0);
    OTHER.clone_into(&mut commit.run);
    let entry = Entry {
        pending: Some(Pending {
            run: RUN.to_owned(),
            token: "token".to_owned(),
            file: None,
            digest: commit.digest,
            planned: None,
        }),
        committed: Some(commit.clone()),
        ..Entry::new(placed())
    };
    let json = serde_json::to_string(&entry).unwrap();
    put(&objects, &layout::ledger_entry(placed()), &json).await;
    let mut marked = lake.marked_runs("this").await.unwrap();
    assert_eq!(marked.keys().collect::<Vec<_>>(), [RUN, OTHER]);
    assert_eq!(marked[RUN].announced, [placed()].into());
    assert!(marked[RUN].is_any() && marked[RUN].commits.is_empty());
    assert_eq!(marked[OTHER].commits, [(placed(), commit)]);
    assert!(marked[OTHER].is_any() && marked[OTHER].announced.is_empty());
    // A second look at the ledger adds no commit twice.
    lake.add_traces(&mut marked).await.unwrap();
    assert_eq!(marked[OTHER].commits.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn reports_are_listed_in_order_of_their_start_and_other_files_are_not() {
    let (objects, lake) = lake().await;
    for run in [OTHER, RUN] {
        lake.end_run(run, &"report").await.unwrap();
    }
    put(
        &objects,
        &Path::from(format!("{}/notes.txt", layout::RUNS)),
        "",
    )
    .await;
    let other_process = Arc::new(BucketStore::in_memory(&objects));
    let other_process = Lake::open(other_process, &lake.identity, crate::lake::tests::privacy());
    assert_eq!(
        other_process.await.unwrap().runs().await.unwrap(),
        [RUN, OTHER]
    );
}
