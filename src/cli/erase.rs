//! `cdrlake erase`: the calls of a number.

use std::fmt::Write;
use std::io::BufRead;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::progress::Screen;
use super::prune::copies;
use super::run::{MAX_LINES, OutputArgs, slices as number_of_slices};
use super::table::{counted, thousands};
use super::{
    CommandError, Exit, LAKE_STAYS, LakeArgs, OutputFormat, exit_of_removal, hint_for_warehouses,
    interrupted_by_signals, json_text, print,
};
use crate::config::Config;
use crate::lake::Lake;
use crate::ops::open::{existing_lake, open_lake};
use crate::ops::removal::erase::{self, Search, erase};
use crate::privacy::{Mode, Token, holds_a_number_or_name, holds_several_numbers};

/// Take every call of a number out of the lake, rejects included, and keep it out of everything that is fetched later.
#[derive(Clone, Debug, Args)]
pub(super) struct EraseArgs {
    /// The number, in full; `-` reads it from standard input, out of sight of other users of this machine.
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    number: String,
    /// Say which slices hold it, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Keep its calls out of the lake also if there are none in it yet.
    #[arg(long, conflicts_with = "dry_run")]
    even_if_absent: bool,
    #[command(flatten)]
    config: LakeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn execute(args: &EraseArgs, screen: &Screen) -> Result<Exit, CommandError> {
    let usage = |problem: &str| CommandError::new(Exit::Usage, problem);
    let config = args.config.load()?;
    let number = match args.number.as_str() {
        "-" => {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line)?;
            line.trim().to_owned()
        }
        number => number.trim().to_owned(),
    };
    if !holds_a_number_or_name(&number) {
        return Err(usage(
            "--number holds no number: write it in full, such as +13025550101",
        ));
    }
    if holds_several_numbers(&number) {
        return Err(usage(
            "--number holds more than one number: erase them one at a time",
        ));
    }
    let modes = config.privacy.modes;
    if modes.include(Mode::Truncate) {
        return Err(usage(
            "this lake drops the last four digits of numbers (privacy.numbers, or that of a column, is truncate): what is left cannot be told to be of one number, so none can be erased for certain. `cdrlake prune` removes whole days",
        ));
    }
    let existing = existing_lake(&config, true).await?;
    let with_key = config.privacy(true)?;
    let key = with_key.key().expect("it was asked for");
    let token = key.token(&number);
    let filters = [&config.source.from_search, &config.source.to_search];
    if filters
        .into_iter()
        .flatten()
        .any(|filter| key.token(filter) == token)
    {
        return Err(usage(
            "the lake is filtered by that number (source.from_search or to_search): all of it is about it, and lake.json names it. Remove the whole lake",
        ));
    }
    let privacy = Arc::new(
        with_key
            .suppressing([token.clone()])
            .expect("there is a key"),
    );
    let lake = if args.dry_run {
        existing
    } else {
        open_lake(&config, true).await?
    };
    let interrupt = interrupted_by_signals(LAKE_STAYS)?;
    let slices = erase::slices(&lake).await?;
    let bar = screen.bar(slices.len());
    let done = || bar.inc(1);
    let found = tokio::select! {
        () = interrupt.cancelled() => {
            screen.say("Nothing was changed, and the number is not on the list.");
            return Ok(Exit::Interrupted);
        }
        found = erase::search(&lake, &slices, &privacy, &done) => found,
    };
    bar.finish_and_clear();
    let known = lake.suppression().await?;
    let known = known.and_then(|list| list.get(&token).cloned());
    if args.dry_run {
        return print(dry_run(args, &found).as_bytes());
    }
    if found.holding().next().is_none() && known.is_none() && !args.even_if_absent {
        return Err(nothing_found(&found));
    }
    change(args, &config, &lake, &token, &found, screen, &interrupt).await
}

