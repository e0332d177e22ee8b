//! Which slices a run does, and why.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::ops::RangeInclusive;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use object_store::path::Path;

use super::days::{Selection, first_asked, is_from_the_future, lookback_from, today};
use super::open::{find_lake, period_unit};
use super::{Error, UsageError, period_remarks};
use crate::cdr::period::Period;
use crate::cdr::slice::{Direction, Slice};
use crate::config::{Config, timezone_name};
use crate::error::counted;
use crate::lake::ledger::{Commit, State};
use crate::lake::report::{Remark, RemarkKind};
use crate::lake::{Condition, Lake, LakeError, LedgerEntry, SliceState, TableFiles, is_intact};
use crate::store::ObjectState;
use crate::store::layout;

/// Why a slice is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DueReason {
    /// It was never committed.
    Missing,
    /// A run crashed while it published the slice.
    Interrupted,
    /// Its file is missing or differs in size from its ledger entry.
    Damaged,
    /// Its rejects are missing or differ in size from its ledger entry.
    RejectsDamaged,
    /// Its ledger entry cannot be relied on.
    LedgerDamaged,
    /// Its ledger entry cannot be used by this program, here: it fails, and is left as it is.
    LedgerUnusable,
    /// The last attempt failed.
    Failed,
    /// Its ledger entry comes from the future: whether its day had ended when it was fetched is
    /// unknown.
    Clock,
    /// It was fetched before its period had settled.
    Open,
    /// The lake has its later days only.
    EarlierDays,
    /// It lies within `window.lookback_days`: calls may be late or re-rated.
    LookBack,
    /// The selection asks for everything to be fetched again.
    Refresh,
    /// Its day has not ended.
    Today,
}

impl DueReason {
    /// Whether the lake was damaged by something other than a run.
    pub fn is_damage(self) -> bool {
        matches!(
            self,
            Self::Damaged | Self::RejectsDamaged | Self::LedgerDamaged
        )
    }

    /// Whether the table may differ from the ledger.
    fn is_repair(self) -> bool {
        matches!(
            self,
            Self::Interrupted | Self::Damaged | Self::LedgerDamaged
        )
    }
}

impl fmt::Display for DueReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Missing => "missing",
            Self::Interrupted => "interrupted while publishing",
            Self::Damaged => "its file differs from its ledger entry",
            Self::RejectsDamaged => "its rejects differ from its ledger entry",
            Self::LedgerDamaged => "its ledger entry is damaged",
            Self::LedgerUnusable => {
                "its ledger entry is unreadable or from a newer cdrlake, so it will fail"
            }
            Self::Failed => "the last attempt failed",
            Self::Clock => "its fetch time is in the future (clock skew)",
            Self::Open => "open: fetched before it had settled",
            Self::EarlierDays => "its first days are missing",
            Self::LookBack => "within window.lookback_days",
            Self::Refresh => "refresh requested",
            Self::Today => "today, still open",
        })
    }
}

/// A slice that a run does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Which one.
    pub slice: Slice,
    /// Why.
    pub why: DueReason,
    /// Token of what was committed when the plan was made: another one means that another run did
    /// the slice since.
    pub committed_token: Option<String>,
    /// When that was fetched: what was only changed since, by an erasure, is not what another run
    /// fetched.
    pub committed_fetched_at: Option<Timestamp>,
    /// Whether the lake was listed and had neither a file nor rejects of the slice. A file without
    /// a ledger entry may be the last copy of rows.
    pub has_nothing: bool,
}

impl Due {
    /// A slice of which the lake has what was `committed`.
    pub fn new(slice: Slice, why: DueReason, committed: Option<&Commit>) -> Self {
        Self {
            slice,
            why,
            committed_token: committed.map(|commit| commit.token.clone()),
            committed_fetched_at: committed.map(|commit| commit.fetched_at),
            has_nothing: false,
        }
    }
}

