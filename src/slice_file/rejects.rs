//! Keeps what could not become a row: one JSON object a line, zstd-compressed.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::TempPath;

use super::writer::{SpoolFile, create_spool_file};
use crate::body::framing::Position;
use crate::body::reader::MAX_RECORD_BYTES;
use crate::cdr::decode::Reason;
use crate::error::truncated;

/// One line of a rejects file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reject<'a> {
    /// The file of an export that the record was loaded from: the position is within it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export_file: Option<Cow<'a, str>>,
    /// Where the record began in the source's body.
    #[serde(flatten)]
    pub at: Position,
    /// Which page it was, where the stream turned out to be paged: the position is within it.
    #[serde(default = "first_page", skip_serializing_if = "is_first_page")]
    pub page: u64,
    /// A short name of the reason, for grouping: [`Reason::code`].
    pub code: Cow<'a, str>,
    /// The reason, in words that quote no value.
    pub reason: String,
    /// Length of the record. More than is kept here, if it was longer than allowed.
    pub length_bytes: u64,
    /// The record's text, where it is UTF-8 and JSON does not make too much of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Cow<'a, str>>,
    /// Else the record's bytes in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

impl<'a> Reject<'a> {
    /// Describes a rejected record, or as much of it as was kept.
    pub(crate) fn new(
        at: Position,
        page: u64,
        reason: &Reason,
        bytes: &'a [u8],
        length_bytes: u64,
    ) -> Self {
        let bytes = &bytes[..bytes.len().min(MAX_KEPT_BYTES)];
        let text = std::str::from_utf8(bytes).ok();
        let text = text.filter(|text| json_bytes(text) <= MAX_JSON_GROWTH * text.len());
        Self {
            export_file: None,
            at,
            page,
            code: Cow::Borrowed(reason.code()),
            reason: reason.to_string(),
            length_bytes,
            text: text.map(Cow::Borrowed),
            base64: text.is_none().then(|| base64(bytes)),
        }
    }

    /// The same for a record of the file of that name.
    #[must_use]
    pub(crate) fn of_export(mut self, file: &str) -> Self {
        self.export_file = Some(truncated(file, MAX_FILE_NAME_CHARS).into());
        self
    }
}

impl Reject<'_> {
    /// Where the record began, in words.
    pub(crate) fn place(&self) -> String {
        let at = self.at;
        match &self.export_file {
            Some(file) => format!("{file}, {at}"),
            None if is_first_page(&self.page) => at.to_string(),
            None => format!("page {}, {at}", self.page),
        }
    }

    /// The record's text, as far as it is text.
    pub(crate) fn shown(&self) -> Cow<'_, str> {
        use base64::Engine;
        match (&self.text, &self.base64) {
            (Some(text), _) => Cow::Borrowed(text),
            (None, Some(encoded)) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(encoded);
                String::from_utf8_lossy(&bytes.unwrap_or_default())
                    .into_owned()
                    .into()
            }
            (None, None) => Cow::Borrowed(""),
        }
    }
}

fn first_page() -> u64 {
    1
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_first_page(page: &u64) -> bool {
    *page == first_page()
}

/// Standard base64 with padding ([RFC 4648](https://www.rfc-editor.org/rfc/rfc4648#section-4)).
fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Most that is kept of a record: as much as the longest has. What hides numbers may make more of one.
const MAX_KEPT_BYTES: usize = MAX_RECORD_BYTES;
/// So many times as long as itself may be the JSON string that a text becomes. Quotation marks take
/// two bytes each; only control characters take more, and base64, of which they then become, less.
const MAX_JSON_GROWTH: usize = 2;
/// Most that is kept of the name of a file, some characters of which take four bytes.
const MAX_FILE_NAME_CHARS: usize = 1_000;
/// Everything beside the text: names, numbers, and reasons, which quote nothing.
const MAX_DESCRIPTION_BYTES: usize = 8 << 10;
/// Longest line that is read, and so the longest that is written.
const MAX_LINE_BYTES: usize = MAX_JSON_GROWTH * MAX_KEPT_BYTES + MAX_DESCRIPTION_BYTES;

/// The length of the JSON string that a text becomes, without its quotation marks.
fn json_bytes(text: &str) -> usize {
    let bytes = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\t' | b'\n' | b'\r' | 0x08 | 0x0C => 2,
        0..0x20 => 6,
        _ => 1,
    });
    bytes.sum()
}

/// Calls `each` for every reject of the file at `path`, in order. Memory: one line.
///
/// # Errors
/// The file cannot be read, or is not one of ours; or what `each` returns.
pub(crate) fn read_rejects<E: From<io::Error>>(
    path: &Path,
    mut each: impl FnMut(&Reject<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = BufReader::new(zstd::Decoder::new(File::open(path)?)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader)
            .take(MAX_LINE_BYTES as u64)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            let problem = "a line is cut, or far too long to be ours";
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem).into());
        }
        let reject: Reject<'_> = serde_json::from_slice(&line).map_err(io::Error::from)?;
        each(&reject)?;
    }
}

