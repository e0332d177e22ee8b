//! Splits an export in files by day, so that each day can be converted as a slice.
//!
//! The split reads the files in sequence to find the day of each record. A long run of consecutive
//! lines of one day is not copied: the spool records where the run begins and ends, and its slice
//! reads it from the user's file. Shorter runs, and all records of compressed files and lists, are
//! copied to the spool, each with its position. A record only needs a valid `date` here: if
//! anything else in it is invalid, its slice rejects it.
//!
//! Memory: twice [`BUFFERED_BYTES`], one record, and some bytes for each day. Disk: the spool, a
//! quarter of the text of the copied records.

mod day;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use zstd::bulk::Compressor;

use crate::body::csv::Header;
use crate::body::decompress::{DecompressError, Decompressor};
use crate::body::framing::{BOM, Boundary, Position};
use crate::body::reader::{Item, RecordReader};
use crate::cdr::day::day_us;
use crate::cdr::decode::{DecodeError, Decoder, LocalTimes, RejectReason, TimeError};
use crate::cdr::slice::FIRST_DAY;
use crate::config::timezone_name;
use crate::error::{counted, one_line};
use crate::lake::ledger::{ASSUMED_TIMEZONE, Asked};
use crate::privacy::numbers::{MIN_DIGITS, replace_numbers};
use crate::privacy::redact_addresses;
use crate::slice_file::convert::ConvertError;
use crate::source::{Request, SourceError};
use crate::store::spool::{self, Spool};
pub(crate) use day::ExportReader;
use day::{Lines, Stamp};
pub(crate) use source::ExportSource;

/// Bytes of entries collected before they are written to the files of their days. Up to as many
/// are being written at the same time.
pub(crate) const BUFFERED_BYTES: usize = 8 << 20;
/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Runs of lines of one day that are at least this long are read from the user's file. With the
/// file in the page cache 4 KiB would suffice, but a hard disk has to seek.
pub(crate) const MIN_LINES_BYTES: u64 = 64 << 10;
/// Most days of one export: a century.
const MAX_DAYS: usize = 36_500;
/// Most examples of records without a day, and most files that a ledger entry names.
const MAX_EXAMPLES: usize = 10;
/// Compressed bytes that are decompressed to recognise the kind of the content.
const SAMPLE_BYTES: usize = 16 << 10;
/// Bytes that suffice to recognise every kind of file.
const KIND_BYTES: usize = 512;
/// Replaces a number in the name of a file.
const HIDDEN: &str = "[number]";
/// Twice as fast as level 1, and compresses to a quarter instead of a sixth.
const SPOOL_ZSTD_LEVEL: i32 = -1;

/// The export cannot be split.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A file cannot be read.
    #[error("cannot read {name}")]
    Input {
        /// Its name, or that of standard input.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// A directory.
    #[error("{name} is a directory")]
    Directory {
        /// Its name.
        name: String,
    },
    /// A file of an unsupported kind.
    #[error("{name} {kind}")]
    Unsupported {
        /// Its name.
        name: String,
        /// Its kind.
        kind: FileKind,
    },
    /// The content of a file, or a part of it, is not a list of records.
    #[error("{name}: {source}")]
    Body {
        /// Its name, or that of standard input.
        name: String,
        /// What is wrong, and where.
        source: ConvertError,
    },
    /// The spool cannot be written.
    #[error("cannot write into {}", directory.display())]
    Spool {
        /// Its directory.
        directory: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The load was interrupted.
    #[error("interrupted while the export was split")]
    Interrupted,
}

/// A kind of file that is recognised, but not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Utf16,
    Utf32,
    Zip,
    OldSpreadsheet,
    Xz,
    Lz4,
    Compress,
    Bzip2,
    SevenZip,
    Tar,
    Parquet,
    Avro,
    Pdf,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Utf16 => "is text in UTF-16",
            Self::Utf32 => "is text in UTF-32",
            Self::Zip => "is a zip archive or a spreadsheet",
            Self::OldSpreadsheet => "is a spreadsheet of an old format",
            Self::Xz => "is compressed with xz",
            Self::Lz4 => "is compressed with lz4",
            Self::Compress => "is compressed with compress",
            Self::Bzip2 => "is compressed with bzip2",
            Self::SevenZip => "is a 7z archive",
            Self::Tar => "is a tar archive",
            Self::Parquet => "is a Parquet file",
            Self::Avro => "is an Avro file",
            Self::Pdf => "is a PDF document",
        })
    }
}

