//! The calls of one number.
//!
//! The number goes onto the lake's suppression list first, and then every slice is looked at under its lease: a run
//! that read the list before has published by then, and one that reads it later leaves the number out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{Removal, is_hopeless};
use crate::TOOL;
use crate::cdr::columns::SCHEMA_VERSION;
use crate::cdr::day::day_us;
use crate::cdr::reconcile::verdict;
use crate::cdr::slice::{Direction, Slice};
use crate::config::Config;
use crate::error::chain;
use crate::lake::ledger::{Commit, State, new_token};
use crate::lake::report::{Change, RunReport, SliceOutcome, SliceReport};
use crate::lake::{Condition, Lake, LakeError, LedgerEntry, TableChange, is_intact};
use crate::ops::run::reports::reports;
use crate::ops::thread::on_thread;
use crate::privacy::{Privacy, Token};
use crate::slice_file::convert::{ConvertError, ConvertOptions, Converted, Converter};
use crate::slice_file::rejects::{RejectsWriter, read_rejects};
use crate::slice_file::writer::{SpoolFile, WriteError, checksum_of, read_rows};
use crate::store::layout;
use crate::store::{Lease, LeaseState};

/// How often a slice is begun anew because other numbers are erased at the same time.
const MAX_TRIES: u32 = 5;

/// Why a slice could not be looked at or changed.
#[derive(Debug, thiserror::Error)]
enum EraseError {
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(
        "its rows cannot be read or written (if its file is damaged, `cdrlake verify --repair` fetches it again, without the number; then erase again)"
    )]
    Rows(#[from] ConvertError),
    #[error("one of its files cannot be read or written")]
    File(#[from] std::io::Error),
    #[error(
        "it holds the number, but is not as its ledger entry says, or has none. Run `cdrlake verify --repair`, which fetches it without the number, or restore it, and erase again"
    )]
    Uncertain,
    #[error(
        "a run died while it published it for the first time, or is about to: nobody knows what it holds. Run `cdrlake run`, and erase again"
    )]
    Announced,
    #[error(
        "the Parquet library fails on its file in a way that nobody foresaw. Run `cdrlake verify`"
    )]
    Panic,
}

impl From<WriteError> for EraseError {
    fn from(error: WriteError) -> Self {
        Self::Rows(error.into())
    }
}

/// What a slice holds of the number.
#[derive(Clone, Debug)]
pub struct Holding {
    /// Its rows of the number.
    pub rows: u64,
    /// Its rejects with the number, those of attempts that failed included.
    pub rejects: u64,
    /// Its ledger entry when it was looked at.
    entry: LedgerEntry,
}

impl Holding {
    /// Whether it holds anything.
    pub fn is_any(&self) -> bool {
        self.rows + self.rejects > 0
    }
}

/// What the lake holds of a number.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Every slice that was looked at.
    pub slices: BTreeMap<Slice, Holding>,
    /// Slices that could not be, and why.
    pub problems: BTreeMap<Slice, String>,
}

impl Search {
    /// Slices that hold anything.
    pub fn holding(&self) -> impl Iterator<Item = (Slice, &Holding)> {
        let holding = self.slices.iter().filter(|(_, holding)| holding.is_any());
        holding.map(|(slice, holding)| (*slice, holding))
    }
}

/// Every slice that may hold something.
///
/// # Errors
/// [`LakeError`] if the lake cannot be listed.
pub async fn slices(lake: &Lake) -> Result<BTreeSet<Slice>, LakeError> {
    let files = lake.table().files().await?;
    let mut slices: BTreeSet<Slice> = files.of_slices.into_keys().collect();
    slices.extend(lake.ledger_slices(&Direction::ALL).await?);
    let rejects = lake.rejects().await?;
    slices.extend(
        rejects
            .keys()
            .filter_map(|path| Some(layout::rejects_slice(path)?.0)),
    );
    Ok(slices)
}

/// Looks for rows and rejects that `privacy` leaves out, without changing anything. Calls `done` after each slice.
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
            let found = look(lake, slice, privacy).await;
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

async fn look(lake: &Lake, slice: Slice, privacy: &Arc<Privacy>) -> Result<Holding, EraseError> {
    let mut holding = Holding {
        entry: lake.entry(slice).await,
        rows: 0,
        rejects: 0,
    };
    if let Some(copy) = lake.table().local_copy(slice).await? {
        let privacy = Arc::clone(privacy);
        holding.rows = aside(move || {
            let mut rows = 0;
            read_rows(&copy.path, slice, |record| {
                rows += u64::from(privacy.suppresses(record));
                Ok::<(), WriteError>(())
            })?;
            Ok(rows)
        })
        .await?;
    }
    for path in [
        layout::rejects_file(slice),
        layout::failed_rejects_file(slice),
    ] {
        if let Some(copy) = lake.local_copy(&path).await? {
            let privacy = Arc::clone(privacy);
            holding.rejects += aside(move || {
                let mut rejects = 0;
                read_rejects(&copy.path, |reject| {
                    rejects += u64::from(privacy.suppresses_text(&reject.shown()));
                    Ok::<(), std::io::Error>(())
                })?;
                Ok(rejects)
            })
            .await?;
        }
    }
    Ok(holding)
}

