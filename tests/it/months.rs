//! Lakes whose slices are months, by the program itself.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use arrow::datatypes::Date32Type;
use cdrlake::internals::parse_day;
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::faults::cut;
use crate::server::{STREAM, Server, count, ok_chunked};
use crate::support::{PLACED, Ran, Workplace, read};

/// The month of most tests, which ended long ago.
const MONTH: (&str, &str) = ("2026-03-01", "2026-03-31");
/// Its file.
const FILE: &str = "dt=2026-03-01/placed-2026-03.parquet";

/// A lake of months.
fn lake_of_months(server: &Server) -> Workplace {
    let workplace = Workplace::new(server);
    workplace.configure_also("[window]\nslice = \"month\"");
    workplace
}

/// The days from `first` to `last`.
fn days((first, last): (Date, Date)) -> impl Iterator<Item = Date> {
    std::iter::successors(Some(first), |day| day.tomorrow().ok())
        .take_while(move |day| *day <= last)
}

/// A call of a day.
fn call(day: Date, number: u32) -> String {
    format!(
        "{{\"call_id\":\"{day}-{number}\",\"date\":\"{day}T10:00:00Z\",\"duration\":30,\
         \"charge\":\"0.5\"}}\n"
    )
}

/// Two calls for each day of [`MONTH`], the last day first.
fn calls_of_the_month() -> Vec<String> {
    let days: Vec<Date> =
        days((parse_day(MONTH.0).unwrap(), parse_day(MONTH.1).unwrap())).collect();
    let calls = days
        .iter()
        .rev()
        .flat_map(|day| [call(*day, 1), call(*day, 2)]);
    calls.collect()
}

/// The rows of each day in [`FILE`], which must be sorted by day.
fn rows_by_day(workplace: &Workplace) -> BTreeMap<i32, usize> {
    let batch = read(&workplace.path("lake/cdrs").join(FILE));
    let days = batch.column_by_name("source_day").unwrap();
    let days = days.as_primitive::<Date32Type>().values();
    assert!(days.is_sorted());
    let mut rows = BTreeMap::new();
    for day in days {
        *rows.entry(*day).or_default() += 1;
    }
    rows
}

/// Fetches [`MONTH`] again.
fn refresh(workplace: &Workplace) -> Ran {
    let month = [
        "run",
        "--from",
        MONTH.0,
        "--to",
        MONTH.1,
        "--refresh",
        "--format",
        "json",
    ];
    workplace.run(&[&month[..], PLACED].concat())
}

/// The targets of all requests so far, without parameters that do not vary.
fn targets(server: &Server, prefix: &str) -> Vec<String> {
    let requests = server.requests(prefix).into_iter();
    let target = requests.map(|request| {
        let (target, _) = request.target.split_once("&disposition").unwrap();
        target.to_owned()
    });
    target.collect()
}

#[test]
fn a_backfill_by_month_makes_a_request_where_one_by_day_makes_one_for_each_day() {
    let server = Server::start();
    let window = (date(2024, 1, 1), date(2024, 12, 31));
    for direction in ["placed", "received"] {
        for day in days(window) {
            server.serve(direction, &day.to_string(), call(day, 1), 1);
        }
        for month in 1..=12 {
            let month = (date(2024, month, 1), date(2024, month, 1).last_of_month());
            let body: String = days(month).map(|day| call(day, 1)).collect();
            let total = u64::from(month.1.day().unsigned_abs());
            let (first, last) = (month.0.to_string(), month.1.to_string());
            server.serve_days(direction, (&first, &last), body, total);
        }
    }
    let backfill = |workplace: &Workplace| {
        let before = [STREAM, "/v1/cdrs?"].map(|path| server.requests(path).len());
        let ran = workplace.run(&["run", "--from", "2024-01-01", "--to", "2024-12-31"]);
        assert_eq!(ran.status, 0, "{ran:?}");
        let after = [STREAM, "/v1/cdrs?"].map(|path| server.requests(path).len());
        let [calls, counts] = [0, 1].map(|path| after[path] - before[path]);
        (calls, counts, workplace.table())
    };
    let by_day = Workplace::new(&server);
    let (calls, counts, files) = backfill(&by_day);
    assert_eq!((calls, counts, files.len()), (732, 1_464, 732));
    let by_month = lake_of_months(&server);
    let (calls, counts, files) = backfill(&by_month);
    // 30.5 times fewer: each count is asked for before and after the calls.
    assert_eq!((calls, counts, files.len()), (24, 48, 24));
    let rows = |workplace: &Workplace, files: Vec<String>| -> usize {
        let files = files.into_iter();
        files
            .map(|file| read(&workplace.path("lake").join(file)).num_rows())
            .sum()
    };
    assert_eq!(rows(&by_month, files), 732);
}

