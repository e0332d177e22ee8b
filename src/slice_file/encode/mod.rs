//! Encodes batches as the column chunks of a Parquet row group.
//!
//! The Parquet crate's Arrow writer interns every value of a dictionary column again, and processes
//! each value more than once. This encoder reuses the dictionary of the
//! [batch](super::batch::BatchBuilder) and its validity bitmap (as definition levels), and writes
//! each batch as one page of each column. The crate writes pages, their headers, the footer and the
//! page index (`SerializedPageWriter`, `append_column`). Only the
//! [encodings](https://parquet.apache.org/docs/file-format/data-pages/encodings/) are implemented
//! here: `PLAIN`, and `RLE_DICTIONARY` with its hybrid of runs and bit-packing, in data pages of
//! version 1.
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
use parquet::arrow::{ArrowSchemaConverter, PARQUET_FIELD_ID_META_KEY};
use parquet::basic::Compression;
use parquet::errors::Result;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;

use crate::cdr::columns::{COLUMNS, schema};
use codec::Codec;
use columns::ColumnEncoder;
use scratch::Scratch;

/// The Parquet schema of the lake's columns, with their ids.
pub(crate) fn parquet_schema() -> SchemaDescriptor {
    let columns = schema();
    let with_id = columns.fields().iter().zip(COLUMNS).map(|(field, column)| {
        let id = (
            PARQUET_FIELD_ID_META_KEY.to_owned(),
            column.id().to_string(),
        );
        field.as_ref().clone().with_metadata([id])
    });
    ArrowSchemaConverter::new()
        .convert(&Schema::new(with_id.collect::<Vec<_>>()))
        .expect("Parquet supports every type of the schema")
}

/// Encodes a row group.
pub(crate) struct RowGroupEncoder {
    columns: Vec<ColumnEncoder>,
    rows: usize,
    buffers: PageBuffers,
}

/// Codec and buffers for encoding one page. All columns share them.
struct PageBuffers {
    codec: Codec,
    /// The current page.
    page: Scratch,
    /// Its dictionary codes, if it has any.
    codes: Vec<u32>,
}

impl RowGroupEncoder {
    /// An encoder for row groups of the lake's columns. `schema` is their Parquet schema.
    pub(crate) fn try_new(schema: &SchemaDescriptor, compression: Compression) -> Result<Self> {
        let columns = schema.columns().iter().zip(COLUMNS.iter());
        let encoders =
            columns.map(|(descriptor, column)| ColumnEncoder::new(descriptor, column.kind));
        Ok(Self {
            columns: encoders.collect(),
            rows: 0,
            buffers: PageBuffers {
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

    /// Encoded bytes since the last [`close_into`](Self::close_into).
    pub(crate) fn encoded_bytes(&self) -> usize {
        self.columns.iter().map(ColumnEncoder::encoded_bytes).sum()
    }

    /// Encodes a batch as one page of each column.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        for (column, array) in self.columns.iter_mut().zip(batch.columns()) {
            column.write(array, &mut self.buffers)?;
        }
        self.rows += batch.num_rows();
        Ok(())
    }

    /// Writes the row group to a file and begins the next one.
    pub(crate) fn close_into<W: Write + Send>(
        &mut self,
        writer: &mut SerializedFileWriter<W>,
    ) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut row_group = writer.next_row_group()?;
        for column in &mut self.columns {
            let (chunk, close) = column.take().close(&mut self.buffers)?;
            row_group.append_column(&chunk, close)?;
        }
        row_group.close()?;
        self.rows = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
