use crate::server::{STREAM, Server, ok_chunked};
use crate::support::{DAY, PLACED, Workplace, calls, scripted};

#[test]
fn a_reject_of_the_maximum_length_is_read_back() {
    let line = "\u{1}".repeat(45 << 20);
    let server = Server::start();
    server.serve("placed", DAY, calls(0, 20) + &line + "\n{}\n", 22);
    let workplace = Workplace::new(&server);
    workplace.configure_also("[limits]\nmax_record_bytes = \"64MiB\"");
    let ran = workplace.run_day(PLACED);
    assert_eq!(ran.status, 0, "{ran:?}");
    let rejects = workplace.run(&["rejects", "--format", "json"]);
    assert_eq!(rejects.status, 0, "{}", rejects.stderr);
    let rejects = rejects.json();
    let groups = rejects["groups"].as_array().unwrap();
    let codes: Vec<_> = groups.iter().map(|group| &group["code"]).collect();
    assert_eq!(codes, ["no_date", "syntax"]);
    assert_eq!(rejects["unreadable"], serde_json::json!([]));
}

#[test]
fn a_reject_of_a_page_names_its_page() {
    let broken = calls(30, 1).replace("0.027", "much");
    let second = calls(25, 3) + &broken;
    let (workplace, server) = scripted(29, [ok_chunked(&calls(0, 25))]);
    let page = format!("{STREAM}?from={DAY}&to={DAY}&type=placed&disposition=all&page=2");
    server.on(&page, [ok_chunked(&second)]);
    let ran = workplace.run_day(PLACED);
    assert_eq!(ran.status, 0, "{ran:?}");
    let rejects = workplace.run(&["rejects"]);
    let place = format!(
        "placed {DAY}, page 2, line 4, byte {}: ",
        calls(25, 3).len()
    );
    assert!(rejects.stdout.contains(&place), "{rejects:?}");
    let rejects = workplace.run(&["rejects", "--format", "json"]).json();
    assert_eq!(rejects["groups"][0]["example"]["page"], 2);
}
