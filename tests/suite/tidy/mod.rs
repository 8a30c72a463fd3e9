//! The rules of the code base that the compiler does not know, checked over the source tree.
//!
//! Each rule is a function from a source text to findings. It runs over the tree, and over a text
//! that breaks it: a rule that never finds anything proves nothing.

mod circles;
mod pages;
mod promises;
mod prose;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use source::{Source, crate_paths, in_a_word, words};

/// Most lines of a file. A longer one contains more than one thing.
const LINES_MAX: usize = 600;

/// Outside crates that one module owns, so that replacing one touches one place: the crate as it
/// is written in paths, and the files or folders of `src/` that may name it.
const OWNERS: [(&str, &[&str]); 19] = [
    ("mimalloc", &["allocator"]),
    ("rayon", &["ingest"]),
    ("memmap2", &["content"]),
    ("bzip2", &["content"]),
    ("liblzma", &["content"]),
    ("snap", &["content"]),
    ("tar", &["content/container"]),
    ("rawzip", &["content/container"]),
    ("notify", &["inbox"]),
    ("fred", &["broker/redis"]),
    ("mysql_async", &["sink/mysql"]),
    ("rusqlite", &["sink/sqlite"]),
    ("metrics", &["telemetry"]),
    ("metrics_exporter_prometheus", &["telemetry"]),
    ("metrics_process", &["telemetry"]),
    ("clap", &["config", "commands", "main"]),
    ("clap_complete", &["config"]),
    ("clap_mangen", &["config"]),
    ("sd_notify", &["commands/systemd"]),
];

// The rules.

/// A module may name only itself and modules above it in `lib.rs`.
fn import_order(source: &Source, modules: &[String]) -> Vec<String> {
    let Some(module) = source.module() else {
        return Vec::new();
    };
    let top = module
        .split('/')
        .next()
        .expect("split yields at least one part");
    let Some(own) = modules.iter().position(|name| name == top) else {
        return Vec::new();
    };
    crate_paths(&source.code())
        .into_iter()
        .filter(|(_, name)| modules.iter().skip(own + 1).any(|below| below == name))
        .map(|(offset, name)| {
            let message = format!("`{top}` uses `{name}`, which is below it in lib.rs");
            source.finding(offset, &message)
        })
        .collect()
}

