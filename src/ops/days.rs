//! Days: which ones a selection means, which have ended, and which have settled.

use std::ops::RangeInclusive;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, ToSpan};

use super::UsageError;
use crate::cdr::day::day_number;
use crate::cdr::day::end_of_day;
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::slice::{Direction, FIRST_DAY, Slice};
use crate::config::{WindowConfig, timezone_name};
use crate::lake::ledger::{Commit, State};

/// How far clocks may differ without consequence: those of machines that share a lake, and of this
/// machine and the provider.
pub(crate) const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(10);

/// What the command line asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// First day to look at.
    pub from: Option<Date>,
    /// Last day to look at.
    pub to: Option<Date>,
    /// As many days, ending with yesterday.
    pub last_days: Option<u32>,
    /// Also the day that has not ended.
    pub include_today: bool,
    /// Everything in range is due.
    pub refresh: bool,
    /// Only this direction.
    pub direction: Option<Direction>,
    /// Only this share of the slices.
    pub shard: Option<Shard>,
}

impl Selection {
    /// Its days and directions.
    pub fn range(&self) -> DayRange {
        DayRange {
            from: self.from,
            to: self.to,
            last_days: self.last_days,
            direction: self.direction,
        }
    }

    /// The directions asked for; `all` where none is.
    pub fn directions(&self, all: &[Direction]) -> Vec<Direction> {
        self.range().directions(all)
    }

    /// The days that this means at `now`, both ends included.
    ///
    /// # Errors
    /// [`UsageError`] if there are none.
    pub fn days(
        &self,
        window: &WindowConfig,
        now: Timestamp,
    ) -> Result<RangeInclusive<Date>, UsageError> {
        self.range().days_until(window, now, self.include_today)
    }
}

/// Days and directions of a lake, for commands that fetch nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DayRange {
    /// The first day.
    pub from: Option<Date>,
    /// The last day.
    pub to: Option<Date>,
    /// The number of days, ending with yesterday.
    pub last_days: Option<u32>,
    /// The only direction.
    pub direction: Option<Direction>,
}

impl DayRange {
    /// The selected directions; `all` if none is selected.
    pub fn directions(&self, all: &[Direction]) -> Vec<Direction> {
        self.direction
            .map_or_else(|| all.to_vec(), |only| vec![only])
    }

    /// The selected days that have ended at `now`, both ends included.
    ///
    /// # Errors
    /// [`UsageError`] if there are none.
    pub fn days(
        &self,
        window: &WindowConfig,
        now: Timestamp,
    ) -> Result<RangeInclusive<Date>, UsageError> {
        self.days_until(window, now, false)
    }

    fn days_until(
        &self,
        window: &WindowConfig,
        now: Timestamp,
        include_today: bool,
    ) -> Result<RangeInclusive<Date>, UsageError> {
        let today = today(window, now);
        let yesterday = today.yesterday().unwrap_or(today);
        let last_possible = if include_today { today } else { yesterday };
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from > to
        {
            return Err(UsageError::ReversedDays { from, to });
        }
        let to = self.to.map_or(last_possible, |to| to.min(last_possible));
        let from = match (self.from, self.last_days, window.start) {
            (Some(from), _, _) => from,
            (None, Some(days), _) => {
                let first = yesterday.checked_sub((i64::from(days) - 1).days());
                first.map_err(|_| UsageError::BeforeCalendar)?
            }
            (None, None, Some(start)) => start,
            (None, None, None) => return Err(UsageError::NoDays),
        };
        if from < FIRST_DAY {
            return Err(UsageError::BeforeFirstDay { from });
        }
        if from > to {
            return Err(UsageError::NotEnded {
                from,
                last: to,
                timezone: timezone_name(&window.timezone),
                is_window_start: self.from.is_none() && self.last_days.is_none(),
                is_today: from == today,
            });
        }
        Ok(from..=to)
    }

    /// The selected days, without a limit where none is given: for commands that read the whole
    /// lake.
    ///
    /// # Errors
    /// [`UsageError`] if there are none.
    pub fn days_of_all(
        &self,
        window: &WindowConfig,
        now: Timestamp,
    ) -> Result<RangeInclusive<Date>, UsageError> {
        let today = today(window, now);
        let first_of = |last: u32| {
            today
                .checked_sub(i64::from(last).days())
                .unwrap_or(Date::MIN)
        };
        let from = self
            .from
            .or(self.last_days.map(first_of))
            .unwrap_or(Date::MIN);
        // `--last` ends with yesterday, here as everywhere.
        let last_of = |_| today.yesterday().unwrap_or(today);
        let to = self.to.or(self.last_days.map(last_of)).unwrap_or(Date::MAX);
        if from > to {
            return Err(UsageError::ReversedDays { from, to });
        }
        Ok(from..=to)
    }
}

