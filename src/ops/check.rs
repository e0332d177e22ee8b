//! Would a run work? Key, API, treatment of numbers and lake, tried one by one.

use std::path::Path as FilePath;

use jiff::Timestamp;
use object_store::path::Path;
use secrecy::SecretString;

use super::days::today;
use super::metrics::MetricsFile;
use super::open::{Place, as_configured, find_any_lake, without_key};
use super::run::IGNORES_CONDITIONS;
use super::{Error, period_remarks};
use crate::cdr::slice::Slice;
use crate::config::{Config, KeySource};
use crate::error::counted;
use crate::lake::report::{Remark, RemarkKind};
use crate::lake::{Catalog, CatalogOptions, Lake, LakeError};
use crate::source::wavix::Api;
use crate::source::{Request, Source};
use crate::store::layout::{LEASES, LOCKS, STAGING, TABLE};
use crate::store::location::Location;
use crate::store::probe;

/// What is written to see whether it can be.
const PROBE: &str = "_cdrlake/leases/check.probe";

/// Most differences of logs that are remarked on.
const MAX_LOG_PROBLEMS: usize = 3;

/// One thing that was tried.
#[derive(Debug)]
pub(crate) struct Checked {
    /// What: `configuration`, `key`, `API`, `numbers`, `lake`, `tables`, `catalog` or `metrics`.
    pub what: &'static str,
    /// What was found, in words.
    pub found: Result<String, Error>,
    /// Remarks on what was found.
    pub remarks: Vec<Remark>,
}

impl Checked {
    fn new(what: &'static str, found: Result<String, Error>) -> Self {
        Self {
            what,
            found,
            remarks: Vec::new(),
        }
    }
}

/// Tries everything that a run needs, one after the other. The API is left out without a key,
/// numbers where nothing becomes of them, and both they and the lake if its options are wrong.
pub(crate) async fn check(config: &Config, now: Timestamp) -> Vec<Checked> {
    let mut checks = Vec::new();
    let mut note = |what, found| checks.push(Checked::new(what, found));
    let place = match Place::of(config) {
        Err(error @ Error::Config(_)) => Err(error),
        Ok(_) | Err(_) => Ok("valid".to_owned()),
    };
    let is_valid = place.is_ok();
    note("configuration", place);
    match config.api_key() {
        Err(error) => note("key", Err(error.into())),
        Ok(key) => {
            let place = config
                .source
                .api_key
                .as_ref()
                .map_or_else(String::new, KeySource::to_string);
            note("key", Ok(format!("found in {place}")));
            note("API", ask_api(config, key, now).await);
        }
    }
    if is_valid {
        check_lake(config, &mut checks).await;
    }
    if let Some(options) = &config.lake.catalog {
        checks.push(Checked::new("catalog", describe_catalog(options).await));
    }
    if let Some(file) = MetricsFile::of(config) {
        let found = file
            .check()
            .map(|()| format!("{} can be written", file.path().display()));
        checks.push(Checked::new("metrics", found.map_err(Error::from)));
    }
    checks
}

/// Tries the lake, what becomes of its numbers, and its logs. Opens the lake once.
async fn check_lake(config: &Config, checks: &mut Vec<Checked>) {
    let found = find_any_lake(config).await;
    let lake = found.as_ref().ok().and_then(Option::as_ref);
    if let Some(numbers) = describe_privacy(config, lake).await.transpose() {
        checks.push(Checked::new("numbers", numbers));
    }
    let found = match found {
        Ok(lake) => as_configured(config, lake).await,
        Err(error) => Err(error),
    };
    let lake = match found {
        Ok(lake) => lake,
        Err(error) => return checks.push(Checked::new("lake", Err(error))),
    };
    let mut remarks = Vec::new();
    let tried = try_lake(config, lake.as_ref(), &mut remarks).await;
    checks.push(Checked {
        remarks,
        ..Checked::new("lake", tried)
    });
    if let Some(lake) = lake
        && lake.has_logs()
        && lake.identity.converting.is_none()
    {
        let mut remarks = Vec::new();
        let found = compare_logs(&lake, &mut remarks).await;
        checks.push(Checked {
            remarks,
            ..Checked::new("tables", found)
        });
    }
}

/// Compares the logs of table formats with the ledger, and adds `remarks` on differences: a run
/// that changes nothing does not read them.
async fn compare_logs(lake: &Lake, remarks: &mut Vec<Remark>) -> Result<String, Error> {
    let found = lake.compare_logs().await?;
    let problems = found.iter().take(MAX_LOG_PROBLEMS).map(|found| {
        let format = found.format;
        let file = found
            .file
            .as_ref()
            .map_or_else(|| format.directory().to_owned(), |(path, _)| path.clone());
        RemarkKind::UnsyncedLogs.remark(format!("{file}: {}", found.problem))
    });
    remarks.extend(problems);
    let names: Vec<String> = lake
        .identity
        .tables()
        .iter()
        .map(ToString::to_string)
        .collect();
    let differences = match found.len() as u64 {
        0 => "no difference".to_owned(),
        number => counted(number, "difference", "differences"),
    };
    Ok(format!(
        "{}; {differences} from the ledger",
        names.join(", ")
    ))
}

