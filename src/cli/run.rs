//! `cdrlake run` and `cdrlake plan`.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use jiff::civil::Date;
use object_store::path::Path;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::advice::Rerun;
use super::every::{parse_interval, repeat, tell_service_manager};
use super::progress::Screen;
use super::table::{DayTable, counted, dollars, thousands};
use super::{
    CommandError, Exit, LAKE_STAYS, OutputFormat, PlanConfigArgs, RunConfigArgs, advice,
    interrupted_by_signals, json_text, print,
};
use crate::cdr::slice::{Direction, parse_day};
use crate::config::Config;
use crate::lake::report::{RunOutcome, RunReport, SliceOutcome};
use crate::ops;
use crate::ops::days::{DayRange, Selection, Shard};
use crate::ops::job::{Job, Outcome};
use crate::ops::metrics::MetricsFile;
use crate::ops::plan::{Plan, preview};
use crate::ops::run::{RunResult, Stop};
use crate::source::wavix::Api;
use crate::store::layout::{TABLE, run_report};
use crate::store::location::Location;

/// Most days a run looks back: a century.
const MAX_DAYS: u32 = 36_500;
/// Most due slices and most troubles that a table for people lists.
pub(super) const MAX_LINES: usize = 40;

/// Which days.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Which slices")]
pub(super) struct RangeArgs {
    /// First day, YYYY-MM-DD [default: window.start].
    #[arg(long, value_name = "DAY", value_parser = parse_day, conflicts_with = "last")]
    pub(super) from: Option<Date>,
    /// Last day, inclusive [default: yesterday].
    #[arg(long, value_name = "DAY", value_parser = parse_day, conflicts_with = "last")]
    pub(super) to: Option<Date>,
    /// The last N days, ending with yesterday.
    #[arg(long, value_name = "N", value_parser = parse_days)]
    pub(super) last: Option<u32>,
    /// Only calls of this direction.
    #[arg(long, value_name = "placed|received", value_parser = str::parse::<Direction>)]
    pub(super) direction: Option<Direction>,
}

impl RangeArgs {
    /// The direction asked for, for a command that means the same: ` --direction placed`.
    pub(super) fn direction_flag(&self) -> String {
        let flag = |direction| format!(" --direction {direction}");
        self.direction.map_or_else(String::new, flag)
    }
}

impl From<&RangeArgs> for DayRange {
    fn from(args: &RangeArgs) -> Self {
        Self {
            from: args.from,
            to: args.to,
            last_days: args.last,
            direction: args.direction,
        }
    }
}

/// Which slices.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Which slices")]
struct SelectionArgs {
    #[command(flatten)]
    range: RangeArgs,
    /// Include today so far; its slices stay open and are fetched again.
    #[arg(long)]
    include_today: bool,
    /// Fetch every slice in the range again, including complete ones.
    #[arg(long)]
    refresh: bool,
    /// Process only share K of N, to split the slices among N machines: 1/4 … 4/4.
    #[arg(long, value_name = "K/N", value_parser = str::parse::<Shard>)]
    shard: Option<Shard>,
}

impl From<&SelectionArgs> for Selection {
    fn from(args: &SelectionArgs) -> Self {
        let range = &args.range;
        Self {
            from: range.from,
            to: range.to,
            last_days: range.last,
            include_today: args.include_today,
            refresh: args.refresh,
            direction: range.direction,
            shard: args.shard,
        }
    }
}

fn parse_days(text: &str) -> Result<u32, String> {
    let days = text
        .parse()
        .ok()
        .filter(|days| (1..=MAX_DAYS).contains(days));
    days.ok_or_else(|| {
        let most = thousands(MAX_DAYS.into());
        format!("`{text}` is not a number of days: write one from 1 to {most}")
    })
}

/// How the result is printed.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Result")]
pub(super) struct OutputArgs {
    /// Format of the result on standard output.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(super) format: OutputFormat,
}

/// Bring the lake up to date.
#[derive(Clone, Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    config: RunConfigArgs,
    /// Show what would be done and why, without doing it.
    #[arg(long, help_heading = "Which slices")]
    dry_run: bool,
    /// Run again and again, once in this time, until a signal: 15m, 1h.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = parse_interval,
        conflicts_with_all = ["dry_run", "refresh"]
    )]
    every: Option<Duration>,
    #[command(flatten)]
    result: ResultArgs,
}

