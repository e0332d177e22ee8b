//! Runs as the lake knows them: which are under way, which have ended, and what they have reported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ledger::{Commit, Entry};
use super::{Lake, LakeError};
use crate::cdr::slice::{Direction, Slice};
use crate::retry::{Retry, RetryPolicy};
use crate::store::layout;
use crate::store::{LakeStore, Lease, LeaseState, Swap};

/// Pause between tries for the lease of a run, and how long to try, beyond the time in which one
/// expires, once its holder is known to be alive. Nobody else wants it, but whoever clears away
/// leases, or takes the run for dead, holds it for a moment.
const LEASE_RETRY: Duration = Duration::from_millis(50);
const LEASE_PATIENCE: Duration = Duration::from_secs(10);
const NEVER_POISONED: &str = "nobody panics while holding it";
/// Pause between looks at a lease whose holder may be dead.
const UNPROVEN_LEASE_POLL: Duration = Duration::from_secs(1);

/// Runs that have not kept a report, and what each has done so far.
pub(crate) type MarkedRuns = BTreeMap<String, Traces>;

/// What the ledger says that a run has done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traces {
    /// What it has committed.
    pub commits: Vec<(Slice, Commit)>,
    /// Slices that it is about to commit, or was when it died: their files may be there already,
    /// and it may yet wake up.
    pub announced: BTreeSet<Slice>,
}

impl Traces {
    /// Whether it has done anything.
    pub(crate) fn is_any(&self) -> bool {
        !self.commits.is_empty() || !self.announced.is_empty()
    }
}

/// What shows others that a run is under way: its marker, and a lease that lasts as long as it
/// lives. Who finds a marker whose lease is free takes the run for dead and tells what it had
/// committed or announced. A run that was asleep for too long may find itself dead, so it looks
/// before it writes anything, and after it announced or committed something, and marks itself
/// again.
#[derive(Debug)]
pub(crate) struct RunMark {
    store: Arc<dyn LakeStore>,
    run: String,
    /// Whoever cancels it does not want to wait.
    stop: CancellationToken,
    /// `None` as long as the run was not marked.
    lease: Mutex<Option<Box<dyn Lease>>>,
    /// Why it could not be marked after something was committed.
    unseen: std::sync::Mutex<Vec<String>>,
}

impl RunMark {
    /// Name of the run.
    pub(crate) fn run(&self) -> &str {
        &self.run
    }

    /// Makes sure that the run is marked.
    ///
    /// # Errors
    /// [`LakeError::NotAlone`] if it was taken for dead and the store ignores conditional writes,
    /// so that another run may write what this one does; [`LakeError`] if it cannot be marked.
    pub(crate) async fn ensure(&self) -> Result<(), LakeError> {
        let mut lease = self.lease.lock().await;
        let marker = layout::run_marker(&self.run);
        let is_held = lease.as_ref().is_some_and(|lease| lease.is_held());
        // The lease of a machine that slept may look as if it were held.
        let is_marked = self.store.state(&marker).await?.is_some();
        if is_held && is_marked {
            return Ok(());
        }
        if lease.is_some() {
            if !self.store.honours_conditions().await? {
                return Err(LakeError::NotAlone(format!(
                    "run {} was asleep, or without its store, for so long that others may take it for dead, and the store ignores conditional writes, by which they would keep out of its way: it writes nothing more. Run again when no other run is under way",
                    self.run
                )));
            }
            if is_marked {
                tracing::info!(run = self.run, "Takes its lease again, which was lost.");
            } else {
                tracing::warn!(
                    run = self.run,
                    "Others take this run for dead: it marks itself again."
                );
            }
        }
        if !is_held {
            self.take(&mut lease).await?;
        }
        self.store.create(&marker, Bytes::new()).await?;
        Ok(())
    }

    /// The same after something was committed, during which the run may have been asleep. If it
    /// fails, that is [said](Self::unseen) in the end: what was committed stays so.
    pub(super) async fn ensure_after(&self) {
        if let Err(error) = self.ensure().await {
            let problem = format!(
                "a day was committed, and the run may not be seen any more: {}",
                crate::error::chain(&error)
            );
            tracing::warn!("{problem}");
            self.unseen.lock().expect(NEVER_POISONED).push(problem);
        }
    }

    /// Why the run could not be marked after it had committed something; empty from then on.
    pub(crate) fn unseen(&self) -> Vec<String> {
        std::mem::take(&mut *self.unseen.lock().expect(NEVER_POISONED))
    }

