use jiff::Timestamp;

use crate::server::{Answer, STREAM, Server, count, ok_chunked, response, sized};
use crate::support::{
    CANARY, DAY, PLACED, Ran, Workplace, calls, output, ran, run_scripted, scripted,
};

/// An answer that leaves its connection open, on which the next request gets none.
fn kept_open(body: &str) -> Answer {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let length = body.len();
    Answer::CloseOnNextRequest(format!("{head}Content-Length: {length}\r\n\r\n{body}").into_bytes())
}

/// Runs [`DAY`] and the next day, one after the other.
fn run_two_days(workplace: &Workplace) -> Ran {
    let days = ["run", "--from", DAY, "--to", "2026-10-02"];
    workplace.run(&[&days[..], &["--requests", "1"], PLACED].concat())
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
fn a_server_that_has_answered_is_not_reported_as_unreachable() {
    let (_workplace, server) = scripted(3, [Answer::Bytes(Vec::new())]);
    let ran = Workplace::new(&server).run_day(PLACED);
    let error = ran.report().slices[0].error.clone().unwrap();
    let said = format!(
        "the connection to {} ended before a response",
        server.address
    );
    assert!(error.contains(&said), "{error}");
    assert!(!error.contains("source.url"), "{error}");
}

#[test]
fn an_unreachable_proxy_is_blamed_and_not_the_api() {
    use std::io::{Read, Write};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let workplace = Workplace::with_url("http://api.example.invalid");
    workplace.reconfigure("[source]", "[source]\nallow_http = true");
    let mut command = workplace.command(&["run", "--from", DAY, "--to", DAY]);
    command.args(PLACED);
    command.env("http_proxy", format!("http://user:hush@{address}"));
    for unset in ["HTTP_PROXY", "NO_PROXY", "no_proxy"] {
        command.env_remove(unset);
    }
    let once = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _head = stream.read(&mut [0; 4096]).unwrap();
        drop(listener);
        let Answer::Bytes(busy) = sized("503 Busy", "", "") else {
            unreachable!("it is made of bytes");
        };
        stream.write_all(&busy).unwrap();
    });
    let ran = ran(output(command));
    once.join().unwrap();
    let named = format!(
        "lost the connection to api.example.invalid through the proxy http://{address} \
         (http_proxy): "
    );
    assert!(ran.stdout.contains(&named), "{ran:?}");
    assert!(!format!("{ran:?}").contains("hush"), "{ran:?}");
}

#[test]
fn a_204_or_a_404_of_the_api_is_an_empty_day_if_the_count_is_zero() {
    let none = "{\"success\":false,\"message\":\"No calls found\"}";
    let page = "<html>not found</html>";
    let nothing = || response("204 No Content", "", "");
    let absent = || Answer::Json(404, none.to_owned());
    for (name, total, answer, arguments, expected) in [
        ("204", 0, nothing(), PLACED, Ok(())),
        ("404", 0, absent(), PLACED, Ok(())),
        (
            "404 of csv",
            0,
            absent(),
            &["--direction", "placed", "--via", "csv"],
            Ok(()),
        ),
        (
            "uncompared",
            0,
            nothing(),
            &["--direction", "placed", "--reconcile", "off"],
            Ok(()),
        ),
        (
            "204 of a full day",
            3,
            nothing(),
            PLACED,
            Err("204 No Content"),
        ),
        (
            "404 of a full day",
            3,
            absent(),
            PLACED,
            Err("(404: No calls found)"),
        ),
        (
            "uncompared, of a full day",
            3,
            nothing(),
            &["--direction", "placed", "--reconcile", "off"],
            Err("204 No Content"),
        ),
        (
            "a 404 of another server",
            0,
            sized("404 Not Found", "Content-Type: text/html\r\n", page),
            PLACED,
            Err("the server has neither"),
        ),
    ] {
        let server = Server::start();
        for path in [STREAM, "/v1/cdr/all", "/v1/cdr.csv", "/v1/cdrs.csv"] {
            server.on(path, [answer.clone()]);
        }
        server.on("/v1/cdrs?", [count(total)]);
        let workplace = Workplace::new(&server);
        let ran = workplace.run_day(arguments);
        let report = ran.report();
        let slice = &report.slices[0];
        match expected {
            Ok(()) => assert_eq!(
                (ran.status, slice.counts.records),
                (0, 0),
                "{name}: {ran:?}"
            ),
            Err(said) => {
                let error = slice.error.as_deref().unwrap();
                assert!(ran.status == 1 && error.contains(said), "{name}: {ran:?}");
            }
        }
        assert_eq!(workplace.table(), [] as [&str; 0], "{name}");
    }
}

