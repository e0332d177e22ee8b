//! What each key means: its type, its default, and what goes with what.

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::tz::TimeZone;
use parquet::basic::{Compression, ZstdLevel};
use toml::Value;
use url::Url;

use super::filters::filters;
use super::secrets::{KeySource, key_source};
use super::settings::Settings;
use super::{
    Config, ConfigError, LakeConfig, LimitsConfig, MetricsConfig, PrivacyConfig, QualityConfig,
    Reconcile, SourceConfig, Via, WindowConfig, values,
};
use crate::body::reader::MAX_RECORD_BYTES;
use crate::cdr::period::PeriodUnit;
use crate::cdr::slice::Direction;
use crate::lake::{CatalogOptions, Credential, TableFormat};
use crate::privacy::{Mode, Modes};
use crate::slice_file::options::ParquetOptions;
use crate::store::MAX_LEASE_EXPIRY;
use crate::store::location::is_loopback;

/// Least rows of a row group: the footer has some kilobytes of each, and lies in memory until the
/// file is complete.
const MIN_ROW_GROUP_ROWS: i64 = 1_000;

/// The window that every connection of HTTP/2 begins with.
const MIN_WINDOW_BYTES: usize = (1 << 16) - 1;
/// [RFC 9113, section 6.9.1](https://www.rfc-editor.org/rfc/rfc9113#section-6.9.1).
const MAX_WINDOW_BYTES: usize = (1 << 31) - 1;

/// The configuration that `settings` make, with defaults for what they leave out.
///
/// # Errors
/// [`ConfigError`] for the first thing that is wrong.
pub(super) fn resolve(settings: &Settings) -> Result<Config, ConfigError> {
    let config = Config {
        source: source(settings)?,
        window: WindowConfig {
            start: settings.get("window.start", values::day)?,
            timezone: settings
                .get("window.timezone", timezone)?
                .unwrap_or(TimeZone::UTC),
            lookback_days: settings
                .get("window.lookback_days", lookback_days)?
                .unwrap_or(3),
            settle_hours: settings
                .get("window.settle_hours", values::integer(0))?
                .unwrap_or(24),
            slice: settings.get("window.slice", values::one_of(&PeriodUnit::ALL))?,
        },
        parquet: ParquetOptions {
            compression: settings
                .get("parquet.compression", compression)?
                .unwrap_or(Compression::ZSTD(ZstdLevel::default())),
            row_group_rows: settings
                .get(
                    "parquet.row_group_rows",
                    values::integer(MIN_ROW_GROUP_ROWS),
                )?
                .unwrap_or(1 << 20),
            row_group_bytes: settings
                .get("parquet.row_group_bytes", values::memory_bytes)?
                .unwrap_or(8 << 20),
        },
        quality: QualityConfig {
            dedupe: settings
                .get("quality.dedupe", values::boolean)?
                .unwrap_or(true),
            max_rejects: settings
                .get("quality.max_rejects", values::integer(0))?
                .unwrap_or(10),
            max_reject_ratio: settings
                .get("quality.max_reject_ratio", values::ratio)?
                .unwrap_or(0.001),
            fail_reject_ratio: settings
                .get("quality.fail_reject_ratio", values::positive_ratio)?
                .unwrap_or(0.1),
            reconcile: settings
                .get(
                    "quality.reconcile",
                    values::one_of(&[
                        ("fail", Reconcile::Fail),
                        ("warn", Reconcile::Warn),
                        ("off", Reconcile::Off),
                    ]),
                )?
                .unwrap_or(Reconcile::Fail),
        },
        privacy: privacy(settings)?,
        limits: limits(settings)?,
        metrics: MetricsConfig {
            file: settings.get("metrics.file", values::path)?,
        },
        // Last, so that errors in the file are reported before missing keys.
        lake: lake(settings)?,
    };
    if config.parquet.row_group_bytes > config.limits.memory {
        let problem =
            "parquet.row_group_bytes is more than limits.memory. Lower it, or raise limits.memory";
        return Err(ConfigError::new(
            settings.origin("parquet.row_group_bytes"),
            problem,
        ));
    }
    Ok(config)
}

