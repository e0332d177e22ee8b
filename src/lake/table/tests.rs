//! The table's two forms, with a lake in a bucket in memory.

use object_store::memory::InMemory;

use super::*;
use crate::lake::tests::table_change;
use crate::lake::tests::{LostAt, at_work, commit_of, get, lake, placed, privacy, publish, put};
use crate::lake::{Condition, Lake, is_intact};

/// A new lake whose files have names of their own.
async fn unique_lake() -> (Arc<InMemory>, Lake) {
    let (objects, lake) = lake().await;
    (objects, lake.with_table_form(TableForm::Unique))
}

/// The slice's ledger entry.
async fn entry(lake: &Lake) -> Entry {
    let found = lake.entry(placed()).await;
    assert_eq!(found.condition, Condition::Sound);
    found.entry
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
async fn with_unique_names_the_ledger_entry_names_the_current_file() {
    let (_, lake) = unique_lake().await;
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

    // Its successor has another name, and the file itself is gone.
    let second = publish(&lake, "abcde", None).await.file.unwrap();
    assert_ne!(first.path, second.path);
    assert_eq!(listed(&lake).await, [second.location()]);
    assert_eq!(entry(&lake).await.file(), Some(&second));

    // Without rows there is no file.
    assert_eq!(publish(&lake, "", None).await.file, None);
    assert_eq!(listed(&lake).await, []);

    let third = publish(&lake, "abcd", None).await.file.unwrap();
    assert_eq!(listed(&lake).await, [third.location()]);
    let (mark, lease) = at_work(&lake).await;
    let before = lake.entry(placed()).await;
    lake.prune(&mark, &*lease, before).await.unwrap();
    assert_eq!(listed(&lake).await, []);
}

#[tokio::test(start_paused = true)]
async fn with_unique_names_a_crash_leaves_files_that_the_ledger_does_not_name() {
    let (objects, lake) = unique_lake().await;
    let first = publish(&lake, "abc", None).await.file.unwrap();
    // A run publishes a file and does not get to the ledger entry.
    let orphan = TableForm::Unique.new_path(placed());
    put(&objects, &orphan, "orphan").await;
    let now = entry(&lake).await;
    let found = lake.table().file(&now).await.unwrap();
    assert!(is_intact(Some(&first), found.as_ref()));
    let files = lake.table().files().await.unwrap();
    assert!(is_intact(Some(&first), files.file(&now)));
    assert_eq!(files.sizes().collect::<Vec<_>>(), [(placed(), 9)]);
    let others = lake.table().other_files(&now).await.unwrap();
    assert_eq!(others, [orphan]);

    // A run commits and does not get to the old file.
    let before = lake.entry(placed()).await;
    let staged = lake.stage(&before.entry, table_change("abcde"), None);
    let staged = staged.await.unwrap();
    let mark = lake.mark("run", tokio_util::sync::CancellationToken::new());
    let lease = LostAt {
        last: 3,
        ..LostAt::default()
    };
    let privacy = privacy();
    let published = lake.publish(&mark, &lease, before, staged, commit_of(5, 0), &privacy);
    let published = published.await.unwrap();
    let second = published.file().unwrap().location();
    let others = lake.table().other_files(&published).await.unwrap();
    assert_eq!(
        (others.len(), others.contains(&first.location())),
        (2, true)
    );

    // The next publication removes all of them.
    let third = publish(&lake, "abcd", None).await.file.unwrap();
    assert_ne!(third.location(), second);
    assert_eq!(listed(&lake).await, [third.location()]);
    let others = lake.table().other_files(&entry(&lake).await).await.unwrap();
    assert_eq!(others, []);
}

#[tokio::test(start_paused = true)]
async fn a_plain_table_may_become_one_of_unique_names() {
    let (_, plain) = lake().await;
    let first = publish(&plain, "abc", None).await.file.unwrap();
    assert_eq!(
        plain
            .table()
            .other_files(&entry(&plain).await)
            .await
            .unwrap(),
        []
    );
    let unique = plain.clone().with_table_form(TableForm::Unique);
    assert_eq!(entry(&unique).await.file(), Some(&first));
    assert_eq!(listed(&unique).await, [first.location()]);
    let second = publish(&unique, "abcde", None).await.file.unwrap();
    assert_eq!(listed(&unique).await, [second.location()]);
    // The plain form takes the new name for a foreign one.
    let found = plain.entry(placed()).await.condition;
    assert!(matches!(found, Condition::Damaged(_)), "{found:?}");
    let files = plain.table().files().await.unwrap();
    assert_eq!((files.slices().count(), files.foreign.len()), (0, 1));
}
