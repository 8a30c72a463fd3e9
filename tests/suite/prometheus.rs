//! A real Prometheus over a real run: every panel of the dashboard has a value, every rule can be
//! evaluated, and faults make alerts fire.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::alerts::rules;
use crate::dashboard;
use crate::support;
use crate::support::prometheus::{self, Prometheus};
use crate::support::{Pair, Service, free_addr, names, page, until};

const LIMIT: Duration = Duration::from_secs(60);

/// Puts a new file with a good and a bad record into inbound.
fn put(pair: &Pair, number: u32) {
    let records = format!(
        r#"[{{"vehicle_id":"v{number}","report_time":"2024-01-01T00:00:00Z","status_source":"s","status":"ok"}},
        {{"vehicle_id":"v{number}","report_time":"never","status_source":"s","status":"ok"}}]"#
    );
    let name = format!("vehicle_status_{number}.json");
    std::fs::write(pair.at(&name), records).unwrap();
    std::fs::rename(pair.at(&name), pair.at("inbound").join(&name)).unwrap();
}

/// Puts a file that is not a document into inbound.
fn put_broken(pair: &Pair) {
    std::fs::write(pair.at("inbound").join("vehicle_status_broken.json"), "]").unwrap();
}

/// A warning that promtool gives because it takes `summary` in a name for a type; here it is the
/// daily summary. Any other output is an error.
const NOT_A_TYPE: [&str; 2] = [
    "lemonade_summary_duration_seconds",
    "lemonade_summary_last_success_timestamp_seconds",
];

/// Checks that a scrape follows the advice of Prometheus on names, units and help.
fn lint(scrape: &str) {
    let mut promtool = Command::new(support::program("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(scrape.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let excused =
        NOT_A_TYPE.map(|name| format!("{name} metric name should not include type 'summary'"));
    let said: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    // 3 means advice; 1 means that the scrape cannot be parsed.
    assert_eq!(output.status.code(), Some(3), "{said:?}");
    assert_eq!(said, excused);
}

/// The expressions of the dashboard's panels that have no value now.
fn empty_panels(prometheus: &Prometheus) -> BTreeSet<String> {
    let expressions = dashboard::panel_expressions().into_iter();
    let is_empty = |(_, expression): &(String, String)| {
        let values = prometheus.query(expression);
        !values.iter().any(|value| value.is_finite())
    };
    let empty = expressions.filter(is_empty);
    empty
        .map(|(panel, expression)| format!("{panel}: {expression}"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_has_data_and_every_rule_is_evaluated() {
    let pair = Pair::new("redis+mysql").await;
    std::fs::create_dir_all(pair.at("inbound")).unwrap();
    let addr = free_addr();
    let _service = Service::start_with_http(&pair, &["run"], &addr);
    let prometheus = prometheus::start(&addr, &rules()).await;
    put_broken(&pair);
    let mut number = 0;
    let began = std::time::Instant::now();
    loop {
        put(&pair, number);
        number += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let empty = empty_panels(&prometheus);
        if empty.is_empty() {
            break;
        }
        assert!(began.elapsed() < LIMIT, "nothing to show:\n{empty:#?}");
    }
    // The faults are visible.
    for fault in [
        r#"sum(lemonade_rejects_total{code="invalid_timestamp"})"#,
        r#"sum(lemonade_files_settled_total{outcome="quarantined"})"#,
        r#"sum(lemonade_log_messages_total{level="warn"})"#,
        "lemonade_backlog_oldest_age_seconds >= bool 0",
        "sum(lemonade_stage_busy_seconds_total > bool 0) == bool 5",
    ] {
        until(fault, LIMIT, async || {
            prometheus
                .query(fault)
                .first()
                .is_some_and(|value| *value > 0.0)
        })
        .await;
    }
    for annotation in dashboard::annotation_expressions() {
        prometheus.query(&annotation);
    }
    until("all rules evaluated", LIMIT, async || {
        let groups = prometheus.get("/api/v1/rules");
        let rules = groups["groups"][0]["rules"].as_array().unwrap();
        for rule in rules {
            assert!(rule["lastError"].is_null(), "{rule}");
        }
        rules.len() == 16 && rules.iter().all(|rule| rule["health"] == "ok")
    })
    .await;
    lint(&page(&addr, "/metrics").unwrap().1);
}

/// The rules with seconds in place of minutes, so that a short fault fires them.
fn hasty_rules() -> String {
    let rules = rules();
    let hasty: Vec<String> = rules
        .lines()
        .map(|line| match line.split_once("for: ") {
            Some((before, after)) if before.trim().is_empty() && after.ends_with(['m', 'h']) => {
                format!("{before}for: 1s")
            }
            _ => line
                .replace("_timestamp_seconds) > 300", "_timestamp_seconds) > 3")
                .replace("[5m])", "[3s])"),
        })
        .collect();
    let hasty = hasty.join("\n");
    assert_eq!(hasty.matches("for: 1s").count(), 12);
    assert_eq!(hasty.matches("_timestamp_seconds) > 3\n").count(), 1);
    assert_eq!(hasty.matches("[3s])").count(), 3);
    hasty
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_fire_at_faults_and_clear_after_them() {
    let mut database = support::private_mariadb().await;
    let mut pair = Pair::new("memory+mysql").await;
    pair.database_url.clone_from(&database.url);
    std::fs::create_dir_all(pair.at("inbound")).unwrap();
    let addr = free_addr();
    let _service = Service::start_with_http(&pair, &["run"], &addr);
    let prometheus = prometheus::start(&addr, &hasty_rules()).await;
    put(&pair, 0);
    until("a file in history", LIMIT, async || {
        names(&pair.at("history")).len() == 1
    })
    .await;
    until("a first scrape", LIMIT, async || {
        prometheus.query("lemonade_ready == 1").len() == 1
    })
    .await;
    let firing = |name: &str| {
        let firing = prometheus.firing();
        let alert = firing
            .iter()
            .find(|alert| alert["labels"]["alertname"] == name);
        alert.cloned()
    };
    for name in [
        "LemonadeNotReady",
        "LemonadeStalled",
        "LemonadeFilesQuarantined",
    ] {
        assert_eq!(firing(name), None, "nothing is wrong yet");
    }

    put_broken(&pair);
    until("LemonadeFilesQuarantined", LIMIT, async || {
        firing("LemonadeFilesQuarantined").is_some()
    })
    .await;
    database.kill();
    put(&pair, 1);
    for name in ["LemonadeNotReady", "LemonadeStalled"] {
        until(name, LIMIT, async || firing(name).is_some()).await;
        let summary = firing(name).map(|alert| alert["annotations"]["summary"].clone());
        let summary = summary.as_ref().and_then(|summary| summary.as_str());
        assert!(summary.unwrap().contains(&addr), "{summary:?}");
    }

    database.restart().await;
    for name in ["LemonadeNotReady", "LemonadeStalled"] {
        until(name, LIMIT, async || firing(name).is_none()).await;
    }
    until("all in history", LIMIT, async || {
        names(&pair.at("history")).len() == 2
    })
    .await;
}
