use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cdrlake::internals::{LakeStore, LeaseState, LocalStore, Swap, Version, probe};
use object_store::memory::InMemory;
use object_store::path::Path;
use tempfile::TempPath;

use crate::s3::Bucket;
use crate::stores::bucket_lake;
use crate::support::{block_on, skipped};

/// A store as several processes have it.
pub(crate) type Open<'a> = &'a dyn Fn() -> Arc<dyn LakeStore>;

/// Everything that a lake relies on.
pub(crate) async fn conform(open: Open<'_>, is_bucket: bool) {
    only_the_first_creation_and_the_expected_version_are_written(open).await;
    exactly_one_of_several_writers_succeeds(open).await;
    assert!(open().honours_conditions().await.unwrap());
    assert!(
        probe(&*open(), &Path::from("_cdrlake/leases/x.probe"))
            .await
            .unwrap()
    );
    files_are_published_whole_and_only_over_what_was_seen(open, is_bucket).await;
    what_is_dropped_leaves_nothing(open).await;
    leases_are_held_by_one(open).await;
    listings_show_what_lies_below(open).await;
}

fn done(swap: Swap) -> Version {
    match swap {
        Swap::Done(version) => version,
        Swap::Refused => panic!("the write was refused"),
    }
}

async fn only_the_first_creation_and_the_expected_version_are_written(open: Open<'_>) {
    let (store, other) = (open(), open());
    let path = Path::from("_cdrlake/ledger/placed/2026-10-01.json");
    assert_eq!(store.read(&path).await.unwrap(), None);
    let first = done(store.create(&path, "1".into()).await.unwrap());
    assert_eq!(
        other.create(&path, "2".into()).await.unwrap(),
        Swap::Refused
    );
    let second = done(other.replace(&path, "3".into(), &first).await.unwrap());
    assert_eq!(
        store.replace(&path, "4".into(), &first).await.unwrap(),
        Swap::Refused
    );
    let found = store.read(&path).await.unwrap().unwrap();
    assert_eq!(&found.bytes[..], b"3");
    // What was read is as good a condition as what was written.
    done(
        store
            .replace(&path, "5".into(), &found.version)
            .await
            .unwrap(),
    );
    assert_eq!(
        other.replace(&path, "6".into(), &second).await.unwrap(),
        Swap::Refused
    );
    store.delete(&path).await.unwrap();
    store.delete(&path).await.unwrap();
    assert_eq!(store.read(&path).await.unwrap(), None);
    assert_eq!(
        store.replace(&path, "7".into(), &second).await.unwrap(),
        Swap::Refused
    );
}

async fn exactly_one_of_several_writers_succeeds(open: Open<'_>) {
    const WRITERS: usize = 12;
    let path = Path::from("_cdrlake/ledger/placed/2026-10-02.json");
    let count = |swaps: Vec<Swap>| swaps.iter().filter(|swap| **swap != Swap::Refused).count();
    let creations = (0..WRITERS).map(|writer| {
        let (store, path) = (open(), path.clone());
        async move {
            store
                .create(&path, writer.to_string().into())
                .await
                .unwrap()
        }
    });
    assert_eq!(count(futures::future::join_all(creations).await), 1);
    let version = open().read(&path).await.unwrap().unwrap().version;
    let replacements = (0..WRITERS).map(|writer| {
        let (store, path, version) = (open(), path.clone(), version.clone());
        let bytes = format!("replaced by {writer}");
        async move { store.replace(&path, bytes.into(), &version).await.unwrap() }
    });
    assert_eq!(count(futures::future::join_all(replacements).await), 1);
    open().delete(&path).await.unwrap();
}

/// A file of the spool.
fn spooled(store: &dyn LakeStore, name: &str, bytes: &[u8]) -> TempPath {
    let file = store.spool_dir().join(name);
    std::fs::write(&file, bytes).unwrap();
    TempPath::try_from_path(file).unwrap()
}

