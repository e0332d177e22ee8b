//! What becomes of phone numbers on their way into the lake: `[privacy]`.
//!
//! A pseudonym is a keyed hash ([HMAC](https://www.rfc-editor.org/rfc/rfc2104)-SHA-256) of a number's digits: the same
//! number has the same one in every file, and without the key nobody can try all numbers. It stays personal data, by the
//! law of Europe, for whoever has the key. The key never gets into the lake; its id does, which is a hash of it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::decode::Record;
use crate::numbers::{
    MIN_DIGITS, digits, is_date_or_fraction, may_hold_number, may_separate, replace_numbers,
    user_part, without_escapes,
};

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

/// Shortest key, in bytes: as many as the hash has.
pub const MIN_KEY_BYTES: usize = 32;
/// Fewest different bytes of a key: fewer are no accident of a random one.
const MIN_DIFFERENT_BYTES: usize = 8;

/// The key of pseudonyms.
#[derive(Clone)]
pub struct PrivacyKey {
    key: hmac::Key,
    id: String,
}

impl fmt::Debug for PrivacyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivacyKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl PrivacyKey {
    /// A key from its text.
    ///
    /// # Errors
    /// A sentence, if it is too short or too simple to be one. It does not hold the text.
    pub fn try_new(text: &str) -> Result<Self, String> {
        let make = "Make one with: openssl rand -hex 32";
        if text.len() < MIN_KEY_BYTES {
            return Err(format!(
                "the key has {} characters, and at least {MIN_KEY_BYTES} are needed. {make}",
                text.len()
            ));
        }
        if text.bytes().collect::<HashSet<u8>>().len() < MIN_DIFFERENT_BYTES {
            return Err(format!(
                "the key has hardly any different characters. {make}"
            ));
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
        let hash = hmac::sign(&key, b"cdrlake key id v1");
        let mut id = String::new();
        push_hex(&mut id, &hash.as_ref()[..8]);
        Ok(Self { key, id })
    }

    /// Which key it is, without saying anything of it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What stands for whom an address names: [`TOKEN_PREFIX`] and 32 hexadecimal digits.
    pub fn token(&self, address: &str) -> Token {
        const NUMBER: &[u8] = b"cdrlake number v1\0";
        let mut context = hmac::Context::with_key(&self.key);
        // As most are written.
        let is_plain = address.len() >= MIN_DIGITS
            && address.bytes().all(|byte| byte.is_ascii_digit())
            && !address.starts_with("00");
        if is_plain {
            context.update(NUMBER);
            context.update(address.as_bytes());
        } else {
            let user = address.get(user_part(address)).unwrap_or_default();
            if is_name(user) {
                context.update(b"cdrlake name v1\0");
                context.update(user.to_lowercase().as_bytes());
            } else {
                context.update(NUMBER);
                context.update(digits(user).as_bytes());
            }
        }
        let mut token = String::with_capacity(TOKEN_PREFIX.len() + TOKEN_DIGITS);
        token.push_str(TOKEN_PREFIX);
        push_hex(&mut token, &context.sign().as_ref()[..TOKEN_DIGITS / 2]);
        Token(token)
    }
}

/// How many digits, or characters of a name, are dropped.
const TRUNCATED_DIGITS: usize = 4;
/// Fewest digits in a row that are looked up among the numbers that were erased.
const MIN_RUN_DIGITS: usize = 3;
/// Characters of a token behind its prefix.
const TOKEN_DIGITS: usize = 32;
/// What every token begins with, so that nobody takes one for a number.
pub const TOKEN_PREFIX: &str = "tel_";

/// Stands for a number, or a name in its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl std::borrow::Borrow<str> for Token {
    fn borrow(&self) -> &str {
        &self.0
    }
}

