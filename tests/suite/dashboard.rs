//! The structure of the dashboard: mistakes that Grafana does not report.
//!
//! A rule of `tidy` checks that its metrics exist; this file checks the rest.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// The rows in the order of an operator's questions: is it well, what flows, what waits, why.
const ROWS: [&str; 7] = [
    "Overview",
    "Flow",
    "Lag",
    "Bottleneck",
    "Quality",
    "Resources",
    "Nodes",
];

/// Grafana's grid.
const COLUMNS: u64 = 24;

fn dashboard() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/dashboard.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn panels(dashboard: &Value) -> &Vec<Value> {
    dashboard["panels"]
        .as_array()
        .expect("a dashboard has panels")
}

fn name(panel: &Value) -> String {
    format!("panel {} {}", panel["id"], panel["title"])
}

/// Left, top, right and bottom.
fn place(panel: &Value) -> [u64; 4] {
    let [x, y, w, h] =
        ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap_or_default());
    [x, y, x + w, y + h]
}

fn expressions(panel: &Value) -> Vec<&str> {
    let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
    targets
        .iter()
        .map(|target| target["expr"].as_str().unwrap_or_default())
        .collect()
}

/// The query of each panel with its name, with the variables set to all instances and datasets.
pub fn panel_expressions() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let of_panel = |panel: &Value| {
        let asked = expressions(panel).into_iter();
        let asked = asked.map(|expression| (name(panel), substituted(expression)));
        asked.collect::<Vec<_>>()
    };
    panels(&dashboard).iter().flat_map(of_panel).collect()
}

/// The queries of the annotations.
pub fn annotation_expressions() -> Vec<String> {
    let dashboard = dashboard();
    let annotations = dashboard["annotations"]["list"].as_array().unwrap().iter();
    let expressions = annotations.filter_map(|annotation| annotation["expr"].as_str());
    expressions.map(substituted).collect()
}

/// Grafana takes four scrapes for `$__rate_interval`; the scrapes of the tests are a second apart.
fn substituted(expression: &str) -> String {
    expression
        .replace("$__rate_interval", "4s")
        .replace("$instance", ".*")
        .replace("$dataset", ".*")
}

/// Links and state identify panels by id.
fn ids(dashboard: &Value) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let panels = panels(dashboard).iter();
    panels
        .filter(|panel| !panel["id"].as_u64().is_some_and(|id| seen.insert(id)))
        .map(|panel| format!("{}: its id is missing or taken", name(panel)))
        .collect()
}

/// Grafana moves overlapping panels, differently each time.
fn places(dashboard: &Value) -> Vec<String> {
    let panels = panels(dashboard);
    let mut findings = Vec::new();
    for (index, panel) in panels.iter().enumerate() {
        let [left, top, right, bottom] = place(panel);
        if right > COLUMNS || left == right || top == bottom {
            findings.push(format!("{}: is off the grid or empty", name(panel)));
        }
        for other in &panels[..index] {
            let [other_left, other_top, other_right, other_bottom] = place(other);
            if left < other_right && other_left < right && top < other_bottom && other_top < bottom
            {
                findings.push(format!("{} overlaps {}", name(panel), name(other)));
            }
        }
    }
    findings
}

/// A panel must be understandable without its author.
fn readable(dashboard: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    for panel in panels(dashboard)
        .iter()
        .filter(|panel| panel["type"] != "row")
    {
        for pointer in ["/title", "/description", "/fieldConfig/defaults/unit"] {
            if panel
                .pointer(pointer)
                .and_then(Value::as_str)
                .is_none_or(str::is_empty)
            {
                findings.push(format!("{}: {pointer} is missing", name(panel)));
            }
        }
    }
    findings
}

