//! Table formats of a lake: which it has, bringing their logs up to date, and the current files.

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::days::DayRange;
use super::leases::wait_for_conversion_lease;
use super::run::reports::{OtherRuns, wait_for_other_runs};
use super::{Error, UsageError};
use crate::cdr::slice::{Direction, Slice};
use crate::config::Config;
use crate::lake::report::new_run_id;
use crate::lake::{Condition, Lake, LakeError, TableFormat};

/// Commits the difference between the ledger and every log of the lake. Returns the formats whose
/// logs had one.
///
/// # Errors
/// [`Error`] if the lake has no logs, or one cannot be read or written.
pub(crate) async fn sync(lake: &Lake, now: Timestamp) -> Result<Vec<TableFormat>, Error> {
    if !lake.has_logs() {
        return Err(UsageError::NoTables.into());
    }
    Ok(lake.sync_everything(&new_run_id(now)).await?)
}

/// Gives the lake the logs of these table formats, and removes others, with their history. Files
/// stay as they are: only later ones get names of their own. No run may be in progress. Returns the
/// lake with its formats, and the formats whose logs were removed.
///
/// # Errors
/// [`Error`] if a run is in progress, a slice's content is uncertain, or the lake cannot be read or
/// written. Converting again continues.
pub(crate) async fn convert(
    lake: &Lake,
    tables: &[TableFormat],
    now: Timestamp,
    interrupt: &CancellationToken,
) -> Result<(Lake, Vec<TableFormat>), Error> {
    let Some(_lease) = wait_for_conversion_lease(lake, interrupt).await? else {
        return Err(UsageError::ConversionInProgress.into());
    };
    // Another conversion may have ended since the lake was opened.
    let lake = lake.as_it_is_now().await?;
    if let Some(to) = lake.identity.converting {
        return Err(LakeError::Converting { to }.into());
    }
    if tables.is_empty() && lake.has_logs() {
        return Err(UsageError::BackToPlain.into());
    }
    if let Some(run) = marked_run(&lake).await? {
        return Err(run.into());
    }
    let entries = lake.entries(&Direction::ALL, Date::MIN..=Date::MAX).await?;
    let uncertain = entries
        .iter()
        .filter(|(_, found)| found.condition != Condition::Sound || found.entry.pending.is_some());
    if let Some(slice) = uncertain.map(|(slice, _)| *slice).min() {
        return Err(Error::Uncertain { slice });
    }
    // Whatever interrupts this, the next run commits to the new logs.
    lake.note_unsynced("convert").await?;
    let converted = lake.with_tables(tables).await?;
    // A run that began just before has read the old `lake.json`. It may replace files until it
    // ends, so no log may name them before. One that marks itself later reads the new one.
    match wait_for_other_runs(&converted, "", interrupt).await? {
        OtherRuns::Ended => {}
        OtherRuns::Crashed(run) => return Err(UsageError::CrashedRun { run }.into()),
        OtherRuns::InProgress(run) => return Err(UsageError::RunInProgress { run }.into()),
    }
    let removed = converted.remove_other_logs().await?;
    converted.sync_everything(&new_run_id(now)).await?;
    Ok((converted, removed))
}

/// A run without a report, if there is one. Even if it has crashed, its process may be suspended
/// and continue: the next run ends it for good.
pub(super) async fn marked_run(lake: &Lake) -> Result<Option<UsageError>, LakeError> {
    let Some(run) = lake.unended_runs("").await?.into_iter().next() else {
        return Ok(None);
    };
    Ok(Some(if lake.has_crashed(&run, true).await? {
        UsageError::CrashedRun { run }
    } else {
        UsageError::RunInProgress { run }
    }))
}

/// A current file of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct CurrentFile {
    /// Its slice.
    #[serde(flatten)]
    pub slice: Slice,
    /// Where other programs find it.
    pub path: String,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

/// The current files of the selected days, in order.
///
/// # Errors
/// [`Error`] if the ledger cannot be read. A damaged entry is an error too: its file is unknown.
pub(crate) async fn current_files(
    lake: &Lake,
    config: &Config,
    range: &DayRange,
    now: Timestamp,
) -> Result<Vec<CurrentFile>, Error> {
    let days = range.days_of_all(&config.window, now)?;
    let directions = range.directions(&Direction::ALL);
    let mut files = Vec::new();
    for (slice, found) in lake.entries(&directions, days).await? {
        if found.condition != Condition::Sound {
            return Err(Error::Uncertain { slice });
        }
        if let Some(file) = found.entry.file() {
            files.push(CurrentFile {
                slice,
                path: config.lake.url.of(&file.location()),
                rows: file.rows,
                bytes: file.bytes,
            });
        }
    }
    files.sort_unstable_by_key(|file| file.slice);
    Ok(files)
}
