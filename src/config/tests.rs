use super::*;

pub(super) fn load(text: &str) -> Result<Config, ConfigError> {
    load_with(text, &[], &Overrides::new())
}

pub(super) fn load_with(
    text: &str,
    variables: &[(&str, &str)],
    overrides: &Overrides,
) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipeline.toml");
    std::fs::write(&path, text).unwrap();
    let mut settings = Settings::default();
    settings.read_file(&path)?;
    settings.read_variables(
        variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    Config::with_overrides(settings, overrides)
}

/// The message, without the temporary folder's name.
pub(super) fn problem(text: &str) -> String {
    let error = load(text).unwrap_err().to_string();
    error
        .split_once("pipeline.toml, ")
        .map_or(error.clone(), |(_, rest)| rest.to_owned())
}

#[test]
fn only_the_lake_s_address_is_required() {
    let config = load("lake.url = './lake'").unwrap();
    assert_eq!(config.source.url.as_str(), "https://api.wavix.com/");
    assert_eq!(config.source.directions, Direction::ALL);
    assert_eq!((config.source.requests, config.source.max_attempts), (4, 8));
    assert_eq!(config.window.start, None);
    assert_eq!(
        (config.window.lookback_days, config.window.settle_hours),
        (3, 24)
    );
    assert_eq!(config.lake.file_mode, 0o600);
    assert_eq!(config.parquet.row_group_bytes, 8 << 20);
    assert_eq!(config.quality.reconcile, Reconcile::Fail);
    assert_eq!(
        config.limits,
        LimitsConfig {
            max_record_bytes: 1 << 20,
            max_slice_bytes: 100 << 30,
            memory: 256 << 20,
            single_put_bytes: 16 << 20,
            spool_dir: std::env::temp_dir(),
        }
    );
    assert!(
        load("")
            .unwrap_err()
            .to_string()
            .contains("lake.url is not set")
    );
}

#[test]
fn the_example_file_shows_the_defaults() {
    let example = include_str!("../../pipeline.toml");
    let config = load(example).unwrap();
    let defaults = load("lake.url = './lake'\nsource.api_key.env = 'WAVIX_API_KEY'").unwrap();
    assert_eq!(
        format!("{config:?}"),
        format!("{defaults:?}"),
        "the example shows the defaults"
    );
}

#[test]
fn the_ratio_of_rejects_that_fails_a_slice_is_above_zero_and_defaults_to_a_tenth() {
    assert!(
        problem("[quality]\nfail_reject_ratio = 0")
            .starts_with("line 2: quality.fail_reject_ratio is not a share above 0")
    );
    let refuses = |toml: &str, rejected, records| {
        let config = load(&format!(
            "lake.url = './lake'\nsource.api_key.env = 'KEY'\n[quality]\n{toml}"
        ));
        let counts = Counts {
            records,
            rejected,
            ..Counts::default()
        };
        config.unwrap().quality.refuses_rejects(&counts).is_some()
    };
    for (rejected, records, expected) in [
        (0, 0, false),
        (1, 1, true),
        (1, 10, true),
        (3, 30, true),
        (9, 91, false),
        // Many, and more than one in a thousand.
        (10, 10_000, false),
        (11, 10_000, true),
    ] {
        assert_eq!(
            refuses("", rejected, records),
            expected,
            "{rejected} of {records}"
        );
    }
    assert!(!refuses("fail_reject_ratio = 0.5", 4, 9));
    assert!(refuses("fail_reject_ratio = 1", 9, 9));
}

