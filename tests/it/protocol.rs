use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cdrlake::internals::{
    LakeStore, LocalStore, RunOptions, changed_since, layout, parse_day, run, verify,
};
use cdrlake::{
    Config, Direction, Lake, Observer, Period, PeriodUnit, RunReport, RunResult, Selection, Slice,
    SliceOutcome, SliceReport, Stop, plan,
};
use jiff::Timestamp;
use jiff::civil::{Date, date};
use object_store::memory::InMemory;
use object_store::path::Path;
use tokio_util::sync::CancellationToken;

use crate::server::Server;
use crate::stores::{Fault, FaultBucket, FaultStore, Faults, LedgerHistory, bucket_lake, written};
use crate::support::{DAY, block_on, calls, for_each, is_whole};
use crate::sweep::{
    KINDS, Kind, Operation, Place, changes_something, for_each_fault, local, source,
};
use crate::table_logs::{
    TABLES, assert_logs_equal_the_ledger, assert_only_current_files, current_files, has_logs,
    ids_in, newest_versions, rows_of, snapshots,
};

/// Variable for the child of the sweep: the directory and URI of its lake, its server, the period
/// of its slices, and the operation at which it dies.
const VICTIM: &str = "TEST_VICTIM";

/// The calls of one day: before, and during the run under test.
struct DayCase {
    day: &'static str,
    /// `None` if the lake has no entry for this day.
    before: Option<Content>,
    now: Content,
}

/// First id and number of calls, number of duplicates, and number of broken records.
#[derive(Clone, Copy)]
struct Content {
    first: u32,
    calls: u32,
    twice: u32,
    broken: u32,
}

const fn content(first: u32, calls: u32, twice: u32, broken: u32) -> Content {
    Content {
        first,
        calls,
        twice,
        broken,
    }
}

/// One day for every path of a slice through the protocol. In a lake of months, the first day is
/// January, and so on.
const CASES: &[DayCase] = &[
    // Unchanged.
    DayCase {
        day: "2026-10-01",
        before: Some(content(0, 3, 0, 0)),
        now: content(0, 3, 0, 0),
    },
    // Changed.
    DayCase {
        day: "2026-10-02",
        before: Some(content(10, 3, 0, 0)),
        now: content(10, 5, 0, 0),
    },
    // Loses all rows and rejects.
    DayCase {
        day: "2026-10-03",
        before: Some(content(20, 3, 0, 1)),
        now: content(20, 0, 0, 0),
    },
    // New, with a duplicate and a reject.
    DayCase {
        day: "2026-10-04",
        before: None,
        now: content(30, 3, 1, 1),
    },
    // Fails because too many records are broken. The lake keeps its rows.
    DayCase {
        day: BROKEN_DAY,
        before: Some(content(40, 3, 0, 0)),
        now: content(40, 1, 0, 3),
    },
    // Has rows for the first time.
    DayCase {
        day: "2026-10-06",
        before: Some(content(60, 0, 0, 0)),
        now: content(60, 2, 0, 0),
    },
    // New, and empty.
    DayCase {
        day: "2026-10-07",
        before: None,
        now: content(70, 0, 0, 0),
    },
    // Unchanged rows, different rejects.
    DayCase {
        day: "2026-10-08",
        before: Some(content(80, 3, 0, 1)),
        now: content(80, 3, 0, 2),
    },
];

/// The day that fails.
const BROKEN_DAY: &str = "2026-10-05";

impl Content {
    /// The records of a slice. Days of a month are in no order.
    fn body(self, period: Period) -> String {
        let call = |id| {
            let of_month = period.last_day().day() - (id % 28) as i8;
            let day = match period.unit() {
                PeriodUnit::Day => period.first_day(),
                PeriodUnit::Month => period.first_day().with().day(of_month).build().unwrap(),
            };
            calls(id, 1).replace(DAY, &day.to_string())
        };
        let all = self.first..self.first + self.calls;
        let twice = self.first..self.first + self.twice;
        let calls: String = all.chain(twice).map(call).collect();
        let broken = "{\"date\":\"broken\"}\n".repeat(self.broken as usize);
        format!("{calls}{broken}")
    }

    fn ids(self) -> Vec<String> {
        (self.first..self.first + self.calls)
            .map(|id| format!("call-{id}"))
            .collect()
    }
}

impl DayCase {
    fn slice(&self, unit: PeriodUnit) -> Slice {
        Slice::new(self.period(unit), Direction::Placed)
    }

    fn period(&self, unit: PeriodUnit) -> Period {
        let day = parse_day(self.day).unwrap();
        match unit {
            PeriodUnit::Day => Period::day(day),
            PeriodUnit::Month => Period::containing(date(2026, day.day(), 1), unit),
        }
    }

    /// The ids that the lake must hold in the end.
    fn ids_in_the_end(&self) -> Vec<String> {
        if self.day == BROKEN_DAY {
            self.ids_before()
        } else {
            self.now.ids()
        }
    }

    fn ids_before(&self) -> Vec<String> {
        self.before.map(Content::ids).unwrap_or_default()
    }
}

/// The day or month that fails.
fn broken(unit: PeriodUnit) -> Period {
    let mut cases = CASES.iter();
    let case = cases.find(|case| case.day == BROKEN_DAY);
    case.unwrap().period(unit)
}

