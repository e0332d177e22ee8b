//! From records to Arrow batches of the lake's columns, and back.

use std::borrow::Cow;
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
use crate::cdr::columns::{amount_type, schema};
use crate::cdr::decode::Record;
use crate::cdr::digest::day_number;
use crate::cdr::slice::Slice;

/// Which values are there.
#[derive(Debug, Default)]
struct Validity {
    /// Whole words of 64 values.
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

    /// `None` if all are there.
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

/// Numbers of a column.
#[derive(Debug)]
struct Numbers<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    validity: Validity,
}

impl<T: ArrowPrimitiveType> Default for Numbers<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            validity: Validity::default(),
        }
    }
}

impl<T: ArrowPrimitiveType> Numbers<T> {
    #[inline]
    fn append(&mut self, value: Option<T::Native>) {
        self.validity.append(value.is_some());
        self.values.push(value.unwrap_or_default());
    }

    fn finish(&mut self) -> PrimitiveArray<T> {
        // The next batch is mostly as long.
        let next = Vec::with_capacity(self.values.len());
        let values = std::mem::replace(&mut self.values, next);
        PrimitiveArray::new(values.into(), self.validity.finish())
    }
}

/// Texts of a column in which few are expected: their codes, and a dictionary that lasts for many batches.
#[derive(Debug, Default)]
struct CodedTexts {
    codes: Numbers<Int32Type>,
    dictionary: TextInterner,
}

impl CodedTexts {
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

/// The texts, leaving room for as many: the next batch is mostly as large.
fn finish_texts(builder: &mut StringBuilder) -> ArrayRef {
    let texts = builder.finish();
    *builder = StringBuilder::with_capacity(texts.len(), texts.value_data().len());
    Arc::new(texts)
}

/// Collects records of one slice into a batch. Memory: the rows since the last
/// [`finish`](Self::finish), and a dictionary of at most some megabytes for each column that repeats.
#[derive(Debug)]
pub struct BatchBuilder {
    slice: Slice,
    rows: usize,
    call_id: StringBuilder,
    parent_call_id: StringBuilder,
    call_time: Numbers<TimestampMicrosecondType>,
    from_number: StringBuilder,
    to_number: StringBuilder,
    disposition: CodedTexts,
    destination: CodedTexts,
    sip_trunk: CodedTexts,
    answered_by: CodedTexts,
    duration_seconds: Numbers<Int32Type>,
    per_minute_usd: Numbers<Decimal128Type>,
    charge_usd: Numbers<Decimal128Type>,
    forward_fee_usd: Numbers<Decimal128Type>,
    extra: StringBuilder,
    bytes: usize,
}

impl BatchBuilder {
    /// A builder for rows of `slice`.
    pub fn new(slice: Slice) -> Self {
        Self {
            slice,
            rows: 0,
            call_id: StringBuilder::new(),
            parent_call_id: StringBuilder::new(),
            call_time: Numbers::default(),
            from_number: StringBuilder::new(),
            to_number: StringBuilder::new(),
            disposition: CodedTexts::default(),
            destination: CodedTexts::default(),
            sip_trunk: CodedTexts::default(),
            answered_by: CodedTexts::default(),
            duration_seconds: Numbers::default(),
            per_minute_usd: Numbers::default(),
            charge_usd: Numbers::default(),
            forward_fee_usd: Numbers::default(),
            extra: StringBuilder::new(),
            bytes: 0,
        }
    }

    /// Adds a row.
    pub fn append(&mut self, record: &Record<'_>) {
        let mut text = |builder: &mut StringBuilder, value: &Option<Cow<'_, str>>| {
            self.bytes += value.as_deref().map_or(0, str::len);
            builder.append_option(value.as_deref());
        };
        text(&mut self.call_id, &record.call_id);
        text(&mut self.parent_call_id, &record.parent_call_id);
        text(&mut self.from_number, &record.from_number);
        text(&mut self.to_number, &record.to_number);
        text(&mut self.extra, &record.extra);
        let mut coded = |texts: &mut CodedTexts, value: &Option<Cow<'_, str>>| {
            self.bytes += value.as_deref().map_or(0, str::len);
            texts.append(value.as_deref());
        };
        coded(&mut self.disposition, &record.disposition);
        coded(&mut self.destination, &record.destination);
        coded(&mut self.sip_trunk, &record.sip_trunk);
        coded(&mut self.answered_by, &record.answered_by);
        self.call_time.append(Some(record.call_time_us));
        self.duration_seconds.append(record.duration_seconds);
        let nanos = |amount: Option<Amount>| amount.map(|amount| i128::from(amount.nanos()));
        self.per_minute_usd.append(nanos(record.per_minute_usd));
        self.charge_usd.append(nanos(record.charge_usd));
        self.forward_fee_usd.append(nanos(record.forward_fee_usd));
        self.rows += 1;
    }

    /// Rows since the last [`finish`](Self::finish).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of text since the last [`finish`](Self::finish): what makes a batch of few rows large.
    pub fn text_bytes(&self) -> usize {
        self.bytes
    }

    /// The batch, leaving the builder empty.
    pub fn finish(&mut self) -> RecordBatch {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let direction = StringArray::from_iter_values([self.slice.direction.as_str()]);
        let direction =
            DictionaryArray::<Int8Type>::new(Int8Array::from_value(0, rows), Arc::new(direction));
        let columns: Vec<ArrayRef> = vec![
            finish_texts(&mut self.call_id),
            finish_texts(&mut self.parent_call_id),
            Arc::new(direction),
            Arc::new(Date32Array::from_value(day_number(self.slice.day), rows)),
            Arc::new(self.call_time.finish().with_timezone("UTC")),
            finish_texts(&mut self.from_number),
            finish_texts(&mut self.to_number),
            self.disposition.finish(),
            self.destination.finish(),
            self.sip_trunk.finish(),
            self.answered_by.finish(),
            Arc::new(self.duration_seconds.finish()),
            Arc::new(self.per_minute_usd.finish().with_data_type(amount_type())),
            Arc::new(self.charge_usd.finish().with_data_type(amount_type())),
            Arc::new(self.forward_fee_usd.finish().with_data_type(amount_type())),
            finish_texts(&mut self.extra),
        ];
        RecordBatch::try_new(schema(), columns)
            .expect("the builders make the columns of the schema, all equally long")
    }
}

