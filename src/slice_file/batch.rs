//! Converts records to Arrow batches of the lake's columns, and back.

use std::borrow::Cow;
use std::slice::{Iter, IterMut};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Date32Array, Decimal128Array, DictionaryArray,
    Int8Array, Int32Array, PrimitiveArray, StringArray, TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{Date32Type, Decimal128Type, Int8Type, Int32Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::encode::intern::TextInterner;
use crate::cdr::amount::Amount;
use crate::cdr::columns::{COLUMNS, Kind, RowSink, RowSource, amount_type, schema};
use crate::cdr::day::day_number;
use crate::cdr::decode::Record;
use crate::cdr::period::PeriodUnit;
use crate::cdr::slice::{Direction, Slice};

/// Rows of a batch: enough to amortise its overhead, few enough for a processor's cache.
pub(super) const BATCH_ROWS: usize = 8192;
/// A batch with this much text is finished early: a row may have `limits.max_record_bytes`.
pub(super) const BATCH_TEXT_BYTES: usize = 4 << 20;

/// Collects which values of a column are null. Costs nothing for the other values.
#[derive(Debug, Default)]
struct Nulls {
    /// A bit for each value, set for nulls. Ends with the word of the last null.
    words: Vec<u64>,
}

impl Nulls {
    #[inline]
    fn add(&mut self, row: usize) {
        let word = row / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (row % 64);
    }

    /// The validity bitmap of `rows` values, `None` if no value is null.
    fn finish(&mut self, rows: usize) -> Option<NullBuffer> {
        if self.words.is_empty() {
            return None;
        }
        let mut words = std::mem::take(&mut self.words);
        words.resize(rows.div_ceil(64), 0);
        for word in &mut words {
            *word = !*word;
        }
        // Bits behind the last row stay zero, as readers expect of padding.
        if let (Some(last), 1..) = (words.last_mut(), rows % 64) {
            *last &= (1 << (rows % 64)) - 1;
        }
        let bits = BooleanBuffer::new(Buffer::from_vec(words), 0, rows);
        Some(NullBuffer::new(bits))
    }
}

/// Builds a column of numbers.
#[derive(Debug)]
struct NumberBuilder<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    nulls: Nulls,
}

impl<T: ArrowPrimitiveType> Default for NumberBuilder<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            nulls: Nulls::default(),
        }
    }
}

impl<T: ArrowPrimitiveType> NumberBuilder<T> {
    #[inline]
    fn append(&mut self, value: Option<T::Native>) {
        if value.is_none() {
            self.nulls.add(self.values.len());
        }
        self.values.push(value.unwrap_or_default());
    }

    fn finish(&mut self) -> PrimitiveArray<T> {
        // The next batch is usually as long.
        let next = Vec::with_capacity(self.values.len());
        let values = std::mem::replace(&mut self.values, next);
        let nulls = self.nulls.finish(values.len());
        PrimitiveArray::new(values.into(), nulls)
    }
}

/// Builds a column of texts.
#[derive(Debug)]
struct TextBuilder {
    text: String,
    /// 0, and the end of each value.
    offsets: Vec<i32>,
    nulls: Nulls,
}

impl Default for TextBuilder {
    fn default() -> Self {
        Self::with_capacity(0, 0)
    }
}

impl TextBuilder {
    fn with_capacity(rows: usize, text_bytes: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self {
            text: String::with_capacity(text_bytes),
            offsets,
            nulls: Nulls::default(),
        }
    }

    #[expect(clippy::inline_always, reason = "a call would take as long")]
    #[inline(always)]
    fn append(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text.push_str(text),
            None => self.nulls.add(self.offsets.len() - 1),
        }
        let end = i32::try_from(self.text.len()).expect("a batch has some megabytes");
        self.offsets.push(end);
    }

    fn finish(&mut self) -> StringArray {
        let rows = self.offsets.len() - 1;
        // The next batch is usually as long.
        let next = Self::with_capacity(rows, self.text.len());
        let Self {
            text,
            offsets,
            mut nulls,
        } = std::mem::replace(self, next);
        #[expect(
            unsafe_code,
            reason = "checking every text again takes 50 instructions per row"
        )]
        // SAFETY: `text` is UTF-8, and each offset was its length at some time, in this order. So
        // offsets do not decrease, and lie between characters.
        unsafe {
            let offsets = OffsetBuffer::new_unchecked(offsets.into());
            StringArray::new_unchecked(offsets, text.into_bytes().into(), nulls.finish(rows))
        }
    }
}

