//! The files of a module import each other in one direction.
//!
//! A file uses another file if a path in its code leads to an item that is defined there. A
//! re-export (`pub use`) does not count as a use, and a path to a re-exported name leads to the file
//! that defines it. So a file whose items its children use, mostly a `mod.rs`, must not use those
//! children, except to re-export them. Test modules are left out.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, in_a_word, words};
use super::{clean, made, rust};

/// A file as a module: the folder of its crate, and its path in that crate.
type Module = (String, Vec<String>);

/// A path in the code: where it begins, its segments, and whether it is part of a re-export.
struct CodePath {
    offset: usize,
    segments: Vec<String>,
    is_reexport: bool,
    /// The name that a `use` gives to it.
    name: Option<String>,
}

/// The files of a crate in `src`, by module.
struct Files<'a> {
    sources: BTreeMap<Module, &'a Source>,
    paths: BTreeMap<Module, Vec<CodePath>>,
}

impl<'a> Files<'a> {
    fn new(sources: &'a [Source]) -> Self {
        let with_module = |source: &'a Source| Some((module(&source.path)?, source));
        let sources: BTreeMap<Module, &Source> = sources.iter().filter_map(with_module).collect();
        let paths = sources.iter().map(|(module, source)| {
            let children = sources.keys().filter(|(folder, path)| {
                *folder == module.0 && path.split_last().is_some_and(|(_, up)| *up == module.1)
            });
            let children: Vec<&str> = children
                .filter_map(|(_, path)| Some(path.last()?.as_str()))
                .collect();
            (
                module.clone(),
                code_paths(&without_tests(&source.code()), &children),
            )
        });
        let paths = paths.collect();
        Self { sources, paths }
    }

    /// The module whose file defines what a path of `from` leads to. `None` if it leads out of the
    /// crate's files.
    fn resolve(&self, from: &Module, segments: &[String], depth: usize) -> Option<Module> {
        let (folder, own) = from;
        let mut at = Vec::new();
        let mut rest = segments;
        match rest.first()?.as_str() {
            "crate" => rest = &rest[1..],
            "self" => {
                at.clone_from(own);
                rest = &rest[1..];
            }
            "super" => {
                at.clone_from(own);
                while rest.first().is_some_and(|first| first == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            _ => at.clone_from(own),
        }
        while let Some((next, after)) = rest.split_first() {
            at.push(next.clone());
            if !self.sources.contains_key(&(folder.clone(), at.clone())) {
                at.pop();
                break;
            }
            rest = after;
        }
        let found = (folder.clone(), at);
        // Follows a name that is imported there to where it is defined. Names may be imported in a
        // circle by different paths, so this ends after a few steps.
        if depth < 8
            && let Some(name) = rest.first()
            && let Some(path) = self.paths.get(&found).and_then(|paths| {
                let is_it = |path: &&CodePath| path.name.as_ref() == Some(name);
                paths.iter().find(is_it)
            })
            && path.segments != segments
        {
            return self.resolve(&found, &path.segments, depth + 1);
        }
        self.sources.contains_key(&found).then_some(found)
    }

    /// The files of the same top-level module that a file uses, each with the place of its first
    /// use.
    fn uses(&self, module: &Module) -> BTreeMap<Module, usize> {
        let mut uses = BTreeMap::new();
        for path in self.paths[module].iter().filter(|path| !path.is_reexport) {
            let Some(target) = self.resolve(module, &path.segments, 0) else {
                continue;
            };
            if target != *module && target.1.first() == module.1.first() {
                uses.entry(target).or_insert(path.offset);
            }
        }
        uses
    }
}

/// Files that use each other in a circle: one finding for each circle.
fn circles(sources: &[Source]) -> Vec<String> {
    let files = Files::new(sources);
    let uses: BTreeMap<&Module, BTreeMap<Module, usize>> = files
        .sources
        .keys()
        .map(|module| (module, files.uses(module)))
        .collect();
    let mut reported = BTreeSet::new();
    let mut findings = Vec::new();
    for start in files.sources.keys() {
        let Some(circle) = circle_through(start, &uses) else {
            continue;
        };
        let members: BTreeSet<&Module> = circle.iter().copied().collect();
        if circle.iter().any(|module| reported.contains(module)) {
            continue;
        }
        reported.extend(members);
        let next = circle.get(1).copied().unwrap_or(start);
        let names: Vec<String> = circle
            .iter()
            .chain([&start])
            .map(|(_, path)| path.join("/"))
            .collect();
        let message = format!("imports in a circle: {}", names.join(" -> "));
        findings.push(files.sources[start].finding(uses[start][next], &message));
    }
    findings
}

/// The shortest circle through a file, beginning with it.
fn circle_through<'a>(
    start: &'a Module,
    uses: &'a BTreeMap<&'a Module, BTreeMap<Module, usize>>,
) -> Option<Vec<&'a Module>> {
    let mut ways = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = way[way.len() - 1];
            for next in uses[last].keys() {
                if next == start {
                    return Some(way);
                }
                if seen.insert(next) {
                    longer.push(way.iter().copied().chain([next]).collect());
                }
            }
        }
        ways = longer;
    }
    None
}

/// The module of a file in some `src`. `None` for the roots of crates, for tests, and for files
/// elsewhere.
fn module(path: &str) -> Option<Module> {
    let (folder, inside) = path.split_once("src/")?;
    let inside = inside.strip_suffix(".rs")?;
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    let path: Vec<String> = inside.split('/').map(str::to_owned).collect();
    let is_left_out = ["lib", "main"].contains(&inside) || path.iter().any(|part| part == "tests");
    let is_crate = folder.is_empty() || folder.starts_with("crates/");
    (is_crate && !is_left_out).then(|| (folder.to_owned(), path))
}

