//! The log in a bucket in memory, also with failing requests. A reader of its own decodes every
//! snapshot.

use std::fmt::Write as _;

use jiff::civil::{Date, date};
use jiff::{SignedDuration, ToSpan};
use object_store::memory::InMemory;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::manifest::{Form, ManifestWriter, manifest_list};
use super::*;
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::slice::{Direction, Slice};
use crate::lake::table_log::DataFile;
use crate::lake::table_log::faults::{FaultStore, Moment};
use crate::slice_file::statistics::{Bound, ColumnStatistics, FileStatistics};
use crate::store::bucket::BucketStore;

const LAKE: &str = "s3://bucket/lake";
/// A phone number in columns without bounds.
/// The end of the error about a log that cannot be read.
const REMEDY: &str = "Move the directory _iceberg out of the lake. The next commit writes the log \
                      again from the ledger, without its history";
const PHONE_NUMBER: &str = "33187000001";

/// The live files of each readable snapshot.
type Readable = BTreeMap<i64, BTreeSet<String>>;

impl IcebergLog {
    async fn bytes(&self, path: &Path) -> Option<Bytes> {
        let found = self.store().read(path).await.unwrap();
        found.map(|found| found.bytes)
    }

    async fn json(&self, version: u64) -> Option<Json> {
        let bytes = self.bytes(&metadata_path(version)).await?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    async fn paths(&self) -> Vec<Path> {
        let objects = self.versions.objects().await.unwrap();
        objects.into_iter().map(|object| object.path).collect()
    }

    /// Every readable snapshot, decoded without the types of the log.
    ///
    /// # Panics
    /// If a metadata file exists whose current snapshot is incomplete, if a manifest list exists
    /// whose manifests do not, or if the hint names no version.
    pub(crate) async fn snapshots(&self) -> Readable {
        let mut readable = Readable::new();
        let below = |uri: &Json| Path::from(uri.as_str().unwrap().strip_prefix(LAKE).unwrap());
        let paths = self.paths().await;
        for (version, _) in paths.iter().filter_map(version_of) {
            let metadata = self.json(version).await.unwrap();
            for snapshot in metadata["snapshots"].as_array().unwrap() {
                let id = snapshot["snapshot-id"].as_i64().unwrap();
                let Some(list) = self.bytes(&below(&snapshot["manifest-list"])).await else {
                    assert_ne!(metadata["current-snapshot-id"], id, "version {version}");
                    continue;
                };
                let mut manifests = Vec::new();
                avro::decode(&list, |manifest| {
                    manifests.push(json!(manifest.text(500).unwrap()));
                    Ok(())
                })
                .unwrap();
                let mut files = BTreeSet::new();
                for manifest in manifests {
                    let bytes = self.bytes(&below(&manifest)).await;
                    avro::decode(&bytes.expect("a manifest is missing"), |entry| {
                        let path = entry.field(2).unwrap().text(100).unwrap();
                        if entry.number(0) != Some(2) {
                            let path = self.relative(path).to_owned();
                            assert!(files.insert(path), "a file is listed twice");
                        }
                        Ok(())
                    })
                    .unwrap();
                }
                readable.insert(id, files);
            }
        }
        if let Some(hint) = self.versions.hint().await.unwrap() {
            let versions = paths.iter().filter_map(version_of);
            assert!(
                versions
                    .map(|(version, _)| version)
                    .any(|version| version == hint)
            );
        }
        readable
    }

    /// Commits to the newest snapshot, with the time of its version.
    async fn change(&self, add: &[DataFile], remove: &[DataFile]) -> Snapshot {
        let base = self.read().await.unwrap();
        let difference = Difference {
            add: add.to_vec(),
            remove: remove.iter().map(|file| file.path.clone()).collect(),
        };
        let version = base.as_ref().map_or(1, |base| base.version + 1);
        let committed = self
            .commit(base.as_ref(), &difference, &info(version))
            .await;
        let snapshot = done(committed);
        assert_eq!(self.read().await.unwrap().as_ref(), Some(&snapshot));
        snapshot
    }
}

fn done(committed: Result<Committed<Snapshot>, TableLogError>) -> Snapshot {
    match committed.unwrap() {
        Committed::Done(snapshot) => snapshot,
        Committed::Conflict => panic!("another commit came first"),
    }
}

/// Version `n` is committed in minute `n`.
fn minute(n: u64) -> Timestamp {
    let start: Timestamp = "2026-10-02T00:00:00Z".parse().unwrap();
    start + SignedDuration::from_mins(n.try_into().unwrap())
}

fn info(n: u64) -> CommitInfo {
    CommitInfo {
        run: Some(format!("run-{n}")),
        at: minute(n),
        is_fence: false,
    }
}

fn log(objects: &Arc<InMemory>) -> IcebergLog {
    let store: Arc<dyn LakeStore> = Arc::new(BucketStore::in_memory(objects));
    IcebergLog::new(store, LAKE.to_owned(), PeriodUnit::Day)
}

/// The log of a lake of months.
fn log_of_months(objects: &Arc<InMemory>) -> IcebergLog {
    IcebergLog {
        unit: PeriodUnit::Month,
        ..log(objects)
    }
}

fn faulty(objects: &Arc<InMemory>, at: i64, moment: Moment) -> (IcebergLog, Arc<FaultStore>) {
    let inner = Arc::new(BucketStore::in_memory(objects));
    let store = Arc::new(FaultStore::failing_once(inner, at, moment));
    let shared: Arc<dyn LakeStore> = Arc::<FaultStore>::clone(&store);
    (
        IcebergLog::new(shared, LAKE.to_owned(), PeriodUnit::Day),
        store,
    )
}

fn day(n: i64) -> Date {
    date(2026, 10, 1) + n.days()
}

/// The file of a day, with a name.
fn file(n: i64, name: &str) -> DataFile {
    let day = day(n);
    let number = |number| Bound::Number(number);
    let day_number = i64::from(crate::cdr::day::day_number(day));
    let midnight = day_number * 86_400_000_000;
    let text = |text: &str| Bound::Text(text.to_owned());
    let column = |nulls, bounds| ColumnStatistics { nulls, bounds };
    let statistics = BTreeMap::from([
        (
            "source_day",
            column(0, Some((number(day_number), number(day_number)))),
        ),
        (
            "call_time",
            column(0, Some((number(midnight), number(midnight + 5)))),
        ),
        (
            "charge_usd",
            column(1, Some((number(-1), number(1_500_000_000)))),
        ),
        ("duration_seconds", column(7, None)),
        (
            "direction",
            column(0, Some((text("placed"), text("placed")))),
        ),
        (
            "disposition",
            column(2, Some((text("answered"), text("busy")))),
        ),
        // The ledger never contains these. If it did, the log must not.
        (
            "from_number",
            column(0, Some((text(PHONE_NUMBER), text(PHONE_NUMBER)))),
        ),
    ]);
    DataFile {
        path: format!("cdrs/dt={day}/placed-{day}-{name}.parquet"),
        slice: Slice::of_day(day, Direction::Placed),
        rows: 7 + name.len() as u64,
        bytes: 1000,
        written_at: minute(0),
        statistics: FileStatistics(
            statistics
                .into_iter()
                .map(|(name, of)| (name.to_owned(), of))
                .collect(),
        ),
    }
}

/// The file of a month, which contains calls of its days `n` and `m`.
fn file_of_month(month: &str, [n, m]: [i8; 2]) -> DataFile {
    let period: Period = month.parse().unwrap();
    let first_day = period.first_day();
    let days = [n, m].map(|n| {
        let day = first_day.with().day(n).build().unwrap();
        Bound::Number(crate::cdr::day::day_number(day).into())
    });
    let mut file = DataFile {
        path: format!("cdrs/dt={first_day}/placed-{month}-a.parquet"),
        slice: Slice::new(period, Direction::Placed),
        ..file(1, "a")
    };
    let bounds = Some(days.into());
    let source_day = ColumnStatistics { nulls: 0, bounds };
    let statistics = &mut file.statistics.0;
    statistics.insert("source_day".to_owned(), source_day);
    file
}

fn paths(files: &[DataFile]) -> BTreeSet<String> {
    files.iter().map(|file| file.path.clone()).collect()
}

fn live(snapshot: &Snapshot) -> BTreeSet<String> {
    snapshot.live.keys().cloned().collect()
}

#[tokio::test]
async fn a_log_has_the_files_of_its_commits() {
    let log = log(&Arc::default());
    assert_eq!(log.read().await.unwrap(), None);
    let (a, b, c) = (file(1, "a"), file(2, "b"), file(2, "c"));
    let created = log.change(&[], &[]).await;
    assert_eq!(live(&created), BTreeSet::new());
    let first = log.change(&[a.clone(), b.clone()], &[]).await;
    assert_eq!(live(&first), paths(&[a.clone(), b.clone()]));
    let expected = LiveFile {
        rows: Some(8),
        bytes: 1000,
        is_altered: false,
    };
    assert_eq!(IcebergLog::live(&first)[&a.path], expected);
    assert_eq!(IcebergLog::deviations(&first), &[] as &[String]);
    let second = log
        .change(std::slice::from_ref(&c), std::slice::from_ref(&b))
        .await;
    assert_eq!(live(&second), paths(&[a.clone(), c.clone()]));
    let third = log.change(&[], &[a.clone(), c]).await;
    assert_eq!(live(&third), BTreeSet::new());
    let last = log.change(std::slice::from_ref(&a), &[]).await;

    let mut counts: Vec<usize> = log.snapshots().await.values().map(BTreeSet::len).collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 1, 2, 2]);
    let operations: Vec<&str> = last
        .metadata
        .snapshots
        .iter()
        .map(|snapshot| &*snapshot.summary["operation"])
        .collect();
    assert_eq!(
        operations,
        ["replace", "append", "overwrite", "delete", "append"]
    );
    let summary = &last.metadata.snapshots[2].summary;
    for (key, value) in [
        ("added-data-files", "1"),
        ("added-records", "8"),
        ("deleted-data-files", "1"),
        ("total-data-files", "2"),
        ("total-records", "16"),
        ("total-files-size", "2000"),
        ("cdrlake.run", "run-3"),
    ] {
        assert_eq!(summary[key], value, "{key}");
    }
    assert_eq!(log.reachable().await.unwrap(), paths(&[a, b, file(2, "c")]));
    assert_eq!(log.versions.hint().await.unwrap(), Some(5));
    let uuids = [1, 5].map(async |version| log.json(version).await.unwrap()["table-uuid"].clone());
    let [first, last] = uuids;
    assert_eq!(first.await, last.await);
}

