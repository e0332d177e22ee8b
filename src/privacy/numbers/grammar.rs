//! The grammar of phone numbers: which adjacent groups of digits form one number.
//!
//! Hiding numbers and reading hidden numbers (`erase`) use the same definition:
//!
//! ```text
//! number    = own | formatted
//! own       = one group of 7 digits or more; an international prefix (00) does not count
//! formatted = [mark] group { joint group }         7 to 15 digits in all
//! mark      = "+" | "00" | "0" | "("                the beginning of a number
//! joint     = one blank, hyphen or dot of any script; brackets around the first or second group;
//!             while the digits so far are too few, also a hyphen or dot between blanks, and
//!             after a mark a slash
//! ```
//!
//! The last group of a formatted number may have 7 digits or more: any number after "+" and "00",
//! otherwise up to 9, if the number then has ten digits or more (`302-5550101`). Anything else ends
//! a number: a comma, a semicolon, a letter.
//!
//! - A real date (`2026-10-01`), a time of day (`10:05:00`) and a decimal below one (`0.0270`) are
//!   not numbers.
//! - A short group joined to a number is hidden with it, because it may belong to the number.
//! - Remaining groups that have enough digits together (`1302/555/0101`) are hidden as one number.
//!
//! [`any_digit_sequence`] ignores this definition: it tries every sequence of adjacent groups, with
//! and without a `(0)`.

use std::collections::VecDeque;
use std::ops::Range;

use super::{
    MAX_DIGITS, MIN_DIGITS, digit_of, digit_spans, is_digit, is_raised, is_real_date_or_fraction,
    may_separate_digits, without_dial_prefix,
};

/// Groups examined together: more than a number can have.
const MAX_GROUPS: usize = 20;
/// A number with fewer digits may continue after an unusual separator.
const SURE_DIGITS: usize = 10;
/// Most characters between two digits of a number, and of a sequence.
const MAX_SEPARATORS: usize = 5;
const MAX_SEPARATORS_OF_SEQUENCE: usize = 16;
/// Digits of the longest dial prefix (`00`, `011`).
const MAX_PREFIX_DIGITS: usize = 3;

/// A number in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundNumber {
    /// From its first digit to its last.
    pub(crate) number: Range<usize>,
    /// The number and the groups that may belong to it.
    pub(crate) hidden: Range<usize>,
}

/// The numbers in a text. In a value that should be one number (`is_value`), the beginning counts
/// as a mark, and a slash may follow the first digits. Memory: [`MAX_GROUPS`] groups.
pub(crate) fn numbers(text: &str, is_value: bool) -> impl Iterator<Item = FoundNumber> {
    let separates = |c| may_separate_digits(c) || ":;=[]{}".contains(c);
    digit_spans(text, separates, MAX_SEPARATORS).flat_map(move |span| Numbers {
        text,
        is_value,
        groups: Groups::new(text, span),
        left_over: None,
        next: None,
    })
}

/// Whether `matches` returns true for the digits of any sequence of adjacent groups that could be a
/// number. The digits have no dial prefix.
pub(crate) fn any_digit_sequence(text: &str, mut matches: impl FnMut(&str) -> bool) -> bool {
    let separates = |c: char| !c.is_alphanumeric();
    digit_spans(text, separates, MAX_SEPARATORS_OF_SEQUENCE).any(|span| {
        let mut groups = Groups::new(text, span);
        let mut found = false;
        while !found && groups.get(0).is_some() {
            found = any_sequence_from_first(text, &mut groups, &mut matches);
            groups.skip(1);
        }
        found
    })
}

