//! Where the money goes: destinations, trunks and numbers by their charge.

use std::cmp::Reverse;
use std::collections::HashMap;

use arrow::array::Array;
use serde::Serialize;

use super::sums::{Compared, Era, Outcome, Spend};
use crate::cdr::amount::AmountSum;
use crate::error::truncated;
use crate::slice_file::encode::intern::TextInterner;

/// Most names whose sums are kept. Beyond it, the cheaper half is moved to "other".
const MAX_NAMES: usize = 1 << 16;
/// Longest name in characters. A longer one is cut, and counts together with others that begin in
/// the same way.
const MAX_NAME_CHARS: usize = 120;
/// Most rows of a ranking.
const MAX_ROWS: usize = 50;

/// Sums by name, of the rows of one file.
#[derive(Debug, Default)]
pub(super) struct Names {
    interner: TextInterner,
    /// By code.
    sums: Vec<Compared<Spend>>,
    unnamed: Compared<Spend>,
    /// What was moved here from a full dictionary.
    ranked: Ranked,
}

/// The code of rows without a name.
pub(super) const UNNAMED: u32 = u32::MAX;

impl Names {
    /// The code of a name.
    #[inline]
    pub(super) fn code(&mut self, name: &str) -> u32 {
        let code = self.interner.intern(name);
        if code as usize >= self.sums.len() {
            self.sums.push(Compared::default());
        }
        code
    }

    /// Adds a row to the sums of a code.
    #[inline]
    pub(super) fn sums(&mut self, code: u32, era: Era) -> &mut Spend {
        match self.sums.get_mut(code as usize) {
            Some(sums) => sums.of(era),
            None => self.unnamed.of(era),
        }
    }

    #[inline]
    pub(super) fn add(
        &mut self,
        code: u32,
        era: Era,
        (outcome, seconds, charge_nanos): (Outcome, i32, i64),
    ) {
        self.sums(code, era).add(outcome, seconds, charge_nanos);
    }

    /// Whether codes should be given anew, so that memory stays bounded.
    pub(super) fn is_full(&self) -> bool {
        self.interner.is_full()
    }

    /// The name of each code, in order.
    pub(super) fn names(&mut self) -> impl Iterator<Item = String> + use<> {
        let names = self.interner.array();
        (0..names.len()).map(move |code| shortened(names.value(code)))
    }

    /// Forgets all codes, and keeps their sums.
    pub(super) fn clear(&mut self) {
        let names: Vec<String> = self.names().collect();
        for (name, sums) in names.into_iter().zip(std::mem::take(&mut self.sums)) {
            self.ranked.add(Some(name), &sums);
        }
        self.ranked.add(None, &std::mem::take(&mut self.unnamed));
        self.interner = TextInterner::default();
    }

    /// The sums by name.
    pub(super) fn into_ranked(mut self) -> Ranked {
        self.clear();
        self.ranked
    }
}

fn shortened(name: &str) -> String {
    truncated(name, MAX_NAME_CHARS)
}

/// Sums by name. Exact for up to [`MAX_NAMES`] names.
#[derive(Debug)]
pub(super) struct Ranked {
    names: HashMap<Option<String>, Compared<Spend>>,
    /// Sums of the names that were moved away.
    other: Compared<Spend>,
    is_exact: bool,
}

impl Default for Ranked {
    fn default() -> Self {
        Self {
            names: HashMap::new(),
            other: Compared::default(),
            is_exact: true,
        }
    }
}

impl Ranked {
    fn add(&mut self, name: Option<String>, sums: &Compared<Spend>) {
        if *sums == Compared::default() {
            return;
        }
        self.names.entry(name).or_default().merge(sums);
        if self.names.len() > MAX_NAMES {
            self.evict();
        }
    }

    /// Moves the cheaper half of the names to the others.
    fn evict(&mut self) {
        // With the name, so that of equally cheap ones no more than half are moved.
        let mut names: Vec<_> = self.names.iter().map(key).collect();
        let (_, median, _) = names.select_nth_unstable(MAX_NAMES / 2);
        let (charge, calls, name) = *median;
        let median = (charge, calls, name.clone());
        let cheap = self.names.extract_if(|name, sums| {
            let (charge, calls, name) = key((name, sums));
            (charge, calls, name) <= (median.0, median.1, &median.2)
        });
        for (_, sums) in cheap {
            self.other.merge(&sums);
        }
        self.is_exact = false;
    }