/// The code before its test module.
fn without_tests(code: &str) -> String {
    let tests = code.find("#[cfg(test)]\nmod tests {");
    code[..tests.unwrap_or(code.len())].to_owned()
}

/// The paths in some code that begin with `crate`, `super`, `self` or the name of a child.
fn code_paths(code: &str, children: &[&str]) -> Vec<CodePath> {
    let mut paths = Vec::new();
    for first in ["crate", "super", "self"].iter().chain(children) {
        for offset in words(code, first) {
            let (before, after) = (&code[..offset], &code[offset..]);
            // `pub(in crate::a)` says who may import, and imports nothing.
            let is_visibility = before.ends_with("(in ");
            if is_visibility || before.ends_with("::") || !after[first.len()..].starts_with("::") {
                continue;
            }
            let import = before.trim_end().strip_suffix("use");
            let import = import
                .filter(|before| !before.ends_with(in_a_word))
                .map(str::trim_end);
            let is_reexport = import.is_some_and(|before| {
                before.ends_with("pub")
                    || before.ends_with(')')
                        && before
                            .rsplit('(')
                            .nth(1)
                            .is_some_and(|b| b.ends_with("pub"))
            });
            for (segments, alias) in expand(after, &mut Vec::new()) {
                let name = alias.or_else(|| segments.last().cloned());
                paths.push(CodePath {
                    offset,
                    segments,
                    is_reexport,
                    name: name.filter(|_| import.is_some()),
                });
            }
        }
    }
    paths
}

/// The paths of the tree that begins here, `a::{b, c::d as e}`, each with its alias.
fn expand(text: &str, before: &mut Vec<String>) -> Vec<(Vec<String>, Option<String>)> {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        return branches(group)
            .into_iter()
            .flat_map(|branch| expand(branch, &mut before.clone()))
            .collect();
    }
    let length = text
        .find(|c| !in_a_word(c) && c != '*')
        .unwrap_or(text.len());
    let (word, rest) = text.split_at(length);
    if word != "self" || before.is_empty() {
        before.push(word.to_owned());
    }
    if let Some(rest) = rest.strip_prefix("::")
        && !rest.starts_with('<')
    {
        return expand(rest, before);
    }
    let alias = rest
        .trim_start()
        .strip_prefix("as ")
        .map(|alias| alias.chars().take_while(|&c| in_a_word(c)).collect());
    vec![(before.clone(), alias)]
}

/// The branches of a group that was opened before, at its outer commas.
fn branches(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.retain(|branch| !branch.trim().is_empty());
    found
}

#[test]
fn files_of_a_module_import_in_one_direction() {
    let sources = rust();
    let files = Files::new(&sources);
    let uses: usize = files
        .sources
        .keys()
        .map(|module| files.uses(module).len())
        .sum();
    assert!(uses > 50, "the imports were not found: {uses}");
    clean(circles(&sources).into_iter());
}

#[test]
fn circles_are_reported() {
    let check = |texts: &[(&str, &str)]| {
        let sources: Vec<Source> = texts.iter().map(|(path, text)| made(path, text)).collect();
        circles(&sources)
    };
    let mut low = ("src/a/low.rs", "pub struct Low;\n");
    let mid = (
        "src/a/mid.rs",
        "//! x\nuse super::low::Low;\nuse crate::b::high::High;\n",
    );
    let high = (
        "src/a/high.rs",
        "use super::{mid::Mid, Low};\nuse std::fmt;\n",
    );
    let top = (
        "src/a/mod.rs",
        "mod low;\nmod mid;\nmod high;\npub use high::High;\npub use low::Low;\n",
    );
    assert_eq!(check(&[low, mid, high, top]).len(), 0);
    // Through a name that the parent re-exports, and in a group.
    low.1 = "use super::{\n    High as Other,\n};\n";
    let found = check(&[low, mid, high, top]);
    assert_eq!(
        found,
        ["src/a/high.rs:1: imports in a circle: a/high -> a/low -> a/high"]
    );
    // A visibility is no import.
    low.1 = "pub(in crate::a) struct Low;\n";
    let uses = ("src/a/mod.rs", "mod low;\nuse low::Low;\n");
    assert_eq!(check(&[low, uses]).len(), 0);
    // A test may import any module.
    low.1 = "pub struct Low;\n#[cfg(test)]\nmod tests {\n    use super::super::high::High;\n}\n";
    assert_eq!(check(&[low, mid, high, top]).len(), 0);

    // A parent that defines an item of its child, and uses the child.
    let parent = "pub mod child;\npub struct Own;\nfn open() { child::make() }\n";
    let child = ("crates/c/src/p/child.rs", "use crate::p::Own;\n");
    let found = check(&[("crates/c/src/p/mod.rs", parent), child]);
    assert_eq!(
        found,
        ["crates/c/src/p/mod.rs:3: imports in a circle: p -> p/child -> p"]
    );
    // The same, but the parent only re-exports the child's item, also as `p.rs`.
    let parent = "pub mod child;\npub struct Own;\npub(crate) use child::make;\n";
    assert_eq!(check(&[("crates/c/src/p.rs", parent), child]).len(), 0);
    // Between top-level modules the import order decides.
    let other = ("src/b/mod.rs", "use crate::a::Low;\n");
    assert_eq!(
        check(&[
            mid,
            ("src/a/low.rs", ""),
            other,
            ("src/b/high.rs", "use super::x;")
        ])
        .len(),
        0
    );
}
