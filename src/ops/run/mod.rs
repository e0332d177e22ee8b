//! A run: every due slice from request to ledger. Only this module uses all stages.

mod log_commits;
pub mod reports;
mod slice;

use std::collections::{BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use jiff::civil::Date;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Observer;
use super::fetch::Fetcher;
use super::plan::{Due, keep_limit};
use crate::cdr::slice::Slice;
use crate::config::Config;
use crate::error::Panicked;
use crate::lake::Lake;
use crate::lake::report::{Remark, RunReport, SliceOutcome, SliceReport, new_run_id};
use crate::lake::runs::RunMark;
use crate::retry::StopCause;
use crate::source::Source;
use crate::store::bucket;
use crate::store::location::Location;
use log_commits::Unlogged;
pub use reports::IGNORES_CONDITIONS;
use reports::{Kept, LogWork, ReportKeeper};

/// How long to leave a slice alone that another run works on.
const HELD_LEASE_POLL: Duration = Duration::from_secs(1);
/// Memory of a slice on its way into the table, besides what is uploaded of it.
const PUBLISHING_OVERHEAD_BYTES: usize = 2 << 20;

/// Options of a run beyond its plan.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Whether a slice may lose rows against the ledger.
    pub allow_shrink: bool,
    /// The first day that was chosen for this run. It takes precedence over a later
    /// `window.start`.
    pub from: Option<Date>,
    /// Whether periods are fetched up to the day that has not ended, instead of the day before.
    pub include_today: bool,
    /// Remarks for the report, independent of the slices.
    pub remarks: Vec<Remark>,
    /// Slices that may have replaced files that are due for removal.
    pub replaced: BTreeSet<Slice>,
}

/// Everything that the slices of one run share.
#[derive(Debug)]
struct Context {
    /// Fetches as many slices at a time as `source.requests`. Others may be published at the same
    /// time.
    fetcher: Fetcher,
    lake: Lake,
    options: RunOptions,
    run: String,
    /// Shows others that the run is active.
    mark: RunMark,
    /// Set when no slice is to be published any more; that stops the fetcher, too.
    halt: CancellationToken,
    stopped_by: Mutex<Option<Stop>>,
    /// Slices that are published and that the logs of table formats lack.
    unlogged: Unlogged,
}

/// Why a run ended before its slices were done, or before the logs of table formats had them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A signal.
    Interrupted,
    /// The API refused the key: no slice would fare better.
    KeyRefused(String),
    /// The API never answered, or wants to be left alone for long: no slice would fare better. What
    /// was read whole is still published.
    NoSource(String),
    /// The lake or the spool cannot be written: no slice would fare better.
    NoLake(String),
    /// The slices are done, but the log of a table format lacks them.
    NoLog(String),
}

impl Stop {
    fn at(cause: StopCause, why: String) -> Self {
        match cause {
            StopCause::Key => Self::KeyRefused(why),
            StopCause::Source => Self::NoSource(why),
            StopCause::Lake => Self::NoLake(why),
        }
    }
}

impl Context {
    /// Ends the run for every slice; the first reason counts.
    fn stop(&self, stop: &Stop) {
        self.stopped_by
            .lock()
            .expect("no code panics while it holds the lock")
            .get_or_insert_with(|| stop.clone());
        match stop {
            Stop::KeyRefused(_) | Stop::NoSource(_) => self.fetcher.stop.cancel(),
            Stop::Interrupted | Stop::NoLake(_) | Stop::NoLog(_) => self.halt.cancel(),
        }
    }

    /// Memory that publishing one slice may take.
    fn publishing_memory_bytes(&self) -> usize {
        let config = &self.fetcher.config;
        let uploaded = match &config.lake.url {
            Location::Directory(_) => 0,
            Location::Bucket(_) => usize::try_from(config.limits.single_put_bytes)
                .unwrap_or(usize::MAX)
                .max(bucket::PART_BYTES * bucket::PARTS_IN_FLIGHT),
        };
        uploaded.saturating_add(PUBLISHING_OVERHEAD_BYTES)
    }
}

