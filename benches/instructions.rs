//! Instructions for each record, counted by callgrind: independent of the machine's load.
//!
//! `benches/instructions.txt` records the latest figures.
//!
//! ```sh
//! cargo bench --bench instructions            # needs the package valgrind
//! ```

#![expect(clippy::unwrap_used, reason = "a bench may panic")]

mod callgrind;
mod data;
mod forms;

use std::hint::black_box;

use cdrlake::internals::{Decoder, decode};
use parquet::basic::{Compression, ZstdLevel};

use data::{RECORDS, options};
use forms::Form;

const DECODE: [(&str, Form); 3] = [
    ("plain decode", Form::Ordinary),
    ("fast decode", Form::Ordinary),
    ("fast decode, shuffled keys", Form::Shuffled),
];

/// Everything between a body's bytes and its file, with these records.
const WHOLE: [(&str, Form); 9] = [
    ("all, without compression", Form::Ordinary),
    ("all, to a zstd Parquet file", Form::Ordinary),
    ("… shuffled keys", Form::Shuffled),
    ("… an unknown text", Form::Unknown),
    ("… three unknown fields", Form::UnknownNested),
    ("… an escape", Form::Escaped),
    ("… bare numbers", Form::Bare),
    ("… blanks", Form::Blanks),
    ("… blanks, shuffled keys", Form::ShuffledBlanks),
];

fn main() {
    if let Some((stage, records)) = callgrind::requested() {
        return work(stage, records);
    }
    let half = usize::try_from(RECORDS / 2).unwrap();
    let mut ordinary = 0;
    for (stage, (name, _)) in DECODE.iter().chain(&WHOLE).enumerate() {
        let count = callgrind::count_per_record(stage, half);
        print!("{name:<28} {count:>6}");
        if stage > DECODE.len() + 1 {
            print!(
                "  {}.{:02} x",
                count / ordinary,
                count % ordinary * 100 / ordinary
            );
        } else {
            ordinary = count;
        }
        println!();
    }
}

fn work(stage: usize, records: usize) {
    // All records are always generated and split, so that this cancels out.
    if let Some(&(name, form)) = DECODE.get(stage) {
        let body = forms::body_in(form);
        let all: Vec<&[u8]> = body.split_inclusive(|&byte| byte == b'\n').collect();
        let lines = all[..records].iter();
        if name == "plain decode" {
            lines.for_each(|line| drop(black_box(decode(line).unwrap())));
        } else {
            let mut decoder = Decoder::default();
            lines.for_each(|line| {
                drop(black_box(decoder.decode(line.trim_ascii_end()).unwrap()));
            });
        }
        return;
    }
    let whole = stage - DECODE.len();
    let body = forms::body_in(WHOLE[whole].1);
    let all: Vec<&[u8]> = body.split_inclusive(|&byte| byte == b'\n').collect();
    let compression = match whole {
        0 => Compression::UNCOMPRESSED,
        _ => Compression::ZSTD(ZstdLevel::default()),
    };
    convert(all[..records].iter().copied(), compression, records);
}

fn convert<'a>(lines: impl Iterator<Item = &'a [u8]>, compression: Compression, records: usize) {
    let directory = tempfile::tempdir().unwrap();
    let file = data::convert(lines, options(directory.path(), compression));
    assert_eq!(file.rows, records as u64);
}
