use arrow::array::AsArray;
use serde_json::json;

use crate::server::{Answer, Server, count, sized};
use crate::simulator::Simulator;
use crate::support::{DAY, PLACED, Ran, Workplace, calls};

const CSV: &[&str] = &["--via", "csv"];

fn csv(body: impl AsRef<[u8]>) -> Answer {
    sized("200 OK", "Content-Type: text/csv\r\n", body)
}

/// Runs one slice against an export in CSV.
fn run_csv(total: u64, answers: impl IntoIterator<Item = Answer>) -> (Workplace, Server, Ran) {
    let server = Server::start();
    server
        .on("/v1/cdr.csv", answers)
        .on("/v1/cdrs?", [count(total)]);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(&[PLACED, CSV].concat());
    (workplace, server, ran)
}

#[test]
fn the_export_in_csv_makes_the_same_lake_as_the_stream() {
    let simulator = Simulator::start(&["--calls-per-day", "3000"]);
    let arguments = ["run", "--from", "2026-09-28", "--to", "2026-10-01"];
    let by_stream = Workplace::with_url(&simulator.url);
    assert_eq!(by_stream.run(&arguments).status, 0);
    let by_csv = Workplace::with_url(&simulator.url);
    let ran = by_csv.run(&[&arguments[..], CSV].concat());
    assert_eq!(ran.status, 0, "{ran:?}");
    let digests = by_csv.digests();
    assert_eq!(digests.len(), 8);
    assert_eq!(digests, by_stream.digests());
    assert_eq!(by_csv.run(&["verify"]).status, 0);
}

