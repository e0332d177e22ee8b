//! The lake: its layout, what it is, its ledger, and how a slice is published.

pub mod identity;
pub mod ledger;
pub mod report;
pub mod runs;
pub mod suppression;

use std::collections::HashMap;
use std::fmt;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::path::Path;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempPath;

use crate::cdr::columns::SCHEMA_VERSION;
use crate::cdr::slice::{Direction, Slice};
use crate::privacy::Privacy;
use crate::slice_file::writer::SpoolFile;
use crate::store::layout;
use crate::store::{
    FailureKind, Garbage, LakeStore, Lease, LeaseState, LocalCopy, ObjectState, Staged, StoreError,
    Swap, Version, Versioned,
};
use identity::{FORMAT, Identity};
use ledger::{Commit, Entry, Failure, Pending, PublishedFile, RejectsFile, State};
use runs::RunMark;

/// Ledger entries read at the same time: years of them in seconds, even on a slow disk or
/// in a bucket.
const CONCURRENT_READS: usize = 64;

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
    #[error(
        "{path} has {found}; this version of cdrlake knows {}. Use a newer one",
        found.known()
    )]
    NewerFormat {
        /// Which file.
        path: Path,
        /// What is newer about it.
        found: Newer,
    },
    /// The configuration describes another lake.
    #[error(
        "{key} is {wanted}, but this lake was made with {existing}: mixing them would make a lake that is neither. Set {key} back, or choose a new lake.url; if nothing is in this one yet, remove its _cdrlake/lake.json"
    )]
    OtherLake {
        /// The key that differs.
        key: &'static str,
        /// What the lake has.
        existing: String,
        /// What the configuration has.
        wanted: String,
    },
    /// The numbers that were erased are known by another key.
    #[error(
        "the lake leaves out the calls of numbers that were erased ({path}), which it knows by the key with the id {existing}, and {}. Set privacy.key to that key",
        match found { Some(id) => format!("privacy.key has the id {id}"), None => "no key is known here".to_owned() }
    )]
    OtherKey {
        /// The list.
        path: Path,
        /// Id of its key.
        existing: String,
        /// Id of the key that there is.
        found: Option<String>,
    },
    /// Somebody else is at work where nobody may be.
    #[error("{0}")]
    NotAlone(String),
    /// A number was erased since the list of erased numbers was read.
    #[error("a number was erased while the slice was under way: it has to be fetched without it")]
    ErasedMeanwhile,
    /// There are files where the table should be, but no lake.
    #[error(
        "lake.url holds a directory cdrs with files, but no _cdrlake/lake.json, so it is not a lake. Choose another place"
    )]
    NotALake,
    /// The table may have changed, but the ledger could not be told.
    #[error(
        "{path} may have changed, but its ledger entry could not be completed. Once what stood in the way is gone, the next run mends it"
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
    /// Others change a file all the time.
    #[error("others changed {path} at the same time, again and again. Try again")]
    Contended {
        /// Which file.
        path: Path,
    },
    /// What a run wrote now might never be told to a warehouse, for nobody knows that it is under
    /// way.
    #[error(
        "run {run} could not mark itself as under way, for something else holds its lease. Run again"
    )]
    Unmarked {
        /// The run.
        run: String,
    },
    /// Another run took over the slice.
    #[error("another run took over {path} in the meantime: the table was left to it")]
    LostLease {
        /// The slice's ledger entry or lease.
        path: Path,
    },
}

impl LakeError {
    /// Whether nothing that is tried next in the lake fares better: credentials, bucket, region, or
    /// that the run may not write, or nobody sees it.
    pub fn is_hopeless(&self) -> bool {
        match self {
            // Whatever the run would write.
            Self::NotAlone(_) | Self::Unmarked { .. } => true,
            Self::NotRecorded { source, .. } => source.is_hopeless(),
            _ => self.kind() == Some(FailureKind::Hopeless),
        }
    }

    /// Whether the store does not permit what was tried, on this object.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Store(error) => error.is_denied(),
            Self::NotRecorded { source, .. } => source.is_denied(),
            _ => false,
        }
    }

    fn kind(&self) -> Option<FailureKind> {
        match self {
            Self::Store(error) => error.kind(),
            Self::NotRecorded { source, .. } => source.kind(),
            _ => None,
        }
    }
}

