//! Tables for people.

use std::collections::BTreeMap;

use anstyle::Style;
use jiff::Timestamp;

use super::terminal::{BAD, Look, OPEN, wrapped};
use crate::cdr::amount::AmountSum;
use crate::cdr::period::{Period, PeriodUnit};
use crate::cdr::slice::Direction;
use crate::cdr::tally::Totals;
pub(super) use crate::error::{counted, thousands};
use crate::lake::ledger::State;
use crate::ops::status::{ANSWERED, DayStatus, acd_seconds, asr_percent};

/// Most days shown before a table is cut in the middle.
const MAX_DAYS: usize = 62;
/// Fewest days in a row without data that become one line.
const MIN_GAP_DAYS: usize = 4;
/// Width of the longest bar, in characters.
const BAR_WIDTH: u64 = 20;

/// A number that may be negative, with its thousands set apart: a provider may correct more than a
/// day has.
pub(super) fn signed(number: i64) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", thousands(number.unsigned_abs()))
}

/// A share, in words that never make nothing of it: `2.5 %`, `less than 0.1 %`.
#[expect(clippy::cast_precision_loss, reason = "a share for people")]
pub(super) fn percent(part: u64, whole: u64) -> String {
    let percent = part as f64 * 100.0 / whole.max(1) as f64;
    if percent < 0.1 {
        return "less than 0.1 %".to_owned();
    }
    format!("{percent:.1} %")
}

/// An amount rounded to two decimals, with its thousands set apart.
pub(super) fn dollars(amount: AmountSum) -> String {
    let text = format!("{amount:.2}");
    let (sign, text) = text
        .strip_prefix('-')
        .map_or(("", text.as_str()), |text| ("-", text));
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "00"));
    format!(
        "{sign}{}.{decimals}",
        thousands(whole.parse().unwrap_or(u64::MAX))
    )
}

/// One day or month of a lake.
#[derive(Clone, Debug, Default)]
pub(super) struct DayRow {
    placed: Option<u64>,
    received: Option<u64>,
    answered: u64,
    seconds: i64,
    charge: AmountSum,
    /// When what the day holds was fetched last.
    fetched_at: Option<Timestamp>,
    remarks: Vec<String>,
}

/// A table by day, or by month: calls by direction, minutes, spend, and a bar, so that a hole or a
/// spike is seen and not read.
#[derive(Clone, Debug, Default)]
pub(super) struct DayTable {
    days: BTreeMap<Period, DayRow>,
    /// The periods of the lake's slices. A line is one of these, or a day.
    slices: PeriodUnit,
    /// Whether answer-seizure ratio and average call duration are shown.
    shows_quality: bool,
}

impl DayTable {
    /// A table that shows answer-seizure ratio (ASR) and average call duration (ACD) too.
    pub(super) fn with_quality(slices: PeriodUnit) -> Self {
        Self {
            slices,
            shows_quality: true,
            ..Self::default()
        }
    }

    /// Adds what one slice holds.
    pub(super) fn add(
        &mut self,
        period: Period,
        direction: Direction,
        rows: u64,
        totals: &Totals,
        state: Option<State>,
    ) {
        self.slices = period.unit();
        let row = self.period(period);
        *row.calls_of(direction) = Some(rows);
        let answered = totals
            .by_disposition
            .get(ANSWERED)
            .copied()
            .unwrap_or_default();
        row.add_sums(answered, totals.duration_seconds, totals.charge_usd);
        if state == Some(State::Open) && row.remarks.is_empty() {
            row.remarks.push("open".to_owned());
        }
    }

    /// Adds a day as the ledger has it.
    pub(super) fn add_status(&mut self, status: &DayStatus) {
        let row = self.period(Period::day(status.day));
        row.remarks.clone_from(&status.remarks);
        for slice in &status.slices {
            if slice.fetched_at.is_some() {
                *row.calls_of(slice.direction) = Some(slice.rows);
            }
            row.fetched_at = row.fetched_at.max(slice.fetched_at);
            row.add_sums(slice.answered, slice.duration_seconds, slice.charge_usd);
        }
    }

    fn period(&mut self, period: Period) -> &mut DayRow {
        self.days.entry(period).or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.days.is_empty()
    }

    /// The table, with a line of sums.
    pub(super) fn render(&self) -> String {
        self.render_in(Look::default()).0
    }

