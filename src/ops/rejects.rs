//! What was rejected, and why: the rejects of slices and of attempts that failed.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use jiff::civil::Date;
use object_store::path::Path;
use serde::Serialize;

use super::Error;
use super::days::Selection;
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
/// Files read at the same time: in a bucket each is fetched first.
const CONCURRENT_READS: usize = 8;
/// Most reasons told apart: this program knows far fewer, and a foreign file must not fill the memory.
const MAX_GROUPS: usize = 200;
/// Longest name of a reason, likewise.
const MAX_CODE_CHARS: usize = 64;
/// Stands for reasons beyond these.
const OTHER_REASONS: &str = "(other)";

/// Everything that was rejected for one reason.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Group {
    /// Whether the records are those of attempts that failed. The others are missing from slices
    /// that the lake holds.
    pub of_failed_attempts: bool,
    /// A short name of the reason.
    pub code: String,
    /// How many records.
    pub records: u64,
    /// How many slices they are of.
    pub slices: usize,
    /// Day of the first.
    pub first_day: Date,
    /// Day of the last.
    pub last_day: Date,
    /// The first of them.
    pub example: Example,
}

/// A record that was rejected.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Example {
    /// Of which slice.
    pub slice: Slice,
    /// The file it lies in, below the lake.
    pub file: String,
    /// The file of an export that it was loaded from; line and byte are its.
    pub export_file: Option<String>,
    /// Which page of a stream it came with; line and byte are its.
    pub page: u64,
    /// Line and byte.
    #[serde(flatten)]
    pub at: Position,
    /// All of these, in words.
    #[serde(skip)]
    pub place: String,
    /// Why it was rejected.
    pub reason: String,
    /// The record, on one line, as far as it is not longer than a screen.
    pub text: String,
}

/// What the rejects files of a lake hold.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Rejects {
    /// By reason: first what the lake's slices lack, the most first.
    pub groups: Vec<Group>,
    /// Files that cannot be read, and why.
    pub unreadable: Vec<String>,
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
        selection: &Selection,
        show_numbers: bool,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let days = selection.days_of_all(window, now)?;
        let directions = selection.directions(&Direction::ALL);
        let mut files: Vec<(Slice, bool, Path)> = lake
            .rejects()
            .await?
            .into_keys()
            .filter_map(|path| {
                let (slice, of_failure) = layout::rejects_slice(&path)?;
                Some((slice, of_failure, path))
            })
            .filter(|(slice, ..)| {
                days.contains(&slice.day) && directions.contains(&slice.direction)
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
            rejects.unreadable.push(format!(
                "{}: it is gone, with {}. `cdrlake run` fetches them again",
                layout::rejects_file(slice),
                counted(rejected, "record", "records")
            ));
        }
        rejects.unreadable.sort();
        Ok(rejects)
    }
}

/// What one file holds: how many records for each reason, and the first of them.
type OfFile = BTreeMap<String, (u64, Example)>;

/// Reads one file; `None` if it is gone. What cannot be read of it is told beside the rest.
async fn read_file(
    lake: &Lake,
    slice: Slice,
    path: &Path,
    show_numbers: bool,
) -> Result<Option<(OfFile, std::io::Result<()>)>, Error> {
    // Gone since it was listed: another run has replaced it by nothing.
    let Some(copy) = lake.local_copy(path).await? else {
        return Ok(None);
    };
    let name = path.to_string();
    let read = tokio::task::spawn_blocking(move || {
        let mut of_file = OfFile::new();
        let read = read_rejects(&copy.path, |reject| {
            // Ours are short.
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

/// Reads the files, some at a time, and groups what they hold, in their order.
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
                    first_day: slice.day,
                    last_day: slice.day,
                    example,
                });
            group.records += records;
            group.slices += 1;
            group.last_day = slice.day;
        }
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|group| (group.of_failed_attempts, std::cmp::Reverse(group.records)));
    Ok(Rejects { groups, unreadable })
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
