//! One slice, from its lease to its ledger entry.

use std::ops::RangeInclusive;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use jiff::Timestamp;
use jiff::civil::Date;
use object_store::path::Path;
use tokio::sync::SemaphorePermit;

use super::{Context, Stop, Waiting};
use crate::TOOL;
use crate::cdr::columns::SCHEMA_VERSION;
use crate::cdr::day::end_of_day;
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::reconcile::Verdict;
use crate::cdr::slice::Slice;
use crate::config::{Reconcile, timezone_name};
use crate::error::{MAKE_ROOM, Panicked, chain, counted, is_disk_full, join_task};
use crate::lake::ledger::{Commit, Entry, Failure, Reason, State, new_token};
use crate::lake::report::{Change, SliceOutcome, SliceReport};
use crate::lake::{LakeError, LedgerEntry, PublishedFile, StagedSlice, TableChange, is_intact};
use crate::ops::days::{is_from_the_future, state_of};
use crate::ops::fetch::{FetchError, Fetched, Refusal, RoomToFetch};
use crate::ops::plan::Due;
use crate::privacy::Privacy;
use crate::retry::{Fate, StopCause};
use crate::slice_file::convert::Converted;
use crate::slice_file::writer::{SpoolFile, WriteError, checksum_of, rows_of};
use crate::store::Lease;
use crate::store::layout;

/// Why a slice was given up.
#[derive(Debug, thiserror::Error)]
enum SliceError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the slice shrank: it has {}, and the lake {before}", counted(*now, "row", "rows"))]
    Shrank { now: u64, before: u64 },
    #[error(
        "the slice shrank: the export has {}, and the lake {before}",
        counted(*now, "row", "rows")
    )]
    ExportShrank { now: u64, before: u64 },
    #[error("days of the month shrank: {days}")]
    DaysShrank {
        /// The first of them, with their rows.
        days: String,
    },
    #[error(
        "the lake was converted after the run had found this slice. Its slices are of a {0} now. \
         Run again"
    )]
    OtherPeriod(PeriodUnit),
    #[error(transparent)]
    Panicked(#[from] Panicked),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Lake(#[from] LakeError),
}

impl SliceError {
    /// What becomes of the slice and its run because of it. To try it again is to begin it anew.
    fn fate(&self) -> Fate {
        match self {
            // It was tried again already.
            Self::Fetch(error) => match error.fate() {
                Fate::Retry(_) => Fate::FailSlice,
                fate => fate,
            },
            // The spool is the same for all slices.
            Self::Write(_) => Fate::StopRun(StopCause::Lake),
            Self::Lake(error) => error.fate(),
            _ => Fate::FailSlice,
        }
    }

    /// Its kind, where there is something to do about it.
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::Shrank { .. } | Self::DaysShrank { .. } => Some(Reason::Shrank),
            Self::ExportShrank { .. } => Some(Reason::ShorterExport),
            _ => None,
        }
    }
}

/// Most days that are named in an error.
const MAX_NAMED_DAYS: usize = 3;

/// How often a slice is started again after another run took it over. The limit matters on file
/// systems where leases do not last.
const MAX_LOST_LEASES: u32 = 3;

/// Why a slice is to be tried again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requeue {
    /// Another run holds its lease.
    Held,
    /// Another run took it over while this one worked on it.
    TakenOver,
}

