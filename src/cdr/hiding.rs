//! Applies privacy to records: which fields hold phone numbers, and how each is hidden.

use std::borrow::Cow;

use super::columns::Kind;
use super::decode::{Record, TextClass};
use crate::privacy::{Credentials, Privacy};

impl Privacy {
    /// Whether a call belongs to an erased number. Its numbers may be plain, as the source sends
    /// them, or hidden, as the lake stores them.
    #[inline]
    pub fn suppresses(&self, record: &Record<'_>) -> bool {
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
    #[inline]
    pub fn hide(&self, record: &mut Record<'_>) {
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
