use proptest::prelude::*;

use super::super::decode;
use super::*;

/// Both decoders on one record, and the fast one with whatever it remembers.
fn agree(decoder: &mut Decoder, text: &[u8]) -> bool {
    let fast = decoder.try_decode(text);
    let plain = decode(text);
    assert_eq!(
        decoder.decode(text),
        plain,
        "{}",
        String::from_utf8_lossy(text)
    );
    fast.is_some()
}

fn keys() -> impl Strategy<Value = String> {
    let known = Field::ALL.map(|field| field.name().to_owned()).to_vec();
    prop_oneof![
        20 => prop::sample::select(known),
        1 => "[a-z_]{0,8}",
        1 => Just("da\\u0074e".to_owned()),
    ]
}

fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("\"2026-10-01T10:00:00.123Z\"".to_owned()),
        2 => "\"202[0-9]-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,7})?(Z|\\+01:00| UTC)?\"",
        4 => "\"[0-9]{0,10}\\.?[0-9]{0,10}\"",
        4 => "-?[0-9]{0,11}\\.?[0-9]{0,3}",
        1 => "[0-9]{1,3}[eE][0-9]{1,2}",
        2 => "\"[ '=+]?[0-9]{1,11}[.,]?[0-9]{0,5}([eE]\\+?[0-9]{1,4})? ?\"",
        4 => "\"[a-zé ]{0,70}\"",
        2 => Just("null".to_owned()),
        1 => prop::sample::select(vec!["true", "{}", "[1]", "\"a\\\"b\"", "\"\\u00e9\"", "\"\t\"", "nul", "\"", "\"\"", "-", "01", "1."]).prop_map(str::to_owned),
    ]
}

fn records() -> impl Strategy<Value = String> {
    let space = prop_oneof![30 => Just(""), 1 => Just(" "), 1 => Just("\t")];
    let member = (keys(), values(), space)
        .prop_map(|(key, value, space)| format!("\"{key}\":{space}{value}"));
    (proptest::collection::vec(member, 0..16), any::<bool>()).prop_map(|(mut members, dated)| {
        if dated {
            members.insert(0, "\"date\":\"2026-10-01T10:00:00.123Z\"".to_owned());
        }
        format!("{{{}}}", members.join(","))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn both_decoders_agree_on_records_one_after_the_other(texts in proptest::collection::vec(records(), 1..6)) {
        let mut decoder = Decoder::default();
        for text in texts {
            agree(&mut decoder, text.as_bytes());
        }
    }

    #[test]
    fn both_decoders_agree_on_records_that_were_damaged(
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
        agree(&mut Decoder::default(), &text);
    }

    #[test]
    fn short_amounts_are_what_the_exact_parser_reads(text in "-?[0-9]{0,11}\\.?[0-9]{0,11}e?") {
        if let Some(short) = Amount::parse_short(text.as_bytes()) {
            prop_assert_eq!(Amount::parse(&text), Ok(short));
        }
    }

    #[test]
    fn quotation_marks_are_found_where_they_are(text in proptest::collection::vec(prop::sample::select(b"\"\"a\\ \x1F\x80\xFF".to_vec()), 0..300)) {
        // As a longer record may have left them.
        let mut words = vec![u64::MAX; 9];
        let kind = find_quotes(&text, &mut words);
        let quotes = Quotes { words: &words };
        for at in 0..text.len() {
            let expected = (at..text.len()).find(|&i| text[i] == b'"');
            prop_assert_eq!(quotes.next(at), expected);
        }
        let mut others = vec![0; words.len() - 2];
        prop_assert_eq!(find_quotes_by(look_at, &text, &mut others), kind);
        prop_assert_eq!(&words[..others.len()], others);
        let is_odd = text.iter().any(|&byte| byte == b'\\' || byte < 0x20);
        prop_assert_eq!(kind == Kind::Odd, is_odd);
        prop_assert!(is_odd || (kind == Kind::Ascii) == text.is_ascii());
    }

    #[test]
    fn only_times_of_day_have_seconds(clock in "[0-9:/;]{2}:[0-9:/;]{2}[:;0]\\PC{2}") {
        if let Some(clock) = clock.as_bytes().first_chunk::<8>() {
            let text = format!("2026-10-01T{}.000Z", String::from_utf8_lossy(clock));
            let start = parse_time_us("2026-10-01T00:00:00Z").unwrap();
            let expected = parse_time_us(&text).ok();
            let found = seconds_of_clock(*clock).map(|seconds| start + seconds.cast_signed() * 1_000_000);
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn every_key_is_found_and_nothing_else(known in prop::sample::select(Field::ALL.to_vec()), other in "[a-z_]{0,20}", rest in ".{0,20}") {
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

#[test]
fn what_the_api_writes_takes_the_fast_path_in_any_order_of_keys() {
    use crate::cdr::slice::{Direction, Slice, parse_day};
    use crate::simulator::{Generator, KeyOrder};

    for key_order in [KeyOrder::Fixed, KeyOrder::Shuffled] {
        let generator = Generator {
            seed: 1,
            calls_per_day: 10_000,
            key_order,
        };
        let mut decoder = Decoder::default();
        for direction in Direction::ALL {
            let day = parse_day("2026-10-01").unwrap();
            for index in 0..1_000 {
                let mut text = Vec::new();
                generator.render(&generator.call(Slice { day, direction }, index), &mut text);
                assert!(
                    agree(&mut decoder, &text),
                    "{}",
                    String::from_utf8_lossy(&text)
                );
            }
        }
    }
}

#[test]
fn the_published_records_take_it_too() {
    let mut decoder = Decoder::default();
    let published = [
        r#"{"date":"2023-08-21T06:43:36.000Z","from":"13022872001","to":"33170363950","duration":26,"charge":"0.00325","destination":"France","sip_trunk":null,"per_minute":"0.0075","disposition":"answered","call_id":"0d8b1d0a","uuid":"0d8b1d0a","answered_by":"human"}"#,
        r#"{"date":"2023-08-21T06:43:36.000Z","from":13022872001,"to":33170363950,"duration":26,"charge":0.01,"per_minute":0.02}"#,
    ];
    for text in published {
        assert!(agree(&mut decoder, text.as_bytes()), "{text}");
    }
}

#[test]
fn every_second_of_a_day_is_read() {
    for expected in 0..86_400_u64 {
        let (hour, minute, second) = (expected / 3_600, expected / 60 % 60, expected % 60);
        let text = format!("{hour:02}:{minute:02}:{second:02}");
        let clock = text.as_bytes().first_chunk::<8>().unwrap();
        assert_eq!(seconds_of_clock(*clock), Some(expected));
    }
}

#[test]
fn a_record_with_any_one_byte_changed_means_to_both_the_same() {
    let text = r#"{"date":"2023-08-21T06:43:36.000Z","from":"1","to":33,"duration":26,"charge":"0.5","parent_call_id":null,"destination":"Saint-Denis de la Réunion, and much more, so that it is long"}"#.as_bytes();
    for at in 0..text.len() {
        for &byte in b"\"\\{}[]:,;.+- 0169/TZen\t\x1F\x7F\xA9\xC3\xFF" {
            let mut decoder = Decoder::default();
            assert!(agree(&mut decoder, text));
            let mut changed = text.to_vec();
            changed[at] = byte;
            agree(&mut decoder, &changed);
        }
        agree(&mut Decoder::default(), &text[..at]);
    }
}
