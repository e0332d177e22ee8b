//! An export in files, split by day, so that each day can be done as a slice.
//!
//! The files are read one after the other, to find the day of each record. Lines of one day that
//! follow one another are left where they are: the spool of this process notes where they begin and
//! end, and their slice reads them from the user's file. Shorter runs, and whatever is not lines of
//! a plain file, are copied to the spool, each record with its place. What is wrong with a record
//! does not matter here as long as its `date` can be read: its slice will reject it.
//!
//! Memory: twice [`BUFFERED_BYTES`], one record, and some bytes for each day. Disk: the spool, a
//! quarter of the text of the records that are copied.

mod day;
mod source;

use std::collections::BTreeMap;
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
use crate::source::SourceError;
use crate::store::spool::{self, Spool};
pub(crate) use day::DayReader;
use day::{Lines, Stamp};
pub(crate) use source::ExportSource;

/// Bytes of entries that are held before they are written to the files of their days. As many are
/// being written meanwhile.
pub(crate) const BUFFERED_BYTES: usize = 8 << 20;
/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Lines of one day that follow one another and are at least this long are read from the user's
/// file. From the page cache 4 KiB would be enough, but a disk that seeks needs more.
pub(crate) const MIN_LINES_BYTES: u64 = 64 << 10;
/// Most days of one export: a century.
const MAX_DAYS: usize = 36_500;
/// Most records without a day that are described, and files that a ledger entry names.
const MAX_EXAMPLES: usize = 10;
/// Bytes of a compressed file that are decompressed to see what it holds.
const LOOKED_AT_BYTES: usize = 16 << 10;
/// Bytes in which a kind of file shows itself.
const KIND_BYTES: usize = 512;
/// Stands for a number in the name of a file.
const HIDDEN: &str = "[number]";
/// Twice as fast as level 1, and a quarter of the text instead of a sixth.
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
    /// A file of a kind that cannot be read.
    #[error("{name} {kind}")]
    Unsupported {
        /// Its name.
        name: String,
        /// Its kind.
        kind: FileKind,
    },
    /// What a file holds is no list of records, or not all of it.
    #[error("{name}: {source}")]
    Body {
        /// Its name, or that of standard input.
        name: String,
        /// What is wrong, and where.
        source: ConvertError,
    },
    /// Nothing can be written to the spool.
    #[error("cannot write into {}", directory.display())]
    Spool {
        /// Where it lies.
        directory: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The load was interrupted.
    #[error("interrupted while the export was split")]
    Interrupted,
}

/// A kind of file that is recognised, and cannot be read.
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
        // Without a byte order mark the zeros show it: what is read begins with ASCII.
        let is_utf_16 = matches!(*start, [first, second, ..] if (first == 0) != (second == 0));
        let is_tar = start.get(257..262) == Some(b"ustar");
        // Its blocks have sizes, and a column's name may begin like the rest.
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
    /// What it is called in messages and in the ledger. Whatever the lake keeps, numbers in it are
    /// hidden: files are often named after whose calls they hold, and no erasure looks there.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => hide_numbers_in_name(&path.to_string_lossy()),
            Self::Stdin => "standard input".to_owned(),
        }
    }

    /// Opens it, and returns what is known of it.
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

    /// Its size, if that is known.
    pub(crate) fn size_bytes(&self) -> Option<u64> {
        match self {
            Self::File(path) => Some(path.metadata().ok()?.len()),
            Self::Stdin => None,
        }
    }

    /// Whether reading may block: it is not a file on a disk.
    pub fn may_wait(&self) -> bool {
        match self {
            Self::File(path) => !path.metadata().is_ok_and(|metadata| metadata.is_file()),
            Self::Stdin => true,
        }
    }

    /// Whether it can be opened at all, before hours are spent on those in front of it. A pipe is
    /// left alone: it can be opened only once.
    ///
    /// # Errors
    /// `ExportError::Input` if it cannot, `ExportError::Directory` if it is one.
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

