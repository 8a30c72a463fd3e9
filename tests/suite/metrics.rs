//! The page of all metrics says what the engine tells, neither more nor less.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use lemonade_task::telemetry::exposition::{METRICS, Metric};
use lemonade_task::telemetry::install;

/// Set, the page is written anew instead of compared.
const BLESS: &str = "LEMONADE_BLESS";

const HEAD: &str = "\
# Metrics

What `/metrics` tells, in the text format of Prometheus. This page is made from the code
(`src/telemetry/exposition.rs`) and checked by a test; `LEMONADE_BLESS=1 cargo test --test suite
metrics` writes it again.

Units are base units. Labels have few values: datasets, stages, outcomes, codes; never the name of a
file or a vehicle. Of a counter take `rate()` or `increase()`, of a gauge never. Counters begin at
zero with the process, so that a first event is seen. A commit or frame costs a few atomic additions;
nothing is counted for a single row.

The one to be paged by is `lemonade_backlog_oldest_age_seconds`: whatever is wrong, it grows. Alerts:
[runbook](runbook.md). Free bytes, `lemonade_paused` and gauges of stages are renewed every 2 seconds.
So are the files and the backlog, where they are counted within 20 ms: a count rests a hundred times
as long as it took, so with very many files it is less often. Likewise history, quarantine and open
rejects, every 30 seconds at the soonest. Of the files that wait all are counted; `status` names the
first of them.
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
