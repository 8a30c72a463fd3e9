//! Asks the running service over HTTP, for the commands that tell of it.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::status::Status;

/// A service on this machine answers in milliseconds, and one that waits for its database within
/// a few seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A status holds at most some hundred lines; what is larger is no status.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// The status by the service at `addr`; `None` where there is none, or something else.
pub(super) async fn status(addr: SocketAddr) -> Option<Status> {
    match page(addr, "/api/status").await {
        Ok((200, body)) => serde_json::from_str(&body).ok(),
        Ok(_) | Err(_) => None,
    }
}

/// A page of the service at `addr`: its code and its body.
///
/// # Errors
/// Nobody answers there, or not in time, or not as a service does.
pub(super) async fn page(addr: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    match timeout(ANSWER_TIMEOUT, fetch(reachable(addr), path)).await {
        Ok(answer) => answer,
        Err(_) => Err(io::Error::new(
            ErrorKind::TimedOut,
            format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
        )),
    }
}

/// An address to connect to, for one to listen on.
fn reachable(mut addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    addr
}

/// By HTTP/1.0: the server closes the connection at its end, and sends the body in one piece.
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
    parts.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "not the answer of a service"))
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
    async fn only_a_status_is_taken_for_one() {
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
    async fn where_nothing_listens_there_is_no_service() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(status(addr).await, None);
    }

    #[test]
    fn an_address_to_listen_on_is_asked_at_home() {
        let asked = |addr: &str| reachable(addr.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(asked("[::]:80"), "[::1]:80");
        assert_eq!(asked("10.0.0.1:80"), "10.0.0.1:80");
    }
}
