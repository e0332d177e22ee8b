use std::path::Path;

use serde_json::{Value, json};

use crate::server::{Server, count, response};
use crate::support::{
    DAY, FAIL_REJECT_RATIO, PLACED, Ran, Workplace, calls, hold_lease, output, ran, serving,
};

const TABLE_FILE: &str = "cdrs/dt=2026-10-01/placed-2026-10-01.parquet";
const LEDGER_FILE: &str = "_cdrlake/ledger/placed/2026-10-01.json";
const REJECTS_FILE: &str = "_cdrlake/rejects/placed/2026-10-01.ndjson.zst";

/// A lake of one day: three placed calls and a reject, no received calls.
fn lake() -> (Server, Workplace) {
    let records = format!("{}{{\"date\":\"broken\"}}\n", calls(0, 3));
    let (server, workplace) = serving(&records, 4);
    // Uncompressed: each byte of the file is a byte of a value.
    workplace.configure_also("[parquet]\ncompression = \"uncompressed\"");
    assert_eq!(workplace.run_day(&[]).status, 0);
    (server, workplace)
}

fn verify(workplace: &Workplace, more: &[&str]) -> (i32, Value) {
    let ran = workplace.run(&[&["verify", "--format", "json"], more].concat());
    (ran.status, ran.json())
}

/// Fault and path of every finding.
fn faults(findings: &Value) -> Vec<(String, String)> {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    findings
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (text(finding, "fault"), text(finding, "path")))
        .collect()
}

fn edit_ledger(lake: &Path, pointer: &str, value: Value) {
    let path = lake.join(LEDGER_FILE);
    let mut entry: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    *entry.pointer_mut(pointer).unwrap() = value;
    std::fs::write(path, entry.to_string()).unwrap();
}

#[test]
fn a_lake_that_matches_its_ledger_is_read_whole() {
    let (_server, workplace) = lake();
    let before = workplace.lake_files();
    let (status, report) = verify(&workplace, &[]);
    assert_eq!(status, 0);
    let bytes = before[TABLE_FILE].len();
    assert_eq!(
        report,
        json!({
            "slices": 2, "rows": 3, "bytes": bytes, "records": 4, "rejected": 1,
            "schema_versions": {"1": 1}, "unproven": [], "with_duplicates": [], "in_progress": [],
            "findings": [], "not_fetched": [], "looked_for_missing": false, "source": null,
            "repair": null,
        })
    );
    let ran = workplace.run(&["verify"]);
    let (first, second) = ran.stdout.split_once('\n').unwrap();
    assert_eq!(
        first,
        "1 of 4 records (25.0 %) was rejected and not stored in the table: `cdrlake rejects` shows \
         why."
    );
    assert!(
        second.starts_with("2 slices verified, 3 rows in ")
            && second.ends_with(
                " read: everything matches the ledger. Missing days were not \
                 checked: set window.start, or use --from.\n"
            ),
        "{}",
        ran.stdout
    );
    assert_eq!(workplace.lake_files(), before, "nothing is written");
    // Reading needs neither the key nor the right account.
    workplace.reconfigure("api_key = { env = \"TEST_KEY\" }\n", "");
    assert_eq!(verify(&workplace, &[]).0, 0);
    let nowhere = workplace.run(&["verify", "--lake", "nowhere"]);
    assert_eq!(nowhere.status, 2);
    assert!(nowhere.stderr.contains("there is no lake at nowhere"));
}

const DAY_REPORT: &[&str] = &["run", "--from", DAY, "--to", DAY, "--format", "json"];

/// A run with the default of `quality.fail_reject_ratio`.
fn run_strict(workplace: &Workplace, arguments: &[&str]) -> Ran {
    let mut command = workplace.command(arguments);
    command.env_remove(FAIL_REJECT_RATIO);
    ran(output(command))
}

#[test]
fn a_small_slice_with_a_tenth_of_rejects_fails() {
    let broken = |count: u32| calls(50, count).replace("\"duration\":60", "\"duration\":\"7 s\"");
    for (good, bad) in [(0, 8), (20, 10), (9, 1)] {
        let records = format!("{}{}", calls(0, good), broken(bad));
        let total = u64::from(good + bad);
        let (_server, workplace) = serving(&records, total);
        let ran = run_strict(&workplace, DAY_REPORT);
        assert_eq!(ran.status, 1, "{ran:?}");
        let error = ran.report().slices[0].error.clone().unwrap();
        let were = if bad == 1 { "was" } else { "were" };
        assert!(
            error.starts_with(&format!("{bad} of {total} records {were} rejected")),
            "{error}"
        );
        assert!(
            error.contains("quality.fail_reject_ratio is 0.1"),
            "{error}"
        );
        assert_eq!(workplace.table(), [] as [&str; 0]);
        assert_eq!(
            workplace.rejects("placed", ".failed").len() as u64,
            u64::from(bad)
        );
    }
    // One in eleven is less than a tenth.
    let (_server, workplace) = serving(&format!("{}{}", calls(0, 10), broken(1)), 11);
    assert_eq!(run_strict(&workplace, DAY_REPORT).status, 0);
    assert_eq!(run_strict(&workplace, &["verify"]).status, 0);
    let status = workplace
        .run(&["status", "--from", DAY, "--to", DAY])
        .stdout;
    assert!(
        status.contains("placed 1 of 11 rejected, received without calls"),
        "{status}"
    );
}

