//! Keeps logs equal to the ledger, whatever their format.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use jiff::civil::Date;
use object_store::path::Path;
use tokio::sync::Mutex;

use super::{
    Catalog, CommitInfo, Committed, DataFile, Difference, Followed, LiveFiles, TableFormat,
    TableLog, TableLogError, logs, must_be_possible,
};
use crate::cdr::slice::{Direction, Slice};
use crate::lake::{Condition, Lake, LakeError, LedgerEntry};
use crate::retry::{Retry, RetryPolicy};
use crate::store::layout;

/// Ledger entries that are read at the same time.
const CONCURRENT_READS: usize = 64;

/// Which slices a commit covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SyncScope {
    /// These slices, which changed.
    Slices(BTreeSet<Slice>),
    /// Every slice, and files of no slice.
    Everything,
}

/// The logs lack changes of a run.
#[derive(Debug)]
pub(crate) struct Unsynced {
    /// Why.
    pub error: LakeError,
    /// Whether the lake has a note, so that a later run commits them. Otherwise the run must not
    /// remove its marker, by which a later run finds its changes.
    pub is_noted: bool,
}

/// A difference between the ledger and a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogFinding {
    /// The log's format.
    pub format: TableFormat,
    /// The file of the table that is concerned, and its slice. `None` if it is the log itself.
    pub file: Option<(String, Option<Slice>)>,
    /// What is wrong.
    pub problem: String,
    /// Whether the log cannot be read, so that no commit is possible.
    pub is_damaged: bool,
}

/// A log of some format, and its newest snapshot as far as is known.
#[async_trait]
pub(crate) trait KeptLog: fmt::Debug + Send + Sync {
    /// Its format.
    fn format(&self) -> TableFormat;

    /// Commits the difference between the ledger and the log. Returns whether it committed. A fence
    /// is a commit even if there is no difference: other processes then read the ledger again
    /// before they commit.
    async fn sync(
        &self,
        lake: &Lake,
        scope: &SyncScope,
        run: &str,
        is_fence: bool,
    ) -> Result<bool, LakeError>;

    /// Ends the history before `limit`, and adds the paths of all files that a readable snapshot
    /// needs to `reachable`.
    async fn expire(
        &self,
        limit: Timestamp,
        reachable: &mut BTreeSet<String>,
    ) -> Result<(), LakeError>;

    /// Compares the log with all of the ledger. Writes nothing.
    async fn compare(&self, lake: &Lake) -> Result<Vec<LogFinding>, LakeError>;
}

/// The implementation for every [`TableLog`].
pub(super) struct Kept<L: TableLog> {
    format: TableFormat,
    log: L,
    /// `None` if it has to be read.
    newest: Mutex<Option<L::Snapshot>>,
}

impl<L: TableLog> fmt::Debug for Kept<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&self.format).finish()
    }
}

impl<L: TableLog + 'static> Kept<L> {
    pub(super) fn shared(format: TableFormat, log: L) -> Arc<dyn KeptLog> {
        Arc::new(Self {
            format,
            log,
            newest: Mutex::default(),
        })
    }

    /// Adds the format to an error.
    fn failed(&self) -> impl Fn(TableLogError) -> LakeError + use<L> {
        let format = self.format;
        move |source| match source {
            TableLogError::Catalog(error) => LakeError::Catalog(error),
            source => LakeError::TableLog { format, source },
        }
    }
}

