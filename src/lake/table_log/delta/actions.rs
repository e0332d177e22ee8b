//! The actions of a log, and how a commit encodes them.
//!
//! See <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#actions>. Commits and checkpoints
//! have the same actions, so checkpoints are converted to and from the JSON of a commit.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::error::Category;

/// A line of a commit, or a row of a checkpoint. Has one action; fields of other actions, which
/// readers must ignore, are dropped.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Action {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_info: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<MetaData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn: Option<Transaction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remove: Option<Remove>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add: Option<Add>,
}

/// What readers and writers must support.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Protocol {
    pub min_reader_version: u32,
    pub min_writer_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader_features: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer_features: Option<Vec<String>>,
}

/// The table's schema, partitions and properties.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MetaData {
    pub id: String,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub description: Option<String>,
    pub format: Format,
    pub schema_string: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub partition_columns: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub configuration: BTreeMap<String, String>,
    #[serde(default)]
    pub created_time: Option<i64>,
}

/// The format of data files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Format {
    pub provider: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub options: BTreeMap<String, String>,
}

/// The progress of an application, which other programs may keep in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Transaction {
    pub app_id: String,
    pub version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<i64>,
}

/// A file becomes live.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Add {
    pub path: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub partition_values: BTreeMap<String, Option<String>>,
    pub size: u64,
    pub modification_time: i64,
    pub data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    #[serde(default, skip_serializing)]
    pub deletion_vector: Option<IgnoredAny>,
}

/// A file is live no longer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remove {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<i64>,
    #[serde(default)]
    pub data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_file_metadata: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_values: Option<BTreeMap<String, Option<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// Null stands for an absent collection in some writers' logs.
fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Action {
    /// Appends its line to a commit.
    pub(super) fn encode(&self, commit: &mut Vec<u8>) {
        serde_json::to_writer(&mut *commit, self).expect("actions always serialise");
        commit.push(b'\n');
    }
}

/// Calls `each` for every action of a commit, in order.
///
/// # Errors
/// A sentence about the first line that is not an action. Without the line's text, which may
/// contain anything.
pub(super) fn decode(commit: &[u8], mut each: impl FnMut(Action)) -> Result<(), String> {
    let mut is_empty = true;
    for (at, line) in commit.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        is_empty = false;
        let action = serde_json::from_slice(line).map_err(|error| {
            let problem = match error.classify() {
                Category::Eof => "is cut off",
                Category::Syntax | Category::Io => "is not JSON",
                Category::Data => "is not an action of Delta Lake",
            };
            format!("line {} {problem} (column {})", at + 1, error.column())
        })?;
        each(action);
    }
    if is_empty {
        return Err("it is empty".to_owned());
    }
    Ok(())
}

/// The path in the lake for a path in the log, which is URL-encoded. A path outside of the lake is
/// kept as it stands.
pub(super) fn decode_path(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.first_chunk::<2>().filter(|_| first == b'%');
        let code = code.filter(|code| code.iter().all(u8::is_ascii_hexdigit));
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    match String::from_utf8(bytes) {
        Ok(decoded) if !is_outside(path) && !is_outside(&decoded) => decoded,
        _ => path.to_owned(),
    }
}

/// Whether a path is absolute, or leads out of the lake.
fn is_outside(path: &str) -> bool {
    path.starts_with('/') || path.contains(':') || path.split('/').any(|part| part == "..")
}

/// The path in the log for a path in the lake.
pub(super) fn encode_path(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for &byte in path.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/=".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes any text");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_url_encoded() {
        let plain = "cdrs/dt=2026-10-01/placed-2026-10-01-0a.parquet";
        assert_eq!(encode_path(plain), plain);
        for path in [plain, "cdrs/a b%/ü+&.parquet", "%", "%2", "%zz", "%+f"] {
            assert_eq!(decode_path(&encode_path(path)), path);
        }
        assert_eq!(encode_path("a b%ü"), "a%20b%25%C3%BC");
        for foreign in [
            "s3://other/a%20b",
            "/a%20b",
            "../a%20b",
            "a/..",
            "%2E%2E/a",
            "a%FFb",
            "a%+fb",
        ] {
            assert_eq!(decode_path(foreign), foreign);
        }
    }

    #[test]
    fn a_damaged_line_is_named_without_its_text() {
        let problem = |text: &str| decode(text.as_bytes(), |_| {}).unwrap_err();
        assert_eq!(problem(""), "it is empty");
        assert_eq!(
            problem("{}\n{\"add\":{\"pa"),
            "line 2 is cut off (column 11)"
        );
        assert_eq!(problem("{}\n\nmist\n"), "line 3 is not JSON (column 1)");
        let number = "{\"add\":\"+33 1 87 00 00 01\"}";
        assert_eq!(
            problem(number),
            "line 1 is not an action of Delta Lake (column 26)"
        );
        decode(b"{}\n{\"unknown\":{\"a\":1}}\n", |_| {}).unwrap();
    }
}
