//! Decoding any input: no panic; reasons are short; decoding `extra` again returns the same
//! canonical JSON; rows of CSV become JSON objects; the fast decoder agrees with the plain one.

#![no_main]

use cdrlake::Format;
use cdrlake::internals::{
    CsvRow, CsvRows, DecodeError, Decoder, Frame, Framer, FramingError, decode,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    match decode(text) {
        Ok(record) => {
            let Some(extra) = &record.extra else { return };
            // `extra` has the keys of rounded fields.
            let rounded = ["date", "duration", "charge", "per_minute", "forward_fee"];
            if rounded
                .iter()
                .any(|field| extra.contains(&format!("\"{field}\":")))
            {
                return;
            }
            // Decoding `extra` again returns the same `extra`.
            let again = format!("{{\"date\":\"2026-10-01T00:00:00Z\",{}", &extra[1..]);
            let decoded = decode(again.as_bytes()).expect("`extra` decodes");
            // A different alias is alone in `extra`, and would become the field.
            if !extra.contains("uuid\"") {
                assert_eq!(decoded.extra.as_ref(), Some(extra));
            }
        }
        Err(DecodeError::Reject(reason)) => assert!(reason.to_string().len() < 300, "{reason}"),
        Err(DecodeError::ServerError { .. }) => {}
    }
    rows_of_csv_are_objects(text);
    let mut decoder = Decoder::default();
    for line in text.split(|&byte| byte == b'\n') {
        assert_eq!(decoder.decode(line), decode(line));
    }
});

fn rows_of_csv_are_objects(text: &[u8]) {
    let mut rows = CsvRows::default();
    let mut framer = Framer::new(Format::Csv, 1 << 10);
    let mut read = |frame: Frame<'_>| {
        if let Frame::Cells {
            at, text, cells, ..
        } = frame
            && let Ok(CsvRow::Record(json)) = rows.read(at, text, cells)
            // Lines that begin with a brace are not converted.
            && !text.starts_with(b"{")
            && let Err(DecodeError::Reject(reason)) = decode(json)
        {
            assert!(!reason.is_syntax(), "{reason}: {}", json.escape_ascii());
        }
        Ok::<(), FramingError>(())
    };
    let header = framer.push(b"date,duration,charge,Other,call_id,uuid\n", &mut read);
    header.and_then(|()| framer.push(text, &mut read)).unwrap();
}
