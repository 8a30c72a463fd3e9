//! The rules for pages: links and names of files lead somewhere, lines are short, and words that
//! hide their subject stay out.

use super::{Source, clean, files, made, read, root, words};

/// Columns of a line of prose. A row of a table and a line of code cannot be wrapped.
const COLUMNS_MAX: usize = 100;

/// Words that make a reader ask "who?" or "what?", from the list in CONTRIBUTING.md.
const VAGUE: [&str; 9] = [
    "whoever",
    "nobody",
    "somebody",
    "mend",
    "mended",
    "of use",
    "in hand",
    "to be had",
    "what is there",
];

/// All pages of the repository.
fn pages() -> Vec<Source> {
    let at_the_top = std::fs::read_dir(root()).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_page = std::path::Path::new(&name)
            .extension()
            .is_some_and(|end| end == "md");
        is_page.then(|| read(&name))
    });
    let below = files(&["docs", "findings", "crates", ".github"], &["md"]);
    at_the_top.chain(below).collect()
}

/// The text with code, which no rule reads, replaced by blanks.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let lines = text.lines().map(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        if is_code || is_fence || line.starts_with("    ") {
            return String::new();
        }
        // Of a line, what lies between two backticks.
        let parts = line.split('`').enumerate();
        parts
            .map(|(at, part)| match at % 2 {
                0 => part.to_owned(),
                _ => " ".repeat(part.len() + 2),
            })
            .collect()
    });
    lines.collect::<Vec<String>>().join("\n")
}

/// The targets of a page's links and pictures, with the line of each.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text).lines().enumerate() {
        for opening in ["](", "src=\"", "srcset=\""] {
            let targets = line.split(opening).skip(1);
            let targets = targets.filter_map(|rest| rest.split([')', '"', ' ']).next());
            found.extend(targets.map(|target| (number + 1, target.to_owned())));
        }
    }
    found
}

/// The anchors that GitHub gives to the headings of a page.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// Links of a page to files or headings that do not exist.
fn broken_links(page: &Source) -> Vec<String> {
    let folder = page.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let is_broken = |target: &str| {
        if target.contains("://") || target.starts_with("mailto:") {
            return false;
        }
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let path = if file.is_empty() {
            root().join(&page.path)
        } else {
            root().join(folder).join(file)
        };
        let text = std::fs::read_to_string(&path);
        !path.exists()
            || !anchor.is_empty()
                && !text.is_ok_and(|text| anchors(&text).iter().any(|known| known == anchor))
    };
    links(&page.text)
        .into_iter()
        .filter(|(_, target)| is_broken(target))
        .map(|(line, target)| format!("{}:{line}: `{target}` leads nowhere", page.path))
        .collect()
}

/// Files of the source that a page names as code, and that do not exist.
fn missing_files(page: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (at, line) in page.text.lines().enumerate() {
        let named = line.split('`').skip(1).step_by(2).filter(|name| {
            ["src/", "crates/", "tests/", "benches/"]
                .iter()
                .any(|folder| name.starts_with(folder))
                && !name.contains([' ', '*'])
        });
        let missing = named.filter(|name| !root().join(name).exists());
        found.extend(missing.map(|name| format!("{}:{}: no `{name}`", page.path, at + 1)));
    }
    found
}

/// Lines of prose that are too long.
fn long_lines(page: &Source) -> Vec<String> {
    let is_long = |line: &str| {
        line.chars().count() > COLUMNS_MAX && !line.starts_with('|') && line.contains(' ')
    };
    let lines = page.text.lines().enumerate();
    lines
        .filter(|(_, line)| is_long(line))
        .map(|(at, _)| format!("{}:{}: more than {COLUMNS_MAX} columns", page.path, at + 1))
        .collect()
}

/// Vague words of a page.
fn vague_words(page: &Source) -> Vec<String> {
    let text = prose(&page.text).to_lowercase();
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let vague = VAGUE
            .iter()
            .filter(|word| words(line, word).next().is_some());
        let path = &page.path;
        found.extend(vague.map(|word| format!("{path}:{}: `{word}`: name the subject", at + 1)));
    }
    found
}

