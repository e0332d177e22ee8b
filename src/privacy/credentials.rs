//! Credentials in what the source sends.
//!
//! Records may hold the account's key: the provider's published example of a `transcription` has an
//! address that ends in `?appid=` and the key. Nothing that is stored or shown may hold
//!
//! - the key of this run, wherever it stands, and
//! - the value of a query parameter that carries a credential, in an address anywhere in a text, or
//!   the password of an address (`https://user:password@host`, `sip:user:password@host`): also where
//!   no key is known.
//!
//! The rest of the address stays, so that it still says what it pointed to.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use memchr::memmem::Finder;
use secrecy::{ExposeSecret, SecretString};

use super::numbers::{percent_escaped, splice, without_escapes};
use super::text::map_json;

/// Stands for a credential.
const REDACTED: &str = "[redacted]";
/// Stands for the key in what is said.
const HIDDEN_KEY: &str = "[key]";
/// A shorter key is not looked for in records: `demo`, the simulator's, is a word that may stand there.
const MIN_KEY_BYTES: usize = 6;

/// What must not be stored.
#[derive(Clone, Default)]
pub struct Credentials {
    key: Option<Key>,
}

/// A key, and how it is found in records.
#[derive(Clone)]
struct Key {
    secret: SecretString,
    finder: Option<Finder<'static>>,
    /// What came in its place in the middle of a run. Both stay secret.
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
    /// The key of this run, where one is known, and what addresses carry.
    pub fn new(key: Option<SecretString>) -> Self {
        Self {
            key: key.map(Key::new),
        }
    }

    /// The key to ask with.
    pub fn key(&self) -> Option<&SecretString> {
        Some(&self.keys().last()?.secret)
    }

    /// Takes another key in place of the last. Whether it is another.
    pub fn renew(&self, key: SecretString) -> bool {
        let key = Key::new(key);
        let is_known = self.keys().any(|known| known.text() == key.text());
        let last = self.keys().last().filter(|_| !is_known);
        last.is_some_and(|last| last.successor.set(Box::new(key)).is_ok())
    }

    /// How many keys there were so far.
    pub fn generation(&self) -> usize {
        self.keys().count()
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::successors(self.key.as_ref(), |key| {
            key.successor.get().map(Box::as_ref)
        })
    }

    /// The longest first, for one may be the beginning of the other.
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

    /// Whether there may be credentials in what is read from `json`.
    #[inline]
    pub(crate) fn may_be_in(&self, json: &[u8]) -> bool {
        // What assigns a parameter or ends a password, and what may spell them, or the key, in
        // another way.
        memchr::memchr3(b'=', b'%', b'\\', json).is_some()
            || memchr::memchr2(b'@', b'&', json).is_some()
            || self.holds_key(json)
    }

    /// JSON without credentials.
    pub(crate) fn redact_json<'a>(&self, json: &'a str) -> Cow<'a, str> {
        let of_text = |text: &str| match self.redact_text(text) {
            Cow::Owned(redacted) => Some(redacted),
            Cow::Borrowed(_) => None,
        };
        // A key may be of digits only.
        let of_number = |number: &str| {
            self.holds_key(number.as_bytes())
                .then(|| format!("\"{REDACTED}\""))
        };
        map_json(json, of_text, of_number)
    }

    fn holds_key(&self, text: &[u8]) -> bool {
        let mut finders = self.keys().filter_map(|key| key.finder.as_ref());
        finders.any(|key| key.find(text).is_some())
    }

    /// A text without credentials, however they are escaped.
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
            redacted = Cow::Owned(splice(&redacted, keys).into_owned());
        }
        redacted
    }

    /// The bytes of a record that was rejected, which may be cut anywhere, without credentials. What is
    /// no text becomes what is shown of it.
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

    /// A line of CSV without credentials: an address ends where its cell does.
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
        splice(line, redacted.into_iter())
    }

    /// How many bytes a text ends with that are the beginning of a key.
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

/// A message without a key, which may be a part of what stands for one already.
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
    splice(message, keys).into_owned()
}

/// Whether something in an id was redacted, so that it may no longer tell one call from another.
pub(crate) fn is_redacted(id: &str) -> bool {
    id.contains(REDACTED)
}