/// What the catalog holds.
async fn describe_catalog(options: &CatalogOptions) -> Result<String, Error> {
    let catalog = Catalog::try_new(options.clone()).map_err(LakeError::from)?;
    Ok(catalog.describe().await.map_err(LakeError::from)?)
}

/// What becomes of phone numbers, where anything does. `lake` is `None` if there is none, or it
/// cannot be read.
async fn describe_privacy(config: &Config, lake: Option<&Lake>) -> Result<Option<String>, Error> {
    let erased = match lake {
        Some(lake) => lake.suppression().await?,
        None => None,
    };
    let privacy = match config.privacy(erased.is_some() || config.privacy.key.is_some()) {
        Ok(privacy) => privacy,
        Err(error) => return Err(without_key(config, lake, error).await),
    };
    if privacy.keeps_all() && privacy.key().is_none() {
        return Ok(None);
    }
    if let Some(list) = &erased {
        list.must_be_of(&privacy)?;
    }
    let modes = privacy.modes().by_column();
    let modes = modes.map(|(column, mode)| format!("{column} {}", mode.as_str()));
    let key = privacy.key().map_or_else(String::new, |key| {
        let erased = erased.map_or(0, |list| list.numbers.len());
        format!("; key id {}, {erased} erased", key.id())
    });
    Ok(Some(format!("{}{key}", modes.join(", "))))
}

/// Asks for the count of yesterday's calls: it needs the same address, key and rights as a run.
async fn ask_api(config: &Config, key: SecretString, now: Timestamp) -> Result<String, Error> {
    let source = Api::try_new(&config.source, Some(key))?;
    let today = today(&config.window, now);
    let day = today.yesterday().unwrap_or(today);
    let slice = Slice::of_day(day, config.source.directions[0]);
    let total = source.count(Request::whole(slice)).await?;
    Ok(format!(
        "{} answers; {} {} on {day}",
        config.source.url,
        counted(total, "call", "calls"),
        slice.direction
    ))
}

/// Tries what a run needs of the lake, and adds `remarks` on it.
async fn try_lake(
    config: &Config,
    lake: Option<&Lake>,
    remarks: &mut Vec<Remark>,
) -> Result<String, Error> {
    if let Some(lake) = lake {
        let files = lake.table().files().await?;
        remarks.extend(period_remarks::on_files(files.sizes()));
        remarks.extend(lake.remarks.iter().cloned());
    } else if let Location::Bucket(_) = &config.lake.url {
        // A run lists the table.
        Place::of(config)?.store().list(&Path::from(TABLE)).await?;
    }
    match &config.lake.url {
        Location::Directory(root) => try_directory(config, root).await,
        Location::Bucket(_) => try_bucket(config).await,
    }
}

/// Tries a directory. Directories made for that are removed again.
async fn try_directory(config: &Config, root: &FilePath) -> Result<String, Error> {
    let root = std::path::absolute(root)?;
    let missing: Vec<_> = [STAGING, LOCKS, LEASES]
        .iter()
        .flat_map(|path| {
            root.join(path)
                .ancestors()
                .map(FilePath::to_owned)
                .collect::<Vec<_>>()
        })
        .filter(|path| !path.exists())
        .collect();
    let tried = try_writing(config).await;
    if !missing.is_empty() {
        // The lock of the probe's directory, in which nothing else is written conditionally.
        drop(std::fs::remove_file(
            root.join(LOCKS).join("_cdrlake-leases.lock"),
        ));
    }
    // Empty ones only: a run may have started there in the meantime.
    for directory in missing {
        drop(std::fs::remove_dir(directory));
    }
    tried.map(|()| "writable; conditional writes honoured".to_owned())
}

async fn try_writing(config: &Config) -> Result<(), Error> {
    let place = Place::of(config)?;
    place.prepare()?;
    let store = place.store();
    let Some(lease) = store
        .try_lease(&Path::from(format!("{LEASES}/check.lock")))
        .await?
    else {
        return Err(Error::CheckUnderWay);
    };
    // A fixed name, so that what a killed check left is overwritten.
    let honoured = probe(&*store, &Path::from(PROBE)).await?;
    drop(lease);
    if !honoured {
        return Err(Error::IgnoresConditions);
    }
    Ok(())
}

/// Tries a bucket: what a run writes first.
async fn try_bucket(config: &Config) -> Result<String, Error> {
    let place = Place::of(config)?;
    place.prepare()?;
    let store = place.store();
    let honours_conditions = store.honours_conditions().await?;
    // Like a lease, so that garbage collection removes what a crashed process leaves.
    store
        .try_stage(&Path::from(format!("{LEASES}/check.lock")))
        .await?;
    Ok(if honours_conditions {
        "writable; conditional writes honoured".to_owned()
    } else {
        format!("writable, but {IGNORES_CONDITIONS}: only one run at a time may write to this lake")
    })
}
