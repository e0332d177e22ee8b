//! Writes the rows of a slice to a Parquet file in the spool, and reads such files back.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, Date32Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{FileMetaData, KeyValue, ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use tempfile::TempPath;
use xxhash_rust::xxh3::Xxh3Default;

use super::batch::{BATCH_ROWS, BATCH_TEXT_BYTES, BatchBuilder, Rows};
use super::batch_writer::{BatchWriter, FileWriter};
use super::encode::parquet_schema;
use super::options::ParquetOptions;
use super::statistics::FileStatistics;
use crate::cdr::columns::{COLUMNS, Kind, file_schema};
use crate::cdr::decode::Record;
use crate::cdr::slice::Slice;

/// Key of the slice's name in the footer's metadata.
pub(crate) const SLICE_KEY: &str = "cdrlake.slice";
/// Key of the longest row's text in bytes, in the footer's metadata. Readers limit their batches by
/// it.
const MAX_ROW_TEXT_KEY: &str = "cdrlake.max_row_text_bytes";
/// Rows read at once if the file lacks [`MAX_ROW_TEXT_KEY`].
const CAUTIOUS_BATCH_ROWS: usize = 64;

/// Most rows that are held in memory to sort them by day.
const SORTED_ROWS: usize = 32_768;
/// Most bytes of their text.
const SORTED_TEXT_BYTES: usize = 16 << 20;

/// Read buffer for checksums.
const CHECKSUM_BUFFER_BYTES: usize = 256 << 10;

/// A Parquet file of the spool or of the table cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The file system returned an error.
    #[error("cannot {action} the Parquet file {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The Parquet library returned an error, often one of the file system.
    #[error("cannot {action} the Parquet file {}", path.display())]
    Parquet {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: ParquetError,
    },
}

/// A finished file of the spool. Dropping it deletes it.
#[derive(Debug)]
pub struct SpoolFile {
    /// Its path.
    pub path: TempPath,
    /// Number of rows, or of rejects.
    pub rows: u64,
    /// Size.
    pub bytes: u64,
    /// [`checksum_of`] the file.
    pub checksum: String,
    /// Bounds of its columns; empty for rejects.
    pub statistics: FileStatistics,
}

impl SpoolFile {
    /// The finished file at `path`, with this number of rows or rejects.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of(path: TempPath, rows: u64) -> std::io::Result<Self> {
        Ok(Self {
            bytes: std::fs::metadata(&path)?.len(),
            checksum: checksum_of(&path)?,
            path,
            rows,
            statistics: FileStatistics::default(),
        })
    }

    /// Its rows in their order, with the [schema](file_schema) of a file. Memory: one batch.
    ///
    /// # Errors
    /// [`WriteError`] if it cannot be read.
    pub(crate) fn batches(
        &self,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, WriteError>> + use<>, WriteError> {
        let path = self.path.to_path_buf();
        let schema = Arc::new(file_schema());
        let reader = open_batches(&path, read_footer(&path)?)?;
        Ok(reader.map(move |batch| {
            let batch = batch.and_then(|batch| {
                // Without the ids of fields, which are of use in files only.
                RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec())
            });
            batch.map_err(|source| error(&path, "read", source.into()))
        }))
    }
}

/// A spool file without a footer. Dropping it deletes it.
#[derive(Debug)]
struct UnfinishedFile {
    slice: Slice,
    options: ParquetOptions,
    path: TempPath,
    rows: u64,
    max_row_text_bytes: usize,
}

/// Writes one slice. Memory: three batches (one is filled while another waits and a third is
/// encoded), and the encoded row group.
pub struct SpoolWriter {
    file: UnfinishedFile,
    builder: BatchBuilder,
    batches: BatchWriter,
}

// Without the rows, which are personal data.
impl fmt::Debug for SpoolWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SpoolWriter");
        shown.field("file", &self.file).finish_non_exhaustive()
    }
}

