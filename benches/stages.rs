//! The cost of each stage by itself, and of all stages together, for one body in memory.
//!
//! Every case asserts its number of rows. Controls: `serde_json` into an untyped value (parsing
//! without knowledge of the fields), and the Parquet crate's `ArrowWriter` with the same batches.

#![expect(clippy::unwrap_used, reason = "a bench may panic")]

mod data;

use std::hint::black_box;

use cdrlake::internals::{
    BatchBuilder, Decoder, Digest, Frame, Framer, FramingError, Record, RowHasher, SpoolWriter,
    decode,
};
use cdrlake::{Format, KeyOrder, schema};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use data::{RECORDS, body, convert, options, slice};

/// Typical size of chunks from the network.
const CHUNK_BYTES: usize = 64 << 10;

/// Calls `each` for every record of a body.
fn records(body: &[u8], mut each: impl FnMut(&[u8])) {
    let mut framer = Framer::new(Format::Json, 1 << 20);
    let mut on_frame = |frame: Frame<'_>| {
        if let Frame::Record { text, .. } = frame {
            each(text);
        }
        Ok::<(), FramingError>(())
    };
    for chunk in body.chunks(CHUNK_BYTES) {
        framer.push(chunk, &mut on_frame).unwrap();
    }
    framer.finish(&mut on_frame).unwrap();
}

/// The records of a body.
fn decoded(body: &[u8]) -> Vec<Record<'_>> {
    let lines = body.split(|&byte| byte == b'\n');
    let records = lines.filter(|line| !line.is_empty());
    records.map(|line| decode(line).unwrap()).collect()
}

/// A group of cases that process this body.
fn group<'a>(criterion: &'a mut Criterion, body: &[u8]) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group("records");
    let bytes = body.len() as u64;
    let elements = RECORDS;
    group.throughput(Throughput::ElementsAndBytes { elements, bytes });
    group.sample_size(20);
    group
}

fn to_records(criterion: &mut Criterion) {
    let fixed = body(KeyOrder::Fixed);
    let shuffled = body(KeyOrder::Shuffled);
    let mut group = group(criterion, &fixed);

    group.bench_function("framing", |bencher| {
        bencher.iter(|| {
            let mut count = 0;
            records(&fixed, |text| {
                black_box(text);
                count += 1;
            });
            assert_eq!(count, RECORDS);
        });
    });
    group.bench_function("control: serde_json to Value", |bencher| {
        bencher.iter(|| {
            records(&fixed, |text| {
                black_box(serde_json::from_slice::<serde_json::Value>(text).unwrap());
            });
        });
    });
    for (name, body) in [("fixed keys", &fixed), ("shuffled keys", &shuffled)] {
        group.bench_function(format!("framing and plain decode, {name}"), |bencher| {
            bencher.iter(|| {
                let mut count = 0;
                records(body, |text| {
                    black_box(decode(text).unwrap());
                    count += 1;
                });
                assert_eq!(count, RECORDS);
            });
        });
        group.bench_function(format!("framing and fast decode, {name}"), |bencher| {
            let mut decoder = Decoder::default();
            bencher.iter(|| {
                let mut count = 0;
                records(body, |text| {
                    black_box(decoder.decode(text).unwrap());
                    count += 1;
                });
                assert_eq!(count, RECORDS);
            });
        });
    }
    group.bench_function("framing, fast decode and digest", |bencher| {
        let mut decoder = Decoder::default();
        bencher.iter(|| {
            let (hasher, mut digest) = (RowHasher::new(slice()), Digest::default());
            records(&fixed, |text| {
                digest.add(hasher.hash(&decoder.decode(text).unwrap()).row);
            });
            assert_eq!(digest.rows, RECORDS);
        });
    });
    group.finish();
}

fn to_files(criterion: &mut Criterion) {
    let fixed = body(KeyOrder::Fixed);
    let mut group = group(criterion, &fixed);
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path(), Compression::ZSTD(ZstdLevel::default()));
    group.bench_function("encode, to a zstd Parquet file", |bencher| {
        let decoded = decoded(&fixed);
        let path = directory.path().join("encode.parquet");
        bencher.iter(|| {
            let mut writer = SpoolWriter::try_new(&path, slice(), &options.parquet).unwrap();
            for record in &decoded {
                writer.append(record).unwrap();
            }
            let file = writer.end().unwrap().finish(Vec::new()).unwrap();
            assert_eq!(file.rows, RECORDS);
        });
    });
    group.bench_function("control: ArrowWriter, to a zstd Parquet file", |bencher| {
        let decoded = decoded(&fixed);
        let properties = WriterProperties::builder()
            .set_compression(options.parquet.compression)
            .build();
        bencher.iter(|| {
            let file = tempfile::tempfile_in(directory.path()).unwrap();
            let mut writer =
                ArrowWriter::try_new(file, schema(), Some(properties.clone())).unwrap();
            let mut builder = BatchBuilder::new(slice());
            for records in decoded.chunks(8192) {
                for record in records {
                    builder.append(record);
                }
                writer.write(&builder.finish()).unwrap();
            }
            let metadata = writer.close().unwrap();
            assert_eq!(metadata.file_metadata().num_rows().cast_unsigned(), RECORDS);
        });
    });
    group.bench_function("all, to a zstd Parquet file", |bencher| {
        bencher.iter(|| {
            let file = convert(fixed.chunks(CHUNK_BYTES), options.clone());
            assert_eq!(file.rows, RECORDS);
        });
    });
    group.finish();
}

criterion_group!(benches, to_records, to_files);
criterion_main!(benches);
