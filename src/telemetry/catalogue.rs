//! The table of all metrics: name, kind, unit, labels and meaning.
//!
//! Invariant, held by a test of `exposition`: every metric that is recorded is in [`METRICS`], with
//! its kind, and is rendered with HELP and TYPE.

use metrics::Unit;

/// Recorded and rendered by `stages`, as is [`BACKPRESSURE`].
pub(super) const STAGE_BUSY: &str = "lemonade_stage_busy_seconds_total";
pub(super) const BACKPRESSURE: &str = "lemonade_backpressure_seconds_total";

/// Set by [`Ratios`](super::Ratios).
pub(super) const STAGE_RATIO: &str = "lemonade_stage_busy_ratio";

/// Buckets in seconds: from a commit into an idle local database to one that waited for a lock.
const COMMIT_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Buckets in rows: from a single record to the largest transaction.
const COMMIT_ROWS: &[f64] = &[1.0, 10.0, 100.0, 500.0, 1e3, 2e3, 3e3, 4e3, 5e3, 1e4, 1e5];

/// Buckets in seconds: from a small file in an idle engine to a backlog of a day.
const END_TO_END_SECONDS: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0,
    86_400.0,
];

/// The type of a metric in Prometheus.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MetricKind {
    /// It only grows: use `rate()`.
    Counter,
    /// A state: never use `rate()`.
    Gauge,
    /// Samples in buckets: use `histogram_quantile()`.
    Histogram(&'static [f64]),
}

impl MetricKind {
    /// The word of the TYPE line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// A row of the table of metrics.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// The unit of its value.
    pub unit: Unit,
    /// The labels that the engine sets.
    pub labels: &'static [&'static str],
    /// The HELP text.
    pub help: &'static str,
}

type Labels = &'static [&'static str];

const fn metric(
    name: &'static str,
    kind: MetricKind,
    unit: Unit,
    labels: Labels,
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        unit,
        labels,
        help,
    }
}

const fn counter(name: &'static str, unit: Unit, labels: Labels, help: &'static str) -> Metric {
    metric(name, MetricKind::Counter, unit, labels, help)
}

const fn gauge(name: &'static str, unit: Unit, labels: Labels, help: &'static str) -> Metric {
    metric(name, MetricKind::Gauge, unit, labels, help)
}

const fn histogram(
    name: &'static str,
    unit: Unit,
    labels: Labels,
    buckets: &'static [f64],
    help: &'static str,
) -> Metric {
    metric(name, MetricKind::Histogram(buckets), unit, labels, help)
}

