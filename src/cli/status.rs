//! `cdrlake status`: the lake by day.

use std::fmt::Write;

use anstyle::Style;
use clap::Args;
use jiff::Timestamp;

use super::run::{MAX_LINES, OutputArgs, RangeArgs};
use super::table::{DayTable, counted, describe_open};
use super::terminal::{BAD, Look, OPEN};
use super::{CommandError, Exit, LakeArgs, OutputFormat, advice, json_text, print};
use crate::ops::days::DayRange;
use crate::ops::open::existing_lake;
use crate::ops::plan::unsynced_remark;
use crate::ops::status::{LakeStatus, TODAY};

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
            let remarks = remarks.map(|remark| format!("{}.", advice::on_remark(&remark)));
            let look = Look::of_stdout();
            let remarks = remarks.map(|remark| look.paragraph(Some(OPEN), &remark));
            render(&status, look) + &remarks.collect::<String>()
        }
    };
    print(text.as_bytes())
}

fn render(status: &LakeStatus, look: Look) -> String {
    let mut table = DayTable::with_quality(status.slice);
    for day in &status.days {
        table.add_status(day);
    }
    let (mut text, left_out) = table.render_in(look);
    let of_months = status.months.iter().flat_map(|month| {
        let remarks = month.remarks.iter();
        remarks.map(|remark| (OPEN, format!("{}: {remark}", month.month)))
    });
    let problems = status.slices().filter_map(|(slice, status)| {
        let problem = status.problem.as_ref()?;
        Some((BAD, format!("{slice}: {problem}")))
    });
    let problems: Vec<(Style, String)> = of_months.chain(problems).collect();
    if !problems.is_empty() {
        text.push('\n');
        let shown = problems.iter().take(MAX_LINES);
        text.extend(shown.map(|(style, problem)| look.paragraph(Some(*style), problem)));
        if problems.len() > MAX_LINES {
            let hidden = problems.len() - MAX_LINES;
            writeln!(text, "… and {hidden} more (--format json lists them all)")
                .expect("writing to memory does not fail");
        }
    }
    text.push('\n');
    text.push_str(&look.paragraph(None, &summary(status)));
    match look.width {
        None => {
            let columns = COLUMNS.map(|(name, meaning)| format!("{name}: {meaning}."));
            text.push_str(&(columns.join(" ") + "\n"));
        }
        Some(_) => {
            let items = legend(status, text.contains('█'), &left_out).into_iter();
            text.extend(items.map(|item| look.paragraph(None, &(item + "."))));
        }
    }
    if !status.tables.is_empty() {
        let names: Vec<String> = status.tables.iter().map(ToString::to_string).collect();
        text.push_str(&look.paragraph(None, &format!("Table formats: {}.", names.join(", "))));
    }
    if status.interrupted > 0 && look.width.is_none() {
        writeln!(text, "interrupted: {INTERRUPTED}.").expect("writing to memory does not fail");
    }
    text
}

