//! The run report: what a run did.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::cdr::amount::AmountSum;
use crate::cdr::period::Period;
use crate::cdr::reconcile::Verdict;
use crate::cdr::slice::{Direction, Slice};
use crate::cdr::tally::{Counts, Totals};
use crate::error::counted;
use crate::lake::ledger::{Commit, Reason, State};
use crate::retry::RetryReason;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunOutcome {
    /// All due slices are committed.
    Committed,
    /// Some slices are committed, others failed.
    Partial,
    /// No slice is committed.
    Failed,
    /// A signal ended the run. The lake is consistent.
    Interrupted,
}

/// The outcome of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SliceOutcome {
    /// Its file was written, or removed because it has no rows.
    Committed,
    /// Fetched again, and unchanged.
    Unchanged,
    /// Not fetched: the run ended first, or another run fetched it.
    Skipped,
    /// All attempts failed. The lake is as before, unless `error` reports that only the ledger
    /// entry was not updated. The counts are those of the last attempt.
    Failed,
}

/// A file of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// Its path in the lake.
    pub path: String,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

/// Sums of a slice, for comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Its rows.
    pub rows: u64,
    /// Seconds of talk time.
    pub duration_seconds: i64,
    /// Charges, in US dollars.
    pub charge_usd: AmountSum,
}

impl From<&Commit> for Sums {
    fn from(commit: &Commit) -> Self {
        Self {
            rows: commit.counts.rows,
            duration_seconds: commit.totals.duration_seconds,
            charge_usd: commit.totals.charge_usd,
        }
    }
}

/// How an existing slice has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When the earlier content was fetched.
    pub since: Timestamp,
    /// The earlier content.
    pub before: Sums,
    /// The content now.
    pub after: Sums,
}

impl Change {
    /// How `new` differs from `old`; `None` if their rows are equal.
    pub fn between(old: &Commit, new: &Commit) -> Option<Self> {
        (old.digest != new.digest).then(|| Self {
            since: old.fetched_at,
            before: old.into(),
            after: new.into(),
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            since,
            before,
            after,
        } = self;
        let since = since.strftime("%Y-%m-%d %H:%M:%S UTC");
        write!(
            f,
            "{} → {} rows, {} → {} seconds, {} → {} USD since {since}",
            before.rows,
            after.rows,
            before.duration_seconds,
            after.duration_seconds,
            before.charge_usd,
            after.charge_usd
        )
    }
}

/// The report on one slice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SliceReport {
    /// Its direction.
    pub direction: Direction,
    /// Its period.
    #[serde(flatten)]
    pub period: Period,
    /// Its outcome.
    pub outcome: SliceOutcome,
    /// Whether it may still change. `null` while nothing is committed.
    pub state: Option<State>,
    /// The number of attempts.
    pub attempts: u32,
    /// Records read, and their outcomes.
    #[serde(flatten)]
    pub counts: Counts,
    /// The provider's own count.
    pub control_total: Option<u64>,
    /// The comparison with that count.
    pub reconcile: Verdict,
    /// Sums over the rows.
    pub totals: Totals,
    /// Its file, if it has rows.
    pub files: Vec<FileReport>,
    /// How its rows have changed; `null` if they have not, or the slice is new.
    pub change: Option<Change>,
    /// Why it failed or was skipped.
    pub error: Option<String>,
    /// The kind of failure, where there is a specific remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Whether its file was written or removed, even if the ledger entry was not updated.
    #[serde(skip)]
    pub table_changed: bool,
}

impl SliceReport {
    /// Whether it is still to be done. If it was skipped and has a state, another run did it.
    pub(crate) fn is_undone(&self) -> bool {
        match self.outcome {
            SliceOutcome::Committed | SliceOutcome::Unchanged => false,
            SliceOutcome::Skipped => self.state.is_none(),
            SliceOutcome::Failed => true,
        }
    }

    /// An empty report on a slice.
    pub fn new(slice: Slice, outcome: SliceOutcome) -> Self {
        Self {
            direction: slice.direction,
            period: slice.period,
            outcome,
            state: None,
            attempts: 0,
            counts: Counts::default(),
            control_total: None,
            reconcile: Verdict::NotChecked,
            totals: Totals::default(),
            files: Vec::new(),
            change: None,
            error: None,
            reason: None,
            table_changed: false,
        }
    }

    /// Its slice.
    pub fn slice(&self) -> Slice {
        Slice::new(self.period, self.direction)
    }

