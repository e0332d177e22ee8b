//! A report on the calls of a period: how many, how they went, what they cost, which hours were
//! disrupted, and how far the numbers can be trusted.
//!
//! [`pass`] reads the files once, and the other modules make of its sums what is shown.

mod disruptions;
mod file;
mod hours;
mod pass;
mod peaks;
mod prices;
mod rankings;
mod sums;
mod trust;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;

use futures::TryStreamExt;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::Serialize;

use super::days::DayRange;
use super::run::reports::reports;
use super::show::ReportedSlices;
use super::status::{LakeStatus, SliceStatus};
use super::{Error, UsageError};
use crate::cdr::day::end_of_day;
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::slice::{Direction, Slice};
use crate::config::Config;
use crate::lake::{Lake, LakeError, LedgerEntry, SliceState};
use crate::privacy::{Mode, Modes, Privacy};
use disruptions::{Disruption, KnownHour};
use file::Scope;
use hours::{Hour, HourShown, RhythmHour, days_before, rhythm};
use pass::{FileProblem, Pass};
use peaks::Peak;
use prices::PriceChange;
use rankings::{Of, Ranked, Ranking, SpendChange, changes};
use sums::DaySums;
use trust::{SliceChange, SliceChanges, Trust};

/// Days of a report where none are selected.
const DEFAULT_DAYS: i64 = 30;
/// Days before the period whose hours are compared with those of the period.
const BASELINE_DAYS: i64 = 56;
/// The version of the report's form.
const FORMAT: u32 = 1;

/// A report on the calls of a period.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// The version of its form.
    pub format: u32,
    /// When it was made.
    pub made_at: Timestamp,
    /// The version of this program.
    pub version: &'static str,
    /// `lake.url`.
    pub lake: String,
    /// The label of the account.
    pub account: Option<String>,
    /// The time zone of days and hours.
    pub timezone: String,
    /// The periods of the lake's slices.
    pub slice: PeriodUnit,
    /// The first day.
    pub from: Date,
    /// The last day.
    pub to: Date,
    /// As many days right before; `null` unless the lake has both periods whole.
    pub before: Option<Days>,
    /// The directions of calls.
    pub directions: Vec<Direction>,
    /// How phone numbers are shown.
    pub numbers: &'static str,
    /// Sums of each direction, then of all.
    pub totals: Vec<Total>,
    /// Each day and direction.
    pub days: Vec<DayShown>,
    /// The most calls at once on each day that has any.
    pub peaks: Vec<Peak>,
    /// Each hour and direction with calls.
    pub hours: Vec<HourShown>,
    /// The hours of the week.
    pub rhythm: Vec<RhythmHour>,
    /// Hours in which calls went worse than usual.
    pub disruptions: Disruptions,
    /// Destinations by charge.
    pub destinations: Ranking,
    /// SIP trunks by charge.
    pub trunks: Ranking,
    /// Numbers of the account by charge: the calling number of placed calls, the called number of
    /// received ones.
    pub own_numbers: Ranking,
    /// The names whose charges changed most since the period before.
    pub changes: Vec<SpendChange>,
    /// Destinations whose price changed.
    pub prices: Vec<PriceChange>,
    /// How complete the slices are.
    pub trust: Trust,
    /// How the files were read.
    pub pass: PassShown,
}

/// A range of days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Days {
    /// The first one.
    pub from: Date,
    /// The last one.
    pub to: Date,
}

/// Sums of one direction, or of all.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Total {
    /// The direction; `null` for all.
    pub direction: Option<Direction>,
    /// The sums.
    #[serde(flatten)]
    pub sums: DaySums,
    /// The sums of the period before; `null` unless the lake has both periods whole.
    pub before: Option<DaySums>,
}

/// One direction of one day.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DayShown {
    /// The day.
    pub day: Date,
    /// The direction.
    pub direction: Direction,
    /// The sums.
    #[serde(flatten)]
    pub sums: DaySums,
    /// The same weekday of the week before; `null` unless the lake has both days whole.
    pub week_before: Option<DaySums>,
    /// The most calls at once on the day, of all directions together.
    pub peak: u64,
    /// The state of the slice in the ledger.
    pub state: SliceState,
}

