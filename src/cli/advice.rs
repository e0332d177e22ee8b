//! What to do about what went wrong, in commands and flags. The library says what it was.

use crate::cdr::slice::Slice;
use crate::lake::ledger::Reason;
use crate::lake::report::{RunReport, SliceReport};
use crate::ops::run::Stop;
use crate::ops::status::LakeStatus;
use crate::ops::verify::{Finding, Verified};
use crate::source::Source;
use crate::store::layout::failed_rejects_file;
use crate::store::location::Location;

/// What to do about a slice that failed for `reason`, in the lake at `root`.
fn advice(reason: Reason, slice: Slice, root: &Location) -> String {
    let Slice { day, direction } = slice;
    let advice = match reason {
        Reason::TooManyRejects => {
            let path = root.of(&failed_rejects_file(slice));
            return format!("`cdrlake rejects --lake {root}` shows them; they lie in {path}");
        }
        Reason::Shrank => {
            return format!(
                "If the provider did remove calls, run: cdrlake run --from {day} --to {day} --direction {direction} --refresh --allow-shrink, with the other flags of this run"
            );
        }
        Reason::Mismatch => "Set quality.reconcile to \"warn\" to take the slice as it is",
        Reason::ShortAnswer => {
            "If only the export is short, --via pages reads the list instead. Set quality.reconcile to \"warn\" to take the slice as it is"
        }
        Reason::OtherExport => {
            "The export does not hold the day as the provider has it now (unless it is of the other direction, or of another account): `cdrlake run` fetches it. Set quality.reconcile to \"warn\" to take it from the export as it is"
        }
        Reason::UnprovenExport => {
            "Set quality.reconcile to \"warn\" to take it from the export as it is"
        }
        Reason::ShorterExport => {
            "`cdrlake run` fetches the day from the provider; --allow-shrink takes the export's"
        }
    };
    advice.to_owned()
}

/// Adds to a problem what to do about it.
fn advise(problem: &mut String, reason: Option<Reason>, slice: Slice, root: &Location) {
    if let Some(reason) = reason {
        problem.push_str(". ");
        problem.push_str(&advice(reason, slice, root));
    }
}

/// Adds to a run's report what to do about slices that failed.
pub(super) fn on_run(report: &mut RunReport, root: &Location) {
    for slice in &mut report.slices {
        let (of, reason) = (slice.slice(), slice.reason);
        if let Some(error) = &mut slice.error {
            advise(error, reason, of, root);
        }
    }
}

/// Why a slice failed and what to do about it, where there is something.
pub(super) fn on_slice(report: &SliceReport, root: &Location) -> Option<String> {
    let mut error = report.error.clone()?;
    report.reason?;
    advise(&mut error, report.reason, report.slice(), root);
    Some(error)
}

/// The same of a lake's status.
pub(super) fn on_status(status: &mut LakeStatus, root: &Location) {
    for day in &mut status.days {
        for slice in &mut day.slices {
            let of = Slice {
                day: day.day,
                direction: slice.direction,
            };
            if let Some(problem) = &mut slice.problem {
                advise(problem, slice.reason, of, root);
            }
        }
    }
}

/// The same of what a verification found, and what its repair left.
pub(super) fn on_findings(verified: &mut Verified, root: &Location) {
    let mut findings: Vec<&mut Finding> = verified.found.findings.iter_mut().collect();
    if let Some(repair) = &mut verified.repair {
        findings.extend(&mut repair.remaining);
        if let Some(report) = &mut repair.run {
            on_run(report, root);
        }
    }
    for finding in findings {
        if let Some(slice) = finding.slice {
            advise(&mut finding.problem, finding.reason, slice, root);
        }
    }
}

/// Adds, where a load ended because the provider could not be asked for `counts`, how to do without.
pub(super) fn on_counts(stopped_by: &mut Option<Stop>, counts: Option<&dyn Source>) {
    if let Some(Stop::NoSource(why)) = stopped_by
        && counts.is_some_and(Source::is_cut_off)
    {
        why.push_str(". --reconcile off loads the export without asking for counts");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::report::SliceOutcome;

    #[test]
    fn advice_names_the_lake_and_only_what_has_a_remedy_gets_one() {
        let root: Location = "./lake".parse().unwrap();
        let slice = "placed 2026-10-01".parse().unwrap();
        let failed = |reason| {
            let report = SliceReport {
                error: Some("2 of 3 records were rejected".to_owned()),
                reason,
                ..SliceReport::new(slice, SliceOutcome::Failed)
            };
            on_slice(&report, &root)
        };
        let path = root.of(&failed_rejects_file(slice));
        assert_eq!(
            failed(Some(Reason::TooManyRejects)),
            Some(format!(
                "2 of 3 records were rejected. `cdrlake rejects --lake ./lake` shows them; they lie in {path}"
            ))
        );
        assert_eq!(failed(None), None);
    }
}
