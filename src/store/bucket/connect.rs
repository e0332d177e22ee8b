//! From `lake.url` and `lake.options` to a client of the object store.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig, TagSet};
use url::Url;

use super::option_error::OptionError;
use super::uploads::{S3Uploads, Uploads};
use crate::TOOL;
use crate::error::nearest;
use crate::store::location::is_loopback;
use crate::store::tls;

/// What the library accepts as `server_side_encryption`. Its own message lists other values.
const ENCRYPTIONS: [&str; 4] = ["AES256", "aws:kms", "aws:kms:dsse", "sse-c"];

/// The options that most lakes need, for suggestions.
const USUAL_OPTIONS: [&str; 15] = [
    "region",
    "endpoint",
    "virtual_hosted_style_request",
    "allow_http",
    "server_side_encryption",
    "sse_kms_key_id",
    "sse_bucket_key_enabled",
    "checksum_algorithm",
    STORAGE_CLASS,
    TAGS,
    "timeout",
    "connect_timeout",
    "account_name",
    "use_azure_cli",
    "proxy_url",
];

/// What the requests of a client transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestClass {
    /// A few kilobytes at most.
    Metadata,
    /// Files, or parts of them.
    Data,
}

impl RequestClass {
    /// Timeout of one request. The library's 30 s are too short for files: 16 MiB in 30 s need 4.5
    /// Mbit/s, in five minutes 450 kbit/s.
    fn timeout(self) -> &'static str {
        match self {
            Self::Metadata => "30s",
            Self::Data => "300s",
        }
    }

    /// Throttling and brief failures last seconds. A store that fails for longer fails the slice,
    /// and the next run fetches it again. A request that times out is retried, but within the 15
    /// minutes for which its signature is valid.
    fn retry(self) -> RetryConfig {
        let (max_retries, minutes) = match self {
            Self::Metadata => (10, 2),
            Self::Data => (10, 9),
        };
        RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(200),
                max_backoff: Duration::from_secs(10),
                base: 2.0,
            },
            max_retries,
            retry_timeout: Duration::from_mins(minutes),
        }
    }
}

/// Timeout for connecting.
const CONNECT_TIMEOUT: &str = "10s";

/// Options of [`BucketOptions`] that the library does not have.
const STORAGE_CLASS: &str = "storage_class";
const TAGS: &str = "tags";

/// The protocol of a cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// `s3://`: Amazon S3 and compatible stores.
    S3,
    /// `gs://`: Google Cloud Storage.
    Gs,
    /// `az://`: Azure Blob Storage.
    Az,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
        }
    }

    /// The remedy if there are no credentials.
    pub(super) fn no_credentials(self) -> &'static str {
        match self {
            Self::S3 => {
                "No credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY \
                 (`eval \"$(aws configure export-credentials --format env)\"` takes them from a \
                 profile), or run where a role is attached"
            }
            Self::Gs => {
                "No credentials were found: set GOOGLE_APPLICATION_CREDENTIALS to a key file, or \
                 run where a service account is attached"
            }
            Self::Az => {
                "No credentials were found: set AZURE_STORAGE_ACCOUNT_KEY, \
                 AZURE_STORAGE_SAS_TOKEN or AZURE_CLIENT_ID and its companions, set \
                 lake.options.use_azure_cli = true, or run where an identity is attached"
            }
        }
    }

    /// The remedy if the credentials are refused.
    pub(super) fn wrong_credentials(self) -> &'static str {
        match self {
            Self::S3 => {
                "The credentials are not accepted. Check AWS_ACCESS_KEY_ID, \
                 AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, or the role"
            }
            Self::Gs => {
                "The credentials are not accepted. Check GOOGLE_APPLICATION_CREDENTIALS, or the \
                 service account"
            }
            Self::Az => {
                "The credentials are not accepted. Check the AZURE_STORAGE_… and AZURE_CLIENT_… \
                 variables, or the identity"
            }
        }
    }
}

