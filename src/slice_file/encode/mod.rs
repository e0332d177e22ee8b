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

pub(crate) mod intern;
pub(crate) mod scratch;

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{
    Array, AsArray, Date32Array, Decimal128Array, DictionaryArray, Int32Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{
    ArrowDictionaryKeyType, ArrowNativeType, DataType, Int8Type, Int32Type, Schema,
};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{CompressedPage, Page, PageWriteSpec, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{
    ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats,
};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite};
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor};
use zstd::zstd_safe::{CParameter, ParamSwitch};

use crate::cdr::columns::{COLUMNS, Kind};
use intern::{MAX_DICTIONARY_ENTRIES, NumberInterner};
use scratch::Scratch;

/// Longest bound of texts in statistics and page index, but for a character: where a text is longer, they have a
/// [bound of their own](https://parquet.apache.org/docs/file-format/pageindex/) that lies beyond it.
const MAX_BOUND_BYTES: usize = 64;

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
        let pages = self
            .columns
            .iter()
            .map(|column| column.pages.bytes_written());
        pages.sum()
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
            let fresh = ColumnEncoder::new(&column.descriptor, column.kind);
            let (chunk, close) = std::mem::replace(column, fresh).close(&mut self.press)?;
            row_group.append_column(&chunk, close)?;
        }
        row_group.close()?;
        self.rows = 0;
        Ok(())
    }
}

/// What zstd is told to look for in a column, at level 1, where speed is asked for. Found by trying: `docs/performance.md` has the figures. Zero is what the level says. `TargetLength` is the step
/// by which zstd walks where it finds nothing; it would no longer code literals, were it not told to.
fn zstd_parameters(kind: Kind) -> [CParameter; 4] {
    let (hash_log, min_match, target_length, literals) = match kind {
        Kind::Id => (6, 7, 8, ParamSwitch::Enable),
        Kind::PhoneNumber => (0, 7, 3, ParamSwitch::Enable),
        _ => (0, 0, 0, ParamSwitch::Auto),
    };
    [
        CParameter::HashLog(hash_log),
        CParameter::MinMatch(min_match),
        CParameter::TargetLength(target_length),
        CParameter::LiteralCompressionMode(literals),
    ]
}

/// Compresses pages.
enum Codec {
    Zstd {
        compression: Compression,
        /// Whether speed is asked for, so that the compressor is told where to look.
        is_fastest: bool,
        compressor: zstd::bulk::Compressor<'static>,
    },
    Snappy(Box<snap::raw::Encoder>),
    None,
}

impl Codec {
    fn try_new(compression: Compression) -> Result<Self> {
        Ok(match compression {
            Compression::ZSTD(level) => {
                let level = level.compression_level();
                Self::Zstd {
                    compression,
                    is_fastest: level == 1,
                    compressor: zstd::bulk::Compressor::new(level)?,
                }
            }
            Compression::SNAPPY => Self::Snappy(Box::new(snap::raw::Encoder::new())),
            Compression::UNCOMPRESSED => Self::None,
            other => {
                let problem = format!("no codec for {other}");
                return Err(ParquetError::General(problem));
            }
        })
    }

    fn compression(&self) -> Compression {
        match self {
            Self::Zstd { compression, .. } => *compression,
            Self::Snappy(_) => Compression::SNAPPY,
            Self::None => Compression::UNCOMPRESSED,
        }
    }

    fn compress(&mut self, page: &[u8], kind: Kind) -> Result<Bytes> {
        Ok(match self {
            Self::Zstd {
                is_fastest,
                compressor,
                ..
            } => {
                if *is_fastest {
                    for parameter in zstd_parameters(kind) {
                        compressor.set_parameter(parameter)?;
                    }
                }
                compressor.compress(page)?.into()
            }
            Self::Snappy(encoder) => encoder
                .compress_vec(page)
                .map_err(|error| ParquetError::External(Box::new(error)))?
                .into(),
            Self::None => Bytes::copy_from_slice(page),
        })
    }
}

/// The smallest and the largest value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Bounds {
    /// Of no values.
    Empty,
    Number(i64, i64),
    Text(TextBound, TextBound),
    /// There is no text beyond the largest.
    Unknown,
}

