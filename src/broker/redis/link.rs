//! One connection of the client to Redis: how it is made, and when it is dropped.
//!
//! The client reconnects by itself, for ever. But after a timeout, the connection may hang in a way
//! that the client does not notice: a write that never returns, or a reply that never arrives. So
//! the connection is dropped, with all commands that wait in it, and the next caller makes a new
//! one. This costs a few round trips, is correct (callers treat every error as an unknown outcome),
//! and reports the true cause if the new connection fails, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use fred::clients::{Client, Pipeline};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::config::{
    Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, Server, TcpConfig,
    UnresponsiveConfig,
};
use fred::types::{ConnectHandle, Value};
use futures_util::FutureExt as _;
use tokio::sync::Mutex;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

use crate::reread::{Login, Refused};

use super::address::{config_of, leads_to_same};
use super::verdict::is_refused_login;

/// Timeout of connecting, and of each step of the set-up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Timeout of a reply. Shorter would give up on a server that forks for a snapshot or waits for its
/// disk. Longer would leave a dead server unnoticed.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Without a reply for this long, the client reconnects by itself. Less than [`REPLY_TIMEOUT`], so
/// that a lost connection does not cost a new client.
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(4);

/// How often the client checks for missing replies.
const UNRESPONSIVE_CHECK: Duration = Duration::from_millis(500);

/// Shortest and longest wait between attempts to reconnect, in milliseconds. Doubled each time.
const RECONNECT_MS: (u32, u32) = (50, 2_000);

/// Most commands that wait in the client to be sent; a pipeline counts as one. A guard against bugs
/// only: publishers wait for their replies, so few commands wait at a time.
const QUEUED_COMMANDS_MAX: usize = 256;

/// A connection that is made when it is first used.
pub(super) struct Link {
    login: Arc<Login<Config>>,
    reply_timeout: Duration,
    live: Mutex<Option<Live>>,
    /// Number of connections so far, including reconnections by the client.
    connections: AtomicU64,
}

struct Live {
    client: Client,
    task: ConnectHandle,
    /// Receives a message for each reconnection by the client.
    reconnects: Receiver<Server>,
}

impl Drop for Live {
    fn drop(&mut self) {
        // The task owns the sockets and would reconnect for ever. `quit` would wait behind a
        // blocked read, and needs a runtime.
        self.task.abort();
    }
}

impl Link {
    pub(super) fn new(login: Arc<Login<Config>>, reply_timeout: Duration) -> Self {
        Self {
            login,
            reply_timeout,
            live: Mutex::new(None),
            connections: AtomicU64::new(0),
        }
    }

    /// The connected client.
    pub(super) async fn client(&self) -> Result<Client, Error> {
        let mut slot = self.live.lock().await;
        if let Some(live) = slot.as_mut().filter(|live| !live.task.is_finished()) {
            // A lagged receiver has missed several messages, so it counts, too.
            while !matches!(
                live.reconnects.try_recv(),
                Err(TryRecvError::Empty | TryRecvError::Closed)
            ) {
                self.connections.fetch_add(1, Relaxed);
            }
            return Ok(live.client.clone());
        }
        *slot = None;
        let live = self.connect().await?;
        self.connections.fetch_add(1, Relaxed);
        Ok(slot.insert(live).client.clone())
    }

    /// Connects. If the server refuses the login, the URL is read again from its file, if there is
    /// one. For 2 s after that, the refusal is the answer, unless the file changes.
    async fn connect(&self) -> Result<Live, Error> {
        loop {
            if let Some(text) = self.login.pause() {
                return Err(Error::new(ErrorKind::Unknown, text));
            }
            let config = self.login.meaning();
            let error = match connect(&config, self.reply_timeout).await {
                Ok(live) => {
                    self.login.accepted();
                    return Ok(live);
                }
                Err(error) if is_refused_login(&error) => error,
                Err(error) => {
                    self.login.failed();
                    return Err(error);
                }
            };
            let text = format!("waiting for a new password in the file of the URL: {error}");
            let parse = |url: &str| config_of(url).ok();
            match self.login.refused(&config, &text, parse, leads_to_same) {
                Refused::Again => {
                    tracing::info!("redis refused the login; the URL in its file is new");
                }
                Refused::Wait => return Err(Error::new(ErrorKind::Unknown, text)),
                Refused::Stop => return Err(error),
            }
        }
    }

