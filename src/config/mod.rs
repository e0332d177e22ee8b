//! The configuration: `pipeline.toml`, variables and flags, validated once.

mod example;
mod filters;
mod resolve;
mod secrets;
mod settings;
mod values;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use secrecy::{ExposeSecret, SecretString};
use toml::Value;
use url::Url;

use crate::TOOL;
use crate::cdr::period::PeriodUnit;
use crate::cdr::slice::Direction;
use crate::cdr::tally::Counts;
use crate::error::{counted, thousands};
use crate::lake::identity::{Filter, Identity};
use crate::lake::{CatalogOptions, TableFormat};
use crate::privacy::{Mode, Modes, Privacy, PrivacyKey};
use crate::slice_file::options::ParquetOptions;
use crate::store::location::Location;
pub(crate) use secrets::KeySource;
use settings::Settings;
pub use settings::{ConfigError, ConfigErrorKind};
#[cfg(test)]
pub(crate) use settings::{KEYS, OPEN_TABLE};
pub(crate) use settings::{Origin, variable};

/// The file read when `--config` names none.
pub(crate) const DEFAULT_FILE: &str = "pipeline.toml";

/// The whole configuration. `pipeline.toml` explains each key; the field names are the
/// keys.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "the fields are the keys of the configuration reference"
)]
pub struct Config {
    pub source: SourceConfig,
    pub window: WindowConfig,
    pub lake: LakeConfig,
    pub parquet: ParquetOptions,
    pub quality: QualityConfig,
    pub privacy: PrivacyConfig,
    pub limits: LimitsConfig,
    pub metrics: MetricsConfig,
}

/// `[source]`
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "the fields are the keys of the configuration reference"
)]
pub struct SourceConfig {
    pub url: Url,
    pub api_key: Option<KeySource>,
    pub via: Via,
    pub directions: Vec<Direction>,
    /// Those that are set or have a default, each of which is a key.
    pub filters: Vec<Filter>,
    pub requests: usize,
    /// `None` for no limit.
    pub requests_per_minute: Option<NonZeroU32>,
    pub max_attempts: u32,
    pub retry_base: Duration,
    pub retry_max: Duration,
    pub stall_timeout: Duration,
    pub max_elapsed: Duration,
    /// Bytes a second; zero for no floor.
    pub min_throughput: u64,
    /// Bytes that the server may send over HTTP/2 before they are read, all streams of a connection
    /// together. Not a key, but a tenth of `limits.memory`.
    pub window_bytes: u32,
    pub ca_file: Option<PathBuf>,
    pub compression: bool,
    /// `None` refuses times without an offset.
    pub assume_timezone: Option<TimeZone>,
}

/// `source.via`: from which of the API's resources calls are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The bulk export: one response for a slice.
    Stream,
    /// The paginated list: many requests for a slice.
    Pages,
    /// The export in CSV: one response for a slice.
    Csv,
}

/// `[window]`
#[derive(Clone, Debug)]
pub struct WindowConfig {
    pub start: Option<Date>,
    pub timezone: TimeZone,
    pub lookback_days: u32,
    pub settle_hours: u32,
    /// `None`: as the lake has it.
    pub slice: Option<PeriodUnit>,
}

/// `[lake]`
#[derive(Clone, Debug)]
pub struct LakeConfig {
    pub url: Location,
    /// The library's options by name, and where each was set.
    pub options: BTreeMap<String, (String, Origin)>,
    pub lease: Duration,
    pub file_mode: u32,
    pub account: Option<String>,
    /// `None`: as the lake has them.
    pub tables: Option<Vec<TableFormat>>,
    pub keep_replaced: Duration,
    /// `lake.iceberg.catalog`
    pub catalog: Option<CatalogOptions>,
}

/// `[quality]`
#[derive(Clone, Debug, PartialEq)]
pub struct QualityConfig {
    pub dedupe: bool,
    pub max_rejects: u64,
    pub max_reject_ratio: f64,
    pub fail_reject_ratio: f64,
    pub reconcile: Reconcile,
}

