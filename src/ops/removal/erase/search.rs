//! Where the lake holds a number: rows and rejects, without changing anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, stream};

use super::error::{EraseError, blocking};
use super::rejects::matching_rejects;
use crate::cdr::hiding::RecordPrivacy;
use crate::cdr::slice::{Direction, Slice};
use crate::error::chain;
use crate::lake::ledger::Entry;
use crate::lake::{Lake, LakeError, LedgerEntry};
use crate::privacy::Privacy;
use crate::slice_file::writer::{WriteError, read_rows};
use crate::store::{LocalCopy, layout};

/// What a slice holds of the number.
#[derive(Clone, Debug)]
pub struct Holding {
    /// Its rows with the number.
    pub rows: u64,
    /// Its rejects with the number, including those of failed attempts.
    pub rejects: u64,
    /// Rows with the number in files that only older snapshots need.
    pub replaced_rows: u64,
    /// Its ledger entry when it was searched.
    pub(super) entry: LedgerEntry,
}

impl Holding {
    /// Whether it holds the number at all.
    pub fn is_any(&self) -> bool {
        self.is_current() || self.replaced_rows > 0
    }

    /// Whether its current file or its rejects hold the number.
    pub(super) fn is_current(&self) -> bool {
        self.rows + self.rejects > 0
    }
}

/// What the lake holds of a number.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Every slice that was searched.
    pub slices: BTreeMap<Slice, Holding>,
    /// Slices that could not be searched, and why.
    pub problems: BTreeMap<Slice, String>,
}

impl Search {
    /// Slices that hold the number.
    pub fn holding(&self) -> impl Iterator<Item = (Slice, &Holding)> {
        let holding = self.slices.iter().filter(|(_, holding)| holding.is_any());
        holding.map(|(slice, holding)| (*slice, holding))
    }
}

/// Every slice that has a file, a ledger entry or rejects.
///
/// # Errors
/// [`LakeError`] if the lake cannot be listed.
pub async fn slices(lake: &Lake) -> Result<BTreeSet<Slice>, LakeError> {
    let files = lake.table().files().await?;
    let mut slices: BTreeSet<Slice> = files.slices().collect();
    slices.extend(lake.ledger_slices(&Direction::ALL).await?);
    let rejects = lake.rejects().await?;
    let with_rejects = rejects.keys().filter_map(layout::rejects_slice);
    slices.extend(with_rejects.map(|(slice, _)| slice));
    Ok(slices)
}

/// Searches `slices` for rows and rejects that `privacy` suppresses. Calls `done` after each slice.
/// Memory: a batch of rows for each processor.
pub async fn search(
    lake: &Lake,
    slices: &BTreeSet<Slice>,
    privacy: &Arc<Privacy>,
    done: &(dyn Fn() + Sync),
) -> Search {
    let at_once = std::thread::available_parallelism().map_or(2, usize::from);
    let found = stream::iter(slices)
        .map(|&slice| async move {
            let found = search_slice(lake, slice, privacy).await;
            done();
            (slice, found)
        })
        .buffer_unordered(at_once);
    let mut search = Search::default();
    let mut found = std::pin::pin!(found);
    while let Some((slice, found)) = found.next().await {
        match found {
            Ok(holding) => {
                search.slices.insert(slice, holding);
            }
            Err(error) => {
                search.problems.insert(slice, chain(&error));
            }
        }
    }
    search
}

/// Searches one slice.
pub(super) async fn search_slice(
    lake: &Lake,
    slice: Slice,
    privacy: &Arc<Privacy>,
) -> Result<Holding, EraseError> {
    // Before its files: a publication in between changes the entry, so that it is searched again.
    let entry = lake.entry(slice).await;
    let rows = matching_rows(lake, &entry.entry, privacy).await?;
    let mut replaced_rows = 0;
    for path in lake.table().replaced_files(&entry.entry).await? {
        if let Some(copy) = lake.local_copy(&path).await? {
            replaced_rows += matching_rows_in(copy, slice, privacy).await?;
        }
    }
    let mut rejects = 0;
    for path in [
        layout::rejects_file(slice),
        layout::failed_rejects_file(slice),
    ] {
        rejects += matching_rejects(lake, &path, privacy).await?;
    }
    Ok(Holding {
        rows,
        rejects,
        replaced_rows,
        entry,
    })
}

async fn matching_rows(
    lake: &Lake,
    entry: &Entry,
    privacy: &Arc<Privacy>,
) -> Result<u64, EraseError> {
    match lake.table().local_copy(entry).await? {
        Some(copy) => matching_rows_in(copy, entry.slice, privacy).await,
        None => Ok(0),
    }
}

/// The rows of a file that `privacy` suppresses.
async fn matching_rows_in(
    copy: LocalCopy,
    slice: Slice,
    privacy: &Arc<Privacy>,
) -> Result<u64, EraseError> {
    let mut privacy = RecordPrivacy::new(Arc::clone(privacy));
    blocking(move || {
        let mut rows = 0;
        read_rows(&copy.path, slice, |record| {
            rows += u64::from(privacy.suppresses(record));
            Ok::<(), WriteError>(())
        })?;
        Ok(rows)
    })
    .await
}
