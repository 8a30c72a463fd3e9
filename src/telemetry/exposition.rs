//! What Prometheus reads: the table of all metrics, the recorder, and the text of `/metrics`.
//!
//! Invariant, held by a test: every metric that is recorded stands in [`METRICS`], with its kind,
//! and is rendered with HELP and TYPE.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

use super::{BACKPRESSURE, STAGE_BUSY, STAGE_RATIO, stages};

/// The recorder keeps every sample of a histogram until it is told to fold them, so its memory
/// grows until then; at a few thousand commits a second, five seconds are some 100 KB.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// From a commit into an idle database on the same machine to one that waited for a lock.
const COMMIT_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// From a single record to the largest transaction.
const COMMIT_ROWS: &[f64] = &[1.0, 10.0, 100.0, 500.0, 1e3, 2e3, 3e3, 4e3, 5e3, 1e4, 1e5];

/// From a small file in an idle engine to a backlog of a day.
const END_TO_END_SECONDS: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0,
    86_400.0,
];

/// What Prometheus may do with a metric.
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

/// A metric: name, kind, unit, labels, meaning.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What may be done with it.
    pub kind: MetricKind,
    /// The unit of its value.
    pub unit: Unit,
    /// What tells its series apart, those of Prometheus aside.
    pub labels: &'static [&'static str],
    /// What it means, in a line.
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

