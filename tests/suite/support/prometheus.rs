//! Prometheus for tests: scrapes and evaluates every second, so that minutes pass in seconds.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::page;
use super::server::{Kind, Server, program};

/// A running Prometheus.
pub struct Prometheus {
    server: Server,
}

/// Runs Prometheus.
struct PrometheusKind<'a> {
    target: &'a str,
    rules: &'a str,
}

impl Kind for PrometheusKind<'_> {
    fn fill(&self, folder: &Path) {
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [rules.yml]\n\
             scrape_configs:\n\
             - job_name: lemonade\n  static_configs: [{{targets: ['{}']}}]\n",
            self.target
        );
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        fs::write(folder.join("rules.yml"), self.rules).unwrap();
    }

    fn command(&self, folder: &Path, port: u16) -> Vec<OsString> {
        let flag = |name: &str, value: &Path| {
            let mut flag = OsString::from(name);
            flag.push(value);
            flag
        };
        vec![
            program("prometheus").into(),
            flag("--config.file=", &folder.join("prometheus.yml")),
            flag("--storage.tsdb.path=", &folder.join("data")),
            format!("--web.listen-address=127.0.0.1:{port}").into(),
        ]
    }

    async fn answers(&self, server: &Server) -> bool {
        let addr = format!("127.0.0.1:{}", server.port());
        let ready = page(&addr, "/-/ready").is_some_and(|(code, _)| code == 200);
        // Another server on this port would have another folder.
        let flags = page(&addr, "/api/v1/status/flags").map(|(_, flags)| flags);
        ready && flags.is_some_and(|flags| flags.contains(&*server.folder().to_string_lossy()))
    }
}

/// Starts a Prometheus that scrapes this address and evaluates these rules.
pub async fn start(target: &str, rules: &str) -> Prometheus {
    let server = Server::start(&PrometheusKind { target, rules }).await;
    Prometheus { server }
}

impl Prometheus {
    /// The data of an answer of its API.
    pub fn get(&self, path: &str) -> Value {
        let addr = format!("127.0.0.1:{}", self.server.port());
        let (code, body) = page(&addr, path).expect("prometheus answers");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(code, 200, "{path}: {answer}");
        answer["data"].clone()
    }

    /// The values of an expression now: one of each series.
    pub fn query(&self, expression: &str) -> Vec<f64> {
        let expression = utf8_percent_encode(expression, NON_ALPHANUMERIC);
        let data = self.get(&format!("/api/v1/query?query={expression}"));
        let series = data["result"].as_array().unwrap();
        let value = |series: &Value| series["value"][1].as_str().unwrap().parse().unwrap();
        series.iter().map(value).collect()
    }

    /// The alerts that fire now.
    pub fn firing(&self) -> Vec<Value> {
        let data = self.get("/api/v1/alerts");
        let alerts = data["alerts"].as_array().unwrap().iter();
        let firing = alerts.filter(|alert| alert["state"] == "firing");
        firing.cloned().collect()
    }
}
