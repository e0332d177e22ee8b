use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Date32Type, Decimal128Type, Int32Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use cdrlake::internals::{ConvertOptions, Converter, ParquetOptions, PeriodDays, parse_day};
use cdrlake::{Direction, Slice};
use jiff::Timestamp;
use parquet::basic::Compression;
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::server::Server;
use crate::support::{DAY, Workplace, read, serving};

/// The expected values of a row by column. Amounts in units of 10⁻⁹, times in microseconds.
type Row = BTreeMap<&'static str, Value>;

/// The rows of a batch with every column.
fn rows(batch: &RecordBatch) -> Vec<Row> {
    let names: Vec<_> = batch
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let columns = [
        "call_id",
        "parent_call_id",
        "direction",
        "source_day",
        "call_time",
        "from_number",
        "to_number",
        "disposition",
        "destination",
        "sip_trunk",
        "answered_by",
        "duration_seconds",
        "per_minute_usd",
        "charge_usd",
        "forward_fee_usd",
        "extra",
    ];
    assert_eq!(names, columns);
    let cell = |name: &'static str, row: usize| {
        let array = batch.column_by_name(name).unwrap();
        if array.is_null(row) {
            return Value::Null;
        }
        match name {
            "source_day" => json!(array.as_primitive::<Date32Type>().value(row)),
            "call_time" => json!(array.as_primitive::<TimestampMicrosecondType>().value(row)),
            "duration_seconds" => json!(array.as_primitive::<Int32Type>().value(row)),
            "per_minute_usd" | "charge_usd" | "forward_fee_usd" => {
                json!(array.as_primitive::<Decimal128Type>().value(row) as i64)
            }
            "extra" => serde_json::from_str(array.as_string::<i32>().value(row)).unwrap(),
            _ => json!(array.as_string::<i32>().value(row)),
        }
    };
    (0..batch.num_rows())
        .map(|row| {
            columns
                .iter()
                .map(|name| (*name, cell(name, row)))
                .collect()
        })
        .collect()
}

/// Removes white space around a phone number.
fn phone_number(value: &Value) -> Value {
    value.as_str().map_or(Value::Null, |text| {
        let text = text.trim();
        // A spreadsheet's text marker.
        let number = text.strip_prefix('\'').filter(|number| {
            number.starts_with(|c: char| c == '+' || c.is_ascii_digit())
                && number
                    .bytes()
                    .all(|byte| b"0123456789+-()./, eE".contains(&byte))
        });
        json!(number.unwrap_or(text))
    })
}

