//! One attempt at a slice: its stream, as it arrives, becomes a spool file.
//!
//! The network is read on an async task, the conversion runs on a thread of its own, and a bounded
//! channel between them makes the faster wait for the slower.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use jiff::Timestamp;
use jiff::civil::Date;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Fetcher;
use crate::body::decompress::Encoding;
use crate::body::framing::Format;
use crate::cdr::day::{PeriodDays, end_of_day};
use crate::cdr::reconcile::{Verdict, describe_mismatch, verdict};
use crate::cdr::slice::Slice;
use crate::cdr::tally::Counts;
use crate::config::Reconcile;
use crate::error::{Panicked, counted, join_task};
use crate::lake::ledger::Asked;
use crate::ops::Observer;
use crate::privacy::Privacy;
use crate::retry::{Exhausted, Fate, Retry, RetryReason};
use crate::slice_file::convert::{BodyEnd, ConvertError, ConvertOptions, Converted, Converter};
use crate::source::files::ExportReader;
use crate::source::requests::request_with_retries;
use crate::source::{Body, Paging, Request, SourceError};

/// Chunks between network and conversion. One has about 128 KiB at most, or what hyper hands out at
/// once: at most 400 KiB.
const CHUNKS_IN_FLIGHT: usize = 8;

/// A slice that was read to its end.
#[derive(Debug)]
pub(in crate::ops) struct Fetched {
    pub(in crate::ops) request: Request,
    pub(in crate::ops) converted: Converted,
    /// What became of numbers in it.
    pub(in crate::ops) privacy: Arc<Privacy>,
    pub(in crate::ops) control_total: Option<u64>,
    pub(in crate::ops) verdict: Verdict,
    pub(in crate::ops) asked: Asked,
    pub(in crate::ops) begun_at: Timestamp,
    pub(in crate::ops) etag: Option<String>,
    pub(in crate::ops) last_modified: Option<String>,
    pub(in crate::ops) server_time: Option<Timestamp>,
    /// When what was read was all there is; `None` if it is known not to be.
    pub(in crate::ops) as_of: Option<Timestamp>,
}

impl Fetched {
    /// The first day that was asked for, if the period has earlier ones.
    pub(in crate::ops) fn from(&self) -> Option<Date> {
        let Request {
            slice, first_day, ..
        } = self.request;
        (first_day > slice.period.first_day()).then_some(first_day)
    }

    /// The last day that was asked for, if the period has later ones.
    pub(in crate::ops) fn through(&self) -> Option<Date> {
        let Request {
            slice, last_day, ..
        } = self.request;
        (last_day < slice.period.last_day()).then_some(last_day)
    }
}

/// Why an attempt led to nothing.
#[derive(Debug, thiserror::Error)]
pub(in crate::ops) enum FetchError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Convert(#[from] ConvertError),
    #[error("the provider's count changed from {before} to {after} while the slice was read")]
    CountMoved { before: u64, after: u64 },
    #[error(
        "the provider's count fell from {before} to {after} while pages were read, so calls that \
         moved to an earlier page may be missing"
    )]
    CallsVanished { before: u64, after: u64 },
    #[error(
        "the answer looked like the first of several pages, but page {page} does not continue it"
    )]
    NotPaged { page: u64 },
    /// An answer without calls, where the provider counts some, or may.
    #[error("{}: {problem}", match counted {
        Some(total) => format!("no calls, but the provider counts {total}"),
        None => "no calls, and the provider's count is unavailable".to_owned(),
    })]
    NoCalls {
        problem: String,
        counted: Option<u64>,
    },
    #[error("page {page}: {source} (no attempts left)")]
    PageGivenUp { page: u64, source: SourceError },
    /// The slice was read to its end, but its count leaves doubts.
    #[error("{}", describe_mismatch(counts, *control_total))]
    Doubtful {
        counts: Box<Counts>,
        control_total: Option<u64>,
        reason: RetryReason,
    },
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// No attempt is left.
    #[error(
        "{}after {}: {source}",
        match exhausted {
            Exhausted::Attempts => "",
            Exhausted::Time => "source.max_elapsed is used up ",
        },
        counted(u64::from(*attempts), "attempt", "attempts")
    )]
    GivenUp {
        source: Box<FetchError>,
        exhausted: Exhausted,
        attempts: u32,
    },
    #[error("the run was stopped")]
    Stopped,
    /// The thread gave up: [`Conversion::abandon`] puts its reason in place of this.
    #[error("the conversion ended early")]
    Ended,
}

