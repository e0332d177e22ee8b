//! Hours with made disruptions, and ordinary ones.

use jiff::civil::date;

use super::super::sums::Outcome;
use super::*;
use crate::cdr::slice::Slice;
use crate::simulator::{Generator, KeyOrder};

const FIRST: Date = date(2026, 1, 5);
const DAYS: i64 = 86;
/// Days before the period of a report.
const BASELINE: i64 = 56;

/// What happens to an hour.
type Change = fn(&mut Outcomes);

fn day(number: i64) -> Date {
    days_before(FIRST, -number).unwrap()
}

/// The first day of the period.
fn from() -> Date {
    day(BASELINE)
}

/// Ordinary calls.
fn ordinary(calls: u64) -> Outcomes {
    Outcomes {
        calls,
        answered: calls * 62 / 100,
        failed: calls * 7 / 100,
        busy: calls * 8 / 100,
        duration_seconds: i64::try_from(calls * 62 / 100 * 240).unwrap(),
    }
}

/// The hours of all days, all of them settled, each with the calls that `calls` gives it.
fn hours(calls: impl Fn(Date, i8) -> Outcomes) -> Vec<KnownHour> {
    let mut hours = Vec::new();
    for number in 0..DAYS {
        for clock in 0..24 {
            let date = day(number);
            let begin = date.at(clock, 0, 0, 0).to_zoned(TimeZone::UTC).unwrap();
            let hour = Hour {
                begin: begin.timestamp(),
                date,
                clock,
                outcomes: calls(date, clock),
            };
            hours.push(KnownHour {
                hour,
                is_settled: true,
            });
        }
    }
    hours
}

fn found(hours: &[KnownHour]) -> Found {
    find(Direction::Placed, hours, from(), &TimeZone::UTC)
}

/// The kind, begin and number of hours of each disruption.
fn listed(found: &Found) -> Vec<(Kind, String, u64)> {
    let list = found.list.iter();
    list.map(|it| (it.kind, it.begin.to_string(), it.hours))
        .collect()
}

/// Ordinary hours, in which `change` changes those of some days and hours of the clock.
fn changed(change: impl Fn(Date, i8, &mut Outcomes)) -> Vec<KnownHour> {
    hours(|date, clock| {
        // A little different from day to day.
        let calls = 200 + u64::try_from(date.day()).unwrap() % 7 * 4;
        let mut outcomes = ordinary(calls);
        change(date, clock, &mut outcomes);
        outcomes
    })
}

#[test]
fn a_disrupted_hour_is_found_with_its_kind_and_nothing_else_is() {
    let bad = day(70);
    let cases: [(Kind, Change, &str); 5] = [
        (
            Kind::Failed,
            |it| (it.failed, it.answered) = (it.calls / 2, it.calls / 4),
            "Mon 16 Mar 10:00–11:00, placed: 50.0 % of 208 calls failed; usually 6.7 % at this \
             hour.",
        ),
        (
            Kind::Busy,
            |it| (it.busy, it.answered) = (it.calls / 2, it.calls / 4),
            "Mon 16 Mar 10:00–11:00, placed: 50.0 % of 208 calls met a busy line; usually 7.7 % at \
             this hour.",
        ),
        (
            Kind::Asr,
            |it| it.answered = it.calls / 4,
            "Mon 16 Mar 10:00–11:00, placed: only 25.0 % of 208 calls were answered; usually \
             61.5 % at this hour.",
        ),
        (
            Kind::Acd,
            |it| it.duration_seconds /= 12,
            "Mon 16 Mar 10:00–11:00, placed: 128 answered calls lasted 20 s on average; usually \
             240 s at this hour.",
        ),
        (
            Kind::Silence,
            |it| *it = ordinary(1),
            "Mon 16 Mar 10:00–11:00, placed: 1 call; usually 208 in this hour.",
        ),
    ];
    assert_eq!(listed(&found(&changed(|_, _, _| {}))), []);
    for (kind, change, text) in cases {
        let hours = changed(|date, clock, outcomes| {
            if (date, clock) == (bad, 10) {
                change(outcomes);
            }
        });
        let found = found(&hours);
        assert_eq!(
            listed(&found),
            [(kind, "2026-03-16T10:00:00Z".to_owned(), 1)]
        );
        assert_eq!(found.list[0].text, text);
        assert_eq!(
            (found.list[0].compared, found.list[0].basis),
            (8, Basis::Weeks)
        );
        assert_eq!(found.compared, 30 * 24);
    }
}

