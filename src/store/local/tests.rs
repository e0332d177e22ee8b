use std::ffi::OsStr;

use super::copies::COPY;
use super::*;
use crate::store::layout::{self, LEASES, LEDGER, LOCKS};
use crate::store::lock::lies_at;

fn open() -> (tempfile::TempDir, LocalStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::new(&directory.path().join("lake"), 0o600);
    store.prepare().unwrap();
    (directory, store)
}

fn done(swap: Swap) -> Version {
    match swap {
        Swap::Done(version) => version,
        Swap::Refused => panic!("the write was refused"),
    }
}

#[tokio::test]
async fn only_the_first_creation_and_the_expected_version_are_written() {
    let (_directory, store) = open();
    let path = Path::from("_cdrlake/ledger/x.json");
    assert_eq!(store.read(&path).await.unwrap(), None);
    let first = done(store.create(&path, "1".into()).await.unwrap());
    assert_eq!(
        store.create(&path, "2".into()).await.unwrap(),
        Swap::Refused
    );
    let second = done(store.replace(&path, "3".into(), &first).await.unwrap());
    assert_eq!(
        store.replace(&path, "4".into(), &first).await.unwrap(),
        Swap::Refused
    );
    let found = store.read(&path).await.unwrap().unwrap();
    assert_eq!((&found.bytes[..], found.version), (b"3".as_slice(), second));
    store.delete(&path).await.unwrap();
    store.delete(&path).await.unwrap();
    assert_eq!(store.read(&path).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_of_several_writers_succeeds() {
    let (_directory, store) = open();
    let path = Path::from("x.json");
    let first = done(store.create(&path, "0".into()).await.unwrap());
    let attempts = (1..=16).map(|i| {
        let (store, path, first) = (store.clone(), path.clone(), first.clone());
        tokio::spawn(async move {
            store
                .replace(&path, i.to_string().into(), &first)
                .await
                .unwrap()
        })
    });
    let swaps = futures::future::join_all(attempts.collect::<Vec<_>>()).await;
    assert_eq!(
        swaps
            .into_iter()
            .filter(|swap| *swap.as_ref().unwrap() != Swap::Refused)
            .count(),
        1
    );
}

#[tokio::test]
async fn a_lease_has_one_holder_and_is_released_on_drop() {
    let (_directory, store) = open();
    let path = Path::from("_cdrlake/leases/x.lock");
    let lease = store.try_lease(&path).await.unwrap().unwrap();
    assert!(store.try_lease(&path).await.unwrap().is_none());
    drop(lease);
    let lease = store.try_lease(&path).await.unwrap();
    assert!(lease.is_some());
    drop(lease);
    assert_eq!(
        store.list(&Path::from("_cdrlake/leases")).await.unwrap(),
        []
    );
}

#[tokio::test]
async fn files_and_directories_are_private_to_their_owner() {
    let (directory, store) = open();
    store
        .create(&Path::from("a/b.json"), "x".into())
        .await
        .unwrap();
    let mode = |path: &str| {
        fs::metadata(directory.path().join("lake").join(path))
            .unwrap()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode("a/b.json"), mode("a"), mode("_cdrlake")),
        (0o600, 0o700, 0o700)
    );
}

#[tokio::test]
async fn a_published_file_replaces_the_old_one_and_leaves_no_staging() {
    let (_directory, store) = open();
    let path = Path::from("cdrs/dt=2026-10-01/placed-2026-10-01.parquet");
    let lease = Path::from("_cdrlake/leases/x.lock");
    let lease = store.try_lease(&lease).await.unwrap().unwrap();
    for content in ["old", "newer"] {
        let staged = store.spool_dir().join("x.parquet");
        fs::write(&staged, content).unwrap();
        let staged = TempPath::try_from_path(staged).unwrap();
        let staged = store.stage(&path, staged).await.unwrap();
        let state = staged.publish(&*lease, None).await.unwrap().unwrap();
        assert_eq!(state.size_bytes, content.len() as u64);
        assert_eq!(store.list(&Path::from("cdrs")).await.unwrap(), [state]);
    }
    assert_eq!(store.list(&Path::from(STAGING)).await.unwrap(), []);
}

/// Writes to standard error directly, because the test harness captures output.
fn skipped(what: &str) {
    drop(writeln!(io::stderr(), "skipped: {what}"));
}

/// Runs a test again in a process that may mount and has already mounted `mount`, with a variable
/// set to mark it. Returns false if this machine does not allow that.
pub(crate) fn where_it_may_mount<const N: usize>(
    test: &str,
    (variable, value): (&str, &FilePath),
    mount: [&OsStr; N],
) -> bool {
    let script =
        r#"this=$1; test=$2; shift 2; mount "$@" || exit 77; exec "$this" --exact "$test""#;
    let child = std::process::Command::new("unshare")
        .args(["-rm", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .args(mount)
        .env(variable, value)
        .output();
    match child {
        Ok(child) if child.status.success() => {
            let said = String::from_utf8_lossy(&child.stdout);
            assert!(said.contains("1 passed"), "{said}");
            true
        }
        Ok(child) if child.status.code() == Some(101) => {
            panic!("{}", String::from_utf8_lossy(&child.stdout))
        }
        _ => {
            skipped("nothing can be mounted here");
            false
        }
    }
}

/// A directory on another file system, if this machine has one.
fn on_another_file_system(directory: &FilePath) -> Option<tempfile::TempDir> {
    let device_of = |path: &FilePath| fs::metadata(path).unwrap().dev();
    let other = tempfile::tempdir_in("/dev/shm").ok();
    let other = other.filter(|other| device_of(other.path()) != device_of(directory));
    if other.is_none() {
        skipped("/dev/shm is no other file system");
    }
    other
}

async fn publish(store: &LocalStore, path: &Path, content: &str) {
    let lease = layout::lease(layout::leased_slice(path).unwrap());
    let lease = store.try_lease(&lease).await.unwrap().unwrap();
    let staged = store.spool_dir().join("x.parquet");
    fs::write(&staged, content).unwrap();
    let staged = TempPath::try_from_path(staged).unwrap();
    let staged = store.stage(path, staged).await.unwrap();
    staged.publish(&*lease, None).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_partition_on_another_file_system_is_written_whole_and_leaves_nothing() {
    let (directory, store) = open();
    let Some(other) = on_another_file_system(directory.path()) else {
        return;
    };
    let partition = other.path().join("october");
    fs::create_dir(&partition).unwrap();
    let table = directory.path().join("lake/cdrs");
    fs::create_dir(&table).unwrap();
    std::os::unix::fs::symlink(&partition, table.join("dt=2026-10-01")).unwrap();
    let path = Path::from("cdrs/dt=2026-10-01/placed-2026-10-01.parquet");
    for content in ["old", "newer"] {
        publish(&store, &path, content).await;
        let file = partition.join("placed-2026-10-01.parquet");
        assert_eq!(fs::read_to_string(&file).unwrap(), content);
        assert_eq!(fs::metadata(file).unwrap().mode() & 0o777, 0o600);
    }
    let names = |path: &FilePath| names_in(path).unwrap();
    assert_eq!(names(&partition), ["placed-2026-10-01.parquet"]);
    assert_eq!(names(other.path()), ["october"]);
    assert_eq!(store.list(&Path::from(STAGING)).await.unwrap(), []);

    // Copies of crashed processes are not listed, and are found and removed once their lease is
    // free.
    let beside = other
        .path()
        .join(format!(".october.placed-2026-10-01{COPY}"));
    let within = partition.join(format!(".received-2026-10-01.parquet{COPY}"));
    fs::write(&beside, "calls").unwrap();
    fs::write(&within, "calls").unwrap();
    assert_eq!(store.list(&Path::from(TABLE)).await.unwrap().len(), 1);
    let lease = Path::from("_cdrlake/leases/placed-2026-10-01.lock");
    let alive = store.try_lease(&lease).await.unwrap().unwrap();
    assert_eq!(store.find_leftovers().await.unwrap().len(), 1);
    assert_eq!(store.remove_leftovers().await.unwrap().len(), 1);
    assert!(beside.exists() && !within.exists());
    drop(alive);
    assert_eq!(store.remove_leftovers().await.unwrap().len(), 1);
    assert!(!beside.exists());
}

#[tokio::test]
async fn a_table_on_another_file_system_has_no_copy_in_it_while_it_is_written() {
    let (directory, store) = open();
    let Some(other) = on_another_file_system(directory.path()) else {
        return;
    };
    let table = other.path().join("table");
    fs::create_dir(&table).unwrap();
    std::os::unix::fs::symlink(&table, directory.path().join("lake/cdrs")).unwrap();
    let path = Path::from("cdrs/dt=2026-10-01/placed-2026-10-01.parquet");
    publish(&store, &path, "rows").await;
    let target = store.file_path(&path);
    assert_eq!(fs::read_to_string(&target).unwrap(), "rows");
    let beside = store.copy_directory(target.parent().unwrap()).unwrap();
    let copy = beside.copy_of(layout::leased_slice(&path).unwrap());
    assert_eq!(copy.parent(), Some(other.path()));
    fs::write(&copy, "rows").unwrap();
    assert_eq!(store.remove_leftovers().await.unwrap().len(), 1);
    assert_eq!(names_in(other.path()).unwrap(), ["table"]);
}

#[tokio::test]
async fn the_ledger_may_lie_on_another_file_system_too() {
    let (directory, store) = open();
    let Some(other) = on_another_file_system(directory.path()) else {
        return;
    };
    let ledger = directory.path().join("lake").join(LEDGER);
    std::os::unix::fs::symlink(other.path(), ledger).unwrap();
    let path = Path::from("_cdrlake/ledger/placed/2026-10-01.json");
    let first = done(store.create(&path, "1".into()).await.unwrap());
    done(store.replace(&path, "2".into(), &first).await.unwrap());
    let left = other.path().join(format!("placed/.2026-10-02.json{COPY}"));
    fs::write(&left, "{}").unwrap();
    // A process that another test begins has our locks until it is its own program.
    let mut removed = Vec::new();
    for _ in 0..10_000 {
        removed = store.remove_leftovers().await.unwrap();
        if !removed.is_empty() {
            break;
        }
        std::thread::yield_now();
    }
    assert_eq!(removed.len(), 1);
    assert!(!left.exists());
    let listed = store.list(&Path::from("_cdrlake/ledger/placed")).await;
    assert_eq!(listed.unwrap().len(), 1);
}

#[tokio::test]
async fn locks_get_the_file_mode_and_directories_keep_their_group() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("lake");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, Permissions::from_mode(0o2770)).unwrap();
    // No umask that tests run with leaves this group and these others all bits.
    let store = LocalStore::new(&root, 0o666);
    store.prepare().unwrap();
    store
        .create(&Path::from("a/b.json"), "x".into())
        .await
        .unwrap();
    let lease = Path::from("_cdrlake/leases/x.lock");
    let _lease = store.try_lease(&lease).await.unwrap().unwrap();
    let mode = |path: &str| fs::metadata(root.join(path)).unwrap().mode() & 0o7777;
    assert_eq!(mode("_cdrlake/leases/x.lock"), 0o666);
    assert_eq!(mode("_cdrlake/locks/a.lock"), 0o666);
    assert_eq!(mode("a/b.json"), 0o666);
    for made in ["a", "_cdrlake", STAGING, LEASES, LOCKS] {
        assert_eq!(mode(made), 0o2777, "{made}");
    }
}

#[tokio::test]
async fn plain_files_in_place_of_partitions_are_listed_and_do_no_harm() {
    let (directory, store) = open();
    let Some(other) = on_another_file_system(directory.path()) else {
        return;
    };
    fs::write(other.path().join("f.txt"), "note").unwrap();
    fs::write(other.path().join("_SUCCESS"), "").unwrap();
    fs::write(other.path().join("dt=note"), "").unwrap();
    let table = directory.path().join("lake").join(TABLE);
    for linked in [
        &table,
        &table.join("dt=2026-10-01"),
        &table.join("notes.txt"),
    ] {
        let is_note = linked.ends_with("notes.txt");
        if *linked != table {
            fs::create_dir_all(&table).unwrap();
        }
        let to = if is_note {
            other.path().join("f.txt")
        } else {
            other.path().to_owned()
        };
        std::os::unix::fs::symlink(to, linked).unwrap();
        assert_eq!(store.find_leftovers().await.unwrap(), [], "{linked:?}");
        assert_eq!(store.remove_leftovers().await.unwrap(), []);
        if *linked == table {
            fs::remove_file(&table).unwrap();
        }
    }
}

#[tokio::test]
async fn a_copy_lies_in_a_partition_only_if_it_cannot_lie_beside_it() {
    let (directory, store) = open();
    let Some(other) = on_another_file_system(directory.path()) else {
        return;
    };
    let partition = other.path().join("october");
    fs::create_dir(&partition).unwrap();
    let path = Path::from("cdrs/dt=2026-10-01/placed-2026-10-01.parquet");
    let target = store.file_path(&path);
    let table = directory.path().join("lake").join(TABLE);
    fs::create_dir(&table).unwrap();
    std::os::unix::fs::symlink(&partition, target.parent().unwrap()).unwrap();
    let beside = store.copy_directory(target.parent().unwrap()).unwrap();
    // Something goes wrong there that would go wrong inside, too.
    let copy = beside.copy_of(layout::leased_slice(&path).unwrap());
    fs::create_dir(&copy).unwrap();
    let file = store.spool_dir().join("x.parquet");
    fs::write(&file, "rows").unwrap();
    let file = TempPath::try_from_path(file).unwrap();
    let refused = store.copy(&file, &path).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::IsADirectory);
    assert_eq!(names_in(&partition).unwrap(), [] as [&str; 0]);
}

/// The child of the test below has its lake at this path, with a mount as partition.
const MOUNTED: &str = "TEST_MOUNTED";

#[test]
fn a_partition_that_is_another_mount_of_the_same_file_system_is_written_and_swept() {
    let path = Path::from("cdrs/dt=2026-10-01/placed-2026-10-01.parquet");
    if let Some(root) = std::env::var_os(MOUNTED) {
        let store = LocalStore::new(FilePath::new(&root), 0o600);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(async {
            store.prepare().unwrap();
            let target = store.file_path(&path);
            let partition = target.parent().unwrap();
            publish(&store, &path, "rows").await;
            assert_eq!(fs::read_to_string(&target).unwrap(), "rows");
            assert_eq!(names_in(partition).unwrap(), ["placed-2026-10-01.parquet"]);
            // Copies of crashed processes, outside and inside of the partition.
            let name = "placed-2026-10-01.parquet";
            let slice = layout::leased_slice(&path).unwrap();
            let beside = store.copy_directory(partition).unwrap().copy_of(slice);
            let within = partition.join(format!(".{name}{COPY}"));
            for copy in [&beside, &within] {
                fs::write(copy, "calls").unwrap();
            }
            assert_eq!(store.find_leftovers().await.unwrap().len(), 2);
            assert_eq!(store.remove_leftovers().await.unwrap().len(), 2);
            assert!(!beside.exists() && !within.exists());
        });
    }
    let (directory, store) = open();
    let target = store.file_path(&path);
    let partition = target.parent().unwrap();
    let elsewhere = directory.path().join("elsewhere");
    fs::create_dir_all(partition).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let has_run = where_it_may_mount(
        "store::local::tests::\
        a_partition_that_is_another_mount_of_the_same_file_system_is_written_and_swept",
        (MOUNTED, &directory.path().join("lake")),
        [OsStr::new("--bind"), elsewhere.as_ref(), partition.as_ref()],
    );
    // It was the mount that was written to.
    let written = elsewhere.join("placed-2026-10-01.parquet");
    assert_eq!(written.is_file(), has_run);
}

#[test]
fn a_lock_that_is_a_link_is_refused() {
    let (directory, store) = open();
    let locks = directory.path().join("lake").join(LOCKS);
    fs::create_dir_all(&locks).unwrap();
    let outside = directory.path().join("outside");
    std::os::unix::fs::symlink(&outside, locks.join("x.lock")).unwrap();
    for is_there in [false, true] {
        let refused = store.lock_directory("x", true).unwrap_err();
        assert!(refused.path.ends_with("x.lock"), "{refused}");
        assert_eq!(outside.exists(), is_there);
        fs::write(&outside, "").unwrap();
    }
}

#[test]
fn leftovers_of_crashed_processes_get_the_mode_and_files_of_others_keep_theirs() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("lake");
    let set = |path: &FilePath, mode: u32| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    let mode = |path: &FilePath| fs::metadata(path).unwrap().mode() & 0o777;
    let locks = root.join(LOCKS);
    fs::create_dir_all(&locks).unwrap();
    fs::write(locks.join("a.lock"), "").unwrap();
    set(&locks.join("a.lock"), 0o600);
    set(&locks, 0o700);
    set(&root, 0o750);
    let store = LocalStore::new(&root, 0o660);
    drop(store.lock_directory("a", true).unwrap());
    assert_eq!(mode(&locks), 0o770);
    assert_eq!(mode(&locks.join("a.lock")), 0o660);
    assert_eq!(mode(&root), 0o750);
    // Not even root may set the mode of this file.
    let another_s = FilePath::new("/proc/self");
    let refused = fs::set_permissions(another_s, Permissions::from_mode(0o777));
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    grant(another_s, 0o777).unwrap();
}

