use super::*;

const LAKES: [&str; 4] = [
    "/data/lake",
    "s3://bucket/a/lake",
    "gs://bucket/lake",
    "az://container/lake",
];

fn period(text: &str) -> Period {
    text.parse().unwrap()
}

fn table(target: Target, lake: &str) -> Result<Table, DdlError> {
    reading(target, lake, Source::AllFiles)
}

fn reading(target: Target, lake: &str, source: Source) -> Result<Table, DdlError> {
    let first = period("2026-10-01");
    let table = Table::try_new(target, "cdrs", lake, Some("account"), first, source)?;
    Ok(table.with_metadata("_iceberg/metadata/v12.metadata.json".to_owned()))
}

#[test]
fn a_target_that_cannot_read_a_lake_reports_where_it_can_read() {
    use Target::{Athena, BigQuery, Databricks, Redshift, Snowflake, Trino};
    for target in Target::ALL {
        for lake in LAKES {
            let can = match target {
                Redshift | Athena => lake.starts_with("s3"),
                BigQuery => lake.starts_with("gs"),
                Snowflake | Databricks | Trino => lake.contains("://"),
                _ => true,
            };
            match table(target, lake) {
                Ok(_) => assert!(can, "{target} cannot read {lake}"),
                Err(error) => {
                    assert!(!can, "{target} can read {lake}: {error}");
                    let is_named =
                        matches!(&error, DdlError::OutOfReach { location, .. } if location == lake);
                    assert!(is_named, "{error}");
                }
            }
        }
    }
    let addresses = [
        (Target::Snowflake, "gs://b/l", "gcs://b/l"),
        (
            Target::Snowflake,
            "az://c/l",
            "azure://account.blob.core.windows.net/c/l",
        ),
        (Target::Spark, "s3://b/l/", "s3a://b/l"),
        (Target::Spark, "/data/lake", "file:///data/lake"),
        (
            Target::Databricks,
            "az://c",
            "abfss://c@account.dfs.core.windows.net",
        ),
        (Target::DuckDb, "/data/lake", "/data/lake"),
    ];
    for (target, lake, expected) in addresses {
        assert_eq!(table(target, lake).unwrap().lake, expected);
    }
    let unknown = Table::try_new(
        Target::Snowflake,
        "cdrs",
        "az://c/l",
        None,
        period("2026-10-01"),
        Source::AllFiles,
    );
    assert!(matches!(unknown, Err(DdlError::OutOfReach { .. })));
}

#[test]
fn every_definition_has_every_column_in_order_with_its_comment() {
    for target in Target::ALL {
        let lake = LAKES.into_iter().find_map(|lake| table(target, lake).ok());
        let definition = lake.unwrap().definition(&Periods::new());
        let mut at = 0;
        for column in COLUMNS {
            let found = definition.get(at..).unwrap().find(column.name);
            at += found.unwrap_or_else(|| panic!("{target}: {} is missing", column.name));
            assert!(
                definition.contains(column.comment),
                "{target}: {}",
                column.name
            );
        }
        assert!(
            definition.starts_with("-- "),
            "{target} has settings that people get wrong"
        );
    }
}

#[test]
fn comments_need_no_quotes_in_any_dialect() {
    for column in COLUMNS {
        assert!(
            !column.comment.contains(['\'', '"', '\\', ';', '`']),
            "{}",
            column.name
        );
    }
}

