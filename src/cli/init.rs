//! `cdrlake init`: a first configuration.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use clap::Args;

use super::{CommandError, Exit, InitConfigArgs, print};
use crate::config::{Config, DEFAULT_FILE};

/// Write a configuration file, with a comment for every key.
#[derive(Clone, Debug, Args)]
pub(super) struct InitArgs {
    #[command(flatten)]
    config: InitConfigArgs,
}

pub(super) fn execute(args: &InitArgs) -> Result<Exit, CommandError> {
    let text = Config::new_file(&args.config.overrides())?;
    let file = args.config.config.as_deref();
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let failed = |error: std::io::Error| {
        let (path, exit) = (path.display(), Exit::Usage);
        CommandError::new(
            exit,
            match error.kind() {
                ErrorKind::AlreadyExists => format!(
                    "{path} exists already, and stays as it is. Edit it, or name another file with \
                     --config"
                ),
                _ => format!("cannot write {path}: {error}"),
            },
        )
    };
    let mut new = File::create_new(path).map_err(failed)?;
    if let Err(error) = new.write_all(text.as_bytes()).and_then(|()| new.sync_all()) {
        // A part of it would be refused as long as it is there.
        drop(std::fs::remove_file(path));
        return Err(failed(error));
    }
    let flag = file.map_or_else(String::new, |file| format!(" --config {}", file.display()));
    let path = path.display();
    print(
        format!("{path} is written. `cdrlake check{flag}` reports what is still missing.\n")
            .as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_sets_a_key_of_the_file() {
        for flag in InitConfigArgs::flags() {
            let value = match flag.name {
                "start" => "2026-02-03",
                "requests" => "7",
                "timezone" => "Asia/Tokyo",
                "reconcile" => "warn",
                "via" => "pages",
                "source-url" => "http://127.0.0.1:1/",
                _ => "a-value",
            };
            let text = Config::new_file(&vec![(flag.key, value.to_owned(), flag.shown)]);
            assert!(text.unwrap().contains(value), "{}", flag.shown);
        }
    }

    #[test]
    fn a_file_that_exists_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mine.toml");
        std::fs::write(&path, "mine").unwrap();
        let config = InitConfigArgs {
            config: Some(path.clone()),
            given: Vec::new(),
        };
        let refused = execute(&InitArgs { config }).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        assert!(
            refused.message.contains("mine.toml exists already"),
            "{}",
            refused.message
        );
        assert_eq!(std::fs::read_to_string(path).unwrap(), "mine");
    }
}
