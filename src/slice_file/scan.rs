//! Reads some columns of a file of the table, in the form that is decoded fastest.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;

use super::writer::{SLICE_KEY, WriteError, batch_rows, error, footer_of, metadata_value, open};
use crate::cdr::amount::AMOUNT_SCALE;
use crate::cdr::columns::{self, AMOUNT_PRECISION, COLUMNS, Kind};
use crate::cdr::slice::Slice;

/// Calls `each` for every batch of the file of `slice` at `path`, with these `columns`. Names come
/// as dictionaries, phone numbers as views, and amounts in 64 bits. Memory: one batch.
///
/// # Errors
/// [`WriteError`] if the file cannot be read, is another slice's, or lacks a column of
/// `schema_version`.
pub(crate) fn scan(
    path: &Path,
    slice: Slice,
    schema_version: u32,
    columns: &[&str],
    mut each: impl FnMut(&RecordBatch),
) -> Result<(), WriteError> {
    let failed = |source: ParquetError| error(path, "read", source);
    // Opened once: a run may replace the file, and then it has another footer.
    let file = open(path)?;
    let footer = footer_of(&file, path)?;
    let metadata = footer.metadata();
    let general = metadata.file_metadata();
    let named = metadata_value(general, SLICE_KEY);
    if named != Some(&slice.to_string()) {
        let named = named.unwrap_or("no slice");
        return Err(failed(ParquetError::General(format!("it holds {named}"))));
    }
    columns::check(footer.schema(), schema_version)
        .map_err(|problem| failed(ParquetError::General(problem)))?;
    let fields = footer.schema().fields().iter().map(|field| fast(field));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let rows = batch_rows(general);
    let mask = ProjectionMask::columns(general.schema_descr(), columns.iter().copied());
    let options = ArrowReaderOptions::new().with_schema(schema);
    let footer = ArrowReaderMetadata::try_new(Arc::clone(metadata), options).map_err(failed)?;
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer)
        .with_projection(mask)
        .with_batch_size(rows)
        .build()
        .map_err(failed)?;
    for batch in reader {
        each(&batch.map_err(|source| failed(source.into()))?);
    }
    Ok(())
}

/// The field with the type that is decoded fastest.
fn fast(field: &Field) -> Field {
    let kind = COLUMNS.iter().find(|column| column.name == field.name());
    let field = field.clone();
    match kind.map(|column| column.kind) {
        Some(Kind::Name) => field.with_data_type(DataType::Dictionary(
            Box::new(DataType::Int32),
            Box::new(DataType::Utf8),
        )),
        Some(Kind::PhoneNumber) => field.with_data_type(DataType::Utf8View),
        Some(Kind::Amount) => field.with_data_type(DataType::Decimal64(
            AMOUNT_PRECISION,
            i8::try_from(AMOUNT_SCALE).expect("9 fits"),
        )),
        _ => field,
    }
}