#[test]
fn a_list_that_is_null_is_empty_and_a_count_may_be_written_as_text() {
    for (list, stream, rows) in [
        (
            "{\"items\":null,\"pagination\":{\"total\":\"0\"}}",
            "{\"items\":null}",
            0,
        ),
        ("{\"pagination\":{\"total\":\"3\"}}", &*calls(0, 3), 3),
        (
            "{\"pagination\":{\"total\": 0 },\"items\":null}",
            "{\"pagination\":{\"total\":\"0\"},\"items\": null }",
            0,
        ),
    ] {
        let server = Server::start();
        server
            .on(STREAM, [ok_chunked(stream)])
            .on("/v1/cdrs?", [Answer::Json(200, list.to_owned())]);
        let ran = Workplace::new(&server).run_day(PLACED);
        assert_eq!(ran.status, 0, "{ran:?}");
        let slice = &ran.report().slices[0];
        assert_eq!(
            (slice.counts.rows, slice.control_total),
            (rows, Some(rows)),
            "{slice:?}"
        );
    }
    // A walk knows its end by the count.
    let page = |first| {
        let items = calls(first, 2).trim_end().replace('\n', ",");
        let page = format!("{{\"items\":[{items}],\"pagination\":{{\"total\":\"4\"}}}}");
        Answer::Json(200, page)
    };
    let server = Server::start();
    let query = format!("/v1/cdrs?from={DAY}&to={DAY}&type=placed&disposition=all");
    server.on(&format!("{query}&page=1&per_page=100"), [page(0)]);
    server.on(&format!("{query}&page=2&per_page=100"), [page(2)]);
    server.on(&format!("{query}&page=1&per_page=1"), [count(4)]);
    let pages = ["--via", "pages", "--reconcile", "off"];
    let ran = Workplace::new(&server).run_day(&[PLACED, &pages].concat());
    assert_eq!(ran.report().slices[0].counts.rows, 4, "{ran:?}");
}

#[test]
fn an_answer_that_announces_calls_but_has_none_closes_no_day() {
    let three = calls(0, 3).trim_end().replace('\n', ",");
    let elsewhere = format!("{{\"pagination\":{{\"total\":3}},\"data\":[{three}]}}");
    let off = ["--reconcile", "off"];
    for (stream, total, off, said) in [
        (
            "{\"items\":null,\"pagination\":{\"total\":7}}",
            0,
            &off[..],
            "no calls, but the provider counts 7: the answer has no list of calls (`items`)",
        ),
        (
            "{\"items\":[],\"pagination\":{\"total\":7}}",
            0,
            &off,
            "no calls, but the provider counts 7: the answer has an empty list",
        ),
        (&elsewhere, 0, &off, "no calls, but the provider counts 3: "),
        (&elsewhere, 3, &[], "no calls, but the provider counts 3: "),
        (
            "{\"items\":null}",
            5,
            &off,
            "no calls, but the provider counts 5: ",
        ),
        (
            "{\"items\":null,\"success\":false,\"message\":\"backend down\"}",
            0,
            &[],
            "backend down",
        ),
    ] {
        let (workplace, server) = scripted(total, [Answer::Json(200, stream.to_owned())]);
        let ran = workplace.run_day(&[PLACED, off].concat());
        let report = ran.report();
        let error = report.slices[0].error.as_deref().unwrap_or_default();
        assert!(ran.status == 1 && error.contains(said), "{stream}: {ran:?}");
        // As often as a count that does not match.
        assert_eq!(server.requests(STREAM).len(), 3, "{stream}");
    }
    // What came of a longer list is kept, and asked for again.
    let short = format!("{{\"items\":[{three}],\"pagination\":{{\"total\":7}}}}");
    let (workplace, _server) = scripted(7, [Answer::Json(200, short)]);
    let ran = workplace.run_day(&[PLACED, &off].concat());
    assert_eq!(ran.status, 0, "{ran:?}");
    let entry = &workplace.lake_files()[&format!("_cdrlake/ledger/placed/{DAY}.json")];
    let entry: serde_json::Value = serde_json::from_slice(entry).unwrap();
    assert_eq!(entry["committed"]["state"], "open", "{entry}");
}

