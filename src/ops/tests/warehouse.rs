//! Statements for a warehouse, of a lake in memory.

use std::sync::Arc;

use jiff::civil::Date;

use super::world::{World, day, days, slice, source};
use crate::cdr::slice::{Direction, Slice};
use crate::ops::days::Selection;
use crate::ops::warehouse::{LoadScope, TableRequest};
use crate::source::scripted::{Answer, ScriptedSource};
use crate::warehouse::Target;

fn request(target: Target) -> TableRequest {
    TableRequest {
        target,
        table: "cdrs".to_owned(),
        location: Some("s3://bucket/lake".to_owned()),
        form: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_definition_begins_with_the_first_day_of_the_lake_or_of_the_api() {
    let (world, athena) = (World::filled(&[3, 2]).await, request(Target::Athena));
    let found = athena.definition(&world.config, Some(&world.lake)).await;
    let (found, _) = found.unwrap();
    assert!(found.contains("'2020-01-01,NOW'"), "{found}");
    let (found, _) = athena.definition(&world.config, None).await.unwrap();
    assert!(found.contains("'2015-01-01,NOW'"), "{found}");
}

#[tokio::test(start_paused = true)]
async fn a_load_covers_the_selected_days_and_those_that_the_last_run_changed() {
    let (world, snowflake) = (World::filled(&[3, 2]).await, request(Target::Snowflake));
    let load = async |which| {
        let load = snowflake.load(&world.config, &world.lake, &which);
        load.await.unwrap()
    };
    let all = load(LoadScope::Days(Date::MIN..=Date::MAX)).await;
    assert!(all.starts_with("-- As of run "), "{all}");
    assert!(
        all.contains("2020-01-01") && all.contains("2020-01-02"),
        "{all}"
    );
    let second = load(LoadScope::Days(day(2)..=day(2))).await;
    assert!(!second.contains("2020-01-01"), "{second}");
    world.run(3, source(&[3, 2, 1])).await;
    let last = load(LoadScope::ChangedBy("last".to_owned())).await;
    assert!(
        last.contains("2020-01-03") && !last.contains("2020-01-02"),
        "{last}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_load_deletes_no_rows_of_a_slice_that_was_never_fetched() {
    let (world, snowflake) = (World::filled(&[3]).await, request(Target::Snowflake));
    let short = ScriptedSource::new().with(slice(2), 3, [2, 2, 2].map(Answer::Calls));
    world.run(2, Arc::new(short)).await;
    let all = LoadScope::Days(Date::MIN..=Date::MAX);
    let load = snowflake.load(&world.config, &world.lake, &all).await;
    let load = load.unwrap();
    let failed = "-- 2020-01-02: placed is not in the lake (failed): see cdrlake status.\n";
    assert!(load.ends_with(failed), "{load}");
    assert_eq!(load.matches("2020-01-02").count(), 1, "{load}");
    // The other direction of the first day is missing once the lake has that direction.
    assert!(!load.contains("received"), "{load}");
    let received = Slice::new(slice(2).period, Direction::Received);
    let both = ScriptedSource::new().with(received, 1, [1, 1].map(Answer::Calls));
    let selection = Selection {
        direction: Some(Direction::Received),
        from: Some(day(2)),
        ..days(2)
    };
    world.run_selected(selection, Arc::new(both)).await;
    let load = snowflake.load(&world.config, &world.lake, &all).await;
    let load = load.unwrap();
    let missing = "-- 2020-01-01: received is not in the lake (missing): see cdrlake status.\n";
    assert!(load.contains(missing) && load.contains(failed), "{load}");
    assert_eq!(load.matches("DELETE").count(), 2, "{load}");
}

#[tokio::test(start_paused = true)]
async fn a_run_without_a_report_is_refused() {
    let (world, snowflake) = (World::filled(&[3]).await, request(Target::Snowflake));
    for which in [
        LoadScope::ChangedBy("other".to_owned()),
        LoadScope::ChangedSince("other".to_owned()),
    ] {
        let refused = snowflake.load(&world.config, &world.lake, &which).await;
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("no readable report of run other"),
            "{refused}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_compares_with_the_totals_of_the_ledger() {
    let (world, snowflake) = (World::filled(&[3, 2]).await, request(Target::Snowflake));
    let check = snowflake.check(&world.config, &world.lake).await.unwrap();
    assert!(
        check.contains("calls = 5 AND duration_seconds = 130"),
        "{check}"
    );
}
