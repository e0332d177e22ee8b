//! Compares our decoder, encoders and duplicate search with alternatives, on the whole way of a
//! body from memory to its verified file.
//!
//! Prints instructions for each record (callgrind), the wall time as a multiple of ours (the
//! fastest of several rounds, in which the alternatives take turns), and the size of the file.
//!
//! ```sh
//! cargo bench --bench alternatives            # needs the package valgrind
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a bench may panic, and prints rounded figures"
)]

mod callgrind;
mod data;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use cdrlake::internals::{
    BatchBuilder, BodyLimits, COLUMNS, ConvertError, ConvertOptions, Decoder, Digest,
    DuplicateFinder, Item, Record, RecordPrivacy, RecordReader, RepeatFinder, RowHasher, RowTally,
    SpoolWriter, TextClass, checksum_of, decode, read_footer,
};
use cdrlake::{Encoding, Format, KeyOrder, schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;

use data::{RECORDS, options, slice};

/// Records for measuring wall time.
const WALL_RECORDS: u64 = 400_000;
const ROUNDS: usize = 9;
/// Typical size of chunks from the network.
const CHUNK_BYTES: usize = 64 << 10;
/// Rows of a batch, as in the program.
const BATCH_ROWS: usize = 8192;

/// Which of our parts is replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Replaced {
    /// The control: the library's own conversion.
    Control,
    Nothing,
    /// By the plain decoder, based on `serde_json`.
    FastDecoder,
    /// By the Parquet crate's `ArrowWriter`, with dictionaries for the same columns.
    Encoders,
    Both,
    /// By sorting all rows by id and content.
    SearchForRepeats,
}

const ALTERNATIVES: [(&str, Replaced); 6] = [
    ("slice_file::convert itself", Replaced::Control),
    ("all of it ours", Replaced::Nothing),
    ("serde_json, not the fast decoder", Replaced::FastDecoder),
    ("ArrowWriter, not our encoders", Replaced::Encoders),
    ("both of them", Replaced::Both),
    (
        "a sort of all rows, no search for repeats",
        Replaced::SearchForRepeats,
    ),
];

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(
        directory.path(),
        Compression::ZSTD(ZstdLevel::try_new(1).unwrap()),
    );
    if let Some((number, records)) = callgrind::requested() {
        // All records are always generated, so that generating them cancels out.
        let body = data::body(KeyOrder::Fixed);
        let lines: Vec<&[u8]> = body.split_inclusive(|&byte| byte == b'\n').collect();
        let (_, replaced) = ALTERNATIVES[number];
        let written = convert(lines[..records].iter().copied(), replaced, &options);
        assert_eq!(written.rows, records as u64);
        return;
    }
    let body = data::body_of(WALL_RECORDS, KeyOrder::Fixed);
    let mut fastest = [Duration::MAX; ALTERNATIVES.len()];
    let mut bytes = [0; ALTERNATIVES.len()];
    for _ in 0..ROUNDS {
        for (number, (_, replaced)) in ALTERNATIVES.into_iter().enumerate() {
            let begun = Instant::now();
            let written = convert(body.chunks(CHUNK_BYTES), replaced, &options);
            fastest[number] = fastest[number].min(begun.elapsed());
            assert_eq!(written.rows, WALL_RECORDS);
            bytes[number] = written.bytes;
        }
    }
    println!(
        "{:<42} {:>12} {:>9} {:>11}",
        "", "instructions", "wall time", "bytes a row"
    );
    let half = usize::try_from(RECORDS / 2).unwrap();
    for (number, (name, _)) in ALTERNATIVES.into_iter().enumerate() {
        println!(
            "{name:<42} {:>12} {:>8.2}x {:>11.2}",
            callgrind::count_per_record(number, half),
            fastest[number].as_secs_f64() / fastest[0].as_secs_f64(),
            bytes[number] as f64 / WALL_RECORDS as f64,
        );
    }
}

struct Written {
    rows: u64,
    bytes: u64,
}

/// The steps of `slice_file::convert` for a body without rejects.
fn convert<'a>(
    chunks: impl Iterator<Item = &'a [u8]>,
    replaced: Replaced,
    options: &ConvertOptions,
) -> Written {
    if replaced == Replaced::Control {
        let file = data::convert(chunks, options.clone());
        return Written {
            rows: file.rows,
            bytes: file.bytes,
        };
    }
    let limits = BodyLimits {
        record_bytes: options.max_record_bytes,
        body_bytes: options.max_slice_bytes,
    };
    let mut reader = RecordReader::new(Encoding::Identity, Format::Json, limits);
    let path = options.spool_dir.join("alternative.parquet");
    let mut rows = Rows {
        options,
        decoder: Decoder::default(),
        is_plain: matches!(replaced, Replaced::FastDecoder | Replaced::Both),
        hasher: RowHasher::new(slice()),
        digest: Digest::default(),
        tally: RowTally::new(options.days.range_us()),
        privacy: RecordPrivacy::new(Arc::clone(&options.privacy)),
        search: match replaced {
            Replaced::SearchForRepeats => Search::Sort(DuplicateFinder::new(&options.spool_dir)),
            _ => Search::Repeats(RepeatFinder::new(&options.spool_dir)),
        },
        writer: match replaced {
            Replaced::Encoders | Replaced::Both => Writer::Arrow(ArrowFile::begin(&path, options)),
            _ => Writer::Ours(SpoolWriter::try_new(&path, slice(), &options.parquet).unwrap()),
        },
    };
    for chunk in chunks {
        let pushed: Result<(), ConvertError> = reader.push(chunk, |item| {
            rows.add(&item);
            Ok(())
        });
        pushed.unwrap();
    }
    let ended: Result<_, ConvertError> = reader.finish(|item| {
        rows.add(&item);
        Ok(())
    });
    ended.unwrap();
    rows.finish(&path)
}

