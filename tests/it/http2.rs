use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::{Request, Response};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use crate::support::{PLACED, Ran, Workplace, calls};
use crate::tls::Authority;

/// The fault of the first stream of calls. All other streams are complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// The stream is refused before it begins.
    Refused,
    /// The stream is reset directly after two records.
    Reset,
    /// The connection is closed directly after two records.
    GoAway,
    /// The stream ends properly after two records.
    EarlyEnd,
    /// The stream is shorter than its `content-length`.
    Length,
    /// The stream stalls after two records.
    Stall,
    /// The stream is complete if the client lets the server send exactly this many bytes ahead, and
    /// never begins otherwise.
    Window(usize),
}

/// Serves one day of three calls over HTTP/2 for as long as the test binary lives.
fn serve(mut config: ServerConfig, fault: Fault) -> SocketAddr {
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let is_first = Arc::new(AtomicBool::new(true));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, is_first) = (acceptor.clone(), Arc::clone(&is_first));
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await.unwrap();
                    let mut connection = h2::server::Builder::new()
                        // A smaller buffer would hide the size of the window.
                        .max_send_buffer_size(u32::MAX as usize)
                        .handshake(stream)
                        .await
                        .unwrap();
                    let mut open = Vec::new();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let goes_away = answer(&request, respond, fault, &is_first, &mut open);
                        if goes_away {
                            connection.abrupt_shutdown(Reason::INTERNAL_ERROR);
                        }
                    }
                });
            }
        });
    });
    address
}

/// Answers one request. Returns whether to close the connection.
fn answer(
    request: &Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    fault: Fault,
    is_first: &AtomicBool,
    open: &mut Vec<SendStream<Bytes>>,
) -> bool {
    let is_stream = request.uri().path() == "/v1/cdrs/all";
    let fault = if is_stream && is_first.swap(false, Ordering::SeqCst) {
        fault
    } else {
        Fault::Nothing
    };
    if fault == Fault::Refused {
        respond.send_reset(Reason::REFUSED_STREAM);
        return false;
    }
    let mut response = Response::builder().header("content-type", "application/x-ndjson");
    if let Fault::Window(bytes) = fault {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.reserve_capacity(bytes + 1);
        tokio::spawn(async move {
            while stream.capacity() < bytes {
                let Some(Ok(_)) = poll_fn(|context| stream.poll_capacity(context)).await else {
                    return;
                };
            }
            if stream.capacity() == bytes {
                stream.send_data(calls(0, 3).into(), true).unwrap();
            }
        });
        return false;
    }
    if fault == Fault::Length {
        response = response.header("content-length", "9999");
    }
    let body = match (is_stream, fault) {
        (false, _) => "{\"items\":[],\"pagination\":{\"total\":3}}".to_owned(),
        (true, Fault::Nothing) => calls(0, 3),
        (true, _) => calls(0, 2),
    };
    let mut stream = respond
        .send_response(response.body(()).unwrap(), false)
        .unwrap();
    let ends = matches!(fault, Fault::Nothing | Fault::EarlyEnd | Fault::Length);
    stream.send_data(body.into(), ends).unwrap();
    match fault {
        Fault::Reset => stream.send_reset(Reason::INTERNAL_ERROR),
        Fault::Stall => open.push(stream),
        _ => {}
    }
    fault == Fault::GoAway
}

fn run(fault: Fault) -> (Workplace, Ran) {
    run_with(fault, "")
}

/// Runs one slice with more configuration.
fn run_with(fault: Fault, more: &str) -> (Workplace, Ran) {
    let authority = Authority::new();
    let config = Arc::unwrap_or_clone(authority.certify("localhost", 2199));
    let address = serve(config, fault);
    let workplace = Workplace::with_url(&format!("https://localhost:{}", address.port()));
    std::fs::write(workplace.path("ca.pem"), &authority.pem).unwrap();
    workplace.reconfigure(
        "max_attempts = 3",
        "max_attempts = 3\nca_file = \"ca.pem\"\nstall_timeout = \"2s\"",
    );
    workplace.configure_also(more);
    let ran = workplace.run_day(PLACED);
    (workplace, ran)
}

#[test]
fn an_http_2_stream_with_its_end_flag_is_complete() {
    let (workplace, ran) = run(Fault::Nothing);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(ran.report().slices[0].attempts, 1, "{ran:?}");
    assert_eq!(workplace.rows("placed").num_rows(), 3);
}

#[test]
fn a_server_may_send_a_tenth_of_limits_memory_ahead() {
    for memory_mib in [256, 64] {
        // A request for the count would use up some of the window.
        let limits =
            format!("[quality]\nreconcile = \"off\"\n[limits]\nmemory = \"{memory_mib}MiB\"");
        let (workplace, ran) = run_with(Fault::Window((memory_mib << 20) / 10), &limits);
        assert_eq!(ran.status, 0, "{memory_mib}: {ran:?}");
        assert_eq!(ran.report().slices[0].attempts, 1, "{memory_mib}: {ran:?}");
        assert_eq!(workplace.rows("placed").num_rows(), 3);
    }
}

#[test]
fn a_refused_reset_truncated_or_stalled_http_2_stream_is_fetched_again() {
    for (fault, message) in [
        (Fault::Refused, "the connection to localhost:"),
        (
            Fault::Reset,
            "stream error received: unexpected internal error",
        ),
        // The connection may close before the client reads the reason.
        (Fault::GoAway, "Retrying: "),
        (Fault::Length, "the stream broke off: "),
        (Fault::EarlyEnd, "the provider counts 3 calls, 2 were read"),
        (Fault::Stall, "the stream stalled: no byte for 2s"),
    ] {
        let (workplace, ran) = run(fault);
        assert_eq!(ran.status, 0, "{fault:?}: {ran:?}");
        let slice = &ran.report().slices[0];
        assert_eq!(
            (slice.attempts, slice.counts.rows),
            (2, 3),
            "{fault:?}: {ran:?}"
        );
        assert!(ran.stderr.contains(message), "{fault:?}: {}", ran.stderr);
        assert_eq!(workplace.rows("placed").num_rows(), 3, "{fault:?}");
    }
}
