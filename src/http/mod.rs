//! The HTTP server: metrics, health, status. It reads and never writes.
//!
//! Knows the engine only as a [`StatusSource`]. Each response is made when it is requested, and its
//! size is bounded, as that of a [`Status`](crate::status::Status) is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware;
use axum::response::{Html, IntoResponse, Json};
use axum::routing::{MethodRouter, get};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::status::StatusSource;
use crate::telemetry::Handle;

mod clients;
mod hosts;
mod page;

use clients::{Clients, converse};
use hosts::Hosts;

/// The text format that Prometheus reads.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Wait after a failed accept.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A bound address that is not served yet.
#[derive(Debug)]
pub struct Http {
    listener: TcpListener,
    hosts: Vec<String>,
}

impl Http {
    /// Binds the address. Separate from serving, so that a process whose address is in use exits
    /// before it moves a file. `hosts` are the host names to accept in requests, in addition to the
    /// address and the local names of this machine.
    ///
    /// # Errors
    /// The address is in use or not of this machine. The message names it and the next step.
    pub async fn bind(addr: SocketAddr, hosts: Vec<String>) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await.map_err(|error| {
            let message = format!("http on {addr}: {error}; choose another with --http-addr");
            io::Error::new(error.kind(), message)
        })?;
        Ok(Self { listener, hosts })
    }

    /// The address. If the port was 0, with the port that the system chose.
    ///
    /// # Errors
    /// The operating system does not know the address.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is cancelled. Responses in progress then have two seconds to finish.
    pub async fn serve(
        self,
        metrics: Handle,
        status: Arc<dyn StatusSource>,
        stop: CancellationToken,
    ) {
        let Ok(bound) = self.addr() else {
            tracing::error!("http: the address that was bound is not known, so nothing is served");
            return;
        };
        let hosts = Hosts::new(bound, self.hosts.clone());
        let router =
            router(metrics, status).layer(middleware::from_fn_with_state(hosts, hosts::known_only));
        let clients = Arc::<Clients>::default();
        let connections = TaskTracker::new();
        while let Some(stream) = self.accept(&stop).await {
            let place = clients.admit();
            connections.spawn(converse(stream, router.clone(), place, stop.clone()));
        }
        connections.close();
        connections.wait().await;
    }

    /// Waits for the next connection. `None` once `stop` is cancelled.
    async fn accept(&self, stop: &CancellationToken) -> Option<TcpStream> {
        let accepting = async {
            loop {
                match self.listener.accept().await {
                    Ok((stream, _)) => return stream,
                    Err(error) => {
                        // The client has disconnected, or too many files are open: both are
                        // transient.
                        tracing::debug!(%error, "http: a connection was not accepted");
                        tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                    }
                }
            }
        };
        tokio::select! {
            stream = accepting => Some(stream),
            () = stop.cancelled() => None,
        }
    }
}

fn router(metrics: Handle, source: Arc<dyn StatusSource>) -> Router {
    let typed = |content_type| [(header::CONTENT_TYPE, content_type)];
    Router::new()
        .route(
            "/metrics",
            get(move || async move { (typed(PROMETHEUS_TEXT), metrics.render()) }),
        )
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/api/status", get(api_status))
        .route("/", get(show_page))
        .route("/page.css", part("text/css; charset=utf-8", page::STYLE))
        .route(
            "/page.js",
            part("text/javascript; charset=utf-8", page::SCRIPT),
        )
        .with_state(source)
}

async fn readyz(State(source): State<Arc<dyn StatusSource>>) -> impl IntoResponse {
    let work = source.work();
    match source.ready() {
        Ok(()) => (StatusCode::OK, Json(json!({"ready": true, "work": work}))),
        Err(reason) => {
            let why = json!({"ready": false, "reason": reason, "work": work});
            (StatusCode::SERVICE_UNAVAILABLE, Json(why))
        }
    }
}

async fn api_status(State(source): State<Arc<dyn StatusSource>>) -> impl IntoResponse {
    (NO_STORE, Json(source.status().await))
}

async fn show_page(State(source): State<Arc<dyn StatusSource>>) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, page::POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let html = Html(page::render(&source.status().await));
    (NO_STORE, headers, html)
}

/// A static part of the page. It changes only with the binary, so the browser has to revalidate it.
fn part(content_type: &'static str, text: &'static str) -> MethodRouter<Arc<dyn StatusSource>> {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    get(move || async move { (headers, text) })
}

