//! The command line: what the user types, and what is printed.

mod advice;
mod check;
mod ddl;
mod demo;
mod erase;
mod every;
mod gc;
mod init;
mod load;
mod progress;
mod prune;
mod rejects;
mod report;
mod run;
mod show;
mod simulate;
mod status;
mod stream;
mod table;
mod tables;
mod terminal;
mod verify;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{
    Arg, ArgMatches, Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand,
    ValueEnum,
};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ConfigError, Overrides, variable};
use crate::error::{chain, is_disk_full, nearest};
use crate::lake::LakeError;
use crate::lake::report::{RunOutcome, RunReport};
use crate::ops;
use crate::source::SourceError;
use crate::source::files::ExportError;
use crate::store::location::Location;
use advice::Rerun;
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
    /// Format of log lines on standard error.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Logging"
    )]
    log_format: LogFormat,
    /// Log every slice even if progress bars are shown. `CDRLAKE_LOG` sets a finer log filter.
    #[arg(short, long, global = true, help_heading = "Logging")]
    verbose: bool,
    /// When to use colours. `auto` heeds `NO_COLOR` and `CLICOLOR_FORCE`.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        help_heading = "Logging"
    )]
    color: ColorChoice,
}

/// `--from` and `--to` of commands that look at all of a lake where no days are given.
const FROM_OF_ALL: &str = "First day, YYYY-MM-DD [default: the first day in the lake]";
const TO_OF_ALL: &str = "Last day, inclusive [default: the last day in the lake]";

/// `--from` of a report.
const FROM_OF_REPORT: &str = "First day, YYYY-MM-DD [default: 29 days before the last day, if the \
     lake goes back so far]";

/// `--lake` of a command that needs no lake.
const LAKE_BESIDE: &str = "A lake to read the period of slices and erased numbers from, if there \
     is one (`lake.url`) [default: ./lake]";