impl Bounds {
    fn of_numbers(numbers: impl IntoIterator<Item = i64>) -> Self {
        let mut numbers = numbers.into_iter();
        let Some(first) = numbers.next() else {
            return Self::Empty;
        };
        let (min, max) = numbers.fold((first, first), |(min, max), number| {
            (min.min(number), max.max(number))
        });
        Self::Number(min, max)
    }

    fn merge(self, other: Self) -> Self {
        match (self, other) {
            (Self::Empty, other) | (other, Self::Empty) => other,
            (Self::Number(min, max), Self::Number(other_min, other_max)) => {
                Self::Number(min.min(other_min), max.max(other_max))
            }
            (Self::Text(min, max), Self::Text(other_min, other_max)) => {
                Self::Text(min.min(other_min), max.max(other_max))
            }
            _ => Self::Unknown,
        }
    }

    /// As the page index has them; `None` if they are not to be known.
    fn encoded(&self, physical_type: Type) -> Option<(Vec<u8>, Vec<u8>)> {
        let number = |number: i64| {
            if physical_type == Type::INT32 {
                narrow(number).to_le_bytes().to_vec()
            } else {
                number.to_le_bytes().to_vec()
            }
        };
        match self {
            Self::Empty => Some((Vec::new(), Vec::new())),
            Self::Number(min, max) => Some((number(*min), number(*max))),
            Self::Text(min, max) => Some((min.bytes.clone(), max.bytes.clone())),
            Self::Unknown => None,
        }
    }

    fn statistics(&self, physical_type: Type, nulls: u64) -> Statistics {
        let nulls = Some(nulls);
        match (self, physical_type) {
            (Self::Number(min, max), Type::INT32) => {
                Statistics::int32(Some(narrow(*min)), Some(narrow(*max)), None, nulls, false)
            }
            (Self::Number(min, max), _) => {
                Statistics::int64(Some(*min), Some(*max), None, nulls, false)
            }
            (Self::Text(min, max), _) => {
                let bound = |bound: &TextBound| Some(ByteArray::from(bound.bytes.clone()));
                let statistics = ValueStatistics::new(bound(min), bound(max), None, nulls, false)
                    .with_min_is_exact(!min.is_cut)
                    .with_max_is_exact(!max.is_cut);
                Statistics::ByteArray(statistics)
            }
            (_, Type::INT32) => Statistics::int32(None, None, None, nulls, false),
            (_, Type::INT64) => Statistics::int64(None, None, None, nulls, false),
            _ => Statistics::byte_array(None, None, None, nulls, false),
        }
    }
}

/// A bound of texts: one of them, or where that is long, something short beyond it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TextBound {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl TextBound {
    fn exact(text: &str) -> Self {
        Self {
            bytes: text.as_bytes().to_owned(),
            is_cut: false,
        }
    }

    /// A text that is no larger: its beginning.
    fn below(text: &str) -> Self {
        let (beginning, _) = text.split_at(text.floor_char_boundary(MAX_BOUND_BYTES));
        Self {
            is_cut: beginning.len() < text.len(),
            ..Self::exact(beginning)
        }
    }

    /// A text that is no smaller: its beginning, with the last character that has a successor replaced by that.
    fn above(text: &str) -> Option<Self> {
        if text.len() <= MAX_BOUND_BYTES {
            return Some(Self::exact(text));
        }
        let (beginning, _) = text.split_at(text.floor_char_boundary(MAX_BOUND_BYTES));
        let (at, successor) = beginning
            .char_indices()
            .rev()
            .find_map(|(at, character)| Some((at, successor(character)?)))?;
        let bound = format!("{}{successor}", beginning.split_at(at).0);
        Some(Self {
            bytes: bound.into_bytes(),
            is_cut: true,
        })
    }
}

/// The next character, in the order of code points, which is that of UTF-8.
fn successor(character: char) -> Option<char> {
    // A range of characters knows about surrogates.
    (character..=char::MAX).nth(1)
}

