//! A lake in memory and a source that gives the answers of a script.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use futures::TryStreamExt;
use jiff::civil::{Date, date};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::faults::{Failing, Faults, Operations};
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::slice::{Direction, Slice};
use crate::config::Config;
use crate::lake::identity::Identity;
use crate::lake::ledger::Entry;
use crate::lake::report::RunOutcome;
use crate::lake::{Lake, LakeError, TableForm, TableFormat};
use crate::ops::days::Selection;
use crate::ops::job::{Job, Outcome};
use crate::ops::verify::Verification;
use crate::privacy::{Modes, Privacy, PrivacyKey};
use crate::slice_file::rejects::read_rejects;
use crate::slice_file::writer::{WriteError, read_rows};
use crate::source::Source;
use crate::source::scripted::Answer::{self, Calls, Lines};
use crate::source::scripted::ScriptedSource;
use crate::store::bucket::BucketStore;
use crate::store::layout;
use crate::store::{LakeStore, ObjectState};

/// A lake in a bucket in memory.
pub(super) struct World {
    objects: Arc<InMemory>,
    pub(super) config: Config,
    /// As one process has it.
    pub(super) lake: Lake,
}

pub(super) fn day(day: i8) -> Date {
    date(2020, 1, day)
}

/// Placed calls of a day.
pub(super) fn slice(of: i8) -> Slice {
    Slice::of_day(day(of), Direction::Placed)
}

/// Placed calls of a month.
pub(super) fn month(of: i8) -> Slice {
    let period = Period::containing(date(2020, of, 1), PeriodUnit::Month);
    Slice::new(period, Direction::Placed)
}

/// Placed calls of the months up to `last`.
pub(super) fn months(last: i8) -> Selection {
    Selection {
        to: Some(month(last).period.last_day()),
        ..days(1)
    }
}

/// A source with these calls in each of the first months, each with its ID and its day, and equal
/// counts.
pub(super) fn source_of_months(months: &[&[(&str, i8)]]) -> Arc<dyn Source> {
    let source = (1..)
        .zip(months)
        .fold(ScriptedSource::new(), |source, (of, calls)| {
            let lines = calls.iter().map(|(id, day)| {
                let day = date(2020, of, *day);
                format!(
                    "{{\"call_id\":\"{id}\",\"date\":\"{day}T10:00:00Z\",\"duration\":30,\
                     \"charge\":\"0.5\",\"disposition\":\"answered\",\"from\":\"1555{id}\"}}\n"
                )
            });
            let lines: String = lines.collect();
            let answers = (0..9).map(|_| Lines(lines.clone()));
            source.with(month(of), calls.len() as u64, answers)
        });
    Arc::new(source)
}

/// Placed calls from day 1 to `last`.
pub(super) fn days(last: i8) -> Selection {
    Selection {
        from: Some(day(1)),
        to: Some(day(last)),
        direction: Some(Direction::Placed),
        ..Selection::default()
    }
}

/// A source with so many calls on each of the first days, and equal counts.
pub(super) fn source(calls: &[u64]) -> Arc<dyn Source> {
    let source = (1..)
        .zip(calls)
        .fold(ScriptedSource::new(), |source, (day, &calls)| {
            let answers: [Answer; 2] = [Calls(calls), Calls(calls)];
            source.with(slice(day), calls, answers)
        });
    Arc::new(source)
}

/// A source with these lines on each of the first days, and equal counts.
pub(super) fn source_of_lines(days: &[&str]) -> Arc<dyn Source> {
    let source = (1..)
        .zip(days)
        .fold(ScriptedSource::new(), |source, (day, lines)| {
            let lines = lines.replace("DAY", &slice(day).period.to_string());
            let answers = (0..9).map(|_| Lines(lines.clone()));
            source.with(slice(day), lines.lines().count() as u64, answers)
        });
    Arc::new(source)
}

/// The key of suppressed numbers.
pub(super) fn key() -> PrivacyKey {
    PrivacyKey::try_new("0123456789abcdefghijklmnopqrstuv").unwrap()
}

fn privacy() -> Privacy {
    Privacy::new(Modes::default(), Some(key()))
}

impl World {
    /// An empty lake.
    pub(super) async fn new() -> Self {
        Self::with_tables(&[]).await
    }

    /// An empty lake with the logs of these formats.
    pub(super) async fn with_tables(formats: &[TableFormat]) -> Self {
        Self::with_unit(formats, None).await
    }

