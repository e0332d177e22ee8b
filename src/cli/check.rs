//! `cdrlake check`: would a run work?

use std::fmt::Display;
use std::path::Path as FilePath;

use jiff::Timestamp;
use object_store::path::Path;

use super::table::counted;
use super::{ApiArgs, CommandError, Exit, print};
use crate::cdr::slice::Slice;
use crate::config::{Config, KeySource};
use crate::ops::open::{Place, find_any_lake, find_lake};
use crate::ops::run::IGNORES_CONDITIONS;
use crate::source::Source;
use crate::source::wavix::Api;
use crate::store::layout::{LEASES, LOCKS, STAGING, TABLE};
use crate::store::location::Location;
use crate::store::probe;

/// What is written to see whether it can be.
const PROBE: &str = "_cdrlake/leases/check.probe";

pub(super) async fn execute(args: &ApiArgs) -> Result<Exit, CommandError> {
    let config = args.load()?;
    let mut report = Report::default();
    report.note(
        "configuration",
        Ok::<_, CommandError>(format!("valid; lake {}", config.lake.url)),
    );
    match config.api_key() {
        Err(error) => {
            report.note("key", Err::<String, _>(error));
            report.text.push_str("skipped API: it takes a key\n");
        }
        Ok(key) => {
            let place = config
                .source
                .api_key
                .as_ref()
                .map_or_else(String::new, KeySource::to_string);
            report.note("key", Ok::<_, CommandError>(format!("found in {place}")));
            report.note("API", ask_api(&config, key).await);
        }
    }
    let numbers = describe_privacy(&config).await;
    if !matches!(&numbers, Ok(None)) {
        report.note("numbers", numbers.map(Option::unwrap_or_default));
    }
    report.note("lake", try_lake(&config).await);
    print(report.text.as_bytes())?;
    Ok(report.exit)
}

#[derive(Debug)]
struct Report {
    text: String,
    exit: Exit,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            text: String::new(),
            exit: Exit::Success,
        }
    }
}

impl Report {
    fn note<E: Into<CommandError>>(&mut self, what: &str, found: Result<impl Display, E>) {
        let line = match found {
            Ok(found) => format!("ok      {what}: {found}\n"),
            Err(error) => {
                let error: CommandError = error.into();
                // The gravest that was found: wrong configuration before a failing server.
                if self.exit != Exit::Usage {
                    self.exit = error.exit;
                }
                format!("failed  {what}: {}\n", error.message)
            }
        };
        self.text.push_str(&line);
    }
}

/// What becomes of phone numbers, where anything does.
async fn describe_privacy(config: &Config) -> Result<Option<String>, CommandError> {
    // What is wrong with the lake is said of the lake.
    let erased = match find_any_lake(config).await {
        Ok(Some(lake)) => lake.suppression().await?,
        _ => None,
    };
    let privacy = config.privacy(erased.is_some() || config.privacy.key.is_some())?;
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
async fn ask_api(config: &Config, key: secrecy::SecretString) -> Result<String, CommandError> {
    let source = Api::try_new(&config.source, Some(key))?;
    let today = Timestamp::now()
        .to_zoned(config.window.timezone.clone())
        .date();
    let day = today.yesterday().unwrap_or(today);
    let slice = Slice {
        day,
        direction: config.source.directions[0],
    };
    let total = source.count(slice).await?;
    Ok(format!(
        "{} answers; {} {} on {day}",
        config.source.url,
        counted(total, "call", "calls"),
        slice.direction
    ))
}

/// Tries what a run needs of the lake.
async fn try_lake(config: &Config) -> Result<String, CommandError> {
    if let Some(lake) = find_lake(config).await? {
        for remark in &lake.remarks {
            tracing::warn!("{remark}");
        }
    }
    match &config.lake.url {
        Location::Directory(root) => try_directory(config, root).await,
        Location::Bucket(_) => try_bucket(config).await,
    }
}

/// Tries a directory. Directories made for that are removed again.
async fn try_directory(config: &Config, root: &FilePath) -> Result<String, CommandError> {
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
    // Empty ones only: a run may have begun its work there in the meantime.
    for directory in missing {
        drop(std::fs::remove_dir(directory));
    }
    tried.map(|()| "writable; conditional writes honoured".to_owned())
}

async fn try_writing(config: &Config) -> Result<(), CommandError> {
    let place = Place::of(config)?;
    place.prepare()?;
    let store = place.store();
    let Some(lease) = store
        .try_lease(&Path::from(format!("{LEASES}/check.lock")))
        .await?
    else {
        return Err(CommandError::new(
            Exit::Failed,
            "another check of this lake is under way. Try again",
        ));
    };
    // A fixed name, so that what a killed check left is overwritten.
    let honoured = probe(&*store, &Path::from(PROBE)).await?;
    drop(lease);
    if !honoured {
        return Err(CommandError::new(
            Exit::Failed,
            "the file system does not honour conditional writes, so two runs could harm each other",
        ));
    }
    Ok(())
}

/// Tries a bucket: what a run writes first, and what it lists.
async fn try_bucket(config: &Config) -> Result<String, CommandError> {
    let place = Place::of(config)?;
    place.prepare()?;
    let store = place.store();
    store.list(&Path::from(TABLE)).await?;
    let honours_conditions = store.honours_conditions().await?;
    // Like a lease, so that what a dead process leaves of it goes where dead leases go.
    store
        .try_stage(&Path::from(format!("{LEASES}/check.lock")))
        .await?;
    Ok(if honours_conditions {
        "writable; conditional writes honoured".to_owned()
    } else {
        format!(
            "writable, but {IGNORES_CONDITIONS}: one run at a time, without --shard, and nothing else that writes there"
        )
    })
}
