//! Repairs findings: fetches slices again, and removes files that belong to no slice.

use std::collections::BTreeSet;
use std::sync::Arc;

use object_store::path::Path;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::counts::ask_provider;
use super::logs::compare_logs;
use super::{
    Fault, Finding, Remedy, Scope, Verification, Verified, VerifyReport, find_strays, is_last_copy,
    slices, verify_slices,
};
use crate::cdr::slice::Slice;
use crate::config::Config;
use crate::lake::report::{RunReport, new_run_id};
use crate::lake::{Lake, SyncScope};
use crate::ops::plan::{Due, DueReason};
use crate::ops::run::{self, RunOptions, RunResult, Stop};
use crate::ops::{Error, Observer, open};
use crate::source::Source;
use crate::store::layout;

/// The result of a repair.
#[derive(Debug, Default, Serialize)]
pub struct Repair {
    /// Removed files, which belonged to no slice.
    pub removed: Vec<String>,
    /// The run that fetched slices again; `None` if there were none.
    pub run: Option<RunReport>,
    /// Findings that remain.
    pub remaining: Vec<Finding>,
    /// Slices that were not judged, because another run kept publishing them.
    pub in_progress: BTreeSet<Slice>,
    /// Why the run ended early, if it did.
    #[serde(skip)]
    pub stopped_by: Option<Stop>,
}

impl Verification<'_> {
    /// Repairs what [`check`](Self::check) found, and adds the result to `verified`. First it
    /// fetches slices again, if there is a source; then it removes files that belong to no slice,
    /// except the last copies of rows.
    ///
    /// # Errors
    /// [`Error`] if the lake cannot be read or written at all.
    pub async fn repair(
        &self,
        verified: &mut Verified,
        observer: Arc<dyn Observer>,
        interrupt: CancellationToken,
    ) -> Result<(), Error> {
        // Opening the lake for writing removes leftovers of crashed runs.
        let lake = open::open_lake(self.config, false).await?;
        self.repair_in(&lake, verified, observer, interrupt).await
    }

    /// The same for a lake that was opened for writing after the check.
    ///
    /// # Errors
    /// As [`repair`](Self::repair).
    pub async fn repair_in(
        &self,
        lake: &Lake,
        verified: &mut Verified,
        observer: Arc<dyn Observer>,
        interrupt: CancellationToken,
    ) -> Result<(), Error> {
        let mut repair = Repair::default();
        let to_fetch = verified.found.to_fetch();
        if let Some(source) = self.source
            && !to_fetch.is_empty()
        {
            let source = Arc::clone(source);
            let fetched =
                fetch_again(self.config, lake, source, to_fetch, observer, interrupt).await;
            repair.run = Some(fetched.report);
            repair.stopped_by = fetched.stopped_by;
        }
        let run = new_run_id(self.now);
        if has_log_findings(&verified.found)
            && let Err(error) = lake.sync_logs(&SyncScope::Everything, &run).await
        {
            tracing::error!("{}", crate::error::chain(&error));
        }
        // After the run, which may have made a stray file obsolete or taken its place.
        for finding in &verified.found.findings {
            if finding.remedy() == Remedy::RemoveFile && remove(self.config, lake, finding).await? {
                repair.removed.push(finding.path.clone());
            }
        }
        let again = self.look_again(lake, &verified.found, &repair).await?;
        repair.remaining = again.findings;
        repair.in_progress = again.in_progress;
        verified.repair = Some(repair);
        let slices = slices(lake, &self.scope()?).await?;
        verified.not_fetched = self
            .not_fetched(lake.identity.period_unit(), &slices)
            .unwrap_or_default();
        Ok(())
    }

    /// Examines again what was `found`.
    async fn look_again(
        &self,
        lake: &Lake,
        found: &VerifyReport,
        repair: &Repair,
    ) -> Result<VerifyReport, Error> {
        let concerned: BTreeSet<Slice> = found
            .findings
            .iter()
            .filter_map(|finding| {
                let path = Path::parse(&finding.path).ok()?;
                finding.slice.or_else(|| lake.table().slice_of(&path))
            })
            .chain(found.in_progress.iter().copied())
            .collect();
        let quality = &self.config.quality;
        let mut again = verify_slices(lake, &concerned, quality, &|| {}).await?;
        let mut could_ask = repair.stopped_by.is_none();
        if let Some(source) = self.source.filter(|_| self.ask_source && could_ask) {
            let config = &self.config.source;
            let (asked, findings) =
                ask_provider(lake, source.as_ref(), config, &concerned, &again).await?;
            again.findings.extend(findings);
            if let Some(error) = asked.error {
                tracing::warn!("Cannot ask the provider for its counts again: {error}");
                could_ask = false;
            }
        }
        if !could_ask {
            // Without new counts, findings about counts remain.
            let counts = |finding: &&Finding| finding.fault == Fault::ControlTotal;
            again
                .findings
                .extend(found.findings.iter().filter(counts).cloned());
        }
        let is_of_log = |finding: &Finding| finding.fault == Fault::DamagedLog;
        if has_log_findings(found) || found.findings.iter().any(is_of_log) {
            let (in_logs, unlogged) = compare_logs(lake).await?;
            again.findings.extend(in_logs);
            again.in_progress.extend(unlogged);
        }
        let was_found = |stray: &Finding| found.findings.iter().any(|one| one.path == stray.path);
        let left = find_strays(lake, &Scope::default()).await?;
        again.findings.extend(
            left.into_iter()
                .filter(was_found)
                .filter(|stray| stray.slice.is_none()),
        );
        Ok(again)
    }
}

