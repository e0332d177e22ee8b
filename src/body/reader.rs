//! Bytes of a body in, records out, whatever the body is made of: compressed or not, JSON in any
//! layout, or CSV, whose rows come out as the JSON objects that they would be.
//!
//! No I/O. Memory: one record, one chunk, and what [decompression](crate::body::decompress) takes.

use super::csv::{CsvRow, CsvRows, Header, HeaderError, is_stray_header};
use super::decompress::{DecompressError, Decompressor, Encoding};
use super::framing::{
    BodySummary, Boundary, Format, Frame, Framer, FramingError, Position, Separator,
};
use crate::cdr::decode::{DecodeError, RECORD_KEYS, RejectReason, decode};

/// The highest limit for the length of a record: a column cannot hold longer texts.
pub(crate) const MAX_RECORD_BYTES: usize = 256 << 20;

/// One record of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// What should be a record.
    Record {
        /// Where it begins in the decompressed body.
        at: Position,
        /// What ended it.
        boundary: Boundary,
        /// Its JSON, not yet known to be any.
        json: &'a [u8],
        /// The record as it stands in the body: the same, or a line of CSV.
        text: &'a [u8],
        /// The header of a line of CSV.
        header: Option<Header>,
    },
    /// An item that is not a record.
    Broken {
        /// Where it begins in the decompressed body.
        at: Position,
        /// What ended it.
        boundary: Boundary,
        /// What is wrong with it.
        reason: RejectReason,
        /// As much of it as a record may have.
        text: &'a [u8],
        /// Its whole length.
        length_bytes: u64,
    },
}

/// What is known when a body has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyContent {
    /// What the body as a whole contained.
    pub summary: BodySummary,
    /// Whether it was CSV with a header.
    pub has_header: bool,
    /// Fields of a record for which the CSV had no column.
    pub missing_fields: Vec<&'static str>,
}

impl BodyContent {
    /// Adds the fields that were missing to those of earlier bodies, each once.
    pub fn add_missing_to(&self, fields: &mut Vec<&'static str>) {
        for field in &self.missing_fields {
            if !fields.contains(field) {
                fields.push(field);
            }
        }
    }
}

/// How much of a body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// A longer record is rejected: `limits.max_record_bytes`.
    pub record_bytes: usize,
    /// A longer body, decompressed, is taken for endless.
    pub body_bytes: u64,
}

/// Reads one body.
#[derive(Debug)]
pub struct RecordReader {
    decompressor: Decompressor,
    framer: Framer,
    csv: CsvRows,
    /// Whether a line may be the header of CSV that begins in the middle of something else.
    may_be_header: bool,
    /// Whether it comes from a server, and may have been cut on its way. A file is taken as it is.
    may_be_cut: bool,
    limits: BodyLimits,
    /// Decompressed bytes so far.
    bytes: u64,
}

impl RecordReader {
    /// For a server's body that is compressed so and in that format. In CSV even its last line has
    /// to end with a newline, for a cell that was cut is no worse a cell.
    pub fn new(encoding: Encoding, format: Format, limits: BodyLimits) -> Self {
        Self {
            decompressor: Decompressor::new(encoding),
            framer: Framer::new(format, limits.record_bytes).with_record_keys(&RECORD_KEYS),
            csv: CsvRows::default(),
            may_be_header: format != Format::Lines,
            may_be_cut: true,
            limits,
            bytes: 0,
        }
    }

    /// For a file that begins with `start`, which tells what it is made of. It may have any length.
    pub fn of_file(start: &[u8], max_record_bytes: usize) -> Self {
        let limits = BodyLimits {
            record_bytes: max_record_bytes,
            body_bytes: u64::MAX,
        };
        Self {
            decompressor: Decompressor::of_file(start),
            framer: Framer::detecting(max_record_bytes).with_record_keys(&RECORD_KEYS),
            may_be_cut: false,
            ..Self::new(Encoding::Identity, Format::Json, limits)
        }
    }

    /// For lines of a file that begin at `at`: of JSON, or of CSV with this header and separator.
    ///
    /// # Errors
    /// The header cannot be used.
    pub(crate) fn of_lines<E>(
        at: Position,
        header: Option<(&[u8], Separator)>,
        max_record_bytes: usize,
    ) -> Result<Self, E>
    where
        E: From<DecompressError> + From<FramingError> + From<HeaderError>,
    {
        let limits = BodyLimits {
            record_bytes: max_record_bytes,
            body_bytes: u64::MAX,
        };
        let mut reader = Self {
            may_be_cut: false,
            ..Self::new(Encoding::Identity, Format::Lines, limits)
        };
        if let Some((header, separator)) = header {
            reader.framer = Framer::of_rows(separator, max_record_bytes);
            reader.push(header, |_| Ok::<(), E>(()))?;
            reader.push(b"\n", |_| Ok::<(), E>(()))?;
        }
        reader.framer.continue_at(at);
        Ok(reader)
    }

