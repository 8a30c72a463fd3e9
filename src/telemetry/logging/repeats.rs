//! Repeated messages of the log are counted, not repeated.
//!
//! Two messages are the same where level, target, text and all fields are: the same fault of
//! another file is another message. The first few pass; what follows within the window is counted,
//! and one line tells how often it came. Messages for those who look closely (debug, trace) pass.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// How many of the same message are shown: enough to see that it goes on.
const SHOWN_MAX: u64 = 3;

/// How long messages are counted before a line tells of them. Longer would hide for too long that
/// it still goes on; shorter would be a repetition again.
const WINDOW: Duration = Duration::from_secs(30);

/// How often it is looked whether a window has ended.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Most messages that are remembered. Further ones are shown: a log is never hidden for want of
/// memory.
const MESSAGES_MAX: usize = 1_024;

/// The target of the lines that tell of repetitions; they are never counted themselves.
const TARGET: &str = "lemonade_task::repeats";

/// What makes two messages the same.
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

/// A message that was held back, and how often.
#[derive(Debug, PartialEq)]
struct Repeated {
    message: Message,
    times: u64,
}

/// Holds repetitions back, and knows how many there were.
#[derive(Debug, Clone, Default)]
pub(super) struct Repeats(Arc<Mutex<HashMap<Message, Counter>>>);

impl Repeats {
    /// Tells of ended windows from now on.
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

    /// Tells of everything that was held back: the process ends.
    pub(super) fn flush(&self) {
        self.report(|_| true, Instant::now());
    }

    fn report(&self, is_over: impl Fn(&Counter) -> bool, now: Instant) {
        for repeated in self.end_windows(is_over, now) {
            log_repeated(&repeated);
        }
    }

    /// Takes a message in; tells whether it is shown.
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

    /// Ends windows. A message that was held back stays so, and is told of again after another
    /// window; one that was not is forgotten.
    fn end_windows(&self, is_over: impl Fn(&Counter) -> bool, now: Instant) -> Vec<Repeated> {
        let mut messages = self.0.lock();
        let mut repeated = Vec::new();
        messages.retain(|message, times| {
            if !is_over(times) {
                return true;
            }
            let held_back = times.seen.saturating_sub(SHOWN_MAX);
            if held_back > 0 {
                repeated.push(Repeated {
                    message: message.clone(),
                    times: held_back,
                });
                *times = Counter {
                    since: now,
                    seen: SHOWN_MAX,
                };
            }
            held_back > 0
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

/// The message and the fields, as they are read.
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
    fn a_repetition_is_held_back_counted_and_told_of() {
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
        let told = |times| Repeated {
            message: message("a"),
            times,
        };
        assert_eq!(end_windows(later), [told(37)]);

        // It goes on: one line a window.
        assert!(!repeats.shows(message("a"), later));
        assert_eq!(end_windows(later + WINDOW), [told(1)]);
        // It was over: it is news again.
        assert_eq!(end_windows(later + WINDOW * 2), []);
        assert!(repeats.shows(message("a"), later + WINDOW * 2));
    }

    #[test]
    fn what_comes_rarely_is_never_held_back() {
        let repeats = Repeats::default();
        let start = Instant::now();
        assert!((0..20).all(|n| repeats.shows(message("a"), start + WINDOW / 2 * n)));
        assert_eq!(repeats.end_windows(|_| true, start), []);
    }

    #[test]
    fn without_room_to_remember_everything_is_shown() {
        let repeats = Repeats::default();
        let now = Instant::now();
        for n in 0..MESSAGES_MAX {
            repeats.shows(message(&n.to_string()), now);
        }
        assert!((0..20).all(|_| repeats.shows(message("one more"), now)));
    }
}
