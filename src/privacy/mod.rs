//! What becomes of phone numbers on their way into the lake: `[privacy]`.
//!
//! A pseudonym is a keyed hash ([HMAC](https://www.rfc-editor.org/rfc/rfc2104)-SHA-256) of a number's digits: the same
//! number has the same one in every file, and without the key nobody can try all numbers. It stays personal data, by the
//! law of Europe, for whoever has the key. The key never gets into the lake; its id does, which is a hash of it.

mod text;
mod token;

use std::borrow::Cow;
use std::collections::HashSet;

use crate::decode::Record;
pub use crate::numbers::TOKEN_PREFIX;
use crate::numbers::{
    MIN_DIGITS, pieces, replace_each_number, replace_numbers, user_part, without_escapes,
};
use text::{
    for_each_text, is_like_a_number, map_numbers, truncated_address, truncated_number,
    without_entities,
};
pub use token::{MIN_KEY_BYTES, PrivacyKey, Token};
use token::{is_token, tokens_in};

/// What becomes of numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They stay.
    #[default]
    Keep,
    /// Their last four digits are dropped.
    Truncate,
    /// A keyed hash stands for them.
    Pseudonymize,
}

impl Mode {
    /// As it stands in the configuration and in the lake.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Truncate => "truncate",
            Self::Pseudonymize => "pseudonymize",
        }
    }
}

/// What becomes of numbers, column by column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are columns")]
pub struct Modes {
    pub from_number: Mode,
    pub to_number: Mode,
    pub destination: Mode,
    pub extra: Mode,
}

impl Modes {
    /// The same for every column.
    pub fn all(mode: Mode) -> Self {
        Self {
            from_number: mode,
            to_number: mode,
            destination: mode,
            extra: mode,
        }
    }

    /// Each column with its mode.
    pub fn by_column(self) -> [(&'static str, Mode); 4] {
        [
            ("from_number", self.from_number),
            ("to_number", self.to_number),
            ("destination", self.destination),
            ("extra", self.extra),
        ]
    }

    /// Whether some column has this one.
    pub fn include(self, mode: Mode) -> bool {
        self.by_column().into_iter().any(|(_, found)| found == mode)
    }

    /// What becomes of numbers in a text that may be of any column: what hides most.
    fn strictest(self) -> Mode {
        [Mode::Pseudonymize, Mode::Truncate]
            .into_iter()
            .find(|&mode| self.include(mode))
            .unwrap_or_default()
    }
}

/// What becomes of numbers, with the key that it takes.
#[derive(Clone, Debug, Default)]
pub struct Privacy {
    modes: Modes,
    key: Option<PrivacyKey>,
    /// Numbers whose calls are left out.
    suppressed: HashSet<Token>,
}

impl Privacy {
    /// `modes` with the key for pseudonyms and erased numbers, where one is known.
    ///
    /// # Panics
    /// There is no key, and some column is pseudonymised.
    pub fn new(modes: Modes, key: Option<PrivacyKey>) -> Self {
        assert!(
            key.is_some() || !modes.include(Mode::Pseudonymize),
            "pseudonyms take a key"
        );
        Self {
            modes,
            key,
            suppressed: HashSet::new(),
        }
    }

    /// The same, leaving out the calls of numbers that were erased. `None` if there are some and no key is known.
    pub fn suppressing(&self, tokens: impl IntoIterator<Item = Token>) -> Option<Self> {
        let suppressed: HashSet<Token> = tokens.into_iter().collect();
        (suppressed.is_empty() || self.key.is_some()).then(|| Self {
            suppressed,
            ..self.clone()
        })
    }

    /// Whether the calls of a number are left out.
    pub fn knows_erased(&self, token: &Token) -> bool {
        self.suppressed.contains(token)
    }

    /// Whether a call is one of a number that was erased: one that the source sends, or one of the lake, whose numbers may
    /// be hidden already.
    #[inline]
    pub fn suppresses(&self, record: &Record<'_>) -> bool {
        !self.suppressed.is_empty() && self.holds_suppressed(record)
    }

    fn holds_suppressed(&self, record: &Record<'_>) -> bool {
        // A place, as most destinations are, is nobody's name.
        let destination = record.destination.as_deref();
        let destination = destination.filter(|place| place.contains(char::is_numeric));
        let addresses = [
            record.from_number.as_deref(),
            record.to_number.as_deref(),
            destination,
        ];
        let mut found = addresses.into_iter().flatten().any(|address| {
            // As most are written: there is nothing else in it.
            let is_plain = address.bytes().all(|byte| byte.is_ascii_digit());
            !address.is_empty()
                && (self.is_suppressed(address) || (!is_plain && self.is_suppressed_in(address)))
        });
        if let (Some(json), false) = (&record.extra, found) {
            for_each_text(json, |text| found = found || self.is_suppressed_in(text));
        }
        found
    }

    /// Whether an address, or the token that stands for it, is of a number that was erased.
    fn is_suppressed(&self, address: &str) -> bool {
        if is_token(address) {
            return self.suppressed.contains(address);
        }
        let token = self.key.as_ref().map(|key| key.token(address));
        token.is_some_and(|token| self.suppressed.contains(&token))
    }

    /// Whether a number that was erased is somewhere in a text, which may be anything.
    pub fn suppresses_text(&self, text: &str) -> bool {
        !self.suppressed.is_empty() && self.is_suppressed_in(&without_escapes(text))
    }