#[async_trait]
impl<L: TableLog + 'static> KeptLog for Kept<L> {
    fn format(&self) -> TableFormat {
        self.format
    }

    async fn sync(
        &self,
        lake: &Lake,
        scope: &SyncScope,
        run: &str,
        is_fence: bool,
    ) -> Result<bool, LakeError> {
        let mut newest = self.newest.lock().await;
        let mut retry = Retry::new(RetryPolicy::STORE, None);
        let mut has_changed = false;
        loop {
            // The ledger is read after the log. So if another run changes a slice in between, its
            // commit either comes first, and this one conflicts, or comes later.
            let cached = newest.take();
            let is_cached = cached.is_some();
            let base = match cached {
                Some(base) => Some(base),
                None => self.log.read().await.map_err(self.failed())?,
            };
            let deviates = base.as_ref().is_none_or(|it| !L::deviations(it).is_empty());
            // A log that is new, or that another program changed, gets the whole table.
            let scope = if deviates {
                &SyncScope::Everything
            } else {
                scope
            };
            let mut wanted = WantedFiles::read(lake, scope).await?;
            // The other slices are committed nevertheless.
            let unreadable = wanted.unreadable.take();
            let live = base.as_ref().map(L::live);
            let difference = wanted.difference(lake, live.unwrap_or(&LiveFiles::new()));
            if difference.is_empty() && !deviates && !is_fence {
                // Another process may have changed the log since it was read.
                if is_cached {
                    continue;
                }
                let base = base.expect("a log that does not exist deviates");
                if let Some(wrote) = self.follow(&mut newest, base, run).await? {
                    return unreadable.map_or(Ok(has_changed || wrote), Err);
                }
                if retry.wait_for_next().await {
                    continue;
                }
                return Err(self.contended());
            }
            let info = CommitInfo {
                run: Some(run.to_owned()),
                at: Timestamp::now(),
                is_fence,
            };
            let committed = self.log.commit(base.as_ref(), &difference, &info).await;
            match committed.map_err(self.failed())? {
                Committed::Done(snapshot) => {
                    tracing::debug!(
                        format = %self.format,
                        added = difference.add.len(),
                        removed = difference.remove.len(),
                        "Committed to the log."
                    );
                    has_changed = true;
                    if self.follow(&mut newest, snapshot, run).await?.is_some() {
                        return unreadable.map_or(Ok(true), Err);
                    }
                    if !retry.wait_for_next().await {
                        return Err(self.contended());
                    }
                }
                Committed::Conflict if retry.wait_for_next().await => {}
                Committed::Conflict => return Err(self.contended()),
            }
        }
    }

    async fn expire(
        &self,
        limit: Timestamp,
        reachable: &mut BTreeSet<String>,
    ) -> Result<(), LakeError> {
        let mut newest = self.newest.lock().await;
        let mut retry = Retry::new(RetryPolicy::STORE, None);
        loop {
            let base = match newest.take() {
                Some(base) => Some(base),
                None => self.log.read().await.map_err(self.failed())?,
            };
            let Some(base) = base else { break };
            if self.follow(&mut newest, base, "").await?.is_none() {
                if retry.wait_for_next().await {
                    continue;
                }
                return Err(self.contended());
            }
            let base = newest.take().expect("it was followed");
            let expired = self.log.expire(&base, limit).await;
            match expired.map_err(self.failed())? {
                Committed::Done(snapshot) => {
                    *newest = Some(snapshot);
                    break;
                }
                Committed::Conflict if retry.wait_for_next().await => {}
                Committed::Conflict => return Err(self.contended()),
            }
        }
        reachable.extend(self.log.reachable().await.map_err(self.failed())?);
        Ok(())
    }

    async fn compare(&self, lake: &Lake) -> Result<Vec<LogFinding>, LakeError> {
        let newest = match self.log.read().await {
            Ok(newest) => newest,
            Err(TableLogError::Store(error)) => return Err(error.into()),
            Err(error) => {
                return Ok(vec![LogFinding {
                    is_damaged: true,
                    ..self.finding(None, &crate::error::chain(&error))
                }]);
            }
        };
        let Some(newest) = newest else {
            return Ok(vec![self.finding(None, "it does not exist")]);
        };
        let live = L::live(&newest);
        let deviations = L::deviations(&newest);
        let difference = if is_elsewhere(live) && !deviations.is_empty() {
            // One of the deviations says that it was moved.
            Difference::default()
        } else {
            let wanted = WantedFiles::read(lake, &SyncScope::Everything).await?;
            wanted.difference(lake, live)
        };
        let in_catalog = self.log.compare_catalog(&newest).await;
        let in_catalog = in_catalog.map_err(self.failed())?;
        let in_catalog = in_catalog.iter().map(|problem| self.finding(None, problem));
        let deviations = deviations.iter().map(|problem| self.finding(None, problem));
        let added = difference.add.into_iter().map(|file| {
            let problem = format!("the log of {} lacks it", self.format);
            self.finding(Some((file.path, Some(file.slice))), &problem)
        });
        let removed = difference.remove.into_iter().map(|path| {
            let slice = lake.table().slice_of(&Path::from(&*path));
            let problem = format!(
                "the log of {} contains it, but the ledger does not name it as a current file",
                self.format
            );
            self.finding(Some((path, slice)), &problem)
        });
        Ok(deviations
            .chain(added)
            .chain(removed)
            .chain(in_catalog)
            .collect())
    }
}

