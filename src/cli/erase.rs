//! `cdrlake erase`: the calls of a number.

use std::fmt::Write;
use std::io::BufRead;

use clap::Args;
use serde_json::json;

use super::advice::Rerun;
use super::progress::Screen;
use super::prune::versioning_hint;
use super::run::{MAX_LINES, OutputArgs, slices as number_of_slices};
use super::table::{counted, thousands};
use super::{
    CommandError, Exit, LAKE_STAYS, LakeArgs, OutputFormat, advice, exit_of_removal,
    hint_for_warehouses, interrupted_by_signals, json_text, print,
};
use crate::config::Config;
use crate::ops::open::{existing_lake, existing_lake_for_writing};
use crate::ops::removal::erase::{Erasure, Search};
use crate::ops::removal::number::{NumberFound, validate};

/// Erase every call of a number from the lake, including rejects, and block its future calls.
#[derive(Clone, Debug, Args)]
pub(super) struct EraseArgs {
    /// The number, in full. `-` reads it from standard input, hidden from other users of this
    /// machine.
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    number: String,
    /// Show which slices contain it, without changing them.
    #[arg(long)]
    dry_run: bool,
    /// Block its future calls even if the lake has none yet.
    #[arg(long, conflicts_with = "dry_run")]
    even_if_absent: bool,
    #[command(flatten)]
    config: LakeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn execute(args: &EraseArgs, screen: &Screen) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    let number = match args.number.as_str() {
        "-" => {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line)?;
            line.trim().to_owned()
        }
        number => number.trim().to_owned(),
    };
    validate(&config, &number)?;
    let interrupt = interrupted_by_signals(LAKE_STAYS)?;
    let observer = screen.observer(&Rerun::on(&config.lake.url));
    let interrupted = || {
        screen.print_line("Interrupted: nothing was changed, and the number is not blocked.");
        Ok(Exit::Interrupted)
    };
    let opening = async {
        if args.dry_run {
            existing_lake(&config, true).await
        } else {
            existing_lake_for_writing(&config, true).await
        }
    };
    let Some(lake) = interrupt.run_until_cancelled(opening).await else {
        return interrupted();
    };
    let found = NumberFound::search(lake?, &config, &number, &*observer, &interrupt);
    let Some(found) = found.await? else {
        return interrupted();
    };
    if args.dry_run {
        let text = dry_run(args.output.format, &found.search, found.is_known);
        return print(text.as_bytes());
    }
    let erasure = found.erase(&config, args.even_if_absent, &*observer, &interrupt);
    let mut erasure = erasure.await?;
    advice::on_erasure(&mut erasure);
    print(outcome(args, &config, &found.search, &erasure).as_bytes())?;
    Ok(exit_of_removal(&erasure.report))
}

/// What an erasure would find. `is_known`: the number is on the list of erased numbers already.
fn dry_run(format: OutputFormat, found: &Search, is_known: bool) -> String {
    let holding = || found.holding();
    if format == OutputFormat::Json {
        let slices = holding().map(|(slice, holding)| {
            json!({
                "direction": slice.direction,
                (slice.period.unit().as_str()): slice.period.to_string(),
                "rows": holding.rows,
                "rejects": holding.rejects,
            })
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
        writeln!(text, "{slice} could not be read: {problem}")
            .expect("writing to memory does not fail");
    }
    let rows: u64 = holding().map(|(_, holding)| holding.rows).sum();
    let rejects: u64 = holding().map(|(_, holding)| holding.rejects).sum();
    writeln!(
        text,
        "Found the number in {} of {}: {} and {}. Nothing was changed: --dry-run.",
        number_of_slices(holding().count()),
        thousands((found.slices.len() + found.problems.len()) as u64),
        counted(rows, "row", "rows"),
        counted(rejects, "reject", "rejects")
    )
    .expect("writing to memory does not fail");
    if rows + rejects == 0 && found.problems.is_empty() {
        text.push_str(if is_known {
            "The number is on the list of erased numbers: its future calls are left out.\n"
        } else {
            "If it should be there, write it in full, with its country code, as the lake has it.\n"
        });
    }
    text
}

/// What was erased, and what is left to do.
fn outcome(args: &EraseArgs, config: &Config, found: &Search, erasure: &Erasure) -> String {
    let report = &erasure.report;
    match args.output.format {
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
                            "{}: removed {} and {}",
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
            for warning in &report.warnings {
                writeln!(text, "warning: {warning}").expect("writing to memory does not fail");
            }
            let last = if erasure.is_complete {
                format!(
                    "Erased from {}. Future calls of the number are left out and counted as \
                     suppressed.{}\n",
                    number_of_slices(slices),
                    versioning_hint(config)
                )
            } else {
                "The erasure is incomplete: the lake still has calls of the number. Future calls \
                 are left out. Run the same command again.\n"
                    .to_owned()
            };
            text.push_str(&last);
            text.push_str(&hint_for_warehouses(report));
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_without_result_reports_whether_the_number_is_erased_or_may_be_misspelled() {
        let found = Search::default();
        let nothing = "Found the number in 0 slices of 0: 0 rows and 0 rejects. Nothing was \
                       changed: --dry-run.\n";
        let erased =
            "The number is on the list of erased numbers: its future calls are left out.\n";
        let text = dry_run(OutputFormat::Text, &found, true);
        assert_eq!(text, format!("{nothing}{erased}"));
        let text = dry_run(OutputFormat::Text, &found, false);
        let hint = "If it should be there, write it in full, with its country code, as the lake \
                    has it.\n";
        assert_eq!(text, format!("{nothing}{hint}"));
        let json = dry_run(OutputFormat::Json, &found, false);
        assert!(!json.contains("country code"), "{json}");
    }
}
