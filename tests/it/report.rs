//! `cdrlake report`: its file, its status, and lakes that it cannot read.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::server::Server;
use crate::support::{DAY, PLACED, Ran, Workplace, calls};

/// A report on the placed calls of [`DAY`].
const ARGUMENTS: [&str; 7] = [
    "report",
    "--from",
    DAY,
    "--to",
    DAY,
    "--direction",
    "placed",
];

/// A lake with the placed calls of [`DAY`], and the arguments of a report on it.
fn filled() -> (Workplace, Vec<&'static str>) {
    let server = Server::start();
    server.serve("placed", DAY, calls(0, 5), 5);
    let workplace = Workplace::new(&server);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    (workplace, ARGUMENTS.to_vec())
}

/// The data of a page.
fn data(page: &str) -> Value {
    let begin = "<script type=\"application/json\" id=\"report\">";
    let (_, rest) = page.split_once(begin).unwrap();
    let (data, _) = rest.split_once("</script>").unwrap();
    serde_json::from_str(data).unwrap()
}

/// The files of a directory, hidden ones included.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn refused(ran: &Ran, problem: &str) {
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains(problem), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
}

#[test]
fn a_page_is_written_whole_for_its_owner_only_and_named() {
    let (workplace, report) = filled();
    // An earlier page, which others may read.
    let path = workplace.path("cdrlake-report.html");
    std::fs::write(&path, "earlier").unwrap();
    let ran = workplace.run(&report);
    assert_eq!(ran.status, 0, "{ran:?}");
    let expected = format!("./cdrlake-report.html: {DAY} to {DAY}, 5 calls, ");
    assert!(ran.stdout.starts_with(&expected), "{}", ran.stdout);
    assert!(
        ran.stdout
            .ends_with("; 0 disruptions; 0 findings about how complete it is.\n")
    );
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let names = names(workplace.directory.path());
    assert_eq!(names, ["cdrlake-report.html", "lake", "pipeline.toml"]);

    let page = std::fs::read_to_string(&path).unwrap();
    let of_page = data(&page);
    assert_eq!(of_page["totals"][0]["calls"], 5);
    let json = |more: &[&str]| {
        let ran = workplace.run(&[&report[..], &["--format", "json"], more].concat());
        assert_eq!(ran.status, 0, "{ran:?}");
        ran
    };
    let printed = json(&[]).json();
    assert_eq!(printed["hours"], of_page["hours"]);
    assert!(json(&["--output", "x.json"]).stdout.starts_with("x.json: "));
    let written = std::fs::read_to_string(workplace.path("x.json")).unwrap();
    let written: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(written["totals"], printed["totals"]);
    let page = workplace.run(&[&report[..], &["--output", "-"]].concat());
    assert_eq!(data(&page.stdout)["totals"], printed["totals"]);
    // Nothing replaces a device.
    let ran = workplace.run(&[&report[..], &["--output", "/dev/null"]].concat());
    assert!(ran.stdout.starts_with("/dev/null: "), "{ran:?}");
    assert!(!Path::new("/dev/null").is_file());
}

#[test]
fn the_reader_of_a_pipe_gets_the_whole_report() {
    let (workplace, report) = filled();
    let pipe = workplace.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read_to_string(pipe).unwrap()
    });
    let ran = workplace.run(&[&report[..], &["--format", "json", "--output", "pipe"]].concat());
    assert!(ran.stdout.starts_with("pipe: "), "{ran:?}");
    let text = reader.join().unwrap();
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(read["totals"].is_array(), "{read}");
    assert!(!pipe.is_file(), "the pipe stays");
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_the_lake_is_read() {
    let (workplace, report) = filled();
    std::fs::create_dir(workplace.path("directory")).unwrap();
    for output in ["nowhere/x.html", "directory", "pipeline.toml/x.html"] {
        let ran = workplace.run(&[&report[..], &["--output", output]].concat());
        refused(&ran, &format!("cannot write {output}: "));
        assert!(ran.stderr.contains("Choose another file with --output"));
    }
    let ran = workplace.run(&["report", "--lake", "nothing"]);
    refused(&ran, "there is no lake at nothing");
    let names = names(workplace.directory.path());
    assert_eq!(names, ["directory", "lake", "pipeline.toml"]);
}

#[test]
fn a_lake_without_the_days_and_one_of_a_later_version_are_refused_with_a_remedy() {
    let (workplace, report) = filled();
    let ran = workplace.run(&["report", "--from", "2026-01-01", "--to", "2026-01-31"]);
    refused(
        &ran,
        "the lake has no calls from 2026-01-01 to 2026-01-31: it has days from ",
    );
    assert!(
        ran.stderr
            .contains("Choose other days with --from and --to")
    );
    let identity = workplace.path("lake/_cdrlake/lake.json");
    let text = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(
        &identity,
        text.replacen("\"format\": 1", "\"format\": 99", 1),
    )
    .unwrap();
    refused(&workplace.run(&report), "has format 99");
}

#[test]
fn a_damaged_file_is_reported_and_makes_the_status_1() {
    let (workplace, report) = filled();
    let [file] = &workplace.table()[..] else {
        panic!("{:?}", workplace.table());
    };
    std::fs::write(workplace.path("lake").join(file), "damaged").unwrap();
    let ran = workplace.run(&[&report[..], &["--format", "json"]].concat());
    assert_eq!(ran.status, 1, "{ran:?}");
    let finding = &ran.json()["trust"]["findings"][0];
    assert_eq!(finding["kind"], "unreadable");
    let ran = workplace.run(&report);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stdout.contains("1 finding about"), "{}", ran.stdout);
}

#[test]
fn numbers_that_the_lake_hides_are_shown_as_it_has_them() {
    let key = "0123456789abcdefghijklmnopqrstuv";
    for (mode, begins, length) in [("truncate", "1", 7), ("pseudonymize", "tel_", 36)] {
        let server = Server::start();
        let line = calls(0, 1);
        server.serve("placed", DAY, line, 1);
        let workplace = Workplace::new(&server);
        workplace.with_tables("delta,iceberg");
        workplace.configure_also(&format!(
            "[privacy]\nnumbers = \"{mode}\"\nkey = {{ env = \"PRIVACY_KEY\" }}"
        ));
        let run = |arguments: &[&str]| {
            let mut command = workplace.command(arguments);
            command.env("PRIVACY_KEY", key);
            let output = crate::support::output(command);
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        run(&["run", "--from", DAY, "--to", DAY, "--direction", "placed"]);
        for more in [None, Some("--show-numbers")] {
            let mut report = ARGUMENTS.to_vec();
            report.extend(["--format", "json"].into_iter().chain(more));
            let report: Value = serde_json::from_str(&run(&report)).unwrap();
            assert_eq!(report["numbers"], mode);
            let name = report["own_numbers"]["rows"][0]["name"].as_str().unwrap();
            assert!(name.starts_with(begins) && name.len() == length, "{name}");
        }
    }
}
