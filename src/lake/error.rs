//! What goes wrong in a lake.

use object_store::path::Path;

use super::identity::FORMAT;
use crate::cdr::slice::Slice;
use crate::retry::{Fate, StopCause};
use crate::store::StoreError;

/// The lake cannot be used, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LakeError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of ours is not as we write it.
    #[error(
        "{path} cannot be understood: {problem}. Restore it from a backup, or from another lake of the same configuration"
    )]
    Damaged {
        /// Which file.
        path: Path,
        /// What is wrong with it.
        problem: String,
    },
    /// A later version of this program wrote the lake.
    #[error("{path} has format {found}; this version of cdrlake knows {FORMAT}. Use a newer one")]
    NewerFormat {
        /// Which file.
        path: Path,
        /// Its format.
        found: u32,
    },
    /// The configuration describes another lake.
    #[error(
        "{key} is {wanted}, but this lake was made with {existing}: mixing them would make a lake that is neither. Set {key} back, or choose a new lake.url; if nothing is in this one yet, remove its _cdrlake/lake.json"
    )]
    OtherLake {
        /// The key that differs.
        key: String,
        /// What the lake has.
        existing: String,
        /// What the configuration has.
        wanted: String,
    },
    /// The numbers that were erased are known by another key.
    #[error(
        "the lake leaves out the calls of numbers that were erased ({path}), which it knows by the key with the id {existing}, and {}. Set privacy.key to that key",
        match found { Some(id) => format!("privacy.key has the id {id}"), None => "no key is known here".to_owned() }
    )]
    OtherKey {
        /// The list.
        path: Path,
        /// Id of its key.
        existing: String,
        /// Id of the key that there is.
        found: Option<String>,
    },
    /// Somebody else is at work where nobody may be.
    #[error("{0}")]
    NotAlone(String),
    /// A number was erased since the list of erased numbers was read.
    #[error("a number was erased while the slice was under way: it has to be fetched without it")]
    ErasedMeanwhile,
    /// There are files where the table should be, but no lake.
    #[error(
        "lake.url holds a directory cdrs with files, but no _cdrlake/lake.json, so it is not a lake. Choose another place"
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
    #[error("{path} cannot be read: {problem}. Mend that, or move it away")]
    Unreadable {
        /// The entry.
        path: Path,
        /// Why not.
        problem: String,
    },
    /// Others change a file all the time.
    #[error("others changed {path} at the same time, again and again. Try again")]
    Contended {
        /// Which file.
        path: Path,
    },
    /// What a run wrote now might never be told to a warehouse, for nobody knows that it is under
    /// way.
    #[error(
        "run {run} could not mark itself as under way, for something else holds its lease. Run again"
    )]
    Unmarked {
        /// The run.
        run: String,
    },
    /// Another run took over the slice.
    #[error("another run took over {path} in the meantime: the table was left to it")]
    LostLease {
        /// The slice's ledger entry or lease.
        path: Path,
    },
}

impl LakeError {
    /// What becomes of a slice and its run because of it.
    pub fn fate(&self) -> Fate {
        match self {
            Self::Store(error) => error.fate(),
            // The table may have changed: that is said, whatever stood in the way.
            Self::NotRecorded { source, .. } => match source.fate() {
                Fate::Retry(_) => Fate::FailSlice,
                fate => fate,
            },
            // Whatever the run would write.
            Self::NotAlone(_) | Self::Unmarked { .. } => Fate::StopRun(StopCause::Lake),
            // The slice is to be begun anew.
            Self::ErasedMeanwhile | Self::LostLease { .. } => Fate::RETRY,
            _ => Fate::FailSlice,
        }
    }

    /// Whether the store does not permit what was tried, on this object.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Store(error) => error.is_denied(),
            Self::NotRecorded { source, .. } => source.is_denied(),
            _ => false,
        }
    }
}
