//! The table's two forms, with a lake in a bucket in memory.

use std::collections::BTreeSet;

use jiff::Timestamp;
use object_store::memory::InMemory;

use super::*;
use crate::lake::tests::table_change;
use crate::lake::tests::{LostAt, at_work, commit_of, get, lake, placed, privacy, publish, put};
use crate::lake::{Condition, Lake, is_intact};

/// A new lake of immutable files.
async fn immutable_lake() -> (Arc<InMemory>, Lake) {
    let (objects, lake) = lake().await;
    (objects, lake.with_table_form(TableForm::Immutable))
}

/// The slice's ledger entry.
async fn entry(lake: &Lake) -> Entry {
    let found = lake.entry(placed()).await;
    assert_eq!(found.condition, Condition::Sound);
    found.entry
}

/// The superseded files of the slice.
async fn superseded(lake: &Lake) -> Vec<Path> {
    let superseded = entry(lake).await.superseded;
    superseded.iter().map(|it| Path::from(&*it.path)).collect()
}

/// Where the files of the slice lie.
async fn listed(lake: &Lake) -> Vec<Path> {
    let files = lake.table().files().await.unwrap();
    assert_eq!(files.foreign, []);
    let of_slice = files.of_slices.get(&placed()).into_iter().flatten();
    of_slice.map(|file| file.path.clone()).collect()
}