    /// Adds the sums of another file.
    pub(super) fn merge(&mut self, other: Self) {
        self.other.merge(&other.other);
        self.is_exact &= other.is_exact;
        for (name, sums) in other.names {
            self.add(name, &sums);
        }
    }

    /// The same with other names, of which each that differs from the old one gets the rank of its
    /// charge, so that none become equal.
    pub(super) fn renamed_with_rank(self, rename: impl Fn(&str) -> String) -> Self {
        let mut names: Vec<_> = self.names.into_iter().collect();
        names.sort_by_cached_key(|(name, sums)| by_charge(name.as_deref(), sums));
        // As many digits in each, so that equal charges keep their order.
        let width = names.len().to_string().len();
        let renamed = (1..).zip(names).map(|(rank, (name, sums))| {
            let name = name.map(|name| match rename(&name) {
                same if same == name => same,
                other => format!("{other}… #{rank:0width$}"),
            });
            (name, sums)
        });
        Self {
            names: renamed.collect(),
            ..self
        }
    }

    /// Each name with its sums, in no order.
    pub(super) fn names(&self) -> impl Iterator<Item = (Option<&str>, &Compared<Spend>)> {
        let names = self.names.iter();
        names.map(|(name, sums)| (name.as_deref(), sums))
    }

    /// The ranking, with the period before if there is one to compare with.
    pub(super) fn ranking(&self, has_before: bool) -> Ranking {
        let seen = |(_, sums): &(_, &Compared<Spend>)| sums.now.calls > 0;
        let mut names: Vec<_> = self.names().filter(seen).collect();
        names.sort_by_cached_key(|(name, sums)| by_charge(*name, sums));
        let shown = |sums: &Compared<Spend>| ComparedSpend {
            now: sums.now.into(),
            before: has_before.then(|| sums.before.into()),
        };
        let distinct = names.len() as u64;
        let top = names.iter().take(MAX_ROWS);
        let rows: Vec<RankingRow> = top
            .map(|(name, sums)| RankingRow {
                name: name.map(str::to_owned),
                sums: shown(sums),
            })
            .collect();
        let mut other = self.other;
        let in_rows = |name: Option<&str>| rows.iter().any(|row| row.name.as_deref() == name);
        for (name, sums) in self.names() {
            if !in_rows(name) {
                other.merge(sums);
            }
        }
        Ranking {
            distinct,
            is_exact: self.is_exact,
            rows,
            other: shown(&other),
        }
    }
}

/// The order of a ranking: by charge, then by name, and a name before no name.
fn by_charge(name: Option<&str>, sums: &Compared<Spend>) -> impl Ord + use<> {
    let charge = Reverse(sums.now.charge_usd);
    (charge, name.is_none(), name.map(str::to_owned))
}

/// The order in which names are moved to the others.
fn key<'a>(
    (name, sums): (&'a Option<String>, &Compared<Spend>),
) -> (AmountSum, u64, &'a Option<String>) {
    (sums.now.charge_usd, sums.now.calls, name)
}

/// Names by their charge.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ranking {
    /// The number of different names in the period; at least so many if the ranking is not exact.
    pub distinct: u64,
    /// Whether every sum is exact. Otherwise the lake has so many names that the cheapest were
    /// moved to `other` on the way: a name that came back later lacks what was moved.
    pub is_exact: bool,
    /// The names with the highest charges, by charge and then by name.
    pub rows: Vec<RankingRow>,
    /// The sums of all that is not in `rows`.
    pub other: ComparedSpend,
}

/// A name and its sums.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RankingRow {
    /// `null` for calls without one.
    pub name: Option<String>,
    /// Its sums.
    #[serde(flatten)]
    pub sums: ComparedSpend,
}

/// Sums in the period and in the one before.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ComparedSpend {
    /// In the period.
    #[serde(flatten)]
    pub now: SpendShown,
    /// In the period before; `null` if there is none to compare with.
    pub before: Option<SpendShown>,
}

