//! One slice, from its lease to its ledger entry.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::fetch::{FetchError, Fetched, fetch};
use super::{Context, Stop};
use crate::config::{Reconcile, TOOL};
use crate::convert::ConvertError;
use crate::error::{MAKE_ROOM, chain, is_disk_full};
use crate::lake::ledger::{Commit, PublishedFile};
use crate::lake::{LakeError, LedgerEntry, is_intact, layout};
use crate::plan::{Due, state_of};
use crate::reconcile::Verdict;
use crate::report::{SliceOutcome, SliceReport};
use crate::schema::SCHEMA_VERSION;
use crate::slice::Slice;
use crate::source::SourceError;
use crate::tally::Counts;
use crate::writer::WriteError;

/// Attempts at a slice whose count does not match: a stream that came back short may come whole.
const MISMATCH_ATTEMPTS: u32 = 3;

/// Why a slice was given up.
#[derive(Debug, thiserror::Error)]
enum SliceError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{problem} after {attempts} attempts")]
    GivenUp { problem: String, attempts: u32 },
    #[error("the parts do not add up: {0:?}. This is a bug in cdrlake: please report it")]
    Unaccounted(Counts),
    #[error(
        "{rejected} of {records} records are broken, more than quality.max_rejects and quality.max_reject_ratio allow. They are kept in {path}"
    )]
    TooManyRejects {
        rejected: u64,
        records: u64,
        path: object_store::path::Path,
    },
    #[error("{}", mismatch(*records, *duplicates, *control_total))]
    Mismatch {
        records: u64,
        duplicates: u64,
        control_total: Option<u64>,
    },
    #[error(
        "the slice shrank: {now} rows now, {before} in the lake. If the provider did remove calls, run: cdrlake run --from {day} --to {day} --direction {direction} --refresh --allow-shrink"
    )]
    Shrank {
        now: u64,
        before: u64,
        day: jiff::civil::Date,
        direction: crate::slice::Direction,
    },
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Lake(#[from] LakeError),
}

fn mismatch(records: u64, duplicates: u64, control_total: Option<u64>) -> String {
    let Some(total) = control_total else {
        return "the provider's count is unavailable, so the slice cannot be reconciled. Set quality.reconcile to \"warn\" or \"off\" to take it unproven".to_owned();
    };
    let duplicates = if duplicates > 0 {
        format!(" ({duplicates} of them duplicates)")
    } else {
        String::new()
    };
    format!(
        "the provider counts {total} calls, its stream held {records}{duplicates}. Set quality.reconcile = \"warn\" to take the slice as it is"
    )
}

/// Does one slice. `None` if another run holds its lease: it is to be tried again later.
pub(super) async fn process(context: &Context, due: Due, first_try: bool) -> Option<SliceReport> {
    let slice = due.slice;
    let mut report = SliceReport::new(slice, SliceOutcome::Failed);
    match attempt_all(context, slice, first_try, &mut report).await {
        Ok(Done::Held) => return None,
        Ok(Done::Outcome(outcome)) => report.outcome = outcome,
        Err(SliceError::Fetch(FetchError::Stopped)) => {
            report.outcome = SliceOutcome::Skipped;
            report.error = Some("the run was stopped while this slice was under way".to_owned());
        }
        Err(error) => {
            let mut text = context.source.printable(&chain(&error));
            if is_disk_full(&error) {
                text = format!("{text}. {MAKE_ROOM}");
            }
            if !stops_the_run(context, &error, &text) {
                tracing::error!(%slice, "{text}");
            }
            report.error = Some(text);
        }
    }
    Some(report)
}

/// Ends the run where no other slice would fare better. Its reason is then said once, at the end.
fn stops_the_run(context: &Context, error: &SliceError, text: &str) -> bool {
    let stop = match error {
        SliceError::Fetch(FetchError::Source(SourceError::Refused { .. })) => {
            Stop::KeyRefused(text.to_owned())
        }
        SliceError::Write(_)
        | SliceError::Lake(LakeError::Store(_))
        | SliceError::Fetch(FetchError::Convert(
            ConvertError::Write(_) | ConvertError::Spool { .. },
        )) => Stop::Hopeless(text.to_owned()),
        _ if !context.source.was_reached() => Stop::Hopeless(text.to_owned()),
        _ => return false,
    };
    context.stop(stop);
    true
}

enum Done {
    /// Another run holds the lease.
    Held,
    Outcome(SliceOutcome),
}