#[derive(Debug, Subcommand)]
enum Command {
    /// Try cdrlake on a simulated API: fill a lake, verify it, and print the next steps.
    #[command(after_help = "Example: cdrlake demo --lake ./demo-lake")]
    Demo(demo::DemoArgs),
    /// Bring the lake up to date.
    #[command(after_help = "Example: cdrlake run --last 7")]
    Run(run::RunArgs),
    /// Write the rows of slices to standard output, each once it is proven, without a lake.
    #[command(
        after_help = "Example: cdrlake stream --direction placed --day 2026-10-01 > calls.arrow",
        mut_arg("lake", |lake| lake.help(LAKE_BESIDE))
    )]
    Stream(stream::StreamArgs),
    /// Load an export from files, day by day.
    #[command(after_help = "Example: cdrlake load placed-2025.csv.gz --direction placed --dry-run")]
    Load(load::LoadArgs),
    /// Show what `run` would do, and why.
    #[command(after_help = "Example: cdrlake plan --last 7")]
    Plan(run::PlanArgs),
    /// Show the lake by day, from its ledger.
    #[command(after_help = "Example: cdrlake status --last 30")]
    Status(status::StatusArgs),
    /// Show all that the lake knows about a slice: request, counts, file, rejects, and its runs.
    #[command(after_help = "Example: cdrlake show 2026-10-01 --direction placed")]
    Show(show::ShowArgs),
    /// Write a page about the calls of a period: usage, disruptions, spend, and how complete it is.
    #[command(
        after_help = "Example: cdrlake report --last 30 --output november.html",
        mut_arg("from", |from| from.help(FROM_OF_REPORT))
    )]
    Report(report::ReportArgs),
    /// Read the whole lake and verify it against its ledger.
    #[command(
        after_help = "Example: cdrlake verify --last 30 --source",
        mut_arg("from", |from| from.help(FROM_OF_ALL)),
        mut_arg("to", |to| to.help(TO_OF_ALL))
    )]
    Verify(verify::VerifyArgs),
    /// List rejected records and the reasons, including those of failed slices.
    #[command(
        after_help = "Example: cdrlake rejects --last 7",
        mut_arg("from", |from| from.help(FROM_OF_ALL)),
        mut_arg("to", |to| to.help(TO_OF_ALL))
    )]
    Rejects(rejects::RejectsArgs),
    /// Print SQL for a warehouse: the table's definition, its load, or a query that checks it.
    #[command(after_help = "Example: cdrlake ddl --target duckdb")]
    Ddl(ddl::DdlArgs),
    /// Remove days that are older than a given age.
    #[command(after_help = "Example: cdrlake prune --older-than 18months --dry-run")]
    Prune(prune::PruneArgs),
    /// Erase the calls of a number from the lake, and block its future calls.
    #[command(after_help = "Example: cdrlake erase --number +13025550101 --dry-run")]
    Erase(erase::EraseArgs),
    /// Remove leftovers of crashed runs, and old run reports.
    #[command(after_help = "Example: cdrlake gc --lake ./lake")]
    Gc(gc::GcArgs),
    /// List the current files of the table, by the ledger.
    #[command(
        after_help = "Example: cdrlake files --last 7",
        mut_arg("from", |from| from.help(FROM_OF_ALL)),
        mut_arg("to", |to| to.help(TO_OF_ALL))
    )]
    Files(tables::FilesArgs),
    /// Give the lake the logs of table formats, or a file for each month.
    #[command(
        after_help = "Examples:\n  cdrlake convert --tables delta,iceberg --lake ./lake\n  \
                      cdrlake convert --slice month --lake ./lake"
    )]
    Convert(tables::ConvertArgs),
    /// Bring the logs of table formats up to date with the ledger.
    #[command(after_help = "Example: cdrlake sync --lake ./lake")]
    Sync(tables::SyncArgs),
    /// Write a configuration file, with a comment for every key.
    #[command(
        after_help = "Example: cdrlake init --lake ./lake --start 2026-01-01",
        mut_arg("config", |config| config.help(
            "The file to write, which must not exist yet [default: pipeline.toml]"
        ))
    )]
    Init(init::InitArgs),
    /// Check the configuration, the API key, the API and the lake.
    #[command(after_help = "Example: cdrlake check --lake ./lake --api-key-env WAVIX_API_KEY")]
    Check(CheckArgs),
    /// Serve the simulated API on a port of this machine.
    #[command(after_help = "Example: cdrlake simulate --port 8080 --fault flaky=5")]
    Simulate(simulate::SimulateArgs),
    /// Print a completion script for a shell.
    #[command(after_help = "Example: cdrlake completions bash > \
             ~/.local/share/bash-completion/completions/cdrlake")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff.
    #[command(after_help = "Example: cdrlake man | man -l -")]
    Man,
}

/// A flag that stands for a key of the configuration.
#[derive(Debug)]
struct Flag {
    /// Its name in clap.
    name: &'static str,
    /// As messages have it, with its hyphens.
    shown: &'static str,
    key: &'static str,
    value_name: &'static str,
    help: &'static str,
    /// Which commands have it.
    group: u16,
}

/// Groups of flags, beside `--config` and `--lake`, which every command has that reads a
/// configuration.
mod uses {
    pub(super) const URL: u16 = 1;
    pub(super) const KEY: u16 = 2;
    pub(super) const VIA: u16 = 4;
    pub(super) const REQUESTS: u16 = 8;
    pub(super) const TIMEZONE: u16 = 16;
    pub(super) const RECONCILE: u16 = 32;
    pub(super) const ASSUME_TIMEZONE: u16 = 64;
    pub(super) const START: u16 = 128;
    pub(super) const METRICS: u16 = 256;
}