/// Sums, and the price of a minute.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SpendShown {
    /// The sums.
    #[serde(flatten)]
    pub sums: Spend,
    /// Dollars for each minute; `null` without minutes.
    pub usd_per_minute: Option<f64>,
}

impl From<Spend> for SpendShown {
    fn from(sums: Spend) -> Self {
        Self {
            sums,
            usd_per_minute: sums.usd_per_minute(),
        }
    }
}

/// What a ranking is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Of {
    /// Destinations.
    Destination,
    /// SIP trunks.
    Trunk,
    /// Numbers of the account.
    OwnNumber,
}

/// A name whose charges changed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SpendChange {
    /// What the name is.
    pub of: Of,
    /// The name.
    pub name: Option<String>,
    /// Charges in the period.
    pub charge_usd: AmountSum,
    /// Charges in the period before.
    pub charge_before_usd: AmountSum,
    /// Their difference, which is the sum of the following two.
    pub difference_usd: AmountSum,
    /// What the other number of minutes would have cost at the earlier price.
    pub volume_usd: AmountSum,
    /// What the other price costs for the minutes of the period.
    pub price_usd: AmountSum,
    /// The change in words.
    pub text: String,
}

/// Most changes that are listed.
const MAX_CHANGES: usize = 20;

/// The names whose charges changed most, over all rankings.
pub(super) fn changes(rankings: &[(Of, &Ranked)]) -> Vec<SpendChange> {
    let mut changes = Vec::new();
    for (of, ranked) in rankings {
        for (name, sums) in ranked.names() {
            let difference = sums.now.charge_usd.minus(sums.before.charge_usd);
            if difference != AmountSum::default() {
                changes.push((difference, *of, name, sums));
            }
        }
    }
    changes.sort_by_key(|(difference, of, name, _)| {
        (
            Reverse(difference.magnitude()),
            *of,
            name.map(str::to_owned),
        )
    });
    let top = changes.into_iter().take(MAX_CHANGES);
    top.map(|(difference, of, name, sums)| change(difference, of, name, sums))
        .collect()
}

