//! What to do about what went wrong, in commands and flags. The library only reports what went
//! wrong.

use crate::cdr::period::PeriodUnit;
use crate::cdr::slice::Slice;
use crate::config::ConfigErrorKind;
use crate::error::{MAKE_ROOM, counted, is_disk_full, is_not_a_directory};
use crate::lake::ledger::Reason;
use crate::lake::report::{Remark, RemarkKind, RunReport, SliceReport};
use crate::lake::{LakeError, TableFormat};
use crate::ops::removal::erase::{EraseError, Erasure, Search};
use crate::ops::run::{RunResult, Stop};
use crate::ops::status::LakeStatus;
use crate::ops::stream::SliceFailed;
use crate::ops::verify::{Fault, Finding, Verified};
use crate::ops::{Error, UsageError};
use crate::source::Source;
use crate::source::files::{ExportError, FileKind, Undated};
use crate::store::layout::failed_rejects_file;
use crate::store::location::Location;
use crate::warehouse::DdlError;

/// How to load an export without the provider's counts.
pub(super) const WITHOUT_COUNTS: &str =
    "--reconcile off loads the export without asking for counts, and needs no key";

const ERASE_AGAIN: &str = "Run `cdrlake erase` again for each number";
/// After the remedy of a damaged log.
const THEN_SYNC: &str = "Once it is out, `cdrlake sync` does this";
const FINISH_CONVERSION: &str =
    "If it was interrupted, finish it with `cdrlake convert --slice month`";

/// What to do about an error that ends a command, as sentences without the last full stop.
pub(super) fn on_error(error: &Error) -> Option<String> {
    let advice = match error {
        Error::Usage(error) => return on_usage(error),
        Error::Config(error) => match error.kind {
            ConfigErrorKind::Missing("lake.url") => {
                "Set it in pipeline.toml, which `cdrlake init` writes, or use --lake"
            }
            ConfigErrorKind::Missing("source.api_key") => {
                "Set it in pipeline.toml, for example to { env = \"WAVIX_API_KEY\" }, or use \
                 --api-key-env"
            }
            ConfigErrorKind::Unreadable => "Name another file with --config",
            _ => return None,
        },
        Error::NoLake { .. } => {
            "Check lake.url or --lake, or make the lake with `cdrlake run` or `cdrlake load`"
        }
        Error::Lake(LakeError::Store(store)) => match store {
            _ if is_disk_full(store) => MAKE_ROOM,
            _ if is_not_a_directory(store) => {
                "A lake is a directory, but lake.url, or a part of it, is a file"
            }
            _ if store.kind().is_some() => return None,
            _ if ["read", "list", "look at"].contains(&store.action) => {
                "Check lake.url and who may read there"
            }
            _ => "Check lake.url and who may write there",
        },
        Error::Metrics(_) => {
            "Create its directory, and let the user who runs cdrlake write there, or change \
             metrics.file or --metrics-file"
        }
        Error::Spool(_) => "Set limits.spool_dir to a directory with room",
        Error::NotMergeable { .. } => {
            "Fetch uncertain days with `cdrlake run`, check the lake with `cdrlake verify`, and \
             convert again"
        }
        Error::NotMerged { .. } => "No day of that month was removed. Convert again to continue",
        Error::Lake(LakeError::TableLog { source, .. }) if source.is_permanent() => THEN_SYNC,
        Error::Lake(LakeError::Converting { .. }) => FINISH_CONVERSION,
        Error::Lake(LakeError::OtherPeriod {
            existing: PeriodUnit::Day,
            ..
        }) => "`cdrlake convert --slice month` converts it",
        Error::Uncertain { .. } => "Run `cdrlake run` to repair it",
        Error::Export(error) => return Some(on_export(error)),
        Error::Undated { undated } => return Some(on_undated(undated)),
        Error::Warehouse(error) => on_ddl(error),
        Error::NumberNotFound { found } => return Some(on_absent_number(found)),
        _ => return None,
    };
    Some(advice.to_owned())
}

