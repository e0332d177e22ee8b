use proptest::prelude::*;

use super::*;
use crate::cdr::columns::COLUMNS;
use crate::cdr::decode::decode;
use crate::retry::{Fate, RetryReason};
use crate::slice_file::convert::ConvertError;

const HEADER: &str = "date,from,to,duration,charge,call_id\n";
const ROW: &str = "2026-10-01T10:00:00Z,11,22,60,0.01,a\n";

/// Callers and called of the records, reasons of the rest, and fields that were missing.
type Seen = (Vec<String>, Vec<&'static str>);

fn read_with(mut reader: RecordReader, chunks: &[&[u8]]) -> Result<Seen, ConvertError> {
    let mut seen = Vec::new();
    let mut on_item = |item: Item<'_>| {
        seen.push(match item {
            Item::Record { json, .. } => {
                let record = decode(json).map_err(|refusal| format!("{refusal:?}"));
                match record {
                    Ok(record) => format!(
                        "{} to {}",
                        record.from_number.unwrap_or_default(),
                        record.to_number.unwrap_or_default()
                    ),
                    Err(refusal) => refusal,
                }
            }
            Item::Broken { reason, .. } => reason.code().to_owned(),
        });
        Ok::<(), ConvertError>(())
    };
    for chunk in chunks {
        reader.push(chunk, &mut on_item)?;
    }
    let content = reader.finish(&mut on_item)?;
    Ok((seen, content.missing_fields))
}

/// Reads a file whole and in chunks of every size, and demands the same of all.
fn read_file(body: &str) -> Result<Seen, String> {
    let read = |chunks: &[&[u8]]| {
        let reader = RecordReader::of_file(body.as_bytes(), 1000);
        read_with(reader, chunks).map_err(|error| error.to_string())
    };
    let whole = read(&[body.as_bytes()]);
    for size in 1..body.len() {
        let chunks: Vec<&[u8]> = body.as_bytes().chunks(size).collect();
        assert_eq!(read(&chunks), whole, "in chunks of {size}");
    }
    whole
}

#[test]
fn a_later_header_defines_the_columns_of_the_lines_after_it() {
    for (second, row) in [
        (
            "to,from,date,duration,charge,call_id\n",
            "44,33,2026-10-01T10:00:00Z,60,0.01,a\n",
        ),
        (
            "\u{feff}To,charge,DURATION,\"from\",Date\r\n",
            "44,0.01,60,33,2026-10-01T10:00:00Z\r\n",
        ),
        (
            "2nd leg,to,from,duration,charge,date,call id,sip trunk\n",
            "n,44,33,60,0.01,2026-10-01T10:00:00Z,a,t\n",
        ),
    ] {
        let body = format!("{HEADER}{ROW}{second}{row}{HEADER}{ROW}");
        let (seen, _) = read_file(&body).unwrap();
        assert_eq!(seen, ["11 to 22", "33 to 44", "11 to 22"], "{body}");
    }
}

/// The records of CSV, as their JSON.
fn json_of(body: &str) -> Result<Vec<String>, String> {
    let mut seen = Vec::new();
    let mut on_item = |item: Item<'_>| {
        if let Item::Record { json, .. } = item {
            seen.push(String::from_utf8_lossy(json).into_owned());
        }
        Ok::<(), ConvertError>(())
    };
    let mut reader = RecordReader::of_file(body.as_bytes(), 1000);
    let pushed = reader.push(body.as_bytes(), &mut on_item);
    let read = pushed.and_then(|()| reader.finish(&mut on_item));
    read.map_err(|error| error.to_string())?;
    Ok(seen)
}

