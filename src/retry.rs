//! What an error means for a slice and its run, and how often an operation is retried.

use std::time::Duration;

use fastrand::Rng;
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
    /// Retry a transient error by the policy alone.
    pub const RETRY: Self = Self::Retry(RetryHint::of(RetryReason::Transient));

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
    /// What failed: most reasons have a limit of their own.
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

/// Why an operation is retried. Every reason but `Transient` also has its own limit, because it may
/// turn out to be permanent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryReason {
    /// Any other error that may be transient.
    Transient,
    /// The answer does not come from the API.
    ForeignAnswer,
    /// The count does not match, or the answer has a count but no calls.
    CountMismatch,
    /// The count matches only if duplicates are included.
    Duplicates,
}

/// Attempts for each [reason](RetryReason) but `Transient`.
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
    occurrences: [u32; 4],
    rng: Rng,
}

impl Retry {
    /// Begins with the first attempt. No attempt begins after `deadline`.
    pub(crate) fn new(policy: RetryPolicy, deadline: Option<Instant>) -> Self {
        Self {
            policy,
            deadline,
            attempt: 1,
            occurrences: [0; 4],
            // Seeded by the thread's generator, so that `fastrand::seed` makes waits repeatable.
            rng: Rng::new(),
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
        let has_own_limit = reason != RetryReason::Transient;
        self.attempt >= self.policy.max_attempts
            || (has_own_limit && self.occurrences[reason as usize] + 1 >= MAX_ATTEMPTS_PER_REASON)
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
        self.attempt += 1;
        Ok(wait)
    }

    /// Waits until the next attempt is due. Returns `false` if no attempt is left.
    pub(crate) async fn wait_for_next(&mut self) -> bool {
        match self.next(RetryHint::of(RetryReason::Transient)) {
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
            ..RetryHint::of(RetryReason::Transient)
        };
        let mut retry = Retry::new(POLICY, None);
        assert_eq!(retry.next(asked), Ok(Duration::from_mins(5)));
    }

    #[test]
    fn waits_lie_between_zero_and_their_limit_and_a_seed_repeats_them() {
        let waits = |seed| {
            fastrand::seed(seed);
            let mut retry = Retry::new(POLICY, None);
            let waits =
                std::iter::from_fn(|| retry.next(RetryHint::of(RetryReason::Transient)).ok());
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
        assert_eq!(attempts(&[RetryReason::Transient]), 9);
        for reason in [
            RetryReason::ForeignAnswer,
            RetryReason::CountMismatch,
            RetryReason::Duplicates,
        ] {
            assert_eq!(attempts(&[reason]), 3);
            assert_eq!(attempts(&[reason, RetryReason::Transient]), 5);
        }
        assert_eq!(
            attempts(&[RetryReason::ForeignAnswer, RetryReason::CountMismatch]),
            5
        );
    }

    #[tokio::test(start_paused = true)]
    async fn no_attempt_begins_after_the_deadline() {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut retry = Retry::new(POLICY, Some(deadline));
        let after = |seconds| RetryHint {
            after: Some(Duration::from_secs(seconds)),
            ..RetryHint::of(RetryReason::Transient)
        };
        assert_eq!(retry.next(after(11)), Err(Exhausted::Time));
        assert_eq!(retry.next(after(10)), Ok(Duration::from_secs(10)));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(retry.next(after(1)), Err(Exhausted::Time));
        assert_eq!(retry.attempt(), 2);
    }
}
