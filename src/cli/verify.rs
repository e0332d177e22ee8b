//! `cdrlake verify`: the lake read again and checked against its ledger.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use serde::Serialize;

use super::progress::Screen;
use super::run::{MAX_LINES, OutputArgs, RangeArgs, slices as number_of_slices};
use super::table::thousands;
use super::{
    CommandError, ConfigArgs, Exit, OutputFormat, existing_lake, interrupted_by_signals, json_text,
    open_lake, print,
};
use crate::config::Config;
use crate::lake::Lake;
use crate::pipeline::{self, RunOptions, Stop};
use crate::plan::{Due, Why};
use crate::report::{RunReport, SliceReport};
use crate::slice::{Direction, Slice};
use crate::source::Source;
use crate::verify::{self, Fault, Finding, Mend, Scope, VerifyReport};

/// Read the lake again and check it against its ledger.
#[derive(Clone, Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    range: RangeArgs,
    /// Only calls of this direction.
    #[arg(long, value_name = "placed|received", value_parser = str::parse::<Direction>, help_heading = "Which slices")]
    direction: Option<Direction>,
    /// Ask the provider for its counts again too.
    #[arg(long, help_heading = "What to do")]
    source: bool,
    /// Fetch again what is wrong, and remove what belongs to no slice.
    #[arg(long, help_heading = "What to do")]
    repair: bool,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What was found, and what was done about it.
#[derive(Debug, Serialize)]
struct Verified {
    #[serde(flatten)]
    found: VerifyReport,
    /// `null` without `--repair`, or if there was nothing to repair.
    repair: Option<Repair>,
}

#[derive(Debug, Default, Serialize)]
struct Repair {
    /// Files that belonged to no slice, and are gone now.
    removed: Vec<String>,
    /// The run that fetched slices again, if any were to be.
    run: Option<RunReport>,
    /// What is still not as it should be.
    remaining: Vec<Finding>,
}

pub(super) async fn execute(args: VerifyArgs, screen: &Screen) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    let source = if args.source || args.repair {
        Some(Source::try_new(&config.source, config.api_key()?)?)
    } else {
        None
    };
    // Whose calls a lake holds does not matter to who only looks.
    let lake = existing_lake(&config, source.is_some()).await?;
    let scope = scope(&config, &args);
    let asked = source.as_ref().filter(|_| args.source);
    let found = examine(&lake, &config, &scope, asked, screen).await?;
    let mut verified = Verified {
        found,
        repair: None,
    };
    let mut exit = Exit::Success;
    if let Some(source) = source
        && args.repair
        && !verified.found.findings.is_empty()
    {
        let (repair, stopped) = repair(&config, source, &verified.found, screen).await?;
        if stopped == Some(Stop::Interrupted) {
            exit = Exit::Interrupted;
        }
        verified.repair = Some(repair);
    }
    let remaining = match &verified.repair {
        Some(repair) => &repair.remaining,
        None => &verified.found.findings,
    };
    if exit == Exit::Success && !remaining.is_empty() {
        exit = Exit::Failed;
    }
    let text = match args.output.format {
        OutputFormat::Json => json_text(&verified),
        OutputFormat::Text => render(&verified, &repair_command(&args)),
    };
    print(text.as_bytes())?;
    Ok(exit)
}

/// The command that repairs everything that this one finds.
fn repair_command(args: &VerifyArgs) -> String {
    let mut command = "cdrlake verify --repair".to_owned();
    let days = [("--from", args.range.from), ("--to", args.range.to)];
    for (flag, day) in days {
        if let Some(day) = day {
            command = format!("{command} {flag} {day}");
        }
    }
    if let Some(last) = args.range.last {
        command = format!("{command} --last {last}");
    }
    if let Some(direction) = args.direction {
        command = format!("{command} --direction {direction}");
    }
    if args.source {
        command.push_str(" --source");
    }
    command
}

fn scope(config: &Config, args: &VerifyArgs) -> Scope {
    let mut scope = Scope::default();
    if let Some(direction) = args.direction {
        scope.directions = vec![direction];
    }
    scope.days = args.range.days(config);
    scope
}

async fn examine(
    lake: &Lake,
    config: &Config,
    scope: &Scope,
    source: Option<&Source>,
    screen: &Screen,
) -> Result<VerifyReport, CommandError> {
    let slices = verify::slices(lake, scope).await?;
    let bar = screen.bar(slices.len());
    let mut report = verify::verify_slices(lake, &slices, &|| bar.inc(1)).await?;
    if let Some(source) = source {
        report
            .findings
            .extend(ask_provider(lake, config, source, &slices, &report).await?);
        report.findings.sort_by_key(|finding| finding.slice);
    }
    report.findings.extend(verify::find_strays(lake).await?);
    bar.finish_and_clear();
    Ok(report)
}

/// Asks the provider for its count of every slice that is good so far.
async fn ask_provider(
    lake: &Lake,
    config: &Config,
    source: &Source,
    slices: &BTreeSet<Slice>,
    report: &VerifyReport,
) -> Result<Vec<Finding>, CommandError> {
    let mut good = slices.clone();
    for slice in report.to_fetch().iter().chain(&report.in_progress) {
        good.remove(slice);
    }
    let commits = verify::commits(lake, &good).await?;
    let questions = stream::iter(commits).map(async |(slice, commit)| {
        let total = source.control_total_with_retries(slice).await?;
        Ok::<_, CommandError>(verify::compare_total(slice, &commit, total))
    });
    let answers: Vec<Option<Finding>> = questions
        .buffer_unordered(config.source.requests)
        .try_collect()
        .await?;
    Ok(answers.into_iter().flatten().collect())
}

