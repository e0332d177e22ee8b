//! `lake.json`: what a lake is. Written once, and compared by every run.

use serde::{Deserialize, Serialize};

/// Version of the lake's own files that this program writes.
pub const FORMAT: u32 = 1;

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
    /// The first key of the configuration that makes `self`, what a run wants, another lake than
    /// `existing`: its name, what the lake has, and what the run has.
    pub fn difference(&self, existing: &Self) -> Option<(&'static str, String, String)> {
        let shown =
            |value: &Option<String>| value.clone().unwrap_or_else(|| "(not set)".to_owned());
        let pairs = [
            (
                "lake.account",
                shown(&existing.account),
                shown(&self.account),
            ),
            (
                "source.disposition",
                existing.disposition.clone(),
                self.disposition.clone(),
            ),
            (
                "source.sip_trunk",
                shown(&existing.sip_trunk),
                shown(&self.sip_trunk),
            ),
            (
                "source.from_search",
                shown(&existing.from_search),
                shown(&self.from_search),
            ),
            (
                "source.to_search",
                shown(&existing.to_search),
                shown(&self.to_search),
            ),
            (
                "privacy.numbers",
                existing.privacy.clone(),
                self.privacy.clone(),
            ),
            (
                "privacy.key",
                shown(&existing.privacy_key_id),
                shown(&self.privacy_key_id),
            ),
        ];
        pairs
            .into_iter()
            .find(|(_, existing, wanted)| existing != wanted)
    }
}
