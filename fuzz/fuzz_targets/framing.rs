//! Framing any body: the same records at the same positions for any chunks, and no record longer
//! than the limit.

#![no_main]

use cdrlake::Format;
use cdrlake::internals::{
    BodySummary, Boundary, Frame, Framer, FramingError, Position, RECORD_KEYS,
};
use libfuzzer_sys::fuzz_target;

type Framed = (
    Vec<(Position, Option<Boundary>, Vec<u8>, u64, Vec<Vec<u8>>)>,
    Result<BodySummary, FramingError>,
);

fn frame<'a>(
    mut framer: Framer,
    chunks: impl Iterator<Item = &'a [u8]>,
    max_record_bytes: usize,
) -> Framed {
    let mut frames = Vec::new();
    let mut keep = |frame: Frame<'_>| {
        frames.push(match frame {
            Frame::Record { at, boundary, text } => {
                assert!(text.len() <= max_record_bytes);
                // JSON white space only: a form feed is not white space.
                assert!(text.iter().any(|byte| !b" \t\r\n".contains(byte)));
                (at, Some(boundary), text.to_vec(), text.len() as u64, vec![])
            }
            Frame::Cells {
                at,
                boundary,
                text,
                cells,
            } => {
                assert!(text.len() <= max_record_bytes && cells.count() > 0);
                let cells: Vec<_> = cells.iter().map(<[u8]>::to_vec).collect();
                assert!(cells.iter().map(Vec::len).sum::<usize>() <= text.len());
                let length = text.len() as u64;
                (at, Some(boundary), text.to_vec(), length, cells)
            }
            Frame::TooLong {
                at,
                boundary,
                prefix,
                length_bytes,
            } => {
                assert!(length_bytes > max_record_bytes as u64 && prefix.len() == max_record_bytes);
                (at, Some(boundary), prefix.to_vec(), length_bytes, vec![])
            }
        });
        Ok(())
    };
    for chunk in chunks {
        if let Err(error) = framer.push(chunk, &mut keep) {
            return (frames, Err(error));
        }
    }
    let ended = framer.finish(&mut keep);
    (frames, ended)
}

fuzz_target!(|input: (u8, u8, u8, &[u8])| {
    let (limit, chunk, format, body) = input;
    let max_record_bytes = usize::from(limit) + 1;
    let framer = || {
        let framer = match format % 4 {
            0 => Framer::detecting(max_record_bytes),
            1 => Framer::new(Format::Json, max_record_bytes),
            2 => Framer::new(Format::Csv, max_record_bytes),
            _ => Framer::new(Format::Lines, max_record_bytes),
        };
        framer.with_record_keys(&RECORD_KEYS)
    };
    let whole = frame(framer(), std::iter::once(body), max_record_bytes);
    let chunks = body.chunks(usize::from(chunk) + 1);
    let cut = frame(framer(), chunks, max_record_bytes);
    assert_eq!(cut, whole);
    if let Ok(summary) = whole.1 {
        assert_eq!(summary.bytes, body.len() as u64);
    }
});
