//! Runs in progress and their markers, crashed runs, and reports.

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

use super::identity::Identity;
use super::ledger::{Commit, Entry};
use super::{Lake, LakeError, parse_own};
use crate::cdr::slice::{Direction, Slice};
use crate::retry::{Retry, RetryPolicy};
use crate::store::layout;
use crate::store::{LakeStore, Lease, LeaseState, Swap};

/// Pause between attempts to acquire the lease of a run, and how long to try once its holder is
/// known to be alive, in addition to the expiry time. Other processes hold it only briefly: to
/// collect garbage, or because they conclude that the run has crashed.
const LEASE_RETRY: Duration = Duration::from_millis(50);
const LEASE_PATIENCE: Duration = Duration::from_secs(10);
const NEVER_POISONED: &str = "no thread panics while holding it";
/// Pause between reads of a lease whose holder may have crashed.
const UNPROVEN_LEASE_POLL: Duration = Duration::from_secs(1);

/// Runs without a report, and what each has done so far.
pub(crate) type MarkedRuns = BTreeMap<String, Traces>;

/// What a run has done, by the ledger.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traces {
    /// Its commits.
    pub commits: Vec<(Slice, Commit)>,
    /// Slices that it has announced and not committed. Their files may exist already, and a
    /// suspended run may continue.
    pub announced: BTreeSet<Slice>,
}

impl Traces {
    /// Whether it has done anything.
    pub(crate) fn is_any(&self) -> bool {
        !self.commits.is_empty() || !self.announced.is_empty()
    }
}

/// Shows other runs that this run is in progress: its marker, and a lease that lasts as long as it
/// lives. A run that finds a marker with a free lease concludes that the run has crashed, and
/// reports what it had committed or announced. A run that was suspended for too long may have been
/// declared crashed. So it checks its mark before each write and after each announcement and
/// commit, and marks itself again.
#[derive(Debug)]
pub(crate) struct RunMark {
    store: Arc<dyn LakeStore>,
    run: String,
    /// The identity of the lake when it was opened.
    identity: Identity,
    /// Ends waiting when cancelled.
    stop: CancellationToken,
    /// `None` until the run is marked.
    lease: Mutex<Option<Box<dyn Lease>>>,
    /// Why it could not be marked after a commit.
    unseen: std::sync::Mutex<Vec<String>>,
}

impl RunMark {
    /// ID of the run.
    pub(crate) fn run(&self) -> &str {
        &self.run
    }

    /// Ensures that the run is marked.
    ///
    /// # Errors
    /// [`LakeError::NotAlone`] if it may have been declared crashed and the store ignores
    /// conditional writes, so that another run may write the same files; [`LakeError`] if it cannot
    /// be marked.
    pub(crate) async fn ensure(&self) -> Result<(), LakeError> {
        let mut lease = self.lease.lock().await;
        let marker = layout::run_marker(&self.run);
        let is_held = lease.as_ref().is_some_and(|lease| lease.is_held());
        // On a machine that was suspended, an expired lease may seem to be held.
        let is_marked = self.store.state(&marker).await?.is_some();
        if is_held && is_marked {
            return Ok(());
        }
        if lease.is_some() {
            if !self.store.honours_conditions().await? {
                return Err(LakeError::NotAlone(format!(
                    "run {} was suspended, or could not reach its store, for so long that other \
                     runs may take it for dead. The store ignores conditional writes, so the run \
                     stopped writing. Run again when no other run is in progress",
                    self.run
                )));
            }
            if is_marked {
                tracing::info!(
                    run = self.run,
                    "The run's lease was lost. Acquiring it again."
                );
            } else {
                tracing::warn!(
                    run = self.run,
                    "Other runs take this run for dead. Marking it again."
                );
            }
        }
        if !is_held {
            self.take(&mut lease).await?;
        }
        self.store.create(&marker, Bytes::new()).await?;
        if is_marked {
            return Ok(());
        }
        // A conversion changes `lake.json` and then looks for marked runs.
        self.must_have_its_form().await
    }

    /// Checks that the lake has the table formats and the slices that it had when the run opened
    /// it.
    async fn must_have_its_form(&self) -> Result<(), LakeError> {
        let path = layout::identity();
        let Some(found) = self.store.read(&path).await? else {
            return Ok(());
        };
        let found: Identity = parse_own(path, &found)?;
        if found.form() == self.identity.form() {
            return Ok(());
        }
        let what = if found.tables() == self.identity.tables() {
            "the period of the lake's slices has"
        } else {
            "the table formats of the lake have"
        };
        Err(LakeError::NotAlone(format!(
            "{what} changed since the run opened it. Run again"
        )))
    }

    /// The same without a request while the lease seems to be held, before a write that the store
    /// refuses if another run has changed the object. [`ensure`](Self::ensure) must follow before
    /// the table changes.
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure).
    pub(super) async fn ensure_held(&self) -> Result<(), LakeError> {
        let is_held = self
            .lease
            .lock()
            .await
            .as_ref()
            .is_some_and(|lease| lease.is_held());
        if is_held && self.store.honours_conditions().await? {
            return Ok(());
        }
        self.ensure().await
    }

    /// The same after a commit, during which the run may have been suspended. The commit stays
    /// valid if this fails: [`unseen`](Self::unseen) reports the failure at the end of the run.
    pub(super) async fn ensure_after(&self) {
        if let Err(error) = self.ensure().await {
            let problem = format!(
                "a day was committed, but other runs may not detect this run any more: {}",
                crate::error::chain(&error)
            );
            tracing::warn!("{problem}");
            self.unseen.lock().expect(NEVER_POISONED).push(problem);
        }
    }

    /// Takes the reasons why the run could not be marked after a commit.
    pub(crate) fn unseen(&self) -> Vec<String> {
        std::mem::take(&mut *self.unseen.lock().expect(NEVER_POISONED))
    }

    /// Acquires the lease. Gives up once its current holder has proved to be alive.
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
                // If its holder has crashed, it expires after the time that it contains.
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

