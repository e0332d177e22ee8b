//! Standard error: log lines, and bars on a terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::advice::{self, Rerun};
use super::terminal::colours_log;
use crate::cdr::slice::Slice;
use crate::lake::report::{SliceOutcome, SliceReport};
use crate::ops::Observer;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Standard error, shared by log lines and bars.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    bars: MultiProgress,
    shows_bars: bool,
    format: LogFormat,
}

impl Screen {
    /// Sets up logging for the process.
    pub(super) fn start(format: LogFormat, verbose: bool) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let screen = Self {
            bars: MultiProgress::new(),
            shows_bars: is_terminal && format == LogFormat::Text,
            format,
        };
        // With progress bars, only warnings are logged, and always the retries of the object store,
        // which explain why nothing else happens, and that a lake was made.
        let default = if screen.shows_bars && !verbose {
            "warn,object_store=info,cdrlake::ops::open=info"
        } else {
            "warn,object_store=info,cdrlake=info"
        };
        let (filter, problem) = log_filter(std::env::var("CDRLAKE_LOG").ok(), default);
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(LogWriter(screen.clone()))
            .with_target(false);
        match format {
            LogFormat::Text => {
                subscriber.with_ansi(colours_log()).init();
            }
            LogFormat::Json => subscriber
                .json()
                .flatten_event(true)
                .with_target(true)
                .init(),
        }
        if let Some(problem) = problem {
            tracing::warn!("{problem}");
        }
        screen
    }

    /// Writes a line to standard error. Failures are ignored: there is no other place to report
    /// them.
    pub(super) fn print_line(&self, line: &str) {
        self.write_above_bars(format!("{line}\n").as_bytes());
    }

    /// Writes to standard error, above the bars. What cannot be written must not end a run: bars
    /// that make room on a terminal that has been closed would panic.
    fn write_above_bars(&self, text: &[u8]) {
        let write = || drop(io::stderr().write_all(text));
        if self.shows_bars && io::stderr().is_terminal() {
            self.bars.suspend(write);
        } else {
            write();
        }
    }

    /// Prints why a command failed: the last sentence the user reads.
    pub(super) fn print_error(&self, sentence: &str) {
        match self.format {
            LogFormat::Text => self.print_line(&format!("error: {sentence}")),
            LogFormat::Json => tracing::error!("{sentence}"),
        }
    }

    /// A bar that counts `slices` slices; a hidden one where bars are not shown.
    fn bar(&self, slices: usize) -> ProgressBar {
        if !self.shows_bars || slices == 0 {
            return ProgressBar::hidden();
        }
        let style = "{spinner} {pos}/{len} slices [{bar:24}] {elapsed} · {wide_msg}";
        let style = ProgressStyle::with_template(style)
            .expect("a valid template")
            .progress_chars("█▌ ");
        let bar = self
            .bars
            .add(ProgressBar::new(slices as u64).with_style(style));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// A bar that counts bytes read, of `total` or of an unknown number.
    fn bytes_bar(&self, total: u64) -> ProgressBar {
        if !self.shows_bars {
            return ProgressBar::hidden();
        }
        let (bar, style) = if total > 0 {
            let style = "{spinner} {bytes}/{total_bytes} [{bar:24}] {elapsed} · {bytes_per_sec}";
            (ProgressBar::new(total), style)
        } else {
            let style = "{spinner} {bytes} {elapsed} · {bytes_per_sec}";
            (ProgressBar::no_length(), style)
        };
        let style = ProgressStyle::with_template(style)
            .expect("a valid template")
            .progress_chars("█▌ ");
        let bar = self.bars.add(bar.with_style(style));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// Shows how something goes on with a lake, and for slices that fail how to run again.
    pub(super) fn observer(&self, rerun: &Rerun) -> Arc<Watcher> {
        Arc::new(Watcher {
            rerun: rerun.clone(),
            screen: self.clone(),
            bar: Mutex::new(ProgressBar::hidden()),
            records: AtomicU64::new(0),
        })
    }
}

/// Shows progress: a bar on a terminal, otherwise a log line for each slice of a run.
#[derive(Debug)]
pub(super) struct Watcher {
    rerun: Rerun,
    screen: Screen,
    bar: Mutex<ProgressBar>,
    records: AtomicU64,
}

impl Watcher {
    fn bar(&self) -> MutexGuard<'_, ProgressBar> {
        self.bar
            .lock()
            .expect("no code panics while it holds the lock")
    }

    /// Shows another bar in place of the one before.
    fn replace(&self, bar: ProgressBar) {
        std::mem::replace(&mut *self.bar(), bar).finish_and_clear();
    }
}

