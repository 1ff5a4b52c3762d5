//! Each rule, on what breaks it and on what only looks so.

use super::*;

/// The lines at which a rule finds something.
fn lines(rule: fn(&Source) -> Findings, path: &str, text: &str) -> Vec<usize> {
    let found = rule(&Source::new(path, text));
    found.iter().map(|finding| finding.split(':').nth(1).unwrap().parse().unwrap()).collect()
}

#[track_caller]
fn check(rule: fn(&Source) -> Findings, path: &str, text: &str, expected: &[usize]) {
    assert_eq!(lines(rule, path, text), expected, "{path}\n{text}");
}

#[test]
fn comments_and_strings_are_no_code() {
    let text =
        "a /* b /* c */ d */ e // f\n'\\'' 'g' \"h \\\" i\" r#\"j \" k\"# &'l m b\"n\" br##\"o\"# p\"##";
    let blanked = blank(text);
    assert_eq!(blanked.len(), text.len());
    let words: Vec<_> = tokens(&blanked).into_iter().map(|token| token.text).collect();
    let expected = [
        "a", "e", "'", "'", "'", "'", "\"", "\"", "r", "#", "\"", "\"", "#", "&", "'", "l", "m", "b", "\"",
        "\"", "br", "#", "#", "\"", "\"", "#", "#",
    ];
    assert_eq!(words, expected);
}

#[test]
fn unfinished_text_is_read_to_its_end() {
    for text in
        ["\"abc", "/* abc", "r#\"abc", "'\\", "use a::{b", "#[cfg(test)] mod a {", "fn a(", "HashMap<", "r"]
    {
        let source = Source::new("wal/src/log.rs", text);
        assert_eq!(source.blanked.len(), text.len());
        tree_rules().iter().for_each(|rule| drop(rule(&source)));
    }
}

fn tree_rules() -> [fn(&Source) -> Findings; 4] {
    [
        nothing_is_unwrapped,
        pure_files_are_functions_of_their_inputs,
        every_test_runs_and_says_what_it_expects,
        functions_fit_a_screen,
    ]
}

#[test]
fn imports_against_the_direction_are_found() {
    let rule = imports_stay_in_direction;
    check(rule, "wal/src/log.rs", "\nuse ringmain_net::Frame;", &[2]);
    check(rule, "wal/src/log.rs", "fn f() { ringmain_core::f() }", &[1]);
    check(rule, "replication/src/log.rs", "use ringmain_wal::Term;", &[]);
    check(rule, "replication/src/log.rs", "// use ringmain_net::Term;\n/// [`ringmain_net`]", &[]);
    check(rule, "client/src/lib.rs", "use ringmain_core::Shard;", &[1]);
    check(rule, "bench/src/main.rs", "use ringmain_net::Frame;", &[1]);
    check(rule, "client/examples/hello.rs", "use ringmain_client::Client;", &[]);
    check(rule, "core/src/broker.rs", "use ringmain_client::Client;", &[1]);
    check(rule, "core/src/cli/demo.rs", "use ringmain_client::Client;", &[]);
    check(rule, "core/src/main.rs", "use ringmain_client::Client;", &[1]);
    check(rule, "core/src/client.rs", "const NAME: &str = \"ringmain_client\";", &[]);
    check(rule, "tests/src/world.rs", "use ringmain_core::Shard;", &[]);
}

#[test]
fn dependencies_against_the_direction_are_found() {
    let found = |own, manifest| dependencies_stay_in_direction(own, manifest).len();
    assert_eq!(found("wal", "[package]\nname = \"ringmain-wal\"\n[dependencies]\nbytes = \"1\""), 0);
    assert_eq!(found("wal", "[dependencies]\nringmain-net.workspace = true"), 1);
    assert_eq!(found("wal", "[target.'cfg(unix)'.dependencies]\nnet = { package = \"ringmain-net\" }"), 1);
    assert_eq!(found("net", "[dev-dependencies.ringmain-core]\nworkspace = true"), 1);
    assert_eq!(found("bench", "[dependencies]\n# ringmain-core\nringmain-client.workspace = true"), 0);
    assert_eq!(found("replication", "[dependencies]\nringmain-wal.workspace = true"), 0);
    assert_eq!(found("common", ""), 1);
}

#[test]
fn glommio_elsewhere_is_found() {
    let rule = glommio_stays_in_its_files;
    check(rule, "core/src/broker.rs", "use glommio::Task;", &[1]);
    check(rule, "core/src/runtime/inbox.rs", "\nfn f() { glommio::yield_if_needed() }", &[2]);
    check(rule, "core/src/broker.rs", "// glommio carries it\nconst A: &str = \"glommio\";", &[]);
    check(rule, "wal/src/disk.rs", "use glommio::io::DmaFile;", &[]);
    check(rule, "wal/src/disk/tests.rs", "use glommio::LocalExecutor;", &[]);
    check(rule, "wal/src/disk/preflight.rs", "use glommio::LocalExecutor;", &[1]);
}

#[test]
fn unwrap_outside_tests_is_found() {
    let rule = nothing_is_unwrapped;
    check(rule, "wal/src/log.rs", "fn f() {\n  a.unwrap();\n  b\n    .unwrap()\n}", &[2, 4]);
    check(rule, "wal/src/log.rs", "// a.unwrap()\nfn f() { a.unwrap_or(1); a.expect(\".unwrap()\"); }", &[]);
    check(rule, "wal/src/log/tests.rs", "fn f() { a.unwrap() }", &[]);
    check(rule, "tests/src/world.rs", "fn f() { a.unwrap() }", &[]);
    let inline = "fn f() {}\n#[cfg(test)]\nmod tests {\n fn g() { a.unwrap() }\n}\nfn h() { a.unwrap() }";
    check(rule, "wal/src/log.rs", inline, &[6]);
    check(rule, "wal/src/log.rs", "#[cfg(test)]\n#[allow(dead_code)]\nfn f() { a.unwrap() }\nfn g() {}", &[]);
    check(rule, "wal/src/log.rs", "#[cfg(test)]\nmod tests;\nfn f() { a.unwrap() }", &[3]);
}

