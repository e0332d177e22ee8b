//! Warehouses that copy the rows.

use std::fmt::Write;

use jiff::civil::Date;

use super::{Content, Days, Slices, Source, Table, Target, column_names, files, remarks};
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
    let settings = remarks(&[
        "BigQuery: give the dataset with --table dataset.cdrs. One job replaces a day as a",
        "partition, or changes nothing. All files have the same columns in the same order, as",
        "BigQuery requires for a load of several files. The column types are those of the table,",
        "not inferred. The bucket must be in the location of the dataset. Filter on source_day:",
        "this keeps the bytes that are read and billed small.",
    ]);
    let more = |comment: &str| format!(" OPTIONS (description = '{comment}')");
    format!(
        "{settings}CREATE TABLE IF NOT EXISTS {quoted} (\n{columns}\n)\n\
                 PARTITION BY source_day\n\
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
        "Databricks: a Delta table. One commit replaces a day. COPY INTO is not used, because it",
        "skips a file name that it has loaded before, even if the file was replaced. The location",
        "needs an external location with READ FILES. Set the session's time zone to UTC: times are",
        "displayed in it.",
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
    let settings = remarks(&[
        "ClickHouse: a day is loaded into a second table and then replaces its partition",
        "atomically. Days are Date32 and times DateTime64, because Date and DateTime begin in",
        "1970. input_format_null_as_default must be 0; otherwise a missing charge becomes 0. A",
        "server reads files only below its user_files_path, as its own user (see lake.file_mode).",
        "Run one load at a time, because loads share the second table. To query the files",
        "directly, SET use_hive_partitioning = 1; their day is toDate32(dt).",
    ]);
    let more = |comment: &str| format!(" COMMENT '{comment}'");
    format!(
        "{settings}CREATE TABLE IF NOT EXISTS {name} (\n{columns}\n)\n\
                 ENGINE = MergeTree\n\
                 PARTITION BY source_day\n\
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

pub(super) fn load(table: &Table, days: &Days) -> String {
    if days.is_empty() {
        return "-- There is no day to load.\n".to_owned();
    }
    days.iter()
        .map(|(&day, slices)| not_fetched(day, slices) + &load_day(table, day, slices))
        .collect()
}

/// A comment for each slice that the lake does not have. The warehouse keeps what it has of it.
fn not_fetched(day: Date, slices: &Slices) -> String {
    let mut text = String::new();
    for (direction, content) in slices {
        if let Content::NotFetched { failed } = content {
            let state = if *failed { "failed" } else { "missing" };
            writeln!(
                text,
                "-- {day}: {direction} is not in the lake ({state}): see cdrlake status."
            )
            .expect("writing to memory does not fail");
        }
    }
    text
}

fn load_day(table: &Table, day: Date, slices: &Slices) -> String {
    let is_absent = |content: &Content| matches!(content, Content::NotFetched { .. });
    if slices.values().all(is_absent) {
        return String::new();
    }
    match table.target {
        Target::BigQuery => replace_partition(table, day, slices),
        Target::Databricks => replace_where(table, day, slices),
        Target::ClickHouse => swap_partition(table, day, slices),
        // In Snowflake a failed statement does not abort the transaction, so a client that
        // continues would commit a part of it.
        Target::Snowflake => {
            let statements = delete_and_copy(table, day, slices);
            let statements = statements.replacen("BEGIN;", "BEGIN TRANSACTION;", 1);
            format!(
                "EXECUTE IMMEDIATE $$\nBEGIN\n{statements}EXCEPTION\n    WHEN OTHER THEN\n        \
                 ROLLBACK;\n        RAISE;\nEND;\n$$;\n"
            )
        }
        _ => delete_and_copy(table, day, slices),
    }
}

/// In one transaction, slice by slice.
fn delete_and_copy(table: &Table, day: Date, slices: &Slices) -> String {
    let name = &table.name;
    let mut text = "BEGIN;\n".to_owned();
    for (direction, content) in slices {
        if matches!(content, Content::NotFetched { .. }) {
            continue;
        }
        writeln!(
            text,
            "DELETE FROM {name} WHERE source_day = DATE '{day}' AND direction = '{direction}';"
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

fn replace_partition(table: &Table, day: Date, slices: &Slices) -> String {
    let name = table.quoted_name();
    let uri = |path: &str| format!("'{}'", table.address(path));
    let uris: Vec<String> = files(slices).map(uri).collect();
    if uris.is_empty() {
        return format!("DELETE FROM {name} WHERE source_day = DATE '{day}';\n");
    }
    format!(
        "LOAD DATA INTO {name} OVERWRITE PARTITIONS (source_day = DATE '{day}')\n    \
         FROM FILES (format = 'PARQUET', uris = [{}]);\n",
        uris.join(",\n        ")
    )
}

fn replace_where(table: &Table, day: Date, slices: &Slices) -> String {
    let name = &table.name;
    let source = |path: &str| format!("parquet.`{}`", table.address(path));
    let Some(rows) = rows_of(slices, source) else {
        return format!("DELETE FROM {name} WHERE source_day = DATE '{day}';\n");
    };
    format!("INSERT INTO {name} REPLACE WHERE source_day = DATE '{day}'\n{rows};\n")
}

fn swap_partition(table: &Table, day: Date, slices: &Slices) -> String {
    let name = &table.name;
    let Some(rows) = rows_of(slices, |path| clickhouse_file(&table.address(path))) else {
        return format!("ALTER TABLE {name} DROP PARTITION '{day}';\n");
    };
    let sibling = table.sibling("load");
    // Settings at the end of a UNION would be those of its last query only.
    format!(
        "TRUNCATE TABLE {sibling};\n\
         INSERT INTO {sibling}\n    SELECT * FROM (\n{rows}\n    )\n    \
         SETTINGS input_format_null_as_default = 0, use_hive_partitioning = 0;\n\
         ALTER TABLE {name} REPLACE PARTITION '{day}' FROM {sibling};\n\
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
