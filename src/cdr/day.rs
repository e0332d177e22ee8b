//! Days in the account's time zone, as instants.

use std::ops::Range;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::period::{Period, PeriodUnit};

const EPOCH: Date = Date::constant(1970, 1, 1);

/// Days since 1970-01-01, as `DATE` columns store them.
pub(crate) fn day_number(day: Date) -> i32 {
    EPOCH
        .until(day)
        .map(|span| span.get_days())
        .expect("days between two dates fit")
}

/// The reverse of [`day_number`]. The first or the last day of the calendar, if it has no such day.
pub(crate) fn date_of(day_number: i32) -> Date {
    EPOCH.saturating_add(day_number.days())
}

/// First instant of `day` in the account's time zone.
pub(crate) fn start_of_day(day: Date, timezone: &TimeZone) -> Timestamp {
    // Only the calendar's last day has no instant, in some time zones.
    day.to_zoned(timezone.clone())
        .map_or(Timestamp::MAX, |start| start.timestamp())
}

/// First instant after `day`.
pub(crate) fn end_of_day(day: Date, timezone: &TimeZone) -> Timestamp {
    day.tomorrow()
        .map_or(Timestamp::MAX, |next| start_of_day(next, timezone))
}

/// A day in the account's time zone, from its first instant to the next day's, in microseconds
/// since 1970.
pub(crate) fn day_us(day: Date, timezone: &TimeZone) -> Range<i64> {
    start_of_day(day, timezone).as_microsecond()..end_of_day(day, timezone).as_microsecond()
}

/// The days of a period in the account's time zone.
#[derive(Clone, Debug)]
pub struct PeriodDays {
    period: Period,
    /// The first instant of each day, and the first instant after the period, in microseconds since
    /// 1970.
    bounds_us: Arc<[i64]>,
}

impl PeriodDays {
    /// The days of `period` in `timezone`.
    pub fn new(period: Period, timezone: &TimeZone) -> Self {
        let days = Period::touching(period.days(), PeriodUnit::Day);
        let starts = days.map(|day| start_of_day(day.first_day(), timezone).as_microsecond());
        let end = end_of_day(period.last_day(), timezone).as_microsecond();
        Self {
            period,
            bounds_us: starts.chain([end]).collect(),
        }
    }

    /// From the first instant to the first one after the period, in microseconds since 1970.
    pub fn range_us(&self) -> Range<i64> {
        let [first, .., end] = *self.bounds_us else {
            unreachable!("a period has at least one day");
        };
        first..end
    }

    /// The day of a call in a period of several days, as [`day_number`]. A call outside of the
    /// period belongs to its first or its last day. `None` if the period is a single day.
    #[inline]
    pub fn day_of(&self, call_time_us: i64) -> Option<i32> {
        if self.period.unit() == PeriodUnit::Day {
            return None;
        }
        let inner = &self.bounds_us[1..self.bounds_us.len() - 1];
        let index = inner.partition_point(|start| *start <= call_time_us);
        let first = day_number(self.period.first_day());
        Some(first + i32::try_from(index).expect("a period has few days"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole years in zones with and without clock changes, one of which left out a day.
    #[test]
    fn a_call_of_a_month_belongs_to_the_day_of_its_local_time() {
        for zone in [
            "UTC",
            "Europe/Berlin",
            "America/New_York",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "Asia/Kathmandu",
        ] {
            let timezone = TimeZone::get(zone).unwrap();
            for month in 1..=12 {
                let period =
                    Period::containing(jiff::civil::date(2011, month, 1), PeriodUnit::Month);
                let days = PeriodDays::new(period, &timezone);
                let range = days.range_us();
                let quarter_hours = range.clone().step_by(900_000_000);
                let edges = [range.start, range.end - 1];
                for us in quarter_hours.flat_map(|us| [us - 1, us]).chain(edges) {
                    let time = Timestamp::from_microsecond(us).unwrap();
                    let local = time.to_zoned(timezone.clone()).date();
                    let expected = local.clamp(period.first_day(), period.last_day());
                    assert_eq!(days.day_of(us), Some(day_number(expected)), "{zone} {time}");
                }
            }
        }
    }

    #[test]
    fn a_call_outside_of_its_month_belongs_to_the_nearest_day() {
        let period: Period = "2024-02".parse().unwrap();
        let days = PeriodDays::new(period, &TimeZone::UTC);
        for (us, day) in [
            (i64::MIN, period.first_day()),
            (i64::MAX, period.last_day()),
        ] {
            assert_eq!(days.day_of(us), Some(day_number(day)));
        }
    }
}
