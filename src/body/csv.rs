//! Rows of CSV become the JSON objects that they would be, so that there is one definition of what
//! a record means.
//!
//! The export's header line is not documented, so columns are known by name, in any case and order:
//! `date`, `Date`, `Call ID`, `call-id` and `callId` are all understood, as are some other names
//! that exports have, and units: `Start time`, `Duration (sec)`, `Charge USD`. Cells are taken
//! without white space around them. An empty one is a field that is absent; a column without a
//! field of its own is kept in `extra`, under its name as it stands, with a number where an earlier
//! one has that name.
//!
//! Exports that were put one behind the other have a header each, and not always the same: the
//! columns of the last one count. A line that names columns is never a record, and what follows a
//! header that cannot be used is never read by the columns of the one before.

use std::collections::HashMap;
use std::io::Write;
use std::sync::LazyLock;

use super::framing::{BOM, Cells, MAX_CELLS, Position, Separator, is_separator_line};
use crate::cdr::columns::{COLUMNS, Field, Kind};
use crate::cdr::decode::{DecodeError, RejectReason, decode, is_local_time, is_time};

/// CSV without a header of call detail records, or with a second one that cannot be used. The texts
/// quote no cell of what may be a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// No column for the one field that every record has, nor for two others.
    #[error(
        "the first line of the CSV has no column `date` ({}), so it is not a header of call detail \
         records. Begin the CSV with a header that has date, from, to, duration and charge",
        shown_line(*columns, *known, *separator)
    )]
    NoDate {
        /// Columns there are.
        columns: usize,
        /// The field that one of them stands for.
        known: Option<&'static str>,
        /// What separates them.
        separator: Separator,
    },
    /// No column for the date, or for what a bill is made of: null in every row, it would look like
    /// calls that cost nothing.
    #[error(
        "the CSV has no column for {}. It needs date, from, to, duration and charge, and has {}. \
         Rename the columns if they have other names (values in seconds, US dollars or with a UTC \
         offset)",
        missing.join(", "),
        shown_columns(found)
    )]
    Missing {
        /// The fields without a column.
        missing: Vec<&'static str>,
        /// The names of all columns, as they stand.
        found: Vec<String>,
    },
    /// Two columns for one field.
    #[error(
        "the columns {first} and {second} of the CSV stand for the same field. Rename one of them"
    )]
    Twice {
        /// The first of them, from 1.
        first: usize,
        /// The other.
        second: usize,
    },
    /// A quotation mark that makes one row of several.
    #[error(
        "{at}: the row that begins here has a quotation mark that includes the rows after it. \
         Double the mark and quote its cell, or remove it"
    )]
    Swallowed {
        /// Where the row begins.
        at: Position,
    },
    /// A name that is no text.
    #[error("the name of column {column} of the CSV is not valid UTF-8. Convert the CSV to UTF-8")]
    NotUtf8 {
        /// Which one, from 1.
        column: usize,
    },
    /// More columns than any export has.
    #[error("the CSV has {columns} columns, more than {MAX_CELLS}")]
    TooManyColumns {
        /// How many.
        columns: usize,
    },
    /// A line that names columns, but cannot be used as a header for the lines after it.
    #[error(
        "{at}: this line looks like a header, but cannot be used as one. A header has date, from, \
         to, duration and charge, each once, separated by {separator} like the first one, on a \
         line of its own. Correct the line, or load the rest from a file of its own"
    )]
    Unusable {
        /// Where the line begins.
        at: Position,
        /// What separates the cells before it.
        separator: Separator,
    },
    /// A line that names columns, among JSON.
    #[error(
        "{at}: this line looks like a header of CSV, but the lines before it are JSON. Load the \
         CSV from a file of its own"
    )]
    BehindJson {
        /// Where the line begins.
        at: Position,
    },
    /// A line that names columns, and is longer than a record may be.
    #[error(
        "{at}: this line looks like a header of CSV, but is longer than limits.max_record_bytes. \
         Correct the line, or raise the limit"
    )]
    TooLong {
        /// Where the line begins.
        at: Position,
    },
}

/// Fields without which CSV is refused, besides `date`.
const REQUIRED: [Field; 4] = [Field::From, Field::To, Field::Duration, Field::Charge];
/// Most names of columns that are shown.
const MAX_SHOWN_COLUMNS: usize = 20;