fn is_token(text: &str) -> bool {
    text.strip_prefix(TOKEN_PREFIX).is_some_and(|digits| {
        digits.len() == TOKEN_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// The tokens in a text.
fn tokens_in(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(TOKEN_PREFIX)
        .filter_map(|(at, _)| text.get(at..at + TOKEN_PREFIX.len() + TOKEN_DIGITS))
        .filter(|token| is_token(token))
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Whether an address names anybody.
pub fn holds_a_number_or_name(address: &str) -> bool {
    let user = address.get(user_part(address)).unwrap_or_default();
    user.chars().any(char::is_alphanumeric)
}

/// Whether who calls or is called is named, not numbered.
fn is_name(user: &str) -> bool {
    user.chars().any(char::is_alphabetic) || !user.chars().any(char::is_numeric)
}

/// Adds bytes as hexadecimal digits.
fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(DIGITS[usize::from(digit)]));
        }
    }
}

/// A number without its last four digits, or a name without its last four characters.
fn truncated(address: &str) -> String {
    // As most are written.
    if address.bytes().all(|byte| byte.is_ascii_digit()) {
        let kept = address.len().saturating_sub(TRUNCATED_DIGITS);
        return address.get(..kept).unwrap_or_default().to_owned();
    }
    let user = user_part(address);
    let (before, after) = (&address.get(..user.start), &address.get(user.end..));
    let user = address.get(user).unwrap_or_default();
    let counts = |c: char| is_name(user) || c.is_numeric();
    let last_kept = user
        .char_indices()
        .rev()
        .filter(|(_, c)| counts(*c))
        .nth(TRUNCATED_DIGITS);
    let end = last_kept.map_or(0, |(at, c)| at + c.len_utf8());
    let kept = user.get(..end).unwrap_or_default();
    format!(
        "{}{kept}{}",
        before.unwrap_or_default(),
        after.unwrap_or_default()
    )
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

    /// Whether a call is one of a number that was erased: one that the source sends, or one of the lake, whose numbers may
    /// be hidden already.
    #[inline]
    pub fn suppresses(&self, record: &Record<'_>) -> bool {
        !self.suppressed.is_empty() && self.holds_suppressed(record)
    }

    fn holds_suppressed(&self, record: &Record<'_>) -> bool {
        let is_one = |address: &Option<Cow<'_, str>>| {
            let address = address.as_deref().filter(|address| !address.is_empty());
            address.is_some_and(|address| self.is_suppressed(address))
        };
        let mut found = is_one(&record.from_number) || is_one(&record.to_number);
        if let (Some(destination), false) = (&record.destination, found) {
            found = self.is_suppressed(destination) || self.suppresses_text(destination);
        }
        if let (Some(json), false) = (&record.extra, found) {
            found = tokens_in(json).any(|token| self.suppressed.contains(token));
            map_numbers(json, &mut |number| {
                found |= self.is_suppressed(number);
                number.to_owned()
            });
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
        if self.suppressed.is_empty() {
            return false;
        }
        let plain = without_escapes(text);
        let mut found = tokens_in(&plain).any(|token| self.suppressed.contains(token));
        // Digits alone, too: what separates them may as well separate two numbers.
        let runs = plain.split(|c: char| !c.is_numeric());
        found |= runs
            .filter(|run| run.len() >= MIN_RUN_DIGITS)
            .any(|run| self.is_suppressed(run));
        replace_numbers(&plain, |number| {
            found |= self.is_suppressed(number);
            number.to_owned()
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
            let hidden = if is_like_a_number(text) {
                Cow::Owned(self.hide_address(text, self.modes.destination))
            } else {
                self.hide_in(text, self.modes.destination)
            };
            if let Cow::Owned(hidden) = hidden {
                *text = Cow::Owned(hidden);
            }
        }
        if let (Some(json), true) = (&mut record.extra, self.modes.extra != Mode::Keep) {
            let mode = self.modes.extra;
            let hidden = map_numbers(json, &mut |number| self.hide_address(number, mode));
            *json = Cow::Owned(hidden);
        }
    }

    /// What stands for a whole value that names who calls or is called. Nothing stays nothing.
    fn hide_address(&self, address: &str, mode: Mode) -> String {
        match (mode, &self.key) {
            _ if address.is_empty() => String::new(),
            (Mode::Pseudonymize, Some(key)) => key.token(address).0,
            (Mode::Truncate, _) => truncated(address),
            _ => address.to_owned(),
        }
    }

    /// A filter of the source as it may be kept in the lake: it names whose calls these are.
    pub fn hide_filter(&self, number: &str) -> String {
        self.hide_address(number, self.modes.strictest())
    }

    /// A text, which may be of any column, without its numbers.
    pub fn hide_in_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.modes.strictest() {
            Mode::Keep => Cow::Borrowed(text),
            // A digit that is written as an escape is one nevertheless.
            mode if text.contains("\\u") => {
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
        replace_numbers(text, |number| self.hide_number(number, mode))
    }

    /// What stands for a number in a text. Where commas separate several numbers, as in a line of CSV, each has its own.
    fn hide_number(&self, number: &str, mode: Mode) -> String {
        let is_long = |part: &str| part.chars().filter(|c| c.is_numeric()).count() >= MIN_DIGITS;
        if !number.split(',').any(is_long) {
            return self.hide_address(number, mode);
        }
        let parts = number.split(',').map(|part| {
            if is_long(part) && !is_date_or_fraction(part) {
                self.hide_address(part, mode)
            } else {
                part.to_owned()
            }
        });
        parts.collect::<Vec<_>>().join(",")
    }
}

/// A compact JSON text in which what `replace` makes of them stands for the numbers in its texts, and for whole numbers that
/// could be phone numbers, as a string where that is no number any more.
fn map_numbers(json: &str, replace: &mut dyn FnMut(&str) -> String) -> String {
    let mut mapped = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '"' => string_length(rest),
            '0'..='9' | '-' => rest
                .find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E'))
                .unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        let is_whole = || token.bytes().all(|byte| byte.is_ascii_digit());
        match c {
            '"' => map_string(token, replace, &mut mapped),
            '0'..='9' if token.len() >= MIN_DIGITS && is_whole() => {
                let number = replace(token);
                let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
                let quote = if is_number { "" } else { "\"" };
                mapped.extend([quote, &number, quote]);
            }
            _ => mapped.push_str(token),
        }
        rest = after;
    }
    mapped
}

/// A JSON string, quotes included.
fn map_string(token: &str, replace: &mut dyn FnMut(&str) -> String, mapped: &mut String) {
    if !token.contains('\\') {
        mapped.push_str(&replace_numbers(token, replace));
        return;
    }
    let plain: String = serde_json::from_str(token).unwrap_or_default();
    match replace_numbers(&plain, replace) {
        Cow::Borrowed(_) => mapped.push_str(token),
        Cow::Owned(text) => {
            mapped.push_str(&serde_json::to_string(&text).expect("a text is JSON"));
        }
    }
}

/// The length of the JSON string that a valid text begins with, quotes included.
fn string_length(json: &str) -> usize {
    let mut is_escaped = false;
    let end = json.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    });
    end.map_or(json.len(), |end| end + 2)
}

