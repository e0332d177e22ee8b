//! The lake: its identity, its table, its ledger, and the publication of slices.
//!
//! The file of a slice, and that of its rejects, passes through five states. Each has a type, which
//! determines what may be done with the file:
//!
//! - [`SpoolFile`]: finished, on this machine, under the slice's lease. It can be staged. Dropping
//!   it deletes it.
//! - `StagedFile`: ready for publication and not visible yet. It can be published once, while the
//!   lease is held and no other run has changed the file. Dropping it removes it.
//! - [`PublishedFile`]: in the lake, as the slice's [ledger entry](ledger::Entry) describes it. It
//!   can be compared with the object in the store ([`is_intact`]).
//! - [`ObjectState`]: in the lake, as the store reports it. It can be read, replaced and removed.
//! - [`LocalCopy`]: in the lake, as a file that this machine can read.
//!
//! A [`StagedSlice`] combines the parts of one publication: a change of the [`Table`], and rejects.
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
pub(crate) mod table_log;
#[cfg(test)]
mod tests;

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cdr::period::PeriodUnit;
use crate::cdr::slice::Slice;
use crate::privacy::Privacy;
use crate::store::layout;
use crate::store::{FailureKind, Garbage, LakeStore, Lease, LeaseState, Swap, Versioned};
pub use error::LakeError;
pub(crate) use file::{PublishedFile, is_intact};
use identity::{Identity, last_format};
pub(crate) use inventory::{Condition, LedgerEntry, SliceState};
pub(crate) use publish::StagedSlice;
use report::{Remark, RemarkKind};
#[cfg(test)]
pub(crate) use table::TableForm;
pub(crate) use table::{Table, TableChange, TableFiles};
pub(crate) use table_log::described;
pub(crate) use table_log::{
    Catalog, CatalogOptions, Credential, LogFinding, SyncScope, TableFormat, Unsynced,
};
use table_log::{KeptLog, logs, must_be_possible};

/// An open lake.
#[derive(Clone, Debug)]
pub struct Lake {
    store: Arc<dyn LakeStore>,
    table: Table,
    logs: Vec<Arc<dyn KeptLog>>,
    /// Follows the log of Iceberg.
    catalog: Option<Arc<Catalog>>,
    /// Its identity, as stored in `lake.json`.
    pub identity: Identity,
    /// How phone numbers are stored. The default if it was opened for reading.
    privacy: Arc<Privacy>,
    /// Differences between lake and configuration that do not make it another lake.
    pub remarks: Vec<Remark>,
}

