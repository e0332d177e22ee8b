//! Pseudonyms: keyed hashes of whom an address names.

use std::collections::HashSet;
use std::fmt;

use ring::hmac;
use serde::{Deserialize, Serialize};

use super::numbers::{
    MIN_DIGITS, TOKEN_DIGITS, TOKEN_PREFIX, are_known, digits, numbers, unescaped, user_part,
};

/// Shortest key, in bytes: as many as the hash has.
pub(super) const MIN_KEY_BYTES: usize = 32;
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
        // As most are written.
        let is_plain = address.len() >= MIN_DIGITS
            && address.bytes().all(|byte| byte.is_ascii_digit())
            && !address.starts_with('0');
        if is_plain {
            return self.token_of_number(address);
        }
        match Subject::of(address) {
            Subject::Number(digits) => self.token_of_number(&digits),
            Subject::Name(name) => self.sign(b"cdrlake name v1\0", &name),
        }
    }

    /// What stands for a number of these digits, which have no international prefix.
    pub(super) fn token_of_number(&self, digits: &str) -> Token {
        self.sign(b"cdrlake number v1\0", digits)
    }

    fn sign(&self, kind: &[u8], subject: &str) -> Token {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(kind);
        context.update(subject.as_bytes());
        let mut token = String::with_capacity(TOKEN_PREFIX.len() + TOKEN_DIGITS);
        token.push_str(TOKEN_PREFIX);
        push_hex(&mut token, &context.sign().as_ref()[..TOKEN_DIGITS / 2]);
        Token(token)
    }
}

/// Whom an address names.
enum Subject {
    /// By a number: its digits.
    Number(String),
    /// By a name, or what is taken for one.
    Name(String),
}

impl Subject {
    fn of(address: &str) -> Self {
        let address = unescaped(address);
        let user = address.get(user_part(&address)).unwrap_or_default();
        let mut found = numbers(user, true).map(|found| user.get(found.number).unwrap_or_default());
        match (found.next(), found.next()) {
            // A number with something beside it is that number.
            (Some(number), None) if are_known(number) => Self::Number(digits(number)),
            (None, None) if !is_name(user) && are_known(user) => Self::Number(digits(user)),
            _ => Self::Name(user.to_lowercase()),
        }
    }
}

/// Stands for a number, or a name in its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// Its text.
    pub(super) fn into_text(self) -> String {
        self.0
    }
}

impl std::borrow::Borrow<str> for Token {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Whether a text is a token and nothing else.
pub(super) fn is_token(text: &str) -> bool {
    text.strip_prefix(TOKEN_PREFIX).is_some_and(|digits| {
        digits.len() == TOKEN_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// The tokens in a text.
pub(super) fn tokens_in(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(TOKEN_PREFIX)
        .filter_map(|(at, _)| text.get(at..at + TOKEN_PREFIX.len() + TOKEN_DIGITS))
        .filter(|token| is_token(token))
}

/// Whether who calls or is called is named, not numbered.
pub(super) fn is_name(user: &str) -> bool {
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