/// What a later version of this program does in another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newer {
    /// The lake's own files.
    Format(u32),
    /// The columns of the table.
    Columns(u32),
}

impl Newer {
    /// What this version knows.
    fn known(self) -> u32 {
        match self {
            Self::Format(_) => FORMAT,
            Self::Columns(_) => SCHEMA_VERSION,
        }
    }
}

impl fmt::Display for Newer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(format) => write!(f, "format {format}"),
            Self::Columns(version) => write!(f, "columns of version {version}"),
        }
    }
}

/// Whether a ledger entry can be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is as this program writes it, or is not there yet.
    Sound,
    /// It is cut, edited or something else. The next fetch of its slice replaces it.
    Damaged(String),
    /// A later version of this program wrote it: it is left alone.
    Newer(Newer),
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

impl TableChange {
    /// What a finished file of the spool does to the table: one without rows is none.
    pub fn of(slice: Slice, file: SpoolFile) -> Self {
        if file.rows == 0 {
            return Self::Remove;
        }
        let published = PublishedFile {
            path: layout::table_file(slice).to_string(),
            rows: file.rows,
            bytes: file.bytes,
            checksum: file.checksum,
            etag: None,
        };
        Self::Replace(file.path, published)
    }
}

/// A publication of which everything is done that takes long and that nobody sees. Dropping it takes
/// it back.
#[derive(Debug)]
pub struct StagedSlice {
    change: StagedChange,
    /// The slice's file in the table before.
    table_before: Option<ObjectState>,
    rejects: Option<(Box<dyn Staged>, RejectsFile)>,
    rejects_before: Option<ObjectState>,
    keeps_failure: bool,
}

impl StagedSlice {
    /// The same, which says nothing of the last attempt at the slice: if that failed, it has failed nevertheless.
    #[must_use]
    pub fn keeping_failure(self) -> Self {
        Self {
            keeps_failure: true,
            ..self
        }
    }

    /// Whether the table holds a file of the slice.
    pub fn has_table_file(&self) -> bool {
        self.table_before.is_some()
    }
}

#[derive(Debug)]
enum StagedChange {
    Keep,
    Replace(Box<dyn Staged>, PublishedFile),
    Remove,
}

/// A lake that this run may read and write.
#[derive(Clone, Debug)]
pub struct Lake {
    store: Arc<dyn LakeStore>,
    /// What it was made as.
    pub identity: Identity,
    /// What becomes of numbers on their way into it. Nothing, where it was opened for reading.
    privacy: Arc<Privacy>,
    /// Remarks on how the lake differs from the configuration without being another one.
    pub remarks: Vec<String>,
}

