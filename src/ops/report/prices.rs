//! Prices of destinations, and when they changed.

use std::collections::HashMap;

use jiff::civil::Date;
use serde::Serialize;

use crate::cdr::amount::Amount;

/// Prices of one destination that are told apart on one day.
const MAX_PRICES: usize = 16;
/// Most destinations whose prices are followed.
const MAX_DESTINATIONS: usize = 1 << 16;

/// How many calls of one destination had each price on one day.
#[derive(Clone, Debug, Default)]
pub(super) struct PriceCounts {
    counts: Vec<(i64, u64)>,
    calls: u64,
}

impl PriceCounts {
    #[inline]
    pub(super) fn add(&mut self, price_nanos: i64) {
        self.calls += 1;
        let mut counts = self.counts.iter_mut();
        if let Some((_, calls)) = counts.find(|(price, _)| *price == price_nanos) {
            *calls += 1;
        } else if self.counts.len() < MAX_PRICES {
            self.counts.push((price_nanos, 1));
        }
    }

    /// The price of more than half of the calls. Otherwise the day has no price of its own.
    pub(super) fn usual(&self) -> Option<Amount> {
        let mut counts = self.counts.iter();
        let found = counts.find(|(_, calls)| 2 * calls > self.calls);
        found.map(|(price, _)| Amount::from_nanos(*price))
    }
}

/// The last price of a destination, and its last change.
#[derive(Clone, Copy, Debug)]
struct Course {
    price: Amount,
    /// The day of the change, and the price before.
    change: Option<(Date, Amount)>,
}

/// Prices by destination, in the order of days.
#[derive(Debug, Default)]
pub(super) struct Prices {
    courses: HashMap<String, Course>,
}

impl Prices {
    /// Adds the price of a destination on a day that is not earlier than those before.
    pub(super) fn add(&mut self, destination: String, day: Date, price: Amount) {
        if let Some(course) = self.courses.get_mut(&destination) {
            if course.price != price {
                course.change = Some((day, course.price));
                course.price = price;
            }
        } else if self.courses.len() < MAX_DESTINATIONS {
            let course = Course {
                price,
                change: None,
            };
            self.courses.insert(destination, course);
        }
    }

    /// The last change of each destination, from `first` on, by day and name. `rename` hides the
    /// numbers in a name.
    pub(super) fn changes(
        &self,
        first: Date,
        rename: impl Fn(String) -> String,
    ) -> Vec<PriceChange> {
        let courses = self.courses.iter();
        let changes = courses.filter_map(|(destination, course)| {
            let (day, before) = course.change.filter(|(day, _)| *day >= first)?;
            let destination = rename(destination.clone());
            let text = format!(
                "{destination}: {before} → {} USD a minute from {day} on.",
                course.price
            );
            Some(PriceChange {
                destination,
                day,
                usd_per_minute_before: before.to_string(),
                usd_per_minute: course.price.to_string(),
                text,
            })
        });
        let mut changes: Vec<PriceChange> = changes.collect();
        changes.sort_by(|a, b| (a.day, &a.destination).cmp(&(b.day, &b.destination)));
        changes
    }
}

/// The last change of a destination's price.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PriceChange {
    /// The destination.
    pub destination: String,
    /// The first day with the new price.
    pub day: Date,
    /// The price of a minute before.
    pub usd_per_minute_before: String,
    /// The price of a minute since.
    pub usd_per_minute: String,
    /// The change in words.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn the_price_of_a_day_is_that_of_more_than_half_of_the_calls() {
        let usual = |prices: &[i64]| {
            let mut counts = PriceCounts::default();
            for price in prices {
                counts.add(*price);
            }
            counts.usual().map(Amount::nanos)
        };
        assert_eq!(usual(&[]), None);
        assert_eq!(usual(&[5, 7, 5]), Some(5));
        assert_eq!(usual(&[5, 7, 5, 7]), None);
        let many: Vec<i64> = (0..100).flat_map(|price| [price, 0, 0]).collect();
        assert_eq!(usual(&many), Some(0));
    }

    #[test]
    fn the_last_change_of_a_price_within_the_period_is_listed() {
        let mut prices = Prices::default();
        for (name, day, nanos) in [
            ("rises", 1, 1_000_000),
            ("rises", 2, 2_000_000),
            ("rises", 4, 2_500_000),
            ("stays", 1, 1),
            ("stays", 4, 1),
            ("earlier", 1, 1),
            ("earlier", 2, 2),
        ] {
            prices.add(
                name.to_owned(),
                date(2026, 3, day),
                Amount::from_nanos(nanos),
            );
        }
        let changes = prices.changes(date(2026, 3, 3), |name| name.to_uppercase());
        let [only] = &*changes else {
            panic!("{changes:?}");
        };
        assert_eq!(
            only.text,
            "RISES: 0.002 → 0.0025 USD a minute from 2026-03-04 on."
        );
    }
}
