//! The columns of the lake, and their Arrow types.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::amount::AMOUNT_SCALE;

/// Version of the columns. A higher one only ever adds columns at the end, which may be null: readers that go by name find
/// nothing there in older files, and those that go by position find the others where they were. Files of several versions may lie
/// side by side: `verify` says so, and a refresh makes new ones of old ones, for equal rows of another version are not equal.
/// A new column is null in `slice_file::batch` where a file lacks it, and is left out of the digest of
/// older files.
pub const SCHEMA_VERSION: u32 = 1;

/// What the values of a column are like: how they are best compressed depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Next to nothing repeats, and looking for it is mostly in vain.
    Ids,
    /// What repeats is long.
    PhoneNumbers,
    /// Nothing is known of them.
    Other,
}

/// One column of the lake.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name, which is no reserved word of any warehouse and carries its unit.
    pub name: &'static str,
    /// Its Arrow type while a batch is built.
    pub data_type: DataType,
    /// Whether it may be null.
    pub nullable: bool,
    /// Whether few distinct values are expected, so that a Parquet dictionary pays.
    pub repeats: bool,
    /// What its values are like.
    pub content: Content,
    /// The version of the columns that it came with. Older files do not have it.
    pub since: u32,
    /// What it holds, for the catalog of a warehouse: without quotes and backslashes, which every dialect of
    /// SQL escapes in its own way.
    pub comment: &'static str,
}

/// The columns, in their order. Every file has all of them.
pub static COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| {
    let coded = |keys| DataType::Dictionary(Box::new(keys), Box::new(DataType::Utf8));
    let direction = coded(DataType::Int8);
    let repeated = coded(DataType::Int32);
    let call_time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let usd = amount_type();
    let column = |name, data_type: &DataType, nullable, repeats, comment| Column {
        name,
        data_type: data_type.clone(),
        nullable,
        repeats,
        content: Content::Other,
        since: 1,
        comment,
    };
    vec![
        Column {
            content: Content::Ids,
            ..column(
                "call_id",
                &DataType::Utf8,
                true,
                false,
                "Id of the call, as the provider bills it",
            )
        },
        Column {
            content: Content::Ids,
            ..column(
                "parent_call_id",
                &DataType::Utf8,
                true,
                false,
                "Id of the call that this one is a leg of",
            )
        },
        column("direction", &direction, false, true, "placed or received"),
        column(
            "source_day",
            &DataType::Date32,
            false,
            true,
            "Day under which the provider lists the call, the same as the partition dt",
        ),
        column(
            "call_time",
            &call_time,
            false,
            false,
            "Begin of the call, UTC",
        ),
        Column {
            content: Content::PhoneNumbers,
            ..column("from_number", &DataType::Utf8, true, false, "Who called")
        },
        Column {
            content: Content::PhoneNumbers,
            ..column("to_number", &DataType::Utf8, true, false, "Who was called")
        },
        column(
            "disposition",
            &repeated,
            true,
            true,
            "What became of the call: answered, busy, failed and others",
        ),
        column(
            "destination",
            &repeated,
            true,
            true,
            "Where the call went, by the name of the price list",
        ),
        column(
            "sip_trunk",
            &repeated,
            true,
            true,
            "Trunk that the call went over",
        ),
        column(
            "answered_by",
            &repeated,
            true,
            true,
            "Who answered: human, machine and others",
        ),
        column(
            "duration_seconds",
            &DataType::Int32,
            true,
            true,
            "Billed seconds",
        ),
        column(
            "per_minute_usd",
            &usd,
            true,
            true,
            "Price of a minute, US dollars",
        ),
        column(
            "charge_usd",
            &usd,
            true,
            true,
            "Charge for the call, US dollars",
        ),
        column(
            "forward_fee_usd",
            &usd,
            true,
            true,
            "Fee for forwarding, US dollars",
        ),
        column(
            "extra",
            &DataType::Utf8,
            true,
            false,
            "Every other field of the record, as one JSON object",
        ),
    ]
});

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let fields = COLUMNS
        .iter()
        .map(|column| Field::new(column.name, column.data_type.clone(), column.nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
});

/// Digits of an amount, decimals included. With 18 Parquet stores an amount as INT64.
const AMOUNT_PRECISION: u8 = 18;

pub(crate) fn amount_type() -> DataType {
    DataType::Decimal128(
        AMOUNT_PRECISION,
        i8::try_from(AMOUNT_SCALE).expect("9 fits"),
    )
}

/// The Arrow schema of a batch.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// Checks that a file read back has the columns of the lake as they were in `version`: all of them, in their order.
///
/// # Errors
/// A sentence that names the first column that differs.
pub fn check(found: &Schema, version: u32) -> Result<(), String> {
    check_columns(&COLUMNS, found, version)
}

fn check_columns(columns: &[Column], found: &Schema, version: u32) -> Result<(), String> {
    // A later version adds columns at the end.
    let columns = columns.iter().filter(|column| column.since <= version);
    let mut fields = found.fields().iter();
    for (i, column) in columns.enumerate() {
        let name = column.name;
        let Some(field) = fields.next() else {
            return Err(format!("it has no column {name}"));
        };
        // Readers see plain strings, not dictionaries.
        let expected = match &column.data_type {
            DataType::Dictionary(_, values) => values,
            plain => plain,
        };
        let is_same = field.name() == name
            && field.data_type() == expected
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

    /// The columns with one that came with version 2.
    fn later() -> Vec<Column> {
        let added = Column {
            name: "added_later",
            data_type: DataType::Utf8,
            nullable: true,
            repeats: false,
            content: Content::Other,
            since: 2,
            comment: "Something new",
        };
        COLUMNS.iter().cloned().chain([added]).collect()
    }

    /// A file's columns, as readers see them.
    fn file(columns: &[Column]) -> Schema {
        let field = |column: &Column| {
            let data_type = match &column.data_type {
                DataType::Dictionary(_, values) => values.as_ref(),
                plain => plain,
            };
            Field::new(column.name, data_type.clone(), column.nullable)
        };
        Schema::new(columns.iter().map(field).collect::<Vec<_>>())
    }

    #[test]
    fn an_older_file_is_whole_without_the_columns_that_came_later() {
        let (old, new) = (file(&COLUMNS), file(&later()));
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
    fn columns_are_only_ever_added_at_the_end_and_may_then_be_null() {
        let sinces: Vec<u32> = COLUMNS.iter().map(|column| column.since).collect();
        assert!(sinces.is_sorted());
        assert_eq!(sinces.last(), Some(&SCHEMA_VERSION));
        for column in COLUMNS.iter().filter(|column| column.since > 1) {
            assert!(column.nullable, "{}", column.name);
        }
        let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
        let of_version_1 = "call_id parent_call_id direction source_day call_time from_number to_number disposition destination sip_trunk answered_by duration_seconds per_minute_usd charge_usd forward_fee_usd extra";
        assert_eq!(names[..16].join(" "), of_version_1);
    }
}