fn privacy(settings: &Settings) -> Result<PrivacyConfig, ConfigError> {
    let mode = |key| settings.get(key, values::one_of(&Mode::ALL));
    let numbers = mode("privacy.numbers")?.unwrap_or_default();
    Ok(PrivacyConfig {
        numbers,
        modes: Modes {
            from_number: mode("privacy.from_number")?.unwrap_or(numbers),
            to_number: mode("privacy.to_number")?.unwrap_or(numbers),
            destination: mode("privacy.destination")?.unwrap_or(numbers),
            extra: mode("privacy.extra")?.unwrap_or(numbers),
        },
        key: key_source(
            settings,
            ["privacy.key.env", "privacy.key.file", "privacy.key.command"],
        )?,
        fetched: OnceLock::new(),
    })
}

fn memory(settings: &Settings) -> Result<usize, ConfigError> {
    let memory = settings.get("limits.memory", values::memory_bytes)?;
    Ok(memory.unwrap_or(256 << 20))
}

/// The HTTP/2 window for this `limits.memory`: a tenth, within what HTTP/2 allows.
fn window_bytes(memory: usize) -> u32 {
    let bytes = (memory / 10).clamp(MIN_WINDOW_BYTES, MAX_WINDOW_BYTES);
    u32::try_from(bytes).expect("the maximum is less")
}

fn limits(settings: &Settings) -> Result<LimitsConfig, ConfigError> {
    let memory = memory(settings)?;
    // Some are uploaded while others are fetched.
    let most = (memory as u64 / 4).max(1);
    let single_put_bytes = settings.get("limits.single_put_bytes", values::bytes)?;
    if single_put_bytes.is_some_and(|bytes| bytes > most) {
        let problem = "limits.single_put_bytes is more than a quarter of limits.memory, which \
             holds such files during their upload";
        let origin = settings.origin("limits.single_put_bytes");
        return Err(ConfigError::new(origin, problem));
    }
    let max_record_bytes = settings
        .get("limits.max_record_bytes", values::memory_bytes)?
        .unwrap_or(1 << 20);
    if max_record_bytes > MAX_RECORD_BYTES {
        let problem =
            "limits.max_record_bytes must be at most 256MiB: a column cannot hold longer texts";
        let origin = settings.origin("limits.max_record_bytes");
        return Err(ConfigError::new(origin, problem));
    }
    Ok(LimitsConfig {
        max_record_bytes,
        max_slice_bytes: settings
            .get("limits.max_slice_bytes", values::bytes)?
            .unwrap_or(100 << 30),
        memory,
        // What every store takes in one request is far more.
        single_put_bytes: single_put_bytes.unwrap_or(most.min(16 << 20)).min(5 << 30),
        spool_dir: settings
            .get("limits.spool_dir", values::path)?
            .unwrap_or_else(std::env::temp_dir),
    })
}

