//! The rules of the tree that the compiler does not keep. Each is tried on a snippet that breaks it.

mod source;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use source::{Token, behind_group, blank, stands_at, test_modules, tokens, uses};

/// Who may import whom; the tests may import all.
const DIRECTIONS: [(&str, &[&str]); 7] = [
    ("wal", &[]),
    ("net", &[]),
    ("replication", &["wal"]),
    ("client", &["net"]),
    ("core", &["wal", "net", "replication", "client"]),
    ("bench", &["client"]),
    ("tests", &["wal", "net", "replication", "core", "client"]),
];
/// The broker itself never talks to a broker; the programs around it do.
const CLIENT_IN_CORE: [&str; 2] = ["core/src/cli.rs", "core/src/cli/"];
const GLOMMIO: [&str; 4] =
    ["core/src/runtime.rs", "core/src/runtime/mesh.rs", "wal/src/disk.rs", "net/src/socket.rs"];
/// A function of its inputs: no clock, no file, no thread, no chance, no order that depends on chance.
const PURE: [&str; 4] = ["core/src/", "net/src/", "replication/src/", "wal/src/"];
const IMPURE: [&str; 15] = [
    "core/src/cli.rs",
    "core/src/cli/",
    "core/src/config.rs",
    "core/src/config/",
    "core/src/formation/exchange.rs",
    "core/src/identity.rs",
    "core/src/identity/spared.rs",
    "core/src/main.rs",
    "core/src/node.rs",
    "core/src/runtime.rs",
    "core/src/runtime/",
    "net/src/socket.rs",
    "wal/src/disk.rs",
    "wal/src/disk/",
    "wal/src/inspect.rs",
];
const IMPURE_PATHS: [&[&str]; 12] = [
    &["std", "fs"],
    &["std", "thread"],
    // An address is only a number.
    &["std", "net", "TcpListener"],
    &["std", "net", "TcpStream"],
    &["std", "net", "UdpSocket"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
    &["std", "hash", "RandomState"],
    &["std", "hash", "DefaultHasher"],
    &["std", "collections", "hash_map", "RandomState"],
    &["std", "collections", "hash_map", "DefaultHasher"],
    &["getrandom"],
];
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 900;
const TOP_LEVEL: [&str; 10] = [
    "Cargo.lock",
    "Cargo.toml",
    "README.md",
    "bench",
    "client",
    "core",
    "net",
    "replication",
    "tests",
    "wal",
];

struct Source {
    /// From the top of the tree, with `/`.
    path: String,
    text: String,
    blanked: String,
    is_test: bool,
}

/// `path:line: what is wrong`.
type Findings = Vec<String>;

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let is_test = path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/");
        Self { path: path.to_owned(), text: text.to_owned(), blanked: blank(text), is_test }
    }

    fn is_among(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            if place.ends_with('/') { self.path.starts_with(place) } else { self.path == *place }
        })
    }

    fn is_pure(&self) -> bool {
        self.is_among(&PURE) && !self.is_among(&IMPURE) && !self.is_test
    }

    /// The tokens that run in the product.
    fn product_tokens(&self) -> Vec<Token<'_>> {
        if self.is_test {
            return Vec::new();
        }
        let all = tokens(&self.blanked);
        let (tests, _) = test_modules(&all);
        let in_tests = |line: usize| tests.iter().any(|lines: &Range<usize>| lines.contains(&line));
        all.into_iter().filter(|token| !in_tests(token.line)).collect()
    }

    fn finding(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

fn imports_stay_in_direction(source: &Source) -> Findings {
    let mut found = Findings::new();
    let Some((_, allowed)) = DIRECTIONS.iter().find(|(name, _)| source.path.starts_with(&format!("{name}/")))
    else {
        return found;
    };
    let own = source.path.split('/').next().unwrap_or_default();
    for token in tokens(&source.blanked) {
        let Some(name) = token.text.strip_prefix("ringmain_") else { continue };
        if DIRECTIONS.iter().any(|(known, _)| *known == name) && name != own && !allowed.contains(&name) {
            found.push(source.finding(token.line, &format!("{own} may not import {name}")));
        }
        if own == "core" && name == "client" && !source.is_among(&CLIENT_IN_CORE) {
            found.push(source.finding(token.line, "the broker itself may not import the client"));
        }
    }
    found
}

/// The same, from what a manifest says.
fn dependencies_stay_in_direction(own: &str, manifest: &str) -> Findings {
    let Some((_, allowed)) = DIRECTIONS.iter().find(|(name, _)| *name == own) else {
        return vec![format!("{own}/Cargo.toml: not a crate of the tree")];
    };
    let mut found = Findings::new();
    let mut in_dependencies = false;
    for (number, line) in manifest.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        }
        // Also the renamed (`package = "…"`) and those with a section of their own.
        let named = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
        for name in named.filter_map(|word| word.strip_prefix("ringmain-")) {
            if in_dependencies && !allowed.contains(&name) {
                found.push(format!("{own}/Cargo.toml:{}: {own} may not depend on {name}", number + 1));
            }
        }
    }
    found
}

