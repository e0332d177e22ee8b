//! Finds phone numbers in texts and extracts their digits.

mod grammar;

use std::borrow::Cow;
use std::ops::Range;

pub(crate) use grammar::{any_digit_sequence, numbers};

/// Fewest digits of a phone number.
pub(crate) const MIN_DIGITS: usize = 7;
/// Most characters between two digits of one number.
const MAX_SEPARATORS: usize = 5;
/// Prefix of a token, which distinguishes it from a number. 32 hexadecimal digits follow.
pub(crate) const TOKEN_PREFIX: &str = "tel_";
/// Hexadecimal digits of a token.
pub(crate) const TOKEN_DIGITS: usize = 32;
/// Length of a UUID in its usual form.
const UUID_BYTES: usize = 36;

/// Replaces everything that could be a phone number: digits of any script, with up to five
/// characters between them that are neither letters nor JSON punctuation. Exceptions are dates of
/// the years 1900 to 2099, decimals below one, and UUIDs. For messages, where no number may remain;
/// stored values use [`replace_each_number`].
pub(crate) fn replace_numbers(text: &str, mut replace: impl FnMut(&str) -> String) -> Cow<'_, str> {
    let numbers = digit_spans(text, may_separate_digits, MAX_SEPARATORS).filter_map(|span| {
        let number = text.get(span.clone()).unwrap_or_default();
        (!is_date_or_fraction(number)).then(|| (span, replace(number)))
    });
    replace_ranges(text, numbers)
}

/// Replaces each number by the [grammar](grammar). `is_value` as for [`numbers`].
pub(crate) fn replace_each_number(
    text: &str,
    is_value: bool,
    mut replace: impl FnMut(&str) -> String,
) -> Cow<'_, str> {
    let numbers = numbers(text, is_value).map(|found| {
        let number = text.get(found.number).unwrap_or_default();
        (found.hidden, replace(number))
    });
    replace_ranges(text, numbers)
}

/// Whether `c` is a control or bidirectional character, which can change what a terminal shows.
pub(crate) fn is_control_or_bidi(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Replaces some ranges of a text, which must be in order.
pub(crate) fn replace_ranges(
    text: &str,
    replaced: impl Iterator<Item = (Range<usize>, String)>,
) -> Cow<'_, str> {
    let (mut spliced, mut at) = (String::new(), 0);
    let mut is_any = false;
    for (range, replacement) in replaced {
        if range.start < at {
            // Overlaps the previous range.
            continue;
        }
        spliced.push_str(text.get(at..range.start).unwrap_or_default());
        spliced.push_str(&replacement);
        at = range.end;
        is_any = true;
    }
    if !is_any {
        return Cow::Borrowed(text);
    }
    spliced.push_str(text.get(at..).unwrap_or_default());
    Cow::Owned(spliced)
}

/// Ranges with enough digits, close enough together, for one or several numbers. Each begins and
/// ends with a digit.
fn digit_spans(
    text: &str,
    separates: impl Fn(char) -> bool,
    max_separators: usize,
) -> impl Iterator<Item = Range<usize>> {
    let mut at = if may_hold_number(text) { 0 } else { text.len() };
    let mut is_word_start = true;
    std::iter::from_fn(move || {
        while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
            let rest = text.as_bytes().get(at..).unwrap_or_default();
            if (is_word_start && is_uuid(rest)) || begins_with_token(rest) {
                // Both have this length.
                at += UUID_BYTES;
                is_word_start = false;
                continue;
            }
            if !is_digit(c) {
                is_word_start = !c.is_alphanumeric();
                at += c.len_utf8();
                continue;
            }
            let (start, (number, digits)) = (at, number_at(text, at, &separates, max_separators));
            at += number.len();
            is_word_start = false;
            if digits >= MIN_DIGITS {
                return Some(start..at);
            }
        }
        None
    })
}

/// Most digits of a number ([E.164](https://www.itu.int/rec/T-REC-E.164)).
pub(crate) const MAX_DIGITS: usize = 15;
/// Most digits of a number dialled within a country.
const MAX_NATIONAL_DIGITS: usize = 12;

/// Whether a text may have enough digits for a number. Counts letters of other scripts as digits.
pub(crate) fn may_hold_number(text: &str) -> bool {
    let may_be_digit = |byte: &&u8| byte.is_ascii_digit() || **byte >= 0xc0;
    text.as_bytes().iter().filter(may_be_digit).count() >= MIN_DIGITS
}

/// The text from the digit at `start` to the last digit close enough, and its number of digits.
fn number_at(
    text: &str,
    start: usize,
    separates: impl Fn(char) -> bool,
    max_separators: usize,
) -> (&str, usize) {
    let rest = text.get(start..).unwrap_or_default();
    let (mut end, mut digits, mut separators) = (0, 0, 0);
    for (at, c) in rest.char_indices() {
        if is_digit(c) {
            end = at + c.len_utf8();
            digits += 1;
            separators = 0;
        } else if separates(c) && separators < max_separators {
            separators += 1;
        } else {
            break;
        }
    }
    (rest.get(..end).unwrap_or_default(), digits)
}

