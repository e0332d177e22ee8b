//! The command line: what the user types, and what is printed.

mod check;
mod ddl;
mod demo;
mod erase;
mod gc;
mod lake;
mod load;
mod progress;
mod prune;
mod rejects;
mod run;
mod simulate;
mod status;
mod table;
mod verify;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ConfigError, Overrides};
use crate::error::{MAKE_ROOM, chain, is_disk_full, is_no_directory};
use crate::lake::LakeError;
use crate::lake::store::StoreError;
use crate::plan::PlanError;
use crate::report::{RunOutcome, RunReport};
use crate::source::SourceError;
use progress::LogFormat;

/// Streams Wavix call detail records into a lake of date-partitioned Parquet, and proves that it
/// is complete.
#[derive(Debug, Parser)]
#[command(
    name = "cdrlake",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// How log lines on standard error look.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Logging"
    )]
    log_format: LogFormat,
    /// Log every slice, also where progress bars are shown. `CDRLAKE_LOG` takes a filter for more.
    #[arg(short, long, global = true, help_heading = "Logging")]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show everything against a simulated API: writes a lake, proves it, says what to do next.
    Demo(demo::DemoArgs),
    /// Bring the lake up to date.
    Run(run::RunArgs),
    /// Load an export from files, day by day.
    Load(load::LoadArgs),
    /// Say what `run` would do, and why.
    Plan(run::PlanArgs),
    /// Show the lake by day, from its ledger.
    Status(status::StatusArgs),
    /// Read the lake again and check it against its ledger.
    Verify(verify::VerifyArgs),
    /// List what was rejected and why, also of slices that failed.
    Rejects(rejects::RejectsArgs),
    /// Print how a warehouse is told of the table: its definition, the load, a query that checks it.
    Ddl(ddl::DdlArgs),
    /// Remove days that are older than they may be kept.
    Prune(prune::PruneArgs),
    /// Take the calls of a number out of the lake, and keep them out.
    Erase(erase::EraseArgs),
    /// Remove what dead runs left on their way into the lake.
    Gc(gc::GcArgs),
    /// Check configuration, key, API and lake.
    Check(ConfigArgs),
    /// Serve the simulated API on a port of this machine.
    Simulate(simulate::SimulateArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff.
    Man,
}

/// Where the configuration comes from. Flags win over variables (`CDRLAKE_SOURCE_URL` …), variables
/// over the file.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Configuration")]
struct ConfigArgs {
    /// The configuration file [default: pipeline.toml, if there is one].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the lake lies (`lake.url`): a directory, `s3://bucket/prefix`, `gs://…` or `az://…`.
    #[arg(long, value_name = "PLACE")]
    lake: Option<String>,
    /// The API's address (`source.url`).
    #[arg(long, value_name = "URL")]
    source_url: Option<String>,
    /// The variable that holds the API key (`source.api_key.env`).
    #[arg(long, value_name = "VARIABLE", conflicts_with = "api_key_file")]
    api_key_env: Option<String>,
    /// The file that holds the API key (`source.api_key.file`).
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<String>,
    /// From which of the API's resources calls are read (`source.via`): stream, pages or csv.
    #[arg(long, value_name = "WAY")]
    via: Option<String>,
    /// Slices in flight (`source.requests`).
    #[arg(long, value_name = "N")]
    requests: Option<String>,
    /// Time zone in which the account cuts days (`window.timezone`).
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// What happens when the provider counts otherwise (`quality.reconcile`): fail, warn or off.
    #[arg(long, value_name = "WHAT")]
    reconcile: Option<String>,
}

impl ConfigArgs {
    /// Every flag with the key that it stands for.
    fn flags(&self) -> [(&'static str, &Option<String>, &'static str); 8] {
        [
            ("lake.url", &self.lake, "--lake"),
            ("source.url", &self.source_url, "--source-url"),
            ("source.api_key.env", &self.api_key_env, "--api-key-env"),
            ("source.api_key.file", &self.api_key_file, "--api-key-file"),
            ("source.via", &self.via, "--via"),
            ("source.requests", &self.requests, "--requests"),
            ("window.timezone", &self.timezone, "--timezone"),
            ("quality.reconcile", &self.reconcile, "--reconcile"),
        ]
    }

    /// The flags as they were given, for a command that means the same lake: ` --lake ./x`.
    fn as_flags(&self) -> String {
        let config = self
            .config
            .as_ref()
            .map(|file| ("--config", file.display().to_string()));
        let given = self
            .flags()
            .into_iter()
            .filter_map(|(_, value, flag)| Some((flag, value.clone()?)));
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "./:_-+@%=".contains(c);
        let flag = |(flag, value): (&str, String)| {
            if !value.is_empty() && value.chars().all(is_plain) {
                format!(" {flag} {value}")
            } else {
                format!(" {flag} '{}'", value.replace('\'', r"'\''"))
            }
        };
        config.into_iter().chain(given).map(flag).collect()
    }

    fn load(&self) -> Result<Config, ConfigError> {
        let overrides: Overrides = self
            .flags()
            .into_iter()
            .filter_map(|(key, value, flag)| Some((key, value.clone()?, flag)))
            .collect();
        Config::load(self.config.as_deref(), &overrides)
    }
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// A table for people.
    #[default]
    Text,
    /// One JSON document for programs.
    Json,
}

