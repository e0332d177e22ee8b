//! Keys: where they are to be had, and how they are fetched from there.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use toml::Value;

use super::settings::Settings;
use super::{ConfigError, values};
use crate::error::counted;

/// Shortest key: a shorter one would stand in every other word of a message, where it is hidden.
/// The simulator's is `demo`.
const MIN_KEY_BYTES: usize = 4;

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

/// The place of a key, by the keys of the configuration that name it: at most one of them.
pub(super) fn key_source(
    settings: &Settings,
    [env, file, command]: [&'static str; 3],
) -> Result<Option<KeySource>, ConfigError> {
    let command = settings.get(command, |value| match value {
        Value::Array(_) => values::list(value).and_then(|words| {
            if words.is_empty() {
                Err("is empty".to_owned())
            } else {
                Ok(words)
            }
        }),
        value => Ok(values::text(value)?
            .split_whitespace()
            .map(str::to_owned)
            .collect()),
    })?;
    let mut sources = [
        settings.get(env, values::text)?.map(KeySource::Env),
        settings.get(file, values::path)?.map(KeySource::File),
        command.map(KeySource::Command),
    ]
    .into_iter()
    .flatten();
    let first = sources.next();
    if sources.next().is_some() {
        let table = env.trim_end_matches(".env");
        let problem = format!("{table} has more than one of env, file and command. Keep one");
        return Err(ConfigError::new(settings.origin(env), problem));
    }
    Ok(first)
}

impl KeySource {
    /// Fetches a key of printable characters. `name` is the key of the configuration that names the
    /// place.
    ///
    /// # Errors
    /// A sentence, if there is no key, or it is not valid. It never contains the key.
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
            return Err(format!("{name}: {self} is empty. Put the key there"));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "{name}: the key contains invalid characters. Check the file or variable"
            ));
        }
        let first = key.as_bytes().first();
        let fault = match key.len() {
            length if length < MIN_KEY_BYTES => format!(
                "{}, which is too short for a key",
                counted(length as u64, "character", "characters")
            ),
            _ if key.bytes().all(|byte| Some(&byte) == first) => {
                "only one repeated character, which is not a key".to_owned()
            }
            _ => return Ok(SecretString::from(key)),
        };
        Err(format!(
            "{name}: {self} holds {fault}. Check the file or variable"
        ))
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The key itself may stand here instead of a variable's name.
            Self::Env(name) if !is_variable_name(name) => {
                f.write_str("the variable (not shown, because the name may be the key itself)")
            }
            Self::Env(name) => write!(f, "the variable {name}"),
            Self::File(path) if !path.exists() && !looks_like_a_path(&path.to_string_lossy()) => f
                .write_str(
                    "the file of the key (not shown, because the name may be the key itself)",
                ),
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

/// The program of a key command, unless there is no such program: it may be the key itself.
fn shown_program(program: &str) -> String {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let is_there = || std::env::split_paths(&paths).any(|path| path.join(program).exists());
    if looks_like_a_path(program) || is_there() {
        program.to_owned()
    } else {
        "(not shown: there is no such program)".to_owned()
    }
}

/// Longest time for a command to print a key. It may ask the user for confirmation.
const MAX_COMMAND_TIME: Duration = Duration::from_mins(1);
/// Longest key read from a file or a command: anything longer is something else.
const MAX_KEY_BYTES: u64 = 16 << 10;

fn unreadable(error: &std::io::Error) -> String {
    format!("cannot be read: {error}. Check the path and the permissions")
}