    /// The table as it looks on a terminal, and the columns for which there is no room.
    pub(super) fn render_in(&self, look: Look) -> (String, Vec<&'static str>) {
        let first = self.days.keys().next();
        let unit = first.map_or(PeriodUnit::Day, |period| period.unit());
        let columns = self.columns(unit);
        let mut sum = DayRow {
            placed: Some(0),
            received: Some(0),
            ..DayRow::default()
        };
        for row in self.days.values() {
            sum.add(row);
        }
        let header = columns.iter().map(|column| column.name.to_owned());
        let header: Vec<String> = header.collect();
        let lines = self.lines();
        let periods = lines.iter().filter_map(|line| match line {
            Line::Period(period, row) => Some(self.cells(row, &period.to_string())),
            Line::Gap { .. } | Line::Hidden(_) => None,
        });
        let total = self.cells(&sum, "total");
        let cells: Vec<Vec<String>> = periods.chain([header, total]).collect();
        let grid = Grid::fit(&columns, &cells, look.width);
        let [periods @ .., header, total] = &*cells else {
            unreachable!("there is a header and a total");
        };
        let busiest = self.days.values().map(DayRow::calls).max();
        let busiest = busiest.unwrap_or_default().max(1);
        let mut text = grid.line(header).trim_end().to_owned() + "\n";
        let mut periods = periods.iter();
        for line in lines {
            match line {
                Line::Period(_, row) => {
                    let cells = periods.next().expect("each period has cells");
                    let share = BarShare {
                        calls: row.calls(),
                        of: busiest,
                    };
                    text.push_str(&row.with_remarks(&grid.line(cells), share, look));
                }
                Line::Gap {
                    from,
                    to,
                    days,
                    row,
                } => {
                    let words = format!(
                        "{from} to {to}, {} {unit}s: {}",
                        thousands(days as u64),
                        row.remarks.join(", ")
                    );
                    text.push_str(&look.paragraph(row.style(), &words));
                }
                Line::Hidden(days) => {
                    let days = thousands(days as u64);
                    let words = format!("…          ({days} more {unit}s)\n");
                    text.push_str(&words);
                }
            }
        }
        text.push_str(grid.line(total).trim_end());
        text.push('\n');
        // A legend explains it on a terminal.
        if look.width.is_none()
            && self
                .days
                .values()
                .flat_map(|day| &day.remarks)
                .any(|remark| remark.ends_with("open"))
        {
            let line = format!("open: {}\n", describe_open(self.slices));
            text.push_str(&line);
        }
        (text, grid.left_out)
    }

    fn columns(&self, unit: PeriodUnit) -> Vec<Column> {
        let of = |name, is_left, width| Column {
            name,
            is_left,
            width,
        };
        let mut columns = vec![
            of(unit.as_str(), true, 10),
            of("placed", false, 10),
            of("received", false, 10),
            of("minutes", false, 12),
            of("charge USD", false, 13),
        ];
        if self.shows_quality {
            columns.extend([
                of("ASR", false, 6),
                of("ACD", false, 5),
                of("fetched", true, 16),
            ]);
        }
        columns
    }

    /// The cells of a row, as many as there are columns.
    fn cells(&self, row: &DayRow, name: &str) -> Vec<String> {
        let calls = |calls: Option<u64>| calls.map_or_else(|| "-".to_owned(), thousands);
        let ratio = |ratio: Option<f64>, unit: &str| {
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.0}{unit}"))
        };
        let mut cells = vec![
            name.to_owned(),
            calls(row.placed),
            calls(row.received),
            signed((row.seconds + 30).div_euclid(60)),
            dollars(row.charge),
        ];
        if self.shows_quality {
            let fetched = row.fetched_at;
            cells.extend([
                ratio(asr_percent(row.answered, row.calls()), " %"),
                ratio(acd_seconds(row.seconds, row.answered), "s"),
                fetched.map_or_else(String::new, |at| at.strftime("%Y-%m-%d %H:%M").to_string()),
            ]);
        }
        cells
    }

    /// The lines to show: equal days without data become one line, and the middle of a long table
    /// is left out, except for days that need attention.
    fn lines(&self) -> Vec<Line<'_>> {
        let mut lines = Vec::new();
        let days: Vec<(&Period, &DayRow)> = self.days.iter().collect();
        for run in days.chunk_by(|(_, one), (_, next)| one.is_empty() && one.is_like(next)) {
            match run {
                [(from, row), .., (to, _)] if run.len() >= MIN_GAP_DAYS => lines.push(Line::Gap {
                    from: **from,
                    to: **to,
                    days: run.len(),
                    row,
                }),
                _ => lines.extend(run.iter().map(|(period, row)| Line::Period(**period, row))),
            }
        }
        if lines.len() <= MAX_DAYS {
            return lines;
        }
        let tail = lines.split_off(lines.len() - MAX_DAYS / 2);
        let middle = lines.split_off(MAX_DAYS / 2);
        let mut shown = 0;
        for line in middle {
            let is_shown = !line.remarks().is_empty() && shown < MAX_DAYS;
            match (is_shown, line, lines.last_mut()) {
                (true, line, _) => {
                    shown += 1;
                    lines.push(line);
                }
                (false, line, Some(Line::Hidden(days))) => *days += line.days(),
                (false, line, _) => lines.push(Line::Hidden(line.days())),
            }
        }
        lines.extend(tail);
        lines
    }
}

