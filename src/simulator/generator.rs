//! Generates realistic calls from a seed. Every call can be generated independently, so that any
//! number of calls needs no memory.

use std::borrow::Cow;
use std::io::Write;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::cdr::amount::Amount;
use crate::cdr::day::day_number;
use crate::cdr::day::{end_of_day, start_of_day};
use crate::cdr::slice::{Direction, Slice};

/// The order of the keys in a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyOrder {
    /// The same in every record.
    #[default]
    Fixed,
    /// Random in every record, like the real API.
    Shuffled,
}

/// Generates calls. The same options generate the same calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generator {
    /// The seed of all random values.
    pub seed: u64,
    /// Mean number of calls a day, both directions together.
    pub calls_per_day: u64,
    /// The order of keys.
    pub key_order: KeyOrder,
}

/// One generated call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "the fields are the API's own")]
pub struct Call {
    pub time: Timestamp,
    pub from: String,
    pub to: String,
    pub disposition: &'static str,
    pub duration_seconds: i32,
    pub destination: String,
    pub per_minute: Amount,
    pub charge: Amount,
    pub forward_fee: Option<Amount>,
    pub sip_trunk: Option<String>,
    pub call_id: String,
    pub parent_call_id: Option<String>,
    pub answered_by: Option<&'static str>,
    order: u64,
}

/// Columns of the CSV export.
const CSV_COLUMNS: usize = 13;

struct Place {
    name: &'static str,
    prefix: &'static str,
    digits: u32,
    per_minute_nanos: i64,
}

const PLACES: [Place; 8] = [
    Place {
        name: "United States",
        prefix: "1",
        digits: 10,
        per_minute_nanos: 6_500_000,
    },
    Place {
        name: "Canada, Toronto",
        prefix: "1416",
        digits: 7,
        per_minute_nanos: 5_900_000,
    },
    Place {
        name: "France",
        prefix: "33",
        digits: 9,
        per_minute_nanos: 27_000_000,
    },
    Place {
        name: "Germany, mobile",
        prefix: "4915",
        digits: 9,
        per_minute_nanos: 94_500_000,
    },
    Place {
        name: "United Kingdom, London",
        prefix: "4420",
        digits: 8,
        per_minute_nanos: 8_125_000,
    },
    Place {
        name: "México, Ciudad de México",
        prefix: "5255",
        digits: 8,
        per_minute_nanos: 11_250_000,
    },
    Place {
        name: "Philippines, Globe",
        prefix: "63917",
        digits: 7,
        per_minute_nanos: 131_375_000,
    },
    Place {
        name: "India",
        prefix: "91",
        digits: 10,
        per_minute_nanos: 18_062_500,
    },
];

/// Dispositions and their shares in thousandths.
const DISPOSITIONS: [(&str, u32); 5] = [
    ("answered", 620),
    ("noanswer", 200),
    ("busy", 80),
    ("failed", 70),
    ("rejected", 30),
];
/// Numbers of the account.
const ACCOUNT_NUMBERS: u64 = 240;
/// Trunks of the account.
const TRUNKS: u64 = 12;
/// Share of calls in each hour of the day, in thousandths: most during office hours.
const HOURS: [u64; 24] = [
    8, 6, 5, 5, 6, 10, 20, 38, 62, 78, 84, 82, 72, 76, 82, 82, 76, 64, 48, 34, 24, 18, 12, 8,
];

impl Generator {
    /// Number of calls up to `now`. Days are UTC days.
    pub fn count(&self, slice: Slice, now: Timestamp) -> u64 {
        let mut rng = self.rng(slice, u64::MAX);
        let weekday = match slice.period.first_day().weekday() {
            jiff::civil::Weekday::Saturday => 55,
            jiff::civil::Weekday::Sunday => 40,
            _ => 121,
        };
        let share = match slice.direction {
            Direction::Placed => 60,
            Direction::Received => 40,
        };
        // In millionths: weekday, direction, and a random ±5 %.
        let factor = weekday * share * (95 + rng.u64(0..=10));
        let whole_day = scale(self.calls_per_day, factor, 1_000_000);
        let (start, end) = (
            start_of_day(slice.period.first_day(), &TimeZone::UTC),
            end_of_day(slice.period.first_day(), &TimeZone::UTC),
        );
        if now >= end {
            return whole_day;
        }
        (0..24)
            .filter(|hour| start.as_second() + (hour + 1) * 3600 <= now.as_second())
            .map(|hour| hour_share(whole_day, hour))
            .sum()
    }