impl Lake {
    /// Opens the lake in `store` for writing, or makes it what `wanted` says if it is new. Removes
    /// what dead runs left. `privacy` is what `wanted` says, with its key.
    ///
    /// # Errors
    /// [`LakeError`] if it is not a lake, another one, or cannot be read or written.
    pub async fn open(
        store: Arc<dyn LakeStore>,
        wanted: &Identity,
        privacy: Privacy,
    ) -> Result<Self, LakeError> {
        let mut lake = Self::find_or_create(store, wanted).await?;
        lake.privacy = Arc::new(privacy);
        match lake.store.remove_leftovers().await {
            Ok(leftovers) if leftovers.is_empty() => {}
            Ok(leftovers) => tracing::info!(
                files = leftovers.len(),
                "Removed what a run that died had under way."
            ),
            // It is in nobody's way: `verify` and `gc` say the same. Unless nothing works here.
            Err(error) if error.kind() != Some(FailureKind::Hopeless) => {
                tracing::warn!("{}", crate::error::chain(&error));
            }
            Err(error) => return Err(error.into()),
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
                identity: wanted.clone(),
                privacy: Arc::default(),
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
    pub async fn find_any(store: Arc<dyn LakeStore>) -> Result<Option<Self>, LakeError> {
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
        Ok(Some(Self {
            store,
            identity: parse_own(path, &found)?,
            privacy: Arc::default(),
            remarks: Vec::new(),
        }))
    }

    /// Opens the lake in `store` if there is one, without writing anything.
    ///
    /// # Errors
    /// [`LakeError`] if it is not a lake, another one, or cannot be read.
    pub async fn find(
        store: Arc<dyn LakeStore>,
        wanted: &Identity,
    ) -> Result<Option<Self>, LakeError> {
        let Some(mut lake) = Self::find_any(store).await? else {
            return Ok(None);
        };
        if let Some((key, existing, wanted)) = wanted.difference(&lake.identity) {
            return Err(LakeError::OtherLake {
                key,
                existing,
                wanted,
            });
        }
        if lake.identity.source_url != wanted.source_url {
            lake.remarks.push(format!(
                "source.url is {}; this lake was begun from {}",
                wanted.source_url, lake.identity.source_url
            ));
        }
        Ok(Some(lake))
    }

    /// What becomes of numbers on their way into the lake, apart from those that were erased.
    pub fn privacy(&self) -> &Privacy {
        &self.privacy
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
    pub async fn lease_state(&self, slice: Slice) -> Result<LeaseState, LakeError> {
        Ok(self.store.lease_state(&layout::lease(slice)).await?)
    }

    /// Removes what dead runs had under way, and says what of it is still there.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn remove_leftovers(&self) -> Result<Vec<Path>, LakeError> {
        self.store.remove_leftovers().await?;
        self.find_leftovers().await
    }

    /// How long the lease of a dead run bars others; `None` if it dies with the run.
    pub fn lease_expiry(&self) -> Option<Duration> {
        self.store.lease_expiry()
    }

    /// Whether two runs at once are kept from harming each other.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn honours_conditions(&self) -> Result<bool, LakeError> {
        Ok(self.store.honours_conditions().await?)
    }

    /// Whether any file of the table may be written, as far as the store can be asked.
    ///
    /// # Errors
    /// [`LakeError`] if none may, or the store fails.
    pub async fn try_table(&self) -> Result<(), LakeError> {
        Ok(self.store.try_table().await?)
    }

    /// Waits until what was dropped of leases and uploads is given back.
    pub async fn settle(&self) {
        self.store.settle().await;
    }

    /// Removes everything that dead runs left on their way into the lake, also where it takes
    /// [`lease_expiry`](Self::lease_expiry) to know that they are dead.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn collect_garbage(&self) -> Result<Garbage, LakeError> {
        Ok(self.store.collect_garbage().await?)
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
            // Replaced by this version, its file would lose what it does not know.
            let committed = entry.committed.as_ref();
            if let Some(version) = committed.map(|commit| commit.schema_version)
                && version > SCHEMA_VERSION
            {
                return Err(Condition::Newer(Newer::Columns(version)));
            }
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

    /// The slice's ledger entry, where it may be replaced: an empty one in place of one that is damaged.
    ///
    /// # Errors
    /// [`LakeError`] if a newer version wrote it, or it cannot be read.
    pub async fn usable_entry(&self, slice: Slice) -> Result<LedgerEntry, LakeError> {
        let found = self.entry(slice).await;
        let path = layout::ledger_entry(slice);
        match found.condition.clone() {
            Condition::Sound | Condition::Damaged(_) => Ok(found),
            Condition::Newer(found) => Err(LakeError::NewerFormat { path, found }),
            Condition::Unreadable(problem) => Err(LakeError::Unreadable { path, problem }),
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
        let ledgers: Vec<Path> = directions.iter().map(|&of| layout::ledger(of)).collect();
        let lists = ledgers.iter().map(|ledger| self.store.list(ledger));
        let listed = futures::future::try_join_all(lists).await?;
        Ok(listed
            .iter()
            .flatten()
            .filter_map(|object| layout::ledger_slice(&object.path))
            .collect())
    }

    /// The table's files by slice. Files that belong to no slice are left out.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn table(&self) -> Result<HashMap<Slice, ObjectState>, LakeError> {
        Ok(self.table_and_foreign_files().await?.0)
    }

    /// The table's files by slice, and those that are no slice's although readers take them for
    /// calls.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn table_and_foreign_files(
        &self,
    ) -> Result<(HashMap<Slice, ObjectState>, Vec<Path>), LakeError> {
        let (mut table, mut foreign) = (HashMap::new(), Vec::new());
        for object in self.store.list(&Path::from(layout::TABLE)).await? {
            match layout::slice_of(&object.path) {
                Some(slice) => drop(table.insert(slice, object)),
                None => foreign.push(object.path),
            }
        }
        Ok((table, foreign))
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
        let (_, mut foreign) = self.table_and_foreign_files().await?;
        let ledger = self
            .store
            .list(&Path::from(layout::LEDGER))
            .await?
            .into_iter();
        let ledger = ledger.map(|object| object.path);
        foreign.extend(ledger.filter(|path| layout::ledger_slice(path).is_none()));
        Ok(foreign)
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
        Ok(self.store.state(&layout::table_file(slice)).await?)
    }

