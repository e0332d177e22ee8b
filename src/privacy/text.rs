//! Phone numbers within addresses, JSON and other texts.

use std::borrow::Cow;
use std::ops::Range;

use super::numbers::{
    MAX_DIGITS, MIN_DIGITS, numbers, replace_each_number, replace_ranges, unescaped, user_part,
    without_decimals, without_escapes,
};
use super::token::{is_name, is_token};

/// Digits, or characters of a name, that truncation removes.
const TRUNCATED_DIGITS: usize = 4;

/// Removes the last four digits of a number, and of every run of digits in it that is long enough
/// to be a number itself. With too many digits for a number, nothing is left.
pub(super) fn truncated_number(number: &str) -> String {
    let number = without_decimals(number);
    let digits = number.chars().filter(|c| c.is_numeric()).count();
    if digits > MAX_DIGITS && !number.starts_with("00") {
        return String::new();
    }
    let mut kept = String::with_capacity(number.len());
    let mut left = digits.saturating_sub(TRUNCATED_DIGITS);
    let mut rest = number;
    while let Some(c) = rest.chars().next() {
        let run = rest.find(|c: char| !c.is_numeric()).unwrap_or(rest.len());
        if run == 0 {
            kept.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
            continue;
        }
        let (run, after) = rest.split_at(run);
        let of_run = run.chars().count();
        let own = if of_run >= MIN_DIGITS {
            of_run - TRUNCATED_DIGITS
        } else {
            of_run
        };
        kept.extend(run.chars().take(own.min(left)));
        left = left.saturating_sub(of_run);
        rest = after;
    }
    let end = kept.rfind(char::is_numeric);
    let end = end.map_or(0, |at| {
        at + kept
            .get(at..)
            .and_then(|c| c.chars().next())
            .map_or(0, char::len_utf8)
    });
    kept.truncate(end);
    kept
}

/// Removes the last four digits of every number in an address, or the last four characters of a
/// name.
pub(super) fn truncated_address(address: &str) -> String {
    // The common case.
    if address.len() <= MAX_DIGITS && address.bytes().all(|byte| byte.is_ascii_digit()) {
        let kept = address.len().saturating_sub(TRUNCATED_DIGITS);
        return address.get(..kept).unwrap_or_default().to_owned();
    }
    let address = &*unescaped(address);
    let range = user_part(address);
    let part = |range: std::ops::Range<usize>| address.get(range).unwrap_or_default();
    let (before, after) = (part(0..range.start), part(range.end..address.len()));
    let user = match replace_each_number(part(range.clone()), true, truncated_number) {
        Cow::Owned(user) => user,
        Cow::Borrowed(name) if is_name(name) => drop_last(name, |_| true),
        Cow::Borrowed(short) => drop_last(short, char::is_numeric),
    };
    format!(
        "{before}{user}{}",
        replace_each_number(after, false, truncated_number)
    )
}

/// Removes the last four characters that count, and everything after the remaining one.
fn drop_last(text: &str, counts: impl Fn(char) -> bool) -> String {
    let last_kept = text
        .char_indices()
        .rev()
        .filter(|(_, c)| counts(*c))
        .nth(TRUNCATED_DIGITS);
    let end = last_kept.map_or(0, |(at, c)| at + c.len_utf8());
    text.get(..end).unwrap_or_default().to_owned()
}

/// Whether a destination is an address: one number, or a SIP address. Otherwise it is the name of a
/// place.
pub(super) fn is_address(value: &str) -> bool {
    let is_uri = || {
        let range = user_part(value);
        let user = value.get(range.clone()).unwrap_or_default();
        let after = value.get(range.end..).unwrap_or_default();
        is_user(user) && after.contains('@') && !after.contains(char::is_whitespace)
    };
    is_uri() || is_like_a_number(value)
}

fn is_like_a_number(value: &str) -> bool {
    let user = value.get(user_part(value)).unwrap_or_default();
    let is_all = |hidden: Range<usize>| {
        let outside = [user.get(..hidden.start), user.get(hidden.end..)];
        !outside
            .into_iter()
            .flatten()
            .any(|text| text.contains(char::is_numeric))
    };
    !is_name(user)
        && numbers(user, true)
            .next()
            .is_some_and(|found| is_all(found.hidden))
}

/// Whether a text is a possible user of an address.
fn is_user(text: &str) -> bool {
    let is_of_user = |c: char| c.is_alphanumeric() || "-_.!~*+%=".contains(c);
    !text.is_empty() && text.chars().all(is_of_user)
}

/// Longest SIP address examined. Bounds the work.
const MAX_URI_BYTES: usize = 256;

