//! `cdrlake stream`, by the program itself.

use std::fmt::Write as _;
use std::io::Read;
use std::process::{Child, Command, Output, Stdio};

use arrow::ipc::reader::StreamReader;
use arrow::record_batch::RecordBatch;
use serde_json::{Value, json};

use crate::privacy::KEY;
use crate::server::{Answer, STREAM, Server, count, ok_chunked};
use crate::support::{
    CANARY, DAY, FAIL_REJECT_RATIO, PLACED, Workplace, calls, ended, output, ran, read, serving,
};

/// Rows of a whole stream, as one batch.
fn rows(stream: &[u8]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let reader = StreamReader::try_new(stream, None)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    arrow::compute::concat_batches(&schema, &batches)
}

/// The stream of [`DAY`], and what else the program did.
fn stream(workplace: &Workplace, more: &[&str]) -> Output {
    let output = output(command(workplace, &[&["--day", DAY], more].concat()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !stderr.contains(CANARY) && !stderr.contains("panicked"),
        "{stderr}"
    );
    output
}

fn command(workplace: &Workplace, more: &[&str]) -> Command {
    let mut command = workplace.command(&[&["stream"], more].concat());
    command
        .env("PRIVACY", KEY)
        .env("CDRLAKE_LIMITS_SPOOL_DIR", spool(workplace));
    command
}

/// A directory for the spool, which tests look into.
fn spool(workplace: &Workplace) -> std::path::PathBuf {
    let directory = workplace.path("spool");
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Counts of each slice, from its last message: every one that is whole.
fn slices(stream: &[u8]) -> Vec<Value> {
    let text = String::from_utf8_lossy(stream);
    let counts = text.match_indices("{\"direction\":").map(|(begin, _)| {
        let json = serde_json::Deserializer::from_str(&text[begin..]);
        json.into_iter::<Value>().next().unwrap().unwrap()
    });
    counts.collect()
}

/// Calls of so many days, out of order, with a duplicate, a conflict and rejects.
fn of_days(days: u32) -> String {
    let mut lines = String::new();
    for call in 0..400 {
        let day = call * 7 % days + 1;
        let id = if call == 399 { 398 } else { call };
        let hour = 10 + call % 10;
        let date = format!("2026-01-{day:02}T{hour}:00:00Z");
        let record = json!({
            "call_id": id.to_string(), "date": date, "from": format!("1302555{call:04}"),
            "disposition": "answered", "duration": call, "charge": format!("0.{call}"),
            "more": [call],
        });
        writeln!(lines, "{record}").unwrap();
    }
    let first = lines.lines().next().unwrap().to_owned();
    format!("{lines}{first}\nnot JSON\n")
}

#[test]
fn the_rows_are_those_that_a_run_writes() {
    let privacies = [
        "",
        "[privacy]\nnumbers = \"pseudonymize\"\nkey = { env = \"PRIVACY\" }\n",
        "[privacy]\nnumbers = \"truncate\"\n",
    ];
    for unit in ["day", "month"] {
        for privacy in privacies {
            let server = Server::start();
            let workplace = Workplace::new(&server);
            workplace.configure_also(&format!("[window]\nslice = \"{unit}\"\n{privacy}"));
            let (days, file) = if unit == "day" {
                (["2026-01-01"; 2], "dt=2026-01-01/placed-2026-01-01.parquet")
            } else {
                (
                    ["2026-01-01", "2026-01-31"],
                    "dt=2026-01-01/placed-2026-01.parquet",
                )
            };
            let [from, to] = days;
            let body = of_days(if unit == "day" { 1 } else { 31 });
            let query = format!("?from={from}&to={to}&type=placed");
            server.on(&format!("{STREAM}{query}"), [ok_chunked(&body)]);
            server.on(&format!("/v1/cdrs{query}"), [count(401)]);
            let range = [PLACED, &["--from", from, "--to", to]].concat();
            let streamed = output(command(&workplace, &range));
            assert_eq!(status(&streamed), 0, "{}", stderr(&streamed));
            assert!(!workplace.path("lake").exists(), "a stream makes no lake");
            assert_eq!(std::fs::read_dir(spool(&workplace)).unwrap().count(), 0);

            let mut run = workplace.command(&[&["run", "--format", "json"], &range[..]].concat());
            run.env("PRIVACY", KEY);
            let run = ran(output(run));
            assert_eq!(run.status, 0, "{run:?}");
            let found = rows(&streamed.stdout).unwrap();
            let expected = read(&workplace.path("lake/cdrs").join(file));
            assert_eq!(found.columns(), expected.columns(), "{unit} {privacy}");
            assert!(found.num_rows() > 300);
            let counts = &slices(&streamed.stdout)[0];
            let report = run.report();
            let reported = serde_json::to_value(&report.slices[0]).unwrap();
            for key in [
                "rows",
                "records",
                "duplicates",
                "conflicts",
                "rejected",
                "totals",
                "reconcile",
                "control_total",
                "state",
                "attempts",
                unit,
            ] {
                assert_eq!(counts[key], reported[key], "{key}: {counts}");
            }
            assert_eq!(counts["rejected"], 1);
            let warned = stderr(&streamed);
            assert!(
                warned.contains("were rejected and left out")
                    || warned.contains("was rejected and left out"),
                "{warned}"
            );
        }
    }
}

#[test]
fn a_stream_has_its_end_only_if_every_slice_passed() {
    let (server, workplace) = serving(&calls(0, 3), 3);
    server.serve("received", DAY, calls(10, 2), 3);
    let failed = stream(&workplace, &[]);
    assert_eq!(status(&failed), 1);
    let stderr = stderr(&failed);
    let problem = format!("error: received {DAY}: the provider counts 3 calls, 2 were read. ");
    assert!(stderr.contains(&problem), "{stderr}");
    assert!(
        stderr.contains("--via pages. --reconcile warn accepts the slice as it is"),
        "{stderr}"
    );
    assert!(rows(&failed.stdout).is_err(), "a reader must notice");
    let slices = slices(&failed.stdout);
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0]["direction"], "placed");

    server.serve("received", DAY, calls(10, 2), 2);
    let whole = stream(&workplace, &[]);
    assert_eq!(status(&whole), 0);
    assert_eq!(rows(&whole.stdout).unwrap().num_rows(), 5);
    assert!(
        String::from_utf8_lossy(&whole.stderr)
            .contains("2 slices streamed: 5 calls in 5 records; 0 duplicates, 0 rejected.")
    );
    // What was accepted is in the counts.
    server.serve("received", DAY, calls(10, 2), 3);
    let accepted = stream(&workplace, &["--reconcile", "warn"]);
    assert_eq!(status(&accepted), 0);
    assert_eq!(self::slices(&accepted.stdout)[1]["reconcile"], "mismatch");
}