#[tokio::test]
async fn a_commit_without_a_difference_writes_nothing() {
    let log = log(&Arc::default());
    let base = log.change(&[file(1, "a")], &[]).await;
    let before = log.paths().await;
    assert_eq!(log.change(&[], &[]).await, base);
    assert_eq!(log.paths().await, before);
}

#[tokio::test]
async fn of_two_commits_to_one_snapshot_the_second_is_a_conflict_and_leaves_nothing() {
    let log = log(&Arc::default());
    let base = log.change(&[file(1, "a")], &[]).await;
    log.change(&[file(2, "b")], &[]).await;
    let before = log.paths().await;
    let difference = Difference {
        add: vec![file(3, "c")],
        remove: vec![],
    };
    let conflict = log
        .commit(Some(&base), &difference, &info(2))
        .await
        .unwrap();
    assert!(matches!(conflict, Committed::Conflict));
    assert_eq!(log.paths().await, before);
    let conflict = log.commit(None, &difference, &info(2)).await.unwrap();
    assert!(matches!(conflict, Committed::Conflict));
    assert_eq!(log.paths().await, before);
    let conflict = log.expire(&base, Timestamp::MAX).await.unwrap();
    assert!(matches!(conflict, Committed::Conflict));
    assert_eq!(log.paths().await, before);
}