/// Each query uses the variables and can have a result.
fn queries(dashboard: &Value) -> Vec<String> {
    let variables = dashboard["templating"]["list"]
        .as_array()
        .expect("a dashboard has variables");
    let known: BTreeSet<&str> = variables
        .iter()
        .filter_map(|variable| variable["name"].as_str())
        .collect();
    let mut findings = Vec::new();
    for panel in panels(dashboard)
        .iter()
        .filter(|panel| panel["type"] != "row")
    {
        let expressions = expressions(panel);
        if expressions.is_empty() {
            findings.push(format!("{}: asks nothing", name(panel)));
        }
        if panel["datasource"]["uid"] != "${datasource}" {
            findings.push(format!("{}: is bound to one data source", name(panel)));
        }
        for expression in expressions {
            if !expression.contains(r#"instance=~"$instance""#) {
                findings.push(format!(
                    "{}: ignores the instance: {expression}",
                    name(panel)
                ));
            }
            for variable in expression.split('$').skip(1) {
                let variable = variable
                    .split(|c: char| c != '_' && !c.is_alphanumeric())
                    .next();
                let variable = variable.unwrap_or_default();
                if !variable.starts_with("__") && !known.contains(variable) {
                    findings.push(format!("{}: no variable `{variable}`", name(panel)));
                }
            }
            findings.extend(rates_of_gauges(expression).map(|metric| {
                format!(
                    "{}: the rate of a gauge means nothing: {metric}",
                    name(panel)
                )
            }));
        }
    }
    findings
}

/// The metrics in the expression that are not counters but have a rate taken.
fn rates_of_gauges(expression: &str) -> impl Iterator<Item = &str> {
    ["rate(", "increase("]
        .into_iter()
        .flat_map(|function| expression.split(function).skip(1))
        .map(|rest| {
            rest.split(['{', '[', ')'])
                .next()
                .unwrap_or_default()
                .trim()
        })
        .filter(|metric| {
            !["_total", "_bucket", "_sum", "_count"]
                .iter()
                .any(|end| metric.ends_with(end))
        })
}

#[test]
fn panels_have_ids_places_words_and_queries() {
    let dashboard = dashboard();
    let findings = [ids, places, readable, queries]
        .map(|rule| rule(&dashboard))
        .concat();
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn rows_are_in_the_order_of_questions() {
    let dashboard = dashboard();
    let rows = panels(&dashboard)
        .iter()
        .filter(|panel| panel["type"] == "row");
    let titles: Vec<&str> = rows.map(|row| row["title"].as_str().unwrap()).collect();
    assert_eq!(titles, ROWS);
}

#[test]
fn it_can_be_imported_and_linked_to() {
    let dashboard = dashboard();
    // The id belongs to one Grafana; with one in the file, an import would overwrite another's.
    assert!(dashboard.get("id").is_none_or(Value::is_null));
    assert_eq!(dashboard["uid"], "lemonade-task");
    // Grafana 10 writes 38 or 39 and later ones read it.
    assert!((38..=39).contains(&dashboard["schemaVersion"].as_u64().unwrap()));
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables
        .iter()
        .map(|variable| variable["name"].as_str())
        .collect();
    assert_eq!(
        names,
        [Some("datasource"), Some("instance"), Some("dataset")]
    );
}

#[test]
fn a_broken_dashboard_is_reported() {
    let panel = |id: u64, x: u64, expression: &str| {
        json!({
            "id": id, "title": "t", "description": "d", "type": "stat",
            "datasource": {"uid": "${datasource}"},
            "gridPos": {"x": x, "y": 0, "w": 8, "h": 4},
            "fieldConfig": {"defaults": {"unit": "s"}},
            "targets": [{"expr": expression}],
        })
    };
    let whole = |panels: &[Value]| json!({"panels": panels, "templating": {"list": [{"name": "instance"}]}});
    let good = r#"sum(rate(a_total{instance=~"$instance"}[$__rate_interval]))"#;
    let clean = whole(&[panel(1, 0, good), panel(2, 8, good)]);
    for rule in [ids, places, readable, queries] {
        assert_eq!(rule(&clean), [""; 0]);
    }

    assert_eq!(
        ids(&whole(&[panel(1, 0, good), panel(1, 8, good)])).len(),
        1
    );
    assert_eq!(
        places(&whole(&[panel(1, 0, good), panel(2, 7, good)])).len(),
        1
    );
    assert_eq!(places(&whole(&[panel(1, 17, good)])).len(), 1);
    let mut mute = panel(1, 0, good);
    mute["fieldConfig"]["defaults"] = json!({});
    mute["description"] = json!("");
    assert_eq!(readable(&whole(&[mute])).len(), 2);
    for bad in [
        "sum(a_total)",
        r#"a{instance=~"$instance", dataset="$dataset"}"#,
        r#"rate(a_bytes{instance=~"$instance"}[1m])"#,
    ] {
        assert_eq!(queries(&whole(&[panel(1, 0, bad)])).len(), 1, "{bad}");
    }
    let mut bound = panel(1, 0, good);
    bound["datasource"]["uid"] = json!("somebody's");
    assert_eq!(queries(&whole(&[bound])).len(), 1);
}