fn any_sequence_from_first(
    text: &str,
    groups: &mut Groups<'_>,
    matches: &mut impl FnMut(&str) -> bool,
) -> bool {
    // The second text omits a `(0)`, which is only dialled within a country.
    let mut digits = [String::new(), String::new()];
    for place in 0.. {
        let Some(group) = groups.get(place) else {
            break;
        };
        let of_group = text.get(group.start..group.end).unwrap_or_default();
        let Some(of_group) = of_group.chars().map(digit_of).collect::<Option<String>>() else {
            break;
        };
        let is_national = place > 0 && of_group == "0" && groups.gap(place).ends_with('(');
        digits[0].push_str(&of_group);
        if !is_national {
            digits[1].push_str(&of_group);
        }
        if digits[1].len() > MAX_DIGITS + MAX_PREFIX_DIGITS {
            break;
        }
        let candidates = if digits[0] == digits[1] {
            &digits[..1]
        } else {
            &digits[..]
        };
        for candidate in candidates {
            if candidate.len() >= MIN_DIGITS && matches(without_dial_prefix(candidate)) {
                return true;
            }
        }
    }
    false
}

/// Brackets.
const OPENING: [char; 5] = ['(', '[', '{', '\u{ff08}', '\u{ff3b}'];
const CLOSING: [char; 5] = [')', ']', '}', '\u{ff09}', '\u{ff3d}'];

/// A group of consecutive digits.
#[derive(Clone, Copy, Debug)]
struct Group {
    start: usize,
    end: usize,
    digits: usize,
}

/// The groups of a span, read ahead on demand.
#[derive(Debug)]
struct Groups<'a> {
    text: &'a str,
    /// The part that was not split into groups yet.
    rest: Range<usize>,
    /// End of the last skipped group.
    before: usize,
    ahead: VecDeque<Group>,
}

impl<'a> Groups<'a> {
    fn new(text: &'a str, span: Range<usize>) -> Self {
        Self {
            text,
            before: 0,
            rest: span,
            ahead: VecDeque::new(),
        }
    }

    /// The group at `place`, counted from the first group that was not skipped. `None` after the
    /// last group and from [`MAX_GROUPS`] on.
    fn get(&mut self, place: usize) -> Option<Group> {
        while self.ahead.len() <= place && place < MAX_GROUPS {
            let rest = self.text.get(self.rest.clone())?;
            let start = self.rest.start + rest.find(is_digit)?;
            let digits = self.text.get(start..self.rest.end)?;
            // A raised digit after a number is a footnote mark.
            let raised = digits.starts_with(is_raised);
            let length = digits.find(|c| !is_digit(c) || is_raised(c) != raised);
            let end = start + length.unwrap_or(digits.len());
            self.rest.start = end;
            self.ahead.push_back(Group {
                start,
                end,
                digits: self.text.get(start..end)?.chars().count(),
            });
        }
        self.ahead.get(place).copied()
    }

    fn skip(&mut self, groups: usize) {
        for group in self.ahead.drain(..groups) {
            self.before = group.end;
        }
    }

    /// The text between the group at `place`, which [`get`](Self::get) has returned, and the
    /// previous one.
    fn gap(&self, place: usize) -> &'a str {
        let start = match place.checked_sub(1) {
            Some(before) => self
                .ahead
                .get(before)
                .map_or(self.before, |group| group.end),
            None => self.before,
        };
        let end = self.ahead.get(place).map_or(start, |group| group.start);
        self.text.get(start..end).unwrap_or_default()
    }

    fn text_of(&self, group: Group) -> &'a str {
        self.text.get(group.start..group.end).unwrap_or_default()
    }
}

/// If there is a mark before the group: the lengths of long groups that the number may end with.
fn mark(groups: &Groups<'_>, place: usize, group: Group) -> Option<Range<usize>> {
    let before = groups.gap(place);
    let (before, is_opened) = match before.strip_suffix(OPENING) {
        Some(before) => (before, true),
        None => (before, false),
    };
    let plus = before.strip_suffix(['+', '\u{ff0b}']);
    let is_plus = plus.is_some_and(|before| {
        // A plus sign in a sum or in the name of a time zone is not a mark.
        let digit_before = before.is_empty() && (place > 0 || groups.before > 0);
        !digit_before && !before.ends_with(char::is_alphanumeric)
    });
    let text = groups.text_of(group);
    if is_plus || text.starts_with("00") || text == "011" {
        return Some(MIN_DIGITS..MAX_DIGITS);
    }
    let is_national = text.starts_with('0') && (3..MIN_DIGITS).contains(&group.digits);
    (is_opened || is_national).then_some(MIN_DIGITS..SURE_DIGITS)
}

