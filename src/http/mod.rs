//! The HTTP server: metrics, health, and the pages of the console.
//!
//! Knows the engine only as a [`StatusSource`] and a [`Console`]. Each response is made when it is
//! requested, and its size is bounded, as theirs are. `GET` changes nothing; the only other request
//! is `POST act`, which `access` checks.
//!
//! All addresses are relative to one level, so that a proxy can serve the pages below a prefix.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::{MethodRouter, get, post};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batch::{RejectCode, provenance};
use crate::console::{Console, FilesQuery, RejectsQuery};
use crate::sink::FileState;
use crate::status::StatusSource;
use crate::telemetry::Handle;

mod access;
mod actions;
mod clients;
mod hosts;
mod outcomes;
mod page;
mod site;
#[cfg(test)]
mod tests;

use access::Access;
pub use access::Allowed;
use actions::{Form, SIGN_IN};
use clients::{Clients, converse};
use hosts::Hosts;
use outcomes::Outcomes;
use page::Frame;
use site::Site;

/// The text format that Prometheus reads.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Wait after a failed accept.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A bound address that is not served yet.
#[derive(Debug)]
pub struct Http {
    listener: TcpListener,
    hosts: Vec<String>,
    allowed: Allowed,
}

impl Http {
    /// Binds the address. Separate from serving, so that a process whose address is in use exits
    /// before it moves a file. `hosts` are the host names to accept in requests, in addition to the
    /// address and the local names of this machine. `allowed` says what the pages may do.
    ///
    /// # Errors
    /// The address is in use or not of this machine. The message names it and the next step.
    pub async fn bind(addr: SocketAddr, hosts: Vec<String>, allowed: Allowed) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await.map_err(|error| {
            let message = format!("http on {addr}: {error}; choose another with --http-addr");
            io::Error::new(error.kind(), message)
        })?;
        Ok(Self {
            listener,
            hosts,
            allowed,
        })
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
        console: Arc<dyn Console>,
        stop: CancellationToken,
    ) {
        let Ok(bound) = self.addr() else {
            tracing::error!("http: the address that was bound is not known, so nothing is served");
            return;
        };
        let hosts = Hosts::new(bound, self.hosts.clone());
        let site = Site {
            status,
            console,
            access: Access::new(self.allowed.clone()),
            outcomes: Outcomes::default(),
        };
        let router = router(metrics, Arc::new(site))
            .layer(middleware::from_fn_with_state(hosts, hosts::known_only));
        let clients = Arc::<Clients>::default();
        let connections = TaskTracker::new();
        while let Some((stream, peer)) = self.accept(&stop).await {
            let place = clients.admit();
            connections.spawn(converse(stream, peer, router.clone(), place, stop.clone()));
        }
        connections.close();
        connections.wait().await;
    }

    /// Waits for the next connection. `None` once `stop` is cancelled.
    async fn accept(&self, stop: &CancellationToken) -> Option<(TcpStream, SocketAddr)> {
        let accepting = async {
            loop {
                match self.listener.accept().await {
                    Ok(accepted) => return accepted,
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
            accepted = accepting => Some(accepted),
            () = stop.cancelled() => None,
        }
    }
}

fn router(metrics: Handle, site: Arc<Site>) -> Router {
    let typed = |content_type| [(header::CONTENT_TYPE, content_type)];
    Router::new()
        .route(
            "/metrics",
            get(move || async move { (typed(PROMETHEUS_TEXT), metrics.render()) }),
        )
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/api/status", get(api_status))
        .route("/", get(show_status))
        .route("/files", get(show_files))
        .route("/file", get(show_file))
        .route("/rejects", get(show_rejects))
        .route("/reject", get(show_reject))
        .route("/sign-in", get(sign_in))
        .route("/act", post(actions::act))
        .route("/page.css", part("text/css; charset=utf-8", page::STYLE))
        .route(
            "/page.js",
            part("text/javascript; charset=utf-8", page::SCRIPT),
        )
        .with_state(site)
}

async fn readyz(State(site): State<Arc<Site>>) -> impl IntoResponse {
    let work = site.status.work();
    match site.status.ready() {
        Ok(()) => (StatusCode::OK, Json(json!({"ready": true, "work": work}))),
        Err(reason) => {
            let why = json!({"ready": false, "reason": reason, "work": work});
            (StatusCode::SERVICE_UNAVAILABLE, Json(why))
        }
    }
}

async fn api_status(State(site): State<Arc<Site>>) -> impl IntoResponse {
    (NO_STORE, Json(site.status.status().await))
}

/// The fields of the address of a request.
fn query(uri: &Uri) -> Form {
    Form::parse(uri.query().unwrap_or_default().as_bytes())
}

/// What all pages have in common, for this request.
fn frame<'a>(site: &'a Site, headers: &HeaderMap, uri: &Uri) -> Frame<'a> {
    let sees_records = site.access.sees_records(headers);
    let done = query(uri).get("done").parse().ok();
    Frame {
        // What a command prints may hold a part of a record.
        outcome: done
            .filter(|_| sees_records)
            .and_then(|done| site.outcomes.get(done)),
        token: site.access.page_token(),
        takes_files: site.access.takes_files(),
        sees_records,
        can_sign_in: site.access.needs_secret() && !site.access.has_secret(headers),
    }
}

