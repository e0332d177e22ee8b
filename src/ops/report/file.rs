//! The sums of one file of the table.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::time::{Duration, Instant};

use arrow::array::{
    Array, ArrowPrimitiveType, AsArray, DictionaryArray, PrimitiveArray, RecordBatch,
    StringViewArray,
};
use arrow::datatypes::{Date32Type, Decimal64Type, Int32Type, TimestampMicrosecondType};
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::hours::{Quarters, seconds_around};
use super::peaks::Differences;
use super::prices::PriceCounts;
use super::rankings::{Names, Ranked, UNNAMED};
use super::sums::{DaySums, Era, Outcome};
use crate::cdr::amount::Amount;
use crate::cdr::day::date_of;
use crate::cdr::period::PeriodUnit;
use crate::cdr::slice::{Direction, Slice};
use crate::slice_file::scan::scan;
use crate::slice_file::writer::WriteError;

const MICROSECONDS: i64 = 1_000_000;

/// The days that a report is about, and the days that these are compared with.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// All days that are read.
    pub(super) read: RangeInclusive<Date>,
    /// The days of the report.
    pub(super) period: RangeInclusive<Date>,
    /// As many days right before.
    pub(super) before: RangeInclusive<Date>,
    /// The lake's time zone.
    pub(super) timezone: TimeZone,
}

impl Scope {
    /// Which of the two periods a day belongs to.
    fn era(&self, day: Date) -> Option<Era> {
        if self.period.contains(&day) {
            Some(Era::Now)
        } else {
            self.before.contains(&day).then_some(Era::Before)
        }
    }

    /// Whether calls of this day may be in progress in the period.
    fn may_reach_period(&self, day: Date) -> bool {
        day <= *self.period.end()
            && day
                .tomorrow()
                .is_ok_and(|next| next >= *self.period.start())
    }

    /// Whether a slice has such a day.
    fn any(&self, slice: Slice, is_one: impl Fn(&Self, Date) -> bool) -> bool {
        let (from, to) = (slice.period.first_day(), slice.period.last_day());
        let mut days = std::iter::successors(Some(from), |day| day.tomorrow().ok());
        days.by_ref()
            .take_while(|day| *day <= to)
            .any(|day| is_one(self, day))
    }
}

/// The sums of one file.
#[derive(Debug)]
pub(super) struct FileSums {
    /// By day, of the days that are read.
    pub(super) days: BTreeMap<Date, DaySums>,
    pub(super) quarters: Quarters,
    /// `None` if no call of the file is in progress in the period.
    pub(super) differences: Option<Differences>,
    pub(super) names: Option<RankedNames>,
    /// The price of a destination on a day, in the order of days.
    pub(super) prices: Vec<(Date, String, Amount)>,
    /// Rows read.
    pub(super) rows: u64,
    /// Calls that begin more than a day outside the days of the slice: no hour has them.
    pub(super) outside: u64,
    /// Calls that last more than a day beyond the days of the slice.
    pub(super) overlong: u64,
    /// The time that reading took.
    pub(super) took: Duration,
}

/// Sums by name, for both periods.
#[derive(Debug, Default)]
pub(super) struct RankedNames {
    pub(super) destinations: Ranked,
    pub(super) trunks: Ranked,
    pub(super) own_numbers: Ranked,
}

impl RankedNames {
    pub(super) fn merge(&mut self, other: Self) {
        self.destinations.merge(other.destinations);
        self.trunks.merge(other.trunks);
        self.own_numbers.merge(other.own_numbers);
    }
}

/// Reads the columns of a file that a report needs, and sums up the rows of the days in `scope`.
///
/// # Errors
/// [`WriteError`] if the file cannot be read.
pub(super) fn read_file(
    path: &Path,
    slice: Slice,
    schema_version: u32,
    scope: &Scope,
) -> Result<FileSums, WriteError> {
    let begun = Instant::now();
    let mut reader = Reader::new(slice, scope);
    let columns = reader.columns();
    scan(path, slice, schema_version, &columns, |batch| {
        reader.add(batch);
    })?;
    Ok(reader.finish(begun))
}

