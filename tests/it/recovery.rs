use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cdrlake::internals::parse_day;
use cdrlake::{Period, PeriodUnit, SliceOutcome};
use serde_json::json;

use crate::server::{Server, count, sized};
use crate::support::{
    CANARY, DAY, PLACED, Ran, Workplace, block_on, calls, for_each, hold_lease, output, ran, seed,
    serving, skipped,
};
use crate::sweep::{KINDS, Kind, local};
use crate::table_logs::{
    TABLES, assert_logs_equal_the_ledger, current_files, newest_snapshots, rows_of,
};

/// A server with three calls for each of the days around [`DAY`].
fn three_calls_a_day() -> Server {
    let server = Server::start();
    for day in ["2026-09-28", "2026-09-29", "2026-09-30", DAY] {
        for direction in ["placed", "received"] {
            server.serve(direction, day, calls(0, 3).replace(DAY, day), 3);
        }
    }
    server
}

#[test]
fn a_refreshed_slice_is_kept_replaced_or_refused_by_its_rows() {
    let (server, workplace) = serving(&calls(0, 3), 3);
    let refresh = |more: &[&str]| workplace.run_day(&[&["--refresh"], PLACED, more].concat());
    assert_eq!(workplace.run_day(PLACED).status, 0);
    let before = workplace.lake_files();
    let outcome = |ran: &Ran| {
        ran.json()["slices"][0]["outcome"]
            .as_str()
            .unwrap()
            .to_owned()
    };

    let same = refresh(&[]);
    assert_eq!((same.status, outcome(&same)), (0, "unchanged".to_owned()));
    assert_eq!(same.json()["partitions_changed"], json!([]));
    assert_eq!(workplace.lake_files(), before, "not a byte is written");

    server.serve("placed", DAY, calls(0, 5), 5);
    let grown = refresh(&[]);
    assert_eq!((grown.status, outcome(&grown)), (0, "committed".to_owned()));
    let mut change = grown.json()["slices"][0]["change"].clone();
    assert!(change["since"].take().is_string());
    assert_eq!(
        change,
        json!({
            "since": null,
            "before": {"rows": 3, "duration_seconds": 180, "charge_usd": "0.081"},
            "after": {"rows": 5, "duration_seconds": 300, "charge_usd": "0.135"},
        })
    );
    assert!(
        grown
            .stderr
            .contains("3 → 5 rows, 180 → 300 seconds, 0.081 → 0.135 USD since 20"),
        "{}",
        grown.stderr
    );

    server.serve("placed", DAY, calls(0, 4), 4);
    let shrunk = refresh(&[]);
    assert_eq!((shrunk.status, outcome(&shrunk)), (1, "failed".to_owned()));
    assert!(
        shrunk
            .stdout
            .contains("the slice shrank: it has 4 rows, and the lake 5"),
        "{}",
        shrunk.stdout
    );
    assert!(shrunk.stdout.contains(&format!(
        "cdrlake run --from {DAY} --to {DAY} --direction placed --refresh --allow-shrink"
    )));
    assert_eq!(workplace.rows("placed").num_rows(), 5);

    assert_eq!(refresh(&["--allow-shrink"]).status, 0);
    assert_eq!(workplace.rows("placed").num_rows(), 4);
    server.serve("placed", DAY, "", 0);
    assert_eq!(refresh(&["--allow-shrink"]).status, 0);
    assert_eq!(workplace.table(), [] as [&str; 0], "no rows, no file");
    assert_eq!(outcome(&refresh(&[])), "unchanged");
}

#[test]
fn commands_print_the_remedy_for_a_failed_slice_and_the_lake_records_only_the_problem() {
    let (server, workplace) = serving(&calls(0, 5), 5);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    server.serve("placed", DAY, calls(0, 4), 4);
    let problem = "the slice shrank: it has 4 rows, and the lake 5";
    let advised = format!(
        "{problem}. If the provider has removed calls, run: cdrlake run --from {DAY} --to {DAY} \
         --direction placed --refresh --allow-shrink"
    );

    let failed = workplace.run_day(&[&["--refresh"], PLACED].concat());
    assert_eq!(failed.status, 1);
    let report = failed.json();
    assert_eq!(report["slices"][0]["error"], advised);
    assert_eq!(report["slices"][0]["reason"], "shrank");
    assert_eq!(failed.stderr.matches(&advised).count(), 1, "{failed:?}");

    let run = report["run"].as_str().unwrap();
    let kept = workplace.path(format!("lake/_cdrlake/runs/{run}.json"));
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(kept).unwrap()).unwrap();
    assert_eq!(kept["slices"][0]["error"], problem);
    let (_, entry) = ledger(&workplace, "placed");
    assert_eq!(entry["failed"]["problem"], problem);
    assert_eq!(entry["failed"]["reason"], "shrank");

    for format in ["text", "json"] {
        for (command, end) in [
            ("status", ", with the other flags of your runs"),
            ("verify", ""),
        ] {
            let of_day = ["--from", DAY, "--to", DAY, "--direction", "placed"];
            let output = workplace.run(&[&[command, "--format", format], &of_day[..]].concat());
            let advised = format!("{advised}{end}");
            assert!(output.stdout.contains(&advised), "{command} {output:?}");
        }
    }
}

#[test]
fn a_damaged_slice_is_due_again() {
    let (_server, workplace) = serving(&calls(0, 3), 3);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    let file = workplace.path(format!("lake/cdrs/dt={DAY}/placed-{DAY}.parquet"));
    std::fs::write(&file, "cut").unwrap();
    let plan = workplace.run(&["plan", "--from", DAY, "--to", DAY, "--direction", "placed"]);
    assert!(
        plan.stdout
            .contains("2026-10-01  placed    its file differs from its ledger entry"),
        "{}",
        plan.stdout
    );
    assert_eq!(workplace.run_day(PLACED).status, 0);
    assert_eq!(workplace.rows("placed").num_rows(), 3);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(workplace.run_day(PLACED).report().totals.counts.rows, 3);
}

