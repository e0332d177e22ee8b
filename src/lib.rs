//! Streams call detail records (CDRs) from the Wavix API into a lake of date-partitioned Parquet
//! that is complete, exact, free of duplicates and safe to write again.
//!
//! ```text
//! HTTP body ─chunk→ decompress → framing ─record→ decode ─batch→ writer → spool ─→ verify → publish → ledger
//!  (source)                         └──bad record──┴→ rejects
//! ```
//!
//! A [`slice`](mod@slice) is the unit of work: one direction of calls on one day. [`plan`](mod@plan) says which slices
//! are due, [`pipeline`] does them and alone knows all stages, [`source`] asks the API,
//! [`decompress`] undoes the transport's compression, [`framing`] finds records in bytes, [`records`] does both,
//! [`decode`] gives records types, [`convert`] runs these and [`writer`], [`duplicates`] and [`rejects`] on a thread, [`reconcile`] compares
//! with the provider's count, and [`lake`] publishes. [`verify`] reads it all again. [`simulator`] is a stand-in for the API.

pub mod amount;
mod batch_writer;
pub mod cli;
pub mod config;
pub mod convert;

pub mod ddl;
pub mod decode;
pub mod decompress;
pub mod digest;
pub mod duplicates;
mod encode;
pub mod error;
pub mod export;
pub mod framing;
mod intern;
pub mod lake;
mod numbers;
pub mod pipeline;
mod place;
pub mod plan;
pub mod privacy;
pub mod reconcile;
pub mod records;
pub mod rejects;
pub mod removal;
pub mod repeats;
pub mod report;
pub mod run_reports;
pub mod schema;
mod scratch;
pub mod simulator;
pub mod slice;
pub mod sort;
pub mod source;
mod spool;
pub mod status;
pub mod tally;
pub mod verify;
pub mod writer;
