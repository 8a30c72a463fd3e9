//! The environment as a layer of settings: `LEMONADE_*`, the URLs, their `*_FILE` forms, and the
//! variables of the Python original. A `.env` file may set them, too.
//!
//! An [`Environment`] is a map that is passed in. Only [`Environment::read`] reads the variables of
//! the process, and nothing changes them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use clap::{Args, Command, FromArgMatches};

use super::error::ConfigError;
use super::options::{Options, OrOff};
use super::url;
use super::variables::VARIABLES;
use crate::reread::Reread;

const DATABASE_URL: &str = "DATABASE_URL";
const REDIS_URL: &str = "REDIS_URL";
const REPLICA_URL: &str = "REPLICA_URL";
const LOG_DIR: &str = "LOG_DIR";

/// Variables of the Python original that set its database.
const OLD_DATABASE: [&str; 6] = [
    "DB_USERNAME",
    "DB_PASSWORD",
    "DB_PASSWORD_FILE",
    "DB_HOST",
    "DB_PORT",
    "DB_NAME",
];

/// Variables of the Python original that set its Redis.
const OLD_REDIS: [&str; 2] = ["REDIS_HOST", "REDIS_PORT"];

/// The variables that Kubernetes also sets, for a service called `db` or `redis`.
const PORTS: [&str; 2] = ["DB_PORT", "REDIS_PORT"];

/// The protocols at the beginning of such a value.
const LINK_PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// Variables by name. An empty variable counts as not set: a compose file sets a variable that it
/// leaves out to an empty text.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, OsString>);

/// The settings of the environment, and warnings about its variables.
#[derive(Debug, Default)]
pub(super) struct EnvironmentLayer {
    pub(super) options: Options,
    pub(super) notes: Vec<String>,
}

