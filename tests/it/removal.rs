use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;

use cdrlake::internals::{
    LakeStore, Modes, Privacy, PrivacyKey, RunOptions, erase, parse_day, prune, run, verify,
};
use cdrlake::{Config, Direction, Due, DueReason, Lake, Period, RunOutcome, RunReport, Slice};
use jiff::ToSpan;
use jiff::civil::Date;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::privacy::{KEY, everything, run, run_with};
use crate::protocol::{NoObserver, findings, visible};
use crate::server::Server;
use crate::stores::{Fault, Faults};
use crate::support::{
    DAY, Ran, Workplace, block_on, calls, for_each, hold_lease, output, ran, serving,
};
use crate::sweep::{KINDS, Kind, Place, for_each_fault, local, source};
use crate::table_logs::{
    TABLES, assert_logs_equal_the_ledger, assert_nothing_is_left, rows_of, snapshots,
};

/// The number of the second call of `calls(0, …)`.
const NUMBER: &str = "+1 (302) 555-0001";
const SHOWN: &str = "13025550001";

fn today() -> Date {
    jiff::Zoned::now()
        .with_time_zone(jiff::tz::TimeZone::UTC)
        .date()
}

fn days_ago(days: i64) -> String {
    today().checked_sub(days.days()).unwrap().to_string()
}

