//! Finds duplicate rows: first whether any id repeats, then which rows are equal.

pub(crate) mod duplicates;
pub(crate) mod repeats;
pub(crate) mod sort;
