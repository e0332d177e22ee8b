//! Where things lie in a lake. `lake::TableForm` names the files of the table; every other path
//! depends on the slice alone.
//!
//! ```text
//! cdrs/dt=2026-10-01/placed-2026-10-01.parquet      the table: nothing but finished files
//! _cdrlake/lake.json                                the lake's identity
//! _cdrlake/suppressed.json                          erased numbers, as keyed hashes
//! _cdrlake/ledger/placed/2026-10-01.json            what was published for the slice
//! _cdrlake/rejects/placed/2026-10-01.ndjson.zst     rejects
//! _cdrlake/rejects/placed/2026-10-01.failed.ndjson.zst   rejects of a failed attempt
//! _cdrlake/leases/placed-2026-10-01.lock            held while the slice is worked on
//! _cdrlake/locks/                                   held during a conditional write
//! _cdrlake/staging/                                 files before their publication
//! _cdrlake/runs/<run>.json                          one report for each run
//! _cdrlake/running/<run>                            a run without a report yet
//! _cdrlake/unsynced/<run>                           a run whose changes a log lacks
//! _delta_log/00000000000000000000.json              a commit of the Delta Lake log
//! _delta_log/00000000000000000050.checkpoint.parquet     its state at a version
//! _delta_log/_last_checkpoint                       the version of a recent checkpoint
//! ```

use object_store::path::Path;

use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::slice::{Direction, Slice, parse_day};

/// The table's directory. Readers treat every file below it as data.
pub const TABLE: &str = "cdrs";
/// Everything but the table.
pub const META: &str = "_cdrlake";
/// Ledger entries.
pub const LEDGER: &str = "_cdrlake/ledger";
/// Rejects.
pub const REJECTS: &str = "_cdrlake/rejects";
/// Reports of runs.
pub const RUNS: &str = "_cdrlake/runs";
/// Markers of runs without a report. In a directory of their own, because there are many reports.
pub const RUNNING: &str = "_cdrlake/running";
/// Notes of runs whose changes are not in the logs of table formats yet.
pub const UNSYNCED: &str = "_cdrlake/unsynced";
/// The log of Apache Iceberg.
pub const ICEBERG_LOG: &str = "_iceberg";
/// Leases.
pub const LEASES: &str = "_cdrlake/leases";
/// Locks of conditional writes on local disk.
pub const LOCKS: &str = "_cdrlake/locks";
/// Files on their way into the table, on the table's file system.
pub const STAGING: &str = "_cdrlake/staging";
/// The Delta Lake log. Beside the table, because readers of the table's directory would take its
/// checkpoints for calls.
pub const DELTA_LOG: &str = "_delta_log";

/// Digits of the token that makes a file's name unique.
const TOKEN_DIGITS: usize = 32;

/// The directory of the table that holds the files of a period.
pub fn partition(period: Period) -> Path {
    Path::from(format!("{TABLE}/dt={}", period.first_day()))
}

/// What the names of a slice's files begin with: in the table, among the leases and in the spool.
pub fn stem(slice: Slice) -> String {
    format!("{}-{}", slice.direction, slice.period)
}

/// The slice whose lease a process holds while it writes to `path`: a file of the table, or
/// rejects. `None` for any other path.
///
/// A file of the table lies in the partition of its day, and its name begins with the slice's
/// [`stem`]. The rest of the name is up to `lake::TableForm`.
pub fn leased_slice(path: &Path) -> Option<Slice> {
    if let Some((slice, _)) = rejects_slice(path) {
        return Some(slice);
    }
    let (name, day) = (path.filename()?, partition_day(path)?);
    let is_in_partition = path.parts().count() == 3;
    let units = PeriodUnit::ALL.into_iter();
    let periods = units.map(|(_, unit)| Period::containing(day, unit));
    let periods = periods.filter(|period| period.first_day() == day);
    let mut slices = periods.flat_map(|it| Direction::ALL.map(|to| Slice::new(it, to)));
    slices.find(|&slice| {
        let rest = name.strip_prefix(&*stem(slice));
        // The stem of a day begins like that of its month. A token is longer than a day.
        let may_follow = |rest: &str| match slice.period.unit() {
            PeriodUnit::Day => rest.starts_with(['.', '-']),
            PeriodUnit::Month => {
                rest.starts_with('.') || (rest.starts_with('-') && rest.len() > TOKEN_DIGITS)
            }
        };
        is_in_partition && rest.is_some_and(may_follow)
    })
}

