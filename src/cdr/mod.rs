//! Call detail records: their columns and decoding, the slice that a record belongs to, and counts,
//! sums and digests of many records.

pub(crate) mod amount;
pub(crate) mod columns;
pub(crate) mod day;
pub(crate) mod decode;
pub(crate) mod digest;
pub(crate) mod hiding;
pub(crate) mod period;
pub(crate) mod reconcile;
pub(crate) mod slice;
pub(crate) mod tally;

#[cfg(test)]
mod tests;
