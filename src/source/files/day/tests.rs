use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;

use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::super::{Export, Input, SplitOptions, Undated, make_spool, split};
use super::*;
use crate::cdr::digest::Digest;
use crate::cdr::slice::{Direction, Slice};
use crate::cdr::tally::Counts;
use crate::slice_file::convert::ConvertOptions;
use crate::source::Request;

/// More than one chunk.
const LONG_BYTES: usize = 300 << 10;
const MAX_RECORD_BYTES: usize = 1 << 20;

/// A part of a random file.
#[derive(Clone, Copy, Debug)]
enum Piece {
    Call,
    /// Rejected by its slice.
    Rejected,
    NotUtf8,
    Long,
    /// Belongs to no day.
    Undated,
    Blank,
    /// In CSV a record of several lines, in JSON a line of two records.
    NotOneLine,
    /// In CSV, the first header again.
    Header,
    /// In CSV, a header with another order of columns.
    OtherHeader,
}

/// One piece, the day of its calls, and how its line ends.
type RandomPiece = (Piece, i8, &'static str);

#[derive(Clone, Debug)]
struct RandomFile {
    is_csv: bool,
    pieces: Vec<RandomPiece>,
    /// Whether the last line has its newline.
    is_ended: bool,
}

const HEADERS: [&str; 2] = [
    "call_id;date;from;to;duration;charge;note",
    "date;call_id;charge;from;to;duration;note",
];

impl RandomFile {
    /// The content, and the number of its records that belong to a day.
    fn content(&self, number: usize) -> (Vec<u8>, u64) {
        let mut content = Vec::new();
        let mut records = 0;
        let mut header = 0;
        if self.is_csv {
            content.extend_from_slice(HEADERS[header].as_bytes());
            content.push(b'\n');
        }
        for (i, &(piece, day, ending)) in self.pieces.iter().enumerate() {
            let (mut charge, mut note) = ("0.5", String::new());
            let mut time = format!("2026-10-0{day}T10:00:00Z");
            match piece {
                Piece::Rejected => charge = "much",
                Piece::NotUtf8 => note = "?".to_owned(),
                Piece::Long => note = "x".repeat(LONG_BYTES),
                Piece::Undated => time = "yesterday".to_owned(),
                Piece::NotOneLine if self.is_csv => note = "\"one\r\ntwo\n\nthree\"".to_owned(),
                _ => {}
            }
            let call = |id: usize| {
                if !self.is_csv {
                    return format!(
                        "{{\"call_id\":\"{number}-{id}\",\"date\":\"{time}\",\"duration\":3,\
                         \"charge\":\"{charge}\",\"note\":\"{note}\"}}"
                    );
                }
                match header {
                    0 => format!("{number}-{id};{time};1;2;3;{charge};{note}"),
                    _ => format!("{time};{number}-{id};{charge};1;2;3;{note}"),
                }
            };
            let mut line = String::new();
            match piece {
                Piece::Blank => {}
                Piece::Header | Piece::OtherHeader if self.is_csv => {
                    header = usize::from(matches!(piece, Piece::OtherHeader));
                    line.push_str(HEADERS[header]);
                }
                Piece::NotOneLine if !self.is_csv => {
                    write!(line, "{}{}", call(i), call(i)).unwrap();
                }
                _ => line.push_str(&call(i)),
            }
            records += match piece {
                Piece::Blank | Piece::Undated => 0,
                Piece::Header | Piece::OtherHeader if self.is_csv => 0,
                Piece::NotOneLine if !self.is_csv => 2,
                _ => 1,
            };
            line.push_str(ending);
            let bytes = line.into_bytes().into_iter();
            content.extend(bytes.map(|byte| if byte == b'?' { 0xE9 } else { byte }));
        }
        if !self.is_ended {
            while content.last().is_some_and(|byte| b"\r\n".contains(byte)) {
                content.pop();
            }
        }
        (content, records)
    }
}

fn random_file() -> impl Strategy<Value = RandomFile> {
    let piece = prop_oneof![
        20 => Just(Piece::Call),
        2 => Just(Piece::Rejected),
        1 => Just(Piece::NotUtf8),
        1 => Just(Piece::Long),
        1 => Just(Piece::Undated),
        2 => Just(Piece::Blank),
        2 => Just(Piece::NotOneLine),
        1 => Just(Piece::Header),
        1 => Just(Piece::OtherHeader),
    ];
    let day = prop_oneof![12 => Just(1_i8), 2 => Just(2), 1 => Just(3)];
    let ending = prop_oneof![Just("\n"), Just("\r\n")];
    (
        any::<bool>(),
        prop::collection::vec((piece, day, ending), 0..60),
        any::<bool>(),
    )
        .prop_map(|(is_csv, pieces, is_ended)| RandomFile {
            is_csv,
            pieces,
            is_ended,
        })
}

/// The result of converting one day of an export.
#[derive(Debug, PartialEq)]
struct ConvertedDay {
    counts: Counts,
    digest: Digest,
    /// Checksum of the Parquet file. It depends on the order of rows too.
    checksum: String,
    rejects: String,
}

fn inputs(directory: &TempDir, contents: &[Vec<u8>]) -> Vec<Input> {
    let write = |(number, content): (usize, &Vec<u8>)| {
        let path = directory.path().join(format!("export-{number}"));
        std::fs::write(&path, content).unwrap();
        Input::File(path)
    };
    contents.iter().enumerate().map(write).collect()
}

fn split_into(directory: &TempDir, inputs: &[Input], min_lines_bytes: u64) -> Export {
    let options = SplitOptions {
        timezone: TimeZone::UTC,
        assume_timezone: None,
        max_record_bytes: MAX_RECORD_BYTES,
        spool_parent: directory.path().to_owned(),
        min_lines_bytes,
    };
    let spool = make_spool(directory.path()).unwrap();
    split(inputs, &options, spool, &CancellationToken::new(), |_| ()).unwrap()
}

fn slice(day: Date) -> Slice {
    Slice::of_day(day, Direction::Placed)
}

fn converter(
    spool: &TempDir,
    slice: Slice,
    reader: &ExportReader,
) -> Result<Converter, ConvertError> {
    Converter::try_new(ConvertOptions {
        export_files: Some(Arc::clone(&reader.names)),
        max_record_bytes: MAX_RECORD_BYTES,
        max_slice_bytes: u64::MAX,
        ..ConvertOptions::of_test(slice, spool.path())
    })
}

fn convert(export: &Export, slice: Slice) -> Result<ConvertedDay, Box<dyn Error>> {
    let spool = tempfile::tempdir()?;
    let reader = export.part(Request::whole(slice))?.reader;
    let mut converter = converter(&spool, slice, &reader)?;
    assert!(reader.feed::<Box<dyn Error>>(&mut converter, |_| true)?);
    converter.end_body()?;
    let mut converted = converter.finish()?;
    let rejects = match converted.rejects.take() {
        Some(file) => String::from_utf8(zstd::decode_all(File::open(&file.path)?)?)?,
        None => String::new(),
    };
    Ok(ConvertedDay {
        counts: converted.counts.clone(),
        digest: converted.digest,
        rejects,
        checksum: converted.write_footer(Vec::new())?.checksum,
    })
}

fn convert_all(
    directory: &TempDir,
    inputs: &[Input],
    min_lines_bytes: u64,
) -> (BTreeMap<Date, ConvertedDay>, Undated) {
    let export = split_into(directory, inputs, min_lines_bytes);
    let days = export.days();
    let days = days.map(|(day, _)| (day, convert(&export, slice(day)).unwrap()));
    (days.collect(), export.undated.clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn lines_that_stay_in_their_files_make_the_same_slices_as_copies(
        files in prop::collection::vec(random_file(), 1..4),
        min_lines_bytes in 1..2_000_u64,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let files = files.iter().enumerate();
        let (contents, records): (Vec<_>, Vec<_>) =
            files.map(|(number, file)| file.content(number)).unzip();
        let inputs = inputs(&directory, &contents);
        let copied = convert_all(&directory, &inputs, u64::MAX);
        let read: u64 = copied.0.values().map(|day| day.counts.records).sum();
        prop_assert_eq!(read, records.iter().sum::<u64>());
        for min_lines_bytes in [1, min_lines_bytes] {
            prop_assert_eq!(&convert_all(&directory, &inputs, min_lines_bytes), &copied);
        }
    }
}

#[test]
fn a_month_has_the_records_of_its_days_up_to_the_last_one_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let day = |day: u8| format!("{{\"date\":\"2026-10-{day:02}T10:00:00Z\"}}\n");
    let contents = [
        [
            day(3),
            day(1),
            "{\"date\":\"2026-11-01T00:00:00Z\"}\n".to_owned(),
        ]
        .concat(),
        [
            day(31),
            day(1),
            "{\"date\":\"2026-09-30T23:59:59Z\"}\n".to_owned(),
        ]
        .concat(),
    ];
    let inputs = inputs(&directory, &contents.map(String::into_bytes));
    for min_lines_bytes in [1, u64::MAX] {
        let export = split_into(&directory, &inputs, min_lines_bytes);
        let month = Slice::new("2026-10".parse().unwrap(), Direction::Placed);
        let whole = convert(&export, month).unwrap();
        assert_eq!((whole.counts.rows, whole.counts.outside_day), (4, 0));
        let request = Request {
            last_day: date(2026, 10, 30),
            ..Request::whole(month)
        };
        let part = export.part(request).unwrap();
        assert_eq!(part.reader.days.len(), 2);
        assert_eq!(part.asked.query.len(), 2, "{:?}", part.asked);
        let december = Slice::new("2026-12".parse().unwrap(), Direction::Placed);
        let problem = export
            .part(Request::whole(december))
            .unwrap_err()
            .to_string();
        assert_eq!(problem, "the export has no calls of 2026-12");
    }
}

#[test]
fn an_abandoned_day_is_not_read_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let line = "{\"date\":\"2026-10-01T10:00:00Z\"}\n";
    let inputs = inputs(&directory, &[line.repeat(10_000).into_bytes()]);
    for min_lines_bytes in [1, u64::MAX] {
        let export = split_into(&directory, &inputs, min_lines_bytes);
        let slice = slice(date(2026, 10, 1));
        let reader = export.part(Request::whole(slice)).unwrap().reader;
        let mut converter = converter(&directory, slice, &reader).unwrap();
        let is_whole = reader.feed::<Box<dyn Error>>(&mut converter, |records| records == 0);
        assert!(!is_whole.unwrap());
        assert!((1..10_000).contains(&converter.records()));
        converter.abandon().unwrap();
    }
}