/// What a run ended with.
#[derive(Debug)]
pub struct RunResult {
    /// The run report, also kept in the lake.
    pub report: RunReport,
    /// Whether the lake keeps the report.
    pub is_kept: bool,
    /// The remarks among the warnings of the report.
    pub remarks: Vec<Remark>,
    /// Why it ended early, if it did.
    pub stopped_by: Option<Stop>,
}

/// Does the slices that are `due`, `source.requests` at a time, and keeps a report of it in the
/// lake. Failures of slices are in the report; a run as such does not fail.
///
/// Cancelling `interrupt` makes slices under way give up cleanly: the table holds for each slice
/// what it held before, or the whole new content.
pub async fn run(
    config: Arc<Config>,
    lake: Lake,
    source: Arc<dyn Source>,
    due: Vec<Due>,
    options: RunOptions,
    observer: Arc<dyn Observer>,
    interrupt: CancellationToken,
) -> RunResult {
    observer.slices_began(due.len());
    let halt = CancellationToken::new();
    let fetcher = Fetcher::new(
        config,
        source,
        observer,
        lake.spool_dir().to_owned(),
        options.from,
        options.include_today,
        halt.child_token(),
    );
    let started_at = fetcher.started_at;
    let run = new_run_id(started_at);
    let context = Arc::new(Context {
        mark: lake.mark(&run, halt.clone()),
        fetcher,
        lake,
        options,
        run,
        halt,
        stopped_by: Mutex::default(),
        unlogged: Unlogged::default(),
    });
    let remarks = context.lake.remarks.iter().chain(&context.options.remarks);
    let remarks: Vec<Remark> = remarks.cloned().collect();
    for remark in &remarks {
        context.fetcher.warn(remark.text.clone());
    }

    let keeper = ReportKeeper {
        lake: &context.lake,
        mark: &context.mark,
        started_at,
        stops: [&context.fetcher.stop, &interrupt],
    };
    let begun = keeper.begin().await;
    if let Err(error) = &begun.is_marked {
        tracing::warn!("{}", crate::error::chain(error));
    }
    if matches!(context.lake.honours_conditions().await, Ok(false)) {
        context.fetcher.warn(format!(
            "{IGNORES_CONDITIONS}: nothing else may write to this lake during this run"
        ));
    }
    let may_write = begun.alone.is_ok();
    if let Err(problem) = begun.alone {
        context.stop(&Stop::NoLake(problem));
    }

    let logged = log_commits::spawn(&context);
    let reports = work_off(&context, due, &interrupt).await;
    logged.end().await;
    let stopped_by = context
        .stopped_by
        .lock()
        .expect("no code panics while it holds the lock")
        .clone();
    let warnings = context.fetcher.take_warnings();
    let interrupted = stopped_by == Some(Stop::Interrupted);
    let mut report = RunReport::new(
        context.run.clone(),
        started_at,
        reports,
        interrupted,
        warnings,
    );
    report.retries = context.fetcher.retries.by_reason();
    report.bytes_received = context.fetcher.bytes_received.load(Ordering::Relaxed);
    say_what_was_redacted(&report);
    let work = LogWork {
        changed: context.unlogged.take(),
        replaced: context.options.replaced.clone(),
        limit: keep_limit(&context.fetcher.config, started_at),
    };
    let Kept { is_kept, log_error } = keeper
        .keep(begun.marked, &mut report, may_write.then_some(work))
        .await;
    let stopped_by = stopped_by.or(log_error.map(Stop::NoLog));
    let lake = context.lake.clone();
    context.fetcher.observer.ended();
    // Until here, the run is active for others.
    drop(context);
    lake.settle().await;
    RunResult {
        report,
        is_kept,
        remarks,
        stopped_by,
    }
}