const FLAGS: [Flag; 11] = [
    Flag {
        name: "lake",
        shown: "--lake",
        key: "lake.url",
        value_name: "PLACE",
        help: "The lake's address (`lake.url`): a directory, `s3://bucket/prefix`, `gs://…` or \
             `az://…`",
        group: 0,
    },
    Flag {
        name: "source-url",
        shown: "--source-url",
        key: "source.url",
        value_name: "URL",
        help: "The API's address (`source.url`)",
        group: uses::URL,
    },
    Flag {
        name: "api-key-env",
        shown: "--api-key-env",
        key: "source.api_key.env",
        value_name: "VARIABLE",
        help: "The variable that holds the API key (`source.api_key.env`)",
        group: uses::KEY,
    },
    Flag {
        name: "api-key-file",
        shown: "--api-key-file",
        key: "source.api_key.file",
        value_name: "FILE",
        help: "The file that holds the API key (`source.api_key.file`)",
        group: uses::KEY,
    },
    Flag {
        name: "via",
        shown: "--via",
        key: "source.via",
        value_name: "WAY",
        help: "The API's resource to read calls from (`source.via`): stream, pages or csv",
        group: uses::VIA,
    },
    Flag {
        name: "requests",
        shown: "--requests",
        key: "source.requests",
        value_name: "N",
        help: "Number of slices fetched at once (`source.requests`)",
        group: uses::REQUESTS,
    },
    Flag {
        name: "timezone",
        shown: "--timezone",
        key: "window.timezone",
        value_name: "ZONE",
        help: "Time zone of the account's days (`window.timezone`)",
        group: uses::TIMEZONE,
    },
    Flag {
        name: "reconcile",
        shown: "--reconcile",
        key: "quality.reconcile",
        value_name: "WHAT",
        help: "What to do on a count mismatch (`quality.reconcile`): fail, warn or off",
        group: uses::RECONCILE,
    },
    Flag {
        name: "assume-timezone",
        shown: "--assume-timezone",
        key: "source.assume_timezone",
        value_name: "ZONE",
        help: "Time zone of times without a UTC offset (`source.assume_timezone`), otherwise \
             rejected",
        group: uses::ASSUME_TIMEZONE,
    },
    Flag {
        name: "start",
        shown: "--start",
        key: "window.start",
        value_name: "DAY",
        help: "First day of the lake, YYYY-MM-DD (`window.start`)",
        group: uses::START,
    },
    Flag {
        name: "metrics-file",
        shown: "--metrics-file",
        key: "metrics.file",
        value_name: "FILE",
        help: "The file to write metrics for Prometheus to, after each run (`metrics.file`)",
        group: uses::METRICS,
    },
];

