//! The days of a lake by month, and whether each can be relied on.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, stream};
use jiff::civil::Date;

use crate::cdr::period::PeriodUnit;
use crate::cdr::slice::{Direction, Slice};
use crate::lake::ledger::{Commit, State};
use crate::lake::{Lake, LakeError, LedgerEntry, SliceState, is_intact};
use crate::ops::Error;
use crate::store::layout;

/// Ledger entries that are read at the same time.
const CONCURRENT_READS: usize = 64;

/// A month of one direction that has days in the ledger.
#[derive(Debug, Default)]
pub(super) struct Month {
    /// What the ledger has of its days. Not read if the month is merged.
    pub(super) days: BTreeMap<Date, Option<Commit>>,
    /// The ledger names its file already.
    pub(super) is_merged: bool,
}

impl Month {
    /// The commits of its days.
    pub(super) fn commits(&self) -> impl Iterator<Item = (Date, &Commit)> {
        let days = self.days.iter();
        days.filter_map(|(day, commit)| Some((*day, commit.as_ref()?)))
    }

    /// Whether all of its days are pruned.
    pub(super) fn is_pruned(&self) -> bool {
        self.commits()
            .all(|(_, commit)| commit.state == State::Pruned)
    }
}

/// The months of a lake of days.
#[derive(Debug)]
pub(super) struct Survey {
    months: BTreeMap<Slice, Month>,
    /// Whether a month was merged before.
    has_merged: bool,
    /// Why days cannot be merged.
    problems: Vec<String>,
}

impl Survey {
    /// Reads the ledger, and lists the table and the rejects.
    pub(super) async fn of(lake: &Lake, today: Date) -> Result<Self, LakeError> {
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
            has_merged: entries
                .keys()
                .any(|slice| slice.period.unit() == PeriodUnit::Month && is_merged(*slice)),
            problems: Vec::new(),
        };
        let mut days: Vec<Slice> = entries.keys().copied().chain(table.slices()).collect();
        days.retain(|slice| slice.period.unit() == PeriodUnit::Day);
        days.sort_unstable();
        days.dedup();
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
                survey.problems.extend(problem);
                commit.clone_from(&found.entry.committed);
            }
            of_month.days.insert(day.period.first_day(), commit);
        }
        let is_pruned_in_part = |(slice, month): &(&Slice, &Month)| {
            let mut commits = month.commits();
            let is_any = commits.any(|(_, commit)| commit.state == State::Pruned);
            is_any && !(month.is_pruned() && slice.period.last_day() < today)
        };
        let months = survey.months.iter().filter(is_pruned_in_part);
        let problems: Vec<String> = months
            .map(|(slice, _)| {
                format!("{slice}: some of its days are pruned. Prune the whole month first")
            })
            .collect();
        survey.problems.extend(problems);
        Ok(survey)
    }

    /// Whether a month was merged before.
    pub(super) fn has_merged(&self) -> bool {
        self.has_merged
    }

    /// The months, each with its days.
    ///
    /// # Errors
    /// [`Error::NotMergeable`] if a day cannot be relied on, or a month is pruned in part.
    pub(super) fn must_be_sound(self) -> Result<BTreeMap<Slice, Month>, Error> {
        if self.problems.is_empty() {
            return Ok(self.months);
        }
        Err(Error::NotMergeable {
            problems: self.problems,
        })
    }
}
