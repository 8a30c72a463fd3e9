//! One layer of settings, each of them optional. Flags, environment and settings file are a layer
//! each.
//!
//! The layers have the same type and the same parsers, so a value is valid in all of them or in
//! none. [`super::Settings`] merges them and fills in defaults.

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args as _, Command};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::choices::{HardLinks, HistoryCompression, HistoryLayout, LogFormat};
use crate::dataset::Dataset;
use crate::inbox::TEMPORARY;

/// A layer of settings. `None` leaves a setting to the layer below.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Deserialize, JsonSchema)]
#[command(next_help_heading = "Settings")]
#[serde(default, deny_unknown_fields)]
#[schemars(
    title = "Settings of task_runner",
    description = "A settings file: lemonade.toml"
)]
pub struct Options {
    /// Settings file (default: ./lemonade.toml, if it exists)
    #[arg(long, global = true, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Directory of all files without a separate setting (default: ./lemonade-data)
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Where files arrive (default: inbound in the data directory)
    #[arg(long, global = true, value_name = "DIR")]
    pub inbound: Option<PathBuf>,

    /// Directory of files while they are loaded (default: work in the data directory)
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    pub work: Option<PathBuf>,

    /// Directory of loaded files (default: history in the data directory)
    #[arg(long, global = true, value_name = "DIR")]
    pub history: Option<PathBuf>,

    /// Directory of files that cannot be read (default: quarantine in the data directory)
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    pub quarantine: Option<PathBuf>,

    /// Name of this process among those that share work and database (default: from the host and work)
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub node: Option<String>,

    /// Address of /metrics, health and the status page, or off (default: 127.0.0.1:9464)
    #[arg(long, global = true, value_name = "ADDR")]
    #[schemars(with = "Option<String>")]
    pub http_addr: Option<OrOff<Address>>,

    /// More host names for HTTP, separated by commas: those of a proxy or a container
    #[arg(long, global = true, value_name = "NAMES", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub http_hosts: Option<Names>,

