//! Statements for warehouses: the definition of the table, statements that load or refresh it
//! period by period, and a query that compares it with the ledger.
//!
//! The files are the same for every warehouse. Warehouses differ in their types, in where they can
//! read, and in whether they copy rows, read the files directly, or read the log of a table format.
//! Those that copy replace a whole day or month in one transaction: some would skip a replaced file
//! because they remember its name, others would load it twice.

mod copying;
mod logs;
mod reading;

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::str::FromStr;

use crate::cdr::columns::{COLUMNS, Column, Kind};
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::slice::Direction;
use crate::cdr::tally::Totals;
use crate::error::nearest;
use crate::lake::TableFormat;
use crate::store::layout;

/// A warehouse, or an engine that reads the files itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Snowflake,
    BigQuery,
    Redshift,
    Athena,
    Databricks,
    Spark,
    Trino,
    ClickHouse,
    DuckDb,
    Postgres,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Snowflake,
        Self::BigQuery,
        Self::Redshift,
        Self::Athena,
        Self::Databricks,
        Self::Spark,
        Self::Trino,
        Self::ClickHouse,
        Self::DuckDb,
        Self::Postgres,
    ];

    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snowflake => "snowflake",
            Self::BigQuery => "bigquery",
            Self::Redshift => "redshift",
            Self::Athena => "athena",
            Self::Databricks => "databricks",
            Self::Spark => "spark",
            Self::Trino => "trino",
            Self::ClickHouse => "clickhouse",
            Self::DuckDb => "duckdb",
            Self::Postgres => "postgres",
        }
    }

    /// Whether it copies the rows of files. The others read the files directly.
    fn copies(self) -> bool {
        match self {
            Self::Snowflake
            | Self::BigQuery
            | Self::Redshift
            | Self::Databricks
            | Self::ClickHouse
            | Self::Postgres => true,
            Self::Athena | Self::Spark | Self::Trino | Self::DuckDb => false,
        }
    }

    /// The table formats that it reads by a statement. The first is the better one: Delta Lake,
    /// because some have to be told the newest metadata file of Apache Iceberg after each run.
    pub(crate) fn formats(self) -> &'static [TableFormat] {
        match self {
            Self::Snowflake
            | Self::BigQuery
            | Self::Spark
            | Self::Trino
            | Self::ClickHouse
            | Self::DuckDb => &[TableFormat::Delta, TableFormat::Iceberg],
            // They read Apache Iceberg only if a catalog, such as AWS Glue, has the table.
            Self::Athena | Self::Databricks => &[TableFormat::Delta],
            Self::Redshift | Self::Postgres => &[],
        }
    }

    /// What a lake with these table formats is to it, unless it is told otherwise: the better table
    /// format, or a copy of the rows.
    ///
    /// # Errors
    /// [`DdlError::Unreadable`] if it can read neither.
    pub(crate) fn best_source(self, tables: &[TableFormat]) -> Result<Source, DdlError> {
        let readable = self.formats().iter().find(|format| tables.contains(format));
        match (readable, tables) {
            (_, []) => Ok(Source::AllFiles),
            (Some(format), _) => Ok(Source::Log(*format)),
            (None, _) if self.copies() => Ok(Source::CurrentFiles),
            (None, [format, ..]) => Err(DdlError::Unreadable {
                target: self,
                format: *format,
            }),
        }
    }
}

/// What of the lake a table reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The files of a lake without table formats. Every file is current.
    AllFiles,
    /// The current files of a lake with table formats. Replaced files lie beside them.
    CurrentFiles,
    /// The log of a table format.
    Log(TableFormat),
}

/// What has to be done for a table after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterRun {
    /// The days that changed have to be loaded.
    Load,
    /// The table has to be told that there is something new.
    Refresh,
    /// Nothing.
    Nothing,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|target| target.as_str() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str);
            let nearest = nearest(text, names)
                .map_or_else(String::new, |name| format!(". Did you mean {name}?"));
            format!(
                "there is no target `{text}`. Use one of {}{nearest}",
                names.join(", ")
            )
        })
    }
}

