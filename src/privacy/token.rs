//! Pseudonyms: keyed hashes of numbers and names.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use ring::hmac;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

    /// The token of an address's number or name.
    pub fn token(&self, address: &str) -> Token {
        if is_plain_number(address) {
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
        let hash = context.sign();
        let first = hash.as_ref().first_chunk();
        Token(u128::from_be_bytes(*first.expect("the hash is longer")))
    }
}

/// Whether an address is a number of digits only, without a dial prefix: the common case.
pub(crate) fn is_plain_number(address: &str) -> bool {
    address.len() >= MIN_DIGITS
        && address.bytes().all(|byte| byte.is_ascii_digit())
        && !address.starts_with('0')
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

/// Replaces a number or a name: [`TOKEN_PREFIX`] and 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u128);

impl Token {
    /// The token with this text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(TOKEN_PREFIX)?;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_token = digits.len() == TOKEN_DIGITS && digits.bytes().all(is_digit);
        let number = is_token.then(|| u128::from_str_radix(digits, 16).ok())?;
        number.map(Self)
    }

    /// Its text.
    pub(crate) fn into_text(self) -> String {
        let mut text = String::with_capacity(TOKEN_PREFIX.len() + TOKEN_DIGITS);
        text.push_str(TOKEN_PREFIX);
        push_hex(&mut text, &self.0.to_be_bytes());
        text
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.into_text())
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not a pseudonym"))
    }
}

/// Whether the whole text is a token.
pub(super) fn is_token(text: &str) -> bool {
    text.strip_prefix(TOKEN_PREFIX).is_some_and(|digits| {
        digits.len() == TOKEN_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// The tokens in a text.
pub(super) fn tokens_in(text: &str) -> impl Iterator<Item = Token> {
    text.match_indices(TOKEN_PREFIX)
        .filter_map(|(at, _)| text.get(at..at + TOKEN_PREFIX.len() + TOKEN_DIGITS))
        .filter_map(Token::parse)
}

/// Whether a user is a name, not a number.
pub(super) fn is_name(user: &str) -> bool {
    user.chars().any(char::is_alphabetic) || !user.chars().any(char::is_numeric)
}

/// Appends bytes as hexadecimal digits.
fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for chunk in bytes.chunks(8) {
        let mut digits = [0; 16];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(chunk) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        let digits = str::from_utf8(&digits[..2 * chunk.len()]);
        text.push_str(digits.expect("digits are ASCII"));
    }
}
