use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cdrlake::internals::{LakeStore, LocalStore, SourceConfig, layout};
use cdrlake::{Api, PeriodUnit};
use object_store::memory::InMemory;
use secrecy::SecretString;

use crate::stores::{
    Fault, FaultBucket, FaultStore, Faults, LedgerHistory, bucket_lake, expire_leases,
};
use crate::support::{block_on, copy_tree, for_each_case_of, for_each_share, is_whole};
use crate::table_logs::{TABLES, current_files, snapshots};

/// A kind of lake with which sweeps are done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// One of [`TABLES`].
    pub(crate) tables: &'static str,
    pub(crate) slice: PeriodUnit,
}

/// Every kind of lake.
pub(crate) const KINDS: [Kind; 4] = [
    Kind::of_days(TABLES[0]),
    Kind::of_days(TABLES[1]),
    Kind::of_months(TABLES[0]),
    Kind::of_months(TABLES[1]),
];

/// Of lakes of months, a whole sweep tries one case in so many, drawn anew each time: their slices
/// take the same way into the lake.
const MONTHS_SHARE: usize = 8;

impl Kind {
    /// Lakes of days with these [`TABLES`].
    pub(crate) const fn of_days(tables: &'static str) -> Self {
        let slice = PeriodUnit::Day;
        Self { tables, slice }
    }

    /// Lakes of months with these [`TABLES`].
    pub(crate) const fn of_months(tables: &'static str) -> Self {
        let slice = PeriodUnit::Month;
        Self { tables, slice }
    }

    /// Calls `each` for the cases of the sweep of this kind.
    pub(crate) fn for_each_case<T: Sync>(self, cases: Vec<T>, each: impl Fn(&T) + Sync) {
        match self.slice {
            PeriodUnit::Month if is_whole() => for_each_share(MONTHS_SHARE, cases, each),
            _ => for_each_case_of(KINDS.len(), cases, each),
        }
    }
}

/// An operation of a lake: its action and its object.
pub(crate) type Operation = (&'static str, String);

/// A source for `config`. All runs of a thread share one, because creating it reads every trusted
/// certificate.
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

/// A lake that can be copied.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    location: Location,
    pub(crate) history: Arc<LedgerHistory>,
}

#[derive(Clone, Debug)]
enum Location {
    /// A directory, deleted with its last reference, and the URI of the lake. A copy keeps the URI,
    /// because logs of Apache Iceberg contain it.
    Disk(Arc<tempfile::TempDir>, String),
    /// A bucket in memory. Files up to this size are uploaded in one request.
    Bucket(Arc<InMemory>, u64),
}

