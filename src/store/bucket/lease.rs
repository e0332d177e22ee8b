//! Leases as objects: created on the condition that none exists, and renewed while their holder
//! lives. A process takes over a lease that it has seen unchanged for the expiry time, by its own
//! clock.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::BucketStore;
use crate::store::{Lease, LeaseState, MAX_LEASE_EXPIRY, Objects, Swap, Version, Versioned};

/// Renewals within the expiry time of a lease: two of them may fail.
const RENEWALS_PER_EXPIRY: u32 = 3;

/// The content of a lease object.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    /// Identifies the holder.
    holder: String,
    /// The number of renewals, so that every renewal changes the object.
    renewals: u64,
    /// The expiry time: without a renewal for so long, others may take it over.
    expiry_ms: u64,
}

impl Content {
    fn bytes(&self) -> Bytes {
        serde_json::to_vec(self)
            .expect("our own types always serialise")
            .into()
    }
}

/// When this process last saw a lease change.
#[derive(Clone, Debug)]
pub(super) struct Observation {
    version: Version,
    since: Instant,
    /// Whether this process saw it change, so that its holder is alive.
    has_changed: bool,
}

/// Judges a lease that was read, and remembers its version.
pub(super) fn observe(store: &BucketStore, path: &Path, found: Option<&Versioned>) -> LeaseState {
    let mut observed = store
        .inner
        .observed
        .lock()
        .expect("no thread panics while holding it");
    let Some(found) = found else {
        observed.remove(path);
        return LeaseState::Free;
    };
    // An object that is not a lease is not renewed.
    let content = serde_json::from_slice::<Content>(&found.bytes);
    let theirs = content.map_or(Duration::ZERO, |content| {
        Duration::from_millis(content.expiry_ms).min(MAX_LEASE_EXPIRY)
    });
    let expiry = theirs.max(store.inner.options.lease);
    let now = Instant::now();
    match observed.get_mut(path) {
        Some(before) if before.version == found.version => {
            if now.duration_since(before.since) >= expiry {
                LeaseState::Free
            } else if before.has_changed {
                LeaseState::Held
            } else {
                LeaseState::Unproven
            }
        }
        before => {
            let has_changed = before.is_some();
            let observation = Observation {
                version: found.version.clone(),
                since: now,
                has_changed,
            };
            observed.insert(path.clone(), observation);
            if has_changed {
                LeaseState::Held
            } else {
                LeaseState::Unproven
            }
        }
    }
}

/// The time until which no other process can have taken over a lease, by this process's clock.
#[derive(Debug)]
struct Validity(Mutex<Instant>);

impl Validity {
    const NO_PANIC: &str = "no thread panics while holding it";

    fn ends(&self) -> Instant {
        *self.0.lock().expect(Self::NO_PANIC)
    }

    fn set(&self, ends: Instant) {
        *self.0.lock().expect(Self::NO_PANIC) = ends;
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.ends()
    }
}

/// A lease of this process. Dropping it releases it in the background.
#[derive(Debug)]
pub(super) struct BucketLease {
    validity: Arc<Validity>,
    /// Signals to the keeper that it was dropped.
    dropped: Option<oneshot::Sender<TaskTrackerToken>>,
    tracker: tokio_util::task::TaskTracker,
}

impl Lease for BucketLease {
    fn is_held(&self) -> bool {
        !self.validity.is_over()
    }
}

impl Drop for BucketLease {
    fn drop(&mut self) {
        if let Some(dropped) = self.dropped.take() {
            // If the keeper has ended, there is nothing to release.
            drop(dropped.send(self.tracker.token()));
        }
    }
}

/// Acquires a free lease: it does not exist, or `found` has expired.
pub(super) async fn take(
    store: &BucketStore,
    path: &Path,
    found: Option<Versioned>,
) -> Result<Option<BucketLease>, crate::store::StoreError> {
    let expiry = store.inner.options.lease;
    let content = Content {
        holder: format!("{:032x}", fastrand::u128(..)),
        renewals: 0,
        expiry_ms: u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX),
    };
    // Measured before the request, because other processes see the lease later.
    let begun = Instant::now();
    let swap = match &found {
        None => store.create(path, content.bytes()).await?,
        Some(found) => store.replace(path, content.bytes(), &found.version).await?,
    };
    let Swap::Done(version) = swap else {
        return Ok(None);
    };
    let validity = Arc::new(Validity(Mutex::new(begun + expiry)));
    let (dropped, told) = oneshot::channel();
    let keeper = Keeper {
        store: store.clone(),
        path: path.clone(),
        content,
        version,
        validity: Arc::clone(&validity),
    };
    tokio::spawn(keeper.keep(told));
    Ok(Some(BucketLease {
        validity,
        dropped: Some(dropped),
        tracker: store.inner.tracker.clone(),
    }))
}

/// Renews a lease until it is dropped or lost.
struct Keeper {
    store: BucketStore,
    path: Path,
    content: Content,
    version: Version,
    validity: Arc<Validity>,
}