impl FileKind {
    /// The kind of a file that begins with `start`, if it is one of these.
    fn of(start: &[u8]) -> Option<Self> {
        const KINDS: [(&[u8], FileKind); 14] = [
            (b"\xFF\xFE\0\0", FileKind::Utf32),
            (b"\xFF\xFE", FileKind::Utf16),
            (b"\xFE\xFF", FileKind::Utf16),
            (b"PK\x05\x06", FileKind::Zip),
            (b"PK\x07\x08", FileKind::Zip),
            (b"PK\x03\x04", FileKind::Zip),
            (b"\xD0\xCF\x11\xE0", FileKind::OldSpreadsheet),
            (b"\xFD7zXZ\0", FileKind::Xz),
            (b"\x04\x22\x4D\x18", FileKind::Lz4),
            (b"\x1F\x9D", FileKind::Compress),
            (b"7z\xBC\xAF\x27\x1C", FileKind::SevenZip),
            (b"PAR1", FileKind::Parquet),
            (b"Obj\x01", FileKind::Avro),
            (b"%PDF", FileKind::Pdf),
        ];
        // Without a byte order mark, zeros reveal UTF-16: supported files begin with ASCII.
        let is_utf_16 = matches!(*start, [first, second, ..] if (first == 0) != (second == 0));
        let is_tar = start.get(257..262) == Some(b"ustar");
        // More than the magic bytes, because the name of a column may begin with `BZh`.
        let is_bzip2 = matches!(start, [b'B', b'Z', b'h', b'1'..=b'9', b'1' | 0x17, ..]);
        let known = KINDS.iter().find(|(magic, _)| start.starts_with(magic));
        known
            .map(|(_, kind)| *kind)
            .or(is_bzip2.then_some(Self::Bzip2))
            .or(is_tar.then_some(Self::Tar))
            .or(is_utf_16.then_some(Self::Utf16))
    }
}

/// Where a part of an export comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl Input {
    /// The name in messages and in the ledger. Its phone numbers are hidden even if the lake keeps
    /// numbers: files are often named after a caller, and erasures do not search names.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => hide_numbers_in_name(&path.to_string_lossy()),
            Self::Stdin => "standard input".to_owned(),
        }
    }

    /// Opens the input. Also returns what later steps need to know about the file.
    fn open(&self) -> io::Result<(Box<dyn Read>, ReadFile)> {
        let now = Timestamp::now();
        let (source, path, changed, stamp): (Box<dyn Read>, _, _, _) = match self {
            Self::File(path) => {
                let file = File::open(path)?;
                let metadata = file.metadata()?;
                let changed = metadata.modified().ok();
                let changed = changed.and_then(|time| Timestamp::try_from(time).ok());
                let stamp = Stamp::of(&metadata);
                (Box::new(file), path.clone(), changed, stamp)
            }
            Self::Stdin => (Box::new(io::stdin().lock()), PathBuf::new(), None, None),
        };
        let file = ReadFile {
            path,
            stamp,
            changed: changed.unwrap_or(now).min(now),
            newest_us: i64::MIN,
            records: 0,
        };
        Ok((source, file))
    }

    /// The size of a file. `None` for standard input.
    pub(crate) fn size_bytes(&self) -> Option<u64> {
        match self {
            Self::File(path) => Some(path.metadata().ok()?.len()),
            Self::Stdin => None,
        }
    }

    /// Whether reading may block, as from a pipe.
    pub fn may_wait(&self) -> bool {
        match self {
            Self::File(path) => !path.metadata().is_ok_and(|metadata| metadata.is_file()),
            Self::Stdin => true,
        }
    }

    /// Checks that a file can be opened, before the inputs in front of it take hours. Does not
    /// open pipes, because that is possible only once.
    ///
    /// # Errors
    /// `ExportError::Input` if it cannot be opened, `ExportError::Directory` for a directory.
    pub fn check(&self) -> Result<(), ExportError> {
        match self {
            Self::File(path) if path.is_dir() => {
                return Err(ExportError::Directory { name: self.name() });
            }
            Self::File(path) => path.metadata().and_then(|metadata| {
                if metadata.is_file() {
                    self.open().map(drop)
                } else {
                    Ok(())
                }
            }),
            Self::Stdin => Ok(()),
        }
        .map_err(|source| ExportError::Input {
            name: self.name(),
            source,
        })
    }
}

/// The decompressed beginning of a file that begins with `start`.
fn decompressed_start(start: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    // `start` is truncated, so an error is expected.
    let _truncated =
        Decompressor::of_file(start).push(&start[..start.len().min(SAMPLE_BYTES)], |bytes| {
            let room = KIND_BYTES - text.len();
            text.extend_from_slice(&bytes[..bytes.len().min(room)]);
            Ok::<(), DecompressError>(())
        });
    text
}

