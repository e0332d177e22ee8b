//! Which slices a run does, and why.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, ToSpan};
use object_store::path::Path;

use crate::cdr::day::end_of_day;
use crate::cdr::digest::day_number;
use crate::cdr::slice::{Direction, FIRST_DAY, Slice};
use crate::config::{Config, WindowConfig, timezone_name};
use crate::lake::ledger::{Commit, PublishedFile, RejectsFile, State};
use crate::lake::{Condition, Lake, LakeError, LedgerEntry, is_intact};
use crate::store::ObjectState;
use crate::store::layout;

/// How far clocks may differ without consequence: those of machines that share a lake, and of this
/// machine and the provider.
pub const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(10);

/// What the command line asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// First day to look at.
    pub from: Option<Date>,
    /// Last day to look at.
    pub to: Option<Date>,
    /// As many days, ending with yesterday.
    pub last_days: Option<u32>,
    /// Also the day that has not ended.
    pub include_today: bool,
    /// Everything in range is due.
    pub refresh: bool,
    /// Only this direction.
    pub direction: Option<Direction>,
    /// Only this share of the slices.
    pub shard: Option<Shard>,
}

/// One of several shares of all slices, for machines that split the work without talking to one
/// another: a slice belongs to one share of `of`, whatever else is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1 on.
    number: u32,
    of: u32,
}

impl Shard {
    /// Whether `slice` belongs to this share: (day number × 2 + direction) mod N = K − 1.
    pub fn holds(self, slice: Slice) -> bool {
        let direction = i64::from(slice.direction == Direction::Received);
        let number = i64::from(day_number(slice.day)) * 2 + direction;
        number.rem_euclid(i64::from(self.of)) == i64::from(self.number) - 1
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (number, of) = text.split_once('/')?;
            let shard = Self {
                number: number.parse().ok()?,
                of: of.parse().ok()?,
            };
            (1..=shard.of).contains(&shard.number).then_some(shard)
        };
        parse().ok_or_else(|| {
            format!("`{text}` is not a share: write K/N with K from 1 to N, for example 2/4")
        })
    }
}

/// Why a slice is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was never committed.
    Missing,
    /// A run died while it published.
    Interrupted,
    /// Its file is gone or has another size than its ledger entry says.
    Damaged,
    /// Its rejects are gone or have another size than its ledger entry says.
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
    /// It was fetched before its day had settled.
    Open,
    /// It lies within `window.lookback_days`: calls may be late or re-rated.
    LookBack,
    /// `--refresh`.
    Refresh,
    /// Its day has not ended.
    Today,
}

impl Why {
    /// Whether something happened to the lake that no run of ours does.
    pub fn is_damage(self) -> bool {
        matches!(
            self,
            Self::Damaged | Self::RejectsDamaged | Self::LedgerDamaged
        )
    }

    /// Whether the table may hold something else than the ledger says.
    fn is_repair(self) -> bool {
        matches!(
            self,
            Self::Interrupted | Self::Damaged | Self::LedgerDamaged
        )
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Missing => "missing",
            Self::Interrupted => "interrupted while publishing",
            Self::Damaged => "its file is not as its ledger entry says",
            Self::RejectsDamaged => "its rejects are not as its ledger entry says",
            Self::LedgerDamaged => "its ledger entry is damaged",
            Self::LedgerUnusable => {
                "its ledger entry cannot be read, or is from a newer cdrlake: it will fail and be left as it is"
            }
            Self::Failed => "the last attempt failed",
            Self::Clock => "fetched at a time that is yet to come: some clock was, or is, wrong",
            Self::Open => "open: fetched before the day had settled",
            Self::LookBack => "within window.lookback_days",
            Self::Refresh => "--refresh",
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
    pub why: Why,
    /// Token of what was committed when the plan was made: another one means that another run did
    /// the slice since.
    pub committed_token: Option<String>,
    /// When that was fetched: what was only changed since, by an erasure, is not what another run fetched.
    pub committed_fetched_at: Option<Timestamp>,
}

/// What a run does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The days looked at.
    pub days: RangeInclusive<Date>,
    /// What is due, in the order in which it is done: first what may lie broken in the table, then
    /// the newest day first. So a long backfill holds up neither repairs nor the days that people
    /// look at, and after an interruption it goes on where it was.
    pub due: Vec<Due>,
    /// How many slices in range are not due.
    pub up_to_date: u64,
    /// Files that readers of these days take for calls, and that are no slice's.
    pub foreign: Vec<Path>,
}

