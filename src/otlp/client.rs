//! Sends a request to the receiver over HTTP/1.1, in plain text or over TLS. Each request has a
//! connection of its own: there are a few in ten seconds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;

use crate::tls::split_ca;

/// How long a request may take. A receiver answers once the data is in its queue.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of an answer that are read. It has a count and a message.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Longest text of an answer in a message.
const SHOWN_BYTES_MAX: usize = 200;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Metrics,
    Traces,
}

impl Signal {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The receiver is away or busy. Try again, no earlier than after this time if it names one.
    Later(String, Option<Duration>),
    /// The receiver refuses the request, now and later.
    Refused(String),
}

/// What is wrong with a URL of a receiver. `None` if it can be used.
#[must_use]
pub fn problem(url: &str) -> Option<&'static str> {
    let form = "write http://HOST:4318, or https://HOST:4318";
    let Ok(url) = Url::parse(url) else {
        return Some(form);
    };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Some(form);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("write the login as a header into the file of otlp_headers_file");
    }
    if url.query_pairs().any(|(name, _)| name != "ca") || url.fragment().is_some() {
        return Some("it may have no parameter besides ca=FILE");
    }
    if url.query().is_some() && url.scheme() == "http" {
        return Some("`ca` needs TLS: https://");
    }
    None
}

/// Checks what a start reads: the URL, its certificates, and the file of headers.
///
/// # Errors
/// The URL cannot be used, or a file cannot be read. The message names it.
pub fn check(url: &str, headers: Option<&Path>) -> Result<(), String> {
    Client::new(url, headers).map(drop)
}

/// The receiver, and how to reach it.
pub(super) struct Client {
    /// The URL without parameters, for messages.
    pub(super) shown: String,
    host: String,
    port: u16,
    authority: HeaderValue,
    /// The path before that of a signal.
    path: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// File with further headers.
    headers: Option<PathBuf>,
}

impl Client {
    /// Reads the certificates and the headers, so that an error shows at the start.
    ///
    /// # Errors
    /// The URL cannot be used, or a file cannot be read. The message names it.
    pub(super) fn new(url: &str, headers: Option<&Path>) -> Result<Self, String> {
        if let Some(problem) = problem(url) {
            return Err(format!("otlp_url: {problem}"));
        }
        let wrong = |error: &dyn std::fmt::Display| format!("otlp_url: {error}");
        let (plain, authority) = split_ca(url).map_err(|error| wrong(&error))?;
        let url = Url::parse(&plain).map_err(|error| wrong(&error))?;
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_matches(['[', ']']).to_owned();
        let tls = (url.scheme() == "https").then(|| {
            let name = ServerName::try_from(host.clone()).map_err(|error| wrong(&error))?;
            Ok::<_, String>((trust(authority).map_err(|error| wrong(&error))?, name))
        });
        let header = &url[url::Position::BeforeHost..url::Position::AfterPort];
        if let Some(path) = headers {
            read_headers(path)?;
        }
        Ok(Self {
            port: url.port_or_known_default().unwrap_or(80),
            authority: HeaderValue::from_str(header).map_err(|error| wrong(&error))?,
            path: url.path().trim_end_matches('/').to_owned(),
            shown: plain.into_owned(),
            tls: tls.transpose()?,
            host,
            headers: headers.map(Path::to_owned),
        })
    }

    /// Sends a message, and returns the answer of a receiver that has taken it.
    ///
    /// # Errors
    /// The receiver has not taken it, or has not answered within [`REQUEST_TIMEOUT`].
    pub(super) async fn send(&self, signal: Signal, message: Vec<u8>) -> Result<Bytes, Failure> {
        let exchange = timeout(REQUEST_TIMEOUT, self.exchange(signal, message));
        exchange.await.unwrap_or_else(|_| {
            let seconds = REQUEST_TIMEOUT.as_secs();
            Err(Failure::Later(
                format!("no answer within {seconds} s"),
                None,
            ))
        })
    }

    async fn exchange(&self, signal: Signal, message: Vec<u8>) -> Result<Bytes, Failure> {
        fn later(error: impl std::fmt::Display) -> Failure {
            Failure::Later(error.to_string(), None)
        }
        let request = self.request(signal, message).map_err(later)?;
        let address = (&*self.host, self.port);
        let stream = TcpStream::connect(address).await.map_err(later)?;
        let response = match &self.tls {
            None => answer(stream, request).await,
            Some((connector, name)) => {
                let connected = connector.connect(name.clone(), stream).await;
                answer(connected.map_err(later)?, request).await
            }
        };
        let (status, retry_after, body) = response.map_err(later)?;
        if status.is_success() {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body);
        let shown: String = text.chars().take(SHOWN_BYTES_MAX).collect();
        let why = format!("{status}: {}", shown.escape_debug());
        Err(match status.as_u16() {
            // These by the specification of OTLP; any other is for ever.
            429 | 502 | 503 | 504 => Failure::Later(why, retry_after),
            _ => Failure::Refused(why),
        })
    }