/// The smallest and the largest of some texts.
#[derive(Default)]
struct TextBounds<'a> {
    bounds: Option<[(u64, &'a [u8]); 2]>,
}

impl<'a> TextBounds<'a> {
    /// The first eight bytes as a number, which decide nearly always, and never wrongly: a longer text sorts behind its
    /// own beginning.
    fn head(text: &[u8]) -> u64 {
        match text.first_chunk::<8>() {
            Some(head) => u64::from_be_bytes(*head),
            None => {
                let mut head = [0; 8];
                head[..text.len()].copy_from_slice(text);
                u64::from_be_bytes(head)
            }
        }
    }

    fn add(&mut self, text: &'a [u8]) {
        let text = (Self::head(text), text);
        let [min, max] = self.bounds.get_or_insert([text, text]);
        if text.0 <= min.0 && text < *min {
            *min = text;
        }
        if text.0 >= max.0 && text > *max {
            *max = text;
        }
    }
}

impl<'a> FromIterator<&'a [u8]> for TextBounds<'a> {
    fn from_iter<T: IntoIterator<Item = &'a [u8]>>(texts: T) -> Self {
        let mut bounds = Self::default();
        texts.into_iter().for_each(|text| bounds.add(text));
        bounds
    }
}

impl From<TextBounds<'_>> for Bounds {
    fn from(texts: TextBounds<'_>) -> Self {
        let Some([(_, min), (_, max)]) = texts.bounds else {
            return Self::Empty;
        };
        let [min, max] = [min, max].map(|text| std::str::from_utf8(text).expect("it is a text"));
        TextBound::above(max).map_or(Self::Unknown, |max| Self::Text(TextBound::below(min), max))
    }
}

fn narrow(number: i64) -> i32 {
    i32::try_from(number).expect("a column of 32 bits holds such numbers")
}

/// The dictionary of a column chunk.
enum Dictionary {
    /// The column has none.
    None,
    Numbers(NumberInterner),
    /// What the batches brought along; longer with each of them.
    Texts(Option<StringArray>),
}

/// Collects a column chunk.
struct ColumnEncoder {
    descriptor: ColumnDescPtr,
    kind: Kind,
    dictionary: Dictionary,
    /// Data pages with their headers.
    pages: TrackedWrite<Blocks>,
    uncompressed_bytes: i64,
    rows: usize,
    nulls: u64,
    bounds: Bounds,
    /// How many pages there are of each kind.
    page_kinds: Vec<PageEncodingStats>,
    column_index: ColumnIndexBuilder,
    offset_index: OffsetIndexBuilder,
    /// Bytes of text in the data, where there is text.
    text_bytes: Option<i64>,
}

impl ColumnEncoder {
    fn new(descriptor: &ColumnDescPtr, kind: Kind) -> Self {
        let is_text = descriptor.physical_type() == Type::BYTE_ARRAY;
        Self {
            descriptor: ColumnDescPtr::clone(descriptor),
            kind,
            dictionary: match (kind.repeats(), is_text) {
                (false, _) => Dictionary::None,
                (true, false) => Dictionary::Numbers(NumberInterner::default()),
                (true, true) => Dictionary::Texts(None),
            },
            pages: TrackedWrite::new(Blocks::default()),
            uncompressed_bytes: 0,
            rows: 0,
            nulls: 0,
            bounds: Bounds::Empty,
            page_kinds: Vec::new(),
            column_index: ColumnIndexBuilder::new(descriptor.physical_type()),
            offset_index: OffsetIndexBuilder::new(),
            text_bytes: is_text.then_some(0),
        }
    }

