//! How far something has come.

/// Told how far something with many slices has come, from any thread.
pub trait Progress: Sync {
    /// So many slices will be looked at.
    fn begin(&self, slices: usize);
    /// One more was.
    fn advance(&self);
}

/// Nobody looks.
impl Progress for () {
    fn begin(&self, _slices: usize) {}
    fn advance(&self) {}
}