/// Does blocking work, whose panic is an error like any other.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EraseError> + Send + 'static,
) -> Result<T, EraseError> {
    on_thread(work).await.unwrap_or(Err(EraseError::Panic))
}

/// What an erasure ended with.
#[derive(Debug)]
pub struct Erasure {
    /// The run report: the slices that were changed, or could not be.
    pub report: RunReport,
    /// Whether nothing of the number is left.
    pub is_complete: bool,
}

/// Puts the number onto the suppression list and takes its calls out of every slice that holds one. The lake was opened with the key
/// that `token` was made with; `searched` is what a look at the lake has found.
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
    let known = lake.suppression().await?;
    let known = known.and_then(|list| list.get(token).cloned());
    if let Some(known) = known.filter(|known| known.erased_at.is_none()) {
        // Whoever follows this report has perhaps not followed that of the attempt before.
        let mut reports = std::pin::pin!(reports(lake).await?);
        while let Some(told) = reports.try_next().await? {
            if told.finished_at >= known.since {
                removal.changed_before.extend(told.partitions_changed);
            }
        }
    }
    lake.suppress(&key_id, token, None).await?;
    // Again, for what came in since.
    for slice in slices(lake).await? {
        let eraser = Eraser {
            removal: &removal,
            config,
        };
        match eraser.erase_from(slice, searched.slices.get(&slice)).await {
            Ok(Some(Some(report))) => removal.slices.push(report),
            Ok(Some(None)) => {}
            Ok(None) => removal.skipped(slice),
            Err(error) => {
                let ends = matches!(&error, EraseError::Lake(error) if is_hopeless(error));
                removal.failed(slice, chain(&error), ends);
            }
        }
        done();
    }
    let is_everywhere = removal
        .slices
        .iter()
        .all(|slice| slice.outcome == SliceOutcome::Committed);
    let mut warnings = Vec::new();
    // What a run has under way that died meanwhile.
    let leftovers = lake.remove_leftovers().await?;
    if !leftovers.is_empty() {
        warnings.push(format!(
            "what runs had under way that died is still there, and may hold the number: {}. `cdrlake gc` removes it",
            leftovers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ));
    }
    let is_complete = is_everywhere && leftovers.is_empty();
    if is_complete {
        lake.suppress(&key_id, token, Some(Timestamp::now()))
            .await?;
    } else {
        warnings.push("the number is not yet gone from every slice: erase it again".to_owned());
    }
    let report = removal.end(warnings).await;
    Ok(Erasure {
        report,
        is_complete,
    })
}

struct Eraser<'a> {
    removal: &'a Removal<'a>,
    config: &'a Config,
}

