//! What each stage costs by itself, and all together, for one body in memory.
//!
//! Every case asserts the rows it made. `serde_json` into an untyped value is the control: what
//! parsing costs anybody who does not know the fields.

#![expect(
    clippy::unwrap_used,
    reason = "a bench is run, not called, and may panic"
)]

mod data;

use std::hint::black_box;

use cdrlake::convert::Converter;
use cdrlake::decode::{Decoder, decode};
use cdrlake::digest::{Digest, RowHasher};
use cdrlake::framing::{Format, Frame, Framer, FramingError};
use cdrlake::simulator::KeyOrder;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use parquet::basic::{Compression, ZstdLevel};

use data::{RECORDS, body, options, slice};

/// Chunks as the network hands them out.
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

fn stages(criterion: &mut Criterion) {
    let fixed = body(KeyOrder::Fixed);
    let shuffled = body(KeyOrder::Shuffled);
    let mut group = criterion.benchmark_group("records");
    group.throughput(Throughput::Elements(RECORDS));
    group.sample_size(20);

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
            let (mut hasher, mut digest) = (RowHasher::new(slice()), Digest::default());
            records(&fixed, |text| {
                digest.add(hasher.hash(&decoder.decode(text).unwrap()));
            });
            assert_eq!(digest.rows, RECORDS);
        });
    });
    group.bench_function("all, to a zstd Parquet file", |bencher| {
        let directory = tempfile::tempdir().unwrap();
        bencher.iter(|| {
            let mut converter = Converter::try_new(options(
                directory.path(),
                Compression::ZSTD(ZstdLevel::default()),
            ))
            .unwrap();
            for chunk in fixed.chunks(CHUNK_BYTES) {
                converter.push(chunk).unwrap();
            }
            converter.end_body().unwrap();
            let file = converter
                .finish()
                .unwrap()
                .write_footer(Vec::new())
                .unwrap();
            assert_eq!(file.rows, RECORDS);
        });
    });
    group.finish();
}

criterion_group!(benches, stages);
criterion_main!(benches);
