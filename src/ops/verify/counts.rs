//! Asks the provider for its counts again.

use std::collections::{BTreeSet, HashMap};

use futures::{StreamExt, stream};
use serde::{Serialize, Serializer};

use super::{Error, Fault, Finding, Scope, VerifyReport};
use crate::cdr::reconcile::{Verdict, describe_mismatch, verdict};
use crate::cdr::slice::Slice;
use crate::config::SourceConfig;
use crate::lake::ledger::{Commit, State};
use crate::lake::{Lake, LakeError};
use crate::source::requests::count_with_retries;
use crate::source::{Request, Source, SourceError};
use crate::store::layout;

/// The provider's answers.
#[derive(Debug, Default, Serialize)]
pub struct SourceCheck {
    /// Slices whose count was compared.
    pub asked: usize,
    /// Open slices. Their counts were not compared: the next run fetches them again.
    pub open: usize,
    /// Why the remaining counts are unavailable, if they are.
    #[serde(serialize_with = "as_text")]
    pub error: Option<SourceError>,
}

#[expect(clippy::ref_option, reason = "Serde asks for it")]
fn as_text<S: Serializer>(error: &Option<SourceError>, to: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(ToString::to_string).serialize(to)
}

/// Asks the provider for its count of every closed slice without a finding so far.
pub(super) async fn ask_provider(
    lake: &Lake,
    source: &dyn Source,
    config: &SourceConfig,
    slices: &BTreeSet<Slice>,
    report: &VerifyReport,
) -> Result<(SourceCheck, Vec<Finding>), Error> {
    let mut good = slices.clone();
    for slice in report.to_fetch().iter().chain(&report.in_progress) {
        good.remove(slice);
    }
    let mut commits = commits(lake, &good).await?;
    let mut asked = SourceCheck::default();
    let is_open = |commit: &&Commit| commit.state == State::Open;
    asked.open = commits.values().filter(is_open).count();
    commits.retain(|_, commit| commit.state == State::Closed);
    let mut questions = stream::iter(commits)
        .map(async |(slice, commit)| {
            let whole = Request::whole(slice);
            let request = Request {
                first_day: commit.from.unwrap_or(whole.first_day),
                ..whole
            };
            let total = count_with_retries(source, config, request).await?;
            Ok::<_, SourceError>(compare_total(slice, &commit, total))
        })
        .buffer_unordered(config.requests);
    let mut findings = Vec::new();
    while let Some(answer) = questions.next().await {
        match answer {
            Ok(finding) => {
                asked.asked += 1;
                findings.extend(finding);
            }
            Err(error) => {
                // Findings of the lake itself are reported nevertheless.
                asked.error = Some(error);
                break;
            }
        }
    }
    Ok((asked, findings))
}

/// Compares the ledger with `total`, the provider's current count of a slice. Open slices are
/// skipped: the next run fetches them again.
pub fn compare_total(slice: Slice, commit: &Commit, total: u64) -> Option<Finding> {
    let is_settled = commit.state == State::Closed;
    let is_another = match verdict(&commit.counts, Some(total)) {
        Verdict::Mismatch => true,
        // If it was so at the fetch, the run asked twice then.
        Verdict::MatchWithDuplicates => commit.reconcile != Verdict::MatchWithDuplicates,
        _ => false,
    };
    (is_settled && is_another).then(|| {
        let problem = describe_mismatch(&commit.counts, Some(total));
        let path = layout::ledger_entry(slice);
        Finding::new(Fault::ControlTotal, slice, &path, problem)
    })
}

/// Commits of the slices that were `verified` without a finding.
///
/// # Errors
/// [`LakeError`] if the ledger cannot be read.
pub async fn commits(
    lake: &Lake,
    verified: &BTreeSet<Slice>,
) -> Result<HashMap<Slice, Commit>, LakeError> {
    let directions = Scope::default().directions;
    let days = match (verified.first(), verified.last()) {
        (Some(first), Some(last)) => first.period.first_day()..=last.period.last_day(),
        _ => return Ok(HashMap::new()),
    };
    let entries = lake.entries(&directions, days).await?;
    let commits = entries
        .into_iter()
        .filter(|(slice, _)| verified.contains(slice))
        .filter_map(|(slice, found)| Some((slice, found.entry.committed?)));
    Ok(commits.collect())
}