    /// Whether the pages may change anything: retry, replay, pause (default: false)
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, hide_short_help = true)]
    pub http_actions: Option<bool>,

    /// File with the secret for actions and for texts of records (default: off)
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub http_token_file: Option<OrOff<PathBuf>>,

    /// Receiver of metrics and traces by OTLP over HTTP: its URL, or off (default: off)
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub otlp_url: Option<OrOff<String>>,

    /// File with headers for this receiver, such as a token, one in each line (default: off)
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub otlp_headers_file: Option<OrOff<PathBuf>>,

    /// Concurrent commits, each with a connection (default: cores + 1)
    #[arg(long, global = true, value_name = "N")]
    pub workers: Option<NonZeroUsize>,

    /// Most bytes in the queue; publishing waits while it is full (default: 64MiB)
    #[arg(long, global = true, value_name = "SIZE", hide_short_help = true)]
    #[schemars(with = "Option<Size>")]
    pub queue_bytes: Option<ByteSize>,

    /// Prefix of the keys in Redis, with which several databases share it (default: lemonade)
    #[arg(long, global = true, value_name = "PREFIX", hide_short_help = true)]
    pub redis_prefix: Option<String>,

    /// Streams of each dataset in Redis, up to 64: as many as masters of a cluster (default: 1)
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub queue_shards: Option<NonZeroU16>,

    /// Memory for records in flight, a quarter of it between parse and queue (default: 128MiB)
    #[arg(long, global = true, value_name = "SIZE")]
    #[schemars(with = "Option<Size>")]
    pub memory_budget: Option<ByteSize>,

    /// Most records in a frame (default: 2000)
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub frame_records: Option<NonZeroU32>,

    /// Most bytes of JSON in a frame (default: 1MiB)
    #[arg(long, global = true, value_name = "SIZE", hide_short_help = true)]
    #[schemars(with = "Option<Size>")]
    pub frame_bytes: Option<ByteSize>,

    /// Most records a second that this process commits; with off, any number (default: off)
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    #[schemars(with = "Option<Count>")]
    pub max_records_per_second: Option<OrOff<NonZeroU32>>,

    /// Commit nothing while a replica is further behind than this (default: 10s)
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub max_replica_lag: Option<Period>,

    /// Interval of refreshing the daily summary; off: only at the start (default: 24h)
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub summary_every: Option<OrOff<Period>>,

    /// If the file system does not report writers, take a file this long after its last change
    /// (default: 2s)
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub quiet_time: Option<Period>,

    /// Quarantine a document that is still incomplete after this long (default: 60s)
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub incomplete_after: Option<Period>,

    /// A file in inbound that has a second hard link: take it, or let it wait (default: take)
    #[arg(long, global = true, value_name = "WHAT", hide_short_help = true)]
    pub hard_links: Option<HardLinks>,

    /// Take the files of directories below inbound as well: true or false (default: false)
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_short_help = true)]
    pub inbound_recursive: Option<bool>,

    /// Names of files to ignore, separated by commas; * matches any characters (default:
    /// _SUCCESS,_started_*,_committed_*,*.crc)
    #[arg(long, global = true, value_name = "NAMES", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub marker_files: Option<Names>,

    /// Names of files that are not finished, separated by commas; * matches any characters
    /// (default: *.tmp,*.part,*~)
    #[arg(long, global = true, value_name = "NAMES", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub temporary_files: Option<Names>,

    /// Interval of scanning inbound, in addition to notifications (default: 5s)
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub scan_interval: Option<Period>,

    /// Time to finish frames in flight after the first Ctrl-C or SIGTERM (default: 30s)
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub drain_timeout: Option<Period>,

    /// Take and decompress no file while a file system has less free space (default: 256MiB)
    #[arg(long, global = true, value_name = "SIZE", hide_short_help = true)]
    #[schemars(with = "Option<Size>")]
    pub disk_floor: Option<ByteSize>,

    /// Directories of history: flat (as in inbound) or day (that, below YYYY/MM/DD) (default: flat)
    #[arg(long, global = true, value_name = "LAYOUT", hide_short_help = true)]
    pub history_layout: Option<HistoryLayout>,

    /// Compress files in history that were delivered as text: none or zstd (default: none)
    #[arg(long, global = true, value_name = "FORMAT", hide_short_help = true)]
    pub history_compression: Option<HistoryCompression>,

    /// Remove a file from history this long after it was moved there (default: off)
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub history_max_age: Option<OrOff<Period>>,

    /// Remove the oldest files from history while it has more bytes (default: off)
    #[arg(long, global = true, value_name = "SIZE", hide_short_help = true)]
    #[schemars(with = "Option<Size>")]
    pub history_max_bytes: Option<OrOff<ByteSize>>,

    /// Parts of the service in this process: any of ingest,work,summary (default: all three)
    #[arg(long, global = true, value_name = "ROLES", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub role: Option<Roles>,

    /// Format of the log on stderr; auto is text on a terminal, else JSON (default: auto)
    #[arg(long, global = true, value_name = "FORMAT", hide_short_help = true)]
    pub log_format: Option<LogFormat>,

    /// Log level: error, warn, info, debug, trace, or levels by module (default: info)
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// The database: `mysql://…` or `sqlite:…`. Not a flag, because other users can see flags.
    #[arg(skip)]
    pub database_url: Option<String>,

    /// The queue: `redis://…` or `memory:`. Not a flag, for the same reason.
    #[arg(skip)]
    pub redis_url: Option<String>,

    /// The replicas that must keep up: `mysql://…`, with commas between several hosts. Not a flag,
    /// for the same reason.
    #[arg(skip)]
    #[schemars(with = "Option<String>")]
    pub replica_url: Option<OrOff<String>>,

    /// The user's datasets. Only a settings file can define them.
    #[arg(skip)]
    pub datasets: Vec<Dataset>,
}

