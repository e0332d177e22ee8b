//! Privacy, done to a record: which of its fields hold numbers, and of what kind each is.

use std::borrow::Cow;

use super::columns::Kind;
use super::decode::Record;
use crate::privacy::{Credentials, Privacy};

impl Privacy {
    /// Whether a call is one of a number that was erased: one that the source sends, or one of the lake, whose numbers may
    /// be hidden already.
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

    /// Does to a record what is to become of its numbers.
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
    /// Takes credentials out of a record that was decoded from `json`. Whether there were any.
    #[inline]
    pub fn redact(&self, record: &mut Record<'_>, json: &[u8]) -> bool {
        self.may_be_in(json) && self.redact_fields(record)
    }

    fn redact_fields(&self, record: &mut Record<'_>) -> bool {
        let mut is_any = false;
        for (kind, text) in record.texts_mut() {
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
