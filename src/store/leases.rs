//! Leases: exclusive rights to work on something.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use object_store::path::Path;

use super::StoreError;

/// The exclusive right to work on something. Dropping it releases it.
pub trait Lease: fmt::Debug + Send + Sync {
    /// Whether it is still held: it neither expired nor was removed.
    fn is_held(&self) -> bool;
}

/// Longest expiry that is honoured, whatever a lease contains.
pub(crate) const MAX_LEASE_EXPIRY: Duration = Duration::from_hours(1);

/// Whether a process holds a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// No process holds it.
    Free,
    /// A live process holds it.
    Held,
    /// Its holder may have crashed. On an object store this is certain after at most
    /// [`Leases::lease_expiry`].
    Unproven,
}

/// Leases, each with at most one holder at a time. Paths are relative to the lake.
#[async_trait]
pub trait Leases: fmt::Debug + Send + Sync {
    /// Acquires the lease at `path`. `None` if another process, or another task of this one, holds
    /// it.
    async fn try_lease(&self, path: &Path) -> Result<Option<Box<dyn Lease>>, StoreError>;

    /// Whether a process holds the lease at `path`. Writes nothing.
    async fn lease_state(&self, path: &Path) -> Result<LeaseState, StoreError>;

    /// How long the lease of a crashed process blocks others; `None` if it ends with the process.
    fn lease_expiry(&self) -> Option<Duration>;

    /// Whether the store honours conditional writes, on which leases rely. If not, only one run at
    /// a time may write. Tested once per process.
    async fn honours_conditions(&self) -> Result<bool, StoreError>;
}
