//! The ledger: one small JSON object for each slice, which describes what was published.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::file::PublishedFile;
use super::identity::FORMAT;
use super::table::TableForm;
use crate::TOOL;
use crate::cdr::columns::SCHEMA_VERSION;
use crate::cdr::digest::Digest;
use crate::cdr::reconcile::{Verdict, verdict};
use crate::cdr::slice::Slice;
use crate::cdr::tally::{Counts, DayTotals, Totals};
use crate::slice_file::writer::SLICE_KEY;

/// Whether a slice may still change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Fetched at least `window.settle_hours` after its day ended.
    Closed,
    /// Fetched earlier: it is due again.
    Open,
    /// Removed for its age: the lake has no files of it, and no run fetches it again. Counts and
    /// totals describe the removed rows.
    Pruned,
}

/// A ledger entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Format version of the lake's metadata files.
    pub format: u32,
    /// Its slice.
    pub slice: Slice,
    /// The last commit; `None` before the first.
    pub committed: Option<Commit>,
    /// A publication in progress. Also present if a run died during it.
    pub pending: Option<Pending>,
    /// The last attempt, if it failed: the slice is due until an attempt succeeds.
    #[serde(default)]
    pub failed: Option<Failure>,
    /// Files that older snapshots need. Only in a lake with logs of table formats.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superseded: Vec<Superseded>,
}

/// A file that was replaced, and is removed once no snapshot needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Superseded {
    /// Where it lies in the lake.
    pub path: String,
    /// When the ledger stopped naming it as the slice's file.
    pub since: Timestamp,
}

impl Entry {
    /// The entry of a slice without commits.
    pub fn new(slice: Slice) -> Self {
        Self {
            format: FORMAT,
            slice,
            committed: None,
            pending: None,
            failed: None,
            superseded: Vec::new(),
        }
    }

    /// The slice's current file, if it has one.
    pub fn file(&self) -> Option<&PublishedFile> {
        self.committed.as_ref()?.file.as_ref()
    }

    /// Whether it names the file at `path`: as the current one, an announced one, or a superseded
    /// one.
    pub(crate) fn names(&self, path: &Path) -> bool {
        let announced = self.pending.iter().filter_map(|it| it.file.as_ref());
        let mut current = self.file().into_iter().chain(announced);
        current.any(|file| file.path == path.as_ref()) || self.supersedes(path)
    }

    /// Whether it names the file at `path` as a superseded one.
    pub(crate) fn supersedes(&self, path: &Path) -> bool {
        let mut superseded = self.superseded.iter();
        superseded.any(|file| file.path == path.as_ref())
    }

    /// Notes that `file` was replaced, unless the entry names it.
    pub(super) fn supersede(&mut self, file: Option<&PublishedFile>) {
        if let Some(file) = file {
            self.supersede_path(&file.path);
        }
    }

    /// The same for the file at `path`.
    pub(super) fn supersede_path(&mut self, path: &str) {
        if !self.names(&Path::from(path)) {
            self.superseded.push(Superseded {
                path: path.to_owned(),
                since: Timestamp::now(),
            });
        }
    }

