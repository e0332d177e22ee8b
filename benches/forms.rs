//! The records of [`data`](super::data) in the forms that real ones come in.

use cdrlake::{Generator, KeyOrder};

use super::data::{RECORDS, body, generator, slice};

/// Records of a page.
pub(crate) const PAGE_RECORDS: usize = 100;

/// A form that records come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As the simulator writes them.
    Ordinary,
    /// The keys of each record in an order of their own.
    Shuffled,
    /// One field without a column: a text.
    Unknown,
    /// Three fields without a column, one of them an object of two levels.
    UnknownNested,
    /// An escape in one text.
    Escaped,
    /// Amounts and phone numbers as JSON numbers.
    Bare,
    /// Blanks after `:` and `,`, as Python's `json.dumps` writes them.
    Blanks,
    /// Blanks, and keys shuffled.
    ShuffledBlanks,
    /// The CSV export, with a header.
    Csv,
    /// Pages of [`PAGE_RECORDS`] records, a page a line.
    Pages,
}

/// [`RECORDS`] records in a form, a record a line.
pub(crate) fn body_in(form: Form) -> Vec<u8> {
    match form {
        Form::Csv => csv(),
        Form::Pages => pages(),
        _ => json_lines(form),
    }
}

fn csv() -> Vec<u8> {
    let generator = generator(KeyOrder::Fixed);
    let mut body = Vec::new();
    Generator::render_csv_header(&mut body);
    for index in 0..RECORDS {
        Generator::render_csv(&generator.call(slice(), index), &mut body);
        body.push(b'\n');
    }
    body
}

fn pages() -> Vec<u8> {
    let text = String::from_utf8(body(KeyOrder::Fixed)).unwrap();
    let records: Vec<&str> = text.lines().collect();
    let page = |items: &[&str]| {
        let pagination = format!(r#"{{"total":{RECORDS},"per_page":{PAGE_RECORDS}}}"#);
        let items = items.join(",");
        format!("{{\"items\":[{items}],\"pagination\":{pagination}}}\n")
    };
    let pages = records.chunks(PAGE_RECORDS).map(page);
    pages.collect::<String>().into_bytes()
}

fn json_lines(form: Form) -> Vec<u8> {
    let key_order = match form {
        Form::Shuffled | Form::ShuffledBlanks => KeyOrder::Shuffled,
        _ => KeyOrder::Fixed,
    };
    let text = String::from_utf8(body(key_order)).unwrap();
    let mut body = String::with_capacity(2 * text.len());
    for (number, line) in text.lines().enumerate() {
        body += &match form {
            Form::Ordinary | Form::Shuffled => line.to_owned(),
            Form::Unknown => with_members(line, &recording(number)),
            Form::UnknownNested => {
                let quality = r#""quality":{"mos":4.21,"network":{"jitter_ms":12,"codec":"opus"}}"#;
                let more = format!("{},{quality},\"tags\":null", recording(number));
                with_members(line, &more)
            }
            Form::Escaped => line.replacen(r#""destination":""#, r#""destination":"\u00c9 "#, 1),
            Form::Bare => with_bare_numbers(line),
            Form::Blanks | Form::ShuffledBlanks => {
                line.replace(",\"", ", \"").replace("\":", "\": ")
            }
            Form::Csv | Form::Pages => unreachable!("they have functions of their own"),
        };
        body.push('\n');
    }
    body.into_bytes()
}

fn recording(number: usize) -> String {
    let hash = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!(r#""recording_url":"https://api.wavix.com/v1/recordings/{hash:016x}.mp3""#)
}

fn with_members(record: &str, members: &str) -> String {
    format!("{},{members}}}", record.strip_suffix('}').unwrap())
}

fn with_bare_numbers(record: &str) -> String {
    let mut record = record.to_owned();
    for key in ["from", "to", "per_minute", "charge", "forward_fee"] {
        if let Some((before, rest)) = record.split_once(&format!("\"{key}\":\""))
            && let Some((number, after)) = rest.split_once('"')
            && number.parse::<f64>().is_ok()
        {
            record = format!("{before}\"{key}\":{number}{after}");
        }
    }
    record
}
