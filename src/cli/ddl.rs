//! `cdrlake ddl`: how a warehouse is told of the table.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use clap::Args;
use jiff::civil::Date;

use super::{CommandError, Exit, LakeArgs, print};
use crate::cdr::slice::{Direction, Slice, parse_day};
use crate::config::Config;
use crate::lake::ledger::Commit;
use crate::lake::{Condition, Lake};
use crate::ops::open::{existing_lake, find_any_lake};
use crate::ops::run::reports::{self, Changes, Told};
use crate::store::location::Location;
use crate::warehouse::{Days, DdlError, LedgerTotals, Table, Target};

/// First day of the table where nobody says: the API knows no older calls.
const FIRST_DAY: Date = jiff::civil::date(2015, 1, 1);
/// Stands for the run that ended last.
const LAST_RUN: &str = "last";

/// Print the definition of the table for a warehouse, the statements that load it, or a query that checks it.
#[derive(Clone, Debug, Args)]
pub(super) struct DdlArgs {
    /// The warehouse: snowflake, bigquery, redshift, athena, databricks, spark, trino, clickhouse, duckdb or postgres.
    #[arg(long, value_name = "TARGET", value_parser = str::parse::<Target>)]
    target: Target,
    /// The table, with schema or dataset if it has one.
    #[arg(long, value_name = "NAME", default_value = "cdrs")]
    table: String,
    /// Where the warehouse finds the lake, if that is not `lake.url`: after a copy, or by another address.
    #[arg(long, value_name = "PLACE")]
    location: Option<String>,
    /// Print the statements that make the table hold what the lake does, day by day. Running them again changes nothing.
    #[arg(long, help_heading = "What to print")]
    load: bool,
    /// Only the days that a run changed: its name, or `last`.
    #[arg(long, value_name = "RUN", requires = "load", conflicts_with_all = ["from", "to", "check"], help_heading = "What to print")]
    changed_by: Option<String>,
    /// Only the days that runs changed which ended after this one: what a warehouse that was loaded after it lacks.
    #[arg(long, value_name = "RUN", requires = "load", conflicts_with_all = ["from", "to", "check", "changed_by"], help_heading = "What to print")]
    changed_since: Option<String>,
    /// Only days from this one on, YYYY-MM-DD.
    #[arg(long, value_name = "DAY", value_parser = parse_day, requires = "load", conflicts_with = "check", help_heading = "What to print")]
    from: Option<Date>,
    /// Only days up to this one, inclusive.
    #[arg(long, value_name = "DAY", value_parser = parse_day, requires = "load", conflicts_with = "check", help_heading = "What to print")]
    to: Option<Date>,
    /// Print one query whose answer must be what the ledger says.
    #[arg(long, conflicts_with = "load", help_heading = "What to print")]
    check: bool,
    #[command(flatten)]
    config: LakeArgs,
}