impl Keeper {
    async fn keep(mut self, mut told: oneshot::Receiver<TaskTrackerToken>) {
        let expiry = self.store.inner.options.lease;
        let pause = expiry / RENEWALS_PER_EXPIRY;
        let token = loop {
            tokio::select! {
                token = &mut told => break token,
                () = tokio::time::sleep(pause) => {}
            }
            // The content stays the same until the write succeeds, so that it is recognized if the
            // reply is lost.
            self.content.renewals += 1;
            let renewed = tokio::select! {
                token = &mut told => break token,
                renewed = self.renew(pause) => renewed,
            };
            if !renewed {
                tracing::warn!(lease = %self.path, "The lease expired or was removed: another run \
                    may take over the slice.");
                return;
            }
        };
        self.give_back().await;
        drop(token);
    }

    /// Retries a renewal until it succeeds. Whether this process still holds the lease.
    async fn renew(&mut self, pause: Duration) -> bool {
        // Measured from the first attempt: if its reply was lost, other processes saw the change
        // then.
        let begun = Instant::now();
        loop {
            let bytes = self.content.bytes();
            let swap = self.store.replace(&self.path, bytes, &self.version);
            match tokio::time::timeout(pause, swap).await {
                Ok(Ok(Swap::Done(version))) => {
                    self.version = version;
                    self.validity.set(begun + self.store.inner.options.lease);
                    return true;
                }
                Ok(Ok(Swap::Refused)) => {
                    self.validity.set(begun);
                    return false;
                }
                // While no other process can have taken it over, retry.
                Ok(Err(_)) | Err(_) => {}
            }
            if self.validity.is_over() {
                return false;
            }
            tokio::time::sleep(pause / 10).await;
        }
    }

