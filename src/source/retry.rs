//! Asking again, while what stands in the way may pass.

use std::time::Duration;

use tokio::time::Instant;

use super::{Source, SourceError};
use crate::cdr::slice::Slice;
use crate::config::SourceConfig;

/// Attempts at what may be a passing whim of the server, or may stay: a count that does not match,
/// an answer that is not the API's.
pub(crate) const FEW_ATTEMPTS: u32 = 3;

/// How long to wait before the next attempt, after the model of the provider's own SDK: what the
/// server asks for, else exponential with
/// [full jitter](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// `source.retry_base`: the longest first wait.
    pub base: Duration,
    /// `source.retry_max`: the longest wait of all. Who is asked for a longer one gives up.
    pub max: Duration,
}

impl From<&SourceConfig> for Backoff {
    fn from(config: &SourceConfig) -> Self {
        Self {
            base: config.retry_base,
            max: config.retry_max,
        }
    }
}

impl Backoff {
    /// The wait after failed attempt number `attempt`, counted from 1.
    pub fn wait(&self, attempt: u32, asked_for: Option<Duration>) -> Duration {
        match asked_for {
            Some(asked_for) => asked_for,
            None => self.ceiling(attempt).mul_f64(fastrand::f64()),
        }
    }

    fn ceiling(&self, attempt: u32) -> Duration {
        let factor = 2_u32
            .checked_pow(attempt.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.base
            .checked_mul(factor)
            .unwrap_or(self.max)
            .min(self.max)
    }
}

/// When `source.max_elapsed` is used up by what began at `begun`.
pub(crate) fn deadline(config: &SourceConfig, begun: Instant) -> Instant {
    const FAR_AWAY: Duration = Duration::from_hours(24 * 365 * 30);
    begun + config.max_elapsed.min(FAR_AWAY)
}

/// The provider's own count of a slice, asked for again while what stands in the way may pass.
///
/// # Errors
/// [`SourceError`] of the last attempt.
pub async fn count_patiently(
    source: &dyn Source,
    config: &SourceConfig,
    slice: Slice,
) -> Result<u64, SourceError> {
    let deadline = deadline(config, Instant::now());
    ask_patiently(source, config, slice, deadline, || source.count(slice)).await
}

/// Asks up to `source.max_attempts` times, and until `deadline`, while what stands in the way may
/// pass; up to [`FEW_ATTEMPTS`] times while the answer is not the API's.
pub(crate) async fn ask_patiently<T, F: Future<Output = Result<T, SourceError>>>(
    source: &dyn Source,
    config: &SourceConfig,
    slice: Slice,
    deadline: Instant,
    ask: impl Fn() -> F,
) -> Result<T, SourceError> {
    let backoff = Backoff::from(config);
    let mut attempt = 1;
    let mut foreign = 0;
    loop {
        let error = match ask().await {
            Err(error) if error.is_transient() && attempt < config.max_attempts => error,
            result => return result,
        };
        foreign += u32::from(matches!(error, SourceError::Foreign(_)));
        if foreign == FEW_ATTEMPTS {
            return Err(error);
        }
        let (asked_for, slow_down) = match &error {
            SourceError::Transient {
                retry_after,
                slow_down,
                ..
            } => (*retry_after, *slow_down),
            _ => (None, false),
        };
        let wait = backoff.wait(attempt, asked_for);
        if Instant::now() + wait > deadline {
            return Err(error);
        }
        if slow_down {
            source.slow_down(wait);
        }
        let problem = source.credentials().printable(&error.to_string());
        tracing::warn!(
            slice = slice.to_string(),
            attempt,
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            "Trying again: {problem}"
        );
        tokio::time::sleep(wait).await;
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_limit_and_are_what_the_server_asks_for() {
        let backoff = Backoff {
            base: Duration::from_secs(1),
            max: Duration::from_mins(1),
        };
        let ceilings: Vec<u64> = (1..=8)
            .map(|attempt| backoff.ceiling(attempt).as_secs())
            .collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.ceiling(4000).as_secs(), 60);
        assert!((0..100).all(|_| backoff.wait(3, None) <= Duration::from_secs(4)));
        assert_eq!(backoff.wait(1, Some(Duration::from_secs(5))).as_secs(), 5);
    }
}