impl Options {
    /// Whether there is a setting with this name, in a settings file.
    pub(super) fn has(name: &str) -> bool {
        let flags = Self::augment_args(Command::new("settings"));
        let is_flag = flags.get_arguments().any(|flag| flag.get_id() == name);
        is_flag || ["database_url", "redis_url", "replica_url"].contains(&name)
    }

    /// Merges two layers: `below` supplies the settings that this layer leaves open.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            config: self.config.or(below.config),
            data_dir: self.data_dir.or(below.data_dir),
            inbound: self.inbound.or(below.inbound),
            work: self.work.or(below.work),
            history: self.history.or(below.history),
            quarantine: self.quarantine.or(below.quarantine),
            node: self.node.or(below.node),
            http_addr: self.http_addr.or(below.http_addr),
            http_hosts: self.http_hosts.or(below.http_hosts),
            http_actions: self.http_actions.or(below.http_actions),
            http_token_file: self.http_token_file.or(below.http_token_file),
            otlp_url: self.otlp_url.or(below.otlp_url),
            otlp_headers_file: self.otlp_headers_file.or(below.otlp_headers_file),
            workers: self.workers.or(below.workers),
            queue_bytes: self.queue_bytes.or(below.queue_bytes),
            redis_prefix: self.redis_prefix.or(below.redis_prefix),
            queue_shards: self.queue_shards.or(below.queue_shards),
            memory_budget: self.memory_budget.or(below.memory_budget),
            frame_records: self.frame_records.or(below.frame_records),
            frame_bytes: self.frame_bytes.or(below.frame_bytes),
            max_records_per_second: self.max_records_per_second.or(below.max_records_per_second),
            max_replica_lag: self.max_replica_lag.or(below.max_replica_lag),
            summary_every: self.summary_every.or(below.summary_every),
            quiet_time: self.quiet_time.or(below.quiet_time),
            incomplete_after: self.incomplete_after.or(below.incomplete_after),
            hard_links: self.hard_links.or(below.hard_links),
            inbound_recursive: self.inbound_recursive.or(below.inbound_recursive),
            marker_files: self.marker_files.or(below.marker_files),
            temporary_files: self.temporary_files.or(below.temporary_files),
            scan_interval: self.scan_interval.or(below.scan_interval),
            drain_timeout: self.drain_timeout.or(below.drain_timeout),
            disk_floor: self.disk_floor.or(below.disk_floor),
            history_layout: self.history_layout.or(below.history_layout),
            history_compression: self.history_compression.or(below.history_compression),
            history_max_age: self.history_max_age.or(below.history_max_age),
            history_max_bytes: self.history_max_bytes.or(below.history_max_bytes),
            role: self.role.or(below.role),
            log_format: self.log_format.or(below.log_format),
            log_level: self.log_level.or(below.log_level),
            database_url: self.database_url.or(below.database_url),
            redis_url: self.redis_url.or(below.redis_url),
            replica_url: self.replica_url.or(below.replica_url),
            datasets: if self.datasets.is_empty() {
                below.datasets
            } else {
                self.datasets
            },
        }
    }
}

/// The schema of a size.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Size {
    /// Such as `64MiB` or `2GB`.
    Text(String),
    /// Bytes.
    Bytes(u64),
}

/// The schema of a number that may be `off`.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Count {
    /// `off`.
    Off(String),
    /// A number.
    Number(NonZeroU32),
}

/// A length of time, written like `500ms`, `30s` or `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|error| format!("{error}; write a time such as 500ms, 30s or 1h"))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

/// An address with a port, on which a server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let expected = "expected an IP address and a port, such as 127.0.0.1:9464, 0.0.0.0:9464 or \
                        [::1]:9464";
        text.parse().map(Self).map_err(|_| expected)
    }
}

/// A value, or the word `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrOff<T> {
    /// `off`.
    Off,
    /// A value.
    On(T),
}

impl<T> OrOff<T> {
    /// The value; `None` if it is `off`.
    pub fn on(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::On(value) => Some(value),
        }
    }
}