#[test]
fn a_day_without_its_calls_is_requested_again() {
    let words = "{\"message\":\"warming up\"}";
    for absent in [
        response("204 No Content", "", ""),
        Answer::Json(404, words.to_owned()),
    ] {
        // A 404 is asked for on both paths.
        let server = Server::start();
        server
            .on("/v1/cdr/all", [absent.clone()])
            .on(STREAM, [absent.clone(), ok_chunked(&calls(0, 5))])
            .on("/v1/cdrs?", [count(5)]);
        let ran = Workplace::new(&server).run_day(PLACED);
        assert_eq!(ran.status, 0, "{ran:?}");
        assert_eq!(ran.report().slices[0].counts.rows, 5, "{ran:?}");
    }
}

#[test]
fn a_day_without_calls_and_without_a_count_is_unknown() {
    let nothing = response("204 No Content", "", "");
    let server = Server::start();
    server
        .on(STREAM, [nothing.clone()])
        .on("/v1/cdrs?", [nothing]);
    let ran = Workplace::new(&server).run_day(PLACED);
    let error = ran.report().slices[0].error.clone().unwrap();
    let said = "no calls, and the provider's count is unavailable: the API answered 204 No Content";
    assert!(error.contains(said), "{error}");
    assert!(!ran.stderr.contains("provider counts"), "{}", ran.stderr);
}

#[test]
fn a_message_in_place_of_a_count_is_quoted() {
    let server = Server::start();
    let words = "{\"success\":false,\"message\":\"Call log is being rebuilt\"}";
    server
        .on(STREAM, [ok_chunked(&calls(0, 3))])
        .on("/v1/cdrs?", [Answer::Json(200, words.to_owned())]);
    let ran = Workplace::new(&server).run_day(PLACED);
    assert_eq!(ran.status, 1);
    assert!(
        ran.stderr.contains("Call log is being rebuilt"),
        "{}",
        ran.stderr
    );
    // Also of the paths that it does not know.
    let ran = Workplace::new(&Server::start()).run_day(PLACED);
    assert!(ran.stdout.contains("(404: Not found)"), "{ran:?}");
}

#[test]
fn a_requested_wait_beyond_the_limit_ends_the_run_and_its_end_is_reported() {
    let tomorrow = Timestamp::now() + jiff::SignedDuration::from_hours(24);
    let reset = format!("X-RateLimit-Reset: {}\r\n", tomorrow.as_second());
    for header in ["Retry-After: 86400\r\n", &reset] {
        let server = Server::start();
        let words = "{\"success\":false,\"message\":\"Daily quota used up\"}";
        server.serve(
            "placed",
            "2026-10-03",
            calls(0, 3).replace(DAY, "2026-10-03"),
            3,
        );
        for days in ["2026-10-01", "2026-10-02"] {
            let quota = sized("429 Too Many Requests", header, words);
            server.on(&format!("/v1/cdrs?from={days}"), [quota]);
        }
        let workplace = Workplace::new(&server);
        let mut arguments = vec![
            "run",
            "--from",
            DAY,
            "--to",
            "2026-10-03",
            "--requests",
            "1",
        ];
        arguments.extend(["--format", "json"]);
        // By a run of its own: what is under way when the run ends may be done or not.
        let newest = ["run", "--from", "2026-10-03", "--to", "2026-10-03"];
        let ran = workplace.run(&[&newest[..], PLACED].concat());
        assert_eq!(ran.status, 0, "{ran:?}");
        let ran = workplace.run(&[&arguments, PLACED].concat());
        // It stays.
        assert_eq!(ran.status, 1, "{ran:?}");
        assert_eq!(workplace.table().len(), 1, "{ran:?}");
        let asked: usize = ["2026-10-01", "2026-10-02"]
            .map(|day| server.requests(&format!("/v1/cdrs?from={day}")).len())
            .iter()
            .sum();
        assert_eq!(asked, 1, "{ran:?}");
        let until = tomorrow.strftime("%Y-%m-%d %H:%M").to_string();
        // A minute may have passed meanwhile.
        let until = &until[..until.len() - 1];
        for said in [
            "error: the run was stopped: ",
            "Daily quota used up",
            until,
            "UTC",
        ] {
            assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
        }
        assert!(!ran.stderr.contains("Retrying"), "{}", ran.stderr);
        let entry = workplace.lake_files();
        assert!(
            !entry.contains_key("_cdrlake/ledger/placed/2026-10-02.json"),
            "{ran:?}"
        );
    }
}