/// What a run does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The days looked at.
    pub days: RangeInclusive<Date>,
    /// The directions looked at.
    pub directions: Vec<Direction>,
    /// What is due, in the order of processing: slices that may be broken in the table first, then
    /// the newest day first. So a long backfill delays neither repairs nor recent days, and
    /// continues where it was interrupted.
    pub due: Vec<Due>,
    /// How many slices in range are not due.
    pub up_to_date: u64,
    /// Files that readers of these days take for calls, and that are no slice's.
    pub foreign: Vec<Path>,
    /// Slices with files that were replaced before `lake.keep_replaced`.
    pub replaced: BTreeSet<Slice>,
    /// A remark if the closed slices in range have many small files.
    pub small_files: Option<Remark>,
}

/// Plans a run at `now`. `lake` is `None` if there is none yet.
///
/// # Errors
/// [`Error::Usage`] for a selection without days, [`Error::Lake`] if the ledger or the
/// table cannot be read.
pub async fn plan(
    config: &Config,
    selection: &Selection,
    lake: Option<&Lake>,
    now: Timestamp,
) -> Result<Plan, Error> {
    let today = today(&config.window, now);
    let days = selection.days(&config.window, now)?;
    let directions = directions(config, selection)?;
    let unit = period_unit(config, lake);
    // Of the whole periods, which a run touches.
    let first = Period::containing(*days.start(), unit).first_day();
    let last = Period::containing(*days.end(), unit).last_day();
    let mut found = LakeContent::read(lake, &directions, first..=last).await?;
    let lookback_from = lookback_from(&config.window, today);
    let mut plan = Plan {
        days: days.clone(),
        directions: directions.clone(),
        due: Vec::new(),
        up_to_date: 0,
        foreign: std::mem::take(&mut found.table.foreign),
        replaced: found.replaced_before(keep_limit(config, now)),
        small_files: period_remarks::on_files(period_remarks::closed_files(&found.entries)),
    };
    for period in Period::touching(days, unit) {
        for &direction in &directions {
            let slice = Slice::new(period, direction);
            if selection.shard.is_some_and(|shard| !shard.holds(slice)) {
                continue;
            }
            let why = if period.first_day() >= today {
                Some(DueReason::Today)
            } else {
                let in_lookback = period.last_day() >= lookback_from;
                let why = found.why_due(slice, selection.refresh, in_lookback, now);
                let first = first_asked(period, &config.window, selection.from);
                why.or_else(|| found.lacks(slice, first).then_some(DueReason::EarlierDays))
            };
            plan.add(slice, why, &found);
        }
    }
    plan.sort();
    Ok(plan)
}

/// The directions of the configuration that are selected.
///
/// # Errors
/// [`UsageError`] if the selected one is not among them.
pub(super) fn directions(
    config: &Config,
    selection: &Selection,
) -> Result<Vec<Direction>, UsageError> {
    let all = config.source.directions.iter().copied();
    let is_selected = |direction: &Direction| selection.direction.is_none_or(|it| it == *direction);
    let directions: Vec<Direction> = all.filter(is_selected).collect();
    match selection.direction {
        Some(direction) if directions.is_empty() => Err(UsageError::OtherDirection { direction }),
        _ => Ok(directions),
    }
}

/// What a run would do.
#[derive(Debug)]
pub(crate) struct Preview {
    /// Which slices, and why.
    pub plan: Plan,
    /// Remarks about the lake.
    pub remarks: Vec<Remark>,
    /// Whether there is no lake yet, so that a run would make one.
    pub is_new_lake: bool,
}

/// The plan of a run at `now` in the lake that `config` names, if there is one.
///
/// # Errors
/// As [`plan`], and [`Error`] if the lake is another one.
pub(crate) async fn preview(
    config: &Config,
    selection: &Selection,
    now: Timestamp,
) -> Result<Preview, Error> {
    let lake = find_lake(config).await?;
    // A run would be refused.
    if let Some(to) = lake.as_ref().and_then(|lake| lake.identity.converting) {
        return Err(LakeError::Converting { to }.into());
    }
    let plan = plan(config, selection, lake.as_ref(), now).await?;
    let is_new_lake = lake.is_none();
    let unit = period_unit(config, lake.as_ref());
    let mut remarks = period_remarks::on_selection(selection, &config.window, unit, now);
    if let Some(lake) = lake {
        remarks.extend(unsynced_remark(lake.unsynced_runs().await?));
        remarks.extend(lake.remarks);
    }
    remarks.extend(plan.foreign_remark());
    Ok(Preview {
        plan,
        remarks,
        is_new_lake,
    })
}

