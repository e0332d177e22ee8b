//! Streams from a scripted source, where waiting costs no time.

use super::*;
use crate::source::SourceError;
use crate::source::scripted::Answer::{self, Calls, Cut, Fails, Lines};
use crate::source::scripted::ScriptedSource;

fn slice(day: i8, direction: Direction) -> Slice {
    Slice::of_day(jiff::civil::date(2020, 1, day), direction)
}

/// A stream of the first days of a month, with its spool in `directory`.
async fn begin(
    source: ScriptedSource,
    days: i8,
    directory: &tempfile::TempDir,
    keys: &[(&str, &str)],
) -> SliceStream {
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::create_dir_all(path("spool")).unwrap();
    let basic = [
        ("lake.url", path("lake")),
        ("limits.spool_dir", path("spool")),
        ("source.requests", "2".to_owned()),
        ("source.retry_base", "1ms".to_owned()),
        ("source.directions", "placed".to_owned()),
    ];
    let keys = keys.iter().map(|(key, value)| (*key, (*value).to_owned()));
    let config = Config::from_keys(basic.into_iter().chain(keys)).unwrap();
    let selection = Selection {
        from: Some(jiff::civil::date(2020, 1, 1)),
        to: Some(jiff::civil::date(2020, 1, days)),
        ..Selection::default()
    };
    let interrupt = CancellationToken::new();
    let stream = stream(
        Arc::new(config),
        Arc::new(source),
        &selection,
        Arc::new(()),
        &interrupt,
    );
    stream.await.unwrap()
}

/// A source with these answers for each day, of which the provider counts three calls.
fn source<const DAYS: usize>(answers: [Vec<Answer>; DAYS]) -> ScriptedSource {
    let mut source = ScriptedSource::new();
    for (day, answers) in (1..).zip(answers) {
        source = source.with(slice(day, Direction::Placed), 3, answers);
    }
    source
}

/// The files of the spool, besides its lock.
fn spooled(directory: &tempfile::TempDir) -> usize {
    let spools = std::fs::read_dir(directory.path().join("spool")).unwrap();
    let files = spools.flat_map(|spool| std::fs::read_dir(spool.unwrap().path()).unwrap());
    files
        .filter(|file| file.as_ref().unwrap().file_name() != "lock")
        .count()
}

fn rows(proven: &ProvenSlice) -> usize {
    let batches = proven.batches().unwrap();
    batches.map(|batch| batch.unwrap().num_rows()).sum()
}

#[tokio::test(start_paused = true)]
async fn slices_come_in_the_order_of_days_and_nothing_is_left_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let [placed, received] = Direction::ALL;
    let source = ScriptedSource::new()
        .with(slice(2, placed), 3, [Calls(3)])
        .with(slice(1, received), 4, [Cut(4), Calls(4)])
        .with(slice(1, placed), 0, [Calls(0)])
        .with(slice(2, received), 1, [Calls(1)]);
    let both = [("source.directions", "received, placed")];
    let mut stream = begin(source, 2, &directory, &both).await;
    assert_eq!(stream.request.slices, 4);
    let mut found = Vec::new();
    while let Some(proven) = stream.next().await.unwrap() {
        let StreamedSlice {
            attempts,
            reconcile,
            ..
        } = proven.slice;
        assert_eq!(reconcile, Verdict::Match);
        found.push((proven.slice().to_string(), rows(&proven), attempts));
    }
    let found: Vec<_> = found
        .iter()
        .map(|(slice, rows, tries)| (&**slice, *rows, *tries))
        .collect();
    let expected = [
        ("placed 2020-01-01", 0, 1),
        ("received 2020-01-01", 4, 2),
        ("placed 2020-01-02", 3, 1),
        ("received 2020-01-02", 1, 1),
    ];
    assert_eq!(found, expected);
    assert_eq!(spooled(&directory), 0);
    drop(stream);
    assert_eq!(
        std::fs::read_dir(directory.path().join("spool"))
            .unwrap()
            .count(),
        0
    );
    assert!(!directory.path().join("lake").exists());
}

#[tokio::test(start_paused = true)]
async fn no_slice_follows_one_that_did_not_pass() {
    let broken = || Fails(SourceError::Permanent("the day is broken".to_owned()));
    let twice = "{\"call_id\":\"1\",\"date\":\"2020-01-02T10:00:00Z\"}\n".repeat(2);
    let bad: [(Vec<Answer>, &str, Option<Reason>); 3] = [
        (vec![broken()], "the day is broken", None),
        (
            (0..9).map(|_| Calls(2)).collect(),
            "provider counts 3",
            Some(Reason::ShortAnswer),
        ),
        (
            (0..9).map(|_| Lines(twice.clone())).collect(),
            "provider counts 3",
            Some(Reason::ShortAnswer),
        ),
    ];
    for (answers, problem, reason) in bad {
        let directory = tempfile::tempdir().unwrap();
        let source = source([vec![Calls(3)], answers, vec![Calls(3)]]);
        let mut stream = begin(source, 3, &directory, &[]).await;
        assert_eq!(rows(&stream.next().await.unwrap().unwrap()), 3);
        let failed = stream.next().await.unwrap_err();
        assert_eq!(failed.slice, slice(2, Direction::Placed));
        assert!(failed.problem.contains(problem), "{failed}");
        assert_eq!(failed.reason, reason);
        assert!(stream.next().await.unwrap().is_none());
        assert_eq!(spooled(&directory), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn duplicates_and_rejects_are_left_out_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let call = "{\"call_id\":\"1\",\"date\":\"2020-01-01T10:00:00Z\"}\n";
    let other = call.replace("\"1\"", "\"2\"");
    let lines = format!("{call}{call}{{\"date\":\"never\"}}\n{other}");
    let source = source([vec![Lines(lines)]]);
    let tolerant = [("quality.fail_reject_ratio", "1")];
    let mut stream = begin(source, 1, &directory, &tolerant).await;
    let proven = stream.next().await.unwrap().unwrap();
    let Counts {
        records,
        rows: counted,
        duplicates,
        rejected,
        ..
    } = proven.slice.counts;
    assert_eq!((records, counted, duplicates, rejected), (4, 2, 1, 1));
    assert_eq!(rows(&proven), 2);
    assert_eq!(proven.slice.reconcile, Verdict::MatchWithRejects);
}

#[tokio::test]
async fn a_slow_reader_holds_back_the_slices_behind_it() {
    let directory = tempfile::tempdir().unwrap();
    let source = source([3; 6].map(|calls| vec![Calls(calls)]));
    let mut stream = begin(source, 6, &directory, &[]).await;
    let first = stream.next().await.unwrap().unwrap();
    // Everything that was begun comes to its end.
    while stream
        .under_way
        .iter()
        .any(|(_, fetch)| !fetch.is_finished())
    {
        tokio::task::yield_now().await;
    }
    assert_eq!((stream.under_way.len(), stream.waiting.len()), (2, 3));
    assert_eq!(spooled(&directory), 3, "the first, and as many as requests");
    drop(first);
    stream.stop().await;
    assert_eq!(spooled(&directory), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_interrupted_ends() {
    let directory = tempfile::tempdir().unwrap();
    let mut stream = begin(source([vec![Calls(3)], vec![Calls(3)]]), 2, &directory, &[]).await;
    stream.shared.fetcher.stop.cancel();
    assert!(stream.next().await.unwrap_err().is_interrupted);
    assert!(stream.next().await.unwrap().is_none());
}
