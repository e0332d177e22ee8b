//! Records in CSV: the state machine of the `csv` crate, fed with chunks.
//!
//! `csv-core` rather than `csv`, whose reader wants to read by itself, and for which a record has
//! no greatest length: one quotation mark too many would take the rest of a body into memory.
//!
//! What separates the cells shows in the first line, which is held until it has ended.

use std::fmt;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::{BOM, BodySummary, Boundary, Frame, FramingError, Position};
use crate::body::csv::separator_of;

/// Most cells of a line that are distinguished; no export has as many columns.
pub(crate) const MAX_CELLS: usize = 4_096;

/// What separates the cells of a line; shown as a plural.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Separator {
    /// `,`
    #[default]
    Comma = b',',
    /// `;`
    Semicolon = b';',
    /// A tab.
    Tab = b'\t',
    /// `|`
    Bar = b'|',
}

impl Separator {
    /// Each, the more usual one first.
    pub(crate) const ALL: [Self; 4] = [Self::Comma, Self::Semicolon, Self::Tab, Self::Bar];

    /// The one that this byte is.
    pub(crate) fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&it| it as u8 == byte)
    }
}

impl fmt::Display for Separator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Comma => "commas",
            Self::Semicolon => "semicolons",
            Self::Tab => "tabs",
            Self::Bar => "vertical bars",
        })
    }
}

/// What stands between the separators of a line, quotation marks taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cells<'a> {
    bytes: &'a [u8],
    ends: &'a [usize],
    /// Bytes between two cells: none, or the separator.
    gap: usize,
    count: usize,
    separator: Separator,
}

impl<'a> Cells<'a> {
    /// What separates them, in all lines of the body.
    pub fn separator(self) -> Separator {
        self.separator
    }

    /// How many there are.
    pub fn count(self) -> usize {
        self.count
    }

    /// The bytes of all cells, perhaps with separators between them.
    pub(crate) fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// One after the other; of more than [`MAX_CELLS`] not all.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let cell = &self.bytes[start..end];
            start = end + self.gap;
            cell
        })
    }
}

/// Whether a line is `sep=;`, by which Excel declares the separator, also in the form in which a
/// spreadsheet saves it again.
pub(crate) fn is_separator_line(line: &[u8]) -> bool {
    let line = line.strip_prefix(BOM).unwrap_or(line);
    let line = line.strip_prefix(b"\"").unwrap_or(line);
    line.split_at_checked(4).is_some_and(|(name, rest)| {
        let mut rest = rest.iter().filter(|byte| **byte != b'"').peekable();
        name.eq_ignore_ascii_case(b"sep=")
            && rest.peek().is_some()
            && rest.all(|&byte| Separator::of(byte).is_some())
    })
}

/// The header line, until it has ended and shows what separates its cells.
#[derive(Debug, Default)]
struct FirstLine {
    /// The first line as far as it has come, and perhaps more.
    held: Vec<u8>,
    /// How much of that was looked at.
    looked_at: usize,
    /// Where the header begins: after a line such as `sep=;`.
    start: usize,
    is_quoted: bool,
}

impl FirstLine {
    /// Takes more of the body. Returns whether the line has ended, or is too long for a record.
    fn take(&mut self, bytes: &[u8], max_record_bytes: usize) -> bool {
        self.held.extend_from_slice(bytes);
        while let Some(&byte) = self.held.get(self.looked_at) {
            let line = &self.held[self.start..self.looked_at];
            if line.len() == max_record_bytes {
                return true;
            }
            if !self.is_quoted && b"\r\n".contains(&byte) {
                if !line.is_empty() && !is_separator_line(line) {
                    return true;
                }
                self.start = self.looked_at + 1;
            }
            // A quotation mark within a cell is one of its characters, as in `size 5"`.
            let may_open = line
                .last()
                .is_none_or(|&last| last == b'"' || Separator::of(last).is_some());
            if byte == b'"' && (self.is_quoted || may_open) {
                self.is_quoted = !self.is_quoted;
            }
            self.looked_at += 1;
        }
        false
    }

