//! The servers of a database URL: connects to the one that takes writes, and notices when a
//! connection was lost without a message.
//!
//! With one server, a login is all: a server that is read only answers statements with an error,
//! which is retried. With several, `search` asks them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::join_all;
use mysql_async::{Error, Row};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::finding::Finding;
use crate::reread::{Login, Refused, Reread};

use super::errors::{Class, Failure};
use super::options::{Endpoint, leads_to_same, options};
use super::search::{Answer, ask, find};
use super::session::{CONNECT_WAIT, Pulse, ServerThread, Session};
use super::standing::Standing;

/// A statement without an answer for this long is checked. Most take milliseconds; a check costs a
/// login.
const SILENCE: Duration = Duration::from_secs(4);

/// How often the wait for an answer is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// A statement that its server does not run after this long was lost, or its answer was. A shorter
/// time would give up a statement of 1 MiB that is still on its way over a slow network.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// How long the server of a statement may take for the login that checks it. A healthy one takes
/// milliseconds. A longer wait adds twice to the time after which a server that hangs is given up.
const CHECK_WAIT: Duration = Duration::from_secs(4);

/// The servers of one URL.
pub(super) struct Hosts {
    /// The servers in the order of the URL; at least one.
    login: Login<Vec<Endpoint>>,
    /// The place of the server that took writes at the last login.
    preferred: AtomicUsize,
    /// Locked during a check, so that there is one at a time: each costs a login.
    checked: Mutex<Checked>,
}

/// What earlier checks of statements without an answer have found.
#[derive(Default)]
struct Checked {
    /// The last server whose statements were lost, and why.
    lost: Option<(Moment, String)>,
    /// The server that did not answer the last check.
    timed_out: Option<Moment>,
}

/// A check of a server. What it finds holds for all statements that waited for that server then.
#[derive(Debug, Clone, Copy)]
struct Moment {
    place: usize,
    at: Instant,
}

