//! Compares the logs of table formats with the ledger.

use std::collections::BTreeSet;

use object_store::path::Path;

use super::{Fault, Finding};
use crate::cdr::slice::Slice;
use crate::lake::{Lake, LakeError, LogFinding};
use crate::store::LeaseState;

/// Differences between the ledger and the logs, and slices whose differences are due to a run in
/// progress, which has not committed them to the logs yet.
///
/// # Errors
/// [`LakeError`] if the store fails.
pub(super) async fn compare_logs(
    lake: &Lake,
) -> Result<(Vec<Finding>, BTreeSet<Slice>), LakeError> {
    let found = lake.compare_logs().await?;
    let (mut findings, mut in_progress) = (Vec::new(), BTreeSet::new());
    if found.is_empty() {
        return Ok((findings, in_progress));
    }
    let changing = changed_by_active_runs(lake).await?;
    for LogFinding {
        format,
        file,
        problem,
        is_damaged,
    } in found
    {
        let slice = file.as_ref().and_then(|(_, slice)| *slice);
        if let Some(slice) = slice.filter(|slice| changing.contains(slice)) {
            in_progress.insert(slice);
            continue;
        }
        let path = file.map_or_else(|| format.directory().to_owned(), |(path, _)| path);
        let fault = if is_damaged {
            Fault::DamagedLog
        } else {
            Fault::TableLog
        };
        findings.push(Finding::stray(fault, &Path::from(path), &problem));
    }
    Ok((findings, in_progress))
}

/// Slices that runs in progress have committed to the ledger.
async fn changed_by_active_runs(lake: &Lake) -> Result<BTreeSet<Slice>, LakeError> {
    let mut changed = BTreeSet::new();
    for (run, traces) in lake.marked_runs("").await? {
        if lake.run_lease_state(&run).await? != LeaseState::Free {
            changed.extend(traces.commits.iter().map(|(slice, _)| *slice));
            changed.extend(traces.announced);
        }
    }
    Ok(changed)
}
