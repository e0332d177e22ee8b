use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use serde_json::json;

use crate::server::{Answer, STREAM, Server, count};
use crate::support::{CANARY, DAY, PLACED, Ran, Workplace, calls, ended, output, ran, serving};

fn refused(ran: &Ran, status: i32, sentence: &str) {
    assert_eq!(ran.status, status, "{ran:?}");
    assert!(
        ran.stderr.contains(sentence),
        "expected «{sentence}» in:\n{}",
        ran.stderr
    );
    assert_eq!(ran.stdout, "", "a command that did not run has no result");
}

#[test]
fn a_run_fills_the_lake_and_reports_it() {
    let (server, workplace) = serving(&calls(0, 3), 3);
    let ran = workplace.run_day(&[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let json = ran.json();
    assert_eq!(json["outcome"], "committed");
    assert_eq!(json["partitions_changed"], json!([DAY]));
    assert_eq!(json["warnings"], json!([]));
    assert_eq!(json["totals"]["charge_usd"], "0.081");
    let slice = &json["slices"][0];
    let path = format!("cdrs/dt={DAY}/placed-{DAY}.parquet");
    let bytes = std::fs::metadata(workplace.path("lake").join(&path))
        .unwrap()
        .len();
    assert_eq!(
        *slice,
        json!({
            "direction": "placed", "day": DAY, "outcome": "committed", "state": "closed",
            "attempts": 1,
            "records": 3, "rows": 3, "duplicates": 0, "repeated": 0, "conflicts": 0, "rejected": 0,
            "suppressed": 0, "redacted": 0, "rounded": 0, "ambiguous_times": 0,
            "outside_day": 0, "missing_charge": 0, "missing_duration": 0,
            "control_total": 3, "reconcile": "match", "change": null,
            "totals": {
                "duration_seconds": 180, "charge_usd": "0.081", "forward_fee_usd": "0",
                "by_disposition": {"answered": 3},
            },
            "files": [{"path": path, "rows": 3, "bytes": bytes}],
            "error": null,
        })
    );
    let kept = std::fs::read(workplace.path(format!(
        "lake/_cdrlake/runs/{}.json",
        json["run"].as_str().unwrap()
    )))
    .unwrap();
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&kept).unwrap(),
        json
    );
    let stream = server.requests("/v1/cdrs/all");
    assert_eq!(
        stream[0]
            .target
            .split('?')
            .nth(1)
            .unwrap()
            .split("&type=")
            .next()
            .unwrap(),
        format!("from={DAY}&to={DAY}")
    );
    assert!(
        stream
            .iter()
            .all(|request| request.target.contains("disposition=all"))
    );

    let again = workplace.run_day(&[]);
    assert_eq!(
        (
            again.status,
            again.json()["slices"].as_array().unwrap().len()
        ),
        (0, 0),
        "nothing is due any more"
    );
    assert_eq!(server.requests("/v1/cdrs/all").len(), stream.len());
}

