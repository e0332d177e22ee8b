use crate::server::Server;
use crate::support::{DAY, Workplace, calls, serving};

fn lake() -> (Server, Workplace) {
    let (server, workplace) = serving(&calls(0, 3), 3);
    assert_eq!(workplace.run_day(&[]).status, 0);
    (server, workplace)
}

fn ddl(workplace: &Workplace, target: &str, more: &[&str]) -> String {
    let ran = workplace.run(
        &[
            &["ddl", "--target", target, "--location", "s3://bucket/lake"],
            more,
        ]
        .concat(),
    );
    assert_eq!(ran.status, 0, "{ran:?}");
    ran.stdout
}

#[test]
fn the_statements_after_a_run_load_the_days_that_it_changed() {
    let (server, workplace) = lake();
    server.serve(
        "placed",
        "2026-10-02",
        calls(10, 2).replace(DAY, "2026-10-02"),
        2,
    );
    server.serve("received", "2026-10-02", "", 0);
    let ran = workplace.run(&[
        "run",
        "--from",
        DAY,
        "--to",
        "2026-10-02",
        "--format",
        "json",
    ]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let run = ran.report().run;
    let all = ddl(&workplace, "redshift", &["--load"]);
    assert!(
        all.contains("placed-2026-10-01.parquet") && all.contains("placed-2026-10-02.parquet"),
        "{all}"
    );
    for changed_by in [run.as_str(), "last"] {
        let changed = ddl(
            &workplace,
            "redshift",
            &["--load", "--changed-by", changed_by],
        );
        assert!(
            !changed.contains("2026-10-01") && changed.contains("placed-2026-10-02.parquet"),
            "{changed}"
        );
        assert!(
            !changed.contains("received-2026-10-02.parquet"),
            "it has no rows: {changed}"
        );
        assert!(
            changed.contains("source_day = DATE '2026-10-02' AND direction = 'received'"),
            "{changed}"
        );
    }
    let none = workplace.run(&["run", "--from", DAY, "--to", "2026-10-02"]);
    assert_eq!(none.status, 0, "{none:?}");
}

#[test]
fn changes_since_a_run_are_those_of_all_later_runs() {
    let (server, workplace) = lake();
    let load = |more: &[&str]| ddl(&workplace, "redshift", &[&["--load"], more].concat());
    let first = load(&[]);
    let line = first.lines().next().unwrap();
    let run = line
        .strip_prefix("-- As of run ")
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    assert!(load(&["--changed-since", run]).contains("There is no day to load"));
    // What is a part says nothing of the whole.
    for part in [
        &["--from", DAY][..],
        &["--to", DAY],
        &["--changed-by", "last"],
    ] {
        assert!(!load(part).contains("As of run"), "{part:?}");
    }
    for (day, first) in [("2026-10-02", 10), ("2026-10-03", 20)] {
        server.serve("placed", day, calls(first, 2).replace(DAY, day), 2);
        server.serve("received", day, "", 0);
        assert_eq!(
            workplace.run(&["run", "--from", day, "--to", day]).status,
            0
        );
    }
    let since = load(&["--changed-since", run]);
    assert!(
        since.contains("placed-2026-10-02") && since.contains("placed-2026-10-03"),
        "{since}"
    );
    assert!(!since.contains("2026-10-01"), "{since}");
}

#[test]
fn reports_are_kept_for_90_days_and_changes_since_an_older_run_are_refused() {
    let (_server, workplace) = lake();
    let runs = workplace.path("lake/_cdrlake/runs");
    let [report] = &std::fs::read_dir(&runs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect::<Vec<_>>()[..]
    else {
        panic!("one run");
    };
    let mut old: serde_json::Value =
        serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let run = "20260101T000000Z-00000000";
    old["run"] = run.into();
    old["finished_at"] = "2026-01-02T00:00:00Z".into();
    std::fs::write(runs.join(format!("{run}.json")), old.to_string()).unwrap();
    let since = ["--load", "--changed-since", run];
    assert!(ddl(&workplace, "redshift", &since).contains("2026-10-01"));

    let collected = workplace.run(&["gc"]);
    assert_eq!(
        (collected.status, &*collected.stdout),
        (
            0,
            &*format!("removed  _cdrlake/runs/{run}.json\nRemoved 1 leftover.\n")
        )
    );
    assert!(report.exists());
    let ran = workplace.run(&[&["ddl", "--target", "duckdb"], &since[..]].concat());
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(
        ran.stderr
            .contains("Load everything, without --changed-since"),
        "{ran:?}"
    );
}

#[test]
fn the_check_compares_with_the_ledger_s_totals() {
    let (_server, workplace) = lake();
    let check = ddl(&workplace, "snowflake", &["--check"]);
    assert!(
        check.contains("calls = 3 AND duration_seconds = 180"),
        "{check}"
    );
    assert!(check.contains("'0.081'"), "{check}");
}

#[test]
fn impossible_arguments_are_refused_with_their_reason() {
    let (_server, workplace) = lake();
    for (arguments, expected) in [
        (&["--target", "oracle"][..], "there is no target `oracle`"),
        (
            &["--target", "athena"],
            "athena reads Amazon S3 (s3://), but the lake is at /",
        ),
        (
            &["--target", "duckdb", "--table", "a b"],
            "the table name a b would need quotes. Use letters, digits and underscores for --table",
        ),
        (
            &["--target", "duckdb", "--location", "/it's"],
            "in a file pattern. Name the lake by another address with --location",
        ),
        (
            &["--target", "duckdb", "--load", "--changed-by", "x"],
            "no readable report of run x. The last run is ",
        ),
        (
            &[
                "--target",
                "duckdb",
                "--load",
                "--from",
                "2026-10-02",
                "--to",
                "2026-10-01",
            ],
            "the first day, 2026-10-02, is after the last day, 2026-10-01",
        ),
        (
            &["--target", "duckdb", "--check", "--lake", "elsewhere"],
            "there is no lake at elsewhere",
        ),
    ] {
        let ran = workplace.run(&[&["ddl"], arguments].concat());
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(ran.stderr.contains(expected), "{ran:?}");
        assert_eq!(ran.stdout, "");
    }
    // What the ledger is not sure of is not loaded.
    std::fs::write(
        workplace.path(format!("lake/_cdrlake/ledger/placed/{DAY}.json")),
        "{",
    )
    .unwrap();
    let ran = workplace.run(&["ddl", "--target", "duckdb", "--check"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("Run `cdrlake run` to repair it"),
        "{ran:?}"
    );
}

#[test]
fn an_unknown_run_is_reported_with_the_flag_that_names_it() {
    let (_server, workplace) = lake();
    for flag in ["--changed-by", "--changed-since"] {
        let arguments = [
            "ddl",
            "--target",
            "redshift",
            "--location",
            "s3://b/l",
            "--load",
            flag,
        ];
        let refused = |run| {
            let ran = workplace.run(&[&arguments[..], &[run]].concat());
            assert_eq!(ran.status, 2, "{ran:?}");
            ran.stderr
        };
        let no_report = refused("nope");
        std::fs::remove_dir_all(workplace.path("lake/_cdrlake/runs")).unwrap();
        for said in [no_report, refused("last"), refused("nope")] {
            let spoken = ["--changed-by", "--changed-since"].map(|flag| said.contains(flag));
            assert_eq!(
                spoken,
                [flag == "--changed-by", flag == "--changed-since"],
                "{said}"
            );
        }
        assert_eq!(workplace.run_day(&["--refresh"]).status, 0);
    }
}

/// A lake with these table formats, in which a day was replaced: each slice has two files there.
fn lake_with_tables(tables: &str) -> (Server, Workplace) {
    let (server, workplace) = serving(&calls(0, 3), 3);
    workplace.reconfigure(
        "url = \"lake\"",
        &format!("url = \"lake\"\ntables = {tables}"),
    );
    assert_eq!(workplace.run_day(&[]).status, 0);
    server.serve("placed", DAY, calls(10, 4), 4);
    assert_eq!(workplace.run_day(&["--refresh"]).status, 0);
    (server, workplace)
}

#[test]
fn a_lake_with_a_delta_log_is_read_by_it_unless_files_are_asked_for() {
    let (_server, workplace) = lake_with_tables("[\"delta\"]");
    let delta = ddl(&workplace, "duckdb", &[]);
    assert!(delta.contains("delta_scan('s3://bucket/lake')"), "{delta}");
    assert!(!delta.contains("--load"), "nothing to load: {delta}");
    let files = ddl(&workplace, "duckdb", &["--as", "files"]);
    assert_eq!(files.matches(".parquet'").count(), 1, "{files}");
    assert!(files.contains("--as files with"), "{files}");
    let load = ddl(&workplace, "duckdb", &["--as", "files", "--load"]);
    assert_eq!(load.matches(".parquet'").count(), 1, "{load}");
    for target in ["clickhouse", "databricks"] {
        let load = ddl(&workplace, target, &["--as", "files", "--load"]);
        assert_eq!(load.matches(".parquet").count(), 1, "{load}");
    }
    let spark = ddl(&workplace, "spark", &["--as", "files"]);
    assert!(spark.contains("WARNING"), "{spark}");
    let copy = ddl(&workplace, "redshift", &[]);
    assert!(copy.starts_with("-- This is a copy"), "{copy}");
    let refresh = ddl(&workplace, "snowflake", &["--load"]);
    assert!(
        refresh.starts_with("-- As of run ") && refresh.contains("TABLE cdrs REFRESH;"),
        "{refresh}"
    );
    let check = ddl(&workplace, "trino", &["--check"]);
    assert!(check.contains("FROM delta.default.cdrs AS c"), "{check}");
    for (arguments, expected) in [
        (
            &["--target", "duckdb", "--as", "iceberg"][..],
            "this lake is not a table of Apache Iceberg. Use another form with --as, or add it",
        ),
        (
            &["--target", "postgres", "--as", "delta"],
            "postgres has no statement that reads a table of Delta Lake. Use --as files",
        ),
    ] {
        let ran = workplace.run(&[&["ddl"], arguments].concat());
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(ran.stderr.contains(expected), "{ran:?}");
    }
}

#[test]
fn the_newest_metadata_file_of_iceberg_has_the_greatest_number() {
    let (_server, workplace) = lake_with_tables("[\"iceberg\"]");
    let metadata = workplace.path("lake/_iceberg/metadata");
    if metadata.exists() {
        std::fs::remove_dir_all(&metadata).unwrap();
    }
    // The lake's own address, in a form that Snowflake can read.
    let lake = workplace.path("lake").canonicalize().unwrap();
    let own = format!("s3://{}", lake.display());
    let snowflake = ["ddl", "--target", "snowflake", "--location", &own];
    let ran = workplace.run(&snowflake);
    assert_eq!(ran.status, 2, "{ran:?}");
    let expected = "this lake has no metadata of Apache Iceberg yet. Run `cdrlake sync`";
    assert!(ran.stderr.contains(expected), "{ran:?}");
    std::fs::create_dir_all(&metadata).unwrap();
    for name in [
        "v9.metadata.json",
        "v10.metadata.json",
        "v8.metadata.json",
        "vx.metadata.json",
        "version-hint.text",
        "snap-99.avro",
    ] {
        std::fs::write(metadata.join(name), "{}").unwrap();
    }
    let newest = "/lake/_iceberg/metadata/v10.metadata.json'";
    let definition = workplace.run(&snowflake).stdout;
    assert!(definition.contains("METADATA_FILE_PATH = "), "{definition}");
    assert!(definition.contains(newest), "{definition}");
    let refresh = workplace
        .run(&[&snowflake[..], &["--load"]].concat())
        .stdout;
    assert!(refresh.contains(" REFRESH '"), "{refresh}");
    assert!(refresh.contains(newest), "{refresh}");
    let ran = workplace.run(&["ddl", "--target", "athena", "--location", "s3://b/l"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("Use --as delta, after"), "{ran:?}");
}

#[test]
fn each_form_of_a_lake_out_of_reach_has_a_remedy_that_works() {
    let (_server, workplace) = lake_with_tables("[\"delta\", \"iceberg\"]");
    let copy = ["--location", "gs://b/lake"];
    for (target, arguments, expected) in [
        (
            "bigquery",
            &["--as", "files"][..],
            "Copy the directory cdrs there and name",
        ),
        (
            "bigquery",
            &["--as", "delta"],
            "Copy the directories cdrs and _delta_log there, after each run again, and name",
        ),
        (
            "bigquery",
            &["--as", "iceberg"],
            "Its metadata has the lake's address, so move the lake there, set lake.url, and run \
             `cdrlake sync`",
        ),
        (
            "bigquery",
            &[&["--as", "iceberg"], &copy[..]].concat(),
            "so it does not list those of a copy at gs://b/lake. Leave --location out, or use \
             --as delta or --as files",
        ),
        (
            "snowflake",
            &[&["--as", "iceberg", "--load"], &copy[..]].concat(),
            "so it does not list those of a copy at gs://b/lake. Leave --location out",
        ),
    ] {
        let ran = workplace.run(&[&["ddl", "--target", target], arguments].concat());
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(ran.stderr.contains(expected), "{ran:?}");
        assert_eq!(ran.stdout, "", "{ran:?}");
    }
    for form in ["delta", "files"] {
        let table = ["ddl", "--target", "bigquery", "--as", form];
        let ran = workplace.run(&[&table[..], &copy[..]].concat());
        assert_eq!(ran.status, 0, "{ran:?}");
        assert!(ran.stdout.contains("gs://b/lake"), "{ran:?}");
    }
}