impl FetchError {
    /// What becomes of the slice and its run because of it.
    pub(in crate::ops) fn fate(&self) -> Fate {
        match self {
            Self::Source(error) => error.fate(),
            Self::Convert(error) => error.fate(),
            Self::CountMoved { .. } | Self::CallsVanished { .. } | Self::NotPaged { .. } => {
                Fate::retry(RetryReason::CountMoved)
            }
            Self::NoCalls { .. } => Fate::retry(RetryReason::CountMismatch),
            Self::Doubtful { reason, .. } => Fate::retry(*reason),
            Self::PageGivenUp { .. }
            | Self::Panicked(_)
            | Self::GivenUp { .. }
            | Self::Stopped
            | Self::Ended => Fate::FailSlice,
        }
    }
}

/// What an attempt may let pass that an earlier one would not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Leniency {
    /// Accept a control total that moves while the slice is read.
    pub(super) count_may_move: bool,
    /// Do without a control total that cannot be had now.
    pub(super) count_may_fail: bool,
    /// Take the stream as it is, although it looks like the first page of a longer one.
    pub(super) is_not_paged: bool,
}

impl Leniency {
    /// Refuses a count that has moved.
    fn compare(self, before: Option<u64>, after: Option<u64>) -> Result<(), FetchError> {
        match (before, after) {
            (Some(before), Some(after)) if before != after && !self.count_may_move => {
                Err(FetchError::CountMoved { before, after })
            }
            _ => Ok(()),
        }
    }
}

enum Message {
    /// All records of a slice of an export, in place of a body's chunks.
    Export(Box<ExportReader>),
    BeginBody(Encoding, Format),
    Chunk(Bytes),
    EndBody(oneshot::Sender<BodyEnd>),
    Finish,
}

/// Fetches a slice once.
pub(super) async fn fetch(
    fetcher: &Fetcher,
    request: Request,
    privacy: &Arc<Privacy>,
    leniency: Leniency,
    deadline: Instant,
) -> Result<Fetched, FetchError> {
    let ended = end_of_day(request.last_day, &fetcher.config.window.timezone) <= fetcher.started_at;
    let asks_total = ended && fetcher.config.quality.reconcile != Reconcile::Off;
    let control_total = async || {
        if asks_total {
            control_total(fetcher, request, leniency.count_may_fail).await
        } else {
            Ok(None)
        }
    };
    let before = control_total().await?;
    let begun_at = Timestamp::now();
    let mut body = open(fetcher, request, before).await?;
    let mut conversion = Conversion::start(fetcher, request.slice, privacy, &body);
    let read = async {
        let first = conversion.feed(fetcher, &mut body).await?;
        let after = control_total().await?;
        leniency.compare(before, after)?;
        if body.paging == Paging::Whole {
            return Ok((after, Pages::One));
        }
        may_have_none(fetcher, request, first, after).await?;
        let mut walk = Walk {
            fetcher,
            request,
            leniency,
            deadline,
            counted: before,
            paging: body.paging,
        };
        let pages = walk.on_from(&mut conversion, first, after).await?;
        if pages != Pages::Walked {
            return Ok((after, pages));
        }
        // Walking takes its time, in which the count may have moved again.
        let walked = control_total().await?;
        leniency.compare(after, walked)?;
        walk.must_not_fall(walked)?;
        Ok((walked, pages))
    };
    let (control_total, pages) = match read.await {
        Ok(read) => read,
        Err(error) => return Err(conversion.abandon(error).await),
    };
    let converted = conversion.finish().await?;
    let (slice, counts) = (request.slice, &converted.counts);
    let verdict = match (fetcher.config.quality.reconcile, ended) {
        (Reconcile::Off, _) => Verdict::Off,
        (_, false) => Verdict::NotChecked,
        // Calls that came in while pages were walked shift them: duplicates may hide a gap.
        _ if pages == Pages::Walked && control_total != Some(counts.distinct()) => {
            Verdict::Mismatch
        }
        _ => verdict(counts, control_total),
    };
    if let (Pages::Short { records, total }, Verdict::Off | Verdict::NotChecked) = (pages, verdict)
    {
        fetcher.warn(format!(
            "{slice}: the provider counts {}, but returned only {records}",
            counted(total, "call", "calls")
        ));
    }
    let as_of = match body.made_at {
        // A slice that is known to be incomplete is fetched again.
        None if matches!(pages, Pages::Short { .. }) => None,
        // The earlier of two clocks: a day must not be closed before it has ended.
        None => Some(body.server_time.map_or(begun_at, |time| time.min(begun_at))),
        // What the provider counts now, it had now.
        Some(_) if verdict.has_equal_count() => Some(begun_at),
        // The provider has other calls than these: the next run is to fetch them.
        Some(_) if verdict == Verdict::Mismatch => None,
        Some(made_at) => Some(made_at),
    };
    Ok(Fetched {
        request,
        converted,
        privacy: Arc::clone(privacy),
        control_total,
        verdict,
        asked: body.asked,
        begun_at,
        etag: body.etag,
        last_modified: body.last_modified,
        server_time: body.server_time,
        as_of,
    })
}

