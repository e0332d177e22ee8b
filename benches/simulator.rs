//! A simulated API in a process of its own.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::program::{KEY, Run, run_against};

/// A simulated API. Dropping it ends the process.
pub(crate) struct Simulator {
    process: std::process::Child,
    pub(crate) url: String,
    /// Prerendered bodies, which a killed process would leave behind.
    _rendered: tempfile::TempDir,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Simulator {
    /// Starts the API with these arguments and waits until it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let rendered = tempfile::tempdir().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_cdrlake"))
            .env("TMPDIR", rendered.path())
            .args(["simulate", "--port", "0", "--key", KEY])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn();
        let mut process = process.unwrap();
        let mut url = String::new();
        let stdout = process.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut url).unwrap();
        let url = url.trim().to_owned();
        Self {
            process,
            url,
            _rendered: rendered,
        }
    }

    /// Runs a command of the program against it with these arguments.
    pub(crate) fn run(&self, command: &str, arguments: &[&str]) -> Run {
        run_against(&self.url, command, arguments, &[])
    }
}
