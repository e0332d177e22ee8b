//! The Delta Lake log.
//!
//! See <https://github.com/delta-io/delta/blob/master/PROTOCOL.md>. The log is a directory of
//! numbered commits, each of which is created once and never changed. A checkpoint contains the
//! state of a version, so that readers need no older commits.
//!
//! Commits are deleted only after a checkpoint replaces them. Their numbers are free again then, so
//! a commit counts only if the version before it still exists once it is written.

mod actions;
mod checkpoint;
mod listing;
mod schema;
mod snapshot;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use memchr::memmem;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::actions::{Action, Add, decode_path, encode_path};
use self::checkpoint::DecodeError;
use self::listing::{Listing, Source, checkpoint_path, commit_path, hint_path, version_of};
use self::schema::{PARTITION, PROTOCOL};
use self::snapshot::{Snapshot, State, StateError};
use super::{
    CommitInfo, Committed, DataFile, Difference, LiveFiles, TableLog, TableLogError, new_uuid,
};
use crate::cdr::period::PeriodUnit;
use crate::store::layout::DELTA_LOG;
use crate::store::{LakeStore, StoreError, Swap};

/// Every so many versions a commit also writes a checkpoint.
const CHECKPOINT_INTERVAL: u64 = 50;

/// How often a log is listed again, because another process deleted an object meanwhile.
const MAX_LISTINGS: u32 = 3;

/// Objects of the log that are read at once. A commit may have some megabytes.
const CONCURRENT_READS: usize = 8;

/// Attempts to replace the hint.
const MAX_SWAPS: u32 = 5;

/// The Delta Lake log of a table.
#[derive(Debug)]
pub(crate) struct DeltaLog {
    store: Arc<dyn LakeStore>,
    /// The periods of the lake, which are the partitions.
    unit: PeriodUnit,
}

/// What an attempt to read a log finds.
enum Found<T> {
    Whole(T),
    /// The object was listed, but another process has deleted it since.
    Vanished(Path),
}

impl<T> Found<T> {
    /// What was found; `None` if the log must be listed again.
    fn unless_vanished(self, listings: u32) -> Result<Option<T>, TableLogError> {
        match self {
            Self::Whole(found) => Ok(Some(found)),
            Self::Vanished(_) if listings < MAX_LISTINGS => Ok(None),
            Self::Vanished(path) => Err(damaged(path, "it is missing")),
        }
    }
}

/// What lies at the path of a commit.
enum Outcome {
    Ours,
    Others,
    Nothing,
}

/// The content of the hint.
#[derive(Deserialize, Serialize)]
struct Hint {
    version: u64,
    size: u64,
}

impl DeltaLog {
    /// The log of the lake in `store`, whose slices have periods of the length `unit`.
    pub(crate) fn new(store: Arc<dyn LakeStore>, unit: PeriodUnit) -> Self {
        Self { store, unit }
    }

    async fn list(&self) -> Result<Listing, TableLogError> {
        let objects = self.store.list(&Path::from(DELTA_LOG)).await?;
        let objects = objects.into_iter().map(|object| object.path);
        Listing::try_new(objects).map_err(|path| {
            let feature = "a checkpoint of several files or of version 2".to_owned();
            TableLogError::Unsupported { path, feature }
        })
    }

    /// Calls `each` for every action of these objects, in their order.
    async fn for_each_action(
        &self,
        objects: impl Iterator<Item = Path> + Send,
        mut each: impl FnMut(&Path, Action) + Send,
    ) -> Result<Found<()>, TableLogError> {
        let read = |path: Path| async move {
            let found = self.store.read(&path).await?;
            Ok::<_, TableLogError>((path, found))
        };
        let mut objects = pin!(stream::iter(objects).map(read).buffered(CONCURRENT_READS));
        while let Some((path, found)) = objects.try_next().await? {
            let Some(found) = found else {
                return Ok(Found::Vanished(path));
            };
            decode(&path, found.bytes, |action| each(&path, action))?;
        }
        Ok(Found::Whole(()))
    }

