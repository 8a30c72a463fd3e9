//! A TCP proxy in front of a server, with faults that a test controls.
//!
//! It behaves like a network: bytes may be late, in small pieces, or delayed for any time, and a
//! connection may end at any moment. Bytes are never changed, and none is lost while a connection
//! exists. A client that connects while the server is down is accepted and disconnected at once.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

/// Bytes that are read at a time. Small enough that a fault strikes in the middle of a large
/// statement, too.
const READ_BYTES: usize = 16 * 1024;

/// How bytes are passed on, in both directions and on all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// At once.
    Pass,
    /// Not at all, until this setting changes. No byte is lost.
    Blackhole,
    /// Each piece after a pause.
    Delay(Duration),
    /// Byte by byte.
    Trickle,
}

/// The fault of the selected request or of its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// The connection ends before the request arrives.
    LoseRequest,
    /// The server executes the request, and the connection ends before the reply.
    LoseReply,
    /// The request does not arrive, and the connection stays open.
    HoldRequest,
    /// The server executes the request, and no reply arrives.
    HoldReply,
    /// The request arrives once [`Proxy::release`] is called.
    WaitRequest,
}

impl Strike {
    fn is_of_replies(self) -> bool {
        matches!(self, Self::LoseReply | Self::HoldReply)
    }

    fn ends_connection(self) -> bool {
        matches!(self, Self::LoseRequest | Self::LoseReply)
    }
}

/// A running proxy. Dropping it ends all of its connections.
pub struct Proxy {
    /// Its port on 127.0.0.1.
    pub port: u16,
    shared: Arc<Shared>,
    _accepts: AbortOnDropHandle<()>,
}

struct Shared {
    target: AtomicU16,
    manner: watch::Sender<Manner>,
    cuts: watch::Sender<()>,
    drop_reply: AtomicBool,
    /// The bytes that select a request, and its fault.
    trap: Mutex<Option<(&'static [u8], Strike)>>,
    struck: watch::Sender<u32>,
    release: Notify,
    accepted: AtomicU64,
}

impl Proxy {
    /// A proxy in front of a port of 127.0.0.1.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("127.0.0.1 has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            target: AtomicU16::new(target),
            manner: watch::Sender::new(Manner::Pass),
            cuts: watch::Sender::new(()),
            drop_reply: AtomicBool::new(false),
            trap: Mutex::default(),
            struck: watch::Sender::new(0),
            release: Notify::new(),
            accepted: AtomicU64::new(0),
        });
        let accepts = tokio::spawn(accept(Arc::clone(&shared), listener));
        Self {
            port,
            shared,
            _accepts: AbortOnDropHandle::new(accepts),
        }
    }

    /// From now on, new connections lead to another port of 127.0.0.1.
    pub fn lead_to(&self, target: u16) {
        self.shared.target.store(target, Relaxed);
    }

    /// From now on, forwards bytes in this way.
    pub fn set(&self, manner: Manner) {
        self.shared.manner.send_replace(manner);
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.shared.cuts.send_replace(());
    }

    /// Drops the next reply of the server on any connection and ends the connection: the server has
    /// executed the request, but the client does not know.
    pub fn drop_next_reply(&self) {
        self.shared.drop_reply.store(true, Relaxed);
    }

    /// Whether the reply was dropped.
    pub fn has_dropped(&self) -> bool {
        !self.shared.drop_reply.load(Relaxed)
    }

    /// The next request that contains these bytes, on any connection, gets this fault, once.
    pub fn strike(&self, request: &'static str, strike: Strike) {
        *self.shared.trap.lock().unwrap() = Some((request.as_bytes(), strike));
    }

    /// Passes on the request that waits.
    pub fn release(&self) {
        self.shared.release.notify_one();
    }

    /// Number of requests with a fault so far.
    pub fn strikes(&self) -> u32 {
        *self.shared.struck.borrow()
    }

    /// Waits until this many requests had a fault.
    pub async fn struck(&self, times: u32) {
        let mut struck = self.shared.struck.subscribe();
        struck
            .wait_for(|so_far| *so_far >= times)
            .await
            .expect("the proxy lives");
    }

    /// Connections so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        // An accept fails if the client has already disconnected.
        if let Ok((client, _)) = listener.accept().await {
            shared.accepted.fetch_add(1, Relaxed);
            let cuts = shared.cuts.subscribe();
            tokio::spawn(relay(Arc::clone(&shared), client, cuts));
        }
    }
}