/// Collects the rejects of one slice in the spool. The file exists from the first reject on.
/// Memory: a write buffer and zstd's window.
pub(crate) struct RejectsWriter {
    path: PathBuf,
    open: Option<(zstd::Encoder<'static, BufWriter<File>>, TempPath)>,
    count: u64,
    /// Place and reason of the first reject, in words.
    first: Option<String>,
}

impl std::fmt::Debug for RejectsWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RejectsWriter")
            .field("path", &self.path)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl RejectsWriter {
    /// A writer whose file will lie at `path`.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            open: None,
            count: 0,
            first: None,
        }
    }

    /// Rejects so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Where the first reject stands, and why it is one.
    pub(crate) fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }

    /// Adds a reject.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub(crate) fn add(&mut self, reject: &Reject<'_>) -> io::Result<()> {
        let (encoder, _) = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(Self::open(&self.path)?),
        };
        serde_json::to_writer(&mut *encoder, reject)?;
        encoder.write_all(b"\n")?;
        self.count += 1;
        self.first
            .get_or_insert_with(|| format!("{}: {}", reject.place(), reject.reason));
        Ok(())
    }

    fn open(path: &Path) -> io::Result<(zstd::Encoder<'static, BufWriter<File>>, TempPath)> {
        let file = create_spool_file(path)?;
        let path = TempPath::try_from_path(path)?;
        Ok((zstd::Encoder::new(BufWriter::new(file), 3)?, path))
    }

    /// Ends the file and hands it over; `None` if nothing was rejected.
    ///
    /// # Errors
    /// The file cannot be written, or read again.
    pub(crate) fn finish(self) -> io::Result<Option<SpoolFile>> {
        let Some((encoder, path)) = self.open else {
            return Ok(None);
        };
        encoder.finish()?.flush()?;
        SpoolFile::of(path, self.count).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::{Mode, Modes, Privacy, PrivacyKey};

    const BYTES: usize = 64 << 10;
    const AT: Position = Position { line: 1, byte: 0 };

    /// Records that grow most: what JSON escapes, what is no text, and the shortest numbers there
    /// are.
    fn worst_records() -> Vec<Vec<u8>> {
        let of = |unit: &[u8]| unit.repeat(BYTES / unit.len());
        vec![
            of(b"\x01"),
            of(b"\""),
            of(b"\\"),
            of(b"\t\"\x1F"),
            of(b"\xFF"),
            of(b"1234567;"),
            of(b"\xFF1234567;\x01"),
            of("\u{feff}\u{1}".as_bytes()),
        ]
    }

    /// Writes rejects of them with `privacy`, and gives back what is read.
    fn written(privacy: &Privacy, records: &[Vec<u8>]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = RejectsWriter::new(directory.path().join("rejects"));
        for record in records {
            let hidden = privacy.hide_in_bytes(record);
            let reject = Reject::new(AT, 1, &Reason::NoDate, &hidden, record.len() as u64);
            writer.add(&reject).unwrap();
        }
        let file = writer.finish().unwrap().unwrap();
        let mut shown = Vec::new();
        read_rejects(&file.path, |reject| {
            shown.push(reject.shown().into_owned());
            Ok::<(), io::Error>(())
        })
        .unwrap();
        shown
    }

    #[test]
    fn whatever_a_record_holds_is_read_again_as_it_was() {
        let records = worst_records();
        let expected: Vec<_> = records
            .iter()
            .map(|record| String::from_utf8_lossy(record))
            .collect();
        assert_eq!(written(&Privacy::default(), &records), expected);
    }

    #[test]
    fn no_line_is_longer_than_what_is_read_of_one() {
        let key = PrivacyKey::try_new("0123456789abcdefghijklmnopqrstuvwxyz").unwrap();
        for mode in [Mode::Keep, Mode::Truncate, Mode::Pseudonymize] {
            let privacy = Privacy::new(Modes::all(mode), Some(key.clone()));
            for record in worst_records() {
                let hidden = privacy.hide_in_bytes(&record);
                let reject = Reject::new(AT, 1, &Reason::NoDate, &hidden, record.len() as u64)
                    .of_export(&"\u{10348}".repeat(MAX_DESCRIPTION_BYTES));
                let line = serde_json::to_string(&reject).unwrap();
                let most = MAX_JSON_GROWTH * hidden.len() + MAX_DESCRIPTION_BYTES;
                assert!(line.len() <= most, "{mode:?}: {} > {most}", line.len());
            }
        }
    }

    #[test]
    fn what_json_makes_long_is_kept_in_base64_and_the_rest_as_it_can_be_read() {
        for (text, is_text) in [
            ("{\"a\":\"b\"}", true),
            ("\"\"\\\\\t\n", true),
            ("x\u{1}x\u{1}", false),
            ("x\u{1}xxx\u{1}xxxx", true),
            ("\u{7f}\u{80}é", true),
        ] {
            let written = serde_json::to_string(text).unwrap().len() - 2;
            assert_eq!(json_bytes(text), written, "{text:?}");
            let reject = Reject::new(AT, 1, &Reason::NoDate, text.as_bytes(), 0);
            assert_eq!(
                (reject.text.is_some(), reject.base64.is_none()),
                (is_text, is_text)
            );
            assert_eq!(reject.shown(), text);
        }
    }
}
