//! Instructions by callgrind: a bench starts itself under valgrind, once for a number of records and
//! once for twice as many. The difference is what the records cost, without what comes before and
//! after them.

use std::process::Command;

/// Names a stage and a number of records to the process under valgrind.
const STAGE: &str = "CDRLAKE_BENCH_STAGE";

/// What the process under valgrind is to do: a stage, with so many records.
pub(crate) fn wanted() -> Option<(usize, usize)> {
    let wanted = std::env::var(STAGE).ok()?;
    let (stage, records) = wanted.split_once(':').unwrap();
    Some((stage.parse().unwrap(), records.parse().unwrap()))
}

/// Instructions a record of a stage, by so many records and twice as many.
pub(crate) fn count_a_record(stage: usize, records: usize) -> u64 {
    (count(stage, 2 * records) - count(stage, records)) / records as u64
}

/// Instructions of a process that works on so many records.
fn count(stage: usize, records: usize) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=callgrind.out"])
        .arg(std::env::current_exe().unwrap())
        .env(STAGE, format!("{stage}:{records}"))
        .current_dir(&directory)
        .output()
        .expect("valgrind counts: install the package `valgrind`");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find(|line| line.contains("Collected :"));
    let collected = collected.and_then(|line| line.split_whitespace().last());
    collected.unwrap().parse().unwrap()
}
