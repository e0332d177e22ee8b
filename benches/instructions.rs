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
use std::iter;
use std::sync::Arc;

use cdrlake::Format;
use cdrlake::internals::verify::read_back;
use cdrlake::internals::{ConvertOptions, Decoder, Mode, Modes, Privacy, PrivacyKey, decode};
use parquet::basic::{Compression, ZstdLevel};

use data::{RECORDS, convert, convert_bodies, options, slice};
use forms::{Form, PAGE_RECORDS};

const DECODE: [(&str, Form); 3] = [
    ("plain decode", Form::Ordinary),
    ("fast decode", Form::Ordinary),
    ("fast decode, shuffled keys", Form::Shuffled),
];

/// How a stage with a file differs from the others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Setting {
    /// The file is not compressed.
    Uncompressed,
    Default,
    /// A number was erased. It does not occur.
    Erased,
    /// Numbers are pseudonymised.
    Pseudonyms,
    /// A file is read back and its rows are hashed, as `verify` does.
    ReadBack,
}

/// Everything between the bytes of the bodies and their file, with these records.
const WHOLE: [(&str, Form, Setting); 14] = [
    (
        "all, without compression",
        Form::Ordinary,
        Setting::Uncompressed,
    ),
    (
        "all, to a zstd Parquet file",
        Form::Ordinary,
        Setting::Default,
    ),
    ("… shuffled keys", Form::Shuffled, Setting::Default),
    ("… an unknown text", Form::Unknown, Setting::Default),
    (
        "… three unknown fields",
        Form::UnknownNested,
        Setting::Default,
    ),
    ("… an escape", Form::Escaped, Setting::Default),
    ("… bare numbers", Form::Bare, Setting::Default),
    ("… blanks", Form::Blanks, Setting::Default),
    (
        "… blanks, shuffled keys",
        Form::ShuffledBlanks,
        Setting::Default,
    ),
    ("… CSV", Form::Csv, Setting::Default),
    ("… pages", Form::Pages, Setting::Default),
    ("… a number erased", Form::Ordinary, Setting::Erased),
    ("… pseudonyms", Form::Ordinary, Setting::Pseudonyms),
    ("read back", Form::Ordinary, Setting::ReadBack),
];

fn main() {
    if let Some((stage, records)) = callgrind::requested() {
        return work(stage, records);
    }
    let half = usize::try_from(RECORDS / 2).unwrap();
    let mut ordinary = 0;
    let decode = DECODE.iter().map(|(name, _)| name);
    let names = decode.chain(WHOLE.iter().map(|(name, ..)| name));
    for (stage, name) in names.enumerate() {
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
        let all = lines_of(&body);
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
    let (_, form, setting) = WHOLE[stage - DECODE.len()];
    let body = forms::body_in(form);
    let lines = lines_of(&body);
    let directory = tempfile::tempdir().unwrap();
    let mut options = options(directory.path(), Compression::ZSTD(ZstdLevel::default()));
    match setting {
        Setting::Uncompressed => options.parquet.compression = Compression::UNCOMPRESSED,
        Setting::Erased => options.privacy = Arc::new(with_an_erased_number()),
        Setting::Pseudonyms => {
            let modes = Modes::all(Mode::Pseudonymize);
            options.privacy = Arc::new(Privacy::new(modes, Some(key())));
        }
        Setting::ReadBack => return read_back_repeatedly(&lines, options, records),
        Setting::Default => {}
    }
    let file = match form {
        Form::Csv => {
            // The first line is the header.
            let lines = lines[..=records].iter().copied();
            convert_bodies(Format::Csv, iter::once(lines), options)
        }
        Form::Pages => {
            let pages = lines[..records / PAGE_RECORDS].iter();
            convert_bodies(Format::Json, pages.map(|&page| iter::once(page)), options)
        }
        _ => convert(lines[..records].iter().copied(), options),
    };
    assert_eq!(file.rows, records as u64);
}

fn lines_of(body: &[u8]) -> Vec<&[u8]> {
    body.split_inclusive(|&byte| byte == b'\n').collect()
}

fn key() -> PrivacyKey {
    PrivacyKey::try_new("0123456789abcdef0123456789abcdef").unwrap()
}

fn with_an_erased_number() -> Privacy {
    let token = key().token("00000000");
    let keeping = Privacy::new(Modes::default(), Some(key()));
    keeping.suppressing([token]).unwrap()
}

/// Writes one file and reads it until so many records were read.
fn read_back_repeatedly(lines: &[&[u8]], options: ConvertOptions, records: usize) {
    let rows = lines.len() / 2;
    let file = convert(lines[..rows].iter().copied(), options);
    for _ in 0..records / rows {
        let content = read_back(&file.path, slice()).unwrap();
        assert_eq!(content.digest.rows, rows as u64);
    }
}