fn shown_columns(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().take(MAX_SHOWN_COLUMNS).cloned().collect();
    crate::error::sanitized_excerpt(&shown.join(", "))
}

/// Describes a first line by the number of its columns and the known names among them.
fn shown_line(columns: usize, known: Option<&str>, separator: Separator) -> String {
    if columns == 1 {
        let separators = "a comma, a semicolon, a tab or a vertical bar";
        return format!("it is one column, without {separators}");
    }
    let known = known.map_or("none is known".to_owned(), |field| {
        format!("only `{field}` is known")
    });
    format!("of its {columns} columns, separated by {separator}, {known}")
}

/// What separates the cells of a header line: that by which it names most fields, and of several
/// that which stands there most often.
pub(crate) fn separator_of(line: &[u8]) -> Separator {
    let fitness = |separator: Separator| {
        let (mut is_quoted, mut separators) = (false, 0);
        let cells = line.split(|&byte| {
            is_quoted ^= byte == b'"';
            let is_end = byte == separator as u8 && !is_quoted;
            separators += usize::from(is_end);
            is_end
        });
        let known = cells
            .filter(|name| name.len() <= MAX_NAME_BYTES)
            .filter_map(Field::named)
            .count();
        (known, separators)
    };
    let separators = Separator::ALL.into_iter().rev();
    separators.max_by_key(|&it| fitness(it)).unwrap_or_default()
}

/// What a line of CSV is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CsvRow<'a> {
    /// The header, or a line that only says what separates the cells.
    Header,
    /// A record, as the JSON object that [`decode`] reads.
    Record(&'a [u8]),
    /// No record.
    Reject(RejectReason),
}

/// Where the header stands that names the columns of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its first byte, counted in the decompressed body.
    pub start: u64,
    /// The first byte after it.
    pub end: u64,
    /// What separates the cells of the body.
    pub separator: Separator,
}

/// Reads the rows of one body.
#[derive(Debug, Default)]
pub struct CsvRows {
    /// The columns of the last header, once one was read.
    columns: Vec<HeaderColumn>,
    /// Which of them is `date`.
    date: usize,
    /// That header again: concatenated files repeat it.
    header: Vec<u8>,
    /// Where it stands.
    header_at: Option<Header>,
    /// Fields for which some header had no column.
    missing: Vec<&'static str>,
    json: Vec<u8>,
}

#[derive(Debug)]
struct HeaderColumn {
    field: Option<Field>,
    /// Whether its name contains that its times are in UTC.
    is_utc: bool,
    /// Whether it holds numbers that the API writes without quotation marks.
    is_bare: bool,
    /// The member's key, quoted, after a comma and before a colon.
    key: String,
}

