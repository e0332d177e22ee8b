//! Converts records to Arrow batches of the lake's columns, and back.

use std::borrow::Cow;
use std::slice::{Iter, IterMut};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Date32Array, Decimal128Array, DictionaryArray,
    Int8Array, Int32Array, PrimitiveArray, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::{Date32Type, Decimal128Type, Int8Type, Int32Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::encode::intern::TextInterner;
use crate::cdr::amount::Amount;
use crate::cdr::columns::{COLUMNS, Kind, RowSink, RowSource, amount_type, schema};
use crate::cdr::decode::Record;
use crate::cdr::digest::day_number;
use crate::cdr::slice::{Direction, Slice};

/// Rows of a batch: enough to amortise its overhead, few enough for a processor's cache.
pub(super) const BATCH_ROWS: usize = 8192;
/// A batch with this much text is finished early: a row may have `limits.max_record_bytes`.
pub(super) const BATCH_TEXT_BYTES: usize = 4 << 20;

/// Builds a validity bitmap.
#[derive(Debug, Default)]
struct Validity {
    /// Complete words, for 64 values each.
    words: Vec<u64>,
    word: u64,
    length: usize,
}

impl Validity {
    #[inline]
    fn append(&mut self, is_valid: bool) {
        let bit = self.length % 64;
        self.word |= u64::from(is_valid) << bit;
        self.length += 1;
        if bit == 63 {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    /// `None` if no value is null.
    fn finish(&mut self) -> Option<NullBuffer> {
        let Self {
            mut words,
            word,
            length,
        } = std::mem::take(self);
        words.push(word);
        let nulls = NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(words), 0, length));
        (nulls.null_count() > 0).then_some(nulls)
    }
}

/// Builds a column of numbers.
#[derive(Debug)]
struct NumberBuilder<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    validity: Validity,
}

impl<T: ArrowPrimitiveType> Default for NumberBuilder<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            validity: Validity::default(),
        }
    }
}

impl<T: ArrowPrimitiveType> NumberBuilder<T> {
    #[inline]
    fn append(&mut self, value: Option<T::Native>) {
        self.validity.append(value.is_some());
        self.values.push(value.unwrap_or_default());
    }

    fn finish(&mut self) -> PrimitiveArray<T> {
        // The next batch is usually as long.
        let next = Vec::with_capacity(self.values.len());
        let values = std::mem::replace(&mut self.values, next);
        PrimitiveArray::new(values.into(), self.validity.finish())
    }
}

/// Builds a dictionary column. Keeps the dictionary over many batches.
#[derive(Debug, Default)]
struct DictionaryBuilder {
    codes: NumberBuilder<Int32Type>,
    dictionary: TextInterner,
}

impl DictionaryBuilder {
    fn append(&mut self, text: Option<&str>) {
        let code = text.map(|text| self.dictionary.intern(text).cast_signed());
        self.codes.append(code);
    }

    fn finish(&mut self) -> ArrayRef {
        let array = DictionaryArray::try_new(self.codes.finish(), self.dictionary.array());
        if self.dictionary.is_full() {
            self.dictionary = TextInterner::default();
        }
        Arc::new(array.expect("every code has its entry"))
    }
}

/// Finishes a column of strings and reserves the same capacity for the next batch.
fn finish_texts(builder: &mut StringBuilder) -> ArrayRef {
    let texts = builder.finish();
    *builder = StringBuilder::with_capacity(texts.len(), texts.value_data().len());
    Arc::new(texts)
}

/// Number of columns of these kinds.
const fn columns_of(kinds: &[Kind]) -> usize {
    let (mut column, mut count) = (0, 0);
    while column < COLUMNS.len() {
        let mut kind = 0;
        while kind < kinds.len() {
            if COLUMNS[column].kind as u8 == kinds[kind] as u8 {
                count += 1;
            }
            kind += 1;
        }
        column += 1;
    }
    count
}

const TEXTS: usize = columns_of(&[Kind::Id, Kind::PhoneNumber, Kind::Json]);
const NAMES: usize = columns_of(&[Kind::Name]);
const TIMES: usize = columns_of(&[Kind::Time]);
const SECONDS: usize = columns_of(&[Kind::Seconds]);
const AMOUNTS: usize = columns_of(&[Kind::Amount]);

