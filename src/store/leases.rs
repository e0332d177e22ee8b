//! Leases: who may work on what.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use object_store::path::Path;

use super::StoreError;

/// The right to work on something, for as long as it is held. Dropping it gives it back.
pub trait Lease: fmt::Debug + Send + Sync {
    /// Whether it is still held: nobody took it over, nobody removed it.
    fn is_held(&self) -> bool;
}

/// Longest time that is granted to anybody, whatever its lease says.
pub(crate) const MAX_LEASE_EXPIRY: Duration = Duration::from_hours(1);

/// Whether somebody holds a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Nobody.
    Free,
    /// Somebody who is alive.
    Held,
    /// Somebody who may be dead: on an object store only time tells, at most
    /// [`Leases::lease_expiry`].
    Unproven,
}

/// Leases, which at most one holder has at a time. Paths are relative to the lake.
#[async_trait]
pub trait Leases: fmt::Debug + Send + Sync {
    /// Takes the lease named `path`, or returns `None` if another process, or another task of this
    /// one, holds it.
    async fn try_lease(&self, path: &Path) -> Result<Option<Box<dyn Lease>>, StoreError>;

    /// Whether somebody holds the lease named `path`. Writes nothing.
    async fn lease_state(&self, path: &Path) -> Result<LeaseState, StoreError>;

    /// How long the lease of a dead process bars others; `None` if it dies with the process.
    fn lease_expiry(&self) -> Option<Duration>;

    /// Whether conditional writes are conditional here, and leases therefore leases. Where not,
    /// only one run at a time may write. Asked once.
    async fn honours_conditions(&self) -> Result<bool, StoreError>;
}
