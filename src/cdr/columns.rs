//! The columns of the lake in one table: name, kind, JSON keys, names in CSV, and the comment for
//! warehouses.
//!
//! A new column needs a row in [`COLUMNS`], a field of [`Record`], and its decoding in
//! [`decode`](super::decode). Batches, encoding, digest and warehouse statements read the table.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef, TimeUnit};

use super::amount::{AMOUNT_SCALE, Amount};
use super::decode::{Record, is_rounded};

/// Version of the columns. A new version may only add nullable columns at the end, so that readers
/// of older files find the other columns by name and by position. A lake may hold files of several
/// versions: `verify` reports them, and a refresh rewrites old files, because their digests differ.
///
/// The first version above 1 also needs this: `slice_file::batch::Rows` reads null for a column
/// that an older file lacks, and the digest of an older file leaves the column out.
/// `lake::identity::FORMAT` is raised at the same time.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// The kind of a column's values, which determines their types and encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text whose values rarely share substrings: compression hardly helps.
    Id,
    /// Text whose values share long substrings.
    PhoneNumber,
    /// Text with few distinct values, for a dictionary.
    Name,
    /// One of the two directions.
    Direction,
    /// A day, as the number of days since 1970-01-01.
    Day,
    /// An instant, in microseconds since 1970-01-01T00:00:00Z.
    Time,
    /// Whole seconds, in 32 bits.
    Seconds,
    /// US dollars with nine decimals.
    Amount,
    /// Text that is a JSON object.
    Json,
}

impl Kind {
    /// The Arrow type while a batch is built.
    pub fn batch_type(self) -> DataType {
        let coded = |codes| DataType::Dictionary(Box::new(codes), Box::new(DataType::Utf8));
        match self {
            Self::Direction => coded(DataType::Int8),
            Self::Name => coded(DataType::Int32),
            _ => self.file_type(),
        }
    }

    /// The Arrow type that readers of a file see: plain strings, no dictionaries.
    pub fn file_type(self) -> DataType {
        match self {
            Self::Id | Self::PhoneNumber | Self::Name | Self::Direction | Self::Json => {
                DataType::Utf8
            }
            Self::Day => DataType::Date32,
            Self::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Seconds => DataType::Int32,
            Self::Amount => amount_type(),
        }
    }

    /// Whether few distinct values are expected, so that the column gets a Parquet dictionary.
    pub fn repeats(self) -> bool {
        match self {
            Self::Name | Self::Direction | Self::Day | Self::Seconds | Self::Amount => true,
            Self::Id | Self::PhoneNumber | Self::Time | Self::Json => false,
        }
    }

    /// Whether a value that the column cannot hold exactly is rounded (otherwise it is rejected).
    pub(crate) fn is_rounded(self) -> bool {
        matches!(self, Self::Time | Self::Seconds | Self::Amount)
    }

    /// Units that may follow the name of a CSV column. A header with another unit, such as minutes,
    /// names another column.
    pub(crate) fn units(self) -> &'static [&'static str] {
        match self {
            Self::Time => &["utc", "gmt"],
            Self::Seconds => &["s", "sec", "secs", "second", "seconds", "inseconds"],
            Self::Amount => &["usd", "inusd"],
            _ => &[],
        }
    }
}

/// Digits of an amount, decimals included. With 18 Parquet stores an amount as INT64.
pub(crate) const AMOUNT_PRECISION: u8 = 18;

pub(crate) fn amount_type() -> DataType {
    DataType::Decimal128(
        AMOUNT_PRECISION,
        i8::try_from(AMOUNT_SCALE).expect("9 fits"),
    )
}

/// One column of the lake.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name, with its unit. Must not be a reserved word of any warehouse.
    pub name: &'static str,
    /// The kind of its values.
    pub kind: Kind,
    /// Whether it may be null.
    pub nullable: bool,
    /// The [`SCHEMA_VERSION`] that added it. Older files lack it.
    pub since: u32,
    /// Its comment in a warehouse's catalog. Without quotes and backslashes, which SQL dialects
    /// escape differently.
    pub comment: &'static str,
    /// The record's fields for this column; the first that is present wins. Empty for columns that
    /// the slice determines, and for `extra`.
    pub(crate) fields: &'static [Field],
    /// Other names of its first field in CSV exports, in lower case without spaces and punctuation.
    pub(crate) csv_names: &'static [&'static str],
}

