use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use cdrlake::{Direction, SliceOutcome};
use jiff::ToSpan;
use jiff::civil::{Date, date};

use crate::server::Server;
use crate::support::{DAY, Workplace, calls};

/// The texts that the suite leaves open and this program accepts, because it keeps the text of a
/// field without a column: numbers beyond any type, and escapes of half a character. It rejects the
/// others, which are not UTF-8 or nested 500 deep.
const ACCEPTED: &[&str] = &[
    "i_number_double_huge_neg_exp",
    "i_number_huge_exp",
    "i_number_neg_int_huge_exp",
    "i_number_pos_double_huge_exp",
    "i_number_real_neg_overflow",
    "i_number_real_pos_overflow",
    "i_number_real_underflow",
    "i_number_too_big_neg_int",
    "i_number_too_big_pos_int",
    "i_number_very_big_negative_int",
    "i_string_1st_surrogate_but_2nd_missing",
    "i_string_1st_valid_surrogate_2nd_invalid",
    "i_string_incomplete_surrogate_and_escape_valid",
    "i_string_incomplete_surrogate_pair",
    "i_string_incomplete_surrogates_escape_valid",
    "i_string_invalid_lonely_surrogate",
    "i_string_invalid_surrogate",
    "i_string_inverted_surrogates_U+1D11E",
    "i_string_lone_second_surrogate",
];

/// The documents by name, or `None`, with a word, where they are not to be had.
fn documents() -> Option<BTreeMap<String, Vec<u8>>> {
    let folder = std::env::var_os("TEST_JSON_SUITE").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../shared/conformance/JSONTestSuite"
            ))
        },
        PathBuf::from,
    );
    let Ok(entries) = std::fs::read_dir(folder.join("test_parsing")) else {
        println!("skipped: JSONTestSuite is not in {}", folder.display());
        return None;
    };
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read(path).unwrap())
    };
    Some(entries.map(read).collect())
}

/// Each document is a field of the middle one of three calls of a day of its own.
#[test]
fn json_is_accepted_and_refused_as_in_the_json_test_suite() {
    let Some(documents) = documents() else {
        return;
    };
    assert_eq!(documents.len(), 318);
    let server = Server::start();
    let first = date(2025, 1, 1);
    let day_of = |number: usize| -> Date { first.checked_add((number as i64).days()).unwrap() };
    let mut lines = Vec::new();
    for (number, document) in documents.values().enumerate() {
        let day = day_of(number).to_string();
        let call = |id| calls(id, 1).replace(DAY, &day);
        let begun = format!("{{\"date\":\"{day}T00:00:00Z\",\"call_id\":\"x\",\"document\":");
        let body = [
            call(0).as_bytes(),
            begun.as_bytes(),
            document,
            b"}\n",
            call(1).as_bytes(),
        ]
        .concat();
        let is_blank = |line: &&[u8]| line.trim_ascii().is_empty();
        let records = body
            .split(|&byte| byte == b'\n')
            .filter(|line| !is_blank(line))
            .count();
        lines.push(records as u64);
        server.serve("placed", &day_of(number).to_string(), body, records as u64);
    }
    let workplace = Workplace::new(&server);
    let last = day_of(documents.len() - 1).to_string();
    let ran = workplace.run(&[
        "run",
        "--from",
        &first.to_string(),
        "--to",
        &last,
        "--direction",
        "placed",
        "--requests",
        "8",
        "--format",
        "json",
    ]);
    assert_eq!(ran.status, 0, "{ran:?}");

    let report = ran.report();
    let mut accepted = BTreeSet::new();
    for (number, name) in documents.keys().enumerate() {
        let slice = report
            .slices
            .iter()
            .find(|slice| slice.period.first_day() == day_of(number))
            .unwrap();
        assert_eq!(
            (slice.outcome, slice.direction),
            (SliceOutcome::Committed, Direction::Placed)
        );
        let counts = &slice.counts;
        assert_eq!(counts.records, lines[number], "{name}: {counts:?}");
        assert_eq!(
            counts.records,
            counts.rows + counts.rejected,
            "{name}: {counts:?}"
        );
        let is_accepted = counts.rows == 3;
        assert!(
            is_accepted || counts.rows == 2,
            "{name}: the good ones stay: {counts:?}"
        );
        match name.as_bytes()[0] {
            // A newline ends a record, wherever it stands: NDJSON has no records of two lines.
            b'y' => assert_eq!(is_accepted, lines[number] == 3, "{name}: {counts:?}"),
            b'n' => assert!(!is_accepted, "{name}: {counts:?}"),
            _ if is_accepted => drop(accepted.insert(name.as_str())),
            _ => {}
        }
    }
    assert_eq!(accepted, ACCEPTED.iter().copied().collect());
}
