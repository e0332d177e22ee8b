//! `cdrlake stream`.

mod arrow;
mod ndjson;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::Arc;

use ::arrow::error::ArrowError;
use clap::{Args, ValueEnum};
use jiff::civil::Date;
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

use self::arrow::ArrowOutput;
use self::ndjson::JsonOutput;
use super::progress::Screen;
use super::run::{RangeArgs, slices, warn_of_cut};
use super::table::{counted, thousands};
use super::{CommandError, Exit, StreamConfigArgs, advice, interrupted_by_signals};
use crate::cdr::slice::parse_day;
use crate::cdr::tally::Counts;
use crate::error::chain;
use crate::ops::Observer;
use crate::ops::days::Selection;
use crate::ops::stream::{ProvenSlice, SliceFailed, SliceStream, StreamRequest, stream};
use crate::retry::StopCause;
use crate::source::wavix::Api;

/// Where a lake is looked for if `lake.url` is not set.
const DEFAULT_LAKE: &str = "./lake";

/// What an interrupted stream prints.
const NO_END: &str = "Interrupted: the stream ends without the mark of its end.";

/// Write the rows of slices to standard output, each once it is proven, without a lake.
#[derive(Clone, Debug, Args)]
pub(super) struct StreamArgs {
    /// The only day, YYYY-MM-DD.
    #[arg(
        long,
        value_name = "DAY",
        value_parser = parse_day,
        conflicts_with_all = ["from", "to", "last"],
        help_heading = "Which slices"
    )]
    day: Option<Date>,
    #[command(flatten)]
    range: RangeArgs,
    /// Include today so far.
    #[arg(long, help_heading = "Which slices")]
    include_today: bool,
    #[command(flatten)]
    config: StreamConfigArgs,
    /// Format of the rows on standard output.
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Result"
    )]
    format: StreamFormat,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum StreamFormat {
    /// One Arrow IPC stream, for programs.
    #[default]
    Arrow,
    /// A JSON object per line, for people.
    Ndjson,
}

impl From<&StreamArgs> for Selection {
    fn from(args: &StreamArgs) -> Self {
        let range = &args.range;
        Self {
            from: args.day.or(range.from),
            to: args.day.or(range.to),
            last_days: range.last,
            include_today: args.include_today,
            direction: range.direction,
            ..Self::default()
        }
    }
}

pub(super) async fn execute(args: StreamArgs, screen: &Screen) -> Result<Exit, CommandError> {
    if args.format == StreamFormat::Arrow && io::stdout().is_terminal() {
        let problem = "an Arrow stream is not for a terminal. Pipe it into a program, or use \
             --format ndjson";
        return Err(CommandError::new(Exit::Usage, problem));
    }
    let config = args.config.load_with(&[("lake.url", DEFAULT_LAKE)])?;
    let interrupt = interrupted_by_signals(NO_END)?;
    let source = Api::try_new(&config.source, Some(config.api_key()?))?;
    let observer = screen.observer(&args.config.rerun(&config.lake.url, false));
    let selection = Selection::from(&args);
    warn_of_cut(&config, &selection);
    let shown = Arc::clone(&observer);
    let slices = stream(
        Arc::new(config),
        Arc::new(source),
        &selection,
        shown,
        &interrupt,
    );
    let mut slices = slices.await?;
    for remark in &slices.remarks {
        tracing::warn!("{}", advice::on_remark(remark));
    }
    // Without the buffer of lines.
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let closed = closed(stdout.try_clone()?);
    let output = Output::new(args.format, slices.request.clone(), stdout);
    let written = tokio::select! {
        written = write_all(&mut slices, output, &*observer, &interrupt) => written,
        () = closed => Err(Ended::Closed),
    };
    slices.stop().await;
    match written {
        Ok(summary) => {
            tracing::info!("{summary}");
            Ok(Exit::Success)
        }
        // As for every command whose reader has seen enough.
        Err(Ended::Closed) => Ok(Exit::Success),
        Err(Ended::Interrupted) => Ok(Exit::Interrupted),
        Err(Ended::Unwritten(error)) => {
            let problem = match &error {
                ArrowError::IoError(_, error) => {
                    format!("cannot write to standard output: {error}")
                }
                error => chain(error),
            };
            Err(CommandError::new(Exit::Failed, problem))
        }
        Err(Ended::Failed { failed, is_first }) => {
            let exit = if is_first && failed.cause == Some(StopCause::Key) {
                Exit::Usage
            } else {
                Exit::Failed
            };
            Err(CommandError::new(exit, advice::on_streamed(&failed)))
        }
    }
}