#[test]
fn a_refusal_of_one_day_fails_its_slice_only() {
    let later = "Retry-After: 7200\r\n";
    for (status, headers, said) in [
        (
            "503 Service Unavailable",
            later,
            "The API asks to wait until",
        ),
        ("409 Conflict", later, "The API asks to wait until"),
        ("403 Forbidden", "", "what this day needs"),
    ] {
        let server = Server::start();
        for day in ["2026-10-01", "2026-10-02", "2026-10-03"] {
            server.serve("placed", day, calls(0, 3).replace(DAY, day), 3);
        }
        let busy = sized(status, headers, "{\"message\":\"busy\"}");
        let day = "2026-10-02";
        let stream = format!("{STREAM}?from={day}&to={day}&type=placed&");
        server.on(&stream, [busy]);
        let workplace = Workplace::new(&server);
        let days = ["run", "--from", DAY, "--to", "2026-10-03"];
        let one = ["--requests", "1", "--format", "json"];
        let ran = workplace.run(&[&days[..], &one, PLACED].concat());
        assert_eq!((ran.status, workplace.table().len()), (1, 2), "{ran:?}");
        let failed = "_cdrlake/ledger/placed/2026-10-02.json";
        let entry = &workplace.lake_files()[failed];
        assert!(String::from_utf8_lossy(entry).contains(said), "{ran:?}");
    }
}

#[test]
fn a_403_to_two_days_in_a_row_ends_the_run() {
    let server = Server::start();
    let days = ["2026-10-01", "2026-10-02", "2026-10-03", "2026-10-04"];
    for day in days {
        server.serve("placed", day, calls(0, 3).replace(DAY, day), 3);
    }
    for day in &days[..3] {
        let forbidden = Answer::Json(403, "{\"message\":\"no\"}".to_owned());
        let stream = format!("{STREAM}?from={day}&to={day}&type=placed&");
        server.on(&stream, [forbidden]);
    }
    let workplace = Workplace::new(&server);
    let arguments = ["run", "--from", DAY, "--to", days[3], "--requests", "1"];
    let ran = workplace.run(&[&arguments[..], PLACED].concat());
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stderr.contains("needs the scope"), "{ran:?}");
    let asked = server.requests(&format!("{STREAM}?from={DAY}"));
    assert!(asked.is_empty(), "{ran:?}");
}

#[test]
fn a_404_on_a_path_that_has_answered_does_not_blame_the_path() {
    let server = Server::start();
    server.serve(
        "placed",
        "2026-10-02",
        calls(0, 3).replace(DAY, "2026-10-02"),
        3,
    );
    let absent = Answer::Json(404, "{\"error\":{\"message\":\"warming up\"}}".to_owned());
    server
        .on(&format!("/v1/cdrs?from={DAY}"), [count(5)])
        .on(&format!("{STREAM}?from={DAY}"), [absent]);
    let workplace = Workplace::new(&server);
    let ran = run_two_days(&workplace);
    let said = "no calls, but the provider counts 5: the API answered 404 Not Found: warming up";
    assert!(ran.stdout.contains(said), "{ran:?}");
    assert!(server.requests("/v1/cdr/all").is_empty(), "{ran:?}");
}

