//! Records in every form that is understood, through both decoders and CSV, against what was meant.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::cdr::amount::Amount;
use crate::cdr::decode::{Decoder, LocalTimes, Record};
use crate::slice_file::convert::ConvertError;

/// The zone of times without an offset.
const ZONE: &str = "Europe/Berlin";
const HOUR_US: i64 = 3_600_000_000;
/// Its clocks go forward, and back.
const CHANGES: [&str; 2] = ["2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z"];

/// A value as a record has it, and what its column then holds.
#[derive(Clone, Debug)]
struct Form<T> {
    /// As it stands, without the quotation marks of JSON.
    text: String,
    /// Whether JSON has it without quotation marks.
    is_bare: bool,
    value: T,
    /// Otherwise the text is kept in `extra`.
    is_exact: bool,
}

impl<T> Form<T> {
    fn bare(text: impl Into<String>, value: T) -> Self {
        Self {
            is_bare: true,
            ..Self::quoted(text, value)
        }
    }

    fn quoted(text: impl Into<String>, value: T) -> Self {
        Self {
            text: text.into(),
            is_bare: false,
            value,
            is_exact: true,
        }
    }

    fn json(&self) -> String {
        if self.is_bare {
            self.text.clone()
        } else {
            serde_json::to_string(&self.text).unwrap()
        }
    }
}

/// The digits of a fraction that go beyond what a column holds.
fn finer() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        1 => "0{1,9}",
        1 => "[0-9]{1,9}",
        1 => Just("5".to_owned()),
    ]
}

fn times() -> impl Strategy<Value = Form<i64>> {
    let change = |text: &str| text.parse::<Timestamp>().unwrap().as_microsecond();
    let instants = prop_oneof![
        1_577_836_800_000_000..2_051_222_400_000_000_i64,
        (0..2_usize, -2 * HOUR_US..2 * HOUR_US).prop_map(move |(i, us)| change(CHANGES[i]) + us),
    ];
    (instants, finer(), 0..7_usize, 0..4_usize).prop_map(|(us, finer, form, blanks)| {
        let berlin = TimeZone::get(ZONE).unwrap();
        let fixed = |seconds| Offset::from_seconds(seconds).unwrap().to_time_zone();
        let shown = |us: i64, zone: &TimeZone| {
            let time = Timestamp::from_microsecond(us).unwrap();
            let time = time.to_zoned(zone.clone());
            format!("{}{finer}", time.strftime("%Y-%m-%d %H:%M:%S.%6f"))
        };
        let zones: [(TimeZone, &str); 7] = [
            (TimeZone::UTC, "Z"),
            (TimeZone::UTC, " UTC"),
            (fixed(7_200), "+02:00"),
            (fixed(-19_800), " -0530"),
            (fixed(-36_000), "-10"),
            (berlin.clone(), ""),
            (berlin.clone(), ""),
        ];
        let (zone, offset) = &zones[form];
        let local = shown(us, zone);
        // Seen twice an hour apart: the first of the two is meant.
        let twins = [us - HOUR_US, us + HOUR_US].map(|us| (us, shown(us, zone) == local));
        let twin = twins.into_iter().find(|(_, is_same)| *is_same);
        Form {
            text: format!("{0}{local}{offset}{0}", if blanks == 0 { " " } else { "" }),
            is_bare: false,
            value: twin.map_or(us, |(other, _)| other.min(us)),
            is_exact: twin.is_none() && finer.bytes().all(|digit| digit == b'0'),
        }
    })
}

/// A number of `10 ^ decimals` parts, with finer digits, in every form of a decimal.
fn decimals(units: i64, decimals: usize, finer: &str, form: usize) -> Form<Option<i64>> {
    let digits = format!("{:0>1$}{finer}", units.unsigned_abs(), decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals - finer.len());
    let sign = if units < 0 { "-" } else { "" };
    let shift = decimals + finer.len();
    let point = if fraction.is_empty() {
        String::new()
    } else {
        format!(".{fraction}")
    };
    let plain = format!("{sign}{whole}{point}");
    let significant = digits.trim_start_matches('0');
    let significant = if significant.is_empty() {
        "0"
    } else {
        significant
    };
    // Halves away from zero.
    let parts = 10_i128.pow(finer.len().try_into().unwrap());
    let exact = i128::from(units.unsigned_abs()) * parts + finer.parse::<i128>().unwrap_or(0);
    let nearest = i64::try_from((2 * exact + parts) / (2 * parts)).unwrap();
    let value = Some(if units < 0 { -nearest } else { nearest });
    let form = match form {
        0 => Form::bare(plain, value),
        1 => Form::quoted(plain, value),
        2 => Form::quoted(format!(" {plain} "), value),
        3 => Form::quoted(
            if units < 0 {
                plain
            } else {
                format!("+{plain}")
            },
            value,
        ),
        4 if whole == "0" && !point.is_empty() => Form::quoted(format!("{sign}{point}"), value),
        4 => Form::quoted(format!("{sign}00{whole}{point}"), value),
        5 => Form::bare(format!("{sign}{significant}e-{shift}"), value),
        6 => Form::bare(format!("{plain}E+0"), value),
        7 => return Form::quoted("", None),
        _ => return Form::bare("null", None),
    };
    Form {
        is_exact: exact % parts == 0,
        ..form
    }
}

