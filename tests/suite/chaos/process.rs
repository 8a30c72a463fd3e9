//! A process that is killed, stopped and restarted. If it ends without a signal, and with a code that
//! it should not end with, that is a failure.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A process that has not ended this long after SIGTERM hangs: it finishes frames in flight within
/// its drain timeout, and a statement without a reply within a minute.
const STOP_WITHIN: Duration = Duration::from_secs(90);

/// Lines of a log that are shown with a failure.
const LOG_LINES: usize = 15;

/// A process of the engine or of a server, across its restarts.
pub struct Process {
    pub name: String,
    /// The command that starts it.
    command: Box<dyn Fn() -> Command + Send>,
    log: PathBuf,
    state: State,
    /// The exit code with which it may end by itself.
    may_end_with: Option<i32>,
    /// How often it did.
    pub ends: u64,
    /// Its failures.
    pub offences: Vec<String>,
    /// The longest time between SIGTERM and its end.
    pub slowest_stop: Duration,
}

enum State {
    Down,
    Running(Child),
    Paused(Child),
    Ending(Child, Instant),
}

impl Process {
    /// A process that is not running yet; its log is appended to.
    pub fn new(
        name: impl Into<String>,
        log: PathBuf,
        command: impl Fn() -> Command + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            command: Box::new(command),
            log,
            state: State::Down,
            may_end_with: None,
            ends: 0,
            offences: Vec::new(),
            slowest_stop: Duration::ZERO,
        }
    }

    /// The same process, which may end by itself with this exit code.
    pub fn may_end_with(mut self, code: i32) -> Self {
        self.may_end_with = Some(code);
        self
    }

    pub fn start(&mut self) {
        if !matches!(self.state, State::Down) {
            return;
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let child = (self.command)()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.state = State::Running(child);
    }

    /// Whether it runs, is not stopped, and was not asked to end.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    pub fn is_down(&self) -> bool {
        matches!(self.state, State::Down)
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        let (State::Running(mut child) | State::Paused(mut child) | State::Ending(mut child, _)) =
            std::mem::replace(&mut self.state, State::Down)
        else {
            return;
        };
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends SIGSTOP.
    pub fn pause(&mut self) {
        match std::mem::replace(&mut self.state, State::Down) {
            State::Running(child) => {
                signal(&child, Signal::STOP);
                self.state = State::Paused(child);
            }
            other => self.state = other,
        }
    }

    /// Sends SIGCONT.
    pub fn resume(&mut self) {
        match std::mem::replace(&mut self.state, State::Down) {
            State::Paused(child) => {
                signal(&child, Signal::CONT);
                self.state = State::Running(child);
            }
            other => self.state = other,
        }
    }

    /// Sends SIGTERM. It counts as down once [`note_end`](Self::note_end) has seen its end.
    pub fn terminate(&mut self) {
        match std::mem::replace(&mut self.state, State::Down) {
            State::Running(child) => {
                signal(&child, Signal::TERM);
                self.state = State::Ending(child, Instant::now());
            }
            other => self.state = other,
        }
    }

    /// Records how the process ended, if it has ended.
    pub fn note_end(&mut self) {
        match &mut self.state {
            State::Down | State::Paused(_) => {}
            State::Running(child) => {
                if let Some(status) = child.try_wait().unwrap() {
                    self.state = State::Down;
                    if self.may_end_with.is_some() && status.code() == self.may_end_with {
                        self.ends += 1;
                    } else {
                        self.offend(&format!("ended by itself: {status}"));
                    }
                }
            }
            State::Ending(child, since) => {
                let took = since.elapsed();
                let ended = child.try_wait().unwrap();
                self.slowest_stop = self.slowest_stop.max(took);
                match ended {
                    Some(status) => {
                        self.state = State::Down;
                        if !is_clean(status) {
                            self.offend(&format!("ended after SIGTERM with {status}"));
                        }
                    }
                    None if took >= STOP_WITHIN => {
                        self.offend(&format!("did not end {took:?} after SIGTERM"));
                        self.kill();
                    }
                    None => {}
                }
            }
        }
    }

    fn offend(&mut self, what: &str) {
        let tail = log_end(&self.log, LOG_LINES);
        self.offences
            .push(format!("{} {what}; its log ends:\n{tail}", self.name));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether it ended with success after the signal, or before it had a handler for the signal.
fn is_clean(status: ExitStatus) -> bool {
    status.code() == Some(0) || status.signal() == Some(Signal::TERM.as_raw())
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// The last lines of a log.
pub fn log_end(log: &Path, lines: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Prints the number of log lines of the engine by message.
pub fn print_log_summary(logs: impl IntoIterator<Item = PathBuf>) {
    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    for log in logs {
        let log = fs::read(log).unwrap_or_default();
        for line in String::from_utf8_lossy(&log).lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            let message = line.pointer("/message").or(line.pointer("/fields/message"));
            let level = line["level"].as_str().unwrap_or_default();
            if let Some(message) = message.and_then(serde_json::Value::as_str) {
                *told.entry(format!("{level} {message}")).or_default() += 1;
            }
        }
    }
    eprintln!("log lines of the engine:");
    for (message, times) in told {
        eprintln!("{times:8}  {message}");
    }
}