/// Number of digits of a group, without an international prefix.
fn digit_count(groups: &Groups<'_>, group: Group) -> usize {
    if groups.text_of(group).starts_with("00") {
        group.digits - 2
    } else {
        group.digits
    }
}

/// Whether `gap` joins the group at `place` of a number to the previous group.
fn is_joint(gap: &str, place: usize) -> bool {
    let (mut between, mut has_bracket) = (gap, false);
    if let (Some(closed), 1 | 2) = (gap.strip_prefix(CLOSING), place) {
        (between, has_bracket) = (closed, true);
    }
    if let (Some(opened), 1) = (between.strip_suffix(OPENING), place) {
        (between, has_bracket) = (opened, true);
    }
    (has_bracket && between.is_empty()) || is_separator(between)
}

fn is_separator(between: &str) -> bool {
    let mut chars = between.chars();
    matches!((chars.next(), chars.next()), (Some(c), None) if is_blank(c) || is_mark(c))
}

fn is_wide_separator(between: &str) -> bool {
    let mut chars = between.chars();
    let chars = [chars.next(), chars.next(), chars.next(), chars.next()];
    match chars {
        [Some(first), Some(second), Some(third), None] => {
            is_blank(first) && is_mark(second) && is_blank(third)
        }
        _ => false,
    }
}

/// Spaces and zero-width characters.
fn is_blank(c: char) -> bool {
    (c.is_whitespace() && !c.is_ascii_control())
        || matches!(
            c,
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}'
        )
}

/// Hyphens and dots.
fn is_mark(c: char) -> bool {
    matches!(
        c,
        '-' | '.' | '\u{b7}' | '\u{2010}'
            ..='\u{2015}' | '\u{2212}' | '\u{fe63}' | '\u{ff0d}' | '\u{ff0e}'
    )
}

/// Whether the group after a gap may belong to the short number before it: the gap separates
/// neither cells of a table nor numbers.
fn may_continue(gap: &str) -> bool {
    !gap.contains([
        ',', '|', '\t', '\n', '\r', '\u{3001}', '\u{ff0c}', '+', '\u{ff0b}',
    ])
}

#[derive(Debug)]
struct Numbers<'a> {
    text: &'a str,
    is_value: bool,
    groups: Groups<'a>,
    /// Remaining groups, and their number of digits.
    left_over: Option<(Range<usize>, usize)>,
    /// A number found after the remaining groups.
    next: Option<FoundNumber>,
}

impl Iterator for Numbers<'_> {
    type Item = FoundNumber;

    fn next(&mut self) -> Option<FoundNumber> {
        if let Some(next) = self.next.take() {
            return Some(next);
        }
        while let Some(first) = self.groups.get(0) {
            if let Some(groups) = self.non_number(0) {
                self.groups.skip(groups);
            } else if let Some(number) = self.number(0) {
                self.next = Some(self.found(first, number));
            } else {
                self.pass_over(first);
                self.groups.skip(1);
                continue;
            }
            let left_over = self.take_left_over();
            if let Some(found) = left_over.or_else(|| self.next.take()) {
                return Some(found);
            }
        }
        self.take_left_over()
    }
}