fn on_usage(error: &UsageError) -> Option<String> {
    let advice = match error {
        UsageError::ReversedDays { .. } => "Check --from and --to",
        UsageError::NoDays => {
            "Set window.start in pipeline.toml to the first day of the lake, or use --from or \
             --last"
        }
        UsageError::BeforeCalendar => "Use a shorter time",
        UsageError::NothingFetched { known: None, .. } => {
            "Fill the lake with `cdrlake run` or `cdrlake load`"
        }
        UsageError::NothingFetched { known: Some(_), .. } => {
            "Choose other days with --from and --to, or fetch these with `cdrlake run`"
        }
        UsageError::NoTables => "Add them with: cdrlake convert --tables delta,iceberg",
        UsageError::NoTable { .. } => {
            "Use another form with --as, or add it with: cdrlake convert --tables delta,iceberg"
        }
        UsageError::NoMetadata => "Run `cdrlake sync`",
        UsageError::OtherAddress { .. } => {
            "Leave --location out, or use --as delta or --as files, which can read a copy"
        }
        UsageError::BeforeFirstDay { .. } => "Use a later day with --from, --last or window.start",
        UsageError::NotEnded {
            is_window_start: true,
            ..
        } => "Set window.start to an earlier day, or use --from",
        UsageError::NotEnded {
            is_today: false, ..
        } => "Use an earlier day",
        UsageError::NotEnded { is_today: true, .. } => {
            "Use --include-today for a day that has not ended"
        }
        UsageError::OtherDirection { .. } => "Use another --direction, or add this one there",
        UsageError::NoShards => "Run once, without --shard",
        UsageError::NoReports { since: true } | UsageError::UnknownRun { since: true, .. } => {
            "Load everything, without --changed-since"
        }
        UsageError::NoReports { since: false } | UsageError::UnknownRun { since: false, .. } => {
            "Load everything, without --changed-by"
        }
        UsageError::NoNumber => "Write the number in full, such as --number +13025550101",
        UsageError::SeveralNumbers => "Erase them one at a time",
        UsageError::FilteredByNumber { .. } => "Delete the whole lake",
        UsageError::TruncatedNumbers => "`cdrlake prune` removes whole days",
        _ => return None,
    };
    Some(advice.to_owned())
}

fn on_export(error: &ExportError) -> String {
    let advice = match error {
        ExportError::Directory { .. } => "Name the files in it",
        ExportError::Unsupported { kind, .. } => match kind {
            FileKind::Utf16 => "Convert it, and load the result: iconv -f UTF-16 -t UTF-8",
            FileKind::Utf32 => "Convert it, and load the result: iconv -f UTF-32 -t UTF-8",
            FileKind::Zip => "Unpack it, or save it as CSV, and load the result",
            FileKind::OldSpreadsheet => "Save it as CSV, and load that",
            FileKind::Xz => "Pipe it in: xzcat FILE | cdrlake load …",
            FileKind::Lz4 => "Pipe it in: lz4 -dc FILE | cdrlake load …",
            FileKind::Compress => "Pipe it in: zcat FILE | cdrlake load …",
            FileKind::Bzip2 => "Pipe it in: bzcat FILE | cdrlake load …",
            FileKind::Tar => "Pipe its content in: tar -xOf FILE | cdrlake load …",
            FileKind::SevenZip => "Unpack it, and load its content",
            FileKind::Parquet | FileKind::Avro => "Save it as CSV or JSON lines, and load that",
            FileKind::Pdf => "Ask for the export as CSV or JSON",
        },
        ExportError::Spool { .. } => "Set limits.spool_dir to a directory with room for the export",
        _ => return "Nothing was loaded".to_owned(),
    };
    format!("Nothing was loaded. {advice}")
}

