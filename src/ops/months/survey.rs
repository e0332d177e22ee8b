//! The days of a lake by month, and whether each can be relied on.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, stream};
use jiff::civil::Date;

use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::slice::{Direction, Slice};
use crate::cdr::tally::Counts;
use crate::config::{Config, QualityConfig};
use crate::error::counted;
use crate::lake::ledger::{Commit, State};
use crate::lake::{Lake, LakeError, LedgerEntry, SliceState, is_intact};
use crate::ops::Error;
use crate::store::layout;

/// Ledger entries that are read at the same time.
const CONCURRENT_READS: usize = 64;

/// A month of one direction that has days in the ledger.
#[derive(Clone, Debug, Default)]
pub(super) struct Month {
    /// Its first day that belongs to the lake: earlier ones lie before `window.start`, or before
    /// the first day in the ledger.
    pub(super) first_day: Date,
    /// What the ledger has of its days. Not read if the month is merged.
    pub(super) days: BTreeMap<Date, Option<Commit>>,
    /// The ledger names its file already.
    pub(super) is_merged: bool,
    /// Why its days cannot be relied on.
    pub(super) problems: Vec<String>,
}

impl Month {
    /// The commits of its days.
    pub(super) fn commits(&self) -> impl Iterator<Item = (Date, &Commit)> {
        let days = self.days.iter();
        days.filter_map(|(day, commit)| Some((*day, commit.as_ref()?)))
    }

    /// Whether its days are pruned. A sound month is pruned as a whole.
    pub(super) fn is_pruned(&self) -> bool {
        self.commits()
            .any(|(_, commit)| commit.state == State::Pruned)
    }

    /// The days up to `last` of which nothing is known.
    pub(super) fn never_fetched(&self, last: Date) -> impl Iterator<Item = Date> {
        let days = Period::touching(self.first_day..=last, PeriodUnit::Day);
        let days = days.map(Period::first_day);
        days.filter(|day| self.days.get(day).is_none_or(Option::is_none))
    }
}

/// The months of a lake of days.
#[derive(Debug)]
pub(super) struct Survey {
    /// Each with its days.
    pub(super) months: BTreeMap<Slice, Month>,
    /// The ledger has a month, so that the lake cannot become one of days again.
    pub(super) has_months: bool,
    /// Why months should not be merged although their days are sound.
    objections: Vec<String>,
    /// What is lost with a merged month, although it may be merged.
    pub(super) remarks: Vec<String>,
}

impl Survey {
    /// Reads the ledger, and lists the table and the rejects.
    pub(super) async fn of(lake: &Lake, config: &Config, today: Date) -> Result<Self, LakeError> {
        let slices = lake.ledger_slices(&Direction::ALL).await?;
        let read = stream::iter(slices).map(async |slice| (slice, lake.entry(slice).await));
        let read = read.buffer_unordered(CONCURRENT_READS);
        let entries: HashMap<Slice, LedgerEntry> = read.collect().await;
        let (table, rejects) = futures::try_join!(lake.table().files(), lake.rejects())?;
        let is_merged = |month: Slice| {
            let found = entries.get(&month);
            found.is_some_and(|found| {
                found.entry.committed.is_some() && found.entry.pending.is_none()
            })
        };
        let mut survey = Self {
            months: BTreeMap::new(),
            has_months: entries
                .keys()
                .any(|slice| slice.period.unit() == PeriodUnit::Month),
            objections: Vec::new(),
            remarks: Vec::new(),
        };
        let mut days: Vec<Slice> = entries.keys().copied().chain(table.slices()).collect();
        days.retain(|slice| slice.period.unit() == PeriodUnit::Day);
        days.sort_unstable();
        days.dedup();
        let begin = config
            .window
            .start
            .or(days.first().map(|day| day.period.first_day()));
        for day in days {
            let of_month = survey.months.entry(day.month()).or_default();
            of_month.is_merged = is_merged(day.month());
            let mut commit = None;
            if !of_month.is_merged {
                let absent = LedgerEntry::absent(day);
                let found = entries.get(&day).unwrap_or(&absent);
                let problem = match found.state() {
                    SliceState::Damaged => Some("its ledger entry cannot be used"),
                    SliceState::Interrupted => Some("a run crashed while it published the day"),
                    SliceState::Failed => Some("the last attempt failed"),
                    SliceState::Missing => Some("it was never committed"),
                    SliceState::Closed | SliceState::Open | SliceState::Pruned => {
                        let expected = found.entry.committed.as_ref();
                        let expected = expected.and_then(|commit| commit.rejects.as_ref());
                        let rejects = rejects.get(&layout::rejects_file(day));
                        if !is_intact(found.entry.file(), table.file(&found.entry)) {
                            Some("its file differs from its ledger entry")
                        } else if !is_intact(expected, rejects) {
                            Some("its rejects differ from its ledger entry")
                        } else {
                            None
                        }
                    }
                };
                let problem = problem.map(|problem| format!("{day}: {problem}"));
                of_month.problems.extend(problem);
                commit.clone_from(&found.entry.committed);
            }
            of_month.days.insert(day.period.first_day(), commit);
        }
        for (slice, month) in &mut survey.months {
            let first = *month.days.keys().next().expect("it has a day");
            let begin = begin.unwrap_or(first);
            month.first_day = begin.clamp(slice.period.first_day(), first);
        }
        survey.object_to_rejects(&config.quality);
        survey.look_at_pruned(today);
        Ok(survey)
    }

