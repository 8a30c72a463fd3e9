//! The host names that the service accepts in the `Host` of a request.
//!
//! A page on the web can make a browser send requests to a service on its user's machine and read
//! the responses, under a name of the page's own domain that resolves to that machine (DNS
//! rebinding). The service recognises such a request by its host name.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// The accepted names: the local names of this machine, the address that the service listens on,
/// and the names of the setting `http_hosts`.
#[derive(Debug, Clone)]
pub(super) struct Hosts {
    /// If the address is unspecified, any IP address: those of this machine are not known.
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

    /// Whether the host of a request is accepted. A client of HTTP/1.0 may send none, which no
    /// browser does.
    fn are_asked(&self, request: &Request) -> bool {
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

/// Answers only requests with an accepted host name.
pub(super) async fn known_only(
    State(hosts): State<Hosts>,
    request: Request,
    next: Next,
) -> Response {
    if hosts.are_asked(&request) {
        return next.run(request).await;
    }
    let why = "this name is not known here; the setting http_hosts adds it\n";
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn answers(bound: &str, request: axum::http::request::Builder) -> bool {
        let hosts = Hosts::new(bound.parse().unwrap(), vec!["engine".to_owned()]);
        hosts.are_asked(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn it_answers_under_its_own_names_alone() {
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
    fn a_request_names_one_host_and_everywhere_the_same_kind() {
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
