//! What a user asks for: a plan and the run that carries it out, a look at what is there, and the
//! removal of calls.

pub(crate) mod check;
pub(crate) mod days;
mod error;
mod fetch;
pub(crate) mod gc;
pub(crate) mod job;
mod leases;
pub(crate) mod load;
pub(crate) mod metrics;
pub(crate) mod months;
mod observer;
pub(crate) mod open;
pub(crate) mod period_remarks;
pub(crate) mod plan;
pub(crate) mod rejects;
pub(crate) mod removal;
pub(crate) mod report;
mod rewrite;
pub mod run;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod stream;
pub(crate) mod tables;
mod thread;
pub mod verify;
pub(crate) mod warehouse;

pub use error::{Error, UsageError};
pub use observer::Observer;

#[cfg(test)]
mod tests;
