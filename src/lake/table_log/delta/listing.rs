//! Which versions a log has.
//!
//! See <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#delta-log-entries>.

use std::collections::BTreeSet;

use object_store::path::Path;

use crate::store::layout::DELTA_LOG;

/// The objects of a log.
#[derive(Debug, Default)]
pub(super) struct Listing {
    commits: BTreeSet<u64>,
    checkpoints: BTreeSet<u64>,
    /// All objects, in the order in which they may be deleted: by their version, checkpoints before
    /// commits.
    pub objects: BTreeSet<Path>,
}

/// Where the files of a readable version stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Its commit changes the version before, which is readable, too.
    Commit,
    /// Its checkpoint.
    Checkpoint,
}

impl Listing {
    /// Classifies the objects of a log.
    ///
    /// # Errors
    /// An object that is a checkpoint of an unsupported form.
    pub(super) fn try_new(objects: impl Iterator<Item = Path>) -> Result<Self, Path> {
        let mut listing = Self::default();
        for path in objects {
            if path.parts().count() == 2
                && let Some((version, kind)) = version_of(&path)
            {
                if kind == "json" {
                    listing.commits.insert(version);
                } else if kind == "checkpoint.parquet" {
                    listing.checkpoints.insert(version);
                } else if kind.starts_with("checkpoint.") {
                    return Err(path);
                }
            }
            listing.objects.insert(path);
        }
        Ok(listing)
    }

    /// The newest version; `None` if there is no log.
    pub(super) fn newest(&self) -> Option<u64> {
        self.commits.last().max(self.checkpoints.last()).copied()
    }

    /// Whether a checkpoint of the version exists.
    pub(super) fn has_checkpoint(&self, version: u64) -> bool {
        self.checkpoints.contains(&version)
    }

    /// Whether any checkpoint exists.
    pub(super) fn has_checkpoints(&self) -> bool {
        !self.checkpoints.is_empty()
    }

    /// The newest checkpoint up to a version.
    pub(super) fn checkpoint_for(&self, version: u64) -> Option<u64> {
        self.checkpoints.range(..=version).next_back().copied()
    }

    /// Whether a commit of the version exists.
    pub(super) fn has_commit(&self, version: u64) -> bool {
        self.commits.contains(&version)
    }

    /// The readable versions, in order. A version is readable by its checkpoint, or by its commit
    /// if the version before is readable.
    pub(super) fn readable(&self) -> impl Iterator<Item = (u64, Source)> {
        let mut versions = self.commits.union(&self.checkpoints);
        let mut next = Some(0);
        std::iter::from_fn(move || {
            loop {
                let version = *versions.next()?;
                let continues = next == Some(version) && self.has_commit(version);
                let source = if continues {
                    Source::Commit
                } else if self.has_checkpoint(version) {
                    Source::Checkpoint
                } else {
                    next = None;
                    continue;
                };
                next = version.checked_add(1);
                return Some((version, source));
            }
        })
    }
}

/// The version of an object of the log, and the rest of its name.
pub(super) fn version_of(path: &Path) -> Option<(u64, &str)> {
    let (version, kind) = path.filename()?.split_once('.')?;
    let is_version = version.len() == 20 && version.bytes().all(|byte| byte.is_ascii_digit());
    // Other programs count versions in 63 bits.
    let version = version.parse::<i64>().ok().filter(|_| is_version)?;
    Some((version.try_into().ok()?, kind))
}

/// A commit.
pub(super) fn commit_path(version: u64) -> Path {
    Path::from(format!("{DELTA_LOG}/{version:020}.json"))
}

/// A checkpoint.
pub(super) fn checkpoint_path(version: u64) -> Path {
    Path::from(format!("{DELTA_LOG}/{version:020}.checkpoint.parquet"))
}

/// The object that contains the version of a recent checkpoint, with which readers begin.
///
/// See <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#last-checkpoint-file>.
pub(super) fn hint_path() -> Path {
    Path::from(format!("{DELTA_LOG}/_last_checkpoint"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_readable_by_its_checkpoint_or_after_a_readable_one() {
        let commits = [0, 1, 3, 7, 8].map(commit_path);
        let checkpoints = [5, 6, 7].map(checkpoint_path);
        let others = [
            "_delta_log/00000000000000000009.crc",
            "_delta_log/00000000000000000000.00000000000000000003.compacted.json",
            "_delta_log/_staged_commits/00000000000000000009.json",
            "_delta_log/9.json",
            "_delta_log/18446744073709551615.json",
        ];
        let others = others.map(Path::from);
        let listing = Listing::try_new(commits.into_iter().chain(checkpoints).chain(others));
        let listing = listing.unwrap();
        let found: Vec<_> = listing.readable().collect();
        let commit = |version| (version, Source::Commit);
        let checkpoint = |version| (version, Source::Checkpoint);
        let expected = [
            commit(0),
            commit(1),
            checkpoint(5),
            checkpoint(6),
            commit(7),
            commit(8),
        ];
        assert_eq!(found, expected);
        assert_eq!(listing.newest(), Some(8));
        let parts = "_delta_log/00000000000000000010.checkpoint.0000000001.0000000002.parquet";
        let parts = Path::from(parts);
        assert_eq!(
            Listing::try_new([parts.clone()].into_iter()).unwrap_err(),
            parts
        );
    }
}
