//! Whether a lake is what its ledger says: reads every published file again.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path as FilePath;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::civil::Date;
use object_store::path::Path;
use serde::Serialize;

use crate::digest::{Digest, RowHasher};
use crate::lake::ledger::{Commit, PublishedFile, RejectsFile};
use crate::lake::store::ObjectState;
use crate::lake::{Condition, Lake, LakeError, LedgerEntry, layout};
use crate::reconcile::{Verdict, describe_mismatch, verdict};
use crate::schema;
use crate::slice::{Direction, Slice};
use crate::tally::{Counts, RowTally, Totals};
use crate::writer::{WriteError, checksum_of, read_footer, read_rows};

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
    /// A run died while it published.
    Interrupted,
    /// The rejects are not those that the ledger speaks of.
    Rejects,
    /// The provider counts otherwise than when the slice was fetched.
    ControlTotal,
    /// The file belongs to no slice.
    Foreign,
    /// A dead run left it on the way into the lake.
    Leftover,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::MissingFile => "missing",
            Self::DamagedFile => "damaged",
            Self::UnexpectedFile => "unexpected",
            Self::DamagedLedger => "ledger",
            Self::NewerLedger => "newer",
            Self::Interrupted => "interrupted",
            Self::Rejects => "rejects",
            Self::ControlTotal => "count",
            Self::Foreign => "foreign",
            Self::Leftover => "leftover",
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
    /// Nothing that this version could do.
    UseNewer,
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
            (Fault::NewerLedger, _) => Mend::UseNewer,
            (_, Some(slice)) => Mend::Fetch(slice),
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
    /// Slices that another run works on, and that therefore could not be judged.
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

    /// Adds what a slice's examination, or a later step, found.
    fn add(&mut self, examined: Examined) {
        self.slices += 1;
        self.rows += examined.rows;
        self.bytes += examined.bytes;
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
/// as there are processors. Calls `done` after each. Memory: a batch of rows for each of them.
///
/// # Errors
/// [`LakeError`] if the lake cannot be read at all. What is wrong with a slice is a finding.
pub async fn verify_slices(
    lake: &Lake,
    slices: &BTreeSet<Slice>,
    done: &(dyn Fn() + Sync),
) -> Result<VerifyReport, LakeError> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let examined = stream::iter(slices)
        .map(|&slice| async move {
            let examined = examine_in_peace(lake, slice).await;
            done();
            examined
        })
        .buffer_unordered(threads);
    let mut report = examined
        .try_fold(VerifyReport::default(), async |mut report, examined| {
            report.add(examined);
            Ok(report)
        })
        .await?;
    report.findings.sort_by_key(|finding| finding.slice);
    Ok(report)
}

/// What lies in the lake and belongs to no slice, or to a run that died.
///
/// # Errors
/// [`LakeError`] if the lake cannot be listed.
pub async fn find_strays(lake: &Lake) -> Result<Vec<Finding>, LakeError> {
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
        let is_expected = layout::rejects_slice(&path).is_some_and(|(slice, of_failure)| {
            match ledger.get(&slice) {
                Some(found) => may_have_rejects(found, of_failure),
                // Whose entry is gone, and whose rows are not: it is fetched again.
                None => table.contains_key(&slice),
            }
        });
        if !is_expected {
            let problem = "no slice has such rejects";
            strays.push(Finding::stray(Fault::Foreign, &path, problem));
        }
    }
    for path in lake.find_leftovers().await? {
        let problem = "a run that died left it on the way into the lake";
        strays.push(Finding::stray(Fault::Leftover, &path, problem));
    }
    Ok(strays)
}

fn may_have_rejects(found: &LedgerEntry, of_failure: bool) -> bool {
    let LedgerEntry {
        entry, condition, ..
    } = found;
    match &entry.committed {
        // What the entry said, or will say, is not known.
        _ if *condition != Condition::Sound || entry.pending.is_some() => true,
        _ if of_failure => entry.failed.is_some(),
        committed => committed
            .as_ref()
            .is_some_and(|commit| commit.counts.rejected > 0),
    }
}

