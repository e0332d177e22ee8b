//! The records of one day of an export, between the split and the slice.
//!
//! The day's file in the spool is a sequence of entries, in zstd frames. An entry is the copy of a
//! record, or a range of lines in the user's file: all of them records of that day, or blank.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, BufReader};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{ReadFile, fill};
use crate::body::csv::Header;
use crate::body::framing::{Position, Separator};
use crate::slice_file::convert::{ConvertError, Converter};
use crate::source::SourceError;

/// Bytes read at once from the user's file or from the spool.
const CHUNK_BYTES: usize = 128 << 10;
/// The head of every entry: its kind, and four numbers.
const HEAD_BYTES: usize = 1 + 4 * 8;
/// Follows the head of lines of CSV: three numbers.
const HEADER_BYTES: usize = 3 * 8;

/// Copied records between two reports of progress.
const REPORTED_RECORDS: u64 = 256;

const RECORD: u8 = b'r';
const JSON_LINES: u8 = b'j';
const CSV_LINES: u8 = b'c';

/// Consecutive lines of a user's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lines {
    /// Number of the file, counted from 0.
    pub(super) file: usize,
    /// Where the first line begins.
    pub(super) start: Position,
    /// Where the text of the last line ends.
    pub(super) end: u64,
    /// The header of CSV.
    pub(super) header: Option<Header>,
}

impl Lines {
    /// Adds the lines to a day's entries.
    pub(super) fn write(&self, entries: &mut Vec<u8>) {
        let kind = if self.header.is_some() {
            CSV_LINES
        } else {
            JSON_LINES
        };
        write_head(kind, self.file, self.start, self.end, entries);
        if let Some(header) = self.header {
            write_numbers(
                [header.start, header.end, u64::from(header.separator as u8)],
                entries,
            );
        }
    }
}

/// Adds the copy of a record to a day's entries. It begins at `at` in file number `file`.
pub(super) fn write_record(file: usize, at: Position, text: &[u8], entries: &mut Vec<u8>) {
    write_head(RECORD, file, at, text.len() as u64, entries);
    entries.extend_from_slice(text);
}

fn write_head(kind: u8, file: usize, at: Position, last: u64, entries: &mut Vec<u8>) {
    entries.push(kind);
    write_numbers([file as u64, at.line, at.byte, last], entries);
}

fn write_numbers<const N: usize>(numbers: [u64; N], entries: &mut Vec<u8>) {
    for number in numbers {
        entries.extend_from_slice(&number.to_le_bytes());
    }
}

fn numbers<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut numbers = [0; N];
    for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
        *number = u64::from_le_bytes(bytes.try_into().expect("the chunk has 8 bytes"));
    }
    numbers
}

/// The state of a file when its lines were counted. If the state is equal later, so are the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// `mtime` and `ctime`. Programs can set back `mtime`, but not `ctime`.
    changed: [(i64, i64); 2],
}

impl Stamp {
    /// `None` for anything but a regular file: it cannot be read a second time.
    pub(super) fn of(metadata: &Metadata) -> Option<Self> {
        metadata.is_file().then(|| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            changed: [
                (metadata.mtime(), metadata.mtime_nsec()),
                (metadata.ctime(), metadata.ctime_nsec()),
            ],
        })
    }
}

/// A part of a day's records, in the order of the export.
enum Part<'a> {
    /// A record that was copied.
    Record {
        /// Number of its file, counted from 0.
        file: usize,
        /// Where it begins in that file, decompressed.
        at: Position,
        /// Its JSON, or a row of CSV that is not UTF-8.
        text: &'a [u8],
    },
    /// Lines of a file begin, all of them records of the day, or blank.
    LinesBegin {
        /// Number of the file, counted from 0.
        file: usize,
        /// Where the first line begins.
        at: Position,
        /// The header of CSV, and the separator of its cells.
        header: Option<(&'a [u8], Separator)>,
    },
    /// Bytes of these lines.
    Bytes(&'a [u8]),
    /// The end of these lines. The last one has a newline.
    LinesEnd,
}

/// The next part to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Entries,
    /// Bytes of lines, from the first number to the second.
    Bytes(u64, u64),
    /// The newline of the last line.
    Newline,
    LinesEnd,
}

/// Reads the records of the days of a slice, one day after the other. Blocks.
#[derive(Debug)]
pub struct ExportReader {
    /// The spool file of each day, and its number of records.
    pub(super) days: Vec<(PathBuf, u64)>,
    pub(super) files: Arc<[ReadFile]>,
    pub(super) names: Arc<[String]>,
}

impl ExportReader {
    /// The names of the export's files, by number.
    pub(crate) fn names(&self) -> &Arc<[String]> {
        &self.names
    }

