//! What a user asks for, of a lake in memory and a source that answers what it was told to.

use std::sync::Arc;

use object_store::path::Path;
use tokio_util::sync::CancellationToken;

use super::world::{World, day, days, slice, source};
use crate::lake::report::RunOutcome;
use crate::lake::{PublishedFile, TableForm};
use crate::ops::days::Selection;
use crate::ops::job::Job;
use crate::ops::removal::prune::{find_old, prune};
use crate::ops::verify::{Fault, Verification};
use crate::source::Source;

/// Looks at the first days.
fn verification<'a>(
    world: &'a World,
    selection: &'a Selection,
    source: Option<&'a Arc<dyn Source>>,
) -> Verification<'a> {
    Verification {
        range: selection.range(),
        source,
        ask_source: source.is_some(),
        ..Verification::of(&world.config)
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_fetches_due_slices_and_the_next_one_has_nothing_to_do() {
    let world = World::new().await;
    let first = world.run(2, source(&[3, 2])).await;
    assert_eq!(first.run.report.totals.counts.rows, 5);
    assert_eq!((first.plan.due.len(), first.plan.up_to_date), (2, 0));
    let second = world.run(3, source(&[3, 2, 1])).await;
    assert_eq!((second.plan.due.len(), second.plan.up_to_date), (1, 2));
    assert_eq!(second.run.report.totals.counts.rows, 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_interrupted_before_it_begins_changes_nothing() {
    let world = World::new().await;
    let interrupt = CancellationToken::new();
    interrupt.cancel();
    let job = Job::new(world.config.clone(), source(&[3]))
        .with_selection(days(1))
        .with_interrupt(interrupt);
    let outcome = job.run_in(world.lake.clone()).await.unwrap();
    assert_eq!(outcome.run.report.outcome, RunOutcome::Interrupted);
    assert!(!world.holds(&TableForm::Plain.new_path(slice(1))).await);
}

#[tokio::test(start_paused = true)]
async fn a_lake_that_matches_its_ledger_is_proven_and_one_with_missing_days_is_not() {
    let world = World::filled(&[3, 2]).await;
    let (two, three) = (days(2), days(3));
    let checking = verification(&world, &two, None);
    let verified = checking.check_in(&world.lake, &()).await.unwrap();
    assert!(verified.is_proven(), "{verified:?}");
    assert_eq!((verified.found.slices, verified.found.rows), (2, 5));
    let checking = verification(&world, &three, None);
    let verified = checking.check_in(&world.lake, &()).await.unwrap();
    assert!(!verified.is_proven());
    assert_eq!(verified.not_fetched, [slice(3)].into());
}

#[tokio::test(start_paused = true)]
async fn a_repair_fetches_missing_files_and_removes_foreign_ones() {
    let world = World::filled(&[3, 2]).await;
    let foreign = Path::from("cdrs/copy of a file.parquet");
    world.put(&foreign, "no Parquet").await;
    world.delete(&TableForm::Plain.new_path(slice(2))).await;
    let (selection, source) = (Selection::default(), source(&[3, 2]));
    let verification = Verification {
        ask_source: false,
        ..verification(&world, &selection, Some(&source))
    };
    let mut verified = verification.check_in(&world.lake, &()).await.unwrap();
    let faults = verified.found.findings.iter().map(|finding| finding.fault);
    let faults: Vec<Fault> = faults.collect();
    assert_eq!(faults, [Fault::MissingFile, Fault::Foreign], "{verified:?}");
    let never = CancellationToken::new();
    let repair = verification.repair_in(&world.lake, &mut verified, Arc::new(()), never);
    repair.await.unwrap();
    let repair = verified.repair.as_ref().unwrap();
    assert_eq!(repair.removed, [foreign.to_string()]);
    assert_eq!(repair.run.as_ref().unwrap().totals.counts.rows, 2);
    assert!(repair.remaining.is_empty(), "{repair:?}");
    assert!(!world.holds(&foreign).await);
    assert!(world.holds(&TableForm::Plain.new_path(slice(2))).await);
}

#[tokio::test(start_paused = true)]
async fn without_a_source_a_repair_fetches_nothing_and_reports_the_remaining_findings() {
    let world = World::filled(&[3]).await;
    world.delete(&TableForm::Plain.new_path(slice(1))).await;
    let selection = days(1);
    let verification = verification(&world, &selection, None);
    let mut verified = verification.check_in(&world.lake, &()).await.unwrap();
    let never = CancellationToken::new();
    let repair = verification.repair_in(&world.lake, &mut verified, Arc::new(()), never);
    repair.await.unwrap();
    let repair = verified.repair.as_ref().unwrap();
    assert!(repair.run.is_none());
    assert_eq!(repair.remaining.len(), 1, "{repair:?}");
    assert!(!verified.is_proven());
}

#[tokio::test(start_paused = true)]
async fn a_changed_count_of_the_provider_is_a_finding() {
    let world = World::filled(&[3]).await;
    let (selection, source) = (days(1), source(&[4]));
    let verification = verification(&world, &selection, Some(&source));
    let verified = verification.check_in(&world.lake, &()).await.unwrap();
    let asked = verified.source.as_ref().unwrap();
    assert_eq!((asked.asked, asked.open), (1, 0));
    assert!(asked.error.is_none());
    assert_eq!(verified.found.findings.len(), 1, "{verified:?}");
    assert_eq!(verified.found.findings[0].fault, Fault::ControlTotal);
    assert_eq!(verified.found.to_fetch(), [slice(1)].into());
}

#[tokio::test(start_paused = true)]
async fn a_pruned_slice_is_removed_and_not_fetched_again() {
    let world = World::filled(&[3, 2]).await;
    let old = find_old(&world.lake, day(2)).await.unwrap().slices;
    let slices = old.keys().copied().collect();
    assert_eq!(old.len(), 1);
    assert_eq!(old[&slice(1)].rows, 3);
    let never = CancellationToken::new();
    let report = prune(&world.lake, &slices, &never, &|| {}).await.unwrap();
    assert_eq!(report.outcome, RunOutcome::Committed);
    assert!(!world.holds(&TableForm::Plain.new_path(slice(1))).await);
    let old = find_old(&world.lake, day(2)).await.unwrap().slices;
    assert!(old.is_empty());
    let again = world.run(2, source(&[3, 2])).await;
    assert_eq!((again.plan.due.len(), again.plan.up_to_date), (0, 2));
}

/// Where the file of a day lies by its ledger entry.
async fn named(world: &World, day: i8) -> Option<Path> {
    let entry = world.lake.entry(slice(day)).await.entry;
    entry.file().map(PublishedFile::location)
}

#[tokio::test(start_paused = true)]
async fn a_table_whose_files_have_unique_names_is_planned_verified_repaired_and_pruned() {
    let world = World::filled_as(TableForm::Immutable, &[3, 2]).await;
    let first = named(&world, 1).await.unwrap();
    assert_ne!(first, TableForm::Plain.new_path(slice(1)));
    let again = world.run(2, source(&[3, 2])).await;
    assert_eq!((again.plan.due.len(), again.plan.up_to_date), (0, 2));
    assert_eq!(again.plan.foreign, []);

    // A crashed run left a file beside the current one, and another file is gone.
    let orphan = TableForm::Immutable.new_path(slice(1));
    world.put(&orphan, "no Parquet").await;
    let gone = named(&world, 2).await.unwrap();
    world.delete(&gone).await;
    let (selection, source) = (Selection::default(), source(&[3, 2]));
    let verification = Verification {
        ask_source: false,
        ..verification(&world, &selection, Some(&source))
    };
    let mut verified = verification.check_in(&world.lake, &()).await.unwrap();
    let findings = verified.found.findings.iter();
    let findings: Vec<(Fault, &str)> = findings
        .map(|finding| (finding.fault, &*finding.path))
        .collect();
    let expected = [
        (Fault::MissingFile, gone.as_ref()),
        (Fault::Foreign, orphan.as_ref()),
    ];
    assert!(
        expected.iter().all(|it| findings.contains(it)),
        "{findings:?}"
    );
    assert_eq!(findings.len(), 2, "{findings:?}");
    let never = CancellationToken::new();
    let repair = verification.repair_in(&world.lake, &mut verified, Arc::new(()), never);
    repair.await.unwrap();
    let repair = verified.repair.as_ref().unwrap();
    assert_eq!(repair.removed, [orphan.to_string()]);
    assert!(repair.remaining.is_empty(), "{repair:?}");
    assert!(!world.holds(&orphan).await && world.holds(&first).await);
    let second = named(&world, 2).await.unwrap();
    assert_ne!(second, gone, "no name is used twice");
    assert!(world.holds(&second).await);

    let old = find_old(&world.lake, day(2)).await.unwrap().slices;
    let slices = old.keys().copied().collect();
    let never = CancellationToken::new();
    prune(&world.lake, &slices, &never, &|| {}).await.unwrap();
    assert!(!world.holds(&first).await);
    let old = find_old(&world.lake, day(2)).await.unwrap().slices;
    assert!(old.is_empty());
}
