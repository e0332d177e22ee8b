use std::io::Write;
use std::process::Stdio;

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde_json::Value;

use crate::server::{Answer, Server, count};
use crate::simulator::Simulator;
use crate::support::{DAY, PLACED, Ran, Workplace, calls, ran, read};

const KEY: &str = crate::support::CANARY;

/// Names and contents.
type Files = Vec<(&'static str, Vec<u8>)>;

/// Runs `load` of placed calls, with a JSON report.
fn load(workplace: &Workplace, arguments: &[&str]) -> Ran {
    workplace.run(&[&["load", "--format", "json"], PLACED, arguments].concat())
}

/// A workplace whose provider counts so many calls on every day, with an export.
fn with_export(total: u64, export: impl AsRef<[u8]>) -> (Workplace, Server) {
    let server = Server::start();
    server.on("/v1/cdrs?", [count(total)]);
    let workplace = Workplace::new(&server);
    std::fs::write(workplace.path("export"), export).unwrap();
    (workplace, server)
}

/// Asserts that the directory where exports are split is empty.
fn assert_no_spool(workplace: &Workplace) {
    let left: Vec<_> = std::fs::read_dir(workplace.path("spool"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn gzip(text: &str) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap()
}

/// A file of CSV with another separator, behind `start`.
fn separated(csv: &str, separator: u8, start: &str) -> Files {
    let mut writer = csv::WriterBuilder::new();
    writer.delimiter(separator);
    let mut writer = writer.from_writer(start.as_bytes().to_vec());
    let mut reader = csv::ReaderBuilder::new();
    let reader = reader.has_headers(false).from_reader(csv.as_bytes());
    for record in reader.into_byte_records() {
        writer.write_byte_record(&record.unwrap()).unwrap();
    }
    vec![("a.csv", writer.into_inner().unwrap())]
}

#[test]
fn an_export_in_any_form_makes_the_same_lake_as_the_api() {
    let simulator = Simulator::start(&["--calls-per-day", "2000", "--key-order", "shuffled"]);
    let days = "from=2026-09-28&to=2026-10-02&type=placed&disposition=all";
    let get = |target: &str| simulator.get_as(&format!("{target}?{days}"), Some(KEY)).1;
    let expected = Workplace::with_url(&simulator.url);
    let arguments = ["run", "--from", "2026-09-28", "--to", "2026-10-02"];
    assert_eq!(expected.run(&[&arguments[..], PLACED].concat()).status, 0);
    let expected = expected.digests();
    assert_eq!(expected.len(), 5);

    let lines = get("/v1/cdrs/all");
    let mut records: Vec<&str> = lines.lines().collect();
    fastrand::Rng::with_seed(7).shuffle(&mut records);
    let (first, second) = records.split_at(records.len() / 3);
    let json = |line: &&str| serde_json::from_str(line).unwrap();
    let values: Vec<Value> = records.iter().map(json).collect();
    let csv = get("/v1/cdr.csv");
    let forms: [(&str, Files); 9] = [
        ("lines", vec![("a.ndjson", records.join("\n").into_bytes())]),
        (
            "several files, of which some calls are in both",
            vec![
                ("a.ndjson", first.join("\r\n").into_bytes()),
                (
                    "b.json",
                    format!("[{},{}]", second.join(","), first[0]).into_bytes(),
                ),
            ],
        ),
        (
            "an array over many lines",
            vec![(
                "a.json",
                serde_json::to_string_pretty(&values).unwrap().into_bytes(),
            )],
        ),
        (
            "pages of the list",
            vec![
                (
                    "1.json",
                    format!(
                        "{{\"items\":[{}],\"pagination\":{{\"total\":9}}}}",
                        first.join(",")
                    )
                    .into_bytes(),
                ),
                (
                    "2.json",
                    format!("{{\"pagination\":{{}},\"items\":[{}]}}", second.join(","))
                        .into_bytes(),
                ),
            ],
        ),
        ("in order", vec![("a.ndjson", lines.clone().into_bytes())]),
        ("CSV in gzip", vec![("a.csv.gz", gzip(&csv))]),
        ("semicolons", separated(&csv, b';', "\u{feff}sep=;\r\n")),
        ("tabs", separated(&csv, b'\t', "")),
        (
            "lines in zstd",
            vec![("a", zstd::encode_all(lines.as_bytes(), 1).unwrap())],
        ),
    ];
    for (form, files) in forms {
        let workplace = Workplace::with_url(&simulator.url);
        std::fs::create_dir(workplace.path("spool")).unwrap();
        workplace.configure_also("[limits]\nspool_dir = \"spool\"");
        for (name, content) in &files {
            std::fs::write(workplace.path(name), content).unwrap();
        }
        let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        let loaded = load(&workplace, &names);
        assert_eq!(loaded.status, 0, "{form}: {loaded:?}");
        assert_eq!(workplace.digests(), expected, "{form}");
        assert_eq!(workplace.run(&["verify"]).status, 0, "{form}");
        assert_no_spool(&workplace);
        // The same export on standard input; no slice is loaded twice.
        if let [(_, content)] = &files[..] {
            let mut child = workplace
                .command(&[&["load", "--format", "json"], PLACED].concat())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(content).unwrap();
            let loaded = ran(child.wait_with_output().unwrap());
            assert_eq!(
                (loaded.status, loaded.report().slices.len()),
                (0, 0),
                "{form}: {loaded:?}"
            );
        }
        let loaded = load(&workplace, &[&["--refresh"], &names[..]].concat());
        let unchanged = loaded.json()["slices"].as_array().unwrap().clone();
        assert!(
            unchanged.len() == 5
                && unchanged
                    .iter()
                    .all(|slice| slice["outcome"] == "unchanged"),
            "{form}: {loaded:?}"
        );
    }
}

#[test]
fn a_slice_of_the_lake_is_replaced_only_on_request_and_never_by_fewer_rows() {
    let (workplace, _server) = with_export(3, calls(0, 3));
    let loaded = load(&workplace, &["export"]);
    assert_eq!(loaded.status, 0, "{loaded:?}");
    std::fs::write(workplace.path("export"), calls(0, 2)).unwrap();
    let arguments = ["export", "--reconcile", "off"];
    let loaded = load(&workplace, &arguments);
    assert_eq!((loaded.status, loaded.report().slices.len()), (0, 0));
    assert_eq!(workplace.rows("placed").num_rows(), 3);
    let loaded = load(&workplace, &[&arguments[..], &["--refresh"]].concat());
    assert_eq!(loaded.status, 1);
    assert!(
        loaded.stdout.contains(
            "the slice shrank: the export has 2 rows, and the lake 3. Fetch the day from \
                 the provider with `cdrlake run`, or accept the export with --allow-shrink"
        ),
        "{loaded:?}"
    );
    assert_eq!(workplace.rows("placed").num_rows(), 3);
    let arguments = [&arguments[..], &["--refresh", "--allow-shrink"]].concat();
    assert_eq!(load(&workplace, &arguments).status, 0);
    assert_eq!(workplace.rows("placed").num_rows(), 2);
}

#[test]
fn a_day_with_a_count_mismatch_is_not_loaded_and_other_days_are() {
    let other_day = calls(10, 2).replace(DAY, "2026-10-02");
    let (workplace, server) = with_export(3, calls(0, 3) + &other_day);
    let loaded = load(&workplace, &["export"]);
    assert_eq!(loaded.status, 1);
    let report = loaded.json();
    let outcomes: Vec<_> = report["slices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|slice| {
            (
                slice["day"].as_str().unwrap(),
                slice["outcome"].as_str().unwrap(),
                slice["attempts"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        outcomes,
        [(DAY, "committed", 1), ("2026-10-02", "failed", 1)]
    );
    let error = report["slices"][1]["error"].as_str().unwrap();
    assert!(
        error.contains(
            "The export is outdated or incomplete, or of another direction or account. Fetch the \
             day with `cdrlake run`"
        ),
        "{error}"
    );
    // No request asked for the calls themselves.
    assert_eq!(server.requests("/v1/cdrs/all").len(), 0);
}

#[test]
fn records_without_a_day_stop_the_load_unless_they_are_to_be_left_out() {
    let broken =
        "{\"date\":\"2026-10-01\",\"call_id\":\"x\"}\n{\"call_id\":\"13025550101\"}\n{\"date\n";
    let (workplace, _server) = with_export(2, calls(0, 1) + broken + &calls(1, 1));
    let loaded = load(&workplace, &["export"]);
    assert_eq!(loaded.status, 1);
    let place = calls(0, 1).len();
    for part in [
        "error: 3 records cannot be assigned to a day: ",
        &format!("export, line 2, byte {place}: `date` is not an ISO 8601 date and time"),
        "line 3, byte",
        "the record has no `date`",
        "line 4, byte",
        "Nothing was loaded. Correct the export, or leave these records out with --skip-undated",
    ] {
        assert!(loaded.stderr.contains(part), "{part}: {}", loaded.stderr);
    }
    assert!(!loaded.stderr.contains("13025550101"), "{}", loaded.stderr);
    assert!(!workplace.path("lake").exists());
    let loaded = load(&workplace, &["export", "--skip-undated", "--strict"]);
    assert_eq!(loaded.status, 3, "{loaded:?}");
    let warnings = loaded.report().warnings;
    assert!(
        warnings.len() == 1
            && warnings[0].starts_with(
                "3 records cannot be assigned to a day, and were left out: export, line 2"
            ),
        "{warnings:?}"
    );
    assert_eq!(workplace.rows("placed").num_rows(), 2);
}

#[test]
fn a_record_with_a_date_is_rejected_by_its_day_whatever_else_is_wrong_with_it() {
    let broken = [
        format!("{{\"date\":\"{DAY}T10:00:00Z\",\"charge\":\"much\"}}\n").as_bytes(),
        format!("{{\"date\":\"{DAY}T10:00:00Z\",\"sip_trunk\":\"caf").as_bytes(),
        b"\xE9\"}\n",
    ]
    .concat();
    let (workplace, _server) = with_export(4, [calls(0, 2).as_bytes(), &broken].concat());
    let loaded = load(&workplace, &["export"]);
    assert_eq!(loaded.status, 0, "{loaded:?}");
    let rejects = workplace.rejects("placed", "");
    let codes: Vec<_> = rejects
        .iter()
        .map(|reject| reject["code"].clone())
        .collect();
    assert_eq!(codes, ["amount", "invalid_utf8"]);
    assert_eq!(loaded.report().slices[0].counts.rejected, 2);
}

/// Loads files. File number `of` has `text`, a record that is rejected. Its reject must name the
/// place of the text.
fn assert_reject_names_its_place(form: &str, files: &[(&str, Vec<u8>)], of: usize, text: &[u8]) {
    let (workplace, _server) = with_export(0, "");
    for (name, content) in files {
        std::fs::write(workplace.path(name), content).unwrap();
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let loaded = load(&workplace, &[&["--reconcile", "off"], &names[..]].concat());
    assert_eq!(loaded.status, 0, "{form}: {loaded:?}");
    let (name, content) = &files[of];
    let content = match content.strip_prefix(b"\x1F\x8B") {
        Some(_) => std::io::read_to_string(flate2::read::GzDecoder::new(&content[..]))
            .unwrap()
            .into_bytes(),
        None => content.clone(),
    };
    let byte = content
        .windows(text.len())
        .position(|window| window == text)
        .unwrap();
    let line = content[..byte].split(|&at| at == b'\n').count();
    let rejects = workplace.rejects("placed", "");
    assert_eq!(rejects.len(), 1, "{form}: {rejects:?}");
    let place = ["export_file", "line", "byte"].map(|key| rejects[0][key].clone());
    let expected: [Value; 3] = [(*name).into(), line.into(), byte.into()];
    assert_eq!(place, expected, "{form}: {rejects:?}");
    // For JSON also the record's text; for text that is not UTF-8 its invalid byte.
    if text.starts_with(b"{") {
        let kept = String::from_utf8_lossy(text).replace('\n', " ");
        assert_eq!(rejects[0]["text"], kept, "{form}");
    }
    if let Err(error) = std::str::from_utf8(text) {
        let wrong = error.valid_up_to();
        let reason = format!(
            "not valid UTF-8 at byte {wrong} of the record. Check the encoding of the file"
        );
        assert_eq!(rejects[0]["reason"], reason, "{form}");
    }
    let shown = workplace.run(&["rejects"]).stdout;
    let place = format!("placed {DAY}, {name}, line {line}, byte {byte}: ");
    assert!(shown.contains(&place), "{form}: {shown}");
    let shown = workplace.run(&["rejects", "--format", "json"]).json();
    assert_eq!(shown["groups"][0]["example"]["export_file"], *name);
}

#[test]
fn a_reject_names_the_place_of_its_record_in_the_user_s_json() {
    let pretty = |record: &str| {
        let value: Value = serde_json::from_str(record).unwrap();
        serde_json::to_string_pretty(&value).unwrap()
    };
    let page = |records: &[&str]| {
        format!(
            "{{\"items\":[\n{}\n],\"pagination\":{{}}}}\n",
            records.join(",\n  ")
        )
    };
    let (first, second) = (calls(0, 1), calls(1, 1));
    let (first, second) = (first.trim(), second.trim());
    // It lies between records of the day, and the file of its day does not contain it.
    let other = first.replace(DAY, "2026-10-02");
    let broken = first.replace("0.027", "much");
    let lines = [first, &other, &broken, second, ""].join("\n");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(lines.as_bytes()).unwrap();
    let marked = ["\u{feff}", first, "", "  ", &other, &broken, ""].join("\r\n");
    let many = format!("{first}\n{second}\n").repeat(500);
    let uncopied = format!("{many}{other}\n\n{many}{broken}\n{many}");
    let together = format!("{first}\n{other}\u{feff}{broken}{second}\n");
    let array = format!("\n\n[{first},{other} ,\n\t{broken},{second}]");
    let pages = page(&[first, &other]) + &page(&[second, &broken, first]);
    for (form, content) in [
        ("lines", lines.clone()),
        ("lines with blank ones, a mark and CRLF", marked),
        ("lines that are not copied", uncopied),
        ("several objects on a line, one with a mark", together),
        ("an array", array),
        ("pages one behind the other", pages),
    ] {
        let files = [("a", content.into_bytes())];
        assert_reject_names_its_place(form, &files, 0, broken.as_bytes());
    }
    let files = [("a", gzip.finish().unwrap())];
    assert_reject_names_its_place("compressed", &files, 0, broken.as_bytes());
    let objects = [first, &other, &broken, second].map(pretty).join("\n");
    let files = [("a", objects.into_bytes())];
    assert_reject_names_its_place("several lines", &files, 0, pretty(&broken).as_bytes());
    let files = [
        ("a.ndjson", format!("{first}\n{other}").into_bytes()),
        ("b.ndjson", lines.into_bytes()),
        ("c.ndjson", second.into()),
    ];
    assert_reject_names_its_place("several files", &files, 1, broken.as_bytes());
}

#[test]
fn a_reject_names_the_place_of_its_row_in_the_user_s_csv() {
    let header = "call_id,date,from,to,duration,charge,note\n";
    let row = |note: &str, charge: &str| format!("c,{DAY}T10:00:00Z,1,2,3,{charge},\"{note}\"\r\n");
    let good = row("a\nb", "0.1");
    let broken = row("one\r\ntwo\n\nthree", "much");
    let csv = format!("{header}{good}\r\n{broken}{good}").into_bytes();
    let broken = broken.trim_end().as_bytes();
    assert_reject_names_its_place("a row of several lines", &[("a", csv.clone())], 0, broken);
    let many = good.repeat(2_000);
    let other = good.replace(DAY, "2026-10-02");
    let uncopied = [header, &many, &other, &many].concat().into_bytes();
    let uncopied = [&uncopied, broken, b"\n", many.as_bytes()].concat();
    assert_reject_names_its_place("rows that are not copied", &[("a", uncopied)], 0, broken);
    let files = [
        ("a.ndjson", calls(0, 1).into_bytes()),
        (
            "b.ndjson",
            calls(0, 1).replace(DAY, "2026-10-02").into_bytes(),
        ),
        ("c.csv", csv),
    ];
    assert_reject_names_its_place("one of three files", &files, 2, broken);
    let latin = good.trim_end().replace('a', "caf?\n").into_bytes();
    let latin: Vec<u8> = latin
        .into_iter()
        .map(|byte| if byte == b'?' { 0xE9 } else { byte })
        .collect();
    let csv = [header.as_bytes(), &latin, b"\r\n", good.as_bytes()].concat();
    assert_reject_names_its_place("another encoding", &[("a", csv)], 0, &latin);
}

#[test]
fn a_record_of_the_maximum_length_is_loaded_although_conversion_makes_it_longer() {
    const LIMIT: usize = 2_000;
    let name = "n".repeat(1_000);
    let start = format!("{DAY}T10:00:00Z,1,2,3,4,");
    // Each takes six bytes in JSON, and the name of the column is added.
    let text = "\u{1}".repeat(LIMIT - start.len());
    let csv = format!("date,from,to,duration,charge,{name}\n{start}{text}\n");
    let start = format!("{{\"date\":\"{DAY}T10:00:00Z\",\"x\":\"");
    let text = "x".repeat(LIMIT - start.len() - 2);
    for export in [csv, format!("{start}{text}\"}}\n")] {
        let (workplace, _server) = with_export(1, export);
        workplace.configure_also(&format!("[limits]\nmax_record_bytes = \"{LIMIT}B\""));
        let loaded = load(&workplace, &["export"]);
        assert_eq!(loaded.status, 0, "{loaded:?}");
        assert_eq!(loaded.report().totals.counts.rows, 1, "{loaded:?}");
    }
}

#[test]
fn a_day_may_begin_with_a_record_that_looks_like_a_page_of_the_list() {
    let json = |first: &str| {
        calls(0, 1) + &format!("{{{first},\"date\":\"2026-09-30T10:00:00Z\",\"call_id\":\"i\"}}\n")
    };
    let exports = [
        json("\"items\":[{\"sku\":1}]"),
        json("\"pagination\":{\"total\":7}"),
        format!(
            "items,date,from,to,duration,charge\nx,{DAY}T10:00:00Z,,,,\n\
             y,2026-09-30T10:00:00Z,,,,\n"
        ),
    ];
    for export in exports {
        let (workplace, _server) = with_export(1, &export);
        let loaded = load(&workplace, &["export"]);
        assert_eq!(loaded.status, 0, "{export}: {loaded:?}");
        let counts = loaded.report().totals.counts;
        assert_eq!((counts.rows, counts.rejected), (2, 0), "{export}");
    }
}

#[test]
fn no_option_turns_a_header_into_a_record_or_drops_the_lines_behind_it() {
    let first = format!("date,from,to,duration,charge\n{DAY}T10:00:00Z,11,22,60,0.01\n");
    let second = format!("to,from,duration,charge,date\n44,33,60,0.01,{DAY}T11:00:00Z\n");
    let (workplace, _server) = with_export(2, first.clone() + &second);
    let loaded = load(&workplace, &["export", "--skip-undated"]);
    assert_eq!(loaded.status, 0, "{loaded:?}");
    let rows = workplace.rows("placed");
    let mut pairs: Vec<(String, String)> = (0..rows.num_rows())
        .map(|row| {
            let text = |name: &str| {
                let column = rows.column_by_name(name).unwrap();
                column.as_string::<i32>().value(row).to_owned()
            };
            (text("from_number"), text("to_number"))
        })
        .collect();
    pairs.sort();
    let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    assert_eq!(pairs, [pair("11", "22"), pair("33", "44")]);
    for separated in [second.replace(',', ";"), second.replace("charge", "price")] {
        let (workplace, _server) = with_export(2, first.clone() + &separated);
        let loaded = load(&workplace, &["export", "--skip-undated"]);
        assert_eq!(loaded.status, 1, "{loaded:?}");
        let problem = format!(
            "export: line 3, byte {}: this line looks like a header",
            first.len()
        );
        assert!(loaded.stderr.contains(&problem), "{}", loaded.stderr);
        assert!(!workplace.path("lake").exists());
    }
}

#[test]
fn a_line_that_is_too_long_may_be_many_records_and_no_option_skips_it() {
    let lines = calls(0, 40);
    let export = lines
        .replacen('\n', "\r", 1)
        .replace('\n', "")
        .replace('\r', "\n");
    let (workplace, _server) = with_export(40, export);
    workplace.configure_also("[limits]\nmax_record_bytes = \"1KiB\"");
    let loaded = load(&workplace, &["export", "--skip-undated"]);
    assert_eq!(loaded.status, 1, "{loaded:?}");
    let problem = "more than limits.max_record_bytes = 1024. Raise that limit, or insert line \
         breaks between records. Nothing was loaded";
    assert!(
        loaded.stderr.contains("error: export: line 2, byte") && loaded.stderr.contains(problem),
        "{loaded:?}"
    );
    workplace.reconfigure("1KiB", "1MiB");
    let loaded = load(&workplace, &["export"]);
    assert_eq!(loaded.report().totals.counts.rows, 40, "{loaded:?}");
}

#[test]
fn a_file_that_is_not_a_complete_export_is_reported_and_changes_nothing() {
    let whole = calls(0, 3);
    let array = format!("[{}]", whole.trim().replace('\n', ","));
    let cut = |text: &str| text[..text.len() - 20].to_owned().into_bytes();
    for (content, status, problem) in [
        (cut(&whole), 1, "export: line 3, byte"),
        (cut(&whole), 1, "the stream ends in the middle of a record"),
        (cut(&array), 1, "the body ends inside its list of records"),
        (b"[{\"date\":]".to_vec(), 1, "a record in a list is invalid"),
        (b"<html></html>".to_vec(), 1, "the body is a web page"),
        (
            b"nothing\nof the kind\n".to_vec(),
            1,
            "has no column `date`",
        ),
        (
            zstd::encode_all(whole.as_bytes(), 1).unwrap()[..50].to_vec(),
            1,
            "the zstd body is cut after 50 bytes",
        ),
        (
            format!("{whole}{{\"success\":false,\"message\":\"out of memory\"}}\n").into_bytes(),
            1,
            "line 4, byte",
        ),
        (Vec::new(), 2, "the export has no records"),
    ] {
        let (workplace, server) = with_export(3, &content);
        let loaded = load(&workplace, &["export"]);
        assert_eq!(loaded.status, status, "{problem}: {loaded:?}");
        assert!(
            loaded.stderr.contains(problem),
            "{problem}: {}",
            loaded.stderr
        );
        assert!(!workplace.path("lake").exists() && server.requests("/").is_empty());
    }
    let (workplace, _server) = with_export(3, whole);
    std::fs::create_dir_all(workplace.path("other/cdrs")).unwrap();
    std::fs::write(workplace.path("other/cdrs/x.parquet"), "").unwrap();
    for (arguments, problem) in [
        (
            &["export", "missing"][..],
            "error: cannot read missing: No such file",
        ),
        (
            &["."],
            "error: . is a directory. Nothing was loaded. Name the files in it",
        ),
        (&["-", "-"], "can be read only once"),
        (&["export", "./export"], "./export is given twice"),
        (
            &["export", "--lake", "other"],
            "it is not a lake. Choose another lake.url",
        ),
    ] {
        let loaded = load(&workplace, arguments);
        assert_eq!(loaded.status, 2, "{arguments:?}: {loaded:?}");
        assert!(
            loaded.stderr.contains(problem),
            "{problem}: {}",
            loaded.stderr
        );
        assert!(!loaded.stderr.contains("Splitting"), "{}", loaded.stderr);
    }
    assert_eq!(
        workplace.run(&["load", "export"]).status,
        2,
        "--direction is required"
    );
}

#[test]
fn an_unusual_file_is_read_or_refused_with_its_format() {
    let lines = calls(0, 3);
    let records: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let pretty = records.iter().map(|record| format!("{record:#}\n"));
    let page = |line| format!("{{\"items\":[{line}],\"pagination\":{{\"total\":3}}}}\n");
    let header = "date,from,to,duration,charge\n";
    let row = format!("{DAY}T10:00:00Z,1,2,3,4\n");
    for (what, content) in [
        ("objects over several lines", pretty.collect::<String>()),
        ("objects without newlines", lines.replace('\n', "")),
        ("a list without its brackets", lines.replace('\n', ",\n")),
        (
            "a list behind a line",
            lines
                .replacen('\n', "\n[", 1)
                .trim_end()
                .replace("}\n{", "}, {")
                + "]\n",
        ),
        (
            "columns that are named as archives begin",
            format!("PK,BZh1 id,{header}7,8,{row}7,8,{row}7,8,{row}"),
        ),
        (
            "files of which the last lines lack a newline, put one behind the other",
            lines.replacen('\n', "", 1),
        ),
        ("pages one a line", lines.lines().map(page).collect()),
        (
            "byte order marks in the middle",
            lines.replace("{\"date", "\u{feff}{\"date"),
        ),
        (
            "a byte order mark in front of a later line",
            lines.replacen("\n{\"date", "\n\u{feff}{\"date", 1),
        ),
        (
            "byte order marks in the middle of CSV",
            format!("\u{feff}{header}{row}\u{feff}{header}{row}{row}"),
        ),
    ] {
        let (workplace, _server) = with_export(3, content);
        let loaded = load(&workplace, &["export"]);
        assert_eq!(loaded.status, 0, "{what}: {loaded:?}");
        let counts = loaded.report().totals.counts;
        assert_eq!((counts.records, counts.rejected), (3, 0), "{what}");
    }
    let utf_16 = |to_bytes: fn(u16) -> [u8; 2], mark: &str| -> Vec<u8> {
        let text = format!("{mark}{lines}");
        text.encode_utf16().flat_map(to_bytes).collect()
    };
    let iconv =
        "is text in UTF-16. Nothing was loaded. Convert it, and load the result: iconv -f UTF-16";
    let mut tar = vec![b'x'; 257];
    tar.extend(b"ustar\x0000");
    for (content, problem) in [
        (utf_16(u16::to_le_bytes, "\u{feff}"), iconv),
        (utf_16(u16::to_be_bytes, "\u{feff}"), iconv),
        (utf_16(u16::to_le_bytes, ""), iconv),
        (utf_16(u16::to_be_bytes, ""), iconv),
        (
            zstd::encode_all(&*utf_16(u16::to_le_bytes, "\u{feff}"), 1).unwrap(),
            iconv,
        ),
        (
            b"BZh91AY&SY".to_vec(),
            "is compressed with bzip2. Nothing was loaded. Pipe it in: bzcat FILE | cdrlake load",
        ),
        (
            b"\xFD7zXZ\0".to_vec(),
            "is compressed with xz. Nothing was loaded. Pipe it in: xzcat FILE | cdrlake load",
        ),
        (
            b"PK\x03\x04rest".to_vec(),
            "is a zip archive or a spreadsheet. Nothing was loaded. Unpack it",
        ),
        (
            b"PAR1rest".to_vec(),
            "is a Parquet file. Nothing was loaded. Save it as CSV",
        ),
        (tar.clone(), "is a tar archive"),
        (zstd::encode_all(&*tar, 1).unwrap(), "is a tar archive"),
    ] {
        let (workplace, _server) = with_export(3, content);
        let loaded = load(&workplace, &["export", "--skip-undated"]);
        assert_eq!(loaded.status, 2, "{problem}: {loaded:?}");
        let problem = format!("error: export {problem}");
        assert!(
            loaded.stderr.contains(&problem) && loaded.stderr.contains("Nothing was loaded"),
            "{problem}: {}",
            loaded.stderr
        );
    }
}

#[test]
fn a_load_without_counts_needs_neither_key_nor_api() {
    let (workplace, _server) = with_export(0, calls(0, 3));
    workplace.configure(
        "[source]\nurl = \"http://127.0.0.1:1\"\nretry_base = \
         \"1ms\"\nmax_attempts = 2\n[lake]\nurl = \"lake\"",
    );
    let loaded = load(&workplace, &["export"]);
    assert_eq!(loaded.status, 2);
    assert!(
        loaded.stderr.contains("source.api_key is not set")
            && loaded.stderr.contains(
                "--reconcile off loads the export without asking for counts, and needs no key"
            ),
        "{loaded:?}"
    );
    let loaded = load(&workplace, &["export", "--api-key-env", "TEST_KEY"]);
    assert_eq!(loaded.status, 1);
    assert!(
        loaded
            .stderr
            .contains("--reconcile off loads the export without asking for counts"),
        "{loaded:?}"
    );
    let loaded = load(&workplace, &["export", "--reconcile", "off"]);
    assert_eq!(loaded.status, 0, "{loaded:?}");
    assert_eq!(loaded.json()["slices"][0]["reconcile"], "off");
    assert_eq!(workplace.rows("placed").num_rows(), 3);
}

#[test]
fn an_export_is_as_old_as_its_newest_record_unless_the_provider_counts_the_same() {
    let two_days_later = calls(9, 1).replace(DAY, "2026-10-04");
    let in_the_future = calls(9, 1).replace(DAY, "2999-01-01");
    for (export, reconcile, state) in [
        (calls(0, 3), "off", "open"),
        (calls(0, 3) + &two_days_later, "off", "closed"),
        // Clock skew.
        (calls(0, 3) + &in_the_future, "off", "open"),
        (calls(0, 3), "fail", "closed"),
        // The provider has more calls, so a run has to fetch the day.
        (calls(0, 2) + &two_days_later, "warn", "open"),
    ] {
        let (workplace, _server) = with_export(3, export);
        let loaded = load(&workplace, &["export", "--reconcile", reconcile]);
        assert_eq!(loaded.status, 0, "{loaded:?}");
        let slices = loaded.json()["slices"].as_array().unwrap().clone();
        let slice = slices.iter().find(|slice| slice["day"] == DAY).unwrap();
        assert_eq!(slice["state"], state, "{reconcile}");
        // The lake has it, so a load skips it; a run fetches it again.
        let again = load(&workplace, &["export", "--reconcile", reconcile]);
        assert_eq!(again.report().slices.len(), 0);
    }
}

#[test]
fn a_day_is_as_old_as_the_older_of_its_files() {
    let two_days_later = calls(9, 1).replace(DAY, "2026-10-04");
    let (workplace, _server) = with_export(6, calls(0, 3) + &two_days_later);
    std::fs::write(workplace.path("older"), calls(3, 3)).unwrap();
    let loaded = load(&workplace, &["export", "older", "--reconcile", "off"]);
    let slices = loaded.json()["slices"].as_array().unwrap().clone();
    let slice = slices.iter().find(|slice| slice["day"] == DAY).unwrap();
    assert_eq!(
        (&slice["rows"], &slice["state"]),
        (&6.into(), &"open".into()),
        "{loaded:?}"
    );
}

#[test]
fn a_slice_in_the_lake_stays_even_if_its_last_attempt_failed() {
    let (workplace, server) = with_export(3, calls(0, 3));
    assert_eq!(load(&workplace, &["export"]).status, 0);
    server.on(
        "/v1/cdrs/all",
        [Answer::Json(400, "{\"message\":\"no\"}".to_owned())],
    );
    let ran = workplace.run_day(&[PLACED, &["--refresh"]].concat());
    assert_eq!(ran.status, 1, "{ran:?}");
    std::fs::write(workplace.path("export"), calls(50, 4)).unwrap();
    let loaded = load(&workplace, &["export", "--reconcile", "off", "--strict"]);
    assert_eq!(
        (loaded.status, loaded.report().slices.len()),
        (3, 0),
        "{loaded:?}"
    );
    let warning = &loaded.report().warnings[0];
    assert!(
        warning.starts_with(
            "for these days, the lake and the export have different numbers of \
             records, and the lake was not changed: 2026-10-01. "
        ),
        "{warning}"
    );
    assert_eq!(workplace.rows("placed").num_rows(), 3);
}

#[test]
fn csv_in_another_encoding_is_rejected_by_day_and_a_missing_last_newline_is_a_warning() {
    let row = |trunk: &str| format!("{DAY}T10:00:00Z,0.01,{trunk},,,\n");
    let latin = b"2026-10-01T10:00:00Z,0.02,caf\xE9,,,\n";
    let whole = [
        format!("date,charge,sip_trunk,from,to,duration\n{}", row("a")).as_bytes(),
        latin,
        row("b").as_bytes(),
    ]
    .concat();
    let (workplace, _server) = with_export(3, &whole);
    let loaded = load(&workplace, &["export"]);
    assert_eq!(loaded.status, 0, "{loaded:?}");
    assert_eq!(workplace.rejects("placed", "")[0]["code"], "invalid_utf8");
    assert_eq!(
        loaded.report().warnings.len(),
        2,
        "rejects, and columns that are missing: {loaded:?}"
    );
    let (workplace, _server) = with_export(3, &whole[..whole.len() - 1]);
    let warnings = load(&workplace, &["export"]).report().warnings;
    assert!(
        warnings.contains(
            &"the last line of export has no newline, so its last value may be cut".to_owned()
        ),
        "{warnings:?}"
    );
}

#[test]
fn a_lake_with_filters_refuses_an_export_without_a_count() {
    let (workplace, _server) = with_export(3, calls(0, 3));
    workplace.reconfigure(
        "max_attempts = 3",
        "max_attempts = 3\ndisposition = \"answered\"",
    );
    let loaded = load(&workplace, &["export", "--reconcile", "off"]);
    assert_eq!(loaded.status, 2);
    assert!(
        loaded
            .stderr
            .contains("source.disposition limits this lake to a part of the calls"),
        "{loaded:?}"
    );
    assert_eq!(load(&workplace, &["export"]).status, 0);
}

#[test]
fn archives_with_large_windows_and_pipes_are_read() {
    let (workplace, _server) = with_export(3, "");
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.long_distance_matching(true).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(calls(0, 3).as_bytes()).unwrap();
    let archive = encoder.finish().unwrap();
    let pipe = workplace.path("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let writer = std::thread::spawn(move || std::fs::write(pipe, archive).unwrap());
    let loaded = load(&workplace, &["pipe"]);
    assert_eq!(loaded.status, 0, "{loaded:?}");
    writer.join().unwrap();
    assert_eq!(workplace.rows("placed").num_rows(), 3);
}

#[test]
fn days_are_cut_in_the_account_s_time_zone_and_days_that_have_not_ended_are_left_out() {
    let night = calls(0, 1).replace("T10:00", "T03:00");
    let tomorrow = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(50);
    let later = calls(5, 2).replace(DAY, &tomorrow.strftime("%Y-%m-%d").to_string());
    let (workplace, _server) = with_export(1, night + &later);
    let loaded = load(&workplace, &["export", "--timezone", "America/New_York"]);
    assert_eq!(loaded.status, 0, "{loaded:?}");
    assert_eq!(
        workplace.table(),
        ["cdrs/dt=2026-09-30/placed-2026-09-30.parquet"]
    );
    let warnings = loaded.report().warnings;
    assert_eq!(
        warnings,
        [
            "2 records of 1 day that had not ended were left out. Fetch the whole days with \
             `cdrlake run` later"
        ]
    );
}

#[test]
fn a_load_that_waits_for_its_input_can_be_interrupted() {
    let (workplace, _server) = with_export(3, "");
    std::fs::create_dir(workplace.path("spool")).unwrap();
    workplace.configure_also("[limits]\nspool_dir = \"spool\"");
    let mut child = workplace
        .command(&[&["load"], PLACED].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Kept open: waiting for the child would end its input.
    let stdin = child.stdin.take();
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
    assert!(line.contains("Splitting standard input by day."), "{line}");
    let killed = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(stdin);
    let text = std::io::read_to_string(stderr).unwrap();
    assert!(text.contains("Nothing was loaded"), "{text}");
    assert!(!workplace.path("lake").exists());
    assert_no_spool(&workplace);
}

#[test]
fn a_dry_run_prints_what_would_be_loaded_and_needs_no_key() {
    let (workplace, _server) = with_export(3, calls(0, 3));
    workplace.reconfigure("TEST_KEY", "NO_SUCH_VARIABLE");
    let planned = workplace.run(&[&["load", "export", "--dry-run"], PLACED].concat());
    assert_eq!(planned.status, 0, "{planned:?}");
    assert_eq!(
        planned.stdout,
        format!("{DAY}  placed    missing\n1 slice due, 0 up to date, from {DAY} to {DAY}\n")
    );
    assert!(!workplace.path("lake").exists());
}

#[test]
fn a_number_in_a_file_name_reaches_neither_the_lake_nor_a_message() {
    let (workplace, _server) = with_export(3, "");
    let name = "calls-4917012345678-2026-10-01.csv";
    let csv = format!("date,from,to,duration,charge\nx,,,,\n{DAY}T10:00:00Z,1,2,3,4");
    std::fs::write(workplace.path(name), csv).unwrap();
    std::fs::write(workplace.path("4917012345678"), "").unwrap();
    let all = ["--reconcile", "off", "--skip-undated", name];
    let loaded = load(&workplace, &[&all[..], &["4917012345678"]].concat());
    assert_eq!(loaded.status, 0, "{loaded:?}");
    let named = "calls-[number]-2026-10-01.csv";
    let warnings = loaded.report().warnings.join("; ");
    for warning in [
        &format!("{named}, line 2"),
        "no records in [number]",
        &format!("the last line of {named}"),
    ] {
        assert!(warnings.contains(warning), "{warning}: {warnings}");
    }
    let entry = workplace.path(format!("lake/_cdrlake/ledger/placed/{DAY}.json"));
    let entry: Value = serde_json::from_slice(&std::fs::read(entry).unwrap()).unwrap();
    assert_eq!(entry["committed"]["asked"]["query"][0][1], named);
    let refused = [
        load(&workplace, &["4917012345679"]),
        load(&workplace, &[name, name]),
        load(&workplace, &[name]),
    ];
    for ran in refused.iter().chain([&loaded]) {
        assert!(ran.stderr.contains("[number]"), "{ran:?}");
        let said = ran.stdout.clone() + &ran.stderr;
        assert!(!said.contains("49170123"), "{said}");
    }
    for (path, content) in workplace.lake_files() {
        let content = String::from_utf8_lossy(&content).into_owned();
        assert!(!content.contains("49170123"), "{path:?}");
    }
}

#[test]
fn a_record_dated_by_an_unset_clock_makes_no_partition() {
    let body = "{\"date\":\"0001-01-01T00:00:00Z\"}\n{\"date\":\"1970-01-01T00:00:00Z\"}\n\
         {\"date\":\"9999-12-31T23:00:00-02:00\"}\n";
    let (workplace, _server) = with_export(1, calls(0, 1) + body);
    let loaded = load(&workplace, &["export", "--timezone", "America/New_York"]);
    assert_eq!(loaded.status, 1, "{loaded:?}");
    assert!(
        loaded
            .stderr
            .contains("`date` is in the year 0, before there were calls")
            && loaded.stderr.contains("`date` is in the year 1969")
            && loaded.stderr.contains("after the year 9999"),
        "{}",
        loaded.stderr
    );
    let arguments = ["export", "--skip-undated", "--reconcile", "off"];
    assert_eq!(load(&workplace, &arguments).status, 0);
    assert_eq!(
        workplace.table(),
        [format!("cdrs/dt={DAY}/placed-{DAY}.parquet")]
    );
}

#[test]
fn a_full_spool_is_reported_with_its_configuration_key() {
    let (workplace, _server) = with_export(3, calls(0, 3));
    workplace.configure_also("[limits]\nspool_dir = \"nowhere\"");
    let loaded = load(&workplace, &["export"]);
    assert_eq!(loaded.status, 2);
    assert!(
        loaded.stderr.contains(
            "cannot write into nowhere: No such file or directory (os error 2). \
             Nothing was loaded. Set limits.spool_dir to a directory with room for the export"
        ),
        "{loaded:?}"
    );
}

#[test]
fn unavailable_counts_fail_a_load_as_they_fail_a_run() {
    let (workplace, server) = with_export(3, calls(0, 3));
    server.on(
        "/v1/cdrs?",
        [Answer::Json(
            401,
            "{\"message\":\"Unauthorized\"}".to_owned(),
        )],
    );
    let loaded = load(&workplace, &["export"]);
    assert_eq!(loaded.status, 2, "{loaded:?}");
    assert!(
        loaded.stderr.contains("Unauthorized. Check source.api_key"),
        "{loaded:?}"
    );
}

#[test]
fn a_lake_with_days_of_another_time_zone_refuses_a_load() {
    let (workplace, _server) = with_export(3, calls(0, 3));
    assert_eq!(load(&workplace, &["export"]).status, 0);
    let loaded = load(
        &workplace,
        &["export", "--refresh", "--timezone", "Europe/Berlin"],
    );
    assert_eq!(loaded.status, 2);
    assert!(
        loaded.stderr.contains(
            "window.timezone is Europe/Berlin, but the days of this lake are days of UTC"
        ),
        "{loaded:?}"
    );
}

#[test]
fn a_wrong_export_changes_no_day_that_the_lake_has() {
    let (workplace, _server) = with_export(3, calls(0, 3));
    assert_eq!(load(&workplace, &["export"]).status, 0);
    std::fs::write(workplace.path("export"), calls(5, 4)).unwrap();
    let before = workplace.lake_files();
    assert_eq!(load(&workplace, &["export", "--refresh"]).status, 1);
    assert!(workplace.lake_files() == before, "the ledger is as it was");
    assert_eq!(workplace.run(&["verify"]).status, 0);
}

#[test]
fn gaps_that_an_export_shows_are_warnings() {
    let page = format!(
        "{{\"items\":[{}],\"pagination\":{{\"total\":475}}}}",
        calls(0, 3).trim().replace('\n', ",")
    );
    let (workplace, _server) = with_export(3, page);
    std::fs::write(workplace.path("nothing"), "").unwrap();
    workplace.configure_also("[window]\nstart = 2026-10-05");
    let loaded = load(&workplace, &["export", "nothing"]);
    assert_eq!(loaded.status, 0, "{loaded:?}");
    let warnings = loaded.report().warnings;
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert_eq!(warnings[0], "no records in nothing");
    assert_eq!(
        warnings[1],
        "the export has 3 calls of a list of 475: pages are missing"
    );
    assert_eq!(
        warnings[2],
        "days from 2026-10-01 on are before window.start (2026-10-05). Use --from to include them \
         in run, status and verify"
    );
}

#[test]
fn times_without_an_offset_are_refused_with_the_remedy_and_accepted_with_a_time_zone() {
    let record = |time: &str, id: &str| {
        format!(
            "{{\"date\":\"{time}\",\"from\":\"1\",\"to\":\"2\",\"duration\":1,\"charge\":\"0.1\",\
             \"call_id\":\"{id}\"}}\n"
        )
    };
    // The second is on the day before in UTC, and Berlin's clocks showed the third time twice.
    let export = [
        record("2026-10-01 12:00:00", "a"),
        record("2026-10-02 01:30:00", "b"),
        record("2026-10-25 02:30:00", "c"),
        record("2026-10-25T02:30:00+01:00", "d"),
    ]
    .concat();
    let (workplace, _server) = with_export(2, export);
    let refused = load(&workplace, &["export"]);
    assert_eq!(refused.status, 1, "{refused:?}");
    for part in [
        "3 records cannot be assigned to a day",
        "`date` is a time without a UTC offset; set source.assume_timezone",
        "Name the time zone of times without an offset with --assume-timezone, correct the export",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
    }
    let unknown = load(&workplace, &["--assume-timezone", "Mars/Olympus", "export"]);
    assert_eq!(unknown.status, 2, "{unknown:?}");
    assert!(
        unknown.stderr.contains(
            "flag --assume-timezone: source.assume_timezone is \"Mars/Olympus\", which \
                 is not a time zone"
        ),
        "{unknown:?}"
    );

    let loaded = load(
        &workplace,
        &["--assume-timezone", "Europe/Berlin", "export"],
    );
    assert_eq!(loaded.status, 0, "{loaded:?}");
    let counts = loaded.report().totals.counts;
    assert_eq!((counts.ambiguous_times, counts.rounded), (1, 1));
    for (day, calls) in [
        (
            "2026-10-01",
            [("2026-10-01T10:00:00Z", ""), ("2026-10-01T23:30:00Z", "")],
        ),
        (
            "2026-10-25",
            [
                ("2026-10-25T00:30:00Z", "{\"date\":\"2026-10-25 02:30:00\"}"),
                ("2026-10-25T01:30:00Z", ""),
            ],
        ),
    ] {
        let rows = read(&workplace.path(format!("lake/cdrs/dt={day}/placed-{day}.parquet")));
        let times = rows.column_by_name("call_time").unwrap();
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let extra = rows.column_by_name("extra").unwrap();
        let extra = extra.as_string::<i32>();
        for (row, (time, original)) in calls.into_iter().enumerate() {
            let time: Timestamp = time.parse().unwrap();
            assert_eq!(times.value(row), time.as_microsecond(), "{day}, {row}");
            assert_eq!(extra.value(row), original, "{day}, {row}");
        }
    }
    assert_eq!(workplace.run(&["verify"]).status, 0);
}

#[test]
fn days_that_were_loaded_in_another_time_zone_are_reported() {
    let row = |time: &str| format!("{time},1,2,3,0.1\n");
    let export = format!(
        "date,from,to,duration,charge\n{}{}",
        row("2026-10-03 12:00:00"),
        row("2026-10-04 01:00:00")
    );
    let (workplace, _server) = with_export(3, export);
    let all = ["--reconcile", "off", "--assume-timezone"];
    let first = load(&workplace, &[&all[..], &["UTC", "export"]].concat());
    assert_eq!(
        (first.status, first.report().warnings.len()),
        (0, 1),
        "{first:?}"
    );
    let second = load(
        &workplace,
        &[&all[..], &["Europe/Berlin", "--refresh", "export"]].concat(),
    );
    let warnings = second.report().warnings;
    let stays = "these days were loaded with another source.assume_timezone, and were not changed: \
         2026-10-04. ";
    assert!(
        warnings.iter().any(|warning| warning.starts_with(stays)),
        "{warnings:?}"
    );
}

#[test]
fn a_line_that_is_not_a_list_of_records_has_no_day() {
    let deep = |levels| "[".repeat(levels) + &calls(0, 1).replace('\n', "") + &"]".repeat(levels);
    for line in [
        deep(2),
        deep(100),
        deep(20_000),
        "[1,1,1]".to_owned(),
        "[{},1]".to_owned(),
    ] {
        let (workplace, _server) = with_export(3, format!("{}{line}\n", calls(0, 1)));
        let loaded = load(&workplace, &["export"]);
        assert_eq!(loaded.status, 1, "{loaded:?}");
        assert!(
            loaded
                .stderr
                .contains("error: 1 record cannot be assigned to a day: export, line 2"),
            "{}",
            loaded.stderr
        );
    }
    let (workplace, _server) = with_export(3, format!("{}[]\n", calls(0, 3)));
    assert_eq!(load(&workplace, &["export"]).status, 0);
}

#[test]
fn a_column_that_is_named_after_utc_needs_no_offset() {
    let row = |time: &str| format!("{time},1,2,3,0.1\n");
    let export = format!(
        "Date (UTC),From,To,Duration,Charge\n{}{}{}",
        row("2026-10-01 12:00:00"),
        row("2026-10-01 12:00:01 +0000"),
        row("2026-10-01 14:00:02+02:00")
    );
    let (workplace, _server) = with_export(3, export);
    // The header takes precedence over the assumed time zone.
    let loaded = load(&workplace, &["--assume-timezone", "Asia/Tokyo", "export"]);
    assert_eq!(loaded.status, 0, "{loaded:?}");
    let mut times: Vec<i64> = workplace
        .rows("placed")
        .column_by_name("call_time")
        .unwrap()
        .as_primitive::<TimestampMicrosecondType>()
        .values()
        .to_vec();
    times.sort_unstable();
    let noon = 1_790_856_000_000_000;
    assert_eq!(times, [noon, noon + 1_000_000, noon + 2_000_000]);
}
