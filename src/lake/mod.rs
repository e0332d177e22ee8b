//! The lake: its layout, what it is, its ledger, and how a slice is published.

pub mod identity;
pub mod layout;
pub mod ledger;
pub mod local;
pub mod store;

use std::collections::HashMap;
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempPath;

use crate::slice::{Direction, Slice};
use identity::{FORMAT, Identity};
use ledger::{Commit, Entry, Pending, PublishedFile};
use store::{LakeStore, Lease, LocalCopy, ObjectState, StoreError, Swap, Version, Versioned};

/// Ledger entries read at the same time: years of them in seconds, even on a slow disk.
const CONCURRENT_READS: usize = 16;

/// The lake cannot be used, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LakeError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of ours is not as we write it.
    #[error("{path} cannot be understood: {problem}. {}", repair_hint(path))]
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
    /// Another run changed the slice's ledger entry.
    #[error("another run changed {path} in the meantime: nothing was published")]
    LostLease {
        /// The entry.
        path: Path,
    },
}

fn repair_hint(path: &Path) -> &'static str {
    if *path == layout::identity() {
        "Restore it from a backup, or from another lake of the same configuration"
    } else {
        "Restore it from a backup, or move it away to have its slice fetched again"
    }
}

/// A ledger entry and the version to replace.
#[derive(Clone, Debug)]
pub struct LedgerEntry {
    /// What it says.
    pub entry: Entry,
    /// `None` if it does not exist yet.
    version: Option<Version>,
}

/// A lake that this run may read and write.
#[derive(Clone, Debug)]
pub struct Lake {
    store: Arc<dyn LakeStore>,
    /// Remarks on how the lake differs from the configuration without being another one.
    pub remarks: Vec<String>,
}

impl Lake {
    /// Opens the lake in `store`, or makes it what `wanted` says if it is new.
    ///
    /// # Errors
    /// [`LakeError`] if it is not a lake, another one, or cannot be read or written.
    pub async fn open(store: Arc<dyn LakeStore>, wanted: &Identity) -> Result<Self, LakeError> {
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
            if store.list(&Path::from(layout::TABLE)).await?.is_empty() {
                return Ok(None);
            }
            return Err(LakeError::NotALake);
        };
        let identity = parse(&path, &found)?;
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