    fn separator(&self) -> Separator {
        separator_of(&self.held[self.start..self.looked_at])
    }
}

/// Splits a body of CSV into lines, and these into cells.
#[derive(Debug)]
pub(super) struct CsvFramer {
    max_record_bytes: usize,
    reader: Reader,
    separator: Separator,
    /// The first line, until it shows what the separator is.
    first_line: Option<FirstLine>,
    /// The first bytes, until they are known to be a byte order mark or not.
    start: Option<Vec<u8>>,
    /// Position of the next byte to be read.
    at: Position,
    /// Where the line that is under way begins; `None` between two lines.
    line_at: Option<Position>,
    /// The line's bytes, capped, and how many there are.
    text: Vec<u8>,
    length_bytes: u64,
    cells: Vec<u8>,
    cells_used: usize,
    ends: Vec<usize>,
    ends_used: usize,
    /// Cells beyond [`MAX_CELLS`].
    more_cells: usize,
}

impl CsvFramer {
    pub(super) fn new(max_record_bytes: usize) -> Self {
        let start = Position { line: 1, byte: 0 };
        let separator = Separator::default();
        Self {
            max_record_bytes,
            reader: reader(separator),
            separator,
            first_line: Some(FirstLine::default()),
            start: Some(Vec::new()),
            at: start,
            line_at: None,
            text: Vec::new(),
            length_bytes: 0,
            cells: vec![0; 1 << 10],
            cells_used: 0,
            ends: vec![0; 32],
            ends_used: 0,
            more_cells: 0,
        }
    }

    /// For rows without their header, whose cells this separates.
    pub(super) fn of_rows(separator: Separator, max_record_bytes: usize) -> Self {
        Self {
            reader: reader(separator),
            separator,
            first_line: None,
            start: None,
            ..Self::new(max_record_bytes)
        }
    }

    /// The next byte stands there. It is the first one of a line.
    pub(super) fn continue_at(&mut self, at: Position) {
        self.at = at;
    }

    /// Memory held between two chunks.
    #[cfg(test)]
    pub(super) fn capacity_bytes(&self) -> usize {
        let ends = self.ends.capacity() * size_of::<usize>();
        let held = self
            .first_line
            .as_ref()
            .map_or(0, |line| line.held.capacity());
        self.text.capacity() + self.cells.capacity() + ends + held
    }

