//! Writes batches into a Parquet file, on a thread of its own: while one batch is encoded, the next one is read and
//! decoded. A slice alone is thereby busy on two processors.
//!
//! Memory: the batch that is encoded, one that waits, and the encoded row group.

use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use arrow::record_batch::RecordBatch;
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;

use crate::encode::{RowGroupEncoder, parquet_schema};
use crate::schema::schema;
use crate::writer::ParquetOptions;

/// Write buffer: the library's own has 8 KiB, and so would every write.
const WRITE_BUFFER_BYTES: usize = 256 << 10;
/// Batches that wait: one, so that neither side stands still while the other takes a little longer.
const WAITING_BATCHES: usize = 1;

/// A Parquet file that still wants its footer.
pub(crate) type FileWriter = SerializedFileWriter<BufWriter<File>>;

/// The way to the thread. Dropping it before [`end`](Self::end) abandons the file, and waits until the thread
/// has let go of it.
#[derive(Debug)]
pub(crate) struct BatchWriter {
    /// `None` once there is no more to come.
    batches: Option<SyncSender<RecordBatch>>,
    /// `None` once it was waited for.
    thread: Option<JoinHandle<Result<FileWriter>>>,
}

impl BatchWriter {
    /// Begins a Parquet file of the lake's columns.
    pub(crate) fn begin(file: File, options: &ParquetOptions) -> Result<Self> {
        // Without Arrow's own schema in the file, readers see plain strings, not dictionaries.
        let columns = parquet_schema(&schema());
        let encoder = RowGroupEncoder::try_new(&columns, options.compression)?;
        // Version 1: old Athena, Spark and Hive readers know no others.
        let properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .build();
        let file = BufWriter::with_capacity(WRITE_BUFFER_BYTES, file);
        let writer =
            SerializedFileWriter::new(file, columns.root_schema_ptr(), Arc::new(properties))?;
        let (batches, inbox) = sync_channel(WAITING_BATCHES);
        let encoding = Encoding {
            encoder,
            writer,
            row_group_rows: options.row_group_rows,
            row_group_bytes: options.row_group_bytes,
        };
        let thread = std::thread::Builder::new().name("encode".to_owned());
        Ok(Self {
            batches: Some(batches),
            thread: Some(thread.spawn(move || encoding.run(&inbox))?),
        })
    }

    /// Hands over a batch. What is wrong with it, or with the file, may only be said by a later call.
    pub(crate) fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let sent = self.batches.as_ref().map(|batches| batches.send(batch));
        match sent {
            Some(Ok(())) => Ok(()),
            // It only ends early if something is wrong.
            _ => self.wait().map(drop),
        }
    }

    /// Waits until all batches are in the file.
    pub(crate) fn end(mut self) -> Result<FileWriter> {
        self.wait()
    }

    fn wait(&mut self) -> Result<FileWriter> {
        self.batches = None;
        match self.thread.take() {
            Some(thread) => thread.join().expect("encoding does not panic"),
            None => Err(ParquetError::General("the file was given up".to_owned())),
        }
    }
}

impl Drop for BatchWriter {
    fn drop(&mut self) {
        drop(self.wait());
    }
}

/// The thread's work.
struct Encoding {
    encoder: RowGroupEncoder,
    writer: FileWriter,
    row_group_rows: usize,
    row_group_bytes: usize,
}

impl Encoding {
    fn run(mut self, batches: &Receiver<RecordBatch>) -> Result<FileWriter> {
        for mut batch in batches {
            while batch.num_rows() > 0 {
                let room = self.row_group_rows.saturating_sub(self.encoder.rows());
                let rows = room.clamp(1, batch.num_rows());
                self.write(&batch.slice(0, rows))?;
                batch = batch.slice(rows, batch.num_rows() - rows);
            }
        }
        self.encoder.close_into(&mut self.writer)?;
        self.writer.flush()?;
        Ok(self.writer)
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.encoder.write(batch)?;
        let is_full = self.encoder.rows() >= self.row_group_rows
            || self.encoder.encoded_bytes() >= self.row_group_bytes;
        if is_full {
            self.encoder.close_into(&mut self.writer)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use parquet::basic::Compression;
    use parquet::file::metadata::RowGroupMetaData;
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;
    use crate::decode::Record;
    use crate::schema::BatchBuilder;
    use crate::slice::{Direction, Slice, parse_day};

    fn options(row_group_rows: usize) -> ParquetOptions {
        ParquetOptions {
            compression: Compression::UNCOMPRESSED,
            row_group_rows,
            row_group_bytes: usize::MAX,
        }
    }

    fn batch(rows: usize) -> RecordBatch {
        let day = parse_day("2026-10-01").unwrap();
        let direction = Direction::Placed;
        let mut builder = BatchBuilder::new(Slice { day, direction });
        for row in 0..rows {
            builder.append(&Record {
                call_id: Some(format!("call-{row}").into()),
                disposition: (row % 3 > 0).then(|| "answered".into()),
                ..Record::default()
            });
        }
        builder.finish()
    }

    #[test]
    fn row_groups_have_no_more_rows_than_they_may_however_large_the_batches_are() {
        let file = tempfile::tempfile().unwrap();
        let mut writer = BatchWriter::begin(file.try_clone().unwrap(), &options(7)).unwrap();
        for rows in [5, 0, 20, 3] {
            writer.write(batch(rows)).unwrap();
        }
        writer.end().unwrap().finish().unwrap();
        let reader = SerializedFileReader::new(file).unwrap();
        let row_groups = reader.metadata().row_groups().iter();
        let rows: Vec<i64> = row_groups.map(RowGroupMetaData::num_rows).collect();
        assert_eq!(rows, [7, 7, 7, 7]);
        let ids = reader.get_row_iter(None).unwrap().map(|row| {
            let row = row.unwrap();
            row.get_column_iter().next().unwrap().1.to_string()
        });
        let expected = (0..5).chain(0..20).chain(0..3);
        assert!(ids.eq(expected.map(|row| format!("\"call-{row}\""))));
    }

    #[test]
    fn what_is_wrong_with_the_file_is_said_by_the_next_call_or_at_the_end() {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let mut writer = BatchWriter::begin(full(), &options(1000)).unwrap();
        writer.write(batch(10)).unwrap();
        assert!(writer.end().is_err());
        let mut writer = BatchWriter::begin(full(), &options(1000)).unwrap();
        let error = std::iter::repeat_with(|| writer.write(batch(20_000)))
            .take(1000)
            .find_map(Result::err);
        let error = error.unwrap().to_string();
        assert!(error.contains("No space left"), "{error}");
        assert!(writer.write(batch(1)).is_err() && writer.end().is_err());
    }
}
