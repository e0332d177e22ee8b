//! Counts instructions with callgrind: a bench starts itself under valgrind with N and with 2 N
//! records. The difference is the cost of N records, without set-up and tear-down.

use std::process::Command;

/// Variable with the stage and the number of records for the process under valgrind.
const STAGE: &str = "CDRLAKE_BENCH_STAGE";

/// In the process under valgrind: the stage and the number of records.
pub(crate) fn requested() -> Option<(usize, usize)> {
    let requested = std::env::var(STAGE).ok()?;
    let (stage, records) = requested.split_once(':').unwrap();
    Some((stage.parse().unwrap(), records.parse().unwrap()))
}

/// Instructions of a stage for each record, measured with `records` and twice as many.
pub(crate) fn count_per_record(stage: usize, records: usize) -> u64 {
    (count(stage, 2 * records) - count(stage, records)) / records as u64
}

/// Instructions of a process with `records` records.
fn count(stage: usize, records: usize) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=callgrind.out"])
        .arg(std::env::current_exe().unwrap())
        .env(STAGE, format!("{stage}:{records}"))
        .current_dir(&directory)
        .output()
        .expect("valgrind is missing: install the package `valgrind`");
    assert!(output.status.success(), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let collected = stderr.lines().find(|line| line.contains("Collected :"));
    let collected = collected.and_then(|line| line.split_whitespace().last());
    collected.unwrap().parse().unwrap()
}
