use super::*;
use crate::cdr::amount::AmountError;
use crate::cdr::decode::TimeError;

const DATE: &str = r#""date":"2023-08-21T06:43:36.000Z""#;

fn with(members: &str) -> Result<Record<'static>, DecodeError> {
    let text = Box::leak(format!("{{{DATE},{members}}}").into_boxed_str());
    decode(text.as_bytes())
}

fn reason(text: &str) -> RejectReason {
    match decode(text.as_bytes()) {
        Err(DecodeError::Reject(reason)) => reason,
        other => panic!("{text}: {other:?}"),
    }
}

fn reason_with(members: &str) -> RejectReason {
    reason(&format!("{{{DATE},{members}}}"))
}

#[test]
fn every_column_comes_from_its_field() {
    let record = decode(
        r#"{"date":"2023-08-21T06:43:36.000Z","from":"14302287001","to":"33170363950",
            "disposition":"answered","duration":6,"destination":"France","per_minute":"0.027",
            "charge":"0.822",
            "sip_trunk":"32882","forward_fee":"0.0","uuid":"u","call_id":"u","parent_uuid":"p",
            "parent_call_id":"p","answered_by":"human"}"#
            .as_bytes(),
    )
    .unwrap();
    let nanos = |nanos| Some(Amount::from_nanos(nanos));
    let expected = Record {
        call_id: Some("u".into()),
        parent_call_id: Some("p".into()),
        call_time_us: 1_692_600_216_000_000,
        from_number: Some("14302287001".into()),
        to_number: Some("33170363950".into()),
        disposition: Some("answered".into()),
        destination: Some("France".into()),
        sip_trunk: Some("32882".into()),
        answered_by: Some("human".into()),
        duration_seconds: Some(6),
        per_minute_usd: nanos(27_000_000),
        charge_usd: nanos(822_000_000),
        forward_fee_usd: nanos(0),
        extra: None,
        is_rounded: false,
        source_day: None,
    };
    assert_eq!(record, expected);
}

