//! Slices as lines of JSON, for people.

use std::io::{self, BufWriter, Write};

use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use jiff::Timestamp;

use crate::cdr::amount::Amount;
use crate::cdr::columns::{COLUMNS, Column, Kind, RowSink};
use crate::cdr::day::date_of;
use crate::cdr::slice::Slice;
use crate::slice_file::batch::Rows;

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Writes each row as a line: an object with all columns in their order. Amounts are texts, so that
/// no reader makes binary fractions of them. `extra` is the object that it holds.
pub(super) struct JsonOutput<W: Write> {
    output: BufWriter<W>,
    line: Vec<u8>,
}

impl<W: Write> JsonOutput<W> {
    pub(super) fn new(output: W) -> Self {
        Self {
            output: BufWriter::with_capacity(BUFFER_BYTES, output),
            line: Vec::new(),
        }
    }

    /// Writes rows of `slice`.
    pub(super) fn batch(&mut self, slice: Slice, batch: &RecordBatch) -> Result<(), ArrowError> {
        let rows = Rows::try_new(batch, slice)?;
        for record in rows.iter() {
            self.line.clear();
            record.write_to(&mut JsonRow {
                line: &mut self.line,
                slice,
                columns: COLUMNS.iter(),
            });
            self.line.extend(b"}\n");
            self.output.write_all(&self.line)?;
        }
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// Writes the values of one row, column by column.
struct JsonRow<'b> {
    line: &'b mut Vec<u8>,
    slice: Slice,
    columns: std::slice::Iter<'b, Column>,
}

impl JsonRow<'_> {
    fn begin_value(&mut self) {
        let column = self.columns.next().expect("a row has as many values");
        let separator = if self.line.is_empty() { '{' } else { ',' };
        self.add(format_args!("{separator}\"{}\":", column.name));
    }

    fn add(&mut self, text: std::fmt::Arguments<'_>) {
        self.line
            .write_fmt(text)
            .expect("writing to memory does not fail");
    }

    /// A value of plain characters, in quotes.
    fn quoted(&mut self, value: Option<impl std::fmt::Display>) {
        self.begin_value();
        match value {
            Some(value) => self.add(format_args!("\"{value}\"")),
            None => self.line.extend(b"null"),
        }
    }
}

impl RowSink for JsonRow<'_> {
    fn text(&mut self, kind: Kind, text: Option<&str>) {
        self.begin_value();
        match (kind, text) {
            // The decoder has written it in one line.
            (Kind::Json, Some(object)) => self.line.extend(object.as_bytes()),
            _ => serde_json::to_writer(&mut *self.line, &text)
                .expect("writing to memory does not fail"),
        }
    }

    fn time(&mut self, time_us: i64) {
        let time = Timestamp::from_microsecond(time_us).ok();
        self.quoted(time);
    }

    fn seconds(&mut self, seconds: Option<i32>) {
        self.begin_value();
        match seconds {
            Some(seconds) => self.add(format_args!("{seconds}")),
            None => self.line.extend(b"null"),
        }
    }

    fn amount(&mut self, amount: Option<Amount>) {
        self.quoted(amount);
    }

    fn direction(&mut self) {
        self.quoted(Some(self.slice.direction));
    }

    fn day(&mut self, day: Option<i32>) {
        let day = day.map_or(self.slice.period.first_day(), date_of);
        self.quoted(Some(day));
    }
}

#[cfg(test)]
mod tests;
