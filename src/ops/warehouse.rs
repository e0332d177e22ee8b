//! SQL for warehouses: the table's definition, its load, and a query that checks it.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use jiff::civil::Date;
use object_store::path::Path;

use super::open::{Place, period_unit};
use super::run::reports::{Changes, ReportedRun};
use super::{Error, UsageError};
use crate::cdr::period::Period;
use crate::cdr::slice::{Direction, Slice};
use crate::config::Config;
use crate::lake::ledger::Entry;
use crate::lake::{Condition, Lake, LakeError, TableFormat};
use crate::store::ObjectState;
use crate::store::layout::ICEBERG_LOG;
use crate::store::location::Location;
use crate::warehouse::{AfterRun, Content, LedgerTotals, Periods, Slices, Source, Table, Target};

/// First day of the table if no other is known: the API has no older calls.
const FIRST_DAY: Date = jiff::civil::date(2015, 1, 1);
/// Every day of the lake.
const EVERY_DAY: LoadScope = LoadScope::Days(Date::MIN..=Date::MAX);
/// Stands for the run that ended last.
const LAST_RUN: &str = "last";

/// A table of a warehouse, as it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct TableRequest {
    /// The warehouse.
    pub target: Target,
    /// The table, with schema or dataset if it has one.
    pub table: String,
    /// Where the warehouse finds the lake; `None` is `lake.url`.
    pub location: Option<String>,
    /// What it reads; `None` is the lake's table format that it reads best, otherwise the files.
    pub form: Option<Form>,
}

/// What a table reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Files.
    Files,
    /// The log of a table format.
    Log(TableFormat),
}

/// Which days are loaded.
#[derive(Clone, Debug)]
pub(crate) enum LoadScope {
    /// Those of the ledger within these.
    Days(RangeInclusive<Date>),
    /// Those that a run changed: its name, or `last`.
    ChangedBy(String),
    /// Those that runs changed which ended after this one, or `last`.
    ChangedSince(String),
}

impl TableRequest {
    /// Whether the warehouse can have such a table. Reads no lake.
    ///
    /// # Errors
    /// [`Error`] if not.
    pub(crate) fn validate(&self, config: &Config) -> Result<(), Error> {
        let source = match self.form {
            Some(Form::Log(format)) => Source::Log(format),
            _ => Source::AllFiles,
        };
        self.table(config, None, None, source).map(drop)
    }

    /// The definition of the table, for `lake` if there is one already, and what has to be done
    /// after a run.
    ///
    /// # Errors
    /// [`Error`] if the warehouse cannot have such a table, or the lake cannot be read.
    pub(crate) async fn definition(
        &self,
        config: &Config,
        lake: Option<&Lake>,
    ) -> Result<(String, AfterRun), Error> {
        let first_day = match lake {
            Some(lake) => {
                must_not_be_converting(lake)?;
                lake.first_day(&Direction::ALL).await?
            }
            None => None,
        };
        let first_day = first_day.into_iter().chain(config.window.start).min();
        let source = self.source(config, lake)?;
        let table = self.table(config, lake, first_day, source)?;
        let table = with_metadata(table, config, source).await?;
        let periods = match lake {
            Some(lake) if table.lists_files() => periods(lake, &EVERY_DAY, None).await?,
            _ => Periods::new(),
        };
        Ok((table.definition(&periods), table.after_run()))
    }

    /// Statements that load these days of the lake into the table.
    ///
    /// # Errors
    /// [`Error`] if the warehouse cannot have such a table, the lake cannot be read, or it has no
    /// report of such a run.
    pub(crate) async fn load(
        &self,
        config: &Config,
        lake: &Lake,
        which: &LoadScope,
    ) -> Result<String, Error> {
        must_not_be_converting(lake)?;
        let source = self.source(config, Some(lake))?;
        let table = self.table(config, Some(lake), None, source)?;
        let table = with_metadata(table, config, source).await?;
        // After a partial load, the table is not up to date as of any run.
        let (is_part, is_about_last) = match which {
            LoadScope::Days(days) => (*days != (Date::MIN..=Date::MAX), false),
            LoadScope::ChangedBy(run) => (true, *run == LAST_RUN),
            LoadScope::ChangedSince(_) => (false, false),
        };
        let changes = if is_part && !is_about_last {
            None
        } else {
            Some(Changes::read(lake).await?)
        };
        let as_of = match changes.as_ref().and_then(Changes::last) {
            Some(ReportedRun { run, .. }) if !is_part => {
                format!("-- As of run {run}; after this load: --changed-since {run}\n")
            }
            _ => String::new(),
        };
        let periods = if table.lists_files() {
            periods(lake, &EVERY_DAY, None).await?
        } else if matches!(source, Source::Log(_)) {
            Periods::new()
        } else {
            periods(lake, which, changes.as_ref()).await?
        };
        Ok(as_of + &table.load(&periods))
    }

