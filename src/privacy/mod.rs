//! What becomes of phone numbers on their way into the lake: `[privacy]`.
//!
//! A pseudonym is a keyed hash ([HMAC](https://www.rfc-editor.org/rfc/rfc2104)-SHA-256) of a number's digits: the same
//! number has the same one in every file, and without the key nobody can try all numbers. It stays personal data, by the
//! law of Europe, for whoever has the key. The key never gets into the lake; its id does, which is a hash of it.

mod credentials;
pub(crate) mod numbers;
mod text;
mod token;

use std::borrow::Cow;
use std::collections::HashSet;

pub use credentials::Credentials;
pub(crate) use credentials::{is_redacted, redact_addresses};
use numbers::{numbers, replace_each_number, sequences, unescaped, user_part, without_escapes};
use text::{
    for_each_text, is_address, map_json, map_phone_number, replace_uri_users, truncated_address,
    truncated_number, uri_users,
};
pub use token::PrivacyKey;
pub(crate) use token::Token;
use token::{is_name, is_token, tokens_in};

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

/// How often what was hidden is looked at again.
const MAX_READINGS: usize = 4;

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

    /// Whether any calls are left out.
    #[inline]
    pub(crate) fn suppresses_any(&self) -> bool {
        !self.suppressed.is_empty()
    }

    /// Whether a value that names who calls or is called, and may be hidden already, holds a number that was erased.
    pub(crate) fn suppresses_value(&self, value: &str) -> bool {
        // As most are written: there is nothing else in it.
        let is_plain = value.bytes().all(|byte| byte.is_ascii_digit());
        !value.is_empty()
            && (self.is_suppressed(value) || (!is_plain && self.is_suppressed_in(value)))
    }

    /// Whether some text in JSON holds a number that was erased.
    pub(crate) fn suppresses_json(&self, json: &str) -> bool {
        let mut found = false;
        for_each_text(json, |text| found = found || self.is_suppressed_in(text));
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

    /// Whether a number that was erased is somewhere in a text, which may be anything, or a name is all that stands between two
    /// quotation marks or in a cell of it.
    pub fn suppresses_text(&self, text: &str) -> bool {
        if self.suppressed.is_empty() {
            return false;
        }
        let text = without_escapes(text);
        let mut cells = text
            .split(['"', ',', ';', '|', '\t', '\r', '\n'])
            .map(str::trim);
        let is_suppressed_name = |cell: &str| {
            let user = cell.get(user_part(cell)).unwrap_or_default();
            !user.is_empty() && is_name(user) && self.is_suppressed(cell)
        };
        self.is_suppressed_in(&text) || cells.any(is_suppressed_name)
    }

    /// Whether any sequence of groups of digits that stand side by side is a number that was erased: hiding has to choose
    /// one of the ways to read them, erasing has not.
    fn is_suppressed_in(&self, text: &str) -> bool {
        match unescaped(text) {
            Cow::Borrowed(text) => self.is_suppressed_as_written(text),
            // What looks like an escape may be none.
            Cow::Owned(plain) => {
                self.is_suppressed_as_written(&plain) || self.is_suppressed_as_written(text)
            }
        }
    }

    fn is_suppressed_as_written(&self, text: &str) -> bool {
        let user = |range| text.get(range).unwrap_or_default();
        let is_number = |digits: &str| {
            let token = self.key.as_ref().map(|key| key.token_of_number(digits));
            token.is_some_and(|token| self.suppressed.contains(&token))
        };
        tokens_in(text).any(|token| self.suppressed.contains(token))
            || sequences(text, is_number)
            || uri_users(text).any(|range| self.is_suppressed(user(range)))
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

    /// Hides the number of a value that names who calls or is called.
    pub(crate) fn hide_value(&self, value: &mut Cow<'_, str>, mode: Mode) {
        if mode != Mode::Keep {
            *value = Cow::Owned(self.hide_address(value, mode));
        }
    }

    /// Hides the numbers of a value that may be the name of a place.
    pub(crate) fn hide_place(&self, value: &mut Cow<'_, str>, mode: Mode) {
        if mode == Mode::Keep {
            return;
        }
        let hidden = if is_address(&unescaped(value)) {
            Some(self.hide_address(value, mode))
        } else {
            self.hide_in(value, mode)
        };
        if let Some(hidden) = hidden {
            *value = Cow::Owned(hidden);
        }
    }

    /// Hides the numbers of JSON.
    pub(crate) fn hide_json(&self, json: &mut Cow<'_, str>, mode: Mode) {
        if mode == Mode::Keep {
            return;
        }
        let hidden = map_json(
            json,
            |text| self.hide_in(text, mode),
            |number| map_phone_number(number, |digits| self.hide_number(digits, mode)),
        );
        if let Cow::Owned(hidden) = hidden {
            *json = Cow::Owned(hidden);
        }
    }

    /// What stands for a whole value that names who calls or is called: of several numbers one for each. Nothing stays
    /// nothing.
    fn hide_address(&self, address: &str, mode: Mode) -> String {
        match (mode, &self.key) {
            _ if address.is_empty() => String::new(),
            (Mode::Pseudonymize, Some(_)) if holds_several_numbers(address) => {
                self.hide_in(address, mode).unwrap_or_default()
            }
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
        let hidden = match self.modes.strictest() {
            Mode::Keep => None,
            // A digit that is written as an escape is one nevertheless.
            mode if text.contains('\\') => self.hide_in(&without_escapes(text), mode),
            mode => self.hide_in(text, mode),
        };
        hidden.map_or(Cow::Borrowed(text), Cow::Owned)
    }

    /// The same of bytes. Where they are not text, so is what is shown of them in place of their numbers.
    pub fn hide_in_bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        match self.hide_in_text(&String::from_utf8_lossy(bytes)) {
            Cow::Borrowed(_) => Cow::Borrowed(bytes),
            Cow::Owned(hidden) => Cow::Owned(hidden.into_bytes()),
        }
    }

    /// A text without its numbers and the users of its addresses; `None` if it has none.
    fn hide_in(&self, text: &str, mode: Mode) -> Option<String> {
        // What is left may be read in another way once a part of it is hidden. A number that was cut
        // short looks like one that is to be cut.
        let readings = if mode == Mode::Truncate {
            1
        } else {
            MAX_READINGS
        };
        let hidden = |text: &String| self.hide_once(text, mode);
        std::iter::successors(self.hide_once(text, mode), hidden)
            .take(readings)
            .last()
    }

    fn hide_once(&self, text: &str, mode: Mode) -> Option<String> {
        match unescaped(text) {
            Cow::Borrowed(text) => self.hide_as_written(text, mode),
            // What looks like an escape may be none.
            Cow::Owned(plain) => self
                .hide_as_written(&plain, mode)
                .or_else(|| self.hide_as_written(text, mode)),
        }
    }

    fn hide_as_written(&self, text: &str, mode: Mode) -> Option<String> {
        let without_numbers =
            replace_each_number(text, false, |number| self.hide_number(number, mode));
        if let Cow::Owned(hidden) =
            replace_uri_users(&without_numbers, |user| self.hide_address(user, mode))
        {
            return Some(hidden);
        }
        match without_numbers {
            Cow::Owned(hidden) => Some(hidden),
            Cow::Borrowed(_) => None,
        }
    }
}

/// Whether an address names several numbers.
pub(crate) fn holds_several_numbers(address: &str) -> bool {
    // As most are written.
    let is_plain = address.bytes().all(|byte| byte.is_ascii_digit());
    !is_plain && numbers(&unescaped(address), true).nth(1).is_some()
}

/// Whether an address names anybody.
pub(crate) fn holds_a_number_or_name(address: &str) -> bool {
    let user = address.get(user_part(address)).unwrap_or_default();
    user.chars().any(char::is_alphanumeric)
}

#[cfg(test)]
mod tests;
