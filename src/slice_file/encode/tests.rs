#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test may panic"
)]

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{Encoding, ZstdLevel};
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;

use super::bounds::{Bounds, TextBound};
use super::intern::MAX_DICTIONARY_BYTES;
use super::values::numbers_of;
use super::*;
use crate::cdr::amount::Amount;
use crate::cdr::columns::RowSource;
use crate::cdr::decode::Record;
use crate::cdr::slice::{Direction, Slice, parse_day};
use crate::slice_file::batch::{BatchBuilder, Rows};

fn slice() -> Slice {
    Slice::of_day(parse_day("2026-10-01").unwrap(), Direction::Placed)
}

/// A file with these row groups, each a list of batches of records.
fn encode(row_groups: &[Vec<Vec<Record<'_>>>], compression: Compression) -> Bytes {
    let columns = parquet_schema();
    let mut encoder = RowGroupEncoder::try_new(&columns, compression).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer =
        SerializedFileWriter::new(Vec::new(), columns.root_schema_ptr(), properties).unwrap();
    let mut builder = BatchBuilder::new(slice());
    for batches in row_groups {
        for records in batches {
            for record in records {
                builder.append(record);
            }
            encoder.write(&builder.finish()).unwrap();
        }
        encoder.close_into(&mut writer).unwrap();
    }
    writer.into_inner().unwrap().into()
}

fn batch_of(file: &Bytes) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap();
    let schema = Arc::clone(reader.schema());
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

fn texts() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        3 => Just(None),
        6 => prop::sample::select(vec!["", "a", "answered", "France", "é"])
            .prop_map(|text| Some(text.to_owned())),
        3 => "[a-f0-9]{0,12}".prop_map(Some),
        1 => "[a-z]{60,70}".prop_map(Some),
    ]
}

/// Random values for a record.
#[derive(Debug)]
struct RandomValues {
    texts: std::vec::IntoIter<Option<String>>,
    time_us: i64,
    seconds: Option<i32>,
    amounts: std::vec::IntoIter<Option<i64>>,
}

impl RowSource<'static> for RandomValues {
    fn text(&mut self) -> Option<Cow<'static, str>> {
        self.texts.next().unwrap().map(Cow::Owned)
    }

    fn time(&mut self) -> i64 {
        self.time_us
    }

    fn seconds(&mut self) -> Option<i32> {
        self.seconds
    }

    fn amount(&mut self) -> Option<Amount> {
        self.amounts.next().unwrap().map(Amount::from_nanos)
    }

    fn day(&mut self) -> Option<i32> {
        None
    }
}

fn record() -> impl Strategy<Value = Record<'static>> {
    let nanos = prop_oneof![
        Just(0_i64),
        Just(6_500_000),
        -999_999_999_999_999_999..=999_999_999_999_999_999_i64
    ];
    // One value for each column suffices.
    let values = (
        proptest::collection::vec(texts(), COLUMNS.len()),
        any::<i64>(),
        proptest::option::of(any::<i32>()),
        proptest::collection::vec(proptest::option::of(nanos), COLUMNS.len()),
    );
    values.prop_map(|(texts, time_us, seconds, amounts)| {
        Record::read_from(&mut RandomValues {
            texts: texts.into_iter(),
            time_us,
            seconds,
            amounts: amounts.into_iter(),
        })
    })
}

/// Records of a batch, sometimes more than fit into one word of the validity bitmap.
fn batch() -> impl Strategy<Value = Vec<Record<'static>>> {
    prop_oneof![
        15 => proptest::collection::vec(record(), 1..20),
        1 => proptest::collection::vec(record(), 120..140),
    ]
}

/// The bounds of a column, computed from the rows that were read.
fn expected_bounds(batch: &RecordBatch, column: usize) -> Bounds {
    let array = batch.column(column);
    match array.data_type() {
        DataType::Utf8 => {
            let texts: Vec<&str> = array.as_string::<i32>().iter().flatten().collect();
            match (texts.iter().min(), texts.iter().max()) {
                (Some(min), Some(max)) => {
                    Bounds::Text(TextBound::lower(min), TextBound::upper(max).unwrap())
                }
                _ => Bounds::Empty,
            }
        }
        _ => Bounds::of_numbers(numbers_of(array)),
    }
}