/// A file's name as one line, with possible phone numbers hidden. Dates stay.
fn hide_numbers_in_name(name: &str) -> String {
    let name = one_line(name, usize::MAX);
    replace_numbers(&redact_addresses(&name), |found| {
        let mut runs = Vec::new();
        for (at, c) in found.char_indices().filter(|(_, c)| c.is_numeric()) {
            match runs.last_mut() {
                Some(Range { end, .. }) if *end == at => *end += c.len_utf8(),
                _ => runs.push(at..at + c.len_utf8()),
            }
        }
        let runs: Vec<(Range<usize>, &str)> = runs
            .into_iter()
            .map(|run| (run.clone(), found.get(run).unwrap_or_default()))
            .collect();
        let (mut rest, mut dates) = (&runs[..], 0);
        while let Some(behind) = behind_date(rest) {
            (rest, dates) = (behind, dates + 1);
        }
        while let Some(before) = before_date(rest) {
            rest = before;
        }
        let digits: usize = rest.iter().map(|(_, run)| run.chars().count()).sum();
        let (Some((first, _)), Some((last, _))) = (rest.first(), rest.last()) else {
            return found.to_owned();
        };
        match digits {
            // The number of a part, or the time of day.
            0..MIN_DIGITS if dates > 0 => found.to_owned(),
            // May be an area code, and the apparent date the rest of the number.
            0..MIN_DIGITS => HIDDEN.to_owned(),
            _ => [
                found.get(..first.start).unwrap_or_default(),
                HIDDEN,
                found.get(last.end..).unwrap_or_default(),
            ]
            .concat(),
        }
    })
    .into_owned()
}

/// Runs of digits with their positions.
type Runs<'a> = [(Range<usize>, &'a str)];

/// The runs after a date at the beginning: `20261001`, or `2026`, `10` and `01`.
fn behind_date<'a, 'b>(runs: &'b Runs<'a>) -> Option<&'b Runs<'a>> {
    match runs {
        [(_, date), rest @ ..] if is_date(date) => Some(rest),
        [(_, year), (_, month), (_, day), rest @ ..] if is_date_of(year, month, day) => Some(rest),
        _ => None,
    }
}

/// The runs before a date at the end.
fn before_date<'a, 'b>(runs: &'b Runs<'a>) -> Option<&'b Runs<'a>> {
    match runs {
        [rest @ .., (_, date)] if is_date(date) => Some(rest),
        [rest @ .., (_, year), (_, month), (_, day)] if is_date_of(year, month, day) => Some(rest),
        _ => None,
    }
}

fn is_date_of(year: &str, month: &str, day: &str) -> bool {
    (year.len(), month.len(), day.len()) == (4, 2, 2) && is_date(&[year, month, day].concat())
}

/// Whether digits are a date of the years 1900 to 2099.
fn is_date(digits: &str) -> bool {
    (digits.starts_with("19") || digits.starts_with("20"))
        && digits.len() == 8
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && Date::strptime("%Y%m%d", digits).is_ok()
}

/// Options of a split.
#[derive(Clone, Debug)]
pub(crate) struct SplitOptions {
    /// `window.timezone`: the time zone of days.
    pub timezone: TimeZone,
    /// The time zone of times without an offset: `source.assume_timezone`.
    pub assume_timezone: Option<TimeZone>,
    /// `limits.max_record_bytes`.
    pub max_record_bytes: usize,
    /// `limits.spool_dir`: the parent directory of the spool.
    pub spool_parent: PathBuf,
    /// [`MIN_LINES_BYTES`], except in tests.
    pub min_lines_bytes: u64,
}

/// Records that belong to no day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undated {
    /// Their number.
    pub records: u64,
    /// Number of those whose time has no offset.
    pub without_offset: u64,
    /// File, position and reason of the first ones.
    pub examples: Vec<String>,
    /// The reason of the last example.
    last_reason: String,
}

impl Undated {
    /// A sentence with their number.
    pub(crate) fn counted(&self) -> String {
        counted(
            self.records,
            "record cannot be assigned to a day",
            "records cannot be assigned to a day",
        )
    }

    /// The examples, followed by an ellipsis if there are more records.
    pub(crate) fn listed(&self) -> String {
        let more = if self.records > self.examples.len() as u64 {
            "; …"
        } else {
            ""
        };
        self.examples.join("; ") + more
    }
}

