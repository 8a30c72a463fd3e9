//! Each alert has an entry in the runbook, and a test that makes it fire and clear.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support;

const ALERTS: [&str; 16] = [
    "LemonadeBacklogTooOld",
    "LemonadeCrashLooping",
    "LemonadeDiskLow",
    "LemonadeDown",
    "LemonadeFilesQuarantined",
    "LemonadeForeignFrames",
    "LemonadeIdTaken",
    "LemonadeMemoryNearBudget",
    "LemonadeNoFile",
    "LemonadeNoIngest",
    "LemonadeNotReady",
    "LemonadeQueueNotRead",
    "LemonadeRejectRatioHigh",
    "LemonadeStalled",
    "LemonadeSummaryStale",
    "LemonadeWatcherMissing",
];

pub fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn rules() -> String {
    fs::read_to_string(at("deploy/alerts.yml")).unwrap()
}

/// Each rule of the file: its name and its text.
fn alerts(rules: &str) -> Vec<(&str, &str)> {
    let rules = rules.split("- alert: ").skip(1);
    rules
        .map(|rule| rule.split_once('\n').expect("a rule has lines"))
        .collect()
}

/// Rules without an entry in the runbook or without a test, and the reverse.
fn gaps(rules: &str, runbook: &str, tests: &str) -> Vec<String> {
    let mut gaps = Vec::new();
    for (name, rule) in alerts(rules) {
        let anchor = format!("docs/runbook.md#{}", name.to_lowercase());
        for part in [
            "expr:",
            "severity:",
            "summary:",
            "description:",
            "runbook_url:",
            &anchor,
        ] {
            if !rule.contains(part) {
                gaps.push(format!("{name}: no {part}"));
            }
        }
        let section = runbook.split("\n## ").find_map(|section| {
            let (title, text) = section.split_once('\n')?;
            (title == name).then_some(text)
        });
        for part in ["**Means**", "**Look at**", "**Do**"] {
            if !section.is_some_and(|section| section.contains(part)) {
                gaps.push(format!("{name}: its section of the runbook has no {part}"));
            }
        }
        let asked = format!("alertname=\"{name}\", alertstate=\"firing\"");
        let expected: BTreeSet<&str> = tests
            .split("- eval_time:")
            .filter(|step| step.contains(&asked))
            .filter_map(|step| step.split("exp_samples: ").nth(1)?.lines().next())
            .collect();
        if expected != BTreeSet::from(["[]", "[{value: 1}]"]) {
            gaps.push(format!("{name}: not tested to fire and to clear"));
        }
    }
    gaps
}

#[test]
fn each_alert_says_what_to_do_and_is_tested() {
    let rules = rules();
    let names: BTreeSet<&str> = alerts(&rules).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, BTreeSet::from(ALERTS));
    let runbook = fs::read_to_string(at("docs/runbook.md")).unwrap();
    let tests = fs::read_to_string(at("deploy/alerts.test.yml")).unwrap();
    let gaps = gaps(&rules, &runbook, &tests);
    assert!(gaps.is_empty(), "\n{}", gaps.join("\n"));
}

#[test]
fn an_alert_without_help_is_reported() {
    let rule = "rules:\n- alert: A\n  expr: up\n  labels: {severity: critical}\n  annotations:\n  \
        summary: s\n  description: d\n  runbook_url: docs/runbook.md#a\n";
    let runbook = "# R\n\n## A\n\n**Means** a. **Look at** b. **Do** c.\n";
    let step = |samples: &str| {
        format!(
            "- eval_time: 1m\n  expr: count(ALERTS{{alertname=\"A\", alertstate=\"firing\"}})\n  \
             exp_samples: {samples}\n"
        )
    };
    let tests = step("[]") + &step("[{value: 1}]");
    assert_eq!(gaps(rule, runbook, &tests), [""; 0]);
    assert_eq!(
        gaps(&rule.replace("description", "x"), runbook, &tests).len(),
        1
    );
    assert_eq!(
        gaps(rule, &runbook.replace("## A", "## B"), &tests).len(),
        3
    );
    assert_eq!(gaps(rule, runbook, &step("[{value: 1}]")).len(), 1);
}

/// Runs promtool and returns its output.
fn promtool(args: &[&str]) -> String {
    let output = Command::new(support::program("promtool"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    said
}

#[test]
fn promtool_takes_the_rules_and_the_configuration() {
    let said = promtool(&["check", "rules", "deploy/alerts.yml"]);
    assert!(said.contains("16 rules found"), "{said}");
    for config in ["deploy/prometheus.yml", "deploy/prometheus.compose.yml"] {
        promtool(&["check", "config", config]);
    }
}

#[test]
fn each_alert_fires_and_clears_over_made_series() {
    let said = promtool(&["test", "rules", "deploy/alerts.test.yml"]);
    assert!(said.contains("SUCCESS"), "{said}");
}
