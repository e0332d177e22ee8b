//! The configuration: `pipeline.toml`, variables and flags, validated once.

mod settings;
mod units;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use parquet::basic::{Compression, ZstdLevel};
use secrecy::{ExposeSecret, SecretString};
use toml::Value;
use url::Url;

use crate::TOOL;
use crate::body::reader::MAX_RECORD_BYTES;
use crate::cdr::slice::Direction;
use crate::cdr::tally::Counts;
use crate::error::{counted, thousands};
use crate::lake::identity::{FORMAT, Identity};
use crate::privacy::{Mode, Modes, Privacy, PrivacyKey};
use crate::slice_file::options::ParquetOptions;
use crate::store::MAX_LEASE_EXPIRY;
use crate::store::location::{Location, is_loopback};
use settings::Settings;
pub use settings::{ConfigError, Origin};

/// The file read when `--config` names none.
pub const DEFAULT_FILE: &str = "pipeline.toml";
/// Shortest key: a shorter one would stand in every other word of a message, where it is hidden. The
/// simulator's is `demo`.
const MIN_KEY_BYTES: usize = 4;
/// Least rows of a row group: the footer has some kilobytes of each, and lies in memory until the file is complete.
const MIN_ROW_GROUP_ROWS: i64 = 1_000;

/// Everything that can be configured. The README's configuration reference says what each key
/// does; the field names are the keys.
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
    pub disposition: String,
    pub sip_trunk: Option<String>,
    pub from_search: Option<String>,
    pub to_search: Option<String>,
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
#[expect(
    missing_docs,
    reason = "the fields are the keys of the configuration reference"
)]
pub struct WindowConfig {
    pub start: Option<Date>,
    pub timezone: TimeZone,
    pub lookback_days: u32,
    pub settle_hours: u32,
}

/// `[lake]`
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "the fields are the keys of the configuration reference"
)]
pub struct LakeConfig {
    pub url: Location,
    /// The library's options by name, and who set each.
    pub options: BTreeMap<String, (String, Origin)>,
    pub lease: Duration,
    pub file_mode: u32,
    pub account: Option<String>,
}

/// `[quality]`
#[derive(Clone, Debug, PartialEq)]
#[expect(
    missing_docs,
    reason = "the fields are the keys of the configuration reference"
)]
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
        let broken = broken_records(rejected, records);
        if rejected > self.max_rejects && ratio > self.max_reject_ratio {
            Some(format!(
                "{broken}, more than quality.max_rejects and quality.max_reject_ratio allow"
            ))
        } else if rejected > 0 && ratio >= self.fail_reject_ratio {
            Some(format!(
                "{broken}, and quality.fail_reject_ratio = {} fails a slice from that share on: raise it to do without them",
                self.fail_reject_ratio
            ))
        } else {
            None
        }
    }
}

/// How many of the records of a slice are broken, in words.
pub(crate) fn broken_records(rejected: u64, records: u64) -> String {
    let are = if rejected == 1 { "is" } else { "are" };
    let records = counted(records, "record", "records");
    format!("{} of {records} {are} broken", thousands(rejected))
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
    /// The key, once it was fetched: a program that prints it may ask somebody.
    fetched: OnceLock<PrivacyKey>,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are the keys of the configuration reference"
)]
pub struct LimitsConfig {
    pub max_record_bytes: usize,
    pub max_slice_bytes: u64,
    pub memory: usize,
    pub single_put_bytes: u64,
    /// Where the spool of a lake in an object store lies; on local disk it lies in the lake.
    pub spool_dir: PathBuf,
}

/// Where the API key is to be had: never the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// An environment variable.
    Env(String),
    /// A file that only its owner may read, or a group of this process.
    File(PathBuf),
    /// A program that prints it.
    Command(Vec<String>),
}

/// Values given on the command line: key, value, and the flag that gave it.
pub type Overrides = Vec<(&'static str, String, &'static str)>;

impl Config {
    /// Reads the configuration: `file`, or [`DEFAULT_FILE`] if there is one, then the environment,
    /// then `overrides`.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that is wrong.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut settings = Settings::default();
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

