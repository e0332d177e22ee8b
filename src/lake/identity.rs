//! `lake.json`: what a lake is. Written once, and compared by every run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cdr::columns::SCHEMA_VERSION;

/// Version of the lake's own files that this program writes. What a later one wrote is left alone.
pub(crate) const FORMAT: u32 = 1;

// Replaced by this version, a file with columns of a later one would lose them: columns of another
// version come in a lake of another format.
const _: () = assert!(FORMAT >= SCHEMA_VERSION);

/// What the rows of a lake mean. Two runs that differ here would mix lakes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of the lake's own files.
    pub format: u32,
    /// `lake.account`: a label for whose calls these are.
    pub account: Option<String>,
    /// What the source is asked with. Which filters there are is the source's business.
    pub source: Vec<Filter>,
    /// `privacy.numbers`.
    pub privacy: String,
    /// The columns of which the numbers become something else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub privacy_columns: BTreeMap<String, String>,
    /// Which key pseudonyms were made with.
    #[serde(default)]
    pub privacy_key_id: Option<String>,
    /// For the record: `source.url` when the lake was made. Hosts move.
    pub source_url: String,
    /// For the record: `window.timezone` when the lake was made.
    pub timezone: String,
    /// For the record: the version of this program that made the lake.
    pub created_by: String,
}

/// A filter of the source, which has a part of the calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Its key below `source.`.
    pub name: String,
    /// What it is set to; if it is a number, as the lake may hold it.
    pub value: String,
    /// Whether it is a phone number, which errors do not show.
    pub is_number: bool,
}

impl Identity {
    /// What becomes of the numbers of a column.
    fn privacy_of(&self, column: &str) -> &str {
        self.privacy_columns.get(column).unwrap_or(&self.privacy)
    }

    /// The first key of the configuration that makes `self`, what a run wants, another lake than
    /// `existing`: its name, what the lake has, and what the run has. Numbers are not shown.
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
            Some(id) if key == "privacy.key" => format!("the key with the id {id}"),
            Some(text) => text.to_owned(),
        };
        let existing = shown(existing, "another number");
        let wanted = shown(wanted, "one number");
        Some((key, existing, wanted))
    }
}
