//! Whatever a record holds, it is decoded or refused with a reason that quotes nothing of it; what is
//! decoded is JSON, and its other fields come out of `extra` as canonical JSON.

#![no_main]

use cdrlake::decode::{Refusal, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    match decode(text) {
        Ok(record) => {
            let Some(extra) = &record.extra else { return };
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
});