/// Which results are good, and how they are printed.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Result")]
pub(super) struct ResultArgs {
    /// Accept a slice that has fewer rows than the lake has.
    #[arg(long)]
    pub(super) allow_shrink: bool,
    /// Exit with status 3 if there were warnings.
    #[arg(long)]
    pub(super) strict: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

impl ResultArgs {
    /// Prints what became of a plan.
    pub(super) fn print(
        &self,
        rerun: &Rerun,
        mut outcome: Outcome,
        screen: &Screen,
    ) -> Result<Exit, CommandError> {
        advice::on_run(&mut outcome.run.report, rerun);
        advice::on_remarks(&mut outcome.run);
        let text = match self.output.format {
            OutputFormat::Json => json_text(&outcome.run.report),
            OutputFormat::Text => render_report(&rerun.root, &outcome.plan, &outcome.run),
        };
        print(text.as_bytes())?;
        Ok(exit_of(&outcome.run, self.strict, screen))
    }
}

/// Show what `run` would do, and why.
#[derive(Clone, Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    config: PlanConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn plan(args: &PlanArgs) -> Result<Exit, CommandError> {
    print_plan(&args.config.load()?, &args.selection, args.output.format).await
}

async fn print_plan(
    config: &Config,
    selection: &SelectionArgs,
    format: OutputFormat,
) -> Result<Exit, CommandError> {
    let selection = Selection::from(selection);
    warn_of_cut(config, &selection);
    let preview = preview(config, &selection, Timestamp::now()).await?;
    for remark in preview.remarks {
        tracing::warn!("{}", advice::on_remark(&remark));
    }
    let mut text = render_plan(&preview.plan, format);
    if preview.is_new_lake && format == OutputFormat::Text {
        let place = &config.lake.url;
        writeln!(
            text,
            "There is no lake at {place} yet: a run would create it."
        )
        .expect("writing to memory does not fail");
    }
    print(text.as_bytes())
}

/// Warns that the last selected days are left out because they have not ended.
pub(super) fn warn_of_cut(config: &Config, selection: &Selection) {
    if let (Some(to), Ok(days)) = (
        selection.to,
        selection.days(&config.window, Timestamp::now()),
    ) && to > *days.end()
    {
        tracing::warn!(
            "The last day is {}, not {to}: later days have not ended. --include-today adds today.",
            days.end()
        );
    }
}

pub(super) fn render_plan(plan: &Plan, format: OutputFormat) -> String {
    if format == OutputFormat::Json {
        let due = plan.due.iter().map(|due| {
            json!({
                "direction": due.slice.direction,
                (due.slice.period.unit().as_str()): due.slice.period.to_string(),
                "why": due.why.to_string(),
            })
        });
        let plan = json!({
            "from": plan.days.start(),
            "to": plan.days.end(),
            "up_to_date": plan.up_to_date,
            "due": due.collect::<Vec<_>>(),
        });
        return json_text(&plan);
    }
    let mut text = String::new();
    for due in plan.due.iter().take(MAX_LINES) {
        writeln!(
            text,
            "{:<10}  {:<9} {}",
            due.slice.period.to_string(),
            due.slice.direction,
            due.why
        )
        .expect("writing to memory does not fail");
    }
    if plan.due.len() > MAX_LINES {
        writeln!(
            text,
            "… and {} more (--format json lists them all)",
            plan.due.len() - MAX_LINES
        )
        .expect("writing to memory does not fail");
    }
    writeln!(
        text,
        "{} due, {} up to date, from {} to {}",
        slices(plan.due.len()),
        plan.up_to_date,
        plan.days.start(),
        plan.days.end()
    )
    .expect("writing to memory does not fail");
    text
}

pub(super) fn slices(number: usize) -> String {
    counted(number as u64, "slice", "slices")
}

pub(super) async fn execute(args: RunArgs, screen: &Screen) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    if args.dry_run {
        return print_plan(&config, &args.selection, args.result.output.format).await;
    }
    let metrics = MetricsFile::of(&config);
    if let Some(file) = &metrics {
        file.check().map_err(ops::Error::from)?;
    }
    let interrupt = interrupted_by_signals(LAKE_STAYS)?;
    let once = || run_once(&args, &config, metrics.as_ref(), &interrupt, screen);
    match args.every {
        None => once().await,
        Some(every) => {
            tell_service_manager(&interrupt);
            repeat(every, &interrupt, once, |error| screen.print_error(error)).await
        }
    }
}

