//! Days, as instants where the account cuts them.

use std::ops::Range;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// First instant of `day` where the account cuts days.
pub(crate) fn start_of_day(day: Date, timezone: &TimeZone) -> Timestamp {
    // Only the last day a calendar can hold has no instant in some zone.
    day.to_zoned(timezone.clone())
        .map_or(Timestamp::MAX, |start| start.timestamp())
}

/// First instant after `day`.
pub(crate) fn end_of_day(day: Date, timezone: &TimeZone) -> Timestamp {
    day.tomorrow()
        .map_or(Timestamp::MAX, |next| start_of_day(next, timezone))
}

/// A day where the account cuts days, from its first instant to the next day's first, in microseconds since 1970.
pub(crate) fn day_us(day: Date, timezone: &TimeZone) -> Range<i64> {
    start_of_day(day, timezone).as_microsecond()..end_of_day(day, timezone).as_microsecond()
}
