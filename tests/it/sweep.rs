use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cdrlake::Api;
use cdrlake::internals::{LakeStore, LocalStore, SourceConfig};
use object_store::memory::InMemory;
use secrecy::SecretString;

use crate::stores::{Fault, FaultBucket, FaultStore, Faults, bucket_lake, expire_leases};
use crate::support::{block_on, copy_tree, for_each_case};

/// An operation of a lake: what is done, and to which object.
pub(crate) type Operation = (&'static str, String);

/// What asks the API of `config`. One serves all runs of a thread, for to make it takes reading every
/// certificate that the machine trusts.
pub(crate) fn source(config: &SourceConfig) -> Arc<Api> {
    thread_local! {
        static SOURCES: RefCell<HashMap<String, Arc<Api>>> = RefCell::default();
    }
    let make = || Arc::new(Api::try_new(config, Some(SecretString::from("key"))).unwrap());
    SOURCES.with_borrow_mut(|sources| {
        let source = sources.entry(config.url.to_string()).or_insert_with(make);
        Arc::clone(source)
    })
}

/// A lake on disk.
pub(crate) fn local(root: &FilePath) -> Arc<dyn LakeStore> {
    let store = LocalStore::new(root, 0o600);
    store.prepare().unwrap();
    Arc::new(store)
}

/// Where a lake lies that can be copied.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A directory, which goes with the last who knows it.
    Disk(Arc<tempfile::TempDir>),
    /// A bucket in memory, whose files are uploaded in one request up to this size.
    Bucket(Arc<InMemory>, u64),
}

impl Place {
    /// Nothing yet, on disk.
    pub(crate) fn on_disk() -> Self {
        Self::Disk(Arc::new(tempfile::tempdir().unwrap()))
    }

    /// Nothing yet, in a bucket.
    pub(crate) fn in_bucket(single_put_bytes: u64) -> Self {
        Self::Bucket(Arc::new(InMemory::new()), single_put_bytes)
    }

    /// A copy of the lake in a directory.
    pub(crate) fn copy_of(directory: &FilePath) -> Self {
        let copy = Self::on_disk();
        copy_tree(directory, &copy.root());
        copy
    }

    /// A copy with a life of its own.
    pub(crate) fn copy(&self) -> Self {
        match self {
            Self::Disk(directory) => Self::copy_of(directory.path()),
            Self::Bucket(objects, single_put_bytes) => {
                Self::Bucket(Arc::new(objects.fork()), *single_put_bytes)
            }
        }
    }

    /// The directory of a lake on disk.
    pub(crate) fn root(&self) -> PathBuf {
        match self {
            Self::Disk(directory) => directory.path().to_owned(),
            Self::Bucket(..) => panic!("a bucket has no directory"),
        }
    }

    /// The lake as a process has it whose operations may fail.
    pub(crate) fn store(&self, faults: &Arc<Faults>) -> Arc<dyn LakeStore> {
        match self {
            Self::Disk(directory) => FaultStore::new(local(directory.path()), faults),
            Self::Bucket(objects, single_put_bytes) => {
                let bucket = Arc::new(FaultBucket::new(objects, faults));
                let lease = Duration::from_mins(1);
                Arc::new(bucket_lake(bucket, *single_put_bytes, lease))
            }
        }
    }

    /// The lake as a process has it of which nothing fails.
    pub(crate) fn sound(&self) -> Arc<dyn LakeStore> {
        self.store(&Faults::none())
    }

    /// Time passes: the leases of dead processes expire.
    pub(crate) async fn expire_leases(&self) {
        if let Self::Bucket(objects, _) = self {
            expire_leases(objects).await;
        }
    }

    /// What may befall an operation, leaving out what would leave the same lake behind as another
    /// fault does.
    fn faults_of(&self, operation: &Operation, is_first: bool) -> Vec<Fault> {
        let mut faults = vec![Fault::ErrorBefore];
        let is_bucket = matches!(self, Self::Bucket(..));
        if is_bucket {
            // A bucket may also refuse for good.
            faults.push(Fault::RefusedBefore);
        }
        // A bucket is as it was after the request before; on disk, locks are given back in between.
        if !is_bucket || is_first {
            faults.push(Fault::HangBefore);
        }
        if changes_something(operation) {
            faults.extend([Fault::ErrorAfter, Fault::HangAfter]);
        }
        faults
    }
}

/// Whether an operation, of a store or of a bucket, leaves the lake another than it was: one that
/// fails or hangs once it is done would otherwise be one that fails or hangs before.
pub(crate) fn changes_something((action, _): &Operation) -> bool {
    let reads = [
        "read", "state", "copy", "list", "leased", "find", "get", "head",
    ];
    !reads.contains(action)
}

/// Does `work`, which says whether it succeeded, on copies of the lake that has `begun`, each time with another fault at one of its
/// operations, if that is `concerned`: until it comes to its end, or for ever hangs and is ended as
/// a process is that is killed. Then `check`s what is there, as the next process finds it.
pub(crate) fn for_each_fault(
    begun: &Place,
    is_concerned: impl Fn(&Operation) -> bool,
    work: impl AsyncFn(Arc<dyn LakeStore>) -> bool + Sync,
    check: impl AsyncFn(Place, &str) + Sync,
) {
    let faults = Faults::none();
    assert!(
        block_on(work(begun.copy().store(&faults))),
        "nothing was in its way"
    );
    let operations = faults.operations();
    let mut cases = Vec::new();
    let mut follows_one = false;
    for (at, operation) in operations.iter().enumerate() {
        let concerned = is_concerned(operation);
        if concerned {
            let faults = begun.faults_of(operation, !follows_one);
            cases.extend(faults.into_iter().map(|fault| (at, fault)));
        }
        follows_one = concerned;
    }
    assert!(cases.len() > 40, "{operations:?}");
    for_each_case(cases, |(at, fault)| {
        let (at, fault) = (*at, fault.clone());
        let place = begun.copy();
        let hangs = matches!(fault, Fault::HangBefore | Fault::HangAfter);
        let context = format!("{fault:?} of {:?}", operations[at]);
        let faults = Faults::new(at, fault);
        block_on(async {
            tokio::select! {
                _ = work(place.store(&faults)) => {}
                () = faults.reached.cancelled() => {}
            }
        });
        // An upload that cannot be begun, or aborted, is somebody else's to find.
        if !hangs && !["begin", "abort"].contains(&operations[at].0) {
            assert_eq!(faults.uploads_under_way(), 0, "{context}");
        }
        block_on(async {
            place.expire_leases().await;
            check(place.clone(), &context).await;
        });
    });
}
