//! Which digits of a text are one number, where several groups of digits stand side by side.
//!
//! There is one definition, by which numbers are hidden and by which `erase` reads what is hidden:
//!
//! ```text
//! number    = own | formatted
//! own       = 7 digits or more that stand together; an international prefix (00) does not count
//! formatted = [mark] group { joint group }         7 to 15 digits in all
//! mark      = "+" | "00" | "0" | "("                which says that a number begins
//! joint     = one blank, hyphen or dot, of whatever script; a hyphen or dot between blanks, and
//!             behind a mark a slash, where the digits so far are too few; brackets of any kind
//!             around the first or the second group
//! ```
//!
//! The last group of a formatted number may be as long as a number of its own: behind "+" and "00"
//! whatever its length, otherwise up to 9 digits, where those before it make it a number of ten or
//! more (`302-5550101`). Anything else ends a number: a comma, a semicolon, a letter.
//!
//! - A real date (`2026-10-01`), a time of day (`10:05:00`) and a decimal below one (`0.0270`) are no
//!   numbers.
//! - A short group that is joined to a number is hidden with it, for it may belong to it.
//! - What is left over and still has the digits of a number (`1302/555/0101`) is one, as a whole.
//!
//! [`sequences`] does without the definition: it goes through every way in which groups that stand
//! side by side could be a number, with and without a `(0)`.

use std::collections::VecDeque;
use std::ops::Range;

use super::{
    MAX_DIGITS, MIN_DIGITS, digit_of, international, is_digit, is_raised, is_real_date_or_fraction,
    may_separate, spans,
};

/// Groups that are looked at together: more than a number can have.
const MAX_GROUPS: usize = 20;
/// A shorter number may go on behind a separator that is unusual.
const SURE_DIGITS: usize = 10;
/// Most characters between two digits of one number, and between those of a sequence.
const MAX_SEPARATORS: usize = 5;
const MAX_SEPARATORS_OF_SEQUENCE: usize = 16;
/// Most digits that `00` or `011` adds to a number.
const MAX_PREFIX_DIGITS: usize = 3;

/// A number in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// From its first digit to its last.
    pub(crate) number: Range<usize>,
    /// The number and what may belong to it.
    pub(crate) hidden: Range<usize>,
}

/// The numbers of a text. Memory: [`MAX_GROUPS`] places. In a `value` that is a number and nothing
/// else, the beginning is a mark, and a slash joins the first digits to the rest.
pub(crate) fn numbers(text: &str, is_value: bool) -> impl Iterator<Item = Found> {
    let separates = |c| may_separate(c) || ":;=[]{}".contains(c);
    spans(text, separates, MAX_SEPARATORS).flat_map(move |span| Numbers {
        text,
        is_value,
        groups: Groups::new(text, span),
        left_over: None,
        next: None,
    })
}

/// Calls `is_it` with the digits of every sequence of groups that stand side by side and could be a
/// number, until it says yes. The digits come without an international prefix.
pub(crate) fn sequences(text: &str, mut is_it: impl FnMut(&str) -> bool) -> bool {
    let separates = |c: char| !c.is_alphanumeric();
    spans(text, separates, MAX_SEPARATORS_OF_SEQUENCE).any(|span| {
        let mut groups = Groups::new(text, span);
        let mut found = false;
        while !found && groups.get(0).is_some() {
            found = sequences_from_first(text, &mut groups, &mut is_it);
            groups.skip(1);
        }
        found
    })
}

fn sequences_from_first(
    text: &str,
    groups: &mut Groups<'_>,
    is_it: &mut impl FnMut(&str) -> bool,
) -> bool {
    // The second is without a `(0)`, which is dialled within a country only.
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
            if candidate.len() >= MIN_DIGITS && is_it(international(candidate)) {
                return true;
            }
        }
    }
    false
}

/// Brackets.
const OPENING: [char; 5] = ['(', '[', '{', '\u{ff08}', '\u{ff3b}'];
const CLOSING: [char; 5] = [')', ']', '}', '\u{ff09}', '\u{ff3d}'];

/// Digits that stand together.
#[derive(Clone, Copy, Debug)]
struct Group {
    start: usize,
    end: usize,
    digits: usize,
}

