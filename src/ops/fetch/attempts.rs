//! Attempts at a slice: which are worth another, and what the next may let pass.

use std::sync::Arc;

use super::Fetcher;
use super::attempt::{FetchError, Fetched, Leniency, fetch};
use crate::cdr::digest::Digest;
use crate::cdr::reconcile::Verdict;
use crate::cdr::tally::Counts;
use crate::privacy::Privacy;
use crate::retry::{Fate, Retry, RetryReason};
use crate::source::Request;
use crate::source::requests::{deadline, wait_before_retry};

impl Fetcher {
    /// Fetches a slice until an attempt succeeds or none is left, and counts the `attempts`. The
    /// caller judges a count that never matches.
    pub(in crate::ops) async fn fetch_until_good(
        &self,
        request: Request,
        privacy: &Arc<Privacy>,
        attempts: &mut u32,
    ) -> Result<Fetched, FetchError> {
        let slice = request.slice;
        let config = &self.config.source;
        let source = &*self.source;
        let deadline = deadline(config);
        let mut retry = Retry::new(config.into(), Some(deadline)).counted_in(&self.retries);
        let mut leniency = Leniency::default();
        let mut unproven = None;
        loop {
            let attempt = retry.attempt();
            *attempts = attempt;
            // If no request was answered, the network failed, not the count.
            leniency.count_may_fail =
                !source.is_cut_off() && retry.is_last(RetryReason::ForeignAnswer);
            self.observer.slice_began(slice, attempt);
            let error = match fetch(self, request, privacy, leniency, deadline).await {
                Ok(fetched) if source.is_fixed() => return Ok(fetched),
                Ok(fetched) => match require_proof(fetched, &retry, &mut unproven) {
                    Ok(fetched) => return Ok(fetched),
                    Err(error) => error,
                },
                // It would be the same.
                Err(error @ FetchError::Convert(_)) if source.is_fixed() => return Err(error),
                Err(error) => error,
            };
            leniency.is_not_paged |= matches!(error, FetchError::NotPaged { .. });
            leniency.count_may_move = true;
            let Fate::Retry(hint) = error.fate() else {
                return Err(error);
            };
            let wait = match retry.next(hint) {
                Ok(wait) => wait,
                Err(exhausted) => {
                    return Err(FetchError::GivenUp {
                        source: Box::new(error),
                        exhausted,
                        attempts: attempt,
                    });
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return Err(FetchError::Stopped),
                () = wait_before_retry(source, slice, attempt, &error, hint, wait) => {}
            }
        }
    }
}

/// The result of an attempt whose count matched only with duplicates.
#[derive(Debug, PartialEq, Eq)]
struct UnprovenResult {
    digest: Digest,
    counts: Counts,
    control_total: Option<u64>,
}

/// Refuses a result whose count does not prove it, so that it is fetched again, until two attempts
/// in a row agree.
fn require_proof(
    fetched: Fetched,
    retry: &Retry,
    before: &mut Option<UnprovenResult>,
) -> Result<Fetched, FetchError> {
    let counts = &fetched.converted.counts;
    let holds = || UnprovenResult {
        digest: fetched.converted.digest,
        counts: counts.clone(),
        control_total: fetched.control_total,
    };
    let last_unproven = before.take();
    let reason = match fetched.verdict {
        Verdict::MatchWithDuplicates if last_unproven == Some(holds()) => return Ok(fetched),
        // A result that differs each time proves nothing.
        Verdict::MatchWithDuplicates if retry.is_last(RetryReason::Duplicates) => {
            let verdict = Verdict::Mismatch;
            return Ok(Fetched { verdict, ..fetched });
        }
        Verdict::MatchWithDuplicates => {
            *before = Some(holds());
            RetryReason::Duplicates
        }
        Verdict::Mismatch
            if fetched.control_total.is_some() && !retry.is_last(RetryReason::CountMismatch) =>
        {
            RetryReason::CountMismatch
        }
        _ => return Ok(fetched),
    };
    Err(FetchError::Doubtful {
        counts: Box::new(counts.clone()),
        control_total: fetched.control_total,
        reason,
    })
}