/// There is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The command line or the configuration asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The lake cannot be read.
    #[error(transparent)]
    Lake(#[from] LakeError),
}

/// The first day of those that every run fetches again, on `today`.
pub fn lookback_from(window: &WindowConfig, today: Date) -> Date {
    today
        .checked_sub(i64::from(window.lookback_days).days())
        .unwrap_or(Date::MIN)
}

/// The state of a slice fetched at `fetched_at`.
pub fn state_of(day: Date, window: &WindowConfig, fetched_at: Timestamp) -> State {
    let settle = SignedDuration::from_hours(i64::from(window.settle_hours));
    match end_of_day(day, &window.timezone).checked_add(settle) {
        Ok(settled) if fetched_at >= settled => State::Closed,
        _ => State::Open,
    }
}

/// Whether a commit was made at a time that has not come yet. Its clock may have been wrong, and
/// then its day may not have ended, whatever it says. Clocks of machines that share a lake may
/// differ by [`CLOCK_TOLERANCE`].
pub fn is_from_the_future(commit: &Commit, now: Timestamp) -> bool {
    commit.fetched_at.duration_since(now) > CLOCK_TOLERANCE
}

/// Decides what a run at `now` does. `lake` is `None` while there is none.
///
/// # Errors
/// [`PlanError::Usage`] for a selection without days, [`PlanError::Lake`] if the ledger or the
/// table cannot be read.
pub async fn plan(
    config: &Config,
    selection: &Selection,
    lake: Option<&Lake>,
    now: Timestamp,
) -> Result<Plan, PlanError> {
    let today = now.to_zoned(config.window.timezone.clone()).date();
    let days = days(&config.window, selection, today)?;
    let directions: Vec<Direction> = config
        .source
        .directions
        .iter()
        .copied()
        .filter(|direction| selection.direction.is_none_or(|only| only == *direction))
        .collect();
    if directions.is_empty() {
        let asked = selection.direction.map_or("", Direction::as_str);
        return Err(PlanError::Usage(format!(
            "--direction {asked} is not among source.directions"
        )));
    }
    let mut found = Found::read(lake, &directions, days.clone()).await?;
    let lookback_from = lookback_from(&config.window, today);
    let mut plan = Plan {
        days: days.clone(),
        due: Vec::new(),
        up_to_date: 0,
        foreign: std::mem::take(&mut found.foreign),
    };
    let mut day = *days.start();
    while day <= *days.end() {
        for &direction in &directions {
            let slice = Slice { day, direction };
            if selection.shard.is_some_and(|shard| !shard.holds(slice)) {
                continue;
            }
            let why = if day >= today {
                Some(Why::Today)
            } else {
                found.why_due(slice, selection.refresh, day >= lookback_from, now)
            };
            plan.add(slice, why, &found);
        }
        day = match day.tomorrow() {
            Ok(next) => next,
            Err(_) => break,
        };
    }
    plan.sort();
    Ok(plan)
}

/// What a load does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadPlan {
    /// Which slices, and why.
    pub plan: Plan,
    /// Slices that the lake has, and of which it read another number of records than the export holds.
    pub differing: Vec<Slice>,
    /// Slices that the lake has and keeps, of these days or next to them, and that were loaded with another
    /// `source.assume_timezone`.
    pub of_other_zone: Vec<Slice>,
}

