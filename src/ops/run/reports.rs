//! Reports of runs in the lake: kept, read again, and made for runs that ended without one.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use object_store::path::Path;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::cdr::slice::Slice;
use crate::error::{MAKE_ROOM, is_disk_full};
use crate::lake::report::{RunReport, new_run_id};
use crate::lake::runs::{CrashedRun, MarkedRuns, RunMark, Traces};
use crate::lake::{Lake, LakeError, Unsynced};
use crate::ops::days::CLOCK_TOLERANCE;
use crate::store::Garbage;

/// Why concurrent runs are not safe on a store.
pub const IGNORES_CONDITIONS: &str =
    "the store ignores conditional writes, so it cannot keep concurrent runs apart";
/// A run that began so long ago and has committed nothing is looked at more closely.
const LONG_AGO: Duration = Duration::from_mins(10);

/// How long reports are kept: `cdrlake gc` removes those of runs that ended before. Whatever
/// follows them, a load above all, has so much time.
pub const KEPT_DAYS: i64 = 90;
/// Reports that are read at the same time: one may have some megabytes.
const CONCURRENT_READS: usize = 4;

/// The part of a report that concerns the table.
#[derive(Debug, Deserialize)]
pub(crate) struct ReportedRun {
    pub(crate) run: String,
    pub(crate) finished_at: Timestamp,
    pub(crate) partitions_changed: Vec<Date>,
    /// Those that were due.
    slices: Vec<Slice>,
}

/// A part of all readable reports, in no order. A damaged one is skipped with a warning.
pub(crate) async fn reports<T: DeserializeOwned>(
    lake: &Lake,
) -> Result<impl Stream<Item = Result<T, LakeError>>, LakeError> {
    let told = stream::iter(lake.runs().await?)
        .map(async |run| lake.run_report::<T>(&run).await)
        .buffer_unordered(CONCURRENT_READS);
    Ok(told.filter_map(async |told| match told {
        Err(error @ LakeError::Damaged { .. }) => {
            tracing::warn!("{} It is left out.", crate::error::chain(&error));
            None
        }
        told => told.transpose(),
    }))
}

/// What has changed, by all reports and the ledger.
#[derive(Debug)]
pub(crate) struct Changes {
    /// Each report, without its slices, which may be many.
    told: Vec<ReportedRun>,
    /// Days that, by the ledger, were changed by a run whose reports do not list them: it is
    /// active, or it crashed and nothing has recorded that.
    untold: BTreeSet<Date>,
    /// The clock skew to allow for when the ends of runs are compared.
    doubt: SignedDuration,
}

impl Changes {
    /// Reads them once.
    ///
    /// # Errors
    /// [`LakeError`] if the lake cannot be read.
    pub(crate) async fn read(lake: &Lake) -> Result<Self, LakeError> {
        // The ledger first: what is committed later has a report later.
        let first_kept = new_run_id(gone_before(Timestamp::now()));
        let mut untold: BTreeSet<(String, Slice)> = lake
            .all_entries()
            .await?
            .filter_map(|(slice, entry)| Some((entry.committed?.run, slice)))
            // Of older ones reports may be gone.
            .filter(|(run, _)| *run >= first_kept)
            .collect();
        let mut told = Vec::new();
        let mut reports = std::pin::pin!(reports::<ReportedRun>(lake).await?);
        while let Some(mut report) = reports.try_next().await? {
            for slice in std::mem::take(&mut report.slices) {
                untold.remove(&(report.run.clone(), slice));
            }
            told.push(report);
        }
        let lease = lake.lease_expiry().unwrap_or_default();
        Ok(Self {
            told,
            untold: untold
                .into_iter()
                .map(|(_, slice)| slice.period.first_day())
                .collect(),
            doubt: CLOCK_TOLERANCE + SignedDuration::try_from(lease).unwrap_or_default(),
        })
    }

    /// The report of the run that ended last. Names of runs only contain their start.
    pub(crate) fn last(&self) -> Option<&ReportedRun> {
        self.told.iter().max_by_key(|told| told.finished_at)
    }