    fn request(&self, signal: Signal, message: Vec<u8>) -> Result<Request<Full<Bytes>>, String> {
        let path = format!("{}/v1/{}", self.path, signal.as_str());
        let request = Request::post(path).body(Full::from(message));
        let mut request = request.map_err(|error| error.to_string())?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.authority.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static("task_runner"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let kind = HeaderValue::from_static("application/x-protobuf");
        headers.insert(CONTENT_TYPE, kind);
        // Read each time, so that a secret may be replaced while the engine runs.
        if let Some(path) = &self.headers {
            headers.extend(read_headers(path)?);
        }
        Ok(request)
    }
}

/// Sends a request over a connection. Returns the status, the pause that the receiver asks for, and
/// the beginning of the body.
async fn answer<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Option<Duration>, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let exchange = async move {
        let response = sender.send_request(request).await;
        let response: Response<Incoming> = response.map_err(|error| error.to_string())?;
        let status = response.status();
        let pause = response.headers().get(RETRY_AFTER);
        let pause = pause.and_then(|seconds| seconds.to_str().ok()?.trim().parse().ok());
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok((status, pause.map(Duration::from_secs), body.to_bytes()))
    };
    // The connection ends when `exchange` drops its sender. An error of it is also one of `exchange`.
    let (answered, _) = tokio::join!(exchange, connection);
    answered
}

/// The headers of a file: `name: value` in each line, besides blank lines and those that begin with #.
/// A message shows no value.
fn read_headers(path: &Path) -> Result<HeaderMap, String> {
    let wrong = |what: &str| format!("otlp_headers_file: {}: {what}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error.to_string()))?;
    let mut headers = HeaderMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let header = line.split_once(':').and_then(|(name, value)| {
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::try_from(name.trim()).ok()?, value))
        });
        let Some((name, value)) = header else {
            let at = at + 1;
            return Err(wrong(&format!(
                "line {at} is no header: write `name: value`"
            )));
        };
        headers.insert(name, value);
    }
    Ok(headers)
}

/// TLS that trusts these certificates alone, or those of the system.
fn trust(authority: Option<Vec<u8>>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match authority {
        Some(certificates) => {
            for certificate in CertificateDer::pem_slice_iter(&certificates) {
                let certificate = certificate.map_err(|error| error.to_string())?;
                roots.add(certificate).map_err(|error| error.to_string())?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_host_and_no_login() {
        for url in [
            "http://h:4318",
            "https://h/api/otlp/",
            "https://[::1]:4318?ca=/x.pem",
        ] {
            assert_eq!(problem(url), None, "{url}");
        }
        for (url, expected) in [
            ("h:4318", "write http://HOST:4318"),
            ("grpc://h:4317", "write http://HOST:4318"),
            ("http://", "write http://HOST:4318"),
            ("http://u:secret@h", "otlp_headers_file"),
            ("http://h?ca=x", "needs TLS"),
            ("https://h?key=secret", "no parameter"),
        ] {
            let problem = problem(url).unwrap_or_else(|| panic!("{url} is taken"));
            assert!(problem.contains(expected), "{url}: {problem}");
        }
    }

    #[test]
    fn a_request_has_the_path_of_its_signal_and_the_headers_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("headers");
        std::fs::write(&file, "# who\nAuthorization: Bearer a: b\n\nx-team:1\n").unwrap();
        let client = Client::new("https://[::1]/api/otlp/", Some(&file)).unwrap();
        assert_eq!((&*client.host, client.port), ("::1", 443));
        let request = client.request(Signal::Traces, vec![1]).unwrap();
        assert_eq!(request.uri(), "/api/otlp/v1/traces");
        for (name, value) in [
            ("host", "[::1]"),
            ("authorization", "Bearer a: b"),
            ("x-team", "1"),
            ("content-type", "application/x-protobuf"),
        ] {
            assert_eq!(request.headers()[name], value, "{name}");
        }
        assert!(!format!("{request:?}").contains("Bearer"));

        std::fs::write(&file, "x: 1\nsecret\n").unwrap();
        let error = Client::new("http://h", Some(&file)).err().unwrap();
        assert!(error.contains("line 2 is no header"), "{error}");
        assert!(!error.contains("secret"), "{error}");
        let error = Client::new("http://h", Some(Path::new("/nowhere"))).err();
        assert!(error.unwrap().contains("/nowhere"));
    }
}