/// An export that was split. Dropping it removes the spool.
#[derive(Debug)]
pub(crate) struct Export {
    days: BTreeMap<Date, Day>,
    files: Arc<[ReadFile]>,
    names: Arc<[String]>,
    assumed_timezone: Option<TimeZone>,
    spool: Arc<Spool>,
    /// Records in files that are pages of a list, and the total that the pages state.
    listed: (u64, u64),
    /// CSV files whose last line has no newline: its last cell may be truncated.
    pub unended: Vec<String>,
    /// Records that belong to no day. They are skipped.
    pub undated: Undated,
    /// Fields without a column in some CSV file.
    pub missing_fields: Vec<&'static str>,
    /// Memory of the entries of all days at the end of the split.
    #[cfg(test)]
    held_bytes: usize,
}

/// One day of an export.
#[derive(Clone, Debug, Default)]
struct Day {
    records: u64,
    /// Numbers of the files with records of this day.
    files: Vec<usize>,
}

/// A file of an export that was read.
#[derive(Clone, Debug)]
struct ReadFile {
    path: PathBuf,
    /// `None` if lines cannot be read from the file a second time.
    stamp: Option<Stamp>,
    changed: Timestamp,
    /// The time of the newest record that is not later than `changed`.
    newest_us: i64,
    records: u64,
}

impl ReadFile {
    /// A lower bound on the time when the export was made: that of its newest record. A file's
    /// modification time may be much later, because copying sets it.
    fn as_of(&self) -> Timestamp {
        Timestamp::from_microsecond(self.newest_us).unwrap_or(self.changed)
    }
}

/// The part of an export that belongs to a slice.
#[derive(Debug)]
struct ExportPart {
    /// Reads the records.
    reader: ExportReader,
    /// The source of the records, for the ledger.
    asked: Asked,
    /// When the export was made, or earlier.
    as_of: Timestamp,
}

impl Export {
    /// The days with records, in order, and their numbers of records.
    pub(crate) fn days(&self) -> impl Iterator<Item = (Date, u64)> {
        self.days.iter().map(|(day, found)| (*day, found.records))
    }

    /// Files without records.
    pub(crate) fn empty_files(&self) -> Vec<&str> {
        let files = self.names.iter().zip(&*self.files);
        let empty = files.filter(|(_, file)| file.records == 0);
        empty.map(|(name, _)| name.as_str()).collect()
    }

    /// The records read from pages of a list and the list's total, if records are missing.
    pub(crate) fn missing_pages(&self) -> Option<(u64, u64)> {
        let (read, total) = self.listed;
        (read < total).then_some((read, total))
    }

    /// The records that are requested.
    ///
    /// # Errors
    /// [`SourceError`] if there are none.
    fn part(&self, request: Request) -> Result<ExportPart, SourceError> {
        let period = request.slice.period;
        let days = self.days.range(request.first_day..=request.last_day);
        let files: BTreeSet<usize> = days
            .clone()
            .flat_map(|(_, found)| &found.files)
            .copied()
            .collect();
        if files.is_empty() {
            let problem = format!("the export has no calls of {period}");
            return Err(SourceError::Permanent(problem));
        }
        let named = files.iter().take(MAX_EXAMPLES);
        let mut query: Vec<_> = named
            .map(|&file| ("file".to_owned(), self.names[file].clone()))
            .collect();
        let as_of = files.iter().map(|&file| self.files[file].as_of());
        if files.len() > MAX_EXAMPLES {
            let more = files.len() - MAX_EXAMPLES;
            query.push(("more_files".to_owned(), more.to_string()));
        }
        if let Some(zone) = &self.assumed_timezone {
            query.push((ASSUMED_TIMEZONE.to_owned(), timezone_name(zone)));
        }
        let days = days.map(|(day, found)| (spooled(&self.spool, *day), found.records));
        Ok(ExportPart {
            reader: ExportReader {
                days: days.collect(),
                files: Arc::clone(&self.files),
                names: Arc::clone(&self.names),
            },
            asked: Asked {
                url: "export:".to_owned(),
                query,
            },
            as_of: as_of.min().unwrap_or(Timestamp::UNIX_EPOCH),
        })
    }
}

fn spooled(spool: &Spool, day: Date) -> PathBuf {
    spool.path().join(format!("{day}.zst"))
}

/// Creates the spool of an export in `parent`. Removes the spools of crashed processes.
///
/// # Errors
/// [`ExportError::Spool`] if it cannot be created.
pub(crate) fn make_spool(parent: &Path) -> Result<Arc<Spool>, ExportError> {
    let made = spool::sweep(parent).and_then(|_| Spool::make(parent));
    made.map(Arc::new).map_err(|source| ExportError::Spool {
        directory: parent.to_owned(),
        source,
    })
}

