//! Object container files of Apache Avro, as far as manifests need them.
//! <https://avro.apache.org/docs/1.12.0/specification/#object-container-files>

use std::collections::HashMap;
use std::io::Read;

use flate2::Compression;
use flate2::read::{DeflateDecoder, DeflateEncoder};
use serde_json::Value as Json;

const MAGIC: &[u8] = b"Obj\x01";
/// A block is written when it has this size.
const BLOCK_BYTES: usize = 256 << 10;
/// The largest block that is read, after decompression. Other writers' blocks have 64 KiB.
const MAX_BLOCK_BYTES: u64 = 64 << 20;

/// Why a file cannot be read.
#[derive(Debug)]
pub(super) enum Problem {
    /// It is damaged: a sentence without its path.
    Damaged(String),
    /// It uses this feature.
    Unsupported(String),
}

impl Problem {
    pub(super) fn damaged(text: &str) -> Self {
        Self::Damaged(text.to_owned())
    }
}

/// The type of a value. Logical types are left out.
#[derive(Clone, Debug)]
enum Schema {
    Null,
    Boolean,
    /// `int` and `long`, which have the same encoding.
    Number,
    /// `bytes` and `string`, which have the same encoding.
    Bytes,
    /// `fixed`, `float` and `double`: this many bytes.
    Fixed(usize),
    Array(Box<Self>),
    Map(Box<Self>),
    Union(Vec<Self>),
    /// The fields, with their ids in Iceberg.
    Record(Vec<(Option<i32>, Self)>),
}

impl Schema {
    fn parse(json: &Json, named: &mut HashMap<String, Self>) -> Result<Self, Problem> {
        let malformed = || Problem::damaged("its Avro schema is malformed");
        let kind = match json {
            Json::Array(variants) => {
                let variants = variants.iter().map(|variant| Self::parse(variant, named));
                return Ok(Self::Union(variants.collect::<Result<_, _>>()?));
            }
            Json::String(kind) => kind,
            Json::Object(object) => match object.get("type") {
                Some(Json::String(kind)) => kind,
                Some(nested) => return Self::parse(nested, named),
                None => return Err(malformed()),
            },
            _ => return Err(malformed()),
        };
        let schema = match &**kind {
            "null" => Self::Null,
            "boolean" => Self::Boolean,
            "int" | "long" | "enum" => Self::Number,
            "bytes" | "string" => Self::Bytes,
            "float" => Self::Fixed(4),
            "double" => Self::Fixed(8),
            "fixed" => {
                let size = json["size"].as_u64().and_then(|size| size.try_into().ok());
                Self::Fixed(size.ok_or_else(malformed)?)
            }
            "array" => Self::Array(Box::new(Self::parse(&json["items"], named)?)),
            "map" => Self::Map(Box::new(Self::parse(&json["values"], named)?)),
            "record" => {
                let mut fields = Vec::new();
                for field in json["fields"].as_array().ok_or_else(malformed)? {
                    let id = field["field-id"].as_i64().and_then(|id| id.try_into().ok());
                    fields.push((id, Self::parse(&field["type"], named)?));
                }
                Self::Record(fields)
            }
            name => return named.get(name).cloned().ok_or_else(malformed),
        };
        if let Some(name) = json["name"].as_str() {
            named.insert(name.to_owned(), schema.clone());
        }
        Ok(schema)
    }
}

/// A decoded value, which borrows from its block.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    Boolean(bool),
    Number(i64),
    Bytes(&'a [u8]),
    /// The items of an array, or the values of a map.
    Items(Vec<Self>),
    /// The fields that have ids.
    Record(Vec<(i32, Self)>),
}

