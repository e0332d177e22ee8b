//! The next snapshot, before its publication: its manifest, manifest list and metadata.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use object_store::path::Path;

use super::manifest::{Form, Manifest, ManifestEntry, ManifestWriter, Status, manifest_list};
use super::metadata::{Metadata, SnapshotRecord};
use super::{IcebergLog, METADATA, Snapshot, is_ballasted, without_homes};
use crate::lake::ledger::new_token;
use crate::lake::table_log::{Difference, LiveFile, TableLogError};

/// A snapshot that is not published yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) snapshot: Snapshot,
    /// The objects that only it needs.
    pub(super) objects: Vec<Path>,
}

/// What is special about a snapshot, besides its files.
pub(super) struct Circumstances<'a> {
    pub(super) at: Timestamp,
    pub(super) run: Option<&'a str>,
    /// Whether manifests must contain nothing but live files.
    pub(super) live_only: bool,
}

/// What becomes of the files and manifests of the snapshot before.
struct Plan<'a> {
    base: Option<&'a Snapshot>,
    /// Files that are live no longer, or that are added again.
    gone: BTreeSet<&'a str>,
    /// The manifests whose entries get into the new manifest.
    rewritten: BTreeSet<usize>,
    /// Whether entries of files that are gone are left out.
    forgets: bool,
}

impl<'a> Plan<'a> {
    fn new(
        base: Option<&'a Snapshot>,
        difference: &'a Difference,
        rewrites: impl Fn(&Manifest) -> bool,
        forgets: bool,
    ) -> Self {
        let mut plan = Self {
            base,
            gone: BTreeSet::new(),
            rewritten: BTreeSet::new(),
            forgets,
        };
        let Some(base) = base else {
            return plan;
        };
        let removed = difference.remove.iter().map(|path| &**path);
        let added = difference.add.iter().map(|file| &*file.path);
        let gone = removed.chain(added);
        plan.gone = gone.filter(|path| base.live.contains_key(*path)).collect();
        for (path, home) in base.live.keys().zip(&base.homes) {
            if plan.gone.contains(&**path) {
                plan.rewritten.insert(*home);
            }
        }
        for (at, manifest) in base.manifests.iter().enumerate() {
            if rewrites(manifest) {
                plan.rewritten.insert(at);
            }
        }
        plan.absorb(&base.manifests, difference.add.len());
        plan
    }

    /// Adds the manifests with at most twice as many live files as the new manifest gets.
    fn absorb(&mut self, manifests: &[Manifest], added: usize) {
        let live = |at: &usize| usize::try_from(manifests[*at].live()).unwrap_or(usize::MAX);
        let moved: usize = self.rewritten.iter().map(live).sum();
        let mut total = added + moved.saturating_sub(self.gone.len());
        let mut others: Vec<usize> = (0..manifests.len()).collect();
        others.retain(|at| !self.rewritten.contains(at));
        others.sort_by_key(live);
        for at in others {
            if live(&at) > 2 * total {
                break;
            }
            total += live(&at);
            self.rewritten.insert(at);
        }
    }

    /// The places of manifests that stay, in their order.
    fn kept(&self) -> Vec<usize> {
        let manifests = self.base.map_or(0, |base| base.manifests.len());
        let mut kept: Vec<usize> = (0..manifests).collect();
        kept.retain(|at| !self.rewritten.contains(at));
        kept
    }

    /// Live files after the commit, with the places of their manifests. The new manifest comes
    /// after the `kept` ones.
    fn live(&self, kept: &[usize], difference: &Difference) -> BTreeMap<String, (LiveFile, usize)> {
        let new = kept.len();
        let old = self
            .base
            .into_iter()
            .flat_map(|base| base.live.iter().zip(&base.homes));
        let old = old.filter(|((path, _), _)| !self.gone.contains(&***path));
        let old = old.map(|((path, file), home)| {
            let home = kept.binary_search(home).unwrap_or(new);
            (path.clone(), (file.clone(), home))
        });
        let added = difference.add.iter().map(|file| {
            let live = LiveFile {
                rows: Some(file.rows),
                bytes: file.bytes,
                is_altered: false,
            };
            (file.path.clone(), (live, new))
        });
        old.chain(added).collect()
    }

    fn summary(&self, difference: &Difference) -> Summary {
        let mut summary = Summary::default();
        for file in &difference.add {
            summary.added.add(file.rows, file.bytes);
        }
        if let Some(base) = self.base {
            for file in self.gone.iter().map(|path| &base.live[*path]) {
                summary
                    .removed
                    .add(file.rows.unwrap_or_default(), file.bytes);
            }
        }
        summary
    }
}

