//! How many calls are in progress at once, to the second.
//!
//! A call begins in the second of `call_time`, and is in progress for `duration_seconds`. Each file
//! gives the changes of the number of calls in each second of its days and of a day before and
//! after; the sweep adds them up in the order of days.

use std::collections::VecDeque;
use std::ops::Range;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::cdr::day::end_of_day;

/// Changes of the number of calls in progress, by second.
#[derive(Debug)]
pub(super) struct Differences {
    /// The first second.
    first: i64,
    /// The last one only ends calls.
    changes: Vec<i32>,
}

impl Differences {
    /// None yet, within these seconds.
    pub(super) fn within(seconds: Range<i64>) -> Self {
        let length = usize::try_from(seconds.end - seconds.start).unwrap_or_default();
        Self {
            first: seconds.start,
            changes: vec![0; length + 1],
        }
    }

    /// Adds a call that begins within the seconds. Returns whether it also ends within them;
    /// otherwise it ends with them.
    #[inline]
    pub(super) fn add(&mut self, begin: i64, seconds: i32) -> bool {
        if seconds <= 0 {
            return true;
        }
        let last = self.changes.len() - 1;
        let begin = usize::try_from(begin - self.first)
            .unwrap_or_default()
            .min(last);
        let end = begin + seconds.unsigned_abs() as usize;
        self.changes[begin] += 1;
        self.changes[end.min(last)] -= 1;
        end <= last
    }
}

/// The most calls at once on one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Peak {
    /// The day, in the lake's time zone.
    pub day: Date,
    /// Calls in progress.
    pub calls: u64,
    /// The first second in which there were so many.
    pub at: Timestamp,
}

/// Adds up the changes of files in the order of their days.
#[derive(Debug)]
pub(super) struct Sweep {
    timezone: TimeZone,
    /// The second that the first change belongs to.
    at: i64,
    changes: VecDeque<i32>,
    /// Calls in progress before it.
    running: i64,
    /// The day of that second, and the first second after it.
    day: Date,
    day_end: i64,
    /// The most calls so far on that day, and when.
    most: i64,
    most_at: i64,
    peaks: Vec<Peak>,
}

impl Sweep {
    /// Nothing yet. `seconds` contain all changes of the first file.
    pub(super) fn new(timezone: TimeZone) -> Self {
        Self {
            timezone,
            at: i64::MIN,
            changes: VecDeque::new(),
            running: 0,
            day: Date::MIN,
            day_end: i64::MIN,
            most: 0,
            most_at: 0,
            peaks: Vec::new(),
        }
    }

    /// Adds the changes of a file. Those of the next file begin no earlier.
    pub(super) fn add(&mut self, differences: &Differences) {
        self.advance(differences.first);
        if self.changes.len() < differences.changes.len() {
            self.changes.resize(differences.changes.len(), 0);
        }
        for (sum, change) in self.changes.iter_mut().zip(&differences.changes) {
            *sum += change;
        }
    }

    /// Settles the seconds before `until`.
    fn advance(&mut self, until: i64) {
        while self.at < until {
            let Some(change) = self.changes.pop_front() else {
                // No call lasts beyond the changes of its file.
                self.at = until;
                break;
            };
            if self.at >= self.day_end {
                self.end_day();
                self.begin_day();
            }
            self.running += i64::from(change);
            if self.running > self.most {
                (self.most, self.most_at) = (self.running, self.at);
            }
            self.at += 1;
        }
    }

    fn begin_day(&mut self) {
        let at = Timestamp::from_second(self.at).unwrap_or(Timestamp::MIN);
        self.day = at.to_zoned(self.timezone.clone()).date();
        self.day_end = end_of_day(self.day, &self.timezone).as_second();
    }

    fn end_day(&mut self) {
        if let (1.., Ok(at)) = (self.most, Timestamp::from_second(self.most_at)) {
            self.peaks.push(Peak {
                day: self.day,
                calls: self.most.unsigned_abs(),
                at,
            });
        }
        (self.most, self.most_at) = (0, self.at);
    }

    /// The peak of each day with a call in progress.
    pub(super) fn finish(mut self) -> Vec<Peak> {
        self.advance(
            self.at
                .saturating_add(self.changes.len().try_into().unwrap_or(i64::MAX)),
        );
        self.end_day();
        self.peaks
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use proptest::prelude::*;

    use super::*;
    use crate::cdr::day::start_of_day;
    use crate::ops::report::hours::seconds_around;

    const DAY_SECONDS: i64 = 86_400;

    proptest! {
        /// Compared with a count of the calls in progress in every second.
        #[test]
        fn the_peak_of_a_day_is_the_most_calls_in_any_of_its_seconds(
            calls in proptest::collection::vec((0..3_usize, 0..DAY_SECONDS, -5..90_000_i32), 0..40),
            zone in prop::sample::select(vec!["UTC", "Asia/Kathmandu", "America/New_York"]),
        ) {
            let timezone = TimeZone::get(zone).unwrap();
            // Clocks change on the second day.
            let first = date(2026, 3, 7);
            let days = std::iter::successors(Some(first), |day| day.tomorrow().ok());
            let days: Vec<Date> = days.take(5).collect();
            let mut sweep = Sweep::new(timezone.clone());
            let origin = start_of_day(first, &timezone).as_second();
            let mut running = vec![0_u64; usize::try_from(6 * DAY_SECONDS).unwrap()];
            for (number, day) in days.iter().take(3).enumerate() {
                let of_file = seconds_around(&(*day..=*day), &timezone);
                let last = usize::try_from(of_file.end - origin).unwrap();
                let mut differences = Differences::within(of_file);
                let begin_of_day = start_of_day(*day, &timezone).as_second();
                let of_day = calls.iter().filter(|(day, ..)| *day == number);
                for (_, begin, seconds) in of_day {
                    let begin = begin_of_day + begin;
                    let is_within = differences.add(begin, *seconds);
                    let begin = usize::try_from(begin - origin).unwrap();
                    let end = begin + usize::try_from(*seconds).unwrap_or_default();
                    prop_assert_eq!(is_within, end <= last);
                    for second in &mut running[begin..end.min(last)] {
                        *second += 1;
                    }
                }
                sweep.add(&differences);
            }
            let expected: Vec<Peak> = days.iter().filter_map(|day| {
                let [begin, end] = [start_of_day(*day, &timezone), end_of_day(*day, &timezone)];
                let seconds = begin.as_second()..end.as_second();
                let count = |second: i64| running[usize::try_from(second - origin).unwrap()];
                let at = seconds.rev().max_by_key(|second| count(*second))?;
                let calls = count(at);
                let at = Timestamp::from_second(at).unwrap();
                (calls > 0).then_some(Peak { day: *day, calls, at })
            }).collect();
            prop_assert_eq!(sweep.finish(), expected);
        }
    }
}
