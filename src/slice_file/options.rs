//! How files are written.

use parquet::basic::Compression;

/// How files are written: the `[parquet]` part of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ParquetOptions {
    /// Codec of every column.
    pub compression: Compression,
    /// Most rows of a row group.
    pub row_group_rows: usize,
    /// Most encoded bytes of a row group: it bounds the memory of a slice.
    pub row_group_bytes: usize,
}
