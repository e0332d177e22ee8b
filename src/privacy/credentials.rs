//! Credentials in what the source sends.
//!
//! Records may hold the account's key: the provider's published example of a `transcription` has an
//! address that ends in `?appid=` and the key. Nothing that is stored or shown may hold
//!
//! - the key of this run, wherever it stands, and
//! - the value of a query parameter that carries a credential, in an address anywhere in a text, or
//!   the password in front of its host: also where no key is known.
//!
//! The rest of the address stays, so that it still says what it pointed to.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use memchr::memmem::Finder;
use secrecy::{ExposeSecret, SecretString};

use super::text::map_json;
use crate::decode::Record;
use crate::numbers::{splice, without_escapes};

/// Stands for a credential.
const REDACTED: &str = "[redacted]";
/// A shorter key is not looked for in records: `demo`, the simulator's, is a word that may stand there.
const MIN_KEY_BYTES: usize = 6;

/// What must not be stored.
#[derive(Clone, Default)]
pub struct Credentials {
    key: Option<SecretString>,
    finder: Option<Finder<'static>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// The key of this run, where one is known, and what addresses carry.
    pub fn new(key: Option<SecretString>) -> Self {
        let text = key.as_ref().map(ExposeSecret::expose_secret);
        let text = text.filter(|text| text.len() >= MIN_KEY_BYTES);
        Self {
            finder: text.map(|text| Finder::new(text.as_bytes()).into_owned()),
            key,
        }
    }

    /// A message without the key.
    pub fn printable(&self, message: &str) -> String {
        match &self.key {
            Some(key) => message.replace(key.expose_secret(), "[key]"),
            None => message.to_owned(),
        }
    }

    /// Takes credentials out of a record that was decoded from `json`. Whether there were any.
    #[inline]
    pub fn redact(&self, record: &mut Record<'_>, json: &[u8]) -> bool {
        // What assigns a parameter, and what may spell it, or the key, in another way.
        let may_hold = memchr::memchr3(b'=', b'%', b'\\', json).is_some()
            || self
                .finder
                .as_ref()
                .is_some_and(|key| key.find(json).is_some());
        may_hold && self.redact_fields(record)
    }

    fn redact_fields(&self, record: &mut Record<'_>) -> bool {
        let mut is_any = false;
        let texts = [
            &mut record.call_id,
            &mut record.parent_call_id,
            &mut record.from_number,
            &mut record.to_number,
            &mut record.disposition,
            &mut record.destination,
            &mut record.sip_trunk,
            &mut record.answered_by,
        ];
        for text in texts.into_iter().flatten() {
            if let Cow::Owned(redacted) = self.redact_text(text) {
                *text = Cow::Owned(redacted);
                is_any = true;
            }
        }
        if let Some(json) = &mut record.extra {
            let of_text = |text: &str| match self.redact_text(text) {
                Cow::Owned(redacted) => Some(redacted),
                Cow::Borrowed(_) => None,
            };
            // A key may be of digits only.
            let of_number =
                |number: &str| self.holds_key(number).then(|| format!("\"{REDACTED}\""));
            if let Cow::Owned(redacted) = map_json(json, of_text, of_number) {
                *json = Cow::Owned(redacted);
                is_any = true;
            }
        }
        is_any
    }

    fn holds_key(&self, text: &str) -> bool {
        self.finder
            .as_ref()
            .is_some_and(|key| key.find(text.as_bytes()).is_some())
    }

    /// A text without credentials.
    pub fn redact_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let redacted = redact_addresses(text);
        let Some(key) = self.finder.as_ref().filter(|_| self.holds_key(&redacted)) else {
            return redacted;
        };
        let length = key.needle().len();
        let keys = key.find_iter(redacted.as_bytes());
        let keys = keys.map(|at| (at..at + length, REDACTED.to_owned()));
        Cow::Owned(splice(&redacted, keys).into_owned())
    }

    /// The bytes of a record that was rejected, without credentials, however they are escaped. What is
    /// no text becomes what is shown of it.
    pub fn redact_bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let text = String::from_utf8_lossy(bytes);
        let plain = without_escapes(&text);
        for text in [&*text, &plain] {
            if let Cow::Owned(redacted) = self.redact_text(text) {
                // What was spelled in another way, too.
                let redacted = match self.redact_text(&without_escapes(&redacted)) {
                    Cow::Owned(plain) => plain,
                    Cow::Borrowed(_) => redacted,
                };
                return Cow::Owned(redacted.into_bytes());
            }
        }
        Cow::Borrowed(bytes)
    }
}