/// The next column of its kind.
#[inline]
fn next<T>(columns: &mut impl Iterator<Item = T>) -> T {
    columns.next().expect("the table has as many")
}

/// Collects records of one slice into a batch. Memory: the rows since the last
/// [`finish`](Self::finish), and a dictionary of a few megabytes at most for each dictionary
/// column.
#[derive(Debug)]
pub struct BatchBuilder {
    slice: Slice,
    rows: usize,
    text_bytes: usize,
    // The columns of each kind, in their order.
    texts: [StringBuilder; TEXTS],
    names: [DictionaryBuilder; NAMES],
    times: [NumberBuilder<TimestampMicrosecondType>; TIMES],
    seconds: [NumberBuilder<Int32Type>; SECONDS],
    amounts: [NumberBuilder<Decimal128Type>; AMOUNTS],
}

impl BatchBuilder {
    /// A builder for rows of `slice`.
    pub fn new(slice: Slice) -> Self {
        Self {
            slice,
            rows: 0,
            text_bytes: 0,
            texts: Default::default(),
            names: Default::default(),
            times: Default::default(),
            seconds: Default::default(),
            amounts: Default::default(),
        }
    }

    /// Adds a row.
    pub fn append(&mut self, record: &Record<'_>) {
        record.write_to(&mut RowAppender {
            text_bytes: &mut self.text_bytes,
            texts: self.texts.iter_mut(),
            names: self.names.iter_mut(),
            times: self.times.iter_mut(),
            seconds: self.seconds.iter_mut(),
            amounts: self.amounts.iter_mut(),
        });
        self.rows += 1;
    }

    /// Rows since the last [`finish`](Self::finish).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of text since the last [`finish`](Self::finish).
    pub fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    /// Whether to call [`finish`](Self::finish): at 8,192 rows or 4 MiB of text.
    pub fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.text_bytes >= BATCH_TEXT_BYTES
    }

    /// Returns the batch and leaves the builder empty.
    pub fn finish(&mut self) -> RecordBatch {
        let (slice, rows) = (self.slice, std::mem::take(&mut self.rows));
        self.text_bytes = 0;
        let (mut texts, mut names) = (self.texts.iter_mut(), self.names.iter_mut());
        let (mut times, mut seconds) = (self.times.iter_mut(), self.seconds.iter_mut());
        let mut amounts = self.amounts.iter_mut();
        let columns = COLUMNS.iter().map(|column| -> ArrayRef {
            match column.kind {
                Kind::Id | Kind::PhoneNumber | Kind::Json => finish_texts(next(&mut texts)),
                Kind::Name => next(&mut names).finish(),
                Kind::Direction => directions(slice.direction, rows),
                Kind::Day => Arc::new(Date32Array::from_value(day_number(slice.day), rows)),
                Kind::Time => Arc::new(next(&mut times).finish().with_timezone("UTC")),
                Kind::Seconds => Arc::new(next(&mut seconds).finish()),
                Kind::Amount => {
                    let array = next(&mut amounts).finish();
                    Arc::new(array.with_data_type(amount_type()))
                }
            }
        });
        RecordBatch::try_new(schema(), columns.collect())
            .expect("the builders build the columns of the schema, all of the same length")
    }
}

/// A column with the same direction in every row.
fn directions(direction: Direction, rows: usize) -> ArrayRef {
    let names = StringArray::from_iter_values([direction.as_str()]);
    let codes = Int8Array::from_value(0, rows);
    Arc::new(DictionaryArray::<Int8Type>::new(codes, Arc::new(names)))
}

/// Appends the values of one row, column by column.
struct RowAppender<'b> {
    text_bytes: &'b mut usize,
    texts: IterMut<'b, StringBuilder>,
    names: IterMut<'b, DictionaryBuilder>,
    times: IterMut<'b, NumberBuilder<TimestampMicrosecondType>>,
    seconds: IterMut<'b, NumberBuilder<Int32Type>>,
    amounts: IterMut<'b, NumberBuilder<Decimal128Type>>,
}

