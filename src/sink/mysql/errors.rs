//! The classes of the server's errors: a pure function of number and SQL state, never of the
//! message.
//!
//! The numbers are from the error references of MySQL and MariaDB. If the two use a number for
//! different errors, the comment names the one that is meant.

use std::fmt;
use std::time::Duration;

use mysql_async::{DriverError, Error, IoError};

use crate::contained::Panicked;
use crate::fault::{Fault, Origin};
use crate::sink::{NUMBERS_USED_UP, counted};

/// What to do about a failed statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A row with this key exists.
    Duplicate,
    /// The server refuses the values of a row: halve the statement until the row is found.
    Data,
    /// The table refuses rows whatever their values, or has no place for these rows: their files
    /// wait until an operator has changed the table.
    Table(TableFault),
    /// Transient; the connection is usable after a ROLLBACK.
    Retry,
    /// Transient, on a new connection: this one is broken, or its server is no longer the primary.
    Reconnect,
    /// The server does not accept LOAD DATA LOCAL.
    LocalRefused,
    /// Fatal. Holds the next step.
    Fatal(&'static str),
}

/// Why a table refuses rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TableFault {
    /// It has no partition for a value.
    NoPartition,
    /// It is full.
    Full,
    /// It is read-only.
    ReadOnly,
    /// It is damaged, or has to be rebuilt.
    Damaged,
    /// Its tablespace is missing, discarded, or unknown to the engine.
    NoTablespace,
    /// An object that its trigger or view names does not exist, or does not allow the row.
    Dependent,
    /// It is on another server, which does not answer or does not have it.
    Remote,
}

const RIGHTS: &str = "check the user, the password and the rights in the database URL: it needs \
                      SELECT, INSERT, UPDATE and DELETE on its database, and to migrate it CREATE \
                      and ALTER, and CREATE VIEW for a `settled_view`";
const PLUGIN: &str = "give the account caching_sha2_password or mysql_native_password: task_runner \
                      does not support its authentication plugin";
const KEY: &str = "add `require_ssl=true` (and `ca=FILE`) to the database URL, or give the account \
                   mysql_native_password, or add `allow_public_key=true` if no attacker can reach the \
                   network to the database";
const UNTRUSTED: &str = "name the authority of the certificate with `ca=FILE` in the database URL, \
                         and the server by a name that is in its certificate";
const SCHEMA: &str = "run `task_runner migrate`, which checks the tables";
const REFUSED: &str = "check the ledger's tables (ingest_*) for a constraint or trigger that was \
                       added to them: the database refuses a value of the ledger or schema";

/// The error of a login that was ended because the server could ask for the password under its
/// public key: the number that clients use for a login method that fails.
pub(super) const KEY_REFUSED: u16 = 2061;

