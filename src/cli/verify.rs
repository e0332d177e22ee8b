//! `cdrlake verify`: the lake read again and checked against its ledger.

use std::sync::Arc;

use clap::Args;

use super::progress::Screen;
use super::run::{MAX_LINES, OutputArgs, RangeArgs, slices as number_of_slices};
use super::table::{counted, percent, thousands};
use super::{
    CommandError, Exit, LAKE_STAYS, OutputFormat, RepairConfigArgs, advice, interrupted_by_signals,
    json_text, print,
};
use crate::cdr::columns::SCHEMA_VERSION;
use crate::cdr::slice::Slice;
use crate::error::joined_names;
use crate::ops::days::DayRange;
use crate::ops::run::Stop;
use crate::ops::verify::{Fault, Finding, Remedy, Repair, Verification, Verified, VerifyReport};
use crate::source::Source;
use crate::source::wavix::Api;

/// Read the whole lake and verify it against its ledger.
#[derive(Clone, Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    range: RangeArgs,
    /// Also compare the ledger's counts with the provider's current ones.
    #[arg(long, help_heading = "What to do")]
    source: bool,
    /// Fetch damaged slices again, and remove files that belong to no slice.
    #[arg(long, help_heading = "What to do")]
    repair: bool,
    #[command(flatten)]
    config: RepairConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn execute(args: VerifyArgs, screen: &Screen) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    let source = if args.source || args.repair {
        let api = Api::try_new(&config.source, Some(config.api_key()?))?;
        Some(Arc::new(api) as Arc<dyn Source>)
    } else {
        None
    };
    let verification = Verification {
        range: DayRange::from(&args.range),
        source: source.as_ref(),
        ask_source: args.source,
        ..Verification::of(&config)
    };
    let rerun = args.config.rerun(&config.lake.url, false);
    let observer = screen.observer(&rerun);
    let mut verified = verification.check(&*observer).await?;
    if let Some(remark) = &verified.other_source
        && (source.is_some() || !verified.found.findings.is_empty())
    {
        tracing::warn!("{}", advice::on_remark(remark));
    }
    if args.repair && !verified.found.findings.is_empty() {
        let interrupt = interrupted_by_signals(LAKE_STAYS)?;
        let repairing = verification.repair(&mut verified, observer, interrupt);
        repairing.await?;
    }
    advice::on_findings(&mut verified, &rerun);
    let text = match args.output.format {
        OutputFormat::Json => json_text(&verified),
        OutputFormat::Text => render(&verified, &args),
    };
    print(text.as_bytes())?;
    Ok(exit_of(&verified))
}