#[test]
fn targets_that_copy_replace_whole_days_and_keep_days_that_the_lake_does_not_have() {
    let file = |name: &str| Content::File(format!("cdrs/dt={name}"));
    let slices = |placed, received| -> Slices {
        [(Direction::Placed, placed), (Direction::Received, received)].into()
    };
    let absent = |failed| Content::NotFetched { failed };
    // A file has the name that its ledger entry gives.
    let days = Periods::from([
        (
            period("2026-10-01"),
            slices(
                file("2026-10-01/placed-2026-10-01-a7.parquet"),
                file("2026-10-01/received-2026-10-01.parquet"),
            ),
        ),
        (
            period("2026-10-02"),
            slices(
                Content::NoRows,
                file("2026-10-02/received-2026-10-02.parquet"),
            ),
        ),
        (
            period("2026-10-03"),
            slices(Content::NoRows, Content::NoRows),
        ),
        (
            period("2026-10-04"),
            slices(absent(true), file("2026-10-04/received-2026-10-04.parquet")),
        ),
        (period("2026-10-05"), slices(absent(true), absent(false))),
    ]);
    for target in Target::ALL.into_iter().filter(|target| target.copies()) {
        let lake = LAKES
            .into_iter()
            .rev()
            .find_map(|lake| table(target, lake).ok());
        let load = lake.unwrap().load(&days);
        assert!(
            load.contains("2026-10-01") && load.contains("2026-10-03"),
            "{target}: {load}"
        );
        assert!(
            !load.contains("placed-2026-10-02"),
            "{target} loads a file that is not there"
        );
        assert!(
            !load.contains("-2026-10-03.parquet"),
            "{target} loads a file that is not there"
        );
        let transactions =
            load.matches("BEGIN;").count() + load.matches("BEGIN TRANSACTION;").count();
        assert_eq!(transactions, load.matches("COMMIT;").count(), "{target}");
        for absent in [
            "-- 2026-10-04: placed is not in the lake (failed): see cdrlake status.\n",
            "-- 2026-10-05: placed is not in the lake (failed): see cdrlake status.\n",
            "-- 2026-10-05: received is not in the lake (missing): see cdrlake status.\n",
        ] {
            assert!(load.contains(absent), "{target}: {load}");
        }
        let of_absent_day = load.lines().filter(|line| line.contains("2026-10-05"));
        assert_eq!(of_absent_day.count(), 2, "{target} deletes a day: {load}");
        if transactions > 0 {
            assert_eq!(transactions, 4, "{target}");
            assert_eq!(
                load.matches("DELETE FROM").count(),
                7,
                "{target}: by day and direction"
            );
        }
    }
}

#[test]
fn no_load_has_a_file_pattern_or_reads_a_directory() {
    let slices = |first: &str, second: &str| -> Slices {
        let file = |path: &str| Content::File(path.to_owned());
        [
            (Direction::Placed, file(first)),
            (Direction::Received, file(second)),
        ]
        .into()
    };
    let paths = [
        "cdrs/dt=2026-10-01/placed-2026-10-01.parquet",
        "cdrs/dt=2026-10-01/received-2026-10-01.parquet",
        "cdrs/dt=2026-10-02/placed-2026-10-02-5f0c.parquet",
        "cdrs/dt=2026-10-02/received-2026-10-02-77ab.parquet",
    ];
    let days = Periods::from([
        (period("2026-10-01"), slices(paths[0], paths[1])),
        (period("2026-10-02"), slices(paths[2], paths[3])),
    ]);
    let quoted = |line: &str| -> String { line.split(['\'', '`']).skip(1).step_by(2).collect() };
    let sources = [Source::AllFiles, Source::CurrentFiles, DELTA, ICEBERG];
    for (target, lake, source) in combinations(&sources) {
        let Ok(table) = reading(target, lake, source) else {
            continue;
        };
        let load = table.load(&days);
        for line in load.lines().filter(|line| !line.starts_with("--")) {
            let quoted = quoted(line);
            assert!(!quoted.contains(['*', '?', '[', '{']), "{target}: {line}");
            let directory = quoted.contains("dt=2026") && !quoted.contains(".parquet");
            assert!(!directory, "{target} reads a directory: {line}");
        }
        if table.after_run() == AfterRun::Load || table.lists_files() {
            for path in paths {
                let file = path.rsplit('/').next().unwrap();
                assert_eq!(load.matches(file).count(), 1, "{target}: {load}");
            }
        }
    }
}

