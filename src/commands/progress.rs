//! The progress of a load on stderr: a bar on a terminal, a line every ten seconds elsewhere.
//!
//! The bar has one line, also on a terminal of 80 columns. Lines of the log are printed above it.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio_util::sync::CancellationToken;

use crate::runner::Engine;
use crate::telemetry::logging;

/// Interval of lines if stderr is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Interval of redrawing the bar. A shorter one costs processor time and shows no more.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// The rate that is shown is the mean of this time.
const RATE_OVER: Duration = Duration::from_secs(5);

/// The bar of this process, if it shows one.
static SHOWN: Mutex<Option<Shown>> = Mutex::new(None);

/// A bar, and the state of the terminal before it.
struct Shown {
    bar: ProgressBar,
    terminal: Option<Termios>,
}

/// Progress that is being shown. Dropping it removes the bar.
pub(super) struct Progress {
    ended: CancellationToken,
}

impl Progress {
    /// Shows the progress of an engine that loads files of `bytes` bytes.
    pub(super) fn show(engine: &Engine, bytes: u64) -> Self {
        let ended = CancellationToken::new();
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = "{percent:>3} % {wide_bar} {msg}  ETA {eta}";
            let style = ProgressStyle::with_template(style).expect("the template is valid");
            let bar = ProgressBar::new(bytes).with_style(style);
            bar.with_message("0 records, 0/s")
        });
        if let Some(bar) = bar.clone() {
            logging::print_around(Some(Box::new(move |print| bar.suspend(print))));
        }
        let (tally, progress) = (engine.tally.clone(), engine.progress.clone());
        let (until, drawn) = (ended.clone(), bar.clone());
        tokio::spawn(async move {
            let every = if drawn.is_some() {
                DRAW_EVERY
            } else {
                LINE_EVERY
            };
            let began = Instant::now();
            let mut rate = Rate::default();
            loop {
                tokio::select! {
                    () = tokio::time::sleep(every) => {}
                    () = until.cancelled() => return,
                }
                let files = tally.files.load(Relaxed);
                let so_far = SoFar {
                    records: progress.records(),
                    rejects: tally.rejected.load(Relaxed),
                    files_done: files - tally.unfinished(),
                    bytes_done: tally.bytes_done.load(Relaxed).min(bytes),
                    bytes,
                };
                let rate = rate.add(Instant::now(), so_far.records);
                match &drawn {
                    Some(bar) => {
                        bar.set_position(so_far.bytes_done);
                        bar.set_message(so_far.message(rate));
                    }
                    None => eprintln!("{}", so_far.line(rate, began.elapsed())),
                }
            }
        });
        if let Some(bar) = bar {
            let terminal = hide_control_keys();
            *SHOWN.lock() = Some(Shown { bar, terminal });
        }
        Self { ended }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.ended.cancel();
        clear();
    }
}

/// Removes the bar, and leaves the terminal as it was before.
pub(super) fn clear() {
    let shown = SHOWN.lock().take();
    let Some(Shown { bar, terminal }) = shown else {
        return;
    };
    // In this order: a line that is logged in between must not be printed beside the bar.
    bar.finish_and_clear();
    logging::print_around(None);
    if let Some(before) = terminal {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &before);
    }
}

/// Stops the terminal from echoing a Ctrl-C as `^C`: the bar fills its line, so the echo would begin
/// a new line, and the old one could not be removed. Other keys are echoed as before. Returns the
/// state to restore. `None` if stdin is not a terminal.
fn hide_control_keys() -> Option<Termios> {
    let before = tcgetattr(std::io::stdin()).ok()?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHOCTL);
    tcsetattr(std::io::stdin(), OptionalActions::Now, &quiet).ok()?;
    Some(before)
}

/// What a load has done so far.
struct SoFar {
    /// Rows and rejects that are stored.
    records: u64,
    rejects: u64,
    files_done: u64,
    bytes_done: u64,
    bytes: u64,
}

impl SoFar {
    /// Whether all files are stored, so that only the daily summary is left.
    fn is_stored(&self) -> bool {
        self.bytes > 0 && self.bytes_done == self.bytes
    }