/// Hours in which calls went worse than usual.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Disruptions {
    /// Hours of a direction with enough calls and something to compare them with.
    pub hours_compared: u64,
    /// The disruptions, in order of time.
    pub list: Vec<Disruption>,
}

/// How the files were read.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct PassShown {
    /// Rows read, those of earlier days included.
    pub rows: u64,
    /// The time of all threads together.
    pub seconds: f64,
    /// Files read.
    pub files: u64,
}

/// The status of each day and direction.
struct Statuses {
    slices: BTreeMap<(Date, Direction), SliceStatus>,
    timezone: TimeZone,
}

impl Statuses {
    fn of(status: LakeStatus, timezone: &TimeZone) -> Self {
        let days = status.days.into_iter();
        let slices = days.flat_map(|day| {
            let slices = day.slices.into_iter();
            slices.map(move |slice| ((day.day, slice.direction), slice))
        });
        Self {
            slices: slices.collect(),
            timezone: timezone.clone(),
        }
    }

    /// Whether the lake has all calls of a day.
    fn has_whole(&self, day: Date, direction: Direction) -> bool {
        let slice = self.slices.get(&(day, direction));
        slice.is_some_and(|slice| slice.has_whole(day, &self.timezone))
    }

    /// Whether a day is complete, and no longer changes.
    fn is_settled(&self, day: Date, direction: Direction) -> bool {
        let slice = self.slices.get(&(day, direction));
        let is_closed = slice.is_some_and(|slice| slice.state == SliceState::Closed);
        is_closed && self.has_whole(day, direction)
    }

    fn state(&self, day: Date, direction: Direction) -> SliceState {
        match self.slices.get(&(day, direction)) {
            // Of a month of which only other days were fetched.
            Some(slice)
                if slice.fetched_at.is_none()
                    && matches!(slice.state, SliceState::Closed | SliceState::Open) =>
            {
                SliceState::Missing
            }
            Some(slice) => slice.state,
            None => SliceState::Missing,
        }
    }
}

impl Report {
    /// Reads the calls of `lake` on the selected days; by default on the last thirty days that have
    /// ended, as far as the lake goes back. Shows phone numbers that the lake keeps with
    /// `show_numbers`, otherwise without their last four digits.
    ///
    /// # Errors
    /// [`Error`] if the lake cannot be read, or has nothing of these days. What cannot be read of
    /// single slices is part of the result.
    pub(crate) async fn make(
        lake: &Lake,
        config: &Config,
        range: &DayRange,
        show_numbers: bool,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let identity = &lake.identity;
        let timezone = TimeZone::get(&identity.timezone);
        let timezone = timezone.unwrap_or_else(|_| config.window.timezone.clone());
        let directions = range.directions(&config.source.directions);
        let period = selected_days(lake, config, range, &directions, &timezone, now).await?;
        let scope = scope(period.clone(), timezone);
        let mut entries = lake.entries(&directions, scope.read.clone()).await?;
        refuse_nothing(lake, &entries, &period, &directions).await?;
        let unit = identity.period_unit();
        let today = now.to_zoned(scope.timezone.clone()).date();
        let mut pass = Pass::read(lake, &entries, &directions, &scope).await?;
        entries.extend(std::mem::take(&mut pass.replaced));
        let status = |days| LakeStatus::new(unit, &entries, &directions, days, today);
        let trust = Trust::new(
            &status(period.clone()),
            &entries,
            &pass.problems,
            slice_changes(lake, &scope).await?,
        );
        let mut statuses = Statuses::of(status(scope.read.clone()), &scope.timezone);
        statuses.forget_unreadable(&pass);
        let hiding = Hiding::new(identity.privacy_modes(), show_numbers);
        Ok(Self::of(
            &Made {
                lake,
                config,
                scope,
                directions,
                statuses,
                hiding,
                now,
            },
            pass,
            trust,
        ))
    }

