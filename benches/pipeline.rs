//! The whole pipeline over loopback: `cdrlake run` against `cdrlake simulate`, in separate
//! processes, and `cdrlake load` of the same bytes from files. The simulator serves prerendered
//! bytes, so that it does not limit the speed.
//!
//! Prints wall time, processor time (each also per record) and peak memory over several rounds, and
//! the ratios of a load to the run over the same form.
//!
//! ```sh
//! cargo bench --bench pipeline -- [calls a day, default 250000] [days, default 10]
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a bench may panic, and prints rounded figures"
)]

mod program;
mod simulator;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use program::{KEY, Run, number_arguments};
use simulator::Simulator;

const ROUNDS: usize = 3;
/// Files of an export in order of time.
const FILES: usize = 4;

fn main() {
    let mut numbers = number_arguments();
    let calls_per_day = numbers.next().unwrap_or(250_000).to_string();
    let days = numbers.next().unwrap_or(10).clamp(1, 28);
    let (from, to) = ("2026-09-01", format!("2026-09-{days:02}"));
    let prerendered = format!("{from}..{to}");
    let simulator = Simulator::start(&[
        "--calls-per-day",
        &calls_per_day,
        "--prerender",
        &prerendered,
    ]);
    let directory = tempfile::tempdir().unwrap();
    let exports = exports(&simulator, directory.path(), days);
    let placed = ["--from", from, "--to", &to, "--direction", "placed"];
    for round in 1..=ROUNDS {
        let run = simulator.run("run", &["--from", from, "--to", &to]);
        println!("round {round}: {run}");
        for via in ["stream", "csv"] {
            let run = simulator.run("run", &[&placed[..], &["--via", via]].concat());
            println!("round {round}: placed calls via {via}: {run}");
            for (_, what, files) in exports.iter().filter(|export| export.0 == via) {
                let files: Vec<&str> = files.iter().map(String::as_str).collect();
                let load =
                    simulator.run("load", &[&["--direction", "placed"], &files[..]].concat());
                assert_eq!(load.rows, run.rows);
                println!(
                    "round {round}: load of {what}: {load}, {}",
                    ratios(&load, &run)
                );
            }
        }
    }
}

/// The body of the response to a GET of this path.
fn body(simulator: &Simulator, path: &str) -> Vec<u8> {
    let host = simulator.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    // HTTP/1.0 has neither chunks nor a connection that stays open.
    let request = format!("GET {path} HTTP/1.0\r\nAuthorization: Bearer {KEY}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    assert!(response.starts_with(b"HTTP/1.0 200"));
    let end = response.windows(4).position(|four| four == b"\r\n\r\n");
    response.split_off(end.unwrap() + 4)
}

fn ratios(load: &Run, run: &Run) -> String {
    format!(
        "{:.2} times the wall time of the run, {:.2} times its processor time",
        load.wall_s / run.wall_s,
        load.processor_s / run.processor_s
    )
}

/// Files with the placed calls of the days: which run they compare with, what they are, and their
/// paths.
fn exports(
    simulator: &Simulator,
    directory: &Path,
    days: u64,
) -> [(&'static str, &'static str, Vec<String>); 4] {
    let get = |path: &str| -> Vec<Vec<u8>> {
        let days = (1..=days).map(|day| format!("2026-09-{day:02}"));
        days.map(|day| {
            body(
                simulator,
                &format!("{path}?from={day}&to={day}&type=placed&disposition=all"),
            )
        })
        .collect()
    };
    let write = |name: &str, text: &[u8]| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let json = get("/v1/cdrs/all");
    let days_of_file = json.len().div_ceil(FILES);
    let ascending = json.chunks(days_of_file).enumerate();
    let ascending = ascending.map(|(i, days)| write(&format!("{i}.ndjson"), &days.concat()));
    let ascending = ascending.collect();
    let text = json.concat();
    drop(json);
    let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    lines.reverse();
    let descending = vec![write("descending.ndjson", &lines.concat())];
    fastrand::Rng::with_seed(1).shuffle(&mut lines);
    let shuffled = vec![write("shuffled.ndjson", &lines.concat())];
    let csv = get("/v1/cdr.csv");
    // Files that were put one behind the other have a header each.
    let csv = csv.chunks(days_of_file).enumerate();
    let csv = csv.map(|(i, days)| write(&format!("{i}.csv"), &days.concat()));
    [
        ("stream", "NDJSON in order of time", ascending),
        ("stream", "NDJSON, the newest call first", descending),
        ("stream", "NDJSON in no order", shuffled),
        ("csv", "CSV in order of time", csv.collect()),
    ]
}
