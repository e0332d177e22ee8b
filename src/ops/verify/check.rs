//! Compares slices with their ledger entries, one by one.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use tokio::time::Instant;

use super::content::check_file;
use super::{Fault, Finding, Scope, VerifyReport};
use crate::cdr::reconcile::Verdict;
use crate::cdr::slice::Slice;
use crate::cdr::tally::Counts;
use crate::config::QualityConfig;
use crate::error::{chain, counted};
use crate::lake::ledger::{Commit, Entry, State};
use crate::lake::{Condition, Lake, LakeError, LedgerEntry, PublishedFile, is_intact};
use crate::ops::thread::on_thread;
use crate::slice_file::writer::{checksum_of, slice_named_in};
use crate::store::layout;
use crate::store::{LeaseState, ObjectState};

/// Slices of a lake in a bucket that are read concurrently.
const CONCURRENT_FETCHES: usize = 16;
/// How long to examine a slice that a run may be publishing: longer than a publication takes.
const EXAMINE_FOR: Duration = Duration::from_secs(5);
/// First pause between two looks at such a slice.
const PAUSE: Duration = Duration::from_millis(100);

/// Every slice of `scope` that has a ledger entry or a file.
///
/// # Errors
/// [`LakeError`] if the lake cannot be listed.
pub async fn slices(lake: &Lake, scope: &Scope) -> Result<BTreeSet<Slice>, LakeError> {
    let files = lake.table().files().await?;
    let mut slices: BTreeSet<Slice> = files.slices().collect();
    slices.extend(lake.ledger_slices(&scope.directions).await?);
    slices.retain(|&slice| scope.holds(slice));
    if lake.identity.converting.is_some() {
        // Days of a merged month that are not removed yet hold nothing of the lake.
        let entries = lake.entries(&scope.directions, scope.days.clone()).await?;
        slices.retain(|slice| entries.contains_key(slice) || !entries.contains_key(&slice.month()));
    }
    Ok(slices)
}

/// Reads `slices` and compares them with the ledger, and their rejects with what `quality`
/// tolerates. Calls `done` after each slice. Reads as many slices at a time as there are
/// processors, or a few more in a bucket. Memory: a batch of rows for each of these.
///
/// # Errors
/// [`LakeError`] if the lake cannot be read at all. A faulty slice is a finding.
pub async fn verify_slices(
    lake: &Lake,
    slices: &BTreeSet<Slice>,
    quality: &QualityConfig,
    done: &(dyn Fn() + Sync),
) -> Result<VerifyReport, LakeError> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    // In a bucket most of the time is latency.
    let at_once = if lake.lease_expiry().is_some() {
        threads.max(CONCURRENT_FETCHES)
    } else {
        threads
    };
    let examined = stream::iter(slices)
        .map(|&slice| async move {
            let mut examined = examine(lake, slice).await?;
            examined.judge_rejects(quality);
            done();
            Ok::<_, LakeError>(examined)
        })
        .buffer_unordered(at_once);
    let mut report = examined
        .try_fold(VerifyReport::default(), async |mut report, examined| {
            report.add(examined);
            Ok(report)
        })
        .await?;
    report.findings.sort_by_key(|finding| finding.slice);
    Ok(report)
}

impl VerifyReport {
    /// Adds the result of a slice.
    fn add(&mut self, examined: Examined) {
        self.slices += 1;
        self.rows += examined.rows;
        self.bytes += examined.bytes;
        self.records += examined.counts.records;
        self.rejected += examined.counts.rejected;
        if let Some(version) = examined.schema_version {
            *self.schema_versions.entry(version).or_default() += 1;
        }
        if examined.is_unproven {
            self.unproven.insert(examined.slice);
        }
        if examined.has_duplicates {
            self.with_duplicates.insert(examined.slice);
        }
        if examined.in_progress {
            self.in_progress.insert(examined.slice);
        } else {
            self.findings.extend(examined.findings);
        }
    }
}

/// The result of examining one slice.
#[derive(Debug)]
pub(super) struct Examined {
    slice: Slice,
    rows: u64,
    bytes: u64,
    /// According to the ledger.
    counts: Counts,
    schema_version: Option<u32>,
    is_unproven: bool,
    has_duplicates: bool,
    pub(super) in_progress: bool,
    pub(super) findings: Vec<Finding>,
}

impl Examined {
    fn new(slice: Slice) -> Self {
        Self {
            slice,
            rows: 0,
            bytes: 0,
            counts: Counts::default(),
            schema_version: None,
            is_unproven: false,
            has_duplicates: false,
            in_progress: false,
            findings: Vec::new(),
        }
    }