impl Eraser<'_> {
    /// The report of the slice if it held the number; `None` if this was interrupted.
    async fn erase_from(
        &self,
        slice: Slice,
        searched: Option<&Holding>,
    ) -> Result<Option<Option<SliceReport>>, EraseError> {
        if let Some(searched) = searched.filter(|searched| !searched.is_any())
            && self.is_at_rest(slice, searched).await?
        {
            return Ok(Some(None));
        }
        let Some(lease) = self.removal.lease(slice).await? else {
            return Ok(None);
        };
        for _ in 1..MAX_TRIES {
            match self.erase_leased(&*lease, slice).await {
                // Another number, by another erasure.
                Err(EraseError::Lake(LakeError::ErasedMeanwhile)) => {}
                done => return Ok(Some(done?)),
            }
        }
        Ok(Some(self.erase_leased(&*lease, slice).await?))
    }

    /// Whether nothing has happened to a slice since it was looked at, and nobody works on it. Who takes it from now on
    /// reads the list. The lease is looked at first: who gives it back has published before.
    async fn is_at_rest(&self, slice: Slice, searched: &Holding) -> Result<bool, EraseError> {
        let lake = self.removal.lake;
        if lake.lease_state(slice).await? != LeaseState::Free {
            return Ok(false);
        }
        let entry = lake.entry(slice).await;
        // These may be replaced without a word in the ledger.
        let has_failed_rejects = lake.failed_rejects_of(slice).await?.is_some();
        Ok(entry.condition == Condition::Sound
            && entry.is_same_as(&searched.entry)
            && entry.entry.pending.is_none()
            && !has_failed_rejects)
    }

    async fn erase_leased(
        &self,
        lease: &dyn Lease,
        slice: Slice,
    ) -> Result<Option<SliceReport>, EraseError> {
        let lake = self.removal.lake;
        let privacy = lake.privacy_now().await?;
        let holding = look(lake, slice, &privacy).await?;
        let before = lake.usable_entry(slice).await?;
        let entry = &before.entry;
        let is_announced = entry.pending.is_some();
        if !holding.is_any() && !is_announced {
            return Ok(None);
        }
        if is_announced && entry.committed.is_none() {
            // On disk a lease is held as long as its holder lives, so nobody is about to write.
            let may_be_written = lake.lease_expiry().is_some();
            return if may_be_written || holding.is_any() {
                Err(EraseError::Announced)
            } else {
                Ok(None)
            };
        }
        let path = layout::failed_rejects_file(slice);
        let failed = rejects_left(lake, slice, &path, "failed", &privacy).await?;
        if failed.dropped > 0 {
            match (entry.failed.clone(), failed.file) {
                // What failed has failed nevertheless.
                (Some(failure), Some(file)) => {
                    let mark = &self.removal.mark;
                    lake.fail(mark, lease, before.clone(), failure, Some(file), &privacy)
                        .await?;
                }
                _ => {
                    lake.remove_rejects(&self.removal.mark, lease, slice, true)
                        .await?;
                }
            }
        }
        let report = match entry.committed.clone() {
            Some(commit) if commit.state == State::Pruned => {
                lake.prune(&self.removal.mark, lease, before).await?;
                let mut report = SliceReport::new(slice, SliceOutcome::Committed);
                report.table_changed = holding.rows > 0;
                report
            }
            // On the heap: what rewriting holds is large.
            Some(commit) => Box::pin(self.rewrite(lease, before, commit, &privacy)).await?,
            None if holding.rows > 0 || before.condition != Condition::Sound => {
                return Err(EraseError::Uncertain);
            }
            // No entry speaks of them.
            None => {
                lake.remove_rejects(&self.removal.mark, lease, slice, false)
                    .await?;
                SliceReport::new(slice, SliceOutcome::Committed)
            }
        };
        Ok(Some(report))
    }

    /// Publishes the slice without the number.
    async fn rewrite(
        &self,
        lease: &dyn Lease,
        mut before: LedgerEntry,
        old: Commit,
        privacy: &Arc<Privacy>,
    ) -> Result<SliceReport, EraseError> {
        let slice = before.entry.slice;
        let lake = self.removal.lake;
        let Rejects {
            file: rejects,
            left,
            dropped,
        } = rejects_left(lake, slice, &layout::rejects_file(slice), "kept", privacy).await?;
        let planned = before
            .entry
            .pending
            .as_ref()
            .and_then(|pending| pending.planned.clone());
        // Whoever died over the slice may have stored its rejects already.
        // An erasure says when the slice was fetched, not when it was changed.
        let are_planned = planned.as_ref().is_some_and(|planned| {
            planned.counts.rejected == left + dropped && planned.fetched_at == old.fetched_at
        });
        if left + dropped != old.counts.rejected && !are_planned {
            return Err(EraseError::Uncertain);
        }
        let old = self.in_table(&before, old, planned).await?;
        before.entry.committed = Some(old.clone());
        let mut commit = Commit {
            run: self.removal.mark.run().to_owned(),
            token: new_token(),
            tool_version: TOOL.to_owned(),
            rejects: None,
            ..old.clone()
        };
        // Those that whoever died had left out already, too.
        commit.counts.suppressed += old.counts.rejected.saturating_sub(left);
        commit.counts.rejected = left;
        let converted = match &old.file {
            Some(_) => Some(self.rows_left(slice, &old, privacy).await?),
            None => None,
        };
        let (mut change, mut spool) = (TableChange::Keep, None);
        // Whoever had announced something may still be about to write: a file of another version bars that.
        let is_new =
            |left: &Converted| left.counts.suppressed > 0 || before.entry.pending.is_some();
        if let Some(converted) = converted.filter(is_new) {
            commit.schema_version = SCHEMA_VERSION;
            commit.counts.suppressed += converted.counts.suppressed;
            commit.counts.rows = converted.counts.rows;
            commit.counts.conflicts = converted.counts.conflicts;
            commit.counts.rounded = converted.counts.rounded;
            commit.counts.outside_day = converted.counts.outside_day;
            commit.counts.missing_charge = converted.counts.missing_charge;
            commit.counts.missing_duration = converted.counts.missing_duration;
            commit.totals = converted.totals.clone();
            commit.digest = converted.digest;
            spool = Some(converted);
        }
        if commit.reconcile.has_equal_count() {
            commit.reconcile = verdict(&commit.counts, commit.control_total);
        }
        let table_changed = spool.is_some() || before.entry.pending.is_some();
        if let Some(converted) = spool {
            let metadata = commit.file_metadata(slice);
            let file = aside(move || Ok(converted.write_footer(metadata)?)).await?;
            change = file.into();
        }
        let staged = lake.stage(slice, change, rejects).await?.keeping_failure();
        let mark = &self.removal.mark;
        let entry = lake
            .publish(mark, lease, before, staged, commit, privacy)
            .await?;
        let commit = entry.committed.expect("just committed");
        let mut report = SliceReport::new(slice, SliceOutcome::Committed);
        report.describe(&commit);
        report.table_changed = table_changed;
        report.change = Change::between(&old, &commit);
        Ok(report)
    }

    /// What is known for certain of the rows in the table: what was committed, or what was about to be.
    async fn in_table(
        &self,
        before: &LedgerEntry,
        committed: Commit,
        planned: Option<Box<Commit>>,
    ) -> Result<Commit, EraseError> {
        let lake = self.removal.lake;
        let slice = before.entry.slice;
        let found = lake.table().file(slice).await?;
        if before.entry.pending.is_none() {
            return if is_intact(committed.file.as_ref(), found.as_ref()) {
                Ok(committed)
            } else {
                Err(EraseError::Uncertain)
            };
        }
        let checksum = match lake.table().local_copy(slice).await? {
            Some(copy) => Some(aside(move || Ok(checksum_of(&copy.path)?)).await?),
            None => None,
        };
        let is_it =
            |commit: &Commit| commit.file.as_ref().map(|file| &file.checksum) == checksum.as_ref();
        let candidates = [Some(committed), planned.map(|planned| *planned)];
        let known = candidates.into_iter().flatten().find(is_it);
        let mut commit = known.ok_or(EraseError::Uncertain)?;
        if let (Some(file), Some(found)) = (&mut commit.file, found) {
            file.etag = found.etag;
        }
        Ok(commit)
    }

    /// The rows of the slice without those of the number.
    async fn rows_left(
        &self,
        slice: Slice,
        old: &Commit,
        privacy: &Arc<Privacy>,
    ) -> Result<Converted, EraseError> {
        let lake = self.removal.lake;
        let options = ConvertOptions {
            slice,
            day_us: day_us(slice.day, &self.config.window.timezone),
            export_files: None,
            spool_dir: lake.spool_dir().to_owned(),
            max_record_bytes: self.config.limits.max_record_bytes,
            max_slice_bytes: u64::MAX,
            // Rows that are there twice were meant to stay.
            dedupe: false,
            // They have become instants.
            assume_timezone: None,
            privacy: Arc::clone(privacy),
            // Its rows are those of the lake.
            credentials: Arc::default(),
            parquet: self.config.parquet.clone(),
        };
        let Some(copy) = lake.table().local_copy(slice).await? else {
            return Err(EraseError::Uncertain);
        };
        let converted = aside(move || {
            let mut converter = Converter::try_new(options)?;
            let read = read_rows(&copy.path, slice, |record| converter.keep(record));
            match read {
                Ok(()) => Ok(converter.finish()?),
                // A full disk says more than what else was wrong.
                Err(error) => Err(converter
                    .abandon()
                    .and(Err(error))
                    .unwrap_or_else(|error| error)
                    .into()),
            }
        })
        .await?;
        let counts = &converted.counts;
        if counts.rows + counts.suppressed != old.counts.rows {
            return Err(EraseError::Uncertain);
        }
        Ok(converted)
    }
}

