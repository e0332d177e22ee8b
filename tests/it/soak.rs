use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use jiff::ToSpan;
use jiff::civil::date;

use crate::simulator::Simulator;
use crate::support::{Workplace, seed};

/// Number of days, from `TEST_SOAK_DAYS`.
fn days() -> i64 {
    std::env::var("TEST_SOAK_DAYS").map_or(30, |days| days.parse().unwrap())
}

/// Peak memory of a process so far, `None` if it has ended.
fn peak_kib(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn a_source_that_fails_one_request_in_five_fills_the_lake_in_constant_memory() {
    let last = date(2020, 1, 1)
        .checked_add((days() - 1).days())
        .unwrap()
        .to_string();
    let arguments = [
        "run",
        "--from",
        "2020-01-01",
        "--to",
        &last,
        "--requests",
        "8",
    ];
    let slices = usize::try_from(days() * 2).unwrap();

    let seed = seed().to_string();
    let reliable = Simulator::start(&["--seed", &seed]);
    let expected = Workplace::with_url(&reliable.url);
    assert_eq!(expected.run(&arguments).status, 0);
    let expected = expected.digests();
    assert_eq!(expected.len(), slices);

    let flaky = Simulator::start(&["--seed", &seed, "--fault", "flaky=5"]);
    let workplace = Workplace::with_url(&flaky.url);
    workplace.reconfigure(
        "max_attempts = 3",
        "max_attempts = 50\nstall_timeout = \"500ms\"",
    );
    let mut runs = 0;
    let (mut early_kib, mut late_kib) = (None, None);
    loop {
        runs += 1;
        let mut child = workplace
            .command(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut committed = 0;
        let mut retries = 0;
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while stderr.by_ref().read_line(&mut line).unwrap() > 0 {
            assert!(!line.contains("panicked"), "{line}");
            retries += usize::from(line.contains("Retrying"));
            if line.contains("Slice committed.") {
                committed += 1;
                // The process is still running, because more slices follow.
                if committed == slices / 4 {
                    early_kib = peak_kib(child.id());
                } else if committed == slices * 3 / 4 {
                    late_kib = peak_kib(child.id());
                }
            }
            line.clear();
        }
        let status = child.wait().unwrap();
        if runs == 1 {
            assert!(retries > slices / 4, "{retries} retries in {slices} slices");
        }
        if status.success() {
            break;
        }
        // Three web pages or three short streams fail a slice until the next run.
        assert!(
            status.code() == Some(1) && runs < 10,
            "{status} after {runs} runs"
        );
    }
    assert_eq!(workplace.digests(), expected);
    assert_eq!(workplace.run(&["verify"]).status, 0);
    // The first quarter of a short run is too short for a comparison.
    if days() >= 300
        && let (Some(early_kib), Some(late_kib)) = (early_kib, late_kib)
    {
        assert!(
            late_kib < early_kib + early_kib / 4,
            "{early_kib} KiB after a quarter, {late_kib} KiB after three"
        );
    }
}