#[test]
fn the_next_run_repairs_a_killed_run_silently() {
    let (_server, workplace) = serving(&calls(0, 3), 3);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    let clean = workplace.lake_files();
    // As after a kill between publishing and committing: the entry is still pending.
    let path = workplace.path(format!("lake/_cdrlake/ledger/placed/{DAY}.json"));
    let mut entry: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let committed = entry["committed"].clone();
    entry["pending"] = json!({
        "run": "dead",
        "token": "dead",
        "file": committed["file"],
        "digest": committed["digest"],
    });
    for first_commit in [false, true] {
        if first_commit {
            entry["committed"] = json!(null);
        }
        std::fs::write(&path, entry.to_string()).unwrap();
        // Leftovers of the killed run.
        for leftover in ["parquet", "rejects", "rewrite"] {
            std::fs::write(
                workplace.path(format!("lake/_cdrlake/staging/placed-{DAY}.{leftover}")),
                "half",
            )
            .unwrap();
        }
        std::fs::write(
            workplace.path("lake/_cdrlake/staging/_cdrlake-ledger-placed.swap"),
            "half",
        )
        .unwrap();
        std::fs::write(
            workplace.path(format!("lake/_cdrlake/leases/placed-{DAY}.lock")),
            "",
        )
        .unwrap();
        let plan = workplace.run(&["plan", "--from", DAY, "--to", DAY, "--direction", "placed"]);
        assert!(
            plan.stdout.contains("interrupted while publishing"),
            "{}",
            plan.stdout
        );
        let ran = workplace.run_day(PLACED);
        assert_eq!((ran.status, ran.report().warnings), (0, Vec::new()));
        let names = |files: &std::collections::BTreeMap<String, Vec<u8>>| {
            files.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(
            names(&workplace.lake_files()),
            names(&clean),
            "no leftovers"
        );
        let repaired: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            (&repaired["pending"], &repaired["committed"]["digest"]),
            (&json!(null), &committed["digest"])
        );
        assert_eq!(workplace.rows("placed").num_rows(), 3);
    }
}

#[test]
fn a_refresh_repairs_damage_that_leaves_the_size_of_the_file() {
    let (_server, workplace) = serving(&calls(0, 3), 3);
    workplace.configure_also("[parquet]\ncompression = \"uncompressed\"");
    assert_eq!(workplace.run_day(PLACED).status, 0);
    let path = workplace.path(format!("lake/cdrs/dt={DAY}/placed-{DAY}.parquet"));
    let whole = std::fs::read(&path).unwrap();
    // One byte of a value, one byte of its statistics, and the whole file.
    let charge = 27_000_000_i64.to_le_bytes();
    let at = |bytes: &[u8]| whole.windows(8).position(|window| window == bytes).unwrap();
    let last = whole
        .windows(8)
        .rposition(|window| window == charge)
        .unwrap();
    let damaged = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    assert_ne!(at(&charge), last);
    for bytes in [
        damaged(at(&charge) + 2),
        damaged(last),
        vec![0; whole.len()],
    ] {
        std::fs::write(&path, bytes).unwrap();
        let ran = workplace.run_day(&[PLACED, &["--refresh"]].concat());
        assert_eq!(
            (ran.status, ran.json()["slices"][0]["outcome"].as_str()),
            (0, Some("committed")),
            "{ran:?}"
        );
        assert!(
            ran.report().warnings[0].contains("its file is damaged and will be replaced"),
            "{ran:?}"
        );
        assert_eq!(workplace.rows("placed").num_rows(), 3);
    }
}

#[test]
fn an_interrupted_publication_never_counts_as_the_commit_before_it() {
    let (server, workplace) = serving(&calls(0, 3), 3);
    let path = workplace.path(format!("lake/_cdrlake/ledger/placed/{DAY}.json"));
    let entry =
        || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(workplace.run_day(PLACED).status, 0);
    let old = entry();
    // Other charges, same size: a file that the ledger does not record.
    server.serve(
        "placed",
        DAY,
        calls(0, 3).replace("\"charge\":\"0.027\"", "\"charge\":\"0.028\""),
        3,
    );
    assert_eq!(
        workplace.run_day(&[PLACED, &["--refresh"]].concat()).status,
        0
    );
    let new = entry()["committed"].clone();
    assert_eq!(
        old["committed"]["file"]["bytes"], new["file"]["bytes"],
        "or this test shows nothing"
    );
    let mut died = old.clone();
    died["pending"] =
        json!({"run": "dead", "token": "dead", "file": new["file"], "digest": new["digest"]});
    std::fs::write(&path, died.to_string()).unwrap();
    server.serve("placed", DAY, calls(0, 3), 3);
    let ran = workplace.run_day(PLACED);
    assert_eq!(
        (ran.status, ran.json()["slices"][0]["outcome"].as_str()),
        (0, Some("committed")),
        "{ran:?}"
    );
    let rows = workplace.rows("placed");
    let charges = rows.column_by_name("charge_usd").unwrap();
    let charges = arrow::array::AsArray::as_primitive::<arrow::datatypes::Decimal128Type>(charges);
    assert!(
        charges.iter().all(|charge| charge == Some(27_000_000)),
        "the table has the rows of the committed entry"
    );
}

#[test]
fn a_slice_without_its_ledger_entry_still_must_not_shrink() {
    let (server, workplace) = serving(&calls(0, 3), 3);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    std::fs::remove_file(workplace.path(format!("lake/_cdrlake/ledger/placed/{DAY}.json")))
        .unwrap();
    server.serve("placed", DAY, calls(0, 2), 2);
    let ran = workplace.run_day(PLACED);
    assert_eq!(ran.status, 1);
    assert!(
        ran.stdout
            .contains("the slice shrank: it has 2 rows, and the lake 3"),
        "{ran:?}"
    );
}

#[test]
fn a_failed_attempt_leaves_the_rejects_of_what_is_in_the_lake() {
    let broken = |reason: &str| format!("{{\"date\":\"{reason}\"}}\n");
    let (server, workplace) = serving(&format!("{}{}", calls(0, 3), broken("first")), 4);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    server.serve(
        "placed",
        DAY,
        format!("{}{}", calls(0, 2), broken("second")),
        9,
    );
    assert_eq!(
        workplace.run_day(&[PLACED, &["--refresh"]].concat()).status,
        1
    );
    assert_eq!(
        workplace.rejects("placed", "")[0]["text"],
        broken("first").trim_end()
    );
    assert_eq!(
        workplace.rejects("placed", ".failed")[0]["text"],
        broken("second").trim_end()
    );
    server.serve("placed", DAY, calls(0, 4), 4);
    assert_eq!(
        workplace.run_day(&[PLACED, &["--refresh"]].concat()).status,
        0
    );
    assert!(
        !workplace
            .lake_files()
            .keys()
            .any(|name| name.contains("rejects")),
        "both are gone"
    );
}

