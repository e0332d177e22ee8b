//! Reads a body of calls as Arrow record batches, without a lake.

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
use crate::cdr::decode::{DecodeError, Decoder, RejectReason};
use crate::cdr::slice::Slice;

/// Longest record.
const MAX_RECORD_BYTES: usize = 1 << 20;
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// Bytes pushed into the reader at once. The resulting batches wait in memory, and a compressed
/// kilobyte may expand to megabytes.
const PUSHED_BYTES: usize = 1 << 10;

/// The body cannot be read further, or one record was rejected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchesError {
    /// The input cannot be read. This is the last item.
    #[error("cannot read the body")]
    Read(#[source] io::Error),
    /// The body is truncated, or is not a list of records. This is the last item.
    #[error(transparent)]
    Body(#[from] ConvertError),
    /// One record was rejected. The iterator continues after it.
    #[error("{at}: {reason}")]
    Record {
        /// Where the record begins in the decompressed body.
        at: Position,
        /// Why the record was rejected. Quotes no value.
        reason: RejectReason,
    },
}

/// Reads a body as record batches with the [columns](schema) of a lake. Detects the format from the
/// first bytes: NDJSON, a JSON list or CSV, plain or compressed with gzip or zstd.
///
/// Rows keep the order of the body. A batch has 8,192 rows, or fewer if they have more
/// than 4 MiB of text. Duplicates and phone numbers stay. The slice only fills the columns
/// `direction` and `source_day`; the body may hold other days.
///
/// Memory: one batch, one record (1 MiB at most), and the decompressed content of one kilobyte.
///
/// An iterator: after [`BatchesError::Record`] it continues, after other errors it ends.
/// [`into_reader`](Self::into_reader) makes an Arrow [`RecordBatchReader`], which ends at the first
/// error.
#[derive(Debug)]
pub struct Batches<R> {
    input: R,
    buffer: Box<[u8]>,
    /// Bytes in the buffer that were not pushed yet.
    unread: std::ops::Range<usize>,
    /// `None` before the first byte and after the last one.
    reader: Option<RecordReader>,
    collector: BatchCollector,
    has_ended: bool,
}

/// Collects rows into batches.
#[derive(Debug)]
struct BatchCollector {
    decoder: Decoder,
    builder: BatchBuilder,
    /// Items that were not returned yet.
    ready: VecDeque<Result<RecordBatch, BatchesError>>,
}

impl<R: Read> Batches<R> {
    /// Batches of `input`, whose calls belong to `slice`. Does not read yet.
    pub fn new(input: R, slice: Slice) -> Self {
        Self {
            input,
            buffer: vec![0; READ_BYTES].into(),
            unread: 0..0,
            reader: None,
            collector: BatchCollector {
                decoder: Decoder::default(),
                builder: BatchBuilder::new(slice),
                ready: VecDeque::new(),
            },
            has_ended: false,
        }
    }

    /// As Arrow's [`RecordBatchReader`].
    pub fn into_reader(self) -> impl RecordBatchReader {
        Reader {
            batches: self,
            has_failed: false,
        }
    }

    /// Reads the next bytes of the body.
    fn advance(&mut self) -> Result<(), BatchesError> {
        if self.unread.is_empty() {
            let length = self.fill().map_err(BatchesError::Read)?;
            if length == 0 {
                self.has_ended = true;
                if let Some(reader) = self.reader.take() {
                    reader.finish(|item| self.collector.item(&item))?;
                }
                self.collector.end_batch();
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
        Ok(reader.push(bytes, |item| self.collector.item(&item))?)
    }

    /// Fills the buffer. Its first bytes determine the format.
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

impl BatchCollector {
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
                Err(DecodeError::ServerError { message }) => {
                    Err(ConvertError::server(at, &message))
                }
                Err(DecodeError::Reject(reason)) => self.reject(at, boundary, reason),
            },
            Item::Broken {
                at,
                boundary,
                ref reason,
                ..
            } => self.reject(at, boundary, reason.clone()),
        }
    }

    fn reject(
        &mut self,
        at: Position,
        boundary: Boundary,
        reason: RejectReason,
    ) -> Result<(), ConvertError> {
        if let Some(error) = ConvertError::fatal_for_body(at, boundary, &reason) {
            return Err(error);
        }
        // Keeps the order of rows and errors.
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
            if let Some(ready) = self.collector.ready.pop_front() {
                return Some(ready);
            }
            if self.has_ended {
                return None;
            }
            if let Err(error) = self.advance() {
                self.has_ended = true;
                // Rows before the error are valid.
                self.collector.end_batch();
                self.collector.ready.push_back(Err(error));
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

    const SLICE: Slice = Slice::of_day(jiff::civil::date(2026, 10, 1), Direction::Placed);

    fn call(id: usize) -> String {
        format!("{{\"date\":\"2026-10-01T10:00:00Z\",\"call_id\":\"{id}\"}}\n")
    }

    /// The rows of each batch and the text of each error, in order.
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
    fn an_invalid_record_is_reported_with_its_position_and_the_others_are_read() {
        let body = [call(1), "{\"call_id\":\"x\"}\n".to_owned(), call(2)].concat();
        let items = items(body.as_bytes());
        assert_eq!((&items[0], &items[2], items.len()), (&Ok(1), &Ok(1), 3));
        let error = items[1].as_ref().unwrap_err();
        let place = format!("line 2, byte {}: ", call(1).len());
        assert!(error.starts_with(&place), "{error}");
    }

    #[test]
    fn a_truncated_body_ends_with_an_error_after_its_complete_rows() {
        let body = [call(1), call(2)].concat();
        let items = items(&body.as_bytes()[..body.len() - 5]);
        assert_eq!((&items[0], items.len()), (&Ok(1), 2));
        assert!(items[1].is_err());
    }

    #[test]
    fn a_compressed_body_is_decompressed() {
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
    fn an_error_of_the_input_ends_the_iterator() {
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
