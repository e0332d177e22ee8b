//! Why an operation did not start, or did not finish.

use std::io;
use std::path::PathBuf;

use jiff::civil::Date;

use super::metrics::MetricsError;
use super::removal::erase::Search;
use super::run::IGNORES_CONDITIONS;
use super::run::reports::KEPT_DAYS;
use crate::cdr::slice::{Direction, FIRST_DAY, Slice};
use crate::config::ConfigError;
use crate::error::counted;
use crate::lake::{LakeError, TableFormat};
use crate::source::SourceError;
use crate::source::files::{ExportError, Undated};
use crate::store::StoreError;
use crate::store::location::Location;
use crate::warehouse::DdlError;

/// Most problems that a message lists.
const MAX_LISTED: usize = 10;

/// The operation has no result. The texts name keys of the configuration, but no flags and
/// commands: the command line adds those.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request contradicts itself, the configuration or the lake.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The lake cannot be read or written.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The configuration names a place without a lake.
    #[error("there is no lake at {place}")]
    NoLake {
        /// `lake.url`.
        place: Location,
    },
    /// The lake would lie in the table of another one, which would read it as its own.
    #[error("lake.url is {place}, inside the lake {outer}. Choose another place")]
    WithinALake {
        /// `lake.url`.
        place: Location,
        /// Where the other lake lies.
        outer: String,
    },
    /// A link that leads nowhere is no place for a lake, and looks like one that is not there yet.
    #[error(
        "lake.url is {}, but {} is a link to {}, which does not exist. Create or mount that, or \
         correct the link",
        root.display(),
        link.display(),
        target.display()
    )]
    DanglingLink {
        /// `lake.url`.
        root: PathBuf,
        /// The link, which is it or lies above it.
        link: PathBuf,
        /// What it names.
        target: PathBuf,
    },
    /// An export cannot be read.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// An export has records that cannot be assigned to a day. Nothing was loaded.
    #[error("{}: {}", undated.counted(), undated.listed())]
    Undated {
        /// How many, and the first of them.
        undated: Undated,
    },
    /// There are no such statements for a warehouse.
    #[error(transparent)]
    Warehouse(#[from] DdlError),
    /// The source does not answer, or refuses.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Another check of the lake writes where this one would.
    #[error("another check of this lake is running. Try again later")]
    CheckUnderWay,
    /// Two runs could harm each other.
    #[error("the file system ignores conditional writes, so concurrent runs could damage the lake")]
    IgnoresConditions,
    /// The ledger does not show what the lake holds of a slice.
    #[error(
        "the content of {slice} is uncertain: a run crashed while it published the slice, or the \
         ledger entry is damaged"
    )]
    Uncertain {
        /// The slice.
        slice: Slice,
    },
    /// Days cannot be merged into months.
    #[error(
        "the days of this lake cannot be merged into months. {}{}",
        problems[..problems.len().min(MAX_LISTED)].join(". "),
        match problems.len().saturating_sub(MAX_LISTED) {
            0 => String::new(),
            more => format!(". And {}", counted(more as u64, "other problem", "other problems")),
        }
    )]
    NotMergeable {
        /// Which days or months, and why not.
        problems: Vec<String>,
    },
    /// The days of a month could not be merged. They are as they were.
    #[error("the days of {slice} could not be merged: {problem}")]
    NotMerged {
        /// The month.
        slice: Slice,
        /// Why not.
        problem: String,
    },
    /// The demo's lake does not hold what was sent.
    #[error("{slice}: {problem}. Please report this: it is a bug in cdrlake")]
    NotProven {
        /// Which slice.
        slice: Slice,
        /// What is wrong with it.
        problem: String,
    },
    /// The lake holds nothing of a number, as far as could be seen.
    #[error(
        "the number was not found in {}",
        counted(found.slices.len() as u64, "slice", "slices")
    )]
    NumberNotFound {
        /// What was looked at.
        found: Search,
    },
    /// Files on their way into a bucket have no place on this machine.
    #[error(transparent)]
    Spool(StoreError),
    /// Metrics cannot be left where the configuration says.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The file system does not answer.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The request contradicts itself, the configuration or the lake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// The range of days is reversed.
    #[error("the first day, {from}, is after the last day, {to}")]
    ReversedDays {
        /// The first day.
        from: Date,
        /// The last day.
        to: Date,
    },
    /// Neither the selection nor the configuration has a first day.
    #[error("no days are selected, and window.start is not set")]
    NoDays,
    /// The lake has nothing of the selected days.
    #[error(
        "the lake has no calls from {from} to {to}: {}",
        known.map_or_else(
            || "nothing was fetched yet".to_owned(),
            |(first, last)| format!("it has days from {first} to {last}")
        )
    )]
    NothingFetched {
        /// The first selected day.
        from: Date,
        /// The last one.
        to: Date,
        /// The first and the last day in the ledger.
        known: Option<(Date, Date)>,
    },
    /// The lake has no logs of table formats.
    #[error("this lake has no table formats")]
    NoTables,
    /// The lake has no log of this table format.
    #[error("this lake is not a table of {format}")]
    NoTable {
        /// The table format.
        format: TableFormat,
    },
    /// The log of Apache Iceberg has no metadata file yet.
    #[error("this lake has no metadata of Apache Iceberg yet")]
    NoMetadata,
    /// A copy of the lake cannot be read by its Iceberg log.
    #[error(
        "the metadata of Apache Iceberg names files by the lake's address, {address}, so it does \
         not list those of a copy at {location}"
    )]
    OtherAddress {
        /// The lake's address.
        address: String,
        /// Where the copy lies.
        location: String,
    },
    /// Files of a lake with table formats have names that a plain lake does not know.
    #[error(
        "a lake with table formats cannot become a plain one, because readers of its logs would \
         lose their files. Fill a new lake instead"
    )]
    BackToPlain,
    /// A file of a month has no mark where a day ends.
    #[error(
        "a lake of months cannot become a lake of days, because nothing splits its files. Fill a \
         new lake instead"
    )]
    BackToDays,
    /// Another process converts the lake.
    #[error("another conversion of this lake is in progress. Convert the lake when it has ended")]
    ConversionInProgress,
    /// The lake has months already.
    #[error("the lake has a file for each month already")]
    MonthsAlready,
    /// A run may write files by the old form of the table.
    #[error("run {run} is in progress. Convert the lake when it has ended")]
    RunInProgress {
        /// The run.
        run: String,
    },
    /// A run crashed, and no other run has ended it yet.
    #[error("run {run} crashed before it wrote a report. Convert the lake after another run")]
    CrashedRun {
        /// The run.
        run: String,
    },
    /// The selection goes back further than dates do.
    #[error("the first day would lie before the year -9999")]
    BeforeCalendar,
    /// The selection begins before the first calls.
    #[error("{from} is before {FIRST_DAY}, and there are no calls from before that day")]
    BeforeFirstDay {
        /// The first day.
        from: Date,
    },
    /// All selected days are still to come, or under way.
    #[error("no day to process: {from} is after {last}, the last day that has ended in {timezone}")]
    NotEnded {
        /// The first selected day.
        from: Date,
        /// The last day that may be selected.
        last: Date,
        /// `window.timezone`.
        timezone: String,
        /// Whether the first day is `window.start`.
        is_window_start: bool,
        /// Whether the first day is today.
        is_today: bool,
    },
    /// The selected direction is not configured.
    #[error("source.directions does not include {direction}")]
    OtherDirection {
        /// The selected direction.
        direction: Direction,
    },
    /// The lake cuts days in another time zone than an export would be cut in.
    #[error(
        "window.timezone is {configured}, but the days of this lake are days of {existing}: some \
         calls would be stored twice, and others not at all"
    )]
    OtherTimezone {
        /// `window.timezone`.
        configured: String,
        /// The time zone of the lake.
        existing: String,
    },
    /// The lake holds a part of the calls, and nothing checks that an export holds the same part.
    #[error(
        "source.{filter} limits this lake to a part of the calls, and only the provider's count \
         can show that an export holds that part. Set quality.reconcile to \"fail\""
    )]
    UncheckedFilter {
        /// The filter's name.
        filter: String,
    },
    /// An export is empty.
    #[error("the export has no records")]
    NoRecords,
    /// An export has only records of days that have not ended.
    #[error("the export has no record of a day that has ended")]
    NoEndedDay,
    /// Several runs at once would harm each other.
    #[error("{IGNORES_CONDITIONS}: several runs must not share the slices of this lake")]
    NoShards,
    /// No run has left a report yet.
    #[error("the lake has no run report yet")]
    NoReports {
        /// Whether the changes after a run were requested, not those of one.
        since: bool,
    },
    /// The report of a run is missing, or damaged.
    #[error(
        "the lake has no readable report of run {run}. The last run is {last}, and reports are \
         kept for {KEPT_DAYS} days"
    )]
    UnknownRun {
        /// The run's name, as requested.
        run: String,
        /// The last run that has a report.
        last: String,
        /// Whether the changes after the run were requested, not its own.
        since: bool,
    },
    /// A text holds no phone number.
    #[error("the text is not a phone number")]
    NoNumber,
    /// A text holds more than one phone number.
    #[error("the text holds more than one phone number")]
    SeveralNumbers,
    /// The lake's numbers are truncated.
    #[error(
        "this lake drops the last four digits of numbers (privacy.numbers, or the key of a column, \
         is \"truncate\"), so the calls of one number cannot be identified"
    )]
    TruncatedNumbers,
    /// The lake holds the calls of this number only.
    #[error(
        "source.{filter} limits this lake to the calls of that number, and lake.json contains it"
    )]
    FilteredByNumber {
        /// The filter's name.
        filter: String,
    },
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Lake(error.into())
    }
}
