//! The lake's protocol, one step at a time, in a bucket in memory. `tests/it/protocol.rs` lets
//! every one of its requests fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use tempfile::TempPath;
use tokio_util::sync::CancellationToken;

use super::identity::{FORMAT, Filter, last_format};
use super::ledger::tests::commit;
use super::ledger::{Commit, Entry, Failure, State};
use super::runs::RunMark;
use super::*;
use crate::cdr::slice::{Direction, parse_day};
use crate::privacy::{Modes, PrivacyKey};
use crate::retry::{Fate, RetryReason};
use crate::slice_file::statistics::FileStatistics;
use crate::slice_file::writer::SpoolFile;
use crate::store::bucket::BucketStore;
use crate::store::local::LocalStore;
use crate::store::{ClassifiedError, ObjectState, StoreError};

/// Changes an identity.
type Edit = fn(&mut Identity);

pub(super) const EXPIRY: Duration = Duration::from_mins(1);
/// Names of runs.
const CRASHED: &str = "20261001T120000Z-00000001";
const SUSPENDED: &str = "20261001T120000Z-00000002";

fn filter(name: &str, value: &str) -> Filter {
    Filter {
        name: name.to_owned(),
        value: value.to_owned(),
        is_number: name.ends_with("_search"),
    }
}

fn identity() -> Identity {
    Identity {
        format: FORMAT,
        account: None,
        tables: None,
        slice: None,
        converting: None,
        converting_run: None,
        source: vec![filter("disposition", "all")],
        privacy: "keep".to_owned(),
        privacy_columns: [].into(),
        privacy_key_id: None,
        source_url: "https://api.example".to_owned(),
        timezone: "UTC".to_owned(),
        created_by: crate::TOOL.to_owned(),
    }
}

fn key() -> PrivacyKey {
    PrivacyKey::try_new("0123456789abcdefghijklmnopqrstuv").unwrap()
}

pub(super) fn privacy() -> Privacy {
    Privacy::new(Modes::default(), Some(key()))
}

fn slice(day: &str, direction: Direction) -> Slice {
    let day = parse_day(day).unwrap();
    Slice::of_day(day, direction)
}

pub(super) fn placed() -> Slice {
    slice("2026-10-01", Direction::Placed)
}

/// The store of one process over `objects`.
fn process(objects: &Arc<InMemory>) -> Arc<dyn LakeStore> {
    Arc::new(BucketStore::in_memory(objects))
}

/// A new lake.
pub(super) async fn lake() -> (Arc<InMemory>, Lake) {
    let objects = Arc::new(InMemory::new());
    let lake = Lake::open(process(&objects), &identity(), privacy()).await;
    (objects, lake.unwrap())
}

pub(super) async fn put(objects: &InMemory, path: &Path, text: &str) {
    let path = Path::from(format!("lake/{path}"));
    objects.put(&path, text.to_owned().into()).await.unwrap();
}

pub(super) async fn get(lake: &Lake, path: &Path) -> Option<String> {
    let found = lake.store.read(path).await.unwrap()?;
    Some(String::from_utf8(found.bytes.to_vec()).unwrap())
}

fn file(text: &str) -> TempPath {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file.into_temp_path()
}

/// A file for a slice, which has as many rows as its text has characters.
pub(super) fn table_change(text: &str) -> TableChange {
    SpoolFile::of(file(text), text.len() as u64).unwrap().into()
}

fn rejects(text: &str) -> SpoolFile {
    SpoolFile::of(file(text), 1).unwrap()
}

/// A commit of a slice with these numbers of rows and rejects.
pub(super) fn commit_of(rows: u64, rejected: u64) -> Commit {
    let mut commit = commit(None, State::Closed);
    commit.counts.rows = rows;
    commit.counts.rejected = rejected;
    commit.counts.records = rows + rejected;
    commit.digest.rows = rows;
    commit
}

/// A new run that works on [`placed`]: its mark and its lease.
pub(super) async fn at_work(lake: &Lake) -> (RunMark, Box<dyn Lease>) {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = format!("run-{}", RUNS.fetch_add(1, Ordering::SeqCst));
    let mark = lake.mark(&run, CancellationToken::new());
    let lease = lake.try_lease(placed()).await.unwrap().unwrap();
    (mark, lease)
}

/// Publishes [`placed`] with this file and these rejects.
pub(super) async fn publish(lake: &Lake, text: &str, rejected: Option<&str>) -> Commit {
    let (mark, lease) = at_work(lake).await;
    let before = lake.usable_entry(placed()).await.unwrap();
    let commit = commit_of(text.len() as u64, u64::from(rejected.is_some()));
    let change = table_change(text);
    let staged = lake.stage(&before.entry, change, rejected.map(rejects));
    let staged = staged.await.unwrap();
    let privacy = privacy();
    let entry = lake.publish(&mark, &*lease, before, staged, commit, &privacy);
    let committed = entry.await.unwrap().committed.unwrap();
    drop(lease);
    lake.settle().await;
    committed
}

fn failure(problem: &str) -> Failure {
    Failure {
        run: "run".to_owned(),
        at: Timestamp::UNIX_EPOCH,
        problem: problem.to_owned(),
        reason: None,
    }
}

