//! What a user asks for: a plan and the run that carries it out, a look at what is there, and the
//! removal of calls.

pub mod check;
pub mod days;
mod error;
pub mod gc;
pub mod job;
pub mod load;
mod observer;
pub mod open;
pub mod plan;
pub mod rejects;
pub mod removal;
pub mod run;
pub mod status;
pub mod verify;
pub mod warehouse;

pub use error::Error;
pub use observer::Observer;

#[cfg(test)]
mod tests;