    /// Copies the content of a commit.
    pub fn describe(&mut self, commit: &Commit) {
        self.state = Some(commit.state);
        self.counts = commit.counts.clone();
        self.control_total = commit.control_total;
        self.reconcile = commit.reconcile;
        self.totals = commit.totals.clone();
        let file = |file: &crate::lake::PublishedFile| FileReport {
            path: file.path.clone(),
            rows: file.rows,
            bytes: file.bytes,
        };
        self.files = commit.file.iter().map(file).collect();
    }
}

/// Counts and sums over the committed and unchanged slices of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunTotals {
    /// Counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// Sums.
    #[serde(flatten)]
    pub totals: Totals,
}

/// What a run did: `--format json`, and `_cdrlake/runs/<run>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// ID of the run; sorts by time.
    pub run: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// How it ended.
    pub outcome: RunOutcome,
    /// All due slices, by day.
    pub slices: Vec<SliceReport>,
    /// Sums over the committed and unchanged slices.
    pub totals: RunTotals,
    /// Days of which this run, or a crashed run without a report, wrote or removed a file. A
    /// warehouse must load them again.
    pub partitions_changed: Vec<Date>,
    /// Problems that did not stop the run but need attention.
    pub warnings: Vec<String>,
    /// Attempts at slices and pages after the first, by the reason.
    #[serde(default)]
    pub retries: BTreeMap<RetryReason, u64>,
    /// Bytes of bodies, as they came over the network, of failed attempts too.
    #[serde(default)]
    pub bytes_received: u64,
    /// The run that wrote this report for a crashed run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
}

/// A remark on a lake, a plan or an export that a person should read. A run report has it among its
/// warnings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The remark, a sentence without a full stop.
    pub text: String,
    /// Its kind, where there is a specific remedy.
    pub kind: Option<RemarkKind>,
}

/// The kind of a remark, which determines the advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemarkKind {
    /// Erasures are incomplete.
    UnfinishedErasures,
    /// The table has files that belong to no slice.
    ForeignFiles,
    /// The lake and the export have different numbers of records of a day.
    DifferingDays,
    /// Days that are not loaded again were loaded with another time zone.
    OtherTimezone,
    /// The export has days before `window.start`.
    DaysBeforeStart,
    /// The export has days that had not ended.
    UnendedDays,
    /// `source.url` is not that of the lake's first run.
    OtherSource,
    /// Calls of a lake of months have the days of another `window.timezone`.
    OtherDays,
    /// The logs of table formats lack changes.
    UnsyncedLogs,
    /// The lake is being converted, or the conversion was interrupted.
    UnfinishedConversion,
    /// The lake has many small files of days.
    SmallFiles,
}

impl From<String> for Remark {
    fn from(text: String) -> Self {
        Self { text, kind: None }
    }
}

impl RemarkKind {
    /// A remark of this kind.
    pub(crate) fn remark(self, text: String) -> Remark {
        Remark {
            text,
            kind: Some(self),
        }
    }
}

/// A unique ID of a run that sorts by time.
pub(crate) fn new_run_id(now: Timestamp) -> String {
    format!(
        "{}-{:08x}",
        now.strftime("%Y%m%dT%H%M%SZ"),
        fastrand::u32(..)
    )
}

impl RunReport {
    /// Sums up a run.
    pub fn new(
        run: String,
        started_at: Timestamp,
        mut slices: Vec<SliceReport>,
        interrupted: bool,
        warnings: Vec<String>,
    ) -> Self {
        slices.sort_by_key(SliceReport::slice);
        let mut totals = RunTotals::default();
        let mut changed = BTreeSet::new();
        let (mut done, mut undone) = (0_u64, 0_u64);
        for slice in &slices {
            match slice.outcome {
                SliceOutcome::Committed | SliceOutcome::Unchanged => {
                    done += 1;
                    totals.counts.merge(&slice.counts);
                    totals.totals.merge(&slice.totals);
                }
                SliceOutcome::Failed | SliceOutcome::Skipped => {
                    undone += u64::from(slice.is_undone());
                }
            }
            if slice.table_changed {
                changed.insert(slice.period.first_day());
            }
        }
        let outcome = match (done, undone) {
            _ if interrupted => RunOutcome::Interrupted,
            (_, 0) => RunOutcome::Committed,
            (0, _) => RunOutcome::Failed,
            _ => RunOutcome::Partial,
        };
        Self {
            run,
            started_at,
            finished_at: Timestamp::now(),
            outcome,
            slices,
            totals,
            partitions_changed: changed.into_iter().collect(),
            warnings,
            retries: BTreeMap::new(),
            bytes_received: 0,
            made_by: None,
        }
    }

