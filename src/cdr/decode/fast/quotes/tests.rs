use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_quotation_mark_that_is_not_escaped_is_found(
        text in prop::collection::vec(
            prop::sample::select(b"\"\"a\\\\ \x1F\x80\xFF=%@&5-<\0".to_vec()),
            0..300,
        ),
        ascii: bool,
    ) {
        let text: Vec<u8> = if ascii {
            text.into_iter().filter(|byte| matches!(byte, b' '..=b'~')).collect()
        } else {
            text
        };
        let mut is_escaped = false;
        let marks: Vec<bool> = text
            .iter()
            .map(|&byte| {
                let was_escaped = std::mem::replace(&mut is_escaped, false);
                is_escaped = byte == b'\\' && !was_escaped;
                byte == b'"' && !was_escaped
            })
            .collect();
        // Leftovers of a longer record.
        let mut words = vec![u64::MAX; 9];
        let (quotes, class) = Quotes::find(&text, &mut words);
        for at in 0..text.len() {
            let expected = (at..text.len()).find(|&i| marks[i]);
            prop_assert_eq!(quotes.next(at), expected);
        }
        let mut others = vec![0; quotes.words.len() - 2];
        let (blocks, rest) = text.as_chunks();
        let mut last = [b' '; WORD_BYTES];
        last[..rest.len()].copy_from_slice(rest);
        prop_assert_eq!(find_in_blocks_portably(blocks, &last, &mut others), class);
        if class.has_backslash() {
            remove_escaped(&text, &mut others);
        }
        prop_assert_eq!(&quotes.words[..others.len()], others);
        prop_assert_eq!(class.is_ascii, text.is_ascii());
        prop_assert_eq!(class.has_control(), text.iter().any(|&byte| byte < b' '));
        prop_assert_eq!(class.has_backslash(), text.contains(&b'\\'));
        let is_other_mark = |byte: &u8| *byte != b'\\' && Credentials::MARKS.contains(byte);
        prop_assert_eq!(class.has_other_marks(), text.iter().any(is_other_mark));
    }
}

#[test]
fn a_text_of_unknown_class_may_have_any_character() {
    let class = TextClass::UNKNOWN;
    assert!(class.has_control() && class.has_backslash() && class.has_other_marks());
    assert!(!class.is_ascii);
}