/// Writes records to a file.
struct Rows<'o> {
    options: &'o ConvertOptions,
    decoder: Decoder,
    is_plain: bool,
    hasher: RowHasher,
    digest: Digest,
    tally: RowTally,
    privacy: RecordPrivacy,
    search: Search,
    writer: Writer,
}

enum Search {
    Repeats(RepeatFinder),
    Sort(DuplicateFinder),
}

enum Writer {
    Ours(SpoolWriter),
    Arrow(ArrowFile),
}

impl Rows<'_> {
    fn add(&mut self, item: &Item<'_>) {
        let &Item::Record { json, .. } = item else {
            panic!("the simulator generates valid records");
        };
        let decoded = if self.is_plain {
            decode(json)
        } else {
            self.decoder.decode(json)
        };
        let record = &mut decoded.unwrap();
        let class = if self.is_plain {
            TextClass::UNKNOWN
        } else {
            self.decoder.text_class()
        };
        self.options.credentials.redact(record, json, class);
        assert!(!self.privacy.suppresses(record));
        self.privacy.hide(record);
        let hash = self.hasher.hash(record);
        self.digest.add(hash.row);
        let id = record.call_id.as_deref();
        match &mut self.search {
            Search::Repeats(finder) => finder.add(hash.call_id).unwrap(),
            Search::Sort(finder) => finder.add(id, hash.row, self.tally.rows).unwrap(),
        }
        self.tally.add(record);
        match &mut self.writer {
            Writer::Ours(writer) => writer.append(record).unwrap(),
            Writer::Arrow(file) => file.append(record),
        }
    }

    fn finish(self, path: &Path) -> Written {
        match self.search {
            Search::Repeats(finder) => drop(finder.finish().unwrap()),
            Search::Sort(finder) => assert_eq!(finder.finish().unwrap().duplicates, 0),
        }
        assert_eq!(self.digest.rows, self.tally.rows);
        match self.writer {
            Writer::Ours(writer) => {
                let file = writer.end().unwrap().finish(Vec::new()).unwrap();
                Written {
                    rows: file.rows,
                    bytes: file.bytes,
                }
            }
            Writer::Arrow(file) => {
                file.finish();
                // Our file is verified in the same way.
                checksum_of(path).unwrap();
                let footer = read_footer(path).unwrap();
                let rows = footer.metadata().file_metadata().num_rows();
                Written {
                    rows: rows.cast_unsigned(),
                    bytes: std::fs::metadata(path).unwrap().len(),
                }
            }
        }
    }
}

/// A file by the Parquet crate's writer, on a separate thread like ours.
struct ArrowFile {
    builder: BatchBuilder,
    batches: SyncSender<RecordBatch>,
    thread: JoinHandle<()>,
}

impl ArrowFile {
    fn begin(path: &Path, options: &ConvertOptions) -> Self {
        let mut properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_compression(options.parquet.compression)
            .set_max_row_group_row_count(Some(options.parquet.row_group_rows));
        for column in COLUMNS.iter().filter(|column| !column.kind.repeats()) {
            let path = ColumnPath::from(column.name);
            properties = properties.set_column_dictionary_enabled(path, false);
        }
        let file = File::create(path).unwrap();
        let (batches, inbox) = sync_channel::<RecordBatch>(1);
        let row_group_bytes = options.parquet.row_group_bytes;
        let thread = std::thread::spawn(move || {
            let file = std::io::BufWriter::with_capacity(256 << 10, file);
            let mut writer =
                ArrowWriter::try_new(file, schema(), Some(properties.build())).unwrap();
            for batch in inbox {
                writer.write(&batch).unwrap();
                if writer.in_progress_size() >= row_group_bytes {
                    writer.flush().unwrap();
                }
            }
            writer.close().unwrap();
        });
        Self {
            builder: BatchBuilder::new(slice()),
            batches,
            thread,
        }
    }

    fn append(&mut self, record: &Record<'_>) {
        self.builder.append(record);
        if self.builder.rows() == BATCH_ROWS {
            self.batches.send(self.builder.finish()).unwrap();
        }
    }

    fn finish(mut self) {
        self.batches.send(self.builder.finish()).unwrap();
        drop(self.batches);
        self.thread.join().unwrap();
    }
}
