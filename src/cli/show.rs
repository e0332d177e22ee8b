//! `cdrlake show`: everything about a slice.

use clap::Args;
use jiff::Timestamp;

use super::run::OutputArgs;
use super::table::{counted, dollars, signed, thousands};
use super::{CommandError, Exit, LakeArgs, OutputFormat, advice, json_text, print};
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::slice::{Direction, Slice};
use crate::cdr::tally::Counts;
use crate::lake::SliceState;
use crate::lake::ledger::Commit;
use crate::lake::report::SliceOutcome;
use crate::ops::open::existing_lake;
use crate::ops::run::reports::KEPT_DAYS;
use crate::ops::show::{SliceDetails, SliceRun, show};

/// Show all that the lake knows about a slice: request, counts, file, rejects, and its runs.
#[derive(Clone, Debug, Args)]
pub(super) struct ShowArgs {
    /// The day, YYYY-MM-DD; in a lake of months, a day of the month, or YYYY-MM.
    #[arg(value_name = "DAY", value_parser = str::parse::<Period>)]
    period: Period,
    /// Only calls of this direction.
    #[arg(long, value_name = "placed|received", value_parser = str::parse::<Direction>)]
    direction: Option<Direction>,
    #[command(flatten)]
    config: LakeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn execute(args: &ShowArgs) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    let lake = existing_lake(&config, false).await?;
    let unit = lake.identity.period_unit();
    if args.period.unit() == PeriodUnit::Month && unit == PeriodUnit::Day {
        let message = format!(
            "the slices of this lake are days, not months. Name a day, for example {}",
            args.period.first_day()
        );
        return Err(CommandError::new(Exit::Usage, message));
    }
    let period = Period::containing(args.period.first_day(), unit);
    let directions = match args.direction {
        Some(direction) => vec![direction],
        None => config.source.directions.clone(),
    };
    let slices = show(&lake, &config, period, &directions, Timestamp::now()).await?;
    let text = match args.output.format {
        OutputFormat::Json => json_text(&slices),
        OutputFormat::Text => {
            let remark = lake.conversion_remark();
            let remark = remark.map(|remark| format!("{}.\n", advice::on_remark(&remark)));
            let slices = slices.iter().map(render).chain(remark);
            slices.collect::<Vec<_>>().join("\n")
        }
    };
    print(text.as_bytes())
}

