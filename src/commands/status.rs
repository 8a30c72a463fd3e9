//! `status`: asks the running service; where none runs, the database and the directories.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::cli::StatusArgs;
use crate::config::{Settings, redacted};
use crate::inbox;
use crate::status::{Status, by_reason};

use super::{Outcome, open_sink, say};

/// A service on this machine answers in milliseconds, and one that waits for its database within
/// a few seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A status holds at most some hundred lines; what is larger is no status.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// Files shown where the service does not run.
const LAST_FILES: usize = 10;

/// Rejects looked at for the reasons of the last ones.
const LAST_REJECTS: usize = 1_000;

/// Prints the status.
pub(super) async fn execute(settings: &Settings, args: &StatusArgs) -> anyhow::Result<Outcome> {
    let status = match settings.http_addr {
        Some(addr) => ask(addr).await,
        None => None,
    };
    // Another engine of this host may have the address.
    let work = inbox::canonical(&settings.dirs.work);
    let status = status.filter(|status| status.work == work);
    let status = match status {
        Some(status) => status,
        None => without_service(settings).await?,
    };
    let text = if args.json {
        serde_json::to_string_pretty(&status)? + "\n"
    } else {
        status.to_string()
    };
    say(&text)?;
    Ok(Outcome::Complete)
}

/// The status by the service at `addr`; `None` where there is none, or something else.
async fn ask(addr: SocketAddr) -> Option<Status> {
    let answer = timeout(ANSWER_TIMEOUT, fetch(reachable(addr), "/api/status")).await;
    match answer {
        Ok(Ok(body)) => serde_json::from_str(&body).ok(),
        Ok(Err(_)) | Err(_) => None,
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

/// The body of a page, by HTTP/1.0: the server closes the connection at its end, and sends it in
/// one piece.
async fn fetch(addr: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_string(&mut answer)
        .await?;
    let unexpected = || io::Error::new(ErrorKind::InvalidData, "not the answer of a status");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(unexpected)?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(unexpected()),
    }
}

async fn without_service(settings: &Settings) -> anyhow::Result<Status> {
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        work: inbox::canonical(&settings.dirs.work),
        database: redacted(&settings.database_url),
        broker: redacted(&settings.broker_url),
        ..Status::default()
    };
    let holder = inbox::holder(&settings.dirs.work);
    status.reason = Some(match &holder {
        Some(process) => format!(
            "process {process} runs on this work directory, and does not answer at this HTTP address"
        ),
        None => "not running".to_owned(),
    });
    status.files.inbound = count_files(&settings.dirs.inbound)?;
    status.files.work = count_files(&settings.dirs.work)?;
    // Opening SQLite would create the database, and to look is not to touch.
    if settings.sqlite_path().is_some_and(|path| !path.exists()) {
        status.next = Some(
            match status.files.inbound {
                0 => {
                    "nothing has been loaded yet; see `task_runner demo` or `task_runner load PATH`"
                }
                _ => "`task_runner load` loads what is in inbound",
            }
            .to_owned(),
        );
        return Ok(status);
    }
    let sink = open_sink(settings).await?;
    status.totals = Some(sink.totals().await?);
    status.last_files = sink.files(LAST_FILES).await?;
    let rejects = sink.rejects(LAST_REJECTS).await?;
    status.rejects = by_reason(rejects.iter().map(|reject| reject.code));
    let open = status.totals.map_or(0, |totals| totals.pending);
    if holder.is_some() {
        status.next = Some("ask with the --http-addr of that process".to_owned());
    } else if status.files.inbound + status.files.work + open > 0 {
        status.next = Some("`task_runner load` goes on with inbound and work; an archive is loaded again by its path".to_owned());
    }
    Ok(status)
}

/// Regular files in a directory, hidden ones aside; 0 where it does not exist yet.
fn count_files(directory: &Path) -> io::Result<u64> {
    let about = |error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", directory.display()))
    };
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(about)?,
    };
    let mut files = 0;
    for entry in entries {
        let entry = entry.map_err(about)?;
        if !inbox::is_temporary(&entry.file_name())
            && entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            files += 1;
        }
    }
    Ok(files)
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
        let status = Status {
            running: true,
            ..Status::default()
        };
        let json = serde_json::to_string(&status).unwrap();
        let good = format!("HTTP/1.0 200 OK\r\n\r\n{json}").leak();
        assert_eq!(ask(answering(good).await).await, Some(status));
        assert_eq!(
            ask(answering("HTTP/1.0 404 Not Found\r\n\r\n{}").await).await,
            None
        );
        assert_eq!(
            ask(answering("HTTP/1.0 200 OK\r\n\r\n<html>").await).await,
            None
        );
        assert_eq!(ask(answering("220 mail\r\n").await).await, None);
    }

    #[tokio::test]
    async fn where_nothing_listens_there_is_no_service() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(ask(addr).await, None);
    }

    #[test]
    fn an_address_to_listen_on_is_asked_at_home() {
        let asked = |addr: &str| reachable(addr.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(asked("[::]:80"), "[::1]:80");
        assert_eq!(asked("10.0.0.1:80"), "10.0.0.1:80");
    }
}