/// A place in a bucket: `s3://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketUrl {
    pub(super) scheme: Scheme,
    /// The bucket, or the container.
    bucket: String,
    /// The prefix of the lake's keys; may be empty.
    pub(super) prefix: Path,
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.bucket)?;
        if self.prefix.as_ref().is_empty() {
            Ok(())
        } else {
            write!(f, "/{}", self.prefix)
        }
    }
}

impl FromStr for BucketUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text).map_err(|error| format!("is not a URL ({error})"))?;
        let scheme = match url.scheme() {
            "s3" => Scheme::S3,
            "gs" => Scheme::Gs,
            "az" => Scheme::Az,
            other => {
                return Err(format!(
                    "is a {other}:// address: write a directory, s3://bucket/prefix, \
                     gs://bucket/prefix or az://container/prefix"
                ));
            }
        };
        let is_more = !url.username().is_empty()
            || url.password().is_some()
            || url.port().is_some()
            || url.query().is_some()
            || url.fragment().is_some();
        if is_more {
            return Err(
                "contains more than a bucket and a prefix: put credentials into the \
                environment, and the rest into lake.options"
                    .to_owned(),
            );
        }
        let Some(bucket) = url.host_str().filter(|host| !host.is_empty()) else {
            let scheme = scheme.as_str();
            return Err(format!("names no bucket: write {scheme}://bucket/prefix"));
        };
        let prefix = Path::from_url_path(url.path())
            .map_err(|error| format!("has an invalid prefix ({error})"))?;
        Ok(Self {
            scheme,
            bucket: bucket.to_owned(),
            prefix,
        })
    }
}

impl BucketUrl {
    /// The same bucket with another prefix.
    pub(super) fn with_prefix(&self, prefix: Path) -> Self {
        Self {
            prefix,
            ..self.clone()
        }
    }

    /// Prefixes of lakes in whose table this one would lie: those above a component with the
    /// table's name.
    pub(super) fn prefixes_above(&self, table: &str) -> Vec<Path> {
        let parts: Vec<_> = self.prefix.parts().collect();
        let above = |(at, part): (usize, &object_store::path::PathPart<'_>)| {
            (part.as_ref() == table).then(|| parts[..at].iter().cloned().collect())
        };
        parts.iter().enumerate().filter_map(above).collect()
    }
}

/// How objects are stored, apart from the library's options.
#[derive(Clone, Debug)]
pub struct BucketOptions {
    /// A larger file is uploaded in parts. A file up to this size is held in memory during its
    /// upload.
    pub single_put_bytes: u64,
    /// Size of a part. `super::PARTS_IN_FLIGHT` of them are in memory at a time.
    pub part_bytes: usize,
    /// How long a lease blocks others after its last renewal.
    pub lease: Duration,
    /// `lake.options.storage_class`
    pub storage_class: Option<String>,
    /// `lake.options.tags`
    pub tags: TagSet,
}

/// A client for the whole bucket.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) objects: Arc<dyn ObjectStore>,
    /// Lists and aborts uploads of all processes, where supported.
    pub(super) uploads: Option<Arc<dyn Uploads>>,
}

/// Takes cdrlake's own options out of `lake.options`.
///
/// # Errors
/// [`OptionError`] for an invalid one.
pub(crate) fn take_own(
    options: &mut BTreeMap<String, String>,
) -> Result<(Option<String>, TagSet), OptionError> {
    let mut tags = TagSet::default();
    if let Some(text) = options.remove(TAGS) {
        for tag in text.split(',') {
            let (key, value) = tag.split_once('=').ok_or_else(|| {
                OptionError::of(TAGS, "is not a list of tags: write \"team=data,pii=yes\"")
            })?;
            tags.push(key.trim(), value.trim());
        }
    }
    Ok((options.remove(STORAGE_CLASS), tags))
}