/// The statements cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DdlError {
    /// The warehouse cannot read from there.
    #[error("{target} reads {reads}, but the lake is at {location}")]
    OutOfReach {
        /// The warehouse.
        target: Target,
        /// Where it can read.
        reads: &'static str,
        /// Where the lake lies.
        location: String,
        /// The log that it would read; `None` for files.
        log: Option<TableFormat>,
    },
    /// The address contains a special character.
    #[error(
        "the address {location} contains {character:?}, which has a special meaning in SQL or in \
         a file pattern"
    )]
    Address {
        /// Where the lake lies.
        location: String,
        /// The first such character.
        character: char,
    },
    /// The warehouse has no statement that reads the table format.
    #[error("{target} has no statement that reads a table of {format}")]
    Unreadable {
        /// The warehouse.
        target: Target,
        /// The table format.
        format: TableFormat,
    },
    /// The table name is invalid.
    #[error("the table name {name} would need quotes")]
    Name {
        /// The given name.
        name: String,
    },
}

/// The table of one warehouse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    target: Target,
    name: String,
    /// The address of the lake, as the warehouse spells it.
    lake: String,
    /// The first period that may have rows.
    first: Period,
    /// What it reads.
    source: Source,
    /// The newest metadata file of Apache Iceberg, as a path in the lake.
    metadata: String,
}

/// What the lake has of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A file, at this path in the lake.
    File(String),
    /// No rows: the period has no calls, or they were removed.
    NoRows,
    /// Nothing, because the slice was never committed.
    NotFetched {
        /// Whether the last attempt failed.
        failed: bool,
    },
}

/// The slices of a period, in the directions that the lake has.
pub(crate) type Slices = BTreeMap<Direction, Content>;

/// The periods to load.
pub(crate) type Periods = BTreeMap<Period, Slices>;

/// Totals of all rows, by the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LedgerTotals {
    /// Rows.
    pub rows: u64,
    /// Their sums.
    pub totals: Totals,
}

impl Table {
    /// The table `name` for `target`, which reads `source` of the lake at `lake`: an absolute path,
    /// or the address of a bucket. `first` is the first period that may have rows.
    ///
    /// # Errors
    /// [`DdlError`] if the warehouse cannot read from there, or no such log, or the name or the
    /// address would need quotes.
    pub(crate) fn try_new(
        target: Target,
        name: &str,
        lake: &str,
        azure_account: Option<&str>,
        first: Period,
        source: Source,
    ) -> Result<Self, DdlError> {
        if let Source::Log(format) = source
            && !target.formats().contains(&format)
        {
            return Err(DdlError::Unreadable { target, format });
        }
        let lake = lake.trim_end_matches('/');
        if !is_plain_name(name, target) {
            let name = name.to_owned();
            return Err(DdlError::Name { name });
        }
        let location = lake.to_owned();
        let special = |c: &char| c.is_control() || "'\"`\\*?[]{}$%;".contains(*c);
        if let Some(character) = lake.chars().find(special) {
            return Err(DdlError::Address {
                location,
                character,
            });
        }
        let reads = target.reads();
        let lake = target
            .address(lake, azure_account)
            .ok_or(DdlError::OutOfReach {
                target,
                reads,
                location,
                log: match source {
                    Source::Log(format) => Some(format),
                    Source::AllFiles | Source::CurrentFiles => None,
                },
            })?;
        Ok(Self {
            target,
            name: target.full_name(name, source),
            lake,
            first,
            source,
            metadata: String::new(),
        })
    }

    /// The same table, with the newest metadata file of Apache Iceberg, as a path in the lake.
    pub(crate) fn with_metadata(self, metadata: String) -> Self {
        Self { metadata, ..self }
    }

    /// Whether the definition, and so the load, names every file of the lake.
    pub(crate) fn lists_files(&self) -> bool {
        self.target == Target::DuckDb && self.source == Source::CurrentFiles
    }

