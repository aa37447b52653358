//! The rules of docs/STYLE.md that a program can check, over the files of the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// Folders that hold no source of ours.
const SKIPPED: [&str; 6] = [".git", "target", "dist", "snapshots", "server-data", "client-data"];

/// Extensions of the files that people read.
const TEXTS: [&str; 9] = ["rs", "md", "toml", "proto", "sh", "yml", "py", "patch", "service"];

/// Type names that each program has, and models of a test.
const SHARED_NAMES: [&str; 6] = ["Args", "Config", "ConfigError", "Cli", "Inner", "Action"];

/// Type names that server and agent share, because they mean the two ends of one thing.
const NAMES_OF_BOTH_ENDS: [&str; 3] = ["SendOrder", "SessionHandle", "SessionTask"];

/// Names ending in "ed" that are nouns, phases or proofs.
const ED_NAMES: [&str; 5] = ["Sealed", "Published", "Verified", "Speed", "Seed"];

struct TextFile {
    path: PathBuf,
    text: String,
}

impl TextFile {
    /// Returns the path from the root of the repository.
    fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap_or(&self.path).display().to_string()
    }

    fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "rs")
    }

    /// Returns whether it ships: code in `crates/` that is no test.
    fn ships(&self) -> bool {
        let name = self.name();
        self.is_rust()
            && name.starts_with("crates/")
            && !name.contains("/tests/")
            && !name.ends_with("/tests.rs")
    }

    /// Returns the text before the unit tests.
    fn without_tests(&self) -> &str {
        let end = self.text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        &self.text[..end]
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn files() -> Vec<TextFile> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository is readable") {
            let path = entry.expect("an entry is readable").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !SKIPPED.contains(&name.as_str()) {
                    folders.push(path);
                }
                continue;
            }
            let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            let is_text = TEXTS.contains(&extension.as_str()) || name.starts_with("Dockerfile");
            if is_text || matches!(name.as_str(), "run" | "justfile") {
                let text = fs::read_to_string(&path).expect("a text is readable");
                found.push(TextFile { path, text });
            }
        }
    }
    assert!(300 < found.len(), "only {} files found", found.len());
    found
}

/// Returns each match of `pattern` as `file:line: match`.
fn matches(pattern: &Regex, file: &TextFile) -> Vec<String> {
    let lines = file.text.lines().enumerate();
    let hits = lines.filter_map(|(index, line)| {
        let hit = pattern.find(line)?;
        Some(format!("{}:{}: {}", file.name(), index + 1, hit.as_str()))
    });
    hits.collect()
}

#[test]
fn no_word_of_the_list_is_used() {
    let page = fs::read_to_string(root().join("docs/STYLE.md")).unwrap();
    let list = page.split("```words\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let words: Vec<String> = list
        .lines()
        .filter_map(|line| line.split_once(" | "))
        .flat_map(|(avoided, _)| avoided.split(", "))
        .map(regex::escape)
        .collect();
    assert!(30 < words.len(), "{words:?}");
    let pattern = Regex::new(&format!(r"(?i)\b(?:{})\b", words.join("|"))).unwrap();
    let mut hits = Vec::new();
    for file in files().iter().filter(|file| !file.name().ends_with("docs/STYLE.md")) {
        hits.extend(matches(&pattern, file));
    }
    assert!(hits.is_empty(), "write plain English (docs/STYLE.md):\n{}", hits.join("\n"));
}

#[test]
fn every_file_and_most_functions_stay_within_their_budget() {
    let mut too_long = Vec::new();
    let mut lengths = Vec::new();
    for file in files().iter().filter(|file| file.ships()) {
        let text = file.without_tests();
        let n_lines = text.lines().count();
        if 350 < n_lines {
            too_long.push(format!("{}: {n_lines} lines", file.name()));
        }
        lengths.extend(function_lengths(text));
    }
    assert!(too_long.is_empty(), "above 350 lines:\n{}", too_long.join("\n"));
    lengths.sort_unstable();
    let p90 = lengths[lengths.len() * 9 / 10];
    assert!(p90 <= 25, "one function in ten has more than 25 lines: the 90th percentile is {p90}");
}

/// Returns the lines of each function body, as rustfmt lays them out.
fn function_lengths(text: &str) -> Vec<usize> {
    let head = Regex::new(r"^(\s*)(?:pub(?:\([a-z]+\))? )?(?:const )?(?:async )?fn \w+")
        .expect("a valid pattern");
    let lines: Vec<&str> = text.lines().collect();
    let mut lengths = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(found) = head.captures(line) else { continue };
        let end = format!("{}}}", &found[1]);
        let length = lines[index..].iter().position(|line| **line == *end);
        lengths.extend(length.filter(|_| !line.trim_end().ends_with(';')).map(|length| length - 1));
    }
    lengths
}

