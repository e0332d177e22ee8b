//! Fetching slices: requests, attempts, and whether a result is good. What becomes of a good slice
//! is up to its caller: a run publishes it, a stream passes its rows on.

mod attempt;
mod attempts;
mod judge;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use jiff::civil::Date;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::Observer;
use super::days::{CLOCK_TOLERANCE, first_asked, today};
use crate::body::csv::describe_missing;
use crate::cdr::slice::Slice;
use crate::config::Config;
use crate::lake::ledger::Commit;
use crate::retry::RetryCounts;
use crate::source::{Request, Source};
pub(super) use attempt::{FetchError, Fetched};
pub(super) use judge::Refusal;

/// Unit in which slices share `limits.memory`.
const MEMORY_UNIT_BYTES: usize = 1 << 20;
/// Memory of a slice besides its row group and its longest record: three batches, sort runs of the
/// duplicate search, compression, and a zstd stream's window (8 MiB at most).
const SLICE_OVERHEAD_BYTES: usize = 31 << 20;

/// Fetches slices into the spool. All slices of a run or a stream share it.
#[derive(Debug)]
pub(super) struct Fetcher {
    pub(super) config: Arc<Config>,
    pub(super) source: Arc<dyn Source>,
    pub(super) observer: Arc<dyn Observer>,
    spool_dir: PathBuf,
    /// The first day that was chosen. It takes precedence over a later `window.start`.
    from: Option<Date>,
    /// Whether periods are fetched up to the day that has not ended, instead of the day before.
    include_today: bool,
    pub(super) started_at: Timestamp,
    /// Set when no slice is to be fetched any more.
    pub(super) stop: CancellationToken,
    /// `source.requests`: slices that are fetched at the same time.
    requests: Semaphore,
    /// `limits.memory` without a tenth, in [`MEMORY_UNIT_BYTES`]. The tenth holds the bytes between
    /// sockets and decoders: the windows of HTTP/2, or the chunks in flight of every slice (3 MiB
    /// at most, where a slice takes 31 MiB).
    memory: Semaphore,
    memory_units: u32,
    /// The attempts at slices and pages after the first.
    pub(super) retries: Arc<RetryCounts>,
    /// Bytes of bodies, as they came over the network, of failed attempts too.
    pub(super) bytes_received: AtomicU64,
    warnings: Mutex<Vec<String>>,
    /// Whether a clock that is wrong was already spoken of.
    clock_warned: AtomicBool,
    /// Columns of CSV whose absence was.
    columns_warned: Mutex<BTreeSet<&'static str>>,
}

impl Fetcher {
    /// Fetches into `spool_dir`, until `stop` is set.
    pub(super) fn new(
        config: Arc<Config>,
        source: Arc<dyn Source>,
        observer: Arc<dyn Observer>,
        spool_dir: PathBuf,
        from: Option<Date>,
        include_today: bool,
        stop: CancellationToken,
    ) -> Self {
        let slices_bytes = config.limits.memory - config.limits.memory / 10;
        let memory_units = u32::try_from(slices_bytes / MEMORY_UNIT_BYTES)
            .unwrap_or(u32::MAX)
            .max(1);
        Self {
            requests: Semaphore::new(config.source.requests.min(Semaphore::MAX_PERMITS)),
            memory: Semaphore::new(
                usize::try_from(memory_units)
                    .unwrap_or(Semaphore::MAX_PERMITS)
                    .min(Semaphore::MAX_PERMITS),
            ),
            memory_units,
            retries: Arc::default(),
            bytes_received: AtomicU64::new(0),
            warnings: Mutex::default(),
            clock_warned: AtomicBool::new(false),
            columns_warned: Mutex::default(),
            started_at: Timestamp::now(),
            config,
            source,
            observer,
            spool_dir,
            from,
            include_today,
            stop,
        }
    }

