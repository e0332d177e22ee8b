//! Streams call detail records (CDRs) from the Wavix API into a lake of date-partitioned Parquet
//! files. The lake is complete, exact and free of duplicates, and every run can be repeated safely.
//! The program `cdrlake` is a command line for this library.
//!
//! ```text
//! HTTP body ─chunk→ decompress → framing ─record→ decode ─batch→ encode → spool → publish → ledger
//!                                   └──bad record──┴→ rejects
//! ```
//!
//! # Fill a lake
//!
//! A [`Job`] brings the lake of a [`Config`] up to date with the calls of a [`Source`]: it opens or
//! creates the lake, plans which days are due, and fetches them. [`Api`] is the Wavix source; in
//! this example it connects to a [`Simulator`]. A [`Verification`] reads the whole lake again.
//!
//! ```
//! use std::sync::Arc;
//!
//! use cdrlake::{
//!     Api, Config, Faults, Generator, Job, KeyOrder, RunOutcome, Selection, Simulator,
//!     Verification,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let calls = Generator { seed: 1, calls_per_day: 100, key_order: KeyOrder::Fixed };
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let (address, _server) = Simulator::new(calls, "demo", Faults::default()).serve(listener)?;
//!
//! let directory = tempfile::tempdir()?;
//! let config = Config::from_keys([
//!     ("source.url", format!("http://{address}")),
//!     ("lake.url", directory.path().display().to_string()),
//! ])?;
//! let source = Arc::new(Api::try_new(&config.source, Some("demo".into()))?);
//! let last_two_days = Selection { last_days: Some(2), ..Selection::default() };
//!
//! let filled = Job::new(config.clone(), source).with_selection(last_two_days).run().await?;
//! assert_eq!(filled.run.report.outcome, RunOutcome::Committed);
//!
//! let verified = Verification::of(&config).check(&()).await?;
//! assert!(verified.is_proven());
//! assert_eq!(verified.found.rows, filled.run.report.totals.counts.rows);
//! # Ok(())
//! # }
//! ```
//!
//! # Pass on slices without a lake
//!
//! [`stream`] fetches slices, and hands out each as record batches once it has passed everything
//! that a run would publish it for.
//!
//! ```
//! use std::sync::Arc;
//!
//! use cdrlake::{Api, Config, Faults, Generator, KeyOrder, Selection, Simulator};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let calls = Generator { seed: 1, calls_per_day: 100, key_order: KeyOrder::Fixed };
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let (address, _server) = Simulator::new(calls, "demo", Faults::default()).serve(listener)?;
//! # let directory = tempfile::tempdir()?;
//! let config = Config::from_keys([
//!     ("source.url", format!("http://{address}")),
//!     // A lake that is there would be read for the numbers that were erased from it.
//!     ("lake.url", directory.path().join("none").display().to_string()),
//! ])?;
//! let source = Arc::new(Api::try_new(&config.source, Some("demo".into()))?);
//! let yesterday = Selection { last_days: Some(1), ..Selection::default() };
//!
//! let (observer, interrupt) = (Arc::new(()), Default::default());
//! let stream = cdrlake::stream(Arc::new(config), source, &yesterday, observer, &interrupt);
//! let mut stream = stream.await?;
//! let mut slices = 0;
//! while let Some(proven) = stream.next().await? {
//!     let mut rows = 0;
//!     for batch in proven.batches()? {
//!         rows += batch?.num_rows() as u64;
//!     }
//!     assert_eq!(rows, proven.slice.counts.rows);
//!     slices += 1;
//! }
//! assert_eq!(slices, stream.request.slices);
//! # Ok(())
//! # }
//! ```
//!
//! # Read calls as record batches
//!
//! [`Batches`] needs no lake: it reads a body of NDJSON, JSON or CSV into Arrow record batches with
//! the same [columns](schema).
//!
//! ```
//! use cdrlake::{Batches, Slice};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let body = br#"{"date":"2026-10-01T10:00:00Z","call_id":"a","duration":61,"charge":"0.027"}
//! {"date":"2026-10-01T10:00:01Z","call_id":"b","duration":5,"charge":"0.0045"}
//! "#;
//! let mut calls = 0;
//! for batch in Batches::new(&body[..], "placed 2026-10-01".parse::<Slice>()?) {
//!     let batch = batch?;
//!     let charges = batch.column_by_name("charge_usd").expect("a batch has all columns");
//!     assert_eq!(charges.data_type().to_string(), "Decimal128(18, 9)");
//!     calls += batch.num_rows();
//! }
//! assert_eq!(calls, 2);
//! # Ok(())
//! # }
//! ```

