//! What Prometheus reads: the recorder, and the text of `/metrics`.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

use super::catalogue::{METRICS, Metric, MetricKind};
use super::stages;
use crate::version;

/// Interval of folding the samples of histograms, which the recorder keeps until then. At a few
/// thousand commits per second, the samples of five seconds take about 100 KB.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

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
    gauge!(
        "lemonade_build_info",
        "version" => version::VERSION,
        "commit" => version::COMMIT.unwrap_or_default(),
        "built" => version::DATE.unwrap_or_default()
    )
    .set(1.0);
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
            telemetry::files_waiting("incomplete", 1);
            telemetry::files_quarantined("malformed", 1);
            telemetry::backlog(1, 2, second);
            telemetry::queue(1, 2, 3);
            telemetry::commit_took(Duration::from_millis(3), 1_000, second);
            telemetry::rejects("vehicle_events", RejectCode::MissingField, 7);
            telemetry::superseded("vehicle_events", 1);
            telemetry::retired("vehicle_events", 1);
            telemetry::memory(1, 2);
            telemetry::disk_free("inbound", 1);
            telemetry::summary_refreshed(second, second);
            telemetry::begin(second, true, true);
            telemetry::queue_oldest("memory", second);
            telemetry::queue_unread(second);
            telemetry::replica_lag("h:3306", 1.0);
            telemetry::nodes("work", 1, 0);
            telemetry::leads_summary(true);
            telemetry::history(1);
            telemetry::history_removed(1);
            telemetry::rejects_open(1);
            telemetry::last_settled("vehicle_events", 1);
            telemetry::expected_every("vehicle_events", second);
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
    fn every_counter_begins_at_zero() {
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            telemetry::begin_at_zero(&Datasets::new(vec![]).unwrap());
        });
        let mut text = handle.render();
        stages::render(&mut text);
        // The intake begins this one, whose reasons it knows.
        let elsewhere = "lemonade_files_quarantined_total";
        let is_begun = |name: &str| {
            let mut rests = text.lines().filter_map(|line| line.strip_prefix(name));
            name == elsewhere || rests.any(|rest| rest.starts_with([' ', '{']))
        };
        let counters = METRICS.iter().filter(|it| it.kind == MetricKind::Counter);
        let missing: Vec<_> = counters.filter(|it| !is_begun(it.name)).collect();
        assert!(missing.is_empty(), "{missing:?} are not in:\n{text}");
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