impl Place {
    /// An empty location on disk.
    pub(crate) fn on_disk() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let uri = local(directory.path()).uri();
        Self {
            location: Location::Disk(Arc::new(directory), uri),
            history: Arc::default(),
        }
    }

    /// An empty location in a bucket.
    pub(crate) fn in_bucket(single_put_bytes: u64) -> Self {
        Self {
            location: Location::Bucket(Arc::new(InMemory::new()), single_put_bytes),
            history: Arc::default(),
        }
    }

    /// A copy of the lake in a directory. Its history begins with its ledger and the snapshots of
    /// its logs.
    pub(crate) fn copy_of(directory: &FilePath) -> Self {
        let copy = Self::copy_with_uri(directory, local(directory).uri());
        let store = copy.sound();
        block_on(async {
            for snapshot in snapshots(&*store).await.into_iter().flatten() {
                let paths = snapshot.paths().into_iter();
                copy.history
                    .add(paths.map(|path| (path.clone(), path)).collect());
            }
            let current = current_files(&*store).await.into_iter();
            let entry = |(slice, file)| {
                let entry = layout::ledger_entry(slice);
                let entry = entry.as_ref().strip_prefix(layout::LEDGER).unwrap();
                (entry.trim_start_matches('/').to_owned(), file)
            };
            let current: BTreeMap<String, String> = current.map(entry).collect();
            copy.history.add(current);
        });
        copy
    }

    fn copy_with_uri(directory: &FilePath, uri: String) -> Self {
        let mut copy = Self::on_disk();
        copy_tree(directory, &copy.root());
        if let Location::Disk(_, own) = &mut copy.location {
            *own = uri;
        }
        copy
    }

    /// An independent copy.
    pub(crate) fn copy(&self) -> Self {
        let location = match &self.location {
            Location::Disk(directory, uri) => {
                Self::copy_with_uri(directory.path(), uri.clone()).location
            }
            Location::Bucket(objects, single_put_bytes) => {
                Location::Bucket(Arc::new(objects.fork()), *single_put_bytes)
            }
        };
        let history = self.history.fork();
        Self { location, history }
    }

    /// The directory of a lake on disk.
    pub(crate) fn root(&self) -> PathBuf {
        match &self.location {
            Location::Disk(directory, _) => directory.path().to_owned(),
            Location::Bucket(..) => panic!("a bucket has no directory"),
        }
    }

    /// The store of a process with injected faults.
    pub(crate) fn store(&self, faults: &Arc<Faults>) -> Arc<dyn LakeStore> {
        match &self.location {
            Location::Disk(directory, uri) => {
                let store = local(directory.path());
                FaultStore::of_lake(store, faults, uri.clone(), &self.history)
            }
            Location::Bucket(objects, single_put_bytes) => {
                let bucket = FaultBucket::new(objects, faults).recording(&self.history);
                let lease = Duration::from_mins(1);
                Arc::new(bucket_lake(Arc::new(bucket), *single_put_bytes, lease))
            }
        }
    }

    /// The store of a process without faults.
    pub(crate) fn sound(&self) -> Arc<dyn LakeStore> {
        self.store(&Faults::none())
    }

    /// Lets the leases of crashed processes expire.
    pub(crate) async fn expire_leases(&self) {
        if let Location::Bucket(objects, _) = &self.location {
            expire_leases(objects).await;
        }
    }

    /// The faults to inject into an operation, except those that leave the same lake as another
    /// fault.
    fn faults_of(&self, operation: &Operation, is_first: bool) -> Vec<Fault> {
        let mut faults = vec![Fault::ErrorBefore];
        let is_bucket = matches!(self.location, Location::Bucket(..));
        if is_bucket {
            // A bucket may also refuse permanently.
            faults.push(Fault::RefusedBefore);
        }
        // The bucket equals that after the previous request; on disk, locks are released in
        // between.
        if !is_bucket || is_first {
            faults.push(Fault::HangBefore);
        }
        if changes_something(operation) {
            faults.extend([Fault::ErrorAfter, Fault::HangAfter]);
        }
        faults
    }
}

/// Whether an operation of a store or bucket changes the lake. Otherwise a fault after it equals a
/// fault before it.
pub(crate) fn changes_something((action, _): &Operation) -> bool {
    let reads = [
        "read", "state", "copy", "list", "leased", "find", "get", "head",
    ];
    !reads.contains(action)
}

/// For every fault of every operation that is `concerned`: does `work` on a copy of the lake
/// `begun`, until it ends or hangs (then it is dropped, like a killed process), and `check`s the
/// lake as the next process finds it. `work` returns whether it succeeded. Done for each of
/// [`KINDS`].
pub(crate) fn for_each_fault(
    kind: Kind,
    begun: &Place,
    is_concerned: impl Fn(&Operation) -> bool,
    work: impl AsyncFn(Arc<dyn LakeStore>) -> bool + Sync,
    check: impl AsyncFn(Place, &str) + Sync,
) {
    let faults = Faults::none();
    assert!(
        block_on(work(begun.copy().store(&faults))),
        "the work fails without a fault"
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
    kind.for_each_case(cases, |(at, fault)| {
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
        // `gc` finds uploads that could not be begun or aborted.
        if !hangs && !["begin", "abort"].contains(&operations[at].0) {
            assert_eq!(faults.uploads_under_way(), 0, "{context}");
        }
        block_on(async {
            place.expire_leases().await;
            check(place.clone(), &context).await;
        });
    });
}