    /// The report on what was read.
    fn of(made: &Made<'_>, pass: Pass, trust: Trust) -> Self {
        let Made {
            lake,
            config,
            scope,
            directions,
            hiding,
            ..
        } = made;
        let before = made.is_compared().then(|| Days {
            from: *scope.before.start(),
            to: *scope.before.end(),
        });
        let names = pass.names;
        let [destinations, trunks, own_numbers] = [
            names
                .destinations
                .renamed_with_rank(|name| hiding.place(name)),
            names.trunks,
            names
                .own_numbers
                .renamed_with_rank(|name| hiding.number(name)),
        ];
        let ranking = |ranked: &Ranked| ranked.ranking(before.is_some());
        let rankings = [
            (Of::Destination, &destinations),
            (Of::Trunk, &trunks),
            (Of::OwnNumber, &own_numbers),
        ];
        let changes = before.map_or_else(Vec::new, |_| changes(&rankings));
        let hours: BTreeMap<Direction, Vec<Hour>> = directions
            .iter()
            .map(|direction| {
                let hours = pass.quarters[direction].hours(&scope.read, &scope.timezone);
                (*direction, hours)
            })
            .collect();
        Self {
            format: FORMAT,
            made_at: whole_second(made.now),
            version: env!("CARGO_PKG_VERSION"),
            lake: config.lake.url.to_string(),
            account: lake.identity.account.clone(),
            timezone: scope.timezone.iana_name().unwrap_or("UTC").to_owned(),
            slice: lake.identity.period_unit(),
            from: *scope.period.start(),
            to: *scope.period.end(),
            before,
            directions: directions.clone(),
            numbers: hiding.shown(),
            totals: made.totals(&pass.days),
            days: made.days(&pass.days, &pass.peaks),
            peaks: pass.peaks,
            rhythm: rhythm(made.rhythm_hours(&hours).iter().map(Vec::as_slice)),
            disruptions: made.disruptions(&hours),
            hours: made.hours(&hours),
            destinations: ranking(&destinations),
            trunks: ranking(&trunks),
            own_numbers: ranking(&own_numbers),
            changes,
            prices: pass
                .prices
                .changes(*scope.period.start(), |name| hiding.place(&name)),
            trust,
            pass: PassShown {
                rows: pass.rows,
                seconds: pass.took.as_secs_f64(),
                files: pass.files,
            },
        }
    }
}

/// What a report is made with, besides its calls.
struct Made<'a> {
    lake: &'a Lake,
    config: &'a Config,
    scope: Scope,
    directions: Vec<Direction>,
    statuses: Statuses,
    hiding: Hiding,
    now: Timestamp,
}

type Sums = BTreeMap<(Date, Direction), DaySums>;

