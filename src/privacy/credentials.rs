//! Removes credentials from records and messages.
//!
//! Records may hold the account's key: in the provider's published example, the address of a
//! `transcription` ends with `?appid=` and the key. Stored or printed texts must not contain
//!
//! - the key of this run, at any place,
//! - the value of a query parameter for credentials, in any address, or
//! - the password of an address (`https://user:password@host`, `sip:user:password@host`).
//!
//! The last two are removed even if no key is configured. The rest of the address stays.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use memchr::memmem::Finder;
use secrecy::{ExposeSecret, SecretString};

use super::numbers::{percent_escaped, replace_ranges, without_escapes};
use super::text::map_json;

/// Replaces a credential in records.
const REDACTED: &str = "[redacted]";
/// Replaces the key in messages.
const HIDDEN_KEY: &str = "[key]";
/// Shorter keys are not redacted in records: `demo`, the simulator's key, is also an ordinary word.
const MIN_KEY_BYTES: usize = 6;

/// The credentials of a run, which must not be stored.
#[derive(Clone, Default)]
pub struct Credentials {
    key: Option<Key>,
}

/// A key and its search in records.
#[derive(Clone)]
struct Key {
    secret: SecretString,
    finder: Option<Finder<'static>>,
    /// The key that replaced it during the run. Both stay secret.
    successor: OnceLock<Box<Key>>,
}

impl Key {
    fn new(secret: SecretString) -> Self {
        let text = secret.expose_secret();
        let finder =
            (text.len() >= MIN_KEY_BYTES).then(|| Finder::new(text.as_bytes()).into_owned());
        Self {
            secret,
            finder,
            successor: OnceLock::new(),
        }
    }

