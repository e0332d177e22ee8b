//! Integration tests: one binary, one module for each subject.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::string_slice,
    reason = "a test may panic: that is how it fails"
)]

/// A lake in a container of an Azure server, if `TEST_AZURE_ENDPOINT` names one.
mod azure;
/// The real binary: results, exit statuses, messages, bad input.
mod cli;
/// Streams that are compressed.
mod compression;
/// What every store must do.
mod conformance;
/// The conversion of a lake of days into months.
mod convert;
/// What is stored holds no credentials.
mod credentials;
/// The export in CSV.
mod csv;
/// What is printed for warehouses.
mod ddl;
/// Messages and names in the documentation, and the length of lines.
mod docs;
/// Runs that are repeated until a signal.
mod every;
/// What lands in the lake, against an oracle that reads the same bytes with `serde_json`.
mod exactness;
/// The program against a source that fails.
mod faults;
/// The source over HTTP/2.
mod http2;
/// A reader of the logs of Apache Iceberg.
mod iceberg_logs;
/// What is JSON, by a suite of documents.
mod json_suite;
/// Exports in files.
mod load;
/// The file of metrics.
mod metrics;
/// Lakes whose slices are months: requests, and months of which a part is broken.
mod months;
/// Servers that are odd, and whose calls are to be had all the same.
mod odd_servers;
/// Streams that are paged, and the paginated list.
mod pages;
/// What becomes of phone numbers.
mod privacy;
/// The way into the lake, with a fault at each of its operations.
mod protocol;
/// Stands between the program and a store, and plays tricks.
mod proxy;
/// What a lake goes through: damage, death, shrinking, another run, a full disk, a signal.
mod recovery;
/// Rejects as they are read again.
mod rejects;
/// What is taken out of a lake: days that are too old, and the calls of a number.
mod removal;
mod report;
/// How many requests a run makes to a bucket.
mod requests;
/// Which room of the library knows which.
mod rooms;
/// A lake in a bucket of a real S3 server, over HTTP, if `TEST_S3_ENDPOINT` names one.
mod s3;
/// A source that serves exactly what a test gives it.
mod server;
/// The simulated API, over HTTP.
mod simulator;
/// A source that fails now and then, for long.
mod soak;
/// Stores for tests: one in memory, and one that fails on request.
mod stores;
/// Slices on standard output.
mod stream;
/// What the tests share: a lake in a temporary folder, runs of the binary.
mod support;
/// A fault at each operation of something that is done to a lake.
mod sweep;
/// The real binary, with a fault at each of its system calls.
mod syscalls;
/// Readers of the logs of table formats.
mod table_logs;
/// Certificates that the program trusts.
mod tls;
/// Looking at a lake afterwards: `verify` and `rejects`.
mod verify;