    /// Days changed by runs that ended after `run`, or shortly before it, to allow for clock skew,
    /// and days that no report lists. `None` if there is no report of `run`.
    pub(crate) fn since(&self, run: &str) -> Option<BTreeSet<Date>> {
        let since = self.told.iter().find(|told| told.run == run)?;
        let is_later = |told: &&ReportedRun| {
            told.finished_at.duration_since(since.finished_at) > -self.doubt && told.run != run
        };
        let later = self.told.iter().filter(is_later);
        let changed = later.flat_map(|told| &told.partitions_changed);
        Some(changed.chain(&self.untold).copied().collect())
    }
}

/// Days changed by runs that ended after `run`, or shortly before it, to allow for clock skew.
/// Includes days that the ledger attributes to a run without a report: an active one, or one that
/// crashed. `None` if there is no report of `run`.
///
/// # Errors
/// [`LakeError`] if the lake cannot be read.
pub async fn changed_since(lake: &Lake, run: &str) -> Result<Option<BTreeSet<Date>>, LakeError> {
    Ok(Changes::read(lake).await?.since(run))
}

/// Removes the reports of runs that ended more than [`KEPT_DAYS`] before `now`, except the last
/// one. Lists in `garbage` which were removed, and which could not be read.
///
/// # Errors
/// [`LakeError`] if the lake cannot be listed or written.
pub(crate) async fn remove_old(
    lake: &Lake,
    now: Timestamp,
    garbage: &mut Garbage,
) -> Result<(), LakeError> {
    let limit = gone_before(now);
    let runs = lake.runs().await?;
    let kept = runs.len();
    let first_kept = new_run_id(limit);
    let mut old = Vec::new();
    // Names contain the start of runs.
    for run in runs.into_iter().filter(|run| *run < first_kept) {
        match lake.run_report::<ReportedRun>(&run).await {
            Ok(Some(told)) if told.finished_at >= limit => {}
            Ok(Some(told)) => old.push((told.finished_at, run)),
            Ok(None) => {}
            // A damaged report is of no use.
            Err(LakeError::Damaged { .. }) => old.push((Timestamp::MIN, run)),
            Err(error) => garbage.left.push(crate::error::chain(&error)),
        }
    }
    old.sort_unstable();
    if old.len() == kept {
        old.pop();
    }
    for (_, run) in old {
        let removed = lake.remove_report(&run).await?;
        garbage.removed.push(removed.to_string());
    }
    Ok(())
}

/// What ended before this instant has a report no longer.
fn gone_before(now: Timestamp) -> Timestamp {
    now.checked_sub(SignedDuration::from_hours(24 * KEPT_DAYS))
        .unwrap_or(Timestamp::MIN)
}

/// What a run leaves to do in the logs of table formats.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogWork {
    /// Slices whose changes a log may lack.
    pub(crate) changed: BTreeSet<Slice>,
    /// Slices that may have replaced files that are due for removal.
    pub(crate) replaced: BTreeSet<Slice>,
    /// Files that were replaced before are due for removal.
    pub(crate) limit: Timestamp,
}

/// What became of the report.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Whether the lake keeps it.
    pub(crate) is_kept: bool,
    /// Why the logs of table formats are not up to date, if they are not.
    pub(crate) log_error: Option<String>,
}

/// What a run finds when it begins.
#[derive(Debug)]
pub(crate) struct Begun {
    /// Whether others can see it. If not, it tries again before it writes anything.
    pub(crate) is_marked: Result<(), LakeError>,
    /// Runs that have not kept a report.
    pub(crate) marked: Result<MarkedRuns, LakeError>,
    /// Why the run may write nothing: where the store ignores conditions, nothing keeps two runs
    /// from harming each other.
    pub(crate) alone: Result<(), String>,
}

/// Marks a run when it begins, and keeps its report when it ends.
#[derive(Debug)]
pub(crate) struct ReportKeeper<'a> {
    pub(crate) lake: &'a Lake,
    pub(crate) mark: &'a RunMark,
    pub(crate) started_at: Timestamp,
    /// Cancelled if the run must not wait any longer.
    pub(crate) stops: [&'a CancellationToken; 2],
}