/// The names of one file while it is read.
#[derive(Debug, Default)]
struct NameSums {
    destinations: Names,
    trunks: Names,
    own_numbers: Names,
    /// Of the current day, by the code of the destination. Only for placed calls.
    prices: Vec<PriceCounts>,
    prices_of: Option<Date>,
}

struct Reader<'a> {
    slice: Slice,
    scope: &'a Scope,
    sums: FileSums,
    names: Option<NameSums>,
    scratch: Scratch,
}

/// Memory that every batch uses again.
#[derive(Default)]
struct Scratch {
    outcomes: Vec<Outcome>,
    codes: Vec<u32>,
    of_dictionary: Vec<u32>,
}

/// The values of a batch that every file needs.
struct Calls<'a> {
    times: &'a [i64],
    seconds: Cow<'a, [i32]>,
    charges: Cow<'a, [i64]>,
    fees: Cow<'a, [i64]>,
}

impl<'a> Reader<'a> {
    fn new(slice: Slice, scope: &'a Scope) -> Self {
        let seconds = seconds_around(&slice.period.days(), &scope.timezone);
        let differences = scope
            .any(slice, Scope::may_reach_period)
            .then(|| Differences::within(seconds.clone()));
        let has_names = scope.any(slice, |scope, day| scope.era(day).is_some());
        Self {
            slice,
            scope,
            sums: FileSums {
                days: BTreeMap::new(),
                quarters: Quarters::within(&seconds),
                differences,
                names: None,
                prices: Vec::new(),
                rows: 0,
                outside: 0,
                overlong: 0,
                took: Duration::ZERO,
            },
            names: has_names.then(NameSums::default),
            scratch: Scratch::default(),
        }
    }

