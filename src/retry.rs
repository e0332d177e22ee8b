//! What an error means for a slice and its run, and how often an operation is retried.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The effect of an error on its slice and on the run. Each error type has a method `fate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The error may be transient: retry.
    Retry(RetryHint),
    /// The error is permanent and concerns this slice only.
    FailSlice,
    /// Every other slice would fail in the same way.
    StopRun(StopCause),
}

impl Fate {
    /// Retry by the policy alone, without a request from the server.
    pub const fn retry(reason: RetryReason) -> Self {
        Self::Retry(RetryHint::of(reason))
    }

    /// Whether the error ends the run.
    pub fn stops_the_run(self) -> bool {
        matches!(self, Self::StopRun(_))
    }
}

/// What makes every slice of a run fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// The source refuses the key.
    Key,
    /// The source never answers, or asks for a long wait.
    Source,
    /// The lake or the spool is not writable.
    Lake,
}

/// How an error should be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryHint {
    /// What failed: some reasons have a limit of their own.
    pub reason: RetryReason,
    /// The wait that the server asked for (`Retry-After`).
    pub after: Option<Duration>,
    /// Whether all requests should slow down, not only this one.
    pub slow_down: bool,
}

impl RetryHint {
    /// A retry by the policy alone, without a request from the server.
    pub const fn of(reason: RetryReason) -> Self {
        Self {
            reason,
            after: None,
            slow_down: false,
        }
    }
}

/// Why an operation is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryReason {
    /// No connection, or one that ended before the response.
    Connection,
    /// No response or no byte within `source.stall_timeout`, or a stream slower than
    /// `source.min_throughput`.
    Timeout,
    /// Status 429.
    RateLimit,
    /// Status 408, 409, 425 or 5xx, or the server's own error within a body.
    ServerError,
    /// The body broke off, or is cut or damaged.
    BrokenBody,
    /// The count changed while the slice was read, or pages do not continue one another.
    CountMoved,
    /// The answer does not come from the API.
    ForeignAnswer,
    /// The count does not match, or the answer has a count but no calls.
    CountMismatch,
    /// The count matches only if duplicates are included.
    Duplicates,
    /// Any other error that may be transient.
    Other,
}

impl RetryReason {
    /// Every reason, in its order.
    pub const ALL: [Self; 10] = [
        Self::Connection,
        Self::Timeout,
        Self::RateLimit,
        Self::ServerError,
        Self::BrokenBody,
        Self::CountMoved,
        Self::ForeignAnswer,
        Self::CountMismatch,
        Self::Duplicates,
        Self::Other,
    ];

    /// Whether it has its own limit, because it may turn out to be permanent.
    fn has_own_limit(self) -> bool {
        matches!(
            self,
            Self::ForeignAnswer | Self::CountMismatch | Self::Duplicates
        )
    }
}

/// How often each reason led to another attempt, over all slices of a run.
#[derive(Debug, Default)]
pub(crate) struct RetryCounts([AtomicU64; RetryReason::ALL.len()]);

impl RetryCounts {
    fn add(&self, reason: RetryReason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The reasons that occurred.
    pub(crate) fn by_reason(&self) -> BTreeMap<RetryReason, u64> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        let counts = RetryReason::ALL.into_iter().zip(counts);
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

/// Attempts for each [reason](RetryReason) with its own limit.
pub(crate) const MAX_ATTEMPTS_PER_REASON: u32 = 3;

/// How often an operation is attempted, and how long to wait in between: as long as the server
/// asks, otherwise exponential backoff with [full
/// jitter](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    /// Includes the first attempt.
    pub max_attempts: u32,
    /// Upper bound of the first wait. It doubles with each attempt.
    pub first_wait: Duration,
    /// Upper bound of every wait, unless the server asks for a longer one.
    pub longest_wait: Duration,
}

impl RetryPolicy {
    /// For objects with concurrent writers, and for lost replies: a few seconds in all. In a
    /// bucket, these retries come on top of the library's, which does not retry a conditional write
    /// whose reply was lost.
    pub(crate) const STORE: Self = Self {
        max_attempts: 6,
        first_wait: Duration::from_millis(100),
        longest_wait: Duration::from_millis(3_200),
    };

    fn longest_wait_after(&self, attempt: u32) -> Duration {
        let factor = 2_u32
            .checked_pow(attempt.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let wait = self.first_wait.checked_mul(factor);
        wait.unwrap_or(self.longest_wait).min(self.longest_wait)
    }
}

/// Which limit permits no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exhausted {
    /// The number of attempts.
    Attempts,
    /// The deadline.
    Time,
}

/// The attempts at one operation.
#[derive(Debug)]
pub(crate) struct Retry {
    policy: RetryPolicy,
    deadline: Option<Instant>,
    /// Number of the current attempt.
    attempt: u32,
    /// How often each reason occurred.
    occurrences: [u32; RetryReason::ALL.len()],
    /// Where retries are counted.
    counts: Option<Arc<RetryCounts>>,
    rng: Rng,
}

impl Retry {
    /// Begins with the first attempt. No attempt begins after `deadline`.
    pub(crate) fn new(policy: RetryPolicy, deadline: Option<Instant>) -> Self {
        Self {
            policy,
            deadline,
            attempt: 1,
            occurrences: [0; RetryReason::ALL.len()],
            counts: None,
            // Seeded by the thread's generator, so that `fastrand::seed` makes waits repeatable.
            rng: Rng::new(),
        }
    }