/// A text whose addresses carry no credentials.
pub(crate) fn redact_addresses(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let places = memchr::memchr3_iter(b'=', b'%', b'@', bytes).filter_map(|at| match bytes[at] {
        b'@' => password_before(text, at),
        _ => value_at(text, at),
    });
    splice(text, places.map(|value| (value, REDACTED.to_owned())))
}

/// Where the value stands that is assigned at `at`, if it is that of a parameter that carries a credential.
fn value_at(text: &str, at: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let sign = escaped(text.get(at..)?, &["3d"]);
    let length = match bytes[at] {
        b'=' => 1,
        _ => sign?,
    };
    // Within the value of another parameter this one ends where its own address does.
    let is_nested = bytes[at] == b'%';
    let before = text.get(..at)?;
    let is_of_name = |c: char| c.is_alphanumeric() || "_-.~[]$".contains(c);
    let start = before.rfind(|c: char| !is_of_name(c)).map_or(0, |found| {
        found + before.get(found..).map_or(1, char_length)
    });
    let delimiter = before.get(..start)?.chars().next_back()?;
    let name = before.get(start..)?;
    let name = match delimiter {
        '?' | '&' | ';' | '#' => name,
        '%' => {
            let escaped = escaped(before.get(start - 1..)?, &["3f", "26", "3b", "23"])?;
            name.get(escaped - 1..)?
        }
        _ => return None,
    };
    if !is_credential(name) {
        return None;
    }
    let value = text.get(at + length..)?;
    let end =
        value.find(|c: char| c.is_whitespace() || c.is_control() || "&#;,\"'<>\\".contains(c));
    let mut end = end.unwrap_or(value.len());
    if is_nested {
        let ends = |at: &usize| {
            escaped(value.get(*at..).unwrap_or_default(), &["26", "23", "3b"]).is_some()
        };
        let percents = memchr::memchr_iter(b'%', value.get(..end)?.as_bytes());
        end = percents.into_iter().find(ends).unwrap_or(end);
    }
    let is_there = end > 0 && value.get(..end) != Some(REDACTED);
    is_there.then(|| at + length..at + length + end)
}

fn char_length(text: &str) -> usize {
    text.chars().next().map_or(1, char::len_utf8)
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
    const WHOLE: [&str; 7] = ["appid", "auth", "jwt", "pass", "pwd", "sig", "sid"];
    const WITHIN: [&str; 9] = [
        "accesskey",
        "authorization",
        "credential",
        "passwd",
        "password",
        "secret",
        "session",
        "signature",
        "token",
    ];
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    // apikey, x-api-key, subscription-key.
    plain.ends_with("key")
        || WHOLE.contains(&&*plain)
        || WITHIN.iter().any(|part| plain.contains(part))
}

/// Where the password stands in `https://user:password@host`, whose `@` stands at `at`.
fn password_before(text: &str, at: usize) -> Option<Range<usize>> {
    let before = text.get(..at)?;
    let start = before.rfind("://")? + "://".len();
    let user = before.get(start..)?;
    let has_ended = user.contains(|c: char| c.is_whitespace() || "/?#\"'<>\\".contains(c));
    let password = start + user.find(':')? + 1;
    let is_there = !has_ended && password < at && text.get(password..at) != Some(REDACTED);
    is_there.then_some(password..at)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (
                "2026,https://x?sig=a,5,0.02",
                "2026,https://x?sig=[redacted],5,0.02",
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
            "100% = all",
            "é?=x",
            "%",
            "=",
        ] {
            assert_eq!(redact_addresses(harmless), harmless);
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