/// A text whose addresses carry no credentials. Time: linear in the text.
pub(crate) fn redact_addresses(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut redacted = Vec::new();
    let (mut at, mut end, mut seen) = (0, 0, 0);
    while let Some(found) = bytes.get(at..).and_then(find_mark) {
        at += found;
        let value = match bytes[at] {
            b':' => password_behind(text, at, &mut seen),
            _ => value_at(text, at),
        };
        at += 1;
        if let Some(value) = value.filter(|value| value.start >= end) {
            // Whatever else is within it goes with it.
            end = value.end;
            at = at.max(end);
            redacted.push((value, REDACTED.to_owned()));
        }
    }
    splice(text, redacted.into_iter())
}

/// What may assign a value, or stand before a password.
fn find_mark(bytes: &[u8]) -> Option<usize> {
    bytes
        .iter()
        .position(|byte| matches!(byte, b'=' | b'%' | b'&' | b':'))
}

/// Longest name of a parameter that is looked at.
const MAX_NAME_BYTES: usize = 64;

/// Where the value stands that is assigned at `at`, if it is that of a parameter that carries a credential.
fn value_at(text: &str, at: usize) -> Option<Range<usize>> {
    let rest = text.get(at..)?;
    let entity = ["&#61;", "&#x3d;", "&#x3D;", "&equals;"]
        .into_iter()
        .find(|entity| rest.starts_with(entity));
    let (sign, is_nested) = match entity {
        Some(entity) => (entity.len(), false),
        None if rest.starts_with('=') => (1, false),
        // Within the value of another parameter this one ends where its own address does.
        None => (escaped(rest, &["3d"])?, true),
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
            escaped(rest, &["26", "23", "3b"]).is_some()
        };
        length = percents.into_iter().find(is_end).unwrap_or(length);
    }
    let is_there = length > 0 && value.get(..length) != Some(REDACTED);
    is_there.then(|| start..start + length)
}

/// The name of the parameter to which something is assigned at `at`: from what begins one on.
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
        let escaped = escaped(name.get(percent..)?, &["3f", "26", "3b", "23"])?;
        name.get(percent + escaped..)
    });
    nested.or_else(|| matches!(delimiter?, '?' | '&' | ';' | '#').then_some(name))
}

/// How many bytes a text begins with that stand for one of the characters with these `codes`, however often
/// they were escaped: `%3D`, `%253D`.
fn escaped(text: &str, codes: &[&str]) -> Option<usize> {
    let mut rest = text.strip_prefix('%')?;
    while let Some(again) = rest.strip_prefix("25") {
        rest = again;
    }
    let code = rest.get(..2)?;
    let is_it = codes.iter().any(|known| known.eq_ignore_ascii_case(code));
    is_it.then(|| text.len() - rest.len() + 2)
}

/// Whether a query parameter of this name carries a credential, whatever its case and marks.
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

/// Where the password of an address stands whose scheme ends with the colon at `at`. Nothing before `seen` is looked at
/// again.
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
    let who = text.get(start..)?;
    let ends = |c: char| c.is_whitespace() || "/?#\"'<>,\\".contains(c);
    let who = who.get(..who.find(ends).unwrap_or(who.len()))?;
    *seen = start + who.len();
    let (colon, host) = (who.find(':')?, who.rfind('@')?);
    let is_there = colon + 1 < host && who.get(colon + 1..host) != Some(REDACTED);
    is_there.then(|| start + colon + 1..start + host)
}

