//! `cdrlake status`: the lake by day.

use std::ops::RangeInclusive;
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use jiff::civil::Date;

use super::run::{OutputArgs, RangeArgs};
use super::table::DayTable;
use super::{CommandError, ConfigArgs, Exit, OutputFormat, json_text, local_store, print};
use crate::config::Config;
use crate::lake::Lake;
use crate::plan::{Selection, days};
use crate::slice::Direction;
use crate::status::LakeStatus;

/// Show the lake by day, from its ledger.
#[derive(Clone, Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn execute(args: &StatusArgs) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    // Whose calls a lake holds does not matter to who only looks.
    let Some((lake, _)) = Lake::find_any(Arc::new(local_store(&config))).await? else {
        let root = config.lake.root.display();
        return Err(CommandError::new(
            Exit::Usage,
            format!("there is no lake at {root}. `cdrlake run` makes one"),
        ));
    };
    let directions = &config.source.directions;
    let days = range(&config, &Selection::from(&args.range), &lake, directions).await?;
    let entries = lake.entries(directions, days.clone()).await?;
    let status = LakeStatus::new(&entries, directions, days);
    let text = match args.output.format {
        OutputFormat::Json => json_text(&status),
        OutputFormat::Text => render(&status),
    };
    print(text.as_bytes())
}

/// The days asked for; without `window.start` and dates, from the first day of the ledger.
async fn range(
    config: &Config,
    selection: &Selection,
    lake: &Lake,
    directions: &[Direction],
) -> Result<RangeInclusive<Date>, CommandError> {
    let mut window = config.window.clone();
    if window.start.is_none() {
        window.start = lake.first_day(directions).await?;
    }
    let today = Timestamp::now().to_zoned(window.timezone.clone()).date();
    Ok(days(&window, selection, today)?)
}

fn render(status: &LakeStatus) -> String {
    let mut table = DayTable::with_quality();
    for day in &status.days {
        table.add_status(day);
    }
    let LakeStatus {
        closed,
        open,
        interrupted,
        missing,
        ..
    } = status;
    let last = status
        .days
        .iter()
        .flat_map(|day| &day.slices)
        .filter_map(|slice| slice.fetched_at)
        .max();
    let last = last.map_or_else(
        || "never".to_owned(),
        |last| last.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
    );
    format!(
        "{}\n{closed} slices closed, {open} open, {interrupted} interrupted, {missing} missing; last change fetched {last}.\n\
         ASR: answered calls among all. ACD: time talked for each answered call.\n",
        table.render()
    )
}
