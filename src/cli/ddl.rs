//! `cdrlake ddl`: SQL for warehouses.

use clap::{Args, ValueEnum};
use jiff::civil::Date;

use super::{CommandError, Exit, LakeArgs, print};
use crate::cdr::slice::parse_day;
use crate::lake::TableFormat;
use crate::ops::open::{existing_lake, find_any_lake};
use crate::ops::warehouse::{Form, LoadScope, TableRequest};
use crate::ops::{self, UsageError};
use crate::warehouse::{AfterRun, Target};

/// What the table reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum As {
    /// The files: a copy of their rows, or the files themselves.
    Files,
    /// The log of Delta Lake.
    Delta,
    /// The log of Apache Iceberg.
    Iceberg,
}

/// Print the definition of the table for a warehouse, the statements that load it, or a query that
/// checks it.
#[derive(Clone, Debug, Args)]
pub(super) struct DdlArgs {
    /// The warehouse: snowflake, bigquery, redshift, athena, databricks, spark, trino, clickhouse,
    /// duckdb or postgres.
    #[arg(long, value_name = "TARGET", value_parser = str::parse::<Target>)]
    target: Target,
    /// The table, with schema or dataset if it has one.
    #[arg(long, value_name = "NAME", default_value = "cdrs")]
    table: String,
    /// The lake's address for the warehouse, if it is not `lake.url`: of a copy, or in another
    /// form.
    #[arg(long, value_name = "PLACE")]
    location: Option<String>,
    /// What the table reads. By default the lake's table format that the warehouse reads best, or
    /// the files if there is none.
    #[arg(long = "as", value_enum, value_name = "FORM")]
    form: Option<As>,
    /// Print statements that load the lake into the table, day by day. They can be run again.
    #[arg(long, help_heading = "What to print")]
    load: bool,
    /// Load only the days that this run changed: its name, or `last`. Days that other runs, `prune`
    /// or `erase` changed are not loaded: use --changed-since.
    #[arg(
        long,
        value_name = "RUN",
        requires = "load",
        conflicts_with_all = ["from", "to", "check"],
        help_heading = "What to print"
    )]
    changed_by: Option<String>,
    /// Load only the days changed since this run, also by `prune` and `erase`: its name, as in the
    /// first line of an earlier load, or `last`.
    #[arg(
        long,
        value_name = "RUN",
        requires = "load",
        conflicts_with_all = ["from", "to", "check", "changed_by"],
        help_heading = "What to print"
    )]
    changed_since: Option<String>,
    /// First day to load, YYYY-MM-DD.
    #[arg(
        long,
        value_name = "DAY",
        value_parser = parse_day,
        requires = "load",
        conflicts_with = "check",
        help_heading = "What to print"
    )]
    from: Option<Date>,
    /// Last day to load, inclusive.
    #[arg(
        long,
        value_name = "DAY",
        value_parser = parse_day,
        requires = "load",
        conflicts_with = "check",
        help_heading = "What to print"
    )]
    to: Option<Date>,
    /// Print a query that compares the table with the ledger.
    #[arg(long, conflicts_with = "load", help_heading = "What to print")]
    check: bool,
    #[command(flatten)]
    config: LakeArgs,
}

pub(super) async fn execute(args: &DdlArgs) -> Result<Exit, CommandError> {
    let config = args.config.load()?;
    let table = TableRequest {
        target: args.target,
        table: args.table.clone(),
        location: args.location.clone(),
        form: args.form.map(Form::from),
    };
    table.validate(&config)?;
    let text = if args.load {
        let which = args.which()?;
        let lake = existing_lake(&config, false).await?;
        table.load(&config, &lake, &which).await?
    } else if args.check {
        let lake = existing_lake(&config, false).await?;
        table.check(&config, &lake).await?
    } else {
        let lake = find_any_lake(&config).await?;
        let (definition, after_run) = table.definition(&config, lake.as_ref()).await?;
        definition + &args.hints(after_run)
    };
    print(text.as_bytes())
}

impl DdlArgs {
    /// The days to be loaded.
    fn which(&self) -> Result<LoadScope, CommandError> {
        if let Some(run) = &self.changed_by {
            return Ok(LoadScope::ChangedBy(run.clone()));
        }
        if let Some(run) = &self.changed_since {
            return Ok(LoadScope::ChangedSince(run.clone()));
        }
        let days = self.from.unwrap_or(Date::MIN)..=self.to.unwrap_or(Date::MAX);
        if days.is_empty() {
            let (from, to) = days.into_inner();
            return Err(ops::Error::from(UsageError::ReversedDays { from, to }).into());
        }
        Ok(LoadScope::Days(days))
    }

    /// What else there is to be printed.
    fn hints(&self, after_run: AfterRun) -> String {
        let load = match after_run {
            AfterRun::Load => {
                "--load: load every day; it can be run again.\n\
                 --   --load --changed-since RUN: load the days changed since RUN, also by erase \
                 and prune\n\
                 --     (the first line of each load names RUN).\n--   "
            }
            AfterRun::Refresh => "--load: refresh it after a run.\n--   ",
            AfterRun::Nothing => "",
        };
        format!(
            "-- Also: cdrlake ddl --target {}{} with\n\
             --   {load}--check: a query that compares the table with the ledger.\n",
            self.target,
            self.flags(),
        )
    }

    /// What another call needs to mean the same table.
    fn flags(&self) -> String {
        let table = match self.table.as_str() {
            "cdrs" => String::new(),
            table => format!(" --table {table}"),
        };
        let place = self.location.as_ref();
        let place = place.map_or_else(String::new, |place| format!(" --location {place}"));
        let form = self.form.and_then(|form| form.to_possible_value());
        let form = form.map_or_else(String::new, |form| format!(" --as {}", form.get_name()));
        format!("{table}{place}{form}{}", self.config.as_flags())
    }
}

impl From<As> for Form {
    fn from(form: As) -> Self {
        match form {
            As::Files => Self::Files,
            As::Delta => Self::Log(TableFormat::Delta),
            As::Iceberg => Self::Log(TableFormat::Iceberg),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_recommends_a_load_that_includes_the_days_changed_by_erase_and_prune() {
        for after_run in [AfterRun::Load, AfterRun::Refresh, AfterRun::Nothing] {
            let args = DdlArgs {
                target: Target::Redshift,
                table: "cdrs".to_owned(),
                location: None,
                form: Some(As::Files),
                load: false,
                changed_by: None,
                changed_since: None,
                from: None,
                to: None,
                check: false,
                config: LakeArgs::default(),
            };
            let hints = args.hints(after_run);
            assert!(!hints.contains("--changed-by"), "{hints}");
            let since = "--load --changed-since RUN: load the days changed since RUN, also by \
                         erase and prune";
            assert_eq!(
                hints.contains(since),
                after_run == AfterRun::Load,
                "{hints}"
            );
            assert!(
                hints.contains("--target redshift --as files with"),
                "{hints}"
            );
            assert!(hints.lines().all(|line| line.starts_with("--")), "{hints}");
        }
    }
}