    /// Takes the lease, or waits until the one that is there turns out to last.
    async fn take(&self, lease: &mut Option<Box<dyn Lease>>) -> Result<(), LakeError> {
        let path = layout::run_lease(&self.run);
        let patience = self.store.lease_expiry().unwrap_or_default() + LEASE_PATIENCE;
        let mut alive_since = None;
        loop {
            if let Some(taken) = self.store.try_lease(&path).await? {
                *lease = Some(taken);
                return Ok(());
            }
            let pause = match self.store.lease_state(&path).await? {
                // If its holder is dead it expires, after as long as it says itself.
                LeaseState::Unproven => UNPROVEN_LEASE_POLL,
                LeaseState::Free => LEASE_RETRY,
                LeaseState::Held => {
                    if alive_since.get_or_insert_with(Instant::now).elapsed() >= patience {
                        break;
                    }
                    LEASE_RETRY
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            if lease.as_ref().is_some_and(|lease| lease.is_held()) {
                return Ok(());
            }
        }
        let run = self.run.clone();
        Err(LakeError::Unmarked { run })
    }
}

/// A run that has ended without keeping its report. As long as this is there, it cannot come to
/// life again.
#[derive(Debug)]
pub(crate) struct DeadRun {
    run: String,
    lease: Box<dyn Lease>,
}

impl DeadRun {
    /// Name of the run.
    pub(crate) fn run(&self) -> &str {
        &self.run
    }
}

impl Lake {
    /// What is to show others that a run is under way, from the first time that it is
    /// [ensured](RunMark::ensure). Who cancels `stop` does not want to wait for it.
    pub(crate) fn mark(&self, run: &str, stop: CancellationToken) -> RunMark {
        RunMark {
            store: Arc::clone(&self.store),
            run: run.to_owned(),
            stop,
            lease: Mutex::default(),
            unseen: std::sync::Mutex::default(),
        }
    }

    /// Keeps the report of a run, which then is no longer under way. One that another run has made
    /// for it, taking it for dead, is replaced.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, or others write the report again and again.
    pub(crate) async fn end_run(
        &self,
        run: &str,
        report: &impl Serialize,
    ) -> Result<(), LakeError> {
        let report = compact_json(report);
        self.keep_report(run, |_| Some(report.clone())).await?;
        Ok(self.store.delete(&layout::run_marker(run)).await?)
    }

    /// Keeps as the report of a run what `make` makes of the one that is there, unless it makes
    /// none.
    async fn keep_report(
        &self,
        run: &str,
        make: impl Fn(Option<&[u8]>) -> Option<Bytes>,
    ) -> Result<(), LakeError> {
        let path = layout::run_report(run);
        let mut retry = Retry::new(RetryPolicy::STORE, None);
        loop {
            let found = self.store.read(&path).await?;
            let Some(report) = make(found.as_ref().map(|found| &*found.bytes)) else {
                return Ok(());
            };
            let swap = match &found {
                None => self.store.create(&path, report).await?,
                Some(found) => self.store.replace(&path, report, &found.version).await?,
            };
            if swap != Swap::Refused {
                return Ok(());
            }
            if !retry.wait_for_next().await {
                return Err(LakeError::Contended { path });
            }
        }
    }

    /// The runs that have kept a report, the one that began last at the end.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub async fn runs(&self) -> Result<Vec<String>, LakeError> {
        let listed = self.store.list(&Path::from(layout::RUNS)).await?;
        let mut runs: Vec<String> = listed
            .iter()
            .filter_map(|object| layout::reported_run(&object.path))
            .map(str::to_owned)
            .collect();
        runs.sort_unstable();
        Ok(runs)
    }

    /// What a run has kept as its report.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, or it is none.
    pub async fn run_report<T: DeserializeOwned>(&self, run: &str) -> Result<Option<T>, LakeError> {
        let path = layout::run_report(run);
        let Some(found) = self.store.read(&path).await? else {
            return Ok(None);
        };
        let report = serde_json::from_slice(&found.bytes);
        report.map(Some).map_err(|error| {
            let problem = error.to_string();
            LakeError::Damaged { path, problem }
        })
    }

    /// Removes the report of a run.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn remove_report(&self, run: &str) -> Result<Path, LakeError> {
        let path = layout::run_report(run);
        self.store.delete(&path).await?;
        Ok(path)
    }

