use std::sync::Arc;

use super::*;
use crate::cdr::columns::file_schema;
use crate::cdr::slice::Direction;
use crate::slice_file::batch::BatchBuilder;

/// Lines of these records.
fn lines(slice: Slice, records: &[&str]) -> String {
    let mut builder = BatchBuilder::new(slice);
    for record in records {
        let mut record = crate::cdr::decode::decode(record.as_bytes()).unwrap();
        record.source_day = Some(crate::cdr::day::day_number(jiff::civil::date(2026, 10, 2)));
        builder.append(&record);
    }
    let batch = builder.finish();
    let columns = batch.columns().iter().zip(COLUMNS);
    let columns = columns
        .map(|(array, column)| arrow::compute::cast(array, &column.kind.file_type()).unwrap());
    let batch = RecordBatch::try_new(Arc::new(file_schema()), columns.collect()).unwrap();
    let mut written = Vec::new();
    let mut output = JsonOutput::new(&mut written);
    output.batch(slice, &batch).unwrap();
    output.flush().unwrap();
    drop(output);
    String::from_utf8(written).unwrap()
}

#[test]
fn a_line_has_every_column_with_exact_values() {
    let slice = Slice::of_day(jiff::civil::date(2026, 10, 1), Direction::Placed);
    let record = "{\"date\":\"2026-10-01T10:00:00.123456Z\",\"from\":\"\\\"1\\\"\",\"duration\":61,\
         \"charge\":\"0.100000001\",\"more\":[1.10,\n{\"b\":\"a\\nb\"}]}";
    let line = "{\"call_id\":null,\"parent_call_id\":null,\"direction\":\"placed\",\
         \"source_day\":\"2026-10-01\",\"call_time\":\"2026-10-01T10:00:00.123456Z\",\
         \"from_number\":\"\\\"1\\\"\",\"to_number\":null,\"disposition\":null,\
         \"destination\":null,\"sip_trunk\":null,\"answered_by\":null,\"duration_seconds\":61,\
         \"per_minute_usd\":null,\"charge_usd\":\"0.100000001\",\"forward_fee_usd\":null,\
         \"extra\":{\"more\":[1.10,{\"b\":\"a\\nb\"}]}}\n";
    assert_eq!(lines(slice, &[record]), line);
    serde_json::from_str::<serde_json::Value>(line).unwrap();
}

#[test]
fn the_rows_of_a_month_have_their_own_days() {
    let slice: Slice = "received 2026-10".parse().unwrap();
    let records = ["{\"date\":\"2026-10-02T10:00:00Z\"}"; 2];
    let lines = lines(slice, &records);
    assert_eq!(lines.matches("\"source_day\":\"2026-10-02\"").count(), 2);
    assert_eq!(lines.matches("\"direction\":\"received\"").count(), 2);
}
