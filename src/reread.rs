//! URLs whose password may be replaced while the engine runs: read again when a server refuses the
//! login.
//!
//! Knows nothing of servers and of files: the caller says how a URL is read and what it means.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a login that the server refuses is tried again while its URL stays the same. A rotation
/// changes the password first in one of server and file, and seconds later in the other.
const ROTATION: Duration = Duration::from_secs(30);

/// Pause after a refused login: until then, the refusal is the answer to each caller. Without it,
/// many callers, each of which tries again within a second, could make the server lock the account.
const PAUSE: Duration = Duration::from_secs(2);

/// Reads a URL again, after its server has refused a login: the password may have been replaced.
#[derive(Clone)]
pub struct Reread(Arc<dyn Fn() -> Option<String> + Send + Sync>);

impl Reread {
    /// `read` returns the URL, or `None` if it cannot be read now.
    pub fn new(read: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }
}

impl fmt::Debug for Reread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reread")
    }
}

/// What follows from a refused login.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is a new URL: log in again at once.
    Again,
    /// The refusal may end soon: it is transient.
    Wait,
    /// The login is wrong.
    Stop,
}

/// The URL in use, and what it means.
pub(crate) struct Login<T> {
    /// `None` if the URL is in no file.
    reread: Option<Reread>,
    state: Mutex<State<T>>,
}

struct State<T> {
    url: String,
    meaning: Arc<T>,
    /// Whether this process has logged in before. Otherwise the settings are wrong.
    is_proved: bool,
    /// The time of the first refusal since the last success or the last change of the URL.
    refused_since: Option<Instant>,
    last_refusal: Option<Refusal>,
    /// Whether the log says that the file names another place.
    is_elsewhere_logged: bool,
}

/// A refused login that may be accepted soon.
struct Refusal {
    /// The time of the refusal, or of the first login after its pause.
    at: Instant,
    /// The text of the file at that time.
    file: Option<String>,
    text: String,
}

impl<T> Login<T> {
    /// `meaning` is that of the URL.
    pub(crate) fn new(url: &str, meaning: T, reread: Option<Reread>) -> Self {
        Self {
            reread,
            state: Mutex::new(State {
                url: url.to_owned(),
                meaning: Arc::new(meaning),
                is_proved: false,
                refused_since: None,
                last_refusal: None,
                is_elsewhere_logged: false,
            }),
        }
    }

    /// What the URL in use means.
    pub(crate) fn meaning(&self) -> Arc<T> {
        self.state.lock().meaning.clone()
    }

    /// A server has accepted the login.
    pub(crate) fn accepted(&self) {
        let mut state = self.state.lock();
        state.is_proved = true;
        state.refused_since = None;
        state.last_refusal = None;
        state.is_elsewhere_logged = false;
    }

    /// A login has failed for another reason than a refusal. So the last refusal is no longer the
    /// answer to other callers.
    pub(crate) fn failed(&self) {
        self.state.lock().last_refusal = None;
    }

    /// The text of the last refusal, if the caller must not connect now: the refusal was less than
    /// 2 s ago, and the file is the same since. After that, one caller may connect. The others wait
    /// until it has, or for 2 s more.
    pub(crate) fn pause(&self) -> Option<String> {
        self.state.lock().last_refusal.as_ref()?;
        let file = self.read();
        let mut state = self.state.lock();
        let refusal = state.last_refusal.as_mut()?;
        if refusal.at.elapsed() < PAUSE && refusal.file == file {
            return Some(refusal.text.clone());
        }
        refusal.at = Instant::now();
        refusal.file = file;
        None
    }

    /// Begins a pause after a refusal that the caller tries again, although the URL is not read
    /// again: another server may accept the login.
    pub(crate) fn rest(&self, text: String) {
        let (at, file) = (Instant::now(), self.read());
        self.state.lock().last_refusal = Some(Refusal { at, file, text });
    }

    fn read(&self) -> Option<String> {
        self.reread.as_ref().and_then(|reread| (reread.0)())
    }

