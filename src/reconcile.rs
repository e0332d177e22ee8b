//! Compares what was read with the provider's own count.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::tally::Counts;

/// How a slice compares with its control total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The count equals the records, or the records without duplicates.
    Match,
    /// It matches, but some of the records were rejected.
    MatchWithRejects,
    /// It does not match, or could not be had.
    Mismatch,
    /// `quality.reconcile = "off"`.
    Off,
    /// The day has not ended, so the count still moves.
    NotChecked,
}

impl Verdict {
    /// Whether the slice is proven to be complete.
    pub fn is_match(self) -> bool {
        matches!(self, Self::Match | Self::MatchWithRejects)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Match => "match",
            Self::MatchWithRejects => "match_with_rejects",
            Self::Mismatch => "mismatch",
            Self::Off => "off",
            Self::NotChecked => "not_checked",
        })
    }
}

/// The verdict on a slice whose provider counts `control_total` records; `None` if the provider
/// could not say.
pub fn verdict(counts: &Counts, control_total: Option<u64>) -> Verdict {
    let matches = control_total.is_some_and(|total| {
        total == counts.records || total == counts.records - counts.duplicates
    });
    match (matches, counts.rejected) {
        (false, _) => Verdict::Mismatch,
        (true, 0) => Verdict::Match,
        (true, _) => Verdict::MatchWithRejects,
    }
}

/// What a mismatch looks like, in words.
pub fn describe_mismatch(counts: &Counts, control_total: Option<u64>) -> String {
    let Some(total) = control_total else {
        return "the provider's count is unavailable, so the slice cannot be proven complete"
            .to_owned();
    };
    let duplicates = match counts.duplicates {
        0 => String::new(),
        duplicates => format!(" ({duplicates} of them duplicates)"),
    };
    format!(
        "the provider counts {total} calls, {} were read{duplicates}",
        counts.records
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_may_or_may_not_be_counted_by_the_provider() {
        let counts = Counts {
            records: 10,
            rows: 7,
            duplicates: 2,
            rejected: 1,
            ..Counts::default()
        };
        assert_eq!(verdict(&counts, Some(10)), Verdict::MatchWithRejects);
        assert_eq!(verdict(&counts, Some(8)), Verdict::MatchWithRejects);
        assert_eq!(verdict(&counts, Some(9)), Verdict::Mismatch);
        assert_eq!(verdict(&counts, None), Verdict::Mismatch);
        let clean = Counts {
            records: 3,
            rows: 3,
            ..Counts::default()
        };
        assert_eq!(verdict(&clean, Some(3)), Verdict::Match);
    }
}