/// The bounds of a page in the page index, empty for a page of nulls.
fn bounds_in(index: &ColumnIndexMetaData, page: usize) -> (Vec<u8>, Vec<u8>) {
    fn both<T>(bounds: Option<(T, T)>, bytes: impl Fn(T) -> Vec<u8>) -> (Vec<u8>, Vec<u8>) {
        bounds.map_or_else(Default::default, |(min, max)| (bytes(min), bytes(max)))
    }
    match index {
        ColumnIndexMetaData::INT32(index) => {
            let bounds = index.min_value(page).zip(index.max_value(page));
            both(bounds, |bound| bound.to_le_bytes().to_vec())
        }
        ColumnIndexMetaData::INT64(index) => {
            let bounds = index.min_value(page).zip(index.max_value(page));
            both(bounds, |bound| bound.to_le_bytes().to_vec())
        }
        ColumnIndexMetaData::BYTE_ARRAY(index) => {
            let bounds = index.min_value(page).zip(index.max_value(page));
            both(bounds, <[u8]>::to_vec)
        }
        _ => unreachable!("no column has such a type"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// For any rows, batches and row groups: another reader reads the same rows, and statistics and
    /// page index match them.
    #[test]
    fn another_reader_reads_the_written_rows(
        row_groups in proptest::collection::vec(
            proptest::collection::vec(batch(), 1..4),
            1..3,
        ),
        compression in prop::sample::select(vec![
            Compression::ZSTD(ZstdLevel::default()),
            Compression::SNAPPY,
            Compression::UNCOMPRESSED,
        ]),
    ) {
        let file = encode(&row_groups, compression);
        let read = batch_of(&file);
        let rows = Rows::try_new(&read, slice()).unwrap();
        let written: Vec<_> = row_groups.iter().flatten().flatten().cloned().collect();
        prop_assert_eq!(rows.iter().collect::<Vec<_>>(), written);

        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
        let metadata = ArrowReaderMetadata::load(&file, options).unwrap();
        let metadata = metadata.metadata();
        let mut row = 0;
        for (group, batches) in row_groups.iter().enumerate() {
            let lengths: Vec<usize> = batches.iter().map(Vec::len).collect();
            let group_rows: usize = lengths.iter().sum();
            for (column, chunk) in metadata.row_group(group).columns().iter().enumerate() {
                let physical_type = chunk.column_type();
                let here = read.slice(row, group_rows);
                let nulls = here.column(column).null_count() as u64;
                let mut bounds = Bounds::Empty;
                let mut start = row;
                let mut pages = Vec::new();
                for &length in &lengths {
                    let page = expected_bounds(&read.slice(start, length), column);
                    pages.push(page.encoded(physical_type));
                    bounds = bounds.merge(page);
                    start += length;
                }
                if compression == Compression::UNCOMPRESSED {
                    prop_assert_eq!(chunk.uncompressed_size(), chunk.compressed_size());
                }
                let found = chunk.statistics().unwrap();
                let expected = bounds.statistics(physical_type, nulls);
                prop_assert_eq!(found.min_bytes_opt(), expected.min_bytes_opt());
                prop_assert_eq!(found.max_bytes_opt(), expected.max_bytes_opt());
                prop_assert_eq!(found.min_is_exact(), expected.min_is_exact());
                prop_assert_eq!(found.max_is_exact(), expected.max_is_exact());
                prop_assert_eq!(found.null_count_opt(), Some(nulls));
                prop_assert_eq!(chunk.num_values() as usize, group_rows);
                let index = metadata.page_index_for_row_group(group);
                let offsets = index.offset_index(column).unwrap();
                let pages_of_column = offsets.page_locations().iter();
                let firsts: Vec<i64> =
                    pages_of_column.map(|page| page.first_row_index).collect();
                let mut first = 0;
                for (page, length) in firsts.iter().zip(&lengths) {
                    prop_assert_eq!(*page, first);
                    first += *length as i64;
                }
                if pages.iter().all(Option::is_some) {
                    let index = index.column_index(column).unwrap();
                    prop_assert_eq!(index.num_pages() as usize, lengths.len());
                    for (number, page) in pages.into_iter().flatten().enumerate() {
                        prop_assert_eq!(bounds_in(index, number), page);
                    }
                }
            }
            row += group_rows;
        }
    }

}

#[test]
fn a_page_after_a_replaced_dictionary_is_plain() {
    let text = |i: usize| format!("{i:>0$}", MAX_DICTIONARY_BYTES / 1_000);
    let record = |i: usize| Record {
        destination: Some(Cow::Owned(text(i))),
        charge_usd: Some(Amount::from_nanos(i as i64)),
        ..Record::default()
    };
    let batch =
        |from: usize| -> Vec<Record<'static>> { (from..from + 20_000).map(record).collect() };
    let few = |from: usize| -> Vec<Record<'static>> { (from..from + 1_500).map(record).collect() };
    let row_groups = vec![vec![few(0), few(5), few(2_000), batch(0)[..10].to_vec()]];
    let file = encode(&row_groups, Compression::ZSTD(ZstdLevel::default()));
    let read = batch_of(&file);
    let written: Vec<_> = row_groups.iter().flatten().flatten().cloned().collect();
    let rows = Rows::try_new(&read, slice()).unwrap();
    assert!(rows.iter().eq(written), "the same rows");
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).unwrap();
    let destination = &metadata.metadata().row_group(0).columns()[8];
    assert_eq!(destination.column_path().string(), "destination");
    let encodings: Vec<_> = destination.encodings().collect();
    assert_eq!(
        encodings,
        [Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY]
    );
}