/// The oracle: the expected row of a line, computed with `serde_json` only.
fn oracle(line: &str, direction: &str) -> Row {
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(line).unwrap();
    let mut take = |name: &str| {
        fields
            .remove(name)
            .map(|value| value.get().to_owned())
            .filter(|text| text != "null")
    };
    let text = |raw: Option<String>| {
        raw.map_or(Value::Null, |raw| {
            serde_json::from_str::<String>(&raw).map_or(json!(raw), Value::from)
        })
    };
    let amount = |raw: Option<String>| {
        raw.map_or(Value::Null, |raw| {
            let text = raw.trim_matches('"').to_ascii_lowercase();
            let (number, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            let shift = 9 + exponent.parse::<i32>().unwrap() - fraction.len() as i32;
            let digits: i128 = format!("{whole}{fraction}").parse().unwrap();
            let nanos = if shift >= 0 {
                digits * 10_i128.pow(shift as u32)
            } else {
                digits / 10_i128.pow(shift.unsigned_abs())
            };
            json!(i64::try_from(nanos).unwrap())
        })
    };
    let date: Timestamp = text(take("date")).as_str().unwrap().parse().unwrap();
    let (call_id, uuid, parent, parent_uuid) = (
        take("call_id"),
        take("uuid"),
        take("parent_call_id"),
        take("parent_uuid"),
    );
    let mut row = Row::from([
        ("direction", json!(direction)),
        ("source_day", json!(20_727)),
        ("call_time", json!(date.as_microsecond())),
        ("call_id", text(call_id.clone().or(uuid.clone()))),
        (
            "parent_call_id",
            text(parent.clone().or(parent_uuid.clone())),
        ),
        ("from_number", phone_number(&text(take("from")))),
        ("to_number", phone_number(&text(take("to")))),
        ("disposition", text(take("disposition"))),
        ("destination", text(take("destination"))),
        ("sip_trunk", text(take("sip_trunk"))),
        ("answered_by", text(take("answered_by"))),
        (
            "duration_seconds",
            take("duration").map_or(Value::Null, |raw| serde_json::from_str(&raw).unwrap()),
        ),
        ("per_minute_usd", amount(take("per_minute"))),
        ("charge_usd", amount(take("charge"))),
        ("forward_fee_usd", amount(take("forward_fee"))),
    ]);
    let mut extra: serde_json::Map<String, Value> = fields
        .into_iter()
        .map(|(key, value)| (key, serde_json::from_str(value.get()).unwrap()))
        .collect();
    for (name, value, alias) in [
        ("uuid", &call_id, &uuid),
        ("parent_uuid", &parent, &parent_uuid),
    ] {
        if value.is_some() && alias.is_some() && text(value.clone()) != text(alias.clone()) {
            extra.insert(name.to_owned(), text(alias.clone()));
        }
    }
    row.insert(
        "extra",
        if extra.is_empty() {
            Value::Null
        } else {
            Value::Object(extra)
        },
    );
    row
}

/// Moves the documentation's records to [`DAY`]: a slice with only old calls is refused.
fn of_the_day(records: &str) -> String {
    let days = ["2021-02-10T", "2023-08-21T", "2023-08-28T", "2023-11-29T"];
    let today = format!("{DAY}T");
    let moved = days
        .iter()
        .fold(records.to_owned(), |text, day| text.replace(day, &today));
    assert_ne!(moved, records);
    moved
}

#[test]
fn the_published_records_load_completely() {
    let published = of_the_day(include_str!("../data/published.ndjson"));
    let server = Server::start();
    server
        .serve("received", DAY, published.clone(), 3)
        .serve("placed", DAY, "", 0);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(&[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let report = ran.report();
    assert_eq!(
        (report.totals.counts.rows, report.totals.counts.rejected),
        (3, 0)
    );
    assert_eq!(report.totals.counts.outside_day, 0);
    assert_eq!(report.totals.totals.charge_usd.to_string(), "0.83115");
    let found = rows(&workplace.rows("received"));
    let expected: Vec<Row> = published
        .lines()
        .map(|line| oracle(line, "received"))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(found[1]["forward_fee_usd"], json!(3_000_000));
    assert_eq!(
        found[2]["parent_call_id"],
        json!("99df5ffd-962a-410f-bcce-d08f1f7f328c")
    );
    assert_eq!(
        workplace.table(),
        [format!("cdrs/dt={DAY}/received-{DAY}.parquet")],
        "a slice without rows has no file"
    );
}

#[test]
fn the_guide_s_envelope_loads_completely() {
    let guide = of_the_day(include_str!("../data/guide.json"));
    let server = Server::start();
    server.serve("placed", DAY, guide, 1);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(&["--direction", "placed"]);
    // The guide's pagination has 100 calls, but shows one. The server has no more pages.
    assert_eq!(ran.status, 0, "{ran:?}");
    let found = rows(&workplace.rows("placed"));
    let expected = Row::from([
        ("call_id", Value::Null),
        ("parent_call_id", Value::Null),
        ("direction", json!("placed")),
        ("source_day", json!(20_727)),
        ("call_time", json!(1_790_849_226_376_000_i64)),
        ("from_number", json!("12212123123")),
        ("to_number", json!("18001231233")),
        ("disposition", Value::Null),
        ("destination", json!("sip:36465@sip.example.com")),
        ("sip_trunk", json!("36465")),
        ("answered_by", Value::Null),
        ("duration_seconds", json!(72)),
        ("per_minute_usd", json!(5_900_000)),
        ("charge_usd", json!(10_000_000)),
        ("forward_fee_usd", json!(5_900_000)),
        ("extra", Value::Null),
    ]);
    assert_eq!(found, [expected]);
}

#[test]
fn files_use_plain_types_old_pages_and_common_encodings() {
    let server = Server::start();
    let published = of_the_day(include_str!("../data/published.ndjson"));
    server.serve("placed", DAY, published, 3);
    let workplace = Workplace::new(&server);
    assert_eq!(workplace.run_day(&["--direction", "placed"]).status, 0);
    let file =
        std::fs::File::open(workplace.path(format!("lake/cdrs/dt={DAY}/placed-{DAY}.parquet")))
            .unwrap();
    let metadata = parquet::file::metadata::ParquetMetaDataReader::new()
        .parse_and_finish(&file)
        .unwrap();
    let file_metadata = metadata.file_metadata();
    let key_values = file_metadata.key_value_metadata().unwrap();
    assert!(
        key_values
            .iter()
            .all(|pair| pair.key.starts_with("cdrlake.")),
        "no schema of one engine's own: {key_values:?}"
    );
    let value = |key: &str| {
        key_values
            .iter()
            .find(|pair| pair.key == key)
            .and_then(|pair| pair.value.clone())
            .unwrap()
    };
    assert_eq!(value("cdrlake.slice"), format!("placed {DAY}"));
    assert_eq!(value("cdrlake.control_total"), "3");
    let types: Vec<String> = file_metadata
        .schema_descr()
        .columns()
        .iter()
        .map(|column| {
            format!(
                "{} {:?} {:?}",
                column.name(),
                column.physical_type(),
                column.logical_type_ref()
            )
        })
        .collect();
    let logical = |name: &str| {
        types
            .iter()
            .find(|line| line.starts_with(&format!("{name} ")))
            .unwrap()
            .clone()
    };
    assert_eq!(logical("direction"), "direction BYTE_ARRAY Some(String)");
    assert_eq!(logical("source_day"), "source_day INT32 Some(Date)");
    assert!(
        logical("call_time").contains("INT64")
            && logical("call_time").contains("is_adjusted_to_u_t_c: true")
    );
    assert!(
        logical("charge_usd").contains("INT64")
            && logical("charge_usd").contains("scale: 9, precision: 18")
    );
    for column in metadata.row_group(0).columns() {
        use parquet::basic::Encoding::{PLAIN, RLE, RLE_DICTIONARY};
        assert!(
            column
                .encodings()
                .all(|encoding| [PLAIN, RLE, RLE_DICTIONARY].contains(&encoding)),
            "{column:?}"
        );
        assert!(matches!(column.compression(), Compression::ZSTD(_)));
        assert!(column.statistics().is_some() && column.column_index_offset().is_some());
    }
}

fn slice() -> Slice {
    Slice::of_day(parse_day(DAY).unwrap(), Direction::Placed)
}

/// Converts a body in the given pieces. Returns rows, rejects and counts.
fn convert(
    directory: &Path,
    pieces: &[&[u8]],
) -> (Vec<Row>, Vec<Value>, cdrlake::report::Counts, String) {
    let mut converter = Converter::try_new(ConvertOptions {
        slice: slice(),
        days: PeriodDays::new(slice().period, &jiff::tz::TimeZone::UTC),
        export_files: None,
        spool_dir: directory.to_owned(),
        max_record_bytes: 2_000,
        max_slice_bytes: u64::MAX,
        dedupe: true,
        assume_timezone: None,
        privacy: Arc::default(),
        credentials: Arc::default(),
        parquet: ParquetOptions {
            compression: Compression::SNAPPY,
            row_group_rows: 7,
            row_group_bytes: 1 << 20,
        },
    })
    .unwrap();
    for piece in pieces {
        converter.push(piece).unwrap();
    }
    converter.end_body().unwrap();
    let mut converted = converter.finish().unwrap();
    let rejects = converted.rejects.take().map_or_else(Vec::new, |file| {
        let text = std::io::read_to_string(
            zstd::Decoder::new(std::fs::File::open(&file.path).unwrap()).unwrap(),
        )
        .unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    });
    let (counts, digest) = (converted.counts.clone(), converted.digest.to_string());
    let file = converted.write_footer(Vec::new()).unwrap();
    (rows(&read(&file.path)), rejects, counts, digest)
}

fn text_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        "[0-9]{5,12}".prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("a\u{0}\"\\\n\u{1F600}"))
    ]
}