impl IcebergLog {
    /// Writes manifest and manifest list of a new snapshot.
    pub(super) async fn draft(
        &self,
        base: Option<&Snapshot>,
        difference: &Difference,
        circumstances: &Circumstances<'_>,
    ) -> Result<Draft, TableLogError> {
        let mut metadata = match base {
            Some(base) => self.successor(base),
            None => Metadata::new(&self.location(), self.unit),
        };
        metadata.restore(&self.location(), self.unit);
        let is_moved = base.is_some_and(|base| base.metadata.location != metadata.location);
        // A lake of days has become one of months.
        let is_repartitioned =
            |manifest: &Manifest| !metadata.has_lake_spec(manifest.spec_id, self.unit);
        let rewrites = |manifest: &Manifest| {
            is_moved
                || is_repartitioned(manifest)
                || (circumstances.live_only && manifest.deleted.files > 0)
        };
        let forgets =
            is_moved || base.is_some_and(|base| base.manifests.iter().any(is_repartitioned));
        let plan = Plan::new(base, difference, rewrites, forgets);
        let kept = plan.kept();
        let version = base.map_or(1, |base| base.version + 1);
        let sequence_number = metadata.last_sequence_number + 1;
        let snapshot_id = fastrand::i64(1..);
        let token = new_token();
        let mut objects = Vec::new();

        let mut listed = Vec::new();
        if let Some(base) = base {
            listed.extend(kept.iter().map(|at| base.manifests[*at].clone()));
        }
        let path = Path::from(format!("{METADATA}/v{version}-{token}-m0.avro"));
        let form = Form {
            schema: metadata.schema().expect("restored metadata has it"),
            spec: metadata.spec().expect("restored metadata has it"),
            unit: self.unit,
        };
        let writer = ManifestWriter::new(self.uri(&path), form, snapshot_id, sequence_number);
        if let Some((manifest, bytes)) = self.manifest(&plan, difference, writer).await? {
            listed.push(manifest);
            self.store().create(&path, bytes.into()).await?;
            objects.push(path);
        }
        let path = Path::from(format!("{METADATA}/snap-v{version}-{token}.avro"));
        let parent_snapshot_id = metadata.current().map(|parent| parent.snapshot_id);
        let bytes = manifest_list(&listed, snapshot_id, parent_snapshot_id, sequence_number);
        self.store().create(&path, bytes.into()).await?;
        let manifest_list = self.uri(&path);
        objects.push(path);

        let (live, homes) = without_homes(plan.live(&kept, difference));
        let mut total = Sum::default();
        for file in live.values() {
            total.add(file.rows.unwrap_or_default(), file.bytes);
        }
        metadata.add(SnapshotRecord {
            snapshot_id,
            parent_snapshot_id,
            sequence_number,
            timestamp_ms: metadata.time_after(circumstances.at),
            summary: plan.summary(difference).into_map(&total, circumstances.run),
            manifest_list,
            schema_id: metadata
                .schema()
                .and_then(|schema| schema["schema-id"].as_i64()),
        });
        let has_ballast = is_ballasted(&listed);
        listed.retain(|manifest| manifest.live() > 0);
        let snapshot = Snapshot {
            version,
            metadata,
            manifests: listed,
            has_ballast,
            live,
            homes,
            deviations: Vec::new(),
            is_hint_behind: false,
        };
        Ok(Draft { snapshot, objects })
    }

    /// The new manifest; `None` if it has no entries.
    async fn manifest(
        &self,
        plan: &Plan<'_>,
        difference: &Difference,
        mut writer: ManifestWriter,
    ) -> Result<Option<(Manifest, Vec<u8>)>, TableLogError> {
        for file in &difference.add {
            let uri = format!("{}/{}", self.lake, file.path);
            let entry = ManifestEntry::added(file, uri, writer.manifest(), self.unit);
            writer.append(&entry);
        }
        if let Some(base) = plan.base {
            let snapshot_id = writer.manifest().snapshot_id;
            let old = plan.rewritten.iter().map(|at| &base.manifests[*at]);
            let old: Vec<&Manifest> = old.collect();
            let take = |at: usize, mut entry: ManifestEntry| {
                let is_gone = plan.gone.contains(self.relative(&entry.path));
                if entry.status == Status::Deleted || (is_gone && plan.forgets) {
                    return Ok(());
                }
                if let Some(unit) = base.metadata.unit_of(old[at].spec_id)
                    && unit != self.unit
                {
                    entry.repartition(unit, self.unit);
                }
                entry.status = Status::Existing;
                if is_gone {
                    entry.status = Status::Deleted;
                    entry.snapshot_id = snapshot_id;
                }
                writer.append(&entry);
                Ok(())
            };
            self.read_entries(&base.metadata, &old, take).await?;
        }
        Ok(writer.finish())
    }
}

/// The number of live files, in a snapshot's summary.
pub(super) const TOTAL_FILES: &str = "total-data-files";

/// Files with their rows and bytes.
#[derive(Default)]
struct Sum {
    files: u64,
    rows: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, rows: u64, bytes: u64) {
        self.files += 1;
        self.rows += rows;
        self.bytes += bytes;
    }
}

/// The summary of a snapshot. <https://iceberg.apache.org/spec/#optional-snapshot-summary-fields>
#[derive(Default)]
struct Summary {
    added: Sum,
    removed: Sum,
}

impl Summary {
    fn into_map(self, total: &Sum, run: Option<&str>) -> BTreeMap<String, String> {
        let Self { added, removed } = self;
        let operation = match (added.files, removed.files) {
            (0, 0) => "replace",
            (_, 0) => "append",
            (0, _) => "delete",
            _ => "overwrite",
        };
        let mut map: BTreeMap<String, String> = [
            ("operation", operation),
            ("engine-name", "cdrlake"),
            ("engine-version", env!("CARGO_PKG_VERSION")),
            ("total-delete-files", "0"),
            ("total-position-deletes", "0"),
            ("total-equality-deletes", "0"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        for (key, number) in [
            ("added-data-files", added.files),
            ("added-records", added.rows),
            ("added-files-size", added.bytes),
            ("deleted-data-files", removed.files),
            ("deleted-records", removed.rows),
            ("removed-files-size", removed.bytes),
            (TOTAL_FILES, total.files),
            ("total-records", total.rows),
            ("total-files-size", total.bytes),
        ] {
            map.insert(key.to_owned(), number.to_string());
        }
        map.extend(run.map(|run| ("cdrlake.run".to_owned(), run.to_owned())));
        map
    }
}
