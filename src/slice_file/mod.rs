//! From the records of a slice to its Parquet file in the spool, and back to rows; what could not
//! become a row goes into a file beside it.

pub(crate) mod batch;
pub(crate) mod batch_writer;
pub(crate) mod batches;
pub(crate) mod convert;
pub(crate) mod dedupe;
pub(crate) mod encode;
pub(crate) mod options;
pub(crate) mod rejects;
pub(crate) mod writer;