/// Reads `inputs` and splits them by day into `spool`. Passes the number of bytes of each read to
/// `on_bytes`. Blocks.
///
/// # Errors
/// [`ExportError`].
pub(crate) fn split(
    inputs: &[Input],
    options: &SplitOptions,
    spool: Arc<Spool>,
    interrupt: &CancellationToken,
    on_bytes: impl Fn(u64),
) -> Result<Export, ExportError> {
    let parent = &options.spool_parent;
    std::thread::scope(|scope| {
        // One batch is filled while another is written.
        let (batches, inbox) = mpsc::sync_channel(0);
        let written = scope.spawn({
            let spool = Arc::clone(&spool);
            move || write_batches(&inbox, &spool)
        });
        let mut splitter = Splitter::new(inputs, options, spool, batches);
        let mut read_all = || {
            for input in inputs {
                let name = input.name();
                tracing::info!("Splitting {name} by day.");
                splitter
                    .read(input, interrupt, &on_bytes)
                    .map_err(|error| error.of(name, parent))?;
            }
            Ok(())
        };
        let read = read_all();
        let export = splitter.finish();
        // First, because an error of writing also makes reading fail.
        let written = written.join().expect("writing does not panic");
        written.map_err(|source| ExportError::Spool {
            directory: parent.clone(),
            source,
        })?;
        read.map(|()| export)
    })
}

/// Entries of several days.
type Batch = Vec<(Date, Vec<u8>)>;

/// Appends batches to the files of their days. On a thread of its own, because compressing takes
/// as long as reading.
fn write_batches(inbox: &mpsc::Receiver<Batch>, spool: &Spool) -> io::Result<()> {
    let mut compressor = Compressor::new(SPOOL_ZSTD_LEVEL)?;
    compressor.include_checksum(true)?;
    for (day, entries) in inbox.iter().flatten() {
        let mut file = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(spooled(spool, day))?;
        file.write_all(&compressor.compress(&entries)?)?;
    }
    Ok(())
}

/// Why one input could not be read to its end.
#[derive(Debug)]
enum Problem {
    Input(io::Error),
    Unsupported(FileKind),
    Body(ConvertError),
    Interrupted,
}

impl Problem {
    fn of(self, name: String, spool_parent: &Path) -> ExportError {
        match self {
            Self::Input(source) => ExportError::Input { name, source },
            Self::Unsupported(kind) => ExportError::Unsupported { name, kind },
            Self::Body(ConvertError::Spool { source, .. }) => ExportError::Spool {
                directory: spool_parent.to_owned(),
                source,
            },
            Self::Body(source) => ExportError::Body { name, source },
            Self::Interrupted => ExportError::Interrupted,
        }
    }
}

struct Splitter {
    timezone: TimeZone,
    decoder: Decoder,
    max_record_bytes: usize,
    min_lines_bytes: u64,
    export: Export,
    files: Vec<ReadFile>,
    /// In order of their first record.
    days: Vec<SplitDay>,
    /// Indexes into `days`, by the day's first microsecond.
    days_by_start: BTreeMap<i64, usize>,
    /// The day of the previous record. Usually the next record has the same.
    last_day: Option<usize>,
    run: Option<Run>,
    buffered_bytes: usize,
    batches: mpsc::SyncSender<Batch>,
}

/// A day with records.
struct SplitDay {
    date: Date,
    /// From its first microsecond to the next day's first.
    us: Range<i64>,
    found: Day,
    /// Entries that were not written yet.
    entries: Vec<u8>,
}

/// Consecutive lines with records of one day.
struct Run {
    day: usize,
    lines: Lines,
    /// Where the copies of the lines begin in the day's entries. `None` once the run is long enough
    /// to be read from the file instead.
    copies: Option<usize>,
}

/// A record of a file of lines.
#[derive(Clone, Copy)]
struct Line {
    /// Where the text ends.
    end: u64,
    header: Option<Header>,
}

