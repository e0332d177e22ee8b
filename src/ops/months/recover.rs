//! What can still be read of a month of which a day was damaged during the conversion.

use std::path::Path as FilePath;

use super::Conversion;
use super::merge::counts_of_rows;
use super::survey::Month;
use crate::cdr::reconcile::Verdict;
use crate::cdr::slice::Slice;
use crate::cdr::tally::Counts;
use crate::error::counted;
use crate::lake::ledger::{Commit, State};
use crate::lake::{Condition, LakeError, LedgerEntry, PublishedFile};
use crate::ops::Error;
use crate::ops::thread::on_thread;
use crate::ops::verify::{Content, read_back};
use crate::slice_file::rejects::read_rejects;
use crate::slice_file::statistics::FileStatistics;
use crate::store::{ObjectState, StoreError};

/// What can be read of a day.
struct Readable {
    /// Its file and its rows.
    rows: Option<(ObjectState, Content)>,
    /// Its rejects and their number.
    rejects: Option<(ObjectState, u64)>,
}

impl Conversion<'_> {
    /// The month with what can be read of its days, and with a problem for each day that differs
    /// from its ledger entry. Such a day is open, so that a run fetches the month again.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, or a newer version wrote a ledger entry.
    pub(super) async fn recovered(&self, slice: Slice, month: &Month) -> Result<Month, Error> {
        let mut recovered = month.clone();
        recovered.problems.clear();
        for (&day, commit) in &mut recovered.days {
            let day = Slice::of_day(day, slice.direction);
            let found = self.lake.usable_entry(day).await?;
            let is_usable = found.condition == Condition::Sound && found.entry.pending.is_none();
            let recorded = found.entry.committed.clone().filter(|_| is_usable);
            let is_pruned = |commit: &Commit| commit.state == State::Pruned;
            let readable = self.readable(slice, day, &found).await?;
            if let Some(recorded) = &recorded
                && (is_pruned(recorded) || readable.is_as_in(recorded))
            {
                *commit = Some(recorded.clone());
                continue;
            }
            let rows = readable.rows.as_ref();
            let rows = rows.map_or(0, |(_, content)| content.counts.rows);
            let of_rows = match &recorded {
                Some(recorded) => {
                    let recorded = counted(recorded.counts.rows, "row", "rows");
                    format!("{rows} of its {recorded}")
                }
                None => counted(rows, "row", "rows"),
            };
            recovered.problems.push(format!(
                "{day} was damaged during the conversion, and {of_rows} could be read. {slice} is \
                 open, and the next run fetches it whole"
            ));
            *commit = readable.commit(found.entry.committed.as_ref());
        }
        Ok(recovered)
    }

    async fn readable(
        &self,
        month: Slice,
        day: Slice,
        found: &LedgerEntry,
    ) -> Result<Readable, LakeError> {
        let lake = self.lake;
        let mut rows = None;
        if let Some(file) = lake.table().file(&found.entry).await?
            && let Some(copy) = lake.local_copy(&file.path).await?
        {
            // Read as rows of the month, rows have the day of their file.
            let path = copy.path.clone();
            must_be_readable(&copy.path).await?;
            let read = on_thread(move || read_back(&path, month)).await;
            rows = read.and_then(Result::ok).map(|content| (file, content));
        }
        let mut rejects = None;
        if let Some(file) = lake.rejects_of(day).await?
            && let Some(copy) = lake.local_copy(&file.path).await?
        {
            must_be_readable(&copy.path).await?;
            let read = on_thread(move || {
                let mut number = 0;
                let counted = read_rejects(&copy.path, |_| {
                    number += 1;
                    Ok::<(), std::io::Error>(())
                });
                counted.is_ok().then_some(number)
            });
            rejects = read.await.flatten().map(|number| (file, number));
        }
        Ok(Readable { rows, rejects })
    }
}

/// Reads a file without looking at it: one that cannot be read now is not damaged, and may be read
/// later.
async fn must_be_readable(path: &FilePath) -> Result<(), LakeError> {
    let owned = path.to_owned();
    let read = move || {
        let mut file = std::fs::File::open(owned)?;
        std::io::copy(&mut file, &mut std::io::sink())
    };
    let read = on_thread(read).await.expect("reading does not panic");
    let failed = |error: std::io::Error| StoreError {
        action: "read",
        path: path.to_owned(),
        source: error.into(),
    };
    Ok(read.map(drop).map_err(failed)?)
}

impl Readable {
    /// Whether this is what the ledger has of the day.
    fn is_as_in(&self, commit: &Commit) -> bool {
        let rows = match (&self.rows, &commit.file) {
            (None, None) => true,
            (Some((_, content)), Some(_)) => {
                content.digest == commit.digest
                    && content.totals == commit.totals
                    && counts_of_rows(&content.counts) == counts_of_rows(&commit.counts)
            }
            _ => false,
        };
        let rejects = self.rejects.as_ref().map_or(0, |(_, number)| *number);
        rows && rejects == commit.counts.rejected
    }

    /// A commit of this; `None` if there is nothing. The day had the commit `before`.
    fn commit(self, before: Option<&Commit>) -> Option<Commit> {
        let file = |object: ObjectState, rows: u64| PublishedFile {
            path: object.path.to_string(),
            rows,
            bytes: object.size_bytes,
            checksum: String::new(),
            etag: object.etag,
            statistics: FileStatistics::default(),
        };
        let nothing = Commit::of_nothing();
        let mut commit = Commit {
            fetched_at: before.map_or(nothing.fetched_at, |before| before.fetched_at),
            privacy_key_id: before.and_then(|before| before.privacy_key_id.clone()),
            state: State::Open,
            reconcile: Verdict::NotChecked,
            ..nothing
        };
        if let Some((object, content)) = self.rows {
            let Content {
                counts,
                totals,
                digest,
                ..
            } = content;
            commit.file = Some(file(object, counts.rows));
            commit.counts = Counts {
                records: counts.rows,
                ..counts
            };
            (commit.totals, commit.digest) = (totals, digest);
        }
        if let Some((object, number)) = self.rejects {
            commit.rejects = Some(file(object, number));
            commit.counts.rejected = number;
            commit.counts.records += number;
        }
        (commit.file.is_some() || commit.rejects.is_some()).then_some(commit)
    }
}
