//! A reader of the logs of Apache Iceberg, independent of the program.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use jiff::ToSpan;
use jiff::civil::{Date, date};
use serde_json::{Map, Value};

use crate::table_logs::{Files, LoggedFile, Objects, Snapshot};

/// The snapshots of a table without a catalog. Panics if a reader cannot open the current snapshot
/// of a metadata file, or one of those that the newest metadata file lists, or if the list of
/// another snapshot is left without its manifests. `lake` is the URI of the lake.
pub(crate) fn snapshots(objects: &Objects, lake: &str) -> Vec<Snapshot> {
    let version = |name: &str| {
        let name = name.strip_prefix("metadata/v")?;
        name.strip_suffix(".metadata.json")?.parse::<u64>().ok()
    };
    let versions: BTreeMap<u64, Value> = objects
        .iter()
        .filter_map(|(name, bytes)| {
            let version = version(name)?;
            Some((version, serde_json::from_slice(bytes).unwrap()))
        })
        .collect();
    let Some((&newest, metadata)) = versions.last_key_value() else {
        return Vec::new();
    };
    if let Some(hint) = objects.get("metadata/version-hint.text") {
        let hint: u64 = std::str::from_utf8(hint).unwrap().parse().unwrap();
        assert!(versions.contains_key(&hint), "no version {hint}");
    }
    for earlier in metadata["metadata-log"].as_array().unwrap() {
        let name = name_of(&earlier["metadata-file"], lake);
        assert!(objects.contains_key(&name), "{name} in version {newest}");
    }
    // By sequence number and id.
    let mut found: BTreeMap<_, Files> = BTreeMap::new();
    // Metadata files list the same snapshots.
    let mut read: BTreeMap<String, Files> = BTreeMap::new();
    for (&version, metadata) in &versions {
        let current = metadata["current-snapshot-id"].as_i64().unwrap();
        assert_eq!(metadata["format-version"], 2);
        assert_eq!(metadata["location"], format!("{lake}/_iceberg"));
        assert_eq!(metadata["refs"]["main"]["snapshot-id"], current);
        let mut has_current = false;
        for snapshot in metadata["snapshots"].as_array().unwrap() {
            let id = snapshot["snapshot-id"].as_i64().unwrap();
            let sequence = snapshot["sequence-number"].as_u64().unwrap();
            assert!(Some(sequence) <= metadata["last-sequence-number"].as_u64());
            has_current |= id == current;
            let list = name_of(&snapshot["manifest-list"], lake);
            // Expiry removes lists before manifests, and metadata files before both.
            if !objects.contains_key(&list) && version != newest && id != current {
                continue;
            }
            let files = read.entry(list.clone());
            let files = files.or_insert_with(|| files_of(objects, &list, snapshot, lake));
            check_totals(snapshot, files);
            let other = found.entry((sequence, id)).or_insert_with(|| files.clone());
            assert_eq!(other, files, "snapshot {id}");
        }
        assert!(has_current, "version {version} lacks {current}");
    }
    let ((_, last), _) = found.last_key_value().unwrap();
    assert_eq!(metadata["current-snapshot-id"], *last);
    let found = found.into_iter();
    found
        .map(|((version, _), files)| Snapshot { version, files })
        .collect()
}

/// The name of a file of the log, below its directory.
fn name_of(uri: &Value, lake: &str) -> String {
    let uri = uri.as_str().unwrap();
    let name = uri.strip_prefix(&format!("{lake}/_iceberg/"));
    name.unwrap_or_else(|| panic!("{uri} in {lake}")).to_owned()
}

fn files_of(objects: &Objects, list: &str, snapshot: &Value, lake: &str) -> Files {
    let object = |name: &str| {
        let found = objects.get(name);
        found.unwrap_or_else(|| panic!("{name} is missing, for {snapshot}"))
    };
    let mut files = Files::new();
    for manifest in records(object(list)) {
        assert_eq!(manifest["content"], 0, "it lists delete files: {manifest}");
        let name = name_of(&manifest["manifest_path"], lake);
        let bytes = object(&name);
        assert_eq!(manifest["manifest_length"], bytes.len(), "{name}");
        // Files and rows by status.
        let mut counts = [(0, 0); 3];
        for entry in records(bytes) {
            let file = &entry["data_file"];
            let status = usize::try_from(entry["status"].as_u64().unwrap()).unwrap();
            let count = file["record_count"].as_i64().unwrap();
            counts[status].0 += 1;
            counts[status].1 += count;
            assert_eq!(file["content"], 0, "{entry}");
            if status == 2 {
                continue;
            }
            let path = file["file_path"].as_str().unwrap();
            let path = path.strip_prefix(lake).unwrap_or_else(|| panic!("{path}"));
            let path = path.strip_prefix('/').unwrap().to_owned();
            let logged = LoggedFile {
                bytes: file["file_size_in_bytes"].as_i64().unwrap(),
                rows: Some(count),
                partition: Some(first_day(&file["partition"]).to_string()),
            };
            assert_eq!(files.insert(path.clone(), logged), None, "{path} twice");
        }
        for (kind, (files, rows)) in ["existing", "added", "deleted"].iter().zip(counts) {
            assert_eq!(manifest[format!("{kind}_files_count")], files, "{name}");
            assert_eq!(manifest[format!("{kind}_rows_count")], rows, "{name}");
        }
    }
    files
}

