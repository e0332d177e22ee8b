//! Applies privacy to records: which fields hold phone numbers, and how each is hidden.

use std::borrow::Cow;
use std::sync::Arc;

use super::columns::Kind;
use super::decode::{Record, TextClass};
use crate::privacy::{Credentials, Memo, Mode, Privacy, Token, is_plain_number};

/// Applies [`Privacy`] to many records. Remembers the numbers and places seen last, because a keyed
/// hash costs more than the rest of a record. Memory: about 400 KB.
#[derive(Debug)]
pub struct RecordPrivacy {
    privacy: Arc<Privacy>,
    // By column: the numbers of the account are in one, and those of others do not replace them.
    from_tokens: Memo<Token>,
    to_tokens: Memo<Token>,
    erased_destinations: Memo<bool>,
    plain_destinations: Memo<bool>,
}

impl RecordPrivacy {
    /// Applies `privacy`.
    pub fn new(privacy: Arc<Privacy>) -> Self {
        Self {
            privacy,
            from_tokens: Memo::default(),
            to_tokens: Memo::default(),
            erased_destinations: Memo::default(),
            plain_destinations: Memo::default(),
        }
    }

    /// Whether a call belongs to an erased number. Its numbers may be plain, as the source sends
    /// them, or hidden, as the lake stores them.
    #[inline]
    pub fn suppresses(&mut self, record: &Record<'_>) -> bool {
        self.privacy.suppresses_any() && self.holds_suppressed(record)
    }

    fn holds_suppressed(&mut self, record: &Record<'_>) -> bool {
        let privacy = &*self.privacy;
        let is_of = |number: Option<&str>, tokens: &mut Memo<Token>| {
            number.is_some_and(|number| match token(privacy, tokens, number) {
                Some(token) => privacy.is_erased(&token),
                None => privacy.suppresses_value(number),
            })
        };
        is_of(record.from_number.as_deref(), &mut self.from_tokens)
            || is_of(record.to_number.as_deref(), &mut self.to_tokens)
            || record.destination.as_deref().is_some_and(|value| {
                let known = &mut self.erased_destinations;
                known.get_or_insert_with(value, || privacy.suppresses_value(value))
            })
            || record
                .extra
                .as_deref()
                .is_some_and(|json| privacy.suppresses_json(json))
    }

    /// Hides the numbers of a record, each column by its mode.
    #[inline]
    pub fn hide(&mut self, record: &mut Record<'_>) {
        if !self.privacy.keeps_all() {
            self.hide_numbers(record);
        }
    }

    fn hide_numbers(&mut self, record: &mut Record<'_>) {
        let (privacy, modes) = (&*self.privacy, self.privacy.modes());
        let hide = |number: &mut Cow<'_, str>, mode, tokens: &mut Memo<Token>| {
            let token = match mode {
                Mode::Pseudonymize => token(privacy, tokens, number),
                _ => None,
            };
            match token {
                Some(token) => *number = Cow::Owned(token.into_text()),
                None => privacy.hide_value(number, mode),
            }
        };
        if let Some(number) = &mut record.from_number {
            hide(number, modes.from_number, &mut self.from_tokens);
        }
        if let Some(number) = &mut record.to_number {
            hide(number, modes.to_number, &mut self.to_tokens);
        }
        if let Some(destination) = &mut record.destination {
            let is_plain = self.plain_destinations.get_or_insert_with(destination, || {
                let mut hidden = Cow::Borrowed(&**destination);
                privacy.hide_place(&mut hidden, modes.destination);
                hidden == *destination
            });
            if !is_plain {
                privacy.hide_place(destination, modes.destination);
            }
        }
        if let Some(json) = &mut record.extra {
            privacy.hide_json(json, modes.extra);
        }
    }
}

/// The same for one record, without memory: what [`RecordPrivacy`] is compared with.
#[cfg(test)]
impl Privacy {
    /// Whether a call belongs to an erased number. Its numbers may be plain, as the source sends
    /// them, or hidden, as the lake stores them.
    pub(crate) fn suppresses(&self, record: &Record<'_>) -> bool {
        self.suppresses_any() && self.holds_suppressed(record)
    }

    fn holds_suppressed(&self, record: &Record<'_>) -> bool {
        let values = [
            record.from_number.as_deref(),
            record.to_number.as_deref(),
            record.destination.as_deref(),
        ];
        values
            .into_iter()
            .flatten()
            .any(|value| self.suppresses_value(value))
            || record
                .extra
                .as_deref()
                .is_some_and(|json| self.suppresses_json(json))
    }

    /// Hides the numbers of a record, each column by its mode.
    pub(crate) fn hide(&self, record: &mut Record<'_>) {
        if self.keeps_all() {
            return;
        }
        let modes = self.modes();
        if let Some(value) = &mut record.from_number {
            self.hide_value(value, modes.from_number);
        }
        if let Some(value) = &mut record.to_number {
            self.hide_value(value, modes.to_number);
        }
        if let Some(value) = &mut record.destination {
            self.hide_place(value, modes.destination);
        }
        if let Some(json) = &mut record.extra {
            self.hide_json(json, modes.extra);
        }
    }
}

