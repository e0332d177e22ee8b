//! `cdrlake verify`: the lake read again and checked against its ledger.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Args;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use object_store::path::Path;
use serde::Serialize;

use super::lake::{existing_lake, open_lake};
use super::progress::Screen;
use super::run::{MAX_LINES, OutputArgs, RangeArgs, first_of, slices as number_of_slices};
use super::table::{counted, percent, thousands};
use super::{
    CommandError, Exit, LAKE_STAYS, OutputFormat, RepairConfigArgs, interrupted_by_signals,
    json_text, print,
};
use crate::cdr::columns::SCHEMA_VERSION;
use crate::cdr::slice::{Direction, Slice};
use crate::config::Config;
use crate::lake::Lake;
use crate::lake::ledger::{Commit, State};
use crate::lake::report::RunReport;
use crate::ops::plan::{Due, Selection, Why, days as expected_days};
use crate::ops::run::{self, RunOptions, Stop};
use crate::ops::verify::{self, Fault, Finding, Mend, Scope, VerifyReport};
use crate::source::wavix::{Source, SourceError};
use crate::store::layout;

/// Read the lake again and check it against its ledger.
#[derive(Clone, Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    range: RangeArgs,
    /// Ask the provider for its counts again too.
    #[arg(long, help_heading = "What to do")]
    source: bool,
    /// Fetch again what is wrong, and remove what belongs to no slice.
    #[arg(long, help_heading = "What to do")]
    repair: bool,
    #[command(flatten)]
    config: RepairConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What was found, and what was done about it.
#[derive(Debug, Serialize)]
struct Verified {
    #[serde(flatten)]
    found: VerifyReport,
    /// Slices of the days asked for, or of `window.start` to yesterday, that the lake has nothing of.
    not_fetched: BTreeSet<Slice>,
    /// Whether such slices were looked for: it is known where the lake begins.
    looked_for_missing: bool,
    /// `null` without `--source`.
    source: Option<SourceCheck>,
    /// `null` without `--repair`, or if there was nothing to repair.
    repair: Option<Repair>,
}

/// What the provider said.
#[derive(Debug, Default, Serialize)]
struct SourceCheck {
    /// Slices whose count was asked.
    asked: usize,
    /// Open slices, which the next run fetches again, and whose count was not asked.
    open: usize,
    /// Why counts could not be had, if so.
    error: Option<String>,
    #[serde(skip)]
    exit: Option<Exit>,
}

#[derive(Debug, Default, Serialize)]
struct Repair {
    /// Files that belonged to no slice, and are gone now.
    removed: Vec<String>,
    /// The run that fetched slices again, if any were to be.
    run: Option<RunReport>,
    /// What is still not as it should be.
    remaining: Vec<Finding>,
    /// Slices that another run was publishing all the time.
    in_progress: BTreeSet<Slice>,
}

