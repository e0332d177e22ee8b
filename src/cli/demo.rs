//! `cdrlake demo`: everything, without an account.

use std::path::Path;
use std::time::Instant;

use clap::Args;
use jiff::Timestamp;

use super::advice::Rerun;
use super::progress::Screen;
use super::report::write_page;
use super::run::{exit_of, slices};
use super::table::{DayTable, counted, dollars, thousands};
use super::{CommandError, Exit, LAKE_STAYS, advice, interrupted_by_signals, print};
use crate::lake::report::RunOutcome;
use crate::ops::job::Outcome;
use crate::simulator::demo::Demo;
use crate::store::location::Location;

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
    let demo = Demo::start(&args.lake, Timestamp::now()).await?;
    screen.print_line(&format!(
        "A simulated Wavix API answers on {}; the lake is {}.",
        demo.url(),
        args.lake
    ));
    let rerun = Rerun::on(demo.root());
    let Outcome {
        lake,
        plan,
        run: mut result,
    } = demo.run(screen.observer(&rerun), interrupt).await?;
    let (due, up_to_date) = (plan.due.len(), plan.up_to_date);
    if result.report.outcome != RunOutcome::Committed {
        advice::on_run(&mut result.report, &rerun);
        for slice in &result.report.slices {
            if let Some(error) = &slice.error {
                screen.print_line(&format!("{}: {error}", slice.slice()));
            }
        }
        return Ok(exit_of(&result, false, screen));
    }
    let fetched = begun.elapsed();

    let proven = demo.prove(&lake, plan.days).await?;
    let mut table = DayTable::default();
    for (slice, commit) in &proven.commits {
        table.add(
            slice.period,
            slice.direction,
            commit.counts.rows,
            &commit.totals,
            Some(commit.state),
        );
    }

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
    let place = args.lake.trim_end_matches('/');
    // Beside the lake, or in the current directory, where a real report may be.
    let page = match demo.root() {
        Location::Directory(_) => format!("{place}-report.html"),
        Location::Bucket(_) => "cdrlake-demo-report.html".to_owned(),
    };
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "cdrlake".to_owned());
    print(
        format!(
            "{}\n{did}\n\
             Proven: {} calls and {} USD, read back from Parquet, equal the simulator's own, slice \
             by slice.\n",
            table.render(),
            thousands(proven.rows),
            dollars(proven.totals.charge_usd),
        )
        .as_bytes(),
    )?;
    // The proof is printed first: a page that cannot be written must not hide it.
    let report = demo.report(&lake, Timestamp::now()).await?;
    write_page(Path::new(&page), &report)?;
    print(
        format!(
            "Look at it in a browser: {page}\n\n\
             Try next:\n  \
             duckdb -c \"SELECT dt, direction, count(*) AS calls, sum(charge_usd) AS usd FROM \
             '{place}/cdrs/*/*.parquet' GROUP BY ALL ORDER BY ALL\"\n  \
             {program} status --lake {place}\n  \
             {program} simulate      # the same API on a port; its key is demo\n  \
             {program} run --help    # and README.md, for a real account\n",
        )
        .as_bytes(),
    )
}