#[test]
fn a_run_for_people_ends_with_a_table() {
    let (_server, workplace) = serving(&calls(0, 3), 3);
    let ran = workplace.run(&["run", "--from", DAY, "--to", DAY]);
    assert_eq!(ran.status, 0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(
        lines[1].starts_with("2026-10-01          3          0            3          0.08"),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stdout
            .contains("2 slices committed, 0 unchanged, 0 failed, 0 skipped; 0 were up to date."),
        "{}",
        ran.stdout
    );
    assert!(
        workplace
            .run(&["run", "--from", DAY, "--to", DAY])
            .stdout
            .contains("Nothing to do: all 2 slices")
    );
}

#[test]
fn files_belong_to_their_owner_alone_unless_configured() {
    let (_server, workplace) = serving(&calls(0, 3), 3);
    assert_eq!(workplace.run_day(&[]).status, 0);
    let mode = |path: String| std::fs::metadata(workplace.path(path)).unwrap().mode() & 0o777;
    let file = || format!("lake/cdrs/dt={DAY}/placed-{DAY}.parquet");
    assert_eq!(
        (
            mode(file()),
            mode("lake/cdrs".to_owned()),
            mode("lake/_cdrlake/lake.json".to_owned())
        ),
        (0o600, 0o700, 0o600)
    );

    let (_server, workplace) = serving(&calls(0, 3), 3);
    workplace.configure_also("file_mode = \"0640\"");
    assert_eq!(workplace.run_day(&[]).status, 0);
    let mode = |path: String| std::fs::metadata(workplace.path(path)).unwrap().mode() & 0o777;
    assert_eq!((mode(file()), mode("lake/cdrs".to_owned())), (0o640, 0o750));
}

#[test]
fn a_log_without_a_reader_does_not_end_a_run() {
    let (_server, workplace) = serving(&calls(0, 3), 3);
    let mut child = workplace
        .command(&["run", "--from", DAY, "--to", DAY, "--format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    assert_eq!(workplace.rows("placed").num_rows(), 3);
    let mut child = workplace
        .command(&["run", "--config", "nowhere"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(2));
}

/// A pseudo-terminal of so many columns: the side of the person, and the side of the program.
fn terminal(columns: u16) -> (File, OwnedFd) {
    let (mut seen, mut given) = (0, 0);
    let none = std::ptr::null_mut();
    let mut size = libc::winsize {
        ws_row: 50,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    #[expect(unsafe_code, reason = "the standard library makes no terminals")]
    // SAFETY: the pointers are to variables of ours, and nothing else owns the new descriptors.
    unsafe {
        let made = libc::openpty(
            &raw mut seen,
            &raw mut given,
            none,
            none.cast(),
            &raw mut size,
        );
        assert_eq!(made, 0);
        // The program must not hold it open itself.
        assert_eq!(libc::fcntl(seen, libc::F_SETFD, libc::FD_CLOEXEC), 0);
        (File::from_raw_fd(seen), OwnedFd::from_raw_fd(given))
    }
}

#[test]
fn a_terminal_that_is_closed_does_not_end_a_run() {
    let simulator = crate::simulator::Simulator::start(&["--calls-per-day", "500"]);
    let workplace = Workplace::with_url(&simulator.url);
    let (mut seen, given) = terminal(80);
    let mut command = workplace.command(&["run", "--verbose", "--from", "2026-08-01"]);
    let child = command
        .args(["--to", "2026-09-30", "--format", "json"])
        .stdout(Stdio::piped())
        .stderr(given)
        .spawn()
        .unwrap();
    // This process's copy of the program's side.
    drop(command);
    let mut bar = [0; 1];
    seen.read_exact(&mut bar).unwrap();
    drop(seen);
    let output = ended(child);
    assert_eq!(output.status.code(), Some(0));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["outcome"], "committed");
}

#[test]
fn status_fits_a_terminal_and_has_colours_only_there_unless_told_otherwise() {
    let (_server, workplace) = serving(&calls(0, 3), 3);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    let status = ["status", "--from", DAY, "--to", "2026-10-02"];
    let environment = |command: &mut std::process::Command, variables: &[(&str, &str)]| {
        for unset in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(unset);
        }
        command.env("TERM", "xterm").envs(variables.iter().copied());
    };
    let on_terminal = |more: &[&str], variables: &[(&str, &str)]| {
        let (mut seen, given) = terminal(60);
        let mut command = workplace.command(&[&status, more].concat());
        environment(&mut command, variables);
        let mut child = command.stdout(given).spawn().unwrap();
        drop(command);
        let mut text = Vec::new();
        // The terminal of a program that has ended is an error to read.
        drop(seen.read_to_end(&mut text));
        assert!(child.wait().unwrap().success());
        String::from_utf8(text).unwrap().replace("\r\n", "\n")
    };
    let piped = |more: &[&str], variables: &[(&str, &str)]| {
        let mut command = workplace.command(&[&status, more].concat());
        environment(&mut command, variables);
        ran(output(command)).stdout
    };
    let red = "\u{1b}[31m";
    let coloured = on_terminal(&[], &[]);
    assert!(
        coloured.contains(&format!("{red}received missing")),
        "{coloured}"
    );
    let plain = on_terminal(&["--color", "never"], &[]);
    assert!(plain.contains("\nmissing: never fetched"), "{plain}");
    for line in plain.lines() {
        assert!(
            line.chars().count() <= 60 && !line.contains('\u{1b}'),
            "{plain}"
        );
    }
    assert_eq!(on_terminal(&[], &[("NO_COLOR", "1")]), plain);
    assert_eq!(
        on_terminal(&["--color", "always"], &[("NO_COLOR", "1")]),
        coloured
    );

    let plain = piped(&[], &[]);
    assert!(
        !plain.contains('\u{1b}') && !plain.contains("never fetched"),
        "{plain}"
    );
    for forced in [
        piped(&["--color", "always"], &[]),
        piped(&[], &[("CLICOLOR_FORCE", "1")]),
    ] {
        assert!(forced.contains(red), "{forced}");
        let codes = [red, "\u{1b}[0m", "\u{1b}[33m"];
        let stripped = codes
            .iter()
            .fold(forced, |text, code| text.replace(code, ""));
        assert_eq!(stripped, plain);
    }
}

#[test]
fn requests_to_this_machine_bypass_the_proxy() {
    let (_server, workplace) = serving(&calls(0, 3), 3);
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let mut command = workplace.command(&["run", "--from", DAY, "--to", DAY]);
    let output = command
        .env("http_proxy", &address)
        .env("HTTPS_PROXY", &address)
        .env("ALL_PROXY", &address)
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    proxy.set_nonblocking(true).unwrap();
    assert!(proxy.accept().is_err(), "the proxy got no request");
}

#[test]
fn duplicates_are_dropped_conflicts_are_kept_and_both_are_counted() {
    let conflict = calls(1, 1).replace("\"duration\":60", "\"duration\":61");
    let no_id = calls(7, 1).replace("\"call_id\"", "\"other_id\"");
    let body = format!("{}{}{conflict}{no_id}{no_id}", calls(0, 3), calls(0, 2));
    // The provider may include duplicates in its count; then a match proves nothing.
    for (total, verdict, attempts) in [(8, "match_with_duplicates", 2), (6, "match", 1)] {
        let (_server, workplace) = serving(&body, total);
        let ran = workplace.run_day(PLACED);
        let slice = &ran.json()["slices"][0];
        assert_eq!(
            (&slice["reconcile"], &slice["attempts"]),
            (&json!(verdict), &json!(attempts))
        );
        assert_eq!(ran.status, 0, "{ran:?}");
        let counts = ran.report().totals.counts;
        assert_eq!(
            (
                counts.records,
                counts.rows,
                counts.duplicates,
                counts.conflicts
            ),
            (8, 6, 2, 1)
        );
        assert_eq!(workplace.rows("placed").num_rows(), 6);
        assert_eq!(
            ran.report().totals.totals.duration_seconds,
            3 * 60 + 61 + 2 * 60
        );
        let warnings = ran.report().warnings.join("\n");
        assert!(warnings.contains("1 row shares a call_id"), "{warnings}");
        let doubted = "8 records match the provider's count, but 2 of them are duplicates";
        assert_eq!(warnings.contains(doubted), total == 8, "{warnings}");
        let verified = workplace.run(&["verify", "--source"]);
        assert_eq!(verified.status, 0, "{verified:?}");
        assert_eq!(
            verified
                .stdout
                .contains("1 slice matches the provider's count only with duplicates"),
            total == 8,
            "{verified:?}"
        );
        let again = workplace.run_day(&[PLACED, &["--refresh"]].concat());
        assert_eq!(
            again.json()["slices"][0]["outcome"],
            "unchanged",
            "the digest is that of the rows kept"
        );
    }
    let (_server, workplace) = serving(&body, 8);
    workplace.configure_also("[quality]\ndedupe = false");
    let ran = workplace.run_day(PLACED);
    assert_eq!(
        (
            ran.report().totals.counts.rows,
            ran.report().totals.counts.duplicates,
            ran.report().totals.counts.repeated,
        ),
        (8, 0, 2)
    );
    assert_eq!(
        ran.json()["slices"][0]["reconcile"],
        "match_with_duplicates"
    );
    assert_eq!(workplace.run_day(&["--refresh", "--strict"]).status, 3);
}

#[test]
fn broken_records_are_kept_and_fail_the_slice_only_beyond_both_limits() {
    let broken = "{\"date\":\"2026-10-01T10:00:00Z\",\"charge\":\"1.2.3\"}\n";
    let body = |broken_lines: usize| format!("{}{}", calls(0, 3), broken.repeat(broken_lines));
    let (_server, workplace) = serving(&body(10), 13);
    let ran = workplace.run_day(PLACED);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(ran.json()["slices"][0]["reconcile"], "match_with_rejects");
    let rejects = workplace.rejects("placed", "");
    assert_eq!(rejects.len(), 10);
    assert_eq!(
        (&rejects[0]["line"], &rejects[0]["byte"]),
        (&json!(4), &json!(calls(0, 3).len()))
    );
    assert_eq!(
        (&rejects[0]["code"], &rejects[0]["text"]),
        (&json!("amount"), &json!(broken.trim_end()))
    );
    assert_eq!(
        workplace
            .run_day(&[PLACED, &["--refresh", "--strict"]].concat())
            .status,
        3,
        "tolerated is not clean"
    );

    let (server, workplace) = serving(&body(11), 14);
    let ran = workplace.run_day(PLACED);
    assert_eq!(ran.status, 1);
    assert!(
        ran.stdout.contains("11 of 14 records were rejected"),
        "{}",
        ran.stdout
    );
    assert_eq!(workplace.table(), [] as [&str; 0]);
    assert_eq!(
        workplace.rejects("placed", ".failed").len(),
        11,
        "kept, so that one can see why"
    );

    server.serve("placed", DAY, calls(0, 3), 3);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    assert!(
        !workplace
            .lake_files()
            .keys()
            .any(|name| name.contains("rejects")),
        "the old rejects are gone"
    );
}

#[test]
fn rows_of_another_day_stay_and_point_to_the_time_zone() {
    let (_server, workplace) = serving(&calls(0, 1).replace("T10:00", "T23:30"), 1);
    let ran = workplace.run_day(&[PLACED, &["--timezone", "Asia/Tokyo"]].concat());
    assert_eq!(
        (ran.status, ran.report().totals.counts.outside_day),
        (0, 1),
        "{ran:?}"
    );
    assert!(ran.report().warnings[0].contains("window.timezone"));
}

#[test]
fn an_answer_with_another_day_s_calls_fails_and_leaves_the_closed_day_as_it_is() {
    let (server, workplace) = serving(&calls(0, 5), 5);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    let other = |count| calls(50, count).replace(DAY, "2026-09-30");
    // Two of five are late calls of another day, three of five are that day.
    server.serve("placed", DAY, calls(0, 2) + &other(3), 5);
    let ran = workplace.run_day(&[PLACED, &["--refresh"]].concat());
    assert_eq!(
        ran.status, 0,
        "a call at ten is fourteen hours outside: {ran:?}"
    );
    server.serve("placed", DAY, calls(0, 5), 5);
    assert_eq!(
        workplace.run_day(&[PLACED, &["--refresh"]].concat()).status,
        0
    );
    let table = workplace.rows("placed");
    let other = |count| other(count).replace("T10:00", "T09:59");
    server.serve("placed", DAY, calls(0, 2) + &other(3), 5);
    let ran = workplace.run_day(&[PLACED, &["--refresh"]].concat());
    assert_eq!(ran.status, 1, "{ran:?}");
    let error = ran.report().slices[0].error.clone().unwrap();
    assert!(
        error.starts_with("3 of 5 rows are more than 14 hours outside 2026-10-01"),
        "{error}"
    );
    assert_eq!(workplace.rows("placed"), table);
    server.serve("placed", DAY, calls(0, 3) + &other(2), 5);
    assert_eq!(workplace.run_day(PLACED).status, 0, "it stays due");
    assert_eq!(workplace.rows("placed").num_rows(), 5);
}

#[test]
fn a_slice_whose_count_matches_only_with_duplicates_is_fetched_again() {
    // One call is missing and one is duplicated; the next attempt is complete.
    let server = Server::start();
    let doubled = calls(0, 99) + &calls(0, 1);
    server.on(
        "/v1/cdrs/all",
        [
            Answer::Records(doubled.clone().into()),
            Answer::Records(calls(0, 100).into()),
        ],
    );
    server.on("/v1/cdrs?", [count(100)]);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(PLACED);
    assert_eq!(
        (ran.status, ran.report().totals.counts.rows),
        (0, 100),
        "{ran:?}"
    );
    assert_eq!(ran.json()["slices"][0]["reconcile"], "match");
    // Other calls are duplicated in each attempt: nothing is proven.
    let others = |first| Answer::Records((calls(0, 99) + &calls(first, 1)).into());
    let server = Server::start();
    server.on(
        "/v1/cdrs/all",
        [
            others(1),
            Answer::Records((calls(1, 99) + &calls(1, 1)).into()),
            others(3),
        ],
    );
    server.on("/v1/cdrs?", [count(100)]);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(PLACED);
    assert_eq!(
        (ran.status, ran.report().slices[0].attempts),
        (1, 3),
        "{ran:?}"
    );
    assert!(
        ran.stdout.contains("100 were read (1 of them a duplicate)"),
        "{ran:?}"
    );
    assert_eq!(workplace.table(), [] as [&str; 0]);
}

#[test]
fn a_day_whose_count_matches_only_with_duplicates_stays_open_during_the_look_back() {
    let (_server, workplace) = serving(&(calls(0, 50) + &calls(0, 50)), 100);
    let state = |lookback: &str| {
        let mut command = workplace.command(&[
            "run",
            "--from",
            DAY,
            "--to",
            DAY,
            "--refresh",
            "--format",
            "json",
        ]);
        command
            .args(PLACED)
            .env("CDRLAKE_WINDOW_LOOKBACK_DAYS", lookback);
        ran(output(command)).json()["slices"][0]["state"].clone()
    };
    assert_eq!(state("3000"), "open");
    assert_eq!(state("0"), "closed");
}

#[test]
fn today_is_published_open_and_never_reconciled() {
    let today = jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date()
        .to_string();
    let server = Server::start();
    server.on("/v1/cdrs/all", [Answer::Records(Vec::new())]);
    let workplace = Workplace::new(&server);
    let ran = workplace.run(&[
        "run",
        "--last",
        "1",
        "--include-today",
        "--reconcile",
        "off",
        "--format",
        "json",
    ]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let slices = ran.json()["slices"].clone();
    let states: Vec<_> = slices
        .as_array()
        .unwrap()
        .iter()
        .filter(|slice| slice["day"] == *today)
        .map(|slice| &slice["state"])
        .collect();
    assert_eq!(states, ["open", "open"], "{slices}");
    assert_eq!(
        ran.json()["partitions_changed"],
        json!([]),
        "days without calls have no partition"
    );
}

#[test]
fn a_dry_run_and_a_plan_change_nothing() {
    let (server, workplace) = serving(&calls(0, 3), 3);
    for arguments in [
        &["plan", "--from", DAY, "--to", DAY][..],
        &["run", "--from", DAY, "--to", DAY, "--dry-run"],
    ] {
        let ran = workplace.run(arguments);
        assert_eq!(ran.status, 0, "{ran:?}");
        assert_eq!(
            ran.stdout,
            "2026-10-01  placed    missing\n2026-10-01  received  missing\n2 slices due, 0 up to \
             date, from 2026-10-01 to 2026-10-01\nThere is no lake at lake yet: a run would create \
             it.\n"
        );
    }
    let json = workplace
        .run(&["plan", "--from", DAY, "--to", DAY, "--format", "json"])
        .json();
    assert_eq!(
        json["due"][0],
        json!({"direction": "placed", "day": DAY, "why": "missing"})
    );
    assert!(!workplace.path("lake").exists());
    assert_eq!(server.requests("/").len(), 0);
}

#[test]
fn wrong_usage_and_configuration_end_with_status_2_before_anything_is_done() {
    let (server, workplace) = serving("", 0);
    refused(
        &workplace.run(&["run", "--from", "2026-02-30", "--to", DAY]),
        2,
        "`2026-02-30` is not a day: write YYYY-MM-DD",
    );
    refused(
        &workplace.run(&["run", "--from", DAY, "--to", "2026-09-30"]),
        2,
        "error: the first day, 2026-10-01, is after the last day, 2026-09-30. Check --from and \
         --to",
    );
    refused(
        &workplace.run(&["run", "--from", "2999-01-01"]),
        2,
        "the last day that has ended in UTC. Use an earlier day",
    );
    refused(
        &workplace.run(&["run"]),
        2,
        "Set window.start in pipeline.toml",
    );
    refused(
        &workplace.run(&["run", "--last", "0"]),
        2,
        "`0` is not a number of days: write one from 1 to 36,500",
    );
    refused(
        &workplace.run(&["run", "--last", "3", "--direction", "sideways"]),
        2,
        "`sideways` is not a direction",
    );
    refused(
        &workplace.run(&["run", "--last", "3", "--config", "nowhere.toml"]),
        2,
        "error: cannot read the configuration nowhere.toml",
    );
    refused(
        &workplace.run(&["run", "--last", "3", "--api-key-env", "UNSET_VARIABLE"]),
        2,
        "the variable UNSET_VARIABLE is not set",
    );
    refused(
        &workplace.run(&["run", "--last", "3", "--source-url", "http://example.com"]),
        2,
        "flag --source-url: source.url is plain http",
    );
    refused(
        &workplace.run(&["run", "--last", "3", "--api-key", CANARY]),
        2,
        "unexpected argument '--api-key'",
    );
    workplace.configure_also("[quality]\nmax_reject = 1");
    let sentence = "there is no key quality.max_reject. Did you mean quality.max_rejects?";
    refused(
        &workplace.run(&["run", "--last", "3"]),
        2,
        &format!("error: pipeline.toml, line 11: {sentence}"),
    );
    assert!(!workplace.path("lake").exists());
    assert_eq!(server.requests("/").len(), 0);
}

#[test]
fn a_lake_that_is_not_writable_or_has_another_identity_is_refused() {
    let (_server, workplace) = serving(&calls(0, 3), 3);
    std::fs::write(workplace.path("file"), "").unwrap();
    refused(
        &workplace.run(&["run", "--last", "3", "--lake", "file/lake"]),
        2,
        "error: cannot read file/lake/_cdrlake/lake.json: Not a directory (os error 20). A lake is \
         a directory, but lake.url, or a part of it, is a file",
    );
    std::fs::create_dir_all(workplace.path("other/cdrs")).unwrap();
    std::fs::write(workplace.path("other/cdrs/x.parquet"), "").unwrap();
    refused(
        &workplace.run(&["run", "--last", "3", "--lake", "other"]),
        2,
        "it is not a lake. Choose another lake.url",
    );

    assert_eq!(workplace.run_day(PLACED).status, 0);
    workplace.configure_also("account = \"second\"");
    refused(
        &workplace.run(&["run", "--last", "3"]),
        2,
        "lake.account is second, but this lake was created with (not set)",
    );
    let identity = workplace.path("lake/_cdrlake/lake.json");
    let text = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(&identity, text.replace("\"format\": 1", "\"format\": 3")).unwrap();
    refused(
        &workplace.run(&["run", "--last", "3"]),
        2,
        "_cdrlake/lake.json has format 3, but this version of cdrlake supports up to 2",
    );
    std::fs::write(&identity, "{").unwrap();
    refused(
        &workplace.run(&["plan", "--last", "3"]),
        2,
        "_cdrlake/lake.json is damaged",
    );
}

#[test]
fn a_plan_reports_that_there_is_no_lake_and_a_run_that_it_made_one() {
    let (_server, workplace) = serving(&calls(0, 1), 1);
    let days = ["--from", DAY, "--to", DAY];
    let of = |command| workplace.run(&[&[command], &days[..]].concat());
    let no_lake = "There is no lake at lake yet: a run would create it.\n";
    assert!(of("plan").stdout.ends_with(no_lake));
    assert!(of("run").stderr.contains("New lake: lake"));
    assert!(!of("plan").stdout.contains("There is no lake"));
    assert!(!of("run").stderr.contains("New lake"));
}

#[test]
fn a_link_that_leads_nowhere_is_named() {
    let (_server, workplace) = serving(&calls(0, 1), 1);
    std::os::unix::fs::symlink("/nowhere/disk", workplace.path("link")).unwrap();
    let last = ["--from", DAY, "--to", DAY];
    for lake in ["link", "link/lake"] {
        for command in ["run", "status", "verify", "plan"] {
            let arguments = [&[command, "--lake", lake], &last[..]].concat();
            let problem = format!(
                "lake.url is {lake}, but link is a link to /nowhere/disk, which does not exist. \
                 Create or mount that"
            );
            refused(&workplace.run(&arguments), 2, &problem);
        }
    }
}

#[test]
fn a_lake_inside_another_lake_is_refused() {
    let (_server, workplace) = serving(&calls(0, 1), 1);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    for inside in ["lake/cdrs", "lake/cdrs/x/y", "lake/_cdrlake"] {
        refused(
            &workplace.run(&["run", "--last", "1", "--lake", inside]),
            2,
            ", inside the lake ",
        );
    }
    assert_eq!(workplace.table().len(), 1);
}

#[test]
fn status_shows_the_lake_by_day_with_its_gaps() {
    let body = format!(
        "{}{}",
        calls(0, 3),
        calls(3, 1)
            .replace("answered", "busy")
            .replace("\"duration\":60", "\"duration\":0")
    );
    let (_server, workplace) = serving(&body, 4);
    assert_eq!(workplace.run_day(&[]).status, 0);
    let ran = workplace.run(&["status", "--to", "2026-10-02"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    // Fetched today, or at worst a moment before midnight.
    let (sums, rest) = lines[1].split_once("60s  20").unwrap();
    assert_eq!(
        sums,
        "2026-10-01          4          0            3          0.11   75 %   "
    );
    assert!(rest.ends_with("  ████████████████████ received without calls"));
    assert_eq!(
        lines[2],
        "2026-10-02          -          -            0          0.00      -     \
         -                    placed missing, received missing"
    );
    assert!(
        ran.stdout.contains(
            "2 slices closed, 0 open, 0 failed, 0 interrupted, 0 with a damaged ledger \
                 entry, 2 missing; last recorded fetch 20"
        ),
        "{}",
        ran.stdout
    );
    let json = workplace
        .run(&["status", "--from", DAY, "--to", DAY, "--format", "json"])
        .json();
    let slice = &json["days"][0]["slices"][0];
    assert_eq!(
        (&slice["state"], &slice["rows"], &slice["charge_usd"]),
        (&json!("closed"), &json!(4), &json!("0.108"))
    );
    assert_eq!(
        (&slice["asr_percent"], &slice["acd_seconds"]),
        (&json!(75.0), &json!(60.0))
    );
    // Commands that only read need no account.
    workplace.configure_also("account = \"second\"");
    assert_eq!(workplace.run(&["status"]).status, 0);
    refused(
        &workplace.run(&["status", "--lake", "nowhere"]),
        2,
        "there is no lake at nowhere",
    );
}

#[test]
fn check_reports_what_works_and_what_does_not() {
    let server = Server::start();
    server.on("/v1/cdrs?", [count(7)]);
    let workplace = Workplace::new(&server);
    let ran = workplace.run(&["check"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let begins: Vec<&str> = ran
        .stdout
        .lines()
        .map(|line| line.split([':', ',']).next().unwrap())
        .collect();
    assert_eq!(
        begins,
        [
            "ok      configuration",
            "warning window.start is not set",
            "ok      key",
            "ok      API",
            "ok      lake"
        ]
    );
    let no_start = "window.start is not set, so cdrlake run without --from or --last is refused. \
                    Set it in pipeline.toml to the first day of the lake\n";
    assert!(ran.stdout.contains(no_start), "{ran:?}");
    assert!(ran.stdout.contains("7 calls placed on"), "{}", ran.stdout);
    assert!(ran.stdout.contains("conditional writes honoured"));
    server.on(
        "/v1/cdrs?",
        [Answer::Json(
            401,
            "{\"message\":\"Unauthorized\"}".to_owned(),
        )],
    );
    let ran = workplace.run(&["check"]);
    assert_eq!(ran.status, 2);
    assert!(
        ran.stdout
            .contains("failed  API: the API answered 401 Unauthorized. Check source.api_key"),
        "{}",
        ran.stdout
    );
    let ran = workplace.run(&["check", "--api-key-file", "./nowhere"]);
    assert_eq!(ran.status, 2);
    assert!(
        ran.stdout
            .contains("failed  key: source.api_key: ./nowhere cannot be read"),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stdout.contains("ok      lake"),
        "the rest is still checked"
    );
}

#[test]
fn after_init_check_names_one_step_after_the_other_until_a_run_works() {
    let server = Server::start();
    let refused = Answer::Json(401, "{\"message\":\"Unauthorized\"}".to_owned());
    server.on("/v1/cdrs?", [refused, count(0)]);
    server.on(STREAM, [Answer::Records(Vec::new())]);
    let workplace = Workplace::new(&server);
    std::fs::remove_file(workplace.path("pipeline.toml")).unwrap();
    std::fs::write(workplace.path("lake"), "in the way").unwrap();
    let yesterday = jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    let yesterday = yesterday.yesterday().unwrap();
    let mut variables = Vec::new();
    let mut steps = Vec::new();
    let all_well = loop {
        let mut command = workplace.command(&["check"]);
        command.env_remove("WAVIX_API_KEY").envs(variables.clone());
        let checked = ran(output(command));
        let text = [&*checked.stdout, &*checked.stderr].concat();
        let is_missing = |line: &&str| {
            let mut kinds = ["failed ", "warning ", "error: "].iter();
            kinds.any(|kind| line.starts_with(kind))
        };
        let Some(line) = text.lines().find(is_missing) else {
            break checked;
        };
        // Each does literally what the sentence says.
        let remedies: [(&str, &mut dyn FnMut()); 6] = [
            ("which `cdrlake init` writes", &mut || {
                let url = server.url();
                let init = [
                    "init",
                    "--metrics-file",
                    "metrics/calls.prom",
                    "--source-url",
                    &url,
                ];
                assert_eq!(workplace.run(&init).status, 0);
            }),
            (
                "Set it in pipeline.toml to the first day of the lake",
                &mut || {
                    let start = format!("start = {yesterday}");
                    workplace.reconfigure("# start = 2026-01-01", &start);
                },
            ),
            ("Export it with your key in it", &mut || {
                variables.push(("WAVIX_API_KEY", CANARY));
            }),
            ("Check source.api_key", &mut || ()),
            ("lake.url, or a part of it, is a file", &mut || {
                std::fs::remove_file(workplace.path("lake")).unwrap();
            }),
            ("Create its directory", &mut || {
                std::fs::create_dir(workplace.path("metrics")).unwrap();
            }),
        ];
        let step = remedies
            .into_iter()
            .find(|(remedy, _)| line.contains(remedy));
        let (remedy, apply) = step.unwrap_or_else(|| panic!("no step is named: {line}"));
        assert!(!steps.contains(&remedy), "{remedy} did not help: {line}");
        apply();
        steps.push(remedy);
    };
    assert_eq!(steps.len(), 6, "{steps:?}");
    assert_eq!(all_well.status, 0, "{all_well:?}");
    assert!(
        all_well
            .stdout
            .ends_with("ready   cdrlake plan shows what cdrlake run would fetch\n")
    );
    let mut command = workplace.command(&["run"]);
    command.envs(variables);
    let run = ran(output(command));
    assert_eq!(run.status, 0, "{run:?}");
}

#[test]
fn check_names_the_variables_and_flags_that_override_the_configuration() {
    let workplace = Workplace::with_url("http://127.0.0.1:1");
    let ran_with = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = workplace.command(&[&["check"], arguments].concat());
        command.envs(variables.iter().copied());
        ran(output(command)).stdout
    };
    let first_line = |text: &str| text.lines().next().unwrap().to_owned();
    let plain = ran_with(&[("CDRLAKE_WINDOW_START", "2026-01-01")], &[]);
    assert_eq!(
        first_line(&plain),
        "ok      configuration: valid; lake lake"
    );
    assert!(!plain.contains("window.start"), "{plain}");
    let variables = [
        ("CDRLAKE_LAKE_URL", "./other"),
        ("CDRLAKE_SOURCE_URL", "http://127.0.0.1:2"),
    ];
    let overridden = ran_with(&variables, &[]);
    assert!(
        overridden.starts_with(
            "ok      configuration: valid; lake ./other (from CDRLAKE_LAKE_URL)\n\
             ok      source.url: http://127.0.0.1:2/ (from CDRLAKE_SOURCE_URL)\n"
        ),
        "{overridden}"
    );
    let flag = first_line(&ran_with(&variables, &["--lake", "third"]));
    assert!(flag.ends_with("lake third (from --lake)"), "{flag}");
}

#[test]
fn check_reports_a_wrong_option_of_the_lake_as_an_error_of_the_configuration() {
    let workplace = Workplace::with_url("http://127.0.0.1:1");
    workplace.reconfigure("url = \"lake\"", "url = \"s3://calls/wavix\"");
    workplace.configure_also("[lake.options]\nregoin = \"eu-central-1\"");
    let ran = workplace.run(&["check"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(
        ran.stdout
            .starts_with("failed  configuration: pipeline.toml, line ")
            && ran.stdout.contains(
                "lake.options.regoin is not an option of s3:// lakes. Did you mean region?\n\
                 skipped lake: its options are wrong\n"
            ),
        "{ran:?}"
    );
    assert!(!ran.stdout.contains("ok      configuration"), "{ran:?}");
}

#[test]
fn completions_and_the_manual_page_are_printed() {
    let workplace = Workplace::with_url("http://127.0.0.1:1");
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            workplace
                .run(&["completions", shell])
                .stdout
                .contains("include-today"),
            "{shell}"
        );
    }
    assert!(workplace.run(&["man"]).stdout.starts_with(".ie"));
    assert!(
        workplace
            .run(&["--version"])
            .stdout
            .starts_with("cdrlake 0.")
    );
}

#[test]
fn log_lines_can_be_json() {
    let (_server, workplace) = serving(&calls(0, 3), 3);
    let ran = workplace.run(&["run", "--from", DAY, "--to", DAY, "--log-format", "json"]);
    let lines: Vec<serde_json::Value> = ran
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        lines
            .iter()
            .any(|line| line["message"] == "Slice committed."
                && line["slice"] == "placed 2026-10-01"),
        "{}",
        ran.stderr
    );
    for text in [&ran.stderr, &ran.stdout] {
        assert!(
            !text.contains("1302555"),
            "no phone number is logged: {text}"
        );
    }
}

#[test]
fn a_proxy_that_cannot_be_reached_is_named_without_its_password() {
    let workplace = Workplace::with_url("https://api.example.invalid");
    // The listener is closed, so connections are refused.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut command = workplace.command(&["check"]);
    command.env("https_proxy", format!("http://user:hush@{address}"));
    for unset in ["HTTPS_PROXY", "NO_PROXY", "no_proxy"] {
        command.env_remove(unset);
    }
    let ran = ran(output(command));
    let named = format!(
        "cannot reach api.example.invalid through the proxy http://{address} (https_proxy): "
    );
    assert!(ran.stdout.contains(&named), "{ran:?}");
    assert!(
        !ran.stdout.contains("Check source.url") && !format!("{ran:?}").contains("hush"),
        "{ran:?}"
    );
}

#[test]
fn a_redirect_on_the_same_host_does_not_suggest_the_same_address() {
    let server = Server::start();
    let to = |place: &str| {
        let head = "HTTP/1.1 301 Moved Permanently\r\nContent-Length: 0\r\nLocation: ";
        Answer::Bytes(format!("{head}{place}\r\n\r\n").into_bytes())
    };
    let workplace = Workplace::new(&server);
    server.on("/v1/cdrs?", [to("/v1/cdrs/?page=1")]);
    let ran = workplace.run(&["check"]);
    assert!(
        ran.stdout
            .contains("redirecting to /v1/cdrs/ on the same host")
            && !ran.stdout.contains("to the right address"),
        "{ran:?}"
    );
}

#[test]
fn every_command_has_the_flags_that_it_uses_and_ends_with_an_example() {
    let workplace = Workplace::with_url("http://127.0.0.1:1");
    let all = [
        "--source-url",
        "--api-key-env",
        "--api-key-file",
        "--via",
        "--requests",
        "--timezone",
        "--reconcile",
    ];
    for (command, offered) in [
        ("run", &all[..]),
        (
            "load",
            &[
                "--source-url",
                "--api-key-env",
                "--api-key-file",
                "--requests",
                "--timezone",
                "--reconcile",
            ],
        ),
        (
            "verify",
            &[
                "--source-url",
                "--api-key-env",
                "--api-key-file",
                "--via",
                "--requests",
                "--reconcile",
            ],
        ),
        ("plan", &["--source-url", "--timezone"]),
        ("check", &all[..3]),
        ("status", &[]),
        ("report", &[]),
        ("rejects", &[]),
        ("ddl", &[]),
        ("prune", &[]),
        ("erase", &[]),
        ("gc", &[]),
    ] {
        let help = workplace.run(&[command, "--help"]).stdout;
        let words: Vec<&str> = help.split_whitespace().collect();
        let found: Vec<&str> = all
            .into_iter()
            .filter(|flag| words.contains(flag))
            .collect();
        assert_eq!(found, offered, "{command}");
        assert!(
            words.contains(&"--config") && words.contains(&"--lake"),
            "{help}"
        );
        let last = help.trim_end().lines().next_back().unwrap();
        assert!(
            last.starts_with(&format!("Example: cdrlake {command} ")),
            "{help}"
        );
        for flag in all.iter().filter(|flag| !offered.contains(flag)) {
            let ran = workplace.run(&[command, flag, "1"]);
            refused(&ran, 2, &format!("unexpected argument '{flag}'"));
        }
    }
}
