//! Logs of table formats. A log lists the table's files for readers that want snapshots.
//!
//! The ledger decides which files the table has. A log is derived from it: each commit is the
//! difference between the files in the ledger and the live files in the log. So a commit can be
//! repeated at any time, and mends a log in which a crashed run, or another program, left something
//! else.

mod delta;
#[cfg(test)]
mod faults;
mod iceberg;
mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use jiff::Timestamp;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::LakeError;
use super::identity::Identity;
use super::ledger::{Commit, Entry};
use crate::cdr::slice::Slice;
use crate::slice_file::statistics::FileStatistics;
use crate::store::{LakeStore, StoreError, layout};
use delta::DeltaLog;
pub(crate) use iceberg::Catalog;
use iceberg::IcebergLog;
pub(crate) use iceberg::{CatalogError, CatalogOptions, Credential};
#[cfg(test)]
pub(crate) use iceberg::{Fault, Model};
use kept::Kept;
pub(crate) use kept::{KeptLog, LogFinding, SyncScope, Unsynced};

/// A table format that has a log in the lake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableFormat {
    /// [Delta Lake](https://github.com/delta-io/delta/blob/master/PROTOCOL.md).
    Delta,
    /// [Apache Iceberg](https://iceberg.apache.org/spec/).
    Iceberg,
}

impl TableFormat {
    /// Every format, by its name in the configuration.
    pub(crate) const ALL: [(&'static str, Self); 2] =
        [("delta", Self::Delta), ("iceberg", Self::Iceberg)];
}

impl TableFormat {
    /// The directory of its log.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Delta => layout::DELTA_LOG,
            Self::Iceberg => layout::ICEBERG_LOG,
        }
    }
}

/// The formats as a value of `lake.tables`.
pub(crate) fn described(formats: &[TableFormat]) -> String {
    let names = TableFormat::ALL
        .iter()
        .filter(|(_, it)| formats.contains(it));
    let names: Vec<String> = names.map(|(name, _)| format!("\"{name}\"")).collect();
    format!("[{}]", names.join(", "))
}

impl fmt::Display for TableFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Delta => "Delta Lake",
            Self::Iceberg => "Apache Iceberg",
        })
    }
}

/// A log cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableLogError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the log is damaged, or another program wrote it.
    #[error("{path} is damaged: {problem}. {}", remedy(path))]
    Damaged {
        /// Which file.
        path: Path,
        /// What is wrong with it.
        problem: String,
    },
    /// The log uses a feature that this program does not support, so another program wrote it.
    #[error(
        "{path} uses {feature}, which cdrlake does not support. {}",
        remedy(path)
    )]
    Unsupported {
        /// Which file.
        path: Path,
        /// The feature.
        feature: String,
    },
    /// The catalog of the log cannot be read or written.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl TableLogError {
    /// Whether no attempt can read the log, so that it has to be written anew.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Unsupported { .. })
    }
}

/// What mends a log with this file, which cannot be read.
fn remedy(path: &Path) -> String {
    let directory = path.parts().next();
    format!(
        "Move the directory {} out of the lake. The next commit writes the log again from the \
         ledger, without its history",
        directory.as_ref().map_or("", |name| name.as_ref())
    )
}

/// A file of the table, as a log describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataFile {
    /// Its path in the lake.
    pub path: String,
    /// Its slice, which determines its partition.
    pub slice: Slice,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// When it was written, by the ledger.
    pub written_at: Timestamp,
    /// Bounds of its columns, all of which may be public.
    pub statistics: FileStatistics,
}

impl DataFile {
    /// The slice's file, by its ledger entry; `None` if it has none.
    pub(crate) fn of(entry: &Entry) -> Option<Self> {
        let Commit {
            file, fetched_at, ..
        } = entry.committed.as_ref()?;
        let file = file.as_ref()?;
        Some(Self {
            path: file.path.clone(),
            slice: entry.slice,
            rows: file.rows,
            bytes: file.bytes,
            written_at: *fetched_at,
            statistics: file.statistics.clone(),
        })
    }
}

/// A live file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveFile {
    /// Its rows, if the log contains them.
    pub rows: Option<u64>,
    /// Its size.
    pub bytes: u64,
    /// Whether another program changed what the log contains about the file, such as a deletion
    /// vector. The file must be removed and added again.
    pub is_altered: bool,
}

/// The live files of a snapshot, by their path in the lake. A path outside of the lake is kept as
/// it stands in the log.
pub(crate) type LiveFiles = BTreeMap<String, LiveFile>;

/// What a commit changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Files that become live.
    pub add: Vec<DataFile>,
    /// Paths of files that are live no longer, as the snapshot has them.
    pub remove: Vec<String>,
}

