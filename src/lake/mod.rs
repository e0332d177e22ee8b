//! The lake: its layout, what it is, its ledger, and how a slice is published.

pub mod identity;
pub mod layout;
pub mod ledger;
pub mod local;
pub mod store;

use std::collections::{BTreeMap, HashMap};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::path::Path;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempPath;

use crate::slice::{Direction, Slice};
use identity::{FORMAT, Identity};
use ledger::{Commit, Entry, Failure, Pending, PublishedFile, RejectsFile};
use store::{LakeStore, Lease, LocalCopy, ObjectState, StoreError, Swap, Version, Versioned};

/// Ledger entries read at the same time: years of them in seconds, even on a slow disk.
const CONCURRENT_READS: usize = 16;

/// How often, and after which pause, to try for a lease that nobody can want for long.
const MAX_LEASE_TRIES: u32 = 100;
const LEASE_RETRY: Duration = Duration::from_millis(10);

/// The lake cannot be used, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LakeError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of ours is not as we write it.
    #[error(
        "{path} cannot be understood: {problem}. Restore it from a backup, or from another lake of the same configuration"
    )]
    Damaged {
        /// Which file.
        path: Path,
        /// What is wrong with it.
        problem: String,
    },
    /// A later version of this program wrote the lake.
    #[error("{path} has format {found}; this version of cdrlake knows {FORMAT}. Use a newer one")]
    NewerFormat {
        /// Which file.
        path: Path,
        /// Its format.
        found: u32,
    },
    /// The configuration describes another lake.
    #[error(
        "{key} is {wanted}, but this lake was made with {existing}: mixing them would make a lake that is neither. Set {key} back, or choose a new lake.url"
    )]
    OtherLake {
        /// The key that differs.
        key: &'static str,
        /// What the lake has.
        existing: String,
        /// What the configuration has.
        wanted: String,
    },
    /// There are files where the table should be, but no lake.
    #[error(
        "lake.url holds a directory cdrs with files, but no _cdrlake/lake.json, so it is not a lake. Choose another directory"
    )]
    NotALake,
    /// The table may have changed, but the ledger could not be told.
    #[error(
        "{path} may have changed, but its ledger entry could not be completed. The next run mends it"
    )]
    NotRecorded {
        /// The slice's file.
        path: Path,
        /// Why not.
        source: Box<LakeError>,
    },
    /// A ledger entry cannot be read.
    #[error("{path} cannot be read: {problem}. Mend that, or move it away")]
    Unreadable {
        /// The entry.
        path: Path,
        /// Why not.
        problem: String,
    },
    /// Another run took over the slice.
    #[error("another run took over {path} in the meantime: the table was left to it")]
    LostLease {
        /// The slice's ledger entry or lease.
        path: Path,
    },
}

/// Whether a ledger entry can be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is as this program writes it, or is not there yet.
    Sound,
    /// It is cut, edited or something else. The next fetch of its slice replaces it.
    Damaged(String),
    /// A later version of this program wrote it, in this format: it is left alone.
    Newer(u32),
    /// The file system does not let it be read, or it is far too large: it is left alone.
    Unreadable(String),
}

/// A ledger entry and the version to replace.
#[derive(Clone, Debug)]
pub struct LedgerEntry {
    /// What it says; nothing if it is not [`Condition::Sound`].
    pub entry: Entry,
    /// Whether it says anything.
    pub condition: Condition,
    /// `None` if it does not exist yet.
    version: Option<Version>,
}

impl LedgerEntry {
    /// What is known of a slice that has no ledger entry.
    pub fn absent(slice: Slice) -> Self {
        Self {
            entry: Entry::new(slice),
            condition: Condition::Sound,
            version: None,
        }
    }

    /// Whether both are the same state of the entry: nobody has written it in between.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.version == other.version && self.condition == other.condition
    }

    /// Whether rejects of attempts that failed may lie beside the slice's own.
    fn may_have_failed(&self) -> bool {
        let is_known_not_to = self.condition == Condition::Sound
            && self.entry.committed.is_some()
            && self.entry.failed.is_none();
        !is_known_not_to
    }
}

/// What a publication does to the table.
#[derive(Debug)]
pub enum TableChange {
    /// Nothing: only what the ledger says of the slice, or its rejects, has changed.
    Keep,
    /// The slice's file becomes this one of the spool.
    Replace(TempPath, PublishedFile),
    /// The slice has no rows, and therefore no file.
    Remove,
}

