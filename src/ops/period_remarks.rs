//! Remarks on the periods of a lake: days that are parts of a period, and files that are too small.

use std::collections::BTreeSet;

use bytesize::ByteSize;
use jiff::Timestamp;
use jiff::civil::Date;

use super::days::{Selection, today};
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::slice::Slice;
use crate::config::WindowConfig;
use crate::error::thousands;
use crate::lake::LedgerEntry;
use crate::lake::ledger::State;
use crate::lake::report::{Remark, RemarkKind};

/// More files than this are many.
const MANY_FILES: u64 = 500;
/// A file below this size is small: opening it takes longer than reading it.
const SMALL_FILE_BYTES: u64 = 256_000;

/// Remarks on a selection that begins or ends in the middle of a month, if slices are months.
pub(crate) fn on_selection(
    selection: &Selection,
    window: &WindowConfig,
    unit: PeriodUnit,
    now: Timestamp,
) -> Vec<Remark> {
    let today = today(window, now);
    let from = selection.from.and_then(|day| {
        let period = Period::containing(day, unit);
        let first = period.first_day();
        (day != first).then(|| middle(day, period, &format!("fetching begins with {first}")))
    });
    let to = selection.to.and_then(|day| {
        let period = Period::containing(day, unit);
        // Nothing later can be fetched of a month that has not ended.
        let last = match today.yesterday() {
            _ if selection.include_today => today,
            Ok(yesterday) => yesterday,
            Err(_) => today,
        };
        let last = last.min(period.last_day());
        (day < last).then(|| middle(day, period, &format!("fetching ends with {last}")))
    });
    from.into_iter().chain(to).map(Remark::from).collect()
}

fn middle(day: Date, period: Period, consequence: &str) -> String {
    format!(
        "{day} lies in the middle of {period}: slices are whole months, so \
         {consequence}"
    )
}

/// A remark on files of days that are many and small: each with its slice and its size in bytes.
pub(crate) fn on_files(files: impl Iterator<Item = (Slice, u64)>) -> Option<Remark> {
    let (mut number, mut bytes) = (0_u64, 0_u64);
    let mut months = BTreeSet::new();
    for (slice, size) in files.filter(|(slice, _)| slice.period.unit() == PeriodUnit::Day) {
        number += 1;
        bytes += size;
        let month = Period::containing(slice.period.first_day(), PeriodUnit::Month);
        months.insert(Slice::new(month, slice.direction));
    }
    let average = bytes.checked_div(number)?;
    (number > MANY_FILES && average < SMALL_FILE_BYTES).then(|| {
        RemarkKind::SmallFiles.remark(format!(
            "{} files of days have {} on average; with a file for each month, there would be {}",
            thousands(number),
            ByteSize(average).display().si(),
            thousands(months.len() as u64)
        ))
    })
}

/// The files of closed slices, each with its size in bytes.
pub(crate) fn closed_files<'a>(
    entries: impl IntoIterator<Item = (&'a Slice, &'a LedgerEntry)>,
) -> impl Iterator<Item = (Slice, u64)> {
    entries.into_iter().filter_map(|(slice, found)| {
        let commit = found.entry.committed.as_ref()?;
        let file = commit.file.as_ref()?;
        (commit.state == State::Closed).then_some((*slice, file.bytes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdr::slice::{Direction, parse_day};
    use crate::config::Config;

    fn day(text: &str) -> Date {
        parse_day(text).unwrap()
    }

    fn window(start: &str) -> WindowConfig {
        let keys = [("lake.url", "x"), ("window.start", start)];
        Config::from_keys(keys).unwrap().window
    }

    #[test]
    fn a_selection_that_begins_or_ends_in_the_middle_of_a_month_has_remarks() {
        let now = "2026-11-20T12:00:00Z".parse().unwrap();
        let remarks = |from, to, include_today| {
            let selection = Selection {
                from: Some(day(from)),
                to: Some(day(to)),
                include_today,
                ..Selection::default()
            };
            let window = window("2026-01-05");
            let days = on_selection(&selection, &window, PeriodUnit::Day, now);
            assert_eq!(days, []);
            let remarks = on_selection(&selection, &window, PeriodUnit::Month, now);
            let texts = remarks.into_iter().map(|remark| remark.text);
            texts.collect::<Vec<_>>()
        };
        let of = |day, month, consequence| {
            format!(
                "{day} lies in the middle of {month}: slices are whole months, so \
                 fetching {consequence}"
            )
        };
        assert_eq!(
            remarks("2026-09-05", "2026-10-10", false),
            [
                of("2026-09-05", "2026-09", "begins with 2026-09-01"),
                of("2026-10-10", "2026-10", "ends with 2026-10-31"),
            ]
        );
        let none: [&str; 0] = [];
        assert_eq!(remarks("2026-09-01", "2026-10-31", false), none);
        // What has not ended is not fetched.
        assert_eq!(remarks("2026-11-01", "2026-11-19", false), none);
        assert_eq!(remarks("2026-11-01", "2026-12-31", false), none);
        assert_eq!(
            remarks("2026-11-01", "2026-11-18", false),
            [of("2026-11-18", "2026-11", "ends with 2026-11-19")]
        );
        assert_eq!(remarks("2026-11-01", "2026-11-20", true), none);
        // The default of the last days is no choice.
        let all = on_selection(
            &Selection::default(),
            &window("2026-01-05"),
            PeriodUnit::Month,
            now,
        );
        assert_eq!(all, []);
    }

    #[test]
    fn only_many_and_small_files_of_days_have_a_remark() {
        let files = |number: usize, bytes: u64| {
            let first = Period::day(day("2025-01-01"));
            let days = Period::touching(first.first_day()..=Date::MAX, PeriodUnit::Day);
            let slices = days.flat_map(|period| {
                let of = move |direction| Slice::new(period, direction);
                Direction::ALL.map(of)
            });
            slices.take(number).map(move |slice| (slice, bytes))
        };
        assert_eq!(on_files(files(0, 0)), None);
        assert_eq!(on_files(files(500, 1_000)), None);
        assert_eq!(on_files(files(501, 256_000)), None);
        let remark = on_files(files(1_400, 31_200)).unwrap();
        assert_eq!(
            remark.text,
            "1,400 files of days have 31.2 kB on average; with a file for each month, there would \
             be 48"
        );
        let month: Slice = "placed 2026-10".parse().unwrap();
        assert_eq!(on_files(std::iter::repeat_n((month, 1), 900)), None);
    }
}
