//! What an error means for a slice and its run, and how often something is tried again.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

/// What becomes of a slice, and of its run, because of an error. Each type of errors says it of
/// itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It may pass: trying again may help.
    Retry(Again),
    /// It will not pass, and says nothing of other slices.
    FailSlice,
    /// No other slice would fare better.
    StopRun(Obstacle),
}

impl Fate {
    /// It may pass, and nobody asks for anything.
    pub const MAY_PASS: Self = Self::Retry(Again::of(Setback::Passing));

    /// Whether no other slice would fare better.
    pub fn stops_the_run(self) -> bool {
        matches!(self, Self::StopRun(_))
    }
}

/// What stands in the way of all slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The source refuses the key.
    Key,
    /// The source never answers, or wants to be left alone for long.
    Source,
    /// The lake or the spool cannot be written.
    Lake,
}

/// How to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// What stood in the way, for its own limit.
    pub setback: Setback,
    /// How long a server asks to wait.
    pub after: Option<Duration>,
    /// Whether everybody should wait, not only who was told.
    pub slow_down: bool,
}

impl Again {
    /// Where nobody asks for anything.
    pub const fn of(setback: Setback) -> Self {
        Self {
            setback,
            after: None,
            slow_down: false,
        }
    }
}

/// What stood in the way. All but the first have a limit of their own, `FEW_ATTEMPTS`, for what
/// may be a passing whim of the server, or may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setback {
    /// Anything that may pass.
    Passing,
    /// An answer that is not the API's.
    Foreign,
    /// A count that does not match, or is there without calls.
    Mismatch,
    /// A count that matches only with records that came twice.
    Duplicates,
}

/// The limit of some [setbacks](Setback).
pub(crate) const FEW_ATTEMPTS: u32 = 3;

/// How often something is tried, and how long it is waited for in between: what a server asks for,
/// else exponential with
/// [full jitter](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    /// The first try among them.
    pub max_attempts: u32,
    /// The longest first wait. It doubles with each further one.
    pub first_wait: Duration,
    /// The longest wait of all, unless a server asks for a longer one.
    pub longest_wait: Duration,
}

impl RetryPolicy {
    /// For an object that others write, or a reply that was lost: up to some seconds. In a bucket
    /// this comes on top of what the library tries by itself, for that leaves conditional writes
    /// alone whose reply was lost.
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

/// Why there is no further try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    /// There were enough.
    Attempts,
    /// The next would begin too late.
    Time,
}

/// The tries at one thing.
#[derive(Debug)]
pub(crate) struct Retry {
    policy: RetryPolicy,
    deadline: Option<Instant>,
    /// Number of the try that is under way.
    attempt: u32,
    /// How often each setback was met.
    met: [u32; 4],
    rng: Rng,
}

impl Retry {
    /// The first try. None begins after `deadline`.
    pub(crate) fn new(policy: RetryPolicy, deadline: Option<Instant>) -> Self {
        Self {
            policy,
            deadline,
            attempt: 1,
            met: [0; 4],
            // Seeded by the thread's own, which `fastrand::seed` makes repeatable.
            rng: Rng::new(),
        }
    }

    /// Number of the try that is under way, counted from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether nothing was tried before.
    pub(crate) fn is_first(&self) -> bool {
        self.attempt == 1
    }

    /// Whether there is no further try if this one meets such a setback.
    pub(crate) fn is_last(&self, setback: Setback) -> bool {
        let has_own_limit = setback != Setback::Passing;
        self.attempt >= self.policy.max_attempts
            || (has_own_limit && self.met[setback as usize] + 1 >= FEW_ATTEMPTS)
    }

    /// Begins the next try, and says how long to wait for it.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn next(&mut self, again: Again) -> Result<Duration, Spent> {
        if self.is_last(again.setback) {
            return Err(Spent::Attempts);
        }
        let longest = self.policy.longest_wait_after(self.attempt);
        let wait = again
            .after
            .unwrap_or_else(|| longest.mul_f64(self.rng.f64()));
        if self.deadline.is_some_and(|end| Instant::now() + wait > end) {
            return Err(Spent::Time);
        }
        self.met[again.setback as usize] += 1;
        self.attempt += 1;
        Ok(wait)
    }

    /// Waits for the next try. Whether there is one.
    pub(crate) async fn again(&mut self) -> bool {
        match self.next(Again::of(Setback::Passing)) {
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
    fn waits_double_up_to_their_limit_and_are_what_the_server_asks_for() {
        let longest: Vec<u64> = (1..=8)
            .map(|attempt| POLICY.longest_wait_after(attempt).as_secs())
            .collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(POLICY.longest_wait_after(4000).as_secs(), 60);
        let asked = Again {
            after: Some(Duration::from_mins(5)),
            ..Again::of(Setback::Passing)
        };
        let mut retry = Retry::new(POLICY, None);
        assert_eq!(retry.next(asked), Ok(Duration::from_mins(5)));
    }

    #[test]
    fn waits_lie_between_nothing_and_their_limit_and_a_seed_repeats_them() {
        let waits = |seed| {
            fastrand::seed(seed);
            let mut retry = Retry::new(POLICY, None);
            let waits = std::iter::from_fn(|| retry.next(Again::of(Setback::Passing)).ok());
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
    fn each_setback_has_its_limit_and_all_have_one_together() {
        let tries = |met: &[Setback]| {
            let mut retry = Retry::new(POLICY, None);
            let met = met.iter().cycle();
            let tries = met.take_while(|&&setback| retry.next(Again::of(setback)).is_ok());
            tries.count() + 1
        };
        assert_eq!(tries(&[Setback::Passing]), 9);
        for setback in [Setback::Foreign, Setback::Mismatch, Setback::Duplicates] {
            assert_eq!(tries(&[setback]), 3);
            assert_eq!(tries(&[setback, Setback::Passing]), 5);
        }
        assert_eq!(tries(&[Setback::Foreign, Setback::Mismatch]), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn no_try_begins_after_the_deadline() {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut retry = Retry::new(POLICY, Some(deadline));
        let after = |seconds| Again {
            after: Some(Duration::from_secs(seconds)),
            ..Again::of(Setback::Passing)
        };
        assert_eq!(retry.next(after(11)), Err(Spent::Time));
        assert_eq!(retry.next(after(10)), Ok(Duration::from_secs(10)));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(retry.next(after(1)), Err(Spent::Time));
        assert_eq!(retry.attempt(), 2);
    }
}