#[tokio::test]
async fn a_commit_to_a_version_that_has_expired_is_a_conflict() {
    // With one file the commit reads the manifest, which is missing. With three it does not.
    for files in [1, 3] {
        let log = log(&Arc::default());
        let files: Vec<DataFile> = (0..files).map(|n| file(n, "a")).collect();
        let base = log.change(&files, &[]).await;
        let newest = log.change(&[file(4, "b")], &files[..1]).await;
        let newest = done(log.expire(&newest, Timestamp::MAX).await);
        assert_eq!(log.json(2).await, None);
        let difference = Difference {
            add: vec![file(5, "c")],
            remove: vec![],
        };
        let conflict = log.commit(Some(&base), &difference, &info(2)).await;
        assert!(matches!(conflict.unwrap(), Committed::Conflict));
        assert_eq!(log.json(2).await.is_some(), files.len() == 3);
        assert_eq!(log.read().await.unwrap(), Some(newest.clone()));
        done(log.expire(&newest, Timestamp::MAX).await);
        assert_eq!(log.paths().await.len(), 3 + newest.manifests.len());
    }
}

/// A log with some history: the log, its newest snapshot, and its files.
async fn history(objects: &Arc<InMemory>) -> (IcebergLog, Snapshot, Vec<DataFile>) {
    let log = log(objects);
    let files: Vec<DataFile> = (0..8).map(|n| file(n, "a")).collect();
    log.change(&files[..5], &[]).await;
    log.change(&files[5..6], &[]).await;
    log.change(&files[6..], &files[1..2]).await;
    let newest = log.change(&[file(1, "b")], &files[2..3]).await;
    let mut files = files;
    files.remove(2);
    files[1] = file(1, "b");
    assert_eq!(live(&newest), paths(&files));
    (log, newest, files)
}

#[tokio::test]
async fn expiry_keeps_snapshots_that_were_replaced_later() {
    let (log, newest, files) = history(&Arc::default()).await;
    let before = log.snapshots().await;
    // Nothing is old enough.
    let same = done(log.expire(&newest, minute(1)).await);
    assert_eq!((same.version, log.snapshots().await), (4, before.clone()));

    // Version 1 was replaced in minute 2, version 2 in minute 3.
    let left = done(log.expire(&newest, minute(3)).await);
    assert_eq!(left.version, 5);
    assert_eq!(log.read().await.unwrap().as_ref(), Some(&left));
    let mut expected = before.clone();
    expected.remove(&newest.metadata.snapshots[0].snapshot_id);
    assert_eq!(log.snapshots().await, expected);
    let versions: BTreeSet<u64> = log
        .paths()
        .await
        .iter()
        .filter_map(version_of)
        .map(|(version, _)| version)
        .collect();
    assert_eq!(versions, [2, 3, 4, 5].into());
    let again = done(log.expire(&left, minute(3)).await);
    assert_eq!(again, left);

    let last = done(log.expire(&left, Timestamp::MAX).await);
    assert_eq!(log.read().await.unwrap().as_ref(), Some(&last));
    assert_eq!(
        log.snapshots().await.into_values().collect::<Vec<_>>(),
        [paths(&files)]
    );
    assert_eq!(log.reachable().await.unwrap(), paths(&files));
    let needed = 3 + last.manifests.len();
    assert_eq!(log.paths().await.len(), needed);
    let again = done(log.expire(&last, Timestamp::MAX).await);
    assert_eq!((again, log.paths().await.len()), (last, needed));
}

/// Every text of the log, decoded.
async fn texts(log: &IcebergLog) -> String {
    let mut texts = String::new();
    for path in log.paths().await {
        let bytes = log.bytes(&path).await.unwrap();
        texts += path.as_ref();
        if path.extension() == Some("avro") {
            avro::decode(&bytes, |record| {
                write!(texts, "{record:?}").unwrap();
                Ok(())
            })
            .unwrap();
        }
        texts += &String::from_utf8_lossy(&bytes);
    }
    texts
}

#[tokio::test]
async fn after_the_end_of_history_no_file_of_the_log_contains_a_path_that_is_not_live() {
    let (log, newest, _) = history(&Arc::default()).await;
    let gone = file(2, "a").path;
    let as_numbers = |text: &str| format!("{:?}", text.as_bytes());
    let gone = as_numbers(&format!("{LAKE}/{gone}"));
    let is_found = async || texts(&log).await.contains(&gone);
    assert!(is_found().await);
    // Another program has left something there.
    let foreign = Path::from("_iceberg/metadata/00000-00000000-m0.avro");
    let bytes = avro::Container::new(&json!("null"), &[]).finish();
    log.store().create(&foreign, bytes.into()).await.unwrap();
    done(log.expire(&newest, minute(0)).await);
    assert!(log.bytes(&foreign).await.is_some());
    done(log.expire(&newest, Timestamp::MAX).await);
    assert!(!is_found().await);
    assert_eq!(log.bytes(&foreign).await, None);
}