/// Simulates a full disk by a limit on file sizes.
#[test]
fn a_full_disk_stops_the_run_and_leaves_the_lake() {
    let many: String = calls(0, 4_000);
    let (_server, workplace) = serving(&many, 4_000);
    let program = env!("CARGO_BIN_EXE_cdrlake");
    let script =
        format!("trap '' XFSZ; ulimit -f 16; exec '{program}' run --from {DAY} --to {DAY}");
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(workplace.directory.path())
        .env("TEST_KEY", CANARY)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("error: the run was stopped: cannot")
            && stderr.contains("File too large (os error 27). Make room there and run again"),
        "{stderr}"
    );
    assert!(
        !workplace
            .lake_files()
            .keys()
            .any(|name| name.contains("cdrs/") || name.contains("staging")),
        "{:?}",
        workplace.lake_files().keys()
    );
    assert_eq!(workplace.run_day(&[]).status, 0, "the next run succeeds");
}

/// A run whose only stream has begun. The caller sends the rest of the stream.
struct Streaming {
    workplace: Workplace,
    child: std::process::Child,
    connection: std::net::TcpStream,
    rest: String,
}

impl Streaming {
    /// Runs the binary in a shell that executes `first` before it.
    fn begin(first: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let workplace = Workplace::with_url(&format!("http://{}", listener.local_addr().unwrap()));
        let program = env!("CARGO_BIN_EXE_cdrlake");
        let run = format!(
            "{first} exec '{program}' run --from {DAY} --to {DAY} --direction placed --reconcile \
             off --format json"
        );
        // Under `nohup`, child processes would ignore SIGHUP.
        let mut child = std::process::Command::new("env")
            .args(["--default-signal=HUP", "sh", "-c", &run])
            .current_dir(workplace.directory.path())
            .env("TEST_KEY", CANARY)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut connection = loop {
            if let Ok((connection, _)) = listener.accept() {
                break connection;
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the run ended before its first request: {status}");
            }
            std::thread::yield_now();
        };
        connection.set_nonblocking(false).unwrap();
        let _ = connection.read(&mut [0; 4096]).unwrap();
        let (begin, rest) = (calls(0, 3), calls(3, 3));
        let length = begin.len() + rest.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: \
             {length}\r\n\r\n"
        );
        connection
            .write_all(format!("{head}{begin}").as_bytes())
            .unwrap();
        Self {
            workplace,
            child,
            connection,
            rest,
        }
    }

    fn signal(&self, signal: &str) {
        let arguments = [format!("-{signal}"), self.child.id().to_string()];
        assert!(
            std::process::Command::new("kill")
                .args(arguments)
                .status()
                .unwrap()
                .success()
        );
    }
}

#[test]
fn an_interrupted_run_leaves_no_trace_of_the_slice_under_way() {
    for signal in ["INT", "TERM", "HUP"] {
        let streaming = Streaming::begin("");
        streaming.signal(signal);
        let output = streaming.child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{signal}: {stderr}");
        let names_the_keys = stderr.contains("Press Ctrl-C again to exit at once.");
        assert_eq!(names_the_keys, signal == "INT", "{signal}: {stderr}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&report["outcome"], &report["slices"][0]["outcome"]),
            (&json!("interrupted"), &json!("skipped"))
        );
        let files: Vec<_> = streaming.workplace.lake_files().into_keys().collect();
        assert_eq!(files, ["_cdrlake/lake.json"], "no staging, no lease");
    }
}

#[test]
fn a_run_that_ignores_sighup_outlives_its_terminal() {
    let mut streaming = Streaming::begin("trap '' HUP;");
    streaming.signal("HUP");
    streaming
        .connection
        .write_all(streaming.rest.as_bytes())
        .unwrap();
    let output = streaming.child.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(streaming.workplace.rows("placed").num_rows(), 6);
}

/// A run of [`DAY`] that has logged that it waits for another run.
fn waiting_run(workplace: &Workplace) -> std::process::Child {
    let arguments = [
        "run",
        "--from",
        DAY,
        "--to",
        DAY,
        "--direction",
        "placed",
        "--format",
        "json",
    ];
    let mut child = workplace
        .command(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(
        lines.any(|line| line.contains("Another run is processing this slice")),
        "the run logs that it waits"
    );
    assert!(child.try_wait().unwrap().is_none());
    child
}

#[test]
fn a_run_waits_for_a_slice_that_another_run_holds() {
    let (_server, workplace) = serving(&calls(0, 3), 3);
    let lease = hold_lease(&workplace);
    let child = waiting_run(&workplace);
    drop(lease);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    assert_eq!(workplace.rows("placed").num_rows(), 3);
}

#[test]
fn a_slice_that_another_run_committed_meanwhile_is_skipped() {
    let (server, workplace) = serving(&calls(0, 3), 3);
    let other = Workplace::new(&server);
    assert_eq!(other.run_day(PLACED).status, 0);
    let lease = hold_lease(&workplace);
    let child = waiting_run(&workplace);
    // The files that the other run writes.
    for path in [
        format!("cdrs/dt={DAY}/placed-{DAY}.parquet"),
        format!("_cdrlake/ledger/placed/{DAY}.json"),
    ] {
        let to = workplace.path("lake").join(&path);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(other.path("lake").join(&path), to).unwrap();
    }
    drop(lease);
    let output = child.wait_with_output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &report["outcome"]),
        (Some(0), &json!("committed"))
    );
    assert_eq!(
        (
            &report["slices"][0]["outcome"],
            &report["slices"][0]["state"]
        ),
        (&json!("skipped"), &json!("closed"))
    );
    assert_eq!(
        server.requests("/v1/cdrs/all").len(),
        1,
        "it was fetched once, by the other run"
    );
}

#[test]
fn a_very_long_field_value_leaves_the_ledger_readable() {
    let long = |id: u32| calls(id, 1).replace("answered", &format!("{id}{}", "x".repeat(900_000)));
    let (_server, workplace) = serving(&(0..20).map(long).collect::<String>(), 20);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    let ran = workplace.run_day(&[PLACED, &["--refresh"]].concat());
    assert_eq!(
        (ran.status, ran.json()["slices"][0]["outcome"].as_str()),
        (0, Some("unchanged"))
    );
    assert_eq!(
        ran.json()["slices"][0]["totals"]["by_disposition"],
        json!({"(other)": 20})
    );
}

