//! The work of a processor on one slice: bytes in, a spool file out.
//!
//! ```text
//! chunk → decompress → framing ─record→ decode ─record→ repeats, tally, digest → writer → spool → duplicates
//!                                 └──bad record──┴→ rejects
//! ```
//!
//! No network and no async: the pipeline runs a [`Converter`] on a thread of its own and feeds it
//! chunks. Memory does not grow with the slice.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::dedupe::duplicates::DuplicateFinder;
use super::dedupe::repeats::{RepeatFinder, Repeats};
use super::options::ParquetOptions;
use super::rejects::{Reject, RejectsWriter};
use super::writer::{SpoolFile, SpoolWriter, SpooledRows, WriteError, remove_leftover};
use crate::body::csv::HeaderError;
use crate::body::decompress::{DecompressError, Encoding};
use crate::body::framing::{BodySummary, Boundary, Format, FramingError, Position};
use crate::body::place::Place;
use crate::body::reader::{BodyLimits, Item, RecordReader};
use crate::cdr::decode::{Decoder, LocalTimes, Reason, Record, Refusal};
use crate::cdr::digest::{Digest, RowHasher};
use crate::cdr::slice::Slice;
use crate::cdr::tally::{Counts, RowTally, Totals};
use crate::error::sanitized_excerpt;
use crate::privacy::{Credentials, Privacy, is_redacted};
use crate::retry::{Fate, RetryHint, RetryReason, StopCause};

/// What conversion needs to know of the slice and the configuration.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// The slice the records belong to.
    pub slice: Slice,
    /// Its day, from the first instant to the next day's first, in microseconds since 1970.
    pub day_us: std::ops::Range<i64>,
    /// The files of the export that the slice is a day of. Each of its records then has in front of
    /// it where it stands in them.
    pub export_files: Option<Arc<[String]>>,
    /// A directory for the spool, on the file system of the lake.
    pub spool_dir: PathBuf,
    /// `limits.max_record_bytes`.
    pub max_record_bytes: usize,
    /// `limits.max_slice_bytes`.
    pub max_slice_bytes: u64,
    /// `quality.dedupe`: whether equal rows are dropped. They are counted anyway.
    pub dedupe: bool,
    /// What times without an offset mean: `source.assume_timezone`.
    pub assume_timezone: Option<TimeZone>,
    /// What becomes of phone numbers, and whose calls are left out.
    pub privacy: Arc<Privacy>,
    /// What no row and no reject may hold.
    pub credentials: Arc<Credentials>,
    /// The `[parquet]` part of the configuration.
    pub parquet: ParquetOptions,
}

