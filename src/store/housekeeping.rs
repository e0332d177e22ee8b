//! Housekeeping: what is dropped, and what the dead leave.

use std::fmt;

use async_trait::async_trait;
use object_store::path::Path;
use serde::Serialize;

use super::StoreError;

/// What [`Housekeeping::collect_garbage`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Garbage {
    /// What was removed, by its path in the lake or on this machine.
    pub removed: Vec<String>,
    /// What could not be looked at or removed, and why.
    pub left: Vec<String>,
}

/// What is left to do behind this process, and behind those that died.
#[async_trait]
pub trait Housekeeping: fmt::Debug + Send + Sync {
    /// Waits until leases that were dropped are given back, and staged files that were dropped
    /// are taken back. Without an implementation of its own: both are done as they are dropped.
    async fn settle(&self) {}

    /// What dead processes left behind on the way to [`stage`](super::Objects::stage) or a
    /// conditional write, and no live one holds, as far as a look can tell. Never anything of the
    /// table. Writes nothing. Without an implementation of its own: a look can tell of none.
    async fn find_leftovers(&self) -> Result<Vec<Path>, StoreError> {
        Ok(Vec::new())
    }

    /// Removes what [`find_leftovers`](Self::find_leftovers) finds, and says what it was.
    async fn remove_leftovers(&self) -> Result<Vec<Path>, StoreError> {
        Ok(Vec::new())
    }

    /// Removes everything that dead processes left, also where it takes
    /// [`lease_expiry`](super::Leases::lease_expiry) to know that they are dead, and says what it
    /// was. Without an implementation of its own: a look can tell of all.
    async fn collect_garbage(&self) -> Result<Garbage, StoreError> {
        let removed = self.remove_leftovers().await?;
        Ok(Garbage {
            removed: removed.iter().map(Path::to_string).collect(),
            left: Vec::new(),
        })
    }
}