/// A remark on runs that could not commit to the logs of table formats, if there are any.
pub(crate) fn unsynced_remark(runs: u64) -> Option<Remark> {
    (runs > 0).then(|| {
        RemarkKind::UnsyncedLogs.remark(format!(
            "the logs of table formats lack the changes of {}",
            counted(runs, "run", "runs")
        ))
    })
}

/// What a load does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoadPlan {
    /// Which slices, and why.
    pub plan: Plan,
    /// Slices that the lake has, and of which it read another number of records than the export
    /// holds.
    pub differing: Vec<Slice>,
    /// Slices that the lake has and keeps, of these days or next to them, and that were loaded with
    /// another `source.assume_timezone`.
    pub of_other_zone: Vec<Slice>,
}

/// Decides which slices a load does of those that an export has, each with its number of records:
/// what the lake does not hold, and all of them with `refresh`. Days that have not ended at `now`
/// are not among them: what an export has of them is not all.
///
/// # Errors
/// [`Error::Usage`] for no slices, [`Error::Lake`] if the ledger or the table cannot be read.
pub(crate) async fn plan_load(
    config: &Config,
    slices: &[(Slice, u64)],
    refresh: bool,
    lake: Option<&Lake>,
    now: Timestamp,
) -> Result<LoadPlan, Error> {
    let today = today(&config.window, now);
    let days = slices.iter().map(|(slice, _)| slice.period.first_day());
    let days = days.filter(|day| *day < today);
    let (Some(first), Some(last)) = (days.clone().min(), days.clone().max()) else {
        return Err(Error::Usage(if slices.is_empty() {
            UsageError::NoRecords
        } else {
            UsageError::NoEndedDay
        }));
    };
    let around = first.yesterday().unwrap_or(first)..=last.tomorrow().unwrap_or(last);
    let mut found = LakeContent::read(lake, &Direction::ALL, around).await?;
    let mut plan = Plan {
        days: first..=last,
        directions: Direction::ALL.to_vec(),
        due: Vec::new(),
        up_to_date: 0,
        foreign: std::mem::take(&mut found.table.foreign),
        replaced: found.replaced_before(keep_limit(config, now)),
        small_files: None,
    };
    let mut differing = Vec::new();
    for &(slice, records) in slices
        .iter()
        .filter(|(slice, _)| slice.period.first_day() < today)
    {
        let why = match found.why_due(slice, refresh, false, now) {
            // The table matches the ledger. The next run does the rest.
            Some(
                DueReason::Open | DueReason::Clock | DueReason::Failed | DueReason::RejectsDamaged,
            ) if !refresh && found.commit(slice).is_some() => None,
            why => why,
        };
        if let (None, Some(commit)) = (why, found.commit(slice))
            && commit.counts.records != records
            && commit.state != State::Pruned
        {
            differing.push(slice);
        }
        plan.add(slice, why, &found);
    }
    plan.sort();
    let directions: BTreeSet<Direction> = slices.iter().map(|(slice, _)| slice.direction).collect();
    let due: HashSet<Slice> = plan.due.iter().map(|due| due.slice).collect();
    let zone = config.source.assume_timezone.as_ref().map(timezone_name);
    let mut of_other_zone: Vec<Slice> = found
        .entries
        .keys()
        .filter(|slice| directions.contains(&slice.direction) && !due.contains(slice))
        .filter(|slice| {
            let before = found
                .commit(**slice)
                .and_then(|commit| commit.asked.assumed_timezone());
            before.is_some() && zone.is_some() && before != zone.as_deref()
        })
        .copied()
        .collect();
    of_other_zone.sort_unstable();
    Ok(LoadPlan {
        plan,
        differing,
        of_other_zone,
    })
}

/// What a lake holds.
#[derive(Debug, Default)]
struct LakeContent {
    entries: HashMap<Slice, LedgerEntry>,
    table: TableFiles,
    rejects: HashMap<Path, ObjectState>,
}

