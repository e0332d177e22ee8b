//! The lake that the configuration names, opened as far as its user needs it.

use std::path::Path as FilePath;
use std::sync::Arc;

use super::Error;
use crate::cdr::period::PeriodUnit;
use crate::config::{Config, ConfigError, Origin};
use crate::lake::identity::Identity;
use crate::lake::{Catalog, Lake, LakeError, TableFormat};
use crate::privacy::Privacy;
use crate::store::LakeStore;
use crate::store::bucket::{self, BucketOptions, BucketStore, BucketUrl, OptionError, PART_BYTES};
use crate::store::layout;
use crate::store::local::LocalStore;
use crate::store::location::Location;

/// Where the lake lies, ready to be used.
#[derive(Debug)]
pub(crate) enum Place {
    /// On a local disk.
    Directory(LocalStore),
    /// In a bucket.
    Bucket(BucketStore),
}

impl Place {
    /// The place that the configuration names. No I/O but a look for links that lead nowhere.
    ///
    /// # Errors
    /// [`Error`] for such a link, and for unknown options of the bucket.
    pub(crate) fn of(config: &Config) -> Result<Self, Error> {
        match &config.lake.url {
            Location::Directory(root) => {
                refuse_dangling(root)?;
                let store = LocalStore::new(root, config.lake.file_mode);
                Ok(Self::Directory(store))
            }
            Location::Bucket(url) => Ok(Self::Bucket(connect(config, url)?)),
        }
    }

    /// Makes what a run needs on this machine.
    ///
    /// # Errors
    /// [`Error`] if it cannot be written there.
    pub(crate) fn prepare(&self) -> Result<(), Error> {
        match self {
            Self::Directory(store) => Ok(store.prepare()?),
            Self::Bucket(store) => store.prepare().map_err(Error::Spool),
        }
    }

    /// The store there.
    pub(crate) fn store(&self) -> Arc<dyn LakeStore> {
        match self {
            Self::Directory(store) => Arc::new(store.clone()),
            Self::Bucket(store) => Arc::new(store.clone()),
        }
    }

    /// A lake inside another one would be read as part of its table.
    async fn refuse_within_a_lake(&self, config: &Config) -> Result<(), Error> {
        let outer = match (self, &config.lake.url) {
            (Self::Directory(_), Location::Directory(root)) => lake_around(root)?,
            (Self::Bucket(store), _) => store.lake_around().await,
            (Self::Directory(_), Location::Bucket(_)) => None,
        };
        outer.map_or(Ok(()), |outer| {
            let place = config.lake.url.clone();
            Err(Error::WithinALake { place, outer })
        })
    }
}

/// The bucket that the configuration names. A wrong option is reported with the place that set it.
fn connect(config: &Config, url: &BucketUrl) -> Result<BucketStore, Error> {
    let wrong = |error: OptionError| {
        let option = error.option.unwrap_or_default();
        match config.lake.options.get(&option) {
            Some((_, origin)) => {
                let problem = format!("lake.options.{option} {}", error.problem);
                ConfigError::new(origin.clone(), problem)
            }
            // A variable of the cloud provider.
            None if !option.is_empty() => {
                let problem = format!("the store's {option} {}", error.problem);
                ConfigError::new(Origin::Unset, problem)
            }
            None => ConfigError::new(Origin::Unset, error.problem),
        }
    };
    let options = config.lake.options.iter();
    let mut options = options
        .map(|(name, (value, _))| (name.clone(), value.clone()))
        .collect();
    let (storage_class, tags) = bucket::take_own(&mut options).map_err(wrong)?;
    let own = BucketOptions {
        single_put_bytes: config.limits.single_put_bytes,
        part_bytes: PART_BYTES,
        lease: config.lake.lease,
        storage_class,
        tags,
    };
    let store = BucketStore::connect(url, &options, own, &config.limits.spool_dir);
    store.map_err(|error| wrong(error).into())
}

fn refuse_dangling(root: &FilePath) -> Result<(), Error> {
    let mut above = root.ancestors();
    let Some(link) = above.find(|path| path.is_symlink() && !path.exists()) else {
        return Ok(());
    };
    Err(Error::DanglingLink {
        root: root.to_owned(),
        link: link.to_owned(),
        target: std::fs::read_link(link)?,
    })
}

