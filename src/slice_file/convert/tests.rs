use tempfile::TempDir;

use super::*;
use crate::cdr::slice::Direction;

/// A call with this id, as a line.
fn call(id: &str, charge: &str) -> String {
    let date = "2026-10-01T10:00:00Z";
    format!("{{\"date\":\"{date}\",\"call_id\":\"{id}\",\"duration\":6,\"charge\":\"{charge}\"}}\n")
}

fn options(directory: &TempDir) -> ConvertOptions {
    let slice = Slice::of_day(jiff::civil::date(2026, 10, 1), Direction::Placed);
    ConvertOptions::of_test(slice, directory.path())
}

fn convert(options: ConvertOptions, bodies: &[&str]) -> Result<Converted, ConvertError> {
    let mut converter = Converter::try_new(options)?;
    for body in bodies {
        converter.push(body.as_bytes())?;
        converter.end_body()?;
    }
    converter.finish()
}

/// The error that a body causes.
fn error(body: &str) -> ConvertError {
    let directory = tempfile::tempdir().unwrap();
    convert(options(&directory), &[body]).unwrap_err()
}

#[test]
fn every_record_is_counted_by_its_outcome() {
    let directory = tempfile::tempdir().unwrap();
    let body = [
        call("a", "0.5"),
        call("b", "0.25"),
        call("a", "0.5"),
        call("b", "0.125"),
        call("", "1"),
        call("", "1"),
        "{\"call_id\":\"without a date\"}\n".to_owned(),
        "{\"date\":\"2026-10-02T10:00:00Z\",\"charge\":null}\n".to_owned(),
    ];
    let converted = convert(options(&directory), &[&body.concat()]).unwrap();
    let expected = Counts {
        records: 8,
        rows: 6,
        duplicates: 1,
        conflicts: 1,
        rejected: 1,
        outside_day: 1,
        missing_charge: 1,
        missing_duration: 1,
        ..Counts::default()
    };
    assert_eq!(converted.counts, expected);
    assert!(converted.counts.add_up());
    assert_eq!(converted.totals.charge_usd.to_string(), "2.875");
    assert_eq!(converted.digest.rows, 6);
    let first = converted.first_reject.as_deref().unwrap();
    assert!(first.contains("line 7"), "{first}");
    let file = converted.write_footer(Vec::new()).unwrap();
    assert_eq!(file.rows, 6);
}

#[test]
fn calls_of_a_month_are_sorted_and_summed_by_day_whatever_their_order() {
    let month = Slice::new("2026-10".parse().unwrap(), Direction::Placed);
    let call = |day: u8, hour: u8| {
        let date = format!("2026-10-{day:02}T{hour:02}:00:00Z");
        let id = format!("{day} {hour}");
        format!("{{\"date\":\"{date}\",\"call_id\":\"{id}\",\"charge\":\"0.{day:02}\"}}\n")
    };
    let mut lines: Vec<String> = (1..=31)
        .flat_map(|day| (0..day % 4).map(move |hour| call(day, hour)))
        .collect();
    lines.push("{\"date\":\"2026-09-30T23:59:59Z\",\"call_id\":\"before\"}\n".to_owned());
    lines.push("{\"date\":\"2026-11-01T00:00:00Z\",\"call_id\":\"after\"}\n".to_owned());
    // Duplicates, of which one is dropped wherever they lie.
    lines.extend([call(3, 1), call(30, 0)]);
    let mut random = fastrand::Rng::with_seed(7);
    let mut first = None;
    for _ in 0..8 {
        random.shuffle(&mut lines);
        let directory = tempfile::tempdir().unwrap();
        let options = ConvertOptions::of_test(month, directory.path());
        let converted = convert(options, &[&lines.concat()]).unwrap();
        assert_eq!(
            (converted.counts.duplicates, converted.counts.outside_day),
            (2, 2)
        );
        let mut merged = Totals::default();
        let mut rows = 0;
        for (day, of_day) in &converted.days {
            let calls = i64::from(day.day() % 4) + i64::from([1, 31].contains(&day.day()));
            assert_eq!(of_day.rows, u64::try_from(calls).unwrap(), "{day}");
            merged.merge(&of_day.totals);
            rows += of_day.rows;
        }
        assert_eq!((rows, &merged), (converted.counts.rows, &converted.totals));
        let digest = *first.get_or_insert(converted.digest);
        assert_eq!(converted.digest, digest);
        let mut days = Vec::new();
        let file = converted.write_footer(Vec::new()).unwrap();
        crate::slice_file::writer::read_rows(&file.path, month, |record| {
            days.push(record.source_day.unwrap());
            Ok::<(), WriteError>(())
        })
        .unwrap();
        assert!(days.is_sorted());
        assert_eq!(days.len() as u64, rows);
    }
}

#[test]
fn duplicates_that_are_kept_are_counted_too() {
    let directory = tempfile::tempdir().unwrap();
    let options = ConvertOptions {
        dedupe: false,
        ..options(&directory)
    };
    let body = [call("a", "1"), call("a", "1")].concat();
    let converted = convert(options, &[&body]).unwrap();
    let counts = &converted.counts;
    assert_eq!((counts.rows, counts.repeated, counts.duplicates), (2, 1, 0));
}