#[tokio::test]
async fn no_file_of_the_log_contains_a_phone_number() {
    let (log, ..) = history(&Arc::default()).await;
    let texts = texts(&log).await;
    let bytes = format!("{:?}", PHONE_NUMBER.as_bytes());
    assert!(!texts.contains(PHONE_NUMBER) && !texts.contains(bytes.trim_matches(['[', ']'])));
    let known = format!("{:?}", b"answered");
    assert!(texts.contains(&known));
}

#[tokio::test]
async fn files_of_a_commit_that_crashed_are_removed_once_their_version_exists() {
    let (log, newest, _) = history(&Arc::default()).await;
    let difference = Difference {
        add: vec![file(9, "crashed")],
        remove: vec![],
    };
    let circumstances = Circumstances {
        at: minute(5),
        run: None,
        live_only: false,
    };
    let draft = log
        .draft(Some(&newest), &difference, &circumstances)
        .await
        .unwrap();
    let is_left = async || log.bytes(&draft.objects[0]).await.is_some();
    done(log.expire(&newest, minute(0)).await);
    assert!(is_left().await, "the commit may be under way");
    let newest = log.change(&[file(9, "other")], &[]).await;
    done(log.expire(&newest, minute(0)).await);
    assert!(!is_left().await);

    // The end of history does not wait for a commit.
    let newest = done(log.expire(&newest, Timestamp::MAX).await);
    let draft = log
        .draft(Some(&newest), &difference, &circumstances)
        .await
        .unwrap();
    let last = done(log.expire(&newest, Timestamp::MAX).await);
    assert_eq!(last.version, newest.version + 1);
    assert_eq!(log.bytes(&draft.objects[0]).await, None);
    let late = log.publish(draft).await.unwrap();
    assert!(matches!(late, Committed::Conflict));
}

/// What is tried on a log with [`history`].
#[derive(Clone, Copy, Debug)]
enum Operation {
    Commit,
    Expire(Timestamp),
}

#[tokio::test]
async fn a_failed_request_never_leaves_an_incomplete_snapshot_and_the_next_call_mends_it() {
    let operations = [
        Operation::Commit,
        Operation::Expire(minute(3)),
        Operation::Expire(Timestamp::MAX),
    ];
    for (operation, fault) in operations
        .into_iter()
        .flat_map(|operation| [Moment::Before, Moment::After].map(|fault| (operation, fault)))
    {
        let mut failures = 0;
        for at in 0.. {
            let context = format!("{operation:?}, request {at}, {fault:?}");
            let objects = Arc::new(InMemory::new());
            let (log, _, files) = history(&objects).await;
            let before = log.snapshots().await;
            let (failing, store) = faulty(&objects, at, fault);
            let difference = Difference {
                add: vec![file(9, "new"), file(0, "new")],
                remove: vec![files[0].path.clone()],
            };
            let tried = async {
                let base = failing.read().await?.unwrap();
                match operation {
                    Operation::Commit => failing.commit(Some(&base), &difference, &info(5)).await,
                    Operation::Expire(limit) => failing.expire(&base, limit).await,
                }
            };
            let tried = tried.await;
            failures += usize::from(tried.is_err());
            for (id, files) in log.snapshots().await {
                assert!(
                    before.get(&id).is_none_or(|before| *before == files),
                    "{context}"
                );
            }

            let base = log.read().await.unwrap().unwrap();
            let mut expected = paths(&files);
            match operation {
                Operation::Commit => {
                    expected.remove(&files[0].path);
                    expected.extend(difference.add.iter().map(|file| file.path.clone()));
                    let is_committed = live(&base) == expected;
                    assert!(is_committed || live(&base) == paths(&files), "{context}");
                    let rest = if is_committed {
                        Difference::default()
                    } else {
                        difference
                    };
                    done(log.commit(Some(&base), &rest, &info(6)).await);
                    let hint = log.versions.hint().await.unwrap();
                    assert_eq!(hint, Some(5), "{context}");
                }
                Operation::Expire(limit) => {
                    let last = done(log.expire(&base, limit).await);
                    let left = if limit == Timestamp::MAX { 1 } else { 3 };
                    assert_eq!(log.snapshots().await.len(), left, "{context}");
                    assert_eq!(last.metadata.snapshots.len(), left, "{context}");
                }
            }
            let last = log.read().await.unwrap().unwrap();
            assert_eq!(live(&last), expected, "{context}");
            assert_eq!(IcebergLog::deviations(&last), &[] as &[String], "{context}");
            let last = done(log.expire(&last, Timestamp::MAX).await);
            assert_eq!(
                log.paths().await.len(),
                3 + last.manifests.len(),
                "{context}"
            );
            if !store.has_failed() {
                tried.unwrap();
                break;
            }
        }
        assert!(failures > 8, "{operation:?} {fault:?}: {failures} failures");
    }
}

#[tokio::test]
async fn a_commit_whose_reply_is_lost_is_done() {
    let objects = Arc::new(InMemory::new());
    let (log, base, _) = history(&objects).await;
    // Manifest, manifest list, metadata: the third write.
    let difference = Difference {
        add: vec![file(9, "new")],
        remove: vec![],
    };
    for at in 0.. {
        let (failing, store) = faulty(&objects, at, Moment::After);
        let committed = failing.commit(Some(&base), &difference, &info(5)).await;
        if log.json(5).await.is_some() {
            let snapshot = done(committed);
            assert_eq!(log.read().await.unwrap(), Some(snapshot));
            break;
        }
        drop(store);
        committed.unwrap_err();
    }
}

