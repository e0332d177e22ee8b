//! Metrics of the last run in a file, in the [text format of
//! Prometheus](https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format),
//! version 0.0.4, for the textfile collector of `node_exporter`.
//!
//! A run is a batch job, so every metric is a gauge of the last run or of the lake after it.

use std::fmt::{Display, Write};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::Error;
use super::days::{DayRange, today};
use super::job::Outcome;
use super::open::find_lake;
use super::run::RunResult;
use super::status::LakeStatus;
use crate::cdr::day::end_of_day;
use crate::cdr::slice::Direction;
use crate::config::Config;
use crate::error::chain;
use crate::lake::SliceState;
use crate::lake::report::{RunOutcome, RunReport, SliceOutcome};
use crate::retry::RetryReason;
use crate::store::location::Location;
use crate::store::whole_file::WholeFile;

/// The collector runs as another user. The file holds no phone number and no key.
const FILE_MODE: u32 = 0o644;
/// As much of an earlier file as is read. One of ours has some kilobytes.
const MAX_EARLIER_BYTES: u64 = 1 << 20;

const LAST_SUCCESS: &str = "cdrlake_last_success_timestamp_seconds";
const NEWEST_DAY: &str = "cdrlake_newest_complete_day_timestamp_seconds";
const MISSING_DATES: &str = "cdrlake_missing_dates";

/// The metrics cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {} (metrics.file)", path.display())]
pub struct MetricsError {
    /// `metrics.file`.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// Where the metrics of a lake's runs are left.
#[derive(Clone, Debug)]
pub(crate) struct MetricsFile {
    file: WholeFile,
    /// The lake, which distinguishes the files of one machine: a collector refuses equal series.
    lake: String,
}

impl MetricsFile {
    /// The file that the configuration names, if it does.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        let file = WholeFile::new(config.metrics.file.clone()?, FILE_MODE);
        let lake = match &config.lake.url {
            Location::Directory(root) => {
                let absolute = std::path::absolute(root);
                absolute.as_ref().unwrap_or(root).display().to_string()
            }
            Location::Bucket(url) => url.to_string(),
        };
        Some(Self { file, lake })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Whether it can be written, as far as that shows before.
    ///
    /// # Errors
    /// [`MetricsError`] if not.
    pub(crate) fn check(&self) -> Result<(), MetricsError> {
        let lock = self.file.check().and_then(|()| self.file.lock());
        lock.map(drop).map_err(|error| self.failed(error))
    }

    /// Writes the metrics of a run that began at `begun_at` and has just ended. `done` is `None` if
    /// nothing was begun.
    ///
    /// # Errors
    /// [`MetricsError`] if they cannot be written. The earlier file then stays.
    pub(crate) async fn write(
        &self,
        config: &Config,
        begun_at: Timestamp,
        done: Option<&Outcome>,
    ) -> Result<(), MetricsError> {
        let status = lake_status(config, done).await.unwrap_or_else(|error| {
            tracing::warn!(
                "The metrics keep the days of the run before: {}",
                chain(&error)
            );
            None
        });
        let run = LastRun {
            begun_at,
            ended_at: Timestamp::now(),
            succeeded: done
                .map_or_else(Vec::new, |done| succeeded(&done.plan.directions, &done.run)),
            up_to_date: done.map_or(0, |done| done.plan.up_to_date),
            report: done.map(|done| &done.run.report),
        };
        let days = status.map(|status| days_of(&status, config));
        self.replace(&run, days.as_deref())
            .map_err(|error| self.failed(error))
    }

    /// Replaces the file. Jobs that end at the same time keep each other's last success.
    fn replace(&self, run: &LastRun<'_>, days: Option<&[Days]>) -> io::Result<()> {
        let _lock = self.file.lock()?;
        self.file.write(&self.render(&self.earlier(), run, days))
    }

