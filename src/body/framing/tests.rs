#![expect(
    clippy::cast_possible_truncation,
    clippy::string_slice,
    reason = "a test may panic: that is how it fails"
)]

use proptest::prelude::*;

use super::*;

/// A frame that outlives its chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Record(Position, Boundary, String),
    Cells(Position, Boundary, String, Vec<Vec<u8>>),
    TooLong(Position, String, u64),
}

type Framed = (Vec<Owned>, Result<BodySummary, FramingError>);

fn frame(chunks: &[&[u8]], max_record_bytes: usize) -> Framed {
    frame_with(Framer::new(Format::Json, max_record_bytes), chunks)
}

fn frame_with(framer: Framer, chunks: &[&[u8]]) -> Framed {
    let mut framer = framer.with_record_keys(&[b"uuid", b"call_id", b"date", b"from", b"charge"]);
    let mut frames = Vec::new();
    let mut keep = |frame: Frame<'_>| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        frames.push(match frame {
            Frame::Record {
                at,
                boundary,
                text: bytes,
            } => Owned::Record(at, boundary, text(bytes)),
            Frame::Cells {
                at,
                boundary,
                text: bytes,
                cells,
            } => {
                let cells: Vec<_> = cells.iter().map(<[u8]>::to_vec).collect();
                Owned::Cells(at, boundary, text(bytes), cells)
            }
            Frame::TooLong {
                at,
                boundary: _,
                prefix,
                length_bytes,
            } => Owned::TooLong(at, text(prefix), length_bytes),
        });
        Ok(())
    };
    let pushed = chunks
        .iter()
        .try_for_each(|chunk| framer.push(chunk, &mut keep));
    let ended = pushed.and_then(|()| framer.finish(&mut keep));
    (frames, ended)
}

/// Frames a body whole and in chunks of 1, 3 and 7 bytes, and demands the same of all.
fn frame_any_way(body: &[u8], max_record_bytes: usize) -> Framed {
    let whole = frame(&[body], max_record_bytes);
    for size in [1, 3, 7] {
        let chunks: Vec<&[u8]> = body.chunks(size).collect();
        assert_eq!(
            frame(&chunks, max_record_bytes),
            whole,
            "in chunks of {size}"
        );
    }
    whole
}

fn texts(framed: &Framed) -> Vec<&str> {
    let frames = framed.0.iter();
    frames
        .map(|frame| match frame {
            Owned::Record(_, _, text) | Owned::Cells(_, _, text, _) => text.as_str(),
            Owned::TooLong(..) => "(too long)",
        })
        .collect()
}

fn at(line: u64, byte: u64) -> Position {
    Position { line, byte }
}

#[test]
fn each_line_is_a_record_whatever_its_ending() {
    let framed = frame_any_way(b"{\"a\":1}\n{\"a\":2}\r\n\n  \r\n{\"a\":3}", 100);
    assert_eq!(
        framed.0,
        [
            Owned::Record(at(1, 0), Boundary::Newline, "{\"a\":1}".to_owned()),
            Owned::Record(at(2, 8), Boundary::Newline, "{\"a\":2}".to_owned()),
            Owned::Record(at(5, 22), Boundary::EndOfBody, "{\"a\":3}".to_owned()),
        ]
    );
    assert_eq!(
        framed.1,
        Ok(BodySummary {
            bytes: 29,
            ..BodySummary::default()
        })
    );
}

#[test]
fn one_leading_byte_order_mark_is_stripped_and_counted() {
    let framed = frame_any_way(b"\xEF\xBB\xBF{\"a\":1}\n", 100);
    assert_eq!(
        framed.0,
        [Owned::Record(
            at(1, 3),
            Boundary::Newline,
            "{\"a\":1}".to_owned()
        )]
    );
    assert_eq!(frame_any_way(b"\xEF\xBB\xBF", 100).0, []);
    let elsewhere = frame_any_way(b"{}\n\xEF\xBB\xBF{}\n", 100);
    assert_eq!(texts(&elsewhere), ["{}", "\u{feff}{}"]);
}