async fn overwrite(log: &IcebergLog, path: &Path, bytes: Vec<u8>) {
    log.store().delete(path).await.unwrap();
    log.store().create(path, bytes.into()).await.unwrap();
}

/// A change of metadata.
type Edit = fn(&mut Json);

/// Changes the newest metadata as another program would.
async fn edit(log: &IcebergLog, edit: impl FnOnce(&mut Json)) {
    let version = log.versions.newest().await.unwrap().unwrap();
    let mut metadata = log.json(version).await.unwrap();
    edit(&mut metadata);
    let bytes = serde_json::to_vec(&metadata).unwrap();
    overwrite(log, &metadata_path(version), bytes).await;
}

#[tokio::test]
async fn a_cut_file_is_damaged_and_its_path_is_named() {
    let (log, newest, _) = history(&Arc::default()).await;
    let current = newest.metadata.current().unwrap();
    let mut needed = vec![metadata_path(4)];
    needed.push(
        log.resolve(&newest.metadata, &current.manifest_list)
            .unwrap(),
    );
    for manifest in &newest.manifests {
        needed.push(log.resolve(&newest.metadata, &manifest.path).unwrap());
    }
    for path in needed {
        let bytes = log.bytes(&path).await.unwrap();
        for end in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            overwrite(&log, &path, bytes[..end].to_vec()).await;
            let error = log.read().await.unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{path} is damaged: ")),
                "{error}"
            );
            assert!(error.ends_with(REMEDY), "{error}");
        }
        log.store().delete(&path).await.unwrap();
        let error = log.read().await;
        if path == metadata_path(4) {
            assert_eq!(error.unwrap().unwrap().version, 3);
        } else {
            let error = error.unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{path} is damaged: it is missing")),
                "{error}"
            );
        }
        overwrite(&log, &path, bytes.to_vec()).await;
    }
    // A list without blocks is complete Avro.
    let list = log
        .resolve(&newest.metadata, &current.manifest_list)
        .unwrap();
    overwrite(&log, &list, manifest_list(&[], 1, None, 4)).await;
    let error = log.read().await.unwrap_err().to_string();
    let expected = "_iceberg/metadata/v4.metadata.json is damaged: its current snapshot counts \
         7 files, but the manifests list 0";
    assert!(error.starts_with(expected), "{error}");
}

