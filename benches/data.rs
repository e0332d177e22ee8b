//! Records for the benches: the simulator's, from a fixed seed.

use cdrlake::simulator::{Generator, KeyOrder};
use cdrlake::slice::{Direction, Slice};
use jiff::civil::date;

/// Records of a body.
pub(crate) const RECORDS: u64 = 20_000;

/// The slice that the records belong to.
pub(crate) fn slice() -> Slice {
    Slice {
        day: date(2026, 10, 1),
        direction: Direction::Placed,
    }
}

/// A body of [`RECORDS`] lines.
pub(crate) fn body(key_order: KeyOrder) -> Vec<u8> {
    let generator = Generator {
        seed: 42,
        calls_per_day: 100_000,
        key_order,
    };
    let mut body = Vec::new();
    for index in 0..RECORDS {
        generator.render(&generator.call(slice(), index), &mut body);
        body.push(b'\n');
    }
    body
}
