//! Rust source for the tidy rules: separates code from comments and strings, and finds words and
//! paths.
//!
//! A lexer that is sufficient for code that compiles. It knows nothing of the rules.

/// A file of the tree, or a text of a test.
pub struct Source {
    /// Relative to the checkout, with `/`.
    pub path: String,
    pub text: String,
}

impl Source {
    /// The path below the `src/` of its crate without `.rs`. `None` for a file elsewhere.
    pub fn module(&self) -> Option<&str> {
        let of_crate = self.path.strip_prefix("crates/records/");
        let path = of_crate.unwrap_or(&self.path).strip_prefix("src/")?;
        path.strip_suffix(".rs")
    }

    /// The text without comments; lines stay where they are.
    pub fn without_comments(&self) -> String {
        blank(&self.text, false)
    }

    /// The text without comments and without the contents of string literals.
    pub fn code(&self) -> String {
        blank(&self.text, true)
    }

    pub fn finding(&self, offset: usize, message: &str) -> String {
        let line = self.text[..offset].matches('\n').count() + 1;
        format!("{}:{line}: {message}", self.path)
    }
}

/// Where the code says `crate::NAME`, also in `crate::{NAME, NAME::{...}}`.
pub fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut name = |start: usize| {
        let name: String = code[start..]
            .chars()
            .take_while(|&c| in_a_word(c))
            .collect();
        paths.push((start, name));
    };
    for start in words(code, "crate") {
        let Some(rest) = code[start..].strip_prefix("crate::") else {
            continue;
        };
        let start = code.len() - rest.len();
        if !rest.starts_with('{') {
            name(start);
            continue;
        }
        let mut depth = 0;
        // Whether the next word is the first of its path, directly in the outer braces.
        let mut first = false;
        for (offset, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && matches!(c, '{' | ',') {
                first = true;
            } else if first && in_a_word(c) {
                name(start + offset);
                first = false;
            }
        }
    }
    paths
}

/// The offsets of this word as a whole word.
pub fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word)
        .map(|(offset, _)| offset)
        .filter(move |&offset| {
            !text[..offset].ends_with(in_a_word)
                && !text[offset + word.len()..].starts_with(in_a_word)
        })
}

pub fn in_a_word(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// Overwrites comments and, on request, the contents of string literals with spaces. Offsets and
/// line ends do not change.
fn blank(text: &str, strings: bool) -> String {
    let mut kept = text.as_bytes().to_vec();
    let mut at = 0;
    let wipe = |kept: &mut [u8]| {
        kept.iter_mut()
            .filter(|byte| **byte != b'\n')
            .for_each(|byte| *byte = b' ');
    };
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        let word_before = at > 0 && in_a_word(char::from(text.as_bytes()[at - 1]));
        match rest {
            [b'/', b'/' | b'*', ..] => {
                let length = comment(rest);
                wipe(&mut kept[at..at + length]);
                at += length;
            }
            [b'r', b'"' | b'#', ..] if !word_before && raw_string(rest).is_some() => {
                let (open, length) = raw_string(rest).expect("asked in the guard");
                if strings {
                    wipe(&mut kept[at + open..at + length + 1 - open]);
                }
                at += length;
            }
            [b'"', ..] => {
                let length = string(rest);
                if strings {
                    wipe(&mut kept[at + 1..at + length - 1]);
                }
                at += length;
            }
            // A character, not a lifetime: it closes after one character or an escape.
            [b'\'', b'\\', _, tail @ ..] => {
                at += 3 + tail
                    .iter()
                    .position(|&byte| byte == b'\'')
                    .map_or(0, |end| end + 1);
            }
            [b'\'', _, b'\'', ..] => at += 3,
            _ => at += 1,
        }
    }
    String::from_utf8(kept).expect("whole comments and strings were overwritten with spaces")
}

/// The length of the comment that starts here.
fn comment(rest: &[u8]) -> usize {
    if rest[1] == b'/' {
        return rest
            .iter()
            .position(|&byte| byte == b'\n')
            .unwrap_or(rest.len());
    }
    let (mut depth, mut at) = (0, 0);
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of the string literal that starts here, quotes included.
fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of the opening (`r#"`) and of the whole raw string that starts here, if one does.
fn raw_string(rest: &[u8]) -> Option<(usize, usize)> {
    let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
    let open = 1 + hashes + 1;
    if rest.get(open - 1) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let body = rest[open..]
        .windows(close.len())
        .position(|window| window == close)?;
    Some((open, open + body + close.len()))
}

#[test]
fn comments_and_strings_are_distinguished_from_code() {
    let text = r##"a /* b /* c */ d */ e // f
"redis://g" 'h' '"' '\'' 'i: r#"j " k"# "\" l" m 'n'"##;
    let kept = |strings: bool| -> String {
        blank(text, strings)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        kept(false),
        r##"a e "redis://g" 'h' '"' '\'' 'i: r#"j " k"# "\" l" m 'n'"##
    );
    assert_eq!(kept(true), r##"a e " " 'h' '"' '\'' 'i: r#" "# " " m 'n'"##);
    assert_eq!(blank(text, true).len(), text.len());
}