fn lake_around(root: &FilePath) -> std::io::Result<Option<String>> {
    let root = std::path::absolute(root)?;
    let outer = root
        .ancestors()
        .skip(1)
        .find(|directory| directory.join(layout::identity().as_ref()).exists());
    Ok(outer.map(|outer| outer.display().to_string()))
}

/// How the configuration stores numbers, with the key only if it must have one.
async fn privacy(config: &Config) -> Result<Privacy, Error> {
    match config.privacy(false) {
        Ok(privacy) => Ok(privacy),
        Err(error) => {
            let lake = find_any_lake(config).await.unwrap_or_default();
            Err(without_key(config, lake.as_ref(), error).await)
        }
    }
}

/// The error that a key is missing; if `lake` has hashes of numbers already, the error that names
/// their key, because a new key would be refused.
pub(crate) async fn without_key(config: &Config, lake: Option<&Lake>, error: ConfigError) -> Error {
    let Some(lake) = lake.filter(|_| config.privacy.key.is_none()) else {
        return error.into();
    };
    let list = match lake.suppression().await {
        Ok(list) => list.map(|list| (layout::suppression(), list.key_id)),
        Err(error) => return error.into(),
    };
    let pseudonyms = lake.identity.privacy_key_id.clone();
    let pseudonyms = pseudonyms.map(|id| (layout::identity(), id));
    match list.or(pseudonyms) {
        Some((path, existing)) => Error::Lake(LakeError::OtherKey {
            path,
            existing,
            found: None,
        }),
        None => error.into(),
    }
}

/// Opens the lake for writing, or makes it. Fetches the key of pseudonyms if the lake or the caller
/// (`needs_key`) needs it.
///
/// # Errors
/// [`Error`] if the place holds another lake or none may be there, or it cannot be read or written.
pub async fn open_lake(config: &Config, needs_key: bool) -> Result<Lake, Error> {
    open(config, needs_key, None).await
}

/// The same for a process that is `converting` its slices.
async fn open(
    config: &Config,
    needs_key: bool,
    converting: Option<PeriodUnit>,
) -> Result<Lake, Error> {
    let place = Place::of(config)?;
    let store = place.store();
    let privacy = privacy(config).await?;
    let identity = Identity {
        converting,
        ..config.identity(&privacy)
    };
    // A directory that is not this lake is left unchanged.
    let found = Lake::find(Arc::clone(&store), &identity).await?;
    let is_new = found.is_none();
    let needs_key = match &found {
        Some(lake) => needs_key || lake.suppression().await?.is_some(),
        None => {
            place.refuse_within_a_lake(config).await?;
            needs_key
        }
    };
    let mut no_key = None;
    let privacy = match config.privacy(true) {
        Ok(with_key) => with_key,
        Err(error) if needs_key => return Err(without_key(config, found.as_ref(), error).await),
        // It may be needed later: a number may be erased while a run is under way.
        Err(error) => {
            if config.privacy.key.is_some() {
                let problem = format!("{error} (the key is not needed until a number is erased)");
                no_key = Some(problem.into());
            }
            privacy
        }
    };
    place.prepare()?;
    // Before anything is written that relies on it.
    store.honours_conditions().await?;
    let lake = Lake::open(store, &identity, privacy).await?;
    let mut lake = with_catalog(config, lake)?;
    if is_new {
        tracing::info!("New lake: {}", config.lake.url);
    }
    lake.remarks.extend(no_key);
    if let Some(list) = lake.suppression().await? {
        // Better now than in every slice.
        list.must_be_of(lake.privacy())?;
        lake.remarks.extend(list.unfinished_remark());
    }
    Ok(lake)
}

/// The lake with the configured catalog.
fn with_catalog(config: &Config, mut lake: Lake) -> Result<Lake, Error> {
    let Some(options) = &config.lake.catalog else {
        return Ok(lake);
    };
    if !lake.identity.tables().contains(&TableFormat::Iceberg) {
        let remark = "lake.iceberg.catalog has no effect, because the lake has no log of Apache \
             Iceberg. Convert the lake";
        lake.remarks.push(remark.to_owned().into());
    }
    let catalog = Catalog::try_new(options.clone()).map_err(LakeError::from)?;
    Ok(lake.with_catalog(Some(Arc::new(catalog))))
}