/// Reads records back from a batch of a lake's file: the reverse of [`BatchBuilder`].
#[derive(Debug)]
pub struct Rows<'a> {
    count: usize,
    call_id: &'a StringArray,
    parent_call_id: &'a StringArray,
    call_time: &'a TimestampMicrosecondArray,
    from_number: &'a StringArray,
    to_number: &'a StringArray,
    disposition: &'a StringArray,
    destination: &'a StringArray,
    sip_trunk: &'a StringArray,
    answered_by: &'a StringArray,
    duration_seconds: &'a Int32Array,
    per_minute_usd: &'a Decimal128Array,
    charge_usd: &'a Decimal128Array,
    forward_fee_usd: &'a Decimal128Array,
    extra: &'a StringArray,
}

impl<'a> Rows<'a> {
    /// The rows of `batch`, which was read from a file of `slice`.
    ///
    /// # Errors
    /// [`ArrowError::SchemaError`] if a column is missing or has another type, or a row is of another
    /// slice.
    pub fn try_new(batch: &'a RecordBatch, slice: Slice) -> Result<Self, ArrowError> {
        let wrong =
            |name: &str| ArrowError::SchemaError(format!("no column `{name}` of the lake's type"));
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| wrong(name));
        let text = |name: &str| {
            column(name)?
                .as_string_opt::<i32>()
                .ok_or_else(|| wrong(name))
        };
        let usd = |name: &str| {
            let array = column(name)?.as_primitive_opt::<Decimal128Type>();
            array
                .filter(|array| *array.data_type() == amount_type())
                .ok_or_else(|| wrong(name))
        };
        let directions = text("direction")?;
        let days = column("source_day")?
            .as_primitive_opt::<Date32Type>()
            .ok_or_else(|| wrong("source_day"))?;
        let day = day_number(slice.day);
        let is_of_slice = days.null_count() == 0
            && directions.null_count() == 0
            && days.values().iter().all(|&found| found == day)
            && directions
                .iter()
                .flatten()
                .all(|found| found == slice.direction.as_str());
        if !is_of_slice {
            let problem = format!("it holds rows of another slice than {slice}");
            return Err(ArrowError::InvalidArgumentError(problem));
        }
        Ok(Self {
            count: batch.num_rows(),
            call_id: text("call_id")?,
            parent_call_id: text("parent_call_id")?,
            call_time: column("call_time")?
                .as_primitive_opt::<TimestampMicrosecondType>()
                .ok_or_else(|| wrong("call_time"))?,
            from_number: text("from_number")?,
            to_number: text("to_number")?,
            disposition: text("disposition")?,
            destination: text("destination")?,
            sip_trunk: text("sip_trunk")?,
            answered_by: text("answered_by")?,
            duration_seconds: column("duration_seconds")?
                .as_primitive_opt::<Int32Type>()
                .ok_or_else(|| wrong("duration_seconds"))?,
            per_minute_usd: usd("per_minute_usd")?,
            charge_usd: usd("charge_usd")?,
            forward_fee_usd: usd("forward_fee_usd")?,
            extra: text("extra")?,
        })
    }

    /// Every row, in order.
    pub fn iter(&self) -> impl Iterator<Item = Record<'a>> + '_ {
        (0..self.count).map(|row| self.record(row))
    }

    fn record(&self, row: usize) -> Record<'a> {
        let text =
            |array: &'a StringArray| array.is_valid(row).then(|| Cow::Borrowed(array.value(row)));
        let usd = |array: &Decimal128Array| {
            let nanos = array
                .is_valid(row)
                .then(|| i64::try_from(array.value(row)))?;
            Some(Amount::from_nanos(
                nanos.expect("eighteen digits fit 64 bits"),
            ))
        };
        Record {
            call_id: text(self.call_id),
            parent_call_id: text(self.parent_call_id),
            call_time_us: self.call_time.value(row),
            from_number: text(self.from_number),
            to_number: text(self.to_number),
            disposition: text(self.disposition),
            destination: text(self.destination),
            sip_trunk: text(self.sip_trunk),
            answered_by: text(self.answered_by),
            duration_seconds: self
                .duration_seconds
                .is_valid(row)
                .then(|| self.duration_seconds.value(row)),
            per_minute_usd: usd(self.per_minute_usd),
            charge_usd: usd(self.charge_usd),
            forward_fee_usd: usd(self.forward_fee_usd),
            extra: text(self.extra),
        }
    }
}
