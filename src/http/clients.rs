//! The connected clients: a bounded number, each for a bounded time after its last request.
//!
//! A new client is always accepted. If all places are taken, the client with the oldest last
//! request loses its place. So connections that send no request, or do not read their response, do
//! not keep other clients out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Most clients at a time. A browser opens six connections, Prometheus one.
pub(super) const CLIENTS_MAX: usize = 64;

/// Longest wait for the head of a request. Without a limit, a client that sends half a head would
/// keep its place.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client keeps its connection after the beginning of its last request. The service
/// sends a response within a few seconds, so a client that has not received it after this time does
/// not read it.
pub(super) const QUIET_MAX: Duration = Duration::from_secs(30);

/// How long a connection may go on with its current response before it is closed.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);

/// Most bytes of the head of a request, and of the buffered data of a connection. A browser sends
/// about one KiB. With this limit, 64 clients take at most 1 MiB.
const BUFFER_BYTES: usize = 16 << 10;

/// The address of the client of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The clients, in the order of their last requests.
#[derive(Debug, Default)]
pub(super) struct Clients {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// The number of the next request or new client.
    next: u64,
    /// The token that closes each connection, by the number of its last request.
    by_turn: BTreeMap<u64, CancellationToken>,
}

/// The place of a client. Dropping it frees the place.
pub(super) struct Place {
    clients: Arc<Clients>,
    leave: CancellationToken,
    last: Mutex<(u64, Instant)>,
}

impl Clients {
    /// A place for a new client. If no place is free, closes the connection with the oldest last
    /// request.
    pub(super) fn admit(self: &Arc<Self>) -> Place {
        let leave = CancellationToken::new();
        let mut open = self.open.lock();
        if open.by_turn.len() >= CLIENTS_MAX
            && let Some((_, longest)) = open.by_turn.pop_first()
        {
            longest.cancel();
        }
        let turn = open.take_turn(leave.clone());
        Place {
            clients: self.clone(),
            leave,
            last: Mutex::new((turn, Instant::now())),
        }
    }
}

impl Open {
    fn take_turn(&mut self, leave: CancellationToken) -> u64 {
        self.next += 1;
        self.by_turn.insert(self.next, leave);
        self.next
    }
}

impl Place {
    /// Records a new request: this client is now the last to lose its place.
    fn note_request(&self) {
        let mut open = self.clients.open.lock();
        let mut last = self.last.lock();
        if open.by_turn.remove(&last.0).is_some() {
            *last = (open.take_turn(self.leave.clone()), Instant::now());
        }
    }

    fn last_request(&self) -> Instant {
        self.last.lock().1
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients
            .open
            .lock()
            .by_turn
            .remove(&self.last.get_mut().0);
    }
}

/// Answers the requests of one client until it leaves, loses its place, or the service stops.
pub(super) async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    place: Place,
    stop: CancellationToken,
) {
    let answers = TowerToHyperService::new(router);
    let service = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        place.note_request();
        request.extensions_mut().insert(Peer(peer));
        answers.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    loop {
        let last = place.last_request();
        tokio::select! {
            // The client has left. An error ends only its own connection.
            _ = connection.as_mut() => return,
            () = place.leave.cancelled() => return,
            () = tokio::time::sleep_until(last + QUIET_MAX) => {
                if place.last_request() == last {
                    break;
                }
            }
            () = stop.cancelled() => break,
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(FAREWELL, connection).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_new_client_takes_the_place_with_the_oldest_request() {
        let clients = Arc::<Clients>::default();
        let places: Vec<Place> = (0..CLIENTS_MAX).map(|_| clients.admit()).collect();
        places[0].note_request();
        assert!(places.iter().all(|place| !place.leave.is_cancelled()));
        let newer: Vec<Place> = (0..3).map(|_| clients.admit()).collect();
        let left = |place: &Place| place.leave.is_cancelled();
        let leaving: Vec<usize> = (0..CLIENTS_MAX).filter(|&at| left(&places[at])).collect();
        assert_eq!(leaving, [1, 2, 3]);
        assert!(!newer.iter().any(left));
        // A client that has lost its place does not regain it by a request.
        places[1].note_request();
        assert_eq!(clients.open.lock().by_turn.len(), CLIENTS_MAX);
        drop((places, newer));
        assert_eq!(clients.open.lock().by_turn.len(), 0);
    }
}