impl Difference {
    /// Whether nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// The circumstances of a commit.
#[derive(Clone, Debug)]
pub(crate) struct CommitInfo {
    /// The run, or the command, that commits. `None` if a log changes only itself.
    pub run: Option<String>,
    /// When, by this machine's clock.
    pub at: Timestamp,
    /// Whether it is a commit even if nothing changes.
    pub is_fence: bool,
}

/// What became of a catalog that follows a snapshot.
#[derive(Debug)]
pub(crate) enum Followed<S> {
    /// It has this snapshot. `true` if it was changed.
    Done(bool),
    /// The log has a newer snapshot. Nothing was changed. Read the log again.
    ReadAgain,
    /// The catalog accepts only a snapshot that is made later. Commit one to this base.
    CommitAgain(S),
}

/// How a commit ended.
#[derive(Debug)]
pub(crate) enum Committed<S> {
    /// The log now has this snapshot.
    Done(S),
    /// Another commit came first. Nothing was changed. Read the log again.
    Conflict,
}

/// The log of one table format in the lake's store.
pub(crate) trait TableLog: Send + Sync {
    /// A version of the table.
    type Snapshot: Send + Sync;

    /// Reads the newest snapshot; `None` if there is no log yet.
    fn read(&self) -> impl Future<Output = Result<Option<Self::Snapshot>, TableLogError>> + Send;

    /// The live files of a snapshot.
    fn live(snapshot: &Self::Snapshot) -> &LiveFiles;

    /// In what else the snapshot differs from what cdrlake writes: its columns, partitions or
    /// properties. One sentence each, without the log's path. The next commit restores them.
    fn deviations(snapshot: &Self::Snapshot) -> &[String];

    /// Commits a difference to `base`, the newest snapshot as far as is known, and restores
    /// [deviations](Self::deviations). Without `base`, creates the log. Of concurrent commits to
    /// one snapshot, one succeeds. A lost reply is settled by reading the commit back.
    fn commit(
        &self,
        base: Option<&Self::Snapshot>,
        difference: &Difference,
        info: &CommitInfo,
    ) -> impl Future<Output = Result<Committed<Self::Snapshot>, TableLogError>> + Send;

    /// Ends the history: makes snapshots unreadable that were replaced before `limit`, and removes
    /// what only they need from the log. With [`Timestamp::MAX`], only the newest snapshot is left,
    /// and no file of the log contains the path of a file that is not live. A reader can open every
    /// remaining snapshot at any moment in between. Can be interrupted and repeated.
    fn expire(
        &self,
        newest: &Self::Snapshot,
        limit: Timestamp,
    ) -> impl Future<Output = Result<Committed<Self::Snapshot>, TableLogError>> + Send;

    /// Brings the catalog of the log up to its newest snapshot, if there is one.
    fn follow(
        &self,
        _newest: &Self::Snapshot,
    ) -> impl Future<Output = Result<Followed<Self::Snapshot>, TableLogError>> + Send {
        std::future::ready(Ok(Followed::Done(false)))
    }

    /// In what the catalog of the log differs from it. One sentence each.
    fn compare_catalog(
        &self,
        _newest: &Self::Snapshot,
    ) -> impl Future<Output = Result<Vec<String>, TableLogError>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// Paths in the lake of all files that some readable snapshot needs.
    fn reachable(&self) -> impl Future<Output = Result<BTreeSet<String>, TableLogError>> + Send;
}

/// Checks that the lake in `store` can have the logs of these formats.
///
/// # Errors
/// [`LakeError::IcebergOnAzure`].
pub(super) fn must_be_possible(
    store: &dyn LakeStore,
    formats: &[TableFormat],
) -> Result<(), LakeError> {
    if formats.contains(&TableFormat::Iceberg) && store.uri().starts_with("az:") {
        return Err(LakeError::IcebergOnAzure);
    }
    Ok(())
}

/// The logs of a lake.
pub(super) fn logs(
    store: &Arc<dyn LakeStore>,
    identity: &Identity,
    catalog: Option<&Arc<Catalog>>,
) -> Vec<Arc<dyn KeptLog>> {
    let mut logs = Vec::new();
    // A conversion commits files of the new period.
    let unit = identity.converting.unwrap_or(identity.period_unit());
    for format in identity.tables() {
        logs.push(match format {
            TableFormat::Delta => {
                let log = DeltaLog::new(Arc::clone(store), unit);
                Kept::shared(*format, log)
            }
            TableFormat::Iceberg => {
                let log = IcebergLog::new(Arc::clone(store), store.uri(), unit);
                let log = log.with_catalog(catalog.cloned());
                Kept::shared(*format, log)
            }
        });
    }
    logs
}

/// A random [UUID](https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-4).
fn new_uuid() -> String {
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        fastrand::u32(..),
        fastrand::u16(..),
        fastrand::u16(..1 << 12),
        0x8000 | fastrand::u16(..1 << 14),
        fastrand::u64(..1 << 48),
    )
}
