//! Slices of runs from a scripted source into a lake in memory, whose other users interfere.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::cdr::slice::Direction;
use crate::config::Config;
use crate::lake::Lake;
use crate::ops::plan::DueReason;
use crate::ops::run::{RunOptions, run};
use crate::privacy::{Credentials, Modes, PrivacyKey};
use crate::source::scripted::Answer::{self, Calls, Lines};
use crate::source::scripted::ScriptedSource;
use crate::source::{Body, Request, Source, SourceError};
use crate::store::bucket::BucketStore;

/// A number of a call.
const NUMBER: &str = "13025550101";

fn slice() -> Slice {
    Slice::of_day(jiff::civil::date(2020, 1, 1), Direction::Placed)
}

fn key() -> PrivacyKey {
    PrivacyKey::try_new("0123456789abcdefghijklmnopqrstuv").unwrap()
}

/// A lake in a bucket in memory.
struct World {
    objects: Arc<InMemory>,
    lake: Lake,
}

impl World {
    async fn new() -> Self {
        let objects = Arc::new(InMemory::new());
        let lake = open(&objects).await;
        Self { objects, lake }
    }

    /// Fetches the slice, in addition to these keys of the configuration.
    async fn run(&self, source: impl Source + 'static, keys: &[(&str, &str)]) -> SliceReport {
        self.run_with(source, keys, RunOptions::default()).await
    }

    async fn run_with(
        &self,
        source: impl Source + 'static,
        keys: &[(&str, &str)],
        options: RunOptions,
    ) -> SliceReport {
        let committed = self.commit().await;
        self.run_due(
            source,
            keys,
            options,
            Due {
                slice: slice(),
                why: DueReason::Missing,
                committed_token: committed.as_ref().map(|commit| commit.token.clone()),
                committed_fetched_at: committed.map(|commit| commit.fetched_at),
                has_nothing: false,
            },
        )
        .await
    }

    async fn run_due(
        &self,
        source: impl Source + 'static,
        keys: &[(&str, &str)],
        options: RunOptions,
        due: Due,
    ) -> SliceReport {
        let result = run(
            Arc::new(config(keys)),
            self.lake.clone(),
            Arc::new(source),
            vec![due],
            options,
            Arc::new(()),
            CancellationToken::new(),
        );
        let mut slices = result.await.report.slices;
        assert_eq!(slices.len(), 1);
        slices.remove(0)
    }

    async fn commit(&self) -> Option<Commit> {
        self.lake.entry(slice()).await.entry.committed
    }

    async fn rows(&self) -> Option<u64> {
        Some(self.commit().await?.counts.rows)
    }
}

fn config(keys: &[(&str, &str)]) -> Config {
    let basic = [
        ("lake.url", "s3://bucket/lake"),
        ("source.requests", "1"),
        ("source.retry_base", "1ms"),
    ];
    Config::from_keys(basic.iter().chain(keys).copied()).unwrap()
}

/// The lake as one process has it.
async fn open(objects: &Arc<InMemory>) -> Lake {
    let privacy = Privacy::new(Modes::default(), Some(key()));
    let identity = config(&[]).identity(&privacy);
    let store = Arc::new(BucketStore::in_memory(objects));
    Lake::open(store, &identity, privacy).await.unwrap()
}

/// Writes a ledger entry past the lake.
async fn put_entry(objects: &InMemory, entry: &Entry) {
    let path = Path::from(format!("lake/{}", layout::ledger_entry(entry.slice)));
    let entry = serde_json::to_vec(entry).unwrap();
    objects.put(&path, entry.into()).await.unwrap();
}

/// A source with these answers for the slice, of which the provider counts `count` calls.
fn source(count: u64, answers: impl IntoIterator<Item = Answer>) -> ScriptedSource {
    ScriptedSource::new().with(slice(), count, answers)
}

/// A call of the slice's direction.
fn call(id: u64, day: i8, from: &str) -> String {
    format!(
        "{{\"call_id\":\"{id}\",\"date\":\"2020-01-{day:02}T10:00:00Z\",\"from\":\"{from}\",\
         \"duration\":26}}\n"
    )
}

/// What another process does while the slice is fetched.
#[derive(Clone, Copy, Debug)]
enum Interference {
    /// It writes the slice's ledger entry.
    WriteEntry,
    /// It erases [`NUMBER`].
    Erase,
}

/// A source during whose first `times` answers another process interferes.
#[derive(Debug)]
struct Interfered {
    inner: ScriptedSource,
    objects: Arc<InMemory>,
    lake: Lake,
    interference: Interference,
    times: u32,
    opened: Arc<AtomicU32>,
}