/// A time zone in which it is about noon, so that no day ends during a test.
fn zone_at_noon() -> String {
    let hour = Timestamp::now().to_zoned(TimeZone::UTC).hour();
    // The sign is that of POSIX: behind UTC.
    format!("Etc/GMT{:+}", hour - 12)
}

#[test]
fn a_daily_run_asks_for_the_current_month_and_those_in_the_look_back_only() {
    let server = Server::start();
    server
        .on(STREAM, [ok_chunked("")])
        .on("/v1/cdrs?", [count(0)]);
    let workplace = lake_of_months(&server);
    let zone = zone_at_noon();
    let today = Timestamp::now().in_tz(&zone).unwrap().date();
    let start = today.checked_sub(200.days()).unwrap();
    workplace.reconfigure(
        "[window]",
        &format!("[window]\nstart = {start}\ntimezone = \"{zone}\""),
    );
    assert_eq!(workplace.run(&["run"]).status, 0);
    let backfill = ["/v1/cdrs/all?", "/v1/cdrs?"].map(|path| targets(&server, path).len());

    let daily = workplace.run(&["run"]);
    assert_eq!(daily.status, 0, "{daily:?}");
    let yesterday = today.yesterday().unwrap();
    // What a run fetches again: months with a day of the last three, or that have not settled.
    let first = today.checked_sub(3.days()).unwrap().first_of_month();
    let months = std::iter::successors(Some(first), |month| month.checked_add(1.month()).ok());
    let months = months.take_while(|month| *month <= yesterday);
    let ranges: Vec<String> = months
        .map(|first| format!("?from={first}&to={}", first.last_of_month().min(yesterday)))
        .collect();
    assert!(ranges.len() == 1 || (ranges.len() == 2 && today.day() <= 4));
    for (path, times, before) in [
        ("/v1/cdrs/all", 1, backfill[0]),
        ("/v1/cdrs", 2, backfill[1]),
    ] {
        let mut asked = targets(&server, &format!("{path}?")).split_off(before);
        asked.sort_unstable();
        let mut expected = Vec::new();
        for range in &ranges {
            for direction in ["placed", "received"] {
                let target = format!("{path}{range}&type={direction}");
                expected.extend(std::iter::repeat_n(target, times));
            }
        }
        expected.sort_unstable();
        assert_eq!(asked, expected);
    }
    let all = server.requests("").len();
    let of_calls = server.requests(STREAM).len() + server.requests("/v1/cdrs?").len();
    assert_eq!(all, of_calls, "nothing else is asked for");
}

/// A server, and a lake that has the first call of each day of [`MONTH`].
fn begun() -> (Server, Workplace) {
    let server = Server::start();
    let workplace = lake_of_months(&server);
    let calls = calls_of_the_month();
    let first_of_each: String = calls.into_iter().step_by(2).collect();
    server.serve_days("placed", MONTH, first_of_each, 31);
    assert_eq!(refresh(&workplace).status, 0);
    (server, workplace)
}

