use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock};

use cdrlake::internals::parse_day;
use cdrlake::{Period, PeriodUnit, RunReport, Slice};
use serde_json::Value;

use crate::server::Server;
use crate::support::{
    CANARY, DAY, Workplace, block_on, calls, copy_tree, for_each_case, output, read, skipped,
    threads,
};
use crate::sweep::{KINDS, Kind, local};
use crate::table_logs::{
    assert_logs_equal_the_ledger, current_files, has_logs, rows_of, snapshots,
};

/// `tests/it/syscalls.c`, compiled.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/syscalls.c");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let library = folder.join(format!("syscalls-{}.so", std::process::id()));
        let compiled = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".to_owned()))
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .args([source, "-ldl"])
            .status()
            .expect("building cdrlake needs a C compiler too");
        assert!(compiled.success());
        // Another test run may use the existing file.
        let shared = folder.join("syscalls.so");
        std::fs::rename(library, &shared).unwrap();
        shared
    })
}

/// The day before [`DAY`], whose calls disappear.
const DAY_BEFORE: &str = "2026-09-30";

/// A server and a lake with three placed calls of [`DAY`] and two of the day before. The server now
/// has more calls of [`DAY`], including duplicates, broken records and received calls, and none of
/// the day before.
fn begin() -> (Server, Workplace) {
    let server = Server::start();
    server
        .serve("placed", DAY, calls(0, 3), 3)
        .serve("placed", DAY_BEFORE, calls(20, 2), 2);
    let workplace = Workplace::new(&server);
    let days = ["run", "--from", DAY_BEFORE, "--to", DAY];
    assert_eq!(
        workplace
            .run(&[&days[..], &["--direction", "placed"]].concat())
            .status,
        0
    );
    serve_changes(&server, PeriodUnit::Day);
    (server, workplace)
}

/// The slice's period that contains a day.
fn period_of(day: &str, unit: PeriodUnit) -> Period {
    Period::containing(parse_day(day).unwrap(), unit)
}

/// Serves the slice that contains a day.
fn serve(
    server: &Server,
    unit: PeriodUnit,
    (direction, day): (&str, &str),
    calls: &str,
    total: u64,
) {
    let period = period_of(day, unit);
    let (first, last) = (
        period.first_day().to_string(),
        period.last_day().to_string(),
    );
    server.serve_days(direction, (&first, &last), calls, total);
}

fn serve_changes(server: &Server, unit: PeriodUnit) {
    let placed = format!("{}{}{{\"date\":\"broken\"}}\n", calls(0, 5), calls(0, 1));
    serve(server, unit, ("placed", DAY), &placed, 7);
    serve(server, unit, ("received", DAY), &calls(9, 1), 1);
    serve(server, unit, ("placed", DAY_BEFORE), "", 0);
    serve(server, unit, ("received", DAY_BEFORE), "", 0);
}

/// Runs the program with the preloaded library on a copy of the lake.
fn run_with_shim(lake: &Path, workplace: &Workplace, fault: Option<(usize, &str)>) -> Output {
    let mut command = workplace.command(&[
        "run",
        "--from",
        DAY_BEFORE,
        "--to",
        DAY,
        "--refresh",
        "--allow-shrink",
        "--requests",
        "1",
        "--lake",
    ]);
    command
        .arg(lake)
        // One slice at a time.
        .env("CDRLAKE_LIMITS_MEMORY", "1MiB")
        .env("CDRLAKE_PARQUET_ROW_GROUP_BYTES", "1MiB")
        .env("LD_PRELOAD", shim())
        .env("SHIM_ROOT", lake)
        .env("SHIM_LOG", log_of(lake));
    if let Ok(partition) = std::fs::read_link(partition_of(lake)) {
        command.env("SHIM_ALSO", partition.parent().unwrap());
    }
    if let Some((at, fault)) = fault {
        command
            .env("SHIM_AT", at.to_string())
            .env("SHIM_FAULT", fault);
    }
    output(command)
}

/// The partition of [`DAY`].
fn partition_of(lake: &Path) -> PathBuf {
    lake.join(format!("cdrs/dt={DAY}"))
}

fn log_of(lake: &Path) -> PathBuf {
    lake.with_extension("log")
}

