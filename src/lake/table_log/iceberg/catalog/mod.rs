//! A REST catalog that follows the log.
//!
//! The catalog is derived from the log, as the log is derived from the ledger. First a snapshot is
//! in the log, then it becomes the branch `main` of the catalog's table. A commit requires that
//! `main` has not changed since it was read. A process first checks that it has the newest version
//! of the log. With an older one it changes nothing.
//!
//! The catalog adds a snapshot only if its sequence number is above the last one, and its time is
//! not long before the last update. Another program's commit takes such a number. Then the log gets
//! a new version with a higher number and a later time, which the catalog accepts.

mod changes;
mod client;
#[cfg(test)]
mod model;

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use secrecy::SecretString;
use url::Url;

use self::changes::Changes;
pub(crate) use self::client::CatalogError;
#[cfg(test)]
use self::client::Transport;
use self::client::{Change, Client, LATER, Network, OTHER_TABLE};
#[cfg(test)]
pub(crate) use self::model::{Fault, Model};
use super::versions::metadata_path;
use super::{IcebergLog, Snapshot};
use crate::lake::table_log::{Followed, TableLogError};
use crate::retry::{Retry, RetryPolicy};

/// Changes of the table for one snapshot.
const MAX_WRITES: u32 = 8;

/// Fetches the credential when it is needed. An error is a sentence without the credential.
#[derive(Clone)]
pub struct Credential(pub(crate) Arc<dyn Fn() -> Result<SecretString, String> + Send + Sync>);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

/// Where the catalog is, and which table in it is the lake's: `[lake.iceberg.catalog]`.
#[derive(Clone, Debug)]
pub struct CatalogOptions {
    /// Its address before `/v1`.
    pub url: Url,
    /// Its warehouse, if it has several.
    pub warehouse: Option<String>,
    /// The levels of the namespace.
    pub namespace: Vec<String>,
    /// The table's name in the namespace.
    pub table: String,
    /// A token, or an ID and a secret with a colon between them.
    pub credential: Option<Credential>,
    /// The OAuth scope to ask for.
    pub scope: String,
    /// The OAuth token endpoint, if it is not the catalog's.
    pub token_url: Option<Url>,
}

/// The lake's table in a catalog.
#[derive(Debug)]
pub(crate) struct Catalog {
    client: Client,
}

impl Catalog {
    /// No I/O.
    ///
    /// # Errors
    /// [`CatalogError`] if TLS cannot be set up.
    pub(crate) fn try_new(options: CatalogOptions) -> Result<Self, CatalogError> {
        let network = Network::new(&options.url)
            .map_err(|problem| CatalogError::new(&options.url, "connect", &problem, LATER))?;
        Ok(Self {
            client: Client::new(options, Arc::new(network)),
        })
    }

    #[cfg(test)]
    pub(crate) fn with_transport(options: CatalogOptions, transport: Arc<dyn Transport>) -> Self {
        Self {
            client: Client::new(options, transport),
        }
    }

    /// What the catalog holds, in words.
    ///
    /// # Errors
    /// [`CatalogError`] if it cannot be read.
    pub(crate) async fn describe(&self) -> Result<String, CatalogError> {
        let (url, name) = (self.client.url(), self.client.name());
        Ok(match self.client.table().await? {
            None => format!("{url} answers; it has no table {name} yet"),
            Some(table) => match table.current() {
                None => format!("{url} answers; its table {name} has no snapshot"),
                Some(current) => format!(
                    "{url} answers; {name} has snapshot {} with {} files",
                    current.snapshot_id,
                    current
                        .summary
                        .get(super::TOTAL_FILES)
                        .map_or("?", |files| files)
                ),
            },
        })
    }

