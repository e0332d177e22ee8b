//! Checkpoints: the actions of a version in a Parquet file, with a column for each of their fields.
//!
//! See <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#checkpoints>. The actions are
//! converted from and to the JSON of commits, by the schema of the file.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use parquet::basic::{Compression, ConvertedType, Repetition};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::record::{Field, Row};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Map, Value};

use super::actions::Action;

/// The columns as Spark and delta-rs write them, without those of features that cdrlake does not
/// use.
///
/// See <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#checkpoint-schema>.
static SCHEMA: LazyLock<TypePtr> = LazyLock::new(|| {
    let schema = parse_message_type(
        "message spark_schema {
            optional group txn {
                optional binary appId (STRING);
                required int64 version;
                optional int64 lastUpdated;
            }
            optional group add {
                optional binary path (STRING);
                optional group partitionValues (MAP) {
                    repeated group key_value {
                        required binary key (STRING);
                        optional binary value (STRING);
                    }
                }
                required int64 size;
                required int64 modificationTime;
                required boolean dataChange;
                optional group tags (MAP) {
                    repeated group key_value {
                        required binary key (STRING);
                        optional binary value (STRING);
                    }
                }
                optional binary stats (STRING);
            }
            optional group remove {
                optional binary path (STRING);
                optional int64 deletionTimestamp;
                required boolean dataChange;
                optional boolean extendedFileMetadata;
                optional group partitionValues (MAP) {
                    repeated group key_value {
                        required binary key (STRING);
                        optional binary value (STRING);
                    }
                }
                optional int64 size;
                optional group tags (MAP) {
                    repeated group key_value {
                        required binary key (STRING);
                        optional binary value (STRING);
                    }
                }
            }
            optional group metaData {
                optional binary id (STRING);
                optional binary name (STRING);
                optional binary description (STRING);
                optional group format {
                    optional binary provider (STRING);
                    optional group options (MAP) {
                        repeated group key_value {
                            required binary key (STRING);
                            optional binary value (STRING);
                        }
                    }
                }
                optional binary schemaString (STRING);
                optional group partitionColumns (LIST) {
                    repeated group list {
                        optional binary element (STRING);
                    }
                }
                optional group configuration (MAP) {
                    repeated group key_value {
                        required binary key (STRING);
                        optional binary value (STRING);
                    }
                }
                optional int64 createdTime;
            }
            optional group protocol {
                required int32 minReaderVersion;
                required int32 minWriterVersion;
            }
        }",
    );
    Arc::new(schema.expect("it is a Parquet schema"))
});

/// A row that names another file with actions. Some writers always have its column.
const SIDECAR: &str = "sidecar";

/// Actions that become one row group, which bounds the memory of a writer and of readers.
const ROW_GROUP_ACTIONS: usize = 1_000;

/// The bytes of a checkpoint.
pub(super) fn encode(actions: impl Iterator<Item = Action>) -> Result<Bytes, ParquetError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by(crate::TOOL.to_owned());
    let properties = Arc::new(properties.build());
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::clone(&SCHEMA), properties)?;
    let mut actions = actions.peekable();
    while actions.peek().is_some() {
        let mut columns = vec![ColumnValues::default(); leaves(&SCHEMA)];
        for action in actions.by_ref().take(ROW_GROUP_ACTIONS) {
            let action = serde_json::to_value(action).expect("actions always serialise");
            let mut rest = &mut *columns;
            for field in SCHEMA.get_fields() {
                let (of_field, others) = rest.split_at_mut(leaves(field));
                shred(field, &action[field.name()], Level::default(), of_field);
                rest = others;
            }
        }
        write_row_group(&mut writer, &columns)?;
    }
    Ok(writer.into_inner()?.into())
}

fn write_row_group(
    writer: &mut SerializedFileWriter<Vec<u8>>,
    columns: &[ColumnValues],
) -> Result<(), ParquetError> {
    let mut row_group = writer.next_row_group()?;
    for column in columns {
        let Some(mut writer) = row_group.next_column()? else {
            break;
        };
        let (levels, repetitions) = (Some(&*column.definitions), Some(&*column.repetitions));
        let values = column.values.iter();
        match writer.untyped() {
            ColumnWriter::BoolColumnWriter(it) => {
                let values: Vec<bool> = values.filter_map(Value::as_bool).collect();
                it.write_batch(&values, levels, repetitions)?;
            }
            ColumnWriter::Int32ColumnWriter(it) => {
                let narrow = |value: &Value| i32::try_from(value.as_i64()?).ok();
                let values: Vec<i32> = values.filter_map(narrow).collect();
                it.write_batch(&values, levels, repetitions)?;
            }
            ColumnWriter::Int64ColumnWriter(it) => {
                let values: Vec<i64> = values.filter_map(Value::as_i64).collect();
                it.write_batch(&values, levels, repetitions)?;
            }
            ColumnWriter::ByteArrayColumnWriter(it) => {
                let text = |value: &Value| value.as_str().map(ByteArray::from);
                let values: Vec<ByteArray> = values.filter_map(text).collect();
                it.write_batch(&values, levels, repetitions)?;
            }
            _ => unreachable!("the schema has no columns of other types"),
        }
        writer.close()?;
    }
    row_group.close()?;
    Ok(())
}

