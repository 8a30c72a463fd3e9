//! The servers of a database URL: connects to the one that takes writes, and notices when a
//! connection was lost without a message.
//!
//! With one server, a login is all: a server that is read only answers statements with an error,
//! which is retried. With several, they are asked in the order of the URL, first the one that took
//! writes before, and a server that does not answer delays the next one for a moment only.

use std::collections::BTreeMap;
use std::fmt;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use mysql_async::Row;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::finding::Finding;
use crate::reread::{Login, Refused, Reread};

use super::errors::{Class, Failure};
use super::options::{Endpoint, options};
use super::session::{CONNECT_WAIT, Pulse, ServerThread, Session};
use super::standing::{Standing, standing};

/// How long a server may take before the next one is asked as well. A login over a slow network
/// takes less. A longer wait adds to every failover from a host that has lost its power.
const STAGGER: Duration = Duration::from_millis(500);

/// Pause before a server that does not take writes is asked again, while another one has not
/// answered yet.
const AGAIN: Duration = Duration::from_millis(500);

/// How long other servers may take to answer once one is found that takes writes but may lag.
const SPARE_WAIT: Duration = Duration::from_secs(1);

/// A statement without an answer for this long is checked. Most take milliseconds; a check costs a
/// login.
const SILENCE: Duration = Duration::from_secs(4);

/// How often the wait for an answer is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// A statement that its server does not run after this long was lost, or its answer was. A shorter
/// time would give up a statement of 1 MiB that is still on its way over a slow network.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// The servers of one URL.
pub(super) struct Hosts {
    /// The servers in the order of the URL; at least one.
    login: Login<Vec<Endpoint>>,
    /// The place of the server that took writes at the last login.
    preferred: AtomicUsize,
}

impl fmt::Debug for Hosts {
    /// Does not show the options, which hold the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosts").finish_non_exhaustive()
    }
}

impl Hosts {
    pub(super) fn new(url: &str, reread: Option<Reread>) -> Result<Self, Failure> {
        Ok(Self {
            login: Login::new(url, options(url)?, reread),
            preferred: AtomicUsize::new(0),
        })
    }

    /// Whether new sessions would be on the same server as this one.
    pub(super) fn prefers(&self, session: &Session) -> bool {
        session.place == self.preferred.load(Relaxed)
    }

    /// A session on the server that takes writes. If a server refuses the login, the URL is read
    /// again from its file, if there is one.
    ///
    /// # Errors
    /// Once each server has answered that it does not take writes, or has failed, or after 10 s.
    /// The class is that of the server that took writes before, unless that one is fatal and
    /// another is not. A login that worked before, and is refused, is fatal only after 30 s.
    pub(super) async fn connect(&self) -> Result<Session, Failure> {
        loop {
            let endpoints = self.login.meaning();
            let connected = match endpoints.as_slice() {
                [only] => Box::pin(Session::connect(only, 0)).await,
                _ => Box::pin(self.find(&endpoints)).await,
            };
            let failure = match connected {
                Ok(session) => {
                    self.login.accepted();
                    return Ok(session);
                }
                Err(failure) if failure.is_refused_login() => failure,
                Err(failure) => return Err(failure),
            };
            match self.login.refused(&endpoints, |url| options(url).ok()) {
                Refused::Again => {
                    tracing::info!("the database refused the login; the URL in its file is new");
                }
                Refused::Wait => return Err(Failure::Rotating(Box::new(failure))),
                Refused::Stop => return Err(failure),
            }
        }
    }

    /// What `doctor` reports of the servers. Nothing if there is only one, which it checks anyway.
    pub(super) async fn inspect(&self) -> Vec<Finding> {
        let endpoints = self.login.meaning();
        if endpoints.len() == 1 {
            return Vec::new();
        }
        let asked = endpoints
            .iter()
            .enumerate()
            .map(|(place, endpoint)| async move {
                let asked = ask(endpoint, place, Duration::ZERO);
                let (_, answer) = timeout(CONNECT_WAIT, asked)
                    .await
                    .unwrap_or((place, Err(Failure::Timeout(CONNECT_WAIT))));
                let name = &endpoint.name;
                match answer {
                    Ok((session, standing)) => {
                        session.close();
                        Finding::ok(format!("{name}: {standing}"))
                    }
                    Err(failure) => Finding::warn(
                        format!("{name}: {failure}"),
                        "start it, correct the login there, or remove it from the database URL",
                    ),
                }
            });
        join_all(asked).await
    }

    async fn find(&self, endpoints: &[Endpoint]) -> Result<Session, Failure> {
        let mut deadline = Instant::now() + CONNECT_WAIT;
        let first = self.preferred.load(Relaxed).min(endpoints.len() - 1);
        let others = (0..endpoints.len()).filter(|place| *place != first);
        let mut others = others.peekable();
        let asking = |place: usize, delay| ask(&endpoints[place], place, delay);
        let mut asked: FuturesUnordered<_> = iter::once(asking(first, Duration::ZERO)).collect();
        let mut failures = BTreeMap::new();
        let mut spare: Option<Session> = None;
        loop {
            tokio::select! {
                Some((place, answer)) = asked.next() => {
                    match answer {
                        Ok((session, Standing::Writable)) => {
                            return Ok(self.prefer(endpoints, session));
                        }
                        Ok((session, Standing::Lagging(why))) => {
                            deadline = deadline.min(Instant::now() + SPARE_WAIT);
                            failures.insert(place, Failure::NotWritable(why));
                            if let Some(other) = spare.replace(session) {
                                other.close();
                            }
                        }
                        Ok((session, Standing::Refuses(why))) => {
                            failures.insert(place, Failure::NotWritable(why));
                            session.close();
                        }
                        Err(failure) => {
                            failures.insert(place, failure);
                        }
                    }
                    if failures.len() == endpoints.len() {
                        break;
                    }
                    asked.push(match others.next() {
                        Some(next) => asking(next, Duration::ZERO),
                        None => asking(place, AGAIN),
                    });
                }
                () = sleep(STAGGER), if others.peek().is_some() => {
                    asked.extend(others.next().map(|next| asking(next, Duration::ZERO)));
                }
                () = sleep_until(deadline) => break,
            }
        }
        match spare {
            Some(session) => Ok(self.prefer(endpoints, session)),
            None => Err(none_of(endpoints, first, failures)),
        }
    }