pub(super) async fn execute(args: VerifyArgs, screen: &Screen) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    let source = if args.source || args.repair {
        Some(Arc::new(Source::try_new(
            &config.source,
            Some(config.api_key()?),
        )?))
    } else {
        None
    };
    // Whose calls a lake holds does not matter to who only looks.
    let lake = existing_lake(&config, source.is_some()).await?;
    let scope = Scope {
        days: args.range.days(&config)?,
        directions: args.range.directions(&Direction::ALL),
    };
    let slices = verify::slices(&lake, &scope).await?;
    let bar = screen.bar(slices.len());
    let mut found = verify::verify_slices(&lake, &slices, &config.quality, &|| bar.inc(1)).await?;
    let mut asked = None;
    if let Some(source) = source.as_ref().filter(|_| args.source) {
        let (answers, findings) = ask_provider(&lake, &config, source, &slices, &found).await?;
        found.findings.extend(findings);
        found.findings.sort_by_key(|finding| finding.slice);
        asked = Some(answers);
    }
    found
        .findings
        .extend(verify::find_strays(&lake, &scope).await?);
    bar.finish_and_clear();
    let missing = not_fetched(&config, &args, &slices);
    let mut verified = Verified {
        looked_for_missing: missing.is_some(),
        not_fetched: missing.unwrap_or_default(),
        found,
        source: asked,
        repair: None,
    };
    let mut exit = None;
    if let Some(source) = source
        && args.repair
        && !verified.found.findings.is_empty()
    {
        let (repair, stopped) = repair(&config, &args, source, &verified.found, screen).await?;
        exit = stopped.map(|stopped| match stopped {
            Stop::Interrupted => Exit::Interrupted,
            Stop::KeyRefused(_) | Stop::NoSource(_) | Stop::NoLake(_) => Exit::Failed,
        });
        verified.repair = Some(repair);
        let slices = verify::slices(&lake, &scope).await?;
        verified.not_fetched = not_fetched(&config, &args, &slices).unwrap_or_default();
    }
    let (remaining, in_progress) = match &verified.repair {
        Some(repair) => (&repair.remaining, &repair.in_progress),
        None => (&verified.found.findings, &verified.found.in_progress),
    };
    let is_proven =
        remaining.is_empty() && verified.not_fetched.is_empty() && in_progress.is_empty();
    let refused = verified.source.as_ref().and_then(|asked| asked.exit);
    let exit = exit.or(refused).unwrap_or(if is_proven {
        Exit::Success
    } else {
        Exit::Failed
    });
    let text = match args.output.format {
        OutputFormat::Json => json_text(&verified),
        OutputFormat::Text => render(&verified, &args),
    };
    print(text.as_bytes())?;
    Ok(exit)
}

/// The slices that should be in the lake, and of which it has nothing at all. Where neither the
/// configuration nor the command line says when the lake begins, nothing is expected: `None`.
fn not_fetched(
    config: &Config,
    args: &VerifyArgs,
    found: &BTreeSet<Slice>,
) -> Option<BTreeSet<Slice>> {
    let directions = args.range.directions(&config.source.directions);
    let window = &config.window;
    let today = Timestamp::now().to_zoned(window.timezone.clone()).date();
    let Ok(days) = expected_days(window, &Selection::from(&args.range), today) else {
        return None;
    };
    let (first, last) = days.into_inner();
    let days = std::iter::successors(Some(first), |day| day.tomorrow().ok())
        .take_while(|day| *day <= last);
    let slices = days.flat_map(|day| {
        directions
            .iter()
            .map(move |&direction| Slice { day, direction })
    });
    Some(slices.filter(|slice| !found.contains(slice)).collect())
}

/// The command that repairs everything that this one finds, and nothing else.
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
    command.push_str(&args.range.direction_flag());
    if args.source {
        command.push_str(" --source");
    }
    command + &args.config.as_flags()
}

/// Asks the provider for its count of every closed slice that is good so far.
async fn ask_provider(
    lake: &Lake,
    config: &Config,
    source: &Source,
    slices: &BTreeSet<Slice>,
    report: &VerifyReport,
) -> Result<(SourceCheck, Vec<Finding>), CommandError> {
    let mut good = slices.clone();
    for slice in report.to_fetch().iter().chain(&report.in_progress) {
        good.remove(slice);
    }
    let mut commits = verify::commits(lake, &good).await?;
    let mut asked = SourceCheck::default();
    let is_open = |commit: &&Commit| commit.state == State::Open;
    asked.open = commits.values().filter(is_open).count();
    commits.retain(|_, commit| commit.state == State::Closed);
    let mut questions = stream::iter(commits)
        .map(async |(slice, commit)| {
            let total = source.control_total_with_retries(slice).await?;
            Ok::<_, SourceError>(verify::compare_total(slice, &commit, total))
        })
        .buffer_unordered(config.source.requests);
    let mut findings = Vec::new();
    while let Some(answer) = questions.next().await {
        match answer {
            Ok(finding) => {
                asked.asked += 1;
                findings.extend(finding);
            }
            Err(error) => {
                // What was found on this side is told all the same.
                let error = CommandError::from(error);
                asked.exit = Some(error.exit);
                asked.error = Some(error.message);
                break;
            }
        }
    }
    Ok((asked, findings))
}