fn ledger(workplace: &Workplace, direction: &str, day: &str) -> Value {
    let path = workplace.path(format!("lake/_cdrlake/ledger/{direction}/{day}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A lake of one old day and one new one, with calls and a reject each.
fn lake_of_two_days() -> (Server, Workplace, String, String) {
    let server = Server::start();
    let (old, new) = (days_ago(100), days_ago(10));
    for day in [&old, &new] {
        let body = format!("{}{{\"to\":\"{SHOWN}\"}}\n", calls(0, 3)).replace(DAY, day);
        server
            .serve("placed", day, body, 4)
            .serve("received", day, "", 0);
    }
    let workplace = Workplace::new(&server);
    for day in [&old, &new] {
        let ran = workplace.run(&["run", "--from", day, "--to", day]);
        assert_eq!(ran.status, 0, "{ran:?}");
    }
    (server, workplace, old, new)
}

#[test]
fn an_old_day_is_removed_with_its_rejects_and_no_run_fetches_it_again() {
    let (server, workplace, old, new) = lake_of_two_days();
    let before = workplace.lake_files();
    let dry = workplace.run(&["prune", "--older-than", "50days", "--dry-run"]);
    assert_eq!(dry.status, 0, "{dry:?}");
    assert!(
        dry.stdout.contains(&format!("placed {old}")) && !dry.stdout.contains(&new),
        "{dry:?}"
    );
    assert!(
        dry.stdout.contains("2 slices before ") && dry.stdout.contains(" would be removed: 3 rows"),
        "{dry:?}"
    );
    assert_eq!(workplace.lake_files(), before, "a dry run changes nothing");

    let ran = workplace.run(&["prune", "--older-than", "50days"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let removed =
        ran.stdout.contains("2 slices before ") && ran.stdout.contains(" removed: 3 rows");
    assert!(removed, "{ran:?}");
    let left = workplace.lake_files();
    let of_old: Vec<&String> = left
        .keys()
        .filter(|path| path.contains(&old) && !path.contains("/leases/"))
        .collect();
    assert_eq!(of_old.len(), 2, "nothing but the ledger: {of_old:?}");
    assert!(
        of_old.iter().all(|path| path.contains("/ledger/")),
        "{of_old:?}"
    );
    let entry = ledger(&workplace, "placed", &old);
    assert_eq!(
        (
            &entry["committed"]["state"],
            &entry["committed"]["counts"]["rows"]
        ),
        (&"pruned".into(), &3.into())
    );

    // No command fetches it again.
    let asked = server.requests(&format!("/v1/cdrs/all?from={old}")).len();
    let refreshed = workplace.run(&[
        "run",
        "--from",
        &old,
        "--to",
        &old,
        "--refresh",
        "--format",
        "json",
    ]);
    assert_eq!(refreshed.status, 0, "{refreshed:?}");
    assert_eq!(refreshed.report().slices.len(), 0);
    let repaired = workplace.run(&["verify", "--repair", "--from", &old, "--to", &old]);
    assert_eq!(repaired.status, 0, "{repaired:?}");
    assert_eq!(
        server.requests(&format!("/v1/cdrs/all?from={old}")).len(),
        asked
    );
    std::fs::write(
        workplace.path("export.ndjson"),
        calls(0, 3).replace(DAY, &old),
    )
    .unwrap();
    let loaded = workplace.run(&[
        "load",
        "export.ndjson",
        "--direction",
        "placed",
        "--refresh",
        "--reconcile",
        "off",
    ]);
    assert_eq!(loaded.status, 0, "{loaded:?}");
    assert!(
        !workplace
            .path(format!("lake/cdrs/dt={old}/placed-{old}.parquet"))
            .exists()
    );

    let status = workplace.run(&["status", "--from", &old, "--to", &old]);
    assert!(status.stdout.contains("pruned"), "{status:?}");
    // The statements for a warehouse delete the day.
    let statements = workplace
        .run(&[
            "ddl", "--target", "postgres", "--load", "--from", &old, "--to", &old,
        ])
        .stdout;
    assert!(
        statements.contains("DELETE FROM cdrs") && !statements.contains("COPY"),
        "{statements}"
    );
    let again = workplace.run(&["prune", "--older-than", "50days"]);
    assert_eq!(
        again.stdout,
        format!("The lake has no days before {}.\n", days_ago(50))
    );
}

#[test]
fn files_left_by_a_crashed_prune_are_found_and_the_next_prune_removes_them() {
    let (_server, workplace, old, _) = lake_of_two_days();
    let before = workplace.lake_files();
    assert_eq!(
        workplace.run(&["prune", "--older-than", "50days"]).status,
        0
    );
    let after = workplace.lake_files();
    // The ledger is changed before anything is removed.
    for (path, bytes) in before.iter().filter(|(path, _)| !after.contains_key(*path)) {
        let path = workplace.path("lake").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let verified = workplace.run(&["verify"]);
    assert_eq!(verified.status, 1, "{verified:?}");
    assert!(verified.stdout.contains("was pruned"), "{verified:?}");
    let planned = workplace.run(&["plan", "--from", &old, "--to", &old]);
    assert!(planned.stdout.starts_with("0 slices due"), "{planned:?}");
    assert_eq!(
        workplace.run(&["prune", "--older-than", "50days"]).status,
        0
    );
    assert_eq!(workplace.run(&["verify"]).status, 0);
    assert_eq!(
        workplace.lake_files().keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
}

#[test]
fn a_prune_removes_rejects_of_failed_days_and_damaged_entries() {
    let server = Server::start();
    let old = days_ago(100);
    server.serve(
        "placed",
        &old,
        format!("{{\"to\":\"{SHOWN}\"}}\n").repeat(20),
        20,
    );
    server.serve("received", &old, calls(0, 2).replace(DAY, &old), 2);
    let workplace = Workplace::new(&server);
    assert_eq!(
        workplace.run(&["run", "--from", &old, "--to", &old]).status,
        1
    );
    std::fs::write(
        workplace.path(format!("lake/_cdrlake/ledger/received/{old}.json")),
        "{",
    )
    .unwrap();
    let ran = workplace.run(&["prune", "--older-than", "50days", "--format", "json"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(
        ran.json()["run"]["partitions_changed"],
        serde_json::json!([old])
    );
    let left = workplace.lake_files();
    assert!(
        left.keys()
            .all(|path| !path.contains("/rejects/") && !path.starts_with("cdrs/")),
        "{:?}",
        left.keys()
    );
    assert_eq!(workplace.run(&["verify"]).status, 0);
}

#[test]
fn a_prune_names_window_start_only_if_runs_would_fetch_earlier_days() {
    for is_earlier in [false, true] {
        let (_server, workplace, old, _) = lake_of_two_days();
        let mut start: jiff::civil::Date = old.parse().unwrap();
        if is_earlier {
            start = start.yesterday().unwrap();
        }
        workplace.configure_also(&format!("[window]\nstart = {start}\n"));
        let ran = workplace.run(&["prune", "--older-than", "50days"]);
        assert_eq!(ran.status, 0, "{ran:?}");
        let text = "so runs fetch earlier days that the lake never had. Set it to ";
        assert_eq!(ran.stdout.contains(text), is_earlier, "{ran:?}");
        let text = "--load --changed-since RUN, with the RUN of the first line of their last load.";
        assert!(ran.stdout.contains(text), "{ran:?}");
    }
}

#[test]
fn an_invalid_age_is_refused() {
    let (_server, workplace) = serving("", 0);
    for age in ["18", "1h", "-3months", "soon"] {
        let ran = workplace.run(&["prune", &format!("--older-than={age}")]);
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(ran.stderr.contains("such as 18months"), "{ran:?}");
    }
    let ran = workplace.run(&["prune", "--older-than", "18months"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("there is no lake"), "{ran:?}");
}

const KEY_LINES: &str = "[privacy]\nkey = { env = \"PRIVACY\" }\n";

fn erase_with(workplace: &Workplace, key: &str, more: &[&str]) -> Ran {
    let mut command = workplace.command(&[&["erase", "--number", NUMBER], more].concat());
    command.env("PRIVACY", key);
    ran(output(command))
}

/// A lake with the number in a row, in its duplicate, in `extra` of another row, and in a reject.
fn lake_with_number(privacy: &str) -> (Server, Workplace) {
    lake_of_kind_with_number(Kind::of_days(""), privacy)
}

/// The same of this kind. A lake with logs also has a replaced file with the number.
fn lake_of_kind_with_number(kind: Kind, privacy: &str) -> (Server, Workplace) {
    let twice = calls(1, 1);
    let extra = calls(7, 1).replace("}\n", &format!(",\"by\":\"tel {NUMBER}\"}}\n"));
    let reject = format!("{{\"from\":\"{SHOWN}\",\"date\":\"broken\"}}\n{{\"date\":\"broken\"}}\n");
    let records = format!("{}{twice}{extra}{reject}", calls(0, 4));
    let server = Server::start();
    let workplace = Workplace::new(&server);
    let period = Period::containing(parse_day(DAY).unwrap(), kind.slice);
    let (first, last) = (
        period.first_day().to_string(),
        period.last_day().to_string(),
    );
    let serve = |direction, records: &str, total| {
        server.serve_days(direction, (&first, &last), records, total);
    };
    serve("received", "", 0);
    workplace.configure_also(privacy);
    workplace.configure_also(&format!("[window]\nslice = \"{}\"", kind.slice));
    workplace.with_tables(kind.tables);
    if !kind.tables.is_empty() {
        serve("placed", &calls(0, 2), 2);
        let ran = run(&workplace, &[]);
        assert_eq!(ran.status, 0, "{ran:?}");
    }
    serve("placed", &records, 7);
    let ran = run(&workplace, &["--refresh"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let counts = ran.report().totals.counts;
    assert_eq!(
        (
            counts.records,
            counts.rows,
            counts.duplicates,
            counts.rejected
        ),
        (8, 5, 1, 2)
    );
    (server, workplace)
}

const MODES: [&str; 2] = [
    KEY_LINES,
    "[privacy]\nnumbers = \"pseudonymize\"\nkey = { env = \"PRIVACY\" }\n",
];

#[test]
fn a_number_is_erased_from_rows_and_rejects_and_no_command_fetches_it_again() {
    for privacy in MODES {
        let (_server, workplace) = lake_with_number(privacy);
        let before = workplace.lake_files();
        let dry = erase_with(&workplace, KEY, &["--dry-run"]);
        assert_eq!(dry.status, 0, "{dry:?}");
        assert!(dry.stdout.contains("2 rows and 1 reject"), "{dry:?}");
        assert_eq!(workplace.lake_files(), before);

        let ran = erase_with(&workplace, KEY, &["--format", "json"]);
        assert_eq!(ran.status, 0, "{ran:?}");
        let erased = ran.json();
        assert_eq!(erased["complete"], true);
        assert_eq!(
            erased["run"]["partitions_changed"],
            serde_json::json!([DAY])
        );
        let texts = everything(&workplace, &ran);
        assert!(
            !texts.contains(SHOWN) && !texts.contains("555-0001"),
            "{texts}"
        );
        let token = PrivacyKey::try_new(KEY).unwrap().token(NUMBER).to_string();
        let kept: Vec<(String, Vec<u8>)> = workplace
            .lake_files()
            .into_iter()
            .filter(|(path, _)| !path.ends_with("suppressed.json"))
            .collect();
        assert!(
            kept.iter()
                .all(|(_, bytes)| !String::from_utf8_lossy(bytes).contains(&token))
        );
        let committed = &ledger(&workplace, "placed", DAY)["committed"];
        let counts = &committed["counts"];
        assert_eq!(
            (
                &counts["rows"],
                &counts["rejected"],
                &counts["suppressed"],
                &counts["duplicates"]
            ),
            (&3.into(), &1.into(), &3.into(), &1.into())
        );
        assert_eq!(workplace.run(&["verify"]).status, 0);

        // The provider still has all records, and its count still matches.
        let table = workplace
            .lake_files()
            .remove(&format!("cdrs/dt={DAY}/placed-{DAY}.parquet"));
        let refreshed = run(&workplace, &["--refresh"]);
        assert_eq!(refreshed.status, 0, "{refreshed:?}");
        let slice = &refreshed.json()["slices"][0];
        assert_eq!(
            (&slice["outcome"], &slice["reconcile"]),
            (&"unchanged".into(), &"match_with_rejects".into())
        );
        assert_eq!(
            (&slice["records"], &slice["suppressed"], &slice["rejected"]),
            (&8.into(), &3.into(), &1.into()),
            "{slice}"
        );
        assert_eq!(
            workplace
                .lake_files()
                .remove(&format!("cdrs/dt={DAY}/placed-{DAY}.parquet")),
            table
        );
        std::fs::remove_file(workplace.path(format!("lake/cdrs/dt={DAY}/placed-{DAY}.parquet")))
            .unwrap();
        let mut command = workplace.command(&["verify", "--repair", "--source"]);
        command.env("PRIVACY", KEY);
        let repaired = crate::support::ran(output(command));
        assert_eq!(repaired.status, 0, "{repaired:?}");
        assert!(!everything(&workplace, &repaired).contains(SHOWN));
        assert_eq!(workplace.rows("placed").num_rows(), 3);

        // Runs with another key are refused.
        let other = run_with(
            &workplace,
            "another-key-of-more-than-32-characters",
            &["--refresh"],
        );
        assert_eq!(other.status, 2, "{other:?}");
        let again = erase_with(&workplace, KEY, &[]);
        assert_eq!(again.status, 0, "{again:?}");
    }
}

#[test]
fn a_run_without_the_key_of_the_suppression_list_is_refused() {
    let (_server, workplace) = lake_with_number(KEY_LINES);
    assert_eq!(erase_with(&workplace, KEY, &[]).status, 0);
    let before = workplace.lake_files();
    let other = run_with(
        &workplace,
        "another-key-of-more-than-32-characters",
        &["--refresh"],
    );
    assert_eq!(other.status, 2);
    assert!(
        other
            .stderr
            .contains("Set privacy.key to the place of the key with ID "),
        "{other:?}"
    );
    workplace.reconfigure(KEY_LINES, "");
    let without = run(&workplace, &["--refresh"]);
    assert_eq!(without.status, 2);
    assert!(without.stderr.contains("Set privacy.key"), "{without:?}");
    assert_eq!(workplace.lake_files(), before);
}

#[test]
fn an_absent_number_changes_nothing() {
    let (_server, workplace) = serving(&calls(50, 3), 3);
    workplace.configure_also(KEY_LINES);
    assert_eq!(run(&workplace, &[]).status, 0);
    let before = workplace.lake_files();
    let ran = erase_with(&workplace, KEY, &[]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(
        ran.stderr
            .contains("the number was not found in 1 slice. Nothing was changed"),
        "{ran:?}"
    );
    let short = erase_with(&workplace, "short", &[]);
    assert_eq!(short.status, 2);
    assert!(short.stderr.contains("at least 32"), "{short:?}");
    let none = workplace.run(&["erase", "--number", "+"]);
    assert_eq!(none.status, 2, "{none:?}");
    assert!(
        none.stderr
            .contains("Write the number in full, such as --number +13025550101"),
        "{none:?}"
    );
    assert_eq!(workplace.lake_files(), before);
}

#[test]
fn an_erasure_from_a_lake_of_truncated_numbers_is_refused() {
    let (_server, workplace) = serving(&calls(0, 3), 3);
    workplace.configure_also("[privacy]\nnumbers = \"truncate\"\n");
    assert_eq!(run(&workplace, &[]).status, 0);
    let ran = erase_with(&workplace, KEY, &[]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("drops the last four digits"), "{ran:?}");
}

#[test]
fn an_erasure_waits_for_a_run_and_its_number_comes_from_standard_input() {
    let (_server, workplace) = lake_with_number(KEY_LINES);
    let lease = hold_lease(&workplace);
    let mut command = workplace.command(&["erase", "--number", "-"]);
    command
        .env("PRIVACY", KEY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(
        &mut child.stdin.take().unwrap(),
        format!("{NUMBER}\n").as_bytes(),
    )
    .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let waits = lines.find(|line| line.as_ref().unwrap().contains("Waiting for a run"));
    assert!(waits.is_some());
    drop(lease);
    assert!(lines.all(|line| !line.unwrap().contains(SHOWN)));
    assert!(child.wait().unwrap().success());
    assert_eq!(workplace.rows("placed").num_rows(), 3);
}

#[test]
fn a_removal_that_is_interrupted_while_the_lake_is_opened_ends_at_once() {
    // A store that accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = format!(
        "[lake]\nurl = \"s3://bucket/lake\"\n[lake.options]\nendpoint = \"http://{}\"\n\
         region = \"us-east-1\"\n",
        silent.local_addr().unwrap()
    );
    let workplace = Workplace::with_url("http://127.0.0.1:9");
    workplace.reconfigure("[lake]\nurl = \"lake\"\n", &place);
    workplace.configure_also(KEY_LINES);
    for arguments in [
        ["prune", "--older-than", "50days"],
        ["erase", "--number", NUMBER],
    ] {
        let mut command = workplace.command(&arguments);
        command.env("PRIVACY", KEY).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let connection = silent.accept().unwrap();
        let interrupt = std::process::Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status();
        assert!(interrupt.unwrap().success());
        let begun = std::time::Instant::now();
        let ended = child.wait_with_output().unwrap();
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(130), "{stderr}");
        assert!(stderr.contains("Interrupted"), "{stderr}");
        drop(connection);
    }
}

#[test]
fn an_incomplete_erasure_is_reported() {
    let (_server, workplace) = lake_with_number(KEY_LINES);
    assert_eq!(erase_with(&workplace, KEY, &[]).status, 0);
    let path = workplace.path("lake/_cdrlake/suppressed.json");
    let mut list: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    list["numbers"][0]["erased_at"] = Value::Null;
    std::fs::write(&path, list.to_string()).unwrap();
    for scope in [&["verify"][..], &["verify", "--from", DAY, "--to", DAY]] {
        let verified = workplace.run(scope);
        assert_eq!(verified.status, 1, "{verified:?}");
        let is_reported = verified.stdout.contains("1 erasure is incomplete");
        assert!(is_reported, "{verified:?}");
    }
    assert_eq!(erase_with(&workplace, KEY, &[]).status, 0);
    assert_eq!(workplace.run(&["verify"]).status, 0);
}

#[test]
fn a_failed_slice_stays_failed_and_its_rejects_lose_the_number() {
    let (server, workplace) = lake_with_number(KEY_LINES);
    let broken = format!("{{\"from\":\"{SHOWN}\",\"date\":\"broken\"}}\n").repeat(20);
    let other = "{\"date\":\"broken\"}\n".repeat(20);
    server.serve("placed", DAY, format!("{broken}{other}"), 40);
    assert_eq!(run(&workplace, &["--refresh"]).status, 1);
    assert_eq!(workplace.rejects("placed", ".failed").len(), 40);
    let problem = ledger(&workplace, "placed", DAY)["failed"]["problem"].clone();
    let ran = erase_with(&workplace, KEY, &[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(!everything(&workplace, &ran).contains(SHOWN));
    assert_eq!(
        ledger(&workplace, "placed", DAY)["failed"]["problem"],
        problem
    );
    assert_eq!(workplace.rejects("placed", ".failed").len(), 20);
    let plan = workplace.run(&["plan", "--from", DAY, "--to", DAY]);
    assert!(plan.stdout.contains("the last attempt failed"), "{plan:?}");
}

#[test]
fn rejects_without_a_ledger_entry_are_erased_too() {
    let (_server, workplace) = lake_with_number(KEY_LINES);
    for path in [
        format!("_cdrlake/ledger/placed/{DAY}.json"),
        format!("cdrs/dt={DAY}/placed-{DAY}.parquet"),
    ] {
        std::fs::remove_file(workplace.path("lake").join(path)).unwrap();
    }
    let ran = erase_with(&workplace, KEY, &[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(!everything(&workplace, &ran).contains(SHOWN));
}

#[test]
fn a_slice_that_cannot_be_rewritten_is_repaired_before_the_erasure_completes() {
    let (_server, workplace) = lake_with_number(KEY_LINES);
    let path = workplace.path(format!("lake/cdrs/dt={DAY}/placed-{DAY}.parquet"));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&bytes[..], b"x"].concat()).unwrap();
    // A damaged file cannot be searched.
    let blind = erase_with(&workplace, KEY, &[]);
    assert_eq!(blind.status, 1, "{blind:?}");
    assert!(
        blind.stderr.contains("1 slice could not be read"),
        "{blind:?}"
    );
    assert!(!workplace.path("lake/_cdrlake/suppressed.json").exists());
    let ran = erase_with(&workplace, KEY, &["--even-if-absent"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let status = workplace.run(&["status", "--from", DAY, "--to", DAY]);
    assert!(
        status.stdout.contains("1 erasure is incomplete"),
        "{status:?}"
    );
    let mut command = workplace.command(&["verify", "--repair"]);
    command.env("PRIVACY", KEY);
    let repaired = crate::support::ran(output(command));
    assert!(
        repaired.stdout.contains("1 erasure is incomplete"),
        "{repaired:?}"
    );
    let ran = erase_with(&workplace, KEY, &[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(!everything(&workplace, &ran).contains(SHOWN));
    assert_eq!(workplace.run(&["verify"]).status, 0);
}

#[test]
fn two_concurrent_erasures_complete_and_lose_no_reject() {
    let server = Server::start();
    let days = ["2026-10-01", "2026-10-02", "2026-10-03"];
    let reject = |n: u32| format!("{{\"from\":\"1302555000{n}\",\"date\":\"broken\"}}\n");
    for day in days {
        let rejects = [reject(1), reject(2), reject(3)].concat();
        let body = format!("{}{rejects}", calls(0, 4).replace(DAY, day));
        for direction in ["placed", "received"] {
            server.serve(direction, day, body.clone(), 7);
        }
    }
    let workplace = Workplace::new(&server);
    workplace.configure_also(KEY_LINES);
    let mut command = workplace.command(&["run", "--from", days[0], "--to", days[2]]);
    command.env("PRIVACY", KEY);
    assert_eq!(ran(output(command)).status, 0);
    let erase = |number: &'static str| {
        let mut command = workplace.command(&["erase", "--number", number]);
        command
            .env("PRIVACY", KEY)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let both = [erase("13025550001"), erase("13025550002")];
    for child in both {
        let ended = child.wait_with_output().unwrap();
        assert!(
            ended.status.success(),
            "{}",
            String::from_utf8_lossy(&ended.stderr)
        );
    }
    assert_eq!(workplace.run(&["verify"]).status, 0);
    let counts = |direction, day| ledger(&workplace, direction, day)["committed"]["counts"].clone();
    for day in days {
        for direction in ["placed", "received"] {
            let counts = counts(direction, day);
            assert_eq!(
                (&counts["rows"], &counts["rejected"], &counts["suppressed"]),
                (&2.into(), &1.into(), &4.into()),
                "{direction} {day}"
            );
        }
    }
}

#[test]
fn several_numbers_and_the_number_of_the_lake_s_filter_are_refused() {
    let (_server, workplace) = lake_with_number(KEY_LINES);
    let before = workplace.lake_files();
    let mut command = workplace.command(&["erase", "--number", "13025550001,13025550002"]);
    command.env("PRIVACY", KEY);
    let several = ran(output(command));
    assert_eq!(several.status, 2, "{several:?}");
    assert!(several.stderr.contains("one at a time"), "{several:?}");
    assert_eq!(workplace.lake_files(), before);
    let (_server, filtered) = serving(&calls(1, 1), 1);
    filtered.configure_also(KEY_LINES);
    filtered.reconfigure(
        "[source]\n",
        &format!("[source]\nfrom_search = \"{SHOWN}\"\n"),
    );
    let ran = run(&filtered, &["--reconcile", "off"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let ran = erase_with(&filtered, KEY, &[]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(
        ran.stderr
            .contains("source.from_search limits this lake to the calls of that number"),
        "{ran:?}"
    );
}

#[test]
fn an_absent_number_is_kept_out_on_request() {
    let (server, workplace) = serving(&calls(50, 3), 3);
    workplace.configure_also(KEY_LINES);
    assert_eq!(run(&workplace, &[]).status, 0);
    assert_eq!(erase_with(&workplace, KEY, &["--even-if-absent"]).status, 0);
    server.serve("placed", DAY, calls(0, 3), 3);
    let ran = run(&workplace, &["--refresh"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(ran.report().totals.counts.suppressed, 1);
}

/// Erases and prunes in this process, with any store.
struct Removed {
    config: Config,
    privacy: Privacy,
}

impl Removed {
    fn new() -> Self {
        let config = Config::from_keys([("lake.url", "unused")]).unwrap();
        let key = PrivacyKey::try_new(KEY).unwrap();
        Self {
            config,
            privacy: Privacy::new(Modes::default(), Some(key)),
        }
    }

    async fn lake(&self, store: Arc<dyn LakeStore>) -> Result<Lake, String> {
        let found = Lake::find_any(Arc::clone(&store))
            .await
            .map_err(|error| error.to_string())?;
        let identity = found.unwrap().identity;
        let lake = Lake::open(store, &identity, self.privacy.clone()).await;
        lake.map_err(|error| error.to_string())
    }

    /// Whether the erasure is complete.
    async fn erase(&self, store: Arc<dyn LakeStore>) -> Result<bool, String> {
        self.erase_number(store, NUMBER).await
    }

    async fn erase_number(&self, store: Arc<dyn LakeStore>, number: &str) -> Result<bool, String> {
        let lake = self.lake(store).await?;
        let token = self.privacy.key().unwrap().token(number);
        let privacy = Arc::new(self.privacy.suppressing([token]).unwrap());
        let slices = erase::slices(&lake)
            .await
            .map_err(|error| error.to_string())?;
        let searched = erase::search(&lake, &slices, &privacy, &|| {}).await;
        let interrupt = CancellationToken::new();
        let erased = erase::erase(&lake, &self.config, &token, &searched, &interrupt, &|| {}).await;
        Ok(erased.map_err(|error| error.to_string())?.is_complete)
    }

    /// Fetches placed calls of a day again.
    async fn fetch(&self, store: Arc<dyn LakeStore>, url: &str, day: &str) -> RunReport {
        let lake = self.lake(store).await.unwrap();
        let config = Config::from_keys([
            ("lake.url", "unused"),
            ("source.url", url),
            ("source.requests", "1"),
            ("quality.fail_reject_ratio", "1"),
            ("parquet.compression", "uncompressed"),
        ]);
        let config = config.unwrap();
        let source = source(&config.source);
        let slice = Slice::of_day(parse_day(day).unwrap(), Direction::Placed);
        let committed = lake.entry(slice).await.entry.committed;
        let due = Due {
            slice,
            why: DueReason::Refresh,
            committed_fetched_at: committed.as_ref().map(|commit| commit.fetched_at),
            has_nothing: false,
            committed_token: committed.map(|commit| commit.token),
        };
        let ran = run::run(
            Arc::new(config),
            lake,
            source,
            vec![due],
            RunOptions::default(),
            Arc::new(NoObserver),
            CancellationToken::new(),
        );
        ran.await.report
    }

    async fn prune(&self, store: Arc<dyn LakeStore>) -> Result<bool, String> {
        let lake = self.lake(store).await?;
        // After the month, too.
        let old = prune::find_old(&lake, parse_day("2026-11-01").unwrap())
            .await
            .map_err(|error| error.to_string())?;
        let slices = old.slices.keys().copied().collect();
        let interrupt = CancellationToken::new();
        let report = prune::prune(&lake, &slices, &interrupt, &|| {})
            .await
            .map_err(|error| error.to_string())?;
        Ok(report.slices.iter().all(|slice| slice.error.is_none()))
    }
}

#[test]
fn a_run_that_read_the_list_before_an_erasure_does_not_publish_what_it_fetched() {
    let (server, workplace) = lake_with_number(KEY_LINES);
    let second = "2026-10-02";
    server.serve("placed", second, calls(0, 3).replace(DAY, second), 3);
    let begun = Place::copy_of(&workplace.path("lake"));
    let faults = Faults::none();
    let rehearsal = begun.copy();
    let counting = rehearsal.store(&faults);
    block_on(Removed::new().fetch(counting, &server.url(), second));
    let operations = faults.operations();
    let at = |action: &str, path: &str| {
        let is_it = |(done, on): &(&str, String)| *done == action && on.contains(path);
        operations
            .iter()
            .position(is_it)
            .unwrap_or_else(|| panic!("{action} {path}: {operations:?}"))
    };
    // From after the first read of the list until before the ledger entry is pending.
    let (first, last) = (
        at("read", "suppressed.json") + 1,
        at("create", "ledger/placed/2026-10-02"),
    );
    assert!(last > first + 2, "{operations:?}");
    for_each(last + 1 - first, |k| {
        let place = begun.copy();
        let resume = CancellationToken::new();
        let faults = Faults::new(first + k, Fault::Pause(resume.clone()));
        let paused = place.store(&faults);
        let removed = Removed::new();
        block_on(async {
            let store = place.sound();
            let url = server.url();
            let erasure = async {
                faults.reached.cancelled().await;
                let erased = removed.erase(Arc::clone(&store)).await;
                resume.cancel();
                erased
            };
            let (report, erased) = tokio::join!(removed.fetch(paused, &url, second), erasure);
            assert_eq!(erased, Ok(true));
            let context = format!("paused before {:?}", operations[first + k]);
            assert_eq!(
                report.outcome,
                RunOutcome::Committed,
                "{context}: {report:?}"
            );
            assert_eq!(report.totals.counts.suppressed, 1, "{context}");
            let seen: Vec<String> = visible(&*store).await.into_values().flatten().collect();
            assert_eq!(seen.len(), 5, "{context}: {seen:?}");
            assert_eq!(
                seen.iter().filter(|id| *id == "call-1").count(),
                0,
                "{context}"
            );
            assert_eq!(findings(&store).await, [], "{context}");
        });
    });
}

#[test]
fn a_slice_without_erased_calls_has_not_shrunk() {
    let (server, workplace) = lake_with_number(KEY_LINES);
    let removed = Removed::new();
    let store = local(&workplace.path("lake"));
    block_on(async {
        let lake = removed.lake(Arc::clone(&store)).await.unwrap();
        let key = removed.privacy.key().unwrap();
        lake.suppress(key.id(), &key.token(NUMBER), None)
            .await
            .unwrap();
        let report = removed.fetch(Arc::clone(&store), &server.url(), DAY).await;
        assert_eq!(report.outcome, RunOutcome::Committed, "{report:?}");
        assert_eq!(report.totals.counts.suppressed, 3, "{report:?}");
        // All hashes of a list are made with one key.
        let other = PrivacyKey::try_new("another-key-of-more-than-32-characters").unwrap();
        let mixed = lake.suppress(other.id(), &other.token("1"), None).await;
        assert!(
            mixed
                .unwrap_err()
                .to_string()
                .contains("Set privacy.key to the place of the key with ID ")
        );
    });
}

/// Rows, rejects and suppressed calls of a lake.
async fn counted(removed: &Removed, store: &Arc<dyn LakeStore>) -> (usize, u64, u64) {
    let rows = visible(&**store).await.values().map(Vec::len).sum();
    let lake = removed.lake(Arc::clone(store)).await.unwrap();
    let slices = verify::slices(&lake, &verify::Scope::default()).await;
    let commits = verify::commits(&lake, &slices.unwrap()).await.unwrap();
    let counts = || commits.values().map(|commit| &commit.counts);
    let rejected = counts().map(|counts| counts.rejected).sum();
    let suppressed = counts().map(|counts| counts.suppressed).sum();
    (rows, rejected, suppressed)
}

/// Digits of [`NUMBER`], as far as a log may contain none of them.
const DIGITS: [&str; 2] = ["3025550001", "555-0001"];

/// Checks that every snapshot of every log is complete, has one of these numbers of rows, and
/// equals the ledger of some moment.
async fn check_snapshots(place: &Place, rows: &[usize], context: &str) {
    let store = place.sound();
    let mut read = BTreeMap::new();
    for log in snapshots(&*store).await {
        for snapshot in &log {
            let found = rows_of(&*store, snapshot, &mut read).await;
            assert!(
                place.history.contains(&snapshot.paths()),
                "{context}: the ledger was never like {snapshot:?}"
            );
            let count = found.values().map(Vec::len).sum();
            assert!(
                rows.contains(&count),
                "{context}: {count} rows in version {}",
                snapshot.version
            );
        }
    }
}

#[test]
fn the_next_erasure_completes_one_that_failed_or_was_killed_at_any_operation() {
    for kind in KINDS {
        complete_erasures_on_disk(kind);
    }
}

fn complete_erasures_on_disk(kind: Kind) {
    let (_server, workplace) = lake_of_kind_with_number(kind, KEY_LINES);
    let removed = Removed::new();
    for_each_fault(
        kind,
        &Place::copy_of(&workplace.path("lake")),
        |_| true,
        async |store| removed.erase(store).await == Ok(true),
        async |place, context| {
            let store = place.sound();
            check_snapshots(&place, &[0, 2, 5, 3], context).await;
            // Either all rows, or the rows without the number.
            let seen = visible(&*store).await.values().map(Vec::len).sum::<usize>();
            assert!(seen == 5 || seen == 3, "{context}: {seen} rows");
            // The erasure of another number completes the first one.
            for number in ["+13025550002", NUMBER] {
                let erased = removed.erase_number(Arc::clone(&store), number).await;
                assert_eq!(erased, Ok(true), "{number}: {context}");
            }
            assert_eq!(counted(&removed, &store).await, (2, 1, 4), "{context}");
            assert_eq!(findings(&store).await, [], "{context}");
            assert_logs_equal_the_ledger(&*store, context).await;
            assert_nothing_is_left(&*store, &DIGITS, context).await;
        },
    );
}

#[test]
fn the_next_erasure_completes_one_that_failed_or_was_killed_at_any_request_to_a_bucket() {
    for tables in TABLES {
        complete_erasures_in_a_bucket(tables);
    }
}

fn complete_erasures_in_a_bucket(tables: &'static str) {
    let server = Server::start();
    let reject = format!("{{\"from\":\"{SHOWN}\",\"date\":\"broken\"}}\n");
    let second = "2026-10-02";
    server.serve("placed", DAY, format!("{}{reject}", calls(0, 4)), 5);
    server.serve("placed", second, calls(5, 3).replace(DAY, second), 3);
    let begun = Place::in_bucket(1 << 20);
    let removed = Removed::new();
    block_on(async {
        let store = begun.sound();
        let mut config = removed.config.clone();
        if !tables.is_empty() {
            let keys = [("lake.url", "unused"), ("lake.tables", tables)];
            config = Config::from_keys(keys).unwrap();
        }
        let identity = config.identity(&removed.privacy);
        Lake::open(Arc::clone(&store), &identity, removed.privacy.clone())
            .await
            .unwrap();
        for day in [DAY, second] {
            let report = removed.fetch(Arc::clone(&store), &server.url(), day).await;
            assert_eq!(report.outcome, RunOutcome::Committed, "{report:?}");
        }
    });
    for_each_fault(
        Kind::of_days(tables),
        &begun,
        |_| true,
        async |store| removed.erase(store).await == Ok(true),
        async |place, context| {
            let store = place.sound();
            check_snapshots(&place, &[0, 4, 7, 6], context).await;
            let erased = removed.erase(Arc::clone(&store)).await;
            assert_eq!(erased, Ok(true), "{context}");
            let (rows, _, suppressed) = counted(&removed, &store).await;
            assert_eq!((rows, suppressed), (6, 2), "{context}");
            assert_eq!(findings(&store).await, [], "{context}");
            assert_logs_equal_the_ledger(&*store, context).await;
            assert_nothing_is_left(&*store, &DIGITS, context).await;
        },
    );
}

#[test]
fn the_next_prune_completes_one_that_failed_or_was_killed_at_any_operation() {
    for kind in KINDS {
        complete_prunes(kind);
    }
}

fn complete_prunes(kind: Kind) {
    let (_server, workplace) = lake_of_kind_with_number(kind, KEY_LINES);
    let removed = Removed::new();
    for_each_fault(
        kind,
        &Place::copy_of(&workplace.path("lake")),
        |_| true,
        async |store| removed.prune(store).await == Ok(true),
        async |place, context| {
            let store = place.sound();
            check_snapshots(&place, &[0, 2, 5], context).await;
            let pruned = removed.prune(Arc::clone(&store)).await;
            assert_eq!(pruned, Ok(true), "{context}");
            assert!(visible(&*store).await.is_empty(), "{context}");
            assert_eq!(findings(&store).await, [], "{context}");
            assert_logs_equal_the_ledger(&*store, context).await;
            assert_nothing_is_left(&*store, &DIGITS, context).await;
        },
    );
}
