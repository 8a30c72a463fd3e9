//! Suppresses and counts repeated log messages.
//!
//! Two messages are equal if their level, target, text and all fields are equal: the same fault of
//! another file is another message. The first few pass. Later ones within a window are counted, and
//! one line reports their number. Debug and trace messages always pass.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Equal messages that pass: enough to see that the message is repeated.
const SHOWN_MAX: u64 = 3;

/// How long repetitions are counted before a line reports them. Longer would hide for too long that
/// they go on; shorter would log too many lines.
const WINDOW: Duration = Duration::from_secs(30);

/// Interval of checking for ended windows.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Most messages to remember. Further messages always pass.
const MESSAGES_MAX: usize = 1_024;

/// The target of the lines that report repetitions, which are never suppressed.
const TARGET: &str = "lemonade_task::repeats";

/// The parts that make two messages equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Message {
    level: Level,
    target: &'static str,
    text: String,
}

#[derive(Debug)]
struct Counter {
    since: Instant,
    seen: u64,
}

/// A suppressed message, and how often it was suppressed.
#[derive(Debug, PartialEq)]
struct Repeated {
    message: Message,
    times: u64,
}

/// Suppresses repetitions and counts them.
#[derive(Debug, Clone, Default)]
pub(super) struct Repeats(Arc<Mutex<HashMap<Message, Counter>>>);

impl Repeats {
    /// Starts a thread that reports ended windows.
    pub(super) fn start_reporting(&self) {
        let repeats = self.clone();
        let watching = std::thread::Builder::new().name("log-repeats".to_owned());
        watching
            .spawn(move || {
                loop {
                    std::thread::sleep(CHECK_EVERY);
                    let now = Instant::now();
                    repeats.report(|times| now.duration_since(times.since) >= WINDOW, now);
                }
            })
            .expect("a process that starts can start a thread");
    }

    /// Reports all repetitions, at the end of the process.
    pub(super) fn flush(&self) {
        self.report(|_| true, Instant::now());
    }

    fn report(&self, is_over: impl Fn(&Counter) -> bool, now: Instant) {
        for repeated in self.end_windows(is_over, now) {
            log_repeated(&repeated);
        }
    }

    /// Counts a message. Returns whether it passes.
    fn shows(&self, message: Message, now: Instant) -> bool {
        let mut messages = self.0.lock();
        if let Some(times) = messages.get_mut(&message) {
            if times.seen <= SHOWN_MAX && now.duration_since(times.since) >= WINDOW {
                *times = Counter {
                    since: now,
                    seen: 0,
                };
            }
            times.seen += 1;
            return times.seen <= SHOWN_MAX;
        }
        if messages.len() < MESSAGES_MAX {
            let times = Counter {
                since: now,
                seen: 1,
            };
            messages.insert(message, times);
        }
        true
    }

    /// Ends windows and returns their repetitions. A suppressed message stays suppressed for
    /// another window; a message that was not repeated is forgotten.
    fn end_windows(&self, is_over: impl Fn(&Counter) -> bool, now: Instant) -> Vec<Repeated> {
        let mut messages = self.0.lock();
        let mut repeated = Vec::new();
        messages.retain(|message, times| {
            if !is_over(times) {
                return true;
            }
            let suppressed = times.seen.saturating_sub(SHOWN_MAX);
            if suppressed > 0 {
                repeated.push(Repeated {
                    message: message.clone(),
                    times: suppressed,
                });
                *times = Counter {
                    since: now,
                    seen: SHOWN_MAX,
                };
            }
            suppressed > 0
        });
        repeated
    }
}

fn log_repeated(repeated: &Repeated) {
    let Repeated { message, times } = repeated;
    let text = &message.text;
    match message.level {
        Level::ERROR => tracing::error!(target: TARGET, "{text} ... repeated {times} times"),
        Level::WARN => tracing::warn!(target: TARGET, "{text} ... repeated {times} times"),
        _ => tracing::info!(target: TARGET, "{text} ... repeated {times} times"),
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let level = *metadata.level();
        if level > Level::INFO || metadata.target() == TARGET {
            return true;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let message = Message {
            level,
            target: metadata.target(),
            text: text.0,
        };
        self.shows(message, Instant::now())
    }
}

/// Collects the text and the fields of a message.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        let written = if field.name() == "message" {
            write!(self.0, "{space}{value:?}")
        } else {
            write!(self.0, "{space}{field}={value:?}")
        };
        written.expect("writing to a String cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message {
            level: Level::WARN,
            target: "t",
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_repetition_is_suppressed_counted_and_reported() {
        let repeats = Repeats::default();
        let start = Instant::now();
        let end_windows = |now: Instant| {
            repeats.end_windows(move |times| now.duration_since(times.since) >= WINDOW, now)
        };
        let shown = (0..40)
            .filter(|_| repeats.shows(message("a"), start))
            .count();
        assert_eq!(shown, 3);
        assert!(repeats.shows(message("b"), start), "another message passes");
        assert_eq!(end_windows(start), [], "its window has not ended");
        let later = start + WINDOW;
        let repeated = |times| Repeated {
            message: message("a"),
            times,
        };
        assert_eq!(end_windows(later), [repeated(37)]);

        // The repetition goes on: one line for each window.
        assert!(!repeats.shows(message("a"), later));
        assert_eq!(end_windows(later + WINDOW), [repeated(1)]);
        // The repetition has ended: the message passes again.
        assert_eq!(end_windows(later + WINDOW * 2), []);
        assert!(repeats.shows(message("a"), later + WINDOW * 2));
    }

    #[test]
    fn a_rare_message_is_never_suppressed() {
        let repeats = Repeats::default();
        let start = Instant::now();
        assert!((0..20).all(|n| repeats.shows(message("a"), start + WINDOW / 2 * n)));
        assert_eq!(repeats.end_windows(|_| true, start), []);
    }

    #[test]
    fn without_room_to_remember_every_message_passes() {
        let repeats = Repeats::default();
        let now = Instant::now();
        for n in 0..MESSAGES_MAX {
            repeats.shows(message(&n.to_string()), now);
        }
        assert!((0..20).all(|_| repeats.shows(message("one more"), now)));
    }
}