/// The days of the cases from one to another.
fn days(unit: PeriodUnit, first: usize, last: usize) -> Days {
    let (first, last) = (CASES[first].period(unit), CASES[last].period(unit));
    (first.first_day(), last.last_day())
}

/// The days of all cases.
fn all_days(unit: PeriodUnit) -> Days {
    days(unit, 0, CASES.len() - 1)
}

/// The first and the last of several days.
type Days = (Date, Date);

/// Serves the calls of a period.
fn serve_period(server: &Server, period: Period, body: String, total: u32) {
    let (first, last) = (
        period.first_day().to_string(),
        period.last_day().to_string(),
    );
    server.serve_days("placed", (&first, &last), body, u64::from(total));
}

/// Scripts the server with the content that `pick` selects for each case.
fn serve(server: &Server, unit: PeriodUnit, pick: impl Fn(&DayCase) -> Content) {
    for case in CASES {
        let content = pick(case);
        // The count excludes duplicates: another count would cause another attempt.
        let total = content.calls + content.broken;
        let period = case.period(unit);
        serve_period(server, period, content.body(period), total);
    }
}

#[derive(Debug)]
pub(crate) struct NoObserver;

impl Observer for NoObserver {
    fn slice_began(&self, _: Slice, _: u32) {}
    fn records_read(&self, _: u64) {}
    fn slice_ended(&self, _: &SliceReport) {}
}

fn config(url: &str) -> Config {
    Config::from_keys([
        ("source.url", url),
        ("lake.url", "unused"),
        // One slice at a time, so that operations have an order.
        ("source.requests", "1"),
        ("limits.memory", "1MiB"),
        ("parquet.row_group_bytes", "1MiB"),
        // Faster, because the files are read often.
        ("parquet.compression", "uncompressed"),
        ("source.max_attempts", "1"),
        ("quality.max_rejects", "0"),
        ("quality.max_reject_ratio", "0.5"),
        ("quality.fail_reject_ratio", "1"),
        // The next run removes replaced files.
        ("lake.keep_replaced", "0d"),
    ])
    .unwrap()
}

/// A run like that of the program, in this process and with any store.
async fn run(
    store: Arc<dyn LakeStore>,
    url: &str,
    days: Days,
    refresh: bool,
) -> Result<RunReport, String> {
    let ran = run_watched(store, url, days, refresh, Arc::new(NoObserver)).await?;
    Ok(ran.report)
}

/// Like [`run`], with an observer.
async fn run_watched(
    store: Arc<dyn LakeStore>,
    url: &str,
    days: Days,
    refresh: bool,
    observer: Arc<dyn Observer>,
) -> Result<RunResult, String> {
    let config = config(url);
    let chain = |error| cdrlake::internals::chain(&error);
    let privacy = config.privacy(false).unwrap();
    let identity = config.identity(&privacy);
    let lake = Lake::open(store, &identity, privacy).await.map_err(chain)?;
    let selection = Selection {
        from: Some(days.0),
        to: Some(days.1),
        refresh,
        direction: Some(Direction::Placed),
        ..Selection::default()
    };
    let plan = plan(&config, &selection, Some(&lake), Timestamp::now())
        .await
        .map_err(|error| error.to_string())?;
    let source = source(&config.source);
    let options = RunOptions {
        allow_shrink: true,
        replaced: plan.replaced,
        ..RunOptions::default()
    };
    let result = run::run(
        Arc::new(config),
        lake,
        source,
        plan.due,
        options,
        observer,
        CancellationToken::new(),
    );
    Ok(result.await)
}

/// Fetches every slice again.
async fn refresh(
    store: Arc<dyn LakeStore>,
    url: &str,
    unit: PeriodUnit,
) -> Result<RunReport, String> {
    run(store, url, all_days(unit), true).await
}

/// Fetches due slices.
async fn catch_up(
    store: Arc<dyn LakeStore>,
    url: &str,
    unit: PeriodUnit,
) -> Result<RunReport, String> {
    run(store, url, all_days(unit), false).await
}

/// Creates the lake.
async fn create(store: &Arc<dyn LakeStore>, url: &str, Kind { tables, slice }: Kind) {
    let mut config = config(url);
    config.window.slice = Some(slice);
    if !tables.is_empty() {
        let tables = [("lake.url", "unused"), ("lake.tables", tables)];
        config.lake.tables = Config::from_keys(tables).unwrap().lake.tables;
    }
    let privacy = config.privacy(false).unwrap();
    let identity = config.identity(&privacy);
    let store = Arc::clone(store);
    Lake::open(store, &identity, privacy).await.unwrap();
}

/// Fills the lake for the run under test. A lake with logs also has replaced files.
fn begin(store: &Arc<dyn LakeStore>, server: &Server, kind: Kind) {
    let unit = kind.slice;
    block_on(create(store, &server.url(), kind));
    let in_lake = [(0, 2), (4, 5), (7, 7)].map(|(first, last)| days(unit, first, last));
    if !kind.tables.is_empty() {
        serve(server, unit, |_| content(90, 2, 0, 0));
        block_on(run(Arc::clone(store), &server.url(), in_lake[0], false)).unwrap();
    }
    serve(server, unit, |case| case.before.unwrap_or(case.now));
    for days in in_lake {
        let report = block_on(run(Arc::clone(store), &server.url(), days, true)).unwrap();
        let failed = report
            .slices
            .iter()
            .any(|slice| slice.outcome != SliceOutcome::Committed);
        assert!(!failed, "{report:?}");
    }
    serve(server, unit, |case| case.now);
}

