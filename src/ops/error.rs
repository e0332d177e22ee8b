//! Why something that a user asked for was not begun, or did not come to its end.

use std::io;
use std::path::PathBuf;

use super::removal::erase::Search;
use crate::cdr::slice::Slice;
use crate::config::ConfigError;
use crate::lake::LakeError;
use crate::source::SourceError;
use crate::source::files::{ExportError, Undated};
use crate::store::StoreError;
use crate::store::location::Location;
use crate::warehouse::DdlError;

/// There is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The selection or the configuration asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The lake cannot be read or written.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The configuration names a place without a lake.
    #[error("there is no lake at {place}")]
    NoLake {
        /// `lake.url`.
        place: Location,
    },
    /// The lake would lie in the table of another one, which would read it as its own.
    #[error("lake.url is {place}, inside the lake {outer}. Choose another place")]
    WithinALake {
        /// `lake.url`.
        place: Location,
        /// Where the other lake lies.
        outer: String,
    },
    /// A link that leads nowhere is no place for a lake, and looks like one that is not there yet.
    #[error(
        "lake.url is {}, but {} is a link to {}, which is not there. Make or mount that, or correct the link",
        root.display(),
        link.display(),
        target.display()
    )]
    DanglingLink {
        /// `lake.url`.
        root: PathBuf,
        /// The link, which is it or lies above it.
        link: PathBuf,
        /// What it names.
        target: PathBuf,
    },
    /// An export cannot be read.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// An export has records that cannot be assigned to a day. Nothing was loaded.
    #[error("{}: {}", undated.counted(), undated.listed())]
    Undated {
        /// How many, and the first of them.
        undated: Undated,
    },
    /// A warehouse takes no such table.
    #[error(transparent)]
    Warehouse(#[from] DdlError),
    /// The source does not answer, or refuses.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Another check of the lake writes where this one would.
    #[error("another check of this lake is under way. Try again")]
    CheckUnderWay,
    /// Two runs could harm each other.
    #[error(
        "the file system does not honour conditional writes, so two runs could harm each other"
    )]
    IgnoresConditions,
    /// What the lake holds of a slice is not certain.
    #[error(
        "the ledger does not say for certain what the lake holds of {slice}: a run died over it, or its entry is damaged. `cdrlake run` mends it"
    )]
    Uncertain {
        /// Which one.
        slice: Slice,
    },
    /// The demo's lake does not hold what was sent.
    #[error("{slice}: {problem}. Please report this: it is a bug in cdrlake")]
    NotProven {
        /// Which slice.
        slice: Slice,
        /// What is wrong with it.
        problem: String,
    },
    /// The lake holds nothing of a number, as far as could be seen.
    #[error("the number was not found in {} slices", found.slices.len())]
    NumberNotFound {
        /// What was looked at.
        found: Search,
    },
    /// Files on their way into a bucket have no place on this machine.
    #[error(transparent)]
    Spool(StoreError),
    /// The file system does not answer.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Lake(error.into())
    }
}
