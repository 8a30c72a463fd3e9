//! docs/metrics.md lists exactly the metrics of the engine.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use lemonade_task::telemetry::catalogue::{METRICS, Metric};
use lemonade_task::telemetry::install;

/// If this variable is set, the page is written instead of compared.
const BLESS: &str = "LEMONADE_BLESS";

const HEAD: &str = "\
# Metrics

The metrics at `/metrics`, in the text format of Prometheus. This page is generated from the code
(`src/telemetry/catalogue.rs`) and checked by a test; `LEMONADE_BLESS=1 cargo test --test suite
metrics` writes it again.

Units are base units. Labels have few values (datasets, stages, outcomes, codes), and never the name
of a file or a vehicle. Use `rate()` or `increase()` on a counter, never on a gauge. Counters begin
at zero with the process, so that the first event counts. A commit or a frame costs a few atomic
additions; a single row costs none.

Page on `lemonade_backlog_oldest_age_seconds`: it grows whatever the fault is. The
[runbook](runbook.md) explains the alerts. Free bytes, `lemonade_paused` and the gauges of stages
are updated every 2 seconds. So are the numbers of files and the backlog, but after each count the
engine waits a hundred times as long as the count took. History, quarantine, open rejects and the
newest file of each dataset are updated in the same way, at most every 30 seconds. All waiting files
are counted; `status` names the first of them.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n## The engine\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for Metric {
        name,
        kind,
        labels,
        help,
        ..
    } in METRICS
    {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        let (kind, labels) = (kind.as_str(), labels.join(", "));
        writeln!(page, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
    }
    page.push_str("\n## The process\n\n| metric | type | meaning |\n|---|---|---|\n");
    let text = install().render();
    let about = |kind: &'static str| {
        let prefix = format!("# {kind} ");
        let lines = text.lines().filter_map(move |line| {
            let (name, rest) = line.strip_prefix(&prefix)?.split_once(' ')?;
            name.starts_with("process_").then_some((name, rest))
        });
        lines.collect::<std::collections::BTreeMap<_, _>>()
    };
    let kinds = about("TYPE");
    for (name, help) in about("HELP") {
        let help = help.trim_end_matches('.');
        writeln!(page, "| `{name}` | {} | {help} |", kinds[name]).unwrap();
    }
    page
}

#[test]
fn the_page_of_metrics_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let page = page();
    if std::env::var_os(BLESS).is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    for (code, file) in page.lines().zip(written.lines()) {
        assert_eq!(file, code, "docs/metrics.md is old: set {BLESS}=1");
    }
    assert_eq!(written, page, "docs/metrics.md is old: set {BLESS}=1");
}
