//! Instructions a record, counted by callgrind: the same on every machine, however busy it is.
//!
//! Starts itself under valgrind, once for a number of records and once for twice as many; the difference is what the
//! records cost, without what comes before and after them. `benches/instructions.txt` holds the figures of the last change.
//!
//! ```sh
//! cargo bench --bench instructions            # needs the package valgrind
//! ```

#![expect(clippy::unwrap_used, reason = "a bench may panic")]

mod data;

use std::hint::black_box;
use std::process::Command;

use cdrlake::cdr::decode::{Decoder, decode};
use cdrlake::simulator::KeyOrder;
use parquet::basic::{Compression, ZstdLevel};

use data::{RECORDS, body, options};

/// Names a stage and a number of records to the process under valgrind.
const STAGE: &str = "CDRLAKE_BENCH_STAGE";
const STAGES: [(&str, KeyOrder); 5] = [
    ("plain decode", KeyOrder::Fixed),
    ("fast decode", KeyOrder::Fixed),
    ("fast decode, shuffled keys", KeyOrder::Shuffled),
    ("all, without compression", KeyOrder::Fixed),
    ("all, to a zstd Parquet file", KeyOrder::Fixed),
];

fn main() {
    if let Ok(wanted) = std::env::var(STAGE) {
        let (stage, records) = wanted.split_once(':').unwrap();
        return work(stage.parse().unwrap(), records.parse().unwrap());
    }
    let half = usize::try_from(RECORDS / 2).unwrap();
    for (stage, (name, _)) in STAGES.iter().enumerate() {
        let (one, two) = (count(stage, half), count(stage, 2 * half));
        println!("{name:<28} {:>6}", (two - one) / half as u64);
    }
}

/// Instructions of a process that works on so many records.
fn count(stage: usize, records: usize) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=callgrind.out"])
        .arg(std::env::current_exe().unwrap())
        .env(STAGE, format!("{stage}:{records}"))
        .current_dir(&directory)
        .output()
        .expect("valgrind counts: install the package `valgrind`");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find(|line| line.contains("Collected :"));
    let collected = collected.and_then(|line| line.split_whitespace().last());
    collected.unwrap().parse().unwrap()
}

fn work(stage: usize, records: usize) {
    let (name, key_order) = STAGES[stage];
    // All of them are made and found in any case, so that it does not count.
    let body = body(key_order);
    let all: Vec<&[u8]> = body.split_inclusive(|&byte| byte == b'\n').collect();
    let lines = || all[..records].iter().copied();
    match name {
        "plain decode" => lines().for_each(|line| drop(black_box(decode(line).unwrap()))),
        "all, without compression" => convert(lines(), Compression::UNCOMPRESSED, records),
        "all, to a zstd Parquet file" => {
            convert(lines(), Compression::ZSTD(ZstdLevel::default()), records);
        }
        _ => {
            let mut decoder = Decoder::default();
            lines()
                .for_each(|line| drop(black_box(decoder.decode(line.trim_ascii_end()).unwrap())));
        }
    }
}

fn convert<'a>(lines: impl Iterator<Item = &'a [u8]>, compression: Compression, records: usize) {
    let directory = tempfile::tempdir().unwrap();
    let rows = data::convert(lines, options(directory.path(), compression));
    assert_eq!(rows, records as u64);
}