/// One connection, until one side or a cut ends it.
async fn relay(shared: Arc<Shared>, client: TcpStream, mut cuts: watch::Receiver<()>) {
    let target = shared.target.load(Relaxed);
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else {
        return;
    };
    for side in [&client, &server] {
        // Otherwise the kernel would merge single bytes.
        if side.set_nodelay(true).is_err() {
            return;
        }
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Set until the reply to a request with a fault arrives.
    let due = Mutex::new(None);
    tokio::select! {
        () = carry_requests(&shared, from_client, to_server, &due) => {}
        () = carry_replies(&shared, from_server, to_client, &due) => {}
        _ = cuts.changed() => {}
    }
}

async fn carry_requests(
    shared: &Shared,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    due: &Mutex<Option<Strike>>,
) {
    let mut manner = shared.manner.subscribe();
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..read];
        match shared.strike_for(bytes) {
            Some(strike) if strike.is_of_replies() => *due.lock().unwrap() = Some(strike),
            Some(Strike::WaitRequest) => {
                shared.struck.send_modify(|times| *times += 1);
                shared.release.notified().await;
            }
            Some(strike) => return shared.execute(strike).await,
            None => {}
        }
        if pass_on(&mut manner, bytes, &mut to).await.is_none() {
            return;
        }
    }
}

async fn carry_replies(
    shared: &Shared,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    due: &Mutex<Option<Strike>>,
) {
    let mut manner = shared.manner.subscribe();
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if shared.drop_reply.swap(false, Relaxed) {
            return;
        }
        let strike = due.lock().unwrap().take();
        if let Some(strike) = strike {
            return shared.execute(strike).await;
        }
        if pass_on(&mut manner, &buffer[..read], &mut to)
            .await
            .is_none()
        {
            return;
        }
    }
}

impl Shared {
    /// Whether this is the selected request. If so, clears the selection.
    fn strike_for(&self, bytes: &[u8]) -> Option<Strike> {
        let mut trap = self.trap.lock().unwrap();
        let (request, strike) = (*trap)?;
        let is_it = bytes.windows(request.len()).any(|part| part == request);
        is_it.then(|| trap.take()).flatten().map(|_| strike)
    }

    /// Returns when the connection has to end.
    async fn execute(&self, strike: Strike) {
        self.struck.send_modify(|times| *times += 1);
        if !strike.ends_connection() {
            std::future::pending::<()>().await;
        }
    }
}

/// `None` if the other side has disconnected.
async fn pass_on(
    manner: &mut watch::Receiver<Manner>,
    mut bytes: &[u8],
    to: &mut OwnedWriteHalf,
) -> Option<()> {
    while !bytes.is_empty() {
        let now = *manner.borrow_and_update();
        let piece = match now {
            Manner::Pass => bytes.len(),
            Manner::Trickle => 1,
            Manner::Delay(pause) => {
                tokio::time::sleep(pause).await;
                bytes.len()
            }
            Manner::Blackhole => {
                manner.changed().await.ok()?;
                continue;
            }
        };
        let (first, rest) = bytes.split_at(piece);
        to.write_all(first).await.ok()?;
        bytes = rest;
    }
    Some(())
}