    /// The first inconsistency of the entry, if the table has this `form`: it was edited, or
    /// another program wrote it.
    pub(crate) fn contradiction(&self, form: TableForm) -> Option<String> {
        // Only in the spelling of the store.
        let elsewhere = |file: &PublishedFile| {
            let path = file.location();
            form.slice_of(&path) != Some(self.slice) || path.as_ref() != file.path
        };
        let announced = self.pending.iter().flat_map(|pending| {
            let planned = pending.planned.iter();
            pending
                .file
                .iter()
                .chain(planned.filter_map(|commit| commit.file.as_ref()))
        });
        if announced.into_iter().any(elsewhere) {
            return Some("its pending file belongs to another slice".to_owned());
        }
        let is_elsewhere = |it: &Superseded| {
            let path = Path::from(&*it.path);
            form.slice_of(&path) != Some(self.slice) || path.as_ref() != it.path
        };
        if self.superseded.iter().any(is_elsewhere) {
            return Some("a file that it replaced belongs to another slice".to_owned());
        }
        let commit = self.committed.as_ref()?;
        let rows = commit.counts.rows;
        let file_rows = commit.file.as_ref().map_or(0, |file| file.rows);
        if commit.state == State::Pruned {
            let is_empty = commit.file.is_none() && commit.rejects.is_none();
            return (!is_empty).then(|| "its state is pruned, but it names files".to_owned());
        }
        if commit.file.as_ref().is_some_and(elsewhere) {
            Some("its file belongs to another slice".to_owned())
        } else if !commit.counts.add_up() {
            Some("its counts do not add up".to_owned())
        } else if commit.digest.rows != rows || file_rows != rows {
            Some(format!(
                "it counts {rows} rows, but its digest {} and its file {file_rows}",
                commit.digest.rows
            ))
        } else if commit.counts.rejected != commit.rejects.as_ref().map_or(0, |file| file.rows) {
            Some(format!(
                "it counts {} rejects, but their file has another number",
                commit.counts.rejected
            ))
        } else if commit.reconcile.has_equal_count()
            && verdict(&commit.counts, commit.control_total) != commit.reconcile
        {
            Some("its verdict is a match, but its count differs from the provider's".to_owned())
        } else {
            None
        }
    }
}

/// A failed attempt. The table is as it was before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The run that first met this problem.
    pub run: String,
    /// When, by that run's clock.
    pub at: Timestamp,
    /// Why it failed.
    pub problem: String,
    /// The kind of failure, where there is a specific remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// The kind of a slice's failure, which determines the advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// More records were rejected than the configuration tolerates.
    TooManyRejects,
    /// The provider's count differs, or is unavailable.
    Mismatch,
    /// The provider counts more records than the export contained. Its paginated list was not
    /// requested and may have the rest.
    ShortAnswer,
    /// The provider's count differs from the export's.
    OtherExport,
    /// The provider's count is unavailable, so an export cannot be checked.
    UnprovenExport,
    /// The provider has fewer rows than the lake.
    Shrank,
    /// An export has fewer rows than the lake.
    ShorterExport,
}

/// A publication in progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// The run that publishes.
    pub run: String,
    /// Identifies the attempt.
    pub token: String,
    /// The new file; `None` if the slice has no rows, so that its file is being removed.
    pub file: Option<PublishedFile>,
    /// Digest of the rows.
    pub digest: Digest,
    /// The commit to be written, without the `ETag`s of its files. If the table turns out to
    /// contain the new file, this describes it without fetching the slice again.
    #[serde(default)]
    pub planned: Option<Box<Commit>>,
}

/// The request to the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The URL without its query. It never contains the key.
    pub url: String,
    /// Query parameters in their order. For a load: its files, and the time zone of times without
    /// an offset.
    pub query: Vec<(String, String)>,
}

/// The parameter for the time zone that a load assumed.
pub(crate) const ASSUMED_TIMEZONE: &str = "assume_timezone";

impl Asked {
    /// The time zone in which a load read times without an offset.
    pub(crate) fn assumed_timezone(&self) -> Option<&str> {
        let mut query = self.query.iter();
        let (_, zone) = query.find(|(name, _)| name == ASSUMED_TIMEZONE)?;
        Some(zone)
    }
}

/// A finished publication.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The run that published.
    pub run: String,
    /// Distinguishes this very attempt.
    pub token: String,
    /// Version of cdrlake.
    pub tool_version: String,
    /// Version of the columns.
    pub schema_version: u32,
    /// ID of the key for its pseudonyms, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy_key_id: Option<String>,
    /// What was asked of the source.
    pub asked: Asked,
    /// When the request was sent, by that run's clock.
    pub fetched_at: Timestamp,
    /// Whether the slice may still change.
    pub state: State,
    /// The slice's file; `None` if it has no rows.
    pub file: Option<PublishedFile>,
    /// Digest of the rows.
    pub digest: Digest,
    /// Records read, and their outcomes.
    pub counts: Counts,
    /// Sums over the rows.
    pub totals: Totals,
    /// Sums over the rows of each day, if the slice has several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub days: BTreeMap<Date, DayTotals>,
    /// The first day that was asked for, if it is not the first of the period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Date>,
    /// The last day that was asked for, if the period had not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<Date>,
    /// The slice's rejects file; `None` if nothing was rejected.
    #[serde(default)]
    pub rejects: Option<PublishedFile>,
    /// The provider's own count.
    pub control_total: Option<u64>,
    /// The comparison with that count.
    pub reconcile: Verdict,
    /// `ETag` and `Last-Modified` of the response, for information.
    #[serde(default)]
    pub response_etag: Option<String>,
    /// See [`response_etag`](Self::response_etag).
    #[serde(default)]
    pub response_last_modified: Option<String>,
}