/// The number is nowhere, as far as could be seen.
fn nothing_found(found: &Search) -> CommandError {
    let problem = match found.problems.iter().next() {
        Some((slice, problem)) => format!(
            "the number was not found, but {} could not be looked at, the first being {slice}: {problem}. Run `cdrlake verify`, and erase again. Nothing was changed",
            number_of_slices(found.problems.len())
        ),
        None => format!(
            "the lake holds no call and no reject with that number, in {}: nothing was changed, and calls of it that come are kept. Write the number in full, with its country, as the lake has it; --even-if-absent keeps out calls that come later",
            number_of_slices(found.slices.len())
        ),
    };
    CommandError::new(Exit::Failed, problem)
}

fn dry_run(args: &EraseArgs, found: &Search) -> String {
    let holding = || found.holding();
    if args.output.format == OutputFormat::Json {
        let slices = holding().map(|(slice, holding)| {
            json!({ "direction": slice.direction, "day": slice.day, "rows": holding.rows, "rejects": holding.rejects })
        });
        let slices: Vec<_> = slices.collect();
        return json_text(&json!({ "slices": slices, "problems": found.problems.len() }));
    }
    let mut text = String::new();
    for (slice, holding) in holding().take(MAX_LINES) {
        writeln!(
            text,
            "{:<20} {:>10} {:>10}",
            slice.to_string(),
            counted(holding.rows, "row", "rows"),
            counted(holding.rejects, "reject", "rejects")
        )
        .expect("writing to memory does not fail");
    }
    for (slice, problem) in found.problems.iter().take(MAX_LINES) {
        writeln!(text, "{slice} could not be looked at: {problem}")
            .expect("writing to memory does not fail");
    }
    let rows: u64 = holding().map(|(_, holding)| holding.rows).sum();
    let rejects: u64 = holding().map(|(_, holding)| holding.rejects).sum();
    writeln!(
        text,
        "{} of {} with that number: {} and {}. Nothing was changed: --dry-run.",
        number_of_slices(holding().count()),
        thousands((found.slices.len() + found.problems.len()) as u64),
        counted(rows, "row", "rows"),
        counted(rejects, "reject", "rejects")
    )
    .expect("writing to memory does not fail");
    text
}

async fn change(
    args: &EraseArgs,
    config: &Config,
    lake: &Lake,
    token: &Token,
    found: &Search,
    screen: &Screen,
    interrupt: &tokio_util::sync::CancellationToken,
) -> Result<Exit, CommandError> {
    let bar = screen.bar(found.slices.len() + found.problems.len());
    let erasure = erase(lake, config, token, found, interrupt, &|| {
        bar.inc(1);
    })
    .await?;
    bar.finish_and_clear();
    let report = &erasure.report;
    let text = match args.output.format {
        OutputFormat::Json => json_text(&json!({ "complete": erasure.is_complete, "run": report })),
        OutputFormat::Text => {
            let mut text = String::new();
            for slice in &report.slices {
                let line = match &slice.error {
                    Some(problem) => format!("{}: {problem}", slice.slice()),
                    None => {
                        let held = found.slices.get(&slice.slice());
                        let (rows, rejects) = held.map_or((0, 0), |held| (held.rows, held.rejects));
                        format!(
                            "{}: rewritten without {} and {} of it",
                            slice.slice(),
                            counted(rows, "row", "rows"),
                            counted(rejects, "reject", "rejects")
                        )
                    }
                };
                writeln!(text, "{line}").expect("writing to memory does not fail");
            }
            let slices = report
                .slices
                .iter()
                .filter(|slice| slice.error.is_none())
                .count();
            let last = if erasure.is_complete {
                format!(
                    "Erased from {}. Its calls are left out of whatever is fetched from now on, and counted as suppressed.{}\n",
                    number_of_slices(slices),
                    copies(config)
                )
            } else {
                "Not everything is done: its calls are left out of whatever is fetched from now on, but some are still in the lake. Erase it again.\n".to_owned()
            };
            text.push_str(&last);
            text.push_str(&hint_for_warehouses(report));
            text
        }
    };
    print(text.as_bytes())?;
    Ok(exit_of_removal(report))
}