/// A lake that this run may read and write.
#[derive(Clone, Debug)]
pub struct Lake {
    store: Arc<dyn LakeStore>,
    /// Remarks on how the lake differs from the configuration without being another one.
    pub remarks: Vec<String>,
}

impl Lake {
    /// Opens the lake in `store` for writing, or makes it what `wanted` says if it is new. Removes
    /// what dead runs left.
    ///
    /// # Errors
    /// [`LakeError`] if it is not a lake, another one, or cannot be read or written.
    pub async fn open(store: Arc<dyn LakeStore>, wanted: &Identity) -> Result<Self, LakeError> {
        let lake = Self::find_or_create(store, wanted).await?;
        let leftovers = lake.store.remove_leftovers().await?;
        if !leftovers.is_empty() {
            tracing::info!(
                files = leftovers.len(),
                "Removed what a run that died had under way."
            );
        }
        Ok(lake)
    }

    async fn find_or_create(
        store: Arc<dyn LakeStore>,
        wanted: &Identity,
    ) -> Result<Self, LakeError> {
        if let Some(lake) = Self::find(Arc::clone(&store), wanted).await? {
            return Ok(lake);
        }
        let path = layout::identity();
        match store.create(&path, json(wanted)).await? {
            Swap::Done(_) => Ok(Self {
                store,
                remarks: Vec::new(),
            }),
            // Another run was quicker: its lake is the one to compare with.
            Swap::Refused => Self::find(store, wanted)
                .await?
                .ok_or_else(|| LakeError::Damaged {
                    path,
                    problem: "it vanished as soon as it was there".to_owned(),
                }),
        }
    }

    /// Opens the lake in `store` if there is one, whatever it holds. For reading only.
    ///
    /// # Errors
    /// [`LakeError`] if it is not a lake, or cannot be read.
    pub async fn find_any(
        store: Arc<dyn LakeStore>,
    ) -> Result<Option<(Self, Identity)>, LakeError> {
        let path = layout::identity();
        let Some(found) = store.read(&path).await? else {
            if !store.list(&Path::from(layout::LEDGER)).await?.is_empty() {
                let problem = "it is gone, and the ledger is there".to_owned();
                return Err(LakeError::Damaged { path, problem });
            }
            if store.list(&Path::from(layout::TABLE)).await?.is_empty() {
                return Ok(None);
            }
            return Err(LakeError::NotALake);
        };
        let identity = parse(&found).map_err(|condition| match condition {
            Condition::Newer(found) => LakeError::NewerFormat { path, found },
            Condition::Damaged(problem) => LakeError::Damaged { path, problem },
            Condition::Sound | Condition::Unreadable(_) => unreachable!("it was read and parsed"),
        })?;
        Ok(Some((
            Self {
                store,
                remarks: Vec::new(),
            },
            identity,
        )))
    }

    /// Opens the lake in `store` if there is one, without writing anything.
    ///
    /// # Errors
    /// [`LakeError`] if it is not a lake, another one, or cannot be read.
    pub async fn find(
        store: Arc<dyn LakeStore>,
        wanted: &Identity,
    ) -> Result<Option<Self>, LakeError> {
        let Some((mut lake, existing)) = Self::find_any(store).await? else {
            return Ok(None);
        };
        if let Some((key, existing, wanted)) = wanted.difference(&existing) {
            return Err(LakeError::OtherLake {
                key,
                existing,
                wanted,
            });
        }
        if existing.source_url != wanted.source_url {
            lake.remarks.push(format!(
                "source.url is {}; this lake was begun from {}",
                wanted.source_url, existing.source_url
            ));
        }
        Ok(Some(lake))
    }

    /// A directory for spool files.
    pub fn spool_dir(&self) -> &FilePath {
        self.store.spool_dir()
    }

