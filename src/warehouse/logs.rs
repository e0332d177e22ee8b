//! Tables that read the log of a table format: Delta Lake or Apache Iceberg.
//!
//! Whether a statement was executed here or only looked up is listed in `docs/warehouses.md`.

use super::copying::azure_arguments;
use super::{Table, Target, remarks};
use crate::lake::TableFormat;
use crate::store::layout::ICEBERG_LOG;

/// The definition of a table that reads the log.
pub(super) fn definition(table: &Table, format: TableFormat) -> String {
    match table.target {
        Target::Snowflake => snowflake(table, format),
        Target::BigQuery => bigquery(table, format),
        Target::Athena => athena(table),
        Target::Spark => spark(table, format),
        Target::Trino => trino(table, format),
        Target::ClickHouse => clickhouse(table, format),
        Target::DuckDb => duckdb(table, format),
        // `Table::try_new` refuses targets that read no format.
        Target::Databricks | Target::Redshift | Target::Postgres => databricks(table),
    }
}

/// What has to be done after a run.
pub(super) fn refresh(table: &Table, format: TableFormat) -> String {
    let name = &table.name;
    match (table.target, format) {
        (Target::Snowflake, TableFormat::Delta) => format!(
            "-- AUTO_REFRESH reads new commits after some seconds. This reads them now.\n\
             ALTER ICEBERG TABLE {name} REFRESH;\n"
        ),
        (Target::Snowflake, TableFormat::Iceberg) => format!(
            "-- Snowflake reads the metadata file that it was given last.\n\
             ALTER ICEBERG TABLE {name} REFRESH '{}';\n",
            within_volume(&table.address(&table.metadata)),
        ),
        (Target::BigQuery, TableFormat::Iceberg) => format!(
            "-- BigQuery reads the metadata file that the table names.\n{}",
            bigquery_table(table, format)
        ),
        (Target::Trino, TableFormat::Iceberg) => {
            let (catalog, schema, plain) = table.name_parts();
            format!(
                "-- Trino reads the metadata file that was registered. There is no table between \
                 these\n-- two statements.\n\
                 CALL {catalog}.system.unregister_table(schema_name => '{schema}', table_name => \
                 '{plain}');\n{}",
                register(table, format)
            )
        }
        (target, _) => format!("-- {target} reads the newest commit: nothing to do after a run.\n"),
    }
}

/// The table's address: Delta Lake's is the lake's.
fn root(table: &Table, format: TableFormat) -> String {
    match format {
        TableFormat::Delta => table.lake.clone(),
        TableFormat::Iceberg => table.address(ICEBERG_LOG),
    }
}

fn snowflake(table: &Table, format: TableFormat) -> String {
    let name = &table.name;
    let plain = name.rsplit('.').next().unwrap_or(name);
    let settings = remarks(&[
        "Snowflake: replace LAKE_VOLUME by the name of an external volume that may read the whole",
        "bucket, or the whole container: paths below begin there. ALLOW_WRITES = FALSE suffices.",
        "call_time is displayed in the session's time zone: ALTER SESSION SET TIMEZONE = 'UTC'.",
    ]);
    let (kind, place) = match format {
        TableFormat::Delta => {
            let place = within_volume(&table.lake);
            let place = if place.is_empty() { "/" } else { place };
            (
                "DELTA",
                format!("BASE_LOCATION = '{place}' AUTO_REFRESH = TRUE"),
            )
        }
        TableFormat::Iceberg => {
            let file = table.address(&table.metadata);
            (
                "ICEBERG",
                format!("METADATA_FILE_PATH = '{}'", within_volume(&file)),
            )
        }
    };
    let catalog = format!("{plain}_{}", kind.to_lowercase());
    format!(
        "{settings}CREATE CATALOG INTEGRATION IF NOT EXISTS {catalog}\n    \
         CATALOG_SOURCE = OBJECT_STORE TABLE_FORMAT = {kind} ENABLED = TRUE;\n\
         CREATE ICEBERG TABLE IF NOT EXISTS {name}\n    \
         EXTERNAL_VOLUME = 'LAKE_VOLUME' CATALOG = '{catalog}'\n    {place};\n"
    )
}

