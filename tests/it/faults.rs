use std::io::Write;

use cdrlake::internals::parse_day;
use cdrlake::{Api, Config, Direction, Slice, Source, SourceError};
use flate2::Compression;
use flate2::write::GzEncoder;
use secrecy::SecretString;

use crate::server::{Answer, STREAM, Server, count, ok_chunked, response, sized};
use crate::support::{
    CANARY, DAY, PLACED, Ran, Workplace, block_on, calls, output, ran, run_scripted, scripted,
};

/// A chunked 200 whose body is these bytes as they are.
fn raw_chunks(bytes: &str) -> Answer {
    let headers = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";
    response("200 OK", headers, bytes)
}

/// A response that begins well and is cut before its proper end.
pub(crate) fn cut(body: &str) -> Answer {
    raw_chunks(&format!("{:x}\r\n{body}\r\n", body.len()))
}

/// Runs one slice with all log levels. Neither the log nor the lake may contain the key.
fn run_traced(total: u64, stream: impl IntoIterator<Item = Answer>) -> (Workplace, Server, Ran) {
    let (workplace, server) = scripted(total, stream);
    let arguments = ["run", "--from", DAY, "--to", DAY, "--format", "json"];
    let mut command = workplace.command(&[&arguments, PLACED].concat());
    command.env("CDRLAKE_LOG", "trace");
    let ran = ran(output(command));
    assert!(ran.stderr.contains("TRACE"), "{}", ran.stderr);
    for (name, content) in workplace.lake_files() {
        let content = String::from_utf8_lossy(&content);
        assert!(!content.contains(CANARY), "{name}");
    }
    (workplace, server, ran)
}

/// Faults of connection and transport, each with the message for it.
fn broken_transports() -> Vec<(&'static str, Answer, &'static str)> {
    let whole = calls(0, 3);
    let sized_head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: 9999\r\n\r\n";
    let broke_off = "the stream broke off: ";
    vec![
        (
            "nothing at all",
            Answer::Bytes(Vec::new()),
            "the connection to 127.0.0.1:",
        ),
        (
            "a reset at once",
            Answer::Reset(Vec::new()),
            "the connection to 127.0.0.1:",
        ),
        (
            "half of a head",
            Answer::Bytes(sized_head.as_bytes()[..40].to_vec()),
            "the connection to 127.0.0.1:",
        ),
        (
            "something else than HTTP",
            Answer::Bytes(b"220 mail.example ESMTP\r\n".to_vec()),
            "the connection to 127.0.0.1:",
        ),
        (
            "a reset within the body",
            Answer::Reset(format!("{sized_head}{whole}").into_bytes()),
            broke_off,
        ),
        ("cut at a line's end", cut(&calls(0, 2)), broke_off),
        (
            "cut within a line",
            cut(&whole[..whole.len() - 20]),
            broke_off,
        ),
        (
            "cut within a chunk",
            raw_chunks(&format!("{:x}\r\n{}", whole.len(), calls(0, 2))),
            broke_off,
        ),
        (
            "a chunk of no size",
            raw_chunks(&format!("x\r\n{whole}\r\n0\r\n\r\n")),
            broke_off,
        ),
        (
            "a chunk that is longer than it says",
            raw_chunks(&format!("10\r\n{whole}\r\n0\r\n\r\n")),
            broke_off,
        ),
        (
            "a length that is not kept",
            Answer::Bytes(format!("{sized_head}{whole}").into_bytes()),
            broke_off,
        ),
        (
            "a body that only closing ends",
            response("200 OK", "Content-Type: application/x-ndjson\r\n", &whole),
            "the answer has neither a length nor chunks, so a cut stream would look complete",
        ),
    ]
}

