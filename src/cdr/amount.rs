//! Amounts of money, exact to nine decimals.

use std::fmt;

/// Decimals of an amount: the scale of the lake's `DECIMAL(18, 9)` columns.
pub(crate) const AMOUNT_SCALE: u32 = 9;
/// Largest magnitude in units of 10⁻⁹ dollars: eighteen nines.
const MAX_NANOS: u64 = 999_999_999_999_999_999;

/// US dollars, in units of 10⁻⁹: exactly the values of `DECIMAL(18, 9)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i64);

/// A value rounded to what its column can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounded<T> {
    /// The rounded value.
    pub value: T,
    /// Whether rounding changed nothing.
    pub is_exact: bool,
}

impl<T> Rounded<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Rounded<U> {
        Rounded {
            value: change(self.value),
            is_exact: self.is_exact,
        }
    }
}

/// Why a text is not an [`Amount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a decimal number in JSON's notation.
    #[error("not a decimal number")]
    NotANumber,
    /// A number with a comma, such as `0,05` and `1,234`, which is ambiguous.
    #[error(
        "written with a comma (decimal or thousands separator): export it with a decimal point"
    )]
    Comma,
    /// A digit other than zero beyond the ninth decimal.
    #[error("more than nine decimals")]
    TooPrecise,
    /// More than nine digits before the point.
    #[error("out of range for DECIMAL(18, 9)")]
    OutOfRange,
}

impl Amount {
    /// An amount of `nanos` × 10⁻⁹ dollars, as the lake's columns store it.
    pub fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The amount in units of 10⁻⁹ dollars.
    pub fn nanos(self) -> i64 {
        self.0
    }

    /// Parses a decimal number without going through a float: JSON numbers (`0.00325`, `-1`,
    /// `3.25e-3`) and other notations found in strings (`+0.01`, `.01`, `1.`, `007`).
    ///
    /// # Errors
    /// [`AmountError`]. Nothing is rounded.
    pub fn parse(text: &str) -> Result<Self, AmountError> {
        let amount = Self::round(text)?;
        let exact = amount.is_exact.then_some(amount.value);
        exact.ok_or(AmountError::TooPrecise)
    }

    /// Like [`parse`](Self::parse), but rounds to the nearest amount, halves away from zero, as
    /// databases cast decimals.
    ///
    /// # Errors
    /// [`AmountError`] if the text is not a number, or the rounded amount is out of range.
    pub fn round(text: &str) -> Result<Rounded<Self>, AmountError> {
        let number = Number::parse(text).ok_or_else(|| {
            let may_be_number = text.bytes().all(|byte| b"0123456789.,+-".contains(&byte));
            if may_be_number && text.contains(',') {
                AmountError::Comma
            } else {
                AmountError::NotANumber
            }
        })?;
        Ok(number.scaled(AMOUNT_SCALE)?.map(Self))
    }
}

impl Amount {
    /// The amount of a text such as `0.00325`, with up to nine digits on each side of the point.
    /// Returns `None` for texts that need [`parse`](Self::parse).
    #[inline]
    pub(crate) fn parse_short(text: &[u8]) -> Option<Self> {
        let is_zero_led = matches!(text, [b'0', next, ..] if *next != b'.');
        if text.len() > 19 || is_zero_led {
            return None;
        }
        let (digits, point) = match text.len() {
            4..=8 => digits_of_word(text)?,
            _ => digits_one_by_one(text)?,
        };
        let (whole, decimals) = match point {
            Some(point) => (point, text.len() - point - 1),
            None => (text.len(), 0),
        };
        let is_number =
            (1..=9).contains(&whole) && (point.is_none() || (1..=9).contains(&decimals));
        is_number.then(|| Self(digits.cast_signed() * NANOS[decimals]))
    }
}

/// The unit of a number's last digit, by its number of decimals.
const NANOS: [i64; 10] = [
    1_000_000_000,
    100_000_000,
    10_000_000,
    1_000_000,
    100_000,
    10_000,
    1_000,
    100,
    10,
    1,
];