#[test]
fn a_key_command_that_hangs_does_not_keep_a_run_from_ending() {
    let refused = Answer::Json(401, "{\"message\":\"Unauthorized\"}".to_owned());
    let (workplace, _server) = scripted(3, [refused]);
    let script = format!(
        "test -e asked && {{ echo $$ > hangs; exec sleep 300; }}; touch asked; echo {CANARY}"
    );
    workplace.reconfigure(
        "{ env = \"TEST_KEY\" }",
        &format!("{{ command = [\"sh\", \"-c\", \"{script}\"] }}"),
    );
    let mut command = workplace.command(&["run", "--from", DAY, "--to", DAY]);
    let child = command
        .args(PLACED)
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn();
    let mut child = child.unwrap();
    let begun = std::time::Instant::now();
    while !workplace.path("hangs").exists() {
        assert!(begun.elapsed().as_secs() < 60, "it never asked again");
        std::thread::yield_now();
    }
    let kill = |signal: &str, id: &str| {
        let mut kill = std::process::Command::new("kill");
        kill.args([signal, id]).status().unwrap().success()
    };
    assert!(kill("-INT", &child.id().to_string()));
    let begun = std::time::Instant::now();
    child.wait().unwrap();
    let took = begun.elapsed();
    // The key command outlives the run.
    let sleeping = std::fs::read_to_string(workplace.path("hangs")).unwrap();
    assert!(kill("-KILL", sleeping.trim()));
    assert!(took.as_secs() < 30, "{took:?}");
}

#[test]
fn the_reset_time_of_an_unreached_limit_causes_no_wait() {
    let soon = "X-RateLimit-Limit: 1000\r\nX-RateLimit-Reset: 86400\r\n";
    let busy = sized("503 Service Unavailable", soon, "{\"message\":\"busy\"}");
    let (_workplace, _server, ran) = run_scripted(3, [busy, ok_chunked(&calls(0, 3))]);
    assert_eq!(
        (ran.status, ran.report().slices[0].attempts),
        (0, 2),
        "{ran:?}"
    );
}

