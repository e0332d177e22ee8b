//! Hides phone numbers and credentials: section `[privacy]` of the configuration.
//!
//! A pseudonym is a keyed hash ([HMAC](https://www.rfc-editor.org/rfc/rfc2104)-SHA-256) of a
//! number's digits. The same number has the same pseudonym in every file. Without the key,
//! pseudonyms cannot be reversed by trying all numbers; anyone with the key can re-identify
//! numbers, so pseudonyms remain personal data under European law. The lake stores the id of the
//! key, which is a hash, but never the key.

mod credentials;
mod memo;
pub(crate) mod numbers;
mod text;
mod token;

use std::borrow::Cow;
use std::collections::HashSet;

pub use credentials::Credentials;
pub(crate) use credentials::{is_redacted, redact_addresses};
pub(crate) use memo::Memo;
use numbers::{
    any_digit_sequence, numbers, replace_each_number, unescaped, user_part, without_escapes,
};
use text::{
    for_each_text, is_address, map_json, map_phone_number, replace_uri_users, truncated_address,
    truncated_number, uri_users,
};
pub use token::PrivacyKey;
pub(crate) use token::Token;
pub(crate) use token::is_plain_number;
use token::{is_name, is_token, tokens_in};

/// How numbers are hidden.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Numbers stay.
    #[default]
    Keep,
    /// The last four digits are removed.
    Truncate,
    /// A keyed hash replaces the number.
    Pseudonymize,
}

impl Mode {
    /// Every mode, by its name in the configuration and in the lake.
    pub(crate) const ALL: [(&'static str, Self); 3] = [
        ("keep", Self::Keep),
        ("truncate", Self::Truncate),
        ("pseudonymize", Self::Pseudonymize),
    ];

    /// The mode with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find_map(|(known, mode)| (known == name).then_some(mode))
    }

    /// The name in the configuration and in the lake.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Truncate => "truncate",
            Self::Pseudonymize => "pseudonymize",
        }
    }
}

/// How numbers are hidden in each column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are columns")]
pub struct Modes {
    pub from_number: Mode,
    pub to_number: Mode,
    pub destination: Mode,
    pub extra: Mode,
}

impl Modes {
    /// The same mode for every column.
    pub fn all(mode: Mode) -> Self {
        Self {
            from_number: mode,
            to_number: mode,
            destination: mode,
            extra: mode,
        }
    }

    /// The columns and their modes.
    pub fn by_column(self) -> [(&'static str, Mode); 4] {
        [
            ("from_number", self.from_number),
            ("to_number", self.to_number),
            ("destination", self.destination),
            ("extra", self.extra),
        ]
    }

    /// Whether any column has this mode.
    pub fn include(self, mode: Mode) -> bool {
        self.by_column().into_iter().any(|(_, found)| found == mode)
    }

    /// The strictest mode of all columns, for texts that may belong to any column.
    fn strictest(self) -> Mode {
        [Mode::Pseudonymize, Mode::Truncate]
            .into_iter()
            .find(|&mode| self.include(mode))
            .unwrap_or_default()
    }
}

/// Most passes over a text whose numbers are hidden.
const MAX_PASSES: usize = 4;

/// The modes of hiding, the key, and the numbers that were erased.
#[derive(Clone, Debug, Default)]
pub struct Privacy {
    modes: Modes,
    key: Option<PrivacyKey>,
    /// Erased numbers, whose calls are suppressed.
    suppressed: HashSet<Token>,
}

impl Privacy {
    /// `modes` with the key for pseudonyms and erased numbers, if there is one.
    ///
    /// # Panics
    /// If a column is pseudonymised and there is no key.
    pub fn new(modes: Modes, key: Option<PrivacyKey>) -> Self {
        assert!(
            key.is_some() || !modes.include(Mode::Pseudonymize),
            "pseudonyms need a key"
        );
        Self {
            modes,
            key,
            suppressed: HashSet::new(),
        }
    }

    /// Adds erased numbers, whose calls are suppressed. `None` if there are any, but no key.
    pub fn suppressing(&self, tokens: impl IntoIterator<Item = Token>) -> Option<Self> {
        let suppressed: HashSet<Token> = tokens.into_iter().collect();
        (suppressed.is_empty() || self.key.is_some()).then(|| Self {
            suppressed,
            ..self.clone()
        })
    }

    /// Whether a number was erased.
    pub fn is_erased(&self, token: &Token) -> bool {
        self.suppressed.contains(token)
    }

    /// Whether any number was erased.
    #[inline]
    pub(crate) fn suppresses_any(&self) -> bool {
        !self.suppressed.is_empty()
    }

    /// Whether a caller or called party, plain or hidden, is an erased number.
    pub(crate) fn suppresses_value(&self, value: &str) -> bool {
        // The common case: digits only.
        let is_plain = value.bytes().all(|byte| byte.is_ascii_digit());
        !value.is_empty()
            && (self.is_suppressed(value) || (!is_plain && self.is_suppressed_in(value)))
    }

    /// Whether any text in JSON holds an erased number.
    pub(crate) fn suppresses_json(&self, json: &str) -> bool {
        let mut found = false;
        for_each_text(json, |text| found = found || self.is_suppressed_in(text));
        found
    }

    /// Whether an address, or its token, is that of an erased number.
    fn is_suppressed(&self, address: &str) -> bool {
        if is_token(address) {
            return Token::parse(address).is_some_and(|token| self.is_erased(&token));
        }
        let token = self.key.as_ref().map(|key| key.token(address));
        token.is_some_and(|token| self.is_erased(&token))
    }