#[test]
fn a_faulty_file_fails_only_its_slice() {
    let server = three_calls_a_day();
    let workplace = Workplace::new(&server);
    std::fs::create_dir_all(workplace.path("lake/_cdrlake")).unwrap();
    assert_eq!(
        workplace
            .run(&["run", "--from", "2026-09-29", "--to", "2026-09-29"])
            .status,
        0
    );
    // A directory in place of a slice's file, and a link to its parent.
    std::fs::create_dir_all(workplace.path("lake/cdrs/dt=2026-09-30/placed-2026-09-30.parquet/x"))
        .unwrap();
    std::os::unix::fs::symlink(".", workplace.path("lake/cdrs/loop")).unwrap();
    let ran = workplace.run(&[
        "run",
        "--from",
        "2026-09-30",
        "--to",
        DAY,
        "--requests",
        "1",
        "--format",
        "json",
    ]);
    assert_eq!(
        (ran.status, ran.json()["outcome"].as_str()),
        (1, Some("partial")),
        "{ran:?}"
    );
    let outcomes: Vec<_> = ran.json()["slices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|slice| slice["outcome"].clone())
        .collect();
    assert_eq!(outcomes, ["failed", "committed", "committed", "committed"]);
}

/// Number of rows of every file of the table. Panics if a file is incomplete.
fn rows_by_file(workplace: &Workplace) -> std::collections::BTreeMap<String, usize> {
    let whole = |name: String| {
        let rows = crate::support::read(&workplace.path("lake").join(&name)).num_rows();
        (name, rows)
    };
    workplace.table().into_iter().map(whole).collect()
}

#[test]
fn a_repeatedly_killed_run_fills_the_lake_with_complete_files_only() {
    let simulator = crate::simulator::Simulator::start(&["--calls-per-day", "3000"]);
    let run = [
        "run",
        "--from",
        "2026-09-01",
        "--to",
        "2026-09-05",
        "--format",
        "json",
    ];
    let reference = Workplace::with_url(&simulator.url);
    let ran = reference.run(&run);
    assert_eq!(ran.status, 0, "{ran:?}");
    let expected = rows_by_file(&reference);
    assert_eq!(expected.len(), 10);

    let workplace = Workplace::with_url(&simulator.url);
    for lines in 1..=20 {
        let mut command = workplace.command(&run);
        // The run is killed after each line that it logs.
        let mut child = command
            .env("CDRLAKE_LOG", "cdrlake=debug")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let seen = stderr.lines().take(lines).map_while(Result::ok).count();
        assert!(seen > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        for (name, rows) in rows_by_file(&workplace) {
            assert_eq!(rows, expected[&name], "{name}");
        }
    }
    let ran = workplace.run(&run);
    assert_eq!((ran.status, ran.report().warnings), (0, Vec::new()));
    assert_eq!(rows_by_file(&workplace), expected);
    let names = |workplace: &Workplace| workplace.lake_files().into_keys().collect::<Vec<_>>();
    assert_eq!(names(&workplace), names(&reference), "no leftovers");
}

/// The path and content of the ledger entry of one direction of [`DAY`].
fn ledger(workplace: &Workplace, direction: &str) -> (std::path::PathBuf, serde_json::Value) {
    let path = workplace.path(format!("lake/_cdrlake/ledger/{direction}/{DAY}.json"));
    let entry = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    (path, entry)
}

/// The line of `plan` about the placed calls of [`DAY`].
fn plan(workplace: &Workplace) -> String {
    workplace
        .run(&["plan", "--from", DAY, "--to", DAY, "--direction", "placed"])
        .stdout
}

#[test]
fn a_slice_that_failed_is_due_until_an_attempt_succeeds() {
    let (server, workplace) = serving(&calls(0, 5), 5);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    server.serve("placed", DAY, calls(0, 4), 4);
    let refresh = [PLACED, &["--refresh"]].concat();
    assert_eq!(workplace.run_day(&refresh).status, 1);
    assert!(
        plan(&workplace).contains("placed    the last attempt failed"),
        "{}",
        plan(&workplace)
    );
    let status = workplace.run(&["status", "--from", DAY, "--to", DAY]);
    assert!(
        status.stdout.contains("placed failed")
            && status
                .stdout
                .contains("placed 2026-10-01: the slice shrank"),
        "{}",
        status.stdout
    );
    let failed = workplace.lake_files();
    assert_eq!(workplace.run_day(PLACED).status, 1, "it is still due");
    assert_eq!(workplace.lake_files(), failed, "and says nothing new");
    server.serve("placed", DAY, calls(0, 5), 5);
    let ran = workplace.run_day(PLACED);
    assert_eq!(
        (ran.status, ran.json()["slices"][0]["outcome"].as_str()),
        (0, Some("unchanged"))
    );
    assert!(plan(&workplace).starts_with("0 slices due"));
}

#[test]
fn a_damaged_ledger_entry_is_repaired_and_a_newer_one_left_alone() {
    let (server, workplace) = serving(&calls(0, 3), 3);
    assert_eq!(workplace.run_day(&[]).status, 0);
    let (path, good) = ledger(&workplace, "placed");
    let whole = std::fs::read(&path).unwrap();
    let edited = |pointer: &str, value: serde_json::Value| {
        let mut entry = good.clone();
        *entry.pointer_mut(pointer).unwrap() = value;
        entry.to_string().into_bytes()
    };
    for damaged in [
        Vec::new(),
        whole[..whole.len() / 2].to_vec(),
        b"\xff\x00".to_vec(),
        edited("/slice/day", json!("2026-10-02")),
        edited("/committed/counts/rows", json!(2)),
        edited("/committed/counts/records", json!(u64::MAX)),
        edited("/committed/file/path", json!("../outside.parquet")),
        edited("/committed/file", json!(null)),
        edited("/committed/digest", json!("v9:nonsense")),
    ] {
        std::fs::write(&path, &damaged).unwrap();
        assert!(
            plan(&workplace).contains("its ledger entry is damaged"),
            "{}",
            plan(&workplace)
        );
        let ran = workplace.run_day(&[]);
        assert_eq!(
            (ran.status, ran.report().slices.len(), ran.report().warnings),
            (
                0,
                1,
                vec!["placed 2026-10-01: its ledger entry is damaged; repaired".to_owned()]
            ),
            "{}",
            String::from_utf8_lossy(&damaged)
        );
        assert_eq!(
            ledger(&workplace, "placed").1["committed"]["digest"],
            good["committed"]["digest"]
        );
        assert_eq!(workplace.rows("placed").num_rows(), 3);
    }

    // A slice may not shrink even if its ledger entry is unreadable.
    std::fs::write(&path, "{").unwrap();
    server.serve("placed", DAY, calls(0, 2), 2);
    assert_eq!(workplace.run_day(PLACED).status, 1);
    assert_eq!(workplace.rows("placed").num_rows(), 3);

    let newer = edited("/format", json!(2));
    std::fs::write(&path, &newer).unwrap();
    server.serve("received", DAY, calls(7, 1), 1);
    let ran = workplace.run_day(&["--refresh"]);
    let outcomes: Vec<_> = ran
        .report()
        .slices
        .iter()
        .map(|slice| slice.outcome)
        .collect();
    assert_eq!(
        (ran.status, outcomes),
        (1, vec![SliceOutcome::Failed, SliceOutcome::Committed])
    );
    assert!(
        ran.stdout.contains(
            "_cdrlake/ledger/placed/2026-10-01.json has format 2, but this version of cdrlake \
             supports up to 1. Use a newer version"
        ),
        "{}",
        ran.stdout
    );
    assert_eq!(std::fs::read(&path).unwrap(), newer);
    assert_eq!(workplace.rows("placed").num_rows(), 3);
}

#[test]
fn a_slice_that_was_fetched_in_the_future_is_fetched_again() {
    let (server, workplace) = serving("", 0);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    // The machine's clock was a year ahead, and the day had not ended.
    let (path, mut entry) = ledger(&workplace, "placed");
    let ahead = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(365 * 24);
    entry["committed"]["fetched_at"] = json!(ahead);
    std::fs::write(&path, entry.to_string()).unwrap();
    assert!(
        plan(&workplace).contains("its fetch time is in the future (clock skew)"),
        "{}",
        plan(&workplace)
    );
    let ran = workplace.run_day(PLACED);
    assert_eq!(ran.json()["slices"][0]["outcome"], "unchanged");
    assert!(
        plan(&workplace).starts_with("0 slices due"),
        "the slice is not due again"
    );

    std::fs::write(&path, entry.to_string()).unwrap();
    server.serve("placed", DAY, calls(0, 3), 3);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    assert_eq!(workplace.rows("placed").num_rows(), 3);
}

#[test]
fn repairs_come_first_and_then_the_newest_day() {
    let server = three_calls_a_day();
    let workplace = Workplace::new(&server);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    let file = workplace.path(format!("lake/cdrs/dt={DAY}/placed-{DAY}.parquet"));
    std::fs::remove_file(file).unwrap();
    let ran = workplace.run(&[
        "plan",
        "--from",
        "2026-09-30",
        "--to",
        "2026-10-03",
        "--format",
        "json",
    ]);
    let order: Vec<_> = ran.json()["due"]
        .as_array()
        .unwrap()
        .iter()
        .map(|due| {
            format!(
                "{} {}",
                due["day"].as_str().unwrap(),
                due["direction"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        order,
        [
            "2026-10-01 placed",
            "2026-10-03 placed",
            "2026-10-03 received",
            "2026-10-02 placed",
            "2026-10-02 received",
            "2026-10-01 received",
            "2026-09-30 placed",
            "2026-09-30 received",
        ]
    );
}

#[test]
fn shards_fetch_every_slice_once_and_leave_other_shards_alone() {
    let server = three_calls_a_day();
    let workplace = Workplace::new(&server);
    let range = ["run", "--from", "2026-09-28", "--to", "2026-10-01"];
    for shard in ["1/3", "2/3", "3/3"] {
        let ran = workplace.run(&[&range[..], &["--shard", shard, "--format", "json"]].concat());
        assert_eq!(ran.status, 0, "{ran:?}");
        assert!((2..=3).contains(&ran.report().slices.len()), "{ran:?}");
    }
    assert_eq!(workplace.table().len(), 8);
    assert_eq!(server.requests("/v1/cdrs/all").len(), 8);
    let wrong = workplace.run(&[&range[..], &["--shard", "4/3"]].concat());
    assert_eq!(wrong.status, 2);
    assert!(wrong.stderr.contains("write K/N with K from 1 to N"));
}

#[test]
fn missing_rejects_are_restored_and_equal_ones_are_not_written_again() {
    let records = format!("{}{{\"date\":\"broken\"}}\n", calls(0, 3));
    let (_server, workplace) = serving(&records, 4);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    let before = workplace.lake_files();
    let refresh = [PLACED, &["--refresh"]].concat();
    assert_eq!(workplace.run_day(&refresh).status, 0);
    assert_eq!(workplace.lake_files(), before);
    let path = workplace.path(format!("lake/_cdrlake/rejects/placed/{DAY}.ndjson.zst"));
    let written = std::fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(workplace.run_day(&refresh).status, 0);
    assert_eq!(
        std::fs::metadata(&path).unwrap().modified().unwrap(),
        written
    );
    std::fs::remove_file(&path).unwrap();
    assert_eq!(workplace.run_day(&refresh).status, 0);
    assert_eq!(
        workplace.rejects("placed", "")[0]["text"],
        "{\"date\":\"broken\"}"
    );
}

#[test]
fn a_second_signal_ends_a_run_at_once() {
    let mut streaming = Streaming::begin("");
    // A held lock blocks the last step of a run: storing its report.
    let locks = streaming.workplace.path("lake/_cdrlake/locks");
    std::fs::create_dir_all(&locks).unwrap();
    let lock = std::fs::File::create(locks.join("_cdrlake-runs.lock")).unwrap();
    lock.lock().unwrap();
    streaming.signal("INT");
    let mut lines = BufReader::new(streaming.child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(lines.any(|line| line.contains("Press Ctrl-C again to exit at once")));
    assert!(streaming.child.try_wait().unwrap().is_none());
    streaming.signal("INT");
    assert_eq!(streaming.child.wait().unwrap().code(), Some(130));
    drop(lock);
    // The next run removes its leftovers.
    let server = Server::start();
    server.serve("placed", DAY, calls(0, 3), 3);
    let url = server.url();
    let next = streaming
        .workplace
        .run_day(&[PLACED, &["--source-url", &url]].concat());
    assert_eq!(next.status, 0, "{next:?}");
    let files: Vec<_> = streaming.workplace.lake_files().into_keys().collect();
    assert_eq!(
        files,
        [
            "_cdrlake/lake.json".to_owned(),
            format!("_cdrlake/ledger/placed/{DAY}.json"),
            format!("cdrs/dt={DAY}/placed-{DAY}.parquet"),
        ]
    );
}

/// The days that several tests fetch in both directions.
pub(crate) const DAYS: [&str; 3] = ["2026-09-29", "2026-09-30", "2026-10-01"];

/// Serves `rows` calls for each of [`DAYS`], all with this charge.
pub(crate) fn serve_days(server: &Server, rows: u32, charge: &str) {
    serve_slices(server, PeriodUnit::Day, rows, charge);
}

/// The same for each of the slices of [`periods`].
fn serve_slices(server: &Server, unit: PeriodUnit, rows: u32, charge: &str) {
    for period in periods(unit) {
        let (first, last) = (
            period.first_day().to_string(),
            period.last_day().to_string(),
        );
        for direction in ["placed", "received"] {
            let body = calls(0, rows)
                .replace(DAY, &last)
                .replace("\"charge\":\"0.027\"", &format!("\"charge\":\"{charge}\""));
            server.serve_days(direction, (&first, &last), body, u64::from(rows));
        }
    }
}

/// [`DAYS`], or three months.
fn periods(unit: PeriodUnit) -> [Period; 3] {
    let days = match unit {
        PeriodUnit::Day => DAYS,
        PeriodUnit::Month => ["2026-08-31", "2026-09-30", "2026-10-01"],
    };
    days.map(|day| Period::containing(parse_day(day).unwrap(), unit))
}

/// Flags for the days of [`periods`].
fn range(unit: PeriodUnit) -> [String; 4] {
    let [first, .., last] = periods(unit);
    let (first, last) = (first.first_day(), last.last_day());
    [
        "--from".to_owned(),
        first.to_string(),
        "--to".to_owned(),
        last.to_string(),
    ]
}

/// A workplace for a lake of such slices.
fn workplace_of(server: &Server, unit: PeriodUnit) -> Workplace {
    let workplace = Workplace::new(server);
    workplace.configure_also(&format!("[window]\nslice = \"{unit}\""));
    workplace
}

/// The charges in a file, in billionths of a dollar, and the number of rows with each.
fn charges(path: &std::path::Path) -> std::collections::BTreeMap<i128, usize> {
    let batch = crate::support::read(path);
    let charges = batch.column_by_name("charge_usd").unwrap();
    let charges = arrow::array::AsArray::as_primitive::<arrow::datatypes::Decimal128Type>(charges);
    let mut found = std::collections::BTreeMap::new();
    for charge in charges.iter().flatten() {
        *found.entry(charge).or_default() += 1;
    }
    found
}

/// The number of kills. The default is small enough for every run of the tests.
fn kills() -> usize {
    std::env::var("TEST_KILLS").map_or(50, |kills| kills.parse().unwrap())
}

#[test]
fn readers_see_old_rows_or_new_rows_while_runs_are_killed_at_random_moments() {
    read_beside_kills(PeriodUnit::Day, kills());
    read_beside_kills(PeriodUnit::Month, kills() / 5);
}

fn read_beside_kills(unit: PeriodUnit, kills: usize) {
    const ROWS: u32 = 400;
    let server = Server::start();
    let workplace = workplace_of(&server, unit);
    let refresh = |requests: &'static str| {
        let mut command = workplace.command(&["run", "--refresh", "--requests", requests]);
        command.args(range(unit));
        command
    };
    let serve_days = |server, rows, charge| serve_slices(server, unit, rows, charge);
    let contents = ["0.027", "0.028"];
    serve_days(&server, ROWS, contents[0]);
    assert!(refresh("4").output().unwrap().status.success());
    let mut random = fastrand::Rng::with_seed(seed());
    let begun = std::time::Instant::now();
    serve_days(&server, ROWS, contents[1]);
    assert!(refresh("4").output().unwrap().status.success());
    let whole_run = begun.elapsed();

    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                for period in periods(unit) {
                    let first = period.first_day();
                    for direction in ["placed", "received"] {
                        let name = format!("lake/cdrs/dt={first}/{direction}-{period}.parquet");
                        let found = charges(&workplace.path(&name));
                        let (charge, rows) = found.first_key_value().unwrap();
                        assert!(
                            found.len() == 1
                                && *rows == ROWS as usize
                                && [27_000_000, 28_000_000].contains(charge),
                            "{name}: {found:?}"
                        );
                        reads += 1;
                    }
                }
            }
            reads
        });
        for round in 0..kills {
            serve_days(&server, ROWS, contents[round % 2]);
            let mut child = refresh("4")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // A random moment, not a wait for an event.
            std::thread::park_timeout(whole_run.mul_f64(random.f64()));
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(!reader.is_finished(), "a reader panicked");
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        let reads = reader.join().unwrap();
        assert!(reads > kills, "{reads}");
    });

    // The next run repairs the lake without any flag.
    let mut command = workplace.command(&["run"]);
    let ran = ran(output({
        command.args(range(unit));
        command
    }));
    assert_eq!(ran.status, 0, "{ran:?}");
    let verified = workplace.run(&["verify"]);
    assert_eq!(verified.status, 0, "{verified:?}");
    serve_days(&server, ROWS, "0.029");
    assert!(refresh("4").output().unwrap().status.success());
    assert_eq!(workplace.table().len(), 6);
    for name in workplace.table() {
        let found = charges(&workplace.path("lake").join(&name));
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [(29_000_000, ROWS as usize)]
        );
    }
    let leftovers: Vec<String> = workplace
        .lake_files()
        .into_keys()
        .filter(|name| name.contains("staging") || name.contains("leases"))
        .collect();
    assert_eq!(leftovers, [] as [&str; 0]);
}