const DELTA: Source = Source::Log(TableFormat::Delta);
const ICEBERG: Source = Source::Log(TableFormat::Iceberg);

fn combinations(sources: &[Source]) -> Vec<(Target, &'static str, Source)> {
    let mut all = Vec::new();
    for target in Target::ALL {
        for lake in LAKES {
            all.extend(sources.iter().map(|source| (target, lake, *source)));
        }
    }
    all
}

/// What the statements for a log contain: the definition, and what has to be done after a run.
fn needs(target: Target, source: Source) -> (&'static [&'static str], Option<&'static str>) {
    let is_delta = source == DELTA;
    match (target, is_delta) {
        (Target::Snowflake, true) => (
            &[
                "TABLE_FORMAT = DELTA",
                "BASE_LOCATION = '",
                "AUTO_REFRESH = TRUE",
            ],
            Some("ALTER ICEBERG TABLE cdrs REFRESH;"),
        ),
        (Target::Snowflake, false) => (
            &[
                "TABLE_FORMAT = ICEBERG",
                "METADATA_FILE_PATH = '",
                "lake/_iceberg/metadata/v12.metadata.json'",
            ],
            Some("lake/_iceberg/metadata/v12.metadata.json';"),
        ),
        (Target::BigQuery, true) => (
            &["format = 'DELTA_LAKE', uris = ['gs://bucket/lake']"],
            None,
        ),
        (Target::BigQuery, false) => (
            &[
                "format = 'ICEBERG'",
                "gs://bucket/lake/_iceberg/metadata/v12.metadata.json",
            ],
            Some("CREATE OR REPLACE EXTERNAL TABLE `cdrs`"),
        ),
        (Target::Athena, _) => (
            &[
                "LOCATION 's3://bucket/a/lake/'",
                "TBLPROPERTIES ('table_type' = 'DELTA')",
            ],
            None,
        ),
        (Target::Databricks, _) => (&["USING DELTA\nLOCATION '"], None),
        (Target::Spark, true) => (&["USING DELTA\nLOCATION '", "DeltaCatalog"], None),
        (Target::Spark, false) => (&["FROM cdrlake._iceberg;", "SparkCatalog"], None),
        (Target::Trino, true) => (
            &[
                "CALL delta.system.register_table(",
                "schema_name => 'default'",
            ],
            None,
        ),
        (Target::Trino, false) => (
            &[
                "CALL iceberg.system.register_table(",
                "/_iceberg',\n",
                "metadata_file_name => 'v12.metadata.json'",
            ],
            Some("CALL iceberg.system.unregister_table("),
        ),
        (Target::ClickHouse, true) => (&["VIEW cdrs AS\nSELECT * FROM deltaLake"], None),
        (Target::ClickHouse, false) => (&["VIEW cdrs AS\nSELECT * FROM iceberg", "_iceberg"], None),
        (Target::DuckDb, true) => (&["LOAD delta;", "delta_scan('", "cdrs.dt IS"], None),
        (Target::DuckDb, false) => (&["LOAD iceberg;", "iceberg_scan('", "/_iceberg')"], None),
        (Target::Redshift | Target::Postgres, _) => unreachable!("{target} reads no log"),
    }
}