/// The path of an address within its bucket or container.
fn within_volume(address: &str) -> &str {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    // The first segment is a bucket, or an account of Azure with the container behind it.
    let mut rest = rest.split_once('/').map_or("", |(_, path)| path);
    if scheme == "azure" {
        rest = rest.split_once('/').map_or("", |(_, path)| path);
    }
    rest
}

fn bigquery(table: &Table, format: TableFormat) -> String {
    let settings = remarks(&[
        "BigQuery: give the dataset with --table dataset.cdrs. Replace LAKE_CONNECTION by a Cloud",
        "resource connection, project.region.name, whose service account may read the bucket. The",
        "bucket must be in the location of the dataset. Filter on the day (dt in Delta Lake,",
        "source_day in Apache Iceberg): this keeps the bytes that are read and billed small.",
    ]);
    settings + &bigquery_table(table, format)
}

fn bigquery_table(table: &Table, format: TableFormat) -> String {
    let name = table.quoted_name();
    let (kind, uri) = match format {
        TableFormat::Delta => ("DELTA_LAKE", root(table, format)),
        TableFormat::Iceberg => ("ICEBERG", table.address(&table.metadata)),
    };
    format!(
        "CREATE OR REPLACE EXTERNAL TABLE {name}\n    \
         WITH CONNECTION `LAKE_CONNECTION`\n    \
         OPTIONS (format = '{kind}', uris = ['{uri}']);\n"
    )
}

fn athena(table: &Table) -> String {
    let settings = remarks(&[
        "Athena reads the columns from the log and keeps them in Glue. It accepts only LOCATION",
        "and table_type here. Always filter on dt: this keeps the bytes that are scanned and",
        "billed small.",
    ]);
    format!(
        "{settings}CREATE EXTERNAL TABLE {name}\n\
         LOCATION '{lake}/'\n\
         TBLPROPERTIES ('table_type' = 'DELTA');\n",
        name = table.name,
        lake = table.lake,
    )
}

fn databricks(table: &Table) -> String {
    let settings = remarks(&[
        "Databricks: an external table. The location needs an external location with READ FILES.",
        "Only read it: no OPTIMIZE, VACUUM, DELETE or INSERT, and no predictive optimization. Set",
        "the session's time zone to UTC: times are displayed in it.",
    ]);
    settings + &delta_location(table)
}

fn spark(table: &Table, format: TableFormat) -> String {
    match format {
        TableFormat::Delta => {
            let settings = remarks(&[
                "Spark with Delta Lake (delta-spark): set spark.sql.extensions to",
                "io.delta.sql.DeltaSparkSessionExtension, and spark.sql.catalog.spark_catalog to",
                "org.apache.spark.sql.delta.catalog.DeltaCatalog. Only read the table: on S3, its",
                "writer can overwrite a commit. Set spark.sql.session.timeZone to UTC; otherwise",
                "times are displayed in the session's time zone. s3a:// needs hadoop-aws.",
            ]);
            settings + &delta_location(table)
        }
        TableFormat::Iceberg => {
            let settings = remarks(&[
                "Spark with Apache Iceberg (iceberg-spark-runtime): start the session with",
                "  spark.sql.catalog.cdrlake           = org.apache.iceberg.spark.SparkCatalog",
                "  spark.sql.catalog.cdrlake.type      = hadoop",
                &format!("  spark.sql.catalog.cdrlake.warehouse = {}", table.lake),
                "Such a catalog finds the newest commit by itself. For a lake in S3 also set",
                "spark.hadoop.fs.s3.impl = org.apache.hadoop.fs.s3a.S3AFileSystem, because the",
                "metadata names files by s3://. Only read the table. Set",
                "spark.sql.session.timeZone to UTC; otherwise times are displayed in the session's",
                "time zone.",
            ]);
            format!(
                "{settings}CREATE OR REPLACE VIEW {} AS\nSELECT * FROM cdrlake.{ICEBERG_LOG};\n",
                table.name
            )
        }
    }
}

