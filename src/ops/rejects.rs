//! Rejects of slices and of failed attempts, grouped by reason.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use jiff::civil::Date;
use object_store::path::Path;
use serde::Serialize;

use super::Error;
use super::days::DayRange;
use crate::body::framing::Position;
use crate::cdr::slice::{Direction, Slice};
use crate::config::WindowConfig;
use crate::error::{counted, one_line, sanitized_excerpt, sanitized_line, truncated};
use crate::lake::Lake;
use crate::lake::ledger::State;
use crate::slice_file::rejects::{Reject, read_rejects};
use crate::store::layout;

/// Most characters of an example.
const MAX_EXAMPLE_CHARS: usize = 1_000;
/// Files read concurrently: in a bucket each is fetched first.
const CONCURRENT_READS: usize = 8;
/// Most groups. This program has far fewer reasons; the limit bounds the memory that a foreign file
/// can take.
const MAX_GROUPS: usize = 200;
/// Longest code of a reason, for the same purpose.
const MAX_CODE_CHARS: usize = 64;
/// The group of reasons beyond [`MAX_GROUPS`].
const OTHER_REASONS: &str = "(other)";

/// Records that were rejected for one reason.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Group {
    /// Whether the records are from failed attempts. Other records are missing from slices of the
    /// lake.
    pub of_failed_attempts: bool,
    /// The code of the reason.
    pub code: String,
    /// The number of records.
    pub records: u64,
    /// The number of slices that they belong to.
    pub slices: usize,
    /// The first of their days.
    pub first_day: Date,
    /// The last of their days.
    pub last_day: Date,
    /// The first record.
    pub example: Example,
}

/// A rejected record.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Example {
    /// Its slice.
    pub slice: Slice,
    /// Its rejects file, relative to the lake.
    pub file: String,
    /// The export file that it was loaded from; line and byte are positions in it.
    pub export_file: Option<String>,
    /// The page that it came with; line and byte are positions in it.
    pub page: u64,
    /// Line and byte.
    #[serde(flatten)]
    pub at: Position,
    /// File or page, line and byte, for people.
    #[serde(skip)]
    pub place: String,
    /// Why it was rejected.
    pub reason: String,
    /// The record on one line, cut to the length of a screen.
    pub text: String,
}

/// The rejects of a lake.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Rejects {
    /// Groups of records missing from the lake's slices, then those of failed attempts, largest
    /// first.
    pub groups: Vec<Group>,
    /// Files that are missing or cannot be read, and why.
    pub unreadable: Vec<String>,
    /// Whether one of them is missing. A run fetches its slice again.
    #[serde(skip)]
    pub is_any_missing: bool,
}

impl Rejects {
    /// Reads the rejects of the selected slices of `lake`, of all by default. Phone numbers in
    /// examples are hidden unless `show_numbers`.
    ///
    /// # Errors
    /// [`Error`] if the lake cannot be listed. Files that cannot be read are part of the result.
    pub(crate) async fn read(
        lake: &Lake,
        window: &WindowConfig,
        range: &DayRange,
        show_numbers: bool,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let days = range.days_of_all(window, now)?;
        let directions = range.directions(&Direction::ALL);
        let mut files: Vec<(Slice, bool, Path)> = lake
            .rejects()
            .await?
            .into_keys()
            .filter_map(|path| {
                let (slice, of_failure) = layout::rejects_slice(&path)?;
                Some((slice, of_failure, path))
            })
            .filter(|(slice, ..)| {
                slice.period.touches(&days) && directions.contains(&slice.direction)
            })
            .collect();
        files.sort();
        let there: BTreeSet<Slice> = files
            .iter()
            .filter(|(_, of_failure, _)| !of_failure)
            .map(|(slice, ..)| *slice)
            .collect();
        let mut rejects = collect(lake, files, show_numbers).await?;
        let gone = lake
            .entries(&directions, days)
            .await?
            .into_iter()
            .filter_map(|(slice, found)| Some((slice, found.entry.committed?)))
            .filter(|(_, commit)| commit.state != State::Pruned)
            .map(|(slice, commit)| (slice, commit.counts.rejected))
            .filter(|(slice, rejected)| *rejected > 0 && !there.contains(slice));
        for (slice, rejected) in gone {
            rejects.is_any_missing = true;
            rejects.unreadable.push(format!(
                "{}: the file with {} is missing",
                layout::rejects_file(slice),
                counted(rejected, "record", "records")
            ));
        }
        rejects.unreadable.sort();
        Ok(rejects)
    }
}