    /// A lake whose slices are months, with these calls in each of the first ones, each with its ID
    /// and its day.
    pub(super) async fn of_months(months: &[&[(&str, i8)]]) -> Self {
        let world = Self::with_unit(&[], Some(PeriodUnit::Month)).await;
        if let Some(last) = i8::try_from(months.len()).ok().filter(|last| *last > 0) {
            let selection = super::world::months(last);
            let source = source_of_months(months);
            let report = world.run_selected(selection, source).await.run.report;
            assert_eq!(report.outcome, RunOutcome::Committed, "{report:?}");
        }
        world
    }

    async fn with_unit(formats: &[TableFormat], unit: Option<PeriodUnit>) -> Self {
        Self::in_zone("UTC", formats, unit).await
    }

    /// An empty lake of an account in this time zone.
    pub(super) async fn in_zone(
        timezone: &str,
        formats: &[TableFormat],
        unit: Option<PeriodUnit>,
    ) -> Self {
        let config = Config::from_keys([
            ("lake.url", "s3://bucket/lake"),
            ("window.timezone", timezone),
            ("source.requests", "1"),
            ("source.retry_base", "1ms"),
            ("quality.fail_reject_ratio", "1"),
        ]);
        let mut config = config.unwrap();
        config.lake.tables = (!formats.is_empty()).then(|| formats.to_vec());
        config.window.slice = unit;
        let objects = Arc::new(InMemory::new());
        let store = Arc::new(BucketStore::in_memory(&objects));
        let identity = config.identity(&privacy());
        let lake = Lake::open(store, &identity, privacy()).await;
        Self {
            objects,
            config,
            lake: lake.unwrap(),
        }
    }

    /// A lake of so many calls on each of the first days.
    pub(super) async fn filled(calls: &[u64]) -> Self {
        Self::filled_as(TableForm::Plain, calls).await
    }

    /// The same with a table of this form.
    pub(super) async fn filled_as(form: TableForm, calls: &[u64]) -> Self {
        let mut world = Self::new().await;
        world.lake = world.lake.with_table_form(form);
        let last = i8::try_from(calls.len()).unwrap();
        let outcome = world.run(last, source(calls)).await;
        assert_eq!(outcome.run.report.outcome, RunOutcome::Committed);
        world
    }

    /// An empty lake whose slices are months, with the logs of these formats.
    pub(super) async fn of_months_with_tables(formats: &[TableFormat]) -> Self {
        Self::with_unit(formats, Some(PeriodUnit::Month)).await
    }

    /// The place of the lake.
    pub(super) fn store(&self) -> Arc<dyn LakeStore> {
        Arc::new(BucketStore::in_memory(&self.objects))
    }

    /// The same lake as another process has it.
    pub(super) async fn other_process(&self) -> Lake {
        self.open(Arc::new(BucketStore::in_memory(&self.objects)))
            .await
    }

    /// The same lake in a store that fails as `faults` say.
    pub(super) async fn failing(&self, faults: Faults) -> Lake {
        let store = BucketStore::in_memory(&self.objects);
        self.open(Arc::new(Failing::new(store, faults))).await
    }

    /// The same lake in a store whose operations fail from this one on, and its operations.
    pub(super) async fn dying(&self, dies_at: usize) -> (Result<Lake, LakeError>, Operations) {
        self.failing_at(dies_at..usize::MAX).await
    }

    /// The same lake as a process has it that converts its days into months.
    pub(super) async fn opened_for_converting(&self) -> Lake {
        let identity = Identity {
            converting: Some(PeriodUnit::Month),
            ..self.lake.identity.clone()
        };
        self.opened_as(&identity).await.unwrap()
    }

    /// The lake as its `lake.json` has it now.
    pub(super) async fn reopened(&self) -> Lake {
        let identity = Identity {
            converting: None,
            slice: None,
            ..self.lake.identity.clone()
        };
        self.opened_as(&identity).await.unwrap()
    }

    /// The same lake in a store of which these operations fail, and its operations.
    pub(super) async fn failing_at(
        &self,
        failing: Range<usize>,
    ) -> (Result<Lake, LakeError>, Operations) {
        let store = Failing::at(BucketStore::in_memory(&self.objects), failing);
        let operations = Arc::clone(&store.operations);
        let lake = Lake::open(Arc::new(store), &self.lake.identity, privacy());
        (lake.await, operations)
    }

