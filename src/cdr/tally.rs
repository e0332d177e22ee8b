//! Counts and sums of a slice.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::amount::AmountSum;
use super::day::date_of;
use super::decode::Record;

/// Counts of one slice, or of a run. `records = rows + duplicates + rejected + suppressed`, always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// JSON objects and broken lines read from the source.
    pub records: u64,
    /// Rows in the lake.
    pub rows: u64,
    /// Records dropped because the slice holds an equal one.
    pub duplicates: u64,
    /// Rows and suppressed calls that equal an earlier one, kept because of `quality.dedupe =
    /// false`.
    #[serde(default)]
    pub repeated: u64,
    /// Rows that share a `call_id` with an earlier row of different content.
    pub conflicts: u64,
    /// Rejected records.
    pub rejected: u64,
    /// Records dropped because their number was erased.
    #[serde(default)]
    pub suppressed: u64,
    /// Records from which a credential was removed: the API key, or a credential in an address.
    #[serde(default)]
    pub redacted: u64,
    /// Rows with a rounded value, whose original text is in `extra`.
    #[serde(default)]
    pub rounded: u64,
    /// Records with a local time that occurs twice or never in `source.assume_timezone`, because of
    /// a clock change. Includes rejected and dropped records. A row of such a record counts as
    /// rounded.
    #[serde(default)]
    pub ambiguous_times: u64,
    /// Rows whose `call_time` lies outside the slice's period, in the configured time zone.
    pub outside_day: u64,
    /// Rows without a charge.
    pub missing_charge: u64,
    /// Rows without a duration.
    pub missing_duration: u64,
}

impl Counts {
    /// Adds the counts of another slice.
    pub fn merge(&mut self, other: &Self) {
        self.records += other.records;
        self.rows += other.rows;
        self.duplicates += other.duplicates;
        self.repeated += other.repeated;
        self.conflicts += other.conflicts;
        self.rejected += other.rejected;
        self.suppressed += other.suppressed;
        self.redacted += other.redacted;
        self.rounded += other.rounded;
        self.ambiguous_times += other.ambiguous_times;
        self.outside_day += other.outside_day;
        self.missing_charge += other.missing_charge;
        self.missing_duration += other.missing_duration;
    }

    /// Records that do not equal an earlier one.
    pub fn distinct(&self) -> u64 {
        self.records.saturating_sub(self.repetitions())
    }

    /// Records that equal an earlier one, dropped or kept.
    pub fn repetitions(&self) -> u64 {
        self.duplicates.saturating_add(self.repeated)
    }

    /// Whether every record is accounted for.
    pub fn add_up(&self) -> bool {
        let parts = [self.rows, self.duplicates, self.rejected, self.suppressed];
        // In 128 bits, because an edited ledger entry may hold any numbers.
        u128::from(self.records) == parts.into_iter().map(u128::from).sum()
    }
}

/// Sums over the rows of one slice, or of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Billed seconds.
    pub duration_seconds: i64,
    /// Charges, in US dollars.
    pub charge_usd: AmountSum,
    /// Forwarding fees, in US dollars.
    pub forward_fee_usd: AmountSum,
    /// Rows by disposition; `NO_DISPOSITION` for rows without one.
    pub by_disposition: BTreeMap<String, u64>,
}

/// Key of rows without a disposition in [`Totals::by_disposition`].
pub(crate) const NO_DISPOSITION: &str = "(none)";
/// Key of dispositions that sort after the first [`MAX_DISPOSITIONS`], and of overlong ones.
pub(crate) const OTHER_DISPOSITIONS: &str = "(other)";
/// Most dispositions counted separately. The API has six; the limit bounds memory.
pub(crate) const MAX_DISPOSITIONS: usize = 64;
/// Longest disposition counted separately.
pub(crate) const MAX_DISPOSITION_BYTES: usize = 64;

impl Totals {
    /// Adds the sums of another slice.
    pub fn merge(&mut self, other: &Self) {
        self.duration_seconds += other.duration_seconds;
        self.charge_usd.merge(other.charge_usd);
        self.forward_fee_usd.merge(other.forward_fee_usd);
        for (disposition, rows) in &other.by_disposition {
            self.add_disposition(disposition, *rows);
        }
    }

    /// Adds rows of one disposition. The names that sort first are counted separately, so that the
    /// result depends neither on the order of rows nor on how they are split and merged: a
    /// displaced name never comes back, and a kept name has been counted from its first row.
    fn add_disposition(&mut self, disposition: &str, rows: u64) {
        if let Some(sum) = self.by_disposition.get_mut(disposition) {
            *sum += rows;
            return;
        }
        let others = usize::from(self.by_disposition.contains_key(OTHER_DISPOSITIONS));
        let is_full = self.by_disposition.len() - others >= MAX_DISPOSITIONS;
        let mut names = self.by_disposition.keys().rev();
        let last = names.find(|name| *name != OTHER_DISPOSITIONS).cloned();
        let is_other = disposition.len() > MAX_DISPOSITION_BYTES
            || disposition == OTHER_DISPOSITIONS
            || (is_full && last.as_deref() < Some(disposition));
        if is_other {
            self.add_to(OTHER_DISPOSITIONS, rows);
            return;
        }
        if is_full && let Some(surplus) = last.and_then(|last| self.by_disposition.remove(&last)) {
            self.add_to(OTHER_DISPOSITIONS, surplus);
        }
        self.add_to(disposition, rows);
    }

