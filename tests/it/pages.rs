use crate::server::{Answer, STREAM, Server, count, ok_chunked, sized};
use crate::support::{DAY, PLACED, Workplace, calls, output, ran, run_scripted};

#[test]
fn every_page_of_a_paged_stream_is_read() {
    let server = Server::start();
    let page = |number: u64| {
        format!("{STREAM}?from={DAY}&to={DAY}&type=placed&disposition=all&page={number}")
    };
    server
        .on("/v1/cdrs?", [count(60)])
        .on(STREAM, [ok_chunked(&calls(0, 25))]);
    server
        .on(&page(2), [ok_chunked(&calls(25, 25))])
        .on(&page(3), [ok_chunked(&calls(50, 10))]);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(PLACED);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(workplace.rows("placed").num_rows(), 60);
    assert_eq!(server.requests(STREAM).len(), 3);
}

#[test]
fn pages_of_any_round_size_are_read() {
    for size in [10, 20, 25, 50, 100, 250, 500, 1000] {
        let server = Server::start();
        let page = |number: u64| {
            format!("{STREAM}?from={DAY}&to={DAY}&type=placed&disposition=all&page={number}")
        };
        server
            .on("/v1/cdrs?", [count(u64::from(size) + 3)])
            .on(STREAM, [ok_chunked(&calls(0, size))])
            .on(&page(2), [ok_chunked(&calls(size, 3))]);
        let workplace = Workplace::new(&server);
        let ran = workplace.run_day(PLACED);
        assert_eq!(ran.status, 0, "{size}: {ran:?}");
        assert_eq!(workplace.rows("placed").num_rows(), size as usize + 3);
    }
}

#[test]
fn a_short_stream_gets_the_advice_to_read_the_list_first() {
    let (_workplace, _server, ran) = run_scripted(60, [ok_chunked(&calls(0, 33))]);
    let error = ran.report().slices[0].error.clone().unwrap();
    let (list, accept) = (error.find("--via pages"), error.find("--reconcile warn"));
    assert!(list.is_some() && list < accept, "{error}");
    // The list itself, or more calls than are counted, are not helped by the list.
    let (_workplace, _server, ran) = run_scripted(30, [ok_chunked(&calls(0, 33))]);
    let error = ran.report().slices[0].error.clone().unwrap();
    assert!(!error.contains("--via pages"), "{error}");
}

#[test]
fn a_server_that_always_repeats_its_first_page_fails_the_slice() {
    // 4 × 25 records make the count of 100, but they are 25 calls, with ids or without.
    for records in [calls(0, 25), calls(0, 25).replace("call_id", "other_id")] {
        let (workplace, _server, ran) = run_scripted(100, [ok_chunked(&records)]);
        assert_eq!(ran.status, 1);
        assert!(
            ran.stdout
                .contains("the provider counts 100 calls, 25 were read"),
            "{ran:?}"
        );
        assert!(
            ran.stderr.contains("page 2 does not continue it"),
            "{ran:?}"
        );
        assert_eq!(workplace.table(), [] as [&str; 0]);
    }
}

#[test]
fn a_stream_with_exactly_a_page_of_calls_is_complete_if_the_server_does_not_page() {
    // All 25 calls are there; the 26th of the count never comes.
    let server = Server::start();
    server
        .on(STREAM, [ok_chunked(&calls(0, 25))])
        .on("/v1/cdrs?", [count(26)]);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(&[PLACED, &["--reconcile", "warn"]].concat());
    assert_eq!(
        (ran.status, ran.report().totals.counts.rows),
        (0, 25),
        "{ran:?}"
    );
    assert!(
        ran.report().warnings[0].contains("counts 26 calls, 25 were read"),
        "{ran:?}"
    );
    // A 26th that came in before the count was asked must not double the others, id or not.
    let (first, second) = (
        calls(0, 25).replace("call_id", "x"),
        calls(0, 26).replace("call_id", "x"),
    );
    let server = Server::start();
    server
        .on(STREAM, [ok_chunked(&first), ok_chunked(&second)])
        .on("/v1/cdrs?", [count(26)]);
    let ran = Workplace::new(&server).run_day(&[PLACED, &["--reconcile", "off"]].concat());
    assert_eq!(
        (ran.status, ran.report().totals.counts.rows),
        (0, 26),
        "{ran:?}"
    );
}