    fn text(&self) -> &str {
        self.secret.expose_secret()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// Credentials with the key of this run, if there is one.
    pub fn new(key: Option<SecretString>) -> Self {
        Self {
            key: key.map(Key::new),
        }
    }

    /// The current key.
    pub fn key(&self) -> Option<&SecretString> {
        Some(&self.keys().last()?.secret)
    }

    /// Replaces the current key. Returns whether `key` is new.
    pub fn renew(&self, key: SecretString) -> bool {
        let key = Key::new(key);
        let is_known = self.keys().any(|known| known.text() == key.text());
        let last = self.keys().last().filter(|_| !is_known);
        last.is_some_and(|last| last.successor.set(Box::new(key)).is_ok())
    }

    /// Number of keys so far.
    pub fn generation(&self) -> usize {
        self.keys().count()
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::successors(self.key.as_ref(), |key| {
            key.successor.get().map(Box::as_ref)
        })
    }

    /// The longest key first, because one may be the beginning of another.
    fn longest_first(&self) -> impl Iterator<Item = &Key> {
        let mut keys: Vec<_> = self.keys().collect();
        keys.sort_by_key(|key| std::cmp::Reverse(key.text().len()));
        keys.into_iter()
    }

    /// The message with `[key]` in place of every key of this run. Hiding twice changes nothing.
    pub fn hide_keys(&self, message: &str) -> String {
        let hide = |message: String, key: &Key| hide_key(&message, key.text());
        self.longest_first().fold(message.to_owned(), hide)
    }

    /// Whether a text, or a record decoded from it, may contain credentials.
    #[inline]
    pub(crate) fn may_be_in(&self, text: &[u8]) -> bool {
        Self::has_marks(text) || self.holds_key(text)
    }

    /// Characters that assign a parameter, end a password or begin an escape. A text without them
    /// has no credentials, except a key of this run as it stands.
    pub(crate) const MARKS: [u8; 5] = [b'=', b'%', b'\\', b'@', b'&'];

    /// Whether a text has one of [`MARKS`](Self::MARKS).
    #[inline]
    pub(crate) fn has_marks(text: &[u8]) -> bool {
        let [first @ .., fourth, fifth] = Self::MARKS;
        memchr::memchr3(first[0], first[1], first[2], text).is_some()
            || memchr::memchr2(fourth, fifth, text).is_some()
    }

    /// The JSON text without credentials.
    pub(crate) fn redact_json<'a>(&self, json: &'a str) -> Cow<'a, str> {
        let of_text = |text: &str| match self.redact_text(text) {
            Cow::Owned(redacted) => Some(redacted),
            Cow::Borrowed(_) => None,
        };
        // A key may consist of digits.
        let of_number = |number: &str| {
            self.holds_key(number.as_bytes())
                .then(|| format!("\"{REDACTED}\""))
        };
        map_json(json, of_text, of_number)
    }

    /// Whether a text has a key of this run as it stands.
    pub(crate) fn holds_key(&self, text: &[u8]) -> bool {
        let mut finders = self.keys().filter_map(|key| key.finder.as_ref());
        finders.any(|key| key.find(text).is_some())
    }

    /// The text without credentials, even if they are escaped.
    pub fn redact_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if text.contains('\\')
            && let Cow::Owned(redacted) = self.redact_as_written(&without_escapes(text))
        {
            return Cow::Owned(redacted);
        }
        self.redact_as_written(text)
    }

    fn redact_as_written<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut redacted = redact_addresses(text);
        if !self.holds_key(redacted.as_bytes()) {
            return redacted;
        }
        for key in self.longest_first().filter_map(|key| key.finder.as_ref()) {
            let length = key.needle().len();
            let keys = key.find_iter(redacted.as_bytes());
            let keys = keys.map(|at| (at..at + length, REDACTED.to_owned()));
            redacted = Cow::Owned(replace_ranges(&redacted, keys).into_owned());
        }
        redacted
    }

    /// The bytes of a rejected record without credentials. The record may be truncated. If anything
    /// is redacted, invalid UTF-8 is replaced too.
    pub fn redact_bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let text = String::from_utf8_lossy(bytes);
        let redacted = if text.trim_start().starts_with(['{', '[']) {
            self.redact_text(&text)
        } else {
            self.redact_cells(&text)
        };
        let cut = self.cut_key(&redacted);
        match redacted {
            Cow::Borrowed(_) if cut == 0 => Cow::Borrowed(bytes),
            redacted => {
                let kept = redacted.get(..redacted.len() - cut).unwrap_or_default();
                let end = if cut > 0 { REDACTED } else { "" };
                Cow::Owned([kept, end].concat().into_bytes())
            }
        }
    }

    /// A line of CSV without credentials. An address ends with its cell.
    fn redact_cells<'a>(&self, line: &'a str) -> Cow<'a, str> {
        let (mut start, mut is_quoted) = (0, false);
        let mut redacted = Vec::new();
        let ends = line.char_indices().filter(|(_, c)| {
            is_quoted ^= *c == '"';
            !is_quoted && matches!(c, ',' | ';' | '\t')
        });
        for end in ends.map(|(at, _)| at).chain([line.len()]) {
            let cell = line.get(start..end).unwrap_or_default();
            if let Cow::Owned(cell) = self.redact_text(cell) {
                redacted.push((start..end, cell));
            }
            start = end + 1;
        }
        replace_ranges(line, redacted.into_iter())
    }

    /// Length of the longest end of `text` that is the beginning of a key.
    fn cut_key(&self, text: &str) -> usize {
        let needles = self.keys().filter_map(|key| key.finder.as_ref());
        let cuts = needles.map(|finder| {
            let key = finder.needle();
            let mut lengths = (MIN_KEY_BYTES..key.len()).rev();
            let is_cut = |length: &usize| {
                let start = text.len().checked_sub(*length);
                start.is_some_and(|start| text.is_char_boundary(start))
                    && text.as_bytes().ends_with(&key[..*length])
            };
            lengths.find(is_cut).unwrap_or_default()
        });
        cuts.max().unwrap_or_default()
    }
}

/// Replaces `key` by `[key]`, except within an existing `[key]`.
fn hide_key(message: &str, key: &str) -> String {
    let hidden: Vec<usize> = message
        .match_indices(HIDDEN_KEY)
        .map(|(at, _)| at)
        .collect();
    let is_hidden = |at: &usize| {
        let within = |start: &usize| start <= at && at + key.len() <= start + HIDDEN_KEY.len();
        hidden.iter().any(within)
    };
    let keys = message.match_indices(key).map(|(at, _)| at);
    let keys = keys.filter(|at| !is_hidden(at));
    let keys = keys.map(|at| (at..at + key.len(), HIDDEN_KEY.to_owned()));
    replace_ranges(message, keys).into_owned()
}