impl Lake {
    /// Opens the lake in `store` for writing, or creates it with the identity `wanted`. Removes
    /// leftovers of crashed runs. `privacy` is the policy of `wanted`, with its key.
    ///
    /// # Errors
    /// [`LakeError`] if it is not a lake, has another identity, or cannot be read or
    /// written.
    pub async fn open(
        store: Arc<dyn LakeStore>,
        wanted: &Identity,
        privacy: Privacy,
    ) -> Result<Self, LakeError> {
        let mut lake = Self::find_or_create(store, wanted).await?;
        if let (Some(to), None) = (lake.identity.converting, wanted.converting) {
            return Err(LakeError::Converting { to });
        }
        lake.privacy = Arc::new(privacy);
        match lake.store.remove_leftovers().await {
            Ok(leftovers) if leftovers.is_empty() => {}
            Ok(leftovers) => tracing::info!(
                files = leftovers.len(),
                "Removed leftovers of crashed runs."
            ),
            // Leftovers do no harm, and `verify` and `gc` report them. But stop if no operation can
            // succeed.
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
        must_be_possible(&*store, wanted.tables())?;
        let path = layout::identity();
        match store.create(&path, json(wanted)).await? {
            Swap::Done(_) => Ok(Self {
                table: Table::new(Arc::clone(&store), wanted.table_form()),
                logs: logs(&store, wanted, None),
                catalog: None,
                store,
                identity: wanted.clone(),
                privacy: Arc::default(),
                remarks: Vec::new(),
            }),
            // Another run created the lake meanwhile: compare with that one.
            Swap::Refused => Self::find(store, wanted)
                .await?
                .ok_or_else(|| LakeError::Damaged {
                    path,
                    problem: "another program removed it at once".to_owned(),
                }),
        }
    }

    /// Opens the lake in `store` for reading, if it exists, whatever its identity.
    ///
    /// # Errors
    /// [`LakeError`] if it is not a lake, or cannot be read.
    pub async fn find_any(store: Arc<dyn LakeStore>) -> Result<Option<Self>, LakeError> {
        let path = layout::identity();
        let Some(found) = store.read(&path).await? else {
            if !store.list(&Path::from(layout::LEDGER)).await?.is_empty() {
                let problem = "it is missing, but the ledger exists".to_owned();
                return Err(LakeError::Damaged { path, problem });
            }
            if store.list(&Path::from(layout::TABLE)).await?.is_empty() {
                return Ok(None);
            }
            return Err(LakeError::NotALake);
        };
        let identity: Identity = parse_own(path, &found)?;
        let mut lake = Self {
            table: Table::new(Arc::clone(&store), identity.table_form()),
            logs: logs(&store, &identity, None),
            catalog: None,
            store,
            identity,
            privacy: Arc::default(),
            remarks: Vec::new(),
        };
        lake.remarks.extend(lake.conversion_remark());
        Ok(Some(lake))
    }

    /// A remark if the lake is being converted, or the conversion was interrupted.
    pub(crate) fn conversion_remark(&self) -> Option<Remark> {
        self.identity.converting.map(|to| {
            let text = format!("the conversion of the lake to a file for each {to} has not ended");
            RemarkKind::UnfinishedConversion.remark(text)
        })
    }

    /// The lake as it is now, with what other processes have changed in `lake.json`.
    ///
    /// # Errors
    /// [`LakeError`] if `lake.json` cannot be read.
    pub(crate) async fn as_it_is_now(&self) -> Result<Self, LakeError> {
        self.with_identity(|_| ()).await
    }

    /// Changes `lake.json`, and returns the lake as it then is.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, or another process changed `lake.json`.
    pub(crate) async fn with_identity(
        &self,
        change: impl FnOnce(&mut Identity),
    ) -> Result<Self, LakeError> {
        let path = layout::identity();
        let found = self.store.read(&path).await?;
        let found = found.ok_or_else(|| LakeError::Damaged {
            path: path.clone(),
            problem: "it is missing".to_owned(),
        })?;
        let old: Identity = parse_own(path.clone(), &found)?;
        let mut identity = old.clone();
        change(&mut identity);
        if identity != old {
            let replaced = self.store.replace(&path, json(&identity), &found.version);
            if replaced.await? == Swap::Refused {
                return Err(LakeError::Contended { path });
            }
        }
        Ok(Self {
            table: Table::new(Arc::clone(&self.store), identity.table_form()),
            logs: logs(&self.store, &identity, self.catalog.as_ref()),
            identity,
            ..self.clone()
        })
    }

    /// Opens the lake in `store`, if it exists, without writing anything.
    ///
    /// # Errors
    /// [`LakeError`] if it is not a lake, has another identity, or cannot be read.
    pub(crate) async fn find(
        store: Arc<dyn LakeStore>,
        wanted: &Identity,
    ) -> Result<Option<Self>, LakeError> {
        let lake = Self::find_any(store).await?;
        lake.map(|lake| lake.compared_with(wanted)).transpose()
    }

    /// The same lake, if it is the one that is wanted, with remarks on what differs.
    ///
    /// # Errors
    /// [`LakeError`] if it has another identity.
    pub(crate) fn compared_with(mut self, wanted: &Identity) -> Result<Self, LakeError> {
        let lake = &mut self;
        if let Some((key, existing, wanted)) = wanted.difference(&lake.identity) {
            return Err(LakeError::OtherLake {
                key,
                existing,
                wanted,
            });
        }
        if let Some(tables) = &wanted.tables
            && **tables != *lake.identity.tables()
        {
            return Err(LakeError::OtherTables {
                existing: described(lake.identity.tables()),
                wanted: described(tables),
            });
        }
        let existing = lake.identity.period_unit();
        if let Some(wanted) = wanted.slice.filter(|unit| *unit != existing) {
            return Err(LakeError::OtherPeriod { existing, wanted });
        }
        lake.remarks.extend(lake.source_remark(&wanted.source_url));
        lake.remarks.extend(lake.days_remark(&wanted.timezone));
        Ok(self)
    }

    /// Whether `source_day` in a lake of months is the day in this time zone. In a lake of days it
    /// is the provider's.
    pub(crate) fn has_days_of(&self, timezone: &str) -> bool {
        self.identity.period_unit() == PeriodUnit::Day || self.identity.timezone == timezone
    }

    /// A remark if the days of a lake of months are those of another `window.timezone`.
    fn days_remark(&self, timezone: &str) -> Option<Remark> {
        let existing = &self.identity.timezone;
        (!self.has_days_of(timezone)).then(|| {
            RemarkKind::OtherDays.remark(format!(
                "window.timezone is {timezone}, but this lake was created with {existing}, and \
                 months that were fetched before have the days of {existing}"
            ))
        })
    }

    /// A remark if the lake was created with another `source.url`.
    pub(crate) fn source_remark(&self, url: &str) -> Option<Remark> {
        let existing = &self.identity.source_url;
        (existing != url).then(|| {
            RemarkKind::OtherSource.remark(format!(
                "source.url is {url}, but this lake was created with {existing}"
            ))
        })
    }

    /// The same lake with a table of another form.
    #[cfg(test)]
    pub(crate) fn with_table_form(self, form: TableForm) -> Self {
        let table = Table::new(Arc::clone(&self.store), form);
        Self { table, ..self }
    }

    /// The same lake with this policy of phone numbers.
    pub(crate) fn with_privacy(self, privacy: Privacy) -> Self {
        let privacy = Arc::new(privacy);
        Self { privacy, ..self }
    }

    /// How phone numbers are stored, apart from erased ones.
    pub(crate) fn privacy(&self) -> &Privacy {
        &self.privacy
    }

    /// Its table.
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// The directory for spool files.
    pub(crate) fn spool_dir(&self) -> &FilePath {
        self.store.spool_dir()
    }

    /// Leftovers of crashed runs that no live process holds.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn find_leftovers(&self) -> Result<Vec<Path>, LakeError> {
        Ok(self.store.find_leftovers().await?)
    }

