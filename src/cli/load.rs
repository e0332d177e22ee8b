//! `cdrlake load`: an export in files, for days that are better not asked of the API.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::progress::Screen;
use super::run::{ResultArgs, carry_out, exit_of, first_of, render_plan};
use super::table::{counted, thousands};
use super::{CommandError, Exit, LAKE_STAYS, LoadConfigArgs, interrupted_by_signals, print};
use crate::body::csv::describe_missing;
use crate::cdr::slice::{Direction, Slice};
use crate::config::{Config, Reconcile, timezone_name};
use crate::error::{chain, is_disk_full, quoted};
use crate::lake::Lake;
use crate::ops::open::{find_lake, open_lake};
use crate::ops::plan::{LoadPlan, plan_load};
use crate::ops::run::RunOptions;
use crate::slice_file::convert::ConvertError;
use crate::source::files::{Export, ExportError, Input, SplitOptions, make_spool, split};
use crate::source::wavix::Source;

/// Load an export from files: NDJSON, a JSON array, objects or pages of the list one behind the other,
/// or CSV, compressed with gzip or zstd or not.
#[derive(Clone, Debug, Args)]
pub(super) struct LoadArgs {
    /// The export; several files are one. `-`, or none, reads standard input.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Of which direction the calls are: the records do not say.
    #[arg(long, value_name = "placed|received", value_parser = str::parse::<Direction>)]
    direction: Direction,
    /// Also load days that the lake has already, in place of what it has.
    #[arg(long)]
    refresh: bool,
    /// Leave out records that cannot be assigned to a day, broken or without a date, instead of loading nothing.
    #[arg(long)]
    skip_undated: bool,
    /// Split the export, say which days would be loaded and why, and load none.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    config: LoadConfigArgs,
    #[command(flatten)]
    result: ResultArgs,
}

impl From<ExportError> for CommandError {
    fn from(error: ExportError) -> Self {
        let exit = match &error {
            ExportError::Input { .. } | ExportError::Directory { .. } | ExportError::Odd { .. } => {
                Exit::Usage
            }
            ExportError::Spool { .. } if !is_disk_full(&error) => Exit::Usage,
            ExportError::Interrupted => Exit::Interrupted,
            _ => Exit::Failed,
        };
        let mut problem = chain(&error);
        if let ExportError::Body { source, .. } = &error
            && let ConvertError::ServerError { message, .. } = source
        {
            problem = format!("{problem}: {}", quoted(message));
        }
        let stop = if problem.ends_with(['?', '…']) {
            ""
        } else {
            "."
        };
        Self::new(exit, format!("{problem}{stop} Nothing was loaded"))
    }
}

pub(super) async fn execute(args: LoadArgs, screen: &Screen) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    let direction = args.direction;
    if !config.source.directions.contains(&direction) {
        let problem = format!("--direction {direction} is not among source.directions");
        return Err(CommandError::new(Exit::Usage, problem));
    }
    let inputs = inputs(&args.files)?;
    for input in &inputs {
        input.check()?;
    }
    refuse_unseen_filters(&config)?;
    let interrupt = interrupted_by_signals(LAKE_STAYS)?;
    // Who does not compare needs no key.
    let key = match config.quality.reconcile {
        Reconcile::Fail | Reconcile::Warn if !args.dry_run => Some(api_key(&config)?),
        _ => None,
    };
    let source = Source::try_new(&config.source, key)?;
    // Another lake than the one meant shows before the work, not after it.
    let existing = find_lake(&config).await?;
    if let Some(lake) = &existing {
        refuse_other_timezone(&config, lake)?;
    }

    let total_bytes = args
        .files
        .iter()
        .filter_map(|file| Some(file.metadata().ok()?.len()))
        .sum();
    let export = split_aside(inputs, &config, screen, total_bytes, &interrupt).await?;
    let today = Timestamp::now()
        .to_zoned(config.window.timezone.clone())
        .date();
    let mut remarks = remarks(&args, &export, &config, today)?;
    let slices: Vec<(Slice, u64)> = export
        .days()
        .map(|(day, records)| (Slice { day, direction }, records))
        .collect();
    let plan_of =
        async |lake| plan_load(&config, &slices, args.refresh, lake, Timestamp::now()).await;
    // What is wrong with the export comes before a lake is made for it.
    plan_of(None).await?;
    if args.dry_run {
        let planned = plan_of(existing.as_ref()).await?;
        for remark in remarks.iter().chain(&remark_on_differing(&planned)) {
            tracing::warn!("{remark}");
        }
        return print(render_plan(&planned.plan, args.result.output.format).as_bytes());
    }
    let lake = open_lake(&config, false).await?;
    let planned = plan_of(Some(&lake)).await?;
    remarks.extend(remark_on_differing(&planned));
    let plan = planned.plan;
    if plan.up_to_date > 0 {
        tracing::info!(
            slices = plan.up_to_date,
            "Left as the lake has them. --refresh loads them again."
        );
    }
    let options = RunOptions {
        allow_shrink: args.result.allow_shrink,
        export: Some(Arc::new(export)),
        remarks,
    };
    let result = carry_out(config, lake, source, &plan, options, screen, interrupt).await;
    args.result.print(&plan, &result)?;
    Ok(exit_of(&result.run, args.result.strict, screen))
}