/// The digits of a text as one number, and the place of its point if it has one. The text has up to
/// nineteen bytes.
#[inline(never)]
fn digits_one_by_one(text: &[u8]) -> Option<(u64, Option<usize>)> {
    let mut digits = 0_u64;
    let mut point = None;
    for (i, &byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => digits = digits * 10 + u64::from(byte - b'0'),
            b'.' if point.is_none() => point = Some(i),
            _ => return None,
        }
    }
    Some((digits, point))
}

/// Like [`digits_one_by_one`], for four to eight bytes, all at once: the first one is the lowest of
/// a word.
#[inline]
fn digits_of_word(text: &[u8]) -> Option<(u64, Option<usize>)> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHEST_BITS: u64 = 0x80 * ONES;
    let half = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes));
    let missing_bits = 8 * (8 - text.len());
    // The halves overlap if there are fewer than eight bytes.
    let word = half(text.first_chunk()?) | half(text.last_chunk()?) << (32 - missing_bits);
    // The lowest byte that is a point sets its highest bit.
    let points = word ^ (u64::from(b'.') * ONES);
    let points = points.wrapping_sub(ONES) & !points & HIGHEST_BITS;
    let (word, point, unused_bits) = if points == 0 {
        (word, None, missing_bits)
    } else {
        // The bytes before the first point.
        let before = ((points & points.wrapping_neg()) - 1) >> 7;
        let kept = (word & before) | ((word >> 8) & !before);
        (
            kept,
            Some(points.trailing_zeros() as usize / 8),
            missing_bits + 8,
        )
    };
    // Digits become their values, behind leading zeros.
    let digits = (word ^ (u64::from(b'0') * ONES)) << unused_bits;
    let beyond_nine = digits.wrapping_add(0x76 * ONES) | digits;
    if beyond_nine & HIGHEST_BITS != 0 {
        return None;
    }
    // Pairs, then groups of four, then all eight.
    let pairs = digits * 10 + (digits >> 8);
    let hundreds = (pairs & 0x0000_00FF_0000_00FF).wrapping_mul(100 + (1_000_000 << 32));
    let ones = (pairs >> 16 & 0x0000_00FF_0000_00FF).wrapping_mul(1 + (10_000 << 32));
    Some((hundreds.wrapping_add(ones) >> 32, point))
}

/// The parts of a decimal number.
struct Number<'a> {
    negative: bool,
    integer: &'a [u8],
    fraction: &'a [u8],
    exponent: i32,
}

