//! `cdrlake convert`, `cdrlake sync` and `cdrlake files`: table formats and current files.

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::advice::{self, Rerun};
use super::progress::Screen;
use super::run::{OutputArgs, RangeArgs};
use super::{
    CommandError, Exit, LAKE_STAYS, LakeArgs, OutputFormat, interrupted_by_signals, json_text,
    print,
};
use crate::cdr::period::PeriodUnit;
use crate::config::Config;
use crate::error::{counted, thousands};
use crate::lake::TableFormat;
use crate::ops::days::DayRange;
use crate::ops::months::{Merged, convert_to_months};
use crate::ops::open::{existing_lake, existing_lake_for_converting, existing_lake_for_writing};
use crate::ops::plan::unsynced_remark;
use crate::ops::tables::{convert, current_files, sync};

/// A table format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Delta Lake.
    Delta,
    /// Apache Iceberg.
    Iceberg,
}

/// The period of the slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SlicePeriod {
    /// A calendar month.
    Month,
}

/// Convert an existing lake. Fetches nothing.
///
/// With --tables, engines can read the lake as a Delta Lake or Apache Iceberg table. This copies no
/// files. With --slice month, the lake gets a file for each month instead of each day.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false, args = ["tables", "slice"])]
pub(super) struct ConvertArgs {
    /// The table formats, separated by commas. The log of another format is removed.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FORMATS")]
    tables: Vec<Format>,
    /// The period of the slices. Merges the files of days. Readers must wait until it has ended,
    /// unless they read the log of a table format.
    #[arg(long, value_enum, value_name = "PERIOD")]
    slice: Option<SlicePeriod>,
    #[command(flatten)]
    config: LakeArgs,
}

/// Bring the logs of table formats up to date with the ledger.
#[derive(Clone, Debug, Args)]
pub(super) struct SyncArgs {
    #[command(flatten)]
    config: LakeArgs,
}

/// List the current files of the table, by the ledger.
#[derive(Clone, Debug, Args)]
pub(super) struct FilesArgs {
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    config: LakeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn execute_convert(
    args: &ConvertArgs,
    screen: &Screen,
) -> Result<Exit, CommandError> {
    let interrupt = interrupted_by_signals(LAKE_STAYS)?;
    let mut config = args.config.load()?;
    if let Some(SlicePeriod::Month) = args.slice {
        return merge(config, screen, &interrupt).await;
    }
    // The configuration may have the new value already.
    config.lake.tables = None;
    let mut tables: Vec<TableFormat> = args.tables.iter().map(|&format| format.into()).collect();
    tables.sort_unstable();
    tables.dedup();
    let lake = existing_lake_for_writing(&config, false).await?;
    convert(&lake, &tables, Timestamp::now(), &interrupt).await?;
    print(format!("The lake has the logs of {}.\n", names(&tables)).as_bytes())
}

/// Merges days into months.
async fn merge(
    mut config: Config,
    screen: &Screen,
    interrupt: &CancellationToken,
) -> Result<Exit, CommandError> {
    // The configuration may have the new value already.
    config.window.slice = None;
    let lake = existing_lake_for_converting(&config, PeriodUnit::Month).await?;
    if lake.identity.period_unit() == PeriodUnit::Month && lake.identity.converting.is_none() {
        let remark = unsynced_remark(lake.unsynced_runs().await?);
        if let Some(remark) = &remark {
            screen.print_line(&format!("{}.", advice::on_remark(remark)));
        }
        print(b"The lake has a file for each month already.\n")?;
        return Ok(remark.map_or(Exit::Success, |_| Exit::Failed));
    }
    let observer = screen.observer(&Rerun::on(&config.lake.url));
    let merged = convert_to_months(&lake, &config, Timestamp::now(), &*observer, interrupt);
    let Some(merged) = merged.await? else {
        screen.print_line(
            "Interrupted: no other command can write to the lake until the conversion has ended. \
             Convert again.",
        );
        return Ok(Exit::Interrupted);
    };
    let Merged {
        months,
        files_before,
        bytes_before,
        files_after,
        bytes_after,
        open,
        remarks,
        damaged,
        log_error,
    } = merged;
    for remark in remarks {
        screen.print_line(&format!("{remark}."));
    }
    let is_whole = damaged.is_empty() && log_error.is_none();
    if let Some(problem) = log_error {
        screen.print_line(&format!(
            "{problem}. Readers of the log see the files of days until `cdrlake sync` or the next \
             run has updated it."
        ));
    }
    let open = match open {
        0 => String::new(),
        1 => "1 of them is open: the next run fetches it whole. ".to_owned(),
        open => format!(
            "{} of them are open: the next run fetches them whole. ",
            thousands(open)
        ),
    };
    let text = format!(
        "The lake has a file for each month. Merged {} ({}) into {} ({}), for {} of a direction. \
         {open}If pipeline.toml sets window.slice, set it to \"month\".\n",
        counted(files_before, "file", "files"),
        ByteSize(bytes_before).display().si(),
        counted(files_after, "file", "files"),
        ByteSize(bytes_after).display().si(),
        counted(months, "month", "months"),
    );
    let printed = print(text.as_bytes())?;
    Ok(if is_whole { printed } else { Exit::Failed })
}

pub(super) async fn execute_sync(args: &SyncArgs) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    let lake = existing_lake_for_writing(&config, false).await?;
    let names = names(lake.identity.tables());
    let text = if sync(&lake, Timestamp::now()).await? {
        format!("Committed to the logs of {names}.\n")
    } else {
        format!("The logs of {names} are up to date.\n")
    };
    print(text.as_bytes())
}

pub(super) async fn execute_files(args: &FilesArgs) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    let range = DayRange::from(&args.range);
    let lake = existing_lake(&config, false).await?;
    let files = current_files(&lake, &config, &range, Timestamp::now()).await?;
    let text = match args.output.format {
        OutputFormat::Json => json_text(&json!(files)),
        OutputFormat::Text => files.iter().map(|file| file.path.clone() + "\n").collect(),
    };
    print(text.as_bytes())
}

impl From<Format> for TableFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Delta => Self::Delta,
            Format::Iceberg => Self::Iceberg,
        }
    }
}

fn names(tables: &[TableFormat]) -> String {
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    names.join(" and ")
}
