//! Who watches.

use std::fmt;

use crate::cdr::slice::Slice;
use crate::lake::report::SliceReport;

/// Told how something goes on, from any thread. What an observer does not care for does nothing.
pub trait Observer: fmt::Debug + Send + Sync {
    /// An export of so many bytes is being read; of unknown length if zero.
    fn reading_began(&self, _bytes: u64) {}
    /// More of its bytes were read.
    fn bytes_read(&self, _bytes: u64) {}
    /// So many slices are to be done.
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

/// Nobody watches.
impl Observer for () {}
