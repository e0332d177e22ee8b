//! The Delta Lake log, in a bucket in memory.

mod foreign;
mod interrupted;

use object_store::memory::InMemory;
use parquet::basic::Compression;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, RowAccessor};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::cdr::decode::Record;
use crate::cdr::slice::{Direction, Slice};
use crate::lake::table_log::LiveFile;
use crate::lake::table_log::faults::{FaultStore, Moment};
use crate::slice_file::options::ParquetOptions;
use crate::slice_file::statistics::FileStatistics;
use crate::slice_file::writer::SpoolWriter;
use crate::store::bucket::BucketStore;
use crate::store::local::LocalStore;

/// A file of a slice in October 2026.
pub(super) fn file(name: &str) -> DataFile {
    let day = jiff::civil::date(2026, 10, 1);
    DataFile {
        path: path(name),
        slice: Slice::of_day(day, Direction::Placed),
        rows: 10,
        bytes: 1000,
        written_at: Timestamp::UNIX_EPOCH,
        statistics: FileStatistics::default(),
    }
}

fn path(name: &str) -> String {
    format!("cdrs/dt=2026-10-01/placed-2026-10-01-{name}.parquet")
}

fn difference(add: &[&str], remove: &[&str]) -> Difference {
    Difference {
        add: add.iter().map(|name| file(name)).collect(),
        remove: remove.iter().map(|name| path(name)).collect(),
    }
}

fn time(seconds: u64) -> Timestamp {
    Timestamp::from_second(1_790_812_800 + i64::try_from(seconds).unwrap()).unwrap()
}

fn info(seconds: u64) -> CommitInfo {
    CommitInfo {
        run: Some("20261001T000000Z-0000000a".to_owned()),
        at: time(seconds),
        is_fence: false,
    }
}

fn paths(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| path(name)).collect()
}

fn store(objects: &Arc<InMemory>) -> Arc<dyn LakeStore> {
    Arc::new(BucketStore::in_memory(objects))
}

fn log_in(store: Arc<dyn LakeStore>) -> DeltaLog {
    DeltaLog::new(store, PeriodUnit::Day)
}

/// A log in a new bucket.
fn log() -> DeltaLog {
    log_in(store(&Arc::default()))
}

impl Committed<Snapshot> {
    fn done(self) -> Snapshot {
        match self {
            Self::Done(snapshot) => snapshot,
            Self::Conflict => panic!("another commit came first"),
        }
    }
}

impl DeltaLog {
    /// Every readable version with its live paths, by a reader of its own that shares no code with
    /// the log. Panics if a version has other files by its commits than by its checkpoint.
    pub(crate) async fn snapshots(&self) -> BTreeMap<u64, BTreeSet<String>> {
        let listed = self.store.list(&Path::from(DELTA_LOG)).await.unwrap();
        let version = |path: &Path, end: &str| {
            let name = path.filename().unwrap().strip_suffix(end)?;
            name.parse::<u64>().ok()
        };
        let mut found = BTreeMap::new();
        let mut versions = BTreeMap::<u64, [Option<Path>; 2]>::new();
        for object in listed {
            if let Some(version) = version(&object.path, ".json") {
                versions.entry(version).or_default()[0] = Some(object.path);
            } else if let Some(version) = version(&object.path, ".checkpoint.parquet") {
                versions.entry(version).or_default()[1] = Some(object.path);
            }
        }
        for (version, [commit, checkpoint]) in versions {
            let before = match version {
                0 => Some(BTreeSet::new()),
                _ => found.get(&(version - 1)).cloned(),
            };
            let mut by_commit = None;
            if let (Some(mut live), Some(commit)) = (before, commit) {
                let bytes = self.store.read(&commit).await.unwrap().unwrap().bytes;
                for line in std::str::from_utf8(&bytes).unwrap().lines() {
                    let line: Value = serde_json::from_str(line).unwrap();
                    if let Some(path) = line["add"]["path"].as_str() {
                        live.insert(path.to_owned());
                    }
                    if let Some(path) = line["remove"]["path"].as_str() {
                        assert!(live.remove(path), "{path} was not live");
                    }
                }
                by_commit = Some(live);
            }
            let mut by_checkpoint = None;
            if let Some(checkpoint) = checkpoint {
                let bytes = self.store.read(&checkpoint).await.unwrap().unwrap().bytes;
                let reader = SerializedFileReader::new(bytes).unwrap();
                let added = reader.get_row_iter(None).unwrap().filter_map(|row| {
                    let row = row.unwrap();
                    let mut columns = row.get_column_iter();
                    let (_, add) = columns.find(|(name, _)| *name == "add").unwrap();
                    match add {
                        Field::Group(add) => Some(add.get_string(0).unwrap().clone()),
                        _ => None,
                    }
                });
                by_checkpoint = Some(added.collect());
            }
            match (by_commit, by_checkpoint) {
                (None, None) => {}
                (Some(live), None) | (None, Some(live)) => {
                    found.insert(version, live);
                }
                (Some(by_commit), Some(by_checkpoint)) => {
                    assert_eq!(by_commit, by_checkpoint, "version {version}");
                    found.insert(version, by_commit);
                }
            }
        }
        found
    }

