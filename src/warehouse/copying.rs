//! Warehouses that copy the rows.

use std::fmt::Write;

use jiff::civil::Date;

use super::{Days, Files, Table, Target, column_names, remarks};
use crate::cdr::slice::Direction;
use crate::store::layout;

pub(super) fn definition(table: &Table) -> String {
    match table.target {
        Target::Snowflake => snowflake(table),
        Target::BigQuery => bigquery(table),
        Target::Redshift => redshift(table),
        Target::Databricks => databricks(table),
        Target::ClickHouse => clickhouse(table),
        _ => postgres(table),
    }
}

fn snowflake(table: &Table) -> String {
    let name = &table.name;
    let (format, stage) = (table.beside("parquet"), table.beside("lake"));
    let settings = remarks(&[
        "Snowflake: USE_LOGICAL_TYPE = TRUE, or times and days arrive as bare numbers and text.",
        "MATCH_BY_COLUMN_NAME, or COPY wants one column of the type VARIANT.",
        "FORCE = TRUE in the load: COPY remembers files that it has loaded for 64 days, and skips them also after",
        "their rows were deleted. call_time is shown in the session's time zone: ALTER SESSION SET TIMEZONE = 'UTC'.",
        "One file is loaded by one thread: days of many gigabytes load no faster on a larger warehouse.",
        "Put the name of your storage integration in place of LAKE_INTEGRATION.",
    ]);
    let more = |comment: &str| format!(" COMMENT '{comment}'");
    format!(
        "{settings}CREATE TABLE IF NOT EXISTS {name} (\n{columns}\n)\n\
                 CLUSTER BY (source_day);\n\
                 CREATE FILE FORMAT IF NOT EXISTS {format}\n    \
                 TYPE = PARQUET USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE USE_VECTORIZED_SCANNER = TRUE;\n\
                 CREATE STAGE IF NOT EXISTS {stage}\n    \
                 URL = '{directory}/' STORAGE_INTEGRATION = LAKE_INTEGRATION FILE_FORMAT = (FORMAT_NAME = '{format}');\n",
        columns = table.columns(more),
        directory = table.directory(),
    )
}

fn bigquery(table: &Table) -> String {
    let quoted = table.quoted_name();
    let settings = remarks(&[
        "BigQuery: give the dataset with --table dataset.cdrs. A day is replaced as a partition in one job, or not at",
        "all. Every file has the same columns in the same order, as a load of several files wants it; the types are",
        "those of the table, not guessed. The bucket must lie in the location of the dataset.",
        "Filter on source_day: it is what keeps the bytes that are read, and paid for, small.",
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
        "Redshift: COPY from Parquet goes by position: this table has exactly the columns of the files, in their order.",
        "Add none, not even with a default; a view on top may have more. The bucket must lie in the cluster's region,",
        "and COPY takes neither MAXERROR nor a column list. call_time is in UTC: TIMESTAMP has no zone.",
        "Texts are measured in bytes. Put a role in place of `default` if the cluster has no default one, and set",
        "parquet.compression = snappy (then run --refresh) if yours does not read zstd.",
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
        "Databricks: a Delta table; a day is replaced in one commit. COPY INTO is not used: it skips a file that it has",
        "loaded under the same name, also when the file was replaced. The location needs an external location with",
        "READ FILES. Set the session's time zone to UTC: times are shown in it.",
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
        "ClickHouse: a day is loaded into a table beside this one and then replaces its partition at once.",
        "Days are Date32 and times DateTime64: Date and DateTime know no year before 1970. Nullable columns stay so:",
        "input_format_null_as_default would make an absent charge 0. A server reads files only below its",
        "user_files_path, as its own user (lake.file_mode). One load at a time: they share the table beside. To query the",
        "files themselves, SET use_hive_partitioning = 1; toDate32(dt) is their day.",
    ]);
    let more = |comment: &str| format!(" COMMENT '{comment}'");
    format!(
        "{settings}CREATE TABLE IF NOT EXISTS {name} (\n{columns}\n)\n\
                 ENGINE = MergeTree\n\
                 PARTITION BY source_day\n\
                 ORDER BY (direction, call_time);\n\
                 CREATE TABLE IF NOT EXISTS {beside} AS {name};\n",
        columns = table.columns(more),
        beside = table.beside("load"),
    )
}