/// The day of the partition in which a file lies; `None` outside of partitions.
pub fn partition_day(path: &Path) -> Option<jiff::civil::Date> {
    let below = path.as_ref().strip_prefix(TABLE)?.strip_prefix("/dt=")?;
    parse_day(below.split_once('/')?.0).ok()
}

/// The slice's ledger entry.
pub fn ledger_entry(slice: Slice) -> Path {
    Path::from(format!(
        "{LEDGER}/{}/{}.json",
        slice.direction, slice.period
    ))
}

/// The directory of a direction's ledger entries.
pub fn ledger(direction: Direction) -> Path {
    Path::from(format!("{LEDGER}/{direction}"))
}

/// The slice whose ledger entry lies at `path`; `None` for any other file.
pub fn ledger_slice(path: &Path) -> Option<Slice> {
    let slice = of_direction_and_period(path, ".json")?;
    (ledger_entry(slice) == *path).then_some(slice)
}

/// The slice's rejects.
pub fn rejects_file(slice: Slice) -> Path {
    Path::from(format!(
        "{REJECTS}/{}/{}.ndjson.zst",
        slice.direction, slice.period
    ))
}

/// Rejects of a failed attempt at the slice. The lake still holds the slice as it was before, with
/// the rejects of that attempt.
pub fn failed_rejects_file(slice: Slice) -> Path {
    Path::from(format!(
        "{REJECTS}/{}/{}.failed.ndjson.zst",
        slice.direction, slice.period
    ))
}

/// The slice whose rejects lie at `path`, and whether they belong to a failed attempt; `None` for
/// any other file.
pub fn rejects_slice(path: &Path) -> Option<(Slice, bool)> {
    if let Some(slice) = of_direction_and_period(path, ".failed.ndjson.zst") {
        return (failed_rejects_file(slice) == *path).then_some((slice, true));
    }
    let slice = of_direction_and_period(path, ".ndjson.zst")?;
    (rejects_file(slice) == *path).then_some((slice, false))
}

/// The slice of a path that ends in `<direction>/<period><suffix>`.
fn of_direction_and_period(path: &Path, suffix: &str) -> Option<Slice> {
    let (parent, name) = path.as_ref().rsplit_once('/')?;
    let direction = parent.rsplit('/').next()?;
    Some(Slice::new(
        name.strip_suffix(suffix)?.parse().ok()?,
        direction.parse().ok()?,
    ))
}

/// The slice's lease.
pub fn lease(slice: Slice) -> Path {
    Path::from(format!("{LEASES}/{}.lock", stem(slice)))
}

/// The report of a run.
pub fn run_report(run: &str) -> Path {
    Path::from(format!("{RUNS}/{run}.json"))
}

/// Exists from the start of a run until its report is stored.
pub fn run_marker(run: &str) -> Path {
    Path::from(format!("{RUNNING}/{run}"))
}

/// Exists while a log of a table format lacks what the run changed.
pub fn unsynced(run: &str) -> Path {
    Path::from(format!("{UNSYNCED}/{run}"))
}

/// The run whose marker lies at `path`; `None` for any other file.
pub fn marked_run(path: &Path) -> Option<&str> {
    let run = path.filename()?;
    let is_shaped = |(at, byte): (usize, u8)| match at {
        8 => byte == b'T',
        15 => byte == b'Z',
        16 => byte == b'-',
        0..16 => byte.is_ascii_digit(),
        _ => byte.is_ascii_hexdigit(),
    };
    (run.len() == 25 && run.bytes().enumerate().all(is_shaped)).then_some(run)
}