#[test]
fn pages_that_end_before_their_total_cause_a_warning_if_counts_are_not_compared() {
    let server = Server::start();
    let page = format!("{STREAM}?from={DAY}&to={DAY}&type=placed&disposition=all&page=2");
    server
        .on("/v1/cdrs?", [count(100)])
        .on(STREAM, [ok_chunked(&calls(0, 25))])
        .on(&page, [ok_chunked(&calls(25, 5))]);
    let ran = Workplace::new(&server).run_day(&[PLACED, &["--reconcile", "off"]].concat());
    assert_eq!(
        (ran.status, ran.report().totals.counts.rows),
        (0, 30),
        "{ran:?}"
    );
    assert!(
        ran.report().warnings[0].contains("counts 100 calls, but returned only 30"),
        "{ran:?}"
    );
    // A key that may stream but not list is no reason to stop a run that asked for no count.
    server.on(
        "/v1/cdrs?",
        [Answer::Json(403, "{\"message\":\"no\"}".to_owned())],
    );
    let ran = Workplace::new(&server).run_day(&[PLACED, &["--reconcile", "off"]].concat());
    assert_eq!(
        (ran.status, ran.report().totals.counts.rows),
        (0, 25),
        "{ran:?}"
    );
}

#[test]
fn a_paged_stream_is_detected_even_if_counts_are_not_compared() {
    let server = Server::start();
    let page = format!("{STREAM}?from={DAY}&to={DAY}&type=placed&disposition=all&page=2");
    server
        .on("/v1/cdrs?", [count(30)])
        .on(STREAM, [ok_chunked(&calls(0, 25))])
        .on(&page, [ok_chunked(&calls(25, 5))]);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(&[PLACED, &["--reconcile", "off"]].concat());
    assert_eq!(
        (ran.status, ran.report().totals.counts.rows),
        (0, 30),
        "{ran:?}"
    );
    server.on("/v1/cdrs?", [Answer::Json(400, "{}".to_owned())]);
    let ran = Workplace::new(&server).run_day(&[PLACED, &["--reconcile", "off"]].concat());
    assert!(
        ran.report().warnings[0].contains("25 records may be the first of several pages"),
        "{ran:?}"
    );
}

/// A page of the list with these calls.
fn list_page(first: u32, records: u32, total: u64) -> Answer {
    let items = calls(first, records).trim_end().replace('\n', ",");
    Answer::Json(
        200,
        format!("{{\"pagination\":{{\"total\":{total}}},\"items\":[{items}]}}"),
    )
}

/// A server whose list has these answers for its pages, and for questions for its count.
fn lists(pages: &[&[Answer]], counts: &[u64]) -> Server {
    let server = Server::start();
    let query = format!("/v1/cdrs?from={DAY}&to={DAY}&type=placed&disposition=all");
    for (number, answers) in pages.iter().enumerate() {
        let page = format!("{query}&page={}&per_page=100", number + 1);
        server.on(&page, answers.iter().cloned());
    }
    let counts = counts.iter().map(|&total| count(total));
    server.on(&format!("{query}&page=1&per_page=1"), counts);
    server
}

#[test]
fn the_list_is_readable_where_the_bulk_export_is_refused() {
    let refused =
        "{\"success\":false,\"message\":\"The service is not provisioned for your account.\"}";
    for (status, exit, said) in [
        (
            403,
            2,
            "If only the bulk export is refused, set source.via to \"pages\" to read the list",
        ),
        (404, 1, "or set source.via to \"pages\" to read the list"),
    ] {
        let server = lists(
            &[
                &[list_page(0, 100, 230)],
                &[list_page(100, 100, 230)],
                &[list_page(200, 30, 230)],
            ],
            &[230],
        );
        for path in [STREAM, "/v1/cdr/all"] {
            server.on(path, [Answer::Json(status, refused.to_owned())]);
        }
        let workplace = Workplace::new(&server);
        let ran = workplace.run_day(PLACED);
        assert_eq!(ran.status, exit, "{ran:?}");
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
        let ran = workplace.run_day(&[PLACED, &["--via", "pages"]].concat());
        assert_eq!(ran.status, 0, "{ran:?}");
        let slice = &ran.report().slices[0];
        assert_eq!((slice.attempts, slice.control_total), (1, Some(230)));
        assert_eq!(workplace.rows("placed").num_rows(), 230);
    }
}