#[test]
fn adjacent_hours_of_one_kind_are_one_disruption_also_over_midnight() {
    let (one, next) = (day(70), day(71));
    let hours = changed(|date, clock, it| {
        if (date == one && clock >= 22) || (date == next && clock < 2) {
            it.failed = it.calls / 2;
        }
    });
    let found = found(&hours);
    assert_eq!(
        listed(&found),
        [(Kind::Failed, "2026-03-16T22:00:00Z".to_owned(), 4)]
    );
    let text = &found.list[0].text;
    assert!(
        text.starts_with("Mon 16 Mar 22:00 – Tue 17 Mar 02:00, placed: 50.0 %"),
        "{text}"
    );
    assert!(text.ends_with("at these hours."), "{text}");
}

#[test]
fn an_hour_that_was_marked_is_not_usual_until_it_stays_so() {
    // Every Monday at ten from the first one of the period on.
    let hours = changed(|date, clock, it| {
        if date >= from() && date.weekday() == jiff::civil::Weekday::Monday && clock == 10 {
            it.failed = it.calls / 2;
        }
    });
    let begins = listed(&found(&hours))
        .into_iter()
        .map(|(_, begin, _)| begin);
    let mondays = [
        "2026-03-02",
        "2026-03-09",
        "2026-03-16",
        "2026-03-23",
        "2026-03-30",
    ];
    assert!(begins.eq(mondays.map(|day| format!("{day}T10:00:00Z"))));
    // Ten weeks of it: what was usual before is forgotten.
    let long: Vec<KnownHour> = changed(|date, clock, it| {
        if date >= day(14) && date.weekday() == jiff::civil::Weekday::Monday && clock == 10 {
            it.failed = it.calls / 2;
        }
    });
    let late = day(77);
    let found = find(Direction::Placed, &long, late, &TimeZone::UTC);
    assert_eq!(listed(&found), []);
}

#[test]
fn a_day_that_is_not_settled_is_neither_judged_nor_compared_with() {
    let mut hours = changed(|date, _, it| {
        if date == day(70) || date == day(63) {
            *it = Outcomes::default();
        }
    });
    for known in &mut hours {
        known.is_settled = known.hour.date != day(70) && known.hour.date != day(63);
    }
    let found = found(&hours);
    assert_eq!((listed(&found), found.compared), (vec![], 28 * 24));
}

#[test]
fn without_four_weeks_the_days_before_are_compared_with_and_without_five_days_none() {
    let hours = changed(|date, clock, it| {
        if (date, clock) == (day(20), 10) {
            it.failed = it.calls / 2;
        }
    });
    let found = find(Direction::Placed, &hours, FIRST, &TimeZone::UTC);
    assert_eq!(
        listed(&found),
        [(Kind::Failed, "2026-01-25T10:00:00Z".to_owned(), 1)]
    );
    assert_eq!(
        (found.list[0].compared, found.list[0].basis),
        (14, Basis::Days)
    );
    // The first five days have nothing to be compared with.
    assert_eq!(found.compared, 81 * 24);
}

#[test]
fn few_calls_say_nothing() {
    let hours = hours(|date, clock| {
        let mut outcomes = ordinary(MIN_CALLS - 1);
        if (date, clock) == (day(70), 10) {
            outcomes.failed = outcomes.calls;
        }
        outcomes
    });
    assert_eq!(found(&hours), Found::default());
}

