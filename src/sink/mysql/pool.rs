//! The pool of connections to one database.
//!
//! A connection returns to the pool only if it is usable. If a statement failed in a way that makes
//! its state unknown, or the future that used it was dropped, the connection is closed, and the
//! server rolls back its transaction.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::fault::Fault;

use super::errors::{Class, Failure};
use super::hosts::{Hosts, Watched};
use super::session::Session;

/// A connection that has been idle for this long is replaced: firewalls and `wait_timeout` end idle
/// connections without a message, and after a failover it may lead to the former primary.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// After this time without a statement, the server ends a connection of the stages: a process that is
/// stopped within a transaction would keep the rows locked that its heir writes.
const STAGE_SILENCE: Duration = Duration::from_secs(30);

/// Connections to one database.
pub(super) struct Pool {
    hosts: Arc<Hosts>,
    /// The `wait_timeout` of each connection. `None`: that of the server.
    silence: Option<Duration>,
    idle: Mutex<Vec<Session>>,
    permits: Semaphore,
}

impl fmt::Debug for Pool {
    /// Does not show the options, which hold the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of at most `max` connections. A caller waits until one of them is free.
    pub(super) fn new(hosts: Arc<Hosts>, max: usize) -> Self {
        Self {
            hosts,
            silence: None,
            idle: Mutex::default(),
            permits: Semaphore::new(max),
        }
    }

    /// As [`new`](Self::new), for transactions of the stages.
    pub(super) fn of_stages(hosts: Arc<Hosts>, max: usize) -> Self {
        let mut pool = Self::new(hosts, max);
        pool.silence = Some(STAGE_SILENCE);
        pool
    }

    async fn begin(&self) -> Result<Session, Failure> {
        let mut session = self.hosts.connect().await?;
        if let Some(silence) = self.silence {
            let limit = format!("SET SESSION wait_timeout = {}", silence.as_secs());
            session.run(&limit).await?;
        }
        Ok(session)
    }

    /// A session that does not belong to the pool.
    pub(super) async fn connect(&self) -> Result<Session, Failure> {
        self.hosts.connect().await
    }

    /// Runs `work` on an idle or a new session. Returns the session to the pool if it is usable: no
    /// transaction is open, and the server has answered every statement. If the future is dropped,
    /// the session is dropped as well.
    pub(super) async fn on_session<T>(
        &self,
        doing: &str,
        work: impl AsyncFnOnce(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, Fault> {
        let _permit = self
            .permits
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let mut session = match self.take_idle() {
            Some(session) => session,
            None => self
                .begin()
                .await
                .map_err(|failure| failure.into_fault(doing))?,
        };
        let watched = Watched::from(&session);
        let outcome = tokio::select! {
            outcome = work(&mut session) => outcome,
            lost = Box::pin(self.hosts.lost(watched)) => Err(lost),
        };
        match outcome {
            Ok(value) => {
                self.put_back(session);
                Ok(value)
            }
            Err(failure) => {
                let is_usable = !matches!(failure.class(), Class::Reconnect);
                // After a lock wait the transaction is still open, with its earlier rows.
                if is_usable && session.rollback().await.is_ok() {
                    self.put_back(session);
                } else {
                    session.abandon();
                }
                Err(failure.into_fault(doing))
            }
        }
    }

    fn take_idle(&self) -> Option<Session> {
        let mut idle = self.idle.lock();
        let idle_max = self.silence.map_or(IDLE_MAX, |silence| silence / 2);
        let is_old = |session: &mut Session| {
            session.idle_since.elapsed() >= idle_max || !self.hosts.prefers(session)
        };
        idle.extract_if(.., is_old).for_each(Session::close);
        idle.pop()
    }

    fn put_back(&self, mut session: Session) {
        session.idle_since = Instant::now();
        self.idle.lock().push(session);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.idle.get_mut().drain(..).for_each(Session::close);
    }
}