/// A paragraph for a slice: a line for each fact, and one for each run.
fn render(details: &SliceDetails) -> String {
    let SliceDetails {
        state,
        damage,
        entry,
        file_is_intact,
        rejects,
        unreadable,
        runs,
    } = details;
    let slice = entry.slice;
    let mut lines = vec![format!("{slice}: {}", describe_state(*state))];
    let mut add = |name: &str, text: String| lines.push(format!("  {name:<9} {text}"));
    if let Some(problem) = damage {
        add("damaged", format!("its ledger entry: {problem}"));
    }
    if let Some(commit) = &entry.committed {
        describe(slice, commit, &mut add);
        if let Some(file) = &commit.file {
            let is_intact = if file_is_intact == &Some(true) {
                ""
            } else {
                ". The lake has another file there, or none: the next run fetches the slice again"
            };
            add(
                "file",
                format!(
                    "{}, {} bytes, {}{is_intact}",
                    file.path,
                    thousands(file.bytes),
                    file.checksum
                ),
            );
        }
    }
    if let Some(pending) = &entry.pending {
        let text = format!("run {} announced it, and has not committed it", pending.run);
        add("pending", text);
    }
    if let Some(failed) = &entry.failed {
        let at = time(failed.at);
        add(
            "failed",
            format!("first at {at} in run {}: {}", failed.run, failed.problem),
        );
    }
    for file in &entry.superseded {
        add("replaced", format!("{} on {}", file.path, time(file.since)));
    }
    for group in rejects {
        let records = counted(group.records, "record", "records");
        let of = if group.of_failed_attempts {
            " of the failed attempt"
        } else {
            ""
        };
        let example = &group.example;
        let text = format!(
            "{}: {records}{of} in {}; the first at {}: {}",
            group.code, example.file, example.place, example.reason
        );
        add("rejected", text);
    }
    for problem in unreadable {
        add("rejected", format!("cannot be read: {problem}"));
    }
    if runs.is_empty() {
        let text = format!("no report of the last {KEPT_DAYS} days names this slice");
        add("runs", text);
    }
    for run in runs {
        add("run", describe_run(slice, run));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// A state, and what a run does about it.
fn describe_state(state: SliceState) -> &'static str {
    match state {
        SliceState::Closed => "closed",
        SliceState::Open => "open: it had not settled when it was fetched, and is fetched again",
        SliceState::Failed => "failed: the lake keeps what it had, and the next run tries again",
        SliceState::Interrupted => "interrupted: the next run fetches it again",
        SliceState::Damaged => "its ledger entry cannot be used",
        SliceState::Missing => "missing: it was never committed",
        SliceState::Pruned => "pruned: it was removed for its age, and is not fetched again",
    }
}

/// Adds the facts of a commit.
fn describe(slice: Slice, commit: &Commit, add: &mut impl FnMut(&str, String)) {
    let Commit { counts, totals, .. } = commit;
    add("rows", rows(counts));
    let total = commit.control_total;
    let total = total.map_or_else(|| "none".to_owned(), thousands);
    add("provider", format!("counts {total}: {}", commit.reconcile));
    let minutes = signed(totals.duration_seconds / 60);
    add(
        "sums",
        format!("{minutes} minutes, {} USD", dollars(totals.charge_usd)),
    );
    let dispositions = totals.by_disposition.iter();
    let dispositions: Vec<String> = dispositions
        .map(|(name, rows)| format!("{name} {}", thousands(*rows)))
        .collect();
    if !dispositions.is_empty() {
        add("outcomes", dispositions.join(", "));
    }
    if slice.period.unit() == PeriodUnit::Month {
        let days = counted(commit.days.len() as u64, "day", "days");
        let through = commit.through.map_or_else(String::new, |through| {
            format!("; asked for up to {through}")
        });
        add("days", format!("calls on {days}{through}"));
    }
    let fetched = time(commit.fetched_at);
    add(
        "fetched",
        format!("{fetched} by run {} ({})", commit.run, commit.tool_version),
    );
    let query = commit.asked.query.iter();
    let query: Vec<String> = query
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    add("asked", format!("{}?{}", commit.asked.url, query.join("&")));
    add("digest", commit.digest.to_string());
}

/// Rows, and what became of the other records.
fn rows(counts: &Counts) -> String {
    let others = [
        (counts.duplicates, "duplicate", "duplicates"),
        (counts.rejected, "rejected", "rejected"),
        (
            counts.suppressed,
            "of an erased number",
            "of erased numbers",
        ),
        (counts.repeated, "repeated", "repeated"),
        (
            counts.conflicts,
            "with the ID of another",
            "with IDs of others",
        ),
        (counts.rounded, "rounded", "rounded"),
        (
            counts.outside_day,
            "outside the period",
            "outside the period",
        ),
        (
            counts.missing_charge,
            "without a charge",
            "without a charge",
        ),
        (
            counts.missing_duration,
            "without a duration",
            "without a duration",
        ),
    ];
    let records = counted(counts.records, "record", "records");
    let rows = format!("{} from {records}", thousands(counts.rows));
    let others = others.iter().filter(|(number, ..)| *number > 0);
    let others = others.map(|(number, one, many)| counted(*number, one, many));
    let parts: Vec<String> = std::iter::once(rows).chain(others).collect();
    parts.join(", ")
}

/// What a run did, in one line.
fn describe_run(slice: Slice, run: &SliceRun) -> String {
    let report = &run.report;
    // Before the lake was converted.
    let day = if report.period == slice.period {
        String::new()
    } else {
        format!(" {}", report.period)
    };
    let result = match (&report.change, &report.error) {
        (_, Some(error)) => error.clone(),
        (Some(change), None) => change.to_string(),
        (None, None) => counted(report.counts.rows, "row", "rows"),
    };
    let attempts = match report.attempts {
        0 | 1 => String::new(),
        attempts => format!(", {attempts} attempts"),
    };
    let outcome = match report.outcome {
        SliceOutcome::Committed => "committed",
        SliceOutcome::Unchanged => "unchanged",
        SliceOutcome::Skipped => "skipped",
        SliceOutcome::Failed => "failed",
    };
    format!("{}{day} {}: {result}{attempts}", run.run, outcome)
}

fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