impl QualityConfig {
    /// Why a slice fails because of its rejects, and what to do about it; `None` if they are
    /// tolerated.
    pub fn refuses_rejects(&self, counts: &Counts) -> Option<String> {
        let Counts {
            rejected, records, ..
        } = *counts;
        #[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
        let ratio = rejected as f64 / records.max(1) as f64;
        let rejected_of = describe_rejects(rejected, records);
        if rejected > self.max_rejects && ratio > self.max_reject_ratio {
            Some(format!(
                "{rejected_of}, more than quality.max_rejects and quality.max_reject_ratio allow"
            ))
        } else if rejected > 0 && ratio >= self.fail_reject_ratio {
            Some(format!(
                "{rejected_of}, and quality.fail_reject_ratio is {}. Raise it to publish the slice \
                 without them",
                self.fail_reject_ratio
            ))
        } else {
            None
        }
    }
}

/// How many of the records of a slice were rejected, in words.
pub(crate) fn describe_rejects(rejected: u64, records: u64) -> String {
    let were = if rejected == 1 { "was" } else { "were" };
    let records = counted(records, "record", "records");
    format!("{} of {records} {were} rejected", thousands(rejected))
}

/// `quality.reconcile`: what happens when the provider's count is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconcile {
    /// The slice fails.
    Fail,
    /// The slice is committed, with a warning.
    Warn,
    /// The provider is not asked.
    Off,
}

/// `[privacy]`
#[derive(Clone, Debug)]
pub struct PrivacyConfig {
    /// `privacy.numbers`.
    pub numbers: Mode,
    /// The same column by column: each has a key of its own name.
    pub modes: Modes,
    /// Where the key for pseudonyms is to be had.
    pub key: Option<KeySource>,
    /// The key, once it was fetched: a program that prints it may ask the user.
    fetched: OnceLock<PrivacyKey>,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    pub max_record_bytes: usize,
    pub max_slice_bytes: u64,
    pub memory: usize,
    pub single_put_bytes: u64,
    /// Where the spool of a lake in an object store lies; on local disk it lies in the lake.
    pub spool_dir: PathBuf,
}

/// `[metrics]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    /// The file that runs of the program leave for a monitoring system; `None` for none.
    pub file: Option<PathBuf>,
}

/// Values given on the command line: key, value, and the flag that gave it.
pub(crate) type Overrides = Vec<(&'static str, String, &'static str)>;

