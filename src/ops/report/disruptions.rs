//! Hours in which calls went worse than is usual in such an hour.
//!
//! Each hour is compared with the same hour of the week in up to eight weeks before it, or, if
//! fewer than four of these are known, with the same hour of the day in up to fourteen days before.
//! What is usual is their median, and how much it varies their median absolute deviation. Both
//! hardly change if a few of these hours were disrupted themselves.

use std::collections::HashMap;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::hours::{Hour, days_before};
use super::sums::Outcomes;
use crate::cdr::slice::Direction;
use crate::error::{counted, thousands};

/// Fewest calls of an hour whose shares are compared, and fewest answered calls of an hour whose
/// average duration is compared.
const MIN_CALLS: u64 = 30;
/// Weeks before that an hour is compared with, and fewest of them.
const WEEKS: (i64, usize) = (8, 4);
/// Days before that it is compared with otherwise, and fewest of them.
const DAYS: (i64, usize) = (14, 5);
/// An hour is marked if it is worse than usual by more than this multiple of variation and chance.
const MAX_DEVIATIONS: f64 = 5.0;
/// Shares vary more than those of independent calls, because calls fail in groups: their variance
/// is larger by this factor.
const OVERDISPERSION: f64 = 1.5;
/// The standard deviation of durations, as a multiple of their mean.
const DURATION_VARIATION: f64 = 1.5;
/// A share must be worse by so much.
const MIN_SHARE: f64 = 0.1;
/// The average duration must be shorter by this fraction.
const MIN_SHORTENING: f64 = 0.35;
/// An hour with less than this fraction of the usual calls is silent.
const SILENT: f64 = 0.1;
/// Makes a median absolute deviation comparable with a standard deviation.
const MAD_SCALE: f64 = 1.4826;

/// What was worse than usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Hardly any call, where there usually are many.
    Silence,
    /// More calls failed.
    Failed,
    /// More lines were busy.
    Busy,
    /// Fewer calls were answered, and neither of the above explains it.
    Asr,
    /// Answered calls were shorter.
    Acd,
}

/// What hours are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Basis {
    /// The same hour of the week, in weeks before.
    Weeks,
    /// The same hour of the day, on days before.
    Days,
}

/// Adjacent hours that were worse than usual in the same way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Disruption {
    /// When the first hour began.
    pub begin: Timestamp,
    /// The number of hours.
    pub hours: u64,
    /// The direction of the calls.
    pub direction: Direction,
    /// What was worse.
    pub kind: Kind,
    /// Calls in these hours.
    pub calls: u64,
    /// The share of these calls, the average duration of answered calls in seconds, or the number
    /// of calls.
    pub value: f64,
    /// What is usual: the median, weighted by calls if there are several hours; for silence, the
    /// sum of medians.
    pub usual: f64,
    /// The scaled median absolute deviation, the largest of all hours.
    pub spread: f64,
    /// The number of hours compared with, the smallest of all hours.
    pub compared: usize,
    /// Which ones.
    pub basis: Basis,
    /// The disruption in words.
    pub text: String,
}

/// What was found in the hours of one direction.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Found {
    /// Hours with enough calls and something to compare them with.
    pub(super) compared: u64,
    pub(super) list: Vec<Disruption>,
}

/// One hour of a day that is known whole, or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownHour {
    pub(super) hour: Hour,
    /// Whether the day is complete and settled. Otherwise the hour is neither judged nor compared
    /// with.
    pub(super) is_settled: bool,
}

/// What is usual in an hour.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Usual {
    median: f64,
    /// The scaled median absolute deviation.
    spread: f64,
    compared: usize,
    basis: Basis,
}

impl Usual {
    /// How far a value may lie from the median if chance explains this much of it. Variation and
    /// chance add up: a median of few hours may itself be off, and their deviation too small.
    fn tolerance(&self, chance: f64) -> f64 {
        MAX_DEVIATIONS * chance.hypot(self.spread)
    }
}

/// An hour that was marked.
#[derive(Clone, Copy, Debug)]
struct Mark {
    kind: Kind,
    usual: Usual,
}

/// The disruptions among these hours of one direction, in order of time, from the day `first` on.
/// Earlier hours are only compared with.
pub(super) fn find(
    direction: Direction,
    hours: &[KnownHour],
    first: Date,
    timezone: &TimeZone,
) -> Found {
    let mut search = Search::new(hours);
    let mut marks: Vec<(usize, Mark)> = Vec::new();
    let mut compared = 0;
    for (at, known) in hours.iter().enumerate() {
        if !known.is_settled {
            continue;
        }
        let (is_compared, found) = search.judge(at);
        search.is_marked[at] = !found.is_empty();
        if known.hour.date >= first {
            compared += u64::from(is_compared);
            marks.extend(found.into_iter().map(|mark| (at, mark)));
        }
    }
    marks.sort_by_key(|(at, mark)| (mark.kind, *at));
    let is_next =
        |(a, of): &(usize, Mark), (b, next): &(usize, Mark)| of.kind == next.kind && a + 1 == *b;
    let runs = marks.chunk_by(is_next);
    let mut list: Vec<Disruption> = runs
        .map(|run| disruption(direction, hours, run, timezone))
        .collect();
    list.sort_by_key(|found| (found.begin, found.kind));
    Found { compared, list }
}

