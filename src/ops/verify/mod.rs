//! Compares a lake with its ledger: reads every published file again, and repairs differences.
//!
//! [`Verification`] is the entry: [`check`](Verification::check) and
//! [`repair`](Verification::repair).

mod check;
mod content;
mod counts;
mod logs;
mod repair;
mod strays;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use object_store::path::Path;
use serde::Serialize;

use super::days::DayRange;
use super::{Error, Observer, open};
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::slice::{Direction, Slice};
use crate::config::Config;
use crate::lake::Lake;
use crate::lake::ledger::Reason;
use crate::lake::report::Remark;
use crate::source::Source;
use crate::store::layout;
pub use check::{slices, verify_slices};
pub use content::{Content, read_back};
pub use counts::{SourceCheck, commits, compare_total};
pub use repair::Repair;
pub use strays::{find_strays, is_last_copy};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The ledger records a file that does not exist.
    MissingFile,
    /// The file is truncated, unreadable, or differs from its ledger entry.
    DamagedFile,
    /// The slice has a file, although its ledger entry records none or does not exist.
    UnexpectedFile,
    /// The ledger entry cannot be relied on.
    DamagedLedger,
    /// A later version of this program wrote the ledger entry.
    NewerLedger,
    /// The file system denies reading the ledger entry.
    UnreadableLedger,
    /// A run crashed while it published the slice.
    Interrupted,
    /// The last attempt at the slice failed: the lake keeps its earlier content, or has none.
    Failed,
    /// The rejects file differs from the ledger entry.
    Rejects,
    /// More records of the slice were rejected than the current configuration tolerates.
    TooManyRejects,
    /// The provider's count has changed since the slice was fetched.
    ControlTotal,
    /// The file belongs to no slice.
    Foreign,
    /// A leftover of a crashed run.
    Leftover,
    /// An erasure is incomplete.
    Unfinished,
    /// The lake is being converted, or the conversion was interrupted.
    Converting,
    /// The log of a table format differs from the ledger.
    TableLog,
    /// The log of a table format cannot be read, so nothing can be committed to it.
    DamagedLog,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::MissingFile => "missing",
            Self::DamagedFile => "damaged",
            Self::UnexpectedFile => "unexpected",
            Self::DamagedLedger => "ledger",
            Self::NewerLedger => "newer",
            Self::UnreadableLedger => "unreadable",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Rejects | Self::TooManyRejects => "rejects",
            Self::ControlTotal => "count",
            Self::Foreign => "foreign",
            Self::Leftover => "leftover",
            Self::Unfinished => "unfinished",
            Self::Converting => "converting",
            Self::TableLog | Self::DamagedLog => "log",
        })
    }
}

/// A difference between lake and ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its kind.
    pub fault: Fault,
    /// The slice concerned; `None` for files that belong to no slice.
    pub slice: Option<Slice>,
    /// The file concerned, relative to the lake.
    pub path: String,
    /// What is wrong, for people.
    pub problem: String,
    /// Why the last attempt failed, if something besides fetching again helps.
    #[serde(skip)]
    pub reason: Option<Reason>,
}

/// How a finding is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Fetch the slice again.
    Refetch(Slice),
    /// Remove the file.
    RemoveFile,
    /// Commit the difference to the logs.
    SyncLogs,
    /// Leave it to a person.
    Manual,
}

impl Finding {
    fn new(fault: Fault, slice: Slice, path: &Path, problem: impl Into<String>) -> Self {
        Self {
            fault,
            slice: Some(slice),
            path: path.to_string(),
            problem: problem.into(),
            reason: None,
        }
    }

    fn stray(fault: Fault, path: &Path, problem: &str) -> Self {
        Self {
            fault,
            slice: None,
            path: path.to_string(),
            problem: problem.to_owned(),
            reason: None,
        }
    }

    /// How it is repaired.
    pub fn remedy(&self) -> Remedy {
        match (self.fault, self.slice) {
            (
                Fault::NewerLedger
                | Fault::UnreadableLedger
                | Fault::Unfinished
                | Fault::Converting
                | Fault::DamagedLog,
                _,
            ) => Remedy::Manual,
            (Fault::TableLog, _) => Remedy::SyncLogs,
            (_, Some(slice)) => Remedy::Refetch(slice),
            // It may be a backup.
            (_, None) if self.path.starts_with(layout::LEDGER) => Remedy::Manual,
            (_, None) => Remedy::RemoveFile,
        }
    }
}

/// What a look at the lake found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Slices verified.
    pub slices: u64,
    /// Rows read.
    pub rows: u64,
    /// Bytes of the table's files that were read.
    pub bytes: u64,
    /// Records that came from the provider, according to the ledger.
    pub records: u64,
    /// How many of them were rejected, so that they are not in the table.
    pub rejected: u64,
    /// Slices with a file, by the version of their columns.
    pub schema_versions: BTreeMap<u32, u64>,
    /// Slices accepted with a count mismatch, and closed slices without a comparison of counts.
    pub unproven: BTreeSet<Slice>,
    /// Slices whose count matches the provider's only with duplicates: calls may be missing.
    pub with_duplicates: BTreeSet<Slice>,
    /// Slices that were not judged, because another run kept publishing them.
    pub in_progress: BTreeSet<Slice>,
    /// The findings by slice; those without a slice come last.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// The slices that a new fetch repairs.
    pub fn to_fetch(&self) -> BTreeSet<Slice> {
        let slices = self.findings.iter().filter_map(|finding| {
            if let Remedy::Refetch(slice) = finding.remedy() {
                Some(slice)
            } else {
                None
            }
        });
        slices.collect()
    }
}

