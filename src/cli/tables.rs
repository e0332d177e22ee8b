//! `cdrlake convert`, `cdrlake sync` and `cdrlake files`: table formats and current files.

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::json;

use super::run::{OutputArgs, RangeArgs};
use super::{
    CommandError, Exit, LAKE_STAYS, LakeArgs, OutputFormat, interrupted_by_signals, json_text,
    print,
};
use crate::lake::TableFormat;
use crate::ops::days::DayRange;
use crate::ops::open::{existing_lake, existing_lake_for_writing};
use crate::ops::tables::{convert, current_files, sync};

/// A table format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Delta Lake.
    Delta,
    /// Apache Iceberg.
    Iceberg,
}

/// Give the lake the logs of table formats, so that engines read it as a Delta Lake or Apache
/// Iceberg table. Copies no files.
#[derive(Clone, Debug, Args)]
pub(super) struct ConvertArgs {
    /// The table formats, separated by commas. The log of another format is removed.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        required = true,
        value_name = "FORMATS"
    )]
    tables: Vec<Format>,
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

pub(super) async fn execute_convert(args: &ConvertArgs) -> Result<Exit, CommandError> {
    let interrupt = interrupted_by_signals(LAKE_STAYS)?;
    let mut config = args.config.load()?;
    // The configuration may have the new value already.
    config.lake.tables = None;
    let mut tables: Vec<TableFormat> = args.tables.iter().map(|&format| format.into()).collect();
    tables.sort_unstable();
    tables.dedup();
    let lake = existing_lake_for_writing(&config, false).await?;
    convert(&lake, &tables, Timestamp::now(), &interrupt).await?;
    print(format!("The lake has the logs of {}.\n", names(&tables)).as_bytes())
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
