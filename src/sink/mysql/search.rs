//! Finds the server that takes writes, of several of a URL.
//!
//! They are asked in the order of the URL, first the one that took writes before, and a server that
//! does not answer delays the next one for a moment only. Knows nothing of statements that run.

use std::collections::BTreeMap;
use std::iter;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::errors::{Class, Failure};
use super::options::Endpoint;
use super::session::{CONNECT_WAIT, Session};
use super::standing::{Standing, standing};

/// How long a server may take before the next one is asked as well. A login over a slow network
/// takes less. A longer wait adds to every failover from a host that has lost its power.
const STAGGER: Duration = Duration::from_millis(500);

/// Pause before a server that does not take writes is asked again, while another one has not
/// answered yet.
const AGAIN: Duration = Duration::from_millis(500);

/// How long the other servers may take to answer once one takes writes that may lag, or is not the
/// preferred one.
const SPARE_WAIT: Duration = Duration::from_secs(1);

/// The session and the standing of a server.
pub(super) type Answer = Result<(Session, Standing), Failure>;

/// How good a session is for writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Its server may lag.
    Lagging,
    Writable,
    /// Its server took writes before.
    Preferred,
}

/// A session on the server at `first`, which took writes before, if it takes writes. Else one on
/// another server that does.
///
/// # Errors
/// Once each server has answered that it takes no writes, or has failed; after 10 s at the latest.
/// The class is that of a refused login if all servers that answered refuse it. Else it is that of
/// the first server, unless that is fatal and another's is not.
pub(super) async fn find(endpoints: &[Endpoint], first: usize) -> Answer {
    let mut deadline = Instant::now() + CONNECT_WAIT;
    let others = (0..endpoints.len()).filter(|place| *place != first);
    let mut others = others.peekable();
    let over = CancellationToken::new();
    let asking =
        |place: usize, delay| ask_later(endpoints[place].clone(), place, delay, over.clone());
    let mut asked: FuturesUnordered<_> = iter::once(asking(first, Duration::ZERO)).collect();
    let mut failures = BTreeMap::new();
    let mut best: Option<(Rank, Session, Standing)> = None;
    loop {
        tokio::select! {
            Some((place, answer)) = asked.next() => {
                let rank = rank(place == first, &answer);
                let refuses = answer.as_ref().is_err_and(Failure::is_refused_login);
                match answer {
                    Ok((session, standing)) => {
                        if rank < Some(Rank::Writable) {
                            failures.insert(place, Failure::NotWritable(standing.to_string()));
                        }
                        let left = match rank {
                            Some(rank) if best.as_ref().is_none_or(|best| rank > best.0) => {
                                deadline = deadline.min(Instant::now() + SPARE_WAIT);
                                best.replace((rank, session, standing)).map(|best| best.1)
                            }
                            _ => Some(session),
                        };
                        if let Some(left) = left {
                            left.close();
                        }
                    }
                    Err(failure) => {
                        failures.insert(place, failure);
                    }
                }
                let has_first_failed = failures.contains_key(&first);
                let is_left = failures.len() < endpoints.len();
                if is_decided(best.as_ref().map(|best| best.0), has_first_failed, is_left) {
                    break;
                }
                match others.next() {
                    Some(next) => asked.push(asking(next, Duration::ZERO)),
                    // Many refused logins could make the server lock the account.
                    None if refuses || rank >= Some(Rank::Writable) => {}
                    None => asked.push(asking(place, AGAIN)),
                }
            }
            () = sleep(STAGGER), if others.peek().is_some() => {
                asked.extend(others.next().map(|next| asking(next, Duration::ZERO)));
            }
            () = sleep_until(deadline) => break,
        }
    }
    over.cancel();
    // The server would count a session that is dropped as an aborted connection.
    tokio::spawn(timeout(CONNECT_WAIT, async move {
        while let Some((_, answer)) = asked.next().await {
            if let Ok((session, _)) = answer {
                session.close();
            }
        }
    }));
    match best {
        Some((_, session, standing)) => Ok((session, standing)),
        None => Err(none_of(endpoints, first, failures)),
    }
}

/// The rank of a server's session. `None` if it takes no writes.
fn rank(is_preferred: bool, answer: &Answer) -> Option<Rank> {
    match answer {
        Ok((_, Standing::Writable)) if is_preferred => Some(Rank::Preferred),
        Ok((_, Standing::Writable)) => Some(Rank::Writable),
        Ok((_, Standing::Lagging(_))) => Some(Rank::Lagging),
        Ok((_, Standing::Refuses(_))) | Err(_) => None,
    }
}