/// Whether a text begins with a token.
fn begins_with_token(text: &[u8]) -> bool {
    const _: () = assert!(TOKEN_PREFIX.len() + TOKEN_DIGITS == UUID_BYTES);
    let digits = text
        .strip_prefix(TOKEN_PREFIX.as_bytes())
        .and_then(|digits| digits.get(..TOKEN_DIGITS));
    digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

/// Whether a text begins with a UUID that is not part of a longer word.
fn is_uuid(text: &[u8]) -> bool {
    let is_of_uuid = |(at, byte): (usize, &u8)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    let Some((uuid, after)) = text.split_at_checked(UUID_BYTES) else {
        return false;
    };
    uuid[8] == b'-'
        && uuid.iter().enumerate().all(is_of_uuid)
        && after
            .first()
            .is_none_or(|byte| byte.is_ascii() && !byte.is_ascii_alphanumeric())
}

/// Whether a character may separate the digits of one number. JSON punctuation and colons may not.
pub(crate) fn may_separate_digits(c: char) -> bool {
    !c.is_alphanumeric() && !"\":;={}[]\\".contains(c)
}

/// Decodes the escapes of JSON, HTML and addresses in a text. Control characters become spaces.
pub(crate) fn without_escapes(text: &str) -> String {
    let mut text = text.to_owned();
    // A text may be escaped repeatedly.
    while text.contains("\\\\") {
        text = text.replace("\\\\", "\\");
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, escaped)) = rest.split_once('\\') {
        plain.push_str(before);
        rest = escaped;
        let code = escaped
            .strip_prefix('u')
            .and_then(|digits| u32::from_str_radix(digits.get(..4)?, 16).ok());
        if let Some(code) = code {
            let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            plain.push(if is_control_or_bidi(c) { ' ' } else { c });
            rest = escaped.get(5..).unwrap_or_default();
        } else if let Some(after) = escaped.strip_prefix('/') {
            plain.push('/');
            rest = after;
        } else if let Some(after) = escaped.strip_prefix(['t', 'n', 'r', 'b', 'f']) {
            plain.push(' ');
            rest = after;
        } else {
            plain.push('\\');
        }
    }
    plain.push_str(rest);
    match without_character_references(&plain) {
        Cow::Owned(unescaped) => unescaped,
        Cow::Borrowed(_) => plain,
    }
}

/// Most nested escapes, as in an address within an address.
const MAX_ESCAPES: usize = 3;

/// Decodes escaped digits and separators: HTML (`&#160;`), addresses (`%2B`) and JSON (`\u0031`).
pub(crate) fn unescaped(text: &str) -> Cow<'_, str> {
    if text.contains('\\') {
        return Cow::Owned(without_escapes(text));
    }
    without_character_references(text)
}

/// Like [`unescaped`], without JSON escapes.
fn without_character_references(text: &str) -> Cow<'_, str> {
    let mut plain = Cow::Borrowed(text);
    for _ in 0..MAX_ESCAPES {
        let escapes = memchr::memchr2_iter(b'&', b'%', plain.as_bytes());
        let replaced = escapes.filter_map(|at| {
            let (c, length) = escaped_at(plain.get(at..)?)?;
            let is_of_number =
                c.is_numeric() || c == ':' || (may_separate_digits(c) && !c.is_control());
            is_of_number.then(|| (at..at + length, c.to_string()))
        });
        let Cow::Owned(unescaped) = replace_ranges(&plain, replaced) else {
            break;
        };
        plain = Cow::Owned(unescaped);
    }
    plain
}

/// The escaped character at the beginning of a text, and the length of the escape in bytes.
fn escaped_at(text: &str) -> Option<(char, usize)> {
    const NAMED: [(&str, char); 14] = [
        ("amp", '&'),
        ("hyphen", '-'),
        ("dash", '-'),
        ("lpar", '('),
        ("rpar", ')'),
        ("period", '.'),
        ("nbsp", ' '),
        ("ensp", ' '),
        ("emsp", ' '),
        ("thinsp", ' '),
        ("shy", '\u{ad}'),
        ("ndash", '-'),
        ("minus", '-'),
        ("plus", '+'),
    ];
    if let Some(entity) = text.strip_prefix('&') {
        let name = entity.get(..entity.bytes().take(10).position(|byte| byte == b';')?)?;
        let c = match name.strip_prefix('#') {
            Some(number) => char::from_u32(match number.strip_prefix(['x', 'X']) {
                Some(number) => u32::from_str_radix(number, 16).ok()?,
                None => number.parse().ok()?,
            })?,
            None => NAMED.iter().find(|(known, _)| *known == name)?.1,
        };
        return Some((c, name.len() + 2));
    }
    let mut bytes = [0; 4];
    let mut count = 0;
    while let (Some(byte), Some(place)) = (percent_escaped(text, count), bytes.get_mut(count)) {
        *place = byte;
        count += 1;
    }
    let known = bytes[..count].utf8_chunks().next()?.valid();
    let c = known.chars().next()?;
    Some((c, 3 * c.len_utf8()))
}

