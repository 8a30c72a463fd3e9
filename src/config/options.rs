//! One layer of settings, all of them optional: what flags, environment and file each may say.
//!
//! The three layers have one shape and one set of parsers, so a value that is right in one of them
//! is right in all. Merging them and filling in defaults is the business of [`super::Settings`].

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::dataset::Dataset;

/// What a layer says; `None` leaves a setting to the layer below.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Deserialize, JsonSchema)]
#[command(next_help_heading = "Settings")]
#[serde(default, deny_unknown_fields)]
#[schemars(
    title = "Settings of task_runner",
    description = "A settings file: lemonade.toml"
)]
pub struct Options {
    /// Settings file; without it ./lemonade.toml, where there is one
    #[arg(long, global = true, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Where everything lives that has no place of its own (default: ./lemonade-data)
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Where files arrive (default: inbound in the data directory)
    #[arg(long, global = true, value_name = "DIR")]
    pub inbound: Option<PathBuf>,

    /// Where files stand while they are loaded (default: work in the data directory)
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    pub work: Option<PathBuf>,

    /// Where loaded files go (default: history in the data directory)
    #[arg(long, global = true, value_name = "DIR")]
    pub history: Option<PathBuf>,

    /// Where files go that cannot be read as a whole (default: quarantine in the data directory)
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    pub quarantine: Option<PathBuf>,

    /// Address of /metrics, health and the status page, or `off` (default: 127.0.0.1:9464)
    #[arg(long, global = true, value_name = "ADDR")]
    #[schemars(with = "Option<String>")]
    pub http_addr: Option<OrOff<SocketAddr>>,

    /// Other names under which HTTP answers, with commas between: those of a proxy or a container
    #[arg(long, global = true, value_name = "NAMES", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub http_hosts: Option<Names>,

    /// Commits at the same time, each with a connection (default: cores + 1)
    #[arg(long, global = true, value_name = "N")]
    pub workers: Option<NonZeroUsize>,

    /// Most bytes in the queue; the publisher waits beyond (default: 64MiB)
    #[arg(long, global = true, value_name = "SIZE", hide_short_help = true)]
    #[schemars(with = "Option<Size>")]
    pub queue_bytes: Option<ByteSize>,

    /// Memory for records in flight; a quarter of it is for those between parse and queue (default: 128MiB)
    #[arg(long, global = true, value_name = "SIZE")]
    #[schemars(with = "Option<Size>")]
    pub memory_budget: Option<ByteSize>,

    /// Most records in a frame (default: 2000)
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub frame_records: Option<NonZeroU32>,

    /// Most bytes of JSON behind a frame (default: 1MiB)
    #[arg(long, global = true, value_name = "SIZE", hide_short_help = true)]
    #[schemars(with = "Option<Size>")]
    pub frame_bytes: Option<ByteSize>,

    /// How often the daily summary is refreshed; `off`: only at the start (default: 24h)
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub summary_every: Option<OrOff<Period>>,

    /// A file whose writer cannot be seen is finished after this long without change (default: 2s)
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub quiet_time: Option<Period>,

    /// A document that is still not whole after this long goes to quarantine (default: 60s)
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub incomplete_after: Option<Period>,

    /// A file in inbound that has a second name, a hard link: take it, or let it wait (default: take)
    #[arg(long, global = true, value_name = "WHAT", hide_short_help = true)]
    pub hard_links: Option<HardLinks>,

    /// Files that are passed over, with commas between; a `*` stands for any characters (default: _SUCCESS,_started_*,_committed_*,*.crc)
    #[arg(long, global = true, value_name = "NAMES", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub marker_files: Option<Names>,

    /// How often inbound is scanned, whatever notifications say (default: 5s)
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub scan_interval: Option<Period>,

    /// How long work in hand may take to finish after the first Ctrl-C (default: 30s)
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub drain_timeout: Option<Period>,

