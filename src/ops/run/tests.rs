//! Runs from a scripted source into a lake in memory, where waiting costs no time.

use object_store::memory::InMemory;

use super::*;
use crate::cdr::slice::{Direction, Slice};
use crate::lake::report::RunOutcome;
use crate::ops::plan::DueReason;
use crate::retry::RetryReason;
use crate::source::SourceError;
use crate::source::scripted::{Answer, ScriptedSource};
use crate::store::bucket::BucketStore;
use Answer::{Calls, Cut, Fails};

fn slice(day: i8) -> Slice {
    Slice::of_day(jiff::civil::date(2026, 10, day), Direction::Placed)
}

/// A run of one request at a time, and what the lake has afterwards.
struct Ran {
    result: RunResult,
    lake: Lake,
    took: Duration,
}

impl Ran {
    /// Does the first `days` days of a month.
    async fn of(days: i8, source: &Arc<ScriptedSource>) -> Self {
        let config = Config::from_keys([
            ("lake.url", "s3://bucket/lake"),
            ("source.requests", "1"),
            ("source.max_attempts", "4"),
            ("source.retry_base", "1ms"),
        ])
        .unwrap();
        let store = BucketStore::in_memory(&Arc::new(InMemory::new()));
        let privacy = config.privacy(false).unwrap();
        let identity = config.identity(&privacy);
        let lake = Lake::open(Arc::new(store), &identity, privacy).await;
        let lake = lake.unwrap();
        let due = (1..=days).map(|day| Due {
            slice: slice(day),
            why: DueReason::Missing,
            committed_token: None,
            committed_fetched_at: None,
            has_nothing: false,
        });
        let begun = Instant::now();
        let result = run(
            Arc::new(config),
            lake.clone(),
            Arc::clone(source) as _,
            due.collect(),
            RunOptions::default(),
            Arc::new(()),
            CancellationToken::new(),
        );
        Self {
            result: result.await,
            lake,
            took: begun.elapsed(),
        }
    }

    fn slice(&self, day: i8) -> &SliceReport {
        let slices = &self.result.report.slices;
        slices
            .iter()
            .find(|found| found.slice() == slice(day))
            .unwrap()
    }

    /// What became of a day, after how many attempts.
    fn outcome(&self, day: i8) -> (SliceOutcome, u32) {
        (self.slice(day).outcome, self.slice(day).attempts)
    }

    fn error(&self, day: i8) -> &str {
        self.slice(day).error.as_deref().unwrap_or_default()
    }

    /// Rows that the lake has of a day, by its ledger; `None` if it has no file of it.
    async fn rows(&self, day: i8) -> Option<u64> {
        let entry = self.lake.entry(slice(day)).await.entry;
        let found = self.lake.table().file(&entry).await.unwrap();
        let rows = entry.committed.and_then(|commit| Some(commit.file?.rows));
        assert_eq!(
            found.is_some(),
            rows.is_some(),
            "the table is as the ledger says"
        );
        rows
    }
}

