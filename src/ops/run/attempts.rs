//! Attempts at a slice: which setbacks are worth another, how many, and how long to wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Context;
use super::fetch::{FetchError, Fetched, Leniency, fetch};
use crate::cdr::reconcile::{Verdict, describe_mismatch};
use crate::cdr::slice::Slice;
use crate::error::quoted;
use crate::lake::report::SliceReport;
use crate::privacy::Privacy;
use crate::slice_file::convert::{ConvertError, Converted};
use crate::source::SourceError;
use crate::source::retry::{FEW_ATTEMPTS, deadline};

/// What stood in an attempt's way.
struct Setback {
    problem: String,
    kind: SetbackKind,
    /// How long the server asks to wait.
    retry_after: Option<Duration>,
    /// Whether every slice should wait, not only this one.
    slow_down: bool,
}

/// Setbacks that have limits of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SetbackKind {
    /// `source.max_attempts` is the limit.
    Passing,
    /// The count does not match, or there are no calls to compare with it.
    Mismatch,
    /// The count matches only with records that came twice.
    Duplicates,
    /// The answer is not the API's.
    Foreign,
}

/// Fetches a slice until an attempt succeeds or none is left. A count that never matches is left
/// to the caller to judge.
pub(super) async fn fetch_until_good(
    context: &Context,
    slice: Slice,
    privacy: &Arc<Privacy>,
    report: &mut SliceReport,
) -> Result<Fetched, FetchError> {
    let begun = Instant::now();
    let config = &context.config.source;
    let mut leniency = Leniency::default();
    let (mut mismatches, mut foreign, mut doubtful) = (0, 0, 0);
    // What the last attempt held, if its count matched only with records that came twice.
    let mut doubted = None;
    loop {
        report.attempts += 1;
        let attempt = report.attempts;
        let is_last = attempt >= config.max_attempts;
        // Where nobody answers there is no day without a count, only a day without a network.
        leniency.count_may_fail =
            !context.source.is_cut_off() && (is_last || foreign + 1 == FEW_ATTEMPTS);
        context.observer.slice_began(slice, attempt);
        let deadline = deadline(config, begun);
        let setback = match fetch(context, slice, privacy, leniency, deadline).await {
            Ok(fetched) if context.source.is_fixed() => return Ok(fetched),
            Ok(fetched) => {
                let Converted { digest, counts, .. } = &fetched.converted;
                let holds = (*digest, counts.clone(), fetched.control_total);
                let kind = match fetched.verdict {
                    Verdict::MatchWithDuplicates if doubted.as_ref() == Some(&holds) => {
                        return Ok(fetched);
                    }
                    // What comes out otherwise every time proves nothing.
                    Verdict::MatchWithDuplicates if is_last || doubtful + 1 == FEW_ATTEMPTS => {
                        let verdict = Verdict::Mismatch;
                        return Ok(Fetched { verdict, ..fetched });
                    }
                    Verdict::MatchWithDuplicates => SetbackKind::Duplicates,
                    Verdict::Mismatch
                        if fetched.control_total.is_some()
                            && !is_last
                            && mismatches + 1 != FEW_ATTEMPTS =>
                    {
                        SetbackKind::Mismatch
                    }
                    _ => return Ok(fetched),
                };
                let problem = describe_mismatch(&holds.1, holds.2);
                doubted = (kind == SetbackKind::Duplicates).then_some(holds);
                Setback {
                    problem,
                    kind,
                    retry_after: None,
                    slow_down: false,
                }
            }
            Err(error) => {
                leniency.is_not_paged |= matches!(error, FetchError::NotPaged { .. });
                setback(context, error)?
            }
        };
        leniency.count_may_move = true;
        let few_left = match setback.kind {
            SetbackKind::Passing => true,
            SetbackKind::Mismatch => {
                mismatches += 1;
                mismatches < FEW_ATTEMPTS
            }
            SetbackKind::Duplicates => {
                doubtful += 1;
                true
            }
            SetbackKind::Foreign => {
                foreign += 1;
                foreign < FEW_ATTEMPTS
            }
        };
        let wait = context.backoff.wait(attempt, setback.retry_after);
        let problem = context.printable(&setback.problem);
        if is_last || !few_left {
            return Err(FetchError::GivenUp {
                problem,
                attempts: attempt,
            });
        }
        if begun.elapsed() + wait > config.max_elapsed {
            let problem = format!("{problem}; source.max_elapsed is used up");
            return Err(FetchError::GivenUp {
                problem,
                attempts: attempt,
            });
        }
        if setback.slow_down {
            context.source.slow_down(wait);
        }
        tracing::warn!(
            slice = slice.to_string(),
            attempt,
            wait_ms = millis(wait),
            "Trying again: {problem}"
        );
        tokio::select! {
            () = context.stop.cancelled() => return Err(FetchError::Stopped),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Whether another attempt may help, and what to know for it.
fn setback(context: &Context, error: FetchError) -> Result<Setback, FetchError> {
    let (kind, retry_after, slow_down) = match &error {
        FetchError::CountMoved { .. }
        | FetchError::CallsVanished { .. }
        | FetchError::NotPaged { .. } => (SetbackKind::Passing, None, false),
        FetchError::NoCalls { .. } => (SetbackKind::Mismatch, None, false),
        FetchError::Source(SourceError::Foreign(_)) => (SetbackKind::Foreign, None, false),
        FetchError::Source(SourceError::Transient {
            retry_after,
            slow_down,
            ..
        }) => (SetbackKind::Passing, *retry_after, *slow_down),
        FetchError::Convert(_) if context.source.is_fixed() => return Err(error),
        FetchError::Convert(found) if found.is_foreign() => (SetbackKind::Foreign, None, false),
        FetchError::Convert(found) if found.is_retryable() => (SetbackKind::Passing, None, false),
        _ => return Err(error),
    };
    let mut problem = error.to_string();
    if let FetchError::Convert(ConvertError::ServerError { message, .. }) = &error {
        problem = format!("{problem}: {}", quoted(&context.printable(message)));
    }
    Ok(Setback {
        problem,
        kind,
        retry_after,
        slow_down,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