fn read_key_file(path: &Path) -> Result<String, String> {
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    let file = std::fs::File::open(path).map_err(|error| unreadable(&error))?;
    let metadata = file.metadata().map_err(|error| unreadable(&error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_dir() {
        return Err("is a directory. Name the file in it that contains the key".to_owned());
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
        .map_err(|error| unreadable(&error))?;
    Ok(key)
}

/// Whether a file belongs to the user of this process.
fn is_own(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;

    own_ids(&["Uid"]).contains(&metadata.uid())
}

/// Whether a file lies on a file system that is mounted read-only, so that its mode cannot be
/// changed.
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
    // On its own thread: a child of the command may keep its output open for ever.
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
        // It may have ended in the meantime.
        drop(child.kill());
        drop(child.wait());
        return Err(if is_too_long {
            format!("printed more than {MAX_KEY_BYTES} bytes, which is not a key")
        } else {
            format!("did not end within {limit:?}, and was stopped")
        });
    };
    if !status.success() {
        return Err(format!("failed ({status})"));
    }
    let text = text.map_err(|error| format!("cannot be read: {error}"))?;
    String::from_utf8(text).map_err(|_| "printed something that is not text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{load, load_with, problem};
    use super::*;
    use crate::config::Overrides;

    #[test]
    fn a_key_that_is_too_short_or_too_simple_is_refused() {
        let key = |text: &str| {
            load(&format!(
                "lake.url = 'x'\nsource.api_key.command = 'echo {text}'"
            ))
            .unwrap()
            .api_key()
        };
        for (text, said) in [
            (
                "e",
                "the output of echo holds 1 character, which is too short for a key. Check the \
                 file or variable",
            ),
            ("abc", "holds 3 characters, which is too short for a key"),
            (
                "aaaaaaaa",
                "the output of echo holds only one repeated character, which is not a key",
            ),
        ] {
            let problem = key(text).unwrap_err().to_string();
            assert!(problem.contains(said), "{problem}");
            assert!(!problem.contains("aaaa"), "{problem}");
        }
        assert!(key("demo").is_ok());
    }

    #[test]
    fn a_key_is_read_from_a_private_file_or_a_command() {
        use std::os::unix::fs::PermissionsExt;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "s3cret\n").unwrap();
        let with = |source: String| {
            load(&format!("lake.url = 'x'\nsource.api_key.{source}"))
                .unwrap()
                .api_key()
        };
        let file = || with(format!("file = '{}'", path.display()));
        let mode =
            |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let exposed = |key: SecretString| secrecy::ExposeSecret::expose_secret(&key).to_owned();
        mode(0o600);
        assert_eq!(exposed(file().unwrap()), "s3cret");
        // A file of our own must not be readable by a group.
        mode(0o440);
        let problem = file().unwrap_err().to_string();
        assert!(problem.contains("(mode 440)"), "{problem}");
        // Of a group of this process, as Kubernetes mounts a secret with fsGroup; not of all.
        let is_root = std::os::unix::fs::chown(&path, Some(61_999), None).is_ok();
        for (bits, is_accepted) in [
            (0o400, true),
            (0o440, true),
            (0o640, true),
            (0o660, false),
            (0o650, false),
            (0o604, false),
            (0o444, false),
            (0o644, false),
        ] {
            mode(bits);
            match file() {
                Ok(_) => assert!(is_accepted, "{bits:o}"),
                Err(_) if !is_root && bits & 0o077 == 0o040 => {}
                Err(problem) => {
                    let problem = problem.to_string();
                    let said = format!("may be read by others (mode {bits:03o}). Run: chmod 600");
                    assert!(!is_accepted && problem.contains(&said), "{problem}");
                }
            }
        }
        // Nor of another group, where this process may give a file away.
        mode(0o440);
        if std::os::unix::fs::chown(&path, None, Some(61_999)).is_ok() {
            let problem = file().unwrap_err().to_string();
            assert!(problem.contains("(mode 440)"), "{problem}");
        }
        mode(0o600);
        std::fs::write(&path, " \n").unwrap();
        assert!(
            file()
                .unwrap_err()
                .to_string()
                .ends_with("key is empty. Put the key there")
        );
        std::fs::write(&path, "a\nb").unwrap();
        assert!(
            file()
                .unwrap_err()
                .to_string()
                .contains("the key contains invalid characters")
        );

        assert_eq!(
            exposed(with("command = ['printf', 's3cret\\n']".to_owned()).unwrap()),
            "s3cret"
        );
        assert!(
            with("command = ['false']".to_owned())
                .unwrap_err()
                .to_string()
                .contains("the command false failed")
        );
        assert!(
            with("command = ['/no/such/program']".to_owned())
                .unwrap_err()
                .to_string()
                .contains("cannot be run")
        );
        assert!(
            with("env = 'CDRLAKE_TEST_UNSET'".to_owned())
                .unwrap_err()
                .to_string()
                .contains("the variable CDRLAKE_TEST_UNSET is not set")
        );
    }

    #[test]
    fn pseudonyms_require_a_long_key_in_a_private_file() {
        use std::os::unix::fs::PermissionsExt;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let of = |more: &str| {
            load(&format!("lake.url = 'x'\nprivacy.{more}"))
                .unwrap()
                .privacy(false)
        };
        assert!(of("numbers = 'truncate'").unwrap().key().is_none());
        let problem = of("numbers = 'pseudonymize'").unwrap_err().to_string();
        assert!(
            problem.contains("Set privacy.key") && problem.contains("openssl"),
            "{problem}"
        );
        let file = format!(
            "to_number = 'pseudonymize'\nprivacy.key.file = '{}'",
            path.display()
        );
        for (key, mode, expected) in [
            (
                "0123456789abcdef0123456789abcde",
                0o600,
                "the key has 31 characters, but needs at least 32",
            ),
            (&"ab".repeat(40), 0o600, "fewer than 8 different characters"),
            (
                "0123456789abcdef0123456789abcdef",
                0o644,
                "may be read by others (mode 644)",
            ),
        ] {
            std::fs::write(&path, key).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let problem = of(&file).unwrap_err().to_string();
            assert!(problem.contains(expected), "{problem}");
            assert!(!problem.contains(key), "{problem}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let privacy = of(&file).unwrap();
        assert_eq!(privacy.key_id().map(str::len), Some(16));
        let shown = format!("{privacy:?}");
        assert!(!shown.contains("0123456789abcdef0"), "{shown}");
    }

    #[test]
    fn a_key_command_that_hangs_or_prints_endlessly_is_killed() {
        let run = |command: &[&str], limit| {
            let command: Vec<_> = command.iter().map(|&word| word.to_owned()).collect();
            run_key_command(&command, Duration::from_millis(limit))
        };
        let problem = run(&["sleep", "300"], 50).unwrap_err();
        assert!(problem.contains("did not end within 50ms"), "{problem}");
        let problem = run(&["yes"], 60_000).unwrap_err();
        assert!(
            problem.contains("printed more than 16384 bytes"),
            "{problem}"
        );
        assert_eq!(run(&["echo", "s3cret"], 60_000).as_deref(), Ok("s3cret\n"));
        let problem = run(&["false"], 60_000).unwrap_err();
        assert!(problem.contains("failed (exit status: 1)"), "{problem}");
    }

    #[test]
    fn a_key_given_instead_of_its_file_or_command_is_not_printed() {
        for place in ["file", "command"] {
            let config = load(&format!(
                "lake.url = 'x'\nsource.api_key.{place} = 'sk_live_abcdef'"
            ));
            let problem = config.unwrap().api_key().unwrap_err().to_string();
            assert!(!problem.contains("sk_live"), "{problem}");
            assert!(problem.contains("No such file"), "{problem}");
        }
        let missing = load("lake.url = 'x'\nsource.api_key.file = '/nowhere/key'").unwrap();
        let problem = missing.api_key().unwrap_err().to_string();
        assert!(problem.contains("/nowhere/key"), "{problem}");
    }

    #[test]
    fn the_place_of_the_key_comes_from_one_layer_of_the_configuration() {
        let file = "lake.url = 'x'\nsource.api_key.file = 'f'";
        let variable = [("CDRLAKE_SOURCE_API_KEY_ENV", "V")];
        assert_eq!(
            load(file).unwrap().source.api_key,
            Some(KeySource::File("f".into()))
        );
        assert_eq!(
            load_with(file, &variable, &Overrides::new())
                .unwrap()
                .source
                .api_key,
            Some(KeySource::Env("V".to_owned()))
        );
        let flags = vec![("source.api_key.env", "W".to_owned(), "--api-key-env")];
        assert_eq!(
            load_with(file, &variable, &flags).unwrap().source.api_key,
            Some(KeySource::Env("W".to_owned()))
        );
        assert!(
            problem("source.api_key = { env = 'A', file = 'b' }\nlake.url = 'x'")
                .contains("has more than one of env, file and command")
        );
    }
}