impl From<DdlError> for CommandError {
    fn from(error: DdlError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

pub(super) async fn execute(args: &DdlArgs) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    let place = match &args.location {
        Some(place) => place.clone(),
        None => address(&config)?,
    };
    let table = |first_day: Option<Date>| {
        let account = ["account_name", "azure_storage_account_name"];
        let account = account
            .iter()
            .find_map(|name| config.lake.options.get(*name))
            .map(|(value, _)| value.clone())
            .or_else(|| std::env::var("AZURE_STORAGE_ACCOUNT_NAME").ok());
        let first_day = first_day.or(config.window.start).unwrap_or(FIRST_DAY);
        Table::try_new(
            args.target,
            &args.table,
            &place,
            account.as_deref(),
            first_day,
        )
    };
    // What cannot be is said before the lake is looked for.
    table(None)?;
    let text = if args.load {
        let lake = existing_lake(&config, false).await?;
        // Of what is loaded in part nobody can say that it is loaded up to here.
        let is_part = args.changed_by.is_some() || args.from.is_some() || args.to.is_some();
        let is_about_last = args.changed_by.as_deref() == Some(LAST_RUN);
        let changes = if is_part && !is_about_last {
            None
        } else {
            Some(Changes::read(&lake).await?)
        };
        let as_of = match changes.as_ref().and_then(Changes::last) {
            Some(Told { run, .. }) if !is_part => {
                format!("-- As of run {run}; after this load: --changed-since {run}\n")
            }
            _ => String::new(),
        };
        as_of + &table(None)?.load(&days(args, &lake, changes.as_ref()).await?)
    } else if args.check {
        let lake = existing_lake(&config, false).await?;
        table(None)?.check(&totals(&lake).await?)
    } else {
        let lake = find_any_lake(&config).await?;
        let first_day = match lake {
            Some(lake) => lake.first_day(&Direction::ALL).await?,
            None => None,
        };
        let table = table(first_day.into_iter().chain(config.window.start).min())?;
        let load = match args.target {
            target if target.copies() => {
                "--load: what loads every day, by day and direction; it may be run again. After a run:\n\
                 --   --load --changed-by last: the same, of the days that the last run changed.\n--   "
            }
            Target::Spark | Target::Trino => "--load: what refreshes it after a run.\n--   ",
            _ => "",
        };
        let hints = format!(
            "-- Also: cdrlake ddl --target {}{} with\n--   {load}--check: one query that proves that all of it is there.\n",
            args.target,
            args.flags(),
        );
        table.definition() + &hints
    };
    print(text.as_bytes())
}

impl DdlArgs {
    /// What another call needs to mean the same table.
    fn flags(&self) -> String {
        let table = match self.table.as_str() {
            "cdrs" => String::new(),
            table => format!(" --table {table}"),
        };
        let place = self.location.as_ref();
        let place = place.map_or_else(String::new, |place| format!(" --location {place}"));
        format!("{table}{place}{}", self.config.as_flags())
    }
}

/// The lake's own address; an absolute path, for a warehouse runs elsewhere.
fn address(config: &Config) -> Result<String, CommandError> {
    match &config.lake.url {
        Location::Directory(root) => Ok(std::path::absolute(root)?.display().to_string()),
        Location::Bucket(url) => Ok(url.to_string()),
    }
}

/// The days asked for of which the ledger speaks, each with the directions that have a file.
async fn days(
    args: &DdlArgs,
    lake: &Lake,
    changes: Option<&Changes>,
) -> Result<Days, CommandError> {
    let range = args.from.unwrap_or(Date::MIN)..=args.to.unwrap_or(Date::MAX);
    if range.is_empty() {
        let problem = format!("--from {} lies after --to {}", range.start(), range.end());
        return Err(CommandError::new(Exit::Usage, problem));
    }
    let mut days = Days::new();
    let changed = match (&args.changed_by, &args.changed_since) {
        (Some(run), _) => Some(changed_by(run, lake, changes).await?),
        (None, Some(run)) => Some(changed_since(run, changes)?),
        (None, None) => None,
    };
    if let Some(changed) = changed {
        days.extend(changed.into_iter().map(|day| (day, Vec::new())));
    } else {
        let slices = lake.ledger_slices(&Direction::ALL).await?;
        let slices = slices.iter().filter(|slice| range.contains(&slice.day));
        days.extend(slices.map(|slice| (slice.day, Vec::new())));
    }
    let (Some(&first), Some(&last)) = (days.keys().next(), days.keys().last()) else {
        return Ok(days);
    };
    for (slice, commit) in commits(lake, first..=last).await? {
        if let (Some(_), Some(directions)) = (commit.file, days.get_mut(&slice.day)) {
            directions.push(slice.direction);
        }
    }
    for directions in days.values_mut() {
        directions.sort_unstable();
    }
    Ok(days)
}

/// What is in the lake, slice by slice. There must be no doubt about any.
async fn commits(
    lake: &Lake,
    days: RangeInclusive<Date>,
) -> Result<Vec<(Slice, Commit)>, CommandError> {
    let mut commits = Vec::new();
    for (slice, found) in lake.entries(&Direction::ALL, days).await? {
        let is_certain = found.condition == Condition::Sound && found.entry.pending.is_none();
        match found.entry.committed {
            _ if !is_certain => {
                let problem = format!(
                    "the ledger does not say for certain what the lake holds of {slice}: a run died over it, or its entry is damaged. `cdrlake run` mends it"
                );
                return Err(CommandError::new(Exit::Failed, problem));
            }
            Some(commit) => commits.push((slice, commit)),
            // Tried, and never had.
            None => {}
        }
    }
    Ok(commits)
}

async fn totals(lake: &Lake) -> Result<LedgerTotals, CommandError> {
    let mut sum = LedgerTotals::default();
    for (_, commit) in commits(lake, Date::MIN..=Date::MAX).await? {
        if commit.file.is_some() {
            sum.rows += commit.counts.rows;
            sum.totals.merge(&commit.totals);
        }
    }
    Ok(sum)
}

/// Days that a warehouse lacks which was loaded after `run`.
fn changed_since(run: &str, changes: Option<&Changes>) -> Result<BTreeSet<Date>, CommandError> {
    let last = changes.and_then(Changes::last);
    let last = last.ok_or_else(|| no_report("--changed-since"))?;
    let run = if run == LAST_RUN { &last.run } else { run };
    let changed = changes.and_then(|changes| changes.since(run));
    changed.ok_or_else(|| {
        let problem = format!(
            "--changed-since: this lake has no report of a run {run} that can be read, so nobody knows what has changed since (`cdrlake gc` removes reports after {} days). Load everything, without --changed-since",
            reports::KEPT_DAYS
        );
        CommandError::new(Exit::Usage, problem)
    })
}

/// Days that a run has changed.
async fn changed_by(
    run: &str,
    lake: &Lake,
    changes: Option<&Changes>,
) -> Result<BTreeSet<Date>, CommandError> {
    if run == LAST_RUN {
        let last = changes
            .and_then(Changes::last)
            .ok_or_else(|| no_report("--changed-by"))?;
        return Ok(last.partitions_changed.iter().copied().collect());
    }
    let runs = lake.runs().await?;
    let last = runs.last().ok_or_else(|| no_report("--changed-by"))?;
    let told = match runs.iter().find(|known| *known == run) {
        Some(run) => lake.run_report::<Told>(run).await?,
        None => None,
    };
    let told = told.ok_or_else(|| {
        let problem =
            format!("--changed-by: this lake has no report of a run {run}. The last one is {last}");
        CommandError::new(Exit::Usage, problem)
    })?;
    Ok(told.partitions_changed.into_iter().collect())
}

fn no_report(flag: &str) -> CommandError {
    let problem = format!(
        "{flag}: no run has kept a report in this lake yet. Load everything, without {flag}"
    );
    CommandError::new(Exit::Usage, problem)
}
