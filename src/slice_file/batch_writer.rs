//! Writes batches into a Parquet file, on a thread of its own: while one batch is encoded, the next one is read and
//! decoded. A slice alone is thereby busy on two processors.
//!
//! Memory: the batch that is encoded, one that waits, and the encoded row group.

use std::fs::File;
use std::io::BufWriter;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use arrow::record_batch::RecordBatch;
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;

use super::encode::{RowGroupEncoder, parquet_schema};
use super::options::ParquetOptions;
use crate::cdr::columns::schema;

/// Write buffer: the library's own has 8 KiB, and so would every write.
const WRITE_BUFFER_BYTES: usize = 256 << 10;
/// Batches that wait: one, so that neither side stands still while the other takes a little longer.
const WAITING_BATCHES: usize = 1;

/// A Parquet file that still wants its footer.
pub(crate) type FileWriter = SerializedFileWriter<BufWriter<File>>;

/// The way to the thread. Dropping it before [`end`](Self::end) abandons the file, and waits until the thread
/// has let go of it, which it does after the batch it is at.
pub(crate) struct BatchWriter {
    /// `None` once there is no more to come.
    batches: Option<SyncSender<RecordBatch>>,
    /// `None` once it was waited for.
    thread: Option<JoinHandle<Result<Encoding>>>,
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
        let mut encoding = self.wait()?;
        encoding.encoder.close_into(&mut encoding.writer)?;
        encoding.writer.flush()?;
        Ok(encoding.writer)
    }

    /// Gives the file up, and says what was wrong with it so far.
    pub(crate) fn abandon(mut self) -> Result<()> {
        // It was already said where it was waited for.
        if self.thread.is_none() {
            return Ok(());
        }
        self.wait().map(drop)
    }

    fn wait(&mut self) -> Result<Encoding> {
        self.batches = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => resume_unwind(panic),
            None => Err(ParquetError::General("the file was given up".to_owned())),
        }
    }
}

impl Drop for BatchWriter {
    fn drop(&mut self) {
        self.batches = None;
        // Whoever wants to know what became of it has asked.
        drop(self.thread.take().map(JoinHandle::join));
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
    fn run(mut self, batches: &Receiver<RecordBatch>) -> Result<Self> {
        for mut batch in batches {
            while batch.num_rows() > 0 {
                let room = self.row_group_rows.saturating_sub(self.encoder.rows());
                let rows = room.clamp(1, batch.num_rows());
                self.write(&batch.slice(0, rows))?;
                batch = batch.slice(rows, batch.num_rows() - rows);
            }
        }
        Ok(self)
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
    use arrow::compute::concat_batches;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::basic::Compression;
    use parquet::file::metadata::RowGroupMetaData;

    use super::*;
    use crate::cdr::amount::Amount;
    use crate::cdr::decode::Record;
    use crate::cdr::slice::{Direction, Slice};
    use crate::slice_file::batch::{BatchBuilder, Rows};

    fn options(row_group_rows: usize) -> ParquetOptions {
        ParquetOptions {
            compression: Compression::UNCOMPRESSED,
            row_group_rows,
            row_group_bytes: usize::MAX,
        }
    }

    const SLICE: Slice = Slice {
        day: jiff::civil::date(2026, 10, 1),
        direction: Direction::Placed,
    };

    /// Records of which each has other fields than the ones before it.
    fn records(rows: usize) -> Vec<Record<'static>> {
        let record = |row: usize| Record {
            call_id: Some(format!("call-{row}").into()),
            disposition: (!row.is_multiple_of(3)).then(|| "answered".into()),
            destination: (!row.is_multiple_of(5)).then(|| format!("place {}", row % 11).into()),
            duration_seconds: i32::try_from(row).ok().filter(|row| row % 7 > 0),
            charge_usd: (!row.is_multiple_of(2)).then(|| Amount::from_nanos(1 << (row % 60))),
            extra: row.is_multiple_of(13).then(|| "{}".into()),
            ..Record::default()
        };
        (0..rows).map(record).collect()
    }

    fn batch(rows: usize) -> RecordBatch {
        let mut builder = BatchBuilder::new(SLICE);
        for record in records(rows) {
            builder.append(&record);
        }
        builder.finish()
    }

    #[test]
    fn row_groups_have_no_more_rows_than_they_may_however_large_the_batches_are() {
        let file = tempfile::tempfile().unwrap();
        let mut writer = BatchWriter::begin(file.try_clone().unwrap(), &options(7)).unwrap();
        for rows in [5, 0, 200, 5] {
            writer.write(batch(rows)).unwrap();
        }
        writer.end().unwrap().finish().unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let row_groups = reader.metadata().row_groups().iter();
        assert_eq!(
            row_groups
                .map(RowGroupMetaData::num_rows)
                .collect::<Vec<_>>(),
            [7; 30]
        );
        let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
        let read = concat_batches(&batches[0].schema(), &batches).unwrap();
        let rows = Rows::try_new(&read, SLICE).unwrap();
        let written = [records(5), records(200), records(5)].concat();
        assert!(rows.iter().eq(written));
    }

    #[test]
    fn what_is_wrong_with_the_file_is_said_by_the_next_call_or_at_the_end() {
        let begin = || {
            let full = File::options().write(true).open("/dev/full").unwrap();
            BatchWriter::begin(full, &options(1000)).unwrap()
        };
        let mut writer = begin();
        writer.write(batch(10)).unwrap();
        assert!(writer.end().is_err());
        let mut writer = begin();
        let error = std::iter::repeat_with(|| writer.write(batch(20_000)))
            .take(1000)
            .find_map(Result::err);
        let error = error.unwrap().to_string();
        assert!(error.contains("No space left"), "{error}");
        assert!(writer.write(batch(1)).is_err());
        assert!(writer.abandon().is_ok(), "it was said");
        let mut writer = begin();
        writer.write(batch(60_000)).unwrap();
        assert!(
            writer.abandon().is_err(),
            "60 row groups are more than the buffer takes"
        );
    }
}