#[test]
fn a_slice_with_too_many_rejects_is_a_finding_until_it_is_fetched_without_them() {
    let bad = calls(50, 3).replace("\"duration\":60", "\"duration\":\"7 s\"");
    let (server, workplace) = serving(&format!("{}{bad}", calls(0, 5)), 8);
    assert_eq!(workplace.run_day(&[]).status, 0);
    assert_eq!(verify(&workplace, &[]).0, 0);
    let verify = |more: &[&str]| {
        let ran = run_strict(
            &workplace,
            &[&["verify", "--format", "json"], more].concat(),
        );
        (ran.status, ran.json())
    };
    let (status, report) = verify(&[]);
    let expected = [("too_many_rejects".to_owned(), REJECTS_FILE.to_owned())];
    assert_eq!((status, &*faults(&report["findings"])), (1, &expected[..]));
    let ran = run_strict(&workplace, &["verify"]);
    assert!(
        ran.stdout.contains("3 of 8 records (37.5 %) were rejected"),
        "{ran:?}"
    );
    // The same records come again: the slice fails and keeps its content.
    let before = workplace.lake_files()[TABLE_FILE].clone();
    let (status, report) = verify(&["--repair"]);
    assert_eq!(status, 1, "{report}");
    let remaining: Vec<String> = faults(&report["repair"]["remaining"])
        .into_iter()
        .map(|(fault, _)| fault)
        .collect();
    assert_eq!(remaining, ["failed", "too_many_rejects"]);
    assert_eq!(workplace.lake_files()[TABLE_FILE], before);
    server.serve("placed", DAY, calls(0, 8), 8);
    assert_eq!(verify(&["--repair"]).0, 0);
    assert_eq!(verify(&[]).0, 0);
}