    fn add_to(&mut self, name: &str, rows: u64) {
        *self.by_disposition.entry(name.to_owned()).or_default() += rows;
    }
}

/// Counts and sums of one day of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayTotals {
    /// Rows of the day.
    pub rows: u64,
    /// Sums over them.
    #[serde(flatten)]
    pub totals: Totals,
}

/// Counts and sums the rows of one slice as they are written or read back.
#[derive(Debug)]
pub struct RowTally {
    /// The slice's period in microseconds: from its first instant to the first one after it.
    period_us: std::ops::Range<i64>,
    /// For each day of rows that have one, its rows. Rows of one day usually follow one another.
    days: Vec<(i32, RowSums)>,
    /// The place of the last row's day in [`days`](Self::days).
    last_day: usize,
    /// Whether the days of the rows so far do not decrease.
    is_sorted: bool,
    /// Rows that have no day of their own.
    sums: RowSums,
    /// Rows so far.
    pub rows: u64,
    /// Rows so far outside the period that no time zone explains it.
    pub far_outside: u64,
    rounded: u64,
    outside: u64,
    missing_charge: u64,
    missing_duration: u64,
}

/// Sums over rows.
#[derive(Debug, Default)]
struct RowSums {
    rows: u64,
    /// Without [`common`](Self::common).
    totals: Totals,
    /// Rows of a few dispositions, usually of all. Finding one here is faster than in the map.
    common: Vec<(String, u64)>,
}

/// A call further outside its day than this belongs to another day: no time zone is further from
/// UTC.
pub(crate) const FAR_OUTSIDE_HOURS: i64 = 14;
/// Most dispositions in [`RowTally::common`]: the API has six.
const MAX_COMMON: usize = 8;
const FAR_OUTSIDE_US: i64 = FAR_OUTSIDE_HOURS * 3_600_000_000;

impl RowSums {
    #[inline]
    fn add(&mut self, record: &Record<'_>) {
        self.rows += 1;
        let totals = &mut self.totals;
        totals.duration_seconds += i64::from(record.duration_seconds.unwrap_or_default());
        totals.charge_usd.add(record.charge_usd.unwrap_or_default());
        let forward_fee = record.forward_fee_usd.unwrap_or_default();
        totals.forward_fee_usd.add(forward_fee);
        self.add_disposition(record.disposition.as_deref().unwrap_or(NO_DISPOSITION));
    }

    fn add_disposition(&mut self, disposition: &str) {
        let mut common = self.common.iter_mut();
        if let Some((_, rows)) = common.find(|(name, _)| name == disposition) {
            *rows += 1;
        } else if self.common.len() < MAX_COMMON && disposition.len() <= MAX_DISPOSITION_BYTES {
            self.common.push((disposition.to_owned(), 1));
        } else {
            self.totals.add_disposition(disposition, 1);
        }
    }

    fn into_totals(self) -> Totals {
        let mut totals = self.totals;
        for (disposition, rows) in self.common {
            totals.add_disposition(&disposition, rows);
        }
        totals
    }
}

impl RowTally {
    /// A tally of rows that should lie within `period_us`.
    pub fn new(period_us: std::ops::Range<i64>) -> Self {
        Self {
            period_us,
            days: Vec::new(),
            last_day: 0,
            is_sorted: true,
            sums: RowSums::default(),
            rows: 0,
            far_outside: 0,
            rounded: 0,
            outside: 0,
            missing_charge: 0,
            missing_duration: 0,
        }
    }

    /// Counts one row.
    pub fn add(&mut self, record: &Record<'_>) {
        self.rows += 1;
        if !self.period_us.contains(&record.call_time_us) {
            self.outside += 1;
            let widened = self.period_us.start.saturating_sub(FAR_OUTSIDE_US)
                ..self.period_us.end.saturating_add(FAR_OUTSIDE_US);
            self.far_outside += u64::from(!widened.contains(&record.call_time_us));
        }
        self.rounded += u64::from(record.is_rounded);
        self.missing_charge += u64::from(record.charge_usd.is_none());
        self.missing_duration += u64::from(record.duration_seconds.is_none());
        match record.source_day {
            None => self.sums.add(record),
            Some(day) => self.sums_of(day).add(record),
        }
    }