/// Complete answers with wrong content, each with the message for it.
fn broken_answers() -> Vec<(&'static str, Answer, &'static str)> {
    let whole = calls(0, 3);
    let error = "{\"success\":false,\"message\":\"Internal error\"}\n";
    let page = |content_type: &str| {
        let headers = format!("Content-Type: {content_type}\r\n");
        sized("200 OK", &headers, "<html></html>")
    };
    vec![
        (
            "a clean end within a line",
            ok_chunked(&whole[..whole.len() - 20]),
            "the stream ends in the middle of a record",
        ),
        (
            "too few records",
            ok_chunked(&calls(0, 2)),
            "the provider counts 3 calls, 2 were read",
        ),
        (
            "an error object as a line",
            ok_chunked(&format!("{}{error}", calls(0, 2))),
            "line 3, byte 390: the server ended the stream with an error: Internal error",
        ),
        (
            "an error object alone",
            ok_chunked(error),
            "line 1, byte 0: the server ended the stream with an error: Internal error",
        ),
        (
            "a web page",
            page("text/html"),
            "the answer is a web page (text/html), not records",
        ),
        (
            "a web page that calls itself records",
            page("application/json"),
            "line 1, byte 0: the body is a web page, not records",
        ),
        (
            "an array that is cut",
            ok_chunked("[{\"date\":\"2026-10-01T00:00:00Z\"},"),
            "the body ends inside its list of records",
        ),
        (
            "a broken record in an array",
            ok_chunked("[{\"date\":\"2026-10-01T00:00:00Z\",}]"),
            "line 1, byte 1: a record in a list is invalid",
        ),
    ]
}

/// Statuses that may be transient.
fn transient_statuses() -> Vec<(&'static str, Answer, &'static str)> {
    let busy = |status| {
        let words = "{\"success\":false,\"message\":\"busy\"}";
        (status, sized(status, "Retry-After: 0\r\n", words), "busy")
    };
    vec![
        busy("408 Request Timeout"),
        busy("409 Conflict"),
        busy("425 Too Early"),
        busy("429 Too Many Requests"),
        busy("500 Internal Server Error"),
        busy("502 Bad Gateway"),
        busy("503 Service Unavailable"),
        busy("504 Gateway Timeout"),
        busy("599 Unheard Of"),
    ]
}

#[test]
fn a_transient_fault_is_retried_from_the_beginning() {
    let whole = calls(0, 3);
    let all = [broken_transports(), broken_answers(), transient_statuses()];
    for (name, fault, said) in all.concat() {
        let (workplace, _server, ran) = run_traced(3, [fault, ok_chunked(&whole)]);
        assert_eq!(ran.status, 0, "{name}: {ran:?}");
        let report = ran.report();
        assert_eq!(
            (report.slices[0].attempts, report.slices[0].counts.records),
            (2, 3),
            "{name}"
        );
        assert_eq!(workplace.rows("placed").num_rows(), 3, "{name}");
        let mut lines = ran.stderr.lines();
        let line = lines.find(|line| line.contains("Retrying")).unwrap();
        assert!(
            line.contains(said) && line.contains("wait_ms="),
            "{name}: {line}"
        );
    }
}

#[test]
fn a_fault_that_persists_fails_the_slice_after_all_attempts_and_leaves_the_table_unchanged() {
    let whole = calls(0, 3);
    let all = [broken_transports(), broken_answers(), transient_statuses()];
    for (name, fault, said) in all.concat() {
        // The lake holds two calls of the day already.
        let server = Server::start();
        server.serve("placed", DAY, calls(0, 2), 2);
        let workplace = Workplace::new(&server);
        workplace.reconfigure("max_attempts = 3", "max_attempts = 5");
        assert_eq!(workplace.run_day(PLACED).status, 0);
        let query = format!("?from={DAY}&to={DAY}&type=placed");
        server.serve("placed", DAY, whole.as_str(), 3);
        server.on(&format!("{STREAM}{query}"), [fault]);
        let ran = workplace.run_day(&[PLACED, &["--refresh"]].concat());
        assert_eq!(ran.status, 1, "{name}: {ran:?}");
        let slice = &ran.report().slices[0];
        // An answer of a proxy, or a count that stays different, is final after three attempts.
        let is_a_whim = [
            "the answer has neither",
            "the answer is a web page",
            "line 1, byte 0: the body is a web page",
            "the provider counts",
        ];
        let is_a_whim = is_a_whim.iter().any(|begin| said.starts_with(begin));
        let attempts = if is_a_whim { 3 } else { 5 };
        assert_eq!(slice.attempts, attempts, "{name}: {slice:?}");
        let error = slice.error.as_deref().unwrap();
        assert!(error.contains(said), "{name}: {error}");
        assert_eq!(workplace.rows("placed").num_rows(), 2, "{name}");
        let entry = workplace.lake_files()[&format!("_cdrlake/ledger/placed/{DAY}.json")].clone();
        let entry: serde_json::Value = serde_json::from_slice(&entry).unwrap();
        let problem = entry["failed"]["problem"].as_str().unwrap();
        assert!(matches_the_ledger(problem, error), "{name}: {problem}");
        assert_eq!(entry["committed"]["counts"]["rows"], 2, "{name}");
    }
}