    /// Takes the right to work on a slice; `None` if another run has it.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn try_lease(&self, slice: Slice) -> Result<Option<Box<dyn Lease>>, LakeError> {
        Ok(self.store.try_lease(&layout::lease(slice)).await?)
    }

    /// The slice's ledger entry; an empty one if there is none.
    ///
    /// # Errors
    /// [`LakeError`] if it cannot be read or understood.
    pub async fn entry(&self, slice: Slice) -> Result<LedgerEntry, LakeError> {
        let path = layout::ledger_entry(slice);
        let Some(found) = self.store.read(&path).await? else {
            return Ok(LedgerEntry {
                entry: Entry::new(slice),
                version: None,
            });
        };
        let entry: Entry = parse(&path, &found)?;
        if entry.slice != slice {
            return Err(LakeError::Damaged {
                path,
                problem: format!("it speaks of {}", entry.slice),
            });
        }
        Ok(LedgerEntry {
            entry,
            version: Some(found.version),
        })
    }

    /// Every ledger entry of `directions` whose day lies within `days`.
    ///
    /// # Errors
    /// [`LakeError`] if one cannot be read or understood.
    pub async fn entries(
        &self,
        directions: &[Direction],
        days: std::ops::RangeInclusive<jiff::civil::Date>,
    ) -> Result<HashMap<Slice, Entry>, LakeError> {
        let mut slices = Vec::new();
        for &direction in directions {
            let listed = self.store.list(&layout::ledger(direction)).await?;
            let in_range = listed
                .iter()
                .filter_map(|object| layout::ledger_day(&object.path))
                .filter(|day| days.contains(day));
            slices.extend(in_range.map(|day| Slice { day, direction }));
        }
        let read = stream::iter(slices)
            .map(|slice| async move { self.entry(slice).await.map(|found| (slice, found.entry)) });
        read.buffer_unordered(CONCURRENT_READS).try_collect().await
    }

    /// The first day that the ledger knows of.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn first_day(
        &self,
        directions: &[Direction],
    ) -> Result<Option<jiff::civil::Date>, LakeError> {
        let mut first = None;
        for &direction in directions {
            let listed = self.store.list(&layout::ledger(direction)).await?;
            let earliest = listed
                .iter()
                .filter_map(|object| layout::ledger_day(&object.path))
                .min();
            first = [first, earliest].into_iter().flatten().min();
        }
        Ok(first)
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

    /// The slice's file, where this machine can read it; `None` if there is none.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn local_copy(&self, slice: Slice) -> Result<Option<LocalCopy>, LakeError> {
        Ok(self.store.local_copy(&layout::table_file(slice)).await?)
    }

    /// Keeps the rejects of an attempt that failed, beside those of the slice as it is in the lake.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn put_failed_rejects(
        &self,
        slice: Slice,
        rejects: TempPath,
    ) -> Result<(), LakeError> {
        self.store
            .publish(&layout::failed_rejects_file(slice), rejects)
            .await?;
        Ok(())
    }

    /// Removes what [`put_failed_rejects`](Self::put_failed_rejects) kept, once an attempt succeeded.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn remove_failed_rejects(&self, slice: Slice) -> Result<(), LakeError> {
        Ok(self
            .store
            .delete(&layout::failed_rejects_file(slice))
            .await?)
    }

    /// Stores the slice's rejects, or removes the old ones if there are none any more.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn put_rejects(
        &self,
        slice: Slice,
        rejects: Option<TempPath>,
    ) -> Result<(), LakeError> {
        let path = layout::rejects_file(slice);
        match rejects {
            Some(file) => self.store.publish(&path, file).await.map(|_| ())?,
            None => self.store.delete(&path).await?,
        }
        Ok(())
    }

    /// Publishes a slice: intend, store the rejects, publish, commit. `spooled` is `None` for a
    /// slice without rows; `commit` comes with everything but its file. A run that dies anywhere
    /// in between leaves the `pending` part, by which the next run finds the slice and mends it.
    ///
    /// # Errors
    /// [`LakeError::LostLease`] if the entry is no longer what `before` says, and the store's; the
    /// table is then as it was. [`LakeError::NotRecorded`] if the table may have changed, but the
    /// ledger could not be told.
    pub async fn publish(
        &self,
        before: LedgerEntry,
        spooled: Option<(TempPath, PublishedFile)>,
        rejects: Option<TempPath>,
        mut commit: Commit,
    ) -> Result<Entry, LakeError> {
        let LedgerEntry { mut entry, version } = before;
        let (file, planned) = spooled.unzip();
        entry.pending = Some(Pending {
            run: commit.run.clone(),
            token: commit.token.clone(),
            file: planned.clone(),
            digest: commit.digest,
        });
        let version = self.swap(&entry, version.as_ref()).await?;
        self.put_rejects(entry.slice, rejects).await?;
        let path = layout::table_file(entry.slice);
        // From here on the table may have changed, whatever goes wrong.
        let not_recorded = |source: LakeError| LakeError::NotRecorded {
            path: path.clone(),
            source: Box::new(source),
        };
        commit.file = if let (Some(file), Some(planned)) = (file, planned) {
            let state = self
                .store
                .publish(&path, file)
                .await
                .map_err(|error| not_recorded(error.into()))?;
            Some(PublishedFile {
                etag: state.etag,
                ..planned
            })
        } else {
            self.store
                .delete(&path)
                .await
                .map_err(|error| not_recorded(error.into()))?;
            None
        };
        entry.committed = Some(commit);
        entry.pending = None;
        self.swap(&entry, Some(&version))
            .await
            .map_err(not_recorded)?;
        Ok(entry)
    }

    /// Records a commit that leaves the table as it is.
    ///
    /// # Errors
    /// [`LakeError`] as for [`publish`](Self::publish).
    pub async fn note(&self, before: LedgerEntry, commit: Commit) -> Result<(), LakeError> {
        let entry = Entry {
            committed: Some(commit),
            pending: None,
            ..before.entry
        };
        self.swap(&entry, before.version.as_ref()).await.map(|_| ())
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

    /// Keeps the report of a run.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn put_run_report(
        &self,
        run: &str,
        report: &impl Serialize,
    ) -> Result<(), LakeError> {
        self.store
            .create(&layout::run_report(run), json(report))
            .await?;
        Ok(())
    }
}

/// Whether a committed file still lies in the table as its ledger entry says.
pub fn is_intact(expected: Option<&PublishedFile>, found: Option<&ObjectState>) -> bool {
    match (expected, found) {
        (None, None) => true,
        (Some(expected), Some(found)) => {
            expected.bytes == found.size_bytes && expected.etag == found.etag
        }
        _ => false,
    }
}

fn json(value: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec_pretty(value).expect("our own types always serialise");
    bytes.push(b'\n');
    bytes.into()
}

fn parse<T: DeserializeOwned>(path: &Path, found: &Versioned) -> Result<T, LakeError> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |error: serde_json::Error| LakeError::Damaged {
        path: path.clone(),
        problem: error.to_string(),
    };
    let Format { format } = serde_json::from_slice(&found.bytes).map_err(damaged)?;
    if format > FORMAT {
        return Err(LakeError::NewerFormat {
            path: path.clone(),
            found: format,
        });
    }
    serde_json::from_slice(&found.bytes).map_err(damaged)
}
