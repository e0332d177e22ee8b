use super::numbers::replace_numbers;
use super::text::truncated_address;
use super::*;
use crate::cdr::decode::Record;

const KEY: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

fn key() -> PrivacyKey {
    PrivacyKey::try_new(KEY).unwrap()
}

fn privacy(mode: Mode) -> Privacy {
    Privacy::new(Modes::all(mode), Some(key()))
}

fn record<'a>(from: &'a str, to: &'a str, destination: &'a str, extra: &'a str) -> Record<'a> {
    let some = |text: &'a str| Some(Cow::Borrowed(text));
    Record {
        from_number: some(from),
        to_number: some(to),
        destination: some(destination),
        extra: some(extra),
        ..Record::default()
    }
}

#[test]
fn a_token_equals_the_hmac_computed_by_openssl() {
    // printf 'cdrlake number v1\0491701234567' |
    //     openssl dgst -sha256 -mac HMAC -macopt key:0123456789abcdefghijklmnopqrstuvwxyz
    assert_eq!(
        key().token("+49 170 1234567").to_string(),
        "tel_e6d85e0059aa39d49cd759b364e125cb"
    );
    assert_eq!(key().id(), "35e3f96de3ab2888");
}

#[test]
fn equal_numbers_have_equal_tokens_in_any_notation_and_others_differ() {
    let token = |address: &str| key().token(address);
    for same in [
        "+491701234567",
        "0049 170/1234567",
        "sip:+491701234567@example.com",
        "tel:+49-170-1234567",
    ] {
        assert_eq!(token(same), token("491701234567"), "{same}");
    }
    for other in [
        "491701234568",
        "1701234567",
        "911",
        "alice",
        "sip:alice@example.com",
        "",
    ] {
        assert_ne!(token(other), token("491701234567"), "{other}");
    }
    assert_eq!(token("sip:Alice@example.com"), token("alice"));
    let second = PrivacyKey::try_new(&KEY.to_uppercase()).unwrap();
    assert_ne!(second.token("911"), token("911"));
}

#[test]
fn numbers_are_hidden_in_every_field_of_a_record() {
    let extra = concat!(
        r#"{"a":13025550101,"b":"+1 (302) 555-0101","c":["x",1,2.50,"call 13025550101!"],"#,
        r#""d":{"13025550101":null},"e":"1302\u0035550101","f":"2026-10-01","#,
        r#""g":"99df5ffd-962a-410f-bcce-d08f1f7f328c"}"#
    );
    let mut hidden = record(
        "13025550101",
        "sip:+13025550101@x",
        "+1 302 555 0101",
        extra,
    );
    privacy(Mode::Pseudonymize).hide(&mut hidden);
    let token = key().token("13025550101").to_string();
    assert_eq!(hidden.from_number.as_deref(), Some(token.as_str()));
    assert_eq!(hidden.to_number, hidden.from_number);
    assert_eq!(hidden.destination, hidden.from_number);
    let expected = format!(
        concat!(
            r#"{{"a":"{token}","b":"+{token}","c":["x",1,2.50,"call {token}!"],"#,
            r#""d":{{"{token}":null}},"e":"{token}","f":"2026-10-01","#,
            r#""g":"99df5ffd-962a-410f-bcce-d08f1f7f328c"}}"#
        ),
        token = token
    );
    assert_eq!(hidden.extra.as_deref(), Some(expected.as_str()));
    serde_json::from_str::<serde_json::Value>(&expected).unwrap();
    // Hiding twice changes nothing.
    let mut again = hidden.clone();
    privacy(Mode::Pseudonymize).hide(&mut again);
    assert_eq!(again.extra, hidden.extra);
}

