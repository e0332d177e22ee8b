//! Slices, one by one, against their ledger entries.

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
use crate::lake::ledger::{Commit, State};
use crate::lake::{Condition, Lake, LakeError, LedgerEntry, PublishedFile, Table, is_intact};
use crate::ops::thread::on_thread;
use crate::slice_file::writer::{checksum_of, slice_named_in};
use crate::store::layout;
use crate::store::{LeaseState, ObjectState};

/// Slices of a lake in a bucket that are fetched and read at the same time.
const CONCURRENT_FETCHES: usize = 16;
/// How long, and with which pauses, to look at a slice that a run may be publishing: longer than a
/// publication takes.
const LOOK_FOR: Duration = Duration::from_secs(5);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Every slice of `scope` of which the lake has a ledger entry or a file.
///
/// # Errors
/// [`LakeError`] if the lake cannot be listed.
pub async fn slices(lake: &Lake, scope: &Scope) -> Result<BTreeSet<Slice>, LakeError> {
    let files = lake.table().files().await?;
    let mut slices: BTreeSet<Slice> = files.of_slices.into_keys().collect();
    slices.extend(lake.ledger_slices(&scope.directions).await?);
    slices.retain(|&slice| scope.holds(slice));
    Ok(slices)
}

/// Reads what the lake holds of `slices` and compares it with the ledger, as many slices at a time
/// as there are processors, or a few more in a bucket, and says where more was rejected than
/// `quality` tolerates. Calls `done` after each. Memory: a batch of rows for each of them.
///
/// # Errors
/// [`LakeError`] if the lake cannot be read at all. What is wrong with a slice is a finding.
pub async fn verify_slices(
    lake: &Lake,
    slices: &BTreeSet<Slice>,
    quality: &QualityConfig,
    done: &(dyn Fn() + Sync),
) -> Result<VerifyReport, LakeError> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    // In a bucket most of the time is spent waiting for it.
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
    /// Adds what looking at a slice found.
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

/// What looking at one slice found.
#[derive(Debug)]
pub(super) struct Examined {
    slice: Slice,
    rows: u64,
    bytes: u64,
    /// By the ledger.
    counts: Counts,
    schema_version: Option<u32>,
    is_unproven: bool,
    has_duplicates: bool,
    pub(super) in_progress: bool,
    pub(super) findings: Vec<Finding>,
}

impl Examined {
    /// Of a slice of which nothing was looked at.
    fn nothing(slice: Slice) -> Self {
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

    /// A slice may have been committed under a configuration that tolerated more.
    fn judge_rejects(&mut self, quality: &QualityConfig) {
        if let Some(problem) = quality.refuses_rejects(&self.counts) {
            let path = layout::rejects_file(self.slice);
            let problem = format!(
                "{problem}. They are not in the table; fetching the slice again helps once they can be read"
            );
            let finding = Finding::new(Fault::TooManyRejects, self.slice, &path, problem);
            self.findings.push(finding);
        }
    }
}

/// Looks at a slice, and where something seems wrong again, for a run that is publishing it changes
/// ledger and table one after the other. Whatever it does is announced in the ledger first: if the
/// entry is the same before and after the look and announces nothing, no run was at work.
pub(super) async fn examine(lake: &Lake, slice: Slice) -> Result<Examined, LakeError> {
    let begun = Instant::now();
    // Where only time tells whether a run is dead, that long too.
    let patience = LOOK_FOR + lake.lease_expiry().unwrap_or_default();
    while begun.elapsed() < patience {
        let before = lake.entry(slice).await;
        let examined = look(lake, slice, &before).await?;
        if examined.findings.is_empty() {
            return Ok(examined);
        }
        // Who may not see whether the slice is leased cannot know that it is not.
        let lease = if before.entry.pending.is_some() {
            lake.lease_state(slice).await.unwrap_or(LeaseState::Held)
        } else {
            LeaseState::Free
        };
        if lease == LeaseState::Free && before.is_same_as(&lake.entry(slice).await) {
            return Ok(examined);
        }
        if lease != LeaseState::Unproven && begun.elapsed() >= LOOK_FOR {
            break;
        }
        tokio::time::sleep(BETWEEN_LOOKS.max(begun.elapsed() / 10)).await;
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
    let mut examined = Examined::nothing(slice);
    let ledger = layout::ledger_entry(slice);
    let file = match lake.table().file(slice).await {
        Err(error) if error.is_denied() => {
            examined.findings.push(closed_to_us(slice, &error));
            return Ok(examined);
        }
        file => file?,
    };
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
            let problem = format!("it has format {format}: use a newer cdrlake");
            add(Fault::NewerLedger, &ledger, &problem);
        }
    }
    if let Some(failed) = &entry.failed {
        let problem = format!("the last attempt failed: {}", failed.problem);
        add(Fault::Failed, &ledger, &problem);
    }
    if entry.pending.is_some() {
        let problem = "a run died while it published: what the table holds is uncertain";
        add(Fault::Interrupted, &ledger, problem);
        return Ok(examined);
    }
    if entry
        .committed
        .as_ref()
        .is_some_and(|commit| commit.state == State::Pruned)
    {
        if let Some(file) = file {
            let problem = "the slice was pruned, and its file is still there";
            examined
                .findings
                .push(Finding::stray(Fault::Foreign, &file.path, problem));
        }
        return Ok(examined);
    }
    if let Some(commit) = &entry.committed {
        if commit.privacy_key_id != lake.identity.privacy_key_id {
            let problem = "its pseudonyms are not of the key that lake.json names";
            add(Fault::DamagedLedger, &ledger, problem);
        }
        let checked = check_table(lake, slice, commit, file.as_ref()).await?;
        match &checked {
            Ok(_) => {}
            Err((fault @ Fault::DamagedLedger, problem)) => add(*fault, &ledger, problem),
            Err((fault, problem)) => {
                let path = file.as_ref().map(|file| &file.path);
                add(*fault, path.unwrap_or(&Table::place_of(slice)), problem);
            }
        }
        if let Some(problem) = check_rejects(lake, slice, commit).await? {
            add(Fault::Rejects, &layout::rejects_file(slice), &problem);
        }
        examined.rows = checked.unwrap_or_default();
        examined.bytes = file.map_or(0, |file| file.size_bytes);
        examined.counts = commit.counts.clone();
        examined.schema_version = commit.file.as_ref().map(|_| commit.schema_version);
        examined.has_duplicates = commit.reconcile == Verdict::MatchWithDuplicates;
        examined.is_unproven = commit.state == State::Closed && !commit.reconcile.has_equal_count();
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
            add(
                Fault::UnexpectedFile,
                &file.path,
                "there is no ledger entry for it",
            );
        } else {
            let problem = format!("it is a copy of {}", named.unwrap_or_default());
            let stray = Finding::stray(Fault::Foreign, &file.path, &problem);
            examined.findings.push(stray);
        }
    }
    Ok(examined)
}