impl Column {
    /// Its id in files, by which Apache Iceberg finds it. Never changes, because new columns come
    /// last.
    pub(crate) fn id(&self) -> i32 {
        let at = COLUMNS.iter().position(|column| column.name == self.name);
        let at = at.expect("columns exist only in the table");
        i32::try_from(at + 1).expect("there are few columns")
    }

    /// Whether the ledger and the logs of table formats may contain bounds of its values. Never
    /// phone numbers, ids, or other texts of the provider, which may contain phone numbers.
    pub(crate) fn has_public_bounds(&self) -> bool {
        match self.kind {
            Kind::Direction | Kind::Day | Kind::Time | Kind::Seconds | Kind::Amount => true,
            Kind::Name => self.name == "disposition",
            Kind::Id | Kind::PhoneNumber | Kind::Json => false,
        }
    }
}

/// Receives the values of a row, in the order of the columns.
pub(crate) trait RowSink {
    fn text(&mut self, kind: Kind, text: Option<&str>);
    fn time(&mut self, time_us: i64);
    fn seconds(&mut self, seconds: Option<i32>);
    fn amount(&mut self, amount: Option<Amount>);
    /// The direction of the slice.
    fn direction(&mut self);
    /// The row's day, if the slice has several.
    fn day(&mut self, day: Option<i32>);
}

/// Supplies the values of a row that belong to a record, in the order of the columns.
pub(crate) trait RowSource<'a> {
    fn text(&mut self) -> Option<Cow<'a, str>>;
    fn time(&mut self) -> i64;
    fn seconds(&mut self) -> Option<i32>;
    fn amount(&mut self) -> Option<Amount>;
    /// The row's day, if the slice has several. Called last.
    fn day(&mut self) -> Option<i32>;
}

/// A field type of [`Record`].
trait Value<'a> {
    fn write(&self, kind: Kind, row: &mut impl RowSink);
    fn read(row: &mut impl RowSource<'a>) -> Self;
    fn text_mut(&mut self) -> Option<&mut Cow<'a, str>> {
        None
    }
}

impl<'a> Value<'a> for Option<Cow<'a, str>> {
    #[inline]
    fn write(&self, kind: Kind, row: &mut impl RowSink) {
        row.text(kind, self.as_deref());
    }

    fn read(row: &mut impl RowSource<'a>) -> Self {
        row.text()
    }

    fn text_mut(&mut self) -> Option<&mut Cow<'a, str>> {
        self.as_mut()
    }
}

impl<'a> Value<'a> for i64 {
    #[inline]
    fn write(&self, _: Kind, row: &mut impl RowSink) {
        row.time(*self);
    }

    fn read(row: &mut impl RowSource<'a>) -> Self {
        row.time()
    }
}

impl<'a> Value<'a> for Option<i32> {
    #[inline]
    fn write(&self, _: Kind, row: &mut impl RowSink) {
        row.seconds(*self);
    }

    fn read(row: &mut impl RowSource<'a>) -> Self {
        row.seconds()
    }
}

impl<'a> Value<'a> for Option<Amount> {
    #[inline]
    fn write(&self, _: Kind, row: &mut impl RowSink) {
        row.amount(*self);
    }

    fn read(row: &mut impl RowSource<'a>) -> Self {
        row.amount()
    }
}