#[test]
fn readers_of_logs_see_the_ledger_of_some_moment_while_runs_are_killed_at_random_moments() {
    const ROWS: u32 = 50;
    let server = Server::start();
    let workplace = Workplace::new(&server);
    workplace.with_tables(TABLES[1]);
    let refresh = || {
        let days = ["run", "--from", DAYS[0], "--to", DAYS[2], "--refresh"];
        let mut command = workplace.command(&[&days[..], &["--requests", "4"]].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let contents = ["0.027", "0.028"];
    let lake = workplace.path("lake");
    let named = || -> BTreeSet<String> {
        let files = block_on(current_files(&*local(&lake)));
        files.into_values().collect()
    };
    serve_days(&server, ROWS, contents[0]);
    assert!(refresh().status().unwrap().success());
    // Logs are committed when a run ends, so a snapshot equals the ledger between two runs.
    let mut moments = BTreeSet::from([named()]);
    let begun = std::time::Instant::now();
    serve_days(&server, ROWS, contents[1]);
    assert!(refresh().status().unwrap().success());
    moments.insert(named());
    let whole_run = begun.elapsed();
    let mut random = fastrand::Rng::with_seed(seed());

    let is_over = std::sync::atomic::AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (store, mut read) = (local(&lake), BTreeMap::new());
            let mut seen = BTreeMap::new();
            let mut reads = 0;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                for snapshot in block_on(newest_snapshots(&*store)) {
                    let rows = block_on(rows_of(&*store, &snapshot, &mut read));
                    let is_whole = |ids: &Vec<String>| ids.len() == ROWS as usize;
                    assert!(
                        rows.len() == 6 && rows.values().all(is_whole),
                        "{snapshot:?}"
                    );
                    seen.insert(snapshot.paths(), snapshot);
                    reads += 1;
                }
            }
            (seen, reads)
        });
        for round in 0..kills() / 2 {
            serve_days(&server, ROWS, contents[round % 2]);
            let mut child = refresh().spawn().unwrap();
            // A random moment, not a wait for an event.
            // Runs take longer beside a reader and other tests, and some must end.
            std::thread::park_timeout(whole_run.mul_f64(3.0 * random.f64()));
            child.kill().unwrap();
            child.wait().unwrap();
            moments.insert(named());
            assert!(!reader.is_finished(), "a reader panicked");
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        let (seen, reads) = reader.join().unwrap();
        assert!(reads > kills(), "{reads}");
        seen
    });
    assert!(seen.len() > 2, "no run committed: {seen:?}");
    for (files, snapshot) in seen {
        assert!(
            moments.contains(&files),
            "the ledger was never like {snapshot:?}"
        );
    }
    // The next run repairs the lake without any flag.
    let ran = workplace.run(&["run", "--from", DAYS[0], "--to", DAYS[2]]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let verified = workplace.run(&["verify"]);
    assert_eq!(verified.status, 0, "{verified:?}");
    block_on(assert_logs_equal_the_ledger(&*local(&lake), "in the end"));
}