    /// Call `index` of the slice's `count` calls, in order of time.
    pub fn call(&self, slice: Slice, index: u64) -> Call {
        let mut rng = self.rng(slice, index);
        let day_count = self.count(slice, Timestamp::MAX);
        let time = time_of(slice.period.first_day(), index, day_count, &mut rng);
        let disposition = if is_outage(slice, time) && rng.bool() {
            "failed"
        } else {
            pick_disposition(&mut rng)
        };
        let answered = disposition == "answered";
        let duration_seconds = if answered { talk_time(&mut rng) } else { 0 };
        let minutes =
            i64::from(duration_seconds).div_euclid(60) + i64::from(duration_seconds % 60 > 0);
        let place = &PLACES[rng.usize(0..PLACES.len())];
        let own = account_number(rng.u64(0..ACCOUNT_NUMBERS));
        let other = format!(
            "{}{:0width$}",
            place.prefix,
            rng.u64(0..10_u64.pow(place.digits)),
            width = place.digits as usize
        );
        let trunk = format!("{}", 32_000 + 81 * rng.u64(0..TRUNKS));
        let parent = (index > 0 && rng.u32(0..100) < 8)
            .then(|| self.call_id(slice, index - 1 - rng.u64(0..index.min(50))));
        let (from, to, destination, per_minute_nanos, forward_fee, sip_trunk, answered_by) =
            match slice.direction {
                Direction::Placed => {
                    let answered_by = answered.then(|| {
                        if rng.u32(0..100) < 82 {
                            "human"
                        } else {
                            "machine"
                        }
                    });
                    (
                        own,
                        other,
                        place.name.to_owned(),
                        place.per_minute_nanos,
                        None,
                        Some(trunk),
                        answered_by,
                    )
                }
                Direction::Received => {
                    let from = if rng.u32(0..100) < 3 {
                        "anonymous".to_owned()
                    } else {
                        other
                    };
                    let (destination, fee) = match rng.u32(0..10) {
                        0..6 => (format!("Trunk {}", 1 + rng.u64(0..TRUNKS)), None),
                        6..9 => (format!("sip:{trunk}@sip.example.com"), None),
                        _ => (
                            account_number(rng.u64(0..ACCOUNT_NUMBERS)),
                            Some(Amount::from_nanos(minutes * 6_500_000)),
                        ),
                    };
                    (
                        from,
                        own,
                        destination,
                        5_900_000,
                        Some(fee.unwrap_or_default()),
                        None,
                        None,
                    )
                }
            };
        Call {
            time,
            from,
            to,
            disposition,
            duration_seconds,
            destination,
            per_minute: Amount::from_nanos(per_minute_nanos),
            charge: Amount::from_nanos(per_minute_nanos * minutes),
            forward_fee,
            sip_trunk,
            call_id: self.call_id(slice, index),
            parent_call_id: parent,
            answered_by,
            order: rng.u64(..),
        }
    }

