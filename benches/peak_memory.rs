//! Peak memory and processor time a record of one slice, and of one twenty times as large: neither may grow by more
//! than a tenth. Memory is asserted, time is only printed: it depends on what else the machine does.
//!
//! Both are larger than a row group. The bytes are rendered beforehand, for a slow source never fills what there is between
//! the stages: for the larger one that takes 6.5 GB of temporary files.
//!
//! ```sh
//! cargo bench --bench peak_memory -- [calls a day, default 750000] [times, default 20]
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a bench may panic, and prints rounded figures"
)]

mod program;

use program::{Run, Simulator, number_arguments};

const ROUNDS: usize = 3;

fn run(calls_per_day: u64) -> Run {
    let day = "2026-09-01";
    let days = format!("{day}..{day}");
    let calls_per_day = calls_per_day.to_string();
    let simulator = Simulator::start(&["--calls-per-day", &calls_per_day, "--prerender", &days]);
    let run = || {
        let run = simulator.run(&["--from", day, "--to", day, "--direction", "placed"]);
        println!("{run}");
        run
    };
    // Of several rounds the one with the most memory: how full queues get is a matter of chance.
    let rounds = std::iter::repeat_with(run).take(ROUNDS);
    let largest = rounds.max_by(|one, other| one.peak_mib.total_cmp(&other.peak_mib));
    largest.unwrap()
}

fn main() {
    let mut numbers = number_arguments();
    let calls_per_day = numbers.next().unwrap_or(750_000);
    let times = numbers.next().unwrap_or(20);
    let (small, large) = (run(calls_per_day), run(times * calls_per_day));
    assert!(large.rows as f64 > 0.9 * times as f64 * small.rows as f64);
    let memory = large.peak_mib / small.peak_mib;
    println!(
        "{times} times the records: {memory:.2} times the memory, {:.2} times the processor time a record",
        large.record_us() / small.record_us()
    );
    assert!(memory < 1.1, "memory grows with the slice");
}
