//! The whole pipeline over loopback: `cdrlake run` against `cdrlake simulate`, each a process of
//! its own. The simulator serves bytes rendered beforehand, so that it is not what is measured.
//!
//! Prints wall time, processor time and peak memory of the run, a record each, over several rounds.
//!
//! ```sh
//! cargo bench --bench pipeline -- [calls a day, default 250000] [days, default 10]
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a bench may panic, and prints rounded figures"
)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use cdrlake::report::RunReport;

const ROUNDS: usize = 3;
const KEY: &str = "bench";

/// Kills the simulator however the bench ends.
struct Simulator(std::process::Child);

impl Drop for Simulator {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn main() {
    let numbers: Vec<u64> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let calls_per_day = numbers.first().copied().unwrap_or(250_000);
    let days = numbers.get(1).copied().unwrap_or(10).clamp(1, 28);
    let program = env!("CARGO_BIN_EXE_cdrlake");
    let (from, to) = ("2026-09-01".to_owned(), format!("2026-09-{days:02}"));
    let simulator = Command::new(program)
        .args(["simulate", "--port", "0", "--key", KEY])
        .args(["--calls-per-day", &calls_per_day.to_string()])
        .args(["--prerender", &format!("{from}..{to}")])
        .stdout(Stdio::piped())
        .spawn();
    let mut simulator = Simulator(simulator.unwrap());
    let mut url = String::new();
    BufReader::new(simulator.0.stdout.as_mut().unwrap())
        .read_line(&mut url)
        .unwrap();

    for round in 1..=ROUNDS {
        let directory = tempfile::tempdir().unwrap();
        let begun = Instant::now();
        let output = Command::new("/usr/bin/time")
            .args([
                "-f", "%U %S %M", program, "run", "--from", &from, "--to", &to, "--format", "json",
            ])
            .args([
                "--source-url",
                url.trim(),
                "--lake",
                "lake",
                "--api-key-env",
                "BENCH_KEY",
            ])
            .env("BENCH_KEY", KEY)
            .env("CDRLAKE_LOG", "off")
            .current_dir(directory.path())
            .output()
            .expect("/usr/bin/time measures the run: install the package `time`");
        let wall = begun.elapsed().as_secs_f64();
        assert!(output.status.success(), "{output:?}");
        let report: RunReport = serde_json::from_slice(&output.stdout).unwrap();
        let rows = report.totals.counts.rows;
        assert!(rows > 0 && rows == report.totals.counts.records);
        let stderr = String::from_utf8(output.stderr).unwrap();
        let figures: Vec<f64> = stderr
            .split_whitespace()
            .map(|figure| figure.parse().unwrap())
            .collect();
        let cpu = figures[0] + figures[1];
        println!(
            "round {round}: {rows} records, wall {wall:.2} s ({:.3} µs a record), processor {cpu:.2} s ({:.3} µs a record), peak {:.0} MB",
            wall * 1e6 / rows as f64,
            cpu * 1e6 / rows as f64,
            figures[2] / 1024.0
        );
    }
}
