//! Finds where records begin and end in a byte stream that is cut anywhere.
//!
//! ```text
//! {…}\n{…}\n                              lines: one record a line
//! [{…},{…}]                               array: one record an element
//! {"items":[{…},{…}],"pagination":{…}}    envelope: one record an element of `items`
//! date,from\n…,…\n                        CSV: a header line, then one record a line
//! ```
//!
//! The caller chooses JSON or CSV, or the first character of the body decides; the layout of JSON
//! is detected from the first bytes. A file may be several concatenated arrays, envelopes and
//! objects over several lines. Framing does not interpret records, does no I/O, and holds at most
//! `max_record_bytes` and one chunk.
//!
//! ```
//! use cdrlake::Format;
//! use cdrlake::internals::{Frame, Framer};
//!
//! let mut texts = Vec::new();
//! let mut keep = |frame: Frame<'_>| {
//!     if let Frame::Record { text, .. } = frame {
//!         texts.push(String::from_utf8_lossy(text).into_owned());
//!     }
//!     Ok::<(), cdrlake::internals::FramingError>(())
//! };
//! let mut framer = Framer::new(Format::Json, 1 << 20);
//! framer.push(b"{\"a\":1}\r\n\n{\"a\"", &mut keep)?;
//! framer.push(b":2}", &mut keep)?;
//! framer.finish(&mut keep)?;
//! assert_eq!(texts, [r#"{"a":1}"#, r#"{"a":2}"#]);
//! # Ok::<(), cdrlake::internals::FramingError>(())
//! ```

mod csv;
mod json;

use serde::{Deserialize, Serialize};

use csv::CsvFramer;
pub(crate) use csv::is_separator_line;
pub(crate) use csv::{Cells, MAX_CELLS, Separator};
use json::JsonFramer;
pub(crate) use json::Pagination;

/// Where a record begins in the decoded body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Line, counted from 1, blank lines included.
    pub line: u64,
    /// Offset in bytes from the start of the body, counted from 0.
    pub byte: u64,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}, byte {}", self.line, self.byte)
    }
}

/// What ended a record: it decides what a syntax error inside the record means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// A newline. Framing goes on safely at the next line whatever the record held.
    Newline,
    /// The end of an array element. After a syntax error nothing that follows can be trusted.
    Element,
    /// The end of the body, without a newline. A syntax error here is a stream that was cut.
    EndOfBody,
}

/// One record's bytes, or the beginning of a record that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole record: no line ending, never blank.
    Record {
        /// Where the record begins.
        at: Position,
        /// What ended it.
        boundary: Boundary,
        /// The record's bytes, not yet known to be JSON or UTF-8.
        text: &'a [u8],
    },
    /// A line of CSV, the header line among them: it is the first.
    Cells {
        /// Where the line begins.
        at: Position,
        /// What ended it: a newline or the end of the body.
        boundary: Boundary,
        /// The line as it stands, without its ending.
        text: &'a [u8],
        /// What stands between the separators, not yet known to be UTF-8.
        cells: Cells<'a>,
    },
    /// A record longer than `max_record_bytes`; framing continues after it.
    TooLong {
        /// Where the record begins.
        at: Position,
        /// What ended it.
        boundary: Boundary,
        /// Its first `max_record_bytes` bytes.
        prefix: &'a [u8],
        /// Its whole length in bytes.
        length_bytes: u64,
    },
}

/// What the body as a whole contains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodySummary {
    /// Decoded bytes read.
    pub bytes: u64,
    /// `pagination.total` of an envelope.
    pub envelope_total: Option<u64>,
    /// Whether it is an envelope without a list: its `items` are `null`, or not there.
    pub lacks_list: bool,
}

/// The body cannot be split into records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FramingError {
    /// The body ended inside an array or an envelope: the stream was cut.
    #[error("{at}: the body ends inside its list of records")]
    UnexpectedEnd {
        /// Where the body ended.
        at: Position,
    },
    /// Something other than JSON's next token stood in an array or an envelope.
    #[error("{at}: expected {expected} in the list of records")]
    Syntax {
        /// Where it stood.
        at: Position,
        /// What would have been right there.
        expected: &'static str,
    },
    /// What began like an envelope has the keys of a record.
    #[error(
        "{at}: the body begins like a page of the list (`items` or `pagination`), but continues \
         like a record"
    )]
    RecordAsEnvelope {
        /// Where such a key ended.
        at: Position,
    },
    /// CSV ended between two quotation marks: it was cut.
    #[error("{at}: the body ends inside quotation marks")]
    OpenQuote {
        /// Where the line begins.
        at: Position,
    },
    /// CSV ended without a newline: what stands in its last cell may be all of it, or not.
    #[error(
        "{at}: the CSV ends without a newline, so its last record may be cut. If this server never \
         ends its last line, set source.via to \"stream\""
    )]
    Unterminated {
        /// Where the line begins.
        at: Position,
    },
    /// The body is longer than any that is expected, and may have no end.
    #[error(
        "the body has more than {} (limits.max_slice_bytes)",
        bytesize::ByteSize(*limit_bytes).display().iec()
    )]
    Endless {
        /// How long it may be.
        limit_bytes: u64,
    },
    /// The body begins like a gzip or zstd stream.
    #[error("{at}: the body is compressed, but has no Content-Encoding")]
    Compressed {
        /// Where it begins.
        at: Position,
    },
    /// The body begins like a page of HTML or XML.
    #[error("{at}: the body is a web page, not records. Check for a proxy or firewall in between")]
    WebPage {
        /// Where the first `<` stood.
        at: Position,
    },
}

