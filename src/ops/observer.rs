//! Progress of operations.

use std::fmt;

use crate::cdr::slice::Slice;
use crate::lake::report::SliceReport;

/// Receives the progress of an operation, from any thread. By default, every event is ignored.
pub trait Observer: fmt::Debug + Send + Sync {
    /// Reading of an export has started: its size in bytes, or zero if that is unknown.
    fn reading_began(&self, _bytes: u64) {}
    /// More of its bytes were read.
    fn bytes_read(&self, _bytes: u64) {}
    /// This many slices are to be processed.
    fn slices_began(&self, _slices: usize) {}
    /// A slice is being fetched, for the `attempt`th time.
    fn slice_began(&self, _slice: Slice, _attempt: u32) {}
    /// More records of some slice were read.
    fn records_read(&self, _records: u64) {}
    /// A run is done with a slice.
    fn slice_ended(&self, _report: &SliceReport) {}
    /// One more slice was looked at by something that is no run.
    fn slice_looked_at(&self) {}
    /// All of it is done, or was given up.
    fn ended(&self) {}
}

/// Ignores all progress.
impl Observer for () {}