#[test]
fn columns_are_known_by_name_in_any_case_and_order_and_others_are_kept() {
    let body = "\u{feff}Charge;,CALL-ID,Duration , date,\"Per Minute\",Rate Plan,from,,TO\r\n\
                0.009750001,c1,26,2026-10-01 10:00:00 UTC,0.0225,\"Gold, \"\"new\"\"\",\
                anonymous,y,33170363950\r\n\
                ,c2,,2026-10-01T11:00:00.000Z,,,,,\r\n";
    let (workplace, server, ran) = run_csv(2, [csv(body)]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let rows = workplace.rows("placed");
    let text = |name: &str| {
        rows.column_by_name(name)
            .unwrap()
            .as_string::<i32>()
            .clone()
    };
    assert_eq!(text("call_id").value(0), "c1");
    assert_eq!(text("from_number").value(0), "anonymous");
    assert_eq!(text("to_number").value(0), "33170363950");
    let extra: serde_json::Value = serde_json::from_str(text("extra").value(0)).unwrap();
    assert_eq!(
        extra,
        json!({"Rate Plan": "Gold, \"new\"", "column_8": "y"})
    );
    // Empty cells are fields that are absent.
    for column in rows.columns().iter().skip(5) {
        assert!(column.is_null(1), "{rows:?}");
    }
    let totals = &ran.report().totals;
    assert_eq!(
        (
            totals.totals.charge_usd.to_string(),
            totals.counts.missing_charge
        ),
        ("0.009750001".to_owned(), 1)
    );
    // What the header lacks is named, once.
    let missing = "the CSV has no column for parent_call_id, disposition, destination, sip_trunk, \
         answered_by, forward_fee, so these fields are empty";
    let warnings = &ran.report().warnings;
    assert!(
        warnings.len() == 1 && warnings[0].starts_with(missing),
        "{warnings:?}"
    );
    let asked = &server.requests("/v1/cdr.csv")[0];
    assert!(
        asked
            .target
            .ends_with(&format!("?from={DAY}&to={DAY}&type=placed&disposition=all")),
        "{asked:?}"
    );
}

#[test]
fn lines_that_do_not_fit_the_header_are_rejected_unchanged() {
    let body = format!(
        "date,charge,duration,to,from\n{DAY}T10:00:00Z,0.01,60,1,\n{DAY}T10:00:00Z,0.01\n\n\
         {DAY}T10:00:00Z,a,60,2,\n{DAY}T10:00:00Z,0.01,1m,3,\nx\u{1},\"0\n1\",1,4,\n\
         date,charge,duration,to,from\n"
    );
    let body = [body.as_bytes(), b"\xFF,0.01,1,5,\n"].concat();
    let (workplace, _server, ran) = run_csv(6, [csv(body)]);
    assert_eq!(
        (ran.status, workplace.rows("placed").num_rows()),
        (0, 1),
        "{ran:?}"
    );
    let rejects = workplace.rejects("placed", "");
    let seen: Vec<_> = rejects
        .iter()
        .map(|reject| {
            (
                reject["line"].as_u64().unwrap(),
                reject["code"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (3, "columns"),
            (5, "amount"),
            (6, "wrong_type"),
            (7, "date"),
            (10, "invalid_utf8")
        ]
    );
    assert_eq!(rejects[0]["text"], format!("{DAY}T10:00:00Z,0.01"));
    assert_eq!(
        rejects[0]["reason"],
        "the line has 2 columns, and the header 5"
    );
    assert_eq!(rejects[3]["text"], "x\u{1},\"0\n1\",1,4,");
    assert_eq!(
        rejects[4]["reason"],
        "not valid UTF-8 at byte 0 of the record. Check the encoding of the file"
    );
}

#[test]
fn a_line_that_is_not_a_header_is_refused_with_its_reason() {
    let data = format!("call-1,{DAY}T10:00:00Z,13025550101,0.01\n");
    for (body, problem) in [
        (
            data.as_str(),
            "has no column `date` (of its 4 columns, separated by commas, none is known)",
        ),
        (
            "date from to\n",
            "has no column `date` (it is one column, without a comma, a semicolon, a tab or a \
             vertical bar)",
        ),
        (
            "date,from,to,duration,charge,Call ID,call_id\n",
            "the columns 6 and 7 of the CSV stand for the same field",
        ),
    ] {
        let (workplace, server, ran) = run_csv(1, [csv(body)]);
        assert_eq!(ran.status, 1, "{body}: {ran:?}");
        assert!(ran.stdout.contains(problem), "{body}: {ran:?}");
        assert_eq!(server.requests("/v1/cdr.csv").len(), 3, "{body}");
        assert_eq!(workplace.table(), [] as [&str; 0]);
        for text in [&ran.stdout, &ran.stderr] {
            assert!(!text.contains("13025550101"), "{text}");
        }
    }
}

#[test]
fn a_later_header_applies_to_the_lines_after_it_or_fails_the_attempt() {
    let first = format!("date,from,to,duration,charge\n{DAY}T10:00:00Z,11,22,60,0.01\n");
    let second = format!("to,from,duration,charge,date\n44,33,60,0.01,{DAY}T11:00:00Z\n");
    let broken = second.replace("charge", "price");
    let (workplace, _server, ran) =
        run_csv(2, [csv(first.clone() + &broken), csv(first + &second)]);
    assert_eq!(
        (ran.status, ran.report().slices[0].attempts),
        (0, 2),
        "{ran:?}"
    );
    assert!(
        ran.stderr.contains("this line looks like a header"),
        "{}",
        ran.stderr
    );
    let rows = workplace.rows("placed");
    let callers = rows.column_by_name("from_number").unwrap();
    let callers: Vec<_> = callers.as_string::<i32>().iter().flatten().collect();
    assert_eq!(callers, ["11", "33"]);
}

#[test]
fn truncated_csv_and_csv_with_a_failure_report_are_fetched_again() {
    for separator in [",", ";", "\t"] {
        truncated_csv_is_fetched_again(separator);
    }
}

fn truncated_csv_is_fetched_again(separator: &str) {
    let separated = |line: String| line.replace(',', separator);
    let line = |id| {
        separated(format!(
            "{DAY}T10:00:00Z,\"Canada, Toronto\",0.01,1,1,2,call-{id}\n"
        ))
    };
    let header = separated("date,destination,charge,duration,from,to,call_id\n".to_owned());
    let whole = format!("{header}{}{}", line(1), line(2));
    for (body, problem) in [
        (
            whole[..whole.len() - 10].to_owned(),
            "the CSV ends without a newline, so its last record may be cut",
        ),
        (
            whole[..header.len() + 30].to_owned(),
            "ends inside quotation marks",
        ),
        (
            "{\"success\":false,\"message\":\"export failed\"}\n".to_owned(),
            "ended the stream with an error: export failed",
        ),
        (
            format!(
                "{header}{}{{\"success\":false,\"message\":\"export failed\"}}\n",
                line(1)
            ),
            "ended the stream with an error: export failed",
        ),
    ] {
        let (workplace, _server, ran) = run_csv(2, [csv(&body), csv(&whole)]);
        assert_eq!(ran.status, 0, "{body}: {ran:?}");
        assert_eq!(ran.report().slices[0].attempts, 2, "{body}");
        assert!(ran.stderr.contains(problem), "{body}: {}", ran.stderr);
        assert_eq!(workplace.rows("placed").num_rows(), 2);
    }
}

#[test]
fn the_export_may_be_separated_by_semicolons_or_tabs() {
    for s in [";", "\t"] {
        let body = format!(
            "date{s}charge{s}duration{s}to{s}from{s}Rate Plan\n\
             {DAY}T10:00:00Z{s}0.01{s}60{s}1{s}11{s}\"a;b,c\"\n\
             {DAY}T10:00:00Z{s}0,05{s}60{s}2{s}22{s}\n"
        );
        let (workplace, _server, ran) = run_csv(2, [csv(&body)]);
        assert_eq!(
            (ran.status, workplace.rows("placed").num_rows()),
            (0, 1),
            "{ran:?}"
        );
        let rows = workplace.rows("placed");
        let text = |name: &str| {
            let column = rows.column_by_name(name).unwrap();
            column.as_string::<i32>().value(0).to_owned()
        };
        assert_eq!(
            (text("from_number"), text("to_number")),
            ("11".to_owned(), "1".to_owned())
        );
        assert_eq!(text("extra"), "{\"Rate Plan\":\"a;b,c\"}");
        let rejects = workplace.rejects("placed", "");
        assert_eq!(
            rejects[0]["reason"],
            "`charge` is written with a comma (decimal or thousands separator): export it with a \
             decimal point"
        );
    }
}

#[test]
fn csv_without_a_final_newline_may_be_truncated_and_is_fetched_again() {
    let whole = format!("date,duration,from,to,charge\n{DAY}T10:00:00Z,60,1,2,0.0123456\n");
    let cut = &whole[..whole.len() - 5];
    let (workplace, _server, ran) = run_csv(1, [csv(cut), csv(&whole)]);
    assert_eq!(
        (ran.status, ran.report().slices[0].attempts),
        (0, 2),
        "{ran:?}"
    );
    let totals = &ran.report().totals.totals;
    assert_eq!(totals.charge_usd.to_string(), "0.0123456");
    assert_eq!(workplace.rows("placed").num_rows(), 1);
    // A server that never ends its last line is not believed, and the way out is named.
    let (workplace, _server, ran) = run_csv(1, [csv(cut)]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let error = ran.report().slices[0].error.clone().unwrap();
    assert!(
        error.starts_with("after 3 attempts: ") && error.contains("set source.via to \"stream\""),
        "{error}"
    );
    assert_eq!(workplace.table(), [] as [&str; 0]);
}

#[test]
fn a_header_alone_or_an_empty_body_is_a_day_without_calls() {
    for body in ["date,charge,duration,from,to\n", ""] {
        let (workplace, _server, ran) = run_csv(0, [csv(body)]);
        assert_eq!(
            (ran.status, ran.report().slices[0].attempts),
            (0, 1),
            "{ran:?}"
        );
        assert_eq!(workplace.table(), [] as [&str; 0]);
    }
}

#[test]
fn each_page_of_paged_csv_has_its_own_header() {
    let page = |first: u32, records: u32| {
        let lines = calls(first, records);
        let lines = lines.lines().map(|line| {
            let call: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| call[key].as_str().unwrap().to_owned();
            format!(
                "{},{},{},1,1,2\n",
                text("call_id"),
                text("date"),
                text("charge")
            )
        });
        csv(format!(
            "call_id,date,charge,duration,from,to\n{}",
            lines.collect::<String>()
        ))
    };
    let server = Server::start();
    server
        .on("/v1/cdr.csv", [page(0, 25)])
        .on("/v1/cdrs?", [count(60)]);
    for (number, first) in [(2, 25), (3, 50)] {
        let target =
            format!("/v1/cdr.csv?from={DAY}&to={DAY}&type=placed&disposition=all&page={number}");
        server.on(&target, [page(first, 25.min(60 - first))]);
    }
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(&[PLACED, CSV].concat());
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(workplace.rows("placed").num_rows(), 60);
}

#[test]
fn the_csv_export_is_found_under_its_renamed_path() {
    let server = Server::start();
    server
        .on(
            "/v1/cdrs.csv",
            [csv(format!(
                "date,charge,duration,from,to\n{DAY}T10:00:00Z,,,,\n"
            ))],
        )
        .on("/v1/cdrs?", [count(1)]);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(&[PLACED, CSV].concat());
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(
        ran.stderr
            .contains("The server has no /v1/cdr.csv (404); using /v1/cdrs.csv."),
        "{}",
        ran.stderr
    );
}
