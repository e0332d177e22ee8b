//! A body of calls as Arrow record batches, for programs that want no lake.

use std::collections::VecDeque;
use std::io::{self, Read};

use arrow::array::RecordBatchReader;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::batch::BatchBuilder;
use super::convert::ConvertError;
use crate::body::framing::{Boundary, Position};
use crate::body::reader::{Item, RecordReader};
use crate::cdr::columns::schema;
use crate::cdr::decode::{Decoder, Reason, Refusal};
use crate::cdr::slice::Slice;

/// Longest record.
const MAX_RECORD_BYTES: usize = 1 << 20;
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// Bytes that go through the reader at once. All batches that they make wait to be handed out, and
/// a kilobyte that was compressed may have been some megabytes.
const PUSHED_BYTES: usize = 1 << 10;

/// Why a body gives no more batches, or a record no row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchesError {
    /// The input cannot be read. It is the last item.
    #[error("cannot read the body")]
    Read(#[source] io::Error),
    /// The body is not whole, or no list of records. It is the last item.
    #[error(transparent)]
    Body(#[from] ConvertError),
    /// One record became no row. Whoever asks for the next item does without it.
    #[error("{at}: {reason}")]
    Record {
        /// Where the record begins in the decompressed body.
        at: Position,
        /// What is wrong with it, in words that quote no value.
        reason: Reason,
    },
}

/// Reads a body as record batches with the [columns](schema) of a lake: NDJSON, or anything else
/// that `cdrlake load` reads (a JSON list, CSV, each also compressed with gzip or zstd), which its
/// first bytes tell.
///
/// Rows come in the order of the body, 8,192 to a batch, fewer where their texts have more than
/// 4 MiB. Nothing is judged or changed: duplicates stay, numbers are not hidden, and the body may
/// hold other days than the slice, which only fills the columns `direction` and `source_day`.
///
/// Memory: one batch, one record (1 MiB at most), and what a kilobyte of the body holds when it is
/// decompressed.
///
/// It is an iterator, whose errors say whether it goes on ([`BatchesError::Record`]), and an Arrow
/// [`RecordBatchReader`] by [`into_reader`](Self::into_reader), which ends at the first error.
#[derive(Debug)]
pub struct Batches<R> {
    input: R,
    buffer: Box<[u8]>,
    /// Of the buffer, what was read and not yet pushed.
    unread: std::ops::Range<usize>,
    /// `None` before the first byte, and after the last.
    reader: Option<RecordReader>,
    rows: Rows,
    has_ended: bool,
}

/// Rows on their way into batches.
#[derive(Debug)]
struct Rows {
    decoder: Decoder,
    builder: BatchBuilder,
    /// What was made and not yet handed out.
    ready: VecDeque<Result<RecordBatch, BatchesError>>,
}

impl<R: Read> Batches<R> {
    /// Reads `input`, whose calls are of `slice`. Reads nothing yet.
    pub fn new(input: R, slice: Slice) -> Self {
        Self {
            input,
            buffer: vec![0; READ_BYTES].into(),
            unread: 0..0,
            reader: None,
            rows: Rows {
                decoder: Decoder::default(),
                builder: BatchBuilder::new(slice),
                ready: VecDeque::new(),
            },
            has_ended: false,
        }
    }

    /// The same for whatever takes Arrow's [`RecordBatchReader`].
    pub fn into_reader(self) -> impl RecordBatchReader {
        Reader {
            batches: self,
            has_failed: false,
        }
    }

    /// Reads until something is ready, or the body has ended.
    fn advance(&mut self) -> Result<(), BatchesError> {
        if self.unread.is_empty() {
            let length = self.fill().map_err(BatchesError::Read)?;
            if length == 0 {
                self.has_ended = true;
                if let Some(reader) = self.reader.take() {
                    reader.finish(|item| self.rows.item(&item))?;
                }
                self.rows.end_batch();
                return Ok(());
            }
            self.unread = 0..length;
        }
        let bytes = &self.buffer[self.unread.clone()];
        let reader = self
            .reader
            .get_or_insert_with(|| RecordReader::of_file(bytes, MAX_RECORD_BYTES));
        let bytes = &bytes[..bytes.len().min(PUSHED_BYTES)];
        self.unread.start += bytes.len();
        Ok(reader.push(bytes, |item| self.rows.item(&item))?)
    }

    /// Fills the buffer, whose beginning tells what the body is made of.
    fn fill(&mut self) -> io::Result<usize> {
        let mut length = 0;
        while length < self.buffer.len() {
            match self.input.read(&mut self.buffer[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(length)
    }
}

impl Rows {
    fn item(&mut self, item: &Item<'_>) -> Result<(), ConvertError> {
        match *item {
            Item::Record {
                at, boundary, json, ..
            } => match self.decoder.decode(json) {
                Ok(record) => {
                    self.builder.append(&record);
                    if self.builder.is_full() {
                        self.end_batch();
                    }
                    Ok(())
                }
                Err(Refusal::ServerError { message }) => Err(ConvertError::server(at, &message)),
                Err(Refusal::Reject(reason)) => self.refuse(at, boundary, reason),
            },
            Item::Broken {
                at,
                boundary,
                ref reason,
                ..
            } => self.refuse(at, boundary, reason.clone()),
        }
    }

    fn refuse(
        &mut self,
        at: Position,
        boundary: Boundary,
        reason: Reason,
    ) -> Result<(), ConvertError> {
        if let Some(error) = ConvertError::beyond_the_record(at, boundary, &reason) {
            return Err(error);
        }
        // Rows in front of it come in front of it.
        self.end_batch();
        self.ready
            .push_back(Err(BatchesError::Record { at, reason }));
        Ok(())
    }

    fn end_batch(&mut self) {
        if self.builder.rows() > 0 {
            self.ready.push_back(Ok(self.builder.finish()));
        }
    }
}

impl<R: Read> Iterator for Batches<R> {
    type Item = Result<RecordBatch, BatchesError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(ready) = self.rows.ready.pop_front() {
                return Some(ready);
            }
            if self.has_ended {
                return None;
            }
            if let Err(error) = self.advance() {
                self.has_ended = true;
                // What was whole in front of it is good.
                self.rows.end_batch();
                self.rows.ready.push_back(Err(error));
            }
        }
    }
}

impl<R: Read> std::iter::FusedIterator for Batches<R> {}

/// Batches until the first error.
#[derive(Debug)]
struct Reader<R> {
    batches: Batches<R>,
    has_failed: bool,
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let next = self.batches.next()?;
        self.has_failed = next.is_err();
        Some(next.map_err(|error| ArrowError::ExternalError(Box::new(error))))
    }
}

impl<R: Read> RecordBatchReader for Reader<R> {
    fn schema(&self) -> SchemaRef {
        schema()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdr::slice::Direction;

    const SLICE: Slice = Slice {
        day: jiff::civil::date(2026, 10, 1),
        direction: Direction::Placed,
    };

    fn call(id: usize) -> String {
        format!("{{\"date\":\"2026-10-01T10:00:00Z\",\"call_id\":\"{id}\"}}\n")
    }

    /// Rows of each batch, and the words of each error, in order.
    fn items(body: &[u8]) -> Vec<Result<usize, String>> {
        Batches::new(body, SLICE)
            .map(|item| match item {
                Ok(batch) => Ok(batch.num_rows()),
                Err(error) => Err(error.to_string()),
            })
            .collect()
    }

    #[test]
    fn rows_come_in_batches_of_8192() {
        let body: String = (0..10_000).map(call).collect();
        assert_eq!(items(body.as_bytes()), [Ok(8192), Ok(10_000 - 8192)]);
        assert_eq!(items(b""), []);
    }

    #[test]
    fn a_record_that_is_broken_is_told_where_it_stands_and_the_others_come() {
        let body = [call(1), "{\"call_id\":\"x\"}\n".to_owned(), call(2)].concat();
        let items = items(body.as_bytes());
        assert_eq!((&items[0], &items[2], items.len()), (&Ok(1), &Ok(1), 3));
        let error = items[1].as_ref().unwrap_err();
        let place = format!("line 2, byte {}: ", call(1).len());
        assert!(error.starts_with(&place), "{error}");
    }

    #[test]
    fn a_body_that_is_cut_ends_with_an_error_behind_its_whole_rows() {
        let body = [call(1), call(2)].concat();
        let items = items(&body.as_bytes()[..body.len() - 5]);
        assert_eq!((&items[0], items.len()), (&Ok(1), 2));
        assert!(items[1].is_err());
    }

    #[test]
    fn what_is_compressed_is_read_as_what_it_was() {
        let body: String = (0..3).map(call).collect();
        let compressed = zstd::encode_all(body.as_bytes(), 1).unwrap();
        assert_eq!(items(&compressed), [Ok(3)]);
        assert!(
            items(&compressed[..compressed.len() - 2])
                .pop()
                .unwrap()
                .is_err()
        );
    }

    #[test]
    fn the_arrow_reader_has_the_columns_of_a_lake_and_ends_at_the_first_error() {
        let body = [call(1), "not JSON\n".to_owned(), call(2)].concat();
        let mut reader = Batches::new(body.as_bytes(), SLICE).into_reader();
        assert_eq!(reader.schema(), schema());
        assert_eq!(reader.next().unwrap().unwrap().schema(), schema());
        assert!(reader.next().unwrap().is_err());
        assert!(reader.next().is_none());
    }

    #[test]
    fn an_input_that_fails_ends_it() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
        }
        let mut batches = Batches::new(Fails, SLICE);
        assert!(matches!(batches.next(), Some(Err(BatchesError::Read(_)))));
        assert!(batches.next().is_none());
    }
}