#[test]
fn the_digest_depends_neither_on_the_order_of_rows_nor_on_pages() {
    let digest = |bodies: &[&str]| {
        let directory = tempfile::tempdir().unwrap();
        convert(options(&directory), bodies).unwrap().digest
    };
    let [a, b, c] = [call("a", "1"), call("b", "2"), call("c", "3")];
    let all = digest(&[&format!("{a}{b}{c}")]);
    assert_eq!(digest(&[&format!("{c}{a}{b}{a}")]), all);
    assert_eq!(digest(&[&a, &format!("{c}{b}")]), all);
    assert_ne!(digest(&[&a, &b]), all);
}

#[test]
fn each_body_has_its_own_digest_including_duplicates() {
    let directory = tempfile::tempdir().unwrap();
    let mut converter = Converter::try_new(options(&directory)).unwrap();
    let mut end = |body: &str| {
        converter.push(body.as_bytes()).unwrap();
        converter.end_body().unwrap()
    };
    let page = [call("a", "1"), call("b", "2")].concat();
    let (first, second) = (end(&page), end(&page));
    assert_eq!(first.digest, second.digest);
    assert_eq!((first.records, second.records), (2, 4));
    assert_eq!(converter.finish().unwrap().counts.duplicates, 2);
}

#[test]
fn an_invalid_record_is_fatal_in_a_list_and_at_the_end_but_not_on_a_line() {
    let whole = call("a", "1");
    let in_list = error("[{\"date\":\"2026-10-01T10:00:00Z\"},{\"call_id\":tru}]");
    assert!(
        matches!(in_list, ConvertError::BrokenList { .. }),
        "{in_list}"
    );
    let truncated = error(&format!("{whole}{{\"date\":\"2026-10-0"));
    assert!(
        matches!(truncated, ConvertError::TruncatedRecord { .. }),
        "{truncated}"
    );
    for error in [in_list, truncated] {
        assert_eq!(
            error.fate(),
            Fate::retry(RetryReason::BrokenBody),
            "{error}"
        );
    }
    // Lines are independent of each other.
    let directory = tempfile::tempdir().unwrap();
    let body = format!("{{\"call_id\":tru}}\n{whole}");
    let counts = convert(options(&directory), &[&body]).unwrap().counts;
    assert_eq!((counts.rows, counts.rejected), (1, 1));
}

#[test]
fn a_body_without_any_record_is_a_foreign_answer() {
    for body in [
        "login here\nplease\n",
        "<!doctype html><title>Login</title>",
    ] {
        let error = error(body);
        let foreign = Fate::retry(RetryReason::ForeignAnswer);
        assert_eq!(error.fate(), foreign, "{error}");
    }
}

#[test]
fn a_server_s_error_message_is_quoted_without_keys_and_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let key = secrecy::SecretString::from("a-long-enough-key");
    let options = ConvertOptions {
        credentials: Arc::new(Credentials::new(Some(key))),
        ..options(&directory)
    };
    let message = "no calls of 13025550123 for a-long-enough-key";
    let body = call("a", "1") + &format!("{{\"success\":false,\"message\":\"{message}\"}}\n");
    let error = convert(options, &[&body]).map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("no calls of"), "{text}");
    assert!(
        !text.contains("a-long-enough-key") && !text.contains("13025550123"),
        "{text}"
    );
}

#[test]
fn all_bodies_share_one_limit() {
    let directory = tempfile::tempdir().unwrap();
    let page: String = (0..300).map(|i| call(&i.to_string(), "1")).collect();
    assert!(page.len() < 50_000);
    let error = convert(options(&directory), &[page.as_str(); 6]).unwrap_err();
    let limit = matches!(
        error,
        ConvertError::Framing(FramingError::Endless {
            limit_bytes: 100_000
        })
    );
    assert!(limit && error.fate() == Fate::FailSlice, "{error}");
}

#[test]
fn a_credential_is_removed_and_an_id_that_held_it_identifies_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let key = secrecy::SecretString::from("a-long-enough-key");
    let options = ConvertOptions {
        credentials: Arc::new(Credentials::new(Some(key))),
        ..options(&directory)
    };
    let body = [
        call("a-long-enough-key", "1"),
        call("a-long-enough-key", "1"),
    ]
    .concat();
    let converted = convert(options, &[&body]).unwrap();
    let counts = &converted.counts;
    assert_eq!((counts.redacted, counts.rows, counts.duplicates), (2, 2, 0));
}

#[test]
fn an_abandoned_slice_leaves_no_file_in_the_spool() {
    let directory = tempfile::tempdir().unwrap();
    let left = || std::fs::read_dir(directory.path()).unwrap().count();
    // Leftovers of a crashed run are removed too.
    for extension in ["rejects", "rewrite", "parquet"] {
        let path = directory
            .path()
            .join("placed-2026-10-01")
            .with_extension(extension);
        std::fs::write(path, "left").unwrap();
    }
    let mut converter = Converter::try_new(options(&directory)).unwrap();
    assert_eq!(left(), 1, "the Parquet file");
    converter.push(b"{\"call_id\":\"a\"}\n").unwrap();
    converter.push(call("b", "1").as_bytes()).unwrap();
    assert_eq!(left(), 2, "and the rejects");
    converter.abandon().unwrap();
    assert_eq!(left(), 0);
}
