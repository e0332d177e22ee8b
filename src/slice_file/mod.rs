//! From the records of a slice to its Parquet file in the spool, and back to rows; what could not
//! become a row goes into a file beside it.

pub mod batch;
pub(crate) mod batch_writer;
pub mod batches;
pub mod convert;
pub mod dedupe;
pub(crate) mod encode;
pub mod options;
pub mod rejects;
pub mod writer;