/// The records of one file: for each reason their number and the first of them.
type OfFile = BTreeMap<String, (u64, Example)>;

/// Reads one file; `None` if it no longer exists. An error comes with the records before it.
async fn read_file(
    lake: &Lake,
    slice: Slice,
    path: &Path,
    show_numbers: bool,
) -> Result<Option<(OfFile, std::io::Result<()>)>, Error> {
    // A run may have removed it since it was listed.
    let Some(copy) = lake.local_copy(path).await? else {
        return Ok(None);
    };
    let name = path.to_string();
    let read = tokio::task::spawn_blocking(move || {
        let mut of_file = OfFile::new();
        let read = read_rejects(&copy.path, |reject| {
            // Codes of this program are shorter.
            let code = truncated(&reject.code, MAX_CODE_CHARS);
            let mut code = code.as_str();
            if of_file.len() >= MAX_GROUPS && !of_file.contains_key(code) {
                code = OTHER_REASONS;
            }
            if let Some((records, _)) = of_file.get_mut(code) {
                *records += 1;
            } else {
                let example = example(slice, &name, reject, show_numbers);
                of_file.insert(code.to_owned(), (1, example));
            }
            Ok::<(), std::io::Error>(())
        });
        (of_file, read)
    });
    Ok(Some(read.await.expect("reading does not panic")))
}

/// Reads the files, a few at a time, and groups their records in the order of the files.
async fn collect(
    lake: &Lake,
    files: Vec<(Slice, bool, Path)>,
    show_numbers: bool,
) -> Result<Rejects, Error> {
    let mut groups = BTreeMap::<(bool, String), Group>::new();
    let mut unreadable = Vec::new();
    let reads = stream::iter(files).map(|(slice, of_failure, path)| async move {
        let read = read_file(lake, slice, &path, show_numbers).await?;
        Ok::<_, Error>((slice, of_failure, path, read))
    });
    let mut reads = std::pin::pin!(reads.buffered(CONCURRENT_READS));
    while let Some(read) = reads.try_next().await? {
        let (slice, of_failure, path, Some((of_file, read))) = read else {
            continue;
        };
        if let Err(error) = read {
            unreadable.push(format!("{path}: {}", sanitized_excerpt(&error.to_string())));
        }
        for (mut code, (records, example)) in of_file {
            if groups.len() >= MAX_GROUPS && !groups.contains_key(&(of_failure, code.clone())) {
                OTHER_REASONS.clone_into(&mut code);
            }
            let group = groups
                .entry((of_failure, code.clone()))
                .or_insert_with(|| Group {
                    of_failed_attempts: of_failure,
                    code,
                    records: 0,
                    slices: 0,
                    first_day: slice.period.first_day(),
                    last_day: slice.period.last_day(),
                    example,
                });
            group.records += records;
            group.slices += 1;
            group.last_day = slice.period.last_day();
        }
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|group| (group.of_failed_attempts, std::cmp::Reverse(group.records)));
    Ok(Rejects {
        groups,
        unreadable,
        is_any_missing: false,
    })
}

fn example(slice: Slice, file: &str, reject: &Reject<'_>, show_numbers: bool) -> Example {
    let shown = |text: &str| {
        if show_numbers {
            one_line(text, MAX_EXAMPLE_CHARS)
        } else {
            sanitized_line(text, MAX_EXAMPLE_CHARS)
        }
    };
    Example {
        slice,
        file: file.to_owned(),
        export_file: reject
            .export_file
            .as_deref()
            .map(|name| one_line(name, MAX_EXAMPLE_CHARS)),
        page: reject.page,
        at: reject.at,
        place: one_line(&reject.place(), MAX_EXAMPLE_CHARS),
        reason: shown(&reject.reason),
        text: shown(&reject.shown()),
    }
}
