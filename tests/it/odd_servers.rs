use crate::server::{STREAM, Server, sized};
use crate::support::{PLACED, Workplace, calls};

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
