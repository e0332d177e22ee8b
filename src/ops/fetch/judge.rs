//! Whether a slice that was read to its end is good, and what is remarkable about it.

use super::{Fetched, Fetcher};
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::reconcile::{Verdict, describe_mismatch};
use crate::cdr::slice::Slice;
use crate::cdr::tally::{Counts, FAR_OUTSIDE_HOURS};
use crate::config::{Reconcile, Via, describe_rejects};
use crate::error::counted;
use crate::lake::ledger::{Reason, State};
use crate::ops::days::{lookback_from, state_of, today};

/// Why a slice that was read to its end is not good.
#[derive(Debug, thiserror::Error)]
pub(in crate::ops) enum Refusal {
    #[error("the counts do not add up: {0:?}. This is a bug in cdrlake: please report it")]
    Unaccounted(Counts),
    #[error("{problem}. The first: {first}")]
    TooManyRejects {
        problem: String,
        /// Where the first stands, and why it is one.
        first: String,
    },
    #[error(
        "{far} of {rows} rows are more than {FAR_OUTSIDE_HOURS} hours outside {period}, so \
         they belong elsewhere. Run again later, and ask the provider if this persists"
    )]
    OtherDay { far: u64, rows: u64, period: Period },
    #[error("{mismatch}. Run again later, and ask the provider if this persists")]
    Mismatch {
        mismatch: String,
        /// Whether the list, which was not asked for, may have more.
        list_may_help: bool,
    },
    #[error("{mismatch}")]
    ExportMismatch { mismatch: String, is_known: bool },
}

impl Refusal {
    /// Its kind, where there is something to do about it.
    pub(in crate::ops) fn reason(&self) -> Option<Reason> {
        match self {
            Self::Unaccounted(_) | Self::OtherDay { .. } => None,
            Self::TooManyRejects { .. } => Some(Reason::TooManyRejects),
            Self::Mismatch { list_may_help, .. } => Some(if *list_may_help {
                Reason::ShortAnswer
            } else {
                Reason::Mismatch
            }),
            Self::ExportMismatch { is_known, .. } => Some(if *is_known {
                Reason::OtherExport
            } else {
                Reason::UnprovenExport
            }),
        }
    }
}

impl Fetcher {
    /// Whether a slice is good by itself, whatever a lake has of it.
    pub(in crate::ops) fn judge(&self, fetched: &Fetched) -> Result<(), Refusal> {
        let slice = fetched.request.slice;
        let converted = &fetched.converted;
        let counts = &converted.counts;
        let quality = &self.config.quality;
        if !counts.add_up() {
            return Err(Refusal::Unaccounted(counts.clone()));
        }
        if let Some(problem) = quality.refuses_rejects(counts) {
            return Err(Refusal::TooManyRejects {
                problem,
                first: converted.first_reject.clone().unwrap_or_default(),
            });
        }
        let far = converted.far_outside;
        if far > counts.rows / 2 {
            return Err(Refusal::OtherDay {
                far,
                rows: counts.rows,
                period: slice.period,
            });
        }
        if fetched.verdict == Verdict::Mismatch {
            let control_total = fetched.control_total;
            let mismatch = describe_mismatch(counts, control_total);
            if quality.reconcile == Reconcile::Fail {
                return Err(if self.source.is_fixed() {
                    Refusal::ExportMismatch {
                        mismatch,
                        is_known: control_total.is_some(),
                    }
                } else {
                    Refusal::Mismatch {
                        mismatch,
                        list_may_help: self.config.source.via != Via::Pages
                            && control_total.is_some_and(|total| counts.distinct() < total),
                    }
                });
            }
            self.warn(format!("{slice}: {mismatch}"));
        }
        Ok(())
    }

    /// The state of a slice that was fetched now. It stays open if days of it were not asked for,
    /// and if an export, whose count is not proven, has a month without calls on some day.
    pub(in crate::ops) fn state_of(&self, fetched: &Fetched) -> State {
        let period = fetched.request.slice.period;
        let has_every_day = || {
            let days = usize::from(period.last_day().day().unsigned_abs());
            period.unit() == PeriodUnit::Day || fetched.converted.days.len() == days
        };
        let is_whole = fetched.through().is_none()
            && (!self.source.is_fixed() || fetched.verdict.has_equal_count() || has_every_day());
        match fetched.as_of {
            Some(as_of) if is_whole && !self.is_doubtful(period, fetched.verdict) => {
                state_of(period, &self.config.window, as_of)
            }
            _ => State::Open,
        }
    }

    /// Whether a count that matches only with duplicates may still change: during the look-back.
    fn is_doubtful(&self, period: Period, verdict: Verdict) -> bool {
        let window = &self.config.window;
        verdict == Verdict::MatchWithDuplicates
            && period.last_day() >= lookback_from(window, today(window, self.started_at))
    }

    /// Warns of what was tolerated. The text `rejects` says what became of rejected records.
    pub(in crate::ops) fn remark(
        &self,
        slice: Slice,
        counts: &Counts,
        verdict: Verdict,
        rejects: &str,
    ) {
        if verdict == Verdict::MatchWithDuplicates {
            self.warn(format!(
                "{slice}: {} match the provider's count, but {}, so as many other calls may be \
                 missing. Ask the provider",
                counted(counts.records, "record", "records"),
                counted(
                    counts.repetitions(),
                    "of them is a duplicate",
                    "of them are duplicates"
                )
            ));
        }
        if counts.rejected > 0 {
            self.warn(format!(
                "{slice}: {} and {rejects}",
                describe_rejects(counts.rejected, counts.records)
            ));
        }
        if counts.conflicts > 0 {
            self.warn(format!(
                "{slice}: {} a call_id with a different row; all are kept",
                counted(counts.conflicts, "row shares", "rows share")
            ));
        }
        if counts.outside_day > 0 {
            self.warn(format!(
                "{slice}: {} on another day. Check that window.timezone is the time zone of the \
                 account's days",
                counted(counts.outside_day, "row lies", "rows lie")
            ));
        }
    }
}
