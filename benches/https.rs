//! The transfer from nginx: with HTTPS, HTTP/2, gzip and a line with latency.
//!
//! 1. The rate of one slice at several round-trip times, with `curl` as the control. A proxy delays
//!    each direction by half a round trip. Its buffer holds more than the line does, so that only
//!    the windows of the two ends bound the rate.
//! 2. Processor time per record of one slice, relative to plain HTTP.
//! 3. Peak memory of four slices. nginx is faster than the conversion, so HTTP/2 windows are full.
//!
//! Requires nginx and curl (`apt-get install nginx-light curl`). nginx runs from a temporary
//! directory, with a certificate of its own; the bodies take 0.8 GB there. `BENCH_PROGRAM` names
//! another program to measure, such as an earlier version.
//!
//! ```sh
//! cargo bench --bench https -- [records of a slice, default 500000]
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a bench may panic, and prints rounded figures"
)]

mod program;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cdrlake::{Direction, Generator, KeyOrder, Slice};
use jiff::Timestamp;
use jiff::civil::{Date, date};
use program::{Run, number_arguments, run_against};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};

const DAYS: [Date; 4] = [
    date(2026, 9, 1),
    date(2026, 9, 2),
    date(2026, 9, 3),
    date(2026, 9, 4),
];
/// A short day, for the rates.
const SHORT_DAY: Date = date(2026, 9, 8);
/// About 96 MB.
const SHORT_RECORDS: u64 = 260_000;
const ROUND_TRIPS_MS: [u64; 3] = [0, 100, 250];
const ROUNDS: usize = 5;
/// Most that a direction of the proxy holds: more than 250 ms at 200 MB/s.
const LINE_BYTES: usize = 64 << 20;
/// The rate is measured from here on: what comes earlier is the handshake and the first answer.
const RATE_FROM_BYTES: u64 = 1 << 20;

/// What nginx speaks at a port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http,
    Https1,
    Https2,
    Gzip,
}

impl Protocol {
    const ALL: [Self; 4] = [Self::Http, Self::Https1, Self::Https2, Self::Gzip];

    fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP/1.1, plain",
            Self::Https1 => "HTTPS, HTTP/1.1",
            Self::Https2 => "HTTPS, HTTP/2",
            Self::Gzip => "HTTP/1.1, gzip -1",
        }
    }

    fn listen(self) -> &'static str {
        match self {
            Self::Http | Self::Gzip => "",
            Self::Https1 => " ssl",
            Self::Https2 => " ssl http2",
        }
    }

    fn url(self, port: u16) -> String {
        let scheme = match self {
            Self::Http | Self::Gzip => "http",
            Self::Https1 | Self::Https2 => "https",
        };
        format!("{scheme}://localhost:{port}")
    }
}

