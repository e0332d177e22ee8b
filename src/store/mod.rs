//! What a lake needs of the place it lies in.

pub mod bucket;
mod error;
mod housekeeping;
pub mod layout;
mod leases;
pub mod local;
pub mod location;
pub(crate) mod lock;
mod objects;
pub(crate) mod spool;
pub(crate) mod tls;

pub use error::{ClassifiedError, FailureKind, StoreError};
pub use housekeeping::{Garbage, Housekeeping};
pub use leases::{Lease, LeaseState, Leases, MAX_LEASE_EXPIRY};
pub use objects::{LocalCopy, ObjectState, Objects, Staged, Swap, Version, Versioned, probe};

/// All that a lake asks of local disk or of an object store.
pub trait LakeStore: Objects + Leases + Housekeeping {}

impl<T: Objects + Leases + Housekeeping> LakeStore for T {}