/// The token of a number, if it is plain and there is a key.
fn token(privacy: &Privacy, known: &mut Memo<Token>, number: &str) -> Option<Token> {
    let key = privacy.key().filter(|_| is_plain_number(number))?;
    Some(known.get_or_insert_with(number, || key.token(number)))
}

impl Credentials {
    /// Removes credentials from a record that was decoded from `json`, a text of this class.
    /// Returns whether there were any.
    #[inline]
    pub fn redact(&self, record: &mut Record<'_>, json: &[u8], class: TextClass) -> bool {
        let is_key_in_json = self.holds_key(json);
        (is_key_in_json || class.has_backslash() || class.has_other_marks())
            && self.redact_fields(record, class, is_key_in_json)
    }

    fn redact_fields(
        &self,
        record: &mut Record<'_>,
        class: TextClass,
        is_key_in_json: bool,
    ) -> bool {
        let mut is_any = false;
        for (kind, text) in record.texts_mut() {
            let may_be_in = match text {
                // As it stands in `json`, and without escapes.
                Cow::Borrowed(text) => {
                    is_key_in_json || (class.has_other_marks() && Self::has_marks(text.as_bytes()))
                }
                Cow::Owned(text) => self.may_be_in(text.as_bytes()),
            };
            if !may_be_in {
                continue;
            }
            let redacted = match kind {
                Kind::Json => self.redact_json(text),
                _ => self.redact_text(text),
            };
            if let Cow::Owned(redacted) = redacted {
                *text = Cow::Owned(redacted);
                is_any = true;
            }
        }
        is_any
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::privacy::{Modes, PrivacyKey};

    /// Values that repeat: numbers in several notations, names and places.
    const VALUES: [&str; 12] = [
        "13025550101",
        "13025550102",
        "+1 302 555 0101",
        "0013025550101",
        "5550101",
        "911",
        "",
        "anonymous",
        "USA, Delaware",
        "sip:13025550101@sip.example.com",
        "tel_00000000000000000000000000000000",
        "a place whose name is longer than what is remembered, 13025550101",
    ];

    fn key() -> PrivacyKey {
        PrivacyKey::try_new("0123456789abcdefghijklmnopqrstuvwxyz").unwrap()
    }

    fn record(values: [usize; 3], numbers: [u16; 2]) -> Record<'static> {
        // Beyond the values, numbers that hardly repeat, and replace those that are remembered.
        let value = |index: usize, number: u16| {
            let number = || Cow::Owned(format!("4930{number:07}"));
            VALUES
                .get(index)
                .map_or_else(number, |text| Cow::Borrowed(*text))
        };
        Record {
            from_number: Some(value(values[0], numbers[0])),
            to_number: Some(value(values[1], numbers[1])),
            destination: Some(value(values[2], numbers[0])),
            extra: Some(Cow::Borrowed(r#"{"note":"13025550102"}"#)),
            ..Record::default()
        }
    }

    fn assert_same(privacy: Privacy, records: &[Record<'_>]) {
        let privacy = Arc::new(privacy);
        let mut remembering = RecordPrivacy::new(Arc::clone(&privacy));
        for record in records {
            assert_eq!(remembering.suppresses(record), privacy.suppresses(record));
            let (mut found, mut expected) = (record.clone(), record.clone());
            remembering.hide(&mut found);
            privacy.hide(&mut expected);
            assert_eq!(found, expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_remembered_changes_no_record(
            mode in prop_oneof![
                Just(Mode::Keep),
                Just(Mode::Truncate),
                Just(Mode::Pseudonymize),
            ],
            erased in prop::collection::vec(0..VALUES.len(), 0..3),
            records in prop::collection::vec((any::<[u8; 3]>(), any::<[u16; 2]>()), 1..200),
        ) {
            let records: Vec<_> = records
                .into_iter()
                .map(|(values, numbers)| {
                    record(values.map(|value| usize::from(value) % 24), numbers)
                })
                .collect();
            let tokens = erased.iter().map(|&index| key().token(VALUES[index]));
            let privacy = Privacy::new(Modes::all(mode), Some(key()));
            assert_same(privacy.suppressing(tokens).unwrap(), &records);
        }
    }

    #[test]
    fn a_number_seen_before_its_erasure_is_suppressed_after_it() {
        let keeping = Privacy::new(Modes::default(), Some(key()));
        let call = record([0, 1, 8], [0, 0]);
        let tokens = [key().token("13025550101")];
        let mut before = RecordPrivacy::new(Arc::new(keeping.clone()));
        assert!(!before.suppresses(&call));
        let mut after = RecordPrivacy::new(Arc::new(keeping.suppressing(tokens).unwrap()));
        assert!(!after.suppresses(&record([20, 20, 8], [1, 2])));
        for _ in 0..2 {
            assert!(after.suppresses(&call));
        }
    }
}