fn on_undated(undated: &Undated) -> String {
    let remedy = if undated.without_offset > 0 {
        "Name the time zone of times without an offset with --assume-timezone, correct"
    } else {
        "Correct"
    };
    format!(
        "Nothing was loaded. {remedy} the export, or leave these records out with --skip-undated"
    )
}

fn on_ddl(error: &DdlError) -> &'static str {
    match error {
        DdlError::OutOfReach { log, .. } => match log {
            Some(TableFormat::Delta) => {
                "Copy the directories cdrs and _delta_log there, after each run again, and name \
                 the place with --location, or move the lake there and set lake.url"
            }
            Some(TableFormat::Iceberg) => {
                "Its metadata has the lake's address, so move the lake there, set lake.url, and \
                 run `cdrlake sync`"
            }
            None => {
                "Copy the directory cdrs there and name the place with --location, or move the \
                 lake there and set lake.url"
            }
        },
        DdlError::Address { .. } => "Name the lake by another address with --location",
        DdlError::Unreadable { target, .. } if target.formats().is_empty() => {
            "Use --as files, which copies the rows"
        }
        DdlError::Unreadable { .. } => {
            "Use --as delta, after `cdrlake convert --tables delta,iceberg` if the lake has no \
             such log, or --as files"
        }
        DdlError::Name { .. } => {
            "Use letters, digits and underscores for --table, with dots between its parts"
        }
    }
}

fn on_absent_number(found: &Search) -> String {
    match found.problems.iter().next() {
        Some((slice, problem)) => format!(
            "{} could not be read; the first is {slice}: {problem}. Nothing was changed. Run \
             `cdrlake verify`, then erase again",
            counted(found.problems.len() as u64, "slice", "slices"),
        ),
        None => "Nothing was changed. Write the number in full, with its country code, as the \
                 lake has it, or block its future calls with --even-if-absent"
            .to_owned(),
    }
}

/// How to run again on the same lake.
#[derive(Clone, Debug)]
pub(super) struct Rerun {
    /// The place of the lake.
    pub root: Location,
    /// The flags of this command that a run needs again, except those below.
    pub flags: String,
    /// `--reconcile` with its value, if this command has it.
    pub reconcile: String,
    /// Whether this command accepts a slice that shrank.
    pub allow_shrink: bool,
    /// Whether the flags are those of a run. If not, the run may have had others.
    pub is_of_run: bool,
}

impl Rerun {
    /// Of a command without flags that a run needs.
    pub(super) fn on(root: &Location) -> Self {
        Self {
            root: root.clone(),
            flags: String::new(),
            reconcile: String::new(),
            allow_shrink: false,
            is_of_run: true,
        }
    }

    /// The command that accepts a slice with another count.
    fn accepting_count(&self, slice: Slice) -> String {
        let allow_shrink = if self.allow_shrink {
            " --allow-shrink"
        } else {
            ""
        };
        self.command(slice, &format!(" --reconcile warn{allow_shrink}"))
    }

    /// The command that accepts a slice with fewer rows.
    fn accepting_shrink(&self, slice: Slice) -> String {
        let reconcile = &self.reconcile;
        self.command(slice, &format!(" --refresh --allow-shrink{reconcile}"))
    }

    fn command(&self, slice: Slice, accepting: &str) -> String {
        let flags = &self.flags;
        let more = if self.is_of_run {
            ""
        } else {
            ", with the other flags of your runs"
        };
        format!(
            "cdrlake run {}{accepting}{flags}{more}",
            selection_of(slice)
        )
    }
}