impl Numbers<'_> {
    fn pass_over(&mut self, group: Group) {
        let (range, digits) = self.left_over.get_or_insert((group.start..group.start, 0));
        range.end = group.end;
        *digits += group.digits;
    }

    /// The remaining groups, if they have enough digits for a number.
    fn take_left_over(&mut self) -> Option<FoundNumber> {
        let (range, digits) = self.left_over.take()?;
        (digits >= MIN_DIGITS).then(|| FoundNumber {
            number: range.clone(),
            hidden: range,
        })
    }

    /// Number of groups from `place` on that form a date, a time of day or a decimal below one.
    fn non_number(&mut self, place: usize) -> Option<usize> {
        self.time_of_day(place)
            .or_else(|| self.date_or_fraction(place))
    }

    /// Number of groups from `place` on that form a time of day: `10:05`, `10:05:00`,
    /// `10:05:00.123`.
    fn time_of_day(&mut self, place: usize) -> Option<usize> {
        let is_first = place == 0 && self.groups.before == 0;
        self.groups.get(place)?;
        if !is_first && self.groups.gap(place).ends_with(':') {
            return None;
        }
        let mut count = 0;
        for most in [23, 59, 59] {
            let group = self.groups.get(place + count);
            let text = group.map_or("", |group| self.groups.text_of(group));
            let is_part = text.len() == 2 && text.parse::<u8>().is_ok_and(|value| value <= most);
            if !is_part || (count > 0 && self.groups.gap(place + count) != ":") {
                break;
            }
            count += 1;
        }
        if count == 3 && self.groups.get(place + count).is_some() {
            count += usize::from(self.groups.gap(place + count) == ".");
        }
        (count > 1).then_some(count)
    }

    fn date_or_fraction(&mut self, place: usize) -> Option<usize> {
        let first = self.groups.get(place)?;
        let groups = match first.digits {
            1 => 2,
            4 => 3,
            _ => return None,
        };
        let last = self.groups.get(place + groups - 1)?;
        let text = self.text.get(first.start..last.end)?;
        let continues = self.groups.get(place + groups).is_some()
            && self.groups.gap(place + groups).starts_with(['-', '.']);
        let is_continued =
            self.groups.gap(place).ends_with(['-', '.']) && (place > 0 || self.groups.before > 0);
        (!continues && !is_continued && is_real_date_or_fraction(text)).then_some(groups)
    }

    /// Number of groups from `place` on that form a number.
    fn number(&mut self, place: usize) -> Option<usize> {
        let first = self.groups.get(place)?;
        let mut digits = digit_count(&self.groups, first);
        if digits >= MIN_DIGITS {
            return Some(1);
        }
        let is_start = self.is_value && place == 0 && self.groups.before == 0;
        let long_groups = if is_start {
            Some(MIN_DIGITS..MAX_DIGITS)
        } else {
            mark(&self.groups, place, first)
        };
        let mut count = 1;
        while let Some(group) = self.groups.get(place + count) {
            let is_own = digit_count(&self.groups, group) >= MIN_DIGITS;
            let gap = self.groups.gap(place + count);
            let is_unsure = digits < SURE_DIGITS && is_wide_separator(gap)
                || digits < MIN_DIGITS && gap == "/" && long_groups.is_some();
            let may_be_long = match &long_groups {
                Some(long_groups) => long_groups.contains(&group.digits),
                None => group.digits < SURE_DIGITS && digits + group.digits >= SURE_DIGITS,
            };
            if !(is_joint(gap, count) || is_unsure)
                || digits + group.digits > MAX_DIGITS
                || (is_own && !may_be_long)
                || self.non_number(place + count).is_some()
            {
                break;
            }
            digits += group.digits;
            count += 1;
            if is_own || self.is_north_american(place, count) {
                break;
            }
        }
        (digits >= MIN_DIGITS).then_some(count)
    }

    /// Whether groups form a complete North American number: `1 302 555 0101`, or `302 555 0101`
    /// followed by another number.
    fn is_north_american(&mut self, place: usize, count: usize) -> bool {
        let mut texts = [""; 4];
        for (i, text) in texts.iter_mut().enumerate().take(count) {
            if let Some(group) = self.groups.get(place + i) {
                *text = self.groups.text_of(group);
            }
        }
        let national = match (count, texts) {
            (3, [area, exchange, line, _]) | (4, ["1", area, exchange, line]) => {
                [area, exchange, line]
            }
            _ => return false,
        };
        let begins = |text: &str| text.starts_with(|c| matches!(c, '2'..='9'));
        national.map(str::len) == [3, 3, 4]
            && begins(national[0])
            && begins(national[1])
            && (count == 4 || self.number(place + count).is_some())
    }

    /// The number of the first `count` groups, and the short groups after it that may belong to it.
    fn found(&mut self, first: Group, count: usize) -> FoundNumber {
        let last = self.groups.get(count - 1).unwrap_or(first);
        let mut digits = digit_count(&self.groups, first);
        for place in 1..count {
            digits += self.groups.get(place).map_or(0, |group| group.digits);
        }
        let (mut end, mut hidden) = (last.end, count);
        while let Some(group) = self.groups.get(hidden) {
            let gap = self.groups.gap(hidden);
            let is_close = is_separator(gap) || (digits < SURE_DIGITS && may_continue(gap));
            if !is_close || self.non_number(hidden).is_some() || self.number(hidden).is_some() {
                break;
            }
            end = group.end;
            hidden += 1;
        }
        self.groups.skip(hidden);
        FoundNumber {
            number: first.start..last.end,
            hidden: first.start..end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, is_value: bool) -> String {
        let shown = numbers(text, is_value).map(|FoundNumber { number, hidden }| {
            let number = text.get(number).unwrap_or_default();
            (hidden, format!("<{number}>"))
        });
        super::super::replace_ranges(text, shown).into_owned()
    }

    #[test]
    fn adjacent_numbers_are_separated() {
        for (text, expected) in [
            ("13025550101", "<13025550101>"),
            ("+49 170 1234567", "+<49 170 1234567>"),
            ("+1 (302) 555-0101", "+<1 (302) 555-0101>"),
            ("+1 (302) 555 - 0101", "+<1 (302) 555 - 0101>"),
            ("+49 (0) 170 1234567", "+<49 (0) 170 1234567>"),
            ("0170 1234567", "<0170 1234567>"),
            ("(0221) 1234567", "(<0221) 1234567>"),
            ("00 49 170 1234567", "<00 49 170 1234567>"),
            ("0049170 1234567", "<0049170 1234567>"),
            ("49 170 1234567", "<49 170 1234567>"),
            ("49170 1234567", "<49170 1234567>"),
            ("302-5550101", "<302-5550101>"),
            ("7 5550101", "7 <5550101>"),
            ("+49 170/1234567", "+<49 170/1234567>"),
            ("+1 [302] 555-0101", "+<1 [302] 555-0101>"),
            ("＋１（３０２）５５５-0101", "＋<１（３０２）５５５-0101>"),
            ("1;302;555;0101", "<1;302;555;0101>"),
            ("1:302:555:0101", "<1:302:555:0101>"),
            ("13025550101;7", "<13025550101>;7"),
            ("13025550101½", "<13025550101>½"),
            ("13025550101¹", "<13025550101>¹"),
            ("+33 1 23 45 67 89 10:05:00", "+<33 1 23 45 67 89> 10:05:00"),
            ("+44 20 7946 0958 - 35 s", "+<44 20 7946 0958> - 35 s"),
            ("2026-10-01 10:05:00.123456", "2026-10-01 10:05:00.123456"),
            ("302 555 0101 302 555 0102", "<302 555 0101> <302 555 0102>"),
            ("13025550101, 13025550102", "<13025550101>, <13025550102>"),
            ("13025550101,13025550102", "<13025550101>,<13025550102>"),
            ("13025550101 13025550102", "<13025550101> <13025550102>"),
            ("13025550101 @ 13025550102", "<13025550101> @ <13025550102>"),
            (
                "+1 302 555 0101, +1 302 555 0102",
                "+<1 302 555 0101>, +<1 302 555 0102>",
            ),
            ("+1 302-555-0101 (7)", "+<1 302-555-0101> (7)"),
            ("+1 302 555 0101 / 2", "+<1 302 555 0101> / 2"),
            (
                "called +1 (302) 555-0101, 7 seconds",
                "called +<1 (302) 555-0101>, 7 seconds",
            ),
            (
                "called 13025550101, 7 seconds",
                "called <13025550101>, 7 seconds",
            ),
            ("call_13025550101_4917", "call_<13025550101>_4917"),
            ("https://x/v1/13025550101/7", "https://x/v1/<13025550101>/7"),
            ("7 13025550101", "7 <13025550101>"),
            ("10:05 13025550101", "10:05 <13025550101>"),
            ("UTC+2 13025550101", "UTC+2 <13025550101>"),
            ("2026-10-01 13025550101", "2026-10-01 <13025550101>"),
            ("13025550101 2026-10-01", "<13025550101> 2026-10-01"),
            (
                "2026-10-01,+1 302 555 0101,7",
                "2026-10-01,+<1 302 555 0101>,7",
            ),
            (
                "2026-10-01,13025550101,5,0.0270",
                "2026-10-01,<13025550101>,5,0.0270",
            ),
            // Groups that may belong to a number are hidden with it.
            ("13025550101 1234", "<13025550101>"),
            ("+4989636480-18", "+<4989636480>"),
            ("0049891234 56789", "<0049891234>"),
            ("1302555 / 0101", "<1302555>"),
            ("1234 5678 9012 3456", "<1234 5678 9012>"),
            // Remaining groups with enough digits are hidden as one number.
            ("302,555,0101", "<302,555,0101>"),
            ("0221/123456", "<0221/123456>"),
            ("13,025,550,101", "<13,025,550,101>"),
            ("1+302+555+0101", "<1+302+555+0101>"),
            ("0.800.123.456", "<0.800.123.456>"),
            ("2012-34-56-78", "<2012-34-56-78>"),
            ("1930-55-50-101", "<1930-55-50-101>"),
            ("12345 and 2026-10-01 12", "12345 and 2026-10-01 12"),
        ] {
            assert_eq!(shown(text, false), expected, "{text}");
        }
        // In a value, the beginning counts as a mark.
        assert_eq!(shown("49 17012345678", true), "<49 17012345678>");
        assert_eq!(shown("49 17012345678", false), "49 <17012345678>");
        assert_eq!(shown("0049170/1234567", true), "<0049170/1234567>");
    }

    #[test]
    fn every_sequence_of_adjacent_groups_is_tried() {
        let finds =
            |text: &str, digits: &str| any_digit_sequence(text, |sequence| sequence == digits);
        for text in [
            "302 555 0101",
            "7 302 555 0101 7",
            "302/555/0101",
            "1,302,555,0101,9",
            "3 0 2 5 5 5 0 1 0 1",
            "2026-10-01,302-555-0101,7",
            "00 302 555 0101",
        ] {
            assert!(finds(text, "3025550101"), "{text}");
        }
        assert!(finds("+49 (0) 170 1234567", "491701234567"));
        assert!(finds("49170 1234567", "491701234567"));
        for text in [
            "3:025:550;101",
            "30[255]50101",
            "30------25550101",
            "{302}555=0101",
        ] {
            assert!(finds(text, "3025550101"), "{text}");
        }
        assert!(!finds("3025550101", "302555010"));
        assert!(!finds("302 555 x 0101", "3025550101"));
    }

    #[test]
    fn long_texts_of_digits_take_linear_time() {
        for text in [
            "1 ".repeat(1 << 17),
            "1".repeat(1 << 17),
            "12345678,".repeat(1 << 14),
            "123, ".repeat(1 << 15),
        ] {
            assert!(numbers(&text, false).count() > 0);
            let mut sequences_tried = 0_usize;
            any_digit_sequence(&text, |_| {
                sequences_tried += 1;
                false
            });
            assert!(sequences_tried <= text.len() * MAX_GROUPS);
        }
    }
}