#[test]
fn only_the_date_is_required_and_null_is_absent() {
    let bare = Record {
        call_time_us: 1_692_600_216_000_000,
        ..Record::default()
    };
    assert_eq!(decode(format!("{{{DATE}}}").as_bytes()).unwrap(), bare);
    let nulls = Field::ALL
        .into_iter()
        .filter(|field| *field != Field::Date)
        .map(|field| format!("\"{}\":null", field.name()));
    assert_eq!(with(&nulls.collect::<Vec<_>>().join(",")).unwrap(), bare);
    assert_eq!(reason(r#"{"from":"1"}"#), RejectReason::NoDate);
    assert_eq!(reason(r#"{"date":null}"#), RejectReason::NoDate);
    assert_eq!(reason("{}"), RejectReason::NoDate);
}

#[test]
fn bare_numbers_become_digits_and_exact_amounts() {
    let record = with(
        r#""from":12212123123,"to":18001231233,"charge":0.01,"per_minute":0.0059,
            "forward_fee":1e-5"#,
    )
    .unwrap();
    assert_eq!(
        (record.from_number.as_deref(), record.to_number.as_deref()),
        (Some("12212123123"), Some("18001231233"))
    );
    assert_eq!(record.charge_usd.unwrap().nanos(), 10_000_000);
    assert_eq!(record.per_minute_usd.unwrap().nanos(), 5_900_000);
    assert_eq!(record.forward_fee_usd.unwrap().nanos(), 10_000);
    for number in ["-1", "1.5", "true", "[]", "{}"] {
        assert!(
            matches!(
                reason_with(&format!("\"from\":{number}")),
                RejectReason::WrongType { field: "from", .. }
            ),
            "{number}"
        );
    }
}

#[test]
fn a_deprecated_alias_is_used_and_a_different_one_is_kept() {
    assert_eq!(with(r#""uuid":"u""#).unwrap().call_id.as_deref(), Some("u"));
    let record =
        with(r#""uuid":"u","call_id":"c","parent_uuid":"p","parent_call_id":null"#).unwrap();
    assert_eq!(
        (record.call_id.as_deref(), record.parent_call_id.as_deref()),
        (Some("c"), Some("p"))
    );
    assert_eq!(record.extra.as_deref(), Some(r#"{"uuid":"u"}"#));
    assert_eq!(
        with(r#""uuid":"a","call_id":"\u0061""#).unwrap().extra,
        None,
        "equal once unescaped"
    );
}

#[test]
fn a_wrong_type_is_rejected() {
    for (members, field) in [
        (r#""duration":"26 s""#, "duration"),
        (r#""duration":2147483648"#, "duration"),
        (r#""charge":true"#, "charge"),
        (r#""charge":{}"#, "charge"),
        (r#""disposition":1"#, "disposition"),
        (r#""destination":[]"#, "destination"),
        (r#""sip_trunk":32882.5"#, "sip_trunk"),
        (r#""answered_by":false"#, "answered_by"),
        (r#""call_id":-7"#, "call_id"),
        (r#""call_id":"c","uuid":true"#, "uuid"),
        (r#""parent_uuid":{}"#, "parent_uuid"),
    ] {
        match reason_with(members) {
            RejectReason::WrongType { field: found, .. } => assert_eq!(found, field),
            other => panic!("{members}: {other:?}"),
        }
    }
    assert_eq!(
        with(r#""duration":26.0"#).unwrap().duration_seconds,
        Some(26),
        "JSON has no integers"
    );
    assert_eq!(
        reason(r#"{"date":1692600216}"#),
        RejectReason::WrongType {
            field: "date",
            expected: "a string"
        }
    );
    assert_eq!(
        reason(r#"{"date":"2023-02-30T00:00:00Z"}"#),
        RejectReason::Date(TimeError::Impossible)
    );
    let amount = |error| RejectReason::Amount {
        field: "charge",
        error,
    };
    assert_eq!(
        reason_with(r#""charge":1000000000"#),
        amount(AmountError::OutOfRange)
    );
    assert_eq!(reason_with(r#""charge":"0,5""#), amount(AmountError::Comma));
    assert_eq!(
        reason_with(r#""duration":"26,5""#),
        RejectReason::Amount {
            field: "duration",
            error: AmountError::Comma,
        }
    );
}

#[test]
fn exact_values_are_accepted_in_any_notation() {
    let record =
        with(r#""duration":"26","charge":"+0.01","per_minute":" .01 ","forward_fee":"1.""#);
    let record = record.unwrap();
    assert_eq!(record.duration_seconds, Some(26));
    assert_eq!(record.charge_usd.unwrap().nanos(), 10_000_000);
    assert_eq!(record.per_minute_usd.unwrap().nanos(), 10_000_000);
    assert_eq!(record.forward_fee_usd.unwrap().nanos(), 1_000_000_000);

    let record =
        with(r#""sip_trunk":32882,"uuid":7,"call_id":"7","parent_uuid":8,"parent_call_id":9"#);
    let record = record.unwrap();
    assert_eq!(record.sip_trunk.as_deref(), Some("32882"));
    assert_eq!(record.call_id.as_deref(), Some("7"));
    assert_eq!(record.parent_call_id.as_deref(), Some("9"));
    assert_eq!(record.extra.as_deref(), Some(r#"{"parent_uuid":8}"#));
}

#[test]
fn a_rounded_value_keeps_its_original_text_in_extra() {
    let text = r#"{"date":"2023-08-21T06:43:36.000000999Z","zone":"x","duration":26.5,
        "charge":0.30000000000000004,"per_minute":" 0.00000000015 ","forward_fee":"0.0"}"#;
    let record = decode(text.as_bytes()).unwrap();
    assert_eq!(record.call_time_us, 1_692_600_216_000_000);
    assert_eq!(record.duration_seconds, Some(27));
    assert_eq!(record.charge_usd.unwrap().nanos(), 300_000_000);
    assert_eq!(record.per_minute_usd.unwrap().nanos(), 0);
    assert_eq!(
        record.extra.as_deref(),
        Some(concat!(
            r#"{"charge":0.30000000000000004,"date":"2023-08-21T06:43:36.000000999Z","#,
            r#""duration":26.5,"per_minute":" 0.00000000015 ","zone":"x"}"#
        ))
    );
    let is_rounded_by_extra = |record: &Record<'_>| record.extra.as_deref().is_some_and(is_rounded);
    assert!(record.is_rounded && is_rounded_by_extra(&record));
    // A field's name elsewhere in `extra` has no meaning.
    for members in [
        r#""forward_fee":0.10"#,
        r#""x":"charge","y":{"charge":1},"charge_note":1,"z":"\"date\":""#,
        r#""uuid":"a","call_id":"date""#,
    ] {
        let record = with(members).unwrap();
        assert!(
            !record.is_rounded && !is_rounded_by_extra(&record),
            "{members}"
        );
    }
}

#[test]
fn an_empty_string_instead_of_a_number_means_no_value() {
    let nothing = with(r#""duration":null"#).unwrap();
    for empty in [r#""""#, r#""  ""#, r#""\t""#] {
        let members = ["duration", "charge", "per_minute", "forward_fee"]
            .map(|field| format!("\"{field}\":{empty}"));
        assert_eq!(with(&members.join(",")).unwrap(), nothing, "{empty}");
    }
    assert_eq!(reason(r#"{"date":""}"#), RejectReason::NoDate);
}

#[test]
fn phone_numbers_from_a_spreadsheet_are_cleaned_or_rejected() {
    for number in [
        "13025550001",
        "13025550001.0",
        r#""13025550001""#,
        r#""13025550001.0""#,
        r#""'13025550001""#,
        r#""=\"13025550001\"""#,
        r#"" 13025550001 ""#,
    ] {
        let record = with(&format!("\"from\":{number},\"to\":{number}")).unwrap();
        assert_eq!(
            record.from_number.as_deref(),
            Some("13025550001"),
            "{number}"
        );
        assert_eq!(record.to_number, record.from_number, "{number}");
    }
    for ruined in [
        "1.30256E+10",
        r#""1.30256E+10""#,
        "1e3",
        r#""'1,30256E+10""#,
    ] {
        let reason = reason_with(&format!("\"to\":{ruined}"));
        assert_eq!(reason, RejectReason::LostDigits { field: "to" }, "{ruined}");
        assert!(reason.to_string().contains("spreadsheet"), "{reason}");
    }
}

#[test]
fn unknown_fields_are_kept_in_one_canonical_object() {
    let extra = |members: &str| with(members).unwrap().extra.map(Cow::into_owned);
    assert_eq!(
        extra(r#""z": 1.50 , "a" : { "y":[ 1 , {"d":1,"c":null} ], "x":"\u00e9 \" }" }, "é":true"#)
            .as_deref(),
        Some(r#"{"a":{"x":"\u00e9 \" }","y":[1,{"c":null,"d":1}]},"z":1.50,"é":true}"#)
    );
    assert_eq!(
        extra(r#""n":123456789012345678901234567890e400"#).as_deref(),
        Some(r#"{"n":123456789012345678901234567890e400}"#)
    );
    assert_eq!(
        extra(r#""a":{"k":2,"k":1}"#).as_deref(),
        Some(r#"{"a":{"k":2,"k":1}}"#),
        "inside a value both members are kept"
    );
    assert_eq!(
        extra(r#""quote\"d":"""#).as_deref(),
        Some(r#"{"quote\"d":""}"#)
    );
}

#[test]
fn nesting_has_a_limit_and_the_stack_never_overflows() {
    let nested = |depth: usize| format!("\"x\":{}{}", "[".repeat(depth), "]".repeat(depth));
    let deepest = with(&nested(MAX_DEPTH - 1)).unwrap().extra.unwrap();
    assert!(
        serde_json::from_str::<serde_json::Value>(&deepest).is_ok(),
        "other parsers can read `extra`"
    );
    assert_eq!(reason_with(&nested(MAX_DEPTH)), RejectReason::TooDeep);
    assert_eq!(reason_with(&nested(100_000)), RejectReason::TooDeep);
    assert!(matches!(
        reason_with(&format!("\"x\":{}", "[".repeat(100_000))),
        RejectReason::Syntax { .. }
    ));
    // Brackets in strings, and brackets side by side, are not nested.
    let many = format!(
        "\"x\":\"\\\"{}\",\"y\":[{}0]",
        "[".repeat(1_000),
        "{},".repeat(1_000)
    );
    assert!(with(&many).is_ok());
    // Nor do brackets in a string end an array.
    let deep = format!(
        "\"x\":{}\"{}\",{}",
        "[".repeat(100),
        "]".repeat(100),
        "[".repeat(30) + &"]".repeat(130)
    );
    assert_eq!(reason_with(&deep), RejectReason::TooDeep);
}

#[test]
fn too_deep_nesting_is_detected_before_other_problems() {
    let deep = "{\"a\":[".repeat(100_000) + &"]}".repeat(100_000);
    for members in [
        format!("\"from\":{deep}"),
        format!("\"x\":1,\"x\":{deep}"),
        format!("\"charge\":\"much\",\"x\":{deep}"),
    ] {
        assert_eq!(reason_with(&members), RejectReason::TooDeep);
    }
    assert_eq!(reason(&deep), RejectReason::TooDeep);
    // Invalid JSON may be the end of a truncated stream.
    for broken in [format!("\"x\":{deep}]"), format!("\"x\":{deep},")] {
        assert!(matches!(reason_with(&broken), RejectReason::Syntax { .. }));
    }
}

#[test]
fn a_duplicate_key_is_rejected() {
    assert_eq!(
        reason_with(r#""charge":"1","charge":"1""#),
        RejectReason::DuplicateKey {
            key: Some("charge")
        }
    );
    assert_eq!(
        reason_with(r#""x":1,"x":1"#),
        RejectReason::DuplicateKey { key: None }
    );
    assert_eq!(
        reason_with(r#""x":1,"\u0078":1"#),
        RejectReason::DuplicateKey { key: None }
    );
}

#[test]
fn a_text_that_is_not_one_json_object_is_rejected() {
    for text in ["7", "null", "\"x\"", "[]", "true"] {
        assert_eq!(reason(text), RejectReason::NotAnObject, "{text}");
    }
    for text in [
        "",
        "{",
        "{}{}",
        "{},",
        "{\"date\":\"x\"",
        "[",
        "{'a':1}",
        "{\"a\":01}",
        "{\"a\":1,}",
        "{\"a\":\"\t\"}",
        "nul",
    ] {
        assert!(
            matches!(reason(text), RejectReason::Syntax { .. }),
            "{text}"
        );
    }
    assert!(matches!(
        decode(b"{\"a\":\"\xff\"}"),
        Err(DecodeError::Reject(RejectReason::InvalidUtf8 { at: 6 }))
    ));
}

#[test]
fn an_invalid_json_value_is_reported_with_its_field() {
    for (members, expected) in [
        (r#""note":NaN"#, "expected value in `note`"),
        (r#""charge":01"#, "invalid number in `charge`"),
        (r#""a":{"b":nul}"#, "expected ident in `a`"),
        (r#""13025550001 x":NaN"#, "expected value in `[number] x`"),
    ] {
        let problem = expected.to_owned();
        assert_eq!(
            reason_with(members),
            RejectReason::Syntax { problem },
            "{members}"
        );
    }
    // The text in the place of a key may be a value.
    for members in [r#""note" "x""#, r#""x":"a","alice""#, r#""alice"}"#] {
        let problem = "expected `:`".to_owned();
        assert_eq!(
            reason_with(members),
            RejectReason::Syntax { problem },
            "{members}"
        );
    }
    let long = reason_with(&format!("\"{}\":NaN", "k".repeat(1000)));
    assert!(long.to_string().len() < 100, "{long}");
}

#[test]
fn reasons_never_quote_a_value() {
    for text in [
        r#"{"date":"2023-08-21T06:43:36Z","from":{"n":"14302287001"}}"#,
        r#"{"date":"14302287001"}"#,
        r#"{"date":"2023-08-21T06:43:36Z","charge":"14302287001"}"#,
        "14302287001",
        r#""14302287001""#,
        r#"{"14302287001":1,"14302287001":2,"date":"2023-08-21T06:43:36Z"}"#,
        r#"{"from":14302287001x}"#,
        r#"{"from":"1" "14302287001":1}"#,
        r#"{"14302287001":NaN}"#,
    ] {
        let shown = format!("{}", reason(text));
        assert!(!shown.contains("14302287001"), "{shown}");
    }
}

#[test]
fn an_object_that_only_reports_a_failure_is_a_server_error() {
    for (text, message) in [
        (r#"{"success":false}"#, "\"success\": false"),
        (
            r#"{"success":false,"message":"Internal \"error\""}"#,
            "Internal \"error\"",
        ),
        (r#"{"error":"timeout"}"#, "timeout"),
        (r#"{"error":{"code":5}}"#, "{\"code\":5}"),
    ] {
        assert_eq!(
            decode(text.as_bytes()),
            Err(DecodeError::ServerError {
                message: message.to_owned()
            }),
            "{text}"
        );
    }
    assert_eq!(
        with(r#""error":"x""#).unwrap().extra.as_deref(),
        Some(r#"{"error":"x"}"#),
        "a record may have such a field"
    );
    assert_eq!(reason(r#"{"success":true}"#), RejectReason::NoDate);
}

#[test]
fn every_field_has_its_key() {
    for field in Field::ALL {
        assert_eq!(Field::of(field.name().as_bytes()), Some(field));
    }
}
