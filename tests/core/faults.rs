//! The page of faults and the tests that are named after them agree, and what those tests wait for has a name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The files with tests of each fault, as the page lists them.
fn listed() -> BTreeMap<String, BTreeSet<String>> {
    let page = std::fs::read_to_string(root().join("docs/faults.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| f"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [id, fault, promise, files] = cells[..] else { panic!("four cells: {row}") };
        assert!(!fault.is_empty() && !promise.is_empty(), "{id} says nothing");
        let files = files.trim_end_matches(" |").split(", ").map(|file| file.replace('`', ""));
        (id.to_owned(), files.collect())
    })
    .collect()
}

/// The files with tests of each fault: functions whose name begins with its id.
fn found() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for folder in ["src", "tests", "examples"] {
        for file in rust_files(&root().join(folder)) {
            let text = std::fs::read_to_string(&file).unwrap();
            let name = file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            for (_, rest) in text.match_indices("fn f").map(|(at, _)| text[at..].split_at(3)) {
                let Some((id, _)) = rest.split_at_checked(3) else { continue };
                let digits = &id.as_bytes()[1..];
                if digits.iter().all(u8::is_ascii_digit) && rest[3..].starts_with('_') {
                    found.entry(id.to_owned()).or_default().insert(name.clone());
                }
            }
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let inside = entries.map(|path| match path.is_dir() {
        true if path.ends_with("target") => Vec::new(),
        true => rust_files(&path),
        false if path.extension().is_some_and(|it| it == "rs") => vec![path],
        false => Vec::new(),
    });
    inside.flatten().collect()
}

#[test]
fn each_fault_of_the_page_has_the_tests_that_it_lists() {
    let (listed, found) = (listed(), found());
    assert!(listed.len() >= 37, "the page has {} faults", listed.len());
    for (id, files) in &listed {
        assert_eq!(
            Some(files),
            found.get(id),
            "{id}: the page on the left, the tests on the right"
        );
    }
    for id in found.keys() {
        assert!(listed.contains_key(id), "{id} is not on the page");
    }
}

/// Else nobody could tell a pause that stands for an event from one that is the subject.
#[test]
fn a_pause_beside_a_real_server_says_what_it_is_for() {
    let folders = ["redis", "memcached", "chaos", "differential", "decorators/recommended"];
    let files: Vec<_> = folders
        .iter()
        .map(|folder| format!("tests/{folder}"))
        .flat_map(|folder| rust_files(&root().join(folder)))
        .collect();
    assert!(files.len() > 50, "{} files", files.len());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("sleep("), "{} sleeps: use servers::pause", file.display());
    }
}
