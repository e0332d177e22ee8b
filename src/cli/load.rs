//! `cdrlake load`: an export in files, for days that are better not asked of the API.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use secrecy::SecretString;

use super::progress::Screen;
use super::run::{ResultArgs, render_plan};
use super::{
    CommandError, Exit, LAKE_STAYS, LoadConfigArgs, advice, interrupted_by_signals, print,
};
use crate::cdr::slice::Direction;
use crate::config::{Config, Reconcile};
use crate::ops::load::Load;
use crate::source::Source;
use crate::source::files::Input;
use crate::source::wavix::Api;

/// Load an export from files: NDJSON, JSON arrays, objects or pages of the list, or CSV; plain, or
/// compressed with gzip or zstd.
#[derive(Clone, Debug, Args)]
pub(super) struct LoadArgs {
    /// The files of one export. `-`, or none, reads standard input.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Direction of the calls, which the records do not contain.
    #[arg(long, value_name = "placed|received", value_parser = str::parse::<Direction>)]
    direction: Direction,
    /// Replace days that the lake already has.
    #[arg(long)]
    refresh: bool,
    /// Leave out records that are broken or have no date, instead of loading nothing.
    #[arg(long)]
    skip_undated: bool,
    /// Show which days would be loaded and why, without loading them.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    config: LoadConfigArgs,
    #[command(flatten)]
    result: ResultArgs,
}

pub(super) async fn execute(args: LoadArgs, screen: &Screen) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    let load = Load {
        inputs: inputs(&args.files)?,
        direction: args.direction,
        refresh: args.refresh,
        skip_undated: args.skip_undated,
        allow_shrink: args.result.allow_shrink,
    };
    load.check(&config)?;
    let interrupt = interrupted_by_signals(LAKE_STAYS)?;
    // Without a comparison of counts, no key is needed.
    let counts = match config.quality.reconcile {
        Reconcile::Fail | Reconcile::Warn if !args.dry_run => {
            let api = Api::try_new(&config.source, Some(api_key(&config)?))?;
            Some(Arc::new(api) as Arc<dyn Source>)
        }
        _ => None,
    };
    let rerun = args
        .config
        .rerun(&config.lake.url, args.result.allow_shrink);
    let observer = screen.observer(&rerun);
    if args.dry_run {
        let (plan, remarks) = load.preview(&config, observer, &interrupt).await?;
        for remark in remarks {
            tracing::warn!("{}", advice::on_remark(&remark));
        }
        return print(render_plan(&plan, args.result.output.format).as_bytes());
    }
    let (asked, refresh) = (counts.clone(), args.refresh);
    let mut outcome = load.run(config, counts, observer, interrupt).await?;
    advice::on_counts(&mut outcome.run.stopped_by, asked.as_deref());
    let skipped = outcome.plan.up_to_date;
    if skipped > 0 && !refresh {
        tracing::info!(
            slices = skipped,
            "Skipped slices that the lake already has; --refresh loads them again."
        );
    }
    args.result.print(&rerun, outcome, screen)
}

/// The key with which the provider is asked for its counts.
fn api_key(config: &Config) -> Result<SecretString, CommandError> {
    config.api_key().map_err(|error| {
        let mut error = CommandError::from(error);
        // With a filter, only counts show that the export holds the calls of this lake.
        if config.source.changed_filter().is_none() {
            error.message.push_str(". ");
            error.message.push_str(advice::WITHOUT_COUNTS);
        }
        error
    })
}

fn inputs(files: &[PathBuf]) -> Result<Vec<Input>, CommandError> {
    let usage = |problem: &str| Err(CommandError::new(Exit::Usage, problem));
    let mut seen = HashSet::new();
    for file in files {
        if let Ok(path) = file.canonicalize()
            && !seen.insert(path)
        {
            let name = Input::File(file.clone()).name();
            return usage(&format!("{name} is given twice"));
        }
    }
    let is_stdin = |file: &PathBuf| file == Path::new("-");
    if files.is_empty() && std::io::stdin().is_terminal() {
        return usage("no file is given. Name the files of the export, or pipe it in");
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