#[test]
fn a_list_whose_total_changes_during_the_walk_is_read_again() {
    // A call comes in between two pages: one is seen twice, and another would be missing.
    let server = lists(
        &[
            &[list_page(1, 100, 150), list_page(0, 100, 151)],
            &[list_page(100, 51, 151)],
        ],
        &[150, 150, 151],
    );
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(&[PLACED, &["--via", "pages"]].concat());
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(
        ran.stderr.contains("changed from 150 to 151"),
        "{}",
        ran.stderr
    );
    let slice = &ran.report().slices[0];
    assert_eq!((slice.attempts, slice.counts.rows), (2, 151), "{slice:?}");

    // It moves after the last page: only the count tells.
    let server = lists(
        &[
            &[list_page(0, 100, 150), list_page(0, 100, 151)],
            &[list_page(100, 50, 150), list_page(100, 51, 151)],
        ],
        &[150, 150, 151],
    );
    let ran = Workplace::new(&server).run_day(&[PLACED, &["--via", "pages"]].concat());
    let slice = &ran.report().slices[0];
    assert_eq!((slice.attempts, slice.counts.rows), (2, 151), "{ran:?}");

    // One that never holds what it counts fails, and one that repeats itself too.
    for second in [list_page(100, 20, 150), list_page(0, 100, 150)] {
        let server = lists(&[&[list_page(0, 100, 150)], &[second]], &[150]);
        let workplace = Workplace::new(&server);
        let ran = workplace.run_day(&[PLACED, &["--via", "pages"]].concat());
        assert_eq!(
            (ran.status, ran.report().slices[0].attempts),
            (1, 3),
            "{ran:?}"
        );
        assert!(
            ran.stdout.contains("the provider counts 150 calls"),
            "{ran:?}"
        );
        assert_eq!(workplace.table(), [] as [&str; 0]);
    }
}

#[test]
fn a_list_that_keeps_growing_is_read_to_its_new_end() {
    // The first call of all comes again on the second page, for one has come in before it.
    let moved = [list_page(1, 100, 150), list_page(0, 100, 151)];
    let server = lists(
        &[
            &moved[..1],
            &[list_page(100, 100, 151)],
            &[list_page(200, 1, 151)],
        ],
        &[150],
    );
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(&[PLACED, &["--via", "pages", "--reconcile", "off"]].concat());
    let slice = &ran.report().slices[0];
    assert_eq!((ran.status, slice.attempts), (0, 2), "{ran:?}");
    assert_eq!(
        slice.counts.records, 200,
        "one more than the page that would have done"
    );

    // Of 200 the 200th is a repeated one: the third page has what is still missing.
    let server = lists(
        &[
            &[list_page(0, 100, 200)],
            &[list_page(99, 100, 201)],
            &[list_page(199, 1, 201)],
        ],
        &[200],
    );
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(&[PLACED, &["--via", "pages", "--reconcile", "off"]].concat());
    let slice = &ran.report().slices[0];
    assert_eq!(
        (slice.attempts, slice.counts.rows, slice.counts.duplicates),
        (2, 200, 1),
        "{ran:?}"
    );
}

#[test]
fn a_truncated_page_is_read_again_alone() {
    let body = |first, records, total| match list_page(first, records, total) {
        Answer::Json(_, body) => body,
        _ => unreachable!("a page is JSON"),
    };
    let page = body(100, 50, 150);
    let head = |length: usize| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let cut = format!("{}{}", head(page.len()), &page[..page.len() / 2]);
    let web_page = sized("200 OK", "Content-Type: text/html\r\n", "<html>");
    let server = lists(
        &[
            &[list_page(0, 100, 150)],
            &[
                Answer::Json(503, "{\"message\":\"busy\"}".to_owned()),
                Answer::Bytes(cut.into_bytes()),
                Answer::Stall(head(page.len()).into_bytes()),
                web_page,
                list_page(100, 50, 150),
            ],
        ],
        &[150],
    );
    let workplace = Workplace::new(&server);
    workplace.reconfigure(
        "max_attempts = 3",
        "max_attempts = 5\nstall_timeout = \"300ms\"",
    );
    let ran = workplace.run_day(&[PLACED, &["--via", "pages"]].concat());
    assert_eq!(ran.status, 0, "{ran:?}");
    let slice = &ran.report().slices[0];
    assert_eq!(
        (slice.attempts, slice.counts.rows, slice.counts.duplicates),
        (1, 150, 0)
    );
    assert_eq!(ran.stderr.matches("Retrying").count(), 4, "{}", ran.stderr);
}

