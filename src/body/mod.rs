//! From bytes to records: compression is undone, records are found, and each is decoded or refused.

pub mod csv;
pub mod decompress;
pub mod framing;
pub(crate) mod place;
pub mod reader;
