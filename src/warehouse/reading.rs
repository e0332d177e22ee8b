//! Engines that read the files where they lie.

use super::{DT_COMMENT, Days, Table, Target, remarks};

pub(super) fn definition(table: &Table) -> String {
    let (name, directory) = (&table.name, table.directory());
    let with_comments = |comment: &str| format!(" COMMENT '{comment}'");
    match table.target {
        Target::Athena => {
            let first_day = table.first_day;
            let settings = remarks(&[
                "Athena: partition projection computes the days from the names of their folders: there is nothing to",
                "repair or to add, and MSCK REPAIR TABLE is not needed. A day before projection.dt.range is not read at all",
                "(no error: no rows): after a backfill of earlier days, ALTER TABLE ... SET TBLPROPERTIES with a new range.",
                "Nothing else may lie below LOCATION: Athena reads every file there.",
                "Always filter on dt: it is what keeps the scanned bytes, and the bill, small. Large days scan faster in larger",
                "row groups (parquet.row_group_bytes); what cannot read zstd wants parquet.compression = snappy.",
            ]);
            format!(
                "{settings}CREATE EXTERNAL TABLE IF NOT EXISTS {name} (\n{columns}\n)\n\
                 PARTITIONED BY (dt DATE COMMENT '{DT_COMMENT}')\n\
                 STORED AS PARQUET\n\
                 LOCATION '{directory}/'\n\
                 TBLPROPERTIES (\n    \
                 'projection.enabled' = 'true',\n    \
                 'projection.dt.type' = 'date',\n    \
                 'projection.dt.format' = 'yyyy-MM-dd',\n    \
                 'projection.dt.range' = '{first_day},NOW',\n    \
                 'projection.dt.interval' = '1',\n    \
                 'projection.dt.interval.unit' = 'DAYS',\n    \
                 'storage.location.template' = '{directory}/dt=${{dt}}/'\n);\n",
                columns = table.columns(with_comments),
            )
        }
        Target::Spark => {
            let settings = remarks(&[
                "Spark: set spark.sql.session.timeZone to UTC, or times are shown in the time zone of each session.",
                "A session keeps the list of files that it saw: REFRESH TABLE after every run, or a replaced file fails with",
                "a file that does not exist. s3a:// needs hadoop-aws, and file:// the same path on every worker. One task reads at",
                "least a row group: parquet.row_group_bytes = 64MiB makes fewer and larger tasks of large days.",
            ]);
            format!(
                "{settings}CREATE TABLE IF NOT EXISTS {name} (\n{columns},\n    {dt:<16} DATE COMMENT '{DT_COMMENT}'\n)\n\
                 USING PARQUET\n\
                 PARTITIONED BY (dt)\n\
                 LOCATION '{directory}';\n\
                 {refresh}",
                columns = table.columns(with_comments),
                dt = "dt",
                refresh = load(table, &Days::new()),
            )
        }
        Target::Trino => {
            let settings = remarks(&[
                "Trino, Hive connector: set hive.timestamp-precision=MICROSECONDS: the default knows milliseconds, and refuses",
                "this table or cuts call_time. Its timestamps have no zone there: call_time is in UTC, whatever the session says.",
                "hive.parquet.use-column-names=true (the default) lets columns that a later version adds be read.",
            ]);
            format!(
                "{settings}CREATE TABLE IF NOT EXISTS {name} (\n{columns},\n    {dt:<16} DATE COMMENT '{DT_COMMENT}'\n)\n\
                 WITH (\n    \
                 external_location = '{directory}/',\n    \
                 format = 'PARQUET',\n    \
                 partitioned_by = ARRAY['dt']\n);\n\
                 {refresh}",
                columns = table.columns(with_comments),
                dt = "dt",
                refresh = load(table, &Days::new()),
            )
        }
        _ => {
            let settings = remarks(&[
                "DuckDB: the view reads the files as they are now, so there is nothing to load.",
                "SET TimeZone = 'UTC' shows call_time in UTC; the default is the zone of the machine.",
                "union_by_name lets columns that a later version adds be NULL in older files.",
                "s3:// needs INSTALL httpfs, az:// INSTALL azure, and CREATE SECRET for the credentials.",
            ]);
            format!(
                "{settings}CREATE OR REPLACE VIEW {name} AS\n\
                 SELECT * FROM read_parquet('{directory}/dt=*/*.parquet',\n    \
                 hive_partitioning = true, hive_types = {{'dt': DATE}}, union_by_name = true);\n\
                 {comments}COMMENT ON COLUMN {name}.dt IS '{DT_COMMENT}';\n",
                comments = table.comments(),
            )
        }
    }
}

pub(super) fn load(table: &Table, days: &Days) -> String {
    let name = &table.name;
    let list = match (days.len(), days.keys().next(), days.keys().last()) {
        (0, ..) => String::new(),
        (1, Some(day), _) => format!(" {day}"),
        (number, Some(first), Some(last)) => format!(" {number} days between {first} and {last}"),
        _ => unreachable!("a list that is not empty has a first and a last"),
    };
    match table.target {
        Target::Athena => {
            format!("-- Athena reads the files as they are: nothing to do for{list}.\n")
        }
        Target::Trino => {
            let mut parts = name.splitn(3, '.');
            let mut part = || parts.next().unwrap_or_default();
            let (catalog, schema, table) = (part(), part(), part());
            format!(
                "-- Adds the days that are new and removes those that are gone; replaced files are read as they are.\n\
                 CALL {catalog}.system.sync_partition_metadata('{schema}', '{table}', 'FULL');\n"
            )
        }
        Target::Spark => format!(
            "-- Adds the days that are new, removes those that are gone, and forgets what was known of the files.\n\
             MSCK REPAIR TABLE {name} SYNC PARTITIONS;\n\
             REFRESH TABLE {name};\n"
        ),
        _ => format!("-- DuckDB reads the files as they are: nothing to do for{list}.\n"),
    }
}