/// A number as a JSON string or a JSON number.
fn amount_text() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        (0_u32..1_000_000_000, 0_u32..1_000_000_000)
            .prop_map(|(whole, nanos)| format!("{whole}.{nanos:09}")),
        (0_u32..1000).prop_map(|whole| whole.to_string()),
        (-1000_i32..1000).prop_map(|number| format!("{number}e-4")),
    ];
    (number, any::<bool>()).prop_map(|(number, quoted)| {
        if quoted {
            format!("\"{number}\"")
        } else {
            number
        }
    })
}

/// The line of a valid record: any subset of fields in any order.
fn record() -> impl Strategy<Value = String> {
    let date = (0_i64..86_400_000_000).prop_map(|us| {
        let time = Timestamp::from_microsecond(1_790_812_800_000_000 + us).unwrap();
        format!("\"date\":\"{time:.6}\"")
    });
    let text =
        |name: &'static str| text_value().prop_map(move |value| format!("\"{name}\":{value}"));
    let amount =
        |name: &'static str| amount_text().prop_map(move |number| format!("\"{name}\":{number}"));
    let members = vec![
        text("call_id").boxed(),
        text("uuid").boxed(),
        text("parent_call_id").boxed(),
        text("parent_uuid").boxed(),
        prop_oneof![
            text("from"),
            (0_u64..1 << 53).prop_map(|number| format!("\"from\":{number}"))
        ]
        .boxed(),
        text("to").boxed(),
        text("disposition").boxed(),
        text("destination").boxed(),
        text("sip_trunk").boxed(),
        text("answered_by").boxed(),
        any::<i32>()
            .prop_map(|seconds| format!("\"duration\":{seconds}"))
            .boxed(),
        amount("per_minute").boxed(),
        amount("charge").boxed(),
        amount("forward_fee").boxed(),
        text("recording_url").boxed(),
        any::<i32>()
            .prop_map(|number| format!("\"zz\" : {{\"b\": [{number}, true], \"a\":null}}"))
            .boxed(),
    ];
    let members: Vec<_> = members
        .into_iter()
        .map(|member| proptest::option::weighted(0.7, member))
        .collect();
    (date, members)
        .prop_flat_map(|(date, members)| {
            let mut all: Vec<String> = members.into_iter().flatten().collect();
            all.push(date);
            Just(all).prop_shuffle()
        })
        .prop_map(|members| format!("{{{}}}", members.join(",")))
}