/// Serves the whole month. The next run must fetch it, although it does not ask for it.
fn mend(server: &Server, workplace: &Workplace) {
    let calls = calls_of_the_month();
    server.serve_days("placed", MONTH, calls.concat(), calls.len() as u64);
    let due = workplace.run(&[&["run", "--from", MONTH.0, "--to", MONTH.1], PLACED].concat());
    assert_eq!(due.status, 0, "{due:?}");
    let rows = rows_by_day(workplace);
    assert_eq!(rows.len(), 31);
    assert!(rows.values().all(|rows| *rows == 2), "{rows:?}");
    let verified = workplace.run(&["verify"]);
    assert_eq!(verified.status, 0, "{verified:?}");
}

#[test]
fn a_month_with_a_broken_day_fails_as_a_whole_and_the_next_run_mends_it() {
    let good = calls_of_the_month();
    // The day before the last one is broken.
    let broken = |replacement: &str| {
        let mut calls = good.clone();
        calls[2] = replacement.to_owned();
        calls.concat()
    };
    let one_more = format!("{}{}", good[2], call(date(2026, 3, 30), 3));
    for (body, total, problem) in [
        (
            broken(&"{\"date\":\"2026-03-30\"}\n".repeat(11)),
            72,
            "11 of 72 records were rejected, more than quality.max_rejects and \
             quality.max_reject_ratio allow. The first: line 3, byte 172: `date` is not",
        ),
        (broken(""), 62, "the provider counts 62 calls, 61 were read"),
        (
            broken(&one_more),
            62,
            "the provider counts 62 calls, 63 were read",
        ),
        (
            broken("{\"success\":false,\"message\":\"Try later\"}\n"),
            62,
            "line 3, byte 172: the server ended the stream with an error: Try later",
        ),
        // The lake has a call of this day, and the provider has none, but more of another day.
        (
            good.concat().replace("2026-03-30", "2026-03-29"),
            62,
            "days of the month shrank: 2026-03-30 has 0 rows, and the lake 1",
        ),
    ] {
        let (server, workplace) = begun();
        let before = workplace.lake_files();
        server.serve_days("placed", MONTH, body, total);
        let failed = refresh(&workplace);
        assert_eq!(failed.status, 1, "{failed:?}");
        let error = failed.json()["slices"][0]["error"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(error.contains(problem), "{error}");
        let after = workplace.lake_files();
        let is_of_the_table = |path: &String| path.starts_with("cdrs/");
        for path in before
            .keys()
            .chain(after.keys())
            .filter(|path| is_of_the_table(path))
        {
            assert_eq!(before.get(path), after.get(path), "{problem}: {path}");
        }
        mend(&server, &workplace);
    }
}

#[test]
fn a_broken_line_of_a_month_is_rejected_with_its_place_and_the_other_calls_are_there() {
    let (server, workplace) = begun();
    let mut calls = calls_of_the_month();
    calls[2] = "<html>Bad gateway</html>\n".to_owned();
    server.serve_days("placed", MONTH, calls.concat(), 62);
    let committed = refresh(&workplace);
    assert_eq!(committed.status, 0, "{committed:?}");
    let rows = rows_by_day(&workplace);
    let fewer: Vec<&usize> = rows.values().filter(|rows| **rows != 2).collect();
    assert_eq!((rows.len(), fewer), (31, vec![&1]));
    let rejects = workplace.path("lake/_cdrlake/rejects/placed/2026-03.ndjson.zst");
    let rejects = zstd::Decoder::new(std::fs::File::open(rejects).unwrap()).unwrap();
    let rejects = std::io::read_to_string(rejects).unwrap();
    let reject: serde_json::Value = serde_json::from_str(&rejects).unwrap();
    assert_eq!(
        (&reject["line"], &reject["byte"]),
        (&3.into(), &172.into()),
        "{reject}"
    );
}

#[test]
fn a_stream_of_a_month_that_is_cut_in_the_middle_is_read_again_from_the_beginning() {
    let calls = calls_of_the_month();
    let (whole, half) = (calls.concat(), calls[..31].concat());
    let target = format!("{STREAM}?from={}&to={}&type=placed", MONTH.0, MONTH.1);
    // In the middle of a call, or behind one.
    for half in [&half[..], &half[..half.len() - 40]] {
        let (server, workplace) = begun();
        let before = server.requests(&target).len();
        server.serve_days("placed", MONTH, "", 62);
        server.on(&target, [cut(half), cut(half), ok_chunked(&whole)]);
        let report = refresh(&workplace).report();
        assert_eq!(report.slices[0].attempts, 3);
        assert_eq!(report.slices[0].counts.records, 62);
        // The whole month each time.
        assert_eq!(server.requests(&target).len() - before, 3);
        assert!(rows_by_day(&workplace).values().all(|rows| *rows == 2));
        assert_eq!(workplace.run(&["verify"]).status, 0);
    }
}

#[test]
fn no_part_of_a_month_is_published_if_its_stream_is_always_cut() {
    let (server, workplace) = begun();
    let before = workplace.lake_files();
    let half = calls_of_the_month()[..31].concat();
    server.serve_days("placed", MONTH, "", 62);
    let target = format!("{STREAM}?from={}&to={}&type=placed", MONTH.0, MONTH.1);
    server.on(&target, [cut(&half)]);
    let failed = refresh(&workplace);
    assert_eq!(failed.status, 1, "{failed:?}");
    assert!(
        failed
            .stdout
            .contains("after 3 attempts: the stream broke off"),
        "{failed:?}"
    );
    let entry = "_cdrlake/ledger/placed/2026-03.json";
    let mut after = workplace.lake_files();
    assert_ne!(
        after.remove(entry),
        before.get(entry).cloned(),
        "the failure is noted"
    );
    assert!(
        after
            .iter()
            .all(|(path, bytes)| before.get(path) == Some(bytes))
    );
    assert_eq!(after.len(), before.len() - 1);
    mend(&server, &workplace);
}

#[test]
fn a_lake_of_days_is_not_continued_as_one_of_months() {
    let server = Server::start();
    server
        .on(STREAM, [ok_chunked("")])
        .on("/v1/cdrs?", [count(0)]);
    let workplace = Workplace::new(&server);
    let days = ["run", "--from", "2026-03-01", "--to", "2026-03-02"];
    assert_eq!(workplace.run(&days).status, 0);
    let before = workplace.lake_files();
    workplace.configure_also("[window]\nslice = \"month\"");
    for command in ["run", "plan"] {
        let refused = workplace.run(&[&[command], &days[1..]].concat());
        assert_eq!(refused.status, 2, "{refused:?}");
        let problem = "window.slice is \"month\", but this lake has a file for each day. Set \
            window.slice back, or convert the lake. `cdrlake convert --slice month` converts it\n";
        assert!(refused.stderr.contains(problem), "{refused:?}");
    }
    assert_eq!(workplace.lake_files(), before);
    assert_eq!(workplace.run(&["convert", "--slice", "month"]).status, 0);
    assert_eq!(workplace.run(&days).status, 0);
}

#[test]
fn another_time_zone_than_that_of_the_months_is_reported_with_its_remedy() {
    let (_server, workplace) = begun();
    workplace.reconfigure("[window]", "[window]\ntimezone = \"Asia/Kathmandu\"");
    let warned = workplace.run(&[&["run", "--from", MONTH.0, "--to", MONTH.1], PLACED].concat());
    let warning = "window.timezone is Asia/Kathmandu, but this lake was created with UTC, and \
        months that were fetched before have the days of UTC. If window.timezone is right, fetch \
        all months again with `cdrlake run --refresh`, then set timezone in _cdrlake/lake.json to \
        it. If not, set window.timezone back";
    assert!(warned.stdout.contains(warning), "{warned:?}");
    assert_eq!(refresh(&workplace).status, 0);
    let identity = workplace.path("lake/_cdrlake/lake.json");
    let text = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(&identity, text.replace("\"UTC\"", "\"Asia/Kathmandu\"")).unwrap();
    let report = refresh(&workplace).report();
    assert_eq!(report.warnings, [] as [&str; 0]);
}