/// Whether the best session so far is used at once: one of another server only if the preferred one
/// has failed or takes no writes. Else the writer would change while statements run.
fn is_decided(best: Option<Rank>, has_preferred_failed: bool, is_left: bool) -> bool {
    match best {
        Some(Rank::Preferred) => true,
        Some(Rank::Writable) => has_preferred_failed,
        Some(Rank::Lagging) | None => !is_left,
    }
}

/// Connects to a server, and asks it whether it takes writes.
pub(super) async fn ask(endpoint: &Endpoint, place: usize) -> Answer {
    let mut session = Session::connect(endpoint, place).await?;
    match standing(&mut session).await {
        Ok(standing) => Ok((session, standing)),
        Err(failure) => {
            session.abandon();
            Err(failure)
        }
    }
}

/// As [`ask`], after a pause. Does not connect if the search is `over` by then.
async fn ask_later(
    endpoint: Endpoint,
    place: usize,
    delay: Duration,
    over: CancellationToken,
) -> (usize, Answer) {
    if over.run_until_cancelled(sleep(delay)).await.is_none() {
        return (place, Err(Failure::Timeout(delay)));
    }
    (place, ask(&endpoint, place).await)
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
    let is_refused = failures.values().any(Failure::is_refused_login);
    let mut answers = failures.values().filter(|failure| failure.is_answer());
    // A wrong password must not be tried for ever because another server is down.
    let all_refuse = is_refused && answers.all(Failure::is_refused_login);
    let may_end = |failure: &Failure| !matches!(failure.class(), Class::Fatal(_));
    let fits = |failure: &Failure| {
        if all_refuse {
            failure.is_refused_login()
        } else {
            may_end(failure)
        }
    };
    let decides = if failures.get(&first).is_some_and(fits) {
        first
    } else {
        let other = failures.iter().find(|(_, failure)| fits(failure));
        other.map_or(first, |(place, _)| *place)
    };
    let decides = failures.remove(&decides).expect("each server has one");
    Failure::NoHost {
        text,
        decides: Box::new(decides),
        is_refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::mysql::options::options;
    use mysql_async::DriverError;

    #[test]
    fn another_server_is_used_only_after_the_preferred_one_has_failed() {
        use Rank::{Lagging, Preferred, Writable};
        for (best, has_preferred_failed, is_left, expected) in [
            (Some(Preferred), false, true, true),
            (Some(Writable), false, true, false),
            (Some(Writable), true, true, true),
            (Some(Lagging), true, true, false),
            (Some(Lagging), true, false, true),
            (None, true, true, false),
            (None, true, false, true),
        ] {
            let decided = is_decided(best, has_preferred_failed, is_left);
            assert_eq!(
                decided, expected,
                "{best:?} {has_preferred_failed} {is_left}"
            );
        }
    }

    #[test]
    fn a_refused_login_decides_if_no_server_answers_otherwise() {
        let endpoints = options("mysql://u@a,b,c/d").unwrap();
        let silent = || Failure::Timeout(CONNECT_WAIT);
        let read_only = || Failure::NotWritable("it is read only".to_owned());
        let plugin = || {
            let name = String::new();
            Failure::Driver(DriverError::UnknownAuthPlugin { name }.into())
        };
        for (failures, is_fatal) in [
            (
                vec![
                    Failure::refused_connection(),
                    Failure::of_server(1045),
                    silent(),
                ],
                true,
            ),
            (
                vec![Failure::of_server(1045), Failure::of_server(1045)],
                true,
            ),
            (vec![Failure::refused_connection(), plugin()], true),
            (vec![plugin(), read_only()], false),
            (vec![Failure::of_server(1045), read_only()], false),
            (
                vec![Failure::of_server(1045), Failure::of_server(1040)],
                false,
            ),
            (vec![Failure::refused_connection(), silent()], false),
            (
                vec![Failure::of_server(1049), Failure::refused_connection()],
                false,
            ),
        ] {
            let failure = none_of(&endpoints, 0, failures.into_iter().enumerate().collect());
            let class = failure.class();
            assert_eq!(matches!(class, Class::Fatal(_)), is_fatal, "{failure}");
        }
    }
}