#[test]
fn columns_are_recognized_by_the_names_in_exports() {
    for header in [
        "Date (UTC),From,To,Duration (sec),Charge USD",
        "Start time,Caller,Called number,Duration [s],Cost (USD)",
        " Call date ,from_number,toNumber,duration_seconds,Total cost",
    ] {
        let body = format!("{header}\n2026-10-01T10:00:00Z,11,22,60,0.01\n");
        assert_eq!(
            json_of(&body).unwrap(),
            [
                r#"{"date":"2026-10-01T10:00:00Z","from":"11","to":"22","duration":60,"charge":"0.01"}"#
            ],
            "{header}"
        );
    }
    // Another unit is another value, and a price may be that of a minute.
    for (header, missing) in [
        ("date,from,to,Duration (min),charge", "duration"),
        ("date,from,to,duration,Charge EUR", "charge"),
        ("date,from,to,duration,price", "charge"),
    ] {
        let error = json_of(&format!("{header}\n{ROW}")).unwrap_err();
        let columns = header.replace(',', ", ");
        assert_eq!(
            error,
            format!(
                "the CSV has no column for {missing}. It needs date, from, to, duration and \
                 charge, and has {columns}. Rename the columns if they have other names \
                 (values in seconds, US dollars or with a UTC offset)"
            )
        );
    }
}

#[test]
fn a_field_s_own_name_makes_other_names_of_it_unknown_columns() {
    let row = "2026-10-01T10:00:00Z,11,22,60,0.01,other\n";
    for (header, extra) in [
        ("date,from,to,duration,charge,cost", "cost"),
        ("date,from,to,duration,charge,Caller ID", "Caller ID"),
        ("date,from,to,duration,charge,Start time", "Start time"),
        ("Date (UTC),from,to,duration,charge,Call date", "Call date"),
        ("date,from,to,duration,charge,Charge USD", "Charge USD"),
    ] {
        let record = format!(
            r#"{{"date":"2026-10-01T10:00:00Z","from":"11","to":"22","duration":60,"charge":"0.01","{extra}":"other"}}"#
        );
        assert_eq!(json_of(&format!("{header}\n{row}")).unwrap(), [record]);
    }
    for second in ["Charge", "cost\n", "Total cost"] {
        let first = if second == "Charge" {
            "charge"
        } else {
            "Call cost"
        };
        let header = format!("date,from,to,duration,{first},{second}\n");
        let error = json_of(&header).unwrap_err();
        assert!(
            error.starts_with("the columns 5 and 6 of the CSV stand for the same field"),
            "{error}"
        );
    }
}

#[test]
fn a_row_with_a_time_is_a_record_whatever_else_is_in_it() {
    for time in [
        "2026-10-01T10:00:00.1234567Z",
        "2026-10-01 10:00:00",
        " 2026-10-01 10:00:00.123456789 UTC ",
        "=\"2026-10-01T10:00:00Z\"",
    ] {
        let quoted = time.replace('"', "\"\"");
        let body = format!("{HEADER}\"{quoted}\",Caller ID,22,60,0.01,charge\n");
        assert_eq!(json_of(&body).unwrap().len(), 1, "{time}");
    }
}

#[test]
fn formulas_of_a_spreadsheet_are_removed_and_ids_are_unchanged() {
    for (cell, id) in [
        ("=\"100200300\"", "100200300"),
        ("'100200300", "'100200300"),
        ("1700000000.0", "1700000000.0"),
        ("12e5", "12e5"),
        ("\"5", "\"5"),
    ] {
        let cell = cell.replace('"', "\"\"");
        let body = format!("{HEADER}2026-10-01T10:00:00Z,11,22,=\"60\",=\"0.01\",\"{cell}\"\n");
        let json = json_of(&body).unwrap().remove(0);
        let record = decode(json.as_bytes()).unwrap();
        assert_eq!(record.duration_seconds, Some(60));
        let charge = record.charge_usd.map(crate::cdr::amount::Amount::nanos);
        assert_eq!(charge, Some(10_000_000));
        assert_eq!(record.call_id.as_deref(), Some(id));
    }
}

#[test]
fn a_quotation_mark_that_includes_later_rows_is_refused() {
    let header = "date\tfrom\tto\tduration\tcharge\tnote\n";
    let row = |note: &str| format!("2026-10-01T10:00:00Z\t11\t22\t60\t0.01\t{note}\n");
    let body = [header, &row("a"), &row("\"b"), &row("c"), &row("d\"")].concat();
    let error = json_of(&body).unwrap_err();
    let at = header.len() + row("a").len();
    let expected = format!("line 3, byte {at}: the row that begins here has a quotation mark");
    assert!(error.starts_with(&expected), "{error}");
    // A cell of several lines is none of that.
    let body = [header, &row("\"two\nlines\n2026-10-01T10:00:00Z\"")].concat();
    assert_eq!(json_of(&body).unwrap().len(), 1);
}