/// Whether a text ends with the scheme of SIP addresses.
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
    use crate::cdr::decode::Record;

    const KEY: &str = "canary-key-5f1d";

    fn credentials() -> Credentials {
        Credentials::new(Some(SecretString::from(KEY)))
    }

    #[test]
    fn values_of_parameters_that_carry_credentials_go_and_the_rest_of_the_address_stays() {
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
                "https://b/o?X-Amz-Date=1&X-Amz-Signature=[redacted]&X-Amz-Security-Token=[redacted]",
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
            assert_eq!(redact_addresses(expected), expected, "once is enough");
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
    fn a_key_that_was_replaced_stays_as_secret_as_its_successor() {
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
            assert!(credentials.redact(&mut record, json.as_bytes()));
            assert_eq!(record.extra.as_deref(), Some(r#"{"a":"[redacted]"}"#));
        }
    }

    #[test]
    fn a_key_is_hidden_once_however_often_a_message_is_looked_at() {
        for key in ["key", "demo", "[key", "key]x", "aa"] {
            let credentials = Credentials::new(Some(SecretString::from(key)));
            let once = credentials.hide_keys(&format!("Check source.api: {key}, {key}{key}!"));
            assert_eq!(once, "Check source.api: [key], [key][key]!", "{key}");
            assert_eq!(credentials.hide_keys(&once), once, "{key}");
        }
    }

    #[test]
    fn the_key_goes_from_every_field_however_it_is_written() {
        let json = format!(
            r#"{{"a":"{KEY}","{KEY}":["x {KEY} y"],"c":"https:\/\/x\/?appid\u003d{KEY}","d":"canary\u002dkey-5f1d"}}"#
        );
        let mut record = Record {
            call_id: Some(KEY.into()),
            destination: Some(format!("to {KEY}").into()),
            extra: Some(json.clone().into()),
            ..Record::default()
        };
        assert!(credentials().redact(&mut record, json.as_bytes()));
        let shown = format!("{record:?}");
        assert!(!shown.contains("5f1d"), "{shown}");
        let extra: serde_json::Value = serde_json::from_str(&record.extra.unwrap()).unwrap();
        assert_eq!(extra["c"], "https://x/?appid=[redacted]");
        // A key of digits may stand as a number.
        let digits = Credentials::new(Some(SecretString::from("8675309123")));
        let mut record = Record {
            extra: Some(r#"{"a":8675309123}"#.into()),
            ..Record::default()
        };
        assert!(digits.redact(&mut record, br#"{"a":8675309123}"#));
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
    fn a_password_is_found_in_a_record_that_holds_no_parameter() {
        for json in [
            r#"{"url":"https://user:sesame@host/y"}"#,
            r#"{"x":"{\"url\":\"https://x/y?a=1\\u0026appid=sesame\"}"}"#,
            r#"{"x":"https://x/y?a=1&appid&#61;sesame"}"#,
        ] {
            let mut record = Record {
                extra: Some(json.into()),
                ..Record::default()
            };
            assert!(credentials().redact(&mut record, json.as_bytes()), "{json}");
            assert!(
                !record.extra.as_deref().unwrap().contains("sesame"),
                "{record:?}"
            );
        }
    }

    #[test]
    fn an_address_in_a_line_of_csv_ends_with_its_cell_and_a_key_may_be_cut() {
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
    fn long_texts_of_marks_take_no_longer_than_they_are() {
        for text in [
            "@", "?key=a", "u:@", "sip:", "://", "=", "%25", "?%3D", "&#61;",
        ] {
            let text = text.repeat(200_000 / text.len());
            drop(credentials().redact_text(&text));
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_stands_around_it_no_credential_stays(
            before in "\\PC{0,12}",
            name in proptest::sample::select(vec![
                "appid", "api_key", "apikey", "key", "token", "access_token", "signature",
                "X-Amz-Signature", "sig", "AppId", "KEY",
            ]),
            value in "[A-Za-z0-9_.~+/-]{8,24}",
            behind in "(&\\PC{0,12})?",
            delimiter in proptest::sample::select(vec!["?", "&", "&amp;", "#"]),
        ) {
            let text = format!("{before}https://x.example/y{delimiter}{name}={value}{behind}");
            let extra = serde_json::json!({"transcription": {"url": &text}}).to_string();
            let mut record = Record {
                destination: Some(text.clone().into()),
                extra: Some(extra.clone().into()),
                ..Record::default()
            };
            proptest::prop_assert!(Credentials::default().redact(&mut record, extra.as_bytes()));
            let stored = format!("{:?}{:?}", record.destination, record.extra);
            proptest::prop_assert!(!stored.contains(&value), "{}", stored);
            proptest::prop_assert!(stored.contains("https://x.example/y"), "{}", stored);
            let kept = Credentials::default().redact_bytes(extra.as_bytes()).into_owned();
            let kept = String::from_utf8(kept).unwrap();
            proptest::prop_assert!(!kept.contains(&value), "{}", kept);

            // The key of the run, with nothing that announces it.
            let own = Credentials::new(Some(SecretString::from(value.clone())));
            let text = format!("{before}{value}{behind}");
            proptest::prop_assert!(!own.redact_text(&text).contains(&value));
        }
    }
}