/// Processes one slice, or returns why it is to be tried again later.
pub(super) async fn process(
    context: &Context,
    waiting: &Waiting,
    room: RoomToFetch<'_>,
) -> Result<SliceReport, Requeue> {
    let due = &waiting.due;
    let slice = due.slice;
    let first_try = waiting.not_before.is_none();
    let mut report = SliceReport::new(slice, SliceOutcome::Failed);
    match attempt_all(context, due, first_try, room, &mut report).await {
        Ok(Done::Held) => return Err(Requeue::Held),
        Ok(Done::Outcome(outcome)) => report.outcome = outcome,
        Err(SliceError::Fetch(FetchError::Stopped)) => {
            report.outcome = SliceOutcome::Skipped;
            report.error = Some("the run was stopped during this slice".to_owned());
        }
        Err(SliceError::Lake(LakeError::ErasedMeanwhile))
            if waiting.lost_leases < MAX_LOST_LEASES =>
        {
            tracing::info!(
                slice = slice.to_string(),
                "A number was erased in the meantime; fetching the slice again without it."
            );
            return Err(Requeue::TakenOver);
        }
        Err(SliceError::Lake(LakeError::LostLease { path }))
            if waiting.lost_leases < MAX_LOST_LEASES =>
        {
            tracing::warn!(
                slice = slice.to_string(),
                "Another run took over {path}; trying again later."
            );
            return Err(Requeue::TakenOver);
        }
        Err(error) => {
            let mut text = context.fetcher.hide_keys(&chain(&error));
            if is_disk_full(&error) {
                text = format!("{text}. {MAKE_ROOM}");
            }
            report.reason = error.reason();
            // The observer reports errors that have advice.
            if !stops_the_run(context, &error, &text).await && report.reason.is_none() {
                tracing::error!(slice = slice.to_string(), "{text}");
            }
            report.error = Some(text);
        }
    }
    Ok(report)
}

/// Stops the run if the error concerns all slices. The reason is then reported once, at the end.
async fn stops_the_run(context: &Context, error: &SliceError, text: &str) -> bool {
    let cause = match (error.fate(), error) {
        (Fate::StopRun(cause), _) => cause,
        // Others may be permitted, unless nothing in the table is.
        (_, SliceError::Lake(found)) if found.is_denied() => match context.lake.try_table().await {
            Err(error) if error.is_denied() || error.fate().stops_the_run() => StopCause::Lake,
            _ => return false,
        },
        (_, SliceError::Fetch(_)) if context.fetcher.source.is_cut_off() => StopCause::Source,
        _ => return false,
    };
    context.stop(&Stop::at(cause, text.to_owned()));
    true
}

enum Done {
    /// Another run holds the lease.
    Held,
    Outcome(SliceOutcome),
}

async fn attempt_all(
    context: &Context,
    due: &Due,
    first_try: bool,
    room: RoomToFetch<'_>,
    report: &mut SliceReport,
) -> Result<Done, SliceError> {
    let slice = due.slice;
    if context.fetcher.stop.is_cancelled() {
        return Err(FetchError::Stopped.into());
    }
    let Some(lease) = context.lake.try_lease(slice).await? else {
        if first_try {
            tracing::info!(
                slice = slice.to_string(),
                "Another run is processing this slice; trying again later."
            );
        }
        return Ok(Done::Held);
    };
    let work = work_on(context, due, &*lease, room, report);
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(outcome) => outcome.map(Done::Outcome),
        // The source is not at fault, but the slice must stay due and its failure visible.
        Err(_) => {
            let error = SliceError::from(Panicked);
            let now = context.lake.usable_entry(slice).await?;
            // What was announced is due, and seen.
            if now.entry.pending.is_none() {
                let privacy = context.lake.privacy();
                record_failure(context, &*lease, now, &error, None, privacy).await;
            }
            Err(error)
        }
    }
}