#[test]
fn a_file_sorted_by_day_is_not_copied() {
    let directory = tempfile::tempdir().unwrap();
    let calls = |day: u8| format!("{{\"date\":\"2026-10-0{day}T10:00:00Z\"}}\n").repeat(10_000);
    let content = [calls(1), calls(2)].concat().into_bytes();
    let inputs = inputs(&directory, &[content]);
    let export = split_into(&directory, &inputs, super::super::MIN_LINES_BYTES);
    for (day, records) in export.days().collect::<Vec<_>>() {
        let path = super::super::spooled(&export.spool, day);
        assert!(path.metadata().unwrap().len() < 100);
        assert_eq!(
            convert(&export, slice(day)).unwrap().counts.records,
            records
        );
    }
}

/// Splits a file, changes it with `change`, and converts its day.
fn convert_changed(change: impl FnOnce(&Path)) -> Result<ConvertedDay, Box<dyn Error>> {
    let directory = tempfile::tempdir().unwrap();
    let line = "{\"date\":\"2026-10-01T10:00:00Z\"}\n";
    let inputs = inputs(&directory, &[line.repeat(100).into_bytes()]);
    let export = split_into(&directory, &inputs, 1);
    change(&directory.path().join("export-0"));
    convert(&export, slice(date(2026, 10, 1)))
}

