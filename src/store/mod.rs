//! The place where a lake lies: local disk or an object store.

pub(crate) mod bucket;
mod error;
mod housekeeping;
pub(crate) mod http;
pub mod layout;
mod leases;
pub(crate) mod local;
pub(crate) mod location;
pub(crate) mod lock;
mod objects;
pub(crate) mod spool;
pub(crate) mod tls;
pub(crate) mod whole_file;

pub use error::StoreError;
pub(crate) use error::{ClassifiedError, FailureKind};
pub use housekeeping::{Garbage, Housekeeping};
pub(crate) use leases::MAX_LEASE_EXPIRY;
pub use leases::{Lease, LeaseState, Leases};
pub use objects::{LocalCopy, ObjectState, Objects, Staged, Swap, Version, Versioned, probe};

/// All that a lake asks of local disk or of an object store.
pub trait LakeStore: Objects + Leases + Housekeeping {}

impl<T: Objects + Leases + Housekeeping> LakeStore for T {}
