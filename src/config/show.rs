//! The settings as a settings file, with passwords hidden.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::{Period, Settings, redacted};
use crate::inbox::HistoryLimits;

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &dyn fmt::Display| toml::Value::String(value.to_string()).to_string();
        let time = |value: Duration| text(&Period(value));
        let size = |value: u64| text(&exact_size(value));
        let mut out = String::new();
        let mut line = |key: &str, value: String| writeln!(out, "{key} = {value}");
        line("database_url", text(&redacted(&self.database_url)))?;
        line("redis_url", text(&redacted(&self.broker_url)))?;
        let replicas = self.replica_url.as_ref().map(|url| redacted(url));
        line(
            "replica_url",
            replicas.map_or_else(|| text(&"off"), |url| text(&url)),
        )?;
        line("data_dir", text(&self.data_dir.display()))?;
        for (name, path) in self.dirs.named() {
            line(name, text(&path.display()))?;
        }
        line("node", text(&self.node_name()))?;
        line(
            "http_addr",
            self.http_addr
                .map_or_else(|| text(&"off"), |addr| text(&addr)),
        )?;
        line("http_hosts", text(&self.http_hosts))?;
        line("http_actions", self.http_actions.to_string())?;
        line(
            "http_token_file",
            self.http_token_file
                .as_ref()
                .map_or_else(|| text(&"off"), |path| text(&path.display())),
        )?;
        let otlp_url = self.otlp_url.as_deref().unwrap_or("off");
        line("otlp_url", text(&otlp_url))?;
        line(
            "otlp_headers_file",
            self.otlp_headers_file
                .as_ref()
                .map_or_else(|| text(&"off"), |path| text(&path.display())),
        )?;
        line("workers", self.workers.to_string())?;
        line("queue_bytes", size(self.queue_bytes_max))?;
        line("redis_prefix", text(&self.redis_prefix))?;
        line("queue_shards", self.queue_shards.to_string())?;
        line("memory_budget", size(self.memory_budget_bytes))?;
        line("frame_records", self.frame_records.to_string())?;
        line("frame_bytes", size(self.frame_bytes as u64))?;
        let pace = self.max_records_per_second;
        line(
            "max_records_per_second",
            pace.map_or_else(|| text(&"off"), |pace| pace.to_string()),
        )?;
        line("max_replica_lag", time(self.max_replica_lag))?;
        line(
            "summary_every",
            self.summary_every.map_or_else(|| text(&"off"), time),
        )?;
        line("quiet_time", time(self.quiet_time))?;
        line("incomplete_after", time(self.incomplete_after))?;
        line("hard_links", text(&self.hard_links.as_str()))?;
        line("inbound_recursive", self.inbound_recursive.to_string())?;
        line("marker_files", text(&self.marker_files))?;
        line("temporary_files", text(&self.temporary_files))?;
        line("scan_interval", time(self.scan_interval))?;
        line("drain_timeout", time(self.drain_timeout))?;
        line("disk_floor", size(self.disk_floor_bytes))?;
        line("history_layout", text(&self.history_layout.as_str()))?;
        line(
            "history_compression",
            text(&self.history_compression.as_str()),
        )?;
        let HistoryLimits { age, bytes } = self.history_limits;
        line("history_max_age", age.map_or_else(|| text(&"off"), time))?;
        line(
            "history_max_bytes",
            bytes.map_or_else(|| text(&"off"), size),
        )?;
        line("role", text(&self.roles))?;
        line("log_format", text(&self.log_format.as_str()))?;
        line("log_level", text(&self.log_level))?;
        for dataset in self.datasets.iter() {
            let (name, table) = (&dataset.name, &dataset.table);
            let also = if dataset.also { "also " } else { "" };
            let files = dataset.files_as_glob();
            writeln!(out, "# dataset {name}: {also}files {files}, table {table}")?;
        }
        f.write_str(&out)
    }
}

/// A size in the largest unit that needs no fraction, so that parsing it returns the same size.
fn exact_size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units
        .iter()
        .find(|(_, shift)| bytes.trailing_zeros() >= *shift && bytes > 0)
    {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