/// The slices by their state, and when one was fetched last.
fn summary(status: &LakeStatus) -> String {
    let LakeStatus {
        closed,
        open,
        failed,
        interrupted,
        damaged,
        missing,
        pruned,
        ..
    } = status;
    let last = status.slices().filter_map(|(_, slice)| slice.fetched_at);
    let last = last.max().map_or_else(
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
    format!(
        "{} closed, {open} open, {failed} failed, {interrupted} interrupted, {damaged} with a \
         damaged ledger entry, {missing} missing{pruned}; {last}.",
        counted(*closed, "slice", "slices")
    )
}

/// The columns that need an explanation.
const COLUMNS: [(&str, &str); 3] = [
    ("ASR", "share of answered calls"),
    ("ACD", "average duration of answered calls"),
    (
        "fetched",
        "the recorded fetch, UTC; a later one that found no change is not recorded",
    ),
];
const INTERRUPTED: &str = "a run ended while it published the slice; the next run fetches it again";

/// The words of remarks, and what they mean, as far as it is the same in every lake.
const WORDS: [(&str, &str); 11] = [
    ("missing", "never fetched; the next run fetches it"),
    (
        "failed",
        "the last attempt failed; the next run tries it again",
    ),
    (
        "ledger entry damaged",
        "it cannot be read; the next run fetches the slice again",
    ),
    ("interrupted", INTERRUPTED),
    (
        TODAY,
        "the day has not ended; a run that includes today fetches it again",
    ),
    ("pruned", "removed for its age"),
    ("without calls", "fetched, and the provider had none"),
    (
        "unusual",
        "twice or half as many calls as on this weekday in the four weeks before",
    ),
    (
        "count mismatch",
        "the provider counts another number of calls",
    ),
    (
        "only with duplicates",
        "the provider counts calls that cdrlake dropped as equal",
    ),
    (
        "rejected",
        "records that could not become a row; cdrlake rejects lists them",
    ),
];

/// What the marks, columns and words mean that are shown.
fn legend(status: &LakeStatus, has_bars: bool, left_out: &[&str]) -> Vec<String> {
    let of_days = status.days.iter().flat_map(|day| &day.remarks);
    let of_months = status.months.iter().flat_map(|month| &month.remarks);
    let remarks: Vec<&String> = of_days.chain(of_months).collect();
    let is_shown = |word: &str| remarks.iter().any(|remark| remark.contains(word));
    let mut items = Vec::new();
    if has_bars {
        items.push("█: calls, among those of the busiest day".to_owned());
    }
    let columns = COLUMNS.into_iter();
    let columns = columns.filter(|(name, _)| !left_out.contains(name));
    items.extend(columns.map(|(name, meaning)| format!("{name}: {meaning}")));
    if remarks.iter().any(|remark| remark.ends_with(" open")) {
        items.push(format!("open: {}", describe_open(status.slice)));
    }
    let words = WORDS.into_iter().filter(|(word, _)| is_shown(word));
    items.extend(words.map(|(word, meaning)| format!("{word}: {meaning}")));
    if !left_out.is_empty() {
        let names = left_out.join(", ");
        items.push(format!(
            "No room for {names}: use a wider terminal, or --format json"
        ));
    }
    items
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
            render(
                &LakeStatus::new(
                    slice.period.unit(),
                    &entries,
                    &[Direction::Placed],
                    days,
                    date(2026, 10, 9),
                ),
                Look::default(),
            )
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
        let today = date(2026, 10, 10);
        let status = LakeStatus::new(unit, &entries, &[Direction::Placed], days, today);
        let text = render(&status, Look::default());
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

    #[test]
    fn a_terminal_has_a_legend_of_the_words_that_are_shown_and_names_what_is_left_out() {
        let day: Slice = "placed 2026-10-01".parse().unwrap();
        let mut entry = LedgerEntry::absent(day);
        let mut commit = crate::lake::ledger::tests::commit(None, State::Open);
        (commit.counts.records, commit.counts.rows) = (10, 9);
        commit.counts.rejected = 1;
        entry.entry.committed = Some(commit);
        let entries = HashMap::from([(day, entry)]);
        let days = date(2026, 10, 1)..=date(2026, 10, 2);
        let status = LakeStatus::new(
            PeriodUnit::Day,
            &entries,
            &[Direction::Placed],
            days,
            date(2026, 10, 3),
        );
        let on = |width| {
            let width = Some(width);
            render(
                &status,
                Look {
                    width,
                    colours: false,
                },
            )
        };
        let wide = on(100);
        for word in ["█:", "open:", "missing:", "rejected:"] {
            assert_eq!(wide.matches(&format!("\n{word} ")).count(), 1, "{wide}");
        }
        for word in ["failed:", "unusual:", "pruned:", "No room"] {
            assert!(!wide.contains(&format!("\n{word}")), "{wide}");
        }
        let narrow = on(44);
        assert!(narrow.contains("\nNo room for fetched"), "{narrow}");
        for left_out in ["█", "fetched:"] {
            assert!(!narrow.contains(left_out), "{narrow}");
        }
        assert!(
            narrow.lines().all(|line| line.chars().count() <= 44),
            "{narrow}"
        );
        let plain = render(&status, Look::default());
        assert!(!plain.contains("missing:"), "{plain}");
    }
}
