//! Warehouses that copy the rows.

use std::fmt::Write;

use super::{Content, Periods, Slices, Source, Table, Target, column_names, files, is_of, remarks};
use crate::cdr::period::{Period, PeriodUnit};
use crate::store::layout;

pub(super) fn definition(table: &Table) -> String {
    let definition = match table.target {
        Target::Snowflake => snowflake(table),
        Target::BigQuery => bigquery(table),
        Target::Redshift => redshift(table),
        Target::Databricks => databricks(table),
        Target::ClickHouse => clickhouse(table),
        _ => postgres(table),
    };
    in_place(table) + &definition
}

/// A comment that this is a copy, although the lake has table formats.
fn in_place(table: &Table) -> String {
    if table.source != Source::CurrentFiles {
        return String::new();
    }
    let names: Vec<String> = table
        .target
        .formats()
        .iter()
        .map(ToString::to_string)
        .collect();
    let names = if names.is_empty() {
        "no table format without a catalog".to_owned()
    } else {
        names.join(" and ")
    };
    format!(
        "-- This is a copy of the rows. In place, {} reads {names}.\n",
        table.target
    )
}

fn snowflake(table: &Table) -> String {
    let name = &table.name;
    let (format, stage) = (table.sibling("parquet"), table.sibling("lake"));
    let settings = remarks(&[
        "Snowflake: the file format needs USE_LOGICAL_TYPE = TRUE; otherwise times and days arrive",
        "as numbers and text. The load needs MATCH_BY_COLUMN_NAME; otherwise COPY expects one",
        "column of type VARIANT. It also needs FORCE = TRUE: COPY remembers loaded files for 64",
        "days and skips them, even after their rows were deleted. call_time is displayed in the",
        "session's time zone: ALTER SESSION SET TIMEZONE = 'UTC'. One thread loads one file, so a",
        "larger warehouse does not load large days faster. Replace LAKE_INTEGRATION by the name of",
        "your storage integration.",
    ]);
    let more = |comment: &str| format!(" COMMENT '{comment}'");
    format!(
        "{settings}CREATE TABLE IF NOT EXISTS {name} (\n{columns}\n)\n\
                 CLUSTER BY (source_day);\n\
                 CREATE FILE FORMAT IF NOT EXISTS {format}\n    \
                 TYPE = PARQUET USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE \
                 USE_VECTORIZED_SCANNER = TRUE;\n\
                 CREATE STAGE IF NOT EXISTS {stage}\n    \
                 URL = '{directory}/' STORAGE_INTEGRATION = LAKE_INTEGRATION FILE_FORMAT = \
                 (FORMAT_NAME = '{format}');\n",
        columns = table.columns(more),
        directory = table.directory(),
    )
}

fn bigquery(table: &Table) -> String {
    let quoted = table.quoted_name();
    let replaces: &[&str] = match table.unit() {
        PeriodUnit::Day => &[
            "BigQuery: give the dataset with --table dataset.cdrs. One job replaces a day as a",
            "partition, or changes nothing. All files have the same columns in the same order, as",
            "BigQuery requires for a load of several files. The column types are those of the",
            "table, not inferred. The bucket must be in the location of the dataset. Filter on",
            "source_day: this keeps the bytes that are read and billed small.",
        ],
        PeriodUnit::Month => &[
            "BigQuery: give the dataset with --table dataset.cdrs. The load copies a month into a",
            "temporary table, and one transaction replaces the month. Run all statements of a load",
            "as one script. The bucket must be in the location of the dataset. Filter on",
            "source_day: this keeps the bytes that are read and billed small.",
        ],
    };
    let settings = remarks(replaces);
    let partition = match table.unit() {
        PeriodUnit::Day => "source_day",
        PeriodUnit::Month => "DATE_TRUNC(source_day, MONTH)",
    };
    let more = |comment: &str| format!(" OPTIONS (description = '{comment}')");
    format!(
        "{settings}CREATE TABLE IF NOT EXISTS {quoted} (\n{columns}\n)\n\
                 PARTITION BY {partition}\n\
                 CLUSTER BY direction, disposition;\n",
        columns = table.columns(more),
    )
}

fn redshift(table: &Table) -> String {
    let name = &table.name;
    let settings = remarks(&[
        "Redshift: COPY from Parquet matches columns by position, so this table has exactly the",
        "columns of the files, in their order. Do not add columns, not even with a default; use a",
        "view instead. The bucket must be in the cluster's region. COPY supports neither MAXERROR",
        "nor a column list here. call_time is in UTC, because TIMESTAMP has no time zone. VARCHAR",
        "lengths are in bytes. Replace `default` by a role if the cluster has no default role. If",
        "your version does not read zstd, set parquet.compression = snappy and run cdrlake run",
        "--refresh.",
    ]);
    format!(
        "{settings}CREATE TABLE IF NOT EXISTS {name} (\n{columns}\n)\n\
                 DISTSTYLE AUTO\n\
                 SORTKEY (source_day, call_time);\n\
                 {comments}",
        columns = table.columns(|_| String::new()),
        comments = table.comments(),
    )
}