impl<'a> Number<'a> {
    /// `None` if `text` is not a number by JSON's grammar
    /// ([RFC 8259, section 6](https://www.rfc-editor.org/rfc/rfc8259#section-6)), extended by three
    /// unambiguous notations: a plus sign, leading zeros, and no digit on one side of the point.
    fn parse(text: &'a str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] | rest => (false, rest),
        };
        let (integer, rest) = split_digits(rest);
        let (fraction, rest) = match rest.strip_prefix(b".") {
            Some(rest) => split_digits(rest),
            None => (&rest[..0], rest),
        };
        if integer.is_empty() && fraction.is_empty() {
            return None;
        }
        let exponent = match rest {
            [] => 0,
            [b'e' | b'E', rest @ ..] => {
                let (negative, rest) = match rest {
                    [b'-', rest @ ..] => (true, rest),
                    [b'+', rest @ ..] | rest => (false, rest),
                };
                let (digits, rest) = split_digits(rest);
                if digits.is_empty() || !rest.is_empty() {
                    return None;
                }
                // Saturating is exact enough: with a huge exponent the number is out of range, too
                // precise, or zero.
                let magnitude = digits.iter().fold(0_i32, |sum, digit| {
                    sum.saturating_mul(10)
                        .saturating_add(i32::from(digit - b'0'))
                        .min(i32::MAX / 2)
                });
                if negative { -magnitude } else { magnitude }
            }
            _ => return None,
        };
        Some(Self {
            negative,
            integer,
            fraction,
            exponent,
        })
    }

    /// The number × 10^`scale`, rounded to a whole number.
    fn scaled(&self, scale: u32) -> Result<Rounded<i64>, AmountError> {
        let digits = self.integer.iter().chain(self.fraction);
        // The value is digits × 10^(exponent − fraction digits).
        let fraction_digits = i64::try_from(self.fraction.len()).unwrap_or(i64::MAX);
        let shift = i64::from(scale) + i64::from(self.exponent) - fraction_digits;
        let total = i64::try_from(self.integer.len())
            .unwrap_or(i64::MAX)
            .saturating_add(fraction_digits);
        let whole_digits = total.saturating_add(shift);
        let mut value = 0_u64;
        let (mut is_exact, mut rounds_up) = (true, false);
        let mut seen = 0_i64;
        for digit in digits {
            let digit = u64::from(digit - b'0');
            if seen < whole_digits {
                value = value
                    .checked_mul(10)
                    .and_then(|value| value.checked_add(digit))
                    .ok_or(AmountError::OutOfRange)?;
                if value > MAX_NANOS {
                    return Err(AmountError::OutOfRange);
                }
            } else {
                is_exact &= digit == 0;
                rounds_up |= seen == whole_digits && digit >= 5;
            }
            seen += 1;
        }
        for _ in 0..whole_digits.saturating_sub(seen) {
            if value == 0 {
                break;
            }
            value = value
                .checked_mul(10)
                .filter(|&value| value <= MAX_NANOS)
                .ok_or(AmountError::OutOfRange)?;
        }
        value += u64::from(rounds_up);
        if value > MAX_NANOS {
            return Err(AmountError::OutOfRange);
        }
        let value = value.cast_signed();
        let value = if self.negative { -value } else { value };
        Ok(Rounded { value, is_exact })
    }
}

fn split_digits(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(bytes.len());
    bytes.split_at(end)
}

/// Parses a number and rounds it to an `i32`, halves away from zero: 26 for `26`, `26.0` and
/// `2.6e1`, and 27 for `26.5`. `None` if the text is not a number or the result is out of range.
pub(crate) fn round_i32(text: &str) -> Option<Rounded<i32>> {
    let Rounded { value, is_exact } = Number::parse(text)?.scaled(0).ok()?;
    let value = i32::try_from(value).ok()?;
    Some(Rounded { value, is_exact })
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        AmountSum(i128::from(self.0)).fmt(f)
    }
}

/// A sum of amounts. Overflow would take 10²⁰ of the largest amounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AmountSum(i128);

impl AmountSum {
    /// Adds one amount.
    pub fn add(&mut self, amount: Amount) {
        self.0 += i128::from(amount.0);
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: Self) {
        self.0 += other.0;
    }

    /// The difference between this sum and `earlier`.
    #[must_use]
    pub fn minus(self, earlier: Self) -> Self {
        Self(self.0 - earlier.0)
    }

    /// The part `numerator` / `denominator` of this sum, rounded towards zero.
    #[must_use]
    pub(crate) fn times(self, numerator: i128, denominator: i128) -> Self {
        Self(self.0 * numerator / denominator)
    }

    /// The sum without its sign.
    #[must_use]
    pub(crate) fn magnitude(self) -> Self {
        Self(self.0.abs())
    }

