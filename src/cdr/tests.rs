//! Tests of small types that several modules rely on.

use std::collections::BTreeMap;

use jiff::civil::date;
use jiff::tz::TimeZone;

use super::amount::{AmountError, AmountSum};
use super::day::{day_us, end_of_day, start_of_day};
use super::decode::{RejectReason, TimeError};
use super::digest::Digest;
use super::reconcile::{Verdict, describe_mismatch};
use super::slice::Direction;
use super::tally::{Counts, Totals};

#[test]
fn a_day_begins_and_ends_where_the_zone_cuts_it() {
    let paris = TimeZone::get("Europe/Paris").unwrap();
    let day = date(2026, 10, 25);
    let start = start_of_day(day, &paris);
    assert_eq!(start.to_string(), "2026-10-24T22:00:00Z");
    // Clocks go back: the day has 25 hours.
    let end = end_of_day(day, &paris);
    assert_eq!(end.to_string(), "2026-10-25T23:00:00Z");
    assert_eq!(
        day_us(day, &paris),
        start.as_microsecond()..end.as_microsecond()
    );
    let utc = start_of_day(day, &TimeZone::UTC);
    assert_eq!(utc.to_string(), "2026-10-25T00:00:00Z");
}

#[test]
fn a_sum_reads_back_as_written_and_other_notations_are_refused() {
    for text in ["0", "-1.25", "123456789012345678901.000000001"] {
        let sum: AmountSum = text.parse().unwrap();
        assert_eq!(sum.to_string(), text);
        let json = serde_json::to_string(&sum).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<AmountSum>(&json).unwrap(), sum);
    }
    for text in ["1e2", "0.0000000001", "", "x"] {
        let read = text.parse::<AmountSum>();
        assert_eq!(read, Err(AmountError::NotANumber), "{text}");
    }
}

#[test]
fn verdicts_distinguish_equal_counts_from_proofs_of_completeness() {
    use Verdict::{Match, MatchWithDuplicates, MatchWithRejects, Mismatch, NotChecked, Off};

    for (verdict, is_match, is_equal) in [
        (Match, true, true),
        (MatchWithRejects, true, true),
        (MatchWithDuplicates, false, true),
        (Mismatch, false, false),
        (Off, false, false),
        (NotChecked, false, false),
    ] {
        let found = (verdict.is_match(), verdict.has_equal_count());
        assert_eq!(found, (is_match, is_equal), "{verdict}");
        // Texts and files use the same name.
        assert_eq!(serde_json::json!(verdict), verdict.to_string());
    }
}

#[test]
fn a_digest_reads_back_as_written() {
    let digest: Digest = "v2:3:00000000000000000000000000000007".parse().unwrap();
    let json = serde_json::to_string(&digest).unwrap();
    assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    assert!(serde_json::from_str::<Digest>("\"v1:3:7\"").is_err());
}

#[test]
fn each_reason_has_its_own_code_and_only_broken_texts_are_syntax_errors() {
    let columns = |found, expected| RejectReason::Columns { found, expected };
    let problem = String::new();
    let broken = [
        RejectReason::InvalidUtf8 { at: 0 },
        RejectReason::Syntax { problem },
        columns(2, 3),
    ];
    assert!(broken.iter().all(RejectReason::is_syntax));
    let field = "charge";
    let whole = [
        RejectReason::NotAnObject,
        RejectReason::DuplicateKey { key: None },
        RejectReason::NoDate,
        RejectReason::Date(TimeError::Format),
        RejectReason::WrongType {
            field,
            expected: "a string",
        },
        RejectReason::Amount {
            field,
            error: AmountError::NotANumber,
        },
        RejectReason::LostDigits { field },
        RejectReason::Escape { field },
        RejectReason::TooDeep,
        columns(4, 3),
        RejectReason::TooLong {
            length_bytes: 2,
            limit_bytes: 1,
        },
    ];
    assert!(!whole.iter().any(RejectReason::is_syntax));
    assert!(!columns(3, 3).is_syntax());
    let mut codes: Vec<&str> = broken
        .iter()
        .chain(&whole)
        .map(RejectReason::code)
        .collect();
    let is_code = |code: &&str| {
        code.bytes()
            .all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    assert!(codes.iter().all(|code| is_code(code) && !code.is_empty()));
    codes.sort_unstable();
    codes.dedup();
    // `columns` occurs twice.
    assert_eq!(codes.len(), broken.len() + whole.len() - 1);
}

#[test]
fn counts_and_sums_of_slices_are_added_field_by_field() {
    // Each field has a different number, so that a mix-up is detected.
    let counts = |factor: u64| -> Counts {
        let names = serde_json::json!(Counts::default());
        let names = names.as_object().unwrap().keys().cloned();
        let filled = (1..)
            .zip(names)
            .map(|(number, name)| (name, number * factor));
        let filled: BTreeMap<String, u64> = filled.collect();
        serde_json::from_value(serde_json::json!(filled)).unwrap()
    };
    let mut merged = counts(1);
    merged.merge(&counts(100));
    assert_eq!(merged, counts(101));

    let totals = |duration_seconds, charge: &str, fee: &str| Totals {
        duration_seconds,
        charge_usd: charge.parse().unwrap(),
        forward_fee_usd: fee.parse().unwrap(),
        by_disposition: [("busy".to_owned(), 2)].into(),
    };
    let mut merged = totals(60, "1.5", "0.25");
    merged.merge(&totals(7, "2", "4"));
    let mut expected = totals(67, "3.5", "4.25");
    expected.by_disposition.insert("busy".to_owned(), 4);
    assert_eq!(merged, expected);
}

#[test]
fn a_mismatch_is_described_with_both_counts_and_the_duplicates() {
    let counts = |records, duplicates| Counts {
        records,
        duplicates,
        rows: records - duplicates,
        ..Counts::default()
    };
    for (counts, total, expected) in [
        (
            counts(3, 0),
            Some(4),
            "the provider counts 4 calls, 3 were read",
        ),
        (
            counts(1, 0),
            Some(2),
            "the provider counts 2 calls, 1 was read",
        ),
        (
            counts(3, 1),
            Some(1),
            "the provider counts 1 call, 3 were read (1 of them a duplicate)",
        ),
        (
            counts(5, 2),
            Some(7),
            "the provider counts 7 calls, 5 were read (2 of them duplicates)",
        ),
        (
            counts(3, 0),
            None,
            "the provider's count is unavailable, so the slice cannot be proven complete",
        ),
    ] {
        assert_eq!(describe_mismatch(&counts, total), expected);
    }
}

#[test]
fn a_direction_is_parsed_from_its_name() {
    for direction in Direction::ALL {
        assert_eq!(direction.as_str().parse(), Ok(direction));
    }
    assert!("both".parse::<Direction>().is_err());
}