/// An outside crate is named by its owner only.
fn crate_owners(source: &Source) -> Vec<String> {
    let Some(module) = source.module() else {
        return Vec::new();
    };
    let code = source.code();
    let mut findings = Vec::new();
    for (outside, owners) in OWNERS {
        let owned = owners.iter().any(|owner| {
            module
                .strip_prefix(owner)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        if owned {
            continue;
        }
        for offset in words(&code, outside) {
            let (before, after) = (&code[..offset], &code[offset + outside.len()..]);
            let imported = before.ends_with("use ") || before.ends_with("extern crate ");
            if !before.ends_with(':') && (imported || after.starts_with("::")) {
                let message = format!("`{outside}` belongs to {}", owners.join(", "));
                findings.push(source.finding(offset, &message));
            }
        }
    }
    findings
}

/// Every file begins with a description of what it owns.
fn opens_with_a_description(source: &Source) -> Vec<String> {
    let opens = source.text.starts_with("//! ");
    let message = "opens without `//!`: say what the file owns";
    if opens {
        Vec::new()
    } else {
        vec![source.finding(0, message)]
    }
}

/// `unsafe` is allowed in the allocator and in one module only.
fn no_unsafe(source: &Source) -> Vec<String> {
    let places = [
        "src/allocator.rs",
        "src/content/regular.rs",
        "src/content/mapping/",
    ];
    if places.iter().any(|place| source.path.starts_with(place)) {
        return Vec::new();
    }
    words(&source.code(), "unsafe")
        .map(|offset| source.finding(offset, "`unsafe` outside src/allocator.rs and src/content"))
        .collect()
}

/// Modules that still have the other form: `name.rs` beside `name/`.
const TO_BE_MOVED: [&str; 1] = ["src/inbox.rs"];

/// A module with children is `name/mod.rs`, so that one folder holds all of it.
fn one_module_form(sources: &[Source]) -> Vec<String> {
    let has_children = |source: &&Source| {
        let folder = format!("{}/", source.path.trim_end_matches(".rs"));
        sources.iter().any(|other| other.path.starts_with(&folder))
    };
    sources
        .iter()
        .filter(has_children)
        .map(|source| source.finding(0, "has child modules: move it to `mod.rs` in their folder"))
        .collect()
}

/// The publisher waits while a stream is full; `MAXLEN` would delete unread entries.
fn no_maxlen(source: &Source) -> Vec<String> {
    if source.module().is_none() {
        return Vec::new();
    }
    let text = source.without_comments().to_ascii_uppercase();
    text.match_indices("MAXLEN")
        .map(|(offset, _)| source.finding(offset, "`MAXLEN` drops entries that no worker has read"))
        .collect()
}

fn not_too_long(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines <= LINES_MAX {
        return Vec::new();
    }
    let message = format!("{lines} lines, more than {LINES_MAX}: split it by what it holds");
    vec![source.finding(source.text.len(), &message)]
}

/// An ignored test proves nothing, but counts as passed.
fn no_ignored_tests(source: &Source) -> Vec<String> {
    source
        .code()
        .match_indices("#[ignore")
        .map(|(offset, _)| source.finding(offset, "an ignored test: repair it or delete it"))
        .collect()
}

/// Dashboards and alerts use only metrics that exist.
fn metrics_exist(source: &Source, described: &BTreeSet<String>) -> Vec<String> {
    lemonade_words(&source.text)
        .filter(|(_, name)| {
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            !described.contains(*name) && !base.is_some_and(|base| described.contains(base))
        })
        .map(|(offset, name)| {
            source.finding(
                offset,
                &format!("no metric `{name}` in src/telemetry/catalogue.rs"),
            )
        })
        .collect()
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 == 0o111)
}

// The rules over the tree.

#[test]
fn modules_import_only_modules_above_them() {
    for (root, at_least) in [("src", 10), ("crates/records/src", 6)] {
        let modules = modules(&read(&format!("{root}/lib.rs")).text);
        assert!(
            modules.len() > at_least,
            "the modules of {root}/lib.rs were not found: {modules:?}"
        );
        clean(
            files(&[root], &["rs"])
                .iter()
                .flat_map(|source| import_order(source, &modules)),
        );
    }
}

#[test]
fn outside_crates_are_named_by_their_owner_only() {
    clean(rust().iter().flat_map(crate_owners));
}

/// The events of `telemetry/mod.rs`: its public functions.
fn events(telemetry: &str) -> Vec<&str> {
    let functions = telemetry
        .lines()
        .filter_map(|line| line.strip_prefix("pub fn "));
    functions
        .filter_map(|line| Some(line.split_once('(')?.0))
        .collect()
}

/// Events that no other file calls: their metrics are described but never set.
fn unused(telemetry: &Source, callers: &[Source]) -> Vec<String> {
    let code = telemetry.code();
    let is_unused = |event: &&str| {
        let call = format!("telemetry::{event}(");
        !callers.iter().any(|source| source.code().contains(&call))
    };
    let unused = events(&code).into_iter().filter(is_unused);
    unused
        .map(|event| format!("src/telemetry/mod.rs: no file calls `{event}`: remove it"))
        .collect()
}

#[test]
fn files_open_with_a_description() {
    clean(rust().iter().flat_map(opens_with_a_description));
}

#[test]
fn modules_with_children_have_one_form() {
    let mut sources = rust();
    sources.retain(|source| !TO_BE_MOVED.contains(&source.path.as_str()));
    clean(one_module_form(&sources).into_iter());
}

#[test]
fn unsafe_is_in_two_modules() {
    clean(rust().iter().flat_map(no_unsafe));
}

#[test]
fn streams_are_never_trimmed() {
    clean(rust().iter().flat_map(no_maxlen));
}

#[test]
fn files_are_short() {
    clean(rust().iter().flat_map(not_too_long));
}

#[test]
fn no_test_is_ignored() {
    clean(rust().iter().flat_map(no_ignored_tests));
}

#[test]
fn dashboards_and_alerts_name_metrics_that_exist() {
    let described = metrics_described(&read("src/telemetry/catalogue.rs"));
    assert!(
        described.len() > 20,
        "the metrics of the catalogue were not found: {described:?}"
    );
    let mut asking = files(&["grafana"], &["json", "yml"]);
    asking.extend(files(&["deploy"], &["yml"]));
    assert!(asking.len() > 2, "dashboard and alerts were not found");
    clean(
        asking
            .iter()
            .flat_map(|source| metrics_exist(source, &described)),
    );
}

#[test]
fn every_event_of_telemetry_is_used() {
    let telemetry = read("src/telemetry/mod.rs");
    let callers: Vec<Source> = files(&["src"], &["rs"])
        .into_iter()
        .filter(|source| !source.path.starts_with("src/telemetry"))
        .collect();
    assert!(
        events(&telemetry.code()).len() > 15,
        "the events were not found"
    );
    clean(unused(&telemetry, &callers).into_iter());
}

#[test]
fn scripts_can_be_run() {
    let mut scripts: Vec<PathBuf> = fs::read_dir(root().join("scripts"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    scripts.push(root().join(".ci/run"));
    for script in scripts {
        assert!(
            is_executable(&script),
            "{}: not executable: chmod +x",
            script.display()
        );
    }
}

// The rules over texts that break them.

#[test]
fn a_wrong_import_order_is_reported() {
    let modules = modules("pub mod low; // comment\npub mod mid;\nmod high;\n");
    assert_eq!(modules, ["low", "mid", "high"]);
    let check = |path: &str, text: &str| import_order(&made(path, text), &modules);
    let direct = check(
        "src/mid.rs",
        "//! x\nuse crate::low::A;\nuse crate::high::B;\n",
    );
    assert_eq!(
        direct,
        ["src/mid.rs:3: `mid` uses `high`, which is below it in lib.rs"]
    );
    assert_eq!(
        check("src/low/sub/deep.rs", "fn f() { crate::mid::g() }").len(),
        1
    );
    let grouped = "use crate::{\n    low::{A, high},\n    high,\n};";
    assert_eq!(check("src/mid/mod.rs", grouped).len(), 1);
    assert_eq!(
        check(
            "src/mid.rs",
            "/// [`crate::high::B`]\nuse crate::mid::high;"
        )
        .len(),
        0
    );
    assert_eq!(check("src/main.rs", "use crate::high::B;").len(), 0);
}

#[test]
fn wrong_owners_of_crates_are_reported() {
    let check = |path: &str, text: &str| crate_owners(&made(path, text));
    let found = check("src/worker.rs", "//! x\n\nuse mysql_async::Row;\n");
    assert_eq!(
        found,
        ["src/worker.rs:3: `mysql_async` belongs to sink/mysql"]
    );
    assert_eq!(
        check("src/sink/mod.rs", "fn f(a: rusqlite::Row) {}").len(),
        1
    );
    assert_eq!(check("src/broker/redis_like.rs", "use fred;").len(), 1);
    assert_eq!(
        check("src/sink/mysql/insert.rs", "use mysql_async::Row;").len(),
        0
    );
    assert_eq!(check("src/commands/load.rs", "use clap::Parser;").len(), 0);
    assert_eq!(
        check(
            "src/worker.rs",
            "fn notify() { let metrics = 1; super::metrics::f() }"
        )
        .len(),
        0
    );
    assert_eq!(check("benches/parse.rs", "use notify::Watcher;").len(), 0);
}

#[test]
fn other_offences_are_reported() {
    assert_eq!(
        opens_with_a_description(&made("src/a.rs", "use b;")).len(),
        1
    );
    assert_eq!(
        opens_with_a_description(&made("src/a.rs", "// not a doc comment\n")).len(),
        1
    );

    let unsafe_text = "//! unsafe\n// unsafe\nfn f() { \"unsafe\"; unsafe { g() } }";
    let found = no_unsafe(&made("src/a.rs", unsafe_text));
    assert_eq!(
        found,
        ["src/a.rs:3: `unsafe` outside src/allocator.rs and src/content"]
    );
    assert_eq!(
        no_unsafe(&made("src/content/regular.rs", unsafe_text)).len(),
        0
    );
    assert_eq!(
        no_unsafe(&made("src/a.rs", "#![deny(unsafe_code)]")).len(),
        0
    );

    let trims = "//! never MAXLEN\nlet cap = (\"MAXLEN\", 5); XCapKind::MaxLen;";
    assert_eq!(no_maxlen(&made("src/broker/redis.rs", trims)).len(), 2);

    assert_eq!(
        not_too_long(&made("src/a.rs", &"x\n".repeat(LINES_MAX + 1))).len(),
        1
    );
    assert_eq!(
        not_too_long(&made("src/a.rs", &"x\n".repeat(LINES_MAX))).len(),
        0
    );

    let ignored = "#[test]\n#[ignore = \"slow\"]\nfn f() {} // #[ignore]";
    let found = no_ignored_tests(&made("src/a.rs", ignored));
    assert_eq!(
        found,
        ["src/a.rs:2: an ignored test: repair it or delete it"]
    );

    assert!(!is_executable(&root().join("Cargo.toml")));
}

#[test]
fn the_other_form_of_modules_is_reported() {
    let sources = [
        "src/a.rs",
        "src/a/b.rs",
        "src/c/mod.rs",
        "src/c/d.rs",
        "src/cd.rs",
    ];
    let sources = sources.map(|path| made(path, "//! x\n"));
    assert_eq!(
        one_module_form(&sources),
        ["src/a.rs:1: has child modules: move it to `mod.rs` in their folder"]
    );
}

#[test]
fn unused_events_are_reported() {
    let telemetry = made(
        "src/telemetry/mod.rs",
        "pub fn used(n: u64) {}\npub fn unused() {}\n",
    );
    let caller = made("src/a.rs", "telemetry::used(1); // telemetry::unused()");
    let found = unused(&telemetry, &[caller]);
    assert_eq!(
        found,
        ["src/telemetry/mod.rs: no file calls `unused`: remove it"]
    );
}

#[test]
fn unknown_metrics_are_reported() {
    let telemetry = made(
        "src/telemetry/catalogue.rs",
        "// \"lemonade_gone_total\"\ncounter!(\"lemonade_a_total\"); histogram!(\"lemonade_b\");",
    );
    let described = metrics_described(&telemetry);
    assert_eq!(
        Vec::from_iter(&described),
        ["lemonade_a_total", "lemonade_b"]
    );
    let check = |text: &str| metrics_exist(&made("grafana/d.json", text), &described);
    assert_eq!(
        check("rate(lemonade_a_total[1m]) / lemonade_b_bucket").len(),
        0
    );
    let found = check("up\nlemonade_a");
    assert_eq!(
        found,
        ["grafana/d.json:2: no metric `lemonade_a` in src/telemetry/catalogue.rs"]
    );
    assert_eq!(check("lemonade_gone_total + lemonade_c_bucket").len(), 2);
}

// Reading.

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn made(path: &str, text: &str) -> Source {
    Source {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

fn read(path: &str) -> Source {
    let text = fs::read_to_string(root().join(path));
    made(
        path,
        &text.unwrap_or_else(|error| panic!("{path}: {error}")),
    )
}

fn rust() -> Vec<Source> {
    files(&["src", "crates", "tests", "benches", "fuzz"], &["rs"])
}

/// The files below these folders with these endings. A missing folder has none.
fn files(folders: &[&str], endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders: Vec<String> = folders.iter().map(ToString::to_string).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).into_iter().flatten() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if endings
                .iter()
                .any(|ending| path.ends_with(&format!(".{ending}")))
            {
                found.push(read(&path));
            }
        }
    }
    found
}

#[track_caller]
fn clean(findings: impl Iterator<Item = String>) {
    let findings: Vec<String> = findings.collect();
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

/// The modules of `lib.rs` in their order.
fn modules(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            line.strip_prefix("pub ")
                .unwrap_or(line)
                .strip_prefix("mod ")
        })
        .filter_map(|line| Some(line.split_once(';')?.0.to_owned()))
        .collect()
}

/// Every word that begins like the name of a metric.
fn lemonade_words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.match_indices("lemonade_")
        .filter(|&(offset, _)| !text[..offset].ends_with(in_a_word))
        .map(|(offset, _)| {
            let rest = &text[offset..];
            (
                offset,
                &rest[..rest.find(|c| !in_a_word(c)).unwrap_or(rest.len())],
            )
        })
}

/// The names in the string literals of the catalogue.
fn metrics_described(telemetry: &Source) -> BTreeSet<String> {
    let text = telemetry.without_comments();
    lemonade_words(&text)
        .map(|(_, name)| name.to_owned())
        .collect()
}