/// The logged system calls: name and paths.
fn logged(lake: &Path) -> Vec<(String, Vec<String>)> {
    let text = std::fs::read_to_string(log_of(lake)).unwrap();
    let prefix = format!("{}/", lake.display());
    text.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next().unwrap().to_owned();
            let paths = words.map(|path| path.replacen(&prefix, "", 1)).collect();
            (name, paths)
        })
        .collect()
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[test]
fn publishing_syncs_the_file_renames_it_and_syncs_the_directory() {
    let (_server, workplace) = begin();
    let lake = workplace.path("copy");
    copy_tree(&workplace.path("lake"), &lake);
    let output = run_with_shim(&lake, &workplace, None);
    assert!(output.status.success(), "{output:?}");
    let calls = logged(&lake);

    let root = lake.to_str().unwrap();
    let emptied = format!("cdrs/dt={DAY_BEFORE}/placed-{DAY_BEFORE}.parquet");
    let mut unsynced_files = BTreeSet::new();
    let mut unsynced_directories = BTreeSet::new();
    let mut renamed = Vec::new();
    let mut removed = Vec::new();
    let mut synced = BTreeSet::new();
    for (name, paths) in &calls {
        let path = paths[0].as_str();
        match name.as_str() {
            "create" | "write" => {
                unsynced_files.insert(path);
            }
            "fsync" => {
                unsynced_files.remove(path);
                unsynced_directories.remove(path);
                synced.insert(path);
            }
            "mkdir" => {
                unsynced_directories.insert(parent(path));
            }
            // Others failed because the file did not exist.
            "unlink" if path == emptied => {
                removed.push(path);
                unsynced_directories.insert(parent(path));
            }
            "rename" => {
                let target = paths[1].as_str();
                // A crashed run may have created the directories without syncing them.
                for directory in Path::new(target).ancestors().skip(1) {
                    let above = directory.parent().map(|above| above.to_str().unwrap());
                    let above = above.map(|above| if above.is_empty() { root } else { above });
                    assert!(
                        above.is_none_or(|above| synced.contains(above)),
                        "{directory:?} was not made to last before {target}: {calls:?}"
                    );
                }
                assert!(
                    !unsynced_files.contains(path),
                    "{target} was renamed before it was synced: {calls:?}"
                );
                assert!(
                    unsynced_directories.is_empty(),
                    "{unsynced_directories:?} before {target}: {calls:?}"
                );
                unsynced_directories.insert(parent(target));
                renamed.push(target);
            }
            _ => {}
        }
    }
    assert!(unsynced_directories.is_empty(), "{unsynced_directories:?}");
    assert!(removed.contains(&emptied.as_str()), "{removed:?}");
    let of = |direction: &str| {
        [
            format!("_cdrlake/ledger/{direction}/{DAY}.json"),
            format!("cdrs/dt={DAY}/{direction}-{DAY}.parquet"),
            format!("_cdrlake/ledger/{direction}/{DAY}.json"),
        ]
    };
    let [intend, publish, commit] = of("placed");
    let rejects = format!("_cdrlake/rejects/placed/{DAY}.ndjson.zst");
    let mut expected = vec![intend, rejects, publish, commit];
    expected.extend(of("received"));
    // Without rows, nothing is renamed into the table.
    for direction in ["placed", "received"] {
        let entry = format!("_cdrlake/ledger/{direction}/{DAY_BEFORE}.json");
        expected.extend([entry.clone(), entry]);
    }
    let [marker, slices @ .., report] = &renamed[..] else {
        panic!("{renamed:?}");
    };
    assert_eq!(slices, expected);
    assert!(marker.starts_with("_cdrlake/running/"));
    assert!(report.starts_with("_cdrlake/runs/"));
}

