//! How many requests a run makes to a bucket. The store bills them, and a small slice takes as long
//! as those that wait for each other.

use std::collections::BTreeMap;

use cdrlake::{Config, Job, Lake, RunOutcome, Selection};

use crate::server::Server;
use crate::stores::Faults;
use crate::support::{DAY, block_on, calls};
use crate::sweep::{Place, source};

const DAYS: u32 = 30;
const SLICES: usize = 60;

/// Requests by action and kind of object.
type Requests = BTreeMap<String, usize>;

fn config(url: &str, tables: &str) -> Config {
    let start = "2026-10-01";
    let mut keys = vec![
        ("source.url", url),
        ("lake.url", "s3://bucket/some/lake"),
        ("window.start", start),
        ("window.lookback_days", "0"),
    ];
    if !tables.is_empty() {
        keys.push(("lake.tables", tables));
    }
    Config::from_keys(keys).unwrap()
}

/// Runs in the lake at `place`, and counts the requests of the run itself.
async fn requests_of_a_run(place: &Place, url: &str, tables: &str, refresh: bool) -> Requests {
    let faults = Faults::none();
    let config = config(url, tables);
    let privacy = config.privacy(false).unwrap();
    let identity = config.identity(&privacy);
    let lake = Lake::open(place.store(&faults), &identity, privacy)
        .await
        .unwrap();
    let day = |day: &str| Some(cdrlake::internals::parse_day(day).unwrap());
    let selection = Selection {
        from: day("2026-10-01"),
        to: day("2026-10-30"),
        refresh,
        ..Selection::default()
    };
    let before = faults.operations().len();
    let source = source(&config.source);
    let job = Job::new(config, source).with_selection(selection);
    let outcome = job.run_in(lake).await.unwrap();
    assert_eq!(outcome.run.report.outcome, RunOutcome::Committed);
    let mut requests = Requests::new();
    for (action, path) in &faults.operations()[before..] {
        let path = path.strip_prefix("some/lake/").unwrap_or(path);
        let kind = match path.split('/').collect::<Vec<_>>()[..] {
            ["_cdrlake", kind, ..] | [kind, ..] => kind,
            [] => "",
        };
        *requests.entry(format!("{action} {kind}")).or_default() += 1;
    }
    requests
}

/// Requests that a run makes for each slice: all of a kind that it makes at least once a slice.
fn of_each_slice(requests: &Requests) -> BTreeMap<&str, usize> {
    let repeated = requests.iter().filter(|(_, number)| **number >= SLICES);
    repeated
        .map(|(kind, number)| (kind.as_str(), number / SLICES))
        .collect()
}

#[test]
fn a_slice_makes_no_more_requests_to_a_bucket_than_it_needs() {
    let server = Server::start();
    let fill = |first: u32| {
        for day in 1..=DAYS {
            let day = format!("2026-10-{day:02}");
            for direction in ["placed", "received"] {
                server.serve(direction, &day, calls(first, 3).replace(DAY, &day), 3);
            }
        }
    };
    let url = server.url();
    // Formats, their number, and the requests of a commit to their logs.
    let of_logs = [
        ("", 0, 0),
        ("delta", 1, 6),
        ("iceberg", 1, 12),
        ("delta,iceberg", 2, 17),
    ];
    for (tables, logs, commit) in of_logs {
        let place = Place::in_bucket(1 << 20);
        fill(0);
        let first = block_on(requests_of_a_run(&place, &url, tables, false));
        let nothing_due = block_on(requests_of_a_run(&place, &url, tables, false));
        let unchanged = block_on(requests_of_a_run(&place, &url, tables, true));
        fill(100);
        let changed = block_on(requests_of_a_run(&place, &url, tables, true));
        let each = |run: &Requests| of_each_slice(run).values().sum::<usize>();
        let others = |run: &Requests| run.values().sum::<usize>() - SLICES * each(run);
        let runs = [&first, &nothing_due, &unchanged, &changed];
        let totals = runs.map(|run| run.values().sum::<usize>());
        let shown =
            format!("{tables:?}: {totals:?} {first:?} {nothing_due:?} {unchanged:?} {changed:?}");
        // A commit to a log reads the entries of its slices again.
        // Without a log, a run first looks for a file of the slice.
        let first_each = if logs == 0 { 11 } else { 10 + logs };
        assert_eq!(each(&first), first_each, "{shown}");
        assert_eq!(each(&nothing_due), 1, "{shown}");
        assert_eq!(each(&unchanged), 7, "{shown}");
        assert_eq!(each(&changed), 12 + logs, "{shown}");
        for run in runs {
            assert!(others(run) <= 22 + commit, "{shown}");
        }
    }
}