/// Records that an attempt at [`placed`] failed.
async fn fail(lake: &Lake, problem: &str, rejects: Option<&str>) {
    let (mark, lease) = at_work(lake).await;
    let before = lake.usable_entry(placed()).await.unwrap();
    let (rejects, privacy) = (rejects.map(self::rejects), privacy());
    let failed = lake.fail(&mark, &*lease, before, failure(problem), rejects, &privacy);
    failed.await.unwrap();
    drop(lease);
    lake.settle().await;
}

/// A lease that was taken over.
#[derive(Debug)]
struct Lost;

impl Lease for Lost {
    fn is_held(&self) -> bool {
        false
    }
}

/// Is lost after `last` checks.
#[derive(Debug, Default)]
pub(super) struct LostAt {
    pub(super) checks: AtomicU32,
    pub(super) last: u32,
}

impl Lease for LostAt {
    fn is_held(&self) -> bool {
        self.checks.fetch_add(1, Ordering::SeqCst) < self.last
    }
}

#[tokio::test(start_paused = true)]
async fn a_lake_is_created_once_and_opened_with_an_equal_identity() {
    let (objects, made) = lake().await;
    assert_eq!(made.identity, identity());
    let again = Lake::open(process(&objects), &identity(), privacy()).await;
    let again = again.unwrap();
    assert_eq!(
        (&again.identity, &again.remarks),
        (&identity(), &Vec::<Remark>::new())
    );
    assert_eq!(again.privacy().key().map(PrivacyKey::id), Some(key().id()));
    // The address of the API and the time zone may change.
    let moved = Identity {
        source_url: "https://other.example".to_owned(),
        timezone: "Europe/Paris".to_owned(),
        created_by: "later".to_owned(),
        ..identity()
    };
    let moved = Lake::find(process(&objects), &moved).await.unwrap();
    let remark =
        "source.url is https://other.example, but this lake was created with https://api.example";
    let remark = RemarkKind::OtherSource.remark(remark.to_owned());
    assert_eq!(moved.unwrap().remarks, [remark]);
}

