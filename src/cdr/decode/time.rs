//! Parses the API's timestamps exactly.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::cdr::amount::Rounded;

/// Why a text is not a time that a `TIMESTAMP(MICROS, UTC)` column can hold exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Not `YYYY-MM-DDThh:mm:ss[.fraction]` followed by `Z` or an offset.
    #[error("not an ISO 8601 date and time with a UTC offset, such as 2023-08-21T06:43:36.000Z")]
    Format,
    /// `YYYY-MM-DDThh:mm:ss[.fraction]` without an offset, and no time zone is assumed.
    #[error("a time without a UTC offset; set source.assume_timezone")]
    NoOffset,
    /// A day, hour, minute, second or offset that does not exist.
    #[error("a date or time that does not exist")]
    Impossible,
    /// In UTC, outside the years 1 to 9999 that warehouses support.
    #[error("a time before the year 1 or after the year 9999 in UTC")]
    OutOfRange,
    /// A digit other than zero beyond the microseconds.
    #[error("a time finer than a microsecond")]
    TooPrecise,
}

/// Microseconds since 1970-01-01T00:00:00Z of an [RFC 3339](https://www.rfc-editor.org/rfc/rfc3339)
/// date and time with an offset. A space may replace the `T`, and the offset may lack its colon or
/// minutes (ISO 8601). A space may precede the offset, which may be `UTC`, as many frameworks write
/// it to CSV.
///
/// # Errors
/// [`TimeError`]. Nothing is rounded, and leap seconds (`:60`), which no warehouse stores, are
/// refused.
pub(crate) fn parse_time_us(text: &str) -> Result<i64, TimeError> {
    let time = LocalTimes::default().read_us(text)?;
    let exact = time.is_exact.then_some(time.value);
    exact.ok_or(TimeError::TooPrecise)
}

/// The time zone of times without an offset: `source.assume_timezone`. Without a zone they are
/// refused.
#[derive(Clone, Debug, Default)]
pub struct LocalTimes {
    zone: Option<TimeZone>,
    ambiguous: u64,
}

impl LocalTimes {
    /// Interprets times without an offset in `zone`.
    pub fn new(zone: Option<TimeZone>) -> Self {
        Self { zone, ambiguous: 0 }
    }

    /// Number of times so far that occur twice or never in the zone, because of a clock change.
    pub fn ambiguous(&self) -> u64 {
        self.ambiguous
    }

    /// The time in microseconds since 1970-01-01T00:00:00Z, rounded down: rounding up could move it
    /// to the next day.
    ///
    /// An ambiguous time is not exact. A time that occurs twice means its first occurrence. A
    /// skipped time has the offset before the clock change. Both rules are those of [RFC
    /// 5545](https://www.rfc-editor.org/rfc/rfc5545#section-3.3.5).
    pub(super) fn read_us(&mut self, text: &str) -> Result<Rounded<i64>, TimeError> {
        let (local_seconds, fraction_us, offset_seconds) = parse_parts(text.as_bytes())?;
        let (seconds, is_ambiguous) = match offset_seconds {
            Some(offset_seconds) => (local_seconds - offset_seconds, false),
            None => self.utc_seconds(local_seconds)?,
        };
        if !UTC_SECONDS.contains(&seconds) {
            return Err(TimeError::OutOfRange);
        }
        self.ambiguous += u64::from(is_ambiguous);
        Ok(Rounded {
            value: seconds * 1_000_000 + fraction_us.value,
            is_exact: fraction_us.is_exact && !is_ambiguous,
        })
    }

    /// Converts local seconds to UTC seconds, both since 1970. Also returns whether the local time
    /// occurs twice or never.
    fn utc_seconds(&self, local_seconds: i64) -> Result<(i64, bool), TimeError> {
        let zone = self.zone.as_ref().ok_or(TimeError::NoOffset)?;
        let local = DateTime::constant(1970, 1, 1, 0, 0, 0, 0)
            .checked_add(jiff::SignedDuration::from_secs(local_seconds))
            .map_err(|_| TimeError::OutOfRange)?;
        let instant = zone.to_ambiguous_timestamp(local);
        let is_ambiguous = instant.is_ambiguous();
        let instant = instant.compatible().map_err(|_| TimeError::OutOfRange)?;
        Ok((instant.as_second(), is_ambiguous))
    }
}