async fn files_are_published_whole_and_only_over_what_was_seen(open: Open<'_>, is_bucket: bool) {
    let (store, other) = (open(), open());
    let path = Path::from("cdrs/dt=2026-10-01/placed-2026-10-01.parquet");
    let lease = Path::from("_cdrlake/leases/placed-2026-10-01.lock");
    let lease = store.try_lease(&lease).await.unwrap().unwrap();
    // In one request, and in two parts.
    for size in [1_000, 6 << 20] {
        let bytes = vec![u8::try_from(size % 251).unwrap(); size];
        let seen = store.state(&path).await.unwrap();
        let seen = seen.and_then(|seen| seen.version);
        let staged = store
            .stage(&path, spooled(&*store, "x.parquet", &bytes))
            .await
            .unwrap();
        let late = other
            .stage(&path, spooled(&*other, "y.parquet", b"late"))
            .await
            .unwrap();
        let is_there = store
            .state(&path)
            .await
            .unwrap()
            .map(|there| there.size_bytes);
        assert_ne!(
            is_there,
            Some(size as u64),
            "nothing is seen before it is published"
        );
        let state = staged
            .publish(&*lease, seen.as_ref())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(state.size_bytes, size as u64);
        // A listing, a look and the publication itself say the same of it.
        let listed = store.list(&Path::from("cdrs")).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(
            (&listed[0].path, listed[0].size_bytes, &listed[0].etag),
            (&path, state.size_bytes, &state.etag)
        );
        let looked_at = store.state(&path).await.unwrap().unwrap();
        assert_eq!(
            (looked_at.size_bytes, &looked_at.etag),
            (state.size_bytes, &state.etag)
        );
        assert_eq!(state.etag.is_some(), is_bucket);
        if is_bucket {
            // A writer with an older version is refused.
            assert_eq!(late.publish(&*lease, seen.as_ref()).await.unwrap(), None);
        } else {
            drop(late);
        }
        let copy = other.local_copy(&path).await.unwrap().unwrap();
        assert!(std::fs::read(&copy.path).unwrap() == bytes);
    }
    // It was removed meanwhile.
    let seen = store.state(&path).await.unwrap().unwrap().version;
    let staged = store
        .stage(&path, spooled(&*store, "x.parquet", b"x"))
        .await
        .unwrap();
    store.delete(&path).await.unwrap();
    if is_bucket {
        assert_eq!(staged.publish(&*lease, seen.as_ref()).await.unwrap(), None);
    }
    assert_eq!(store.state(&path).await.unwrap(), None);
    assert!(store.local_copy(&path).await.unwrap().is_none());
    drop(lease);
    store.settle().await;
}

async fn what_is_dropped_leaves_nothing(open: Open<'_>) {
    let store = open();
    let path = Path::from("cdrs/dt=2026-10-02/placed-2026-10-02.parquet");
    for size in [1_000, 6 << 20] {
        let file = spooled(&*store, "x.parquet", &vec![1; size]);
        drop(store.stage(&path, file).await.unwrap());
    }
    store.settle().await;
    assert_eq!(store.list(&Path::from("cdrs")).await.unwrap(), []);
}

async fn leases_are_held_by_one(open: Open<'_>) {
    let (store, other) = (open(), open());
    let path = Path::from("_cdrlake/leases/received-2026-10-01.lock");
    assert_eq!(other.lease_state(&path).await.unwrap(), LeaseState::Free);
    let lease = store.try_lease(&path).await.unwrap().unwrap();
    assert!(lease.is_held());
    assert!(store.try_lease(&path).await.unwrap().is_none());
    assert!(other.try_lease(&path).await.unwrap().is_none());
    assert_ne!(other.lease_state(&path).await.unwrap(), LeaseState::Free);
    drop(lease);
    store.settle().await;
    assert_eq!(other.lease_state(&path).await.unwrap(), LeaseState::Free);
    let lease = other.try_lease(&path).await.unwrap().unwrap();
    assert!(store.try_lease(&path).await.unwrap().is_none());
    drop(lease);
    other.settle().await;
    assert_eq!(
        store.list(&Path::from("_cdrlake/leases")).await.unwrap(),
        []
    );
}

