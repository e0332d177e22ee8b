//! Checks the order of the library's rooms, see `docs/architecture.md`.

use std::path::{Path, PathBuf};

/// The rooms. Each may import only rooms before it.
const ROOMS: [&str; 15] = [
    "privacy",
    "error",
    "retry",
    "cdr",
    "body",
    "slice_file",
    "store",
    "lake",
    "config",
    "warehouse",
    "source",
    "ops",
    "simulator",
    "cli",
    "main",
];

/// Every Rust file below a directory, except tests.
pub(crate) fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "tests" {
                found.extend(sources(&path));
            }
        } else if path.extension().is_some_and(|it| it == "rs")
            && !["tests.rs", "forms.rs", "lib.rs"].contains(&&*name)
        {
            found.push(path);
        }
    }
    found
}

/// The code of a file without its unit tests and comments, with texts of several lines joined.
pub(crate) fn code_of(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut joined = String::new();
    for line in lines.map(str::trim_start) {
        joined.push_str(line.trim_end_matches('\\'));
        if !line.ends_with('\\') {
            joined.push('\n');
        }
    }
    joined
}

/// The position of the room at the beginning of a name, or of a path within `src`.
fn rank(name: &str) -> Option<usize> {
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
    let room = end.map_or(name, |end| &name[..end]);
    ROOMS.iter().position(|known| *known == room)
}

#[test]
fn texts_of_the_library_name_no_commands_and_no_flags_of_the_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // What a room above `ops` prints, and comments of SQL, which only a command prints.
    let is_free = |within: &str| {
        ["cli/", "warehouse/", "ops/warehouse.rs"]
            .iter()
            .any(|free| within.starts_with(free))
    };
    let mut found = Vec::new();
    for file in sources(&root) {
        let within = file.strip_prefix(&root).unwrap().to_string_lossy();
        if is_free(&within) {
            continue;
        }
        for line in code_of(&file).lines() {
            let is_flag = |rest: &str| rest.starts_with(|first: char| first.is_ascii_lowercase());
            let names_flag = line
                .split([' ', '`', '"', '('])
                .any(|word| word.strip_prefix("--").is_some_and(is_flag));
            let is_of_another_program = line.contains("$(aws ");
            if line.contains('"')
                && !is_of_another_program
                && (names_flag || line.contains("`cdrlake "))
            {
                found.push(format!("{within}: {line}"));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_room_imports_only_rooms_below_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&root);
    let mut imports = 0;
    let mut upwards = Vec::new();
    for file in &files {
        let within = file.strip_prefix(&root).unwrap().to_string_lossy();
        let room = rank(&within)
            .unwrap_or_else(|| panic!("{within} belongs to no room: add its room to ROOMS"));
        let text = std::fs::read_to_string(file).unwrap();
        let code = text
            .split("#[cfg(test)]\nmod tests")
            .next()
            .unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            // Documentation may link to any room.
            if line.trim_start().starts_with("//") {
                continue;
            }
            for name in line.split("crate::").skip(1) {
                let Some(used) = rank(name) else { continue };
                imports += 1;
                if used > room {
                    upwards.push(format!("{within}, line {}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(
        files.len() > 80 && imports > 300,
        "{} files, {imports} imports",
        files.len()
    );
    assert!(upwards.is_empty(), "{upwards:#?}");
}