/// nginx with days of calls. Dropping it ends the process.
struct Nginx {
    process: Child,
    ports: [u16; 4],
    directory: tempfile::TempDir,
    /// Bytes of the short day.
    short_bytes: u64,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Nginx {
    fn start(records: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(path.join("cert.pem"), certified.cert.pem()).unwrap();
        std::fs::write(path.join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
        let mut counts = String::new();
        for day in DAYS {
            let count = render(path, day, records);
            writeln!(counts, "{day} {count};").unwrap();
        }
        let count = render(path, SHORT_DAY, SHORT_RECORDS);
        writeln!(counts, "{SHORT_DAY} {count};").unwrap();
        let short_bytes = std::fs::metadata(path.join(format!("{SHORT_DAY}.ndjson")));
        let ports = [(); 4].map(|()| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        });
        let mut servers = String::new();
        for (protocol, port) in Protocol::ALL.into_iter().zip(ports) {
            let gzip = if protocol == Protocol::Gzip {
                "on"
            } else {
                "off"
            };
            writeln!(
                servers,
                "server {{ listen 127.0.0.1:{port}{}; gzip {gzip}; include locations; }}",
                protocol.listen()
            )
            .unwrap();
        }
        std::fs::write(
            path.join("locations"),
            "location = /v1/cdrs/all { rewrite ^ /$arg_from.ndjson break; }
            location = /v1/cdrs {
                default_type application/json;
                return 200 '{\"items\":[],\"pagination\":{\"total\":$count}}';
            }",
        )
        .unwrap();
        let config = format!(
            "daemon off; master_process off; pid nginx.pid;
            events {{ worker_connections 100; }}
            http {{
                access_log off; sendfile on; root {root};
                default_type application/x-ndjson;
                gzip_comp_level 1; gzip_types application/x-ndjson;
                ssl_certificate cert.pem; ssl_certificate_key key.pem;
                client_body_temp_path client; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
                uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                map $arg_from $count {{ {counts} }}
                {servers}
            }}",
            root = path.display()
        );
        std::fs::write(path.join("nginx.conf"), config).unwrap();
        let process = Command::new("nginx")
            .args(["-e", "stderr", "-c", "nginx.conf", "-p"])
            .arg(path)
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx is missing: install the package `nginx-light`");
        for port in ports {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Self {
            process,
            ports,
            short_bytes: short_bytes.unwrap().len(),
            directory,
        }
    }

    fn port(&self, protocol: Protocol) -> u16 {
        self.ports[protocol as usize]
    }

    fn certificate(&self) -> String {
        let path = self.directory.path().join("cert.pem");
        path.to_str().unwrap().to_owned()
    }

    /// Runs the program over the days.
    fn run(&self, url: &str, from: Date, to: Date) -> Run {
        let arguments = [
            "--from",
            &from.to_string(),
            "--to",
            &to.to_string(),
            "--direction",
            "placed",
        ];
        let certificate = self.certificate();
        run_against(
            url,
            "run",
            &arguments,
            &[("CDRLAKE_SOURCE_CA_FILE", &certificate)],
        )
    }

    /// Fetches the short day with curl.
    fn curl(&self, protocol: Protocol, port: u16) {
        let version = match protocol {
            Protocol::Https2 => "--http2",
            _ => "--http1.1",
        };
        let url = format!("{}/v1/cdrs/all?from={SHORT_DAY}", protocol.url(port));
        let status = Command::new("curl")
            .args([
                "--silent",
                "--fail",
                version,
                "--cacert",
                &self.certificate(),
            ])
            .args(["--output", "/dev/null", &url])
            .status();
        assert!(status.expect("curl is missing").success());
    }
}

/// Writes a day of about so many calls. Returns their number.
fn render(directory: &Path, day: Date, records: u64) -> u64 {
    let slice = Slice::of_day(day, Direction::Placed);
    let generator = Generator {
        seed: 42,
        // The generator's share of placed calls on a weekday.
        calls_per_day: records * 1000 / 726,
        key_order: KeyOrder::Fixed,
    };
    let count = generator.count(slice, Timestamp::MAX);
    let file = std::fs::File::create(directory.join(format!("{day}.ndjson"))).unwrap();
    let mut file = std::io::BufWriter::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    for index in 0..count {
        line.clear();
        generator.render(&generator.call(slice, index), &mut line);
        line.push(b'\n');
        file.write_all(&line).unwrap();
    }
    file.into_inner().unwrap();
    count
}

/// When so many bytes had come from the server.
type Arrivals = Arc<Mutex<Vec<(u64, Instant)>>>;

/// A line with latency in front of a server.
struct Line {
    port: u16,
    arrivals: Arrivals,
    _runtime: tokio::runtime::Runtime,
}

impl Line {
    fn start(server: u16, round_trip: Duration) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let bind = tokio::net::TcpListener::bind("127.0.0.1:0");
        let listener = runtime.block_on(bind).unwrap();
        let port = listener.local_addr().unwrap().port();
        let arrivals = Arrivals::default();
        let shared = Arc::clone(&arrivals);
        runtime.spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = SocketAddr::from(([127, 0, 0, 1], server));
                let server = tokio::net::TcpStream::connect(server).await.unwrap();
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let delay = round_trip / 2;
                tokio::spawn(carry(from_client, to_server, delay, Arrivals::default()));
                tokio::spawn(carry(from_server, to_client, delay, Arc::clone(&shared)));
            }
        });
        Self {
            port,
            arrivals,
            _runtime: runtime,
        }
    }

    /// Megabytes a second of a body of so many bytes that `transfer` fetches through this line.
    fn rate(&self, bytes: u64, transfer: impl FnOnce()) -> f64 {
        self.arrivals.lock().unwrap().clear();
        transfer();
        let arrivals = self.arrivals.lock().unwrap();
        let mut carried = arrivals.iter().scan(0, |sum, (bytes, at)| {
            *sum += bytes;
            Some((*sum, *at))
        });
        let (first, began) = carried.find(|(sum, _)| *sum >= RATE_FROM_BYTES).unwrap();
        let (last, ended) = carried.find(|(sum, _)| *sum >= bytes).unwrap();
        (last - first) as f64 / 1e6 / (ended - began).as_secs_f64()
    }
}