async fn attempt_all(
    context: &Context,
    slice: Slice,
    first_try: bool,
    report: &mut SliceReport,
) -> Result<Done, SliceError> {
    let Some(_lease) = context.lake.try_lease(slice).await? else {
        if first_try {
            tracing::info!(%slice, "Another run works on this slice: coming back to it.");
        }
        return Ok(Done::Held);
    };
    let before = context.lake.entry(slice).await?;
    if let (Some(commit), None) = (&before.entry.committed, &before.entry.pending)
        && commit.fetched_at >= context.started_at
    {
        report.describe(commit);
        report.error = Some(format!("run {} did this slice meanwhile", commit.run));
        return Ok(Done::Outcome(SliceOutcome::Skipped));
    }
    let memory = tokio::select! {
        () = context.stop.cancelled() => return Err(FetchError::Stopped.into()),
        memory = context.memory.acquire_many(context.slice_memory_units()) => memory.expect("the semaphore is never closed"),
    };
    let fetched = fetch_until_good(context, slice, report).await?;
    let outcome = settle(context, before, fetched, report).await;
    drop(memory);
    outcome.map(Done::Outcome)
}

/// Fetches a slice until an attempt succeeds or none is left.
async fn fetch_until_good(
    context: &Context,
    slice: Slice,
    report: &mut SliceReport,
) -> Result<Fetched, SliceError> {
    let begun = Instant::now();
    let config = &context.config.source;
    let mut moved = false;
    loop {
        report.attempts += 1;
        let attempt = report.attempts;
        context.observer.slice_began(slice, attempt);
        let (problem, asked_for, most) = match fetch(context, slice, moved).await {
            Ok(fetched)
                if fetched.verdict != Verdict::Mismatch || fetched.control_total.is_none() =>
            {
                return Ok(fetched);
            }
            Ok(fetched) if attempt >= MISMATCH_ATTEMPTS.min(config.max_attempts) => {
                return Ok(fetched);
            }
            Ok(fetched) => {
                let counts = &fetched.converted.counts;
                (
                    mismatch(counts.records, counts.duplicates, fetched.control_total),
                    None,
                    MISMATCH_ATTEMPTS,
                )
            }
            Err(FetchError::CountMoved { before, after }) => {
                moved = true;
                (
                    FetchError::CountMoved { before, after }.to_string(),
                    None,
                    config.max_attempts,
                )
            }
            Err(FetchError::Source(SourceError::Transient {
                problem,
                retry_after,
                slow_down,
                max_attempts,
                ..
            })) => {
                let wait = context.backoff.wait(attempt, retry_after);
                if slow_down {
                    context.source.gate.close_for(wait);
                }
                (
                    problem,
                    Some(wait),
                    max_attempts.unwrap_or(config.max_attempts),
                )
            }
            Err(FetchError::Convert(error)) if error.is_retryable() => {
                (error.to_string(), None, config.max_attempts)
            }
            Err(error) => return Err(error.into()),
        };
        let wait = asked_for.unwrap_or_else(|| context.backoff.wait(attempt, None));
        let problem = context.source.printable(&problem);
        if attempt >= most.min(config.max_attempts) {
            return Err(SliceError::GivenUp {
                problem,
                attempts: attempt,
            });
        }
        if begun.elapsed() + wait > config.max_elapsed {
            let problem = format!("{problem}; source.max_elapsed is used up");
            return Err(SliceError::GivenUp {
                problem,
                attempts: attempt,
            });
        }
        tracing::warn!(%slice, attempt, wait_ms = millis(wait), "Trying again: {problem}");
        tokio::select! {
            () = context.stop.cancelled() => return Err(FetchError::Stopped.into()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Judges what was fetched, and publishes it.
async fn settle(
    context: &Context,
    before: LedgerEntry,
    fetched: Fetched,
    report: &mut SliceReport,
) -> Result<SliceOutcome, SliceError> {
    let slice = before.entry.slice;
    let Fetched {
        mut converted,
        control_total,
        verdict,
        asked,
        begun_at: fetched_at,
        etag,
        last_modified,
    } = fetched;
    let rejects = converted.rejects.take();
    let has_rejects = rejects.is_some();
    report.counts = converted.counts.clone();
    report.totals = converted.totals.clone();
    report.control_total = control_total;
    report.reconcile = verdict;
    if has_rejects {
        // Before anything else: a slice that fails because of them must show why.
        context.lake.put_rejects(slice, rejects).await?;
    }
    judge(context, &before, &converted.counts, control_total, verdict)?;

    let token = format!("{:032x}", fastrand::u128(..));
    let mut commit = Commit {
        run: context.run.clone(),
        token,
        tool_version: TOOL.to_owned(),
        schema_version: SCHEMA_VERSION,
        asked,
        fetched_at,
        state: state_of(slice.day, &context.config.window, fetched_at),
        file: None,
        digest: converted.digest,
        counts: converted.counts.clone(),
        totals: converted.totals.clone(),
        control_total,
        reconcile: verdict,
        response_etag: etag,
        response_last_modified: last_modified,
    };
    let found = context.lake.table_file(slice).await?;
    let kept = before.entry.committed.as_ref().filter(|committed| {
        let same_rows =
            committed.digest == commit.digest && committed.schema_version == SCHEMA_VERSION;
        same_rows && is_intact(committed.file.as_ref(), found.as_ref())
    });
    let outcome = if let Some(kept) = kept {
        commit.file.clone_from(&kept.file);
        report.describe(&commit);
        if before.entry.pending.is_some() || !commit.says_the_same_as(kept) {
            context.lake.note(before, commit).await?;
        }
        SliceOutcome::Unchanged
    } else {
        let metadata = file_metadata(slice, &commit);
        let file = tokio::task::spawn_blocking(move || converted.write_footer(metadata))
            .await
            .expect("writing does not panic")?;
        if let Some(committed) = &before.entry.committed {
            warn_of_change(context, committed, &commit, slice);
        }
        let published = PublishedFile {
            path: layout::table_file(slice).to_string(),
            rows: file.rows,
            bytes: file.bytes,
            etag: None,
        };
        let spooled = (file.rows > 0).then_some((file.path, published));
        let entry = context.lake.publish(before, spooled, commit).await?;
        report.describe(entry.committed.as_ref().expect("just committed"));
        SliceOutcome::Committed
    };
    if !has_rejects {
        context.lake.put_rejects(slice, None).await?;
    }
    remark(context, slice, &report.counts);
    Ok(outcome)
}

/// Whether a slice may be published.
fn judge(
    context: &Context,
    before: &LedgerEntry,
    counts: &Counts,
    control_total: Option<u64>,
    verdict: Verdict,
) -> Result<(), SliceError> {
    let slice = before.entry.slice;
    let quality = &context.config.quality;
    if !counts.add_up() {
        return Err(SliceError::Unaccounted(counts.clone()));
    }
    #[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
    let reject_ratio = counts.rejected as f64 / counts.records.max(1) as f64;
    if counts.rejected > quality.max_rejects && reject_ratio > quality.max_reject_ratio {
        let path = layout::rejects_file(slice);
        return Err(SliceError::TooManyRejects {
            rejected: counts.rejected,
            records: counts.records,
            path,
        });
    }
    if verdict == Verdict::Mismatch {
        let error = SliceError::Mismatch {
            records: counts.records,
            duplicates: counts.duplicates,
            control_total,
        };
        if quality.reconcile == Reconcile::Fail {
            return Err(error);
        }
        context.warn(format!("{slice}: {error}"));
    }
    let rows_before = before
        .entry
        .committed
        .as_ref()
        .map_or(0, |committed| committed.counts.rows);
    if counts.rows < rows_before && !context.options.allow_shrink {
        return Err(SliceError::Shrank {
            now: counts.rows,
            before: rows_before,
            day: slice.day,
            direction: slice.direction,
        });
    }
    Ok(())
}

fn file_metadata(slice: Slice, commit: &Commit) -> Vec<(&'static str, String)> {
    let mut metadata = vec![
        ("cdrlake.slice", slice.to_string()),
        ("cdrlake.run", commit.run.clone()),
        ("cdrlake.token", commit.token.clone()),
        ("cdrlake.version", commit.tool_version.clone()),
        ("cdrlake.schema_version", commit.schema_version.to_string()),
        ("cdrlake.digest", commit.digest.to_string()),
        ("cdrlake.reconcile", commit.reconcile.to_string()),
    ];
    metadata.extend(
        commit
            .control_total
            .map(|total| ("cdrlake.control_total", total.to_string())),
    );
    metadata
}

/// Says what changed in a slice that the lake already had.
fn warn_of_change(context: &Context, old: &Commit, new: &Commit, slice: Slice) {
    if old.digest == new.digest {
        return;
    }
    let rows = i128::from(new.counts.rows) - i128::from(old.counts.rows);
    let seconds = new.totals.duration_seconds - old.totals.duration_seconds;
    let charge = new.totals.charge_usd.minus(old.totals.charge_usd);
    context.warn(format!(
        "{slice}: changed since {}: {rows:+} rows, {seconds:+} seconds, {charge} USD",
        shown(old.fetched_at)
    ));
}

fn shown(instant: Timestamp) -> String {
    instant.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Warns of what was tolerated.
fn remark(context: &Context, slice: Slice, counts: &Counts) {
    if counts.rejected > 0 {
        let path = layout::rejects_file(slice);
        context.warn(format!(
            "{slice}: {} of {} records are broken and kept in {path}",
            counts.rejected, counts.records
        ));
    }
    if counts.conflicts > 0 {
        context.warn(format!(
            "{slice}: {} rows share a call_id with a row of other content; all are kept",
            counts.conflicts
        ));
    }
    if counts.outside_day > 0 {
        context.warn(format!(
            "{slice}: {} rows lie on another day. Does window.timezone say where the account cuts days?",
            counts.outside_day
        ));
    }
}