#[test]
fn the_last_four_digits_are_removed() {
    for (number, expected) in [
        ("13025550101", "1302555"),
        ("+1 302 555-0101", "+1 302 555"),
        ("sip:+13025550101@10.0.0.1", "sip:+1302555@10.0.0.1"),
        ("911", ""),
        ("1234", ""),
        ("12345", "1"),
        ("alice", "a"),
        ("anonymous", "anony"),
        ("13025550101.0", "1302555"),
        ("13025550101 1234", "1302555"),
        ("+4989636480-18", "+498963"),
        ("0049891234 56789", "004989"),
        ("302 555 0101 302 555 0102", "302 555 302 555"),
        ("1302555010113025550102", ""),
        ("1&nbsp;302&nbsp;555&nbsp;0101", "1 302 555"),
        ("13025550101 home", "1302555 home"),
        ("13025550101, 13025550102", "1302555, 1302555"),
        ("13025550101 ext 5", "1302555 ext 5"),
        ("sip:x@gw;from=13025550101", "sip:@gw;from=1302555"),
        ("", ""),
    ] {
        assert_eq!(truncated_address(number), expected, "{number}");
    }
    let mut hidden = record(
        "13025550101",
        "911",
        "United States",
        r#"{"a":13025550101,"b":"x 13025550101"}"#,
    );
    privacy(Mode::Truncate).hide(&mut hidden);
    assert_eq!(hidden.destination.as_deref(), Some("United States"));
    assert_eq!(
        hidden.extra.as_deref(),
        Some(r#"{"a":1302555,"b":"x 1302555"}"#)
    );
}

#[test]
fn each_column_has_its_own_mode() {
    let modes = Modes {
        from_number: Mode::Keep,
        to_number: Mode::Truncate,
        destination: Mode::Pseudonymize,
        extra: Mode::Keep,
    };
    let mut hidden = record(
        "13025550101",
        "13025550101",
        "Spain 13025550101",
        r#"{"a":13025550101}"#,
    );
    Privacy::new(modes, Some(key())).hide(&mut hidden);
    assert_eq!(hidden.from_number.as_deref(), Some("13025550101"));
    assert_eq!(hidden.to_number.as_deref(), Some("1302555"));
    assert!(
        hidden
            .destination
            .as_deref()
            .unwrap()
            .starts_with("Spain tel_")
    );
    assert_eq!(hidden.extra.as_deref(), Some(r#"{"a":13025550101}"#));
}

#[test]
fn an_erased_number_is_found_in_source_records_and_in_stored_ones() {
    let erased = || [key().token("+1 302 555 0101")];
    let records = [
        record("13025550101", "2", "x", "{}"),
        record("2", "sip:+13025550101@x", "x", "{}"),
        record("2", "3", "+13025550101", "{}"),
        record("2", "3", "x", r#"{"a":[{"b":13025550101}]}"#),
        record("2", "3", "x", r#"{"a":"to \u0031-302-555-0101"}"#),
        record("2", "3", "x", r#"{"a":"13025550102, 13025550101"}"#),
        record("2", r#""Al" <sip:+13025550101@x>"#, "x", "{}"),
        record("2", "3", "call 13025550101 now", "{}"),
    ];
    for mode in [Mode::Keep, Mode::Pseudonymize] {
        let privacy = privacy(mode).suppressing(erased()).unwrap();
        for record in &records {
            assert!(privacy.suppresses(record), "{record:?}");
            let mut stored = record.clone();
            privacy.hide(&mut stored);
            assert!(privacy.suppresses(&stored), "{mode:?}: {stored:?}");
        }
        for other in [
            record("3025550101", "2", "x", "{}"),
            record("", "", "", "{}"),
            Record::default(),
        ] {
            assert!(!privacy.suppresses(&other), "{other:?}");
        }
        for text in [
            r#"{"from":"+1 302-555-0101"#,
            "2026-10-01,13025550101,5",
            r#""\u00313025550101""#,
        ] {
            assert!(privacy.suppresses_text(text), "{text}");
            let hidden = privacy.hide_in_text(text);
            assert!(privacy.suppresses_text(&hidden), "{text}: {hidden}");
        }
        assert!(!privacy.suppresses_text("13025550102"));
    }
    let without_key = Privacy::default();
    assert!(without_key.suppressing(erased()).is_none());
    assert!(without_key.suppressing([]).is_some());
}

#[test]
fn text_beside_a_number_does_not_change_its_token() {
    let token = key().token("13025550101");
    for address in [
        r#""Al" <sip:+13025550101@x>"#,
        "+13025550101 ext 5",
        "sip:%2B13025550101@x",
        "13025550101 home",
        "13025550101.0",
    ] {
        assert_eq!(key().token(address), token, "{address}");
    }
}

#[test]
fn numbers_in_other_scripts_have_distinct_tokens() {
    let (first, second) = (key().token("৪৯১৭০১২৩৪৫৬"), key().token("৪৯১৭০১২৩৪৫৭"));
    assert_ne!(first, second);
    assert_ne!(first, key().token(""));
}

#[test]
fn numbers_in_json_are_hidden_in_any_notation() {
    let extra = concat!(
        r#"{"a":13025550101.0,"b":1.3025550101e10,"c":-13025550101,"d":"13025550101\ud800","#,
        r#""e":["13025550101, 13025550101"],"f":0.0123456789,"g":123456}"#
    );
    for mode in [Mode::Pseudonymize, Mode::Truncate] {
        let mut hidden = record("1", "2", "x", extra);
        privacy(mode).hide(&mut hidden);
        let hidden = hidden.extra.unwrap();
        assert!(
            !hidden.contains("5550101") && !hidden.contains("3025550101e"),
            "{hidden}"
        );
        assert!(
            hidden.contains("0.0123456789") && hidden.contains("123456}"),
            "{hidden}"
        );
        let json: serde_json::Value = serde_json::from_str(&hidden).unwrap();
        if mode == Mode::Pseudonymize {
            let token = key().token("13025550101").to_string();
            assert_eq!(
                (&json["a"], &json["b"], &json["c"]),
                (&token.clone().into(), &token.clone().into(), &token.into())
            );
        }
    }
}

#[test]
fn escapes_do_not_split_a_number_in_a_reject() {
    for text in [
        r"+1302\/555\/0101",
        r"130255\t50101",
        "1&nbsp;302&nbsp;555&nbsp;0101",
        r"1302\\u00355\\u003550101",
    ] {
        let hidden = privacy(Mode::Pseudonymize).hide_in_text(text).into_owned();
        assert!(
            hidden.contains("tel_") && !hidden.contains("0101"),
            "{text}: {hidden}"
        );
    }
}

#[test]
fn a_name_is_erased_in_number_and_destination() {
    let privacy = privacy(Mode::Keep)
        .suppressing([key().token("alice")])
        .unwrap();
    assert!(privacy.suppresses(&record("alice", "2", "alice", "{}")));
    assert!(privacy.suppresses(&record("1", "2", "alice", "{}")));
    assert!(!privacy.suppresses(&record("1", "2", "alice springs", "{}")));
}

#[test]
fn a_short_number_is_erased_only_as_a_whole_value() {
    let privacy = privacy(Mode::Keep)
        .suppressing([key().token("900")])
        .unwrap();
    assert!(privacy.suppresses(&record("900", "2", "x", "{}")));
    assert!(!privacy.suppresses(&record("1", "2", "Premium 900", r#"{"a":900}"#)));
    assert!(!privacy.suppresses_text(r#"{"duration":900}"#));
}

#[test]
fn a_number_hidden_in_a_text_can_still_be_erased() {
    let token = key().token("+49 170 1234567");
    for mode in [Mode::Keep, Mode::Pseudonymize] {
        let privacy = privacy(mode).suppressing([token]).unwrap();
        for text in [
            "call +491701234567 now",
            "call 0049170 1234567",
            "00 49 170 1234567",
            "+49 (170) 123-45-67",
            "491701234567, 13025550101",
            "2026-10-01 491701234567",
            "49&nbsp;170&nbsp;1234567",
            "2026-10-01,491701234567,5",
        ] {
            let extra = serde_json::to_string(&[text]).unwrap();
            for found in [record("1", "2", text, "{}"), record("1", "2", "x", &extra)] {
                assert!(privacy.suppresses(&found), "{text}");
                let mut stored = found.clone();
                privacy.hide(&mut stored);
                assert!(privacy.suppresses(&stored), "{text}: {stored:?}");
                let shown = format!("{:?}{:?}", stored.destination, stored.extra);
                assert!(mode == Mode::Keep || !shown.contains("1234567"), "{shown}");
            }
            assert!(
                privacy.suppresses_text(&privacy.hide_in_text(text)),
                "{text}"
            );
        }
    }
}

#[test]
fn numbers_in_invalid_utf8_are_hidden() {
    let privacy = privacy(Mode::Pseudonymize);
    let hidden = privacy.hide_in_bytes(b"\xff 13025550101");
    assert!(!String::from_utf8_lossy(&hidden).contains("5550101"));
    assert_eq!(&*privacy.hide_in_bytes(b"\xff x"), b"\xff x");
}

proptest::proptest! {
    #[test]
    fn extra_stays_json_and_keeps_texts_without_numbers(
        texts in proptest::collection::vec("\\PC{0,20}", 0..5),
        number: u64,
    ) {
        let json = serde_json::json!({"texts": texts, "number": number}).to_string();
        for mode in [Mode::Pseudonymize, Mode::Truncate] {
            let mut hidden = record("1", "2", "x", &json);
            privacy(mode).hide(&mut hidden);
            let hidden = hidden.extra.as_deref().unwrap();
            let hidden: serde_json::Value = serde_json::from_str(hidden).unwrap();
            proptest::prop_assert_eq!(hidden["texts"].as_array().map(Vec::len), Some(texts.len()));
            let has_numbers =
                |text: &str| matches!(replace_numbers(text, |_| String::new()), Cow::Owned(_));
            for (text, shown) in texts.iter().zip(hidden["texts"].as_array().unwrap()) {
                if !has_numbers(text) {
                    proptest::prop_assert_eq!(Some(text.as_str()), shown.as_str());
                }
            }
        }
    }
}

/// Texts that may precede or follow a number.
const BEFORE: [&str; 14] = [
    "",
    "called ",
    "2026-10-01,",
    "2026-10-01 ",
    "10:05 ",
    "https://x.example/v1/",
    "call_",
    "\"Al\" <sip:",
    "7, ",
    "7; ",
    "from=",
    "(",
    "+1 302 555 0177, ",
    "0.0270,",
];
const AFTER: [&str; 14] = [
    "",
    " seconds",
    ", 7 seconds",
    " (7)",
    " / 2",
    ",7",
    "_4917",
    "/7",
    ";ext=7",
    "?to=7",
    "@example.com>",
    ", +1 302 555 0177",
    ",0.0270,2026-10-01",
    " 2026-10-01",
];

/// A number in a notation that people or programs use, and its digits.
fn number_in_any_notation() -> impl proptest::strategy::Strategy<Value = (String, String)> {
    use proptest::prelude::*;
    let separators = [
        " ", "-", ".", "\u{a0}", "\u{202f}", "\u{2011}", "&#160;", "&nbsp;", "%20", "%C2%A0",
    ];
    let number = "[1-9][0-9]{9,14}";
    let plain = (number, prop::sample::select(vec!["", "+", "00", "%2B"]))
        .prop_map(|(number, mark)| (format!("{mark}{number}"), number));
    let script = (
        number,
        prop::sample::select(vec!['\u{9e6}', '\u{660}', '\u{1d7ce}']),
    )
        .prop_map(|(number, zero)| {
            let digit = |c: char| char::from_u32(zero as u32 + c as u32 - '0' as u32).unwrap();
            (number.chars().map(digit).collect(), number)
        });
    let grouped = (
        "[1-9][0-9]{0,2}",
        prop::collection::vec("[1-9][0-9]{2,3}", 3..4),
        prop::sample::select(separators.to_vec()),
        any::<bool>(),
    )
        .prop_map(|(country, groups, separator, has_brackets)| {
            let number = country.clone() + &groups.concat();
            let text = if has_brackets {
                format!("+{country} ({}) {}", groups[0], groups[1..].join(separator))
            } else {
                format!("+{country}{separator}{}", groups.join(separator))
            };
            (text, number)
        });
    prop_oneof![plain, script, grouped]
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_number_is_hidden_by_the_same_token_in_every_context(
        (text, number) in number_in_any_notation(),
        before in proptest::sample::select(BEFORE.to_vec()),
        after in proptest::sample::select(AFTER.to_vec()),
    ) {
        let framed = format!("{before}{text}{after}");
        let token = key().token(&number);
        let extra = serde_json::json!({"x": [framed]}).to_string();
        let line = format!("2026-10-01T10:00:00Z,{framed},5,0.0270");
        let records = [record("1", "2", &framed, "{}"), record("1", "2", "x", &extra)];
        for mode in [Mode::Keep, Mode::Pseudonymize] {
            let privacy = privacy(mode).suppressing([token]).unwrap();
            for found in &records {
                proptest::prop_assert!(privacy.suppresses(found), "{framed}");
                let mut stored = found.clone();
                privacy.hide(&mut stored);
                proptest::prop_assert!(privacy.suppresses(&stored), "{framed}: {stored:?}");
                if mode == Mode::Pseudonymize {
                    let shown = format!("{:?} {:?}", stored.destination, stored.extra);
                    assert_gone(&shown, &number, &token);
                }
            }
            for reject in [&framed, &extra, &line] {
                proptest::prop_assert!(privacy.suppresses_text(reject), "{reject}");
                let stored = privacy.hide_in_text(reject);
                proptest::prop_assert!(privacy.suppresses_text(&stored), "{reject}: {stored}");
                if mode == Mode::Pseudonymize {
                    assert_gone(&stored, &number, &token);
                }
            }
        }
        let mut truncated = records[1].clone();
        privacy(Mode::Truncate).hide(&mut truncated);
        // The text after the number may equal its last digits.
        let truncated = truncated.extra.unwrap();
        let shown = truncated.trim_end_matches("\"]}");
        let shown = shown.strip_suffix(after).unwrap_or(shown);
        let shown: String = shown.chars().filter_map(crate::privacy::numbers::digit_of).collect();
        proptest::prop_assert!(!shown.contains(&number), "{framed}: {shown}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2_000))]

    #[test]
    fn hiding_twice_changes_nothing_and_leaves_fewer_digits_than_a_number(
        text in "([0-9]{1,8}|[ ./(),+%&#;:x_-]|20|2026-10-01|%2|&#160;|sip:|@|00){0,24}",
    ) {
        // Decimals below one are not numbers.
        proptest::prop_assume!(!text.contains("0."));
        let extra = serde_json::to_string(&[&text]).unwrap();
        let mut once = record("1", "2", &text, &extra);
        privacy(Mode::Pseudonymize).hide(&mut once);
        let mut twice = once.clone();
        privacy(Mode::Pseudonymize).hide(&mut twice);
        proptest::prop_assert_eq!(&once.extra, &twice.extra, "{}", text);
        for stored in [once.destination.as_deref(), once.extra.as_deref()].into_iter().flatten() {
            let longest = stored.replace("tel_", "x").split(|c: char| !c.is_ascii_hexdigit())
                .filter(|run| run.len() < 30 && run.bytes().all(|byte| byte.is_ascii_digit()))
                .map(str::len).max().unwrap_or_default();
            proptest::prop_assert!(longest < 7, "{}: {}", text, stored);
        }
    }
}

/// Asserts that a text holds the token of a number and no part of the number.
fn assert_gone(text: &str, number: &str, token: &Token) {
    let token = token.to_string();
    assert!(text.contains(&token), "{number}: {text}");
    let rest = text.replace(&token, "");
    let digits: String = rest
        .chars()
        .filter_map(crate::privacy::numbers::digit_of)
        .collect();
    let last = number.get(number.len() - 6..).unwrap();
    assert!(
        !digits.contains(number) && !rest.contains(last),
        "{number}: {text}"
    );
}

#[test]
fn a_name_is_erased_and_hidden_alone_and_in_an_address() {
    let token = key().token("alice");
    let texts = [
        "sip:alice@example.com",
        "call sip:alice@example.com now",
        "\"Al\" <SIP:alice@example.com;user=phone>",
    ];
    for mode in [Mode::Keep, Mode::Pseudonymize] {
        let privacy = privacy(mode).suppressing([token]).unwrap();
        for text in texts {
            let extra = serde_json::json!({ "x": text }).to_string();
            for found in [record("1", "2", text, "{}"), record("1", "2", "x", &extra)] {
                assert!(privacy.suppresses(&found), "{text}");
                let mut stored = found.clone();
                privacy.hide(&mut stored);
                assert!(privacy.suppresses(&stored), "{text}: {stored:?}");
                let shown = format!("{stored:?}");
                assert!(mode == Mode::Keep || !shown.contains("alice"), "{shown}");
            }
            assert!(privacy.suppresses_text(&extra), "{text}");
        }
        for reject in [r#"{"from":"alice","to":"#, "2026-10-01, Alice ,7"] {
            assert!(privacy.suppresses_text(reject), "{reject}");
        }
        for other in ["malice", "sip:bob@alice.example", "alice in wonderland"] {
            assert!(!privacy.suppresses_text(other), "{other}");
            assert!(
                !privacy.suppresses(&record("1", "2", other, "{}")),
                "{other}"
            );
        }
    }
}
