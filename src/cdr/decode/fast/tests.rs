use proptest::prelude::*;

use super::super::decode;
use super::*;

/// Asserts that both decoders agree on a record. Returns whether the fast path decoded it.
fn assert_agree(decoder: &mut Decoder, text: &[u8]) -> bool {
    let fast = decoder.try_decode(text);
    let plain = decode(text);
    assert_eq!(
        decoder.decode(text),
        plain,
        "{}",
        String::from_utf8_lossy(text)
    );
    assert_eq!(
        decoder.call_time_us(text),
        call_time_us(text, &mut LocalTimes::default())
    );
    fast.is_some()
}

fn keys() -> impl Strategy<Value = String> {
    let known = Field::ALL.map(|field| field.name().to_owned()).to_vec();
    prop_oneof![
        20 => prop::sample::select(known),
        3 => "[a-c]{1,2}",
        1 => "[a-z_é]{0,20}",
        1 => "\\\\[nx\"\\\\]",
        1 => Just("da\\u0074e".to_owned()),
    ]
}

fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("\"2026-10-01T10:00:00.123Z\"".to_owned()),
        2 => concat!(
            "\"202[0-9]-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9]",
            "(\\.[0-9]{0,7})?(Z|\\+01:00| UTC)?\"",
        ),
        4 => "\"[0-9]{0,10}\\.?[0-9]{0,10}\"",
        4 => "-?[0-9]{0,11}\\.?[0-9]{0,3}",
        1 => "[0-9]{1,3}[eE][0-9]{1,2}",
        2 => "\"[ '=+]?[0-9]{1,11}[.,]?[0-9]{0,5}([eE]\\+?[0-9]{1,4})? ?\"",
        4 => "\"[a-zé ]{0,70}\"",
        2 => Just("null".to_owned()),
        2 => nested(),
    ]
}

/// Strings with escapes, and values of types that only fields without a column may have.
fn nested() -> impl Strategy<Value = String> {
    let leaves = prop_oneof![
        2 => prop::sample::select(vec![
            "true", "false", "{}", "[]", "{ }", "[ ]", "[1]", "\"a\\\"b\"", "\"\\u00e9\"", "\"\t\"",
            "nul", "\"", "\"\"", "-", "01", "1.", "1e5", "-0.0", "1E400", "truefalse", "NaN",
            "\"\\\\\"", "\"\\ud800\"", "\"\\x\"", "\"\\u12\"", "\"1\\u0032\"", "{\"a\":}", "[,]",
            "[1,]",
        ])
        .prop_map(str::to_owned),
        2 => "\"[ a-zé{}\\[\\]:,]{0,70}\"",
        1 => "-?[0-9]{1,3}(\\.[0-9]{1,3})?",
    ];
    leaves.prop_recursive(3, 12, 4, |inner| {
        let space = prop_oneof![3 => Just(""), 1 => Just(" ")];
        let element =
            (inner.clone(), space.clone()).prop_map(|(value, space)| space.to_owned() + &value);
        let member = ("[a-b]{0,2}", element.clone(), space)
            .prop_map(|(key, value, space)| format!("{space}\"{key}\"{space}:{value}{space}"));
        prop_oneof![
            proptest::collection::vec(element, 0..4).prop_map(|all| format!("[{}]", all.join(","))),
            proptest::collection::vec(member, 0..4)
                .prop_map(|all| format!("{{{}}}", all.join(","))),
        ]
    })
}