    /// The report on a crashed run with the slices of `more`, which were found since; `None` if the
    /// run itself wrote this report, which is then complete.
    pub fn with_slices_found_since(self, more: &Self) -> Option<Self> {
        self.made_by.as_ref()?;
        let mut slices = more.slices.clone();
        let is_new =
            |slice: &SliceReport| more.slices.iter().all(|new| new.slice() != slice.slice());
        slices.extend(self.slices.into_iter().filter(is_new));
        Some(Self {
            finished_at: self.finished_at.max(more.finished_at),
            made_by: self.made_by,
            ..Self::new(self.run, self.started_at, slices, true, self.warnings)
        })
    }

    /// A report on a crashed run, from its commits.
    pub fn of_crashed_run(run: &str, commits: &[(Slice, Commit)], made_by: &str) -> Self {
        let slices = commits.iter().map(|(slice, commit)| {
            let mut report = SliceReport::new(*slice, SliceOutcome::Committed);
            if commit.state == State::Pruned {
                // Counts and sums describe rows in the lake only.
                report.state = Some(State::Pruned);
            } else {
                report.describe(commit);
            }
            report.table_changed = true;
            report
        });
        let warning =
            format!("the run crashed before it wrote a report; run {made_by} wrote this one");
        let mut report = Self::new(
            run.to_owned(),
            commits
                .iter()
                .map(|(_, commit)| commit.fetched_at)
                .min()
                .unwrap_or_else(Timestamp::now),
            slices.collect(),
            true,
            vec![warning],
        );
        report.finished_at = report.started_at;
        report.made_by = Some(made_by.to_owned());
        report
    }

    /// Adds changed days that may not be loaded again yet.
    pub fn also_changed(&mut self, days: impl IntoIterator<Item = Date>) {
        self.partitions_changed.extend(days);
        self.partitions_changed.sort_unstable();
        self.partitions_changed.dedup();
    }