/// Ids in every file of the table, or in those that the ledger names if the lake has logs. Panics
/// if a file is incomplete.
fn visible(lake: &Path, unit: PeriodUnit) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let store = local(lake);
    let named = block_on(async {
        if !has_logs(&*store).await {
            return None;
        }
        Some(current_files(&*store).await)
    });
    for (name, direction, day) in [
        ("placed", "placed", DAY),
        ("received", "received", DAY),
        ("emptied", "placed", DAY_BEFORE),
    ] {
        let slice = Slice::new(period_of(day, unit), direction.parse().unwrap());
        let (period, first) = (slice.period, slice.period.first_day());
        let path = match &named {
            Some(named) => named.get(&slice).cloned(),
            None => Some(format!("cdrs/dt={first}/{direction}-{period}.parquet")),
        };
        if let Some(path) = path.map(|path| lake.join(path))
            && (named.is_some() || path.exists())
        {
            found.insert(name.to_owned(), read(&path).num_rows());
        }
    }
    found
}

/// A lake for one fault.
struct Victim {
    unit: PeriodUnit,
    lake: PathBuf,
    /// How it was before.
    before: PathBuf,
    /// The files that the ledger named at each moment at which logs could be committed.
    moments: Vec<BTreeSet<String>>,
}

/// Lakes that are alike, each at a path of its own, which the log of Apache Iceberg contains.
struct Lakes<'a> {
    workplace: &'a Workplace,
    free: Mutex<Vec<Victim>>,
}

impl<'a> Lakes<'a> {
    /// Lakes of this kind, like that of [`begin`]. Those with logs also have a replaced file, which
    /// the next run removes.
    fn begin(kind: Kind, server: &Server, workplace: &'a Workplace) -> Self {
        let unit = kind.slice;
        workplace.reconfigure("url = \"lake\"", "url = \"lake\"\nkeep_replaced = \"0d\"");
        workplace.with_tables(kind.tables);
        workplace.configure_also(&format!("[window]\nslice = \"{unit}\""));
        let lake = |number| Victim {
            unit,
            lake: workplace.path(format!("lake-{number}")),
            before: workplace.path(format!("before-{number}")),
            moments: Vec::new(),
        };
        let mut lakes: Vec<Victim> = (0..threads()).map(lake).collect();
        for calls_of_the_day in [2, 3] {
            let of_the_day = calls(0, calls_of_the_day);
            serve(
                server,
                unit,
                ("placed", DAY),
                &of_the_day,
                calls_of_the_day.into(),
            );
            serve(server, unit, ("placed", DAY_BEFORE), &calls(20, 2), 2);
            for Victim { lake, moments, .. } in &mut lakes {
                let days = ["run", "--from", DAY_BEFORE, "--to", DAY, "--refresh"];
                let lake_of_it = ["--direction", "placed", "--lake", lake.to_str().unwrap()];
                assert_eq!(workplace.run(&[&days[..], &lake_of_it].concat()).status, 0);
                moments.push(named(lake));
            }
        }
        for Victim { lake, before, .. } in &lakes {
            std::fs::rename(lake, before).unwrap();
        }
        serve_changes(server, unit);
        let free = Mutex::new(lakes);
        Self { workplace, free }
    }

    /// Does `work` on one of the lakes.
    fn with_one<T>(&self, work: impl FnOnce(&Victim) -> T) -> T {
        let victim = self.free.lock().unwrap().pop();
        let victim = victim.expect("there are as many as threads");
        if victim.lake.exists() {
            std::fs::remove_dir_all(&victim.lake).unwrap();
            std::fs::remove_file(log_of(&victim.lake)).unwrap();
        }
        copy_tree(&victim.before, &victim.lake);
        let result = work(&victim);
        self.free.lock().unwrap().push(victim);
        result
    }

    /// The system calls that can fail. In a lake with logs, those from the first ledger entry on:
    /// the ones before do not differ.
    fn calls(&self) -> std::ops::Range<usize> {
        self.with_one(|Victim { lake, .. }| {
            let output = run_with_shim(lake, self.workplace, None);
            assert!(output.status.success(), "{output:?}");
            let calls = logged(lake);
            assert!(calls.len() > 50, "{calls:?}");
            let is_entry = |(name, paths): &(String, Vec<String>)| {
                name == "rename" && paths[1].starts_with("_cdrlake/ledger/")
            };
            let first = calls.iter().position(is_entry).unwrap();
            let has_logs = block_on(has_logs(&*local(lake)));
            let first = if has_logs { first } else { 0 };
            first..calls.len()
        })
    }
}