    /// Builds the snapshot of a version from the newest checkpoint before it and the commits since.
    async fn snapshot(
        &self,
        listing: &Listing,
        version: u64,
    ) -> Result<Found<Snapshot>, TableLogError> {
        let checkpoint = listing.checkpoint_for(version);
        let mut commits = checkpoint.map_or(0, |checkpoint| checkpoint + 1)..=version;
        let objects = checkpoint.map(checkpoint_path).into_iter();
        let objects = objects.chain(commits.clone().map(commit_path));
        if let Some(missing) = commits.find(|&commit| !listing.has_commit(commit)) {
            let problem = "it is missing, but later commits exist";
            return Err(damaged(commit_path(missing), problem));
        }
        let mut state = State::default();
        let mut protocol_path = commit_path(version);
        let read = self.for_each_action(objects, |path, action| {
            if action.protocol.is_some() || action.meta_data.is_some() {
                protocol_path = path.clone();
            }
            state.apply(action);
        });
        if let Found::Vanished(path) = read.await? {
            return Ok(Found::Vanished(path));
        }
        match Snapshot::try_new(version, state, self.unit) {
            Ok(snapshot) => Ok(Found::Whole(snapshot)),
            Err(StateError::Incomplete(problem)) => {
                let path = checkpoint.map_or_else(|| commit_path(0), checkpoint_path);
                Err(damaged(path, &format!("it has {problem}")))
            }
            Err(StateError::Unsupported(feature)) => Err(TableLogError::Unsupported {
                path: protocol_path,
                feature,
            }),
        }
    }

    /// The paths of the files of all readable versions.
    async fn paths(&self, listing: &Listing) -> Result<Found<BTreeSet<String>>, TableLogError> {
        let objects = listing.readable().map(|(version, source)| match source {
            Source::Commit => commit_path(version),
            Source::Checkpoint => checkpoint_path(version),
        });
        let mut paths = BTreeSet::new();
        let read = self.for_each_action(objects, |_, action| {
            paths.extend(action.add.map(|add| decode_path(&add.path)));
        });
        Ok(match read.await? {
            Found::Whole(()) => Found::Whole(paths),
            Found::Vanished(path) => Found::Vanished(path),
        })
    }

    /// The actions of the commit that changes `base`.
    fn actions(
        &self,
        base: Option<&Snapshot>,
        difference: &Difference,
        info: &CommitInfo,
        token: &str,
    ) -> impl Iterator<Item = Action> {
        let now_ms = info.at.as_millisecond();
        let operation = if base.is_some() {
            "WRITE"
        } else {
            "CREATE TABLE"
        };
        let mut about_table = vec![Action {
            commit_info: Some(json!({
                "timestamp": now_ms,
                "operation": operation,
                "operationParameters": {},
                "isBlindAppend": false,
                "engineInfo": crate::TOOL,
                "txnId": token,
                "userMetadata": info.run,
            })),
            ..Action::default()
        }];
        if base.is_none_or(|base| !base.deviations.is_empty()) {
            let old = base.and_then(|base| base.state.metadata.as_ref());
            about_table.push(Action {
                protocol: Some(PROTOCOL),
                ..Action::default()
            });
            about_table.push(Action {
                meta_data: Some(schema::metadata(self.unit, old, new_uuid, now_ms)),
                ..Action::default()
            });
        }
        // A file that is added again is not removed: one commit must not contain both.
        let added: BTreeSet<&str> = difference.add.iter().map(|file| &*file.path).collect();
        let mut removed: BTreeSet<&str> = difference.remove.iter().map(|path| &**path).collect();
        removed.retain(|path| !added.contains(path));
        let removal = move |path| base?.state.removal(path, now_ms);
        let removes = removed
            .into_iter()
            .filter_map(removal)
            .map(|remove| Action {
                remove: Some(remove),
                ..Action::default()
            });
        let adds = difference.add.iter().map(|file| Action {
            add: Some(add(file)),
            ..Action::default()
        });
        about_table.into_iter().chain(removes).chain(adds)
    }

