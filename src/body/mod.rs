//! From bytes to records: compression is undone, records are found, and each is decoded or refused.

pub(crate) mod csv;
pub(crate) mod decompress;
pub(crate) mod framing;
pub(crate) mod reader;