/// A unique token.
pub(crate) fn new_token() -> String {
    format!("{:032x}", fastrand::u128(..))
}

impl Commit {
    /// A commit of an unknown slice.
    pub(crate) fn of_nothing() -> Self {
        Self {
            run: String::new(),
            token: String::new(),
            tool_version: TOOL.to_owned(),
            schema_version: SCHEMA_VERSION,
            privacy_key_id: None,
            asked: Asked {
                url: String::new(),
                query: Vec::new(),
            },
            fetched_at: Timestamp::now(),
            state: State::Open,
            file: None,
            digest: Digest::default(),
            counts: Counts::default(),
            totals: Totals::default(),
            days: BTreeMap::new(),
            from: None,
            through: None,
            rejects: None,
            control_total: None,
            reconcile: Verdict::Off,
            response_etag: None,
            response_last_modified: None,
        }
    }

    /// The commit of a slice that `run` removes for its age, and that had the commit `old`.
    pub fn pruned(old: Option<Self>, run: &str) -> Self {
        Self {
            run: run.to_owned(),
            token: new_token(),
            state: State::Pruned,
            file: None,
            rejects: None,
            ..old.unwrap_or_else(Self::of_nothing)
        }
    }

    /// The metadata in the footer of the slice's file.
    pub fn file_metadata(&self, slice: Slice) -> Vec<(&'static str, String)> {
        let mut metadata = vec![
            (SLICE_KEY, slice.to_string()),
            ("cdrlake.run", self.run.clone()),
            ("cdrlake.token", self.token.clone()),
            ("cdrlake.version", self.tool_version.clone()),
            ("cdrlake.schema_version", self.schema_version.to_string()),
            ("cdrlake.digest", self.digest.to_string()),
            ("cdrlake.reconcile", self.reconcile.to_string()),
        ];
        let key_id = self.privacy_key_id.clone();
        metadata.extend(key_id.map(|id| ("cdrlake.privacy_key_id", id)));
        let total = self.control_total.map(|total| total.to_string());
        metadata.extend(total.map(|total| ("cdrlake.control_total", total)));
        metadata
    }