/// The first day of a partition of days or of months.
fn first_day(partition: &Value) -> Date {
    let first = date(1970, 1, 1);
    match partition["source_day_month"].as_i64() {
        Some(months) => first + months.months(),
        None => first + partition["source_day"].as_i64().unwrap().days(),
    }
}

fn check_totals(snapshot: &Value, files: &Files) {
    let rows: i64 = files.values().filter_map(|file| file.rows).sum();
    let summary = &snapshot["summary"];
    assert_eq!(summary["total-data-files"], files.len().to_string());
    assert_eq!(summary["total-records"], rows.to_string());
}

/// The records of an Avro object container file. Bytes become texts.
/// <https://avro.apache.org/docs/1.12.0/specification/#object-container-files>
pub(crate) fn records(container: &[u8]) -> Vec<Value> {
    let mut input = Input {
        rest: container,
        named: HashMap::new(),
    };
    assert_eq!(input.take(4), b"Obj\x01");
    let header = input.value(&serde_json::json!({"type": "map", "values": "bytes"}));
    let sync = input.take(16);
    let schema: Value = serde_json::from_str(header["avro.schema"].as_str().unwrap()).unwrap();
    let mut records = Vec::new();
    while !input.rest.is_empty() {
        let count = input.number();
        let length = input.number();
        let mut block = input.take(usize::try_from(length).unwrap()).to_vec();
        assert_eq!(input.take(16), sync);
        match header["avro.codec"].as_str() {
            None | Some("null") => {}
            Some("deflate") => {
                let deflated = std::mem::take(&mut block);
                let mut decoder = flate2::read::DeflateDecoder::new(&*deflated);
                decoder.read_to_end(&mut block).unwrap();
            }
            other => panic!("{other:?}"),
        }
        let mut block = Input {
            rest: &block,
            named: HashMap::new(),
        };
        records.extend((0..count).map(|_| block.value(&schema)));
        assert!(block.rest.is_empty(), "a block is too long");
    }
    records
}

/// Encoded values, and the types that have names.
struct Input<'a> {
    rest: &'a [u8],
    named: HashMap<String, Value>,
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        taken
    }

    fn number(&mut self) -> i64 {
        let mut bits = 0_u64;
        for shift in (0..).step_by(7) {
            let byte = self.take(1)[0];
            bits |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        (bits >> 1) as i64 ^ -((bits & 1) as i64)
    }

    fn text(&mut self) -> String {
        let length = usize::try_from(self.number()).unwrap();
        String::from_utf8_lossy(self.take(length)).into_owned()
    }

    /// Each item of an array or a map.
    fn items<T>(&mut self, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut items = Vec::new();
        loop {
            let count = self.number();
            if count == 0 {
                return items;
            }
            if count < 0 {
                // The block's size follows.
                self.number();
            }
            items.extend((0..count.abs()).map(|_| item(self)));
        }
    }

    fn value(&mut self, schema: &Value) -> Value {
        if let Some(variants) = schema.as_array() {
            let at = usize::try_from(self.number()).unwrap();
            return self.value(&variants[at]);
        }
        if let Some(name) = schema["name"].as_str()
            && !self.named.contains_key(name)
        {
            self.named.insert(name.to_owned(), schema.clone());
        }
        let kind = schema.get("type").unwrap_or(schema);
        let Some(kind) = kind.as_str() else {
            return self.value(kind);
        };
        match kind {
            "null" => Value::Null,
            "boolean" => (self.take(1)[0] != 0).into(),
            "int" | "long" => self.number().into(),
            "string" | "bytes" => self.text().into(),
            "record" => {
                let fields = schema["fields"].as_array().unwrap().iter();
                let fields = fields.map(|field| {
                    let name = field["name"].as_str().unwrap().to_owned();
                    (name, self.value(&field["type"]))
                });
                Value::Object(fields.collect())
            }
            "array" => self.items(|this| this.value(&schema["items"])).into(),
            "map" => {
                let entry = |this: &mut Self| (this.text(), this.value(&schema["values"]));
                Value::Object(self.items(entry).into_iter().collect::<Map<_, _>>())
            }
            name => {
                let named = self.named.get(name).cloned();
                self.value(&named.unwrap_or_else(|| panic!("no type {name}")))
            }
        }
    }
}
