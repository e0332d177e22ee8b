//! Converts the bodies of one slice: bytes in, a spool file out.
//!
//! ```text
//! chunk → decompress → framing ─record→ decode ─record→ repeats, tally, digest → writer → spool
//!                         └──bad record───┴→ rejects                                       │
//!                                                                          duplicates ←────┘
//! ```
//!
//! No network and no async: a run feeds chunks to a [`Converter`] on a separate thread. Memory does
//! not grow with the slice.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::dedupe::duplicates::DuplicateFinder;
use super::dedupe::repeats::{RepeatFinder, Repeats};
use super::options::ParquetOptions;
use super::rejects::{Reject, RejectsWriter};
use super::writer::{SpoolFile, SpoolWriter, SpooledRows, WriteError, remove_leftover};
use crate::body::csv::HeaderError;
use crate::body::decompress::{DecompressError, Encoding};
use crate::body::framing::{BodySummary, Boundary, Format, FramingError, Position, Separator};
use crate::body::reader::{BodyLimits, Item, RecordReader};
use crate::cdr::day::PeriodDays;
use crate::cdr::decode::{DecodeError, Decoder, LocalTimes, Record, RejectReason};
use crate::cdr::digest::{Digest, RowHasher};
use crate::cdr::hiding::RecordPrivacy;
use crate::cdr::slice::Slice;
use crate::cdr::tally::{Counts, DayTotals, RowTally, Totals};
use crate::error::sanitized_excerpt;
use crate::privacy::{Credentials, Privacy, is_redacted};
use crate::retry::{Fate, RetryReason, StopCause};

/// The slice, and the parts of the configuration that conversion needs.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// The slice the records belong to.
    pub slice: Slice,
    /// The slice's days, in the time zone of the lake.
    pub days: PeriodDays,
    /// The names of the files from which the slice is loaded. If set, its records are passed with
    /// `Converter::copied` and `Converter::begin_lines`.
    pub export_files: Option<Arc<[String]>>,
    /// A directory for the spool, on the file system of the lake.
    pub spool_dir: PathBuf,
    /// `limits.max_record_bytes`.
    pub max_record_bytes: usize,
    /// `limits.max_slice_bytes`.
    pub max_slice_bytes: u64,
    /// `quality.dedupe`: whether equal rows are dropped. They are counted in any case.
    pub dedupe: bool,
    /// The time zone of times without an offset: `source.assume_timezone`.
    pub assume_timezone: Option<TimeZone>,
    /// How phone numbers are hidden, and whose calls are suppressed.
    pub privacy: Arc<Privacy>,
    /// Credentials, which are removed from rows and rejects.
    pub credentials: Arc<Credentials>,
    /// Section `[parquet]` of the configuration.
    pub parquet: ParquetOptions,
}

#[cfg(test)]
impl ConvertOptions {
    /// Options for a day in UTC, without compression and with small row groups.
    pub(crate) fn of_test(slice: Slice, spool_dir: &Path) -> Self {
        Self {
            slice,
            days: PeriodDays::new(slice.period, &TimeZone::UTC),
            export_files: None,
            spool_dir: spool_dir.to_owned(),
            max_record_bytes: 1_000,
            max_slice_bytes: 100_000,
            dedupe: true,
            assume_timezone: None,
            privacy: Arc::default(),
            credentials: Arc::default(),
            parquet: ParquetOptions {
                compression: parquet::basic::Compression::UNCOMPRESSED,
                row_group_rows: 1_000,
                row_group_bytes: usize::MAX,
            },
        }
    }
}