#[test]
fn the_task_of_a_transfer_is_in_six_files_at_most() {
    let files = files();
    let has_impl = |file: &&TextFile| file.ships() && file.text.contains("\nimpl TransferTask {");
    let names: Vec<String> = files.iter().filter(has_impl).map(TextFile::name).collect();
    assert!((1..=6).contains(&names.len()), "{names:?}");
}

#[test]
fn few_items_are_visible_to_the_parent_module_only() {
    let files = files();
    let shipped: Vec<&TextFile> = files.iter().filter(|file| file.ships()).collect();
    let n_lines: usize = shipped.iter().map(|file| file.text.lines().count()).sum();
    let n_items: usize = shipped.iter().map(|file| file.text.matches("pub(super)").count()).sum();
    assert!(n_items * 1000 < n_lines * 10, "{n_items} pub(super) in {n_lines} lines");
}

#[test]
fn a_let_binds_one_value() {
    let pair =
        Regex::new(r"\blet \((?:mut )?\w+(?:, (?:mut )?\w+)+,?\)(?:: [^=]+)? =\s*\(").unwrap();
    let mut hits = Vec::new();
    for file in files().iter().filter(|file| file.is_rust()) {
        let found = pair.find_iter(&file.text);
        let line = |start: usize| file.text[..start].matches('\n').count() + 1;
        hits.extend(found.map(|hit| format!("{}:{}", file.name(), line(hit.start()))));
    }
    assert!(hits.is_empty(), "write one `let` for each value:\n{}", hits.join("\n"));
}

#[test]
fn a_name_is_not_bound_again_on_the_next_line() {
    let binding = Regex::new(r"^(\s*)let (?:mut )?([a-z_]\w*)\b.*;\s*$").unwrap();
    let mut hits = Vec::new();
    for file in files().iter().filter(|file| file.is_rust()) {
        let mut last = None;
        for (index, line) in file.text.lines().enumerate() {
            let found = binding.captures(line);
            let bound = found.map(|found| (found[1].to_owned(), found[2].to_owned()));
            if bound.is_some() && bound == last {
                hits.push(format!("{}:{}", file.name(), index + 1));
            }
            last = bound;
        }
    }
    assert!(hits.is_empty(), "name the first value after what it is:\n{}", hits.join("\n"));
}

#[test]
fn a_type_name_has_one_meaning_and_is_a_noun() {
    let type_name =
        Regex::new(r"(?m)^\s*(?:pub(?:\([^)]*\))? )?(?:struct|enum|trait) (\w+)").unwrap();
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files().iter().filter(|file| file.is_rust()) {
        if file.name().contains("/transfer_model/") {
            continue; // a model of the product has the product's names
        }
        for found in type_name.captures_iter(&file.text) {
            places.entry(found[1].to_owned()).or_default().push(file.name());
        }
    }
    places.retain(|name, places| {
        let at_both_ends = NAMES_OF_BOTH_ENDS.contains(&name.as_str()) && places.len() == 2;
        !SHARED_NAMES.contains(&name.as_str()) && !at_both_ends
    });
    let twice: Vec<_> = places.iter().filter(|(_, places)| 1 < places.len()).collect();
    assert!(twice.is_empty(), "{twice:#?}");
    let is_participle = |name: &str| name.ends_with("ed") && !ED_NAMES.contains(&name);
    let participles: Vec<_> = places.keys().filter(|name| is_participle(name)).collect();
    assert!(participles.is_empty(), "{participles:?}");
}

#[test]
fn every_test_that_the_map_names_exists() {
    let mut tests = BTreeSet::new();
    let function = Regex::new(r"\bfn (\w+)").unwrap();
    for file in files().iter().filter(|file| file.is_rust()) {
        tests.extend(function.captures_iter(&file.text).map(|found| found[1].to_owned()));
    }
    let named = Regex::new(r"`(?:\w+::)+([a-z0-9]+(?:_[a-z0-9]+){2,})`").unwrap();
    let mut missing = Vec::new();
    let mut n_named = 0;
    for page in ["ARCHITECTURE.md", "docs/invariants.md", "docs/decisions.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        for found in named.captures_iter(&text) {
            n_named += 1;
            if !tests.contains(&found[1]) {
                missing.push(format!("{page}: {}", &found[1]));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(30 < n_named, "only {n_named} tests are named");
}