#[test]
fn nothing_is_written_before_the_first_slice_has_passed() {
    let (server, workplace) = serving(&calls(0, 3), 4);
    let failed = stream(&workplace, PLACED);
    assert_eq!((status(&failed), failed.stdout.len()), (1, 0));
    let rejects = format!("{}no JSON\n", calls(0, 3));
    server.serve("placed", DAY, rejects, 4);
    let mut command = command(&workplace, &[PLACED, &["--day", DAY]].concat());
    command.env(FAIL_REJECT_RATIO, "0.1");
    let failed = output(command);
    assert_eq!((status(&failed), failed.stdout.len()), (1, 0));
    assert!(
        stderr(&failed).contains("quality.fail_reject_ratio"),
        "{}",
        stderr(&failed)
    );
    let refused = Answer::Json(401, "{\"message\":\"no such key\"}".to_owned());
    for path in ["/v1/cdrs", STREAM] {
        server.on(
            &format!("{path}?from={DAY}&to={DAY}&type=placed"),
            [refused.clone()],
        );
    }
    let refused = stream(&workplace, PLACED);
    assert_eq!(
        (status(&refused), refused.stdout.len()),
        (2, 0),
        "{}",
        stderr(&refused)
    );
    assert!(!workplace.path("lake").exists());
}

#[test]
fn json_lines_are_the_same_rows() {
    let (_server, workplace) = serving(&calls(0, 3), 3);
    let lines = stream(&workplace, &[PLACED, &["--format", "ndjson"]].concat());
    let lines = String::from_utf8(lines.stdout).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2]["call_id"], "call-2");
    assert_eq!(
        (&lines[0]["charge_usd"], &lines[0]["source_day"]),
        (&json!("0.027"), &json!(DAY))
    );
}

/// A stream of a hundred thousand calls, whose reader has read its begin and waits.
fn unread(more: &[&str]) -> (Server, Workplace, Child) {
    let (server, workplace) = serving(&calls(0, 100_000), 100_000);
    let mut command = command(
        &workplace,
        &[&["--day", DAY, "--requests", "1"], more].concat(),
    );
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut begin = [0; 4096];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut begin)
        .unwrap();
    (server, workplace, child)
}

#[test]
fn a_closed_pipe_ends_a_stream_quietly_and_without_more_requests() {
    for format in ["arrow", "ndjson"] {
        let (server, workplace, mut child) = unread(&["--format", format]);
        drop(child.stdout.take());
        let ended = ended(child);
        assert_eq!(status(&ended), 0, "{}", stderr(&ended));
        assert!(!stderr(&ended).contains("error"), "{}", stderr(&ended));
        assert_eq!(std::fs::read_dir(spool(&workplace)).unwrap().count(), 0);
        assert!(
            server.requests(STREAM).len() <= 2,
            "one slice ahead at most"
        );
    }
}