    /// Adds a finding if the slice was committed under a configuration that tolerated more rejects.
    fn judge_rejects(&mut self, quality: &QualityConfig) {
        if let Some(problem) = quality.refuses_rejects(&self.counts) {
            let path = layout::rejects_file(self.slice);
            let problem = format!(
                "{problem}. They are not in the table; fetch the slice again once the source or \
                 cdrlake has changed"
            );
            let finding = Finding::new(Fault::TooManyRejects, self.slice, &path, problem);
            self.findings.push(finding);
        }
    }
}

/// Examines a slice, repeatedly while a run may be publishing it: a run changes ledger and table
/// one after the other, and announces each change in the ledger first. No run was at work if the
/// entry is the same before and after a look and announces nothing.
pub(super) async fn examine(lake: &Lake, slice: Slice) -> Result<Examined, LakeError> {
    let begun = Instant::now();
    // In a bucket a crashed run is detected only when its lease expires.
    let patience = EXAMINE_FOR + lake.lease_expiry().unwrap_or_default();
    while begun.elapsed() < patience {
        let before = lake.entry(slice).await;
        let examined = look(lake, slice, &before).await?;
        if examined.findings.is_empty() {
            return Ok(examined);
        }
        // If the lease cannot be read, assume that it is held.
        let lease = if before.entry.pending.is_some() {
            lake.lease_state(slice).await.unwrap_or(LeaseState::Held)
        } else {
            LeaseState::Free
        };
        if lease == LeaseState::Free && before.is_same_as(&lake.entry(slice).await) {
            return Ok(examined);
        }
        if lease != LeaseState::Unproven && begun.elapsed() >= EXAMINE_FOR {
            break;
        }
        tokio::time::sleep(PAUSE.max(begun.elapsed() / 10)).await;
    }
    let last = lake.entry(slice).await;
    let mut examined = look(lake, slice, &last).await?;
    examined.in_progress = !examined.findings.is_empty();
    Ok(examined)
}

pub(super) async fn look(
    lake: &Lake,
    slice: Slice,
    found: &LedgerEntry,
) -> Result<Examined, LakeError> {
    let LedgerEntry {
        entry, condition, ..
    } = found;
    let mut examined = Examined::new(slice);
    let ledger = layout::ledger_entry(slice);
    let file = match lake.table().file(entry).await {
        Err(error) if error.is_denied() => {
            examined.findings.push(access_denied(entry, &error));
            return Ok(examined);
        }
        file => file?,
    };
    examined.findings = files_beside(lake, found).await?;
    let reason = entry.failed.as_ref().and_then(|failed| failed.reason);
    let mut add = |fault, path: &Path, problem: &str| {
        examined.findings.push(Finding {
            reason: reason.filter(|_| fault == Fault::Failed),
            ..Finding::new(fault, slice, path, problem)
        });
    };
    match condition {
        Condition::Sound => {}
        Condition::Damaged(problem) => add(Fault::DamagedLedger, &ledger, problem),
        Condition::Unreadable(problem) => add(Fault::UnreadableLedger, &ledger, problem),
        Condition::Newer(format) => {
            let problem = format!("it has format {format}. Use a newer cdrlake");
            add(Fault::NewerLedger, &ledger, &problem);
        }
    }
    if let Some(failed) = &entry.failed {
        let problem = format!("the last attempt failed: {}", failed.problem);
        add(Fault::Failed, &ledger, &problem);
    }
    if entry.pending.is_some() {
        let problem = "a run crashed while it published the slice, so its content is uncertain";
        add(Fault::Interrupted, &ledger, problem);
        return Ok(examined);
    }
    if entry
        .committed
        .as_ref()
        .is_some_and(|commit| commit.state == State::Pruned)
    {
        if let Some(file) = file {
            let problem = "the slice was pruned, but its file still exists";
            examined
                .findings
                .push(Finding::stray(Fault::Foreign, &file.path, problem));
        }
        return Ok(examined);
    }
    if let Some(commit) = &entry.committed {
        if commit.privacy_key_id != lake.identity.privacy_key_id {
            let problem = "its pseudonyms were made with another key than lake.json records";
            add(Fault::DamagedLedger, &ledger, problem);
        }
        let checked = check_table(lake, slice, commit, file.as_ref()).await?;
        match &checked {
            Ok(_) => {}
            Err((fault @ Fault::DamagedLedger, problem)) => add(*fault, &ledger, problem),
            Err((fault, problem)) => add(*fault, &place_of(entry, file.as_ref()), problem),
        }
        if let Some(problem) = check_rejects(lake, slice, commit).await? {
            add(Fault::Rejects, &layout::rejects_file(slice), &problem);
        }
        examined.rows = checked.unwrap_or_default();
        examined.bytes = file.map_or(0, |file| file.size_bytes);
        examined.counts = commit.counts.clone();
        examined.schema_version = commit.file.as_ref().map(|_| commit.schema_version);
        examined.has_duplicates = commit.reconcile == Verdict::MatchWithDuplicates;
        // Without a comparison, the next run compares an open slice.
        examined.is_unproven = commit.reconcile == Verdict::Mismatch
            || (commit.state == State::Closed && !commit.reconcile.has_equal_count());
    } else if let Some(file) = file
        && *condition == Condition::Sound
    {
        let Some(copy) = lake.local_copy(&file.path).await? else {
            return Ok(examined);
        };
        let named = on_thread(move || slice_named_in(&copy.path))
            .await
            .flatten();
        if named
            .as_ref()
            .is_none_or(|named| *named == slice.to_string())
        {
            add(Fault::UnexpectedFile, &file.path, "it has no ledger entry");
        } else {
            let problem = format!("it is a copy of {}", named.unwrap_or_default());
            let stray = Finding::stray(Fault::Foreign, &file.path, &problem);
            examined.findings.push(stray);
        }
    }
    Ok(examined)
}