impl ReportKeeper<'_> {
    /// Marks the run, and looks for others, before this one writes its own name over theirs.
    pub(crate) async fn begin(&self) -> Begun {
        let is_marked = self.mark.ensure().await;
        let marked = self.lake.marked_runs(self.mark.run()).await;
        let alone = self.alone_if_it_must_be(&is_marked, &marked).await;
        Begun {
            is_marked,
            marked,
            alone,
        }
    }

    /// This run has marked itself before it looks, so of two that begin at once at least one sees
    /// the other.
    async fn alone_if_it_must_be(
        &self,
        is_marked: &Result<(), LakeError>,
        marked: &Result<MarkedRuns, LakeError>,
    ) -> Result<(), String> {
        let chain = |error: &LakeError| crate::error::chain(error);
        if let Err(error @ LakeError::NotAlone(_)) = is_marked {
            return Err(chain(error));
        }
        let honours = self.lake.honours_conditions().await;
        if honours.map_err(|error| chain(&error))? {
            return Ok(());
        }
        // Without a marker, other runs cannot detect this one.
        is_marked.as_ref().map_err(chain)?;
        for run in marked.as_ref().map_err(chain)?.keys() {
            let has_crashed = self.has_crashed(run, true).await;
            if !has_crashed.map_err(|error| chain(&error))? {
                return Err(format!(
                    "{IGNORES_CONDITIONS}, and run {run} may still be active. Run again when it \
                     has ended"
                ));
            }
        }
        Ok(())
    }

    /// Keeps the report in the lake, and with it what the `marked` runs had done that ended without
    /// one. Before that it brings the logs of table formats up to date, also for these runs.
    pub(crate) async fn keep(
        &self,
        marked: Result<MarkedRuns, LakeError>,
        report: &mut RunReport,
        work: Option<LogWork>,
    ) -> Kept {
        report.warnings.extend(self.mark.unseen());
        let marked = marked.unwrap_or_else(|error| {
            report.warnings.push(crate::error::chain(&error));
            MarkedRuns::new()
        });
        let crashed = self.find_crashed(marked, &mut report.warnings).await;
        let mut log_error = None;
        if let Some(mut work) = work {
            for (_, traces) in &crashed {
                let committed = traces.commits.iter().map(|(slice, _)| *slice);
                let announced = traces.announced.iter().copied();
                work.changed.extend(committed.chain(announced));
            }
            match self.finish_logs(work, &mut report.warnings).await {
                Ok(()) => {}
                Err(Unsynced { error, is_noted }) => {
                    let mut problem = crate::error::chain(&error);
                    if is_disk_full(&error) {
                        problem = format!("{problem}. {MAKE_ROOM}");
                    }
                    report.warnings.push(problem.clone());
                    log_error = Some(problem);
                    if !is_noted {
                        // The marker stays, so that a later run finds the changes.
                        return Kept {
                            is_kept: false,
                            log_error,
                        };
                    }
                }
            }
        }
        let crashed: Vec<(CrashedRun, RunReport)> = crashed
            .into_iter()
            .map(|(crashed, traces)| {
                let made = RunReport::of_crashed_run(crashed.run(), &traces.commits, &report.run);
                report.add_days_of_crashed_run(&made, &traces.announced);
                (crashed, made)
            })
            .collect();
        let mut kept = self.lake.end_run(&report.run, report).await;
        let is_kept = kept.is_ok();
        for (crashed, made) in crashed {
            // Only after it was reported: an interruption here reports a day twice, never omits it.
            if kept.is_ok() {
                kept = end_crashed(self.lake, crashed, &made).await;
            }
        }
        if let Err(error) = kept {
            report.warnings.push(format!(
                "the run report could not be stored in the lake: {}",
                crate::error::chain(&error)
            ));
        }
        Kept { is_kept, log_error }
    }

    /// Brings the logs up to date, and removes replaced files that no snapshot needs any more.
    async fn finish_logs(&self, work: LogWork, warnings: &mut Vec<String>) -> Result<(), Unsynced> {
        let (lake, run) = (self.lake, self.mark.run());
        lake.sync_after_run(work.changed, run).await?;
        if !work.replaced.is_empty() && self.stops.iter().all(|stop| !stop.is_cancelled()) {
            let removed = remove_replaced(lake, &work.replaced, work.limit).await;
            if let Err(error) = removed {
                warnings.push(format!(
                    "replaced files could not be removed: {}",
                    crate::error::chain(&error)
                ));
            }
        }
        Ok(())
    }

    /// The `marked` runs that have crashed, each with its traces. Undecided ones are left to the
    /// next run.
    async fn find_crashed(
        &self,
        mut marked: MarkedRuns,
        warnings: &mut Vec<String>,
    ) -> Vec<(CrashedRun, Traces)> {
        let mut warn = |error: &LakeError| warnings.push(crate::error::chain(error));
        let mut crashed = Vec::new();
        for (run, traces) in &marked {
            // Waiting is worthwhile if there is something to report, or the run started long ago.
            let is_patient = traces.is_any() || began_long_before(run, self.started_at);
            let claimed = match self.has_crashed(run, is_patient).await {
                Ok(true) => self.lake.claim_crashed(run).await,
                Ok(false) => Ok(None),
                Err(error) => Err(error),
            };
            match claimed {
                Ok(claimed) => crashed.extend(claimed),
                Err(error) => warn(&error),
            }
        }
        marked.retain(|run, _| crashed.iter().any(|crashed| crashed.run() == run));
        // Again, for what they have done since they were seen. From now on they cannot.
        if let Err(error) = self.lake.add_traces(&mut marked).await {
            warn(&error);
            // A crashed run is not reported in part.
            return Vec::new();
        }
        let with_traces = crashed.into_iter().map(|crashed| {
            let traces = marked.remove(crashed.run()).unwrap_or_default();
            (crashed, traces)
        });
        with_traces.collect()
    }

    /// Whether a run has crashed. An interrupted run does not wait to find out: the next run does.
    async fn has_crashed(&self, run: &str, is_patient: bool) -> Result<bool, LakeError> {
        tokio::select! {
            crashed = self.lake.has_crashed(run, is_patient) => crashed,
            () = self.stops[0].cancelled() => Ok(false),
            () = self.stops[1].cancelled() => Ok(false),
        }
    }
}