/// The rows of the slice's file if it is what its commit says, or what is wrong with it.
async fn check_table(
    lake: &Lake,
    slice: Slice,
    commit: &Commit,
    found: Option<&ObjectState>,
) -> Result<Result<u64, (Fault, String)>, LakeError> {
    let (expected, found) = match (&commit.file, found) {
        (None, None) => return Ok(Ok(0)),
        (None, Some(_)) => {
            let problem = "the slice has no rows by its ledger entry".to_owned();
            return Ok(Err((Fault::UnexpectedFile, problem)));
        }
        (Some(file), None) => return Ok(Err(missing(file))),
        (Some(expected), Some(found)) => (expected.clone(), found),
    };
    let damaged = |problem| Ok(Err((Fault::DamagedFile, problem)));
    if found.size_bytes != expected.bytes {
        return damaged(format!(
            "it has {} bytes, {} were published",
            found.size_bytes, expected.bytes
        ));
    }
    if !is_intact(Some(&expected), Some(found)) {
        return damaged("it is not the upload that the ledger speaks of".to_owned());
    }
    let Some(copy) = lake.local_copy(&found.path).await? else {
        return Ok(Err(missing(&expected)));
    };
    let commit = commit.clone();
    let checked = on_thread(move || check_file(&copy.path, slice, &expected, &commit)).await;
    Ok(checked.unwrap_or_else(|| {
        let problem = "the Parquet library fails on it in a way that nobody foresaw";
        Err((Fault::DamagedFile, problem.to_owned()))
    }))
}

fn closed_to_us(slice: Slice, error: &LakeError) -> Finding {
    let problem = format!("{}. Let this user read it", chain(error));
    Finding::new(Fault::DamagedFile, slice, &Table::place_of(slice), problem)
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
        // A file that should not be there is a stray.
        return Ok(None);
    };
    let rejected = commit.counts.rejected;
    let Some(copy) = lake.local_copy(&layout::rejects_file(slice)).await? else {
        return Ok(Some(format!(
            "the {rejected} rejects of the slice are gone"
        )));
    };
    let checksum = on_thread(move || checksum_of(&copy.path))
        .await
        .expect("reading bytes does not panic");
    Ok(match checksum {
        Ok(checksum) if checksum == expected => None,
        Ok(_) => Some(format!(
            "it is not the file that was stored, with rejected records: {rejected}"
        )),
        Err(error) => Some(format!("it cannot be read: {error}")),
    })
}