    /// Adds an array as a page.
    fn write(&mut self, array: &dyn Array, press: &mut Press) -> Result<()> {
        press.page.clear();
        if self.descriptor.max_def_level() > 0 {
            write_levels(array, &mut press.page);
        }
        let (encoding, bounds, text_bytes) = self.write_values(array, press);
        let nulls = array.null_count() as u64;
        let is_null_page = nulls == array.len() as u64;
        match bounds.encoded(self.descriptor.physical_type()) {
            Some((min, max)) => {
                let nulls = i64::try_from(nulls).unwrap_or(i64::MAX);
                self.column_index
                    .append(is_null_page, min, max, nulls, None);
            }
            None => self.column_index.to_invalid(),
        }
        self.bounds = std::mem::replace(&mut self.bounds, Bounds::Empty).merge(bounds);
        self.nulls += nulls;
        self.rows += array.len();
        if let Some(sum) = &mut self.text_bytes {
            *sum += text_bytes;
        }

        let compressed = press.codec.compress(press.page.as_slice(), self.kind)?;
        let page = Page::DataPage {
            buf: compressed,
            num_values: u32::try_from(array.len()).expect("a batch has thousands of rows"),
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let page = CompressedPage::new(page, press.page.len());
        let written = SerializedPageWriter::new(&mut self.pages).write_page(page)?;
        self.note(&written, encoding);
        self.offset_index.append_row_count(signed(array.len()));
        let bytes = i32::try_from(written.bytes_written)
            .map_err(|_| ParquetError::General("a page is larger than 2 GiB".to_owned()))?;
        self.offset_index
            .append_offset_and_size(written.offset.cast_signed(), bytes);
        self.offset_index
            .append_unencoded_byte_array_data_bytes(self.text_bytes.map(|_| text_bytes));
        Ok(())
    }

    /// Notes a page that was written.
    fn note(&mut self, written: &PageWriteSpec, encoding: Encoding) {
        // With its header.
        self.uncompressed_bytes += signed(written.uncompressed_size);
        let is_this = |kind: &&mut PageEncodingStats| {
            kind.page_type == written.page_type && kind.encoding == encoding
        };
        match self.page_kinds.iter_mut().find(is_this) {
            Some(kind) => kind.count += 1,
            None => self.page_kinds.push(PageEncodingStats {
                page_type: written.page_type,
                encoding,
                count: 1,
            }),
        }
    }

    /// Encodes the values that are not null.
    fn write_values(&mut self, array: &dyn Array, press: &mut Press) -> (Encoding, Bounds, i64) {
        match array.data_type() {
            DataType::Utf8 => write_texts(array.as_string(), press),
            DataType::Dictionary(keys, _) if **keys == DataType::Int8 => {
                self.write_coded(array.as_dictionary::<Int8Type>(), press)
            }
            DataType::Dictionary(..) => self.write_coded(array.as_dictionary::<Int32Type>(), press),
            _ => self.write_numbers(array, press),
        }
    }

    fn write_coded<K: ArrowDictionaryKeyType>(
        &mut self,
        array: &DictionaryArray<K>,
        press: &mut Press,
    ) -> (Encoding, Bounds, i64) {
        let texts = array.values().as_string::<i32>();
        press.codes.clear();
        let keys = array.keys();
        let code = |row: usize| {
            let code = keys.value(row).to_usize();
            code.and_then(|code| u32::try_from(code).ok())
                .expect("a code counts entries")
        };
        match keys.nulls() {
            Some(nulls) => press.codes.extend(nulls.valid_indices().map(code)),
            None => press.codes.extend((0..keys.len()).map(code)),
        }
        let mut is_used = vec![false; texts.len()];
        let mut text_bytes = 0;
        for &code in &press.codes {
            is_used[code as usize] = true;
            text_bytes += i64::from(texts.value_length(code as usize));
        }
        let used = (0..texts.len()).filter(|&code| is_used[code]);
        let bounds: TextBounds<'_> = used.map(|code| texts.value(code).as_bytes()).collect();
        let bounds = bounds.into();
        let Dictionary::Texts(dictionary) = &mut self.dictionary else {
            unreachable!("columns of text that repeats have such a dictionary");
        };
        // A dictionary that became too large was begun anew, and its codes mean something else.
        let goes_on = dictionary
            .as_ref()
            .is_none_or(|earlier| begins_with(texts, earlier));
        if goes_on {
            *dictionary = Some(texts.clone());
            write_codes(&press.codes, texts.len(), &mut press.page);
            return (Encoding::RLE_DICTIONARY, bounds, text_bytes);
        }
        for &code in &press.codes {
            write_text(texts.value(code as usize).as_bytes(), &mut press.page);
        }
        (Encoding::PLAIN, bounds, text_bytes)
    }

    fn write_numbers(&mut self, array: &dyn Array, press: &mut Press) -> (Encoding, Bounds, i64) {
        let numbers = numbers_of(array);
        let bounds = Bounds::of_numbers(numbers.iter().copied());
        if let Dictionary::Numbers(dictionary) = &mut self.dictionary
            && dictionary.len() <= MAX_DICTIONARY_ENTRIES
        {
            press.codes.clear();
            press
                .codes
                .extend(numbers.iter().map(|&number| dictionary.intern(number)));
            write_codes(&press.codes, dictionary.len(), &mut press.page);
            return (Encoding::RLE_DICTIONARY, bounds, 0);
        }
        self.write_plain_numbers(&numbers, &mut press.page);
        (Encoding::PLAIN, bounds, 0)
    }

    fn write_plain_numbers(&self, numbers: &[i64], page: &mut Scratch) {
        let is_narrow = self.descriptor.physical_type() == Type::INT32;
        for &number in numbers {
            if is_narrow {
                page.push(narrow(number).to_le_bytes());
            } else {
                page.push(number.to_le_bytes());
            }
        }
    }

    /// The chunk, dictionary first, and what the footer says of it.
    fn close(mut self, press: &mut Press) -> Result<(Chunk, ColumnCloseResult)> {
        let mut dictionary = TrackedWrite::new(Blocks::default());
        let dictionary_bytes = self.write_dictionary(&mut dictionary, press)?;
        let mut chunk = dictionary.into_inner()?;
        let data_bytes = self.pages.bytes_written();
        chunk.blocks.append(&mut self.pages.into_inner()?.blocks);
        let chunk_bytes = dictionary_bytes + data_bytes;
        let mut offset_index = self.offset_index.build();
        for location in &mut offset_index.page_locations {
            location.offset += signed(dictionary_bytes);
        }
        let physical_type = self.descriptor.physical_type();
        let encodings = self.page_kinds.iter().map(|kind| kind.encoding);
        // Levels are runs.
        let encodings = encodings.chain([Encoding::RLE]).collect();
        let metadata = ColumnChunkMetaData::builder(self.descriptor)
            .set_compression(press.codec.compression())
            .set_encodings(encodings)
            .set_total_compressed_size(signed(chunk_bytes))
            .set_total_uncompressed_size(self.uncompressed_bytes)
            .set_num_values(signed(self.rows))
            .set_data_page_offset(signed(dictionary_bytes))
            .set_dictionary_page_offset((dictionary_bytes > 0).then_some(0))
            .set_statistics(self.bounds.statistics(physical_type, self.nulls))
            .set_unencoded_byte_array_data_bytes(self.text_bytes)
            .set_page_encoding_stats(self.page_kinds)
            .build()?;
        let close = ColumnCloseResult {
            bytes_written: chunk_bytes as u64,
            rows_written: self.rows as u64,
            metadata,
            bloom_filter: None,
            column_index: if self.column_index.valid() {
                Some(self.column_index.build()?)
            } else {
                None
            },
            offset_index: Some(offset_index),
        };
        Ok((Chunk(Arc::new(chunk)), close))
    }

    /// Writes the dictionary page, if there is one, and says how long it is with its header.
    fn write_dictionary(
        &mut self,
        chunk: &mut TrackedWrite<Blocks>,
        press: &mut Press,
    ) -> Result<usize> {
        let is_coded = |kind: &PageEncodingStats| kind.encoding == Encoding::RLE_DICTIONARY;
        if !self.page_kinds.iter().any(is_coded) {
            return Ok(0);
        }
        press.page.clear();
        let entries = match std::mem::replace(&mut self.dictionary, Dictionary::None) {
            Dictionary::Numbers(dictionary) => {
                self.write_plain_numbers(dictionary.values(), &mut press.page);
                dictionary.len()
            }
            Dictionary::Texts(texts) => {
                let texts = texts.iter().flat_map(|texts| texts.iter().flatten());
                let mut entries = 0;
                for text in texts {
                    write_text(text.as_bytes(), &mut press.page);
                    entries += 1;
                }
                entries
            }
            Dictionary::None => 0,
        };
        let page = Page::DictionaryPage {
            buf: press.codec.compress(press.page.as_slice(), self.kind)?,
            num_values: u32::try_from(entries).expect("a dictionary has a limit"),
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        let page = CompressedPage::new(page, press.page.len());
        let written = SerializedPageWriter::new(chunk).write_page(page)?;
        self.note(&written, Encoding::PLAIN);
        Ok(chunk.bytes_written())
    }
}

/// Blocks that are not in use, of all slices. They go from one row group to the next, for what is given back to the
/// allocator between small pieces that stay (the page index) is not used again as a whole. There are never more of them than
/// the row groups had that were once encoded at the same time.
static SPARE_BLOCKS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn spare_blocks() -> MutexGuard<'static, Vec<Vec<u8>>> {
    SPARE_BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes in blocks: what grows by some megabytes is neither copied while it does, nor has room for as much again.
#[derive(Default)]
struct Blocks {
    blocks: Vec<Vec<u8>>,
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.blocks.iter_mut().for_each(Vec::clear);
        spare_blocks().append(&mut self.blocks);
    }
}

const BLOCK_BYTES: usize = 64 << 10;

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self
            .blocks
            .last()
            .map_or(0, |last| BLOCK_BYTES - last.len());
        if room == 0 {
            let spare = spare_blocks().pop();
            self.blocks
                .push(spare.unwrap_or_else(|| Vec::with_capacity(BLOCK_BYTES)));
        }
        let room = if room == 0 { BLOCK_BYTES } else { room };
        let taken = bytes.len().min(room);
        if let Some(last) = self.blocks.last_mut() {
            last.extend_from_slice(&bytes[..taken]);
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A whole column chunk, to be read from its beginning.
struct Chunk(Arc<Blocks>);

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.0.blocks.iter().map(|block| block.len() as u64).sum()
    }
}