/// Runs several commands at once on one new lake of [`DAYS`], and checks that together they fetch
/// and commit each slice once.
pub(crate) fn run_at_once(server: &Server, workplace: &Workplace, commands: &[&[&str]]) {
    run_all_at_once(server, workplace, PeriodUnit::Day, commands);
}

/// The same for the slices of [`periods`].
fn run_all_at_once(server: &Server, workplace: &Workplace, unit: PeriodUnit, commands: &[&[&str]]) {
    let before = server.requests("/v1/cdrs/all").len();
    let children: Vec<_> = commands
        .iter()
        .map(|more| {
            workplace
                .command(&[&["run", "--format", "json"], *more].concat())
                .args(range(unit))
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut committed = std::collections::BTreeMap::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        let report: cdrlake::RunReport = serde_json::from_slice(&output.stdout).unwrap();
        for slice in report.slices {
            // Runs that skipped it report its state, too.
            assert!(slice.state.is_some(), "{slice:?}");
            let times = usize::from(slice.outcome == SliceOutcome::Committed);
            *committed.entry(slice.slice()).or_insert(0) += times;
        }
    }
    assert_eq!(committed.len(), 6);
    assert!(committed.values().all(|&times| times == 1), "{committed:?}");
    assert_eq!(
        server.requests("/v1/cdrs/all").len() - before,
        6,
        "each was fetched once"
    );
    let verified = workplace.run(&["verify"]);
    assert_eq!(verified.status, 0, "{verified:?}");
    assert!(
        verified.stdout.contains("6 slices verified"),
        "{verified:?}"
    );
}

fn run_at_once_on_disk(kind: Kind, commands: &[&[&str]]) {
    let server = Server::start();
    serve_slices(&server, kind.slice, 20, "0.027");
    let workplace = workplace_of(&server, kind.slice);
    workplace.with_tables(kind.tables);
    run_all_at_once(&server, &workplace, kind.slice, commands);
    let store = local(&workplace.path("lake"));
    block_on(assert_logs_equal_the_ledger(&*store, kind.tables));
    assert_eq!(workplace.table().len(), 6);
    for name in workplace.table() {
        let found = charges(&workplace.path("lake").join(&name));
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [(27_000_000, 20)]);
    }
}