#[tokio::test]
async fn edited_metadata_is_damaged() {
    let edits: [(Edit, &str); 5] = [
        (
            |it| it["current-snapshot-id"] = json!(1),
            "it does not list its current snapshot",
        ),
        (
            |it| it["refs"]["main"]["snapshot-id"] = json!(1),
            "its branch main is not",
        ),
        (
            |it| it["last-sequence-number"] = json!(1),
            "one of its snapshots is newer than",
        ),
        (
            |it| it["current-schema-id"] = json!(9),
            "it does not list its current schema",
        ),
        (
            |it| it["default-spec-id"] = json!(9),
            "it does not list its default partition",
        ),
    ];
    for (change, expected) in edits {
        let (log, ..) = history(&Arc::default()).await;
        edit(&log, change).await;
        let error = log.read().await.unwrap_err().to_string();
        let expected = format!("_iceberg/metadata/v4.metadata.json is damaged: {expected}");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[tokio::test]
async fn newer_formats_and_compressed_metadata_are_unsupported() {
    let (log, ..) = history(&Arc::default()).await;
    edit(&log, |it| it["format-version"] = json!(3)).await;
    let expected = "_iceberg/metadata/v4.metadata.json uses version 3 of the Iceberg format, \
         which cdrlake does not support. ";
    let error = log.read().await.unwrap_err().to_string();
    assert_eq!(error, format!("{expected}{REMEDY}"));
    let path = Path::from("_iceberg/metadata/v5.gz.metadata.json");
    overwrite(&log, &path, vec![]).await;
    let error = log.read().await.unwrap_err();
    assert!(
        matches!(error, TableLogError::Unsupported { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn the_next_commit_restores_what_another_program_changed() {
    let edits: [(Edit, &str); 8] = [
        (
            |it| it["schemas"][0]["fields"][3]["name"] = json!("x"),
            "its columns differ from those",
        ),
        (
            |it| {
                it["schemas"][0]["schema-id"] = json!(4);
                let mut other = it["schemas"][0].clone();
                other["schema-id"] = json!(7);
                other["fields"].as_array_mut().unwrap().pop();
                it["schemas"].as_array_mut().unwrap().push(other);
                it["current-schema-id"] = json!(7);
            },
            "its columns differ from those",
        ),
        (
            |it| {
                let other = json!({"spec-id": 1, "fields": []});
                it["partition-specs"].as_array_mut().unwrap().push(other);
                it["default-spec-id"] = json!(1);
            },
            "it is not partitioned by source_day",
        ),
        (
            |it| it["default-sort-order-id"] = json!(1),
            "it has a sort order",
        ),
        (
            |it| it["properties"]["gc.enabled"] = json!("true"),
            "its property gc.enabled was changed",
        ),
        (
            |it| it["properties"] = json!({"owner": "x"}),
            "its property comment was changed",
        ),
        (
            |it| it["refs"]["audit"] = it["refs"]["main"].clone(),
            "it has another branch or tag, \"audit\"",
        ),
        (
            |it| it["location"] = json!("s3://old/_iceberg"),
            "its location is s3://old/_iceberg",
        ),
    ];
    for (change, expected) in edits {
        let (log, _, files) = history(&Arc::default()).await;
        edit(&log, change).await;
        let base = log.read().await.unwrap().unwrap();
        let deviations = IcebergLog::deviations(&base);
        assert!(deviations[0].starts_with(expected), "{deviations:?}");
        assert_eq!(live(&base), paths(&files), "{expected}");
        let restored = log.change(&[], &[]).await;
        assert_eq!(
            IcebergLog::deviations(&restored),
            &[] as &[String],
            "{expected}"
        );
        assert_eq!((restored.version, live(&restored)), (5, paths(&files)));
        assert_eq!(restored.metadata.table_uuid, base.metadata.table_uuid);
        let summary = &restored.metadata.current().unwrap().summary;
        assert_eq!(summary["operation"], "replace");
        if expected.contains("comment") {
            assert_eq!(log.json(5).await.unwrap()["properties"]["owner"], "x");
        }
        log.snapshots().await;
    }
}

/// Adds a manifest to the list of the current snapshot, as another program would.
async fn add_manifest(log: &IcebergLog, newest: &Snapshot, edit: impl FnOnce(&mut Manifest)) {
    let mut listed = newest.manifests.clone();
    let mut added = listed[0].clone();
    edit(&mut added);
    listed.push(added);
    let current = newest.metadata.current().unwrap();
    let list = log.resolve(&newest.metadata, &current.manifest_list);
    let bytes = manifest_list(&listed, current.snapshot_id, None, current.sequence_number);
    overwrite(log, &list.unwrap(), bytes).await;
}

#[tokio::test]
async fn the_next_commit_leaves_out_delete_files() {
    let (log, newest, files) = history(&Arc::default()).await;
    add_manifest(&log, &newest, |added| added.has_deletes = true).await;
    let base = log.read().await.unwrap().unwrap();
    assert_eq!(IcebergLog::deviations(&base), ["it has delete files"]);
    let restored = log.change(&[], &[]).await;
    assert_eq!(live(&restored), paths(&files));
    assert_eq!(IcebergLog::deviations(&restored), &[] as &[String]);
}

#[tokio::test]
async fn a_log_of_months_is_partitioned_by_the_month_of_the_day() {
    let log = log_of_months(&Arc::default());
    let files = [
        file_of_month("1969-12", [2, 31]),
        file_of_month("2026-10", [1, 5]),
    ];
    log.change(&files[1..], &[]).await;
    let newest = log.change(&files[..1], &[]).await;
    assert_eq!(IcebergLog::deviations(&newest), &[] as &[String]);
    let metadata = log.json(newest.version).await.unwrap();
    let spec = json!([{
        "spec-id": 0,
        "fields": [{
            "name": "source_day_month", "transform": "month", "source-id": 4, "field-id": 1000
        }],
    }]);
    assert_eq!(metadata["partition-specs"], spec);
    let [manifest] = &*newest.manifests else {
        panic!("{newest:?}");
    };
    assert_eq!(manifest.partitions, Some((-1, 681)));
    let path = log.resolve(&newest.metadata, &manifest.path).unwrap();
    let bytes = log.bytes(&path).await.unwrap();
    let header = String::from_utf8_lossy(&bytes);
    let field =
        r#"{"default":null,"field-id":1000,"name":"source_day_month","type":["null","int"]}"#;
    assert!(header.contains(field), "{header}");
    let mut found = Vec::new();
    avro::decode(&bytes, |entry| {
        let file = entry.field(2).unwrap();
        let bound = |id, key, value| {
            let bounds = file.items(id).iter();
            let mut bounds = bounds.filter(|bound| bound.number(key) == Some(4));
            let bytes = bounds.next().unwrap().bytes(value).unwrap();
            i32::from_le_bytes(bytes.try_into().unwrap())
        };
        let days = (bound(125, 126, 127), bound(128, 129, 130));
        found.push((file.field(102).unwrap().number(1000).unwrap(), days));
        Ok(())
    })
    .unwrap();
    assert_eq!(found, [(-1, (-30, -1)), (681, (20_727, 20_731))]);
}

#[tokio::test]
async fn the_log_of_days_becomes_one_of_months() {
    for stays in [false, true] {
        let objects = Arc::default();
        let (days, months) = (log(&objects), log_of_months(&objects));
        let old = [file(1, "a"), file(2, "b"), file(3, "c"), file(4, "d")];
        days.change(&old[..3], &[]).await;
        days.change(&old[3..], &[]).await;
        let base = months.read().await.unwrap().unwrap();
        let deviation = "it is not partitioned by source_day_month".to_owned();
        assert_eq!(IcebergLog::deviations(&base), [deviation]);
        let new = file_of_month("2026-10", [2, 5]);
        let removed = if stays { &old[1..] } else { &old[..] };
        let snapshot = months.change(std::slice::from_ref(&new), removed).await;
        assert_eq!(IcebergLog::deviations(&snapshot), &[] as &[String]);
        let [manifest] = &*snapshot.manifests else {
            panic!("{snapshot:?}");
        };
        assert_eq!(manifest.partitions, Some((681, 681)));
        assert_eq!((manifest.spec_id, manifest.deleted.files), (1, 0));
        let metadata = months.json(snapshot.version).await.unwrap();
        let specs = metadata["partition-specs"].as_array().unwrap();
        let ids = specs.iter().map(|spec| &spec["fields"][0]["field-id"]);
        assert_eq!(ids.collect::<Vec<_>>(), [1000, 1001]);
        assert_eq!(metadata["last-partition-id"], 1001);
        // Snapshots of days stay readable.
        assert_eq!(months.snapshots().await.len(), 3);
        let refused = days.read().await.unwrap_err().to_string();
        assert!(refused.contains("files with other partitions"), "{refused}");
        let later = months
            .change(&[file_of_month("2026-11", [1, 1])], &[])
            .await;
        assert_eq!(later.metadata.default_spec_id, 1);
        let newest = done(months.expire(&later, Timestamp::MAX).await);
        assert_eq!(months.snapshots().await.len(), 1);
        assert_eq!(months.read().await.unwrap(), Some(newest));
    }
}

#[tokio::test]
async fn the_catalog_follows_a_log_of_days_that_becomes_one_of_months() {
    let objects = Arc::default();
    let model = Model::new(Arc::new(BucketStore::in_memory(&objects)));
    let connected = |log: IcebergLog| log.with_catalog(Some(model.catalog()));
    let (days, months) = (connected(log(&objects)), connected(log_of_months(&objects)));
    let old = [file(1, "a")];
    let newest = days.change(&old, &[]).await;
    let followed = days.follow(&newest).await.unwrap();
    assert!(matches!(followed, Followed::Done(true)), "{followed:?}");
    let new = [file_of_month("2026-10", [1, 1])];
    let newest = months.change(&new, &old).await;
    assert_ne!(months.compare_catalog(&newest).await.unwrap(), [""; 0]);
    let followed = months.follow(&newest).await.unwrap();
    assert!(matches!(followed, Followed::Done(true)), "{followed:?}");
    assert_eq!(months.compare_catalog(&newest).await.unwrap(), [""; 0]);
    let (table, log) = (model.table(), months.json(newest.version).await.unwrap());
    for key in ["default-spec-id", "partition-specs", "last-partition-id"] {
        assert_eq!(table[key], log[key], "{key}");
    }
}

#[tokio::test]
async fn a_catalog_that_cannot_register_gets_the_whole_log_in_one_transaction() {
    let objects = Arc::default();
    let (days, months) = (log(&objects), log_of_months(&objects));
    let old = [file(1, "a")];
    days.change(&old, &[]).await;
    let new = [file_of_month("2026-10", [1, 1])];
    months.change(&new, &old).await;
    let model = Model::new(Arc::new(BucketStore::in_memory(&objects)));
    model.refuse_to_register();
    let months = months.with_catalog(Some(model.catalog()));
    let newest = months.read().await.unwrap().unwrap();
    // The catalog's clock is ahead, so it wants a later snapshot.
    let Followed::CommitAgain(base) = months.follow(&newest).await.unwrap() else {
        panic!("a snapshot from before the table was created");
    };
    let fence = CommitInfo {
        is_fence: true,
        ..info(9)
    };
    let nothing = Difference::default();
    let later = months.commit(Some(&base), &nothing, &fence);
    let newest = done(later.await);
    let followed = months.follow(&newest).await.unwrap();
    assert!(matches!(followed, Followed::Done(true)), "{followed:?}");
    assert_eq!(model.changes(), 1);
    assert_eq!(months.compare_catalog(&newest).await.unwrap(), [""; 0]);
    let (table, log) = (model.table(), months.json(newest.version).await.unwrap());
    for key in [
        "format-version",
        "table-uuid",
        "location",
        "schemas",
        "current-schema-id",
        "partition-specs",
        "default-spec-id",
        "last-partition-id",
        "sort-orders",
        "default-sort-order-id",
        "properties",
        "current-snapshot-id",
        "refs",
    ] {
        assert_eq!(table[key], log[key], "{key}");
    }
}

#[tokio::test]
async fn files_with_other_partitions_are_unsupported_and_files_that_are_listed_twice_are_damage() {
    let (log, newest, _) = history(&Arc::default()).await;
    add_manifest(&log, &newest, |added| added.spec_id = 1).await;
    let error = log.read().await.unwrap_err().to_string();
    let expected = "_iceberg/metadata/v4.metadata.json uses files with other partitions, which \
         cdrlake does not support. ";
    assert_eq!(error, format!("{expected}{REMEDY}"));
    add_manifest(&log, &newest, |_| ()).await;
    let error = log.read().await.unwrap_err().to_string();
    assert!(
        error.contains(".parquet is listed twice. Move the directory _iceberg out"),
        "{error}"
    );
}

#[tokio::test]
async fn a_moved_lake_begins_its_history_anew() {
    let objects = Arc::new(InMemory::new());
    let (_, _, files) = history(&objects).await;
    let store: Arc<dyn LakeStore> = Arc::new(BucketStore::in_memory(&objects));
    let moved = IcebergLog::new(store, "s3://new/place".to_owned(), PeriodUnit::Day);
    let base = moved.read().await.unwrap().unwrap();
    let outside = |path: &String| format!("{LAKE}/{path}");
    let expected: BTreeSet<String> = paths(&files).iter().map(outside).collect();
    assert_eq!(live(&base), expected);
    // Expiry does not change what a table is.
    let base = done(moved.expire(&base, minute(3)).await);
    assert_eq!(moved.read().await.unwrap().as_ref(), Some(&base));
    assert_eq!(live(&base), expected);
    let difference = Difference {
        add: files.clone(),
        remove: expected.into_iter().collect(),
    };
    let snapshot = done(moved.commit(Some(&base), &difference, &info(6)).await);
    assert_eq!(moved.read().await.unwrap().as_ref(), Some(&snapshot));
    assert_eq!(live(&snapshot), paths(&files));
    assert_eq!(snapshot.metadata.table_uuid, base.metadata.table_uuid);
    assert_eq!(snapshot.metadata.snapshots.len(), 1);
    let text = serde_json::to_string(&snapshot.metadata).unwrap();
    assert!(!text.contains(LAKE), "{text}");
}

#[tokio::test]
async fn what_another_program_wrote_about_a_file_is_altered_and_its_bounds_are_dropped() {
    let (log, newest, files) = history(&Arc::default()).await;
    let (listed, first) = (&newest.manifests, &newest.manifests[0]);
    let path = log.resolve(&newest.metadata, &first.path).unwrap();
    let bytes = log.bytes(&path).await.unwrap();
    // The same manifest, with bounds of column 6 instead of 8's.
    let metadata = &newest.metadata;
    let form = Form {
        schema: metadata.schema().unwrap(),
        spec: metadata.spec().unwrap(),
        unit: PeriodUnit::Day,
    };
    let mut writer = ManifestWriter::new(
        first.path.clone(),
        form,
        first.snapshot_id,
        first.sequence_number,
    );
    let mut altered = BTreeSet::new();
    read_manifest(&bytes, first, |mut entry| {
        if entry.status != Status::Deleted && altered.is_empty() {
            altered.insert(log.relative(&entry.path).to_owned());
            entry.set_bounds_for_test(6, PHONE_NUMBER);
        }
        writer.append(&entry);
        Ok(())
    })
    .unwrap();
    let (edited, bytes) = writer.finish().unwrap();
    overwrite(&log, &path, bytes).await;
    let mut listed = listed.clone();
    listed[0] = edited;
    let current = metadata.current().unwrap();
    let list = log.resolve(metadata, &current.manifest_list).unwrap();
    let bytes = manifest_list(&listed, current.snapshot_id, None, current.sequence_number);
    overwrite(&log, &list, bytes).await;

    let base = log.read().await.unwrap().unwrap();
    let found: BTreeSet<String> = base
        .live
        .iter()
        .filter(|(_, file)| file.is_altered)
        .map(|(path, _)| path.clone())
        .collect();
    assert_eq!(found, altered);
    let again: Vec<DataFile> = files
        .into_iter()
        .filter(|file| altered.contains(&file.path))
        .collect();
    let restored = log.change(&again, &again).await;
    assert!(restored.live.values().all(|file| !file.is_altered));
    done(log.expire(&restored, Timestamp::MAX).await);
    let bytes = format!("{:?}", PHONE_NUMBER.as_bytes());
    assert!(!texts(&log).await.contains(bytes.trim_matches(['[', ']'])));
}

#[tokio::test]
async fn a_table_with_thousands_of_files_has_few_manifests_and_small_commits() {
    let log = log(&Arc::default());
    let files: Vec<DataFile> = (0..7300).map(|n| file(n, "a")).collect();
    let mut base = log.change(&files[..7000], &[]).await;
    for (n, file) in files[7000..7100].iter().enumerate() {
        let difference = Difference {
            add: vec![file.clone()],
            remove: vec![],
        };
        base = done(log.commit(Some(&base), &difference, &info(n as u64)).await);
        assert!(
            base.manifests.len() <= 10,
            "{} manifests",
            base.manifests.len()
        );
    }
    assert_eq!(live(&base), paths(&files[..7100]));
    let bytes: i64 = base.manifests.iter().map(|manifest| manifest.bytes).sum();
    assert!(bytes < 500_000, "{bytes}");
    // Every file of one of them is removed.
    let base = log.change(&[], &files[7000..7100]).await;
    assert_eq!(live(&base), paths(&files[..7000]));
}

#[derive(Clone, Debug)]
enum Step {
    /// Files are added, replaced or removed, by these days.
    Change(Vec<i64>),
    /// History ends before the version that many versions ago.
    Expire(u64),
    EndHistory,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec(0..40_i64, 0..12).prop_map(Step::Change),
        1 => (0..8_u64).prop_map(Step::Expire),
        1 => Just(Step::EndHistory),
    ];
    prop::collection::vec(step, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn random_commits_and_expiries_equal_a_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let log = log(&Arc::default());
            let mut model = BTreeMap::<i64, DataFile>::new();
            let mut history = Readable::new();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Change(days) => {
                        let (mut add, mut remove) = (Vec::new(), Vec::new());
                        for day in days.into_iter().collect::<BTreeSet<_>>() {
                            remove.extend(model.remove(&day));
                            if (day + i64::try_from(n).unwrap()) % 3 > 0 {
                                let new = file(day, &n.to_string());
                                add.push(new.clone());
                                model.insert(day, new);
                            }
                        }
                        log.change(&add, &remove).await;
                    }
                    Step::Expire(versions) => {
                        if let Some(base) = log.read().await.unwrap() {
                            let limit = minute(base.version.saturating_sub(versions));
                            done(log.expire(&base, limit).await);
                        }
                    }
                    Step::EndHistory => {
                        if let Some(base) = log.read().await.unwrap() {
                            let last = done(log.expire(&base, Timestamp::MAX).await);
                            assert_eq!(log.paths().await.len(), 3 + last.manifests.len());
                        }
                    }
                }
                let files: Vec<DataFile> = model.values().cloned().collect();
                let snapshots = log.snapshots().await;
                if let Some(newest) = log.read().await.unwrap() {
                    assert_eq!(live(&newest), paths(&files));
                    let id = newest.metadata.current().unwrap().snapshot_id;
                    history.insert(id, paths(&files));
                }
                let all = snapshots.values().flatten().cloned().collect();
                assert_eq!(log.reachable().await.unwrap(), all);
                for (id, files) in snapshots {
                    assert_eq!(history[&id], files);
                }
            }
        });
    }
}
