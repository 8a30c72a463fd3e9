//! Measures the time and the processor time of a run.

use std::fs;
use std::time::Instant;

/// The unit of `/proc/PID/stat` per second: `USER_HZ`, which is 100 on every Linux.
const TICK_SECONDS: f64 = 0.01;

/// A running measurement.
pub(super) struct Meter {
    server: Option<u32>,
    client_before: f64,
    server_before: f64,
    began: Instant,
}

impl Meter {
    /// Starts the clock. `server` is the process id of the server, whose processor time is measured
    /// as well.
    pub(super) fn start(server: Option<u32>) -> Self {
        Self {
            server,
            client_before: cpu_seconds("self"),
            server_before: cpu_of(server),
            began: Instant::now(),
        }
    }

    /// Stops the clock, and prints the measurement as a line of JSON with the fields of the caller.
    pub(super) fn report(self, events: u64, words: &serde_json::Value) {
        let seconds = self.began.elapsed().as_secs_f64();
        let per_event = |seconds: f64| seconds * 1e6 / events as f64;
        let mut line = serde_json::json!({
            "events": events,
            "seconds": seconds,
            "rate": events as f64 / seconds,
            "client_us": per_event(cpu_seconds("self") - self.client_before),
        });
        if self.server.is_some() {
            line["server_us"] = per_event(cpu_of(self.server) - self.server_before).into();
        }
        print(line, words);
    }
}

/// Prints a line with the fields of the caller.
#[allow(clippy::print_stdout, reason = "the lines are what the program is for")]
pub(super) fn print(mut line: serde_json::Value, words: &serde_json::Value) {
    for (name, word) in words.as_object().into_iter().flatten() {
        line[name] = word.clone();
    }
    println!("{line}");
}

fn cpu_of(server: Option<u32>) -> f64 {
    server.map_or(0.0, |pid| cpu_seconds(&pid.to_string()))
}

/// User and system time of a process and all of its threads.
fn cpu_seconds(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name may contain any character and ends at the last parenthesis. The times are 12 fields
    // later.
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    let ticks = after.split(' ').skip(11).take(2);
    ticks
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        * TICK_SECONDS
}