impl ChunkReader for Chunk {
    type T = ChunkRead;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        if start != 0 {
            let problem = "a column chunk is read from its beginning".to_owned();
            return Err(ParquetError::General(problem));
        }
        Ok(ChunkRead {
            chunk: Arc::clone(&self.0),
            block: 0,
            at: 0,
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let mut bytes = Vec::with_capacity(length);
        let mut read = self.get_read(start)?.take(length as u64);
        read.read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }
}

struct ChunkRead {
    chunk: Arc<Blocks>,
    block: usize,
    at: usize,
}

impl Read for ChunkRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(block) = self.chunk.blocks.get(self.block) {
            let rest = &block[self.at..];
            if rest.is_empty() {
                self.block += 1;
                self.at = 0;
                continue;
            }
            let taken = rest.len().min(buffer.len());
            buffer[..taken].copy_from_slice(&rest[..taken]);
            self.at += taken;
            return Ok(taken);
        }
        Ok(0)
    }
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).expect("nothing in memory is longer")
}

/// Encodes texts as they are.
fn write_texts(array: &StringArray, press: &mut Press) -> (Encoding, Bounds, i64) {
    let (offsets, data) = (array.value_offsets(), array.value_data());
    let at = |row: usize| offsets[row].as_usize();
    let mut text_bytes = 0;
    let mut bounds = TextBounds::default();
    let mut add = |row: usize| {
        let (start, end) = (at(row), at(row + 1));
        text_bytes += write_length(end - start, &mut press.page);
        press.page.extend_from(data, start, end);
        bounds.add(&data[start..end]);
    };
    match array.nulls() {
        Some(nulls) => nulls.valid_indices().for_each(&mut add),
        None => (0..array.len()).for_each(&mut add),
    }
    (Encoding::PLAIN, bounds.into(), text_bytes)
}