    /// What is asked of the source for a slice: its days from `window.start` on that had ended when
    /// fetching began, and today if that is included. An export has all of its days. Never fewer
    /// days than a lake has `committed`: the others would be lost.
    pub(super) fn request(&self, slice: Slice, committed: Option<&Commit>) -> Request {
        let window = &self.config.window;
        let today = today(window, self.started_at);
        let last_possible = if self.include_today {
            today
        } else {
            today.yesterday().unwrap_or(today)
        };
        let Slice { period, .. } = slice;
        let in_lake = committed.map(|commit| {
            let through = commit.through.unwrap_or(period.last_day());
            // After a conversion, it may have days behind the first one that is missing.
            let last = commit.days.keys().next_back();
            last.map_or(through, |last| through.max(*last))
        });
        let last_day = in_lake.map_or(last_possible, |in_lake| in_lake.max(last_possible));
        let last_day = last_day.clamp(period.first_day(), period.last_day());
        let first_day = if self.source.is_fixed() {
            period.first_day()
        } else {
            first_asked(period, window, self.from)
        };
        let first_in_lake = committed.map(|commit| commit.from.unwrap_or(period.first_day()));
        let first_day = first_in_lake.map_or(first_day, |in_lake| in_lake.min(first_day));
        Request {
            slice,
            first_day: first_day.min(last_day),
            last_day,
        }
    }

    pub(super) fn warn(&self, warning: String) {
        tracing::warn!("{warning}");
        self.warnings
            .lock()
            .expect("no code panics while it holds the lock")
            .push(warning);
    }

    /// The warnings so far, which are then forgotten.
    pub(super) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(
            &mut *self
                .warnings
                .lock()
                .expect("no code panics while it holds the lock"),
        )
    }

    /// The text with the source's keys hidden.
    pub(super) fn hide_keys(&self, text: &str) -> String {
        self.source.credentials().hide_keys(text)
    }

    /// Warns, once, of a clock that differs from the server's by so much that days end too early or
    /// too late.
    pub(super) fn compare_clocks(&self, fetched: &Fetched) {
        let Some(server_time) = fetched.server_time else {
            return;
        };
        let ahead = fetched.begun_at.duration_since(server_time);
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
    pub(super) fn warn_of_missing_columns(&self, fields: &[&'static str]) {
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

    /// Waits until one more slice may be fetched.
    pub(super) async fn room_to_fetch(&self) -> RoomToFetch<'_> {
        let never = "the semaphores are never closed";
        let request = self.requests.acquire().await.expect(never);
        let memory = self.memory.acquire_many(self.slice_memory_units());
        RoomToFetch {
            _request: request,
            memory: memory.await.expect(never),
        }
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
pub(super) struct RoomToFetch<'a> {
    _request: SemaphorePermit<'a>,
    memory: SemaphorePermit<'a>,
}

impl<'a> RoomToFetch<'a> {
    /// Gives back all but memory of so many bytes at most.
    pub(super) fn keep_memory(mut self, bytes: usize) -> SemaphorePermit<'a> {
        let units = usize::try_from(in_memory_units(bytes)).unwrap_or(usize::MAX);
        let units = units.min(self.memory.num_permits());
        self.memory.split(units).expect("it has as many")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdr::period::{Period, PeriodUnit};
    use crate::cdr::slice::Direction;
    use crate::lake::ledger::State;
    use crate::lake::ledger::tests::commit;
    use crate::source::scripted::ScriptedSource;

    #[test]
    fn a_request_never_has_fewer_days_than_the_lake() {
        let config = Config::from_keys([("lake.url", "./lake")]).unwrap();
        let window = config.window.clone();
        let fetcher = Fetcher::new(
            Arc::new(config),
            Arc::new(ScriptedSource::new()),
            Arc::new(()),
            PathBuf::new(),
            None,
            false,
            CancellationToken::new(),
        );
        let month = Period::containing(today(&window, fetcher.started_at), PeriodUnit::Month);
        let slice = Slice::new(month, Direction::Placed);
        // After a conversion, there are days behind one that is missing.
        let mut in_lake = commit(None, State::Open);
        in_lake.through = Some(month.first_day());
        in_lake.days = [(month.last_day(), crate::cdr::tally::DayTotals::default())].into();
        let request = fetcher.request(slice, Some(&in_lake));
        assert_eq!(request.last_day, month.last_day());
        assert_eq!(request.first_day, month.first_day());
    }
}