/// Decides which slices a load does of those that an export has, each with its number of records: what the lake
/// does not hold, and all of them with `refresh`. Days that have not ended at `now` are not among them: what an export
/// has of them is not all.
///
/// # Errors
/// [`PlanError::Usage`] for no slices, [`PlanError::Lake`] if the ledger or the table cannot be read.
pub async fn plan_load(
    config: &Config,
    slices: &[(Slice, u64)],
    refresh: bool,
    lake: Option<&Lake>,
    now: Timestamp,
) -> Result<LoadPlan, PlanError> {
    let today = now.to_zoned(config.window.timezone.clone()).date();
    let days = slices.iter().map(|(slice, _)| slice.day);
    let days = days.filter(|day| *day < today);
    let (Some(first), Some(last)) = (days.clone().min(), days.clone().max()) else {
        let problem = if slices.is_empty() {
            "the export holds no records"
        } else {
            "the export holds no record of a day that has ended"
        };
        return Err(PlanError::Usage(problem.to_owned()));
    };
    let around = first.yesterday().unwrap_or(first)..=last.tomorrow().unwrap_or(last);
    let mut found = Found::read(lake, &Direction::ALL, around).await?;
    let mut plan = Plan {
        days: first..=last,
        due: Vec::new(),
        up_to_date: 0,
        foreign: std::mem::take(&mut found.foreign),
    };
    let mut differing = Vec::new();
    for &(slice, records) in slices.iter().filter(|(slice, _)| slice.day < today) {
        let why = match found.why_due(slice, refresh, false, now) {
            // The table is as the ledger says. Whatever else is to be done, the next run will see to it.
            Some(Why::Open | Why::Clock | Why::Failed | Why::RejectsDamaged)
                if !refresh && found.commit(slice).is_some() =>
            {
                None
            }
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
struct Found {
    entries: HashMap<Slice, LedgerEntry>,
    table: HashMap<Slice, ObjectState>,
    foreign: Vec<Path>,
    rejects: HashMap<Path, ObjectState>,
}

impl Found {
    async fn read(
        lake: Option<&Lake>,
        directions: &[Direction],
        days: RangeInclusive<Date>,
    ) -> Result<Self, LakeError> {
        let Some(lake) = lake else {
            return Ok(Self::default());
        };
        let (entries, (table, mut foreign), rejects) = futures::try_join!(
            lake.entries(directions, days.clone()),
            lake.table_and_foreign_files(),
            lake.rejects()
        )?;
        foreign.retain(|path| layout::partition_day(path).is_none_or(|day| days.contains(&day)));
        Ok(Self {
            entries,
            table,
            foreign,
            rejects,
        })
    }

    fn commit(&self, slice: Slice) -> Option<&Commit> {
        self.entries.get(&slice)?.entry.committed.as_ref()
    }

    fn why_due(
        &self,
        slice: Slice,
        refresh: bool,
        in_lookback: bool,
        now: Timestamp,
    ) -> Option<Why> {
        why_due(
            self.entries.get(&slice),
            self.table.get(&slice),
            self.rejects.get(&layout::rejects_file(slice)),
            refresh,
            in_lookback,
            now,
        )
    }
}

/// Most foreign files that are named.
const MAX_NAMED: usize = 5;

impl Plan {
    /// What to say of the foreign files, if there are any.
    pub fn foreign_remark(&self) -> Option<String> {
        let names = self.foreign.iter().take(MAX_NAMED).map(Path::as_ref);
        let names: Vec<&str> = names.collect();
        let more = self.foreign.len() - names.len();
        (!names.is_empty()).then(|| {
            format!(
                "files that belong to no slice lie in the table, where readers take them for calls: {}{}. `cdrlake verify --repair` removes them",
                names.join(", "),
                if more > 0 { format!(" and {more} more") } else { String::new() }
            )
        })
    }

    fn add(&mut self, slice: Slice, why: Option<Why>, found: &Found) {
        let Some(why) = why else {
            self.up_to_date += 1;
            return;
        };
        self.due.push(Due {
            slice,
            why,
            committed_token: found.commit(slice).map(|commit| commit.token.clone()),
            committed_fetched_at: found.commit(slice).map(|commit| commit.fetched_at),
        });
    }

    fn sort(&mut self) {
        self.due.sort_by_key(|due| {
            let Slice { day, direction } = due.slice;
            (!due.why.is_repair(), Reverse(day), direction)
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
) -> Option<Why> {
    let Some(LedgerEntry {
        entry, condition, ..
    }) = entry
    else {
        return Some(Why::Missing);
    };
    match condition {
        Condition::Sound => {}
        Condition::Damaged(_) => return Some(Why::LedgerDamaged),
        Condition::Newer(_) | Condition::Unreadable(_) => return Some(Why::LedgerUnusable),
    }
    if entry.pending.is_some() {
        return Some(Why::Interrupted);
    }
    let Some(commit) = &entry.committed else {
        return Some(if entry.failed.is_some() {
            Why::Failed
        } else {
            Why::Missing
        });
    };
    if commit.state == State::Pruned {
        None
    } else if !is_intact(commit.file.as_ref().map(PublishedFile::mark), file) {
        Some(Why::Damaged)
    } else if !is_intact(commit.rejects.as_ref().map(RejectsFile::mark), rejects) {
        Some(Why::RejectsDamaged)
    } else if entry.failed.is_some() {
        Some(Why::Failed)
    } else if refresh {
        Some(Why::Refresh)
    } else if is_from_the_future(commit, now) {
        Some(Why::Clock)
    } else if commit.state == State::Open {
        Some(Why::Open)
    } else {
        in_lookback.then_some(Why::LookBack)
    }
}

/// The days a selection means on `today`, both ends included.
///
/// # Errors
/// [`PlanError::Usage`] if there are none.
pub fn days(
    window: &WindowConfig,
    selection: &Selection,
    today: Date,
) -> Result<RangeInclusive<Date>, PlanError> {
    let usage = |problem: String| Err(PlanError::Usage(problem));
    let yesterday = today.yesterday().unwrap_or(today);
    let last_possible = if selection.include_today {
        today
    } else {
        yesterday
    };
    if let (Some(from), Some(to)) = (selection.from, selection.to)
        && from > to
    {
        return usage(format!("--from {from} lies after --to {to}"));
    }
    let to = match selection.to {
        Some(to) if to > last_possible => {
            tracing::warn!(
                "--to {to} is cut to {last_possible}: later days have not ended. --include-today takes today so far."
            );
            last_possible
        }
        to => to.unwrap_or(last_possible),
    };
    let from = match (selection.from, selection.last_days, window.start) {
        (Some(from), _, _) => from,
        (None, Some(days), _) => {
            let before = i64::from(days) - 1;
            match yesterday.checked_sub(before.days()) {
                Ok(from) => from,
                Err(_) => return usage(format!("--last {days} reaches back before the calendar")),
            }
        }
        (None, None, Some(start)) => start,
        (None, None, None) => {
            return usage(
                "which days? Set window.start in pipeline.toml to the first day of the lake, or use --from or --last".to_owned(),
            );
        }
    };
    if from < FIRST_DAY {
        return usage(format!(
            "{from} lies before {FIRST_DAY}, and no calls do: use a later day with --from, --last or window.start"
        ));
    }
    if from > to {
        let zone = timezone_name(&window.timezone);
        let hint = match () {
            () if selection.from.is_none() && selection.last_days.is_none() => {
                ". Set window.start to an earlier day, or use --from"
            }
            () if from == today => ". Use --include-today for a day that is still under way",
            () => "",
        };
        return usage(format!(
            "nothing to look at: {from} is after {to}, the last day asked for that has ended in {zone}{hint}"
        ));
    }
    Ok(from..=to)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::cdr::slice::parse_day;
    use crate::lake::Newer;
    use crate::lake::ledger::Failure;

    fn day(text: &str) -> Date {
        parse_day(text).unwrap()
    }

    fn window(start: Option<&str>) -> WindowConfig {
        WindowConfig {
            start: start.map(day),
            timezone: TimeZone::UTC,
            lookback_days: 3,
            settle_hours: 24,
        }
    }

    fn range(selection: &Selection, start: Option<&str>) -> Result<String, String> {
        days(&window(start), selection, day("2026-10-10"))
            .map(|days| format!("{}..{}", days.start(), days.end()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_selection_narrows_the_days_from_the_window_to_yesterday() {
        let selection = Selection::default();
        assert_eq!(
            range(&selection, Some("2026-10-01")).unwrap(),
            "2026-10-01..2026-10-09"
        );
        let today = Selection {
            include_today: true,
            ..Selection::default()
        };
        assert_eq!(
            range(&today, Some("2026-10-01")).unwrap(),
            "2026-10-01..2026-10-10"
        );
        let last = Selection {
            last_days: Some(2),
            ..Selection::default()
        };
        assert_eq!(range(&last, None).unwrap(), "2026-10-08..2026-10-09");
        let from = Selection {
            from: Some(day("2026-09-30")),
            to: Some(day("2026-12-31")),
            ..Selection::default()
        };
        assert_eq!(
            range(&from, Some("2026-10-01")).unwrap(),
            "2026-09-30..2026-10-09"
        );
    }

    #[test]
    fn a_selection_without_days_says_what_to_do() {
        assert!(
            range(&Selection::default(), None)
                .unwrap_err()
                .contains("window.start")
        );
        let reversed = Selection {
            from: Some(day("2026-10-05")),
            to: Some(day("2026-10-01")),
            ..Selection::default()
        };
        assert_eq!(
            range(&reversed, None).unwrap_err(),
            "--from 2026-10-05 lies after --to 2026-10-01"
        );
        let today = Selection {
            from: Some(day("2026-10-10")),
            ..Selection::default()
        };
        assert!(range(&today, None).unwrap_err().contains("--include-today"));
    }

    #[test]
    fn a_day_is_closed_once_it_was_fetched_after_settling_in_its_own_zone() {
        let window = WindowConfig {
            timezone: TimeZone::get("America/New_York").unwrap(),
            ..window(None)
        };
        let state = |text: &str| state_of(day("2026-10-01"), &window, text.parse().unwrap());
        assert_eq!(state("2026-10-03T03:59:59Z"), State::Open);
        assert_eq!(state("2026-10-03T04:00:00Z"), State::Closed);
    }

    #[test]
    fn a_slice_is_due_for_the_gravest_reason() {
        let slice = Slice {
            day: day("2026-10-01"),
            direction: Direction::Placed,
        };
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
            Some(Why::Missing)
        );
        let mut ledger = LedgerEntry::absent(slice);
        assert_eq!(
            why_due(Some(&ledger), None, None, false, false, now),
            Some(Why::Missing)
        );
        let file = PublishedFile {
            path: "x".to_owned(),
            rows: 1,
            bytes: 10,
            checksum: String::new(),
            etag: None,
        };
        let commit = crate::lake::ledger::tests::commit(Some(file), State::Closed);
        ledger.entry.committed = Some(commit.clone());
        assert_eq!(why(&ledger, 10, false, false), None);
        assert_eq!(why(&ledger, 10, false, true), Some(Why::LookBack));
        assert_eq!(why(&ledger, 10, true, true), Some(Why::Refresh));
        assert_eq!(why(&ledger, 9, true, true), Some(Why::Damaged));
        assert_eq!(
            why_due(Some(&ledger), None, None, false, false, now),
            Some(Why::Damaged)
        );
        for (fetched_at, expected) in [
            ("2026-10-10T00:10:00Z", None),
            ("2026-10-10T00:10:01Z", Some(Why::Clock)),
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
            Some(Why::RejectsDamaged)
        );
        ledger.entry.failed = Some(Failure {
            run: String::new(),
            at: now,
            problem: String::new(),
        });
        assert_eq!(why(&ledger, 10, false, true), Some(Why::Failed));
        ledger.condition = Condition::Damaged(String::new());
        assert_eq!(why(&ledger, 10, false, true), Some(Why::LedgerDamaged));
        ledger.condition = Condition::Newer(Newer::Format(2));
        assert_eq!(why(&ledger, 10, false, true), Some(Why::LedgerUnusable));
    }

    #[test]
    fn every_slice_belongs_to_exactly_one_share() {
        let slices: Vec<Slice> = Direction::ALL
            .into_iter()
            .flat_map(|direction| {
                ["1969-12-31", "1970-01-01", "2026-10-01", "2026-10-02"].map(|text| Slice {
                    day: day(text),
                    direction,
                })
            })
            .collect();
        for of in 1..=5 {
            for &slice in &slices {
                let holders = (1..=of).filter(|number| {
                    format!("{number}/{of}")
                        .parse::<Shard>()
                        .unwrap()
                        .holds(slice)
                });
                assert_eq!(holders.count(), 1, "{slice} of {of}");
            }
        }
        // 2026-10-01 is day 20,727: placed 41,454, received 41,455.
        let first: Shard = "3/4".parse().unwrap();
        assert!(first.holds(Slice {
            day: day("2026-10-01"),
            direction: Direction::Placed,
        }));
        for wrong in ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn days_before_there_were_calls_are_refused() {
        let window = Config::from_overrides(&vec![("lake.url", "x".to_owned(), "")])
            .unwrap()
            .window;
        let days = |from| {
            let from = Some(crate::cdr::slice::parse_day(from).unwrap());
            let selection = Selection {
                from,
                ..Selection::default()
            };
            super::days(&window, &selection, jiff::civil::date(2026, 11, 26))
        };
        assert!(days("2000-01-01").is_ok());
        let refused = days("0001-01-01").unwrap_err().to_string();
        assert!(
            refused.starts_with("0001-01-01 lies before 2000-01-01"),
            "{refused}"
        );
    }
}