/// A client for the bucket of `url`, with the cloud's usual chain of credentials. Does no I/O.
///
/// # Errors
/// [`OptionError`] for an option that is unknown, contains a secret or is invalid.
pub(super) fn connect(
    url: &BucketUrl,
    options: &BTreeMap<String, String>,
    class: RequestClass,
) -> Result<Connection, OptionError> {
    for option in options.keys() {
        refuse_secret(option)?;
        if option.contains("bucket_name") || option == "bucket" || option.contains("container_name")
        {
            return Err(OptionError::of(option, "is part of lake.url"));
        }
    }
    tls::choose_provider();
    match url.scheme {
        Scheme::S3 => s3(url, options, class),
        Scheme::Gs => gs(url, options, class),
        Scheme::Az => az(url, options, class),
    }
}

fn s3(
    url: &BucketUrl,
    options: &BTreeMap<String, String>,
    class: RequestClass,
) -> Result<Connection, OptionError> {
    let keys = parse::<AmazonS3ConfigKey>(options, Scheme::S3, class)?;
    for option in ["server_side_encryption", "aws_server_side_encryption"] {
        if let Some(value) = options.get(option)
            && !ENCRYPTIONS.contains(&value.as_str())
        {
            let problem = format!("is \"{value}\": write \"AES256\" or \"aws:kms\"");
            return Err(OptionError::of(option, problem));
        }
    }
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&url.bucket)
        .with_retry(class.retry())
        // Objects are deleted one at a time, and the reply to a single deletion is simpler.
        .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true");
    for (key, value) in client_defaults("AWS", class) {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    for (key, value) in keys {
        builder = builder.with_config(key, value);
    }
    let endpoint = builder
        .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    if may_be_http(endpoint.as_deref(), || {
        builder.get_config_value(&AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp))
    })? {
        builder = builder.with_allow_http(true);
    }
    let store = Arc::new(builder.build().map_err(|error| wrong_together(&error))?);
    Ok(Connection {
        uploads: Some(Arc::new(S3Uploads::try_new(
            Arc::clone(&store),
            &url.prefix,
        )?)),
        objects: store,
    })
}

fn gs(
    url: &BucketUrl,
    options: &BTreeMap<String, String>,
    class: RequestClass,
) -> Result<Connection, OptionError> {
    let keys = parse::<GoogleConfigKey>(options, Scheme::Gs, class)?;
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(&url.bucket)
        .with_retry(class.retry());
    for (key, value) in client_defaults("GOOGLE", class) {
        builder = builder.with_config(GoogleConfigKey::Client(key), value);
    }
    for (key, value) in keys {
        builder = builder.with_config(key, value);
    }
    let endpoint = builder.get_config_value(&GoogleConfigKey::BaseUrl);
    if may_be_http(endpoint.as_deref(), || {
        builder.get_config_value(&GoogleConfigKey::Client(ClientConfigKey::AllowHttp))
    })? {
        let allowed = GoogleConfigKey::Client(ClientConfigKey::AllowHttp);
        builder = builder.with_config(allowed, "true");
    }
    Ok(Connection {
        objects: Arc::new(builder.build().map_err(|error| wrong_together(&error))?),
        uploads: None,
    })
}

fn az(
    url: &BucketUrl,
    options: &BTreeMap<String, String>,
    class: RequestClass,
) -> Result<Connection, OptionError> {
    let keys = parse::<AzureConfigKey>(options, Scheme::Az, class)?;
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(&url.bucket)
        .with_retry(class.retry());
    for (key, value) in client_defaults("AZURE", class) {
        builder = builder.with_config(AzureConfigKey::Client(key), value);
    }
    for (key, value) in keys {
        builder = builder.with_config(key, value);
    }
    let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
    if may_be_http(endpoint.as_deref(), || {
        builder.get_config_value(&AzureConfigKey::Client(ClientConfigKey::AllowHttp))
    })? {
        builder = builder.with_allow_http(true);
    }
    Ok(Connection {
        objects: Arc::new(builder.build().map_err(|error| wrong_together(&error))?),
        uploads: None,
    })
}

