//! Phone numbers in texts: where they are, and which digits they have.

use std::borrow::Cow;
use std::ops::Range;

use crate::error::is_unprintable;

/// From so many digits on a number may be a phone number.
pub(crate) const MIN_DIGITS: usize = 7;
/// Most characters between two digits of one number.
const MAX_SEPARATORS: usize = 5;
/// What stands for a number, so that nobody takes it for one: this and 32 hexadecimal digits.
pub const TOKEN_PREFIX: &str = "tel_";
/// Hexadecimal digits of a token.
pub(crate) const TOKEN_DIGITS: usize = 32;
/// Length of a UUID in its usual form.
const UUID_BYTES: usize = 36;

/// A text in which what `replace` makes of it stands for everything that could be a phone number: digits of any script, with
/// up to five characters between them that are neither letters nor JSON's. Dates that begin with a year of
/// these centuries, decimals below one and UUIDs are no such numbers.
pub(crate) fn replace_numbers(text: &str, replace: impl FnMut(&str) -> String) -> Cow<'_, str> {
    replace_unless(text, is_date_or_fraction, replace)
}

fn replace_unless(
    text: &str,
    is_other: fn(&str) -> bool,
    mut replace: impl FnMut(&str) -> String,
) -> Cow<'_, str> {
    if !may_hold_number(text) {
        return Cow::Borrowed(text);
    }
    let (mut shown, mut kept, mut at) = (String::new(), 0, 0);
    let mut is_word_start = true;
    while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = text.as_bytes().get(at..).unwrap_or_default();
        if (is_word_start && is_uuid(rest)) || begins_with_token(rest) {
            // Both are as long.
            at += UUID_BYTES;
            is_word_start = false;
            continue;
        }
        if !c.is_numeric() {
            is_word_start = !c.is_alphanumeric();
            at += c.len_utf8();
            continue;
        }
        let (number, digits) = number_at(text, at);
        let end = at + number.len();
        if digits >= MIN_DIGITS && !is_other(number) {
            shown.push_str(text.get(kept..at).unwrap_or_default());
            shown.push_str(&replace(number));
            kept = end;
        }
        at = end;
        is_word_start = false;
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    shown.push_str(text.get(kept..).unwrap_or_default());
    Cow::Owned(shown)
}

/// Most digits of a number ([E.164](https://www.itu.int/rec/T-REC-E.164)).
pub(crate) const MAX_DIGITS: usize = 15;
/// Most digits of a number as it is dialled within a country.
const MAX_NATIONAL_DIGITS: usize = 12;
/// What separates the cells of a table, alone.
const BETWEEN_CELLS: [&str; 3] = [",", "|", "\t"];
/// Fewest digits of a cell that is a number.
const MIN_CELL_DIGITS: usize = 10;

/// A text in which what `replace` makes of it stands for every number of its own: of several that stand side by side, as in a
/// line of CSV, each has its own. Cells of a table that are too short to be one, and dates, stay beside them. Where there is any doubt what stands there is one.
pub(crate) fn replace_each_number(
    text: &str,
    mut replace: impl FnMut(&str) -> String,
) -> Cow<'_, str> {
    replace_unless(text, is_real_date_or_fraction, |found| {
        let (mut shown, mut at) = (String::with_capacity(found.len()), 0);
        let mut is_any = false;
        for range in pieces(found) {
            let piece = found.get(range.clone()).unwrap_or_default();
            shown.push_str(found.get(at..range.start).unwrap_or_default());
            if count_digits(piece) >= MIN_DIGITS && !is_real_date_or_fraction(piece) {
                shown.push_str(&replace(piece));
                is_any = true;
            } else {
                shown.push_str(piece);
            }
            at = range.end;
        }
        if !is_any {
            return replace(found);
        }
        shown.push_str(found.get(at..).unwrap_or_default());
        shown
    })
}

fn count_digits(text: &str) -> usize {
    text.chars().filter(|c| c.is_numeric()).count()
}

/// Where the numbers are that stand side by side in what [`replace_numbers`] takes for one, from a digit to a digit each.
pub(crate) fn pieces(found: &str) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = found.get(at..)?;
        let start = at + rest.find(char::is_numeric)?;
        at = start + piece_length(found.get(start..)?);
        Some(start..at)
    })
}