    /// Counts the attempts after the first one in `counts`, too.
    pub(crate) fn counted_in(self, counts: &Arc<RetryCounts>) -> Self {
        Self {
            counts: Some(Arc::clone(counts)),
            ..self
        }
    }

    /// Number of the current attempt, from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether this is the first attempt.
    pub(crate) fn is_first(&self) -> bool {
        self.attempt == 1
    }

    /// Whether the current attempt is the last if it fails for this reason.
    pub(crate) fn is_last(&self, reason: RetryReason) -> bool {
        self.attempt >= self.policy.max_attempts
            || (reason.has_own_limit()
                && self.occurrences[reason as usize] + 1 >= MAX_ATTEMPTS_PER_REASON)
    }

    /// Moves on to the next attempt and returns how long to wait before it.
    ///
    /// # Errors
    /// [`Exhausted`] if a limit permits no further attempt.
    pub(crate) fn next(&mut self, hint: RetryHint) -> Result<Duration, Exhausted> {
        if self.is_last(hint.reason) {
            return Err(Exhausted::Attempts);
        }
        let longest = self.policy.longest_wait_after(self.attempt);
        let wait = hint
            .after
            .unwrap_or_else(|| longest.mul_f64(self.rng.f64()));
        if self.deadline.is_some_and(|end| Instant::now() + wait > end) {
            return Err(Exhausted::Time);
        }
        self.occurrences[hint.reason as usize] += 1;
        if let Some(counts) = &self.counts {
            counts.add(hint.reason);
        }
        self.attempt += 1;
        Ok(wait)
    }

    /// Waits until the next attempt is due. Returns `false` if no attempt is left.
    pub(crate) async fn wait_for_next(&mut self) -> bool {
        match self.next(RetryHint::of(RetryReason::Other)) {
            Ok(wait) => {
                tokio::time::sleep(wait).await;
                true
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        max_attempts: 9,
        first_wait: Duration::from_secs(1),
        longest_wait: Duration::from_mins(1),
    };

    #[test]
    fn waits_double_up_to_their_limit_unless_the_server_asks_for_a_wait() {
        let longest: Vec<u64> = (1..=8)
            .map(|attempt| POLICY.longest_wait_after(attempt).as_secs())
            .collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(POLICY.longest_wait_after(4000).as_secs(), 60);
        let asked = RetryHint {
            after: Some(Duration::from_mins(5)),
            ..RetryHint::of(RetryReason::Other)
        };
        let mut retry = Retry::new(POLICY, None);
        assert_eq!(retry.next(asked), Ok(Duration::from_mins(5)));
    }

    #[test]
    fn waits_lie_between_zero_and_their_limit_and_a_seed_repeats_them() {
        let waits = |seed| {
            fastrand::seed(seed);
            let mut retry = Retry::new(POLICY, None);
            let waits = std::iter::from_fn(|| retry.next(RetryHint::of(RetryReason::Other)).ok());
            waits.collect::<Vec<_>>()
        };
        for seed in 0..100 {
            for (wait, attempt) in waits(seed).into_iter().zip(1..) {
                assert!(wait <= POLICY.longest_wait_after(attempt), "seed {seed}");
            }
        }
        assert_eq!(waits(7), waits(7));
        assert_ne!(waits(7), waits(8));
    }

    #[test]
    fn each_reason_has_its_own_limit_and_all_share_one() {
        let attempts = |reasons: &[RetryReason]| {
            let mut retry = Retry::new(POLICY, None);
            let reasons = reasons.iter().cycle();
            let retries = reasons.take_while(|&&reason| retry.next(RetryHint::of(reason)).is_ok());
            retries.count() + 1
        };
        for reason in RetryReason::ALL {
            let (alone, with_another) = match reason {
                RetryReason::ForeignAnswer
                | RetryReason::CountMismatch
                | RetryReason::Duplicates => (3, 5),
                _ => (9, 9),
            };
            assert_eq!(attempts(&[reason]), alone, "{reason:?}");
            let alternating = [reason, RetryReason::Other];
            assert_eq!(attempts(&alternating), with_another, "{reason:?}");
        }
        assert_eq!(
            attempts(&[RetryReason::ForeignAnswer, RetryReason::CountMismatch]),
            5
        );
    }

    #[test]
    fn retries_are_counted_by_reason_and_last_attempts_are_not() {
        let counts = Arc::new(RetryCounts::default());
        for reason in [RetryReason::Timeout, RetryReason::Duplicates] {
            let mut retry = Retry::new(POLICY, None).counted_in(&counts);
            while retry.next(RetryHint::of(reason)).is_ok() {}
        }
        let expected = [(RetryReason::Timeout, 8), (RetryReason::Duplicates, 2)];
        assert_eq!(counts.by_reason(), expected.into());
    }

    #[tokio::test(start_paused = true)]
    async fn no_attempt_begins_after_the_deadline() {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut retry = Retry::new(POLICY, Some(deadline));
        let after = |seconds| RetryHint {
            after: Some(Duration::from_secs(seconds)),
            ..RetryHint::of(RetryReason::Other)
        };
        assert_eq!(retry.next(after(11)), Err(Exhausted::Time));
        assert_eq!(retry.next(after(10)), Ok(Duration::from_secs(10)));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(retry.next(after(1)), Err(Exhausted::Time));
        assert_eq!(retry.attempt(), 2);
    }
}