impl Value<'_> {
    /// The field with this id; `None` if it is null.
    pub(super) fn field(&self, id: i32) -> Option<&Self> {
        let Self::Record(fields) = self else {
            return None;
        };
        let (_, value) = fields.iter().find(|(found, _)| *found == id)?;
        (*value != Self::Null).then_some(value)
    }

    /// The field with this id, if it is a number.
    pub(super) fn number(&self, id: i32) -> Option<i64> {
        match self.field(id)? {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The field with this id, if it is a text or has bytes.
    pub(super) fn bytes(&self, id: i32) -> Option<&[u8]> {
        match self.field(id)? {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The field with this id, if it is a text.
    pub(super) fn text(&self, id: i32) -> Option<&str> {
        std::str::from_utf8(self.bytes(id)?).ok()
    }

    /// The items of the array with this id.
    pub(super) fn items(&self, id: i32) -> &[Self] {
        match self.field(id) {
            Some(Self::Items(items)) => items,
            _ => &[],
        }
    }
}

/// The bytes that are not decoded yet.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Problem> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| Problem::damaged("it ends early"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number in the variable-length zig-zag encoding.
    fn number(&mut self) -> Result<i64, Problem> {
        let mut bits = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            bits |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed());
            }
        }
        Err(Problem::damaged("one of its numbers is too long"))
    }

    /// The number of items or bytes that follow.
    fn count(&mut self) -> Result<usize, Problem> {
        let count = self.number()?;
        usize::try_from(count).map_err(|_| Problem::damaged("one of its lengths is negative"))
    }

    fn bytes(&mut self) -> Result<&'a [u8], Problem> {
        let count = self.count()?;
        self.take(count)
    }

    fn value(&mut self, schema: &Schema) -> Result<Value<'a>, Problem> {
        Ok(match schema {
            Schema::Null => Value::Null,
            Schema::Boolean => Value::Boolean(self.take(1)?[0] != 0),
            Schema::Number => Value::Number(self.number()?),
            Schema::Bytes => Value::Bytes(self.bytes()?),
            Schema::Fixed(size) => Value::Bytes(self.take(*size)?),
            Schema::Array(items) => Value::Items(self.items(|this| this.value(items))?),
            Schema::Map(values) => Value::Items(self.items(|this| {
                this.bytes()?;
                this.value(values)
            })?),
            Schema::Union(variants) => {
                let at = self.count()?;
                let variant = variants.get(at);
                self.value(variant.ok_or_else(|| Problem::damaged("its union has no such type"))?)?
            }
            Schema::Record(fields) => {
                let mut found = Vec::new();
                for (id, schema) in fields {
                    let value = self.value(schema)?;
                    found.extend(id.map(|id| (id, value)));
                }
                Value::Record(found)
            }
        })
    }

    /// The blocks of an array or a map.
    fn items<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, Problem>,
    ) -> Result<Vec<T>, Problem> {
        let mut items = Vec::new();
        loop {
            let mut count = self.number()?;
            if count == 0 {
                return Ok(items);
            }
            if count < 0 {
                // The block's size in bytes follows.
                self.number()?;
                count = count.wrapping_neg();
            }
            let count = usize::try_from(count).ok();
            let count = count.filter(|&count| count <= self.0.len());
            for _ in 0..count.ok_or_else(|| Problem::damaged("an array is too long"))? {
                items.push(item(self)?);
            }
        }
    }
}