/// The class of a server error.
pub(super) fn classify(code: u16, state: &str) -> Class {
    match code {
        // Duplicate entry: the two numbers of this error.
        1062 | 1586 => Class::Duplicate,
        // Bad values, some with a state that does not show it: out of range and truncated (1264,
        // 1265, 1292, 1366, 1406), NULL (1048), larger than max_allowed_packet (1153, 1301), check
        // (3819, and 4025 in MariaDB), JSON (3140, 3141, 3143), view (1369), row too long for its
        // page (1118), character set (1300, 3854), foreign key (1216, 1452), more than one row for a
        // single value in a trigger (1172, 1242).
        1048 | 1118 | 1153 | 1172 | 1216 | 1242 | 1264 | 1265 | 1292 | 1300 | 1301 | 1366
        | 1369 | 1406 | 1452 | 3140 | 3141 | 3143 | 3819 | 3854 | 4025 => Class::Data,
        // Lock wait and deadlock, row changed since it was read (1020, MariaDB), statement killed
        // or too slow (1317, 3024, 1969 of MariaDB), too many transactions (1637), certification
        // (3101); disk or memory full, or an I/O error of the server.
        1020 | 1205 | 1213 | 1317 | 1637 | 1969 | 3024 | 3101 | 1021 | 1030 | 1037 | 1038
        | 1041 | 1135 | 1180 => Class::Retry,
        // The connection or the server ends, is full, or is not the primary: shutdown (1053),
        // network (1152, 1158 to 1161, 1184, 1927, 2006, 2013, 4031), killed (3169), too many
        // connections (1040, 1129, 1203, 1226), read only (1290, 1792, 1836, 3100), no quorum
        // (1047).
        1040
        | 1047
        | 1053
        | 1129
        | 1152
        | 1158..=1161
        | 1184
        | 1203
        | 1226
        | 1290
        | 1792
        | 1836
        | 1927
        | 2006
        | 2013
        | 3100
        | 3169
        | 4031 => Class::Reconnect,
        // No partition, or not one of those that a view selects.
        1526 | 1748 => Class::Table(TableFault::NoPartition),
        1114 => Class::Table(TableFault::Full),
        // The table, or its schema in MySQL (3989).
        1036 | 3989 => Class::Table(TableFault::ReadOnly),
        // Incorrect information in its file (1033), index (1034, 1712, 1817), old index (1035),
        // crashed (1194, 1195), to be rebuilt (1707), corrupt (1877).
        1033 | 1034 | 1035 | 1194 | 1195 | 1707 | 1712 | 1817 | 1877 => {
            Class::Table(TableFault::Damaged)
        }
        // Missing (1812), discarded (1814), not known to the storage engine (1932).
        1812 | 1814 | 1932 => Class::Table(TableFault::NoTablespace),
        // A view that takes no rows (1288, 1471) or names a missing object (1356); a function or
        // procedure (1305) or a definer (1449) that does not exist; a trigger that commits (1422)
        // or changes its own table (1442).
        1288 | 1305 | 1356 | 1422 | 1442 | 1449 | 1471 => Class::Table(TableFault::Dependent),
        // FEDERATED and the like (1429 to 1431), and an engine that takes no rows (1031).
        1031 | 1429..=1431 => Class::Table(TableFault::Remote),
        1148 | 3948 | 4166 => Class::LocalRefused,
        1044 | 1045 | 1142 | 1143 | 1227 | 1370 | 1698 | 3118 | 3159 => Class::Fatal(RIGHTS),
        1820 | 1862 => Class::Fatal("set a new database password: the old one has expired"),
        1251 | 1524 => Class::Fatal(PLUGIN),
        KEY_REFUSED => Class::Fatal(KEY),
        1049 | 1046 => Class::Fatal(
            "create the database first (CREATE DATABASE ...) and name it \
                                     in the database URL",
        ),
        1054 | 1146 | 1136 => Class::Fatal(SCHEMA),
        1364 | 3105 => Class::Fatal(
            "give the column that the dataset does not fill a default, or add it to the dataset",
        ),
        1071 | 1074 => Class::Fatal("lower the `max_chars` of the text column that is too long"),
        1665 => Class::Fatal("set binlog_format=ROW: the binary log must hold rows"),
        1115 | 1273 => Class::Fatal("use MySQL 8.0.17 or MariaDB 10.2, or later"),
        // No number of AUTO_INCREMENT is left, in MySQL and in MariaDB. Only the ledger uses them.
        167 | 1467 => Class::Fatal(NUMBERS_USED_UP),
        _ => by_state(state),
    }
}

/// The class of any other error, by the class of its SQL state.
fn by_state(state: &str) -> Class {
    match state.get(..2) {
        // Data exceptions, constraints, and SIGNAL in a trigger that the user created.
        Some("22" | "23" | "44" | "45") => Class::Data,
        Some("28") => Class::Fatal(RIGHTS),
        Some("42") => Class::Fatal(
            "check the release notes for the supported versions: the database does not \
             know the statement",
        ),
        Some("08") => Class::Reconnect,
        // An unknown error is retried, logged and counted, and no work is lost. If it were fatal,
        // the service would end because of errors that may be transient.
        _ => Class::Retry,
    }
}

