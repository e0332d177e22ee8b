//! Calls by hour.
//!
//! Calls are counted by quarter of an hour, because in every time zone the hours begin at a quarter
//! of an hour of UTC. Quarters then make the hours of the lake's time zone.

use std::ops::{Range, RangeInclusive};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::Serialize;

use super::sums::{Outcome, Outcomes};
use crate::cdr::day::{end_of_day, start_of_day};
use crate::cdr::slice::Direction;

const QUARTER_SECONDS: i64 = 900;
const QUARTER_USIZE: usize = 900;

/// The seconds of `days`, and of a day before and after.
pub(super) fn seconds_around(days: &RangeInclusive<Date>, timezone: &TimeZone) -> Range<i64> {
    let first = days.start().yesterday().unwrap_or(*days.start());
    let last = days.end().tomorrow().unwrap_or(*days.end());
    let begin = start_of_day(first, timezone).as_second();
    begin..end_of_day(last, timezone).as_second()
}

/// Calls of one direction by quarter of an hour.
#[derive(Debug)]
pub(super) struct Quarters {
    /// The second that the first quarter begins with.
    first: i64,
    sums: Vec<Outcomes>,
}

impl Quarters {
    /// No calls yet, within these seconds.
    pub(super) fn within(seconds: &Range<i64>) -> Self {
        let first = seconds.start.div_euclid(QUARTER_SECONDS);
        let end = (seconds.end - 1).div_euclid(QUARTER_SECONDS) + 1;
        Self {
            first: first * QUARTER_SECONDS,
            sums: vec![Outcomes::default(); usize::try_from(end - first).unwrap_or_default()],
        }
    }

    /// Adds a call. Returns whether it begins within the quarters; otherwise it is left out.
    #[inline]
    pub(super) fn add(&mut self, second: i64, outcome: Outcome, seconds: i32) -> bool {
        let since = usize::try_from(second - self.first).ok();
        match since.and_then(|since| self.sums.get_mut(since / QUARTER_USIZE)) {
            Some(sums) => {
                sums.add(outcome, seconds);
                true
            }
            None => false,
        }
    }

    /// Adds the calls of a file.
    pub(super) fn merge(&mut self, other: &Self) {
        let begin = (other.first - self.first) / QUARTER_SECONDS;
        for (quarter, sums) in (begin..).zip(&other.sums) {
            let own = usize::try_from(quarter)
                .ok()
                .and_then(|quarter| self.sums.get_mut(quarter));
            if let Some(own) = own {
                own.merge(sums);
            }
        }
    }

    fn at(&self, second: i64) -> Outcomes {
        let quarter = (second - self.first) / QUARTER_SECONDS;
        let sums = usize::try_from(quarter)
            .ok()
            .and_then(|quarter| self.sums.get(quarter));
        sums.copied().unwrap_or_default()
    }

    /// The hours of `days` in this time zone, in order.
    pub(super) fn hours(&self, days: &RangeInclusive<Date>, timezone: &TimeZone) -> Vec<Hour> {
        let begin = start_of_day(*days.start(), timezone).as_second();
        let end = end_of_day(*days.end(), timezone).as_second();
        let mut hours: Vec<Hour> = Vec::new();
        let mut last = None;
        let mut second = begin;
        while second < end {
            let begin = Timestamp::from_second(second).expect("a time within days");
            let local = begin.to_zoned(timezone.clone());
            // An hour that a clock change repeats is another one.
            let key = (local.date(), local.hour(), local.offset());
            if last != Some(key) {
                hours.push(Hour {
                    begin,
                    date: local.date(),
                    clock: local.hour(),
                    outcomes: Outcomes::default(),
                });
                last = Some(key);
            }
            if let Some(hour) = hours.last_mut() {
                hour.outcomes.merge(&self.at(second));
            }
            second += QUARTER_SECONDS;
        }
        hours
    }
}

/// One hour of the clock in the lake's time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hour {
    pub(super) begin: Timestamp,
    pub(super) date: Date,
    /// The hour of the clock, from 0 to 23.
    pub(super) clock: i8,
    pub(super) outcomes: Outcomes,
}

/// The calls of one direction that began in one hour.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HourShown {
    /// When the hour began.
    pub begin: Timestamp,
    /// The direction.
    pub direction: Direction,
    /// Calls and seconds.
    #[serde(flatten)]
    pub outcomes: Outcomes,
}

