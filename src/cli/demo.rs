//! `cdrlake demo`: everything, without an account.

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::{Timestamp, ToSpan};
use secrecy::SecretString;
use tokio::net::TcpListener;

use super::progress::Screen;
use super::run::{exit_of, slices};
use super::table::{DayTable, counted, dollars, thousands};
use super::{CommandError, Exit, LAKE_STAYS, interrupted_by_signals, print};
use crate::cdr::amount::AmountSum;
use crate::cdr::slice::Slice;
use crate::config::Config;
use crate::lake::Lake;
use crate::lake::ledger::Commit;
use crate::lake::report::RunOutcome;
use crate::ops::job::{Job, Outcome};
use crate::ops::open::open_lake;
use crate::ops::verify::read_back;
use crate::simulator::{Faults, Generator, KeyOrder, Simulator};
use crate::source::wavix::Api;

/// Days of the demo lake, both directions each.
const DAYS: i64 = 30;
/// About a million in [`DAYS`].
const CALLS_PER_DAY: u64 = 34_500;
const KEY: &str = "demo";
const ACCOUNT: &str = "cdrlake demo";

/// Show everything against a simulated API.
#[derive(Clone, Debug, Args)]
pub(super) struct DemoArgs {
    /// Where the demo lake lies.
    #[arg(long, value_name = "PLACE", default_value = "./demo-lake")]
    lake: String,
}

pub(super) async fn execute(args: DemoArgs, screen: &Screen) -> Result<Exit, CommandError> {
    let begun = Instant::now();
    let interrupt = interrupted_by_signals(LAKE_STAYS)?;
    let now = Timestamp::now();
    let generator = Generator {
        seed: 42,
        calls_per_day: CALLS_PER_DAY,
        key_order: KeyOrder::Shuffled,
    };
    let simulator = Simulator::new(generator.clone(), KEY, Faults::default());
    let (address, _server) = simulator.serve(TcpListener::bind(("127.0.0.1", 0)).await?)?;
    let start = now
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date()
        .checked_sub(DAYS.days())
        .expect("thirty days ago there was a day");
    let config = Config::from_overrides(&vec![
        ("source.url", format!("http://{address}"), "demo"),
        ("lake.url", args.lake.clone(), "--lake"),
        ("window.start", start.to_string(), "demo"),
        // No real lake has this label: neither is taken for the other.
        ("lake.account", ACCOUNT.to_owned(), "demo"),
        // Simulated calls are neither late nor re-rated.
        ("window.lookback_days", "0".to_owned(), "demo"),
        ("window.settle_hours", "0".to_owned(), "demo"),
    ])?;
    let mut lake = open_lake(&config, false).await?;
    // The simulator has another port every time.
    lake.remarks.clear();
    screen.say(&format!(
        "A simulated Wavix API answers on http://{address}; the lake is {}.",
        args.lake
    ));
    let source = Api::try_new(&config.source, Some(SecretString::from(KEY)))?;
    let job = Job::new(config.clone(), Arc::new(source))
        .with_observer(screen.observer())
        .with_interrupt(interrupt);
    let Outcome {
        lake,
        plan,
        run: result,
    } = job.run_in(lake).await?;
    let (due, up_to_date) = (plan.due.len(), plan.up_to_date);
    if result.report.outcome != RunOutcome::Committed {
        for slice in &result.report.slices {
            if let Some(error) = &slice.error {
                screen.say(&format!("{}: {error}", slice.slice()));
            }
        }
        return Ok(exit_of(&result, false, screen));
    }
    let fetched = begun.elapsed();

    let entries = lake.entries(&config.source.directions, plan.days).await?;
    let mut table = DayTable::default();
    let mut commits = Vec::new();
    for (slice, found) in entries {
        let commit = found
            .entry
            .committed
            .ok_or_else(|| CommandError::new(Exit::Failed, format!("{slice} was not committed")))?;
        table.add(
            slice.day,
            slice.direction,
            commit.counts.rows,
            &commit.totals,
            Some(commit.state),
        );
        commits.push((slice, commit));
    }
    let proven = prove(&lake, &generator, commits).await?;

    let did = if due == 0 {
        format!("Nothing to do: all {up_to_date} slices are up to date.")
    } else {
        format!(
            "{} fetched, {} up to date, in {:.1} s.",
            slices(due),
            counted(up_to_date, "was", "were"),
            fetched.as_secs_f64()
        )
    };
    let lake = args.lake.trim_end_matches('/');
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "cdrlake".to_owned());
    print(
        format!(
            "{}\n{did}\n\
             Proven: {} calls and {} USD, read back from Parquet, equal the simulator's own, slice by slice.\n\n\
             Try next:\n  \
             duckdb -c \"SELECT dt, direction, count(*) AS calls, sum(charge_usd) AS usd FROM '{lake}/cdrs/*/*.parquet' GROUP BY ALL ORDER BY ALL\"\n  \
             {program} status --lake {lake}\n  \
             {program} simulate      # the same API on a port; its key is demo\n  \
             {program} run --help    # and README.md, for a real account\n",
            table.render(),
            thousands(proven.rows),
            dollars(proven.charge),
        )
        .as_bytes(),
    )
}

/// What a slice, or several, hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    rows: u64,
    seconds: i64,
    charge: AmountSum,
    forward_fee: AmountSum,
}

/// Reads every file back and compares it with the ledger, by digest, and with the calls that the
/// simulator makes, by sums.
async fn prove(
    lake: &Lake,
    generator: &Generator,
    commits: Vec<(Slice, Commit)>,
) -> Result<Sums, CommandError> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let proofs = stream::iter(commits).map(|(slice, commit)| async move {
        let generator = generator.clone();
        let copy = lake.table().local_copy(slice).await?;
        let proof = tokio::task::spawn_blocking(move || {
            let wrong = |what: &str| {
                CommandError::new(
                    Exit::Failed,
                    format!("{slice}: {what}. Please report this: it is a bug in cdrlake"),
                )
            };
            let mut found = Sums::default();
            if commit.file.is_some() {
                let copy = copy.ok_or_else(|| wrong("its file is gone"))?;
                let content = read_back(&copy.path, slice)
                    .map_err(|error| wrong(&crate::error::chain(&error)))?;
                if content.digest != commit.digest {
                    return Err(wrong("the file does not hold what its ledger entry says"));
                }
                found = Sums {
                    rows: content.counts.rows,
                    seconds: content.totals.duration_seconds,
                    charge: content.totals.charge_usd,
                    forward_fee: content.totals.forward_fee_usd,
                };
            }
            if found != generated(&generator, slice) {
                return Err(wrong("the file does not hold what the simulator sent"));
            }
            Ok(found)
        });
        proof.await.expect("proving does not panic")
    });
    let add = |sum: Sums, one: Sums| {
        let mut sum = Sums {
            rows: sum.rows + one.rows,
            seconds: sum.seconds + one.seconds,
            ..sum
        };
        sum.charge.merge(one.charge);
        sum.forward_fee.merge(one.forward_fee);
        std::future::ready(Ok(sum))
    };
    proofs
        .buffer_unordered(threads)
        .try_fold(Sums::default(), add)
        .await
}

fn generated(generator: &Generator, slice: Slice) -> Sums {
    let mut sums = Sums {
        rows: generator.count(slice, Timestamp::now()),
        ..Sums::default()
    };
    for index in 0..sums.rows {
        let call = generator.call(slice, index);
        sums.seconds += i64::from(call.duration_seconds);
        sums.charge.add(call.charge);
        sums.forward_fee.add(call.forward_fee.unwrap_or_default());
    }
    sums
}