/// What `open` means.
pub(super) fn describe_open(unit: PeriodUnit) -> String {
    format!("the {unit} had not settled when it was fetched; later runs fetch it again")
}

/// A column of the table.
#[derive(Clone, Copy, Debug)]
struct Column {
    name: &'static str,
    /// Whether its cells begin at the left.
    is_left: bool,
    /// Its width where lines may be of any length.
    width: usize,
}

/// The columns that are shown, with their widths.
#[derive(Debug)]
struct Grid {
    columns: Vec<(Column, Option<usize>)>,
    /// Between a column and the next one, if that one ends at the right.
    gap: usize,
    left_out: Vec<&'static str>,
}

/// Between a column and the next one, if that one begins at the left.
const LEFT_GAP: usize = 2;
/// Columns that a narrow terminal goes without, in this order.
const DISPENSABLE: [&str; 4] = ["fetched", "ACD", "ASR", "minutes"];

impl Grid {
    /// As wide as the columns are, or as narrow as their cells, down to what fits into `width`.
    fn fit(columns: &[Column], cells: &[Vec<String>], width: Option<usize>) -> Self {
        let Some(width) = width else {
            let columns = columns.iter().map(|column| (*column, Some(column.width)));
            return Self {
                columns: columns.collect(),
                gap: 1,
                left_out: Vec::new(),
            };
        };
        let widest = |index: usize| {
            let lengths = cells.iter().map(|row| row[index].chars().count());
            lengths.max().unwrap_or_default()
        };
        let grid = |left_out: &[&'static str], gap| Self {
            columns: columns
                .iter()
                .enumerate()
                .map(|(index, column)| {
                    let is_shown = !left_out.contains(&column.name);
                    (*column, is_shown.then(|| widest(index)))
                })
                .collect(),
            gap,
            left_out: left_out.to_vec(),
        };
        let is_there = |name: &&str| columns.iter().any(|column| column.name == *name);
        let dispensable: Vec<&str> = DISPENSABLE.into_iter().filter(is_there).collect();
        let numbers = 0..=dispensable.len();
        let mut grids =
            numbers.flat_map(|number| [2, 1].map(|gap| grid(&dispensable[..number], gap)));
        grids
            .find(|grid| grid.width() <= width)
            .unwrap_or_else(|| grid(&dispensable, 1))
    }

    fn width(&self) -> usize {
        self.line(&vec![String::new(); self.columns.len()])
            .chars()
            .count()
    }

    fn line(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for ((column, width), cell) in self.columns.iter().zip(cells) {
            let Some(width) = *width else { continue };
            let gap = match (line.is_empty(), column.is_left) {
                (true, _) => 0,
                (false, true) => LEFT_GAP,
                (false, false) => self.gap,
            };
            line.push_str(&" ".repeat(gap));
            let cell = if column.is_left {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            };
            line.push_str(&cell);
        }
        line
    }
}

/// The calls of a day among those of the busiest one.
#[derive(Clone, Copy, Debug)]
struct BarShare {
    calls: u64,
    of: u64,
}

impl BarShare {
    fn bar(self, longest: u64) -> String {
        let length = (self.calls * longest).div_ceil(self.of);
        "█".repeat(usize::try_from(length).unwrap_or_default())
    }
}

/// Fewest columns in which remarks are wrapped beside the cells, and for a bar.
const MIN_REMARK_WIDTH: usize = 24;
const MIN_BAR_WIDTH: usize = 6;
/// Where remarks below the cells begin.
const BELOW_CELLS: usize = 12;

/// A line of the table.
#[derive(Debug)]
enum Line<'a> {
    Period(Period, &'a DayRow),
    /// Periods without data, all with the same remark.
    Gap {
        from: Period,
        to: Period,
        days: usize,
        row: &'a DayRow,
    },
    /// This many days are not shown.
    Hidden(usize),
}

