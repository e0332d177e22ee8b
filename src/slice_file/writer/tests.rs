use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use parquet::basic::Compression;

use super::*;
use crate::cdr::day::day_number;
use crate::cdr::slice::Direction;

const SLICE: Slice = Slice::of_day(jiff::civil::date(2026, 10, 1), Direction::Placed);
const OTHER: Slice = Slice::new(SLICE.period, Direction::Received);

fn options() -> ParquetOptions {
    ParquetOptions {
        compression: Compression::SNAPPY,
        row_group_rows: 5_000,
        row_group_bytes: usize::MAX,
    }
}

fn record(row: usize) -> Record<'static> {
    Record {
        call_id: Some(row.to_string().into()),
        call_time_us: 1,
        ..Record::default()
    }
}

/// A file with `rows` rows.
fn spooled(path: &Path, rows: usize) -> SpooledRows {
    let mut writer = SpoolWriter::try_new(path, SLICE, &options()).unwrap();
    (0..rows).for_each(|row| writer.append(&record(row)).unwrap());
    writer.end().unwrap()
}

/// The ids of the rows of a finished file.
fn ids(path: &Path) -> Vec<usize> {
    let mut ids = Vec::new();
    let read = read_rows(path, SLICE, |record| {
        ids.push(record.call_id.as_deref().unwrap().parse().unwrap());
        Ok::<(), WriteError>(())
    });
    read.unwrap();
    ids
}

#[test]
fn rows_are_read_back_in_order_with_and_without_the_footer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    // More than one batch, and more than one row group.
    let count = BATCH_ROWS + 10;
    let spooled = spooled(&path, count);
    let mut rows = 0;
    let read = spooled.read(|found| {
        assert_eq!(*found, record(rows));
        rows += 1;
        Ok::<(), WriteError>(())
    });
    read.unwrap();
    assert_eq!(rows, count);
    let file = spooled
        .finish(vec![(SLICE_KEY, SLICE.to_string())])
        .unwrap();
    assert_eq!(file.rows, count as u64);
    assert_eq!(file.bytes, std::fs::metadata(&path).unwrap().len());
    assert_eq!(file.checksum, checksum_of(&path).unwrap());
    assert!(ids(&path).into_iter().eq(0..count));
    assert_eq!(slice_named_in(&path), Some(SLICE.to_string()));
    assert_eq!(rows_of(&path, SLICE), Some(count as u64));
    assert_eq!(rows_of(&path, OTHER), None);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "only the owner can read it");
    drop(file);
    assert!(!path.exists());
}

#[test]
fn surplus_rows_are_dropped_and_the_others_are_passed_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    let surplus = [0, 3, 4, 9].map(Ok);
    let mut kept: Vec<usize> = Vec::new();
    let rewritten = spooled(&path, 10).without_rows(surplus.into_iter(), |record| {
        kept.push(record.call_id.as_deref().unwrap().parse().unwrap());
    });
    let file = rewritten.unwrap().finish(Vec::new()).unwrap();
    assert_eq!(kept, [1, 2, 5, 6, 7, 8]);
    assert_eq!(ids(&file.path), kept);
    assert!(!path.exists(), "the file with all rows is gone");
}

#[test]
fn a_symbolic_link_at_the_path_is_replaced_and_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let [path, elsewhere] = ["a", "elsewhere"].map(|name| directory.path().join(name));
    std::fs::write(&elsewhere, "mine").unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    spooled(&path, 1).finish(Vec::new()).unwrap();
    assert_eq!(std::fs::read(&elsewhere).unwrap(), b"mine");
}

#[test]
fn rows_of_another_slice_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = spooled(&directory.path().join("a"), 1)
        .finish(Vec::new())
        .unwrap();
    let read = read_rows(&file.path, OTHER, |_| Ok::<(), WriteError>(()));
    let problem = crate::error::chain(&read.unwrap_err());
    assert!(
        problem.contains("rows of another slice than received"),
        "{problem}"
    );
}