/// The number of rows in the slice's file if it matches its commit, else what is wrong with it.
async fn check_table(
    lake: &Lake,
    slice: Slice,
    commit: &Commit,
    found: Option<&ObjectState>,
) -> Result<Result<u64, (Fault, String)>, LakeError> {
    let (expected, found) = match (&commit.file, found) {
        (None, None) => return Ok(Ok(0)),
        (None, Some(_)) => {
            let problem = "the ledger entry of the slice records no rows".to_owned();
            return Ok(Err((Fault::UnexpectedFile, problem)));
        }
        (Some(file), None) => return Ok(Err(missing(file))),
        (Some(expected), Some(found)) => (expected.clone(), found),
    };
    let damaged = |problem| Ok(Err((Fault::DamagedFile, problem)));
    if found.size_bytes != expected.bytes {
        return damaged(format!(
            "it has {} bytes; {} were published",
            found.size_bytes, expected.bytes
        ));
    }
    if !is_intact(Some(&expected), Some(found)) {
        return damaged("its ETag differs from the one in the ledger".to_owned());
    }
    let Some(copy) = lake.local_copy(&found.path).await? else {
        return Ok(Err(missing(&expected)));
    };
    let commit = commit.clone();
    let checked = on_thread(move || check_file(&copy.path, slice, &expected, &commit)).await;
    Ok(checked.unwrap_or_else(|| {
        let problem = "the Parquet library panicked on it";
        Err((Fault::DamagedFile, problem.to_owned()))
    }))
}

/// Files of the slice that its ledger entry does not name, where the entry can be relied on.
async fn files_beside(lake: &Lake, found: &LedgerEntry) -> Result<Vec<Finding>, LakeError> {
    if found.condition != Condition::Sound || found.entry.pending.is_some() {
        return Ok(Vec::new());
    }
    let paths = lake.table().unnamed_files(&found.entry).await?;
    let problem = "the slice's ledger entry does not name it";
    let stray = |path| Finding::stray(Fault::Foreign, path, problem);
    Ok(paths.iter().map(stray).collect())
}

/// The path of the slice's file: as found, or as the ledger entry names it, or its partition.
fn place_of(entry: &Entry, found: Option<&ObjectState>) -> Path {
    let found = found.map(|file| file.path.clone());
    let named = || entry.file().map(PublishedFile::location);
    let path = found.or_else(named);
    path.unwrap_or_else(|| layout::partition(entry.slice.period))
}

fn access_denied(entry: &Entry, error: &LakeError) -> Finding {
    let problem = format!("{}. Grant this user read access", chain(error));
    Finding::new(
        Fault::DamagedFile,
        entry.slice,
        &place_of(entry, None),
        problem,
    )
}

fn missing(file: &PublishedFile) -> (Fault, String) {
    let rows = counted(file.rows, "row is", "rows are");
    let problem = format!("its {rows} not in the table");
    (Fault::MissingFile, problem)
}

async fn check_rejects(
    lake: &Lake,
    slice: Slice,
    commit: &Commit,
) -> Result<Option<String>, LakeError> {
    let Some(PublishedFile {
        checksum: expected, ..
    }) = commit.rejects.clone()
    else {
        // A file that the ledger does not record is a stray.
        return Ok(None);
    };
    let rejected = commit.counts.rejected;
    let Some(copy) = lake.local_copy(&layout::rejects_file(slice)).await? else {
        let rejects = counted(
            rejected,
            "reject of the slice is",
            "rejects of the slice are",
        );
        return Ok(Some(format!("{rejects} missing")));
    };
    let checksum = on_thread(move || checksum_of(&copy.path))
        .await
        .expect("reading bytes does not panic");
    Ok(match checksum {
        Ok(checksum) if checksum == expected => None,
        Ok(_) => Some(format!(
            "it differs from the file that was stored with {}",
            counted(rejected, "reject", "rejects")
        )),
        Err(error) => Some(format!("it cannot be read: {error}")),
    })
}
