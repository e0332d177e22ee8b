//! The body of an answer, chunk by chunk, and when it is given up.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use reqwest::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use reqwest::{Response, Version};
use tokio::time::Instant;

use super::answers::{SourceError, content_type};
use crate::body::decompress::Encoding;
use crate::body::framing::Format;
use crate::error::chain;
use crate::lake::ledger::Asked;

/// Time over which `source.min_throughput` is measured.
const THROUGHPUT_WINDOW: Duration = Duration::from_mins(2);

/// The body of a streamed response.
#[derive(Debug)]
pub struct Body {
    /// What was asked, for the ledger.
    pub asked: Asked,
    /// The response's `ETag`, for the record.
    pub etag: Option<String>,
    /// The response's `Last-Modified`, for the record.
    pub last_modified: Option<String>,
    /// When the response began, by the server's clock.
    pub server_time: Option<Timestamp>,
    /// How the bytes of its [chunks](Self::chunk) are compressed.
    pub encoding: Encoding,
    /// What they are, decompressed.
    pub format: Format,
    /// What the answer was, where it is none of calls: 204, or a 404 in the API's own words. It has
    /// no bytes then, and means a day without calls if the provider counts none.
    pub absent: Option<String>,
    pub(super) response: Response,
    /// Read before it was asked for.
    pub(super) ahead: VecDeque<Bytes>,
    pub(super) stall_timeout: Duration,
    pub(super) floor: ThroughputFloor,
}

impl Body {
    /// Refuses an answer that there are no calls, where there should be some.
    ///
    /// # Errors
    /// [`SourceError::Permanent`]: asking again would not help.
    pub(super) fn must_be_there(&self) -> Result<(), SourceError> {
        match &self.absent {
            Some(problem) => Err(SourceError::Permanent(problem.clone())),
            None => Ok(()),
        }
    }

    /// Refuses what could be cut without anyone noticing.
    pub(super) fn check(&self) -> Result<(), SourceError> {
        let headers = self.response.headers();
        let chunked = headers
            .get(TRANSFER_ENCODING)
            .is_some_and(|value| value.as_bytes().to_ascii_lowercase().ends_with(b"chunked"));
        let is_framed = chunked
            || headers.contains_key(CONTENT_LENGTH)
            || self.response.version() >= Version::HTTP_2;
        if !is_framed {
            return Err(SourceError::Foreign(
                "the answer has neither a length nor chunks, so that a cut stream would look complete. A proxy in between may be the cause".to_owned(),
            ));
        }
        Ok(())
    }

    /// The next bytes, or `None` at the proper end of the body.
    ///
    /// # Errors
    /// [`SourceError::Transient`] if the body breaks off, stalls or drips.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        match self.ahead.pop_front() {
            Some(chunk) => Ok(Some(chunk)),
            None => self.next_chunk().await,
        }
    }

    /// Reads up to its end, or until `limit_bytes` are held.
    pub(super) async fn read_ahead(&mut self, limit_bytes: usize) -> Result<(), SourceError> {
        let mut held_bytes = 0;
        while held_bytes < limit_bytes
            && let Some(chunk) = self.next_chunk().await?
        {
            held_bytes += chunk.len();
            self.ahead.push_back(chunk);
        }
        Ok(())
    }

    async fn next_chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        if self.absent.is_some() {
            return Ok(None);
        }
        let begun = Instant::now();
        let chunk = match tokio::time::timeout(self.stall_timeout, self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| {
                SourceError::transient(format!(
                    "the stream broke off: {}",
                    chain(&error.without_url())
                ))
            })?,
            Err(_) => {
                let waited = self.stall_timeout;
                return Err(SourceError::transient(format!(
                    "the stream stalled: no byte for {waited:?} (source.stall_timeout)"
                )));
            }
        };
        if let Some(chunk) = &chunk {
            self.floor.check(chunk.len(), begun.elapsed())?;
        }
        Ok(chunk)
    }

    /// Whether a body of which nothing is left, decompressed, is a day without calls.
    ///
    /// # Errors
    /// [`SourceError::Foreign`] if it is not marked as records.
    pub fn may_be_empty(&self) -> Result<(), SourceError> {
        if self.absent.is_some() {
            return Ok(());
        }
        let marked = match self.format {
            Format::Json | Format::Lines => "json",
            Format::Csv => "csv",
        };
        if content_type(&self.response).is_none_or(|content_type| content_type.contains(marked)) {
            return Ok(());
        }
        Err(SourceError::Foreign(
            "the answer is empty and not marked as records: a proxy in between may have made it"
                .to_owned(),
        ))
    }
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
                "the stream drips: {} bytes in {:?}, less than source.min_throughput",
                self.bytes, THROUGHPUT_WINDOW
            );
            return Err(SourceError::transient(problem));
        }
        (self.bytes, self.waited) = (0, Duration::ZERO);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_drips_is_given_up_and_one_that_waits_for_us_is_not() {
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
