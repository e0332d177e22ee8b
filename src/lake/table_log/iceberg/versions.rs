//! Publication without a catalog: numbered metadata files, of which the highest is the table.
//! <https://iceberg.apache.org/spec/#file-system-tables>
//!
//! The specification warns of stores without an atomic rename. Here a version is created by a
//! conditional write, so that one of concurrent writers succeeds.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;

use super::{METADATA, TableLogError};
use crate::lake::table_log::iceberg::avro::Problem;
use crate::store::{LakeStore, ObjectState, StoreError, Swap};

/// How a publication ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// The version is the newest one.
    Done,
    /// The version was created, but a later one exists. It may follow this one. If not, this
    /// version has no effect: its number was free because the version that had it had expired.
    Overtaken,
    /// Another writer created the version.
    Conflict,
    /// Another writer probably created the version, which has expired since.
    Unclear,
}

/// The numbered metadata files of a table.
#[derive(Clone, Debug)]
pub(super) struct Versions {
    pub(super) store: Arc<dyn LakeStore>,
}

/// The path of a version's metadata file.
pub(super) fn metadata_path(version: u64) -> Path {
    Path::from(format!("{METADATA}/v{version}.metadata.json"))
}

/// The path of the hint, which readers that cannot list a directory follow.
pub(super) fn hint_path() -> Path {
    Path::from(format!("{METADATA}/version-hint.text"))
}

/// The version whose metadata file lies at `path`, and whether it is compressed.
pub(super) fn version_of(path: &Path) -> Option<(u64, bool)> {
    let name = path.filename()?.strip_prefix('v')?;
    let (number, rest) = name.split_once('.')?;
    let is_compressed = match rest {
        "metadata.json" => false,
        "gz.metadata.json" | "metadata.json.gz" => true,
        _ => return None,
    };
    let version: u64 = number.parse().ok()?;
    (version.to_string() == number).then_some((version, is_compressed))
}

fn parse_hint(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok()
}

impl Versions {
    /// Every object of the log.
    pub(super) async fn objects(&self) -> Result<Vec<ObjectState>, StoreError> {
        self.store.list(&Path::from(METADATA)).await
    }

    /// The newest version; `None` if there is none.
    pub(super) async fn newest(&self) -> Result<Option<u64>, TableLogError> {
        let objects = self.objects().await?;
        let versions = objects.iter().filter_map(|object| version_of(&object.path));
        match versions.max() {
            Some((version, true)) => Err(super::failed(
                &metadata_path(version),
                Problem::Unsupported("compression".to_owned()),
            )),
            newest => Ok(newest.map(|(version, _)| version)),
        }
    }

    /// Creates a version. If the reply is lost, reads it back: its bytes contain a random number,
    /// so equal bytes are this writer's.
    pub(super) async fn publish(
        &self,
        version: u64,
        bytes: Bytes,
    ) -> Result<Published, TableLogError> {
        let path = metadata_path(version);
        let created = self.store.create(&path, bytes.clone()).await;
        if !matches!(created, Ok(Swap::Done(_))) {
            let found = self.store.read(&path).await;
            match (found, created) {
                (Ok(Some(found)), _) if found.bytes == bytes => {}
                (Ok(Some(_)), _) => return Ok(Published::Conflict),
                (_, Err(error)) | (Err(error), _) => return Err(error.into()),
                (Ok(None), Ok(_)) => return Ok(Published::Unclear),
            }
        }
        Ok(if self.advance_hint(version).await? > version {
            Published::Overtaken
        } else {
            Published::Done
        })
    }

    /// The version that the hint names.
    pub(super) async fn hint(&self) -> Result<Option<u64>, StoreError> {
        let found = self.store.read(&hint_path()).await?;
        Ok(found.and_then(|found| parse_hint(&found.bytes)))
    }

    /// Raises the hint to `version`, and returns it. It never falls, and no version below it is
    /// needed by readers that follow it.
    pub(super) async fn advance_hint(&self, version: u64) -> Result<u64, StoreError> {
        let path = hint_path();
        let text = Bytes::from(version.to_string());
        loop {
            let swap = match self.store.read(&path).await? {
                None => self.store.create(&path, text.clone()).await?,
                Some(found) => {
                    let hint = parse_hint(&found.bytes);
                    if let Some(hint) = hint.filter(|hint| *hint >= version) {
                        return Ok(hint);
                    }
                    let text = text.clone();
                    self.store.replace(&path, text, &found.version).await?
                }
            };
            if matches!(swap, Swap::Done(_)) {
                return Ok(version);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metadata_file_of_a_catalog_is_no_version() {
        let version = |name: &str| version_of(&Path::from(format!("{METADATA}/{name}")));
        assert_eq!(version("v12.metadata.json"), Some((12, false)));
        assert_eq!(version("v12.gz.metadata.json"), Some((12, true)));
        for name in [
            "00012-2c3a5e1e-6a0e-4b5e-8b5e-0d3f4a0f5c11.metadata.json",
            "00012-2c3a5e1e-6a0e-4b5e-8b5e-0d3f4a0f5c11.gz.metadata.json",
            "v012.metadata.json",
            "v1-2.metadata.json",
        ] {
            assert_eq!(version(name), None, "{name}");
        }
    }
}