    /// A server has refused a login with this meaning. Reads the URL again. `parse` returns the
    /// meaning of a URL, or `None` for one that may be half written. A URL is used only if it
    /// `leads_to_same` servers and data: the engine has learnt these at its start. `text` is the
    /// answer to other callers while the login rests.
    pub(crate) fn refused(
        &self,
        tried: &Arc<T>,
        text: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        leads_to_same: impl FnOnce(&T, &T) -> bool,
    ) -> Refused {
        if self.reread.is_none() {
            return Refused::Stop;
        }
        let now = self.read();
        let mut state = self.state.lock();
        if !Arc::ptr_eq(tried, &state.meaning) {
            return Refused::Again;
        }
        let changed = now.as_ref().filter(|now| **now != state.url);
        if let Some((meaning, url)) = changed.and_then(|url| Some((parse(url)?, url))) {
            if leads_to_same(&state.meaning, &meaning) {
                state.meaning = Arc::new(meaning);
                state.url.clone_from(url);
                state.refused_since = None;
                state.last_refusal = None;
                return Refused::Again;
            }
            if !state.is_elsewhere_logged {
                state.is_elsewhere_logged = true;
                tracing::warn!(
                    "the URL in its file names other servers or another database: it is used only \
                     after a restart"
                );
            }
        }
        let since = *state.refused_since.get_or_insert_with(Instant::now);
        if state.is_proved && since.elapsed() < ROTATION {
            state.last_refusal = Some(Refusal {
                at: Instant::now(),
                file: now,
                text: text.to_owned(),
            });
            return Refused::Wait;
        }
        Refused::Stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A URL is `PLACE.PASSWORD`.
    fn parse(url: &str) -> Option<(u32, u32)> {
        let (place, password) = url.split_once('.')?;
        Some((place.parse().ok()?, password.parse().ok()?))
    }

    /// The text of the file of a URL. `None` if it cannot be read.
    type Text = Arc<Mutex<Option<String>>>;

    fn in_file(url: &str) -> (Login<(u32, u32)>, Text) {
        let file = Arc::new(Mutex::new(Some(url.to_owned())));
        let of_file = file.clone();
        let reread = Reread::new(move || of_file.lock().clone());
        (Login::new(url, parse(url).unwrap(), Some(reread)), file)
    }

    fn refused(login: &Login<(u32, u32)>, tried: &Arc<(u32, u32)>) -> Refused {
        login.refused(tried, "no", parse, |one, other| one.0 == other.0)
    }

    #[test]
    fn a_refused_login_stops_unless_it_worked_or_the_url_changes() {
        let (login, file) = in_file("1.1");
        let write = |text: Option<&str>| *file.lock() = text.map(str::to_owned);
        let refused_now = || refused(&login, &login.meaning());
        assert_eq!(refused_now(), Refused::Stop, "it never worked");
        write(Some("1.2"));
        let tried = login.meaning();
        assert_eq!(refused_now(), Refused::Again);
        assert_eq!(*login.meaning(), (1, 2));
        assert_eq!(refused(&login, &tried), Refused::Again, "of the former URL");
        assert_eq!(refused_now(), Refused::Stop);
        login.accepted();
        for unused in [None, Some("half"), Some("2.2")] {
            write(unused);
            assert_eq!(refused_now(), Refused::Wait, "{unused:?}");
            assert_eq!(*login.meaning(), (1, 2), "{unused:?}");
        }
        write(Some("1.3"));
        assert_eq!(refused_now(), Refused::Again);
        assert_eq!(refused_now(), Refused::Wait);
        let past = Instant::now().checked_sub(ROTATION).unwrap();
        login.state.lock().refused_since = Some(past);
        assert_eq!(refused_now(), Refused::Stop, "the file stays the same");

        let login = Login::new("1.1", (1, 1), None);
        login.accepted();
        assert_eq!(refused(&login, &login.meaning()), Refused::Stop);
    }

    /// Also without a file, if one of several servers refuses the login.
    #[test]
    fn after_a_refusal_one_caller_connects_every_two_seconds_or_once_the_file_has_changed() {
        let (in_file, file) = in_file("1.1");
        in_file.accepted();
        let no_file = Login::new("1.1", (1, 1), None);
        for (login, is_in_file) in [(&in_file, true), (&no_file, false)] {
            let refuse = || {
                if is_in_file {
                    assert_eq!(refused(login, &login.meaning()), Refused::Wait);
                } else {
                    login.rest("no".to_owned());
                }
            };
            let is_paused = || login.pause().is_some();
            let is_claimed_by_one = || !is_paused() && is_paused();
            assert!(!is_paused(), "it was never refused");
            refuse();
            assert_eq!(login.pause().as_deref(), Some("no"));
            let past = Instant::now().checked_sub(PAUSE).unwrap();
            login.state.lock().last_refusal.as_mut().unwrap().at = past;
            assert!(is_claimed_by_one());
            *file.lock() = Some("half".to_owned());
            assert_eq!(is_claimed_by_one(), is_in_file);
            refuse();
            assert!(is_paused());
            login.failed();
            assert!(!is_paused(), "the server is down");
            refuse();
            login.accepted();
            assert!(!is_paused());
        }
    }
}