impl Line<'_> {
    fn remarks(&self) -> &[String] {
        match self {
            Self::Period(_, row) | Self::Gap { row, .. } => &row.remarks,
            Self::Hidden(_) => &[],
        }
    }

    fn days(&self) -> usize {
        match self {
            Self::Period(..) => 1,
            Self::Gap { days, .. } | Self::Hidden(days) => *days,
        }
    }
}

impl DayRow {
    /// The cells of a line with a bar and the remarks behind them. On a terminal, remarks that do
    /// not fit stand below the bar, or below the cells.
    fn with_remarks(&self, cells: &str, share: BarShare, look: Look) -> String {
        let remarks = self.remarks.join(", ");
        let paint = |words: &str| look.paint(self.style(), words);
        let Some(width) = look.width else {
            let bar = share.bar(BAR_WIDTH);
            let remarks = format!("{bar} {}", paint(&remarks));
            return format!("{cells}  {}", remarks.trim()).trim_end().to_owned() + "\n";
        };
        let begin = cells.chars().count() + LEFT_GAP;
        let room = width.saturating_sub(begin);
        let bar = match room {
            MIN_BAR_WIDTH.. => share.bar(BAR_WIDTH.min(room as u64)),
            _ => String::new(),
        };
        let length = bar.chars().count();
        if length + usize::from(length > 0) + remarks.chars().count() <= room {
            let line = format!("{cells}  {bar} {}", paint(&remarks));
            let line = if bar.is_empty() {
                format!("{cells}  {}", paint(&remarks))
            } else {
                line
            };
            return line.trim_end().to_owned() + "\n";
        }
        let mut text = format!("{cells}  {bar}").trim_end().to_owned() + "\n";
        let (indent, room) = if room < MIN_REMARK_WIDTH {
            (BELOW_CELLS, width - BELOW_CELLS)
        } else {
            (begin, room)
        };
        let lines = wrapped(&remarks, room, room).into_iter();
        text.extend(lines.map(|line| format!("{:indent$}{}\n", "", paint(&line))));
        text
    }

    /// The colour of its remarks: that of the gravest.
    fn style(&self) -> Option<Style> {
        let is_any = |words: &[&str]| {
            let mut remarks = self.remarks.iter();
            remarks.any(|remark| words.iter().any(|word| remark.contains(word)))
        };
        if is_any(&["missing", "failed", "damaged", "interrupted", "mismatch"]) {
            Some(BAD)
        } else if self.remarks.iter().all(|remark| remark.ends_with("pruned")) {
            None
        } else {
            Some(OPEN)
        }
    }

    /// Whether nothing is known of the day.
    fn is_empty(&self) -> bool {
        self.placed.is_none() && self.received.is_none()
    }

    fn is_like(&self, other: &Self) -> bool {
        other.is_empty() && self.remarks == other.remarks
    }

    fn calls_of(&mut self, direction: Direction) -> &mut Option<u64> {
        match direction {
            Direction::Placed => &mut self.placed,
            Direction::Received => &mut self.received,
        }
    }

    fn calls(&self) -> u64 {
        self.placed.unwrap_or_default() + self.received.unwrap_or_default()
    }

    fn add(&mut self, other: &Self) {
        let add = |sum: &mut Option<u64>, more: Option<u64>| {
            *sum = Some(sum.unwrap_or_default() + more.unwrap_or_default());
        };
        add(&mut self.placed, other.placed);
        add(&mut self.received, other.received);
        self.add_sums(other.answered, other.seconds, other.charge);
    }

    fn add_sums(&mut self, answered: u64, seconds: i64, charge: AmountSum) {
        self.answered += answered;
        self.seconds += seconds;
        self.charge.merge(charge);
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::Date;

    use super::*;

    #[test]
    fn a_long_table_omits_its_middle_except_rows_with_problems() {
        let mut table = DayTable::default();
        let first = Date::constant(2026, 1, 1);
        for i in 0..200 {
            let day = first.checked_add(jiff::ToSpan::days(i)).unwrap();
            let row = table.period(Period::day(day));
            match i {
                90..100 => row.remarks.push("placed missing".to_owned()),
                120 => {
                    row.placed = Some(1);
                    row.remarks.push("unusual".to_owned());
                }
                _ => row.placed = Some(100),
            }
        }
        let text = table.render();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + MAX_DAYS + 5 + 1, "{text}");
        let middle: Vec<&str> = lines[32..37].iter().map(|line| line.trim_end()).collect();
        assert_eq!(middle[0], "…          (59 more days)");
        assert_eq!(
            middle[1],
            "2026-04-01 to 2026-04-10, 10 days: placed missing"
        );
        assert_eq!(middle[2], "…          (20 more days)");
        assert!(middle[3].starts_with("2026-05-01") && middle[3].ends_with("unusual"));
        assert_eq!(middle[4], "…          (48 more days)");
    }

