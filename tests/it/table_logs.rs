//! Readers of the logs of table formats, independent of the program.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use bytes::Bytes;
use cdrlake::Slice;
use cdrlake::internals::{LakeStore, layout};
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::iceberg_logs;
use crate::support::read;

/// Values of `lake.tables` with which sweeps are done. The first is the plain layout.
pub(crate) const TABLES: [&str; 2] = ["", "delta,iceberg"];

/// A format whose logs can be read.
struct Format {
    /// Its name in `lake.json`.
    name: &'static str,
    directory: &'static str,
    /// The snapshots that a reader can open, in order. The last is the newest.
    /// Takes the URI of the lake.
    snapshots: fn(&Objects, &str) -> Vec<Snapshot>,
}

const FORMATS: [Format; 2] = [
    Format {
        name: "delta",
        directory: layout::DELTA_LOG,
        snapshots: |objects, _| delta_snapshots(objects),
    },
    Format {
        name: "iceberg",
        directory: layout::ICEBERG_LOG,
        snapshots: iceberg_logs::snapshots,
    },
];

/// The objects of a log, by their name in its directory.
pub(crate) type Objects = BTreeMap<String, Bytes>;

/// What a snapshot contains about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoggedFile {
    pub(crate) bytes: i64,
    pub(crate) rows: Option<i64>,
    pub(crate) partition: Option<String>,
}

/// The files of a snapshot, by their path in the lake.
pub(crate) type Files = BTreeMap<String, LoggedFile>;

/// A version of the table that a reader can open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// It rises with time.
    pub(crate) version: u64,
    pub(crate) files: Files,
}

impl Snapshot {
    pub(crate) fn paths(&self) -> BTreeSet<String> {
        self.files.keys().cloned().collect()
    }
}

/// The formats of the lake.
async fn formats(store: &dyn LakeStore) -> Vec<&'static Format> {
    let identity = store.read(&layout::identity()).await.unwrap();
    let Some(identity) = identity else {
        return Vec::new();
    };
    let identity: Value = serde_json::from_slice(&identity.bytes).unwrap();
    let tables = identity["tables"].as_array().cloned().unwrap_or_default();
    let format = |name: &Value| {
        let mut formats = FORMATS.iter();
        let found = formats.find(|format| *name == format.name);
        found.unwrap_or_else(|| panic!("no reader for {name}"))
    };
    tables.iter().map(format).collect()
}

/// Whether the lake has logs.
pub(crate) async fn has_logs(store: &dyn LakeStore) -> bool {
    !formats(store).await.is_empty()
}

async fn objects(store: &dyn LakeStore, directory: &str) -> Objects {
    let mut objects = Objects::new();
    for object in store.list(&Path::from(directory)).await.unwrap() {
        let found = store.read(&object.path).await.unwrap().unwrap();
        let name = object.path.as_ref().strip_prefix(directory).unwrap();
        objects.insert(name.trim_start_matches('/').to_owned(), found.bytes);
    }
    objects
}

/// The snapshots of every log that a reader can open. A log has at least one.
pub(crate) async fn snapshots(store: &dyn LakeStore) -> Vec<Vec<Snapshot>> {
    let mut logs = Vec::new();
    for format in formats(store).await {
        let snapshots = (format.snapshots)(&objects(store, format.directory).await, &store.uri());
        assert!(!snapshots.is_empty(), "{} has no snapshot", format.name);
        logs.push(snapshots);
    }
    logs
}

/// The newest snapshot of every log, while another process may commit.
pub(crate) async fn newest_snapshots(store: &dyn LakeStore) -> Vec<Snapshot> {
    let mut newest = Vec::new();
    for format in formats(store).await {
        loop {
            let before = objects(store, format.directory).await;
            let after = store.list(&Path::from(format.directory)).await.unwrap();
            // An object that was created during a listing may be missing in it.
            if before.len() == after.len() {
                newest.extend((format.snapshots)(&before, &store.uri()).pop());
                break;
            }
        }
    }
    newest
}