impl RowSink for RowAppender<'_> {
    #[inline]
    fn text(&mut self, kind: Kind, text: Option<&str>) {
        *self.text_bytes += text.map_or(0, str::len);
        match kind {
            Kind::Name => next(&mut self.names).append(text),
            _ => next(&mut self.texts).append_option(text),
        }
    }

    #[inline]
    fn time(&mut self, time_us: i64) {
        next(&mut self.times).append(Some(time_us));
    }

    #[inline]
    fn seconds(&mut self, seconds: Option<i32>) {
        next(&mut self.seconds).append(seconds);
    }

    #[inline]
    fn amount(&mut self, amount: Option<Amount>) {
        next(&mut self.amounts).append(amount.map(|amount| i128::from(amount.nanos())));
    }

    // `finish` fills these columns.
    #[inline]
    fn direction(&mut self) {}
    #[inline]
    fn day(&mut self) {}
}

/// Reads records back from a batch: the reverse of [`BatchBuilder`].
#[derive(Debug, Default)]
pub(crate) struct Rows<'a> {
    count: usize,
    // The columns of each kind, in their order.
    texts: Vec<&'a StringArray>,
    times: Vec<&'a TimestampMicrosecondArray>,
    seconds: Vec<&'a Int32Array>,
    amounts: Vec<&'a Decimal128Array>,
}

impl<'a> Rows<'a> {
    /// The rows of `batch`, read from a file of `slice`.
    ///
    /// # Errors
    /// [`ArrowError::SchemaError`] if a column is missing or has another type,
    /// [`ArrowError::InvalidArgumentError`] if a row belongs to another slice.
    pub(crate) fn try_new(batch: &'a RecordBatch, slice: Slice) -> Result<Self, ArrowError> {
        let mut rows = Self {
            count: batch.num_rows(),
            ..Self::default()
        };
        let mut is_of_slice = true;
        for column in COLUMNS {
            let found = batch.column_by_name(column.name);
            let found = found.filter(|array| *array.data_type() == column.kind.file_type());
            let array = found.ok_or_else(|| {
                let name = column.name;
                ArrowError::SchemaError(format!("no column `{name}` of the lake's type"))
            })?;
            match column.kind {
                Kind::Direction => {
                    let name = Some(slice.direction.as_str());
                    is_of_slice &= array.as_string::<i32>().iter().all(|found| found == name);
                }
                Kind::Day => {
                    let day = Some(day_number(slice.day));
                    let days = array.as_primitive::<Date32Type>();
                    is_of_slice &= days.iter().all(|found| found == day);
                }
                Kind::Id | Kind::PhoneNumber | Kind::Name | Kind::Json => {
                    rows.texts.push(array.as_string());
                }
                Kind::Time => rows.times.push(array.as_primitive()),
                Kind::Seconds => rows.seconds.push(array.as_primitive()),
                Kind::Amount => rows.amounts.push(array.as_primitive()),
            }
        }
        if !is_of_slice {
            let problem = format!("it holds rows of another slice than {slice}");
            return Err(ArrowError::InvalidArgumentError(problem));
        }
        Ok(rows)
    }

    /// Every row, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Record<'a>> + '_ {
        (0..self.count).map(|row| {
            Record::read_from(&mut RowReader {
                row,
                texts: self.texts.iter(),
                times: self.times.iter(),
                seconds: self.seconds.iter(),
                amounts: self.amounts.iter(),
            })
        })
    }
}

/// Reads the values of one row, column by column.
struct RowReader<'r, 'a> {
    row: usize,
    texts: Iter<'r, &'a StringArray>,
    times: Iter<'r, &'a TimestampMicrosecondArray>,
    seconds: Iter<'r, &'a Int32Array>,
    amounts: Iter<'r, &'a Decimal128Array>,
}

impl<'a> RowSource<'a> for RowReader<'_, 'a> {
    fn text(&mut self) -> Option<Cow<'a, str>> {
        let texts = *next(&mut self.texts);
        let is_valid = texts.is_valid(self.row);
        is_valid.then(|| Cow::Borrowed(texts.value(self.row)))
    }

    fn time(&mut self) -> i64 {
        next(&mut self.times).value(self.row)
    }

    fn seconds(&mut self) -> Option<i32> {
        let seconds = next(&mut self.seconds);
        seconds.is_valid(self.row).then(|| seconds.value(self.row))
    }

    fn amount(&mut self) -> Option<Amount> {
        let amounts = next(&mut self.amounts);
        let is_valid = amounts.is_valid(self.row);
        is_valid.then(|| {
            let nanos = i64::try_from(amounts.value(self.row));
            Amount::from_nanos(nanos.expect("eighteen digits fit 64 bits"))
        })
    }
}
