//! Rows of CSV become the JSON objects that they would be, so that there is one definition of what a
//! record means.
//!
//! The export's header line is not documented, so columns are known by name, in any case and order: `date`,
//! `Date`, `Call ID`, `call-id` and `callId` are all understood. An empty cell is a field that is absent;
//! a column without a field of its own is kept in `extra`, under its name as it stands.

use std::io::Write;

use super::field::Field;
use super::{Reason, Refusal, decode};
use crate::framing::{Cells, MAX_CELLS};

/// The first line of CSV is no header of call detail records. The texts quote nothing: without a header
/// that line is a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// No column for the one field that every record has.
    #[error(
        "the first line of the CSV names no column `date` (of its {columns} columns, separated by commas, {known} are known), so it is no header of call detail records{}",
        if *columns == 1 { ". Is it separated by something else than commas?" } else { "" }
    )]
    NoDate {
        /// Columns there are.
        columns: usize,
        /// Those among them that stand for a field.
        known: usize,
    },
    /// No column for what a bill is made of: null in every row, it would look like calls that cost nothing.
    #[error("the CSV has no column for {}{}", missing.join(", "), unknown_columns(unknown))]
    Missing {
        /// The fields without a column.
        missing: Vec<&'static str>,
        /// The columns without a field, some of which may be meant.
        unknown: Vec<String>,
    },
    /// Two columns of one name.
    #[error("the columns {first} and {second} of the CSV have the same name")]
    Twice {
        /// The first of them, from 1.
        first: usize,
        /// The other.
        second: usize,
    },
    /// A name that is no text.
    #[error(
        "the name of column {column} of the CSV is not valid UTF-8, so it is CSV in another encoding, or none"
    )]
    NotUtf8 {
        /// Which one, from 1.
        column: usize,
    },
    /// More columns than anybody has.
    #[error("the CSV has {columns} columns, more than {MAX_CELLS}")]
    TooManyColumns {
        /// How many.
        columns: usize,
    },
}

/// Fields without which CSV is refused, besides `date`.
const REQUIRED: [Field; 4] = [Field::From, Field::To, Field::Duration, Field::Charge];
/// Most names of unknown columns that are shown.
const MAX_SHOWN_COLUMNS: usize = 20;

fn unknown_columns(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let shown: Vec<_> = names.iter().take(MAX_SHOWN_COLUMNS).cloned().collect();
    format!(
        ". Is it one of those that are not known ({})? Then give it that name",
        crate::error::quoted(&shown.join(", "))
    )
}

/// What a line of CSV is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CsvRow<'a> {
    /// The header.
    Header,
    /// A record, as the JSON object that [`decode`](super::decode) reads.
    Record(&'a [u8]),
    /// No record.
    Reject(Reason),
}

/// Reads the rows of one body.
#[derive(Debug, Default)]
pub struct CsvRows {
    /// The columns, once the header was read.
    columns: Vec<Column>,
    /// The header, which stands again where files were put one after another.
    header: Vec<u8>,
    json: Vec<u8>,
}

#[derive(Debug)]
struct Column {
    field: Option<Field>,
    /// The member's key, quoted, with its colon.
    key: String,
}

