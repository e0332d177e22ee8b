//! `cdrlake simulate`: the stand-in API as a process of its own.

use std::ops::RangeInclusive;

use clap::Args;
use jiff::civil::Date;
use tokio::net::TcpListener;

use super::{CommandError, Exit, interrupted_by_signals, print};
use crate::cdr::slice::parse_day;
use crate::simulator::{Fault, Generator, KeyOrder, Simulator};

/// Serve the simulated API on a port of this machine.
#[derive(Clone, Debug, Args)]
pub(super) struct SimulateArgs {
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The API key to accept.
    #[arg(long, default_value = "demo", value_name = "KEY")]
    key: String,
    /// Seed of all random values: the same seed makes the same calls.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Mean number of calls a day, in both directions together.
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    calls_per_day: u64,
    /// Order of the keys in a record.
    #[arg(long, value_enum, default_value_t, value_name = "ORDER")]
    key_order: KeyOrder,
    /// Render these days first and serve them from temporary files, for benchmarks.
    #[arg(long, value_name = "FROM..TO", value_parser = parse_days)]
    prerender: Option<RangeInclusive<Date>>,
    /// A fault of the API; may be repeated. unavailable=N, cut=N, error-object=N: the first streams
    /// of each slice fail, break off after N records, or end in an error. short=N: streams lack
    /// their last N records. paged: the stream is paged. broken=N, duplicates=N: every Nth record
    /// is cut in half or comes twice. flaky=N: one request in N fails in one way or another.
    #[arg(long, value_name = "FAULT")]
    fault: Vec<Fault>,
}

fn parse_days(text: &str) -> Result<RangeInclusive<Date>, String> {
    let (from, to) = text
        .split_once("..")
        .ok_or("write two days: 2026-10-01..2026-10-20")?;
    let (from, to) = (parse_day(from)?, parse_day(to)?);
    if from > to {
        Err(format!("{from} is after {to}"))
    } else {
        Ok(from..=to)
    }
}

pub(super) async fn execute(args: SimulateArgs) -> Result<Exit, CommandError> {
    let interrupt = interrupted_by_signals("Interrupted: the simulated API ends.")?;
    let generator = Generator {
        seed: args.seed,
        calls_per_day: args.calls_per_day,
        key_order: args.key_order,
    };
    let mut simulator = Simulator::new(generator, args.key, args.fault.into_iter().collect());
    let listener = TcpListener::bind(("127.0.0.1", args.port)).await;
    let listener = listener.map_err(|error| {
        CommandError::new(
            Exit::Failed,
            format!("cannot listen on port {}: {error}. Try --port 0", args.port),
        )
    })?;
    if let Some(days) = args.prerender {
        simulator = tokio::task::spawn_blocking(move || simulator.with_rendered(days))
            .await
            .expect("rendering does not panic")
            .map_err(|error| {
                CommandError::new(
                    Exit::Failed,
                    format!("cannot render into the temporary folder: {error}"),
                )
            })?;
    }
    let (address, server) = simulator.serve(listener)?;
    // The first line is for programs that start this one and need the port.
    print(format!("http://{address}\n").as_bytes())?;
    interrupt.cancelled().await;
    server.abort();
    Ok(Exit::Success)
}
