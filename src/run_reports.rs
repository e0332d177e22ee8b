//! Reports of runs in the lake: kept, read again, and made for runs that ended without one.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::lake::ledger::Commit;
use crate::lake::runs::{DeadRun, MarkedRuns};
use crate::lake::{Lake, LakeError};
use crate::plan::CLOCK_TOLERANCE;
use crate::report::{RunReport, new_run_id};
use crate::slice::Slice;

/// What is said of a store on which two runs would harm each other.
pub const IGNORES_CONDITIONS: &str =
    "the store ignores conditional writes, by which runs keep out of each other's way";
/// A run that began so long ago and has committed nothing is looked at more closely.
const LONG_AGO: Duration = Duration::from_mins(10);

/// How long reports are kept: `cdrlake gc` removes those of runs that ended before. Whatever
/// follows them, a load above all, has so much time.
pub const KEPT_DAYS: i64 = 90;
/// Reports that are read at the same time: one may have some megabytes.
const CONCURRENT_READS: usize = 4;

/// What a report tells of the table.
#[derive(Debug, Deserialize)]
pub(crate) struct Told {
    pub(crate) run: String,
    pub(crate) finished_at: Timestamp,
    pub(crate) partitions_changed: Vec<Date>,
    /// Those that were due.
    slices: Vec<Slice>,
}

/// What all reports tell that are kept, in no order.
pub(crate) async fn reports(
    lake: &Lake,
) -> Result<impl Stream<Item = Result<Told, LakeError>>, LakeError> {
    Ok(stream::iter(lake.runs().await?)
        .map(async |run| lake.run_report::<Told>(&run).await)
        .buffer_unordered(CONCURRENT_READS)
        .try_filter_map(|report| std::future::ready(Ok(report))))
}

/// Days that runs have changed which ended after `run`, or so shortly before that nobody can be
/// sure, and those which the ledger says were changed by a run of which no report tells it: one
/// that is under way, or died unseen. `None` if there is no report of `run`.
///
/// # Errors
/// [`LakeError`] if the lake cannot be read.
pub async fn changed_since(lake: &Lake, run: &str) -> Result<Option<BTreeSet<Date>>, LakeError> {
    let Some(since) = lake.run_report::<Told>(run).await? else {
        return Ok(None);
    };
    // The ledger first: what is committed later has a report later.
    let first_kept = new_run_id(gone_before(Timestamp::now()));
    let mut untold: BTreeSet<(String, Slice)> = lake
        .all_commits()
        .await?
        .map(|(slice, commit)| (commit.run, slice))
        // Of older ones reports may be gone.
        .filter(|(run, _)| *run >= first_kept)
        .collect();
    let doubt = CLOCK_TOLERANCE
        + SignedDuration::try_from(lake.lease_expiry().unwrap_or_default()).unwrap_or_default();
    let mut changed = BTreeSet::new();
    let mut reports = std::pin::pin!(reports(lake).await?);
    while let Some(told) = reports.try_next().await? {
        for slice in told.slices {
            untold.remove(&(told.run.clone(), slice));
        }
        let is_later = told.finished_at.duration_since(since.finished_at) > -doubt;
        if is_later && told.run != since.run {
            changed.extend(told.partitions_changed);
        }
    }
    changed.extend(untold.into_iter().map(|(_, slice)| slice.day));
    Ok(Some(changed))
}

/// Removes the reports of runs that ended more than [`KEPT_DAYS`] before `now`, except the last
/// one, and says which.
///
/// # Errors
/// [`LakeError`] if the lake cannot be read or written.
pub(crate) async fn remove_old(lake: &Lake, now: Timestamp) -> Result<Vec<String>, LakeError> {
    let limit = gone_before(now);
    let runs = lake.runs().await?;
    let kept = runs.len();
    let first_kept = new_run_id(limit);
    let mut old = Vec::new();
    // Names say when runs began.
    for run in runs.into_iter().filter(|run| *run < first_kept) {
        match lake.run_report::<Told>(&run).await {
            Ok(Some(told)) if told.finished_at >= limit => {}
            Ok(Some(told)) => old.push((told.finished_at, run)),
            Ok(None) => {}
            // Of no use to anybody.
            Err(LakeError::Damaged { .. }) => old.push((Timestamp::MIN, run)),
            Err(error) => return Err(error),
        }
    }
    old.sort_unstable();
    if old.len() == kept {
        old.pop();
    }
    let mut removed = Vec::new();
    for (_, run) in old {
        removed.push(lake.remove_report(&run).await?.to_string());
    }
    Ok(removed)
}

