//! Keeps what could not become a row: one JSON object a line, zstd-compressed.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::TempPath;

use crate::decode::Reason;
use crate::framing::Position;
use crate::writer::create_spool_file;

/// One line of a rejects file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject<'a> {
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
    /// The record's text, where it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Cow<'a, str>>,
    /// The record's bytes in base64, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

impl<'a> Reject<'a> {
    /// Describes a rejected record, or as much of it as was kept.
    pub fn new(
        at: Position,
        page: u64,
        reason: &Reason,
        bytes: &'a [u8],
        length_bytes: u64,
    ) -> Self {
        let text = std::str::from_utf8(bytes).ok();
        Self {
            at,
            page,
            code: Cow::Borrowed(reason.code()),
            reason: reason.to_string(),
            length_bytes,
            text: text.map(Cow::Borrowed),
            base64: text.is_none().then(|| base64(bytes)),
        }
    }
}

impl Reject<'_> {
    /// The record's text, as far as it is text.
    pub fn shown(&self) -> Cow<'_, str> {
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

/// Longest line that is read: that of a record of 40 MiB, each byte of which JSON needs six for.
const MAX_LINE_BYTES: u64 = 256 << 20;

/// Calls `each` for every reject of the file at `path`, in order. Memory: one line.
///
/// # Errors
/// The file cannot be read, or is not one of ours; or what `each` returns.
pub fn read_rejects<E: From<io::Error>>(
    path: &Path,
    mut each: impl FnMut(&Reject<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = BufReader::new(zstd::Decoder::new(File::open(path)?)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader)
            .take(MAX_LINE_BYTES)
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
pub struct RejectsWriter {
    path: PathBuf,
    open: Option<(zstd::Encoder<'static, BufWriter<File>>, TempPath)>,
    count: u64,
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
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            open: None,
            count: 0,
        }
    }

    /// Rejects so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds a reject.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub fn add(&mut self, reject: &Reject<'_>) -> io::Result<()> {
        let (encoder, _) = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(Self::open(&self.path)?),
        };
        serde_json::to_writer(&mut *encoder, reject)?;
        encoder.write_all(b"\n")?;
        self.count += 1;
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
    /// The file cannot be written.
    pub fn finish(self) -> io::Result<Option<TempPath>> {
        let Some((encoder, path)) = self.open else {
            return Ok(None);
        };
        encoder.finish()?.flush()?;
        Ok(Some(path))
    }
}
