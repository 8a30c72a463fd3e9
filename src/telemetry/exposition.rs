//! The table of all metrics, the recorder, and the text of `/metrics`.
//!
//! Invariant, checked by a test: every recorded metric is in [`METRICS`] with its kind, and is
//! rendered with HELP and TYPE.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

use super::{BACKPRESSURE, STAGE_BUSY, STAGE_RATIO, stages};

/// Interval of folding the samples of histograms, which the recorder keeps until then. At a few
/// thousand commits per second, the samples of five seconds take about 100 KB.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

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

/// All metrics of the engine, in the order of the data flow. [`Handle::render`] adds those named
/// `process_`.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    gauge("lemonade_ready", Unit::Count, &[], "1 while the engine can do its work, else 0"),
    gauge("lemonade_paused", Unit::Count, &[], "1 while an operator has paused the taking of files, else 0"),
    gauge("lemonade_build_info", Unit::Count, &["version"], "1, with the version as a label"),

    counter("lemonade_files_discovered_total", Unit::Count, &["via"], "Files taken, by how they were found: scan (in inbound) or recovered (left in work by an earlier run)"),
    counter("lemonade_files_settled_total", Unit::Count, &["dataset", "outcome"], "Files that left work, by outcome: settled, duplicate or quarantined"),
    gauge("lemonade_files", Unit::Count, &["state"], "Current files by state: inbound, work, quarantine, and waiting: those in inbound that cannot be taken, and those in work that cannot be read or moved"),
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
    counter("lemonade_frames_foreign_total", Unit::Count, &[], "Frames of a file that the database does not know, or knows with another content"),
    counter("lemonade_frames_lost_total", Unit::Count, &["dataset"], "Frames published again because the queue had lost them"),
    gauge("lemonade_queue_frames", Unit::Count, &[], "Frames in the queue, delivered or not"),
    gauge("lemonade_queue_bytes", Unit::Bytes, &[], "Bytes of the frames in the queue"),
    gauge("lemonade_queue_pending_frames", Unit::Count, &[], "Frames that workers have received and not acked"),
    gauge("lemonade_queue_oldest_age_seconds", Unit::Seconds, &["stream"], "Age of the oldest frame in a stream of the queue; 0 if the stream is empty"),
    counter("lemonade_broker_errors_total", Unit::Count, &[], "Faults of the queue"),

    counter("lemonade_rows_committed_total", Unit::Count, &["dataset"], "Rows stored"),
    counter("lemonade_rows_duplicate_total", Unit::Count, &["dataset"], "Rows that were stored already"),
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

    gauge("lemonade_summary_duration_seconds", Unit::Seconds, &[], "Duration of the last refresh of the daily summary"),
    gauge("lemonade_summary_last_success_timestamp_seconds", Unit::Seconds, &[], "Time of the last refresh of the daily summary, since the epoch; before the first refresh, the start of the engine"),
    counter("lemonade_log_messages_total", Unit::Count, &["level"], "Warnings and errors in the log, including suppressed repetitions"),
];

/// The HELP text of a metric.
pub(super) fn help(name: &str) -> &'static str {
    let metric = METRICS.iter().find(|metric| metric.name == name);
    metric.expect("the table has all metrics").help
}

/// Renders the recorded metrics.
#[derive(Clone)]
pub struct Handle {
    recorder: PrometheusHandle,
    process: Collector,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// All metrics, in the text format of Prometheus.
    #[must_use]
    pub fn render(&self) -> String {
        self.process.collect();
        let mut text = self.recorder.render();
        stages::render(&mut text);
        text
    }
}

/// Installs the Prometheus recorder of the process. Later calls return the same handle. From then
/// on, a thread folds the samples of histograms, so that memory is bounded even if `/metrics` is
/// never requested.
///
/// # Panics
/// If another recorder is installed, which only this module may do.
pub fn install() -> Handle {
    static INSTALLED: OnceLock<Handle> = OnceLock::new();
    let handle = INSTALLED.get_or_init(|| {
        let recorder = builder()
            .install_recorder()
            .expect("only this module installs a recorder, and once");
        describe();
        let process = Collector::default();
        process.describe();
        let upkeep = recorder.clone();
        std::thread::Builder::new()
            .name("metrics-upkeep".to_owned())
            .spawn(move || {
                loop {
                    std::thread::sleep(UPKEEP_INTERVAL);
                    upkeep.run_upkeep();
                }
            })
            .expect("a process that starts can start a thread");
        Handle { recorder, process }
    });
    handle.clone()
}