/// The bodies cannot be converted to a slice.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The body cannot be decompressed.
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    /// The body is not a list of records.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// The first line of CSV is not a usable header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A record in an array is not JSON: the rest of the array is unreliable.
    #[error("{at}: a record in a list is invalid ({reason})")]
    BrokenList {
        /// Where the record begins.
        at: Position,
        /// What is wrong with it.
        reason: RejectReason,
    },
    /// A line of an export is too long for a record, and may hold several records.
    #[error("{at}: {reason}. Raise that limit, or insert line breaks between records")]
    TooLong {
        /// Where the line begins.
        at: Position,
        /// What is wrong with it.
        reason: RejectReason,
    },
    /// The last line has no newline and is not JSON: the stream was truncated.
    #[error("{at}: the stream ends in the middle of a record")]
    TruncatedRecord {
        /// Where the record begins.
        at: Position,
    },
    /// The server reports its own failure in the middle of the stream.
    #[error("{at}: the server ended the stream with an error: {message}")]
    ServerError {
        /// Where the object begins.
        at: Position,
        /// The server's message, sanitized.
        message: String,
    },
    /// No line looks like a record: a proxy may have answered instead of the server.
    #[error(
        "the answer has {} but no record; it may come from a proxy or firewall. Check source.url",
        crate::error::counted(*lines, "line", "lines")
    )]
    NotRecords {
        /// Number of lines.
        lines: u64,
    },
    /// The spool cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A temporary file of the spool cannot be written.
    #[error("cannot write a temporary file in {}", directory.display())]
    Spool {
        /// Its directory.
        directory: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl ConvertError {
    /// The effect on the slice and the run. A broken body may be complete in the next attempt. An
    /// endless body is too expensive to repeat, and an answer that is not the API's may be
    /// permanent.
    pub fn fate(&self) -> Fate {
        match self {
            // All slices share the spool.
            Self::Write(_) | Self::Spool { .. } => Fate::StopRun(StopCause::Lake),
            Self::Framing(FramingError::Endless { .. }) => Fate::FailSlice,
            Self::NotRecords { .. }
            | Self::Header(_)
            | Self::Framing(FramingError::WebPage { .. } | FramingError::Compressed { .. }) => {
                Fate::retry(RetryReason::ForeignAnswer)
            }
            Self::ServerError { .. } => Fate::retry(RetryReason::ServerError),
            _ => Fate::retry(RetryReason::BrokenBody),
        }
    }

    /// Reports the limit of the whole slice instead of the rest that was left for this body.
    fn of_slice(self, limit_bytes: u64) -> Self {
        match self {
            Self::Framing(FramingError::Endless { .. }) => {
                Self::Framing(FramingError::Endless { limit_bytes })
            }
            error => error,
        }
    }

    /// The server's message about its own failure, sanitized. The caller has hidden the keys.
    pub(crate) fn server(at: Position, message: &str) -> Self {
        let message = sanitized_excerpt(message);
        Self::ServerError { at, message }
    }

    /// The error for the whole body that an invalid record causes, `None` if only the record is
    /// rejected.
    pub(crate) fn fatal_for_body(
        at: Position,
        boundary: Boundary,
        reason: &RejectReason,
    ) -> Option<Self> {
        match boundary {
            Boundary::Element if reason.is_syntax() => Some(Self::BrokenList {
                at,
                reason: reason.clone(),
            }),
            // A record that is too long may have been truncated.
            Boundary::EndOfBody
                if reason.is_syntax() || matches!(reason, RejectReason::TooLong { .. }) =>
            {
                Some(Self::TruncatedRecord { at })
            }
            _ => None,
        }
    }
}

/// Converts the bodies of one slice: one, or several (pages) in sequence.
#[derive(Debug)]
pub struct Converter {
    reader: RecordReader,
    pipeline: Pipeline,
    /// For the bodies still to come.
    limits: BodyLimits,
}

/// The result of one body.
#[derive(Clone, Copy, Debug)]
pub struct BodyEnd {
    /// Summary of the body's framing.
    pub summary: BodySummary,
    /// Records of all bodies so far.
    pub records: u64,
    /// Digest of this body's rows, including duplicates.
    pub digest: Digest,
}

/// The steps after framing.
#[derive(Debug)]
struct Pipeline {
    options: ConvertOptions,
    writer: SpoolWriter,
    rejects: RejectsWriter,
    repeats: RepeatFinder,
    /// Calls of erased numbers. `None` before the first one.
    suppressed: Option<DuplicateFinder>,
    suppressed_records: u64,
    /// Records from which a credential was removed.
    redacted: u64,
    privacy: RecordPrivacy,
    decoder: Decoder,
    hasher: RowHasher,
    digest: Digest,
    tally: RowTally,
    records: u64,
    body: BodyTally,
    /// Fields without a column in some body of CSV.
    missing_fields: Vec<&'static str>,
    /// Bodies that have ended.
    bodies: u64,
    /// Number of the export file of the current record.
    file: usize,
}

/// Counts of one body.
#[derive(Debug, Default)]
struct BodyTally {
    records: u64,
    digest: Digest,
    /// Whether any record begins like an object.
    has_objects: bool,
}

impl Converter {
    /// Opens the spool.
    ///
    /// # Errors
    /// [`ConvertError`] if the spool file cannot be created.
    pub fn try_new(options: ConvertOptions) -> Result<Self, ConvertError> {
        let spool = |extension: &str| {
            let Slice { period, direction } = options.slice;
            let name = format!("{direction}-{period}.{extension}");
            options.spool_dir.join(name)
        };
        for extension in ["rejects", "rewrite", "sorted"] {
            remove_leftover(&spool(extension))
                .map_err(|source| spool_error(&options.spool_dir, source))?;
        }
        let limits = BodyLimits {
            record_bytes: options.max_record_bytes,
            body_bytes: options.max_slice_bytes,
        };
        Ok(Self {
            reader: plain_json(limits),
            limits,
            pipeline: Pipeline {
                writer: SpoolWriter::try_new(&spool("parquet"), options.slice, &options.parquet)?,
                rejects: RejectsWriter::new(spool("rejects")),
                repeats: RepeatFinder::new(&options.spool_dir),
                suppressed: None,
                suppressed_records: 0,
                redacted: 0,
                privacy: RecordPrivacy::new(Arc::clone(&options.privacy)),
                decoder: Decoder::new(LocalTimes::new(options.assume_timezone.clone())),
                hasher: RowHasher::new(options.slice),
                digest: Digest::default(),
                tally: RowTally::new(options.days.range_us()),
                records: 0,
                body: BodyTally::default(),
                missing_fields: Vec::new(),
                bodies: 0,
                file: 0,
                options,
            },
        })
    }

    /// Begins a body with this encoding and format. Without this call, a body is plain JSON.
    pub fn begin_body(&mut self, encoding: Encoding, format: Format) {
        self.reader = RecordReader::new(encoding, format, self.limits);
    }

    /// Converts the next bytes of a body.
    ///
    /// # Errors
    /// [`ConvertError`]; the converter cannot be used after it.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), ConvertError> {
        let pipeline = &mut self.pipeline;
        let pushed = self.reader.push(chunk, |item| pipeline.item(&item));
        pushed.map_err(|error| error.of_slice(pipeline.options.max_slice_bytes))
    }

    /// Converts a copied record of an export. It begins at `at` in file number `file`.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub(crate) fn copied(
        &mut self,
        file: usize,
        at: Position,
        text: &[u8],
    ) -> Result<(), ConvertError> {
        self.pipeline.file = file;
        self.pipeline.record(at, Boundary::Newline, text, text)
    }

    /// Begins lines of file number `file` of an export, from `at` on. [`push`](Self::push) takes
    /// them unchanged. Lines of CSV need their header and the separator of their cells.
    ///
    /// # Errors
    /// [`ConvertError::Header`] if the header cannot be used.
    pub(crate) fn begin_lines(
        &mut self,
        file: usize,
        at: Position,
        header: Option<(&[u8], Separator)>,
    ) -> Result<(), ConvertError> {
        self.pipeline.file = file;
        self.reader = RecordReader::of_lines::<ConvertError>(at, header, self.limits.record_bytes)?;
        Ok(())
    }

    /// Ends lines that were begun with [`begin_lines`](Self::begin_lines).
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub(crate) fn end_lines(&mut self) -> Result<(), ConvertError> {
        let reader = std::mem::replace(&mut self.reader, plain_json(self.limits));
        let pipeline = &mut self.pipeline;
        // The columns that CSV lacks were reported when the export was split.
        reader.finish(|item| pipeline.item(&item))?;
        Ok(())
    }

    /// Copies a row of the lake unchanged, unless it belongs to an erased number.
    ///
    /// # Errors
    /// [`ConvertError`] if the spool cannot be written.
    pub fn keep(&mut self, record: &Record<'_>) -> Result<(), ConvertError> {
        let is_suppressed = self.pipeline.privacy.suppresses(record);
        self.pipeline.row(record, is_suppressed)
    }

    /// Ends one body. Another may follow.
    ///
    /// # Errors
    /// [`ConvertError`] if the body is truncated, or none of its lines looks like a record.
    pub fn end_body(&mut self) -> Result<BodyEnd, ConvertError> {
        let reader = std::mem::replace(&mut self.reader, plain_json(self.limits));
        let pipeline = &mut self.pipeline;
        let content = reader
            .finish(|item| pipeline.item(&item))
            .map_err(|error| error.of_slice(pipeline.options.max_slice_bytes))?;
        let left_bytes = self.limits.body_bytes.saturating_sub(content.summary.bytes);
        self.limits.body_bytes = left_bytes;
        let mut body = std::mem::take(&mut pipeline.body);
        body.has_objects |= content.has_header;
        content.add_missing_to(&mut pipeline.missing_fields);
        pipeline.bodies += 1;
        // Each record of an export has a date, or it would have no slice.
        let is_export = pipeline.options.export_files.is_some();
        if body.records > 0 && !body.has_objects && !is_export {
            return Err(ConvertError::NotRecords {
                lines: body.records,
            });
        }
        Ok(BodyEnd {
            summary: content.summary,
            records: pipeline.records,
            digest: body.digest,
        })
    }

    /// Records read so far.
    pub fn records(&self) -> u64 {
        self.pipeline.records
    }

    /// Abandons the slice.
    ///
    /// # Errors
    /// [`ConvertError`] if the spool could not be written, an error that the thread may not have
    /// returned yet.
    pub fn abandon(self) -> Result<(), ConvertError> {
        Ok(self.pipeline.writer.abandon()?)
    }

    /// Finds and removes duplicates. The spool file still lacks its footer.
    ///
    /// # Errors
    /// [`ConvertError`] if the spool cannot be written.
    pub fn finish(self) -> Result<Converted, ConvertError> {
        self.pipeline.finish()
    }
}

