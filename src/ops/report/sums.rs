//! Sums over calls.

use serde::Serialize;

use crate::cdr::amount::{Amount, AmountSum};

/// How a call ended, as far as the report tells outcomes apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Any other disposition, or none.
    #[default]
    Other,
    /// The call was answered.
    Answered,
    /// The call could not be connected.
    Failed,
    /// The line was busy.
    Busy,
}

impl Outcome {
    /// The outcome that a disposition stands for.
    pub(super) fn of(disposition: &str) -> Self {
        match disposition {
            crate::ops::status::ANSWERED => Self::Answered,
            "failed" => Self::Failed,
            "busy" => Self::Busy,
            _ => Self::Other,
        }
    }
}

/// Calls by their outcome, and seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Outcomes {
    /// Calls, whatever became of them.
    pub calls: u64,
    /// Answered calls.
    pub answered: u64,
    /// Failed calls.
    pub failed: u64,
    /// Calls to busy lines.
    pub busy: u64,
    /// Billed seconds.
    pub duration_seconds: i64,
}

impl Outcomes {
    #[inline]
    pub(super) fn add(&mut self, outcome: Outcome, seconds: i32) {
        self.calls += 1;
        self.answered += u64::from(outcome == Outcome::Answered);
        self.failed += u64::from(outcome == Outcome::Failed);
        self.busy += u64::from(outcome == Outcome::Busy);
        self.duration_seconds += i64::from(seconds);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.answered += other.answered;
        self.failed += other.failed;
        self.busy += other.busy;
        self.duration_seconds += other.duration_seconds;
    }
}

/// Sums of a day, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct DaySums {
    /// Calls and seconds.
    #[serde(flatten)]
    pub outcomes: Outcomes,
    /// Charges.
    pub charge_usd: AmountSum,
    /// Fees for forwarding.
    pub forward_fee_usd: AmountSum,
}

impl DaySums {
    pub(super) fn merge(&mut self, other: &Self) {
        self.outcomes.merge(&other.outcomes);
        self.charge_usd.merge(other.charge_usd);
        self.forward_fee_usd.merge(other.forward_fee_usd);
    }
}

/// Sums of the calls with one name: of a destination, a trunk or a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Spend {
    /// Calls, whatever became of them.
    pub calls: u64,
    /// Answered calls.
    pub answered: u64,
    /// Billed seconds.
    pub duration_seconds: i64,
    /// Charges.
    pub charge_usd: AmountSum,
}

impl Spend {
    #[inline]
    pub(super) fn add(&mut self, outcome: Outcome, seconds: i32, charge_nanos: i64) {
        self.calls += 1;
        self.answered += u64::from(outcome == Outcome::Answered);
        self.duration_seconds += i64::from(seconds);
        self.charge_usd.add(Amount::from_nanos(charge_nanos));
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.answered += other.answered;
        self.duration_seconds += other.duration_seconds;
        self.charge_usd.merge(other.charge_usd);
    }

    /// Dollars for each minute, if there are minutes.
    pub(super) fn usd_per_minute(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let price = || self.charge_usd.as_f64() / (self.duration_seconds as f64 / 60.0);
        (self.duration_seconds > 0).then(price)
    }
}

/// The same sums in the period of the report, and in the period before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Compared<T> {
    pub(super) now: T,
    pub(super) before: T,
}

/// Which of the two periods a day belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    Now,
    Before,
}

impl<T> Compared<T> {
    #[inline]
    pub(super) fn of(&mut self, era: Era) -> &mut T {
        match era {
            Era::Now => &mut self.now,
            Era::Before => &mut self.before,
        }
    }
}

impl Compared<Spend> {
    pub(super) fn merge(&mut self, other: &Self) {
        self.now.merge(&other.now);
        self.before.merge(&other.before);
    }
}