/// Whether the ledger's text on a slice is the one that a command printed, without its advice.
fn matches_the_ledger(noted: &str, told: &str) -> bool {
    let advice = told.strip_prefix(noted);
    advice.is_some_and(|advice| advice.is_empty() || advice.starts_with(". "))
}

#[test]
fn a_permanent_fault_fails_the_slice_with_a_reason_and_leaves_the_lake_unchanged() {
    let whole = calls(0, 3);
    for (name, fault, attempts, expected) in [
        ("cut for ever", cut(&whole), 3, "the stream broke off"),
        (
            "400",
            sized(
                "400 Bad Request",
                "",
                "{\"success\":false,\"message\":\"Missing or invalid parameter type\"}",
            ),
            1,
            "400 Bad Request: Missing or invalid parameter type",
        ),
        (
            "422",
            sized(
                "422 Unprocessable Entity",
                "",
                "{\"success\":false,\"message\":\"no\"}",
            ),
            1,
            "422 Unprocessable Entity: no",
        ),
        (
            "204",
            response("204 No Content", "", ""),
            3,
            "204 No Content",
        ),
        ("201", sized("201 Created", "", &whole), 1, "201 Created"),
        (
            "206",
            sized("206 Partial Content", "", &whole),
            1,
            "206 Partial Content",
        ),
        (
            "short for ever",
            ok_chunked(&calls(0, 2)),
            3,
            "the provider counts 3 calls, 2 were read",
        ),
        (
            "too many",
            ok_chunked(&calls(0, 4)),
            3,
            "the provider counts 3 calls, 4 were read",
        ),
        (
            "an empty page",
            sized("200 OK", "Content-Type: text/plain\r\n", ""),
            3,
            "the answer is empty",
        ),
    ] {
        let (workplace, _server, ran) = run_traced(3, [fault]);
        assert_eq!(ran.status, 1, "{name}: {ran:?}");
        let slice = &ran.report().slices[0];
        assert_eq!(slice.attempts, attempts, "{name}: {slice:?}");
        let error = slice.error.as_deref().unwrap();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(!error.contains("appid"), "{error}");
        let entry = format!("_cdrlake/ledger/placed/{DAY}.json");
        assert_eq!(
            workplace.lake_files().into_keys().collect::<Vec<_>>(),
            ["_cdrlake/lake.json", entry.as_str()],
            "{name}"
        );
        let entry: serde_json::Value =
            serde_json::from_slice(&workplace.lake_files()[&entry]).unwrap();
        assert_eq!(entry["committed"], serde_json::Value::Null, "{name}");
        let problem = entry["failed"]["problem"].as_str().unwrap();
        assert!(matches_the_ledger(problem, error), "{name}: {problem}");
    }
}

#[test]
fn no_redirect_is_followed_and_its_target_never_receives_the_key() {
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let elsewhere = Server::start();
        let location = format!("Location: {}/path?appid=secret\r\n", elsewhere.url());
        let (workplace, _server, ran) = run_traced(3, [sized(status, &location, "")]);
        assert_eq!(ran.status, 1, "{status}: {ran:?}");
        let slice = &ran.report().slices[0];
        let error = slice.error.as_deref().unwrap();
        let said = format!(
            "the API answered {status}, redirecting to {}. Redirects",
            elsewhere.url()
        );
        assert!(slice.attempts == 1 && error.contains(&said), "{slice:?}");
        assert!(!ran.stdout.contains("appid") && elsewhere.requests("/").is_empty());
        assert_eq!(workplace.table(), [] as [&str; 0], "{status}");
    }
}