/// All metrics of the engine, in the order in which a reader asks; those named `process_` come on
/// top.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    gauge("lemonade_ready", Unit::Count, &[], "1 while the engine can do its work, else 0"),
    gauge("lemonade_paused", Unit::Count, &[], "1 while an operator has told the engine to take no files, else 0"),
    gauge("lemonade_build_info", Unit::Count, &["version"], "1, with the version as a label"),

    counter("lemonade_files_discovered_total", Unit::Count, &["via"], "Files taken up, by how they were found: scan of inbound, or recovered: left in work by an earlier run"),
    counter("lemonade_files_settled_total", Unit::Count, &["dataset", "outcome"], "Files that left work, by outcome: settled, duplicate or quarantined"),
    gauge("lemonade_files", Unit::Count, &["state"], "Files now, by state: inbound, of these waiting, work, and quarantine"),
    gauge("lemonade_backlog_files", Unit::Count, &[], "Files in inbound and work: those that are not stored as a whole"),
    gauge("lemonade_backlog_bytes", Unit::Bytes, &[], "Bytes of these files"),
    gauge("lemonade_backlog_oldest_age_seconds", Unit::Seconds, &[], "How long the longest waiting of these files has been where it is"),
    counter("lemonade_watcher_overflows_total", Unit::Count, &[], "Times that the kernel dropped notifications of files"),
    counter("lemonade_rescan_missed_files_total", Unit::Count, &[], "Files that the periodic scan found and no notification had told of"),
    histogram("lemonade_end_to_end_latency_seconds", Unit::Seconds, &["dataset"], END_TO_END_SECONDS, "From a file's arrival in inbound to all of it stored"),

    counter("lemonade_read_bytes_total", Unit::Bytes, &[], "Stored bytes of files read"),
    counter("lemonade_records_total", Unit::Count, &["dataset", "outcome"], "Records parsed, by outcome: row or reject"),
    counter("lemonade_rejects_total", Unit::Count, &["dataset", "code"], "Records rejected, by reason"),
    gauge("lemonade_rejects_open", Unit::Count, &[], "Rejects in the database that are neither mended nor purged"),

    counter("lemonade_frames_published_total", Unit::Count, &["dataset"], "Frames handed to the queue"),
    counter("lemonade_frames_committed_total", Unit::Count, &["dataset"], "Frames committed to the database"),
    counter("lemonade_frames_redelivered_total", Unit::Count, &["dataset"], "Frames that the queue delivered again"),
    counter("lemonade_frames_damaged_total", Unit::Count, &[], "Entries of the queue that were no frames"),
    counter("lemonade_frames_foreign_total", Unit::Count, &[], "Frames of a file that the database does not know, or knows with another content"),
    counter("lemonade_frames_lost_total", Unit::Count, &["dataset"], "Frames published again because the queue had lost them"),
    gauge("lemonade_queue_frames", Unit::Count, &[], "Frames in the queue, delivered or not"),
    gauge("lemonade_queue_bytes", Unit::Bytes, &[], "Bytes of these frames"),
    gauge("lemonade_queue_pending_frames", Unit::Count, &[], "Frames in the hands of workers"),
    gauge("lemonade_queue_oldest_age_seconds", Unit::Seconds, &["stream"], "How long the oldest frame has been in a stream of the queue; 0 where it is empty"),
    counter("lemonade_broker_errors_total", Unit::Count, &[], "Faults of the queue"),

    counter("lemonade_rows_committed_total", Unit::Count, &["dataset"], "Rows stored"),
    counter("lemonade_rows_duplicate_total", Unit::Count, &["dataset"], "Rows that were stored already"),
    histogram("lemonade_commit_duration_seconds", Unit::Seconds, &[], COMMIT_SECONDS, "How long a commit took, its retries included"),
    histogram("lemonade_commit_rows", Unit::Count, &[], COMMIT_ROWS, "Rows in a commit"),
    gauge("lemonade_last_commit_timestamp_seconds", Unit::Seconds, &[], "When the last commit was, since the epoch; before the first one, when the engine began; none without the role work"),
    counter("lemonade_sink_errors_total", Unit::Count, &["class"], "Faults of the database at whatever it is asked, by class: transient or fatal"),
    counter("lemonade_sink_retries_total", Unit::Count, &[], "Commits tried again"),

    counter(STAGE_BUSY, Unit::Seconds, &["stage"], "Time that a stage worked, summed over those of its lanes that work at once"),
    gauge(STAGE_RATIO, Unit::Count, &["stage"], "Share of its time that a stage worked lately, over all of its lanes: 1 is as much as it can"),
    counter(BACKPRESSURE, Unit::Seconds, &["stage"], "Time that a stage waited for the next one: parse for the byte budget, publish for room in the queue"),

    gauge("lemonade_memory_budget_bytes", Unit::Bytes, &[], "Most bytes of chunks between parse and queue: a quarter of memory_budget"),
    gauge("lemonade_memory_inflight_bytes", Unit::Bytes, &[], "Bytes of chunks between parse and queue"),
    gauge("lemonade_disk_free_bytes", Unit::Bytes, &["path"], "Free bytes of the file system of a directory"),
    gauge("lemonade_history_bytes", Unit::Bytes, &[], "Bytes of the files in history"),

    gauge("lemonade_summary_duration_seconds", Unit::Seconds, &[], "How long the last refresh of the summary took"),
    gauge("lemonade_summary_last_success_timestamp_seconds", Unit::Seconds, &[], "When the summary was last refreshed, since the epoch; before the first time, when the engine began"),
    counter("lemonade_log_messages_total", Unit::Count, &["level"], "Warnings and errors of the log, repeated ones included"),
];

/// The line of the table that tells what a metric means.
pub(super) fn help(name: &str) -> &'static str {
    let metric = METRICS.iter().find(|metric| metric.name == name);
    metric.expect("the table has all metrics").help
}

/// The way to the recorded values.
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

/// Makes the Prometheus recorder that of the process, once: later calls return the same handle.
/// A thread of its own folds histogram samples from then on, so that memory stays bounded whether
/// or not anybody asks for `/metrics`.
///
/// # Panics
/// Where another recorder has been installed, which nothing but this module may do.
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
            telemetry::Ratios::default().tell(|_| 1);
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
    fn names_tell_kind_and_unit() {
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
    fn the_installed_recorder_tells_of_the_process_too() {
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
