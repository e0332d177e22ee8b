//! Whether a lake is what its ledger says: reads every published file again, and repairs.
//!
//! [`Verification`] does all of it: it [checks](Verification::check) and
//! [repairs](Verification::repair).

mod check;
mod content;
mod counts;
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

use super::days::Selection;
use super::{Error, Observer, open};
use crate::cdr::slice::{Direction, Slice};
use crate::config::Config;
use crate::lake::Lake;
use crate::lake::ledger::Reason;
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
    /// The ledger speaks of a file that is not there.
    MissingFile,
    /// The file is cut, cannot be read, or holds something else than the ledger says.
    DamagedFile,
    /// The file belongs to a slice that should have none: by the ledger, or for want of an entry.
    UnexpectedFile,
    /// The ledger entry cannot be relied on.
    DamagedLedger,
    /// A later version of this program wrote the ledger entry.
    NewerLedger,
    /// The file system does not let the ledger entry be read.
    UnreadableLedger,
    /// A run died while it published.
    Interrupted,
    /// The last attempt at the slice failed: the lake has of it what it had before, or nothing.
    Failed,
    /// The rejects are not those that the ledger speaks of.
    Rejects,
    /// More records of the slice were rejected than the configuration tolerates now.
    TooManyRejects,
    /// The provider counts otherwise than when the slice was fetched.
    ControlTotal,
    /// The file belongs to no slice.
    Foreign,
    /// A dead run left it on the way into the lake.
    Leftover,
    /// An erasure did not come to its end.
    Unfinished,
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
        })
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub fault: Fault,
    /// Whose it is, if it is a slice's.
    pub slice: Option<Slice>,
    /// The file in question, below the lake.
    pub path: String,
    /// What is wrong with it, in words.
    pub problem: String,
    /// The kind of that, where there is something to do about it besides fetching again.
    #[serde(skip)]
    pub reason: Option<Reason>,
}

/// How a finding is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mend {
    /// Fetching the slice again.
    Fetch(Slice),
    /// Removing the file.
    Remove,
    /// Nothing that this program would dare.
    ByHand,
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

    /// What mends it.
    pub fn mend(&self) -> Mend {
        match (self.fault, self.slice) {
            (Fault::NewerLedger | Fault::UnreadableLedger | Fault::Unfinished, _) => Mend::ByHand,
            (_, Some(slice)) => Mend::Fetch(slice),
            // Somebody's backup, perhaps.
            (_, None) if self.path.starts_with(layout::LEDGER) => Mend::ByHand,
            (_, None) => Mend::Remove,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Slices looked at.
    pub slices: u64,
    /// Rows read.
    pub rows: u64,
    /// Bytes of the table's files that were read.
    pub bytes: u64,
    /// Records that came from the provider, by the ledger.
    pub records: u64,
    /// Those of them that were rejected and are therefore not in the table.
    pub rejected: u64,
    /// Slices with a file, by the version of its columns.
    pub schema_versions: BTreeMap<u32, u64>,
    /// Closed slices that were taken although the provider's count was another, or not compared.
    pub unproven: BTreeSet<Slice>,
    /// Slices whose count is the provider's only with records that came twice: calls may be
    /// missing.
    pub with_duplicates: BTreeSet<Slice>,
    /// Slices that another run was publishing all the time, and that could not be judged.
    pub in_progress: BTreeSet<Slice>,
    /// Everything that is not as it should be, by slice; what belongs to none at the end.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// The slices that fetching again would mend.
    pub fn to_fetch(&self) -> BTreeSet<Slice> {
        let slices = self.findings.iter().filter_map(|finding| {
            if let Mend::Fetch(slice) = finding.mend() {
                Some(slice)
            } else {
                None
            }
        });
        slices.collect()
    }
}

/// What is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Which directions.
    pub directions: Vec<Direction>,
    /// Which days.
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
        self.directions.contains(&slice.direction) && self.days.contains(&slice.day)
    }
}

/// What to verify, and by what.
#[derive(Clone, Debug)]
pub struct Verification<'a> {
    /// Where the lake lies, and what it should hold.
    pub config: &'a Config,
    /// Which directions and days; all that the lake has by default.
    pub selection: Selection,
    /// Who is asked for counts, and for slices again. Without it, it does not matter whose calls the
    /// lake holds.
    pub source: Option<&'a Arc<dyn Source>>,
    /// Whether the provider is asked for its counts again.
    pub ask_source: bool,
    /// Tells which days have ended.
    pub now: Timestamp,
}

/// What was found, and what was done about it.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// What the lake holds, against its ledger.
    #[serde(flatten)]
    pub found: VerifyReport,
    /// Slices of the days asked for, or of `window.start` to yesterday, that the lake has nothing
    /// of.
    pub not_fetched: BTreeSet<Slice>,
    /// Whether such slices were looked for: it is known where the lake begins.
    pub looked_for_missing: bool,
    /// `None` if the provider was not asked.
    pub source: Option<SourceCheck>,
    /// `None` if nothing was repaired.
    pub repair: Option<Repair>,
}

impl Verified {
    /// Whether everything that was asked for is there, as the ledger says, now.
    pub fn is_proven(&self) -> bool {
        let (remaining, in_progress) = match &self.repair {
            Some(repair) => (&repair.remaining, &repair.in_progress),
            None => (&self.found.findings, &self.found.in_progress),
        };
        remaining.is_empty() && self.not_fetched.is_empty() && in_progress.is_empty()
    }
}

impl<'a> Verification<'a> {
    /// All that the lake of `config` has, against its ledger.
    pub fn of(config: &'a Config) -> Self {
        Self {
            config,
            selection: Selection::default(),
            source: None,
            ask_source: false,
            now: Timestamp::now(),
        }
    }

    /// Reads the lake and compares it with its ledger, and with the provider's counts if asked for.
    ///
    /// # Errors
    /// [`Error`] if there is no lake, or it cannot be read at all. What is wrong with a slice is a
    /// finding.
    pub async fn check(&self, observer: &dyn Observer) -> Result<Verified, Error> {
        let lake = open::existing_lake(self.config, self.source.is_some()).await?;
        self.check_in(&lake, observer).await
    }

    /// The same, of a lake that is open already.
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
        observer.ended();
        let missing = self.not_fetched(&slices);
        Ok(Verified {
            looked_for_missing: missing.is_some(),
            not_fetched: missing.unwrap_or_default(),
            found,
            source: asked,
            repair: None,
        })
    }

    fn scope(&self) -> Result<Scope, Error> {
        Ok(Scope {
            days: self.selection.days_of_all(&self.config.window, self.now)?,
            directions: self.selection.directions(&Direction::ALL),
        })
    }

    /// The slices that should be in the lake, and of which it has nothing at all. Where neither the
    /// configuration nor the selection says when the lake begins, nothing is expected: `None`.
    fn not_fetched(&self, found: &BTreeSet<Slice>) -> Option<BTreeSet<Slice>> {
        let directions = self.selection.directions(&self.config.source.directions);
        let days = self.selection.days(&self.config.window, self.now).ok()?;
        let (first, last) = days.into_inner();
        let days = std::iter::successors(Some(first), |day| day.tomorrow().ok())
            .take_while(|day| *day <= last);
        let slices = days.flat_map(|day| {
            directions
                .iter()
                .map(move |&direction| Slice { day, direction })
        });
        Some(slices.filter(|slice| !found.contains(slice)).collect())
    }
}