    /// Who wrote the commit of a version.
    async fn outcome(&self, version: u64, token: &str) -> Result<Outcome, StoreError> {
        Ok(match self.store.read(&commit_path(version)).await? {
            None => Outcome::Nothing,
            Some(found) if memmem::find(&found.bytes, token.as_bytes()).is_some() => Outcome::Ours,
            Some(_) => Outcome::Others,
        })
    }

    /// Whether the version before a commit exists no longer, so that the commit replaced one that
    /// was deleted after a checkpoint. Readers do not see such a commit.
    async fn is_stale(&self, version: u64) -> Result<bool, TableLogError> {
        let Some(before) = version.checked_sub(1) else {
            return Ok(self.list().await?.has_checkpoints());
        };
        for path in [commit_path(before), checkpoint_path(before)] {
            if self.store.state(&path).await?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes the checkpoint of a snapshot, unless it exists.
    async fn write_checkpoint(&self, snapshot: &Snapshot) -> Result<(), TableLogError> {
        let path = checkpoint_path(snapshot.version);
        let bytes = checkpoint::encode(snapshot.state.actions())
            .map_err(|error| damaged(path.clone(), &error.to_string()))?;
        if self.store.create(&path, bytes).await? == Swap::Refused {
            return Ok(());
        }
        // Another process may have expired this version meanwhile, after a newer checkpoint.
        // Without a newer one it relies on this one.
        let listing = self.list().await?;
        let is_last = listing.checkpoint_for(u64::MAX) <= Some(snapshot.version);
        if !is_last && !listing.has_commit(snapshot.version) {
            self.store.delete(&path).await?;
        }
        Ok(())
    }

    /// Points readers to the checkpoint of a version. Returns whether it names removed files;
    /// `None` if it does not exist.
    async fn use_checkpoint(&self, version: u64) -> Result<Option<bool>, TableLogError> {
        let path = checkpoint_path(version);
        let Some(found) = self.store.read(&path).await? else {
            return Ok(None);
        };
        let (mut size, mut names_removed) = (0, false);
        decode(&path, found.bytes, |action| {
            size += 1;
            names_removed |= action.remove.is_some();
        })?;
        self.point_to(Hint { version, size }).await?;
        Ok(Some(names_removed))
    }

    /// Writes the checkpoint of a snapshot, unless it exists, and [uses](Self::use_checkpoint) it.
    async fn add_checkpoint(&self, snapshot: &Snapshot) -> Result<Option<bool>, TableLogError> {
        self.write_checkpoint(snapshot).await?;
        self.use_checkpoint(snapshot.version).await
    }

    /// Makes sure that the newest version has a checkpoint, and that it names no removed file. A
    /// checkpoint that names one is not changed, because readers may be reading it: an empty commit
    /// then makes a version that gets its own.
    async fn checkpoint_without_removed(
        &self,
        mut newest: Snapshot,
    ) -> Result<Committed<Snapshot>, TableLogError> {
        newest.state.forget_removed(i64::MAX);
        loop {
            match self.add_checkpoint(&newest).await? {
                // Another process has expired this version meanwhile.
                None => return Ok(Committed::Conflict),
                Some(false) => return Ok(Committed::Done(newest)),
                Some(true) => {}
            }
            let info = CommitInfo {
                run: None,
                at: Timestamp::now(),
                is_fence: false,
            };
            let nothing = Difference::default();
            match self.commit(Some(&newest), &nothing, &info).await? {
                Committed::Done(next) => newest = next,
                Committed::Conflict => return Ok(Committed::Conflict),
            }
        }
    }

    /// Points readers to a checkpoint, unless they are pointed to a newer one.
    async fn point_to(&self, hint: Hint) -> Result<(), TableLogError> {
        let path = hint_path();
        let bytes = Bytes::from(serde_json::to_vec(&hint).expect("numbers always serialise"));
        for _ in 0..MAX_SWAPS {
            let swap = match self.store.read(&path).await? {
                None => self.store.create(&path, bytes.clone()).await?,
                Some(found) => {
                    let old = serde_json::from_slice::<Hint>(&found.bytes).ok();
                    let old = old.map(|old| old.version);
                    let old = old.filter(|&old| old >= hint.version);
                    // A hint to a checkpoint that does not exist is damaged.
                    if let Some(old) = old
                        && self.store.state(&checkpoint_path(old)).await?.is_some()
                    {
                        return Ok(());
                    }
                    let replaced = self.store.replace(&path, bytes.clone(), &found.version);
                    replaced.await?
                }
            };
            // Another process wrote it meanwhile: compare with that one.
            if let Swap::Done(_) = swap {
                return Ok(());
            }
        }
        Err(TableLogError::Store(StoreError {
            action: "replace",
            path: path.to_string().into(),
            source: "other processes changed it during each attempt. Try again".into(),
        }))
    }

    /// The newest version that was committed until `limit`, and before which none was committed
    /// later. Without a commit its time is unknown, but it was expired before.
    async fn newest_until(
        &self,
        listing: &Listing,
        newest: u64,
        limit: Timestamp,
    ) -> Result<u64, TableLogError> {
        if limit == Timestamp::MAX {
            return Ok(newest);
        }
        let mut versions = listing.readable().map(|(version, _)| version);
        let mut expired = versions.next().unwrap_or(newest);
        for version in versions {
            let mut time = None;
            let read = self.for_each_action(std::iter::once(commit_path(version)), |_, action| {
                time = time.or_else(|| action.commit_info?.get("timestamp")?.as_i64());
            });
            read.await?;
            if time.is_some_and(|time| time > limit.as_millisecond()) {
                break;
            }
            expired = version;
        }
        Ok(expired)
    }
}

impl TableLog for DeltaLog {
    type Snapshot = Snapshot;

    async fn read(&self) -> Result<Option<Snapshot>, TableLogError> {
        let mut listings = 0;
        loop {
            listings += 1;
            let listing = self.list().await?;
            let Some(newest) = listing.newest() else {
                return Ok(None);
            };
            let found = self.snapshot(&listing, newest).await?;
            if let Some(snapshot) = found.unless_vanished(listings)? {
                return Ok(Some(snapshot));
            }
        }
    }

    fn live(snapshot: &Snapshot) -> &LiveFiles {
        &snapshot.state.live
    }

    fn deviations(snapshot: &Snapshot) -> &[String] {
        &snapshot.deviations
    }

    async fn commit(
        &self,
        base: Option<&Snapshot>,
        difference: &Difference,
        info: &CommitInfo,
    ) -> Result<Committed<Snapshot>, TableLogError> {
        let version = base.map_or(0, |base| base.version + 1);
        let token = new_uuid();
        let mut state = base.map(|base| base.state.clone()).unwrap_or_default();
        let mut commit = Vec::new();
        for action in self.actions(base, difference, info, &token) {
            action.encode(&mut commit);
            state.apply(action);
        }
        let path = commit_path(version);
        match self.store.create(&path, commit.into()).await {
            Ok(Swap::Done(_)) => {}
            // The reply of an earlier attempt may be lost.
            Ok(Swap::Refused) => match self.outcome(version, &token).await? {
                Outcome::Ours => {}
                Outcome::Others | Outcome::Nothing => return Ok(Committed::Conflict),
            },
            Err(error) => match self.outcome(version, &token).await {
                Ok(Outcome::Ours) => {}
                Ok(Outcome::Others) => return Ok(Committed::Conflict),
                Ok(Outcome::Nothing) | Err(_) => return Err(error.into()),
            },
        }
        if self.is_stale(version).await? {
            self.store.delete(&path).await?;
            return Ok(Committed::Conflict);
        }
        let snapshot =
            Snapshot::try_new(version, state, self.unit).map_err(|error| match error {
                StateError::Incomplete(problem) => damaged(path.clone(), problem),
                StateError::Unsupported(feature) => TableLogError::Unsupported { path, feature },
            })?;
        let is_due = version > 0 && version.is_multiple_of(CHECKPOINT_INTERVAL);
        if is_due && let Err(error) = self.add_checkpoint(&snapshot).await {
            tracing::warn!(
                error = crate::error::chain(&error),
                "The commit of the Delta Lake log succeeded, but its checkpoint did not."
            );
        }
        Ok(Committed::Done(snapshot))
    }

    async fn expire(
        &self,
        newest: &Snapshot,
        limit: Timestamp,
    ) -> Result<Committed<Snapshot>, TableLogError> {
        let is_whole = limit == Timestamp::MAX;
        let mut listing = self.list().await?;
        if listing.newest() != Some(newest.version) {
            return Ok(Committed::Conflict);
        }
        let mut oldest = self.newest_until(&listing, newest.version, limit).await?;
        let mut snapshot = newest.clone();
        snapshot.state.forget_removed(limit.as_millisecond());
        if is_whole {
            match self.checkpoint_without_removed(snapshot).await? {
                Committed::Done(newest) => snapshot = newest,
                Committed::Conflict => return Ok(Committed::Conflict),
            }
            oldest = snapshot.version;
            listing = self.list().await?;
        }
        let is_obsolete = |path: &Path| match version_of(path) {
            Some((version, _)) if version < oldest => true,
            Some((version, _)) if is_whole && version == oldest => {
                *path != checkpoint_path(version)
            }
            Some(_) => false,
            None => is_whole && *path != hint_path(),
        };
        if !is_whole && listing.objects.iter().any(is_obsolete) {
            if !listing.has_checkpoint(oldest) {
                if oldest == newest.version {
                    self.write_checkpoint(&snapshot).await?;
                } else {
                    let Found::Whole(mut old) = self.snapshot(&listing, oldest).await? else {
                        return Ok(Committed::Conflict);
                    };
                    old.state.forget_removed(limit.as_millisecond());
                    self.write_checkpoint(&old).await?;
                }
            }
            if self.use_checkpoint(oldest).await?.is_none() {
                return Ok(Committed::Conflict);
            }
        }
        // Another process may add an object of an old version meanwhile.
        loop {
            let obsolete: Vec<&Path> = listing
                .objects
                .iter()
                .filter(|it| is_obsolete(it))
                .collect();
            if obsolete.is_empty() {
                return Ok(Committed::Done(snapshot));
            }
            for path in obsolete {
                self.store.delete(path).await?;
            }
            listing = self.list().await?;
        }
    }

    async fn reachable(&self) -> Result<BTreeSet<String>, TableLogError> {
        let mut listings = 0;
        loop {
            listings += 1;
            let found = self.paths(&self.list().await?).await?;
            if let Some(paths) = found.unless_vanished(listings)? {
                return Ok(paths);
            }
        }
    }
}

/// The action that adds a file.
fn add(file: &DataFile) -> Add {
    let partition = (
        PARTITION.to_owned(),
        Some(file.slice.period.first_day().to_string()),
    );
    Add {
        path: encode_path(&file.path),
        partition_values: BTreeMap::from([partition]),
        size: file.bytes,
        modification_time: file.written_at.as_millisecond(),
        data_change: true,
        stats: Some(stats::encode(file)),
        deletion_vector: None,
    }
}

/// Calls `each` for every action of an object of the log.
fn decode(path: &Path, bytes: Bytes, each: impl FnMut(Action)) -> Result<(), TableLogError> {
    if path.extension() == Some("json") {
        let decoded = actions::decode(&bytes, each);
        return decoded.map_err(|problem| damaged(path.clone(), &problem));
    }
    checkpoint::decode(bytes, each).map_err(|error| match error {
        DecodeError::Damaged(problem) => damaged(path.clone(), &problem),
        DecodeError::Unsupported(feature) => TableLogError::Unsupported {
            path: path.clone(),
            feature,
        },
    })
}

fn damaged(path: Path, problem: &str) -> TableLogError {
    let problem = problem.to_owned();
    TableLogError::Damaged { path, problem }
}