/// Ids of every slice's rows, read from the table like any reader, or from the ledger's current
/// files if the lake has logs. Panics if a file is incomplete or belongs to no slice.
pub(crate) async fn visible(store: &dyn LakeStore) -> BTreeMap<Slice, Vec<String>> {
    let mut found = BTreeMap::new();
    if has_logs(store).await {
        for (slice, path) in current_files(store).await {
            found.insert(slice, ids_in(store, &path).await);
        }
        return found;
    }
    for object in store.list(&Path::from(layout::TABLE)).await.unwrap() {
        let slice = layout::leased_slice(&object.path);
        let slice = slice.unwrap_or_else(|| panic!("{}", object.path));
        let Slice { period, direction } = slice;
        let first = period.first_day();
        let path = format!("cdrs/dt={first}/{direction}-{period}.parquet");
        assert_eq!(object.path.as_ref(), path);
        found.insert(slice, ids_in(store, &path).await);
    }
    found
}

/// Every object except run reports.
async fn names(store: &dyn LakeStore) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for prefix in [layout::TABLE, layout::META] {
        for object in store.list(&Path::from(prefix)).await.unwrap() {
            let name = object.path.to_string();
            // Excludes reports, but not markers of running runs.
            let is_report = name.starts_with("_cdrlake/runs/");
            if !is_report && !name.starts_with("_cdrlake/locks/") {
                // Excludes the token of a file that has a name of its own.
                let slice = layout::leased_slice(&object.path);
                let stem = slice.map(layout::stem);
                names.insert(stem.unwrap_or(name));
            }
        }
    }
    names
}

/// The findings of `verify`, except for the day that fails.
pub(crate) async fn findings(store: &Arc<dyn LakeStore>) -> Vec<verify::Finding> {
    let Some(lake) = Lake::find_any(Arc::clone(store)).await.unwrap() else {
        return Vec::new();
    };
    let config = config("http://127.0.0.1:1");
    let verification = verify::Verification::of(&config);
    let verified = verification.check_in(&lake, &NoObserver).await.unwrap();
    let in_progress = verified.found.in_progress;
    assert!(in_progress.is_empty(), "a crashed run holds a lease");
    let mut findings = verified.found.findings;
    findings.retain(|finding| {
        let is_broken = |slice: Slice| slice.period == broken(slice.period.unit());
        finding.fault != verify::Fault::Failed || !finding.slice.is_some_and(is_broken)
    });
    findings
}

/// What the run under test begins with, and what it leaves.
struct Expected {
    unit: PeriodUnit,
    names_in_the_end: BTreeSet<String>,
    /// Of every log.
    versions_before: Vec<u64>,
}

/// Checks that every snapshot is complete and equals the ledger of some moment, and that those
/// since the run under test began have the old or the new rows of each slice.
async fn check_snapshots(
    store: &dyn LakeStore,
    history: &LedgerHistory,
    expected: &Expected,
    context: &str,
) {
    let versions_before = &expected.versions_before;
    let mut read = BTreeMap::new();
    let logs = snapshots(store).await;
    assert_eq!(logs.len(), versions_before.len());
    for (log, &before) in logs.iter().zip(versions_before) {
        for snapshot in log {
            let found = rows_of(store, snapshot, &mut read).await;
            assert!(
                history.contains(&snapshot.paths()),
                "{context}: the ledger was never like {snapshot:?}"
            );
            for case in CASES.iter().filter(|_| snapshot.version >= before) {
                let ids = found
                    .get(&case.slice(expected.unit))
                    .cloned()
                    .unwrap_or_default();
                assert!(
                    ids == case.ids_before() || ids == case.ids_in_the_end(),
                    "{context}: {} in version {}: {ids:?}",
                    case.day,
                    snapshot.version
                );
            }
        }
        assert!(log.last().unwrap().version >= before);
    }
}

