//! The settings of the process: flags override the environment, which overrides the settings file,
//! which overrides the defaults.
//!
//! [`Settings`] is resolved once; no other module reads flags or variables. Invariants: the four
//! directories differ, the limits are within the range that the engine supports, the URLs have a
//! known scheme, and printing the settings shows no password.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use bytesize::ByteSize;

use crate::broker::PREFIX;
use crate::dataset::{Dataset, Datasets};
use crate::inbox::{Directories, HistoryLimits, Markers};
use crate::reread::Reread;

mod checks;
mod choices;
pub mod cli;
mod environment;
mod error;
mod file;
mod node;
mod options;
mod servers;
mod show;
mod template;
mod url;
mod variables;

pub use choices::{HardLinks, HistoryCompression, HistoryLayout, LogFormat};
pub use environment::Environment;
pub use error::{ConfigError, UnknownDataset};
use file::FILE_DEFAULT;
pub use options::{Names, Options, OrOff, Period, Roles};
pub use template::template;
pub use url::redacted;

/// A file of environment variables in the current directory, read if it exists.
pub const DOTENV: &str = ".env";

const DATA_DIR_DEFAULT: &str = "./lemonade-data";
const HTTP_PORT_DEFAULT: u16 = 9464;

/// Enough frames to keep workers busy for seconds while ingest waits for a disk. More would only
/// take memory of Redis, which shares 2 GB with the engine and the database.
const QUEUE_BYTES_DEFAULT: ByteSize = ByteSize::mib(64);

/// Two cores that parse, and a few commits in flight, need less. With half of it, stages wait for
/// each other; twice as much gains nothing.
const MEMORY_BUDGET_DEFAULT: ByteSize = ByteSize::mib(128);

/// With less memory, one frame in parse and one in commit might not fit, and the engine would hang.
const MEMORY_BUDGET_MIN: ByteSize = ByteSize::mib(16);

/// Two INSERTs of 1,000 rows. Fewer records cost Redis and the ledger more per row; more gain a few
/// percent and take more memory (docs/performance.md).
const FRAME_RECORDS_DEFAULT: u32 = 2_000;

/// A frame is committed in one transaction, which holds locks for too long beyond this size.
const FRAME_RECORDS_MAX: u32 = 100_000;

/// Twice the size of 2,000 ordinary records: only unusually large records make frames shorter.
const FRAME_BYTES_DEFAULT: ByteSize = ByteSize::mib(1);

/// More connections help no database, and each one takes memory there.
const WORKERS_MAX: usize = 256;

/// With a longer wait for each transaction, the queue would seem to have no reader.
const PACE_SECONDS_MAX: u32 = 10;

/// Readers of a replica seldom notice so much, and replicas of a healthy server are that far behind
/// for moments only.
const MAX_REPLICA_LAG_DEFAULT: Duration = Duration::from_secs(10);

const SUMMARY_EVERY_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
const QUIET_TIME_DEFAULT: Duration = Duration::from_secs(2);
const INCOMPLETE_AFTER_DEFAULT: Duration = Duration::from_secs(60);
const SCAN_INTERVAL_DEFAULT: Duration = Duration::from_secs(5);
/// Space to finish frames in flight: spilled data, moves across devices, logs of the servers.
const DISK_FLOOR_DEFAULT: ByteSize = ByteSize::mib(256);

const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

const LOG_LEVEL_DEFAULT: &str = "info";

/// The JSON Schema of a settings file, generated from the types that parse it.
#[must_use]
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(Options)
}

