//! Rows of the table, written again as a file of a slice.

use std::sync::Arc;

use crate::cdr::day::PeriodDays;
use crate::cdr::slice::Slice;
use crate::config::Config;
use crate::lake::Lake;
use crate::privacy::Privacy;
use crate::slice_file::convert::{ConvertError, ConvertOptions, Converted, Converter};
use crate::slice_file::writer::read_rows;
use crate::store::LocalCopy;

/// How rows of the table are written again for `slice`, without the calls that `privacy`
/// suppresses.
pub(super) fn rewrite_options(
    lake: &Lake,
    config: &Config,
    slice: Slice,
    privacy: Arc<Privacy>,
) -> ConvertOptions {
    ConvertOptions {
        slice,
        days: PeriodDays::new(slice.period, &config.window.timezone),
        export_files: None,
        spool_dir: lake.spool_dir().to_owned(),
        max_record_bytes: config.limits.max_record_bytes,
        max_slice_bytes: u64::MAX,
        // Equal rows in the table were kept on purpose.
        dedupe: false,
        // Times in the table are instants.
        assume_timezone: None,
        privacy,
        // Credentials were removed when the rows were fetched.
        credentials: Arc::default(),
        parquet: config.parquet.clone(),
    }
}

/// Writes the rows of these files again, in order. Blocks.
///
/// # Errors
/// [`ConvertError`] if a file cannot be read, or the spool cannot be written.
pub(super) fn rewrite_rows(
    options: ConvertOptions,
    copies: &[LocalCopy],
) -> Result<Converted, ConvertError> {
    let slice = options.slice;
    let mut converter = Converter::try_new(options)?;
    for copy in copies {
        if let Err(error) = read_rows(&copy.path, slice, |record| converter.keep(record)) {
            // A full disk is reported rather than its consequences.
            return Err(converter.abandon().err().unwrap_or(error));
        }
    }
    converter.finish()
}