/// What is left of a file of rejects.
struct Rejects {
    /// Those without the number; `None` if there are none.
    file: Option<SpoolFile>,
    /// How many these are.
    left: u64,
    /// How many held the number.
    dropped: u64,
}

/// The rejects at `path` without those that `privacy` leaves out.
async fn rejects_left(
    lake: &Lake,
    slice: Slice,
    path: &object_store::path::Path,
    name: &str,
    privacy: &Arc<Privacy>,
) -> Result<Rejects, EraseError> {
    let Some(copy) = lake.local_copy(path).await? else {
        return Ok(Rejects {
            file: None,
            left: 0,
            dropped: 0,
        });
    };
    let Slice { direction, day } = slice;
    let spool: PathBuf = lake.spool_dir().join(format!("{direction}-{day}.{name}"));
    let privacy = Arc::clone(privacy);
    aside(move || {
        let (mut writer, mut dropped) = (RejectsWriter::new(spool), 0);
        read_rejects(&copy.path, |reject| {
            if privacy.suppresses_text(&reject.shown()) {
                dropped += 1;
                return Ok(());
            }
            writer.add(reject)
        })?;
        let left = writer.count();
        Ok(Rejects {
            file: writer.finish()?,
            left,
            dropped,
        })
    })
    .await
}
