//! Records in JSON: lines, an array, or an envelope. Which of them it is shows in the first bytes.

use serde::de::{Error, IgnoredAny};
use serde::{Deserialize, Deserializer};

use crate::body::decompress::{GZIP_MAGIC, ZSTD_MAGIC};

use super::{BOM, BOM_START, BodySummary, Boundary, Frame, FramingError, Position, is_space};

/// What stands for an empty list.
const NULL: &[u8] = b"null";
/// What was expected, if `items` is anything else.
const ITEMS: &str = "an array as `items`";
/// Longest key of an envelope that is looked at; no key that matters is longer.
const MAX_ENVELOPE_KEY_BYTES: usize = 64;
/// Longest `pagination` object that is read; a longer one is passed over.
const MAX_PAGINATION_BYTES: usize = 64 << 10;
/// Longest member that reports how a request went and is read.
const MAX_WORDS_BYTES: usize = 2 << 10;
/// Bytes within which an envelope shows itself: an object that begins with more white space is a
/// line. It bounds the work, for all of them are looked at again with every byte.
const MAX_DETECTED_BYTES: usize = 256;
/// First bytes of gzip and zstd streams. No JSON begins with them.
const COMPRESSED_MAGIC: [&[u8]; 2] = [GZIP_MAGIC, ZSTD_MAGIC];

/// Splits a body of JSON into records.
#[derive(Debug)]
pub(super) struct JsonFramer {
    max_record_bytes: usize,
    /// Position of the next byte to be read.
    at: Position,
    state: State,
    /// Bytes of the record (or key, or `pagination` value) that is under way, capped.
    partial: Vec<u8>,
    /// Where `partial` begins.
    partial_at: Position,
    /// Length of what is under way, uncapped.
    partial_length: u64,
    /// Last byte of what is under way, which the cap may have kept out of `partial`.
    partial_last: u8,
    envelope_total: Option<u64>,
    /// What the current envelope reports about itself.
    envelope: Envelope,
    /// Whether one of them had no list.
    lacks_list: bool,
    /// What may stand in it, if it is a file.
    file: Option<FileLayout>,
    /// See [`Framer::with_record_keys`](super::Framer::with_record_keys).
    pub(super) record_keys: &'static [&'static [u8]],
}

/// A file may be several concatenated documents: pages, or objects over several lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileLayout {
    /// An object over several lines shows by its first line.
    Unknown,
    /// Objects follow one another without newlines, on a line longer than any record.
    Objects,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space so far; a byte order mark is still possible.
    Start,
    /// Not yet enough bytes to detect the layout; they are in `partial`.
    Detecting,
    /// The first line of a file, as far as a record may be long: it is in `partial`.
    FirstLine,
    Lines,
    List {
        place: Place,
        enveloped: bool,
    },
    Value {
        extent: Extent,
        purpose: Purpose,
    },
}

impl State {
    /// In front of an object that is a document of its own.
    const DOCUMENT: Self = Self::Value {
        extent: Extent {
            depth: 0,
            in_string: false,
            escaped: false,
            scalar: false,
        },
        purpose: Purpose::Document,
    };
}

impl FileLayout {
    /// Whether an object that begins with `start` is a document of its own, and not a line.
    fn is_document(self, start: &[u8]) -> bool {
        let mut inside = start.iter().skip(1).take_while(|&&byte| is_space(byte));
        start.first() == Some(&b'{') && (self == Self::Objects || inside.any(|&byte| byte == b'\n'))
    }
}

/// What comes next between the values of an array or an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    FirstElement,
    Element,
    AfterElement,
    FirstKey,
    Key,
    InKey { escaped: bool },
    Colon,
    MemberValue,
    AfterMember,
    Done,
}

/// Why a JSON value is being passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Element {
        enveloped: bool,
    },
    /// `items` that are no list: only `null`, for an empty one.
    NoItems,
    /// An object that is a document of its own.
    Document,
    Pagination,
    /// A member that reports how the request went.
    Words(Word),
    OtherMember,
}

/// Members in which a server reports a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Success,
    Message,
    Error,
}

impl Word {
    fn of(key: &[u8]) -> Option<Self> {
        match key {
            b"success" => Some(Self::Success),
            b"message" => Some(Self::Message),
            b"error" => Some(Self::Error),
            _ => None,
        }
    }
}