/// Checks the lake after a run that failed, hung or died, then runs again.
async fn check_and_go_on(
    store: &Arc<dyn LakeStore>,
    history: &LedgerHistory,
    url: &str,
    expected: &Expected,
    context: &str,
) {
    check_snapshots(&**store, history, expected, context).await;
    // Complete files of known slices, each with the old or the new rows.
    let found = visible(&**store).await;
    for case in CASES {
        let ids = found
            .get(&case.slice(expected.unit))
            .cloned()
            .unwrap_or_default();
        assert!(
            ids == case.ids_before() || ids == case.ids_in_the_end(),
            "{context}: {}: {ids:?}",
            case.day
        );
    }
    // The ledger is correct, or marks the slice as uncertain.
    for finding in findings(store).await {
        assert!(
            matches!(
                finding.fault,
                verify::Fault::Interrupted | verify::Fault::Leftover | verify::Fault::TableLog
            ),
            "{context}: {finding:?}"
        );
    }
    let unit = expected.unit;
    // The next ordinary run repairs the lake.
    let report = catch_up(Arc::clone(store), url, unit).await.unwrap();
    for warning in report.warnings {
        let is_usual = warning.contains("rejected and kept in")
            || warning.contains("crashed before it wrote a report");
        assert!(is_usual, "{context}: {warning}");
    }
    assert_eq!(findings(store).await, [], "{context}");
    assert_logs_equal_the_ledger(&**store, context).await;
    check_snapshots(&**store, history, expected, context).await;
    // After a refresh, the lake holds exactly the expected rows, once.
    refresh(Arc::clone(store), url, unit).await.unwrap();
    assert_logs_equal_the_ledger(&**store, context).await;
    let found = visible(&**store).await;
    for case in CASES {
        let ids = found
            .get(&case.slice(expected.unit))
            .cloned()
            .unwrap_or_default();
        assert_eq!(ids, case.ids_in_the_end(), "{context}: {}", case.day);
    }
    assert_eq!(findings(store).await, [], "{context}");
    if has_logs(&**store).await {
        // Removes replaced files.
        catch_up(Arc::clone(store), url, unit).await.unwrap();
        assert_only_current_files(&**store, context).await;
        check_snapshots(&**store, history, expected, context).await;
    }
    assert_eq!(
        names(&**store).await,
        expected.names_in_the_end,
        "{context}"
    );
    // A run without changes writes nothing, except for the slice that fails.
    let faults = Faults::none();
    let last = FaultStore::new(Arc::clone(store), &faults);
    refresh(last as _, url, unit).await.unwrap();
    let broken = format!("_cdrlake/rejects/placed/{}.failed.ndjson.zst", broken(unit));
    for path in written(&faults.operations()) {
        assert!(
            path.starts_with("_cdrlake/run") || path == broken,
            "{context}: {path}"
        );
    }
}

/// A run under test. Its report does not matter, but it must not panic.
async fn run_to_its_end(store: Arc<dyn LakeStore>, url: &str, unit: PeriodUnit) {
    drop(refresh(store, url, unit).await);
}

/// Runs until an operation hangs, or to the end.
fn run_with_fault(store: Arc<dyn LakeStore>, url: &str, unit: PeriodUnit, faults: &Faults) {
    block_on(async {
        tokio::select! {
            () = run_to_its_end(store, url, unit) => {}
            // A hanging run is killed.
            () = faults.reached.cancelled() => {}
        }
    });
}

/// The operations of a run on a copy of the lake, and what it leaves.
fn rehearse(begun: &Place, url: &str, unit: PeriodUnit) -> (Vec<Operation>, Expected) {
    let faults = Faults::none();
    let place = begun.copy();
    run_unharmed(place.store(&faults), url, unit);
    let operations = faults.operations();
    assert!(operations.len() > 50, "{operations:?}");
    let expected = block_on(async {
        if has_logs(&*place.sound()).await {
            // Removes replaced files.
            catch_up(place.sound(), url, unit).await.unwrap();
        }
        Expected {
            unit,
            names_in_the_end: names(&*place.sound()).await,
            versions_before: newest_versions(&*begun.sound()).await,
        }
    });
    (operations, expected)
}

/// A run without faults.
fn run_unharmed(store: Arc<dyn LakeStore>, url: &str, unit: PeriodUnit) {
    let report = block_on(refresh(store, url, unit)).unwrap();
    let outcomes: BTreeSet<String> = report
        .slices
        .iter()
        .map(|slice| format!("{:?}", slice.outcome))
        .collect();
    assert_eq!(
        outcomes.len(),
        3,
        "committed, unchanged and failed: {report:?}"
    );
}

/// A lake in a bucket, prepared for the run under test.
fn begin_in_bucket(server: &Server, single_put_bytes: u64, kind: Kind) -> Place {
    let place = Place::in_bucket(single_put_bytes);
    begin(&place.sound(), server, kind);
    place
}

/// Small files are uploaded in one request, large ones in parts.
const WAYS_IN: [u64; 2] = [1 << 20, 0];

/// [`WAYS_IN`], each with each of [`KINDS`].
fn ways_in() -> impl Iterator<Item = (u64, Kind)> {
    let kinds = KINDS.into_iter();
    kinds.flat_map(|kind| WAYS_IN.map(|way| (way, kind)))
}

#[test]
fn a_refused_file_fails_its_slice_and_a_refused_table_ends_the_run() {
    fn writes(action: &str) -> bool {
        matches!(action, "overwrite" | "create" | "update" | "begin")
    }
    let server = Server::start();
    serve(&server, PeriodUnit::Day, |case| case.now);
    let run_refused = |single_put_bytes, refuses: fn(&str, &Path) -> bool| {
        let objects = Arc::new(InMemory::new());
        let bucket = FaultBucket::new(&objects, &Faults::none()).refusing(refuses);
        let lake = bucket_lake(Arc::new(bucket), single_put_bytes, Duration::from_mins(1));
        let (lake, url) = (Arc::new(lake), server.url());
        let days = all_days(PeriodUnit::Day);
        let ran = run_watched(lake, &url, days, false, Arc::new(NoObserver));
        block_on(ran).unwrap()
    };
    for single_put_bytes in WAYS_IN {
        let ran = run_refused(single_put_bytes, |action, path| {
            writes(action) && path.as_ref().contains("cdrs/dt=2026-10-08")
        });
        assert_eq!(ran.stopped_by, None);
        let failed = |slice: &&SliceReport| slice.outcome != SliceOutcome::Committed;
        let failed: Vec<_> = ran.report.slices.iter().filter(failed).collect();
        let days: BTreeSet<String> = failed
            .iter()
            .map(|slice| slice.period.to_string())
            .collect();
        assert_eq!(
            days,
            BTreeSet::from(["2026-10-08".to_owned(), BROKEN_DAY.to_owned()])
        );
        let errors = failed.iter().filter_map(|slice| slice.error.as_deref());
        assert!(
            errors
                .into_iter()
                .any(|error| error.contains("lack a permission"))
        );

        let ran = run_refused(single_put_bytes, |action, path| {
            writes(action) && path.as_ref().contains("cdrs/")
        });
        assert!(matches!(ran.stopped_by, Some(Stop::NoLake(_))), "{ran:?}");
        let is_skipped = |slice: &&SliceReport| slice.outcome == SliceOutcome::Skipped;
        assert!(
            ran.report.slices.iter().filter(is_skipped).count() > 3,
            "{ran:?}"
        );
    }
}