#[test]
fn a_missing_page_fails_its_slice_and_an_endless_list_ends_at_the_limit() {
    let busy = Answer::Json(503, "{\"message\":\"busy\"}".to_owned());
    let server = lists(&[&[list_page(0, 100, 150)], &[busy]], &[150]);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(&[PLACED, &["--via", "pages"]].concat());
    assert_eq!(ran.status, 1);
    let slice = &ran.report().slices[0];
    let error = slice.error.clone().unwrap();
    assert_eq!(
        error,
        "page 2: the API answered 503 Service Unavailable: busy (no attempts left)"
    );
    let query = format!("/v1/cdrs?from={DAY}&to={DAY}&type=placed&disposition=all");
    let asked = |page| {
        server
            .requests(&format!("{query}&page={page}&per_page=100"))
            .len()
    };
    assert_eq!((slice.attempts, asked(1), asked(2)), (1, 1, 3));

    // Fresh calls on every page, for ever.
    let pages: Vec<[Answer; 1]> = (0..200)
        .map(|page| [list_page(page * 100, 100, 1 << 50)])
        .collect();
    let pages: Vec<&[Answer]> = pages.iter().map(|page| &page[..]).collect();
    let server = lists(&pages, &[1 << 50]);
    let workplace = Workplace::new(&server);
    workplace.configure_also("[limits]\nmax_slice_bytes = \"1MiB\"");
    let ran = workplace.run_day(&[PLACED, &["--via", "pages"]].concat());
    assert_eq!(ran.status, 1);
    // The limit of all pages, and not what the last one had left of it.
    let said = "more than 1.0 MiB (limits.max_slice_bytes)";
    assert!(ran.stdout.contains(said), "{ran:?}");
    let requests = server.requests(&query).len();
    assert!((20..100).contains(&requests), "{requests}");
}

#[test]
fn calls_that_disappear_during_a_walk_start_a_new_attempt() {
    // Call 3 goes after the first page: 100 moves up to it and is never seen. What was read is as
    // much as is counted afterwards.
    let server = lists(
        &[
            &[
                list_page(0, 100, 150),
                list_page(0, 100, 150),
                list_page(0, 100, 149),
            ],
            &[list_page(101, 49, 149)],
        ],
        &[150, 150, 149],
    );
    let workplace = Workplace::new(&server);
    workplace.reconfigure("max_attempts = 3", "max_attempts = 2");
    let ran = workplace.run_day(&[PLACED, &["--via", "pages"]].concat());
    assert_eq!(
        (ran.status, ran.report().slices[0].attempts),
        (1, 2),
        "{ran:?}"
    );
    assert!(
        ran.stderr
            .contains("fell from 150 to 149 while pages were read"),
        "{ran:?}"
    );
    assert_eq!(workplace.table(), [] as [&str; 0]);
}

#[test]
fn pages_with_a_duplicate_do_not_match_the_count_with_or_without_dedupe() {
    // An order that is not stable: call 99 comes twice, call 100 never.
    let server = lists(
        &[&[list_page(0, 100, 150)], &[list_page(99, 50, 150)]],
        &[150],
    );
    let workplace = Workplace::new(&server);
    for dedupe in ["true", "false"] {
        let mut command = workplace.command(&["run", "--from", DAY, "--to", DAY, "--via", "pages"]);
        command.args(PLACED).env("CDRLAKE_QUALITY_DEDUPE", dedupe);
        let ran = ran(output(command));
        assert_eq!(ran.status, 1, "{dedupe}: {ran:?}");
        assert!(
            ran.stdout.contains("150 were read (1 of them a duplicate)"),
            "{ran:?}"
        );
    }
}

#[test]
fn a_list_without_a_total_is_not_complete() {
    let server = Server::start();
    let items = calls(0, 3).trim_end().replace('\n', ",");
    server.on("/v1/cdrs?", [Answer::Json(200, format!("[{items}]"))]);
    let workplace = Workplace::new(&server);
    let ran = workplace.run_day(&[PLACED, &["--via", "pages", "--reconcile", "off"]].concat());
    assert_eq!(
        (ran.status, ran.report().slices[0].attempts),
        (1, 1),
        "{ran:?}"
    );
    assert!(
        ran.stdout.contains("the list has no pagination.total"),
        "{ran:?}"
    );
    assert_eq!(workplace.table(), [] as [&str; 0]);
}