impl Splitter {
    fn new(
        inputs: &[Input],
        options: &SplitOptions,
        spool: Arc<Spool>,
        batches: mpsc::SyncSender<Batch>,
    ) -> Self {
        Self {
            timezone: options.timezone.clone(),
            decoder: Decoder::new(LocalTimes::new(options.assume_timezone.clone())),
            max_record_bytes: options.max_record_bytes,
            min_lines_bytes: options.min_lines_bytes,
            export: Export {
                days: BTreeMap::new(),
                files: Arc::new([]),
                names: inputs.iter().map(Input::name).collect(),
                assumed_timezone: options.assume_timezone.clone(),
                spool,
                listed: (0, 0),
                unended: Vec::new(),
                undated: Undated::default(),
                missing_fields: Vec::new(),
                #[cfg(test)]
                held_bytes: 0,
            },
            files: Vec::new(),
            days: Vec::new(),
            days_by_start: BTreeMap::new(),
            last_day: None,
            run: None,
            buffered_bytes: 0,
            batches,
        }
    }

    fn read(
        &mut self,
        input: &Input,
        interrupt: &CancellationToken,
        on_bytes: impl Fn(u64),
    ) -> Result<(), Problem> {
        let (mut source, file) = input.open().map_err(Problem::Input)?;
        self.files.push(file);
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut filled = fill(&mut *source, &mut chunk).map_err(Problem::Input)?;
        let start = &chunk[..filled];
        if let Some(kind) = FileKind::of(start).or_else(|| FileKind::of(&decompressed_start(start)))
        {
            return Err(Problem::Unsupported(kind));
        }
        let mut reader = RecordReader::of_file(start, self.max_record_bytes);
        if !reader.is_plain() {
            self.file().stamp = None;
        }
        while filled > 0 {
            if interrupt.is_cancelled() {
                return Err(Problem::Interrupted);
            }
            reader
                .push(&chunk[..filled], |item| self.item(&item))
                .map_err(Problem::Body)?;
            on_bytes(filled as u64);
            filled = fill(&mut *source, &mut chunk).map_err(Problem::Input)?;
        }
        let content = reader
            .finish(|item| self.item(&item))
            .map_err(Problem::Body)?;
        self.end_run();
        if let Some(total) = content.summary.envelope_total {
            let read = self.file().records;
            let (listed, largest) = self.export.listed;
            self.export.listed = (listed + read, largest.max(total));
        }
        content.add_missing_to(&mut self.export.missing_fields);
        Ok(())
    }

    fn item(&mut self, item: &Item<'_>) -> Result<(), ConvertError> {
        match *item {
            Item::Record {
                at,
                boundary,
                json,
                text,
                header,
            } => {
                // An element of a list may share its line with others.
                let line = (boundary != Boundary::Element).then(|| Line {
                    end: at.byte + text.len() as u64,
                    header,
                });
                self.record(at, boundary, json, text, line)
            }
            Item::Broken {
                at,
                boundary,
                ref reason,
                ..
            } => self.refuse(at, boundary, reason),
        }
    }

    /// Processes a record. `text` is its text in the file. `line` is `None` for elements of a list.
    fn record(
        &mut self,
        at: Position,
        boundary: Boundary,
        json: &[u8],
        text: &[u8],
        line: Option<Line>,
    ) -> Result<(), ConvertError> {
        let reason = match self.decoder.call_time_us(json) {
            Ok(time_us) => {
                let is_csv = json.as_ptr() != text.as_ptr();
                // Valid JSON is complete, but a cell of CSV may be truncated.
                if boundary == Boundary::EndOfBody && is_csv {
                    let name = self.file_name();
                    self.export.unended.push(name);
                }
                return match self.day_of(time_us) {
                    Ok(day) => self.keep(day, at, json, text, line),
                    Err(why) => {
                        self.undated(at, &why);
                        Ok(())
                    }
                };
            }
            Err(DecodeError::ServerError { message }) => {
                return Err(ConvertError::server(at, &message));
            }
            Err(DecodeError::Reject(reason)) => reason,
        };
        let may_be_several = reason.is_syntax() || reason == RejectReason::NotAnObject;
        let pieces = may_be_several.then(|| pieces_of(json)).flatten();
        let Some(pieces) = pieces else {
            return self.refuse(at, boundary, &reason);
        };
        for piece in pieces {
            let behind = piece.as_ptr() as usize - json.as_ptr() as usize;
            let at = Position {
                byte: at.byte + behind as u64,
                ..at
            };
            self.record(at, boundary, piece, piece, None)?;
        }
        Ok(())
    }

    fn refuse(
        &mut self,
        at: Position,
        boundary: Boundary,
        reason: &RejectReason,
    ) -> Result<(), ConvertError> {
        // The text may hold many records, which must not be skipped silently.
        if let RejectReason::TooLong { .. } = reason {
            return Err(ConvertError::TooLong {
                at,
                reason: reason.clone(),
            });
        }
        if let Some(error) = ConvertError::fatal_for_body(at, boundary, reason) {
            return Err(error);
        }
        if *reason == RejectReason::Date(TimeError::NoOffset) {
            self.export.undated.without_offset += 1;
        }
        self.undated(at, &reason.to_string());
        Ok(())
    }