impl CsvRows {
    /// Reads the next line, which begins at `at`: the first one is a header, and so may others be.
    ///
    /// # Errors
    /// [`HeaderError`] if the first line is no header, or a later one is a header that cannot be
    /// used.
    pub fn read<'a>(
        &'a mut self,
        at: Position,
        text: &'a [u8],
        cells: Cells<'_>,
    ) -> Result<CsvRow<'a>, HeaderError> {
        if is_separator_line(text) {
            return Ok(CsvRow::Header);
        }
        if !self.has_header() {
            // A server may report in JSON that it has no CSV.
            if text.starts_with(b"{")
                && matches!(decode(text), Err(DecodeError::ServerError { .. }))
            {
                return Ok(CsvRow::Record(text));
            }
            self.begin(at, text, columns(cells)?, cells.separator());
            return Ok(CsvRow::Header);
        }
        let date = without_formula(trimmed(cells.iter().nth(self.date).unwrap_or_default()));
        let is_complete = cells.count() == self.columns.len();
        if !is_complete || !is_time(date) {
            if text == self.header {
                return Ok(CsvRow::Header);
            }
            if cells_name_columns(text, cells)
                || Field::named(date).is_some()
                || self.repeats_a_name(cells)
            {
                let found = columns(cells).ok();
                // With a date in it, it is a record without a newline, followed by a header.
                let found = found.filter(|_| !begins_with_date(date));
                let separator = cells.separator();
                let found = found.ok_or(HeaderError::Unusable { at, separator })?;
                self.begin(at, text, found, separator);
                return Ok(CsvRow::Header);
            }
        }
        if has_newline(text) && self.swallows_rows(text, cells.separator()) {
            return Err(HeaderError::Swallowed { at });
        }
        if !is_complete {
            // A server that fails in the middle may report that in JSON.
            return Ok(if text.starts_with(b"{") {
                CsvRow::Record(text)
            } else {
                CsvRow::Reject(RejectReason::Columns {
                    found: cells.count(),
                    expected: self.columns.len(),
                })
            });
        }
        self.json.clear();
        self.json.push(b'{');
        let may_need_escapes = needs_escapes(cells.bytes());
        for (column, cell) in self.columns.iter().zip(cells.iter()) {
            let cell = match column.field {
                Some(_) => without_formula(trimmed(cell)),
                None => trimmed(cell),
            };
            if cell.is_empty() {
                continue;
            }
            let without_comma = usize::from(self.json.len() == 1);
            self.json
                .extend_from_slice(&column.key.as_bytes()[without_comma..]);
            // A bare number, as the API has it: where it is rounded, its original is the same as
            // there.
            if column.is_bare && is_number(cell) {
                self.json.extend_from_slice(cell);
            } else if column.is_utc && is_local_time(cell) {
                write_string(&[cell, b"Z"].concat(), &mut self.json);
            } else if may_need_escapes && needs_escapes(cell) {
                write_string(cell, &mut self.json);
            } else {
                self.json.push(b'"');
                self.json.extend_from_slice(cell);
                self.json.push(b'"');
            }
        }
        self.json.push(b'}');
        Ok(CsvRow::Record(&self.json))
    }

    /// The header of the next row, if that is none itself.
    pub(crate) fn header(&self) -> Option<Header> {
        self.header_at
    }

    /// Whether the header was read.
    pub fn has_header(&self) -> bool {
        !self.columns.is_empty()
    }

    /// Fields for which some header had no column: there their columns stay empty.
    pub fn missing_fields(&self) -> &[&'static str] {
        &self.missing
    }

    /// Whether a cell names the field whose column it stands in.
    fn repeats_a_name(&self, cells: Cells<'_>) -> bool {
        let pairs = self.columns.iter().zip(cells.iter());
        pairs
            .filter(|(column, _)| column.field.is_some())
            .any(|(column, cell)| Field::named(cell) == column.field)
    }

    /// Whether a row of several lines has records among them, as where a quotation mark is text.
    fn swallows_rows(&self, text: &[u8], separator: Separator) -> bool {
        text.split(|byte| *byte == b'\n').skip(1).any(|line| {
            let cells = || line.split(|byte| *byte == separator as u8);
            let date = trimmed(cells().nth(self.date).unwrap_or_default());
            cells().count() == self.columns.len() && is_time(date)
        })
    }

    /// Takes a header, which defines the columns of the lines after it.
    fn begin(
        &mut self,
        at: Position,
        header: &[u8],
        columns: Vec<HeaderColumn>,
        separator: Separator,
    ) {
        for field in fields_without_column(&columns) {
            if !self.missing.contains(&field) {
                self.missing.push(field);
            }
        }
        let is_date = |column: &HeaderColumn| column.field == Some(Field::Date);
        self.date = columns.iter().position(is_date).unwrap_or_default();
        self.columns = columns;
        header.clone_into(&mut self.header);
        self.header_at = Some(Header {
            start: at.byte,
            end: at.byte + header.len() as u64,
            separator,
        });
    }
}

/// Whether a line that may be no record names columns, and is no JSON: CSV that begins in the
/// middle of something else.
pub(crate) fn is_stray_header(line: &[u8]) -> bool {
    let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok();
    names_columns(line) && !is_json()
}

/// Whether a cell, or the rest of a line, begins with a date in figures, the year first.
fn begins_with_date(text: &[u8]) -> bool {
    text.first_chunk::<10>().is_some_and(|date| {
        date.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => !byte.is_ascii_alphanumeric(),
            _ => byte.is_ascii_digit(),
        })
    })
}

/// Longest name of a column that is looked for in a line.
const MAX_NAME_BYTES: usize = 64;

/// Whether a line that is no whole record names columns, whatever separates them.
fn names_columns(line: &[u8]) -> bool {
    let text = line.trim_ascii_start();
    let text = text.strip_prefix(BOM).unwrap_or(text).trim_ascii_start();
    !text.starts_with(b"{")
        && (are_names(line.split(|byte| b",;|\t\r\n".contains(byte))) || is_spaced_header(line))
}

