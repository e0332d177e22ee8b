//! Options of Parquet files.

use parquet::basic::Compression;

/// Options of Parquet files: section `[parquet]` of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ParquetOptions {
    /// Codec of every column.
    pub compression: Compression,
    /// Most rows of a row group.
    pub row_group_rows: usize,
    /// Most encoded bytes of a row group. Bounds the memory of a slice.
    pub row_group_bytes: usize,
}