#[test]
fn repeated_429s_name_the_settings_that_reduce_requests() {
    let words = "{\"message\":\"slow down\"}";
    let busy = sized("429 Too Many Requests", "Retry-After: 0\r\n", words);
    let (_workplace, _server, ran) = run_scripted(3, [busy]);
    let error = ran.report().slices[0].error.clone().unwrap();
    for said in ["slow down", "source.requests", "source.requests_per_minute"] {
        assert!(error.contains(said), "{error}");
    }
    let first = ran.stderr.lines().find(|line| line.contains("Retrying"));
    assert!(
        !first.unwrap().contains("source.requests"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_content_encoding_without_compression_is_accepted() {
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

#[test]
fn a_key_that_is_refused_during_a_run_is_read_once_more() {
    const NEW: &str = "rotated-key-77aa";
    let refused = Answer::Json(401, "{\"message\":\"Unauthorized\"}".to_owned());
    let records = calls(0, 3).replacen('{', &format!("{{\"note\":\"{CANARY} and {NEW}\","), 1);
    let server = Server::start();
    server.on("/v1/cdrs?", [count(3)]);
    server.on(STREAM, [refused.clone(), ok_chunked(&records)]);
    let workplace = Workplace::new(&server);
    // Prints the one key the first time, and the other from then on.
    let script = format!("test -e asked && echo {NEW} || {{ touch asked; echo {CANARY}; }}");
    workplace.reconfigure(
        "{ env = \"TEST_KEY\" }",
        &format!("{{ command = [\"sh\", \"-c\", \"{script}\"] }}"),
    );
    let ran = workplace.run_day(PLACED);
    assert_eq!(
        (ran.status, ran.report().slices[0].attempts),
        (0, 1),
        "{ran:?}"
    );
    let heads = server.requests(STREAM);
    assert!(
        heads[0].head.contains(CANARY) && heads[1].head.contains(NEW),
        "{heads:?}"
    );
    let seen = crate::privacy::everything(&workplace, &ran);
    assert!(!seen.contains(CANARY) && !seen.contains(NEW), "{seen}");
    assert_eq!(ran.report().totals.counts.redacted, 1, "{ran:?}");

    // As often as it was good meanwhile.
    let server = Server::start();
    let records = |day: &str| ok_chunked(&calls(0, 3).replace(DAY, day));
    server.on("/v1/cdrs?", [count(3)]);
    for day in ["2026-10-01", "2026-10-02"] {
        let stream = format!("{STREAM}?from={day}");
        server.on(&stream, [refused.clone(), records(day)]);
    }
    let workplace = Workplace::new(&server);
    let script = "echo x >> asked; echo canary-key-$(wc -l < asked)";
    let command = format!("{{ command = [\"sh\", \"-c\", \"{script}\"] }}");
    workplace.reconfigure("{ env = \"TEST_KEY\" }", &command);
    let ran = run_two_days(&workplace);
    assert_eq!((ran.status, workplace.table().len()), (0, 2), "{ran:?}");

    // Not where nothing was accepted before.
    let server = Server::start();
    server
        .on("/v1/cdrs?", [count(3)])
        .on(STREAM, [refused.clone()]);
    let workplace = Workplace::new(&server);
    let script = "echo x >> asked; echo canary-key-$(wc -l < asked)";
    let command = format!("{{ command = [\"sh\", \"-c\", \"{script}\"] }}");
    workplace.reconfigure("{ env = \"TEST_KEY\" }", &command);
    let ran = workplace.run_day(PLACED);
    assert_eq!(ran.status, 2, "{ran:?}");
    let asked = || std::fs::read_to_string(workplace.path("asked")).unwrap();
    assert_eq!(
        (asked().len(), server.requests(STREAM).len()),
        (4, 2),
        "{ran:?}"
    );
    server.on("/v1/cdrs?", [refused]);
    workplace.run_day(PLACED);
    assert_eq!(asked().len(), 6, "{ran:?}");
}

#[test]
fn unknown_variables_cause_a_warning_but_those_of_kubernetes_do_not() {
    let (workplace, _server) = scripted(3, [ok_chunked(&calls(0, 3))]);
    let run = |variables: &[(&str, &str)]| {
        let mut command = workplace.command(&["run", "--from", DAY, "--to", DAY]);
        command.args(PLACED).envs(variables.iter().copied());
        ran(output(command))
    };
    let services = [
        ("CDRLAKE_SERVICE_HOST", "10.0.0.1"),
        ("CDRLAKE_SERVICE_PORT", "80"),
        ("CDRLAKE_SERVICE_PORT_HTTP", "80"),
        ("CDRLAKE_PORT", "tcp://10.0.0.1:80"),
        ("CDRLAKE_PORT_80_TCP_ADDR", "10.0.0.1"),
    ];
    let ran = run(&services);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(!ran.stderr.contains("WARN"), "{}", ran.stderr);
    let ran = run(&[("CDRLAKE_LAKE_ULR", "x")]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let nearest =
        "CDRLAKE_LAKE_ULR is ignored, because there is no such key. Did you mean CDRLAKE_LAKE_URL?";
    assert!(ran.stderr.contains(nearest), "{}", ran.stderr);
}

#[test]
fn a_variable_that_is_not_utf_8_is_refused_or_causes_a_warning() {
    use std::os::unix::ffi::OsStrExt;

    let (workplace, _server) = scripted(3, [ok_chunked(&calls(0, 3))]);
    for (name, status, said) in [
        (
            "CDRLAKE_LAKE_URL",
            2,
            "variable CDRLAKE_LAKE_URL: the value is not UTF-8",
        ),
        ("CDRLAKE_LAKE_OPTIONS_REGION", 2, "the value is not UTF-8"),
        ("CDRLAKE_LAKE_ULR", 0, "CDRLAKE_LAKE_ULR is ignored"),
        ("CDRLAKE_LOG", 0, "CDRLAKE_LOG is ignored"),
    ] {
        let mut command = workplace.command(&["run", "--from", DAY, "--to", DAY]);
        command
            .args(PLACED)
            .env(name, std::ffi::OsStr::from_bytes(b"x\xff"));
        let ran = ran(output(command));
        assert_eq!(ran.status, status, "{ran:?}");
        assert!(ran.stderr.contains(said), "{name}: {}", ran.stderr);
    }
}

#[test]
fn an_invalid_log_filter_causes_a_warning() {
    let (workplace, _server) = scripted(3, [ok_chunked(&calls(0, 3))]);
    for (filter, is_good) in [
        ("verbose", false),
        ("cdrlake=loud", false),
        ("debug", true),
        ("WARN", true),
        ("cdrlake=debug,hyper=off", true),
        ("", true),
    ] {
        let mut command = workplace.command(&["run", "--from", DAY, "--to", DAY]);
        command.args(PLACED).env("CDRLAKE_LOG", filter);
        let ran = ran(output(command));
        assert_eq!(ran.status, 0, "{ran:?}");
        let is_said = ran
            .stderr
            .contains("CDRLAKE_LOG is ignored, because it is not a ");
        assert_eq!(is_said, !is_good, "{filter}: {}", ran.stderr);
    }
}
