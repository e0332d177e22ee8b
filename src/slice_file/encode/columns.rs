//! Encodes arrays as pages of a column chunk.

use arrow::array::{Array, AsArray, StringArray};
use arrow::datatypes::{ArrowNativeType, DataType, Int8Type, Int32Type};
use parquet::basic::{Encoding, Type};
use parquet::column::page::{CompressedPage, Page, PageWriteSpec, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{
    ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats,
};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use super::PageBuffers;
use super::blocks::{Blocks, Chunk};
use super::bounds::{Bounds, TextBounds, narrow};
use super::intern::{MAX_DICTIONARY_ENTRIES, NumberInterner};
use super::scratch::Scratch;
use super::values::{extend_valid, numbers_of, write_codes, write_levels};
use crate::cdr::columns::Kind;

/// The dictionary of a column chunk.
enum Dictionary {
    /// The column has none.
    None,
    Numbers(NumberInterner),
    /// The dictionary of the latest batch. Each batch may extend it.
    Texts(Option<StringArray>),
}

/// Encodes a column chunk.
pub(super) struct ColumnEncoder {
    descriptor: ColumnDescPtr,
    kind: Kind,
    dictionary: Dictionary,
    /// Data pages with their headers.
    pages: TrackedWrite<Blocks>,
    uncompressed_bytes: i64,
    rows: usize,
    nulls: u64,
    bounds: Bounds,
    /// Number of pages of each kind.
    page_kinds: Vec<PageEncodingStats>,
    column_index: ColumnIndexBuilder,
    offset_index: OffsetIndexBuilder,
    /// Bytes of text in the data, for columns of text.
    text_bytes: Option<i64>,
}

impl ColumnEncoder {
    pub(super) fn new(descriptor: &ColumnDescPtr, kind: Kind) -> Self {
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

    /// Takes the encoded pages and leaves the encoder empty.
    pub(super) fn take(&mut self) -> Self {
        let fresh = Self::new(&self.descriptor, self.kind);
        std::mem::replace(self, fresh)
    }

    /// Encoded bytes so far.
    pub(super) fn encoded_bytes(&self) -> usize {
        self.pages.bytes_written()
    }

    /// Encodes an array as a page.
    pub(super) fn write(&mut self, array: &dyn Array, buffers: &mut PageBuffers) -> Result<()> {
        buffers.page.clear();
        if self.descriptor.max_def_level() > 0 {
            write_levels(array, &mut buffers.page);
        }
        let (encoding, bounds, text_bytes) = self.write_values(array, buffers);
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

        let compressed = buffers.codec.compress(buffers.page.as_slice(), self.kind)?;
        let page = Page::DataPage {
            buf: compressed,
            num_values: u32::try_from(array.len()).expect("a batch has thousands of rows"),
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let page = CompressedPage::new(page, buffers.page.len());
        let written = SerializedPageWriter::new(&mut self.pages).write_page(page)?;
        self.count_page(&written, encoding);
        self.offset_index.append_row_count(signed(array.len()));
        let bytes = i32::try_from(written.bytes_written)
            .map_err(|_| ParquetError::General("a page is larger than 2 GiB".to_owned()))?;
        self.offset_index
            .append_offset_and_size(written.offset.cast_signed(), bytes);
        self.offset_index
            .append_unencoded_byte_array_data_bytes(self.text_bytes.map(|_| text_bytes));
        Ok(())
    }

    /// Counts a written page.
    fn count_page(&mut self, written: &PageWriteSpec, encoding: Encoding) {
        // Includes the header.
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
    fn write_values(
        &mut self,
        array: &dyn Array,
        buffers: &mut PageBuffers,
    ) -> (Encoding, Bounds, i64) {
        match array.data_type() {
            DataType::Utf8 => write_plain_texts(array.as_string(), buffers),
            DataType::Dictionary(keys, _) => {
                buffers.codes.clear();
                if **keys == DataType::Int8 {
                    let array = array.as_dictionary::<Int8Type>();
                    let code = |key: i8| u32::from(key.cast_unsigned());
                    extend_valid(
                        &mut buffers.codes,
                        array.keys().values(),
                        array.nulls(),
                        code,
                    );
                    self.write_coded(array.values().as_string(), buffers)
                } else {
                    let array = array.as_dictionary::<Int32Type>();
                    let keys = array.keys().values();
                    extend_valid(&mut buffers.codes, keys, array.nulls(), i32::cast_unsigned);
                    self.write_coded(array.values().as_string(), buffers)
                }
            }
            _ => self.write_numbers(array, buffers),
        }
    }

    /// Encodes texts of a dictionary. `buffers.codes` has their codes.
    fn write_coded(
        &mut self,
        texts: &StringArray,
        buffers: &mut PageBuffers,
    ) -> (Encoding, Bounds, i64) {
        let (bounds, text_bytes) = measure_coded(texts, &buffers.codes);
        let Dictionary::Texts(dictionary) = &mut self.dictionary else {
            unreachable!("dictionary columns of text have such a dictionary");
        };
        // A dictionary that became too large was replaced, and its codes have another meaning.
        let continues = dictionary
            .as_ref()
            .is_none_or(|earlier| begins_with(texts, earlier));
        if continues {
            *dictionary = Some(texts.clone());
            write_codes(&buffers.codes, texts.len(), &mut buffers.page);
            return (Encoding::RLE_DICTIONARY, bounds, text_bytes);
        }
        for &code in &buffers.codes {
            let text = texts.value(code as usize).as_bytes();
            buffers.page.push_text(text, 0, text.len());
        }
        (Encoding::PLAIN, bounds, text_bytes)
    }

    fn write_numbers(
        &mut self,
        array: &dyn Array,
        buffers: &mut PageBuffers,
    ) -> (Encoding, Bounds, i64) {
        let numbers = numbers_of(array);
        let bounds = Bounds::of_numbers(numbers.iter().copied());
        if let Dictionary::Numbers(dictionary) = &mut self.dictionary
            && dictionary.len() <= MAX_DICTIONARY_ENTRIES
        {
            buffers.codes.clear();
            buffers
                .codes
                .extend(numbers.iter().map(|&number| dictionary.intern(number)));
            write_codes(&buffers.codes, dictionary.len(), &mut buffers.page);
            return (Encoding::RLE_DICTIONARY, bounds, 0);
        }
        self.write_plain_numbers(&numbers, &mut buffers.page);
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

    /// The chunk, dictionary first, and its metadata for the footer.
    pub(super) fn close(mut self, buffers: &mut PageBuffers) -> Result<(Chunk, ColumnCloseResult)> {
        let mut dictionary = TrackedWrite::new(Blocks::default());
        let dictionary_bytes = self.write_dictionary(&mut dictionary, buffers)?;
        let mut chunk = dictionary.into_inner()?;
        let data_bytes = self.pages.bytes_written();
        chunk.append(self.pages.into_inner()?);
        let chunk_bytes = dictionary_bytes + data_bytes;
        let mut offset_index = self.offset_index.build();
        for location in &mut offset_index.page_locations {
            location.offset += signed(dictionary_bytes);
        }
        let physical_type = self.descriptor.physical_type();
        let encodings = self.page_kinds.iter().map(|kind| kind.encoding);
        // For the definition levels.
        let encodings = encodings.chain([Encoding::RLE]).collect();
        let metadata = ColumnChunkMetaData::builder(self.descriptor)
            .set_compression(buffers.codec.compression())
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
        Ok((chunk.into(), close))
    }

    /// Writes the dictionary page, if there is one. Returns its length including the header.
    fn write_dictionary(
        &mut self,
        chunk: &mut TrackedWrite<Blocks>,
        buffers: &mut PageBuffers,
    ) -> Result<usize> {
        let is_coded = |kind: &PageEncodingStats| kind.encoding == Encoding::RLE_DICTIONARY;
        if !self.page_kinds.iter().any(is_coded) {
            return Ok(0);
        }
        buffers.page.clear();
        let entries = match std::mem::replace(&mut self.dictionary, Dictionary::None) {
            Dictionary::Numbers(dictionary) => {
                self.write_plain_numbers(dictionary.values(), &mut buffers.page);
                dictionary.len()
            }
            Dictionary::Texts(texts) => {
                texts.map_or(0, |texts| write_entries(&texts, &mut buffers.page))
            }
            Dictionary::None => 0,
        };
        let page = Page::DictionaryPage {
            buf: buffers.codec.compress(buffers.page.as_slice(), self.kind)?,
            num_values: u32::try_from(entries).expect("a dictionary has a limit"),
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        let page = CompressedPage::new(page, buffers.page.len());
        let written = SerializedPageWriter::new(chunk).write_page(page)?;
        self.count_page(&written, Encoding::PLAIN);
        Ok(chunk.bytes_written())
    }
}

/// Bounds and bytes of texts with these codes.
fn measure_coded(texts: &StringArray, codes: &[u32]) -> (Bounds, i64) {
    let mut counts = vec![0_u32; texts.len()];
    for &code in codes {
        counts[code as usize] += 1;
    }
    let bytes_of = |code: usize| i64::from(counts[code]) * i64::from(texts.value_length(code));
    let text_bytes = (0..texts.len()).map(bytes_of).sum();
    let used = (0..texts.len()).filter(|&code| counts[code] > 0);
    let bounds: TextBounds<'_> = used.map(|code| texts.value(code).as_bytes()).collect();
    (bounds.into(), text_bytes)
}

/// The entries of a dictionary page. Returns their number.
fn write_entries(texts: &StringArray, page: &mut Scratch) -> usize {
    for text in texts.iter().flatten() {
        page.push_text(text.as_bytes(), 0, text.len());
    }
    texts.len()
}

/// Encodes texts without a dictionary.
fn write_plain_texts(array: &StringArray, buffers: &mut PageBuffers) -> (Encoding, Bounds, i64) {
    let (offsets, data) = (array.value_offsets(), array.value_data());
    let mut bounds = TextBounds::default();
    let start = buffers.page.len();
    let mut rows = array.len();
    if let Some(nulls) = array.nulls() {
        rows -= nulls.null_count();
        for row in nulls.valid_indices() {
            let (start, end) = (offsets[row].as_usize(), offsets[row + 1].as_usize());
            buffers.page.push_text(data, start, end);
            bounds.add(&data[start..end]);
        }
    } else {
        for (start, end) in offsets.iter().zip(&offsets[1..]) {
            let (start, end) = (start.as_usize(), end.as_usize());
            buffers.page.push_text(data, start, end);
            bounds.add(&data[start..end]);
        }
    }
    let text_bytes = buffers.page.len() - start - rows * size_of::<u32>();
    (Encoding::PLAIN, bounds.into(), signed(text_bytes))
}

/// Whether `texts` begins with all of `earlier`.
fn begins_with(texts: &StringArray, earlier: &StringArray) -> bool {
    // Usually both are the same array.
    texts.value_data().as_ptr() == earlier.value_data().as_ptr()
        || (texts.len() >= earlier.len() && texts.slice(0, earlier.len()) == *earlier)
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).expect("no length in memory exceeds i64")
}
