//! Peak memory, and processor time for each record, of one slice and of one twenty times as large.
//! Memory must not grow by more than a tenth. Time is only printed, because it depends on the
//! machine's load.
//!
//! Both slices are larger than a row group. The simulator prerenders the bytes, because a slow
//! source would not fill the queues between stages; the larger slice takes 6.5 GB of temporary
//! files.
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
mod simulator;

use program::{Run, number_arguments};
use simulator::Simulator;

const ROUNDS: usize = 3;

fn run(calls_per_day: u64) -> Run {
    let day = "2026-09-01";
    let days = format!("{day}..{day}");
    let calls_per_day = calls_per_day.to_string();
    let simulator = Simulator::start(&["--calls-per-day", &calls_per_day, "--prerender", &days]);
    let run = || {
        let run = simulator.run(
            "run",
            &["--from", day, "--to", day, "--direction", "placed"],
        );
        println!("{run}");
        run
    };
    // The round with the most memory: how full the queues get varies.
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
        "{times} times the records: {memory:.2} times the memory, {:.2} times the processor time \
         per record",
        large.record_us() / small.record_us()
    );
    assert!(memory < 1.1, "memory grows with the slice");
}