impl Config {
    /// Reads the configuration: `file`, or `pipeline.toml` if there is one, then the environment,
    /// then `overrides`. Keys that none of them sets have these `defaults`.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that is wrong.
    pub fn load(
        file: Option<&Path>,
        overrides: &Overrides,
        defaults: &[(&str, &str)],
    ) -> Result<Self, ConfigError> {
        let mut settings = Settings::default();
        for (key, value) in defaults {
            settings.set(key, Value::String((*value).to_owned()), Origin::Program);
        }
        match file {
            Some(file) => settings.read_file(file)?,
            None if Path::new(DEFAULT_FILE).exists() => {
                settings.read_file(Path::new(DEFAULT_FILE))?;
            }
            None => {}
        }
        let mut variables = Vec::new();
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            match value.into_string() {
                Ok(value) => variables.push((name, value)),
                Err(_) => {
                    if let Some(warning) = settings::refuse_variable(name)? {
                        tracing::warn!("{warning}");
                    }
                }
            }
        }
        let variables = variables.into_iter();
        for warning in settings.read_variables(variables) {
            tracing::warn!("{warning}");
        }
        Self::with_overrides(settings, overrides)
    }

    /// A configuration of these keys and values only, for programs that embed the library: keys by
    /// their names, such as `lake.url`, and values in the form that variables have.
    ///
    /// # Errors
    /// [`ConfigError`] for the first wrong value, and for an unknown key.
    pub fn from_keys<K: AsRef<str>, V: Into<String>>(
        keys: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ConfigError> {
        let mut settings = Settings::default();
        for (key, value) in keys {
            settings.set_by_name(key.as_ref(), value.into())?;
        }
        resolve::resolve(&settings)
    }

    fn with_overrides(mut settings: Settings, overrides: &Overrides) -> Result<Self, ConfigError> {
        for (key, value, flag) in overrides {
            settings.set(key, Value::String(value.clone()), Origin::Flag(flag));
        }
        resolve::resolve(&settings)
    }

    /// What the lake is by this configuration, whose privacy is `privacy`.
    pub fn identity(&self, privacy: &Privacy) -> Identity {
        let numbers = self.privacy.numbers;
        let columns = privacy.modes().by_column();
        let others = columns.into_iter().filter(|(_, mode)| *mode != numbers);
        let mut filters = self.source.filters.clone();
        // In a lake without numbers, the filter must not contain them either.
        for filter in filters.iter_mut().filter(|filter| filter.is_number) {
            filter.value = privacy.hide_filter(&filter.value);
        }
        Identity {
            format: Identity::format_of(self.window.slice),
            account: self.lake.account.clone(),
            tables: self.lake.tables.clone(),
            slice: self.window.slice,
            converting: None,
            converting_run: None,
            source: filters,
            privacy: numbers.as_str().to_owned(),
            privacy_columns: others
                .map(|(column, mode)| (column.to_owned(), mode.as_str().to_owned()))
                .collect(),
            privacy_key_id: privacy.key_id().map(str::to_owned),
            source_url: self.source.url.to_string(),
            timezone: timezone_name(&self.window.timezone),
            created_by: TOOL.to_owned(),
        }
    }

    /// What becomes of phone numbers. Fetches the key of pseudonyms if some are made, or
    /// `needs_key`.
    ///
    /// # Errors
    /// [`ConfigError`] if there is no key, or none that will do. The text never holds it.
    pub fn privacy(&self, needs_key: bool) -> Result<Privacy, ConfigError> {
        let modes = self.privacy.modes;
        // A lake without numbers stores its filter as a hash.
        let has_filter = self.source.number_filters().next().is_some();
        let needs_key = needs_key
            || modes.include(Mode::Pseudonymize)
            || (has_filter && modes.include(Mode::Truncate));
        if !needs_key {
            return Ok(Privacy::new(modes, None));
        }
        if let Some(key) = self.privacy.fetched.get() {
            return Ok(Privacy::new(modes, Some(key.clone())));
        }
        let wrong = |problem: String| ConfigError::new(Origin::Unset, problem);
        let Some(source) = &self.privacy.key else {
            let problem = "privacy.key is not set, but pseudonyms, erased numbers and filters by \
                 number need a key. Create one with: openssl rand -hex 32. Set privacy.key to its \
                 place, for example to { env = \"CDR_PRIVACY_KEY\" }. Keep the key as long as the \
                 lake";
            return Err(wrong(problem.to_owned()));
        };
        if let (KeySource::File(file), Location::Directory(root)) = (source, &self.lake.url)
            && let (Ok(file), Ok(root)) = (file.canonicalize(), root.canonicalize())
            && file.starts_with(root)
        {
            let file = file.display();
            return Err(wrong(format!(
                "privacy.key: {file} is inside the lake, which others copy and read. Keep the key \
                 elsewhere"
            )));
        }
        let key = source.read("privacy.key").map_err(wrong)?;
        let key = PrivacyKey::try_new(key.expose_secret())
            .map_err(|problem| wrong(format!("privacy.key: {source}: {problem}")))?;
        let key = self.privacy.fetched.get_or_init(|| key);
        Ok(Privacy::new(modes, Some(key.clone())))
    }

    /// Fetches the API key from the place that the configuration names.
    ///
    /// # Errors
    /// [`ConfigError`] if there is no key, or it is not valid. The text never contains it.
    pub fn api_key(&self) -> Result<SecretString, ConfigError> {
        let wrong = |problem: String| ConfigError::new(Origin::Unset, problem);
        let Some(source) = &self.source.api_key else {
            return Err(ConfigError::missing("source.api_key"));
        };
        source.read("source.api_key").map_err(wrong)
    }
}

/// The zone's IANA name.
pub(crate) fn timezone_name(timezone: &TimeZone) -> String {
    timezone.iana_name().unwrap_or("UTC").to_owned()
}

#[cfg(test)]
mod tests;