impl Made<'_> {
    /// Whether the lake has both periods whole: a day that is missing would count as one without
    /// calls.
    fn is_compared(&self) -> bool {
        let mut days = each_day(&self.scope.before).chain(each_day(&self.scope.period));
        days.all(|day| self.has_whole(day))
    }

    /// Whether the lake has all calls of a day, in every direction.
    fn has_whole(&self, day: Date) -> bool {
        let mut directions = self.directions.iter();
        directions.all(|direction| self.statuses.has_whole(day, *direction))
    }

    fn totals(&self, days: &Sums) -> Vec<Total> {
        let is_compared = self.is_compared();
        let sum = |range: &RangeInclusive<Date>, only: Option<Direction>| {
            let mut sum = DaySums::default();
            for ((day, direction), sums) in days {
                if range.contains(day) && only.is_none_or(|only| only == *direction) {
                    sum.merge(sums);
                }
            }
            sum
        };
        let directions = self.directions.iter().copied().map(Some).chain([None]);
        directions
            .map(|direction| Total {
                direction,
                sums: sum(&self.scope.period, direction),
                before: is_compared.then(|| sum(&self.scope.before, direction)),
            })
            .collect()
    }

    fn days(&self, sums: &Sums, peaks: &[Peak]) -> Vec<DayShown> {
        let of = |day, direction| sums.get(&(day, direction)).copied().unwrap_or_default();
        let peaks: HashMap<Date, u64> = peaks.iter().map(|it| (it.day, it.calls)).collect();
        let mut days = Vec::new();
        for day in each_day(&self.scope.period) {
            for &direction in &self.directions {
                let has_whole = |day| self.statuses.has_whole(day, direction);
                let week_before = days_before(day, 7);
                let week_before = week_before.filter(|before| has_whole(*before) && has_whole(day));
                days.push(DayShown {
                    day,
                    direction,
                    sums: of(day, direction),
                    week_before: week_before.map(|day| of(day, direction)),
                    peak: peaks.get(&day).copied().unwrap_or_default(),
                    state: self.statuses.state(day, direction),
                });
            }
        }
        days
    }

    /// The hours of the period that have calls.
    fn hours(&self, hours: &BTreeMap<Direction, Vec<Hour>>) -> Vec<HourShown> {
        let mut shown: Vec<HourShown> = Vec::new();
        for (direction, hours) in hours {
            let in_period = hours
                .iter()
                .filter(|hour| self.scope.period.contains(&hour.date) && hour.outcomes.calls > 0);
            shown.extend(in_period.map(|hour| HourShown {
                begin: hour.begin,
                direction: *direction,
                outcomes: hour.outcomes,
            }));
        }
        shown.sort_by_key(|hour| (hour.begin, hour.direction));
        shown
    }

    /// The hours of days that the lake has whole, in every direction, by direction.
    fn rhythm_hours(&self, hours: &BTreeMap<Direction, Vec<Hour>>) -> Vec<Vec<Hour>> {
        let whole: HashSet<Date> = each_day(&self.scope.period)
            .filter(|day| self.has_whole(*day))
            .collect();
        let of_whole = |hours: &Vec<Hour>| {
            let hours = hours.iter().copied();
            hours.filter(|hour| whole.contains(&hour.date)).collect()
        };
        hours.values().map(of_whole).collect()
    }

    fn disruptions(&self, hours: &BTreeMap<Direction, Vec<Hour>>) -> Disruptions {
        let mut disruptions = Disruptions::default();
        for (&direction, hours) in hours {
            let known: Vec<KnownHour> = hours
                .iter()
                .map(|hour| KnownHour {
                    hour: *hour,
                    is_settled: self.statuses.is_settled(hour.date, direction),
                })
                .collect();
            let first = *self.scope.period.start();
            let found = disruptions::find(direction, &known, first, &self.scope.timezone);
            disruptions.hours_compared += found.compared;
            disruptions.list.extend(found.list);
        }
        let order = |it: &Disruption| (it.begin, it.direction, it.kind);
        disruptions.list.sort_by_key(order);
        disruptions
    }
}

impl Statuses {
    /// Days whose calls are not in the report are as good as not fetched.
    fn forget_unreadable(&mut self, pass: &Pass) {
        let is_unreadable = |problem: &FileProblem| matches!(problem, FileProblem::Unreadable(_));
        for (slice, problems) in &pass.problems {
            if problems.iter().any(is_unreadable) {
                for day in each_day(&slice.period.days()) {
                    if let Some(status) = self.slices.get_mut(&(day, slice.direction)) {
                        status.fetched_at = None;
                    }
                }
            }
        }
    }
}

fn each_day(days: &RangeInclusive<Date>) -> impl Iterator<Item = Date> + use<> {
    Period::touching(days.clone(), PeriodUnit::Day).map(Period::first_day)
}

fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The days of the report. Without a selection the last thirty that have ended, as far as the lake
/// goes back.
async fn selected_days(
    lake: &Lake,
    config: &Config,
    range: &DayRange,
    directions: &[Direction],
    timezone: &TimeZone,
    now: Timestamp,
) -> Result<RangeInclusive<Date>, Error> {
    let mut window = config.window.clone();
    window.timezone = timezone.clone();
    if range.from.is_some() || range.last_days.is_some() {
        return Ok(range.days(&window, now)?);
    }
    let first = lake.first_day(directions).await?;
    // The first day of a month may lie before that.
    window.start = first.max(window.start);
    let all = range.days(&window, now)?;
    let first = all.end().checked_sub((DEFAULT_DAYS - 1).days());
    let first = first.map_or(*all.start(), |first| first.max(*all.start()));
    Ok(first..=*all.end())
}