impl Environment {
    /// Reads the `.env` file if it exists, and the variables of this process, which override it.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn read(dotenv: &Path) -> Result<Self, ConfigError> {
        let mut all = BTreeMap::new();
        let broken = |what: &str| {
            let file = dotenv.display();
            ConfigError::new(format!("{file}: {what}; correct the file or remove it"))
        };
        let text = match std::fs::read_to_string(dotenv) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(broken(&error.to_string())),
        };
        for pair in dotenvy::from_read_iter(text.as_bytes()) {
            let (name, value) = pair.map_err(|error| {
                // Shows neither the line nor a name before it: both may contain a part of a
                // password.
                let place = match &error {
                    dotenvy::Error::LineParse(line, _) => text.find(line.as_str()),
                    _ => None,
                };
                let line = place.map_or(1, |at| text[..at].matches('\n').count() + 1);
                broken(&format!(
                    "line {line} cannot be read: write NAME=value, with quotes around a value that \
                             contains blanks"
                ))
            })?;
            all.insert(name, OsString::from(value));
        }
        // A name that is not UTF-8 is not a setting.
        all.extend(std::env::vars_os().filter_map(|(name, v)| Some((name.into_string().ok()?, v))));
        Ok(Self(all))
    }

    fn get(&self, name: &str) -> Result<Option<&str>, ConfigError> {
        match self.0.get(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => value.to_str().map(Some).ok_or_else(|| {
                ConfigError::new(format!(
                    "environment variable {name}: its value is not UTF-8"
                ))
            }),
        }
    }

    /// The value of a variable, or the content of the file that its `_FILE` form names without the
    /// line end.
    fn secret(&self, name: &str) -> Result<Option<String>, ConfigError> {
        let by_file = format!("{name}_FILE");
        match (self.get(name)?, self.get(&by_file)?) {
            (Some(_), Some(_)) => Err(ConfigError::new(format!(
                "{name} and {by_file} are both set: unset one of the two"
            ))),
            (Some(value), None) => Ok(Some(value.to_owned())),
            (None, None) => Ok(None),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    ConfigError::new(format!("environment variable {by_file}: {path}: {error}"))
                })?;
                Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
        }
    }

    fn database_url(&self) -> Result<Option<String>, ConfigError> {
        match self.secret(DATABASE_URL)? {
            Some(url) => Ok(Some(url)),
            None => self.old_database(),
        }
    }

    /// Reads the URL of the database again. `None` if neither it nor its password is in a file that
    /// a `_FILE` variable names.
    pub(super) fn database_again(&self) -> Option<Reread> {
        let by_file = self.is_set("DATABASE_URL_FILE")
            || (!self.is_set(DATABASE_URL) && self.is_set("DB_PASSWORD_FILE"));
        by_file.then(|| self.again(Self::database_url))
    }

    /// The same for the URL of the queue.
    pub(super) fn broker_again(&self) -> Option<Reread> {
        let read = |environment: &Self| environment.secret(REDIS_URL);
        self.is_set("REDIS_URL_FILE").then(|| self.again(read))
    }

    fn again(&self, read: fn(&Self) -> Result<Option<String>, ConfigError>) -> Reread {
        let environment = self.clone();
        Reread::new(move || {
            let url = read(&environment).ok().flatten()?;
            url::misread(&url).is_none().then_some(url)
        })
    }

    fn is_set(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| !value.is_empty())
    }

    /// The environment as a layer of settings.
    pub(super) fn options(&self) -> Result<EnvironmentLayer, ConfigError> {
        let mut layer = EnvironmentLayer {
            options: self.flags()?,
            notes: Vec::new(),
        };
        layer.options.database_url = self.database_url()?;
        layer.options.redis_url = match self.secret(REDIS_URL)? {
            Some(url) => Some(url),
            None => self.old_redis()?,
        };
        let replica_url = self.secret(REPLICA_URL)?;
        layer.options.replica_url = replica_url.map(|url| match &*url {
            "off" => OrOff::Off,
            _ => OrOff::On(url),
        });
        if self.get(LOG_DIR)?.is_some() {
            layer
                .notes
                .push("LOG_DIR is ignored: logs go to stderr; redirect them to a file".to_owned());
        }
        for name in PORTS.iter().filter(|name| self.is_link(name)) {
            layer.notes.push(format!(
                "{name} is a link to a service, as Kubernetes sets it, and counts as not set; write \
                 the address into {DATABASE_URL} or {REDIS_URL}"
            ));
        }
        for name in self.0.keys().filter(|name| name.starts_with("LEMONADE_")) {
            let known = || {
                VARIABLES
                    .iter()
                    .flat_map(|(_, names)| names.iter().copied())
            };
            // Not an error: orchestrators set other variables.
            if !known().any(|other| other == name)
                && !self.is_of_service(name)
                && let Some(close) = super::file::nearest(name, known())
            {
                layer
                    .notes
                    .push(format!("{name} is not a setting; did you mean {close}?"));
            }
        }
        Ok(layer)
    }

    /// Parses each variable like its flag, so that both accept the same values.
    fn flags(&self) -> Result<Options, ConfigError> {
        let mut options = Options::default();
        for (flag, names) in VARIABLES {
            for name in *names {
                let Some(value) = self.get(name)? else {
                    continue;
                };
                let command = Options::augment_args(Command::new("environment"))
                    .no_binary_name(true)
                    .disable_help_flag(true);
                let given = command.try_get_matches_from([format!("--{flag}={value}")]);
                let taken = given.and_then(|given| options.update_from_arg_matches(&given));
                if let Err(error) = taken {
                    return Err(ConfigError::new(refused(name, value, &error)));
                }
                break;
            }
        }
        Ok(options)
    }

    fn old_database(&self) -> Result<Option<String>, ConfigError> {
        if !self.any(&OLD_DATABASE)? {
            return Ok(None);
        }
        let login = url::Mysql {
            user: self.get("DB_USERNAME")?.unwrap_or("root"),
            password: self.secret("DB_PASSWORD")?.as_deref().unwrap_or(""),
            host: self.host("DB_HOST")?,
            port: self.port("DB_PORT", 3307)?,
            database: self.get("DB_NAME")?.unwrap_or("vehicles"),
        }
        .to_url();
        Ok(Some(login))
    }

    fn old_redis(&self) -> Result<Option<String>, ConfigError> {
        if !self.any(&OLD_REDIS)? {
            return Ok(None);
        }
        let host = self.host("REDIS_HOST")?;
        let port = self.port("REDIS_PORT", 6379)?;
        Ok(Some(format!("redis://{}:{port}", url::host(host))))
    }

    /// Whether the variable is a link that Kubernetes sets in the pods of a namespace: for a
    /// service called `redis`, `REDIS_PORT=tcp://10.0.0.1:6379`. Such a value was not meant for the
    /// engine.
    fn is_link(&self, name: &str) -> bool {
        let value = self.0.get(name).and_then(|value| value.to_str());
        let place = value.and_then(|value| {
            let (protocol, place) = value.split_once("://")?;
            LINK_PROTOCOLS.contains(&protocol).then_some(place)
        });
        place.is_some_and(|place| place.parse::<SocketAddr>().is_ok())
    }

    /// Whether Kubernetes sets a variable of this name for a service: `NAME_SERVICE_HOST`,
    /// `NAME_SERVICE_PORT`, `NAME_PORT`, and longer names that begin with the last two.
    fn is_of_service(&self, name: &str) -> bool {
        name.match_indices('_').any(|(at, _)| {
            let (service, rest) = name.split_at(at);
            let is_set = |ending| self.0.contains_key(&format!("{service}{ending}"));
            ["_SERVICE_", "_PORT"]
                .iter()
                .any(|part| rest.starts_with(part))
                && is_set("_SERVICE_HOST")
        })
    }

    fn any(&self, names: &[&str]) -> Result<bool, ConfigError> {
        for name in names {
            if self.get(name)?.is_some() && !self.is_link(name) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn host(&self, name: &str) -> Result<&str, ConfigError> {
        let host = self.get(name)?.unwrap_or("localhost");
        if !host.contains(['/', '@', '?', '#']) {
            return Ok(host);
        }
        // Not shown, because it may contain a password.
        Err(ConfigError::new(format!(
            "environment variable {name}: its value is no host name; write a URL into \
             {DATABASE_URL} or {REDIS_URL}"
        )))
    }

    fn port(&self, name: &str, default: u16) -> Result<u16, ConfigError> {
        let text = match self.get(name)? {
            Some(text) if !self.is_link(name) => text,
            _ => return Ok(default),
        };
        text.parse().map_err(|_| {
            ConfigError::new(format!(
                "environment variable {name}: its value is not a port; write a number up to 65535"
            ))
        })
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect(),
        )
    }
}