/// Does a slice whose lease is held.
async fn work_on(
    context: &Context,
    due: &Due,
    lease: &dyn Lease,
    room: RoomToFetch<'_>,
    report: &mut SliceReport,
) -> Result<SliceOutcome, SliceError> {
    let slice = due.slice;
    let unit = context.lake.identity.period_unit();
    if slice.period.unit() != unit {
        return Err(SliceError::OtherPeriod(unit));
    }
    // The list is read under the lease, so that an erasure of a number waits for this slice.
    let (before, privacy) =
        futures::try_join!(context.lake.usable_entry(slice), context.lake.privacy_now())?;
    if let Some(commit) = before
        .entry
        .committed
        .as_ref()
        .filter(|commit| commit.state == State::Pruned)
    {
        report.describe(commit);
        report.error = Some("the slice was pruned, and is not fetched again".to_owned());
        return Ok(SliceOutcome::Skipped);
    }
    if let (Some(commit), None) = (&before.entry.committed, &before.entry.pending)
        && due.committed_token.as_ref() != Some(&commit.token)
        && due.committed_fetched_at != Some(commit.fetched_at)
        && before.entry.failed.is_none()
        && is_as_good_as_ours(context, slice, commit)
    {
        report.describe(commit);
        report.error = Some(format!(
            "run {} fetched this slice in the meantime",
            commit.run
        ));
        return Ok(SliceOutcome::Skipped);
    }
    let fetcher = &context.fetcher;
    let request = fetcher.request(slice, before.entry.committed.as_ref());
    let fetched = fetcher.fetch_until_good(request, &privacy, &mut report.attempts);
    let fetched = match fetched.await {
        Ok(fetched) => fetched,
        Err(error) => {
            let error = error.into();
            if says_something_of_the_slice(context, &before, &error) {
                record_failure(context, lease, before, &error, None, &privacy).await;
            }
            return Err(error);
        }
    };
    // On the heap: what settling holds is large, and each worker's task would carry room for it.
    let outcome = Box::pin(settle(context, due, lease, before, fetched, room, report)).await;
    if outcome.is_ok() && due.why.is_damage() {
        context
            .fetcher
            .warn(format!("{slice}: {}; repaired", due.why));
    }
    outcome
}

/// Whether the commit that another run made in the meantime is as good as this run's would be. It
/// is not if the day has settled since, or if only this run compares counts.
fn is_as_good_as_ours(context: &Context, slice: Slice, commit: &Commit) -> bool {
    let fetcher = &context.fetcher;
    let state = state_of(slice.period, &fetcher.config.window, fetcher.started_at);
    let is_settled = commit.state == State::Closed || state == State::Open;
    let ours = fetcher.request(slice, None);
    let has_our_days = commit.from.is_none_or(|from| from <= ours.first_day)
        && commit
            .through
            .is_none_or(|through| through >= ours.last_day);
    let is_proven = commit.reconcile.has_equal_count()
        || commit.reconcile == Verdict::NotChecked
        || fetcher.config.quality.reconcile != Reconcile::Fail;
    is_settled && is_proven && has_our_days
}

/// Whether a failure concerns the slice, not the key, the network, this machine or the run. A
/// failed load does not concern a slice that the lake already has.
fn says_something_of_the_slice(
    context: &Context,
    before: &LedgerEntry,
    error: &SliceError,
) -> bool {
    if context.fetcher.source.is_fixed()
        && before.entry.committed.is_some()
        // Otherwise these records could not be listed.
        && !matches!(error, SliceError::Refused(Refusal::TooManyRejects { .. }))
    {
        return false;
    }
    let is_elsewhere =
        error.fate().stops_the_run() || matches!(error, SliceError::Fetch(FetchError::Stopped));
    !is_elsewhere && !context.fetcher.source.is_cut_off()
}

/// Notes in the ledger that the slice failed, so that it stays due, and keeps its rejects.
async fn record_failure(
    context: &Context,
    lease: &dyn Lease,
    before: LedgerEntry,
    error: &SliceError,
    rejects: Option<SpoolFile>,
    privacy: &Privacy,
) {
    let slice = before.entry.slice;
    let failure = Failure {
        run: context.run.clone(),
        at: Timestamp::now(),
        problem: context.fetcher.hide_keys(&chain(error)),
        reason: error.reason(),
    };
    if let Err(error) = context
        .lake
        .fail(&context.mark, lease, before, failure, rejects, privacy)
        .await
    {
        if let Fate::StopRun(cause) = error.fate() {
            context.stop(&Stop::at(cause, chain(&error)));
        }
        // The failure is reported anyway; without an entry the slice stays due as before.
        context.fetcher.warn(format!(
            "{slice}: the failure could not be recorded: {}",
            chain(&error)
        ));
    }
}