/// Compares the ledger with `total`, the provider's count of a slice now. A slice that is open is
/// fetched again anyway.
pub fn compare_total(slice: Slice, commit: &Commit, total: u64) -> Option<Finding> {
    let is_settled = commit.state == crate::lake::ledger::State::Closed;
    (is_settled && verdict(&commit.counts, Some(total)) == Verdict::Mismatch).then(|| {
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
    in_progress: bool,
    findings: Vec<Finding>,
}

/// Looks at a slice, and where something seems wrong, once more while no run can be changing it.
async fn examine_in_peace(lake: &Lake, slice: Slice) -> Result<Examined, LakeError> {
    let examined = examine(lake, slice).await?;
    if examined.findings.is_empty() {
        return Ok(examined);
    }
    match lake.try_lease(slice).await {
        Ok(Some(_lease)) => examine(lake, slice).await,
        Ok(None) => Ok(Examined {
            in_progress: true,
            ..examined
        }),
        // Where nothing can be written, no run is at work either.
        Err(_) => Ok(examined),
    }
}

async fn examine(lake: &Lake, slice: Slice) -> Result<Examined, LakeError> {
    let mut examined = Examined {
        slice,
        rows: 0,
        bytes: 0,
        in_progress: false,
        findings: Vec::new(),
    };
    let LedgerEntry {
        entry, condition, ..
    } = lake.entry(slice).await?;
    let (ledger, table) = (layout::ledger_entry(slice), layout::table_file(slice));
    let found = lake.table_file(slice).await?;
    let finding = |fault, path: &Path, problem: String| Finding::new(fault, slice, path, problem);
    match (condition, entry.committed) {
        (Condition::Damaged(problem), _) => {
            examined
                .findings
                .push(finding(Fault::DamagedLedger, &ledger, problem));
        }
        (Condition::Newer(format), _) => {
            let problem = format!("it has format {format}: use a newer cdrlake");
            examined
                .findings
                .push(finding(Fault::NewerLedger, &ledger, problem));
        }
        (Condition::Sound, _) if entry.pending.is_some() => {
            let problem = "a run died while it published: what the table holds is uncertain";
            examined
                .findings
                .push(finding(Fault::Interrupted, &ledger, problem.to_owned()));
        }
        (Condition::Sound, None) => {
            if found.is_some() {
                let problem = "there is no ledger entry for it".to_owned();
                examined
                    .findings
                    .push(finding(Fault::UnexpectedFile, &table, problem));
            }
        }
        (Condition::Sound, Some(commit)) => {
            examined.bytes = found.as_ref().map_or(0, |file| file.size_bytes);
            match check_table(lake, slice, &commit, found).await? {
                Ok(rows) => examined.rows = rows,
                Err((fault, problem)) => examined.findings.push(finding(fault, &table, problem)),
            }
            if let Some(problem) = check_rejects(lake, slice, &commit).await? {
                let path = layout::rejects_file(slice);
                examined
                    .findings
                    .push(finding(Fault::Rejects, &path, problem));
            }
        }
    }
    Ok(examined)
}

/// The rows of the slice's file if it is what its commit says, or what is wrong with it.
async fn check_table(
    lake: &Lake,
    slice: Slice,
    commit: &Commit,
    found: Option<ObjectState>,
) -> Result<Result<u64, (Fault, String)>, LakeError> {
    let (expected, found) = match (&commit.file, found) {
        (None, None) => return Ok(Ok(0)),
        (None, Some(_)) => {
            let problem = "the slice has no rows by its ledger entry".to_owned();
            return Ok(Err((Fault::UnexpectedFile, problem)));
        }
        (Some(file), None) => {
            let problem = format!("its {} rows are not in the table", file.rows);
            return Ok(Err((Fault::MissingFile, problem)));
        }
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
        let problem = format!("its {} rows are not in the table", expected.rows);
        return Ok(Err((Fault::MissingFile, problem)));
    };
    let commit = commit.clone();
    let checked =
        tokio::task::spawn_blocking(move || check_file(&copy.path, slice, &expected, &commit))
            .await
            .expect("reading does not panic");
    Ok(checked.map_err(|problem| (Fault::DamagedFile, problem)))
}

/// Reads a file and compares everything with what was published.
fn check_file(
    path: &FilePath,
    slice: Slice,
    expected: &PublishedFile,
    commit: &Commit,
) -> Result<u64, String> {
    let read = |error: WriteError| {
        let cause = std::error::Error::source(&error).map_or_else(String::new, crate::error::chain);
        format!(
            "it cannot be read: {}",
            cause.trim_start_matches("External: ")
        )
    };
    let footer = read_footer(path).map_err(read)?;
    schema::check(footer.schema())?;
    let content = read_back(path, slice).map_err(read)?;
    let Content {
        counts,
        totals,
        digest,
    } = content;
    let said = &commit.counts;
    if counts.rows != said.rows {
        return Err(format!(
            "it holds {} rows, the ledger says {}",
            counts.rows, said.rows
        ));
    }
    let missing = |counts: &Counts| (counts.missing_charge, counts.missing_duration);
    if totals != commit.totals || missing(&counts) != missing(said) {
        return Err(format!(
            "its sums are not those of the ledger: {} and {} seconds, {} and {} USD",
            totals.duration_seconds,
            commit.totals.duration_seconds,
            totals.charge_usd,
            commit.totals.charge_usd
        ));
    }
    if digest != commit.digest {
        return Err("its rows are not those that were published".to_owned());
    }
    let checksum = checksum_of(path).map_err(|error| format!("it cannot be read: {error}"))?;
    if checksum != expected.checksum {
        return Err("its rows are right, its bytes are not those that were published".to_owned());
    }
    Ok(counts.rows)
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
    let checksum = tokio::task::spawn_blocking(move || checksum_of(&copy.path))
        .await
        .expect("reading does not panic");
    Ok(match checksum {
        Ok(checksum) if checksum == expected => None,
        Ok(_) => Some(format!(
            "it is not the file with the {rejected} rejects of the slice"
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
