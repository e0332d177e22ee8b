//! Instructions a record, counted by callgrind: the same on every machine, however busy it is.
//!
//! `benches/instructions.txt` holds the figures of the last change.
//!
//! ```sh
//! cargo bench --bench instructions            # needs the package valgrind
//! ```

#![expect(clippy::unwrap_used, reason = "a bench may panic")]

mod callgrind;
mod data;

use std::hint::black_box;

use cdrlake::KeyOrder;
use cdrlake::internals::{Decoder, decode};
use parquet::basic::{Compression, ZstdLevel};

use data::{RECORDS, body, options};

const STAGES: [(&str, KeyOrder); 5] = [
    ("plain decode", KeyOrder::Fixed),
    ("fast decode", KeyOrder::Fixed),
    ("fast decode, shuffled keys", KeyOrder::Shuffled),
    ("all, without compression", KeyOrder::Fixed),
    ("all, to a zstd Parquet file", KeyOrder::Fixed),
];

fn main() {
    if let Some((stage, records)) = callgrind::wanted() {
        return work(stage, records);
    }
    let half = usize::try_from(RECORDS / 2).unwrap();
    for (stage, (name, _)) in STAGES.iter().enumerate() {
        println!("{name:<28} {:>6}", callgrind::count_a_record(stage, half));
    }
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
    let file = data::convert(lines, options(directory.path(), compression));
    assert_eq!(file.rows, records as u64);
}