/// How much of a text that begins with a digit is one number: all of it, but for what is certain to be something else.
fn piece_length(text: &str) -> usize {
    let is_digit = |c: char| c.is_numeric();
    let mut end = text.find(|c| !is_digit(c)).unwrap_or(text.len());
    let (mut digits, mut runs) = (count_digits(text.get(..end).unwrap_or_default()), 1);
    // What a dialler puts before a number is not of it.
    let dialled = if text.starts_with("00") { 2 } else { 0 };
    while let Some(rest) = text.get(end..).filter(|rest| !rest.is_empty()) {
        let Some(start) = rest.find(is_digit) else {
            break;
        };
        let (separators, run) = rest.split_at(start);
        let length = run.find(|c| !is_digit(c)).unwrap_or(run.len());
        let run_digits = count_digits(run.get(..length).unwrap_or_default());
        // Too many for one, and enough for two.
        let are_two = digits - dialled.min(digits) >= MIN_DIGITS
            && run_digits >= MIN_DIGITS
            && digits - dialled.min(digits) + run_digits > MAX_DIGITS;
        let is_cell = runs == 1 && digits >= MIN_CELL_DIGITS && BETWEEN_CELLS.contains(&separators);
        // A date has three runs, an hour behind it is one more.
        let is_date = || {
            run_digits >= MIN_DIGITS
                && (3..=4).contains(&runs)
                && is_real_date_or_fraction(text.get(..end).unwrap_or_default())
        };
        if are_two || is_cell || is_date() {
            break;
        }
        end += start + length;
        digits += run_digits;
        runs += 1;
    }
    end
}

/// Whether a text has as many digits as a number. Those of other scripts are not told from letters.
pub(crate) fn may_hold_number(text: &str) -> bool {
    let may_be_digit = |byte: &&u8| byte.is_ascii_digit() || **byte >= 0xc0;
    text.as_bytes().iter().filter(may_be_digit).count() >= MIN_DIGITS
}

/// The number that begins with the digit at `start`, to the last of the digits that belong together, and how many digits it has.
fn number_at(text: &str, start: usize) -> (&str, usize) {
    let rest = text.get(start..).unwrap_or_default();
    let (mut end, mut digits, mut separators) = (0, 0, 0);
    for (at, c) in rest.char_indices() {
        if c.is_numeric() {
            end = at + c.len_utf8();
            digits += 1;
            separators = 0;
        } else if may_separate(c) && separators < MAX_SEPARATORS {
            separators += 1;
        } else {
            break;
        }
    }
    (rest.get(..end).unwrap_or_default(), digits)
}

