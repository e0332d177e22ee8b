//! The smallest and the largest value of a page or a column chunk, for statistics and page index.

use parquet::basic::Type;
use parquet::data_type::ByteArray;
use parquet::file::statistics::{Statistics, ValueStatistics};

/// Longest bound of texts in statistics and page index, but for a character: where a text is longer, they have a
/// [bound of their own](https://parquet.apache.org/docs/file-format/pageindex/) that lies beyond it.
pub(super) const MAX_BOUND_BYTES: usize = 64;

/// The smallest and the largest value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bounds {
    /// Of no values.
    Empty,
    Number(i64, i64),
    Text(TextBound, TextBound),
    /// There is no text beyond the largest.
    Unknown,
}

impl Bounds {
    pub(super) fn of_numbers(numbers: impl IntoIterator<Item = i64>) -> Self {
        let mut numbers = numbers.into_iter();
        let Some(first) = numbers.next() else {
            return Self::Empty;
        };
        let (min, max) = numbers.fold((first, first), |(min, max), number| {
            (min.min(number), max.max(number))
        });
        Self::Number(min, max)
    }

    pub(super) fn merge(self, other: Self) -> Self {
        match (self, other) {
            (Self::Empty, other) | (other, Self::Empty) => other,
            (Self::Number(min, max), Self::Number(other_min, other_max)) => {
                Self::Number(min.min(other_min), max.max(other_max))
            }
            (Self::Text(min, max), Self::Text(other_min, other_max)) => {
                Self::Text(min.min(other_min), max.max(other_max))
            }
            _ => Self::Unknown,
        }
    }

    /// As the page index has them; `None` if they are not to be known.
    pub(super) fn encoded(&self, physical_type: Type) -> Option<(Vec<u8>, Vec<u8>)> {
        let number = |number: i64| {
            if physical_type == Type::INT32 {
                narrow(number).to_le_bytes().to_vec()
            } else {
                number.to_le_bytes().to_vec()
            }
        };
        match self {
            Self::Empty => Some((Vec::new(), Vec::new())),
            Self::Number(min, max) => Some((number(*min), number(*max))),
            Self::Text(min, max) => Some((min.bytes.clone(), max.bytes.clone())),
            Self::Unknown => None,
        }
    }

    pub(super) fn statistics(&self, physical_type: Type, nulls: u64) -> Statistics {
        let nulls = Some(nulls);
        match (self, physical_type) {
            (Self::Number(min, max), Type::INT32) => {
                Statistics::int32(Some(narrow(*min)), Some(narrow(*max)), None, nulls, false)
            }
            (Self::Number(min, max), _) => {
                Statistics::int64(Some(*min), Some(*max), None, nulls, false)
            }
            (Self::Text(min, max), _) => {
                let bound = |bound: &TextBound| Some(ByteArray::from(bound.bytes.clone()));
                let statistics = ValueStatistics::new(bound(min), bound(max), None, nulls, false)
                    .with_min_is_exact(!min.is_cut)
                    .with_max_is_exact(!max.is_cut);
                Statistics::ByteArray(statistics)
            }
            (_, Type::INT32) => Statistics::int32(None, None, None, nulls, false),
            (_, Type::INT64) => Statistics::int64(None, None, None, nulls, false),
            _ => Statistics::byte_array(None, None, None, nulls, false),
        }
    }
}

/// A bound of texts: one of them, or where that is long, something short beyond it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TextBound {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl TextBound {
    fn exact(text: &str) -> Self {
        Self {
            bytes: text.as_bytes().to_owned(),
            is_cut: false,
        }
    }

    /// A text that is no larger: its beginning.
    pub(super) fn below(text: &str) -> Self {
        let (beginning, _) = text.split_at(text.floor_char_boundary(MAX_BOUND_BYTES));
        Self {
            is_cut: beginning.len() < text.len(),
            ..Self::exact(beginning)
        }
    }

    /// A text that is no smaller: its beginning, with the last character that has a successor replaced by that.
    pub(super) fn above(text: &str) -> Option<Self> {
        if text.len() <= MAX_BOUND_BYTES {
            return Some(Self::exact(text));
        }
        let (beginning, _) = text.split_at(text.floor_char_boundary(MAX_BOUND_BYTES));
        let (at, successor) = beginning
            .char_indices()
            .rev()
            .find_map(|(at, character)| Some((at, successor(character)?)))?;
        let bound = format!("{}{successor}", beginning.split_at(at).0);
        Some(Self {
            bytes: bound.into_bytes(),
            is_cut: true,
        })
    }
}

/// The next character, in the order of code points, which is that of UTF-8.
fn successor(character: char) -> Option<char> {
    // A range of characters knows about surrogates.
    (character..=char::MAX).nth(1)
}