/// Why a statement, or the wait for it, failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{}", cause(.0))]
    Driver(#[from] Error),
    /// The driver panicked, mostly because of the server's bytes. The state of the connection is
    /// unknown.
    #[error("the driver cannot handle what the server sent: {0}")]
    Panicked(#[from] Panicked),
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The server refuses a statement with rows because of an object that a trigger of the table
    /// names.
    #[error("{0}")]
    Dependent(Box<Failure>),
    /// The connection was lost without a message from the server or the system.
    #[error("{0}")]
    Lost(String),
    /// The server does not take writes now.
    #[error("{0}")]
    NotWritable(String),
    /// No server of the URL takes writes.
    #[error("{text}")]
    NoHost {
        /// The failures of all servers.
        text: String,
        /// The failure that decides the class.
        decides: Box<Failure>,
        /// Whether a server refuses the login.
        is_refused: bool,
    },
    /// A server refuses the login, which is tried again after a pause.
    #[error("{0}")]
    Refused(String),
    /// An error that was classified before.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The engine found a problem in the URL, or in the values that the server returned.
    #[error("{problem}")]
    Found {
        next_step: &'static str,
        problem: String,
    },
}

/// The error of the server or the system, without the text that the driver adds.
fn cause(error: &Error) -> &dyn fmt::Display {
    match error {
        Error::Server(error) => error,
        Error::Io(IoError::Io(error)) => error,
        Error::Io(IoError::Tls(error)) => error,
        Error::Driver(error) => error,
        other => other,
    }
}

impl Failure {
    /// This failure of connecting, classified: the TLS library reports a certificate that it does
    /// not trust as an I/O error.
    pub(super) fn of_connecting(self) -> Self {
        let is_untrusted = match &self {
            Self::Driver(Error::Io(IoError::Tls(_))) => true,
            Self::Driver(Error::Io(IoError::Io(error))) => {
                matches!(error.get_ref(), Some(inner) if inner.is::<rustls::Error>())
            }
            _ => false,
        };
        if !is_untrusted {
            return self;
        }
        Self::Found {
            next_step: UNTRUSTED,
            problem: format!("the server's certificate is not trusted: {self}"),
        }
    }

    /// Whether the server refused to add a column or a key that exists (1060, 1061), or to drop a
    /// key that does not exist (1091): the statement ran in a migration that did not end.
    pub(super) fn is_done_already(&self) -> bool {
        matches!(self.code(), Some(1060 | 1061 | 1091))
    }

    /// Whether the server refuses the login: the account is unknown or locked, or the password is
    /// wrong or has expired. To an unknown account, MySQL offers a plugin by chance.
    pub(super) fn is_refused_login(&self) -> bool {
        match self {
            Self::NoHost { is_refused, .. } => *is_refused,
            Self::Driver(Error::Driver(DriverError::UnknownAuthPlugin { .. })) => true,
            _ => matches!(self.code(), Some(1045 | 1698 | 1820 | 1862 | 3118)),
        }
    }

    /// Whether this failure of connecting is the answer of a server, which may be running
    /// statements: an error with a number, or a login that the engine cannot make.
    pub(super) fn is_answer(&self) -> bool {
        match self {
            Self::NotWritable(_) | Self::Refused(_) => true,
            _ => self.code().is_some() || matches!(self.class(), Class::Fatal(_)),
        }
    }

    /// The number of the server's error. `None` if the error is not from the server.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Driver(Error::Server(error)) => Some(error.code),
            Self::Dependent(failure)
            | Self::NoHost {
                decides: failure, ..
            } => failure.code(),
            _ => None,
        }
    }

    pub(super) fn class(&self) -> Class {
        match self {
            Self::Driver(Error::Server(error)) => classify(error.code, &error.state),
            Self::Found { next_step, .. } => Class::Fatal(next_step),
            Self::Dependent(_) => Class::Table(TableFault::Dependent),
            Self::NoHost { decides, .. } => decides.class(),
            Self::Driver(Error::Driver(DriverError::NoClientSslFlagFromServer)) => Class::Fatal(
                "give the server a certificate, since it offers no TLS, or remove `require_ssl` \
                 and `ca` from the database URL",
            ),
            Self::Driver(Error::Driver(
                DriverError::UnknownAuthPlugin { .. } | DriverError::MysqlOldPasswordDisabled,
            )) => Class::Fatal(PLUGIN),
            Self::Driver(Error::Driver(DriverError::CleartextPluginDisabled)) => Class::Fatal(
                "add `enable_cleartext_plugin=true` and `require_ssl=true` to the database URL: \
                 the account sends its password unencrypted",
            ),
            Self::Driver(Error::Driver(
                DriverError::FromRow { .. } | DriverError::FromValue { .. },
            )) => Class::Fatal(SCHEMA),
            // Usually a lost connection. After a failed migration, the session may hold its lock.
            // If a server violates the protocol, its answers may belong to earlier statements.
            Self::Driver(_)
            | Self::Panicked(_)
            | Self::Timeout(_)
            | Self::Lost(_)
            | Self::NotWritable(_)
            | Self::Refused(_)
            | Self::Fault(_) => Class::Reconnect,
        }
    }

    /// The fault for the caller. `doing` is the operation that failed.
    pub(super) fn into_fault(self, doing: &str) -> Fault {
        if let Self::Fault(fault) = self {
            return counted(fault);
        }
        counted(match self.class() {
            // Of a table of the ledger, or one that a command reads: a commit handles the others.
            Class::Table(_) | Class::Retry | Class::Reconnect | Class::LocalRefused => {
                Fault::transient(Origin::Sink, doing, self)
            }
            Class::Fatal(next_step) => {
                Fault::fatal(Origin::Sink, doing, self).with_next_step(next_step)
            }
            // A commit handles such rows itself. Any other statement would fail again.
            Class::Duplicate | Class::Data => {
                Fault::fatal(Origin::Sink, doing, self).with_next_step(REFUSED)
            }
        })
    }
}