#[test]
fn a_refused_key_stops_the_run_at_once() {
    for (status, message, printed) in [
        ("401 Unauthorized", "Unauthorized", ". Check source.api_key"),
        (
            "403 Forbidden",
            "The service is not provisioned for your account.",
            ": The service is not provisioned for your account.",
        ),
    ] {
        let body = format!("{{\"success\":false,\"error\":true,\"message\":\"{message}\"}}");
        let server = Server::start();
        server.on("/", [sized(status, "", &body)]);
        let workplace = Workplace::new(&server);
        let ran = workplace.run(&[
            "run",
            "--from",
            "2026-09-01",
            "--to",
            "2026-09-30",
            "--requests",
            "1",
            "--format",
            "json",
        ]);
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(
            ran.stderr
                .contains(&format!("error: the API answered {status}{printed}")),
            "{}",
            ran.stderr
        );
        assert_eq!(server.requests("/").len(), 1, "no other request was made");
        let json = ran.json();
        assert_eq!(
            (
                json["outcome"].as_str(),
                json["slices"].as_array().unwrap().len()
            ),
            (Some("failed"), 60)
        );
        assert_eq!(json["slices"][1]["outcome"], "skipped");
    }
}

#[test]
fn a_server_that_echoes_the_key_does_not_get_it_printed() {
    let server = Server::start();
    let body = format!("{{\"message\":\"bad key {CANARY} \\u001b[31m\"}}");
    server.on("/", [sized("400 Bad Request", "", &body)]);
    let workplace = Workplace::new(&server);
    let mut command = workplace.command(&["run", "--from", DAY, "--to", DAY]);
    let output = command.env("CDRLAKE_LOG", "trace").output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    assert!(printed.contains("bad key [key]"), "{printed}");
    assert!(!printed.contains(CANARY), "{printed}");
    for (name, content) in workplace.lake_files() {
        assert!(
            !String::from_utf8_lossy(&content).contains(CANARY),
            "{name}"
        );
    }
    let request = &server.requests("/")[0];
    assert!(
        request
            .head
            .to_ascii_lowercase()
            .contains(&format!("authorization: bearer {CANARY}"))
    );
    assert!(
        request.head.contains("cdrlake/"),
        "the user agent names the program"
    );
}

#[test]
fn an_unreachable_host_ends_the_run_with_one_sentence() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let workplace = Workplace::with_url(&format!("http://127.0.0.1:{port}"));
    let ran = workplace.run(&[
        "run",
        "--from",
        "2026-09-01",
        "--to",
        "2026-09-30",
        "--format",
        "json",
    ]);
    assert_eq!(ran.status, 1);
    let expected =
        format!("error: the run was stopped: after 3 attempts: cannot reach 127.0.0.1:{port}");
    assert!(
        ran.stderr.contains(&expected) && ran.stderr.contains("Check source.url and the network"),
        "{}",
        ran.stderr
    );
    assert_eq!(workplace.table(), [] as [&str; 0]);
}

#[test]
fn an_unknown_name_and_an_address_that_does_not_answer_are_network_errors() {
    // No name under .invalid ever resolves (RFC 6761). A listener whose queue is full lets other
    // clients wait until the time to connect is over.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let full = listener.local_addr().unwrap().as_socket().unwrap();
    let queued: Vec<_> = (0..4)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let socket = socket.unwrap();
            socket.set_nonblocking(true).unwrap();
            drop(socket.connect(&full.into()));
            socket
        })
        .collect();
    for (url, problem) in [
        // How long this takes depends on the machine.
        ("https://api.invalid".to_owned(), "api.invalid"),
        (format!("http://{full}"), "did not answer for 1.5s"),
    ] {
        let workplace = Workplace::with_url(&url);
        workplace.reconfigure(
            "max_attempts = 3",
            "max_attempts = 3\nstall_timeout = \"1500ms\"",
        );
        let ran = workplace.run_day(PLACED);
        assert_eq!(ran.status, 1, "{ran:?}");
        assert!(
            ran.stderr.contains("error: the run was stopped: "),
            "{}",
            ran.stderr
        );
        assert!(ran.stderr.contains(problem), "{}", ran.stderr);
        assert_eq!(ran.stderr.matches("Retrying").count(), 2, "{}", ran.stderr);
        assert_eq!(workplace.table(), [] as [&str; 0]);
    }
    drop(queued);
}

