//! Streams call detail records (CDRs) from the Wavix API into a lake of date-partitioned Parquet
//! that is complete, exact, free of duplicates and safe to write again.
//!
//! ```text
//! HTTP body ─chunk→ decompress → framing ─record→ decode ─batch→ writer → spool ─→ verify → publish → ledger
//!  (source)                         └──bad record──┴→ rejects
//! ```
//!
//! A [`slice`](mod@cdr::slice) is the unit of work: one direction of calls on one day.
//! [`plan`](mod@ops::plan) says which slices are due, [`run`](ops::run) does them and alone knows
//! all stages, [`wavix`](source::wavix) asks the API, [`decompress`](body::decompress) undoes the
//! transport's compression, [`framing`](body::framing) finds records in bytes,
//! [`reader`](body::reader) does both, [`decode`](cdr::decode) gives records types,
//! [`convert`](slice_file::convert) runs these and [`writer`](slice_file::writer),
//! [`duplicates`](slice_file::dedupe::duplicates) and [`rejects`](slice_file::rejects) on a thread,
//! [`reconcile`](cdr::reconcile) compares with the provider's count, and [`lake`] publishes.
//! [`verify`](ops::verify) reads it all again. [`simulator`] is a stand-in for the API.

pub mod body;
pub mod cdr;
pub mod cli;
pub mod config;
pub mod error;
pub mod lake;
pub mod ops;
pub mod privacy;
pub mod retry;
pub mod simulator;
pub mod slice_file;
pub mod source;
pub mod store;
pub mod warehouse;

/// This program's name and version, as the source, the ledger and files of the lake see it.
pub const TOOL: &str = concat!("cdrlake/", env!("CARGO_PKG_VERSION"));