    /// The slice's rejects as they lie in the lake.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn rejects_of(&self, slice: Slice) -> Result<Option<ObjectState>, LakeError> {
        Ok(self.store.state(&layout::rejects_file(slice)).await?)
    }

    /// The rejects of an attempt at the slice that failed, as they lie in the lake.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn failed_rejects_of(&self, slice: Slice) -> Result<Option<ObjectState>, LakeError> {
        Ok(self
            .store
            .state(&layout::failed_rejects_file(slice))
            .await?)
    }

    /// A file of the lake, where this machine can read it; `None` if there is none.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn local_copy(&self, path: &Path) -> Result<Option<LocalCopy>, LakeError> {
        Ok(self.store.local_copy(path).await?)
    }

    /// Looks at what is there of a slice and does everything about its publication that takes long
    /// and that nobody sees. Dropping the future takes back what it has done.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails; the table is then as it was.
    pub async fn stage(
        &self,
        slice: Slice,
        change: TableChange,
        rejects: Option<(TempPath, RejectsFile)>,
    ) -> Result<StagedSlice, LakeError> {
        let path = layout::table_file(slice);
        // Before anything else: what has changed since then is another run's.
        let table_before = self.store.state(&path).await?;
        let change = match change {
            TableChange::Keep => StagedChange::Keep,
            TableChange::Replace(file, planned) => {
                StagedChange::Replace(self.store.stage(&path, file).await?, planned)
            }
            TableChange::Remove => StagedChange::Remove,
        };
        let path = layout::rejects_file(slice);
        let (mut rejects_before, mut staged) = (None, None);
        if let Some((file, planned)) = rejects {
            rejects_before = self.store.state(&path).await?;
            staged = Some((self.store.stage(&path, file).await?, planned));
        }
        Ok(StagedSlice {
            change,
            table_before,
            rejects: staged,
            rejects_before,
            keeps_failure: false,
        })
    }

    /// Stores the rejects of a slice that is being committed, or removes the old ones if there are
    /// none any more; what an attempt that failed had kept goes too. While the entry is still due,
    /// so that a run that dies here is mended by the next.
    async fn put_rejects(
        &self,
        lease: &dyn Lease,
        slice: Slice,
        rejects: Option<(Box<dyn Staged>, RejectsFile)>,
        before: Option<&ObjectState>,
        may_have_failed: bool,
    ) -> Result<Option<RejectsFile>, LakeError> {
        let path = layout::rejects_file(slice);
        let stored = if let Some((staged, planned)) = rejects {
            let state = publish_staged(staged, lease, before, &path).await?;
            Some(RejectsFile {
                etag: state.etag,
                ..planned
            })
        } else {
            must_hold(lease, slice)?;
            self.store.delete(&path).await?;
            None
        };
        if may_have_failed {
            must_hold(lease, slice)?;
            self.store
                .delete(&layout::failed_rejects_file(slice))
                .await?;
        }
        Ok(stored)
    }

    /// Publishes a slice that was [staged](Self::stage): intend, store the rejects, change the table,
    /// commit. What was fetched is published only if no number was erased since `privacy` was read: whoever erases one adds it to the
    /// list before it looks at the ledger, and this announces the slice there before it looks at the list, so that one of them sees the
    /// other. `commit` comes with everything but its files. A run that dies anywhere in between
    /// leaves the `pending` part, by which the next run finds the slice and mends it.
    ///
    /// The `mark` is that of the run, which others can see before anything is written.
    ///
    /// # Errors
    /// [`LakeError::LostLease`] if the entry is no longer what `before` says, the `lease` is gone
    /// or somebody changed the table meanwhile, [`LakeError::Unmarked`], and the store's; the table
    /// is then as it was. [`LakeError::NotRecorded`] if the table may have changed, but the ledger
    /// could not be told.
    pub async fn publish(
        &self,
        mark: &RunMark,
        lease: &dyn Lease,
        before: LedgerEntry,
        staged: StagedSlice,
        mut commit: Commit,
        privacy: &Privacy,
    ) -> Result<Entry, LakeError> {
        let may_have_failed = before.may_have_failed() && !staged.keeps_failure;
        let LedgerEntry {
            mut entry, version, ..
        } = before;
        let StagedSlice {
            change,
            table_before,
            rejects,
            rejects_before,
            keeps_failure,
        } = staged;
        let slice = entry.slice;
        let kept = entry.committed.as_ref().and_then(|kept| kept.file.clone());
        let file = match &change {
            StagedChange::Keep => kept.clone(),
            StagedChange::Replace(_, planned) => Some(planned.clone()),
            StagedChange::Remove => None,
        };
        entry.pending = Some(Pending {
            run: commit.run.clone(),
            token: commit.token.clone(),
            digest: commit.digest,
            planned: Some(Box::new(Commit {
                file: file.clone(),
                ..commit.clone()
            })),
            file,
        });
        mark.ensure().await?;
        must_hold(lease, slice)?;
        let version = self.swap(&entry, version.as_ref()).await?;
        // Whoever takes the run for dead from now on sees what it has announced; who did before,
        // did not.
        mark.ensure().await?;
        self.must_know_all_erased(privacy).await?;
        let rejects_before = rejects_before.as_ref();
        commit.rejects = self
            .put_rejects(lease, slice, rejects, rejects_before, may_have_failed)
            .await?;
        let path = layout::table_file(slice);
        // From here on the table may have changed, whatever goes wrong, unless the store refused.
        let not_recorded = |source: LakeError| match source {
            LakeError::LostLease { .. } => source,
            LakeError::Store(ref error) if error.is_refusal() => source,
            source => LakeError::NotRecorded {
                path: path.clone(),
                source: Box::new(source),
            },
        };
        let is_changed = !matches!(change, StagedChange::Keep);
        commit.file = match change {
            StagedChange::Keep => kept,
            StagedChange::Replace(staged, planned) => {
                let state = publish_staged(staged, lease, table_before.as_ref(), &path)
                    .await
                    .map_err(not_recorded)?;
                Some(PublishedFile {
                    etag: state.etag,
                    ..planned
                })
            }
            StagedChange::Remove => {
                self.remove(lease, slice, table_before.as_ref())
                    .await
                    .map_err(not_recorded)?;
                None
            }
        };
        entry.committed = Some(commit);
        entry.pending = None;
        if !keeps_failure {
            entry.failed = None;
        }
        self.swap(&entry, Some(&version))
            .await
            .map_err(|source| match source {
                LakeError::LostLease { .. } if !is_changed => source,
                source => LakeError::NotRecorded {
                    path: path.clone(),
                    source: Box::new(source),
                },
            })?;
        mark.ensure_after().await;
        Ok(entry)
    }

    /// Removes the slice's file, which no store of ours does on a condition: another look is all there is.
    async fn remove(
        &self,
        lease: &dyn Lease,
        slice: Slice,
        before: Option<&ObjectState>,
    ) -> Result<(), LakeError> {
        let path = layout::table_file(slice);
        if self.store.state(&path).await?.as_ref() != before {
            return Err(LakeError::LostLease { path });
        }
        must_hold(lease, slice)?;
        Ok(self.store.delete(&path).await?)
    }

    /// Records that an attempt at the slice failed, so that it is due until one succeeds, and keeps
    /// the rejects of that attempt beside those of the slice as it is in the lake. Writes no entry
    /// that says what the last one said.
    ///
    /// # Errors
    /// [`LakeError`] as for [`publish`](Self::publish).
    pub async fn fail(
        &self,
        mark: &RunMark,
        lease: &dyn Lease,
        before: LedgerEntry,
        failure: Failure,
        rejects: Option<TempPath>,
        privacy: &Privacy,
    ) -> Result<(), LakeError> {
        let slice = before.entry.slice;
        let path = layout::failed_rejects_file(slice);
        let known = before.entry.failed.as_ref();
        if known.is_none_or(|known| known.problem != failure.problem) {
            let entry = Entry {
                failed: Some(failure),
                ..before.entry
            };
            mark.ensure().await?;
            must_hold(lease, slice)?;
            self.swap(&entry, before.version.as_ref()).await?;
        }
        if let Some(rejects) = rejects {
            mark.ensure().await?;
            self.must_know_all_erased(privacy).await?;
            let there = self.store.state(&path).await?;
            let staged = self.store.stage(&path, rejects).await?;
            publish_staged(staged, lease, there.as_ref(), &path).await?;
        }
        Ok(())
    }

    /// Removes the rejects of an attempt at the slice that failed, or those of the slice itself.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, the lease is lost, or the run cannot be marked.
    pub async fn remove_rejects(
        &self,
        mark: &RunMark,
        lease: &dyn Lease,
        slice: Slice,
        of_failure: bool,
    ) -> Result<(), LakeError> {
        let path = if of_failure {
            layout::failed_rejects_file(slice)
        } else {
            layout::rejects_file(slice)
        };
        mark.ensure().await?;
        must_hold(lease, slice)?;
        Ok(self.store.delete(&path).await?)
    }

    /// Removes everything that the lake holds of a slice. The ledger says so first: whoever dies in between leaves files of a
    /// slice that is pruned, which no run fetches again and `verify` finds.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, the lease is lost, or the run cannot be marked.
    pub async fn prune(
        &self,
        mark: &RunMark,
        lease: &dyn Lease,
        before: LedgerEntry,
    ) -> Result<Commit, LakeError> {
        let slice = before.entry.slice;
        mark.ensure().await?;
        let commit = match before.entry.committed {
            Some(commit) if commit.state == State::Pruned => commit,
            committed => {
                let commit = Commit::pruned(committed, mark.run());
                let entry = Entry {
                    committed: Some(commit.clone()),
                    ..Entry::new(slice)
                };
                must_hold(lease, slice)?;
                self.swap(&entry, before.version.as_ref()).await?;
                commit
            }
        };
        let files = [
            layout::table_file(slice),
            layout::rejects_file(slice),
            layout::failed_rejects_file(slice),
        ];
        for path in files {
            must_hold(lease, slice)?;
            self.store.delete(&path).await?;
        }
        mark.ensure_after().await;
        Ok(commit)
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
}

/// Makes visible what was staged, or says that another run was quicker.
async fn publish_staged(
    staged: Box<dyn Staged>,
    lease: &dyn Lease,
    before: Option<&ObjectState>,
    path: &Path,
) -> Result<ObjectState, LakeError> {
    let seen = before.and_then(|before| before.version.as_ref());
    let published = staged.publish(lease, seen).await?;
    published.ok_or_else(|| LakeError::LostLease { path: path.clone() })
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

/// Reads one of our own files that nothing can do without.
fn parse_own<T: DeserializeOwned>(path: Path, found: &Versioned) -> Result<T, LakeError> {
    parse(found).map_err(|condition| match condition {
        Condition::Newer(found) => LakeError::NewerFormat { path, found },
        Condition::Damaged(problem) => LakeError::Damaged { path, problem },
        Condition::Sound | Condition::Unreadable(_) => unreachable!("it was read and parsed"),
    })
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
        return Err(Condition::Newer(Newer::Format(format)));
    }
    serde_json::from_slice(&found.bytes).map_err(damaged)
}