async fn repair(
    config: &Config,
    args: &VerifyArgs,
    source: Arc<Source>,
    found: &VerifyReport,
    screen: &Screen,
) -> Result<(Repair, Option<Stop>), CommandError> {
    let interrupt = interrupted_by_signals(LAKE_STAYS)?;
    // Opening it for writing removes what dead runs left.
    let lake = open_lake(config, false).await?;
    let mut repair = Repair::default();
    let slices = found.to_fetch();
    let mut stopped_by = None;
    if !slices.is_empty() {
        let mut due = Vec::new();
        for &slice in &slices {
            let committed = lake.entry(slice).await.entry.committed;
            due.push(Due {
                slice,
                why: Why::Refresh,
                committed_fetched_at: committed.as_ref().map(|commit| commit.fetched_at),
                committed_token: committed.map(|commit| commit.token),
            });
        }
        let observer = screen.observe(due.len());
        let result = run::run(
            Arc::new(config.clone()),
            lake.clone(),
            Arc::clone(&source),
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
    // After fetching, and only what is still nobody's, and nobody's last copy.
    for finding in &found.findings {
        if finding.mend() == Mend::Remove && remove(config, &lake, finding).await? {
            repair.removed.push(finding.path.clone());
        }
    }
    let concerned: BTreeSet<Slice> = found
        .findings
        .iter()
        .filter_map(|finding| {
            let path = Path::parse(&finding.path).ok()?;
            finding.slice.or_else(|| layout::slice_of(&path))
        })
        .chain(found.in_progress.iter().copied())
        .collect();
    let mut again = verify::verify_slices(&lake, &concerned, &config.quality, &|| {}).await?;
    let mut could_ask = stopped_by.is_none();
    if args.source && could_ask {
        let (asked, findings) = ask_provider(&lake, config, &source, &concerned, &again).await?;
        again.findings.extend(findings);
        if let Some(error) = asked.error {
            tracing::warn!("The provider's counts could not be asked again: {error}");
            could_ask = false;
        }
    }
    if !could_ask {
        // Nobody knows better.
        let counts = |finding: &&Finding| finding.fault == Fault::ControlTotal;
        again
            .findings
            .extend(found.findings.iter().filter(counts).cloned());
    }
    repair.remaining = again.findings;
    repair.in_progress = again.in_progress;
    let was_found = |stray: &Finding| found.findings.iter().any(|one| one.path == stray.path);
    let left = verify::find_strays(&lake, &Scope::default()).await?;
    repair.remaining.extend(
        left.into_iter()
            .filter(was_found)
            .filter(|stray| stray.slice.is_none()),
    );
    Ok((repair, stopped_by))
}

/// Removes a file that belongs to no slice. Whether it is gone: one that a run has meanwhile made its
/// own stays, and so do rows of a slice that the lake does not have otherwise.
async fn remove(config: &Config, lake: &Lake, finding: &Finding) -> Result<bool, CommandError> {
    let path = Path::parse(&finding.path).unwrap_or_else(|_| Path::from(&*finding.path));
    if finding.fault == Fault::Leftover {
        // Whatever was left is gone since the lake was opened.
        let left = lake.find_leftovers().await?;
        return Ok(!left.contains(&path));
    }
    let in_table = layout::slice_of(&path);
    let slice = in_table.or(layout::rejects_slice(&path).map(|(slice, _)| slice));
    let mut lease = None;
    if let Some(slice) = slice {
        lease = lake.try_lease(slice).await?;
        if lease.is_none() {
            return Ok(false);
        }
    }
    let now = match (in_table, slice) {
        (Some(slice), _) => {
            let slices = BTreeSet::from([slice]);
            verify::verify_slices(lake, &slices, &config.quality, &|| {})
                .await?
                .findings
        }
        (None, Some(_)) => verify::find_strays(lake, &Scope::default()).await?,
        // Its very name makes it nobody's, whatever the ledger says.
        (None, None) => vec![finding.clone()],
    };
    let is_still = now
        .iter()
        .any(|one| one.path == finding.path && one.mend() == Mend::Remove);
    let is_removed = is_still && !verify::is_last_copy(lake, &path).await?;
    if is_removed {
        lake.remove_foreign(&path).await?;
    }
    drop(lease);
    // The next stray may be of the same slice.
    lake.settle().await;
    Ok(is_removed)
}

fn render(verified: &Verified, args: &VerifyArgs) -> String {
    let Verified {
        found,
        not_fetched,
        looked_for_missing,
        source,
        repair,
    } = verified;
    let mut lines = findings(&found.findings);
    if let (Some(first), Some(last)) = (not_fetched.first(), not_fetched.last()) {
        lines.push(format!(
            "{:<12}the lake lacks {} from {} to {}",
            "missing",
            number_of_slices(not_fetched.len()),
            first.day,
            last.day
        ));
    }
    if !lines.is_empty() && repair.is_none() {
        lines.push(String::new());
        let commands = mending_commands(verified, args);
        if !commands.is_empty() {
            lines.push("To mend:".to_owned());
            lines.extend(commands);
            lines.push(String::new());
        }
    }
    if let Some(repair) = repair {
        lines.extend(what_was_repaired(repair));
    }
    if !found.in_progress.is_empty() {
        let slices: Vec<String> = found.in_progress.iter().map(Slice::to_string).collect();
        lines.push(format!(
            "Not judged, for another run is publishing them: {}. Verify them again later.",
            slices.join(", ")
        ));
    }
    if let Some(asked) = source {
        let wrong = |finding: &&Finding| finding.fault == Fault::ControlTotal;
        let differing = found.findings.iter().filter(wrong).count();
        let open = match asked.open as u64 {
            0 => String::new(),
            open => {
                let open = counted(
                    open,
                    "was not asked, for its slice is open",
                    "were not asked, for their slices are open",
                );
                format!("; {open}, and the next run fetches them again")
            }
        };
        lines.push(format!(
            "{} asked of the provider, {} as in the ledger{open}.",
            counted(asked.asked as u64, "count was", "counts were"),
            thousands((asked.asked - differing) as u64),
        ));
        if let Some(error) = &asked.error {
            lines.push(format!("The other counts could not be asked: {error}"));
        }
    }
    lines.extend(remarks(found, args));
    let verdict = match (found.findings.len(), repair) {
        (0, _) if found.slices == 0 => "there was nothing to verify".to_owned(),
        (0, _) if !not_fetched.is_empty() => format!(
            "what was judged is as the ledger says, but {} missing",
            counted(not_fetched.len() as u64, "slice is", "slices are")
        ),
        (0, _) if !found.in_progress.is_empty() => {
            "what was judged is as the ledger says".to_owned()
        }
        (0, _) if !looked_for_missing => {
            "everything is as the ledger says. Missing days were not looked for: set window.start, or give --from".to_owned()
        }
        (0, _) => "everything is as the ledger says".to_owned(),
        (findings, None) => counted(findings as u64, "finding", "findings"),
        (findings, Some(repair)) => format!(
            "{}, {} left after the repair",
            counted(findings as u64, "finding", "findings"),
            thousands(repair.remaining.len() as u64)
        ),
    };
    lines.push(format!(
        "{} verified, {} in {} read: {verdict}.",
        number_of_slices(usize::try_from(found.slices).unwrap_or(usize::MAX)),
        counted(found.rows, "row", "rows"),
        bytesize::ByteSize(found.bytes).display().si()
    ));
    lines.push(String::new());
    lines.join("\n")
}

/// What is no finding, and to be known all the same.
fn remarks(found: &VerifyReport, args: &VerifyArgs) -> Vec<String> {
    let (lake, flags) = (args.config.as_lake_flags(), args.config.as_flags());
    let mut lines = Vec::new();
    if found.rejected > 0 {
        lines.push(format!(
            "{} of {} ({}) {} rejected and not in the table: `cdrlake rejects{lake}` shows why.",
            thousands(found.rejected),
            counted(found.records, "record", "records"),
            percent(found.rejected, found.records),
            if found.rejected == 1 { "was" } else { "were" },
        ));
    }
    let old = |(version, _): &(&u32, &u64)| **version < SCHEMA_VERSION;
    for (version, slices) in found.schema_versions.iter().filter(old) {
        lines.push(format!(
            "{} columns of version {version}, not {SCHEMA_VERSION}: what was added since is missing there. `cdrlake run --refresh{flags}` with these days fetches it.",
            counted(*slices, "slice has", "slices have")
        ));
    }
    if !found.unproven.is_empty() {
        lines.push(format!(
            "{} taken although the provider's count was another, or not compared: {}.",
            counted(found.unproven.len() as u64, "slice was", "slices were"),
            first_of(found.unproven.iter().map(Slice::to_string))
        ));
    }
    if !found.with_duplicates.is_empty() {
        lines.push(format!(
            "{} the provider's count only with records that came twice, so other calls may be missing: {}. Ask the provider.",
            counted(found.with_duplicates.len() as u64, "slice has", "slices have"),
            first_of(found.with_duplicates.iter().map(Slice::to_string))
        ));
    }
    lines
}

fn what_was_repaired(repair: &Repair) -> Vec<String> {
    let mut lines = Vec::new();
    let run = repair.run.iter().flat_map(|run| &run.slices);
    let (done, undone): (Vec<_>, Vec<_>) = run.partition(|slice| slice.state.is_some());
    lines.push(String::new());
    lines.push(format!(
        "Repaired: {} fetched again, {} removed.",
        number_of_slices(done.len()),
        counted(repair.removed.len() as u64, "file", "files")
    ));
    for slice in done {
        if let Some(change) = &slice.change {
            lines.push(format!("changed  {}: {change}", slice.slice()));
        }
    }
    for slice in undone {
        let error = slice.error.as_deref().unwrap_or_default();
        lines.push(format!("failed   {}: {error}", slice.slice()));
    }
    if !repair.remaining.is_empty() {
        lines.push("Still not as it should be:".to_owned());
        lines.extend(findings(&repair.remaining));
    }
    lines.push(String::new());
    lines
}

/// Commands that can be copied as they are.
fn mending_commands(verified: &Verified, args: &VerifyArgs) -> Vec<String> {
    let flags = args.config.as_flags();
    let mut commands: Vec<String> = Vec::new();
    for finding in &verified.found.findings {
        let command = match finding.mend() {
            Mend::Fetch(Slice { day, direction }) => format!(
                "cdrlake verify --repair --from {day} --to {day} --direction {direction}{}{flags}",
                if args.source { " --source" } else { "" }
            ),
            Mend::Remove => repair_command(args),
            Mend::ByHand => continue,
        };
        if !commands.contains(&command) {
            commands.push(command);
        }
    }
    let several = commands.len() > 1;
    commands.truncate(MAX_LINES);
    let all = repair_command(args);
    if several {
        commands.retain(|command| *command != all);
        commands.push(format!("{all}    # all of it"));
    }
    let not_fetched = &verified.not_fetched;
    if let (Some(first), Some(last)) = (not_fetched.first(), not_fetched.last()) {
        commands.push(format!(
            "cdrlake run --from {} --to {}{}{flags}",
            first.day,
            last.day,
            args.range.direction_flag()
        ));
    }
    commands
        .into_iter()
        .map(|command| format!("  {command}"))
        .collect()
}

fn findings(findings: &[Finding]) -> Vec<String> {
    let mut lines: Vec<String> = findings
        .iter()
        .take(MAX_LINES)
        .map(|finding| {
            let Finding {
                fault,
                path,
                problem,
                ..
            } = finding;
            format!("{fault:<12}{path}: {problem}")
        })
        .collect();
    if findings.len() > MAX_LINES {
        let hidden = findings.len() - MAX_LINES;
        lines.push(format!(
            "… and {hidden} more (--format json lists them all)"
        ));
    }
    lines
}