/// The options as the library's keys.
fn parse<Key: FromStr>(
    options: &BTreeMap<String, String>,
    scheme: Scheme,
    class: RequestClass,
) -> Result<Vec<(Key, &str)>, OptionError> {
    options
        .iter()
        // The configured timeout applies to files.
        .filter(|(option, _)| class == RequestClass::Data || option.as_str() != "timeout")
        .map(|(option, value)| {
            let key = option.parse().map_err(|_| {
                let scheme = scheme.as_str();
                let hint = nearest(option, USUAL_OPTIONS).map_or_else(
                    || {
                        "docs/buckets.md lists the usual options, the documentation of the crate \
                         object_store all"
                            .to_owned()
                    },
                    |usual| format!("Did you mean {usual}?"),
                );
                let problem = format!("is not an option of {scheme}:// lakes. {hint}");
                OptionError::of(option, problem)
            })?;
            Ok((key, value.as_str()))
        })
        .collect()
}

/// Defaults of the library's client, unless a variable or an option overrides them.
fn client_defaults(
    cloud: &str,
    class: RequestClass,
) -> impl Iterator<Item = (ClientConfigKey, &'static str)> {
    let is_set = |name: &str| std::env::var_os(format!("{cloud}_{name}")).is_some();
    [
        (!is_set("TIMEOUT")).then_some((ClientConfigKey::Timeout, class.timeout())),
        (!is_set("CONNECT_TIMEOUT")).then_some((ClientConfigKey::ConnectTimeout, CONNECT_TIMEOUT)),
        Some((ClientConfigKey::UserAgent, TOOL)),
    ]
    .into_iter()
    .flatten()
}

/// Whether to allow plain HTTP: to this machine, or if the option says so.
fn may_be_http(
    endpoint: Option<&str>,
    allowed: impl FnOnce() -> Option<String>,
) -> Result<bool, OptionError> {
    let Some(endpoint) = endpoint else {
        return Ok(false);
    };
    // The library panics on an invalid URL.
    let url = Url::parse(endpoint)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(url) = url else {
        let problem = "is not a URL: write https://host, or http://host for this machine";
        return Err(OptionError::of("endpoint", problem));
    };
    if url.scheme() == "https" {
        return Ok(false);
    }
    let is_allowed =
        allowed().is_some_and(|value| ["1", "true", "on", "yes", "y"].contains(&value.as_str()));
    if is_allowed || is_loopback(&url) {
        return Ok(true);
    }
    Err(OptionError::of(
        "endpoint",
        "is plain HTTP, which sends every call unencrypted. Use https, or set \
         lake.options.allow_http = true",
    ))
}

/// Credentials come from the environment, from files or from the machine, never from pipeline.toml.
fn refuse_secret(option: &str) -> Result<(), OptionError> {
    let is_place = ["_file", "_path", "_url", "_uri"]
        .iter()
        .any(|end| option.ends_with(end));
    let secrets = [
        "access_key",
        "account_key",
        "master_key",
        "secret",
        "token",
        "sas_key",
        "encryption_key",
        "customer_key",
        "service_account_key",
        "session_token",
        "password",
    ];
    if !is_place && secrets.iter().any(|secret| option.contains(secret)) {
        let problem = "is a secret, which does not belong in pipeline.toml. Set the cloud's own \
            variable instead, such as AWS_SECRET_ACCESS_KEY, GOOGLE_SERVICE_ACCOUNT_PATH or \
            AZURE_STORAGE_ACCOUNT_KEY";
        return Err(OptionError::of(option, problem));
    }
    Ok(())
}

