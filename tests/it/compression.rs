use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::server::{Answer, STREAM, ok_chunked, sized};
use crate::support::{PLACED, calls, run_scripted};

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// Records that are compressed as the headers say.
fn encoded(headers: &str, body: &[u8]) -> Answer {
    let headers = format!("Content-Type: application/x-ndjson\r\n{headers}");
    sized("200 OK", &headers, body)
}

const GZIP: &str = "Content-Encoding: gzip\r\n";

const ZSTD: &str = "Content-Encoding: zstd\r\n";

#[test]
fn a_compressed_stream_is_read_to_the_end_of_its_last_member() {
    let (first, rest) = (calls(0, 40), calls(40, 60));
    let gzip_members = [gzip(&first), gzip(""), gzip(&rest)].concat();
    let zstd = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
    for (headers, body) in [
        (GZIP, gzip(&calls(0, 100))),
        // The HTTP client's own decompression loses all but the first member without a word.
        (GZIP, gzip_members.clone()),
        ("Content-Encoding: X-Gzip\r\n", gzip_members),
        (ZSTD, [zstd(&first), zstd(&rest)].concat()),
        ("Content-Encoding: identity\r\n", calls(0, 100).into_bytes()),
    ] {
        let (workplace, server, ran) = run_scripted(100, [encoded(headers, &body)]);
        assert_eq!(ran.status, 0, "{headers}: {ran:?}");
        let slice = &ran.report().slices[0];
        assert_eq!((slice.attempts, slice.counts.rows), (1, 100), "{headers}");
        assert_eq!(workplace.rows("placed").num_rows(), 100, "{headers}");
        let asked = |target| {
            let head = server.requests(target)[0].head.to_ascii_lowercase();
            head.contains("accept-encoding: gzip, zstd")
        };
        assert!(asked(STREAM) && !asked("/v1/cdrs?"));
    }
}

#[test]
fn an_unrequested_encoding_is_refused_at_once() {
    for (headers, named) in [
        ("Content-Encoding: br\r\n", "br"),
        ("Content-Encoding: gzip, gzip\r\n", "gzip, gzip"),
        // The same in two lines, of which a client may see only the first.
        (
            "Content-Encoding: gzip\r\nContent-Encoding: deflate\r\n",
            "gzip, deflate",
        ),
    ] {
        let (workplace, _server, ran) = run_scripted(3, [encoded(headers, &gzip(&calls(0, 3)))]);
        assert_eq!(ran.status, 1, "{named}: {ran:?}");
        let slice = &ran.report().slices[0];
        let error = slice.error.as_deref().unwrap();
        let said = format!("the answer is compressed ({named}), which was not requested");
        assert!(slice.attempts == 1 && error.contains(&said), "{slice:?}");
        assert_eq!(workplace.table(), [] as [&str; 0], "{named}");
    }
}

#[test]
fn a_truncated_or_damaged_compressed_stream_is_fetched_again() {
    let whole = calls(0, 3);
    let good = gzip(&whole);
    let mut wrong_checksum = good.clone();
    let checksum = good.len() - 8;
    wrong_checksum[checksum] ^= 1;
    let two_members = [gzip(&calls(0, 2)), gzip(&calls(2, 1))].concat();
    for (name, headers, body, said) in [
        ("cut", GZIP, &good[..good.len() / 2], "body is cut after"),
        (
            "without its checksum",
            GZIP,
            &good[..checksum],
            "body is cut after",
        ),
        (
            "with half of its second member",
            GZIP,
            &two_members[..two_members.len() - 20],
            "body is cut after",
        ),
        (
            "with another checksum",
            GZIP,
            &wrong_checksum,
            "body is damaged",
        ),
        ("not compressed", GZIP, whole.as_bytes(), "body is damaged"),
        (
            "followed by other data",
            GZIP,
            &[good.as_slice(), b"garbage"].concat(),
            "or followed by other data",
        ),
        (
            "nothing",
            GZIP,
            b"",
            "the body is empty, but declared as gzip",
        ),
        ("gzip as zstd", ZSTD, &good, "the zstd body is damaged"),
        (
            "compressed without a word",
            "",
            &good,
            "line 1, byte 0: the body is compressed, but has no Content-Encoding",
        ),
    ] {
        let (workplace, _server, ran) =
            run_scripted(3, [encoded(headers, body), encoded(GZIP, &good)]);
        assert_eq!(ran.status, 0, "{name}: {ran:?}");
        let slice = &ran.report().slices[0];
        assert_eq!((slice.attempts, slice.counts.records), (2, 3), "{name}");
        assert_eq!(workplace.rows("placed").num_rows(), 3, "{name}");
        assert!(ran.stderr.contains(said), "{name}: {}", ran.stderr);
        // For ever, it fails the slice, and nothing is in the lake.
        let (workplace, _server, ran) = run_scripted(3, [encoded(headers, body)]);
        assert_eq!(ran.status, 1, "{name}: {ran:?}");
        let slice = &ran.report().slices[0];
        assert_eq!(slice.attempts, 3, "{name}");
        assert!(
            slice.error.as_deref().unwrap().contains(said),
            "{name}: {slice:?}"
        );
        assert_eq!(workplace.table(), [] as [&str; 0], "{name}");
    }
}

#[test]
fn a_compressed_error_message_of_the_server_is_readable() {
    let words = gzip("{\"success\":false,\"message\":\"Missing or invalid parameter type\"}");
    let answer = sized("400 Bad Request", GZIP, words);
    let (_workplace, _server, ran) = run_scripted(3, [answer]);
    let error = ran.report().slices[0].error.clone().unwrap();
    assert_eq!(
        error,
        "the API answered 400 Bad Request: Missing or invalid parameter type"
    );
}

#[test]
fn an_empty_compressed_answer_is_a_day_without_calls_only_with_the_type_of_records() {
    let nothing = gzip("");
    let answer = |content_type: &str| {
        let headers = format!("Content-Type: {content_type}\r\n{GZIP}");
        sized("200 OK", &headers, &nothing)
    };
    let (_workplace, _server, ran) = run_scripted(0, [answer("text/plain")]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(
        ran.stdout
            .contains("the answer is empty, and its Content-Type is not that of records"),
        "{ran:?}"
    );
    let (_workplace, _server, ran) = run_scripted(0, [answer("application/x-ndjson")]);
    assert_eq!(
        (ran.status, ran.report().slices[0].attempts),
        (0, 1),
        "{ran:?}"
    );
}

#[test]
fn compression_can_be_turned_off() {
    let (workplace, server, _ran) = run_scripted(3, [ok_chunked(&calls(0, 3))]);
    workplace.reconfigure("max_attempts = 3", "max_attempts = 3\ncompression = false");
    assert_eq!(
        workplace.run_day(&[PLACED, &["--refresh"]].concat()).status,
        0
    );
    let requests = server.requests(STREAM);
    let asks = |head: &str, encoding| {
        let header = format!("accept-encoding: {encoding}\r\n");
        head.to_ascii_lowercase().contains(&header)
    };
    assert!(asks(&requests[0].head, "gzip, zstd") && asks(&requests[1].head, "identity"));
}