/// Hours, and which were marked so far.
struct Search<'a> {
    hours: &'a [KnownHour],
    /// The first hour of each day and hour of the clock.
    places: HashMap<(Date, i8), usize>,
    is_marked: Vec<bool>,
}

impl<'a> Search<'a> {
    fn new(hours: &'a [KnownHour]) -> Self {
        let mut places = HashMap::with_capacity(hours.len());
        for (at, KnownHour { hour, .. }) in hours.iter().enumerate() {
            places.entry((hour.date, hour.clock)).or_insert(at);
        }
        Self {
            hours,
            places,
            is_marked: vec![false; hours.len()],
        }
    }

    /// Whether an hour could be compared in any way, and in which it is worse than usual.
    fn judge(&self, at: usize) -> (bool, Vec<Mark>) {
        let outcomes = self.hours[at].hour.outcomes;
        let weekly = self.usual(at, Basis::Weeks, |outcomes| Some(number(outcomes.calls)));
        let many = weekly.filter(|usual| usual.median >= number(MIN_CALLS));
        let mut marks = Vec::new();
        let silence = many.filter(|usual| {
            let calls = number(outcomes.calls);
            let chance = (OVERDISPERSION * usual.median).sqrt();
            calls < SILENT * usual.median && usual.median - calls > usual.tolerance(chance)
        });
        if let Some(usual) = silence {
            let kind = Kind::Silence;
            return (true, vec![Mark { kind, usual }]);
        }
        let mut is_compared = many.is_some();
        for kind in [Kind::Failed, Kind::Busy, Kind::Asr, Kind::Acd] {
            // Failed calls and busy lines explain why fewer calls were answered.
            if kind == Kind::Asr && !marks.is_empty() {
                continue;
            }
            let Some(value) = value(kind, &outcomes) else {
                continue;
            };
            let of = |basis| self.usual(at, basis, |outcomes| self::value(kind, outcomes));
            if let Some(usual) = of(Basis::Weeks).or_else(|| of(Basis::Days)) {
                is_compared = true;
                if is_worse(kind, value, &outcomes, &usual) {
                    marks.push(Mark { kind, usual });
                }
            }
        }
        (is_compared, marks)
    }

    /// What is usual in an hour like this one, of earlier hours that have the value.
    fn usual(
        &self,
        at: usize,
        basis: Basis,
        value: impl Fn(&Outcomes) -> Option<f64>,
    ) -> Option<Usual> {
        let Hour { date, clock, .. } = self.hours[at].hour;
        let (step, (most, fewest)) = match basis {
            Basis::Weeks => (7, WEEKS),
            Basis::Days => (1, DAYS),
        };
        let earlier = (1..=most).filter_map(|steps| {
            let place = self
                .places
                .get(&(days_before(date, step * steps)?, clock))?;
            let known = self.hours[*place];
            let value = value(&known.hour.outcomes).filter(|_| known.is_settled)?;
            Some((value, self.is_marked[*place]))
        });
        let earlier: Vec<(f64, bool)> = earlier.collect();
        let ordinary = earlier.iter().filter(|(_, is_marked)| !is_marked);
        let mut values: Vec<f64> = ordinary.map(|(value, _)| *value).collect();
        // What stays for long becomes usual.
        if values.len() < fewest {
            values = earlier.into_iter().map(|(value, _)| value).collect();
        }
        if values.len() < fewest {
            return None;
        }
        let compared = values.len();
        let median = median(&mut values);
        let mut deviations: Vec<f64> = values.iter().map(|it| (it - median).abs()).collect();
        Some(Usual {
            median,
            spread: MAD_SCALE * self::median(&mut deviations),
            compared,
            basis,
        })
    }
}

/// What an hour has of this kind; `None` if it has too few calls to tell.
fn value(kind: Kind, outcomes: &Outcomes) -> Option<f64> {
    let Outcomes {
        calls, answered, ..
    } = *outcomes;
    let (part, whole) = match kind {
        Kind::Silence => return Some(number(calls)),
        Kind::Failed => (number(outcomes.failed), calls),
        Kind::Busy => (number(outcomes.busy), calls),
        Kind::Asr => (number(answered), calls),
        #[expect(clippy::cast_precision_loss, reason = "seconds of an hour")]
        Kind::Acd => (outcomes.duration_seconds as f64, answered),
    };
    (whole >= MIN_CALLS).then(|| part / number(whole))
}

