//! The environment as a layer of settings: `LEMONADE_*`, the URLs, their `*_FILE` forms, and the
//! names that users of the Python original have set; also from a `.env` file.
//!
//! An [`Environment`] is a map that is handed in. Nothing beyond [`Environment::read`] looks at the
//! variables of the process, and nothing changes them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

use clap::{Args, Command, FromArgMatches};

use super::options::Options;
use super::{ConfigError, url};

/// The variables of each option, by the name of its flag; the first that is set counts.
pub(super) const VARIABLES: &[(&str, &[&str])] = &[
    ("config", &["LEMONADE_CONFIG"]),
    ("data-dir", &["LEMONADE_DATA_DIR"]),
    ("inbound", &["LEMONADE_INBOUND", "SRC_PATH"]),
    ("work", &["LEMONADE_WORK"]),
    ("history", &["LEMONADE_HISTORY", "HISTORY_PATH"]),
    ("quarantine", &["LEMONADE_QUARANTINE"]),
    ("http-addr", &["LEMONADE_HTTP_ADDR"]),
    ("workers", &["LEMONADE_WORKERS"]),
    ("queue-bytes", &["LEMONADE_QUEUE_BYTES"]),
    ("memory-budget", &["LEMONADE_MEMORY_BUDGET"]),
    ("frame-records", &["LEMONADE_FRAME_RECORDS"]),
    ("frame-bytes", &["LEMONADE_FRAME_BYTES"]),
    ("summary-every", &["LEMONADE_SUMMARY_EVERY"]),
    ("quiet-time", &["LEMONADE_QUIET_TIME"]),
    ("incomplete-after", &["LEMONADE_INCOMPLETE_AFTER"]),
    ("hard-links", &["LEMONADE_HARD_LINKS"]),
    ("scan-interval", &["LEMONADE_SCAN_INTERVAL"]),
    ("drain-timeout", &["LEMONADE_DRAIN_TIMEOUT"]),
    ("disk-floor", &["LEMONADE_DISK_FLOOR"]),
    ("role", &["LEMONADE_ROLE"]),
    ("log-format", &["LEMONADE_LOG_FORMAT"]),
    ("log-level", &["LEMONADE_LOG", "RUST_LOG"]),
];

const DATABASE_URL: &str = "DATABASE_URL";
const REDIS_URL: &str = "REDIS_URL";
const LOG_DIR: &str = "LOG_DIR";

/// The names by which the original was told its database.
const OLD_DATABASE: [&str; 6] = [
    "DB_USERNAME",
    "DB_PASSWORD",
    "DB_PASSWORD_FILE",
    "DB_HOST",
    "DB_PORT",
    "DB_NAME",
];

/// The names by which the original was told its Redis.
const OLD_REDIS: [&str; 2] = ["REDIS_HOST", "REDIS_PORT"];

/// Variables by name. A variable that is empty counts as not set: that is how compose files leave
/// one out.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, OsString>);

/// What the environment says, and what its owner should be told about it.
#[derive(Debug, Default)]
pub(super) struct EnvironmentLayer {
    pub(super) options: Options,
    pub(super) notes: Vec<String>,
}

impl Environment {
    /// The variables of this process, over those of a `.env` file where there is one.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub fn read(dotenv: &Path) -> Result<Self, ConfigError> {
        let mut all = BTreeMap::new();
        let broken = |what: &str| {
            let file = dotenv.display();
            ConfigError::new(format!("{file}: {what}; mend the file or remove it"))
        };
        match dotenvy::from_path_iter(dotenv) {
            Ok(pairs) => {
                let mut place = "at its beginning".to_owned();
                for pair in pairs {
                    let (name, value) = pair.map_err(|error| match error {
                        // The line may hold a password, so it is not shown.
                        dotenvy::Error::LineParse(..) => broken(&format!(
                            "a line cannot be read, {place}: write NAME=value, and a value with \
                             blanks in quotes"
                        )),
                        error => broken(&error.to_string()),
                    })?;
                    place = format!("after that of {name}");
                    all.insert(name, OsString::from(value));
                }
            }
            Err(dotenvy::Error::Io(error)) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(broken(&error.to_string())),
        }
        // Names that are not UTF-8 are none of ours.
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

    /// The value of a variable, or of the file that its `_FILE` form names, less the line end.
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

    /// The environment as a layer of settings.
    pub(super) fn options(&self) -> Result<EnvironmentLayer, ConfigError> {
        let mut layer = EnvironmentLayer {
            options: self.flags()?,
            notes: Vec::new(),
        };
        layer.options.database_url = match self.secret(DATABASE_URL)? {
            Some(url) => Some(url),
            None => self.old_database()?,
        };
        layer.options.redis_url = match self.secret(REDIS_URL)? {
            Some(url) => Some(url),
            None => self.old_redis()?,
        };
        if self.get(LOG_DIR)?.is_some() {
            layer
                .notes
                .push("LOG_DIR is set, but logs go to stderr: redirect that".to_owned());
        }
        for name in self.0.keys().filter(|name| name.starts_with("LEMONADE_")) {
            let known = || {
                VARIABLES
                    .iter()
                    .flat_map(|(_, names)| names.iter().copied())
            };
            // Not an error: orchestrators inject variables of their own, such as
            // LEMONADE_SERVICE_HOST for a service named `lemonade`.
            if !known().any(|other| other == name)
                && let Some(close) = super::file::nearest(name, known())
            {
                layer
                    .notes
                    .push(format!("{name} is no setting; did you mean {close}?"));
            }
        }
        Ok(layer)
    }

    /// Each variable is read by the parser of its flag, so that both take the same values.
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
            host: self.get("DB_HOST")?.unwrap_or("localhost"),
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
        let host = self.get("REDIS_HOST")?.unwrap_or("localhost");
        let port = self.port("REDIS_PORT", 6379)?;
        Ok(Some(format!("redis://{}:{port}", url::host(host))))
    }

    fn any(&self, names: &[&str]) -> Result<bool, ConfigError> {
        for name in names {
            if self.get(name)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn port(&self, name: &str, default: u16) -> Result<u16, ConfigError> {
        let Some(text) = self.get(name)? else {
            return Ok(default);
        };
        text.parse().map_err(|_| {
            ConfigError::new(format!(
                "environment variable {name}: `{text}` is no port; write a number up to 65535"
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

/// What clap says of a value, less its talk of flags.
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
    fn a_misspelt_variable_is_pointed_out_and_a_stranger_is_not() {
        let environment = Environment::from([
            ("LEMONADE_WROKERS", "2"),
            ("LEMONADE_SERVICE_HOST", "10.0.0.1"),
        ]);
        let notes = environment.options().unwrap().notes;
        assert_eq!(
            notes,
            ["LEMONADE_WROKERS is no setting; did you mean LEMONADE_WORKERS?"]
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
    fn a_line_that_cannot_be_read_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".env");
        std::fs::write(&path, "DB_USER=fleet\nDB_PASSWORD=se cret\n").unwrap();
        let error = Environment::read(&path).unwrap_err().to_string();
        assert!(error.contains("after that of DB_USER"), "{error}");
        assert!(!error.contains("cret"), "{error}");
    }
}