mod body;
mod cdr;
mod cli;
mod config;
mod error;
mod lake;
mod ops;
mod privacy;
mod retry;
mod simulator;
mod slice_file;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod warehouse;

pub use body::decompress::Encoding;
pub use body::framing::Format;
pub use cdr::columns::schema;
pub use cdr::period::{Period, PeriodUnit};
pub use cdr::slice::{Direction, Slice};
pub use config::{Config, ConfigError, ConfigErrorKind};
pub use lake::ledger::Asked;
pub use lake::{Lake, LakeError};
pub use ops::days::{DayRange, Selection, Shard};
pub use ops::job::{Job, Outcome};
pub use ops::load::Load;
pub use ops::open::{find_lake, open_lake};
pub use ops::plan::{Due, DueReason, Plan, plan};
pub use ops::run::{RunResult, Stop};
pub use ops::stream::{
    ProvenSlice, SliceFailed, SliceStream, StreamRequest, StreamedSlice, stream,
};
pub use ops::verify::{
    Fault, Finding, Remedy, Repair, SourceCheck, Verification, Verified, VerifyReport,
};
pub use ops::{Error, Observer, UsageError};
pub use privacy::Credentials;
pub use retry::{Fate, RetryHint, RetryReason, StopCause};
pub use simulator::{Faults, Generator, KeyOrder, Simulator};
pub use slice_file::batches::{Batches, BatchesError};
pub use source::files::Input;
pub use source::wavix::Api;
pub use source::{Body, Chunks, Paging, Request, Source, SourceError};

/// The report of a run, as the lake stores it and `--format json` prints it.
pub mod report {
    pub use crate::cdr::reconcile::Verdict;
    pub use crate::cdr::tally::{Counts, Totals};
    pub use crate::lake::ledger::{Reason, State};
    pub use crate::lake::report::{
        Change, FileReport, Remark, RemarkKind, RunOutcome, RunReport, RunTotals, SliceOutcome,
        SliceReport, Sums,
    };
}
pub use report::{RunOutcome, RunReport, SliceOutcome, SliceReport};

/// Internals for the program and for this crate's tests, benches and fuzz targets. They may change
/// in every version.
#[doc(hidden)]
pub mod internals {
    pub use crate::body::csv::{CsvRow, CsvRows};
    pub use crate::body::decompress::{DecompressError, Decompressor, MAX_PIECE_BYTES};
    pub use crate::body::framing::{BodySummary, Boundary, Frame, Framer, FramingError, Position};
    pub use crate::body::reader::{BodyLimits, Item, RecordReader};
    pub use crate::cdr::columns::COLUMNS;
    pub use crate::cdr::day::PeriodDays;
    pub use crate::cdr::decode::{DecodeError, Decoder, RECORD_KEYS, Record, TextClass, decode};
    pub use crate::cdr::digest::{Digest, RowHash, RowHasher};
    pub use crate::cdr::hiding::RecordPrivacy;
    pub use crate::cdr::slice::parse_day;
    pub use crate::cdr::tally::RowTally;
    pub use crate::cli::Arguments;
    pub use crate::config::SourceConfig;
    pub use crate::error::{chain, install_panic_hook};
    pub use crate::ops::removal::{erase, prune};
    pub use crate::ops::run::RunOptions;
    pub use crate::ops::run::reports::changed_since;
    pub use crate::ops::{run, verify};
    pub use crate::privacy::{Mode, Modes, Privacy, PrivacyKey};
    pub use crate::slice_file::batch::BatchBuilder;
    pub use crate::slice_file::convert::{ConvertError, ConvertOptions, Converter};
    pub use crate::slice_file::dedupe::duplicates::DuplicateFinder;
    pub use crate::slice_file::dedupe::repeats::RepeatFinder;
    pub use crate::slice_file::options::ParquetOptions;
    pub use crate::slice_file::writer::{SpoolFile, SpoolWriter, checksum_of, read_footer};
    pub use crate::store::bucket::{BucketOptions, BucketStore, BucketUrl};
    pub use crate::store::local::LocalStore;
    pub use crate::store::{
        Garbage, Housekeeping, LakeStore, Lease, LeaseState, Leases, LocalCopy, ObjectState,
        Objects, Staged, StoreError, Swap, Version, Versioned, layout, probe,
    };
}

/// The program's name and version, for the source, the ledger and files of the lake.
const TOOL: &str = concat!("cdrlake/", env!("CARGO_PKG_VERSION"));