/// Whether a part of an id was redacted, so that the id may no longer be unique.
pub(crate) fn is_redacted(id: &str) -> bool {
    // Fast, because most ids have no bracket.
    memchr::memchr(b'[', id.as_bytes()).is_some() && id.contains(REDACTED)
}

/// The text without credentials in addresses. Time: linear in the text.
pub(crate) fn redact_addresses(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut redacted = Vec::new();
    let (mut at, mut end, mut seen) = (0, 0, 0);
    while let Some(found) = bytes.get(at..).and_then(find_delimiter) {
        at += found;
        let value = match bytes[at] {
            b':' => password_behind(text, at, &mut seen),
            _ => value_at(text, at),
        };
        at += 1;
        if let Some(value) = value.filter(|value| value.start >= end) {
            // Skips matches within the removed value.
            end = value.end;
            at = at.max(end);
            redacted.push((value, REDACTED.to_owned()));
        }
    }
    replace_ranges(text, redacted.into_iter())
}

/// The first character that may assign a value or precede a password.
fn find_delimiter(bytes: &[u8]) -> Option<usize> {
    bytes
        .iter()
        .position(|byte| matches!(byte, b'=' | b'%' | b'&' | b':'))
}

/// Longest parameter name examined.
const MAX_NAME_BYTES: usize = 64;

/// The range of the value assigned at `at`, if its parameter carries a credential.
fn value_at(text: &str, at: usize) -> Option<Range<usize>> {
    let rest = text.get(at..)?;
    let entity = ["&#61;", "&#x3d;", "&#x3D;", "&equals;"]
        .into_iter()
        .find(|entity| rest.starts_with(entity));
    let (sign, is_nested) = match entity {
        Some(entity) => (entity.len(), false),
        None if rest.starts_with('=') => (1, false),
        // An escaped assignment: the parameter is in an address within the value of another
        // parameter.
        None => (escape_length(rest, &["3d"])?, true),
    };
    if !is_credential(name_before(text, at)?) {
        return None;
    }
    let start = at + sign;
    let value = text.get(start..)?;
    let ends = |c: char| c.is_whitespace() || c.is_control() || "&#\"<>\\".contains(c);
    let mut length = value.find(ends).unwrap_or(value.len());
    if is_nested {
        let percents = memchr::memchr_iter(b'%', value.get(..length)?.as_bytes());
        let is_end = |at: &usize| {
            let rest = value.get(*at..).unwrap_or_default();
            escape_length(rest, &["26", "23", "3b"]).is_some()
        };
        length = percents.into_iter().find(is_end).unwrap_or(length);
    }
    let has_value = length > 0 && value.get(..length) != Some(REDACTED);
    has_value.then(|| start..start + length)
}

/// The name of the parameter that is assigned at `at`.
fn name_before(text: &str, at: usize) -> Option<&str> {
    let first =
        (at.saturating_sub(MAX_NAME_BYTES)..=at).find(|&first| text.is_char_boundary(first))?;
    let before = text.get(first..at)?;
    let breaks = |c: char| c.is_whitespace() || "?&;#=\"'<>".contains(c);
    let (delimiter, name) = match before.char_indices().rfind(|(_, c)| breaks(*c)) {
        Some((found, c)) => (Some(c), before.get(found + c.len_utf8()..)?),
        None => (None, before),
    };
    // An address within the value of a parameter.
    let percents = memchr::memrchr_iter(b'%', name.as_bytes());
    let nested = percents.into_iter().find_map(|percent| {
        let escaped = escape_length(name.get(percent..)?, &["3f", "26", "3b", "23"])?;
        name.get(percent + escaped..)
    });
    nested.or_else(|| matches!(delimiter?, '?' | '&' | ';' | '#').then_some(name))
}

/// Length of the escape at the beginning of `text`, if it stands for a character with one of these
/// `codes`. It may be escaped repeatedly: `%3D`, `%253D`.
fn escape_length(text: &str, codes: &[&str]) -> Option<usize> {
    let mut rest = text.strip_prefix('%')?;
    while let Some(again) = rest.strip_prefix("25") {
        rest = again;
    }
    let code = rest.get(..2)?;
    let is_it = codes.iter().any(|known| known.eq_ignore_ascii_case(code));
    is_it.then(|| text.len() - rest.len() + 2)
}