    /// Objects to months of which a run would refuse so many rejects.
    fn object_to_rejects(&mut self, quality: &QualityConfig) {
        for (slice, month) in self.months.iter().filter(|(_, month)| !month.is_pruned()) {
            let mut counts = Counts::default();
            for (_, commit) in month.commits() {
                counts.merge(&commit.counts);
            }
            let problem = quality.refuses_rejects(&counts);
            let problem = problem.map(|problem| format!("{slice}, as one slice: {problem}"));
            self.objections.extend(problem);
        }
    }

    /// Objects to months that are pruned in part. A day that was never fetched counts as pruned if
    /// a later one is.
    fn look_at_pruned(&mut self, today: Date) {
        let pruned = self.months.values().flat_map(Month::commits);
        let pruned = pruned.filter(|(_, commit)| commit.state == State::Pruned);
        let Some(last_pruned) = pruned.map(|(day, _)| day).max() else {
            return;
        };
        for (slice, month) in self.months.iter().filter(|(_, month)| month.is_pruned()) {
            let is_kept = |(_, commit): (Date, &Commit)| commit.state != State::Pruned;
            if month.commits().any(is_kept) || slice.period.last_day() >= today {
                self.objections.push(format!(
                    "{slice}: some of its days are pruned. Prune all days up to {} first",
                    slice.period.last_day()
                ));
                continue;
            }
            let missing: Vec<Date> = month.never_fetched(slice.period.last_day()).collect();
            let Some(days) = named(&missing) else {
                continue;
            };
            if missing.last().is_some_and(|day| *day > last_pruned) {
                self.objections.push(format!(
                    "{slice}: its days are pruned, but {days} never fetched. Fetch them, and prune \
                     the whole month"
                ));
            } else {
                self.remarks.push(format!(
                    "{slice}: its days are pruned, and {days} never fetched. No run fetches the \
                     month"
                ));
            }
        }
    }

    /// The months, each with its days.
    ///
    /// # Errors
    /// [`Error::NotMergeable`] if a day cannot be relied on, a month is pruned in part, or has too
    /// many rejects.
    pub(super) fn must_be_sound(self) -> Result<BTreeMap<Slice, Month>, Error> {
        let problems = self.months.values().flat_map(|month| &month.problems);
        let problems: Vec<String> = problems.chain(&self.objections).cloned().collect();
        if problems.is_empty() {
            return Ok(self.months);
        }
        Err(Error::NotMergeable { problems })
    }
}

/// Days with a verb: `2026-10-01 was`, `2026-10-01 and 2 other days were`.
fn named(days: &[Date]) -> Option<String> {
    let first = days.first()?;
    Some(match days.len() as u64 - 1 {
        0 => format!("{first} was"),
        more => format!(
            "{first} and {} were",
            counted(more, "other day", "other days")
        ),
    })
}