#[test]
fn a_variable_overrides_a_bucket_s_option_of_the_file() {
    let file = "[lake]\nurl = 's3://calls/wavix'\nlease = '30s'\n[lake.options]\nregion = \
         'a'\nallow_http = true\n[limits]\nspool_dir = '/spool'";
    let variables = [("CDRLAKE_LAKE_OPTIONS_REGION", "b")];
    let config = load_with(file, &variables, &Overrides::new()).unwrap();
    assert_eq!(config.lake.url.to_string(), "s3://calls/wavix");
    assert_eq!(config.lake.lease, Duration::from_secs(30));
    assert_eq!(config.limits.spool_dir, Path::new("/spool"));
    let options: Vec<_> = config
        .lake
        .options
        .iter()
        .map(|(name, (value, _))| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(options, [("allow_http", "true"), ("region", "b")]);
    assert_eq!(
        problem("[lake]\nurl = 'x'\nlease = '1s'"),
        "line 3: lake.lease must be at least 5s, so that a slow answer of the store does not end a \
         lease"
    );
    assert_eq!(
        problem("[lake]\nurl = 'x'\n[lake.options]\nregion = ['a']"),
        "line 4: lake.options.region is not a text, a number, true or false"
    );
}

/// Wrong lines, and how their problems begin.
const WRONG_VALUES: &[(&str, &str)] = &[
    (
        "[source]\nurl = 7",
        "line 2: source.url is a number: write a text in quotes",
    ),
    (
        "[source]\nurl = 'ftp://x'",
        "line 2: source.url is not an http address: write https://host",
    ),
    (
        "[source]\nurl = 'http://example.com'",
        "line 2: source.url is plain http",
    ),
    (
        "[source]\nurl = 'https://u:p@example.com'",
        "line 2: source.url must be an address only",
    ),
    (
        "[source]\nurl = 'https://example.com/?appid=SECRET'",
        "line 2: source.url must be an address only",
    ),
    (
        "[source]\nretry_base = 5",
        "line 2: source.retry_base is a number: write a text in quotes",
    ),
    (
        "[source]\nretry_base = '5 parsecs'",
        "line 2: source.retry_base is not a duration",
    ),
    (
        "[source]\nretry_max = '1ms'",
        "line 2: source.retry_max is shorter than source.retry_base",
    ),
    (
        "[source]\ndirections = ['sideways']",
        "line 2: source.directions is wrong: `sideways` is not a direction",
    ),
    (
        "[source]\ndirections = []",
        "line 2: source.directions is empty",
    ),
    ("[window]\nstart = 2026-13-01", "line 2: not valid TOML"),
    (
        "[window]\nstart = '2026-02-30'",
        "line 2: window.start is wrong: `2026-02-30` is not a day",
    ),
    (
        "[window]\nstart = 2026-01-01T00:00:00Z",
        "line 2: window.start is wrong",
    ),
    (
        "[window]\ntimezone = 'Mars/Olympus'",
        "line 2: window.timezone is \"Mars/Olympus\", which is not a time zone",
    ),
    (
        "[lake]\nurl = 'ftp://bucket/x'",
        "line 2: lake.url is a ftp:// address: write a directory, s3://bucket/prefix, gs://",
    ),
    (
        "[lake]\nurl = 's3//bucket/x'",
        "line 2: lake.url lacks the colon: write s3://bucket/prefix",
    ),
    ("[lake]\nurl = ''", "line 2: lake.url is empty"),
    (
        "[lake]\nfile_mode = '0444'",
        "line 2: lake.file_mode must be a file mode",
    ),
    (
        "[parquet]\ncompression = 'lzma'",
        "line 2: parquet.compression is \"lzma\"",
    ),
    (
        "[parquet]\ncompression = 'zstd(99)'",
        "line 2: parquet.compression is \"zstd(99)\"",
    ),
    (
        "[parquet]\nrow_group_bytes = '16 elephants'",
        "line 2: parquet.row_group_bytes is not a size",
    ),
    (
        "[quality]\nmax_reject_ratio = 2",
        "line 2: quality.max_reject_ratio is not a share",
    ),
    (
        "[quality]\nreconcile = 'maybe'",
        "line 2: quality.reconcile is \"maybe\": write \"fail\" or \"warn\" or \"off\"",
    ),
    (
        "[quality]\ndedupe = 'maybe'",
        "line 2: quality.dedupe is neither true nor false",
    ),
    (
        "[privacy]\nnumbers = 'hash'",
        "line 2: privacy.numbers is \"hash\": write \"keep\" or \"truncate\" or \
         \"pseudonymize\"",
    ),
    ("source = 1", "line 1: source is a section. Write [source]"),
    ("[source\nurl = 'x'", "line 1: not valid TOML"),
];

#[test]
fn an_invalid_value_is_reported_with_its_line_and_the_valid_ones() {
    for (text, expected) in WRONG_VALUES {
        let problem = problem(&format!("{text}\n"));
        assert!(
            problem.starts_with(expected),
            "{text}\n  said     {problem}\n  expected {expected}"
        );
    }
}

#[test]
fn a_look_back_of_more_than_a_century_is_refused() {
    let expected = "line 2: window.lookback_days is 99999999: it must be at most 36500 (a century)";
    assert_eq!(problem("[window]\nlookback_days = 99999999"), expected);
}

#[test]
fn a_path_for_a_shell_to_expand_is_refused_with_the_expanded_path() {
    let home = std::env::var("HOME").unwrap();
    let home = home.trim_end_matches('/');
    for (path, meant) in [
        ("~/lake", format!("{home}/lake")),
        ("~", home.to_owned()),
        ("$HOME/a/b", format!("{home}/a/b")),
        ("~ann/lake", "/home/ann/lake".to_owned()),
    ] {
        for (key, toml) in [
            ("lake.url", format!("lake.url = '{path}'")),
            (
                "source.ca_file",
                format!("lake.url = 'x'\nsource.ca_file = '{path}'"),
            ),
            (
                "limits.spool_dir",
                format!("lake.url = 'x'\nlimits.spool_dir = '{path}'"),
            ),
            (
                "source.api_key.file",
                format!("lake.url = 'x'\nsource.api_key.file = '{path}'"),
            ),
            (
                "privacy.key.file",
                format!("lake.url = 'x'\nprivacy.key.file = '{path}'"),
            ),
        ] {
            let problem = problem(&toml);
            let expected =
                format!("{key} is \"{path}\", which only a shell expands: write {meant}");
            assert!(problem.contains(&expected), "{expected}: {problem}");
        }
    }
    for path in ["./~", "a~b", "lake~", "./$HOME"] {
        assert!(load(&format!("lake.url = '{path}'")).is_ok(), "{path}");
    }
}

#[test]
fn a_filter_omits_calls_unless_it_has_its_default() {
    let source = |toml: &str| load(&format!("lake.url = 'x'\n{toml}")).unwrap().source;
    let unset = source("");
    let filters = unset.filters.iter();
    let filters: Vec<_> = filters.map(|it| (&*it.name, &*it.value)).collect();
    assert_eq!(filters, [("disposition", "all")]);
    assert_eq!(unset.changed_filter(), None);
    for (name, is_number) in [
        ("disposition", false),
        ("sip_trunk", false),
        ("from_search", true),
        ("to_search", true),
    ] {
        let set = source(&format!("source.{name} = '1302'"));
        assert_eq!(set.changed_filter(), Some(name));
        let numbers: Vec<_> = set.number_filters().map(|it| &*it.value).collect();
        assert_eq!(numbers, vec!["1302"; usize::from(is_number)], "{name}");
    }
}

#[test]
fn another_mode_or_key_of_pseudonyms_means_another_lake() {
    let key = |key: &str| PrivacyKey::try_new(&key.repeat(4)).unwrap();
    let identity = |toml: &str, key: Option<PrivacyKey>| {
        let config = load(&format!(
            "lake.url = 'x'\nsource.from_search = '13025550101'\n{toml}"
        ))
        .unwrap();
        let privacy = Privacy::new(config.privacy.modes, key);
        config.identity(&privacy)
    };
    let keep = identity("", None);
    let truncate = identity("privacy.numbers = 'truncate'", None);
    let first = identity("privacy.numbers = 'pseudonymize'", Some(key("0123456789")));
    let second = identity("privacy.numbers = 'pseudonymize'", Some(key("abcdefghij")));
    let but_one = identity(
        "privacy.numbers = 'pseudonymize'\nprivacy.extra = 'keep'",
        Some(key("0123456789")),
    );
    assert_eq!(keep.source[1].value, "13025550101");
    for hidden in [&truncate, &first] {
        assert!(!serde_json::to_string(hidden).unwrap().contains("5550101"));
    }
    for (wanted, existing, expected) in [
        (&keep, &truncate, Some("source.from_search")),
        (&first, &second, Some("source.from_search")),
        (&first, &but_one, Some("privacy.extra")),
        (&first, &first, None),
        (&keep, &keep, None),
    ] {
        let found = wanted.difference(existing).map(|(key, ..)| key);
        assert_eq!(found.as_deref(), expected);
    }
    let without = |mut identity: Identity| {
        identity.source.clear();
        identity
    };
    let (first, second) = (without(first), without(second));
    assert_eq!(
        first.difference(&without(keep)).unwrap().0,
        "privacy.numbers"
    );
    let (key, existing, wanted) = first.difference(&second).unwrap();
    assert_eq!(key, "privacy.key");
    assert!(existing.starts_with("the key with ID ") && existing != wanted);
}

#[test]
fn a_catalog_has_a_namespace_and_its_credential_is_fetched_when_needed() {
    let lake = "lake.url = 'x'\n[lake.iceberg.catalog]\n";
    let of = |keys: &str| load(&format!("{lake}{keys}")).map(|config| config.lake.catalog);
    let url = "url = 'https://catalog.example/api'\n";
    let catalog = of(&format!(
        "{url}namespace = 'a.b'\ncredential.command = ['echo', 'id:s3cret']"
    ));
    let catalog = catalog.unwrap().unwrap();
    assert_eq!(catalog.namespace, ["a", "b"]);
    assert_eq!((&*catalog.table, &*catalog.scope), ("cdrs", "catalog"));
    let credential = (catalog.credential.as_ref().unwrap().0)().unwrap();
    assert_eq!(credential.expose_secret(), "id:s3cret");
    assert!(!format!("{catalog:?}").contains("s3cret"));
    assert!(of("table = 'calls'").unwrap().is_none());

    let message = |keys: &str| problem(&format!("{lake}{keys}"));
    assert_eq!(
        message("namespace = 'a'"),
        "lake.iceberg.catalog.url is not set"
    );
    assert_eq!(message(url), "lake.iceberg.catalog.namespace is not set");
    for (keys, expected) in [
        (
            "namespace = 'a..b'",
            "lake.iceberg.catalog.namespace has an empty level",
        ),
        (
            "url = 'http://catalog.example'\nnamespace = 'a'",
            "is plain http",
        ),
        (
            "url = 'https://id:SECRET@catalog.example'",
            "must be an address only",
        ),
        (
            "url = 'https://catalog.example?key=SECRET'",
            "must be an address only",
        ),
        (
            "credential = 'id:SECRET'",
            "must not contain the key itself",
        ),
        ("tabel = 'x'", "Did you mean lake.iceberg.catalog.table?"),
    ] {
        let message = message(keys);
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains("SECRET"), "{message}");
    }
    let message = problem(&format!(
        "lake.tables = ['delta']\n{lake}{url}namespace = 'a'"
    ));
    assert!(
        message.contains("lake.tables has no \"iceberg\""),
        "{message}"
    );
}
