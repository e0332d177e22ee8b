use std::collections::BTreeMap;

use crate::server::{Answer, STREAM, count};
use crate::support::{DAY, PLACED, Workplace, calls, run_scripted, scripted, serving};

/// The metrics in a file by their series, without the label of the lake, to whole units.
pub(crate) fn metrics(workplace: &Workplace, file: &str) -> BTreeMap<String, i64> {
    let text = std::fs::read_to_string(workplace.path(file)).unwrap();
    let lake = format!("lake=\"{}\"", workplace.path("lake").display());
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let series = series.replace(&lake, "").replace("{,", "{");
        (
            series.replace("{}", ""),
            value.parse::<f64>().unwrap() as i64,
        )
    });
    samples.collect()
}

const LAST_SUCCESS: &str = "cdrlake_last_success_timestamp_seconds{direction=\"placed\"}";

#[test]
fn a_run_leaves_its_metrics_and_a_failed_one_keeps_the_last_success() {
    let (server, workplace) = serving(&calls(0, 3), 3);
    let run = |more: &[&str]| {
        let ran = workplace.run_day(&[more, PLACED, &["--metrics-file", "calls.prom"]].concat());
        (ran.status, ran, metrics(&workplace, "calls.prom"))
    };
    let (status, ran, first) = run(&[]);
    assert_eq!(status, 0, "{ran:?}");
    assert_eq!(first["cdrlake_last_run_rows"], 3);
    let of_received = LAST_SUCCESS.replace("placed", "received");
    assert!(first.contains_key(LAST_SUCCESS) && !first.contains_key(&of_received));
    assert_eq!(first["cdrlake_last_run_slices{outcome=\"committed\"}"], 1);
    let report = ran.report();
    assert_eq!(
        first["cdrlake_last_run_received_bytes"] as u64,
        report.bytes_received
    );
    assert_eq!(report.bytes_received, calls(0, 3).len() as u64);
    let written = first["cdrlake_last_run_written_bytes"] as u64;
    assert_eq!(written, report.slices[0].files[0].bytes);
    // The lake begins with this day, which is the newest one.
    let day: jiff::civil::Date = DAY.parse().unwrap();
    let end = day.tomorrow().unwrap().to_zoned(jiff::tz::TimeZone::UTC);
    let newest = "cdrlake_newest_complete_day_timestamp_seconds{direction=\"placed\"}";
    assert_eq!(first[newest], end.unwrap().timestamp().as_second());

    // All days since are looked at, although the run was for one.
    let yesterday = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let yesterday = yesterday.date().yesterday().unwrap();
    let since = i64::from(day.until(yesterday).unwrap().get_days());
    let missing = "cdrlake_missing_dates{direction=\"placed\"}";
    // The run may have ended before midnight.
    assert!([since - 1, since].contains(&first[missing]), "{first:?}");

    server.serve("placed", DAY, calls(0, 2), 3);
    let (status, ran, second) = run(&["--refresh"]);
    assert_eq!(status, 1, "{ran:?}");
    assert_eq!(second[LAST_SUCCESS], first[LAST_SUCCESS]);
    assert_eq!(second["cdrlake_last_run_outcome{outcome=\"failed\"}"], 1);
    let mismatches = "cdrlake_last_run_retries{reason=\"count_mismatch\"}";
    assert_eq!(second[mismatches], 2, "{second:?}");
    assert_eq!(second[newest], first[newest], "the lake has the day");

    // Nothing is begun without a key.
    let mut command = workplace.command(&["run", "--metrics-file", "calls.prom", "--last", "1"]);
    command.env_remove("TEST_KEY");
    let ran = crate::support::ran(crate::support::output(command));
    assert_eq!(ran.status, 2, "{ran:?}");
    let third = metrics(&workplace, "calls.prom");
    assert_eq!(third[LAST_SUCCESS], first[LAST_SUCCESS]);
    assert_eq!(third["cdrlake_last_run_outcome{outcome=\"failed\"}"], 1);
    assert_eq!(third["cdrlake_last_run_rows"], 0);
}

#[test]
fn retries_are_counted_by_their_reason_in_the_report_and_the_metrics() {
    let good = || Answer::Records(calls(0, 3).into_bytes());
    let json = |status| Answer::Json(status, "{\"message\":\"later\"}".to_owned());
    let cut = || Answer::Reset(calls(0, 1).into_bytes());
    let (workplace, _server, ran) = run_scripted(3, [json(503), json(429), good()]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(
        ran.json()["retries"],
        serde_json::json!({"rate_limit": 1, "server_error": 1})
    );
    drop(workplace);
    let (_workplace, _server, ran) = run_scripted(3, [cut(), good()]);
    assert_eq!(
        ran.json()["retries"],
        serde_json::json!({"connection": 1}),
        "{ran:?}"
    );
    let (_workplace, _server, ran) = run_scripted(3, [good()]);
    assert_eq!(ran.json()["retries"], serde_json::json!({}));
}

#[test]
fn metrics_that_cannot_be_written_are_refused_before_a_run_and_reported_after_it() {
    let (_server, workplace) = serving(&calls(0, 3), 3);
    let gone = ["--metrics-file", "gone/calls.prom"];
    let refused = workplace.run_day(&gone);
    assert_eq!(refused.status, 2, "{refused:?}");
    let message = "cannot write gone/calls.prom (metrics.file): entity not found. Create its \
                   directory";
    assert!(refused.stderr.contains(message), "{}", refused.stderr);
    assert_eq!(workplace.table(), [] as [&str; 0], "nothing was begun");
    let checked = workplace.run(&[&["check"], &gone[..]].concat());
    assert_eq!(checked.status, 2, "{checked:?}");
    assert!(
        checked
            .stdout
            .contains(&format!("failed  metrics: {message}")),
        "{}",
        checked.stdout
    );

    // The directory goes while the run waits for an answer.
    let stalled = [Answer::Stall(Vec::new())];
    let (workplace, server) = scripted(3, stalled);
    std::fs::create_dir(workplace.path("gone")).unwrap();
    let arguments = [
        &["run", "--from", DAY, "--to", DAY, "--format", "json"],
        PLACED,
        &gone,
    ];
    let mut command = workplace.command(&arguments.concat());
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    command.env("CDRLAKE_SOURCE_STALL_TIMEOUT", "1s");
    let child = command.spawn().unwrap();
    while server.requests(STREAM).is_empty() {
        std::thread::yield_now();
    }
    std::fs::remove_dir_all(workplace.path("gone")).unwrap();
    server.on(STREAM, [Answer::Records(calls(0, 3).into_bytes())]);
    server.on("/v1/cdrs?", [count(3)]);
    let ran = crate::support::ran(crate::support::ended(child));
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stderr.contains(message), "{}", ran.stderr);
    let report = ran.json();
    assert_eq!(report["outcome"], "committed");
    assert_eq!(report["retries"], serde_json::json!({"timeout": 1}));
    assert_eq!(workplace.rows("placed").num_rows(), 3);
}