/// One of several shares of all slices, for machines that split the work without talking to one
/// another: a slice belongs to one share of `of`, whatever else is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1 on.
    number: u32,
    of: u32,
}

impl Shard {
    /// Whether `slice` belongs to this share: (number of its day or month × 2
    /// + direction) mod N = K − 1.
    pub fn holds(self, slice: Slice) -> bool {
        let direction = i64::from(slice.direction == Direction::Received);
        let first_day = slice.period.first_day();
        let period = match slice.period.unit() {
            PeriodUnit::Day => i64::from(day_number(first_day)),
            PeriodUnit::Month => i64::from(first_day.year()) * 12 + i64::from(first_day.month()),
        };
        let number = period * 2 + direction;
        number.rem_euclid(i64::from(self.of)) == i64::from(self.number) - 1
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (number, of) = text.split_once('/')?;
            let shard = Self {
                number: number.parse().ok()?,
                of: of.parse().ok()?,
            };
            (1..=shard.of).contains(&shard.number).then_some(shard)
        };
        parse().ok_or_else(|| {
            format!("`{text}` is not a share: write K/N with K from 1 to N, for example 2/4")
        })
    }
}

/// The day at `now` in the time zone of the lake.
pub(crate) fn today(window: &WindowConfig, now: Timestamp) -> Date {
    now.to_zoned(window.timezone.clone()).date()
}

/// The first day of those that every run fetches again, on `today`.
pub(crate) fn lookback_from(window: &WindowConfig, today: Date) -> Date {
    today
        .checked_sub(i64::from(window.lookback_days).days())
        .unwrap_or(Date::MIN)
}

/// The first day that a run asks for of a period: `window.start` if it lies in the period, unless
/// the run begins `from` an earlier day.
pub(crate) fn first_asked(period: Period, window: &WindowConfig, from: Option<Date>) -> Date {
    let start = window.start.filter(|start| period.days().contains(start));
    let start = start.filter(|start| from.is_none_or(|from| from >= *start));
    start.unwrap_or(period.first_day())
}

/// The state of a slice fetched at `fetched_at`.
pub(crate) fn state_of(period: Period, window: &WindowConfig, fetched_at: Timestamp) -> State {
    let settle = SignedDuration::from_hours(i64::from(window.settle_hours));
    match end_of_day(period.last_day(), &window.timezone).checked_add(settle) {
        Ok(settled) if fetched_at >= settled => State::Closed,
        _ => State::Open,
    }
}