/// Pause between looks at a run in progress.
const RUN_POLL: Duration = Duration::from_secs(1);

/// What became of the other runs of a lake.
#[derive(Debug)]
pub(crate) enum OtherRuns {
    /// All have ended.
    Ended,
    /// This one crashed, and may continue if its process was only suspended.
    Crashed(String),
    /// This one is in progress, and waiting for it was interrupted.
    InProgress(String),
}

/// Waits until runs other than `this` have ended, or one of them has crashed.
///
/// # Errors
/// [`LakeError`] if the store fails.
pub(crate) async fn wait_for_other_runs(
    lake: &Lake,
    this: &str,
    interrupt: &CancellationToken,
) -> Result<OtherRuns, LakeError> {
    let mut is_logged = false;
    while let Some(run) = lake.unended_runs(this).await?.into_iter().next() {
        let has_crashed = tokio::select! {
            crashed = lake.has_crashed(&run, true) => crashed?,
            () = interrupt.cancelled() => return Ok(OtherRuns::InProgress(run)),
        };
        if has_crashed {
            return Ok(OtherRuns::Crashed(run));
        }
        if !std::mem::replace(&mut is_logged, true) {
            tracing::info!(run, "Waiting for a run that is in progress.");
        }
        tokio::select! {
            () = interrupt.cancelled() => return Ok(OtherRuns::InProgress(run)),
            () = tokio::time::sleep(RUN_POLL) => {}
        }
    }
    Ok(OtherRuns::Ended)
}

