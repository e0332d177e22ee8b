//! `cdrlake check`: would a run work?

use jiff::Timestamp;

use super::{ApiArgs, CommandError, Exit, print};
use crate::ops::check::{Checked, check};

pub(super) async fn execute(args: &ApiArgs) -> Result<Exit, CommandError> {
    let config = args.load()?;
    let mut lines = vec![format!(
        "ok      configuration: valid; lake {}\n",
        config.lake.url
    )];
    let mut exit = Exit::Success;
    for Checked { what, found } in check(&config, Timestamp::now()).await {
        match found {
            Ok(found) => lines.push(format!("ok      {what}: {found}\n")),
            Err(error) => {
                let error = CommandError::from(error);
                // The gravest that was found: wrong configuration before a failing server.
                if exit != Exit::Usage {
                    exit = error.exit;
                }
                lines.push(format!("failed  {what}: {}\n", error.message));
                if what == "key" {
                    lines.push("skipped API: there is no key\n".to_owned());
                }
            }
        }
    }
    print(lines.concat().as_bytes())?;
    Ok(exit)
}
