//! Compares a file of the table with what was published.

use std::collections::BTreeMap;
use std::path::Path as FilePath;

use jiff::civil::Date;

use super::Fault;
use crate::cdr::columns;
use crate::cdr::digest::{Digest, RowHasher};
use crate::cdr::slice::Slice;
use crate::cdr::tally::{Counts, DayTotals, RowTally, Totals};
use crate::lake::PublishedFile;
use crate::lake::ledger::Commit;
use crate::slice_file::writer::{WriteError, checksum_of, read_footer, read_rows};

/// Compares a file with what was published: first its checksum, so that only our own files are
/// decoded, then its content. If the checksum matches and the content does not, the ledger was
/// edited.
pub(super) fn check_file(
    path: &FilePath,
    slice: Slice,
    expected: &PublishedFile,
    commit: &Commit,
) -> Result<u64, (Fault, String)> {
    let damaged = |problem: String| (Fault::DamagedFile, problem);
    let checksum =
        checksum_of(path).map_err(|error| damaged(format!("it cannot be read: {error}")))?;
    if checksum != expected.checksum {
        let problem = "its bytes differ from those that were published";
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

/// The first difference between the rows of a file and the ledger.
fn difference(content: &Content, commit: &Commit) -> Option<String> {
    let (found, recorded) = (&content.totals, &commit.totals);
    let pairs = [
        (
            "rows",
            content.counts.rows.to_string(),
            commit.counts.rows.to_string(),
        ),
        (
            "seconds",
            found.duration_seconds.to_string(),
            recorded.duration_seconds.to_string(),
        ),
        (
            "USD charged",
            found.charge_usd.to_string(),
            recorded.charge_usd.to_string(),
        ),
        (
            "USD of forwarding fees",
            found.forward_fee_usd.to_string(),
            recorded.forward_fee_usd.to_string(),
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
            "rows by disposition",
            format!("{:?}", found.by_disposition),
            format!("{:?}", recorded.by_disposition),
        ),
        (
            "rows by day",
            format!("{:?}", content.days),
            format!("{:?}", commit.days),
        ),
        (
            "digest",
            content.digest.to_string(),
            commit.digest.to_string(),
        ),
    ];
    let (what, found, recorded) = pairs
        .into_iter()
        .find(|(_, found, recorded)| found != recorded)?;
    Some(format!(
        "{what}: {recorded} in the ledger, {found} in the file"
    ))
}

/// What a file of the table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Counts of its rows. Counts of records that became no rows are zero.
    pub counts: Counts,
    /// Sums over its rows.
    pub totals: Totals,
    /// Sums over the rows of each day, if the slice has several.
    pub days: BTreeMap<Date, DayTotals>,
    /// Digest of its rows.
    pub digest: Digest,
}

/// Reads every row of a slice's file. Memory: one batch.
///
/// # Errors
/// `WriteError` if it cannot be read, or is another slice's.
pub fn read_back(path: &FilePath, slice: Slice) -> Result<Content, WriteError> {
    let (mut digest, hasher) = (Digest::default(), RowHasher::new(slice));
    // The bounds of the day depend on the configuration of the run that fetched it.
    let mut tally = RowTally::new(i64::MIN..i64::MAX);
    read_rows(path, slice, |record| {
        digest.add(hasher.hash(record).row);
        tally.add(record);
        Ok::<(), WriteError>(())
    })?;
    let mut counts = Counts::default();
    tally.count_into(&mut counts);
    let (totals, days) = tally.into_totals();
    Ok(Content {
        counts,
        totals,
        days,
        digest,
    })
}