/// Whether a commit's time lies in the future. Its clock may have been wrong, and then its day may
/// not have ended. Clocks of machines that share a lake may differ by [`CLOCK_TOLERANCE`].
pub(crate) fn is_from_the_future(commit: &Commit, now: Timestamp) -> bool {
    commit.fetched_at.duration_since(now) > CLOCK_TOLERANCE
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::cdr::slice::parse_day;
    use crate::config::Config;

    fn day(text: &str) -> Date {
        parse_day(text).unwrap()
    }

    fn window(start: Option<&str>) -> WindowConfig {
        WindowConfig {
            start: start.map(day),
            timezone: TimeZone::UTC,
            lookback_days: 3,
            settle_hours: 24,
            slice: None,
        }
    }

    fn range(selection: &Selection, start: Option<&str>) -> Result<String, UsageError> {
        selection
            .days(&window(start), "2026-10-10T00:00:00Z".parse().unwrap())
            .map(|days| format!("{}..{}", days.start(), days.end()))
    }

    #[test]
    fn a_selection_narrows_the_days_from_the_window_to_yesterday() {
        let selection = Selection::default();
        assert_eq!(
            range(&selection, Some("2026-10-01")).unwrap(),
            "2026-10-01..2026-10-09"
        );
        let today = Selection {
            include_today: true,
            ..Selection::default()
        };
        assert_eq!(
            range(&today, Some("2026-10-01")).unwrap(),
            "2026-10-01..2026-10-10"
        );
        let last = Selection {
            last_days: Some(2),
            ..Selection::default()
        };
        assert_eq!(range(&last, None).unwrap(), "2026-10-08..2026-10-09");
        let from = Selection {
            from: Some(day("2026-09-30")),
            to: Some(day("2026-12-31")),
            ..Selection::default()
        };
        assert_eq!(
            range(&from, Some("2026-10-01")).unwrap(),
            "2026-09-30..2026-10-09"
        );
    }

    #[test]
    fn a_selection_without_days_is_refused_with_its_reason() {
        let unlimited = range(&Selection::default(), None);
        assert_eq!(unlimited, Err(UsageError::NoDays));
        let reversed = Selection {
            from: Some(day("2026-10-05")),
            to: Some(day("2026-10-01")),
            ..Selection::default()
        };
        let problem = range(&reversed, None).unwrap_err().to_string();
        let expected = "the first day, 2026-10-05, is after the last day, 2026-10-01";
        assert_eq!(problem, expected);
        let not_ended = |from: Option<&str>, start: Option<&str>| {
            let from = from.map(day);
            let selection = Selection {
                from,
                ..Selection::default()
            };
            match range(&selection, start).unwrap_err() {
                UsageError::NotEnded {
                    is_window_start,
                    is_today,
                    ..
                } => (is_window_start, is_today),
                other => panic!("{other}"),
            }
        };
        assert_eq!(not_ended(Some("2026-10-10"), None), (false, true));
        assert_eq!(not_ended(Some("2026-10-11"), None), (false, false));
        assert_eq!(not_ended(None, Some("2026-10-11")), (true, false));
    }

    #[test]
    fn the_share_of_a_slice_never_changes() {
        let share = |day: &str, direction| {
            let slice = Slice::of_day(parse_day(day).unwrap(), direction);
            let shares = (1..=4).map(|number| Shard { number, of: 4 });
            let holding: Vec<u32> = shares
                .filter(|shard| shard.holds(slice))
                .map(|shard| shard.number)
                .collect();
            holding
        };
        // 2026-10-01 is day 20727 since 1970: 2 × 20727 mod 4 is 2.
        assert_eq!(share("2026-10-01", Direction::Placed), [3]);
        assert_eq!(share("2026-10-01", Direction::Received), [4]);
        assert_eq!(share("2026-10-02", Direction::Placed), [1]);
        assert_eq!(share("1969-12-31", Direction::Received), [4]);
    }

    #[test]
    fn a_day_is_closed_once_it_was_fetched_after_settling_in_its_own_zone() {
        let window = WindowConfig {
            timezone: TimeZone::get("America/New_York").unwrap(),
            ..window(None)
        };
        let state = |text: &str| {
            state_of(
                Period::day(day("2026-10-01")),
                &window,
                text.parse().unwrap(),
            )
        };
        assert_eq!(state("2026-10-03T03:59:59Z"), State::Open);
        assert_eq!(state("2026-10-03T04:00:00Z"), State::Closed);
    }

    #[test]
    fn every_slice_belongs_to_exactly_one_share() {
        let slices: Vec<Slice> = Direction::ALL
            .into_iter()
            .flat_map(|direction| {
                ["1969-12-31", "1970-01-01", "2026-10-01", "2026-10-02"]
                    .map(|text| Slice::of_day(day(text), direction))
            })
            .collect();
        for of in 1..=5 {
            for &slice in &slices {
                let holders = (1..=of).filter(|number| {
                    format!("{number}/{of}")
                        .parse::<Shard>()
                        .unwrap()
                        .holds(slice)
                });
                assert_eq!(holders.count(), 1, "{slice} of {of}");
            }
        }
        // 2026-10-01 is day 20,727: placed 41,454, received 41,455.
        let first: Shard = "3/4".parse().unwrap();
        assert!(first.holds(Slice::of_day(day("2026-10-01"), Direction::Placed)));
        for wrong in ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn days_before_the_year_2000_are_refused() {
        let window = Config::from_keys([("lake.url", "x")]).unwrap().window;
        let days = |from| {
            let from = Some(crate::cdr::slice::parse_day(from).unwrap());
            let selection = Selection {
                from,
                ..Selection::default()
            };
            selection.days(&window, "2026-11-26T00:00:00Z".parse().unwrap())
        };
        assert!(days("2000-01-01").is_ok());
        let refused = days("0001-01-01").unwrap_err().to_string();
        assert!(
            refused.starts_with("0001-01-01 is before 2000-01-01"),
            "{refused}"
        );
    }
}
