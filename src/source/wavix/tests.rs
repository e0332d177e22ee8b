use std::path::Path;

use super::*;
use crate::cdr::slice::{Direction, Slice};
use crate::config::Config;

fn slice() -> Slice {
    Slice::of_day(jiff::civil::date(2026, 10, 1), Direction::Received)
}

/// A client that sends no request, with these keys of the configuration.
fn api(keys: &[(&str, &str)]) -> Api {
    let basic = [("lake.url", "lake")];
    let config = Config::from_keys(basic.iter().chain(keys).copied()).unwrap();
    Api::try_new(&config.source, Some("first".to_owned().into())).unwrap()
}

fn write_key(path: &Path, key: &str) {
    use std::os::unix::fs::PermissionsExt;

    std::fs::write(path, key).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn key(api: &Api) -> (usize, String) {
    let key = api.credentials.key().unwrap().expose_secret().to_owned();
    (api.credentials.generation(), key)
}

#[tokio::test]
async fn concurrent_refusals_of_one_key_read_the_next_key_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let api = api(&[("source.api_key.file", path.to_str().unwrap())]);
    let (first, _) = key(&api);
    write_key(&path, "second");
    futures::future::join_all((0..8).map(|_| api.renew_key(first))).await;
    assert_eq!(key(&api), (first + 1, "second".to_owned()));
    // A late refusal of the first key does not replace the second one.
    write_key(&path, "third");
    api.renew_key(first).await;
    assert_eq!(key(&api), (first + 1, "second".to_owned()));
    api.renew_key(first + 1).await;
    assert_eq!(key(&api), (first + 2, "third".to_owned()));
}

#[tokio::test]
async fn the_place_of_an_unchanged_key_is_read_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let api = api(&[("source.api_key.file", path.to_str().unwrap())]);
    let (first, _) = key(&api);
    // Neither the same key nor a missing file is a new key.
    for text in [Some("first"), None] {
        *api.replaced.lock().await = 0;
        match text {
            Some(text) => write_key(&path, text),
            None => std::fs::remove_file(&path).unwrap(),
        }
        api.renew_key(first).await;
        assert_eq!(key(&api), (first, "first".to_owned()));
    }
    write_key(&path, "second");
    api.renew_key(first).await;
    assert_eq!(
        key(&api),
        (first, "first".to_owned()),
        "the file was read already"
    );
}

#[tokio::test]
async fn a_key_from_a_variable_is_not_read_again() {
    let api = api(&[("source.api_key.env", "PATH")]);
    let before = key(&api);
    api.renew_key(before.0).await;
    assert_eq!(key(&api), before);
}

#[test]
fn the_ledger_has_the_query_without_phone_numbers() {
    let api = api(&[
        ("source.from_search", "13025550101"),
        ("source.sip_trunk", "7"),
    ]);
    let query = api.query(Request::whole(slice()));
    let recorded = api.query_for_ledger(query.clone());
    let of = |query: &[(String, String)], name: &str| {
        let mut values = query.iter().filter(|(key, _)| key == name);
        let value = values.next().map(|(_, value)| value.clone());
        assert!(values.next().is_none(), "{name} occurs twice");
        value.unwrap()
    };
    for (name, value) in [
        ("from", "2026-10-01"),
        ("to", "2026-10-01"),
        ("type", "received"),
        ("sip_trunk", "7"),
        ("disposition", "all"),
    ] {
        assert_eq!((&*of(&query, name), &*of(&recorded, name)), (value, value));
    }
    assert_eq!(of(&query, "from_search"), "13025550101");
    assert_eq!(of(&recorded, "from_search"), "(as in lake.json)");
    assert_eq!(query.len(), recorded.len());
}

#[test]
fn no_two_resources_share_a_path() {
    let resources = [Resource::Stream, Resource::List, Resource::Csv];
    let paths = resources.map(|resource| [resource.path(false), resource.path(true)]);
    let mut paths = paths.concat();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), 6);
}

#[test]
fn a_host_is_shown_without_credentials_and_with_its_port() {
    for (url, host) in [
        ("https://api.example/prefix/", "api.example"),
        ("https://api.example:8443", "api.example:8443"),
        ("https://api.example:443", "api.example"),
        ("http://[::1]:8080", "[::1]:8080"),
    ] {
        assert_eq!(api(&[("source.url", url)]).host(), host);
    }
}

#[test]
fn a_source_is_cut_off_until_a_request_is_answered() {
    let api = api(&[]);
    assert!(api.is_cut_off() && !api.is_fixed());
    api.reached.store(true, Ordering::Relaxed);
    assert!(!api.is_cut_off());
}