/// Carries bytes of one direction, each `delay` after it was received.
async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    delay: Duration,
    arrivals: Arrivals,
) {
    let room = Arc::new(Semaphore::new(LINE_BYTES));
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let read = async move {
        loop {
            let mut bytes = Vec::with_capacity(256 << 10);
            match from.read_buf(&mut bytes).await {
                Ok(length) if length > 0 => {
                    let length = u32::try_from(length).unwrap();
                    let held = Arc::clone(&room).acquire_many_owned(length).await.unwrap();
                    let due = tokio::time::Instant::now() + delay;
                    if sender.send((due, bytes, held)).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    };
    let write = async move {
        while let Some((due, bytes, held)) = receiver.recv().await {
            if !delay.is_zero() {
                tokio::time::sleep_until(due).await;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
            let arrival = (bytes.len() as u64, Instant::now());
            arrivals.lock().unwrap().push(arrival);
            drop(held);
        }
    };
    tokio::join!(read, write);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn rates(nginx: &Nginx) {
    println!("MB/s of one slice of {} MB", nginx.short_bytes / 1_000_000);
    for round_trip_ms in ROUND_TRIPS_MS {
        for protocol in [Protocol::Https1, Protocol::Https2] {
            let line = Line::start(nginx.port(protocol), Duration::from_millis(round_trip_ms));
            let url = protocol.url(line.port);
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let run = || {
                    nginx.run(&url, SHORT_DAY, SHORT_DAY);
                };
                ours.push(line.rate(nginx.short_bytes, run));
                let curl = || nginx.curl(protocol, line.port);
                theirs.push(line.rate(nginx.short_bytes, curl));
            }
            println!(
                "{round_trip_ms:>4} ms, {}: cdrlake {:.0}, curl {:.0}",
                protocol.name(),
                median(ours),
                median(theirs)
            );
        }
    }
}

fn processor_time(nginx: &Nginx) {
    println!("Processor time per record of one slice");
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        for protocol in Protocol::ALL {
            let url = protocol.url(nginx.port(protocol));
            let run = nginx.run(&url, DAYS[0], DAYS[0]);
            times[protocol as usize].push(run.record_us());
        }
    }
    let times = times.map(median);
    for protocol in Protocol::ALL {
        let time_us = times[protocol as usize];
        println!(
            "{}: {time_us:.3} µs, {:.2} times plain HTTP",
            protocol.name(),
            time_us / times[Protocol::Http as usize]
        );
    }
}

fn peak_memory(nginx: &Nginx) {
    println!("Four slices");
    for protocol in Protocol::ALL {
        let url = protocol.url(nginx.port(protocol));
        let run = nginx.run(&url, DAYS[0], DAYS[3]);
        println!("{}: {run}", protocol.name());
    }
    let line = Line::start(nginx.port(Protocol::Https2), Duration::from_millis(250));
    let run = nginx.run(&Protocol::Https2.url(line.port), DAYS[0], DAYS[3]);
    println!("HTTPS, HTTP/2, 250 ms: {run}");
}

fn main() {
    let records = number_arguments().next().unwrap_or(500_000);
    let nginx = Nginx::start(records);
    processor_time(&nginx);
    peak_memory(&nginx);
    rates(&nginx);
}
