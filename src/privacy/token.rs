//! Pseudonyms: keyed hashes of numbers and names.

use std::collections::HashSet;
use std::fmt;

use ring::hmac;
use serde::{Deserialize, Serialize};

use super::numbers::{
    MIN_DIGITS, TOKEN_DIGITS, TOKEN_PREFIX, has_only_known_digits, normalized_digits, numbers,
    unescaped, user_part,
};

/// Shortest key in bytes: the length of the hash.
pub(super) const MIN_KEY_BYTES: usize = 32;
/// Fewest distinct bytes of a key. A random key practically never has fewer.
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
    /// Makes a key from its text.
    ///
    /// # Errors
    /// A sentence if the text is too short or too simple. It does not contain the text.
    pub fn try_new(text: &str) -> Result<Self, String> {
        let make = "Generate a key with: openssl rand -hex 32";
        if text.len() < MIN_KEY_BYTES {
            return Err(format!(
                "the key has {} characters, but needs at least {MIN_KEY_BYTES}. {make}",
                text.len()
            ));
        }
        if text.bytes().collect::<HashSet<u8>>().len() < MIN_DIFFERENT_BYTES {
            return Err(format!(
                "the key has fewer than {MIN_DIFFERENT_BYTES} different characters. {make}"
            ));
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
        let hash = hmac::sign(&key, b"cdrlake key id v1");
        let mut id = String::new();
        push_hex(&mut id, &hash.as_ref()[..8]);
        Ok(Self { key, id })
    }

    /// An id of the key that does not reveal it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The token of an address's number or name: [`TOKEN_PREFIX`] and 32 hexadecimal digits.
    pub fn token(&self, address: &str) -> Token {
        // The common case.
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

    /// The token of a number. `digits` have no dial prefix.
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

/// The number or name in an address.
enum Subject {
    /// The digits of a number.
    Number(String),
    /// A name, or any other text.
    Name(String),
}

impl Subject {
    fn of(address: &str) -> Self {
        let address = unescaped(address);
        let user = address.get(user_part(&address)).unwrap_or_default();
        let mut found = numbers(user, true).map(|found| user.get(found.number).unwrap_or_default());
        match (found.next(), found.next()) {
            // Text beside a single number does not matter.
            (Some(number), None) if has_only_known_digits(number) => {
                Self::Number(normalized_digits(number))
            }
            (None, None) if !is_name(user) && has_only_known_digits(user) => {
                Self::Number(normalized_digits(user))
            }
            _ => Self::Name(user.to_lowercase()),
        }
    }
}

/// Replaces a number or a name.
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

/// Whether the whole text is a token.
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

/// Whether a user is a name, not a number.
pub(super) fn is_name(user: &str) -> bool {
    user.chars().any(char::is_alphabetic) || !user.chars().any(char::is_numeric)
}

/// Appends bytes as hexadecimal digits.
fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(DIGITS[usize::from(digit)]));
        }
    }
}