fn glommio_stays_in_its_files(source: &Source) -> Findings {
    // The tests of such a file need an executor to run it on.
    let stem = source.path.trim_end_matches("/tests.rs").trim_end_matches(".rs");
    if GLOMMIO.iter().any(|file| file.trim_end_matches(".rs") == stem) {
        return Findings::new();
    }
    let named = tokens(&source.blanked).into_iter().filter(|token| token.text == "glommio");
    named.map(|token| source.finding(token.line, "glommio is not named here")).collect()
}

fn nothing_is_unwrapped(source: &Source) -> Findings {
    let all = source.product_tokens();
    let unwraps = (0..all.len()).filter(|&at| stands_at(&all, at, &[".", "unwrap", "("]));
    unwraps
        .map(|at| source.finding(all[at].line, "unwrap outside tests: say why it holds with expect"))
        .collect()
}

fn pure_files_are_functions_of_their_inputs(source: &Source) -> Findings {
    if !source.is_pure() {
        return Findings::new();
    }
    let all = source.product_tokens();
    let mut found = Findings::new();
    for (line, path) in uses(&all) {
        if IMPURE_PATHS.iter().any(|impure| path.starts_with(impure)) {
            found.push(source.finding(line, &format!("{} in a pure file", path.join("::"))));
        }
    }
    for at in 0..all.len() {
        let spelled = |path: &[&str]| {
            path.iter().enumerate().all(|(nth, word)| {
                stands_at(&all, at + 2 * nth, &[word])
                    && (nth == 0 || stands_at(&all, at + 2 * nth - 1, &["::"]))
            })
        };
        for impure in IMPURE_PATHS.iter().filter(|path| spelled(path)) {
            found.push(source.finding(all[at].line, &format!("{} in a pure file", impure.join("::"))));
        }
        if stands_at(&all, at + 1, &["::", "now", "("]) {
            found.push(source.finding(all[at].line, "reads a clock: time is an input"));
        }
        if let Some(what) = default_hasher(&all, at) {
            found.push(source.finding(all[at].line, what));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// A map whose order differs from run to run. With a hasher of its own it names one more parameter.
fn default_hasher(all: &[Token<'_>], at: usize) -> Option<&'static str> {
    let own = match all[at].text {
        "HashMap" => 3,
        "HashSet" => 2,
        _ => return None,
    };
    let made = ["new", "with_capacity", "from", "from_iter"];
    if made.iter().any(|make| stands_at(all, at + 1, &["::", make])) {
        return Some("a map with the default hasher");
    }
    let open = if stands_at(all, at + 1, &["::", "<"]) { at + 2 } else { at + 1 };
    if !stands_at(all, open, &["<"]) {
        return None;
    }
    let (mut depth, mut parameters) = (0, 1);
    for (place, token) in all.iter().enumerate().skip(open) {
        match token.text {
            "<" | "(" | "[" => depth += 1,
            // The arrow of a function type closes nothing.
            ">" if all[place - 1].text == "-" => {}
            ">" | ")" | "]" => depth -= 1,
            "," if depth == 1 && !stands_at(all, place + 1, &[">"]) => parameters += 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    (parameters < own).then_some("a map with the default hasher")
}

fn nothing_is_left_for_later(path: &str, text: &str) -> Findings {
    // Put together here, or this file would break its own rule.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    let mut found = Findings::new();
    for (number, line) in text.lines().enumerate() {
        let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
        if words.any(|word| marks.contains(&word)) {
            found.push(format!("{path}:{}: left for later", number + 1));
        }
    }
    found
}

fn every_test_runs_and_says_what_it_expects(source: &Source) -> Findings {
    let all = tokens(&source.blanked);
    let mut found = Findings::new();
    for at in (0..all.len()).filter(|&at| stands_at(&all, at, &["#", "["])) {
        let end = behind_group(&all, at + 1);
        let words = &all[at + 2..end];
        for what in ["ignore", "should_panic"] {
            if words.iter().any(|word| word.text == what) {
                found.push(source.finding(all[at].line, &format!("#[{what}]")));
            }
        }
    }
    found
}

fn functions_fit_a_screen(source: &Source) -> Findings {
    let all = tokens(&source.blanked);
    let mut found = Findings::new();
    for at in 0..all.len() {
        let named = all
            .get(at + 1)
            .is_some_and(|next| next.text.starts_with(|c: char| c.is_alphabetic() || c == '_'));
        if all[at].text != "fn" || !named {
            continue;
        }
        // `;` ends a declaration without a body, unless it is inside an array type.
        let (mut open, mut depth) = (at, 0);
        while open < all.len() && !(depth == 0 && matches!(all[open].text, "{" | ";")) {
            match all[open].text {
                "(" | "[" => depth += 1,
                ")" | "]" => depth -= 1,
                _ => {}
            }
            open += 1;
        }
        if !stands_at(&all, open, &["{"]) {
            continue;
        }
        let last = all[behind_group(&all, open) - 1].line;
        let lines = last - all[at].line + 1;
        if lines > FUNCTION_LINES_MAX {
            found.push(source.finding(all[at].line, &format!("{} has {lines} lines", all[at + 1].text)));
        }
    }
    found
}

fn files_stay_short(source: &Source) -> Findings {
    let lines = source.text.lines().count();
    if lines <= FILE_LINES_MAX { Findings::new() } else { vec![source.finding(lines, "too long a file")] }
}

fn top_level_is_the_map(names: &[String]) -> Findings {
    let known =
        |name: &&String| name.starts_with('.') || *name == "target" || TOP_LEVEL.contains(&name.as_str());
    names
        .iter()
        .filter(|name| !known(name))
        .map(|name| format!("{name}: does not belong to the top level"))
        .collect()
}

fn top() -> PathBuf {
    // The tests are a crate of the tree, one level down.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the top of the tree").to_owned()
}

/// All files below `folder` that a person writes, in order.
fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files(&path, out);
        } else if ["rs", "toml", "md"].iter().any(|end| path.extension().is_some_and(|found| found == *end)) {
            out.push(path);
        }
    }
}

fn tree() -> (Vec<Source>, BTreeMap<String, String>) {
    let (top, mut paths) = (top(), Vec::new());
    files(&top, &mut paths);
    let (mut sources, mut others) = (Vec::new(), BTreeMap::new());
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(&top).unwrap().to_str().unwrap().to_owned();
        if path.ends_with(".rs") {
            sources.push(Source::new(&path, &text));
        } else {
            others.insert(path, text);
        }
    }
    mark_test_files(&mut sources);
    (sources, others)
}

/// `#[cfg(test)] mod simulation;` makes a test of a file that is not called so, and of all below it.
fn mark_test_files(sources: &mut [Source]) {
    let mut stems = Vec::new();
    for source in sources.iter() {
        let folder = match source.path.strip_suffix("/lib.rs").or(source.path.strip_suffix("/main.rs")) {
            Some(folder) => folder,
            None => source.path.trim_end_matches(".rs"),
        };
        let all = tokens(&source.blanked);
        stems.extend(test_modules(&all).1.iter().map(|name| format!("{folder}/{name}")));
    }
    for source in sources {
        source.is_test |= stems.iter().any(|stem| {
            source.path.strip_prefix(stem.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
    }
}

fn expect_nothing(found: Findings) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn tree_is_tidy() {
    let (sources, others) = tree();
    assert!(sources.len() > 10, "the tree was not found");
    let rules: [fn(&Source) -> Findings; 7] = [
        imports_stay_in_direction,
        glommio_stays_in_its_files,
        nothing_is_unwrapped,
        pure_files_are_functions_of_their_inputs,
        every_test_runs_and_says_what_it_expects,
        functions_fit_a_screen,
        files_stay_short,
    ];
    let mut found: Findings =
        sources.iter().flat_map(|source| rules.iter().flat_map(|rule| rule(source))).collect();
    for source in &sources {
        found.extend(nothing_is_left_for_later(&source.path, &source.text));
    }
    for (path, text) in &others {
        found.extend(nothing_is_left_for_later(path, text));
        if let Some(own) = path.strip_suffix("/Cargo.toml") {
            found.extend(dependencies_stay_in_direction(own, text));
        }
    }
    expect_nothing(found);
}

#[test]
fn top_level_is_tidy() {
    let names = fs::read_dir(top()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    expect_nothing(top_level_is_the_map(&names.collect::<Vec<_>>()));
}

mod tests;