fn change(
    difference: AmountSum,
    of: Of,
    name: Option<&str>,
    Compared { now, before }: &Compared<Spend>,
) -> SpendChange {
    // Without minutes before there was no price, and all of the difference is volume.
    let volume = if before.duration_seconds > 0 {
        let more = i128::from(now.duration_seconds - before.duration_seconds);
        before
            .charge_usd
            .times(more, before.duration_seconds.into())
    } else {
        difference
    };
    let price = difference.minus(volume);
    let what = match (of, name) {
        (_, Some(name)) => name.to_owned(),
        (Of::Destination, None) => "calls without a destination".to_owned(),
        (Of::Trunk, None) => "calls without a trunk".to_owned(),
        (Of::OwnNumber, None) => "calls without a number".to_owned(),
    };
    let text = format!(
        "{what}: {difference:+.2} USD ({:.2} → {:.2}): {volume:+.2} by the number of minutes, \
         {price:+.2} by the price of a minute.",
        before.charge_usd, now.charge_usd
    );
    SpendChange {
        of,
        name: name.map(str::to_owned),
        charge_usd: now.charge_usd,
        charge_before_usd: before.charge_usd,
        difference_usd: difference,
        volume_usd: volume,
        price_usd: price,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(cents: i64, seconds: i64) -> Spend {
        Spend {
            calls: 1,
            answered: 1,
            duration_seconds: seconds,
            charge_usd: format!("{}.{:02}", cents / 100, cents % 100)
                .parse()
                .unwrap(),
        }
    }

    fn now(spend: Spend) -> Compared<Spend> {
        Compared {
            now: spend,
            ..Compared::default()
        }
    }

    #[test]
    fn a_ranking_is_by_charge_then_name_and_others_have_the_rest() {
        let mut ranked = Ranked::default();
        ranked.add(None, &now(spend(500, 60)));
        for number in 0..60 {
            ranked.add(
                Some(format!("{number:02}")),
                &now(spend(number / 2 * 100, 60)),
            );
        }
        let Ranking {
            distinct,
            is_exact,
            rows,
            other,
        } = ranked.ranking(false);
        assert_eq!((distinct, is_exact, rows.len()), (61, true, MAX_ROWS));
        let names: Vec<_> = rows.iter().map(|row| row.name.as_deref()).collect();
        assert_eq!(names[..4], ["58", "59", "56", "57"].map(Some));
        assert_eq!(names[48..], [Some("10"), Some("11")]);
        assert_eq!(other.now.sums.calls, 11);
        assert_eq!(other.now.sums.charge_usd.to_string(), "25");
        assert!(other.before.is_none());
    }

    #[test]
    fn too_many_names_lose_their_cheaper_half_to_the_others_and_no_sum_is_lost() {
        let number = MAX_NAMES + 10;
        for are_equal in [false, true] {
            let mut ranked = Ranked::default();
            for name in 0..number {
                let cents = if are_equal {
                    0
                } else {
                    i64::try_from(name).unwrap()
                };
                ranked.add(Some(name.to_string()), &now(spend(cents, 60)));
            }
            let kept = MAX_NAMES / 2..=MAX_NAMES / 2 + 10;
            assert!(kept.contains(&ranked.names.len()), "{}", ranked.names.len());
            let ranking = ranked.ranking(false);
            assert!(!ranking.is_exact);
            if !are_equal {
                assert_eq!(ranking.rows[0].name, Some((number - 1).to_string()));
            }
            let rows: u64 = ranking.rows.iter().map(|row| row.sums.now.sums.calls).sum();
            assert_eq!(rows + ranking.other.now.sums.calls, number as u64);
        }
    }

    #[test]
    fn hidden_numbers_stay_apart_by_their_rank() {
        let mut ranked = Ranked::default();
        for (name, cents) in [("4930123", 300), ("4930456", 500), ("anonymous", 400)] {
            ranked.add(Some(name.to_owned()), &now(spend(cents, 60)));
        }
        let hide = |name: &str| {
            name.strip_prefix("4930")
                .map_or(name, |_| "4930")
                .to_owned()
        };
        let rows = ranked.renamed_with_rank(hide).ranking(false).rows;
        let names: Vec<_> = rows.iter().map(|row| row.name.as_deref()).collect();
        assert_eq!(names, ["4930… #1", "anonymous", "4930… #3"].map(Some));
    }

    #[test]
    fn codes_of_a_file_may_be_given_anew() {
        let mut names = Names::default();
        for name in ["a", "b", "a"] {
            let code = names.code(name);
            names.add(code, Era::Now, (Outcome::Answered, 60, 1));
        }
        names.add(UNNAMED, Era::Before, (Outcome::Failed, 0, 0));
        names.clear();
        let code = names.code("b");
        names.add(code, Era::Before, (Outcome::Busy, 1, 2));
        names.code(&"long".repeat(100));
        let ranked = names.into_ranked();
        let calls = |name: Option<&str>| {
            let sums = &ranked.names[&name.map(str::to_owned)];
            (sums.now.calls, sums.before.calls)
        };
        assert_eq!(calls(Some("a")), (2, 0));
        assert_eq!(calls(Some("b")), (1, 1));
        assert_eq!(calls(None), (0, 1));
        assert_eq!(ranked.names.len(), 3);
    }

    #[test]
    fn a_long_name_is_cut() {
        assert_eq!(
            shortened(&"ä".repeat(200)),
            "ä".repeat(MAX_NAME_CHARS) + "…"
        );
    }

    #[test]
    fn a_change_of_charges_is_split_into_volume_and_price() {
        let sums = Compared {
            before: spend(1000, 600),
            now: spend(2400, 1200),
        };
        let mut ranked = Ranked::default();
        ranked.add(Some("x".to_owned()), &sums);
        ranked.add(Some("new".to_owned()), &now(spend(100, 60)));
        ranked.add(
            Some("same".to_owned()),
            &Compared {
                before: spend(1, 1),
                now: spend(1, 1),
            },
        );
        let texts: Vec<String> = changes(&[(Of::Trunk, &ranked)])
            .into_iter()
            .map(|it| it.text)
            .collect();
        assert_eq!(
            texts,
            [
                "x: +14.00 USD (10.00 → 24.00): +10.00 by the number of minutes, +4.00 by the \
                 price of a minute.",
                "new: +1.00 USD (0.00 → 1.00): +1.00 by the number of minutes, +0.00 by the price \
                 of a minute.",
            ]
        );
    }
}