impl SpoolWriter {
    /// Creates a spool file at `path`, replacing a leftover of a crashed run. The caller holds the
    /// slice's lease, so there is no other writer.
    ///
    /// # Errors
    /// [`WriteError`] if the file cannot be created.
    pub fn try_new(
        path: &Path,
        slice: Slice,
        options: &ParquetOptions,
    ) -> Result<Self, WriteError> {
        let create = |source| WriteError::Io {
            action: "create",
            path: path.to_owned(),
            source,
        };
        let file = create_spool_file(path).map_err(create)?;
        let path = TempPath::try_from_path(path).map_err(create)?;
        let batches = BatchWriter::begin(file, options);
        let batches = batches.map_err(|source| error(&path, "begin", source))?;
        Ok(Self {
            file: UnfinishedFile {
                slice,
                options: options.clone(),
                path,
                rows: 0,
                max_row_text_bytes: 0,
            },
            builder: BatchBuilder::new(slice),
            batches,
        })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`WriteError`] if the spool cannot be written.
    pub fn append(&mut self, record: &Record<'_>) -> Result<(), WriteError> {
        let text_before = self.builder.text_bytes();
        self.builder.append(record);
        let row_text_bytes = self.builder.text_bytes() - text_before;
        self.file.max_row_text_bytes = self.file.max_row_text_bytes.max(row_text_bytes);
        if self.builder.is_full() {
            self.write_batch()?;
        }
        self.file.rows += 1;
        Ok(())
    }

    fn write_batch(&mut self) -> Result<(), WriteError> {
        let batch = self.builder.finish();
        let written = self.batches.write(batch);
        written.map_err(|source| error(&self.file.path, "write", source))
    }

    /// Abandons the file.
    ///
    /// # Errors
    /// [`WriteError`] if the spool could not be written and no earlier call returned the error.
    pub fn abandon(self) -> Result<(), WriteError> {
        let abandoned = self.batches.abandon();
        abandoned.map_err(|source| error(&self.file.path, "write", source))
    }

    /// Writes the last batch. The file then lacks only its footer.
    ///
    /// # Errors
    /// [`WriteError`] if the spool cannot be written.
    pub fn end(mut self) -> Result<SpooledRows, WriteError> {
        self.write_batch()?;
        let ended = self.batches.end();
        let writer = ended.map_err(|source| error(&self.file.path, "write", source))?;
        Ok(SpooledRows {
            file: self.file,
            writer,
        })
    }
}

/// All rows of a slice in a file without a footer. Dropping it deletes the file.
pub struct SpooledRows {
    file: UnfinishedFile,
    writer: FileWriter,
}

// Without the rows, which are personal data.
impl fmt::Debug for SpooledRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SpooledRows");
        shown.field("file", &self.file).finish_non_exhaustive()
    }
}