/// In memory, a process that dies and one that hangs until it is killed leave the same objects.
#[test]
fn the_lake_stays_consistent_if_any_bucket_request_fails_hangs_or_is_the_last() {
    let server = Server::start();
    let url = server.url();
    for (single_put_bytes, kind) in ways_in() {
        let begun = begin_in_bucket(&server, single_put_bytes, kind);
        let (operations, expected) = rehearse(&begun, &url, kind.slice);
        let uploads = operations.iter().any(|(action, _)| *action == "complete");
        assert_eq!(uploads, single_put_bytes == 0, "{operations:?}");
        for_each_fault(
            kind,
            &begun,
            // Requests that do not concern files are the same in both cases.
            |(_, path)| !uploads || path.contains("/cdrs/") || path.contains("/rejects/"),
            async |store| refresh(store, &url, kind.slice).await.is_ok(),
            async |place, context| {
                check_and_go_on(&place.sound(), &place.history, &url, &expected, context).await;
            },
        );
    }
}

const FAULTS: [Fault; 4] = [
    Fault::ErrorBefore,
    Fault::ErrorAfter,
    Fault::HangBefore,
    Fault::HangAfter,
];

/// Number of operations sampled on a real server, which takes milliseconds for each request.
const SAMPLE: usize = 24;

#[test]
fn the_lake_stays_consistent_if_sampled_s3_operations_fail_hang_or_are_the_last() {
    let server = Server::start();
    let Some(rehearsal) = crate::s3::Bucket::create() else {
        return;
    };
    let unit = PeriodUnit::Day;
    begin(&rehearsal.store(0), &server, Kind::of_days(""));
    let faults = Faults::none();
    run_unharmed(
        FaultStore::new(rehearsal.store(0), &faults),
        &server.url(),
        unit,
    );
    let operations = faults.operations();
    let names_in_the_end = block_on(names(&*rehearsal.store(0)));
    let step = operations.len() * FAULTS.len() / SAMPLE;
    // Each with its own server, because its calls change while a lake is filled.
    for_each(SAMPLE, |sample| {
        let server = Server::start();
        let bucket = crate::s3::Bucket::create().unwrap();
        let single_put_bytes = WAYS_IN[sample % WAYS_IN.len()];
        let tables = TABLES[sample / WAYS_IN.len() % TABLES.len()];
        let history = Arc::default();
        let recorded = |faults: &Arc<Faults>| -> Arc<dyn LakeStore> {
            let store = bucket.store(single_put_bytes);
            let uri = store.uri();
            FaultStore::of_lake(store, faults, uri, &history)
        };
        begin(&recorded(&Faults::none()), &server, Kind::of_days(tables));
        let expected = Expected {
            unit,
            names_in_the_end: names_in_the_end.clone(),
            versions_before: block_on(newest_versions(&*bucket.store(single_put_bytes))),
        };
        let (at, fault) = (sample * step / FAULTS.len(), sample * step % FAULTS.len());
        let faults = Faults::new(at, FAULTS[fault].clone());
        run_with_fault(recorded(&faults), &server.url(), unit, &faults);
        bucket.expire_leases();
        let next = recorded(&Faults::none());
        let context = format!("{:?} of {:?}", FAULTS[fault], operations[at]);
        let url = server.url();
        let checked = check_and_go_on(&next, &history, &url, &expected, &context);
        block_on(checked);
    });
}

/// A lake on disk, prepared for the run under test.
fn begin_on_disk(server: &Server, kind: Kind) -> Place {
    let place = Place::on_disk();
    begin(&place.sound(), server, kind);
    place
}

#[test]
fn the_lake_stays_consistent_if_any_local_operation_fails_or_hangs() {
    let server = Server::start();
    let url = server.url();
    for kind in KINDS {
        let begun = begin_on_disk(&server, kind);
        let (_, expected) = rehearse(&begun, &url, kind.slice);
        for_each_fault(
            kind,
            &begun,
            |_| true,
            async |store| refresh(store, &url, kind.slice).await.is_ok(),
            async |place, context| {
                check_and_go_on(&place.sound(), &place.history, &url, &expected, context).await;
            },
        );
    }
}

#[test]
fn the_lake_stays_consistent_if_a_process_dies_at_any_local_operation() {
    let server = Server::start();
    for kind in KINDS {
        die_at_local_operations(&server, kind);
    }
}

