//! Days in the account's time zone, as instants.

use std::ops::Range;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

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