/// What a file holds that begins with `start`, as far as it can be decompressed.
fn looked_into(start: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    // It is cut, which is no matter here.
    let _cut =
        Decompressor::of_file(start).push(&start[..start.len().min(LOOKED_AT_BYTES)], |bytes| {
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
            // Numbers of parts, or the time of day.
            0..MIN_DIGITS if dates > 0 => found.to_owned(),
            // Perhaps the area code of what looks like a date.
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

/// Runs of digits and where they stand.
type Runs<'a> = [(Range<usize>, &'a str)];

/// What is left of runs of digits that begin with a date: `20261001`, or `2026`, `10` and `01`.
fn behind_date<'a, 'b>(runs: &'b Runs<'a>) -> Option<&'b Runs<'a>> {
    match runs {
        [(_, date), rest @ ..] if is_date(date) => Some(rest),
        [(_, year), (_, month), (_, day), rest @ ..] if is_date_of(year, month, day) => Some(rest),
        _ => None,
    }
}

/// The same of runs that end with one.
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

/// Whether eight digits are a day of these centuries.
fn is_date(digits: &str) -> bool {
    (digits.starts_with("19") || digits.starts_with("20"))
        && digits.len() == 8
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && Date::strptime("%Y%m%d", digits).is_ok()
}

/// How to split.
#[derive(Clone, Debug)]
pub(crate) struct SplitOptions {
    /// `window.timezone`: where days are cut.
    pub timezone: TimeZone,
    /// What times without an offset mean: `source.assume_timezone`.
    pub assume_timezone: Option<TimeZone>,
    /// `limits.max_record_bytes`.
    pub max_record_bytes: usize,
    /// `limits.spool_dir`: where the spool is made.
    pub spool_parent: PathBuf,
    /// [`MIN_LINES_BYTES`], or what a test wants.
    pub min_lines_bytes: u64,
}

/// Records that belong to no day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undated {
    /// How many there are.
    pub records: u64,
    /// Those among them that have a time without an offset.
    pub without_offset: u64,
    /// Where the first of them stand, and why.
    pub examples: Vec<String>,
    /// Why the last of these has none.
    last_reason: String,
}

impl Undated {
    /// How many there are, in words.
    pub(crate) fn counted(&self) -> String {
        counted(
            self.records,
            "record cannot be assigned to a day",
            "records cannot be assigned to a day",
        )
    }

    /// The first of them, and a sign that there are more.
    pub(crate) fn listed(&self) -> String {
        let more = if self.records > self.examples.len() as u64 {
            "; …"
        } else {
            ""
        };
        self.examples.join("; ") + more
    }
}

/// An export, split. Dropping it removes its files.
#[derive(Debug)]
pub(crate) struct Export {
    days: BTreeMap<Date, Day>,
    files: Arc<[ReadFile]>,
    names: Arc<[String]>,
    assumed_timezone: Option<TimeZone>,
    spool: Arc<Spool>,
    /// Records of files that are pages of a list, and how many the list has.
    listed: (u64, u64),
    /// Files of CSV whose last line has no newline: it may be cut within its last cell.
    pub unended: Vec<String>,
    /// Records that belong to no day, and were left out.
    pub undated: Undated,
    /// Fields of a record for which some CSV had no column.
    pub missing_fields: Vec<&'static str>,
    /// Memory of all days at the end of the split.
    #[cfg(test)]
    held_bytes: usize,
}

/// One day of an export.
#[derive(Clone, Debug, Default)]
struct Day {
    records: u64,
    /// Numbers of the files that had records of it.
    files: Vec<usize>,
}

/// A part of an export.
#[derive(Clone, Debug)]
struct ReadFile {
    path: PathBuf,
    /// `None` if it can be read only once.
    stamp: Option<Stamp>,
    changed: Timestamp,
    /// The time of its newest record that is not newer than the file.
    newest_us: i64,
    records: u64,
}

impl ReadFile {
    /// When it was made, or earlier: it is not older than its newest record, and may be much older
    /// than its last change, which copies get.
    fn as_of(&self) -> Timestamp {
        Timestamp::from_microsecond(self.newest_us).unwrap_or(self.changed)
    }
}

/// One day of an export, to be read.
#[derive(Debug)]
struct ExportDay {
    /// Its records.
    reader: DayReader,
    /// Where they come from, for the ledger.
    asked: Asked,
    /// Upper bound on the age of what is known of the day: the export's time, or earlier.
    as_of: Timestamp,
}

impl Export {
    /// The days of which there are records, in order, with how many there are.
    pub(crate) fn days(&self) -> impl Iterator<Item = (Date, u64)> {
        self.days.iter().map(|(day, found)| (*day, found.records))
    }

    /// Files in which there was no record.
    pub(crate) fn empty_files(&self) -> Vec<&str> {
        let files = self.names.iter().zip(&*self.files);
        let empty = files.filter(|(_, file)| file.records == 0);
        empty.map(|(name, _)| name.as_str()).collect()
    }

    /// Records on the pages of a list, and how many the list has, if these are fewer.
    pub(crate) fn missing_pages(&self) -> Option<(u64, u64)> {
        let (read, total) = self.listed;
        (read < total).then_some((read, total))
    }