/// Opens what a slice is read from. That there is nothing is believed only where the provider
/// counts no calls: it is asked now where its count is not known.
async fn open(
    fetcher: &Fetcher,
    request: Request,
    counted: Option<u64>,
) -> Result<Body, FetchError> {
    let body = stoppable(fetcher, fetcher.source.open(request)).await?;
    if let Some(problem) = &body.absent {
        must_count_none(fetcher, request, counted, problem).await?;
    }
    Ok(body)
}

/// Refuses an answer without calls, described by `problem`, unless the provider counts none.
/// Requests the count if it is unknown.
async fn must_count_none(
    fetcher: &Fetcher,
    request: Request,
    counted: Option<u64>,
    problem: &str,
) -> Result<(), FetchError> {
    let counted = match counted {
        Some(total) => Some(total),
        None => asked_for_once(fetcher, request).await?,
    };
    if counted == Some(0) {
        return Ok(());
    }
    Err(FetchError::NoCalls {
        problem: problem.to_owned(),
        counted,
    })
}

/// Refuses a first body without calls if it has no list, or a total above zero.
async fn may_have_none(
    fetcher: &Fetcher,
    request: Request,
    first: BodyEnd,
    counted: Option<u64>,
) -> Result<(), FetchError> {
    let said = first.summary.envelope_total.filter(|total| *total > 0);
    if first.records > 0 {
        return Ok(());
    }
    if first.summary.lacks_list {
        let problem = "the answer has no list of calls (`items`)";
        return must_count_none(fetcher, request, counted.or(said), problem).await;
    }
    if counted.is_none() && said.is_some() {
        return must_count_none(fetcher, request, said, "the answer has an empty list").await;
    }
    Ok(())
}

/// A walk of the pages of a slice.
struct Walk<'a> {
    fetcher: &'a Fetcher,
    request: Request,
    leniency: Leniency,
    /// When `source.max_elapsed` is used up.
    deadline: Instant,
    /// The most that the provider counted so far.
    counted: Option<u64>,
    /// What is known in front of it of whether there are pages.
    paging: Paging,
}