/// A line that must be rejected.
fn bad_line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"{\"date\":\"2026-10-01T00:00:00Z\"".to_vec()),
        Just(b"not json".to_vec()),
        Just(b"[1]".to_vec()),
        Just(b"{\"date\":\"yesterday\"}".to_vec()),
        Just(b"{\"date\":\"2026-10-01T00:00:00Z\",\"charge\":\"1.00000,0001\"}".to_vec()),
        Just(b"{\"date\":\"2026-10-01T00:00:00Z\",\"duration\":\"5 s\"}".to_vec()),
        Just(b"{\"date\":\"2026-10-01T00:00:00Z\",\"a\":1,\"a\":1}".to_vec()),
        Just(b"{\"date\":\"2026-10-01T00:00:00Z\",\"from\":\"\xff\"}".to_vec()),
        Just(vec![b'x'; 2_001]),
    ]
}

#[derive(Clone, Debug)]
enum Line {
    Good(String),
    Bad(Vec<u8>),
    Blank,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Random records, random bad lines, random chunks: the rows equal the oracle's, the rejects
    /// are the bad lines at their positions, and chunks change nothing.
    #[test]
    fn rows_and_rejects_equal_the_oracle_s_for_any_chunks(
        lines in proptest::collection::vec(
            prop_oneof![
                8 => record().prop_map(Line::Good),
                1 => bad_line().prop_map(Line::Bad),
                1 => Just(Line::Blank),
            ],
            0..30,
        ),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        crlf: bool,
    ) {
        // A body that begins with `[1]` would be an array.
        let first = r#"{"date":"2026-10-01T00:00:00Z","call_id":"first"}"#;
        let first = Line::Good(first.to_owned());
        let lines = [vec![first], lines].concat();
        let ending: &[u8] = if crlf { b"\r\n" } else { b"\n" };
        let (mut body, mut expected_rows) = (Vec::new(), Vec::new());
        let mut expected_rejects = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            match line {
                Line::Good(text) => {
                    let row = oracle(text, "placed");
                    // Equal rows with an id are duplicates: the first is kept.
                    let has_id = row["call_id"].as_str().is_some_and(|id| !id.is_empty());
                    if !(has_id && expected_rows.contains(&row)) {
                        expected_rows.push(row);
                    }
                    body.extend_from_slice(text.as_bytes());
                }
                Line::Bad(text) => {
                    let line = number as u64 + 1;
                    expected_rejects.push([line, body.len() as u64, text.len() as u64]);
                    body.extend_from_slice(text);
                }
                Line::Blank => {}
            }
            body.extend_from_slice(ending);
        }
        let directory = tempfile::tempdir().unwrap();
        let whole = convert(directory.path(), &[&body]);
        let cuts = cuts.iter().map(|cut| cut.index(body.len() + 1));
        let mut at: Vec<usize> = cuts.chain([0, body.len()]).collect();
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect();
        prop_assert_eq!(&convert(directory.path(), &pieces), &whole);