/// The files that the ledger names.
fn named(lake: &Path) -> BTreeSet<String> {
    let files = block_on(current_files(&*local(lake)));
    files.into_values().collect()
}

/// Checks that every snapshot of the logs is complete, and equals the ledger of one of the
/// `moments`.
async fn check_snapshots(lake: &Path, moments: &[BTreeSet<String>], context: &str) {
    let (store, mut read) = (local(lake), BTreeMap::new());
    for snapshot in snapshots(&*store).await.iter().flatten() {
        rows_of(&*store, snapshot, &mut read).await;
        let files = snapshot.paths();
        assert!(
            files.is_empty() || moments.contains(&files),
            "{context}: the ledger was never like {snapshot:?}"
        );
    }
}

/// Checks the lake after a failed run, then runs again.
fn check_and_go_on(victim: &Victim, workplace: &Workplace, context: &str) {
    let Victim {
        unit, lake, before, ..
    } = victim;
    let found = visible(lake, *unit);
    let mut moments = victim.moments.clone();
    moments.push(named(lake));
    block_on(check_snapshots(lake, &moments, context));
    assert!(
        [Some(&3), Some(&5)].contains(&found.get("placed"))
            && [None, Some(&1)].contains(&found.get("received"))
            && [None, Some(&2)].contains(&found.get("emptied")),
        "{context}: {found:?}"
    );
    let path = lake.to_str().unwrap();
    // An ordinary run: the affected slices are due.
    // `--allow-shrink` is required for the slice that lost its calls.
    let ran = workplace.run(&[
        "run",
        "--from",
        DAY_BEFORE,
        "--to",
        DAY,
        "--allow-shrink",
        "--lake",
        path,
    ]);
    assert_eq!(ran.status, 0, "{context}: {ran:?}");
    // Some report lists every changed day.
    let mut reported = BTreeSet::new();
    for entry in std::fs::read_dir(lake.join("_cdrlake/runs")).unwrap() {
        let path = entry.unwrap().path();
        let was_there = before.join("_cdrlake/runs").join(path.file_name().unwrap());
        if !was_there.exists() {
            let report: RunReport = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            reported.extend(report.partitions_changed.iter().map(ToString::to_string));
        }
    }
    let found = visible(lake, *unit);
    if found.get("placed") != Some(&3) || found.contains_key("received") {
        assert!(reported.contains(DAY), "{context}");
    }
    if !found.contains_key("emptied") {
        let partition = period_of(DAY_BEFORE, *unit).first_day().to_string();
        assert!(reported.contains(&partition), "{context}");
    }
    let verified = workplace.run(&["verify", "--lake", path]);
    assert_eq!(verified.status, 0, "{context}: {verified:?}");
    block_on(assert_logs_equal_the_ledger(&*local(lake), context));
    moments.push(named(lake));
    block_on(check_snapshots(lake, &moments, context));
    let staging = lake.join("_cdrlake/staging");
    let left = std::fs::read_dir(staging).unwrap().count();
    assert_eq!(left, 0, "{context}");
}

#[test]
fn the_lake_survives_a_kill_at_any_system_call() {
    for kind in KINDS {
        let server = Server::start();
        let workplace = Workplace::new(&server);
        let lakes = Lakes::begin(kind, &server, &workplace);
        kind.for_each_case(lakes.calls().collect(), |&at| {
            lakes.with_one(|victim| {
                let output = run_with_shim(&victim.lake, &workplace, Some((at, "kill")));
                assert_eq!(output.status.signal(), Some(9), "{at}: {output:?}");
                let last = logged(&victim.lake).pop().unwrap();
                check_and_go_on(victim, &workplace, &format!("{at}: {last:?}"));
            });
        });
    }
}

#[test]
fn the_lake_survives_a_disk_error_at_any_system_call() {
    for kind in KINDS {
        let server = Server::start();
        let workplace = Workplace::new(&server);
        let lakes = Lakes::begin(kind, &server, &workplace);
        kind.for_each_case(lakes.calls().collect(), |&at| {
            lakes.with_one(|victim| fail_at(at, victim, &workplace));
        });
    }
}

