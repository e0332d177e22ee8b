//! The lake: what it is, its table, its ledger, and how a slice is published.
//!
//! A slice's file goes a way of five states, and so do its rejects. Each has one name, and differs
//! in what may be done with the file:
//!
//! - [`SpoolFile`]: finished, on this machine, under the slice's lease. It can be staged; dropping
//!   it deletes it.
//! - `StagedFile`: as far as it can be without being seen. It can be published, once, while the
//!   lease is held and nobody was quicker; dropping it takes it back.
//! - [`PublishedFile`]: in the lake, as the slice's [ledger entry](ledger::Entry) says, which
//!   announces it first. It can be compared with what lies there ([`is_intact`]).
//! - [`ObjectState`]: in the lake, as the store says. It can be read, replaced and removed.
//! - [`LocalCopy`]: in the lake, where this machine can read it.
//!
//! A [`StagedSlice`] is what a publication brings at once: a change of the [`Table`], and rejects.
//!
//! [`SpoolFile`]: crate::slice_file::writer::SpoolFile
//! [`ObjectState`]: crate::store::ObjectState
//! [`LocalCopy`]: crate::store::LocalCopy

mod error;
mod file;
pub(crate) mod identity;
mod inventory;
pub(crate) mod ledger;
mod publish;
pub(crate) mod report;
pub(crate) mod runs;
pub(crate) mod suppression;
mod table;
#[cfg(test)]
mod tests;

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cdr::slice::Slice;
use crate::privacy::Privacy;
use crate::store::layout;
use crate::store::{FailureKind, Garbage, LakeStore, Lease, LeaseState, Swap, Versioned};
pub use error::LakeError;
pub(crate) use file::{PublishedFile, is_intact};
use identity::{FORMAT, Identity};
pub(crate) use inventory::{Condition, LedgerEntry, SliceState};
pub(crate) use publish::StagedSlice;
pub(crate) use table::{Table, TableChange, TableFiles, TableForm};

/// A lake that this run may read and write.
#[derive(Clone, Debug)]
pub struct Lake {
    store: Arc<dyn LakeStore>,
    table: Table,
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
                table: Table::new(Arc::clone(&store), TableForm::Plain),
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
            table: Table::new(Arc::clone(&store), TableForm::Plain),
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
    pub(crate) async fn find(
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

    /// The same lake with a table of another form.
    #[cfg(test)]
    pub(crate) fn with_table_form(self, form: TableForm) -> Self {
        let table = Table::new(Arc::clone(&self.store), form);
        Self { table, ..self }
    }

    /// What becomes of numbers on their way into the lake, apart from those that were erased.
    pub(crate) fn privacy(&self) -> &Privacy {
        &self.privacy
    }

    /// The files that hold its slices.
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// A directory for spool files.
    pub(crate) fn spool_dir(&self) -> &FilePath {
        self.store.spool_dir()
    }

    /// What dead runs left on their way into the lake, and no live one holds.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn find_leftovers(&self) -> Result<Vec<Path>, LakeError> {
        Ok(self.store.find_leftovers().await?)
    }

    /// Whether a run works on the slice.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn lease_state(&self, slice: Slice) -> Result<LeaseState, LakeError> {
        Ok(self.store.lease_state(&layout::lease(slice)).await?)
    }

    /// Removes what dead runs had under way, and says what of it is still there.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn remove_leftovers(&self) -> Result<Vec<Path>, LakeError> {
        self.store.remove_leftovers().await?;
        self.find_leftovers().await
    }

    /// How long the lease of a dead run bars others; `None` if it dies with the run.
    pub(crate) fn lease_expiry(&self) -> Option<Duration> {
        self.store.lease_expiry()
    }

    /// Whether two runs at once are kept from harming each other.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn honours_conditions(&self) -> Result<bool, LakeError> {
        Ok(self.store.honours_conditions().await?)
    }

    /// Whether any file of the table may be written, as far as the store can be asked.
    ///
    /// # Errors
    /// [`LakeError`] if none may, or the store fails.
    pub(crate) async fn try_table(&self) -> Result<(), LakeError> {
        // No slice's file, and no name that a reader would take for one.
        let path = Path::from(format!("{}/check", layout::TABLE));
        Ok(self.store.try_stage(&path).await?)
    }

    /// Waits until what was dropped of leases and uploads is given back.
    pub(crate) async fn settle(&self) {
        self.store.settle().await;
    }

    /// Removes everything that dead runs left on their way into the lake, also where it takes
    /// [`lease_expiry`](Self::lease_expiry) to know that they are dead.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn collect_garbage(&self) -> Result<Garbage, LakeError> {
        Ok(self.store.collect_garbage().await?)
    }

    /// Takes the right to work on a slice; `None` if another run has it.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn try_lease(
        &self,
        slice: Slice,
    ) -> Result<Option<Box<dyn Lease>>, LakeError> {
        Ok(self.store.try_lease(&layout::lease(slice)).await?)
    }
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
        return Err(Condition::Newer(format));
    }
    serde_json::from_slice(&found.bytes).map_err(damaged)
}