#[tokio::test(start_paused = true)]
async fn another_identity_is_refused_with_the_key_that_differs() {
    let (objects, _) = lake().await;
    let edits: [(&str, &str, &str, Edit); 11] = [
        ("lake.account", "(not set)", "a", |lake| {
            lake.account = Some("a".to_owned());
        }),
        ("source.disposition", "all", "busy", |lake| {
            lake.source = vec![filter("disposition", "busy")];
        }),
        ("source.sip_trunk", "(not set)", "7", |lake| {
            lake.source.push(filter("sip_trunk", "7"));
        }),
        // Numbers are not shown.
        ("source.from_search", "(not set)", "one number", |lake| {
            lake.source.push(filter("from_search", "1302"));
        }),
        ("source.to_search", "(not set)", "one number", |lake| {
            lake.source.push(filter("to_search", "1302"));
        }),
        ("privacy.numbers", "keep", "truncate", |lake| {
            lake.privacy = "truncate".to_owned();
        }),
        ("privacy.from_number", "keep", "truncate", |lake| {
            let column = ("from_number".to_owned(), "truncate".to_owned());
            lake.privacy_columns = [column].into();
        }),
        ("privacy.to_number", "keep", "truncate", |lake| {
            let column = ("to_number".to_owned(), "truncate".to_owned());
            lake.privacy_columns = [column].into();
        }),
        ("privacy.destination", "keep", "truncate", |lake| {
            let column = ("destination".to_owned(), "truncate".to_owned());
            lake.privacy_columns = [column].into();
        }),
        ("privacy.extra", "keep", "truncate", |lake| {
            let column = ("extra".to_owned(), "truncate".to_owned());
            lake.privacy_columns = [column].into();
        }),
        ("privacy.key", "(not set)", "the key with ID 1", |lake| {
            lake.privacy_key_id = Some("1".to_owned());
        }),
    ];
    for (key, existing, wanted, edit) in edits {
        let mut other = identity();
        edit(&mut other);
        let error = Lake::open(process(&objects), &other, privacy()).await;
        match error.unwrap_err() {
            LakeError::OtherLake {
                key: found,
                existing: has,
                wanted: wants,
            } => assert_eq!((&*found, &*has, &*wants), (key, existing, wanted)),
            error => panic!("{key}: {error}"),
        }
    }
    // A filter that only the lake has.
    let mut filtered = identity();
    filtered.source.push(filter("to_search", "1302"));
    let (key, existing, wanted) = identity().difference(&filtered).unwrap();
    assert_eq!(
        (&*key, &*existing, &*wanted),
        ("source.to_search", "another number", "(not set)")
    );
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_not_a_lake_is_not_opened() {
    let find = async |objects: &Arc<InMemory>| Lake::find_any(process(objects)).await;
    let objects = Arc::new(InMemory::new());
    assert!(find(&objects).await.unwrap().is_none());
    put(&objects, &TableForm::Plain.new_path(placed()), "calls").await;
    let error = find(&objects).await.unwrap_err();
    assert!(matches!(error, LakeError::NotALake), "{error}");
    put(&objects, &layout::ledger_entry(placed()), "{}").await;
    let error = find(&objects).await.unwrap_err().to_string();
    assert!(
        error.contains("it is missing, but the ledger exists"),
        "{error}"
    );
    put(&objects, &layout::identity(), "{").await;
    let error = find(&objects).await.unwrap_err();
    assert!(matches!(error, LakeError::Damaged { .. }), "{error}");
    let newer = format!("{{\"format\":{}}}", last_format(&layout::identity()) + 1);
    put(&objects, &layout::identity(), &newer).await;
    let error = find(&objects).await.unwrap_err().to_string();
    assert!(
        error.contains("has format 3, but this version of cdrlake supports up to 2"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slice_is_published_replaced_kept_and_removed_with_its_rejects() {
    let (_, lake) = lake().await;
    let table = TableForm::Plain.new_path(placed());
    let rejects_file = layout::rejects_file(placed());
    fail(&lake, "first", Some("failed")).await;
    let failed = layout::failed_rejects_file(placed());
    assert_eq!(get(&lake, &failed).await.as_deref(), Some("failed"));
    let found = lake.failed_rejects_of(placed()).await.unwrap();
    assert_eq!(found.unwrap().size_bytes, 6);

    let first = publish(&lake, "abc", Some("r")).await;
    assert_eq!(get(&lake, &table).await.as_deref(), Some("abc"));
    assert_eq!(get(&lake, &rejects_file).await.as_deref(), Some("r"));
    assert_eq!(
        get(&lake, &failed).await,
        None,
        "the failed attempt is superseded"
    );
    let entry = lake.entry(placed()).await;
    assert_eq!(entry.condition, Condition::Sound);
    assert_eq!(
        (
            entry.entry.pending,
            entry.entry.failed,
            entry.entry.committed
        ),
        (None, None, Some(first.clone()))
    );
    let copy = lake.local_copy(&table).await.unwrap().unwrap();
    assert_eq!(std::fs::read_to_string(&copy.path).unwrap(), "abc");
    let listed = lake.rejects().await.unwrap();
    assert_eq!(listed[&rejects_file].size_bytes, 1);
    // The ETags are those of the objects.
    let file = first.file.unwrap();
    let found = lake.table().file(&Entry::new(placed())).await.unwrap();
    assert!(is_intact(Some(&file), found.as_ref()));
    let found = lake.rejects_of(placed()).await.unwrap();
    assert!(is_intact(first.rejects.as_ref(), found.as_ref()));

    let second = publish(&lake, "abcde", None).await;
    assert_eq!(get(&lake, &table).await.as_deref(), Some("abcde"));
    assert_eq!(get(&lake, &rejects_file).await, None);
    assert_ne!(second.file.as_ref(), Some(&file));

    // A publication that keeps the file keeps its `ETag`.
    let (mark, lease) = at_work(&lake).await;
    let before = lake.entry(placed()).await;
    let staged = lake
        .stage(&before.entry, TableChange::Keep, None)
        .await
        .unwrap();
    assert!(staged.had_file());
    let privacy = privacy();
    let kept = lake.publish(&mark, &*lease, before, staged, commit_of(5, 0), &privacy);
    assert_eq!(kept.await.unwrap().committed.unwrap().file, second.file);
    drop(lease);
    lake.settle().await;

    let last = publish(&lake, "", None).await;
    assert_eq!(last.file, None);
    assert_eq!(get(&lake, &table).await, None, "no rows, no file");
    let (mark, lease) = at_work(&lake).await;
    let entry = lake.entry(placed()).await.entry;
    let staged = lake.stage(&entry, TableChange::Remove, None).await.unwrap();
    assert!(!staged.had_file());
    drop((mark, lease));
}

#[tokio::test(start_paused = true)]
async fn rewriting_a_slice_keeps_its_failure() {
    let (_, lake) = lake().await;
    publish(&lake, "abc", None).await;
    fail(&lake, "broken", Some("failed")).await;
    let (mark, lease) = at_work(&lake).await;
    let before = lake.entry(placed()).await;
    let change = table_change("ab");
    let staged = lake.stage(&before.entry, change, None).await.unwrap();
    let staged = staged.keeping_failure();
    let privacy = privacy();
    let entry = lake.publish(&mark, &*lease, before, staged, commit_of(2, 0), &privacy);
    assert_eq!(entry.await.unwrap().failed, Some(failure("broken")));
    let failed = layout::failed_rejects_file(placed());
    assert_eq!(get(&lake, &failed).await.as_deref(), Some("failed"));
    // Each kind of rejects is removed separately.
    lake.remove_rejects(&mark, &*lease, placed(), true)
        .await
        .unwrap();
    assert_eq!(get(&lake, &failed).await, None);
    drop(lease);
    lake.settle().await;
    publish(&lake, "abc", Some("r")).await;
    let (mark, lease) = at_work(&lake).await;
    let lost = lake.remove_rejects(&mark, &Lost, placed(), false).await;
    assert!(matches!(lost, Err(LakeError::LostLease { .. })));
    lake.remove_rejects(&mark, &*lease, placed(), false)
        .await
        .unwrap();
    assert!(lake.rejects().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_recorded_once_and_the_table_is_unchanged() {
    let (_, lake) = lake().await;
    publish(&lake, "abc", Some("r")).await;
    fail(&lake, "broken", None).await;
    let entry = lake.entry(placed()).await;
    assert_eq!(entry.entry.failed, Some(failure("broken")));
    fail(&lake, "broken", None).await;
    assert!(lake.entry(placed()).await.is_same_as(&entry));
    fail(&lake, "in another way", Some("failed")).await;
    let changed = lake.entry(placed()).await;
    assert!(!changed.is_same_as(&entry));
    assert_eq!(changed.entry.failed, Some(failure("in another way")));
    for (path, text) in [
        (TableForm::Plain.new_path(placed()), "abc"),
        (layout::rejects_file(placed()), "r"),
        (layout::failed_rejects_file(placed()), "failed"),
    ] {
        assert_eq!(get(&lake, &path).await.as_deref(), Some(text));
    }
    // A run without its lease writes nothing.
    let (mark, _lease) = at_work(&lake).await;
    let before = lake.entry(placed()).await;
    let privacy = privacy();
    let lost = lake.fail(&mark, &Lost, before, failure("third"), None, &privacy);
    assert!(matches!(lost.await, Err(LakeError::LostLease { .. })));
    assert!(lake.entry(placed()).await.is_same_as(&changed));
}

#[tokio::test(start_paused = true)]
async fn a_run_without_its_lease_does_not_change_the_table() {
    let (_, lake) = lake().await;
    publish(&lake, "abc", None).await;
    let entry = lake.entry(placed()).await;
    let mark = lake.mark("run", CancellationToken::new());
    let privacy = privacy();
    let checks: u32 = 3;
    for text in ["abcde", ""] {
        for last in 0..=checks {
            let before = lake.entry(placed()).await;
            let change = table_change(text);
            let staged = lake.stage(&before.entry, change, None).await.unwrap();
            let lease = LostAt {
                last,
                ..LostAt::default()
            };
            let commit = commit_of(text.len() as u64, 0);
            let published = lake.publish(&mark, &lease, before, staged, commit, &privacy);
            let published = published.await;
            if last < checks {
                let is_lost = matches!(published, Err(LakeError::LostLease { .. }));
                assert!(is_lost, "{text:?} {last}: {published:?}");
                let table = get(&lake, &TableForm::Plain.new_path(placed())).await;
                assert_eq!(table.as_deref(), Some("abc"));
            } else {
                published.unwrap();
            }
        }
        publish(&lake, "abc", None).await;
    }
    // Another publication has changed the entry since it was read.
    let (mark, lease) = at_work(&lake).await;
    let staged = lake.stage(&entry.entry, table_change("x"), None);
    let staged = staged.await.unwrap();
    let published = lake.publish(&mark, &*lease, entry, staged, commit_of(1, 0), &privacy);
    assert!(matches!(
        published.await,
        Err(LakeError::LostLease { path }) if path == layout::ledger_entry(placed())
    ));
    let table = get(&lake, &TableForm::Plain.new_path(placed())).await;
    assert_eq!(table.as_deref(), Some("abc"));
}

/// Another process changes the slice's ledger entry at the last check of this lease.
#[derive(Debug)]
struct Meddled {
    objects: Arc<InMemory>,
    checks: AtomicU32,
    last: u32,
}

impl Lease for Meddled {
    fn is_held(&self) -> bool {
        if self.checks.fetch_add(1, Ordering::SeqCst) + 1 == self.last {
            let path = layout::ledger_entry(placed());
            // In memory it is done at once.
            put(&self.objects, &path, "{}").now_or_never().unwrap();
        }
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_table_without_a_ledger_update_is_reported() {
    for (text, last) in [(Some("abcde"), 3), (Some(""), 3), (None, 2)] {
        let (objects, lake) = lake().await;
        publish(&lake, "abc", Some("reject")).await;
        let (mark, _lease) = at_work(&lake).await;
        let before = lake.entry(placed()).await;
        let change = text.map_or(TableChange::Keep, table_change);
        let staged = lake.stage(&before.entry, change, None).await.unwrap();
        let lease = Meddled {
            objects: Arc::clone(&objects),
            checks: AtomicU32::new(0),
            last,
        };
        let rows = text.unwrap_or("abc").len() as u64;
        let privacy = privacy();
        let published = lake.publish(&mark, &lease, before, staged, commit_of(rows, 0), &privacy);
        let error = published.await.unwrap_err();
        let is_reported = matches!(error, LakeError::NotRecorded { .. });
        assert_eq!(is_reported, text.is_some(), "{text:?}: {error:?}");
        let table = get(&lake, &TableForm::Plain.new_path(placed())).await;
        let expected = match text {
            Some(text) => (!text.is_empty()).then_some(text),
            None => Some("abc"),
        };
        assert_eq!(table.as_deref(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_an_earlier_format_is_written_in_the_current_one() {
    let (objects, lake) = lake().await;
    publish(&lake, "abc", None).await;
    let path = layout::ledger_entry(placed());
    let entry = get(&lake, &path).await.unwrap();
    let now = format!("\"format\": {FORMAT}");
    assert!(entry.contains(&now), "{entry}");
    put(&objects, &path, &entry.replace(&now, "\"format\": 0")).await;
    publish(&lake, "abcde", None).await;
    let entry = get(&lake, &path).await.unwrap();
    assert!(entry.contains(&now), "{entry}");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_another_run_changed_meanwhile_is_not_replaced() {
    for text in ["abcde", ""] {
        let (objects, lake) = lake().await;
        publish(&lake, "abc", None).await;
        let (mark, lease) = at_work(&lake).await;
        let before = lake.entry(placed()).await;
        let change = table_change(text);
        let staged = lake.stage(&before.entry, change, None).await.unwrap();
        put(&objects, &TableForm::Plain.new_path(placed()), "theirs").await;
        let (commit, privacy) = (commit_of(text.len() as u64, 0), privacy());
        let published = lake.publish(&mark, &*lease, before, staged, commit, &privacy);
        let error = published.await.unwrap_err();
        assert!(matches!(error, LakeError::LostLease { .. }), "{error}");
        let table = get(&lake, &TableForm::Plain.new_path(placed())).await;
        assert_eq!(table.as_deref(), Some("theirs"));
        // The next run finds that the slice was being published.
        assert!(lake.entry(placed()).await.entry.pending.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slice_fetched_before_an_erasure_is_not_published() {
    let (_, lake) = lake().await;
    let (mark, lease) = at_work(&lake).await;
    let before = lake.entry(placed()).await;
    let known = lake.privacy_now().await.unwrap();
    let change = table_change("abc");
    let staged = lake.stage(&before.entry, change, None).await.unwrap();
    let token = key().token("13025550001");
    lake.suppress(key().id(), &token, None).await.unwrap();
    let published = lake.publish(&mark, &*lease, before, staged, commit_of(3, 0), &known);
    let error = published.await.unwrap_err();
    assert!(matches!(error, LakeError::ErasedMeanwhile), "{error}");
    let table = get(&lake, &TableForm::Plain.new_path(placed())).await;
    assert_eq!(table, None);
    // The same with the current list.
    let known = lake.privacy_now().await.unwrap();
    assert!(known.is_erased(&token));
    let before = lake.entry(placed()).await;
    let announced = before.entry.pending.as_ref().expect("it was announced");
    let planned = announced.planned.as_ref().unwrap();
    assert_eq!(planned.file, announced.file);
    assert_eq!(planned.file.as_ref().unwrap().rows, 3);
    let change = table_change("ab");
    let staged = lake.stage(&before.entry, change, None).await.unwrap();
    let published = lake.publish(&mark, &*lease, before, staged, commit_of(2, 0), &known);
    published.await.unwrap();
    // Rejects of an attempt that failed hold calls as well.
    lake.suppress(key().id(), &key().token("13025550002"), None)
        .await
        .unwrap();
    let before = lake.entry(placed()).await;
    let rejects = Some(rejects("r"));
    let failed = lake.fail(&mark, &*lease, before, failure("x"), rejects, &known);
    assert!(matches!(failed.await, Err(LakeError::ErasedMeanwhile)));
    let kept = lake.failed_rejects_of(placed()).await.unwrap();
    assert!(kept.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_list_of_erased_numbers_has_one_key_and_each_number_once() {
    let (objects, lake) = lake().await;
    let (first, second) = (key().token("13025550001"), key().token("13025550002"));
    assert!(lake.suppression().await.unwrap().is_none());
    for token in [&first, &second] {
        lake.suppress(key().id(), token, None).await.unwrap();
    }
    let list = lake.suppression().await.unwrap().unwrap();
    let unfinished = list.unfinished_remark().unwrap().text;
    assert!(
        unfinished.contains("2 erasures are incomplete"),
        "{unfinished}"
    );
    let since = list.get(&first).unwrap().since;
    lake.suppress(key().id(), &first, Some(Timestamp::UNIX_EPOCH))
        .await
        .unwrap();
    let list = lake.suppression().await.unwrap().unwrap();
    assert_eq!(list.numbers.len(), 2);
    let known = list.get(&first).unwrap();
    assert_eq!(
        (known.since, known.erased_at),
        (since, Some(Timestamp::UNIX_EPOCH))
    );
    assert_eq!(list.get(&second).unwrap().erased_at, None);
    assert!(list.get(&key().token("1")).is_none());
    lake.suppress(key().id(), &second, Some(Timestamp::UNIX_EPOCH))
        .await
        .unwrap();
    let list = lake.suppression().await.unwrap().unwrap();
    assert_eq!(list.unfinished_remark(), None);

    let refused = lake.suppress("another", &first, None).await;
    assert!(matches!(refused, Err(LakeError::OtherKey { .. })));
    for other in [
        Privacy::default(),
        Privacy::new(
            Modes::default(),
            Some(PrivacyKey::try_new("zyxwvutsrqponmlkjihgfedcba987654").unwrap()),
        ),
    ] {
        let lake = Lake::open(process(&objects), &identity(), other)
            .await
            .unwrap();
        let refused = lake.privacy_now().await;
        assert!(matches!(refused, Err(LakeError::OtherKey { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pruned_slice_keeps_its_entry_and_nothing_else() {
    let (_, lake) = lake().await;
    publish(&lake, "abc", Some("r")).await;
    fail(&lake, "broken", Some("failed")).await;
    let (mark, lease) = at_work(&lake).await;
    let before = lake.entry(placed()).await;
    let lost = lake.prune(&mark, &Lost, before.clone()).await;
    assert!(matches!(lost, Err(LakeError::LostLease { .. })));
    let half = LostAt {
        last: 1,
        ..LostAt::default()
    };
    let lost = lake.prune(&mark, &half, before).await;
    assert!(matches!(lost, Err(LakeError::LostLease { .. })));
    // The ledger entry is changed first.
    let before = lake.entry(placed()).await;
    assert_eq!(before.entry.failed, None);
    let pruned = before.entry.committed.clone().unwrap();
    assert_eq!(
        (pruned.state, pruned.file.as_ref(), pruned.rejects.as_ref()),
        (State::Pruned, None, None)
    );
    assert_eq!((pruned.counts.rows, pruned.counts.rejected), (3, 1));
    let files = lake.table().files().await.unwrap();
    assert_eq!(files.slices().count(), 1);
    // A second attempt completes the same commit.
    let commit = lake.prune(&mark, &*lease, before.clone()).await.unwrap();
    assert_eq!(commit, pruned);
    assert!(lake.entry(placed()).await.is_same_as(&before));
    let files = lake.table().files().await.unwrap();
    assert!(files.slices().next().is_none());
    assert!(lake.rejects().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_ledger_is_read_by_day_and_direction_with_the_condition_of_each_entry() {
    let (objects, lake) = lake().await;
    assert_eq!(lake.first_day(&Direction::ALL).await.unwrap(), None);
    publish(&lake, "abc", None).await;
    let good = get(&lake, &layout::ledger_entry(placed())).await.unwrap();
    let received = slice("2026-10-02", Direction::Received);
    let newer = format!("{{\"format\":{}}}", FORMAT + 1);
    for (day, text, condition) in [
        ("2026-10-03", good.clone(), "belongs to"),
        ("2026-10-04", "{".to_owned(), "EOF"),
        ("2026-10-05", newer, "Newer"),
    ] {
        let slice = slice(day, Direction::Placed);
        put(&objects, &layout::ledger_entry(slice), &text).await;
        let found = lake.entry(slice).await;
        assert!(
            format!("{:?}", found.condition).contains(condition),
            "{found:?}"
        );
        assert_eq!(found.entry, Entry::new(slice));
        let is_usable = lake.usable_entry(slice).await.is_ok();
        assert_eq!(is_usable, condition != "Newer", "{day}");
    }
    put(&objects, &layout::ledger_entry(received), &good).await;
    put(&objects, &Path::from("_cdrlake/ledger/placed/x.txt"), "").await;
    put(&objects, &Path::from("cdrs/dt=2026-10-01/x.parquet"), "").await;

    let day = |text| parse_day(text).unwrap();
    let first = lake.first_day(&[Direction::Received]).await.unwrap();
    assert_eq!(first, Some(day("2026-10-02")));
    let first = lake.first_day(&Direction::ALL).await.unwrap();
    assert_eq!(first, Some(day("2026-10-01")));
    let days = day("2026-10-02")..=day("2026-10-04");
    let entries = lake.entries(&Direction::ALL, days.clone()).await.unwrap();
    assert_eq!(entries.len(), 3);
    let entries = lake.entries(&[Direction::Placed], days).await.unwrap();
    assert_eq!(entries.len(), 2);
    let slices = lake.ledger_slices(&Direction::ALL).await.unwrap();
    assert_eq!(slices.len(), 5);

    let foreign = async || {
        let mut foreign = lake.table().files().await.unwrap().foreign;
        foreign.extend(lake.foreign_entries().await.unwrap());
        foreign
    };
    let found = foreign().await;
    let mut names: Vec<&str> = found.iter().map(AsRef::as_ref).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "_cdrlake/ledger/placed/x.txt",
            "cdrs/dt=2026-10-01/x.parquet"
        ]
    );
    for path in &found {
        lake.remove_foreign(path).await.unwrap();
    }
    assert_eq!(foreign().await, []);
    let files = lake.table().files().await.unwrap();
    assert_eq!(files.slices().collect::<Vec<_>>(), [placed()]);
}

#[tokio::test(start_paused = true)]
async fn a_run_is_detected_while_it_is_active_and_claimed_once_it_has_crashed() {
    let (objects, lake) = lake().await;
    let mark = lake.mark(CRASHED, CancellationToken::new());
    mark.ensure().await.unwrap();
    let received = slice("2026-10-02", Direction::Received);
    let committed = [
        (placed(), publish_as(&lake, &mark, placed()).await),
        (received, publish_as(&lake, &mark, received).await),
    ];
    let watcher = Lake::open(process(&objects), &identity(), privacy()).await;
    let watcher = watcher.unwrap();
    let marked = watcher.marked_runs("this").await.unwrap();
    let traces = &marked[CRASHED];
    assert!(traces.is_any() && traces.announced.is_empty());
    assert!(!super::runs::Traces::default().is_any());
    let mut commits = traces.commits.clone();
    commits.sort_by_key(|(slice, _)| *slice);
    assert_eq!(commits, committed);
    assert!(watcher.marked_runs(CRASHED).await.unwrap().is_empty());
    // It renews its lease.
    assert!(!watcher.has_crashed(CRASHED, false).await.unwrap());
    assert!(!watcher.has_crashed(CRASHED, true).await.unwrap());
    assert!(watcher.claim_crashed(CRASHED).await.unwrap().is_none());

    // Its process has crashed: the lease is neither renewed nor released.
    let lease = layout::run_lease(CRASHED);
    drop(mark);
    lake.settle().await;
    let last_lease = "{\"holder\":\"crashed\",\"renewals\":9,\"expiry_ms\":60000}";
    put(&objects, &lease, last_lease).await;
    let watcher = Lake::open(process(&objects), &identity(), privacy()).await;
    let watcher = watcher.unwrap();
    assert!(!watcher.has_crashed(CRASHED, false).await.unwrap());
    let begun = tokio::time::Instant::now();
    assert!(watcher.has_crashed(CRASHED, true).await.unwrap());
    assert!(begun.elapsed() + Duration::from_secs(2) >= EXPIRY);
    let crashed = watcher.claim_crashed(CRASHED).await.unwrap().unwrap();
    assert_eq!(crashed.run(), CRASHED);
    watcher
        .end_crashed_run(crashed, |found: Option<String>| {
            assert_eq!(found, None);
            Some("report".to_owned())
        })
        .await
        .unwrap();
    watcher.settle().await;
    assert_eq!(watcher.runs().await.unwrap(), [CRASHED]);
    let report = watcher.run_report::<String>(CRASHED).await.unwrap();
    assert_eq!(report.as_deref(), Some("report"));
    assert!(watcher.marked_runs("this").await.unwrap().is_empty());
    assert!(watcher.claim_crashed(CRASHED).await.unwrap().is_none());
    // The run has ended, for every process.
    assert!(!watcher.has_crashed(CRASHED, true).await.unwrap());
}

/// Publishes a slice as the run of this mark.
async fn publish_as(lake: &Lake, mark: &RunMark, slice: Slice) -> Commit {
    let lease = lake.try_lease(slice).await.unwrap().unwrap();
    let before = lake.entry(slice).await;
    let change = table_change("abc");
    let staged = lake.stage(&before.entry, change, None).await.unwrap();
    let (mut commit, privacy) = (commit_of(3, 0), privacy());
    mark.run().clone_into(&mut commit.run);
    let entry = lake.publish(mark, &*lease, before, staged, commit, &privacy);
    entry.await.unwrap().committed.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_run_declared_crashed_marks_itself_again_before_it_writes() {
    let (objects, lake) = lake().await;
    let mark = lake.mark(SUSPENDED, CancellationToken::new());
    mark.ensure().await.unwrap();
    let marker = layout::run_marker(SUSPENDED);
    lake.store.delete(&marker).await.unwrap();
    mark.ensure().await.unwrap();
    assert!(lake.store.state(&marker).await.unwrap().is_some());
    // It cannot continue while another run reports what it had done.
    lake.store
        .delete(&layout::run_lease(SUSPENDED))
        .await
        .unwrap();
    let other = Lake::open(process(&objects), &identity(), privacy()).await;
    let other = other.unwrap();
    let crashed = other.claim_crashed(SUSPENDED).await.unwrap().unwrap();
    tokio::time::sleep(EXPIRY).await;
    let begun = tokio::time::Instant::now();
    let refused = mark.ensure().await.unwrap_err();
    assert!(matches!(refused, LakeError::Unmarked { .. }), "{refused}");
    // It waits, because a run that cleans up after it holds the lease only briefly.
    assert!(begun.elapsed() > EXPIRY, "{:?}", begun.elapsed());
    drop(crashed);
    other.settle().await;
    mark.ensure().await.unwrap();

    // Its own report replaces the one that another run wrote for it.
    lake.end_run(SUSPENDED, &"first").await.unwrap();
    lake.end_run(SUSPENDED, &"second").await.unwrap();
    let report = lake.run_report::<String>(SUSPENDED).await.unwrap();
    assert_eq!(report.as_deref(), Some("second"));
    assert!(lake.store.state(&marker).await.unwrap().is_none());
    let path = lake.remove_report(SUSPENDED).await.unwrap();
    assert_eq!(get(&lake, &path).await, None);
    assert_eq!(lake.run_report::<String>(SUSPENDED).await.unwrap(), None);
    put(&objects, &path, "{").await;
    let damaged = lake.run_report::<String>(SUSPENDED).await;
    assert!(matches!(damaged, Err(LakeError::Damaged { .. })));
}

#[tokio::test(start_paused = true)]
async fn without_conditional_writes_a_suspended_run_stops_writing() {
    let objects = Arc::new(InMemory::new());
    let store = Arc::new(BucketStore::in_memory(&objects).ignoring_conditions());
    let lake = Lake::open(store, &identity(), privacy()).await.unwrap();
    let mark = lake.mark(SUSPENDED, CancellationToken::new());
    mark.ensure().await.unwrap();
    mark.ensure().await.unwrap();
    let marker = layout::run_marker(SUSPENDED);
    lake.store.delete(&marker).await.unwrap();
    let refused = mark.ensure().await.unwrap_err();
    assert!(matches!(refused, LakeError::NotAlone(_)), "{refused}");
    assert!(refused.fate().stops_the_run());
    mark.ensure_after().await;
    let unseen = mark.unseen();
    assert_eq!(unseen.len(), 1);
    assert!(unseen[0].starts_with("a day was committed, but other runs may not detect"));
    assert_eq!(mark.unseen(), Vec::<String>::new());
}

#[test]
fn an_upload_is_identified_by_path_size_and_etag() {
    let found = ObjectState {
        path: Path::from("x"),
        size_bytes: 3,
        etag: Some("a".to_owned()),
        version: None,
    };
    let file = |path: &str, bytes, etag: Option<&str>| PublishedFile {
        path: path.to_owned(),
        rows: 1,
        bytes,
        checksum: String::new(),
        etag: etag.map(str::to_owned),
        statistics: FileStatistics::default(),
    };
    let same = file("x", 3, Some("a"));
    assert!(is_intact(Some(&same), Some(&found)));
    for other in [
        file("y", 3, Some("a")),
        file("x", 4, Some("a")),
        file("x", 3, Some("b")),
        file("x", 3, None),
    ] {
        assert!(!is_intact(Some(&other), Some(&found)), "{other:?}");
    }
    assert!(is_intact(None, None));
    assert!(!is_intact(None, Some(&found)) && !is_intact(Some(&same), None));
}

#[test]
fn an_error_keeps_its_fate_through_the_errors_that_wrap_it() {
    let store = |kind| StoreError {
        action: "write",
        path: "x".into(),
        source: Box::new(ClassifiedError {
            kind,
            is_uncertain: false,
            text: "refused".to_owned(),
        }),
    };
    for (kind, is_hopeless, is_denied) in [
        (FailureKind::Hopeless, true, false),
        (FailureKind::Denied, false, true),
        (FailureKind::Passing, false, false),
        (FailureKind::Permanent, false, false),
    ] {
        let source = LakeError::from(store(kind));
        let wrapped = LakeError::NotRecorded {
            slice: placed(),
            source: Box::new(LakeError::from(store(kind))),
        };
        for error in [source, wrapped] {
            let found = (error.fate().stops_the_run(), error.is_denied());
            assert_eq!(found, (is_hopeless, is_denied), "{kind:?}: {error:?}");
        }
    }
    // A retry would hide that the table differs from the ledger.
    let path = Path::from("x");
    let lost = || LakeError::LostLease { path: path.clone() };
    assert_eq!(lost().fate(), Fate::retry(RetryReason::Other));
    let not_recorded = LakeError::NotRecorded {
        slice: placed(),
        source: Box::new(lost()),
    };
    assert_eq!(not_recorded.fate(), Fate::FailSlice);
    let run = "run".to_owned();
    assert!(LakeError::Unmarked { run }.fate().stops_the_run());
    let other = LakeError::NotALake;
    assert!(!other.fate().stops_the_run() && !other.is_denied());
    let newer = LakeError::NewerFormat {
        path: Path::from("x"),
        found: 9,
    };
    let known = format!("has format 9, but this version of cdrlake supports up to {FORMAT}. Use");
    assert!(newer.to_string().contains(&known), "{newer}");
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_entry_is_not_changed() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::new(directory.path(), 0o600);
    store.prepare().unwrap();
    let lake = Lake::open(Arc::new(store), &identity(), privacy()).await;
    let lake = lake.unwrap();
    let entry = layout::ledger_entry(placed());
    std::fs::create_dir_all(directory.path().join(entry.as_ref())).unwrap();
    let found = lake.entry(placed()).await;
    assert!(
        matches!(found.condition, Condition::Unreadable(_)),
        "{found:?}"
    );
    let refused = lake.usable_entry(placed()).await.unwrap_err();
    assert!(matches!(refused, LakeError::Unreadable { .. }), "{refused}");
}

#[test]
fn a_slice_may_have_rejects_of_failures_unless_its_entry_excludes_them() {
    let found = |committed, failed, condition| LedgerEntry {
        entry: super::ledger::Entry {
            committed,
            failed,
            ..Entry::new(placed())
        },
        condition,
        version: None,
    };
    let (done, failed) = (Some(commit_of(1, 0)), Some(failure("x")));
    assert!(!found(done.clone(), None, Condition::Sound).may_have_failed());
    assert!(found(done.clone(), failed.clone(), Condition::Sound).may_have_failed());
    assert!(found(None, None, Condition::Sound).may_have_failed());
    assert!(found(None, failed, Condition::Sound).may_have_failed());
    let damaged = Condition::Damaged("cut".to_owned());
    assert!(found(done, None, damaged).may_have_failed());
}

#[tokio::test(start_paused = true)]
async fn leftovers_of_crashed_runs_are_found_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::new(directory.path(), 0o600);
    store.prepare().unwrap();
    let store: Arc<dyn LakeStore> = Arc::new(store);
    let left = directory.path().join(layout::STAGING);
    let left = left.join("placed-2026-10-01.parquet");
    let lake = Lake::open(Arc::clone(&store), &identity(), privacy()).await;
    let lake = lake.unwrap();
    assert_eq!(lake.find_leftovers().await.unwrap(), []);
    assert_eq!(lake.lease_expiry(), None);
    std::fs::write(&left, "half").unwrap();
    assert_eq!(lake.find_leftovers().await.unwrap().len(), 1);
    // A file of a slice with a held lease is not a leftover.
    let lease = lake.try_lease(placed()).await.unwrap();
    assert!(lease.is_some());
    assert_eq!(lake.lease_state(placed()).await.unwrap(), LeaseState::Held);
    assert_eq!(lake.find_leftovers().await.unwrap(), []);
    assert_eq!(lake.remove_leftovers().await.unwrap(), []);
    assert!(left.exists());
    drop(lease);
    assert_eq!(lake.remove_leftovers().await.unwrap(), []);
    assert!(!left.exists());
    std::fs::write(&left, "half").unwrap();
    Lake::open(store, &identity(), privacy()).await.unwrap();
    assert!(!left.exists());
}

#[tokio::test(start_paused = true)]
async fn in_a_bucket_garbage_is_certain_after_the_expiry_time() {
    let (objects, lake) = lake().await;
    assert_eq!(lake.lease_expiry(), Some(EXPIRY));
    assert!(lake.honours_conditions().await.unwrap());
    lake.try_table().await.unwrap();
    assert_eq!(lake.lease_state(placed()).await.unwrap(), LeaseState::Free);
    put(&objects, &layout::lease(placed()), "{}").await;
    let state = lake.lease_state(placed()).await.unwrap();
    assert_eq!(state, LeaseState::Unproven);
    let garbage = lake.collect_garbage().await.unwrap();
    assert_eq!(garbage.removed, [layout::lease(placed()).to_string()]);
}