/// The byte of the `nth` percent escape, counted in steps of three characters.
pub(crate) fn percent_escaped(text: &str, nth: usize) -> Option<u8> {
    let digits = text.get(3 * nth..3 * nth + 3)?.strip_prefix('%')?;
    let are_hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    are_hexadecimal.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Whether a text is `20YY-MM-DD` or `19YY-MM-DD`, optionally followed by an hour, or a decimal
/// `0.…`.
pub(crate) fn is_date_or_fraction(number: &str) -> bool {
    let are_digits = |text: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    if let Some(decimals) = number.strip_prefix("0.") {
        return are_digits(decimals, 1..=usize::MAX);
    }
    let (date, hour) = number.split_once(' ').unwrap_or((number, "00"));
    let mut parts = date.split('-');
    let parts = [parts.next(), parts.next(), parts.next(), parts.next()];
    let [Some(year), Some(month), Some(day), None] = parts else {
        return false;
    };
    (year.starts_with("19") || year.starts_with("20"))
        && are_digits(year, 4..=4)
        && [month, day, hour]
            .into_iter()
            .all(|part| are_digits(part, 2..=2))
}

/// Like [`is_date_or_fraction`], for possible months and days only: other digits may be a number.
fn is_real_date_or_fraction(number: &str) -> bool {
    let part = |at: usize| {
        number
            .get(at..at + 2)
            .and_then(|part| part.parse::<u8>().ok())
    };
    is_date_or_fraction(number)
        && (number.starts_with("0.")
            || (part(5).is_some_and(|month| (1..=12).contains(&month))
                && part(8).is_some_and(|day| (1..=31).contains(&day))))
}

/// The zero of every script with decimal digits. The digits 1 to 9 follow it
/// ([Unicode 16](https://www.unicode.org/reports/tr44/#Numeric_Type), `Nd`).
#[rustfmt::skip]
const ZEROS: [char; 76] = [
    '\u{30}', '\u{660}', '\u{6f0}', '\u{7c0}', '\u{966}', '\u{9e6}', '\u{a66}', '\u{ae6}',
    '\u{b66}', '\u{be6}', '\u{c66}', '\u{ce6}', '\u{d66}', '\u{de6}', '\u{e50}', '\u{ed0}',
    '\u{f20}', '\u{1040}', '\u{1090}', '\u{17e0}', '\u{1810}', '\u{1946}', '\u{19d0}', '\u{1a80}',
    '\u{1a90}', '\u{1b50}', '\u{1bb0}', '\u{1c40}', '\u{1c50}', '\u{a620}', '\u{a8d0}',
    '\u{a900}', '\u{a9d0}', '\u{a9f0}', '\u{aa50}', '\u{abf0}', '\u{ff10}', '\u{104a0}',
    '\u{10d30}', '\u{10d40}', '\u{11066}', '\u{110f0}', '\u{11136}', '\u{111d0}', '\u{112f0}',
    '\u{11450}', '\u{114d0}', '\u{11650}', '\u{116c0}', '\u{116d0}', '\u{116da}', '\u{11730}',
    '\u{118e0}', '\u{11950}', '\u{11bf0}', '\u{11c50}', '\u{11d50}', '\u{11da0}', '\u{11f50}',
    '\u{16130}', '\u{16a60}', '\u{16ac0}', '\u{16b50}', '\u{16d70}', '\u{1ccf0}', '\u{1d7ce}',
    '\u{1d7d8}', '\u{1d7e2}', '\u{1d7ec}', '\u{1d7f6}', '\u{1e140}', '\u{1e2f0}', '\u{1e4f0}',
    '\u{1e5f1}', '\u{1e950}', '\u{1fbf0}',
];

/// Converts a decimal digit of any script to ASCII. Superscripts, subscripts and circled digits
/// count as digits.
pub(crate) fn digit_of(c: char) -> Option<char> {
    if c.is_ascii() {
        return c.is_ascii_digit().then_some(c);
    }
    let value = raised_digit(c).or_else(|| {
        let zero = ZEROS[..ZEROS.partition_point(|zero| *zero <= c)].last()?;
        Some(c as u32 - *zero as u32).filter(|value| *value < 10)
    });
    char::from_digit(value?, 10)
}

/// The value of a superscript, subscript or circled digit.
fn raised_digit(c: char) -> Option<u32> {
    match c {
        '\u{b9}' => Some(1),
        '\u{b2}' | '\u{b3}' => Some(c as u32 - 0xb0),
        '\u{2070}' | '\u{2074}'..='\u{2079}' => Some(c as u32 - 0x2070),
        '\u{2080}'..='\u{2089}' => Some(c as u32 - 0x2080),
        '\u{2460}'..='\u{2468}' => Some(c as u32 - 0x245f),
        '\u{24ea}' => Some(0),
        _ => None,
    }
}

fn is_raised(c: char) -> bool {
    raised_digit(c).is_some()
}

/// Whether a character is a decimal digit. Fractions and numerals are not.
pub(crate) fn is_digit(c: char) -> bool {
    digit_of(c).is_some()
}

/// Whether a text has digits, and all of them are decimal digits of a known script.
pub(crate) fn has_only_known_digits(number: &str) -> bool {
    let mut digits = number.chars().filter(|c| c.is_numeric()).peekable();
    digits.peek().is_some() && digits.all(is_digit)
}

/// A number without `.0`, which programs add when they convert it to a float.
pub(crate) fn without_decimals(number: &str) -> &str {
    let whole = number.strip_suffix(".0");
    whole
        .filter(|whole| whole.bytes().all(|byte| byte.is_ascii_digit()))
        .unwrap_or(number)
}

/// The digits of a number without a dial prefix: the same for `+49 170 1234567`, `0049170/1234567`
/// and `491701234567`.
pub(crate) fn normalized_digits(number: &str) -> String {
    let number = without_decimals(number);
    // `(0)` is only dialled within the country.
    let number = match number.split_once("(0)") {
        Some((country, national)) if country.contains(|c: char| c.is_numeric()) => {
            Cow::Owned(format!("{country}{national}"))
        }
        _ => Cow::Borrowed(number),
    };
    let digits: String = number.chars().filter_map(digit_of).collect();
    without_dial_prefix(&digits).to_owned()
}

/// Digits without the dial prefix of an international number (`00`, `011`).
pub(crate) fn without_dial_prefix(digits: &str) -> &str {
    // National numbers that begin with North America's prefix 011 are shorter.
    let dialled = [("00", MIN_DIGITS + 2), ("011", MAX_NATIONAL_DIGITS + 1)];
    let rest = dialled.iter().find_map(|(prefix, least)| {
        let rest = digits.strip_prefix(prefix)?;
        (digits.len() >= *least).then_some(rest)
    });
    rest.unwrap_or(digits)
}

/// The byte range of an address's user: `+4917` in `sip:+4917@example.com;user=phone`.
pub(crate) fn user_part(address: &str) -> Range<usize> {
    let scheme = ["sip:", "sips:", "tel:"].iter().find(|scheme| {
        let start = address.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    let start = scheme.map_or(0, |scheme| scheme.len());
    let rest = address.get(start..).unwrap_or_default();
    let length = rest.find(['@', ';']).unwrap_or(rest.len());
    start..start + length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_number_has_the_same_digits_in_any_notation() {
        for number in [
            "491701234567",
            "+491701234567",
            "+49 (170) 123-45.67",
            "0049170/1234567",
            "+49 (0) 170 1234567",
            "011491701234567",
            "٤٩١٧٠١٢٣٤٥٦٧",
            "৪৯১৭০১২৩৪৫৬৭",
            "𝟒𝟗𝟏𝟕𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕",
            "⁴⁹170¹²³⁴567",
        ] {
            assert_eq!(normalized_digits(number), "491701234567", "{number}");
        }
        assert_eq!(normalized_digits("0012"), "0012", "an extension, perhaps");
        assert_eq!(
            normalized_digits("01144960999"),
            "01144960999",
            "a number of Sheffield"
        );
    }

    #[test]
    fn the_user_of_an_address_is_found() {
        for (address, user) in [
            ("+491701234567", "+491701234567"),
            ("sip:+4917@10.0.0.1:5060", "+4917"),
            ("SIPS:alice@example.com", "alice"),
            ("tel:+4917;ext=1", "+4917"),
            ("", ""),
        ] {
            assert_eq!(address.get(user_part(address)), Some(user));
        }
    }

    #[test]
    fn uuids_are_not_numbers() {
        let hide = |text| replace_numbers(text, |_| "#".to_owned()).into_owned();
        for text in [
            "99df5ffd-962a-410f-bcce-d08f1f7f328c",
            "12345678-1234-4321-8888-123456789012",
            "id=12345678-1234-4321-8888-123456789012, 2026-10-01",
        ] {
            assert_eq!(hide(text), text);
        }
        assert_eq!(hide("x 12345678-1234-4321-8888-1234567890123"), "x #");
        assert_eq!(hide("to 4917012345 and 12345"), "to # and 12345");
    }
}