    /// Converts the days. Regularly passes the number of records so far to `report`. If `report`
    /// returns false, abandons them and returns false.
    ///
    /// # Errors
    /// [`SourceError`] if the spool or a user's file cannot be read, or the latter has changed; and
    /// errors of the converter.
    pub(crate) fn feed<E: From<SourceError> + From<ConvertError>>(
        self,
        converter: &mut Converter,
        mut report: impl FnMut(u64) -> bool,
    ) -> Result<bool, E> {
        for (path, records) in self.days {
            let (files, names) = (Arc::clone(&self.files), Arc::clone(&self.names));
            let day = DayReader::open(path, files, names, records)?;
            if !day.feed::<E>(converter, &mut report)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Reads the records of one day of an export. Blocks.
///
/// Memory: two chunks, the longest record, and the header of CSV.
struct DayReader {
    entries: Entries,
    state: State,
    /// The file whose lines are read.
    file: usize,
    /// The open file, and its number.
    opened: Option<(usize, File)>,
    chunk: Vec<u8>,
    files: Arc<[ReadFile]>,
    names: Arc<[String]>,
    records: u64,
}

// Leaves out the chunk: it is personal data.
impl fmt::Debug for DayReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DayReader")
            .field("path", &self.entries.path)
            .field("state", &self.state)
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

impl DayReader {
    /// A reader of the entries in the spool file at `path`, which stand for `records` records of
    /// `files`.
    ///
    /// # Errors
    /// [`SourceError::Spooled`] if the spool file cannot be opened.
    fn open(
        path: PathBuf,
        files: Arc<[ReadFile]>,
        names: Arc<[String]>,
        records: u64,
    ) -> Result<Self, SourceError> {
        Ok(Self {
            entries: Entries::open(path)?,
            state: State::Entries,
            file: 0,
            opened: None,
            chunk: Vec::new(),
            files,
            names,
            records,
        })
    }

    /// Converts the day. Regularly passes the number of records so far to `report`. If `report`
    /// returns false, abandons the day and returns false.
    ///
    /// # Errors
    /// [`SourceError`] if the spool or a user's file cannot be read, or the latter has changed; and
    /// errors of the converter.
    fn feed<E: From<SourceError> + From<ConvertError>>(
        mut self,
        converter: &mut Converter,
        mut report: impl FnMut(u64) -> bool,
    ) -> Result<bool, E> {
        let mut copied = 0_u64;
        let records_before = converter.records();
        while let Some(part) = self.next()? {
            match part {
                Part::Record { file, at, text } => {
                    converter.copied(file, at, text)?;
                    copied += 1;
                    if !copied.is_multiple_of(REPORTED_RECORDS) {
                        continue;
                    }
                }
                Part::LinesBegin { file, at, header } => {
                    converter.begin_lines(file, at, header)?;
                }
                Part::Bytes(bytes) => {
                    if let Err(error) = converter.push(bytes) {
                        // The more likely cause is that the file was rewritten.
                        self.check_unchanged()?;
                        return Err(error.into());
                    }
                }
                Part::LinesEnd => converter.end_lines()?,
            }
            if !report(converter.records()) {
                return Ok(false);
            }
        }
        let records = converter.records() - records_before;
        if records == self.records {
            return Ok(true);
        }
        let problem = format!(
            "the files had {} records of this day when the export was split, and now have \
             {records}. Load them again, and leave them unchanged until the load has ended",
            self.records
        );
        Err(SourceError::Permanent(problem).into())
    }

    /// The next part, or `None` at the end of the day.
    ///
    /// # Errors
    /// [`SourceError`] if the spool or a user's file cannot be read, or the latter has changed.
    fn next(&mut self) -> Result<Option<Part<'_>>, SourceError> {
        match self.state {
            State::Entries => self.next_entry(),
            State::Bytes(start, end) => {
                let left = usize::try_from(end - start).unwrap_or(usize::MAX);
                let length = left.min(CHUNK_BYTES);
                self.read(start, length)?;
                let read = start + length as u64;
                self.state = if read < end {
                    State::Bytes(read, end)
                } else {
                    // If the file has not changed, these are the bytes that were counted.
                    self.check_unchanged()?;
                    State::Newline
                };
                Ok(Some(Part::Bytes(&self.chunk[..length])))
            }
            State::Newline => {
                self.state = State::LinesEnd;
                Ok(Some(Part::Bytes(b"\n")))
            }
            State::LinesEnd => {
                self.state = State::Entries;
                Ok(Some(Part::LinesEnd))
            }
        }
    }

    fn next_entry(&mut self) -> Result<Option<Part<'_>>, SourceError> {
        let Some(head) = self.entries.next(HEAD_BYTES)? else {
            return Ok(None);
        };
        let kind = head[0];
        let [file, line, byte, last] = numbers(&head[1..]);
        let at = Position { line, byte };
        let file = usize::try_from(file).unwrap_or(usize::MAX);
        if kind == RECORD {
            let length = usize::try_from(last).unwrap_or(usize::MAX);
            let text = self.entries.more(length)?;
            return Ok(Some(Part::Record { file, at, text }));
        }
        let header = match kind {
            CSV_LINES => Some(numbers::<3>(self.entries.more(HEADER_BYTES)?)),
            _ => None,
        };
        self.open_file(file)?;
        self.state = State::Bytes(byte, last);
        let header = match header {
            Some([start, end, separator]) => {
                let length = usize::try_from(end - start).unwrap_or(usize::MAX);
                self.read(start, length)?;
                self.check_unchanged()?;
                let separator = u8::try_from(separator).ok().and_then(Separator::of);
                Some((&self.chunk[..length], separator.unwrap_or_default()))
            }
            None => None,
        };
        Ok(Some(Part::LinesBegin { file, at, header }))
    }

    /// Opens the file with this number, unless it is open.
    fn open_file(&mut self, file: usize) -> Result<(), SourceError> {
        self.file = file;
        if matches!(self.opened, Some((opened, _)) if opened == file) {
            return Ok(());
        }
        let opened = File::open(&self.files[file].path);
        self.opened = Some((file, opened.map_err(|error| self.unreadable(&error))?));
        self.check_unchanged()
    }

    /// Reads bytes of the file into the chunk.
    fn read(&mut self, start: u64, length: usize) -> Result<(), SourceError> {
        if self.chunk.len() < length {
            self.chunk.resize(length, 0);
        }
        let Some((_, file)) = &self.opened else {
            return Ok(());
        };
        match file.read_exact_at(&mut self.chunk[..length], start) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.changed()),
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    fn check_unchanged(&self) -> Result<(), SourceError> {
        let Some((number, file)) = &self.opened else {
            return Ok(());
        };
        let metadata = file.metadata().map_err(|error| self.unreadable(&error))?;
        if Stamp::of(&metadata) == self.files[*number].stamp {
            Ok(())
        } else {
            Err(self.changed())
        }
    }

    fn changed(&self) -> SourceError {
        SourceError::Permanent(format!(
            "{} changed while it was loaded. Load it again, and leave it unchanged until the load \
             has ended",
            self.names[self.file]
        ))
    }

    fn unreadable(&self, error: &io::Error) -> SourceError {
        SourceError::Permanent(format!(
            "cannot read {} again: {error}. Load it again, and keep it in its place until the load \
             has ended",
            self.names[self.file]
        ))
    }
}

/// The entries of a day, as bytes.
struct Entries {
    path: PathBuf,
    source: zstd::Decoder<'static, BufReader<File>>,
    buffer: Vec<u8>,
    /// The unread part of the buffer.
    unread: Range<usize>,
}

impl Entries {
    fn open(path: PathBuf) -> Result<Self, SourceError> {
        match File::open(&path).and_then(zstd::Decoder::new) {
            Ok(source) => Ok(Self {
                path,
                source,
                buffer: Vec::new(),
                unread: 0..0,
            }),
            Err(source) => Err(SourceError::Spooled { path, source }),
        }
    }