    /// Whether a run holds the lease of the slice.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn lease_state(&self, slice: Slice) -> Result<LeaseState, LakeError> {
        Ok(self.store.lease_state(&layout::lease(slice)).await?)
    }

    /// Whether a process holds the lease of a run.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn run_lease_state(&self, run: &str) -> Result<LeaseState, LakeError> {
        Ok(self.store.lease_state(&layout::run_lease(run)).await?)
    }

    /// Removes leftovers of crashed runs, and returns what is still there.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn remove_leftovers(&self) -> Result<Vec<Path>, LakeError> {
        self.store.remove_leftovers().await?;
        self.find_leftovers().await
    }

    /// How long the lease of a crashed run blocks others; `None` if it ends with the run.
    pub(crate) fn lease_expiry(&self) -> Option<Duration> {
        self.store.lease_expiry()
    }

    /// Whether the store honours conditional writes, which concurrent runs require.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn honours_conditions(&self) -> Result<bool, LakeError> {
        Ok(self.store.honours_conditions().await?)
    }

    /// Tests whether files of the table may be written, as far as the store can test this.
    ///
    /// # Errors
    /// [`LakeError`] if not, or the store fails.
    pub(crate) async fn try_table(&self) -> Result<(), LakeError> {
        // Not a slice's file, and not a name that readers treat as data.
        let path = Path::from(format!("{}/check", layout::TABLE));
        Ok(self.store.try_stage(&path).await?)
    }

    /// Waits until dropped leases are released and dropped uploads are aborted.
    pub(crate) async fn settle(&self) {
        self.store.settle().await;
    }

    /// Removes all leftovers of crashed runs. Waits up to [`lease_expiry`](Self::lease_expiry)
    /// where only time shows that a run has crashed.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn collect_garbage(&self) -> Result<Garbage, LakeError> {
        Ok(self.store.collect_garbage().await?)
    }

    /// Acquires the lease of a slice; `None` if another run holds it.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn try_lease(
        &self,
        slice: Slice,
    ) -> Result<Option<Box<dyn Lease>>, LakeError> {
        Ok(self.store.try_lease(&layout::lease(slice)).await?)
    }

    /// Acquires the lease under which a process converts the lake; `None` if another one holds it.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn try_conversion_lease(&self) -> Result<Option<Box<dyn Lease>>, LakeError> {
        Ok(self.store.try_lease(&layout::conversion_lease()).await?)
    }
}

fn json(value: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec_pretty(value).expect("our own types always serialise");
    bytes.push(b'\n');
    bytes.into()
}

/// Parses a file of the lake that must be readable.
fn parse_own<T: DeserializeOwned>(path: Path, found: &Versioned) -> Result<T, LakeError> {
    parse(&path, found).map_err(|condition| match condition {
        Condition::Newer(found) => LakeError::NewerFormat { path, found },
        Condition::Damaged(problem) => LakeError::Damaged { path, problem },
        Condition::Sound | Condition::Unreadable(_) => unreachable!("it was read and parsed"),
    })
}

/// Parses a file of the lake, or returns its condition.
fn parse<T: DeserializeOwned>(path: &Path, found: &Versioned) -> Result<T, Condition> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |error: serde_json::Error| Condition::Damaged(error.to_string());
    let Format { format } = serde_json::from_slice(&found.bytes).map_err(damaged)?;
    if format > last_format(path) {
        return Err(Condition::Newer(format));
    }
    serde_json::from_slice(&found.bytes).map_err(damaged)
}
