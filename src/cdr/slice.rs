//! The unit of work: one direction of calls in one period.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::period::{Period, PeriodUnit};

/// The earliest plausible day of a call. An earlier record comes from a wrong clock; a request for
/// earlier days is a typing error.
pub(crate) const FIRST_DAY: Date = jiff::civil::date(2000, 1, 1);

/// The direction of a call: the API's parameter `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Outbound: the account called.
    Placed,
    /// Inbound: the account was called.
    Received,
}

impl Direction {
    /// Every direction, in the order in which slices of one day are processed.
    pub const ALL: [Self; 2] = [Self::Placed, Self::Received];

    /// The word used in requests, paths and the `direction` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Received => "received",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Direction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|direction| direction.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a direction: write \"placed\" or \"received\""))
    }
}

/// One direction in one period: one request, and the unit of retry, replacement and commit.
///
/// Slices sort by period first, so that a run fills the lake period by period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slice {
    /// The calendar days, in the configured time zone, under which the provider lists the calls.
    #[serde(flatten)]
    pub period: Period,
    /// The direction of the calls.
    pub direction: Direction,
}

impl Slice {
    /// One direction in one period.
    pub const fn new(period: Period, direction: Direction) -> Self {
        Self { period, direction }
    }

    /// One direction on one day.
    pub const fn of_day(day: Date, direction: Direction) -> Self {
        Self::new(Period::day(day), direction)
    }

    /// The same direction in the month of its first day.
    pub(crate) fn month(self) -> Self {
        let month = Period::containing(self.period.first_day(), PeriodUnit::Month);
        Self::new(month, self.direction)
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.direction, self.period)
    }
}

impl FromStr for Slice {
    type Err = String;

    /// Parses the output of [`Display`](fmt::Display).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (direction, period) = text.split_once(' ').ok_or_else(|| {
            format!("`{text}` is not a slice: write a direction and a day or a month")
        })?;
        Ok(Self::new(period.parse()?, direction.parse()?))
    }
}

/// Parses a day in the form `YYYY-MM-DD` only.
///
/// # Errors
/// A sentence with the text and the expected form.
pub fn parse_day(text: &str) -> Result<Date, String> {
    text.parse::<Date>()
        .ok()
        .filter(|day| day.to_string() == text)
        .ok_or_else(|| format!("`{text}` is not a day: write YYYY-MM-DD, for example 2026-10-01"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_a_full_calendar_date() {
        assert_eq!(parse_day("2026-10-01").unwrap().to_string(), "2026-10-01");
        for wrong in [
            "2026-02-30",
            "2026-1-1",
            "20261001",
            "2026-10-01T00:00:00",
            "yesterday",
            "",
        ] {
            assert!(parse_day(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn slices_sort_by_period_then_direction() {
        let slice = |day: &str, direction| Slice::of_day(parse_day(day).unwrap(), direction);
        let mut slices = [
            slice("2026-10-02", Direction::Placed),
            slice("2026-10-01", Direction::Received),
            slice("2026-10-01", Direction::Placed),
        ];
        slices.sort();
        let names: Vec<String> = slices.iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "placed 2026-10-01",
                "received 2026-10-01",
                "placed 2026-10-02"
            ]
        );
    }
}
