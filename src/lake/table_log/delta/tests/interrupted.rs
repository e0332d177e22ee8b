//! Commits and expirations of which an operation fails.

use super::*;

/// How a store fails at an operation.
type Fault = fn(Arc<dyn LakeStore>, i64, Moment) -> FaultStore;

/// Does `work` on a copy of `objects` for every fault at every operation. `work` also learns
/// whether the store has no fault. Returns the number of operations.
async fn for_each_fault(
    objects: &InMemory,
    work: impl AsyncFn(Arc<InMemory>, Arc<FaultStore>, bool),
) -> i64 {
    let copy = Arc::new(objects.fork());
    let counting = Arc::new(FaultStore::counting(store(&copy)));
    work(copy, Arc::clone(&counting), true).await;
    let operations = counting.operations();
    for fault in [FaultStore::dying as Fault, FaultStore::failing_once] {
        for moment in [Moment::Before, Moment::After] {
            for at in 0..operations {
                let copy = Arc::new(objects.fork());
                let faulty = Arc::new(fault(store(&copy), at, moment));
                work(copy, faulty, false).await;
            }
        }
    }
    operations
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_settled_by_reading_the_commit() {
    let objects = Arc::default();
    let healthy = log_in(store(&objects));
    let (base, _) = healthy.fill(2).await;
    let lossy = FaultStore::failing_once(store(&objects), 0, Moment::After);
    let change = difference(&["new"], &["base"]);
    let committed = log_in(Arc::new(lossy))
        .commit(Some(&base), &change, &info(2))
        .await;
    assert_eq!(committed.unwrap().done().version, 2);
    assert_eq!(healthy.live_paths().await, paths(&["1", "new"]));
    // The reply is lost, and another commit came first.
    let lossy = FaultStore::failing_once(store(&objects), 0, Moment::After);
    let committed = log_in(Arc::new(lossy))
        .commit(Some(&base), &change, &info(2))
        .await;
    assert!(matches!(committed.unwrap(), Committed::Conflict));
}

/// Version 50 also writes a checkpoint.
#[tokio::test(start_paused = true)]
async fn an_interrupted_commit_is_done_or_not() {
    for versions in [0, 3, 50] {
        let objects = Arc::default();
        let (mut base, mut before) = (None, BTreeMap::new());
        if versions > 0 {
            let (snapshot, all) = log_in(store(&objects)).fill(versions).await;
            (base, before) = (Some(snapshot), all);
        }
        let operations = for_each_fault(&objects, async |objects, faulty, is_healthy| {
            let healthy = log_in(store(&objects));
            let mut expected = before.clone();
            let change = difference(&["new"], &["base"]);
            let log = log_in(faulty);
            let committed = log.commit(base.as_ref(), &change, &info(versions)).await;
            assert!(!is_healthy || matches!(committed, Ok(Committed::Done(_))));
            let mut live = expected
                .last_entry()
                .map_or_else(BTreeSet::new, |it| it.get().clone());
            live.remove(&path("base"));
            live.insert(path("new"));
            let found = healthy.snapshots().await;
            let is_done = found.contains_key(&versions);
            if is_done {
                expected.insert(versions, live.clone());
            }
            assert_eq!(found, expected);
            match committed {
                Ok(Committed::Done(snapshot)) => {
                    assert!(is_done);
                    let read = healthy.read().await.unwrap().unwrap();
                    assert_eq!(content(&snapshot), content(&read));
                }
                Ok(Committed::Conflict) => panic!("there is no other commit"),
                Err(_) => {}
            }
            // The next run finds the difference again.
            let base = healthy.read().await.unwrap();
            if !is_done {
                let at = info(versions);
                let committed = healthy.commit(base.as_ref(), &change, &at);
                committed.await.unwrap().done();
            }
            assert_eq!(healthy.live_paths().await, live);
        })
        .await;
        assert!(operations >= 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_expiration_leaves_whole_versions_and_is_continued() {
    // The limit, and the oldest version that is left.
    let cases = [
        (4, time(2), 2),
        (4, Timestamp::MAX, 3),
        (53, time(50), 50),
        (53, time(51), 51),
        (53, Timestamp::MAX, 52),
        // The checkpoint of version 50 names removed files, so that version 51 replaces it.
        (51, Timestamp::MAX, 51),
    ];
    for (versions, limit, oldest) in cases {
        let objects = Arc::default();
        let log = log_in(store(&objects));
        let (newest, mut all) = log.fill(versions).await;
        let live = all.last_key_value().expect("it has versions").1.clone();
        all.entry(oldest).or_insert(live);
        if versions > 50 {
            // Few operations are left, because the test takes their number squared.
            log.expire(&newest, time(48)).await.unwrap().done();
        }
        let operations = for_each_fault(&objects, async |objects, faulty, is_healthy| {
            let healthy = log_in(store(&objects));
            let left = all.clone().split_off(&oldest);
            let log = log_in(faulty);
            let expired = log.expire(&newest, limit).await;
            assert!(!is_healthy || expired.is_ok());
            // Every readable version has its files, and those to be left are readable.
            let found = healthy.snapshots().await;
            for (version, live) in &found {
                assert_eq!(live, &all[version]);
            }
            let mut old = left.range(..versions);
            assert!(old.all(|(version, _)| found.contains_key(version)));
            assert_eq!(
                content(&healthy.read().await.unwrap().unwrap()).2,
                content(&newest).2
            );
            if expired.is_ok() {
                assert_eq!(found, left);
            }

            let newest = healthy.read().await.unwrap().unwrap();
            let newest = healthy.expire(&newest, limit).await.unwrap().done();
            assert_eq!(healthy.snapshots().await, left);
            let hint: Hint =
                serde_json::from_str(&healthy.text(&hint_path()).await.unwrap()).unwrap();
            assert!(hint.version >= oldest);
            let change = difference(&["new"], &["base"]);
            let at = info(versions);
            let committed = healthy.commit(Some(&newest), &change, &at);
            committed.await.unwrap().done();
            let live = paths(&[&(versions - 1).to_string(), "new"]);
            assert_eq!(healthy.live_paths().await, live);
        })
        .await;
        assert!(operations > 5);
    }
}
