//! Rejects files: one JSON object for each rejected record, one per line, compressed with zstd.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::TempPath;

use super::writer::{SpoolFile, create_spool_file};
use crate::body::framing::Position;
use crate::body::reader::MAX_RECORD_BYTES;
use crate::cdr::decode::RejectReason;
use crate::error::truncated;

/// One line of a rejects file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reject<'a> {
    /// The export file of the record. The position is within this file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export_file: Option<Cow<'a, str>>,
    /// Where the record begins in the body.
    #[serde(flatten)]
    pub at: Position,
    /// The page, if the stream was paged. The position is within this page.
    #[serde(default = "first_page", skip_serializing_if = "is_first_page")]
    pub page: u64,
    /// The code of the reason, for grouping: [`RejectReason::code`].
    pub code: Cow<'a, str>,
    /// The reason. Quotes no value.
    pub reason: String,
    /// Length of the whole record, even if only its beginning is kept.
    pub length_bytes: u64,
    /// The record's text, if it is UTF-8 and its JSON string is not too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Cow<'a, str>>,
    /// Otherwise the record's bytes in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

impl<'a> Reject<'a> {
    /// A reject with the record's bytes, up to [`MAX_KEPT_BYTES`].
    pub(crate) fn new(
        at: Position,
        page: u64,
        reason: &RejectReason,
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

    /// Adds the name of the export file.
    #[must_use]
    pub(crate) fn of_export(mut self, file: &str) -> Self {
        self.export_file = Some(truncated(file, MAX_FILE_NAME_CHARS).into());
        self
    }
}

impl Reject<'_> {
    /// Where the record begins, for messages.
    pub(crate) fn place(&self) -> String {
        let at = self.at;
        match &self.export_file {
            Some(file) => format!("{file}, {at}"),
            None if is_first_page(&self.page) => at.to_string(),
            None => format!("page {}, {at}", self.page),
        }
    }

    /// The record's text. Replaces invalid UTF-8.
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_first_page(page: &u64) -> bool {
    *page == first_page()
}

/// Standard base64 with padding ([RFC 4648](https://www.rfc-editor.org/rfc/rfc4648#section-4)).
fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Most bytes kept of a record: the length of the longest record. Hiding numbers may lengthen a
/// record.
const MAX_KEPT_BYTES: usize = MAX_RECORD_BYTES;
/// Largest ratio of a JSON string to its text. Quotation marks take two bytes. Only control
/// characters take more; such a text is shorter in base64.
const MAX_JSON_GROWTH: usize = 2;
/// Longest file name kept. A character may take four bytes.
const MAX_FILE_NAME_CHARS: usize = 1_000;
/// Most bytes of the other fields: names, numbers and the reason.
const MAX_DESCRIPTION_BYTES: usize = 8 << 10;
/// Longest line of a rejects file.
const MAX_LINE_BYTES: usize = MAX_JSON_GROWTH * MAX_KEPT_BYTES + MAX_DESCRIPTION_BYTES;

/// The length of a text as JSON string, without quotation marks.
fn json_bytes(text: &str) -> usize {
    let bytes = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\t' | b'\n' | b'\r' | 0x08 | 0x0C => 2,
        0..0x20 => 6,
        _ => 1,
    });
    bytes.sum()
}

/// Calls `each` for every reject in a file, in order. Memory: one line.
///
/// # Errors
/// If the file cannot be read or is not a rejects file, or the error of `each`.
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
            let problem = "a line is truncated, or too long for a rejects file";
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem).into());
        }
        let reject: Reject<'_> = serde_json::from_slice(&line).map_err(io::Error::from)?;
        each(&reject)?;
    }
}

/// Writes the rejects of one slice to the spool. Creates the file with the first reject. Memory: a
/// write buffer and zstd's window.
pub(crate) struct RejectsWriter {
    path: PathBuf,
    open: Option<(zstd::Encoder<'static, BufWriter<File>>, TempPath)>,
    count: u64,
    /// Place and reason of the first reject.
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
    /// A writer for a file at `path`.
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

    /// Place and reason of the first reject, for messages.
    pub(crate) fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }

    /// Adds a reject.
    ///
    /// # Errors
    /// The file cannot be created or written.
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

    /// Finishes the file. Returns `None` if nothing was rejected.
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

    /// Records that grow most: characters that JSON escapes, invalid UTF-8, and the shortest phone
    /// numbers.
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

    /// Writes rejects with `privacy` and returns the texts that are read back.
    fn written(privacy: &Privacy, records: &[Vec<u8>]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = RejectsWriter::new(directory.path().join("rejects"));
        for record in records {
            let hidden = privacy.hide_in_bytes(record);
            let reject = Reject::new(AT, 1, &RejectReason::NoDate, &hidden, record.len() as u64);
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
    fn every_rejected_record_is_read_back_unchanged() {
        let records = worst_records();
        let expected: Vec<_> = records
            .iter()
            .map(|record| String::from_utf8_lossy(record))
            .collect();
        assert_eq!(written(&Privacy::default(), &records), expected);
    }

    #[test]
    fn no_line_exceeds_the_limit_for_reading() {
        let key = PrivacyKey::try_new("0123456789abcdefghijklmnopqrstuvwxyz").unwrap();
        for mode in [Mode::Keep, Mode::Truncate, Mode::Pseudonymize] {
            let privacy = Privacy::new(Modes::all(mode), Some(key.clone()));
            for record in worst_records() {
                let hidden = privacy.hide_in_bytes(&record);
                let reject =
                    Reject::new(AT, 1, &RejectReason::NoDate, &hidden, record.len() as u64)
                        .of_export(&"\u{10348}".repeat(MAX_DESCRIPTION_BYTES));
                let line = serde_json::to_string(&reject).unwrap();
                let most = MAX_JSON_GROWTH * hidden.len() + MAX_DESCRIPTION_BYTES;
                assert!(line.len() <= most, "{mode:?}: {} > {most}", line.len());
            }
        }
    }

    #[test]
    fn texts_that_json_lengthens_too_much_are_kept_in_base64() {
        for (text, is_text) in [
            ("{\"a\":\"b\"}", true),
            ("\"\"\\\\\t\n", true),
            ("x\u{1}x\u{1}", false),
            ("x\u{1}xxx\u{1}xxxx", true),
            ("\u{7f}\u{80}é", true),
        ] {
            let written = serde_json::to_string(text).unwrap().len() - 2;
            assert_eq!(json_bytes(text), written, "{text:?}");
            let reject = Reject::new(AT, 1, &RejectReason::NoDate, text.as_bytes(), 0);
            assert_eq!(
                (reject.text.is_some(), reject.base64.is_none()),
                (is_text, is_text)
            );
            assert_eq!(reject.shown(), text);
        }
    }
}