    /// The configuration that `overrides` alone make, for programs that bring their own.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that is wrong.
    pub fn from_overrides(overrides: &Overrides) -> Result<Self, ConfigError> {
        Self::with_overrides(Settings::default(), overrides)
    }

    fn with_overrides(mut settings: Settings, overrides: &Overrides) -> Result<Self, ConfigError> {
        for (key, value, flag) in overrides {
            settings.set(key, Value::String(value.clone()), Origin::Flag(flag));
        }
        Self::resolve(&settings)
    }

    fn resolve(settings: &Settings) -> Result<Self, ConfigError> {
        let config = Self {
            source: source(settings)?,
            window: WindowConfig {
                start: settings.get("window.start", units::day)?,
                timezone: settings
                    .get("window.timezone", timezone)?
                    .unwrap_or(TimeZone::UTC),
                lookback_days: settings
                    .get("window.lookback_days", lookback_days)?
                    .unwrap_or(3),
                settle_hours: settings
                    .get("window.settle_hours", units::integer(0))?
                    .unwrap_or(24),
            },
            parquet: ParquetOptions {
                compression: settings
                    .get("parquet.compression", compression)?
                    .unwrap_or(Compression::ZSTD(ZstdLevel::default())),
                row_group_rows: settings
                    .get("parquet.row_group_rows", units::integer(MIN_ROW_GROUP_ROWS))?
                    .unwrap_or(1 << 20),
                row_group_bytes: settings
                    .get("parquet.row_group_bytes", units::memory_bytes)?
                    .unwrap_or(16 << 20),
            },
            quality: QualityConfig {
                dedupe: settings
                    .get("quality.dedupe", units::boolean)?
                    .unwrap_or(true),
                max_rejects: settings
                    .get("quality.max_rejects", units::integer(0))?
                    .unwrap_or(10),
                max_reject_ratio: settings
                    .get("quality.max_reject_ratio", units::ratio)?
                    .unwrap_or(0.001),
                fail_reject_ratio: settings
                    .get("quality.fail_reject_ratio", units::positive_ratio)?
                    .unwrap_or(0.1),
                reconcile: settings
                    .get(
                        "quality.reconcile",
                        units::one_of(&[
                            ("fail", Reconcile::Fail),
                            ("warn", Reconcile::Warn),
                            ("off", Reconcile::Off),
                        ]),
                    )?
                    .unwrap_or(Reconcile::Fail),
            },
            privacy: privacy(settings)?,
            limits: limits(settings)?,
            // Last, so that what is wrong in the file is said before what is missing from it.
            lake: lake(settings)?,
        };
        if config.parquet.row_group_bytes > config.limits.memory {
            let problem = "parquet.row_group_bytes is more than limits.memory: not one row group would fit. Lower it, or raise limits.memory";
            return Err(ConfigError::new(
                settings.origin("parquet.row_group_bytes"),
                problem,
            ));
        }
        Ok(config)
    }