/// One run, with its metrics and its report.
async fn run_once(
    args: &RunArgs,
    config: &Config,
    metrics: Option<&MetricsFile>,
    interrupt: &CancellationToken,
    screen: &Screen,
) -> Result<Exit, CommandError> {
    let rerun = args
        .config
        .rerun(&config.lake.url, args.result.allow_shrink);
    let begun_at = Timestamp::now();
    let done = fetch(args, config, &rerun, interrupt, screen).await;
    let written = match metrics {
        Some(file) => file.write(config, begun_at, done.as_ref().ok()).await,
        None => Ok(()),
    };
    let exit = done.and_then(|outcome| args.result.print(&rerun, outcome, screen));
    let Err(error) = written else { return exit };
    screen.print_error(&CommandError::from(error).message);
    exit.map(|exit| match exit {
        Exit::Success | Exit::Warnings => Exit::Failed,
        exit => exit,
    })
}

/// The run itself. The key is fetched anew each time: it may have been replaced.
async fn fetch(
    args: &RunArgs,
    config: &Config,
    rerun: &Rerun,
    interrupt: &CancellationToken,
    screen: &Screen,
) -> Result<Outcome, CommandError> {
    let source = Api::try_new(&config.source, Some(config.api_key()?))?;
    let selection = Selection::from(&args.selection);
    warn_of_cut(config, &selection);
    let job = Job::new(config.clone(), Arc::new(source))
        .with_selection(selection)
        .with_allow_shrink(args.result.allow_shrink)
        .with_observer(screen.observer(rerun))
        .with_interrupt(interrupt.clone());
    Ok(job.run().await?)
}

/// The exit status of a run, with a last sentence on standard error where a person has to act.
pub(super) fn exit_of(result: &RunResult, strict: bool, screen: &Screen) -> Exit {
    match &result.stopped_by {
        Some(Stop::Interrupted) => return Exit::Interrupted,
        Some(Stop::KeyRefused(why)) => {
            screen.print_error(why);
            let nothing_done = result.report.outcome == RunOutcome::Failed;
            return if nothing_done {
                Exit::Usage
            } else {
                Exit::Failed
            };
        }
        Some(Stop::NoSource(why) | Stop::NoLake(why)) => {
            screen.print_error(&format!("the run was stopped: {why}"));
        }
        Some(Stop::NoLog(why)) => {
            screen.print_error(&format!(
                "the ledger has the committed slices, but a log, or its catalog, lacks them: {why}"
            ));
            if result.report.outcome == RunOutcome::Committed {
                return Exit::Failed;
            }
        }
        None => {}
    }
    match result.report.outcome {
        RunOutcome::Committed if strict && !result.report.warnings.is_empty() => Exit::Warnings,
        RunOutcome::Committed => Exit::Success,
        RunOutcome::Interrupted => Exit::Interrupted,
        RunOutcome::Partial | RunOutcome::Failed => Exit::Failed,
    }
}

fn render_report(root: &Location, plan: &Plan, run: &RunResult) -> String {
    let report = &run.report;
    let mut table = DayTable::default();
    for slice in &report.slices {
        if matches!(
            slice.outcome,
            SliceOutcome::Committed | SliceOutcome::Unchanged
        ) {
            table.add(
                slice.period,
                slice.direction,
                slice.counts.rows,
                &slice.totals,
                slice.state,
            );
        }
    }
    let mut text = String::new();
    if !table.is_empty() {
        text.push_str(&table.render());
        text.push('\n');
    }
    for line in troubles(report).into_iter().chain(summary(plan, report)) {
        text.push_str(&line);
        text.push('\n');
    }
    let places = [
        (!table.is_empty()).then(|| format!("table {}", root.of(&Path::from(TABLE)))),
        run.is_kept
            .then(|| format!("report {}", root.of(&run_report(&report.run)))),
    ];
    let places: Vec<String> = places.into_iter().flatten().collect();
    if let Some(remark) = &plan.small_files {
        writeln!(text, "{}.", advice::on_remark(remark)).expect("writing to memory does not fail");
    }
    if !places.is_empty() {
        writeln!(text, "{}", places.join(" · ")).expect("writing to memory does not fail");
    }
    text
}

/// What failed, what changed, and what a person should look at.
fn troubles(report: &RunReport) -> Vec<String> {
    let failed = report
        .slices
        .iter()
        .filter(|slice| slice.outcome == SliceOutcome::Failed);
    let failed = failed.map(|slice| {
        format!(
            "failed   {}: {}",
            slice.slice(),
            slice.error.as_deref().unwrap_or_default()
        )
    });
    let warnings = report
        .warnings
        .iter()
        .map(|warning| format!("warning  {warning}"));
    let changes = report.slices.iter().filter_map(|slice| {
        let change = slice.change.as_ref()?;
        Some(format!("changed  {}: {change}", slice.slice()))
    });
    let mut lines: Vec<String> = failed.chain(warnings).chain(changes).collect();
    if lines.len() > MAX_LINES {
        let hidden = lines.len() - MAX_LINES;
        lines.truncate(MAX_LINES);
        lines.push(format!("… and {hidden} more, all in the run report"));
    }
    lines
}