    fn prefer(&self, endpoints: &[Endpoint], session: Session) -> Session {
        let before = self.preferred.swap(session.place, Relaxed);
        if before != session.place {
            let now = endpoints[session.place].name.as_str();
            tracing::debug!(now, "another database server takes the writes");
        }
        session
    }

    /// Waits until a statement gets no answer because its connection was lost without a message:
    /// its host lost its power, its server hangs, or a balancer has forgotten the connection.
    /// Returns why. Never returns while the server runs the statement.
    pub(super) async fn lost(&self, session: Watched) -> Failure {
        loop {
            sleep(MEASURE_EVERY).await;
            let since = session.pulse.waits_since();
            let Some(since) = since.filter(|since| since.elapsed() >= SILENCE) else {
                continue;
            };
            let why = self.check(&session, since.elapsed()).await;
            // The answer may have come meanwhile.
            let still_waits = session.pulse.waits_since() == Some(since);
            if let Some(why) = why.filter(|_| still_waits) {
                let seconds = since.elapsed().as_secs();
                return Failure::Lost(format!("no answer for {seconds} s, and {why}"));
            }
            sleep(SILENCE).await;
        }
    }

    /// Why a session that has waited this long is lost. `None` if it may be waiting for a statement
    /// that runs.
    async fn check(&self, session: &Watched, waits: Duration) -> Option<String> {
        let mut other = match self.connect().await {
            Ok(other) => other,
            // A server that refuses a login is alive.
            Err(failure) if failure.code().is_some() => return None,
            Err(failure) => return Some(format!("a new connection fails: {failure}")),
        };
        let why = if other.place != session.place {
            Some("another server takes the writes".to_owned())
        } else if waits >= LOST_AFTER && is_idle(&mut other, session.thread.as_ref()).await {
            Some("its server does not run the statement".to_owned())
        } else {
            None
        };
        other.close();
        why
    }
}

/// Connects to a server after a pause, and asks it whether it takes writes.
async fn ask(
    endpoint: &Endpoint,
    place: usize,
    delay: Duration,
) -> (usize, Result<(Session, Standing), Failure>) {
    sleep(delay).await;
    let asking = async {
        let mut session = Session::connect(endpoint, place).await?;
        match standing(&mut session).await {
            Ok(standing) => Ok((session, standing)),
            Err(failure) => {
                session.abandon();
                Err(failure)
            }
        }
    };
    (place, asking.await)
}

/// The failure of all servers, of which `first` was asked first.
fn none_of(
    endpoints: &[Endpoint],
    first: usize,
    mut failures: BTreeMap<usize, Failure>,
) -> Failure {
    for place in 0..endpoints.len() {
        let silent = || Failure::Timeout(CONNECT_WAIT);
        failures.entry(place).or_insert_with(silent);
    }
    let texts = failures
        .iter()
        .map(|(place, failure)| format!("{}: {failure}", endpoints[*place].name));
    let text = texts.collect::<Vec<_>>().join("; ");
    let may_end = |failure: &Failure| !matches!(failure.class(), Class::Fatal(_));
    let decides = if failures.get(&first).is_some_and(may_end) {
        first
    } else {
        let other = failures.iter().find(|(_, failure)| may_end(failure));
        other.map_or(first, |(place, _)| *place)
    };
    let is_refused = failures.values().any(Failure::is_refused_login);
    let decides = failures.remove(&decides).expect("each server has one");
    Failure::NoHost {
        text,
        decides: Box::new(decides),
        is_refused,
    }
}

/// A session, as [`Hosts::lost`] watches it.
pub(super) struct Watched {
    place: usize,
    thread: Option<ServerThread>,
    pulse: Arc<Pulse>,
}

impl From<&Session> for Watched {
    fn from(session: &Session) -> Self {
        Self {
            place: session.place,
            thread: session.thread.clone(),
            pulse: session.pulse.clone(),
        }
    }
}

/// Whether the thread is on the server of this session, and has ended or waits for a statement.
async fn is_idle(session: &mut Session, thread: Option<&ServerThread>) -> bool {
    let (Some(thread), Some(own)) = (thread, &session.thread) else {
        return false;
    };
    if thread.server != own.server {
        return false;
    }
    let Ok(rows) = session.rows::<Row>("SHOW PROCESSLIST").await else {
        return false;
    };
    let of_thread = |row: &&Row| {
        let id = row.get_opt::<u64, _>("Id").and_then(Result::ok);
        id == Some(u64::from(thread.id))
    };
    let command = rows
        .iter()
        .find(of_thread)
        .and_then(|row| row.get_opt::<String, _>("Command")?.ok());
    command.is_none_or(|command| command == "Sleep")
}
