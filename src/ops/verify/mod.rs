//! Whether a lake is what its ledger says: reads every published file again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path as FilePath;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::civil::Date;
use object_store::path::Path;
use serde::Serialize;
use tokio::time::Instant;

use crate::cdr::columns;
use crate::cdr::digest::{Digest, RowHasher};
use crate::cdr::reconcile::{Verdict, describe_mismatch, verdict};
use crate::cdr::slice::{Direction, Slice};
use crate::cdr::tally::{Counts, RowTally, Totals};
use crate::config::QualityConfig;
use crate::error::{chain, counted};
use crate::lake::ledger::{Commit, PublishedFile, RejectsFile, State};
use crate::lake::{Condition, Lake, LakeError, LedgerEntry};
use crate::slice_file::writer::{WriteError, checksum_of, read_footer, read_rows, slice_named_in};
use crate::store::layout;
use crate::store::{LeaseState, ObjectState};

/// Slices of a lake in a bucket that are fetched and read at the same time.
const CONCURRENT_FETCHES: usize = 16;
/// How long, and with which pauses, to look at a slice that a run may be publishing: longer than a
/// publication takes.
const LOOK_FOR: Duration = Duration::from_secs(5);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The ledger speaks of a file that is not there.
    MissingFile,
    /// The file is cut, cannot be read, or holds something else than the ledger says.
    DamagedFile,
    /// The file belongs to a slice that should have none: by the ledger, or for want of an entry.
    UnexpectedFile,
    /// The ledger entry cannot be relied on.
    DamagedLedger,
    /// A later version of this program wrote the ledger entry.
    NewerLedger,
    /// The file system does not let the ledger entry be read.
    UnreadableLedger,
    /// A run died while it published.
    Interrupted,
    /// The last attempt at the slice failed: the lake has of it what it had before, or nothing.
    Failed,
    /// The rejects are not those that the ledger speaks of.
    Rejects,
    /// More records of the slice were rejected than the configuration tolerates now.
    TooManyRejects,
    /// The provider counts otherwise than when the slice was fetched.
    ControlTotal,
    /// The file belongs to no slice.
    Foreign,
    /// A dead run left it on the way into the lake.
    Leftover,
    /// An erasure did not come to its end.
    Unfinished,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::MissingFile => "missing",
            Self::DamagedFile => "damaged",
            Self::UnexpectedFile => "unexpected",
            Self::DamagedLedger => "ledger",
            Self::NewerLedger => "newer",
            Self::UnreadableLedger => "unreadable",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Rejects | Self::TooManyRejects => "rejects",
            Self::ControlTotal => "count",
            Self::Foreign => "foreign",
            Self::Leftover => "leftover",
            Self::Unfinished => "unfinished",
        })
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub fault: Fault,
    /// Whose it is, if it is a slice's.
    pub slice: Option<Slice>,
    /// The file in question, below the lake.
    pub path: String,
    /// What is wrong with it, in words.
    pub problem: String,
}

/// How a finding is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mend {
    /// Fetching the slice again.
    Fetch(Slice),
    /// Removing the file.
    Remove,
    /// Nothing that this program would dare.
    ByHand,
}

impl Finding {
    fn new(fault: Fault, slice: Slice, path: &Path, problem: impl Into<String>) -> Self {
        Self {
            fault,
            slice: Some(slice),
            path: path.to_string(),
            problem: problem.into(),
        }
    }

    fn stray(fault: Fault, path: &Path, problem: &str) -> Self {
        Self {
            fault,
            slice: None,
            path: path.to_string(),
            problem: problem.to_owned(),
        }
    }