fn die_at_local_operations(server: &Server, kind: Kind) {
    let unit = kind.slice;
    let begun = begin_on_disk(server, kind);
    let (operations, expected) = rehearse(&begun, &server.url(), unit);
    let mut deaths: Vec<(usize, &str)> = Vec::new();
    for (at, operation) in operations.iter().enumerate() {
        deaths.push((at, "before"));
        // After a read, the lake equals that before it.
        if changes_something(operation) {
            deaths.push((at, "after"));
        }
    }
    kind.for_each_case(deaths, |&(at, when)| {
        let place = begun.copy();
        let (root, uri, url) = (place.root(), place.sound().uri(), server.url());
        let victim = format!("{}\n{uri}\n{url}\n{unit}\n{at}\n{when}", root.display());
        // Without core dumps.
        let script = "ulimit -c 0; exec \"$0\" --exact protocol::victim --ignored";
        let output = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .env(VICTIM, victim)
            .output()
            .unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        let aborted = 6;
        assert_eq!(
            signal,
            Some(aborted),
            "{at}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        let context = format!("{when} {:?}", operations[at]);
        place.history.replay(&journal_of(&root));
        std::fs::remove_file(journal_of(&root)).ok();
        let store = place.sound();
        let checked = check_and_go_on(&store, &place.history, &url, &expected, &context);
        block_on(checked);
    });
}

/// Where a process that dies notes its changes of the ledger.
fn journal_of(root: &FilePath) -> PathBuf {
    root.with_extension("journal")
}

#[test]
#[ignore = "the test above runs it as the process that dies"]
fn victim() {
    let victim = std::env::var(VICTIM).unwrap();
    let [root, uri, url, unit, at, when] = victim.split('\n').collect::<Vec<_>>()[..] else {
        panic!("{victim}");
    };
    let fault = match when {
        "before" => Fault::AbortBefore,
        _ => Fault::AbortAfter,
    };
    let faults = Faults::new(at.parse().unwrap(), fault);
    let root = FilePath::new(root);
    let history = LedgerHistory::with_journal(journal_of(root));
    let faulty = FaultStore::of_lake(local(root), &faults, uri.to_owned(), &history);
    let unit = match unit {
        "day" => PeriodUnit::Day,
        _ => PeriodUnit::Month,
    };
    run_with_fault(faulty, url, unit, &faults);
}

/// The worst case for a lease: its holder and the holder's clock pause, the lease expires, another
/// run commits different rows, and the holder continues.
#[test]
fn a_paused_run_without_its_leases_changes_nothing_or_is_detected() {
    let server = Server::start();
    for (single_put_bytes, kind) in ways_in() {
        let begun = begin_in_bucket(&server, single_put_bytes, kind);
        let (operations, _) = rehearse(&begun, &server.url(), kind.slice);
        // The other run's source: one more call each day.
        let later = Server::start();
        serve(&later, kind.slice, |case| Content {
            calls: case.now.calls + 1,
            ..case.now
        });
        // Before its first lease, the paused run would simply be the later run.
        let first = operations
            .iter()
            .position(|(_, path)| path.contains("_cdrlake/leases/placed"));
        let first = first.unwrap();
        kind.for_each_case((first..operations.len()).collect(), |&at| {
            block_on(sleep_at(at, &begun.copy(), &server, &later, kind.slice));
        });
    }
}

/// Pauses a run before its request `at` while another run does everything.
async fn sleep_at(at: usize, place: &Place, server: &Server, later: &Server, unit: PeriodUnit) {
    let resume = CancellationToken::new();
    let faults = Faults::new(at, Fault::Pause(resume.clone()));
    let (sleeper, other) = (place.store(&faults), place.sound());
    let url = server.url();
    let mut sleeping = Box::pin(refresh(sleeper, &url, unit));
    let others = async {
        faults.reached.cancelled().await;
        place.expire_leases().await;
        refresh(Arc::clone(&other), &later.url(), unit)
            .await
            .unwrap();
        let done = visible(&*other).await;
        resume.cancel();
        done
    };
    let done = tokio::select! {
        done = others => done,
        // The last request may come from a detached task.
        _ = &mut sleeping => return,
    };
    drop(sleeping.await);
    let operation = faults.operations()[at].clone();
    let found = visible(&*other).await;
    let differing: Vec<Slice> = done
        .keys()
        .chain(found.keys())
        .filter(|slice| done.get(slice) != found.get(slice))
        .copied()
        .collect();
    let has_logs = has_logs(&*other).await;
    if !differing.is_empty() {
        assert!(!has_logs, "{operation:?}: {differing:?}");
        // It paused between its last check and an unconditional request.
        assert!(
            ["complete", "delete"].contains(&operation.0) && operation.1.contains("/cdrs/"),
            "{operation:?}: {differing:?}"
        );
        let faults: BTreeSet<_> = findings(&other)
            .await
            .into_iter()
            .filter_map(|finding| finding.slice)
            .collect();
        assert_eq!(
            faults,
            differing.into_iter().collect(),
            "the ledger matches the table"
        );
    }
    // The next run restores the other run's rows.
    catch_up(Arc::clone(&other), &later.url(), unit)
        .await
        .unwrap();
    assert_eq!(visible(&*other).await, done, "{operation:?}");
    assert_logs_equal_the_ledger(&*other, &format!("{operation:?}")).await;
    // Two runs at once may commit their slices in another order than the ledger.
    let mut read = BTreeMap::new();
    for snapshot in snapshots(&*other).await.iter().flatten() {
        rows_of(&*other, snapshot, &mut read).await;
        for path in snapshot.paths() {
            assert!(place.history.contains_file(&path), "{operation:?}: {path}");
        }
    }
    let mut left = findings(&other).await;
    // A file that arrives late is in no log, and `gc` removes it.
    left.retain(|finding| !has_logs || finding.fault != verify::Fault::Foreign);
    assert_eq!(left, [], "{operation:?}");
}

/// Kills a run after it has committed a slice after its pause.
#[derive(Debug)]
struct Killer {
    woken: CancellationToken,
    killed: CancellationToken,
}

impl Observer for Killer {
    fn slice_began(&self, _: Slice, _: u32) {}
    fn records_read(&self, _: u64) {}
    fn slice_ended(&self, report: &SliceReport) {
        if self.woken.is_cancelled() && report.outcome == SliceOutcome::Committed {
            self.killed.cancel();
        }
    }
}

/// A run is paused until another run declares it crashed, reports its changes and removes its
/// marker. It continues, commits a day, and is killed.
#[test]
fn a_commit_of_a_run_declared_crashed_is_reported_even_if_the_run_then_crashes() {
    let server = Server::start();
    for kind in KINDS {
        wake_and_die_everywhere(&server, kind);
    }
}

fn wake_and_die_everywhere(server: &Server, kind: Kind) {
    let begun = begin_in_bucket(server, 1 << 20, kind);
    let (operations, _) = rehearse(&begun, &server.url(), kind.slice);
    let first = operations
        .iter()
        .position(|(_, path)| path.contains("_cdrlake/leases/placed"));
    let first = first.unwrap();
    let committed = std::sync::atomic::AtomicUsize::new(0);
    // Killed after it has committed, or after one or two ledger entries, which announce or commit.
    let ways = [usize::MAX, 1, 2];
    let points = first..operations.len();
    let cases: Vec<(usize, usize)> = points
        .flat_map(|at| ways.map(|entries| (at, entries)))
        .collect();
    let enough = match kind.slice {
        PeriodUnit::Day if is_whole() => 150,
        _ => cases.len() / 48,
    };
    kind.for_each_case(cases, |&(at, entries)| {
        let has_committed = block_on(wake_and_die(at, entries, &begun.copy(), server, kind.slice));
        committed.fetch_add(usize::from(has_committed), Ordering::SeqCst);
    });
    assert!(committed.into_inner() > enough);
}

/// Pauses a run before its request `at`. It dies after a commit, or after `entries` ledger entries.
/// Returns whether it wrote anything after the pause.
async fn wake_and_die(
    at: usize,
    entries: usize,
    place: &Place,
    server: &Server,
    unit: PeriodUnit,
) -> bool {
    let woken = CancellationToken::new();
    let killed = CancellationToken::new();
    let faults = Faults::dying_after(at, Fault::Pause(woken.clone()), entries);
    let other = place.sound();
    let before = visible(&*other).await;
    let url = server.url();
    // A period that the paused run does not fetch.
    let elsewhere = Period::containing(date(2026, 9, 1), unit);
    serve_period(server, elsewhere, String::new(), 0);
    let elsewhere = (elsewhere.first_day(), elsewhere.last_day());
    let loaded = run(Arc::clone(&other), &url, elsewhere, true)
        .await
        .unwrap();
    let lake = Lake::find_any(Arc::clone(&other)).await.unwrap().unwrap();
    let runs_before = lake.runs().await.unwrap();
    let killer = Arc::new(Killer {
        woken: woken.clone(),
        killed: killed.clone(),
    });
    {
        let sleeper = place.store(&faults);
        let sleeping = run_watched(sleeper, &url, all_days(unit), true, killer);
        let others = async {
            faults.reached.cancelled().await;
            place.expire_leases().await;
            run(Arc::clone(&other), &url, elsewhere, true)
                .await
                .unwrap();
            woken.cancel();
            tokio::select! {
                () = killed.cancelled() => {}
                () = faults.died.cancelled() => {}
            }
        };
        tokio::select! {
            _ = sleeping => {}
            () = others => {}
        }
    }
    place.expire_leases().await;
    run(Arc::clone(&other), &url, elsewhere, true)
        .await
        .unwrap();
    let operation = &faults.operations()[at];
    let mut reported = BTreeSet::new();
    for run in lake.runs().await.unwrap() {
        if !runs_before.contains(&run) {
            let report: RunReport = lake.run_report(&run).await.unwrap().unwrap();
            reported.extend(report.partitions_changed);
        }
    }
    let since = changed_since(&lake, &loaded.run).await.unwrap().unwrap();
    let now = visible(&*other).await;
    for case in CASES {
        let slice = case.slice(unit);
        if before.get(&slice) != now.get(&slice) {
            let entry = lake.entry(slice).await.entry;
            // The next run reports a slice that was only announced.
            if entry.pending.is_none() {
                assert!(
                    reported.contains(&slice.period.first_day()),
                    "{slice} after {at}: {operation:?}"
                );
                assert!(
                    since.contains(&slice.period.first_day()),
                    "{slice} after {at}: {operation:?}"
                );
            }
        }
    }
    killed.is_cancelled() || faults.died.is_cancelled()
}

#[test]
fn a_report_that_another_writer_always_overwrites_is_not_reported_as_stored() {
    let server = Server::start();
    let unit = PeriodUnit::Day;
    serve(&server, unit, |case| case.now);
    let directory = tempfile::tempdir().unwrap();
    let store = FaultStore::too_late_for(local(directory.path()), layout::RUNS);
    let ran = block_on(run_watched(
        store,
        &server.url(),
        days(unit, 0, 0),
        false,
        Arc::new(NoObserver),
    ));
    let ran = ran.unwrap();
    assert!(!ran.is_kept);
    let message =
        "the run report could not be stored in the lake: other processes changed _cdrlake/runs/";
    assert!(
        ran.report.warnings.iter().any(|one| one.contains(message)),
        "{:?}",
        ran.report.warnings
    );
    // The next run reports its changes.
    let next = block_on(catch_up(local(directory.path()), &server.url(), unit)).unwrap();
    assert!(
        next.partitions_changed
            .contains(&CASES[0].period(unit).first_day())
    );
}

#[test]
fn adding_an_erased_number_gives_up_after_repeated_conflicts() {
    let directory = tempfile::tempdir().unwrap();
    let store = FaultStore::too_late_for(local(directory.path()), "_cdrlake/suppressed");
    block_on(async {
        tokio::time::pause();
        let config = config("http://127.0.0.1:1");
        let privacy = config.privacy(false).unwrap();
        let identity = config.identity(&privacy);
        let lake = Lake::open(store, &identity, privacy).await.unwrap();
        let key =
            cdrlake::internals::PrivacyKey::try_new("0123456789abcdefghijklmnopqrstuv").unwrap();
        let refused = lake
            .suppress(key.id(), &key.token("13025550101"), None)
            .await;
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.ends_with("during each attempt to write it. Try again"),
            "{refused}"
        );
    });
}

