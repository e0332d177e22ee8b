//! Tables for people.

use std::collections::BTreeMap;

use jiff::Timestamp;

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
        let quality = if self.shows_quality {
            "    ASR   ACD  fetched         "
        } else {
            ""
        };
        let first = self.days.keys().next();
        let unit = first.map_or(PeriodUnit::Day, |period| period.unit());
        let mut text =
            format!("{unit:<10}     placed   received      minutes    charge USD{quality}");
        text.truncate(text.trim_end().len());
        text.push('\n');
        let busiest = self
            .days
            .values()
            .map(DayRow::calls)
            .max()
            .unwrap_or_default()
            .max(1);
        let mut sum = DayRow {
            placed: Some(0),
            received: Some(0),
            ..DayRow::default()
        };
        for row in self.days.values() {
            sum.add(row);
        }
        for line in self.lines() {
            let words = match line {
                Line::Period(period, row) => {
                    let width = (row.calls() * BAR_WIDTH).div_ceil(busiest);
                    let bar = "█".repeat(usize::try_from(width).unwrap_or_default());
                    let remark = format!("{bar} {}", row.remarks.join(", "));
                    self.write(row, &period.to_string(), remark.trim(), &mut text);
                    continue;
                }
                Line::Gap {
                    from,
                    to,
                    days,
                    row,
                } => format!(
                    "{from} to {to}, {} {unit}s: {}",
                    thousands(days as u64),
                    row.remarks.join(", ")
                ),
                Line::Hidden(days) => {
                    format!("…          ({} more {unit}s)", thousands(days as u64))
                }
            };
            text.push_str(&words);
            text.push('\n');
        }
        self.write(&sum, "total", "", &mut text);
        if self
            .days
            .values()
            .flat_map(|day| &day.remarks)
            .any(|remark| remark.ends_with("open"))
        {
            let line = format!(
                "open: the {} had not settled when it was fetched; later runs fetch it again\n",
                self.slices
            );
            text.push_str(&line);
        }
        text
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

    fn write(&self, row: &DayRow, name: &str, remark: &str, out: &mut String) {
        let calls = |calls: Option<u64>| calls.map_or_else(|| "-".to_owned(), thousands);
        let minutes = signed((row.seconds + 30).div_euclid(60));
        let ratio = |ratio: Option<f64>, unit: &str| {
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.0}{unit}"))
        };
        let quality = if self.shows_quality {
            let asr = ratio(asr_percent(row.answered, row.calls()), " %");
            let acd = ratio(acd_seconds(row.seconds, row.answered), "s");
            let fetched = row
                .fetched_at
                .map_or_else(String::new, |at| at.strftime("%Y-%m-%d %H:%M").to_string());
            format!(" {asr:>6} {acd:>5}  {fetched:<16}")
        } else {
            String::new()
        };
        let line = format!(
            "{name:<10} {:>10} {:>10} {minutes:>12} {:>13}{quality}  {remark}",
            calls(row.placed),
            calls(row.received),
            dollars(row.charge)
        );
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

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
