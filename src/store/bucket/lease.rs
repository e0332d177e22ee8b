//! Leases as objects: created on the condition that there is none, renewed while their holder
//! lives, and taken over by whoever has seen them unchanged for long enough by a clock of its own.

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

/// Renewals within the time after which a lease expires: two may fail.
const RENEWALS_PER_EXPIRY: u32 = 3;

/// What a lease's object says.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    /// Distinguishes this very holder.
    holder: String,
    /// How often it was renewed: every renewal changes the object.
    renewals: u64,
    /// After how long without a renewal others may take it over.
    expiry_ms: u64,
}

impl Content {
    fn bytes(&self) -> Bytes {
        serde_json::to_vec(self)
            .expect("our own types always serialise")
            .into()
    }
}

/// When a lease was seen to change last, by this process.
#[derive(Clone, Debug)]
pub(super) struct Observation {
    version: Version,
    since: Instant,
    /// Whether it was seen to change, and not only to be there.
    has_changed: bool,
}

/// Looks at a lease that was read, and remembers what was seen.
pub(super) fn observe(store: &BucketStore, path: &Path, found: Option<&Versioned>) -> LeaseState {
    let mut observed = store
        .inner
        .observed
        .lock()
        .expect("nobody panics while holding it");
    let Some(found) = found else {
        observed.remove(path);
        return LeaseState::Free;
    };
    // What is not a lease of ours does not renew itself.
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

/// Until when nobody can have taken a lease over, by this process's clock.
#[derive(Debug)]
struct Validity(Mutex<Instant>);

impl Validity {
    const NO_PANIC: &str = "nobody panics while holding it";

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

/// A lease on an object of this process. Dropping it gives it back, soon.
#[derive(Debug)]
pub(super) struct BucketLease {
    validity: Arc<Validity>,
    /// Tells the keeper that it was dropped.
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
            // If the keeper has ended, there is nothing to give back.
            drop(dropped.send(self.tracker.token()));
        }
    }
}

/// Takes a lease that is free: there is none, or `found` is what was seen for too long.
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
    // From before the request: what others see begins later.
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
            // The same until it is known to be done, so that it is recognised if its reply was
            // lost.
            self.content.renewals += 1;
            let renewed = tokio::select! {
                token = &mut told => break token,
                renewed = self.renew(pause) => renewed,
            };
            if !renewed {
                tracing::warn!(lease = %self.path, "Lost a lease: another run may take over.");
                return;
            }
        };
        self.give_back().await;
        drop(token);
    }

    /// Renews until it is done. Whether it still is ours.
    async fn renew(&mut self, pause: Duration) -> bool {
        // From the first try on: if its reply was lost, that is when others saw the change.
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
                // As long as nobody can have taken it over, it may still work.
                Ok(Err(_)) | Err(_) => {}
            }
            if self.validity.is_over() {
                return false;
            }
            tokio::time::sleep(pause / 10).await;
        }
    }

    /// Removes the object, which the library does not do on a condition: only while nobody can have
    /// taken it over, and with time to spare.
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
            tracing::debug!(lease = %self.path, "A lease could not be given back: it expires.");
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
    async fn nobody_takes_a_lease_over_before_its_holder_knows_that_it_is_lost() {
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
    async fn a_renewal_whose_reply_was_lost_counts_from_when_it_was_sent() {
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
    async fn a_renewal_that_is_not_answered_is_tried_again_before_the_lease_expires() {
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
    async fn a_holder_that_asked_for_more_time_is_given_it() {
        let bucket = Bucket::default();
        let (other, _) = process(&bucket);
        let content = Content {
            holder: "somebody with another configuration".to_owned(),
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
    async fn a_lease_that_somebody_removed_is_lost_at_the_next_renewal() {
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
    async fn a_lease_is_not_removed_when_somebody_may_have_taken_it_over() {
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
    async fn garbage_is_what_nobody_renews() {
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
