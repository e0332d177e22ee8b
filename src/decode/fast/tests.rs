use proptest::prelude::*;

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
        let mut words = Vec::new();
        let kind = find_quotes(&text, &mut words);
        let mut quotes = Quotes::new(&words);
        let found: Vec<usize> = std::iter::from_fn(|| quotes.next()).collect();
        let expected: Vec<usize> = (0..text.len()).filter(|&i| text[i] == b'"').collect();
        prop_assert_eq!(found, expected);
        for block in text.as_chunks::<WORD_BYTES>().0 {
            prop_assert_eq!(look_at(block), look_one_by_one(block));
        }
        let is_odd = text.iter().any(|&byte| byte == b'\\' || byte < 0x20);
        prop_assert_eq!(kind == Kind::Odd, is_odd);
        prop_assert!(is_odd || (kind == Kind::Ascii) == text.is_ascii());
    }

    #[test]
    fn every_key_is_found_and_nothing_else(known in prop::sample::select(Field::ALL.to_vec()), other in "[a-z_]{0,20}", rest in ".{0,20}") {
        for key in [known.name(), &other] {
            let text = format!("\"{key}\"{rest}");
            let found = key_at(text.as_bytes(), 1, key.len()).and_then(field_of);
            let expected = Field::ALL.into_iter().find(|field| field.name() == key);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(Field::of(key.as_bytes()), expected);
        }
    }
}

#[test]
fn what_the_api_writes_takes_the_fast_path_in_any_order_of_keys() {
    use crate::simulator::{Generator, KeyOrder};
    use crate::slice::{Direction, Slice, parse_day};

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