/// Whether a query parameter with this name carries a credential. Ignores case and punctuation.
fn is_credential(name: &str) -> bool {
    const WHOLE: [&str; 8] = ["appid", "auth", "hmac", "jwt", "pw", "pwd", "sig", "sign"];
    const WITHIN: [&str; 9] = [
        "accesskey",
        "apikey",
        "authorization",
        "credential",
        "passwd",
        "password",
        "secret",
        "signature",
        "token",
    ];
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let (c, length) =
            percent_escaped(rest, 0).map_or((c, c.len_utf8()), |byte| (byte.into(), 3));
        rest = rest.get(length..).unwrap_or_default();
        plain.extend(c.is_ascii_alphanumeric().then(|| c.to_ascii_lowercase()));
    }
    // apikey, x-api-key, subscription-key.
    plain.ends_with("key")
        || plain.ends_with("pass")
        || WHOLE.contains(&&*plain)
        || WITHIN.iter().any(|part| plain.contains(part))
}

/// The range of the password in an address whose scheme ends with the colon at `at`. Skips text
/// before `seen`, which was examined before.
fn password_behind(text: &str, at: usize, seen: &mut usize) -> Option<Range<usize>> {
    let rest = text.get(at + 1..)?;
    let start = if rest.starts_with("//") {
        at + 3
    } else if ends_with_sip(text.get(..at)?) {
        at + 1
    } else {
        return None;
    };
    if start < *seen {
        return None;
    }
    let authority = text.get(start..)?;
    let ends = |c: char| c.is_whitespace() || "/?#\"'<>,\\".contains(c);
    let authority = authority.get(..authority.find(ends).unwrap_or(authority.len()))?;
    *seen = start + authority.len();
    let (colon, host) = (authority.find(':')?, authority.rfind('@')?);
    let is_password = colon + 1 < host && authority.get(colon + 1..host) != Some(REDACTED);
    is_password.then(|| start + colon + 1..start + host)
}

