//! How commands write to stdout, and ask on the terminal.

use std::cell::RefCell;
use std::fmt::{Display, Write as _};
use std::io::{self, BufRead as _, ErrorKind, IsTerminal as _, Write as _};

use super::exit::UsageError;
use crate::telemetry::logging::shown;

/// What a command says that was stopped before its work began.
pub(super) const STOPPED_BEFORE: &str =
    "stopped before it began; nothing is lost, run it again to continue";

/// The message of `expect` after writing to a `String`.
pub(super) const INFALLIBLE: &str = "writing to a String cannot fail";

/// The version of the objects of docs/json.md that have one. It grows if a field changes its meaning.
pub(super) const JSON_VERSION: u32 = 1;

/// Most characters that a list shows of a raw record.
const RAW_CHARS_SHOWN: usize = 200;

/// Lines of text, each with a name and a value.
#[derive(Debug, Default)]
pub(super) struct KeyValueText(String);

impl KeyValueText {
    pub(super) fn add(&mut self, name: &str, value: impl Display) {
        writeln!(self.0, "{name:<12} {value}").expect(INFALLIBLE);
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// Asks the user on the terminal.
///
/// # Errors
/// [`UsageError`] with the text `needs_yes` if there is no terminal.
pub(super) fn is_confirmed(question: &str, needs_yes: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(UsageError(needs_yes.to_owned()).into());
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The name of a field, to append to a message; empty if there is none.
pub(super) fn field_suffix(field: Option<&String>) -> String {
    field.map_or(String::new(), |field| {
        format!(" `{}`", field.escape_debug())
    })
}

/// The message of a database, to append to another message; empty if there is none.
pub(super) fn message_suffix(message: Option<&String>) -> String {
    message.map_or(String::new(), |message| {
        format!(": {}", on_one_line(message))
    })
}

/// The first characters of a record, escaped to fit on one line.
pub(super) fn excerpt(raw: &[u8]) -> String {
    let raw = String::from_utf8_lossy(raw);
    let shown: String = raw.chars().take(RAW_CHARS_SHOWN).collect();
    let more = if shown.len() < raw.len() { "…" } else { "" };
    on_one_line(&shown) + more
}

/// A text that comes from outside, on one line: control characters are escaped. Quotes, of which JSON
/// and messages of databases are full, stay as they are, since a terminal shows them safely.
pub(super) fn on_one_line(text: &str) -> String {
    let escaped = text.escape_debug().to_string();
    escaped.replace("\\\"", "\"").replace("\\'", "'")
}

tokio::task_local! {
    /// What commands print while the console runs them.
    static CAPTURED: RefCell<String>;
}

/// Most bytes that are captured. More is cut, as a page would not be read to its end.
const CAPTURED_BYTES_MAX: usize = 16 << 10;

/// Runs a command, and returns what it prints, to stdout and to stderr, with its result.
pub(super) async fn captured<T>(command: impl Future<Output = T>) -> (String, T) {
    CAPTURED
        .scope(RefCell::default(), async {
            let result = command.await;
            (CAPTURED.with(RefCell::take), result)
        })
        .await
}

/// Adds a text to what is captured. `false` if nothing is.
fn capture(text: &str) -> bool {
    let add = |captured: &RefCell<String>| {
        let mut captured = captured.borrow_mut();
        let room = CAPTURED_BYTES_MAX
            .saturating_sub(captured.len())
            .min(text.len());
        let end = (0..=room).rev().find(|end| text.is_char_boundary(*end));
        captured.push_str(&text[..end.unwrap_or(0)]);
    };
    CAPTURED.try_with(add).is_ok()
}

/// Writes a message to stderr, or to the console that runs the command.
pub(super) fn note(message: &str) {
    if !capture(&format!("{message}\n")) {
        eprintln!("{message}");
    }
}

/// Writes text to stdout, or to the console that runs the command, with control characters escaped: servers and files may contain any text.
/// A closed stdout is not an error.
pub(super) fn print(text: &str) -> io::Result<()> {
    let text = shown(text);
    if capture(&text) {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if is_reader_gone(&error) => Ok(()),
        result => result,
    }
}

/// Turns the error of a closed stdout into success, for a command that writes to stdout itself.
pub(super) fn unless_reader_gone(result: anyhow::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.downcast_ref().is_some_and(is_reader_gone) => Ok(()),
        result => result,
    }
}

/// Whether the reader of stdout has exited, as `head` does once it has enough lines.
fn is_reader_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_console_runs_prints_to_it_and_not_to_stdout() {
        let (said, result) = captured(async {
            print("one\n").unwrap();
            note("two");
            3
        })
        .await;
        assert_eq!((&*said, result), ("one\ntwo\n", 3));
        let long = "é".repeat(CAPTURED_BYTES_MAX);
        let (said, _) = captured(async { print(&long) }).await;
        assert_eq!(said.len(), CAPTURED_BYTES_MAX);
        assert!(!capture("outside"));
    }

    #[test]
    fn the_beginning_of_a_record_is_one_line_that_a_terminal_can_show() {
        assert_eq!(excerpt(b"{\"a\": 1}"), "{\"a\": 1}");
        assert_eq!(excerpt(b"a\n\x1b[2J\xff"), "a\\n\\u{1b}[2J\u{fffd}");
        let long = "é".repeat(RAW_CHARS_SHOWN + 1);
        assert_eq!(excerpt(long.as_bytes()), "é".repeat(RAW_CHARS_SHOWN) + "…");
    }
}