#[test]
fn test_files_are_known_by_their_declaration() {
    let mut sources = vec![
        Source::new("replication/src/lib.rs", "mod log;\n#[cfg(test)]\nmod simulation;"),
        Source::new("replication/src/simulation.rs", "fn f() { a.unwrap() }"),
        Source::new("replication/src/log.rs", "#[cfg(test)]\nmod cases;\nfn f() { a.unwrap() }"),
        Source::new("replication/src/log/cases.rs", "fn f() { a.unwrap() }"),
    ];
    mark_test_files(&mut sources);
    assert_eq!(sources.iter().map(|source| source.is_test).collect::<Vec<_>>(), [false, true, false, true]);
}

#[test]
fn impurity_is_found() {
    let rule = pure_files_are_functions_of_their_inputs;
    check(
        rule,
        "wal/src/log.rs",
        "use std::fs;\nuse std::{thread, io};\nuse std::time::{Duration, Instant};",
        &[1, 2, 3],
    );
    check(rule, "core/src/engine.rs", "fn f() {\n std::thread::sleep(d);\n std::fs::read(p)\n}", &[2, 3]);
    check(rule, "core/src/broker.rs", "fn f() { let a = Instant::now(); }", &[1]);
    check(
        rule,
        "net/src/frame.rs",
        "use std::{\n  collections::{BTreeMap, hash_map::RandomState},\n};",
        &[2],
    );
    check(
        rule,
        "wal/src/log.rs",
        "use std::time::Duration;\n// std::fs\nfn f(fs: u8) -> u8 { thread(fs) }",
        &[],
    );
    check(rule, "wal/src/inspect.rs", "use std::fs;", &[]);
    check(rule, "core/src/runtime/mesh.rs", "use std::time::Instant;", &[]);
    check(rule, "core/src/cli/demo.rs", "fn f() { Instant::now(); }", &[]);
    check(rule, "client/src/lib.rs", "use std::time::Instant;", &[]);
    check(rule, "wal/src/log.rs", "#[cfg(test)]\nmod tests {\n use std::fs;\n}", &[]);
}

#[test]
fn default_hashers_are_found() {
    let rule = pure_files_are_functions_of_their_inputs;
    check(
        rule,
        "core/src/engine.rs",
        "struct A {\n b: HashMap<u64, Vec<(u8, u8)>>,\n c: HashSet<u64>,\n}",
        &[2, 3],
    );
    check(rule, "core/src/engine.rs", "fn f() {\n HashMap::new();\n HashSet::with_capacity(1);\n}", &[2, 3]);
    check(
        rule,
        "core/src/engine.rs",
        "fn f() { a.collect::<HashSet<_>>(); HashMap::<u8, u8>::default(); }",
        &[1],
    );
    let fixed = "use std::collections::{HashMap, HashSet};\nstruct A {\n b: HashMap<u64, fn(u8) -> u8, Fixed>,\n c: HashSet<u64, Fixed>,\n}\nfn f() { HashMap::default(); HashMap::with_hasher(Fixed); }";
    check(rule, "core/src/engine.rs", fixed, &[]);
}

#[test]
fn work_left_for_later_is_found() {
    let text = format!("a\n// {}: b\n{}S are fine\n", concat!("TO", "DO"), concat!("TO", "DO"));
    assert_eq!(nothing_is_left_for_later("README.md", &text), ["README.md:2: left for later"]);
}

#[test]
fn tests_that_do_not_run_are_found() {
    let rule = every_test_runs_and_says_what_it_expects;
    check(rule, "wal/src/log/tests.rs", "#[test]\n#[ignore = \"slow\"]\nfn a() {}", &[2]);
    check(
        rule,
        "wal/src/log/tests.rs",
        "#[test]\n#[should_panic]\nfn a() {}\n#[cfg_attr(test, ignore)]\nfn b() {}",
        &[2, 4],
    );
    check(rule, "wal/src/log/tests.rs", "// #[ignore]\n#[test]\nfn ignore() { a[ignore] }", &[]);
}

#[test]
fn long_functions_are_found() {
    let body = |lines: usize| "    a();\n".repeat(lines);
    let rule = functions_fit_a_screen;
    check(rule, "wal/src/log.rs", &format!("fn a() {{\n{}}}", body(68)), &[]);
    check(rule, "wal/src/log.rs", &format!("fn a() {{\n{}}}", body(69)), &[1]);
    let text =
        format!("trait A {{\n fn a(b: [u8; 4]);\n}}\n/// }}\nfn c() {{\n let d = '}}';\n{}}}", body(69));
    check(rule, "wal/src/log.rs", &text, &[5]);
    check(rule, "wal/src/log.rs", &format!("type A = fn(u8);\n{}", body(80)), &[]);
}

#[test]
fn long_files_are_found() {
    check(files_stay_short, "wal/src/log.rs", &"a\n".repeat(900), &[]);
    check(files_stay_short, "wal/src/log.rs", &"a\n".repeat(901), &[901]);
}

#[test]
fn strangers_at_the_top_are_found() {
    let names = ["core", "Cargo.toml", ".git", "target", "common", "notes.txt"].map(String::from);
    assert_eq!(top_level_is_the_map(&names).len(), 2);
}