    async fn live_paths(&self) -> BTreeSet<String> {
        let snapshot = self.read().await.unwrap().unwrap();
        Self::live(&snapshot).keys().cloned().collect()
    }

    async fn text(&self, path: &Path) -> Option<String> {
        let found = self.store.read(path).await.unwrap()?;
        Some(String::from_utf8(found.bytes.to_vec()).unwrap())
    }

    async fn names(&self) -> Vec<String> {
        let listed = self.store.list(&Path::from(DELTA_LOG)).await.unwrap();
        let name = |path: &Path| path.filename().unwrap().to_owned();
        let names: BTreeSet<String> = listed.iter().map(|object| name(&object.path)).collect();
        names.into_iter().collect()
    }

    async fn put(&self, path: &Path, text: impl Into<Bytes>) {
        self.store.delete(path).await.unwrap();
        self.store.create(path, text.into()).await.unwrap();
    }

    async fn remove_object(&self, path: &Path) {
        self.store.delete(path).await.unwrap();
    }

    /// A log with these versions, of which each replaces a file. Its snapshots.
    async fn fill(&self, versions: u64) -> (Snapshot, BTreeMap<u64, BTreeSet<String>>) {
        let mut snapshot = None;
        let mut expected = BTreeMap::new();
        for version in 0..versions {
            let (new, old) = (version.to_string(), version.saturating_sub(1).to_string());
            let mut change = difference(&[&new], &[&old]);
            if version == 0 {
                change = difference(&["base", &new], &[]);
            }
            let at = info(version);
            let committed = self.commit(snapshot.as_ref(), &change, &at);
            snapshot = Some(committed.await.unwrap().done());
            expected.insert(version, paths(&["base", &new]));
        }
        (snapshot.unwrap(), expected)
    }
}

fn encode(actions: impl IntoIterator<Item = Action>) -> Vec<u8> {
    let mut commit = Vec::new();
    for action in actions {
        action.encode(&mut commit);
    }
    commit
}

/// All that a snapshot contains, for comparisons.
fn content(snapshot: &Snapshot) -> (u64, String, LiveFiles) {
    let actions = String::from_utf8(encode(snapshot.state.actions())).unwrap();
    (snapshot.version, actions, snapshot.state.live.clone())
}