impl Walk<'_> {
    /// Refuses a count that has fallen, whatever the leniency: if a call was removed, later calls
    /// move up, some to a page that was already read.
    fn must_not_fall(&mut self, count: Option<u64>) -> Result<(), FetchError> {
        match (self.counted, count) {
            (Some(before), Some(after)) if after < before => {
                Err(FetchError::CallsVanished { before, after })
            }
            _ => {
                self.counted = self.counted.max(count);
                Ok(())
            }
        }
    }

    /// Reads on where the stream turns out to be the first page of a longer one. A stream of
    /// exactly one page is suspicious also on a day whose count is not compared: it is then asked
    /// for this alone.
    async fn on_from(
        &mut self,
        conversion: &mut Conversion,
        first: BodyEnd,
        control_total: Option<u64>,
    ) -> Result<Pages, FetchError> {
        let Self {
            fetcher,
            request,
            leniency,
            deadline,
            paging,
            ..
        } = *self;
        let slice = request.slice;
        let envelope_total = first.summary.envelope_total;
        let is_list = paging == Paging::List;
        let may_be_page = envelope_total.is_some() || is_list;
        let looks_like_a_page = is_page_size(first.records) || (may_be_page && first.records > 0);
        if !looks_like_a_page {
            return Ok(Pages::One);
        }
        let total = match control_total.or(envelope_total) {
            Some(total) => Some(total),
            None => asked_for_once(fetcher, request).await?,
        };
        let Some(total) = total else {
            if is_list {
                let problem = "the list has no pagination.total, so its last page is unknown";
                return Err(SourceError::Permanent(problem.to_owned()).into());
            }
            fetcher.warn(format!(
            "{slice}: {} records may be the first of several pages, and the provider's count is \
             unavailable, so calls may be missing",
            first.records
        ));
            return Ok(Pages::One);
        };
        if first.records >= total {
            return Ok(Pages::One);
        }
        if leniency.is_not_paged {
            return Ok(Pages::Short {
                records: first.records,
                total,
            });
        }
        // The total on the first page is as old as the page.
        self.counted = envelope_total.or(self.counted);
        self.must_not_fall(Some(total))?;
        tracing::info!(slice = slice.to_string(), total, "Reading the pages.");
        let mut last = first;
        for page in 2.. {
            let ask = || fetcher.source.page(request, page);
            let source = &*fetcher.source;
            let retry = Retry::new((&fetcher.config.source).into(), Some(deadline));
            let retry = retry.counted_in(&fetcher.retries);
            let body = request_with_retries(source, retry, slice, ask);
            let body = stoppable(fetcher, body).await;
            let mut body = body.map_err(|error| match error {
                // It was tried again where it was: to begin anew would multiply the attempts.
                FetchError::Source(source) if matches!(source.fate(), Fate::Retry(_)) => {
                    FetchError::PageGivenUp { page, source }
                }
                error => error,
            })?;
            let end = conversion.feed(fetcher, &mut body).await?;
            let records = end.records - last.records;
            leniency.compare(envelope_total, end.summary.envelope_total)?;
            self.must_not_fall(end.summary.envelope_total)?;
            // A server that ignores the page number repeats itself, or what has been added since.
            // The digest also detects this for records without an id.
            if records > first.records || (records > 0 && end.digest == last.digest) {
                return Err(FetchError::NotPaged { page });
            }
            // A call that came in since the first page shifts the others: one is seen twice, and
            // one more is to be read.
            let total_now = end.summary.envelope_total.unwrap_or(total);
            let shifted = total_now.saturating_sub(total);
            if end.records >= total_now.saturating_add(shifted) {
                break;
            }
            if records < first.records {
                if end.records >= total_now {
                    break;
                }
                return Ok(Pages::Short {
                    records: end.records,
                    total: total_now,
                });
            }
            last = end;
        }
        Ok(Pages::Walked)
    }
}

/// Whether this number of records may be a page size: the API's default is 25, and other sizes are
/// round numbers (10, 50, 100, 250, 1000).
fn is_page_size(records: u64) -> bool {
    let mut leading = records;
    while leading > 0 && leading.is_multiple_of(10) {
        leading /= 10;
    }
    records >= 10 && matches!(leading, 1 | 2 | 5 | 25)
}

/// What the stream turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pages {
    /// One body with everything in it.
    One,
    /// Several pages, up to the count.
    Walked,
    /// One or several pages, with fewer records than their total.
    Short { records: u64, total: u64 },
}

