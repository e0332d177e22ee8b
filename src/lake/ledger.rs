//! The ledger: one small JSON object for each slice, saying what was published.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::file::PublishedFile;
use super::identity::FORMAT;
use super::table::TableForm;
use crate::TOOL;
use crate::cdr::columns::SCHEMA_VERSION;
use crate::cdr::digest::Digest;
use crate::cdr::reconcile::{Verdict, verdict};
use crate::cdr::slice::Slice;
use crate::cdr::tally::{Counts, Totals};
use crate::slice_file::writer::SLICE_KEY;

/// Whether a slice may still change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Fetched at least `window.settle_hours` after its day ended.
    Closed,
    /// Fetched earlier: it is due again.
    Open,
    /// Removed for its age: the lake holds nothing of it any more, and no run fetches it again.
    /// Counts and totals are those of what it held.
    Pruned,
}

/// A ledger entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Version of the lake's own files.
    pub format: u32,
    /// The slice it speaks of.
    pub slice: Slice,
    /// What is in the table, once something was committed.
    pub committed: Option<Commit>,
    /// What is being published. Still there when a run died between publishing and committing.
    pub pending: Option<Pending>,
    /// The last attempt at the slice, if it failed: the slice is due until one succeeds.
    #[serde(default)]
    pub failed: Option<Failure>,
}

impl Entry {
    /// The entry of a slice that was never committed.
    pub fn new(slice: Slice) -> Self {
        Self {
            format: FORMAT,
            slice,
            committed: None,
            pending: None,
            failed: None,
        }
    }

    /// The slice's current file, if it has one.
    pub fn file(&self) -> Option<&PublishedFile> {
        self.committed.as_ref()?.file.as_ref()
    }

    /// What in the entry of a table of this `form` contradicts itself: somebody edited it, or it is
    /// not ours.
    pub(crate) fn contradiction(&self, form: TableForm) -> Option<String> {
        // A path as the store writes it, and no other spelling of it.
        let elsewhere = |file: &PublishedFile| {
            let path = file.location();
            form.slice_of(&path) != Some(self.slice) || path.as_ref() != file.path
        };
        if self
            .pending
            .as_ref()
            .and_then(|pending| pending.file.as_ref())
            .is_some_and(elsewhere)
        {
            return Some("its pending file is not of its slice".to_owned());
        }
        let commit = self.committed.as_ref()?;
        let rows = commit.counts.rows;
        let file_rows = commit.file.as_ref().map_or(0, |file| file.rows);
        if commit.state == State::Pruned {
            let is_empty = commit.file.is_none() && commit.rejects.is_none();
            return (!is_empty).then(|| "it was pruned, and says that it has files".to_owned());
        }
        if commit.file.as_ref().is_some_and(elsewhere) {
            Some("its file is not of its slice".to_owned())
        } else if !commit.counts.add_up() {
            Some("its counts do not add up".to_owned())
        } else if commit.digest.rows != rows || file_rows != rows {
            Some(format!(
                "it counts {rows} rows, its digest {}, its file {file_rows}",
                commit.digest.rows
            ))
        } else if commit.counts.rejected != commit.rejects.as_ref().map_or(0, |file| file.rows) {
            Some(format!(
                "it counts {} rejects, and says otherwise of their file",
                commit.counts.rejected
            ))
        } else if commit.reconcile.has_equal_count()
            && verdict(&commit.counts, commit.control_total) != commit.reconcile
        {
            Some("its count is not the provider's, although it says so".to_owned())
        } else {
            None
        }
    }
}

/// An attempt that led to nothing. The table holds what it held before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which run tried, the first time that the problem was this one.
    pub run: String,
    /// When, by this machine's clock.
    pub at: Timestamp,
    /// Why it failed.
    pub problem: String,
    /// The kind of that, where there is something to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// Why a slice failed, for whoever advises what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// More records were rejected than is tolerated.
    TooManyRejects,
    /// The provider's count is another, or unavailable.
    Mismatch,
    /// The provider counts more than came, and its list, which was not asked, may have the rest.
    ShortAnswer,
    /// The provider's count is another than the export's.
    OtherExport,
    /// The provider's count is unavailable, so that it proves nothing of an export.
    UnprovenExport,
    /// The provider has fewer rows than the lake.
    Shrank,
    /// An export has fewer rows than the lake.
    ShorterExport,
}

/// A publication under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Which run publishes.
    pub run: String,
    /// Distinguishes this very attempt.
    pub token: String,
    /// The file, or `None` if the slice has no rows and its file is being removed.
    pub file: Option<PublishedFile>,
    /// Digest of the rows.
    pub digest: Digest,
    /// What is said once it is done, but for the marks of its files: if the table turns out to hold
    /// that file, nobody has to fetch the slice again to know what is in it.
    #[serde(default)]
    pub planned: Option<Box<Commit>>,
}

/// What was asked of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The address without its query, which never held the key.
    pub url: String,
    /// Query parameters in their order; of a load its files, and the zone of times without an
    /// offset.
    pub query: Vec<(String, String)>,
}

/// The parameter that names the time zone which a load assumed.
pub(crate) const ASSUMED_TIMEZONE: &str = "assume_timezone";