fn wrong_together(error: &object_store::Error) -> OptionError {
    let text = crate::error::one_line(&error.to_string(), 300);
    let text = text
        .split_once(" error: ")
        .map_or(text.as_str(), |(_, text)| text);
    if text.contains("Account must be specified") {
        let problem = "an az:// lake needs an account: set AZURE_STORAGE_ACCOUNT_NAME or \
            lake.options.account_name";
        return OptionError::of_all(problem);
    }
    OptionError::of_all(format!("lake.url and lake.options do not match: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_bucket_url_has_a_bucket_and_a_prefix_only() {
        let url: BucketUrl = "s3://calls/wavix/lake/".parse().unwrap();
        assert_eq!(
            (url.bucket.as_str(), url.prefix.as_ref()),
            ("calls", "wavix/lake")
        );
        assert_eq!(url.to_string(), "s3://calls/wavix/lake");
        assert_eq!(
            "gs://calls".parse::<BucketUrl>().unwrap().to_string(),
            "gs://calls"
        );
        for wrong in [
            "s3:///x",
            "s3://key:secret@calls/x",
            "s3://calls/x?region=y",
            "ftp://calls/x",
            "s3://calls//x",
            "s3://calls:80/x",
        ] {
            let problem = wrong.parse::<BucketUrl>().unwrap_err();
            assert!(!problem.contains("secret"), "{problem}");
        }
    }

    #[test]
    fn a_lake_inside_another_lake_s_table_is_found_by_its_prefix() {
        let above = |url: &str| {
            let url: BucketUrl = url.parse().unwrap();
            let above = url.prefixes_above("cdrs").into_iter();
            above.map(|path| path.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(above("s3://b/cdrs"), [""]);
        assert_eq!(above("s3://b/x/cdrs/y/cdrs/z"), ["x", "x/cdrs/y"]);
        assert_eq!(above("s3://b/x"), Vec::<String>::new());
    }

    #[test]
    fn options_are_validated_and_secrets_refused() {
        let url: BucketUrl = "s3://calls/x".parse().unwrap();
        let problem = |pairs: &[(&str, &str)]| {
            let error = connect(&url, &options(pairs), RequestClass::Data).unwrap_err();
            format!("{}: {}", error.option.unwrap_or_default(), error.problem)
        };
        for secret in [
            "secret_access_key",
            "aws_session_token",
            "access_key_id",
            "sse_customer_key_base64",
        ] {
            let problem = problem(&[(secret, "TOPSECRET")]);
            assert!(
                problem.contains("secret") && !problem.contains("TOPSECRET"),
                "{problem}"
            );
        }
        assert_eq!(
            problem(&[("regoin", "x")]),
            "regoin: is not an option of s3:// lakes. Did you mean region?"
        );
        assert!(problem(&[("xyzzy", "x")]).contains("docs/buckets.md lists the usual options"));
        assert_eq!(
            problem(&[("server_side_encryption", "aes-256")]),
            "server_side_encryption: is \"aes-256\": write \"AES256\" or \"aws:kms\""
        );
        assert!(problem(&[("endpoint", "http://minio:9000")]).contains("plain HTTP"));
        for wrong in [
            "127.0.0.1:9000",
            "minio:9000",
            "minio",
            "ftp://minio",
            "https://",
        ] {
            let problem = problem(&[("endpoint", wrong)]);
            assert!(problem.contains("is not a URL"), "{wrong}: {problem}");
        }
        for fine in [
            &[("endpoint", "http://127.0.0.1:9000")][..],
            &[("endpoint", "http://minio:9000"), ("allow_http", "true")],
            &[
                ("server_side_encryption", "aws:kms"),
                ("sse_kms_key_id", "k"),
                ("sse_bucket_key_enabled", "true"),
            ],
            &[
                ("web_identity_token_file", "/var/run/token"),
                ("role_arn", "arn"),
            ],
            &[("checksum_algorithm", "sha256"), ("timeout", "600s")],
        ] {
            connect(&url, &options(fine), RequestClass::Data).unwrap();
        }
    }

    #[test]
    fn tags_and_storage_class_are_not_passed_to_the_library() {
        let mut given = options(&[
            ("tags", "team=data, pii=yes"),
            ("storage_class", "STANDARD_IA"),
            ("region", "r"),
        ]);
        let (class, tags) = take_own(&mut given).unwrap();
        assert_eq!(
            (class.as_deref(), tags.encoded()),
            (Some("STANDARD_IA"), "team=data&pii=yes")
        );
        assert_eq!(given, options(&[("region", "r")]));
        assert!(take_own(&mut options(&[("tags", "data")])).is_err());
    }
}
