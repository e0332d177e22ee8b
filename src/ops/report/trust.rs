//! What a reader must know before believing a report: how complete each slice is.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;

use super::pass::FileProblem;
use crate::cdr::amount::AmountSum;
use crate::cdr::period::Period;
use crate::cdr::reconcile::Verdict;
use crate::cdr::slice::{Direction, Slice};
use crate::error::{counted, sanitized_excerpt, thousands};
use crate::lake::report::Change;
use crate::lake::{LedgerEntry, SliceState};
use crate::ops::status::{LakeStatus, SliceStatus};

/// Changes of each slice that are shown.
const CHANGES_SHOWN: usize = 3;

/// How complete the slices of the period are.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Trust {
    /// Slices by their state.
    pub slices: SliceCounts,
    /// Slices whose number of records equals the provider's.
    pub matching: u64,
    /// Rejected records, which are no calls.
    pub rejected: u64,
    /// What is not as it should be, by day.
    pub findings: Vec<Finding>,
    /// Each slice.
    pub list: Vec<SliceTrust>,
}

/// Slices by their state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct SliceCounts {
    pub closed: u64,
    pub open: u64,
    pub failed: u64,
    pub damaged: u64,
    pub interrupted: u64,
    pub missing: u64,
    pub pruned: u64,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FindingKind {
    /// The file cannot be read: its calls are not in the report.
    Unreadable,
    /// The rows of the file are not what the ledger has.
    Altered,
    /// The ledger entry cannot be used.
    Damaged,
    /// Never fetched.
    Missing,
    /// Removed for its age.
    Pruned,
    /// A run ended while it published the slice.
    Interrupted,
    /// The last attempt failed.
    Failed,
    /// It may still change.
    Open,
    /// The provider counts otherwise.
    Mismatch,
    /// Records were rejected.
    Rejects,
    /// A run found it changed.
    Changed,
    /// Calls lie far outside the days of their slice.
    Outside,
}

/// Something about a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The slice's first day.
    pub day: Date,
    /// Its direction.
    pub direction: Direction,
    /// The kind.
    pub kind: FindingKind,
    /// The finding in words.
    pub text: String,
}

/// A slice as the ledger has it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SliceTrust {
    /// Its day or month.
    #[serde(flatten)]
    pub period: Period,
    /// Its direction.
    pub direction: Direction,
    /// Its state.
    pub state: SliceState,
    /// Its rows.
    pub rows: u64,
    /// The provider's count.
    pub provider_count: Option<u64>,
    /// How the provider's count compared.
    pub reconcile: Option<Verdict>,
    /// Rejected records.
    pub rejected: u64,
    /// When its content was fetched.
    pub fetched_at: Option<Timestamp>,
    /// How runs changed it after its last day.
    #[serde(flatten)]
    pub changes: SliceChanges,
}

/// How runs changed a slice after its last day, as far as their reports are kept.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct SliceChanges {
    /// How often.
    #[serde(rename = "changed")]
    pub count: u64,
    /// The last changes, oldest first.
    #[serde(rename = "changes")]
    pub last: Vec<SliceChange>,
}

impl SliceChanges {
    /// Adds a change, in any order.
    pub(super) fn add(&mut self, change: SliceChange) {
        self.count += 1;
        self.last.push(change);
        self.last
            .sort_by(|a, b| a.at.cmp(&b.at).then_with(|| a.run.cmp(&b.run)));
        if self.last.len() > CHANGES_SHOWN {
            self.last.remove(0);
        }
    }
}

/// How a run changed a slice.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SliceChange {
    /// The run.
    pub run: String,
    /// When it ended.
    pub at: Timestamp,
    /// Rows before.
    pub rows_before: u64,
    /// Rows after.
    pub rows_after: u64,
    /// Charges before.
    pub charge_before_usd: AmountSum,
    /// Charges after.
    pub charge_after_usd: AmountSum,
}

impl SliceChange {
    pub(super) fn new(run: &str, at: Timestamp, change: &Change) -> Self {
        Self {
            run: run.to_owned(),
            at,
            rows_before: change.before.rows,
            rows_after: change.after.rows,
            charge_before_usd: change.before.charge_usd,
            charge_after_usd: change.after.charge_usd,
        }
    }
}