/// The version of the newest snapshot of every log.
pub(crate) async fn newest_versions(store: &dyn LakeStore) -> Vec<u64> {
    let logs = snapshots(store).await;
    logs.iter().map(|log| log.last().unwrap().version).collect()
}

/// Ids of every slice's rows in a file of the table. Panics if the file is incomplete.
pub(crate) async fn ids_in(store: &dyn LakeStore, path: &str) -> Vec<String> {
    let copy = store.local_copy(&Path::from(path)).await.unwrap();
    let copy = copy.unwrap_or_else(|| panic!("{path} does not exist"));
    let batch = read(&copy.path);
    let ids = batch.column_by_name("call_id").unwrap().as_string::<i32>();
    let mut ids: Vec<String> = ids.iter().map(|id| id.unwrap().to_owned()).collect();
    ids.sort();
    ids
}

/// Ids of every slice's rows in a snapshot. Panics if a file does not exist, is incomplete or
/// differs from what the log contains about it, or if a slice has two files. `read` keeps the ids
/// of files, because snapshots share them.
pub(crate) async fn rows_of(
    store: &dyn LakeStore,
    snapshot: &Snapshot,
    read: &mut BTreeMap<String, Vec<String>>,
) -> BTreeMap<Slice, Vec<String>> {
    let mut rows = BTreeMap::new();
    for (path, logged) in &snapshot.files {
        let context = format!("{path} in version {}", snapshot.version);
        let state = store.state(&Path::from(&**path)).await.unwrap();
        let state = state.unwrap_or_else(|| panic!("{context} does not exist"));
        assert_eq!(state.size_bytes as i64, logged.bytes, "{context}");
        if !read.contains_key(path) {
            read.insert(path.clone(), ids_in(store, path).await);
        }
        let ids = read[path].clone();
        assert!(
            logged.rows.is_none_or(|rows| rows == ids.len() as i64),
            "{context}: {logged:?}"
        );
        let slice = layout::leased_slice(&Path::from(&**path));
        let slice = slice.unwrap_or_else(|| panic!("{context} belongs to no slice"));
        assert_eq!(
            logged.partition,
            Some(slice.period.first_day().to_string()),
            "{context}"
        );
        assert_eq!(rows.insert(slice, ids), None, "{context}: a slice twice");
    }
    rows
}

/// The current file of every slice that has one, by the ledger.
pub(crate) async fn current_files(store: &dyn LakeStore) -> BTreeMap<Slice, String> {
    let mut files = BTreeMap::new();
    for object in store.list(&Path::from(layout::LEDGER)).await.unwrap() {
        let slice = layout::ledger_slice(&object.path).unwrap();
        let entry = store.read(&object.path).await.unwrap().unwrap();
        let entry: Value = serde_json::from_slice(&entry.bytes).unwrap();
        if let Some(path) = entry["committed"]["file"]["path"].as_str() {
            files.insert(slice, path.to_owned());
        }
    }
    files
}

/// Panics unless the newest snapshot of every log has exactly the files that the ledger names.
pub(crate) async fn assert_logs_equal_the_ledger(store: &dyn LakeStore, context: &str) {
    let current: BTreeSet<String> = current_files(store).await.into_values().collect();
    for log in snapshots(store).await {
        assert_eq!(log.last().unwrap().paths(), current, "{context}");
    }
}

/// Panics unless a lake with logs has no file in its table but the current ones.
pub(crate) async fn assert_only_current_files(store: &dyn LakeStore, context: &str) {
    if has_logs(store).await {
        let current: BTreeSet<String> = current_files(store).await.into_values().collect();
        let table = store.list(&Path::from(layout::TABLE)).await.unwrap();
        let table: BTreeSet<String> = table.iter().map(|it| it.path.to_string()).collect();
        assert_eq!(table, current, "{context}");
    }
}