/// Whether a text ends with the scheme of a SIP address.
fn ends_with_sip(text: &str) -> bool {
    let ends_with = |scheme: &str| {
        let before = text.len().checked_sub(scheme.len());
        let found = before.and_then(|before| text.get(before..));
        found.is_some_and(|found| found.eq_ignore_ascii_case(scheme))
    };
    ends_with("sip") || ends_with("sips")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdr::decode::{Record, TextClass};

    fn redact(credentials: &Credentials, record: &mut Record<'_>, json: &[u8]) -> bool {
        credentials.redact(record, json, TextClass::of(json))
    }

    const KEY: &str = "canary-key-5f1d";

    fn credentials() -> Credentials {
        Credentials::new(Some(SecretString::from(KEY)))
    }

    #[test]
    fn values_of_credential_parameters_are_removed_and_the_rest_of_the_address_stays() {
        for (text, expected) in [
            (
                "https://api.example/v1/x/transcription?appid=secret",
                "https://api.example/v1/x/transcription?appid=[redacted]",
            ),
            (
                "see https://x/y?a=1&API_KEY=s3&b=2#top now",
                "see https://x/y?a=1&API_KEY=[redacted]&b=2#top now",
            ),
            (
                "/y?a=1&amp;token=s3&amp;b=2",
                "/y?a=1&amp;token=[redacted]&amp;b=2",
            ),
            (
                "https://x/y#access_token=s3",
                "https://x/y#access_token=[redacted]",
            ),
            (
                "https://b/o?X-Amz-Date=1&X-Amz-Signature=abc&X-Amz-Security-Token=d%2Fe",
                "https://b/o?X-Amz-Date=1&X-Amz-Signature=[redacted]\
                 &X-Amz-Security-Token=[redacted]",
            ),
            (
                "https://b/o?sv=1&sig=a%2Bb%3D&se=2",
                "https://b/o?sv=1&sig=[redacted]&se=2",
            ),
            (
                "https://x/?to=https%3A%2F%2Fy%3Fappid%3Dsecret%26b%3D1&c=2",
                "https://x/?to=https%3A%2F%2Fy%3Fappid%3D[redacted]%26b%3D1&c=2",
            ),
            (
                "x%253Fkey%253Dsecret%2526b",
                "x%253Fkey%253D[redacted]%2526b",
            ),
            ("https://u:pw@x/y", "https://u:[redacted]@x/y"),
            ("https://u:p@w@x/y", "https://u:[redacted]@x/y"),
            (
                "sip:al:pw@x;token=s",
                "sip:al:[redacted]@x;token=[redacted]",
            ),
            ("?key=abc,def'ghi;jkl", "?key=[redacted]"),
            (
                "?api%5Fkey=s&%61ppid=s&aws:token=s&x/key=s",
                "?api%5Fkey=[redacted]&%61ppid=[redacted]&aws:token=[redacted]&x/key=[redacted]",
            ),
            (
                "x?a=1&appid&#61;s&user_pass=s&apikey2=s",
                "x?a=1&appid&#61;[redacted]&user_pass=[redacted]&apikey2=[redacted]",
            ),
        ] {
            assert_eq!(redact_addresses(text), expected);
            assert_eq!(
                redact_addresses(expected),
                expected,
                "redacting twice changes nothing"
            );
        }
        for harmless in [
            "key=5",
            "a?tokens",
            "?appid=",
            "https://x/?monkeys=3&signal=4&keyboard=us",
            "sip:alice@example.com;user=phone",
            "sip:call@x;session=7&sid=8",
            "100% = all",
            "é?=x",
            "%",
            "=",
        ] {
            assert_eq!(redact_addresses(harmless), harmless);
        }
    }

    #[test]
    fn a_replaced_key_stays_secret() {
        let credentials = credentials();
        assert!(!credentials.renew(SecretString::from(KEY)), "the same");
        let newer = format!("{KEY}-newer");
        assert!(credentials.renew(SecretString::from(newer.clone())));
        assert_eq!(credentials.key().unwrap().expose_secret(), newer);
        let third = "a-third-one";
        assert!(credentials.renew(SecretString::from(third)));
        assert!(!credentials.renew(SecretString::from(KEY)), "known");
        assert_eq!(credentials.key().unwrap().expose_secret(), third);
        assert_eq!(credentials.generation(), 3);
        let text = format!("{newer} {KEY} {third}");
        assert_eq!(credentials.hide_keys(&text), "[key] [key] [key]");
        let redacted = "[redacted] [redacted] [redacted]";
        assert_eq!(credentials.redact_text(&text), redacted);
        for key in [KEY, &newer, third] {
            let json = format!(r#"{{"a":"{key}"}}"#);
            let mut record = Record {
                extra: Some(json.clone().into()),
                ..Record::default()
            };
            assert!(redact(&credentials, &mut record, json.as_bytes()));
            assert_eq!(record.extra.as_deref(), Some(r#"{"a":"[redacted]"}"#));
        }
    }

    #[test]
    fn hiding_a_key_twice_changes_nothing() {
        for key in ["key", "demo", "[key", "key]x", "aa"] {
            let credentials = Credentials::new(Some(SecretString::from(key)));
            let once = credentials.hide_keys(&format!("Check source.api: {key}, {key}{key}!"));
            assert_eq!(once, "Check source.api: [key], [key][key]!", "{key}");
            assert_eq!(credentials.hide_keys(&once), once, "{key}");
        }
    }

    #[test]
    fn the_key_is_removed_from_every_field_in_any_notation() {
        let json = format!(
            concat!(
                r#"{{"a":"{KEY}","{KEY}":["x {KEY} y"],"c":"https:\/\/x\/?appid\u003d{KEY}","#,
                r#""d":"canary\u002dkey-5f1d"}}"#
            ),
            KEY = KEY
        );
        let mut record = Record {
            call_id: Some(KEY.into()),
            destination: Some(format!("to {KEY}").into()),
            extra: Some(json.clone().into()),
            ..Record::default()
        };
        assert!(redact(&credentials(), &mut record, json.as_bytes()));
        let shown = format!("{record:?}");
        assert!(!shown.contains("5f1d"), "{shown}");
        let extra: serde_json::Value = serde_json::from_str(&record.extra.unwrap()).unwrap();
        assert_eq!(extra["c"], "https://x/?appid=[redacted]");
        // A key of digits may be a JSON number.
        let digits = Credentials::new(Some(SecretString::from("8675309123")));
        let mut record = Record {
            extra: Some(r#"{"a":8675309123}"#.into()),
            ..Record::default()
        };
        assert!(redact(&digits, &mut record, br#"{"a":8675309123}"#));
        assert_eq!(record.extra.as_deref(), Some(r#"{"a":"[redacted]"}"#));
        for reject in [
            format!(r#"{{"to":"{KEY}"#),
            format!(r#"{{"t":"https:\/\/x?appid\u003d{KEY}""#),
            r#"{"t":"x canary\u002dkey\u002d5f1d""#.to_owned(),
            format!(r#"{{"t":"?appid={KEY}","u":"canary\u002dkey\u002d5f1d""#),
        ] {
            let kept = credentials().redact_bytes(reject.as_bytes()).into_owned();
            let kept = String::from_utf8(kept).unwrap();
            assert!(!without_escapes(&kept).contains("5f1d"), "{reject}: {kept}");
        }
        assert_eq!(credentials().redact_bytes(b"\xff x"), b"\xff x".as_slice());
    }

    #[test]
    fn passwords_and_escaped_parameters_are_removed_from_json() {
        for json in [
            r#"{"url":"https://user:sesame@host/y"}"#,
            r#"{"x":"{\"url\":\"https://x/y?a=1\\u0026appid=sesame\"}"}"#,
            r#"{"x":"https://x/y?a=1&appid&#61;sesame"}"#,
        ] {
            let mut record = Record {
                extra: Some(json.into()),
                ..Record::default()
            };
            assert!(
                redact(&credentials(), &mut record, json.as_bytes()),
                "{json}"
            );
            assert!(
                !record.extra.as_deref().unwrap().contains("sesame"),
                "{record:?}"
            );
        }
    }

    #[test]
    fn an_address_in_csv_ends_with_its_cell_and_a_truncated_key_is_redacted() {
        let kept = |line: &str| {
            String::from_utf8(credentials().redact_bytes(line.as_bytes()).into_owned()).unwrap()
        };
        assert_eq!(
            kept("2026,https://x?sig=a,5,0.02"),
            "2026,https://x?sig=[redacted],5,0.02"
        );
        assert_eq!(
            kept("2026,\"https://x?sig=a,b\",5"),
            "2026,\"https://x?sig=[redacted]\",5"
        );
        assert_eq!(kept(r#"{"note":"canary-ke"#), r#"{"note":"[redacted]"#);
        assert_eq!(kept(r#"{"note":"can"#), r#"{"note":"can"#);
    }

    #[test]
    fn long_texts_of_delimiters_take_linear_time() {
        for text in [
            "@", "?key=a", "u:@", "sip:", "://", "=", "%25", "?%3D", "&#61;",
        ] {
            let text = text.repeat(200_000 / text.len());
            drop(credentials().redact_text(&text));
        }
    }

    proptest::proptest! {
        #[test]
        fn a_credential_is_removed_in_any_context(
            before in "\\PC{0,12}",
            name in proptest::sample::select(vec![
                "appid", "api_key", "apikey", "key", "token", "access_token", "signature",
                "X-Amz-Signature", "sig", "AppId", "KEY",
            ]),
            value in "[A-Za-z0-9_.~+/-]{8,24}",
            after in "(&\\PC{0,12})?",
            delimiter in proptest::sample::select(vec!["?", "&", "&amp;", "#"]),
        ) {
            let text = format!("{before}https://x.example/y{delimiter}{name}={value}{after}");
            let extra = serde_json::json!({"transcription": {"url": &text}}).to_string();
            let mut record = Record {
                destination: Some(text.clone().into()),
                extra: Some(extra.clone().into()),
                ..Record::default()
            };
            proptest::prop_assert!(redact(&Credentials::default(), &mut record, extra.as_bytes()));
            let stored = format!("{:?}{:?}", record.destination, record.extra);
            proptest::prop_assert!(!stored.contains(&value), "{}", stored);
            proptest::prop_assert!(stored.contains("https://x.example/y"), "{}", stored);
            let kept = Credentials::default().redact_bytes(extra.as_bytes()).into_owned();
            let kept = String::from_utf8(kept).unwrap();
            proptest::prop_assert!(!kept.contains(&value), "{}", kept);

            // The key of the run, without a parameter before it.
            let own = Credentials::new(Some(SecretString::from(value.clone())));
            let text = format!("{before}{value}{after}");
            proptest::prop_assert!(!own.redact_text(&text).contains(&value));
        }
    }
}