/// Whether a process waits for a lock on the file.
fn is_waited_for(file: &File) -> bool {
    let inode = format!(":{} ", file.metadata().unwrap().ino());
    let locks = fs::read_to_string("/proc/locks").unwrap();
    locks
        .lines()
        .any(|line| line.contains("->") && line.contains(&inode))
}

#[test]
fn a_lock_on_a_removed_file_does_not_count() {
    let (directory, store) = open();
    let path = directory.path().join("lake").join(LOCKS).join("a.lock");
    let first = store.lock_directory("a", true).unwrap().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.lock_directory("a", true).unwrap().unwrap());
        while !is_waited_for(&first) {
            std::thread::yield_now();
        }
        fs::remove_file(&path).unwrap();
        let second = store.lock_directory("a", true).unwrap().unwrap();
        drop(first);
        while !is_waited_for(&second) {
            assert!(!waiting.is_finished(), "two hold the lock");
            std::thread::yield_now();
        }
        drop(second);
        assert!(lies_at(&waiting.join().unwrap(), &path));
    });
}

#[test]
fn every_spelling_of_a_directory_has_the_same_uri() {
    let (directory, store) = open();
    let parent = directory.path().canonicalize().unwrap();
    let uri = format!("file://{}/lake", parent.display());
    assert_eq!(store.uri(), uri);
    std::os::unix::fs::symlink("lake", parent.join("link")).unwrap();
    for spelling in ["lake/", "./lake", "lake/../lake", "link", "link/../lake//"] {
        let store = LocalStore::new(&parent.join(spelling), 0o600);
        assert_eq!(store.uri(), uri, "{spelling}");
    }
    let missing = LocalStore::new(&parent.join("missing"), 0o600);
    assert_eq!(
        missing.uri(),
        format!("file://{}/missing", parent.display())
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_looked_at_is_an_error_and_not_absent() {
    let (directory, store) = open();
    let path = Path::from("cdrs/dt=2026-10-01/placed-2026-10-01.parquet");
    assert!(store.local_copy(&path).await.unwrap().is_none());
    let file = directory.path().join("lake").join(path.as_ref());
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    // A link to itself stands for a file system that fails for a moment.
    std::os::unix::fs::symlink(&file, &file).unwrap();
    let failed = store.local_copy(&path).await.unwrap_err().to_string();
    assert!(failed.starts_with("cannot read "), "{failed}");
}