/// The ranges of users in SIP addresses (`sip:alice@example.com`) that are not hidden yet.
pub(super) fn uri_users(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut seen = 0;
    memchr::memchr_iter(b':', text.as_bytes()).filter_map(move |colon| {
        let is_sip = ["sip", "sips"].iter().any(|scheme| {
            let begin = colon.checked_sub(scheme.len());
            let found = begin.and_then(|begin| Some((text.get(..begin)?, text.get(begin..colon)?)));
            found.is_some_and(|(before, found)| {
                found.eq_ignore_ascii_case(scheme) && !before.ends_with(char::is_alphanumeric)
            })
        });
        let start = colon + 1;
        if !is_sip || start < seen {
            return None;
        }
        let rest = text.get(start..)?;
        let ends = |c: char| c.is_whitespace() || "\"'<>,\\".contains(c);
        let (end, _) = rest
            .char_indices()
            .find(|&(at, c)| c == '@' || ends(c) || at > MAX_URI_BYTES)?;
        seen = start + end;
        let address = rest.get(..end)?;
        let user = address
            .find([':', ';'])
            .map_or(address, |end| address.get(..end).unwrap_or_default());
        let is_user = rest.get(end..)?.starts_with('@') && is_user(user);
        (is_user && !is_token(user.trim_start_matches('+'))).then(|| start..start + user.len())
    })
}

/// Replaces the users of SIP addresses.
pub(super) fn replace_uri_users(text: &str, replace: impl Fn(&str) -> String) -> Cow<'_, str> {
    let users = uri_users(text).map(|user| {
        let replaced = replace(text.get(user.clone()).unwrap_or_default());
        (user, replaced)
    });
    replace_ranges(text, users)
}

/// Replaces strings, including keys, and numbers of a compact JSON text. `of_text` gets the content
/// of a string and returns the new content; `of_number` gets the text of a number and returns JSON.
pub(super) fn map_json(
    json: &str,
    mut of_text: impl FnMut(&str) -> Option<String>,
    mut of_number: impl FnMut(&str) -> Option<String>,
) -> Cow<'_, str> {
    let mut at = 0;
    let replaced = tokens(json).filter_map(|token| {
        let range = at..at + token.len();
        at = range.end;
        let mapped = if token.starts_with('"') {
            let text = of_text(&plain_text(token))?;
            serde_json::to_string(&text).expect("a text is JSON")
        } else if token.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
            of_number(token)?
        } else {
            return None;
        };
        Some((range, mapped))
    });
    replace_ranges(json, replaced)
}

/// Replaces a JSON number that could be a phone number. The result is a JSON string if it is not a
/// number.
pub(super) fn map_phone_number(token: &str, replace: impl Fn(&str) -> String) -> Option<String> {
    let number = replace(&phone_digits(token)?);
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let quote = if is_number { "" } else { "\"" };
    Some([quote, &number, quote].concat())
}

/// Calls `each` for every string of a compact JSON text, including keys, and for the digits of
/// every number that could be a phone number.
pub(super) fn for_each_text(json: &str, mut each: impl FnMut(&str)) {
    for token in tokens(json) {
        if token.starts_with('"') {
            each(&plain_text(token));
        } else if let Some(digits) = phone_digits(token) {
            each(&digits);
        }
    }
}

/// The tokens of a compact JSON text: strings, numbers, and single characters between them.
fn tokens(json: &str) -> impl Iterator<Item = &str> {
    let mut rest = json;
    std::iter::from_fn(move || {
        let c = rest.chars().next()?;
        let length = match c {
            '"' => string_length(rest),
            '0'..='9' | '-' => rest
                .find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E'))
                .unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        Some(token)
    })
}

/// The length of the JSON string at the beginning of a valid text, including quotation marks.
fn string_length(json: &str) -> usize {
    let mut is_escaped = false;
    let end = json.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    });
    end.map_or(json.len(), |end| end + 2)
}

/// The content of a JSON string. Replaces escapes of single surrogates, which no text can hold.
fn plain_text(token: &str) -> Cow<'_, str> {
    let quoted = token
        .strip_prefix('"')
        .and_then(|token| token.strip_suffix('"'))
        .unwrap_or_default();
    if !quoted.contains('\\') {
        return Cow::Borrowed(quoted);
    }
    Cow::Owned(serde_json::from_str(token).unwrap_or_else(|_| without_escapes(quoted)))
}

/// The digits of a JSON number that could be a phone number, in any notation.
fn phone_digits(token: &str) -> Option<Cow<'_, str>> {
    let number = token.strip_prefix('-').unwrap_or(token);
    if !number.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if number.contains(['e', 'E']) {
        let value: f64 = number.parse().ok()?;
        return (1e6..1e16)
            .contains(&value)
            .then(|| Cow::Owned(format!("{value:.0}")));
    }
    let whole = number.split('.').next().unwrap_or_default();
    (whole.len() >= MIN_DIGITS).then_some(Cow::Borrowed(whole))
}