fn actions_of(commit: &str) -> Vec<Value> {
    commit
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn without_a_log_there_is_no_snapshot() {
    let log = log();
    assert!(log.read().await.unwrap().is_none());
    assert_eq!(log.reachable().await.unwrap(), BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn commits_add_remove_and_replace_files() {
    let log = log();
    let commit = log
        .commit(None, &difference(&["a", "b"], &[]), &info(0))
        .await;
    let first = commit.unwrap().done();
    let live = LiveFile {
        rows: Some(10),
        bytes: 1000,
        is_altered: false,
    };
    assert_eq!(DeltaLog::live(&first)[&path("a")], live);
    assert_eq!(DeltaLog::deviations(&first), [] as [String; 0]);
    let change = difference(&["c"], &["a"]);
    let second = log
        .commit(Some(&first), &change, &info(1))
        .await
        .unwrap()
        .done();
    assert_eq!(log.live_paths().await, paths(&["b", "c"]));
    let read = log.read().await.unwrap().unwrap();
    assert_eq!(content(&read), content(&second));
    // A file that is removed and added is added.
    let change = difference(&["b"], &["b"]);
    let third = log
        .commit(Some(&second), &change, &info(2))
        .await
        .unwrap()
        .done();
    assert_eq!(log.live_paths().await, paths(&["b", "c"]));
    let snapshots = log.snapshots().await;
    let expected = [paths(&["a", "b"]), paths(&["b", "c"]), paths(&["b", "c"])];
    assert_eq!(snapshots.into_values().collect::<Vec<_>>(), expected);
    assert_eq!(log.reachable().await.unwrap(), paths(&["a", "b", "c"]));
    assert_eq!(log.names().await.len(), 3);
    assert_eq!(third.version, 2);
}

#[tokio::test(start_paused = true)]
async fn a_commit_has_the_actions_of_the_protocol() {
    let log = log();
    let commit = log.commit(None, &difference(&["a"], &[]), &info(0)).await;
    let first = commit.unwrap().done();
    let change = difference(&[], &["a"]);
    log.commit(Some(&first), &change, &info(1))
        .await
        .unwrap()
        .done();

    let created = actions_of(&log.text(&commit_path(0)).await.unwrap());
    let commit_info = &created[0]["commitInfo"];
    assert_eq!(commit_info["timestamp"], 1_790_812_800_000_u64);
    assert_eq!(commit_info["userMetadata"].as_str(), info(0).run.as_deref());
    assert_eq!(commit_info["txnId"].as_str().unwrap().len(), 36);
    let protocol = json!({"minReaderVersion": 1, "minWriterVersion": 2});
    assert_eq!(created[1], json!({"protocol": protocol}));
    let metadata = &created[2]["metaData"];
    assert_eq!(metadata["name"], "cdrs");
    assert_eq!(metadata["partitionColumns"], json!(["dt"]));
    assert_eq!(
        metadata["format"],
        json!({"provider": "parquet", "options": {}})
    );
    let configuration = json!({
        "delta.checkpointInterval": "50",
        "delta.dataSkippingStatsColumns": "direction,source_day,call_time,disposition,\
            duration_seconds,per_minute_usd,charge_usd,forward_fee_usd",
    });
    assert_eq!(metadata["configuration"], configuration);
    let schema: Value = serde_json::from_str(metadata["schemaString"].as_str().unwrap()).unwrap();
    let types = schema["fields"].as_array().unwrap().iter();
    let types = types.map(|field| {
        let (name, kind) = (
            field["name"].as_str().unwrap(),
            field["type"].as_str().unwrap(),
        );
        format!(
            "{name}: {kind}{}",
            if field["nullable"] == true { "?" } else { "" }
        )
    });
    assert_eq!(
        types.collect::<Vec<_>>().join(", "),
        "call_id: string?, parent_call_id: string?, direction: string, source_day: date, \
         call_time: timestamp, from_number: string?, to_number: string?, disposition: string?, \
         destination: string?, sip_trunk: string?, answered_by: string?, \
         duration_seconds: integer?, per_minute_usd: decimal(18,9)?, charge_usd: decimal(18,9)?, \
         forward_fee_usd: decimal(18,9)?, extra: string?, dt: date"
    );
    let add = json!({
        "path": path("a"),
        "partitionValues": {"dt": "2026-10-01"},
        "size": 1000,
        "modificationTime": 0,
        "dataChange": true,
        "stats": "{\"numRecords\":10}",
    });
    assert_eq!(created[3..], [json!({"add": add})]);

    let removed = actions_of(&log.text(&commit_path(1)).await.unwrap());
    let remove = json!({
        "path": path("a"),
        "deletionTimestamp": 1_790_812_801_000_u64,
        "dataChange": true,
        "extendedFileMetadata": true,
        "partitionValues": {"dt": "2026-10-01"},
        "size": 1000,
    });
    assert_eq!(removed[1..], [json!({"remove": remove})]);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_replaces_the_commits_before_it() {
    let log = log();
    let (last, _) = log.fill(53).await;
    let before = log.read().await.unwrap().unwrap();
    let hint = log.text(&hint_path()).await.unwrap();
    // Protocol, metadata, two live files and the removed ones.
    assert_eq!(hint, "{\"version\":50,\"size\":54}");
    for version in 0..=50 {
        log.remove_object(&commit_path(version)).await;
    }
    let after = log.read().await.unwrap().unwrap();
    assert_eq!(content(&after), content(&before));
    assert_eq!(content(&after), content(&last));
    // The hint is not needed.
    log.remove_object(&hint_path()).await;
    let change = difference(&["new"], &["base"]);
    let next = log
        .commit(Some(&after), &change, &info(60))
        .await
        .unwrap()
        .done();
    assert_eq!(next.version, 53);
    assert_eq!(log.live_paths().await, paths(&["52", "new"]));
    let snapshots = log.snapshots().await;
    assert_eq!(
        snapshots.keys().copied().collect::<Vec<_>>(),
        [50, 51, 52, 53]
    );
}

#[tokio::test(start_paused = true)]
async fn large_checkpoints_have_several_row_groups() {
    let log = log();
    let names: Vec<String> = (0..2500).map(|name| name.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let commit = log.commit(None, &difference(&names, &[]), &info(0)).await;
    let snapshot = commit.unwrap().done();
    log.write_checkpoint(&snapshot).await.unwrap();
    log.remove_object(&commit_path(0)).await;
    // Version 0 is readable by its checkpoint.
    let read = log.read().await.unwrap().unwrap();
    assert_eq!(content(&read), content(&snapshot));
}

#[tokio::test(start_paused = true)]
async fn of_two_commits_to_one_snapshot_one_succeeds() {
    let objects = Arc::default();
    let (one, other) = (log_in(store(&objects)), log_in(store(&objects)));
    let created = one
        .commit(None, &difference(&["a"], &[]), &info(0))
        .await
        .unwrap()
        .done();
    let conflict = other.commit(None, &difference(&["b"], &[]), &info(0)).await;
    assert!(matches!(conflict.unwrap(), Committed::Conflict));
    let base = other.read().await.unwrap().unwrap();
    let change = difference(&["b"], &[]);
    other
        .commit(Some(&base), &change, &info(1))
        .await
        .unwrap()
        .done();
    let conflict = one
        .commit(Some(&created), &difference(&[], &["a"]), &info(1))
        .await;
    assert!(matches!(conflict.unwrap(), Committed::Conflict));
    assert_eq!(one.live_paths().await, paths(&["a", "b"]));
}

#[tokio::test(start_paused = true)]
async fn a_commit_to_a_snapshot_that_expired_is_a_conflict() {
    let objects = Arc::default();
    let (one, other) = (log_in(store(&objects)), log_in(store(&objects)));
    let (base, _) = one.fill(3).await;
    let change = difference(&["b"], &["base"]);
    let newest = other
        .commit(Some(&base), &change, &info(3))
        .await
        .unwrap()
        .done();
    other.expire(&newest, Timestamp::MAX).await.unwrap().done();
    // The number of the commit is free again.
    let names = [
        "00000000000000000003.checkpoint.parquet",
        "_last_checkpoint",
    ];
    assert_eq!(other.names().await, names);
    let conflict = one
        .commit(Some(&base), &difference(&["c"], &[]), &info(4))
        .await;
    assert!(matches!(conflict.unwrap(), Committed::Conflict));
    let conflict = one.commit(None, &difference(&["c"], &[]), &info(4)).await;
    assert!(matches!(conflict.unwrap(), Committed::Conflict));
    assert_eq!(other.names().await, names);
    assert_eq!(one.live_paths().await, paths(&["2", "b"]));
    let change = difference(&["c"], &[]);
    other
        .commit(Some(&newest), &change, &info(5))
        .await
        .unwrap()
        .done();
    assert_eq!(one.live_paths().await, paths(&["2", "b", "c"]));
}

#[tokio::test(start_paused = true)]
async fn expired_versions_are_unreadable() {
    let log = log();
    let (newest, all) = log.fill(8).await;
    let expire = async |limit| log.expire(&newest, limit).await.unwrap().done();
    // Version 0 was replaced at second 1.
    expire(time(0)).await;
    assert_eq!(log.snapshots().await, all);
    assert_eq!(log.names().await.len(), 8);

    expire(time(3)).await;
    let since_3 = all.clone().split_off(&3);
    assert_eq!(log.snapshots().await, since_3);
    let hint = log.text(&hint_path()).await.unwrap();
    assert_eq!(hint, "{\"version\":3,\"size\":4}");
    assert_eq!(
        log.reachable().await.unwrap(),
        paths(&["base", "3", "4", "5", "6", "7"])
    );
    // Again, nothing changes.
    let names = log.names().await;
    expire(time(3)).await;
    assert_eq!(log.names().await, names);

    expire(time(5)).await;
    assert_eq!(log.snapshots().await, all.clone().split_off(&5));
    let after = expire(Timestamp::MAX).await;
    assert_eq!(log.snapshots().await, all.clone().split_off(&7));
    assert_eq!(
        content(&log.read().await.unwrap().unwrap()),
        content(&after)
    );
}

#[tokio::test(start_paused = true)]
async fn a_log_without_history_does_not_name_removed_files() {
    for versions in [51, 53] {
        let log = log();
        let (newest, all) = log.fill(versions).await;
        // Objects of other programs.
        for name in ["00000000000000000002.crc", "_staged_commits/a.json"] {
            let object = Path::parse(format!("_delta_log/{name}")).unwrap();
            log.put(&object, path("1")).await;
        }
        let after = log.expire(&newest, Timestamp::MAX).await.unwrap().done();
        // The checkpoint of version 50 names removed files, so that version 51 replaces it.
        let last = if versions == 51 { 51 } else { versions - 1 };
        let live = all.last_key_value().unwrap().1.clone();
        assert_eq!(
            log.snapshots().await,
            BTreeMap::from([(last, live.clone())])
        );
        let names = [
            format!("{last:020}.checkpoint.parquet"),
            "_last_checkpoint".to_owned(),
        ];
        assert_eq!(log.names().await, names);
        let checkpoint = log
            .store
            .read(&checkpoint_path(last))
            .await
            .unwrap()
            .unwrap();
        let mut named = Vec::new();
        let see = |action: Action| {
            assert!(action.remove.is_none());
            named.extend(action.add.map(|add| add.path));
        };
        checkpoint::decode(checkpoint.bytes, see).unwrap();
        assert_eq!(BTreeSet::from_iter(named), live);
        let change = difference(&["new"], &[]);
        log.commit(Some(&after), &change, &info(99))
            .await
            .unwrap()
            .done();
        let mut live = live;
        live.extend(paths(&["new"]));
        assert_eq!(log.live_paths().await, live);
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_of_another_process_does_not_keep_removed_files() {
    let log = log();
    let (newest, all) = log.fill(4).await;
    // It has this version from before the end of the history.
    log.write_checkpoint(&newest).await.unwrap();
    let path = checkpoint_path(newest.version);
    let before = log.store.read(&path).await.unwrap().unwrap();
    let after = log.expire(&newest, Timestamp::MAX).await.unwrap().done();
    assert_eq!(
        log.use_checkpoint(after.version).await.unwrap(),
        Some(false)
    );
    // Readers may have been reading the old one: it was not overwritten.
    assert!(after.version > newest.version);
    assert_ne!(
        before.bytes,
        log.store
            .read(&checkpoint_path(after.version))
            .await
            .unwrap()
            .unwrap()
            .bytes
    );
    let (_, live) = all.last_key_value().unwrap();
    assert_eq!(
        log.snapshots().await,
        BTreeMap::from([(after.version, live.clone())])
    );
    // Nothing is left to do.
    let names = log.names().await;
    let again = log.expire(&after, Timestamp::MAX).await.unwrap().done();
    assert_eq!(again.version, after.version);
    assert_eq!(log.names().await, names);
}

#[tokio::test(start_paused = true)]
async fn an_old_snapshot_does_not_expire_a_newer_one() {
    let log = log();
    let (newest, all) = log.fill(3).await;
    let change = difference(&["new"], &[]);
    log.commit(Some(&newest), &change, &info(3))
        .await
        .unwrap()
        .done();
    let conflict = log.expire(&newest, Timestamp::MAX).await.unwrap();
    assert!(matches!(conflict, Committed::Conflict));
    assert_eq!(log.snapshots().await.len(), all.len() + 1);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_is_written_after_its_version_expired_is_removed() {
    let objects = Arc::default();
    let (one, other) = (log_in(store(&objects)), log_in(store(&objects)));
    let (base, _) = one.fill(3).await;
    let change = difference(&["b"], &["base"]);
    let newest = other
        .commit(Some(&base), &change, &info(3))
        .await
        .unwrap()
        .done();
    other.expire(&newest, Timestamp::MAX).await.unwrap().done();
    let names = other.names().await;
    one.write_checkpoint(&base).await.unwrap();
    assert_eq!(other.names().await, names);
}

/// The other process writes the checkpoint, and is slower to look whether it is still needed.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_another_process_relies_on_stays() {
    let objects = Arc::default();
    let (one, other) = (log_in(store(&objects)), log_in(store(&objects)));
    let (newest, all) = one.fill(3).await;
    one.expire(&newest, Timestamp::MAX).await.unwrap().done();
    // Its bytes are equal, so that the other process takes it for its own.
    let mut snapshot = newest.clone();
    snapshot.state.forget_removed(i64::MAX);
    other.write_checkpoint(&snapshot).await.unwrap();
    assert_eq!(one.snapshots().await, all.clone().split_off(&2));
    other.expire(&newest, Timestamp::MAX).await.unwrap().done();
    assert_eq!(one.snapshots().await, all.clone().split_off(&2));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_hint_is_replaced_by_the_next_checkpoint() {
    for wrong in [
        "mist",
        "{\"version\":99,\"size\":1}",
        "{\"version\":1,\"size\":1}",
    ] {
        let log = log();
        let (newest, _) = log.fill(4).await;
        log.put(&hint_path(), wrong).await;
        log.add_checkpoint(&newest).await.unwrap();
        let hint = log.text(&hint_path()).await.unwrap();
        assert_eq!(hint, "{\"version\":3,\"size\":7}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_never_contains_phone_numbers() {
    const NUMBER: &str = "33187000001";
    let spool = tempfile::tempdir().unwrap();
    let options = ParquetOptions {
        compression: Compression::UNCOMPRESSED,
        row_group_rows: 10,
        row_group_bytes: usize::MAX,
    };
    let mut change = difference(&["a"], &[]);
    let target = spool.path().join("file");
    let mut writer = SpoolWriter::try_new(&target, change.add[0].slice, &options).unwrap();
    let text = || Some(NUMBER.into());
    let record = Record {
        call_id: text(),
        parent_call_id: text(),
        from_number: text(),
        to_number: text(),
        disposition: text(),
        destination: text(),
        sip_trunk: text(),
        answered_by: text(),
        ..Record::default()
    };
    writer.append(&record).unwrap();
    let written = writer.end().unwrap().finish(Vec::new()).unwrap();
    change.add[0].statistics = written.statistics;
    let log = log();
    let snapshot = log.commit(None, &change, &info(0)).await.unwrap().done();
    log.write_checkpoint(&snapshot).await.unwrap();
    let commit = log.text(&commit_path(0)).await.unwrap();
    assert!(commit.contains("1970-01-01T00:00:00.000Z"), "{commit}");
    assert!(!commit.contains(NUMBER), "{commit}");
    log.remove_object(&commit_path(0)).await;
    let (_, actions, _) = content(&log.read().await.unwrap().unwrap());
    assert!(!actions.contains(NUMBER), "{actions}");
}

#[tokio::test]
async fn a_log_on_disk_has_the_same_versions() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::new(directory.path(), 0o644);
    store.prepare().unwrap();
    let log = log_in(Arc::new(store));
    let (newest, all) = log.fill(4).await;
    assert_eq!(log.snapshots().await, all);
    let change = difference(&["c"], &[]);
    log.commit(Some(&newest), &change, &info(9))
        .await
        .unwrap()
        .done();
    let conflict = log.commit(Some(&newest), &change, &info(9)).await.unwrap();
    assert!(matches!(conflict, Committed::Conflict));
    let newest = log.read().await.unwrap().unwrap();
    log.expire(&newest, Timestamp::MAX).await.unwrap().done();
    assert_eq!(log.live_paths().await, paths(&["base", "3", "c"]));
    assert_eq!(log.names().await.len(), 2);
}

/// A step of a random history.
#[derive(Clone, Debug)]
enum Step {
    /// Adds and removes files.
    Commit(Vec<u8>, Vec<u8>),
    /// Another program adds a file.
    Foreign(u8),
    /// Expires versions up to that many before the newest.
    Expire(u64),
    ExpireAll,
    /// Reads the log again.
    Read,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let names = || prop::collection::vec(0_u8..20, 0..4);
    let step = prop_oneof![
        12 => (names(), names()).prop_map(|(add, remove)| Step::Commit(add, remove)),
        1 => (0_u8..20).prop_map(Step::Foreign),
        1 => (0_u64..60).prop_map(Step::Expire),
        1 => Just(Step::ExpireAll),
        2 => Just(Step::Read),
    ];
    prop::collection::vec(step, 1..130)
}

/// A log and what it should contain.
struct Model {
    log: DeltaLog,
    snapshot: Option<Snapshot>,
    /// The live paths of readable versions.
    readable: BTreeMap<u64, BTreeSet<String>>,
}

impl Model {
    fn newest(&self) -> (u64, BTreeSet<String>) {
        let last = self.readable.last_key_value();
        last.map(|(version, live)| (*version, live.clone()))
            .unwrap_or_default()
    }

    async fn take(&mut self, step: &Step) {
        let (newest, mut live) = self.newest();
        let next = if self.readable.is_empty() {
            0
        } else {
            newest + 1
        };
        match step {
            Step::Commit(add, remove) => {
                let add: BTreeSet<&u8> = add.iter().collect();
                let add: Vec<String> = add.into_iter().map(u8::to_string).collect();
                let remove: Vec<String> = remove.iter().map(u8::to_string).collect();
                let change = difference(
                    &add.iter().map(String::as_str).collect::<Vec<_>>(),
                    &remove.iter().map(String::as_str).collect::<Vec<_>>(),
                );
                let at = info(next);
                let committed = self.log.commit(self.snapshot.as_ref(), &change, &at);
                match committed.await.unwrap() {
                    Committed::Done(snapshot) => self.snapshot = Some(snapshot),
                    // After the commit of another program.
                    Committed::Conflict => return self.read().await,
                }
                live.retain(|path| !change.remove.contains(path));
                live.extend(change.add.into_iter().map(|file| file.path));
                self.readable.insert(next, live);
            }
            Step::Foreign(name) => {
                if next == 0 {
                    return;
                }
                let mut action = add(&file(&name.to_string()));
                action.stats = None;
                live.insert(action.path.clone());
                let action = Action {
                    add: Some(action),
                    ..Action::default()
                };
                let commit_info = Action {
                    commit_info: Some(json!({"timestamp": time(next).as_millisecond()})),
                    ..Action::default()
                };
                let bytes = encode([action, commit_info]);
                self.log.put(&commit_path(next), bytes).await;
                self.readable.insert(next, live);
            }
            Step::Expire(ago) => self.expire(Some(newest.saturating_sub(*ago))).await,
            Step::ExpireAll => self.expire(None).await,
            Step::Read => self.read().await,
        }
    }

    async fn read(&mut self) {
        let read = self.log.read().await.unwrap();
        let live = read
            .as_ref()
            .map(|snapshot| DeltaLog::live(snapshot).keys().cloned());
        assert_eq!(
            live.into_iter().flatten().collect::<BTreeSet<_>>(),
            self.newest().1
        );
        if let (Some(read), Some(known)) = (&read, &self.snapshot)
            && read.version == known.version
        {
            assert_eq!(content(read).2, content(known).2);
        }
        self.snapshot = read;
    }

    async fn expire(&mut self, limit: Option<u64>) {
        let Some(snapshot) = &self.snapshot else {
            return;
        };
        let (newest, live) = self.newest();
        let at = limit.map_or(Timestamp::MAX, time);
        let snapshot = match self.log.expire(snapshot, at).await.unwrap() {
            Committed::Done(snapshot) => snapshot,
            Committed::Conflict => return self.read().await,
        };
        match limit {
            Some(limit) => self.readable = self.readable.split_off(&limit),
            // A checkpoint of the newest version may name removed files. Another version has none.
            None => {
                assert!([newest, newest + 1].contains(&snapshot.version));
                self.readable = BTreeMap::from([(snapshot.version, live)]);
            }
        }
        self.snapshot = Some(snapshot);
        assert_eq!(self.log.snapshots().await, self.readable);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_history_leaves_the_versions_of_its_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut model = Model {
                log: log(),
                snapshot: None,
                readable: BTreeMap::new(),
            };
            for step in &steps {
                model.take(step).await;
            }
            model.read().await;
            assert_eq!(model.log.snapshots().await, model.readable);
            let reachable = model.readable.values().flatten().cloned().collect();
            assert_eq!(model.log.reachable().await.unwrap(), reachable);
        });
    }
}
