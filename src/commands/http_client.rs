//! A minimal HTTP client for commands that query the running service.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::bail;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::Settings;
use crate::inbox;
use crate::status::Status;

/// A service answers within milliseconds, or within 3 seconds if its database does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest answer that is read. A status has at most a few hundred lines.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// The status of the service at `addr`. `None` if no service answers there.
pub(super) async fn status(addr: SocketAddr) -> Option<Status> {
    match page(addr, "/api/status").await {
        Ok((200, body)) => serde_json::from_str(&body).ok(),
        Ok(_) | Err(_) => None,
    }
}

/// Checks that an engine at the HTTP address of the settings uses the directories of the settings.
/// Succeeds if no engine answers.
///
/// # Errors
/// The engine uses other directories, and no engine uses those of the settings. The message names
/// both.
pub(super) async fn check_engine(settings: &Settings) -> anyhow::Result<()> {
    let Some(addr) = settings.http_addr else {
        return Ok(());
    };
    let theirs = status(addr)
        .await
        .map_or(String::new(), |status| status.work);
    if inbox::holder(&settings.dirs.work).is_some() {
        return Ok(());
    }
    check_work(addr, &theirs, settings)
}

/// Checks that the engine at `addr`, whose work directory is `theirs`, is the one of the settings.
/// An older release does not report its work directory.
///
/// # Errors
/// It is another engine.
pub(super) fn check_work(
    addr: SocketAddr,
    theirs: &str,
    settings: &Settings,
) -> anyhow::Result<()> {
    let ours = inbox::canonical(&settings.dirs.work);
    if theirs.is_empty() || theirs == ours {
        return Ok(());
    }
    bail!(
        "the engine at {addr} works in {theirs}, and these settings name {ours}: set --data-dir (or \
         --work) as that engine has it, or --http-addr as the engine of these directories has it"
    )
}

/// Fetches a page of the service at `addr`. Returns the status code and the body.
///
/// # Errors
/// No answer within [`ANSWER_TIMEOUT`], or an answer that is not HTTP.
pub(super) async fn page(addr: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    match timeout(ANSWER_TIMEOUT, fetch(reachable(addr), path)).await {
        Ok(answer) => answer,
        Err(_) => Err(io::Error::new(
            ErrorKind::TimedOut,
            format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
        )),
    }
}

/// The address to connect to if a server listens on `addr`: a wildcard becomes loopback.
fn reachable(mut addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    addr
}

/// Speaks HTTP/1.0, so that the server sends the body in one piece and then closes the connection.
async fn fetch(addr: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(addr).await?;
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_string(&mut answer)
        .await?;
    let parts = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let code = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
        Some((code.parse().ok()?, body.to_owned()))
    });
    parts.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the answer is not HTTP"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with these bytes.
    async fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        addr
    }

    #[tokio::test]
    async fn an_answer_that_is_no_status_is_ignored() {
        let expected = Status {
            running: true,
            ..Status::default()
        };
        let json = serde_json::to_string(&expected).unwrap();
        let good = format!("HTTP/1.0 200 OK\r\n\r\n{json}").leak();
        assert_eq!(status(answering(good).await).await, Some(expected));
        assert_eq!(
            status(answering("HTTP/1.0 404 Not Found\r\n\r\n{}").await).await,
            None
        );
        assert_eq!(
            status(answering("HTTP/1.0 200 OK\r\n\r\n<html>").await).await,
            None
        );
        assert_eq!(status(answering("220 mail\r\n").await).await, None);
    }

    #[tokio::test]
    async fn a_closed_port_has_no_service() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(status(addr).await, None);
    }

    #[test]
    fn a_wildcard_address_is_asked_on_loopback() {
        let asked = |addr: &str| reachable(addr.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(asked("[::]:80"), "[::1]:80");
        assert_eq!(asked("10.0.0.1:80"), "10.0.0.1:80");
    }
}