impl Asked {
    /// The time zone in which a load read times without an offset.
    pub(crate) fn assumed_timezone(&self) -> Option<&str> {
        let mut query = self.query.iter();
        let (_, zone) = query.find(|(name, _)| name == ASSUMED_TIMEZONE)?;
        Some(zone)
    }
}

/// A publication that is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// Which run did it.
    pub run: String,
    /// Distinguishes this very attempt.
    pub token: String,
    /// Version of this program.
    pub tool_version: String,
    /// Version of the columns.
    pub schema_version: u32,
    /// Which key the pseudonyms in it were made with, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy_key_id: Option<String>,
    /// What was asked of the source.
    pub asked: Asked,
    /// When the slice's request was sent, by this machine's clock.
    pub fetched_at: Timestamp,
    /// Whether the slice may still change.
    pub state: State,
    /// The slice's file; `None` if it has no rows.
    pub file: Option<PublishedFile>,
    /// Digest of the rows.
    pub digest: Digest,
    /// What was read, and what became of it.
    pub counts: Counts,
    /// Sums over the rows.
    pub totals: Totals,
    /// The slice's rejects file; `None` if nothing was rejected.
    #[serde(default)]
    pub rejects: Option<PublishedFile>,
    /// The provider's own count.
    pub control_total: Option<u64>,
    /// How that count compares.
    pub reconcile: Verdict,
    /// `ETag` and `Last-Modified` of the response, for the record.
    #[serde(default)]
    pub response_etag: Option<String>,
    /// See [`response_etag`](Self::response_etag).
    #[serde(default)]
    pub response_last_modified: Option<String>,
}

/// A token that no other attempt has.
pub(crate) fn new_token() -> String {
    format!("{:032x}", fastrand::u128(..))
}

impl Commit {
    /// A commit of a slice of which nothing is known.
    fn of_nothing() -> Self {
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
            rejects: None,
            control_total: None,
            reconcile: Verdict::Off,
            response_etag: None,
            response_last_modified: None,
        }
    }

    /// What is said of a slice that `run` removes for its age, and of which `old` was said.
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

    /// What the slice's file says of itself, in its footer.
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

    /// Whether the two say the same of the slice, whichever run said it and when.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
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
            && checksum(self) == checksum(other)
            && self.control_total == other.control_total
            && self.reconcile == other.reconcile
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A commit that says nothing but its file and its state.
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
        let slice = Slice {
            day: crate::cdr::slice::parse_day("2026-10-01").unwrap(),
            direction: crate::cdr::slice::Direction::Placed,
        };
        let file = PublishedFile {
            path: "cdrs/x.parquet".to_owned(),
            rows: 1,
            bytes: 2,
            checksum: String::new(),
            etag: None,
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
    fn an_entry_that_was_edited_contradicts_itself() {
        let slice = Slice {
            day: crate::cdr::slice::parse_day("2026-10-01").unwrap(),
            direction: crate::cdr::slice::Direction::Placed,
        };
        let good = || {
            let file = PublishedFile {
                path: TableForm::Plain.new_path(slice).to_string(),
                rows: 3,
                bytes: 2,
                checksum: String::new(),
                etag: None,
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
        // What it says of the provider's count has to hold.
        let counted = |total| {
            move |commit: &mut Commit| {
                commit.control_total = Some(total);
                commit.reconcile = Verdict::Match;
            }
        };
        assert_eq!(contradiction(&counted(3)), None);
        assert!(contradiction(&counted(4)).is_some());
        // Of one that was pruned nothing is there.
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
                });
            },
        ];
        for edit in left {
            let problem = contradiction(&edit).unwrap();
            assert!(problem.starts_with("it was pruned"), "{problem}");
        }
    }

    #[test]
    fn two_commits_say_the_same_whoever_said_it_and_when() {
        let good = || {
            let mut commit = commit(None, State::Closed);
            commit.rejects = Some(PublishedFile {
                path: String::new(),
                rows: 1,
                bytes: 1,
                checksum: "a".to_owned(),
                etag: None,
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
        let different: [fn(&mut Commit); 9] = [
            |commit| commit.schema_version += 1,
            |commit| commit.state = State::Open,
            |commit| {
                commit.file = Some(PublishedFile {
                    path: String::new(),
                    rows: 0,
                    bytes: 0,
                    checksum: String::new(),
                    etag: None,
                });
            },
            |commit| commit.digest.rows = 1,
            |commit| commit.counts.records = 1,
            |commit| commit.totals.duration_seconds = 1,
            |commit| commit.rejects.as_mut().unwrap().checksum = "b".to_owned(),
            |commit| commit.control_total = Some(1),
            |commit| commit.reconcile = Verdict::Match,
        ];
        let edits = same.map(|edit| (edit, true)).into_iter();
        for (at, (edit, expected)) in edits.chain(different.map(|edit| (edit, false))).enumerate() {
            let mut other = good();
            edit(&mut other);
            assert_eq!(good().says_the_same_as(&other), expected, "edit {at}");
        }
    }

    #[test]
    fn a_file_says_which_commit_it_is_of() {
        let slice = Slice {
            day: crate::cdr::slice::parse_day("2026-10-01").unwrap(),
            direction: crate::cdr::slice::Direction::Placed,
        };
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
    fn a_pruned_slice_is_said_so_by_another_run_with_another_token() {
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
    fn a_load_says_which_zone_it_assumed() {
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