/// Whether the cells of a line that is no whole record name columns. What stands in a quoted cell
/// does so only if the quotation marks have swallowed lines.
fn cells_name_columns(line: &[u8], cells: Cells<'_>) -> bool {
    are_names(cells.iter()) || ((cells.count() == 1 || has_newline(line)) && names_columns(line))
}

/// Whether `date` is among these, or two other names of columns. No broken record has them: they
/// are no values of any field.
fn are_names<'a>(cells: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut first = None;
    let names = cells.filter(|name| name.len() <= MAX_NAME_BYTES);
    for field in names.filter_map(Field::named) {
        if field == Field::Date || *first.get_or_insert(field) != field {
            return true;
        }
    }
    false
}

/// Whether a line names all that a header has to, with nothing but blanks between.
fn is_spaced_header(line: &[u8]) -> bool {
    let has = |field: Field| {
        line.split(|byte| *byte == b' ')
            .any(|name| Field::named(name) == Some(field))
    };
    has(Field::Date) && REQUIRED.into_iter().all(has)
}

/// Fields for which there is no column, and none for their alias.
fn fields_without_column(columns: &[HeaderColumn]) -> impl Iterator<Item = &'static str> {
    let has = |field: &Field| columns.iter().any(|column| column.field == Some(*field));
    let missing = COLUMNS
        .iter()
        .filter(move |column| !column.fields.iter().any(has));
    missing.filter_map(|column| column.fields.first().map(|field| field.name()))
}

/// What it means that the CSV has no column for some `fields`.
pub(crate) fn describe_missing(fields: &[&str]) -> String {
    format!(
        "the CSV has no column for {}, so these fields are empty in the lake. Other forms of the \
         export may have them",
        fields.join(", ")
    )
}

fn columns(cells: Cells<'_>) -> Result<Vec<HeaderColumn>, HeaderError> {
    if cells.count() > MAX_CELLS {
        let columns = cells.count();
        return Err(HeaderError::TooManyColumns { columns });
    }
    let mut columns: Vec<HeaderColumn> = Vec::with_capacity(cells.count());
    let (mut found, mut keys) = (Vec::new(), HashMap::new());
    // A field's own name makes other names of it unknown ones.
    let mut best = [Likeness::Synonym; Field::ALL.len()];
    for (field, likeness) in cells.iter().filter_map(Field::meant_by) {
        best[field as usize] = best[field as usize].min(likeness);
        // Such a column may be named `date` beside one in UTC, and must not share its key.
        keys.insert(field.name().to_owned(), 1);
    }
    for (i, name) in cells.iter().enumerate() {
        let number = i + 1;
        let meant = Field::meant_by(name);
        let meant = meant.filter(|(field, likeness)| *likeness == best[*field as usize]);
        let field = meant.map(|(field, _)| field);
        let name =
            std::str::from_utf8(name).map_err(|_| HeaderError::NotUtf8 { column: number })?;
        // Each of several concatenated files may have one.
        let name = name.trim_start_matches('\u{feff}');
        let key = match field {
            Some(field) => field.name().to_owned(),
            None if name.trim().is_empty() => unused(&format!("column_{number}"), &mut keys),
            None => unused(name.trim(), &mut keys),
        };
        found.push(name.trim().to_owned());
        let key = serde_json::to_string(&key).expect("a string always serialises");
        let key = format!(",{key}:");
        let is_utc = meant.is_some_and(|(_, likeness)| likeness == Likeness::Utc);
        let is_bare = field.is_some_and(|field| field.column().kind == Kind::Seconds);
        columns.push(HeaderColumn {
            field,
            is_utc,
            is_bare,
            key,
        });
    }
    let known = columns.iter().filter_map(|column| column.field);
    // With one name of a column or none it may be a record, of which nothing may be shown.
    let has_date = known.clone().any(|field| field == Field::Date);
    if !has_date && !are_names(cells.iter()) {
        return Err(HeaderError::NoDate {
            columns: columns.len(),
            known: known.clone().next().map(Field::name),
            separator: cells.separator(),
        });
    }
    let missing: Vec<_> = std::iter::once(Field::Date)
        .chain(REQUIRED)
        .filter(|&field| !known.clone().any(|known| known == field))
        .map(Field::name)
        .collect();
    if !missing.is_empty() {
        return Err(HeaderError::Missing { missing, found });
    }
    for (i, column) in columns.iter().enumerate() {
        let earlier = columns[..i]
            .iter()
            .position(|other| column.field.is_some() && other.field == column.field);
        if let Some(earlier) = earlier {
            return Err(HeaderError::Twice {
                first: earlier + 1,
                second: i + 1,
            });
        }
    }
    Ok(columns)
}