/// Four shards, and a run of all slices.
pub(crate) const SHARDS_AND_A_WHOLE_RUN: [&[&str]; 5] = [
    &["--shard", "1/4"],
    &["--shard", "2/4"],
    &["--shard", "3/4"],
    &["--shard", "4/4"],
    &[],
];

#[test]
fn two_concurrent_runs_fetch_every_slice_once_in_twenty_trials() {
    for_each(20, |k| {
        run_at_once_on_disk(KINDS[k % KINDS.len()], &[&[], &[]]);
    });
}

#[test]
fn concurrent_shards_and_a_whole_run_fetch_every_slice_once() {
    for kind in KINDS {
        run_at_once_on_disk(kind, &SHARDS_AND_A_WHOLE_RUN);
    }
}

#[test]
fn a_day_that_has_not_ended_by_the_provider_s_clock_is_not_closed() {
    let server = Server::start();
    let workplace = Workplace::new(&server);
    for (time, state, minutes) in [
        ("Thu, 01 Oct 2026 12:00:00 GMT", "open", true),
        ("Fri, 02 Oct 2026 23:00:00 GMT", "open", true),
        ("Sat, 03 Oct 2026 00:00:00 GMT", "closed", true),
        ("Fri, 01 Oct 2100 00:00:00 GMT", "closed", true),
        ("nonsense", "closed", false),
    ] {
        let body = sized(
            "200 OK",
            &format!("Date: {time}\r\nContent-Type: application/x-ndjson\r\n"),
            calls(0, 3),
        );
        server
            .on("/v1/cdrs/all", [body])
            .on("/v1/cdrs?", [count(3)]);
        let ran = workplace.run_day(&[PLACED, &["--refresh"]].concat());
        assert_eq!(ran.status, 0, "{ran:?}");
        assert_eq!(ran.json()["slices"][0]["state"], state, "{time}");
        let warned = ran
            .report()
            .warnings
            .iter()
            .any(|warning| warning.contains("this machine's clock is"));
        assert_eq!(warned, minutes, "{time}: {:?}", ran.report().warnings);
    }
}

