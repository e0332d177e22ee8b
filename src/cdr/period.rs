//! The days of a slice: a calendar day or a calendar month.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use jiff::ToSpan;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

/// How long the periods of a lake are.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum PeriodUnit {
    /// A calendar day.
    #[default]
    Day,
    /// A calendar month. For accounts with few calls a day.
    Month,
}

impl PeriodUnit {
    /// Every unit, by its name in the configuration.
    pub(crate) const ALL: [(&'static str, Self); 2] = [("day", Self::Day), ("month", Self::Month)];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The comment of the partition column in a lake with such periods.
    pub(crate) fn partition_comment(self) -> &'static str {
        match self {
            Self::Day => "Day under which the provider lists the call",
            Self::Month => "First day of the month under which the provider lists the call",
        }
    }
}

impl fmt::Display for PeriodUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A calendar day or a calendar month.
///
/// Periods sort by their first day. Their text is `2026-10-01` for a day and `2026-10` for a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "PeriodText", into = "PeriodText")]
pub struct Period {
    first_day: Date,
    unit: PeriodUnit,
}

/// A period in JSON: `"day": "2026-10-01"` or `"month": "2026-10"`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PeriodText {
    Day(String),
    Month(String),
}

impl Period {
    /// A day.
    pub const fn day(day: Date) -> Self {
        Self {
            first_day: day,
            unit: PeriodUnit::Day,
        }
    }

    /// The period of this length that contains `day`.
    pub fn containing(day: Date, unit: PeriodUnit) -> Self {
        Self {
            first_day: match unit {
                PeriodUnit::Day => day,
                PeriodUnit::Month => day.first_of_month(),
            },
            unit,
        }
    }

    /// The periods of this length that contain `days`, in order.
    pub fn touching(days: RangeInclusive<Date>, unit: PeriodUnit) -> impl Iterator<Item = Self> {
        let first = (!days.is_empty()).then(|| Self::containing(*days.start(), unit));
        std::iter::successors(first, |period: &Self| period.next())
            .take_while(move |period| period.first_day <= *days.end())
    }

    /// Whether it is a day or a month.
    pub fn unit(self) -> PeriodUnit {
        self.unit
    }

    /// Its first day, which is its partition.
    pub fn first_day(self) -> Date {
        self.first_day
    }

    /// Its last day.
    pub fn last_day(self) -> Date {
        match self.unit {
            PeriodUnit::Day => self.first_day,
            PeriodUnit::Month => self.first_day.last_of_month(),
        }
    }

    /// Its days.
    pub fn days(self) -> RangeInclusive<Date> {
        self.first_day..=self.last_day()
    }

    /// Whether it has a day of these.
    pub fn touches(self, days: &RangeInclusive<Date>) -> bool {
        self.first_day <= *days.end() && *days.start() <= self.last_day()
    }

    /// The period after it; `None` at the end of the calendar.
    fn next(self) -> Option<Self> {
        let next = match self.unit {
            PeriodUnit::Day => self.first_day.checked_add(1.day()),
            PeriodUnit::Month => self.first_day.checked_add(1.month()),
        };
        Some(Self {
            first_day: next.ok()?,
            unit: self.unit,
        })
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            PeriodUnit::Day => write!(f, "{}", self.first_day),
            PeriodUnit::Month => write!(f, "{}", self.first_day.strftime("%Y-%m")),
        }
    }
}

impl FromStr for Period {
    type Err = String;

    /// Parses the output of [`Display`](fmt::Display), and nothing else.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = |text: &str, unit| {
            let day = text.parse().ok()?;
            Some(Self::containing(day, unit))
        };
        let period = match text.len() {
            7 => parse(&format!("{text}-01"), PeriodUnit::Month),
            _ => parse(text, PeriodUnit::Day),
        };
        period
            .filter(|period| period.to_string() == text)
            .ok_or_else(|| {
                format!("`{text}` is neither a day such as 2026-10-01 nor a month such as 2026-10")
            })
    }
}

impl From<Period> for PeriodText {
    fn from(period: Period) -> Self {
        match period.unit {
            PeriodUnit::Day => Self::Day(period.to_string()),
            PeriodUnit::Month => Self::Month(period.to_string()),
        }
    }
}

impl TryFrom<PeriodText> for Period {
    type Error = String;

    fn try_from(text: PeriodText) -> Result<Self, Self::Error> {
        let (text, unit) = match &text {
            PeriodText::Day(text) => (text, PeriodUnit::Day),
            PeriodText::Month(text) => (text, PeriodUnit::Month),
        };
        let period: Self = text.parse()?;
        if period.unit == unit {
            Ok(period)
        } else {
            Err(format!("`{text}` is not a {unit}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn a_period_is_a_day_or_a_month_in_its_usual_notation() {
        for (text, first, last) in [
            ("2026-10-05", date(2026, 10, 5), date(2026, 10, 5)),
            ("2026-10", date(2026, 10, 1), date(2026, 10, 31)),
            ("2024-02", date(2024, 2, 1), date(2024, 2, 29)),
            ("2100-02", date(2100, 2, 1), date(2100, 2, 28)),
            ("9999-12", date(9999, 12, 1), date(9999, 12, 31)),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!(period.days(), first..=last);
            assert_eq!(period.to_string(), text);
        }
        for wrong in [
            "2026-13",
            "2026-1",
            "202610",
            "2026-10-00",
            "2026-10-1",
            "2026",
            "",
        ] {
            assert!(wrong.parse::<Period>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_periods_of_days_contain_each_of_them_once() {
        let touching = |from, to, unit| {
            let periods = Period::touching(from..=to, unit);
            periods.map(|it| it.to_string()).collect::<Vec<_>>()
        };
        let months = touching(date(2025, 12, 31), date(2026, 2, 1), PeriodUnit::Month);
        assert_eq!(months, ["2025-12", "2026-01", "2026-02"]);
        let days = touching(date(2026, 2, 28), date(2026, 3, 1), PeriodUnit::Day);
        assert_eq!(days, ["2026-02-28", "2026-03-01"]);
        let none = touching(date(2026, 2, 28), date(2026, 2, 27), PeriodUnit::Month);
        assert_eq!(none, [""; 0]);
        let last = touching(date(9999, 12, 5), Date::MAX, PeriodUnit::Month);
        assert_eq!(last, ["9999-12"]);
    }

    #[test]
    fn periods_are_stored_with_their_unit() {
        for (text, json) in [
            ("2026-10-05", r#"{"day":"2026-10-05"}"#),
            ("2026-10", r#"{"month":"2026-10"}"#),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!(serde_json::to_string(&period).unwrap(), json);
            assert_eq!(serde_json::from_str::<Period>(json).unwrap(), period);
        }
        for wrong in [r#"{"day":"2026-10"}"#, r#"{"month":"2026-10-01"}"#] {
            assert!(serde_json::from_str::<Period>(wrong).is_err(), "{wrong}");
        }
    }
}