impl LakeContent {
    async fn read(
        lake: Option<&Lake>,
        directions: &[Direction],
        days: RangeInclusive<Date>,
    ) -> Result<Self, LakeError> {
        let Some(lake) = lake else {
            return Ok(Self::default());
        };
        let (entries, mut table, rejects) = futures::try_join!(
            lake.entries(directions, days.clone()),
            lake.table().files(),
            lake.rejects()
        )?;
        table
            .foreign
            .retain(|path| layout::partition_day(path).is_none_or(|day| days.contains(&day)));
        Ok(Self {
            entries,
            table,
            rejects,
        })
    }

    /// Slices with files that were replaced before `limit`.
    fn replaced_before(&self, limit: Timestamp) -> BTreeSet<Slice> {
        let is_due = |found: &LedgerEntry| {
            let mut superseded = found.entry.superseded.iter();
            superseded.any(|it| it.since <= limit)
        };
        let entries = self.entries.iter().filter(|(_, found)| is_due(found));
        entries.map(|(slice, _)| *slice).collect()
    }

    fn has_rejects(&self, slice: Slice) -> bool {
        let rejects = [
            layout::rejects_file(slice),
            layout::failed_rejects_file(slice),
        ];
        rejects.iter().any(|path| self.rejects.contains_key(path))
    }

    fn commit(&self, slice: Slice) -> Option<&Commit> {
        self.entries.get(&slice)?.entry.committed.as_ref()
    }

    /// Whether the slice lacks days from `first` on. A pruned one does not.
    fn lacks(&self, slice: Slice, first: Date) -> bool {
        let commit = self.commit(slice);
        let commit = commit.filter(|commit| commit.state != State::Pruned);
        commit.is_some_and(|commit| commit.from.is_some_and(|from| first < from))
    }

    fn why_due(
        &self,
        slice: Slice,
        refresh: bool,
        in_lookback: bool,
        now: Timestamp,
    ) -> Option<DueReason> {
        let entry = self.entries.get(&slice);
        why_due(
            entry,
            entry.and_then(|found| self.table.file(&found.entry)),
            self.rejects.get(&layout::rejects_file(slice)),
            refresh,
            in_lookback,
            now,
        )
    }
}

/// Files that were replaced before this instant are due for removal at `now`.
pub(crate) fn keep_limit(config: &Config, now: Timestamp) -> Timestamp {
    let kept = SignedDuration::try_from(config.lake.keep_replaced).unwrap_or(SignedDuration::MAX);
    now.checked_sub(kept).unwrap_or(Timestamp::MIN)
}

/// Most foreign files that are named.
const MAX_NAMED: usize = 5;

