//! Erases every call of one number.
//!
//! The number goes onto the lake's suppression list first; then every slice is examined under its
//! lease. A run that read the list earlier has published by then, and a later run leaves the number
//! out.
//!
//! | file | idea |
//! |---|---|
//! | `search` | which slices hold the number |
//! | `slice` | one slice under its lease: what is erased, by the state of its ledger entry |
//! | `rewrite` | a committed slice published again without the number |
//! | `rejects` | rejects with and without the number |

mod error;
mod rejects;
mod rewrite;
mod search;
mod slice;

use std::collections::BTreeMap;

use futures::TryStreamExt;
use jiff::Timestamp;
use jiff::civil::Date;
use tokio_util::sync::CancellationToken;

use super::Removal;
use crate::cdr::slice::Slice;
use crate::config::Config;
use crate::error::chain;
use crate::lake::report::{RunReport, SliceOutcome};
use crate::lake::{Lake, LakeError};
use crate::ops::run::reports::{ReportedRun, reports};
use crate::privacy::Token;
pub use error::EraseError;
pub use search::{Holding, Search, search, slices};
use slice::{ErasedSlice, Eraser};

/// The result of an erasure.
#[derive(Debug)]
pub struct Erasure {
    /// The run report: slices that were changed, and slices that failed.
    pub report: RunReport,
    /// Whether the lake no longer holds the number.
    pub is_complete: bool,
    /// Why slices failed.
    pub failures: BTreeMap<Slice, EraseError>,
    /// The warning of the report about leftovers of crashed runs, if they could not be removed.
    pub leftovers: Option<String>,
}

/// Puts the number onto the suppression list and removes its calls from every slice that holds one.
/// The lake was opened with the key that made `token`; `searched` is the result of a
/// `search`. Calls `done` after each slice.
///
/// # Errors
/// [`LakeError`] if the lake cannot be written at all.
pub async fn erase(
    lake: &Lake,
    config: &Config,
    token: &Token,
    searched: &Search,
    interrupt: &CancellationToken,
    done: &(dyn Fn() + Sync),
) -> Result<Erasure, LakeError> {
    let mut removal = Removal::begin(lake, interrupt).await?;
    let key_id = lake.privacy().key().map_or("", |key| key.id()).to_owned();
    removal.changed_before = changed_by_unfinished(lake, token).await?;
    lake.suppress(&key_id, token, None).await?;
    let mut failures = BTreeMap::new();
    // Listed again: runs may have published slices since the search.
    for slice in slices(lake).await? {
        let eraser = Eraser {
            removal: &removal,
            config,
        };
        match eraser.erase_from(slice, searched.slices.get(&slice)).await {
            Ok(ErasedSlice::Changed(report)) => removal.slices.push(*report),
            Ok(ErasedSlice::NothingFound) => {}
            Ok(ErasedSlice::NotBegun) => removal.add_skipped(slice),
            Err(error) => {
                removal.add_failed(slice, chain(&error), error.is_hopeless());
                failures.insert(slice, error);
            }
        }
        done();
    }
    let mut warnings = Vec::new();
    let is_purged = removal.purge(&slices(lake).await?).await;
    let is_purged = is_purged.unwrap_or_else(|error| {
        let problem = chain(&error);
        warnings.push(format!(
            "replaced files may still hold the number: {problem}"
        ));
        false
    });
    let is_everywhere = is_purged
        && removal
            .slices
            .iter()
            .all(|slice| slice.outcome == SliceOutcome::Committed);
    // Files staged by runs that crashed since the lake was opened.
    let leftovers = lake.remove_leftovers().await?;
    let leftovers = (!leftovers.is_empty()).then(|| {
        let leftovers: Vec<String> = leftovers.iter().map(ToString::to_string).collect();
        format!(
            "leftovers of crashed runs could not be removed and may hold the number: {}",
            leftovers.join(", ")
        )
    });
    warnings.extend(leftovers.clone());
    let is_complete = is_everywhere && leftovers.is_none();
    if is_complete {
        lake.suppress(&key_id, token, Some(Timestamp::now()))
            .await?;
    } else {
        warnings.push("the lake may still hold the number: erase it again".to_owned());
    }
    let report = removal.end(warnings).await;
    Ok(Erasure {
        report,
        is_complete,
        failures,
        leftovers,
    })
}

/// Days that an unfinished erasure of the number may have changed. Its report may have been missed,
/// so they are reported again.
async fn changed_by_unfinished(lake: &Lake, token: &Token) -> Result<Vec<Date>, LakeError> {
    let Some(list) = lake.suppression().await? else {
        return Ok(Vec::new());
    };
    let unfinished = list.get(token).filter(|number| number.erased_at.is_none());
    let Some(number) = unfinished else {
        return Ok(Vec::new());
    };
    let mut days = Vec::new();
    let mut reports = std::pin::pin!(reports::<ReportedRun>(lake).await?);
    while let Some(report) = reports.try_next().await? {
        if report.finished_at >= number.since {
            days.extend(report.partitions_changed);
        }
    }
    Ok(days)
}