fn records() -> impl Strategy<Value = String> {
    let space = || prop_oneof![30 => Just(""), 6 => Just(" "), 1 => Just("\t")];
    let member = (keys(), values(), [space(), space(), space(), space()]).prop_map(
        |(key, value, [before, behind, inside, after])| {
            format!("{before}\"{key}\"{behind}:{inside}{value}{after}")
        },
    );
    (proptest::collection::vec(member, 0..16), any::<bool>()).prop_map(|(mut members, dated)| {
        if dated {
            members.insert(0, "\"date\":\"2026-10-01T10:00:00.123Z\"".to_owned());
        }
        format!("{{{}}}", members.join(","))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn both_decoders_agree_on_sequences_of_records(
        texts in proptest::collection::vec(records(), 1..6),
    ) {
        let mut decoder = Decoder::default();
        for text in texts {
            assert_agree(&mut decoder, text.as_bytes());
        }
    }

    #[test]
    fn both_decoders_agree_on_damaged_records(
        text in records(),
        at in any::<prop::sample::Index>(),
        byte in prop::sample::select(b"\"\\{}[]:,. 0-nt\xFF\xC3\x1F\t".to_vec()),
        cut: bool,
    ) {
        let mut text = text.into_bytes();
        let at = at.index(text.len());
        if cut {
            text.truncate(at);
        } else {
            text[at] = byte;
        }
        assert_agree(&mut Decoder::default(), &text);
    }

    #[test]
    fn the_parser_of_short_amounts_agrees_with_the_exact_one(
        text in "-?[0-9]{0,11}\\.?[0-9]{0,11}e?",
    ) {
        if let Some(short) = Amount::parse_short(text.as_bytes()) {
            prop_assert_eq!(Amount::parse(&text), Ok(short));
        }
    }

    #[test]
    fn seconds_of_clock_agrees_with_the_exact_parser(
        clock in "[0-9:/;]{2}:[0-9:/;]{2}[:;0]\\PC{2}",
    ) {
        if let Some(clock) = clock.as_bytes().first_chunk::<8>() {
            let text = format!("2026-10-01T{}.000Z", String::from_utf8_lossy(clock));
            let start = parse_time_us("2026-10-01T00:00:00Z").unwrap();
            let expected = parse_time_us(&text).ok();
            let found = seconds_of_clock(*clock)
                .map(|seconds| start + seconds.cast_signed() * 1_000_000);
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn exactly_the_known_keys_are_found(
        known in prop::sample::select(Field::ALL.to_vec()),
        other in "[a-z_]{0,20}",
        rest in ".{0,20}",
    ) {
        for key in [known.name(), &other] {
            let text = format!("\"{key}\"{rest}");
            let found = key_at(text.as_bytes(), 1, key.len()).and_then(field_of);
            let expected = Field::ALL.into_iter().find(|field| field.name() == key);
            prop_assert_eq!(Field::of(format!("{key}\0").as_bytes()), None);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(Field::of(key.as_bytes()), expected);
        }
    }
}

/// The forms of the benchmarks.
const FORMS: [fn(&str) -> String; 6] = [
    str::to_owned,
    |record| record.replacen('{', r#"{"recording_url":"https://example.com/a.mp3","#, 1),
    |record| {
        let quality = r#""quality":{"mos":4.21,"network":{"jitter_ms":12,"codec":"opus"}}"#;
        record.replacen('{', &format!("{{\"tags\":null,{quality},"), 1)
    },
    |record| record.replacen(r#""destination":""#, r#""destination":"\u00c9 "#, 1),
    |record| record.replace(",\"", ", \"").replace("\":", "\": "),
    with_bare_numbers,
];

fn with_bare_numbers(record: &str) -> String {
    let mut record = record.to_owned();
    for key in ["from", "to", "per_minute", "charge", "forward_fee"] {
        if let Some((before, rest)) = record.split_once(&format!("\"{key}\":\""))
            && let Some((number, after)) = rest.split_once('"')
            && number.parse::<f64>().is_ok()
        {
            record = format!("{before}\"{key}\":{number}{after}");
        }
    }
    record
}

#[test]
fn the_api_s_records_take_the_fast_path_in_any_order_of_keys() {
    use crate::cdr::slice::{Direction, Slice, parse_day};
    use crate::simulator::{Generator, KeyOrder};

    let day = parse_day("2026-10-01").unwrap();
    for key_order in [KeyOrder::Fixed, KeyOrder::Shuffled] {
        let generator = Generator {
            seed: 1,
            calls_per_day: 10_000,
            key_order,
        };
        for form in FORMS {
            let mut decoder = Decoder::default();
            for direction in Direction::ALL {
                for index in 0..200 {
                    let mut text = Vec::new();
                    generator.render(
                        &generator.call(Slice::of_day(day, direction), index),
                        &mut text,
                    );
                    let text = form(std::str::from_utf8(&text).unwrap());
                    assert!(assert_agree(&mut decoder, text.as_bytes()), "{text}");
                }
            }
        }
    }
}

#[test]
fn the_published_records_take_the_fast_path() {
    let mut decoder = Decoder::default();
    let published = [
        concat!(
            r#"{"date":"2023-08-21T06:43:36.000Z","from":"13022872001","to":"33170363950","#,
            r#""duration":26,"charge":"0.00325","destination":"France","sip_trunk":null,"#,
            r#""per_minute":"0.0075","disposition":"answered","call_id":"0d8b1d0a","#,
            r#""uuid":"0d8b1d0a","answered_by":"human"}"#
        ),
        concat!(
            r#"{"date":"2023-08-21T06:43:36.000Z","from":13022872001,"to":33170363950,"#,
            r#""duration":26,"charge":0.01,"per_minute":0.02}"#
        ),
    ];
    for text in published {
        assert!(assert_agree(&mut decoder, text.as_bytes()), "{text}");
    }
}

#[test]
fn common_forms_of_records_take_the_fast_path() {
    let forms = [
        // A field that the provider added.
        r#"{"date":"2026-10-01T10:00:00Z","recording_url":"https://example.com/a?b=c"}"#,
        r#"{"z":{"b":[1,{"d":null,"c":true}],"a":-1.5e3},"date":"2026-10-01T10:00:00Z","a":""}"#,
        // An escape in a text, in an id and in a field without a column.
        r#"{"date":"2026-10-01T10:00:00Z","destination":"R\u00e9union \"\/\"","call_id":"\\"}"#,
        r#"{"date":"2026-10-01T10:00:00Z","note":"\u00e9\\"}"#,
        r#"{"date":"2026-10-01T10:00:00Z","destination":"\b\f\n\r\t","from":"13025550001"}"#,
        r#"{"date":"2026-10-01T10:00:00Z","duration":999999999}"#,
        // Python's `json.dumps`.
        r#"{"date": "2026-10-01T10:00:00Z", "charge": 0.5, "to": 3, "sip_trunk": 7, "a": [1, 2]}"#,
        r#"{ "date" : "2026-10-01T10:00:00Z" , "duration" : 3 , "a" : { } }"#,
    ];
    for text in forms {
        let mut decoder = Decoder::default();
        for _ in 0..2 {
            assert!(assert_agree(&mut decoder, text.as_bytes()), "{text}");
        }
    }
}

#[test]
fn the_plain_decoder_handles_the_values_that_the_fast_one_does_not_support() {
    for members in [
        // White space and a spreadsheet's marks are removed after unescaping.
        r#""from":"\t13025550001""#,
        r#""to":"=\"13025550001\"""#,
        r#""duration":1000000000"#,
        r#""duration":2147483648"#,
        r#""call_id":"c","uuid":"u""#,
    ] {
        let text = format!(r#"{{"date":"2026-10-01T10:00:00Z",{members}}}"#);
        assert!(
            !assert_agree(&mut Decoder::default(), text.as_bytes()),
            "{text}"
        );
    }
}

#[test]
fn only_texts_with_an_escape_are_copied() {
    let text = r#"{"date":"2026-10-01T10:00:00Z","call_id":"\\","to":"1","answered_by":"\\"}"#;
    let record = Decoder::default().try_decode(text.as_bytes()).unwrap();
    assert!(matches!(record.call_id, Some(Cow::Owned(_))));
    assert!(matches!(record.to_number, Some(Cow::Borrowed(_))));
}

#[test]
fn the_order_of_keys_is_that_of_the_last_record() {
    let date = r#""date":"2026-10-01T10:00:00Z""#;
    let members = [
        r#""from":"13025550001""#,
        r#""note":1"#,
        date,
        r#""charge":"0.5""#,
        r#""to":"2""#,
    ];
    let fields = [
        Some(Field::From),
        None,
        Some(Field::Date),
        Some(Field::Charge),
        Some(Field::To),
    ];
    let (mut other_members, mut other_fields) = (members, fields);
    other_members.reverse();
    other_fields.reverse();
    let mut decoder = Decoder::default();
    // Of the first record's keys, nothing is expected. All but `date` move in the third one.
    for (members, fields, mispredicted) in [
        (members, fields, 0),
        (members, fields, 0),
        (other_members, other_fields, 4),
        (other_members, other_fields, 0),
    ] {
        let text = format!("{{{}}}", members.join(","));
        decoder.try_decode(text.as_bytes()).unwrap();
        assert_eq!(decoder.order.fields, fields);
        assert_eq!(decoder.order.mispredicted, mispredicted);
    }
}

#[test]
fn a_value_is_found_behind_its_expected_key() {
    for field in Field::ALL {
        let key = field.name();
        let text = format!(r#",,"{key}":"a value of some length""#);
        let value_at =
            |field, at, delimiter| Member::of(field).value_at(text.as_bytes(), at, delimiter);
        assert_eq!(value_at(field, 1, b','), text.find("\"a value"), "{key}");
        assert_eq!(value_at(field, 1, b'{'), None, "{key}");
        assert_eq!(value_at(field, 0, b','), None, "{key}");
        for other in Field::ALL {
            assert_eq!(value_at(other, 1, b',').is_some(), other == field, "{key}");
        }
    }
}

#[test]
fn members_are_read_up_to_the_first_one_with_another_key() {
    let text = r#"{"from":"13025550001","to":"13025550002","note":1,"charge":"0.5"}"#;
    let mut words = Vec::new();
    let (quotes, _) = Quotes::find(text.as_bytes(), &mut words);
    let fields = [Field::From, Field::To, Field::Charge].map(Some);
    let (mut values, mut at) = (Values::default(), 0);
    let read = values.read_expected(text.as_bytes(), &mut at, b'{', &fields, quotes);
    assert_eq!(read, 2);
    assert_eq!(Some(at), text.find(",\"note\""));
}

#[test]
fn a_time_on_the_cached_date_is_parsed_without_the_exact_parser() {
    let mut dates = DateCache::default();
    dates.parse("2026-10-01T10:00:00.123Z").unwrap();
    for text in ["2026-10-01T10:00:00.123Z", "2026-10-01T23:59:59.098Z"] {
        let expected = parse_time_us(text).unwrap();
        assert_eq!(dates.time_of_cached_date(text.as_bytes()), Some(expected));
    }
    for text in [
        "2026-10-02T10:00:00.123Z",
        "2026-10-01T10:00:00Z",
        "2026-10-01T10:00:00.///Z",
        "2026-10-01T10:00:00.:::Z",
    ] {
        assert_eq!(dates.time_of_cached_date(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn each_record_has_its_class_of_characters() {
    let mut decoder = Decoder::default();
    for note in ["", "\\\\", "é", "a@b"] {
        let text = format!(r#"{{"date":"2026-10-01T10:00:00Z","note":"{note}"}}"#);
        decoder.decode(text.as_bytes()).unwrap();
        assert_eq!(decoder.text_class(), TextClass::of(text.as_bytes()));
    }
}

#[test]
fn ambiguous_times_are_counted() {
    let zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
    let mut decoder = Decoder::new(LocalTimes::new(Some(zone)));
    for (time, count) in [("12:00:00", 0), ("02:00:00", 1), ("02:59:59", 2)] {
        let text = format!(r#"{{"date":"2026-10-25 {time}"}}"#);
        decoder.decode(text.as_bytes()).unwrap();
        assert_eq!(decoder.ambiguous_times(), count);
    }
}

#[test]
fn many_objects_with_unsorted_keys_take_linear_time() {
    // A quadratic decoder would copy ten gigabytes.
    let objects = vec![r#"{"b":1,"a":2}"#; 50_000].join(",");
    let text = format!(r#"{{"date":"2026-10-01T10:00:00Z","z":[{objects}]}}"#);
    let mut decoder = Decoder::default();
    assert!(assert_agree(&mut decoder, text.as_bytes()));
    assert!(assert_agree(
        &mut decoder,
        br#"{"date":"2026-10-01T10:00:00Z"}"#
    ));
}

#[test]
fn every_second_of_a_day_is_parsed() {
    for expected in 0..86_400_u64 {
        let (hour, minute, second) = (expected / 3_600, expected / 60 % 60, expected % 60);
        let text = format!("{hour:02}:{minute:02}:{second:02}");
        let clock = text.as_bytes().first_chunk::<8>().unwrap();
        assert_eq!(seconds_of_clock(*clock), Some(expected));
    }
}

#[test]
fn a_clock_with_another_byte_instead_of_a_digit_or_a_colon_is_refused() {
    let valid = *b"11:11:11";
    for at in 0..valid.len() {
        for byte in (0..=u8::MAX).filter(|byte| !byte.is_ascii_digit() && *byte != valid[at]) {
            let mut clock = valid;
            clock[at] = byte;
            assert_eq!(seconds_of_clock(clock), None, "{clock:?}");
        }
    }
}

#[test]
fn both_decoders_agree_on_a_record_with_any_byte_changed() {
    let text = concat!(
        r#"{"date":"2023-08-21T06:43:36.000Z","from":"1","to":33,"duration":26,"charge":"0.5","#,
        r#""parent_call_id":null,"#,
        r#""destination":"Saint-Denis de la Réunion, and much more, so that it is long"}"#,
    )
    .as_bytes();
    for at in 0..text.len() {
        for &byte in b"\"\\{}[]:,;.+- 0169/TZen\t\x1F\x7F\xA9\xC3\xFF" {
            let mut decoder = Decoder::default();
            assert!(assert_agree(&mut decoder, text));
            let mut changed = text.to_vec();
            changed[at] = byte;
            assert_agree(&mut decoder, &changed);
        }
        assert_agree(&mut Decoder::default(), &text[..at]);
    }
}
