//! One month: its days are read back, written as one file, compared, and published.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use super::Conversion;
use super::survey::Month;
use crate::TOOL;
use crate::cdr::columns::SCHEMA_VERSION;
use crate::cdr::digest::Digest;
use crate::cdr::reconcile::{Verdict, verdict};
use crate::cdr::slice::Slice;
use crate::cdr::tally::{Counts, DayTotals, Totals};
use crate::error::chain;
use crate::lake::ledger::{ASSUMED_TIMEZONE, Asked, Commit, State, new_token};
use crate::lake::report::{SliceOutcome, SliceReport};
use crate::ops::Error;
use crate::ops::days::is_from_the_future;
use crate::ops::rewrite::{rewrite_options, rewrite_rows};
use crate::ops::thread::on_thread;
use crate::slice_file::convert::Converted;
use crate::slice_file::rejects::{RejectsWriter, read_rejects};
use crate::slice_file::writer::SpoolFile;
use crate::store::{Lease, LocalCopy, layout};

/// What is published of a month.
struct Content {
    commit: Commit,
    rows: Converted,
    rejects: Option<SpoolFile>,
}

impl Conversion<'_> {
    /// Publishes the month `slice` with the rows and the rejects of its days, unless another
    /// conversion has done so.
    pub(super) async fn merge(
        &mut self,
        lease: &dyn Lease,
        slice: Slice,
        month: &Month,
    ) -> Result<(), Error> {
        let lake = self.lake;
        let mut before = lake.usable_entry(slice).await?;
        if before.entry.committed.is_some() && before.entry.pending.is_none() {
            return Ok(());
        }
        let mut month = Cow::Borrowed(month);
        if !month.problems.is_empty() {
            month = Cow::Owned(self.recovered(slice, &month).await?);
        }
        let commit = if month.is_pruned() {
            before.entry.committed = Some(merged(slice, &month, self.mark.run(), self.now));
            lake.prune(&self.mark, lease, before).await?
        } else {
            let privacy = lake.privacy_now().await?;
            let content = match self.read(slice, &month).await {
                Err(Error::NotMerged { .. }) if self.has_months => {
                    month = Cow::Owned(self.recovered(slice, &month).await?);
                    self.read(slice, &month).await?
                }
                content => content?,
            };
            let Content {
                commit,
                rows,
                rejects,
            } = content;
            let metadata = commit.file_metadata(slice);
            let file = blocking(slice, move || rows.write_footer(metadata)).await?;
            let staged = lake.stage(&before.entry, file.into(), rejects).await?;
            let published = lake.publish(&self.mark, lease, before, staged, commit, &privacy);
            published.await?.committed.expect("just committed")
        };
        self.has_months = true;
        for problem in &month.problems {
            tracing::error!("{problem}.");
        }
        self.merged.damaged.extend(month.problems.iter().cloned());
        let files = month.commits().filter_map(|(_, day)| day.file.as_ref());
        for file in files {
            self.merged.files_before += 1;
            self.merged.bytes_before += file.bytes;
        }
        if let Some(file) = &commit.file {
            self.merged.files_after += 1;
            self.merged.bytes_after += file.bytes;
        }
        self.merged.months += 1;
        self.merged.open += u64::from(commit.state == State::Open);
        let mut report = SliceReport::new(slice, SliceOutcome::Committed);
        if commit.state == State::Pruned {
            report.state = Some(State::Pruned);
        } else {
            report.describe(&commit);
            report.table_changed = true;
        }
        self.slices.push(report);
        Ok(())
    }

    /// Reads the days, and compares them with the ledger.
    async fn read(&self, slice: Slice, month: &Month) -> Result<Content, Error> {
        let mut commit = merged(slice, month, self.mark.run(), self.now);
        let rejects = self.rejects(slice, month, commit.counts.rejected).await?;
        let rows = self.rows(slice, month).await?;
        if let Some(problem) = difference(&rows, &commit, month) {
            return Err(Error::NotMerged { slice, problem });
        }
        commit.counts.conflicts = rows.counts.conflicts;
        commit.counts.outside_day = rows.counts.outside_day;
        Ok(Content {
            commit,
            rows,
            rejects,
        })
    }

    /// The rows of the days, in order, each with its day.
    async fn rows(&self, slice: Slice, month: &Month) -> Result<Converted, Error> {
        let lake = self.lake;
        let mut copies = Vec::new();
        for (_, day) in month.commits() {
            let Some(file) = &day.file else { continue };
            let copy = lake.local_copy(&file.location()).await?;
            copies.push(copy.ok_or_else(|| missing(slice, &file.path))?);
        }
        // Numbers were hidden when the days were fetched. Read as rows of the month, rows have the
        // day of their file.
        let options = rewrite_options(lake, self.config, slice, Arc::default());
        blocking(slice, move || rewrite_rows(options, &copies)).await
    }

    /// The rejects of the days, in order, of which there should be `expected`.
    async fn rejects(
        &self,
        slice: Slice,
        month: &Month,
        expected: u64,
    ) -> Result<Option<SpoolFile>, Error> {
        let mut copies: Vec<LocalCopy> = Vec::new();
        for (_, day) in month.commits() {
            let Some(file) = &day.rejects else { continue };
            let copy = self.lake.local_copy(&file.location()).await?;
            copies.push(copy.ok_or_else(|| missing(slice, &file.path))?);
        }
        let spool: PathBuf = self.lake.spool_dir().to_owned();
        let spool = spool.join(format!("{}.merged", layout::stem(slice)));
        let rejects = blocking(slice, move || {
            let mut writer = RejectsWriter::new(spool);
            for copy in &copies {
                read_rejects(&copy.path, |reject| writer.add(reject))?;
            }
            writer.finish()
        })
        .await?;
        let found = rejects.as_ref().map_or(0, |file| file.rows);
        if found == expected {
            return Ok(rejects);
        }
        let problem = format!("the ledger counts {expected} rejects, but there are {found}");
        Err(Error::NotMerged { slice, problem })
    }
}