/// Fails a system call of a run, checks how it ends, and goes on.
fn fail_at(at: usize, victim: &Victim, workplace: &Workplace) {
    let lake = &victim.lake;
    let output = run_with_shim(lake, workplace, Some((at, "error")));
    let calls = logged(lake);
    let context = format!("{at}: {:?} {output:?}", calls[at]);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        !text.contains("panicked") && !text.contains(CANARY),
        "{context}"
    );
    match output.status.code() {
        Some(0) => {
            let path = lake.to_str().unwrap();
            let arguments = ["verify", "--format", "json", "--lake", path];
            let findings = workplace.run(&arguments).json()["findings"].clone();
            // Of replaced files that were not removed, the next run completes the log.
            let is_warned = text.contains("replaced files could not be removed: the log of ");
            let is_harmless = |finding: &Value| {
                finding["fault"] == "leftover" || (is_warned && finding["fault"] == "table_log")
            };
            assert!(
                findings.as_array().unwrap().iter().all(is_harmless),
                "{context} {findings}"
            );
        }
        Some(1 | 2) => {
            let is_full = calls[at].0 != "fsync" && calls[at].0 != "unlink";
            let message = if is_full {
                "No space left on device (os error 28). Make room there and run again"
            } else {
                "Input/output error (os error 5)"
            };
            assert!(text.contains(message), "{context}");
        }
        _ => panic!("{context}"),
    }
    check_and_go_on(victim, workplace, &context);
}

/// Moves the partition of [`DAY`] elsewhere, behind a link.
fn move_partition(lake: &Path, elsewhere: &Path) {
    let partition = partition_of(lake);
    copy_tree(&partition, &elsewhere.join("a-day"));
    std::fs::remove_dir_all(&partition).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("a-day"), partition).unwrap();
}

#[test]
fn a_partition_on_another_file_system_survives_an_error_or_kill_at_any_system_call() {
    let (_server, workplace) = begin();
    let variable = "TEST_OTHER_FILE_SYSTEM";
    let other = std::env::var_os(variable).map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
    let device_of = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev());
    let here = device_of(&workplace.path("lake")).unwrap();
    if device_of(&other).is_ok_and(|device| device == here) || !other.is_dir() {
        skipped(variable, "a directory on another file system");
        return;
    }
    let elsewhere = tempfile::tempdir_in(other).unwrap();
    let rehearsal = workplace.path("rehearsal");
    copy_tree(&workplace.path("lake"), &rehearsal);
    move_partition(&rehearsal, &elsewhere.path().join("rehearsal"));
    let output = run_with_shim(&rehearsal, &workplace, None);
    assert!(output.status.success(), "{output:?}");
    let calls = logged(&rehearsal);
    // The other calls are covered by the tests on one file system.
    let first = calls
        .iter()
        .position(|(_, paths)| paths[0].contains(".cdrlake-copy"));
    let last = calls
        .iter()
        .rposition(|(_, paths)| paths[0].contains(".cdrlake-copy"));
    let (first, last) = (first.unwrap() - 3, last.unwrap() + 4);
    let faults = |at| ["kill", "error"].map(|fault| (at, fault));
    for_each_case((first..last).flat_map(faults).collect(), |&(at, fault)| {
        let lake = workplace.path(format!("{fault}-{at}"));
        let elsewhere = elsewhere.path().join(format!("{fault}-{at}"));
        copy_tree(&workplace.path("lake"), &lake);
        move_partition(&lake, &elsewhere);
        let output = run_with_shim(&lake, &workplace, Some((at, fault)));
        let context = format!("{fault} {at}: {:?} {output:?}", logged(&lake).last());
        if fault == "kill" {
            assert_eq!(output.status.signal(), Some(9), "{context}");
        }
        let before = workplace.path("lake");
        let moments = Vec::new();
        let victim = Victim {
            unit: PeriodUnit::Day,
            lake,
            before,
            moments,
        };
        check_and_go_on(&victim, &workplace, &context);
        let left = std::fs::read_dir(&elsewhere).unwrap().count();
        assert_eq!(left, 1, "{context}");
        let left = std::fs::read_dir(elsewhere.join("a-day")).unwrap().count();
        assert_eq!(left, 2, "{context}");
    });
}
