//! Rows that are there twice: whether there may be any, and which.

pub mod duplicates;
pub mod repeats;
pub mod sort;