#[test]
fn an_incomplete_parquet_file_has_neither_footer_nor_slice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    assert!(matches!(
        read_footer(&path),
        Err(WriteError::Io { action: "open", .. })
    ));
    std::fs::write(&path, "PAR1 and no more").unwrap();
    assert!(matches!(
        read_footer(&path),
        Err(WriteError::Parquet { action: "read", .. })
    ));
    assert_eq!((slice_named_in(&path), rows_of(&path, SLICE)), (None, None));
}

#[test]
fn a_batch_that_is_read_has_no_more_text_than_a_written_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    let rows_at_once = |text_bytes: usize| {
        let mut writer = SpoolWriter::try_new(&path, SLICE, &options()).unwrap();
        let long = Record {
            call_id: Some("x".repeat(text_bytes).into()),
            ..Record::default()
        };
        writer.append(&long).unwrap();
        let file = writer.end().unwrap().finish(Vec::new()).unwrap();
        batch_rows(read_footer(&file.path).unwrap().metadata().file_metadata())
    };
    assert_eq!(rows_at_once(100), BATCH_ROWS);
    assert_eq!(rows_at_once(1 << 20), 4);
    assert_eq!(rows_at_once(5 << 20), 1);
}

/// Days with few rows are sorted together, and a day with more rows is read alone.
#[test]
fn rows_of_a_month_are_sorted_by_day_and_keep_their_order_within_a_day() {
    let slice = Slice::new("2026-10".parse().unwrap(), Direction::Placed);
    let first = day_number(slice.period.first_day());
    let mut random = fastrand::Rng::with_seed(1);
    for (rows, most_rows) in [(1, 1), (40, 1), (200, 7), (5_000, 300), (9_000, 100_000)] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("placed-2026-10.parquet");
        let mut writer = SpoolWriter::try_new(&path, slice, &options()).unwrap();
        let mut by_day = BTreeMap::<i32, Vec<String>>::new();
        for row in 0..rows {
            // Most rows belong to one day.
            let day = first + if random.bool() { 8 } else { random.i32(0..31) };
            let record = Record {
                source_day: Some(day),
                ..record(row)
            };
            writer.append(&record).unwrap();
            by_day.entry(day).or_default().push(row.to_string());
        }
        let days = by_day.iter().map(|(day, rows)| (*day, rows.len() as u64));
        let spooled = writer.end().unwrap();
        let sorted = spooled.sorted_with(days, most_rows).unwrap();
        let mut found = Vec::new();
        sorted
            .read(|record| {
                let id = record.call_id.as_deref().unwrap().to_owned();
                found.push((record.source_day.unwrap(), id));
                Ok::<(), WriteError>(())
            })
            .unwrap();
        let expected = by_day.into_iter();
        let expected = expected.flat_map(|(day, rows)| rows.into_iter().map(move |id| (day, id)));
        assert_eq!(found, expected.collect::<Vec<_>>());
        // Nothing of the unsorted file is left.
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(sorted.finish(Vec::new()).unwrap().rows, rows as u64);
    }
}

#[test]
fn a_file_in_descending_order_is_sorted_without_reading_all_of_it_for_each_day() {
    let slice = Slice::new("2026-10".parse().unwrap(), Direction::Placed);
    let first = day_number(slice.period.first_day());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("placed-2026-10.parquet");
    let mut writer = SpoolWriter::try_new(&path, slice, &options()).unwrap();
    // Two row groups for each day.
    for row in 0..30_000 {
        let source_day = Some(first + 2 - i32::try_from(row / 10_000).unwrap());
        let record = Record {
            source_day,
            ..record(row)
        };
        writer.append(&record).unwrap();
    }
    let spooled = writer.end().unwrap();
    let row_groups = |from, to| spooled.row_groups_of(&(first + from..=first + to)).len();
    assert_eq!(
        (row_groups(0, 0), row_groups(0, 1), row_groups(0, 2)),
        (2, 4, 6)
    );
    assert_eq!((row_groups(-9, -1), row_groups(3, 9)), (0, 0));
    let days = (0..3).map(|day| (first + day, 10_000));
    let sorted = spooled.sorted_with(days, 1).unwrap();
    let mut found = Vec::new();
    sorted
        .read(|record| {
            found.push(record.source_day.unwrap() - first);
            Ok::<(), WriteError>(())
        })
        .unwrap();
    assert_eq!(found.len(), 30_000);
    assert!(found.is_sorted());
}