/// Waits until no one reads a pipe any more, which a program notices otherwise only when it writes.
/// Never ends for anything else.
async fn closed(pipe: File) {
    // It may block: nothing is written to it here.
    if let Ok(pipe) = pipe::Sender::from_file_unchecked(pipe)
        && pipe.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// Why a stream ended before its end.
enum Ended {
    /// No one reads any further.
    Closed,
    Interrupted,
    Unwritten(ArrowError),
    Failed {
        failed: SliceFailed,
        /// Whether no slice passed before it.
        is_first: bool,
    },
}

impl From<ArrowError> for Ended {
    fn from(error: ArrowError) -> Self {
        match error {
            ArrowError::IoError(_, error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Self::Closed
            }
            error => Self::Unwritten(error),
        }
    }
}

/// Writes every slice, and the end. Returns a sentence about all of it.
async fn write_all(
    stream: &mut SliceStream,
    mut output: Output,
    observer: &dyn Observer,
    interrupt: &CancellationToken,
) -> Result<String, Ended> {
    let (mut written, mut counts) = (0, Counts::default());
    loop {
        let proven = match stream.next().await {
            Ok(Some(proven)) => proven,
            Ok(None) => break,
            Err(failed) if failed.is_interrupted => return Err(Ended::Interrupted),
            Err(failed) => {
                let is_first = written == 0;
                return Err(Ended::Failed { failed, is_first });
            }
        };
        written += 1;
        counts.merge(&proven.slice.counts);
        output = aside(interrupt, move || output.write(&proven)).await?;
        observer.slice_looked_at();
    }
    aside(interrupt, move || output.finish()).await?;
    Ok(format!(
        "{} streamed: {} in {}; {}, {} rejected.",
        slices(written),
        counted(counts.rows, "call", "calls"),
        counted(counts.records, "record", "records"),
        counted(counts.duplicates, "duplicate", "duplicates"),
        thousands(counts.rejected)
    ))
}

/// Writes on a thread of its own. A reader that takes its time must not keep an interrupted program
/// from ending.
async fn aside<T: Send + 'static>(
    interrupt: &CancellationToken,
    write: impl FnOnce() -> Result<T, ArrowError> + Send + 'static,
) -> Result<T, Ended> {
    tokio::select! {
        written = tokio::task::spawn_blocking(write) => {
            Ok(written.expect("writing does not panic")?)
        }
        () = interrupt.cancelled() => Err(Ended::Interrupted),
    }
}

/// Standard output, in one of the formats.
enum Output {
    /// Nothing is written before the first slice is proven.
    NoArrow(StreamRequest, File),
    Arrow(ArrowOutput<File>),
    Ndjson(JsonOutput<File>),
}

impl Output {
    fn new(format: StreamFormat, request: StreamRequest, stdout: File) -> Self {
        match format {
            StreamFormat::Arrow => Self::NoArrow(request, stdout),
            StreamFormat::Ndjson => Self::Ndjson(JsonOutput::new(stdout)),
        }
    }

    /// Writes a slice.
    fn write(self, proven: &ProvenSlice) -> Result<Self, ArrowError> {
        match self {
            Self::NoArrow(request, stdout) => {
                Self::Arrow(ArrowOutput::begin(stdout, &request)?).write(proven)
            }
            Self::Arrow(mut output) => {
                for batch in proven.batches()? {
                    output.batch(&batch?)?;
                }
                output.end_slice(&proven.slice)?;
                Ok(Self::Arrow(output))
            }
            Self::Ndjson(mut output) => {
                for batch in proven.batches()? {
                    output.batch(proven.slice(), &batch?)?;
                }
                output.flush()?;
                Ok(Self::Ndjson(output))
            }
        }
    }

    /// Ends what was written.
    fn finish(self) -> Result<(), ArrowError> {
        match self {
            Self::NoArrow(request, stdout) => ArrowOutput::begin(stdout, &request)?.finish(),
            Self::Arrow(output) => output.finish(),
            // The last line is the end.
            Self::Ndjson(_) => Ok(()),
        }
    }
}