    /// Whether both describe the same content, regardless of their run and time.
    pub fn has_equal_content(&self, other: &Self) -> bool {
        let checksum = |commit: &Self| {
            let rejects = commit.rejects.as_ref();
            rejects.map(|rejects| rejects.checksum.clone())
        };
        self.schema_version == other.schema_version
            && self.state == other.state
            && self.file == other.file
            && self.digest == other.digest
            && self.counts == other.counts
            && self.totals == other.totals
            && self.days == other.days
            && self.from == other.from
            && self.through == other.through
            && checksum(self) == checksum(other)
            && self.control_total == other.control_total
            && self.reconcile == other.reconcile
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::slice_file::statistics::FileStatistics;

    /// A commit with this file and state.
    pub(crate) fn commit(file: Option<PublishedFile>, state: State) -> Commit {
        Commit {
            run: "run".to_owned(),
            token: "token".to_owned(),
            fetched_at: Timestamp::UNIX_EPOCH,
            state,
            file,
            ..Commit::of_nothing()
        }
    }

    #[test]
    fn an_entry_reads_back_as_it_was_written() {
        let slice = Slice::of_day(
            crate::cdr::slice::parse_day("2026-10-01").unwrap(),
            crate::cdr::slice::Direction::Placed,
        );
        let file = PublishedFile {
            path: "cdrs/x.parquet".to_owned(),
            rows: 1,
            bytes: 2,
            checksum: String::new(),
            etag: None,
            statistics: FileStatistics::default(),
        };
        let pending = Pending {
            run: "r".to_owned(),
            token: "t".to_owned(),
            file: None,
            digest: Digest::default(),
            planned: None,
        };
        let entry = Entry {
            committed: Some(commit(Some(file), State::Open)),
            pending: Some(pending),
            failed: Some(Failure {
                run: "r".to_owned(),
                at: Timestamp::UNIX_EPOCH,
                problem: "p".to_owned(),
                reason: None,
            }),
            ..Entry::new(slice)
        };
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
    }

    #[test]
    fn an_edited_entry_is_inconsistent() {
        let slice = Slice::of_day(
            crate::cdr::slice::parse_day("2026-10-01").unwrap(),
            crate::cdr::slice::Direction::Placed,
        );
        let good = || {
            let file = PublishedFile {
                path: TableForm::Plain.new_path(slice).to_string(),
                rows: 3,
                bytes: 2,
                checksum: String::new(),
                etag: None,
                statistics: FileStatistics::default(),
            };
            let mut commit = commit(Some(file), State::Closed);
            commit.counts.rows = 3;
            commit.counts.records = 3;
            commit.digest.rows = 3;
            commit
        };
        let contradiction = |edit: &dyn Fn(&mut Commit)| {
            let mut commit = good();
            edit(&mut commit);
            let entry = Entry {
                committed: Some(commit),
                ..Entry::new(slice)
            };
            entry.contradiction(TableForm::Plain)
        };
        assert_eq!(contradiction(&|_| {}), None);
        let edits: [fn(&mut Commit); 6] = [
            |commit| {
                commit.counts.rejected = 1;
                commit.counts.records = 4;
            },
            |commit| commit.counts.records = 4,
            |commit| commit.digest.rows = 4,
            |commit| commit.file = None,
            |commit| commit.file.as_mut().unwrap().rows = 2,
            |commit| commit.file.as_mut().unwrap().path = "../../etc/passwd".to_owned(),
        ];
        for edit in edits {
            assert!(contradiction(&edit).is_some());
        }
        // The verdict must match the counts.
        let counted = |total| {
            move |commit: &mut Commit| {
                commit.control_total = Some(total);
                commit.reconcile = Verdict::Match;
            }
        };
        assert_eq!(contradiction(&counted(3)), None);
        assert!(contradiction(&counted(4)).is_some());
        // A pruned slice has no files.
        let pruned = contradiction(&|commit| *commit = Commit::pruned(Some(commit.clone()), "run"));
        assert_eq!(pruned, None);
        let left: [fn(&mut Commit); 2] = [
            |commit| commit.state = State::Pruned,
            |commit| {
                *commit = Commit::pruned(Some(commit.clone()), "run");
                commit.rejects = Some(PublishedFile {
                    path: String::new(),
                    rows: 1,
                    bytes: 1,
                    checksum: String::new(),
                    etag: None,
                    statistics: FileStatistics::default(),
                });
            },
        ];
        for edit in left {
            let problem = contradiction(&edit).unwrap();
            assert!(problem.starts_with("its state is pruned"), "{problem}");
        }
        // The announced file, and that of the commit that is planned with it.
        let foreign = PublishedFile {
            path: "cdrs/dt=2026-10-02/placed-2026-10-02.parquet".to_owned(),
            rows: 3,
            bytes: 2,
            checksum: String::new(),
            etag: None,
            statistics: FileStatistics::default(),
        };
        let planned = Commit {
            file: Some(foreign.clone()),
            ..good()
        };
        for (file, planned) in [(Some(foreign), None), (None, Some(Box::new(planned)))] {
            let pending = Pending {
                run: "run".to_owned(),
                token: "token".to_owned(),
                file,
                digest: Digest::default(),
                planned,
            };
            let entry = Entry {
                pending: Some(pending),
                ..Entry::new(slice)
            };
            let problem = entry.contradiction(TableForm::Plain).unwrap();
            assert_eq!(problem, "its pending file belongs to another slice");
        }
    }

    #[test]
    fn commits_are_compared_without_their_run_and_time() {
        let good = || {
            let mut commit = commit(None, State::Closed);
            commit.rejects = Some(PublishedFile {
                path: String::new(),
                rows: 1,
                bytes: 1,
                checksum: "a".to_owned(),
                etag: None,
                statistics: FileStatistics::default(),
            });
            commit
        };
        let same: [fn(&mut Commit); 5] = [
            |_| {},
            |commit| commit.run = "another".to_owned(),
            |commit| commit.token = new_token(),
            |commit| commit.fetched_at = Timestamp::now(),
            |commit| commit.rejects.as_mut().unwrap().etag = Some("b".to_owned()),
        ];
        let different: [fn(&mut Commit); 12] = [
            |commit| commit.schema_version += 1,
            |commit| commit.state = State::Open,
            |commit| {
                commit.file = Some(PublishedFile {
                    path: String::new(),
                    rows: 0,
                    bytes: 0,
                    checksum: String::new(),
                    etag: None,
                    statistics: FileStatistics::default(),
                });
            },
            |commit| commit.digest.rows = 1,
            |commit| commit.counts.records = 1,
            |commit| commit.totals.duration_seconds = 1,
            |commit| drop(commit.days.insert(Date::MIN, DayTotals::default())),
            |commit| commit.from = Some(Date::MIN),
            |commit| commit.through = Some(Date::MIN),
            |commit| commit.rejects.as_mut().unwrap().checksum = "b".to_owned(),
            |commit| commit.control_total = Some(1),
            |commit| commit.reconcile = Verdict::Match,
        ];
        let edits = same.map(|edit| (edit, true)).into_iter();
        for (at, (edit, expected)) in edits.chain(different.map(|edit| (edit, false))).enumerate() {
            let mut other = good();
            edit(&mut other);
            assert_eq!(good().has_equal_content(&other), expected, "edit {at}");
        }
    }

    #[test]
    fn a_file_s_metadata_identifies_its_commit() {
        let slice = Slice::of_day(
            crate::cdr::slice::parse_day("2026-10-01").unwrap(),
            crate::cdr::slice::Direction::Placed,
        );
        let mut commit = commit(None, State::Closed);
        let metadata = commit.file_metadata(slice);
        assert_eq!(metadata.len(), 7);
        assert_eq!(metadata[0], (SLICE_KEY, "placed 2026-10-01".to_owned()));
        assert_eq!(metadata[1], ("cdrlake.run", "run".to_owned()));
        commit.privacy_key_id = Some("key".to_owned());
        commit.control_total = Some(7);
        let metadata = commit.file_metadata(slice);
        assert_eq!(metadata[7], ("cdrlake.privacy_key_id", "key".to_owned()));
        assert_eq!(metadata[8], ("cdrlake.control_total", "7".to_owned()));
    }

    #[test]
    fn a_pruned_commit_has_a_new_run_and_token() {
        let old = commit(None, State::Closed);
        let pruned = Commit::pruned(Some(old.clone()), "pruner");
        assert_eq!((&*pruned.run, pruned.state), ("pruner", State::Pruned));
        let again = Commit::pruned(Some(old.clone()), "pruner");
        for (one, other) in [(&pruned, &old), (&pruned, &again)] {
            assert_ne!(one.token, other.token);
        }
        assert_eq!(pruned.token.len(), 32);
    }

    #[test]
    fn a_load_s_request_contains_the_assumed_time_zone() {
        let asked = |name: &str| Asked {
            url: String::new(),
            query: vec![
                ("file".to_owned(), "x".to_owned()),
                (name.to_owned(), "Europe/Paris".to_owned()),
            ],
        };
        let zone = asked(ASSUMED_TIMEZONE);
        assert_eq!(zone.assumed_timezone(), Some("Europe/Paris"));
        assert_eq!(asked("other").assumed_timezone(), None);
    }
}