    fn sums_of(&mut self, day: i32) -> &mut RowSums {
        let last = self.days.get(self.last_day).map(|(day, _)| *day);
        if last != Some(day) {
            self.is_sorted &= last < Some(day);
            let found = self.days.binary_search_by_key(&day, |(day, _)| *day);
            self.last_day = found.unwrap_or_else(|at| {
                self.days.insert(at, (day, RowSums::default()));
                at
            });
        }
        &mut self.days[self.last_day].1
    }

    /// Whether the days of rows, where rows have one, never decrease.
    pub fn is_sorted(&self) -> bool {
        self.is_sorted
    }

    /// The number of rows of each day, where rows have one.
    pub fn rows_by_day(&self) -> impl Iterator<Item = (i32, u64)> {
        self.days.iter().map(|(day, sums)| (*day, sums.rows))
    }

    /// The sums, and those of each day, where rows have one.
    pub fn into_totals(self) -> (Totals, BTreeMap<Date, DayTotals>) {
        let mut totals = self.sums.into_totals();
        let mut days = BTreeMap::new();
        for (day, sums) in self.days {
            let of_day = DayTotals {
                rows: sums.rows,
                totals: sums.into_totals(),
            };
            totals.merge(&of_day.totals);
            days.insert(date_of(day), of_day);
        }
        (totals, days)
    }

    /// Fills in the counts that come from the rows.
    pub fn count_into(&self, counts: &mut Counts) {
        counts.rows = self.rows;
        counts.rounded = self.rounded;
        counts.outside_day = self.outside;
        counts.missing_charge = self.missing_charge;
        counts.missing_duration = self.missing_duration;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn totals_of<'a>(dispositions: impl IntoIterator<Item = &'a String>) -> Totals {
        let mut tally = RowTally::new(0..1);
        for disposition in dispositions {
            tally.add(&Record {
                disposition: Some(disposition.as_str().into()),
                ..Record::default()
            });
        }
        tally.into_totals().0
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn sums_by_disposition_depend_on_neither_order_nor_split(
            mut names in prop::collection::vec("[!(-9]{1,2}|\\(other\\)|x{63,66}", 1..400),
            at in any::<prop::sample::Index>(),
            order in any::<u64>(),
        ) {
            let expected = totals_of(&names);
            let mut parts = names.clone();
            fastrand::Rng::with_seed(order).shuffle(&mut parts);
            prop_assert_eq!(&totals_of(&parts), &expected);
            let (left, right) = parts.split_at(at.index(parts.len()));
            for (one, other) in [(left, right), (right, left)] {
                let mut merged = totals_of(one);
                merged.merge(&totals_of(other));
                prop_assert_eq!(&merged, &expected);
            }
            // The names that sort first are counted separately, and exactly.
            let is_separate =
                |name: &&String| name.len() <= MAX_DISPOSITION_BYTES && *name != OTHER_DISPOSITIONS;
            names.sort_unstable();
            for (name, rows) in &expected.by_disposition {
                if name != OTHER_DISPOSITIONS {
                    prop_assert_eq!(names.iter().filter(|one| *one == name).count() as u64, *rows);
                }
            }
            let mut first: Vec<&String> = names.iter().filter(is_separate).collect();
            first.dedup();
            first.truncate(MAX_DISPOSITIONS);
            let kept: Vec<&String> = expected.by_disposition.keys().filter(is_separate).collect();
            prop_assert_eq!(kept, first);
            prop_assert_eq!(expected.by_disposition.values().sum::<u64>(), names.len() as u64);
        }
    }

    #[test]
    fn rows_beyond_any_time_zone_lie_far_outside_their_day() {
        let day_us = 86_400_000_000;
        let mut tally = RowTally::new(day_us..2 * day_us);
        let far = FAR_OUTSIDE_US;
        for (call_time_us, expected) in [
            (day_us, (0, 0)),
            (2 * day_us - 1, (0, 0)),
            (day_us - 1, (1, 0)),
            (day_us - far, (2, 0)),
            (2 * day_us + far - 1, (3, 0)),
            (day_us - far - 1, (4, 1)),
            (2 * day_us + far, (5, 2)),
        ] {
            tally.add(&Record {
                call_time_us,
                ..Record::default()
            });
            assert_eq!((tally.outside, tally.far_outside), expected);
        }
    }

    #[test]
    fn surplus_dispositions_are_counted_together() {
        let mut tally = RowTally::new(0..1);
        for i in 0..1000 {
            tally.add(&Record {
                disposition: Some(format!("d{i}").into()),
                ..Record::default()
            });
        }
        tally.add(&Record::default());
        tally.add(&Record {
            disposition: Some("x".repeat(1 << 20).into()),
            ..Record::default()
        });
        let (totals, _) = tally.into_totals();
        assert_eq!(totals.by_disposition.len(), MAX_DISPOSITIONS + 1);
        let mut run = Totals::default();
        run.merge(&totals);
        assert_eq!(run, totals, "merging one sum changes nothing");
        assert_eq!(totals.by_disposition.values().sum::<u64>(), 1002);
    }
}
