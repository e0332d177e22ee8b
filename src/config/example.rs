//! The text of a new configuration file.

use toml::Value;

use super::settings::{Origin, Settings};
use super::{Config, ConfigError, Overrides};

/// Every key with its comment, and its default or an example.
const EXAMPLE: &str = include_str!("../../pipeline.toml");

impl Config {
    /// The text of a configuration file: the example with the values that were `given`.
    ///
    /// # Errors
    /// [`ConfigError`] for the first wrong value.
    pub(crate) fn new_file(given: &Overrides) -> Result<String, ConfigError> {
        let mut settings = Settings::default();
        // The example has a lake.
        let lake = Value::String("./lake".to_owned());
        settings.set("lake.url", lake, Origin::Unset);
        Self::with_overrides(settings, given)?;
        let mut text = EXAMPLE.to_owned();
        for (key, value, _) in given {
            text = with_key(&text, key, value);
        }
        Ok(text)
    }
}

/// The `text` of a file with another value of a key that it has, perhaps commented out.
fn with_key(text: &str, key: &str, value: &str) -> String {
    let mut section = "";
    let lines = text.lines().map(|line| {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        }
        let assignment = line.strip_prefix("# ").unwrap_or(line);
        let Some((name, shown)) = assignment.split_once(" = ") else {
            return format!("{line}\n");
        };
        match key
            .strip_prefix(section)
            .and_then(|rest| rest.strip_prefix('.'))
        {
            // Texts of TOML are escaped as those of JSON.
            Some(rest) if rest == name && shown.starts_with('"') => {
                format!("{name} = {}\n", serde_json::Value::from(value))
            }
            Some(rest) if rest == name => format!("{name} = {value}\n"),
            // The place of a secret.
            Some(rest) if let Some(place) = rest.strip_prefix(&format!("{name}.")) => {
                format!(
                    "{name} = {{ {place} = {} }}\n",
                    serde_json::Value::from(value)
                )
            }
            _ => format!("{line}\n"),
        }
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipeline.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), &Overrides::new(), &[]).unwrap()
    }

    #[test]
    fn a_new_file_means_what_its_flags_mean() {
        let values = [
            ("lake.url", "./a \"lake\"\\here"),
            ("source.url", "http://127.0.0.1:8080/"),
            ("source.api_key.file", "/run/secrets/key"),
            ("source.via", "pages"),
            ("source.requests", "8"),
            ("source.assume_timezone", "Asia/Kathmandu"),
            ("window.start", "2026-02-03"),
            ("window.timezone", "Europe/Berlin"),
            ("quality.reconcile", "warn"),
        ];
        for (key, value) in values {
            let given = vec![(key, value.to_owned(), "--flag")];
            let text = Config::new_file(&given).unwrap();
            assert_eq!(text.lines().count(), EXAMPLE.lines().count());
            let mut settings = Settings::default();
            for (key, value) in [
                ("lake.url", "./lake"),
                ("source.api_key.env", "WAVIX_API_KEY"),
            ] {
                settings.set(key, Value::String(value.to_owned()), Origin::Unset);
            }
            let expected = Config::with_overrides(settings, &given).unwrap();
            assert_eq!(
                format!("{:?}", read(&text)),
                format!("{expected:?}"),
                "{key}"
            );
        }
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_flag() {
        let given = vec![("window.timezone", "Berlin".to_owned(), "--timezone")];
        let refused = Config::new_file(&given).unwrap_err().to_string();
        assert!(
            refused.starts_with("flag --timezone: window.timezone"),
            "{refused}"
        );
    }
}