impl<L: TableLog + 'static> Kept<L> {
    /// Has the catalog follow a snapshot, and stores it as the newest one. Returns whether anything
    /// was written; `None` if the log has to be read again.
    async fn follow(
        &self,
        newest: &mut Option<L::Snapshot>,
        snapshot: L::Snapshot,
        run: &str,
    ) -> Result<Option<bool>, LakeError> {
        let mut snapshot = snapshot;
        let mut has_changed = false;
        loop {
            let base = match self.log.follow(&snapshot).await {
                Ok(Followed::Done(wrote)) => {
                    *newest = Some(snapshot);
                    return Ok(Some(has_changed || wrote));
                }
                Ok(Followed::ReadAgain) => return Ok(None),
                Ok(Followed::CommitAgain(base)) => base,
                Err(error) => {
                    *newest = Some(snapshot);
                    return Err(self.failed()(error));
                }
            };
            let info = CommitInfo {
                run: Some(run.to_owned()),
                at: Timestamp::now(),
                is_fence: true,
            };
            let nothing = Difference::default();
            let committed = self.log.commit(Some(&base), &nothing, &info).await;
            match committed.map_err(self.failed())? {
                Committed::Done(later) => snapshot = later,
                Committed::Conflict => return Ok(None),
            }
            has_changed = true;
        }
    }

    fn finding(&self, file: Option<(String, Option<Slice>)>, problem: &str) -> LogFinding {
        LogFinding {
            format: self.format,
            file,
            problem: problem.to_owned(),
            is_damaged: false,
        }
    }

    fn contended(&self) -> LakeError {
        LakeError::Contended {
            path: Path::from(self.format.directory()),
        }
    }
}

/// Whether the log was moved with its lake, so that it contains the earlier addresses of all files.
fn is_elsewhere(live: &LiveFiles) -> bool {
    !live.is_empty() && live.keys().all(|path| path.contains("://"))
}

/// The files that a log should have.
struct WantedFiles<'a> {
    scope: &'a SyncScope,
    /// The file of each slice that is covered.
    files: BTreeMap<Slice, Option<DataFile>>,
    /// Slices whose entry cannot be used. The log keeps what it has of them.
    unknown: BTreeSet<Slice>,
    /// Why one of them cannot be read, although it may be sound.
    unreadable: Option<LakeError>,
}

impl<'a> WantedFiles<'a> {
    async fn read(lake: &Lake, scope: &'a SyncScope) -> Result<Self, LakeError> {
        let found: Vec<(Slice, LedgerEntry)> = match scope {
            SyncScope::Everything => {
                let days = Date::MIN..=Date::MAX;
                let entries = lake.entries(&Direction::ALL, days).await?;
                entries.into_iter().collect()
            }
            SyncScope::Slices(slices) => {
                let slices = stream::iter(slices.clone());
                let read = slices.map(|slice| async move { (slice, lake.entry(slice).await) });
                read.buffer_unordered(CONCURRENT_READS).collect().await
            }
        };
        let mut wanted = Self {
            scope,
            files: BTreeMap::new(),
            unknown: BTreeSet::new(),
            unreadable: None,
        };
        for (
            slice,
            LedgerEntry {
                entry, condition, ..
            },
        ) in found
        {
            if condition == Condition::Sound {
                wanted.files.insert(slice, DataFile::of(&entry));
                continue;
            }
            wanted.unknown.insert(slice);
            if let Condition::Unreadable(problem) = condition {
                let path = layout::ledger_entry(slice);
                wanted.unreadable = Some(LakeError::Unreadable { path, problem });
            }
        }
        Ok(wanted)
    }

