use super::*;

fn load(text: &str) -> Result<Config, ConfigError> {
    load_with(text, &[], &Overrides::new())
}

fn load_with(
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
fn problem(text: &str) -> String {
    let error = load(text).unwrap_err().to_string();
    error
        .split_once("pipeline.toml, ")
        .map_or(error.clone(), |(_, rest)| rest.to_owned())
}

#[test]
fn a_lake_is_all_that_has_to_be_named() {
    let config = load("lake.url = './lake'").unwrap();
    assert_eq!(config.source.url.as_str(), "https://api.wavix.com/");
    assert_eq!(config.source.disposition, "all");
    assert_eq!(config.source.directions, Direction::ALL);
    assert_eq!((config.source.requests, config.source.max_attempts), (4, 8));
    assert_eq!(config.window.start, None);
    assert_eq!(
        (config.window.lookback_days, config.window.settle_hours),
        (3, 24)
    );
    assert_eq!(config.lake.file_mode, 0o600);
    assert_eq!(config.parquet.row_group_bytes, 16 << 20);
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
fn every_key_of_the_example_file_is_read() {
    let example = include_str!("../../pipeline.toml");
    let config = load(example).unwrap();
    let defaults = load("lake.url = './lake'\nsource.api_key.env = 'WAVIX_API_KEY'").unwrap();
    assert_eq!(
        format!("{config:?}"),
        format!("{defaults:?}"),
        "the example shows the defaults"
    );
    for key in settings::KEYS {
        let name = key.rsplit('.').next().unwrap();
        assert!(
            example.contains(name),
            "{key} is missing from pipeline.toml"
        );
        assert!(
            include_str!("../../README.md").contains(key),
            "{key} is missing from the README"
        );
    }
}

#[test]
fn a_share_from_which_a_slice_fails_lies_above_zero_and_a_tenth_is_enough() {
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
fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
    let file = "[lake]\nurl = 'a'\n[source]\nrequests = 2\nretry_base = '2s'";
    let variables = [
        ("CDRLAKE_SOURCE_REQUESTS", "3"),
        ("CDRLAKE_SOURCE_RETRY_BASE", "3s"),
        ("CDRLAKE_SOURCE_DIRECTIONS", "received, placed"),
    ];
    let flags = vec![("source.requests", "5".to_owned(), "--requests")];
    let config = load_with(file, &variables, &flags).unwrap();
    assert_eq!(config.source.requests, 5);
    assert_eq!(config.source.retry_base, Duration::from_secs(3));
    assert_eq!(config.source.directions, Direction::ALL);
    let error = load_with(
        file,
        &[("CDRLAKE_SOURCE_REQUESTS", "many")],
        &Overrides::new(),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "variable CDRLAKE_SOURCE_REQUESTS: source.requests is not a whole number"
    );
    let error = load_with(
        file,
        &[],
        &vec![("source.requests", "0".to_owned(), "--requests")],
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "flag --requests: source.requests is 0: it must be at least 1"
    );
    let small = [("CDRLAKE_PARQUET_ROW_GROUP_ROWS", "999")];
    let error = load_with(file, &small, &Overrides::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "variable CDRLAKE_PARQUET_ROW_GROUP_ROWS: parquet.row_group_rows is 999: it must be at least 1000"
    );
}

#[test]
fn a_bucket_s_options_come_from_the_file_and_from_variables_that_win() {
    let file = "[lake]\nurl = 's3://calls/wavix'\nlease = '30s'\n[lake.options]\nregion = 'a'\nallow_http = true\n[limits]\nspool_dir = '/spool'";
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
        "line 3: lake.lease is shorter than 5 s: a slow answer of the store would end a run's work"
    );
    assert_eq!(
        problem("[lake]\nurl = 'x'\n[lake.options]\nregion = ['a']"),
        "line 4: lake.options.region is no text, number, true or false"
    );
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    assert_eq!(
        problem("[lake]\nurl = 'x'\n\n[source]\nretry_bose = '1s'"),
        "line 5: there is no key source.retry_bose. Did you mean source.retry_base?"
    );
    assert_eq!(
        problem("[lake]\nmax_rejects = 1"),
        "line 2: there is no key lake.max_rejects. Did you mean quality.max_rejects?"
    );
    assert_eq!(
        problem("[sourc]\nurl = 1"),
        "line 1: there is no key sourc. Did you mean source?"
    );
    let mut settings = Settings::default();
    let variables = ["CDRLAKE_LAKE_ULR", "CDRLAKE_PORTS", "CDRLAKE_PORT"];
    let warnings = settings.read_variables(
        variables
            .into_iter()
            .map(|name| (name.to_owned(), "y".to_owned())),
    );
    assert_eq!(
        warnings[0],
        "CDRLAKE_LAKE_ULR sets nothing. Did you mean CDRLAKE_LAKE_URL?"
    );
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        load_with(
            "lake.url = 'x'",
            &[("CDRLAKE_LOG", "debug")],
            &Overrides::new()
        )
        .is_ok()
    );
}