/// The key with which the provider is asked for its counts.
fn api_key(config: &Config) -> Result<SecretString, CommandError> {
    config.api_key().map_err(|error| {
        let way_out = match filter(config) {
            // Only counts can tell that the export is of this lake.
            Some(_) => "",
            None => {
                ". --reconcile off loads the export without asking for counts, and needs no key"
            }
        };
        CommandError::new(Exit::Usage, format!("{error}{way_out}"))
    })
}

/// A run asks the provider for days as the provider cuts them; a load cuts them itself.
fn refuse_other_timezone(config: &Config, lake: &Lake) -> Result<(), CommandError> {
    let (wanted, existing) = (
        timezone_name(&config.window.timezone),
        &lake.identity.timezone,
    );
    if wanted == *existing {
        return Ok(());
    }
    let problem = format!(
        "window.timezone is {wanted}, and this lake was begun with {existing}: days cut in two ways would hold calls twice, and others not at all"
    );
    Err(CommandError::new(Exit::Usage, problem))
}

/// The first filter of the source that is set.
fn filter(config: &Config) -> Option<&'static str> {
    let source = &config.source;
    let filters = [
        ("disposition", source.disposition != "all"),
        ("sip_trunk", source.sip_trunk.is_some()),
        ("from_search", source.from_search.is_some()),
        ("to_search", source.to_search.is_some()),
    ];
    let set = filters.into_iter().find(|(_, is_set)| *is_set);
    set.map(|(filter, _)| filter)
}

/// A lake of a part of the calls must not get all of them. Only counts can tell: an export does not say how
/// it was made, and what filters match is the provider's business.
fn refuse_unseen_filters(config: &Config) -> Result<(), CommandError> {
    match filter(config) {
        Some(filter) if config.quality.reconcile != Reconcile::Fail => {
            let problem = format!(
                "source.{filter} makes this a lake of some calls, and only the provider's count tells whether an export holds just those. Leave quality.reconcile at \"fail\""
            );
            Err(CommandError::new(Exit::Usage, problem))
        }
        _ => Ok(()),
    }
}

/// What is to be said of slices that the lake has otherwise.
fn remark_on_differing(planned: &LoadPlan) -> Vec<String> {
    let days = |slices: &[Slice]| {
        let days = slices.iter().map(|slice| slice.day.to_string());
        (!slices.is_empty()).then(|| first_of(days))
    };
    let differing = days(&planned.differing).map(|days| {
        format!(
            "the lake has these days, with another number of records than the export, and keeps what it has: {days}. `cdrlake run` compares them with the provider, and --refresh puts what the export has in their place: give all files of a day at once"
        )
    });
    let other_zone = days(&planned.of_other_zone).map(|days| {
        format!(
            "these days were loaded with another --assume-timezone, and stay: {days}. A call that moved from one day to another is there twice. Load them again with --refresh, or fetch them with `cdrlake run --refresh`"
        )
    });
    differing.into_iter().chain(other_zone).collect()
}

fn inputs(files: &[PathBuf]) -> Result<Vec<Input>, CommandError> {
    let usage = |problem: &str| Err(CommandError::new(Exit::Usage, problem));
    let mut seen = HashSet::new();
    for file in files {
        if let Ok(path) = file.canonicalize()
            && !seen.insert(path)
        {
            let name = Input::File(file.clone()).name();
            return usage(&format!("{name} is named twice"));
        }
    }
    let is_stdin = |file: &PathBuf| file == Path::new("-");
    if files.is_empty() && std::io::stdin().is_terminal() {
        return usage("which files? Name those of the export, or pipe it in");
    }
    if files.iter().filter(|file| is_stdin(file)).count() > 1 {
        return usage("standard input (`-`) can be read only once");
    }
    if files.is_empty() {
        return Ok(vec![Input::Stdin]);
    }
    let input = |file: &PathBuf| {
        if is_stdin(file) {
            Input::Stdin
        } else {
            Input::File(file.clone())
        }
    };
    Ok(files.iter().map(input).collect())
}

