//! `lake.json`: the identity of a lake. Written once, and compared by every run.

use std::collections::BTreeMap;

use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::table::TableForm;
use super::table_log::TableFormat;
use crate::cdr::columns::SCHEMA_VERSION;
use crate::cdr::period::PeriodUnit;
use crate::privacy::{Mode, Modes};
use crate::store::layout;

/// Format version of the lake's metadata files. Files of a later version are not changed.
pub(crate) const FORMAT: u32 = 1;

/// The format of `lake.json` in a lake of months, so that programs that only know days refuse it.
const MONTHS_FORMAT: u32 = 2;

/// The last format that this program reads of the file at `path`.
pub(super) fn last_format(path: &Path) -> u32 {
    if *path == layout::identity() {
        MONTHS_FORMAT
    } else {
        FORMAT
    }
}

// A new version of the columns requires a new format, because an older program would drop the new
// columns when it replaces a file.
const _: () = assert!(FORMAT >= SCHEMA_VERSION);

/// What determines the meaning of a lake's rows. Runs that differ here need different lakes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of the lake's own files.
    pub format: u32,
    /// `lake.account`: the label of the account.
    pub account: Option<String>,
    /// Filters of the source, which defines them.
    pub source: Vec<Filter>,
    /// `privacy.numbers`.
    pub privacy: String,
    /// Columns with a policy of their own for phone numbers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub privacy_columns: BTreeMap<String, String>,
    /// ID of the key for pseudonyms.
    #[serde(default)]
    pub privacy_key_id: Option<String>,
    /// `lake.tables`: the table formats whose logs the lake has. `None` in a wanted identity: as
    /// the lake has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<Vec<TableFormat>>,
    /// `window.slice`: the period of the lake's slices. `None` in a wanted identity: as the lake
    /// has it. A new lake has days then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<PeriodUnit>,
    /// The lake is being converted to slices of this period, and nothing else may write to it. In a
    /// wanted identity: this process converts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub converting: Option<PeriodUnit>,
    /// The run that converts it: the last one that began to. It alone may give that up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub converting_run: Option<String>,
    /// For information: `source.url` when the lake was created. Hosts may change.
    pub source_url: String,
    /// For information: `window.timezone` when the lake was created.
    pub timezone: String,
    /// For information: the version of cdrlake that created the lake.
    pub created_by: String,
}

/// A filter of the source, which selects part of the calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Its key below `source.`.
    pub name: String,
    /// Its value. A phone number is stored as the lake's privacy policy allows.
    pub value: String,
    /// Whether it is a phone number, which error messages must not contain.
    pub is_number: bool,
}

impl Identity {
    /// The table formats whose logs the lake has.
    pub fn tables(&self) -> &[TableFormat] {
        self.tables.as_deref().unwrap_or_default()
    }

    /// The period of the lake's slices.
    pub fn period_unit(&self) -> PeriodUnit {
        self.slice.unwrap_or_default()
    }

    /// The format of its `lake.json`.
    pub(crate) fn format_of(slice: Option<PeriodUnit>) -> u32 {
        match slice {
            Some(PeriodUnit::Month) => MONTHS_FORMAT,
            Some(PeriodUnit::Day) | None => FORMAT,
        }
    }

    /// Which entries and files the lake has. A run must not continue when this has changed.
    pub(super) fn form(&self) -> (&[TableFormat], PeriodUnit, Option<PeriodUnit>) {
        (self.tables(), self.period_unit(), self.converting)
    }

    /// How the table's files are named.
    pub(super) fn table_form(&self) -> TableForm {
        if self.tables().is_empty() {
            TableForm::Plain
        } else {
            TableForm::Immutable
        }
    }

    /// How numbers are stored in each column.
    pub(crate) fn privacy_modes(&self) -> Modes {
        let mode = |column| Mode::named(self.privacy_of(column)).unwrap_or_default();
        Modes {
            from_number: mode("from_number"),
            to_number: mode("to_number"),
            destination: mode("destination"),
            extra: mode("extra"),
        }
    }

    /// The policy for phone numbers of a column.
    fn privacy_of(&self, column: &str) -> &str {
        self.privacy_columns.get(column).unwrap_or(&self.privacy)
    }

    /// The first key of the configuration in which `self`, the identity that a run wants, differs
    /// from `existing`: its name, the lake's value, and the run's value. Phone numbers are hidden.
    pub fn difference<'a>(&'a self, existing: &'a Self) -> Option<(String, String, String)> {
        type Value = fn(&Identity) -> Option<&str>;
        let pair = |key: &str, value: Value| (key.to_owned(), false, value(self), value(existing));
        let filters = self.source.iter().chain(&existing.source).map(|filter| {
            let same = |it: &&Filter| it.name == filter.name;
            let value = |lake: &'a Self| Some(&*lake.source.iter().find(same)?.value);
            let key = format!("source.{}", filter.name);
            (key, filter.is_number, value(self), value(existing))
        });
        let columns = ["from_number", "to_number", "destination", "extra"].map(|column| {
            let value = |lake: &'a Self| Some(lake.privacy_of(column));
            let key = format!("privacy.{column}");
            (key, false, value(self), value(existing))
        });
        let mut keys = std::iter::once(pair("lake.account", |lake| lake.account.as_deref()))
            .chain(filters)
            .chain([pair("privacy.numbers", |lake| Some(&lake.privacy))])
            .chain(columns)
            .chain([pair("privacy.key", |lake| lake.privacy_key_id.as_deref())]);
        let (key, is_number, wanted, existing) =
            keys.find(|(_, _, wanted, existing)| wanted != existing)?;
        let shown = |value: Option<&str>, number: &str| match value {
            None => "(not set)".to_owned(),
            Some(_) if is_number => number.to_owned(),
            Some(id) if key == "privacy.key" => format!("the key with ID {id}"),
            Some(text) => text.to_owned(),
        };
        let existing = shown(existing, "another number");
        let wanted = shown(wanted, "one number");
        Some((key, existing, wanted))
    }
}