/// What to do about a slice that failed for `reason`.
fn advice(reason: Reason, slice: Slice, rerun: &Rerun) -> String {
    let accept = || {
        format!(
            "To accept the slice as it is, run once: {}. Later runs compare it again until the {} \
             leaves the look-back (window.lookback_days)",
            rerun.accepting_count(slice),
            slice.period.unit()
        )
    };
    let advice = match reason {
        Reason::TooManyRejects => {
            let root = &rerun.root;
            let path = root.of(&failed_rejects_file(slice));
            return format!("`cdrlake rejects --lake {root}` shows the records of {path}");
        }
        Reason::Shrank => {
            let command = rerun.accepting_shrink(slice);
            return format!("If the provider has removed calls, run: {command}");
        }
        Reason::Mismatch => return accept(),
        Reason::ShortAnswer => {
            let accept = accept();
            return format!(
                "If only the bulk export is short, read the list with --via pages. {accept}"
            );
        }
        Reason::OtherExport => {
            "The export is outdated or incomplete, or of another direction or account. Fetch the \
             day with `cdrlake run`, or accept the export as it is with --reconcile warn"
        }
        Reason::UnprovenExport => "Accept the export as it is with --reconcile warn",
        Reason::ShorterExport => {
            "Fetch the day from the provider with `cdrlake run`, or accept the export with \
             --allow-shrink"
        }
    };
    advice.to_owned()
}

/// Adds to a problem what to do about it.
fn advise(problem: &mut String, reason: Option<Reason>, slice: Slice, rerun: &Rerun) {
    if let Some(reason) = reason {
        problem.push_str(". ");
        problem.push_str(&advice(reason, slice, rerun));
    }
}

/// Adds to a run's report what to do about slices that failed.
pub(super) fn on_run(report: &mut RunReport, rerun: &Rerun) {
    for slice in &mut report.slices {
        let (of, reason) = (slice.slice(), slice.reason);
        if let Some(error) = &mut slice.error {
            advise(error, reason, of, rerun);
        }
    }
}

/// Why a slice failed and what to do about it, where there is something.
pub(super) fn on_slice(report: &SliceReport, rerun: &Rerun) -> Option<String> {
    let mut error = report.error.clone()?;
    report.reason?;
    advise(&mut error, report.reason, report.slice(), rerun);
    Some(error)
}

/// Why a stream ended early and what to do about it.
pub(super) fn on_streamed(failed: &SliceFailed) -> String {
    let advice = match failed.reason {
        Some(Reason::TooManyRejects) => {
            ". Fetched with `cdrlake run`, they are kept in the lake, and `cdrlake rejects` shows \
             them"
        }
        Some(Reason::ShortAnswer) => {
            ". If only the bulk export is short, read the list with --via pages. --reconcile warn \
             accepts the slice as it is"
        }
        Some(Reason::Mismatch) => ". --reconcile warn accepts the slice as it is",
        _ => "",
    };
    format!("{failed}{advice}")
}

/// The same of a lake's status.
pub(super) fn on_status(status: &mut LakeStatus, rerun: &Rerun) {
    for (of, slice) in status.slices_mut() {
        if let Some(problem) = &mut slice.problem {
            advise(problem, slice.reason, of, rerun);
        }
    }
}

/// The same of what a verification found, and what its repair left.
pub(super) fn on_findings(verified: &mut Verified, rerun: &Rerun) {
    let mut findings: Vec<&mut Finding> = verified.found.findings.iter_mut().collect();
    if let Some(repair) = &mut verified.repair {
        findings.extend(&mut repair.remaining);
        if let Some(report) = &mut repair.run {
            on_run(report, rerun);
        }
    }
    for finding in findings {
        if let Some(slice) = finding.slice {
            advise(&mut finding.problem, finding.reason, slice, rerun);
        }
        if finding.fault == Fault::Unfinished {
            finding.problem = format!("{}. {ERASE_AGAIN}", finding.problem);
        }
        if finding.fault == Fault::Converting {
            finding.problem = format!("{}. {FINISH_CONVERSION}", finding.problem);
        }
        if finding.fault == Fault::DamagedLog {
            finding.problem = format!("{}. {THEN_SYNC}", finding.problem);
        }
    }
}

/// The flags that select a slice.
pub(super) fn selection_of(slice: Slice) -> String {
    format!(
        "--from {} --to {} --direction {}",
        slice.period.first_day(),
        slice.period.last_day(),
        slice.direction
    )
}

