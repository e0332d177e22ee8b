//! The state of a table at a version, built from the actions of its log.
//!
//! See <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#action-reconciliation>.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::path::Path;

use super::actions::{
    Action, Add, MetaData, Protocol, Remove, Transaction, decode_path, encode_path,
};
use super::schema::{PARTITION, deviations, unsupported};
use super::stats::Stats;
use crate::cdr::period::PeriodUnit;
use crate::lake::table_log::{LiveFile, LiveFiles};
use crate::store::layout;

/// A version of the table. Memory: about a kilobyte for each live file.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(super) version: u64,
    pub(super) state: State,
    pub(super) deviations: Vec<String>,
}

impl Snapshot {
    /// The snapshot of a version that has this state, in a lake with periods of the length `unit`.
    ///
    /// # Errors
    /// What is wrong with the state.
    pub(super) fn try_new(
        version: u64,
        state: State,
        unit: PeriodUnit,
    ) -> Result<Self, StateError> {
        let Some(protocol) = &state.protocol else {
            return Err(StateError::Incomplete("no protocol"));
        };
        let Some(metadata) = &state.metadata else {
            return Err(StateError::Incomplete("no metaData"));
        };
        if let Some(feature) = unsupported(protocol, metadata) {
            return Err(StateError::Unsupported(feature));
        }
        Ok(Self {
            version,
            deviations: deviations(protocol, metadata, unit),
            state,
        })
    }
}

/// What is wrong with a log's state.
#[derive(Debug)]
pub(super) enum StateError {
    /// It lacks an action that every log has.
    Incomplete(&'static str),
    /// It uses this feature.
    Unsupported(String),
}

/// The actions that are valid at a version.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub protocol: Option<Protocol>,
    pub metadata: Option<MetaData>,
    transactions: BTreeMap<String, Transaction>,
    pub live: LiveFiles,
    /// What else the log contains about the live files, by the same paths.
    files: BTreeMap<String, File>,
    /// Files that are live no longer, by their paths in the lake.
    removed: BTreeMap<String, RemovedFile>,
}

/// What the log contains about a live file, apart from [`LiveFile`].
#[derive(Clone, Debug)]
struct File {
    /// Its path in the log, if cdrlake would write it otherwise.
    path: Option<Arc<str>>,
    partition: Option<Arc<str>>,
    modified_ms: i64,
    stats: Option<Arc<str>>,
}

/// What the log contains about a removed file.
#[derive(Clone, Debug)]
struct RemovedFile {
    path: Option<Arc<str>>,
    partition: Option<Arc<str>>,
    removed_ms: i64,
    size: Option<u64>,
}

impl State {
    /// Applies an action of the next version.
    pub(super) fn apply(&mut self, action: Action) {
        if let Some(protocol) = action.protocol {
            self.protocol = Some(protocol);
        }
        if let Some(metadata) = action.meta_data {
            self.metadata = Some(metadata);
        }
        if let Some(txn) = action.txn {
            self.transactions.insert(txn.app_id.clone(), txn);
        }
        if let Some(remove) = action.remove {
            self.remove(remove);
        }
        if let Some(add) = action.add {
            self.add(add);
        }
    }

    fn add(&mut self, add: Add) {
        let path = decode_path(&add.path);
        let stats: Option<Stats> = add
            .stats
            .as_deref()
            .and_then(|stats| serde_json::from_str(stats).ok());
        let partition = add.partition_values.get(PARTITION).cloned().flatten();
        let day = layout::partition_day(&Path::from(&*path)).map(|day| day.to_string());
        let is_altered = add.deletion_vector.is_some()
            || partition != day
            || add.partition_values.len() != 1
            || (add.stats.is_some() && stats.is_none())
            || stats.as_ref().is_some_and(Stats::has_private_bounds);
        let live = LiveFile {
            rows: stats.and_then(|stats| stats.num_records),
            bytes: add.size,
            is_altered,
        };
        let file = File {
            path: foreign_path(&path, &add.path),
            partition: partition.map(Arc::from),
            modified_ms: add.modification_time,
            stats: add.stats.map(Arc::from),
        };
        self.removed.remove(&path);
        self.live.insert(path.clone(), live);
        self.files.insert(path, file);
    }

