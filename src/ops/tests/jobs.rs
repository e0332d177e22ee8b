//! What a user asks for, of a lake in memory and a source that answers what it was told to.

use std::sync::Arc;

use jiff::civil::{Date, date};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use tokio_util::sync::CancellationToken;

use crate::cdr::slice::{Direction, Slice};
use crate::config::Config;
use crate::lake::Lake;
use crate::lake::report::RunOutcome;
use crate::ops::days::Selection;
use crate::ops::job::{Job, Outcome};
use crate::ops::removal::prune::{find_old, prune};
use crate::ops::verify::{Fault, Verification};
use crate::source::Source;
use crate::source::scripted::Answer::{self, Calls};
use crate::source::scripted::ScriptedSource;
use crate::store::bucket::BucketStore;
use crate::store::layout;

/// A lake in memory.
struct World {
    objects: Arc<InMemory>,
    config: Config,
    lake: Lake,
}

fn day(day: i8) -> Date {
    date(2020, 1, day)
}

fn slice(of: i8) -> Slice {
    Slice {
        day: day(of),
        direction: Direction::Placed,
    }
}

/// The first days of a month.
fn days(last: i8) -> Selection {
    Selection {
        from: Some(day(1)),
        to: Some(day(last)),
        direction: Some(Direction::Placed),
        ..Selection::default()
    }
}

/// A source that has so many calls of each of the first days, and counts as many.
fn source(calls: &[u64]) -> Arc<dyn Source> {
    let source = (1..)
        .zip(calls)
        .fold(ScriptedSource::new(), |source, (day, &calls)| {
            let answers: [Answer; 2] = [Calls(calls), Calls(calls)];
            source.with(slice(day), calls, answers)
        });
    Arc::new(source)
}

impl World {
    async fn new() -> Self {
        let keys = [("lake.url", "s3://bucket/lake"), ("source.requests", "1")];
        let config = Config::from_keys(keys).unwrap();
        let objects = Arc::new(InMemory::new());
        let store = BucketStore::in_memory(&objects);
        let privacy = config.privacy(false).unwrap();
        let identity = config.identity(&privacy);
        let lake = Lake::open(Arc::new(store), &identity, privacy).await;
        Self {
            objects,
            config,
            lake: lake.unwrap(),
        }
    }

    /// A lake of so many calls on each of the first days.
    async fn filled(calls: &[u64]) -> Self {
        let world = Self::new().await;
        let last = i8::try_from(calls.len()).unwrap();
        let outcome = world.run(last, source(calls)).await;
        assert_eq!(outcome.run.report.outcome, RunOutcome::Committed);
        world
    }

    async fn run(&self, last: i8, source: Arc<dyn Source>) -> Outcome {
        let job = Job::new(self.config.clone(), source).with_selection(days(last));
        job.run_in(self.lake.clone()).await.unwrap()
    }

    fn object(path: &Path) -> Path {
        Path::from(format!("lake/{path}"))
    }

    async fn delete(&self, path: &Path) {
        self.objects.delete(&Self::object(path)).await.unwrap();
    }

    async fn put(&self, path: &Path, text: &'static str) {
        let path = Self::object(path);
        self.objects.put(&path, text.into()).await.unwrap();
    }

    async fn holds(&self, path: &Path) -> bool {
        self.objects.head(&Self::object(path)).await.is_ok()
    }
}