/// Builds a dictionary column. Keeps the dictionary over many batches.
#[derive(Debug, Default)]
struct DictionaryBuilder {
    codes: NumberBuilder<Int32Type>,
    dictionary: TextInterner,
}

impl DictionaryBuilder {
    #[expect(clippy::inline_always, reason = "a call would take as long")]
    #[inline(always)]
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
    texts: [TextBuilder; TEXTS],
    names: [DictionaryBuilder; NAMES],
    times: [NumberBuilder<TimestampMicrosecondType>; TIMES],
    seconds: [NumberBuilder<Int32Type>; SECONDS],
    amounts: [NumberBuilder<Decimal128Type>; AMOUNTS],
    /// The day of each row, if the slice has several.
    days: NumberBuilder<Date32Type>,
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
            days: NumberBuilder::default(),
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
        if self.slice.period.unit() == PeriodUnit::Month {
            let first = || day_number(self.slice.period.first_day());
            self.days
                .append(Some(record.source_day.unwrap_or_else(first)));
        }
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
        let (mut amounts, days) = (self.amounts.iter_mut(), &mut self.days);
        let columns = COLUMNS.iter().map(|column| -> ArrayRef {
            match column.kind {
                Kind::Id | Kind::PhoneNumber | Kind::Json => Arc::new(next(&mut texts).finish()),
                Kind::Name => next(&mut names).finish(),
                Kind::Direction => directions(slice.direction, rows),
                Kind::Day => match slice.period.unit() {
                    PeriodUnit::Day => {
                        let day = day_number(slice.period.first_day());
                        Arc::new(Date32Array::from_value(day, rows))
                    }
                    PeriodUnit::Month => Arc::new(days.finish()),
                },
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
    texts: IterMut<'b, TextBuilder>,
    names: IterMut<'b, DictionaryBuilder>,
    times: IterMut<'b, NumberBuilder<TimestampMicrosecondType>>,
    seconds: IterMut<'b, NumberBuilder<Int32Type>>,
    amounts: IterMut<'b, NumberBuilder<Decimal128Type>>,
}

impl RowSink for RowAppender<'_> {
    #[expect(
        clippy::inline_always,
        reason = "the kind is constant, and the places become so"
    )]
    #[inline(always)]
    fn text(&mut self, kind: Kind, text: Option<&str>) {
        *self.text_bytes += text.map_or(0, str::len);
        match kind {
            Kind::Name => next(&mut self.names).append(text),
            _ => next(&mut self.texts).append(text),
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

    #[expect(clippy::inline_always, reason = "its place becomes constant")]
    #[inline(always)]
    fn amount(&mut self, amount: Option<Amount>) {
        next(&mut self.amounts).append(amount.map(|amount| i128::from(amount.nanos())));
    }

    // The builder fills these columns.
    #[inline]
    fn direction(&mut self) {}
    #[inline]
    fn day(&mut self, _: Option<i32>) {}
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
    /// If the slice has several days.
    days: Option<&'a Date32Array>,
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
                    let days = array.as_primitive::<Date32Type>();
                    let [first, last] = [slice.period.first_day(), slice.period.last_day()];
                    let of_slice = Some(day_number(first))..=Some(day_number(last));
                    is_of_slice &= days.iter().all(|found| of_slice.contains(&found));
                    let has_several = slice.period.unit() == PeriodUnit::Month;
                    rows.days = has_several.then_some(days);
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
        (0..self.count).map(|row| self.record(row))
    }

    /// The row of this number.
    pub(crate) fn record(&self, row: usize) -> Record<'a> {
        Record::read_from(&mut RowReader {
            row,
            texts: self.texts.iter(),
            times: self.times.iter(),
            seconds: self.seconds.iter(),
            amounts: self.amounts.iter(),
            days: self.days,
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
    days: Option<&'a Date32Array>,
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

    fn day(&mut self) -> Option<i32> {
        self.days.map(|days| days.value(self.row))
    }
}