/// The provider's count where it is needed but would not be compared; `None` if it cannot be had
/// for whatever reason. The stream has just shown that the key is good.
async fn asked_for_once(fetcher: &Fetcher, request: Request) -> Result<Option<u64>, FetchError> {
    match control_total(fetcher, request, true).await {
        Err(FetchError::Source(SourceError::Refused { .. })) => Ok(None),
        total => total,
    }
}

/// The provider's count, or `None` if it will not give one. What may pass is an error, and with it
/// the attempt, unless `may_fail`.
async fn control_total(
    fetcher: &Fetcher,
    request: Request,
    may_fail: bool,
) -> Result<Option<u64>, FetchError> {
    match stoppable(fetcher, fetcher.source.count(request)).await {
        Ok(total) => Ok(Some(total)),
        Err(FetchError::Source(error))
            if match error.fate() {
                Fate::FailSlice => true,
                Fate::Retry(_) => may_fail,
                Fate::StopRun(_) => false,
            } =>
        {
            let problem = fetcher.hide_keys(&error.to_string());
            tracing::warn!(
                slice = request.slice.to_string(),
                "The provider's count is unavailable: {problem}"
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Waits for the source, unless the run stops first.
async fn stoppable<T>(
    fetcher: &Fetcher,
    work: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, FetchError> {
    tokio::select! {
        biased;
        () = fetcher.stop.cancelled() => Err(FetchError::Stopped),
        done = work => Ok(done?),
    }
}

/// The thread that converts a slice, and the way to it. Dropping it before [`finish`](Self::finish)
/// abandons the slice: the thread ends and removes its files.
struct Conversion {
    messages: mpsc::Sender<Message>,
    thread: tokio::task::JoinHandle<Result<Option<Converted>, FetchError>>,
}

impl Conversion {
    fn start(fetcher: &Fetcher, slice: Slice, privacy: &Arc<Privacy>, body: &Body) -> Self {
        let config = &fetcher.config;
        let limits = &config.limits;
        let export_files = body.export.as_ref().map(|day| Arc::clone(day.names()));
        // The files of an export have their length.
        let max_slice_bytes = match export_files {
            Some(_) => u64::MAX,
            None => limits.max_slice_bytes,
        };
        let options = ConvertOptions {
            slice,
            days: PeriodDays::new(slice.period, &config.window.timezone),
            export_files,
            spool_dir: fetcher.spool_dir.clone(),
            max_record_bytes: limits.max_record_bytes,
            max_slice_bytes,
            dedupe: config.quality.dedupe,
            assume_timezone: config.source.assume_timezone.clone(),
            privacy: Arc::clone(privacy),
            credentials: Arc::clone(fetcher.source.credentials()),
            parquet: config.parquet.clone(),
        };
        let (messages, inbox) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let observer = Arc::clone(&fetcher.observer);
        let thread = tokio::task::spawn_blocking(move || convert(options, inbox, &*observer));
        Self { messages, thread }
    }

    /// Passes one body on to its end.
    async fn feed(&mut self, fetcher: &Fetcher, body: &mut Body) -> Result<BodyEnd, FetchError> {
        if let Some(day) = body.export.take() {
            self.tell(Message::Export(Box::new(day))).await?;
            return tokio::select! {
                biased;
                () = fetcher.stop.cancelled() => Err(FetchError::Stopped),
                end = self.end_body() => end,
            };
        }
        let begin = Message::BeginBody(body.encoding, body.format);
        self.tell(begin).await?;
        while let Some(chunk) = stoppable(fetcher, body.chunk()).await? {
            fetcher
                .bytes_received
                .fetch_add(chunk.len() as u64, Ordering::Relaxed);
            self.tell(Message::Chunk(chunk)).await?;
        }
        let end = self.end_body().await?;
        match body.if_empty.take() {
            Some(problem) if end.summary.bytes == 0 => Err(problem.into()),
            _ => Ok(end),
        }
    }

    async fn tell(&self, message: Message) -> Result<(), FetchError> {
        let sent = self.messages.send(message).await;
        sent.map_err(|_| FetchError::Ended)
    }

    async fn end_body(&mut self) -> Result<BodyEnd, FetchError> {
        let (reply, end) = oneshot::channel();
        self.tell(Message::EndBody(reply)).await?;
        tokio::select! {
            biased;
            end = end => end.map_err(|_| FetchError::Ended),
            // A thread that ends at this very moment leaves the message, and the way to reply, in
            // the channel for as long as there is a sender: ours.
            () = self.messages.closed() => Err(FetchError::Ended),
        }
    }

    /// Waits until the thread has removed its files, which the next attempt creates again. The
    /// conversion's own error explains more than the interruption that followed.
    async fn abandon(self, error: FetchError) -> FetchError {
        drop(self.messages);
        match (join_task(self.thread).await, error) {
            (_, FetchError::Stopped) => FetchError::Stopped,
            (Err(panicked), _) => panicked.into(),
            (Ok(Err(found)), _) => found,
            (Ok(Ok(_)), error) => error,
        }
    }

    async fn finish(self) -> Result<Converted, FetchError> {
        // If the thread has ended early, its result contains the reason.
        drop(self.messages.send(Message::Finish).await);
        let converted = join_task(self.thread).await??;
        Ok(converted.expect("the thread was told to finish"))
    }
}

/// The thread's work. `None` if the slice was abandoned.
fn convert(
    options: ConvertOptions,
    mut inbox: mpsc::Receiver<Message>,
    observer: &dyn Observer,
) -> Result<Option<Converted>, FetchError> {
    let mut converter = Converter::try_new(options)?;
    match convert_bodies(&mut converter, &mut inbox, observer) {
        Ok(Conclusion::Finish) => Ok(Some(converter.finish()?)),
        Ok(Conclusion::Abandon) => {
            converter.abandon()?;
            Ok(None)
        }
        Err(error) => {
            // A full disk is a better explanation than any other error.
            converter.abandon()?;
            Err(error)
        }
    }
}

/// How a conversion is to end.
enum Conclusion {
    Finish,
    Abandon,
}

fn convert_bodies(
    converter: &mut Converter,
    inbox: &mut mpsc::Receiver<Message>,
    observer: &dyn Observer,
) -> Result<Conclusion, FetchError> {
    let mut reported = 0;
    while let Some(message) = inbox.blocking_recv() {
        match message {
            Message::Export(day) => {
                let report = |records| {
                    observer.records_read(records - reported);
                    reported = records;
                    !inbox.is_closed()
                };
                if !day.feed::<FetchError>(converter, report)? {
                    return Ok(Conclusion::Abandon);
                }
            }
            Message::BeginBody(encoding, format) => converter.begin_body(encoding, format),
            Message::Chunk(chunk) => converter.push(&chunk)?,
            Message::EndBody(reply) => {
                let end = converter.end_body()?;
                // If the run was stopped, no one receives it.
                reply.send(end).ok();
            }
            Message::Finish => return Ok(Conclusion::Finish),
        }
        observer.records_read(converter.records() - reported);
        reported = converter.records();
    }
    Ok(Conclusion::Abandon)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_round_sizes() {
        let sizes: Vec<u64> = (0..=10_000).filter(|size| is_page_size(*size)).collect();
        let expected = [
            10, 20, 25, 50, 100, 200, 250, 500, 1_000, 2_000, 2_500, 5_000, 10_000,
        ];
        assert_eq!(sizes, expected);
    }

    #[tokio::test]
    async fn a_thread_that_ends_while_a_body_ends_is_detected() {
        let (messages, mut inbox) = mpsc::channel(CHUNKS_IN_FLIGHT);
        // What a message meets that comes in behind the last look into the inbox.
        let (ended, wait) = std::sync::mpsc::channel::<()>();
        let thread = tokio::task::spawn_blocking(move || {
            while inbox.is_empty() {
                std::thread::yield_now();
            }
            inbox.close();
            wait.recv().ok();
            Ok(None)
        });
        let mut conversion = Conversion { messages, thread };
        let deadline = std::time::Duration::from_mins(1);
        let end = tokio::time::timeout(deadline, conversion.end_body()).await;
        drop(ended);
        assert!(
            matches!(end, Ok(Err(FetchError::Ended))),
            "it would wait for ever: {end:?}"
        );
    }
}