impl Plan {
    /// A remark on the foreign files, if there are any.
    pub fn foreign_remark(&self) -> Option<Remark> {
        let names = self.foreign.iter().take(MAX_NAMED).map(Path::as_ref);
        let names: Vec<&str> = names.collect();
        let more = self.foreign.len() - names.len();
        (!names.is_empty()).then(|| {
            let more = match more {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            RemarkKind::ForeignFiles.remark(format!(
                "the table has files that belong to no slice, and readers count them as calls: \
                 {}{more}",
                names.join(", ")
            ))
        })
    }

    fn add(&mut self, slice: Slice, why: Option<DueReason>, found: &LakeContent) {
        let Some(why) = why else {
            self.up_to_date += 1;
            return;
        };
        self.due.push(Due {
            has_nothing: !found.table.has(slice) && !found.has_rejects(slice),
            ..Due::new(slice, why, found.commit(slice))
        });
    }

    fn sort(&mut self) {
        self.due.sort_by_key(|due| {
            let Slice { period, direction } = due.slice;
            (!due.why.is_repair(), Reverse(period), direction)
        });
    }
}

fn why_due(
    entry: Option<&LedgerEntry>,
    file: Option<&ObjectState>,
    rejects: Option<&ObjectState>,
    refresh: bool,
    in_lookback: bool,
    now: Timestamp,
) -> Option<DueReason> {
    let Some(found) = entry else {
        return Some(DueReason::Missing);
    };
    let state = found.state();
    // Without a valid ledger entry, the content of the table cannot be judged.
    let commit = match (state, &found.entry.committed) {
        (SliceState::Missing, _) => return Some(DueReason::Missing),
        (SliceState::Damaged, _) if matches!(found.condition, Condition::Damaged(_)) => {
            return Some(DueReason::LedgerDamaged);
        }
        (SliceState::Damaged, _) => return Some(DueReason::LedgerUnusable),
        (SliceState::Interrupted, _) => return Some(DueReason::Interrupted),
        (SliceState::Pruned, _) => return None,
        (_, None) => return Some(DueReason::Failed),
        (_, Some(commit)) => commit,
    };
    if !is_intact(commit.file.as_ref(), file) {
        Some(DueReason::Damaged)
    } else if !is_intact(commit.rejects.as_ref(), rejects) {
        Some(DueReason::RejectsDamaged)
    } else if state == SliceState::Failed {
        Some(DueReason::Failed)
    } else if refresh {
        Some(DueReason::Refresh)
    } else if is_from_the_future(commit, now) {
        Some(DueReason::Clock)
    } else if state == SliceState::Open {
        Some(DueReason::Open)
    } else {
        in_lookback.then_some(DueReason::LookBack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdr::slice::parse_day;
    use crate::lake::PublishedFile;
    use crate::lake::ledger::Failure;
    use crate::slice_file::statistics::FileStatistics;

    #[test]
    fn a_slice_is_due_for_the_gravest_reason() {
        let slice = Slice::of_day(parse_day("2026-10-01").unwrap(), Direction::Placed);
        let now: Timestamp = "2026-10-10T00:00:00Z".parse().unwrap();
        let found = |size_bytes| ObjectState {
            path: "x".into(),
            size_bytes,
            etag: None,
            version: None,
        };
        let why = |entry: &LedgerEntry, size, refresh, lookback| {
            why_due(
                Some(entry),
                Some(&found(size)),
                None,
                refresh,
                lookback,
                now,
            )
        };
        assert_eq!(
            why_due(None, None, None, true, true, now),
            Some(DueReason::Missing)
        );
        let mut ledger = LedgerEntry::absent(slice);
        assert_eq!(
            why_due(Some(&ledger), None, None, false, false, now),
            Some(DueReason::Missing)
        );
        let file = PublishedFile {
            path: "x".to_owned(),
            rows: 1,
            bytes: 10,
            checksum: String::new(),
            etag: None,
            statistics: FileStatistics::default(),
        };
        let commit = crate::lake::ledger::tests::commit(Some(file), State::Closed);
        ledger.entry.committed = Some(commit.clone());
        assert_eq!(why(&ledger, 10, false, false), None);
        assert_eq!(why(&ledger, 10, false, true), Some(DueReason::LookBack));
        assert_eq!(why(&ledger, 10, true, true), Some(DueReason::Refresh));
        assert_eq!(why(&ledger, 9, true, true), Some(DueReason::Damaged));
        assert_eq!(
            why_due(Some(&ledger), None, None, false, false, now),
            Some(DueReason::Damaged)
        );
        for (fetched_at, expected) in [
            ("2026-10-10T00:10:00Z", None),
            ("2026-10-10T00:10:01Z", Some(DueReason::Clock)),
        ] {
            ledger.entry.committed = Some(Commit {
                fetched_at: fetched_at.parse().unwrap(),
                ..commit.clone()
            });
            assert_eq!(why(&ledger, 10, false, false), expected);
        }
        assert_eq!(
            why_due(
                Some(&ledger),
                Some(&found(10)),
                Some(&found(1)),
                false,
                true,
                now
            ),
            Some(DueReason::RejectsDamaged)
        );
        ledger.entry.failed = Some(Failure {
            run: String::new(),
            at: now,
            problem: String::new(),
            reason: None,
        });
        assert_eq!(why(&ledger, 10, false, true), Some(DueReason::Failed));
        ledger.condition = Condition::Damaged(String::new());
        assert_eq!(
            why(&ledger, 10, false, true),
            Some(DueReason::LedgerDamaged)
        );
        ledger.condition = Condition::Newer(2);
        assert_eq!(
            why(&ledger, 10, false, true),
            Some(DueReason::LedgerUnusable)
        );
    }
}