#[test]
fn a_file_that_changes_before_its_days_are_read_is_refused() {
    type Change = (&'static str, fn(&Path));
    assert_eq!(convert_changed(|_| ()).unwrap().counts.records, 100);
    let changes: [Change; 4] = [
        ("longer", |path| {
            let mut content = std::fs::read(path).unwrap();
            content.push(b'\n');
            std::fs::write(path, content).unwrap();
        }),
        ("shorter", |path| {
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(10)
                .unwrap();
        }),
        ("another", |path| {
            let other = path.with_extension("other");
            let modified = path.metadata().unwrap().modified().unwrap();
            std::fs::copy(path, &other).unwrap();
            File::options()
                .write(true)
                .open(&other)
                .unwrap()
                .set_modified(modified)
                .unwrap();
            std::fs::rename(&other, path).unwrap();
        }),
        ("later", |path| {
            let file = File::options().write(true).open(path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }),
    ];
    for (what, change) in changes {
        let error = convert_changed(change).unwrap_err().to_string();
        assert!(
            error.contains("export-0 changed while it was loaded. Load it again"),
            "{what}: {error}"
        );
    }
    let gone = convert_changed(|path| std::fs::remove_file(path).unwrap());
    let error = gone.unwrap_err().to_string();
    assert!(error.contains("cannot read "), "{error}");
    assert!(error.contains("export-0 again: "), "{error}");
}

#[test]
fn a_change_of_the_same_size_is_detected_although_the_file_s_time_was_set_back() {
    let error = convert_changed(|path| {
        let modified = path.metadata().unwrap().modified().unwrap();
        let content = std::fs::read_to_string(path).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        let changed = content.replace("10-01T", "10-02T");
        assert_ne!(changed, content);
        file.write_all_at(changed.as_bytes(), 0).unwrap();
        file.set_modified(modified).unwrap();
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("changed"), "{error}");
}

#[test]
fn days_whose_lines_stay_in_the_file_hold_no_memory() {
    let directory = tempfile::tempdir().unwrap();
    let mut content = String::new();
    let mut day = date(2020, 1, 1);
    for _ in 0..50 {
        for call in 0..2_600 {
            let date = format!("{day}T10:00:00Z");
            writeln!(content, r#"{{"call_id":"{call}","date":"{date}"}}"#).unwrap();
        }
        day = day.tomorrow().unwrap();
    }
    let inputs = inputs(&directory, &[content.into_bytes()]);
    let export = split_into(&directory, &inputs, super::super::MIN_LINES_BYTES);
    assert!(export.held_bytes < 100_000, "{}", export.held_bytes);
}