/// The run whose report lies at `path`.
pub fn reported_run(path: &Path) -> Option<&str> {
    path.filename()?.strip_suffix(".json")
}

/// A run holds it as long as it lives.
pub fn run_lease(run: &str) -> Path {
    Path::from(format!("{LEASES}/run-{run}.lock"))
}

/// A process holds it while it converts the lake.
pub fn conversion_lease() -> Path {
    Path::from(format!("{LEASES}/conversion.lock"))
}

/// The size limit of an object at `path`. A ledger entry has a few kilobytes; a report has some for
/// each slice of its run. A commit of a log has one for each file that it adds or removes.
pub fn max_bytes(path: &Path) -> u64 {
    let large = [RUNS, DELTA_LOG, ICEBERG_LOG];
    if large
        .iter()
        .any(|&large| path.prefix_matches(&Path::from(large)))
    {
        1 << 30
    } else {
        16 << 20
    }
}

/// The lake's identity.
pub fn identity() -> Path {
    Path::from(format!("{META}/lake.json"))
}

/// The list of erased numbers.
pub fn suppression() -> Path {
    Path::from(format!("{META}/suppressed.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_identifies_its_slice() {
        let slice = Slice::of_day(parse_day("2026-10-01").unwrap(), Direction::Placed);
        for path in [
            "cdrs/dt=2026-10-01/placed-2026-10-01.parquet",
            "cdrs/dt=2026-10-01/placed-2026-10-01-another.parquet",
            "_cdrlake/rejects/placed/2026-10-01.ndjson.zst",
        ] {
            assert_eq!(leased_slice(&Path::from(path)), Some(slice), "{path}");
        }
        let month = Slice::new("2026-10".parse().unwrap(), Direction::Placed);
        for path in [
            "cdrs/dt=2026-10-01/placed-2026-10.parquet",
            "cdrs/dt=2026-10-01/placed-2026-10-01a4a1d1b7b3f7e29d1cb1a9b7c5e0f3.parquet",
            "_cdrlake/rejects/placed/2026-10.ndjson.zst",
        ] {
            assert_eq!(leased_slice(&Path::from(path)), Some(month), "{path}");
        }
        assert_eq!(ledger_slice(&ledger_entry(month)), Some(month));
        for foreign in [
            "cdrs/dt=2026-10-02/placed-2026-10.parquet",
            "cdrs/dt=2026-10-02/placed-2026-10-01.parquet",
            "cdrs/dt=2026-10-01/below/placed-2026-10-01.parquet",
            "cdrs/dt=2026-10-01/placed-2026-10-011.parquet",
            "cdrs/placed-2026-10-01.parquet",
            "cdrs/dt=2026-10-01/lost-2026-10-01.parquet",
        ] {
            assert_eq!(leased_slice(&Path::from(foreign)), None, "{foreign}");
        }
        assert_eq!(ledger_slice(&ledger_entry(slice)), Some(slice));
        assert_eq!(
            ledger_slice(&Path::from("_cdrlake/ledger/placed/2026-10-01.json.bak")),
            None
        );
        let run = crate::lake::report::new_run_id(jiff::Timestamp::now());
        assert_eq!(marked_run(&run_marker(&run)), Some(&*run));
        for foreign in [
            "README",
            ".nfs000000000000000000001",
            "20261001T000000Z-000.json",
        ] {
            assert_eq!(marked_run(&run_marker(foreign)), None, "{foreign}");
        }
        assert_eq!(rejects_slice(&rejects_file(slice)), Some((slice, false)));
        assert_eq!(
            rejects_slice(&failed_rejects_file(slice)),
            Some((slice, true))
        );
        assert_eq!(
            rejects_slice(&Path::from(
                "_cdrlake/rejects/x/placed/2026-10-01.ndjson.zst"
            )),
            None
        );
    }
}