/// A crashed run without a report. While this value exists, the run cannot continue.
#[derive(Debug)]
pub(crate) struct CrashedRun {
    run: String,
    lease: Box<dyn Lease>,
}

impl CrashedRun {
    /// Name of the run.
    pub(crate) fn run(&self) -> &str {
        &self.run
    }
}

impl Lake {
    /// The mark of a run, which is written when it is first [ensured](RunMark::ensure). Cancelling
    /// `stop` ends waiting for it.
    pub(crate) fn mark(&self, run: &str, stop: CancellationToken) -> RunMark {
        RunMark {
            store: Arc::clone(&self.store),
            run: run.to_owned(),
            identity: self.identity.clone(),
            stop,
            lease: Mutex::default(),
            unseen: std::sync::Mutex::default(),
        }
    }

    /// Stores the report of a run and ends the run. Replaces a report that another run wrote for it
    /// because it declared it crashed.
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

    /// Replaces the report of a run by what `make` returns for the existing one, unless that is
    /// `None`.
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

    /// The runs with a report, in order of their start.
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

    /// The report of a run.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, or the report is invalid.
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

    /// The runs other than `this` without a report, in order of their start. They are in progress
    /// or crashed, see [`has_crashed`](Self::has_crashed).
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn unended_runs(&self, this: &str) -> Result<Vec<String>, LakeError> {
        let mut runs = Vec::new();
        for object in self.store.list(&Path::from(layout::RUNNING)).await? {
            let Some(run) = layout::marked_run(&object.path).filter(|run| *run != this) else {
                continue;
            };
            // Where only time shows that a run has crashed, this read starts the clock.
            self.store.lease_state(&layout::run_lease(run)).await?;
            runs.push(run.to_owned());
        }
        runs.sort_unstable();
        Ok(runs)
    }

    /// The same, with their commits and announcements that are still in the ledger.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn marked_runs(&self, this: &str) -> Result<MarkedRuns, LakeError> {
        let runs = self.unended_runs(this).await?.into_iter();
        let mut marked = runs.map(|run| (run, Traces::default())).collect();
        self.add_traces(&mut marked).await?;
        Ok(marked)
    }

    /// Adds the commits and announcements of each run that are still in the ledger.
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

    /// All usable ledger entries.
    pub(crate) async fn all_entries(
        &self,
    ) -> Result<impl Iterator<Item = (Slice, Entry)>, LakeError> {
        let everything = jiff::civil::Date::MIN..=jiff::civil::Date::MAX;
        let entries = self.entries(&Direction::ALL, everything).await?;
        Ok(entries
            .into_iter()
            .map(|(slice, found)| (slice, found.entry)))
    }

    /// Whether a run crashed without a report. If `is_patient`, waits until this is certain, at
    /// most [`lease_expiry`](Self::lease_expiry). Otherwise returns true only if it is certain now.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn has_crashed(&self, run: &str, is_patient: bool) -> Result<bool, LakeError> {
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
                    "Waiting until it is certain whether a run without a report is alive."
                );
            }
            tokio::time::sleep(UNPROVEN_LEASE_POLL).await;
        }
        // A run that ended meanwhile has removed its marker.
        Ok(self.store.read(&layout::run_marker(run)).await?.is_some())
    }

    /// Prevents a run that [has crashed](Self::has_crashed) from continuing; `None` if it has
    /// continued.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails.
    pub(crate) async fn claim_crashed(&self, run: &str) -> Result<Option<CrashedRun>, LakeError> {
        let Some(lease) = self.store.try_lease(&layout::run_lease(run)).await? else {
            return Ok(None);
        };
        let is_marked = self.store.read(&layout::run_marker(run)).await?.is_some();
        let run = run.to_owned();
        Ok(is_marked.then_some(CrashedRun { run, lease }))
    }

    /// Replaces the report of a crashed run by what `make` returns for the existing one, unless
    /// that is `None`. Removes the run's marker and its lease.
    ///
    /// # Errors
    /// [`LakeError`] if the store fails, or others write the report again and again.
    pub(crate) async fn end_crashed_run<T: Serialize + DeserializeOwned>(
        &self,
        crashed: CrashedRun,
        make: impl Fn(Option<T>) -> Option<T>,
    ) -> Result<(), LakeError> {
        let make = |found: Option<&[u8]>| {
            // Ignore a damaged report.
            let found = found.and_then(|bytes| serde_json::from_slice(bytes).ok());
            make(found).map(|report| compact_json(&report))
        };
        self.keep_report(&crashed.run, make).await?;
        let marker = layout::run_marker(&crashed.run);
        if crashed.lease.is_held() {
            self.store.delete(&marker).await?;
            // The run may have taken over the lease and marked itself again meanwhile.
            if !crashed.lease.is_held() {
                self.store.create(&marker, Bytes::new()).await?;
            }
        }
        Ok(())
    }
}

/// Without white space, a report on thousands of slices is half as long.
fn compact_json(value: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec(value).expect("our own types always serialise");
    bytes.push(b'\n');
    bytes.into()
}

#[cfg(test)]
mod tests;
