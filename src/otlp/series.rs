//! The metrics of `/metrics` as messages of OTLP: the same series with the same values, names and
//! buckets. The text of `/metrics` is read, so that a metric has one source.

use std::collections::HashMap;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
    metric::Data, number_data_point,
};

use super::messages::text;

/// From when to when the values count, in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) begin: u64,
    pub(super) now: u64,
}

/// The metrics of a text that this program has rendered. A line that is not of the format is skipped.
pub(super) fn metrics(exposition: &str, window: Window) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    let mut help = HashMap::new();
    for line in exposition.lines() {
        if let Some((name, described)) = about(line, "HELP") {
            help.insert(name, unescaped(described));
        } else if let Some((name, kind)) = about(line, "TYPE") {
            metrics.push(Metric {
                name: name.to_owned(),
                description: help.remove(name).unwrap_or_default(),
                unit: unit(name).to_owned(),
                metadata: Vec::new(),
                data: Some(empty(kind)),
            });
        } else if let Some((metric, sample)) = metrics.last_mut().zip(Sample::read(line)) {
            add(metric, &sample, window);
        }
    }
    metrics
}

/// The name and the rest of a line such as `# TYPE name rest`.
fn about<'a>(line: &'a str, what: &str) -> Option<(&'a str, &'a str)> {
    let rest = line.strip_prefix("# ")?.strip_prefix(what)?;
    rest.trim_start().split_once(' ')
}

/// The unit by UCUM. The catalogue holds that a name ends in its unit, if it has one.
fn unit(name: &str) -> &'static str {
    let base = name.trim_end_matches("_total");
    if base.ends_with("_seconds") {
        "s"
    } else if base.ends_with("_bytes") {
        "By"
    } else {
        // Not `1`: Prometheus would append `_ratio` to the name.
        ""
    }
}