#[test]
fn the_names_in_a_header_determine_the_separator() {
    for (header, separator) in [
        ("date,from,to,duration,charge,tags (a|b|c|d|e|f|g)", ","),
        ("date,from,to,duration,charge,size 5\"", ","),
        ("date;from;to;duration;charge;\"a,b,c,d,e,f,g,h\"", ";"),
        (
            "date;from;to;duration;charge;price, in EUR, net, of VAT, in all, of all, of it",
            ";",
        ),
    ] {
        let row = [
            "2026-10-01T10:00:00Z",
            "11",
            "22",
            "60",
            "0.01",
            "\"a;b|c\"\n",
        ]
        .join(separator);
        for first in ["", "sep=;\n", "\"sep=,\"\r\n", "SEP=|||||\n"] {
            let body = format!("{first}{header}\n{row}{row}");
            assert_eq!(json_of(&body).map(|rows| rows.len()), Ok(2), "{body}");
        }
    }
}

#[test]
fn a_column_that_is_named_after_utc_comes_before_local_times() {
    for header in [
        "date,Date (UTC),from,to,duration,charge",
        "Call date,Start time (UTC),from,to,duration,charge",
    ] {
        let body = format!("{header}\n2026-10-01 12:00:00,2026-10-01 10:00:00,11,22,60,0.01\n");
        let json = json_of(&body).unwrap().remove(0);
        assert!(json.contains(r#""date":"2026-10-01 10:00:00Z""#), "{json}");
        assert!(json.contains("12:00:00\""), "{json}");
    }
}

#[test]
fn the_documented_column_names_are_known() {
    let rows = include_str!("../../../docs/loading.md")
        .lines()
        .skip_while(|line| *line != "| column | also named |")
        .skip(2);
    let mut names = Vec::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let (field, others) = row.trim_matches('|').split_once('|').unwrap();
        let field = field.trim().trim_matches('`');
        for name in others.split(',') {
            let name = name.trim().trim_matches('`');
            let header = "date,from,to,duration,charge,per_minute,forward_fee";
            let values = "2026-10-01T10:00:00Z,1,2,3,4,5,6";
            let body = |header: &str| format!("{header}\n{values}\n");
            let named = body(&header.replace(field, name));
            assert_eq!(
                json_of(&named),
                Ok(json_of(&body(header)).unwrap()),
                "{name}"
            );
            names.push(name.to_lowercase().replace(' ', ""));
        }
    }
    let known = COLUMNS.iter().flat_map(|column| column.csv_names);
    let mut known: Vec<&str> = known.copied().collect();
    known.sort_unstable();
    names.sort_unstable();
    assert_eq!(names, known);
}

#[test]
fn semicolons_tabs_and_bars_separate_like_commas() {
    let body = "date,from,to,duration,charge,note\n\
                2026-10-01T10:00:00Z,11,22,60,0.01,a b\n\
                2026-10-01T11:00:00Z,33,44,60,,\n";
    let expected = json_of(body).unwrap();
    assert_eq!(expected.len(), 2);
    for separator in [";", "\t", "|"] {
        let separated = body.replace(',', separator);
        for first in [
            String::new(),
            format!("sep={separator}\r\n"),
            format!("\u{feff}SEP={separator}\n"),
        ] {
            // Twice, as of two files that were put one behind the other.
            let separated = format!("{first}{separated}{first}{separated}");
            assert_eq!(
                json_of(&separated).unwrap(),
                [&expected[..], &expected].concat(),
                "{separated}"
            );
            let (seen, _) = read_file(&separated).unwrap();
            assert_eq!(
                seen,
                ["11 to 22", "33 to 44", "11 to 22", "33 to 44"],
                "{separated}"
            );
        }
        // Where they change, the file stops.
        for (first, second) in [(body, separated.as_str()), (&separated, body)] {
            let error = read_file(&format!("{first}{second}")).unwrap_err();
            let names = match (first == body, separator) {
                (true, _) => "commas",
                (_, ";") => "semicolons",
                (_, "\t") => "tabs",
                _ => "vertical bars",
            };
            assert!(
                error.starts_with("line 4, byte 105: this line looks like a header")
                    && error.contains(&format!("each once, separated by {names} like the first")),
                "{error}"
            );
        }
    }
    // What a server says of a failure is no table.
    let failure = "{\"success\":false,\"message\":\"a;b;c, \\\"d\\\"; try later;\"}";
    for ending in ["", "\n"] {
        let (seen, _) = read_file(&format!("{failure}{ending}")).unwrap();
        assert!(
            seen.len() == 1 && seen[0].starts_with("ServerError"),
            "{seen:?}"
        );
    }
}

#[test]
fn an_amount_with_a_comma_is_rejected_with_its_own_reason() {
    let body = "date;from;to;duration;charge\n2026-10-01T10:00:00Z;11;22;60;0,05\n";
    let json = json_of(body).unwrap().remove(0);
    let Err(DecodeError::Reject(reason)) = decode(json.as_bytes()) else {
        panic!("{json}")
    };
    assert_eq!(reason.code(), "amount");
    assert_eq!(
        reason.to_string(),
        "`charge` is written with a comma (decimal or thousands separator): export it with a \
         decimal point"
    );
}

#[test]
fn a_header_without_a_date_is_quoted_unless_it_may_be_a_record() {
    for (header, expected) in [
        // A header: no record has two names of columns.
        (
            "Call ID;When;From;To",
            "the CSV has no column for date, duration, charge. It needs date, from, to, duration \
             and charge, and has Call ID, When, From, To. Rename the columns if they have other \
             names (values in seconds, US dollars or with a UTC offset)",
        ),
        // It may be a record.
        (
            "13025550101,2026-10-01T10:00:00Z,to,0.01",
            "the first line of the CSV has no column `date` (of its 4 columns, separated by \
             commas, only `to` is known), so it is not a header of call detail records. \
             Begin the CSV with a header that has date, from, to, duration and charge",
        ),
        (
            "13025550101\t2026-10-01T10:00:00Z\t0.01",
            "the first line of the CSV has no column `date` (of its 3 columns, separated by tabs, \
             none is known), so it is not a header of call detail records. \
             Begin the CSV with a header that has date, from, to, duration and charge",
        ),
        (
            "date from to duration charge",
            "the first line of the CSV has no column `date` (it is one column, without a comma, a \
             semicolon, a tab or a vertical bar), so it is not a header of call detail records. \
             Begin the CSV with a header that has date, from, to, duration and charge",
        ),
    ] {
        assert_eq!(read_file(&format!("{header}\n")).unwrap_err(), expected);
    }
}

#[test]
fn cells_are_trimmed_and_unknown_columns_of_one_name_get_a_number() {
    let body = "date,from,to,duration,charge,note,note,note_2,note,\n                 \
         2026-10-01T10:00:00Z , 11,22\t, 60 ,\" 0.01 \",a, b,c,d, \u{a0}\n";
    assert_eq!(
        json_of(body).unwrap(),
        [
            r#"{"date":"2026-10-01T10:00:00Z","from":"11","to":"22","duration":60,"charge":"0.01","note":"a","note_2":"b","note_2_2":"c","note_3":"d"}"#
        ]
    );
}

#[test]
fn an_unusable_header_stops_the_body() {
    let long = format!("date,to,from{}\n", ",x".repeat(600));
    for second in [
        // Another separator than the first, a column that is missing, one that stands twice, none
        // that is known but where dates were.
        "date;to;from;duration;charge\n",
        "date\tto\tfrom\tduration\tcharge\n",
        "date,to,from,duration,price,call_id\n",
        "to,from,seconds,price\n",
        "to,from,date,duration,charge,Call ID,call_id\n",
        "time,date,caller,called,seconds,price\n",
        "Charge,a,b,c,d,e\n",
        // Files put one behind the other without a newline, and a quotation mark that swallowed
        // one.
        "2026-10-01T10:00:00Z,11,22,60,0.01,adate,to,from,duration,charge\n",
        "2026-10-01T10date,to,from,duration,charge,x\n",
        // One known name, where a value of that field should stand; nothing but blanks between.
        "time,callee,caller,secs,charge,x\n",
        "from to duration charge date\n",
        "2026-10-01T10:00:00Z,11,22,60,0.01,date,to,from,duration,charge\n",
        "x,\"11\n2026-10-01T10:00:00Z,11,22,60,0.01,a\ndate,to,from,duration,charge\n\"\n",
        &long,
    ] {
        let body = format!("{HEADER}{ROW}{second}{ROW}");
        let error = read_file(&body).unwrap_err();
        let at = HEADER.len() + ROW.len();
        let place = format!("line 3, byte {at}: this line looks like a header");
        assert!(error.starts_with(&place), "{second}: {error}");
        let is_long = second.len() > 1000;
        assert_eq!(
            error.contains("longer than limits.max_record_bytes"),
            is_long,
            "{error}"
        );
        assert_eq!(
            error.contains("separated by commas like the first"),
            !is_long,
            "{error}"
        );
    }
    // JSON that happens to be of such names is a broken record of its own.
    let behind_json = "{\"date\":\"2026-10-01T10:00:00Z\"}\n[\"from\",\"to\"]\n\"date\"\n";
    assert_eq!(read_file(behind_json).unwrap().0.len(), 3);
    let behind_json = format!("{{\"date\":\"2026-10-01T10:00:00Z\"}}\n{HEADER}{ROW}");
    let error = read_file(&behind_json).unwrap_err();
    assert!(
        error.starts_with(
            "line 2, byte 32: this line looks like a header of CSV, but the lines \
             before it are JSON"
        ),
        "{error}"
    );
}

#[test]
fn a_broken_record_is_not_a_header() {
    for (row, seen) in [
        ("01/10/2026,11,22,60,0.01,a\n", "Date"),
        (",11,22,60,0.01,a\n", "NoDate"),
        ("2026-10-01T10:00:00Z,11,22\n", "columns"),
        ("2026-10-01T10:00:00Z,11,22,60,0.01,to,b\n", "columns"),
        ("x\n", "columns"),
        ("\"date\": 7,\"from\": 8\n", "columns"),
        (",11,22,60,0.01,destination|charge\n", "NoDate"),
        (",11,22,60,0.01,\"a,from,to,b\"\n", "NoDate"),
    ] {
        let (all, _) = read_file(&format!("{HEADER}{row}{ROW}")).unwrap();
        assert!(all.len() == 2 && all[0].contains(seen), "{row}: {all:?}");
        assert_eq!(all[1], "11 to 22");
    }
    // What stands in a record that is whole is its own business.
    let (all, _) = read_file(&format!(
        "{HEADER}2026-10-01T10:00:00Z,from,to,60,0.01,date\n"
    ))
    .unwrap();
    assert_eq!(all, ["from to to"]);
}

#[test]
fn csv_of_a_server_ends_with_a_newline_and_a_file_need_not() {
    let limits = BodyLimits {
        record_bytes: 100,
        body_bytes: 1000,
    };
    let body = |text: &str| {
        let reader = RecordReader::new(Encoding::Identity, Format::Csv, limits);
        read_with(reader, &[text.as_bytes()]).map(|(seen, _)| seen)
    };
    let cut = |text: &str| {
        let error = body(text).unwrap_err();
        assert_eq!(error.fate(), Fate::retry(RetryReason::BrokenBody));
        assert!(
            error
                .to_string()
                .contains("the CSV ends without a newline, so its last record may be cut"),
            "{text}: {error}"
        );
    };
    let row = "2026-10-01T10:00:00Z,11,22,60,0.012";
    cut(&format!("{HEADER}{row}"));
    cut(&format!("{HEADER}{row},\"a\""));
    cut(&format!("{HEADER}{row},a,b"));
    cut(&format!("{HEADER}{row},a\n "));
    // A day without calls: the provider's count says whether it is.
    assert_eq!(body(HEADER.trim_end()).unwrap(), [] as [&str; 0]);
    cut(format!("{HEADER}{HEADER}").trim_end());
    let too_long = body(&format!("{HEADER}{row},{}", "a".repeat(100)));
    assert!(
        matches!(too_long, Ok(seen) if seen == ["too_long"]),
        "judged by who reads it"
    );
    for ending in ["\n", "\r\n", "\r", "\n\n"] {
        let seen = body(&format!("{HEADER}{row},a{ending}")).unwrap();
        assert_eq!(seen, ["11 to 22"], "{ending:?}");
    }
    assert_eq!(body("").unwrap(), [] as [&str; 0]);
    let failure = "{\"success\":false,\"message\":\"no\"}";
    assert!(body(&format!("{HEADER}{failure}")).unwrap()[0].starts_with("ServerError"));
    let (seen, _) = read_file(&format!("{HEADER}{row},a")).unwrap();
    assert_eq!(seen, ["11 to 22"]);
}

#[test]
fn a_field_is_missing_if_any_header_lacks_it() {
    let first = "date,from,to,duration,charge,sip_trunk,destination,disposition,answered_by,uuid,\
         per_minute,forward_fee";
    let second = format!(
        "{},parent_uuid",
        first.replace(",sip_trunk", "").replace(",uuid", "")
    );
    for body in [
        format!("{first}\n{second}\n"),
        format!("{second}\n{first}\n{first}\n"),
    ] {
        let (_, mut missing) = read_file(&body).unwrap();
        missing.sort_unstable();
        assert_eq!(missing, ["call_id", "parent_call_id", "sip_trunk"]);
    }
}

#[test]
fn an_object_before_the_header_is_a_record_only_if_it_reports_a_failure() {
    let limits = BodyLimits {
        record_bytes: 100,
        body_bytes: 1000,
    };
    let body = |first: &str| {
        let reader = RecordReader::new(Encoding::Identity, Format::Csv, limits);
        read_with(reader, &[format!("{first}\n{HEADER}{ROW}").as_bytes()])
    };
    assert!(matches!(
        body("{\"calls\":2}"),
        Err(ConvertError::Header(_))
    ));
    let (seen, _) = body("{\"success\":false,\"message\":\"no\"}").unwrap();
    assert!(seen[0].starts_with("ServerError"), "{seen:?}");
}

#[test]
fn a_line_that_repeats_one_name_of_the_header_is_an_unusable_header() {
    let body = format!("{HEADER}{ROW}a,b,c,duration,e,f\n");
    let reader = RecordReader::of_file(body.as_bytes(), 1000);
    let Err(ConvertError::Header(HeaderError::Unusable { at, .. })) =
        read_with(reader, &[body.as_bytes()])
    else {
        panic!("such a line is no record");
    };
    assert_eq!(at.line, 3);
}

#[test]
fn a_text_of_several_lines_swallows_no_row_unless_a_line_is_like_a_row() {
    // As many cells but no date, and a date but other cells.
    for note in ["hello\n1,2,3,4,5,6", "hello\n2026-10-01T10:00:00Z,1"] {
        let row = ROW.replace(",a\n", &format!(",\"{note}\"\n"));
        let (seen, _) = read_file(&format!("{HEADER}{row}")).unwrap();
        assert_eq!(seen, ["11 to 22"], "{note}");
    }
}

proptest! {
    /// Whatever the order of the columns in the parts of a file, and wherever it is cut, every
    /// value gets into its field.
    #[test]
    fn callers_and_called_are_never_swapped(
        orders in proptest::collection::vec(
            Just(["date", "from", "to", "duration", "charge", "note"]).prop_shuffle(),
            1..5,
        ),
        rows in 1_usize..4,
        chunk in 1_usize..200,
        quoted: bool,
    ) {
        let mut body = String::new();
        let mut expected = Vec::new();
        for (part, order) in orders.iter().enumerate() {
            let quote = if quoted { "\"" } else { "" };
            let name = |name: &&str| [quote, name, quote].concat();
            body += &(order.iter().map(name).collect::<Vec<_>>().join(",") + "\n");
            for row in 0..rows {
                let cell = |name: &&str| match *name {
                    "date" => "2026-10-01T10:00:00Z".to_owned(),
                    "from" => format!("1{part}{row}"),
                    "to" => format!("2{part}{row}"),
                    "duration" => "60".to_owned(),
                    _ => "0.1".to_owned(),
                };
                body += &(order.iter().map(cell).collect::<Vec<_>>().join(",") + "\n");
                expected.push(format!("1{part}{row} to 2{part}{row}"));
            }
        }
        let reader = RecordReader::of_file(body.as_bytes(), 1000);
        let chunks: Vec<&[u8]> = body.as_bytes().chunks(chunk).collect();
        prop_assert_eq!(read_with(reader, &chunks).unwrap().0, expected);
    }
}
