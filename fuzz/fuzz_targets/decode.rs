//! Whatever a record holds, it is decoded or refused with a reason that quotes nothing of it; what is
//! decoded is JSON, and its other fields come out of `extra` as canonical JSON. Rows of CSV are JSON objects. The fast decoder says the same as the plain
//! one, whatever it remembers.

#![no_main]

use cdrlake::Format;
use cdrlake::internals::{CsvRow, CsvRows, Decoder, Frame, Framer, FramingError, Refusal, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    match decode(text) {
        Ok(record) => {
            let Some(extra) = &record.extra else { return };
            // What was rounded has the key of a field.
            let rounded = ["date", "duration", "charge", "per_minute", "forward_fee"];
            if rounded
                .iter()
                .any(|field| extra.contains(&format!("\"{field}\":")))
            {
                return;
            }
            // Between two fields of every record, it is the same again.
            let again = format!("{{\"date\":\"2026-10-01T00:00:00Z\",{}", &extra[1..]);
            let decoded = decode(again.as_bytes()).expect("what was kept decodes");
            // An alias that says something else than its field stands alone there.
            if !extra.contains("uuid\"") {
                assert_eq!(decoded.extra.as_ref(), Some(extra));
            }
        }
        Err(Refusal::Reject(reason)) => assert!(reason.to_string().len() < 300, "{reason}"),
        Err(Refusal::ServerError { .. }) => {}
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
            // Such a line is passed on as it stands.
            && !text.starts_with(b"{")
            && let Err(Refusal::Reject(reason)) = decode(json)
        {
            assert!(!reason.is_syntax(), "{reason}: {}", json.escape_ascii());
        }
        Ok::<(), FramingError>(())
    };
    let header = framer.push(b"date,duration,charge,Other,call_id,uuid\n", &mut read);
    header.and_then(|()| framer.push(text, &mut read)).unwrap();
}