/// The days to read for a report on `period`.
fn scope(period: RangeInclusive<Date>, timezone: TimeZone) -> Scope {
    let (from, to) = (*period.start(), *period.end());
    let length = from.until(to).map_or(0, |span| span.get_days()) + 1;
    let earlier = |days: i64| from.checked_sub(days.days()).unwrap_or(Date::MIN);
    let length = i64::from(length);
    Scope {
        read: earlier(length.max(BASELINE_DAYS))..=to,
        before: earlier(length)..=earlier(1),
        period,
        timezone,
    }
}

/// Refuses a period of which the lake has nothing.
async fn refuse_nothing(
    lake: &Lake,
    entries: &HashMap<Slice, LedgerEntry>,
    period: &RangeInclusive<Date>,
    directions: &[Direction],
) -> Result<(), Error> {
    let mut slices = entries.iter();
    let is_any = slices.any(|(slice, found)| {
        let is_known = found.entry.committed.is_some() || found.state() == SliceState::Damaged;
        slice.period.touches(period) && is_known
    });
    if is_any {
        return Ok(());
    }
    let fetched = lake.ledger_slices(directions).await?;
    let first = fetched.iter().map(|slice| slice.period.first_day()).min();
    let last = fetched.iter().map(|slice| slice.period.last_day()).max();
    Err(UsageError::NothingFetched {
        from: *period.start(),
        to: *period.end(),
        known: first.zip(last),
    }
    .into())
}

/// How runs changed the slices of the period, as far as their reports are kept. What was fetched
/// before the end of a slice's last day only grew with the day.
async fn slice_changes(
    lake: &Lake,
    scope: &Scope,
) -> Result<BTreeMap<Slice, SliceChanges>, LakeError> {
    let mut changes: BTreeMap<Slice, SliceChanges> = BTreeMap::new();
    let mut told = std::pin::pin!(reports::<ReportedSlices>(lake).await?);
    while let Some(told) = told.try_next().await? {
        for report in &told.slices {
            let slice = report.slice();
            if let Some(change) = &report.change
                && slice.period.touches(&scope.period)
                && change.since >= end_of_day(slice.period.last_day(), &scope.timezone)
            {
                let change = SliceChange::new(&told.run, told.finished_at, change);
                changes.entry(slice).or_default().add(change);
            }
        }
    }
    Ok(changes)
}

/// How numbers of a lake are shown.
struct Hiding {
    /// How the lake stores them.
    modes: Modes,
    show_numbers: bool,
    truncating: Privacy,
}

impl Hiding {
    fn new(modes: Modes, show_numbers: bool) -> Self {
        Self {
            modes,
            show_numbers,
            truncating: Privacy::new(Modes::all(Mode::Truncate), None),
        }
    }

    /// Whether values that the lake stores in this way need to be hidden.
    fn applies(&self, mode: Mode) -> bool {
        mode == Mode::Keep && !self.show_numbers
    }

    /// A destination, which may be a number or an address.
    fn place(&self, name: &str) -> String {
        if !self.applies(self.modes.destination) {
            return name.to_owned();
        }
        let mut hidden = Cow::Borrowed(name);
        self.truncating.hide_place(&mut hidden, Mode::Truncate);
        hidden.into_owned()
    }

    /// A number of the account: one of the two columns that has it keeps numbers.
    fn number(&self, name: &str) -> String {
        if !self.applies(self.modes.from_number) && !self.applies(self.modes.to_number) {
            return name.to_owned();
        }
        let mut hidden = Cow::Borrowed(name);
        self.truncating.hide_value(&mut hidden, Mode::Truncate);
        hidden.into_owned()
    }

    /// How numbers of the account are shown.
    fn shown(&self) -> &'static str {
        match (self.modes.from_number, self.modes.to_number) {
            (Mode::Keep, _) | (_, Mode::Keep) if self.show_numbers => "shown",
            (Mode::Keep, _) | (_, Mode::Keep) => "hidden",
            (Mode::Truncate, _) | (_, Mode::Truncate) => Mode::Truncate.as_str(),
            _ => Mode::Pseudonymize.as_str(),
        }
    }
}