/// Generates [`COLUMNS`], [`Field`] and the conversions of a [`Record`] from the table.
///
/// `record` names the column's field of [`Record`], `keys` its keys in JSON. The slice determines
/// the columns that have neither.
macro_rules! columns {
    ($(
        $name:ident {
            kind: $kind:ident, nullable: $nullable:literal, since: $since:literal,
            comment: $comment:literal,
            $(
                record: $record:ident,
                keys: [$($field:ident $key:literal),*],
                csv_names: [$($csv_name:literal),*],
            )?
        }
    )*) => {
        /// The columns, in their order. Every file has all of them.
        pub const COLUMNS: &[Column] = &[$(
            Column {
                name: stringify!($name),
                kind: Kind::$kind,
                nullable: $nullable,
                since: $since,
                comment: $comment,
                fields: &[$($(Field::$field),*)?],
                csv_names: &[$($($csv_name),*)?],
            },
        )*];

        /// Fields of a record that have a column, and their aliases.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Field {
            $($($($field,)*)?)*
        }

        impl Field {
            /// The keys, in the order of the variants.
            const KEYS: &'static [&'static str] = &[$($($($key,)*)?)*];
            pub(crate) const ALL: [Self; Self::KEYS.len()] = [$($($(Self::$field,)*)?)*];
        }

        impl<'a> Record<'a> {
            /// Writes the record's row to `row`, in the order of the columns.
            #[inline]
            pub(crate) fn write_to(&self, row: &mut impl RowSink) {
                $(columns!(@write self row $kind $($record)?);)*
            }

            /// Reads a record back from its row.
            pub(crate) fn read_from(row: &mut impl RowSource<'a>) -> Self {
                let mut record = Self {
                    $($($record: Value::read(row),)?)*
                    is_rounded: false,
                    source_day: row.day(),
                };
                record.is_rounded = record.extra.as_deref().is_some_and(is_rounded);
                record
            }

            /// The texts that are present.
            pub(crate) fn texts_mut(&mut self) -> impl Iterator<Item = (Kind, &mut Cow<'a, str>)> {
                let texts = [$($((Kind::$kind, self.$record.text_mut()),)?)*];
                texts.into_iter().filter_map(|(kind, text)| Some((kind, text?)))
            }
        }
    };
    (@write $record:ident $row:ident Direction) => { $row.direction() };
    (@write $record:ident $row:ident Day) => { $row.day($record.source_day) };
    (@write $record:ident $row:ident $kind:ident $field:ident) => {
        $record.$field.write(Kind::$kind, $row)
    };
}

columns! {
    call_id {
        kind: Id, nullable: true, since: 1,
        comment: "Id under which the provider bills the call",
        record: call_id,
        keys: [CallId "call_id", Uuid "uuid"],
        csv_names: [],
    }
    parent_call_id {
        kind: Id, nullable: true, since: 1,
        comment: "Id of the call that this call is a leg of",
        record: parent_call_id,
        keys: [ParentCallId "parent_call_id", ParentUuid "parent_uuid"],
        csv_names: [],
    }
    direction {
        kind: Direction, nullable: false, since: 1,
        comment: "placed or received",
    }
    source_day {
        kind: Day, nullable: false, since: 1,
        comment: "Day of the call in window.timezone. dt is it, or the first day of its month",
    }
    call_time {
        kind: Time, nullable: false, since: 1,
        comment: "Start of the call, UTC",
        record: call_time_us,
        keys: [Date "date"],
        csv_names: [
            "datetime", "timestamp", "starttime", "startdate", "startedat", "calldate", "calltime",
            "callstart"
        ],
    }
    from_number {
        kind: PhoneNumber, nullable: true, since: 1,
        comment: "Calling number",
        record: from_number,
        keys: [From "from"],
        csv_names: ["fromnumber", "caller", "callernumber", "callerid"],
    }
    to_number {
        kind: PhoneNumber, nullable: true, since: 1,
        comment: "Called number",
        record: to_number,
        keys: [To "to"],
        csv_names: ["tonumber", "called", "callednumber", "callee", "dialednumber"],
    }
    disposition {
        kind: Name, nullable: true, since: 1,
        comment: "Outcome of the call: answered, busy, failed and others",
        record: disposition,
        keys: [Disposition "disposition"],
        csv_names: [],
    }
    destination {
        kind: Name, nullable: true, since: 1,
        comment: "Destination of the call, as the price list names it",
        record: destination,
        keys: [Destination "destination"],
        csv_names: [],
    }
    sip_trunk {
        kind: Name, nullable: true, since: 1,
        comment: "SIP trunk of the call",
        record: sip_trunk,
        keys: [SipTrunk "sip_trunk"],
        csv_names: [],
    }
    answered_by {
        kind: Name, nullable: true, since: 1,
        comment: "Answered by: human, machine and others",
        record: answered_by,
        keys: [AnsweredBy "answered_by"],
        csv_names: [],
    }
    duration_seconds {
        kind: Seconds, nullable: true, since: 1,
        comment: "Billed seconds",
        record: duration_seconds,
        keys: [Duration "duration"],
        csv_names: ["callduration"],
    }
    per_minute_usd {
        kind: Amount, nullable: true, since: 1,
        comment: "Price per minute, US dollars",
        record: per_minute_usd,
        keys: [PerMinute "per_minute"],
        csv_names: ["priceperminute", "rateperminute"],
    }
    charge_usd {
        kind: Amount, nullable: true, since: 1,
        comment: "Charge for the call, US dollars",
        record: charge_usd,
        keys: [Charge "charge"],
        csv_names: ["cost", "callcost", "totalcost", "totalcharge"],
    }
    forward_fee_usd {
        kind: Amount, nullable: true, since: 1,
        comment: "Fee for forwarding, US dollars",
        record: forward_fee_usd,
        keys: [ForwardFee "forward_fee"],
        csv_names: ["forwardingfee"],
    }
    extra {
        kind: Json, nullable: true, since: 1,
        comment: "Every other field of the record, as one JSON object",
        record: extra,
        keys: [],
        csv_names: [],
    }
}