/// What ended before this instant has a report no longer.
fn gone_before(now: Timestamp) -> Timestamp {
    now.checked_sub(SignedDuration::from_hours(24 * KEPT_DAYS))
        .unwrap_or(Timestamp::MIN)
}

/// Keeps reports.
#[derive(Debug)]
pub(crate) struct ReportKeeper<'a> {
    pub(crate) lake: &'a Lake,
    pub(crate) started_at: Timestamp,
    /// Whoever cancels one of them does not want to wait.
    pub(crate) stops: [&'a CancellationToken; 2],
}

impl ReportKeeper<'_> {
    /// Keeps the report in the lake, and with it what the `marked` runs had done that ended without one. Whether it is
    /// kept.
    pub(crate) async fn keep(
        &self,
        marked: Result<MarkedRuns, LakeError>,
        report: &mut RunReport,
    ) -> bool {
        let marked = marked.unwrap_or_else(|error| {
            report.warnings.push(crate::error::chain(&error));
            MarkedRuns::new()
        });
        let dead = match self.find_dead(marked).await {
            Ok(dead) => dead,
            Err(error) => {
                report.warnings.push(crate::error::chain(&error));
                Vec::new()
            }
        };
        let dead: Vec<(DeadRun, RunReport)> = dead
            .into_iter()
            .map(|(dead, commits)| {
                let made = RunReport::of_dead_run(dead.run(), &commits, &report.run);
                (dead, made)
            })
            .collect();
        for (_, made) in dead.iter().filter(|(_, made)| !made.slices.is_empty()) {
            report.tell_for(made);
        }
        let mut kept = self.lake.end_run(&report.run, report).await;
        let is_kept = kept.is_ok();
        for (dead, made) in dead {
            // Only once it was told: whoever is interrupted here tells it twice, not never.
            if kept.is_ok() {
                kept = self.lake.end_dead_run(dead, &made).await;
            }
        }
        if let Err(error) = kept {
            report.warnings.push(format!(
                "the run report could not be kept in the lake: {}",
                crate::error::chain(&error)
            ));
        }
        is_kept
    }

    /// Of the `marked` runs those that are dead, each with what it has committed.
    async fn find_dead(
        &self,
        mut marked: MarkedRuns,
    ) -> Result<Vec<(DeadRun, Vec<(Slice, Commit)>)>, LakeError> {
        let mut dead = Vec::new();
        for (run, commits) in &marked {
            // Worth waiting for if there is something to tell, or if it should have ended long ago.
            let is_patient = !commits.is_empty() || began_long_before(run, self.started_at);
            if self.is_dead(run, is_patient).await? {
                dead.extend(self.lake.claim_dead(run).await?);
            }
        }
        marked.retain(|run, _| dead.iter().any(|dead| dead.run() == run));
        // Again, for what they have committed since they were seen. From now on they cannot.
        self.lake.add_commits(&mut marked).await?;
        let with_commits = dead.into_iter().map(|dead| {
            let commits = marked.remove(dead.run()).unwrap_or_default();
            (dead, commits)
        });
        Ok(with_commits.collect())
    }

    /// Of the `marked` runs one that may be under way. Whoever asks has marked itself before, so of two that begin at
    /// once at least one sees the other.
    pub(crate) async fn find_alive(
        &self,
        marked: &MarkedRuns,
    ) -> Result<Option<String>, LakeError> {
        for run in marked.keys() {
            if !self.is_dead(run, true).await? {
                return Ok(Some(run.clone()));
            }
        }
        Ok(None)
    }

    /// What is said to whoever has to be alone.
    pub(crate) fn describe_alive(run: &str) -> String {
        format!(
            "{IGNORES_CONDITIONS}, and run {run} seems to be under way. Run again when it has ended"
        )
    }

    /// Whether a run is dead. Who is interrupted does not wait to know: the next run will.
    pub(crate) async fn is_dead(&self, run: &str, is_patient: bool) -> Result<bool, LakeError> {
        tokio::select! {
            dead = self.lake.is_dead(run, is_patient) => dead,
            () = self.stops[0].cancelled() => Ok(false),
            () = self.stops[1].cancelled() => Ok(false),
        }
    }
}

