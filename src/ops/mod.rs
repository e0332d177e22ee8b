//! What a user asks for: a plan and the run that carries it out, a look at what is there, and the
//! removal of calls.

pub mod plan;
pub mod removal;
pub mod run;
pub mod status;
pub mod verify;