    /// The sum as the nearest float, for ratios.
    #[expect(clippy::cast_precision_loss, reason = "for ratios only")]
    pub(crate) fn as_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl fmt::Display for AmountSum {
    /// Plain decimal text without trailing zeros. A precision (`{:.2}`) rounds, half away from
    /// zero, for tables.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.0 {
            ..0 => "-",
            _ if f.sign_plus() => "+",
            _ => "",
        };
        let scale = AMOUNT_SCALE as usize;
        let digits = f.precision().unwrap_or(scale).min(scale);
        let dropped = 10_u128.pow(u32::try_from(scale - digits).unwrap_or_default());
        let units = (self.0.unsigned_abs() + dropped / 2) / dropped;
        let one = 10_u128.pow(u32::try_from(digits).unwrap_or_default());
        let (whole, decimals) = (units / one, format!("{:0digits$}", units % one));
        let decimals = match f.precision() {
            Some(0) => "",
            Some(_) => &decimals,
            None => decimals.trim_end_matches('0'),
        };
        let point = if decimals.is_empty() { "" } else { "." };
        let text = format!("{sign}{whole}{point}{decimals}");
        match f.width() {
            Some(width) => write!(f, "{text:>width$}"),
            None => f.write_str(&text),
        }
    }
}

impl std::str::FromStr for AmountSum {
    type Err = AmountError;

    /// Parses the output of [`Display`](fmt::Display).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = Number::parse(text)
            .filter(|number| number.exponent == 0 && number.fraction.len() <= 9)
            .ok_or(AmountError::NotANumber)?;
        let mut value = 0_i128;
        let zeros = std::iter::repeat_n(&b'0', 9 - number.fraction.len());
        for digit in number.integer.iter().chain(number.fraction).chain(zeros) {
            value = value
                .checked_mul(10)
                .and_then(|value| value.checked_add(i128::from(digit - b'0')))
                .ok_or(AmountError::OutOfRange)?;
        }
        Ok(Self(if number.negative { -value } else { value }))
    }
}

impl serde::Serialize for AmountSum {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for AmountSum {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nanos(text: &str) -> Result<i64, AmountError> {
        Amount::parse(text).map(Amount::nanos)
    }

    #[test]
    fn sums_are_added_and_subtracted() {
        let sum = |text: &str| text.parse::<AmountSum>().unwrap();
        let mut all = sum("1.5");
        all.merge(sum("-0.25"));
        assert_eq!(all, sum("1.25"));
        assert_eq!(all.minus(sum("1.5")), sum("-0.25"));
        all.add(Amount::parse("0.000000001").unwrap());
        assert_eq!(all.to_string(), "1.250000001");
    }

    #[test]
    fn amounts_are_parsed_exactly() {
        assert_eq!(nanos("0.00325"), Ok(3_250_000));
        assert_eq!(nanos("0.0"), Ok(0));
        assert_eq!(nanos("-0"), Ok(0));
        assert_eq!(nanos("-1.5"), Ok(-1_500_000_000));
        assert_eq!(nanos("0.000000001"), Ok(1));
        assert_eq!(
            nanos("0.0000000010000"),
            Ok(1),
            "zeros beyond the ninth decimal change nothing"
        );
        assert_eq!(nanos("999999999.999999999"), Ok(999_999_999_999_999_999));
        assert_eq!(nanos("1e-5"), Ok(10_000));
        assert_eq!(nanos("3.25E-3"), Ok(3_250_000));
        assert_eq!(nanos("12e2"), Ok(1_200_000_000_000));
        assert_eq!(nanos("0e999999999999"), Ok(0));
        assert_eq!(nanos("0.1e1"), Ok(1_000_000_000));
    }