    /// A table with calls of every length, remarks of every kind and a gap.
    fn busy_table() -> DayTable {
        let mut table = DayTable::with_quality(PeriodUnit::Day);
        let remarks = [
            "",
            "placed open",
            "placed failed, received failed, placed 12 of 1000 rejected",
            "unusual: 250 calls, usually 100 on this weekday",
        ];
        for (day, remark) in (1..).zip(remarks) {
            let row = table.period(Period::day(Date::constant(2026, 1, day)));
            row.placed = Some(10_u64.pow(2 * u32::from(day.unsigned_abs())));
            row.received = Some(7);
            (row.answered, row.seconds) = (row.calls() / 2, 90_000);
            row.charge = "12345.678".parse().unwrap();
            row.fetched_at = Some(Timestamp::UNIX_EPOCH);
            let remarks = remark.split(", ").filter(|remark| !remark.is_empty());
            row.remarks.extend(remarks.map(str::to_owned));
        }
        for day in 5..=9 {
            let row = table.period(Period::day(Date::constant(2026, 1, day)));
            row.remarks = ["placed missing", "received missing"]
                .map(str::to_owned)
                .into();
        }
        table
    }

    #[test]
    fn on_a_terminal_no_line_is_wider_than_it_and_no_word_of_a_remark_is_lost() {
        let table = busy_table();
        let words = |text: &str| {
            let words = text.split_whitespace().filter(|word| !word.contains('█'));
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        for width in 60..200 {
            let look = Look {
                width: Some(width),
                colours: false,
            };
            let (text, left_out) = table.render_in(look);
            for line in text.lines() {
                assert!(line.chars().count() <= width, "{width}: {text}");
            }
            let all = words(&text).join(" ");
            for row in table.days.values() {
                assert!(all.contains(&row.remarks.join(", ")), "{width}: {text}");
            }
            assert_eq!(left_out.is_empty(), all.contains("fetched"), "{width}");
            if width >= 120 {
                assert_eq!(
                    words(&text),
                    words(&table.render_in(Look::default()).0)[..words(&text).len()]
                );
                assert_eq!(left_out, [] as [&str; 0]);
            }
        }
    }

    #[test]
    fn only_remarks_have_colours_and_without_them_the_text_is_the_same() {
        let table = busy_table();
        for width in [None, Some(60), Some(100)] {
            let text = |colours| table.render_in(Look { width, colours }).0;
            let coloured = text(true);
            let red = "\u{1b}[31m";
            assert!(coloured.contains(&format!("{red}2026-01-05 to 2026-01-09, 5 days: placed")));
            assert!(
                coloured.contains("\u{1b}[33mplaced open\u{1b}[0m"),
                "{coloured}"
            );
            let mut plain = coloured;
            for code in [red, "\u{1b}[33m", "\u{1b}[0m"] {
                plain = plain.replace(code, "");
            }
            assert_eq!(plain, text(false));
        }
    }

    #[test]
    fn a_negative_sum_is_shown_with_its_sign() {
        let mut table = DayTable::with_quality(PeriodUnit::Day);
        let row = table.period(Period::day(Date::constant(2026, 1, 1)));
        (row.placed, row.answered, row.seconds) = (Some(2), 2, -7_200_060);
        row.charge = "-1200.5".parse().unwrap();
        let text = table.render();
        for line in text.lines().skip(1) {
            let cells: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(cells[3..5], ["-120,001", "-1,200.50"], "{text}");
            assert!(line.contains(" -3600030s"), "{text}");
        }
        assert_eq!(
            [-90, -30, -29, 29, 30].map(|seconds| signed((seconds + 30_i64).div_euclid(60))),
            ["-1", "0", "0", "0", "1"]
        );
    }

    #[test]
    fn thousands_are_separated() {
        assert_eq!(
            ["0", "999", "1,000", "12,345,678"],
            [0, 999, 1_000, 12_345_678]
                .map(thousands)
                .each_ref()
                .map(String::as_str)
        );
        assert_eq!(dollars("-1234567.895".parse().unwrap()), "-1,234,567.90");
        assert_eq!(dollars("5".parse().unwrap()), "5.00");
    }
}