fn postgres(table: &Table) -> String {
    let name = &table.name;
    let settings = remarks(&[
        "PostgreSQL reads Parquet with the extension pg_parquet (CREATE EXTENSION pg_parquet; it must also be in",
        "shared_preload_libraries). match_by 'name', or it goes by position. A role needs parquet_object_store_read for",
        "buckets, and pg_read_server_files for paths, which are the server's, and read by its user: see lake.file_mode.",
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
        .map(|(&day, files)| load_day(table, day, files))
        .collect()
}

fn load_day(table: &Table, day: Date, files: &Files) -> String {
    match table.target {
        Target::BigQuery => replace_partition(table, day, files),
        Target::Databricks => replace_where(table, day, files),
        Target::ClickHouse => swap_partition(table, day, files),
        // There a statement that fails leaves the transaction as it was, and a client that goes on would commit half of it.
        Target::Snowflake => {
            let statements = delete_and_copy(table, day, files);
            let statements = statements.replacen("BEGIN;", "BEGIN TRANSACTION;", 1);
            format!(
                "EXECUTE IMMEDIATE $$\nBEGIN\n{statements}EXCEPTION\n    WHEN OTHER THEN\n        ROLLBACK;\n        RAISE;\nEND;\n$$;\n"
            )
        }
        _ => delete_and_copy(table, day, files),
    }
}

/// In one transaction, slice by slice.
fn delete_and_copy(table: &Table, day: Date, files: &Files) -> String {
    let name = &table.name;
    let mut text = "BEGIN;\n".to_owned();
    for direction in Direction::ALL {
        writeln!(
            text,
            "DELETE FROM {name} WHERE source_day = DATE '{day}' AND direction = '{direction}';"
        )
        .expect("writing to memory does not fail");
        if let Some(file) = files.get(&direction) {
            text += &copy(table, file);
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
                 MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE FORCE = TRUE ON_ERROR = ABORT_STATEMENT;\n",
                stage = table.beside("lake"),
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

fn replace_partition(table: &Table, day: Date, files: &Files) -> String {
    let name = table.quoted_name();
    if files.is_empty() {
        return format!("DELETE FROM {name} WHERE source_day = DATE '{day}';\n");
    }
    let uri = |path: &String| format!("'{}'", table.address(path));
    let uris: Vec<String> = files.values().map(uri).collect();
    format!(
        "LOAD DATA INTO {name} OVERWRITE PARTITIONS (source_day = DATE '{day}')\n    \
         FROM FILES (format = 'PARQUET', uris = [{}]);\n",
        uris.join(",\n        ")
    )
}

fn replace_where(table: &Table, day: Date, files: &Files) -> String {
    let (name, directory) = (&table.name, table.directory());
    if files.is_empty() {
        return format!("DELETE FROM {name} WHERE source_day = DATE '{day}';\n");
    }
    let columns = column_names();
    format!(
        "INSERT INTO {name} REPLACE WHERE source_day = DATE '{day}'\n    \
         SELECT {columns}\n    FROM parquet.`{directory}/dt={day}`;\n"
    )
}

fn swap_partition(table: &Table, day: Date, files: &Files) -> String {
    let name = &table.name;
    if files.is_empty() {
        return format!("ALTER TABLE {name} DROP PARTITION '{day}';\n");
    }
    let beside = table.beside("load");
    let columns = column_names();
    let files = format!("{}/dt={day}/*.parquet", table.directory());
    let source = match files.split_once("://") {
        None => format!("file('{files}', Parquet)"),
        Some(("gs", rest)) => format!("gcs('https://storage.googleapis.com/{rest}', 'Parquet')"),
        Some(("az", rest)) => {
            let mut parts = rest.splitn(3, '/');
            let mut part = || parts.next().unwrap_or_default();
            let (account, container, path) = (part(), part(), part());
            // The credentials are the collection's.
            format!(
                "azureBlobStorage(lake_azure, storage_account_url = 'https://{account}', container = '{container}', blob_path = '{path}', format = 'Parquet')"
            )
        }
        Some(_) => format!("s3('{files}', 'Parquet')"),
    };
    format!(
        "TRUNCATE TABLE {beside};\n\
         INSERT INTO {beside}\n    SELECT {columns}\n    FROM {source}\n    \
         SETTINGS input_format_null_as_default = 0, use_hive_partitioning = 0;\n\
         ALTER TABLE {name} REPLACE PARTITION '{day}' FROM {beside};\n\
         TRUNCATE TABLE {beside};\n"
    )
}