    /// The lake that another configuration names, if it may have it.
    pub(super) async fn opened_as(&self, wanted: &Identity) -> Result<Lake, LakeError> {
        let store = BucketStore::in_memory(&self.objects);
        Lake::open(Arc::new(store), wanted, privacy()).await
    }

    async fn open(&self, store: Arc<dyn LakeStore>) -> Lake {
        let lake = Lake::open(store, &self.lake.identity, privacy()).await;
        lake.unwrap()
    }

    pub(super) async fn run(&self, last: i8, source: Arc<dyn Source>) -> Outcome {
        self.run_selected(days(last), source).await
    }

    pub(super) async fn run_selected(
        &self,
        selection: Selection,
        source: Arc<dyn Source>,
    ) -> Outcome {
        self.run_in(&self.lake, selection, source).await
    }

    /// The same in the lake as some process has it.
    pub(super) async fn run_in(
        &self,
        lake: &Lake,
        selection: Selection,
        source: Arc<dyn Source>,
    ) -> Outcome {
        let job = Job::new(self.config.clone(), source).with_selection(selection);
        job.run_in(lake.clone()).await.unwrap()
    }

    fn object(path: &Path) -> Path {
        Path::from(format!("lake/{path}"))
    }

    pub(super) async fn delete(&self, path: &Path) {
        self.objects.delete(&Self::object(path)).await.unwrap();
    }

    pub(super) async fn put(&self, path: &Path, bytes: impl Into<Vec<u8>>) {
        let path = Self::object(path);
        self.objects.put(&path, bytes.into().into()).await.unwrap();
    }

    pub(super) async fn get(&self, path: &Path) -> Vec<u8> {
        let found = self.objects.get(&Self::object(path)).await.unwrap();
        found.bytes().await.unwrap().to_vec()
    }

    /// The file of a slice, whatever its entry names.
    pub(super) async fn table_file(&self, slice: Slice) -> ObjectState {
        let file = self.lake.table().file(&Entry::new(slice)).await;
        file.unwrap().expect("the slice has a file")
    }

    pub(super) async fn holds(&self, path: &Path) -> bool {
        self.objects.head(&Self::object(path)).await.is_ok()
    }

    /// Tables, ledger, rejects and suppression list: every object and its bytes.
    pub(super) async fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let listed: Vec<_> = self.objects.list(None).try_collect().await.unwrap();
        let mut contents = BTreeMap::new();
        for object in listed {
            let path = object.location.as_ref().strip_prefix("lake/").unwrap();
            let is_of_runs = [layout::LEASES, layout::RUNS, layout::RUNNING];
            if !is_of_runs.iter().any(|prefix| path.starts_with(prefix)) {
                contents.insert(path.to_owned(), self.get(&Path::from(path)).await);
            }
        }
        contents
    }

    /// Changes the ledger entry of a slice.
    pub(super) async fn edit_entry(&self, slice: Slice, edit: impl FnOnce(&mut Entry)) {
        let mut entry = self.lake.entry(slice).await.entry;
        edit(&mut entry);
        let entry = serde_json::to_vec(&entry).unwrap();
        self.put(&layout::ledger_entry(slice), entry).await;
    }

    /// Ids of the calls in the table's file of a slice.
    pub(super) async fn calls(&self, slice: Slice) -> Vec<String> {
        let mut calls = Vec::new();
        let entry = self.lake.entry(slice).await.entry;
        if let Some(copy) = self.lake.table().local_copy(&entry).await.unwrap() {
            read_rows(&copy.path, slice, |record| {
                calls.push(record.call_id.as_deref().unwrap_or_default().to_owned());
                Ok::<(), WriteError>(())
            })
            .unwrap();
        }
        calls
    }

    /// Records in a rejects file; none if there is no such file.
    pub(super) async fn rejects(&self, path: &Path) -> Vec<String> {
        let mut rejects = Vec::new();
        if let Some(copy) = self.lake.local_copy(path).await.unwrap() {
            read_rejects(&copy.path, |reject| {
                rejects.push(reject.shown().into_owned());
                Ok::<(), std::io::Error>(())
            })
            .unwrap();
        }
        rejects
    }

    /// What `verify` finds wrong with the lake.
    pub(super) async fn findings(&self) -> Vec<String> {
        let verification = Verification::of(&self.config);
        let verified = verification.check_in(&self.lake, &()).await.unwrap();
        let found = verified.found;
        let findings = found.findings.iter();
        findings
            .map(|finding| format!("{}: {}", finding.path, finding.problem))
            .collect()
    }
}
