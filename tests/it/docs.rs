//! Messages, files and names that the documentation mentions exist, and lines are short.

use std::path::{Path, PathBuf};

use super::rooms::{code_of, sources};

/// The last column of a line.
const LAST_COLUMN: usize = 100;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The paths that Git ignores.
fn ignored() -> Vec<PathBuf> {
    let list = std::fs::read_to_string(root().join(".gitignore")).unwrap();
    let paths = list.lines().map(|line| root().join(line.trim_matches('/')));
    paths.collect()
}

/// Every file below a directory, except hidden ones and those that Git ignores.
fn files(directory: &Path) -> Vec<PathBuf> {
    files_except(directory, &ignored())
}

fn files_except(directory: &Path, ignored: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !path.is_symlink() {
            if !name.starts_with('.') && name != "corpus" && !ignored.contains(&path) {
                found.extend(files_except(&path, ignored));
            }
        } else {
            found.push(path);
        }
    }
    found
}

/// The code of the program, without comments and tests.
fn code() -> Vec<String> {
    let files = sources(&root().join("src"));
    let code = files.iter().map(|file| code_of(file).replace("\\\"", "\""));
    code.collect()
}

/// A message that the program makes of the name of a key and a fixed end: only the end.
fn without_key(message: &str) -> &str {
    let (first, rest) = message.split_once(' ').unwrap_or((message, ""));
    let is_key = first.contains('.') && KEYED.contains(&rest);
    if is_key { rest } else { message }
}

/// The ends of messages that begin with any key.
const KEYED: [&str; 1] = ["is not set"];

#[test]
fn every_message_in_the_troubleshooting_is_one_of_the_program() {
    let code = code();
    let page = std::fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let mut checked = 0;
    let mut gone = Vec::new();
    for heading in page.lines().filter_map(|line| line.strip_prefix("### ")) {
        let quoted = heading.split('`').skip(1).step_by(2);
        // A single word is the name of a command.
        for message in quoted.filter(|quoted| quoted.contains(' ')) {
            let fragments = message.split('…');
            let fragments = fragments.map(|it| it.trim_matches([' ', '.', ',', '?']));
            let fragments = fragments.filter(|it| !it.is_empty());
            let is_there = |it: &&str| code.iter().any(|code| code.contains(without_key(it)));
            gone.extend(fragments.filter(|it| !is_there(it)));
            checked += 1;
        }
    }
    assert!(checked > 30, "{checked}");
    assert!(gone.is_empty(), "no source has {gone:#?}");
}

/// Whether one of the sources defines this name.
fn is_defined(name: &str, sources: &[String]) -> bool {
    let kinds = [
        "fn", "struct", "enum", "trait", "const", "static", "mod", "type",
    ];
    kinds.iter().any(|kind| {
        let definition = format!(" {kind} {name}");
        let is_end = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        sources.iter().any(|source| {
            let mut found = source.split(&definition).skip(1);
            found.any(|rest| is_end(rest.chars().next()))
        })
    })
}

#[test]
fn files_and_names_of_the_code_that_the_documentation_mentions_exist() {
    // A definition may be the first on its line.
    let rust = files(&root().join("src"));
    let rust = rust
        .iter()
        .filter(|path| path.extension().is_some_and(|it| it == "rs"));
    let text = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    let sources: Vec<String> = rust.map(|it| text(it).replace('\n', " ")).collect();
    let mut pages = files(&root().join("docs"));
    pages.retain(|path| path.extension().is_some_and(|it| it == "md"));
    pages.extend(["README.md", "CONTRIBUTING.md"].map(|name| root().join(name)));
    let folders = ["src/", "tests/", "benches/", "fuzz/", "docs/"];
    let mut gone = Vec::new();
    let mut checked = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        let lines = text.lines().filter(|line| !line.contains("```"));
        for code in lines.flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let is_path = |c: char| c.is_ascii_alphanumeric() || "_/.-".contains(c);
            let is_name = |c: char| c.is_ascii_alphanumeric() || "_:{}, ".contains(c);
            let is_there = if code.contains("::") && code.chars().all(is_name) {
                let last = code.rsplit("::").next().unwrap_or_default();
                let mut names = last.split(['{', '}', ',', ' ']).filter(|it| !it.is_empty());
                names.all(|name| is_defined(name, &sources))
            } else if folders.iter().any(|it| code.starts_with(it)) && code.chars().all(is_path) {
                root().join(code).exists()
            } else {
                continue;
            };
            checked += 1;
            if !is_there {
                gone.push(format!("{}: {code}", page.display()));
            }
        }
    }
    assert!(checked > 80, "{checked}");
    assert!(gone.is_empty(), "{gone:#?}");
}

/// The lines of a file that end beyond the last column and could be shorter.
fn long_lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let is_page = path.extension().is_some_and(|it| it == "md");
    let mut is_printed = false;
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if is_page && line.trim_start().starts_with("```") {
            is_printed = !is_printed && line.ends_with("text");
        }
        let is_free = if is_page {
            is_printed || line.starts_with('|')
        } else {
            // Dependencies, JSON that tests send, and texts that cannot be broken.
            line.contains(" = { version = ") || line.contains("{\"") || line.contains("r\"")
        };
        if line.chars().count() > LAST_COLUMN && !is_free && !line.contains("https://") {
            let path = path.strip_prefix(root()).unwrap().display();
            found.push(format!("{path}:{number}: {line}"));
        }
    }
    found
}

/// Looks for long lines in every file of these kinds.
fn assert_short(kinds: &[&str]) {
    let is_of = |path: &PathBuf| {
        let kind = path.extension().and_then(|it| it.to_str());
        kind.is_some_and(|kind| kinds.contains(&kind))
    };
    let mut files = files(root());
    files.push(root().join(".ci/run"));
    files.retain(|path| is_of(path) || path.ends_with(".ci/run"));
    let found: Vec<String> = files.iter().flat_map(|path| long_lines(path)).collect();
    assert!(found.is_empty(), "{} lines: {found:#?}", found.len());
}

#[test]
fn lines_of_documents_and_scripts_end_by_column_100() {
    assert_short(&["md", "toml", "py", "sh"]);
}

#[test]
fn lines_of_rust_end_by_column_100() {
    assert_short(&["rs"]);
}
