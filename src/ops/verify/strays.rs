//! Finds files in the lake that belong to no slice.

use object_store::path::Path;

use super::check::{examine, look};
use super::{Fault, Finding, Scope};
use crate::cdr::slice::Slice;
use crate::lake::ledger::State;
use crate::lake::{Condition, Lake, LakeError, LedgerEntry};
use crate::ops::thread::on_thread;
use crate::slice_file::writer::slice_named_in;
use crate::store::layout;

/// Finds files that belong to no slice, and leftovers of crashed runs. A `scope` that is not the
/// whole lake limits them to its slices, and to files that queries over its days would read,
/// whatever their direction.
///
/// # Errors
/// [`LakeError`] if the lake cannot be listed.
pub async fn find_strays(lake: &Lake, scope: &Scope) -> Result<Vec<Finding>, LakeError> {
    // Listed before the ledger is read: a run announces rejects there before it stores them.
    let rejects = lake.rejects().await?;
    let everything = Scope::default();
    let ledger = lake
        .entries(&everything.directions, everything.days)
        .await?;
    let table = lake.table().files().await?;
    let foreign_entries = lake.foreign_entries().await?;
    let mut strays: Vec<Finding> = table
        .foreign
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
            // A run that commits meanwhile changes entry and rejects.
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
                let problem = "its slice has no such rejects";
                strays.push(Finding::stray(Fault::Foreign, &path, problem));
            }
            // The file of the slice is a finding already.
            None if table.has(slice) => {}
            None => {
                let problem = "its slice has no ledger entry";
                strays.push(Finding::new(Fault::Rejects, slice, &path, problem));
            }
        }
    }
    for path in lake.find_leftovers().await? {
        let problem = "a crashed run left it";
        strays.push(Finding::stray(Fault::Leftover, &path, problem));
    }
    let list = lake.suppression().await?;
    if let Some(unfinished) = list.and_then(|list| list.unfinished_remark()) {
        strays.push(Finding::stray(
            Fault::Unfinished,
            &layout::suppression(),
            &unfinished.text,
        ));
    }
    if let Some(unfinished) = lake.conversion_remark() {
        strays.push(Finding::stray(
            Fault::Converting,
            &layout::identity(),
            &unfinished.text,
        ));
    }
    let is_everything = *scope == Scope::default();
    strays.retain(|stray| match stray.slice {
        Some(slice) => scope.holds(slice),
        // Every slice may hold such a number, or be converted.
        None if matches!(stray.fault, Fault::Unfinished | Fault::Converting) => true,
        None => is_everything || is_read_with(&stray.path, scope),
    });
    let elsewhere = table
        .slices()
        .filter(|slice| !scope.holds(*slice) && slice.period.touches(&scope.days));
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

/// Whether a query over the days of `scope` reads the file at `path`. Every query reads the files
/// outside the table's partitions.
fn is_read_with(path: &str, scope: &Scope) -> bool {
    path.starts_with(layout::TABLE)
        && layout::partition_day(&Path::from(path)).is_none_or(|day| scope.days.contains(&day))
}

/// Whether the file at `path` is the last copy of a slice: it was moved, and the slice's own file
/// is missing or faulty.
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
    // A stray beside the slice's file does not damage the slice.
    let is_damaged = examined
        .findings
        .iter()
        .any(|finding| finding.slice.is_some());
    Ok(found.entry.committed.is_none() || is_damaged)
}

/// Whether the entry allows rejects of the slice, or of a failed attempt at it.
fn may_have_rejects(found: &LedgerEntry, of_failure: bool) -> bool {
    let entry = &found.entry;
    match &entry.committed {
        // The entry is uncertain or about to change.
        _ if found.condition != Condition::Sound || entry.pending.is_some() => true,
        _ if of_failure => entry.failed.is_some(),
        Some(commit) => commit.counts.rejected > 0 && commit.state != State::Pruned,
        None => true,
    }
}