fn exit_of(verified: &Verified) -> Exit {
    let stopped_by = verified
        .repair
        .as_ref()
        .and_then(|it| it.stopped_by.as_ref());
    let not_asked = verified.source.as_ref().and_then(|it| it.error.as_ref());
    match (stopped_by, not_asked) {
        (Some(Stop::Interrupted), _) => Exit::Interrupted,
        (None, Some(error)) => Exit::of_source(error),
        (None, None) if verified.is_proven() => Exit::Success,
        _ => Exit::Failed,
    }
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

fn render(verified: &Verified, args: &VerifyArgs) -> String {
    let Verified {
        found,
        not_fetched,
        looked_for_missing,
        source,
        repair,
        ..
    } = verified;
    let mut lines = findings(&found.findings);
    if let (Some(first), Some(last)) = (not_fetched.first(), not_fetched.last()) {
        lines.push(format!(
            "{:<12}the lake lacks {} from {} to {}",
            "missing",
            number_of_slices(not_fetched.len()),
            first.period,
            last.period
        ));
    }
    if !lines.is_empty() && repair.is_none() {
        lines.push(String::new());
        let commands = mending_commands(verified, args);
        if !commands.is_empty() {
            lines.push("To repair:".to_owned());
            lines.extend(commands);
            lines.push(String::new());
        }
    }
    if let Some(repair) = repair {
        lines.extend(what_was_repaired(repair, &found.findings));
    }
    if !found.in_progress.is_empty() {
        let slices: Vec<String> = found.in_progress.iter().map(Slice::to_string).collect();
        lines.push(format!(
            "Not verified, because another run is publishing them: {}. Verify again later.",
            slices.join(", ")
        ));
    }
    if let Some(asked) = source {
        let wrong = |finding: &&Finding| finding.fault == Fault::ControlTotal;
        let differing = found.findings.iter().filter(wrong).count();
        let open = match asked.open as u64 {
            0 => String::new(),
            open => {
                let open = counted(open, "open slice was", "open slices were");
                format!("; {open} not compared, because the next run fetches them again")
            }
        };
        lines.push(format!(
            "Compared {} with the provider, {} equal{open}.",
            counted(asked.asked as u64, "count", "counts"),
            thousands((asked.asked - differing) as u64),
        ));
        if let Some(error) = &asked.error {
            lines.push(format!("The other counts could not be compared: {error}"));
        }
    }
    lines.extend(remarks(found, args));
    let verdict = match (found.findings.len(), repair) {
        (0, _) if found.slices == 0 => "there was nothing to verify".to_owned(),
        (0, _) if !not_fetched.is_empty() => format!(
            "the verified slices match the ledger, but {} missing",
            counted(not_fetched.len() as u64, "slice is", "slices are")
        ),
        (0, _) if !found.in_progress.is_empty() => {
            "the verified slices match the ledger".to_owned()
        }
        (0, _) if !looked_for_missing => {
            "everything matches the ledger. Missing days were not checked: set window.start, or \
             use --from"
                .to_owned()
        }
        (0, _) => "everything matches the ledger".to_owned(),
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

/// Remarks that are not findings.
fn remarks(found: &VerifyReport, args: &VerifyArgs) -> Vec<String> {
    let (lake, flags) = (args.config.as_lake_flags(), args.config.as_flags());
    let mut lines = Vec::new();
    if found.rejected > 0 {
        lines.push(format!(
            "{} of {} ({}) {} rejected and not stored in the table: `cdrlake rejects{lake}` shows \
             why.",
            thousands(found.rejected),
            counted(found.records, "record", "records"),
            percent(found.rejected, found.records),
            if found.rejected == 1 { "was" } else { "were" },
        ));
    }
    let old = |(version, _): &(&u32, &u64)| **version < SCHEMA_VERSION;
    for (version, slices) in found.schema_versions.iter().filter(old) {
        lines.push(format!(
            "{} columns of version {version}, not {SCHEMA_VERSION}, so newer columns are missing. \
             `cdrlake run --refresh{flags}` with these days adds them.",
            counted(*slices, "slice has", "slices have")
        ));
    }
    if !found.unproven.is_empty() {
        lines.push(format!(
            "{} accepted with a count mismatch, or closed without a count: {}.",
            counted(found.unproven.len() as u64, "slice was", "slices were"),
            joined_names(found.unproven.iter().map(Slice::to_string))
        ));
    }
    if !found.with_duplicates.is_empty() {
        lines.push(format!(
            "{} the provider's count only with duplicates, so other calls may be missing: {}. Ask \
             the provider.",
            counted(
                found.with_duplicates.len() as u64,
                "slice matches",
                "slices match"
            ),
            joined_names(found.with_duplicates.iter().map(Slice::to_string))
        ));
    }
    lines
}

/// What became of the findings `before` the repair.
fn what_was_repaired(repair: &Repair, before: &[Finding]) -> Vec<String> {
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
    let is_listed = |error: &str| {
        let mut findings = before.iter().chain(&repair.remaining);
        findings.any(|finding| finding.problem.ends_with(error))
    };
    for slice in undone {
        let error = slice.error.as_deref().unwrap_or_default();
        if is_listed(error) {
            continue;
        }
        lines.push(format!("failed   {}: {error}", slice.slice()));
    }
    if !repair.remaining.is_empty() && repair.remaining == before {
        lines.push("Not repaired: all findings above remain.".to_owned());
    } else if !repair.remaining.is_empty() {
        lines.push("Not repaired:".to_owned());
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
        let command = match finding.remedy() {
            Remedy::Refetch(slice) => format!(
                "cdrlake verify --repair {}{}{flags}",
                advice::selection_of(slice),
                if args.source { " --source" } else { "" }
            ),
            Remedy::RemoveFile => repair_command(args),
            Remedy::SyncLogs => format!("cdrlake sync{flags}"),
            Remedy::Manual => continue,
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
            first.period.first_day(),
            last.period.last_day(),
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
