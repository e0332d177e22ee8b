use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::body::decompress::Encoding;
use crate::body::framing::Format;
use crate::body::reader::{BodyLimits, Item, RecordReader};
use crate::slice_file::convert::ConvertError;

const REQUIRED_NAMES: &str = "date,from,to,duration,charge";
const VALUES: &str = "2026-10-01T10:00:00Z,11,22,60,0.01";

/// The JSON of each record of a body.
fn json_of(body: &[u8]) -> Result<Vec<Vec<u8>>, ConvertError> {
    let limits = BodyLimits {
        record_bytes: 1 << 20,
        body_bytes: 1 << 20,
    };
    let mut reader = RecordReader::new(Encoding::Identity, Format::Csv, limits);
    let mut records = Vec::new();
    let mut on_item = |item: Item<'_>| {
        match item {
            Item::Record { json, .. } => records.push(json.to_vec()),
            Item::Broken { reason, .. } => panic!("{reason}"),
        }
        Ok::<(), ConvertError>(())
    };
    reader.push(body, &mut on_item)?;
    reader.finish(&mut on_item)?;
    Ok(records)
}

/// The members of the only record of a body.
fn members(body: &[u8]) -> BTreeMap<String, serde_json::Value> {
    let records = json_of(body).unwrap();
    assert_eq!(records.len(), 1);
    serde_json::from_slice(&records[0]).unwrap()
}

fn quoted(cell: &str) -> String {
    format!("\"{}\"", cell.replace('"', "\"\""))
}

/// Otherwise every record has two members with the key `date`, and is rejected.
#[test]
fn a_column_named_like_a_field_that_another_column_holds_gets_a_number() {
    for header in [
        "Date (UTC),from,to,duration,charge,date",
        "date,from,to,duration,charge,Date (UTC)",
    ] {
        let body = format!("{header}\n2026-10-01T10:00:00Z,11,22,60,0.01,2026-10-01T10:00:00Z\n");
        let json = json_of(body.as_bytes()).unwrap().remove(0);
        let record = decode(&json).unwrap_or_else(|error| panic!("{header}: {error:?}"));
        assert_eq!(record.from_number.as_deref(), Some("11"));
        let members: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&json).unwrap();
        assert_eq!(members["date"], "2026-10-01T10:00:00Z");
        assert_eq!(members["date_2"], "2026-10-01T10:00:00Z");
    }
}

#[test]
fn a_header_with_more_columns_than_are_distinguished_is_refused() {
    for (columns, is_refused) in [(MAX_CELLS, false), (MAX_CELLS + 1, true)] {
        let header = format!("{REQUIRED_NAMES}{}\n", ",x".repeat(columns - 5));
        match json_of(header.as_bytes()) {
            Err(ConvertError::Header(error)) => {
                assert_eq!(error, HeaderError::TooManyColumns { columns });
                assert!(is_refused);
            }
            read => assert!(!is_refused && read.unwrap().is_empty()),
        }
    }
}

#[test]
fn a_time_gets_its_zone_from_a_column_in_utc_only_if_it_has_none() {
    for (name, cell, expected) in [
        ("Date (UTC)", "2026-10-01 10:00:00", "2026-10-01 10:00:00Z"),
        (
            "Date (UTC)",
            "2026-10-01T10:00:00+02:00",
            "2026-10-01T10:00:00+02:00",
        ),
        ("Date (UTC)", "2026-10-01T10:00:00Z", "2026-10-01T10:00:00Z"),
        ("date", "2026-10-01 10:00:00", "2026-10-01 10:00:00"),
    ] {
        let body = format!("{name},from,to,duration,charge\n{cell},11,22,60,0.01\n");
        assert_eq!(members(body.as_bytes())["date"], expected, "{name}: {cell}");
    }
}

proptest! {
    /// Oracle: the JSON parser of another crate.
    #[test]
    fn every_cell_becomes_the_same_text_in_json(cells in proptest::collection::vec(
        prop_oneof![any::<String>(), "[\"\\\\\u{0}-\u{1f},;|= ]{0,8}"],
        1..5,
    )) {
        let names: Vec<String> = (0..cells.len()).map(|number| format!("note{number}")).collect();
        let values: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
        let (header, row) = (names.join(","), values.join(","));
        let body = format!("{REQUIRED_NAMES},{header}\n{VALUES},{row}\n");
        let members = members(body.as_bytes());
        for (number, cell) in cells.iter().enumerate() {
            let cell = Some(cell.trim()).filter(|cell| !cell.is_empty());
            let found = members.get(&format!("note{number}"));
            prop_assert_eq!(found.and_then(|found| found.as_str()), cell);
        }
    }

    /// A record with two members of one key is rejected.
    #[test]
    fn unknown_columns_never_share_a_key(names in proptest::collection::vec(
        proptest::sample::select(
            &["a", "A", " a ", "a_1", "a_2", "a_2_2", "a_3", "column_6", "column_7", ""][..],
        ),
        1..9,
    )) {
        let values: Vec<String> = (0..names.len()).map(|value| format!("v{value}")).collect();
        let (header, row) = (names.join(","), values.join(","));
        let body = format!("{REQUIRED_NAMES},{header}\n{VALUES},{row}\n");
        let json = json_of(body.as_bytes()).unwrap().remove(0);
        prop_assert!(decode(&json).is_ok(), "{}", String::from_utf8_lossy(&json));
        let members: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&json).unwrap();
        for value in &values {
            prop_assert!(members.values().any(|found| found == value), "{}", value);
        }
    }

    #[test]
    fn case_spaces_and_punctuation_do_not_change_the_meaning_of_a_name(
        seed: u64,
        marks in proptest::collection::vec(proptest::sample::select(&[' ', '_', '-', '.'][..]), 64),
    ) {
        for (name, (field, likeness)) in &*NAMES {
            let mut written = String::new();
            for (at, letter) in name.chars().enumerate() {
                if seed >> (at % 64) & 1 == 1 {
                    written.extend(letter.to_uppercase());
                    written.push(marks[at % marks.len()]);
                } else {
                    written.push(letter);
                }
            }
            prop_assert_eq!(Field::meant_by(written.as_bytes()), Some((*field, *likeness)));
        }
    }
}