/// A remark, and what to do about it.
pub(super) fn on_remark(remark: &Remark) -> String {
    let text = &remark.text;
    let Some(kind) = remark.kind else {
        return text.clone();
    };
    let advice = match kind {
        RemarkKind::UnfinishedErasures => ERASE_AGAIN,
        RemarkKind::ForeignFiles => "Remove them with `cdrlake verify --repair`",
        RemarkKind::DifferingDays => {
            "Compare them with the provider with `cdrlake run`, or replace them with --refresh and \
             all files of these days"
        }
        RemarkKind::OtherTimezone => {
            "Load the days again with --refresh, or fetch them with `cdrlake run --refresh`"
        }
        RemarkKind::DaysBeforeStart => "Use --from to include them in run, status and verify",
        RemarkKind::UnendedDays => "Fetch the whole days with `cdrlake run` later",
        RemarkKind::OtherSource => {
            "If both have the calls of the same account, set source_url in _cdrlake/lake.json to \
             the new address. If not, set source.url back"
        }
        RemarkKind::OtherDays => {
            "If window.timezone is right, fetch all months again with `cdrlake run --refresh`, \
             then set timezone in _cdrlake/lake.json to it. If not, set window.timezone back"
        }
        RemarkKind::UnfinishedConversion => FINISH_CONVERSION,
        RemarkKind::SmallFiles => "`cdrlake convert --slice month` merges them",
        RemarkKind::UnsyncedLogs => {
            "The next run commits them, unless a log is damaged. `cdrlake sync` does it now, or \
             says why it cannot"
        }
    };
    format!("{text}. {advice}")
}

/// Adds to the warnings of a run what to do about them.
pub(super) fn on_remarks(run: &mut RunResult) {
    for remark in &run.remarks {
        for warning in &mut run.report.warnings {
            if *warning == remark.text {
                *warning = on_remark(remark);
            }
        }
    }
}

/// Adds to what an erasure left undone what to do about it.
pub(super) fn on_erasure(erasure: &mut Erasure) {
    for slice in &mut erasure.report.slices {
        let failure = erasure.failures.get(&slice.slice());
        if let Some(problem) = &mut slice.error
            && let Some(advice) = failure.and_then(on_erase_error)
        {
            problem.push_str(". ");
            problem.push_str(advice);
        }
    }
    for warning in &mut erasure.report.warnings {
        if erasure.leftovers.as_ref() == Some(warning) {
            warning.push_str(". Run `cdrlake gc`");
        }
    }
}

fn on_erase_error(error: &EraseError) -> Option<&'static str> {
    match error {
        EraseError::Rows(_) => Some(
            "If its file is damaged, run `cdrlake verify --repair`, which fetches the slice \
             without the number. Then erase again",
        ),
        EraseError::Uncertain => Some(
            "Restore its files, or run `cdrlake verify --repair`, which fetches the slice without \
             the number. Then erase again",
        ),
        EraseError::Announced => Some("Run `cdrlake run`, then erase again"),
        EraseError::Panic => Some("Run `cdrlake verify`"),
        EraseError::Lake(_) | EraseError::File(_) => None,
    }
}

