//! Where a value of the configuration comes from: flag over variable over file over default.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Value;
use toml::de::{DeTable, DeValue};

use crate::error::nearest;

/// Every key. Other keys (except those below [`OPEN_TABLE`]) are rejected.
pub(crate) const KEYS: &[&str] = &[
    "source.url",
    "source.api_key.env",
    "source.api_key.file",
    "source.api_key.command",
    "source.via",
    "source.directions",
    "source.disposition",
    "source.sip_trunk",
    "source.from_search",
    "source.to_search",
    "source.requests",
    "source.requests_per_minute",
    "source.max_attempts",
    "source.retry_base",
    "source.retry_max",
    "source.stall_timeout",
    "source.max_elapsed",
    "source.min_throughput",
    "source.allow_http",
    "source.ca_file",
    "source.compression",
    "source.assume_timezone",
    "window.start",
    "window.timezone",
    "window.lookback_days",
    "window.settle_hours",
    "window.slice",
    "lake.url",
    "lake.lease",
    "lake.file_mode",
    "lake.account",
    "lake.tables",
    "lake.keep_replaced",
    "lake.iceberg.catalog.url",
    "lake.iceberg.catalog.warehouse",
    "lake.iceberg.catalog.namespace",
    "lake.iceberg.catalog.table",
    "lake.iceberg.catalog.credential.env",
    "lake.iceberg.catalog.credential.file",
    "lake.iceberg.catalog.credential.command",
    "lake.iceberg.catalog.scope",
    "lake.iceberg.catalog.token_url",
    "lake.iceberg.catalog.allow_http",
    "parquet.compression",
    "parquet.row_group_rows",
    "parquet.row_group_bytes",
    "quality.dedupe",
    "quality.max_rejects",
    "quality.max_reject_ratio",
    "quality.fail_reject_ratio",
    "quality.reconcile",
    "privacy.numbers",
    "privacy.from_number",
    "privacy.to_number",
    "privacy.destination",
    "privacy.extra",
    "privacy.key.env",
    "privacy.key.file",
    "privacy.key.command",
    "limits.max_record_bytes",
    "limits.max_slice_bytes",
    "limits.memory",
    "limits.single_put_bytes",
    "limits.spool_dir",
    "metrics.file",
];

/// The tables of the file.
const SECTIONS: [&str; 8] = [
    "source", "window", "lake", "parquet", "quality", "privacy", "limits", "metrics",
];

/// The one table whose keys are not ours but the object store's.
pub(crate) const OPEN_TABLE: &str = "lake.options";
/// Tables of which one key excludes the others, with a variable's name for an example.
const KEY_GROUPS: [(&str, &str); 3] = [
    ("source.api_key", "WAVIX_API_KEY"),
    ("privacy.key", "CDR_PRIVACY_KEY"),
    ("lake.iceberg.catalog.credential", "ICEBERG_CREDENTIAL"),
];
/// Prefix of the variables that override keys.
const VARIABLE_PREFIX: &str = "CDRLAKE_";
/// Variables with that prefix that are no keys.
const OTHER_VARIABLES: &[&str] = &["CDRLAKE_LOG"];

/// What it means that the value of a variable is not UTF-8: for a key an error, for another with
/// our prefix a warning.
pub(super) fn refuse_variable(name: String) -> Result<Option<String>, ConfigError> {
    let options = variable(&format!("{OPEN_TABLE}."));
    if KEYS.iter().any(|key| variable(key) == name) || name.starts_with(&options) {
        let problem = "the value is not UTF-8. Set another value, or unset it";
        return Err(ConfigError::new(Origin::Variable(name), problem));
    }
    let is_ours = name.starts_with(VARIABLE_PREFIX) && !is_of_kubernetes(&name);
    Ok(is_ours.then(|| format!("{name} is ignored, because its value is not UTF-8")))
}

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A command-line flag.
    Flag(&'static str),
    /// The program that uses this library.
    Program,
    /// Nowhere.
    Unset,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}, line {line}: ", path.display()),
            Self::Variable(name) => write!(f, "variable {name}: "),
            Self::Flag(name) => write!(f, "flag {name}: "),
            Self::Program | Self::Unset => Ok(()),
        }
    }
}

/// The configuration is wrong. Never quotes a value that could be the API key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}{problem}")]
pub struct ConfigError {
    /// Where to look.
    pub origin: Origin,
    /// What is wrong, and what would be right.
    pub problem: String,
    /// The kind of problem.
    pub kind: ConfigErrorKind,
}