    /// What dead runs left on their way into the lake, and no live one holds.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn find_leftovers(&self) -> Result<Vec<Path>, LakeError> {
        Ok(self.store.find_leftovers().await?)
    }

    /// Whether a run works on the slice.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn is_leased(&self, slice: Slice) -> Result<bool, LakeError> {
        Ok(self.store.is_leased(&layout::lease(slice)).await?)
    }

    /// Takes the right to work on a slice; `None` if another run has it.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn try_lease(&self, slice: Slice) -> Result<Option<Box<dyn Lease>>, LakeError> {
        Ok(self.store.try_lease(&layout::lease(slice)).await?)
    }

    /// The slice's ledger entry; an empty one if there is none, or none that can be relied on.
    pub async fn entry(&self, slice: Slice) -> LedgerEntry {
        let found = match self.store.read(&layout::ledger_entry(slice)).await {
            Ok(Some(found)) => found,
            Ok(None) => return LedgerEntry::absent(slice),
            Err(error) => {
                return LedgerEntry {
                    condition: Condition::Unreadable(crate::error::chain(&error)),
                    ..LedgerEntry::absent(slice)
                };
            }
        };
        let parsed = parse::<Entry>(&found).and_then(|entry| {
            let problem = if entry.slice == slice {
                entry.contradiction()
            } else {
                Some(format!("it speaks of {}", entry.slice))
            };
            problem.map_or(Ok(entry), |problem| Err(Condition::Damaged(problem)))
        });
        let (entry, condition) = match parsed {
            Ok(entry) => (entry, Condition::Sound),
            Err(condition) => (Entry::new(slice), condition),
        };
        LedgerEntry {
            entry,
            condition,
            version: Some(found.version),
        }
    }

    /// Every ledger entry of `directions` whose day lies within `days`.
    ///
    /// # Errors
    /// [`LakeError`] if the ledger cannot be listed.
    pub async fn entries(
        &self,
        directions: &[Direction],
        days: std::ops::RangeInclusive<jiff::civil::Date>,
    ) -> Result<HashMap<Slice, LedgerEntry>, LakeError> {
        let mut slices = self.ledger_slices(directions).await?;
        slices.retain(|slice| days.contains(&slice.day));
        let read =
            stream::iter(slices).map(|slice| async move { (slice, self.entry(slice).await) });
        Ok(read.buffer_unordered(CONCURRENT_READS).collect().await)
    }

    /// The first day that the ledger knows of.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn first_day(
        &self,
        directions: &[Direction],
    ) -> Result<Option<jiff::civil::Date>, LakeError> {
        let slices = self.ledger_slices(directions).await?;
        Ok(slices.iter().map(|slice| slice.day).min())
    }

    /// The slices of `directions` that have a ledger entry.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn ledger_slices(&self, directions: &[Direction]) -> Result<Vec<Slice>, LakeError> {
        let mut slices = Vec::new();
        for &direction in directions {
            let listed = self.store.list(&layout::ledger(direction)).await?;
            slices.extend(
                listed
                    .iter()
                    .filter_map(|object| layout::ledger_slice(&object.path)),
            );
        }
        Ok(slices)
    }

    /// The table's files by slice. Files that belong to no slice are left out.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn table(&self) -> Result<HashMap<Slice, ObjectState>, LakeError> {
        let listed = self.store.list(&Path::from(layout::TABLE)).await?;
        Ok(listed
            .into_iter()
            .filter_map(|object| Some((layout::slice_of(&object.path)?, object)))
            .collect())
    }

    /// Every rejects file, of whatever slice.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn rejects(&self) -> Result<HashMap<Path, ObjectState>, LakeError> {
        let listed = self.store.list(&Path::from(layout::REJECTS)).await?;
        Ok(listed
            .into_iter()
            .map(|object| (object.path.clone(), object))
            .collect())
    }

    /// Files of the table and of the ledger that are no slice's.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn foreign_files(&self) -> Result<Vec<Path>, LakeError> {
        let table = self.store.list(&Path::from(layout::TABLE)).await?;
        let ledger = self.store.list(&Path::from(layout::LEDGER)).await?;
        let table = table
            .into_iter()
            .filter(|object| layout::slice_of(&object.path).is_none());
        let ledger = ledger
            .into_iter()
            .filter(|object| layout::ledger_slice(&object.path).is_none());
        Ok(table.chain(ledger).map(|object| object.path).collect())
    }

    /// Removes a file that [`foreign_files`](Self::foreign_files) or a look at the
    /// [`rejects`](Self::rejects) has shown to be no slice's.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn remove_foreign(&self, path: &Path) -> Result<(), LakeError> {
        Ok(self.store.delete(path).await?)
    }

    /// The slice's file as it lies in the table.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn table_file(&self, slice: Slice) -> Result<Option<ObjectState>, LakeError> {
        let path = layout::table_file(slice);
        let prefix = Path::from(format!("{}/dt={}", layout::TABLE, slice.day));
        Ok(self
            .store
            .list(&prefix)
            .await?
            .into_iter()
            .find(|object| object.path == path))
    }

    /// A file of the lake, where this machine can read it; `None` if there is none.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn local_copy(&self, path: &Path) -> Result<Option<LocalCopy>, LakeError> {
        Ok(self.store.local_copy(path).await?)
    }

    /// Stores the rejects of a slice that is being committed, or removes the old ones if there are
    /// none any more; what an attempt that failed had kept goes too. While the entry is still due,
    /// so that a run that dies here is mended by the next.
    async fn put_rejects(
        &self,
        slice: Slice,
        rejects: Option<(TempPath, RejectsFile)>,
        may_have_failed: bool,
    ) -> Result<Option<RejectsFile>, LakeError> {
        let path = layout::rejects_file(slice);
        let stored = if let Some((file, planned)) = rejects {
            let state = self.store.publish(&path, file).await?;
            Some(RejectsFile {
                etag: state.etag,
                ..planned
            })
        } else {
            self.store.delete(&path).await?;
            None
        };
        if may_have_failed {
            self.store
                .delete(&layout::failed_rejects_file(slice))
                .await?;
        }
        Ok(stored)
    }

    /// Publishes a slice: intend, store the rejects, change the table, commit. `commit` comes with
    /// everything but its files. A run that dies anywhere in between leaves the `pending` part, by
    /// which the next run finds the slice and mends it.
    ///
    /// # Errors
    /// [`LakeError::LostLease`] if the entry is no longer what `before` says or the `lease` is gone,
    /// and the store's; the table is then as it was. [`LakeError::NotRecorded`] if the table may
    /// have changed, but the ledger could not be told.
    pub async fn publish(
        &self,
        lease: &dyn Lease,
        before: LedgerEntry,
        change: TableChange,
        rejects: Option<(TempPath, RejectsFile)>,
        mut commit: Commit,
    ) -> Result<Entry, LakeError> {
        let may_have_failed = before.may_have_failed();
        let LedgerEntry {
            mut entry, version, ..
        } = before;
        let kept = entry.committed.as_ref().and_then(|kept| kept.file.clone());
        entry.pending = Some(Pending {
            run: commit.run.clone(),
            token: commit.token.clone(),
            file: match &change {
                TableChange::Keep => kept.clone(),
                TableChange::Replace(_, planned) => Some(planned.clone()),
                TableChange::Remove => None,
            },
            digest: commit.digest,
        });
        let version = self.swap(&entry, version.as_ref()).await?;
        must_hold(lease, entry.slice)?;
        commit.rejects = self
            .put_rejects(entry.slice, rejects, may_have_failed)
            .await?;
        must_hold(lease, entry.slice)?;
        let path = layout::table_file(entry.slice);
        // From here on the table may have changed, whatever goes wrong.
        let not_recorded = |source: LakeError| LakeError::NotRecorded {
            path: path.clone(),
            source: Box::new(source),
        };
        commit.file = match change {
            TableChange::Keep => kept,
            TableChange::Replace(file, planned) => {
                let state = self
                    .store
                    .publish(&path, file)
                    .await
                    .map_err(|error| not_recorded(error.into()))?;
                Some(PublishedFile {
                    etag: state.etag,
                    ..planned
                })
            }
            TableChange::Remove => {
                self.store
                    .delete(&path)
                    .await
                    .map_err(|error| not_recorded(error.into()))?;
                None
            }
        };
        entry.committed = Some(commit);
        entry.pending = None;
        entry.failed = None;
        self.swap(&entry, Some(&version))
            .await
            .map_err(not_recorded)?;
        Ok(entry)
    }

    /// Records that an attempt at the slice failed, so that it is due until one succeeds, and keeps
    /// the rejects of that attempt beside those of the slice as it is in the lake. Writes no entry
    /// that says what the last one said.
    ///
    /// # Errors
    /// [`LakeError`] as for [`publish`](Self::publish).
    pub async fn fail(
        &self,
        lease: &dyn Lease,
        before: LedgerEntry,
        failure: Failure,
        rejects: Option<TempPath>,
    ) -> Result<(), LakeError> {
        let slice = before.entry.slice;
        let path = layout::failed_rejects_file(slice);
        let known = before.entry.failed.as_ref();
        if known.is_none_or(|known| known.problem != failure.problem) {
            let entry = Entry {
                failed: Some(failure),
                ..before.entry
            };
            self.swap(&entry, before.version.as_ref()).await?;
        }
        must_hold(lease, slice)?;
        if let Some(rejects) = rejects {
            self.store.publish(&path, rejects).await?;
        }
        Ok(())
    }

    async fn swap(&self, entry: &Entry, expected: Option<&Version>) -> Result<Version, LakeError> {
        let path = layout::ledger_entry(entry.slice);
        let swap = match expected {
            None => self.store.create(&path, json(entry)).await?,
            Some(version) => self.store.replace(&path, json(entry), version).await?,
        };
        match swap {
            Swap::Done(version) => Ok(version),
            Swap::Refused => Err(LakeError::LostLease { path }),
        }
    }

    /// Marks a run as under way, for as long as the lease is held.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, or the lease cannot be had.
    pub async fn begin_run(&self, run: &str) -> Result<Box<dyn Lease>, LakeError> {
        let path = layout::run_lease(run);
        for _ in 0..MAX_LEASE_TRIES {
            // Nobody else wants it, but whoever clears away leases looks at every one.
            if let Some(lease) = self.store.try_lease(&path).await? {
                let marker = layout::run_marker(run);
                self.store.create(&marker, Bytes::new()).await?;
                return Ok(lease);
            }
            tokio::time::sleep(LEASE_RETRY).await;
        }
        Err(LakeError::LostLease { path })
    }

    /// Keeps the report of a run, which then is no longer under way. One that another run has made
    /// for it, taking it for dead, is replaced.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn end_run(&self, run: &str, report: &impl Serialize) -> Result<(), LakeError> {
        let path = layout::run_report(run);
        if self.store.create(&path, json(report)).await? == Swap::Refused
            && let Some(other) = self.store.read(&path).await?
        {
            self.store
                .replace(&path, json(report), &other.version)
                .await?;
        }
        Ok(self.store.delete(&layout::run_marker(run)).await?)
    }

    /// The runs that ended without keeping a report, and what they had committed by then, as far as
    /// it is still there.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn dead_runs(&self) -> Result<BTreeMap<String, Vec<(Slice, Commit)>>, LakeError> {
        let mut dead = BTreeMap::new();
        for object in self.store.list(&Path::from(layout::RUNS)).await? {
            let Some(run) = layout::marked_run(&object.path) else {
                continue;
            };
            // One that ended since the listing has taken its marker away.
            if !self.store.is_leased(&layout::run_lease(run)).await?
                && self.store.read(&object.path).await?.is_some()
            {
                dead.insert(run.to_owned(), Vec::new());
            }
        }
        if !dead.is_empty() {
            let everything = jiff::civil::Date::MIN..=jiff::civil::Date::MAX;
            for (slice, found) in self.entries(&Direction::ALL, everything).await? {
                if let Some(commit) = found.entry.committed
                    && let Some(commits) = dead.get_mut(&commit.run)
                {
                    commits.push((slice, commit));
                }
            }
        }
        Ok(dead)
    }
}

/// The last look before something is written that no condition protects.
fn must_hold(lease: &dyn Lease, slice: Slice) -> Result<(), LakeError> {
    if lease.is_held() {
        Ok(())
    } else {
        Err(LakeError::LostLease {
            path: layout::lease(slice),
        })
    }
}

/// Whether an object still is the upload of this size and etag; with `None`, whether there is none.
pub fn is_intact(expected: Option<(u64, Option<&str>)>, found: Option<&ObjectState>) -> bool {
    expected == found.map(|found| (found.size_bytes, found.etag.as_deref()))
}

fn json(value: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec_pretty(value).expect("our own types always serialise");
    bytes.push(b'\n');
    bytes.into()
}

/// Reads one of our own files, or says in which condition it is.
fn parse<T: DeserializeOwned>(found: &Versioned) -> Result<T, Condition> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |error: serde_json::Error| Condition::Damaged(error.to_string());
    let Format { format } = serde_json::from_slice(&found.bytes).map_err(damaged)?;
    if format > FORMAT {
        return Err(Condition::Newer(format));
    }
    serde_json::from_slice(&found.bytes).map_err(damaged)
}
