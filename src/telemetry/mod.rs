//! The metrics of the engine. The only module that knows their names.
//!
//! One function per event, called once for a frame, file or commit, never for a row. Labels have
//! closed sets of values: datasets, outcomes, codes, stages; never a file name or a vehicle.
//! [`catalogue`] has the table of all metrics and their meaning. [`logging`] is the log.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use crate::batch::RejectCode;
use crate::dataset::Datasets;

pub mod catalogue;
mod exposition;
pub mod logging;
mod stages;
pub mod traces;

pub use exposition::{Handle, install};
pub use stages::{BackpressureTimer, BusyTimer, Ratios, Stage};

/// Files taken out of inbound, or found in work at the start; `via` is `scan` or `recovered`.
pub fn files_discovered(via: &'static str, files: u64) {
    counter!("lemonade_files_discovered_total", "via" => via).increment(files);
}

/// A file left work; `outcome` is `settled`, `duplicate` or `quarantined`.
pub fn file_settled(dataset: &str, outcome: &'static str) {
    counter!("lemonade_files_settled_total", "dataset" => dataset.to_owned(), "outcome" => outcome)
        .increment(1);
}

/// Files quarantined for this reason.
pub fn files_quarantined(code: &'static str, files: u64) {
    counter!("lemonade_files_quarantined_total", "reason" => code).increment(files);
}

/// Files that wait for this reason now.
pub fn files_waiting(code: &'static str, files: u64) {
    gauge!("lemonade_files_waiting", "reason" => code).set(files as f64);
}

/// Time from the arrival of a file in inbound until it is settled.
pub fn end_to_end(dataset: &str, latency: Duration) {
    histogram!("lemonade_end_to_end_latency_seconds", "dataset" => dataset.to_owned())
        .record(latency.as_secs_f64());
}

/// Current files by state; `state` is `inbound`, `waiting`, `work`, `quarantine`.
pub fn files_now(state: &'static str, files: u64) {
    gauge!("lemonade_files", "state" => state).set(files as f64);
}

/// The files in inbound and work, which are not settled.
pub fn backlog(files: u64, bytes: u64, oldest_age: Duration) {
    gauge!("lemonade_backlog_files").set(files as f64);
    gauge!("lemonade_backlog_bytes").set(bytes as f64);
    gauge!("lemonade_backlog_oldest_age_seconds").set(oldest_age.as_secs_f64());
}

/// The kernel dropped notifications. The scan finds the files.
pub fn watcher_overflow() {
    counter!("lemonade_watcher_overflows_total").increment(1);
}

/// Files that the periodic scan found without a notification.
pub fn rescan_missed(files: u64) {
    counter!("lemonade_rescan_missed_files_total").increment(files);
}

/// Whether an operator has paused the taking of files.
pub fn paused(paused: bool) {
    gauge!("lemonade_paused").set(if paused { 1.0 } else { 0.0 });
}

/// Bytes of the files in history.
pub fn history(bytes: u64) {
    gauge!("lemonade_history_bytes").set(bytes as f64);
}

/// Files that were removed from history by its limits.
pub fn history_removed(files: u64) {
    counter!("lemonade_history_removed_files_total").increment(files);
}

/// Rejects in the database that are neither corrected nor purged.
pub fn rejects_open(rejects: u64) {
    gauge!("lemonade_rejects_open").set(rejects as f64);
}

/// Bytes of files read, before decompression.
pub fn read_bytes(bytes: u64) {
    counter!("lemonade_read_bytes_total").increment(bytes);
}

/// Records parsed: rows and rejects of a batch.
pub fn records(dataset: &str, rows: u64, rejects: u64) {
    let outcome = |outcome: &'static str, records: u64| {
        counter!("lemonade_records_total", "dataset" => dataset.to_owned(), "outcome" => outcome)
            .increment(records);
    };
    outcome("row", rows);
    outcome("reject", rejects);
}

/// Rejects with this reason.
pub fn rejects(dataset: &str, code: RejectCode, rejects: u64) {
    counter!("lemonade_rejects_total", "dataset" => dataset.to_owned(), "code" => code.as_str())
        .increment(rejects);
}

/// Frames published.
pub fn frames_published(dataset: &str, frames: u64) {
    counter!("lemonade_frames_published_total", "dataset" => dataset.to_owned()).increment(frames);
}