/// The table of Databricks, and of Spark with Delta Lake.
fn delta_location(table: &Table) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {name}\nUSING DELTA\nLOCATION '{lake}';\n",
        name = table.name,
        lake = table.lake,
    )
}

fn trino(table: &Table, format: TableFormat) -> String {
    let connector = match format {
        TableFormat::Delta => "delta",
        TableFormat::Iceberg => "iceberg",
    };
    let (catalog, ..) = table.name_parts();
    let settings = remarks(&[
        &format!("Trino: {catalog} is a catalog of the {format} connector. Registering is off by"),
        &format!("default: set {connector}.register-table-procedure.enabled = true in its file."),
        "Only read the table. call_time is displayed in the session's time zone. Trino cuts it to",
        "milliseconds in Delta Lake, and keeps microseconds in Apache Iceberg.",
    ]);
    settings + &register(table, format)
}

fn register(table: &Table, format: TableFormat) -> String {
    let (catalog, schema, plain) = table.name_parts();
    let file = match format {
        TableFormat::Delta => String::new(),
        TableFormat::Iceberg => {
            let name = table.metadata.rsplit('/').next().unwrap_or_default();
            format!(",\n    metadata_file_name => '{name}'")
        }
    };
    format!(
        "CALL {catalog}.system.register_table(\n    \
         schema_name => '{schema}', table_name => '{plain}',\n    \
         table_location => '{place}'{file});\n",
        place = root(table, format),
    )
}

fn clickhouse(table: &Table, format: TableFormat) -> String {
    let settings = remarks(&[
        "ClickHouse: the view reads the newest commit, so there is nothing to load. A server reads",
        "files only below its user_files_path, as its own user (see lake.file_mode). Times are in",
        "UTC. Credentials of a bucket come from the server's configuration, of Azure from the",
        "named collection lake_azure. A MergeTree table is faster: --as files copies the rows.",
    ]);
    let prefix = match format {
        TableFormat::Delta => "deltaLake",
        TableFormat::Iceberg => "iceberg",
    };
    let place = root(table, format);
    let source = match place.split_once("://") {
        None => format!("{prefix}Local('{place}')"),
        Some(("gs", rest)) => format!("{prefix}S3('https://storage.googleapis.com/{rest}/')"),
        Some(("az", rest)) => format!("{prefix}Azure({})", azure_arguments(rest)),
        Some(_) => format!("{prefix}S3('{place}/')"),
    };
    format!(
        "{settings}CREATE OR REPLACE VIEW {} AS\nSELECT * FROM {source};\n",
        table.name
    )
}

fn duckdb(table: &Table, format: TableFormat) -> String {
    let name = &table.name;
    let (extension, of_day) = match format {
        TableFormat::Delta => (
            "delta",
            format!("COMMENT ON COLUMN {name}.dt IS '{}';\n", table.dt_comment()),
        ),
        TableFormat::Iceberg => ("iceberg", String::new()),
    };
    let settings = remarks(&[
        "DuckDB: the view reads the newest commit, so there is nothing to load. LOAD is needed in",
        "every session that reads it. SET TimeZone = 'UTC' displays call_time in UTC; the default",
        "is the machine's time zone. s3:// needs INSTALL httpfs, az:// INSTALL azure, and CREATE",
        "SECRET for the credentials.",
    ]);
    format!(
        "{settings}INSTALL {extension};\n\
         LOAD {extension};\n\
         CREATE OR REPLACE VIEW {name} AS\n\
         SELECT * FROM {extension}_scan('{place}');\n\
         {comments}{of_day}",
        place = root(table, format),
        comments = table.comments(),
    )
}