impl<T: FromStr<Err: fmt::Display>> FromStr for OrOff<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        text.parse()
            .map(Self::On)
            .map_err(|error| format!("{error}; or write off"))
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for OrOff<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a text or a number")]
        enum Written {
            Number(u64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A list of names, separated by commas; may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

impl Names {
    /// Markers that Spark, Hadoop and Databricks put beside their data.
    pub(super) fn markers() -> Self {
        Self(
            ["_SUCCESS", "_started_*", "_committed_*", "*.crc"]
                .map(str::to_owned)
                .to_vec(),
        )
    }

    /// Names of files that are not finished, by the usual endings.
    pub(super) fn temporary() -> Self {
        Self(TEMPORARY.map(str::to_owned).to_vec())
    }
}

impl FromStr for Names {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = text.split(',').map(str::trim);
        let names = names.filter(|name| !name.is_empty()).map(str::to_owned);
        Ok(Self(names.collect()))
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

/// The parts of the service that a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// Takes files in, publishes their frames, settles them.
    pub ingest: bool,
    /// Commits frames to the database.
    pub work: bool,
    /// Refreshes the daily summary on its schedule.
    pub summary: bool,
}

impl Roles {
    /// All of them: the service in one process.
    pub const ALL: Self = Self {
        ingest: true,
        work: true,
        summary: true,
    };

    /// The names of the roles, in the order in which data flows.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        [
            (self.ingest, "ingest"),
            (self.work, "work"),
            (self.summary, "summary"),
        ]
        .into_iter()
        .filter_map(|(on, name)| on.then_some(name))
        .collect()
    }
}

impl FromStr for Roles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut roles = Self {
            ingest: false,
            work: false,
            summary: false,
        };
        for name in text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            match name {
                "ingest" => roles.ingest = true,
                "work" => roles.work = true,
                "summary" => roles.summary = true,
                _ => {
                    return Err(format!(
                        "`{name}` is not a role; use ingest, work or summary"
                    ));
                }
            }
        }
        if roles.names().is_empty() {
            return Err("name at least one of ingest, work, summary".to_owned());
        }
        Ok(roles)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(","))
    }
}

impl<'de> Deserialize<'de> for Roles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

fn from_text<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    String::deserialize(deserializer)?
        .parse()
        .map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_people_write_them() {
        let seconds = |text: &str| text.parse::<Period>().map(|period| period.0.as_secs());
        assert_eq!(seconds("30s"), Ok(30));
        assert_eq!(seconds("1h 30m"), Ok(5_400));
        assert!(seconds("soon").unwrap_err().contains("30s"));

        let bytes = |text: &str| text.parse::<ByteSize>().map(|size| size.as_u64());
        assert_eq!(bytes("512MiB"), Ok(512 << 20));
        assert_eq!(bytes("2GB"), Ok(2_000_000_000));
        assert!(bytes("much").is_err());

        let addr = |text: &str| text.parse::<OrOff<SocketAddr>>().map(OrOff::on);
        assert_eq!(addr("off"), Ok(None));
        assert_eq!(addr("[::1]:80"), Ok(Some("[::1]:80".parse().unwrap())));
        assert!(addr("localhost").unwrap_err().contains("off"));
    }

    #[test]
    fn roles_are_a_list_of_known_names() {
        let roles = |text: &str| text.parse::<Roles>().map(|roles| roles.to_string());
        assert_eq!(roles("summary, ingest").as_deref(), Ok("ingest,summary"));
        assert!(roles("ingest,wrok").unwrap_err().contains("`wrok`"));
        assert!(roles("").is_err());
    }

    #[test]
    fn the_upper_layer_wins_setting_by_setting() {
        let size = |bytes| Some(ByteSize(bytes));
        let upper = Options {
            queue_bytes: size(1),
            ..Options::default()
        };
        let lower = Options {
            queue_bytes: size(2),
            memory_budget: size(3),
            ..Options::default()
        };
        let merged = upper.over(lower);
        assert_eq!(
            (merged.queue_bytes, merged.memory_budget),
            (size(1), size(3))
        );
    }
}