    /// The columns that are needed.
    fn columns(&self) -> Vec<&'static str> {
        let mut columns = vec![
            "call_time",
            "disposition",
            "duration_seconds",
            "charge_usd",
            "forward_fee_usd",
        ];
        if self.slice.period.unit() == PeriodUnit::Month {
            columns.push("source_day");
        }
        if self.names.is_some() {
            columns.extend(["destination", "sip_trunk", self.own_number()]);
            if self.slice.direction == Direction::Placed {
                columns.push("per_minute_usd");
            }
        }
        columns
    }

    /// The column with the number of the account.
    fn own_number(&self) -> &'static str {
        match self.slice.direction {
            Direction::Placed => "from_number",
            Direction::Received => "to_number",
        }
    }

    fn add(&mut self, batch: &RecordBatch) {
        let column = |name: &str| batch.column_by_name(name).expect("it was asked for");
        let times = column("call_time").as_primitive::<TimestampMicrosecondType>();
        let seconds = column("duration_seconds").as_primitive::<Int32Type>();
        let charges = column("charge_usd").as_primitive::<Decimal64Type>();
        let fees = column("forward_fee_usd").as_primitive::<Decimal64Type>();
        let calls = Calls {
            times: times.values(),
            seconds: zero_filled(seconds),
            charges: zero_filled(charges),
            fees: zero_filled(fees),
        };
        self.classify(column("disposition").as_dictionary());
        match batch.column_by_name("source_day") {
            None => {
                let day = self.slice.period.first_day();
                self.add_rows(batch, &calls, 0..batch.num_rows(), day);
            }
            Some(days) => {
                // Rows of a day usually follow one another.
                let mut row = 0;
                let days = days.as_primitive::<Date32Type>().values();
                for run in days.chunk_by(|a, b| a == b) {
                    let rows = row..row + run.len();
                    row = rows.end;
                    self.add_rows(batch, &calls, rows, date_of(run[0]));
                }
            }
        }
    }

    /// Determines the outcome of each row.
    fn classify(&mut self, dispositions: &DictionaryArray<Int32Type>) {
        let texts = dispositions.values().as_string::<i32>();
        let of_code: Vec<Outcome> = texts
            .iter()
            .map(|it| it.map_or(Outcome::Other, Outcome::of))
            .collect();
        let outcomes = &mut self.scratch.outcomes;
        outcomes.clear();
        let keys = dispositions.keys();
        outcomes.extend(keys.values().iter().map(|key| {
            // The code of a null means nothing.
            let code = usize::try_from(*key).ok();
            code.and_then(|code| of_code.get(code))
                .copied()
                .unwrap_or_default()
        }));
        if let Some(nulls) = keys.nulls() {
            for (outcome, is_valid) in outcomes.iter_mut().zip(nulls) {
                if !is_valid {
                    *outcome = Outcome::Other;
                }
            }
        }
    }

    /// Adds the rows of one day.
    fn add_rows(&mut self, batch: &RecordBatch, calls: &Calls<'_>, rows: Range<usize>, day: Date) {
        self.sums.rows += rows.len() as u64;
        if !self.scope.read.contains(&day) {
            return;
        }
        self.add_hours(calls, rows.clone(), day);
        if let (Some(names), Some(era)) = (&mut self.names, self.scope.era(day)) {
            let column = |name: &str| batch.column_by_name(name).expect("it was asked for");
            let prices = batch.column_by_name("per_minute_usd");
            let own_number = match self.slice.direction {
                Direction::Placed => column("from_number"),
                Direction::Received => column("to_number"),
            };
            let Scratch {
                outcomes,
                codes,
                of_dictionary,
            } = &mut self.scratch;
            let calls = Rows {
                calls,
                outcomes,
                range: rows.clone(),
                era,
            };
            names.settle_full(&mut self.sums.prices);
            let destination = column("destination").as_dictionary();
            code_dictionary(
                &mut names.destinations,
                destination,
                &rows,
                codes,
                of_dictionary,
            );
            calls.add_to(&mut names.destinations, codes);
            if let Some(prices) = prices {
                let prices = prices.as_primitive::<Decimal64Type>();
                names.add_prices(prices, codes, &rows, day, &mut self.sums.prices);
            }
            let trunk = column("sip_trunk").as_dictionary();
            code_dictionary(&mut names.trunks, trunk, &rows, codes, of_dictionary);
            calls.add_to(&mut names.trunks, codes);
            code_views(
                &mut names.own_numbers,
                own_number.as_string_view(),
                &rows,
                codes,
            );
            calls.add_to(&mut names.own_numbers, codes);
        }
    }

    fn add_hours(&mut self, calls: &Calls<'_>, rows: Range<usize>, day: Date) {
        let mut of_day = DaySums::default();
        let differences = self.sums.differences.as_mut();
        let mut differences = differences.filter(|_| self.scope.may_reach_period(day));
        let (mut outside, mut overlong) = (0, 0);
        for row in rows {
            let second = calls.times[row].div_euclid(MICROSECONDS);
            let (outcome, seconds) = (self.scratch.outcomes[row], calls.seconds[row]);
            of_day.outcomes.add(outcome, seconds);
            of_day
                .charge_usd
                .add(Amount::from_nanos(calls.charges[row]));
            of_day
                .forward_fee_usd
                .add(Amount::from_nanos(calls.fees[row]));
            if !self.sums.quarters.add(second, outcome, seconds) {
                outside += 1;
            } else if let Some(differences) = &mut differences {
                overlong += u64::from(!differences.add(second, seconds));
            }
        }
        self.sums.outside += outside;
        self.sums.overlong += overlong;
        self.sums.days.entry(day).or_default().merge(&of_day);
    }

    fn finish(mut self, begun: Instant) -> FileSums {
        if let Some(mut names) = self.names {
            names.settle_prices(&mut self.sums.prices);
            self.sums.names = Some(RankedNames {
                destinations: names.destinations.into_ranked(),
                trunks: names.trunks.into_ranked(),
                own_numbers: names.own_numbers.into_ranked(),
            });
        }
        self.sums.took = begun.elapsed();
        self.sums
    }
}

