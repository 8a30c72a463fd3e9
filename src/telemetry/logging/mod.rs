//! The log: to stderr, as text for people or JSON for machines.
//!
//! Log fields contain file names and records from outside. Invariant: a field cannot end its line
//! or control a terminal.
//!
//! Repeated messages are suppressed and counted: see `repeats`.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::{EnvFilter, Registry, reload};

use tracing_subscriber::field::MakeExt as _;

mod repeats;

use repeats::Repeats;

/// The suppressed messages of the process's log.
static REPEATS: OnceLock<Repeats> = OnceLock::new();

/// The filter of the process's log, which can be changed while the process runs.
static FILTER: OnceLock<FilterHandle> = OnceLock::new();

type FilterHandle = reload::Handle<EnvFilter, Registry>;

/// What prints a line of the log while something else is drawn on the terminal. `None`: prints it at
/// once.
static AROUND: Mutex<Option<Arc<Around>>> = Mutex::new(None);

type Around = dyn Fn(&mut dyn FnMut()) + Send + Sync;

/// Prints each line of the log through `around`, which calls its argument once: a progress bar
/// removes itself before and draws itself again after. `None` prints them directly.
pub fn print_around(around: Option<Box<Around>>) {
    *AROUND.lock() = around.map(Arc::from);
}

/// Stderr, through [`print_around`].
struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let around = AROUND.lock().clone();
        let mut written = Ok(0);
        let mut print = || written = io::stderr().write(bytes);
        match around {
            Some(around) => around(&mut print),
            None => print(),
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The style of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStyle {
    /// Lines for people.
    Text {
        /// Whether to use colour.
        colour: bool,
    },
    /// One JSON object per line.
    Json,
}

/// The log filter cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error("log level `{directives}`: {cause}; write error, warn, info, debug or trace")]
pub struct BadDirectives {
    directives: String,
    cause: tracing_subscriber::filter::ParseError,
}

/// Starts the log of the process. `directives` is a level, or levels by module as in `RUST_LOG`.
/// Does nothing if a log was started before.
///
/// # Errors
/// The directives cannot be parsed.
pub fn init(style: LogStyle, directives: &str) -> Result<(), BadDirectives> {
    let repeats = Repeats::default();
    let (subscriber, handle) = subscriber(style, directives, repeats.clone(), || Stderr)?;
    // An error means that a test has started a log.
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        repeats.start_reporting();
        let _ = REPEATS.set(repeats);
        let _ = FILTER.set(handle);
    }
    Ok(())
}

/// Changes the filter of the process's log. `directives` are those of [`init`].
///
/// # Errors
/// The directives cannot be parsed. Then nothing has changed.
pub fn set_directives(directives: &str) -> Result<(), BadDirectives> {
    let filter = filter(directives)?;
    if let Some(handle) = FILTER.get() {
        // An error means that the log has ended.
        let _ = handle.reload(filter);
    }
    Ok(())
}

fn filter(directives: &str) -> Result<EnvFilter, BadDirectives> {
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(directives)
        .map_err(|cause| BadDirectives {
            directives: directives.to_owned(),
            cause,
        })
}

/// Reports all suppressed repetitions, at the end of the process.
pub fn flush() {
    if let Some(repeats) = REPEATS.get() {
        repeats.flush();
    }
}

fn subscriber<W>(
    style: LogStyle,
    directives: &str,
    repeats: Repeats,
    writer: W,
) -> Result<(Box<dyn Subscriber + Send + Sync>, FilterHandle), BadDirectives>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(directives)?);
    let base = Registry::default().with(filter).with(repeats).with(Counted);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let subscriber: Box<dyn Subscriber + Send + Sync> = match style {
        LogStyle::Json => Box::new(base.with(lines.json().flatten_event(true))),
        LogStyle::Text { colour } => Box::new(
            base.with(
                lines
                    .with_ansi(colour)
                    .with_target(false)
                    .fmt_fields(debug_fn(write_field).delimited(" ")),
            ),
        ),
    };
    Ok((subscriber, handle))
}

/// Counts every warning and error, including suppressed ones.
struct Counted;

