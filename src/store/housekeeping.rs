//! Housekeeping: dropped leases and uploads, and leftovers of crashed processes.

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
    /// What could not be examined or removed, and why.
    pub left: Vec<String>,
}

/// Cleaning up after this process and after crashed ones.
#[async_trait]
pub trait Housekeeping: fmt::Debug + Send + Sync {
    /// Waits until dropped leases are released and dropped staged files are removed. The default
    /// implementation is for stores that do both on drop.
    async fn settle(&self) {}

    /// Leftovers of crashed processes in [`stage`](super::Objects::stage) or a conditional write
    /// that no live process holds. Never a file of the table. Writes nothing. The default
    /// implementation is for stores that cannot recognize leftovers at once.
    async fn find_leftovers(&self) -> Result<Vec<Path>, StoreError> {
        Ok(Vec::new())
    }

    /// Removes what [`find_leftovers`](Self::find_leftovers) finds, and returns it.
    async fn remove_leftovers(&self) -> Result<Vec<Path>, StoreError> {
        Ok(Vec::new())
    }

    /// Removes this directory and those below it if they have no objects. The default
    /// implementation is for stores without directories.
    async fn remove_empty_directories(&self, _directory: &Path) -> Result<(), StoreError> {
        Ok(())
    }

    /// Removes all leftovers of crashed processes, and returns what it removed. Waits up to
    /// [`lease_expiry`](super::Leases::lease_expiry) where only time shows that a process has
    /// crashed.
    async fn collect_garbage(&self) -> Result<Garbage, StoreError> {
        let removed = self.remove_leftovers().await?;
        Ok(Garbage {
            removed: removed.iter().map(Path::to_string).collect(),
            left: Vec::new(),
        })
    }
}