/// What an envelope contains besides its records.
#[derive(Debug, Default)]
struct Envelope {
    has_list: bool,
    success: Option<bool>,
    message: Option<Vec<u8>>,
    error: Option<Vec<u8>>,
}

impl Envelope {
    fn say(&mut self, word: Word, value: &[u8]) {
        // If cut, it is not valid JSON, but still shows that there is a report.
        let is_whole = value.len() <= MAX_WORDS_BYTES;
        let text = if is_whole { value } else { b"\"(too long)\"" };
        let text = (!matches!(text, b"null" | b"\"\"" | b"false")).then(|| text.to_vec());
        match word {
            Word::Success => self.success = serde_json::from_slice(value).ok(),
            Word::Message => self.message = text,
            Word::Error => self.error = text,
        }
    }

    /// The server's report of a failure, as a server sends it without an envelope.
    fn failure(&self) -> Option<Vec<u8>> {
        let has_failed = self.success == Some(false)
            || self.error.is_some()
            || (!self.has_list && self.success.is_none() && self.message.is_some());
        if !has_failed {
            return None;
        }
        let mut report = b"{\"success\":false".to_vec();
        let words = [("message", &self.message), ("error", &self.error)];
        for (name, text) in words {
            let text = text
                .iter()
                .flat_map(|text| [b",\"", name.as_bytes(), b"\":", text]);
            report.extend(text.flatten());
        }
        report.push(b'}');
        Some(report)
    }
}

/// Finds the end of one JSON value by its brackets and quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    depth: u64,
    in_string: bool,
    escaped: bool,
    scalar: bool,
}

enum Step {
    Inside,
    EndsWith,
    EndedBefore,
}

impl Extent {
    fn starting_with(byte: u8) -> Self {
        Self {
            depth: u64::from(matches!(byte, b'{' | b'[')),
            in_string: byte == b'"',
            escaped: false,
            scalar: !matches!(byte, b'{' | b'[' | b'"'),
        }
    }

    /// Reads on in a text. Returns where the value ends, if it does.
    fn end_in(&mut self, text: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < text.len() {
            // Most bytes are in a string, where only these marks have a meaning.
            if self.in_string && !self.escaped {
                let is_mark = |byte: &u8| matches!(byte, b'"' | b'\\');
                at += text[at..].iter().position(is_mark)?;
            }
            match self.step(text[at]) {
                Step::Inside => at += 1,
                Step::EndsWith => return Some(at + 1),
                Step::EndedBefore => return Some(at),
            }
        }
        None
    }

    fn step(&mut self, byte: u8) -> Step {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => {
                    self.in_string = false;
                    if self.depth == 0 {
                        return Step::EndsWith;
                    }
                }
                _ => {}
            }
            return Step::Inside;
        }
        if self.scalar {
            return match byte {
                b',' | b']' | b'}' => Step::EndedBefore,
                byte if is_space(byte) => Step::EndedBefore,
                _ => Step::Inside,
            };
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Step::EndsWith;
                }
            }
            _ => {}
        }
        Step::Inside
    }
}

fn is_blank(text: &[u8]) -> bool {
    text.iter().copied().all(is_space)
}

impl JsonFramer {
    pub(super) fn new(max_record_bytes: usize) -> Self {
        let start = Position { line: 1, byte: 0 };
        Self {
            max_record_bytes,
            at: start,
            state: State::Start,
            partial: Vec::new(),
            partial_at: start,
            partial_length: 0,
            partial_last: 0,
            envelope_total: None,
            envelope: Envelope::default(),
            lacks_list: false,
            file: None,
            record_keys: &[],
        }
    }

    /// For a file, which people make in more ways than a server does.
    pub(super) fn of_file(max_record_bytes: usize) -> Self {
        Self {
            file: Some(FileLayout::Unknown),
            ..Self::new(max_record_bytes)
        }
    }

    /// For a body that is known to hold one record a line.
    pub(super) fn of_lines(max_record_bytes: usize) -> Self {
        Self {
            state: State::Lines,
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
        self.partial.capacity()
    }

    pub(super) fn push<E, F>(&mut self, chunk: &[u8], on_frame: &mut F) -> Result<(), E>
    where
        E: From<FramingError>,
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        let mut rest = chunk;
        while !rest.is_empty() {
            rest = match self.state {
                State::Start | State::Detecting => self.detect(rest, on_frame)?,
                State::FirstLine => self.first_line(rest, on_frame)?,
                State::Lines => self.lines(rest, on_frame)?,
                State::List { .. } => self.list(rest, on_frame)?,
                State::Value { .. } => self.value(rest, on_frame)?,
            };
        }
        Ok(())
    }