impl<S: Subscriber> Layer<S> for Counted {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        match *event.metadata().level() {
            Level::ERROR => super::logged("error"),
            Level::WARN => super::logged("warn"),
            _ => {}
        }
        true
    }
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{field}=")?;
    }
    write!(Escaped(writer), "{value:?}")
}

/// A text of several lines for a terminal. Control characters except line ends and tabs are escaped
/// as JSON escapes them, so that JSON stays valid.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(steers) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) {
            write!(shown, "\\u{:04x}", u32::from(c)).expect("writing to a String cannot fail");
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

/// Escapes control characters.
struct Escaped<'a, 'w>(&'a mut Writer<'w>);

impl fmt::Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            match part.chars().next_back() {
                Some(last) if last.is_control() => {
                    self.0.write_str(&part[..part.len() - last.len_utf8()])?;
                    write!(self.0, "{}", last.escape_default())?;
                }
                _ => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(style: LogStyle, directives: &str, event: impl FnOnce()) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let repeats = Repeats::default();
        let (subscriber, _) =
            subscriber(style, directives, repeats.clone(), move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            event();
            repeats.flush();
        });
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_field_cannot_end_its_line_or_control_a_terminal() {
        let name = "a\u{1b}[2J\nERROR forged\u{9b}.json";
        let event = || tracing::warn!(file = %name, n = 3, "waits for {name}");
        let text = logged(LogStyle::Text { colour: false }, "info", event);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.trim_end().contains(char::is_control), "{text:?}");
        assert!(
            text.contains(r"file=a\u{1b}[2J\nERROR forged\u{9b}.json n=3"),
            "{text}"
        );

        let json = logged(LogStyle::Json, "info", event);
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (object["file"].as_str(), object["n"].as_u64()),
            (Some(name), Some(3))
        );
        assert_eq!(json.lines().count(), 1);
    }

    #[test]
    fn printed_text_cannot_steer_a_terminal() {
        assert_eq!(shown("é: a\tb\n"), "é: a\tb\n");
        let hostile = "\u{1b}]0;x\u{7}\r\u{9b}2J\u{7f}";
        let shown = shown(hostile);
        assert_eq!(shown, r"\u001b]0;x\u0007\u000d\u009b2J\u007f");
        let json = format!("\"{shown}\"");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), hostile);
    }

    #[test]
    fn the_level_can_be_changed_at_run_time() {
        let memory = Memory::default();
        let writer = memory.clone();
        let repeats = Repeats::default();
        let made = subscriber(LogStyle::Json, "warn", repeats, move || writer.clone());
        let (subscriber, handle) = made.unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("before");
            handle.reload(filter("debug").unwrap()).unwrap();
            tracing::debug!("after");
        });
        let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
        assert!(!text.contains("before") && text.contains("after"), "{text}");
    }

    #[test]
    fn the_level_decides() {
        let event = || tracing::info!("hello");
        assert_eq!(logged(LogStyle::Json, "warn", event), "");
        assert!(logged(LogStyle::Json, "lemonade_task=debug,warn", event).contains("hello"));
        assert!(
            subscriber(
                LogStyle::Json,
                "lemonade=loud",
                Repeats::default(),
                io::sink
            )
            .is_err()
        );
    }

    #[test]
    fn repeated_messages_are_counted_and_those_of_other_files_pass() {
        let text = logged(LogStyle::Text { colour: false }, "info", || {
            for _ in 0..40 {
                tracing::warn!(file = "a", "waits");
            }
            tracing::warn!(file = "b", "waits");
        });
        let count = |part: &str| text.lines().filter(|line| line.ends_with(part)).count();
        assert_eq!(count("waits file=\"a\""), 3, "{text}");
        assert_eq!(count("waits file=\"b\""), 1, "{text}");
        assert_eq!(count("waits file=\"a\" ... repeated 37 times"), 1, "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
    }

    #[test]
    fn spans_are_printed_if_their_level_is_enabled() {
        let event = || {
            let _file = tracing::debug_span!("file", name = "a\n.json").entered();
            tracing::info!("hello");
        };
        let style = LogStyle::Text { colour: false };
        let text = logged(style, "debug", event);
        assert!(text.contains(r#"file{name="a\n.json"}: hello"#), "{text}");
        assert!(!logged(style, "info", event).contains("file{"));
    }
}
