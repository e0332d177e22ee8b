//! Encodings of values: `PLAIN`, and the hybrid of runs and bit-packing for levels and codes.

use arrow::array::{Array, Date32Array, Decimal128Array, Int32Array, TimestampMicrosecondArray};
use arrow::buffer::NullBuffer;

use super::scratch::Scratch;

/// Appends the values that are not null.
pub(super) fn extend_valid<T: Copy, N>(
    numbers: &mut Vec<N>,
    values: &[T],
    nulls: Option<&NullBuffer>,
    convert: impl Fn(T) -> N,
) {
    match nulls {
        Some(nulls) => numbers.extend(nulls.valid_indices().map(|row| convert(values[row]))),
        None => numbers.extend(values.iter().map(|&value| convert(value))),
    }
}

/// The values that are not null, as 64-bit numbers.
pub(super) fn numbers_of(array: &dyn Array) -> Vec<i64> {
    let (any, nulls) = (array.as_any(), array.nulls());
    let mut numbers = Vec::with_capacity(array.len());
    if let Some(array) = any.downcast_ref::<TimestampMicrosecondArray>() {
        extend_valid(&mut numbers, array.values(), nulls, |value| value);
    } else if let Some(array) = any.downcast_ref::<Decimal128Array>() {
        extend_valid(&mut numbers, array.values(), nulls, |value| {
            i64::try_from(value).expect("eighteen digits fit 64 bits")
        });
    } else if let Some(array) = any.downcast_ref::<Int32Array>() {
        extend_valid(&mut numbers, array.values(), nulls, i64::from);
    } else if let Some(array) = any.downcast_ref::<Date32Array>() {
        extend_valid(&mut numbers, array.values(), nulls, i64::from);
    } else {
        unreachable!("the schema has no other type: {}", array.data_type())
    }
    numbers
}