    /// In what the catalog differs from the log. Writes nothing.
    pub(super) async fn compare(
        &self,
        log: &IcebergLog,
        newest: &Snapshot,
    ) -> Result<Vec<String>, TableLogError> {
        let (url, name) = (self.client.url(), self.client.name());
        let found = match self.client.table().await {
            Ok(found) => found,
            Err(error) => return Ok(vec![error.to_string()]),
        };
        let Some(found) = found else {
            return Ok(vec![format!("the catalog {url} has no table {name}")]);
        };
        let location = log.location();
        let problems = match Changes::between(&found, &newest.metadata, &location, log.unit) {
            Ok(changes) => changes.problems,
            Err(problem) => vec![problem],
        };
        let named = problems.into_iter();
        let named = named.map(|problem| format!("{name} in the catalog {url}: {problem}"));
        Ok(named.collect())
    }

    /// Makes the newest snapshot of the log that of the catalog, and removes every other one that
    /// the log does not have.
    pub(super) async fn follow(
        &self,
        log: &IcebergLog,
        newest: &Snapshot,
    ) -> Result<Followed<Snapshot>, TableLogError> {
        let mut retry = Retry::new(RetryPolicy::STORE, None);
        let mut writes = 0;
        loop {
            let found = self.client.table().await?;
            let changes = match &found {
                None => None,
                Some(found) => {
                    let location = log.location();
                    let changes = Changes::between(found, &newest.metadata, &location, log.unit);
                    let changes = changes.map_err(|problem| {
                        let action = format!("update {}", self.client.name());
                        self.client.failed(&action, &problem, OTHER_TABLE)
                    })?;
                    if changes.is_empty() {
                        return Ok(Followed::Done(writes > 0));
                    }
                    Some(changes)
                }
            };
            if !log.is_newest(Some(newest)).await? {
                return Ok(Followed::ReadAgain);
            }
            let change = match (found, changes) {
                (Some(found), Some(changes)) if changes.needs_later_snapshot => {
                    return Ok(Followed::CommitAgain(newest.outrunning(&found)));
                }
                (Some(_), Some(changes)) => {
                    let requirements = &changes.requirements;
                    self.client.commit(requirements, &changes.updates).await?
                }
                _ => match self.create(log, newest).await? {
                    ControlFlow::Continue(change) => change,
                    ControlFlow::Break(followed) => return Ok(followed),
                },
            };
            writes += 1;
            match change {
                // Read again: it may have made only some of the changes.
                Change::Done(_) if writes < MAX_WRITES => {}
                Change::Done(_) => {
                    let problem = "it accepts changes, but its table stays as it is";
                    let action = format!("update {}", self.client.name());
                    return Err(self.client.failed(&action, problem, OTHER_TABLE).into());
                }
                Change::Unclear(_) if retry.wait_for_next().await => {}
                Change::Unclear(error) | Change::Unsupported(error) => return Err(error.into()),
            }
        }
    }

    /// Registers the newest version of the log. A catalog that cannot, because it keeps metadata
    /// only in a place of its own, creates the table itself, with the same UUID.
    async fn create(
        &self,
        log: &IcebergLog,
        newest: &Snapshot,
    ) -> Result<ControlFlow<Followed<Snapshot>, Change>, CatalogError> {
        let client = &self.client;
        client.create_namespace().await?;
        let file = log.uri(&metadata_path(newest.version));
        let refused = match client.register(&file).await? {
            Change::Unsupported(error) => error,
            change => return Ok(ControlFlow::Continue(change)),
        };
        let created = async {
            let staged = match client.stage(&newest.metadata).await? {
                Ok(staged) => staged,
                Err(change) => return Ok(ControlFlow::Continue(change.after(&refused))),
            };
            let changes = Changes::creating(&staged, &newest.metadata);
            if changes.needs_later_snapshot {
                let base = newest.outrunning(&staged);
                return Ok(ControlFlow::Break(Followed::CommitAgain(base)));
            }
            let change = client.commit(&changes.requirements, &changes.updates);
            Ok(ControlFlow::Continue(change.await?.after(&refused)))
        };
        let created: Result<_, CatalogError> = created.await;
        created.map_err(|error| error.after(&refused))
    }
}