        let (rows, rejects, counts, _) = whole;
        prop_assert_eq!(&rows, &expected_rows);
        let positions: Vec<[u64; 3]> = rejects
            .iter()
            .map(|reject| {
                ["line", "byte", "length_bytes"].map(|field| reject[field].as_u64().unwrap())
            })
            .collect();
        prop_assert_eq!(positions, expected_rejects);
        prop_assert!(counts.add_up());
        let records = lines.iter().filter(|line| !matches!(line, Line::Blank)).count();
        prop_assert_eq!(counts.records as usize, records);
        let leftovers = std::fs::read_dir(directory.path()).unwrap().count();
        prop_assert_eq!(leftovers, 0, "nothing is left in the spool");
    }
}

#[test]
fn a_rounded_value_is_counted_and_stable_over_runs() {
    let record = format!(
        concat!(
            r#"{{"date":"{day}T10:00:00.123456789Z","call_id":"a","duration":26.5,"#,
            r#""charge":0.30000000000000004}}"#
        ),
        day = DAY
    );
    let (_server, workplace) = serving(&record, 1);
    let ran = workplace.run_day(&[]);
    assert_eq!(
        (ran.status, ran.report().totals.counts.rounded),
        (0, 1),
        "{ran:?}"
    );
    let verified = workplace.run(&["verify", "--from", DAY, "--to", DAY]);
    assert_eq!(verified.status, 0, "{verified:?}");
    let (digests, files) = (workplace.digests(), workplace.table());
    let again = workplace.run_day(&["--refresh"]);
    assert_eq!(again.report().totals.counts.rounded, 1, "{again:?}");
    assert_eq!(again.json()["partitions_changed"], json!([]));
    assert_eq!((workplace.digests(), workplace.table()), (digests, files));
}

#[test]
fn times_without_offsets_are_read_in_the_assumed_zone() {
    let record = format!(r#"{{"date":"{DAY}T10:00:00","call_id":"a","duration":26,"charge":0.3}}"#);
    let (_server, workplace) = serving(&record, 1);
    workplace.reconfigure(
        "[source]\n",
        "[source]\nassume_timezone = \"America/New_York\"\n",
    );
    let ran = workplace.run_day(&[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let rows = workplace.rows("placed");
    let times = rows.column_by_name("call_time").unwrap();
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let expected: Timestamp = format!("{DAY}T14:00:00Z").parse().unwrap();
    assert_eq!(times.value(0), expected.as_microsecond());
    assert_eq!(ran.report().totals.counts.ambiguous_times, 0);
}
