//! `cdrlake status`: the lake by day.

use std::fmt::Write;

use clap::Args;
use jiff::Timestamp;

use super::run::{MAX_LINES, OutputArgs, RangeArgs};
use super::table::{DayTable, counted};
use super::{CommandError, Exit, LakeArgs, OutputFormat, advice, json_text, print};
use crate::ops::days::DayRange;
use crate::ops::open::existing_lake;
use crate::ops::plan::unsynced_remark;
use crate::ops::status::LakeStatus;

/// Show the lake by day, from its ledger.
#[derive(Clone, Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    config: LakeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn execute(args: &StatusArgs) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    let range = DayRange::from(&args.range);
    let lake = existing_lake(&config, false).await?;
    let mut status = LakeStatus::read(&lake, &config, &range, Timestamp::now()).await?;
    advice::on_status(&mut status, &args.config.rerun(&config.lake.url, false));
    let text = match args.output.format {
        OutputFormat::Json => json_text(&status),
        OutputFormat::Text => {
            let list = lake.suppression().await?;
            let unfinished = list.and_then(|list| list.unfinished_remark());
            let remarks = unfinished.into_iter().chain(lake.conversion_remark());
            let remarks = remarks.chain(unsynced_remark(status.unsynced_runs));
            let remarks = remarks.map(|remark| format!("{}.\n", advice::on_remark(&remark)));
            render(&status) + &remarks.collect::<String>()
        }
    };
    print(text.as_bytes())
}

fn render(status: &LakeStatus) -> String {
    let mut table = DayTable::with_quality();
    for day in &status.days {
        table.add_status(day);
    }
    let LakeStatus {
        closed,
        open,
        failed,
        interrupted,
        damaged,
        missing,
        pruned,
        tables,
        ..
    } = status;
    let mut text = table.render();
    let slices = || status.days.iter().flat_map(|day| &day.slices);
    let problems = status.days.iter().flat_map(|day| {
        day.slices.iter().filter_map(|slice| {
            let problem = slice.problem.as_ref()?;
            Some(format!("{} {}: {problem}\n", slice.direction, day.day))
        })
    });
    let problems: Vec<String> = problems.collect();
    if !problems.is_empty() {
        text.push('\n');
        text.extend(problems.iter().take(MAX_LINES).map(String::as_str));
        if problems.len() > MAX_LINES {
            let hidden = problems.len() - MAX_LINES;
            writeln!(text, "… and {hidden} more (--format json lists them all)")
                .expect("writing to memory does not fail");
        }
    }
    let last = slices().filter_map(|slice| slice.fetched_at).max();
    let last = last.map_or_else(
        || "nothing fetched yet".to_owned(),
        |last| {
            last.strftime("last recorded fetch %Y-%m-%d %H:%M:%S UTC")
                .to_string()
        },
    );
    let pruned = match pruned {
        0 => String::new(),
        pruned => format!(", {pruned} pruned"),
    };
    write!(
        text,
        "\n{} closed, {open} open, {failed} failed, {interrupted} interrupted, {damaged} with a \
         damaged ledger entry, {missing} missing{pruned}; {last}.\n\
         ASR: share of answered calls. ACD: average duration of answered calls. fetched: the \
         recorded fetch, UTC; a later one that found no change is not recorded.\n",
        counted(*closed, "slice", "slices")
    )
    .expect("writing to memory does not fail");
    if !tables.is_empty() {
        let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
        writeln!(text, "Table formats: {}.", names.join(", "))
            .expect("writing to memory does not fail");
    }
    if *interrupted > 0 {
        text.push_str(
            "interrupted: a run ended while it published the slice; the next run fetches it \
             again.\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::cdr::digest::Digest;
    use crate::cdr::slice::{Direction, Slice};
    use crate::lake::LedgerEntry;
    use crate::lake::ledger::Pending;

    #[test]
    fn an_interrupted_slice_is_explained() {
        let slice: Slice = "placed 2026-10-01".parse().unwrap();
        let status = |pending| {
            let mut found = LedgerEntry::absent(slice);
            found.entry.pending = pending;
            let entries = HashMap::from([(slice, found)]);
            let days = slice.period.days();
            render(&LakeStatus::new(&entries, &[Direction::Placed], days))
        };
        let explanation = "\ninterrupted: a run ended while it published the slice; the next run \
                           fetches it again.\n";
        let pending = Pending {
            run: String::new(),
            token: String::new(),
            file: None,
            digest: Digest::default(),
            planned: None,
        };
        let interrupted = status(Some(pending));
        assert!(interrupted.ends_with(explanation), "{interrupted}");
        assert!(!status(None).contains("interrupted:"));
    }
}