    /// What has to be done after a run.
    pub(crate) fn after_run(&self) -> AfterRun {
        match (self.source, self.target) {
            (Source::Log(TableFormat::Delta), Target::Snowflake)
            | (
                Source::Log(TableFormat::Iceberg),
                Target::Snowflake | Target::BigQuery | Target::Trino,
            )
            | (Source::AllFiles | Source::CurrentFiles, Target::Spark | Target::Trino)
            | (Source::CurrentFiles, Target::DuckDb) => AfterRun::Refresh,
            (Source::AllFiles | Source::CurrentFiles, target) if target.copies() => AfterRun::Load,
            _ => AfterRun::Nothing,
        }
    }

    /// The definition, with comments on common mistakes above it. `periods` are all periods of the
    /// lake, if it [lists files](Self::lists_files).
    pub(crate) fn definition(&self, periods: &Periods) -> String {
        match self.source {
            Source::Log(format) => logs::definition(self, format),
            _ if self.target.copies() => copying::definition(self),
            _ => reading::definition(self, periods),
        }
    }

    /// Statements that load `periods` as they are in the lake now: all of them, if it [lists
    /// files](Self::lists_files). They can be repeated.
    pub(crate) fn load(&self, periods: &Periods) -> String {
        match self.source {
            Source::Log(format) => logs::refresh(self, format),
            _ if self.target.copies() => copying::load(self, periods),
            _ => reading::load(self, periods),
        }
    }

    /// A query of one row: the totals of the warehouse, and whether they match the ledger.
    pub(crate) fn check(&self, expected: &LedgerTotals) -> String {
        let LedgerTotals { rows, totals } = expected;
        let usd = |sum| match self.target {
            Target::BigQuery => format!("NUMERIC '{sum}'"),
            Target::ClickHouse => format!("toDecimal128('{sum}', 9)"),
            _ => format!("CAST('{sum}' AS DECIMAL(38, 9))"),
        };
        format!(
            "-- One row: the totals of the table, and whether they match the ledger. The ledger \
             has {rows} calls,\n\
             -- {seconds} seconds, {charge} USD and {fee} USD of fees.\n\
             SELECT calls, duration_seconds, charge_usd, forward_fee_usd,\n    \
             CASE WHEN calls = {rows} AND duration_seconds = {seconds}\n          \
             AND charge_usd = {exact_charge}\n          \
             AND forward_fee_usd = {exact_fee}\n         \
             THEN 'as the ledger says' ELSE 'NOT as the ledger says' END AS verdict\n\
             FROM (\n    \
             SELECT count(*) AS calls,\n        \
             coalesce(sum(c.duration_seconds), 0) AS duration_seconds,\n        \
             coalesce(sum(c.charge_usd), 0) AS charge_usd,\n        \
             coalesce(sum(c.forward_fee_usd), 0) AS forward_fee_usd\n    \
             FROM {name} AS c\n\
             ) AS found;\n",
            seconds = totals.duration_seconds,
            charge = totals.charge_usd,
            fee = totals.forward_fee_usd,
            exact_charge = usd(totals.charge_usd),
            exact_fee = usd(totals.forward_fee_usd),
            name = self.quoted_name(),
        )
    }

    /// How long its periods are.
    fn unit(&self) -> PeriodUnit {
        self.first.unit()
    }

