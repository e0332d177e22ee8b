use crate::server::Server;
use crate::support::{DAY, PLACED, Workplace, calls};

#[test]
fn a_reject_as_long_as_the_limits_allow_is_read_again() {
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