    /// The file as it is. Empty if there is none, or it cannot be read.
    fn earlier(&self) -> String {
        let mut text = Vec::new();
        // Whatever else lies there might never end.
        if self.path().is_file()
            && let Ok(file) = File::open(self.path())
        {
            drop(file.take(MAX_EARLIER_BYTES).read_to_end(&mut text));
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn render(&self, earlier: &str, run: &LastRun<'_>, days: Option<&[Days]>) -> String {
        let mut text = Exposition {
            lake: &self.lake,
            earlier,
            text: String::new(),
        };
        text.family(
            LAST_SUCCESS,
            "When a run last did all that was due of a direction.",
        );
        for direction in Direction::ALL {
            let label = Some(("direction", direction.as_str()));
            if run.succeeded.contains(&direction) {
                text.sample(LAST_SUCCESS, label, run.ended_at.as_second());
            } else {
                text.keep(LAST_SUCCESS, label);
            }
        }
        text.gauge(
            "cdrlake_last_run_timestamp_seconds",
            "When the last run ended.",
            run.ended_at.as_second(),
        );
        text.gauge(
            "cdrlake_last_run_duration_seconds",
            "How long the last run took.",
            run.ended_at.duration_since(run.begun_at).as_secs_f64(),
        );
        let outcome = run
            .report
            .map_or(RunOutcome::Failed, |report| report.outcome);
        let name = "cdrlake_last_run_outcome";
        text.family(name, "1 for the outcome of the last run, 0 for the others.");
        for of in [
            RunOutcome::Committed,
            RunOutcome::Partial,
            RunOutcome::Failed,
            RunOutcome::Interrupted,
        ] {
            text.sample(name, Some(("outcome", &word(of))), u8::from(of == outcome));
        }
        let name = "cdrlake_last_run_slices";
        text.family(name, "Slices that the last run looked at, by outcome.");
        for of in [
            SliceOutcome::Committed,
            SliceOutcome::Unchanged,
            SliceOutcome::Skipped,
            SliceOutcome::Failed,
        ] {
            let slices = run.report.map_or(&[][..], |report| &report.slices);
            let number = slices.iter().filter(|slice| slice.outcome == of).count();
            text.sample(name, Some(("outcome", &word(of))), number);
        }
        text.sample(name, Some(("outcome", "up_to_date")), run.up_to_date);
        for (name, help, value) in counts(run.report) {
            text.gauge(name, help, value);
        }
        let name = "cdrlake_last_run_retries";
        text.family(
            name,
            "Attempts of the last run at slices and pages after the first, by reason.",
        );
        for reason in RetryReason::ALL {
            let number = run.report.and_then(|report| report.retries.get(&reason));
            let number = number.copied().unwrap_or_default();
            text.sample(name, Some(("reason", &word(reason))), number);
        }
        text.family(
            NEWEST_DAY,
            "End of the newest day that was fetched after its end.",
        );
        text.by_direction(NEWEST_DAY, days, |days| days.newest_end);
        text.family(
            MISSING_DATES,
            "Days that have ended and were not fetched since.",
        );
        text.by_direction(MISSING_DATES, days, |days| Some(days.missing));
        text.text
    }

    fn failed(&self, source: io::Error) -> MetricsError {
        MetricsError {
            path: self.path().to_owned(),
            source,
        }
    }
}

/// What the metrics tell of the last run.
struct LastRun<'a> {
    begun_at: Timestamp,
    ended_at: Timestamp,
    /// The directions of which it did all that was due.
    succeeded: Vec<Direction>,
    up_to_date: u64,
    /// `None` if nothing was begun.
    report: Option<&'a RunReport>,
}

/// Those of the directions that a run looked at of which it left nothing undone.
fn succeeded(looked_at: &[Direction], run: &RunResult) -> Vec<Direction> {
    if run.stopped_by.is_some() {
        return Vec::new();
    }
    let slices = &run.report.slices;
    let is_done = |direction: &Direction| {
        let mut undone = slices.iter().filter(|slice| slice.is_undone());
        undone.all(|slice| slice.direction != *direction)
    };
    looked_at.iter().copied().filter(is_done).collect()
}

/// The counts of a run: the name of each, its help, and its value.
fn counts(report: Option<&RunReport>) -> [(&'static str, &'static str, u64); 6] {
    let count = |of: fn(&RunReport) -> u64| report.map_or(0, of);
    let bytes_written = |report: &RunReport| {
        let slices = report.slices.iter();
        let written = slices.filter(|slice| slice.outcome == SliceOutcome::Committed);
        let files = written.flat_map(|slice| &slice.files);
        files.map(|file| file.bytes).sum()
    };
    [
        (
            "cdrlake_last_run_records",
            "Records that the last run read, of committed and unchanged slices.",
            count(|report| report.totals.counts.records),
        ),
        (
            "cdrlake_last_run_rows",
            "Rows that the last run wrote or found unchanged.",
            count(|report| report.totals.counts.rows),
        ),
        (
            "cdrlake_last_run_rejected_records",
            "Records that could not become a row.",
            count(|report| report.totals.counts.rejected),
        ),
        (
            "cdrlake_last_run_duplicate_records",
            "Records that equal another one, and were dropped.",
            count(|report| report.totals.counts.duplicates),
        ),
        (
            "cdrlake_last_run_received_bytes",
            "Bytes of bodies, as they came over the network, of failed attempts too.",
            count(|report| report.bytes_received),
        ),
        (
            "cdrlake_last_run_written_bytes",
            "Bytes of the files that the last run added to the table.",
            count(bytes_written),
        ),
    ]
}

/// The days of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Days {
    direction: Direction,
    /// When the newest complete day ended.
    newest_end: Option<i64>,
    missing: i64,
}

/// The whole lake from its first day to yesterday, whatever days the run looked at: two jobs that
/// look at other days leave the same number. `None` if there is no such day or no lake.
async fn lake_status(config: &Config, done: Option<&Outcome>) -> Result<Option<LakeStatus>, Error> {
    let lake = match done {
        Some(done) => done.lake.clone(),
        None => match find_lake(config).await? {
            Some(lake) => lake,
            None => return Ok(None),
        },
    };
    let now = Timestamp::now();
    let range = DayRange {
        to: today(&config.window, now).yesterday().ok(),
        ..DayRange::default()
    };
    match LakeStatus::read(&lake, config, &range, now).await {
        Err(Error::Usage(_)) => Ok(None),
        status => status.map(Some),
    }
}

fn days_of(status: &LakeStatus, config: &Config) -> Vec<Days> {
    let timezone = &config.window.timezone;
    let ended_at = |day| end_of_day(day, timezone);
    let of = |direction| {
        let slices = status.days.iter().flat_map(|day| {
            let slices = day.slices.iter();
            let slices = slices.filter(move |slice| slice.direction == direction);
            slices.map(|slice| (day.day, slice))
        });
        let (complete, others): (Vec<_>, Vec<_>) =
            slices.partition(|(day, slice)| slice.has_whole(*day, timezone));
        let missing = others
            .iter()
            .filter(|(_, slice)| slice.state != SliceState::Pruned);
        Days {
            direction,
            newest_end: complete.last().map(|(day, _)| ended_at(*day).as_second()),
            missing: i64::try_from(missing.count()).unwrap_or(i64::MAX),
        }
    };
    config.source.directions.iter().copied().map(of).collect()
}

/// A word as reports have it.
fn word(of: impl Serialize) -> String {
    let word = serde_json::to_value(of).expect("our own types always serialise");
    word.as_str().unwrap_or_default().to_owned()
}

/// A text under construction.
struct Exposition<'a> {
    lake: &'a str,
    /// The file that it replaces.
    earlier: &'a str,
    text: String,
}