/// The settings of the process, resolved and checked.
///
/// `Display` and `Debug` print it as a settings file, with passwords hidden.
#[derive(Clone)]
pub struct Settings {
    /// `mysql://…` or `sqlite:PATH`. Holds a password: show it through [`redacted`].
    pub database_url: String,
    /// Reads `database_url` again. `None` if neither it nor its password is in a file of its own.
    pub database_again: Option<Reread>,
    /// `redis://…` (or another scheme for clusters, TLS and Unix sockets) or `memory:`. May hold a
    /// password.
    pub broker_url: String,
    /// Reads `broker_url` again. `None` if it is not in a file of its own.
    pub broker_again: Option<Reread>,
    /// The prefix of the keys in Redis.
    pub redis_prefix: String,
    /// Streams of each dataset in Redis.
    pub queue_shards: u16,
    /// Directory of all files that have no separate setting.
    pub data_dir: PathBuf,
    /// The four directories.
    pub dirs: Directories,
    /// The name of this process. `None`: [`node_name`](Self::node_name) has the default.
    pub node: Option<String>,
    /// The datasets, built in and the user's.
    pub datasets: Datasets,
    /// Number of concurrent commits, each with its own connection.
    pub workers: usize,
    /// Most bytes in the queue. Publishing waits while it is full.
    pub queue_bytes_max: u64,
    /// Bytes for records in flight, a quarter of it between parse and queue.
    pub memory_budget_bytes: u64,
    /// Most records in a frame.
    pub frame_records: u32,
    /// Most bytes of JSON in a frame.
    pub frame_bytes: usize,
    /// Most records a second that the workers of this process commit. `None`: any number.
    pub max_records_per_second: Option<u32>,
    /// The replicas that must keep up. Holds a password. `None`: no replica is asked.
    pub replica_url: Option<String>,
    /// While a replica is further behind, nothing is committed.
    pub max_replica_lag: Duration,
    /// Interval of refreshing the daily summary. `None`: only at the start.
    pub summary_every: Option<Duration>,
    /// A file is taken after this long without a change, if the file system reports no writers.
    pub quiet_time: Duration,
    /// A document that is still incomplete after this long goes to quarantine.
    pub incomplete_after: Duration,
    /// What to do with a file in inbound that has a second hard link.
    pub hard_links: HardLinks,
    /// Whether the files of directories below inbound are taken as well.
    pub inbound_recursive: bool,
    /// Patterns for names of files that are ignored: markers of the programs that write the data.
    pub marker_files: Names,
    /// Patterns for names of files that their writers have not finished.
    pub temporary_files: Names,
    /// Interval of scanning inbound, in addition to notifications.
    pub scan_interval: Duration,
    /// Time to finish frames in flight after the first signal to stop.
    pub drain_timeout: Duration,
    /// No file is taken while the file system of a directory has fewer free bytes.
    pub disk_floor_bytes: u64,
    /// The directories of history.
    pub history_layout: HistoryLayout,
    /// The compression of files in history.
    pub history_compression: HistoryCompression,
    /// What a service leaves in history.
    pub history_limits: HistoryLimits,
    /// Address of the HTTP server. `None`: HTTP is off.
    pub http_addr: Option<SocketAddr>,
    /// Names under which HTTP answers, besides those of this machine and the address.
    pub http_hosts: Names,
    /// Whether the pages may change anything.
    pub http_actions: bool,
    /// File with the secret for actions and for texts of records.
    pub http_token_file: Option<PathBuf>,
    /// The receiver of metrics and traces. `None`: nothing is sent.
    pub otlp_url: Option<String>,
    /// File with headers for the receiver.
    pub otlp_headers_file: Option<PathBuf>,
    /// The parts of the service that this process runs.
    pub roles: Roles,
    /// The format of the log.
    pub log_format: LogFormat,
    /// The log level, or levels by module.
    pub log_level: String,
    /// Warnings about the settings, to be logged once at the start.
    pub notes: Vec<String>,
    /// The flags of the process, which a reload keeps.
    flags: Options,
}

impl Settings {
    /// The settings that a reload applies to a running service.
    pub const RELOADED: [&str; 10] = [
        "quiet_time",
        "incomplete_after",
        "hard_links",
        "inbound_recursive",
        "marker_files",
        "temporary_files",
        "scan_interval",
        "max_records_per_second",
        "max_replica_lag",
        "log_level",
    ];

    /// The address of `--http-addr` alone. `None` if the flag is not given, or `off`.
    ///
    /// A load uses it: the address of the environment and the settings file is that of the service,
    /// which may run meanwhile.
    #[must_use]
    pub fn http_addr_flag(&self) -> Option<SocketAddr> {
        self.flags.http_addr.and_then(OrOff::on).map(|addr| addr.0)
    }