    pub(super) fn finish<E, F>(mut self, on_frame: &mut F) -> Result<BodySummary, E>
    where
        E: From<FramingError>,
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        if matches!(self.state, State::Detecting | State::FirstLine) {
            self.settle(State::Lines, on_frame)?;
        }
        match self.state {
            State::Start
            | State::Detecting
            | State::FirstLine
            | State::List {
                place: Place::Done, ..
            } => {}
            State::Lines => self.end_line(Boundary::EndOfBody, on_frame)?,
            State::List { .. } | State::Value { .. } => {
                return Err(FramingError::UnexpectedEnd { at: self.at }.into());
            }
        }
        Ok(BodySummary {
            bytes: self.at.byte,
            envelope_total: self.envelope_total,
            lacks_list: self.lacks_list,
        })
    }

    fn advance(&mut self, passed: &[u8]) {
        self.at.byte += passed.len() as u64;
        self.at.line += memchr::memchr_iter(b'\n', passed).count() as u64;
    }

    /// Adds to what is under way, keeping one byte more than a record may have: a carriage
    /// return before the newline does not count.
    fn keep(&mut self, bytes: &[u8], cap: usize) {
        let room = cap.saturating_sub(self.partial.len()).min(bytes.len());
        self.partial.extend_from_slice(&bytes[..room]);
        self.partial_length += bytes.len() as u64;
        if let Some(&last) = bytes.last() {
            self.partial_last = last;
        }
    }

    fn begin_partial(&mut self) {
        self.partial.clear();
        self.partial_at = self.at;
        self.partial_length = 0;
    }

    /// Looks for the first bytes that show the layout, one byte at a time: they are few.
    fn detect<'a, E, F>(&mut self, chunk: &'a [u8], on_frame: &mut F) -> Result<&'a [u8], E>
    where
        E: From<FramingError>,
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        for (i, &byte) in chunk.iter().enumerate() {
            let rest = &chunk[i + 1..];
            // Each of several concatenated files may have one.
            let is_first = match self.file {
                Some(_) => BOM.starts_with(&self.partial),
                None => self.partial.len() as u64 == self.at.byte,
            };
            let in_bom = is_first && BOM.get(self.partial.len()) == Some(&byte);
            if self.state == State::Start {
                if in_bom || !is_space(byte) {
                    self.begin_partial();
                    self.state = State::Detecting;
                } else {
                    self.advance(&[byte]);
                    continue;
                }
            }
            self.keep(&[byte], usize::MAX);
            self.advance(&[byte]);
            if self.partial == BOM {
                self.partial.clear();
                self.state = State::Start;
                continue;
            }
            if in_bom {
                continue;
            }
            let layout = match (layout_of(&self.partial), self.file) {
                (Some(Layout::Lines), Some(file)) if file.is_document(&self.partial) => {
                    Some(Layout::Document)
                }
                (layout, _) => layout,
            };
            match layout {
                Some(Layout::Lines) if self.file.is_some() && self.partial[0] == b'{' => {
                    self.state = State::FirstLine;
                    return Ok(rest);
                }
                Some(Layout::Document) => {
                    self.settle(State::DOCUMENT, on_frame)?;
                    return Ok(rest);
                }
                None if self.partial.len() <= self.max_record_bytes.min(MAX_DETECTED_BYTES) => {}
                None | Some(Layout::Lines) => {
                    self.settle(State::Lines, on_frame)?;
                    return Ok(rest);
                }
                Some(Layout::Array) => {
                    self.state = State::List {
                        place: Place::FirstElement,
                        enveloped: false,
                    };
                    return Ok(rest);
                }
                Some(Layout::Envelope) => {
                    self.settle(
                        State::List {
                            place: Place::FirstKey,
                            enveloped: true,
                        },
                        on_frame,
                    )?;
                    return Ok(rest);
                }
                Some(Layout::Compressed) => {
                    return Err(FramingError::Compressed {
                        at: self.partial_at,
                    }
                    .into());
                }
                Some(Layout::WebPage) => {
                    return Err(FramingError::WebPage {
                        at: self.partial_at,
                    }
                    .into());
                }
            }
        }
        Ok(&[])
    }

    /// Leaves detection: reads the bytes held back again, now that their layout is known.
    fn settle<E, F>(&mut self, state: State, on_frame: &mut F) -> Result<(), E>
    where
        E: From<FramingError>,
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        let held = std::mem::take(&mut self.partial);
        self.at = self.partial_at;
        self.begin_partial();
        self.state = state;
        // An envelope's opening brace is what made it one.
        let skip = usize::from(matches!(state, State::List { .. }));
        self.advance(&held[..skip]);
        self.push(&held[skip..], on_frame)
    }

    /// Holds the first line of a file as far as a record may be long: if it is longer, it may be
    /// all of the file's objects.
    fn first_line<'a, E, F>(&mut self, chunk: &'a [u8], on_frame: &mut F) -> Result<&'a [u8], E>
    where
        E: From<FramingError>,
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        let line = &chunk[..memchr::memchr(b'\n', chunk).unwrap_or(chunk.len())];
        let room = self.max_record_bytes.saturating_add(1) - self.partial.len();
        let taken = &line[..line.len().min(room)];
        self.keep(taken, usize::MAX);
        self.advance(taken);
        let is_too_long = self.partial.len() > self.max_record_bytes;
        if !is_too_long && line.len() == chunk.len() {
            return Ok(&[]);
        }
        if is_too_long && are_several_objects(&self.partial) {
            self.file = Some(FileLayout::Objects);
            self.settle(State::DOCUMENT, on_frame)?;
        } else {
            self.settle(State::Lines, on_frame)?;
        }
        Ok(&chunk[taken.len()..])
    }

    fn lines<'a, E, F>(&mut self, chunk: &'a [u8], on_frame: &mut F) -> Result<&'a [u8], E>
    where
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        let mut rest = chunk;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            if self.partial_length == 0 {
                let text = line.strip_suffix(b"\r").unwrap_or(line);
                emit(
                    text,
                    text.len() as u64,
                    self.at,
                    Boundary::Newline,
                    self.max_record_bytes,
                    on_frame,
                )?;
            } else {
                self.keep(line, self.max_record_bytes.saturating_add(1));
                self.end_line(Boundary::Newline, on_frame)?;
            }
            self.at.byte += end as u64 + 1;
            self.at.line += 1;
        }
        if !rest.is_empty() {
            if self.partial_length == 0 {
                self.begin_partial();
            }
            self.keep(rest, self.max_record_bytes.saturating_add(1));
            self.at.byte += rest.len() as u64;
        }
        Ok(&[])
    }

    fn end_line<E, F>(&mut self, boundary: Boundary, on_frame: &mut F) -> Result<(), E>
    where
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        if self.partial_length == 0 {
            return Ok(());
        }
        let length = self.partial_length - u64::from(self.partial_last == b'\r');
        let held = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .min(self.partial.len());
        let text = &self.partial[..held];
        emit(
            text,
            length,
            self.partial_at,
            boundary,
            self.max_record_bytes,
            on_frame,
        )?;
        self.partial.clear();
        self.partial_length = 0;
        Ok(())
    }

    /// Reads what stands between the values of an array or an envelope.
    fn list<'a, E, F>(&mut self, chunk: &'a [u8], on_frame: &mut F) -> Result<&'a [u8], E>
    where
        E: From<FramingError>,
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        for (i, &byte) in chunk.iter().enumerate() {
            let State::List { place, enveloped } = self.state else {
                return Ok(&chunk[i..]);
            };
            let between = !matches!(place, Place::InKey { .. });
            if between && is_space(byte) {
                self.advance(&[byte]);
                continue;
            }
            let next = match (place, byte) {
                (Place::FirstElement | Place::AfterElement, b']') => {
                    if enveloped {
                        Place::AfterMember
                    } else {
                        Place::Done
                    }
                }
                (Place::AfterElement, b',') => Place::Element,
                (Place::FirstElement | Place::Element, b',' | b']' | b'}' | b':') => {
                    return Err(self.expected("a record"));
                }
                (Place::FirstElement | Place::Element, _) => {
                    return Ok(self.begin_value(
                        byte,
                        Purpose::Element { enveloped },
                        &chunk[i + 1..],
                    ));
                }
                (Place::AfterElement, _) => return Err(self.expected("`,` or `]`")),
                (Place::FirstKey | Place::Key, b'"') => {
                    self.advance(&[byte]);
                    self.begin_partial();
                    self.state = State::List {
                        place: Place::InKey { escaped: false },
                        enveloped,
                    };
                    continue;
                }
                (Place::FirstKey | Place::AfterMember, b'}') => {
                    self.end_envelope(on_frame)?;
                    Place::Done
                }
                (Place::FirstKey | Place::Key, _) => return Err(self.expected("a key")),
                (Place::InKey { escaped: false }, b'"') => {
                    if self.record_keys.contains(&self.partial.as_slice()) {
                        return Err(FramingError::RecordAsEnvelope { at: self.at }.into());
                    }
                    Place::Colon
                }
                (Place::InKey { escaped }, _) => {
                    self.keep(&[byte], MAX_ENVELOPE_KEY_BYTES);
                    Place::InKey {
                        escaped: !escaped && byte == b'\\',
                    }
                }
                (Place::Colon, b':') => Place::MemberValue,
                (Place::Colon, _) => return Err(self.expected("`:`")),
                (Place::MemberValue, b'[') if self.partial == b"items" => {
                    self.envelope.has_list = true;
                    Place::FirstElement
                }
                (Place::MemberValue, b'n') if self.partial == b"items" => {
                    return Ok(self.begin_value(byte, Purpose::NoItems, &chunk[i + 1..]));
                }
                (Place::MemberValue, _) if self.partial == b"items" => {
                    return Err(self.expected(ITEMS));
                }
                (Place::MemberValue, b',' | b']' | b'}' | b':') => {
                    return Err(self.expected("a value"));
                }
                (Place::MemberValue, _) => {
                    let purpose = match (&*self.partial, Word::of(&self.partial)) {
                        (b"pagination", _) => Purpose::Pagination,
                        (_, Some(word)) => Purpose::Words(word),
                        _ => Purpose::OtherMember,
                    };
                    return Ok(self.begin_value(byte, purpose, &chunk[i + 1..]));
                }
                (Place::AfterMember, b',') => Place::Key,
                (Place::AfterMember, _) => return Err(self.expected("`,` or `}`")),
                (Place::Done, b'{' | b'[' | BOM_START) if self.file.is_some() => {
                    self.state = State::Start;
                    return Ok(&chunk[i..]);
                }
                (Place::Done, _) => return Err(self.expected("nothing after the list's end")),
            };
            self.state = State::List {
                place: next,
                enveloped,
            };
            self.advance(&[byte]);
        }
        Ok(&[])
    }

    /// Emits an envelope's report of a failure in place of a record. The reader of records
    /// interprets it.
    fn end_envelope<E, F>(&mut self, on_frame: &mut F) -> Result<(), E>
    where
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        let envelope = std::mem::take(&mut self.envelope);
        self.lacks_list |= !envelope.has_list;
        match envelope.failure() {
            Some(report) => on_frame(Frame::Record {
                at: self.at,
                boundary: Boundary::Element,
                text: &report,
            }),
            None => Ok(()),
        }
    }

    fn expected<E: From<FramingError>>(&self, expected: &'static str) -> E {
        FramingError::Syntax {
            at: self.at,
            expected,
        }
        .into()
    }

    fn begin_value<'a>(&mut self, first: u8, purpose: Purpose, rest: &'a [u8]) -> &'a [u8] {
        self.begin_partial();
        self.keep(&[first], self.value_cap(purpose));
        self.advance(&[first]);
        self.state = State::Value {
            extent: Extent::starting_with(first),
            purpose,
        };
        rest
    }

    fn value_cap(&self, purpose: Purpose) -> usize {
        match purpose {
            Purpose::Element { .. } | Purpose::Document => self.max_record_bytes,
            Purpose::NoItems => NULL.len() + 1,
            Purpose::Pagination => MAX_PAGINATION_BYTES,
            Purpose::Words(_) => MAX_WORDS_BYTES + 1,
            Purpose::OtherMember => 0,
        }
    }

    /// Reads one value of an array or an envelope to its end.
    fn value<'a, E, F>(&mut self, chunk: &'a [u8], on_frame: &mut F) -> Result<&'a [u8], E>
    where
        E: From<FramingError>,
        F: FnMut(Frame<'_>) -> Result<(), E>,
    {
        let State::Value {
            mut extent,
            purpose,
        } = self.state
        else {
            return Ok(chunk);
        };
        let end = extent.end_in(chunk);
        let taken = &chunk[..end.unwrap_or(chunk.len())];
        self.keep(taken, self.value_cap(purpose));
        self.advance(taken);
        if end.is_none() {
            self.state = State::Value { extent, purpose };
            return Ok(&[]);
        }
        if let Purpose::Element { .. } | Purpose::Document = purpose {
            let (length, at) = (self.partial_length, self.partial_at);
            emit(
                &self.partial,
                length,
                at,
                Boundary::Element,
                self.max_record_bytes,
                on_frame,
            )?;
        }
        self.state = match purpose {
            Purpose::Element { enveloped } => State::List {
                place: Place::AfterElement,
                enveloped,
            },
            Purpose::Document => State::Start,
            Purpose::NoItems if self.partial == NULL => State::List {
                place: Place::AfterMember,
                enveloped: true,
            },
            Purpose::NoItems => return Err(self.expected(ITEMS)),
            Purpose::Pagination => {
                let total = pagination_total(&self.partial);
                self.envelope_total = self.envelope_total.max(total);
                State::List {
                    place: Place::AfterMember,
                    enveloped: true,
                }
            }
            Purpose::Words(word) => {
                self.envelope.say(word, &self.partial);
                State::List {
                    place: Place::AfterMember,
                    enveloped: true,
                }
            }
            Purpose::OtherMember => State::List {
                place: Place::AfterMember,
                enveloped: true,
            },
        };
        self.partial.clear();
        self.partial_length = 0;
        Ok(&chunk[taken.len()..])
    }
}

