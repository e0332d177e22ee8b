//! The conversion of a lake of days into months, by the program itself.

use std::fmt::Write;

use crate::server::Server;
use crate::support::{PLACED, Workplace, block_on, read};
use crate::sweep::local;
use crate::table_logs::assert_logs_equal_the_ledger;

/// Two months with three calls a day, but none on the second day.
fn export() -> String {
    let mut lines = String::new();
    for day in (1..=59).filter(|day| *day != 2) {
        let (month, day) = if day > 31 { (2, day - 31) } else { (1, day) };
        for call in 1..=3 {
            let id = format!("{month}-{day}-{call}");
            writeln!(
                lines,
                "{{\"call_id\":\"{id}\",\"date\":\"2026-{month:02}-{day:02}T10:00:00Z\"}}"
            )
            .unwrap();
        }
    }
    lines
}

#[test]
fn the_files_of_days_become_a_file_for_each_month() {
    let server = Server::start();
    let workplace = Workplace::new(&server);
    std::fs::write(workplace.path("export"), export()).unwrap();
    let load = ["load", "export", "--reconcile", "off"];
    assert_eq!(workplace.run(&[&load[..], PLACED].concat()).status, 0);
    assert_eq!(workplace.table().len(), 58);
    // A day with a lost file is refused.
    let lost = workplace.path("lake/cdrs/dt=2026-01-05/placed-2026-01-05.parquet");
    let kept = workplace.path("kept");
    std::fs::rename(&lost, &kept).unwrap();
    let before = workplace.lake_files();
    let refused = workplace.run(&["convert", "--slice", "month"]);
    assert_eq!(refused.status, 1, "{refused:?}");
    let problem = "placed 2026-01-05: its file differs from its ledger entry. Fetch uncertain days";
    assert!(refused.stderr.contains(problem), "{refused:?}");
    assert_eq!(workplace.lake_files(), before);
    std::fs::rename(&kept, &lost).unwrap();

    let converted = workplace.run(&["convert", "--slice", "month"]);
    assert_eq!(converted.status, 0, "{converted:?}");
    let text = "The lake has a file for each month. Merged 58 files (";
    assert!(converted.stdout.starts_with(text), "{converted:?}");
    assert!(
        converted.stdout.contains(") into 2 files ("),
        "{converted:?}"
    );
    let note = "readers of the files may count calls twice";
    assert!(converted.stderr.contains(note), "{converted:?}");
    let files = [
        "dt=2026-01-01/placed-2026-01.parquet",
        "dt=2026-02-01/placed-2026-02.parquet",
    ];
    let table = workplace.table();
    assert_eq!(table.len(), 2, "{table:?}");
    for (file, rows) in files.into_iter().zip([90, 84]) {
        let path = workplace.path("lake/cdrs").join(file);
        assert_eq!(read(&path).num_rows(), rows);
    }
    let verified = workplace.run(&["verify"]);
    assert_eq!(verified.status, 0, "{verified:?}");

    let again = workplace.run(&["convert", "--slice", "month"]);
    assert_eq!(again.status, 0, "{again:?}");
    assert_eq!(
        again.stdout,
        "The lake has a file for each month already.\n"
    );
    // A configuration of days is refused, and the lake of months stays as it is.
    workplace.configure_also("[window]\nslice = \"day\"");
    let refused = workplace.run(&["status"]);
    assert_eq!(refused.status, 0, "{refused:?}");
    let refused = workplace.run(&["plan", "--last", "3"]);
    let problem = "window.slice is \"day\", but this lake has a file for each month. Set \
        window.slice back, or fill a new lake\n";
    assert!(refused.stderr.contains(problem), "{refused:?}");
}