    /// Whether any text holds an erased number, or an erased name is a whole string or a whole cell
    /// in it.
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

    /// Whether any sequence of adjacent groups of digits is an erased number. Hiding must choose
    /// one reading of the groups; erasing tries all.
    fn is_suppressed_in(&self, text: &str) -> bool {
        match unescaped(text) {
            Cow::Borrowed(text) => self.is_suppressed_as_written(text),
            // An apparent escape may be plain text.
            Cow::Owned(plain) => {
                self.is_suppressed_as_written(&plain) || self.is_suppressed_as_written(text)
            }
        }
    }

    fn is_suppressed_as_written(&self, text: &str) -> bool {
        let user = |range| text.get(range).unwrap_or_default();
        let is_number = |digits: &str| {
            let token = self.key.as_ref().map(|key| key.token_of_number(digits));
            token.is_some_and(|token| self.is_erased(&token))
        };
        tokens_in(text).any(|token| self.is_erased(&token))
            || any_digit_sequence(text, is_number)
            || uri_users(text).any(|range| self.is_suppressed(user(range)))
    }

    /// How numbers are hidden in each column.
    pub fn modes(&self) -> Modes {
        self.modes
    }

    /// The key, if there is one.
    pub fn key(&self) -> Option<&PrivacyKey> {
        self.key.as_ref()
    }

    /// The id of the key, if any column is pseudonymised.
    pub fn key_id(&self) -> Option<&str> {
        let is_used = self.modes.include(Mode::Pseudonymize);
        self.key().filter(|_| is_used).map(PrivacyKey::id)
    }

    /// Whether all columns keep numbers.
    pub fn keeps_all(&self) -> bool {
        self.modes == Modes::default()
    }

    /// Hides the number of a caller or called party.
    pub(crate) fn hide_value(&self, value: &mut Cow<'_, str>, mode: Mode) {
        if mode != Mode::Keep {
            *value = Cow::Owned(self.hide_address(value, mode));
        }
    }

    /// Hides the numbers of a destination, which may be the name of a place.
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

    /// Hides the numbers in JSON.
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

    /// Hides a caller or called party. If it has several numbers, each is hidden by itself. An
    /// empty text stays empty.
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

    /// Hides a number found in a text.
    fn hide_number(&self, number: &str, mode: Mode) -> String {
        match (mode, &self.key) {
            (Mode::Pseudonymize, Some(key)) => key.token(number).into_text(),
            (Mode::Truncate, _) => truncated_number(number),
            _ => number.to_owned(),
        }
    }

    /// A number in a filter of the source, as the lake stores it to identify itself. Unless all
    /// numbers are kept, this needs a key; without a key the result is empty.
    pub fn hide_filter(&self, number: &str) -> String {
        match &self.key {
            _ if self.modes.strictest() == Mode::Keep => number.to_owned(),
            Some(key) => key.token(number).into_text(),
            None => String::new(),
        }
    }

    /// Hides the numbers in a text that may belong to any column.
    pub fn hide_in_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let hidden = match self.modes.strictest() {
            Mode::Keep => None,
            // Digits may be escaped.
            mode if text.contains('\\') => self.hide_in(&without_escapes(text), mode),
            mode => self.hide_in(text, mode),
        };
        hidden.map_or(Cow::Borrowed(text), Cow::Owned)
    }

    /// Like [`hide_in_text`](Self::hide_in_text), for bytes. If a number is hidden, invalid UTF-8
    /// is replaced too.
    pub fn hide_in_bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        match self.hide_in_text(&String::from_utf8_lossy(bytes)) {
            Cow::Borrowed(_) => Cow::Borrowed(bytes),
            Cow::Owned(hidden) => Cow::Owned(hidden.into_bytes()),
        }
    }

    /// Hides the numbers and the users of addresses in a text. `None` if there are none.
    fn hide_in(&self, text: &str, mode: Mode) -> Option<String> {
        // Hiding one number may change how the rest is read. A truncated number would be truncated
        // again.
        let passes = if mode == Mode::Truncate {
            1
        } else {
            MAX_PASSES
        };
        let hidden = |text: &String| self.hide_once(text, mode);
        std::iter::successors(self.hide_once(text, mode), hidden)
            .take(passes)
            .last()
    }

    fn hide_once(&self, text: &str, mode: Mode) -> Option<String> {
        match unescaped(text) {
            Cow::Borrowed(text) => self.hide_as_written(text, mode),
            // An apparent escape may be plain text.
            Cow::Owned(plain) => self
                .hide_as_written(&plain, mode)
                .or_else(|| self.hide_as_written(text, mode)),
        }
    }

    fn hide_as_written(&self, text: &str, mode: Mode) -> Option<String> {
        let numbers_hidden =
            replace_each_number(text, false, |number| self.hide_number(number, mode));
        if let Cow::Owned(hidden) =
            replace_uri_users(&numbers_hidden, |user| self.hide_address(user, mode))
        {
            return Some(hidden);
        }
        match numbers_hidden {
            Cow::Owned(hidden) => Some(hidden),
            Cow::Borrowed(_) => None,
        }
    }
}

/// Whether an address holds several numbers.
pub(crate) fn holds_several_numbers(address: &str) -> bool {
    // The common case.
    let is_plain = address.bytes().all(|byte| byte.is_ascii_digit());
    !is_plain && numbers(&unescaped(address), true).nth(1).is_some()
}

/// Whether an address holds a number or a name.
pub(crate) fn holds_a_number_or_name(address: &str) -> bool {
    let user = address.get(user_part(address)).unwrap_or_default();
    user.chars().any(char::is_alphanumeric)
}

#[cfg(test)]
mod tests;
