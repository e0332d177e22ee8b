//! One attempt at a slice: its stream, as it arrives, becomes a spool file.
//!
//! The network is read on an async task, the conversion runs on a thread of its own, and a bounded
//! channel between them makes the faster wait for the slower.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::{Context, Observer};
use crate::config::Reconcile;
use crate::convert::{ConvertError, ConvertOptions, Converted, Converter};
use crate::framing::BodySummary;
use crate::lake::ledger::Asked;
use crate::plan::{end_of_day, start_of_day};
use crate::reconcile::{Verdict, verdict};
use crate::slice::Slice;
use crate::source::{Body, DEFAULT_PER_PAGE, SourceError};

/// Chunks between network and conversion. hyper hands out at most 400 KiB at once.
const CHUNKS_IN_FLIGHT: usize = 8;

/// A slice that was read to its end.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) converted: Converted,
    pub(super) control_total: Option<u64>,
    pub(super) verdict: Verdict,
    pub(super) asked: Asked,
    pub(super) begun_at: Timestamp,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
}

/// Why an attempt led to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Convert(#[from] ConvertError),
    #[error("the provider's count moved from {before} to {after} while the slice was read")]
    CountMoved { before: u64, after: u64 },
    #[error("the run was stopped")]
    Stopped,
    /// The thread gave up: [`Conversion::abandon`] puts its reason in place of this.
    #[error("the conversion ended early")]
    Ended,
}

enum Message {
    Chunk(Bytes),
    EndBody(oneshot::Sender<BodyEnd>),
    Finish,
}

/// What is known when a body has ended.
struct BodyEnd {
    summary: BodySummary,
    /// Records of all bodies so far.
    records: u64,
}

/// Fetches a slice once. `count_may_move` accepts a control total that moves meanwhile.
pub(super) async fn fetch(
    context: &Context,
    slice: Slice,
    count_may_move: bool,
) -> Result<Fetched, FetchError> {
    let ended = end_of_day(slice.day, &context.config.window.timezone) <= context.started_at;
    let asks_total = ended && context.config.quality.reconcile != Reconcile::Off;
    let before = if asks_total {
        control_total(context, slice).await?
    } else {
        None
    };

    let begun_at = Timestamp::now();
    let mut body = stoppable(context, context.source.stream(slice, None)).await?;
    let mut conversion = Conversion::start(context, slice);
    let read = async {
        let first = conversion.feed(context, &mut body).await?;
        let after = if asks_total {
            control_total(context, slice).await?
        } else {
            None
        };
        if let (Some(before), Some(after)) = (before, after)
            && before != after
            && !count_may_move
        {
            return Err(FetchError::CountMoved { before, after });
        }
        let total = after.or(first.summary.envelope_total);
        let walked = match total.filter(|&total| is_one_page_of(&first, total)) {
            Some(total) => {
                walk_pages(context, slice, &mut conversion, first.records, total).await?
            }
            None => false,
        };
        Ok((after, total, walked))
    };
    let (control_total, total, walked) = match read.await {
        Ok(read) => read,
        Err(error) => return Err(conversion.abandon(error).await),
    };
    let converted = conversion.finish().await?;
    let verdict = match (context.config.quality.reconcile, ended) {
        (Reconcile::Off, _) => Verdict::Off,
        (_, false) => Verdict::NotChecked,
        // A server that ignores the page number would repeat itself until the count is reached.
        _ if walked && total != Some(converted.counts.records - converted.counts.duplicates) => {
            Verdict::Mismatch
        }
        _ => verdict(&converted.counts, control_total),
    };
    Ok(Fetched {
        converted,
        control_total,
        verdict,
        asked: body.asked.clone(),
        begun_at,
        etag: body.etag.take(),
        last_modified: body.last_modified.take(),
    })
}

/// Reads the pages behind the first, until `total` records are there or a page is empty.
async fn walk_pages(
    context: &Context,
    slice: Slice,
    conversion: &mut Conversion,
    first: u64,
    total: u64,
) -> Result<bool, FetchError> {
    tracing::info!(%slice, total, "The server pages its stream: walking the pages.");
    let mut records = first;
    for page in 2.. {
        let mut body = stoppable(context, context.source.stream(slice, Some(page))).await?;
        let so_far = conversion.feed(context, &mut body).await?.records;
        if so_far >= total || so_far == records {
            break;
        }
        records = so_far;
    }
    Ok(true)
}