    /// Resolves the settings again, from the same flags and the current environment and files.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn reread(&self) -> Result<Self, ConfigError> {
        Self::resolve(self.flags.clone(), &Environment::read(Path::new(DOTENV))?)
    }

    /// The names of settings that differ in `other` and take effect only at the next start.
    #[must_use]
    pub fn changed_until_restart(&self, others: &Self) -> Vec<String> {
        let lines = |settings: &Self| {
            let text = settings.to_string();
            let pairs = text.lines().filter_map(|line| line.split_once(" = "));
            let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
            pairs.map(owned).collect::<Vec<_>>()
        };
        let mut changed: Vec<String> = lines(self)
            .into_iter()
            .zip(lines(others))
            .filter(|(ours, theirs)| ours != theirs && !Self::RELOADED.contains(&&*ours.0))
            .map(|(ours, _)| ours.0)
            .collect();
        // Passwords are hidden in the text.
        let urls = [
            ("database_url", self.database_url == others.database_url),
            ("redis_url", self.broker_url == others.broker_url),
            ("replica_url", self.replica_url == others.replica_url),
        ];
        for (name, is_same) in urls {
            if !is_same && !changed.iter().any(|known| known == name) {
                changed.push(name.to_owned());
            }
        }
        if format!("{:?}", self.datasets) != format!("{:?}", others.datasets) {
            changed.push("datasets".to_owned());
        }
        changed
    }

    /// Resolves the settings of a process from its flags and its environment, and from the settings
    /// file that one of them names or that is in the current directory.
    ///
    /// # Errors
    /// A value, key, file or combination of settings is invalid.
    pub fn resolve(flags: Options, environment: &Environment) -> Result<Self, ConfigError> {
        let environment::EnvironmentLayer { options, notes } = environment.options()?;
        let given = flags.clone().over(options);
        let file = match &given.config {
            Some(path) => file::read(path)?,
            None if Path::new(FILE_DEFAULT).exists() => file::read(Path::new(FILE_DEFAULT))?,
            None => Options::default(),
        };
        let settings = Self::finish(given.over(file), notes)?;
        Ok(Self {
            flags,
            database_again: environment.database_again(),
            broker_again: environment.broker_again(),
            ..settings
        })
    }

    /// The settings of a program that uses this crate as a library. A setting that `options` leaves
    /// out has its default. Reads neither flags, nor environment, nor files.
    ///
    /// # Errors
    /// A value or a combination of settings is invalid.
    pub fn from_options(options: Options) -> Result<Self, ConfigError> {
        Self::finish(options, Vec::new())
    }

    /// As [`from_options`](Self::from_options), from the text of a settings file.
    ///
    /// # Errors
    /// The text is not TOML, has an unknown key, or has an invalid value.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Self::from_options(file::parse("settings", text)?)
    }

    /// Fills in defaults and checks the result.
    fn finish(given: Options, notes: Vec<String>) -> Result<Self, ConfigError> {
        let data_dir = given.data_dir.unwrap_or_else(|| DATA_DIR_DEFAULT.into());
        let place = |own: Option<PathBuf>, name| own.unwrap_or_else(|| data_dir.join(name));
        let bytes = |own: Option<ByteSize>, default: ByteSize| own.unwrap_or(default).as_u64();
        let time = |own: Option<Period>, default| own.map_or(default, |period| period.0);
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, HTTP_PORT_DEFAULT));
        let frame_bytes = bytes(given.frame_bytes, FRAME_BYTES_DEFAULT);
        let settings = Self {
            database_url: given
                .database_url
                .unwrap_or_else(|| format!("sqlite:{}", data_dir.join("lemonade.db").display())),
            database_again: None,
            broker_url: given.redis_url.unwrap_or_else(|| "memory:".to_owned()),
            broker_again: None,
            redis_prefix: given.redis_prefix.unwrap_or_else(|| PREFIX.to_owned()),
            queue_shards: given.queue_shards.map_or(1, NonZeroU16::get),
            dirs: Directories {
                inbound: place(given.inbound, "inbound"),
                work: place(given.work, "work"),
                history: place(given.history, "history"),
                quarantine: place(given.quarantine, "quarantine"),
            },
            node: given.node,
            datasets: Datasets::new(given.datasets)
                .map_err(|error| ConfigError::new(error.to_string()))?,
            // Measured: more connections than cores + 1 are slower.
            workers: given.workers.map_or(cores + 1, std::num::NonZero::get),
            queue_bytes_max: bytes(given.queue_bytes, QUEUE_BYTES_DEFAULT),
            memory_budget_bytes: bytes(given.memory_budget, MEMORY_BUDGET_DEFAULT),
            frame_records: given
                .frame_records
                .map_or(FRAME_RECORDS_DEFAULT, std::num::NonZero::get),
            frame_bytes: usize::try_from(frame_bytes).unwrap_or(usize::MAX),
            max_records_per_second: given
                .max_records_per_second
                .and_then(OrOff::on)
                .map(NonZeroU32::get),
            replica_url: given.replica_url.and_then(OrOff::on),
            max_replica_lag: time(given.max_replica_lag, MAX_REPLICA_LAG_DEFAULT),
            summary_every: given
                .summary_every
                .map_or(Some(SUMMARY_EVERY_DEFAULT), |every| {
                    every.on().map(|period| period.0)
                }),
            quiet_time: time(given.quiet_time, QUIET_TIME_DEFAULT),
            incomplete_after: time(given.incomplete_after, INCOMPLETE_AFTER_DEFAULT),
            hard_links: given.hard_links.unwrap_or(HardLinks::Take),
            inbound_recursive: given.inbound_recursive.unwrap_or(false),
            marker_files: given.marker_files.unwrap_or_else(Names::markers),
            temporary_files: given.temporary_files.unwrap_or_else(Names::temporary),
            scan_interval: time(given.scan_interval, SCAN_INTERVAL_DEFAULT),
            drain_timeout: time(given.drain_timeout, DRAIN_TIMEOUT_DEFAULT),
            disk_floor_bytes: bytes(given.disk_floor, DISK_FLOOR_DEFAULT),
            history_layout: given.history_layout.unwrap_or(HistoryLayout::Flat),
            history_compression: given
                .history_compression
                .unwrap_or(HistoryCompression::None),
            history_limits: HistoryLimits {
                age: given.history_max_age.and_then(OrOff::on).map(|age| age.0),
                bytes: given
                    .history_max_bytes
                    .and_then(OrOff::on)
                    .map(|size| size.as_u64()),
            },
            http_addr: given
                .http_addr
                .map_or(Some(local), |addr| addr.on().map(|addr| addr.0)),
            http_hosts: given.http_hosts.unwrap_or_default(),
            http_actions: given.http_actions.unwrap_or(false),
            http_token_file: given.http_token_file.and_then(OrOff::on),
            otlp_url: given.otlp_url.and_then(OrOff::on),
            otlp_headers_file: given.otlp_headers_file.and_then(OrOff::on),
            roles: given.role.unwrap_or(Roles::ALL),
            log_format: given.log_format.unwrap_or(LogFormat::Auto),
            log_level: given
                .log_level
                .unwrap_or_else(|| LOG_LEVEL_DEFAULT.to_owned()),
            data_dir,
            notes,
            flags: Options::default(),
        };
        match settings.problem() {
            Some(problem) => Err(ConfigError::new(problem)),
            None => Ok(settings),
        }
    }

    /// Whether the database is `SQLite` and the queue is in this process, which is the default.
    #[must_use]
    pub fn embedded(&self) -> bool {
        url::scheme(&self.database_url) == "sqlite" && url::scheme(&self.broker_url) == "memory"
    }

    /// A note for users of `SQLite` and the in-process queue; `None` for others.
    #[must_use]
    pub fn embedded_note(&self) -> Option<String> {
        self.embedded().then(|| {
            format!(
                "using {} and the in-process queue; set DATABASE_URL and REDIS_URL to use MySQL and \
                 Redis",
                self.database_url
            )
        })
    }

    /// The dataset with this name.
    ///
    /// # Errors
    /// No dataset has this name. The message lists all names.
    pub fn dataset(&self, name: &str) -> Result<&Arc<Dataset>, UnknownDataset> {
        self.datasets.by_name(name).ok_or_else(|| {
            let names: Vec<_> = self.datasets.iter().map(|dataset| &*dataset.name).collect();
            UnknownDataset::new(format!(
                "unknown dataset `{name}`; known are {}",
                names.join(", ")
            ))
        })
    }

    /// The names of files that are passed over.
    #[must_use]
    pub fn markers(&self) -> Markers {
        Markers::new(&self.marker_files.0, &self.temporary_files.0)
            .with_directories(self.inbound_recursive)
    }

    /// The path of the `SQLite` database. `None` if the database is not `SQLite`.
    #[must_use]
    pub fn sqlite_path(&self) -> Option<&Path> {
        let path = self.database_url.strip_prefix("sqlite:")?;
        Some(Path::new(path.strip_prefix("//").unwrap_or(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve<const N: usize>(
        flags: &[&str],
        environment: [(&str, &str); N],
    ) -> Result<Settings, String> {
        use clap::Parser as _;
        let given = ["task_runner"].iter().chain(flags);
        let cli = cli::Cli::try_parse_from(given).map_err(|error| error.to_string())?;
        Settings::resolve(cli.options, &environment.into()).map_err(|error| error.to_string())
    }

    #[test]
    fn with_nothing_set_it_is_the_embedded_pair() {
        let settings = resolve(&[], []).unwrap();
        assert_eq!(settings.database_url, "sqlite:./lemonade-data/lemonade.db");
        assert_eq!(settings.broker_url, "memory:");
        assert_eq!(settings.dirs.history, Path::new("./lemonade-data/history"));
        assert_eq!(settings.http_addr, Some("127.0.0.1:9464".parse().unwrap()));
        assert_eq!(
            settings.sqlite_path(),
            Some(Path::new("./lemonade-data/lemonade.db"))
        );
        assert!(settings.embedded());
        assert!(!resolve(&[], [("DB_HOST", "db")]).unwrap().embedded());
        assert!(!resolve(&[], [("REDIS_HOST", "queue")]).unwrap().embedded());
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(
            &path,
            "workers = 1\nframe_records = 10\nquiet_time = '7s'\n",
        )
        .unwrap();
        let file = ("LEMONADE_CONFIG", path.to_str().unwrap());
        let environment = [
            file,
            ("LEMONADE_WORKERS", "2"),
            ("LEMONADE_FRAME_RECORDS", "20"),
        ];
        let settings = resolve(&["--workers", "3"], environment).unwrap();
        assert_eq!(settings.workers, 3);
        assert_eq!(settings.frame_records, 20);
        assert_eq!(settings.quiet_time, Duration::from_secs(7));
        assert_eq!(settings.scan_interval, SCAN_INTERVAL_DEFAULT);
    }

    #[test]
    fn unusable_settings_are_refused() {
        let cases: [(&[&str], (&str, &str), &str); 12] = [
            (
                &[],
                ("LEMONADE_OTLP_URL", "http://u:secret@h"),
                "otlp_url: write the login",
            ),
            (
                &["--redis-prefix", "a{b}"],
                ("X", ""),
                "redis_prefix: `a{b}`",
            ),
            (
                &[],
                ("DATABASE_URL", "postgres://u:secret@h/d"),
                "mysql://… or sqlite:",
            ),
            (&[], ("REDIS_URL", "amqp://h"), "redis://… or memory:"),
            // The default database is SQLite.
            (
                &[],
                ("REPLICA_URL", "mysql://u:secret@h/d"),
                "a MySQL database, or off",
            ),
            (&["--queue-shards", "65"], ("X", ""), "at most 64"),
            (&["--workers", "999"], ("X", ""), "at most 256"),
            (&["--memory-budget", "1KiB"], ("X", ""), "at least 16"),
            (&["--frame-records", "999999"], ("X", ""), "at most 100000"),
            (
                &["--work", "x", "--inbound", "x"],
                ("X", ""),
                "inbound and work are both x",
            ),
            (&["--role", "ingest"], ("X", ""), "set REDIS_URL"),
            (&["--config", "/nowhere.toml"], ("X", ""), "/nowhere.toml"),
        ];
        for (flags, variable, expected) in cases {
            let error = resolve(flags, [variable]).unwrap_err();
            assert!(error.contains(expected), "{flags:?} {variable:?}: {error}");
            assert!(!error.contains("secret"));
        }
    }

    #[test]
    fn settings_print_as_a_settings_file_without_passwords() {
        let flags = [
            "--queue-bytes",
            "67000001B",
            "--summary-every",
            "off",
            "--http-addr",
            "off",
            "--role",
            "summary",
        ];
        let secrets = [
            ("DATABASE_URL", "mysql://u:secret@h/d"),
            ("REDIS_URL", "redis://:secret@h"),
        ];
        let settings = resolve(&flags, secrets).unwrap();
        let printed = settings.to_string();
        assert!(!printed.contains("secret"), "{printed}");
        assert_eq!(format!("{settings:?}"), printed);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, &printed).unwrap();
        let again = resolve(&["--config", path.to_str().unwrap()], []).unwrap();
        assert_eq!(again.to_string(), printed);
        assert_eq!(again.queue_bytes_max, 67_000_001);
        assert!(printed.contains("frame_bytes = \"1MiB\""), "{printed}");
    }
}