async fn repair(
    config: &Config,
    source: Source,
    found: &VerifyReport,
    screen: &Screen,
) -> Result<(Repair, Option<Stop>), CommandError> {
    let interrupt = interrupted_by_signals()?;
    // Opening it for writing removes what dead runs left.
    let lake = open_lake(config).await?;
    let mut repair = Repair::default();
    for finding in &found.findings {
        if finding.mend() == Mend::Remove {
            if finding.fault == Fault::Foreign {
                let path =
                    Path::parse(&finding.path).unwrap_or_else(|_| Path::from(&*finding.path));
                lake.remove_foreign(&path).await?;
            }
            repair.removed.push(finding.path.clone());
        }
    }
    let slices = found.to_fetch();
    let mut stopped_by = None;
    if !slices.is_empty() {
        let mut due = Vec::new();
        for &slice in &slices {
            let committed = lake.entry(slice).await?.entry.committed;
            due.push(Due {
                slice,
                why: Why::Damaged,
                committed_token: committed.map(|commit| commit.token),
            });
        }
        let observer = screen.observe(due.len());
        let result = pipeline::run(
            Arc::new(config.clone()),
            lake.clone(),
            source,
            due,
            RunOptions::default(),
            Arc::clone(&observer) as _,
            interrupt,
        )
        .await;
        observer.finish();
        repair.run = Some(result.report);
        stopped_by = result.stopped_by;
    }
    let concerned = found.findings.iter().filter_map(|finding| finding.slice);
    let again = verify::verify_slices(&lake, &concerned.collect(), &|| {}).await?;
    repair.remaining = again.findings;
    // The provider's count was wrong in a slice that is good otherwise: only the run can tell.
    let undone: BTreeSet<Slice> = repair
        .run
        .iter()
        .flat_map(|run| &run.slices)
        .filter(|slice| slice.state.is_none())
        .map(SliceReport::slice)
        .collect();
    let miscounted = found.findings.iter().filter(|finding| {
        finding.fault == Fault::ControlTotal
            && finding.slice.is_some_and(|slice| undone.contains(&slice))
    });
    repair.remaining.extend(miscounted.cloned());
    repair.remaining.extend(verify::find_strays(&lake).await?);
    Ok((repair, stopped_by))
}

fn render(verified: &Verified, repair_command: &str) -> String {
    let Verified { found, repair } = verified;
    let mut text = findings(&found.findings);
    if !found.findings.is_empty() && repair.is_none() {
        text.push_str("\nTo mend:\n");
        let mut commands: Vec<String> = Vec::new();
        for finding in &found.findings {
            let command = match finding.mend() {
                Mend::Fetch(Slice { day, direction }) => {
                    format!("cdrlake run --from {day} --to {day} --direction {direction} --refresh")
                }
                Mend::Remove => "cdrlake verify --repair".to_owned(),
                Mend::UseNewer => continue,
            };
            if !commands.contains(&command) {
                commands.push(command);
            }
        }
        for command in commands.iter().take(MAX_LINES) {
            push_line(&mut text, &format!("  {command}"));
        }
        push_line(
            &mut text,
            &format!("or all of it: {repair_command}, with the other flags of this command.\n"),
        );
    }
    if let Some(repair) = repair {
        let run = repair.run.iter().flat_map(|run| &run.slices);
        let (done, undone): (Vec<_>, Vec<_>) = run.partition(|slice| slice.state.is_some());
        push_line(
            &mut text,
            &format!(
                "\nRepaired: {} fetched again, {} removed.",
                number_of_slices(done.len()),
                files(repair.removed.len())
            ),
        );
        for slice in undone {
            let error = slice.error.as_deref().unwrap_or_default();
            push_line(&mut text, &format!("failed   {}: {error}", slice.slice()));
        }
        if !repair.remaining.is_empty() {
            text.push_str("Still not as it should be:\n");
            text.push_str(&findings(&repair.remaining));
        }
    }
    if !found.in_progress.is_empty() {
        let slices: Vec<String> = found.in_progress.iter().map(Slice::to_string).collect();
        push_line(
            &mut text,
            &format!(
                "Not judged, for another run works on them: {}. Verify them again later.",
                slices.join(", ")
            ),
        );
    }
    let verdict = match (found.findings.len(), repair) {
        (0, _) => "everything is as the ledger says".to_owned(),
        (findings, None) => format!("{findings} not as it should be"),
        (findings, Some(repair)) => format!(
            "{findings} not as it should be, {} of that after the repair",
            repair.remaining.len()
        ),
    };
    push_line(
        &mut text,
        &format!(
            "{} verified, {} rows in {} read: {verdict}.",
            number_of_slices(usize::try_from(found.slices).unwrap_or(usize::MAX)),
            thousands(found.rows),
            bytesize::ByteSize(found.bytes).display().si()
        ),
    );
    text
}

fn findings(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings.iter().take(MAX_LINES) {
        let Finding {
            fault,
            path,
            problem,
            ..
        } = finding;
        push_line(&mut text, &format!("{fault:<12}{path}: {problem}"));
    }
    if findings.len() > MAX_LINES {
        let hidden = findings.len() - MAX_LINES;
        push_line(
            &mut text,
            &format!("… and {hidden} more (--format json lists them all)"),
        );
    }
    text
}

fn files(number: usize) -> String {
    if number == 1 {
        "1 file".to_owned()
    } else {
        format!("{} files", thousands(number as u64))
    }
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}