/// Frames committed.
pub fn frames_committed(dataset: &str, frames: u64) {
    counter!("lemonade_frames_committed_total", "dataset" => dataset.to_owned()).increment(frames);
}

/// Frames that the broker delivered again.
pub fn frames_redelivered(dataset: &str, frames: u64) {
    counter!("lemonade_frames_redelivered_total", "dataset" => dataset.to_owned())
        .increment(frames);
}

/// An entry of the queue was not a frame.
pub fn frame_damaged() {
    counter!("lemonade_frames_damaged_total").increment(1);
}

/// Frames of files that the ledger of this process does not have, or has with another content.
pub fn frames_foreign(frames: u64) {
    counter!("lemonade_frames_foreign_total").increment(frames);
}

/// Frames published again because neither the ledger nor the queue had them.
pub fn frames_lost(dataset: &str, frames: u64) {
    counter!("lemonade_frames_lost_total", "dataset" => dataset.to_owned()).increment(frames);
}

/// The current size of the queue.
pub fn queue(frames: u64, bytes: u64, pending: u64) {
    gauge!("lemonade_queue_frames").set(frames as f64);
    gauge!("lemonade_queue_bytes").set(bytes as f64);
    gauge!("lemonade_queue_pending_frames").set(pending as f64);
}

/// How long frames have waited while no worker reads the queue.
pub fn queue_unread(time: Duration) {
    gauge!("lemonade_queue_unread_seconds").set(time.as_secs_f64());
}

/// How many seconds a replica of the database is behind.
pub fn replica_lag(replica: &str, seconds: f64) {
    gauge!("lemonade_replica_lag_seconds", "replica" => replica.to_owned()).set(seconds);
}

/// The age of the oldest frame of a stream; zero if the stream is empty.
pub fn queue_oldest(stream: &str, age: Duration) {
    gauge!("lemonade_queue_oldest_age_seconds", "stream" => stream.to_owned())
        .set(age.as_secs_f64());
}

/// The processes with a role, by the ledger.
pub fn nodes(role: &'static str, alive: usize, dead: usize) {
    gauge!("lemonade_nodes", "role" => role, "state" => "alive").set(alive as f64);
    gauge!("lemonade_nodes", "role" => role, "state" => "dead").set(dead as f64);
}

/// Whether this process leads the summary.
pub fn leads_summary(leads: bool) {
    gauge!("lemonade_leader").set(f64::from(u8::from(leads)));
}

/// One commit: rows stored, and rows that were stored already.
pub fn commit(dataset: &str, rows: u64, duplicates: u64) {
    let dataset = || dataset.to_owned();
    counter!("lemonade_rows_committed_total", "dataset" => dataset()).increment(rows);
    counter!("lemonade_rows_duplicate_total", "dataset" => dataset()).increment(duplicates);
}

/// Records that the row of another record with the same key superseded.
pub fn superseded(dataset: &str, records: u64) {
    let dataset = dataset.to_owned();
    counter!("lemonade_records_superseded_total", "dataset" => dataset).increment(records);
}

/// Rows that were removed with their partition, since they are no longer kept.
pub fn retired(dataset: &str, rows: u64) {
    let dataset = dataset.to_owned();
    counter!("lemonade_rows_retired_total", "dataset" => dataset).increment(rows);
}

/// Duration and number of rows of a commit, and the time of the last commit.
pub fn commit_took(took: Duration, rows: u64, now_unix: Duration) {
    histogram!("lemonade_commit_duration_seconds").record(took.as_secs_f64());
    histogram!("lemonade_commit_rows").record(rows as f64);
    gauge!("lemonade_last_commit_timestamp_seconds").set(now_unix.as_secs_f64());
}

/// A fault of the sink in any operation; `class` is `transient` or `fatal`.
pub fn sink_error(class: &'static str) {
    counter!("lemonade_sink_errors_total", "class" => class).increment(1);
}

/// A commit was tried again.
pub fn sink_retry() {
    counter!("lemonade_sink_retries_total").increment(1);
}

/// A fault of the broker.
pub fn broker_error() {
    counter!("lemonade_broker_errors_total").increment(1);
}

/// Counts a stage as working until the guard is dropped.
pub fn busy(stage: Stage) -> BusyTimer {
    BusyTimer::begin(stage)
}

/// Counts a stage as waiting for the next one until the guard is dropped.
pub fn backpressure(stage: Stage) -> BackpressureTimer {
    BackpressureTimer::begin(stage)
}