/// Exit status. The README lists what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Success,
    /// 1: something failed; the rest is committed.
    Failed,
    /// 2: wrong usage or configuration, or the key was refused before anything was done.
    Usage,
    /// 3: `--strict`, and there were warnings.
    Warnings,
    /// 130: interrupted; the lake is consistent.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Warnings => 3,
            Exit::Interrupted => 130,
        })
    }
}

/// A command that did not get as far as a result.
#[derive(Debug)]
struct CommandError {
    /// The exit status it ends with.
    exit: Exit,
    /// A sentence for the user.
    message: String,
}

impl CommandError {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<LakeError> for CommandError {
    fn from(error: LakeError) -> Self {
        match &error {
            LakeError::Store(_) if is_disk_full(&error) => {
                Self::new(Exit::Failed, format!("{}. {MAKE_ROOM}", chain(&error)))
            }
            LakeError::Store(_) if is_no_directory(&error) => Self::new(
                Exit::Usage,
                format!(
                    "{}. A lake is a directory: lake.url, or a part of it, is a file",
                    chain(&error)
                ),
            ),
            LakeError::Store(store) if store.kind().is_none() => Self::new(
                Exit::Usage,
                format!("{}. Check lake.url and who may write there", chain(&error)),
            ),
            _ => Self::new(Exit::Usage, chain(&error)),
        }
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        LakeError::from(error).into()
    }
}

impl From<PlanError> for CommandError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Usage(problem) => Self::new(Exit::Usage, problem),
            PlanError::Lake(error) => error.into(),
        }
    }
}

impl From<SourceError> for CommandError {
    fn from(error: SourceError) -> Self {
        let exit = if matches!(error, SourceError::Refused { .. } | SourceError::Setup(_)) {
            Exit::Usage
        } else {
            Exit::Failed
        };
        Self::new(exit, error.to_string())
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}

impl Arguments {
    /// Does what the arguments say, and says on standard error what went wrong.
    pub async fn execute(self) -> Exit {
        let screen = progress::Screen::start(self.log_format, self.verbose);
        // On the heap: it has room for whatever any command needs.
        Box::pin(self.command.execute(&screen))
            .await
            .unwrap_or_else(|error| {
                screen.complain(&error.message);
                error.exit
            })
    }
}

impl Command {
    async fn execute(self, screen: &progress::Screen) -> Result<Exit, CommandError> {
        match self {
            Self::Demo(args) => demo::execute(args, screen).await,
            Self::Run(args) => run::execute(args, screen).await,
            Self::Load(args) => load::execute(args, screen).await,
            Self::Plan(args) => run::plan(&args).await,
            Self::Status(args) => status::execute(&args).await,
            Self::Verify(args) => verify::execute(args, screen).await,
            Self::Rejects(args) => rejects::execute(&args).await,
            Self::Ddl(args) => ddl::execute(&args).await,
            Self::Prune(args) => prune::execute(&args, screen).await,
            Self::Erase(args) => erase::execute(&args, screen).await,
            Self::Gc(args) => gc::execute(&args, screen).await,
            Self::Check(args) => check::execute(&args).await,
            Self::Simulate(args) => simulate::execute(args).await,
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Arguments::command(), "cdrlake", &mut script);
                print(&script)
            }
            Self::Man => {
                let mut page = Vec::new();
                clap_mangen::Man::new(Arguments::command()).render(&mut page)?;
                print(&page)
            }
        }
    }
}

/// Writes a result to standard output. Whoever stops reading it has seen enough.
fn print(result: &[u8]) -> Result<Exit, CommandError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(result).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CommandError::new(
            Exit::Failed,
            format!("cannot write to standard output: {error}"),
        )),
        _ => Ok(Exit::Success),
    }
}

/// What a warehouse has to be told after something was taken out of the lake; nothing where it need not.
fn hint_for_warehouses(report: &RunReport) -> String {
    if report.partitions_changed.is_empty() {
        return String::new();
    }
    format!(
        "Take them from a warehouse, too: cdrlake ddl --target … --load --changed-by {}\n",
        report.run
    )
}

/// The exit status of what takes something out of the lake.
fn exit_of_removal(report: &RunReport) -> Exit {
    match report.outcome {
        RunOutcome::Committed => Exit::Success,
        RunOutcome::Interrupted => Exit::Interrupted,
        RunOutcome::Partial | RunOutcome::Failed => Exit::Failed,
    }
}

/// A result for programs, as one JSON document.
fn json_text(result: &impl serde::Serialize) -> String {
    let json = serde_json::to_string_pretty(result).expect("our own types always serialise");
    format!("{json}\n")
}

/// What somebody wants to know who interrupts work on a lake.
const LAKE_STAYS: &str = "Interrupted: what is under way is discarded, the lake stays as it is. A second Ctrl-C ends at once.";

/// A token that SIGINT, SIGTERM or SIGHUP cancels, saying `words`. A second signal ends the process at once:
/// what it leaves behind is overwritten by the next run.
fn interrupted_by_signals(words: &'static str) -> io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};

    let token = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // A closed terminal is no reason to leave things lying about, but under `nohup` none to stop.
    let minds_hanging_up = !ignores_hanging_up();
    let mut hang_up = signal(SignalKind::hangup())?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv(), if minds_hanging_up => {}
            }
            if cancelled.is_cancelled() {
                std::process::exit(130);
            }
            cancelled.cancel();
            tracing::warn!("{words}");
        }
    });
    Ok(token)
}

/// Whether this process was started to outlive its terminal: the kernel's list of ignored signals
/// says so, before a handler is installed.
fn ignores_hanging_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}