/// Whether a text begins with what stands for a number.
fn begins_with_token(text: &[u8]) -> bool {
    const _: () = assert!(TOKEN_PREFIX.len() + TOKEN_DIGITS == UUID_BYTES);
    let digits = text
        .strip_prefix(TOKEN_PREFIX.as_bytes())
        .and_then(|digits| digits.get(..TOKEN_DIGITS));
    digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

/// Whether a text begins with a UUID, and nothing belongs to it behind that.
fn is_uuid(text: &[u8]) -> bool {
    let is_of_uuid = |(at, byte): (usize, &u8)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    let Some((uuid, behind)) = text.split_at_checked(UUID_BYTES) else {
        return false;
    };
    uuid[8] == b'-'
        && uuid.iter().enumerate().all(is_of_uuid)
        && behind
            .first()
            .is_none_or(|byte| byte.is_ascii() && !byte.is_ascii_alphanumeric())
}

/// Whether a character may stand between the digits of one number. What JSON puts between values,
/// and clocks between hours and minutes, does not.
pub(crate) fn may_separate(c: char) -> bool {
    !c.is_alphanumeric() && !"\":;={}[]\\".contains(c)
}

/// A text without the ways in which JSON and HTML write a character as several: they too may
/// separate digits. What would do something to a terminal becomes a space.
pub(crate) fn without_escapes(text: &str) -> String {
    let mut text = text.replace("&nbsp;", " ");
    // Escaped as often as it was put into another text.
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
            plain.push(if is_unprintable(c) { ' ' } else { c });
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
    plain
}

/// Whether digits and what separates them are `20YY-MM-DD` or `19YY-MM-DD`, perhaps with an hour
/// behind, or `0.` and decimals.
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

/// The same, of dates that a calendar could hold: what it could not may be a number.
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

/// The value of a decimal digit, of the scripts in which phone numbers are written.
fn digit_of(c: char) -> Option<char> {
    const ZEROS: [char; 5] = ['0', '\u{660}', '\u{6f0}', '\u{966}', '\u{ff10}'];
    let value = ZEROS.iter().find_map(|&zero| {
        (c as u32)
            .checked_sub(zero as u32)
            .filter(|value| *value < 10)
    })?;
    char::from_digit(value, 10)
}

/// Whether every digit of a number is of a script that this program knows, and there are any.
pub(crate) fn are_known(number: &str) -> bool {
    let mut digits = number.chars().filter(|c| c.is_numeric()).peekable();
    digits.peek().is_some() && digits.all(|c| digit_of(c).is_some())
}

/// A number without the decimals that a program has given it which took it for an amount.
pub(crate) fn without_decimals(number: &str) -> &str {
    let whole = number.strip_suffix(".0");
    whole
        .filter(|whole| whole.bytes().all(|byte| byte.is_ascii_digit()))
        .unwrap_or(number)
}

/// The digits of a number without what a dialler puts before an international one, so that `+49 170 1234567`,
/// `0049170/1234567` and `491701234567` are the same.
pub(crate) fn digits(number: &str) -> String {
    let number = without_decimals(number);
    // What is dialled within the country only.
    let number = match number.split_once("(0)") {
        Some((country, national)) if country.contains(|c: char| c.is_numeric()) => {
            Cow::Owned(format!("{country}{national}"))
        }
        _ => Cow::Borrowed(number),
    };
    let digits: String = number.chars().filter_map(digit_of).collect();
    // No number of any country is as long that begins with what North America dials before others.
    let dialled = [("00", MIN_DIGITS + 2), ("011", MAX_NATIONAL_DIGITS + 1)];
    let international = dialled.iter().find_map(|(prefix, least)| {
        let rest = digits.strip_prefix(prefix)?;
        (digits.len() >= *least).then(|| rest.to_owned())
    });
    international.unwrap_or(digits)
}

/// The part of an address that says who it is: of `sip:+4917@example.com;user=phone` that is `+4917`; the range of bytes
/// in `address`.
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
    fn the_same_number_has_the_same_digits_however_it_is_written() {
        for number in [
            "491701234567",
            "+491701234567",
            "+49 (170) 123-45.67",
            "0049170/1234567",
            "+49 (0) 170 1234567",
            "011491701234567",
            "٤٩١٧٠١٢٣٤٥٦٧",
        ] {
            assert_eq!(digits(number), "491701234567", "{number}");
        }
        assert_eq!(digits("0012"), "0012", "an extension, perhaps");
        assert_eq!(
            digits("01144960999"),
            "01144960999",
            "a number of Sheffield"
        );
    }

    #[test]
    fn of_an_address_only_the_user_is_who_it_is() {
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
    fn numbers_side_by_side_are_told_apart() {
        let each = |text| replace_each_number(text, |number| format!("<{number}>")).into_owned();
        for (text, expected) in [
            ("13025550101", "<13025550101>"),
            ("+49 170 1234567", "+<49 170 1234567>"),
            ("+1 (302) 555-0101", "+<1 (302) 555-0101>"),
            ("302,555,0101", "<302,555,0101>"),
            ("13025550101, 13025550102", "<13025550101>, <13025550102>"),
            ("13025550101 13025550102", "<13025550101> <13025550102>"),
            (
                "+491701234567, +491701234568",
                "+<491701234567>, +<491701234568>",
            ),
            ("2026-10-01 13025550101", "2026-10-01 <13025550101>"),
            (
                "2026-10-01,13025550101,5,0.0270",
                "2026-10-01,<13025550101>,5,0.0270",
            ),
            ("13025550101 1234", "<13025550101 1234>"),
            ("+4989636480-18", "+<4989636480-18>"),
            ("0049891234 56789", "<0049891234 56789>"),
            ("00 49 170 1234567", "<00 49 170 1234567>"),
            ("0049170 1234567", "<0049170 1234567>"),
            ("13,025,550,101", "<13,025,550,101>"),
            ("1+302+555+0101", "<1+302+555+0101>"),
            ("0.800.123.456", "<0.800.123.456>"),
            ("2012-34-56-78", "<2012-34-56-78>"),
            ("1930-55-50-101", "<1930-55-50-101>"),
            ("13025550101 @ 13025550102", "<13025550101> @ <13025550102>"),
            ("12345 and 2026-10-01 12", "12345 and 2026-10-01 12"),
        ] {
            assert_eq!(each(text), expected, "{text}");
        }
    }

    #[test]
    fn long_texts_of_digits_take_no_longer_than_they_are() {
        for text in [
            "1 ".repeat(1 << 19),
            "1".repeat(1 << 20),
            "12345678,".repeat(1 << 17),
        ] {
            let mut numbers = 0;
            replace_each_number(&text, |_| {
                numbers += 1;
                String::new()
            });
            assert!(numbers > 0);
        }
    }

    #[test]
    fn ids_are_no_numbers() {
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