    /// Appends a call in the API's format, without a newline.
    pub fn render(&self, call: &Call, out: &mut Vec<u8>) {
        let mut members: [Option<(&str, Value<'_>)>; 16] = [
            Some(("date", Value::Time(call.time))),
            Some(("from", Value::Text(&call.from))),
            Some(("to", Value::Text(&call.to))),
            Some(("disposition", Value::Text(call.disposition))),
            Some(("duration", Value::Integer(call.duration_seconds))),
            Some(("destination", Value::Text(&call.destination))),
            Some(("per_minute", Value::Amount(call.per_minute))),
            Some(("charge", Value::Amount(call.charge))),
            call.sip_trunk
                .as_deref()
                .map(|trunk| ("sip_trunk", Value::Text(trunk))),
            call.forward_fee
                .map(|fee| ("forward_fee", Value::Amount(fee))),
            Some(("uuid", Value::Text(&call.call_id))),
            Some(("call_id", Value::Text(&call.call_id))),
            Some((
                "parent_uuid",
                Value::optional(call.parent_call_id.as_deref()),
            )),
            Some((
                "parent_call_id",
                Value::optional(call.parent_call_id.as_deref()),
            )),
            Some(("answered_by", Value::optional(call.answered_by))),
            None,
        ];
        if self.key_order == KeyOrder::Shuffled {
            fastrand::Rng::with_seed(call.order).shuffle(&mut members);
        }
        let mut separator = b'{';
        for (key, value) in members.into_iter().flatten() {
            out.push(separator);
            separator = b',';
            write_member(key, &value, out).expect("writing to memory does not fail");
        }
        out.push(b'}');
    }

    /// Writes the header line of the CSV export. The real names and their order are not documented;
    /// these are invented.
    pub fn render_csv_header(out: &mut Vec<u8>) {
        let names = [
            "Call ID",
            "Date",
            "From",
            "To",
            "Duration",
            "Charge",
            "Per Minute",
            "Forward Fee",
            "Destination",
            "Disposition",
            "SIP Trunk",
            "Parent Call ID",
            "Answered By",
        ];
        write_csv(&names.map(Cow::Borrowed), out);
        out.push(b'\n');
    }

    /// Writes one call as a line of CSV, without a newline.
    pub fn render_csv(call: &Call, out: &mut Vec<u8>) {
        let amount = |amount: Amount| Cow::Owned(amount.to_string());
        let cells = [
            Cow::Borrowed(call.call_id.as_str()),
            Cow::Owned(format!("{:.3}", call.time)),
            Cow::Borrowed(&call.from),
            Cow::Borrowed(&call.to),
            Cow::Owned(call.duration_seconds.to_string()),
            amount(call.charge),
            amount(call.per_minute),
            call.forward_fee.map_or(Cow::Borrowed(""), amount),
            Cow::Borrowed(&call.destination),
            Cow::Borrowed(call.disposition),
            Cow::Borrowed(call.sip_trunk.as_deref().unwrap_or_default()),
            Cow::Borrowed(call.parent_call_id.as_deref().unwrap_or_default()),
            Cow::Borrowed(call.answered_by.unwrap_or_default()),
        ];
        write_csv(&cells, out);
    }

    fn rng(&self, slice: Slice, index: u64) -> fastrand::Rng {
        let mut name = [0; 13];
        name[0] = slice.direction as u8;
        name[1..5].copy_from_slice(&day_number(slice.period.first_day()).to_le_bytes());
        name[5..].copy_from_slice(&index.to_le_bytes());
        fastrand::Rng::with_seed(xxh3_64_with_seed(&name, self.seed))
    }

    /// A unique version 4 UUID.
    fn call_id(&self, slice: Slice, index: u64) -> String {
        let mut rng = self.rng(slice, index);
        let bits = (rng.u128(..) & !(0xf000_c000 << 48 << 16)) | (0x4000_8000 << 48 << 16);
        let hex = format!("{bits:032x}");
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
        format!(
            "{}-{}-4{}-a{}-{}",
            part(0, 8),
            part(8, 12),
            part(13, 16),
            part(17, 20),
            part(20, 32)
        )
    }
}

enum Value<'a> {
    Text(&'a str),
    Time(Timestamp),
    Integer(i32),
    Amount(Amount),
    Null,
}

impl<'a> Value<'a> {
    fn optional(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }
}

fn write_member(key: &str, value: &Value<'_>, out: &mut Vec<u8>) -> std::io::Result<()> {
    write!(out, "\"{key}\":")?;
    match value {
        // No generated text needs an escape.
        Value::Text(text) => write!(out, "\"{text}\""),
        Value::Time(time) => write!(out, "\"{time:.3}\""),
        Value::Integer(number) => write!(out, "{number}"),
        // The API writes at least one decimal.
        Value::Amount(amount) if amount.nanos() % 1_000_000_000 == 0 => {
            write!(out, "\"{amount}.0\"")
        }
        Value::Amount(amount) => write!(out, "\"{amount}\""),
        Value::Null => out.write_all(b"null"),
    }
}

/// Writes one line without a newline.
fn write_csv(cells: &[Cow<'_, str>; CSV_COLUMNS], out: &mut Vec<u8>) {
    let mut writer = csv::Writer::from_writer(&mut *out);
    let written = writer.write_record(cells.iter().map(|cell| cell.as_bytes()));
    written
        .and_then(|()| Ok(writer.flush()?))
        .expect("writing to memory does not fail");
    drop(writer);
    out.pop();
}

/// `number` × `part` / `whole`, without intermediate overflow.
fn scale(number: u64, part: u64, whole: u64) -> u64 {
    let scaled = u128::from(number) * u128::from(part) / u128::from(whole);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

fn hour_share(day_count: u64, hour: i64) -> u64 {
    let before = |hour: usize| HOURS[..hour].iter().sum::<u64>();
    let all = before(24);
    let hour = usize::try_from(hour).unwrap_or_default();
    let cut = |hour: usize| scale(day_count, before(hour), all);
    cut(hour + 1) - cut(hour)
}

/// The time of a call: rises with the index, almost monotonically, and follows the hours of the
/// day.
fn time_of(day: Date, index: u64, day_count: u64, rng: &mut fastrand::Rng) -> Timestamp {
    let (mut first, mut hour) = (0, 0);
    while hour < 23 && index >= first + hour_share(day_count, hour) {
        first += hour_share(day_count, hour);
        hour += 1;
    }
    let in_hour = hour_share(day_count, hour).max(1);
    let slot_ms = 3_600_000 / in_hour;
    let offset_ms = scale(index - first, 3_600_000, in_hour);
    let ms = (offset_ms + rng.u64(0..=slot_ms / 2)).min(3_599_999);
    let start = start_of_day(day, &TimeZone::UTC).as_millisecond();
    Timestamp::from_millisecond(start + hour * 3_600_000 + ms.cast_signed())
        .expect("a time within a day")
}

/// The day of the month and the hour of the outage.
const OUTAGE: (i8, i64) = (12, 10);

/// Whether a call falls into an outage, which there is once a month, so that reports have one to
/// find: half of the placed calls of one hour fail.
fn is_outage(slice: Slice, time: Timestamp) -> bool {
    let at = (slice.period.first_day().day(), time.as_second() / 3600 % 24);
    slice.direction == Direction::Placed && at == OUTAGE
}

fn pick_disposition(rng: &mut fastrand::Rng) -> &'static str {
    let mut left = rng.u32(0..1000);
    for (disposition, share) in DISPOSITIONS {
        if left < share {
            return disposition;
        }
        left -= share;
    }
    DISPOSITIONS[0].0
}

/// A random duration: most calls are short, a few are very long.
fn talk_time(rng: &mut fastrand::Rng) -> i32 {
    let limit = [30, 90, 240, 900, 5_400][rng.usize(0..5)];
    rng.i32(1..=limit)
}

fn account_number(index: u64) -> String {
    format!("1302555{:04}", index * 37 % 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdr::decode::decode;
    use crate::cdr::slice::parse_day;

    fn generator(key_order: KeyOrder) -> Generator {
        Generator {
            seed: 7,
            calls_per_day: 2_000,
            key_order,
        }
    }

    fn slice(direction: Direction) -> Slice {
        Slice::of_day(parse_day("2026-10-01").unwrap(), direction)
    }

    #[test]
    fn every_call_decodes_to_its_values_in_any_key_order() {
        for direction in Direction::ALL {
            let slice = slice(direction);
            let count = generator(KeyOrder::Fixed).count(slice, Timestamp::MAX);
            assert!(count > 500);
            let day = start_of_day(slice.period.first_day(), &TimeZone::UTC)
                ..end_of_day(slice.period.first_day(), &TimeZone::UTC);
            for index in 0..count {
                let [fixed, shuffled] = [KeyOrder::Fixed, KeyOrder::Shuffled].map(|order| {
                    let generator = generator(order);
                    let call = generator.call(slice, index);
                    let mut text = Vec::new();
                    generator.render(&call, &mut text);
                    (call, text)
                });
                assert_eq!(fixed.0, shuffled.0);
                let record = decode(&fixed.1).unwrap();
                assert_eq!(record, decode(&shuffled.1).unwrap());
                assert!(day.contains(&fixed.0.time));
                assert_eq!(record.call_time_us, fixed.0.time.as_microsecond());
                assert_eq!(record.charge_usd, Some(fixed.0.charge));
                assert_eq!(record.call_id.as_deref(), Some(&*fixed.0.call_id));
                assert_eq!(
                    record.parent_call_id.as_deref(),
                    fixed.0.parent_call_id.as_deref()
                );
                assert_eq!(record.extra, None);
            }
        }
    }

    #[test]
    fn an_unfinished_day_has_the_calls_of_its_past_hours() {
        let generator = generator(KeyOrder::Fixed);
        let slice = slice(Direction::Placed);
        let at = |text: &str| generator.count(slice, text.parse().unwrap());
        assert_eq!(at("2026-09-30T23:59:59Z"), 0);
        let noon = at("2026-10-01T12:00:00Z");
        assert!(noon > 0 && noon < at("2026-10-02T00:00:00Z"));
        assert!((0..noon).all(
            |index| generator.call(slice, index).time < "2026-10-01T12:00:00Z".parse().unwrap()
        ));
    }

    #[test]
    fn ids_are_unique_version_four_uuids() {
        let generator = generator(KeyOrder::Fixed);
        let mut seen = std::collections::HashSet::new();
        for index in 0..1_000 {
            let id = generator.call(slice(Direction::Placed), index).call_id;
            assert_eq!(id.len(), 36);
            assert_eq!((id.as_bytes()[14], id.as_bytes()[19]), (b'4', b'a'));
            assert!(seen.insert(id));
        }
    }
}