/// Does blocking work on a thread of its own.
async fn blocking<T: Send + 'static, E: std::error::Error + Send + 'static>(
    slice: Slice,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Error> {
    let problem = match on_thread(work).await {
        Some(Ok(done)) => return Ok(done),
        Some(Err(error)) => chain(&error),
        None => "the Parquet library panicked on a file".to_owned(),
    };
    Err(Error::NotMerged { slice, problem })
}

fn missing(slice: Slice, path: &str) -> Error {
    let problem = format!("{path} is missing");
    Error::NotMerged { slice, problem }
}

/// What the ledger records of a month with these days, before its rows are read.
fn merged(slice: Slice, month: &Month, run: &str, now: Timestamp) -> Commit {
    let mut counts = Counts::default();
    let mut totals = Totals::default();
    let mut digest = Digest::default();
    let mut fetched_at = now;
    let mut days = BTreeMap::new();
    let mut zones = BTreeSet::new();
    let mut privacy_key_id = None;
    let mut is_closed = true;
    for (day, commit) in month.commits() {
        counts.merge(&commit.counts);
        totals.merge(&commit.totals);
        digest.merge(commit.digest);
        // Nothing in the month is older.
        fetched_at = fetched_at.min(commit.fetched_at);
        if commit.counts.rows > 0 {
            let totals = commit.totals.clone();
            let rows = commit.counts.rows;
            days.insert(day, DayTotals { rows, totals });
        }
        zones.extend(commit.asked.assumed_timezone());
        privacy_key_id = commit.privacy_key_id.clone().or(privacy_key_id);
        is_closed &= commit.state != State::Open && !is_from_the_future(commit, now);
    }
    let first_missing = month.never_fetched(slice.period.last_day()).next();
    let first_and_last = [month.days.first_key_value(), month.days.last_key_value()];
    let [first, last] = first_and_last.map(|day| day.map_or(slice.period.first_day(), |it| *it.0));
    let mut query = vec![("days".to_owned(), format!("{first}..{last}"))];
    if let [zone] = *zones.into_iter().collect::<Vec<_>>() {
        query.push((ASSUMED_TIMEZONE.to_owned(), zone.to_owned()));
    }
    let (reconcile, control_total) = reconciled(&counts, month);
    Commit {
        run: run.to_owned(),
        token: new_token(),
        tool_version: TOOL.to_owned(),
        schema_version: SCHEMA_VERSION,
        privacy_key_id,
        asked: Asked {
            url: "convert:".to_owned(),
            query,
        },
        fetched_at,
        state: if is_closed && first_missing.is_none() {
            State::Closed
        } else {
            State::Open
        },
        file: None,
        digest,
        counts,
        totals,
        days,
        from: (month.first_day > slice.period.first_day()).then_some(month.first_day),
        through: first_missing.and_then(|day| day.yesterday().ok()),
        rejects: None,
        control_total,
        reconcile,
        response_etag: None,
        response_last_modified: None,
    }
}

/// The comparison of the month with the provider's counts of its days. It is a match only if
/// every day was one, and none was damaged.
fn reconciled(counts: &Counts, month: &Month) -> (Verdict, Option<u64>) {
    let commits = || month.commits().map(|(_, commit)| commit);
    let total = commits().map(|commit| commit.control_total).sum();
    let has = |verdict| commits().any(|commit| commit.reconcile == verdict);
    if has(Verdict::Mismatch) {
        return (Verdict::Mismatch, total);
    }
    if has(Verdict::Off) {
        return (Verdict::Off, None);
    }
    let is_whole = month.days.values().all(Option::is_some);
    match verdict(counts, total) {
        verdict if verdict.has_equal_count() && is_whole && !has(Verdict::NotChecked) => {
            (verdict, total)
        }
        _ => (Verdict::NotChecked, None),
    }
}

/// The first difference between the rows of the month and the sums of its days.
fn difference(rows: &Converted, days: &Commit, month: &Month) -> Option<String> {
    let what = if rows.digest != days.digest {
        "digests"
    } else if counts_of_rows(&rows.counts) != counts_of_rows(&days.counts) {
        "counts"
    } else if rows.totals != days.totals || rows.days != days.days {
        "sums"
    } else {
        return None;
    };
    let days = month.days.len();
    Some(format!(
        "the {what} of its {days} days do not add up to those of its rows"
    ))
}

/// The counts that follow from the rows of a file.
pub(super) fn counts_of_rows(counts: &Counts) -> [u64; 4] {
    let Counts {
        rows,
        rounded,
        missing_charge,
        missing_duration,
        ..
    } = *counts;
    [rows, rounded, missing_charge, missing_duration]
}