/// Where the configuration comes from: the groups of flags that a command uses, and no others.
/// Flags win over variables (`CDRLAKE_SOURCE_URL` …), variables over the file.
#[derive(Clone, Debug, Default)]
struct ConfigArgs<const USES: u16> {
    config: Option<PathBuf>,
    /// The flags that were given, with their values.
    given: Vec<(&'static Flag, String)>,
}

/// For commands that need only the lake's address.
type LakeArgs = ConfigArgs<0>;
/// For what a run would do.
type PlanConfigArgs = ConfigArgs<{ uses::URL | uses::TIMEZONE }>;
/// For what a run needs.
type CheckArgs = ConfigArgs<{ uses::URL | uses::KEY | uses::METRICS }>;
/// For commands that fetch slices, by days of the lake.
type RepairConfigArgs =
    ConfigArgs<{ uses::URL | uses::KEY | uses::VIA | uses::REQUESTS | uses::RECONCILE }>;
/// For commands that cut days and compare them.
type LoadConfigArgs = ConfigArgs<
    {
        uses::URL
            | uses::KEY
            | uses::REQUESTS
            | uses::TIMEZONE
            | uses::RECONCILE
            | uses::ASSUME_TIMEZONE
    },
>;
/// For a run.
type RunConfigArgs = ConfigArgs<{ u16::MAX ^ uses::ASSUME_TIMEZONE ^ uses::START }>;
/// For slices that go to no lake.
type StreamConfigArgs =
    ConfigArgs<{ u16::MAX ^ uses::ASSUME_TIMEZONE ^ uses::START ^ uses::METRICS }>;
/// For the file of a lake that is to be.
type InitConfigArgs = ConfigArgs<{ u16::MAX ^ uses::ASSUME_TIMEZONE }>;

impl<const USES: u16> FromArgMatches for ConfigArgs<USES> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |flag: &Flag| matches.get_one::<String>(flag.name).cloned();
        Ok(Self {
            config: matches.get_one("config").cloned(),
            given: Self::flags()
                .filter_map(|flag| Some((flag, value(flag)?)))
                .collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<const USES: u16> Args for ConfigArgs<USES> {
    fn augment_args(command: clap::Command) -> clap::Command {
        let arg = |name: &'static str, value_name: &'static str, help: &'static str| {
            Arg::new(name)
                .long(name)
                .value_name(value_name)
                .help(help)
                .help_heading("Configuration")
        };
        let config = arg(
            "config",
            "FILE",
            "The configuration file [default: pipeline.toml, if it exists]",
        );
        let flags = Self::flags().map(|flag| {
            let arg = arg(flag.name, flag.value_name, flag.help);
            match flag.name {
                "api-key-env" => arg.conflicts_with("api-key-file"),
                _ => arg,
            }
        });
        command
            .arg(config.value_parser(clap::value_parser!(PathBuf)))
            .args(flags)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl<const USES: u16> ConfigArgs<USES> {
    /// The flags that the command has.
    fn flags() -> impl Iterator<Item = &'static Flag> {
        FLAGS
            .iter()
            .filter(|flag| flag.group == 0 || flag.group & USES != 0)
    }

    /// The flags as they were given, for a command that means the same lake: ` --lake ./x`.
    fn as_flags(&self) -> String {
        let config = self
            .config
            .as_ref()
            .map(|file| ("--config", file.display().to_string()));
        let given = self
            .given
            .iter()
            .map(|(flag, value)| (flag.shown, value.clone()));
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

    /// The same, but only what every command takes.
    fn as_lake_flags(&self) -> String {
        let given = self.given.iter().filter(|(flag, _)| flag.group == 0);
        LakeArgs {
            config: self.config.clone(),
            given: given.cloned().collect(),
        }
        .as_flags()
    }

    /// The flag or the variable that sets this key, if the file does not.
    fn override_of(&self, key: &str) -> Option<String> {
        let flag = self.given.iter().find(|(flag, _)| flag.key == key);
        let flag = flag.map(|(flag, _)| flag.shown.to_owned());
        let variable = || Some(variable(key)).filter(|name| std::env::var_os(name).is_some());
        flag.or_else(variable)
    }

    /// How to run again on the lake at `root` with these flags.
    fn rerun(&self, root: &Location, allow_shrink: bool) -> Rerun {
        let is_of_run = |flag: &Flag| RunConfigArgs::flags().any(|of| of.name == flag.name);
        let given = self.given.iter().filter(|(flag, _)| is_of_run(flag));
        let (reconcile, others): (Vec<_>, Vec<_>) = given
            .cloned()
            .partition(|(flag, _)| flag.key == "quality.reconcile");
        let flags = |config, given| RunConfigArgs { config, given }.as_flags();
        Rerun {
            root: root.clone(),
            flags: flags(self.config.clone(), others),
            reconcile: flags(None, reconcile),
            allow_shrink,
            is_of_run: USES & uses::URL != 0,
        }
    }

    fn load(&self) -> Result<Config, ConfigError> {
        self.load_with(&[])
    }

    /// The same with other `defaults` of some keys.
    fn load_with(&self, defaults: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref(), &self.overrides(), defaults)
    }

    /// The keys that were given.
    fn overrides(&self) -> Overrides {
        let given = self.given.iter();
        given
            .map(|(flag, value)| (flag.key, value.clone(), flag.shown))
            .collect()
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

/// Exit status. `docs/commands.md` explains each.
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

impl Exit {
    /// The exit status of a command that ends with `error`.
    fn of(error: &ops::Error) -> Self {
        match error {
            ops::Error::Lake(LakeError::Store(store)) if is_disk_full(store) => Self::Failed,
            ops::Error::Export(error) => match error {
                ExportError::Input { .. }
                | ExportError::Directory { .. }
                | ExportError::Unsupported { .. } => Self::Usage,
                ExportError::Spool { .. } if !is_disk_full(error) => Self::Usage,
                ExportError::Interrupted => Self::Interrupted,
                _ => Self::Failed,
            },
            ops::Error::Source(error) => Self::of_source(error),
            ops::Error::Io(_)
            // One log failed, the others are up to date.
            | ops::Error::Lake(LakeError::TableLog { .. } | LakeError::Catalog(_))
            | ops::Error::CheckUnderWay
            | ops::Error::IgnoresConditions
            | ops::Error::NotProven { .. }
            | ops::Error::NotMergeable { .. }
            | ops::Error::NotMerged { .. }
            | ops::Error::Uncertain { .. }
            | ops::Error::NumberNotFound { .. }
            | ops::Error::Undated { .. } => Self::Failed,
            _ => Self::Usage,
        }
    }

    /// The exit status of a command that the source refused, or did not answer.
    fn of_source(error: &SourceError) -> Self {
        match error {
            SourceError::Refused { .. } | SourceError::Setup(_) => Self::Usage,
            _ => Self::Failed,
        }
    }
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

impl<E: Into<ops::Error>> From<E> for CommandError {
    fn from(error: E) -> Self {
        let error = error.into();
        let mut message = chain(&error);
        if let Some(advice) = advice::on_error(&error) {
            let is_ended = message.ends_with(['?', '…']);
            message.push_str(if is_ended { " " } else { ". " });
            message.push_str(&advice);
        }
        Self::new(Exit::of(&error), message)
    }
}

impl Arguments {
    /// The arguments of this process. Ends it where they are wrong, or where help is requested.
    pub fn of_process() -> Self {
        Self::try_parse().unwrap_or_else(|error| with_similar_command(error).exit())
    }

    /// Executes the command, and prints on standard error what went wrong.
    pub async fn execute(self) -> Exit {
        match self.color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        }
        .write_global();
        let screen = progress::Screen::start(self.log_format, self.verbose);
        // On the heap: it has room for whatever any command needs.
        Box::pin(self.command.execute(&screen))
            .await
            .unwrap_or_else(|error| {
                screen.print_error(&error.message);
                error.exit
            })
    }
}

/// The error with the most similar command, if the command is unknown. Clap does not suggest `run`
/// for `rnu`.
fn with_similar_command(mut error: clap::Error) -> clap::Error {
    let invalid = error.get(ContextKind::InvalidSubcommand);
    if error.get(ContextKind::SuggestedSubcommand).is_none()
        && let Some(ContextValue::String(given)) = invalid
    {
        let command = Arguments::command();
        let names = command.get_subcommands().map(clap::Command::get_name);
        if let Some(name) = nearest(given, names) {
            let names = ContextValue::Strings(vec![name.to_owned()]);
            error.insert(ContextKind::SuggestedSubcommand, names);
        }
    }
    error
}

impl Command {
    async fn execute(self, screen: &progress::Screen) -> Result<Exit, CommandError> {
        match self {
            Self::Demo(args) => demo::execute(args, screen).await,
            Self::Run(args) => run::execute(args, screen).await,
            Self::Stream(args) => stream::execute(args, screen).await,
            Self::Load(args) => load::execute(args, screen).await,
            Self::Plan(args) => run::plan(&args).await,
            Self::Status(args) => status::execute(&args).await,
            Self::Show(args) => show::execute(&args).await,
            Self::Report(args) => report::execute(&args).await,
            Self::Verify(args) => verify::execute(args, screen).await,
            Self::Rejects(args) => rejects::execute(&args).await,
            Self::Ddl(args) => ddl::execute(&args).await,
            Self::Prune(args) => prune::execute(&args, screen).await,
            Self::Erase(args) => erase::execute(&args, screen).await,
            Self::Gc(args) => gc::execute(&args, screen).await,
            Self::Files(args) => tables::execute_files(&args).await,
            Self::Convert(args) => tables::execute_convert(&args, screen).await,
            Self::Sync(args) => tables::execute_sync(&args).await,
            Self::Init(args) => init::execute(&args),
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

/// Writes a result to standard output. A closed pipe is not an error.
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

/// A command that removes erased or pruned days from warehouses, whatever they read of the lake;
/// empty if no day changed.
fn hint_for_warehouses(report: &RunReport) -> String {
    if report.partitions_changed.is_empty() {
        return String::new();
    }
    "Update warehouses that have a copy of the rows or a pointer to a metadata file: cdrlake ddl \
     --target … --load --changed-since RUN, with the RUN of the first line of their last load.\n"
        .to_owned()
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

/// What an interrupted command prints.
const LAKE_STAYS: &str = "Interrupted: discarding unfinished work; the lake stays consistent.";

const ANOTHER_SIGNAL: &str = "Another signal ends it at once.";

/// A token that SIGINT, SIGTERM or SIGHUP cancels, with `words` as a warning. A second signal ends
/// the process at once; the next run overwrites its leftovers.
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
            let again = tokio::select! {
                _ = interrupt.recv() => "Press Ctrl-C again to exit at once.",
                _ = terminate.recv() => ANOTHER_SIGNAL,
                _ = hang_up.recv(), if minds_hanging_up => ANOTHER_SIGNAL,
            };
            if cancelled.is_cancelled() {
                std::process::exit(130);
            }
            cancelled.cancel();
            tracing::warn!("{words} {again}");
        }
    });
    Ok(token)
}

/// Whether this process was started to outlive its terminal, by the kernel's list of ignored
/// signals. Must be called before a handler is installed.
fn ignores_hanging_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;
    use crate::ops::UsageError;
    use crate::source::files::FileKind;
    use crate::store::StoreError;

    #[derive(Debug, Parser)]
    struct OfRun {
        #[command(flatten)]
        config: RunConfigArgs,
    }

    fn given(arguments: &[&str]) -> RunConfigArgs {
        let arguments = ["run"].iter().chain(arguments);
        OfRun::try_parse_from(arguments).unwrap().config
    }

    #[test]
    fn the_definitions_of_the_commands_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_misspelled_command_gets_a_suggestion() {
        let tip = |command| {
            let error = Arguments::try_parse_from(["cdrlake", command]).unwrap_err();
            with_similar_command(error).to_string()
        };
        for (misspelled, command) in [("rnu", "run"), ("statsu", "status"), ("chek", "check")] {
            let text = tip(misspelled);
            assert!(
                text.contains(&format!("similar subcommand exists: '{command}'")),
                "{text}"
            );
        }
        assert!(!tip("xyzzy").contains("similar"));
    }

    #[test]
    fn advised_flags_are_quoted_for_a_shell() {
        let given = given(&[
            "--requests",
            "8",
            "--lake",
            "my lake",
            "--config",
            "it's.toml",
            "--source-url",
            "http://localhost:8080/",
        ]);
        assert_eq!(
            given.as_flags(),
            r" --config 'it'\''s.toml' --lake 'my lake' --source-url http://localhost:8080/ --requests 8"
        );
        assert_eq!(
            given.as_lake_flags(),
            r" --config 'it'\''s.toml' --lake 'my lake'"
        );
    }

    #[test]
    fn a_command_to_run_again_has_the_flags_that_a_run_takes() {
        let root = "./lake".parse().unwrap();
        let rerun = given(&["--reconcile", "warn", "--lake", "./lake"]).rerun(&root, true);
        assert_eq!(rerun.flags, " --lake ./lake");
        assert_eq!(rerun.reconcile, " --reconcile warn");
        assert!(rerun.is_of_run && rerun.allow_shrink);
        assert!(!LakeArgs::default().rerun(&root, false).is_of_run);
        let zone = FLAGS.iter().find(|flag| flag.name == "assume-timezone");
        let of_load = LoadConfigArgs {
            config: None,
            given: vec![(zone.unwrap(), "UTC".to_owned())],
        };
        assert_eq!(of_load.rerun(&root, false).flags, "");
    }

    #[test]
    fn a_flag_belongs_to_the_commands_that_use_it() {
        let names =
            |flags: Vec<&Flag>| -> Vec<&str> { flags.into_iter().map(|flag| flag.shown).collect() };
        assert_eq!(names(LakeArgs::flags().collect()), ["--lake"]);
        assert_eq!(
            names(CheckArgs::flags().collect()),
            [
                "--lake",
                "--source-url",
                "--api-key-env",
                "--api-key-file",
                "--metrics-file"
            ]
        );
        let of_run = names(RunConfigArgs::flags().collect());
        let of_load = names(LoadConfigArgs::flags().collect());
        assert!(!of_run.contains(&"--assume-timezone"), "{of_run:?}");
        assert!(of_load.contains(&"--assume-timezone"), "{of_load:?}");
        assert!(!of_load.contains(&"--via"), "{of_load:?}");
    }

    #[test]
    fn an_error_has_a_status_and_the_command_line_s_advice() {
        let place: crate::store::location::Location = "./lake".parse().unwrap();
        let lost = || io::Error::from(io::ErrorKind::StorageFull);
        let store = || StoreError {
            action: "write",
            path: "x".into(),
            source: lost().into(),
        };
        let denied = |action| StoreError {
            action,
            path: "x".into(),
            source: io::Error::from(io::ErrorKind::PermissionDenied).into(),
        };
        for (error, exit, said) in [
            (
                ops::Error::from(denied("read")),
                Exit::Usage,
                "cannot read x: permission denied. Check lake.url and who may read there",
            ),
            (
                ops::Error::from(denied("create")),
                Exit::Usage,
                "cannot create x: permission denied. Check lake.url and who may write there",
            ),
            (
                ops::Error::NoLake { place },
                Exit::Usage,
                "there is no lake at ./lake. Check lake.url or --lake, or make the lake with \
                 `cdrlake run`",
            ),
            (
                ops::Error::from(store()),
                Exit::Failed,
                "cannot write x: no storage space. Make room there and run again",
            ),
            (
                ops::Error::Spool(store()),
                Exit::Usage,
                "no storage space. Set limits.spool_dir to a directory with room",
            ),
            (
                ConfigError::new(Origin::Flag("--lake"), "lake.url is odd").into(),
                Exit::Usage,
                "flag --lake: lake.url is odd",
            ),
            (
                Config::from_keys([("lake.lease", "1m")])
                    .unwrap_err()
                    .into(),
                Exit::Usage,
                "lake.url is not set. Set it in pipeline.toml, which `cdrlake init` writes, or use \
                 --lake",
            ),
            (
                UsageError::NoDays.into(),
                Exit::Usage,
                "window.start is not set. Set window.start in pipeline.toml to the first day",
            ),
            (
                UsageError::NoReports { since: true }.into(),
                Exit::Usage,
                "the lake has no run report yet. Load everything, without --changed-since",
            ),
            (
                ExportError::Unsupported {
                    name: "calls".to_owned(),
                    kind: FileKind::Xz,
                }
                .into(),
                Exit::Usage,
                "calls is compressed with xz. Nothing was loaded. Pipe it in: xzcat FILE | cdrlake \
                 load",
            ),
            (
                ExportError::Interrupted.into(),
                Exit::Interrupted,
                "interrupted while the export was split. Nothing was loaded",
            ),
            (ops::Error::CheckUnderWay, Exit::Failed, "Try again"),
        ] {
            let error = CommandError::from(error);
            assert_eq!(error.exit, exit, "{error:?}");
            assert!(error.message.contains(said), "{}", error.message);
        }
    }
}