impl Exposition<'_> {
    fn family(&mut self, name: &str, help: &str) {
        self.push(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, help);
        self.sample(name, None, value);
    }

    fn sample(&mut self, name: &str, label: Option<(&str, &str)>, value: impl Display) {
        self.push(&format!("{} {value}\n", self.series(name, label)));
    }

    /// Repeats the value that the earlier file has, if it has one.
    fn keep(&mut self, name: &str, label: Option<(&str, &str)>) {
        let series = self.series(name, label);
        let value = self.earlier.lines().find_map(|line| {
            let value = line.strip_prefix(&series)?.strip_prefix(' ')?;
            value.parse::<i64>().ok()
        });
        if let Some(value) = value {
            self.sample(name, label, value);
        }
    }

    /// A value for each direction, or the earlier ones where `days` are not known.
    fn by_direction(
        &mut self,
        name: &str,
        days: Option<&[Days]>,
        value: impl Fn(&Days) -> Option<i64>,
    ) {
        for direction in Direction::ALL {
            let label = Some(("direction", direction.as_str()));
            match days {
                None => self.keep(name, label),
                Some(days) => {
                    let days = days.iter().find(|days| days.direction == direction);
                    if let Some(value) = days.and_then(&value) {
                        self.sample(name, label, value);
                    }
                }
            }
        }
    }

    fn series(&self, name: &str, label: Option<(&str, &str)>) -> String {
        let lake = escaped(self.lake);
        match label {
            None => format!("{name}{{lake=\"{lake}\"}}"),
            Some((label, value)) => format!("{name}{{lake=\"{lake}\",{label}=\"{value}\"}}"),
        }
    }

    fn push(&mut self, lines: &str) {
        self.text
            .write_str(lines)
            .expect("writing to memory does not fail");
    }
}

