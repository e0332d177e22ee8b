//! What a call is: the columns of a call detail record and what decodes into them, the slice that a
//! record belongs to, and what is counted and compared over many of them.

pub mod amount;
pub mod columns;
pub mod day;
pub mod decode;
pub mod digest;
mod hiding;
pub mod reconcile;
pub mod slice;
pub mod tally;

#[cfg(test)]
mod tests;