impl CsvRows {
    /// Reads the next line: the first one is the header.
    ///
    /// # Errors
    /// [`HeaderError`] if the first line is no header.
    pub fn read<'a>(
        &'a mut self,
        text: &'a [u8],
        cells: Cells<'_>,
    ) -> Result<CsvRow<'a>, HeaderError> {
        if !self.has_header() {
            // A server may say in JSON that there is no CSV.
            if text.starts_with(b"{") && matches!(decode(text), Err(Refusal::ServerError { .. })) {
                return Ok(CsvRow::Record(text));
            }
            self.columns = columns(cells)?;
            text.clone_into(&mut self.header);
            return Ok(CsvRow::Header);
        }
        if text == self.header {
            return Ok(CsvRow::Header);
        }
        if cells.count() != self.columns.len() {
            // A server that fails in the middle may say so in JSON.
            return Ok(if text.starts_with(b"{") {
                CsvRow::Record(text)
            } else {
                CsvRow::Reject(Reason::Columns {
                    found: cells.count(),
                    expected: self.columns.len(),
                })
            });
        }
        self.json.clear();
        self.json.push(b'{');
        for (column, cell) in self.columns.iter().zip(cells.iter()) {
            if cell.is_empty() {
                continue;
            }
            if self.json.len() > 1 {
                self.json.push(b',');
            }
            self.json.extend_from_slice(column.key.as_bytes());
            // The one field that must not be a string. What is no number is refused as what it is.
            if column.field == Some(Field::Duration) && is_number(cell) {
                self.json.extend_from_slice(cell);
            } else {
                write_string(cell, &mut self.json);
            }
        }
        self.json.push(b'}');
        Ok(CsvRow::Record(&self.json))
    }

    /// Whether the header was read.
    pub fn has_header(&self) -> bool {
        !self.columns.is_empty()
    }

    /// Fields for which the header has no column: their columns stay empty.
    pub fn missing_fields(&self) -> Vec<&'static str> {
        if !self.has_header() {
            return Vec::new();
        }
        let has = |field: Field| {
            self.columns
                .iter()
                .any(|column| column.field == Some(field))
        };
        let missing = Field::ALL.into_iter().filter(|&field| match field {
            Field::Uuid | Field::ParentUuid => false,
            Field::CallId => !has(field) && !has(Field::Uuid),
            Field::ParentCallId => !has(field) && !has(Field::ParentUuid),
            _ => !has(field),
        });
        missing.map(Field::name).collect()
    }
}

/// What it means that the CSV has no column for some `fields`.
pub fn describe_missing(fields: &[&str]) -> String {
    format!(
        "the CSV has no column for {}: empty in the lake. The other forms of the export may have it",
        fields.join(", ")
    )
}

fn columns(cells: Cells<'_>) -> Result<Vec<Column>, HeaderError> {
    if cells.count() > MAX_CELLS {
        let columns = cells.count();
        return Err(HeaderError::TooManyColumns { columns });
    }
    let mut columns: Vec<Column> = Vec::with_capacity(cells.count());
    for (i, name) in cells.iter().enumerate() {
        let number = i + 1;
        let name =
            std::str::from_utf8(name).map_err(|_| HeaderError::NotUtf8 { column: number })?;
        let plain = letters(name);
        let field = Field::ALL
            .into_iter()
            .find(|field| letters(field.name()) == plain);
        let key = match field {
            Some(field) => field.name().to_owned(),
            None if name.trim().is_empty() => format!("column_{number}"),
            None => name.trim().to_owned(),
        };
        let key = serde_json::to_string(&key).expect("a string always serialises") + ":";
        columns.push(Column { field, key });
    }
    let known = columns.iter().filter_map(|column| column.field);
    if !known.clone().any(|field| field == Field::Date) {
        return Err(HeaderError::NoDate {
            columns: columns.len(),
            known: known.count(),
        });
    }
    let missing: Vec<_> = REQUIRED
        .into_iter()
        .filter(|&field| !known.clone().any(|known| known == field))
        .map(Field::name)
        .collect();
    if !missing.is_empty() {
        let unknown = columns.iter().filter(|column| column.field.is_none());
        let name = |column: &Column| column.key.trim_end_matches(':').to_owned();
        let unknown = unknown.map(name).collect();
        return Err(HeaderError::Missing { missing, unknown });
    }
    for (i, column) in columns.iter().enumerate() {
        let earlier = columns[..i]
            .iter()
            .position(|other| other.key == column.key);
        if let Some(earlier) = earlier {
            return Err(HeaderError::Twice {
                first: earlier + 1,
                second: i + 1,
            });
        }
    }
    Ok(columns)
}

/// A name without case, spaces and marks.
fn letters(name: &str) -> String {
    let letters = name.chars().filter(|letter| letter.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

fn is_number(cell: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Number>(cell).is_ok()
}

/// Writes a string. One that is not UTF-8 becomes one that is not either, for the decoder to refuse.
fn write_string(cell: &[u8], json: &mut Vec<u8>) {
    json.push(b'"');
    for &byte in cell {
        match byte {
            b'"' | b'\\' => json.extend_from_slice(&[b'\\', byte]),
            0..0x20 => write!(json, "\\u{byte:04x}").expect("writing to memory does not fail"),
            _ => json.push(byte),
        }
    }
    json.push(b'"');
}
