//! What lies in the lake and belongs to no slice.

use object_store::path::Path;

use super::check::{examine, look};
use super::{Fault, Finding, Scope};
use crate::cdr::slice::Slice;
use crate::lake::ledger::State;
use crate::lake::{Condition, Lake, LakeError, LedgerEntry, TableFiles};
use crate::ops::thread::on_thread;
use crate::slice_file::writer::slice_named_in;
use crate::store::layout;

/// What lies in the lake and belongs to no slice, or to a run that died; within a `scope` that leaves
/// something out, only what can be said to belong there, and everything that a reader of its days
/// would take for calls, whatever the direction.
///
/// # Errors
/// [`LakeError`] if the lake cannot be listed.
pub async fn find_strays(lake: &Lake, scope: &Scope) -> Result<Vec<Finding>, LakeError> {
    // Before the ledger is read: rejects that a run stores meanwhile are announced there first.
    let rejects = lake.rejects().await?;
    let everything = Scope::default();
    let ledger = lake
        .entries(&everything.directions, everything.days)
        .await?;
    let TableFiles {
        of_slices: table,
        foreign,
    } = lake.table().files().await?;
    let foreign_entries = lake.foreign_entries().await?;
    let mut strays: Vec<Finding> = foreign
        .iter()
        .chain(&foreign_entries)
        .map(|path| Finding::stray(Fault::Foreign, path, "it belongs to no slice"))
        .collect();
    for path in rejects.into_keys() {
        let Some((slice, of_failure)) = layout::rejects_slice(&path) else {
            let problem = "it belongs to no slice";
            strays.push(Finding::stray(Fault::Foreign, &path, problem));
            continue;
        };
        let is_still_so = async || {
            // A run that commits meanwhile changes both.
            let known = ledger
                .get(&slice)
                .cloned()
                .unwrap_or_else(|| LedgerEntry::absent(slice));
            lake.entry(slice).await.is_same_as(&known)
                && matches!(lake.local_copy(&path).await, Ok(Some(_)))
        };
        match ledger.get(&slice) {
            Some(found) if may_have_rejects(found, of_failure) => {}
            _ if !is_still_so().await => {}
            Some(_) => {
                let problem = "the slice has no such rejects";
                strays.push(Finding::stray(Fault::Foreign, &path, problem));
            }
            // With its rows still there, the slice is a finding already.
            None if table.contains_key(&slice) => {}
            None => {
                let problem = "there is no ledger entry for it";
                strays.push(Finding::new(Fault::Rejects, slice, &path, problem));
            }
        }
    }
    for path in lake.find_leftovers().await? {
        let problem = "a run that died left it on the way into the lake";
        strays.push(Finding::stray(Fault::Leftover, &path, problem));
    }
    let list = lake.suppression().await?;
    if let Some(problem) = list.and_then(|list| list.describe_unfinished()) {
        strays.push(Finding::stray(
            Fault::Unfinished,
            &layout::suppression(),
            &problem,
        ));
    }
    let is_everything = *scope == Scope::default();
    strays.retain(|stray| match stray.slice {
        Some(slice) => scope.holds(slice),
        // Whatever is looked at may hold such a number.
        None if stray.fault == Fault::Unfinished => true,
        None => is_everything || is_read_with(&stray.path, scope),
    });
    let elsewhere = table
        .into_keys()
        .filter(|slice| !scope.holds(*slice) && scope.days.contains(&slice.day));
    for slice in elsewhere {
        let should_have_none = ledger.get(&slice).is_none_or(|found| {
            let committed = found.entry.committed.as_ref();
            found.condition == Condition::Sound
                && found.entry.pending.is_none()
                && committed.is_none_or(|commit| commit.file.is_none())
        });
        if should_have_none {
            let examined = examine(lake, slice).await?;
            let is_of_table = |finding: &Finding| is_read_with(&finding.path, scope);
            let findings = examined.findings.into_iter().filter(is_of_table);
            strays.extend(findings.filter(|_| !examined.in_progress));
        }
    }
    Ok(strays)
}

/// Whether who reads the days of `scope` reads the file at `path`, too: one that lies in the table
/// and in none of its partitions is read with every day.
fn is_read_with(path: &str, scope: &Scope) -> bool {
    path.starts_with(layout::TABLE)
        && layout::partition_day(&Path::from(path)).is_none_or(|day| scope.days.contains(&day))
}

/// Whether the file at `path` holds rows of a slice that the lake does not hold, whole and sound, where
/// they belong: somebody may have moved it.
///
/// # Errors
/// [`LakeError`] if the lake cannot be read.
pub async fn is_last_copy(lake: &Lake, path: &Path) -> Result<bool, LakeError> {
    let Some(copy) = lake.local_copy(path).await? else {
        return Ok(false);
    };
    let named = on_thread(move || slice_named_in(&copy.path))
        .await
        .flatten();
    let Some(slice) = named.and_then(|name| name.parse::<Slice>().ok()) else {
        return Ok(false);
    };
    let found = lake.entry(slice).await;
    let committed = found.entry.committed.as_ref();
    if committed.is_some_and(|commit| commit.state == State::Pruned) {
        return Ok(false);
    }
    let examined = look(lake, slice, &found).await?;
    Ok(found.entry.committed.is_none() || !examined.findings.is_empty())
}

/// Whether the rejects of a slice, or of an attempt at it that failed, may be there by its entry.
fn may_have_rejects(found: &LedgerEntry, of_failure: bool) -> bool {
    let entry = &found.entry;
    match &entry.committed {
        // What the entry said, or will say, is not known.
        _ if found.condition != Condition::Sound || entry.pending.is_some() => true,
        _ if of_failure => entry.failed.is_some(),
        Some(commit) => commit.counts.rejected > 0 && commit.state != State::Pruned,
        None => true,
    }
}