    /// The comment of the partition column.
    fn dt_comment(&self) -> &'static str {
        self.first.unit().partition_comment()
    }

    /// The name in statements. Google project names may contain hyphens and need quotes.
    fn quoted_name(&self) -> String {
        match self.target {
            Target::BigQuery => format!("`{}`", self.name),
            _ => self.name.clone(),
        }
    }

    /// Catalog, schema and plain name, of a name that has all three.
    fn name_parts(&self) -> (&str, &str, &str) {
        let mut parts = self.name.splitn(3, '.');
        let mut part = || parts.next().unwrap_or_default();
        (part(), part(), part())
    }

    /// The name of an object that belongs to the table.
    fn sibling(&self, suffix: &str) -> String {
        format!("{}_{suffix}", self.name)
    }

    /// The directory of the table.
    fn directory(&self) -> String {
        format!("{}/{}", self.lake, layout::TABLE)
    }

    /// The address of a file of the lake.
    fn address(&self, path: &str) -> String {
        format!("{}/{path}", self.lake)
    }

    /// The columns of the files, one per line, each with its type and `more` of its comment.
    fn columns(&self, more: impl Fn(&str) -> String) -> String {
        let mut text = String::new();
        for (i, column) in COLUMNS.iter().enumerate() {
            let comma = if i == 0 { "" } else { ",\n" };
            let data_type = self.target.data_type(column);
            let comment = more(column.comment);
            write!(text, "{comma}    {:<16} {data_type}{comment}", column.name)
                .expect("writing to memory does not fail");
        }
        text
    }

    /// Statements for the comments of the columns.
    fn comments(&self) -> String {
        let comment = |(name, text): (&str, &str)| {
            format!("COMMENT ON COLUMN {}.{name} IS '{text}';\n", self.name)
        };
        let columns = COLUMNS.iter().map(|column| (column.name, column.comment));
        columns.map(comment).collect()
    }
}

/// The names of all columns.
fn column_names() -> String {
    let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
    names.join(", ")
}

/// The paths of the files of a period.
fn files(slices: &Slices) -> impl Iterator<Item = &str> {
    slices.values().filter_map(|content| match content {
        Content::File(path) => Some(&**path),
        _ => None,
    })
}

/// The condition for the rows of a period.
fn is_of(period: Period) -> String {
    match period.unit() {
        PeriodUnit::Day => format!("source_day = DATE '{period}'"),
        PeriodUnit::Month => format!(
            "source_day BETWEEN DATE '{}' AND DATE '{}'",
            period.first_day(),
            period.last_day()
        ),
    }
}

/// Lines as SQL comments.
fn remarks(lines: &[&str]) -> String {
    format!("-- {}\n", lines.join("\n-- "))
}

fn is_plain_name(name: &str, target: Target) -> bool {
    let is_part = |(i, part): (usize, &str)| {
        let may_hold = |c: char| {
            c.is_ascii_alphanumeric()
                || c == '_'
                || (c == '-' && target == Target::BigQuery && i == 0)
        };
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(may_hold)
    };
    name.split('.').enumerate().all(is_part)
}

impl Target {
    /// The name of a table with default catalog and schema where they are missing.
    fn full_name(self, name: &str, source: Source) -> String {
        // The catalog of each connector has its name in Trino's documentation.
        let catalog = match source {
            Source::Log(TableFormat::Delta) => "delta",
            Source::Log(TableFormat::Iceberg) => "iceberg",
            Source::AllFiles | Source::CurrentFiles => "hive",
        };
        match (self, name.matches('.').count()) {
            (Self::Trino, 0) => format!("{catalog}.default.{name}"),
            (Self::Trino, 1) => format!("{catalog}.{name}"),
            _ => name.to_owned(),
        }
    }