/// Does what is due with as many workers as there may be, and reports on every slice.
async fn work_off(
    context: &Arc<Context>,
    due: Vec<Due>,
    interrupt: &CancellationToken,
) -> Vec<SliceReport> {
    let waiting = due.into_iter().map(|due| Waiting {
        due,
        not_before: None,
        lost_leases: 0,
    });
    let queue: Queue = Arc::new(Mutex::new(waiting.collect()));
    let mut workers = JoinSet::new();
    // As many fetch, and as many may be on their way into the table.
    for _ in 0..context.fetcher.config.source.requests.saturating_mul(2) {
        workers.spawn(work(Arc::clone(context), Arc::clone(&queue)));
    }
    let mut reports = Vec::new();
    loop {
        tokio::select! {
            () = interrupt.cancelled(), if !context.halt.is_cancelled() => {
                context.stop(&Stop::Interrupted);
            }
            worker = workers.join_next() => match worker {
                Some(worker) => reports.extend(worker.expect("a worker catches what panics")),
                None => break,
            },
        }
    }
    let never_begun = std::mem::take(
        &mut *queue
            .lock()
            .expect("no code panics while it holds the lock"),
    );
    reports.extend(never_begun.into_iter().map(|waiting| SliceReport {
        error: Some("the run ended before this slice was started".to_owned()),
        ..SliceReport::new(waiting.due.slice, SliceOutcome::Skipped)
    }));
    reports
}

/// Logs once that records contained credentials. It is not a warning of the report, because the
/// user cannot act on it.
fn say_what_was_redacted(report: &RunReport) {
    let records = report.totals.counts.redacted;
    if records > 0 {
        tracing::warn!(
            records,
            "Records contained credentials (in addresses, or the API key); these were replaced by \
             [redacted]."
        );
    }
}

/// A slice that waits for a worker.
#[derive(Debug)]
struct Waiting {
    due: Due,
    /// Another run held it: it is left alone until then.
    not_before: Option<Instant>,
    /// How often another run took it over.
    lost_leases: u32,
}

type Queue = Arc<Mutex<VecDeque<Waiting>>>;

/// Takes slices from the queue until it is empty or the run stops.
async fn work(context: Arc<Context>, queue: Queue) -> Vec<SliceReport> {
    let mut reports = Vec::new();
    loop {
        // Before a slice is taken, so that a waiting worker blocks no other, and slices start in
        // order.
        let room = tokio::select! {
            biased;
            () = context.fetcher.stop.cancelled() => break,
            room = context.fetcher.room_to_fetch() => room,
        };
        let next = queue
            .lock()
            .expect("no code panics while it holds the lock")
            .pop_front();
        let Some(mut waiting) = next else { break };
        if let Some(not_before) = waiting.not_before {
            // Only slices that others hold are left once one comes round again too early.
            tokio::select! {
                // It is started nevertheless, and reports that the run was stopped.
                () = context.fetcher.stop.cancelled() => {}
                () = tokio::time::sleep_until(not_before) => {}
            }
        }
        let slice = waiting.due.slice;
        let process = slice::process(&context, &waiting, room);
        // One slice's panic is that slice's failure.
        let processed = AssertUnwindSafe(process).catch_unwind().await;
        let processed = processed.unwrap_or_else(|_| {
            tracing::error!(slice = slice.to_string(), "{Panicked}");
            Ok(SliceReport {
                error: Some(Panicked.to_string()),
                ..SliceReport::new(slice, SliceOutcome::Failed)
            })
        });
        match processed {
            Ok(report) => {
                let tell = AssertUnwindSafe(|| context.fetcher.observer.slice_ended(&report));
                // The slice's outcome does not depend on the observer.
                if std::panic::catch_unwind(tell).is_err() {
                    context.fetcher.warn(format!("{slice}: {Panicked}"));
                }
                reports.push(report);
            }
            Err(later) => {
                waiting.lost_leases += u32::from(later == slice::Requeue::TakenOver);
                waiting.not_before = Some(Instant::now() + HELD_LEASE_POLL);
                queue
                    .lock()
                    .expect("no code panics while it holds the lock")
                    .push_back(waiting);
            }
        }
    }
    reports
}

#[cfg(test)]
mod tests;
