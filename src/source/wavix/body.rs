//! The body of an answer, chunk by chunk, and when it is given up.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt, stream};
use reqwest::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use reqwest::{Response, Version};
use tokio::time::Instant;

use super::answers::content_type;
use crate::body::framing::Format;
use crate::config::SourceConfig;
use crate::error::chain;
use crate::retry::RetryReason;
use crate::source::{Body, Chunks, SourceError};

/// Time over which `source.min_throughput` is measured.
const THROUGHPUT_WINDOW: Duration = Duration::from_mins(2);

/// Chunks that have arrived are joined up to about this size. A frame of HTTP/2 has 8 or 16 KiB;
/// to hand over each alone would wake both threads for each.
const JOINED_BYTES: usize = 128 << 10;

/// A response whose body is read.
#[derive(Debug)]
pub(super) struct Download {
    response: Response,
    stall_timeout: Duration,
    floor: ThroughputFloor,
    /// The end of the body, if it was read behind the last chunk.
    end: Option<Result<(), SourceError>>,
}

impl Download {
    pub(super) fn new(response: Response, config: &SourceConfig) -> Self {
        Self {
            response,
            stall_timeout: config.stall_timeout,
            floor: ThroughputFloor::new(config.min_throughput),
            end: None,
        }
    }

    /// Its bytes up to its proper end, or to where it breaks off, stalls or drips.
    pub(super) fn chunks(self) -> Chunks {
        let next = async |mut download: Self| {
            let chunk = download.chunk().await?;
            Ok(chunk.map(|chunk| (chunk, download)))
        };
        stream::try_unfold(self, next).boxed()
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        if let Some(end) = self.end.take() {
            return end.map(|()| None);
        }
        let begun = Instant::now();
        let received = tokio::time::timeout(self.stall_timeout, self.response.chunk()).await;
        let Ok(received) = received else {
            let waited = self.stall_timeout;
            return Err(SourceError::transient(
                RetryReason::Timeout,
                format!("the stream stalled: no byte for {waited:?} (source.stall_timeout)"),
            ));
        };
        let Some(first) = received.map_err(broken_off)? else {
            return Ok(None);
        };
        let waited = begun.elapsed();
        let chunk = self.join_arrived(first);
        self.floor.check(chunk.len(), waited)?;
        Ok(Some(chunk))
    }

    /// The chunk, together with those behind it that have already arrived.
    fn join_arrived(&mut self, first: Bytes) -> Bytes {
        let mut joined = BytesMut::new();
        let mut length = first.len();
        while length < JOINED_BYTES {
            let next = match self.response.chunk().now_or_never() {
                None => break,
                Some(Ok(Some(next))) => next,
                Some(end) => {
                    self.end = Some(end.map(drop).map_err(broken_off));
                    break;
                }
            };
            if joined.is_empty() {
                joined.reserve(JOINED_BYTES + next.len());
                joined.extend_from_slice(&first);
            }
            joined.extend_from_slice(&next);
            length = joined.len();
        }
        if joined.is_empty() {
            first
        } else {
            joined.freeze()
        }
    }
}

fn broken_off(error: reqwest::Error) -> SourceError {
    let problem = chain(&error.without_url());
    let problem = format!("the stream broke off: {problem}");
    SourceError::transient(RetryReason::BrokenBody, problem)
}

/// Reads a body up to its end, or until `limit_bytes` are held.
pub(super) async fn read_ahead(body: &mut Body, limit_bytes: usize) -> Result<(), SourceError> {
    let (mut held, mut held_bytes) = (Vec::new(), 0);
    while held_bytes < limit_bytes
        && let Some(chunk) = body.chunk().await?
    {
        held_bytes += chunk.len();
        held.push(Ok(chunk));
    }
    let rest = std::mem::replace(&mut body.chunks, stream::empty().boxed());
    body.chunks = stream::iter(held).chain(rest).boxed();
    Ok(())
}

/// Refuses what could be cut without anyone noticing.
pub(super) fn must_show_its_end(response: &Response) -> Result<(), SourceError> {
    let headers = response.headers();
    let chunked = headers
        .get(TRANSFER_ENCODING)
        .is_some_and(|value| value.as_bytes().to_ascii_lowercase().ends_with(b"chunked"));
    let is_framed =
        chunked || headers.contains_key(CONTENT_LENGTH) || response.version() >= Version::HTTP_2;
    if !is_framed {
        return Err(SourceError::Foreign(
            "the answer has neither a length nor chunks, so a cut stream would look complete. \
             Check for a proxy in between"
                .to_owned(),
        ));
    }
    Ok(())
}

/// The error for a response that is empty after decompression and not declared as records. `None`
/// if it may be a day without calls.
pub(super) fn wrong_if_empty(response: &Response, format: Format) -> Option<SourceError> {
    let marked = match format {
        Format::Json | Format::Lines => "json",
        Format::Csv => "csv",
    };
    if content_type(response).is_none_or(|content_type| content_type.contains(marked)) {
        return None;
    }
    Some(SourceError::Foreign(
        "the answer is empty, and its Content-Type is not that of records. Check for a proxy in \
         between"
            .to_owned(),
    ))
}

/// Notices a stream that never stalls and never gets anywhere. Counts only time spent waiting for
/// the network: a slow disk here is not the server's fault.
#[derive(Debug)]
pub(super) struct ThroughputFloor {
    bytes_per_second: u64,
    bytes: u64,
    waited: Duration,
}

impl ThroughputFloor {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            bytes: 0,
            waited: Duration::ZERO,
        }
    }

    pub(super) fn check(&mut self, bytes: usize, waited: Duration) -> Result<(), SourceError> {
        self.bytes += bytes as u64;
        self.waited += waited;
        if self.waited < THROUGHPUT_WINDOW {
            return Ok(());
        }
        let needed = self.bytes_per_second.saturating_mul(self.waited.as_secs());
        if self.bytes < needed {
            let problem = format!(
                "the stream is too slow: {} bytes in {:?}, less than source.min_throughput",
                self.bytes, THROUGHPUT_WINDOW
            );
            return Err(SourceError::transient(RetryReason::Timeout, problem));
        }
        (self.bytes, self.waited) = (0, Duration::ZERO);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_below_the_minimum_throughput_is_ended_unless_it_waits_for_its_reader() {
        let drip = |bytes, seconds| {
            let mut floor = ThroughputFloor::new(1 << 10);
            let mut drops = 0..1_000_u32;
            let given_up = drops.find(|_| {
                let waited = Duration::from_secs(seconds);
                floor.check(bytes, waited).is_err()
            });
            given_up.map(|drops| u64::from(drops + 1) * seconds)
        };
        // A byte less than a kibibyte a second, over two minutes; never a stall.
        assert_eq!(drip(1023, 1), Some(120));
        assert_eq!(drip(1, 59), Some(177));
        assert_eq!(drip(1024, 1), None);
        // However few bytes there are: the network was not waited for.
        assert_eq!(drip(1, 0), None);
        let mut unlimited = ThroughputFloor::new(0);
        assert!(unlimited.check(0, THROUGHPUT_WINDOW).is_ok());
    }
}