fn emit<E, F>(
    text: &[u8],
    length_bytes: u64,
    at: Position,
    boundary: Boundary,
    max_record_bytes: usize,
    on_frame: &mut F,
) -> Result<(), E>
where
    F: FnMut(Frame<'_>) -> Result<(), E>,
{
    if length_bytes > max_record_bytes as u64 {
        let prefix = &text[..max_record_bytes.min(text.len())];
        return on_frame(Frame::TooLong {
            at,
            boundary,
            prefix,
            length_bytes,
        });
    }
    if is_blank(text) {
        return Ok(());
    }
    on_frame(Frame::Record { at, boundary, text })
}

#[derive(Clone, Copy)]
enum Layout {
    Lines,
    Document,
    Array,
    Envelope,
    Compressed,
    WebPage,
}

/// The layout of a body that begins with `start`, or `None` if more bytes are needed.
fn layout_of(start: &[u8]) -> Option<Layout> {
    for magic in COMPRESSED_MAGIC {
        if start.starts_with(magic) {
            return Some(Layout::Compressed);
        }
        if magic.starts_with(start) {
            return None;
        }
    }
    match start.first()? {
        b'[' => return Some(Layout::Array),
        b'<' => return Some(Layout::WebPage),
        b'{' => {}
        _ => return Some(Layout::Lines),
    }
    let inside = start[1..].trim_ascii_start();
    if inside.is_empty() {
        return None;
    }
    for key in [b"\"items\"".as_slice(), b"\"pagination\""] {
        if inside.starts_with(key) {
            return Some(Layout::Envelope);
        }
        if key.starts_with(inside) {
            return None;
        }
    }
    Some(Layout::Lines)
}

/// Whether a text begins with an object and goes on with another, or with its beginning.
fn are_several_objects(text: &[u8]) -> bool {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    let is_whole = matches!(values.next(), Some(Ok(_)));
    let rest = text.get(values.byte_offset()..).unwrap_or_default();
    is_whole && rest.trim_ascii_start().starts_with(b"{")
}

/// The part of a page that contains the number of records of all pages.
#[derive(Debug, Deserialize)]
pub(crate) struct Pagination {
    /// A number, which some servers write as text.
    #[serde(deserialize_with = "number_or_text")]
    pub(crate) total: u64,
}

fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Total {
        Number(u64),
        Float(f64),
        Text(String),
    }
    match Total::deserialize(deserializer)? {
        Total::Number(total) => Ok(total),
        Total::Float(total) => {
            whole(&total.to_string()).ok_or_else(|| D::Error::custom("no count"))
        }
        Total::Text(text) => whole(text.trim()).ok_or_else(|| D::Error::custom("no count")),
    }
}

/// A count, which may be written with decimals that are zero.
fn whole(text: &str) -> Option<u64> {
    let (number, decimals) = text.split_once('.').unwrap_or((text, ""));
    let is_whole = decimals.bytes().all(|digit| digit == b'0');
    is_whole.then(|| number.parse().ok()).flatten()
}

fn pagination_total(text: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Pagination>(text)
        .ok()
        .map(|pagination| pagination.total)
}
