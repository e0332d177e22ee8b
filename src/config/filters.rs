//! The filters of the source: which calls it is asked for.

use super::settings::Settings;
use super::{ConfigError, SourceConfig, values};
use crate::lake::identity::Filter;

/// The API's filters: the name of each, which below `source.` is that of its key too, what it is if
/// it is not set, and whether it is a phone number.
const FILTERS: [(&str, Option<&str>, bool); 4] = [
    // Left out, only answered calls would come.
    ("disposition", Some("all"), false),
    ("sip_trunk", None, false),
    ("from_search", None, true),
    ("to_search", None, true),
];

/// The filters that are set, or have a default.
pub(super) fn filters(settings: &Settings) -> Result<Vec<Filter>, ConfigError> {
    let mut filters = Vec::new();
    for (name, default, is_number) in FILTERS {
        let set = settings.get(&format!("source.{name}"), values::text)?;
        let value = set.or_else(|| default.map(str::to_owned));
        filters.extend(value.map(|value| Filter {
            name: name.to_owned(),
            value,
            is_number,
        }));
    }
    Ok(filters)
}

impl SourceConfig {
    /// The name of the first filter that is not at its default: calls are left out.
    pub(crate) fn changed_filter(&self) -> Option<&str> {
        let is_default = |it: &Filter| FILTERS.contains(&(&it.name, Some(&it.value), it.is_number));
        let changed = self.filters.iter().find(|filter| !is_default(filter));
        changed.map(|filter| &*filter.name)
    }

    /// The filters that are phone numbers.
    pub(crate) fn number_filters(&self) -> impl Iterator<Item = &Filter> {
        self.filters.iter().filter(|filter| filter.is_number)
    }
}