/// The smallest and the largest of some texts.
#[derive(Default)]
pub(super) struct TextBounds<'a> {
    bounds: Option<[(u64, &'a [u8]); 2]>,
}

impl<'a> TextBounds<'a> {
    /// The first eight bytes as a number, which decide nearly always, and never wrongly: a longer text sorts behind its
    /// own beginning.
    fn head(text: &[u8]) -> u64 {
        match text.first_chunk::<8>() {
            Some(head) => u64::from_be_bytes(*head),
            None => {
                let mut head = [0; 8];
                head[..text.len()].copy_from_slice(text);
                u64::from_be_bytes(head)
            }
        }
    }

    #[inline]
    pub(super) fn add(&mut self, text: &'a [u8]) {
        let text = (Self::head(text), text);
        let [min, max] = self.bounds.get_or_insert([text, text]);
        if text.0 <= min.0 && text < *min {
            *min = text;
        }
        if text.0 >= max.0 && text > *max {
            *max = text;
        }
    }
}

impl<'a> FromIterator<&'a [u8]> for TextBounds<'a> {
    fn from_iter<T: IntoIterator<Item = &'a [u8]>>(texts: T) -> Self {
        let mut bounds = Self::default();
        texts.into_iter().for_each(|text| bounds.add(text));
        bounds
    }
}

impl From<TextBounds<'_>> for Bounds {
    fn from(texts: TextBounds<'_>) -> Self {
        let Some([(_, min), (_, max)]) = texts.bounds else {
            return Self::Empty;
        };
        let [min, max] = [min, max].map(|text| std::str::from_utf8(text).expect("it is a text"));
        TextBound::above(max).map_or(Self::Unknown, |max| Self::Text(TextBound::below(min), max))
    }
}

/// A number of a column of 32 bits.
#[inline]
pub(super) fn narrow(number: i64) -> i32 {
    i32::try_from(number).expect("a column of 32 bits holds such numbers")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn bounds_of_texts_are_short_and_on_their_side(text in "[ab]{0,70}|.{0,40}|[é\u{D7FF}\u{10FFFF}]{10,40}|a{62}.{3}") {
            let (below, above) = (TextBound::below(&text), TextBound::above(&text));
            let is_long = text.len() > MAX_BOUND_BYTES;
            let text = text.as_bytes();
            prop_assert!(below.bytes.as_slice() <= text && below.bytes.len() <= MAX_BOUND_BYTES);
            prop_assert_eq!(below.is_cut, is_long);
            prop_assert!(is_long || below.bytes == text);
            if let Some(above) = above {
                prop_assert!(above.bytes.as_slice() >= text && above.bytes.len() <= MAX_BOUND_BYTES + 3);
                prop_assert!(std::str::from_utf8(&above.bytes).is_ok());
                prop_assert_eq!(above.is_cut, is_long);
                prop_assert!(is_long || above.bytes == text);
            } else {
                let largest = char::MAX.to_string().repeat(16);
                prop_assert!(is_long && text.starts_with(largest.as_bytes()));
            }
        }
    }

    #[test]
    fn numbers_have_bounds_that_grow_and_none_if_there_are_none() {
        let bounds = Bounds::of_numbers([3, -7, 5]);
        assert_eq!(bounds, Bounds::Number(-7, 5));
        assert_eq!(Bounds::of_numbers([]), Bounds::Empty);
        let merged = bounds
            .clone()
            .merge(Bounds::Empty)
            .merge(Bounds::of_numbers([9]));
        assert_eq!(merged, Bounds::Number(-7, 9));
        let (min, max) = merged.encoded(Type::INT32).unwrap();
        assert_eq!(
            (min, max),
            (
                (-7_i32).to_le_bytes().to_vec(),
                9_i32.to_le_bytes().to_vec()
            )
        );
        let (min, _) = merged.encoded(Type::INT64).unwrap();
        assert_eq!(min, (-7_i64).to_le_bytes());
    }

    #[test]
    fn where_no_text_is_larger_nothing_is_said_of_the_bounds() {
        let largest = char::MAX.to_string().repeat(20);
        let texts: TextBounds<'_> = ["a", &largest].into_iter().map(str::as_bytes).collect();
        let bounds = Bounds::from(texts);
        assert_eq!(bounds, Bounds::Unknown);
        assert_eq!(bounds.encoded(Type::BYTE_ARRAY), None);
        assert_eq!(bounds.statistics(Type::BYTE_ARRAY, 2).max_bytes_opt(), None);
        let merged =
            Bounds::Unknown.merge(Bounds::Text(TextBound::below("a"), TextBound::below("b")));
        assert_eq!(merged, Bounds::Unknown);
    }

    proptest! {
        #[test]
        fn bounds_of_texts_are_the_smallest_and_the_largest(
            texts in proptest::collection::vec("[ab\u{0}é]{0,20}", 1..20),
        ) {
            let bounds: TextBounds<'_> = texts.iter().map(String::as_bytes).collect();
            let min = TextBound::exact(texts.iter().min().unwrap());
            let max = TextBound::exact(texts.iter().max().unwrap());
            prop_assert_eq!(Bounds::from(bounds), Bounds::Text(min, max));
        }
    }
}
