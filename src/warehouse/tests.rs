use super::*;
use crate::cdr::slice::parse_day;

const LAKES: [&str; 4] = [
    "/data/lake",
    "s3://bucket/a/lake",
    "gs://bucket/lake",
    "az://container/lake",
];

fn day(text: &str) -> Date {
    parse_day(text).unwrap()
}

fn table(target: Target, lake: &str) -> Result<Table, DdlError> {
    Table::try_new(target, "cdrs", lake, Some("account"), day("2026-10-01"))
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
        day("2026-10-01"),
    );
    assert!(matches!(unknown, Err(DdlError::OutOfReach { .. })));
}

#[test]
fn every_definition_has_every_column_in_order_with_its_comment() {
    for target in Target::ALL {
        let lake = LAKES.into_iter().find_map(|lake| table(target, lake).ok());
        let definition = lake.unwrap().definition();
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
    let days = Days::from([
        (
            day("2026-10-01"),
            slices(
                file("2026-10-01/placed-2026-10-01-a7.parquet"),
                file("2026-10-01/received-2026-10-01.parquet"),
            ),
        ),
        (
            day("2026-10-02"),
            slices(
                Content::NoRows,
                file("2026-10-02/received-2026-10-02.parquet"),
            ),
        ),
        (day("2026-10-03"), slices(Content::NoRows, Content::NoRows)),
        (
            day("2026-10-04"),
            slices(absent(true), file("2026-10-04/received-2026-10-04.parquet")),
        ),
        (day("2026-10-05"), slices(absent(true), absent(false))),
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
    let days = Days::from([
        (day("2026-10-01"), slices(paths[0], paths[1])),
        (day("2026-10-02"), slices(paths[2], paths[3])),
    ]);
    for target in Target::ALL {
        for lake in LAKES {
            let Ok(table) = table(target, lake) else {
                continue;
            };
            let load = table.load(&days);
            let statements = load.lines().filter(|line| !line.starts_with("--"));
            for line in statements {
                // ClickHouse selects every column of a query in brackets.
                let line = line.replace("SELECT * FROM (", "");
                assert!(
                    !line.contains(['*', '?', '[', '{']) || line.contains("uris = ["),
                    "{line}"
                );
                let directory = line.contains("dt=2026") && !line.contains(".parquet");
                assert!(!directory, "{target} reads a directory: {line}");
            }
            if target.copies() {
                for path in paths {
                    let file = path.rsplit('/').next().unwrap();
                    assert_eq!(load.matches(file).count(), 1, "{target}: {load}");
                }
            }
        }
    }
}

#[test]
fn names_and_addresses_that_would_need_quotes_are_refused() {
    let named = |name| Table::try_new(Target::DuckDb, name, "/lake", None, day("2026-10-01"));
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
        day("2026-10-01"),
    );
    assert!(
        google
            .unwrap()
            .definition()
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