/// Whether `texts` are `earlier` and perhaps more.
fn begins_with(texts: &StringArray, earlier: &StringArray) -> bool {
    // Mostly it is the same array.
    texts.value_data().as_ptr() == earlier.value_data().as_ptr()
        || (texts.len() >= earlier.len() && texts.slice(0, earlier.len()) == *earlier)
}

/// The values that are not null, widened.
fn numbers_of(array: &dyn Array) -> Vec<i64> {
    fn valid<T: Copy>(values: &[T], array: &dyn Array, widen: impl Fn(T) -> i64) -> Vec<i64> {
        match array.nulls() {
            Some(nulls) => nulls
                .valid_indices()
                .map(|row| widen(values[row]))
                .collect(),
            None => values.iter().map(|&value| widen(value)).collect(),
        }
    }
    let any = array.as_any();
    if let Some(array) = any.downcast_ref::<TimestampMicrosecondArray>() {
        valid(array.values(), array, |value| value)
    } else if let Some(array) = any.downcast_ref::<Decimal128Array>() {
        valid(array.values(), array, |value| {
            i64::try_from(value).expect("eighteen digits fit 64 bits")
        })
    } else if let Some(array) = any.downcast_ref::<Int32Array>() {
        valid(array.values(), array, i64::from)
    } else if let Some(array) = any.downcast_ref::<Date32Array>() {
        valid(array.values(), array, i64::from)
    } else {
        unreachable!("the schema has no other type: {}", array.data_type())
    }
}

