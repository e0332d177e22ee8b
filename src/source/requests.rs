//! Asking again, while what stands in the way may pass.

use std::time::Duration;

use tokio::time::Instant;

use super::{Request, Source, SourceError};
use crate::cdr::slice::Slice;
use crate::config::SourceConfig;
use crate::retry::{Fate, Retry, RetryHint, RetryPolicy};

impl From<&SourceConfig> for RetryPolicy {
    fn from(config: &SourceConfig) -> Self {
        Self {
            max_attempts: config.max_attempts,
            first_wait: config.retry_base,
            longest_wait: config.retry_max,
        }
    }
}

/// When `source.max_elapsed` is used up by what begins now.
pub(crate) fn deadline(config: &SourceConfig) -> Instant {
    const FAR_AWAY: Duration = Duration::from_hours(24 * 365 * 30);
    Instant::now() + config.max_elapsed.min(FAR_AWAY)
}

/// The provider's own count of a slice, asked for again while what stands in the way may pass.
///
/// # Errors
/// [`SourceError`] of the last attempt.
pub(crate) async fn count_with_retries(
    source: &dyn Source,
    config: &SourceConfig,
    request: Request,
) -> Result<u64, SourceError> {
    let retry = Retry::new(config.into(), Some(deadline(config)));
    request_with_retries(source, retry, request.slice, || source.count(request)).await
}

/// Asks until the answer is good, or there is no further try.
pub(crate) async fn request_with_retries<T, F: Future<Output = Result<T, SourceError>>>(
    source: &dyn Source,
    mut retry: Retry,
    slice: Slice,
    ask: impl Fn() -> F,
) -> Result<T, SourceError> {
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let Fate::Retry(hint) = error.fate() else {
            return Err(error);
        };
        let attempt = retry.attempt();
        let Ok(wait) = retry.next(hint) else {
            return Err(error);
        };
        wait_before_retry(source, slice, attempt, &error, hint, wait).await;
    }
}

/// Logs why there is another attempt, and waits for it.
pub(crate) async fn wait_before_retry(
    source: &dyn Source,
    slice: Slice,
    attempt: u32,
    error: &(dyn std::error::Error + Sync),
    hint: RetryHint,
    wait: Duration,
) {
    if hint.slow_down {
        source.slow_down(wait);
    }
    let problem = source.credentials().hide_keys(&error.to_string());
    tracing::warn!(
        slice = slice.to_string(),
        attempt,
        wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        "Retrying: {problem}"
    );
    tokio::time::sleep(wait).await;
}
