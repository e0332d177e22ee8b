//! A log of Apache Iceberg, version 2 of the format. <https://iceberg.apache.org/spec/>
//!
//! ```text
//! _iceberg/metadata/vN.metadata.json          version N of the table: its snapshots
//! _iceberg/metadata/version-hint.text         a recent N, for readers that cannot list
//! _iceberg/metadata/snap-vN-….avro            the manifest list of a snapshot
//! _iceberg/metadata/vN-….avro                 a manifest: files with their statistics
//! ```
//!
//! A snapshot writes one manifest list, and at most one manifest. Names of both begin with the
//! version that they were written for. Once that version exists, they are garbage if it does not
//! need them: they belong to a commit that failed. So garbage is recognized without a clock.
//!
//! A commit's manifest takes over the entries of every manifest with at most twice as many live
//! files, so that each of the others has more than twice as many as the next. A table of 7,300
//! files has at most 13 manifests. Growth alone writes an entry again at most 22 times, because its
//! manifest grows by half each time. A file has some 60 bytes in a compressed manifest, so that a
//! commit that replaces an old file costs less than 500 KB, and one of recent days a few kilobytes.

mod avro;
mod catalog;
mod draft;
mod manifest;
mod metadata;
mod schema;
#[cfg(test)]
mod tests;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use object_store::path::Path;

use self::avro::Problem;
pub(crate) use self::catalog::Catalog;
pub(crate) use self::catalog::{CatalogError, CatalogOptions, Credential};
#[cfg(test)]
pub(crate) use self::catalog::{Fault, Model};
use self::draft::{Circumstances, Draft, TOTAL_FILES};
use self::manifest::{Manifest, ManifestEntry, Status, read_manifest, read_manifest_list};
use self::metadata::{Base, Metadata, SnapshotRecord};
use self::versions::{Published, Versions, hint_path, metadata_path, version_of};
use super::{
    CommitInfo, Committed, Difference, Followed, LiveFile, LiveFiles, TableLog, TableLogError,
};
use crate::cdr::period::PeriodUnit;
use crate::store::LakeStore;

/// The table's location in the lake.
const ROOT: &str = "_iceberg";
/// The directory of every file of the log.
const METADATA: &str = "_iceberg/metadata";
/// Concurrent requests.
const REQUESTS: usize = 8;

/// An Iceberg log, which a catalog may follow.
#[derive(Clone, Debug)]
pub(crate) struct IcebergLog {
    versions: Versions,
    /// The URI of the lake.
    lake: String,
    /// The periods of the lake, which are the partitions.
    unit: PeriodUnit,
    catalog: Option<Arc<Catalog>>,
}

/// The newest snapshot of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    version: u64,
    metadata: Metadata,
    /// The manifests that have live files.
    manifests: Vec<Manifest>,
    /// Whether its manifest list contains more than live files.
    has_ballast: bool,
    live: LiveFiles,
    /// For each live file, its place in `manifests`.
    homes: Vec<usize>,
    deviations: Vec<String>,
    /// Whether the hint names an earlier version. This is one of the deviations.
    is_hint_behind: bool,
}

/// An error about a file of the log.
fn failed(path: &Path, problem: Problem) -> TableLogError {
    let path = path.clone();
    match problem {
        Problem::Damaged(problem) => TableLogError::Damaged { path, problem },
        Problem::Unsupported(feature) => TableLogError::Unsupported { path, feature },
    }
}

/// The version for which a manifest or a manifest list was written, and whether it is a list.
/// `None` for other files.
fn target_of(path: &Path) -> Option<(u64, bool)> {
    let name = path.filename()?.strip_suffix(".avro")?;
    let list = name.strip_prefix("snap-");
    let (version, _) = list.unwrap_or(name).strip_prefix('v')?.split_once('-')?;
    Some((version.parse().ok()?, list.is_some()))
}

impl IcebergLog {
    /// The log of the lake in `store`, whose absolute URI, without a slash at the end, is `lake`.
    /// Its slices have periods of the length `unit`.
    pub(crate) fn new(store: Arc<dyn LakeStore>, lake: String, unit: PeriodUnit) -> Self {
        Self {
            versions: Versions { store },
            lake,
            unit,
            catalog: None,
        }
    }

    /// The same log, which the catalog follows.
    pub(crate) fn with_catalog(self, catalog: Option<Arc<Catalog>>) -> Self {
        Self { catalog, ..self }
    }