impl Pipeline {
    fn item(&mut self, item: &Item<'_>) -> Result<(), ConvertError> {
        let (Item::Record { text, .. } | Item::Broken { text, .. }) = *item;
        self.body.has_objects |= text.trim_ascii_start().starts_with(b"{");
        match item {
            Item::Record {
                at,
                boundary,
                json,
                text,
                ..
            } => self.record(*at, *boundary, json, text),
            Item::Broken {
                at,
                boundary,
                reason,
                text,
                length_bytes,
            } => self.reject(*at, *boundary, reason, text, *length_bytes),
        }
    }

    /// Decodes a record. `source_text` is its text in the body.
    fn record(
        &mut self,
        at: Position,
        boundary: Boundary,
        json: &[u8],
        source_text: &[u8],
    ) -> Result<(), ConvertError> {
        match &mut self.decoder.decode(json) {
            Ok(record) => {
                let class = self.decoder.text_class();
                let is_redacted = self.options.credentials.redact(record, json, class);
                self.redacted += u64::from(is_redacted);
                let is_suppressed = self.privacy.suppresses(record);
                self.privacy.hide(record);
                record.source_day = self.options.days.day_of(record.call_time_us);
                self.row(record, is_suppressed)
            }
            Err(DecodeError::ServerError { message }) => {
                let message = self.options.credentials.hide_keys(message);
                Err(ConvertError::server(at, &message))
            }
            Err(DecodeError::Reject(reason)) => {
                let mut reason = reason.clone();
                // The offset in the line of CSV, not in the JSON object made from it.
                if let (RejectReason::InvalidUtf8 { at }, Err(error)) =
                    (&mut reason, std::str::from_utf8(source_text))
                {
                    *at = error.valid_up_to();
                }
                // A copied row of CSV is available only as JSON, so the reject of an export holds
                // JSON. A row that is not UTF-8 is never converted to JSON.
                let is_export = self.options.export_files.is_some();
                let text = match reason {
                    RejectReason::InvalidUtf8 { .. } => source_text,
                    _ if is_export => json,
                    _ => source_text,
                };
                self.reject(at, boundary, &reason, text, text.len() as u64)
            }
        }
    }