    /// What has to change in a log with these live files.
    fn difference(self, lake: &Lake, live: &LiveFiles) -> Difference {
        let path = |file: &DataFile| file.path.clone();
        let wanted: BTreeSet<String> = self.files.values().flatten().map(path).collect();
        let is_covered = |path: &str| match lake.table().slice_of(&Path::from(path)) {
            Some(slice)
                if self.unknown.contains(&slice) || self.unknown.contains(&slice.month()) =>
            {
                false
            }
            Some(slice) => {
                *self.scope == SyncScope::Everything
                    || self.files.contains_key(&slice)
                    // A log that could not be updated may still have the days of a merged month.
                    || self.files.contains_key(&slice.month())
            }
            None => *self.scope == SyncScope::Everything,
        };
        let surplus = live.keys().filter(|path| !wanted.contains(*path));
        let remove: Vec<String> = surplus.filter(|path| is_covered(path)).cloned().collect();
        let is_missing = |file: &DataFile| {
            live.get(&file.path).is_none_or(|found| {
                found.is_altered
                    || found.bytes != file.bytes
                    || found.rows.is_some_and(|rows| rows != file.rows)
            })
        };
        let add = self.files.into_values().flatten().filter(is_missing);
        Difference {
            add: add.collect(),
            remove,
        }
    }
}

impl Lake {
    /// Commits the difference between the ledger and every log. Returns the formats that had one.
    ///
    /// # Errors
    /// [`LakeError`] if a log or the ledger cannot be read or written. The other logs are up to
    /// date.
    pub(crate) async fn sync_logs(
        &self,
        scope: &SyncScope,
        run: &str,
    ) -> Result<Vec<TableFormat>, LakeError> {
        self.commit_to_logs(scope, run, false).await
    }

    /// Commits to every log, so that no commit that other processes have prepared can succeed.
    ///
    /// # Errors
    /// As [`sync_logs`](Self::sync_logs).
    pub(crate) async fn fence_logs(&self, run: &str) -> Result<(), LakeError> {
        let everything = SyncScope::Everything;
        self.commit_to_logs(&everything, run, true).await.map(drop)
    }

    async fn commit_to_logs(
        &self,
        scope: &SyncScope,
        run: &str,
        is_fence: bool,
    ) -> Result<Vec<TableFormat>, LakeError> {
        let mut changed = Vec::new();
        let mut failed = None;
        for log in &self.logs {
            match log.sync(self, scope, run, is_fence).await {
                Ok(true) => changed.push(log.format()),
                Ok(false) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(changed), Err)
    }

    /// The same for the whole ledger. Also settles what earlier runs could not commit, and removes
    /// the days that a conversion left for this reason.
    ///
    /// # Errors
    /// As [`sync_logs`](Self::sync_logs).
    pub(crate) async fn sync_everything(&self, run: &str) -> Result<Vec<TableFormat>, LakeError> {
        let unsynced = self.store.list(&Path::from(layout::UNSYNCED)).await?;
        let changed = self.sync_logs(&SyncScope::Everything, run).await?;
        if !unsynced.is_empty() && self.remove_days_from_logs(run).await? {
            for note in unsynced {
                self.store.delete(&note.path).await?;
            }
        }
        Ok(changed)
    }

    /// Removes days that a conversion has merged, with every snapshot that needs them. Returns
    /// whether all are removed.
    async fn remove_days_from_logs(&self, run: &str) -> Result<bool, LakeError> {
        let days = self.days_of_months().await?;
        if days.is_empty() {
            return Ok(true);
        }
        // No commit that another process has prepared may bring a removed file back.
        self.fence_logs(run).await?;
        self.expire_logs(Timestamp::MAX).await?;
        self.remove_days_of_months(days).await
    }

    /// The same at the end of a run that changed `slices`. Also settles what earlier runs could not
    /// commit. If it fails, a later run does it.
    ///
    /// # Errors
    /// [`Unsynced`] if a log lacks changes of the run.
    pub(crate) async fn sync_after_run(
        &self,
        slices: BTreeSet<Slice>,
        run: &str,
    ) -> Result<(), Unsynced> {
        if self.logs.is_empty() {
            return Ok(());
        }
        let synced = async {
            if !self
                .store
                .list(&Path::from(layout::UNSYNCED))
                .await?
                .is_empty()
            {
                self.sync_everything(run).await?;
            } else if !slices.is_empty() {
                self.sync_logs(&SyncScope::Slices(slices), run).await?;
            }
            Ok::<_, LakeError>(())
        };
        let Err(error) = synced.await else {
            return Ok(());
        };
        let is_noted = self.note_unsynced(run).await.is_ok();
        Err(Unsynced { error, is_noted })
    }

    /// How many runs changed the lake, but could not commit their changes to every log.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn unsynced_runs(&self) -> Result<u64, LakeError> {
        if self.logs.is_empty() {
            return Ok(0);
        }
        let notes = self.store.list(&Path::from(layout::UNSYNCED)).await?;
        Ok(notes.len() as u64)
    }