/// The reason for which clap refuses a value, without the name of the flag.
fn refused(name: &str, value: &str, error: &clap::Error) -> String {
    use std::error::Error as _;
    let why = error.source().map(ToString::to_string).unwrap_or_default();
    let possible = match error.get(clap::error::ContextKind::ValidValue) {
        Some(clap::error::ContextValue::Strings(values)) => {
            format!("write one of {}", values.join(", "))
        }
        _ => String::new(),
    };
    let why = if why.is_empty() { possible } else { why };
    format!("environment variable {name}: `{value}`: {why}")
}

#[cfg(test)]
mod tests {
    use super::super::url::malformed::{MALFORMED, shows_a_secret};
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_option_has_a_variable() {
        let command = Options::augment_args(Command::new("x"));
        let flags: Vec<_> = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .collect();
        let named: Vec<_> = VARIABLES.iter().map(|(flag, _)| *flag).collect();
        assert_eq!(flags, named);
        super::super::cli::Cli::command().debug_assert();
    }

    #[test]
    fn the_old_names_make_urls() {
        let environment = Environment::from([
            ("DB_PASSWORD", "p@ss/w:rd"),
            ("REDIS_HOST", "queue"),
            ("SRC_PATH", "/in"),
            ("HISTORY_PATH", "/done"),
            ("LOG_DIR", "/logs"),
        ]);
        let layer = environment.options().unwrap();
        assert_eq!(
            layer.options.database_url.as_deref(),
            Some("mysql://root:p%40ss%2Fw%3Ard@localhost:3307/vehicles")
        );
        assert_eq!(
            layer.options.redis_url.as_deref(),
            Some("redis://queue:6379")
        );
        assert_eq!(layer.options.inbound.as_deref(), Some(Path::new("/in")));
        assert_eq!(layer.options.history.as_deref(), Some(Path::new("/done")));
        assert!(layer.notes[0].contains("stderr"), "{:?}", layer.notes);
    }

