//! Metrics and traces through a real OpenTelemetry Collector, and receivers that are away, slow, busy
//! or refuse.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::collector::{self, Answer, Receiver};
use crate::support::{Pair, Service, free_addr, page, until};

const LIMIT: Duration = Duration::from_secs(60);

/// Longer than a load of a few records takes on a machine that builds on every core.
const AT_MOST: Duration = Duration::from_secs(20);

/// Writes a file with good records and a bad one.
fn write(folder: &Path, name: &str, good: u32) {
    let good = (0..good).map(|number| {
        format!(
            r#"{{"vehicle_id":"v{number}","report_time":"2024-01-01T00:00:00Z","status_source":"s","status":"ok"}}"#
        )
    });
    let bad = r#"{"vehicle_id":"v","report_time":"never","status_source":"s","status":"ok"}"#;
    let records: Vec<String> = good.chain([bad.to_owned()]).collect();
    std::fs::write(folder.join(name), format!("[{}]", records.join(","))).unwrap();
}

/// The series of a text of `/metrics`: name and sorted labels, and the value.
fn series_of_text(text: &str) -> BTreeMap<String, f64> {
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let series = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap();
        let pairs = labels.split_terminator("\",").map(|label| {
            let (label, value) = label.split_once("=\"").unwrap();
            (label.to_owned(), value.trim_end_matches('"').to_owned())
        });
        (key(name, pairs.collect()), value.parse().unwrap())
    });
    series.collect()
}

fn key(name: &str, mut labels: Vec<(String, String)>) -> String {
    labels.sort();
    format!("{name} {labels:?}")
}

/// A number of JSON; 64 bits and values that JSON does not have are texts.
fn number(value: &Value) -> f64 {
    let text = || value.as_str().unwrap().trim_matches('"').parse();
    value.as_f64().unwrap_or_else(|| text().unwrap())
}

/// Whether a number is the expected one. `serde_json` may read another last bit.
fn is(number: f64, expected: f64) -> bool {
    (number - expected).abs() <= 4.0 * f64::EPSILON * expected.abs()
}

/// The value of an attribute, as text.
fn text_of(attribute: &Value) -> String {
    let of = &attribute["value"];
    let value = of.get("stringValue").or_else(|| of.get("intValue"));
    let value = value.unwrap_or_else(|| panic!("{attribute}"));
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn attributes(of: &Value) -> Vec<(String, String)> {
    let attributes = of["attributes"].as_array().into_iter().flatten();
    let pair = |one: &Value| (one["key"].as_str().unwrap().to_owned(), text_of(one));
    attributes.map(pair).collect()
}

fn attribute(span: &Value, name: &str) -> Option<String> {
    let found = attributes(span).into_iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value)
}

