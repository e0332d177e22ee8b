//! Slices that are passed on instead of published: fetched into the spool, judged as a run judges
//! them, and only then read. Nothing is written to a lake.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::RecordBatchReader;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatchIterator;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::days::Selection;
use super::fetch::{FetchError, Fetched, Fetcher, Refusal};
use super::open::{find_lake_to_fetch, period_unit};
use super::plan::directions;
use super::{Error, Observer, period_remarks};
use crate::TOOL;
use crate::cdr::columns::{SCHEMA_VERSION, file_schema};
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::reconcile::Verdict;
use crate::cdr::slice::{Direction, Slice};
use crate::cdr::tally::{Counts, Totals};
use crate::config::{Config, timezone_name};
use crate::error::{MAKE_ROOM, Panicked, chain, is_disk_full, join_task};
use crate::lake::ledger::{Reason, State};
use crate::lake::report::Remark;
use crate::lake::{Lake, LakeError};
use crate::privacy::Privacy;
use crate::retry::{Fate, StopCause};
use crate::slice_file::writer::{SpoolFile, WriteError};
use crate::source::Source;
use crate::store::StoreError;
use crate::store::spool::{self, Spool};

/// What a stream was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamRequest {
    /// Name and version of the program.
    pub version: String,
    /// Version of the columns.
    pub schema_version: u32,
    /// The first day.
    pub from: Date,
    /// The last day.
    pub to: Date,
    /// The directions.
    pub directions: Vec<Direction>,
    /// The period of a slice.
    pub slice: PeriodUnit,
    /// The number of slices.
    pub slices: usize,
    /// The time zone of the days.
    pub timezone: String,
    /// ID of the key of pseudonyms, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy_key_id: Option<String>,
}

/// Counts of a slice that passed everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamedSlice {
    /// Its direction.
    pub direction: Direction,
    /// Its period.
    #[serde(flatten)]
    pub period: Period,
    /// The first day that was asked for, if the period has earlier ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Date>,
    /// The last day that was asked for, if the period has later ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub through: Option<Date>,
    /// Whether it may still change.
    pub state: State,
    /// When fetching it began.
    pub fetched_at: Timestamp,
    /// The number of attempts.
    pub attempts: u32,
    /// Records read, and their outcomes.
    #[serde(flatten)]
    pub counts: Counts,
    /// The provider's own count.
    pub control_total: Option<u64>,
    /// The comparison with that count.
    pub reconcile: Verdict,
    /// Sums over the rows.
    pub totals: Totals,
    /// Digest of the rows, as the ledger of a lake has it.
    pub digest: String,
}

/// A slice that passed everything, in the spool of its [`SliceStream`].
#[derive(Debug)]
pub struct ProvenSlice {
    /// Which one, and its counts.
    pub slice: StreamedSlice,
    file: SpoolFile,
}

impl ProvenSlice {
    /// Its rows, with the columns of a lake's file and in their order. Memory: one batch, and pages
    /// of the file.
    ///
    /// # Errors
    /// [`ArrowError`] if the spool cannot be read. The reader returns the same.
    pub fn batches(&self) -> Result<impl RecordBatchReader + use<>, ArrowError> {
        let failed = |error: WriteError| ArrowError::ExternalError(Box::new(error));
        let batches = self.file.batches().map_err(failed)?;
        let schema = Arc::new(file_schema());
        Ok(RecordBatchIterator::new(
            batches.map(move |batch| batch.map_err(failed)),
            schema,
        ))
    }

    /// Its slice.
    pub fn slice(&self) -> Slice {
        Slice::new(self.slice.period, self.slice.direction)
    }
}

/// A slice that did not pass. No later one is passed on.
#[derive(Debug, thiserror::Error)]
#[error("{slice}: {problem}")]
pub struct SliceFailed {
    /// Which one.
    pub slice: Slice,
    /// Why. Contains no key and no phone number.
    pub problem: String,
    /// The kind of failure, where there is a specific remedy.
    pub reason: Option<Reason>,
    /// What failed, if no slice would fare better.
    pub cause: Option<StopCause>,
    /// Whether it was interrupted.
    pub is_interrupted: bool,
}

