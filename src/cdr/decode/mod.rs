//! What one record means: a JSON object becomes a typed [`Record`], or is rejected with a reason.
//!
//! No I/O, no state between records. Nothing is coerced silently: a column holds the value exactly,
//! however it is written, or the nearest one, and `extra` the original text; or the record is rejected
//! whole.

mod fast;
mod field;
mod phone;
mod plain;
mod time;

use std::borrow::Cow;

pub use fast::Decoder;
pub(crate) use plain::call_time_us;
pub use plain::decode;
pub(crate) use plain::is_rounded;
pub(crate) use time::{LocalTimes, TimeError, parse_time_us};
pub(crate) use time::{is_local_time, is_time};

use super::amount::{Amount, AmountError};

/// Keys by which a record is told from what a server may wrap records in.
pub const RECORD_KEYS: [&[u8]; 8] = [
    b"date",
    b"uuid",
    b"call_id",
    b"from",
    b"to",
    b"charge",
    b"duration",
    b"disposition",
];

/// One call, as the columns of the lake hold it (without `direction` and `source_day`, which the
/// request decides). Borrows from the record's text where it can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// `call_id`, else its deprecated alias `uuid`.
    pub call_id: Option<Cow<'a, str>>,
    /// `parent_call_id`, else `parent_uuid`.
    pub parent_call_id: Option<Cow<'a, str>>,
    /// `date`, in microseconds since 1970-01-01T00:00:00Z.
    pub call_time_us: i64,
    /// `from`; a bare JSON number as its digits.
    pub from_number: Option<Cow<'a, str>>,
    /// `to`; a bare JSON number as its digits.
    pub to_number: Option<Cow<'a, str>>,
    /// `disposition`: an open set.
    pub disposition: Option<Cow<'a, str>>,
    /// `destination`.
    pub destination: Option<Cow<'a, str>>,
    /// `sip_trunk`.
    pub sip_trunk: Option<Cow<'a, str>>,
    /// `answered_by`.
    pub answered_by: Option<Cow<'a, str>>,
    /// `duration`, in seconds.
    pub duration_seconds: Option<i32>,
    /// `per_minute`.
    pub per_minute_usd: Option<Amount>,
    /// `charge`.
    pub charge_usd: Option<Amount>,
    /// `forward_fee`.
    pub forward_fee_usd: Option<Amount>,
    /// Every other field as one JSON object: keys sorted, no white space, scalars in their own
    /// text. Also a field with a column that cannot hold its value exactly. `None` if there is none.
    pub extra: Option<Cow<'a, str>>,
}

/// Why a record is rejected. Its text never quotes a value: reasons reach logs, values must not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The text is not valid UTF-8.
    #[error("not valid UTF-8 at byte {at} of the record: is it text in another encoding?")]
    InvalidUtf8 {
        /// Offset of the first wrong byte within the record.
        at: usize,
    },
    /// The text is not valid JSON.
    #[error("not valid JSON: {problem}")]
    Syntax {
        /// The JSON parser's words.
        problem: String,
    },
    /// JSON, but not an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// The object holds one key twice.
    #[error("{} stands twice in the record", key.map_or("a key".to_owned(), |key| format!("`{key}`")))]
    DuplicateKey {
        /// The key, if it is one this program knows.
        key: Option<&'static str>,
    },
    /// No `date`, or `null`.
    #[error("the record has no `date`")]
    NoDate,
    /// A `date` that names no instant.
    #[error("`date` is {0}")]
    Date(#[source] TimeError),
    /// A field of another JSON type than the API documents.
    #[error("`{field}` has the wrong type: expected {expected}")]
    WrongType {
        /// The record's field.
        field: &'static str,
        /// What would have been right.
        expected: &'static str,
    },
    /// What is no amount, or one that is too large for `DECIMAL(18, 9)`.
    #[error("`{field}` is {error}")]
    Amount {
        /// The record's field.
        field: &'static str,
        /// What is wrong with it.
        error: AmountError,
    },
    /// A phone number, or an id, of which only the first digits are certain.
    #[error(
        "`{field}` is in scientific notation, as spreadsheets write numbers: its last digits are lost. Export that column as text"
    )]
    LostDigits {
        /// The record's field.
        field: &'static str,
    },
    /// A string with an escape that stands for no character.
    #[error("`{field}` has an escape that stands for no character")]
    Escape {
        /// The record's field.
        field: &'static str,
    },
    /// JSON that is nested too deeply to be kept.
    #[error("nested deeper than {} levels", MAX_DEPTH)]
    TooDeep,
    /// A line of CSV that does not fit its header.
    #[error("the line has {found} columns, and the header {expected}")]
    Columns {
        /// Cells of the line.
        found: usize,
        /// Cells of the header.
        expected: usize,
    },
    /// The record is longer than `limits.max_record_bytes`.
    #[error(
        "the record has {length_bytes} bytes, more than limits.max_record_bytes = {limit_bytes}"
    )]
    TooLong {
        /// The record's length.
        length_bytes: u64,
        /// The limit.
        limit_bytes: usize,
    },
}

/// Deepest nesting of a record, its own braces included: what `serde_json`, and with it many
/// readers, parse at most.
pub(crate) const MAX_DEPTH: usize = 127;

impl Reason {
    /// A short name for grouping, stable across versions.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidUtf8 { .. } => "invalid_utf8",
            Self::Syntax { .. } => "syntax",
            Self::NotAnObject => "not_an_object",
            Self::DuplicateKey { .. } => "duplicate_key",
            Self::NoDate => "no_date",
            Self::Date(_) => "date",
            Self::WrongType { .. } => "wrong_type",
            Self::Amount { .. } => "amount",
            Self::LostDigits { .. } => "lost_digits",
            Self::Escape { .. } => "escape",
            Self::TooDeep => "too_deep",
            Self::Columns { .. } => "columns",
            Self::TooLong { .. } => "too_long",
        }
    }

    /// Whether the record's text is not JSON at all, or less of a line of CSV than its header says.
    /// Inside an array that makes everything behind it untrustworthy; on an unterminated last line it
    /// means that the stream was cut.
    pub fn is_syntax(&self) -> bool {
        match self {
            Self::InvalidUtf8 { .. } | Self::Syntax { .. } => true,
            Self::Columns { found, expected } => found < expected,
            _ => false,
        }
    }
}

/// Why a record did not decode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The record is bad: it goes to the rejects, and the stream goes on.
    Reject(Reason),
    /// Not a record at all: the server reports its own failure in the middle of the stream.
    ServerError {
        /// What the server said, as it stood in the object.
        message: String,
    },
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::Reject(reason)
    }
}