fn has_log_findings(found: &VerifyReport) -> bool {
    let mut findings = found.findings.iter();
    findings.any(|finding| finding.remedy() == Remedy::SyncLogs)
}

async fn fetch_again(
    config: &Config,
    lake: &Lake,
    source: Arc<dyn Source>,
    slices: BTreeSet<Slice>,
    observer: Arc<dyn Observer>,
    interrupt: CancellationToken,
) -> RunResult {
    let mut due = Vec::new();
    for slice in slices {
        let committed = lake.entry(slice).await.entry.committed;
        due.push(Due::new(slice, DueReason::Refresh, committed.as_ref()));
    }
    run::run(
        Arc::new(config.clone()),
        lake.clone(),
        source,
        due,
        RunOptions::default(),
        observer,
        interrupt,
    )
    .await
}

/// Removes a file that belongs to no slice, and returns whether it is gone. A file that a run has
/// published meanwhile stays, and so does the last copy of rows.
async fn remove(config: &Config, lake: &Lake, finding: &Finding) -> Result<bool, Error> {
    let path = Path::parse(&finding.path).unwrap_or_else(|_| Path::from(&*finding.path));
    if finding.fault == Fault::Leftover {
        // Opening the lake removed the leftovers.
        let left = lake.find_leftovers().await?;
        return Ok(!left.contains(&path));
    }
    let in_table = lake.table().slice_of(&path);
    let slice = in_table.or(layout::rejects_slice(&path).map(|(slice, _)| slice));
    let mut lease = None;
    if let Some(slice) = slice {
        lease = lake.try_lease(slice).await?;
        if lease.is_none() {
            return Ok(false);
        }
    }
    let now = match (in_table, slice) {
        (Some(slice), _) => {
            let slices = BTreeSet::from([slice]);
            verify_slices(lake, &slices, &config.quality, &|| {})
                .await?
                .findings
        }
        (None, Some(_)) => find_strays(lake, &Scope::default()).await?,
        // By its name alone it belongs to no slice.
        (None, None) => vec![finding.clone()],
    };
    let is_still = now
        .iter()
        .any(|one| one.path == finding.path && one.remedy() == Remedy::RemoveFile);
    let is_removed = is_still && !is_last_copy(lake, &path).await?;
    if is_removed {
        lake.remove_foreign(&path).await?;
    }
    drop(lease);
    // The next stray may need the same lease.
    lake.settle().await;
    Ok(is_removed)
}