    fn undated(&mut self, at: Position, why: &str) {
        self.end_run();
        let name = self.file_name();
        let undated = &mut self.export.undated;
        undated.records += 1;
        if undated.examples.len() < MAX_EXAMPLES {
            let is_same = undated.last_reason == why;
            let reason = if is_same { "the same" } else { why };
            undated.examples.push(format!("{name}, {at}: {reason}"));
            why.clone_into(&mut undated.last_reason);
        }
    }

    /// The current file.
    fn file(&mut self) -> &mut ReadFile {
        self.files.last_mut().expect("a file is being read")
    }

    /// The name of the current file.
    fn file_name(&self) -> String {
        self.export.names[self.files.len() - 1].clone()
    }

    /// The index of a call's day in the account's time zone, or why the call belongs to none.
    fn day_of(&mut self, time_us: i64) -> Result<usize, String> {
        let file = self.file();
        file.records += 1;
        // A record dated later than the file does not show when the file was made.
        if time_us <= file.changed.as_microsecond() {
            file.newest_us = file.newest_us.max(time_us);
        }
        if let Some(last) = self.last_day
            && self.days[last].us.contains(&time_us)
        {
            return Ok(last);
        }
        let before = self.days_by_start.range(..=time_us).next_back();
        let known = before.map(|(_, day)| *day);
        let day = match known.filter(|&day| self.days[day].us.contains(&time_us)) {
            Some(day) => day,
            None => self.new_day(time_us)?,
        };
        self.last_day = Some(day);
        Ok(day)
    }

    /// Adds the day of a call.
    fn new_day(&mut self, time_us: i64) -> Result<usize, String> {
        let time = Timestamp::from_microsecond(time_us).ok();
        let date = time.map(|time| time.to_zoned(self.timezone.clone()).date());
        let date = date.ok_or_else(|| "`date` is outside the calendar".to_owned())?;
        if date < FIRST_DAY {
            let year = date.year();
            return Err(format!(
                "`date` is in the year {year}, before there were calls"
            ));
        }
        if self.days.len() >= MAX_DAYS {
            return Err(format!("the export has more than {MAX_DAYS} days"));
        }
        let us = day_us(date, &self.timezone);
        self.days_by_start.insert(us.start, self.days.len());
        self.days.push(SplitDay {
            date,
            us,
            found: Day::default(),
            entries: Vec::new(),
        });
        Ok(self.days.len() - 1)
    }

    /// Assigns a record to its day.
    fn keep(
        &mut self,
        day: usize,
        at: Position,
        json: &[u8],
        text: &[u8],
        line: Option<Line>,
    ) -> Result<(), ConvertError> {
        let file = self.files.len() - 1;
        let found = &mut self.days[day].found;
        found.records += 1;
        if found.files.last() != Some(&file) {
            found.files.push(file);
        }
        let line = line.filter(|_| self.file().stamp.is_some());
        match (line, &mut self.run) {
            (Some(line), Some(run)) if run.day == day => run.lines.end = line.end,
            (line, _) => {
                self.end_run();
                self.run = line.map(|line| Run {
                    day,
                    lines: Lines {
                        file,
                        start: at,
                        end: line.end,
                        header: line.header,
                    },
                    copies: Some(self.days[day].entries.len()),
                });
            }
        }
        if let Some(run) = &mut self.run {
            let Some(copies) = run.copies else {
                return Ok(());
            };
            if run.lines.end - run.lines.start.byte >= self.min_lines_bytes {
                let entries = &mut self.days[day].entries;
                self.buffered_bytes -= entries.len() - copies;
                entries.truncate(copies);
                // Otherwise each day would keep the memory of its copies.
                entries.shrink_to_fit();
                run.copies = None;
                return Ok(());
            }
        }
        let entries = &mut self.days[day].entries;
        let before = entries.len();
        // The text of an invalid row, because its rejection states the position of the byte.
        let is_csv = json.as_ptr() != text.as_ptr();
        let kept = if is_csv && std::str::from_utf8(json).is_err() {
            text
        } else {
            json
        };
        day::write_record(file, at, kept, entries);
        if line.is_none() {
            // Line breaks can only occur between tokens of JSON, where a space has the same
            // meaning.
            let start = entries.len() - kept.len();
            for byte in &mut entries[start..] {
                if matches!(byte, b'\n' | b'\r') {
                    *byte = b' ';
                }
            }
        }
        self.buffered_bytes += entries.len() - before;
        if self.buffered_bytes < BUFFERED_BYTES {
            return Ok(());
        }
        // The copies of its first lines are about to be written.
        self.end_run();
        if self.flush() {
            return Ok(());
        }
        Err(ConvertError::Spool {
            directory: self.export.spool.path().to_owned(),
            source: io::ErrorKind::BrokenPipe.into(),
        })
    }

