//! The host names that the service accepts in the `Host` of a request.
//!
//! They prevent DNS rebinding: the domain of a web page resolves to its user's machine, so that the
//! page can send requests to a service there and read the responses. Such a request has the page's
//! domain as its host.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// The accepted hosts: `localhost` and loopback addresses, the address that the service listens on,
/// and the names of the setting `http_hosts`.
#[derive(Debug, Clone)]
pub(super) struct Hosts {
    /// The address that the service listens on. If it is unspecified (0.0.0.0), every IP address is
    /// accepted, since the service does not know those of its machine.
    bound: IpAddr,
    named: Vec<String>,
}

impl Hosts {
    pub(super) fn new(bound: SocketAddr, named: Vec<String>) -> Self {
        let bound = bound.ip();
        Self { bound, named }
    }

    /// Whether a host, with or without its port, is accepted.
    fn has(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let address = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        if let Ok(address) = address.unwrap_or(name).parse::<IpAddr>() {
            let address = address.to_canonical();
            return address.is_loopback() || self.bound.is_unspecified() || address == self.bound;
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_named = |known: &str| known.eq_ignore_ascii_case(name);
        is_named("localhost") || self.named.iter().any(|known| is_named(known))
    }

    /// Whether the host of a request is accepted. A request of HTTP/1.0 may have none: no browser
    /// sends such requests.
    fn accept(&self, request: &Request) -> bool {
        let mut named = request.headers().get_all(header::HOST).iter();
        let in_target = request.uri().authority();
        let target_fits = in_target.is_none_or(|authority| self.has(authority.as_str()));
        let header_fits = match (named.next(), named.next()) {
            (Some(host), None) => host.to_str().is_ok_and(|host| self.has(host)),
            (None, _) => request.version() < Version::HTTP_11,
            (Some(_), Some(_)) => false,
        };
        target_fits && header_fits
    }
}

/// Passes on requests for an accepted host, and refuses all others.
pub(super) async fn known_only(
    State(hosts): State<Hosts>,
    request: Request,
    next: Next,
) -> Response {
    if hosts.accept(&request) {
        return next.run(request).await;
    }
    let why = "this host name is not accepted: add it to the setting http_hosts\n";
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn answers(bound: &str, request: axum::http::request::Builder) -> bool {
        let hosts = Hosts::new(bound.parse().unwrap(), vec!["engine".to_owned()]);
        hosts.accept(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn only_requests_for_accepted_hosts_are_answered() {
        let cases = [
            ("127.0.0.1:9464", "localhost", true),
            ("127.0.0.1:9464", "LocalHost:9464", true),
            ("127.0.0.1:9464", "localhost.", true),
            ("127.0.0.1:9464", "127.0.0.1:9464", true),
            ("127.0.0.1:9464", "127.9.9.9", true),
            ("127.0.0.1:9464", "[::1]:9464", true),
            ("127.0.0.1:9464", "[::ffff:127.0.0.1]", true),
            ("127.0.0.1:9464", "Engine:9464", true),
            ("127.0.0.1:9464", "10.0.0.1", false),
            ("127.0.0.1:9464", "evil.example", false),
            ("127.0.0.1:9464", "evil.example:9464", false),
            ("127.0.0.1:9464", "localhost.evil.example", false),
            ("127.0.0.1:9464", "127.0.0.1.evil.example", false),
            ("127.0.0.1:9464", "evil.localhost", false),
            ("127.0.0.1:9464", "engine.evil", false),
            ("127.0.0.1:9464", "localhost:9464:1", false),
            ("127.0.0.1:9464", "user@localhost", false),
            ("127.0.0.1:9464", "", false),
            ("10.0.0.1:80", "10.0.0.1", true),
            ("10.0.0.1:80", "10.0.0.2", false),
            ("10.0.0.1:80", "127.0.0.1", true),
            ("0.0.0.0:80", "10.0.0.2:80", true),
            ("[::]:80", "[fd00::1]:80", true),
            ("0.0.0.0:80", "evil.example", false),
        ];
        for (bound, host, answered) in cases {
            let request = Request::builder().uri("/").header("host", host);
            assert_eq!(answers(bound, request), answered, "{host} at {bound}");
        }
    }

    #[test]
    fn a_request_must_name_one_accepted_host() {
        let at = "127.0.0.1:1";
        let bare = || Request::builder().uri("/");
        assert!(!answers(at, bare()));
        assert!(answers(at, bare().version(Version::HTTP_10)));
        let twice = bare()
            .header("host", "localhost")
            .header("host", "localhost");
        assert!(!answers(at, twice));
        for (target, answered) in [("http://evil.example/", false), ("http://localhost/", true)] {
            let request = Request::builder().uri(target).header("host", "localhost");
            assert_eq!(answers(at, request), answered, "{target}");
        }
    }
}