/// Whether a text is a time, with an offset or without.
pub(crate) fn is_time(text: &[u8]) -> bool {
    parse_parts(text).is_ok()
}

/// Whether a text is a time without an offset.
pub(crate) fn is_local_time(text: &[u8]) -> bool {
    parse_parts(text).is_ok_and(|(_, _, offset_seconds)| offset_seconds.is_none())
}

/// The parts of a time: seconds since 1970-01-01T00:00:00 local time, microseconds, and the offset
/// from UTC in seconds, if there is one.
fn parse_parts(text: &[u8]) -> Result<(i64, Rounded<i64>, Option<i64>), TimeError> {
    let Some((fixed, rest)) = text.split_at_checked(19) else {
        return Err(TimeError::Format);
    };
    let separators = [
        (4, b"-".as_slice()),
        (7, b"-"),
        (10, b"Tt "),
        (13, b":"),
        (16, b":"),
    ];
    if separators
        .iter()
        .any(|&(at, allowed)| !allowed.contains(&fixed[at]))
    {
        return Err(TimeError::Format);
    }
    let field = |from: usize, to: usize| digits(&fixed[from..to]).ok_or(TimeError::Format);
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);

    let (fraction, zone) = match rest.strip_prefix(b".") {
        Some(rest) => {
            let end = rest
                .iter()
                .position(|byte| !byte.is_ascii_digit())
                .unwrap_or(rest.len());
            (fraction_us(&rest[..end])?, &rest[end..])
        }
        None => (
            Rounded {
                value: 0,
                is_exact: true,
            },
            rest,
        ),
    };
    let offset_seconds = match zone {
        [] => None,
        zone => Some(offset_seconds(zone)?),
    };

    if year == 0 || !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
        return Err(TimeError::Impossible);
    }
    if hour > 23 || minute > 59 || second > 59 {
        return Err(TimeError::Impossible);
    }
    let seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Ok((seconds, fraction, offset_seconds))
}

/// The years 1 to 9999, which every warehouse supports, in seconds since 1970.
const UTC_SECONDS: std::ops::Range<i64> =
    days_since_epoch(1, 1, 1) * 86_400..days_since_epoch(10_000, 1, 1) * 86_400;

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit()
            .then(|| value * 10 + i64::from(byte - b'0'))
    })
}

fn fraction_us(text: &[u8]) -> Result<Rounded<i64>, TimeError> {
    if text.is_empty() {
        return Err(TimeError::Format);
    }
    let (micros, finer) = text.split_at(text.len().min(6));
    let padded = micros
        .iter()
        .copied()
        .chain(std::iter::repeat(b'0'))
        .take(6);
    Ok(Rounded {
        value: padded.fold(0, |value, byte| value * 10 + i64::from(byte - b'0')),
        is_exact: finer.iter().all(|&byte| byte == b'0'),
    })
}