/// The value of a label, between quotation marks.
fn escaped(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::MetadataExt;

    use jiff::civil::date;

    use super::*;
    use crate::lake::report::SliceReport;

    const PLACED_SUCCESS: &str = r#"cdrlake_last_success_timestamp_seconds{direction="placed"}"#;

    fn file(path: &Path) -> MetricsFile {
        MetricsFile {
            file: WholeFile::new(path.to_owned(), FILE_MODE),
            lake: "/a \"lake\"\\\nhere".to_owned(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn run(report: Option<&RunReport>, ended_at: i64) -> LastRun<'_> {
        LastRun {
            begun_at: at(ended_at - 5),
            ended_at: at(ended_at),
            succeeded: report
                .filter(|report| report.outcome == RunOutcome::Committed)
                .map_or_else(Vec::new, |_| vec![Direction::Placed]),
            up_to_date: 7,
            report,
        }
    }

    fn report(outcome: SliceOutcome) -> RunReport {
        let slice = "placed 2026-10-01".parse().unwrap();
        let mut slice = SliceReport::new(slice, outcome);
        (slice.counts.records, slice.counts.rows) = (5, 3);
        (slice.counts.duplicates, slice.counts.rejected) = (1, 1);
        slice.files = vec![crate::lake::report::FileReport {
            path: "x".to_owned(),
            rows: 3,
            bytes: 99,
        }];
        let mut report = RunReport::new("r".to_owned(), at(0), vec![slice], false, Vec::new());
        report.retries = [(RetryReason::Timeout, 2)].into();
        report.bytes_received = 1_000;
        report
    }

    /// The value of a series without its label `lake`, or `None`.
    fn value<'a>(text: &'a str, series: &str) -> Option<&'a str> {
        let lake = r#"{lake="/a \"lake\"\\\nhere""#;
        let series = match series.split_once('{') {
            Some((name, label)) => format!("{name}{lake},{label} "),
            None => format!("{series}{lake}}} "),
        };
        let mut values = text.lines().filter_map(|line| line.strip_prefix(&series));
        let value = values.next();
        assert_eq!(values.next(), None, "{series} stands twice");
        value
    }

    #[test]
    fn a_run_is_described_by_gauges() {
        let report = report(SliceOutcome::Committed);
        let days = [Days {
            direction: Direction::Placed,
            newest_end: Some(86_400),
            missing: 4,
        }];
        let text = file(Path::new("x")).render("", &run(Some(&report), 1_000), Some(&days));
        for (series, expected) in [
            (PLACED_SUCCESS, "1000"),
            ("cdrlake_last_run_timestamp_seconds", "1000"),
            ("cdrlake_last_run_duration_seconds", "5"),
            (r#"cdrlake_last_run_outcome{outcome="committed"}"#, "1"),
            (r#"cdrlake_last_run_outcome{outcome="failed"}"#, "0"),
            (r#"cdrlake_last_run_slices{outcome="committed"}"#, "1"),
            (r#"cdrlake_last_run_slices{outcome="unchanged"}"#, "0"),
            (r#"cdrlake_last_run_slices{outcome="up_to_date"}"#, "7"),
            ("cdrlake_last_run_records", "5"),
            ("cdrlake_last_run_rows", "3"),
            ("cdrlake_last_run_rejected_records", "1"),
            ("cdrlake_last_run_duplicate_records", "1"),
            ("cdrlake_last_run_received_bytes", "1000"),
            ("cdrlake_last_run_written_bytes", "99"),
            (r#"cdrlake_last_run_retries{reason="timeout"}"#, "2"),
            (r#"cdrlake_last_run_retries{reason="rate_limit"}"#, "0"),
            (
                r#"cdrlake_newest_complete_day_timestamp_seconds{direction="placed"}"#,
                "86400",
            ),
            (r#"cdrlake_missing_dates{direction="placed"}"#, "4"),
        ] {
            assert_eq!(value(&text, series), Some(expected), "{series}\n{text}");
        }
        let received = r#"cdrlake_missing_dates{direction="received"}"#;
        assert_eq!(value(&text, received), None, "{text}");
        let names = |kind: &str| -> BTreeSet<String> {
            let lines = text.lines().filter_map(|line| line.strip_prefix(kind));
            lines
                .map(|line| line.split([' ', '{']).next().unwrap().to_owned())
                .collect()
        };
        assert_eq!(names("# HELP "), names("# TYPE "));
        assert_eq!(
            names("# HELP "),
            names("").into_iter().filter(|name| name != "#").collect()
        );
    }

    #[test]
    fn a_run_that_fails_keeps_the_last_success_and_one_that_does_not_begin_also_the_days() {
        let file = file(Path::new("x"));
        let days = [Days {
            direction: Direction::Received,
            newest_end: Some(86_400),
            missing: 2,
        }];
        let good = report(SliceOutcome::Committed);
        let first = file.render("", &run(Some(&good), 1_000), Some(&days));
        let bad = report(SliceOutcome::Failed);
        let second = file.render(&first, &run(Some(&bad), 2_000), Some(&days));
        let third = file.render(&second, &run(None, 3_000), None);
        for (text, ended) in [(&second, "2000"), (&third, "3000")] {
            let values = [
                PLACED_SUCCESS,
                "cdrlake_last_run_timestamp_seconds",
                r#"cdrlake_last_run_outcome{outcome="failed"}"#,
                r#"cdrlake_newest_complete_day_timestamp_seconds{direction="received"}"#,
                r#"cdrlake_missing_dates{direction="received"}"#,
            ]
            .map(|series| value(text, series).unwrap());
            assert_eq!(values, ["1000", ended, "1", "86400", "2"], "{text}");
        }
        let failed = r#"cdrlake_last_run_slices{outcome="failed"}"#;
        assert_eq!(value(&second, failed), Some("1"));
        // Of another lake, and damaged.
        for earlier in [
            first.replace("here", "there"),
            first.replace("1000", "1OOO"),
        ] {
            let text = file.render(&earlier, &run(None, 2_000), None);
            assert_eq!(value(&text, PLACED_SUCCESS), None, "{text}");
        }
    }

    #[test]
    fn a_run_succeeds_with_the_directions_that_it_looked_at_and_left_nothing_undone_of() {
        use crate::ops::run::Stop;

        let both = Direction::ALL;
        let run = |outcome, stopped_by| RunResult {
            report: report(outcome),
            stopped_by,
            is_kept: true,
            remarks: Vec::new(),
        };
        // The slice of the report is a placed one.
        let cases = [
            (SliceOutcome::Committed, &both[..], &both[..]),
            (SliceOutcome::Unchanged, &both[..1], &both[..1]),
            (SliceOutcome::Failed, &both[..], &both[1..]),
            (SliceOutcome::Skipped, &both[..], &both[1..]),
            (SliceOutcome::Skipped, &both[..1], &[]),
        ];
        for (outcome, looked_at, expected) in cases {
            assert_eq!(
                succeeded(looked_at, &run(outcome, None)),
                expected,
                "{outcome:?}"
            );
            let stopped = run(outcome, Some(Stop::Interrupted));
            assert_eq!(succeeded(looked_at, &stopped), []);
        }
    }

    #[test]
    fn jobs_for_one_direction_each_keep_the_last_success_of_the_other_and_others_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cdrlake.prom");
        let file = file(&path);
        file.check().unwrap();
        assert_eq!(file.earlier(), "");
        let good = report(SliceOutcome::Committed);
        let rounds = |direction, first: i64| {
            for round in first..first + 20 {
                let run = LastRun {
                    succeeded: vec![direction],
                    ..run(Some(&good), round)
                };
                file.replace(&run, None).unwrap();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| rounds(Direction::Placed, 1_000));
            scope.spawn(|| rounds(Direction::Received, 2_000));
        });
        let text = file.earlier();
        let of = |direction| {
            value(
                &text,
                &format!("{LAST_SUCCESS}{{direction=\"{direction}\"}}"),
            )
        };
        assert_eq!((of("placed"), of("received")), (Some("1019"), Some("2019")));
        assert_eq!(path.metadata().unwrap().mode() & 0o777, FILE_MODE);
    }

    #[test]
    fn a_day_is_complete_once_it_was_fetched_after_its_end() {
        use crate::cdr::period::PeriodUnit;
        use crate::cdr::slice::Slice;
        use crate::lake::LedgerEntry;
        use crate::lake::ledger::State;
        use crate::lake::ledger::tests::commit;

        let config = Config::from_keys([
            ("lake.url", "./lake"),
            ("window.timezone", "America/New_York"),
            ("source.directions", "placed"),
        ])
        .unwrap();
        let day = |of: i8| date(2026, 10, of);
        let end = |of: i8| end_of_day(day(of), &config.window.timezone);
        let entry = |of: i8, fetched_at: Timestamp, state| {
            let slice = Slice::of_day(day(of), Direction::Placed);
            let mut commit = commit(None, state);
            commit.fetched_at = fetched_at;
            let mut found = LedgerEntry::absent(slice);
            found.entry.committed = Some(commit);
            (slice, found)
        };
        let just_before = |of| {
            end(of)
                .checked_sub(jiff::SignedDuration::from_nanos(1))
                .unwrap()
        };
        let entries = [
            entry(1, end(9), State::Pruned),
            entry(2, end(9), State::Closed),
            entry(4, end(4), State::Open),
            entry(5, just_before(5), State::Open),
        ];
        let days = day(1)..=day(6);
        let status = LakeStatus::new(
            PeriodUnit::Day,
            &entries.into(),
            &config.source.directions,
            days,
            day(7),
        );
        let expected = Days {
            direction: Direction::Placed,
            newest_end: Some(end(4).as_second()),
            missing: 3,
        };
        assert_eq!(days_of(&status, &config), [expected]);
    }
}