/// All metrics of the engine, in the order of the data flow. [`Handle::render`](super::Handle::render) adds those named
/// `process_`.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    gauge("lemonade_ready", Unit::Count, &[], "1 while the engine can do its work, else 0"),
    gauge("lemonade_paused", Unit::Count, &[], "1 while an operator has paused the taking of files, else 0"),
    gauge("lemonade_build_info", Unit::Count, &["version", "commit", "built"], "1, with version, commit and day of the build as labels, as far as they are known"),
    gauge("lemonade_nodes", Unit::Count, &["role", "state"], "Processes of the service by role and state, by the ledger: alive, or dead since less than a day; absent before the first answer of the ledger"),

    counter("lemonade_files_discovered_total", Unit::Count, &["via"], "Files taken, by how they were found: scan (in inbound) or recovered (left in work by an earlier run)"),
    counter("lemonade_files_settled_total", Unit::Count, &["dataset", "outcome"], "Files that left work, by outcome: settled, duplicate or quarantined"),
    gauge("lemonade_files", Unit::Count, &["state"], "Current files by state: inbound, work, quarantine, and waiting: those in inbound that cannot be taken, and those in work that cannot be read or moved"),
    gauge("lemonade_files_waiting", Unit::Count, &["reason"], "Files that wait in inbound, or in work because they cannot be read or moved, by reason"),
    counter("lemonade_files_quarantined_total", Unit::Count, &["reason"], "Files quarantined, by reason"),
    gauge("lemonade_last_settled_timestamp_seconds", Unit::Seconds, &["dataset"], "Time at which the newest file of a dataset was settled, since the epoch, by the ledger; before the first file of a dataset with expected_every, the start of the engine"),
    gauge("lemonade_expected_every_seconds", Unit::Seconds, &["dataset"], "How often at least a file of a dataset comes: its expected_every; absent without this setting"),
    gauge("lemonade_backlog_files", Unit::Count, &[], "Files in inbound and work, which are not completely stored"),
    gauge("lemonade_backlog_bytes", Unit::Bytes, &[], "Bytes of the files in inbound and work"),
    gauge("lemonade_backlog_oldest_age_seconds", Unit::Seconds, &[], "Age of the oldest file in inbound or work, since it arrived there"),
    counter("lemonade_watcher_overflows_total", Unit::Count, &[], "Times that the kernel dropped file notifications"),
    counter("lemonade_rescan_missed_files_total", Unit::Count, &[], "Files that the periodic scan found without a notification"),
    histogram("lemonade_end_to_end_latency_seconds", Unit::Seconds, &["dataset"], END_TO_END_SECONDS, "Time from the arrival of a file in inbound until all of its records are stored"),

    counter("lemonade_read_bytes_total", Unit::Bytes, &[], "Bytes of files read, before decompression"),
    counter("lemonade_records_total", Unit::Count, &["dataset", "outcome"], "Records parsed, by outcome: row or reject"),
    counter("lemonade_rejects_total", Unit::Count, &["dataset", "code"], "Records rejected, by reason"),
    gauge("lemonade_rejects_open", Unit::Count, &[], "Rejects in the database that are neither corrected nor purged"),

    counter("lemonade_frames_published_total", Unit::Count, &["dataset"], "Frames published to the queue"),
    counter("lemonade_frames_committed_total", Unit::Count, &["dataset"], "Frames committed to the database"),
    counter("lemonade_frames_redelivered_total", Unit::Count, &["dataset"], "Frames that the queue delivered again"),
    counter("lemonade_frames_damaged_total", Unit::Count, &[], "Entries of the queue that were not frames"),
    counter("lemonade_frames_foreign_total", Unit::Count, &[], "Frames whose file is not in the ledger, or has another content there"),
    counter("lemonade_frames_lost_total", Unit::Count, &["dataset"], "Frames published again because the queue had lost them"),
    gauge("lemonade_queue_frames", Unit::Count, &[], "Frames in the queue, delivered or not"),
    gauge("lemonade_queue_bytes", Unit::Bytes, &[], "Bytes of the frames in the queue"),
    gauge("lemonade_queue_pending_frames", Unit::Count, &[], "Frames that workers have received and not acked"),
    gauge("lemonade_queue_oldest_age_seconds", Unit::Seconds, &["stream"], "Age of the oldest frame in a stream of the queue; 0 if the stream is empty"),
    gauge("lemonade_queue_unread_seconds", Unit::Seconds, &[], "Time for which frames have waited while no worker read the queue; 0 if none waits; absent in a process with the role work"),
    gauge("lemonade_replica_lag_seconds", Unit::Seconds, &["replica"], "How far a replica of REPLICA_URL is behind at the last answer; infinite if its replication is stopped"),
    counter("lemonade_broker_errors_total", Unit::Count, &[], "Faults of the queue"),

    counter("lemonade_rows_committed_total", Unit::Count, &["dataset"], "Rows stored"),
    counter("lemonade_rows_duplicate_total", Unit::Count, &["dataset"], "Rows that were stored already"),
    counter("lemonade_records_superseded_total", Unit::Count, &["dataset"], "Records that have no row, or none any more, since the row of another record has the same key"),
    counter("lemonade_rows_retired_total", Unit::Count, &["dataset"], "Rows that were removed with their partition, since they are no longer kept"),
    histogram("lemonade_commit_duration_seconds", Unit::Seconds, &[], COMMIT_SECONDS, "Duration of a commit, including its retries"),
    histogram("lemonade_commit_rows", Unit::Count, &[], COMMIT_ROWS, "Rows in a commit"),
    gauge("lemonade_last_commit_timestamp_seconds", Unit::Seconds, &[], "Time of the last commit, since the epoch; before the first commit, the start of the engine; absent without the role work"),
    counter("lemonade_sink_errors_total", Unit::Count, &["class"], "Faults of the database in any operation, by class: transient or fatal"),
    counter("lemonade_sink_retries_total", Unit::Count, &[], "Retries of commits"),

    counter(STAGE_BUSY, Unit::Seconds, &["stage"], "Time that a stage worked, summed over its parallel lanes"),
    gauge(STAGE_RATIO, Unit::Count, &["stage"], "Share of the last seconds in which a stage worked, over all of its lanes: 1 means that it is saturated"),
    counter(BACKPRESSURE, Unit::Seconds, &["stage"], "Time that a stage waited for the next one: parse for the byte budget, publish for room in the queue"),

    gauge("lemonade_memory_budget_bytes", Unit::Bytes, &[], "Most bytes of chunks between parse and queue: a quarter of memory_budget"),
    gauge("lemonade_memory_inflight_bytes", Unit::Bytes, &[], "Bytes of chunks between parse and queue"),
    gauge("lemonade_disk_free_bytes", Unit::Bytes, &["path"], "Free bytes of the file system of a directory"),
    gauge("lemonade_history_bytes", Unit::Bytes, &[], "Bytes of the files in history"),
    counter("lemonade_history_removed_files_total", Unit::Count, &[], "Files that were removed from history by history_max_age and history_max_bytes"),

    gauge("lemonade_summary_duration_seconds", Unit::Seconds, &[], "Duration of the last refresh of the daily summary"),
    gauge("lemonade_summary_last_success_timestamp_seconds", Unit::Seconds, &[], "Time of the last refresh of the daily summary, since the epoch; before the first refresh, the start of the engine"),
    gauge("lemonade_leader", Unit::Count, &[], "1 while this process leads the summary: refreshes it and keeps the partitions, else 0"),
    counter("lemonade_otlp_failures_total", Unit::Count, &["signal"], "Exports to otlp_url that failed, by signal: metrics or traces"),
    counter("lemonade_spans_dropped_total", Unit::Count, &[], "Spans that the receiver of otlp_url did not get, since it was away for too long or refused them"),
    counter("lemonade_log_messages_total", Unit::Count, &["level"], "Warnings and errors in the log, including suppressed repetitions"),
];

/// The HELP text of a metric.
pub(super) fn help(name: &str) -> &'static str {
    let metric = METRICS.iter().find(|metric| metric.name == name);
    metric.expect("the table has all metrics").help
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_show_kind_and_unit() {
        for Metric {
            name, kind, unit, ..
        } in METRICS
        {
            assert!(name.starts_with("lemonade_"), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                *kind == MetricKind::Counter,
                "{name}"
            );
            let base = name.trim_end_matches("_total");
            match unit {
                Unit::Seconds => assert!(base.ends_with("_seconds"), "{name}"),
                Unit::Bytes => assert!(base.ends_with("_bytes"), "{name}"),
                _ => assert!(
                    !base.ends_with("_seconds") && !base.ends_with("_bytes"),
                    "{name}"
                ),
            }
        }
    }
}