fn source(settings: &Settings) -> Result<SourceConfig, ConfigError> {
    let url = settings
        .get("source.url", |value| http_url(value, OF_SOURCE))?
        .unwrap_or_else(|| Url::parse("https://api.wavix.com").expect("a valid constant"));
    let allow_http = settings
        .get("source.allow_http", values::boolean)?
        .unwrap_or(false);
    if url.scheme() == "http" && !allow_http && !is_loopback(&url) {
        let problem = "source.url is plain http, which would send the API key and all calls \
             unencrypted. Use https, or set source.allow_http = true";
        return Err(ConfigError::new(settings.origin("source.url"), problem));
    }
    let directions = settings.get("source.directions", |value| {
        let mut directions = values::list(value)?
            .iter()
            .map(|text| {
                text.parse::<Direction>()
                    .map_err(|problem| format!("is wrong: {problem}"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        directions.sort_unstable();
        directions.dedup();
        if directions.is_empty() {
            Err("is empty: name \"placed\", \"received\" or both".to_owned())
        } else {
            Ok(directions)
        }
    })?;
    let config = SourceConfig {
        url,
        api_key: key_source(
            settings,
            [
                "source.api_key.env",
                "source.api_key.file",
                "source.api_key.command",
            ],
        )?,
        via: settings
            .get(
                "source.via",
                values::one_of(&[
                    ("stream", Via::Stream),
                    ("pages", Via::Pages),
                    ("csv", Via::Csv),
                ]),
            )?
            .unwrap_or(Via::Stream),
        directions: directions.unwrap_or_else(|| Direction::ALL.to_vec()),
        filters: filters(settings)?,
        requests: settings
            .get("source.requests", values::integer(1))?
            .unwrap_or(4),
        requests_per_minute: settings
            .get("source.requests_per_minute", values::integer(0))?
            .and_then(NonZeroU32::new),
        max_attempts: settings
            .get("source.max_attempts", values::integer(1))?
            .unwrap_or(8),
        retry_base: settings
            .get("source.retry_base", values::duration)?
            .unwrap_or(Duration::from_secs(1)),
        retry_max: settings
            .get("source.retry_max", values::duration)?
            .unwrap_or(Duration::from_mins(1)),
        stall_timeout: settings
            .get("source.stall_timeout", values::duration)?
            .unwrap_or(Duration::from_mins(1)),
        max_elapsed: settings
            .get("source.max_elapsed", values::duration)?
            .unwrap_or(Duration::from_mins(30)),
        min_throughput: settings
            .get("source.min_throughput", values::bytes_per_second)?
            .unwrap_or(1 << 10),
        window_bytes: window_bytes(memory(settings)?),
        compression: settings
            .get("source.compression", values::boolean)?
            .unwrap_or(true),
        ca_file: settings.get("source.ca_file", values::path)?,
        assume_timezone: settings.get("source.assume_timezone", timezone)?,
    };
    if config.retry_max < config.retry_base {
        let problem = "source.retry_max is shorter than source.retry_base";
        return Err(ConfigError::new(
            settings.origin("source.retry_max"),
            problem,
        ));
    }
    Ok(config)
}

fn lake(settings: &Settings) -> Result<LakeConfig, ConfigError> {
    let file_mode = settings.get("lake.file_mode", |value| {
        let text = values::text(value)?;
        u32::from_str_radix(&text, 8)
            .ok()
            .filter(|mode| mode & !0o666 == 0 && mode & 0o600 == 0o600)
            .ok_or_else(|| {
                "must be a file mode that lets the owner read and write: \"0600\", \"0640\" or \
             \"0644\""
                    .to_owned()
            })
    })?;
    let account = settings.get("lake.account", values::text)?;
    let lease = settings.get("lake.lease", lease)?;
    let Some(url) = settings.get("lake.url", |value| values::text(value)?.parse())? else {
        return Err(ConfigError::missing("lake.url"));
    };
    let tables = settings.get("lake.tables", |value| {
        let mut tables = values::list(value)?
            .into_iter()
            .map(|text| values::one_of(&TableFormat::ALL)(&Value::String(text)))
            .collect::<Result<Vec<_>, _>>()?;
        tables.sort_unstable();
        tables.dedup();
        Ok(tables)
    })?;
    let keep_replaced = settings.get("lake.keep_replaced", values::days)?;
    let catalog = catalog(settings)?;
    let has_iceberg = |tables: &Vec<TableFormat>| tables.contains(&TableFormat::Iceberg);
    if catalog.is_some() && !tables.as_ref().is_none_or(has_iceberg) {
        let problem = "lake.tables has no \"iceberg\", but lake.iceberg.catalog is set. Add \
             \"iceberg\", or remove the catalog";
        return Err(ConfigError::new(settings.origin("lake.tables"), problem));
    }
    Ok(LakeConfig {
        catalog,
        tables,
        keep_replaced: keep_replaced.unwrap_or(Duration::from_hours(7 * 24)),
        url,
        options: settings.options()?,
        lease: lease.unwrap_or(Duration::from_mins(1)),
        file_mode: file_mode.unwrap_or(0o600),
        account,
    })
}

fn catalog(settings: &Settings) -> Result<Option<CatalogOptions>, ConfigError> {
    let url = settings.get("lake.iceberg.catalog.url", |value| {
        http_url(value, OF_CATALOG)
    })?;
    let token_url = settings.get("lake.iceberg.catalog.token_url", |value| {
        http_url(value, OF_CATALOG)
    })?;
    let warehouse = settings.get("lake.iceberg.catalog.warehouse", values::text)?;
    let namespace = settings.get("lake.iceberg.catalog.namespace", |value| {
        let levels = values::text(value)?;
        let levels: Vec<String> = levels.split('.').map(str::to_owned).collect();
        if levels.iter().any(String::is_empty) {
            return Err("has an empty level: write \"level\" or \"level.level\"".to_owned());
        }
        Ok(levels)
    })?;
    let table = settings.get("lake.iceberg.catalog.table", values::text)?;
    let credential = key_source(
        settings,
        [
            "lake.iceberg.catalog.credential.env",
            "lake.iceberg.catalog.credential.file",
            "lake.iceberg.catalog.credential.command",
        ],
    )?;
    let scope = settings.get("lake.iceberg.catalog.scope", values::text)?;
    let allow_http = settings
        .get("lake.iceberg.catalog.allow_http", values::boolean)?
        .unwrap_or(false);
    let Some(url) = url else {
        if namespace.is_some() || credential.is_some() || warehouse.is_some() {
            return Err(ConfigError::missing("lake.iceberg.catalog.url"));
        }
        return Ok(None);
    };
    for (key, url) in [
        ("lake.iceberg.catalog.url", Some(&url)),
        ("lake.iceberg.catalog.token_url", token_url.as_ref()),
    ] {
        if url.is_some_and(|url| url.scheme() == "http" && !allow_http && !is_loopback(url)) {
            let problem = format!(
                "{key} is plain http, which would send the credential unencrypted. Use https, or \
                 set lake.iceberg.catalog.allow_http = true"
            );
            return Err(ConfigError::new(settings.origin(key), problem));
        }
    }
    let fetch = |source: KeySource| {
        Credential(Arc::new(move || {
            source.read("lake.iceberg.catalog.credential")
        }))
    };
    Ok(Some(CatalogOptions {
        url,
        warehouse,
        namespace: namespace
            .ok_or_else(|| ConfigError::missing("lake.iceberg.catalog.namespace"))?,
        table: table.unwrap_or_else(|| "cdrs".to_owned()),
        credential: credential.map(fetch),
        scope: scope.unwrap_or_else(|| "catalog".to_owned()),
        token_url,
    }))
}

/// Where else to put what an address must not contain.
const OF_SOURCE: &str = "Set the key with source.api_key, and filters with their own keys";
const OF_CATALOG: &str = "Set the credential with lake.iceberg.catalog.credential";

fn http_url(value: &Value, elsewhere: &str) -> Result<Url, String> {
    let url = Url::parse(&values::text(value)?)
        .map_err(|error| format!("is not a URL ({error}): write https://host"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("is not an http address: write https://host".to_owned());
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(format!("must be an address only. {elsewhere}"));
    }
    Ok(url)
}

/// How long leases bar others. A shorter one would be lost to a slow answer.
fn lease(value: &Value) -> Result<Duration, String> {
    let lease = values::duration(value)?;
    if lease < Duration::from_secs(5) {
        Err(
            "must be at least 5s, so that a slow answer of the store does not end a lease"
                .to_owned(),
        )
    } else if lease > MAX_LEASE_EXPIRY {
        Err("must be at most 1h: a crashed run blocks its slices for that long".to_owned())
    } else {
        Ok(lease)
    }
}

fn timezone(value: &Value) -> Result<TimeZone, String> {
    let name = values::text(value)?;
    TimeZone::get(&name).map_err(|_| {
        format!(
            "is \"{name}\", which is not a time zone: write an IANA name, such as \"UTC\" or \
             \"America/New_York\""
        )
    })
}

/// A number of days that a calendar can go back: up to a century.
fn lookback_days(value: &Value) -> Result<u32, String> {
    let days = values::integer(0)(value)?;
    if days > 36_500 {
        Err(format!("is {days}: it must be at most 36500 (a century)"))
    } else {
        Ok(days)
    }
}

fn compression(value: &Value) -> Result<Compression, String> {
    let text = values::text(value)?;
    match text.parse::<Compression>() {
        Ok(
            compression @ (Compression::ZSTD(_) | Compression::SNAPPY | Compression::UNCOMPRESSED),
        ) => Ok(compression),
        _ if text == "zstd" => Ok(Compression::ZSTD(ZstdLevel::default())),
        _ => Err(format!(
            "is \"{text}\": write \"zstd(1)\" (levels 1 to 22), \"snappy\" or \"uncompressed\""
        )),
    }
}