/// Whether a value is a number and nothing else.
fn is_like_a_number(value: &str) -> bool {
    if !may_hold_number(value) {
        return false;
    }
    let user = value.get(user_part(value)).unwrap_or_default();
    !is_name(user)
        && user.chars().all(|c| c.is_numeric() || may_separate(c))
        && user.chars().filter(|c| c.is_numeric()).count() >= MIN_DIGITS
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

    fn key() -> PrivacyKey {
        PrivacyKey::try_new(KEY).unwrap()
    }

    fn privacy(mode: Mode) -> Privacy {
        Privacy::new(Modes::all(mode), Some(key()))
    }

    fn record<'a>(from: &'a str, to: &'a str, destination: &'a str, extra: &'a str) -> Record<'a> {
        let some = |text: &'a str| Some(Cow::Borrowed(text));
        Record {
            from_number: some(from),
            to_number: some(to),
            destination: some(destination),
            extra: some(extra),
            ..Record::default()
        }
    }

    #[test]
    fn a_token_is_the_hmac_of_the_digits_as_others_compute_it() {
        // printf 'cdrlake number v1\0491701234567' | openssl dgst -sha256 -mac HMAC -macopt key:0123456789abcdefghijklmnopqrstuvwxyz
        assert_eq!(
            key().token("+49 170 1234567").to_string(),
            "tel_e6d85e0059aa39d49cd759b364e125cb"
        );
        assert_eq!(key().id(), "35e3f96de3ab2888");
    }

    #[test]
    fn the_same_number_has_the_same_token_however_it_is_written_and_another_has_another() {
        let token = |address: &str| key().token(address);
        for same in [
            "+491701234567",
            "0049 170/1234567",
            "sip:+491701234567@example.com",
            "tel:+49-170-1234567",
        ] {
            assert_eq!(token(same), token("491701234567"), "{same}");
        }
        for other in [
            "491701234568",
            "1701234567",
            "911",
            "alice",
            "sip:alice@example.com",
            "",
        ] {
            assert_ne!(token(other), token("491701234567"), "{other}");
        }
        assert_eq!(token("sip:Alice@example.com"), token("alice"));
        let second = PrivacyKey::try_new(&KEY.to_uppercase()).unwrap();
        assert_ne!(second.token("911"), token("911"));
    }

    #[test]
    fn numbers_are_hidden_wherever_a_record_has_them() {
        let extra = r#"{"a":13025550101,"b":"+1 (302) 555-0101","c":["x",1,2.50,"call 13025550101!"],"d":{"13025550101":null},"e":"1302\u0035550101","f":"2026-10-01","g":"99df5ffd-962a-410f-bcce-d08f1f7f328c"}"#;
        let mut hidden = record(
            "13025550101",
            "sip:+13025550101@x",
            "+1 302 555 0101",
            extra,
        );
        privacy(Mode::Pseudonymize).hide(&mut hidden);
        let token = key().token("13025550101").to_string();
        assert_eq!(hidden.from_number.as_deref(), Some(token.as_str()));
        assert_eq!(hidden.to_number, hidden.from_number);
        assert_eq!(hidden.destination, hidden.from_number);
        let expected = format!(
            r#"{{"a":"{token}","b":"+{token}","c":["x",1,2.50,"call {token}!"],"d":{{"{token}":null}},"e":"{token}","f":"2026-10-01","g":"99df5ffd-962a-410f-bcce-d08f1f7f328c"}}"#
        );
        assert_eq!(hidden.extra.as_deref(), Some(expected.as_str()));
        serde_json::from_str::<serde_json::Value>(&expected).unwrap();
        // What is hidden stays as it is.
        let mut again = hidden.clone();
        privacy(Mode::Pseudonymize).hide(&mut again);
        assert_eq!(again.extra, hidden.extra);
    }

    #[test]
    fn the_last_four_digits_are_dropped() {
        for (number, expected) in [
            ("13025550101", "1302555"),
            ("+1 302 555-0101", "+1 302 555"),
            ("sip:+13025550101@10.0.0.1", "sip:+1302555@10.0.0.1"),
            ("911", ""),
            ("1234", ""),
            ("12345", "1"),
            ("alice", "a"),
            ("anonymous", "anony"),
            ("", ""),
        ] {
            assert_eq!(truncated(number), expected, "{number}");
        }
        let mut hidden = record(
            "13025550101",
            "911",
            "United States",
            r#"{"a":13025550101,"b":"x 13025550101"}"#,
        );
        privacy(Mode::Truncate).hide(&mut hidden);
        assert_eq!(hidden.destination.as_deref(), Some("United States"));
        assert_eq!(
            hidden.extra.as_deref(),
            Some(r#"{"a":1302555,"b":"x 1302555"}"#)
        );
    }

    #[test]
    fn columns_may_differ() {
        let modes = Modes {
            from_number: Mode::Keep,
            to_number: Mode::Truncate,
            destination: Mode::Pseudonymize,
            extra: Mode::Keep,
        };
        let mut hidden = record(
            "13025550101",
            "13025550101",
            "Spain 13025550101",
            r#"{"a":13025550101}"#,
        );
        Privacy::new(modes, Some(key())).hide(&mut hidden);
        assert_eq!(hidden.from_number.as_deref(), Some("13025550101"));
        assert_eq!(hidden.to_number.as_deref(), Some("1302555"));
        assert!(
            hidden
                .destination
                .as_deref()
                .unwrap()
                .starts_with("Spain tel_")
        );
        assert_eq!(hidden.extra.as_deref(), Some(r#"{"a":13025550101}"#));
    }

    #[test]
    fn a_number_that_was_erased_is_found_in_what_comes_and_in_what_is_stored() {
        let erased = || [key().token("+1 302 555 0101")];
        let records = [
            record("13025550101", "2", "x", "{}"),
            record("2", "sip:+13025550101@x", "x", "{}"),
            record("2", "3", "+13025550101", "{}"),
            record("2", "3", "x", r#"{"a":[{"b":13025550101}]}"#),
            record("2", "3", "x", r#"{"a":"to \u0031-302-555-0101"}"#),
        ];
        for mode in [Mode::Keep, Mode::Pseudonymize] {
            let privacy = privacy(mode).suppressing(erased()).unwrap();
            for record in &records {
                assert!(privacy.suppresses(record), "{record:?}");
                let mut stored = record.clone();
                privacy.hide(&mut stored);
                assert!(privacy.suppresses(&stored), "{mode:?}: {stored:?}");
            }
            for other in [
                record("3025550101", "2", "x", "{}"),
                record("", "", "", "{}"),
                Record::default(),
            ] {
                assert!(!privacy.suppresses(&other), "{other:?}");
            }
            for text in [
                r#"{"from":"+1 302-555-0101"#,
                "2026-10-01,13025550101,5",
                r#""\u00313025550101""#,
            ] {
                assert!(privacy.suppresses_text(text), "{text}");
                assert!(
                    privacy.suppresses_text(&privacy.hide_in_text(text))
                        || mode == Mode::Pseudonymize,
                    "{text}"
                );
            }
            assert!(!privacy.suppresses_text("13025550102"));
        }
        let without_key = Privacy::default();
        assert!(without_key.suppressing(erased()).is_none());
        assert!(without_key.suppressing([]).is_some());
    }

    #[test]
    fn bytes_that_are_no_text_are_hidden_too() {
        let privacy = privacy(Mode::Pseudonymize);
        let hidden = privacy.hide_in_bytes(b"\xff 13025550101");
        assert!(!String::from_utf8_lossy(&hidden).contains("5550101"));
        assert_eq!(&*privacy.hide_in_bytes(b"\xff x"), b"\xff x");
    }

    proptest::proptest! {
        #[test]
        fn extra_stays_json_and_keeps_what_is_no_number(texts in proptest::collection::vec("\\PC{0,20}", 0..5), number: u64) {
            let json = serde_json::json!({"texts": texts, "number": number}).to_string();
            for mode in [Mode::Pseudonymize, Mode::Truncate] {
                let mut hidden = record("1", "2", "x", &json);
                privacy(mode).hide(&mut hidden);
                let hidden: serde_json::Value = serde_json::from_str(hidden.extra.as_deref().unwrap()).unwrap();
                proptest::prop_assert_eq!(hidden["texts"].as_array().map(Vec::len), Some(texts.len()));
                let has_numbers = |text: &str| !matches!(replace_numbers(text, |_| String::new()), Cow::Borrowed(_));
                for (text, shown) in texts.iter().zip(hidden["texts"].as_array().unwrap()) {
                    if !has_numbers(text) {
                        proptest::prop_assert_eq!(Some(text.as_str()), shown.as_str());
                    }
                }
            }
        }
    }
}