    fn store(&self) -> &dyn LakeStore {
        &*self.versions.store
    }

    fn location(&self) -> String {
        format!("{}/{ROOT}", self.lake)
    }

    fn uri(&self, path: &Path) -> String {
        format!("{}/{path}", self.lake)
    }

    /// The path in the lake of a data file, or its URI if it lies elsewhere.
    fn relative<'a>(&self, uri: &'a str) -> &'a str {
        let below = uri.strip_prefix(&*self.lake);
        below.and_then(|path| path.strip_prefix('/')).unwrap_or(uri)
    }

    /// The path of a file of the log. After a move of the lake, URIs begin with its old address.
    fn resolve(&self, metadata: &Metadata, uri: &str) -> Result<Path, TableLogError> {
        let old = metadata.location.strip_suffix(ROOT).unwrap_or_default();
        let new = format!("{}/", self.lake);
        let roots = [&*new, old].into_iter().filter(|root| !root.is_empty());
        let mut paths = roots.filter_map(|root| uri.strip_prefix(root));
        paths.next().map(Path::from).ok_or_else(|| {
            let problem = Problem::Unsupported("files of the log outside of the lake".to_owned());
            failed(&Path::from(METADATA), problem)
        })
    }

    async fn object(&self, path: &Path) -> Result<Bytes, TableLogError> {
        let found = self.store().read(path).await?;
        let missing = || failed(path, Problem::damaged("it is missing"));
        Ok(found.ok_or_else(missing)?.bytes)
    }

    async fn metadata(&self, version: u64) -> Result<Metadata, TableLogError> {
        let path = metadata_path(version);
        let bytes = self.object(&path).await?;
        Metadata::parse(&bytes).map_err(|problem| failed(&path, problem))
    }

    /// The manifests of a snapshot.
    async fn manifests(
        &self,
        metadata: &Metadata,
        snapshot: &SnapshotRecord,
    ) -> Result<Vec<Manifest>, TableLogError> {
        let path = self.resolve(metadata, &snapshot.manifest_list)?;
        let bytes = self.object(&path).await?;
        read_manifest_list(&bytes).map_err(|problem| failed(&path, problem))
    }

    /// Reads manifests, some at a time. Takes each entry with the place of its manifest.
    async fn read_entries(
        &self,
        metadata: &Metadata,
        manifests: &[&Manifest],
        mut take: impl FnMut(usize, ManifestEntry) -> Result<(), Problem> + Send,
    ) -> Result<(), TableLogError> {
        let paths = manifests
            .iter()
            .map(|manifest| self.resolve(metadata, &manifest.path))
            .collect::<Result<Vec<_>, _>>()?;
        let mut objects = stream::iter(paths.into_iter().enumerate())
            .map(|(at, path)| async move {
                let bytes = self.object(&path).await?;
                Ok::<_, TableLogError>((at, path, bytes))
            })
            .buffered(REQUESTS);
        while let Some((at, path, bytes)) = objects.try_next().await? {
            read_manifest(&bytes, manifests[at], |entry| take(at, entry))
                .map_err(|problem| failed(&path, problem))?;
        }
        Ok(())
    }

    async fn load(&self, version: u64) -> Result<Snapshot, TableLogError> {
        let path = metadata_path(version);
        let metadata = self.metadata(version).await?;
        let mut deviations = metadata.deviations(&self.location(), self.unit);
        let mut listed = Vec::new();
        if let Some(current) = metadata.current() {
            listed = self.manifests(&metadata, current).await?;
        }
        let has_deletes = |manifest: &Manifest| manifest.has_deletes && manifest.live() > 0;
        if listed.iter().any(has_deletes) {
            deviations.push("it has delete files".to_owned());
        }
        let has_ballast = is_ballasted(&listed);
        listed.retain(|manifest| !manifest.has_deletes && manifest.live() > 0);
        // Files of days can get into partitions of months, but not the reverse.
        let units = listed.iter().map(|it| metadata.unit_of(it.spec_id));
        if units
            .into_iter()
            .any(|unit| unit.is_none_or(|unit| unit > self.unit))
        {
            let problem = Problem::Unsupported("files with other partitions".to_owned());
            return Err(failed(&path, problem));
        }

        let mut live = BTreeMap::new();
        let take = |at: usize, entry: ManifestEntry| {
            if entry.status == Status::Deleted {
                return Ok(());
            }
            let file = LiveFile {
                rows: u64::try_from(entry.rows).ok(),
                bytes: u64::try_from(entry.bytes).unwrap_or_default(),
                is_altered: entry.is_altered,
            };
            let name = self.relative(&entry.path).to_owned();
            match live.insert(name, (file, at)) {
                None => Ok(()),
                Some(_) => Err(Problem::Damaged(format!("{} is listed twice", entry.path))),
            }
        };
        let manifests: Vec<&Manifest> = listed.iter().collect();
        self.read_entries(&metadata, &manifests, take).await?;
        // A list that was cut between two blocks cannot be recognized otherwise.
        let summary = metadata.current().map(|current| &current.summary);
        let total = summary.and_then(|summary| summary.get(TOTAL_FILES)?.parse().ok());
        if total.is_some_and(|total: usize| total != live.len()) {
            let problem = format!(
                "its current snapshot counts {} files, but the manifests list {}",
                total.unwrap_or_default(),
                live.len()
            );
            return Err(failed(&path, Problem::Damaged(problem)));
        }
        let is_hint_behind = self.versions.hint().await? < Some(version);
        if is_hint_behind {
            deviations.push("its version hint names an earlier version".to_owned());
        }
        let (live, homes) = without_homes(live);
        Ok(Snapshot {
            version,
            live,
            homes,
            manifests: listed,
            metadata,
            has_ballast,
            deviations,
            is_hint_behind,
        })
    }

    /// The metadata that follows a snapshot's, before any change.
    fn successor(&self, base: &Snapshot) -> Metadata {
        let mut metadata = base.metadata.clone();
        metadata.follow(Base {
            metadata: &base.metadata,
            file: &self.uri(&metadata_path(base.version)),
        });
        metadata
    }

    /// Makes a draft the newest version.
    async fn publish(&self, draft: Draft) -> Result<Committed<Snapshot>, TableLogError> {
        let Draft { snapshot, objects } = draft;
        let bytes = serde_json::to_vec(&snapshot.metadata).expect("its keys are texts");
        match self
            .versions
            .publish(snapshot.version, bytes.into())
            .await?
        {
            Published::Done => return Ok(Committed::Done(snapshot)),
            Published::Overtaken if !objects.is_empty() => {
                if self.is_followed(&snapshot).await? {
                    return Ok(Committed::Done(snapshot));
                }
            }
            Published::Overtaken | Published::Unclear => {}
            Published::Conflict => {
                for path in objects {
                    if let Err(error) = self.store().delete(&path).await {
                        tracing::debug!(error = %error, "A file of the log was not removed.");
                    }
                }
            }
        }
        Ok(Committed::Conflict)
    }

    async fn is_newest(&self, snapshot: Option<&Snapshot>) -> Result<bool, TableLogError> {
        let newest = self.versions.newest().await?;
        Ok(newest == snapshot.map(|snapshot| snapshot.version))
    }

    /// Raises the hint to a snapshot's version.
    async fn mend_hint(&self, snapshot: &mut Snapshot) -> Result<(), TableLogError> {
        self.versions.advance_hint(snapshot.version).await?;
        if std::mem::take(&mut snapshot.is_hint_behind) {
            // It is the last deviation.
            snapshot.deviations.pop();
        }
        Ok(())
    }

    /// Whether the newest version contains a snapshot.
    async fn is_followed(&self, snapshot: &Snapshot) -> Result<bool, TableLogError> {
        let Some(newest) = self.versions.newest().await? else {
            return Ok(false);
        };
        let current = snapshot.metadata.current();
        let id = current.map(|current| current.snapshot_id);
        let newest = self.metadata(newest).await?;
        let mut snapshots = newest.snapshots.iter();
        Ok(snapshots.any(|snapshot| Some(snapshot.snapshot_id) == id))
    }

    /// Removes the files of the log that no remaining snapshot needs. Metadata files come first, so
    /// that each one can be read as long as it exists. Manifest lists come before manifests, so
    /// that a snapshot with a list is complete.
    async fn collect(&self, newest: &Snapshot, live_only: bool) -> Result<(), TableLogError> {
        let metadata = &newest.metadata;
        let mut needed: BTreeSet<Path> = [hint_path()].into();
        for snapshot in &metadata.snapshots {
            needed.insert(self.resolve(metadata, &snapshot.manifest_list)?);
            for manifest in self.manifests(metadata, snapshot).await? {
                needed.insert(self.resolve(metadata, &manifest.path)?);
            }
        }
        for file in metadata.metadata_files() {
            needed.insert(self.resolve(metadata, file)?);
        }
        let mut garbage: [Vec<Path>; 4] = Default::default();
        for object in self.versions.objects().await? {
            let path = object.path;
            let (version, order) = match (version_of(&path), target_of(&path)) {
                (Some((version, _)), _) => (version + 1, 0),
                (_, Some((version, true))) => (version, 1),
                (_, Some((version, false))) => (version, 2),
                // A catalog wrote it, and needs it. It contains no path of a data file.
                (None, None) if path.as_ref().contains(".metadata.json") => continue,
                // Another program wrote it.
                (None, None) if live_only => (0, 3),
                (None, None) => continue,
            };
            if version <= newest.version && !needed.contains(&path) {
                garbage[order].push(path);
            }
        }
        for paths in garbage {
            stream::iter(paths)
                .map(|path| async move { self.store().delete(&path).await })
                .buffer_unordered(REQUESTS)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    /// Paths of the files that some readable snapshot needs.
    async fn reachable_from(&self, newest: Option<u64>) -> Result<BTreeSet<String>, TableLogError> {
        let objects = self.versions.objects().await?;
        let present: BTreeSet<&Path> = objects.iter().map(|object| &object.path).collect();
        let mut reachable = BTreeSet::new();
        let mut known = BTreeSet::new();
        let versions = objects.iter().filter_map(|object| version_of(&object.path));
        for (version, _) in versions {
            let metadata = match self.metadata(version).await {
                // It has expired meanwhile.
                Err(TableLogError::Damaged { .. }) if Some(version) < newest => continue,
                metadata => metadata?,
            };
            for snapshot in &metadata.snapshots {
                let list = self.resolve(&metadata, &snapshot.manifest_list)?;
                if !known.insert(list.clone()) || !present.contains(&list) {
                    continue;
                }
                let mut manifests = self.manifests(&metadata, snapshot).await?;
                manifests.retain(|manifest| known.insert(Path::from(&*manifest.path)));
                let manifests: Vec<&Manifest> = manifests.iter().collect();
                let take = |_: usize, entry: ManifestEntry| {
                    if entry.status != Status::Deleted {
                        reachable.insert(self.relative(&entry.path).to_owned());
                    }
                    Ok(())
                };
                self.read_entries(&metadata, &manifests, take).await?;
            }
        }
        Ok(reachable)
    }
}

impl TableLog for IcebergLog {
    type Snapshot = Snapshot;

    async fn read(&self) -> Result<Option<Snapshot>, TableLogError> {
        loop {
            let Some(version) = self.versions.newest().await? else {
                return Ok(None);
            };
            let loaded = self.load(version).await;
            // A file may be missing because the version was replaced and has expired meanwhile.
            if !matches!(loaded, Err(TableLogError::Damaged { .. }))
                || self.versions.newest().await? == Some(version)
            {
                return loaded.map(Some);
            }
        }
    }

    fn live(snapshot: &Snapshot) -> &LiveFiles {
        &snapshot.live
    }

    fn deviations(snapshot: &Snapshot) -> &[String] {
        &snapshot.deviations
    }

    async fn commit(
        &self,
        base: Option<&Snapshot>,
        difference: &Difference,
        info: &CommitInfo,
    ) -> Result<Committed<Snapshot>, TableLogError> {
        if let Some(base) = base
            && difference.is_empty()
            && !base.has_other_metadata()
            && !info.is_fence
        {
            let mut base = base.clone();
            self.mend_hint(&mut base).await?;
            return Ok(Committed::Done(base));
        }
        let circumstances = Circumstances {
            at: info.at,
            run: info.run.as_deref(),
            live_only: false,
        };
        match self.draft(base, difference, &circumstances).await {
            Ok(draft) => self.publish(draft).await,
            // Files of an older version may have expired.
            Err(TableLogError::Damaged { .. }) if !self.is_newest(base).await? => {
                Ok(Committed::Conflict)
            }
            Err(error) => Err(error),
        }
    }

    async fn expire(
        &self,
        newest: &Snapshot,
        limit: Timestamp,
    ) -> Result<Committed<Snapshot>, TableLogError> {
        let live_only = limit == Timestamp::MAX;
        let limit = if live_only {
            i64::MAX
        } else {
            limit.as_millisecond()
        };
        let mut expired = newest.metadata.clone();
        expired.expire(limit);
        let is_rewritten = live_only && (newest.has_ballast || newest.has_other_metadata());
        let mut is_due = is_rewritten || expired != newest.metadata;
        if live_only && !is_due {
            // Files of a commit that did not end. With the next version they are garbage.
            let objects = self.versions.objects().await?;
            let mut targets = objects.iter().filter_map(|object| target_of(&object.path));
            is_due = targets.any(|(version, _)| version > newest.version);
        }
        let mut current = newest.clone();
        if is_due {
            let circumstances = Circumstances {
                at: Timestamp::now(),
                run: None,
                live_only,
            };
            let mut draft = if is_rewritten {
                let nothing = Difference::default();
                match self.draft(Some(newest), &nothing, &circumstances).await {
                    Ok(draft) => draft,
                    Err(TableLogError::Damaged { .. }) if !self.is_newest(Some(newest)).await? => {
                        return Ok(Committed::Conflict);
                    }
                    Err(error) => return Err(error),
                }
            } else {
                let mut metadata = self.successor(newest);
                metadata.last_updated_ms = metadata.time_after(circumstances.at);
                Draft {
                    snapshot: Snapshot {
                        version: newest.version + 1,
                        metadata,
                        ..newest.clone()
                    },
                    objects: Vec::new(),
                }
            };
            draft.snapshot.metadata.expire(limit);
            match self.publish(draft).await? {
                Committed::Done(snapshot) => current = snapshot,
                Committed::Conflict => return Ok(Committed::Conflict),
            }
        }
        // Readers that follow the hint must not find a version that was removed.
        self.mend_hint(&mut current).await?;
        // Nor may readers of the catalog find a snapshot that was removed.
        match self.follow(&current).await? {
            Followed::Done(_) => {}
            Followed::ReadAgain | Followed::CommitAgain(_) => return Ok(Committed::Conflict),
        }
        self.collect(&current, live_only).await?;
        Ok(Committed::Done(current))
    }

    async fn follow(&self, newest: &Snapshot) -> Result<Followed<Snapshot>, TableLogError> {
        match &self.catalog {
            Some(catalog) => catalog.follow(self, newest).await,
            None => Ok(Followed::Done(false)),
        }
    }

    async fn compare_catalog(&self, newest: &Snapshot) -> Result<Vec<String>, TableLogError> {
        match &self.catalog {
            Some(catalog) => catalog.compare(self, newest).await,
            None => Ok(Vec::new()),
        }
    }

    async fn reachable(&self) -> Result<BTreeSet<String>, TableLogError> {
        loop {
            let newest = self.versions.newest().await?;
            let reachable = self.reachable_from(newest).await;
            // As in `read`.
            if !matches!(reachable, Err(TableLogError::Damaged { .. }))
                || self.versions.newest().await? == newest
            {
                return reachable;
            }
        }
    }
}

impl Snapshot {
    /// The same snapshot, which a later one follows with a higher number and a later time than
    /// those of `other`.
    fn outrunning(&self, other: &Metadata) -> Self {
        let mut snapshot = self.clone();
        let metadata = &mut snapshot.metadata;
        metadata.last_sequence_number = metadata
            .last_sequence_number
            .max(other.last_sequence_number);
        metadata.last_updated_ms = metadata.last_updated_ms.max(other.last_updated_ms);
        snapshot
    }

    /// Whether something differs from what cdrlake writes, besides the hint.
    fn has_other_metadata(&self) -> bool {
        self.deviations.len() > usize::from(self.is_hint_behind)
    }
}

/// Separates live files from the places of their manifests.
fn without_homes(files: BTreeMap<String, (LiveFile, usize)>) -> (LiveFiles, Vec<usize>) {
    let homes = files.values().map(|(_, home)| *home).collect();
    let files = files.into_iter().map(|(path, (file, _))| (path, file));
    (files.collect(), homes)
}

/// Whether a manifest list contains more than live files.
fn is_ballasted(manifests: &[Manifest]) -> bool {
    let is_ballast = |manifest: &Manifest| {
        manifest.has_deletes || manifest.live() == 0 || manifest.deleted.files > 0
    };
    manifests.iter().any(is_ballast)
}