#[test]
fn foreign_files_that_queries_would_read_are_found_and_removed() {
    let (_server, workplace) = lake();
    let put = |name: &str| {
        let target = workplace.path("lake").join(name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(workplace.path("lake").join(TABLE_FILE), target).unwrap();
    };
    let found = |arguments: &[&str]| {
        let (status, report) = verify(&workplace, arguments);
        let paths: Vec<String> = faults(&report["findings"])
            .into_iter()
            .map(|(_, path)| path)
            .collect();
        assert!(status == 1 || paths.is_empty(), "{report}");
        paths
    };
    let copy = "cdrs/dt=2026-10-01/part-0.parquet";
    put(copy);
    let day = ["--from", DAY, "--to", DAY];
    let received = [&day[..], &["--direction", "received"]].concat();
    assert_eq!(found(&day), [copy]);
    assert_eq!(found(&received), [copy]);
    let elsewhere = ["--from", "2026-10-02", "--to", "2026-10-03"];
    assert_eq!(found(&elsewhere), [] as [&str; 0]);
    for command in [&["plan"][..], &["run", "--strict"]] {
        let ran = workplace.run(&[command, &day].concat());
        assert_eq!(
            ran.status,
            if command[0] == "plan" { 0 } else { 3 },
            "{ran:?}"
        );
        // The result of a run has the remedy, and what `plan` prints on standard error.
        let printed = format!("{}{}", ran.stdout, ran.stderr);
        assert!(
            printed.contains("part-0.parquet. Remove them with `cdrlake verify --repair`"),
            "{ran:?}"
        );
    }
    let plan = workplace.run(&[&["plan"][..], &elsewhere].concat());
    assert!(!plan.stderr.contains("part-0"), "{plan:?}");
    // Every query reads files outside the partitions.
    put("cdrs/all.parquet");
    put("cdrs/dt=unknown/x.parquet");
    assert_eq!(
        found(&elsewhere),
        ["cdrs/all.parquet", "cdrs/dt=unknown/x.parquet"]
    );
    // The slice of this file has no rows.
    let others = "cdrs/dt=2026-10-01/received-2026-10-01.parquet";
    put(others);
    let placed = [&day[..], &["--direction", "placed"]].concat();
    assert!(found(&placed).contains(&others.to_owned()));
    assert_eq!(
        verify(&workplace, &[&placed[..], &["--repair"]].concat()).0,
        0
    );
    assert_eq!(workplace.table(), [TABLE_FILE]);
}

/// A kind of damage, and the fault and path of its finding.
type Harm = (&'static str, fn(&Path), &'static str, &'static str);

const HARMS: &[Harm] = &[
    (
        "the file is cut",
        |lake| {
            let whole = std::fs::read(lake.join(TABLE_FILE)).unwrap();
            std::fs::write(lake.join(TABLE_FILE), &whole[..whole.len() / 2]).unwrap();
        },
        "damaged_file",
        TABLE_FILE,
    ),
    (
        "a byte of a value is another",
        |lake| {
            let mut bytes = std::fs::read(lake.join(TABLE_FILE)).unwrap();
            let charge = 27_000_000_i64.to_le_bytes();
            let at = bytes
                .windows(8)
                .position(|window| window == charge)
                .unwrap();
            bytes[at] ^= 1;
            std::fs::write(lake.join(TABLE_FILE), bytes).unwrap();
        },
        "damaged_file",
        TABLE_FILE,
    ),
    (
        "the file is full of zeros",
        |lake| {
            let length = std::fs::metadata(lake.join(TABLE_FILE)).unwrap().len();
            std::fs::write(lake.join(TABLE_FILE), vec![0; length as usize]).unwrap();
        },
        "damaged_file",
        TABLE_FILE,
    ),
    (
        "the file is gone",
        |lake| std::fs::remove_file(lake.join(TABLE_FILE)).unwrap(),
        "missing_file",
        TABLE_FILE,
    ),
    (
        "the sums in the ledger are others",
        |lake| edit_ledger(lake, "/committed/totals/charge_usd", json!("0.082")),
        "damaged_ledger",
        LEDGER_FILE,
    ),
    (
        "the digest in the ledger is another",
        |lake| {
            let digest = format!("v2:3:{:032x}", 7);
            edit_ledger(lake, "/committed/digest", json!(digest));
        },
        "damaged_ledger",
        LEDGER_FILE,
    ),
    (
        "the ledger entry is cut",
        |lake| std::fs::write(lake.join(LEDGER_FILE), "{\"format\":1").unwrap(),
        "damaged_ledger",
        LEDGER_FILE,
    ),
    (
        "the ledger entry is gone",
        |lake| std::fs::remove_file(lake.join(LEDGER_FILE)).unwrap(),
        "unexpected_file",
        TABLE_FILE,
    ),
    (
        "a slice without rows has a file",
        |lake| {
            let other = "cdrs/dt=2026-10-01/received-2026-10-01.parquet";
            std::fs::copy(lake.join(TABLE_FILE), lake.join(other)).unwrap();
        },
        "unexpected_file",
        "cdrs/dt=2026-10-01/received-2026-10-01.parquet",
    ),
    (
        "a run crashed while it published the slice",
        |lake| {
            let digest = format!("v2:0:{:032x}", 0);
            edit_ledger(
                lake,
                "/pending",
                json!({"run": "dead", "token": "dead", "file": null, "digest": digest}),
            );
        },
        "interrupted",
        LEDGER_FILE,
    ),
    (
        "the rejects are gone",
        |lake| std::fs::remove_file(lake.join(REJECTS_FILE)).unwrap(),
        "rejects",
        REJECTS_FILE,
    ),
    (
        "the rejects are others",
        |lake| std::fs::write(lake.join(REJECTS_FILE), "x").unwrap(),
        "rejects",
        REJECTS_FILE,
    ),
    (
        "rejects belong to no slice",
        |lake| {
            let stray = "_cdrlake/rejects/placed/2026-10-01.failed.ndjson.zst";
            std::fs::copy(lake.join(REJECTS_FILE), lake.join(stray)).unwrap();
        },
        "foreign",
        "_cdrlake/rejects/placed/2026-10-01.failed.ndjson.zst",
    ),
    (
        "the table has a file that belongs to no slice",
        |lake| std::fs::write(lake.join("cdrs/dt=2026-10-01/x.parquet#1"), "x").unwrap(),
        "foreign",
        "cdrs/dt=2026-10-01/x.parquet#1",
    ),
    (
        "a link to nowhere lies in the table",
        |lake| std::os::unix::fs::symlink("/nowhere/at/all", lake.join("cdrs/link")).unwrap(),
        "foreign",
        "cdrs/link",
    ),
    (
        "a crashed run left its spool",
        |lake| {
            std::fs::write(lake.join("_cdrlake/staging/placed-2026-09-01.parquet"), "x").unwrap();
        },
        "leftover",
        "_cdrlake/staging/placed-2026-09-01.parquet",
    ),
    (
        "a crashed run left a staged ledger entry",
        |lake| {
            std::fs::write(
                lake.join("_cdrlake/staging/_cdrlake-ledger-placed.swap"),
                "x",
            )
            .unwrap();
        },
        "leftover",
        "_cdrlake/staging/_cdrlake-ledger-placed.swap",
    ),
];

#[test]
fn every_fault_is_reported_and_repaired() {
    for (name, harm, fault, path) in HARMS {
        let (_server, workplace) = lake();
        let lake = workplace.path("lake");
        let before = workplace.lake_files();
        harm(&lake);
        let harmed = workplace.lake_files();

        let (status, report) = verify(&workplace, &[]);
        let expected = [((*fault).to_owned(), (*path).to_owned())];
        assert_eq!(
            (status, faults(&report["findings"])),
            (1, expected.to_vec()),
            "{name}"
        );
        assert_eq!(workplace.lake_files(), harmed, "{name}: it only looks");
        let text = workplace.run(&["verify"]);
        assert!(text.stdout.contains(path), "{name}: {}", text.stdout);
        let command = if report["findings"][0]["slice"].is_null() {
            "\n  cdrlake verify --repair\n".to_owned()
        } else {
            let direction = report["findings"][0]["slice"]["direction"]
                .as_str()
                .unwrap();
            format!("\n  cdrlake verify --repair --from {DAY} --to {DAY} --direction {direction}\n")
        };
        assert!(text.stdout.contains(&command), "{name}: {}", text.stdout);

        let (status, report) = verify(&workplace, &["--repair"]);
        assert_eq!(
            (status, &report["repair"]["remaining"]),
            (0, &json!([])),
            "{name}: {report}"
        );
        assert_eq!(verify(&workplace, &[]).0, 0, "{name}");
        let names = |files: &std::collections::BTreeMap<String, Vec<u8>>| {
            files.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(names(&workplace.lake_files()), names(&before), "{name}");
        assert_eq!(workplace.rows("placed").num_rows(), 3, "{name}");
    }
}

#[test]
fn the_printed_commands_repair_the_findings() {
    for (name, harm, _, _) in HARMS {
        let (_server, workplace) = lake();
        harm(&workplace.path("lake"));
        let text = workplace.run(&["verify"]).stdout;
        let commands: Vec<Vec<&str>> = text
            .lines()
            .filter_map(|line| line.strip_prefix("  cdrlake "))
            .map(|command| command.split(' ').collect())
            .collect();
        assert_eq!(commands.len(), 1, "{name}: {text}");
        let ran = workplace.run(&commands[0]);
        assert_eq!(ran.status, 0, "{name}: {ran:?}");
        assert_eq!(verify(&workplace, &[]).0, 0, "{name}");
    }
}

#[test]
fn a_newer_entry_is_reported_and_left_alone() {
    let (_server, workplace) = lake();
    edit_ledger(&workplace.path("lake"), "/format", json!(2));
    let harmed = workplace.lake_files();
    let (status, report) = verify(&workplace, &["--repair"]);
    assert_eq!(status, 1);
    assert_eq!(report["repair"]["remaining"], report["findings"]);
    assert_eq!(report["findings"][0]["fault"], "newer_ledger");
    assert_eq!(workplace.lake_files(), harmed);
}

#[test]
fn the_provider_is_asked_again_on_request() {
    let (server, workplace) = lake();
    assert_eq!(verify(&workplace, &["--source"]).0, 0);
    let more = format!("{}{{\"date\":\"broken\"}}\n", calls(0, 5));
    server.serve("placed", DAY, more, 6);
    assert_eq!(verify(&workplace, &[]).0, 0, "the lake is what it was");
    let (status, report) = verify(&workplace, &["--source"]);
    assert_eq!(
        (status, &report["findings"][0]["problem"]),
        (1, &json!("the provider counts 6 calls, 4 were read"))
    );
    let received = verify(&workplace, &["--source", "--direction", "received"]);
    assert_eq!((received.0, &received.1["slices"]), (0, &json!(1)));
    assert_eq!(
        verify(&workplace, &["--source", "--to", "2026-09-30"]).1["slices"],
        0
    );
    let (status, report) = verify(&workplace, &["--source", "--repair"]);
    assert_eq!((status, &report["repair"]["remaining"]), (0, &json!([])));
    assert_eq!(workplace.rows("placed").num_rows(), 5);

    // Findings that a repair cannot resolve remain.
    server.serve("placed", DAY, calls(0, 2), 2);
    let (status, report) = verify(&workplace, &["--source", "--repair"]);
    assert_eq!(status, 1);
    assert_eq!(
        faults(&report["repair"]["remaining"]),
        [("failed".to_owned(), LEDGER_FILE.to_owned())]
    );
    assert_eq!(workplace.rows("placed").num_rows(), 5);
}

#[test]
fn a_slice_is_not_judged_while_a_run_publishes_it_but_is_while_leased() {
    let (_server, workplace) = lake();
    let lake = workplace.path("lake");
    let staged = "_cdrlake/staging/placed-2026-10-01.parquet";
    std::fs::write(lake.join(staged), "half").unwrap();
    let lease = hold_lease(&workplace);
    assert_eq!(
        verify(&workplace, &[]).0,
        0,
        "a live run's spool is no finding"
    );
    // The holder of the lease has announced no change.
    let whole = std::fs::read(lake.join(TABLE_FILE)).unwrap();
    std::fs::remove_file(lake.join(TABLE_FILE)).unwrap();
    let (status, report) = verify(&workplace, &[]);
    assert_eq!(
        (status, &report["findings"][0]["fault"]),
        (1, &json!("missing_file"))
    );
    std::fs::write(lake.join(TABLE_FILE), whole).unwrap();
    // Now it has announced one.
    let digest = format!("v2:0:{:032x}", 0);
    let pending = json!({"run": "r", "token": "t", "file": null, "digest": digest});
    edit_ledger(&lake, "/pending", pending);
    let (status, report) = verify(&workplace, &[]);
    assert_eq!(
        (status, &report["findings"], &report["in_progress"]),
        (1, &json!([]), &json!([{"day": DAY, "direction": "placed"}])),
        "what cannot be judged is not proven"
    );
    drop(lease);
    let (status, report) = verify(&workplace, &[]);
    assert_eq!((status, faults(&report["findings"]).len()), (1, 2));
}

#[test]
fn missing_and_failed_slices_leave_a_lake_unproven() {
    let (server, workplace) = lake();
    workplace.configure_also("[window]\nstart = 2026-09-30");
    let (status, report) = verify(&workplace, &["--to", DAY]);
    let missing = ["placed", "received"]
        .map(|direction| json!({"day": "2026-09-30", "direction": direction}));
    assert_eq!((status, &report["not_fetched"]), (1, &json!(missing)));
    let ran = workplace.run(&["verify", "--to", DAY]);
    assert!(
        ran.stdout
            .contains("\n  cdrlake run --from 2026-09-30 --to 2026-09-30\n")
            && !ran.stdout.contains("everything")
            && ran.stdout.contains("but 2 slices are missing."),
        "{}",
        ran.stdout
    );
    server.serve("placed", "2026-09-30", calls(0, 1), 2);
    assert_eq!(workplace.run(&["run", "--to", "2026-09-30"]).status, 1);
    let (status, report) = verify(&workplace, &["--direction", "placed", "--to", DAY]);
    assert_eq!(
        (status, faults(&report["findings"])),
        (
            1,
            vec![(
                "failed".to_owned(),
                "_cdrlake/ledger/placed/2026-09-30.json".to_owned()
            )]
        )
    );
    let elsewhere = server.url().replace("127.0.0.1", "localhost");
    let arguments = [
        "verify",
        "--repair",
        "--to",
        "2026-09-30",
        "--direction",
        "placed",
    ];
    let repaired = workplace.run(&[&arguments[..], &["--source-url", &elsewhere]].concat());
    assert_eq!(repaired.status, 1, "{repaired:?}");
    let other = format!(
        "source.url is {elsewhere}/, but this lake was created with {}/. If both have the calls of \
         the same account, set source_url in _cdrlake/lake.json to the new address",
        server.url()
    );
    assert!(repaired.stderr.contains(&other), "{repaired:?}");
    let problem = "the provider counts 2 calls, 1 was read";
    assert_eq!(repaired.stdout.matches(problem).count(), 1, "{repaired:?}");
    let unchanged = "Not repaired: all findings above remain.";
    assert!(repaired.stdout.contains(unchanged), "{repaired:?}");
    let nothing = workplace.run(&["verify", "--from", "2026-10-05", "--to", "2026-10-01"]);
    assert_eq!(nothing.status, 2);
    assert!(
        nothing
            .stderr
            .contains("the first day, 2026-10-05, is after the last day, 2026-10-01. Check --from")
    );
}

/// A repair that cannot fetch must not lose anything.
#[test]
fn a_repair_without_the_provider_loses_no_rows() {
    for (name, harm, _, _) in HARMS {
        let (server, workplace) = lake();
        let lake = workplace.path("lake");
        harm(&lake);
        let harmed = workplace.lake_files();
        server.on("/", [response("503 Service Unavailable", "", "no")]);
        for (direction, day) in [("placed", DAY), ("received", DAY)] {
            let query = format!("?from={day}&to={day}&type={direction}");
            for resource in ["/v1/cdrs/all", "/v1/cdrs"] {
                server.on(
                    &format!("{resource}{query}"),
                    [response("503 Service Unavailable", "", "no")],
                );
            }
        }
        let (_, report) = verify(&workplace, &["--repair"]);
        let removed = &report["repair"]["removed"];
        for (path, content) in &harmed {
            let was_removed = removed.as_array().unwrap().contains(&json!(path));
            // Foreign files are removed, and the ledger records a failure; all else stays.
            if !was_removed && !path.starts_with("_cdrlake/ledger/") {
                assert_eq!(
                    workplace.lake_files().get(path),
                    Some(content),
                    "{name}: {path}"
                );
            }
        }
        server
            .serve(
                "placed",
                DAY,
                format!("{}{{\"date\":\"broken\"}}\n", calls(0, 3)),
                4,
            )
            .serve("received", DAY, "", 0);
        assert_eq!(workplace.run_day(&[]).status, 0, "{name}");
        assert_eq!(verify(&workplace, &["--repair"]).0, 0, "{name}");
        assert_eq!(workplace.rejects("placed", "").len(), 1, "{name}");
    }
}

#[test]
fn whichever_byte_of_a_file_changes_verify_detects_it_without_a_panic() {
    let (_server, workplace) = lake();
    let path = workplace.path("lake").join(TABLE_FILE);
    let whole = std::fs::read(&path).unwrap();
    // Every byte of the footer, and some of everything else.
    let footer = whole.len() - 2_000;
    let places: Vec<usize> = (0..whole.len())
        .filter(|at| *at >= footer || at % 97 == 0)
        .step_by(23)
        .collect();
    for at in places {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        std::fs::write(&path, bytes).unwrap();
        let (status, report) = verify(&workplace, &[]);
        assert_eq!(
            (status, faults(&report["findings"])),
            (1, vec![("damaged_file".to_owned(), TABLE_FILE.to_owned())]),
            "{at}"
        );
    }
}

#[test]
fn a_linked_partition_is_verified_and_a_copy_of_another_day_is_foreign() {
    let (_server, workplace) = lake();
    let lake = workplace.path("lake");
    let elsewhere = workplace.path("cold");
    std::fs::rename(lake.join("cdrs/dt=2026-10-01"), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, lake.join("cdrs/dt=2026-10-01")).unwrap();
    assert_eq!(verify(&workplace, &[]).0, 0);
    assert!(
        workplace
            .run_day(&["--dry-run"])
            .stdout
            .contains("\"due\": []")
    );

    let copy = lake.join("cdrs/dt=2026-09-09");
    std::fs::create_dir(&copy).unwrap();
    std::fs::copy(
        lake.join(TABLE_FILE),
        copy.join("placed-2026-09-09.parquet"),
    )
    .unwrap();
    let (_, report) = verify(&workplace, &[]);
    assert_eq!(
        faults(&report["findings"]),
        [(
            "foreign".to_owned(),
            "cdrs/dt=2026-09-09/placed-2026-09-09.parquet".to_owned()
        )]
    );
    assert_eq!(verify(&workplace, &["--repair"]).0, 0);
    assert!(!copy.join("placed-2026-09-09.parquet").exists());
    assert!(lake.join(TABLE_FILE).exists());
}

#[test]
fn a_backup_in_the_ledger_is_reported_and_left_alone() {
    let (_server, workplace) = lake();
    let backup = workplace.path("lake").join(format!("{LEDGER_FILE}.bak"));
    std::fs::write(&backup, "x").unwrap();
    assert_eq!(verify(&workplace, &["--repair"]).0, 1);
    assert!(backup.exists());
}

#[test]
fn an_unreadable_ledger_entry_stops_only_its_slice() {
    let (_server, workplace) = lake();
    let path = workplace.path("lake").join(LEDGER_FILE);
    std::fs::write(&path, vec![b' '; (16 << 20) + 1]).unwrap();
    let ran = workplace.run_day(&["--refresh"]);
    assert_eq!(
        (ran.status, ran.json()["outcome"].as_str()),
        (1, Some("partial"))
    );
    assert!(
        ran.stdout.contains("too large for a file of cdrlake"),
        "{}",
        ran.stdout
    );
    assert_eq!(workplace.run(&["status"]).status, 0);
    assert_eq!(
        faults(&verify(&workplace, &["--repair"]).1["findings"]),
        [("unreadable_ledger".to_owned(), LEDGER_FILE.to_owned())]
    );
    assert_eq!(std::fs::metadata(&path).unwrap().len(), (16 << 20) + 1);
}

fn rejects(workplace: &Workplace, more: &[&str]) -> Ran {
    workplace.run(&[&["rejects"], more].concat())
}

#[test]
fn rejects_are_grouped_by_reason_with_an_example_and_without_numbers() {
    let number = "13025550101";
    let broken = [
        format!("{{\"date\":\"2026-13-01\",\"from\":\"{number}\"}}"),
        format!("{{\"date\":\"2026-02-30 10:00:00\",\"to\":{number}}}"),
        format!("{{\"date\":\"{DAY}T10:00:00Z\",\"charge\":\"$0.01\"}}"),
        format!("{{\"date\":\"{DAY}T10:00:00Z\",\"from\":\"{number}"),
    ];
    let body = format!("{}{}\n", calls(0, 3), broken.join("\n"));
    let (server, workplace) = serving(&body, 7);
    assert_eq!(workplace.run_day(&[]).status, 0);

    let ran = rejects(&workplace, &[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(!ran.stdout.contains(number), "{}", ran.stdout);
    for shown in [
        "2 records in 1 slice, on 2026-10-01\n  placed 2026-10-01, line 4, byte ",
        "\n  {\"date\":\"2026-13-01\",\"from\":\"[number]\"}\n  in \
         _cdrlake/rejects/placed/2026-10-01.ndjson.zst\n",
        "\"charge\":\"$0.01\"",
        "--show-numbers shows them",
    ] {
        assert!(ran.stdout.contains(shown), "{shown}: {}", ran.stdout);
    }
    assert!(
        rejects(&workplace, &["--show-numbers"])
            .stdout
            .contains(number)
    );
    let json = rejects(&workplace, &["--format", "json"]).json();
    let groups = json["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 3, "{json}");
    assert_eq!(
        (&groups[0]["records"], &groups[0]["example"]["line"]),
        (&json!(2), &json!(4))
    );
    assert!(
        rejects(&workplace, &["--direction", "received"])
            .stdout
            .starts_with("Nothing was rejected.")
    );

    // Rejects of a failed slice are listed separately, and replaced once it is accepted.
    let many = format!("{}{}", calls(0, 3), "{\"date\":\"no\"}\n".repeat(50));
    server.serve("placed", DAY, many, 53);
    let refresh = [PLACED, &["--refresh"]].concat();
    assert_eq!(workplace.run_day(&refresh).status, 1);
    let json = rejects(&workplace, &["--format", "json"]).json();
    let of_failed: Vec<_> = json["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| {
            (
                group["of_failed_attempts"].clone(),
                group["records"].clone(),
            )
        })
        .collect();
    assert_eq!(of_failed.len(), 4);
    assert_eq!(of_failed[3], (json!(true), json!(50)));
    assert!(
        rejects(&workplace, &[])
            .stdout
            .contains("Rejected in failed attempts")
    );
    server.serve("placed", DAY, calls(0, 4), 4);
    assert_eq!(workplace.run_day(PLACED).status, 0);
    assert!(
        rejects(&workplace, &[])
            .stdout
            .starts_with("Nothing was rejected.")
    );

    let path = workplace.path("lake").join(REJECTS_FILE);
    std::fs::write(path, "not zstd").unwrap();
    let ran = rejects(&workplace, &[]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.stdout
            .contains("cannot be read: _cdrlake/rejects/placed/"),
        "{ran:?}"
    );
}

#[test]
fn a_file_that_was_moved_is_not_removed_before_its_rows_are_back() {
    let (server, workplace) = lake();
    let lake = workplace.path("lake");
    let moved = lake.join("cdrs/dt=2026-10-01/old.parquet");
    std::fs::rename(lake.join(TABLE_FILE), &moved).unwrap();
    let query = format!("?from={DAY}&to={DAY}&type=placed");
    server
        .on(
            &format!("/v1/cdrs/all{query}"),
            [response("401 Unauthorized", "", "no")],
        )
        .on(
            &format!("/v1/cdrs{query}"),
            [response("401 Unauthorized", "", "no")],
        );
    let (status, report) = verify(&workplace, &["--repair"]);
    assert_eq!(
        (status, faults(&report["repair"]["remaining"]).len()),
        (1, 2)
    );
    assert!(moved.exists(), "it is the last copy of its rows");
    let records = format!("{}{{\"date\":\"broken\"}}\n", calls(0, 3));
    server.serve("placed", DAY, records, 4);
    assert_eq!(verify(&workplace, &["--repair"]).0, 0);
    assert!(!moved.exists() && lake.join(TABLE_FILE).exists());
}

#[test]
fn a_count_mismatch_that_a_repair_leaves_stays_a_finding() {
    let (server, workplace) = lake();
    let query = format!("?from={DAY}&to={DAY}&type=placed");
    server.on(&format!("/v1/cdrs{query}"), [count(9)]).on(
        &format!("/v1/cdrs/all{query}"),
        [response("401 Unauthorized", "", "no")],
    );
    let (status, report) = verify(&workplace, &["--source", "--repair"]);
    assert_eq!(
        (status, faults(&report["repair"]["remaining"])),
        (
            1,
            vec![("control_total".to_owned(), LEDGER_FILE.to_owned())]
        )
    );
}

#[test]
fn the_printed_command_repairs_rejects_of_a_slice_without_an_entry() {
    let (server, workplace) = lake();
    let records = format!("{}{{\"date\":\"broken\"}}\n", calls(10, 1));
    server.serve("received", DAY, records, 2);
    assert_eq!(workplace.run_day(&["--refresh"]).status, 0);
    std::fs::remove_file(workplace.path(format!("lake/cdrs/dt={DAY}/received-{DAY}.parquet")))
        .unwrap();
    let entry = format!("lake/_cdrlake/ledger/received/{DAY}.json");
    std::fs::remove_file(workplace.path(entry)).unwrap();
    let text = workplace.run(&["verify"]).stdout;
    let command = text
        .lines()
        .find_map(|line| line.strip_prefix("  cdrlake "));
    let command: Vec<&str> = command.unwrap().split(' ').collect();
    assert_eq!(workplace.run(&command).status, 0, "{text}");
    assert_eq!(verify(&workplace, &[]).0, 0);
    assert_eq!(workplace.rejects("received", "").len(), 1);
}

#[test]
fn mixed_column_versions_are_reported_until_a_refresh() {
    let (_server, workplace) = lake();
    // As after an older version, except for the columns.
    edit_ledger(
        &workplace.path("lake"),
        "/committed/schema_version",
        json!(0),
    );
    let ran = workplace.run(&["verify"]);
    assert!(
        ran.stdout
            .contains("1 slice has columns of version 0, not 1"),
        "{ran:?}"
    );
    let before = workplace.lake_files().remove(TABLE_FILE);
    let refreshed = workplace.run_day(&["--refresh"]);
    assert_eq!(refreshed.status, 0, "{refreshed:?}");
    assert_eq!(refreshed.json()["partitions_changed"], json!([DAY]));
    assert_ne!(
        workplace.lake_files().remove(TABLE_FILE),
        before,
        "it says its version"
    );
    let (status, report) = verify(&workplace, &[]);
    assert_eq!((status, &report["schema_versions"]), (0, &json!({"1": 1})));
}

#[test]
fn entries_of_a_newer_version_are_left_alone() {
    let (_server, workplace) = lake();
    edit_ledger(&workplace.path("lake"), "/format", json!(2));
    let before = workplace.lake_files();
    let ran = workplace.run_day(&["--refresh", "--direction", "placed"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(
        ran.stderr.contains(
            "has format 2, but this version of cdrlake supports up to 1. Use a newer version"
        ),
        "{ran:?}"
    );
    assert_eq!(workplace.lake_files(), before);
    let (status, report) = verify(&workplace, &[]);
    assert_eq!(status, 1);
    assert_eq!(faults(&report["findings"])[0].0, "newer_ledger");
}

#[test]
fn advised_commands_have_the_same_selection_as_verify() {
    let (_server, workplace) = lake();
    workplace.configure_also("[window]\nstart = 2026-09-30");
    std::fs::write(workplace.path(format!("lake/cdrs/dt={DAY}/x.parquet")), "").unwrap();
    let narrow = ["--from", "2026-09-30", "--to", DAY, "--direction", "placed"];
    let ran = workplace.run(&[&["verify", "--lake", "./lake"], &narrow[..]].concat());
    let flags = "--direction placed --lake ./lake\n";
    for command in [
        format!("\n  cdrlake verify --repair --from 2026-09-30 --to {DAY} {flags}"),
        format!("\n  cdrlake run --from 2026-09-30 --to 2026-09-30 {flags}"),
    ] {
        assert!(ran.stdout.contains(&command), "{command}: {}", ran.stdout);
    }
    assert!(
        ran.stdout
            .contains("`cdrlake rejects --lake ./lake` shows why"),
        "{}",
        ran.stdout
    );
}

#[test]
fn the_last_days_end_with_yesterday() {
    let (server, workplace) = lake();
    let today = jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    let yesterday = today.yesterday().unwrap();
    for (direction, calls_of_it) in [("placed", 2), ("received", 0)] {
        for day in [yesterday, today].map(|day| day.to_string()) {
            let body = calls(0, calls_of_it).replace(DAY, &day);
            server.serve(direction, &day, body, u64::from(calls_of_it));
        }
    }
    let ran = workplace.run(&["run", "--last", "1", "--include-today"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let (_, report) = verify(&workplace, &["--last", "1"]);
    assert_eq!(
        report["slices"], 2,
        "placed and received of yesterday: {report}"
    );
}
