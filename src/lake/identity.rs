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
    /// `source.disposition`.
    pub disposition: String,
    /// `source.sip_trunk`.
    pub sip_trunk: Option<String>,
    /// `source.from_search`.
    pub from_search: Option<String>,
    /// `source.to_search`.
    pub to_search: Option<String>,
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

impl Identity {
    /// What becomes of the numbers of a column.
    fn privacy_of(&self, column: &str) -> &str {
        self.privacy_columns.get(column).unwrap_or(&self.privacy)
    }

    /// The first key of the configuration that makes `self`, what a run wants, another lake than
    /// `existing`: its name, what the lake has, and what the run has. Numbers are not shown.
    pub fn difference(&self, existing: &Self) -> Option<(&'static str, String, String)> {
        type Value = fn(&Identity) -> Option<&str>;
        let keys: [(&'static str, Value); 11] = [
            ("lake.account", |lake| lake.account.as_deref()),
            ("source.disposition", |lake| Some(&lake.disposition)),
            ("source.sip_trunk", |lake| lake.sip_trunk.as_deref()),
            ("source.from_search", |lake| lake.from_search.as_deref()),
            ("source.to_search", |lake| lake.to_search.as_deref()),
            ("privacy.numbers", |lake| Some(&lake.privacy)),
            ("privacy.from_number", |lake| {
                Some(lake.privacy_of("from_number"))
            }),
            ("privacy.to_number", |lake| {
                Some(lake.privacy_of("to_number"))
            }),
            ("privacy.destination", |lake| {
                Some(lake.privacy_of("destination"))
            }),
            ("privacy.extra", |lake| Some(lake.privacy_of("extra"))),
            ("privacy.key", |lake| lake.privacy_key_id.as_deref()),
        ];
        let (key, value) = keys
            .into_iter()
            .find(|(_, value)| value(existing) != value(self))?;
        let shown = |lake: &Self, number: &str| match value(lake) {
            None => "(not set)".to_owned(),
            Some(_) if key.ends_with("_search") => number.to_owned(),
            Some(id) if key == "privacy.key" => format!("the key with the id {id}"),
            Some(text) => text.to_owned(),
        };
        Some((
            key,
            shown(existing, "another number"),
            shown(self, "one number"),
        ))
    }
}
