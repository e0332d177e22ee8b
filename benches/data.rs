//! Records for benches, from the simulator with a fixed seed.

use std::path::Path;
use std::sync::Arc;

use cdrlake::Credentials;
use cdrlake::internals::{ConvertOptions, Converter, ParquetOptions, PeriodDays, SpoolFile};
use cdrlake::{Direction, Encoding, Format, Generator, KeyOrder, Slice};
use jiff::civil::date;
use parquet::basic::Compression;
use secrecy::SecretString;

/// Records of a body.
pub(crate) const RECORDS: u64 = 20_000;

/// The slice that the records belong to.
pub(crate) fn slice() -> Slice {
    Slice::of_day(date(2026, 10, 1), Direction::Placed)
}

/// Options for converting the records.
pub(crate) fn options(spool_dir: &Path, compression: Compression) -> ConvertOptions {
    ConvertOptions {
        slice: slice(),
        days: PeriodDays::new(slice().period, &jiff::tz::TimeZone::UTC),
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
            row_group_bytes: 8 << 20,
        },
    }
}

/// Converts the chunks of a body to a file. Dropping the file deletes it.
pub(crate) fn convert<'a>(
    chunks: impl Iterator<Item = &'a [u8]>,
    options: ConvertOptions,
) -> SpoolFile {
    convert_bodies(Format::Json, std::iter::once(chunks), options)
}

/// Converts the chunks of several bodies to a file.
pub(crate) fn convert_bodies<'a, C: Iterator<Item = &'a [u8]>>(
    format: Format,
    bodies: impl Iterator<Item = C>,
    options: ConvertOptions,
) -> SpoolFile {
    let mut converter = Converter::try_new(options).unwrap();
    for chunks in bodies {
        converter.begin_body(Encoding::Identity, format);
        chunks.for_each(|chunk| converter.push(chunk).unwrap());
        converter.end_body().unwrap();
    }
    let converted = converter.finish().unwrap();
    converted.write_footer(Vec::new()).unwrap()
}

/// A body of [`RECORDS`] lines.
pub(crate) fn body(key_order: KeyOrder) -> Vec<u8> {
    body_of(RECORDS, key_order)
}

/// The calls that the bodies hold.
pub(crate) fn generator(key_order: KeyOrder) -> Generator {
    Generator {
        seed: 42,
        calls_per_day: 100_000,
        key_order,
    }
}

/// A body of `records` lines.
pub(crate) fn body_of(records: u64, key_order: KeyOrder) -> Vec<u8> {
    let generator = generator(key_order);
    let mut body = Vec::new();
    for index in 0..records {
        generator.render(&generator.call(slice(), index), &mut body);
        body.push(b'\n');
    }
    body
}