    /// The number of connections at the last call of [`client`](Self::client). It changes with each
    /// new connection.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Runs the pipeline. Returns one result per command, in order. After an outer error, the
    /// outcome of every command is unknown.
    pub(super) async fn run(
        &self,
        pipeline: Pipeline<Client>,
        commands: usize,
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        let mut results = pipeline.try_all::<Value>().await;
        // If the pipeline as a whole fails, the client returns a single error.
        if let [Err(error)] = results.as_slice() {
            self.end_if_hung(pipeline.id(), error).await;
        }
        if results.len() == commands {
            return Ok(results);
        }
        let few = || Error::new(ErrorKind::Protocol, "fewer replies than commands");
        Err(results.pop().and_then(Result::err).unwrap_or_else(few))
    }

    /// Waits for the reply to one command of this client.
    pub(super) async fn ask<T>(
        &self,
        client: &Client,
        reply: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let reply = reply.await;
        if let Err(error) = &reply {
            self.end_if_hung(client.id(), error).await;
        }
        reply
    }

    /// Drops the connection if the error is a timeout. Compares the client's id, so that two
    /// callers that waited for the same connection do not drop the next one.
    pub(super) async fn end_if_hung(&self, client_id: &str, error: &Error) {
        if *error.kind() == ErrorKind::Timeout {
            self.live
                .lock()
                .await
                .take_if(|live| live.client.id() == client_id);
        }
    }
}

async fn connect(config: &Config, reply_timeout: Duration) -> Result<Live, Error> {
    let performance = PerformanceConfig {
        default_command_timeout: reply_timeout,
        ..Default::default()
    };
    let connection = ConnectionConfig {
        connection_timeout: CONNECT_TIMEOUT,
        internal_command_timeout: CONNECT_TIMEOUT,
        // A second attempt after a lost reply would publish a frame twice.
        max_command_attempts: 1,
        max_command_buffer_len: QUEUED_COMMANDS_MAX,
        unresponsive: UnresponsiveConfig {
            max_timeout: Some(UNRESPONSIVE_AFTER),
            interval: UNRESPONSIVE_CHECK,
        },
        tcp: TcpConfig {
            nodelay: Some(true),
            ..Default::default()
        },
        ..Default::default()
    };
    // 0 means unlimited attempts.
    let policy = ReconnectPolicy::new_exponential(0, RECONNECT_MS.0, RECONNECT_MS.1, 2);
    let client = Client::new(
        config.clone(),
        Some(performance),
        Some(connection),
        Some(policy),
    );
    let reconnects = client.reconnect_rx();
    // The client tells only those that wait already (fred 10.1.0): a wait that begins after a quick
    // connection lasts for ever. It begins with its first poll, so that comes before.
    let waiting = client.clone();
    let mut made = Box::pin(async move { waiting.wait_for_connect().await });
    let early = made.as_mut().now_or_never();
    debug_assert!(early.is_none(), "nothing connects yet");
    let task = client.connect();
    let mut live = Live {
        client,
        task,
        reconnects,
    };
    let connected = async {
        tokio::select! {
            connected = &mut made => connected,
            ended = &mut live.task => match ended {
                Ok(Err(error)) => Err(error),
                _ => Err(Error::new(ErrorKind::Canceled, "the connection ended while connecting")),
            },
        }
    };
    // Longer than both steps together, which have their own timeouts, for each seed of a cluster.
    let hosts = u32::try_from(config.server.hosts().len()).unwrap_or(u32::MAX);
    let limit = CONNECT_TIMEOUT.saturating_mul(hosts.saturating_mul(2).saturating_add(1));
    let Ok(connected) = tokio::time::timeout(limit, connected).await else {
        let state = live.client.state();
        let text = format!("the server did not accept a connection in time ({state:?})");
        return Err(Error::new(ErrorKind::Timeout, text));
    };
    connected.map(|()| live)
}
