//! The parts of the documentation that are made from the code, compared with it. Run
//! `TEST_BLESS=1 cargo test --lib` to rewrite them.

use std::collections::BTreeSet;
use std::path::Path;

use clap::CommandFactory;

use crate::cdr::columns::{COLUMNS, Column, Kind};
use crate::cli::Arguments;
use crate::config::{Config, KEYS, OPEN_TABLE, Overrides};

/// The width of a line of the documentation.
const WIDTH: usize = 100;

/// Every page of the documentation, by its path in the repository.
fn pages() -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let entries = std::fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pages = names.filter_map(|name| Some(format!("docs/{}.md", name.strip_suffix(".md")?)));
    pages.chain(["README.md".to_owned()]).collect()
}

fn read(page: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compares a part of a document, between `<!-- generated: name -->` and `<!-- /generated -->`,
/// with its text made from the code. With `TEST_BLESS=1` it replaces the part.
fn assert_generated(page: &str, name: &str, expected: &str) {
    let text = read(page);
    let begin = format!("<!-- generated: {name} -->\n\n");
    let (before, rest) = text
        .split_once(&begin)
        .unwrap_or_else(|| panic!("{page} has no {}", begin.trim()));
    let (found, after) = rest.split_once("\n<!-- /generated -->").unwrap();
    if found == expected {
        return;
    }
    assert!(
        std::env::var_os("TEST_BLESS").is_some(),
        "{page} differs from the code in {}: run TEST_BLESS=1 cargo test --lib\n{expected}",
        begin.trim()
    );
    let text = format!("{before}{begin}{expected}\n<!-- /generated -->{after}");
    std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(page), text).unwrap();
}

/// Compares a file that is made from the code as a whole. With `TEST_BLESS=1` it writes the file.
fn assert_made(path: &str, expected: &str) {
    if std::env::var_os("TEST_BLESS").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(path), expected).unwrap();
    }
    let is_equal = read(path) == expected;
    assert!(
        is_equal,
        "{path} differs from the code: run TEST_BLESS=1 cargo test --lib tests::"
    );
}

/// An item of a list, in lines of the documentation's width. Code in backticks stays on one line.
fn wrapped(item: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in item.split(' ') {
        match words.last_mut() {
            Some(open) if open.matches('`').count() % 2 == 1 => {
                open.push(' ');
                open.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
    }
    let mut lines = vec![words.remove(0)];
    for word in words {
        let line = lines.last_mut().expect("there is one");
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(format!("  {word}"));
        } else {
            line.push(' ');
            line.push_str(&word);
        }
    }
    lines.join("\n") + "\n"
}

fn lines(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().map(|line| line + "\n").collect()
}

fn table(header: [&str; 2], rows: impl Iterator<Item = [String; 2]>) -> String {
    let [left, right] = header;
    let header = format!("| {left} | {right} |\n|---|---|");
    let rows = rows.map(|[left, right]| format!("| {left} | {right} |"));
    lines([header].into_iter().chain(rows))
}

/// The key and the value of a line `key = value`.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(" = ")?;
    let is_name = key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    is_name.then_some((key, value))
}

/// The reference of all keys in Markdown, made from an example file, and the keys in their order.
fn reference(example: &str) -> (String, Vec<String>) {
    let (mut text, mut keys) = (String::new(), Vec::new());
    let (mut section, mut comment) = ("", Vec::new());
    for line in example.lines() {
        let words = line.strip_prefix("# ");
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
            text.push_str(if text.is_empty() { "" } else { "\n" });
            text.extend(["### [", section, "]\n\n"]);
            comment.clear();
        } else if let Some((name, value)) = assignment(words.unwrap_or(line)) {
            let key = format!("{section}.{name}");
            assert!(!comment.is_empty(), "pipeline.toml: {key} has no text");
            let default = match words {
                None => format!(" = {value}"),
                Some(_) => String::new(),
            };
            let item = format!("- `{key}{default}`: {}", comment.join(" "));
            text.push_str(&wrapped(&item));
            keys.push(key);
            comment.clear();
        } else if let Some(words) = words {
            comment.push(words);
        } else {
            assert!(["", "#"].contains(&line), "{line}");
        }
    }
    (text, keys)
}

#[test]
fn the_reference_of_keys_is_the_text_of_the_example_file() {
    let (text, keys) = reference(&read("pipeline.toml"));
    // A key of secrets is one key in the file, with one of three places.
    let places = [".env", ".file", ".command"];
    let name_of = |key: &&str| {
        let table = places.iter().find_map(|place| key.strip_suffix(place));
        let is_secret = |table: &&str| KEYS.contains(&format!("{table}.command").as_str());
        table.filter(is_secret).unwrap_or(key).to_owned()
    };
    let known = KEYS.iter().map(name_of);
    let known: BTreeSet<String> = known.chain([OPEN_TABLE.to_owned()]).collect();
    assert_eq!(keys.iter().cloned().collect::<BTreeSet<_>>(), known);
    assert_generated("docs/configuration.md", "keys", &text);
}