#[test]
fn a_table_that_reads_a_log_has_what_the_warehouse_needs_and_no_pattern() {
    for (target, lake, source) in combinations(&[DELTA, ICEBERG]) {
        let Source::Log(format) = source else {
            unreachable!("only logs")
        };
        let can = target.formats().contains(&format);
        let table = match reading(target, lake, source) {
            Ok(table) => table,
            Err(DdlError::Unreadable { .. }) if !can => continue,
            Err(DdlError::OutOfReach { .. }) if can => continue,
            Err(error) => panic!("{target}, {format}, {lake}: {error}"),
        };
        let definition = table.definition(&Periods::new());
        let (contained, after) = needs(target, source);
        for needed in contained {
            assert!(
                definition.contains(needed),
                "{target}: {needed}: {definition}"
            );
        }
        assert!(definition.starts_with("-- "), "{definition}");
        assert!(!definition.contains("*.parquet"), "{definition}");
        let load = table.load(&Periods::new());
        match after {
            Some(statement) => assert!(load.contains(statement), "{target}: {load}"),
            None => assert!(
                load.ends_with("nothing to do after a run.\n"),
                "{target}: {load}"
            ),
        }
        let is_refreshed = table.after_run() == AfterRun::Refresh;
        assert_eq!(is_refreshed, after.is_some(), "{target}, {format}");
    }
}

#[test]
fn paths_for_snowflake_begin_in_the_bucket_or_in_the_container() {
    for (lake, expected) in [
        ("s3://bucket/a/lake", "BASE_LOCATION = 'a/lake'"),
        ("s3://bucket", "BASE_LOCATION = '/'"),
        ("gs://bucket/lake", "BASE_LOCATION = 'lake'"),
        ("az://container/lake", "BASE_LOCATION = 'lake'"),
    ] {
        let definition = reading(Target::Snowflake, lake, DELTA).unwrap();
        let definition = definition.definition(&Periods::new());
        assert!(definition.contains(expected), "{definition}");
    }
}

#[test]
fn a_lake_with_table_formats_is_read_by_its_log_or_copied_unless_files_are_asked_for() {
    use TableFormat::{Delta, Iceberg};
    for target in Target::ALL {
        assert_eq!(target.best_source(&[]), Ok(Source::AllFiles));
        let both = target.best_source(&[Delta, Iceberg]).unwrap();
        let expected = match target {
            Target::Redshift | Target::Postgres => Source::CurrentFiles,
            _ => DELTA,
        };
        assert_eq!(both, expected, "{target}");
        let iceberg = match target {
            Target::Athena => Err(DdlError::Unreadable {
                target,
                format: Iceberg,
            }),
            Target::Databricks | Target::Redshift | Target::Postgres => Ok(Source::CurrentFiles),
            _ => Ok(ICEBERG),
        };
        assert_eq!(target.best_source(&[Iceberg]), iceberg, "{target}");
    }
}

#[test]
fn a_definition_that_reads_every_file_of_a_lake_with_table_formats_warns() {
    let file = |path: &str| Content::File(path.to_owned());
    let slices = [(
        Direction::Placed,
        file("cdrs/dt=2026-10-01/placed-5f0c.parquet"),
    )];
    let days = Periods::from([(period("2026-10-01"), slices.into())]);
    for (target, lake, source) in combinations(&[Source::AllFiles, Source::CurrentFiles]) {
        let Ok(table) = reading(target, lake, source) else {
            continue;
        };
        let definition = table.definition(&days);
        let reads_all = matches!(target, Target::Athena | Target::Spark | Target::Trino);
        let warns = definition.contains("WARNING") && definition.contains("count twice");
        assert_eq!(
            warns,
            reads_all && source == Source::CurrentFiles,
            "{definition}"
        );
        let is_copy = definition.starts_with("-- This is a copy of the rows. In place, ");
        let copies = target.copies() && source == Source::CurrentFiles;
        assert_eq!(is_copy, copies, "{definition}");
        if target == Target::DuckDb {
            let lists = definition.contains("placed-5f0c.parquet'\n]");
            assert_eq!(lists, source == Source::CurrentFiles, "{definition}");
            assert_eq!(definition.contains("*.parquet"), !lists, "{definition}");
        }
    }
}