/// The slices to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Their directions.
    pub directions: Vec<Direction>,
    /// Their days.
    pub days: RangeInclusive<Date>,
}

impl Default for Scope {
    /// Everything.
    fn default() -> Self {
        Self {
            directions: Direction::ALL.to_vec(),
            days: Date::MIN..=Date::MAX,
        }
    }
}

impl Scope {
    fn holds(&self, slice: Slice) -> bool {
        self.directions.contains(&slice.direction) && slice.period.touches(&self.days)
    }
}

/// A verification to be done.
#[derive(Clone, Debug)]
pub struct Verification<'a> {
    /// Names the lake, its source, its first day and the tolerated rejects.
    pub config: &'a Config,
    /// The days and directions to verify; by default all of the lake.
    pub range: DayRange,
    /// Where slices are fetched again and counts are asked. Without it, the lake may be one of
    /// another account or filter.
    pub source: Option<&'a Arc<dyn Source>>,
    /// Whether to ask the provider for its counts again.
    pub ask_source: bool,
    /// The current time: later days have not ended.
    pub now: Timestamp,
}

/// The result of a verification.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// The lake compared with its ledger.
    #[serde(flatten)]
    pub found: VerifyReport,
    /// Slices without file and ledger entry, of the selected days, or from `window.start` to
    /// yesterday.
    pub not_fetched: BTreeSet<Slice>,
    /// Whether such slices were looked for: the first day of the lake is known.
    pub looked_for_missing: bool,
    /// `None` if the provider was not asked.
    pub source: Option<SourceCheck>,
    /// `None` if nothing was repaired.
    pub repair: Option<Repair>,
    /// A remark if the configured source is not that of the lake's first run. It concerns repairs
    /// and comparisons of counts.
    #[serde(skip)]
    pub other_source: Option<Remark>,
}

impl Verified {
    /// Whether the lake holds every selected slice, as the ledger records it, after any repair.
    pub fn is_proven(&self) -> bool {
        let (remaining, in_progress) = match &self.repair {
            Some(repair) => (&repair.remaining, &repair.in_progress),
            None => (&self.found.findings, &self.found.in_progress),
        };
        remaining.is_empty() && self.not_fetched.is_empty() && in_progress.is_empty()
    }
}

impl<'a> Verification<'a> {
    /// Compares the whole lake of `config` with its ledger.
    pub fn of(config: &'a Config) -> Self {
        Self {
            config,
            range: DayRange::default(),
            source: None,
            ask_source: false,
            now: Timestamp::now(),
        }
    }

    /// Reads the lake and compares it with its ledger, and with the provider's counts on request.
    ///
    /// # Errors
    /// [`Error`] if there is no lake, or it cannot be read at all. A faulty slice is a finding.
    pub async fn check(&self, observer: &dyn Observer) -> Result<Verified, Error> {
        let lake = open::existing_lake(self.config, self.source.is_some()).await?;
        self.check_in(&lake, observer).await
    }

    /// The same for an open lake.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub async fn check_in(&self, lake: &Lake, observer: &dyn Observer) -> Result<Verified, Error> {
        let scope = self.scope()?;
        let slices = slices(lake, &scope).await?;
        observer.slices_began(slices.len());
        let quality = &self.config.quality;
        let mut found =
            verify_slices(lake, &slices, quality, &|| observer.slice_looked_at()).await?;
        let mut asked = None;
        if let Some(source) = self.source.filter(|_| self.ask_source) {
            let config = &self.config.source;
            let (answers, findings) =
                counts::ask_provider(lake, source.as_ref(), config, &slices, &found).await?;
            found.findings.extend(findings);
            found.findings.sort_by_key(|finding| finding.slice);
            asked = Some(answers);
        }
        found.findings.extend(find_strays(lake, &scope).await?);
        let mut missing = None;
        // The end of a conversion brings the logs up to date, and its months are still days.
        if lake.identity.converting.is_none() {
            let (in_logs, unlogged) = logs::compare_logs(lake).await?;
            found.findings.extend(in_logs);
            found.in_progress.extend(unlogged);
            missing = self.not_fetched(lake.identity.period_unit(), &slices);
        }
        observer.ended();
        Ok(Verified {
            looked_for_missing: missing.is_some(),
            not_fetched: missing.unwrap_or_default(),
            found,
            source: asked,
            repair: None,
            other_source: lake.source_remark(self.config.source.url.as_str()),
        })
    }

    fn scope(&self) -> Result<Scope, Error> {
        Ok(Scope {
            days: self.range.days_of_all(&self.config.window, self.now)?,
            directions: self.range.directions(&Direction::ALL),
        })
    }

    /// The expected slices that are not among those `found`. `None` if neither configuration nor
    /// selection has the first day of the lake.
    fn not_fetched(&self, unit: PeriodUnit, found: &BTreeSet<Slice>) -> Option<BTreeSet<Slice>> {
        let directions = self.range.directions(&self.config.source.directions);
        let days = self.range.days(&self.config.window, self.now).ok()?;
        let periods = Period::touching(days, unit);
        let slices = periods.flat_map(|period| {
            let directions = directions.iter();
            directions.map(move |&direction| Slice::new(period, direction))
        });
        Some(slices.filter(|slice| !found.contains(slice)).collect())
    }
}
