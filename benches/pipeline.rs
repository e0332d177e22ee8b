//! The whole pipeline over loopback: `cdrlake run` against `cdrlake simulate`, in separate
//! processes. The simulator serves prerendered bytes, so that it does not limit the speed.
//!
//! Prints wall time, processor time (each also per record) and peak memory over several rounds.
//!
//! ```sh
//! cargo bench --bench pipeline -- [calls a day, default 250000] [days, default 10]
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a bench may panic, and prints rounded figures"
)]

mod program;
mod simulator;

use program::number_arguments;
use simulator::Simulator;

const ROUNDS: usize = 3;

fn main() {
    let mut numbers = number_arguments();
    let calls_per_day = numbers.next().unwrap_or(250_000).to_string();
    let days = numbers.next().unwrap_or(10).clamp(1, 28);
    let (from, to) = ("2026-09-01", format!("2026-09-{days:02}"));
    let days = format!("{from}..{to}");
    let simulator = Simulator::start(&["--calls-per-day", &calls_per_day, "--prerender", &days]);
    for round in 1..=ROUNDS {
        let run = simulator.run(&["--from", from, "--to", &to]);
        println!("round {round}: {run}");
    }
}
