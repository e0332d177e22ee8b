//! Runs the program in a process of its own, and measures it.

use std::process::Command;
use std::time::Instant;

use cdrlake::RunReport;

/// The API key of every run.
pub(crate) const KEY: &str = "bench";

/// The program, unless the variable `BENCH_PROGRAM` names another one, such as an earlier version.
fn program() -> String {
    std::env::var("BENCH_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_cdrlake").to_owned())
}

/// Time and memory of a run.
pub(crate) struct Run {
    pub(crate) rows: u64,
    pub(crate) wall_s: f64,
    /// Of the run only, without the simulated API.
    pub(crate) processor_s: f64,
    pub(crate) peak_mib: f64,
}

/// Runs a command of the program against an API with these arguments and variables, in a temporary
/// lake.
pub(crate) fn run_against(
    url: &str,
    command: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Run {
    let directory = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let output = Command::new("/usr/bin/time")
        .args(["-f", "%U %S %M"])
        .arg(program())
        .args([command, "--format", "json"])
        .args(["--source-url", url, "--lake", "lake"])
        .args(["--api-key-env", "BENCH_KEY"])
        .args(arguments)
        .env("BENCH_KEY", KEY)
        .env("CDRLAKE_LOG", "off")
        .envs(variables.iter().copied())
        .current_dir(&directory)
        .output()
        .expect("/usr/bin/time is missing: install the package `time`");
    let wall_s = begun.elapsed().as_secs_f64();
    assert!(output.status.success(), "{output:?}");
    let report: RunReport = serde_json::from_slice(&output.stdout).unwrap();
    let counts = report.totals.counts;
    assert!(counts.rows > 0 && counts.rows == counts.records);
    let stderr = String::from_utf8(output.stderr).unwrap();
    let figures: Vec<f64> = stderr
        .split_whitespace()
        .map(|figure| figure.parse().unwrap())
        .collect();
    Run {
        rows: counts.rows,
        wall_s,
        processor_s: figures[0] + figures[1],
        peak_mib: figures[2] / 1024.0,
    }
}

impl Run {
    /// Microseconds of a processor for each record.
    pub(crate) fn record_us(&self) -> f64 {
        self.processor_s * 1e6 / self.rows as f64
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} records, wall {:.2} s ({:.3} µs per record), processor {:.2} s ({:.3} µs per \
             record), peak {:.0} MiB",
            self.rows,
            self.wall_s,
            self.wall_s * 1e6 / self.rows as f64,
            self.processor_s,
            self.record_us(),
            self.peak_mib
        )
    }
}

/// The numbers among the arguments of a bench.
pub(crate) fn number_arguments() -> impl Iterator<Item = u64> {
    std::env::args().filter_map(|argument| argument.parse().ok())
}