fn databricks(table: &Table) -> String {
    let name = &table.name;
    let settings = remarks(&[
        "Databricks: a Delta table. One commit replaces a day or a month. COPY INTO is not used,",
        "because it skips a file name that it has loaded before, even if the file was replaced.",
        "The location needs an external location with READ FILES. Set the session's time zone to",
        "UTC: times are displayed in it.",
    ]);
    let more = |comment: &str| format!(" COMMENT '{comment}'");
    format!(
        "{settings}CREATE TABLE IF NOT EXISTS {name} (\n{columns}\n)\n\
                 USING DELTA\n\
                 CLUSTER BY (source_day);\n",
        columns = table.columns(more),
    )
}

fn clickhouse(table: &Table) -> String {
    let name = &table.name;
    let partition = match table.unit() {
        PeriodUnit::Day => "source_day",
        PeriodUnit::Month => "toYYYYMM(source_day)",
    };
    let settings = remarks(&[
        "ClickHouse: a day or a month is loaded into a second table and then replaces its",
        "partition atomically. Days are Date32 and times DateTime64, because Date and DateTime",
        "begin in 1970. input_format_null_as_default must be 0; otherwise a missing charge becomes",
        "0. A server reads files only below its user_files_path, as its own user (see",
        "lake.file_mode). Run one load at a time, because loads share the second table. To query",
        "the files directly, SET use_hive_partitioning = 1; their day is toDate32(dt).",
    ]);
    let more = |comment: &str| format!(" COMMENT '{comment}'");
    format!(
        "{settings}CREATE TABLE IF NOT EXISTS {name} (\n{columns}\n)\n\
                 ENGINE = MergeTree\n\
                 PARTITION BY {partition}\n\
                 ORDER BY (direction, call_time);\n\
                 CREATE TABLE IF NOT EXISTS {sibling} AS {name};\n",
        columns = table.columns(more),
        sibling = table.sibling("load"),
    )
}

fn postgres(table: &Table) -> String {
    let name = &table.name;
    let settings = remarks(&[
        "PostgreSQL reads Parquet with the extension pg_parquet: CREATE EXTENSION pg_parquet, and",
        "add it to shared_preload_libraries. match_by 'name' is required; otherwise columns are",
        "matched by position. A role needs parquet_object_store_read for buckets, and",
        "pg_read_server_files for paths. Paths are those of the server, whose user reads the files",
        "(see lake.file_mode).",
    ]);
    let index = table.name.replace('.', "_");
    format!(
        "{settings}CREATE TABLE IF NOT EXISTS {name} (\n{columns}\n);\n\
                 CREATE INDEX IF NOT EXISTS {index}_source_day ON {name} (source_day, direction);\n\
                 {comments}",
        columns = table.columns(|_| String::new()),
        comments = table.comments(),
    )
}

pub(super) fn load(table: &Table, periods: &Periods) -> String {
    if periods.is_empty() {
        return format!("-- There is no {} to load.\n", table.unit());
    }
    let loads = periods.iter();
    loads
        .map(|(&period, slices)| not_fetched(period, slices) + &load_period(table, period, slices))
        .collect()
}

/// A comment for each slice that the lake does not have. The warehouse keeps what it has of it.
fn not_fetched(period: Period, slices: &Slices) -> String {
    let mut text = String::new();
    for (direction, content) in slices {
        if let Content::NotFetched { failed } = content {
            let state = if *failed { "failed" } else { "missing" };
            writeln!(
                text,
                "-- {period}: {direction} is not in the lake ({state}): see cdrlake status."
            )
            .expect("writing to memory does not fail");
        }
    }
    text
}

fn load_period(table: &Table, period: Period, slices: &Slices) -> String {
    let is_absent = |content: &Content| matches!(content, Content::NotFetched { .. });
    if slices.values().all(is_absent) {
        return String::new();
    }
    match table.target {
        Target::BigQuery => replace_partition(table, period, slices),
        Target::Databricks => replace_where(table, period, slices),
        Target::ClickHouse => swap_partition(table, period, slices),
        // In Snowflake a failed statement does not abort the transaction, so a client that
        // continues would commit a part of it.
        Target::Snowflake => {
            let statements = delete_and_copy(table, period, slices);
            let statements = statements.replacen("BEGIN;", "BEGIN TRANSACTION;", 1);
            format!(
                "EXECUTE IMMEDIATE $$\nBEGIN\n{statements}EXCEPTION\n    WHEN OTHER THEN\n        \
                 ROLLBACK;\n        RAISE;\nEND;\n$$;\n"
            )
        }
        _ => delete_and_copy(table, period, slices),
    }
}

/// In one transaction, slice by slice.
fn delete_and_copy(table: &Table, period: Period, slices: &Slices) -> String {
    let name = &table.name;
    let mut text = "BEGIN;\n".to_owned();
    for (direction, content) in slices {
        if matches!(content, Content::NotFetched { .. }) {
            continue;
        }
        writeln!(
            text,
            "DELETE FROM {name} WHERE {} AND direction = '{direction}';",
            is_of(period)
        )
        .expect("writing to memory does not fail");
        if let Content::File(path) = content {
            text += &copy(table, path);
        }
    }
    text + "COMMIT;\n"
}