impl Trust {
    /// What `status` of the period, the files and the run reports say.
    pub(super) fn new(
        status: &LakeStatus,
        entries: &HashMap<Slice, LedgerEntry>,
        problems: &BTreeMap<Slice, Vec<FileProblem>>,
        mut changes: BTreeMap<Slice, SliceChanges>,
    ) -> Self {
        let mut trust = Self {
            slices: SliceCounts {
                closed: status.closed,
                open: status.open,
                failed: status.failed,
                damaged: status.damaged,
                interrupted: status.interrupted,
                missing: status.missing,
                pruned: status.pruned,
            },
            ..Self::default()
        };
        for (slice, of_slice) in status.slices() {
            let entry = entries.get(&slice).or_else(|| entries.get(&slice.month()));
            let commit = entry.and_then(|found| found.entry.committed.as_ref());
            let commit = commit.filter(|_| of_slice.state != SliceState::Pruned);
            let changes = changes.remove(&slice).unwrap_or_default();
            let verdict = commit.map(|commit| commit.reconcile);
            trust.matching += u64::from(verdict.is_some_and(Verdict::is_match));
            trust.rejected += of_slice.rejected.unwrap_or_default();
            let mut findings = of_ledger(of_slice, verdict, commit.and_then(|it| it.control_total));
            findings.extend(
                changes
                    .last
                    .last()
                    .map(|last| (FindingKind::Changed, changed(last))),
            );
            let problems = problems.get(&slice).into_iter().flatten();
            let of_files = problems.map(of_file);
            findings.extend(of_files.map(|(kind, text)| {
                // A run that died between the file and its entry damages neither.
                let is_explained =
                    kind < FindingKind::Damaged && of_slice.state == SliceState::Interrupted;
                let kind = if is_explained {
                    FindingKind::Interrupted
                } else {
                    kind
                };
                (kind, text)
            }));
            findings.sort();
            let finding = |(kind, text)| Finding {
                day: slice.period.first_day(),
                direction: slice.direction,
                kind,
                text: format!("{} {}: {text}.", slice.period, slice.direction),
            };
            trust.findings.extend(findings.into_iter().map(finding));
            trust.list.push(SliceTrust {
                period: slice.period,
                direction: slice.direction,
                state: of_slice.state,
                rows: of_slice.rows,
                provider_count: commit.and_then(|commit| commit.control_total),
                reconcile: verdict,
                rejected: of_slice.rejected.unwrap_or_default(),
                fetched_at: of_slice.fetched_at,
                changes,
            });
        }
        trust
    }

    /// Whether a file or a ledger entry is damaged, which `verify` would report, too.
    pub(crate) fn is_any_damaged(&self) -> bool {
        let is_damage = |finding: &Finding| finding.kind <= FindingKind::Damaged;
        self.findings.iter().any(is_damage)
    }
}

type KindAndText = (FindingKind, String);

/// What the ledger says about a slice.
fn of_ledger(
    slice: &SliceStatus,
    verdict: Option<Verdict>,
    provider_count: Option<u64>,
) -> Vec<KindAndText> {
    let problem = slice
        .problem
        .as_deref()
        .map(sanitized_excerpt)
        .unwrap_or_default();
    let of_state = match slice.state {
        SliceState::Closed => None,
        SliceState::Open => Some((
            FindingKind::Open,
            "it had not settled when it was fetched, and may still change".to_owned(),
        )),
        SliceState::Failed => Some((
            FindingKind::Failed,
            format!("the last attempt failed, and the lake keeps what it had: {problem}"),
        )),
        SliceState::Damaged => Some((
            FindingKind::Damaged,
            format!("its ledger entry cannot be used, so its calls are unproven: {problem}"),
        )),
        SliceState::Interrupted => Some((
            FindingKind::Interrupted,
            "a run ended while it published the slice. The next run fetches it again".to_owned(),
        )),
        SliceState::Missing => Some((FindingKind::Missing, "not fetched yet".to_owned())),
        SliceState::Pruned => Some((FindingKind::Pruned, "removed for its age".to_owned())),
    };
    let mut findings: Vec<KindAndText> = of_state.into_iter().collect();
    if matches!(
        verdict,
        Some(Verdict::Mismatch | Verdict::MatchWithDuplicates)
    ) {
        let count = provider_count.map_or_else(
            || "the provider's count is unavailable".to_owned(),
            |count| format!("the provider counts {}", counted(count, "call", "calls")),
        );
        let records = thousands(slice.records.unwrap_or(slice.rows));
        let with = if verdict == Some(Verdict::MatchWithDuplicates) {
            ", which is true only with duplicates"
        } else {
            ""
        };
        let text = format!("{count}, and the lake read {records} records{with}");
        findings.push((FindingKind::Mismatch, text));
    }
    if let Some(rejected @ 1..) = slice.rejected {
        let rejected = counted(rejected, "record was", "records were");
        findings.push((
            FindingKind::Rejects,
            format!("{rejected} rejected, and are not among the calls"),
        ));
    }
    findings
}

fn changed(last: &SliceChange) -> String {
    format!(
        "changed by a run that ended at {}: {} → {} rows, {} → {} USD",
        last.at.strftime("%Y-%m-%d %H:%M UTC"),
        thousands(last.rows_before),
        thousands(last.rows_after),
        last.charge_before_usd,
        last.charge_after_usd
    )
}

fn of_file(problem: &FileProblem) -> KindAndText {
    match problem {
        FileProblem::Unreadable(problem) => (
            FindingKind::Unreadable,
            format!("its calls are not in the report: {problem}"),
        ),
        FileProblem::Altered(problem) => (
            FindingKind::Altered,
            format!("its file is not what the ledger has: {problem}"),
        ),
        FileProblem::Outside { begin, last } => (
            FindingKind::Outside,
            format!(
                "{} more than a day outside it, and {} more than a day beyond it. Hours leave out \
                 the former, and peaks both",
                counted(*begin, "call begins", "calls begin"),
                counted(*last, "call lasts", "calls last")
            ),
        ),
    }
}