/// The series of metrics that the collector has sent on, as those of a text.
fn series_of_otlp(metrics: &[Value]) -> BTreeMap<String, f64> {
    let mut series = BTreeMap::new();
    for metric in metrics {
        let name = metric["name"].as_str().unwrap();
        let unit = metric["unit"].as_str().unwrap_or_default();
        let base = name.trim_end_matches("_total");
        assert_eq!(base.ends_with("_seconds"), unit == "s", "{metric}");
        assert_eq!(base.ends_with("_bytes"), unit == "By", "{metric}");
        assert_ne!(
            metric["description"].as_str().unwrap_or_default(),
            "",
            "{name}"
        );
        let sum = &metric["sum"];
        assert_eq!(
            name.ends_with("_total"),
            sum["isMonotonic"] == true,
            "{metric}"
        );
        let whole = ["sum", "gauge"].map(|kind| metric[kind]["dataPoints"].as_array());
        for point in whole.into_iter().flatten().flatten() {
            series.insert(key(name, attributes(point)), number(&point["asDouble"]));
        }
        for point in metric["histogram"]["dataPoints"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let labels = attributes(point);
            let with = |suffix: &str| key(&format!("{name}{suffix}"), labels.clone());
            series.insert(with("_sum"), number(&point["sum"]));
            series.insert(with("_count"), number(&point["count"]));
            let bounds = point["explicitBounds"].as_array().unwrap();
            let bounds = bounds.iter().map(|bound| number(bound).to_string());
            let mut below = 0.0;
            let counts = point["bucketCounts"].as_array().unwrap();
            for (count, bound) in counts.iter().zip(bounds.chain(["+Inf".to_owned()])) {
                below += number(count);
                let mut labels = labels.clone();
                labels.push(("le".to_owned(), bound));
                series.insert(key(&format!("{name}_bucket"), labels), below);
            }
        }
        if ["sum", "histogram"]
            .iter()
            .any(|kind| metric.get(kind).is_some())
        {
            let kind = if sum.is_null() { "histogram" } else { "sum" };
            assert_eq!(
                metric[kind]["aggregationTemporality"], 2,
                "cumulative: {metric}"
            );
        }
    }
    series
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_the_values_of_the_metrics_page() {
    let collector = collector::start(None).await;
    let pair = Pair::new("redis+mysql").await;
    write(&pair.at("inbound"), "vehicle_status_1.json", 10);
    let addr = free_addr();
    let mut command = pair.command(&["run"]);
    command
        .env("LEMONADE_HTTP_ADDR", &addr)
        .env("LEMONADE_OTLP_URL", format!("http://{}", collector.addr()))
        .env("LEMONADE_SCAN_INTERVAL", "200ms");
    let child = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut service = Service(child.spawn().unwrap());
    let pages = || page(&addr, "/metrics").map(|(_, text)| series_of_text(&text));
    let settled = key(
        "lemonade_files_settled_total",
        vec![
            ("dataset".to_owned(), "vehicle_status".to_owned()),
            ("outcome".to_owned(), "settled".to_owned()),
        ],
    );
    let is_settled = || pages().is_some_and(|series| series.get(&settled) == Some(&1.0));
    until("the file is settled", LIMIT, async || is_settled()).await;
    let before = pages().unwrap();
    let exports = collector.exports();
    until("the next export", LIMIT, async || {
        collector.exports() > exports
    })
    .await;
    let (resource, metrics) = collector.metrics().unwrap();
    let after = pages().unwrap();

    let sent = series_of_otlp(&metrics);
    assert_eq!(
        sent.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>(),
        "the same series"
    );
    // The others have moved on meanwhile. Some of those that are equal may have moved and come back.
    let moves = [
        "process_",
        "lemonade_disk_free_bytes",
        "lemonade_stage_busy_ratio",
    ];
    let still = after.iter().filter(|(name, value)| {
        before.get(*name) == Some(value) && !moves.iter().any(|it| name.starts_with(it))
    });
    let still: Vec<_> = still.collect();
    assert!(still.len() > 150, "only {} of {}", still.len(), after.len());
    for (name, value) in still {
        assert!(is(sent[name], *value), "{name}: {} {value}", sent[name]);
    }
    assert!(is(sent[&settled], 1.0));
    for (name, expected) in [
        ("service.name", "lemonade-task"),
        ("service.version", env!("CARGO_PKG_VERSION")),
    ] {
        assert_eq!(attribute(&resource, name).as_deref(), Some(expected));
    }
    let nodes = page(&addr, "/api/status").unwrap().1;
    let instance = attribute(&resource, "service.instance.id").unwrap();
    assert!(
        nodes.contains(&format!("\"{instance}\"")),
        "{instance}: {nodes}"
    );

    // The values at the end of the process are sent, too.
    let exports = collector.exports();
    assert_eq!(service.terminate(), Some(0));
    assert!(collector.exports() > exports);
}

/// Loads a folder with a receiver.
fn load(pair: &Pair, url: &str) -> (Output, Duration) {
    let began = Instant::now();
    let output = pair
        .command(&["load", pair.at("archive").to_str().unwrap()])
        .env("LEMONADE_OTLP_URL", url)
        .output()
        .unwrap();
    (output, began.elapsed())
}

/// A pair with an archive of one file of four records, and the messages of its load.
async fn loaded(url: &str) -> (String, Duration) {
    let pair = Pair::new("memory+sqlite").await;
    std::fs::create_dir(pair.at("archive")).unwrap();
    write(&pair.at("archive"), "vehicle_status_1.json", 3);
    let (output, took) = load(&pair, url);
    let said = String::from_utf8(output.stderr).unwrap();
    // One of the records is rejected.
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(pair.number("SELECT COUNT(*) FROM vehicle_status").await, 3);
    (said, took)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_the_trace_of_each_file_and_the_last_metrics_of_a_load() {
    let collector = collector::start(None).await;
    let pair = Pair::new("redis+mysql").await;
    let archive = pair.at("archive");
    std::fs::create_dir(&archive).unwrap();
    write(&archive, "vehicle_status_1.json", 5);
    std::fs::copy(
        archive.join("vehicle_status_1.json"),
        archive.join("vehicle_status_2.json"),
    )
    .unwrap();
    std::fs::write(archive.join("vehicle_status_3.json"), "]").unwrap();
    let (output, _) = load(&pair, &format!("http://{}", collector.addr()));
    assert_eq!(output.status.code(), Some(2), "{output:?}");

    let (_, metrics) = collector.metrics().unwrap();
    let rows = key(
        "lemonade_rows_committed_total",
        vec![("dataset".to_owned(), "vehicle_status".to_owned())],
    );
    assert!(is(series_of_otlp(&metrics)[&rows], 5.0));

    let spans = collector.spans();
    let named = |name: &str| {
        spans
            .iter()
            .filter(|span| span["name"] == name)
            .collect::<Vec<_>>()
    };
    let of = |outcome: &str| {
        let files = named("file");
        let found = files
            .into_iter()
            .find(|span| attribute(span, "lemonade.outcome").unwrap() == outcome);
        found.unwrap_or_else(|| panic!("no file is {outcome}: {spans:#?}"))
    };
    let (stored, copy, bad) = (of("settled"), of("duplicate"), of("quarantined"));
    for (name, expected) in [
        ("lemonade.dataset", "vehicle_status"),
        ("lemonade.records", "6"),
        ("lemonade.rejects", "1"),
        ("lemonade.frames", "1"),
    ] {
        assert_eq!(
            attribute(stored, name).as_deref(),
            Some(expected),
            "{stored}"
        );
    }
    let file_no = pair
        .number("SELECT MAX(file_no) FROM ingest_files WHERE state = 'settled'")
        .await;
    assert_eq!(
        attribute(stored, "lemonade.file_no"),
        Some(file_no.to_string())
    );
    // Which of the two equal files is first depends on the order in which they are read.
    let mut files = [stored, copy].map(|span| attribute(span, "file.name").unwrap());
    files.sort();
    assert_eq!(files, ["vehicle_status_1.json", "vehicle_status_2.json"]);

    // The trace is that of the content.
    let hash = &pair
        .query("SELECT HEX(hash) FROM ingest_files WHERE state = 'settled'")
        .await[0][0];
    let trace = stored["traceId"].as_str().unwrap();
    assert_eq!(hash.as_ref().unwrap().to_ascii_lowercase(), trace);
    assert_eq!(
        (&copy["traceId"], &copy["parentSpanId"]),
        (&stored["traceId"], &stored["spanId"])
    );
    let steps: Vec<_> = spans
        .iter()
        .filter(|span| span["parentSpanId"] == stored["spanId"] && span["name"] != "file")
        .map(|span| span["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        steps,
        [
            "wait", "read", "register", "publish", "commit", "settle", "move"
        ]
    );

    let links = named("transaction")
        .into_iter()
        .flat_map(|span| span["links"].as_array().unwrap());
    let links: Vec<_> = links
        .map(|link| (&link["traceId"], &link["spanId"]))
        .collect();
    assert_eq!(links, [(&stored["traceId"], &stored["spanId"])]);

    assert_eq!(bad["status"]["code"], 2, "{bad}");
    assert_eq!(
        attribute(bad, "file.name").as_deref(),
        Some("vehicle_status_3.json")
    );
    assert!(attribute(bad, "lemonade.reason").is_some(), "{bad}");
}

/// How often a text has a part.
fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

const FAILS: &str = "does not take what is sent";

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_away_costs_a_load_one_line_of_the_log() {
    let (said, took) = loaded(&format!("http://{}", free_addr())).await;
    assert_eq!(
        (
            count(&said, FAILS),
            count(&said, "did not get the last spans")
        ),
        (1, 1),
        "{said}"
    );
    assert!(took < AT_MOST, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_never_answers_delays_the_end_of_a_load_by_seconds() {
    let receiver = Receiver::start(|_, _| Answer::Never);
    let (said, took) = loaded(&receiver.url()).await;
    assert_eq!(receiver.got("/v1/metrics").len(), 1);
    assert_eq!(count(&said, "did not get the last spans"), 1, "{said}");
    assert!(took > Duration::from_secs(5) && took < AT_MOST, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_receiver_is_asked_again_at_the_time_that_it_names() {
    let receiver = Receiver::start(|_, before| match before {
        0 => Answer::Status("429 Too Many Requests\r\nRetry-After: 1"),
        2 => Answer::Status("503 Service Unavailable\r\nRetry-After: 1"),
        _ => Answer::Status("200 OK"),
    });
    let (said, _) = loaded(&receiver.url()).await;
    let (metrics, traces) = (receiver.got("/v1/metrics"), receiver.got("/v1/traces"));
    // Metrics are refused, then taken; traces are refused, and taken after the metrics.
    assert_eq!((metrics.len(), traces.len()), (3, 2), "{said}");
    for (first, second) in [(&metrics[0], &metrics[1]), (&traces[0], &metrics[2])] {
        assert!(second.at - first.at >= Duration::from_secs(1));
    }
    assert_eq!(
        (count(&said, FAILS), count(&said, "did not get")),
        (2, 0),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_without_traces_gets_the_metrics() {
    let receiver = Receiver::start(|path, _| match path {
        "/otlp/v1/metrics" => Answer::Status("200 OK"),
        _ => Answer::Status("404 Not Found"),
    });
    let (said, _) = loaded(&format!("{}/otlp/", receiver.url())).await;
    assert_eq!(receiver.got("/otlp/v1/metrics").len(), 1, "{said}");
    assert_eq!(receiver.got("/otlp/v1/traces").len(), 1, "{said}");
    assert_eq!(count(&said, FAILS), 1, "{said}");
    assert!(said.contains("404 Not Found"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_counts_what_its_receiver_does_not_take_and_goes_on() {
    let receiver = Receiver::start(|path, _| match path {
        "/v1/metrics" => Answer::Status("200 OK"),
        _ => Answer::Status("400 Bad Request"),
    });
    let pair = Pair::new("memory+sqlite").await;
    let headers = pair.at("headers");
    std::fs::write(&headers, "authorization: Bearer s3cret\n").unwrap();
    write(&pair.at("inbound"), "vehicle_status_1.json", 3);
    let addr = free_addr();
    let mut command = pair.command(&["run"]);
    command
        .env("LEMONADE_HTTP_ADDR", &addr)
        .env("LEMONADE_OTLP_URL", receiver.url())
        .env("LEMONADE_OTLP_HEADERS_FILE", &headers);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut service = Service(child.spawn().unwrap());
    let counted = || {
        let series = page(&addr, "/metrics").map(|(_, text)| series_of_text(&text))?;
        let traces = vec![("signal".to_owned(), "traces".to_owned())];
        let failures = series[&key("lemonade_otlp_failures_total", traces)];
        Some((
            failures,
            series[&key("lemonade_spans_dropped_total", Vec::new())],
        ))
    };
    // A file with its seven steps, and a transaction.
    until("the spans are counted", LIMIT, async || {
        counted() == Some((1.0, 9.0))
    })
    .await;
    let got = receiver.got("/v1/traces").remove(0);
    assert!(
        got.headers.contains("authorization: bearer s3cret"),
        "{}",
        got.headers
    );
    assert_eq!(service.terminate(), Some(0));
    assert_eq!(pair.number("SELECT COUNT(*) FROM vehicle_status").await, 3);
}
