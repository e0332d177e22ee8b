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
use crate::lake::{TableFormat, described};
use crate::ops::days::DayRange;
use crate::ops::months::{Merged, convert_to_months};
use crate::ops::open::{existing_lake, existing_lake_for_converting, existing_lake_for_writing};
use crate::ops::plan::unsynced_remark;
use crate::ops::tables::{convert, current_files, sync};
use crate::ops::{self, UsageError};

/// A table format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Delta Lake.
    Delta,
    /// Apache Iceberg.
    Iceberg,
    /// No format: refused with a reason.
    #[value(hide = true, alias = "")]
    None,
}

impl Format {
    fn format(self) -> Option<TableFormat> {
        match self {
            Self::Delta => Some(TableFormat::Delta),
            Self::Iceberg => Some(TableFormat::Iceberg),
            Self::None => None,
        }
    }
}

/// The period of the slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SlicePeriod {
    /// A calendar month.
    Month,
    /// A day: refused with a reason.
    #[value(hide = true)]
    Day,
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
    match args.slice {
        Some(SlicePeriod::Month) => return merge(config, screen, &interrupt).await,
        Some(SlicePeriod::Day) => return Err(ops::Error::from(UsageError::BackToDays).into()),
        None => {}
    }
    let tables: Option<Vec<TableFormat>> = args.tables.iter().map(|it| it.format()).collect();
    let Some(mut tables) = tables else {
        return Err(ops::Error::from(UsageError::BackToPlain).into());
    };
    tables.sort_unstable();
    tables.dedup();
    // The configuration may have the new value already.
    let configured = config.lake.tables.take();
    let lake = existing_lake_for_writing(&config, false).await?;
    let (_, removed) = convert(&lake, &tables, Timestamp::now(), &interrupt).await?;
    let mut text = format!("The lake has {}.\n", logs_of(&tables));
    if !removed.is_empty() {
        text = format!("{text}Removed {}, with its history.\n", logs_of(&removed));
    }
    if configured.is_some_and(|configured| configured != tables) {
        text = format!(
            "{text}Set lake.tables in pipeline.toml to {}. Until then, no run can begin.\n",
            described(&tables)
        );
    }
    print(text.as_bytes())
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
    let committed = sync(&lake, Timestamp::now()).await?;
    let text = match (&*committed, lake.identity.tables()) {
        ([], [format]) => format!("The log of {format} is up to date.\n"),
        ([], tables) => format!("The logs of {} are up to date.\n", names(tables)),
        (changed, tables) => {
            let rest = if changed.len() < tables.len() {
                " The other one is up to date."
            } else {
                ""
            };
            format!("Committed to {}.{rest}\n", logs_of(changed))
        }
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

/// The logs of these formats, of which there is at least one.
fn logs_of(tables: &[TableFormat]) -> String {
    let logs = if tables.len() == 1 { "log" } else { "logs" };
    format!("the {logs} of {}", names(tables))
}

fn names(tables: &[TableFormat]) -> String {
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    names.join(" and ")
}