#[async_trait]
impl Source for Interfered {
    async fn open(&self, request: Request) -> Result<Body, SourceError> {
        if self.opened.fetch_add(1, Ordering::SeqCst) < self.times {
            match self.interference {
                Interference::WriteEntry => {
                    put_entry(&self.objects, &Entry::new(request.slice)).await;
                }
                Interference::Erase => {
                    let token = key().token(NUMBER);
                    self.lake.suppress(key().id(), &token, None).await.unwrap();
                }
            }
        }
        self.inner.open(request).await
    }

    async fn page(&self, request: Request, page: u64) -> Result<Body, SourceError> {
        self.inner.page(request, page).await
    }

    async fn count(&self, request: Request) -> Result<u64, SourceError> {
        self.inner.count(request).await
    }

    fn is_fixed(&self) -> bool {
        self.inner.is_fixed()
    }

    fn slow_down(&self, wait: Duration) {
        self.inner.slow_down(wait);
    }

    fn credentials(&self) -> &Arc<Credentials> {
        self.inner.credentials()
    }
}

/// Runs with a source that is interfered with. Returns the report and the number of requests.
async fn run_interfered(
    world: &World,
    inner: ScriptedSource,
    interference: Interference,
    times: u32,
) -> (SliceReport, u32) {
    let opened = Arc::new(AtomicU32::new(0));
    let source = Interfered {
        inner,
        objects: Arc::clone(&world.objects),
        lake: open(&world.objects).await,
        interference,
        times,
        opened: Arc::clone(&opened),
    };
    let report = world.run(source, &[]).await;
    (report, opened.load(Ordering::SeqCst))
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_others_take_over_is_started_again_three_times_at_most() {
    for times in 0..=MAX_LOST_LEASES + 1 {
        let world = World::new().await;
        let answers = (0..9).map(|_| Calls(3));
        let (report, opened) =
            run_interfered(&world, source(3, answers), Interference::WriteEntry, times).await;
        let is_committed = times <= MAX_LOST_LEASES;
        assert_eq!(opened, times.min(MAX_LOST_LEASES) + 1);
        let outcome = if is_committed {
            SliceOutcome::Committed
        } else {
            SliceOutcome::Failed
        };
        assert_eq!(report.outcome, outcome, "{times}: {report:?}");
        assert_eq!(world.rows().await, is_committed.then_some(3), "{times}");
        // The interruption of another run is no failed attempt at the slice.
        assert_eq!(report.attempts, 1, "{times}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_number_erased_during_a_fetch_is_left_out_of_the_next() {
    let world = World::new().await;
    let lines = || Lines(call(1, 1, NUMBER) + &call(2, 1, "13025550102"));
    let source = source(2, [lines(), lines()]);
    let (report, opened) = run_interfered(&world, source, Interference::Erase, 1).await;
    assert_eq!((report.outcome, opened), (SliceOutcome::Committed, 2));
    let counts = world.commit().await.unwrap().counts;
    assert_eq!((counts.rows, counts.suppressed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_slice_is_fetched_once_another_run_has_released_its_lease() {
    let world = World::new().await;
    let other = open(&world.objects).await;
    let lease = other.try_lease(slice()).await.unwrap().unwrap();
    let held = Duration::from_secs(90);
    let begun = Instant::now();
    let (report, ()) = tokio::join!(world.run(source(3, [Calls(3)]), &[]), async {
        tokio::time::sleep(held).await;
        drop(lease);
        other.settle().await;
    });
    assert_eq!(
        (report.outcome, report.attempts),
        (SliceOutcome::Committed, 1)
    );
    assert!(begun.elapsed() >= held, "{:?}", begun.elapsed());
}

/// Oracle: a slice belongs to another day if most of its rows do.
#[tokio::test(start_paused = true)]
async fn a_slice_fails_if_more_than_half_of_its_rows_belong_to_another_day() {
    for near in 0..4 {
        for far in 0..4 {
            let days = (0..near).map(|_| 1).chain((0..far).map(|_| 15));
            let lines: String = (0..)
                .zip(days)
                .map(|(id, day)| call(id, day, "1"))
                .collect();
            if lines.is_empty() {
                continue;
            }
            let world = World::new().await;
            let report = world.run(source(near + far, [Lines(lines)]), &[]).await;
            let is_other_day = 2 * far > near + far;
            let rows = (!is_other_day).then_some(near + far);
            assert_eq!(
                world.rows().await,
                rows,
                "{near} near, {far} far: {report:?}"
            );
            let entry = world.lake.entry(slice()).await.entry;
            assert_eq!(entry.failed.is_some(), is_other_day);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slice_never_shrinks_unless_that_is_allowed() {
    for is_fixed in [false, true] {
        for allow_shrink in [false, true] {
            for now in [2, 3, 4] {
                let world = World::new().await;
                world.run(source(3, [Calls(3)]), &[]).await;
                let mut source = source(now, [Calls(now)]);
                source.is_fixed = is_fixed;
                let options = RunOptions {
                    allow_shrink,
                    ..RunOptions::default()
                };
                let report = world.run_with(source, &[], options).await;
                let (outcome, reason) = match now {
                    2 if !allow_shrink && is_fixed => {
                        (SliceOutcome::Failed, Some(Reason::ShorterExport))
                    }
                    2 if !allow_shrink => (SliceOutcome::Failed, Some(Reason::Shrank)),
                    3 => (SliceOutcome::Unchanged, None),
                    _ => (SliceOutcome::Committed, None),
                };
                assert_eq!(
                    (report.outcome, report.reason),
                    (outcome, reason),
                    "{report:?}"
                );
                let rows = if outcome == SliceOutcome::Failed {
                    3
                } else {
                    now
                };
                assert_eq!(world.rows().await, Some(rows));
                // A load that fails does not concern a slice that the lake has.
                let entry = world.lake.entry(slice()).await.entry;
                assert_eq!(entry.failed.is_some(), reason == Some(Reason::Shrank));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slice_committed_meanwhile_is_skipped_unless_this_run_would_prove_more() {
    let unseen = || Due {
        slice: slice(),
        why: DueReason::Missing,
        committed_token: None,
        committed_fetched_at: None,
        has_nothing: false,
    };
    // The other run's count was equal, or differed.
    for (count, outcome) in [(2, SliceOutcome::Skipped), (3, SliceOutcome::Committed)] {
        let world = World::new().await;
        let tolerant = [("quality.reconcile", "warn")];
        let answers = (0..9).map(|_| Calls(2));
        let other = world.run(source(count, answers), &tolerant).await;
        assert_eq!(other.outcome, SliceOutcome::Committed, "{other:?}");
        let options = RunOptions::default();
        let report = world.run_due(source(3, [Calls(3)]), &[], options, unseen());
        let report = report.await;
        assert_eq!(report.outcome, outcome, "{report:?}");
        let is_skipped = outcome == SliceOutcome::Skipped;
        assert_eq!(world.rows().await, Some(if is_skipped { 2 } else { 3 }));
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_fetch_after_the_end_of_a_day_is_recorded_although_its_content_is_equal() {
    let end: Timestamp = "2020-01-02T00:00:00Z".parse().unwrap();
    let just_before = "2020-01-01T23:59:59.999999999Z".parse().unwrap();
    // The slice stays open.
    let keys = [
        ("window.timezone", "UTC"),
        ("window.settle_hours", "1000000"),
    ];
    for (fetched_at, is_recorded) in [(just_before, true), (end, false)] {
        for calls in [0, 3] {
            let world = World::new().await;
            world.run(source(calls, [Calls(calls)]), &keys).await;
            let mut entry = world.lake.entry(slice()).await.entry;
            entry.committed.as_mut().unwrap().fetched_at = fetched_at;
            put_entry(&world.objects, &entry).await;

            let report = world.run(source(calls, [Calls(calls)]), &keys).await;
            assert_eq!(report.outcome, SliceOutcome::Unchanged, "{report:?}");
            let (before, after) = (entry.committed.unwrap(), world.commit().await.unwrap());
            assert_eq!(before.state, State::Open);
            assert!(after.has_equal_content(&before), "{after:?}");
            assert_eq!(after.fetched_at > fetched_at, is_recorded, "{after:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_its_slice_and_leaves_it_due() {
    #[derive(Debug)]
    struct Panicking(ScriptedSource);

    #[async_trait]
    impl Source for Panicking {
        async fn open(&self, _: Request) -> Result<Body, SourceError> {
            panic!("a bug")
        }

        async fn page(&self, request: Request, page: u64) -> Result<Body, SourceError> {
            self.0.page(request, page).await
        }

        async fn count(&self, request: Request) -> Result<u64, SourceError> {
            self.0.count(request).await
        }

        fn is_fixed(&self) -> bool {
            false
        }

        fn slow_down(&self, _: Duration) {}

        fn credentials(&self) -> &Arc<Credentials> {
            self.0.credentials()
        }
    }

    let world = World::new().await;
    let report = world.run(Panicking(source(3, [])), &[]).await;
    assert_eq!(report.outcome, SliceOutcome::Failed);
    let entry = world.lake.entry(slice()).await.entry;
    assert_eq!(entry.failed.unwrap().problem, Panicked.to_string());
    world.lake.settle().await;
    let state = world.lake.lease_state(slice()).await.unwrap();
    assert_eq!(
        state,
        crate::store::LeaseState::Free,
        "the lease is released"
    );
}