/// Opens the lake for reading, if there is one.
///
/// # Errors
/// [`Error`] if it is another one, or cannot be read.
pub async fn find_lake(config: &Config) -> Result<Option<Lake>, Error> {
    as_configured(config, find_any_lake(config).await?).await
}

/// A lake that was found, if it is the one that the configuration describes.
///
/// # Errors
/// [`Error`] if it is another one, or the key for its numbers is missing.
pub(crate) async fn as_configured(
    config: &Config,
    lake: Option<Lake>,
) -> Result<Option<Lake>, Error> {
    let privacy = match config.privacy(false) {
        Ok(privacy) => privacy,
        Err(error) => return Err(without_key(config, lake.as_ref(), error).await),
    };
    let identity = config.identity(&privacy);
    Ok(lake.map(|lake| lake.compared_with(&identity)).transpose()?)
}

/// Opens the lake for reading, if there is one, with the key of its erased numbers, and returns how
/// the configuration stores numbers. For callers that fetch, but write no lake.
///
/// # Errors
/// [`Error`] if it is another lake, is being converted, or cannot be read, and if a key is missing.
pub(crate) async fn find_lake_to_fetch(
    config: &Config,
) -> Result<(Option<Lake>, Arc<Privacy>), Error> {
    let Some(lake) = find_lake(config).await? else {
        return Ok((None, Arc::new(config.privacy(false)?)));
    };
    if let Some(to) = lake.identity.converting {
        return Err(LakeError::Converting { to }.into());
    }
    let list = lake.suppression().await?;
    let privacy = match config.privacy(list.is_some()) {
        Ok(privacy) => privacy,
        Err(error) => return Err(without_key(config, Some(&lake), error).await),
    };
    if let Some(list) = list {
        list.must_be_of(&privacy)?;
    }
    let lake = lake.with_privacy(privacy.clone());
    Ok((Some(lake), Arc::new(privacy)))
}

/// Opens the lake for reading, if there is one, whosever calls it holds.
///
/// # Errors
/// [`Error`] if it cannot be read.
pub(crate) async fn find_any_lake(config: &Config) -> Result<Option<Lake>, Error> {
    let lake = Lake::find_any(Place::of(config)?.store()).await?;
    lake.map(|lake| with_catalog(config, lake)).transpose()
}

/// Opens an existing lake for reading. With `as_configured`, it must be the lake of this
/// configuration, which matters to callers that fetch.
///
/// # Errors
/// [`Error`] if there is none, or it cannot be read.
pub(crate) async fn existing_lake(config: &Config, as_configured: bool) -> Result<Lake, Error> {
    let lake = if as_configured {
        find_lake(config).await?
    } else {
        find_any_lake(config).await?
    };
    lake.ok_or_else(|| Error::NoLake {
        place: config.lake.url.clone(),
    })
}

/// Opens a lake that must exist and be the configured one, for removing calls.
///
/// # Errors
/// [`Error`] if there is none, or it cannot be read or written.
pub(crate) async fn existing_lake_for_writing(
    config: &Config,
    needs_key: bool,
) -> Result<Lake, Error> {
    existing_lake(config, true).await?;
    open_lake(config, needs_key).await
}

/// Opens a lake that must exist and be the configured one, for converting its slices. Nothing else
/// may write to it while a conversion is under way.
///
/// # Errors
/// As [`existing_lake_for_writing`].
pub(crate) async fn existing_lake_for_converting(
    config: &Config,
    to: PeriodUnit,
) -> Result<Lake, Error> {
    existing_lake(config, true).await?;
    open(config, false, Some(to)).await
}

/// The period of the lake's slices. `lake` is `None` if there is none yet.
pub(crate) fn period_unit(config: &Config, lake: Option<&Lake>) -> PeriodUnit {
    match lake {
        Some(lake) => lake.identity.period_unit(),
        None => config.window.slice.unwrap_or_default(),
    }
}
