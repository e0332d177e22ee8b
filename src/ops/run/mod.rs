//! A run: every due slice from request to ledger. Only this module uses all stages.

mod attempts;
mod fetch;
mod log_commits;
pub mod reports;
mod slice;

use std::collections::{BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Observer;
use super::days::{CLOCK_TOLERANCE, today};
use super::plan::{Due, keep_limit};
use crate::body::csv::describe_missing;
use crate::cdr::slice::Slice;
use crate::config::Config;
use crate::error::Panicked;
use crate::lake::Lake;
use crate::lake::ledger::Commit;
use crate::lake::report::{Remark, RunReport, SliceOutcome, SliceReport, new_run_id};
use crate::lake::runs::RunMark;
use crate::retry::StopCause;
use crate::source::{Request, Source};
use crate::store::bucket;
use crate::store::location::Location;
use log_commits::Unlogged;
pub use reports::IGNORES_CONDITIONS;
use reports::{Kept, LogWork, ReportKeeper};

/// How long to leave a slice alone that another run works on.
const HELD_LEASE_POLL: Duration = Duration::from_secs(1);
/// Unit in which slices share `limits.memory`.
const MEMORY_UNIT_BYTES: usize = 1 << 20;
/// Memory of a slice besides its row group and its longest record: three batches, sort runs of the
/// duplicate search, compression, and a zstd stream's window (8 MiB at most).
const SLICE_OVERHEAD_BYTES: usize = 31 << 20;

/// Memory of a slice on its way into the table, besides what is uploaded of it.
const PUBLISHING_OVERHEAD_BYTES: usize = 2 << 20;

/// Options of a run beyond its plan.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Whether a slice may lose rows against the ledger.
    pub allow_shrink: bool,
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
    config: Arc<Config>,
    lake: Lake,
    source: Arc<dyn Source>,
    options: RunOptions,
    observer: Arc<dyn Observer>,
    run: String,
    /// Shows others that the run is active.
    mark: RunMark,
    started_at: Timestamp,
    /// `source.requests`: slices that are fetched at the same time. Others may be published at the
    /// same time.
    fetching: Semaphore,
    /// `limits.memory` without a tenth, in [`MEMORY_UNIT_BYTES`]. The tenth holds the bytes between
    /// sockets and decoders: the windows of HTTP/2, or the chunks in flight of every slice (3 MiB
    /// at most, where a slice takes 31 MiB).
    memory: Semaphore,
    memory_units: u32,
    /// Set when no slice is to be fetched any more.
    stop: CancellationToken,
    /// Set when none is to be published either; that sets `stop`, too.
    halt: CancellationToken,
    stopped_by: Mutex<Option<Stop>>,
    warnings: Mutex<Vec<String>>,
    /// Slices that are published and that the logs of table formats lack.
    unlogged: Unlogged,
    /// Whether a clock that is wrong was already spoken of.
    clock_warned: AtomicBool,
    /// Columns of CSV whose absence was.
    columns_warned: Mutex<BTreeSet<&'static str>>,
}

/// Why a run ended before its slices were done.
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
    /// What is asked of the source for a slice: its days that had ended when the run began, and
    /// today if the run includes it. Never fewer days than the lake has: the others would be lost.
    fn request(&self, slice: Slice, committed: Option<&Commit>) -> Request {
        let window = &self.config.window;
        let today = today(window, self.started_at);
        let last_possible = if self.options.include_today {
            today
        } else {
            today.yesterday().unwrap_or(today)
        };
        let Slice { period, .. } = slice;
        let in_lake = committed.map(|commit| commit.through.unwrap_or(period.last_day()));
        let last_day = in_lake.map_or(last_possible, |in_lake| in_lake.max(last_possible));
        Request {
            slice,
            last_day: last_day.clamp(period.first_day(), period.last_day()),
        }
    }

    fn warn(&self, warning: String) {
        tracing::warn!("{warning}");
        self.warnings
            .lock()
            .expect("no code panics while it holds the lock")
            .push(warning);
    }

    /// The text with the source's keys hidden.
    fn hide_keys(&self, text: &str) -> String {
        self.source.credentials().hide_keys(text)
    }

    /// Warns, once, of a clock that differs from the server's by so much that days end too early or
    /// too late.
    fn compare_clocks(&self, server_time: Timestamp, time_here: Timestamp) {
        let ahead = time_here.duration_since(server_time);
        if ahead.abs() > CLOCK_TOLERANCE && !self.clock_warned.swap(true, Ordering::Relaxed) {
            let than = if ahead.is_negative() {
                "behind"
            } else {
                "ahead of"
            };
            let minutes = ahead.abs().as_mins();
            self.warn(format!(
                "this machine's clock is {minutes} minutes {than} the provider's. Correct it: it \
                 decides which days have ended"
            ));
        }
    }

    /// Warns that the CSV has no columns for some fields, once of each.
    fn warn_of_missing_columns(&self, fields: &[&'static str]) {
        let mut warned = self
            .columns_warned
            .lock()
            .expect("no code panics while it holds the lock");
        let new = fields.iter().copied().filter(|field| warned.insert(field));
        let new: Vec<_> = new.collect();
        if !new.is_empty() {
            self.warn(describe_missing(&new));
        }
    }

    /// Ends the run for every slice; the first reason counts.
    fn stop(&self, stop: &Stop) {
        self.stopped_by
            .lock()
            .expect("no code panics while it holds the lock")
            .get_or_insert_with(|| stop.clone());
        match stop {
            Stop::KeyRefused(_) | Stop::NoSource(_) => self.stop.cancel(),
            Stop::Interrupted | Stop::NoLake(_) => self.halt.cancel(),
        }
    }

    /// Waits until one more slice may be fetched.
    async fn room_to_fetch(&self) -> RoomToFetch<'_> {
        let never = "the semaphores are never closed";
        let request = self.fetching.acquire().await.expect(never);
        let memory = self.memory.acquire_many(self.slice_memory_units());
        RoomToFetch {
            _request: request,
            memory: memory.await.expect(never),
        }
    }

    /// Memory that publishing one slice may take, in units, never more than fetching it took.
    fn publishing_memory_units(&self) -> u32 {
        let uploaded = match &self.config.lake.url {
            Location::Directory(_) => 0,
            Location::Bucket(_) => usize::try_from(self.config.limits.single_put_bytes)
                .unwrap_or(usize::MAX)
                .max(bucket::PART_BYTES * bucket::PARTS_IN_FLIGHT),
        };
        let bytes = uploaded.saturating_add(PUBLISHING_OVERHEAD_BYTES);
        in_memory_units(bytes).min(self.slice_memory_units())
    }

    /// Memory that one slice may take, in units, never more than there is.
    fn slice_memory_units(&self) -> u32 {
        // A record as large as it may be can lie in the framer, in three batches, in a dictionary
        // and its array, in a page, and compressed twice.
        let records = self.config.limits.max_record_bytes.saturating_mul(9);
        let bytes = SLICE_OVERHEAD_BYTES
            .saturating_add(self.config.parquet.row_group_bytes)
            .saturating_add(records);
        in_memory_units(bytes).min(self.memory_units)
    }
}