async fn show_status(State(site): State<Arc<Site>>, headers: HeaderMap, uri: Uri) -> Response {
    let status = site.status.status().await;
    let range = page::Range::parse(query(&uri).get("range"));
    shown(
        StatusCode::OK,
        page::status(&frame(&site, &headers, &uri), &status, range),
    )
}

async fn show_files(State(site): State<Arc<Site>>, headers: HeaderMap, uri: Uri) -> Response {
    let asked = query(&uri);
    let query = FilesQuery {
        state: FileState::parse(asked.get("state")),
        dataset: asked.get("dataset").to_owned(),
        name: asked.get("name").to_owned(),
        below: asked.get("below").parse().ok(),
    };
    let frame = frame(&site, &headers, &uri);
    match site.console.files(&query).await {
        Ok(files) => shown(StatusCode::OK, page::files(&frame, &query, &files)),
        Err(why) => unavailable(&frame, &why),
    }
}

async fn show_file(State(site): State<Arc<Site>>, headers: HeaderMap, uri: Uri) -> Response {
    let frame = frame(&site, &headers, &uri);
    let Ok(file_no) = query(&uri).get("no").parse() else {
        return absent(&frame, "the address names no file");
    };
    match site.console.file(file_no).await {
        Ok(Some(file)) => shown(StatusCode::OK, page::file(&frame, &file)),
        Ok(None) => absent(&frame, &format!("the ledger has no file {file_no}")),
        Err(why) => unavailable(&frame, &why),
    }
}

async fn show_rejects(State(site): State<Arc<Site>>, headers: HeaderMap, uri: Uri) -> Response {
    let asked = query(&uri);
    let before = asked.get("before").split_once(':');
    let query = RejectsQuery {
        code: RejectCode::parse(asked.get("code")),
        field: asked.get("field").to_owned(),
        file_no: asked.get("file").parse().ok(),
        before: before
            .and_then(|(file_no, ordinal)| Some((file_no.parse().ok()?, ordinal.parse().ok()?))),
    };
    let frame = frame(&site, &headers, &uri);
    match site.console.rejects(&query).await {
        Ok(rejects) => shown(StatusCode::OK, page::rejects(&frame, &query, &rejects)),
        Err(why) => unavailable(&frame, &why),
    }
}

async fn show_reject(State(site): State<Arc<Site>>, headers: HeaderMap, uri: Uri) -> Response {
    let frame = frame(&site, &headers, &uri);
    let Ok(id) = query(&uri).get("id").parse::<u64>() else {
        return absent(&frame, "the address names no reject");
    };
    match site.console.reject(id, frame.sees_records).await {
        Ok(Some(reject)) => shown(StatusCode::OK, page::reject(&frame, &reject)),
        Ok(None) => {
            let (file_no, ordinal) = provenance(id);
            let why =
                format!("record {ordinal} of file {file_no} is not a reject, or no longer one");
            absent(&frame, &why)
        }
        Err(why) => unavailable(&frame, &why),
    }
}

/// Makes a browser ask its user for the secret.
async fn sign_in(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    if site.access.has_secret(&headers) {
        return (StatusCode::SEE_OTHER, [(header::LOCATION, "./")]).into_response();
    }
    let asks = [(header::WWW_AUTHENTICATE, SIGN_IN)];
    let why = "the secret of http_token_file is missing or wrong\n";
    (StatusCode::UNAUTHORIZED, asks, why).into_response()
}

fn absent(frame: &Frame<'_>, why: &str) -> Response {
    let html = page::notice(frame, "Not here", why);
    shown(StatusCode::NOT_FOUND, html)
}

fn unavailable(frame: &Frame<'_>, why: &str) -> Response {
    let html = page::notice(frame, "The ledger cannot be read now", why);
    shown(StatusCode::SERVICE_UNAVAILABLE, html)
}

/// A page with its headers. The policy for the referrer lets a browser send the origin with the
/// forms of the page, and nothing to other sites.
fn shown(code: StatusCode, html: String) -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, page::POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
    ];
    (code, NO_STORE, headers, Html(html)).into_response()
}

/// A static part of the page. It changes only with the binary, so the browser has to revalidate it.
fn part(content_type: &'static str, text: &'static str) -> MethodRouter<Arc<Site>> {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    get(move || async move { (headers, text) })
}

/// A status must not be cached.
const NO_STORE: [(HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];