async fn listings_show_what_lies_below(open: Open<'_>) {
    let store = open();
    let names = [
        "cdrs/dt=2026-10-01/a b.parquet",
        "cdrs/dt=2026-10-01/ä.parquet",
        "cdrs/x",
        "cdrs2/x",
    ];
    for name in names {
        store
            .create(&Path::parse(name).unwrap(), "x".into())
            .await
            .unwrap();
    }
    let listed = store.list(&Path::from("cdrs")).await.unwrap();
    let listed: BTreeSet<String> = listed
        .iter()
        .map(|object| object.path.to_string())
        .collect();
    assert_eq!(
        listed,
        names[..3].iter().map(|name| (*name).to_owned()).collect()
    );
    let below = store.list(&Path::from("cdrs/dt=2026-10-01")).await.unwrap();
    assert_eq!(below.len(), 2);
    for name in names {
        store.delete(&Path::parse(name).unwrap()).await.unwrap();
    }
    assert_eq!(store.list(&Path::from("cdrs")).await.unwrap(), []);
}

/// Larger files are uploaded in parts, as small as S3 takes them.
pub(crate) const SINGLE_PUT_BYTES: u64 = 5 << 20;

#[test]
fn local_disk_conforms() {
    let directory = tempfile::tempdir().unwrap();
    block_on(conform(
        &|| {
            let store = LocalStore::new(directory.path(), 0o600);
            store.prepare().unwrap();
            Arc::new(store)
        },
        false,
    ));
}

#[test]
fn a_bucket_in_memory_conforms() {
    let objects = Arc::new(InMemory::new());
    block_on(conform(
        &|| {
            let objects = Arc::clone(&objects) as _;
            Arc::new(bucket_lake(
                objects,
                SINGLE_PUT_BYTES,
                Duration::from_secs(5),
            ))
        },
        true,
    ));
}

#[test]
fn an_s3_server_conforms() {
    let Some(bucket) = Bucket::create() else {
        return;
    };
    block_on(conform(&|| bucket.store(SINGLE_PUT_BYTES), true));
    assert_eq!(bucket.uploads(), 0, "what was dropped was aborted");
    assert_eq!(bucket.keys(""), [] as [&str; 0]);
}

/// The program `s3s-fs`, an S3 server that checks signatures.
const S3S: &str = "TEST_S3S_FS";

struct SigningServer {
    child: Child,
    port: u16,
    root: tempfile::TempDir,
}

impl SigningServer {
    fn start() -> Option<Self> {
        let Ok(program) = std::env::var(S3S) else {
            skipped(S3S, "the program s3s-fs");
            return None;
        };
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("calls")).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut child = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .args([
                "--access-key",
                "AKIDTEST",
                "--secret-key",
                crate::s3::SECRET,
            ])
            .arg(root.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert_eq!(child.try_wait().unwrap(), None, "it ended");
            std::thread::yield_now();
        }
        Some(Self { child, port, root })
    }
}

impl Drop for SigningServer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_server_that_checks_signatures_accepts_ours_and_no_others() {
    use crate::support::{DAY, Workplace, calls};

    let Some(signing) = SigningServer::start() else {
        return;
    };
    let server = crate::server::Server::start();
    server
        .serve("placed", DAY, calls(0, 3), 3)
        .serve("received", DAY, "", 0);
    for single_put_bytes in ["16MiB", "1"] {
        let workplace = Workplace::new(&server);
        workplace.reconfigure(
            "[lake]\nurl = \"lake\"\n",
            &format!(
                "[lake]\nurl = \"s3://calls/parts-{single_put_bytes}\"\n[limits]\nsingle_put_bytes \
                 = \"{single_put_bytes}\"\n[lake.options]\nendpoint = \
                      \"http://127.0.0.1:{}\"\nregion = \"us-east-1\"\n",
                signing.port
            ),
        );
        let ran = workplace.run_day(&[]);
        assert_eq!(ran.status, 0, "{ran:?}");
        let verified = workplace.run(&["verify"]);
        assert_eq!(verified.status, 0, "{verified:?}");
        let file = format!("calls/parts-{single_put_bytes}/cdrs/dt={DAY}/placed-{DAY}.parquet");
        assert!(signing.root.path().join(file).exists());

        let wrong = "a-wrong-secret-77e1";
        let mut command = workplace.command(&["run", "--last", "1"]);
        let output = command
            .env("AWS_SECRET_ACCESS_KEY", wrong)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(
            stderr.contains("SignatureDoesNotMatch")
                && stderr.contains("Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
            "{stderr}"
        );
        assert!(!stderr.contains(wrong), "{stderr}");
    }
}