/// Ends a run that has crashed, unless it has continued, so that it cannot continue any more. Its
/// report is made by the run `made_by`. Logs may lack what it had done, which is noted.
///
/// # Errors
/// [`LakeError`] if the store fails.
pub(crate) async fn end_crashed_run(
    lake: &Lake,
    run: &str,
    made_by: &str,
) -> Result<(), LakeError> {
    let Some(crashed) = lake.claim_crashed(run).await? else {
        return Ok(());
    };
    let mut runs = MarkedRuns::from([(run.to_owned(), Traces::default())]);
    lake.add_traces(&mut runs).await?;
    let traces = runs.remove(run).unwrap_or_default();
    if traces.is_any() && lake.has_logs() {
        lake.note_unsynced(run).await?;
    }
    let made = RunReport::of_crashed_run(run, &traces.commits, made_by);
    end_crashed(lake, crashed, &made).await
}

/// Stores the report that was `made` for a crashed run, unless its own one is complete.
async fn end_crashed(lake: &Lake, crashed: CrashedRun, made: &RunReport) -> Result<(), LakeError> {
    let make = |found: Option<RunReport>| match found {
        None => Some(made.clone()),
        Some(found) => found.with_slices_found_since(made),
    };
    lake.end_crashed_run(crashed, make).await
}

/// Removes files of `slices` that were replaced before `limit` and that no snapshot needs. Leaves
/// slices whose lease another run holds to the next run.
///
/// # Errors
/// [`LakeError`] if the lake cannot be read or written.
pub(crate) async fn remove_replaced(
    lake: &Lake,
    slices: &BTreeSet<Slice>,
    limit: Timestamp,
) -> Result<Vec<Path>, LakeError> {
    let reachable = lake.expire_logs(limit).await?;
    let mut removed = Vec::new();
    for &slice in slices {
        if let Some(lease) = lake.try_lease(slice).await? {
            removed.extend(
                lake.remove_replaced(&*lease, slice, limit, &reachable, false)
                    .await?,
            );
        }
    }
    Ok(removed)
}