    fn is_suppressed_in(&self, text: &str) -> bool {
        let text = &*without_entities(text);
        let mut found = tokens_in(text).any(|token| self.suppressed.contains(token));
        replace_numbers(text, |number| {
            // As one, as what stands side by side, and digits alone: what separates them may belong to one or separate two.
            let runs = number.split(|c: char| !c.is_numeric());
            let runs = runs.filter(|run| run.chars().count() >= MIN_DIGITS);
            let pieces = pieces(number).filter_map(|range| number.get(range));
            let mut candidates = std::iter::once(number).chain(pieces).chain(runs);
            found = found || candidates.any(|candidate| self.is_suppressed(candidate));
            String::new()
        });
        found
    }

    /// What becomes of numbers, column by column.
    pub fn modes(&self) -> Modes {
        self.modes
    }

    /// The key, where one is known.
    pub fn key(&self) -> Option<&PrivacyKey> {
        self.key.as_ref()
    }

    /// The id of the key that pseudonyms are made with, if any are.
    pub fn key_id(&self) -> Option<&str> {
        let is_used = self.modes.include(Mode::Pseudonymize);
        self.key().filter(|_| is_used).map(PrivacyKey::id)
    }

    /// Whether numbers stay as they are.
    pub fn keeps_all(&self) -> bool {
        self.modes == Modes::default()
    }

    /// Does to a record what is to become of its numbers.
    #[inline]
    pub fn hide(&self, record: &mut Record<'_>) {
        if self.keeps_all() {
            return;
        }
        let address = |value: &mut Option<Cow<'_, str>>, mode| {
            if let (Some(text), true) = (value, mode != Mode::Keep) {
                *text = Cow::Owned(self.hide_address(text, mode));
            }
        };
        address(&mut record.from_number, self.modes.from_number);
        address(&mut record.to_number, self.modes.to_number);
        if let (Some(text), true) = (
            &mut record.destination,
            self.modes.destination != Mode::Keep,
        ) {
            let mode = self.modes.destination;
            let plain = without_entities(text);
            let hidden = if is_like_a_number(&plain) {
                Some(self.hide_address(&plain, mode))
            } else {
                match self.hide_in(&plain, mode) {
                    Cow::Owned(hidden) => Some(hidden),
                    Cow::Borrowed(_) => None,
                }
            };
            if let Some(hidden) = hidden {
                *text = Cow::Owned(hidden);
            }
        }
        if let (Some(json), true) = (&mut record.extra, self.modes.extra != Mode::Keep) {
            let mode = self.modes.extra;
            let hidden = map_numbers(json, |number| self.hide_number(number, mode));
            *json = Cow::Owned(hidden);
        }
    }

    /// What stands for a whole value that names who calls or is called. Nothing stays nothing.
    fn hide_address(&self, address: &str, mode: Mode) -> String {
        match (mode, &self.key) {
            _ if address.is_empty() => String::new(),
            (Mode::Pseudonymize, Some(key)) => key.token(address).into_text(),
            (Mode::Truncate, _) => truncated_address(address),
            _ => address.to_owned(),
        }
    }

    /// What stands for a number in a text.
    fn hide_number(&self, number: &str, mode: Mode) -> String {
        match (mode, &self.key) {
            (Mode::Pseudonymize, Some(key)) => key.token(number).into_text(),
            (Mode::Truncate, _) => truncated_number(number),
            _ => number.to_owned(),
        }
    }

    /// A filter of the source as it may be kept in the lake: it names whose calls these are, and has to tell one lake from
    /// another. Where numbers are not kept, that takes a key.
    pub fn hide_filter(&self, number: &str) -> String {
        match &self.key {
            _ if self.modes.strictest() == Mode::Keep => number.to_owned(),
            Some(key) => key.token(number).into_text(),
            None => String::new(),
        }
    }

    /// A text, which may be of any column, without its numbers.
    pub fn hide_in_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.modes.strictest() {
            Mode::Keep => Cow::Borrowed(text),
            // A digit that is written as an escape is one nevertheless.
            mode if text.contains('\\') || text.contains("&nbsp;") => {
                let plain = without_escapes(text);
                match self.hide_in(&plain, mode) {
                    Cow::Owned(hidden) => Cow::Owned(hidden),
                    Cow::Borrowed(_) => Cow::Borrowed(text),
                }
            }
            mode => self.hide_in(text, mode),
        }
    }

    /// The same of bytes. Where they are not text, so is what is shown of them in place of their numbers.
    pub fn hide_in_bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        match String::from_utf8_lossy(bytes) {
            Cow::Borrowed(text) => match self.hide_in_text(text) {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(hidden) => Cow::Owned(hidden.into_bytes()),
            },
            Cow::Owned(text) => match self.hide_in_text(&text) {
                Cow::Borrowed(_) => Cow::Borrowed(bytes),
                Cow::Owned(hidden) => Cow::Owned(hidden.into_bytes()),
            },
        }
    }

    fn hide_in<'a>(&self, text: &'a str, mode: Mode) -> Cow<'a, str> {
        replace_each_number(text, |number| self.hide_number(number, mode))
    }
}

/// Whether an address names several numbers.
pub fn holds_several_numbers(address: &str) -> bool {
    let mut numbers = 0;
    replace_each_number(address, |number| {
        numbers += 1;
        number.to_owned()
    });
    numbers > 1
}

/// Whether an address names anybody.
pub fn holds_a_number_or_name(address: &str) -> bool {
    let user = address.get(user_part(address)).unwrap_or_default();
    user.chars().any(char::is_alphanumeric)
}

#[cfg(test)]
mod tests;