    /// Writes a row, or suppresses it.
    fn row(&mut self, record: &Record<'_>, is_suppressed: bool) -> Result<(), ConvertError> {
        self.count_record();
        let hash = self.hasher.hash(record);
        // Identifies a page, even if all of its calls are suppressed.
        self.body.digest.add(hash.row);
        if is_suppressed {
            return self.suppress(record.call_id.as_deref(), hash.row);
        }
        self.digest.add(hash.row);
        self.tally.add(record);
        self.writer.append(record)?;
        if identity(record.call_id.as_deref()).is_none() {
            return Ok(());
        }
        let added = self.repeats.add(hash.call_id);
        added.map_err(|source| spool_error(&self.options.spool_dir, source))
    }

    /// Rejects a record, unless the reason makes the whole body unreliable.
    fn reject(
        &mut self,
        at: Position,
        boundary: Boundary,
        reason: &RejectReason,
        text: &[u8],
        length_bytes: u64,
    ) -> Result<(), ConvertError> {
        if let Some(error) = ConvertError::fatal_for_body(at, boundary, reason) {
            return Err(error);
        }
        self.count_record();
        let privacy = &self.options.privacy;
        if privacy.suppresses_text(&String::from_utf8_lossy(text)) {
            return self.suppress(None, 0);
        }
        let redacted = self.options.credentials.redact_bytes(text);
        self.redacted += u64::from(matches!(redacted, Cow::Owned(_)));
        let hidden = privacy.hide_in_bytes(&redacted);
        let mut reject = Reject::new(at, self.bodies + 1, reason, &hidden, length_bytes);
        let export_files = self.options.export_files.as_deref().unwrap_or_default();
        if let Some(file) = export_files.get(self.file) {
            reject = reject.of_export(file);
        }
        let added = self.rejects.add(&reject);
        added.map_err(|source| spool_error(&self.options.spool_dir, source))
    }