/// One hour of the week.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct RhythmHour {
    /// 1 for Monday, to 7 for Sunday.
    pub weekday: i8,
    /// From 0 to 23.
    pub hour: i8,
    /// Calls in all such hours.
    pub calls: u64,
    /// Answered calls in them.
    pub answered: u64,
    /// The number of such hours, on days that the lake has whole, in every direction.
    pub hours: u64,
}

/// The hours of a week. `hours` are those of all directions.
pub(super) fn rhythm<'a>(hours: impl Iterator<Item = &'a [Hour]>) -> Vec<RhythmHour> {
    let weekdays = (1..=7).flat_map(|weekday| (0..24).map(move |hour| (weekday, hour)));
    let mut week: Vec<RhythmHour> = weekdays
        .map(|(weekday, hour)| RhythmHour {
            weekday,
            hour,
            ..RhythmHour::default()
        })
        .collect();
    for (direction, hours) in hours.enumerate() {
        for hour in hours {
            let weekday = hour.date.weekday().to_monday_zero_offset();
            let index = usize::try_from(i16::from(weekday) * 24 + i16::from(hour.clock));
            let Some(cell) = index.ok().and_then(|index| week.get_mut(index)) else {
                continue;
            };
            cell.calls += hour.outcomes.calls;
            cell.answered += hour.outcomes.answered;
            cell.hours += u64::from(direction == 0);
        }
    }
    week
}

/// The day so many days before.
pub(super) fn days_before(day: Date, days: i64) -> Option<Date> {
    day.checked_sub(days.days()).ok()
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    /// The local date, hour and calls of each hour around a change of clocks, one call in each
    /// minute.
    fn hours(zone: &str, day: Date) -> Vec<(i8, u64)> {
        let timezone = TimeZone::get(zone).unwrap();
        let days = day..=day;
        let seconds = seconds_around(&days, &timezone);
        let mut quarters = Quarters::within(&seconds);
        for second in seconds.clone().step_by(60) {
            assert!(quarters.add(second, Outcome::Answered, 1));
        }
        assert!(!quarters.add(seconds.start - 900, Outcome::Answered, 1));
        assert!(!quarters.add(seconds.end, Outcome::Answered, 1));
        let hours = quarters.hours(&days, &timezone);
        assert!(hours.iter().all(|hour| hour.date == day));
        assert!(hours.is_sorted_by(|a, b| a.begin < b.begin));
        hours
            .iter()
            .map(|it| (it.clock, it.outcomes.calls))
            .collect()
    }

    #[test]
    fn hours_are_those_of_the_clock_also_where_it_changes() {
        let whole = |clocks: &[i8]| clocks.iter().map(|clock| (*clock, 60)).collect::<Vec<_>>();
        let day: Vec<i8> = (0..24).collect();
        assert_eq!(hours("UTC", date(2026, 3, 29)), whole(&day));
        assert_eq!(hours("Asia/Kathmandu", date(2026, 3, 29)), whole(&day));
        let without_two: Vec<i8> = (0..24).filter(|clock| *clock != 2).collect();
        assert_eq!(
            hours("Europe/Berlin", date(2026, 3, 29)),
            whole(&without_two)
        );
        let twice_two: Vec<i8> = (0..3).chain(2..24).collect();
        assert_eq!(
            hours("Europe/Berlin", date(2026, 10, 25)),
            whole(&twice_two)
        );
        // Half an hour is repeated, and an hour of the clock is in two parts.
        let mut lord_howe = whole(&day);
        lord_howe[1] = (1, 60);
        lord_howe.insert(2, (1, 30));
        assert_eq!(hours("Australia/Lord_Howe", date(2026, 4, 5)), lord_howe);
    }

    #[test]
    fn a_rhythm_counts_each_hour_of_the_week_once_for_all_directions() {
        let timezone = TimeZone::UTC;
        let days = date(2026, 3, 2)..=date(2026, 3, 10);
        let mut quarters = Quarters::within(&seconds_around(&days, &timezone));
        let monday = start_of_day(*days.start(), &timezone).as_second();
        for second in [monday, monday + 3599, monday + 7 * 86_400, monday + 3600] {
            quarters.add(second, Outcome::Answered, 1);
        }
        let hours = quarters.hours(&days, &timezone);
        let week = rhythm([&*hours, &*hours].into_iter());
        assert_eq!(week.len(), 168);
        let counts = |of: &RhythmHour| (of.weekday, of.hour, of.calls, of.answered, of.hours);
        assert_eq!(counts(&week[0]), (1, 0, 6, 6, 2));
        assert_eq!(counts(&week[1]), (1, 1, 2, 2, 2));
        assert_eq!(counts(&week[167]), (7, 23, 0, 0, 1));
    }
}