/// A status must not be cached.
const NO_STORE: [(HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use async_trait::async_trait;

    use super::clients::{CLIENTS_MAX, FAREWELL, HEAD_TIMEOUT, QUIET_MAX};
    use super::*;
    use crate::status::{Files, Status, WaitingFile};
    use crate::telemetry;

    struct Engine {
        ready: AtomicBool,
    }

    #[async_trait]
    impl StatusSource for Engine {
        fn ready(&self) -> Result<(), String> {
            let ready = self.ready.load(Ordering::SeqCst);
            ready
                .then_some(())
                .ok_or_else(|| "the database \"does\" not answer".to_owned())
        }

        fn work(&self) -> String {
            "/work".to_owned()
        }

        async fn status(&self) -> Status {
            let file = WaitingFile {
                name: "<script>.json".to_owned(),
                why: "open & young".to_owned(),
                code: "incomplete".to_owned(),
                seconds: None,
            };
            let files = Files {
                inbound: 1,
                waiting: vec![file],
                ..Files::default()
            };
            Status {
                running: true,
                ready: true,
                files,
                ..Status::default()
            }
        }
    }

    async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (code, answer)
    }

    #[tokio::test]
    async fn every_page_is_served_until_a_stop() {
        let engine = Arc::new(Engine {
            ready: AtomicBool::new(false),
        });
        let http = Http::bind("127.0.0.1:0".parse().unwrap(), Vec::new())
            .await
            .unwrap();
        let addr = http.addr().unwrap();
        let stop = CancellationToken::new();
        let source: Arc<dyn StatusSource> = engine.clone();
        let server = tokio::spawn(http.serve(telemetry::install(), source, stop.clone()));

        assert_eq!(get(addr, "/livez").await.0, 200);
        let (code, answer) = get(addr, "/readyz").await;
        assert_eq!(code, 503);
        assert!(answer.ends_with(
            r#"{"ready":false,"reason":"the database \"does\" not answer","work":"/work"}"#
        ));
        engine.ready.store(true, Ordering::SeqCst);
        assert_eq!(get(addr, "/readyz").await.0, 200);
        let (code, answer) = get(addr, "/metrics").await;
        assert!(
            code == 200 && answer.contains("text/plain; version=0.0.4"),
            "{answer}"
        );
        assert!(answer.contains("lemonade_build_info"), "{answer}");
        let (_, answer) = get(addr, "/api/status").await;
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        assert_eq!(
            serde_json::from_str::<Status>(body).unwrap(),
            engine.status().await
        );
        let (code, answer) = get(addr, "/").await;
        assert_eq!(code, 200);
        assert!(
            answer.contains("&lt;script&gt;.json</th><td>open &amp; young"),
            "{answer}"
        );
        assert_eq!(get(addr, "/else").await.0, 404);

        let taken = Http::bind(addr, Vec::new()).await.unwrap_err();
        assert!(taken.to_string().contains("--http-addr"), "{taken}");
        // A client that does not finish its request does not delay the end.
        let mut silent = TcpStream::connect(addr).await.unwrap();
        silent.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        assert_eq!(get(addr, "/livez").await.0, 200);
        stop.cancel();
        let ended = tokio::time::timeout(FAREWELL * 5, server).await;
        ended.expect("it ends").unwrap();
        let left = silent.read(&mut [0; 64]).await;
        assert!(matches!(left, Ok(0) | Err(_)), "{left:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_without_a_whole_request_is_disconnected() {
        let engine = Arc::new(Engine {
            ready: AtomicBool::new(true),
        });
        let http = Http::bind("127.0.0.1:0".parse().unwrap(), Vec::new())
            .await
            .unwrap();
        let addr = http.addr().unwrap();
        tokio::spawn(http.serve(telemetry::install(), engine, CancellationToken::new()));
        let mut silent = TcpStream::connect(addr).await.unwrap();
        silent.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        let began = tokio::time::Instant::now();
        let mut answer = Vec::new();
        let _ = silent.read_to_end(&mut answer).await;
        let took = began.elapsed();
        assert!((HEAD_TIMEOUT..HEAD_TIMEOUT * 3).contains(&took), "{took:?}");
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    }

    /// All places are taken by clients that only wait, or do not read their response.
    #[tokio::test]
    async fn a_new_client_is_answered_beside_two_hundred_idle_ones() {
        let engine = Arc::new(Engine {
            ready: AtomicBool::new(true),
        });
        let http = Http::bind("127.0.0.1:0".parse().unwrap(), Vec::new())
            .await
            .unwrap();
        let addr = http.addr().unwrap();
        tokio::spawn(http.serve(telemetry::install(), engine, CancellationToken::new()));
        let mut idle = Vec::new();
        for number in 0..200 {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            if number % 2 == 0 {
                let asks = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n";
                stream.write_all(asks).await.unwrap();
            }
            idle.push(stream);
        }
        let answer = tokio::time::timeout(HEAD_TIMEOUT / 5, get(addr, "/readyz")).await;
        assert_eq!(answer.expect("at once").0, 200);
        let mut left = 0;
        for stream in &mut idle {
            let open = tokio::time::timeout(Duration::from_millis(1), async {
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer).await;
            });
            left += usize::from(open.await.is_ok());
        }
        assert!(left >= 200 - CLIENTS_MAX, "{left} have lost their place");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_without_a_new_request_is_disconnected() {
        let engine = Arc::new(Engine {
            ready: AtomicBool::new(true),
        });
        let http = Http::bind("127.0.0.1:0".parse().unwrap(), Vec::new())
            .await
            .unwrap();
        let addr = http.addr().unwrap();
        tokio::spawn(http.serve(telemetry::install(), engine, CancellationToken::new()));
        let mut quiet = TcpStream::connect(addr).await.unwrap();
        let asks = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
        quiet.write_all(asks).await.unwrap();
        let began = tokio::time::Instant::now();
        let mut answer = Vec::new();
        let _ = quiet.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
        assert!(
            began.elapsed() <= QUIET_MAX + FAREWELL,
            "{:?}",
            began.elapsed()
        );
    }

    #[tokio::test]
    async fn a_request_for_an_unknown_host_is_refused() {
        let engine = Arc::new(Engine {
            ready: AtomicBool::new(true),
        });
        let hosts = vec!["engine".to_owned()];
        let http = Http::bind("127.0.0.1:0".parse().unwrap(), hosts)
            .await
            .unwrap();
        let addr = http.addr().unwrap();
        tokio::spawn(http.serve(telemetry::install(), engine, CancellationToken::new()));
        for (host, expected) in [("evil.example", "421"), ("engine", "200")] {
            for path in [
                "/",
                "/api/status",
                "/metrics",
                "/readyz",
                "/livez",
                "/page.js",
            ] {
                let mut stream = TcpStream::connect(addr).await.unwrap();
                let request =
                    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                assert_eq!(
                    answer.split(' ').nth(1),
                    Some(expected),
                    "{host}{path}: {answer}"
                );
            }
        }
    }
}
