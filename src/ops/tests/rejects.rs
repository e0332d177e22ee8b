//! Rejects by reason.

use jiff::Timestamp;

use super::world::{World, day, days, slice, source_of_lines};
use crate::cdr::slice::Direction;
use crate::ops::days::DayRange;
use crate::ops::rejects::Rejects;
use crate::store::layout;

const CALL: &str = "{\"call_id\":\"1\",\"date\":\"DAYT10:00:00Z\"}\n";
const NO_DATE: &str = "{\"call_id\":\"2\",\"from\":\"13025550001\"}\n";
const BAD_DATE: &str = "{\"call_id\":\"3\",\"date\":\"broken\"}\n";

async fn read(world: &World, range: &DayRange, show_numbers: bool) -> Rejects {
    let now: Timestamp = "2020-01-10T12:00:00Z".parse().unwrap();
    let window = &world.config.window;
    let rejects = Rejects::read(&world.lake, window, range, show_numbers, now);
    rejects.await.unwrap()
}

/// Each reason, with its records, its slices and whether they are those of failed attempts.
fn groups(rejects: &Rejects) -> Vec<(&str, u64, usize, bool)> {
    let groups = rejects.groups.iter();
    groups
        .map(|group| {
            let of_failed = group.of_failed_attempts;
            (group.code.as_str(), group.records, group.slices, of_failed)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn rejects_are_grouped_by_reason_and_those_of_failed_attempts_come_last() {
    let world = World::new().await;
    let failing = NO_DATE.repeat(20);
    let first = [CALL, NO_DATE, BAD_DATE, NO_DATE].concat();
    let second = [CALL, BAD_DATE, NO_DATE].concat();
    world
        .run(3, source_of_lines(&[&first, &second, &failing]))
        .await;
    let found = read(&world, &DayRange::default(), false).await;
    let expected = [
        ("no_date", 3, 2, false),
        ("date", 2, 2, false),
        ("no_date", 20, 1, true),
    ];
    assert_eq!(groups(&found), expected);
    assert_eq!(found.unreadable, [] as [&str; 0]);
    let group = &found.groups[0];
    assert_eq!((group.first_day, group.last_day), (day(1), day(2)));
    // The example is the first record of the first slice, with its place.
    let example = &group.example;
    assert_eq!(example.slice, slice(1));
    assert_eq!(example.file, layout::rejects_file(slice(1)).to_string());
    assert_eq!((example.at.line, example.page), (2, 1));
    assert_eq!(
        example.at.byte,
        CALL.replace("DAY", "2020-01-01").len() as u64
    );
    assert!(example.place.contains("line 2"), "{}", example.place);
    let failed = layout::failed_rejects_file(slice(3)).to_string();
    assert_eq!(found.groups[2].example.file, failed);
}

#[tokio::test(start_paused = true)]
async fn numbers_in_examples_are_hidden_unless_asked_for() {
    let world = World::new().await;
    world
        .run(1, source_of_lines(&[&[CALL, NO_DATE].concat()]))
        .await;
    for (show_numbers, is_shown) in [(false, false), (true, true)] {
        let found = read(&world, &DayRange::default(), show_numbers).await;
        let text = &found.groups[0].example.text;
        assert_eq!(text.contains("13025550001"), is_shown, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_selection_limits_days_and_directions() {
    let world = World::new().await;
    let lines = [CALL, NO_DATE].concat();
    world.run(2, source_of_lines(&[&lines, &lines])).await;
    assert_eq!(
        groups(&read(&world, &days(1).range(), false).await),
        [("no_date", 1, 1, false)]
    );
    let received = DayRange {
        direction: Some(Direction::Received),
        ..DayRange::default()
    };
    assert_eq!(groups(&read(&world, &received, false).await), []);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_missing_or_damaged_is_listed_beside_the_readable_ones() {
    let world = World::new().await;
    let lines = [CALL, NO_DATE].concat();
    world
        .run(3, source_of_lines(&[&lines, &lines, &lines]))
        .await;
    let (gone, damaged) = (
        layout::rejects_file(slice(1)),
        layout::rejects_file(slice(2)),
    );
    world.delete(&gone).await;
    world.put(&damaged, "no zstd").await;
    let found = read(&world, &DayRange::default(), false).await;
    assert_eq!(groups(&found), [("no_date", 1, 1, false)]);
    assert_eq!(found.unreadable.len(), 2);
    for (problem, path) in found.unreadable.iter().zip([gone, damaged]) {
        assert!(problem.starts_with(path.as_ref()), "{problem}");
    }
    let missing = "the file with 1 record is missing";
    assert!(found.unreadable[0].ends_with(missing), "{found:?}");
    assert!(found.is_any_missing);
}