#[test]
fn a_compressed_body_is_detected_wherever_it_is_cut() {
    for magic in [b"\x1F\x8B\x08\0".as_slice(), b"\x28\xB5\x2F\xFD\0"] {
        let framed = frame_any_way(magic, 100);
        assert_eq!(framed.1, Err(FramingError::Compressed { at: at(1, 0) }));
    }
    // What only begins so is a line.
    for line in [b"\x1F".as_slice(), b"\x1Fx\n", b"\x28\xB5\x2F\n"] {
        let framed = frame_any_way(line, 100);
        assert_eq!((framed.0.len(), framed.1.is_ok()), (1, true), "{line:?}");
    }
}

#[test]
fn an_empty_or_blank_body_has_no_records() {
    for body in [b"".as_slice(), b"\n", b" \r\n\r\n "] {
        let framed = frame_any_way(body, 100);
        assert_eq!(framed.0, []);
        assert_eq!(framed.1.unwrap().bytes, body.len() as u64);
    }
}

#[test]
fn a_line_of_exactly_the_limit_is_a_record_and_one_more_byte_is_not() {
    let framed = frame_any_way(b"{\"a\":12}\r\n{\"a\":123}\r\n{\"a\":1234}\n{}\n", 9);
    assert_eq!(
        framed.0,
        [
            Owned::Record(at(1, 0), Boundary::Newline, "{\"a\":12}".to_owned()),
            Owned::Record(at(2, 10), Boundary::Newline, "{\"a\":123}".to_owned()),
            Owned::TooLong(at(3, 21), "{\"a\":1234".to_owned(), 10),
            Owned::Record(at(4, 32), Boundary::Newline, "{}".to_owned()),
        ]
    );
}

#[test]
fn an_array_is_framed_element_by_element() {
    let framed = frame_any_way(
        b" [ {\"a\":[1,{\"b\":\"]}\\\"\"}]} ,\n{\"c\":2},3,\"x,]\" ] \n",
        100,
    );
    assert_eq!(
        texts(&framed),
        [
            "{\"a\":[1,{\"b\":\"]}\\\"\"}]}",
            "{\"c\":2}",
            "3",
            "\"x,]\""
        ]
    );
    assert_eq!(
        framed.0[1],
        Owned::Record(at(2, 28), Boundary::Element, "{\"c\":2}".to_owned())
    );
    assert!(framed.1.is_ok());
    assert_eq!(frame_any_way(b"[]", 100).0, []);
    let long = frame_any_way(b"[{\"a\":\"0123456789\"},{}]", 9);
    assert_eq!(
        long.0[0],
        Owned::TooLong(at(1, 1), "{\"a\":\"012".to_owned(), 18)
    );
    assert_eq!(texts(&long), ["(too long)", "{}"]);
}