/// Looks at the first days.
fn verification<'a>(
    world: &'a World,
    selection: &'a Selection,
    source: Option<&'a Arc<dyn Source>>,
) -> Verification<'a> {
    Verification {
        selection: selection.clone(),
        source,
        ask_source: source.is_some(),
        ..Verification::of(&world.config)
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_does_what_is_due_and_the_next_finds_nothing_to_do() {
    let world = World::new().await;
    let first = world.run(2, source(&[3, 2])).await;
    assert_eq!(first.run.report.totals.counts.rows, 5);
    assert_eq!((first.plan.due.len(), first.plan.up_to_date), (2, 0));
    let second = world.run(3, source(&[3, 2, 1])).await;
    assert_eq!((second.plan.due.len(), second.plan.up_to_date), (1, 2));
    assert_eq!(second.run.report.totals.counts.rows, 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_interrupted_before_it_begins_leaves_the_lake_as_it_is() {
    let world = World::new().await;
    let interrupt = CancellationToken::new();
    interrupt.cancel();
    let job = Job::new(world.config.clone(), source(&[3]))
        .with_selection(days(1))
        .with_interrupt(interrupt);
    let outcome = job.run_in(world.lake.clone()).await.unwrap();
    assert_eq!(outcome.run.report.outcome, RunOutcome::Interrupted);
    assert!(!world.holds(&layout::table_file(slice(1))).await);
}

#[tokio::test(start_paused = true)]
async fn a_lake_that_is_as_its_ledger_says_is_proven_and_one_that_lacks_days_is_not() {
    let world = World::filled(&[3, 2]).await;
    let (two, three) = (days(2), days(3));
    let checking = verification(&world, &two, None);
    let verified = checking.check_in(&world.lake, &()).await.unwrap();
    assert!(verified.is_proven(), "{verified:?}");
    assert_eq!((verified.found.slices, verified.found.rows), (2, 5));
    let checking = verification(&world, &three, None);
    let verified = checking.check_in(&world.lake, &()).await.unwrap();
    assert!(!verified.is_proven());
    assert_eq!(verified.not_fetched, [slice(3)].into());
}

#[tokio::test(start_paused = true)]
async fn a_repair_fetches_what_is_gone_and_removes_what_belongs_to_no_slice() {
    let world = World::filled(&[3, 2]).await;
    let foreign = Path::from("cdrs/copy of a file.parquet");
    world.put(&foreign, "no Parquet").await;
    world.delete(&layout::table_file(slice(2))).await;
    let (selection, source) = (Selection::default(), source(&[3, 2]));
    let verification = Verification {
        ask_source: false,
        ..verification(&world, &selection, Some(&source))
    };
    let mut verified = verification.check_in(&world.lake, &()).await.unwrap();
    let faults = verified.found.findings.iter().map(|finding| finding.fault);
    let faults: Vec<Fault> = faults.collect();
    assert_eq!(faults, [Fault::MissingFile, Fault::Foreign], "{verified:?}");
    let never = CancellationToken::new();
    let repair = verification.repair_in(&world.lake, &mut verified, Arc::new(()), never);
    repair.await.unwrap();
    let repair = verified.repair.as_ref().unwrap();
    assert_eq!(repair.removed, [foreign.to_string()]);
    assert_eq!(repair.run.as_ref().unwrap().totals.counts.rows, 2);
    assert!(repair.remaining.is_empty(), "{repair:?}");
    assert!(!world.holds(&foreign).await);
    assert!(world.holds(&layout::table_file(slice(2))).await);
}

#[tokio::test(start_paused = true)]
async fn without_a_source_a_repair_fetches_nothing_and_says_what_is_left() {
    let world = World::filled(&[3]).await;
    world.delete(&layout::table_file(slice(1))).await;
    let selection = days(1);
    let verification = verification(&world, &selection, None);
    let mut verified = verification.check_in(&world.lake, &()).await.unwrap();
    let never = CancellationToken::new();
    let repair = verification.repair_in(&world.lake, &mut verified, Arc::new(()), never);
    repair.await.unwrap();
    let repair = verified.repair.as_ref().unwrap();
    assert!(repair.run.is_none());
    assert_eq!(repair.remaining.len(), 1, "{repair:?}");
    assert!(!verified.is_proven());
}

#[tokio::test(start_paused = true)]
async fn a_count_that_has_changed_at_the_provider_s_is_a_finding() {
    let world = World::filled(&[3]).await;
    let (selection, source) = (days(1), source(&[4]));
    let verification = verification(&world, &selection, Some(&source));
    let verified = verification.check_in(&world.lake, &()).await.unwrap();
    let asked = verified.source.as_ref().unwrap();
    assert_eq!((asked.asked, asked.open), (1, 0));
    assert!(asked.error.is_none());
    assert_eq!(verified.found.findings.len(), 1, "{verified:?}");
    assert_eq!(verified.found.findings[0].fault, Fault::ControlTotal);
    assert_eq!(verified.found.to_fetch(), [slice(1)].into());
}

#[tokio::test(start_paused = true)]
async fn what_was_pruned_is_gone_and_stays_away() {
    let world = World::filled(&[3, 2]).await;
    let old = find_old(&world.lake, day(2)).await.unwrap();
    let slices = old.keys().copied().collect();
    assert_eq!(old.len(), 1);
    assert_eq!(old[&slice(1)].rows, 3);
    let never = CancellationToken::new();
    let report = prune(&world.lake, &slices, &never, &|| {}).await.unwrap();
    assert_eq!(report.outcome, RunOutcome::Committed);
    assert!(!world.holds(&layout::table_file(slice(1))).await);
    assert!(find_old(&world.lake, day(2)).await.unwrap().is_empty());
    let again = world.run(2, source(&[3, 2])).await;
    assert_eq!((again.plan.due.len(), again.plan.up_to_date), (0, 2));
}
