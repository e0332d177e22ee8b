//! Leftovers of crashed runs, and old run reports.

use jiff::Timestamp;
use object_store::path::Path;

use super::Error;
use super::plan::keep_limit;
use super::run::reports;
use crate::config::Config;
use crate::error::chain;
use crate::lake::{Lake, LakeError};
use crate::store::{Garbage, spool};

/// Removes leftovers of crashed runs (staged files, leases, incomplete uploads), and reports of
/// runs that ended more than 90 days before `now`. In a lake with logs of table formats also files
/// that were replaced before `lake.keep_replaced`.
///
/// # Errors
/// [`Error`] if the lake cannot be read or written. What could not be removed is in the result.
pub(crate) async fn collect_garbage(
    config: &Config,
    lake: &Lake,
    now: Timestamp,
) -> Result<Garbage, Error> {
    // A lease means nothing where conditions do not.
    lake.honours_conditions().await?;
    let mut garbage = Garbage::default();
    // Where `load` splits exports, whatever the lake.
    match spool::sweep(&config.limits.spool_dir) {
        Ok(spools) => {
            let spools = spools.iter().map(|path| path.display().to_string());
            garbage.removed.extend(spools);
        }
        Err(error) => {
            let place = config.limits.spool_dir.display();
            garbage.left.push(format!("{place}: {error}"));
        }
    }
    let collected = lake.collect_garbage().await?;
    garbage.removed.extend(collected.removed);
    garbage.left.extend(collected.left);
    reports::remove_old(lake, now, &mut garbage).await?;
    if lake.table().keeps_replaced() {
        remove_replaced(lake, keep_limit(config, now), &mut garbage).await?;
    }
    Ok(garbage)
}

/// Removes files that were replaced before `limit`, and files that no ledger entry names. Leaves
/// slices on which a run works.
async fn remove_replaced(
    lake: &Lake,
    limit: Timestamp,
    garbage: &mut Garbage,
) -> Result<(), LakeError> {
    let slices = lake.slices_with_replaced(limit).await?;
    let reachable = lake.expire_logs(limit).await?;
    for slice in slices {
        let Some(lease) = lake.try_lease(slice).await? else {
            continue;
        };
        let removed = lake.remove_replaced(&*lease, slice, limit, &reachable, true);
        match removed.await {
            Ok(removed) => {
                let removed = removed.iter().map(Path::to_string);
                garbage.removed.extend(removed);
            }
            Err(error) => garbage.left.push(chain(&error)),
        }
    }
    Ok(())
}