#[test]
fn the_plain_form_has_one_name_for_each_slice() {
    let path = TableForm::Plain.new_path(placed());
    assert_eq!(
        path.as_ref(),
        "cdrs/dt=2026-10-01/placed-2026-10-01.parquet"
    );
    assert_eq!(TableForm::Plain.slice_of(&path), Some(placed()));
    for foreign in [
        "cdrs/dt=2026-10-01/placed-2026-10-01-0.parquet",
        "cdrs/dt=2026-10-01/placed-2026-10-01.parquet.gz",
        "cdrs/dt=2026-10-02/placed-2026-10-01.parquet",
        "_cdrlake/rejects/placed/2026-10-01.ndjson.zst",
    ] {
        let slice = TableForm::Plain.slice_of(&Path::from(foreign));
        assert_eq!(slice, None, "{foreign}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_ledger_entry_names_the_current_file_and_the_superseded_ones() {
    let (_, lake) = immutable_lake().await;
    let first = publish(&lake, "abc", None).await.file.unwrap();
    assert_ne!(first.location(), TableForm::Plain.new_path(placed()));
    let now = entry(&lake).await;
    assert_eq!(now.file(), Some(&first));
    assert_eq!(get(&lake, &first.location()).await.as_deref(), Some("abc"));
    let found = lake.table().file(&now).await.unwrap();
    assert!(is_intact(Some(&first), found.as_ref()));
    let files = lake.table().files().await.unwrap();
    assert!(is_intact(Some(&first), files.file(&now)));
    let copy = lake.table().local_copy(&now).await.unwrap().unwrap();
    assert_eq!(std::fs::read_to_string(&copy.path).unwrap(), "abc");

    // Its successor has another name, and the file itself stays as it is.
    let second = publish(&lake, "abcde", None).await.file.unwrap();
    assert_ne!(first.path, second.path);
    assert_eq!(get(&lake, &first.location()).await.as_deref(), Some("abc"));
    assert_eq!(entry(&lake).await.file(), Some(&second));
    assert_eq!(superseded(&lake).await, [first.location()]);

    // Without rows the slice has no file.
    assert_eq!(publish(&lake, "", None).await.file, None);
    let now = entry(&lake).await;
    assert_eq!(lake.table().file(&now).await.unwrap(), None);
    let both = [first.location(), second.location()];
    assert_eq!(superseded(&lake).await, both);
    assert_eq!(lake.table().unnamed_files(&now).await.unwrap(), []);

    let third = publish(&lake, "abcd", None).await.file.unwrap();
    assert_eq!(superseded(&lake).await, both);
    let (mark, lease) = at_work(&lake).await;
    let before = lake.entry(placed()).await;
    lake.prune(&mark, &*lease, before).await.unwrap();
    let all = [both.to_vec(), vec![third.location()]].concat();
    assert_eq!(superseded(&lake).await, all);
    assert_eq!(listed(&lake).await.len(), 3);

    // What no snapshot needs is removed.
    for (limit, reachable, expected) in [
        (Timestamp::UNIX_EPOCH, BTreeSet::new(), 0),
        (Timestamp::MAX, BTreeSet::from([second.path]), 2),
        (Timestamp::MAX, BTreeSet::new(), 1),
    ] {
        let removed = lake.remove_replaced(&*lease, placed(), limit, &reachable, true);
        assert_eq!(removed.await.unwrap().len(), expected);
        assert_eq!(
            entry(&lake).await.superseded.len(),
            listed(&lake).await.len()
        );
    }
    assert_eq!(superseded(&lake).await, []);
    assert_eq!(listed(&lake).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_crash_leaves_a_file_that_the_ledger_does_not_name_and_that_is_removed() {
    let (objects, lake) = immutable_lake().await;
    let first = publish(&lake, "abc", None).await.file.unwrap();
    // A run publishes a file and does not get to the ledger entry.
    let orphan = TableForm::Immutable.new_path(placed());
    put(&objects, &orphan, "orphan").await;
    let now = entry(&lake).await;
    let found = lake.table().file(&now).await.unwrap();
    assert!(is_intact(Some(&first), found.as_ref()));
    let files = lake.table().files().await.unwrap();
    assert!(is_intact(Some(&first), files.file(&now)));
    assert_eq!(files.sizes().collect::<Vec<_>>(), [(placed(), 9)]);
    let unnamed = lake.table().unnamed_files(&now).await.unwrap();
    assert_eq!(unnamed, std::slice::from_ref(&orphan));

    let (_, lease) = at_work(&lake).await;
    for (unnamed, expected) in [(false, vec![]), (true, vec![orphan])] {
        let (limit, none) = (Timestamp::MAX, BTreeSet::new());
        let removed = lake.remove_replaced(&*lease, placed(), limit, &none, unnamed);
        assert_eq!(removed.await.unwrap(), expected);
    }
    assert_eq!(listed(&lake).await, [first.location()]);
}

#[tokio::test(start_paused = true)]
async fn the_file_that_a_crashed_run_announced_is_superseded_by_the_next() {
    let (_, lake) = immutable_lake().await;
    let before = lake.entry(placed()).await;
    let staged = lake.stage(&before.entry, table_change("abcde"), None);
    let staged = staged.await.unwrap();
    let mark = lake.mark("run", tokio_util::sync::CancellationToken::new());
    // It publishes the file and loses its lease before it commits.
    let lease = LostAt {
        last: 3,
        ..LostAt::default()
    };
    let privacy = privacy();
    let published = lake.publish(&mark, &lease, before, staged, commit_of(5, 0), &privacy);
    drop(published.await);
    let left = listed(&lake).await;
    let second = publish(&lake, "abcd", None).await.file.unwrap();
    for path in &left {
        assert!(*path == second.location() || superseded(&lake).await.contains(path));
    }
    let now = entry(&lake).await;
    assert_eq!(lake.table().unnamed_files(&now).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_plain_table_may_become_one_of_immutable_files() {
    let (_, plain) = lake().await;
    let first = publish(&plain, "abc", None).await.file.unwrap();
    assert_eq!(
        plain
            .table()
            .unnamed_files(&entry(&plain).await)
            .await
            .unwrap(),
        []
    );
    let immutable = plain.clone().with_table_form(TableForm::Immutable);
    assert_eq!(entry(&immutable).await.file(), Some(&first));
    assert_eq!(listed(&immutable).await, [first.location()]);
    let second = publish(&immutable, "abcde", None).await.file.unwrap();
    assert_eq!(superseded(&immutable).await, [first.location()]);
    assert_eq!(entry(&immutable).await.file(), Some(&second));
    // The plain form takes the new name for a foreign one.
    let found = plain.entry(placed()).await.condition;
    assert!(matches!(found, Condition::Damaged(_)), "{found:?}");
    let files = plain.table().files().await.unwrap();
    assert_eq!((files.slices().count(), files.foreign.len()), (1, 1));
}
