//! Writes batches to a Parquet file on a separate thread: while one batch is encoded, the next one
//! is read and decoded. So a single slice uses two processors.
//!
//! Memory: the batch being encoded, one waiting batch, and the encoded row group.

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

/// Write buffer. The library's default of 8 KiB would cause many small writes.
const WRITE_BUFFER_BYTES: usize = 256 << 10;
/// Waiting batches: one absorbs small differences in speed between both threads.
const WAITING_BATCHES: usize = 1;

/// A Parquet file without its footer.
pub(crate) type FileWriter = SerializedFileWriter<BufWriter<File>>;

/// Sends batches to the thread. Dropping it before [`end`](Self::end) abandons the file, and waits
/// until the thread has finished its current batch.
pub(crate) struct BatchWriter {
    /// `None` after the last batch.
    batches: Option<SyncSender<RecordBatch>>,
    /// `None` after the thread was joined.
    thread: Option<JoinHandle<Result<EncodingThread>>>,
}

impl BatchWriter {
    /// Begins a Parquet file of the lake's columns.
    pub(crate) fn begin(file: File, options: &ParquetOptions) -> Result<Self> {
        // Without Arrow's own schema in the file, readers see plain strings, not dictionaries.
        let columns = parquet_schema();
        let encoder = RowGroupEncoder::try_new(&columns, options.compression)?;
        // Old Athena, Spark and Hive readers support only data pages of version 1.
        let properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .build();
        let file = BufWriter::with_capacity(WRITE_BUFFER_BYTES, file);
        let writer =
            SerializedFileWriter::new(file, columns.root_schema_ptr(), Arc::new(properties))?;
        let (batches, inbox) = sync_channel(WAITING_BATCHES);
        let state = EncodingThread {
            encoder,
            writer,
            row_group_rows: options.row_group_rows,
            row_group_bytes: options.row_group_bytes,
        };
        let thread = std::thread::Builder::new().name("encode".to_owned());
        Ok(Self {
            batches: Some(batches),
            thread: Some(thread.spawn(move || state.run(&inbox))?),
        })
    }

    /// Sends a batch. A later call may return its error.
    pub(crate) fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let sent = self.batches.as_ref().map(|batches| batches.send(batch));
        match sent {
            Some(Ok(())) => Ok(()),
            // The thread ends early only because of an error.
            _ => self.wait().map(drop),
        }
    }

    /// Waits until all batches are in the file.
    pub(crate) fn end(mut self) -> Result<FileWriter> {
        let mut state = self.wait()?;
        state.encoder.close_into(&mut state.writer)?;
        state.writer.flush()?;
        Ok(state.writer)
    }

    /// Abandons the file. Returns an error that has not been returned before.
    pub(crate) fn abandon(mut self) -> Result<()> {
        // An earlier call returned the error.
        if self.thread.is_none() {
            return Ok(());
        }
        self.wait().map(drop)
    }

    fn wait(&mut self) -> Result<EncodingThread> {
        self.batches = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => resume_unwind(panic),
            None => Err(ParquetError::General("the file was abandoned".to_owned())),
        }
    }
}

impl Drop for BatchWriter {
    fn drop(&mut self) {
        self.batches = None;
        // Only `end` and `abandon` return errors.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// The state of the thread.
struct EncodingThread {
    encoder: RowGroupEncoder,
    writer: FileWriter,
    row_group_rows: usize,
    row_group_bytes: usize,
}

impl EncodingThread {
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

    const SLICE: Slice = Slice::of_day(jiff::civil::date(2026, 10, 1), Direction::Placed);

    /// Records that differ in the fields that are present.
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
    fn row_groups_respect_their_limit_whatever_the_size_of_batches() {
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
    fn an_error_is_returned_by_a_later_call_or_at_the_end() {
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
        assert!(writer.abandon().is_ok(), "the error was returned before");
        let mut writer = begin();
        writer.write(batch(60_000)).unwrap();
        assert!(writer.abandon().is_err(), "60 row groups exceed the buffer");
    }
}