/// Definition levels of version 1: their length, and then a run if all are equal, else the validity bitmap,
/// which is bit-packed as the format wants it.
fn write_levels(array: &dyn Array, page: &mut Scratch) {
    let start = page.len();
    page.push([0; 4]);
    let rows = array.len() as u64;
    match array.nulls() {
        Some(nulls) if nulls.null_count() > 0 && nulls.null_count() < array.len() => {
            let groups = rows.div_ceil(8);
            write_varint(groups << 1 | 1, page);
            let bits = nulls.inner();
            if bits.offset().is_multiple_of(8) {
                let first = bits.offset() / 8;
                let bytes = usize::try_from(groups).expect("as many as rows");
                page.extend(&bits.values()[first..first + bytes]);
            } else {
                page.extend(bits.sliced().as_slice());
            }
        }
        nulls => {
            write_varint(rows << 1, page);
            page.push([u8::from(nulls.is_none_or(|nulls| nulls.null_count() == 0))]);
        }
    }
    let length = u32::try_from(page.len() - start - 4).expect("a page has some megabytes");
    page.as_mut_slice()[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Codes of a dictionary with so many entries: their width, and then a run if all are equal, else bit-packed.
fn write_codes(codes: &[u32], entries: usize, page: &mut Scratch) {
    let largest = u32::try_from(entries.saturating_sub(1)).expect("a dictionary has a limit");
    let width = u32::BITS - largest.leading_zeros();
    page.push([u8::try_from(width).expect("at most 32")]);
    let Some((&first, rest)) = codes.split_first() else {
        return;
    };
    if rest.iter().all(|&code| code == first) {
        write_varint((codes.len() as u64) << 1, page);
        let bytes = width.div_ceil(8) as usize;
        page.push_start(&first.to_le_bytes(), bytes);
        return;
    }
    let groups = codes.len().div_ceil(8);
    write_varint((groups as u64) << 1 | 1, page);
    let end = page.len() + groups * width as usize;
    let (mut bits, mut held) = (0_u64, 0);
    for &code in codes {
        bits |= u64::from(code) << held;
        held += width;
        if held >= u32::BITS {
            page.push_start(&bits.to_le_bytes(), 4);
            bits >>= u32::BITS;
            held -= u32::BITS;
        }
    }
    // What is left, and zeros up to the end of the last group.
    while page.len() < end {
        page.push_start(&bits.to_le_bytes(), (end - page.len()).min(8));
        bits = 0;
    }
}

/// A text with its length in front, whose number of bytes is returned.
fn write_text(text: &[u8], page: &mut Scratch) -> i64 {
    let length = write_length(text.len(), page);
    page.extend(text);
    length
}

fn write_length(bytes: usize, page: &mut Scratch) -> i64 {
    let length = u32::try_from(bytes).expect("a batch has some megabytes");
    page.push(length.to_le_bytes());
    i64::from(length)
}

/// An unsigned LEB128.
fn write_varint(mut number: u64, page: &mut Scratch) {
    while number >= 0x80 {
        page.push([number.to_le_bytes()[0] | 0x80]);
        number >>= 7;
    }
    page.push([number.to_le_bytes()[0]]);
}

#[cfg(test)]
mod tests;