/// The stream cannot become a slice.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The body is not compressed as it says.
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    /// The body is not a list of records.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// The first line of CSV is no header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A record inside an array is not JSON: what follows cannot be trusted.
    #[error("{at}: a record inside a list is broken ({reason})")]
    BrokenList {
        /// Where the record begins.
        at: Position,
        /// What is wrong with it.
        reason: Reason,
    },
    /// A line of an export that is too long for a record, and may be several.
    #[error("{at}: {reason}. Raise that, or break the line where a record ends")]
    TooLong {
        /// Where the line begins.
        at: Position,
        /// What is wrong with it.
        reason: Reason,
    },
    /// The last line has no newline and is not JSON: the stream was cut.
    #[error("{at}: the stream ends in the middle of a record")]
    CutRecord {
        /// Where the record begins.
        at: Position,
    },
    /// The server reports its own failure in the middle of the stream.
    #[error("{at}: the server broke off with a message of its own: {message}")]
    ServerError {
        /// Where the object stands.
        at: Position,
        /// What the server said, as far as it may be shown.
        message: String,
    },
    /// Not one line looks like a record: something in between answered in the server's place.
    #[error(
        "the answer has {} and no record: a proxy or firewall in between, or a wrong source.url",
        crate::error::counted(*lines, "line", "lines")
    )]
    NotRecords {
        /// How many lines there were.
        lines: u64,
    },
    /// The spool cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A temporary file of the spool cannot be written.
    #[error("cannot write a temporary file in {}", directory.display())]
    Spool {
        /// Where it lies.
        directory: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl ConvertError {
    /// What becomes of the slice and its run because of it: everything but the local disk comes from
    /// the network, where a broken body may be whole the next time. An endless one costs too much,
    /// and one that does not come from the API at all may be so for long.
    pub fn fate(&self) -> Fate {
        match self {
            // The spool is the same for all slices.
            Self::Write(_) | Self::Spool { .. } => Fate::StopRun(StopCause::Lake),
            Self::Framing(FramingError::Endless { .. }) => Fate::FailSlice,
            Self::NotRecords { .. }
            | Self::Header(_)
            | Self::Framing(FramingError::WebPage { .. } | FramingError::Compressed { .. }) => {
                Fate::Retry(RetryHint::of(RetryReason::ForeignAnswer))
            }
            _ => Fate::RETRY,
        }
    }

    /// The same, of all bodies of a slice: the limit is theirs together, and a body has what is left.
    fn of_slice(self, limit_bytes: u64) -> Self {
        match self {
            Self::Framing(FramingError::Endless { .. }) => {
                Self::Framing(FramingError::Endless { limit_bytes })
            }
            error => error,
        }
    }

    /// What the server says of its own failure, at `at`. What may not be shown of it is hidden, but
    /// for the key.
    pub(crate) fn server(at: Position, message: &str) -> Self {
        let message = sanitized_excerpt(message);
        Self::ServerError { at, message }
    }

    /// What a broken record means for the rest of its body: `None` if it can be rejected alone.
    pub(crate) fn beyond_the_record(
        at: Position,
        boundary: Boundary,
        reason: &Reason,
    ) -> Option<Self> {
        match boundary {
            Boundary::Element if reason.is_syntax() => Some(Self::BrokenList {
                at,
                reason: reason.clone(),
            }),
            // Nobody knows whether what is too long would have ended.
            Boundary::EndOfBody
                if reason.is_syntax() || matches!(reason, Reason::TooLong { .. }) =>
            {
                Some(Self::CutRecord { at })
            }
            _ => None,
        }
    }
}

/// Converts the bodies of one slice. Several bodies (pages) may follow one another.
#[derive(Debug)]
pub struct Converter {
    reader: RecordReader,
    stage: Stage,
    /// Of what is still to come.
    limits: BodyLimits,
}

/// What is known when a body has ended.
#[derive(Clone, Copy, Debug)]
pub struct BodyEnd {
    /// What the body as a whole said.
    pub summary: BodySummary,
    /// Records of all bodies so far.
    pub records: u64,
    /// Digest of this body's own rows, duplicates included.
    pub digest: Digest,
}

/// Everything behind framing.
#[derive(Debug)]
struct Stage {
    options: ConvertOptions,
    writer: SpoolWriter,
    rejects: RejectsWriter,
    repeats: RepeatFinder,
    /// Calls of numbers that were erased, from the first on.
    suppressed: Option<DuplicateFinder>,
    suppressed_records: u64,
    /// Records out of which a credential was taken.
    redacted: u64,
    decoder: Decoder,
    hasher: RowHasher,
    digest: Digest,
    tally: RowTally,
    records: u64,
    body: BodyTally,
    /// Fields for which some body of CSV had no column.
    missing_fields: Vec<&'static str>,
    /// Bodies that have ended.
    bodies: u64,
    /// Number of the file of the export that the record under way is of.
    file: usize,
}

/// What one body held.
#[derive(Debug, Default)]
struct BodyTally {
    records: u64,
    digest: Digest,
    /// Whether any record at least began like an object.
    has_objects: bool,
}

impl Converter {
    /// Opens the spool.
    ///
    /// # Errors
    /// [`ConvertError`] if the spool cannot be made.
    pub fn try_new(options: ConvertOptions) -> Result<Self, ConvertError> {
        let spool = |extension: &str| {
            options.spool_dir.join(format!(
                "{}-{}.{extension}",
                options.slice.direction, options.slice.day
            ))
        };
        for extension in ["rejects", "rewrite"] {
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
            stage: Stage {
                writer: SpoolWriter::try_new(&spool("parquet"), options.slice, &options.parquet)?,
                rejects: RejectsWriter::new(spool("rejects")),
                repeats: RepeatFinder::new(&options.spool_dir),
                suppressed: None,
                suppressed_records: 0,
                redacted: 0,
                decoder: Decoder::new(LocalTimes::new(options.assume_timezone.clone())),
                hasher: RowHasher::new(options.slice),
                digest: Digest::default(),
                tally: RowTally::new(options.day_us.clone()),
                records: 0,
                body: BodyTally::default(),
                missing_fields: Vec::new(),
                bodies: 0,
                file: 0,
                options,
            },
        })
    }

    /// Begins a body that is compressed so and in that format. One that nobody begins is plain JSON.
    pub fn begin_body(&mut self, encoding: Encoding, format: Format) {
        self.reader = RecordReader::new(encoding, format, self.limits);
    }

    /// Takes the next bytes of a body.
    ///
    /// # Errors
    /// [`ConvertError`]; the converter cannot be used after it.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), ConvertError> {
        let stage = &mut self.stage;
        let pushed = self.reader.push(chunk, |item| stage.item(&item));
        pushed.map_err(|error| error.of_slice(stage.options.max_slice_bytes))
    }

    /// Takes a row that the lake has already, as it is there, unless it is of a number that was erased.
    ///
    /// # Errors
    /// [`ConvertError`] if the spool cannot be written.
    pub fn keep(&mut self, record: &Record<'_>) -> Result<(), ConvertError> {
        let is_suppressed = self.stage.options.privacy.suppresses(record);
        self.stage.row(record, is_suppressed)
    }

    /// Ends one body. Another may follow.
    ///
    /// # Errors
    /// [`ConvertError`], if the body ends too early, or held lines of which none looks like a
    /// record.
    pub fn end_body(&mut self) -> Result<BodyEnd, ConvertError> {
        let reader = std::mem::replace(&mut self.reader, plain_json(self.limits));
        let stage = &mut self.stage;
        let content = reader
            .finish(|item| stage.item(&item))
            .map_err(|error| error.of_slice(stage.options.max_slice_bytes))?;
        let left_bytes = self.limits.body_bytes.saturating_sub(content.summary.bytes);
        self.limits.body_bytes = left_bytes;
        let mut body = std::mem::take(&mut stage.body);
        body.has_objects |= content.has_header;
        content.add_missing_to(&mut stage.missing_fields);
        stage.bodies += 1;
        if body.records > 0 && !body.has_objects {
            return Err(ConvertError::NotRecords {
                lines: body.records,
            });
        }
        Ok(BodyEnd {
            summary: content.summary,
            records: stage.records,
            digest: body.digest,
        })
    }

    /// Records read so far.
    pub fn records(&self) -> u64 {
        self.stage.records
    }

    /// Gives the slice up.
    ///
    /// # Errors
    /// [`ConvertError`] if the spool could not be written, which is not always known before, and which trying again does
    /// not mend.
    pub fn abandon(self) -> Result<(), ConvertError> {
        Ok(self.stage.writer.abandon()?)
    }

    /// Looks for duplicates and removes them. The spool file stays open for its metadata.
    ///
    /// # Errors
    /// [`ConvertError`] if the spool cannot be written.
    pub fn finish(self) -> Result<Converted, ConvertError> {
        self.stage.finish()
    }
}