/// Splits the export on a thread of its own. That one may wait for standard input for ever: it is left
/// behind where somebody interrupts.
async fn split_aside(
    inputs: Vec<Input>,
    config: &Config,
    screen: &Screen,
    total_bytes: u64,
    interrupt: &CancellationToken,
) -> Result<Export, CommandError> {
    let options = SplitOptions {
        timezone: config.window.timezone.clone(),
        assume_timezone: config.source.assume_timezone.clone(),
        max_record_bytes: config.limits.max_record_bytes,
        spool_parent: config.limits.spool_dir.clone(),
    };
    let bar = screen.bytes_bar(total_bytes);
    let spool = make_spool(&options.spool_parent)?;
    let (done, split_export) = oneshot::channel();
    let (may_wait, token) = (inputs.iter().any(Input::may_wait), interrupt.clone());
    std::thread::spawn({
        let (bar, spool) = (bar.clone(), Arc::clone(&spool));
        // Whoever is not there any more does not want to know.
        move || {
            let export = split(&inputs, &options, spool, &token, |bytes| bar.inc(bytes));
            drop(done.send(export));
        }
    });
    let export = tokio::select! {
        export = split_export => export.expect("splitting does not panic"),
        () = interrupt.cancelled(), if may_wait => {
            // The thread still has it, and ends with the process.
            drop(std::fs::remove_dir_all(spool.path()));
            Err(ExportError::Interrupted)
        }
    };
    bar.finish_and_clear();
    let export = export?;
    let records: u64 = export.days().map(|(_, records)| records).sum();
    let days = export.days().count();
    tracing::info!(records, days, "Split.");
    Ok(export)
}

/// What is to be said of the export.
///
/// # Errors
/// It has records without a day, and `--skip-undated` was not given.
fn remarks(
    args: &LoadArgs,
    export: &Export,
    config: &Config,
    today: jiff::civil::Date,
) -> Result<Vec<String>, CommandError> {
    let mut remarks = Vec::new();
    let undated = &export.undated;
    if undated.records > 0 {
        let records = counted(
            undated.records,
            "record cannot be assigned to a day",
            "records cannot be assigned to a day",
        );
        let examples = undated.examples.join("; ");
        let more = if undated.records > undated.examples.len() as u64 {
            "; …"
        } else {
            ""
        };
        if !args.skip_undated {
            let way_out = if undated.without_offset > 0 {
                "Name the time zone of times without an offset with --assume-timezone, mend"
            } else {
                "Mend"
            };
            return Err(CommandError::new(
                Exit::Failed,
                format!(
                    "{records}: {examples}{more}. Nothing was loaded. {way_out} the export, or leave such records out with --skip-undated"
                ),
            ));
        }
        let were = if undated.records == 1 { "was" } else { "were" };
        remarks.push(format!("{records}, and {were} left out: {examples}{more}"));
    }
    if !export.missing_fields.is_empty() {
        remarks.push(describe_missing(&export.missing_fields));
    }
    let empty = export.empty_files();
    if !empty.is_empty() {
        remarks.push(format!("no record in {}", empty.join(", ")));
    }
    if let Some((read, total)) = export.missing_pages() {
        remarks.push(format!(
            "the export is {} of a list of {}: pages are missing",
            counted(read, "call", "calls"),
            thousands(total)
        ));
    }
    if let Some(start) = config.window.start
        && let Some((first, _)) = export.days().next()
        && first < start
    {
        remarks.push(format!(
            "days from {first} on lie before window.start = {start}, and are not looked at by run, status and verify without --from"
        ));
    }
    if !export.unended.is_empty() {
        remarks.push(format!(
            "the last line of {} has no newline: if it was cut within its last cell, a value is wrong",
            export.unended.join(", ")
        ));
    }
    let (days, records) = export
        .days()
        .filter(|(day, _)| *day >= today)
        .fold((0, 0), |(days, sum), (_, records)| {
            (days + 1, sum + records)
        });
    if days > 0 {
        remarks.push(format!(
            "{} of {} that had not ended {} left out: `cdrlake run` fetches whole days",
            counted(records, "record", "records"),
            counted(days, "day", "days"),
            if records == 1 { "was" } else { "were" },
        ));
    }
    Ok(remarks)
}
