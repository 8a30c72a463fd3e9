//! `status --watch`: prints the status repeatedly. On a terminal it is drawn in place; elsewhere
//! each status is printed below the last.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal as _, Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::status::Status;
use crate::telemetry::logging::shown;

/// Shortest interval. A shorter one shows nothing new and costs the service time.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Switches to the alternate screen, hides the cursor, turns line wrapping off.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
/// Undoes [`ENTER`].
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Shows the status that `get` returns, until the user presses q or Ctrl-C, SIGTERM arrives, or
/// stdout is closed. Shows an error of `get` and tries again; as `json`, it is an object as well.
///
/// # Errors
/// Stdout or the terminal fails.
pub(super) async fn until_quit(
    get: impl AsyncFn() -> anyhow::Result<Status>,
    interval: Duration,
    json: bool,
) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let screen = (!json && io::stdout().is_terminal()).then(Screen::enter);
    let quit = Arc::new(Notify::new());
    if screen
        .as_ref()
        .is_some_and(|screen| screen.before.is_some())
    {
        quit_on_q(&quit);
    }
    let mut ticks = tokio::time::interval(interval.max(INTERVAL_MIN));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let next = async {
            ticks.tick().await;
            let status = get().await;
            if json {
                as_json(status)
            } else {
                Ok(as_text(status))
            }
        };
        let text = tokio::select! {
            text = next => text?,
            () = quit.notified() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        };
        let text = match &screen {
            Some(_) => drawn(&text, rows()),
            None if json => text,
            None => text + "\n",
        };
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
    }
}

fn as_text(status: anyhow::Result<Status>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => shown(&format!("engine    unknown: {error:#}\n")).into_owned(),
    }
}

/// A line with one object: the status, or the error.
fn as_json(status: anyhow::Result<Status>) -> anyhow::Result<String> {
    let object = match status {
        Ok(status) => serde_json::to_string(&status)?,
        Err(error) => json!({"error": format!("{error:#}")}).to_string(),
    };
    Ok(shown(&object).into_owned() + "\n")
}

/// The terminal while it shows the status. Dropping the value restores it.
struct Screen {
    /// The modes to restore. `None` if stdin is not a terminal, so that no key can be read.
    before: Option<Termios>,
}

impl Screen {
    fn enter() -> Self {
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            // Each key is delivered at once and not echoed. Ctrl-C still sends a signal.
            let mut modes = before.clone();
            modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &modes);
        }
        let _ = io::stdout().write_all(ENTER.as_bytes());
        Self { before }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(LEAVE.as_bytes()).and_then(|()| out.flush());
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Reads keys on a thread that ends with the process.
fn quit_on_q(quit: &Arc<Notify>) {
    let quit = quit.clone();
    std::thread::spawn(move || {
        let pressed = io::stdin().lock().bytes().map_while(Result::ok);
        for key in pressed {
            if matches!(key, b'q' | b'Q') {
                quit.notify_one();
                return;
            }
        }
    });
}

/// The height of the terminal in rows.
fn rows() -> usize {
    let size = tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_row);
    // A terminal that does not know its size reports 0.
    if size == 0 { 24 } else { size.into() }
}

/// The escape sequences that draw the text over the last one. On a terminal with too few rows,
/// lines before the last are left out: the last one is the next step.
fn drawn(text: &str, rows: usize) -> String {
    let keys = "          q to quit";
    let lines: Vec<&str> = text.lines().chain([keys]).collect();
    let (first, last) = lines.split_at(lines.len().saturating_sub(2));
    let mut out = "\x1b[H".to_owned();
    let fitting = first.iter().take(rows.saturating_sub(last.len()));
    for (at, line) in fitting.chain(last).take(rows).enumerate() {
        let end = if at == 0 { "" } else { "\r\n" };
        write!(out, "{end}{line}\x1b[K").expect("writing to a String cannot fail");
    }
    out + "\x1b[J"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_an_object_on_one_line_if_the_status_would_be_one() {
        let failed = || Err(anyhow::anyhow!("no \"answer\"\nat all"));
        let line = as_json(failed()).unwrap();
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object, json!({"error": "no \"answer\"\nat all"}));
        assert!(as_text(failed()).starts_with("engine    unknown: no"));
        let line = as_json(Ok(Status::default())).unwrap();
        let read: Status = serde_json::from_str(&line).unwrap();
        assert_eq!(read, Status::default());
    }

    #[test]
    fn the_next_step_is_seen_on_a_small_terminal() {
        let text = "engine\na\nb\nc\nnext\n";
        let lines = |rows| {
            let drawn = drawn(text, rows);
            let drawn = drawn.strip_prefix("\x1b[H").unwrap();
            let drawn = drawn.strip_suffix("\x1b[K\x1b[J").unwrap();
            drawn
                .split("\x1b[K\r\n")
                .map(|line| line.trim().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(lines(24), ["engine", "a", "b", "c", "next", "q to quit"]);
        assert_eq!(lines(4), ["engine", "a", "next", "q to quit"]);
        assert_eq!(lines(1), ["next"]);
    }
}