/// Slices one after the other, by day and direction, each as soon as it has passed everything.
///
/// As many are fetched at the same time as `source.requests`, and as many lie in the spool at most,
/// besides the one that is read. Dropping it removes the spool.
#[derive(Debug)]
pub struct SliceStream {
    /// What was asked for.
    pub request: StreamRequest,
    /// Remarks on what was asked for.
    pub remarks: Vec<Remark>,
    waiting: VecDeque<Slice>,
    under_way: VecDeque<(Slice, JoinHandle<Result<ProvenSlice, StreamError>>)>,
    shared: Arc<Shared>,
    /// Dropped last.
    _spool: Spool,
}

/// What fetching slices needs.
#[derive(Debug)]
struct Shared {
    fetcher: Fetcher,
    /// The lake of the configuration, if there is one. It is only read.
    lake: Option<Lake>,
    /// Without erased numbers.
    privacy: Arc<Privacy>,
}

/// Why a slice did not pass.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

impl StreamError {
    /// What failed, if no slice would fare better.
    fn cause(&self) -> Option<StopCause> {
        let fate = match self {
            Self::Fetch(error) => error.fate(),
            Self::Lake(error) => error.fate(),
            Self::Write(_) => Fate::StopRun(StopCause::Lake),
            Self::Refused(_) | Self::Panicked(_) => Fate::FailSlice,
        };
        match fate {
            Fate::StopRun(cause) => Some(cause),
            Fate::Retry(_) | Fate::FailSlice => None,
        }
    }
}

/// Begins to pass on the slices of `selection`. Reads the lake that `config` names, if there is
/// one, for the period of its slices and its erased numbers. Cancelling `interrupt` ends it early.
///
/// # Errors
/// [`Error`] if the selection has no days, there is another lake, or the spool cannot be made.
pub async fn stream(
    config: Arc<Config>,
    source: Arc<dyn Source>,
    selection: &Selection,
    observer: Arc<dyn Observer>,
    interrupt: &CancellationToken,
) -> Result<SliceStream, Error> {
    let now = Timestamp::now();
    let days = selection.days(&config.window, now)?;
    let directions = directions(&config, selection)?;
    let (lake, privacy) = find_lake_to_fetch(&config).await?;
    let unit = period_unit(&config, lake.as_ref());
    let waiting = slices(&days, unit, &directions);
    let remarks = period_remarks::on_selection(selection, &config.window, unit, now);
    let of_lake = lake.iter().flat_map(|lake| lake.remarks.iter().cloned());
    let remarks = of_lake.chain(remarks).collect();
    let spool = spool::sweep(&config.limits.spool_dir)
        .and_then(|_| Spool::make(&config.limits.spool_dir))
        .map_err(|error| {
            Error::Spool(StoreError {
                action: "write into",
                path: config.limits.spool_dir.clone(),
                source: error.into(),
            })
        })?;
    observer.slices_began(waiting.len());
    let fetcher = Fetcher::new(
        Arc::clone(&config),
        source,
        observer,
        spool.path().to_owned(),
        selection.from,
        selection.include_today,
        interrupt.child_token(),
    );
    Ok(SliceStream {
        request: StreamRequest {
            version: TOOL.to_owned(),
            schema_version: SCHEMA_VERSION,
            from: *days.start(),
            to: *days.end(),
            directions,
            slice: unit,
            slices: waiting.len(),
            timezone: timezone_name(&config.window.timezone),
            privacy_key_id: privacy.key_id().map(str::to_owned),
        },
        remarks,
        waiting,
        under_way: VecDeque::new(),
        shared: Arc::new(Shared {
            fetcher,
            lake,
            privacy,
        }),
        _spool: spool,
    })
}

/// The slices of these days, by day and direction.
fn slices(
    days: &RangeInclusive<Date>,
    unit: PeriodUnit,
    directions: &[Direction],
) -> VecDeque<Slice> {
    let mut directions = directions.to_vec();
    directions.sort_unstable();
    let of = |period| {
        let directions = directions.clone().into_iter();
        directions.map(move |direction| Slice::new(period, direction))
    };
    Period::touching(days.clone(), unit).flat_map(of).collect()
}

