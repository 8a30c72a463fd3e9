//! One connection of the client to Redis: how it is set up, and when it is thrown away.
//!
//! The client reconnects by itself, for ever. A timeout is where that ends: then the connection may
//! hang in a way that the client does not see (a write that never returns, a reply that never
//! comes), so it is dropped with everything queued in it, and the next caller gets a new one. That
//! is cheap (a few round trips), correct (an error always leaves the outcome open), and shows
//! the true cause where the new connection cannot be made either.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use fred::clients::{Client, Pipeline};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::config::{
    Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, Server, TcpConfig,
    UnresponsiveConfig,
};
use fred::types::{ConnectHandle, RespVersion, Value};
use tokio::sync::Mutex;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

/// For a connection to come up, and for each step of its set-up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// For a reply. Shorter would give up on a server that forks for a snapshot or waits for its disk;
/// longer would leave a dead one unnoticed.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// After this long without a reply to something sent, the client reconnects by itself: a little
/// earlier than [`REPLY_TIMEOUT`], so that what is merely lost costs no new client.
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(4);

/// How often the client looks for that.
const UNRESPONSIVE_CHECK: Duration = Duration::from_millis(500);

/// Waits between attempts to reconnect, in milliseconds, doubled each time.
const RECONNECT_MS: (u32, u32) = (50, 2_000);

/// Commands that may wait in the client for the wire; one pipeline counts as one. A bound only
/// against a bug: publishers wait for their replies, so there are a few at a time.
const QUEUED_COMMANDS_MAX: usize = 256;

/// A connection that comes into being when it is first needed.
pub(super) struct Link {
    config: Config,
    reply_timeout: Duration,
    live: Mutex<Option<Live>>,
    /// Connections so far, those that the client made by itself included.
    connections: AtomicU64,
}

struct Live {
    client: Client,
    task: ConnectHandle,
    /// Told of each connection that the client makes by itself.
    reconnects: Receiver<Server>,
}

impl Drop for Live {
    fn drop(&mut self) {
        // The task owns the sockets and would reconnect for ever. Not `quit`: that would wait
        // behind a blocked read, and need a runtime.
        self.task.abort();
    }
}

impl Link {
    pub(super) fn new(config: &Config, reply_timeout: Duration) -> Self {
        let mut config = config.clone();
        // The first connection shows its error at once; what breaks later is reconnected.
        config.fail_fast = true;
        // RESP2 has one shape for the replies that are used here; tests are for that one.
        config.version = RespVersion::RESP2;
        Self {
            config,
            reply_timeout,
            live: Mutex::new(None),
            connections: AtomicU64::new(0),
        }
    }

    /// The client, connected if it is new.
    pub(super) async fn client(&self) -> Result<Client, Error> {
        let mut slot = self.live.lock().await;
        if let Some(live) = slot.as_mut().filter(|live| !live.task.is_finished()) {
            // Where some were missed, there were more than one.
            while !matches!(
                live.reconnects.try_recv(),
                Err(TryRecvError::Empty | TryRecvError::Closed)
            ) {
                self.connections.fetch_add(1, Relaxed);
            }
            return Ok(live.client.clone());
        }
        *slot = None;
        let live = connect(&self.config, self.reply_timeout).await?;
        self.connections.fetch_add(1, Relaxed);
        Ok(slot.insert(live).client.clone())
    }

    /// Another number than before says that the connection is another one, at the last call of
    /// [`client`](Self::client).
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Runs the pipeline and gives one result a command, in their order. An outer error says that
    /// the outcome of each is unknown.
    pub(super) async fn run(
        &self,
        pipeline: Pipeline<Client>,
        commands: usize,
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        let mut results = pipeline.try_all::<Value>().await;
        // Where the pipeline as a whole went wrong, the client answers with a single error.
        if let [Err(error)] = results.as_slice() {
            self.end_if_hung(pipeline.id(), error).await;
        }
        if results.len() == commands {
            return Ok(results);
        }
        let few = || Error::new(ErrorKind::Protocol, "fewer replies than commands");
        Err(results.pop().and_then(Result::err).unwrap_or_else(few))
    }

    /// Waits for the reply to a single command of this client.
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

    /// Where the error of this client is a timeout, the connection ends here. By the client's id,
    /// so that two callers who waited for the same one do not end its successor.
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
    // 0 attempts: for ever.
    let policy = ReconnectPolicy::new_exponential(0, RECONNECT_MS.0, RECONNECT_MS.1, 2);
    let client = Client::new(
        config.clone(),
        Some(performance),
        Some(connection),
        Some(policy),
    );
    let reconnects = client.reconnect_rx();
    let task = client.connect();
    let mut live = Live {
        client,
        task,
        reconnects,
    };
    let connected = async {
        tokio::select! {
            connected = live.client.wait_for_connect() => connected,
            ended = &mut live.task => match ended {
                Ok(Err(error)) => Err(error),
                _ => Err(Error::new(ErrorKind::Canceled, "the connection ended while it was made")),
            },
        }
    };
    // Longer than its two steps together, which have their own timeouts.
    match tokio::time::timeout(CONNECT_TIMEOUT * 3, connected).await {
        Ok(connected) => connected.map(|()| live),
        Err(_) => Err(Error::new(ErrorKind::Timeout, "no connection in time")),
    }
}