/// Kinds of problems with the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// A value or key is wrong.
    Invalid,
    /// A key that has no default is not set.
    Missing(&'static str),
    /// The file cannot be read.
    Unreadable,
}

impl ConfigError {
    /// A value or key that `origin` set is wrong.
    pub fn new(origin: Origin, problem: impl Into<String>) -> Self {
        Self {
            origin,
            problem: problem.into(),
            kind: ConfigErrorKind::Invalid,
        }
    }

    /// `key` has no default, and is not set.
    pub(super) fn missing(key: &'static str) -> Self {
        Self {
            kind: ConfigErrorKind::Missing(key),
            ..Self::new(Origin::Unset, format!("{key} is not set"))
        }
    }
}

/// Values by key, the strongest of each.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    values: BTreeMap<String, (Value, Origin)>,
}

impl Settings {
    /// Adds the file's values.
    pub(super) fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let file = |line| Origin::File {
            path: path.to_owned(),
            line,
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            let path = path.display();
            let problem = format!("cannot read the configuration {path}: {error}");
            ConfigError {
                kind: ConfigErrorKind::Unreadable,
                ..ConfigError::new(Origin::Unset, problem)
            }
        })?;
        let line_of = |offset: usize| {
            text.bytes()
                .take(offset)
                .filter(|&byte| byte == b'\n')
                .count()
                + 1
        };
        // The error's own display quotes the line, which might hold a key that should not be there.
        let syntax = |error: toml::de::Error| {
            let line = error.span().map_or(1, |span| line_of(span.start));
            ConfigError::new(
                file(line),
                format!(
                    "not valid TOML: {}",
                    error.message().lines().collect::<Vec<_>>().join(" ")
                ),
            )
        };
        let mut values = toml::from_str::<toml::Table>(&text).map_err(syntax)?;
        let spans = DeTable::parse(&text).map_err(syntax)?;
        let mut lines = BTreeMap::new();
        collect_lines(spans.get_ref(), "", &line_of, &mut lines);
        self.add_table(&mut values, "", &|key| {
            file(lines.get(key).copied().unwrap_or(1))
        })
    }

    fn add_table(
        &mut self,
        table: &mut toml::Table,
        prefix: &str,
        origin: &dyn Fn(&str) -> Origin,
    ) -> Result<(), ConfigError> {
        for (name, value) in std::mem::take(table) {
            let key = format!("{prefix}{name}");
            let below = |known: &&str| {
                known
                    .strip_prefix(&key)
                    .is_some_and(|rest| rest.starts_with('.'))
            };
            let is_table = key == OPEN_TABLE
                || OPEN_TABLE.starts_with(&format!("{key}."))
                || KEYS.iter().any(below);
            match value {
                Value::Table(mut table) if is_table => {
                    self.add_table(&mut table, &format!("{key}."), origin)?;
                }
                _ if let Some((_, variable)) =
                    KEY_GROUPS.iter().find(|(group, _)| key == *group) =>
                {
                    return Err(ConfigError::new(
                        origin(&key),
                        format!(
                            "{key} must not contain the key itself. Write {{ env = \"{variable}\" \
                             }}, {{ file = \"…\" }} or {{ command = [\"…\"] }}"
                        ),
                    ));
                }
                _ if is_table => {
                    return Err(ConfigError::new(
                        origin(&key),
                        format!("{key} is a section. Write [{key}] on a line of its own"),
                    ));
                }
                value => {
                    if !is_key(&key) {
                        return Err(ConfigError::new(
                            origin(&key),
                            unknown(&key, KEYS.iter().copied().chain(SECTIONS)),
                        ));
                    }
                    let origin = origin(&key);
                    self.values.insert(key, (value, origin));
                }
            }
        }
        Ok(())
    }

    /// Adds the values of environment variables, and returns warnings about unknown ones. These are
    /// not errors: other programs may have set them.
    pub(super) fn read_variables(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Vec<String> {
        let mut names: Vec<(String, &str)> = KEYS.iter().map(|key| (variable(key), *key)).collect();
        names.sort();
        let mut warnings = Vec::new();
        for (name, value) in variables.filter(|(name, _)| name.starts_with(VARIABLE_PREFIX)) {
            if OTHER_VARIABLES.contains(&name.as_str()) || is_of_kubernetes(&name) {
                continue;
            }
            if let Some(option) = name.strip_prefix(&variable(&format!("{OPEN_TABLE}."))) {
                let key = format!("{OPEN_TABLE}.{}", option.to_lowercase());
                self.set(&key, Value::String(value), Origin::Variable(name));
                continue;
            }
            match names.binary_search_by(|(known, _)| known.as_str().cmp(&name)) {
                Ok(found) => {
                    let key = names[found].1;
                    self.set(key, Value::String(value), Origin::Variable(name));
                }
                Err(_) => {
                    let bare = |name: &'_ str| name.trim_start_matches(VARIABLE_PREFIX).to_owned();
                    let known: Vec<String> = names.iter().map(|(known, _)| bare(known)).collect();
                    let known = known.iter().map(String::as_str);
                    let hint = nearest(&bare(&name), known).map_or_else(
                        || LIST_OF_KEYS.to_owned(),
                        |known| format!("Did you mean {VARIABLE_PREFIX}{known}?"),
                    );
                    warnings.push(format!(
                        "{name} is ignored, because there is no such key. {hint}"
                    ));
                }
            }
        }
        warnings
    }

    /// Sets a key that a program names.
    pub(super) fn set_by_name(&mut self, key: &str, value: String) -> Result<(), ConfigError> {
        if !is_key(key) {
            let problem = unknown(key, KEYS.iter().copied());
            return Err(ConfigError::new(Origin::Program, problem));
        }
        self.set(key, Value::String(value), Origin::Program);
        Ok(())
    }

    /// Sets one key, and replaces its earlier value.
    pub(super) fn set(&mut self, key: &str, value: Value, origin: Origin) {
        if let Some((group, _)) = KEY_GROUPS.iter().find(|(group, _)| key.starts_with(group)) {
            let same_layer =
                |from: &Origin| std::mem::discriminant(from) == std::mem::discriminant(&origin);
            self.values
                .retain(|other, (_, from)| !other.starts_with(group) || same_layer(from));
        }
        self.values.insert(key.to_owned(), (value, origin));
    }

    pub(super) fn origin(&self, key: &str) -> Origin {
        self.values
            .get(key)
            .map_or(Origin::Unset, |(_, origin)| origin.clone())
    }

    /// The object store's options by name, as text, and where each was set.
    pub(super) fn options(&self) -> Result<BTreeMap<String, (String, Origin)>, ConfigError> {
        let prefix = format!("{OPEN_TABLE}.");
        let options = self.values.iter().filter_map(|(key, found)| {
            let name = key.strip_prefix(&prefix)?;
            Some((key, name, found))
        });
        options
            .map(|(key, name, (value, origin))| {
                let text = match value {
                    Value::String(text) => text.clone(),
                    Value::Boolean(value) => value.to_string(),
                    Value::Integer(value) => value.to_string(),
                    _ => {
                        let problem = format!("{key} is not a text, a number, true or false");
                        return Err(ConfigError::new(origin.clone(), problem));
                    }
                };
                Ok((name.to_lowercase(), (text, origin.clone())))
            })
            .collect()
    }

    /// A key's value, or `None` if it is not set.
    pub(super) fn get<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        debug_assert!(KEYS.contains(&key), "{key} is missing from KEYS");
        let Some((value, origin)) = self.values.get(key) else {
            return Ok(None);
        };
        parse(value)
            .map(Some)
            .map_err(|problem| ConfigError::new(origin.clone(), format!("{key} {problem}")))
    }
}