    /// A query that compares the table with the ledger.
    ///
    /// # Errors
    /// [`Error`] if the warehouse cannot have such a table, or the lake's content is uncertain.
    pub(crate) async fn check(&self, config: &Config, lake: &Lake) -> Result<String, Error> {
        must_not_be_converting(lake)?;
        let table = self.table(config, Some(lake), None, self.source(config, Some(lake))?)?;
        Ok(table.check(&totals(lake).await?))
    }

    /// What the table reads of the lake, or of the one that the configuration will create.
    fn source(&self, config: &Config, lake: Option<&Lake>) -> Result<Source, Error> {
        let tables = match lake {
            Some(lake) => lake.identity.tables(),
            None => config.lake.tables.as_deref().unwrap_or_default(),
        };
        match self.form {
            Some(Form::Files) if tables.is_empty() => Ok(Source::AllFiles),
            Some(Form::Files) => Ok(Source::CurrentFiles),
            Some(Form::Log(format)) if tables.contains(&format) => Ok(Source::Log(format)),
            Some(Form::Log(format)) => Err(UsageError::NoTable { format }.into()),
            None => Ok(self.target.best_source(tables)?),
        }
    }

    fn table(
        &self,
        config: &Config,
        lake: Option<&Lake>,
        first_day: Option<Date>,
        source: Source,
    ) -> Result<Table, Error> {
        let place = match &self.location {
            Some(place) => place.clone(),
            None => address(config)?,
        };
        let account = ["account_name", "azure_storage_account_name"];
        let account = account
            .iter()
            .find_map(|name| config.lake.options.get(*name))
            .map(|(value, _)| value.clone())
            .or_else(|| std::env::var("AZURE_STORAGE_ACCOUNT_NAME").ok());
        let first_day = first_day.or(config.window.start).unwrap_or(FIRST_DAY);
        let account = account.as_deref();
        let unit = period_unit(config, lake);
        let first = Period::containing(first_day, unit);
        let (target, name) = (self.target, &self.table);
        let table = Table::try_new(target, name, &place, account, first, source)?;
        if let (Some(location), Source::Log(TableFormat::Iceberg)) = (&self.location, source) {
            let address = Place::of(config)?.store().uri();
            if without_scheme(location) != without_scheme(&address) {
                let location = location.clone();
                return Err(UsageError::OtherAddress { address, location }.into());
            }
        }
        Ok(table)
    }
}

/// The address without its scheme, which engines spell differently.
fn without_scheme(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.trim_end_matches('/')
}

/// The table with what only the store knows: the newest metadata file of Apache Iceberg.
async fn with_metadata(table: Table, config: &Config, source: Source) -> Result<Table, Error> {
    if source != Source::Log(TableFormat::Iceberg) {
        return Ok(table);
    }
    let directory = Path::from(ICEBERG_LOG).join("metadata");
    let objects = Place::of(config)?.store().list(&directory).await?;
    let newest = newest_metadata(&objects).ok_or(UsageError::NoMetadata)?;
    Ok(table.with_metadata(newest))
}

/// The path of the newest metadata file among the objects: `v12.metadata.json` is newer than
/// `v9.metadata.json`.
fn newest_metadata(objects: &[ObjectState]) -> Option<String> {
    let version = |path: &Path| {
        let name = path.filename()?.strip_prefix('v')?;
        name.strip_suffix(".metadata.json")?.parse::<u64>().ok()
    };
    let versions = objects
        .iter()
        .filter_map(|object| Some((version(&object.path)?, &object.path)));
    versions.max().map(|(_, path)| path.to_string())
}

/// Refuses a lake that is being converted: its days and months are partitions of two tables.
fn must_not_be_converting(lake: &Lake) -> Result<(), LakeError> {
    lake.identity
        .converting
        .map_or(Ok(()), |to| Err(LakeError::Converting { to }))
}

