//! Minimum and maximum of a page or a column chunk, for statistics and page index.

use parquet::basic::Type;
use parquet::data_type::ByteArray;
use parquet::file::statistics::{Statistics, ValueStatistics};

/// Longest bound of texts in statistics and page index, except for one character. For a longer text
/// the bound is a [shorter value](https://parquet.apache.org/docs/file-format/pageindex/) beyond
/// it.
pub(super) const MAX_BOUND_BYTES: usize = 64;

/// Minimum and maximum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bounds {
    /// There are no values.
    Empty,
    Number(i64, i64),
    Text(TextBound, TextBound),
    /// No short text is larger than the maximum.
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

    /// In the encoding of the page index, `None` if unknown.
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
                    .with_min_is_exact(!min.is_truncated)
                    .with_max_is_exact(!max.is_truncated);
                Statistics::ByteArray(statistics)
            }
            (_, Type::INT32) => Statistics::int32(None, None, None, nulls, false),
            (_, Type::INT64) => Statistics::int64(None, None, None, nulls, false),
            _ => Statistics::byte_array(None, None, None, nulls, false),
        }
    }
}

/// A bound of texts: one of the texts, or a shorter text beyond it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TextBound {
    bytes: Vec<u8>,
    is_truncated: bool,
}

impl TextBound {
    fn exact(text: &str) -> Self {
        Self {
            bytes: text.as_bytes().to_owned(),
            is_truncated: false,
        }
    }

    /// A short text that is not larger: the beginning of `text`.
    pub(super) fn lower(text: &str) -> Self {
        let (beginning, _) = text.split_at(text.floor_char_boundary(MAX_BOUND_BYTES));
        Self {
            is_truncated: beginning.len() < text.len(),
            ..Self::exact(beginning)
        }
    }

    /// A short text that is not smaller: the beginning of `text` with its last character replaced
    /// by the successor. Skips trailing characters without a successor.
    pub(super) fn upper(text: &str) -> Option<Self> {
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
            is_truncated: true,
        })
    }
}

/// The next code point. UTF-8 sorts like code points.
fn successor(character: char) -> Option<char> {
    // A range of `char` skips surrogates.
    (character..=char::MAX).nth(1)
}

/// Collects minimum and maximum of texts.
pub(super) struct TextBounds<'a> {
    min: (u64, Option<&'a [u8]>),
    max: (u64, Option<&'a [u8]>),
}

impl Default for TextBounds<'_> {
    fn default() -> Self {
        Self {
            min: (u64::MAX, None),
            max: (0, None),
        }
    }
}

impl<'a> TextBounds<'a> {
    /// The first eight bytes as a number. Comparing them first is correct, because a text sorts
    /// after its own beginning, and nearly always sufficient.
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
        let head = Self::head(text);
        if head <= self.min.0 && self.min.1.is_none_or(|min| text < min) {
            self.min = (head, Some(text));
        }
        if head >= self.max.0 && self.max.1.is_none_or(|max| text > max) {
            self.max = (head, Some(text));
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
        let (Some(min), Some(max)) = (texts.min.1, texts.max.1) else {
            return Self::Empty;
        };
        let [min, max] = [min, max].map(|text| std::str::from_utf8(text).expect("it is a text"));
        TextBound::upper(max).map_or(Self::Unknown, |max| Self::Text(TextBound::lower(min), max))
    }
}

/// Converts a value of a 32-bit column.
#[inline]
pub(super) fn narrow(number: i64) -> i32 {
    i32::try_from(number).expect("the column has 32 bits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn bounds_of_texts_are_short_and_correct(
            text in "[ab]{0,70}|.{0,40}|[é\u{D7FF}\u{10FFFF}]{10,40}|a{62}.{3}",
        ) {
            let (lower, upper) = (TextBound::lower(&text), TextBound::upper(&text));
            let is_long = text.len() > MAX_BOUND_BYTES;
            let text = text.as_bytes();
            prop_assert!(lower.bytes.as_slice() <= text && lower.bytes.len() <= MAX_BOUND_BYTES);
            prop_assert_eq!(lower.is_truncated, is_long);
            prop_assert!(is_long || lower.bytes == text);
            if let Some(upper) = upper {
                prop_assert!(upper.bytes.as_slice() >= text);
                prop_assert!(upper.bytes.len() <= MAX_BOUND_BYTES + 3);
                prop_assert!(std::str::from_utf8(&upper.bytes).is_ok());
                prop_assert_eq!(upper.is_truncated, is_long);
                prop_assert!(is_long || upper.bytes == text);
            } else {
                let largest = char::MAX.to_string().repeat(16);
                prop_assert!(is_long && text.starts_with(largest.as_bytes()));
            }
        }
    }

    #[test]
    fn bounds_of_numbers_are_merged_and_empty_without_numbers() {
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
    fn bounds_are_unknown_if_no_text_is_larger() {
        let largest = char::MAX.to_string().repeat(20);
        let texts: TextBounds<'_> = ["a", &largest].into_iter().map(str::as_bytes).collect();
        let bounds = Bounds::from(texts);
        assert_eq!(bounds, Bounds::Unknown);
        assert_eq!(bounds.encoded(Type::BYTE_ARRAY), None);
        assert_eq!(bounds.statistics(Type::BYTE_ARRAY, 2).max_bytes_opt(), None);
        let merged =
            Bounds::Unknown.merge(Bounds::Text(TextBound::lower("a"), TextBound::lower("b")));
        assert_eq!(merged, Bounds::Unknown);
    }

    proptest! {
        #[test]
        fn bounds_of_texts_are_minimum_and_maximum(
            texts in proptest::collection::vec("[ab\u{0}é]{0,20}", 1..20),
        ) {
            let bounds: TextBounds<'_> = texts.iter().map(String::as_bytes).collect();
            let min = TextBound::exact(texts.iter().min().unwrap());
            let max = TextBound::exact(texts.iter().max().unwrap());
            prop_assert_eq!(Bounds::from(bounds), Bounds::Text(min, max));
        }
    }
}
