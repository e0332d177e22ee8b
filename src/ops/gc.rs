//! Leftovers of crashed runs, and old run reports.

use jiff::Timestamp;

use super::Error;
use super::run::reports;
use crate::config::Config;
use crate::lake::Lake;
use crate::store::{Garbage, spool};

/// Removes leftovers of crashed runs (staged files, leases, incomplete uploads), and reports of
/// runs that ended more than 90 days before `now`.
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
    Ok(garbage)
}