#[test]
fn names_and_addresses_that_would_need_quotes_are_refused() {
    let first = period("2026-10-01");
    let named = |name| Table::try_new(Target::DuckDb, name, "/lake", None, first, Source::AllFiles);
    for name in ["cdrs", "raw.cdrs", "a.b.c", "_x1"] {
        assert!(named(name).is_ok(), "{name}");
    }
    for name in ["", "a b", "a;drop", "a..b", "1a", "a-b", "\"a\"", "a'"] {
        assert!(matches!(named(name), Err(DdlError::Name { .. })), "{name}");
    }
    let google = Table::try_new(
        Target::BigQuery,
        "my-project.raw.cdrs",
        "gs://b",
        None,
        first,
        Source::AllFiles,
    );
    assert!(
        google
            .unwrap()
            .definition(&Periods::new())
            .contains("`my-project.raw.cdrs`")
    );
    for lake in [
        "/it's", "/a\"b", "/a\\b", "/a*b", "/a[1]", "/a\nb", "/a;b", "/a%20b",
    ] {
        let error = table(Target::DuckDb, lake).unwrap_err();
        assert!(matches!(error, DdlError::Address { .. }), "{lake}");
    }
}

#[test]
fn a_misspelled_target_gets_a_suggestion() {
    let error = "snowflke".parse::<Target>().unwrap_err();
    assert!(error.ends_with("Did you mean snowflake?"), "{error}");
    assert!("oracle".parse::<Target>().unwrap_err().contains("postgres"));
    for target in Target::ALL {
        assert_eq!(target.as_str().parse(), Ok(target));
    }
}

/// A table of a lake of months.
fn of_months(target: Target) -> Table {
    let lakes = LAKES.into_iter().rev();
    let mut tables = lakes.filter_map(|lake| {
        let month = period("2026-10");
        Table::try_new(
            target,
            "cdrs",
            lake,
            Some("account"),
            month,
            Source::AllFiles,
        )
        .ok()
    });
    tables.next().unwrap()
}

#[test]
fn a_load_of_a_month_replaces_all_days_of_the_month_and_no_others() {
    let path = "cdrs/dt=2026-10-01/placed-2026-10.parquet";
    let with_file = Slices::from([(Direction::Placed, Content::File(path.to_owned()))]);
    let without = Slices::from([(Direction::Placed, Content::NoRows)]);
    for target in Target::ALL.into_iter().filter(|target| target.copies()) {
        let table = of_months(target);
        let of_month = match target {
            Target::ClickHouse => "PARTITION 202610",
            _ => "source_day BETWEEN DATE '2026-10-01' AND DATE '2026-10-31'",
        };
        let load = table.load(&[(period("2026-10"), with_file.clone())].into());
        assert_eq!(load.matches(of_month).count(), 1, "{target}: {load}");
        assert_eq!(load.matches("placed-2026-10.parquet").count(), 1, "{load}");
        let load = table.load(&[(period("2026-10"), without.clone())].into());
        assert_eq!(load.matches(of_month).count(), 1, "{target}: {load}");
        assert!(!load.contains(".parquet"), "{target}: {load}");
    }
    let nothing = of_months(Target::Redshift).load(&Periods::new());
    assert_eq!(nothing, "-- There is no month to load.\n");
}

#[test]
fn a_table_that_is_partitioned_by_period_has_the_partitions_of_months() {
    for (target, expected) in [
        (
            Target::BigQuery,
            "PARTITION BY DATE_TRUNC(source_day, MONTH)\n",
        ),
        (Target::ClickHouse, "PARTITION BY toYYYYMM(source_day)\n"),
        (Target::Athena, "'projection.dt.range' = '2026-10-01,NOW'"),
        (Target::Athena, "'projection.dt.interval.unit' = 'MONTHS'"),
        (Target::Spark, "DATE COMMENT 'First day of the month under"),
        (Target::Trino, "DATE COMMENT 'First day of the month under"),
        (Target::DuckDb, "dt IS 'First day of the month under"),
    ] {
        let definition = of_months(target).definition(&Periods::new());
        assert!(definition.contains(expected), "{target}: {definition}");
    }
}