impl Stage {
    fn item(&mut self, item: &Item<'_>) -> Result<(), ConvertError> {
        if let (Some(_), &Item::Record { boundary, text, .. }) = (&self.options.export_files, item)
        {
            let (place, record) = Place::read(text).expect("it was written when it was split");
            self.file = place.file;
            self.body.has_objects = true;
            return self.record(place.at, boundary, record, record);
        }
        let (Item::Record { text, .. } | Item::Broken { text, .. }) = *item;
        self.body.has_objects |= text.trim_ascii_start().starts_with(b"{");
        match item {
            Item::Record {
                at,
                boundary,
                json,
                text,
            } => self.record(*at, *boundary, json, text),
            Item::Broken {
                at,
                boundary,
                reason,
                text,
                length_bytes,
            } => self.refuse(*at, *boundary, reason, text, *length_bytes),
        }
    }

    /// Takes a record, which stands in the body as `source_text`.
    fn record(
        &mut self,
        at: Position,
        boundary: Boundary,
        json: &[u8],
        source_text: &[u8],
    ) -> Result<(), ConvertError> {
        match &mut self.decoder.decode(json) {
            Ok(record) => {
                let is_redacted = self.options.credentials.redact(record, json);
                self.redacted += u64::from(is_redacted);
                let is_suppressed = self.options.privacy.suppresses(record);
                self.options.privacy.hide(record);
                self.row(record, is_suppressed)
            }
            Err(Refusal::ServerError { message }) => {
                let message = self.options.credentials.hide_keys(message);
                Err(ConvertError::server(at, &message))
            }
            Err(Refusal::Reject(reason)) => {
                let mut reason = reason.clone();
                // Its place in the text that the body has, not in the object that became of a line of CSV.
                if let (Reason::InvalidUtf8 { at }, Err(error)) =
                    (&mut reason, std::str::from_utf8(source_text))
                {
                    *at = error.valid_up_to();
                }
                let length_bytes = source_text.len() as u64;
                self.refuse(at, boundary, &reason, source_text, length_bytes)
            }
        }
    }