    /// No file is taken or inflated while a file system has less room than this (default: 256MiB)
    #[arg(long, global = true, value_name = "SIZE", hide_short_help = true)]
    #[schemars(with = "Option<Size>")]
    pub disk_floor: Option<ByteSize>,

    /// What this process does of `run`: any of ingest,work,summary (default: all)
    #[arg(long, global = true, value_name = "ROLES", hide_short_help = true)]
    #[schemars(with = "Option<String>")]
    pub role: Option<Roles>,

    /// Shape of the log on stderr; auto is text on a terminal, else JSON (default: auto)
    #[arg(long, global = true, value_name = "FORMAT", hide_short_help = true)]
    pub log_format: Option<LogFormat>,

    /// What is logged: error, warn, info, debug, trace, or directives by module (default: info)
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// The database: `mysql://…` or `sqlite:…`. No flag, because flags are seen by other users.
    #[arg(skip)]
    pub database_url: Option<String>,

    /// The queue: `redis://…` or `memory:`. No flag, likewise.
    #[arg(skip)]
    pub redis_url: Option<String>,

    /// The user's datasets; only a file can say these.
    #[arg(skip)]
    pub datasets: Vec<Dataset>,
}

impl Options {
    /// This layer, and `below` where it says nothing.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            config: self.config.or(below.config),
            data_dir: self.data_dir.or(below.data_dir),
            inbound: self.inbound.or(below.inbound),
            work: self.work.or(below.work),
            history: self.history.or(below.history),
            quarantine: self.quarantine.or(below.quarantine),
            http_addr: self.http_addr.or(below.http_addr),
            http_hosts: self.http_hosts.or(below.http_hosts),
            workers: self.workers.or(below.workers),
            queue_bytes: self.queue_bytes.or(below.queue_bytes),
            memory_budget: self.memory_budget.or(below.memory_budget),
            frame_records: self.frame_records.or(below.frame_records),
            frame_bytes: self.frame_bytes.or(below.frame_bytes),
            summary_every: self.summary_every.or(below.summary_every),
            quiet_time: self.quiet_time.or(below.quiet_time),
            incomplete_after: self.incomplete_after.or(below.incomplete_after),
            hard_links: self.hard_links.or(below.hard_links),
            marker_files: self.marker_files.or(below.marker_files),
            scan_interval: self.scan_interval.or(below.scan_interval),
            drain_timeout: self.drain_timeout.or(below.drain_timeout),
            disk_floor: self.disk_floor.or(below.disk_floor),
            role: self.role.or(below.role),
            log_format: self.log_format.or(below.log_format),
            log_level: self.log_level.or(below.log_level),
            database_url: self.database_url.or(below.database_url),
            redis_url: self.redis_url.or(below.redis_url),
            datasets: if self.datasets.is_empty() {
                below.datasets
            } else {
                self.datasets
            },
        }
    }
}

/// How a size may be written in the file.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "it is there for its schema")]
enum Size {
    /// Such as `64MiB` or `2GB`.
    Text(String),
    /// Bytes.
    Bytes(u64),
}

/// A length of time as people write it: `500ms`, `30s`, `1h 30m`.
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

/// A value, or the word `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrOff<T> {
    /// `off`.
    Off,
    /// A value.
    On(T),
}

impl<T> OrOff<T> {
    /// The value, where it is not off.
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
        from_text(deserializer)
    }
}

/// Names with commas between; there may be none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

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

/// What a process does of the service.
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

    /// Their names, in the order of the flow.
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
                        "`{name}` is no role; there are ingest, work, summary"
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

/// What becomes of a file in inbound that has a second name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HardLinks {
    /// It is taken like any other; its bytes are those of the other name.
    Take,
    /// It waits until the other name is gone.
    Wait,
}

impl HardLinks {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Wait => "wait",
        }
    }
}

/// The shape of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
    /// Text where stderr is a terminal, else JSON.
    Auto,
}

impl LogFormat {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Auto => "auto",
        }
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
    fn roles_are_a_list_without_strangers() {
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
