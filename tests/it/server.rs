use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;

/// The server's reaction to one request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Sends a complete response and closes the connection.
    Bytes(Vec<u8>),
    /// Sends these bytes and resets the connection.
    Reset(Vec<u8>),
    /// Sends these bytes and keeps the connection open without sending more.
    Stall(Vec<u8>),
    /// Sends these bytes and closes the connection at the next request.
    CloseOnNextRequest(Vec<u8>),
    /// A response with status 200 and this body in chunks of 1000 bytes.
    Records(Vec<u8>),
    /// A JSON body with a status.
    Json(u16, String),
}

/// Successive answers for one path. The last one is repeated.
type Script = VecDeque<Answer>;

/// A received request: its target and its head.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) target: String,
    pub(crate) head: String,
}

/// An HTTP server on loopback that sends scripted bytes, without a framework.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    scripts: HashMap<String, Script>,
    requests: Vec<Request>,
}

/// The bulk export.
pub(crate) const STREAM: &str = "/v1/cdrs/all";

impl Server {
    /// A server that answers 404 to everything that is not scripted.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        // The thread ends with the test binary.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || drop(answer(stream, &shared)));
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Scripts the answers for targets with `prefix`. The longest matching prefix applies.
    pub(crate) fn on(&self, prefix: &str, answers: impl IntoIterator<Item = Answer>) -> &Self {
        self.state
            .lock()
            .unwrap()
            .scripts
            .insert(prefix.to_owned(), answers.into_iter().collect());
        self
    }

    /// Serves one slice as a stream, and its count as a list.
    pub(crate) fn serve(
        &self,
        direction: &str,
        day: &str,
        body: impl Into<Vec<u8>>,
        total: u64,
    ) -> &Self {
        self.serve_days(direction, (day, day), body, total)
    }

    /// The same for a slice of several days, from the first to the last.
    pub(crate) fn serve_days(
        &self,
        direction: &str,
        (first, last): (&str, &str),
        body: impl Into<Vec<u8>>,
        total: u64,
    ) -> &Self {
        let query = format!("?from={first}&to={last}&type={direction}");
        self.on(
            &format!("/v1/cdrs/all{query}"),
            [Answer::Records(body.into())],
        );
        self.on(&format!("/v1/cdrs{query}"), [count(total)])
    }

    /// Every request so far whose target begins with `prefix`.
    pub(crate) fn requests(&self, prefix: &str) -> Vec<Request> {
        let state = self.state.lock().unwrap();
        state
            .requests
            .iter()
            .filter(|request| request.target.starts_with(prefix))
            .cloned()
            .collect()
    }
}

/// The list's answer with a total.
pub(crate) fn count(total: u64) -> Answer {
    Answer::Json(
        200,
        format!(
            "{{\"items\":[],\"pagination\":{{\"current_page\":1,\"per_page\":1,\
             \"total\":{total},\"total_pages\":{total}}}}}"
        ),
    )
}

/// A chunked response with records.
pub(crate) fn ok_chunked(body: &str) -> Answer {
    Answer::Records(body.as_bytes().to_vec())
}

/// A response with a fixed body.
pub(crate) fn response(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n");
    Answer::Bytes([head.as_bytes(), body.as_ref()].concat())
}

/// A response with `Content-Length`.
pub(crate) fn sized(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
    let headers = format!("{headers}Content-Length: {}\r\n", body.as_ref().len());
    response(status, &headers, body)
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..read]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer = {
        let mut state = state.lock().unwrap();
        state.requests.push(Request {
            target: target.clone(),
            head,
        });
        let script = state
            .scripts
            .iter_mut()
            .filter(|(prefix, _)| target.starts_with(*prefix))
            .max_by_key(|(prefix, _)| prefix.len());
        match script {
            Some((_, script)) if script.len() > 1 => script.pop_front(),
            Some((_, script)) => script.front().cloned(),
            None => Some(Answer::Json(
                404,
                "{\"success\":false,\"message\":\"Not found\"}".to_owned(),
            )),
        }
    };
    match answer {
        Some(Answer::Bytes(bytes)) => stream.write_all(&bytes)?,
        Some(Answer::Reset(bytes)) => {
            stream.write_all(&bytes)?;
            // Resets the connection without sending buffered data.
            return SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        Some(Answer::Stall(bytes)) => {
            stream.write_all(&bytes)?;
            while stream.read(&mut buffer)? > 0 {}
        }
        Some(Answer::CloseOnNextRequest(bytes)) => {
            stream.write_all(&bytes)?;
            let _next = stream.read(&mut buffer)?;
        }
        Some(Answer::Json(status, body)) => {
            write!(
                stream,
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )?;
        }
        Some(Answer::Records(body)) => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\
                 Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            )?;
            for chunk in body.chunks(1000) {
                write!(stream, "{:x}\r\n", chunk.len())?;
                stream.write_all(chunk)?;
                stream.write_all(b"\r\n")?;
            }
            stream.write_all(b"0\r\n\r\n")?;
        }
        None => {}
    }
    stream.shutdown(Shutdown::Write)
}