/// Tests of the proxy: a fault without effect would prove nothing.
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::support::server::free_port;

    /// A server that returns all bytes.
    async fn echo() -> (u16, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut from, mut to) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            }
        });
        (port, AbortOnDropHandle::new(serve))
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port))
            .await
            .unwrap()
    }

    /// Sends a word and waits for its echo. `None` if the connection ends instead.
    async fn ask(stream: &mut TcpStream, word: &[u8]) -> Option<()> {
        stream.write_all(word).await.ok()?;
        let mut reply = vec![0; word.len()];
        stream.read_exact(&mut reply).await.ok()?;
        assert_eq!(reply, word);
        Some(())
    }

    #[tokio::test]
    async fn bytes_pass_in_each_manner_unchanged() {
        let (port, _echo) = echo().await;
        let proxy = Proxy::start(port).await;
        let mut stream = connect(&proxy).await;
        let pause = Duration::from_millis(40);
        for manner in [Manner::Pass, Manner::Trickle, Manner::Delay(pause)] {
            proxy.set(manner);
            let began = Instant::now();
            let words: Vec<u8> = (0..=255).collect();
            ask(&mut stream, &words).await.unwrap();
            if manner == Manner::Delay(pause) {
                assert!(began.elapsed() >= pause * 2, "there and back");
            }
        }
        assert_eq!(proxy.accepted(), 1);
    }

    #[tokio::test]
    async fn a_blackhole_holds_bytes_and_loses_none() {
        let (port, _echo) = echo().await;
        let proxy = Proxy::start(port).await;
        let mut stream = connect(&proxy).await;
        ask(&mut stream, b"before").await.unwrap();
        proxy.set(Manner::Blackhole);
        let silence = Duration::from_millis(200);
        let answer = tokio::time::timeout(silence, async {
            stream.write_all(b"held").await.unwrap();
            stream.read_u8().await.unwrap()
        });
        assert!(answer.await.is_err(), "a blackhole must not answer");
        proxy.set(Manner::Pass);
        let mut reply = [0; 4];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"held");
    }

    #[tokio::test]
    async fn a_cut_and_a_dropped_reply_end_connections_once() {
        let (port, _echo) = echo().await;
        let proxy = Proxy::start(port).await;
        let mut stream = connect(&proxy).await;
        ask(&mut stream, b"before").await.unwrap();
        proxy.cut();
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);

        let mut stream = connect(&proxy).await;
        ask(&mut stream, b"before").await.unwrap();
        proxy.drop_next_reply();
        assert!(!proxy.has_dropped());
        assert_eq!(ask(&mut stream, b"lost").await, None);
        assert!(proxy.has_dropped());
        let mut stream = connect(&proxy).await;
        ask(&mut stream, b"after").await.unwrap();
    }

    #[tokio::test]
    async fn new_connections_lead_to_the_given_port() {
        let (port, _echo) = echo().await;
        let proxy = Proxy::start(free_port()).await;
        assert_eq!(ask(&mut connect(&proxy).await, b"nobody").await, None);
        proxy.lead_to(port);
        ask(&mut connect(&proxy).await, b"echo").await.unwrap();
    }

    #[tokio::test]
    async fn each_kind_of_strike_hits_one_request() {
        let (port, _echo) = echo().await;
        let proxy = Proxy::start(port).await;
        for (at, strike) in (1..).zip([
            Strike::LoseRequest,
            Strike::LoseReply,
            Strike::HoldRequest,
            Strike::HoldReply,
        ]) {
            let mut stream = connect(&proxy).await;
            proxy.strike("COMMIT", strike);
            ask(&mut stream, b"other").await.unwrap();
            let answer = ask(&mut stream, b"x COMMIT");
            let answer = tokio::time::timeout(Duration::from_millis(200), answer).await;
            if strike.ends_connection() {
                assert_eq!(answer, Ok(None), "{strike:?}");
            } else {
                assert!(answer.is_err(), "{strike:?} must not answer");
            }
            proxy.struck(at).await;
            assert_eq!(proxy.strikes(), at);
            let mut stream = connect(&proxy).await;
            ask(&mut stream, b"COMMIT").await.unwrap();
        }
        let mut stream = connect(&proxy).await;
        proxy.strike("COMMIT", Strike::WaitRequest);
        let answer = async {
            let answer = ask(&mut stream, b"x COMMIT").await;
            (answer, proxy.strikes())
        };
        let release = async {
            proxy.struck(5).await;
            proxy.release();
        };
        let (answer, ()) = tokio::join!(answer, release);
        assert_eq!(answer, (Some(()), 5));
    }
}