#[test]
fn an_envelope_is_framed_by_its_items_in_any_order() {
    let body = br#"{ "pagination" : {"total":101,"x":"}"}, "other": [1,{"items":[7]}], "items" : [{"a":1}, {"a":2}] }"#;
    let framed = frame_any_way(body, 100);
    assert_eq!(texts(&framed), ["{\"a\":1}", "{\"a\":2}"]);
    assert_eq!(framed.1.unwrap().envelope_total, Some(101));
    for empty in [
        &br#"{"items":null,"pagination":{"total":"7"}}"#[..],
        br#"{"pagination":{"total":" 7 "}, "items" : null }"#,
    ] {
        let framed = frame_any_way(empty, 100);
        let summary = framed.1.as_ref().unwrap();
        assert_eq!((framed.0.len(), summary.envelope_total), (0, Some(7)));
    }
    let framed = frame_any_way(br#"{"items":[{"a":1}],"pagination":{"total":7}}"#, 100);
    assert_eq!(
        (texts(&framed), framed.1.unwrap().envelope_total),
        (vec!["{\"a\":1}"], Some(7))
    );
}

#[test]
fn an_envelope_shows_whether_it_has_a_list_and_whether_its_request_failed() {
    for (body, lacks_list) in [
        (r#"{"items":null}"#, true),
        (r#"{"pagination":{"total":3},"data":[{"a":1}]}"#, true),
        (r#"{"items":[]}"#, false),
        (r#"{"items":[],"success":true,"message":"ok"}"#, false),
        (r#"{"items":[],"error":null,"message":""}"#, false),
        (r#"{"items":[],"message":"12 calls"}"#, false),
        (r#"{"items":null,"success":true,"message":"none"}"#, true),
    ] {
        let framed = frame_any_way(body.as_bytes(), 100);
        let summary = framed.1.as_ref().unwrap();
        let expected = (0, lacks_list);
        assert_eq!((framed.0.len(), summary.lacks_list), expected, "{body}");
    }
    for (body, report) in [
        (
            r#"{"items":null,"success":false,"message":"backend down"}"#,
            r#"{"success":false,"message":"backend down"}"#,
        ),
        (
            r#"{"items":[],"error":{"code":5}}"#,
            r#"{"success":false,"error":{"code":5}}"#,
        ),
        (
            r#"{"pagination":{},"message":"later"}"#,
            r#"{"success":false,"message":"later"}"#,
        ),
        (r#"{"items":[],"success": false }"#, r#"{"success":false}"#),
    ] {
        let framed = frame_any_way(body.as_bytes(), 100);
        assert_eq!(texts(&framed), [report], "{body}");
    }
    let long = format!(r#"{{"items":[],"error":"{}"}}"#, "x".repeat(9999));
    let framed = frame_any_way(long.as_bytes(), 100);
    let report = r#"{"success":false,"error":"(too long)"}"#;
    assert_eq!(texts(&framed), [report]);
}

#[test]
fn a_total_may_be_written_with_decimals_that_are_zero() {
    for (total, expected) in [
        ("12", Some(12)),
        ("12.0", Some(12)),
        ("\"12.00\"", Some(12)),
        ("12.5", None),
        ("-1.0", None),
        ("1e30", None),
        ("\"x\"", None),
    ] {
        let body = format!("{{\"items\":[],\"pagination\":{{\"total\":{total}}}}}");
        let framed = frame_any_way(body.as_bytes(), 100);
        assert_eq!(framed.1.unwrap().envelope_total, expected, "{total}");
    }
}

#[test]
fn lines_are_records_whatever_they_begin_with() {
    for first in [
        "{\"items\":[{\"a\":1}],\"date\":\"x\"}",
        "{\"pagination\":{\"total\":7}}",
        "[1,2]",
        "<html>",
        "\x1F\u{8}",
        "\u{feff}{}",
        "date,from",
    ] {
        let body = format!("{first}\n\n{{\"b\":2}}\r\n{first}");
        for size in 1..=body.len() {
            let chunks: Vec<&[u8]> = body.as_bytes().chunks(size).collect();
            let framed = frame_with(Framer::new(Format::Lines, 100), &chunks);
            assert_eq!(texts(&framed), [first, "{\"b\":2}", first], "{size}");
            assert_eq!(framed.1.unwrap().bytes, body.len() as u64);
        }
    }
}

#[test]
fn a_record_with_another_first_key_is_a_line() {
    for body in [
        "{\"item\":1}\n{}",
        "{\"itemsX\":1}\n{}",
        "{ \"a\":\"items\"}\n{}",
        "{}\n{}",
        "{\n{}",
        "7\n8",
    ] {
        assert_eq!(
            texts(&frame_any_way(body.as_bytes(), 100)).len(),
            2,
            "{body}"
        );
    }
}

#[test]
fn a_list_that_is_cut_anywhere_is_an_error() {
    for body in [
        br#"[{"a":1},{"b":[2]}]"#.as_slice(),
        br#"{"items":[{"a":1}],"pagination":{"total":7}}"#,
    ] {
        for end in 1..body.len() {
            let framed = frame_any_way(&body[..end], 100);
            let cut_before_the_key_is_known = body[0] == b'{' && end < r#"{"items""#.len();
            if cut_before_the_key_is_known {
                assert_eq!(
                    framed.0.len(),
                    1,
                    "a line that is not JSON: decoding will see that it was cut"
                );
            } else {
                assert_eq!(
                    framed.1,
                    Err(FramingError::UnexpectedEnd {
                        at: at(1, end as u64)
                    })
                );
            }
        }
    }
}

#[test]
fn text_that_json_does_not_allow_between_elements_is_an_error() {
    for body in [
        "[1 2]",
        "[1,]",
        "[,1]",
        "[1],",
        "[1] x",
        "[}",
        "{\"items\":7}",
        "{\"items\":nul}",
        "{\"items\":nullx}",
        "{\"items\":null null}",
        "{\"items\":nope,\"a\":1}",
        "{\"items\" []}",
        "{\"items\":[],}",
        "{\"items\":[] \"x\":1}",
        "{\"items\":[]}{",
        "{\"pagination\":}",
    ] {
        let framed = frame_any_way(body.as_bytes(), 100);
        assert!(
            matches!(framed.1, Err(FramingError::Syntax { .. })),
            "{body}: {framed:?}"
        );
    }
}

#[test]
fn an_object_that_begins_with_much_white_space_is_a_line() {
    let body = format!("{{{}\"items\":[]}}", " ".repeat(1_000_000));
    let framed = frame(&[body.as_bytes()], 2_000_000);
    assert_eq!(framed.0.len(), 1);
    let Owned::Record(_, Boundary::EndOfBody, text) = &framed.0[0] else {
        panic!("the text ends with the body");
    };
    assert_eq!(text.len(), body.len());
}

#[test]
fn a_record_that_begins_like_an_envelope_stays_one_record() {
    for body in [
        r#"{"items":[{"sku":1}],"date":"x"}"#,
        r#"{"pagination":{},"uuid":"u"}"#,
    ] {
        let framed = frame_any_way(body.as_bytes(), 100);
        assert!(
            matches!(framed.1, Err(FramingError::RecordAsEnvelope { .. })),
            "{framed:?}"
        );
    }
}

#[test]
fn a_web_page_is_not_a_list_of_records() {
    let framed = frame_any_way(b"\n<!DOCTYPE html><html></html>", 100);
    assert_eq!(framed.1, Err(FramingError::WebPage { at: at(2, 1) }));
}

#[test]
fn memory_stays_within_the_limit_and_a_chunk() {
    let mut ignore = |_: Frame<'_>| Ok::<(), FramingError>(());
    let mut json = JsonFramer::new(1000);
    let mut csv = CsvFramer::new(1000);
    for _ in 0..10_000 {
        json.push(&[b'x'; 1000], &mut ignore).unwrap();
        csv.push(&[b'x'; 1000], &mut ignore).unwrap();
    }
    assert!(json.capacity_bytes() <= 4096);
    assert!(csv.capacity_bytes() <= 4096);
    // While the first line does not end.
    let mut csv = CsvFramer::new(10_000);
    for _ in 0..9_999 {
        csv.push(b"a", &mut ignore).unwrap();
        assert!(csv.capacity_bytes() <= 40_000);
    }
    // However many cells there are, and however many lines a quotation mark too many joins.
    let mut csv = CsvFramer::new(100_000);
    csv.push(b"\"", &mut ignore).unwrap();
    for _ in 0..10_000 {
        csv.push(b"a,\n\"\",", &mut ignore).unwrap();
    }
    csv.push(b"\"", &mut ignore).unwrap();
    for _ in 0..100_000 {
        csv.push(b",", &mut ignore).unwrap();
    }
    assert!(csv.capacity_bytes() <= 400_000);
}

/// Frames CSV whole and in chunks of 1, 2 and 3 bytes, and demands the same of all.
fn frame_csv_any_way(body: &[u8], max_record_bytes: usize) -> Framed {
    let framed = |size| {
        let chunks: Vec<&[u8]> = body.chunks(size).collect();
        frame_with(Framer::new(Format::Csv, max_record_bytes), &chunks)
    };
    let whole = framed(body.len().max(1));
    for size in [1, 2, 3] {
        assert_eq!(framed(size), whole, "in chunks of {size}");
    }
    whole
}

/// The cells of each line, as text.
fn cells_of(framed: &Framed) -> Vec<Vec<String>> {
    let text = |cell: &Vec<u8>| String::from_utf8_lossy(cell).into_owned();
    let frames = framed.0.iter();
    frames
        .map(|frame| match frame {
            Owned::Cells(.., cells) => cells.iter().map(text).collect(),
            _ => vec!["(too long)".to_owned()],
        })
        .collect()
}

#[test]
fn the_first_line_of_csv_determines_the_separator() {
    for (body, expected) in [
        ("a,b\n1;2,3\n", [&["a", "b"][..], &["1;2", "3"]]),
        ("a;b\n1,2;3\n", [&["a", "b"], &["1,2", "3"]]),
        ("a\tb\r\n1,2\t3", [&["a", "b"], &["1,2", "3"]]),
        ("a|b\r1,2|\"3|\"\r", [&["a", "b"], &["1,2", "3|"]]),
        // Behind a byte order mark and blank lines; in a line that nothing ends but the next.
        ("\u{feff}\n\r\n\na;b\n1;2\n", [&["a", "b"], &["1", "2"]]),
        // What stands oftener, and not between quotation marks; commas, where that does not tell.
        ("a;b,c;d\n1;2", [&["a", "b,c", "d"], &["1", "2"]]),
        (
            "\"a,\"\"\n,,\";b\n1;2,3,4,5",
            [&["a,\"\n,,", "b"], &["1", "2,3,4,5"]],
        ),
        ("a;b,c\n1,2", [&["a;b", "c"], &["1", "2"]]),
        ("a\n1;2\n", [&["a"], &["1;2"]]),
        // A quotation mark without another.
        ("a;5\" b\n1;2\n", [&["a", "5\" b"], &["1", "2"]]),
        // What Excel looks for.
        ("sep=;\na;b\n", [&["sep=", ""], &["a", "b"]]),
    ] {
        let framed = frame_csv_any_way(body.as_bytes(), 100);
        assert_eq!(cells_of(&framed), expected, "{body:?}");
        assert_eq!(framed.1.unwrap().bytes, body.len() as u64, "{body:?}");
    }
    // A line that is longer than a record may be is looked at as far as that.
    let long = format!("a;b,{}\n1;2\n", ",".repeat(100));
    let framed = frame_csv_any_way(long.as_bytes(), 3);
    assert_eq!(cells_of(&framed), [&["(too long)"][..], &["1", "2"]]);
    let framed = frame_csv_any_way(long.as_bytes(), 5);
    assert_eq!(cells_of(&framed), [&["(too long)"][..], &["1;2"]]);
    assert_eq!(frame_csv_any_way(b"", 100).0, []);
}

#[test]
fn a_line_in_one_piece_has_the_cells_of_one_that_was_cut() {
    let lines: [(&str, &[&str]); 12] = [
        ("1,2", &["1", "2"]),
        ("1,", &["1", ""]),
        ("\"\",\"\"", &["", ""]),
        ("\"a, b\",2", &["a, b", "2"]),
        ("1,\"b\"", &["1", "b"]),
        ("1,\"b\"\r", &["1", "b"]),
        ("1,2\r", &["1", "2"]),
        ("\"a \"\"b\"\"\",2", &["a \"b\"", "2"]),
        ("5\",2", &["5\"", "2"]),
        ("\"a\"b,2", &["ab", "2"]),
        ("\"a\nb\",2", &["a\nb", "2"]),
        ("1,2,\"3\",4", &["1", "2", "3", "4"]),
    ];
    for (line, expected) in lines {
        let framed = frame_csv_any_way(format!("x,y\n{line}\n{line}\n1,2\n").as_bytes(), 100);
        let cells = cells_of(&framed);
        assert_eq!(cells[1..], [expected, expected, &["1", "2"]], "{line}");
    }
}

#[test]
fn csv_that_ends_within_quotation_marks_is_truncated() {
    let csv = |body: &str| frame_with(Framer::new(Format::Csv, 100), &[body.as_bytes()]);
    let (frames, ended) = csv("a,b\n1,\"Canada, Tor");
    assert_eq!(frames.len(), 1);
    assert_eq!(ended, Err(FramingError::OpenQuote { at: at(2, 4) }));
    let (frames, ended) = csv("a,b\r\n1,\"Can\"\"ada\"");
    assert_eq!(ended.unwrap().bytes, 17);
    let cells = vec![b"1".to_vec(), b"Can\"ada".to_vec()];
    let text = "1,\"Can\"\"ada\"".to_owned();
    assert_eq!(
        frames[1],
        Owned::Cells(at(2, 5), Boundary::EndOfBody, text, cells)
    );
}

#[test]
fn a_byte_order_mark_behind_blank_lines_is_part_of_its_cell_however_it_is_cut() {
    let body = "\n\n\u{feff}a,b\n";
    for size in 1..=body.len() {
        let chunks: Vec<&[u8]> = body.as_bytes().chunks(size).collect();
        let (frames, _) = frame_with(Framer::new(Format::Csv, 100), &chunks);
        let cells = vec!["\u{feff}a".into(), b"b".to_vec()];
        let text = "\u{feff}a,b".to_owned();
        assert_eq!(
            frames,
            [Owned::Cells(at(3, 2), Boundary::Newline, text, cells)]
        );
    }
}

#[test]
fn a_line_of_csv_that_is_too_long_is_skipped() {
    let long = format!("1,\"{}\"", "a\n\"\"".repeat(100));
    let body = format!("a,b\n{long}\n3,4\n");
    let (frames, _) = frame_with(Framer::new(Format::Csv, 50), &[body.as_bytes()]);
    assert_eq!(
        frames[1],
        Owned::TooLong(at(2, 4), long.chars().take(50).collect(), long.len() as u64)
    );
    assert!(matches!(&frames[2], Owned::Cells(at, ..) if at.line == 103));
}

#[test]
fn the_first_character_distinguishes_json_from_csv() {
    let first = |body: &str| {
        let (frames, ended) = frame_with(Framer::detecting(1000), &[body.as_bytes()]);
        ended.map(|_| frames.into_iter().next())
    };
    for json in [
        "{\"a\":1}",
        "\u{feff}\n {\"a\":1}",
        "[1]",
        "{\"items\":[1]}",
    ] {
        let first = first(json);
        assert!(
            matches!(first, Ok(Some(Owned::Record(..)))),
            "{json}: {first:?}"
        );
    }
    for csv in ["date,from", "\"date\",\"from\"\n", "\u{feff}\r\nDate\n"] {
        let first = first(csv);
        assert!(
            matches!(first, Ok(Some(Owned::Cells(..)))),
            "{csv}: {first:?}"
        );
    }
    assert!(matches!(first("<html>"), Err(FramingError::WebPage { .. })));
    for nothing in ["", "\n", "\u{feff}", " \n\r\t"] {
        assert_eq!(first(nothing), Ok(None), "{nothing:?}");
    }
    // As JSON has it, any amount of it.
    assert!(matches!(
        first(&format!("{}{{}}", " ".repeat(900))),
        Ok(Some(Owned::Record(..)))
    ));
}

fn quote_style(quotes_all: bool) -> ::csv::QuoteStyle {
    if quotes_all {
        ::csv::QuoteStyle::Always
    } else {
        ::csv::QuoteStyle::Necessary
    }
}

fn terminator(is_crlf: bool) -> ::csv::Terminator {
    if is_crlf {
        ::csv::Terminator::CRLF
    } else {
        ::csv::Terminator::Any(b'\n')
    }
}

proptest! {
    /// Any bytes at all, cut anywhere: the same frames, the same positions, the same errors.
    #[test]
    fn json_is_framed_equally_wherever_it_is_cut(
        body in proptest::collection::vec(
            prop_oneof![
                prop::sample::select(br#"{}[],:"\ abitems"#.as_slice()),
                prop::sample::select(b"\n\r\t <\xEF\xBB\xBF\xFF0".as_slice()),
            ],
            0..200,
        ),
        start in prop::sample::select(vec![
            "", "[", "{\"items\":[", "{\"pagination\":{}", "{\"a\":1}\n", "\u{feff}",
        ]),
        cuts in proptest::collection::vec(0_usize..220, 0..8),
        max_record_bytes in 1_usize..40,
    ) {
        let body = [start.as_bytes(), &body].concat();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect();
        prop_assert_eq!(frame(&chunks, max_record_bytes), frame(&[&body], max_record_bytes));
        let detecting = |chunks: &[&[u8]]| frame_with(Framer::detecting(max_record_bytes), chunks);
        prop_assert_eq!(detecting(&chunks), detecting(&[&body]));
    }

    /// The same of CSV: any bytes, cut anywhere.
    #[test]
    fn csv_is_framed_equally_wherever_it_is_cut(
        body in proptest::collection::vec(prop::sample::select(b"\"\",,;;\t|\n\r \
             ab\xEF\xBB\xBF\xFF".as_slice()), 0..200),
        cuts in proptest::collection::vec(0_usize..220, 0..8),
        max_record_bytes in 1_usize..40,
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect();
        let csv = |chunks: &[&[u8]]| frame_with(Framer::new(Format::Csv, max_record_bytes), chunks);
        prop_assert_eq!(csv(&chunks), csv(&[&body]));
    }

    /// The cells are those that the `csv` crate reads, and positions point at the lines.
    #[test]
    fn cells_equal_those_of_another_csv_reader(
        lines in proptest::collection::vec(
            proptest::collection::vec("[a-z\", \n\r0-9é]{0,8}", 1..6),
            0..20,
        ),
        quote_all: bool,
        crlf: bool,
        bom: bool,
    ) {
        let mut writer = ::csv::WriterBuilder::new();
        writer.flexible(true);
        writer.quote_style(quote_style(quote_all)).terminator(terminator(crlf));
        let mut writer = writer.from_writer(Vec::new());
        for line in &lines {
            writer.write_record(line).unwrap();
        }
        let text = writer.into_inner().unwrap();
        let body = [if bom { BOM } else { b"" }, &text].concat();
        let (frames, ended) = frame_with(Framer::new(Format::Csv, 1000), &[&body]);
        prop_assert_eq!(ended.unwrap().bytes, body.len() as u64);
        let mut reader = ::csv::ReaderBuilder::new();
        let reader = reader.has_headers(false).flexible(true).from_reader(&*text);
        let reader = reader.into_byte_records();
        let expected: Vec<Vec<Vec<u8>>> = reader
            .map(|record| record.unwrap().iter().map(<[u8]>::to_vec).collect())
            .collect();
        let mut found = Vec::new();
        for frame in frames {
            let Owned::Cells(at, boundary, text, cells) = frame else {
                panic!("nothing is too long")
            };
            prop_assert_eq!(boundary, Boundary::Newline);
            let from = usize::try_from(at.byte).unwrap();
            prop_assert_eq!(&body[from..from + text.len()], text.as_bytes());
            let lines_before = memchr::memchr_iter(b'\n', &body[..from]).count();
            prop_assert_eq!(at.line as usize, lines_before + 1);
            found.push(cells);
        }
        prop_assert_eq!(found, expected);
    }

    /// Whatever separates the cells, and wherever it is cut: the cells are those of the table.
    #[test]
    fn every_separator_gives_the_same_cells(
        header in proptest::collection::vec("[a-z ]{1,8}", 2..6),
        lines in proptest::collection::vec(
            proptest::collection::vec("[a-z\",;\t| \n\r0-9é]{0,8}", 2..6),
            0..20,
        ),
        quote_all: bool,
        crlf: bool,
        chunk in 1_usize..300,
    ) {
        let cells = |delimiter| {
            let mut writer = ::csv::WriterBuilder::new();
            writer.flexible(true).delimiter(delimiter);
            writer.quote_style(quote_style(quote_all)).terminator(terminator(crlf));
            let mut writer = writer.from_writer(Vec::new());
            writer.write_record(&header).unwrap();
            for line in &lines {
                writer.write_record(line).unwrap();
            }
            let body = writer.into_inner().unwrap();
            let chunks: Vec<&[u8]> = body.chunks(chunk).collect();
            cells_of(&frame_with(Framer::new(Format::Csv, 1000), &chunks))
        };
        let mut expected = vec![header.clone()];
        expected.extend(lines.iter().cloned());
        for delimiter in [b',', b';', b'\t', b'|'] {
            prop_assert_eq!(cells(delimiter), expected.clone());
        }
    }

    /// Every record's position points at its text.
    #[test]
    fn positions_point_at_the_text(
        lines in proptest::collection::vec("[a-z{}\" ]{0,12}", 0..20),
        crlf: bool,
    ) {
        let body = lines.join(if crlf { "\r\n" } else { "\n" });
        for frame in frame(&[body.as_bytes()], 1000).0 {
            let Owned::Record(at, _, text) = frame else { panic!("nothing is too long") };
            let from = usize::try_from(at.byte).unwrap();
            prop_assert_eq!(&body[from..from + text.len()], text);
            prop_assert_eq!(at.line as usize, body[..from].matches('\n').count() + 1);
        }
    }
}

/// Frames a file whole and in chunks of 1, 3 and 7 bytes, and demands the same of all.
fn frame_file_any_way(body: &[u8], max_record_bytes: usize) -> Framed {
    let framed = |size| {
        let chunks: Vec<&[u8]> = body.chunks(size).collect();
        frame_with(Framer::detecting(max_record_bytes), &chunks)
    };
    let whole = framed(body.len().max(1));
    for size in [1, 3, 7] {
        assert_eq!(framed(size), whole, "in chunks of {size}");
    }
    whole
}

#[test]
fn a_file_may_be_several_documents() {
    for (body, expected) in [
        // Objects over several lines, with and without a byte order mark between them.
        (
            "{\n  \"a\": 1\n}\n{\n  \"a\": {\"b\": \"}\\\"\"}\n}",
            &["{\n  \"a\": 1\n}", "{\n  \"a\": {\"b\": \"}\\\"\"}\n}"][..],
        ),
        (
            "\u{feff}{\n\"a\": 1}\r\n\u{feff}{\r\n\"a\": 2}",
            &["{\n\"a\": 1}", "{\r\n\"a\": 2}"],
        ),
        // Pages and arrays, one a line or not.
        (
            "{\"items\":[{\"a\":1}],\"pagination\":{\"total\":3}}\n{\"items\":[{\"a\":2}]}{ \
             \"items\":[]}\n",
            &["{\"a\":1}", "{\"a\":2}"],
        ),
        (
            "[{\"a\":1}]\n\n[{\"a\":2},{\"a\":3}][]",
            &["{\"a\":1}", "{\"a\":2}", "{\"a\":3}"],
        ),
        // Objects on one line that is longer than a record may be.
        (
            "{\"a\":1}{\"a\":2} {\"a\":3}\t{\"a\":4}{\"a\":5}\n{\"a\":6}",
            &[
                "{\"a\":1}",
                "{\"a\":2}",
                "{\"a\":3}",
                "{\"a\":4}",
                "{\"a\":5}",
                "{\"a\":6}",
            ],
        ),
        // Lines, as ever.
        (
            "{\"a\":1}\n\n{ \"a\":2}\n[\n",
            &["{\"a\":1}", "{ \"a\":2}", "["],
        ),
        (
            "{\"a\":\"a line that is too long\"}\n{}\n",
            &["(too long)", "{}"],
        ),
    ] {
        let framed = frame_file_any_way(body.as_bytes(), 30);
        assert_eq!(texts(&framed), expected, "{body}");
        assert!(framed.1.is_ok(), "{body}: {:?}", framed.1);
    }
    let framed = frame_file_any_way(
        b"{\"items\":[],\"pagination\":{\"total\":7}}\n{\"items\":[]}",
        30,
    );
    assert_eq!(framed.1.map(|summary| summary.envelope_total), Ok(Some(7)));
    let framed = frame_file_any_way(b"{\n\"a\": 1}\n{\n\"a\":", 30);
    assert_eq!(
        (framed.0.len(), framed.1),
        (1, Err(FramingError::UnexpectedEnd { at: at(4, 16) }))
    );
    // Of a server's body nothing of the kind is known.
    let framed = frame_any_way(b"[]\n[]", 30);
    assert!(
        matches!(framed.1, Err(FramingError::Syntax { .. })),
        "{framed:?}"
    );
    assert_eq!(texts(&frame_any_way(b"{\n\"a\":1}", 30)), ["{", "\"a\":1}"]);
}