impl SliceStream {
    /// The next slice that passed, `None` after the last one. The file of the slice before may be
    /// dropped, or read in the meantime.
    ///
    /// # Errors
    /// [`SliceFailed`] for the first slice that did not pass. No other is fetched after it.
    pub async fn next(&mut self) -> Result<Option<ProvenSlice>, SliceFailed> {
        self.begin_fetching();
        let Some((slice, fetch)) = self.under_way.front_mut() else {
            return Ok(None);
        };
        let slice = *slice;
        let fetched = fetch.await.map_err(|_| StreamError::from(Panicked));
        self.under_way.pop_front();
        // The others go on while the caller reads this one.
        self.begin_fetching();
        match fetched.flatten() {
            Ok(proven) => Ok(Some(proven)),
            Err(error) => {
                self.stop().await;
                Err(self.failed(slice, &error))
            }
        }
    }

    /// Begins as many slices as may be fetched at the same time.
    fn begin_fetching(&mut self) {
        while self.under_way.len() < self.shared.fetcher.config.source.requests
            && let Some(slice) = self.waiting.pop_front()
        {
            let fetch = fetch(Arc::clone(&self.shared), slice);
            self.under_way.push_back((slice, tokio::spawn(fetch)));
        }
    }

    /// Gives up the slices that are still to come, and waits until nothing is fetched any more.
    pub async fn stop(&mut self) {
        self.shared.fetcher.stop.cancel();
        self.waiting.clear();
        for (_, fetch) in self.under_way.drain(..) {
            // Its result is of no use.
            drop(fetch.await);
        }
        self.shared.fetcher.observer.ended();
    }

    fn failed(&self, slice: Slice, error: &StreamError) -> SliceFailed {
        let fetcher = &self.shared.fetcher;
        let mut problem = fetcher.hide_keys(&chain(error));
        if is_disk_full(error) {
            problem = format!("{problem}. {MAKE_ROOM}");
        }
        SliceFailed {
            slice,
            problem,
            reason: match error {
                StreamError::Refused(refusal) => refusal.reason(),
                _ => None,
            },
            cause: error.cause(),
            is_interrupted: matches!(error, StreamError::Fetch(FetchError::Stopped)),
        }
    }
}

impl Drop for SliceStream {
    fn drop(&mut self) {
        self.shared.fetcher.stop.cancel();
    }
}

/// Fetches a slice, and judges it.
async fn fetch(shared: Arc<Shared>, slice: Slice) -> Result<ProvenSlice, StreamError> {
    let fetcher = &shared.fetcher;
    let _room = tokio::select! {
        biased;
        () = fetcher.stop.cancelled() => return Err(FetchError::Stopped.into()),
        room = fetcher.room_to_fetch() => room,
    };
    let privacy = match &shared.lake {
        Some(lake) => lake.privacy_now().await?,
        None => Arc::clone(&shared.privacy),
    };
    let mut attempts = 0;
    let request = fetcher.request(slice, None);
    let fetched = fetcher.fetch_until_good(request, &privacy, &mut attempts);
    let fetched = fetched.await?;
    let converted = &fetched.converted;
    fetcher.warn_of_missing_columns(&converted.missing_fields);
    fetcher.judge(&fetched)?;
    fetcher.compare_clocks(&fetched);
    let first_reject = converted.first_reject.as_deref().unwrap_or_default();
    let rejects = format!("left out. The first: {first_reject}");
    fetcher.remark(slice, &converted.counts, fetched.verdict, &rejects);
    let slice = StreamedSlice {
        direction: slice.direction,
        period: slice.period,
        from: fetched.from(),
        through: fetched.through(),
        state: fetcher.state_of(&fetched),
        fetched_at: fetched.begun_at,
        attempts,
        counts: converted.counts.clone(),
        control_total: fetched.control_total,
        reconcile: fetched.verdict,
        totals: converted.totals.clone(),
        digest: converted.digest.to_string(),
    };
    let Fetched { converted, .. } = fetched;
    let file = tokio::task::spawn_blocking(move || converted.write_footer(Vec::new()));
    let file = join_task(file).await??;
    Ok(ProvenSlice { slice, file })
}

#[cfg(test)]
mod tests;