/// The variable that overrides a key.
pub(crate) fn variable(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// Whether Kubernetes sets this variable, for a Service that is named like this program.
fn is_of_kubernetes(name: &str) -> bool {
    let rest = name.strip_prefix(VARIABLE_PREFIX).unwrap_or_default();
    let is_of = |what: &str| {
        let more = rest.strip_prefix(what);
        more.is_some_and(|more| more.is_empty() || more.starts_with('_'))
    };
    is_of("SERVICE_HOST") || is_of("SERVICE_PORT") || is_of("PORT")
}

fn collect_lines(
    table: &DeTable<'_>,
    prefix: &str,
    line_of: &dyn Fn(usize) -> usize,
    lines: &mut BTreeMap<String, usize>,
) {
    for (name, value) in table {
        let key = format!("{prefix}{}", name.get_ref());
        lines.insert(key.clone(), line_of(name.span().start));
        if let DeValue::Table(table) = value.get_ref() {
            collect_lines(table, &format!("{key}."), line_of, lines);
        }
    }
}

/// Where all names are found.
const LIST_OF_KEYS: &str = "docs/configuration.md lists them all";

/// Whether a key exists.
fn is_key(key: &str) -> bool {
    let option = key
        .strip_prefix(OPEN_TABLE)
        .and_then(|rest| rest.strip_prefix('.'));
    KEYS.contains(&key) || option.is_some()
}

/// The message for an unknown key, with the nearest known one.
fn unknown<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> String {
    let hint = nearest(given, known).map_or_else(
        || LIST_OF_KEYS.to_owned(),
        |known| format!("Did you mean {known}?"),
    );
    format!("there is no key {given}. {hint}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{load_with, problem};
    use super::*;
    use crate::cdr::slice::Direction;
    use crate::config::Overrides;

    #[test]
    fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
        let file = "[lake]\nurl = 'a'\n[source]\nrequests = 2\nretry_base = '2s'";
        let variables = [
            ("CDRLAKE_SOURCE_REQUESTS", "3"),
            ("CDRLAKE_SOURCE_RETRY_BASE", "3s"),
            ("CDRLAKE_SOURCE_DIRECTIONS", "received, placed"),
        ];
        let flags = vec![("source.requests", "5".to_owned(), "--requests")];
        let config = load_with(file, &variables, &flags).unwrap();
        assert_eq!(config.source.requests, 5);
        assert_eq!(config.source.retry_base, Duration::from_secs(3));
        assert_eq!(config.source.directions, Direction::ALL);
        let error = load_with(
            file,
            &[("CDRLAKE_SOURCE_REQUESTS", "many")],
            &Overrides::new(),
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "variable CDRLAKE_SOURCE_REQUESTS: source.requests is not a whole number"
        );
        let error = load_with(
            file,
            &[],
            &vec![("source.requests", "0".to_owned(), "--requests")],
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "flag --requests: source.requests is 0: it must be at least 1"
        );
        let small = [("CDRLAKE_PARQUET_ROW_GROUP_ROWS", "999")];
        let error = load_with(file, &small, &Overrides::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "variable CDRLAKE_PARQUET_ROW_GROUP_ROWS: parquet.row_group_rows is 999: it must be at \
             least 1000"
        );
    }

    #[test]
    fn an_unknown_key_is_reported_with_its_line_and_the_most_similar_known_one() {
        assert_eq!(
            problem("[lake]\nurl = 'x'\n\n[source]\nretry_bose = '1s'"),
            "line 5: there is no key source.retry_bose. Did you mean source.retry_base?"
        );
        assert_eq!(
            problem("[lake]\nmax_rejects = 1"),
            "line 2: there is no key lake.max_rejects. Did you mean quality.max_rejects?"
        );
        assert_eq!(
            problem("[sourc]\nurl = 1"),
            "line 1: there is no key sourc. Did you mean source?"
        );
        let mut settings = Settings::default();
        let variables = ["CDRLAKE_LAKE_ULR", "CDRLAKE_PORTS", "CDRLAKE_PORT"];
        let warnings = settings.read_variables(
            variables
                .into_iter()
                .map(|name| (name.to_owned(), "y".to_owned())),
        );
        assert_eq!(
            warnings[0],
            "CDRLAKE_LAKE_ULR is ignored, because there is no such key. Did you mean \
             CDRLAKE_LAKE_URL?"
        );
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(
            load_with(
                "lake.url = 'x'",
                &[("CDRLAKE_LOG", "debug")],
                &Overrides::new()
            )
            .is_ok()
        );
    }

    #[test]
    fn the_api_key_in_the_configuration_is_refused_and_not_quoted() {
        for text in [
            "[source]\napi_key = 'SECRET'",
            "[source]\napi_key = { key = 'SECRET' }",
            "[privacy]\nkey = 'SECRET'",
            "[source]\napi_key = 'SECRET",
            "[source]\nkey = 'SECRET'",
        ] {
            let problem = problem(text);
            assert!(!problem.contains("SECRET"), "{problem}");
            assert!(problem.starts_with("line 2"), "{problem}");
        }
        let variable = ("CDRLAKE_SOURCE_API_KEY".to_owned(), "SECRET".to_owned());
        let warnings = Settings::default().read_variables([variable].into_iter());
        let warning = "CDRLAKE_SOURCE_API_KEY is ignored, because there is no such key. Did you \
             mean \
             CDRLAKE_SOURCE_API_KEY_ENV?";
        assert_eq!(warnings, [warning]);
    }
}
