use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What happens to a request on its way to the store.
#[derive(Clone, Debug)]
pub(crate) enum Trick {
    /// The request is forwarded and carried out, but its reply is lost.
    DropReply,
    /// It never comes to the store; the connection breaks.
    DropRequest,
    /// It never comes to the store; this is what the client hears: status, code, message.
    Answer(u16, &'static str, &'static str),
    /// The request never reaches the store, and gets no reply.
    Hang,
    /// It is passed on without its conditions.
    WithoutConditions,
}

/// Which requests a trick is played on: by method and target.
pub(crate) type Which = fn(&str, &str) -> bool;

/// Plays tricks on the requests to a store: exact bytes, no framework.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    upstream: SocketAddr,
    /// What is played, on what, and how many times yet.
    trick: Option<(Trick, Which, usize)>,
    /// Requests on which it was played: method and target.
    played: Vec<String>,
    requests: Vec<String>,
}

impl Proxy {
    /// A proxy in front of the store at `upstream`, which plays no tricks yet.
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            upstream,
            trick: None,
            played: Vec::new(),
            requests: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        // Lives as long as the test binary; connections are few.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || drop(pass(stream, &shared)));
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Plays a trick on the next `times` requests that `which` picks.
    pub(crate) fn play(&self, trick: Trick, times: usize, which: Which) -> &Self {
        self.state.lock().unwrap().trick = Some((trick, which, times));
        self
    }

    pub(crate) fn play_fair(&self) {
        self.state.lock().unwrap().trick = None;
    }

    /// The requests on which tricks were played since the last time.
    pub(crate) fn played(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().played)
    }

    /// Every request since the last time.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

/// Passes one request on, and says that there will be no more on this connection.
fn pass(mut client: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let head_end = loop {
        let read = client.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..read]);
        if let Some(at) = request.windows(4).position(|end| end == b"\r\n\r\n") {
            break at;
        }
    };
    let head = String::from_utf8_lossy(&request[..head_end]).into_owned();
    let header = |name: &str| {
        let mut lines = head.split("\r\n");
        lines.find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
    while request.len() < head_end + 4 + length {
        let read = client.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..read]);
    }
    let line = head.split("\r\n").next().unwrap_or_default();
    let mut words = line.split(' ');
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let (upstream, trick) = {
        let mut state = state.lock().unwrap();
        state.requests.push(format!("{method} {target}"));
        let mut played = None;
        if let Some((trick, which, times)) = &mut state.trick
            && *times > 0
            && which(method, target)
        {
            *times -= 1;
            played = Some(trick.clone());
        }
        if played.is_some() {
            state.played.push(format!("{method} {target}"));
        }
        (state.upstream, played)
    };
    match trick {
        Some(Trick::DropRequest) => return Ok(()),
        Some(Trick::Hang) => {
            while client.read(&mut buffer)? > 0 {}
            return Ok(());
        }
        Some(Trick::Answer(status, code, message)) => {
            let body = format!(
                "<?xml version=\"1.0\"?><Error><Code>{code}</Code>\
                 <Message>{message}</Message><RequestId>1</RequestId></Error>"
            );
            let body = if method == "HEAD" {
                String::new()
            } else {
                body
            };
            return write!(
                client,
                "HTTP/1.1 {status} X\r\nContent-Type: application/xml\r\nContent-Length: \
                 {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
        _ => {}
    }
    let is_plain = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_lowercase();
        let is_condition = ["if-match", "if-none-match"].contains(&&*name);
        name != "connection" && !(is_condition && matches!(trick, Some(Trick::WithoutConditions)))
    };
    let lines: Vec<&str> = head.split("\r\n").filter(is_plain).collect();
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n")).as_bytes())?;
    server.write_all(&request[head_end + 4..])?;
    let mut reply = Vec::new();
    server.read_to_end(&mut reply)?;
    if matches!(trick, Some(Trick::DropReply)) {
        return Ok(());
    }
    // Otherwise the client would send its next request on this dead connection.
    let reply_head = reply.windows(2).position(|end| end == b"\r\n").unwrap_or(0);
    client.write_all(&reply[..reply_head])?;
    client.write_all(b"\r\nConnection: close")?;
    client.write_all(&reply[reply_head..])
}
