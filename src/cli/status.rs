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
            let remarks = remarks.chain(status.small_files.take());
            let remarks = remarks.map(|remark| format!("{}.\n", advice::on_remark(&remark)));
            render(&status) + &remarks.collect::<String>()
        }
    };
    print(text.as_bytes())
}

fn render(status: &LakeStatus) -> String {
    let mut table = DayTable::with_quality(status.slice);
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
    let of_months = status.months.iter().flat_map(|month| {
        let remarks = month.remarks.iter();
        remarks.map(|remark| format!("{}: {remark}\n", month.month))
    });
    let problems = status.slices().filter_map(|(slice, status)| {
        let problem = status.problem.as_ref()?;
        Some(format!("{slice}: {problem}\n"))
    });
    let problems: Vec<String> = of_months.chain(problems).collect();
    if !problems.is_empty() {
        text.push('\n');
        text.extend(problems.iter().take(MAX_LINES).map(String::as_str));
        if problems.len() > MAX_LINES {
            let hidden = problems.len() - MAX_LINES;
            writeln!(text, "… and {hidden} more (--format json lists them all)")
                .expect("writing to memory does not fail");
        }
    }
    let last = status.slices().filter_map(|(_, slice)| slice.fetched_at);
    let last = last.max();
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

    use jiff::civil::date;

    use super::*;
    use crate::cdr::digest::Digest;
    use crate::cdr::period::PeriodUnit;
    use crate::cdr::slice::{Direction, Slice};
    use crate::cdr::tally::DayTotals;
    use crate::lake::LedgerEntry;
    use crate::lake::ledger::{Pending, State};

    #[test]
    fn an_interrupted_slice_is_explained() {
        let slice: Slice = "placed 2026-10-01".parse().unwrap();
        let status = |pending| {
            let mut found = LedgerEntry::absent(slice);
            found.entry.pending = pending;
            let entries = HashMap::from([(slice, found)]);
            let days = slice.period.days();
            render(&LakeStatus::new(
                slice.period.unit(),
                &entries,
                &[Direction::Placed],
                days,
            ))
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

    #[test]
    fn a_lake_of_months_is_shown_by_day_with_rejects_and_problems_by_month() {
        let slice: Slice = "placed 2026-10".parse().unwrap();
        let mut commit = crate::lake::ledger::tests::commit(None, State::Open);
        (commit.counts.records, commit.counts.rejected) = (4, 1);
        commit.through = Some(date(2026, 10, 3));
        let rows = |rows| DayTotals {
            rows,
            ..DayTotals::default()
        };
        // After a conversion, days behind a missing one are there.
        let days = [(1, 2), (3, 1), (5, 7)].map(|(day, calls)| (date(2026, 10, day), rows(calls)));
        commit.days = days.into();
        let mut found = LedgerEntry::absent(slice);
        found.entry.committed = Some(commit);
        let entries = HashMap::from([(slice, found)]);
        let days = date(2026, 9, 30)..=date(2026, 10, 9);
        let unit = PeriodUnit::Month;
        let status = LakeStatus::new(unit, &entries, &[Direction::Placed], days);
        let text = render(&status);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("2026-09-30          - "), "{text}");
        assert!(lines[1].ends_with("placed missing"), "{text}");
        assert!(lines[2].starts_with("2026-10-01          2 "), "{text}");
        assert!(lines[3].starts_with("2026-10-02          0 "), "{text}");
        assert!(lines[4].starts_with("2026-10-03          1 "), "{text}");
        assert!(lines[5].starts_with("2026-10-04          - "), "{text}");
        assert!(lines[6].starts_with("2026-10-05          7 "), "{text}");
        assert_eq!(lines[7], "2026-10-06 to 2026-10-09, 4 days: placed open");
        assert!(lines[8].starts_with("total              10 "), "{text}");
        assert!(
            lines[9].starts_with("open: the month had not settled"),
            "{text}"
        );
        assert_eq!(lines[11], "2026-10: placed 1 of 4 rejected");
        assert!(text.contains("\n0 slices closed, 1 open, "), "{text}");
        assert!(text.contains(", 1 missing;"), "{text}");
    }
}