/// The same, and panics if a log mentions another file or one of the `secrets`.
pub(crate) async fn assert_nothing_is_left(store: &dyn LakeStore, secrets: &[&str], context: &str) {
    assert_only_current_files(store, context).await;
    let current: BTreeSet<String> = current_files(store).await.into_values().collect();
    for format in formats(store).await {
        for (name, bytes) in objects(store, format.directory).await {
            let text = decoded(&name, &bytes);
            for secret in secrets {
                assert!(!text.contains(secret), "{context}: {name}: {text}");
            }
            let words = text.split(['"', '\\', '\n']);
            for file in words.filter(|word| word.ends_with(".parquet")) {
                // Iceberg has URIs.
                let path = file.strip_prefix(&format!("{}/", store.uri()));
                let path = percent_decoded(path.unwrap_or(file));
                let is_of_the_log = !path.contains('/');
                assert!(
                    is_of_the_log || current.contains(&path),
                    "{context}: {name} mentions {path}"
                );
            }
        }
    }
}

/// The text of an object of a log: of a Parquet or Avro file, all its values.
fn decoded(name: &str, bytes: &Bytes) -> String {
    if bytes.starts_with(b"Obj") {
        let records = iceberg_logs::records(bytes);
        return serde_json::to_string(&records).unwrap();
    }
    if !name.ends_with(".parquet") {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut values = Vec::new();
    for batch in batches(bytes) {
        for column in batch.columns() {
            collect_values(column, &mut values);
        }
    }
    values.join("\n")
}

fn collect_values(array: &dyn Array, values: &mut Vec<String>) {
    match array.data_type() {
        DataType::Struct(_) => {
            for column in array.as_struct().columns() {
                collect_values(column, values);
            }
        }
        DataType::Map(..) => {
            for column in array.as_map().entries().columns() {
                collect_values(column, values);
            }
        }
        DataType::List(_) => collect_values(array.as_list::<i32>().values(), values),
        DataType::Utf8 => {
            let texts = array.as_string::<i32>().iter().flatten();
            values.extend(texts.map(str::to_owned));
        }
        DataType::Int64 => {
            let numbers = array.as_primitive::<Int64Type>().iter().flatten();
            values.extend(numbers.map(|number| number.to_string()));
        }
        DataType::Int32 | DataType::Boolean => {}
        other => panic!("a column of {other}"),
    }
}

fn batches(bytes: &Bytes) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).unwrap();
    reader.build().unwrap().map(Result::unwrap).collect()
}

/// Paths in the log of Delta Lake are encoded as in URLs.
fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if let (b'%', [high, low, tail @ ..]) = (first, tail) {
            let digits = [*high, *low];
            let digits = std::str::from_utf8(&digits).unwrap();
            decoded.push(u8::from_str_radix(digits, 16).unwrap());
            rest = tail;
        } else {
            decoded.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(decoded).unwrap()
}