/// Judges what was fetched, and publishes it.
async fn settle(
    context: &Context,
    due: &Due,
    lease: &dyn Lease,
    before: LedgerEntry,
    mut fetched: Fetched,
    room: RoomToFetch<'_>,
    report: &mut SliceReport,
) -> Result<SliceOutcome, SliceError> {
    let slice = before.entry.slice;
    let fetcher = &context.fetcher;
    let rejects = fetched.converted.rejects.take();
    let verdict = fetched.verdict;
    fetcher.warn_of_missing_columns(&fetched.converted.missing_fields);
    describe(report, &fetched);
    let judged = match fetcher.judge(&fetched) {
        Ok(()) => must_not_shrink(context, due, &before, &fetched.converted).await,
        Err(refusal) => Err(refusal.into()),
    };
    if let Err(error) = judged {
        if says_something_of_the_slice(context, &before, &error) {
            record_failure(context, lease, before, &error, rejects, &fetched.privacy).await;
        }
        return Err(error);
    }
    fetcher.compare_clocks(&fetched);
    let (from, through) = (fetched.from(), fetched.through());
    let state = fetcher.state_of(&fetched);
    let Fetched {
        converted,
        privacy,
        control_total,
        asked,
        begun_at: fetched_at,
        etag,
        last_modified,
        ..
    } = fetched;
    let commit = Commit {
        run: context.run.clone(),
        token: new_token(),
        tool_version: TOOL.to_owned(),
        schema_version: SCHEMA_VERSION,
        privacy_key_id: context.lake.privacy().key_id().map(str::to_owned),
        asked,
        fetched_at,
        state,
        file: None,
        digest: converted.digest,
        counts: converted.counts.clone(),
        totals: converted.totals.clone(),
        days: converted.days.clone(),
        from,
        through,
        rejects: rejects
            .as_ref()
            .map(|file| PublishedFile::planned(&layout::rejects_file(slice), file)),
        control_total,
        reconcile: verdict,
        response_etag: etag,
        response_last_modified: last_modified,
    };
    let kept = match &before.entry.committed {
        Some(kept) if is_in_lake(context, &before, kept, &commit).await? => Some(kept.clone()),
        _ => None,
    };
    let outcome = if let Some(kept) = kept {
        let commit = Commit {
            file: kept.file.clone(),
            ..commit
        };
        report.describe(&commit);
        let says_the_same = before.entry.failed.is_none()
            && commit.has_equal_content(&kept)
            && !is_from_the_future(&kept, commit.fetched_at)
            && !ends_a_day(slice.period, kept.fetched_at..=commit.fetched_at, context);
        if !says_the_same || !has_rejects(context, slice, &kept).await? {
            let staged = stage(context, &before.entry, TableChange::Keep, rejects).await?;
            let lake = &context.lake;
            lake.publish(&context.mark, lease, before, staged, commit, &privacy)
                .await?;
        }
        SliceOutcome::Unchanged
    } else {
        // The next slice is fetched while this one is on its way.
        let (file, _memory) = write_footer(context, room, converted, &commit, slice).await?;
        let slice = NewSlice {
            is_new: due.has_nothing && before.is_absent(),
            before,
            file,
            rejects,
            commit,
            privacy,
        };
        publish(context, lease, slice, report).await?;
        SliceOutcome::Committed
    };
    let rejects = fetcher.config.lake.url.of(&layout::rejects_file(slice));
    let rejects = format!("kept in {rejects}");
    fetcher.remark(slice, &report.counts, verdict, &rejects);
    Ok(outcome)
}

/// Whether a day of the period ended between two fetches. Only the ledger tells that the day is
/// complete now, also where the later fetch found nothing new.
fn ends_a_day(period: Period, between: RangeInclusive<Timestamp>, context: &Context) -> bool {
    let timezone = &context.fetcher.config.window.timezone;
    let mut days = Period::touching(period.days(), PeriodUnit::Day);
    days.any(|day| {
        let end = end_of_day(day.last_day(), timezone);
        *between.start() < end && end <= *between.end()
    })
}

/// Puts what was read into the report, whatever becomes of it.
fn describe(report: &mut SliceReport, fetched: &Fetched) {
    report.counts = fetched.converted.counts.clone();
    report.totals = fetched.converted.totals.clone();
    report.control_total = fetched.control_total;
    report.reconcile = fetched.verdict;
}

