//! Phone numbers without the traces of spreadsheets.

/// The last digits of a phone number are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LostDigits;

/// The phone number in a text. Removes surrounding white space, a spreadsheet's text markers
/// (`="442079460001"`, a leading `'`), and the `.0` of a number that was converted to a float.
///
/// # Errors
/// [`LostDigits`] for scientific notation, such as `1.30256E+10`.
#[inline]
pub(super) fn phone_number(text: &str) -> Result<&str, LostDigits> {
    // The common case: four digits at the end rule out an exponent.
    let bytes = text.as_bytes();
    if let (Some(b'0'..=b'9' | b'+'), Some(end)) = (bytes.first(), bytes.last_chunk::<4>())
        && end.iter().all(u8::is_ascii_digit)
    {
        return Ok(text);
    }
    unusual_number(text)
}

fn unusual_number(text: &str) -> Result<&str, LostDigits> {
    let text = without_text_marker(text.trim());
    if is_scientific(text) {
        return Err(LostDigits);
    }
    match text.strip_suffix(".0") {
        Some(digits) if is_digits(digits.strip_prefix('+').unwrap_or(digits)) => Ok(digits),
        _ => Ok(text),
    }
}

/// The cell without a spreadsheet's text marker: `="442079460001"`, or a leading `'`.
fn without_text_marker(cell: &str) -> &str {
    let formula = cell
        .strip_prefix("=\"")
        .and_then(|cell| cell.strip_suffix('"'));
    let cell = formula.unwrap_or(cell);
    match cell.strip_prefix('\'') {
        Some(number) if is_number_like(number) => number,
        _ => cell,
    }
}

/// Whether a text begins like a number and has only characters of numbers, including exponents.
fn is_number_like(text: &str) -> bool {
    text.starts_with(|c: char| c == '+' || c.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| b"0123456789+-()./, eE".contains(&byte))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a text is a spreadsheet's scientific notation: one leading digit, and decimals or a
/// signed exponent (`1.30256E+10`, `1,30256E+10`, `1E+10`). Other texts (`12e5`, `1e7`) may be
/// names.
fn is_scientific(text: &str) -> bool {
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else {
        return false;
    };
    let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let mantissa = mantissa.strip_prefix(['+', '-']).unwrap_or(mantissa);
    let (whole, decimals) = mantissa.split_once(['.', ',']).unwrap_or((mantissa, ""));
    let is_marked = !decimals.is_empty() || unsigned.len() < exponent.len();
    let is_number = is_digits(unsigned) && is_digits(whole) && whole.len() == 1;
    is_number && is_marked && (decimals.is_empty() || is_digits(decimals)) && unsigned.len() <= 3
}

/// Whether a JSON value is a number with an exponent, whose last digits are uncertain.
pub(super) fn has_exponent(value: &str) -> bool {
    value.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && value.contains(['e', 'E'])
}

/// The digits of a JSON number that is whole: `13025550001` or `13025550001.0`.
pub(super) fn whole_digits(number: &str) -> Option<&str> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let is_whole = is_digits(whole) && !decimals.is_empty();
    (is_whole && decimals.bytes().all(|byte| byte == b'0')).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_traces_of_a_spreadsheet_are_removed_from_a_phone_number() {
        for (text, expected) in [
            ("13025550001", "13025550001"),
            ("+1 (302) 555-0001", "+1 (302) 555-0001"),
            (" 13025550001\u{a0}", "13025550001"),
            ("=\"442079460001\"", "442079460001"),
            ("'442079460001", "442079460001"),
            ("'+442079460001", "+442079460001"),
            ("=\"'442079460001\"", "442079460001"),
            ("13025550001.0", "13025550001"),
            ("+13025550001.0", "+13025550001"),
            // A group of four zeros belongs to the number.
            ("302.555.0000", "302.555.0000"),
            ("302.555.0", "302.555.0"),
            ("sip:alice@example.com", "sip:alice@example.com"),
            // Names that only look like a spreadsheet's.
            ("'", "'"),
            ("'t Hooft", "'t Hooft"),
            ("'9th Floor", "'9th Floor"),
            ("'9\u{16a1d}`", "'9\u{16a1d}`"),
            ("", ""),
            ("e7", "e7"),
            ("7e", "7e"),
            ("12e5", "12e5"),
            ("1e7", "1e7"),
            ("001565000e12", "001565000e12"),
            ("12.5e10", "12.5e10"),
            ("x.5e10", "x.5e10"),
            ("1.5east", "1.5east"),
        ] {
            assert_eq!(phone_number(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_phone_number_in_scientific_notation_has_lost_its_last_digits() {
        for text in [
            "1.30256E+10",
            "1,30256E+10",
            "1.30256e10",
            "1E+10",
            "1.30256E+010",
            " 4.42079E+11 ",
            "'4.42079E+11",
        ] {
            assert_eq!(phone_number(text), Err(LostDigits), "{text}");
        }
    }

    #[test]
    fn a_whole_json_number_becomes_its_digits() {
        assert_eq!(whole_digits("13025550001"), Some("13025550001"));
        assert_eq!(whole_digits("13025550001.000"), Some("13025550001"));
        for number in ["-1", "1.5", "1.", "1e3", "1.0e3", "true", ""] {
            assert_eq!(whole_digits(number), None, "{number}");
        }
    }
}