    /// Adds the days that a crashed run changed without a report, and those of slices that it had
    /// `announced`.
    pub fn add_days_of_crashed_run(&mut self, crashed: &Self, announced: &BTreeSet<Slice>) {
        if crashed.slices.is_empty() && announced.is_empty() {
            return;
        }
        self.also_changed(crashed.partitions_changed.iter().copied());
        self.also_changed(announced.iter().map(|slice| slice.period.first_day()));
        self.warnings.push(format!(
            "run {} crashed before it wrote a report. The changed days include those of {} that \
             it had committed or announced",
            crashed.run,
            counted(
                (crashed.slices.len() + announced.len()) as u64,
                "slice",
                "slices"
            )
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdr::slice::parse_day;
    use crate::lake::PublishedFile;
    use crate::lake::ledger::tests::commit;
    use crate::slice_file::statistics::FileStatistics;

    fn slice(day: &str, outcome: SliceOutcome) -> SliceReport {
        let slice = Slice::of_day(parse_day(day).unwrap(), Direction::Placed);
        SliceReport {
            table_changed: outcome == SliceOutcome::Committed,
            ..SliceReport::new(slice, outcome)
        }
    }

    #[test]
    fn the_outcome_depends_on_the_committed_share_of_due_slices() {
        use SliceOutcome::{Committed, Failed, Skipped, Unchanged};

        let outcome = |outcomes: &[SliceOutcome], interrupted| {
            let slices = outcomes
                .iter()
                .map(|&outcome| slice("2026-10-01", outcome))
                .collect();
            RunReport::new(
                "r".to_owned(),
                Timestamp::UNIX_EPOCH,
                slices,
                interrupted,
                Vec::new(),
            )
            .outcome
        };
        assert_eq!(outcome(&[], false), RunOutcome::Committed);
        assert_eq!(
            outcome(&[Committed, Unchanged], false),
            RunOutcome::Committed
        );
        assert_eq!(outcome(&[Committed, Failed], false), RunOutcome::Partial);
        assert_eq!(outcome(&[Failed, Skipped], false), RunOutcome::Failed);
        assert_eq!(
            outcome(&[Committed, Skipped], true),
            RunOutcome::Interrupted
        );
    }

    #[test]
    fn only_days_with_written_files_have_changed() {
        let slices = vec![
            slice("2026-10-02", SliceOutcome::Committed),
            slice("2026-10-01", SliceOutcome::Unchanged),
        ];
        let report = RunReport::new(
            "r".to_owned(),
            Timestamp::UNIX_EPOCH,
            slices,
            false,
            Vec::new(),
        );
        assert_eq!(
            report.partitions_changed,
            [parse_day("2026-10-02").unwrap()]
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["slices"][0]["day"], "2026-10-01");
        assert_eq!(json["slices"][0]["records"], 0);
        assert_eq!(json["totals"]["charge_usd"], "0");
        assert_eq!(json["slices"][0]["reconcile"], "not_checked");
    }

    fn commit_by(run: &str, rows: u64) -> Commit {
        let file = PublishedFile {
            path: "x".to_owned(),
            rows,
            bytes: 9,
            checksum: String::new(),
            etag: None,
            statistics: FileStatistics::default(),
        };
        let mut commit = commit(Some(file), State::Closed);
        run.clone_into(&mut commit.run);
        commit.counts.rows = rows;
        commit.counts.records = rows;
        commit.digest.rows = rows;
        commit.totals.duration_seconds = 60;
        commit
    }

    fn placed(day: &str) -> Slice {
        let day = parse_day(day).unwrap();
        let direction = Direction::Placed;
        Slice::of_day(day, direction)
    }

    #[test]
    fn a_change_is_reported_with_its_sums_and_only_if_rows_differ() {
        let (old, new) = (commit_by("a", 3), commit_by("b", 5));
        assert_eq!(Change::between(&old, &commit_by("c", 3)), None);
        let change = Change::between(&old, &new).unwrap();
        let told = "3 → 5 rows, 60 → 60 seconds, 0 → 0 USD since 1970-01-01 00:00:00 UTC";
        assert_eq!(change.to_string(), told);
    }

    #[test]
    fn run_ids_are_unique_and_sort_by_time() {
        let now: Timestamp = "2026-10-01T12:30:00Z".parse().unwrap();
        let (one, other) = (new_run_id(now), new_run_id(now));
        assert_ne!(one, other);
        assert!(
            one.starts_with("20261001T123000Z-") && one.len() == 25,
            "{one}"
        );
    }

    #[test]
    fn a_crashed_run_is_reported_with_its_commits_and_announcements() {
        let (first, second) = (placed("2026-10-01"), placed("2026-10-02"));
        let pruned = Commit::pruned(Some(commit_by("dead", 7)), "dead");
        let commits = [(first, commit_by("dead", 3)), (second, pruned)];
        let dead = RunReport::of_crashed_run("dead", &commits, "this");
        assert_eq!(dead.outcome, RunOutcome::Interrupted);
        assert_eq!(dead.finished_at, dead.started_at);
        assert_eq!(dead.made_by.as_deref(), Some("this"));
        assert_eq!(
            dead.partitions_changed,
            [first.period.first_day(), second.period.first_day()]
        );
        // What was pruned is in the lake no more.
        assert_eq!(
            (dead.slices[0].counts.rows, dead.slices[1].counts.rows),
            (3, 0)
        );
        assert_eq!(dead.slices[1].state, Some(State::Pruned));
        let files: Vec<u64> = dead.slices[0].files.iter().map(|file| file.bytes).collect();
        assert_eq!(
            (dead.slices[0].state, files),
            (Some(State::Closed), vec![9])
        );

        // It was at it again before it died for good.
        let third = placed("2026-10-03");
        let later = [(first, commit_by("dead", 4)), (third, commit_by("dead", 1))];
        let mut more = RunReport::of_crashed_run("dead", &later, "next");
        more.finished_at = "2026-10-04T00:00:00Z".parse().unwrap();
        let all = dead.clone().with_slices_found_since(&more).unwrap();
        let rows: Vec<u64> = all.slices.iter().map(|slice| slice.counts.rows).collect();
        assert_eq!(rows, [4, 0, 1]);
        assert_eq!(
            (&all.made_by, all.finished_at),
            (&dead.made_by, more.finished_at)
        );
        let own = RunReport {
            made_by: None,
            ..dead.clone()
        };
        assert_eq!(own.with_slices_found_since(&more), None);

        let mut report = RunReport::new(
            "this".to_owned(),
            Timestamp::UNIX_EPOCH,
            vec![slice("2026-10-02", SliceOutcome::Committed)],
            false,
            Vec::new(),
        );
        let nothing = RunReport::of_crashed_run("dead", &[], "this");
        report.add_days_of_crashed_run(&nothing, &BTreeSet::new());
        assert!(report.warnings.is_empty() && report.partitions_changed.len() == 1);
        report.add_days_of_crashed_run(&nothing, &[third].into());
        assert_eq!(
            report.partitions_changed,
            [second.period.first_day(), third.period.first_day()]
        );
        report.add_days_of_crashed_run(&dead, &BTreeSet::new());
        assert_eq!(
            report.partitions_changed,
            [
                first.period.first_day(),
                second.period.first_day(),
                third.period.first_day()
            ]
        );
        assert_eq!(report.warnings.len(), 2, "{:?}", report.warnings);
    }
}