    /// What the lake is by this configuration, whose privacy is `privacy`.
    pub fn identity(&self, privacy: &Privacy) -> Identity {
        let numbers = self.privacy.numbers;
        let columns = privacy.modes().by_column();
        let others = columns.into_iter().filter(|(_, mode)| *mode != numbers);
        // In a lake without numbers there is none of the filter either.
        let filter = |number: &Option<String>| {
            let number = number.as_deref();
            number.map(|number| privacy.hide_filter(number))
        };
        Identity {
            format: FORMAT,
            account: self.lake.account.clone(),
            disposition: self.source.disposition.clone(),
            sip_trunk: self.source.sip_trunk.clone(),
            from_search: filter(&self.source.from_search),
            to_search: filter(&self.source.to_search),
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

    /// What becomes of phone numbers. Fetches the key of pseudonyms if some are made, or `needs_key`.
    ///
    /// # Errors
    /// [`ConfigError`] if there is no key, or none that will do. The text never holds it.
    pub fn privacy(&self, needs_key: bool) -> Result<Privacy, ConfigError> {
        let modes = self.privacy.modes;
        // A lake without numbers knows the filter that it was made with by its hash.
        let has_filter = self.source.from_search.is_some() || self.source.to_search.is_some();
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
            return Err(wrong("there is no key for pseudonyms, erased numbers and filters by number. Set privacy.key, for example to { env = \"CDR_PRIVACY_KEY\" }, and keep the key as long as the lake. Make one with: openssl rand -hex 32".to_owned()));
        };
        if let (KeySource::File(file), Location::Directory(root)) = (source, &self.lake.url)
            && let (Ok(file), Ok(root)) = (file.canonicalize(), root.canonicalize())
            && file.starts_with(root)
        {
            let file = file.display();
            return Err(wrong(format!(
                "privacy.key: {file} lies in the lake, which is copied and read by others. Keep the key elsewhere"
            )));
        }
        let key = source.read("privacy.key").map_err(wrong)?;
        let key = PrivacyKey::try_new(key.expose_secret())
            .map_err(|problem| wrong(format!("privacy.key: {source}: {problem}")))?;
        let key = self.privacy.fetched.get_or_init(|| key);
        Ok(Privacy::new(modes, Some(key.clone())))
    }

    /// Fetches the API key from where the configuration says it is.
    ///
    /// # Errors
    /// [`ConfigError`] if there is none there, or it cannot be a key. The text never holds it.
    pub fn api_key(&self) -> Result<SecretString, ConfigError> {
        let wrong = |problem: String| ConfigError::new(Origin::Unset, problem);
        let Some(source) = &self.source.api_key else {
            return Err(wrong(
                "there is no API key. Set source.api_key in pipeline.toml, for example to { env = \"WAVIX_API_KEY\" }, or use --api-key-env".to_owned(),
            ));
        };
        source.read("source.api_key").map_err(wrong)
    }
}

impl KeySource {
    /// Fetches a key of printable characters. `name` is the key of the configuration that names the place.
    ///
    /// # Errors
    /// A sentence, if there is none there, or it cannot be a key. It never holds it.
    pub(crate) fn read(&self, name: &str) -> Result<SecretString, String> {
        let key = match self {
            Self::Env(variable) => std::env::var(variable)
                .map_err(|_| format!("{name}: {self} is not set. Export it with your key in it"))?,
            Self::File(path) => {
                read_key_file(path).map_err(|problem| format!("{name}: {self} {problem}"))?
            }
            Self::Command(command) => {
                run_key_command(command, MAX_COMMAND_TIME).map_err(|problem| {
                    format!(
                        "{name}: the command {} {problem}",
                        shown_program(&command[0])
                    )
                })?
            }
        };
        let key = key.trim();
        if key.is_empty() {
            return Err(format!("{name}: {self} is empty"));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "{name}: the key holds characters that no key has. Is it the right file or variable?"
            ));
        }
        let first = key.as_bytes().first();
        let fault = match key.len() {
            length if length < MIN_KEY_BYTES => format!(
                "{}, which is too short for a key",
                counted(length as u64, "character", "characters")
            ),
            _ if key.bytes().all(|byte| Some(&byte) == first) => {
                "one character again and again, which is no key".to_owned()
            }
            _ => return Ok(SecretString::from(key)),
        };
        Err(format!(
            "{name}: {self} holds {fault}. Is it the right file or variable?"
        ))
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Somebody may have written the key where its variable's name belongs.
            Self::Env(name) if !is_variable_name(name) => f.write_str(
                "the variable (not shown, for its name looks unlike one and may be the key)",
            ),
            Self::Env(name) => write!(f, "the variable {name}"),
            Self::File(path) if !path.exists() && !looks_like_a_path(&path.to_string_lossy()) => {
                f.write_str("the file that its key file names, and which is not there,")
            }
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Command(command) => write!(f, "the output of {}", shown_program(&command[0])),
        }
    }
}

/// Whether a name is one that variables usually have.
fn is_variable_name(name: &str) -> bool {
    name.bytes()
        .all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
        && !name.starts_with(|first: char| first.is_ascii_digit())
}

/// Whether a text is more likely a path than a key that was written in its place.
fn looks_like_a_path(text: &str) -> bool {
    text.contains(['/', '.'])
}

