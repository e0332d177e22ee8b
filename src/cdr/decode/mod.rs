//! Decodes one record: a JSON object becomes a typed [`Record`], or is rejected with a reason.
//!
//! No I/O, no state between records. No value is changed silently: a column holds the exact value,
//! or a rounded value whose original text is kept in `extra`; otherwise the whole record is
//! rejected.

mod fast;
mod field;
mod phone;
mod plain;
mod time;

use std::borrow::Cow;

pub use fast::{Decoder, TextClass};
pub use plain::decode;
pub(crate) use plain::is_rounded;
pub(crate) use time::{LocalTimes, TimeError, parse_time_us};
pub(crate) use time::{is_local_time, is_time};

use super::amount::{Amount, AmountError};

/// Keys that distinguish a record from a server's envelope around records.
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

/// One call in the columns of the lake, except `direction` and `source_day`, which the slice
/// determines. Borrows from the record's text where possible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// `call_id`, otherwise its deprecated alias `uuid`.
    pub call_id: Option<Cow<'a, str>>,
    /// `parent_call_id`, otherwise `parent_uuid`.
    pub parent_call_id: Option<Cow<'a, str>>,
    /// `date`, in microseconds since 1970-01-01T00:00:00Z.
    pub call_time_us: i64,
    /// `from`; of a JSON number, its digits.
    pub from_number: Option<Cow<'a, str>>,
    /// `to`; of a JSON number, its digits.
    pub to_number: Option<Cow<'a, str>>,
    /// `disposition`: new values are possible.
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
    /// Every other field as one JSON object: keys sorted, no white space, scalars unchanged.
    /// Includes the original text of rounded values. `None` if there is no such field.
    pub extra: Option<Cow<'a, str>>,
    /// Whether a value was rounded, and `extra` holds its original text.
    pub is_rounded: bool,
    /// Its day, in days since 1970-01-01, if its slice has several. The slice determines it, so the
    /// decoder leaves it out.
    pub source_day: Option<i32>,
}

/// Why a record is rejected. Its text never quotes a value, because reasons reach logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RejectReason {
    /// The text is not valid UTF-8.
    #[error("not valid UTF-8 at byte {at} of the record. Check the encoding of the file")]
    InvalidUtf8 {
        /// Offset of the first invalid byte within the record.
        at: usize,
    },
    /// The text is not valid JSON.
    #[error("not valid JSON: {problem}")]
    Syntax {
        /// The JSON parser's message.
        problem: String,
    },
    /// JSON, but not an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// The object has the same key twice.
    #[error("the record has {} twice", key.map_or("a key".to_owned(), |key| format!("`{key}`")))]
    DuplicateKey {
        /// The key, if it is that of a known field.
        key: Option<&'static str>,
    },
    /// No `date`, or `null`.
    #[error("the record has no `date`")]
    NoDate,
    /// A `date` that names no instant.
    #[error("`date` is {0}")]
    Date(#[source] TimeError),
    /// A field whose JSON type differs from the API's documentation.
    #[error("`{field}` has the wrong type: expected {expected}")]
    WrongType {
        /// The record's field.
        field: &'static str,
        /// The expected type.
        expected: &'static str,
    },
    /// Not an amount, or too large for `DECIMAL(18, 9)`.
    #[error("`{field}` is {error}")]
    Amount {
        /// The record's field.
        field: &'static str,
        /// What is wrong with it.
        error: AmountError,
    },
    /// A phone number or an id in scientific notation.
    #[error(
        "`{field}` is in scientific notation, as spreadsheets write long numbers: its last digits \
         are lost. Export that column as text"
    )]
    LostDigits {
        /// The record's field.
        field: &'static str,
    },
    /// A string with an invalid escape.
    #[error("`{field}` has an escape sequence that is not a character")]
    Escape {
        /// The record's field.
        field: &'static str,
    },
    /// JSON nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {} levels", MAX_DEPTH)]
    TooDeep,
    /// A line of CSV whose number of cells differs from the header's.
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

/// Deepest nesting of a record, including its own braces: the limit of `serde_json` and of many
/// other readers.
pub(crate) const MAX_DEPTH: usize = 127;

impl RejectReason {
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

    /// Whether the record's text is not JSON, or a line of CSV has fewer cells than its header. In
    /// an array, everything after it is unreliable. In an unterminated last line, the stream was
    /// truncated.
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
pub enum DecodeError {
    /// The record is invalid: it goes to the rejects, and reading continues.
    Reject(RejectReason),
    /// Not a record: the server reports its own failure in the middle of the stream.
    ServerError {
        /// The server's message, unchanged.
        message: String,
    },
}

impl From<RejectReason> for DecodeError {
    fn from(reason: RejectReason) -> Self {
        Self::Reject(reason)
    }
}