fn amounts() -> impl Strategy<Value = Form<Option<i64>>> {
    let nanos = prop_oneof![
        -1_000_000_000..1_000_000_000_i64,
        -999_999_999_999_999_998..999_999_999_999_999_998_i64,
    ];
    (nanos, finer(), 0..9_usize).prop_map(|(nanos, finer, form)| decimals(nanos, 9, &finer, form))
}

fn seconds() -> impl Strategy<Value = Form<Option<i64>>> {
    let seconds = prop_oneof![0..100_000_i64, -2_147_483_647..2_147_483_647_i64];
    (seconds, finer(), 0..9_usize).prop_map(|(units, finer, form)| decimals(units, 0, &finer, form))
}

fn phone_numbers() -> impl Strategy<Value = Form<Option<String>>> {
    ("[1-9][0-9]{6,14}", 0..8_usize).prop_map(|(digits, form)| {
        let value = Some(digits.clone());
        match form {
            0 => Form::bare(digits, value),
            1 => Form::bare(format!("{digits}.0"), value),
            2 => Form::quoted(digits, value),
            3 => Form::quoted(format!("{digits}.0"), value),
            4 => Form::quoted(format!("=\"{digits}\""), value),
            5 => Form::quoted(format!("'{digits}"), value),
            6 => Form::quoted(format!("\u{a0}{digits}\t"), value),
            _ => Form::bare("null", None),
        }
    })
}

fn identifiers() -> impl Strategy<Value = Form<Option<String>>> {
    prop_oneof![
        "[0-9]{1,20}".prop_map(|id| Form::quoted(id.clone(), Some(id))),
        "[1-9][0-9]{0,20}".prop_map(|id| Form::bare(id.clone(), Some(id))),
        "[1-9][0-9]{0,20}".prop_map(|id| Form::bare(format!("{id}.0"), Some(id))),
        "[a-z]{1,3}[,;\"|a-zé-]{0,9}[a-z]".prop_map(|id| Form::quoted(id.clone(), Some(id))),
        Just(Form::bare("null", None)),
    ]
}

/// One call: its fields in every form.
#[derive(Clone, Debug)]
struct Call {
    date: Form<i64>,
    numbers: [Form<Option<String>>; 2],
    ids: [Form<Option<String>>; 3],
    duration: Form<Option<i64>>,
    amounts: [Form<Option<i64>>; 3],
}

fn calls() -> impl Strategy<Value = Call> {
    (
        times(),
        [phone_numbers(), phone_numbers()],
        [identifiers(), identifiers(), identifiers()],
        seconds(),
        [amounts(), amounts(), amounts()],
    )
        .prop_map(|(date, numbers, ids, duration, amounts)| Call {
            date,
            numbers,
            ids,
            duration,
            amounts,
        })
}

/// Keys of a record, and names that an export may give their columns.
const COLUMNS: [(&str, &str); 10] = [
    ("date", "Start time"),
    ("from", "Caller"),
    ("to", "to_number"),
    ("call_id", "Call ID"),
    ("parent_call_id", "parentCallId"),
    ("sip_trunk", "SIP-Trunk"),
    ("duration", "Duration (sec)"),
    ("charge", "Charge USD"),
    ("per_minute", "Rate per minute"),
    ("forward_fee", "Forwarding fee (USD)"),
];

impl Call {
    /// Each field's text, and the same as JSON has it, in the order of [`COLUMNS`].
    fn fields(&self) -> [(&str, String); 10] {
        fn of<T>(form: &Form<T>) -> (&str, String) {
            (&form.text, form.json())
        }
        let ([from, to], [id, parent, trunk]) = (&self.numbers, &self.ids);
        let [charge, rate, fee] = &self.amounts;
        let texts = [from, to, id, parent, trunk].map(of);
        let numbers = [&self.duration, charge, rate, fee].map(of);
        let mut fields = [of(&self.date), texts[0].clone(), texts[1].clone()]
            .into_iter()
            .chain(texts[2..].iter().cloned())
            .chain(numbers);
        std::array::from_fn(|_| fields.next().unwrap())
    }

    fn json(&self, space: &str) -> String {
        let members: Vec<String> = COLUMNS
            .iter()
            .zip(self.fields())
            .map(|((key, _), (_, value))| format!("\"{key}\":{space}{value}"))
            .collect();
        format!("{{{}}}\n", members.join(","))
    }

