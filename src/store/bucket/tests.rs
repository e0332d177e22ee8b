//! A lake in a bucket in memory. `tests/it/conformance.rs` has what every store must do, and
//! `tests/it/protocol.rs` what becomes of requests that fail.

use object_store::memory::InMemory;
use object_store::{PutPayload, TagSet};

use super::*;
use crate::cdr::slice::{Direction, parse_day};

/// The lake at `url` in a bucket, as one process has it.
fn process(objects: &Arc<InMemory>, url: &str) -> BucketStore {
    let options = BucketOptions {
        single_put_bytes: 1 << 10,
        part_bytes: 1 << 10,
        lease: Duration::from_mins(1),
        storage_class: None,
        tags: TagSet::default(),
    };
    let url = url.parse().unwrap();
    let objects = Arc::clone(objects);
    let store = BucketStore::new(objects, &url, options, &std::env::temp_dir());
    store.prepare().unwrap();
    store
}

fn bucket() -> (Arc<InMemory>, BucketStore) {
    let objects = Arc::new(InMemory::new());
    let store = process(&objects, "s3://bucket/lake");
    (objects, store)
}

async fn put(objects: &InMemory, path: &str, bytes: impl Into<PutPayload>) {
    objects.put(&Path::from(path), bytes.into()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn files_of_several_ranges_and_empty_files_are_downloaded_whole() {
    let (objects, store) = bucket();
    let path = Path::from("cdrs/x");
    assert!(store.local_copy(&path).await.unwrap().is_none());
    // The last piece has one byte, or is as long as the others.
    for size in [0, 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES] {
        let bytes: Vec<u8> = (0..size).map(|at| at.to_le_bytes()[1]).collect();
        put(&objects, "lake/cdrs/x", bytes.clone()).await;
        let copy = store.local_copy(&path).await.unwrap().unwrap();
        assert!(std::fs::read(&copy.path).unwrap() == bytes, "{size}");
        let copy_path = copy.path.clone();
        drop(copy);
        assert!(
            !copy_path.exists(),
            "the copy is removed when it is dropped"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_beyond_the_size_limit_is_not_read() {
    let (objects, store) = bucket();
    let path = layout::identity();
    let limit = usize::try_from(layout::max_bytes(&path)).unwrap();
    put(&objects, "lake/_cdrlake/lake.json", vec![b' '; limit]).await;
    let found = store.read(&path).await.unwrap().unwrap();
    assert_eq!(found.bytes.len(), limit);
    put(&objects, "lake/_cdrlake/lake.json", vec![b' '; limit + 1]).await;
    let error = crate::error::chain(&store.read(&path).await.unwrap_err());
    assert!(error.contains("too large for a file of cdrlake"), "{error}");
    assert!(
        error.contains("s3://bucket/lake/_cdrlake/lake.json"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn folder_objects_of_consoles_are_not_listed() {
    let (objects, store) = bucket();
    for (path, bytes) in [
        ("lake/cdrs", ""),
        ("lake/cdrs/dt=2026-10-01", ""),
        ("lake/cdrs/dt=2026-10-02", "x"),
        ("lake/cdrs/dt=2026-10-01/empty.parquet", ""),
        ("elsewhere/cdrs/x", "x"),
    ] {
        put(&objects, path, bytes.to_owned()).await;
    }
    let listed = store.list(&Path::from("cdrs")).await.unwrap();
    let mut found: Vec<(&str, u64)> = listed
        .iter()
        .map(|object| (object.path.as_ref(), object.size_bytes))
        .collect();
    found.sort_unstable();
    let expected = [
        ("cdrs/dt=2026-10-01/empty.parquet", 0),
        ("cdrs/dt=2026-10-02", 1),
    ];
    assert_eq!(found, expected);
    assert!(listed.iter().all(|object| object.version.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_lake_inside_another_lake_s_table_is_detected() {
    let (objects, store) = bucket();
    assert_eq!(store.lake_around().await, None);
    let inner = process(&objects, "s3://bucket/lake/cdrs/dt=2026-10-01/inner");
    assert_eq!(inner.lake_around().await, None);
    store
        .create(&layout::identity(), "{}".into())
        .await
        .unwrap();
    let around = inner.lake_around().await;
    assert_eq!(around.as_deref(), Some("s3://bucket/lake"));
    assert_eq!(store.lake_around().await, None, "it is not around itself");
}

#[tokio::test(start_paused = true)]
async fn without_conditional_writes_a_read_replaces_the_condition() {
    let (_, store) = bucket();
    let store = store.ignoring_conditions();
    assert!(!store.honours_conditions().await.unwrap());
    let path = Path::from("_cdrlake/x");
    let Swap::Done(first) = store.create(&path, "1".into()).await.unwrap() else {
        panic!("nothing was there");
    };
    let refused = store.create(&path, "2".into()).await.unwrap();
    assert_eq!(refused, Swap::Refused);
    let replaced = store.replace(&path, "3".into(), &first).await.unwrap();
    assert!(matches!(replaced, Swap::Done(_)));
    let refused = store.replace(&path, "4".into(), &first).await.unwrap();
    assert_eq!(refused, Swap::Refused);
    let found = store.read(&path).await.unwrap().unwrap();
    assert_eq!(found.bytes, "3");
}

#[tokio::test(start_paused = true)]
async fn the_test_of_conditional_writes_leaves_no_objects() {
    let (objects, store) = bucket();
    assert!(store.honours_conditions().await.unwrap());
    store.try_stage(&Path::from("cdrs/x")).await.unwrap();
    store.settle().await;
    let left: Vec<ObjectMeta> = objects.list(None).try_collect().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_staged_file_replaces_only_the_version_that_was_seen() {
    let slice = Slice::of_day(parse_day("2026-10-01").unwrap(), Direction::Placed);
    let path = Path::from("cdrs/dt=2026-10-01/placed-2026-10-01.parquet");
    // In one request, and in parts.
    for size in [10, 5_000] {
        let (objects, store) = bucket();
        let lease = store.try_lease(&layout::lease(slice)).await.unwrap();
        let lease = lease.unwrap();
        let stage = async |byte: u8| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), vec![byte; size]).unwrap();
            store.stage(&path, file.into_temp_path()).await.unwrap()
        };
        let (first, late, second) = (stage(b'1').await, stage(b'2').await, stage(b'3').await);
        let published = first.publish(&*lease, None).await.unwrap().unwrap();
        assert_eq!(published.size_bytes, size as u64);
        let there = store.state(&path).await.unwrap();
        assert_eq!(there.as_ref(), Some(&published));
        assert_eq!(late.publish(&*lease, None).await.unwrap(), None);
        let seen = published.version.as_ref();
        let replaced = second.publish(&*lease, seen).await.unwrap().unwrap();
        assert_ne!(replaced.etag, published.etag);
        // A dropped file is never visible.
        drop(stage(b'4').await);
        let full = format!("lake/{path}");
        let got = objects.get(&Path::from(full)).await.unwrap();
        assert_eq!(got.bytes().await.unwrap(), vec![b'3'; size]);
    }
}