fn builder() -> PrometheusBuilder {
    METRICS
        .iter()
        .fold(PrometheusBuilder::new(), |builder, metric| {
            match metric.kind {
                MetricKind::Histogram(buckets) => builder
                    .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)
                    .expect("buckets are not empty"),
                MetricKind::Counter | MetricKind::Gauge => builder,
            }
        })
}

fn describe() {
    for &Metric {
        name,
        kind,
        unit,
        help,
        ..
    } in METRICS
    {
        match kind {
            MetricKind::Counter => describe_counter!(name, unit, help),
            MetricKind::Gauge => describe_gauge!(name, unit, help),
            MetricKind::Histogram(_) => describe_histogram!(name, unit, help),
        }
    }
    gauge!("lemonade_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::batch::RejectCode;
    use crate::dataset::Datasets;
    use crate::telemetry;

    /// One event of every kind, into a recorder of this test.
    fn rendered() -> String {
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            telemetry::begin_at_zero(&Datasets::new(vec![]).unwrap());
            let second = Duration::from_secs(1);
            telemetry::end_to_end("vehicle_events", second);
            telemetry::files_now("inbound", 1);
            telemetry::backlog(1, 2, second);
            telemetry::queue(1, 2, 3);
            telemetry::commit_took(Duration::from_millis(3), 1_000, second);
            telemetry::rejects("vehicle_events", RejectCode::MissingField, 7);
            telemetry::memory(1, 2);
            telemetry::disk_free("inbound", 1);
            telemetry::summary_refreshed(second, second);
            telemetry::begin(second, true, true);
            telemetry::queue_oldest("memory", second);
            telemetry::history(1);
            telemetry::rejects_open(1);
            telemetry::Ratios::default().export(|_| 1);
        });
        let mut text = handle.render();
        stages::render(&mut text);
        text
    }

    #[test]
    fn every_metric_is_rendered_with_help_and_type_and_none_besides() {
        let text = rendered();
        let mut types = BTreeMap::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            assert!(types.insert(name, kind).is_none(), "{name} twice");
        }
        for metric in METRICS {
            let kind = types.remove(metric.name);
            assert_eq!(kind, Some(metric.kind.as_str()), "{}", metric.name);
            let help = format!("# HELP {} {}", metric.name, metric.help);
            assert!(text.contains(&help), "{help}");
        }
        assert!(types.is_empty(), "not in the table: {types:?}");
    }

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

    #[test]
    fn closed_sets_of_labels_begin_at_zero() {
        let text = rendered();
        for series in [
            "lemonade_rejects_total{dataset=\"vehicle_status\",code=\"too_deep\"} 0",
            "lemonade_rejects_total{dataset=\"vehicle_events\",code=\"missing_field\"} 7",
            "lemonade_files_settled_total{dataset=\"vehicle_events\",outcome=\"quarantined\"} 0",
            "lemonade_sink_errors_total{class=\"fatal\"} 0",
        ] {
            assert!(text.contains(series), "{series} is not in:\n{text}");
        }
    }

    #[test]
    fn samples_fall_into_buckets() {
        let text = rendered();
        assert!(text.contains("lemonade_commit_duration_seconds_bucket{le=\"0.0025\"} 0"));
        assert!(text.contains("lemonade_commit_duration_seconds_bucket{le=\"0.005\"} 1"));
    }

    #[test]
    fn series_have_the_labels_of_the_table() {
        let text = rendered();
        let mut seen = 0;
        for series in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, rest)) = series.split_once('{') else {
                continue;
            };
            let (labels, _) = rest.split_once('}').unwrap();
            let labels: Vec<&str> = labels
                .split(',')
                .map(|label| label.split_once('=').unwrap().0)
                .filter(|label| *label != "le")
                .collect();
            let base = name.trim_end_matches("_bucket").trim_end_matches("_sum");
            let base = base.trim_end_matches("_count");
            let metric = METRICS.iter().find(|metric| metric.name == base);
            assert_eq!(labels, metric.unwrap().labels, "{series}");
            seen += 1;
        }
        assert!(seen > 50, "{text}");
    }

    #[test]
    fn the_installed_recorder_includes_metrics_of_the_process() {
        let handle = install();
        let _same = install();
        let text = handle.render();
        assert!(text.contains("lemonade_build_info{version="), "{text}");
        assert!(
            text.contains("# HELP process_resident_memory_bytes"),
            "{text}"
        );
        assert!(
            text.contains("# TYPE process_cpu_seconds_total counter"),
            "{text}"
        );
    }
}