    /// Whether the bytes of the body are its text: it is not compressed.
    pub(crate) fn is_plain(&self) -> bool {
        self.decompressor.is_plain()
    }

    /// Takes the next bytes and hands out every record that ends in them.
    ///
    /// # Errors
    /// What is wrong with the body as a whole, or what `on_item` returns; neither leaves the reader
    /// usable.
    pub fn push<E>(
        &mut self,
        chunk: &[u8],
        mut on_item: impl FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<(), E>
    where
        E: From<DecompressError> + From<FramingError> + From<HeaderError>,
    {
        let (framer, csv, limits) = (&mut self.framer, &mut self.csv, self.limits);
        let may_be_header = self.may_be_header;
        let read_bytes = &mut self.bytes;
        self.decompressor.push(chunk, |bytes| {
            *read_bytes += bytes.len() as u64;
            if *read_bytes > limits.body_bytes {
                let limit_bytes = limits.body_bytes;
                return Err(FramingError::Endless { limit_bytes }.into());
            }
            framer.push(bytes, &mut |frame| {
                if may_be_header {
                    refuse_header_in(&frame)?;
                }
                read(csv, limits.record_bytes, &frame, &mut on_item)
            })
        })
    }

    /// Ends the body: hands out a last record that nothing ended.
    ///
    /// # Errors
    /// The body ended too early, or what `on_item` returns.
    pub fn finish<E>(
        mut self,
        mut on_item: impl FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<BodyContent, E>
    where
        E: From<DecompressError> + From<FramingError> + From<HeaderError>,
    {
        self.decompressor.finish()?;
        let (csv, limit_bytes) = (&mut self.csv, self.limits.record_bytes);
        let (may_be_cut, may_be_header) = (self.may_be_cut, self.may_be_header);
        let summary = self.framer.finish(&mut |frame| {
            // A header that is all there is holds nothing that could be cut.
            if may_be_cut && csv.has_header() {
                refuse_unterminated(&frame)?;
            }
            if may_be_header {
                refuse_header_in(&frame)?;
            }
            read(csv, limit_bytes, &frame, &mut on_item)
        })?;
        Ok(BodyContent {
            summary,
            has_header: csv.has_header(),
            missing_fields: csv.missing_fields().to_vec(),
        })
    }
}

/// Refuses a last line of CSV without a newline, unless it is a server's report of a failure.
fn refuse_unterminated(frame: &Frame<'_>) -> Result<(), FramingError> {
    match *frame {
        Frame::Cells {
            at,
            boundary: Boundary::EndOfBody,
            text,
            ..
        } if !matches!(decode(text), Err(DecodeError::ServerError { .. })) => {
            Err(FramingError::Unterminated { at })
        }
        _ => Ok(()),
    }
}

/// Refuses a line of JSON that names columns.
fn refuse_header_in(frame: &Frame<'_>) -> Result<(), HeaderError> {
    match *frame {
        Frame::Record { at, text, .. } if is_stray_header(text) => {
            Err(HeaderError::BehindJson { at })
        }
        Frame::TooLong { at, prefix, .. } if is_stray_header(prefix) => {
            Err(HeaderError::TooLong { at })
        }
        _ => Ok(()),
    }
}

fn read<E: From<HeaderError>>(
    csv: &mut CsvRows,
    limit_bytes: usize,
    frame: &Frame<'_>,
    on_item: &mut impl FnMut(Item<'_>) -> Result<(), E>,
) -> Result<(), E> {
    // A row that is no header itself leaves it as it is.
    let header = csv.header();
    on_item(match *frame {
        Frame::Record { at, boundary, text } => Item::Record {
            at,
            boundary,
            json: text,
            text,
            header: None,
        },
        Frame::Cells {
            at,
            boundary,
            text,
            cells,
        } => match csv.read(at, text, cells)? {
            CsvRow::Header => return Ok(()),
            CsvRow::Record(json) => Item::Record {
                at,
                boundary,
                json,
                text,
                header,
            },
            CsvRow::Reject(reason) => Item::Broken {
                at,
                boundary,
                reason,
                text,
                length_bytes: text.len() as u64,
            },
        },
        Frame::TooLong {
            at,
            boundary,
            prefix,
            length_bytes,
        } => Item::Broken {
            at,
            boundary,
            reason: RejectReason::TooLong {
                length_bytes,
                limit_bytes,
            },
            text: prefix,
            length_bytes,
        },
    })
}

#[cfg(test)]
mod forms;
#[cfg(test)]
mod tests;
