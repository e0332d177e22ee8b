//! `cdrlake prune`: days that are too old to be kept.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytesize::ByteSize;
use clap::Args;
use jiff::civil::Date;
use jiff::{Span, Timestamp};
use serde_json::json;

use super::advice::Rerun;
use super::progress::Screen;
use super::run::{MAX_LINES, OutputArgs, slices as number_of_slices};
use super::table::counted;
use super::{
    CommandError, Exit, LAKE_STAYS, LakeArgs, OutputFormat, exit_of_removal, hint_for_warehouses,
    interrupted_by_signals, json_text, print,
};
use crate::cdr::slice::{Direction, Slice};
use crate::config::Config;
use crate::lake::Lake;
use crate::lake::report::{RunReport, SliceReport};
use crate::ops;
use crate::ops::open::{existing_lake, existing_lake_for_writing};
use crate::ops::removal::prune::{Old, OldSlice, find_old, first_kept, prune_before};

/// Remove days that are older than a given age: their rows and their rejects, for good.
#[derive(Clone, Debug, Args)]
pub(super) struct PruneArgs {
    /// Remove days that are older than this: 90days, 18months, 2years.
    #[arg(long, value_name = "TIME", value_parser = parse_age)]
    older_than: Span,
    /// Show what would be removed, without removing it.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    config: LakeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Days, weeks, months or years.
fn parse_age(text: &str) -> Result<Span, String> {
    let wrong = || {
        format!(
            "`{text}` is not an age: write a number of days, weeks, months or years, such as \
             18months"
        )
    };
    let age: Span = text.parse().map_err(|_| wrong())?;
    let calendar = Span::new()
        .try_years(age.get_years())
        .and_then(|span| span.try_months(age.get_months()))
        .and_then(|span| span.try_weeks(age.get_weeks()))
        .and_then(|span| span.try_days(age.get_days()));
    let is_calendar = calendar.is_ok_and(|span| span.fieldwise() == age.fieldwise());
    if is_calendar && age.is_positive() {
        Ok(age)
    } else {
        Err(wrong())
    }
}

pub(super) async fn execute(args: &PruneArgs, screen: &Screen) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    let before = first_kept(&config, args.older_than, Timestamp::now())?;
    if args.dry_run {
        let old = find_old(&existing_lake(&config, false).await?, before).await?;
        let text = match args.output.format {
            OutputFormat::Json => json_text(&json!({
                "before": before,
                "slices": listed(&old.slices),
                "kept_with_old_days": kept_in_json(&old),
            })),
            OutputFormat::Text => {
                let hint = if old.slices.is_empty() {
                    ""
                } else {
                    versioning_hint(&config)
                };
                let last = format!("Nothing was removed: --dry-run.{hint}\n");
                render(&old.slices, before, "would be removed") + &kept_months(&old, before) + &last
            }
        };
        return print(text.as_bytes());
    }
    let interrupt = interrupted_by_signals(LAKE_STAYS)?;
    let observer = screen.observer(&Rerun::on(&config.lake.url));
    let opening = existing_lake_for_writing(&config, false);
    let Some(lake) = interrupt.run_until_cancelled(opening).await else {
        screen.print_line("Interrupted before the first removal: nothing was removed.");
        return Ok(Exit::Interrupted);
    };
    let lake = lake?;
    let pruned = prune_before(&lake, before, &*observer, &interrupt).await?;
    let kept = kept_months(&pruned.old, before);
    let text = match (args.output.format, &pruned.report) {
        (OutputFormat::Json, report) => json_text(&json!({
            "before": before,
            "run": report,
            "kept_with_old_days": kept_in_json(&pruned.old),
        })),
        (OutputFormat::Text, None) if kept.is_empty() => {
            format!("The lake has no days before {before}.\n")
        }
        (OutputFormat::Text, None) => kept,
        (OutputFormat::Text, Some(report)) => {
            let failed = report.slices.iter().filter(|slice| slice.error.is_some());
            let failed: Vec<Slice> = failed.map(SliceReport::slice).collect();
            let removed = pruned.old.slices.iter();
            let removed = removed.filter(|(slice, _)| !failed.contains(slice));
            let removed = removed.map(|(slice, old)| (*slice, *old)).collect();
            let first_kept = match pruned.old.kept_with_old_days {
                Some(period) => period.first_day(),
                None => before,
            };
            let never_had = first_day_that_the_lake_never_had(&config, &lake, first_kept).await?;
            let last = conclusion(&config, report, never_had.map(|_| first_kept));
            render(&removed, before, "removed") + &kept + &last
        }
    };
    print(text.as_bytes())?;
    Ok(pruned
        .report
        .as_ref()
        .map_or(Exit::Success, exit_of_removal))
}

/// The period that is kept although it has old days.
fn kept_in_json(old: &Old) -> Option<String> {
    old.kept_with_old_days.map(|period| period.to_string())
}