    #[test]
    fn unambiguous_notations_outside_json_are_amounts_too() {
        for (text, expected) in [
            ("+0.01", 10_000_000),
            (".01", 10_000_000),
            ("-.01", -10_000_000),
            ("1.", 1_000_000_000),
            ("007.50", 7_500_000_000),
            ("+1.e-2", 10_000_000),
        ] {
            assert_eq!(nanos(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn amounts_that_do_not_fit_are_refused_by_parse() {
        assert_eq!(nanos("0.0000000001"), Err(AmountError::TooPrecise));
        assert_eq!(nanos("1e-10"), Err(AmountError::TooPrecise));
        assert_eq!(nanos("1e-999999999999"), Err(AmountError::TooPrecise));
        assert_eq!(nanos("1000000000"), Err(AmountError::OutOfRange));
        assert_eq!(nanos("1e400"), Err(AmountError::OutOfRange));
        assert_eq!(nanos(&"9".repeat(400)), Err(AmountError::OutOfRange));
        for text in [
            "", "-", "+", ".", "-.", "+-1", "1e", "1e+", "e1", ".e1", "0x1", "1_000", "1.5.", " 1",
            "1 ", "NaN", "$1", "１",
        ] {
            assert_eq!(nanos(text), Err(AmountError::NotANumber), "{text}");
        }
        for text in ["1,5", "-0,05", "1,234", "1.234,50", ",5"] {
            assert_eq!(nanos(text), Err(AmountError::Comma), "{text}");
        }
        for text in ["a,5", "0,05 EUR", "1;5"] {
            assert_eq!(nanos(text), Err(AmountError::NotANumber), "{text}");
        }
    }

    #[test]
    fn whole_numbers_may_be_written_with_a_fraction() {
        for (text, value, is_exact) in [
            ("26", 26, true),
            ("26.0", 26, true),
            ("2.6e1", 26, true),
            ("26.4999", 26, false),
            ("26.5", 27, false),
            ("-26.5", -27, false),
            ("0.5", 1, false),
            ("5e-2", 0, false),
            ("-2147483648", i32::MIN, true),
            ("2147483647.4", i32::MAX, false),
        ] {
            assert_eq!(round_i32(text), Some(Rounded { value, is_exact }), "{text}");
        }
        for text in ["2147483647.5", "2147483648", "1e10", "\"26\"", ""] {
            assert_eq!(round_i32(text), None, "{text}");
        }
    }

    #[test]
    fn amounts_are_rounded_to_the_nearest() {
        for (text, value, is_exact) in [
            ("0.30000000000000004", 300_000_000, false),
            ("0.0000000014", 1, false),
            ("0.0000000015", 2, false),
            ("-0.0000000015", -2, false),
            ("0.00000000149999", 1, false),
            ("0.0000000005", 1, false),
            ("0.00000000005", 0, false),
            ("1e-999999999999", 0, false),
            ("0.0000000010000", 1, true),
            ("999999999.9999999994", 999_999_999_999_999_999, false),
        ] {
            let value = Amount(value);
            assert_eq!(
                Amount::round(text),
                Ok(Rounded { value, is_exact }),
                "{text}"
            );
        }
        let too_large = Amount::round("999999999.9999999995");
        assert_eq!(too_large, Err(AmountError::OutOfRange));
    }

    #[test]
    fn a_precision_limits_the_decimals_shown() {
        let mut sum = AmountSum::default();
        sum.add(Amount::from_nanos(12_345_678_900));
        assert_eq!(sum.to_string(), "12.3456789");
        assert_eq!(format!("{sum:.2}"), "12.35");
        assert_eq!(format!("{sum:.0}"), "12");
        assert_eq!(format!("{sum:8.2}"), "   12.35");
        assert_eq!(AmountSum::default().to_string(), "0");
        assert_eq!(format!("{sum:+.1}"), "+12.3");
    }

    proptest! {
        #[test]
        fn digits_read_at_once_equal_digits_read_one_by_one(text in "[0-9.]{4,8}|[!-@]{4,8}") {
            let text = text.as_bytes();
            prop_assert_eq!(digits_of_word(text), digits_one_by_one(text));
        }

        #[test]
        fn a_written_amount_reads_back_the_same(
            nanos in -999_999_999_999_999_999_i64..=999_999_999_999_999_999,
        ) {
            let amount = Amount::from_nanos(nanos);
            prop_assert_eq!(Amount::parse(&amount.to_string()), Ok(amount));
            let mut sum = AmountSum::default();
            sum.add(amount);
            prop_assert_eq!(sum.to_string().parse::<AmountSum>(), Ok(sum));
        }
    }
}