/// The hours of the calls that the simulator makes in both directions.
fn simulated(seed: u64, direction: Direction) -> Vec<KnownHour> {
    let generator = Generator {
        seed,
        calls_per_day: 2_000,
        key_order: KeyOrder::Fixed,
    };
    let mut by_hour = HashMap::<(Date, i8), Outcomes>::new();
    for number in 0..DAYS {
        let slice = Slice::of_day(day(number), direction);
        for index in 0..generator.count(slice, Timestamp::MAX) {
            let call = generator.call(slice, index);
            let clock = i8::try_from(call.time.as_second() / 3600 % 24).unwrap();
            let outcomes = by_hour.entry((day(number), clock)).or_default();
            let outcome = Outcome::of(call.disposition);
            outcomes.add(outcome, call.duration_seconds);
        }
    }
    hours(|date, clock| by_hour.get(&(date, clock)).copied().unwrap_or_default())
}

/// Of 40 seeds, 28,487 hours were compared. The simulator's outages were found, and nothing else.
/// One false alarm in 2,000 hours would be tolerable.
#[test]
fn of_simulated_calls_the_outages_are_found_and_ordinary_calls_raise_no_alarm() {
    let whole = std::env::var_os("TEST_SWEEPS").is_some_and(|sweeps| sweeps == "whole");
    let seeds = if whole { 40 } else { 2 };
    let mut compared = 0;
    for seed in 0..seeds {
        for direction in Direction::ALL {
            let found = found(&simulated(seed, direction));
            let outage = (Kind::Failed, "2026-03-12T10:00:00Z".to_owned(), 1);
            let expected: Vec<_> = (direction == Direction::Placed)
                .then_some(outage)
                .into_iter()
                .collect();
            assert_eq!(listed(&found), expected, "seed {seed}");
            compared += found.compared;
        }
    }
    println!("{compared} hours compared");
    assert!(compared > seeds * 500, "{compared}");
}

/// About a standard normal value.
fn normal(random: &mut fastrand::Rng) -> f64 {
    (0..12).map(|_| random.f64()).sum::<f64>() - 6.0
}

/// The hours of an account that varies more than the simulator's: the number of calls by a fifth
/// from hour to hour, the shares of failed, busy and answered calls by three percentage points, and
/// the logarithm of durations by 1.2.
fn lively(seed: u64) -> Vec<KnownHour> {
    let random = &mut fastrand::Rng::with_seed(seed);
    let mut of_hour = || {
        let mut outcomes = Outcomes::default();
        let mut share = |usual: f64| (usual + 0.03 * normal(random)).clamp(0.0, 1.0);
        let (failed, busy, answered) = (share(0.08), share(0.08), share(0.55));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "some calls"
        )]
        let calls = (100.0 * (0.2 * normal(random)).exp()) as u64;
        for _ in 0..calls {
            let draw = random.f64();
            #[expect(clippy::cast_possible_truncation, reason = "some minutes")]
            let seconds = (60.0 * (1.2 * normal(random)).exp()) as i32;
            let (outcome, seconds) = if draw < failed {
                (Outcome::Failed, 0)
            } else if draw < failed + busy {
                (Outcome::Busy, 0)
            } else if draw < failed + busy + answered {
                (Outcome::Answered, seconds)
            } else {
                (Outcome::Other, 0)
            };
            outcomes.add(outcome, seconds);
        }
        outcomes
    };
    let mut drawn: Vec<Outcomes> = (0..DAYS * 24).map(|_| of_hour()).collect();
    // In the order in which they are asked for.
    drawn.reverse();
    let drawn = std::cell::RefCell::new(drawn);
    hours(|_, _| drawn.borrow_mut().pop().unwrap())
}

/// Of 200 seeds, 144,000 hours were compared, and 48 were marked: one in 3,000.
#[test]
fn a_lively_account_raises_hardly_any_alarm() {
    let whole = std::env::var_os("TEST_SWEEPS").is_some_and(|sweeps| sweeps == "whole");
    let seeds = if whole { 200 } else { 10 };
    let (mut compared, mut marked) = (0, 0);
    for seed in 0..seeds {
        let found = found(&lively(seed));
        compared += found.compared;
        marked += found.list.len() as u64;
    }
    println!("{compared} hours compared, {marked} marked");
    assert_eq!(compared, seeds * 30 * 24);
    assert!(marked * 2_000 <= compared, "{marked} of {compared}");
}