    fn csv(&self, separator: u8, order: &[usize], has_marks: bool) -> Vec<u8> {
        let fields = self.fields();
        let cell = |i: usize| match fields[i].0 {
            "null" => String::new(),
            // An id is a text, and as it stands.
            text if COLUMNS[i].0.ends_with("_id") || COLUMNS[i].0 == "sip_trunk" => {
                text.trim_end_matches(".0").to_owned()
            }
            text if has_marks && !text.contains('"') => format!("=\"{}\"", text.trim()),
            text => text.to_owned(),
        };
        let mut writer = csv::WriterBuilder::new()
            .delimiter(separator)
            .from_writer(Vec::new());
        writer
            .write_record(order.iter().map(|&i| COLUMNS[i].1))
            .unwrap();
        writer.write_record(order.iter().map(|&i| cell(i))).unwrap();
        writer.into_inner().unwrap()
    }

    /// Demands that a record holds what was meant, and the original of what it does not hold
    /// exactly.
    fn check(&self, record: &Record<'_>, is_csv: bool) {
        assert_eq!(record.call_time_us, self.date.value);
        let texts = [
            (&record.from_number, &self.numbers[0]),
            (&record.to_number, &self.numbers[1]),
            (&record.call_id, &self.ids[0]),
            (&record.parent_call_id, &self.ids[1]),
            (&record.sip_trunk, &self.ids[2]),
        ];
        for (found, meant) in texts {
            assert_eq!(found.as_deref(), meant.value.as_deref());
        }
        let seconds = record.duration_seconds.map(i64::from);
        assert_eq!(seconds, self.duration.value);
        let amounts = [
            record.charge_usd,
            record.per_minute_usd,
            record.forward_fee_usd,
        ];
        for (found, meant) in amounts.iter().zip(&self.amounts) {
            assert_eq!(found.map(Amount::nanos), meant.value);
        }
        let is_exact = |key: &str| match key {
            "date" => self.date.is_exact,
            "duration" => self.duration.is_exact,
            "charge" => self.amounts[0].is_exact,
            "per_minute" => self.amounts[1].is_exact,
            "forward_fee" => self.amounts[2].is_exact,
            _ => true,
        };
        let kept: BTreeMap<String, &RawValue> = record
            .extra
            .as_deref()
            .map(|extra| serde_json::from_str(extra).unwrap())
            .unwrap_or_default();
        let kept: Vec<_> = kept
            .iter()
            .map(|(key, text)| (key.as_str(), text.get().to_owned()))
            .collect();
        // In CSV a cell has no white space around it, and all but seconds are texts.
        let original = |key, text: &str, json: String| match text.trim() {
            _ if !is_csv => json,
            text if key == "duration"
                && serde_json::from_str::<serde_json::Number>(text).is_ok() =>
            {
                text.to_owned()
            }
            text => serde_json::to_string(text).unwrap(),
        };
        let mut meant: Vec<_> = COLUMNS
            .iter()
            .zip(self.fields())
            .filter(|((key, _), _)| !is_exact(key))
            .map(|((key, _), (text, json))| (*key, original(*key, text, json)))
            .collect();
        meant.sort_unstable();
        assert_eq!(kept, meant);
    }
}

/// Reads a body of one record by a decoder, and how many of its times were ambiguous.
fn with_record(body: &[u8], check: impl Fn(&Record<'_>)) -> u64 {
    let zone = TimeZone::get(ZONE).unwrap();
    let mut decoder = Decoder::new(LocalTimes::new(Some(zone)));
    let mut records = 0;
    let mut on_item = |item: Item<'_>| {
        let Item::Record { json, .. } = item else {
            panic!("{item:?}");
        };
        check(&decoder.decode(json).unwrap());
        records += 1;
        Ok::<(), ConvertError>(())
    };
    let mut reader = RecordReader::of_file(body, 10_000);
    reader.push(body, &mut on_item).unwrap();
    reader.finish(&mut on_item).unwrap();
    assert_eq!(records, 1);
    decoder.ambiguous_times()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn a_call_is_the_same_in_every_form_of_its_values(
        call in calls(),
        order in Just((0..COLUMNS.len()).collect::<Vec<_>>()).prop_shuffle(),
        has_marks: bool,
    ) {
        // White space between tokens leaves a record to the plain decoder.
        let json = ["", " "].map(|space| (false, call.json(space).into_bytes()));
        let mut bodies: Vec<_> = json.into();
        bodies.extend(b",;\t|".map(|separator| (true, call.csv(separator, &order, has_marks))));
        let counts: Vec<u64> = bodies
            .iter()
            .map(|(is_csv, body)| with_record(body, |record| call.check(record, *is_csv)))
            .collect();
        let rounded = call.date.text.rsplit_once('.').is_some_and(|(_, fraction)| {
            let digits = fraction.trim_end_matches(|c: char| !c.is_ascii_digit());
            digits.len() > 6
        });
        if !rounded {
            let is_right = |&count: &u64| (count == 1) != call.date.is_exact;
            prop_assert!(counts.iter().all(is_right), "{counts:?}");
        }
    }
}