#[test]
fn a_pipe_that_is_closed_while_a_slice_is_fetched_ends_the_stream() {
    let (server, workplace) = serving(&calls(0, 3), 3);
    let stalls = Answer::Stall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_vec());
    server.on(
        &format!("{STREAM}?from={DAY}&to={DAY}&type=received"),
        [stalls],
    );
    let mut command = command(&workplace, &["--day", DAY]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut begin = [0; 100];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut begin).unwrap();
    drop(stdout);
    let ended = ended(child);
    assert_eq!(status(&ended), 0, "{}", stderr(&ended));
    assert!(!stderr(&ended).contains("error"), "{}", stderr(&ended));
}

#[test]
fn an_interrupted_stream_has_no_end_even_if_no_one_reads_it() {
    for signal in ["INT", "TERM"] {
        let (_server, workplace, child) = unread(&[]);
        let kill = Command::new("kill")
            .args([format!("-{signal}"), child.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
        // What is left in the pipe is read only after the program has ended.
        let mut child = child;
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(130));
        let ended = child.wait_with_output().unwrap();
        assert!(stderr(&ended).contains("the stream ends without the mark of its end"));
        assert!(slices(&ended.stdout).is_empty());
        assert_eq!(std::fs::read_dir(spool(&workplace)).unwrap().count(), 0);
    }
}

#[test]
fn a_killed_stream_is_no_whole_one() {
    let (_server, _workplace, mut child) = unread(&[]);
    let mut begin = vec![0; 4096];
    child.kill().unwrap();
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_to_end(&mut begin)
        .unwrap();
    child.wait().unwrap();
    assert!(rows(&begin).is_err());
}

#[test]
fn a_lake_that_is_there_hides_its_erased_numbers_and_stays_as_it_is() {
    let (_server, workplace) = serving(&calls(0, 3), 3);
    workplace.configure_also("[privacy]\nkey = { env = \"PRIVACY\" }\n");
    let with_key = |arguments: &[&str]| {
        let mut command = workplace.command(arguments);
        command.env("PRIVACY", KEY);
        ran(output(command))
    };
    assert_eq!(with_key(&["run", "--from", DAY, "--to", DAY]).status, 0);
    assert_eq!(with_key(&["erase", "--number", "+13025550001"]).status, 0);
    let before = workplace.lake_files();
    let streamed = stream(&workplace, PLACED);
    assert_eq!(status(&streamed), 0, "{}", stderr(&streamed));
    assert_eq!(rows(&streamed.stdout).unwrap().num_rows(), 2);
    assert_eq!(slices(&streamed.stdout)[0]["suppressed"], 1);
    assert!(!String::from_utf8_lossy(&streamed.stdout).contains("13025550001"));
    assert_eq!(workplace.lake_files(), before);
    // The key is needed to know them.
    workplace.reconfigure("key = { env = \"PRIVACY\" }", "");
    let without = stream(&workplace, PLACED);
    assert_eq!((status(&without), without.stdout.len()), (2, 0));
    assert!(
        stderr(&without).contains("suppressed.json"),
        "{}",
        stderr(&without)
    );
    // Another account's lake is not for these calls.
    workplace.reconfigure("url = \"lake\"", "url = \"lake\"\naccount = \"another\"");
    assert_eq!(status(&stream(&workplace, PLACED)), 2);
}

#[test]
fn a_stream_needs_neither_a_lake_nor_a_file() {
    let (server, workplace) = serving(&calls(0, 3), 3);
    std::fs::remove_file(workplace.path("pipeline.toml")).unwrap();
    let url = server.url();
    let flags = ["--source-url", &url, "--api-key-env", "TEST_KEY"];
    let streamed = stream(&workplace, &[PLACED, &flags].concat());
    assert_eq!(status(&streamed), 0, "{}", stderr(&streamed));
    assert_eq!(rows(&streamed.stdout).unwrap().num_rows(), 3);
    let both = stream(&workplace, &["--last", "1"]);
    assert_eq!(status(&both), 2, "--day and --last exclude each other");
    let future = ["--from", "2999-01-01", "--to", "2999-01-02"];
    let future = output(command(&workplace, &[&flags[..], &future].concat()));
    assert_eq!((status(&future), future.stdout.len()), (2, 0));
    assert!(
        stderr(&future).contains("2999-01-01"),
        "{}",
        stderr(&future)
    );
}