/// A key that no column has yet: the name, or the name and a number.
/// `keys` has the last number that was tried with each.
fn unused(name: &str, keys: &mut HashMap<String, usize>) -> String {
    let mut number = keys.get(name).copied().unwrap_or_default();
    let mut key = name.to_owned();
    while keys.contains_key(&key) {
        number += 1;
        key = format!("{name}_{number}");
    }
    keys.insert(name.to_owned(), number.max(1));
    keys.entry(key.clone()).or_insert(1);
    key
}

/// How a column's name means a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Likeness {
    /// It contains the unit of its times.
    Utc,
    /// It is the field's.
    Name,
    /// It is the field's, with a unit.
    NameWithUnit,
    /// It is another one, with a unit or without.
    Synonym,
}

/// Every known column name, as [`normalize_header`] returns it. Ambiguous names (`price`,
/// `amount`, `time`, `number`, `source`) are not among them.
static NAMES: LazyLock<HashMap<String, (Field, Likeness)>> = LazyLock::new(|| {
    let mut names = HashMap::new();
    for column in COLUMNS {
        let with_units = match column.kind {
            Kind::Time => [Likeness::Utc; 2],
            _ => [Likeness::NameWithUnit, Likeness::Synonym],
        };
        let mut add = |name: &str, field, likeness, with_unit| {
            for unit in column.kind.units() {
                names.insert(format!("{name}{unit}"), (field, with_unit));
            }
            names.insert(name.to_owned(), (field, likeness));
        };
        for &field in column.fields {
            add(
                &normalize_header(field.name()),
                field,
                Likeness::Name,
                with_units[0],
            );
        }
        if let Some(&field) = column.fields.first() {
            for name in column.csv_names {
                add(name, field, Likeness::Synonym, with_units[1]);
            }
        }
    }
    names
});

impl Field {
    /// The field that a column of that name may hold.
    fn named(name: &[u8]) -> Option<Self> {
        Self::meant_by(name).map(|(field, _)| field)
    }

    /// The same, and how the name means it.
    fn meant_by(name: &[u8]) -> Option<(Self, Likeness)> {
        let name = normalize_header(std::str::from_utf8(name).ok()?);
        NAMES.get(&name).copied()
    }
}

/// A cell without white space around it.
#[inline]
fn trimmed(cell: &[u8]) -> &[u8] {
    // The common case.
    if let (Some(first), Some(last)) = (cell.first(), cell.last())
        && first.is_ascii_graphic()
        && last.is_ascii_graphic()
    {
        return cell;
    }
    std::str::from_utf8(cell).map_or_else(|_| cell.trim_ascii(), |text| text.trim().as_bytes())
}

/// A cell without the formula that makes a spreadsheet take it for text: `="442079460001"`.
fn without_formula(cell: &[u8]) -> &[u8] {
    let text = cell.strip_prefix(b"=\"");
    text.and_then(|text| text.strip_suffix(b"\""))
        .unwrap_or(cell)
}

fn is_number(cell: &[u8]) -> bool {
    // The common case.
    let is_plain = !cell.starts_with(b"0") && cell.iter().all(u8::is_ascii_digit);
    (is_plain && (1..=18).contains(&cell.len()))
        || serde_json::from_slice::<serde_json::Number>(cell).is_ok()
}

/// A name without case, spaces and marks.
fn normalize_header(name: &str) -> String {
    let letters = name.chars().filter(|letter| letter.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

fn has_newline(line: &[u8]) -> bool {
    memchr::memchr(b'\n', line).is_some()
}

/// Whether JSON has escapes for any of these bytes. Looks at all of them, many at once.
fn needs_escapes(text: &[u8]) -> bool {
    let is_escaped = |byte: u8| u8::from(byte < 0x20 || byte == b'"' || byte == b'\\');
    text.iter().fold(0, |found, &byte| found | is_escaped(byte)) > 0
}

/// Writes a string. One that is not UTF-8 becomes one that is not either, for the decoder to
/// refuse.
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

#[cfg(test)]
mod tests;