    #[test]
    fn the_choices_of_database_and_queue_are_independent() {
        let layer = Environment::from([("DB_HOST", "db")]).options().unwrap();
        assert!(layer.options.database_url.is_some());
        assert_eq!(layer.options.redis_url, None);
        let layer = Environment::from([("REDIS_PORT", "1")]).options().unwrap();
        assert_eq!(layer.options.database_url, None);
        assert_eq!(
            layer.options.redis_url.as_deref(),
            Some("redis://localhost:1")
        );
    }

    #[test]
    fn a_bad_value_names_its_variable() {
        let message =
            |pairs: [(&str, &str); 1]| Environment::from(pairs).options().unwrap_err().to_string();
        let workers = message([("LEMONADE_WORKERS", "many")]);
        assert!(workers.contains("LEMONADE_WORKERS: `many`"), "{workers}");
        let format = message([("LEMONADE_LOG_FORMAT", "xml")]);
        assert!(format.contains("one of text, json, auto"), "{format}");
        assert!(message([("DB_PORT", "x")]).contains("DB_PORT"));
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        let environment = Environment::from([("DATABASE_URL", ""), ("DB_HOST", "")]);
        assert_eq!(environment.options().unwrap().options, Options::default());
    }

    #[test]
    fn secrets_come_from_files_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("url");
        std::fs::write(&path, "mysql://u:p@h/d\n").unwrap();
        let path = path.to_str().unwrap();
        let environment = Environment::from([("DATABASE_URL_FILE", path)]);
        let url = environment.options().unwrap().options.database_url;
        assert_eq!(url.as_deref(), Some("mysql://u:p@h/d"));