/// The program of a key command, unless it is none: somebody may have written the key there.
fn shown_program(program: &str) -> String {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let is_there = || std::env::split_paths(&paths).any(|path| path.join(program).exists());
    if looks_like_a_path(program) || is_there() {
        program.to_owned()
    } else {
        "(not shown: there is no such program)".to_owned()
    }
}

/// Longest that a command may take to print a key. Somebody may have to confirm it.
const MAX_COMMAND_TIME: Duration = Duration::from_mins(1);
/// Longest key read from a file or a command: anything longer is something else.
const MAX_KEY_BYTES: u64 = 16 << 10;

fn read_key_file(path: &Path) -> Result<String, String> {
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let metadata = file
        .metadata()
        .map_err(|error| format!("cannot be read: {error}"))?;
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_dir() {
        return Err("is a directory. Name the file in it that holds the key".to_owned());
    }
    // What an orchestrator mounts may belong to root, and be there for a group: fsGroup of
    // Kubernetes.
    let readable = match mode & 0o077 {
        0o000 => true,
        // Its owner can do without, unless it is mounted.
        0o040 => {
            (!is_own(&metadata) || is_mounted_read_only(path))
                && own_groups().contains(&metadata.gid())
        }
        _ => false,
    };
    if !readable {
        return Err(format!(
            "may be read by others (mode {mode:03o}). Run: chmod 600 {}",
            path.display()
        ));
    }
    let mut key = String::new();
    file.take(MAX_KEY_BYTES)
        .read_to_string(&mut key)
        .map_err(|error| format!("cannot be read: {error}"))?;
    Ok(key)
}

/// Whether a file belongs to the user of this process.
fn is_own(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;

    own_ids(&["Uid"]).contains(&metadata.uid())
}

/// Whether a file lies on a file system that is mounted read-only, so that its mode cannot be changed.
fn is_mounted_read_only(path: &Path) -> bool {
    let opened = std::fs::File::options().write(true).open(path);
    opened.is_err_and(|error| error.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
}

/// The groups of this process: whose rights it has, and those beside them.
fn own_groups() -> Vec<u32> {
    own_ids(&["Gid", "Groups"])
}

/// What the kernel lists of this process under these names.
fn own_ids(names: &[&str]) -> Vec<u32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines = status.lines();
    let ids = lines.filter_map(|line| {
        let (name, ids) = line.split_once(':')?;
        names.contains(&name).then_some(ids)
    });
    ids.flat_map(str::split_whitespace)
        .filter_map(|id| id.parse().ok())
        .collect()
}

/// What a command prints, if it ends within `limit`. Whatever else it does, it is ended.
fn run_key_command(command: &[String], limit: Duration) -> Result<String, String> {
    use std::io::Read;
    use std::process::Stdio;

    const POLL: Duration = Duration::from_millis(5);
    let deadline = Instant::now() + limit;
    let mut child = std::process::Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| format!("cannot be run: {error}"))?;
    let output = child.stdout.take().expect("it is piped");
    let (sender, printed) = std::sync::mpsc::channel();
    // On a thread of its own: what the command has started may hold its output open for ever.
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let read = output.take(MAX_KEY_BYTES + 1).read_to_end(&mut text);
        sender.send(read.map(|_| text)).ok();
    });
    let printed = printed.recv_timeout(limit);
    let is_too_long = matches!(&printed, Ok(Ok(text)) if text.len() as u64 > MAX_KEY_BYTES);
    let mut status = None;
    while printed.is_ok() && !is_too_long && Instant::now() < deadline {
        status = child
            .try_wait()
            .map_err(|error| format!("failed: {error}"))?;
        if status.is_some() {
            break;
        }
        std::thread::sleep(POLL);
    }
    let (Some(status), Ok(text)) = (status, printed) else {
        // It may have ended by itself meanwhile.
        drop(child.kill());
        drop(child.wait());
        return Err(if is_too_long {
            format!("printed more than {MAX_KEY_BYTES} bytes, which is no key")
        } else {
            format!("did not end within {limit:?}, and was ended. It must not wait for anything")
        });
    };
    if !status.success() {
        return Err(format!("failed ({status})"));
    }
    let text = text.map_err(|error| format!("cannot be read: {error}"))?;
    String::from_utf8(text).map_err(|_| "printed something that is not text".to_owned())
}

