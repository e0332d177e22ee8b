//! `cdrlake report`: a page about the calls of a period.

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::run::RangeArgs;
use super::table::{counted, dollars, signed};
use super::{CommandError, Exit, LakeArgs, json_text, print};
use crate::error::is_disk_full;
use crate::ops::days::DayRange;
use crate::ops::open::existing_lake;
use crate::ops::report::Report;
use crate::store::whole_file::WholeFile;

/// Where a page is written without `--output`.
const DEFAULT_FILE: &str = "./cdrlake-report.html";
/// `--output` for standard output.
const STDOUT: &str = "-";
/// Only the owner can read it, because it has what calls cost.
const FILE_MODE: u32 = 0o600;
/// The page, with a place for the data.
const PAGE: &str = include_str!("report/page.html");
/// That place.
const DATA: &str = "/*data*/";

/// The form of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// A page for a browser, in one file.
    #[default]
    Html,
    /// One JSON document for programs.
    Json,
}

/// Write a page about the calls of a period: usage, disruptions, spend, and how complete it is.
#[derive(Clone, Debug, Args)]
pub(super) struct ReportArgs {
    #[command(flatten)]
    range: RangeArgs,
    /// Show the phone numbers that the lake keeps, not only their beginnings.
    #[arg(long, help_heading = "Result")]
    show_numbers: bool,
    /// Form of the report.
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Result"
    )]
    format: ReportFormat,
    /// Where to write it; `-` for standard output [default: ./cdrlake-report.html, or standard
    /// output for json].
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    output: Option<PathBuf>,
    #[command(flatten)]
    config: LakeArgs,
}

pub(super) async fn execute(args: &ReportArgs) -> Result<Exit, CommandError> {
    let default = match args.format {
        ReportFormat::Html => DEFAULT_FILE,
        ReportFormat::Json => STDOUT,
    };
    let path = args.output.as_deref().unwrap_or(Path::new(default));
    // A file that cannot be written is refused before the lake is read.
    let output = Output::open(path)?;
    let config = args.config.load()?;
    let lake = existing_lake(&config, false).await?;
    let range = DayRange::from(&args.range);
    let now = Timestamp::now();
    let report = Report::make(&lake, &config, &range, args.show_numbers, now).await?;
    let text = match args.format {
        ReportFormat::Html => page(&report),
        ReportFormat::Json => json_text(&report),
    };
    let written = match output {
        Output::Stdout => None,
        Output::Special(mut file) => Some(file.write_all(text.as_bytes())),
        Output::File(file) => Some(file.write(&text)),
    };
    let printed = match written {
        None => text,
        Some(written) => {
            written.map_err(|error| unwritable(path, &error))?;
            format!("{}: {}\n", path.display(), summary(&report))
        }
    };
    print(printed.as_bytes())?;
    Ok(if report.trust.is_any_damaged() {
        Exit::Failed
    } else {
        Exit::Success
    })
}

/// Where a report goes.
#[derive(Debug)]
enum Output {
    Stdout,
    /// A pipe or a device, which nothing may replace. A pipe's reader ends once it is closed, so it
    /// is opened only once.
    Special(File),
    File(WholeFile),
}

impl Output {
    fn open(path: &Path) -> Result<Self, CommandError> {
        if path == Path::new(STDOUT) {
            return Ok(Self::Stdout);
        }
        let is_special = |found: Metadata| !found.is_file() && !found.is_dir();
        let opened = if path.metadata().is_ok_and(is_special) {
            let file = File::options().write(true).open(path);
            file.map(Self::Special)
        } else {
            let file = WholeFile::new(path.to_owned(), FILE_MODE);
            file.check().map(|()| Self::File(file))
        };
        opened.map_err(|error| unwritable(path, &error))
    }
}

fn unwritable(path: &Path, error: &io::Error) -> CommandError {
    let exit = if is_disk_full(error) {
        Exit::Failed
    } else {
        Exit::Usage
    };
    let message = format!(
        "cannot write {}: {error}. Choose another file with --output",
        path.display()
    );
    CommandError::new(exit, message)
}

/// Writes the page of `report` to `path`.
pub(super) fn write_page(path: &Path, report: &Report) -> Result<(), CommandError> {
    let file = WholeFile::new(path.to_owned(), FILE_MODE);
    file.write(&page(report))
        .map_err(|error| unwritable(path, &error))
}

/// The page with the data of `report`.
fn page(report: &Report) -> String {
    let json = serde_json::to_string(report).expect("our own types always serialise");
    PAGE.replacen(DATA, &escaped(&json), 1)
}

/// JSON that can stand in a page: no text in it can end the script.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// What a report shows, in one line.
fn summary(report: &Report) -> String {
    let all = report.totals.last().expect("the last one is of all").sums;
    let disruptions = report.disruptions.list.len() as u64;
    let findings = report.trust.findings.len() as u64;
    format!(
        "{} to {}, {}, {} minutes, {} USD; {}; {} about how complete it is.",
        report.from,
        report.to,
        counted(all.outcomes.calls, "call", "calls"),
        signed(all.outcomes.duration_seconds / 60),
        dollars(all.charge_usd),
        counted(disruptions, "disruption", "disruptions"),
        counted(findings, "finding", "findings"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_in_the_data_can_end_the_script_of_the_page() {
        let texts = [
            "</script><script>",
            "<!--",
            "a & b",
            "\u{2028}\u{2029}",
            "\"\\",
        ];
        let json = serde_json::to_string(&texts).unwrap();
        let escaped = escaped(&json);
        assert!(
            !escaped.contains(['<', '>', '&', '\u{2028}', '\u{2029}']),
            "{escaped}"
        );
        assert_eq!(
            serde_json::from_str::<[String; 5]>(&escaped).unwrap(),
            texts
        );
    }

    #[test]
    fn the_page_has_one_place_for_the_data() {
        let place = format!("<script type=\"application/json\" id=\"report\">{DATA}</script>");
        assert_eq!(
            (PAGE.matches(&place).count(), PAGE.matches(DATA).count()),
            (1, 1)
        );
    }
}