#[test]
fn a_half_converted_lake_tells_how_to_finish_it() {
    let server = Server::start();
    let workplace = Workplace::new(&server);
    std::fs::write(workplace.path("export"), export()).unwrap();
    let load = ["load", "export", "--reconcile", "off"];
    assert_eq!(workplace.run(&[&load[..], PLACED].concat()).status, 0);
    let identity = workplace.path("lake/_cdrlake/lake.json");
    let text = std::fs::read_to_string(&identity).unwrap();
    let begun = "{\n  \"converting\": \"month\",";
    std::fs::write(&identity, text.replacen('{', begun, 1)).unwrap();
    let advice = "cdrlake convert --slice month";
    for arguments in [
        &["run", "--last", "3"][..],
        &["prune", "--older-than", "1days"],
        &["convert", "--tables", "delta"],
        &["sync"],
    ] {
        let refused = workplace.run(arguments);
        assert_ne!(refused.status, 0, "{refused:?}");
        let problem = "the lake is being converted to a file for each month";
        assert!(refused.stderr.contains(problem), "{refused:?}");
        assert!(refused.stderr.contains(advice), "{refused:?}");
    }
    for command in ["verify", "status"] {
        let told = workplace.run(&[command]);
        let text = format!("{}{}", told.stdout, told.stderr);
        assert!(text.contains(advice), "{command}: {told:?}");
    }
    assert_eq!(workplace.run(&["convert", "--slice", "month"]).status, 0);
    assert_eq!(workplace.table().len(), 2);
    assert_eq!(workplace.run(&["verify"]).status, 0);
}

#[test]
fn a_lake_has_the_same_log_by_every_spelling_of_its_path_and_another_one_after_a_move() {
    let server = Server::start();
    let workplace = Workplace::new(&server);
    workplace.with_tables("delta,iceberg");
    std::fs::write(workplace.path("export"), export()).unwrap();
    let load = ["load", "export", "--reconcile", "off"];
    assert_eq!(workplace.run(&[&load[..], PLACED].concat()).status, 0);
    std::os::unix::fs::symlink("lake", workplace.path("link")).unwrap();
    let before = workplace.lake_files();
    let absolute = workplace.path("lake");
    for spelling in [
        "link",
        "./lake/",
        "link/../lake",
        absolute.to_str().unwrap(),
    ] {
        let verified = workplace.run(&["verify", "--lake", spelling]);
        assert_eq!(verified.status, 0, "{spelling}: {verified:?}");
        let synced = workplace.run(&["sync", "--lake", spelling]);
        assert_eq!(synced.status, 0, "{spelling}: {synced:?}");
        assert_eq!(workplace.lake_files(), before, "{spelling}");
    }

    std::fs::rename(workplace.path("lake"), workplace.path("moved")).unwrap();
    workplace.reconfigure("url = \"lake\"", "url = \"moved\"");
    let verified = workplace.run(&["verify"]);
    assert_eq!(verified.status, 1, "{verified:?}");
    let problem = "_iceberg: its location is file://";
    assert!(verified.stdout.contains(problem), "{verified:?}");
    // Not one for each file.
    assert!(verified.stdout.contains(": 1 finding."), "{verified:?}");
    assert_eq!(workplace.run(&["sync"]).status, 0);
    assert_eq!(workplace.run(&["verify"]).status, 0);
    // It removes what names the old place.
    assert_eq!(workplace.run(&["gc"]).status, 0);
    let store = local(&workplace.path("moved"));
    block_on(assert_logs_equal_the_ledger(&*store, "after a move"));
}

#[test]
fn a_damaged_log_is_reported_with_a_remedy_that_works() {
    for (directory, file, damage) in [
        ("_delta_log", "_delta_log/00000000000000000000.json", "mist"),
        ("_iceberg", "_iceberg/metadata/v1.metadata.json", "{}"),
    ] {
        let server = Server::start();
        let workplace = Workplace::new(&server);
        workplace.with_tables("delta,iceberg");
        std::fs::write(workplace.path("export"), export()).unwrap();
        let load = [&["load", "export", "--reconcile", "off"], PLACED].concat();
        assert_eq!(workplace.run(&load).status, 0);
        std::fs::write(workplace.path("lake").join(file), damage).unwrap();
        let problem = format!("{file} is damaged: ");
        let remedy = format!(
            "Move the directory {directory} out of the lake. The next commit writes the log again \
             from the ledger, without its history"
        );
        let command = "Once it is out, `cdrlake sync` does this";

        // The slices are committed.
        std::fs::write(workplace.path("export"), export().replace("10:00", "11:00")).unwrap();
        let loaded = workplace.run(&[&load[..], &["--refresh"]].concat());
        assert_eq!(loaded.status, 1, "{loaded:?}");
        let text = "error: the ledger has the committed slices, but a log, or its catalog, lacks \
                    them: the log of ";
        assert!(loaded.stderr.contains(text), "{loaded:?}");
        assert!(!loaded.stderr.contains("the run was stopped"), "{loaded:?}");
        assert!(loaded.stderr.contains(&remedy), "{loaded:?}");
        let status = workplace.run(&["status"]);
        let text = "The next run commits them, unless a log is damaged. `cdrlake sync` does it \
                    now, or says why it cannot";
        let told = format!("{}{}", status.stdout, status.stderr);
        assert!(told.contains(text), "{status:?}");

        let verified = workplace.run(&["verify"]);
        assert_eq!(verified.status, 1, "{verified:?}");
        for text in [&*problem, &remedy, command] {
            assert!(verified.stdout.contains(text), "{text}: {verified:?}");
        }
        assert!(!verified.stdout.contains("To repair"), "{verified:?}");
        let repaired = workplace.run(&["verify", "--repair"]);
        assert_eq!(repaired.status, 1, "{repaired:?}");
        let text = "1 finding, 1 left after the repair";
        assert!(repaired.stdout.contains(text), "{repaired:?}");
        let synced = workplace.run(&["sync"]);
        assert_eq!(synced.status, 1, "{synced:?}");
        for text in [&*problem, &remedy, command] {
            assert!(synced.stderr.contains(text), "{text}: {synced:?}");
        }

        std::fs::rename(
            workplace.path("lake").join(directory),
            workplace.path("out"),
        )
        .unwrap();
        assert_eq!(workplace.run(&["sync"]).status, 0);
        assert_eq!(workplace.run(&["verify"]).status, 0);
        let store = local(&workplace.path("lake"));
        block_on(assert_logs_equal_the_ledger(&*store, directory));
    }
}