/// Adds, where a load ended because the provider could not be asked for `counts`, how to do
/// without.
pub(super) fn on_counts(stopped_by: &mut Option<Stop>, counts: Option<&dyn Source>) {
    if let Some(Stop::NoSource(why)) = stopped_by
        && counts.is_some_and(Source::is_cut_off)
    {
        why.push_str(". ");
        why.push_str(WITHOUT_COUNTS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::report::SliceOutcome;

    #[test]
    fn advice_names_the_lake_and_only_errors_with_a_remedy_get_advice() {
        let root: Location = "./lake".parse().unwrap();
        let slice = "placed 2026-10-01".parse().unwrap();
        let failed = |reason| {
            let report = SliceReport {
                error: Some("2 of 3 records were rejected".to_owned()),
                reason,
                ..SliceReport::new(slice, SliceOutcome::Failed)
            };
            on_slice(&report, &Rerun::on(&root))
        };
        let path = root.of(&failed_rejects_file(slice));
        assert_eq!(
            failed(Some(Reason::TooManyRejects)),
            Some(format!(
                "2 of 3 records were rejected. `cdrlake rejects --lake ./lake` shows the records \
                 of {path}"
            ))
        );
        assert_eq!(failed(None), None);
        assert_eq!(
            failed(Some(Reason::Mismatch)).unwrap(),
            "2 of 3 records were rejected. To accept the slice as it is, run once: cdrlake run \
             --from 2026-10-01 --to 2026-10-01 --direction placed --reconcile warn. Later runs \
             compare it again until the day leaves the look-back (window.lookback_days)"
        );
    }

    #[test]
    fn an_advised_command_keeps_the_flags_of_this_one() {
        let rerun = Rerun {
            flags: " --lake ./lake".to_owned(),
            reconcile: " --reconcile warn".to_owned(),
            allow_shrink: true,
            ..Rerun::on(&"./lake".parse().unwrap())
        };
        let slice = "placed 2026-10-01".parse().unwrap();
        let run = "cdrlake run --from 2026-10-01 --to 2026-10-01 --direction placed";
        assert_eq!(
            advice(Reason::Shrank, slice, &rerun),
            format!(
                "If the provider has removed calls, run: {run} --refresh --allow-shrink \
                 --reconcile warn --lake ./lake"
            )
        );
        let accept = format!("{run} --reconcile warn --allow-shrink --lake ./lake. Later runs");
        let mismatch = advice(Reason::Mismatch, slice, &rerun);
        assert!(mismatch.contains(&accept), "{mismatch}");
        let of_status = Rerun {
            is_of_run: false,
            ..rerun
        };
        let shrank = advice(Reason::Shrank, slice, &of_status);
        assert!(
            shrank.ends_with("--lake ./lake, with the other flags of your runs"),
            "{shrank}"
        );
    }

    fn run_report(slices: Vec<SliceReport>, warnings: &[&str]) -> RunReport {
        let warnings = warnings.iter().map(|&warning| warning.to_owned()).collect();
        let now = jiff::Timestamp::UNIX_EPOCH;
        RunReport::new("r".to_owned(), now, slices, false, warnings)
    }

    #[test]
    fn a_remark_among_the_warnings_of_a_run_gets_the_advice_of_its_kind() {
        let mut run = RunResult {
            report: run_report(Vec::new(), &["one", "1 record was left out"]),
            is_kept: true,
            remarks: vec![Remark {
                text: "1 record was left out".to_owned(),
                kind: Some(RemarkKind::UnendedDays),
            }],
            stopped_by: None,
        };
        on_remarks(&mut run);
        let left_out = "1 record was left out. Fetch the whole days with `cdrlake run` later";
        assert_eq!(run.report.warnings, ["one", left_out]);
    }

    #[test]
    fn an_incomplete_erasure_gets_the_command_that_completes_it() {
        let slice: Slice = "placed 2026-10-01".parse().unwrap();
        let failed = SliceReport {
            error: Some(EraseError::Announced.to_string()),
            ..SliceReport::new(slice, SliceOutcome::Failed)
        };
        let mut erasure = Erasure {
            report: run_report(vec![failed], &["a leftover", "another"]),
            is_complete: false,
            failures: [(slice, EraseError::Announced)].into(),
            leftovers: Some("a leftover".to_owned()),
        };
        on_erasure(&mut erasure);
        assert_eq!(
            erasure.report.slices[0].error.as_deref(),
            Some(
                "its first publication was announced but not committed, so its content is \
                 unknown. Run `cdrlake run`, then erase again"
            )
        );
        assert_eq!(
            erasure.report.warnings,
            ["a leftover. Run `cdrlake gc`", "another"]
        );
    }
}