    /// Notes that the logs lack something, so that the next run commits all differences.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn note_unsynced(&self, by: &str) -> Result<(), LakeError> {
        let note = layout::unsynced(by);
        self.store.create(&note, bytes::Bytes::new()).await?;
        Ok(())
    }

    /// Ends the history of every log before `limit`. Returns the paths of all files that a readable
    /// snapshot still needs.
    ///
    /// # Errors
    /// [`LakeError`] if a log cannot be read or written.
    pub(crate) async fn expire_logs(
        &self,
        limit: Timestamp,
    ) -> Result<BTreeSet<String>, LakeError> {
        let mut reachable = BTreeSet::new();
        for log in &self.logs {
            log.expire(limit, &mut reachable).await?;
        }
        Ok(reachable)
    }

    /// Compares every log with the ledger.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn compare_logs(&self) -> Result<Vec<LogFinding>, LakeError> {
        let mut findings = Vec::new();
        for log in &self.logs {
            findings.extend(log.compare(self).await?);
        }
        Ok(findings)
    }

    /// The same lake, whose Iceberg log this catalog follows.
    pub(crate) fn with_catalog(self, catalog: Option<Arc<Catalog>>) -> Self {
        Self {
            logs: logs(&self.store, &self.identity, catalog.as_ref()),
            catalog,
            ..self
        }
    }

    /// Whether the lake has logs of table formats.
    pub(crate) fn has_logs(&self) -> bool {
        !self.logs.is_empty()
    }

    /// Stores which table formats the lake has, and returns it with them. Keeps the logs of
    /// others: see [`remove_other_logs`](Self::remove_other_logs).
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, or another process changed `lake.json`.
    pub(crate) async fn with_tables(&self, tables: &[TableFormat]) -> Result<Self, LakeError> {
        must_be_possible(&*self.store, tables)?;
        self.with_identity(|identity| identity.tables = Some(tables.to_vec()))
            .await
    }

    /// Removes the logs of table formats that the lake does not have any more. Returns their
    /// formats.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn remove_other_logs(&self) -> Result<Vec<TableFormat>, LakeError> {
        let mut removed = Vec::new();
        for (_, format) in TableFormat::ALL {
            if self.identity.tables().contains(&format) {
                continue;
            }
            let directory = Path::from(format.directory());
            let objects = self.store.list(&directory).await?;
            for object in &objects {
                self.store.delete(&object.path).await?;
            }
            if !objects.is_empty() {
                removed.push(format);
            }
            // Readers take an empty directory for a damaged log.
            self.store.remove_empty_directories(&directory).await?;
        }
        Ok(removed)
    }
}