impl SpooledRows {
    /// Calls `each` for every row, in order. Memory: one batch.
    ///
    /// # Errors
    /// [`WriteError`] if the spool cannot be read, or what `each` returns.
    pub fn read<E: From<WriteError>>(
        &self,
        mut each: impl FnMut(&Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.read_batches(|batch| {
            let rows = Rows::try_new(&batch, self.file.slice);
            let rows = rows.map_err(|error| self.failed("read back", error))?;
            rows.iter().try_for_each(|record| each(&record))
        })
    }

    fn read_batches<E: From<WriteError>>(
        &self,
        each: impl FnMut(RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        self.read_row_groups(self.writer.flushed_row_groups().to_vec(), each)
    }

    /// The row groups that may have rows of these days, by their statistics.
    fn row_groups_of(&self, days: &RangeInclusive<i32>) -> Vec<RowGroupMetaData> {
        let may_have_some = |group: &&RowGroupMetaData| {
            let Some(Statistics::Int32(found)) = group.column(day_column()).statistics() else {
                return true;
            };
            found.min_opt().is_none_or(|min| min <= days.end())
                && found.max_opt().is_none_or(|max| days.start() <= max)
        };
        let groups = self.writer.flushed_row_groups().iter();
        groups.filter(may_have_some).cloned().collect()
    }

    fn read_row_groups<E: From<WriteError>>(
        &self,
        row_groups: Vec<RowGroupMetaData>,
        each: impl FnMut(RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        // Metadata like that of the future footer.
        let rows = i64::try_from(self.file.rows).unwrap_or(i64::MAX);
        let schema = Arc::new(parquet_schema());
        let file = FileMetaData::new(1, rows, None, Some(vec![self.max_row_text()]), schema, None);
        let metadata = Arc::new(ParquetMetaData::new(file, row_groups));
        let footer = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new())
            .map_err(|source| error(&self.file.path, "read back", source))?;
        read_batches(&self.file.path, footer, each)
    }

    fn failed(&self, action: &'static str, source: ArrowError) -> WriteError {
        error(&self.file.path, action, source.into())
    }

    fn max_row_text(&self) -> KeyValue {
        let bytes = self.file.max_row_text_bytes.to_string();
        KeyValue::new(MAX_ROW_TEXT_KEY.to_owned(), bytes)
    }

    /// Writes the footer with `metadata`, reads it back, and checks its number of rows.
    ///
    /// # Errors
    /// [`WriteError`] if the file cannot be finished or does not read back.
    pub fn finish(
        mut self,
        metadata: Vec<(&'static str, String)>,
    ) -> Result<SpoolFile, WriteError> {
        for (key, value) in metadata {
            self.writer
                .append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        let max_row_text = self.max_row_text();
        self.writer.append_key_value_metadata(max_row_text);
        if let Err(source) = self.writer.finish() {
            return Err(error(&self.file.path, "finish", source));
        }
        let footer = read_footer(&self.file.path)?;
        let rows = footer.metadata().file_metadata().num_rows();
        if u64::try_from(rows) != Ok(self.file.rows) {
            let source = ParquetError::General(format!(
                "its footer has {rows} rows, but {} were written",
                self.file.rows
            ));
            return Err(error(&self.file.path, "verify", source));
        }
        let path = self.file.path.to_path_buf();
        let finished = SpoolFile::of(self.file.path, self.file.rows);
        let finished = finished.map_err(|source| WriteError::Io {
            action: "verify",
            path,
            source,
        })?;
        Ok(SpoolFile {
            statistics: FileStatistics::of(footer.metadata()),
            ..finished
        })
    }

    /// Rewrites the file in the order of its days, which have these numbers of rows. Rows of one
    /// day keep their order.
    ///
    /// Reads the file once for every [`SORTED_ROWS`] rows, and once for every day with more rows,
    /// without row groups that have no such day: so of a file in descending order, it reads little
    /// twice. Memory: as for writing, and these rows.
    ///
    /// # Errors
    /// [`WriteError`] if either file cannot be written or read.
    pub fn sorted_by_day(self, days: impl Iterator<Item = (i32, u64)>) -> Result<Self, WriteError> {
        let row_text_bytes = self.file.max_row_text_bytes.max(1);
        let most_rows = (SORTED_TEXT_BYTES / row_text_bytes).clamp(1, SORTED_ROWS);
        self.sorted_with(days, most_rows as u64)
    }

    /// The same with at most so many rows in memory.
    fn sorted_with(
        self,
        days: impl Iterator<Item = (i32, u64)>,
        most_rows: u64,
    ) -> Result<Self, WriteError> {
        let path = self.file.path.with_extension("sorted");
        let slice = self.file.slice;
        let mut sorted = SpoolWriter::try_new(&path, slice, &self.file.options)?;
        let mut days = days.peekable();
        while let Some((first, mut rows)) = days.next() {
            let mut last = first;
            while let Some((day, more)) = days.next_if(|(_, more)| rows + more <= most_rows) {
                last = day;
                rows += more;
            }
            let row_groups = self.row_groups_of(&(first..=last));
            if first == last {
                self.read_row_groups(row_groups, |batch| {
                    let rows = Rows::try_new(&batch, slice);
                    let rows = rows.map_err(|error| self.failed("sort", error))?;
                    let mut of_day = rows.iter().filter(|it| it.source_day == Some(first));
                    of_day.try_for_each(|record| sorted.append(&record))
                })?;
                continue;
            }
            let mut batches = Vec::new();
            self.read_row_groups(row_groups, |batch| {
                let in_window =
                    |day: Option<i32>| day.is_some_and(|day| (first..=last).contains(&day));
                let days = days_of(&batch);
                let mask: BooleanArray = days.iter().map(|day| Some(in_window(day))).collect();
                let batch = filter_record_batch(&batch, &mask);
                batches.push(batch.map_err(|error| self.failed("sort", error))?);
                Ok::<(), WriteError>(())
            })?;
            let rows = batches.iter().map(|batch| Rows::try_new(batch, slice));
            let rows: Result<Vec<Rows<'_>>, _> = rows.collect();
            let rows = rows.map_err(|error| self.failed("sort", error))?;
            let mut order: Vec<(i32, usize, usize)> = Vec::new();
            for (at, batch) in batches.iter().enumerate() {
                let days = days_of(batch).values().iter().enumerate();
                order.extend(days.map(|(row, day)| (*day, at, row)));
            }
            order.sort_unstable();
            for (_, at, row) in order {
                sorted.append(&rows[at].record(row))?;
            }
        }
        sorted.end()
    }

    /// Rewrites the file without the rows numbered in `surplus` (ascending). Calls `kept` for every
    /// other row. Memory: as for writing.
    ///
    /// # Errors
    /// [`WriteError`] if either file cannot be written or read.
    pub fn without_rows(
        self,
        surplus: impl Iterator<Item = std::io::Result<u64>>,
        mut kept: impl FnMut(&Record<'_>),
    ) -> Result<Self, WriteError> {
        let path = self.file.path.with_extension("rewrite");
        let mut rewritten = SpoolWriter::try_new(&path, self.file.slice, &self.file.options)?;
        let mut surplus = surplus.peekable();
        let mut row = 0;
        self.read(|record| {
            let is_surplus = surplus
                .next_if(|next| next.as_ref().map_or(true, |&next| next == row))
                .transpose();
            row += 1;
            let is_surplus = is_surplus.map_err(|source| WriteError::Io {
                action: "sort rows of",
                path: self.file.path.to_path_buf(),
                source,
            })?;
            if is_surplus.is_none() {
                kept(record);
                rewritten.append(record)?;
            }
            Ok::<(), WriteError>(())
        })?;
        rewritten.end()
    }
}

pub(super) fn error(path: &Path, action: &'static str, source: ParquetError) -> WriteError {
    WriteError::Parquet {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Creates a file that only its owner can read, replacing a leftover of a crashed run. Never
/// follows a symbolic link.
pub(crate) fn create_spool_file(path: &Path) -> std::io::Result<File> {
    remove_leftover(path)?;
    File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
}

/// Removes a leftover of a crashed run at `path`.
pub(crate) fn remove_leftover(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Footer of the Parquet file at `path`, without its page index.
///
/// # Errors
/// `WriteError` if it cannot be opened or is not a complete Parquet file.
pub fn read_footer(path: &Path) -> Result<ArrowReaderMetadata, WriteError> {
    footer_of(&open(path)?, path)
}

/// Reads the footer of the open file that was found at `path`.
pub(super) fn footer_of(file: &File, path: &Path) -> Result<ArrowReaderMetadata, WriteError> {
    ArrowReaderMetadata::load(file, ArrowReaderOptions::new())
        .map_err(|source| error(path, "read", source))
}

/// Name of the slice in the footer of the file at `path`. `None` if it is missing, or the file is
/// not a complete Parquet file.
pub(crate) fn slice_named_in(path: &Path) -> Option<String> {
    let footer = read_footer(path).ok()?;
    metadata_value(footer.metadata().file_metadata(), SLICE_KEY).map(str::to_owned)
}

/// Number of rows of the file at `path`. `None` if it is not a complete Parquet file, or belongs to
/// a slice other than `slice`.
pub(crate) fn rows_of(path: &Path, slice: Slice) -> Option<u64> {
    let footer = read_footer(path).ok()?;
    let metadata = footer.metadata().file_metadata();
    let is_of_slice = metadata_value(metadata, SLICE_KEY)? == slice.to_string();
    u64::try_from(metadata.num_rows())
        .ok()
        .filter(|_| is_of_slice)
}

/// The value of `key` in the footer's metadata.
pub(super) fn metadata_value<'a>(metadata: &'a FileMetaData, key: &str) -> Option<&'a str> {
    let pairs = metadata.key_value_metadata()?;
    let pair = pairs.iter().find(|pair| pair.key == key)?;
    pair.value.as_deref()
}

/// Checksum of the file at `path`: `xxh3-128:` and 32 hexadecimal digits. Detects damage, not
/// forgery. Memory: one buffer.
///
/// # Errors
/// The file cannot be read.
pub fn checksum_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Xxh3Default::new();
    let mut buffer = vec![0; CHECKSUM_BUFFER_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("xxh3-128:{:032x}", hasher.digest128())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Rows to read at once, so that a batch holds no more text than a written batch.
pub(super) fn batch_rows(metadata: &FileMetaData) -> usize {
    let max_row_text =
        metadata_value(metadata, MAX_ROW_TEXT_KEY).and_then(|text| text.parse::<usize>().ok());
    max_row_text.map_or(CAUTIOUS_BATCH_ROWS, |bytes| {
        (BATCH_TEXT_BYTES / bytes.max(1)).clamp(1, BATCH_ROWS)
    })
}

/// Calls `each` for every row of the file of `slice` at `path`, in order. Memory: one batch.
///
/// # Errors
/// [`WriteError`] if the file cannot be read, has other columns or holds rows of another slice, or
/// the error of `each`.
pub(crate) fn read_rows<E: From<WriteError>>(
    path: &Path,
    slice: Slice,
    mut each: impl FnMut(&Record<'_>) -> Result<(), E>,
) -> Result<(), E> {
    read_batches(path, read_footer(path)?, |batch| {
        let rows = Rows::try_new(&batch, slice);
        let rows = rows.map_err(|problem| error(path, "read", problem.into()))?;
        rows.iter().try_for_each(|record| each(&record))
    })
}

pub(super) fn open(path: &Path) -> Result<File, WriteError> {
    File::open(path).map_err(|source| WriteError::Io {
        action: "open",
        path: path.to_owned(),
        source,
    })
}

/// Calls `each` for every batch of a file with this footer, which need not be in the file.
fn read_batches<E: From<WriteError>>(
    path: &Path,
    footer: ArrowReaderMetadata,
    mut each: impl FnMut(RecordBatch) -> Result<(), E>,
) -> Result<(), E> {
    for batch in open_batches(path, footer)? {
        each(batch.map_err(|source| error(path, "read", source.into()))?)?;
    }
    Ok(())
}

/// Opens a file with this footer, which need not be in the file.
fn open_batches(
    path: &Path,
    footer: ArrowReaderMetadata,
) -> Result<ParquetRecordBatchReader, WriteError> {
    let batch_rows = batch_rows(footer.metadata().file_metadata());
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(open(path)?, footer)
        .with_batch_size(batch_rows)
        .build();
    reader.map_err(|source| error(path, "read", source))
}

/// The days of a batch of a file.
fn days_of(batch: &RecordBatch) -> &Date32Array {
    batch.column(day_column()).as_primitive()
}

/// The number of the column with the days.
fn day_column() -> usize {
    let column = COLUMNS.iter().position(|column| column.kind == Kind::Day);
    column.expect("every file has it")
}

#[cfg(test)]
mod tests;
