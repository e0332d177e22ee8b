//! Streams as arrow's own reader sees them, whole and broken off.

use std::sync::Arc;

use arrow::ipc::reader::StreamReader;
use arrow::ipc::root_as_message;

use super::*;
use crate::cdr::slice::{Direction, Slice};
use crate::slice_file::batch::BatchBuilder;

/// A write of at most so many bytes is done whole or not at all.
const ATOMIC_BYTES: usize = 512;

/// An output that keeps its writes apart.
#[derive(Clone, Default)]
struct Writes(Vec<Vec<u8>>);

impl Write for &mut Writes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn slice() -> Slice {
    Slice::of_day(jiff::civil::date(2026, 10, 1), Direction::Placed)
}

/// A batch as a file has it.
fn batch(rows: usize) -> RecordBatch {
    let mut builder = BatchBuilder::new(slice());
    for row in 0..rows {
        let json = serde_json::json!({
            "date": "2026-10-01T10:00:00Z", "call_id": format!("call {row}"),
            "charge": format!("0.{row}"),
        });
        let json = json.to_string();
        builder.append(&crate::cdr::decode::decode(json.as_bytes()).unwrap());
    }
    let batch = builder.finish();
    let columns = batch.columns().iter().zip(COLUMNS);
    let columns = columns
        .map(|(array, column)| arrow::compute::cast(array, &column.kind.file_type()).unwrap());
    RecordBatch::try_new(Arc::new(file_schema()), columns.collect()).unwrap()
}

fn request() -> StreamRequest {
    StreamRequest {
        version: "cdrlake".to_owned(),
        schema_version: 1,
        from: slice().period.first_day(),
        to: slice().period.last_day(),
        directions: vec![Direction::Placed],
        slice: slice().period.unit(),
        slices: 1,
        timezone: "UTC".to_owned(),
        privacy_key_id: None,
    }
}

fn streamed(rows: u64) -> StreamedSlice {
    let mut counts = crate::cdr::tally::Counts::default();
    (counts.rows, counts.records) = (rows, rows);
    StreamedSlice {
        direction: slice().direction,
        period: slice().period,
        from: None,
        through: None,
        state: crate::lake::ledger::State::Closed,
        fetched_at: jiff::Timestamp::UNIX_EPOCH,
        attempts: 1,
        counts,
        control_total: Some(rows),
        reconcile: crate::cdr::reconcile::Verdict::Match,
        totals: crate::cdr::tally::Totals::default(),
        digest: String::new(),
    }
}

/// Writes two slices of these batches.
fn write(batches: &[RecordBatch]) -> Writes {
    let mut writes = Writes::default();
    let mut output = ArrowOutput::begin(&mut writes, &request()).unwrap();
    for _ in 0..2 {
        for batch in batches {
            output.batch(batch).unwrap();
        }
        output.end_slice(&streamed(3)).unwrap();
    }
    output.finish().unwrap();
    writes
}

fn read(stream: &[u8]) -> Result<Vec<RecordBatch>, ArrowError> {
    StreamReader::try_new(stream, None)?.collect()
}

#[test]
fn a_reader_gets_the_rows_and_what_was_asked_for() {
    let large = batch(8_192);
    let batches = [batch(3), large.clone(), batch(0)];
    let stream = write(&batches).0.concat();
    let reader = StreamReader::try_new(&stream[..], None).unwrap();
    let asked: serde_json::Value =
        serde_json::from_str(&reader.schema().metadata()["cdrlake.stream"]).unwrap();
    assert_eq!(asked["from"], "2026-10-01");
    assert_eq!(reader.schema().fields(), file_schema().fields());
    let found = read(&stream).unwrap();
    let columns = |batch: &RecordBatch| batch.columns().to_vec();
    let of_slice: Vec<_> = batches.iter().chain([&batch(0)]).map(columns).collect();
    let found: Vec<_> = found.iter().map(columns).collect();
    assert_eq!(found, [&of_slice[..], &of_slice[..]].concat());
}

#[test]
fn the_last_message_of_a_slice_has_its_counts() {
    let message = empty_batch(SLICE_KEY, "{\"rows\":3}");
    let message = root_as_message(&message).unwrap();
    let metadata = message.custom_metadata().unwrap();
    let pair = metadata.get(0);
    assert_eq!(metadata.len(), 1);
    assert_eq!(
        (pair.key(), pair.value()),
        (Some("cdrlake.slice"), Some("{\"rows\":3}"))
    );
    assert_eq!(message.header_as_record_batch().unwrap().length(), 0);
}

#[test]
fn wherever_a_stream_breaks_off_a_reader_notices() {
    let writes = write(&[batch(3), batch(1_000)]).0;
    let stream = writes.concat();
    assert!(read(&stream).is_ok());
    let mut begin = 0;
    let mut tried = 0;
    for bytes in writes {
        // Large writes may be done in part.
        let step = if bytes.len() > ATOMIC_BYTES {
            1
        } else {
            bytes.len()
        };
        for end in (begin..begin + bytes.len()).step_by(step) {
            assert!(read(&stream[..end]).is_err(), "{end} of {}", stream.len());
            tried += 1;
        }
        begin += bytes.len();
    }
    assert!(tried > 1_000, "{tried}");
}

#[test]
fn every_message_ends_in_a_write_that_is_done_whole_or_not_at_all() {
    let writes = write(&[batch(3), batch(8_192)]).0;
    let stream = writes.concat();
    // The lengths of the messages, as their heads have them.
    let mut ends = Vec::new();
    let mut at = 0;
    loop {
        let number = |at: usize| {
            let bytes = stream[at..at + 4].try_into().unwrap();
            usize::try_from(i32::from_le_bytes(bytes)).unwrap()
        };
        assert_eq!(stream[at..at + 4], MARKER);
        let length = number(at + 4);
        if length == 0 {
            break;
        }
        let message = root_as_message(&stream[at + 8..at + 8 + length]).unwrap();
        at += 8 + length + usize::try_from(message.bodyLength()).unwrap();
        ends.push(at);
    }
    // The schema, and twice two batches and the counts.
    assert_eq!(ends.len(), 7);
    assert_eq!(at + 8, stream.len());
    let mut begin = 0;
    for bytes in writes {
        let range = begin..begin + bytes.len();
        for end in ends.iter().filter(|end| range.contains(end)) {
            assert!(
                range.start < *end && bytes.len() <= ATOMIC_BYTES,
                "{range:?}"
            );
        }
        begin = range.end;
    }
}