    /// Takes a record as it is to be in the lake, or leaves it out.
    fn row(&mut self, record: &Record<'_>, is_suppressed: bool) -> Result<(), ConvertError> {
        self.count_record();
        let row_hash = self.hasher.hash(record);
        // Pages are told apart by it, also where none of their calls is kept.
        self.body.digest.add(row_hash);
        if is_suppressed {
            return self.suppress(record.call_id.as_deref(), row_hash);
        }
        self.digest.add(row_hash);
        self.tally.add(record);
        self.writer.append(record)?;
        let Some(id) = identity(record.call_id.as_deref()) else {
            return Ok(());
        };
        let added = self.repeats.add(id);
        added.map_err(|source| spool_error(&self.options.spool_dir, source))
    }

    /// Rejects a record, unless what is wrong with it makes the body untrustworthy.
    fn refuse(
        &mut self,
        at: Position,
        boundary: Boundary,
        reason: &Reason,
        text: &[u8],
        length_bytes: u64,
    ) -> Result<(), ConvertError> {
        if let Some(error) = ConvertError::beyond_the_record(at, boundary, reason) {
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

    /// Leaves out a call of a number that was erased. The provider may count it twice, or once if it is there twice.
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
        // First, for it gives back a row group of memory.
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
            let mut hasher = self.hasher;
            let mut finder = DuplicateFinder::new(&self.options.spool_dir);
            let mut row = 0;
            spooled.read(|record| {
                let id = identity(record.call_id.as_deref());
                if let Some(id) = id.filter(|id| repeats.may_hold(id)) {
                    let row_hash = hasher.hash(record);
                    let added = finder.add(Some(id), row_hash, row);
                    added.map_err(|source| spool_error(&self.options.spool_dir, source))?;
                }
                row += 1;
                Ok::<(), ConvertError>(())
            })?;
            let found = finder.finish().map_err(spool)?;
            counts.conflicts = found.conflicts;
            // What is kept is counted all the same: it is no proof of completeness.
            if !self.options.dedupe {
                counts.repeated += found.duplicates;
            } else if found.duplicates > 0 {
                counts.duplicates += found.duplicates;
                tally = RowTally::new(self.options.day_us.clone());
                digest = Digest::default();
                spooled = spooled.without_rows(found.surplus, |record| {
                    tally.add(record);
                    digest.add(hasher.hash(record));
                })?;
            }
        }
        tally.count_into(&mut counts);
        Ok(Converted {
            far_outside_day: tally.far_outside_day,
            spooled,
            rejects,
            first_reject,
            missing_fields: self.missing_fields,
            counts,
            totals: tally.totals,
            digest,
        })
    }
}

/// What tells a call from others: an id that is there, and of which nothing was redacted.
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

/// A slice whose bodies have all been read.
#[derive(Debug)]
pub struct Converted {
    spooled: SpooledRows,
    /// The spooled rejects, if there are any.
    pub rejects: Option<SpoolFile>,
    /// Where the first of them stands, and why it is one.
    pub first_reject: Option<String>,
    /// Fields of a record for which CSV had no column, so that their columns are empty.
    pub missing_fields: Vec<&'static str>,
    /// What was read, and what became of it.
    pub counts: Counts,
    /// Rows that lie so far outside the slice's day that they are another's.
    pub far_outside_day: u64,
    /// Sums over the rows.
    pub totals: Totals,
    /// Digest of the rows.
    pub digest: Digest,
}

impl Converted {
    /// Writes the Parquet footer with `metadata` in it and checks the file.
    ///
    /// # Errors
    /// [`WriteError`] if the file cannot be finished or does not hold the rows counted.
    pub fn write_footer(
        self,
        metadata: Vec<(&'static str, String)>,
    ) -> Result<SpoolFile, WriteError> {
        self.spooled.finish(metadata)
    }
}

#[cfg(test)]
mod tests;