    /// The records of one day.
    ///
    /// # Errors
    /// There are none, or they cannot be read.
    fn day(&self, day: Date) -> Result<ExportDay, SourceError> {
        let Some(found) = self.days.get(&day) else {
            let problem = format!("the export has no calls of {day}");
            return Err(SourceError::Permanent(problem));
        };
        let named = found.files.iter().take(MAX_EXAMPLES);
        let mut query: Vec<_> = named
            .map(|&file| ("file".to_owned(), self.names[file].clone()))
            .collect();
        let as_of = found.files.iter().map(|&file| self.files[file].as_of());
        if found.files.len() > MAX_EXAMPLES {
            let more = found.files.len() - MAX_EXAMPLES;
            query.push(("more_files".to_owned(), more.to_string()));
        }
        if let Some(zone) = &self.assumed_timezone {
            query.push((ASSUMED_TIMEZONE.to_owned(), timezone_name(zone)));
        }
        Ok(ExportDay {
            reader: DayReader::open(
                spooled(&self.spool, day),
                Arc::clone(&self.files),
                Arc::clone(&self.names),
                found.records,
            )?,
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

/// The directory in `parent` in which an export is split. Removes the directories of crashed
/// processes.
///
/// # Errors
/// [`ExportError::Spool`] if it cannot be made.
pub(crate) fn make_spool(parent: &Path) -> Result<Arc<Spool>, ExportError> {
    let made = spool::sweep(parent).and_then(|_| Spool::make(parent));
    made.map(Arc::new).map_err(|source| ExportError::Spool {
        directory: parent.to_owned(),
        source,
    })
}

/// Reads `inputs` and splits them by day into `spool`, telling `on_bytes` of all that was read.
/// Blocks.
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
        // It explains why a batch was not taken.
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

/// Adds batches to the files of their days. Compressing takes as long as reading.
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

/// What stopped the reading of one input.
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
    /// In the order in which they were found.
    days: Vec<SplitDay>,
    /// Their numbers, by the microsecond in which they begin.
    days_by_start: BTreeMap<i64, usize>,
    /// The day of the record before, which is mostly that of the next.
    last_day: Option<usize>,
    run: Option<Run>,
    buffered_bytes: usize,
    batches: mpsc::SyncSender<Batch>,
}

/// A day of which there are records.
struct SplitDay {
    date: Date,
    /// From its first microsecond to the next day's first.
    us: Range<i64>,
    found: Day,
    /// Entries that are not yet in its file.
    entries: Vec<u8>,
}

/// Records of one day that are lines following one another.
struct Run {
    day: usize,
    lines: Lines,
    /// Where the copies of them begin among the entries of the day, until they are long enough to
    /// need none.
    copies: Option<usize>,
}

/// Lines of a file that can be read again.
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
        if let Some(kind) = FileKind::of(start).or_else(|| FileKind::of(&looked_into(start))) {
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
                // What stands in a list is no line.
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

    /// Takes a record, which stands in the file as `text`; alone on a line if there is a `line`.
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
                // Of JSON that is whole nothing can be missing.
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
        // It may be many records, which must not be left out silently.
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

    /// The file that is being read.
    fn file(&mut self) -> &mut ReadFile {
        self.files.last_mut().expect("a file is being read")
    }

    /// Its name.
    fn file_name(&self) -> String {
        self.export.names[self.files.len() - 1].clone()
    }

    /// The number of a call's day in the account's time zone, or why there is none.
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
        // A row that is not UTF-8 is rejected for it, with the byte's place in the row.
        let is_csv = json.as_ptr() != text.as_ptr();
        let kept = if is_csv && std::str::from_utf8(json).is_err() {
            text
        } else {
            json
        };
        day::write_record(file, at, kept, entries);
        if line.is_none() {
            // Between the tokens of JSON, where alone they may stand, they mean the same as a
            // space.
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
        // Its first lines will lie in the day's file.
        self.end_run();
        if self.flush() {
            return Ok(());
        }
        Err(ConvertError::Spool {
            directory: self.export.spool.path().to_owned(),
            source: io::ErrorKind::BrokenPipe.into(),
        })
    }

    /// Ends a run of lines: the next record does not continue it.
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

    /// Passes the entries on that are to be written. False if that failed.
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
    // The line itself was looked at before.
    let are_objects = pieces
        .iter()
        .all(|piece| piece.starts_with(b"{") && piece.len() < line.len());
    are_objects.then_some(pieces)
}

/// Fills `chunk` as far as there is something to read: pipes give little at once.
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