/// Decodes a container, one record after the other.
pub(super) fn decode(
    bytes: &[u8],
    mut record: impl FnMut(&Value<'_>) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let mut cursor = Cursor(bytes);
    if cursor.take(MAGIC.len())? != MAGIC {
        return Err(Problem::damaged("it is not an Avro file"));
    }
    let metadata: HashMap<&[u8], &[u8]> = cursor
        .items(|cursor| Ok((cursor.bytes()?, cursor.bytes()?)))?
        .into_iter()
        .collect();
    let sync = cursor.take(16)?;
    let is_deflated = match metadata.get(&b"avro.codec"[..]) {
        None | Some(&b"null") => false,
        Some(&b"deflate") => true,
        Some(codec) => {
            let codec: String = String::from_utf8_lossy(codec).chars().take(20).collect();
            return Err(Problem::Unsupported(format!("Avro codec {codec:?}")));
        }
    };
    let schema = metadata.get(&b"avro.schema"[..]).copied();
    let schema = serde_json::from_slice(schema.unwrap_or_default())
        .map_err(|_| Problem::damaged("its Avro schema is malformed"))?;
    let schema = Schema::parse(&schema, &mut HashMap::new())?;
    let mut inflated = Vec::new();
    while !cursor.0.is_empty() {
        let records = cursor.count()?;
        let mut block = cursor.bytes()?;
        if cursor.take(16)? != sync {
            return Err(Problem::damaged("one of its blocks has no end"));
        }
        if is_deflated {
            inflated.clear();
            let mut limited = DeflateDecoder::new(block).take(MAX_BLOCK_BYTES + 1);
            let read = limited.read_to_end(&mut inflated);
            if !read.is_ok_and(|read| read as u64 <= MAX_BLOCK_BYTES) {
                return Err(Problem::damaged("one of its blocks cannot be decompressed"));
            }
            block = &inflated;
        }
        let mut block = Cursor(block);
        for _ in 0..records {
            record(&block.value(&schema)?)?;
        }
        if !block.0.is_empty() {
            return Err(Problem::damaged("one of its blocks is too long"));
        }
    }
    Ok(())
}

/// Encoded values of a schema that the caller follows.
#[derive(Default)]
pub(super) struct Values(Vec<u8>);

impl Values {
    pub(super) fn number(&mut self, number: impl Into<i64>) {
        let number = number.into();
        let mut bits = ((number << 1) ^ (number >> 63)).cast_unsigned();
        while bits >= 0x80 {
            self.0.push(bits.to_le_bytes()[0] | 0x80);
            bits >>= 7;
        }
        self.0.push(bits.to_le_bytes()[0]);
    }

    pub(super) fn boolean(&mut self, is_true: bool) {
        self.0.push(u8::from(is_true));
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// A value of a union of null and one other type.
    pub(super) fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.number(i64::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// An array.
    pub(super) fn items<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        if !items.is_empty() {
            self.count(items.len());
            for item in items {
                write(self, item);
            }
        }
        self.number(0);
    }

    fn count(&mut self, count: usize) {
        self.number(i64::try_from(count).expect("no memory has this size"));
    }
}

/// Encodes a container, whose blocks are compressed.
pub(super) struct Container {
    encoded: Values,
    sync: [u8; 16],
    block: Values,
    records: usize,
}

impl Container {
    /// A container with this schema and these entries in its header.
    pub(super) fn new(schema: &Json, metadata: &[(&str, String)]) -> Self {
        let schema = schema.to_string();
        let mut entries = vec![("avro.schema", &*schema), ("avro.codec", "deflate")];
        entries.extend(metadata.iter().map(|(key, value)| (*key, &**value)));
        let mut encoded = Values(MAGIC.to_vec());
        encoded.items(&entries, |out, (key, value)| {
            out.bytes(key.as_bytes());
            out.bytes(value.as_bytes());
        });
        let sync = fastrand::u128(..).to_be_bytes();
        encoded.0.extend_from_slice(&sync);
        Self {
            encoded,
            sync,
            block: Values::default(),
            records: 0,
        }
    }

    /// Appends a record.
    pub(super) fn append(&mut self, write: impl FnOnce(&mut Values)) {
        write(&mut self.block);
        self.records += 1;
        if self.block.0.len() >= BLOCK_BYTES {
            self.end_block();
        }
    }

    fn end_block(&mut self) {
        if self.records == 0 {
            return;
        }
        let mut deflated = Vec::new();
        DeflateEncoder::new(&*self.block.0, Compression::default())
            .read_to_end(&mut deflated)
            .expect("reading from memory cannot fail");
        self.encoded.count(self.records);
        self.encoded.bytes(&deflated);
        self.encoded.0.extend_from_slice(&self.sync);
        self.block.0.clear();
        self.records = 0;
    }

    /// The container's bytes.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.end_block();
        self.encoded.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_encoded_as_in_the_examples_of_the_specification() {
        for (number, expected) in [
            (0, vec![0x00]),
            (-1, vec![0x01]),
            (1, vec![0x02]),
            (-2, vec![0x03]),
            (2, vec![0x04]),
            (-64, vec![0x7f]),
            (64, vec![0x80, 0x01]),
        ] {
            let mut out = Values::default();
            out.number(number);
            assert_eq!(out.0, expected, "{number}");
        }
    }

    #[test]
    fn texts_arrays_and_unions_are_encoded_as_in_the_examples_of_the_specification() {
        let mut out = Values::default();
        out.bytes(b"foo");
        assert_eq!(out.0, [0x06, 0x66, 0x6f, 0x6f]);

        let mut out = Values::default();
        out.items(&[3, 27], |out, number| out.number(*number));
        assert_eq!(out.0, [0x04, 0x06, 0x36, 0x00]);

        let mut out = Values::default();
        out.optional(None::<&[u8]>, Values::bytes);
        out.optional(Some(&b"a"[..]), Values::bytes);
        assert_eq!(out.0, [0x00, 0x02, 0x02, 0x61]);

        // A record of a long 27 and a string "foo".
        let mut out = Values::default();
        out.number(27);
        out.bytes(b"foo");
        assert_eq!(out.0, [0x36, 0x06, 0x66, 0x6f, 0x6f]);
    }

    fn schema() -> Json {
        json!({"type": "record", "name": "r", "fields": [
            {"name": "number", "type": "long", "field-id": 1},
            {"name": "without_id", "type": {"type": "fixed", "name": "four", "size": 4}},
            {"name": "text", "type": ["null", "string"], "field-id": 2},
            {"name": "flags", "type": {"type": "array", "items": "boolean"}, "field-id": 3},
            {"name": "again", "type": "four", "field-id": 4},
        ]})
    }

    type Row = (i64, Option<String>, Vec<bool>, [u8; 4]);

    fn encode(rows: &[Row]) -> Vec<u8> {
        let mut container = Container::new(&schema(), &[("key", "value".to_owned())]);
        for (number, text, flags, fixed) in rows {
            container.append(|out| {
                out.number(*number);
                out.0.extend_from_slice(b"skip");
                out.optional(text.as_deref().map(str::as_bytes), Values::bytes);
                out.items(flags, |out, flag| out.boolean(*flag));
                out.0.extend_from_slice(fixed);
            });
        }
        container.finish()
    }

    fn decoded(bytes: &[u8]) -> Result<Vec<Row>, Problem> {
        let mut rows = Vec::new();
        decode(bytes, |row| {
            let flags = row
                .items(3)
                .iter()
                .map(|flag| *flag == Value::Boolean(true));
            rows.push((
                row.number(1).unwrap(),
                row.text(2).map(str::to_owned),
                flags.collect(),
                row.bytes(4).unwrap().try_into().unwrap(),
            ));
            Ok(())
        })?;
        Ok(rows)
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            rows: Vec<(i64, Option<String>, Vec<bool>, [u8; 4])>
        ) {
            prop_assert_eq!(decoded(&encode(&rows)).unwrap(), rows);
        }

        #[test]
        fn damaged_containers_are_an_error_or_have_other_values_but_never_panic(
            at in 0..200_usize, bit in 0..8_u32
        ) {
            let mut bytes = encode(&vec![(7, Some("text".to_owned()), vec![true], [1; 4]); 20]);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            drop(decode(&bytes, |_| Ok(())));
        }
    }

    #[test]
    fn large_containers_have_several_blocks() {
        let row = |number| (number, Some("x".repeat(1000)), vec![], [0; 4]);
        let rows: Vec<Row> = (0..1000).map(row).collect();
        assert_eq!(decoded(&encode(&rows)).unwrap(), rows);
    }

    #[test]
    fn every_cut_within_a_block_is_noticed() {
        let rows = vec![(7, Some("text".to_owned()), vec![true], [1; 4]); 3];
        let bytes = encode(&rows);
        let whole = encode(&[]).len();
        for end in (0..bytes.len()).filter(|&end| end != whole) {
            assert!(decoded(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn other_codecs_are_unsupported() {
        let bytes = encode(&[]);
        let at = bytes
            .windows(7)
            .position(|found| found == b"deflate")
            .unwrap();
        let mut bytes = bytes;
        bytes[at..at + 7].copy_from_slice(b"brotli7");
        let Err(Problem::Unsupported(feature)) = decoded(&bytes) else {
            panic!("it was decoded");
        };
        assert_eq!(feature, "Avro codec \"brotli7\"");
    }
}