/// Writes the footer, after which the file is complete, and gives back the memory that it took.
async fn write_footer<'a>(
    context: &Context,
    room: RoomToFetch<'a>,
    converted: Converted,
    commit: &Commit,
    slice: Slice,
) -> Result<(SpoolFile, SemaphorePermit<'a>), SliceError> {
    let metadata = commit.file_metadata(slice);
    let file = tokio::task::spawn_blocking(move || converted.write_footer(metadata));
    let file = join_task(file).await??;
    Ok((file, room.keep_memory(context.publishing_memory_bytes())))
}

/// A slice whose file is complete.
struct NewSlice {
    /// Whether the lake has nothing of it.
    is_new: bool,
    before: LedgerEntry,
    file: SpoolFile,
    rejects: Option<SpoolFile>,
    commit: Commit,
    privacy: Arc<Privacy>,
}

/// Publishes a file, or the absence of one.
async fn publish(
    context: &Context,
    lease: &dyn Lease,
    new: NewSlice,
    report: &mut SliceReport,
) -> Result<(), SliceError> {
    let NewSlice {
        is_new,
        before,
        file,
        rejects,
        commit,
        privacy,
    } = new;
    let change = before
        .entry
        .committed
        .as_ref()
        .and_then(|old| Change::between(old, &commit));
    let has_rows = file.rows > 0;
    // A day that never had a file, and has none now, has no partition to load. If a crashed run
    // removed the file, the partition still has to be loaded.
    let had_partition = before.entry.pending.is_some()
        || before
            .entry
            .committed
            .as_ref()
            .is_some_and(|commit| commit.file.is_some());
    let mut staged = stage(context, &before.entry, file.into(), rejects).await?;
    if is_new {
        staged = staged.of_new_slice();
    }
    let has_partition = has_rows || had_partition || staged.had_file();
    let lake = &context.lake;
    let published = lake
        .publish(&context.mark, lease, before, staged, commit, &privacy)
        .await;
    let may_have_changed = matches!(published, Ok(_) | Err(LakeError::NotRecorded { .. }));
    if may_have_changed {
        context.unlogged.add([report.slice()]);
    }
    report.table_changed = has_partition && may_have_changed;
    report.describe(published?.committed.as_ref().expect("just committed"));
    report.change = change;
    Ok(())
}

/// Does what takes long about a publication, unless the run is halted first.
async fn stage(
    context: &Context,
    entry: &Entry,
    change: TableChange,
    rejects: Option<SpoolFile>,
) -> Result<StagedSlice, SliceError> {
    tokio::select! {
        () = context.halt.cancelled() => Err(FetchError::Stopped.into()),
        staged = context.lake.stage(entry, change, rejects) => Ok(staged?),
    }
}

/// Whether the lake already holds the fetched rows: by the ledger's digest, and by the checksum of
/// the file itself.
async fn is_in_lake(
    context: &Context,
    before: &LedgerEntry,
    kept: &Commit,
    commit: &Commit,
) -> Result<bool, SliceError> {
    let slice = before.entry.slice;
    if before.entry.pending.is_some()
        || kept.digest != commit.digest
        || kept.schema_version != commit.schema_version
    {
        return Ok(false);
    }
    let found = context.lake.table().file(&before.entry).await?;
    if !is_intact(kept.file.as_ref(), found.as_ref()) {
        return Ok(false);
    }
    let (Some(file), Some(found)) = (&kept.file, found) else {
        return Ok(true);
    };
    // The store's entity tag identifies this upload, so its bytes need not be read.
    if found.etag.is_none() && !has_bytes(context, &found.path, &file.checksum).await? {
        context
            .fetcher
            .warn(format!("{slice}: its file is damaged and will be replaced"));
        return Ok(false);
    }
    Ok(true)
}

/// Whether the lake holds the rejects that the ledger speaks of.
async fn has_rejects(context: &Context, slice: Slice, kept: &Commit) -> Result<bool, SliceError> {
    let found = context.lake.rejects_of(slice).await?;
    if !is_intact(kept.rejects.as_ref(), found.as_ref()) {
        return Ok(false);
    }
    let (Some(rejects), Some(found)) = (&kept.rejects, found) else {
        return Ok(true);
    };
    Ok(found.etag.is_some() || has_bytes(context, &found.path, &rejects.checksum).await?)
}

