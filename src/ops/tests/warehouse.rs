//! Statements for a warehouse, of a lake in memory.

use jiff::civil::Date;

use super::world::{World, day, source};
use crate::ops::warehouse::{LoadScope, TableRequest};
use crate::warehouse::Target;

fn request(target: Target) -> TableRequest {
    TableRequest {
        target,
        table: "cdrs".to_owned(),
        location: Some("s3://bucket/lake".to_owned()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_definition_begins_with_the_first_day_of_the_lake_or_of_the_api() {
    let (world, athena) = (World::filled(&[3, 2]).await, request(Target::Athena));
    let found = athena.definition(&world.config, Some(&world.lake)).await;
    let found = found.unwrap();
    assert!(found.contains("'2020-01-01,NOW'"), "{found}");
    let found = athena.definition(&world.config, None).await.unwrap();
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