    /// Removes the object. The library cannot delete on a condition, so only do it while no other
    /// process can have taken over the lease, with a margin.
    async fn give_back(self) {
        let time_left = self
            .validity
            .ends()
            .saturating_duration_since(Instant::now());
        if time_left.is_zero() {
            return;
        }
        let removed = tokio::time::timeout(time_left / 2, self.store.delete(&self.path)).await;
        if !matches!(removed, Ok(Ok(()))) {
            tracing::debug!(lease = %self.path, "A lease could not be released: it will expire.");
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use object_store::throttle::ThrottledStore;

    use super::*;
    use crate::store::bucket::BucketOptions;
    use crate::store::{Housekeeping, Leases};

    const EXPIRY: Duration = Duration::from_mins(1);

    type Bucket = Arc<InMemory>;

    /// A process with the lake in `bucket`, and the line to it, which can be cut.
    fn process(bucket: &Bucket) -> (BucketStore, Arc<ThrottledStore<Bucket>>) {
        let options = BucketOptions {
            single_put_bytes: 1,
            part_bytes: 1,
            lease: EXPIRY,
            storage_class: None,
            tags: object_store::TagSet::default(),
        };
        let line = Arc::new(ThrottledStore::new(
            Arc::clone(bucket),
            object_store::throttle::ThrottleConfig::default(),
        ));
        let url = "s3://bucket/lake".parse().unwrap();
        let store = BucketStore::new(Arc::clone(&line) as _, &url, options, &std::env::temp_dir());
        (store, line)
    }

    fn cut(line: &ThrottledStore<Bucket>) {
        line.config_mut(|line| {
            line.wait_put_per_call = Duration::from_hours(1);
            line.wait_get_per_call = Duration::from_hours(1);
        });
    }

    fn path() -> Path {
        Path::from("_cdrlake/leases/placed-2026-10-01.lock")
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_lasts_as_long_as_its_holder_lives() {
        let bucket = Bucket::default();
        let ((holder, _), (other, _)) = (process(&bucket), process(&bucket));
        let lease = holder.try_lease(&path()).await.unwrap().unwrap();
        assert_eq!(
            other.lease_state(&path()).await.unwrap(),
            LeaseState::Unproven
        );
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(lease.is_held());
            assert!(other.try_lease(&path()).await.unwrap().is_none());
        }
        assert_eq!(other.lease_state(&path()).await.unwrap(), LeaseState::Held);
        drop(lease);
        holder.settle().await;
        assert!(other.try_lease(&path()).await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_not_taken_over_before_its_holder_detects_the_loss() {
        let bucket = Bucket::default();
        let ((holder, line), (other, _)) = (process(&bucket), process(&bucket));
        let lease = holder.try_lease(&path()).await.unwrap().unwrap();
        assert!(other.try_lease(&path()).await.unwrap().is_none());
        // Some renewals later it is cut off.
        tokio::time::sleep(EXPIRY * 3 + EXPIRY / 7).await;
        assert!(lease.is_held());
        cut(&line);
        let begun = Instant::now();
        let taken = loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if let Some(taken) = other.try_lease(&path()).await.unwrap() {
                break taken;
            }
        };
        assert!(!lease.is_held() && taken.is_held());
        let waited = begun.elapsed();
        assert!(waited > EXPIRY * 2 / 3 && waited < EXPIRY * 3, "{waited:?}");
        // Back again, the first holder takes nothing away from the second.
        line.config_mut(|line| *line = object_store::throttle::ThrottleConfig::default());
        drop(lease);
        holder.settle().await;
        tokio::time::sleep(EXPIRY * 2).await;
        assert!(taken.is_held());
        assert!(holder.try_lease(&path()).await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_with_a_lost_reply_counts_from_its_request() {
        let bucket = Bucket::default();
        let ((holder, line), (other, _)) = (process(&bucket), process(&bucket));
        let lease = holder.try_lease(&path()).await.unwrap().unwrap();
        // The first renewal, after a third of the time, arrives, and its holder does not hear of
        // it.
        tokio::time::sleep(EXPIRY / 4).await;
        cut(&line);
        tokio::time::sleep(EXPIRY / 8).await;
        let found = other.read(&path()).await.unwrap().unwrap();
        let mut content: Content = serde_json::from_slice(&found.bytes).unwrap();
        content.renewals += 1;
        let renewed = other
            .replace(&path(), content.bytes(), &found.version)
            .await;
        assert!(matches!(renewed.unwrap(), Swap::Done(_)));
        let seen = Instant::now();
        assert_eq!(
            other.lease_state(&path()).await.unwrap(),
            LeaseState::Unproven
        );
        // It comes to know later on, and is then cut off for good.
        line.config_mut(|line| *line = object_store::throttle::ThrottleConfig::default());
        tokio::time::sleep(EXPIRY * 2 / 5).await;
        assert!(lease.is_held(), "it knows that it was renewed");
        cut(&line);
        while other.try_lease(&path()).await.unwrap().is_none() {
            assert!(seen.elapsed() <= EXPIRY);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(!lease.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_without_a_reply_is_retried_before_the_lease_expires() {
        let bucket = Bucket::default();
        let ((holder, line), _) = (process(&bucket), process(&bucket));
        let lease = holder.try_lease(&path()).await.unwrap().unwrap();
        // The first renewal, after a third of the time, is never answered; the next one is.
        tokio::time::sleep(EXPIRY / 4).await;
        cut(&line);
        tokio::time::sleep(EXPIRY / 4).await;
        line.config_mut(|line| *line = object_store::throttle::ThrottleConfig::default());
        tokio::time::sleep(EXPIRY * 2 / 3).await;
        assert!(lease.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn a_longer_expiry_of_another_holder_is_honoured() {
        let bucket = Bucket::default();
        let (other, _) = process(&bucket);
        let content = Content {
            holder: "a process with another configuration".to_owned(),
            renewals: 7,
            expiry_ms: 600_000,
        };
        other.create(&path(), content.bytes()).await.unwrap();
        assert!(other.try_lease(&path()).await.unwrap().is_none());
        tokio::time::sleep(Duration::from_secs(599)).await;
        assert!(other.try_lease(&path()).await.unwrap().is_none());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(other.try_lease(&path()).await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_lease_is_lost_at_the_next_renewal() {
        let bucket = Bucket::default();
        let ((holder, _), (other, _)) = (process(&bucket), process(&bucket));
        let lease = holder.try_lease(&path()).await.unwrap().unwrap();
        other.delete(&path()).await.unwrap();
        let taken = other.try_lease(&path()).await.unwrap().unwrap();
        tokio::time::sleep(EXPIRY / 2).await;
        assert!(!lease.is_held() && taken.is_held());
        drop(lease);
        holder.settle().await;
        assert!(other.read(&path()).await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_may_have_been_taken_over_is_not_removed() {
        let bucket = Bucket::default();
        let ((holder, line), (other, _)) = (process(&bucket), process(&bucket));
        let lease = holder.try_lease(&path()).await.unwrap().unwrap();
        // The removal would arrive with less than half of its time left.
        line.config_mut(|line| line.wait_delete_per_call = EXPIRY * 3 / 4);
        drop(lease);
        tokio::time::sleep(EXPIRY).await;
        holder.settle().await;
        assert!(other.read(&path()).await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn leases_without_renewals_are_garbage() {
        let bucket = Bucket::default();
        let ((holder, _), (other, _)) = (process(&bucket), process(&bucket));
        other.prepare().unwrap();
        let lease = holder.try_lease(&path()).await.unwrap().unwrap();
        let dead = Path::from("_cdrlake/leases/probe-1.lock");
        other.create(&dead, "1".into()).await.unwrap();
        let garbage = other.collect_garbage().await.unwrap();
        assert_eq!(garbage.removed, [dead.to_string()]);
        assert!(lease.is_held());
        let left = other.list(&Path::from("_cdrlake/leases")).await.unwrap();
        assert_eq!(left.len(), 1);
    }
}