/// The snapshots of a Delta Lake log. Panics if the newest version cannot be opened, by its hint or
/// without it, or if a version has different files by different checkpoints.
fn delta_snapshots(objects: &Objects) -> Vec<Snapshot> {
    let version = |name: &str, suffix: &str| {
        let digits = name.strip_suffix(suffix)?;
        (digits.len() == 20).then(|| digits.parse::<u64>().unwrap())
    };
    let of_kind = |suffix: &str| -> BTreeMap<u64, &Bytes> {
        let objects = objects.iter();
        let found = objects.filter_map(|(name, bytes)| Some((version(name, suffix)?, bytes)));
        found.collect()
    };
    let (commits, checkpoints) = (of_kind(".json"), of_kind(".checkpoint.parquet"));
    let newest = commits.keys().chain(checkpoints.keys()).max().copied();
    let Some(newest) = newest else {
        return Vec::new();
    };
    let mut found: BTreeMap<u64, Files> = BTreeMap::new();
    let bases = checkpoints.iter().map(|(&version, bytes)| {
        let first = checkpoint_files(bytes);
        (version, first)
    });
    let from_the_start = commits.contains_key(&0).then(|| {
        let mut files = Files::new();
        apply_commit(&mut files, commits[&0]);
        (0, files)
    });
    for (mut version, mut files) in from_the_start.into_iter().chain(bases) {
        loop {
            if let Some(other) = found.insert(version, files.clone()) {
                assert_eq!(other, files, "version {version} by another checkpoint");
            }
            version += 1;
            let Some(commit) = commits.get(&version) else {
                break;
            };
            apply_commit(&mut files, commit);
        }
    }
    if let Some(hint) = objects.get("_last_checkpoint") {
        let hint: Value = serde_json::from_slice(hint).unwrap();
        let hint = hint["version"].as_u64().unwrap();
        assert!(checkpoints.contains_key(&hint), "no checkpoint {hint}");
        let needed = hint + 1..=newest;
        let mut missing = needed.filter(|version| !commits.contains_key(version));
        assert_eq!(missing.next(), None, "after the checkpoint of the hint");
    }
    assert!(found.contains_key(&newest), "{newest} is not readable");
    let found = found.into_iter();
    found
        .map(|(version, files)| Snapshot { version, files })
        .collect()
}

fn apply_commit(files: &mut Files, commit: &[u8]) {
    let text = std::str::from_utf8(commit).unwrap();
    let actions = text.lines().map(|line| {
        let action: Value = serde_json::from_str(line).unwrap();
        action
    });
    let mut changed = BTreeSet::new();
    for action in actions {
        let path = |action: &Value| percent_decoded(action["path"].as_str().unwrap());
        if let Some(add) = action.get("add") {
            let stats = add["stats"].as_str();
            let stats = stats.map(|stats| serde_json::from_str::<Value>(stats).unwrap());
            let file = LoggedFile {
                bytes: add["size"].as_i64().unwrap(),
                rows: stats.and_then(|stats| stats["numRecords"].as_i64()),
                partition: add["partitionValues"]["dt"].as_str().map(str::to_owned),
            };
            assert!(changed.insert(path(add)), "a file twice: {add}");
            files.insert(path(add), file);
        }
        if let Some(remove) = action.get("remove") {
            assert!(changed.insert(path(remove)), "a file twice: {remove}");
            let removed = files.remove(&path(remove));
            assert!(removed.is_some(), "not in the version before: {remove}");
        }
    }
}

fn checkpoint_files(checkpoint: &Bytes) -> Files {
    let mut files = Files::new();
    for batch in batches(checkpoint) {
        let add = batch.column_by_name("add").unwrap().as_struct();
        let paths = add.column_by_name("path").unwrap().as_string::<i32>();
        let sizes = add.column_by_name("size").unwrap();
        let sizes = sizes.as_primitive::<Int64Type>();
        let stats = add.column_by_name("stats").unwrap().as_string::<i32>();
        let partitions = add.column_by_name("partitionValues").unwrap().as_map();
        for row in (0..add.len()).filter(|&row| add.is_valid(row)) {
            let rows = stats.is_valid(row).then(|| {
                let stats: Value = serde_json::from_str(stats.value(row)).unwrap();
                stats["numRecords"].as_i64()
            });
            let partition = partitions.value(row);
            let (keys, values) = (partition.column(0), partition.column(1));
            assert_eq!(
                keys.as_string::<i32>().iter().flatten().collect::<Vec<_>>(),
                ["dt"]
            );
            let file = LoggedFile {
                bytes: sizes.value(row),
                rows: rows.flatten(),
                partition: Some(values.as_string::<i32>().value(0).to_owned()),
            };
            let path = percent_decoded(paths.value(row));
            assert_eq!(files.insert(path.clone(), file), None, "{path} twice");
        }
    }
    files
}