    fn remove(&mut self, remove: Remove) {
        let path = decode_path(&remove.path);
        self.live.remove(&path);
        self.files.remove(&path);
        let partition = remove
            .partition_values
            .and_then(|mut values| values.remove(PARTITION));
        let removed = RemovedFile {
            path: foreign_path(&path, &remove.path),
            partition: partition.flatten().map(Arc::from),
            removed_ms: remove.deletion_timestamp.unwrap_or_default(),
            size: remove.size,
        };
        self.removed.insert(path, removed);
    }

    /// The action that removes a live file; `None` if it is not live.
    pub(super) fn removal(&self, path: &str, now_ms: i64) -> Option<Remove> {
        let (file, live) = (self.files.get(path)?, self.live.get(path)?);
        let removed = RemovedFile {
            path: file.path.clone(),
            partition: file.partition.clone(),
            removed_ms: now_ms,
            size: Some(live.bytes),
        };
        Some(removed.action(path, true))
    }

    /// Whether it contains removed files.
    #[cfg(test)]
    pub(super) fn has_removed(&self) -> bool {
        !self.removed.is_empty()
    }

    /// Forgets files that were removed until `limit_ms`.
    pub(super) fn forget_removed(&mut self, limit_ms: i64) {
        self.removed
            .retain(|_, removed| removed.removed_ms > limit_ms);
    }

    /// The actions of a checkpoint, which describe the whole state.
    pub(super) fn actions(&self) -> impl Iterator<Item = Action> {
        let protocol = self.protocol.iter().map(|protocol| Action {
            protocol: Some(protocol.clone()),
            ..Action::default()
        });
        let metadata = self.metadata.iter().map(|metadata| Action {
            meta_data: Some(metadata.clone()),
            ..Action::default()
        });
        let transactions = self.transactions.values().map(|txn| Action {
            txn: Some(txn.clone()),
            ..Action::default()
        });
        let adds = self.files.iter().map(|(path, file)| Action {
            add: Some(file.action(path, self.live[path].bytes)),
            ..Action::default()
        });
        let removes = self.removed.iter().map(|(path, removed)| Action {
            remove: Some(removed.action(path, false)),
            ..Action::default()
        });
        let table = protocol.chain(metadata).chain(transactions);
        table.chain(adds).chain(removes)
    }
}

impl File {
    fn action(&self, path: &str, size: u64) -> Add {
        Add {
            path: path_in_log(path, self.path.as_deref()),
            partition_values: partition_values(self.partition.as_deref()),
            size,
            modification_time: self.modified_ms,
            data_change: false,
            stats: self.stats.as_deref().map(str::to_owned),
            deletion_vector: None,
        }
    }
}

impl RemovedFile {
    fn action(&self, path: &str, data_change: bool) -> Remove {
        Remove {
            path: path_in_log(path, self.path.as_deref()),
            deletion_timestamp: Some(self.removed_ms),
            data_change,
            extended_file_metadata: Some(true),
            partition_values: Some(partition_values(self.partition.as_deref())),
            size: self.size,
        }
    }
}

/// The path in the log, if it is not the one that cdrlake writes for `path`.
fn foreign_path(path: &str, in_log: &str) -> Option<Arc<str>> {
    (encode_path(path) != in_log).then(|| in_log.into())
}

fn path_in_log(path: &str, foreign: Option<&str>) -> String {
    foreign.map_or_else(|| encode_path(path), str::to_owned)
}

fn partition_values(partition: Option<&str>) -> BTreeMap<String, Option<String>> {
    [(PARTITION.to_owned(), partition.map(str::to_owned))].into()
}