/// Definition levels of version 1: their length, then a run if all are equal, otherwise the
/// validity bitmap, which already has the format's bit-packing.
pub(super) fn write_levels(array: &dyn Array, page: &mut Scratch) {
    let start = page.len();
    page.push([0; 4]);
    let rows = array.len() as u64;
    match array.nulls() {
        Some(nulls) if nulls.null_count() > 0 && nulls.null_count() < array.len() => {
            let groups = rows.div_ceil(8);
            write_varint(groups << 1 | 1, page);
            let bits = nulls.inner();
            if bits.offset().is_multiple_of(8) {
                let first = bits.offset() / 8;
                let bytes = usize::try_from(groups).expect("as many as rows");
                page.extend(&bits.values()[first..first + bytes]);
            } else {
                page.extend(bits.sliced().as_slice());
            }
        }
        nulls => {
            write_varint(rows << 1, page);
            page.push([u8::from(nulls.is_none_or(|nulls| nulls.null_count() == 0))]);
        }
    }
    let length = u32::try_from(page.len() - start - 4).expect("a page has some megabytes");
    page.as_mut_slice()[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Codes of a dictionary with `entries` entries: their width, then a run if all are equal,
/// otherwise bit-packed.
pub(super) fn write_codes(codes: &[u32], entries: usize, page: &mut Scratch) {
    let largest = u32::try_from(entries.saturating_sub(1)).expect("a dictionary has a limit");
    let width = u32::BITS - largest.leading_zeros();
    page.push([u8::try_from(width).expect("at most 32")]);
    let Some((&first, rest)) = codes.split_first() else {
        return;
    };
    if rest.iter().all(|&code| code == first) {
        write_varint((codes.len() as u64) << 1, page);
        let bytes = width.div_ceil(8) as usize;
        page.push_start(&first.to_le_bytes(), bytes);
        return;
    }
    let groups = codes.len().div_ceil(8);
    write_varint((groups as u64) << 1 | 1, page);
    if width <= 8 {
        write_narrow_codes(codes, width, page);
        return;
    }
    let end = page.len() + groups * width as usize;
    let (mut bits, mut held) = (0_u64, 0);
    for &code in codes {
        bits |= u64::from(code) << held;
        held += width;
        if held >= u32::BITS {
            page.push_start(&bits.to_le_bytes(), 4);
            bits >>= u32::BITS;
            held -= u32::BITS;
        }
    }
    // The remaining bits, and zeros up to the end of the last group.
    while page.len() < end {
        page.push_start(&bits.to_le_bytes(), (end - page.len()).min(8));
        bits = 0;
    }
}

/// Codes of at most 8 bits, bit-packed: a group of eight fits into one word.
fn write_narrow_codes(codes: &[u32], width: u32, page: &mut Scratch) {
    let mut write = |group: &[u32; 8]| {
        let mut bits = 0;
        for (place, &code) in (0..).zip(group) {
            bits |= u64::from(code) << (place * width);
        }
        page.push_start(&u64::to_le_bytes(bits), width as usize);
    };
    let (groups, rest) = codes.as_chunks();
    groups.iter().for_each(&mut write);
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        write(&last);
    }
}

/// An unsigned LEB128.
fn write_varint(mut number: u64, page: &mut Scratch) {
    while number >= 0x80 {
        page.push([number.to_le_bytes()[0] | 0x80]);
        number >>= 7;
    }
    page.push([number.to_le_bytes()[0]]);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn codes_of_any_width_are_packed(
            width in 1_u32..21,
            seeds in proptest::collection::vec(any::<u32>(), 1..200),
        ) {
            let codes: Vec<u32> = seeds.iter().map(|seed| seed & ((1 << width) - 1)).collect();
            let mut page = Scratch::default();
            write_codes(&codes, 1 << width, &mut page);
            let page = page.as_slice();
            prop_assert_eq!(u32::from(page[0]), width);
            if codes.iter().any(|&code| code != codes[0]) {
                let varint_bytes = if codes.len().div_ceil(8) < 0x40 { 1 } else { 2 };
                let packed = &page[1 + varint_bytes..];
                prop_assert_eq!(packed.len(), codes.len().div_ceil(8) * width as usize);
                let bit = |at: usize| u32::from(packed[at / 8] >> (at % 8) & 1);
                for (i, &code) in codes.iter().enumerate() {
                    let start = i * width as usize;
                    let read = (0..width as usize).fold(0, |sum, b| sum | bit(start + b) << b);
                    prop_assert_eq!(read, code);
                }
            }
        }
    }

    fn levels(array: &dyn Array) -> Vec<u8> {
        let mut page = Scratch::default();
        write_levels(array, &mut page);
        let (length, levels) = page.as_slice().split_first_chunk::<4>().unwrap();
        assert_eq!(u32::from_le_bytes(*length) as usize, levels.len());
        levels.to_vec()
    }

    #[test]
    fn levels_are_encoded_as_a_run_if_equal_and_as_the_validity_bitmap_otherwise() {
        let array =
            |values: &[Option<&str>]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
        assert_eq!(levels(&array(&[Some("a"); 5])), [5 << 1, 1]);
        assert_eq!(levels(&array(&[None; 200])), [0x90, 0x03, 0]);
        let mixed: Vec<_> = (0..20).map(|i| (i % 3 == 0).then_some("a")).collect();
        let mixed = array(&mixed);
        assert_eq!(
            levels(&mixed),
            [3 << 1 | 1, 0b0100_1001, 0b1001_0010, 0b0000_0100]
        );
        // Bits after the last value have no meaning.
        assert_eq!(levels(&mixed.slice(8, 8)), [1 << 1 | 1, 0b1001_0010]);
        assert_eq!(levels(&mixed.slice(3, 8)), [1 << 1 | 1, 0b0100_1001]);
    }

    #[test]
    fn equal_codes_are_encoded_as_a_run_and_an_empty_page_as_their_width() {
        let codes = |codes: &[u32], entries| {
            let mut page = Scratch::default();
            write_codes(codes, entries, &mut page);
            page.as_slice().to_vec()
        };
        assert_eq!(codes(&[], 300), [9]);
        assert_eq!(codes(&[258; 3], 300), [9, 3 << 1, 2, 1]);
        assert_eq!(codes(&[0; 3], 1), [0, 3 << 1]);
    }

    #[test]
    fn nulls_are_skipped() {
        let array = Int32Array::from(vec![Some(1), None, Some(-3)]);
        assert_eq!(numbers_of(&array), [1, -3]);
        assert_eq!(numbers_of(&array.slice(1, 2)), [-3]);
    }
}
