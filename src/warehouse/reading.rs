//! Engines that read the files directly.

use super::{Periods, Source, Table, Target, files, remarks};
use crate::cdr::period::PeriodUnit;

pub(super) fn definition(table: &Table, periods: &Periods) -> String {
    if table.lists_files() {
        return listed_files(table, periods);
    }
    double_count(table) + &of_directory(table)
}

/// A comment for a table that reads every file of the directory.
fn double_count(table: &Table) -> String {
    if table.source != Source::CurrentFiles {
        return String::new();
    }
    remarks(&[
        "WARNING: this table reads every file of the directory, and the lake has table formats:",
        "replaced files stay there for lake.keep_replaced, so their calls count twice. Without",
        "--as files, cdrlake ddl prints a table that reads a log.",
    ])
}

/// The view of a lake in which replaced files lie beside current ones.
fn listed_files(table: &Table, periods: &Periods) -> String {
    let quoted = |path| format!("    '{}'", table.address(path));
    let list: Vec<String> = periods.values().flat_map(files).map(quoted).collect();
    if list.is_empty() {
        return "-- The lake has no files yet. Print this again after the first run.\n".to_owned();
    }
    let settings = remarks(&[
        "DuckDB: the view names the current files, because replaced files lie beside them. Print",
        "it again after every run, by --load. A file is removed after lake.keep_replaced; then a",
        "query fails. Without --as files, cdrlake ddl prints a view that reads a log.",
    ]);
    settings + &duckdb_view(table, &format!("[\n{}\n]", list.join(",\n")))
}

fn duckdb_view(table: &Table, files: &str) -> String {
    let (name, dt_comment) = (&table.name, table.dt_comment());
    format!(
        "CREATE OR REPLACE VIEW {name} AS\n\
         SELECT * FROM read_parquet({files},\n    \
         hive_partitioning = true, hive_types = {{'dt': DATE}}, union_by_name = true);\n\
         {comments}COMMENT ON COLUMN {name}.dt IS '{dt_comment}';\n",
        comments = table.comments(),
    )
}

fn of_directory(table: &Table) -> String {
    let (name, directory) = (&table.name, table.directory());
    let dt_comment = table.dt_comment();
    let with_comments = |comment: &str| format!(" COMMENT '{comment}'");
    match table.target {
        Target::Athena => {
            let first_day = table.first.first_day();
            let interval = match table.unit() {
                PeriodUnit::Day => "DAYS",
                PeriodUnit::Month => "MONTHS",
            };
            let settings = remarks(&[
                "Athena: partition projection derives the days from the directory names, so MSCK",
                "REPAIR TABLE is not needed. Days before projection.dt.range are not read, without",
                "an error: after a backfill of earlier days, ALTER TABLE ... SET TBLPROPERTIES",
                "with a new range. Nothing else may lie below LOCATION, because Athena reads every",
                "file there. Always filter on dt: this keeps the bytes that are scanned and billed",
                "small. Larger row groups (parquet.row_group_bytes) make scans of large days",
                "faster. For engines without zstd set parquet.compression = snappy.",
            ]);
            format!(
                "{settings}CREATE EXTERNAL TABLE IF NOT EXISTS {name} (\n{columns}\n)\n\
                 PARTITIONED BY (dt DATE COMMENT '{dt_comment}')\n\
                 STORED AS PARQUET\n\
                 LOCATION '{directory}/'\n\
                 TBLPROPERTIES (\n    \
                 'projection.enabled' = 'true',\n    \
                 'projection.dt.type' = 'date',\n    \
                 'projection.dt.format' = 'yyyy-MM-dd',\n    \
                 'projection.dt.range' = '{first_day},NOW',\n    \
                 'projection.dt.interval' = '1',\n    \
                 'projection.dt.interval.unit' = '{interval}',\n    \
                 'storage.location.template' = '{directory}/dt=${{dt}}/'\n);\n",
                columns = table.columns(with_comments),
            )
        }
        Target::Spark => {
            let settings = remarks(&[
                "Spark: set spark.sql.session.timeZone to UTC; otherwise times are displayed in",
                "the session's time zone. A session caches the list of files: run REFRESH TABLE",
                "after every run; otherwise a query of a replaced file fails, because the file",
                "does not exist. s3a:// needs hadoop-aws, and file:// the same path on every",
                "worker. A task reads at least one row group: parquet.row_group_bytes = 64MiB",
                "makes fewer and larger tasks for large days.",
            ]);
            format!(
                "{settings}CREATE TABLE IF NOT EXISTS {name} (\n{columns},\n    {dt:<16} DATE \
                 COMMENT '{dt_comment}'\n)\n\
                 USING PARQUET\n\
                 PARTITIONED BY (dt)\n\
                 LOCATION '{directory}';\n\
                 {refresh}",
                columns = table.columns(with_comments),
                dt = "dt",
                refresh = load(table, &Periods::new()),
            )
        }
        Target::Trino => {
            let settings = remarks(&[
                "Trino, Hive connector: set hive.timestamp-precision=MICROSECONDS. The default is",
                "milliseconds, which rejects this table or truncates call_time. Timestamps have no",
                "time zone in this connector: call_time is in UTC, whatever the session's zone.",
                "Keep the default hive.parquet.use-column-names=true, so that columns of later",
                "versions can be read.",
            ]);
            format!(
                "{settings}CREATE TABLE IF NOT EXISTS {name} (\n{columns},\n    {dt:<16} DATE \
                 COMMENT '{dt_comment}'\n)\n\
                 WITH (\n    \
                 external_location = '{directory}/',\n    \
                 format = 'PARQUET',\n    \
                 partitioned_by = ARRAY['dt']\n);\n\
                 {refresh}",
                columns = table.columns(with_comments),
                dt = "dt",
                refresh = load(table, &Periods::new()),
            )
        }
        _ => {
            let settings = remarks(&[
                "DuckDB: the view reads the files directly, so there is nothing to load. SET",
                "TimeZone = 'UTC' displays call_time in UTC; the default is the machine's time",
                "zone. union_by_name returns NULL for columns that older files do not have. s3://",
                "needs INSTALL httpfs, az:// INSTALL azure, and CREATE SECRET for the credentials.",
            ]);
            settings + &duckdb_view(table, &format!("'{directory}/dt=*/*.parquet'"))
        }
    }
}

pub(super) fn load(table: &Table, periods: &Periods) -> String {
    let name = &table.name;
    let list = match (periods.len(), periods.keys().next(), periods.keys().last()) {
        (0, ..) => String::new(),
        (1, Some(period), _) => format!(" {period}"),
        (number, Some(first), Some(last)) => {
            format!(" {number} {}s between {first} and {last}", table.unit())
        }
        _ => unreachable!("a list that is not empty has a first and a last"),
    };
    match table.target {
        Target::Athena => {
            format!("-- Athena reads the files directly: nothing to do for{list}.\n")
        }
        Target::Trino => {
            let (catalog, schema, table) = table.name_parts();
            format!(
                "-- Adds new partitions and removes missing ones; replaced files are read \
                 without a refresh.\n\
                 CALL {catalog}.system.sync_partition_metadata('{schema}', '{table}', 'FULL');\n"
            )
        }
        Target::Spark => format!(
            "-- Adds new partitions, removes missing ones, and clears the cached list of files.\n\
             MSCK REPAIR TABLE {name} SYNC PARTITIONS;\n\
             REFRESH TABLE {name};\n"
        ),
        _ if table.lists_files() => listed_files(table, periods),
        _ => format!("-- DuckDB reads the files directly: nothing to do for{list}.\n"),
    }
}