impl Field {
    /// Its key in JSON.
    pub(crate) const fn name(self) -> &'static str {
        Self::KEYS[self as usize]
    }

    /// The column that holds it.
    pub(crate) fn column(self) -> &'static Column {
        let mut columns = COLUMNS.iter();
        let column = columns.find(|column| column.fields.contains(&self));
        column.expect("every field belongs to a column")
    }
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let fields = COLUMNS
        .iter()
        .map(|column| ArrowField::new(column.name, column.kind.batch_type(), column.nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
});

/// The Arrow schema of a batch.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// The Arrow schema that readers of a file see: plain strings, no dictionaries.
pub(crate) fn file_schema() -> Schema {
    file_schema_of(COLUMNS)
}

fn file_schema_of(columns: &[Column]) -> Schema {
    let field =
        |column: &Column| ArrowField::new(column.name, column.kind.file_type(), column.nullable);
    Schema::new(columns.iter().map(field).collect::<Vec<_>>())
}

/// Checks that a file has all columns of `version`, in order.
///
/// # Errors
/// A sentence about the first column that differs.
pub(crate) fn check(found: &Schema, version: u32) -> Result<(), String> {
    check_columns(COLUMNS, found, version)
}

fn check_columns(columns: &[Column], found: &Schema, version: u32) -> Result<(), String> {
    let columns = columns.iter().filter(|column| column.since <= version);
    let mut fields = found.fields().iter();
    for (i, column) in columns.enumerate() {
        let name = column.name;
        let Some(field) = fields.next() else {
            return Err(format!("it has no column {name}"));
        };
        let expected = column.kind.file_type();
        let is_same = field.name() == name
            && *field.data_type() == expected
            && field.is_nullable() == column.nullable;
        if !is_same {
            return Err(format!(
                "its column {} is {} {}, which should be {name} {expected}",
                i + 1,
                field.name(),
                field.data_type()
            ));
        }
    }
    match fields.next() {
        Some(surplus) => Err(format!("it has a column {} too many", surplus.name())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The columns and one more, added by version 2.
    fn later() -> Vec<Column> {
        let added = Column {
            name: "added_later",
            kind: Kind::Id,
            nullable: true,
            since: 2,
            comment: "Something new",
            fields: &[],
            csv_names: &[],
        };
        COLUMNS.iter().cloned().chain([added]).collect()
    }

    #[test]
    fn an_older_file_is_complete_without_later_columns() {
        let (old, new) = (file_schema(), file_schema_of(&later()));
        assert_eq!(check(&old, 1), Ok(()));
        assert_eq!(check_columns(&later(), &old, 1), Ok(()));
        assert_eq!(check_columns(&later(), &new, 2), Ok(()));
        assert_eq!(
            check_columns(&later(), &old, 2).unwrap_err(),
            "it has no column added_later"
        );
        let surplus = "it has a column added_later too many";
        assert_eq!(check_columns(&later(), &new, 1).unwrap_err(), surplus);
        assert_eq!(check(&new, 1).unwrap_err(), surplus);
    }

    #[test]
    fn new_columns_are_nullable_and_come_last() {
        let sinces: Vec<u32> = COLUMNS.iter().map(|column| column.since).collect();
        assert!(sinces.is_sorted());
        assert_eq!(sinces.last(), Some(&SCHEMA_VERSION));
        for column in COLUMNS.iter().filter(|column| column.since > 1) {
            assert!(column.nullable, "{}", column.name);
        }
        let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
        let of_version_1 = "call_id parent_call_id direction source_day call_time from_number \
             to_number disposition destination sip_trunk answered_by duration_seconds \
             per_minute_usd charge_usd forward_fee_usd extra";
        assert_eq!(names[..16].join(" "), of_version_1);
    }
}