    /// What mends it.
    pub fn mend(&self) -> Mend {
        match (self.fault, self.slice) {
            (Fault::NewerLedger | Fault::UnreadableLedger | Fault::Unfinished, _) => Mend::ByHand,
            (_, Some(slice)) => Mend::Fetch(slice),
            // Somebody's backup, perhaps.
            (_, None) if self.path.starts_with(layout::LEDGER) => Mend::ByHand,
            (_, None) => Mend::Remove,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Slices looked at.
    pub slices: u64,
    /// Rows read.
    pub rows: u64,
    /// Bytes of the table's files that were read.
    pub bytes: u64,
    /// Records that came from the provider, by the ledger.
    pub records: u64,
    /// Those of them that were rejected and are therefore not in the table.
    pub rejected: u64,
    /// Slices with a file, by the version of its columns.
    pub schema_versions: BTreeMap<u32, u64>,
    /// Closed slices that were taken although the provider's count was another, or not compared.
    pub unproven: BTreeSet<Slice>,
    /// Slices whose count is the provider's only with records that came twice: calls may be
    /// missing.
    pub with_duplicates: BTreeSet<Slice>,
    /// Slices that another run was publishing all the time, and that could not be judged.
    pub in_progress: BTreeSet<Slice>,
    /// Everything that is not as it should be, by slice; what belongs to none at the end.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// The slices that fetching again would mend.
    pub fn to_fetch(&self) -> BTreeSet<Slice> {
        let slices = self.findings.iter().filter_map(|finding| {
            if let Mend::Fetch(slice) = finding.mend() {
                Some(slice)
            } else {
                None
            }
        });
        slices.collect()
    }

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

/// What is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Which directions.
    pub directions: Vec<Direction>,
    /// Which days.
    pub days: RangeInclusive<Date>,
}

impl Default for Scope {
    /// Everything.
    fn default() -> Self {
        Self {
            directions: Direction::ALL.to_vec(),
            days: Date::MIN..=Date::MAX,
        }
    }
}

impl Scope {
    fn holds(&self, slice: Slice) -> bool {
        self.directions.contains(&slice.direction) && self.days.contains(&slice.day)
    }
}

/// Every slice of `scope` of which the lake has a ledger entry or a file.
///
/// # Errors
/// [`LakeError`] if the lake cannot be listed.
pub async fn slices(lake: &Lake, scope: &Scope) -> Result<BTreeSet<Slice>, LakeError> {
    let mut slices: BTreeSet<Slice> = lake.table().await?.into_keys().collect();
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

/// What lies in the lake and belongs to no slice, or to a run that died; within a `scope` that leaves
/// something out, only what can be said to belong there, and everything that a reader of its days
/// would take for calls, whatever the direction.
///
/// # Errors
/// [`LakeError`] if the lake cannot be listed.
pub async fn find_strays(lake: &Lake, scope: &Scope) -> Result<Vec<Finding>, LakeError> {
    // Before the ledger is read: rejects that a run stores meanwhile are announced there first.
    let rejects = lake.rejects().await?;
    let everything = Scope::default();
    let ledger = lake
        .entries(&everything.directions, everything.days)
        .await?;
    let table = lake.table().await?;
    let foreign = lake.foreign_files().await?;
    let mut strays: Vec<Finding> = foreign
        .iter()
        .map(|path| Finding::stray(Fault::Foreign, path, "it belongs to no slice"))
        .collect();
    for path in rejects.into_keys() {
        let Some((slice, of_failure)) = layout::rejects_slice(&path) else {
            let problem = "it belongs to no slice";
            strays.push(Finding::stray(Fault::Foreign, &path, problem));
            continue;
        };
        let is_still_so = async || {
            // A run that commits meanwhile changes both.
            let known = ledger
                .get(&slice)
                .cloned()
                .unwrap_or_else(|| LedgerEntry::absent(slice));
            lake.entry(slice).await.is_same_as(&known)
                && matches!(lake.local_copy(&path).await, Ok(Some(_)))
        };
        match ledger.get(&slice) {
            Some(found) if may_have_rejects(found, of_failure) => {}
            _ if !is_still_so().await => {}
            Some(_) => {
                let problem = "the slice has no such rejects";
                strays.push(Finding::stray(Fault::Foreign, &path, problem));
            }
            // With its rows still there, the slice is a finding already.
            None if table.contains_key(&slice) => {}
            None => {
                let problem = "there is no ledger entry for it";
                strays.push(Finding::new(Fault::Rejects, slice, &path, problem));
            }
        }
    }
    for path in lake.find_leftovers().await? {
        let problem = "a run that died left it on the way into the lake";
        strays.push(Finding::stray(Fault::Leftover, &path, problem));
    }
    let list = lake.suppression().await?;
    if let Some(problem) = list.and_then(|list| list.describe_unfinished()) {
        strays.push(Finding::stray(
            Fault::Unfinished,
            &layout::suppression(),
            &problem,
        ));
    }
    let is_everything = *scope == Scope::default();
    strays.retain(|stray| match stray.slice {
        Some(slice) => scope.holds(slice),
        // Whatever is looked at may hold such a number.
        None if stray.fault == Fault::Unfinished => true,
        None => is_everything || is_read_with(&stray.path, scope),
    });
    let elsewhere = table
        .into_keys()
        .filter(|slice| !scope.holds(*slice) && scope.days.contains(&slice.day));
    for slice in elsewhere {
        let should_have_none = ledger.get(&slice).is_none_or(|found| {
            let committed = found.entry.committed.as_ref();
            found.condition == Condition::Sound
                && found.entry.pending.is_none()
                && committed.is_none_or(|commit| commit.file.is_none())
        });
        if should_have_none {
            let examined = examine(lake, slice).await?;
            let is_of_table = |finding: &Finding| is_read_with(&finding.path, scope);
            let findings = examined.findings.into_iter().filter(is_of_table);
            strays.extend(findings.filter(|_| !examined.in_progress));
        }
    }
    Ok(strays)
}

/// Whether who reads the days of `scope` reads the file at `path`, too: one that lies in the table
/// and in none of its partitions is read with every day.
fn is_read_with(path: &str, scope: &Scope) -> bool {
    path.starts_with(layout::TABLE)
        && layout::partition_day(&Path::from(path)).is_none_or(|day| scope.days.contains(&day))
}

/// Whether the file at `path` holds rows of a slice that the lake does not hold, whole and sound, where
/// they belong: somebody may have moved it.
///
/// # Errors
/// [`LakeError`] if the lake cannot be read.
pub async fn is_last_copy(lake: &Lake, path: &Path) -> Result<bool, LakeError> {
    let Some(copy) = lake.local_copy(path).await? else {
        return Ok(false);
    };
    let named = on_thread(move || slice_named_in(&copy.path))
        .await
        .flatten();
    let Some(slice) = named.and_then(|name| name.parse::<Slice>().ok()) else {
        return Ok(false);
    };
    let found = lake.entry(slice).await;
    let committed = found.entry.committed.as_ref();
    if committed.is_some_and(|commit| commit.state == State::Pruned) {
        return Ok(false);
    }
    let examined = look(lake, slice, &found).await?;
    Ok(found.entry.committed.is_none() || !examined.findings.is_empty())
}

/// Whether the rejects of a slice, or of an attempt at it that failed, may be there by its entry.
fn may_have_rejects(found: &LedgerEntry, of_failure: bool) -> bool {
    let entry = &found.entry;
    match &entry.committed {
        // What the entry said, or will say, is not known.
        _ if found.condition != Condition::Sound || entry.pending.is_some() => true,
        _ if of_failure => entry.failed.is_some(),
        Some(commit) => commit.counts.rejected > 0 && commit.state != State::Pruned,
        None => true,
    }
}

/// Compares the ledger with `total`, the provider's count of a slice now. A slice that is open is
/// fetched again anyway.
pub fn compare_total(slice: Slice, commit: &Commit, total: u64) -> Option<Finding> {
    let is_settled = commit.state == State::Closed;
    let is_another = match verdict(&commit.counts, Some(total)) {
        Verdict::Mismatch => true,
        // Was it so then, too, its run has asked twice.
        Verdict::MatchWithDuplicates => commit.reconcile != Verdict::MatchWithDuplicates,
        _ => false,
    };
    (is_settled && is_another).then(|| {
        let problem = describe_mismatch(&commit.counts, Some(total));
        let path = layout::ledger_entry(slice);
        Finding::new(Fault::ControlTotal, slice, &path, problem)
    })
}

/// What looking at one slice found.
#[derive(Debug)]
struct Examined {
    slice: Slice,
    rows: u64,
    bytes: u64,
    /// By the ledger.
    counts: Counts,
    schema_version: Option<u32>,
    is_unproven: bool,
    has_duplicates: bool,
    in_progress: bool,
    findings: Vec<Finding>,
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
async fn examine(lake: &Lake, slice: Slice) -> Result<Examined, LakeError> {
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

async fn look(lake: &Lake, slice: Slice, found: &LedgerEntry) -> Result<Examined, LakeError> {
    let LedgerEntry {
        entry, condition, ..
    } = found;
    let mut examined = Examined::nothing(slice);
    let (ledger, table) = (layout::ledger_entry(slice), layout::table_file(slice));
    let file = match lake.table_file(slice).await {
        Err(error) if error.is_denied() => {
            examined.findings.push(closed_to_us(slice, &error));
            return Ok(examined);
        }
        file => file?,
    };
    let mut add = |fault, path: &Path, problem: &str| {
        let finding = Finding::new(fault, slice, path, problem);
        examined.findings.push(finding);
    };
    match condition {
        Condition::Sound => {}
        Condition::Damaged(problem) => add(Fault::DamagedLedger, &ledger, problem),
        Condition::Unreadable(problem) => add(Fault::UnreadableLedger, &ledger, problem),
        Condition::Newer(found) => {
            let problem = format!("it has {found}: use a newer cdrlake");
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
        if file.is_some() {
            let problem = "the slice was pruned, and its file is still there";
            examined
                .findings
                .push(Finding::stray(Fault::Foreign, &table, problem));
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
            Err((fault, problem)) => add(*fault, &table, problem),
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
    } else if file.is_some() && *condition == Condition::Sound {
        let Some(copy) = lake.local_copy(&table).await? else {
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
                &table,
                "there is no ledger entry for it",
            );
        } else {
            let problem = format!("it is a copy of {}", named.unwrap_or_default());
            let stray = Finding::stray(Fault::Foreign, &table, &problem);
            examined.findings.push(stray);
        }
    }
    Ok(examined)
}

/// Runs blocking work; `None` if it panics, as a reader may on a file that somebody damaged.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
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
    if found.etag != expected.etag {
        return damaged("it is not the upload that the ledger speaks of".to_owned());
    }
    let Some(copy) = lake.local_copy(&layout::table_file(slice)).await? else {
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
    Finding::new(
        Fault::DamagedFile,
        slice,
        &layout::table_file(slice),
        problem,
    )
}

fn missing(file: &PublishedFile) -> (Fault, String) {
    let rows = counted(file.rows, "row is", "rows are");
    let problem = format!("its {rows} not in the table");
    (Fault::MissingFile, problem)
}

/// Compares a file with what was published: first byte by byte, for only what is ours is worth
/// decoding, then by what is in it. Where the two disagree, it is the ledger that was edited.
fn check_file(
    path: &FilePath,
    slice: Slice,
    expected: &PublishedFile,
    commit: &Commit,
) -> Result<u64, (Fault, String)> {
    let damaged = |problem: String| (Fault::DamagedFile, problem);
    let checksum =
        checksum_of(path).map_err(|error| damaged(format!("it cannot be read: {error}")))?;
    if checksum != expected.checksum {
        let problem = "its bytes are not those that were published";
        return Err(damaged(problem.to_owned()));
    }
    let read = |error: WriteError| {
        let cause = std::error::Error::source(&error).map_or_else(String::new, crate::error::chain);
        damaged(format!("it cannot be read: {cause}"))
    };
    let footer = read_footer(path).map_err(read)?;
    columns::check(footer.schema(), commit.schema_version).map_err(damaged)?;
    let content = read_back(path, slice).map_err(read)?;
    match difference(&content, commit) {
        Some(problem) => Err((Fault::DamagedLedger, problem)),
        None => Ok(content.counts.rows),
    }
}

/// What the ledger says otherwise than the rows do.
fn difference(content: &Content, commit: &Commit) -> Option<String> {
    let (found, said) = (&content.totals, &commit.totals);
    let pairs = [
        (
            "rows",
            content.counts.rows.to_string(),
            commit.counts.rows.to_string(),
        ),
        (
            "seconds",
            found.duration_seconds.to_string(),
            said.duration_seconds.to_string(),
        ),
        (
            "USD charged",
            found.charge_usd.to_string(),
            said.charge_usd.to_string(),
        ),
        (
            "USD of forwarding fees",
            found.forward_fee_usd.to_string(),
            said.forward_fee_usd.to_string(),
        ),
        (
            "rows with a rounded value",
            content.counts.rounded.to_string(),
            commit.counts.rounded.to_string(),
        ),
        (
            "rows without a charge",
            content.counts.missing_charge.to_string(),
            commit.counts.missing_charge.to_string(),
        ),
        (
            "rows without a duration",
            content.counts.missing_duration.to_string(),
            commit.counts.missing_duration.to_string(),
        ),
        (
            "as rows by disposition",
            format!("{:?}", found.by_disposition),
            format!("{:?}", said.by_disposition),
        ),
        (
            "as digest",
            content.digest.to_string(),
            commit.digest.to_string(),
        ),
    ];
    let (what, found, said) = pairs.into_iter().find(|(_, found, said)| found != said)?;
    Some(format!("it says {said} {what}, the file holds {found}"))
}

/// What a file of the table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Counts of its rows; what happened before they were rows is not in the file.
    pub counts: Counts,
    /// Sums over its rows.
    pub totals: Totals,
    /// Digest of its rows.
    pub digest: Digest,
}

/// Reads every row of a slice's file. Memory: one batch.
///
/// # Errors
/// [`WriteError`] if it cannot be read, or is another slice's.
pub fn read_back(path: &FilePath, slice: Slice) -> Result<Content, WriteError> {
    let (mut digest, mut hasher) = (Digest::default(), RowHasher::new(slice));
    // Which rows lie outside the day depends on the configuration of the run that fetched them.
    let mut tally = RowTally::new(i64::MIN..i64::MAX);
    read_rows(path, slice, |record| {
        digest.add(hasher.hash(record));
        tally.add(record);
        Ok::<(), WriteError>(())
    })?;
    let mut counts = Counts::default();
    tally.count_into(&mut counts);
    Ok(Content {
        counts,
        totals: tally.totals,
        digest,
    })
}

async fn check_rejects(
    lake: &Lake,
    slice: Slice,
    commit: &Commit,
) -> Result<Option<String>, LakeError> {
    let Some(RejectsFile {
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

/// Commits of the slices that were `verified` and found good, for asking the provider about them.
///
/// # Errors
/// [`LakeError`] if the ledger cannot be read.
pub async fn commits(
    lake: &Lake,
    verified: &BTreeSet<Slice>,
) -> Result<HashMap<Slice, Commit>, LakeError> {
    let directions = Scope::default().directions;
    let days = match (verified.first(), verified.last()) {
        (Some(first), Some(last)) => first.day..=last.day,
        _ => return Ok(HashMap::new()),
    };
    let entries = lake.entries(&directions, days).await?;
    let commits = entries
        .into_iter()
        .filter(|(slice, _)| verified.contains(slice))
        .filter_map(|(slice, found)| Some((slice, found.entry.committed?)));
    Ok(commits.collect())
}
