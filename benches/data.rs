//! Records for benches, from the simulator with a fixed seed.

use std::path::Path;
use std::sync::Arc;

use cdrlake::Credentials;
use cdrlake::internals::{ConvertOptions, Converter, ParquetOptions, SpoolFile};
use cdrlake::{Direction, Generator, KeyOrder, Slice};
use jiff::civil::date;
use parquet::basic::Compression;
use secrecy::SecretString;

/// Records of a body.
pub(crate) const RECORDS: u64 = 20_000;

/// The slice that the records belong to.
pub(crate) fn slice() -> Slice {
    Slice {
        day: date(2026, 10, 1),
        direction: Direction::Placed,
    }
}

/// Options for converting the records.
pub(crate) fn options(spool_dir: &Path, compression: Compression) -> ConvertOptions {
    ConvertOptions {
        slice: slice(),
        day_us: i64::MIN..i64::MAX,
        export_files: None,
        spool_dir: spool_dir.to_owned(),
        max_record_bytes: 1 << 20,
        max_slice_bytes: u64::MAX,
        dedupe: true,
        assume_timezone: None,
        privacy: Arc::default(),
        credentials: Arc::new(Credentials::new(Some(SecretString::from(
            "a key as long as keys are",
        )))),
        parquet: ParquetOptions {
            compression,
            row_group_rows: 1 << 20,
            row_group_bytes: 16 << 20,
        },
    }
}

/// Converts the chunks of a body to a file. Dropping the file deletes it.
pub(crate) fn convert<'a>(
    chunks: impl Iterator<Item = &'a [u8]>,
    options: ConvertOptions,
) -> SpoolFile {
    let mut converter = Converter::try_new(options).unwrap();
    chunks.for_each(|chunk| converter.push(chunk).unwrap());
    converter.end_body().unwrap();
    let converted = converter.finish().unwrap();
    converted.write_footer(Vec::new()).unwrap()
}

/// A form that records come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As the simulator writes them.
    Ordinary,
    /// The keys of each record in an order of their own.
    Shuffled,
    /// One field without a column: a text.
    Unknown,
    /// Three fields without a column, one of them an object of two levels.
    UnknownNested,
    /// An escape in one text.
    Escaped,
    /// Amounts and phone numbers as JSON numbers.
    Bare,
    /// Blanks after `:` and `,`, as Python's `json.dumps` writes them.
    Blanks,
    /// Blanks, and keys shuffled.
    ShuffledBlanks,
}

/// A body of [`RECORDS`] lines in a form.
pub(crate) fn body_in(form: Form) -> Vec<u8> {
    let key_order = match form {
        Form::Shuffled | Form::ShuffledBlanks => KeyOrder::Shuffled,
        _ => KeyOrder::Fixed,
    };
    let text = String::from_utf8(body(key_order)).unwrap();
    let mut body = String::with_capacity(2 * text.len());
    for (number, line) in text.lines().enumerate() {
        body += &match form {
            Form::Ordinary | Form::Shuffled => line.to_owned(),
            Form::Unknown => with_members(line, &recording(number)),
            Form::UnknownNested => {
                let quality = r#""quality":{"mos":4.21,"network":{"jitter_ms":12,"codec":"opus"}}"#;
                let more = format!("{},{quality},\"tags\":null", recording(number));
                with_members(line, &more)
            }
            Form::Escaped => line.replacen(r#""destination":""#, r#""destination":"\u00c9 "#, 1),
            Form::Bare => with_bare_numbers(line),
            Form::Blanks | Form::ShuffledBlanks => {
                line.replace(",\"", ", \"").replace("\":", "\": ")
            }
        };
        body.push('\n');
    }
    body.into_bytes()
}

fn recording(number: usize) -> String {
    let hash = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!(r#""recording_url":"https://api.wavix.com/v1/recordings/{hash:016x}.mp3""#)
}

fn with_members(record: &str, members: &str) -> String {
    format!("{},{members}}}", record.strip_suffix('}').unwrap())
}

fn with_bare_numbers(record: &str) -> String {
    let mut record = record.to_owned();
    for key in ["from", "to", "per_minute", "charge", "forward_fee"] {
        let key = format!("\"{key}\":");
        let Some(open) = record.find(&key).map(|at| at + key.len()) else {
            continue;
        };
        let close = open + 1 + record[open + 1..].find('"').unwrap();
        let is_number = record[open + 1..close].parse::<f64>().is_ok();
        if is_number && record[open..].starts_with('"') && !record[open + 1..].starts_with('+') {
            record.remove(close);
            record.remove(open);
        }
    }
    record
}

/// A body of [`RECORDS`] lines.
pub(crate) fn body(key_order: KeyOrder) -> Vec<u8> {
    body_of(RECORDS, key_order)
}

/// A body of `records` lines.
pub(crate) fn body_of(records: u64, key_order: KeyOrder) -> Vec<u8> {
    let generator = Generator {
        seed: 42,
        calls_per_day: 100_000,
        key_order,
    };
    let mut body = Vec::new();
    for index in 0..records {
        generator.render(&generator.call(slice(), index), &mut body);
        body.push(b'\n');
    }
    body
}
