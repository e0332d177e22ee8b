//! Lakes on a local disk, as the configuration names them.

use std::path::Path;

use jiff::Timestamp;

use super::world::key;
use crate::config::Config;
use crate::ops::check::check;
use crate::ops::open::open_lake;

/// A configuration of the lake in `directory`, and other keys.
fn config(directory: &Path, keys: &[(&str, &str)]) -> Config {
    let url = directory.join("lake").display().to_string();
    let keys = keys.iter().map(|&(key, value)| (key, value.to_owned()));
    Config::from_keys([("lake.url", url)].into_iter().chain(keys)).unwrap()
}

/// A file with a key, for `privacy.key.file`.
fn key_file(directory: &Path) -> String {
    let file = directory.join("key");
    std::fs::write(&file, "0123456789abcdefghijklmnopqrstuv").unwrap();
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, owner_only).unwrap();
    file.display().to_string()
}

#[tokio::test]
async fn a_lake_whose_key_is_not_set_names_its_key_and_advises_no_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = key_file(directory.path());
    let with_key = ("privacy.key.file", &*file);
    let pseudonyms = ("privacy.numbers", "pseudonymize");
    for (is_erasure, keys) in [(true, &[][..]), (false, &[pseudonyms])] {
        let directory = tempfile::tempdir().unwrap();
        let owner = config(directory.path(), &[&[with_key], keys].concat());
        let lake = open_lake(&owner, false).await.unwrap();
        if is_erasure {
            let number = key().token("+13025550101");
            lake.suppress(key().id(), &number, None).await.unwrap();
        }
        let config = config(directory.path(), keys);
        let refused = open_lake(&config, false).await.unwrap_err().to_string();
        let named = format!(
            "made with the key with ID {id}, but privacy.key is not set. A new key does not work. \
             Set privacy.key to the place of the key with ID {id}",
            id = key().id()
        );
        assert!(refused.ends_with(&named), "{refused}");
        let checks = check(&config, Timestamp::now()).await;
        let numbers = checks.iter().find(|check| check.what == "numbers");
        let numbers = numbers.unwrap().found.as_ref().unwrap_err();
        assert_eq!(numbers.to_string(), refused);
    }
}