    /// The text beside the bar: at most 54 columns below ten billion records.
    fn message(&self, rate: u64) -> String {
        if self.is_stored() {
            return "all files are stored; refreshing the daily summary".to_owned();
        }
        let rejects = match self.rejects {
            0 => String::new(),
            rejects => format!(", {} rejects", HumanCount(rejects)),
        };
        format!(
            "{} records{rejects}, {}/s",
            HumanCount(self.records),
            HumanCount(rate)
        )
    }

    /// A line of text.
    fn line(&self, rate: u64, elapsed: Duration) -> String {
        if self.is_stored() {
            return format!(
                "{} records; all files are stored; refreshing the daily summary",
                HumanCount(self.records)
            );
        }
        let eta = if self.bytes_done == 0 {
            "unknown".to_owned()
        } else {
            let left = self.bytes - self.bytes_done;
            let seconds = elapsed.as_secs_f64() * left as f64 / self.bytes_done as f64;
            HumanDuration(Duration::from_secs_f64(seconds)).to_string()
        };
        format!(
            "{} records, {} rejects, {} files, {} records/s, {} of {}, ETA {eta}",
            HumanCount(self.records),
            HumanCount(self.rejects),
            HumanCount(self.files_done),
            HumanCount(rate),
            HumanBytes(self.bytes_done),
            HumanBytes(self.bytes)
        )
    }
}

/// A rate over the last seconds.
#[derive(Default)]
struct Rate {
    /// Moments and counts, oldest first: those of [`RATE_OVER`], and the last one before it.
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Adds a count, and returns the rate per second. 0 for the first count.
    fn add(&mut self, now: Instant, count: u64) -> u64 {
        self.samples.push_back((now, count));
        while self
            .samples
            .get(1)
            .is_some_and(|(at, _)| now - *at >= RATE_OVER)
        {
            self.samples.pop_front();
        }
        let (began, before) = self.samples[0];
        per_second(count - before, now - began)
    }
}

/// A count divided by a time, per second.
pub(super) fn per_second(count: u64, time: Duration) -> u64 {
    (count as f64 / time.as_secs_f64().max(0.001)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn so_far(bytes_done: u64, rejects: u64) -> SoFar {
        SoFar {
            records: 1_234_567_890,
            rejects,
            files_done: 12,
            bytes_done,
            bytes: 1 << 30,
        }
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut rate = Rate::default();
        assert_eq!(rate.add(at(0), 0), 0);
        assert_eq!(rate.add(at(1), 100), 100);
        assert_eq!(rate.add(at(5), 500), 100);
        // The load stops: after five seconds, the rate is zero.
        assert_eq!(rate.add(at(9), 500), 50);
        assert_eq!(rate.add(at(10), 500), 0);
        assert_eq!(rate.add(at(11), 500), 0);
        assert_eq!(rate.samples.len(), 4);
    }

    #[test]
    fn the_text_beside_the_bar_leaves_room_on_80_columns() {
        assert_eq!(
            so_far(1 << 20, 0).message(456_789),
            "1,234,567,890 records, 456,789/s"
        );
        let long = so_far(1 << 20, 1_234_567).message(1_456_789);
        assert!(long.len() <= 54, "{long}: {}", long.len());
        assert!(so_far(1 << 30, 0).message(0).len() <= 54);
    }

    #[test]
    fn a_line_has_the_rest_and_the_time_that_it_takes() {
        assert_eq!(
            so_far(1 << 29, 3).line(5, Duration::from_secs(60)),
            "1,234,567,890 records, 3 rejects, 12 files, 5 records/s, 512.00 MiB of 1.00 GiB, \
             ETA 60 seconds"
        );
        assert!(
            so_far(0, 0)
                .line(0, Duration::ZERO)
                .ends_with("ETA unknown")
        );
        let stored = so_far(1 << 30, 0).line(0, Duration::from_secs(60));
        assert!(stored.ends_with("refreshing the daily summary"), "{stored}");
    }
}