/// The run in two sentences.
fn summary(plan: &Plan, report: &RunReport) -> Vec<String> {
    if plan.due.is_empty() {
        let (from, to) = (plan.days.start(), plan.days.end());
        let all = match plan.up_to_date {
            1 => format!("the slice of {from} is"),
            slices => format!("all {} slices from {from} to {to} are", thousands(slices)),
        };
        return vec![format!("Nothing to do: {all} up to date.")];
    }
    let of = |outcome| {
        report
            .slices
            .iter()
            .filter(move |slice| slice.outcome == outcome)
    };
    let by_others = of(SliceOutcome::Skipped)
        .filter(|slice| slice.state.is_some())
        .count();
    let skipped = of(SliceOutcome::Skipped).count() - by_others;
    let by_others = if by_others > 0 {
        format!(", {by_others} done by another run")
    } else {
        String::new()
    };
    let counts = &report.totals.counts;
    let redacted = match counts.redacted {
        0 => String::new(),
        redacted => format!(", {} with a credential redacted", thousands(redacted)),
    };
    let suppressed = match counts.suppressed {
        0 => String::new(),
        suppressed => format!(", {} suppressed (erased number)", thousands(suppressed)),
    };
    let rounded = match counts.rounded {
        0 => String::new(),
        rounded => format!(", {} rounded (exact values in extra)", thousands(rounded)),
    };
    let ambiguous = match counts.ambiguous_times {
        0 => String::new(),
        times => format!(", {} with an ambiguous local time", thousands(times)),
    };
    let interrupted = if report.outcome == RunOutcome::Interrupted {
        "Interrupted: run again for the rest. "
    } else {
        ""
    };
    vec![
        format!(
            "{interrupted}{} committed, {} unchanged, {} failed, {skipped} skipped{by_others}; {} \
             up to date.",
            slices(of(SliceOutcome::Committed).count()),
            of(SliceOutcome::Unchanged).count(),
            of(SliceOutcome::Failed).count(),
            counted(plan.up_to_date, "was", "were")
        ),
        format!(
            "{} in {}, {} USD; {}, {} rejected{suppressed}{redacted}{rounded}{ambiguous}.",
            counted(counts.rows, "call", "calls"),
            counted(counts.records, "record", "records"),
            dollars(report.totals.totals.charge_usd),
            counted(counts.duplicates, "duplicate", "duplicates"),
            thousands(counts.rejected)
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdr::slice::Slice;
    use crate::lake::report::SliceReport;
    use crate::ops::plan::{Due, DueReason};

    #[test]
    fn a_plan_lists_due_slices_with_their_reasons() {
        let day = parse_day("2026-10-01").unwrap();
        let due = vec![Due {
            slice: Slice::of_day(day, Direction::Placed),
            why: DueReason::Missing,
            committed_token: None,
            committed_fetched_at: None,
            has_nothing: false,
        }];
        let plan = Plan {
            days: day..=day,
            directions: vec![Direction::Placed],
            due,
            up_to_date: 1,
            foreign: Vec::new(),
            replaced: std::collections::BTreeSet::new(),
            small_files: None,
        };
        assert_eq!(
            render_plan(&plan, OutputFormat::Text),
            "2026-10-01  placed    missing\n1 slice due, 1 up to date, from 2026-10-01 to \
             2026-10-01\n"
        );
        let json: serde_json::Value =
            serde_json::from_str(&render_plan(&plan, OutputFormat::Json)).unwrap();
        assert_eq!(json["due"][0]["why"], "missing");
    }

    fn plan_of(due: Vec<Due>, up_to_date: u64) -> Plan {
        let day = parse_day("2026-10-01").unwrap();
        Plan {
            days: day..=day,
            directions: vec![Direction::Placed],
            due,
            up_to_date,
            foreign: Vec::new(),
            replaced: std::collections::BTreeSet::new(),
            small_files: None,
        }
    }

    fn placed(day: &str) -> Slice {
        Slice::of_day(parse_day(day).unwrap(), Direction::Placed)
    }

    /// A run that did these slices, as it is shown.
    fn shown(plan: &Plan, slices: Vec<SliceReport>, interrupted: bool) -> String {
        let now = Timestamp::UNIX_EPOCH;
        let report = RunReport::new("r".to_owned(), now, slices, interrupted, Vec::new());
        let run = RunResult {
            report,
            is_kept: false,
            remarks: Vec::new(),
            stopped_by: None,
        };
        render_report(&"./lake".parse().unwrap(), plan, &run)
    }

    #[test]
    fn a_run_without_work_reports_how_many_slices_are_up_to_date() {
        assert_eq!(
            shown(&plan_of(Vec::new(), 1), Vec::new(), false),
            "Nothing to do: the slice of 2026-10-01 is up to date.\n"
        );
        assert_eq!(
            shown(&plan_of(Vec::new(), 1_002), Vec::new(), false),
            "Nothing to do: all 1,002 slices from 2026-10-01 to 2026-10-01 are up to date.\n"
        );
    }

    #[test]
    fn a_run_is_shown_with_its_problems_first_and_its_sums_last() {
        let slice = placed("2026-10-01");
        let due = vec![Due::new(slice, DueReason::Missing, None)];
        let mut committed = SliceReport::new(slice, SliceOutcome::Committed);
        (committed.counts.rows, committed.counts.records) = (2, 3);
        (committed.counts.rejected, committed.counts.suppressed) = (1, 0);
        let failed = SliceReport {
            error: Some("it broke".to_owned()),
            ..SliceReport::new(placed("2026-10-02"), SliceOutcome::Failed)
        };
        let skipped = SliceReport::new(placed("2026-10-03"), SliceOutcome::Skipped);
        let text = shown(&plan_of(due, 5), vec![committed, failed, skipped], true);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("day "), "{text}");
        let end = &lines[4..];
        assert_eq!(
            end,
            [
                "failed   placed 2026-10-02: it broke",
                "Interrupted: run again for the rest. 1 slice committed, 0 unchanged, 1 failed, 1 \
                 skipped; 5 were up to date.",
                "2 calls in 3 records, 0.00 USD; 0 duplicates, 1 rejected.",
                "table ./lake/cdrs",
            ],
            "{text}"
        );
    }

    #[test]
    fn only_the_first_of_many_problems_are_shown_and_the_others_are_counted() {
        let day = parse_day("2026-10-01").unwrap();
        let slices = std::iter::successors(Some(day), |day| day.tomorrow().ok());
        let slices = slices.take(MAX_LINES + 2).map(|day| SliceReport {
            error: Some("it broke".to_owned()),
            ..SliceReport::new(placed(&day.to_string()), SliceOutcome::Failed)
        });
        let due = vec![Due::new(placed("2026-10-01"), DueReason::Missing, None)];
        let text = shown(&plan_of(due, 0), slices.collect(), false);
        let failed = text.lines().filter(|line| line.starts_with("failed"));
        assert_eq!(failed.count(), MAX_LINES, "{text}");
        assert!(
            text.contains("… and 2 more, all in the run report"),
            "{text}"
        );
    }

    #[test]
    fn months_are_listed_in_aligned_columns_and_summed_by_month() {
        let month: Slice = "placed 2026-10".parse().unwrap();
        let plan = Plan {
            days: parse_day("2026-10-05").unwrap()..=parse_day("2026-10-20").unwrap(),
            ..plan_of(vec![Due::new(month, DueReason::Open, None)], 0)
        };
        assert_eq!(
            render_plan(&plan, OutputFormat::Text),
            "2026-10     placed    open: fetched before it had settled\n1 slice due, 0 up to date, \
             from 2026-10-05 to 2026-10-20\n"
        );
        let json = render_plan(&plan, OutputFormat::Json);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["due"][0]["month"], "2026-10");
        let mut committed = SliceReport::new(month, SliceOutcome::Committed);
        committed.counts.rows = 1_234;
        committed.state = Some(crate::lake::ledger::State::Open);
        let text = shown(&plan, vec![committed], false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("month          placed "), "{text}");
        assert!(lines[1].starts_with("2026-10         1,234 "), "{text}");
        assert!(lines[1].ends_with(" open"), "{text}");
        assert!(lines[2].starts_with("total           1,234 "), "{text}");
        assert!(
            lines[3].starts_with("open: the month had not settled"),
            "{text}"
        );
    }

    #[test]
    fn a_run_in_a_lake_of_many_small_files_names_the_command_that_merges_them() {
        let remark = crate::lake::report::RemarkKind::SmallFiles;
        let remark = remark.remark("900 files".to_owned());
        let plan = Plan {
            small_files: Some(remark),
            ..plan_of(Vec::new(), 900)
        };
        let text = shown(&plan, Vec::new(), false);
        let last = "900 files. `cdrlake convert --slice month` merges them.\n";
        assert!(text.ends_with(last), "{text}");
    }
}