/// A sentence about the period that is kept although it has old days.
fn kept_months(old: &Old, before: Date) -> String {
    let Some(period) = old.kept_with_old_days else {
        return String::new();
    };
    format!(
        "{period} stays: slices of this lake are whole months, and its last day, {}, is not before \
         {before}.\n",
        period.last_day()
    )
}

fn listed(old: &BTreeMap<Slice, OldSlice>) -> Vec<serde_json::Value> {
    let list = old.iter().map(|(slice, old)| {
        json!({
            "direction": slice.direction,
            (slice.period.unit().as_str()): slice.period.to_string(),
            "rows": old.rows,
            "bytes": old.bytes,
        })
    });
    list.collect()
}

fn render(old: &BTreeMap<Slice, OldSlice>, before: Date, what: &str) -> String {
    let mut text = String::new();
    for (slice, old) in old.iter().take(MAX_LINES) {
        writeln!(
            text,
            "{:<20} {:>12} {:>10}",
            slice.to_string(),
            counted(old.rows, "row", "rows"),
            ByteSize(old.bytes).display().si().to_string()
        )
        .expect("writing to memory does not fail");
    }
    if old.len() > MAX_LINES {
        writeln!(text, "… and {} more", old.len() - MAX_LINES)
            .expect("writing to memory does not fail");
    }
    let rows: u64 = old.values().map(|old| old.rows).sum();
    let bytes: u64 = old.values().map(|old| old.bytes).sum();
    writeln!(
        text,
        "{}{} before {before} {what}: {}, {}.",
        if old.is_empty() { "" } else { "\n" },
        number_of_slices(old.len()),
        counted(rows, "row", "rows"),
        ByteSize(bytes).display().si()
    )
    .expect("writing to memory does not fail");
    text
}

/// The first day before `first_kept` that runs would fetch, if the lake never had it. They do not
/// fetch days again that were removed.
async fn first_day_that_the_lake_never_had(
    config: &Config,
    lake: &Lake,
    first_kept: Date,
) -> Result<Option<Date>, ops::Error> {
    let start = config.window.start.filter(|start| *start < first_kept);
    let Some(start) = start else { return Ok(None) };
    let first = lake.first_day(&Direction::ALL).await?;
    Ok(first.is_none_or(|first| start < first).then_some(start))
}

/// What is left to do. `start`: what `window.start` should be, if runs would fetch days before it.
fn conclusion(config: &Config, report: &RunReport, start: Option<Date>) -> String {
    let mut text = String::new();
    for slice in report.slices.iter().filter(|slice| slice.error.is_some()) {
        let problem = slice.error.as_deref().unwrap_or_default();
        writeln!(text, "failed: {}: {problem}", slice.slice())
            .expect("writing to memory does not fail");
    }
    text.push_str(&hint_for_warehouses(report));
    if let Some(start) = start {
        writeln!(
            text,
            "window.start is before {start}, so runs fetch earlier days that the lake never had. \
             Set it to {start}."
        )
        .expect("writing to memory does not fail");
    }
    let hint = versioning_hint(config);
    if !hint.is_empty() {
        writeln!(text, "{}", hint.trim()).expect("writing to memory does not fail");
    }
    text
}

/// What this program cannot reach.
pub(super) fn versioning_hint(config: &Config) -> &'static str {
    match config.lake.url {
        crate::store::location::Location::Bucket(_) => {
            " If the bucket keeps old versions of objects, they stay until its lifecycle rules \
             remove them."
        }
        crate::store::location::Location::Directory(_) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_calendar_period_and_not_negative() {
        let today = jiff::civil::date(2026, 11, 25);
        for (text, first_kept) in [
            ("18months", "2025-05-25"),
            ("90days", "2026-08-27"),
            ("2 years", "2024-11-25"),
            ("1year 6months", "2025-05-25"),
            ("2weeks", "2026-11-11"),
        ] {
            let age = parse_age(text).unwrap();
            assert_eq!(
                today.checked_sub(age).unwrap().to_string(),
                first_kept,
                "{text}"
            );
        }
        for text in [
            "",
            "18",
            "18 hours",
            "-3months",
            "0days",
            "months",
            "1day 2h",
            "2026-01-01",
        ] {
            assert!(parse_age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_month_that_stays_for_its_last_days_is_named() {
        let before = jiff::civil::date(2026, 10, 15);
        let mut old = Old::default();
        assert_eq!(kept_months(&old, before), "");
        assert_eq!(kept_in_json(&old), None);
        old.kept_with_old_days = Some("2026-10".parse().unwrap());
        assert_eq!(
            kept_months(&old, before),
            "2026-10 stays: slices of this lake are whole months, and its last day, 2026-10-31, is \
             not before 2026-10-15.\n"
        );
        assert_eq!(kept_in_json(&old).as_deref(), Some("2026-10"));
    }
}