/// The byte budget, and the bytes in flight.
pub fn memory(budget_bytes: u64, inflight_bytes: u64) {
    gauge!("lemonade_memory_budget_bytes").set(budget_bytes as f64);
    gauge!("lemonade_memory_inflight_bytes").set(inflight_bytes as f64);
}

/// A refresh of the daily summary.
pub fn summary_refreshed(took: Duration, now_unix: Duration) {
    gauge!("lemonade_summary_duration_seconds").set(took.as_secs_f64());
    gauge!("lemonade_summary_last_success_timestamp_seconds").set(now_unix.as_secs_f64());
}

/// Whether the engine can do its work now.
pub fn ready(ready: bool) {
    gauge!("lemonade_ready").set(if ready { 1.0 } else { 0.0 });
}

/// Free bytes of the file system; `path` is `inbound`, `work`, `history` or `quarantine`.
pub fn disk_free(path: &'static str, bytes: u64) {
    gauge!("lemonade_disk_free_bytes", "path" => path).set(bytes as f64);
}

/// An export of `metrics` or `traces` failed.
pub fn otlp_failed(signal: &'static str) {
    counter!("lemonade_otlp_failures_total", "signal" => signal).increment(1);
}

/// A warning or error was logged, or suppressed as a repetition.
fn logged(level: &'static str) {
    counter!("lemonade_log_messages_total", "level" => level).increment(1);
}

/// Sets the gauges at the start of the engine. If this process commits or keeps the summary, sets
/// the times of the last commit and refresh to now. Without these values, no alert would report an
/// engine that never reaches its database.
pub fn begin(now_unix: Duration, commits: bool, keeps_summary: bool) {
    ready(false);
    paused(false);
    if commits {
        gauge!("lemonade_last_commit_timestamp_seconds").set(now_unix.as_secs_f64());
    }
    if keeps_summary {
        gauge!("lemonade_summary_last_success_timestamp_seconds").set(now_unix.as_secs_f64());
    }
}

/// The time at which the newest file of a dataset was settled, in seconds since the epoch.
pub fn last_settled(dataset: &str, unix_seconds: i64) {
    gauge!("lemonade_last_settled_timestamp_seconds", "dataset" => dataset.to_owned())
        .set(unix_seconds as f64);
}

/// How often at least a file of a dataset comes.
pub fn expected_every(dataset: &str, every: Duration) {
    gauge!("lemonade_expected_every_seconds", "dataset" => dataset.to_owned())
        .set(every.as_secs_f64());
}

/// Creates every counter with a closed set of labels, at zero. A series that appears with its first
/// event hides that event from `rate()` and leaves panels empty until then.
pub fn begin_at_zero(datasets: &Datasets) {
    for via in ["scan", "recovered"] {
        files_discovered(via, 0);
    }
    for class in ["transient", "fatal"] {
        counter!("lemonade_sink_errors_total", "class" => class).increment(0);
    }
    for level in ["warn", "error"] {
        counter!("lemonade_log_messages_total", "level" => level).increment(0);
    }
    for signal in ["metrics", "traces"] {
        counter!("lemonade_otlp_failures_total", "signal" => signal).increment(0);
    }
    traces::dropped(0);
    counter!("lemonade_watcher_overflows_total").increment(0);
    rescan_missed(0);
    counter!("lemonade_sink_retries_total").increment(0);
    counter!("lemonade_broker_errors_total").increment(0);
    counter!("lemonade_frames_damaged_total").increment(0);
    counter!("lemonade_frames_foreign_total").increment(0);
    read_bytes(0);
    history_removed(0);
    // A file that matches no dataset has an empty label.
    counter!("lemonade_files_settled_total", "dataset" => "", "outcome" => "quarantined")
        .increment(0);
    for name in datasets.iter().map(|dataset| dataset.name.as_str()) {
        for outcome in ["settled", "duplicate", "quarantined"] {
            counter!(
                "lemonade_files_settled_total", "dataset" => name.to_owned(), "outcome" => outcome
            )
            .increment(0);
        }
        for code in RejectCode::ALL {
            rejects(name, code, 0);
        }
        records(name, 0, 0);
        commit(name, 0, 0);
        superseded(name, 0);
        retired(name, 0);
        frames_published(name, 0);
        frames_committed(name, 0);
        frames_redelivered(name, 0);
        frames_lost(name, 0);
    }
}