#[test]
fn a_conversion_of_table_formats_tells_what_it_removed_and_what_the_configuration_needs() {
    let server = Server::start();
    let workplace = Workplace::new(&server);
    workplace.with_tables("delta");
    std::fs::write(workplace.path("export"), export()).unwrap();
    let load = ["load", "export", "--reconcile", "off"];
    let convert = |tables: &str| workplace.run(&["convert", "--tables", tables]);
    assert_eq!(workplace.run(&[&load[..], PLACED].concat()).status, 0);

    let converted = convert("iceberg");
    assert_eq!(
        converted.stdout,
        "The lake has the log of Apache Iceberg.\n\
         Removed the log of Delta Lake, with its history.\n\
         Set lake.tables in pipeline.toml to [\"iceberg\"]. Until then, no run can begin.\n",
        "{converted:?}"
    );
    assert!(!workplace.path("lake/_delta_log").exists());
    let refused = workplace.run(&["sync"]);
    assert_eq!(refused.status, 2, "{refused:?}");
    let text = "Set lake.tables to [\"iceberg\"], or convert the lake";
    assert!(refused.stderr.contains(text), "{refused:?}");

    workplace.reconfigure("tables = [\"delta\"]", "tables = [\"delta\", \"iceberg\"]");
    let converted = convert("delta,iceberg");
    let text = "The lake has the logs of Delta Lake and Apache Iceberg.\n";
    assert_eq!(converted.stdout, text, "{converted:?}");
    let synced = workplace.run(&["sync"]);
    let text = "The logs of Delta Lake and Apache Iceberg are up to date.\n";
    assert_eq!(synced.stdout, text, "{synced:?}");
    std::fs::remove_dir_all(workplace.path("lake/_delta_log")).unwrap();
    let synced = workplace.run(&["sync"]);
    let text = "Committed to the log of Delta Lake. The other one is up to date.\n";
    assert_eq!(synced.stdout, text, "{synced:?}");

    std::fs::write(workplace.path("lake/_delta_log/notes"), "mine").unwrap();
    let converted = convert("delta");
    let text = "Removed the log of Apache Iceberg, with its history.\n";
    assert!(converted.stdout.contains(text), "{converted:?}");
    assert!(!workplace.path("lake/_iceberg").exists());
    assert!(workplace.path("lake/_delta_log/notes").exists());

    for plain in ["none", ""] {
        let refused = convert(plain);
        assert_eq!(refused.status, 2, "{refused:?}");
        let text = "cannot become a plain one, because readers of its logs would lose their files. \
                    Fill a new lake instead";
        assert!(refused.stderr.contains(text), "{refused:?}");
    }
    let refused = workplace.run(&["convert", "--slice", "day"]);
    assert_eq!(refused.status, 2, "{refused:?}");
    let text = "a lake of months cannot become a lake of days, because nothing splits its files. \
                Fill a new lake instead";
    assert!(refused.stderr.contains(text), "{refused:?}");
}