/// Whether the object at `path` has this checksum. An unreadable object counts as missing.
async fn has_bytes(context: &Context, path: &Path, expected: &str) -> Result<bool, SliceError> {
    let Some(copy) = context.lake.local_copy(path).await? else {
        return Ok(false);
    };
    let file = copy.path.clone();
    let found = join_task(tokio::task::spawn_blocking(move || checksum_of(&file))).await?;
    Ok(found.is_ok_and(|found| found == expected))
}

/// Refuses a slice that has fewer rows than the lake, unless that is allowed.
async fn must_not_shrink(
    context: &Context,
    due: &Due,
    before: &LedgerEntry,
    converted: &Converted,
) -> Result<(), SliceError> {
    let counts = &converted.counts;
    if !context.options.allow_shrink {
        let rows_before = rows_in_lake(context, due, before).await?;
        // Calls that are left out since have not gone from the provider.
        let rows_now = counts.rows + counts.suppressed;
        if rows_now < rows_before && context.fetcher.source.is_fixed() {
            return Err(SliceError::ExportShrank {
                now: counts.rows,
                before: rows_before,
            });
        }
        if rows_now < rows_before {
            return Err(SliceError::Shrank {
                now: counts.rows,
                before: rows_before,
            });
        }
        // With equal rows, only the ledger can be wrong. In another time zone, calls are on other
        // days.
        if context
            .lake
            .has_days_of(&timezone_name(&context.fetcher.config.window.timezone))
            && let Some(old) = &before.entry.committed
            && old.digest != converted.digest
            && let Some(days) = shrunk_days(old, converted)
        {
            return Err(SliceError::DaysShrank { days });
        }
    }
    Ok(())
}

/// The days of a month with fewer rows than in the commit `old`, unless as many calls were left out
/// since.
fn shrunk_days(old: &Commit, converted: &Converted) -> Option<String> {
    let rows_now = |day: &Date| converted.days.get(day).map_or(0, |of_day| of_day.rows);
    let days = old
        .days
        .iter()
        .map(|(day, before)| (day, rows_now(day), before.rows));
    let shrunk: Vec<_> = days.filter(|(_, now, before)| now < before).collect();
    let lost: u64 = shrunk.iter().map(|(_, now, before)| before - now).sum();
    let left_out = converted
        .counts
        .suppressed
        .saturating_sub(old.counts.suppressed);
    if lost <= left_out {
        return None;
    }
    let named = shrunk.iter().take(MAX_NAMED_DAYS);
    let mut named: Vec<String> = named
        .map(|(day, now, before)| {
            format!(
                "{day} has {}, and the lake {before}",
                counted(*now, "row", "rows")
            )
        })
        .collect();
    if shrunk.len() > MAX_NAMED_DAYS {
        named.push(format!(
            "and {} more",
            counted((shrunk.len() - MAX_NAMED_DAYS) as u64, "day", "days")
        ));
    }
    Some(named.join("; "))
}

/// The rows that a slice must not fall below: those of its commit; if a run crashed, or there is no
/// commit, also those of the file in the table.
async fn rows_in_lake(
    context: &Context,
    due: &Due,
    before: &LedgerEntry,
) -> Result<u64, SliceError> {
    let entry = &before.entry;
    let committed = entry.committed.as_ref();
    let committed = committed.map(|committed| committed.counts.rows + committed.counts.suppressed);
    if let (Some(rows), None) = (committed, &entry.pending) {
        return Ok(rows);
    }
    if due.has_nothing && before.is_absent() {
        return Ok(0);
    }
    let slice = entry.slice;
    let copy = context.lake.table().local_copy(entry).await?;
    let in_table = match copy {
        None => None,
        Some(copy) => tokio::task::spawn_blocking(move || rows_of(&copy.path, slice))
            .await
            // A file on which the reader panics is as good as one that it refuses.
            .unwrap_or_default(),
    };
    Ok(committed.max(in_table).unwrap_or_default())
}

#[cfg(test)]
mod tests;