fn privacy(settings: &Settings) -> Result<PrivacyConfig, ConfigError> {
    let mode = |key| {
        let words = units::one_of(&[
            ("keep", Mode::Keep),
            ("truncate", Mode::Truncate),
            ("pseudonymize", Mode::Pseudonymize),
        ]);
        settings.get(key, words)
    };
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

fn limits(settings: &Settings) -> Result<LimitsConfig, ConfigError> {
    let memory = settings
        .get("limits.memory", units::memory_bytes)?
        .unwrap_or(256 << 20);
    // Some are uploaded while others are fetched.
    let most = (memory as u64 / 4).max(1);
    let single_put_bytes = settings.get("limits.single_put_bytes", units::bytes)?;
    if single_put_bytes.is_some_and(|bytes| bytes > most) {
        let problem = "limits.single_put_bytes is more than a quarter of limits.memory, in which such files lie while they are uploaded";
        let origin = settings.origin("limits.single_put_bytes");
        return Err(ConfigError::new(origin, problem));
    }
    let max_record_bytes = settings
        .get("limits.max_record_bytes", units::memory_bytes)?
        .unwrap_or(1 << 20);
    if max_record_bytes > MAX_RECORD_BYTES {
        let problem = "limits.max_record_bytes is more than 256MiB: no call is as long, and a column of such texts cannot be written";
        let origin = settings.origin("limits.max_record_bytes");
        return Err(ConfigError::new(origin, problem));
    }
    Ok(LimitsConfig {
        max_record_bytes,
        max_slice_bytes: settings
            .get("limits.max_slice_bytes", units::bytes)?
            .unwrap_or(100 << 30),
        memory,
        // What every store takes in one request is far more.
        single_put_bytes: single_put_bytes.unwrap_or(most.min(16 << 20)).min(5 << 30),
        spool_dir: settings
            .get("limits.spool_dir", units::path)?
            .unwrap_or_else(std::env::temp_dir),
    })
}

fn source(settings: &Settings) -> Result<SourceConfig, ConfigError> {
    let url = settings
        .get("source.url", http_url)?
        .unwrap_or_else(|| Url::parse("https://api.wavix.com").expect("a valid constant"));
    let allow_http = settings
        .get("source.allow_http", units::boolean)?
        .unwrap_or(false);
    if url.scheme() == "http" && !allow_http && !is_loopback(&url) {
        let problem = "source.url is plain http: the API key and every call would cross the network in clear. Use https, or set source.allow_http = true";
        return Err(ConfigError::new(settings.origin("source.url"), problem));
    }
    let directions = settings.get("source.directions", |value| {
        let mut directions = units::list(value)?
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
                units::one_of(&[
                    ("stream", Via::Stream),
                    ("pages", Via::Pages),
                    ("csv", Via::Csv),
                ]),
            )?
            .unwrap_or(Via::Stream),
        directions: directions.unwrap_or_else(|| Direction::ALL.to_vec()),
        disposition: settings
            .get("source.disposition", units::text)?
            .unwrap_or_else(|| "all".to_owned()),
        sip_trunk: settings.get("source.sip_trunk", units::text)?,
        from_search: settings.get("source.from_search", units::text)?,
        to_search: settings.get("source.to_search", units::text)?,
        requests: settings
            .get("source.requests", units::integer(1))?
            .unwrap_or(4),
        requests_per_minute: settings
            .get("source.requests_per_minute", units::integer(0))?
            .and_then(NonZeroU32::new),
        max_attempts: settings
            .get("source.max_attempts", units::integer(1))?
            .unwrap_or(8),
        retry_base: settings
            .get("source.retry_base", units::duration)?
            .unwrap_or(Duration::from_secs(1)),
        retry_max: settings
            .get("source.retry_max", units::duration)?
            .unwrap_or(Duration::from_mins(1)),
        stall_timeout: settings
            .get("source.stall_timeout", units::duration)?
            .unwrap_or(Duration::from_mins(1)),
        max_elapsed: settings
            .get("source.max_elapsed", units::duration)?
            .unwrap_or(Duration::from_mins(30)),
        min_throughput: settings
            .get("source.min_throughput", units::bytes_per_second)?
            .unwrap_or(1 << 10),
        compression: settings
            .get("source.compression", units::boolean)?
            .unwrap_or(true),
        ca_file: settings.get("source.ca_file", units::path)?,
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

fn key_source(
    settings: &Settings,
    [env, file, command]: [&'static str; 3],
) -> Result<Option<KeySource>, ConfigError> {
    let command = settings.get(command, |value| match value {
        Value::Array(_) => units::list(value).and_then(|words| {
            if words.is_empty() {
                Err("is empty".to_owned())
            } else {
                Ok(words)
            }
        }),
        value => Ok(units::text(value)?
            .split_whitespace()
            .map(str::to_owned)
            .collect()),
    })?;
    let mut sources = [
        settings.get(env, units::text)?.map(KeySource::Env),
        settings.get(file, units::path)?.map(KeySource::File),
        command.map(KeySource::Command),
    ]
    .into_iter()
    .flatten();
    let first = sources.next();
    if sources.next().is_some() {
        let table = env.trim_end_matches(".env");
        let problem =
            format!("{table} names more than one place. Keep one of env, file and command");
        return Err(ConfigError::new(settings.origin(env), problem));
    }
    Ok(first)
}

fn lake(settings: &Settings) -> Result<LakeConfig, ConfigError> {
    let file_mode = settings.get("lake.file_mode", |value| {
        let text = units::text(value)?;
        u32::from_str_radix(&text, 8).ok().filter(|mode| mode & !0o666 == 0 && mode & 0o600 == 0o600).ok_or_else(|| {
            "is not a file mode that its owner can read and write: write \"0600\", \"0640\" or \"0644\"".to_owned()
        })
    })?;
    let account = settings.get("lake.account", units::text)?;
    let lease = settings.get("lake.lease", lease)?;
    let Some(url) = settings.get("lake.url", |value| units::text(value)?.parse())? else {
        let problem = "lake.url is not set: where should the lake lie? Set it in pipeline.toml, or use --lake";
        return Err(ConfigError::new(Origin::Unset, problem));
    };
    Ok(LakeConfig {
        url,
        options: settings.options()?,
        lease: lease.unwrap_or(Duration::from_mins(1)),
        file_mode: file_mode.unwrap_or(0o600),
        account,
    })
}

fn http_url(value: &Value) -> Result<Url, String> {
    let url = Url::parse(&units::text(value)?)
        .map_err(|error| format!("is not a URL ({error}): write https://host"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("is not an http address: write https://host".to_owned());
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err("holds more than an address. The key belongs to source.api_key, filters to keys of their own".to_owned());
    }
    Ok(url)
}

/// How long leases bar others. A shorter one would be lost to a slow answer.
fn lease(value: &Value) -> Result<Duration, String> {
    let lease = units::duration(value)?;
    if lease < Duration::from_secs(5) {
        Err("is shorter than 5 s: a slow answer of the store would end a run's work".to_owned())
    } else if lease > MAX_LEASE_EXPIRY {
        Err(
            "is longer than an hour: so long would a dead run keep others from its slices"
                .to_owned(),
        )
    } else {
        Ok(lease)
    }
}

fn timezone(value: &Value) -> Result<TimeZone, String> {
    let name = units::text(value)?;
    TimeZone::get(&name)
        .map_err(|_| format!("is \"{name}\", which is no time zone: write an IANA name, such as \"UTC\" or \"America/New_York\""))
}

/// A number of days that a calendar can go back: up to a century.
fn lookback_days(value: &Value) -> Result<u32, String> {
    let days = units::integer(0)(value)?;
    if days > 36_500 {
        Err(format!("is {days}: at most 36500 days, a century"))
    } else {
        Ok(days)
    }
}

/// The zone's IANA name.
pub fn timezone_name(timezone: &TimeZone) -> String {
    timezone.iana_name().unwrap_or("UTC").to_owned()
}

fn compression(value: &Value) -> Result<Compression, String> {
    let text = units::text(value)?;
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

#[cfg(test)]
mod tests;
