//! Writes the records of a slice to a Parquet file in the spool and reads rows back. Rejected
//! records go to a second file.

pub(crate) mod batch;
pub(crate) mod batch_writer;
pub(crate) mod batches;
pub(crate) mod convert;
pub(crate) mod dedupe;
pub(crate) mod encode;
pub(crate) mod options;
pub(crate) mod rejects;
pub(crate) mod scan;
pub(crate) mod statistics;
pub(crate) mod writer;