fn empty(kind: &str) -> Data {
    let cumulative = AggregationTemporality::Cumulative.into();
    match kind {
        "counter" => Data::Sum(Sum {
            data_points: Vec::new(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        "histogram" => Data::Histogram(Histogram {
            data_points: Vec::new(),
            aggregation_temporality: cumulative,
        }),
        _ => Data::Gauge(Gauge::default()),
    }
}

fn add(metric: &mut Metric, sample: &Sample<'_>, window: Window) {
    match &mut metric.data {
        Some(Data::Sum(sum)) => sum
            .data_points
            .push(number(sample, window.begin, window.now)),
        Some(Data::Gauge(gauge)) => gauge.data_points.push(number(sample, 0, window.now)),
        Some(Data::Histogram(histogram)) => {
            let part = sample.name.strip_prefix(&*metric.name);
            add_part(
                &mut histogram.data_points,
                part.unwrap_or(""),
                sample,
                window,
            );
        }
        _ => {}
    }
}

fn number(sample: &Sample<'_>, begin: u64, now: u64) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(sample),
        start_time_unix_nano: begin,
        time_unix_nano: now,
        value: Some(number_data_point::Value::AsDouble(sample.value)),
        ..NumberDataPoint::default()
    }
}

/// Adds a line of a histogram: its buckets come first, in order, then its sum, then its count.
fn add_part(points: &mut Vec<HistogramDataPoint>, part: &str, sample: &Sample<'_>, window: Window) {
    let is_new = points.last().is_none_or(|last| last.count != UNKNOWN);
    if is_new {
        points.push(HistogramDataPoint {
            attributes: attributes(sample),
            start_time_unix_nano: window.begin,
            time_unix_nano: window.now,
            count: UNKNOWN,
            ..HistogramDataPoint::default()
        });
    }
    let point = points.last_mut().expect("one was added");
    let whole = sample.value as u64;
    match part {
        "_bucket" => {
            let before: u64 = point.bucket_counts.iter().sum();
            point.bucket_counts.push(whole.saturating_sub(before));
            let bound = sample.labels.iter().find(|(name, _)| *name == LE);
            let bound = bound.and_then(|(_, bound)| bound.parse().ok());
            // The last bucket has no bound.
            point
                .explicit_bounds
                .extend(bound.filter(|bound: &f64| bound.is_finite()));
        }
        "_sum" => point.sum = Some(sample.value),
        "_count" => point.count = whole,
        _ => {}
    }
}

/// The count of a histogram whose last line was not read yet.
const UNKNOWN: u64 = u64::MAX;

/// The label with the bound of a bucket.
const LE: &str = "le";

fn attributes(sample: &Sample<'_>) -> Vec<KeyValue> {
    let labels = sample.labels.iter().filter(|(name, _)| *name != LE);
    labels.map(|(name, value)| text(name, value)).collect()
}

/// A line with a value.
#[derive(Debug, PartialEq)]
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
}

impl<'a> Sample<'a> {
    /// Reads `name{label="value",…} value`.
    fn read(line: &'a str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let value = value.parse().ok()?;
        let Some((name, mut rest)) = series.split_once('{') else {
            return Some(Self {
                name: series,
                labels: Vec::new(),
                value,
            });
        };
        let mut labels = Vec::new();
        while let Some((label, after)) = rest.split_once("=\"") {
            let mut is_escaped = false;
            let end = after.find(|letter| {
                let ends = letter == '"' && !is_escaped;
                is_escaped = letter == '\\' && !is_escaped;
                ends
            })?;
            labels.push((label, unescaped(&after[..end])));
            rest = after[end + 1..].trim_start_matches(',');
        }
        Some(Self {
            name,
            labels,
            value,
        })
    }
}

/// A text without the escapes of the format: `\\`, `\"` and `\n`.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        plain.push(match (letter, letter == '\\') {
            (_, true) => match letters.next() {
                Some('n') => '\n',
                Some(other) => other,
                None => letter,
            },
            (other, false) => other,
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { begin: 5, now: 9 };

    #[test]
    fn a_counter_and_a_gauge_have_their_labels_and_values() {
        let read = metrics(
            "# HELP a_seconds_total What it \\\\ counts\n# TYPE a_seconds_total counter\n\
             a_seconds_total{x=\"1,\\\"}\\\\\",y=\"\"} 3.5\n\n\
             # TYPE b gauge\nb inf\n",
            WINDOW,
        );
        let [a, b] = &read[..] else {
            panic!("{read:?}")
        };
        assert_eq!((&*a.description, &*a.unit), ("What it \\ counts", "s"));
        let Some(Data::Sum(sum)) = &a.data else {
            panic!("{a:?}")
        };
        let expected = NumberDataPoint {
            attributes: vec![text("x", "1,\"}\\"), text("y", "")],
            start_time_unix_nano: 5,
            time_unix_nano: 9,
            value: Some(number_data_point::Value::AsDouble(3.5)),
            ..NumberDataPoint::default()
        };
        assert_eq!(
            (&sum.data_points[..], sum.is_monotonic),
            (&[expected][..], true)
        );
        let Some(Data::Gauge(gauge)) = &b.data else {
            panic!("{b:?}")
        };
        let value = gauge.data_points[0].value;
        assert_eq!(
            value,
            Some(number_data_point::Value::AsDouble(f64::INFINITY))
        );
        assert_eq!((&*b.name, &*b.unit, gauge.data_points.len()), ("b", "", 1));
    }

    #[test]
    fn a_histogram_has_the_counts_of_its_buckets() {
        let read = metrics(
            "# TYPE h histogram\n\
             h_bucket{d=\"x\",le=\"0.1\"} 1\nh_bucket{d=\"x\",le=\"2\"} 4\nh_bucket{d=\"x\",le=\"+Inf\"} 5\n\
             h_sum{d=\"x\"} 7.5\nh_count{d=\"x\"} 5\n\
             h_bucket{d=\"y\",le=\"0.1\"} 0\nh_bucket{d=\"y\",le=\"+Inf\"} 0\nh_sum{d=\"y\"} 0\nh_count{d=\"y\"} 0\n",
            WINDOW,
        );
        let Some(Data::Histogram(histogram)) = &read[0].data else {
            panic!("{read:?}")
        };
        let [x, y] = &histogram.data_points[..] else {
            panic!("{histogram:?}")
        };
        assert_eq!(x.attributes, [text("d", "x")]);
        assert_eq!(
            (&x.bucket_counts[..], &x.explicit_bounds[..]),
            (&[1, 3, 1][..], &[0.1, 2.0][..])
        );
        assert_eq!((x.sum, x.count), (Some(7.5), 5));
        assert_eq!((&y.attributes[..], y.count), (&[text("d", "y")][..], 0));
    }
}
