//! `cdrlake rejects`: what was rejected, and why.

use clap::Args;
use jiff::Timestamp;

use super::run::{OutputArgs, RangeArgs, slices as number_of_slices};
use super::table::counted;
use super::{CommandError, Exit, LakeArgs, OutputFormat, json_text, print};
use crate::ops::days::DayRange;
use crate::ops::open::existing_lake;
use crate::ops::rejects::{Group, Rejects};

/// List rejected records and the reasons, including those of failed slices.
#[derive(Clone, Debug, Args)]
pub(super) struct RejectsArgs {
    #[command(flatten)]
    range: RangeArgs,
    /// Show phone numbers in the examples.
    #[arg(long, help_heading = "Result")]
    show_numbers: bool,
    #[command(flatten)]
    config: LakeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn execute(args: &RejectsArgs) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    let range = DayRange::from(&args.range);
    let lake = existing_lake(&config, false).await?;
    let (window, now) = (&config.window, Timestamp::now());
    let rejects = Rejects::read(&lake, window, &range, args.show_numbers, now).await?;
    let text = match args.output.format {
        OutputFormat::Json => json_text(&rejects),
        OutputFormat::Text => render(&rejects, args.show_numbers),
    };
    print(text.as_bytes())?;
    Ok(if rejects.unreadable.is_empty() {
        Exit::Success
    } else {
        Exit::Failed
    })
}

fn render(rejects: &Rejects, show_numbers: bool) -> String {
    let mut lines = Vec::new();
    for of_failed_attempts in [false, true] {
        let groups: Vec<&Group> = rejects
            .groups
            .iter()
            .filter(|group| group.of_failed_attempts == of_failed_attempts)
            .collect();
        if groups.is_empty() {
            continue;
        }
        lines.push(
            if of_failed_attempts {
                "Rejected in failed attempts; the lake keeps the previous slices:"
            } else {
                "Rejected, and missing from the table:"
            }
            .to_owned(),
        );
        for group in groups {
            let Group {
                code,
                records,
                first_day,
                last_day,
                example,
                ..
            } = group;
            let days = if first_day == last_day {
                format!("on {first_day}")
            } else {
                format!("from {first_day} to {last_day}")
            };
            lines.push(format!(
                "\n{code}: {} in {}, {days}",
                records_of(*records),
                number_of_slices(group.slices)
            ));
            lines.push(format!(
                "  {}, {}: {}",
                example.slice, example.place, example.reason
            ));
            lines.push(format!("  {}", example.text));
            lines.push(format!("  in {}", example.file));
        }
        lines.push(String::new());
    }
    for problem in &rejects.unreadable {
        lines.push(format!("cannot be read: {problem}"));
    }
    if rejects.is_any_missing {
        lines.push("`cdrlake run` fetches the slices of missing files again.".to_owned());
    }
    if rejects.groups.is_empty() {
        if rejects.unreadable.is_empty() {
            lines.push("Nothing was rejected.".to_owned());
        }
    } else {
        lines.push(
            "`zstdcat FILE` prints a whole file. Once the records can be read, add them with \
             `cdrlake run --refresh` and these days, or `cdrlake load --refresh` and the \
             export."
                .to_owned(),
        );
        if !show_numbers {
            lines.push("Phone numbers are hidden; --show-numbers shows them.".to_owned());
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

fn records_of(number: u64) -> String {
    counted(number, "record", "records")
}