/// The groups of a span, as many ahead as are asked for.
#[derive(Debug)]
struct Groups<'a> {
    text: &'a str,
    /// What is not yet cut into groups.
    rest: Range<usize>,
    /// Where the text before the first group ends that was skipped.
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

    /// The group at `place`, counted from the first that was not skipped; `None` beyond the last, and
    /// beyond [`MAX_GROUPS`].
    fn get(&mut self, place: usize) -> Option<Group> {
        while self.ahead.len() <= place && place < MAX_GROUPS {
            let rest = self.text.get(self.rest.clone())?;
            let start = self.rest.start + rest.find(is_digit)?;
            let digits = self.text.get(start..self.rest.end)?;
            // The number of a footnote is not of the number that it stands at.
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

    /// What stands between a group that was [got](Self::get) and the one before it.
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

/// What says that a number begins, and how long a group of a number's own length may be behind it.
fn mark(groups: &Groups<'_>, place: usize, group: Group) -> Option<Range<usize>> {
    let before = groups.gap(place);
    let (before, is_opened) = match before.strip_suffix(OPENING) {
        Some(before) => (before, true),
        None => (before, false),
    };
    let plus = before.strip_suffix(['+', '\u{ff0b}']);
    let is_plus = plus.is_some_and(|before| {
        // Of a sum, or of the name of a time zone, it is none.
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

/// Digits of a group that count: those behind an international prefix.
fn counted(groups: &Groups<'_>, group: Group) -> usize {
    if groups.text_of(group).starts_with("00") {
        group.digits - 2
    } else {
        group.digits
    }
}

/// Whether the gap before the group at `place` of a number joins it to the one before.
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
    matches!(chars, [Some(first), Some(second), Some(third), None] if is_blank(first) && is_mark(second) && is_blank(third))
}

/// Spaces, and characters without a width.
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

/// Whether what follows a gap may belong to a short number before it: no cell of a table, and not
/// plainly another number.
fn may_go_on(gap: &str) -> bool {
    !gap.contains([
        ',', '|', '\t', '\n', '\r', '\u{3001}', '\u{ff0c}', '+', '\u{ff0b}',
    ])
}

#[derive(Debug)]
struct Numbers<'a> {
    text: &'a str,
    is_value: bool,
    groups: Groups<'a>,
    /// Groups that were passed over, and how many digits they have.
    left_over: Option<(Range<usize>, usize)>,
    /// Found already, behind what was left over.
    next: Option<Found>,
}

impl Iterator for Numbers<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if let Some(next) = self.next.take() {
            return Some(next);
        }
        while let Some(first) = self.groups.get(0) {
            if let Some(groups) = self.other(0) {
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

    /// What was passed over, if it could still be a number.
    fn take_left_over(&mut self) -> Option<Found> {
        let (range, digits) = self.left_over.take()?;
        (digits >= MIN_DIGITS).then(|| Found {
            number: range.clone(),
            hidden: range,
        })
    }

    /// How many groups from `place` on are a date, a time of day or a decimal below one.
    fn other(&mut self, place: usize) -> Option<usize> {
        self.time_of_day(place)
            .or_else(|| self.date_or_fraction(place))
    }

    /// How many groups from `place` on are a time of day: `10:05`, `10:05:00`, `10:05:00.123`.
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
        let goes_on = self.groups.get(place + groups).is_some()
            && self.groups.gap(place + groups).starts_with(['-', '.']);
        let went_on =
            self.groups.gap(place).ends_with(['-', '.']) && (place > 0 || self.groups.before > 0);
        (!goes_on && !went_on && is_real_date_or_fraction(text)).then_some(groups)
    }

    /// How many groups from `place` on are a number by the definition.
    fn number(&mut self, place: usize) -> Option<usize> {
        let first = self.groups.get(place)?;
        let mut digits = counted(&self.groups, first);
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
            let is_own = counted(&self.groups, group) >= MIN_DIGITS;
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
                || self.other(place + count).is_some()
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

    /// Whether groups are a whole number of North America: `1 302 555 0101`, or `302 555 0101` with another number behind it.
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

    /// The number of the first `count` groups, with the short ones behind it that may belong to it.
    fn found(&mut self, first: Group, count: usize) -> Found {
        let last = self.groups.get(count - 1).unwrap_or(first);
        let mut digits = counted(&self.groups, first);
        for place in 1..count {
            digits += self.groups.get(place).map_or(0, |group| group.digits);
        }
        let (mut end, mut hidden) = (last.end, count);
        while let Some(group) = self.groups.get(hidden) {
            let gap = self.groups.gap(hidden);
            let is_close = is_separator(gap) || (digits < SURE_DIGITS && may_go_on(gap));
            if !is_close || self.other(hidden).is_some() || self.number(hidden).is_some() {
                break;
            }
            end = group.end;
            hidden += 1;
        }
        self.groups.skip(hidden);
        Found {
            number: first.start..last.end,
            hidden: first.start..end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, is_value: bool) -> String {
        let shown = numbers(text, is_value).map(|Found { number, hidden }| {
            let number = text.get(number).unwrap_or_default();
            (hidden, format!("<{number}>"))
        });
        super::super::splice(text, shown).into_owned()
    }

    #[test]
    fn numbers_side_by_side_are_told_apart() {
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
            // What may belong to a number is hidden with it.
            ("13025550101 1234", "<13025550101>"),
            ("+4989636480-18", "+<4989636480>"),
            ("0049891234 56789", "<0049891234>"),
            ("1302555 / 0101", "<1302555>"),
            ("1234 5678 9012 3456", "<1234 5678 9012>"),
            // What could still be a number is one.
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
        // Where nothing else is expected, the beginning is enough of a mark.
        assert_eq!(shown("49 17012345678", true), "<49 17012345678>");
        assert_eq!(shown("49 17012345678", false), "49 <17012345678>");
        assert_eq!(shown("0049170/1234567", true), "<0049170/1234567>");
    }

    #[test]
    fn every_sequence_of_groups_is_tried() {
        let finds = |text: &str, digits: &str| sequences(text, |sequence| sequence == digits);
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
    fn long_texts_of_digits_take_no_longer_than_they_are() {
        for text in [
            "1 ".repeat(1 << 17),
            "1".repeat(1 << 17),
            "12345678,".repeat(1 << 14),
            "123, ".repeat(1 << 15),
        ] {
            assert!(numbers(&text, false).count() > 0);
            let mut sequences_tried = 0_usize;
            sequences(&text, |_| {
                sequences_tried += 1;
                false
            });
            assert!(sequences_tried <= text.len() * MAX_GROUPS);
        }
    }
}
