use std::io::Read;

use arrow::array::AsArray;
use cdrlake::internals::PrivacyKey;
use serde_json::Value;

use crate::server::Server;
use crate::support::{DAY, Ran, Workplace, read, scripted};

pub(crate) const KEY: &str = "a-privacy-key-of-more-than-32-characters";
/// Everything by which a number could be known again.
const DIGITS: [&str; 2] = ["13025550101", "5550101"];

/// Calls with a number wherever one can be, and a reject of each kind.
fn records() -> String {
    let call = |id: &str, more: &str| {
        format!(r#"{{"date":"{DAY}T10:00:00Z","call_id":"{id}","duration":1,"charge":"1",{more}}}"#)
            + "\n"
    };
    [
        call(
            "a",
            r#""from":"13025550101","to":"33170363950","destination":"France""#,
        ),
        call(
            "b",
            r#""from":"33170363950","to":"sip:+13025550101@example.com","destination":"France""#,
        ),
        call(
            "c",
            r#""from":"1","to":"2","destination":"+1 302-555-0101""#,
        ),
        call(
            "d",
            r#""from":"1","to":"2","forwarded":{"to":13025550101,"by":"call +1 (302) 555-0101"}"#,
        ),
        call("e", r#""from":"33170363950","to":"2""#),
        // A bad date, a broken line, one that is no text.
        call("f", r#""from":"13025550101","to":"2""#).replace("T10:", "T99:"),
        "{\"from\":\"1302555\\u00301\\u0030\\u0031\",\n".to_owned(),
    ]
    .concat()
}

/// `records` and a line that is not UTF-8.
fn body() -> Vec<u8> {
    let mut body = records().into_bytes();
    body.extend(b"{\"to\":\"13025550101\",\"x\":\"\xff\"}\n");
    body.extend(
        records()
            .lines()
            .next()
            .unwrap()
            .replace("\"a\"", "\"last\"")
            .into_bytes(),
    );
    body.push(b'\n');
    body
}

fn workplace(privacy: &str) -> (Server, Workplace) {
    let server = Server::start();
    server.serve("placed", DAY, body(), 9);
    let workplace = Workplace::new(&server);
    workplace.configure_also(privacy);
    (server, workplace)
}

pub(crate) fn run(workplace: &Workplace, more: &[&str]) -> Ran {
    run_with(workplace, KEY, more)
}

pub(crate) fn run_with(workplace: &Workplace, key: &str, more: &[&str]) -> Ran {
    let days = [
        "run",
        "--from",
        DAY,
        "--to",
        DAY,
        "--direction",
        "placed",
        "--format",
        "json",
    ];
    let mut command = workplace.command(&[&days[..], more].concat());
    command.env("PRIVACY", key);
    crate::support::ran(command.output().unwrap())
}

/// Everything in the lake and everything said, uncompressed, and every value of the table.
pub(crate) fn everything(workplace: &Workplace, ran: &Ran) -> String {
    let mut text = format!("{}{}", ran.stdout, ran.stderr);
    for (path, bytes) in workplace.lake_files() {
        let extension = path.rsplit('.').next();
        if extension == Some("zst") {
            let mut plain = Vec::new();
            zstd::Decoder::new(&bytes[..])
                .unwrap()
                .read_to_end(&mut plain)
                .unwrap();
            text += &String::from_utf8_lossy(&plain);
            for line in String::from_utf8_lossy(&plain).lines() {
                let reject: Value = serde_json::from_str(line).unwrap();
                if let Some(encoded) = reject["base64"].as_str() {
                    use base64::Engine;
                    let bytes = base64::engine::general_purpose::STANDARD
                        .decode(encoded)
                        .unwrap();
                    text += &String::from_utf8_lossy(&bytes);
                }
            }
        } else if extension == Some("parquet") {
            let rows = format!("{:?}", read(&workplace.path("lake").join(&path)));
            text.push_str(&rows);
            text += &String::from_utf8_lossy(&bytes);
        } else {
            text += &String::from_utf8_lossy(&bytes);
        }
    }
    text
}

#[test]
fn the_search_for_numbers_finds_those_that_a_lake_keeps() {
    let (_server, workplace) = workplace("");
    let ran = run(&workplace, &[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(
        !format!("{}{}", ran.stdout, ran.stderr).contains("5550101"),
        "{ran:?}"
    );
    // Columns, extra, and rejects as text and as bytes.
    assert!(everything(&workplace, &ran).matches("5550101").count() >= 5);
}

#[test]
fn a_number_is_in_no_column_no_reject_no_log_and_no_ledger_of_a_lake_without_numbers() {
    for privacy in [
        "[privacy]\nnumbers = \"pseudonymize\"\nkey = { env = \"PRIVACY\" }\n",
        "[privacy]\nnumbers = \"truncate\"\n",
    ] {
        let (_server, workplace) = workplace(privacy);
        let ran = run(&workplace, &["--verbose"]);
        assert_eq!(ran.status, 0, "{ran:?}");
        let report = ran.report();
        assert_eq!(
            (report.totals.counts.rows, report.totals.counts.rejected),
            (6, 3)
        );
        let shown = workplace.run(&["rejects", "--show-numbers"]);
        let said = everything(&workplace, &ran) + &shown.stdout;
        for digits in DIGITS {
            assert!(!said.contains(digits), "{privacy}: {digits} in {said}");
        }
        assert!(!said.contains(KEY));
        assert_eq!(workplace.run(&["verify"]).status, 0);
    }
}

#[test]
fn the_same_number_has_the_same_token_in_every_column_and_every_file() {
    let (_server, workplace) =
        workplace("[privacy]\nnumbers = \"pseudonymize\"\nkey = { env = \"PRIVACY\" }\n");
    assert_eq!(run(&workplace, &[]).status, 0);
    let token = PrivacyKey::try_new(KEY)
        .unwrap()
        .token("13025550101")
        .to_string();
    let rows = workplace.rows("placed");
    let text = |column: &str| {
        rows.column_by_name(column)
            .unwrap()
            .as_string::<i32>()
            .clone()
    };
    assert_eq!(text("from_number").value(0), token);
    assert_eq!(text("to_number").value(1), token);
    assert_eq!(text("destination").value(2), token);
    assert!(
        text("extra").value(3).matches(&token).count() == 2,
        "{rows:?}"
    );
    let id = PrivacyKey::try_new(KEY).unwrap().id().to_owned();
    let entry = workplace.path(format!("lake/_cdrlake/ledger/placed/{DAY}.json"));
    let entry: Value = serde_json::from_slice(&std::fs::read(entry).unwrap()).unwrap();
    assert_eq!(entry["committed"]["privacy_key_id"], id);
    let lake: Value =
        serde_json::from_slice(&std::fs::read(workplace.path("lake/_cdrlake/lake.json")).unwrap())
            .unwrap();
    assert_eq!(
        (&lake["privacy"], &lake["privacy_key_id"]),
        (&"pseudonymize".into(), &id.into())
    );
}

#[test]
fn a_lake_never_mixes_modes_or_keys() {
    let privacy = "[privacy]\nnumbers = \"pseudonymize\"\nkey = { env = \"PRIVACY\" }\n";
    let (_server, workplace) = workplace(privacy);
    assert_eq!(run(&workplace, &[]).status, 0);
    let before = workplace.lake_files();
    let other = run_with(
        &workplace,
        "another-key-of-more-than-32-characters",
        &["--refresh"],
    );
    assert_eq!(other.status, 2, "{other:?}");
    assert!(
        other.stderr.contains("privacy.key is the key with ID "),
        "{other:?}"
    );
    let short = run_with(&workplace, "short", &["--refresh"]);
    assert_eq!(short.status, 2);
    assert!(short.stderr.contains("at least 32"), "{short:?}");
    assert!(!short.stderr.contains("short."), "{short:?}");
    for (from, to, key) in [
        ("\"pseudonymize\"", "\"keep\"", "privacy.numbers is keep"),
        (
            "\"keep\"",
            "\"pseudonymize\"\nextra = \"keep\"",
            "privacy.extra is keep",
        ),
    ] {
        workplace.reconfigure(from, to);
        let ran = run(&workplace, &["--refresh"]);
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(ran.stderr.contains(key), "{ran:?}");
    }
    assert_eq!(workplace.lake_files(), before, "nothing is half done");
}

#[test]
fn a_key_file_inside_the_lake_is_refused() {
    use std::os::unix::fs::PermissionsExt;

    let (_server, workplace) =
        workplace("[privacy]\nnumbers = \"pseudonymize\"\nkey = { file = \"lake/key\" }\n");
    let key = workplace.path("lake/key");
    std::fs::create_dir(workplace.path("lake")).unwrap();
    std::fs::write(&key, KEY).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let ran = run(&workplace, &[]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("is inside the lake"), "{ran:?}");
}

#[test]
fn a_lake_without_numbers_records_its_filter_by_number_as_a_hash() {
    let (_server, workplace) = workplace("[privacy]\nnumbers = \"truncate\"\n");
    workplace.reconfigure("[source]\n", "[source]\nfrom_search = \"13025550101\"\n");
    let without = run(&workplace, &[]);
    assert_eq!(without.status, 2, "{without:?}");
    assert!(without.stderr.contains("Set privacy.key"), "{without:?}");
    workplace.configure_also("key = { env = \"PRIVACY\" }\n");
    let ran = run(&workplace, &["--verbose"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(!everything(&workplace, &ran).contains("5550101"));
    assert_eq!(
        run(&workplace, &["--refresh"]).status,
        0,
        "it is the same lake"
    );
    workplace.reconfigure("13025550101", "13025550199");
    let other = run(&workplace, &["--refresh"]);
    assert_eq!(other.status, 2, "{other:?}");
    assert!(
        other.stderr.contains(
            "source.from_search is one number, but this lake was created with another number"
        ),
        "{other:?}"
    );
}

#[test]
fn the_ledger_of_every_lake_omits_the_number_of_a_filter() {
    for numbers in ["keep", "truncate", "pseudonymize"] {
        let privacy =
            format!("[privacy]\nnumbers = \"{numbers}\"\nkey = {{ env = \"PRIVACY\" }}\n");
        let (_server, workplace) = workplace(&privacy);
        workplace.reconfigure("[source]\n", "[source]\nfrom_search = \"13025550101\"\n");
        let ran = run(&workplace, &[]);
        assert_eq!(ran.status, 0, "{numbers}: {ran:?}");
        let entry = workplace.path(format!("lake/_cdrlake/ledger/placed/{DAY}.json"));
        let entry: Value = serde_json::from_slice(&std::fs::read(entry).unwrap()).unwrap();
        let query = entry["committed"]["asked"]["query"].as_array().unwrap();
        let note = serde_json::json!(["from_search", "(as in lake.json)"]);
        assert!(query.contains(&note), "{numbers}: {query:?}");
    }
}

#[test]
fn numbers_are_hidden_also_in_pages_and_exports() {
    let (workplace, server) = scripted(2, []);
    drop(server);
    workplace.configure_also(
        "[privacy]\nnumbers = \"pseudonymize\"\nkey = { env = \"PRIVACY\" \
         }\n[quality]\nreconcile = \"off\"\n",
    );
    let csv = format!(
        "call_id,date,from,to,duration,charge\na,{DAY}T10:00:00Z,13025550101,2,1,1\n\
         b,{DAY}T10:00:00Z,13025550101,2,x,1\n"
    );
    std::fs::write(workplace.path("export.csv"), csv).unwrap();
    let mut command = workplace.command(&["load", "export.csv", "--direction", "placed"]);
    command.env("PRIVACY", KEY);
    let ran = crate::support::ran(command.output().unwrap());
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(!everything(&workplace, &ran).contains("5550101"));
    assert_eq!(workplace.rows("placed").num_rows(), 1);
}