    /// Ends a run of lines.
    fn end_run(&mut self) {
        if let Some(run) = self.run.take()
            && run.copies.is_none()
        {
            let entries = &mut self.days[run.day].entries;
            let before = entries.len();
            run.lines.write(entries);
            self.buffered_bytes += entries.len() - before;
        }
    }

    /// Passes all entries to the writing thread. Returns false if it has failed.
    fn flush(&mut self) -> bool {
        self.buffered_bytes = 0;
        let days = self.days.iter_mut();
        let days = days.filter(|day| !day.entries.is_empty());
        let batch = days.map(|day| (day.date, std::mem::take(&mut day.entries)));
        self.batches.send(batch.collect()).is_ok()
    }

    fn finish(mut self) -> Export {
        #[cfg(test)]
        {
            let held = self.days.iter().map(|day| day.entries.capacity());
            self.export.held_bytes = held.sum();
        }
        self.flush();
        let days = self.days.into_iter();
        self.export.days = days.map(|day| (day.date, day.found)).collect();
        self.export.files = self.files.into();
        self.export
    }
}

/// Splits a line that is not one object into its objects. Concatenated files may lack a newline
/// between them and have a byte order mark each; an array may follow lines, or lack its brackets.
/// `None` for anything else. The pieces need no further splitting.
fn pieces_of(line: &[u8]) -> Option<Vec<&[u8]>> {
    let mut pieces: Vec<&[u8]> = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        rest = rest.strip_prefix(BOM).unwrap_or(rest);
        rest = rest.strip_prefix(b",").unwrap_or(rest).trim_ascii_start();
        if rest.is_empty() {
            break;
        }
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<&RawValue>();
        let text = values.next()?.ok()?.get().as_bytes();
        if text.starts_with(b"[") {
            let elements: Vec<&RawValue> = serde_json::from_slice(text).ok()?;
            pieces.extend(elements.iter().map(|element| element.get().as_bytes()));
        } else {
            pieces.push(text);
        }
        rest = &rest[values.byte_offset()..];
    }
    // A piece as long as the line is the line itself, which did not decode.
    let are_objects = pieces
        .iter()
        .all(|piece| piece.starts_with(b"{") && piece.len() < line.len());
    are_objects.then_some(pieces)
}

/// Fills `chunk`, up to the end of the file. One read of a pipe returns few bytes.
fn fill(source: &mut dyn Read, chunk: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match source.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_of_files_are_hidden_and_dates_stay() {
        for (name, shown) in [
            ("calls.ndjson", "calls.ndjson"),
            ("calls-2026-10-01.csv", "calls-2026-10-01.csv"),
            ("calls_20261001.csv.gz", "calls_20261001.csv.gz"),
            ("2026-10-01_2026-10-31/1.csv", "2026-10-01_2026-10-31/1.csv"),
            ("20261001-20261031_03.csv", "20261001-20261031_03.csv"),
            ("20261001T031500Z-1.csv", "20261001T031500Z-1.csv"),
            ("calls-2024.csv", "calls-2024.csv"),
            ("calls-13025550101.ndjson", "calls-[number].ndjson"),
            ("+1 (302) 555-0101/a.csv", "+[number]/a.csv"),
            ("13025550101_20261001.csv", "[number]_20261001.csv"),
            ("20261001-13025550101.csv", "20261001-[number].csv"),
            (
                "2026-10-01 13025550101 2026-10-02.csv",
                "2026-10-01 [number] 2026-10-02.csv",
            ),
            ("030-20261001.csv", "[number].csv"),
            ("20269901.csv", "[number].csv"),
            ("20261001031500.csv", "[number].csv"),
            ("١٣٠٢٥٥٥٠١٠١.csv", "[number].csv"),
            ("a\u{1b}[31m\nb.csv", "a [31m b.csv"),
            (
                "cdrs?appid=secret&x=1.ndjson",
                "cdrs?appid=[redacted]&x=1.ndjson",
            ),
        ] {
            assert_eq!(Input::File(name.into()).name(), shown, "{name}");
        }
    }
}