#[test]
fn a_wrong_value_is_named_with_its_line_and_what_would_be_right() {
    for (text, expected) in [
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
            "line 2: source.url holds more than an address",
        ),
        (
            "[source]\nurl = 'https://example.com/?appid=SECRET'",
            "line 2: source.url holds more than an address",
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
            "line 2: window.timezone is \"Mars/Olympus\", which is no time zone",
        ),
        (
            "[lake]\nurl = 'ftp://bucket/x'",
            "line 2: lake.url is a ftp:// address: write a directory, s3://bucket/prefix, gs://",
        ),
        ("[lake]\nurl = ''", "line 2: lake.url is empty"),
        (
            "[lake]\nfile_mode = '0444'",
            "line 2: lake.file_mode is not a file mode",
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
            "line 2: privacy.numbers is \"hash\": write \"keep\" or \"truncate\" or \"pseudonymize\"",
        ),
        ("source = 1", "line 1: source is a section: write [source]"),
        ("[source\nurl = 'x'", "line 1: not valid TOML"),
    ] {
        let problem = problem(&format!("{text}\n"));
        assert!(
            problem.starts_with(expected),
            "{text}\n  said     {problem}\n  expected {expected}"
        );
    }
}

#[test]
fn no_calendar_is_overrun() {
    let expected = "line 2: window.lookback_days is 99999999: at most 36500 days, a century";
    assert_eq!(problem("[window]\nlookback_days = 99999999"), expected);
}

#[test]
fn the_key_itself_is_refused_and_never_quoted() {
    for text in [
        "[source]\napi_key = 'SECRET'",
        "[source]\napi_key = { key = 'SECRET' }",
        "[privacy]\nkey = 'SECRET'",
        "[source]\napi_key = 'SECRET",
        "[source]\nkey = 'SECRET'",
    ] {
        let problem = problem(text);
        assert!(!problem.contains("SECRET"), "{problem}");
        assert!(problem.starts_with("line 2"), "{problem}");
    }
    let variable = ("CDRLAKE_SOURCE_API_KEY".to_owned(), "SECRET".to_owned());
    let warnings = Settings::default().read_variables([variable].into_iter());
    let warning = "CDRLAKE_SOURCE_API_KEY sets nothing. Did you mean CDRLAKE_SOURCE_API_KEY_ENV?";
    assert_eq!(warnings, [warning]);
}

#[test]
fn the_key_s_whereabouts_come_from_one_place() {
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
            .contains("more than one place")
    );
}

#[test]
fn a_path_that_only_a_shell_understands_is_refused_with_the_one_that_was_meant() {
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
fn what_is_too_short_or_too_plain_is_no_key() {
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
            "the output of echo holds 1 character, which is too short for a key. Is it",
        ),
        ("abc", "holds 3 characters, which is too short for a key"),
        (
            "aaaaaaaa",
            "the output of echo holds one character again and again, which is no key",
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
    assert!(file().unwrap_err().to_string().ends_with("key is empty"));
    std::fs::write(&path, "a\nb").unwrap();
    assert!(
        file()
            .unwrap_err()
            .to_string()
            .contains("characters that no key has")
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
fn pseudonyms_take_a_key_that_is_long_and_private() {
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
            "the key has 31 characters, and at least 32 are needed",
        ),
        (&"ab".repeat(40), 0o600, "hardly any different characters"),
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
fn a_lake_is_another_one_with_other_pseudonyms() {
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
    assert_eq!(keep.from_search.as_deref(), Some("13025550101"));
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
        assert_eq!(found, expected);
    }
    let without = |mut identity: Identity| {
        identity.from_search = None;
        identity
    };
    let (first, second) = (without(first), without(second));
    assert_eq!(
        first.difference(&without(keep)).unwrap().0,
        "privacy.numbers"
    );
    let (key, existing, wanted) = first.difference(&second).unwrap();
    assert_eq!(key, "privacy.key");
    assert!(existing.starts_with("the key with the id ") && existing != wanted);
}

#[test]
fn a_command_for_a_key_that_hangs_or_never_stops_is_ended() {
    let run = |command: &[&str], limit| {
        let command: Vec<_> = command.iter().map(|&word| word.to_owned()).collect();
        super::run_key_command(&command, Duration::from_millis(limit))
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
fn a_key_in_place_of_its_file_or_command_is_not_shown() {
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
