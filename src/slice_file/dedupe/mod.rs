//! Rows that are there twice: whether there may be any, and which.

pub(crate) mod duplicates;
pub(crate) mod repeats;
pub(crate) mod sort;
