//! Where a lake lies: `lake.url`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use object_store::path::Path;
use url::Url;

use super::bucket::BucketUrl;

/// Where a lake lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// On a disk of this machine, or one that looks like it.
    Directory(PathBuf),
    /// In an object store.
    Bucket(BucketUrl),
}

impl Location {
    /// A file of the lake as the user would name it.
    pub fn of(&self, path: &Path) -> String {
        match self {
            Self::Directory(root) => root.join(path.as_ref()).display().to_string(),
            Self::Bucket(url) => format!("{url}/{path}"),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(root) => root.display().fmt(f),
            Self::Bucket(url) => url.fmt(f),
        }
    }
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once("://") {
            // A directory of that name is less likely than a slip.
            None if ["s3:", "gs:", "az:"]
                .iter()
                .any(|scheme| text.starts_with(scheme)) =>
            {
                Err("lacks the two slashes: write s3://bucket/prefix".to_owned())
            }
            None => Ok(Self::Directory(PathBuf::from(text))),
            Some(("file", _)) => {
                let path = Url::parse(text)
                    .ok()
                    .and_then(|url| url.to_file_path().ok());
                path.map(Self::Directory)
                    .ok_or_else(|| "is not a file URL: write file:///absolute/path".to_owned())
            }
            Some(_) => text.parse().map(Self::Bucket),
        }
    }
}