fn in_memory_units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(MEMORY_UNIT_BYTES)).unwrap_or(u32::MAX)
}

/// The right to fetch a slice, and the memory for it.
struct RoomToFetch<'a> {
    _request: SemaphorePermit<'a>,
    memory: SemaphorePermit<'a>,
}

impl<'a> RoomToFetch<'a> {
    /// Gives back all but what publishing takes.
    fn until_published(mut self, context: &Context) -> SemaphorePermit<'a> {
        let units = usize::try_from(context.publishing_memory_units()).unwrap_or(usize::MAX);
        self.memory
            .split(units)
            .expect("publishing takes no more than fetching")
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
    let started_at = Timestamp::now();
    let run = new_run_id(started_at);
    let slices_bytes = config.limits.memory - config.limits.memory / 10;
    let memory_units = u32::try_from(slices_bytes / MEMORY_UNIT_BYTES)
        .unwrap_or(u32::MAX)
        .max(1);
    let halt = CancellationToken::new();
    let context = Arc::new(Context {
        mark: lake.mark(&run, halt.clone()),
        fetching: Semaphore::new(config.source.requests.min(Semaphore::MAX_PERMITS)),
        memory: Semaphore::new(
            usize::try_from(memory_units)
                .unwrap_or(Semaphore::MAX_PERMITS)
                .min(Semaphore::MAX_PERMITS),
        ),
        memory_units,
        stop: halt.child_token(),
        halt,
        stopped_by: Mutex::default(),
        warnings: Mutex::default(),
        unlogged: Unlogged::default(),
        clock_warned: AtomicBool::new(false),
        columns_warned: Mutex::default(),
        config,
        lake,
        source,
        options,
        observer,
        run,
        started_at,
    });
    let remarks = context.lake.remarks.iter().chain(&context.options.remarks);
    let remarks: Vec<Remark> = remarks.cloned().collect();
    for remark in &remarks {
        context.warn(remark.text.clone());
    }

    let keeper = ReportKeeper {
        lake: &context.lake,
        mark: &context.mark,
        started_at,
        stops: [&context.stop, &interrupt],
    };
    let begun = keeper.begin().await;
    if let Err(error) = &begun.is_marked {
        tracing::warn!("{}", crate::error::chain(error));
    }
    if matches!(context.lake.honours_conditions().await, Ok(false)) {
        context.warn(format!(
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
    let warnings = std::mem::take(
        &mut *context
            .warnings
            .lock()
            .expect("no code panics while it holds the lock"),
    );
    let interrupted = stopped_by == Some(Stop::Interrupted);
    let mut report = RunReport::new(
        context.run.clone(),
        started_at,
        reports,
        interrupted,
        warnings,
    );
    say_what_was_redacted(&report);
    let work = LogWork {
        changed: context.unlogged.take(),
        replaced: context.options.replaced.clone(),
        limit: keep_limit(&context.config, started_at),
    };
    let Kept { is_kept, log_error } = keeper
        .keep(begun.marked, &mut report, may_write.then_some(work))
        .await;
    let stopped_by = stopped_by.or(log_error.map(Stop::NoLake));
    let lake = context.lake.clone();
    context.observer.ended();
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
    for _ in 0..context.config.source.requests.saturating_mul(2) {
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
            () = context.stop.cancelled() => break,
            room = context.room_to_fetch() => room,
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
                () = context.stop.cancelled() => {}
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
                let tell = AssertUnwindSafe(|| context.observer.slice_ended(&report));
                // The slice's outcome does not depend on the observer.
                if std::panic::catch_unwind(tell).is_err() {
                    context.warn(format!("{slice}: {Panicked}"));
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