fn offset_seconds(zone: &[u8]) -> Result<i64, TimeError> {
    let (sign, hours, minutes) = match zone {
        b"Z" | b"z" | b" UTC" => return Ok(0),
        [b' ', zone @ ..] if zone.starts_with(b"+") || zone.starts_with(b"-") => {
            return offset_seconds(zone);
        }
        [sign, h1, h2] => (sign, [*h1, *h2], *b"00"),
        [sign, h1, h2, m1, m2] | [sign, h1, h2, b':', m1, m2] => (sign, [*h1, *h2], [*m1, *m2]),
        _ => return Err(TimeError::Format),
    };
    let sign = match sign {
        b'+' => 1,
        b'-' => -1,
        _ => return Err(TimeError::Format),
    };
    let (hours, minutes) = (
        digits(&hours).ok_or(TimeError::Format)?,
        digits(&minutes).ok_or(TimeError::Format)?,
    );
    if hours > 23 || minutes > 59 {
        return Err(TimeError::Impossible);
    }
    Ok(sign * (hours * 3_600 + minutes * 60))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a valid date of the proleptic Gregorian calendar, by
/// [Hinnant's algorithm](https://howardhinnant.github.io/date_algorithms.html#days_from_civil).
const fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdr::decode::{Decoder, RejectReason, decode};

    #[test]
    fn every_day_of_six_centuries_agrees_with_jiff() {
        let mut day = jiff::civil::date(1600, 1, 1);
        while day.year() < 2200 {
            let text = format!("{day}T23:59:59.999999Z");
            let expected = text.parse::<jiff::Timestamp>().unwrap().as_microsecond();
            assert_eq!(parse_time_us(&text), Ok(expected), "{text}");
            day = day.tomorrow().unwrap();
        }
    }

    #[test]
    fn published_forms_and_offsets_are_parsed() {
        let noon = parse_time_us("2023-08-21T12:00:00Z").unwrap();
        assert_eq!(noon, 1_692_619_200_000_000);
        for same in [
            "2023-08-21T12:00:00.000Z",
            "2023-08-21 12:00:00z",
            "2023-08-21 12:00:00 UTC",
            "2023-08-21 14:00:00 +0200",
            "2023-08-21T14:00:00+02:00",
            "2023-08-21T14:00:00+0200",
            "2023-08-21T14:00:00+02",
            "2023-08-21T06:30:00-05:30",
            "2023-08-22T11:59:00+23:59",
            "2023-08-21T12:00:00.000000000Z",
        ] {
            assert_eq!(parse_time_us(same), Ok(noon), "{same}");
        }
        assert_eq!(parse_time_us("2023-08-21T12:00:00.1Z"), Ok(noon + 100_000));
        assert_eq!(parse_time_us("1969-12-31T23:59:59.999999Z"), Ok(-1));
    }

    #[test]
    fn texts_that_are_not_exact_instants_are_refused() {
        for text in [
            "",
            "2023-08-21",
            "2023-08-21T12:00Z",
            "2023-08-21T12:00:00.Z",
            "2023-08-21T12:00:00 Z",
            "2023-08-21T12:00:00ZZ",
            "2023/08/21T12:00:00Z",
            "1692619200",
            "+2023-08-21T12:00:00Z",
            "2023-08-2１T12:00:00Z",
        ] {
            assert_eq!(parse_time_us(text), Err(TimeError::Format), "{text}");
        }
        for text in [
            "2023-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-00-01T00:00:00Z",
            "2023-04-31T00:00:00Z",
            "2023-01-00T00:00:00Z",
            "2023-01-01T24:00:00Z",
            "2023-01-01T00:60:00Z",
            "2016-12-31T23:59:60Z",
            "0000-01-01T00:00:00Z",
            "2023-01-01T00:00:00+24:00",
            "2023-01-01T00:00:00+01:60",
            "2023-01-01T00:00:00-01:61",
        ] {
            assert_eq!(parse_time_us(text), Err(TimeError::Impossible), "{text}");
        }
        assert_eq!(
            parse_time_us("2023-08-21T12:00:00.0000001Z"),
            Err(TimeError::TooPrecise)
        );
        for text in ["2023-08-21T12:00:00", "2023-08-21 12:00:00.5"] {
            assert_eq!(parse_time_us(text), Err(TimeError::NoOffset), "{text}");
        }
    }

    #[test]
    fn a_time_is_told_from_other_texts_and_a_local_time_from_one_with_an_offset() {
        for (text, is_a_time, is_local) in [
            ("2023-08-21 12:00:00", true, true),
            ("2023-08-21T12:00:00Z", true, false),
            ("13025550001", false, false),
        ] {
            assert_eq!(is_time(text.as_bytes()), is_a_time, "{text}");
            assert_eq!(is_local_time(text.as_bytes()), is_local, "{text}");
        }
    }

    #[test]
    fn a_time_is_rounded_down_to_its_microsecond_and_stays_on_its_day() {
        for (text, rounded) in [
            (
                "2023-08-21T23:59:59.999999999Z",
                "2023-08-21T23:59:59.999999Z",
            ),
            (
                "1969-12-31T23:59:59.9999999Z",
                "1969-12-31T23:59:59.999999Z",
            ),
            ("2023-08-21 14:00:00.0000005+02:00", "2023-08-21T12:00:00Z"),
            (
                "9999-12-31T23:59:59.9999999Z",
                "9999-12-31T23:59:59.999999Z",
            ),
        ] {
            let value = parse_time_us(rounded).unwrap();
            let is_exact = false;
            assert_eq!(
                LocalTimes::default().read_us(text),
                Ok(Rounded { value, is_exact }),
                "{text}"
            );
        }
    }

    #[test]
    fn a_time_without_an_offset_is_in_the_assumed_zone() {
        for (zone, text, utc) in [
            ("UTC", "2023-08-21 12:00:00", "2023-08-21T12:00:00Z"),
            (
                "Europe/Berlin",
                "2023-08-21 12:00:00",
                "2023-08-21T10:00:00Z",
            ),
            (
                "Europe/Berlin",
                "2023-01-21T12:00:00.25",
                "2023-01-21T11:00:00.25Z",
            ),
            (
                "America/New_York",
                "2026-03-08 03:00:00",
                "2026-03-08T07:00:00Z",
            ),
            (
                "America/New_York",
                "1969-12-31 18:59:59.5",
                "1969-12-31T23:59:59.5Z",
            ),
            (
                "Asia/Kathmandu",
                "2023-08-21 12:00:00",
                "2023-08-21T06:15:00Z",
            ),
            // An explicit offset takes precedence.
            (
                "Europe/Berlin",
                "2023-08-21 12:00:00Z",
                "2023-08-21T12:00:00Z",
            ),
        ] {
            let mut times = LocalTimes::new(Some(TimeZone::get(zone).unwrap()));
            let (value, is_exact) = (parse_time_us(utc).unwrap(), true);
            assert_eq!(
                times.read_us(text),
                Ok(Rounded { value, is_exact }),
                "{zone} {text}"
            );
            assert_eq!(times.ambiguous(), 0, "{zone} {text}");
        }
        let mut times = LocalTimes::new(Some(TimeZone::get("Asia/Tokyo").unwrap()));
        assert_eq!(
            times.read_us("0001-01-01 08:59:59"),
            Err(TimeError::OutOfRange)
        );
        assert_eq!(
            times.read_us("2023-02-29 08:59:59"),
            Err(TimeError::Impossible)
        );
    }

    #[test]
    fn a_local_time_that_occurs_twice_or_never_is_counted_and_not_exact() {
        for (zone, text, utc) in [
            // Clocks go back at 03:00: the first occurrence is taken.
            (
                "Europe/Berlin",
                "2026-10-25 02:00:00",
                "2026-10-25T00:00:00Z",
            ),
            (
                "Europe/Berlin",
                "2026-10-25 02:59:59.5",
                "2026-10-25T00:59:59.5Z",
            ),
            // Clocks go forward at 02:00: half an hour after the change.
            (
                "Europe/Berlin",
                "2026-03-29 02:30:00",
                "2026-03-29T01:30:00Z",
            ),
            // A skipped day.
            (
                "Pacific/Apia",
                "2011-12-30 12:00:00",
                "2011-12-30T22:00:00Z",
            ),
        ] {
            let mut times = LocalTimes::new(Some(TimeZone::get(zone).unwrap()));
            let (value, is_exact) = (parse_time_us(utc).unwrap(), false);
            assert_eq!(
                times.read_us(text),
                Ok(Rounded { value, is_exact }),
                "{zone} {text}"
            );
            assert_eq!(times.ambiguous(), 1, "{zone} {text}");
        }
        let mut times = LocalTimes::new(Some(TimeZone::get("Europe/Berlin").unwrap()));
        for text in [
            "2026-10-25 01:59:59",
            "2026-10-25 03:00:00",
            "2026-10-25 02:30:00+01:00",
        ] {
            assert!(times.read_us(text).unwrap().is_exact, "{text}");
        }
        assert_eq!(times.ambiguous(), 0);
    }

    #[test]
    fn a_time_that_its_offset_moves_out_of_the_supported_years_is_refused() {
        let first = parse_time_us("0001-01-01T00:00:00Z").unwrap();
        assert_eq!(parse_time_us("0001-01-01T02:00:00+02:00"), Ok(first));
        let last = parse_time_us("9999-12-31T23:59:59.999999Z").unwrap();
        assert_eq!(parse_time_us("9999-12-31T22:59:59.999999-01"), Ok(last));
        for text in [
            "0001-01-01T00:00:00+00:01",
            "0001-01-01T01:59:59.999999+02:00",
            "9999-12-31T23:59:59.999999-00:01",
            "9999-12-31T23:00:00-0100",
        ] {
            assert_eq!(parse_time_us(text), Err(TimeError::OutOfRange), "{text}");
            let record = format!("{{\"date\":\"{text}\"}}");
            let rejected = Err(RejectReason::Date(TimeError::OutOfRange).into());
            assert_eq!(decode(record.as_bytes()), rejected);
            let mut decoder = Decoder::default();
            assert_eq!(decoder.decode(record.as_bytes()), rejected);
        }
    }
}
