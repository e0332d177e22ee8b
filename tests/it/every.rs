use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime};

use jiff::ToSpan;
use jiff::civil::Date;

use crate::metrics::metrics;
use crate::server::{Answer, STREAM, Server, count};
use crate::support::{DAY, PLACED, Ran, Workplace, calls, ended, ran, serving};

/// `run --every`, until a signal.
struct Service {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
    /// What it tells a service manager.
    manager: UnixDatagram,
}

impl Service {
    fn start(workplace: &Workplace, arguments: &[&str]) -> Self {
        let socket = workplace.path("manager.socket");
        drop(std::fs::remove_file(&socket));
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager
            .set_read_timeout(Some(Duration::from_mins(2)))
            .unwrap();
        let always = ["run", "--metrics-file", "calls.prom", "--every"];
        let mut command = workplace.command(&[&always, arguments].concat());
        command.env("NOTIFY_SOCKET", &socket);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stdout: BufReader::new(child.stdout.take().unwrap()).lines(),
            stderr: BufReader::new(child.stderr.take().unwrap()).lines(),
            child,
            manager,
        }
    }

    /// Waits until a round has printed its report.
    fn end_of_round(&mut self) {
        let is_last = |line: &str| line.contains("report ") && line.contains("/_cdrlake/runs/");
        let mut lines = self.stdout.by_ref().map(Result::unwrap);
        assert!(lines.any(|line| is_last(&line)), "it ended");
    }

    fn logs(&mut self, text: &str) {
        let mut lines = self.stderr.by_ref().map(Result::unwrap);
        assert!(lines.any(|line| line.contains(text)), "it ended: {text}");
    }

    fn tells(&self) -> String {
        let mut message = [0; 64];
        let length = self.manager.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length])
            .trim()
            .to_owned()
    }

    fn terminate(&self) {
        let process = self.child.id().to_string();
        let mut kill = Command::new("kill");
        assert!(kill.args(["-TERM", &process]).status().unwrap().success());
    }

    fn ended(mut self) -> Ran {
        // What was not read yet is of no interest.
        std::thread::spawn(move || self.stdout.by_ref().count());
        std::thread::spawn(move || self.stderr.by_ref().count());
        ran(ended(self.child))
    }
}

const OF_DAY: [&str; 4] = ["--from", DAY, "--to", DAY];

#[test]
fn a_signal_in_the_middle_of_a_round_leaves_the_lake_consistent_and_the_next_start_goes_on() {
    let (server, workplace) = serving(&calls(0, 3), 3);
    let stream = format!("{STREAM}?from={DAY}&to={DAY}&type=placed");
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    server.on(&stream, [Answer::Stall(head.as_bytes().to_vec())]);
    let arguments = [&["1h"], &OF_DAY[..]].concat();
    let service = Service::start(&workplace, &arguments);
    assert_eq!(service.tells(), "READY=1");
    while server.requests(&stream).is_empty() {
        std::thread::yield_now();
    }
    service.terminate();
    assert_eq!(service.tells(), "STOPPING=1");
    assert_eq!(service.ended().status, 130);
    let outcome = |outcome: &str| {
        let series = format!("cdrlake_last_run_outcome{{outcome=\"{outcome}\"}}");
        metrics(&workplace, "calls.prom")[&series]
    };
    assert_eq!(outcome("interrupted"), 1);
    assert_eq!(workplace.run(&["verify"]).status, 0);
    assert!(
        !workplace
            .table()
            .contains(&format!("cdrs/dt={DAY}/placed-{DAY}.parquet"))
    );

    server.serve("placed", DAY, calls(0, 3), 3);
    let mut service = Service::start(&workplace, &arguments);
    service.end_of_round();
    service.terminate();
    assert_eq!(service.ended().status, 0, "the round was whole");
    assert_eq!(outcome("committed"), 1);
    assert_eq!(workplace.rows("placed").num_rows(), 3);
    assert_eq!(workplace.run(&["verify"]).status, 0);
}

#[test]
fn a_second_signal_ends_a_service_at_once() {
    let server = Server::start();
    server.on(STREAM, [Answer::Records(Vec::new())]);
    server.on("/v1/cdrs?", [count(0)]);
    let workplace = Workplace::new(&server);
    // The report of some two hundred slices is longer than a pipe, and nobody reads it.
    let arguments = [
        "1h",
        "--from",
        "2026-01-01",
        "--to",
        "2026-04-30",
        "--format",
        "json",
    ];
    let mut service = Service::start(&workplace, &arguments);
    while !workplace.path("calls.prom").exists() {
        std::thread::yield_now();
    }
    service.terminate();
    service.logs("Another signal ends it at once.");
    assert!(
        service.child.try_wait().unwrap().is_none(),
        "it cannot print"
    );
    service.terminate();
    assert_eq!(service.child.wait().unwrap().code(), Some(130));
}

#[test]
fn rounds_write_only_what_changed_and_their_metrics() {
    let server = Server::start();
    let workplace = Workplace::new(&server);
    let today = jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    // The test may begin at midnight.
    let days: Vec<Date> = (-1..=1)
        .map(|days| today.saturating_add(days.days()))
        .collect();
    let serve = |number: u32| {
        for day in &days {
            let day = day.to_string();
            let calls = calls(0, number).replace(DAY, &day);
            server.serve("placed", &day, calls, number.into());
        }
    };
    serve(3);
    let arguments = [&["1s", "--last", "1", "--include-today"], PLACED].concat();
    let mut service = Service::start(&workplace, &arguments);
    let files = || -> BTreeMap<String, SystemTime> {
        let files = workplace.lake_files().into_keys();
        let modified = |name: &str| {
            let path = workplace.path("lake").join(name);
            path.metadata().unwrap().modified().unwrap()
        };
        files.map(|name| (name.clone(), modified(&name))).collect()
    };
    let slices = |outcome: &str| {
        let series = format!("cdrlake_last_run_slices{{outcome=\"{outcome}\"}}");
        metrics(&workplace, "calls.prom")[&series]
    };
    service.end_of_round();
    let first = files();
    assert!(
        first.keys().any(|name| name.contains("ledger/placed/")),
        "{first:?}"
    );
    assert!(slices("committed") >= 2);
    for _ in 0..2 {
        service.end_of_round();
        assert_eq!(files(), first, "not a byte was written");
        assert_eq!(slices("committed"), 0);
        assert!(slices("unchanged") >= 2);
    }
    serve(5);
    // The round that is under way may have asked before.
    service.end_of_round();
    service.end_of_round();
    assert_ne!(files(), first);
    assert_eq!(
        metrics(&workplace, "calls.prom")["cdrlake_last_run_rows"] % 5,
        0
    );
    service.terminate();
    let ended = service.ended();
    assert!([0, 130].contains(&ended.status), "{ended:?}");
}