#[test]
fn the_next_run_reports_the_days_that_a_killed_run_committed() {
    let server = Server::start();
    serve_days(&server, 3, "0.027");
    let workplace = Workplace::new(&server);
    let range = [
        "run", "--from", DAYS[0], "--to", DAYS[2], "--format", "json",
    ];
    // Its slices are open; the next run closes them and leaves their files as they are.
    workplace.configure_also("[window]\nsettle_hours = 999999");
    let first = workplace.run(&range);
    assert_eq!(first.report().partitions_changed.len(), 3);
    workplace.reconfigure("settle_hours = 999999", "settle_hours = 0");
    // As after a crash before its report.
    let runs = workplace.path("lake/_cdrlake/runs");
    let run = first.report().run;
    std::fs::remove_file(runs.join(format!("{run}.json"))).unwrap();
    std::fs::write(workplace.path("lake/_cdrlake/running").join(&run), "").unwrap();
    let next = workplace.run(&range);
    assert_eq!(next.status, 0);
    let report = next.report();
    let are_unchanged = report
        .slices
        .iter()
        .all(|slice| slice.outcome == SliceOutcome::Unchanged);
    assert!(are_unchanged && report.slices.len() == 6, "{report:?}");
    assert_eq!(report.partitions_changed, first.report().partitions_changed);
    assert!(
        report.warnings[0].contains(
            "crashed before it wrote a report. The changed days include those of 6 slices"
        ),
        "{:?}",
        report.warnings
    );
    let recovered: cdrlake::RunReport =
        serde_json::from_slice(&std::fs::read(runs.join(format!("{run}.json"))).unwrap()).unwrap();
    assert_eq!(recovered.totals, first.report().totals);
    // The days are reported only once.
    let last = workplace.run(&range).report();
    assert_eq!((last.partitions_changed.len(), last.warnings.len()), (0, 0));
}

/// A group with two users.
const GROUP: u32 = 61_000;
const USERS: [u32; 2] = [61_001, 61_002];

/// A folder in which users other than root may run the binary. `None` if the tests do not run as
/// root.
fn folder_of_users(workplace: &Workplace) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;

    let root = workplace.path("");
    if std::fs::metadata(&root).unwrap().uid() != 0 {
        skipped("TEST_AS_ROOT", "a machine on which tests are root");
        return None;
    }
    allow(&root, 0o755);
    std::fs::copy(env!("CARGO_BIN_EXE_cdrlake"), root.join("cdrlake")).unwrap();
    std::fs::create_dir(root.join("lake")).unwrap();
    Some(root)
}

fn allow(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;

    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs the binary in a folder as a user of [`GROUP`].
fn run_as(user: u32, root: &Path, arguments: &str) -> Ran {
    use std::os::unix::process::CommandExt;

    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("umask 022; exec ./cdrlake {arguments}")])
        .current_dir(root)
        .env("TEST_KEY", "test-key")
        .uid(user)
        .gid(GROUP);
    ran(output(command))
}

#[test]
fn a_partition_of_another_owner_fails_its_slice_only() {
    let server = Server::start();
    serve_days(&server, 3, "0.027");
    let workplace = Workplace::new(&server);
    let Some(root) = folder_of_users(&workplace) else {
        return;
    };
    std::os::unix::fs::chown(root.join("lake"), Some(USERS[0]), Some(GROUP)).unwrap();
    let days = format!("--direction placed --from {} --to {}", DAYS[0], DAYS[2]);
    let first = run_as(USERS[0], &root, &format!("run {days}"));
    assert_eq!(first.status, 0, "{first:?}");
    let closed = root.join(format!("lake/cdrs/dt={}", DAYS[1]));
    std::os::unix::fs::chown(&closed, Some(USERS[1]), None).unwrap();
    allow(&closed, 0o700);

    let run = run_as(
        USERS[0],
        &root,
        &format!("run {days} --refresh --format json"),
    );
    assert_eq!(run.status, 1, "{run:?}");
    for slice in run.report().slices {
        let is_closed = slice.slice().period.to_string() == DAYS[1];
        assert_eq!(slice.error.is_some(), is_closed, "{run:?}");
    }
    let others = format!("--direction placed --from {0} --to {0}", DAYS[2]);
    for arguments in [
        format!("verify {others}"),
        format!("plan {others}"),
        "gc".to_owned(),
    ] {
        let other = run_as(USERS[0], &root, &arguments);
        assert_eq!(other.status, 0, "{arguments}: {other:?}");
        assert!(!other.stderr.contains(DAYS[1]), "{arguments}: {other:?}");
    }
    let verified = run_as(USERS[0], &root, "verify");
    assert_eq!(verified.status, 1, "{verified:?}");
    let finding = format!(
        "damaged     cdrs/dt={0}/placed-{0}.parquet: cannot look at",
        DAYS[1]
    );
    assert!(
        verified.stdout.contains(&finding) && verified.stdout.contains("1 finding"),
        "{verified:?}"
    );
}

#[test]
fn a_second_user_of_the_group_runs_verifies_and_cleans_up_in_the_same_lake() {
    let server = Server::start();
    serve_days(&server, 3, "0.027");
    let workplace = Workplace::new(&server);
    let Some(root) = folder_of_users(&workplace) else {
        return;
    };
    workplace.reconfigure("url = \"lake\"", "url = \"lake\"\nfile_mode = \"0660\"");
    std::os::unix::fs::chown(root.join("lake"), None, Some(GROUP)).unwrap();
    allow(&root.join("lake"), 0o2770);
    let run_as = |user: u32, arguments: &str| {
        let ran = run_as(user, &root, arguments);
        assert_eq!(ran.status, 0, "{user} {arguments}: {ran:?}");
    };
    let days = format!("--from {} --to {}", DAYS[0], DAYS[2]);
    run_as(USERS[0], &format!("run {days}"));
    serve_days(&server, 3, "0.031");
    run_as(USERS[1], &format!("run {days} --refresh"));
    // As after a crash during the slice.
    let left = root.join("lake/_cdrlake/staging/placed-2026-10-01.parquet");
    std::fs::write(&left, "").unwrap();
    std::os::unix::fs::chown(&left, Some(USERS[0]), Some(GROUP)).unwrap();
    for user in [USERS[1], USERS[0]] {
        run_as(user, "gc");
        run_as(user, "verify");
        run_as(user, &format!("run {days} --refresh"));
    }
    assert!(!left.exists());
}