/// Failures for tests.
#[cfg(test)]
impl Failure {
    /// The answer of a server with this code.
    pub(super) fn of_server(code: u16) -> Self {
        Self::Driver(Error::Server(mysql_async::ServerError {
            code,
            message: String::new(),
            state: "HY000".to_owned(),
        }))
    }

    /// No server listens at the address.
    pub(super) fn refused_connection() -> Self {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        Self::Driver(refused.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mysql_async::ServerError;

    #[test]
    fn errors_are_classified_by_number_and_state() {
        type Case<'a> = (&'a [u16], &'a str, fn(Class) -> bool);
        let fatal = |class| matches!(class, Class::Fatal(_));
        let cases: &[Case<'_>] = &[
            (&[1062], "23000", |class| class == Class::Duplicate),
            (
                &[
                    1366, 1406, 1292, 1264, 1048, 3140, 4025, 1153, 3819, 1172, 1242,
                ],
                "HY000",
                |class| class == Class::Data,
            ),
            (&[1644], "45000", |class| class == Class::Data),
            (&[1690], "22003", |class| class == Class::Data),
            (
                &[1205, 1213, 1317, 3024, 1969, 1021, 1030, 1180, 3101, 1020],
                "HY000",
                |class| class == Class::Retry,
            ),
            (
                &[
                    1040, 1203, 1226, 1129, 1290, 1792, 1836, 3100, 1053, 1927, 2006, 2013, 1047,
                ],
                "HY000",
                |class| class == Class::Reconnect,
            ),
            (&[9999], "08S01", |class| class == Class::Reconnect),
            (&[9999], "HY000", |class| class == Class::Retry),
            (&[9999], "", |class| class == Class::Retry),
            (&[1148, 3948], "42000", |class| class == Class::LocalRefused),
            (
                &[
                    1114, 1526, 1036, 1194, 1195, 1034, 1814, 1812, 1449, 1356, 1305,
                ],
                "42000",
                |class| matches!(class, Class::Table(_)),
            ),
        ];
        for (codes, state, expected) in cases {
            for code in *codes {
                let class = classify(*code, state);
                assert!(expected(class), "{code} {state}: {class:?}");
            }
        }
        for code in [1045, 1044, 1142, 1049, 1146, 1054, 1064, 1665, 1364] {
            assert!(fatal(classify(code, "42000")), "{code}");
        }
    }

    #[test]
    fn a_fault_says_what_to_do() {
        let server = |code, state: &str| {
            Failure::Driver(Error::Server(ServerError {
                code,
                message: String::new(),
                state: state.to_owned(),
            }))
        };
        let denied = server(1045, "28000").into_fault("connecting");
        assert!(!denied.is_transient() && denied.next_step.as_deref() == Some(RIGHTS));
        assert!(
            server(1213, "40001")
                .into_fault("committing")
                .is_transient()
        );
        assert!(
            Failure::Timeout(Duration::from_secs(1))
                .into_fault("committing")
                .is_transient()
        );
        assert!(
            !server(1406, "22001")
                .into_fault("registering")
                .is_transient()
        );
    }
}
