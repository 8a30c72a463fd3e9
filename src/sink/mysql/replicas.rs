//! How far replicas of the database are behind it.

use std::fmt;
use std::time::Duration;

use futures_util::future::join_all;
use mysql_async::{Row, Value};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::fault::Fault;

use super::errors::Failure;
use super::options::{Endpoint, options};
use super::session::Session;

/// How long a replica may take to answer, with its login. A healthy one takes milliseconds.
const ASK_WAIT: Duration = Duration::from_secs(5);

/// The column with the delay in seconds: its name in MySQL since 8.0.22, and in MariaDB.
const BEHIND: [&str; 2] = ["Seconds_Behind_Source", "Seconds_Behind_Master"];

const NO_REPLICA: &str = "name replicas of the database in REPLICA_URL, or unset it";
const NO_DELAY: &str = "use a replica of MySQL 8.0.22 or later, or of MariaDB";

/// How far a replica is behind its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lag {
    /// By this time, in whole seconds.
    Behind(Duration),
    /// It does not apply what its source does: its replication is stopped, or has no connection.
    Stopped,
}

impl Lag {
    /// In seconds; infinite if it is stopped.
    #[must_use]
    pub fn seconds(self) -> f64 {
        match self {
            Self::Behind(time) => time.as_secs_f64(),
            Self::Stopped => f64::INFINITY,
        }
    }
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Behind(time) => write!(f, "{} s behind", time.as_secs()),
            Self::Stopped => f.write_str("its replication is stopped"),
        }
    }
}

/// The replicas of a URL.
pub struct Replicas(Vec<Replica>);

struct Replica {
    endpoint: Endpoint,
    /// `None` before the first question, and after a failed one.
    session: Mutex<Option<Session>>,
}

impl fmt::Debug for Replicas {
    /// Does not show the options, which hold the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicas").finish_non_exhaustive()
    }
}

impl Replicas {
    /// The replicas that a database URL names. Does not connect.
    ///
    /// # Errors
    /// Fatal if it is not a database URL.
    pub fn new(url: &str) -> Result<Self, Fault> {
        let endpoints = options(url);
        let endpoints =
            endpoints.map_err(|failure| failure.into_fault("reading the URL of the replicas"))?;
        let replica = |endpoint| Replica {
            endpoint,
            session: Mutex::default(),
        };
        Ok(Self(endpoints.into_iter().map(replica).collect()))
    }

    /// Asks all replicas at once: for each its `HOST:PORT`, and how far it is behind. Takes at most
    /// 5 s.
    pub async fn lags(&self) -> Vec<(&str, Result<Lag, Fault>)> {
        join_all(self.0.iter().map(Replica::lag)).await
    }
}

impl Replica {
    async fn lag(&self) -> (&str, Result<Lag, Fault>) {
        let mut session = self.session.lock().await;
        let asked = timeout(ASK_WAIT, self.ask(&mut session)).await;
        let lag = asked.unwrap_or(Err(Failure::Timeout(ASK_WAIT)));
        if lag.is_err()
            && let Some(session) = session.take()
        {
            session.abandon();
        }
        let doing = "asking a replica how far it is behind";
        let lag = lag.map_err(|failure| failure.into_fault(doing));
        (&self.endpoint.name, lag)
    }

    async fn ask(&self, kept: &mut Option<Session>) -> Result<Lag, Failure> {
        let session = match kept {
            Some(session) => session,
            None => kept.insert(Session::connect(&self.endpoint, 0).await?),
        };
        let sql = if session.server.mariadb {
            "SHOW ALL SLAVES STATUS"
        } else {
            "SHOW REPLICA STATUS"
        };
        of_channels(&session.rows::<Row>(sql).await?)
    }
}

/// The lag of the channel that is furthest behind.
fn of_channels(channels: &[Row]) -> Result<Lag, Failure> {
    let found = |next_step, problem: &str| Failure::Found {
        next_step,
        problem: problem.to_owned(),
    };
    let mut behind = Duration::ZERO;
    if channels.is_empty() {
        return Err(found(NO_REPLICA, "it is not a replica"));
    }
    for channel in channels {
        let value = BEHIND
            .iter()
            .find_map(|name| channel.get_opt::<Value, _>(*name));
        match value {
            Some(Ok(Value::NULL)) => return Ok(Lag::Stopped),
            Some(Ok(value)) => {
                let seconds = mysql_async::from_value_opt::<u64>(value);
                let seconds = seconds.map_err(|_| found(NO_DELAY, "its delay is not a number"))?;
                behind = behind.max(Duration::from_secs(seconds));
            }
            _ => return Err(found(NO_DELAY, "it does not report its delay")),
        }
    }
    Ok(Lag::Behind(behind))
}