#[test]
fn links_of_pages_lead_somewhere() {
    let pages = pages();
    assert!(pages.len() > 15, "the pages were not found");
    clean(pages.iter().flat_map(broken_links));
}

/// A reader of the package on crates.io has the pages that README names.
#[test]
fn the_crate_has_the_files_that_the_readme_links_to() {
    let list = std::process::Command::new(env!("CARGO"))
        .args([
            "package",
            "--list",
            "--allow-dirty",
            "--package",
            "lemonade-task",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let packaged: std::collections::BTreeSet<&str> = list.lines().collect();
    assert!(packaged.contains("Cargo.toml"), "{list}");
    let readme = read("README.md");
    let missing = links(&readme.text)
        .into_iter()
        .filter_map(|(line, target)| {
            let path = target.split('#').next().unwrap_or_default();
            let is_packaged = path.is_empty() || path.contains("://") || packaged.contains(path);
            (!is_packaged).then(|| format!("README.md:{line}: the package lacks `{path}`"))
        });
    clean(missing);
}

#[test]
fn files_that_pages_name_exist() {
    clean(pages().iter().flat_map(missing_files));
}

#[test]
fn every_decision_is_in_their_index() {
    let index = read("docs/decisions/README.md");
    let linked = links(&index.text);
    let pages = files(&["docs/decisions"], &["md"]);
    assert!(pages.len() > 5, "the decisions were not found");
    let missing = pages.iter().filter_map(|page| {
        let name = page.path.strip_prefix("docs/decisions/")?;
        let is_there = name == "README.md" || linked.iter().any(|(_, target)| target == name);
        (!is_there).then(|| format!("{}: no row for `{name}`", index.path))
    });
    clean(missing);
}

/// The table of contents of the book has each page of docs/ once.
#[test]
fn every_page_is_in_the_book_once() {
    let contents = read("docs/SUMMARY.md");
    let linked = links(&contents.text);
    let pages = files(&["docs"], &["md"]);
    assert!(pages.len() > 20, "the pages were not found");
    let wrong = pages.iter().filter_map(|page| {
        let name = page.path.strip_prefix("docs/")?;
        let times = linked.iter().filter(|(_, target)| target == name).count();
        let expected = usize::from(page.path != contents.path);
        (times != expected).then(|| format!("{}: `{name}` {times} times", contents.path))
    });
    clean(wrong);
}

#[test]
fn lines_of_pages_are_short() {
    clean(pages().iter().flat_map(long_lines));
}

#[test]
fn pages_name_their_subjects() {
    // CONTRIBUTING quotes the words that it forbids.
    let pages = pages()
        .into_iter()
        .filter(|page| page.path != "CONTRIBUTING.md");
    clean(pages.collect::<Vec<Source>>().iter().flat_map(vague_words));
}

#[test]
fn faulty_pages_are_reported() {
    let text = "# A b, c!\n[x](made.md#a-b-c) [y](none.md) ![z](README.md) `[w](none.md)`\n\
        ```\n[v](none.md)\n```\n<img src=\"none.png\">\n[u](#none) [t](https://none/)\n";
    assert_eq!(anchors(text), ["a-b-c"]);
    let found = broken_links(&made("made.md", text));
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found[0].starts_with("made.md:2: `made.md#a-b-c`"));
    let found = broken_links(&made(
        "docs/made.md",
        "[x](../README.md#install) [y](README.md)",
    ));
    assert_eq!(found, ["docs/made.md:1: `README.md` leads nowhere"]);

    let named = "`src/lib.rs`, `src/*.rs`, `src/none.rs`\n`tests/none`";
    let found = missing_files(&made("a.md", named));
    assert_eq!(
        found,
        ["a.md:1: no `src/none.rs`", "a.md:2: no `tests/none`"]
    );

    let long = format!("{0} {0}\n| {0} {0} |\n{0}{0}\n", "x".repeat(60));
    assert_eq!(
        long_lines(&made("a.md", &long)),
        ["a.md:1: more than 100 columns"]
    );

    let found = vague_words(&made(
        "a.md",
        "Whoever `mended` it, amends it.\n\n    nobody\n",
    ));
    assert_eq!(found, ["a.md:1: `whoever`: name the subject"]);
}
