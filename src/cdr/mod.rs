//! What a call is: the columns of a call detail record and what decodes into them, the slice that a
//! record belongs to, and what is counted and compared over many of them.

pub(crate) mod amount;
pub(crate) mod columns;
pub(crate) mod day;
pub(crate) mod decode;
pub(crate) mod digest;
mod hiding;
pub(crate) mod reconcile;
pub(crate) mod slice;
pub(crate) mod tally;

#[cfg(test)]
mod tests;