/// The lake's own address; an absolute path, for a warehouse runs elsewhere.
fn address(config: &Config) -> Result<String, Error> {
    match &config.lake.url {
        Location::Directory(root) => Ok(std::path::absolute(root)?.display().to_string()),
        Location::Bucket(url) => Ok(url.to_string()),
    }
}

/// The periods with requested days, each with what the lake has of it.
async fn periods(
    lake: &Lake,
    which: &LoadScope,
    changes: Option<&Changes>,
) -> Result<Periods, Error> {
    let slices = lake.ledger_slices(&Direction::ALL).await?;
    let directions: BTreeSet<Direction> = slices.iter().map(|slice| slice.direction).collect();
    let unit = lake.identity.period_unit();
    let changed = |days: BTreeSet<Date>| {
        let days = days.into_iter();
        days.map(|day| Period::containing(day, unit)).collect()
    };
    let requested: BTreeSet<Period> = match which {
        LoadScope::Days(range) => {
            let periods = slices.into_iter().map(|slice| slice.period);
            periods.filter(|period| period.touches(range)).collect()
        }
        LoadScope::ChangedBy(run) => changed(changed_by(run, lake, changes).await?),
        LoadScope::ChangedSince(run) => changed(changed_since(run, changes)?),
    };
    let absent = |direction| (direction, Content::NotFetched { failed: false });
    let absent: Slices = directions.into_iter().map(absent).collect();
    let with_absent = requested.into_iter().map(|period| (period, absent.clone()));
    let mut periods: Periods = with_absent.collect();
    let (Some(first), Some(last)) = (periods.keys().next(), periods.keys().last()) else {
        return Ok(periods);
    };
    for (slice, entry) in entries(lake, first.first_day()..=last.last_day()).await? {
        if let Some(slices) = periods.get_mut(&slice.period) {
            slices.insert(slice.direction, content(entry));
        }
    }
    Ok(periods)
}

fn content(entry: Entry) -> Content {
    match entry.committed {
        Some(commit) => match commit.file {
            Some(file) => Content::File(file.path),
            None => Content::NoRows,
        },
        None => Content::NotFetched {
            failed: entry.failed.is_some(),
        },
    }
}

/// The ledger's entries. There must be no doubt about any.
async fn entries(lake: &Lake, days: RangeInclusive<Date>) -> Result<Vec<(Slice, Entry)>, Error> {
    let mut entries = Vec::new();
    for (slice, found) in lake.entries(&Direction::ALL, days).await? {
        if found.condition != Condition::Sound || found.entry.pending.is_some() {
            return Err(Error::Uncertain { slice });
        }
        entries.push((slice, found.entry));
    }
    Ok(entries)
}

async fn totals(lake: &Lake) -> Result<LedgerTotals, Error> {
    let mut sum = LedgerTotals::default();
    for (_, entry) in entries(lake, Date::MIN..=Date::MAX).await? {
        if let Some(commit) = entry.committed.filter(|commit| commit.file.is_some()) {
            sum.rows += commit.counts.rows;
            sum.totals.merge(&commit.totals);
        }
    }
    Ok(sum)
}

/// Days that a warehouse lacks which was loaded after `run`.
fn changed_since(run: &str, changes: Option<&Changes>) -> Result<BTreeSet<Date>, Error> {
    let last = changes.and_then(Changes::last);
    let last = last.ok_or(UsageError::NoReports { since: true })?;
    let run = if run == LAST_RUN { &last.run } else { run };
    let changed = changes.and_then(|changes| changes.since(run));
    let unknown = || UsageError::UnknownRun {
        run: run.to_owned(),
        last: last.run.clone(),
        since: true,
    };
    Ok(changed.ok_or_else(unknown)?)
}

/// Days that a run has changed.
async fn changed_by(
    run: &str,
    lake: &Lake,
    changes: Option<&Changes>,
) -> Result<BTreeSet<Date>, Error> {
    let none = UsageError::NoReports { since: false };
    if run == LAST_RUN {
        let last = changes.and_then(Changes::last).ok_or(none)?;
        return Ok(last.partitions_changed.iter().copied().collect());
    }
    let runs = lake.runs().await?;
    let last = runs.last().ok_or(none)?;
    let told = match runs.iter().find(|known| *known == run) {
        Some(run) => lake.run_report::<ReportedRun>(run).await?,
        None => None,
    };
    let told = told.ok_or_else(|| UsageError::UnknownRun {
        run: run.to_owned(),
        last: last.clone(),
        since: false,
    })?;
    Ok(told.partitions_changed.into_iter().collect())
}