/// Whether a first body looks like a page of something longer.
fn is_one_page_of(first: &BodyEnd, total: u64) -> bool {
    let is_page = first.records == DEFAULT_PER_PAGE || first.summary.envelope_total.is_some();
    is_page && first.records > 0 && first.records < total
}

/// The provider's count, or `None` if it will not give one. What may pass is an error, and with it
/// the attempt.
async fn control_total(context: &Context, slice: Slice) -> Result<Option<u64>, FetchError> {
    match stoppable(context, context.source.control_total(slice)).await {
        Ok(total) => Ok(Some(total)),
        Err(FetchError::Source(SourceError::Permanent(problem))) => {
            tracing::warn!(%slice, "The provider's count is unavailable: {problem}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Waits for the network, unless the run stops first.
async fn stoppable<T>(
    context: &Context,
    work: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, FetchError> {
    tokio::select! {
        () = context.stop.cancelled() => Err(FetchError::Stopped),
        done = work => Ok(done?),
    }
}

/// The thread that converts a slice, and the way to it. Dropping it before [`finish`](Self::finish)
/// abandons the slice: the thread ends and removes its files.
struct Conversion {
    messages: mpsc::Sender<Message>,
    thread: tokio::task::JoinHandle<Result<Option<Converted>, ConvertError>>,
}

impl Conversion {
    fn start(context: &Context, slice: Slice) -> Self {
        let config = &context.config;
        let micros = |instant: Timestamp| instant.as_microsecond();
        let timezone = &config.window.timezone;
        let options = ConvertOptions {
            slice,
            day_us: micros(start_of_day(slice.day, timezone))
                ..micros(end_of_day(slice.day, timezone)),
            spool_dir: context.lake.spool_dir().to_owned(),
            max_record_bytes: config.limits.max_record_bytes,
            dedupe: config.quality.dedupe,
            parquet: config.parquet.clone(),
        };
        let (messages, inbox) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let observer = Arc::clone(&context.observer);
        let thread = tokio::task::spawn_blocking(move || convert(options, inbox, &*observer));
        Self { messages, thread }
    }

    /// Passes one body on to its end.
    async fn feed(&mut self, context: &Context, body: &mut Body) -> Result<BodyEnd, FetchError> {
        loop {
            let chunk = stoppable(context, body.chunk()).await?;
            let (reply, end) = oneshot::channel();
            let is_end = chunk.is_none();
            let message = chunk.map_or_else(|| Message::EndBody(reply), Message::Chunk);
            if self.messages.send(message).await.is_err() {
                return Err(FetchError::Ended);
            }
            if is_end {
                return end.await.map_err(|_| FetchError::Ended);
            }
        }
    }

    /// Waits until the thread has removed its files, which the next attempt makes anew. What the
    /// conversion found wrong with the body says more than how the body broke off afterwards.
    async fn abandon(self, error: FetchError) -> FetchError {
        drop(self.messages);
        match (self.thread.await.expect("conversion does not panic"), error) {
            (_, FetchError::Stopped) => FetchError::Stopped,
            (Err(found), _) => found.into(),
            (Ok(_), error) => error,
        }
    }

    async fn finish(self) -> Result<Converted, FetchError> {
        // If the thread has ended early, its result says why.
        drop(self.messages.send(Message::Finish).await);
        let converted = self.thread.await.expect("conversion does not panic")?;
        Ok(converted.expect("the thread was told to finish"))
    }
}

/// The thread's work. `None` if the slice was abandoned.
fn convert(
    options: ConvertOptions,
    mut inbox: mpsc::Receiver<Message>,
    observer: &dyn Observer,
) -> Result<Option<Converted>, ConvertError> {
    let mut converter = Converter::try_new(options)?;
    let mut reported = 0;
    while let Some(message) = inbox.blocking_recv() {
        match message {
            Message::Chunk(chunk) => converter.push(&chunk)?,
            Message::EndBody(reply) => {
                let summary = converter.end_body()?;
                // Nobody listens any more if the run was stopped meanwhile.
                drop(reply.send(BodyEnd {
                    summary,
                    records: converter.records(),
                }));
            }
            Message::Finish => return converter.finish().map(Some),
        }
        observer.records_read(converter.records() - reported);
        reported = converter.records();
    }
    Ok(None)
}
