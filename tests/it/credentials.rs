use serde_json::Value;

use crate::privacy::everything;
use crate::server::Server;
use crate::support::{CANARY, DAY, PLACED, Ran, Workplace};

/// Calls of which all but the first two hold a credential somewhere, and rejects that do.
fn records() -> Vec<String> {
    let call = |id: usize, more: &str| {
        format!(
            r#"{{"date":"{DAY}T10:00:00Z","call_id":"call-{id}","from":"1","to":"2","duration":1,"charge":"1"{more}}}"#
        )
    };
    let mut records: Vec<String> = (0..20).map(|id| call(id, "")).collect();
    records.extend([
        // The provider's published example, and the same as other programs write it.
        call(20, &format!(r#","transcription":{{"url":"https://api.wavix.com/v1/calls/20/transcription?appid={CANARY}"}}"#)),
        call(21, &format!(r#","transcription":{{"url":"https:\/\/api.wavix.com\/x?a=1\u0026appid\u003d{CANARY}"}}"#)),
        call(22, r#","recording_url":"https://b.example/r.mp3?X-Amz-Date=1&X-Amz-Signature=sesame-opens""#),
        call(23, &format!(r#","destination":"https://u:{CANARY}@x.example/?token=sesame-opens""#)),
        call(24, &format!(r#","note":"the key is {CANARY}","{CANARY}":1"#)),
        // Rejects: a bad date, and JSON that is none.
        call(25, &format!(r#","url":"https://x.example/?api_key={CANARY}&ok=1""#)).replace("T10:", "T99:"),
        format!(r#"{{"url":"https:\/\/x.example\/?apikey\u003d{CANARY}","token":"?token=sesame-opens"#),
    ]);
    records
}

/// Nothing of a credential is in the lake or was said, and the rest of the addresses is.
fn assert_redacted(workplace: &Workplace, ran: &Ran) {
    let seen = everything(workplace, ran);
    for credential in ["5f1d", "sesame-opens"] {
        assert!(!seen.contains(credential), "{credential}: {seen}");
    }
    for kept in [
        "/transcription?appid=",
        "X-Amz-Date=1",
        "ok=1",
        "[redacted]",
    ] {
        assert!(seen.contains(kept), "{kept}");
    }
    let report = ran.report();
    assert_eq!(report.totals.counts.redacted, 7, "{report:?}");
    assert_eq!(report.totals.counts.rejected, 2, "{report:?}");
    assert_eq!(
        ran.stderr.matches("Records contained credentials").count(),
        1,
        "{}",
        ran.stderr
    );
    assert!(
        !report
            .warnings
            .iter()
            .any(|warning| warning.contains("redacted"))
    );
}

#[test]
fn no_credential_gets_into_the_lake_and_the_report_counts_redacted_ones() {
    let server = Server::start();
    let body = records().join("\n") + "\n";
    server.serve("placed", DAY, body, 27);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(PLACED);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_redacted(&workplace, &ran);
    let shown = workplace.run(&["rejects", "--show-numbers"]);
    assert!(!shown.stdout.contains("sesame"), "{shown:?}");
    // The same again is the same.
    let again = workplace.run_day(&[PLACED, &["--refresh"]].concat());
    let outcome: Value = again.json()["slices"][0]["outcome"].clone();
    assert_eq!(outcome, "unchanged", "{again:?}");
}

#[test]
fn a_load_redacts_credentials_in_addresses_without_knowing_the_key() {
    let server = Server::start();
    let workplace = Workplace::new(&server);
    // Without what only the key's holder could know.
    let is_known = |record: &String| !record.contains("the key is");
    let records: Vec<String> = records().into_iter().filter(is_known).collect();
    let last = records.len() - 1;
    std::fs::write(
        workplace.path("calls.ndjson"),
        records[..last].join("\n") + "\n",
    )
    .unwrap();
    let ran = workplace.run(&[
        "load",
        "calls.ndjson",
        "--direction",
        "placed",
        "--reconcile",
        "off",
        "--skip-undated",
        "--format",
        "json",
    ]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let seen = everything(&workplace, &ran);
    for credential in ["5f1d", "sesame-opens"] {
        assert!(!seen.contains(credential), "{credential}: {seen}");
    }
    assert_eq!(ran.report().totals.counts.redacted, 4, "{ran:?}");
}

#[test]
fn calls_with_redacted_ids_are_not_duplicates() {
    let call = |id: u32| {
        format!(
            r#"{{"date":"{DAY}T10:00:00Z","call_id":"https://x.example/call?token={id}","from":"1","to":"2"}}"#
        ) + "\n"
    };
    let server = Server::start();
    server.serve("placed", DAY, (0..20).map(call).collect::<String>(), 20);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(PLACED);
    let counts = ran.report().totals.counts;
    assert_eq!(
        (ran.status, counts.rows, counts.duplicates, counts.redacted),
        (0, 20, 0, 20),
        "{ran:?}"
    );
}