/// Panics while the second day is processed.
#[derive(Debug)]
struct Panics {
    is_second: std::sync::atomic::AtomicBool,
    at: &'static str,
}

impl Panics {
    fn panic_at(&self, place: &str) {
        let is_second = self.is_second.load(Ordering::SeqCst);
        assert!(!is_second || place != self.at, "about +13025550101");
    }
}

impl Observer for Panics {
    fn slice_began(&self, slice: Slice, _: u32) {
        let is_second = slice.period.to_string() == "2026-10-02";
        self.is_second.store(is_second, Ordering::SeqCst);
        self.panic_at("begin");
    }
    fn records_read(&self, _: u64) {
        self.panic_at("read");
    }
    fn slice_ended(&self, _: &SliceReport) {
        self.panic_at("end");
    }
}

#[test]
fn a_panic_in_one_slice_fails_only_that_slice() {
    let server = Server::start();
    let days = ["2026-10-01", "2026-10-02", "2026-10-03"];
    for day in days {
        server.serve("placed", day, calls(0, 3).replace(DAY, day), 3);
    }
    let all = (parse_day(days[0]).unwrap(), parse_day(days[2]).unwrap());
    for at in ["begin", "read", "end"] {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::new(directory.path(), 0o600);
        store.prepare().unwrap();
        let store: Arc<dyn LakeStore> = Arc::new(store);
        let observer = Arc::new(Panics {
            is_second: false.into(),
            at,
        });
        let url = server.url();
        let observed = run_watched(Arc::clone(&store), &url, all, false, observer);
        let report = block_on(observed).unwrap().report;
        let failed: Vec<&SliceReport> = report
            .slices
            .iter()
            .filter(|slice| slice.outcome == SliceOutcome::Failed)
            .collect();
        let message = if at == "end" {
            // The slice is committed: only the observer failed.
            assert!(failed.is_empty(), "{at}: {report:?}");
            report.warnings.join("\n")
        } else {
            assert_eq!(failed.len(), 1, "{at}: {report:?}");
            assert_eq!(failed[0].period.to_string(), days[1]);
            let entry = directory
                .path()
                .join("_cdrlake/ledger/placed/2026-10-02.json");
            let entry = std::fs::read_to_string(entry).unwrap();
            assert!(entry.contains("please report it"), "{entry}");
            assert!(!entry.contains("3025550101"), "{entry}");
            failed[0].error.clone().unwrap()
        };
        assert!(
            message.contains("please report it") && !message.contains("3025550101"),
            "{message}"
        );
        let committed = report.slices.len() - failed.len();
        assert_eq!(block_on(visible(&*store)).len(), committed, "{at}");
        let kept = directory
            .path()
            .join(format!("_cdrlake/runs/{}.json", report.run));
        assert!(kept.is_file(), "the report is stored");
        // The next run can lease the slice.
        let next = block_on(run(Arc::clone(&store), &url, all, false));
        let next = next.unwrap();
        assert!(
            next.slices
                .iter()
                .any(|slice| slice.period.to_string() == days[1])
                || at == "end"
        );
        assert_eq!(block_on(visible(&*store)).len(), 3, "{at}");
    }
}

/// Variable for the child of the test below.
const PANIC: &str = "TEST_PANIC";

#[test]
fn a_panic_prints_its_location_but_not_its_message() {
    if std::env::var_os(PANIC).is_some() {
        cdrlake::internals::install_panic_hook();
        let number = "+13025550101";
        panic!("about {number}");
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let name = "protocol::a_panic_prints_its_location_but_not_its_message";
    child.args([name, "--exact", "--nocapture"]).env(PANIC, "1");
    let output = child.output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("cdrlake panicked at tests/it/protocol.rs:"),
        "{message}"
    );
    assert!(!message.contains("3025550101"), "{message}");
}