/// Rows of one day.
struct Rows<'a> {
    calls: &'a Calls<'a>,
    outcomes: &'a [Outcome],
    range: Range<usize>,
    era: Era,
}

impl Rows<'_> {
    /// Adds the rows to the sums of their names.
    fn add_to(&self, names: &mut Names, codes: &[u32]) {
        for (row, code) in self.range.clone().zip(codes) {
            let call = (
                self.outcomes[row],
                self.calls.seconds[row],
                self.calls.charges[row],
            );
            names.add(*code, self.era, call);
        }
    }
}

impl NameSums {
    /// Adds the prices of rows whose destinations have these codes.
    fn add_prices(
        &mut self,
        prices: &PrimitiveArray<Decimal64Type>,
        codes: &[u32],
        rows: &Range<usize>,
        day: Date,
        settled: &mut Vec<(Date, String, Amount)>,
    ) {
        if self.prices_of != Some(day) {
            self.settle_prices(settled);
            self.prices_of = Some(day);
        }
        for (row, code) in rows.clone().zip(codes) {
            if *code == UNNAMED || prices.is_null(row) {
                continue;
            }
            let code = *code as usize;
            if code >= self.prices.len() {
                self.prices.resize_with(code + 1, PriceCounts::default);
            }
            self.prices[code].add(prices.value(row));
        }
    }

    /// Passes on the prices of the current day.
    fn settle_prices(&mut self, settled: &mut Vec<(Date, String, Amount)>) {
        let prices = std::mem::take(&mut self.prices);
        let Some(day) = self.prices_of.take() else {
            return;
        };
        let named = self.destinations.names().zip(prices);
        settled.extend(named.filter_map(|(name, counts)| Some((day, name, counts.usual()?))));
    }

    /// Gives codes anew if there are too many names.
    fn settle_full(&mut self, settled: &mut Vec<(Date, String, Amount)>) {
        if self.destinations.is_full() {
            self.settle_prices(settled);
            self.destinations.clear();
        }
        for names in [&mut self.trunks, &mut self.own_numbers] {
            if names.is_full() {
                names.clear();
            }
        }
    }
}

/// The values, with zero for nulls.
fn zero_filled<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>) -> Cow<'_, [T::Native]> {
    match array.nulls() {
        None => Cow::Borrowed(array.values()),
        Some(_) => Cow::Owned(array.iter().map(Option::unwrap_or_default).collect()),
    }
}

/// The codes of rows, each entry of the dictionary looked up once.
fn code_dictionary(
    names: &mut Names,
    array: &DictionaryArray<Int32Type>,
    rows: &Range<usize>,
    codes: &mut Vec<u32>,
    of_dictionary: &mut Vec<u32>,
) {
    /// An entry that no row had so far.
    const UNKNOWN: u32 = UNNAMED - 1;
    let texts = array.values().as_string::<i32>();
    of_dictionary.clear();
    of_dictionary.resize(texts.len(), UNKNOWN);
    codes.clear();
    let keys = array.keys();
    codes.extend(rows.clone().map(|row| {
        let entry = keys.value(row).cast_unsigned() as usize;
        if keys.is_null(row) {
            return UNNAMED;
        }
        if of_dictionary[entry] == UNKNOWN {
            of_dictionary[entry] = names.code(texts.value(entry));
        }
        of_dictionary[entry]
    }));
}

/// The codes of rows.
fn code_views(
    names: &mut Names,
    array: &StringViewArray,
    rows: &Range<usize>,
    codes: &mut Vec<u32>,
) {
    codes.clear();
    codes.extend(rows.clone().map(|row| {
        if array.is_null(row) {
            UNNAMED
        } else {
            names.code(array.value(row))
        }
    }));
}