    /// Suppresses a call of an erased number. Duplicates are detected for the comparison of counts.
    fn suppress(&mut self, call_id: Option<&str>, row_hash: u128) -> Result<(), ConvertError> {
        let directory = &self.options.spool_dir;
        let finder = self
            .suppressed
            .get_or_insert_with(|| DuplicateFinder::new(directory));
        let added = finder.add(identity(call_id), row_hash, self.suppressed_records);
        self.suppressed_records += 1;
        added.map_err(|source| spool_error(directory, source))
    }

    fn count_record(&mut self) {
        self.records += 1;
        self.body.records += 1;
    }

    fn finish(self) -> Result<Converted, ConvertError> {
        let spool = |source| spool_error(&self.options.spool_dir, source);
        let mut counts = Counts {
            records: self.records,
            rejected: self.rejects.count(),
            redacted: self.redacted,
            ambiguous_times: self.decoder.ambiguous_times(),
            ..Counts::default()
        };
        let first_reject = self.rejects.first().map(str::to_owned);
        let rejects = self.rejects.finish().map_err(spool)?;
        // First, because it releases the memory of a row group.
        let mut spooled = self.writer.end()?;
        if let Some(finder) = self.suppressed {
            let found = finder.finish().map_err(spool)?;
            if self.options.dedupe {
                counts.duplicates = found.duplicates;
                counts.suppressed = self.suppressed_records - found.duplicates;
            } else {
                counts.repeated = found.duplicates;
                counts.suppressed = self.suppressed_records;
            }
        }
        let repeats = self.repeats.finish().map_err(spool)?;
        let (mut tally, mut digest) = (self.tally, self.digest);
        if !matches!(repeats, Repeats::None) {
            let hasher = self.hasher;
            let mut finder = DuplicateFinder::new(&self.options.spool_dir);
            let mut row = 0;
            spooled.read(|record| {
                let hash = hasher.hash(record);
                let id = identity(record.call_id.as_deref());
                if let Some(id) = id.filter(|_| repeats.may_contain(hash.call_id)) {
                    let added = finder.add(Some(id), hash.row, row);
                    added.map_err(|source| spool_error(&self.options.spool_dir, source))?;
                }
                row += 1;
                Ok::<(), ConvertError>(())
            })?;
            let found = finder.finish().map_err(spool)?;
            counts.conflicts = found.conflicts;
            // Duplicates that are kept are counted too: they prove nothing about completeness.
            if !self.options.dedupe {
                counts.repeated += found.duplicates;
            } else if found.duplicates > 0 {
                counts.duplicates += found.duplicates;
                tally = RowTally::new(self.options.days.range_us());
                digest = Digest::default();
                spooled = spooled.without_rows(found.surplus, |record| {
                    tally.add(record);
                    digest.add(hasher.hash(record).row);
                })?;
            }
        }
        let unsorted = (!tally.is_sorted()).then(|| tally.rows_by_day().collect());
        tally.count_into(&mut counts);
        let far_outside = tally.far_outside;
        let (totals, days) = tally.into_totals();
        Ok(Converted {
            far_outside,
            spooled,
            unsorted,
            rejects,
            first_reject,
            missing_fields: self.missing_fields,
            counts,
            totals,
            days,
            digest,
        })
    }
}