/// Whether a run's name says that it began much earlier than `now`.
fn began_long_before(run: &str, now: Timestamp) -> bool {
    let name = now.checked_sub(LONG_AGO).map(new_run_id);
    name.is_ok_and(|then| *run < *then)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use object_store::{ObjectStore, ObjectStoreExt};

    use super::*;
    use crate::lake::TableChange;
    use crate::lake::bucket::{BucketOptions, BucketStore};
    use crate::lake::identity::{FORMAT, Identity};
    use crate::lake::layout;
    use crate::lake::ledger::State;
    use crate::lake::ledger::tests::commit;
    use crate::lake::runs::RunMark;
    use crate::lake::store::LakeStore;
    use crate::privacy::Privacy;
    use crate::report::{SliceOutcome, SliceReport};
    use crate::slice::{Direction, parse_day};

    const LEASE: Duration = Duration::from_mins(1);

    /// The lake in `bucket` as a process has it.
    async fn process(bucket: &Arc<InMemory>) -> Lake {
        open(store_in(bucket)).await
    }

    fn store_in(bucket: &Arc<InMemory>) -> BucketStore {
        let options = BucketOptions {
            single_put_bytes: 1 << 20,
            part_bytes: 1 << 20,
            lease: LEASE,
            storage_class: None,
            tags: object_store::TagSet::default(),
        };
        let url = "s3://bucket/lake".parse().unwrap();
        let bucket = Arc::clone(bucket) as Arc<dyn ObjectStore>;
        BucketStore::new(bucket, &url, options, &std::env::temp_dir())
    }

    async fn open(store: impl LakeStore + 'static) -> Lake {
        let identity = Identity {
            format: FORMAT,
            account: None,
            disposition: "all".to_owned(),
            sip_trunk: None,
            from_search: None,
            to_search: None,
            privacy: "keep".to_owned(),
            privacy_columns: std::collections::BTreeMap::new(),
            privacy_key_id: None,
            source_url: String::new(),
            timezone: "UTC".to_owned(),
            created_by: String::new(),
        };
        let opened = Lake::open(Arc::new(store), &identity, Privacy::default());
        opened.await.unwrap()
    }

    fn slice(day: i8) -> Slice {
        Slice {
            day: jiff::civil::date(2026, 10, day),
            direction: Direction::Placed,
        }
    }

    fn days(days: &[i8]) -> BTreeSet<Date> {
        days.iter().map(|&day| slice(day).day).collect()
    }

    /// A run that begins, and has marked itself if it `is_marked`.
    async fn begin(lake: &Lake, is_marked: bool) -> RunMark {
        let mark = lake.mark(&new_run_id(Timestamp::now()), CancellationToken::new());
        if is_marked {
            mark.ensure().await.unwrap();
        }
        mark
    }

    /// Commits the slice of a day, as a run does that has fetched it.
    async fn publish(lake: &Lake, mark: &RunMark, day: i8) -> Result<(), LakeError> {
        let lease = lake.try_lease(slice(day)).await?.unwrap();
        let before = lake.usable_entry(slice(day)).await?;
        let mut new = commit(None, State::Closed);
        mark.run().clone_into(&mut new.run);
        let staged = lake.stage(slice(day), TableChange::Remove, None).await?;
        let published = lake.publish(mark, &*lease, before, staged, new, lake.privacy());
        published.await.map(drop)
    }

    /// The report of a run that has changed these days.
    fn report(run: &str, days: &[i8]) -> RunReport {
        let slices = days.iter().map(|&day| SliceReport {
            table_changed: true,
            ..SliceReport::new(slice(day), SliceOutcome::Committed)
        });
        let now = Timestamp::now();
        RunReport::new(run.to_owned(), now, slices.collect(), false, Vec::new())
    }

    /// A run that does nothing but tell what others have done.
    async fn tell(lake: &Lake) -> RunReport {
        let mark = begin(lake, true).await;
        let marked = lake.marked_runs(mark.run()).await;
        let mut report = report(mark.run(), &[]);
        let never = CancellationToken::new();
        let keeper = ReportKeeper {
            lake,
            started_at: Timestamp::now(),
            stops: [&never, &never],
        };
        assert!(keeper.keep(marked, &mut report).await, "{report:?}");
        report
    }

    /// Whether anything says that the run is under way.
    async fn is_marked(bucket: &InMemory, mark: &RunMark) -> bool {
        let path = format!("lake/{}", layout::run_marker(mark.run()));
        bucket.head(&path.into()).await.is_ok()
    }

    /// The process that holds a lease sleeps for so long that it expires.
    async fn sleep_beyond_the_lease(bucket: &InMemory, mark: &RunMark) {
        // As a store has it that nobody renews: somebody takes it over and gives it back.
        let path = format!("lake/{}", layout::run_lease(mark.run()));
        bucket.delete(&path.into()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_was_taken_for_dead_marks_itself_again_before_it_commits_more() {
        let bucket = Arc::new(InMemory::new());
        let (sleeper, other) = (process(&bucket).await, process(&bucket).await);
        let first = tell(&other).await;
        let mark = begin(&sleeper, true).await;
        publish(&sleeper, &mark, 1).await.unwrap();
        sleep_beyond_the_lease(&bucket, &mark).await;
        assert_eq!(tell(&other).await.partitions_changed, [slice(1).day]);
        assert!(!is_marked(&bucket, &mark).await);
        // It wakes, commits a day, and is killed.
        publish(&sleeper, &mark, 2).await.unwrap();
        assert!(is_marked(&bucket, &mark).await);
        sleep_beyond_the_lease(&bucket, &mark).await;
        let told = tell(&other).await;
        assert!(told.partitions_changed.contains(&slice(2).day), "{told:?}");
        assert!(!is_marked(&bucket, &mark).await);
        let changed = changed_since(&other, &first.run).await.unwrap().unwrap();
        assert_eq!(changed, days(&[1, 2]));
        // The report that was made for it first is still the one that tells of the first day.
        let kept: RunReport = other.run_report(mark.run()).await.unwrap().unwrap();
        assert_eq!(kept.partitions_changed, [slice(1).day]);
        // Its own says it all.
        sleeper
            .end_run(mark.run(), &report(mark.run(), &[1, 2]))
            .await
            .unwrap();
        let kept: RunReport = other.run_report(mark.run()).await.unwrap().unwrap();
        assert_eq!(kept.partitions_changed.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_run_commits_after_it_was_seen_is_told_too_once_it_is_dead() {
        let bucket = Arc::new(InMemory::new());
        let (dying, other) = (process(&bucket).await, process(&bucket).await);
        let mark = begin(&dying, true).await;
        publish(&dying, &mark, 1).await.unwrap();
        let marked = other.marked_runs("").await;
        publish(&dying, &mark, 2).await.unwrap();
        sleep_beyond_the_lease(&bucket, &mark).await;
        let never = CancellationToken::new();
        let keeper = ReportKeeper {
            lake: &other,
            started_at: Timestamp::now(),
            stops: [&never, &never],
        };
        let mut told = report("told", &[]);
        assert!(keeper.keep(marked, &mut told).await);
        assert_eq!(told.partitions_changed, [slice(1).day, slice(2).day]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_could_not_mark_itself_when_it_began_does_so_before_it_commits() {
        let bucket = Arc::new(InMemory::new());
        let lake = process(&bucket).await;
        let mark = begin(&lake, false).await;
        publish(&lake, &mark, 1).await.unwrap();
        assert!(is_marked(&bucket, &mark).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_cannot_be_marked_commits_nothing() {
        let bucket = Arc::new(InMemory::new());
        let (lake, other) = (process(&bucket).await, process(&bucket).await);
        let mark = begin(&lake, false).await;
        // Somebody holds its lease for good.
        let holder = other.mark(mark.run(), CancellationToken::new());
        holder.ensure().await.unwrap();
        let refused = publish(&lake, &mark, 1).await;
        assert!(
            matches!(refused, Err(LakeError::Unmarked { .. })),
            "{refused:?}"
        );
        assert_eq!(lake.ledger_slices(&Direction::ALL).await.unwrap(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_was_taken_for_dead_writes_nothing_more_where_conditions_are_ignored() {
        let bucket = Arc::new(InMemory::new());
        let sleeper = open(store_in(&bucket).ignoring_conditions()).await;
        let other = open(store_in(&bucket).ignoring_conditions()).await;
        let mark = begin(&sleeper, true).await;
        publish(&sleeper, &mark, 1).await.unwrap();
        sleep_beyond_the_lease(&bucket, &mark).await;
        tell(&other).await;
        let refused = publish(&sleeper, &mark, 2).await;
        assert!(
            matches!(refused, Err(LakeError::NotAlone(_))),
            "{refused:?}"
        );
        let slices = sleeper.ledger_slices(&Direction::ALL).await.unwrap();
        assert_eq!(slices, [slice(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_ledger_says_that_no_report_tells_has_changed_since_whatever_the_marks_say() {
        let bucket = Arc::new(InMemory::new());
        let lake = process(&bucket).await;
        let first = tell(&lake).await;
        // Its marks are gone, and it has no report.
        let unseen = begin(&lake, true).await;
        publish(&lake, &unseen, 1).await.unwrap();
        lake.end_run(unseen.run(), &report(unseen.run(), &[1]))
            .await
            .unwrap();
        lake.remove_report(unseen.run()).await.unwrap();
        // One has a report that does not list the day.
        let forgetful = begin(&lake, true).await;
        publish(&lake, &forgetful, 2).await.unwrap();
        lake.end_run(forgetful.run(), &report(forgetful.run(), &[]))
            .await
            .unwrap();
        // One began months ago, and ended now.
        let long = lake.mark("20260801T000000Z-00000000", CancellationToken::new());
        publish(&lake, &long, 3).await.unwrap();
        lake.end_run(long.run(), &report(long.run(), &[3]))
            .await
            .unwrap();
        let changed = changed_since(&lake, &first.run).await.unwrap();
        assert_eq!(changed, Some(days(&[1, 2, 3])));
        assert_eq!(changed_since(&lake, "gone").await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn reports_of_runs_that_ended_long_ago_go_and_the_last_one_stays() {
        let bucket = Arc::new(InMemory::new());
        let lake = process(&bucket).await;
        let day = |days: i64| SignedDuration::from_hours(24 * days);
        let now: Timestamp = "2026-11-26T00:00:00Z".parse().unwrap();
        // Days ago when a run began, and when it ended.
        for (run, begun, ended) in [("a", 200, 120), ("b", 100, 91), ("c", 91, 89), ("d", 1, 1)] {
            let run = format!("{}{run}", new_run_id(now - day(begun)));
            let report = RunReport {
                finished_at: now - day(ended),
                ..report(&run, &[1])
            };
            lake.end_run(&run, &report).await.unwrap();
        }
        let removed = remove_old(&lake, now).await.unwrap();
        assert_eq!(removed.len(), 2, "{removed:?}");
        let left = lake.runs().await.unwrap();
        assert!(left.len() == 2 && left[0].ends_with('c'), "{left:?}");
        assert_eq!(remove_old(&lake, now).await.unwrap(), [] as [&str; 0]);
        remove_old(&lake, now + day(365)).await.unwrap();
        assert_eq!(lake.runs().await.unwrap(), left[1..]);
    }

    #[tokio::test]
    async fn a_report_of_thousands_of_slices_is_kept_and_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let on_disk = crate::lake::local::LocalStore::new(directory.path(), 0o600);
        on_disk.prepare().unwrap();
        let bucket = Arc::new(InMemory::new());
        let first = parse_day("2015-01-01").unwrap();
        let slices = first.series(jiff::Span::new().days(1)).take(4_000);
        let slices = slices.map(|day| {
            let direction = Direction::Placed;
            let mut report = SliceReport::new(Slice { day, direction }, SliceOutcome::Committed);
            report.totals.by_disposition = (0..64)
                .map(|number| (format!("{number:064}"), 1_000_000))
                .collect();
            report
        });
        let now = Timestamp::now();
        let report = RunReport::new("run".to_owned(), now, slices.collect(), false, Vec::new());
        for lake in [open(on_disk).await, process(&bucket).await] {
            // Also over one that is as long.
            lake.end_run("run", &report).await.unwrap();
            lake.end_run("run", &report).await.unwrap();
            let kept: RunReport = lake.run_report("run").await.unwrap().unwrap();
            assert!(kept == report);
        }
    }
}