#[test]
fn the_reference_of_commands_is_their_help() {
    let mut root = Arguments::command();
    root.build();
    let commands: Vec<_> = root
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
        .cloned()
        .collect();
    let rows = commands.iter().map(|command| {
        let name = command.get_name();
        let about = command.get_about().unwrap().to_string();
        [format!("[`cdrlake {name}`](#cdrlake-{name})"), about]
    });
    assert_generated(
        "docs/commands.md",
        "commands",
        &table(["command", "does"], rows),
    );
    let readme = read("README.md");
    let listed = readme.split("\n## Commands\n").nth(1).unwrap();
    let listed = listed.split("\n## ").next().unwrap();
    for command in commands {
        let name = command.get_name().to_owned();
        assert!(
            listed.contains(&format!("`{name}`")),
            "README.md: no {name}"
        );
        // What every command has is explained once.
        let shared = ["help", "log_format", "verbose", "color"];
        let help = command
            .mut_args(|arg| {
                let is_shared = shared.contains(&arg.get_id().as_str());
                arg.hide(is_shared)
            })
            .term_width(WIDTH)
            .render_help()
            .to_string();
        let help = lines(help.lines().map(|line| line.trim_end().to_owned()));
        let block = format!("```text\n{}\n```\n", help.trim());
        assert_generated("docs/commands.md", &format!("help {name}"), &block);
    }
}

/// A column's type as readers see it.
fn shown_type(column: &Column) -> String {
    let kind = match column.kind {
        Kind::Day => "DATE",
        Kind::Time => "TIMESTAMP, microseconds, UTC",
        Kind::Seconds => "INT",
        Kind::Amount => "DECIMAL(18, 9)",
        _ => "STRING",
    };
    kind.to_owned()
}

#[test]
fn the_tables_of_columns_are_the_columns() {
    let groups = COLUMNS.chunk_by(|left, right| shown_type(left) == shown_type(right));
    let rows = groups.map(|group| {
        let names: Vec<_> = group.iter().map(|it| format!("`{}`", it.name)).collect();
        [names.join(", "), shown_type(&group[0])]
    });
    let short = table(["columns, in their order", "type"], rows);
    assert_generated("README.md", "columns", &short);

    let header = "| column | type | from the API's | meaning |\n|---|---|---|---|".to_owned();
    let rows = COLUMNS.iter().map(|column| {
        let fields = column.fields.iter();
        let fields: Vec<_> = fields.map(|field| format!("`{}`", field.name())).collect();
        let fields = fields.join(", else ");
        let null = if column.nullable { "" } else { ", never null" };
        let (name, kind, comment) = (column.name, shown_type(column), column.comment);
        format!("| `{name}` | {kind}{null} | {fields} | {comment} |")
    });
    let full = lines([header].into_iter().chain(rows));
    assert_generated("docs/layout.md", "columns", &full);
}

#[test]
fn the_python_package_knows_keys_and_columns() {
    let columns = COLUMNS.iter().map(|column| {
        let kind = shown_type(column);
        let kind = kind.split(", m").next().expect("a first part");
        let nullable = if column.nullable { "True" } else { "False" };
        format!("    (\"{}\", \"{kind}\", {nullable}),", column.name)
    });
    let text = lines(
        [
            "\"\"\"Names that the program defines. Made by `TEST_BLESS=1 cargo test --lib \
             tests::`.\"\"\"\n",
            "#: The keys of the configuration.",
            "KEYS: tuple[str, ...] = (",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain(KEYS.iter().map(|key| format!("    \"{key}\",")))
        .chain([
            ")\n".to_owned(),
            "#: The columns of the table: name, type in SQL, and whether it may be null."
                .to_owned(),
            "COLUMNS: tuple[tuple[str, str, bool], ...] = (".to_owned(),
        ])
        .chain(columns)
        .chain([")".to_owned()]),
    );
    assert_made("python/cdrlake/_names.py", &text);
}

/// The blocks of a document in a language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("\n```{language}\n");
    let blocks = page.split(&begin).skip(1);
    blocks
        .map(|rest| rest.split("\n```").next().unwrap())
        .collect()
}

/// Checks that `text` is a configuration file without mistakes. Most show only a part, and need a
/// lake besides.
fn assert_valid(page: &str, text: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipeline.toml");
    std::fs::write(&path, text).unwrap();
    let mut overrides = Overrides::new();
    if !text.contains("lake.url") && !text.contains("[lake]") {
        overrides.push(("lake.url", "./lake".to_owned(), "--lake"));
    }
    let config = Config::load(Some(&path), &overrides, &[]);
    assert!(config.is_ok(), "{page}: {config:?}\n{text}");
}

#[test]
fn configurations_in_the_documentation_are_valid() {
    let mut checked = 0;
    for page in pages() {
        for block in blocks(&read(&page), "toml") {
            assert_valid(&page, block);
            checked += 1;
        }
    }
    assert!(checked >= 5, "{checked}");
    let example = read("pipeline.toml");
    let uncommented = example.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if assignment(rest).is_some() => rest,
        _ => line,
    });
    assert_valid("pipeline.toml", &uncommented.collect::<Vec<_>>().join("\n"));
}