/// What a body is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON, in whichever layout.
    Json,
    /// JSON, one record a line. Whatever the first line looks like, it is no list and no header.
    Lines,
    /// [RFC 4180](https://www.rfc-editor.org/rfc/rfc4180) with a header line, whatever
    /// `Separator` stands in that.
    Csv,
}

/// White space before a body's first character, after which it is taken for JSON, which may have
/// any amount of it.
const MAX_SPACE_BYTES: usize = 4 << 10;

pub(crate) const BOM: &[u8] = b"\xEF\xBB\xBF";
/// The first byte of one.
const BOM_START: u8 = 0xEF;

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

impl Format {
    /// The format of a body that begins with `start`, or `None` if more bytes are needed.
    fn of(start: &[u8]) -> Option<Self> {
        if start.len() < BOM.len() && BOM.starts_with(start) {
            return None;
        }
        let text = start.strip_prefix(BOM).unwrap_or(start);
        let first = text.iter().find(|&&byte| !is_space(byte));
        match first {
            // What JSON begins with, and what its framing has a better word for: web pages, gzip,
            // zstd.
            Some(b'{' | b'[' | b'<' | 0x1F | 0x28) => Some(Self::Json),
            Some(_) => Some(Self::Csv),
            None if start.len() > MAX_SPACE_BYTES => Some(Self::Json),
            None => None,
        }
    }
}

/// Splits a body into records. See the module for layouts and limits.
#[derive(Debug)]
pub struct Framer {
    max_record_bytes: usize,
    record_keys: &'static [&'static [u8]],
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    /// The format shows once these bytes are more.
    Undecided(Vec<u8>),
    Json(JsonFramer),
    Csv(Box<CsvFramer>),
}

impl Framer {
    /// A framer for one body. A longer record than `max_record_bytes` comes out as
    /// [`Frame::TooLong`].
    pub fn new(format: Format, max_record_bytes: usize) -> Self {
        let inner = match format {
            Format::Json => Inner::Json(JsonFramer::new(max_record_bytes)),
            Format::Lines => Inner::Json(JsonFramer::of_lines(max_record_bytes)),
            Format::Csv => Inner::Csv(Box::new(CsvFramer::new(max_record_bytes))),
        };
        Self {
            max_record_bytes,
            record_keys: &[],
            inner,
        }
    }

    /// The same with keys of a record that an envelope never has beside its list. An object that
    /// begins with `items` and has one of them is a record after all, and must not be taken apart.
    #[must_use]
    pub fn with_record_keys(mut self, keys: &'static [&'static [u8]]) -> Self {
        self.record_keys = keys;
        if let Inner::Json(framer) = &mut self.inner {
            framer.record_keys = keys;
        }
        self
    }

    /// The same for a file, whose format shows in its first character: JSON begins with a brace or
    /// a bracket, and the header line of CSV with neither.
    pub fn detecting(max_record_bytes: usize) -> Self {
        Self {
            max_record_bytes,
            record_keys: &[],
            inner: Inner::Undecided(Vec::new()),
        }
    }

    /// A framer for rows of CSV without their header, whose cells `separator` separates.
    pub(crate) fn of_rows(separator: Separator, max_record_bytes: usize) -> Self {
        Self {
            max_record_bytes,
            record_keys: &[],
            inner: Inner::Csv(Box::new(CsvFramer::of_rows(separator, max_record_bytes))),
        }
    }

    /// The next byte stands there in the body. It is the first one of a line.
    pub(crate) fn continue_at(&mut self, at: Position) {
        match &mut self.inner {
            Inner::Json(framer) => framer.continue_at(at),
            Inner::Csv(framer) => framer.continue_at(at),
            // Its format is detected from the first byte of the body.
            Inner::Undecided(_) => {}
        }
    }

    fn of_file(format: Format, max_record_bytes: usize) -> Self {
        match format {
            Format::Json => Self {
                max_record_bytes,
                record_keys: &[],
                inner: Inner::Json(JsonFramer::of_file(max_record_bytes)),
            },
            Format::Lines | Format::Csv => Self::new(format, max_record_bytes),
        }
    }

    /// Takes the next bytes and hands out every record that ends in them. Lines and elements of
    /// JSON that lie whole within `chunk` are not copied.
    ///
    /// # Errors
    /// [`FramingError`], or what `on_frame` returns; neither leaves the framer usable.
    pub fn push<E, F>(&mut self, chunk: &[u8], on_frame: &mut F) -> Result<(), E>
    where
        E: From<FramingError>,
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        match &mut self.inner {
            Inner::Json(framer) => framer.push(chunk, on_frame),
            Inner::Csv(framer) => framer.push(chunk, on_frame),
            Inner::Undecided(held) => {
                held.extend_from_slice(chunk);
                let Some(format) = Format::of(held) else {
                    return Ok(());
                };
                let held = std::mem::take(held);
                *self =
                    Self::of_file(format, self.max_record_bytes).with_record_keys(self.record_keys);
                self.push(&held, on_frame)
            }
        }
    }

    /// Ends the body: hands out a last line without a newline.
    ///
    /// # Errors
    /// [`FramingError::UnexpectedEnd`] if an array or an envelope is not closed,
    /// [`FramingError::OpenQuote`] if a quoted cell is not, or what `on_frame` returns.
    pub fn finish<E, F>(self, on_frame: &mut F) -> Result<BodySummary, E>
    where
        E: From<FramingError>,
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        match self.inner {
            Inner::Json(framer) => framer.finish(on_frame),
            Inner::Csv(framer) => framer.finish(on_frame),
            // Nothing but white space.
            Inner::Undecided(held) => Ok(BodySummary {
                bytes: held.len() as u64,
                ..BodySummary::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests;
