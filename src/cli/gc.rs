//! `cdrlake gc`: leftovers of crashed runs, and old run reports.

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::progress::Screen;
use super::run::OutputArgs;
use super::table::counted;
use super::{CommandError, Exit, LakeArgs, OutputFormat, json_text, print};
use crate::ops::gc::collect_garbage;
use crate::ops::open::existing_lake;

/// Remove leftovers of crashed runs (staged files, leases, incomplete uploads), and reports of runs
/// that ended more than 90 days ago.
#[derive(Clone, Debug, Args)]
pub(super) struct GcArgs {
    #[command(flatten)]
    config: LakeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn execute(args: &GcArgs, screen: &Screen) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    let lake = existing_lake(&config, true).await?;
    if let Some(expiry) = lake.lease_expiry() {
        screen.print_line(&format!(
            "Looking for leftovers of crashed runs. Leases are watched for {} s (lake.lease).",
            expiry.as_secs()
        ));
    }
    let garbage = collect_garbage(&config, &lake, Timestamp::now()).await?;
    let text = match args.output.format {
        OutputFormat::Json => json_text(&json!(garbage)),
        OutputFormat::Text => {
            let removed = garbage
                .removed
                .iter()
                .map(|what| format!("removed  {what}\n"));
            let left = garbage.left.iter().map(|what| format!("left     {what}\n"));
            let last = match garbage.removed.len() as u64 {
                0 => "Nothing to remove.\n".to_owned(),
                number => format!("Removed {}.\n", counted(number, "leftover", "leftovers")),
            };
            removed.chain(left).chain([last]).collect()
        }
    };
    print(text.as_bytes())?;
    Ok(Exit::Success)
}
