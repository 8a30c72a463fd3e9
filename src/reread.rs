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
    }

    /// A server has refused a login with this meaning. Reads the URL again. `parse` returns the
    /// meaning of a URL, or `None` for one that may be half written.
    pub(crate) fn refused(&self, tried: &Arc<T>, parse: impl FnOnce(&str) -> Option<T>) -> Refused {
        let Some(reread) = &self.reread else {
            return Refused::Stop;
        };
        let now = (reread.0)();
        let mut state = self.state.lock();
        if !Arc::ptr_eq(tried, &state.meaning) {
            return Refused::Again;
        }
        let changed = now.filter(|now| *now != state.url);
        if let Some((meaning, url)) = changed.and_then(|url| Some((parse(&url)?, url))) {
            state.meaning = Arc::new(meaning);
            state.url = url;
            state.refused_since = None;
            return Refused::Again;
        }
        let since = *state.refused_since.get_or_insert_with(Instant::now);
        if state.is_proved && since.elapsed() < ROTATION {
            return Refused::Wait;
        }
        Refused::Stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_login_stops_unless_it_worked_or_the_url_changes() {
        let file = Arc::new(Mutex::new(Some("1".to_owned())));
        let write = |text: Option<&str>| *file.lock() = text.map(str::to_owned);
        let parse = |url: &str| url.parse::<u32>().ok();
        let of_file = file.clone();
        let login = Login::new("1", 1, Some(Reread::new(move || of_file.lock().clone())));
        let refused = || login.refused(&login.meaning(), parse);
        assert_eq!(refused(), Refused::Stop, "it never worked");
        write(Some("2"));
        let tried = login.meaning();
        assert_eq!(refused(), Refused::Again);
        assert_eq!(*login.meaning(), 2);
        assert_eq!(
            login.refused(&tried, parse),
            Refused::Again,
            "of the former URL"
        );
        assert_eq!(refused(), Refused::Stop);
        login.accepted();
        for unreadable in [None, Some("half")] {
            write(unreadable);
            assert_eq!(refused(), Refused::Wait, "{unreadable:?}");
        }
        write(Some("3"));
        assert_eq!(refused(), Refused::Again);

        let login = Login::new("1", 1, None);
        login.accepted();
        assert_eq!(login.refused(&login.meaning(), parse), Refused::Stop);
    }
}
