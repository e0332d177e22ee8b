//! Compares the records read with the provider's own count.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::tally::Counts;
use crate::error::{counted, thousands};

/// How a slice compares with its control total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The count equals the number of distinct records.
    Match,
    /// The count matches, but some records were rejected.
    MatchWithRejects,
    /// The count matches only if duplicates are included, in two attempts: calls may be missing.
    MatchWithDuplicates,
    /// The count does not match, or is unavailable.
    Mismatch,
    /// `quality.reconcile = "off"`.
    Off,
    /// The day has not ended, so the count still moves.
    NotChecked,
}

impl Verdict {
    /// Whether the count proves that the slice is complete.
    pub fn is_match(self) -> bool {
        matches!(self, Self::Match | Self::MatchWithRejects)
    }

    /// Whether the provider's count equals that of the records, with or without duplicates.
    pub fn has_equal_count(self) -> bool {
        self.is_match() || self == Self::MatchWithDuplicates
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Match => "match",
            Self::MatchWithRejects => "match_with_rejects",
            Self::MatchWithDuplicates => "match_with_duplicates",
            Self::Mismatch => "mismatch",
            Self::Off => "off",
            Self::NotChecked => "not_checked",
        })
    }
}

/// The verdict on a slice. `control_total` is the provider's count, `None` if it is unavailable.
pub(crate) fn verdict(counts: &Counts, control_total: Option<u64>) -> Verdict {
    match control_total {
        Some(total) if total == counts.distinct() && counts.rejected == 0 => Verdict::Match,
        Some(total) if total == counts.distinct() => Verdict::MatchWithRejects,
        Some(total) if total == counts.records => Verdict::MatchWithDuplicates,
        _ => Verdict::Mismatch,
    }
}

/// A sentence about a count mismatch.
pub(crate) fn describe_mismatch(counts: &Counts, control_total: Option<u64>) -> String {
    let Some(total) = control_total else {
        return "the provider's count is unavailable, so the slice cannot be proven complete"
            .to_owned();
    };
    let duplicates = match counts.repetitions() {
        0 => String::new(),
        1 => " (1 of them a duplicate)".to_owned(),
        duplicates => format!(" ({} of them duplicates)", thousands(duplicates)),
    };
    format!(
        "the provider counts {}, {} read{duplicates}",
        counted(total, "call", "calls"),
        counted(counts.records, "was", "were")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_matches_only_with_duplicates_proves_nothing() {
        let counts = Counts {
            records: 10,
            rows: 7,
            duplicates: 2,
            rejected: 1,
            ..Counts::default()
        };
        assert_eq!(verdict(&counts, Some(8)), Verdict::MatchWithRejects);
        assert_eq!(verdict(&counts, Some(10)), Verdict::MatchWithDuplicates);
        assert_eq!(verdict(&counts, Some(9)), Verdict::Mismatch);
        assert_eq!(verdict(&counts, None), Verdict::Mismatch);
        // Duplicates that were kept make no difference.
        let kept = Counts {
            rows: 9,
            duplicates: 0,
            repeated: 2,
            ..counts
        };
        assert_eq!(verdict(&kept, Some(8)), Verdict::MatchWithRejects);
        assert_eq!(verdict(&kept, Some(10)), Verdict::MatchWithDuplicates);
        let clean = Counts {
            records: 3,
            rows: 3,
            ..Counts::default()
        };
        assert_eq!(verdict(&clean, Some(3)), Verdict::Match);
        assert!(!Verdict::MatchWithDuplicates.is_match());
    }
}
