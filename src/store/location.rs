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
    /// In a directory of this machine, which may be a network mount.
    Directory(PathBuf),
    /// In an object store.
    Bucket(BucketUrl),
}

impl Location {
    /// The path or address by which a user opens a file of the lake.
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

/// Refuses a path that only a shell would expand.
///
/// # Errors The second half of a sentence, with the path that was meant.
pub(crate) fn expanded(text: &str) -> Result<String, String> {
    let home = std::env::var("HOME").unwrap_or_else(|_| "/home/you".to_owned());
    let home = home.trim_end_matches('/');
    let rest = match text.split_once('/').unwrap_or((text, "")) {
        ("~" | "$HOME" | "${HOME}", rest) => Some(format!("{home}/{rest}")),
        (user, rest) if user.starts_with('~') => {
            let user = user.trim_start_matches('~');
            Some(format!("/home/{user}/{rest}"))
        }
        _ => None,
    };
    match rest {
        None => Ok(text.to_owned()),
        Some(path) => Err(format!(
            "is \"{text}\", which only a shell expands: write {}",
            path.trim_end_matches('/')
        )),
    }
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once("://") {
            // A typing error is more likely than a directory of this name.
            None if ["s3:", "gs:", "az:"]
                .iter()
                .any(|scheme| text.starts_with(scheme)) =>
            {
                Err("lacks the two slashes: write s3://bucket/prefix".to_owned())
            }
            None if ["s3//", "gs//", "az//"]
                .iter()
                .any(|scheme| text.starts_with(scheme)) =>
            {
                Err("lacks the colon: write s3://bucket/prefix".to_owned())
            }
            None => expanded(text).map(|path| Self::Directory(PathBuf::from(path))),
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

/// Whether an address never leaves this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