    /// The next `length` bytes. It is an error if there are fewer.
    fn more(&mut self, length: usize) -> Result<&[u8], SourceError> {
        self.fill(length)?;
        if self.unread.len() < length {
            return Err(cut(&self.path));
        }
        Ok(self.take(length))
    }

    /// The next `length` bytes, or `None` at the end. It is an error if there are fewer.
    fn next(&mut self, length: usize) -> Result<Option<&[u8]>, SourceError> {
        self.fill(length)?;
        match self.unread.len() {
            0 => Ok(None),
            unread if unread < length => Err(cut(&self.path)),
            _ => Ok(Some(self.take(length))),
        }
    }

    fn take(&mut self, length: usize) -> &[u8] {
        let start = self.unread.start;
        self.unread.start += length;
        &self.buffer[start..start + length]
    }

    /// Reads on if fewer than `length` bytes are unread.
    fn fill(&mut self, length: usize) -> Result<(), SourceError> {
        if self.unread.len() >= length {
            return Ok(());
        }
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        let room = length.max(CHUNK_BYTES);
        if self.buffer.len() < room {
            self.buffer.resize(room, 0);
        }
        let read = fill(&mut self.source, &mut self.buffer[self.unread.end..]);
        match read {
            Ok(read) => self.unread.end += read,
            Err(source) => {
                let path = self.path.clone();
                return Err(SourceError::Spooled { path, source });
            }
        }
        Ok(())
    }
}

fn cut(path: &Path) -> SourceError {
    SourceError::Spooled {
        path: path.to_owned(),
        source: io::ErrorKind::UnexpectedEof.into(),
    }
}

#[cfg(test)]
mod tests;