    /// The runs other than `this` that have not kept a report, and what they have committed so far,
    /// as far as it is still there. They are under way, or dead: [`is_dead`](Self::is_dead) tells.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn marked_runs(&self, this: &str) -> Result<MarkedRuns, LakeError> {
        let mut marked = BTreeMap::new();
        for object in self.store.list(&Path::from(layout::RUNNING)).await? {
            let Some(run) = layout::marked_run(&object.path).filter(|run| *run != this) else {
                continue;
            };
            // Where only time tells who is dead, it begins to run.
            self.store.lease_state(&layout::run_lease(run)).await?;
            marked.insert(run.to_owned(), Traces::default());
        }
        self.add_traces(&mut marked).await?;
        Ok(marked)
    }

    /// Adds to each run what it has committed and announced, as far as it is still there.
    pub(crate) async fn add_traces(&self, runs: &mut MarkedRuns) -> Result<(), LakeError> {
        if runs.is_empty() {
            return Ok(());
        }
        for (slice, entry) in self.all_entries().await? {
            if let Some(pending) = entry.pending
                && let Some(traces) = runs.get_mut(&pending.run)
            {
                traces.announced.insert(slice);
            }
            if let Some(commit) = entry.committed
                && let Some(Traces { commits, .. }) = runs.get_mut(&commit.run)
                && commits.iter().all(|(known, _)| *known != slice)
            {
                commits.push((slice, commit));
            }
        }
        Ok(())
    }

    /// The whole ledger, as far as it can be relied on.
    pub(crate) async fn all_entries(
        &self,
    ) -> Result<impl Iterator<Item = (Slice, Entry)>, LakeError> {
        let everything = jiff::civil::Date::MIN..=jiff::civil::Date::MAX;
        let entries = self.entries(&Direction::ALL, everything).await?;
        Ok(entries
            .into_iter()
            .map(|(slice, found)| (slice, found.entry)))
    }

    /// Whether a run has ended without keeping its report. If `is_patient`, waits as long as it
    /// takes to know, at most [`lease_expiry`](Self::lease_expiry); otherwise only says so if it is
    /// known.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn is_dead(&self, run: &str, is_patient: bool) -> Result<bool, LakeError> {
        let lease = layout::run_lease(run);
        let mut is_told = false;
        loop {
            match self.store.lease_state(&lease).await? {
                LeaseState::Held => return Ok(false),
                LeaseState::Free => break,
                LeaseState::Unproven if !is_patient => return Ok(false),
                LeaseState::Unproven => {}
            }
            if self.store.read(&layout::run_marker(run)).await?.is_none() {
                return Ok(false);
            }
            if !std::mem::replace(&mut is_told, true) {
                tracing::info!(
                    run,
                    "Waiting to see whether a run without a report is still alive."
                );
            }
            tokio::time::sleep(UNPROVEN_LEASE_POLL).await;
        }
        // One that ended meanwhile has taken its marker away.
        Ok(self.store.read(&layout::run_marker(run)).await?.is_some())
    }

    /// Keeps a run from coming to life again that [is dead](Self::is_dead); `None` if it has.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn claim_dead(&self, run: &str) -> Result<Option<DeadRun>, LakeError> {
        let Some(lease) = self.store.try_lease(&layout::run_lease(run)).await? else {
            return Ok(None);
        };
        let is_marked = self.store.read(&layout::run_marker(run)).await?.is_some();
        let run = run.to_owned();
        Ok(is_marked.then_some(DeadRun { run, lease }))
    }

    /// Keeps what `make` makes of the report of a dead run that is there, unless it makes none, and
    /// takes the run's marker and its lease away.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, or others write the report again and again.
    pub(crate) async fn end_dead_run<T: Serialize + DeserializeOwned>(
        &self,
        dead: DeadRun,
        make: impl Fn(Option<T>) -> Option<T>,
    ) -> Result<(), LakeError> {
        let make = |found: Option<&[u8]>| {
            // One that is damaged says nothing.
            let found = found.and_then(|bytes| serde_json::from_slice(bytes).ok());
            make(found).map(|report| compact_json(&report))
        };
        self.keep_report(&dead.run, make).await?;
        let marker = layout::run_marker(&dead.run);
        if dead.lease.is_held() {
            self.store.delete(&marker).await?;
            // Whoever took the lease over meanwhile may have marked the run again.
            if !dead.lease.is_held() {
                self.store.create(&marker, Bytes::new()).await?;
            }
        }
        Ok(())
    }
}

/// A report of thousands of slices is half as long without white space.
fn compact_json(value: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec(value).expect("our own types always serialise");
    bytes.push(b'\n');
    bytes.into()
}