/// Whether a run started much earlier than `now`, by its name.
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
    use crate::cdr::slice::{Direction, parse_day};
    use crate::lake::TableChange;
    use crate::lake::identity::{FORMAT, Identity};
    use crate::lake::ledger::tests::commit;
    use crate::lake::ledger::{Failure, Pending, State};
    use crate::lake::report::{SliceOutcome, SliceReport};
    use crate::privacy::Privacy;
    use crate::store::bucket::{BucketOptions, BucketStore};
    use crate::store::layout;
    use crate::store::{LakeStore, Objects, Swap};

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
            tables: None,
            slice: None,
            converting: None,
            converting_run: None,
            source: Vec::new(),
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
        Slice::of_day(jiff::civil::date(2026, 10, day), Direction::Placed)
    }

    fn days(days: &[i8]) -> BTreeSet<Date> {
        days.iter()
            .map(|&day| slice(day).period.first_day())
            .collect()
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
        let staged = lake.stage(&before.entry, TableChange::Remove, None).await?;
        let published = lake.publish(mark, &*lease, before, staged, new, lake.privacy());
        published.await.map(drop)
    }

    /// Notes that the slice of a day failed, as a run does that could not fetch it.
    async fn fail(lake: &Lake, mark: &RunMark, day: i8) -> Result<(), LakeError> {
        let lease = lake.try_lease(slice(day)).await?.unwrap();
        let before = lake.usable_entry(slice(day)).await?;
        let failure = Failure {
            run: mark.run().to_owned(),
            at: Timestamp::now(),
            problem: "it broke".to_owned(),
            reason: None,
        };
        lake.fail(mark, &*lease, before, failure, None, lake.privacy())
            .await
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

    /// A run that ends, having seen the `marked` ones, and what it reports.
    async fn end(lake: &Lake, mark: &RunMark, marked: Result<MarkedRuns, LakeError>) -> RunReport {
        let mut report = report(mark.run(), &[]);
        let never = CancellationToken::new();
        let keeper = ReportKeeper {
            lake,
            mark,
            started_at: Timestamp::now(),
            stops: [&never, &never],
        };
        let kept = keeper.keep(marked, &mut report, None).await;
        assert!(kept.is_kept, "{report:?}");
        report
    }

    /// A run that does nothing but tell what others have done.
    async fn tell(lake: &Lake) -> RunReport {
        let mark = begin(lake, true).await;
        let marked = lake.marked_runs(mark.run()).await;
        end(lake, &mark, marked).await
    }

    /// Whether anything says that the run is under way.
    async fn is_marked(bucket: &InMemory, mark: &RunMark) -> bool {
        let path = format!("lake/{}", layout::run_marker(mark.run()));
        bucket.head(&path.into()).await.is_ok()
    }

    /// The process that holds a lease sleeps for so long that it expires.
    async fn sleep_beyond_the_lease(bucket: &InMemory, mark: &RunMark) {
        // The marker expires, because no process renews it: another one takes it over.
        let path = format!("lake/{}", layout::run_lease(mark.run()));
        bucket.delete(&path.into()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn changes_since_a_run_include_runs_that_ended_shortly_before_it() {
        let lake = process(&Arc::default()).await;
        let ended = |run: &str, minutes: i64, day: i8| ReportedRun {
            run: run.to_owned(),
            finished_at: Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes),
            partitions_changed: vec![slice(day).period.first_day()],
            slices: Vec::new(),
        };
        // Ten minutes that clocks may differ by, and one of a lease.
        let changes = Changes {
            told: vec![
                ended("long before", 88, 1),
                ended("eleven minutes before", 89, 2),
                ended("hardly before", 90, 3),
                ended("this", 100, 4),
                ended("after", 101, 5),
            ],
            ..Changes::read(&lake).await.unwrap()
        };
        assert_eq!(changes.since("this"), Some(days(&[3, 5])));
        assert_eq!(changes.since("another"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_declared_crashed_marks_itself_again_before_it_commits_more() {
        let bucket = Arc::new(InMemory::new());
        let (sleeper, other) = (process(&bucket).await, process(&bucket).await);
        let first = tell(&other).await;
        let mark = begin(&sleeper, true).await;
        publish(&sleeper, &mark, 1).await.unwrap();
        sleep_beyond_the_lease(&bucket, &mark).await;
        assert_eq!(
            tell(&other).await.partitions_changed,
            [slice(1).period.first_day()]
        );
        assert!(!is_marked(&bucket, &mark).await);
        // It wakes, commits a day, and is killed.
        publish(&sleeper, &mark, 2).await.unwrap();
        assert!(is_marked(&bucket, &mark).await);
        sleep_beyond_the_lease(&bucket, &mark).await;
        let told = tell(&other).await;
        assert!(
            told.partitions_changed
                .contains(&slice(2).period.first_day()),
            "{told:?}"
        );
        assert!(!is_marked(&bucket, &mark).await);
        let changed = changed_since(&other, &first.run).await.unwrap().unwrap();
        assert_eq!(changed, days(&[1, 2]));
        // The report that was made for it tells of both now, so that later loads need not.
        let kept: RunReport = other.run_report(mark.run()).await.unwrap().unwrap();
        assert_eq!(
            kept.partitions_changed,
            [slice(1).period.first_day(), slice(2).period.first_day()]
        );
        let last = tell(&other).await;
        let later = RunReport {
            finished_at: Timestamp::now() + SignedDuration::from_hours(1),
            ..report("later", &[])
        };
        other.end_run("later", &later).await.unwrap();
        assert!(last.partitions_changed.is_empty());
        let changed = changed_since(&other, "later").await.unwrap();
        assert_eq!(changed, Some(days(&[])));
        // Its own says it all.
        sleeper
            .end_run(mark.run(), &report(mark.run(), &[1, 2]))
            .await
            .unwrap();
        let kept: RunReport = other.run_report(mark.run()).await.unwrap().unwrap();
        assert_eq!(kept.partitions_changed.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn commits_made_after_a_run_was_seen_are_reported_once_it_has_crashed() {
        let bucket = Arc::new(InMemory::new());
        let (dying, other) = (process(&bucket).await, process(&bucket).await);
        let mark = begin(&dying, true).await;
        publish(&dying, &mark, 1).await.unwrap();
        let marked = other.marked_runs("").await;
        publish(&dying, &mark, 2).await.unwrap();
        sleep_beyond_the_lease(&bucket, &mark).await;
        let told = end(&other, &begin(&other, true).await, marked).await;
        assert_eq!(
            told.partitions_changed,
            [slice(1).period.first_day(), slice(2).period.first_day()]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_could_not_be_marked_at_its_start_is_marked_before_it_commits() {
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
        // Its lease is held for ever.
        let holder = other.mark(mark.run(), CancellationToken::new());
        holder.ensure().await.unwrap();
        let begun = tokio::time::Instant::now();
        let refused = publish(&lake, &mark, 1).await.unwrap_err();
        assert!(matches!(refused, LakeError::Unmarked { .. }), "{refused:?}");
        // It waited for as long as the lease of a crashed run lasts, and fetches nothing more.
        assert!(begun.elapsed() > LEASE, "{:?}", begun.elapsed());
        assert!(refused.fate().stops_the_run());
        assert_eq!(lake.ledger_slices(&Direction::ALL).await.unwrap(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_declared_crashed_writes_nothing_more_where_conditions_are_ignored() {
        let bucket = Arc::new(InMemory::new());
        let sleeper = open(store_in(&bucket).ignoring_conditions()).await;
        let other = open(store_in(&bucket).ignoring_conditions()).await;
        let mark = begin(&sleeper, true).await;
        publish(&sleeper, &mark, 1).await.unwrap();
        sleep_beyond_the_lease(&bucket, &mark).await;
        tell(&other).await;
        let refused = publish(&sleeper, &mark, 2).await.unwrap_err();
        assert!(matches!(refused, LakeError::NotAlone(_)), "{refused:?}");
        assert!(refused.fate().stops_the_run());
        for day in [1, 3] {
            sleeper.settle().await;
            let refused = fail(&sleeper, &mark, day).await.unwrap_err();
            assert!(matches!(refused, LakeError::NotAlone(_)), "{refused:?}");
            sleeper.settle().await;
            let lease = sleeper.try_lease(slice(day)).await.unwrap().unwrap();
            let removed = sleeper.remove_rejects(&mark, &*lease, slice(day), true);
            let refused = removed.await.unwrap_err();
            assert!(matches!(refused, LakeError::NotAlone(_)), "{refused:?}");
        }
        assert_eq!(sleeper.entry(slice(1)).await.entry.failed, None);
        let slices = sleeper.ledger_slices(&Direction::ALL).await.unwrap();
        assert_eq!(slices, [slice(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_since_a_run_include_commits_without_a_report_whatever_the_markers() {
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
    async fn old_reports_are_removed_except_the_last_one() {
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
        let remove_old = async |now| {
            let mut garbage = Garbage::default();
            remove_old(&lake, now, &mut garbage).await.unwrap();
            assert_eq!(garbage.left, [] as [&str; 0]);
            garbage.removed
        };
        let removed = remove_old(now).await;
        assert_eq!(removed.len(), 2, "{removed:?}");
        let left = lake.runs().await.unwrap();
        assert!(left.len() == 2 && left[0].ends_with('c'), "{left:?}");
        assert_eq!(remove_old(now).await, [] as [&str; 0]);
        remove_old(now + day(365)).await;
        assert_eq!(lake.runs().await.unwrap(), left[1..]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_day_announced_by_a_crashed_run_is_reported_and_its_commit_is_looked_for_later() {
        let bucket = Arc::new(InMemory::new());
        let store = store_in(&bucket);
        let (sleeper, other) = (process(&bucket).await, process(&bucket).await);
        let first = tell(&other).await;
        let mark = begin(&sleeper, true).await;
        publish(&sleeper, &mark, 1).await.unwrap();
        // As it is while the file is on its way.
        let path = layout::ledger_entry(slice(1));
        let committed = store.read(&path).await.unwrap().unwrap();
        let mut entry = other.entry(slice(1)).await.entry;
        entry.committed = None;
        entry.pending = Some(Pending {
            run: mark.run().to_owned(),
            token: "token".to_owned(),
            file: None,
            digest: crate::cdr::digest::Digest::default(),
            planned: None,
        });
        let announced = serde_json::to_vec(&entry).unwrap().into();
        let pending = store.replace(&path, announced, &committed.version).await;
        let Swap::Done(pending) = pending.unwrap() else {
            panic!("somebody else wrote");
        };
        sleep_beyond_the_lease(&bucket, &mark).await;
        assert_eq!(
            tell(&other).await.partitions_changed,
            [slice(1).period.first_day()]
        );
        // It is done after all, and its run dies before it looks whether it is seen.
        let done = store.replace(&path, committed.bytes, &pending).await;
        assert!(matches!(done, Ok(Swap::Done(_))));
        let changed = changed_since(&other, &first.run).await.unwrap();
        assert_eq!(changed, Some(days(&[1])));
        assert!(!is_marked(&bucket, &mark).await);
    }

    #[tokio::test(start_paused = true)]
    async fn one_damaged_report_does_not_hide_the_others() {
        let bucket = Arc::new(InMemory::new());
        let lake = process(&bucket).await;
        let first = tell(&lake).await;
        let mark = begin(&lake, true).await;
        publish(&lake, &mark, 1).await.unwrap();
        lake.end_run(mark.run(), &"damaged").await.unwrap();
        let changes = Changes::read(&lake).await.unwrap();
        assert_eq!(changes.last().unwrap().run, first.run);
        assert_eq!(changes.since(&first.run), Some(days(&[1])));
        assert_eq!(changes.since(mark.run()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_are_not_run_markers_are_left_alone() {
        let bucket = Arc::new(InMemory::new());
        let lake = process(&bucket).await;
        let path = format!("lake/{}/README", layout::RUNNING);
        bucket.put(&path.clone().into(), "".into()).await.unwrap();
        assert!(lake.marked_runs("").await.unwrap().is_empty());
        assert_eq!(tell(&lake).await.warnings, [] as [&str; 0]);
        assert!(bucket.head(&path.into()).await.is_ok());
    }

    #[tokio::test]
    async fn an_unreadable_report_does_not_keep_the_others_from_being_removed() {
        let directory = tempfile::tempdir().unwrap();
        let on_disk = crate::store::local::LocalStore::new(directory.path(), 0o600);
        on_disk.prepare().unwrap();
        let lake = open(on_disk).await;
        let old = RunReport {
            finished_at: Timestamp::UNIX_EPOCH,
            ..report("20200101T000000Z-00000001", &[1])
        };
        lake.end_run(&old.run, &old).await.unwrap();
        tell(&lake).await;
        let unreadable = directory.path().join(layout::RUNS);
        let unreadable = unreadable.join("20200101T000000Z-00000000.json");
        std::os::unix::fs::symlink("/", unreadable).unwrap();
        let mut garbage = Garbage::default();
        remove_old(&lake, Timestamp::now(), &mut garbage)
            .await
            .unwrap();
        assert!(garbage.removed[0].contains(&old.run), "{garbage:?}");
        assert!(garbage.left[0].contains("00000000.json"), "{garbage:?}");
    }

    #[tokio::test]
    async fn a_report_of_thousands_of_slices_is_stored_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let on_disk = crate::store::local::LocalStore::new(directory.path(), 0o600);
        on_disk.prepare().unwrap();
        let bucket = Arc::new(InMemory::new());
        let first = parse_day("2015-01-01").unwrap();
        let slices = first.series(jiff::Span::new().days(1)).take(4_000);
        let slices = slices.map(|day| {
            let direction = Direction::Placed;
            let mut report =
                SliceReport::new(Slice::of_day(day, direction), SliceOutcome::Committed);
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