fn copy(table: &Table, path: &str) -> String {
    let name = &table.name;
    match table.target {
        Target::Snowflake => {
            // Relative to the stage, which is the directory of the table.
            let file = path.strip_prefix(layout::TABLE).unwrap_or(path);
            format!(
                "COPY INTO {name} FROM @{stage} FILES = ('{file}')\n    \
                 MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE FORCE = TRUE ON_ERROR = \
                 ABORT_STATEMENT;\n",
                stage = table.sibling("lake"),
                file = file.trim_start_matches('/'),
            )
        }
        Target::Redshift => format!(
            "COPY {name} FROM '{}'\n    IAM_ROLE default FORMAT AS PARQUET;\n",
            table.address(path)
        ),
        _ => format!(
            "COPY {name} FROM '{}'\n    WITH (FORMAT 'parquet', MATCH_BY 'name');\n",
            table.address(path)
        ),
    }
}

fn replace_partition(table: &Table, period: Period, slices: &Slices) -> String {
    let name = table.quoted_name();
    let uri = |path: &str| format!("'{}'", table.address(path));
    let uris: Vec<String> = files(slices).map(uri).collect();
    if uris.is_empty() {
        return format!("DELETE FROM {name} WHERE {};\n", is_of(period));
    }
    let files = format!(
        "FROM FILES (format = 'PARQUET', uris = [{}]);\n",
        uris.join(",\n        ")
    );
    match period.unit() {
        PeriodUnit::Day => format!(
            "LOAD DATA INTO {name} OVERWRITE PARTITIONS (source_day = DATE '{period}')\n    {files}"
        ),
        // No partition of months can be named in a load.
        PeriodUnit::Month => {
            let columns = column_names();
            format!(
                "LOAD DATA OVERWRITE TEMP TABLE cdrlake_month\n    {files}\
                 BEGIN TRANSACTION;\n\
                 DELETE FROM {name} WHERE {};\n\
                 INSERT INTO {name} ({columns})\n    SELECT {columns} FROM cdrlake_month;\n\
                 COMMIT TRANSACTION;\n",
                is_of(period)
            )
        }
    }
}

fn replace_where(table: &Table, period: Period, slices: &Slices) -> String {
    let name = &table.name;
    let source = |path: &str| format!("parquet.`{}`", table.address(path));
    let Some(rows) = rows_of(slices, source) else {
        return format!("DELETE FROM {name} WHERE {};\n", is_of(period));
    };
    format!(
        "INSERT INTO {name} REPLACE WHERE {}\n{rows};\n",
        is_of(period)
    )
}

fn swap_partition(table: &Table, period: Period, slices: &Slices) -> String {
    let name = &table.name;
    let partition = match period.unit() {
        PeriodUnit::Day => format!("'{period}'"),
        // As toYYYYMM has it.
        PeriodUnit::Month => period.first_day().strftime("%Y%m").to_string(),
    };
    let Some(rows) = rows_of(slices, |path| clickhouse_file(&table.address(path))) else {
        return format!("ALTER TABLE {name} DROP PARTITION {partition};\n");
    };
    let sibling = table.sibling("load");
    // Settings at the end of a UNION would be those of its last query only.
    format!(
        "TRUNCATE TABLE {sibling};\n\
         INSERT INTO {sibling}\n    SELECT * FROM (\n{rows}\n    )\n    \
         SETTINGS input_format_null_as_default = 0, use_hive_partitioning = 0;\n\
         ALTER TABLE {name} REPLACE PARTITION {partition} FROM {sibling};\n\
         TRUNCATE TABLE {sibling};\n"
    )
}

/// A query of all rows of the files, each read by `source`; `None` without files. Names each file,
/// because replaced files may lie beside it, and because a pattern skips a file that is missing.
fn rows_of(slices: &Slices, source: impl Fn(&str) -> String) -> Option<String> {
    let columns = column_names();
    let select = |path| format!("    SELECT {columns}\n    FROM {}", source(path));
    let selects: Vec<String> = files(slices).map(select).collect();
    (!selects.is_empty()).then(|| selects.join("\n    UNION ALL\n"))
}

/// The function that reads a file.
fn clickhouse_file(file: &str) -> String {
    match file.split_once("://") {
        None => format!("file('{file}', Parquet)"),
        Some(("gs", rest)) => format!("gcs('https://storage.googleapis.com/{rest}', 'Parquet')"),
        Some(("az", rest)) => format!(
            "azureBlobStorage({}, format = 'Parquet')",
            azure_arguments(rest)
        ),
        Some(_) => format!("s3('{file}', 'Parquet')"),
    }
}

/// What `ClickHouse` has to be told of a place in Azure. The named collection has the credentials.
pub(super) fn azure_arguments(place: &str) -> String {
    let mut parts = place.splitn(3, '/');
    let mut part = || parts.next().unwrap_or_default();
    let (account, container, path) = (part(), part(), part());
    format!(
        "lake_azure, storage_account_url = 'https://{account}', container = '{container}', \
         blob_path = '{path}'"
    )
}