impl Observer for Watcher {
    fn reading_began(&self, bytes: u64) {
        self.replace(self.screen.bytes_bar(bytes));
    }

    fn bytes_read(&self, bytes: u64) {
        self.bar().inc(bytes);
    }

    fn slices_began(&self, slices: usize) {
        self.replace(self.screen.bar(slices));
    }

    fn slice_began(&self, slice: Slice, attempt: u32) {
        tracing::debug!(slice = slice.to_string(), attempt, "Fetching.");
    }

    fn records_read(&self, records: u64) {
        let total = self.records.fetch_add(records, Ordering::Relaxed) + records;
        let bar = self.bar().clone();
        if !bar.is_hidden() {
            let seconds = bar.elapsed().as_secs().max(1);
            bar.set_message(format!(
                "{} records, {}/s",
                super::table::thousands(total),
                super::table::thousands(total / seconds)
            ));
        }
    }

    fn slice_ended(&self, report: &SliceReport) {
        self.slice_looked_at();
        let slice = report.slice().to_string();
        if let Some(change) = &report.change {
            tracing::info!(slice, "Slice changed: {change}.");
        }
        match report.outcome {
            SliceOutcome::Committed | SliceOutcome::Unchanged => {
                let outcome = if report.outcome == SliceOutcome::Committed {
                    "Slice committed."
                } else {
                    "Slice unchanged."
                };
                tracing::info!(
                    slice,
                    rows = report.counts.rows,
                    attempts = report.attempts,
                    "{outcome}"
                );
            }
            SliceOutcome::Skipped => tracing::info!(slice, "Slice skipped."),
            // Failures without advice are logged by the run.
            SliceOutcome::Failed => {
                if let Some(problem) = advice::on_slice(report, &self.rerun) {
                    tracing::error!(slice, "{problem}");
                }
            }
        }
    }

    fn slice_looked_at(&self) {
        self.bar().inc(1);
    }

    fn ended(&self) {
        self.replace(ProgressBar::hidden());
    }
}

/// The filter of log lines that was asked for, or the `default`, and what is wrong with what was
/// asked for.
fn log_filter(asked_for: Option<String>, default: &str) -> (EnvFilter, Option<String>) {
    let standard = || EnvFilter::new(default);
    let Some(asked_for) = asked_for.filter(|filter| !filter.is_empty()) else {
        return (standard(), None);
    };
    let wrong = |why: &str| {
        let remedy = "write a level (error, warn, info, debug, trace, off), or cdrlake=debug";
        Some(format!(
            "CDRLAKE_LOG is ignored, because it {why}: {remedy}"
        ))
    };
    // A bare word that is no level is taken for a part of the program, of which all would be shown,
    // and nothing else.
    let is_word = asked_for.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_word && asked_for != "cdrlake" && asked_for.parse::<LevelFilter>().is_err() {
        return (standard(), wrong("is not a level"));
    }
    match EnvFilter::try_new(asked_for) {
        Ok(filter) => (filter, None),
        Err(error) => (standard(), wrong(&format!("is not a filter ({error})"))),
    }
}

/// Writes log lines above the bars.
#[derive(Clone, Debug)]
struct LogWriter(Screen);

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // The logger must not complain about a line that cannot be written.
        self.0.write_above_bars(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
