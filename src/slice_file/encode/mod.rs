//! Encodes batches as the column chunks of a Parquet row group.
//!
//! The Parquet crate's own Arrow writer interns every value of a dictionary column again, and looks at each value
//! more than once. Here a dictionary that the [batch](super::batch::BatchBuilder) brings along is carried through, a
//! validity bitmap is the definition levels as it stands, and each batch is a page of each column. Pages, their headers, the
//! footer and the page index are written by the crate (`SerializedPageWriter`, `append_column`), so that only the
//! [encodings](https://parquet.apache.org/docs/file-format/data-pages/encodings/) are ours: `PLAIN`, and
//! `RLE_DICTIONARY` with the hybrid of runs and bit-packing, in data pages of version 1.
//!
//! Memory: the encoded row group, and one page of one column.

mod blocks;
mod bounds;
mod codec;
mod columns;
pub(crate) mod intern;
pub(crate) mod scratch;
mod values;

use std::io::Write;

use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::Compression;
use parquet::errors::Result;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;

use crate::cdr::columns::COLUMNS;
use codec::Codec;
use columns::ColumnEncoder;
use scratch::Scratch;

/// The Parquet schema of a table with that Arrow schema.
pub(crate) fn parquet_schema(schema: &Schema) -> SchemaDescriptor {
    ArrowSchemaConverter::new()
        .convert(schema)
        .expect("every type of the schema has one in Parquet")
}

/// Collects a row group.
pub(crate) struct RowGroupEncoder {
    columns: Vec<ColumnEncoder>,
    rows: usize,
    press: Press,
}

/// What pages are made with, whichever column they are of: one at a time.
struct Press {
    codec: Codec,
    /// The page that is being made.
    page: Scratch,
    /// Its codes, where it has any.
    codes: Vec<u32>,
}

impl RowGroupEncoder {
    /// For row groups of the lake's columns, whose schema this is.
    pub(crate) fn try_new(schema: &SchemaDescriptor, compression: Compression) -> Result<Self> {
        let columns = schema.columns().iter().zip(COLUMNS.iter());
        let encoders =
            columns.map(|(descriptor, column)| ColumnEncoder::new(descriptor, column.kind));
        Ok(Self {
            columns: encoders.collect(),
            rows: 0,
            press: Press {
                codec: Codec::try_new(compression)?,
                page: Scratch::default(),
                codes: Vec::new(),
            },
        })
    }

    /// Rows since the last [`close_into`](Self::close_into).
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Encoded bytes of these rows.
    pub(crate) fn encoded_bytes(&self) -> usize {
        self.columns.iter().map(ColumnEncoder::encoded_bytes).sum()
    }

    /// Adds a batch, as a page of each column.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        for (column, array) in self.columns.iter_mut().zip(batch.columns()) {
            column.write(array, &mut self.press)?;
        }
        self.rows += batch.num_rows();
        Ok(())
    }

    /// Adds the row group to a file, and begins the next one.
    pub(crate) fn close_into<W: Write + Send>(
        &mut self,
        writer: &mut SerializedFileWriter<W>,
    ) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut row_group = writer.next_row_group()?;
        for column in &mut self.columns {
            let (chunk, close) = column.take().close(&mut self.press)?;
            row_group.append_column(&chunk, close)?;
        }
        row_group.close()?;
        self.rows = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