impl Moment {
    fn holds_for(&self, place: usize, waits_since: std::time::Instant) -> bool {
        self.place == place && self.at.into_std() >= waits_since
    }
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
            checked: Mutex::default(),
        })
    }

    /// Whether new sessions would be on the same server as this one.
    pub(super) fn prefers(&self, session: &Session) -> bool {
        session.place == self.preferred.load(Relaxed)
    }

    /// A session on the server that takes writes. If a server refuses the login, the URL is read
    /// again from its file, if there is one. For 2 s after that, the refusal is the answer, unless
    /// the file changes.
    ///
    /// # Errors
    /// Of one server: its error, or after 10 s. Of several: once each has answered that it takes no
    /// writes, or has failed, and after 10 s at the latest. The class is that of a refused login if
    /// all servers that answered refuse it. Else it is that of the server that took writes before,
    /// unless that one is fatal and another is not. A login from a file that worked before, and is
    /// refused, is fatal only after 30 s.
    pub(super) async fn connect(&self) -> Result<Session, Failure> {
        let (session, _) = self.log_in(None).await?;
        Ok(session)
    }

    /// As [`connect`](Self::connect), with the standing of the server. Asks only the server at
    /// `place` if one is given, for at most 4 s.
    async fn log_in(&self, place: Option<usize>) -> Answer {
        loop {
            if let Some(text) = self.login.pause() {
                return Err(Failure::Refused(text));
            }
            let endpoints = self.login.meaning();
            let answer = match place {
                Some(place) => Box::pin(check_in(&endpoints, place)).await,
                None if endpoints.len() == 1 => Box::pin(sole(&endpoints[0])).await,
                None => Box::pin(self.find(&endpoints)).await,
            };
            let failure = match answer {
                Ok(answer) => {
                    self.login.accepted();
                    return Ok(answer);
                }
                Err(failure) if failure.is_refused_login() => failure,
                Err(failure) => {
                    self.login.failed();
                    return Err(failure);
                }
            };
            let text = format!("{failure}; waiting for a new password in the file of the URL");
            let parse = |url: &str| options(url).ok();
            let is_same = |one: &Vec<_>, other: &Vec<_>| leads_to_same(one, other);
            match self.login.refused(&endpoints, &text, parse, is_same) {
                Refused::Again => {
                    tracing::info!("the database refused the login; the URL in its file is new");
                }
                Refused::Wait => return Err(Failure::Refused(text)),
                Refused::Stop => {
                    if !matches!(failure.class(), Class::Fatal(_)) {
                        self.login.rest(failure.to_string());
                    }
                    return Err(failure);
                }
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
                let answer = timeout(CONNECT_WAIT, ask(endpoint, place)).await;
                let answer = answer.unwrap_or(Err(Failure::Timeout(CONNECT_WAIT)));
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

    /// Finds a server, which is the preferred one from now on.
    async fn find(&self, endpoints: &[Endpoint]) -> Answer {
        let before = self.preferred.load(Relaxed);
        let (session, standing) = find(endpoints, before).await?;
        if self.preferred.swap(session.place, Relaxed) != session.place {
            let now = endpoints[session.place].name.as_str();
            tracing::debug!(now, "another database server takes the writes");
        }
        Ok((session, standing))
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
            let Ok(mut checked) = self.checked.try_lock() else {
                continue;
            };
            let why = match &checked.lost {
                Some((found, why)) if found.holds_for(session.place, since) => Some(why.clone()),
                _ => self.check(&session, since, &mut checked).await,
            };
            let pause = checked.timed_out.map_or(SILENCE, |_| Duration::ZERO);
            drop(checked);
            // The answer may have come meanwhile.
            let still_waits = session.pulse.waits_since() == Some(since);
            if let Some(why) = why.filter(|_| still_waits) {
                let seconds = since.elapsed().as_secs();
                return Failure::Lost(format!("no answer for {seconds} s, and {why}"));
            }
            sleep(pause).await;
        }
    }

    /// Why the statement that a session waits for is lost. `None` if its server may be running it.
    async fn check(
        &self,
        session: &Watched,
        since: std::time::Instant,
        checked: &mut Checked,
    ) -> Option<String> {
        let place = session.place;
        let this = Moment {
            place,
            at: Instant::now(),
        };
        let before = checked.timed_out.take();
        let has_timed_out = before.is_some_and(|before| before.holds_for(place, since));
        let failure = match self.log_in(Some(place)).await {
            Ok((own, Standing::Refuses(why))) => {
                own.close();
                Failure::NotWritable(why)
            }
            Ok((own, _)) if since.elapsed() < LOST_AFTER => {
                own.close();
                return None;
            }
            Ok((own, _)) => {
                let is_idle = is_idle(own, session.thread.as_deref()).await;
                return is_idle.then(|| "its server does not run the statement".to_owned());
            }
            Err(failure) => failure,
        };
        if matches!(failure, Failure::Timeout(_)) {
            checked.timed_out = Some(this);
        }
        let why = match sign(&failure, has_timed_out) {
            Sign::Runs => return None,
            Sign::LostIfElsewhere if !self.is_elsewhere(place).await => return None,
            Sign::LostIfElsewhere => "another server takes the writes".to_owned(),
            Sign::Lost => format!("a new connection fails: {failure}"),
        };
        checked.lost = Some((this, why.clone()));
        Some(why)
    }

    /// Whether another server than the one at this place takes the writes.
    async fn is_elsewhere(&self, place: usize) -> bool {
        let Ok(other) = self.connect().await else {
            return false;
        };
        let is_elsewhere = other.place != place;
        other.close();
        is_elsewhere
    }
}

/// The session of the only server of a URL. Whether it takes writes is not asked.
async fn sole(endpoint: &Endpoint) -> Answer {
    match Session::connect(endpoint, 0).await {
        Ok(session) => Ok((session, Standing::Writable)),
        // The system's error does not name the host.
        Err(failure @ (Failure::Driver(Error::Io(_)) | Failure::Timeout(_))) => {
            Err(Failure::NoHost {
                text: format!("{}: {failure}", endpoint.name),
                decides: Box::new(failure),
                is_refused: false,
            })
        }
        Err(failure) => Err(failure),
    }
}

/// Asks the server at a place, for at most 4 s.
async fn check_in(endpoints: &[Endpoint], place: usize) -> Answer {
    let asking = async {
        match endpoints {
            [only] => sole(only).await,
            _ => ask(&endpoints[place], place).await,
        }
    };
    let answer = timeout(CHECK_WAIT, asking).await;
    answer.unwrap_or(Err(Failure::Timeout(CHECK_WAIT)))
}

/// What a login that fails shows of a statement that waits for the same server.
#[derive(Debug, PartialEq, Eq)]
enum Sign {
    /// The server may be running it.
    Runs,
    /// It is lost if another server takes the writes: its commit may wait for ever.
    LostIfElsewhere,
    Lost,
}

/// `has_timed_out` is whether the login before has timed out as well, during the same statement.
fn sign(failure: &Failure, has_timed_out: bool) -> Sign {
    match failure {
        // A busy server may be slow once.
        Failure::Timeout(_) if !has_timed_out => Sign::Runs,
        Failure::NotWritable(_) => Sign::LostIfElsewhere,
        failure if failure.is_answer() => Sign::Runs,
        _ => Sign::Lost,
    }
}

/// A session, as [`Hosts::lost`] watches it.
pub(super) struct Watched {
    place: usize,
    thread: Option<Arc<ServerThread>>,
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

/// Whether the thread is on the server of this session, and has ended or waits for a statement. Ends
/// the session.
async fn is_idle(mut session: Session, thread: Option<&ServerThread>) -> bool {
    let server = |thread: &ServerThread| thread.server.clone();
    let own = session.thread.as_deref().map(server);
    let Some(thread) = thread.filter(|thread| own.as_ref() == Some(&thread.server)) else {
        session.close();
        return false;
    };
    let listing = session.rows::<Row>("SHOW PROCESSLIST");
    let Ok(Ok(rows)) = timeout(CONNECT_WAIT, listing).await else {
        session.abandon();
        return false;
    };
    session.close();
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

#[cfg(test)]
mod tests {
    use super::*;
    use mysql_async::DriverError;

    #[test]
    fn a_statement_is_lost_only_if_its_server_does_not_answer() {
        let silent = || Failure::Timeout(CHECK_WAIT);
        let untrusted = Failure::Found {
            next_step: "",
            problem: String::new(),
        };
        let plugin = DriverError::UnknownAuthPlugin {
            name: String::new(),
        };
        for (failure, has_timed_out, expected) in [
            (Failure::refused_connection(), false, Sign::Lost),
            (
                Failure::Driver(DriverError::ConnectionClosed.into()),
                false,
                Sign::Lost,
            ),
            (silent(), false, Sign::Runs),
            (silent(), true, Sign::Lost),
            (Failure::of_server(1040), true, Sign::Runs),
            (Failure::of_server(1045), true, Sign::Runs),
            (Failure::Refused("no".to_owned()), true, Sign::Runs),
            (untrusted, true, Sign::Runs),
            (Failure::Driver(plugin.into()), true, Sign::Runs),
            (
                Failure::NotWritable("it is read only".to_owned()),
                true,
                Sign::LostIfElsewhere,
            ),
        ] {
            let sign = sign(&failure, has_timed_out);
            assert_eq!(sign, expected, "{failure:?} {has_timed_out}");
        }
    }

    #[test]
    fn what_a_check_finds_holds_for_statements_of_its_server_that_waited_then() {
        let earlier = Instant::now().into_std();
        let at = Instant::now() + SILENCE;
        let found = Moment { place: 1, at };
        let later = at.into_std() + SILENCE;
        let cases = [(1, earlier, true), (0, earlier, false), (1, later, false)];
        for (place, since, expected) in cases {
            assert_eq!(found.holds_for(place, since), expected, "{place} {since:?}");
        }
    }
}
