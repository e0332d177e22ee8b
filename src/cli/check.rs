//! `cdrlake check`: would a run work?

use std::path::Path;

use jiff::Timestamp;

use super::{CheckArgs, CommandError, Exit, advice, print};
use crate::config::DEFAULT_FILE;
use crate::ops::check::{Checked, check};

const READY: &str = "ready   cdrlake plan shows what cdrlake run would fetch\n";

pub(super) async fn execute(args: &CheckArgs) -> Result<Exit, CommandError> {
    let config = args.load()?;
    let mut lines = Vec::new();
    let mut exit = Exit::Success;
    for Checked {
        what,
        found,
        remarks,
    } in check(&config, Timestamp::now()).await
    {
        let remarks = remarks.iter().map(advice::on_remark);
        let remarks = remarks.map(|remark| format!("warning {what}: {remark}\n"));
        match found {
            Ok(found) if what == "configuration" => {
                let from = |key| {
                    let name = args.override_of(key);
                    name.map(|name| format!(" (from {name})"))
                };
                let lake = from("lake.url").unwrap_or_default();
                lines.push(format!(
                    "ok      {what}: {found}; lake {}{lake}\n",
                    config.lake.url
                ));
                if let Some(from) = from("source.url") {
                    lines.push(format!("ok      source.url: {}{from}\n", config.source.url));
                }
                if config.window.start.is_none() {
                    let file = args.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
                    lines.push(format!(
                        "warning window.start is not set, so cdrlake run without --from or --last \
                         is refused. Set it in {} to the first day of the lake\n",
                        file.display()
                    ));
                }
            }
            Ok(found) => lines.push(format!("ok      {what}: {found}\n")),
            Err(error) => {
                let error = CommandError::from(error);
                // The gravest that was found: wrong configuration before a failing server.
                if exit != Exit::Usage {
                    exit = error.exit;
                }
                lines.push(format!("failed  {what}: {}\n", error.message));
                match what {
                    "configuration" => {
                        lines.push("skipped lake: its options are wrong\n".to_owned());
                    }
                    "key" => lines.push("skipped API: there is no key\n".to_owned()),
                    _ => {}
                }
            }
        }
        lines.extend(remarks);
    }
    if exit == Exit::Success && config.window.start.is_some() {
        lines.push(READY.to_owned());
    }
    print(lines.concat().as_bytes())?;
    Ok(exit)
}