/// The values of one column, with their levels.
///
/// See <https://parquet.apache.org/docs/file-format/nestedencoding/>.
#[derive(Clone, Default)]
struct ColumnValues {
    values: Vec<Value>,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
}

/// Where a value stands: how many of its optional and repeated ancestors are present, and which of
/// them repeats.
#[derive(Clone, Copy, Default)]
struct Level {
    definition: i16,
    repetition: i16,
}

/// The number of columns of a field.
fn leaves(node: &Type) -> usize {
    if node.is_primitive() {
        return 1;
    }
    node.get_fields().iter().map(|field| leaves(field)).sum()
}

/// Distributes a value among the columns of its field.
fn shred(node: &Type, value: &Value, mut level: Level, columns: &mut [ColumnValues]) {
    if value.is_null() {
        for column in columns {
            column.definitions.push(level.definition);
            column.repetitions.push(level.repetition);
        }
        return;
    }
    let info = node.get_basic_info();
    if info.repetition() == Repetition::OPTIONAL {
        level.definition += 1;
    }
    if node.is_primitive() {
        for column in columns {
            column.values.push(value.clone());
            column.definitions.push(level.definition);
            column.repetitions.push(level.repetition);
        }
        return;
    }
    let items: Vec<Value> = match (info.converted_type(), value) {
        (ConvertedType::MAP, Value::Object(entries)) => entries
            .iter()
            .map(|(key, value)| serde_json::json!({"key": key, "value": value}))
            .collect(),
        (ConvertedType::LIST, Value::Array(elements)) => elements
            .iter()
            .map(|element| serde_json::json!({"element": element}))
            .collect(),
        _ => return shred_fields(node, value, level, columns),
    };
    // The only child of a map or a list is repeated.
    let repeated = &node.get_fields()[0];
    if items.is_empty() {
        return shred(repeated, &Value::Null, level, columns);
    }
    level.definition += 1;
    for item in &items {
        shred_fields(repeated, item, level, columns);
        level.repetition = 1;
    }
}

fn shred_fields(node: &Type, value: &Value, level: Level, mut columns: &mut [ColumnValues]) {
    for field in node.get_fields() {
        let (of_field, others) = columns.split_at_mut(leaves(field));
        shred(field, &value[field.name()], level, of_field);
        columns = others;
    }
}

/// Why a checkpoint cannot be read.
#[derive(Debug)]
pub(super) enum DecodeError {
    /// It is damaged.
    Damaged(String),
    /// It uses this feature.
    Unsupported(String),
}

impl From<ParquetError> for DecodeError {
    fn from(error: ParquetError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// Calls `each` for every action of a checkpoint.
pub(super) fn decode(checkpoint: Bytes, mut each: impl FnMut(Action)) -> Result<(), DecodeError> {
    let reader = SerializedFileReader::new(checkpoint)?;
    let schema = reader.metadata().file_metadata().schema();
    let projection = known_columns(schema)?;
    for row in reader.get_row_iter(Some(projection))? {
        let row = object(&row?);
        if !row[SIDECAR].is_null() {
            return Err(DecodeError::Unsupported("sidecar files".to_owned()));
        }
        let action = serde_json::from_value(row).map_err(|_| {
            DecodeError::Damaged("it has a row that is no action of Delta Lake".to_owned())
        })?;
        each(action);
    }
    Ok(())
}

/// The columns of a checkpoint that cdrlake reads. Other writers have more.
fn known_columns(schema: &Type) -> Result<Type, ParquetError> {
    let mut groups = Vec::new();
    for group in schema.get_fields().iter().filter(|group| group.is_group()) {
        if group.name() == SIDECAR {
            groups.push(Arc::clone(group));
        }
        let mut own = SCHEMA.get_fields().iter();
        let Some(own) = own.find(|own| own.name() == group.name()) else {
            continue;
        };
        let is_known = |field: &&TypePtr| {
            field.name().ends_with("Features")
                || field.name() == "deletionVector"
                || own
                    .get_fields()
                    .iter()
                    .any(|own| own.name() == field.name())
        };
        let fields = group.get_fields().iter().filter(is_known).cloned();
        let known = Type::group_type_builder(group.name())
            .with_repetition(group.get_basic_info().repetition())
            .with_fields(fields.collect());
        groups.push(Arc::new(known.build()?));
    }
    Type::group_type_builder(schema.name())
        .with_fields(groups)
        .build()
}

fn object(row: &Row) -> Value {
    let fields = row.get_column_iter();
    let fields = fields.map(|(name, field)| (name.clone(), value_of(field)));
    Value::Object(fields.filter(|(_, value)| !value.is_null()).collect())
}

fn value_of(field: &Field) -> Value {
    match field {
        Field::Bool(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::Str(text) => Value::from(&**text),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => list.elements().iter().map(value_of).collect(),
        Field::MapInternal(map) => {
            let text = |field: &Field| value_of(field).as_str().unwrap_or_default().to_owned();
            let entries = map.entries().iter();
            let entries = entries.map(|(key, value)| (text(key), value_of(value)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        // No field of an action has another type.
        _ => Value::Null,
    }
}