#[test]
fn an_endless_stream_fails_its_slice_at_the_limit_and_is_not_retried() {
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..1_000 {
        bomb.write_all(calls(0, 1).repeat(100).as_bytes()).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 500_000, "{}", bomb.len());
    let gzip = "Content-Type: application/x-ndjson\r\nContent-Encoding: gzip\r\n";
    for answer in [
        sized("200 OK", gzip, &bomb),
        ok_chunked(&calls(0, 9_000)),
        // It contains no line.
        ok_chunked(&"x".repeat(2_000_000)),
    ] {
        let server = Server::start();
        server.on(STREAM, [answer]).on("/v1/cdrs?", [count(3)]);
        let workplace = Workplace::new(&server);
        workplace.configure_also("[limits]\nmax_slice_bytes = \"1MiB\"");
        let ran = workplace.run_day(PLACED);
        assert_eq!(
            (ran.status, server.requests(STREAM).len()),
            (1, 1),
            "{ran:?}"
        );
        let error = ran.report().slices[0].error.clone().unwrap();
        assert_eq!(
            error,
            "the body has more than 1.0 MiB (limits.max_slice_bytes)"
        );
        assert_eq!(workplace.table(), [] as [&str; 0]);
    }
}

#[test]
fn a_line_longer_than_any_record_is_rejected_and_costs_no_memory() {
    let long = format!("{{\"date\":\"{}\"}}\n", "x".repeat(50_000_000));
    let (workplace, _server, ran) =
        run_scripted(4, [ok_chunked(&(calls(0, 2) + &long + &calls(2, 1)))]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let rejects = workplace.rejects("placed", "");
    assert_eq!(
        (rejects.len(), &rejects[0]["code"]),
        (1, &"too_long".into())
    );
    assert_eq!(rejects[0]["length_bytes"], long.len() as u64 - 1);
    assert_eq!(rejects[0]["text"].as_str().unwrap().len(), 1 << 20);
    assert_eq!(workplace.rows("placed").num_rows(), 3);
}

#[test]
fn the_paths_used_before_june_2026_are_tried_once() {
    let server = Server::start();
    server
        .on("/v1/cdr/all?", [ok_chunked(&calls(0, 3))])
        .on("/v1/cdr?", [count(3)]);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(&["--requests", "1"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(
        ran.stderr
            .contains("The server has no /v1/cdrs (404); using /v1/cdr."),
        "{}",
        ran.stderr
    );
    assert_eq!(server.requests("/v1/cdrs?").len(), 1);
    assert_eq!(server.requests("/v1/cdrs/all").len(), 1);

    // The stream has moved, the list has not: each path is remembered separately.
    let server = Server::start();
    server
        .on("/v1/cdrs/all?", [ok_chunked(&calls(0, 3))])
        .on("/v1/cdr?", [count(3)]);
    let ran = Workplace::new(&server).run_day(&["--requests", "1"]);
    assert_eq!(
        (ran.status, ran.stderr.matches("The server has no").count()),
        (0, 1),
        "{ran:?}"
    );

    let ran = Workplace::new(&Server::start()).run_day(&[]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.stdout
            .contains("the server has neither /v1/cdrs/all nor /v1/cdr/all (404: Not found)"),
        "{ran:?}"
    );
}

#[test]
fn a_web_page_instead_of_the_count_finally_causes_a_mismatch() {
    let server = Server::start();
    let page = sized("200 OK", "Content-Type: text/html\r\n", "<html></html>");
    server
        .on(STREAM, [ok_chunked(&calls(0, 3))])
        .on("/v1/cdrs?", [page]);
    let workplace = Workplace::new(&server);
    workplace.reconfigure("max_attempts = 3", "max_attempts = 8");
    let ran = workplace.run_day(&[PLACED, &["--reconcile", "warn"]].concat());
    assert_eq!(
        (ran.status, ran.report().slices[0].attempts),
        (0, 3),
        "{ran:?}"
    );
    assert!(
        ran.report().warnings[0].contains("the provider's count is unavailable"),
        "{ran:?}"
    );
}

#[test]
fn a_key_in_the_server_s_last_words_is_not_printed() {
    let server = Server::start();
    let words = format!("{{\"success\":false,\"message\":\"key 1234567{CANARY}89 refused\"}}\n");
    server
        .on(STREAM, [ok_chunked(&words)])
        .on("/v1/cdrs?", [count(3)]);
    // The canary holds fewer digits in a row than a phone number; this key is mostly digits.
    let workplace = Workplace::new(&server);
    let key = format!("1234567{CANARY}89");
    let output = workplace
        .command(&["run", "--from", DAY, "--to", DAY])
        .env("TEST_KEY", &key)
        .output()
        .unwrap();
    let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(
        printed.contains("key [key] refused") && !printed.contains(CANARY),
        "{printed}"
    );
}

#[test]
fn each_reason_to_retry_has_its_own_limit() {
    let whole = calls(0, 3);
    let busy = || sized("503 Service Unavailable", "Retry-After: 0\r\n", "{}");
    let page = || sized("200 OK", "Content-Type: text/html\r\n", "<html></html>");
    let short = || ok_chunked(&calls(0, 2));
    let server = Server::start();
    server
        .on(
            STREAM,
            [
                busy(),
                busy(),
                page(),
                short(),
                page(),
                short(),
                ok_chunked(&whole),
            ],
        )
        .on("/v1/cdrs?", [count(3)]);
    let workplace = Workplace::new(&server);
    workplace.reconfigure("max_attempts = 3", "max_attempts = 8");
    let ran = workplace.run_day(PLACED);
    assert_eq!(
        (ran.status, ran.report().slices[0].attempts),
        (0, 7),
        "{ran:?}"
    );
}

#[test]
fn an_answer_without_any_record_does_not_come_from_the_api() {
    let garbage = "upstream connect error or disconnect/reset before headers\n";
    let (workplace, _server, ran) = run_scripted(1, [ok_chunked(garbage)]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.stdout.contains("the answer has 1 line but no record"),
        "{ran:?}"
    );
    assert_eq!(workplace.table(), [] as [&str; 0]);
    // A broken record is one, and rejected.
    let (workplace, _server, ran) = run_scripted(1, [ok_chunked("{\"date\":\n")]);
    assert_eq!(
        (ran.status, workplace.rejects("placed", ".failed").len()),
        (1, 1),
        "{ran:?}"
    );
}

#[test]
fn a_stalled_stream_is_ended_and_retried() {
    let whole = calls(0, 3);
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1000000\r\n\r\n";
    for (stream, list) in [
        (
            vec![Answer::Stall(head.as_bytes().to_vec()), ok_chunked(&whole)],
            vec![count(3)],
        ),
        (
            vec![Answer::Stall(Vec::new()), ok_chunked(&whole)],
            vec![count(3)],
        ),
        (
            vec![ok_chunked(&whole)],
            vec![Answer::Stall(head.as_bytes().to_vec()), count(3)],
        ),
    ] {
        let server = Server::start();
        server.on(STREAM, stream).on("/v1/cdrs?", list);
        let workplace = Workplace::new(&server);
        workplace.reconfigure(
            "max_attempts = 3",
            "max_attempts = 3\nstall_timeout = \"300ms\"",
        );
        let ran = workplace.run_day(PLACED);
        assert_eq!(
            (ran.status, ran.report().slices[0].attempts),
            (0, 2),
            "{ran:?}"
        );
        assert!(ran.stderr.contains("300ms"), "{}", ran.stderr);
    }
}

#[test]
fn numbers_in_a_server_s_words_are_not_printed() {
    let words = format!(
        "{{\"success\":false,\"message\":\"no route to +13025550101 {}\"}}",
        "x".repeat(100_000)
    );
    for answer in [
        sized("400 Bad Request", "", &words),
        ok_chunked(&format!("{words}\n")),
    ] {
        let (_workplace, _server, ran) = run_scripted(3, [answer]);
        assert_eq!(ran.status, 1);
        for text in [&ran.stdout, &ran.stderr] {
            assert!(
                !text.contains("13025550101") && text.len() < 10_000,
                "{text}"
            );
            assert!(text.contains("[number]"), "{text}");
        }
    }
}

#[test]
fn a_count_that_changes_during_a_fetch_makes_the_slice_fetch_again() {
    let server = Server::start();
    server
        .on("/v1/cdrs?", [count(2), count(3)])
        .on(STREAM, [ok_chunked(&calls(0, 2)), ok_chunked(&calls(0, 3))]);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(PLACED);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(
        (
            ran.report().slices[0].attempts,
            ran.report().totals.counts.rows
        ),
        (2, 3)
    );
    assert!(ran.stderr.contains("changed from 2 to 3"), "{}", ran.stderr);
}

#[test]
fn an_unavailable_count_is_a_mismatch_that_can_be_tolerated() {
    let server = Server::start();
    server.on(STREAM, [ok_chunked(&calls(0, 2))]).on(
        "/v1/cdrs?",
        [Answer::Json(400, "{\"message\":\"no\"}".to_owned())],
    );
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(PLACED);
    assert_eq!(ran.status, 1);
    assert!(
        ran.stdout.contains("the provider's count is unavailable"),
        "{ran:?}"
    );
    let ran = workplace.run_day(&[PLACED, &["--reconcile", "warn"]].concat());
    assert_eq!(
        (ran.status, ran.json()["slices"][0]["reconcile"].as_str()),
        (0, Some("mismatch")),
        "{ran:?}"
    );
    assert_eq!(ran.report().warnings.len(), 1);
    // It stays open, and is reported all the same.
    let verified = workplace.run(&["verify", "--from", DAY, "--to", DAY]);
    let accepted = format!(
        "1 slice was accepted with a count mismatch, or closed without a count: placed {DAY}."
    );
    assert!(verified.stdout.contains(&accepted), "{verified:?}");
    let ran =
        workplace.run_day(&[PLACED, &["--reconcile", "warn", "--refresh", "--strict"]].concat());
    assert_eq!(ran.status, 3, "{ran:?}");
    let ran =
        workplace.run_day(&[PLACED, &["--reconcile", "off", "--refresh", "--strict"]].concat());
    assert_eq!(
        (ran.status, ran.json()["slices"][0]["reconcile"].as_str()),
        (0, Some("off")),
        "{ran:?}"
    );
}

#[test]
fn a_rate_limit_and_a_requested_wait_each_slow_all_requests_down() {
    for (status, headers, slows) in [
        ("429 Too Many Requests", "", true),
        ("503 Service Unavailable", "Retry-After: 1\r\n", true),
        ("503 Service Unavailable", "", false),
    ] {
        let server = Server::start();
        server.on(STREAM, [sized(status, headers, "")]);
        let config = Config::from_keys([
            ("lake.url", "unused"),
            ("source.url", server.url().as_str()),
        ])
        .unwrap();
        let slice = Slice::of_day(parse_day(DAY).unwrap(), Direction::Placed);
        let answer = block_on(async {
            let key = SecretString::from("key");
            let source = Api::try_new(&config.source, Some(key)).unwrap();
            source.open(cdrlake::Request::whole(slice)).await
        });
        match answer {
            Err(SourceError::Transient { slow_down, .. }) => {
                assert_eq!(slow_down, slows, "{status} {headers}");
            }
            other => panic!("{status}: {other:?}"),
        }
    }
}