/// Whether the value of an hour is worse than usual by more than chance explains.
fn is_worse(kind: Kind, value: f64, outcomes: &Outcomes, usual: &Usual) -> bool {
    let calls = number(outcomes.calls);
    let (excess, least, chance) = match kind {
        // Of a share that is usually 0 or 1, one call more or less says nothing either.
        Kind::Failed | Kind::Busy | Kind::Asr => {
            let share = usual.median;
            let variance = share * (1.0 - share) + 1.0 / calls;
            let excess = if kind == Kind::Asr {
                share - value
            } else {
                value - share
            };
            (
                excess,
                MIN_SHARE,
                (OVERDISPERSION * variance / calls).sqrt(),
            )
        }
        Kind::Acd => (
            usual.median - value,
            MIN_SHORTENING * usual.median,
            DURATION_VARIATION * usual.median / number(outcomes.answered).sqrt(),
        ),
        Kind::Silence => return false,
    };
    excess > least && excess > usual.tolerance(chance)
}

/// The median, the mean of both in the middle if their number is even. Sorts the values.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values {
        [] => 0.0,
        _ if values.len() % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[expect(clippy::cast_precision_loss, reason = "calls of some hours")]
fn number(calls: u64) -> f64 {
    calls as f64
}

/// The disruption of adjacent hours that were marked in the same way.
fn disruption(
    direction: Direction,
    hours: &[KnownHour],
    run: &[(usize, Mark)],
    timezone: &TimeZone,
) -> Disruption {
    let (first, Mark { kind, usual }) = run[0];
    let mut outcomes = Outcomes::default();
    // Expected sums.
    let (mut expected, mut weights) = (0.0, 0.0);
    let (mut spread, mut compared) = (0.0_f64, usize::MAX);
    for (at, mark) in run {
        let of_hour = &hours[*at].hour.outcomes;
        outcomes.merge(of_hour);
        let weight = match kind {
            Kind::Silence => 1.0,
            Kind::Acd => number(of_hour.answered),
            _ => number(of_hour.calls),
        };
        expected += mark.usual.median * weight;
        weights += weight;
        spread = spread.max(mark.usual.spread);
        compared = compared.min(mark.usual.compared);
    }
    let value = value(kind, &outcomes).unwrap_or_default();
    let is_single = run.len() == 1;
    let median = match kind {
        _ if is_single => usual.median,
        Kind::Silence => expected,
        _ => expected / weights,
    };
    let begin = hours[first].hour.begin;
    let text = format!(
        "{}, {direction}: {}",
        when(begin, run.len(), timezone),
        words(kind, &outcomes, value, median, is_single)
    );
    Disruption {
        begin,
        hours: run.len() as u64,
        direction,
        kind,
        calls: outcomes.calls,
        value,
        usual: median,
        spread,
        compared,
        basis: usual.basis,
        text,
    }
}

fn words(kind: Kind, outcomes: &Outcomes, value: f64, usual: f64, is_single: bool) -> String {
    let calls = counted(outcomes.calls, "call", "calls");
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let at = if is_single {
        "this hour"
    } else {
        "these hours"
    };
    match kind {
        Kind::Silence => format!("{calls}; usually {usual:.0} in {at}."),
        Kind::Failed => format!(
            "{} of {calls} failed; usually {} at {at}.",
            percent(value),
            percent(usual)
        ),
        Kind::Busy => format!(
            "{} of {calls} met a busy line; usually {} at {at}.",
            percent(value),
            percent(usual)
        ),
        Kind::Asr => format!(
            "only {} of {calls} were answered; usually {} at {at}.",
            percent(value),
            percent(usual)
        ),
        Kind::Acd => format!(
            "{} answered calls lasted {value:.0} s on average; usually {usual:.0} s at {at}.",
            thousands(outcomes.answered)
        ),
    }
}

/// A number of hours from `begin` on, in the lake's time zone.
fn when(begin: Timestamp, hours: usize, timezone: &TimeZone) -> String {
    let seconds = 3600 * i64::try_from(hours).unwrap_or_default();
    let end = Timestamp::from_second(begin.as_second() + seconds).unwrap_or(begin);
    let [begin, end] = [begin, end].map(|time| time.to_zoned(timezone.clone()));
    let first = begin.strftime("%a %-d %b %H:%M");
    if begin.date() == end.date() {
        format!("{first}–{}", end.strftime("%H:%M"))
    } else if begin.date().tomorrow().ok() == Some(end.date()) && end.hour() == 0 {
        format!("{first}–24:00")
    } else {
        format!("{first} – {}", end.strftime("%a %-d %b %H:%M"))
    }
}

#[cfg(test)]
mod tests;