fn passing(retry_after: Option<Duration>) -> Answer {
    Fails(SourceError::Transient {
        reason: RetryReason::ServerError,
        problem: "the server is busy".to_owned(),
        retry_after,
        slow_down: retry_after.is_some(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_transient_error_is_retried_after_a_wait() {
    let answers = [passing(None), passing(None), Calls(3)];
    let source = Arc::new(ScriptedSource::new().with(slice(1), 3, answers));
    let ran = Ran::of(1, &source).await;
    assert_eq!(ran.outcome(1), (SliceOutcome::Committed, 3));
    assert_eq!(ran.rows(1).await, Some(3));
    assert_eq!(ran.result.report.outcome, RunOutcome::Committed);
    assert!(source.slowed_down.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn every_slice_waits_as_long_as_the_server_requests() {
    let wish = Duration::from_secs(90);
    let answers = [passing(Some(wish)), Calls(3)];
    let source = Arc::new(ScriptedSource::new().with(slice(1), 3, answers));
    let ran = Ran::of(1, &source).await;
    assert_eq!(ran.outcome(1), (SliceOutcome::Committed, 2));
    assert!(ran.took >= wish, "{:?}", ran.took);
    assert_eq!(*source.slowed_down.lock().unwrap(), [wish]);
}

#[tokio::test(start_paused = true)]
async fn attempts_are_limited_and_the_report_contains_their_number() {
    let answers = (0..9).map(|_| passing(None));
    let source = Arc::new(ScriptedSource::new().with(slice(1), 3, answers));
    let ran = Ran::of(1, &source).await;
    assert_eq!(ran.outcome(1), (SliceOutcome::Failed, 4));
    assert_eq!(ran.error(1), "after 4 attempts: the server is busy");
    assert_eq!(ran.result.stopped_by, None);
}

#[tokio::test(start_paused = true)]
async fn a_refused_key_ends_the_run() {
    let refused = Fails(SourceError::Refused {
        status: reqwest::StatusCode::UNAUTHORIZED,
        message: "no".to_owned(),
        hint: "",
    });
    let source = ScriptedSource::new()
        .with(slice(1), 3, [refused])
        .with(slice(2), 3, [Calls(3)]);
    let ran = Ran::of(2, &Arc::new(source)).await;
    assert_eq!(ran.outcome(1), (SliceOutcome::Failed, 1));
    assert_eq!(ran.outcome(2), (SliceOutcome::Skipped, 0));
    assert!(matches!(ran.result.stopped_by, Some(Stop::KeyRefused(_))));
    let entry = ran.lake.entry(slice(1)).await.entry;
    assert_eq!(entry.failed, None, "it says nothing of the slice");
}

#[tokio::test(start_paused = true)]
async fn a_failed_slice_does_not_stop_the_others() {
    let broken = Fails(SourceError::Permanent("the day is broken".to_owned()));
    let source = ScriptedSource::new()
        .with(slice(1), 3, [broken])
        .with(slice(2), 3, [Calls(3)]);
    let ran = Ran::of(2, &Arc::new(source)).await;
    assert_eq!(ran.outcome(1), (SliceOutcome::Failed, 1));
    assert_eq!(ran.outcome(2), (SliceOutcome::Committed, 1));
    assert_eq!(ran.result.report.outcome, RunOutcome::Partial);
    let entry = ran.lake.entry(slice(1)).await.entry;
    let noted = entry.failed.map(|failure| failure.problem);
    assert_eq!(noted.as_deref(), Some("the day is broken"));
}

#[tokio::test(start_paused = true)]
async fn a_truncated_body_is_never_published() {
    let source = ScriptedSource::new()
        .with(slice(1), 3, (0..9).map(|_| Cut(3)))
        .with(slice(2), 3, [Cut(2), Calls(3)]);
    let ran = Ran::of(2, &Arc::new(source)).await;
    assert_eq!(ran.outcome(1), (SliceOutcome::Failed, 4));
    assert_eq!(
        ran.rows(1).await,
        None,
        "although as many came as are counted"
    );
    assert_eq!(ran.outcome(2), (SliceOutcome::Committed, 2));
    assert_eq!(ran.rows(2).await, Some(3));
}

// With paused time, a wait ends at once even while a thread converts.
#[tokio::test]
async fn a_truncated_page_is_requested_again_without_the_pages_before_it() {
    let answers = [Calls(25), Calls(25), Cut(3), Calls(10)];
    let source = Arc::new(ScriptedSource::new().with(slice(1), 60, answers));
    let ran = Ran::of(1, &source).await;
    assert_eq!(ran.outcome(1), (SliceOutcome::Committed, 1));
    assert_eq!(ran.rows(1).await, Some(60));
}

#[tokio::test(start_paused = true)]
async fn a_count_mismatch_is_tried_three_times_or_once_if_the_source_is_fixed() {
    for (is_fixed, attempts) in [(false, 3), (true, 1)] {
        let answers = (0..9).map(|_| Calls(2));
        let mut source = ScriptedSource::new().with(slice(1), 3, answers);
        source.is_fixed = is_fixed;
        let ran = Ran::of(1, &Arc::new(source)).await;
        assert_eq!(ran.outcome(1), (SliceOutcome::Failed, attempts));
        assert_eq!(ran.rows(1).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_foreign_answer_is_requested_at_most_three_times() {
    let foreign = || Fails(SourceError::Foreign("a web page".to_owned()));
    let source = ScriptedSource::new()
        .with(slice(1), 3, (0..9).map(|_| foreign()))
        .with(slice(2), 3, [foreign(), foreign(), Calls(3)]);
    let ran = Ran::of(2, &Arc::new(source)).await;
    assert_eq!(ran.outcome(1), (SliceOutcome::Failed, 3));
    assert_eq!(ran.error(1), "after 3 attempts: a web page");
    assert_eq!(ran.outcome(2), (SliceOutcome::Committed, 3));
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_after_max_elapsed() {
    let longest = Duration::from_hours(2);
    let source = ScriptedSource::new().with(slice(1), 3, [passing(Some(longest)), Calls(3)]);
    let ran = Ran::of(1, &Arc::new(source)).await;
    assert_eq!(ran.outcome(1), (SliceOutcome::Failed, 1));
    let problem = "source.max_elapsed is used up after 1 attempt: the server is busy";
    assert_eq!(ran.error(1), problem);
    assert!(ran.took < longest);
}