/// The id that identifies a call: not empty, and with nothing redacted.
fn identity(call_id: Option<&str>) -> Option<&str> {
    call_id.filter(|id| !id.is_empty() && !is_redacted(id))
}

fn plain_json(limits: BodyLimits) -> RecordReader {
    RecordReader::new(Encoding::Identity, Format::Json, limits)
}

fn spool_error(directory: &Path, source: std::io::Error) -> ConvertError {
    ConvertError::Spool {
        directory: directory.to_owned(),
        source,
    }
}

/// A slice after its last body.
#[derive(Debug)]
pub struct Converted {
    spooled: SpooledRows,
    /// The rows of each day, if they are not in the order of their days.
    unsorted: Option<Vec<(i32, u64)>>,
    /// The spooled rejects, if there are any.
    pub rejects: Option<SpoolFile>,
    /// Place and reason of the first reject.
    pub first_reject: Option<String>,
    /// Fields without a column in CSV, whose columns are null.
    pub missing_fields: Vec<&'static str>,
    /// Counts of records and rows.
    pub counts: Counts,
    /// Rows so far outside the slice's period that they belong to another one.
    pub far_outside: u64,
    /// Sums over the rows.
    pub totals: Totals,
    /// Sums over the rows of each day, if the slice has several.
    pub days: BTreeMap<Date, DayTotals>,
    /// Digest of the rows.
    pub digest: Digest,
}

impl Converted {
    /// Sorts the rows by day, writes the Parquet footer with `metadata` and checks the file.
    ///
    /// # Errors
    /// [`WriteError`] if the file cannot be finished or does not hold the rows counted.
    pub fn write_footer(
        self,
        metadata: Vec<(&'static str, String)>,
    ) -> Result<SpoolFile, WriteError> {
        let spooled = match self.unsorted {
            Some(days) => self.spooled.sorted_by_day(days.into_iter())?,
            None => self.spooled,
        };
        spooled.finish(metadata)
    }
}

#[cfg(test)]
mod tests;
