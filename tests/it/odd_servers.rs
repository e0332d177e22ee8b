use crate::server::{Answer, STREAM, Server, ok_chunked, sized};
use crate::support::{PLACED, Workplace, calls, scripted};

/// An answer that leaves its connection open, on which the next request gets none.
fn kept_open(body: &str) -> Answer {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let length = body.len();
    Answer::ThenDies(format!("{head}Content-Length: {length}\r\n\r\n{body}").into_bytes())
}

#[test]
fn a_kept_connection_that_dies_before_an_answer_is_replaced_at_once() {
    let total = "{\"items\":[],\"pagination\":{\"total\":3}}";
    let server = Server::start();
    server
        .on(STREAM, [ok_chunked(&calls(0, 3))])
        .on("/v1/cdrs?", [kept_open(total)]);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(PLACED);
    assert_eq!(ran.status, 0, "{ran:?}");
    let slice = &ran.report().slices[0];
    assert_eq!((slice.attempts, slice.counts.rows), (1, 3), "{slice:?}");
    assert!(!ran.stderr.contains("cannot reach"), "{}", ran.stderr);
}

#[test]
fn a_server_that_has_just_answered_is_not_called_unreachable() {
    let (_workplace, server) = scripted(3, [Answer::Bytes(Vec::new())]);
    let ran = Workplace::new(&server).run_day(PLACED);
    let error = ran.report().slices[0].error.clone().unwrap();
    let said = format!(
        "the connection to {} ended before an answer",
        server.address
    );
    assert!(error.contains(&said), "{error}");
    assert!(!error.contains("source.url"), "{error}");
}

#[test]
fn an_encoding_that_is_none_is_no_compression() {
    for encoding in [
        "utf-8",
        "UTF-8",
        "utf8",
        "identity",
        "none",
        "identity, utf-8",
        "",
    ] {
        let headers =
            format!("Content-Type: application/x-ndjson\r\nContent-Encoding: {encoding}\r\n");
        let plain = sized("200 OK", &headers, calls(0, 3));
        let server = Server::start();
        let total = "{\"pagination\":{\"total\":3}}";
        server.on(STREAM, [plain]).on(
            "/v1/cdrs?",
            [sized("200 OK", &headers.replace("x-nd", ""), total)],
        );
        let ran = Workplace::new(&server).run_day(PLACED);
        assert_eq!(ran.status, 0, "{encoding}: {ran:?}");
    }
}
