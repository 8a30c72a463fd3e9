//! `docs/guarantees.md` names a test in each row; these rules check that the tests exist.

use std::collections::BTreeSet;

use super::{Source, files, made, read, root};

/// A row of a table: its text, and the code words in its last cell.
struct Promise<'a> {
    text: &'a str,
    names: Vec<&'a str>,
}

fn promises(text: &str) -> Vec<Promise<'_>> {
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let last_cell = |row: &'_ str| {
        row.trim_end_matches(['|', ' '])
            .rsplit("| ")
            .next()
            .map(str::len)
    };
    rows.filter(|row| !row.starts_with("| failure |"))
        .map(|text| {
            let inner = text.trim_end_matches(['|', ' ']);
            let cell = &inner[inner.len() - last_cell(text).unwrap_or(0)..];
            Promise {
                text,
                names: cell.split('`').skip(1).step_by(2).collect(),
            }
        })
        .collect()
}

/// The tests of a file, by their full names.
fn tests(source: &Source) -> Vec<String> {
    let path = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
    let Some(path) = ["tests/suite/", "src/", "crates/records/src/"]
        .iter()
        .find_map(|root| path.strip_prefix(root))
    else {
        return Vec::new();
    };
    let mut module = path.replace('/', "::");
    let code = source.code();
    let mut found = Vec::new();
    let mut is_test = false;
    for line in code.lines() {
        if line.starts_with("mod tests {") {
            module.push_str("::tests");
        }
        let line = line.trim_start();
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        let function = line.trim_start_matches("async ").strip_prefix("fn ");
        if let Some(name) = function.and_then(|rest| rest.split(['(', '<']).next())
            && std::mem::take(&mut is_test)
        {
            found.push(format!("{module}::{name}"));
        }
    }
    found
}

/// Whether a test has this name; a star matches any text.
fn exists(name: &str, tests: &BTreeSet<String>) -> bool {
    match name.split_once('*') {
        None => tests.contains(name),
        Some((before, after)) => tests.iter().any(|test| {
            test.len() >= before.len() + after.len()
                && test.starts_with(before)
                && test.ends_with(after)
        }),
    }
}

/// Rows that name no test, and names of tests that do not exist. An existing script counts as a
/// test.
fn unproved(text: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut findings = Vec::new();
    for promise in promises(text) {
        if !promise.names.iter().any(|name| name.contains("::")) {
            findings.push(format!("no test is named: {}", promise.text));
        }
        let is_there = |name: &str| {
            if name.contains("::") {
                exists(name, tests)
            } else {
                let script = name.split_whitespace().next().unwrap_or(name);
                root().join(script).exists()
            }
        };
        let missing = promise.names.iter().filter(|name| !is_there(name));
        findings.extend(missing.map(|name| format!("no test has the name `{name}`")));
    }
    findings
}

#[test]
fn every_promise_names_tests_that_exist() {
    let text = read("docs/guarantees.md").text;
    assert!(promises(&text).len() > 50, "the tables were not found");
    let tests = files(&["src", "crates", "tests"], &["rs"])
        .iter()
        .flat_map(tests)
        .collect();
    super::clean(unproved(&text, &tests).into_iter());
}

/// After a panic in a task, the process would look alive but do half of its work.
#[test]
fn a_panic_ends_the_process() {
    let main = read("src/main.rs").text;
    let (_, hook) = main.split_once("std::panic::set_hook(").unwrap();
    let (hook, _) = hook.split_once("}));").unwrap();
    let (contained, rest) = hook.split_once("return;").unwrap();
    assert!(contained.contains("if contained::is_running() {"), "{hook}");
    assert!(rest.contains("std::process::exit("), "{hook}");
}

#[test]
fn promises_without_a_test_are_reported() {
    let source = made(
        "src/a/b.rs",
        "fn no() {}\n#[test]\nfn one() {}\nmod tests {\n    #[tokio::test(x)]\n    async fn two() {}\n}",
    );
    let tests: BTreeSet<String> = tests(&source).into_iter().collect();
    assert_eq!(Vec::from_iter(&tests), ["a::b::one", "a::b::tests::two"]);
    let row = |names: &str| {
        format!("| failure | x | test |\n|---|---|---|\n| `a::c` | does | {names} |\n")
    };
    for good in [
        "`a::b::one`, `Cargo.toml`",
        "`a::b::*`",
        "`a::*_::*`, `a::*two`",
    ] {
        let found = unproved(&row(good), &tests);
        assert_eq!(
            found.len(),
            usize::from(good.contains('_')),
            "{good}: {found:?}"
        );
    }
    for bad in [
        "`a::b::no`",
        "`a::b::one`, `a::two`",
        "none",
        "`scripts/no`, `a::b::one`",
    ] {
        assert_eq!(unproved(&row(bad), &tests).len(), 1, "{bad}");
    }
}
