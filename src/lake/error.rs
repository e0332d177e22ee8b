//! Errors of a lake.

use object_store::path::Path;

use super::identity::last_format;
use super::table_log::{CatalogError, TableFormat, TableLogError};
use crate::cdr::period::PeriodUnit;
use crate::cdr::slice::Slice;
use crate::retry::{Fate, RetryReason, StopCause};
use crate::store::StoreError;

/// An operation on a lake failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LakeError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the lake is damaged.
    #[error(
        "{path} is damaged: {problem}. Restore it from a backup, or copy it from a lake with the \
         same configuration"
    )]
    Damaged {
        /// Which file.
        path: Path,
        /// What is wrong with it.
        problem: String,
    },
    /// A later version of this program wrote the lake.
    #[error(
        "{path} has format {found}, but this version of cdrlake supports up to {}. Use a newer \
         version",
        last_format(path)
    )]
    NewerFormat {
        /// Which file.
        path: Path,
        /// Its format.
        found: u32,
    },
    /// The configuration does not match the lake's identity.
    #[error(
        "{key} is {wanted}, but this lake was created with {existing}. One lake cannot hold both. \
         Set {key} back, or choose a new lake.url. If this lake is still empty, remove its \
         _cdrlake/lake.json"
    )]
    OtherLake {
        /// The key that differs.
        key: String,
        /// What the lake has.
        existing: String,
        /// What the configuration has.
        wanted: String,
    },
    /// The log of a table format cannot be read or written.
    #[error("the log of {format} is not up to date")]
    TableLog {
        /// Which log.
        format: TableFormat,
        /// Why not.
        source: TableLogError,
    },
    /// The catalog of the Iceberg log cannot be read or written.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Engines know no address of the lake that is valid in every one of them.
    #[error(
        "lake.tables has \"iceberg\", but the lake is in Azure, whose addresses engines spell \
         differently, and this log contains absolute addresses. Use \"delta\""
    )]
    IcebergOnAzure,
    /// The lake has logs of other table formats.
    #[error(
        "lake.tables is {wanted}, but this lake has {existing}. Set lake.tables to {existing}, or \
         {}",
        match &**wanted {
            // There is no way back to a plain lake.
            "[]" => "fill a new lake",
            _ => "convert the lake",
        }
    )]
    OtherTables {
        /// What the lake has.
        existing: String,
        /// What the configuration has.
        wanted: String,
    },
    /// The lake's slices have another period.
    #[error(
        "window.slice is \"{wanted}\", but this lake has a file for each {existing}. Set \
         window.slice back, or {}",
        match existing {
            PeriodUnit::Day => "convert the lake",
            // There is no way back to days.
            PeriodUnit::Month => "fill a new lake",
        }
    )]
    OtherPeriod {
        /// The lake's.
        existing: PeriodUnit,
        /// The configuration's.
        wanted: PeriodUnit,
    },
    /// A conversion is under way, or was interrupted.
    #[error(
        "the lake is being converted to a file for each {to}, and nothing else may write to it \
         before that has ended"
    )]
    Converting {
        /// The period of the slices to come.
        to: PeriodUnit,
    },
    /// The lake has hashes of another key.
    #[error(
        "{path} has hashes of numbers, made with the key with ID {existing}, but {}. A new key \
         does not work. Set privacy.key to the place of the key with ID {existing}",
        match found { Some(id) => format!("the configured key has ID {id}"), None => "privacy.key \
            is not set".to_owned() }
    )]
    OtherKey {
        /// The list of erased numbers, or the lake's identity.
        path: Path,
        /// ID of its key.
        existing: String,
        /// ID of the configured key.
        found: Option<String>,
    },
    /// Another run works in a lake that allows one run at a time.
    #[error("{0}")]
    NotAlone(String),
    /// A number was erased since the list of erased numbers was read.
    #[error(
        "a number was erased while the slice was fetched. It must be fetched again without this \
         number"
    )]
    ErasedMeanwhile,
    /// The table's directory has files, but there is no lake.
    #[error(
        "lake.url contains files in cdrs, but no _cdrlake/lake.json: it is not a lake. Choose \
         another lake.url"
    )]
    NotALake,
    /// The table may have changed, but the ledger entry was not updated.
    #[error(
        "the file of {slice} may have changed, but its ledger entry was not updated. The next run \
         repairs this"
    )]
    NotRecorded {
        /// Whose file.
        slice: Slice,
        /// Why not.
        source: Box<LakeError>,
    },
    /// A ledger entry cannot be read.
    #[error("{path} cannot be read: {problem}. Make it readable, or move it out of the lake")]
    Unreadable {
        /// The entry.
        path: Path,
        /// Why not.
        problem: String,
    },
    /// Other processes keep changing a file.
    #[error("other processes changed {path} during each attempt to write it. Try again")]
    Contended {
        /// Which file.
        path: Path,
    },
    /// The run could not write its marker. Without it, other runs cannot detect this one.
    #[error(
        "run {run} could not write its marker, because another process holds its lease. Run again"
    )]
    Unmarked {
        /// The run.
        run: String,
    },
    /// Another run took over the slice.
    #[error("another run has taken over {path}. This run left the table unchanged")]
    LostLease {
        /// The slice's ledger entry or lease.
        path: Path,
    },
}

impl LakeError {
    /// What the error means for a slice and its run.
    pub fn fate(&self) -> Fate {
        match self {
            Self::Store(error) => error.fate(),
            // The table may have changed, so report it in any case.
            Self::NotRecorded { source, .. } => match source.fate() {
                Fate::Retry(_) => Fate::FailSlice,
                fate => fate,
            },
            // No slice can be written.
            Self::NotAlone(_) | Self::Unmarked { .. } => Fate::StopRun(StopCause::Lake),
            // The slice must start again.
            Self::ErasedMeanwhile | Self::LostLease { .. } => Fate::retry(RetryReason::Other),
            _ => Fate::FailSlice,
        }
    }

    /// Whether the store denied the operation on this object.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Store(error) => error.is_denied(),
            Self::NotRecorded { source, .. } => source.is_denied(),
            _ => false,
        }
    }
}