    pub(super) fn push<E, F>(&mut self, chunk: &[u8], on_frame: &mut F) -> Result<(), E>
    where
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        if let Some(start) = &mut self.start {
            start.extend_from_slice(chunk);
            return if start.len() < BOM.len() {
                Ok(())
            } else {
                self.begin(on_frame)
            };
        }
        let mut rest = chunk;
        while !rest.is_empty() {
            if self.line_at.is_none() {
                // Blank lines, and the second byte of a line ending.
                let first = rest.iter().position(|byte| !b"\r\n".contains(byte));
                let first = first.unwrap_or(rest.len());
                self.advance(&rest[..first]);
                rest = &rest[first..];
                if rest.is_empty() {
                    break;
                }
                self.line_at = Some(self.at);
            }
            if let Some(line) = &mut self.first_line {
                return if line.take(rest, self.max_record_bytes) {
                    self.begin_lines(on_frame)
                } else {
                    Ok(())
                };
            }
            if let Some((line, is_copied)) = self.simple_line(rest) {
                self.end_simple_line(line, is_copied, on_frame)?;
                // The line ending too.
                let ending = if rest[line.len()] == b'\r' { 2 } else { 1 };
                self.at.byte += (line.len() + ending) as u64;
                self.at.line += 1;
                rest = &rest[line.len() + ending..];
                continue;
            }
            let (taken, has_ended) = self.read(rest);
            let (line, next) = rest.split_at(taken);
            self.keep(line);
            self.advance(line);
            rest = next;
            if has_ended {
                // The ending is what was taken last.
                self.length_bytes -= 1;
                self.end_line(Boundary::Newline, on_frame)?;
            }
        }
        Ok(())
    }

    /// Takes the first bytes, without their byte order mark.
    fn begin<E, F>(&mut self, on_frame: &mut F) -> Result<(), E>
    where
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        let start = self.start.take().unwrap_or_default();
        let text = start.strip_prefix(BOM).unwrap_or(&start);
        self.advance(&start[..start.len() - text.len()]);
        self.push(text, on_frame)
    }

    /// Reads the first line, and the bytes held after it, with the separator that it shows.
    fn begin_lines<E, F>(&mut self, on_frame: &mut F) -> Result<(), E>
    where
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        let Some(line) = self.first_line.take() else {
            return Ok(());
        };
        self.separator = line.separator();
        self.reader = reader(self.separator);
        self.push(&line.held, on_frame)
    }

    pub(super) fn finish<E, F>(mut self, on_frame: &mut F) -> Result<BodySummary, E>
    where
        E: From<FramingError>,
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        self.begin(on_frame)?;
        self.begin_lines(on_frame)?;
        if let Some(at) = self.line_at {
            // Anything but a newline between quotation marks ends the line.
            let has_ended = loop {
                let (taken, has_ended) = self.read(b"\n");
                if has_ended || taken > 0 {
                    break has_ended;
                }
            };
            if !has_ended {
                return Err(FramingError::OpenQuote { at }.into());
            }
            self.end_line(Boundary::EndOfBody, on_frame)?;
        }
        Ok(BodySummary {
            bytes: self.at.byte,
            ..BodySummary::default()
        })
    }

    /// The line that `rest` begins with, if it is whole, no part of it was read before, and its
    /// quotation marks enclose whole cells. The common case: the state machine looks at each byte.
    /// Finds the ends of its cells. Returns whether it copied them, without separators.
    fn simple_line<'a>(&mut self, rest: &'a [u8]) -> Option<(&'a [u8], bool)> {
        if self.length_bytes > 0 {
            return None;
        }
        let line = &rest[..memchr::memchr(b'\n', rest)?];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mark = memchr::memchr2(b'"', b'\r', line);
        let is_simple = line.len() <= self.max_record_bytes
            && match mark {
                None => self.split_plain(line),
                Some(mark) => line[mark] == b'"' && self.split_quoted(line).is_some(),
            };
        if !is_simple {
            (self.cells_used, self.ends_used) = (0, 0);
        }
        is_simple.then_some((line, mark.is_some()))
    }

    /// Finds the ends of the cells of a line without quotation marks. The cells are not copied.
    fn split_plain(&mut self, line: &[u8]) -> bool {
        let mut separators = memchr::memchr_iter(self.separator as u8, line);
        separators.all(|end| self.end_cell(end)) && self.end_cell(line.len())
    }

    /// Copies the cells of a line without their quotation marks. `None` if one of these is not at
    /// the beginning or end of a cell, or a carriage return is.
    fn split_quoted(&mut self, line: &[u8]) -> Option<()> {
        if self.cells.len() < line.len() {
            self.cells.resize(line.len(), 0);
        }
        let separator = self.separator as u8;
        let mut rest = Some(line);
        while let Some(text) = rest {
            let (cell, after) = if let Some(text) = text.strip_prefix(b"\"") {
                let (cell, after) = text.split_at(memchr::memchr(b'"', text)?);
                (cell, &after[1..])
            } else {
                let end = memchr::memchr3(separator, b'"', b'\r', text);
                text.split_at(end.unwrap_or(text.len()))
            };
            let end = self.cells_used + cell.len();
            self.cells[self.cells_used..end].copy_from_slice(cell);
            self.cells_used = end;
            rest = match after.split_first() {
                None => None,
                Some((&next, after)) if next == separator => Some(after),
                Some(_) => return None,
            };
            if !self.end_cell(end) {
                return None;
            }
        }
        Some(())
    }

    /// Notes the end of a cell, unless there are too many.
    fn end_cell(&mut self, end: usize) -> bool {
        if self.ends_used == self.ends.len() && self.ends_used < MAX_CELLS {
            let room = (2 * self.ends.len()).min(MAX_CELLS);
            self.ends.resize(room, 0);
        }
        let place = self.ends.get_mut(self.ends_used);
        self.ends_used += 1;
        place.map(|place| *place = end).is_some()
    }

    /// Hands out the line whose cells were found.
    fn end_simple_line<E, F>(
        &mut self,
        line: &[u8],
        is_copied: bool,
        on_frame: &mut F,
    ) -> Result<(), E>
    where
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        let (bytes, gap) = if is_copied {
            (&self.cells[..self.cells_used], 0)
        } else {
            (line, 1)
        };
        on_frame(Frame::Cells {
            at: self.line_at.take().unwrap_or(self.at),
            boundary: Boundary::Newline,
            text: line,
            cells: Cells {
                bytes,
                ends: &self.ends[..self.ends_used],
                gap,
                count: self.ends_used,
                separator: self.separator,
            },
        })?;
        (self.cells_used, self.ends_used) = (0, 0);
        Ok(())
    }

    /// Reads on in the line: how many bytes were taken, and whether it has ended.
    fn read(&mut self, input: &[u8]) -> (usize, bool) {
        let (result, taken, cells, ends) = self.reader.read_record(
            input,
            &mut self.cells[self.cells_used..],
            &mut self.ends[self.ends_used..],
        );
        self.cells_used += cells;
        self.ends_used += ends;
        match result {
            // A line that is too long is skipped: its cells are not read.
            ReadRecordResult::OutputFull if self.cells.len() > self.max_record_bytes => {
                self.cells_used = 0;
            }
            ReadRecordResult::OutputFull => {
                let room = (2 * self.cells.len()).min(self.max_record_bytes + 1);
                self.cells.resize(room.max(self.cells.len() + 1), 0);
            }
            // Cells that are too many are only counted.
            ReadRecordResult::OutputEndsFull if self.ends.len() == MAX_CELLS => {
                self.ends_used -= 1;
                self.more_cells += 1;
            }
            ReadRecordResult::OutputEndsFull => {
                let room = (2 * self.ends.len()).min(MAX_CELLS);
                self.ends.resize(room, 0);
            }
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::Record | ReadRecordResult::End => return (taken, true),
        }
        (taken, false)
    }

    fn advance(&mut self, passed: &[u8]) {
        self.at.byte += passed.len() as u64;
        self.at.line += memchr::memchr_iter(b'\n', passed).count() as u64;
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.max_record_bytes.saturating_sub(self.text.len());
        self.text.extend_from_slice(&bytes[..room.min(bytes.len())]);
        self.length_bytes += bytes.len() as u64;
    }

    fn end_line<E, F>(&mut self, boundary: Boundary, on_frame: &mut F) -> Result<(), E>
    where
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        let at = self.line_at.take().unwrap_or(self.at);
        let length = usize::try_from(self.length_bytes).unwrap_or(usize::MAX);
        let text = &self.text[..length.min(self.text.len())];
        let frame = if length > self.max_record_bytes {
            Frame::TooLong {
                at,
                boundary,
                prefix: text,
                length_bytes: self.length_bytes,
            }
        } else {
            Frame::Cells {
                at,
                boundary,
                text,
                cells: Cells {
                    bytes: &self.cells[..self.cells_used],
                    ends: &self.ends[..self.ends_used],
                    gap: 0,
                    count: self.ends_used + self.more_cells,
                    separator: self.separator,
                },
            }
        };
        on_frame(frame)?;
        self.text.clear();
        self.length_bytes = 0;
        self.cells_used = 0;
        self.ends_used = 0;
        self.more_cells = 0;
        Ok(())
    }
}

/// A reader that has read something. A byte order mark is taken away at the beginning of the body,
/// and nowhere else: left to itself the reader would look for one in what it reads first, if that
/// happens to come in one piece.
fn reader(separator: Separator) -> Reader {
    let mut reader = ReaderBuilder::new().delimiter(separator as u8).build();
    reader.read_record(b"\n", &mut [0], &mut [0]);
    reader
}