        let both = Environment::from([("DATABASE_URL_FILE", path), ("DATABASE_URL", "sqlite:x")]);
        assert!(both.options().unwrap_err().to_string().contains("both set"));
        let gone = Environment::from([("REDIS_URL_FILE", "/nowhere/url")]);
        assert!(
            gone.options()
                .unwrap_err()
                .to_string()
                .contains("/nowhere/url")
        );
    }

    #[test]
    fn a_misspelt_variable_is_reported_and_an_unrelated_one_is_not() {
        let environment = Environment::from([
            ("LEMONADE_WROKERS", "2"),
            ("LEMONADE_SERVICE_HOST", "10.0.0.1"),
        ]);
        let notes = environment.options().unwrap().notes;
        assert_eq!(
            notes,
            ["LEMONADE_WROKERS is not a setting; did you mean LEMONADE_WORKERS?"]
        );
    }

    #[test]
    fn dotenv_gives_way_to_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".env");
        std::fs::write(&path, "PATH=from-the-file\nDB_NAME='trips'\n").unwrap();
        let environment = Environment::read(&path).unwrap();
        assert_eq!(environment.get("DB_NAME").unwrap(), Some("trips"));
        assert_ne!(environment.get("PATH").unwrap(), Some("from-the-file"));
        std::fs::write(&path, "not a line of it\n").unwrap();
        assert!(Environment::read(&path).is_err());
    }

    #[test]
    fn a_line_that_cannot_be_parsed_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".env");
        for (text, line) in [
            ("DB_USER=fleet\nDB_PASSWORD=QXZJ KVWY\n", 2),
            ("DB_PASSWORD=12\nQXZJ=KV\nWY\n", 3),
            ("# x\n\nDB_PASSWORD=\"QXZJ\n\nKVWY\n", 3),
            ("QXZJKVWY\n", 1),
            ("DB_PASSWORD='QXZJ'KVWY'\n", 1),
            ("DATABASE_URL=mysql://root:QX ZJ#KV@db/v\n", 1),
            ("QXZJ KV=WY\n", 1),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Environment::read(&path).unwrap_err().to_string();
            assert!(
                error.contains(&format!("line {line} cannot")),
                "{text}: {error}"
            );
            assert!(!shows_a_secret(&error), "{error}");
        }
    }

    /// The variables of a pod in the namespace of a service with this name.
    fn links(service: &str, protocol: &str) -> Vec<(String, String)> {
        let at = "10.96.0.12";
        let pairs = [
            ("SERVICE_HOST", at.to_owned()),
            ("SERVICE_PORT", "6379".to_owned()),
            ("SERVICE_PORT_MAIN", "6379".to_owned()),
            ("PORT", format!("{protocol}://{at}:6379")),
            ("PORT_6379_TCP", format!("{protocol}://{at}:6379")),
            ("PORT_6379_TCP_PROTO", protocol.to_owned()),
            ("PORT_6379_TCP_PORT", "6379".to_owned()),
            ("PORT_6379_TCP_ADDR", at.to_owned()),
        ];
        let named = pairs.map(|(name, value)| (format!("{service}_{name}"), value));
        named.into_iter().collect()
    }

    /// Every variable that is read, split into a service and a suffix if Kubernetes uses this
    /// suffix.
    #[test]
    fn variables_of_service_links_are_recognised() {
        let read = VARIABLES.iter().flat_map(|(_, names)| names.iter());
        let read: Vec<&str> = read
            .chain(&OLD_DATABASE)
            .chain(&OLD_REDIS)
            .chain(&[
                DATABASE_URL,
                REDIS_URL,
                LOG_DIR,
                "DATABASE_URL_FILE",
                "REDIS_URL_FILE",
            ])
            .copied()
            .collect();
        let shared = |name: &&&str| name.contains("_PORT") || name.contains("_SERVICE_");
        let shared: Vec<&str> = read.iter().filter(shared).copied().collect();
        assert_eq!(shared, PORTS, "names that Kubernetes may set");

        let services = [
            "DB",
            "REDIS",
            "LEMONADE",
            "LEMONADE_WORK",
            "DATABASE_URL",
            "DB_HOST",
        ];
        for service in services {
            for protocol in LINK_PROTOCOLS {
                let pairs = links(service, protocol).into_iter();
                let pairs = pairs.map(|(name, value)| (name, value.into()));
                let layer = Environment(pairs.collect()).options().unwrap();
                assert_eq!(layer.options, Options::default(), "{service}");
                let is_read = PORTS.contains(&&*format!("{service}_PORT"));
                assert_eq!(layer.notes.len(), usize::from(is_read), "{:?}", layer.notes);
            }
        }
    }

    #[test]
    fn a_link_gives_no_port_to_a_host_that_is_set() {
        let link = "tcp://[fd00::1]:16379";
        let layer = Environment::from([("REDIS_HOST", "queue"), ("REDIS_PORT", link)]);
        let layer = layer.options().unwrap();
        assert_eq!(
            layer.options.redis_url.as_deref(),
            Some("redis://queue:6379")
        );
        assert!(
            layer.notes[0].contains("REDIS_PORT is a link"),
            "{:?}",
            layer.notes
        );
        let layer = Environment::from([("DB_NAME", "trips"), ("DB_PORT", link)]);
        let url = layer.options().unwrap().options.database_url;
        assert_eq!(url.as_deref(), Some("mysql://root@localhost:3307/trips"));
    }

    #[test]
    fn a_url_in_the_place_of_a_host_or_a_port_is_refused_and_not_shown() {
        for name in ["DB_HOST", "DB_PORT", "REDIS_HOST", "REDIS_PORT"] {
            for url in MALFORMED.iter().filter(|url| url.contains("//")) {
                let error = Environment::from([(name, *url)]).options().unwrap_err();
                let error = error.to_string();
                assert!(error.contains(name) && !shows_a_secret(&error), "{error}");
            }
        }
    }
}