    /// Its type for a column, with NOT NULL where supported.
    fn data_type(self, column: &Column) -> String {
        let Column { kind, nullable, .. } = *column;
        // Columns with few distinct values.
        let is_code = matches!(kind, Kind::Name | Kind::Direction);
        let is_text = is_code || matches!(kind, Kind::Id | Kind::PhoneNumber | Kind::Json);
        let plain = match (self, kind) {
            (Self::BigQuery | Self::Databricks | Self::Spark | Self::Athena, _) if is_text => {
                "STRING"
            }
            // In bytes, not characters. A longer value fails the load, and queries reserve memory
            // for the whole length.
            (Self::Redshift, Kind::Json) => "VARCHAR(65535)",
            (Self::Redshift, _) if is_text => "VARCHAR(256)",
            (Self::Postgres, _) if is_text => "TEXT",
            (Self::ClickHouse, _) if is_text => "String",
            (_, Kind::Id | Kind::PhoneNumber | Kind::Name | Kind::Direction | Kind::Json) => {
                "VARCHAR"
            }
            // Date covers 65,535 days from 1970.
            (Self::ClickHouse, Kind::Day) => "Date32",
            (_, Kind::Day) => "DATE",
            (Self::Snowflake, Kind::Time) => "TIMESTAMP_LTZ(6)",
            (Self::DuckDb | Self::Postgres, Kind::Time) => "TIMESTAMPTZ",
            (Self::Trino, Kind::Time) => "TIMESTAMP(6)",
            (Self::ClickHouse, Kind::Time) => "DateTime64(6, 'UTC')",
            (_, Kind::Time) => "TIMESTAMP",
            (Self::BigQuery, Kind::Seconds) => "INT64",
            (Self::Athena | Self::Databricks | Self::Spark, Kind::Seconds) => "INT",
            (Self::ClickHouse, Kind::Seconds) => "Int32",
            (_, Kind::Seconds) => "INTEGER",
            (Self::BigQuery, Kind::Amount) => "NUMERIC(18, 9)",
            (Self::ClickHouse, Kind::Amount) => "Decimal(18, 9)",
            (_, Kind::Amount) => "DECIMAL(18, 9)",
        };
        match (self, nullable) {
            (Self::ClickHouse, true) if is_code => {
                format!("LowCardinality(Nullable({plain}))")
            }
            (Self::ClickHouse, false) if is_code => format!("LowCardinality({plain})"),
            (Self::ClickHouse, true) => format!("Nullable({plain})"),
            // Engines that read files directly ignore NOT NULL.
            (_, false) if self.copies() && self != Self::ClickHouse => format!("{plain} NOT NULL"),
            _ => plain.to_owned(),
        }
    }

    /// Where it can read, as text.
    fn reads(self) -> &'static str {
        match self {
            Self::BigQuery => "Google Cloud Storage (gs://)",
            Self::Redshift | Self::Athena => "Amazon S3 (s3://)",
            Self::Snowflake | Self::Databricks | Self::Trino => {
                "object stores (s3://, gs://, az:// with lake.options.account_name or \
                 AZURE_STORAGE_ACCOUNT_NAME set)"
            }
            Self::Spark | Self::DuckDb | Self::Postgres | Self::ClickHouse => {
                "disks and object stores (s3://, gs://, az:// with lake.options.account_name or \
                 AZURE_STORAGE_ACCOUNT_NAME set)"
            }
        }
    }

    /// The lake's address as the warehouse spells it; `None` where it cannot read. Other schemes,
    /// which come from `--location`, are taken unchanged.
    fn address(self, lake: &str, azure_account: Option<&str>) -> Option<String> {
        let Some((scheme, rest)) = lake.split_once("://") else {
            return match self {
                Self::Spark => Some(format!("file://{lake}")),
                Self::DuckDb | Self::Postgres | Self::ClickHouse => Some(lake.to_owned()),
                _ => None,
            };
        };
        let (container, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = if prefix.is_empty() {
            String::new()
        } else {
            format!("/{prefix}")
        };
        match (self, scheme) {
            (Self::Redshift | Self::Athena, "s3") | (Self::BigQuery, "gs") => Some(lake.to_owned()),
            (Self::Redshift | Self::Athena | Self::BigQuery, _) => None,
            (Self::Snowflake, "gs") => Some(format!("gcs://{rest}")),
            (Self::Spark, "s3") => Some(format!("s3a://{rest}")),
            (Self::Snowflake, "az") => {
                let account = azure_account?;
                Some(format!("azure://{account}.blob.core.windows.net/{rest}"))
            }
            (Self::Databricks | Self::Spark | Self::Trino, "az") => {
                let account = azure_account?;
                Some(format!(
                    "abfss://{container}@{account}.dfs.core.windows.net{prefix}"
                ))
            }
            (Self::ClickHouse | Self::DuckDb | Self::Postgres, "az") => {
                let account = azure_account?;
                let scheme = if self == Self::Postgres {
                    "https"
                } else {
                    "az"
                };
                Some(format!("{scheme}://{account}.blob.core.windows.net/{rest}"))
            }
            _ => Some(lake.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
