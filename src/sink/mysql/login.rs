//! Logins over plain TCP to another machine: refuses to send the password encrypted with a public
//! key of the server.
//!
//! With `caching_sha2_password` or `sha256_password`, a server may request the password encrypted
//! with its public key. The driver accepts any key, so an attacker between engine and server could
//! send another key and read the password. The driver has no option to refuse this, and cannot use
//! an existing connection. So the driver connects to a socket of this process. This module passes
//! all packets on to the server, and ends the login before the password is sent. After the login,
//! it copies bytes without reading the packets.
//!
//! Logins on this machine, over TLS, or with `allow_public_key=true` do not use this module.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use mysql_async::{Conn, Opts, OptsBuilder};
use tokio::io::{
    AsyncBufRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, copy_buf,
};
use tokio::net::{TcpStream, UnixListener, UnixStream};

use super::errors::KEY_REFUSED;

/// Most bytes of a packet of a login. Greetings and replies have a few hundred. Without a limit, a
/// server could fill the memory.
const LOGIN_PACKET_BYTES_MAX: usize = 64 * 1024;

/// Bytes that are copied at a time. A statement has up to 1 MiB: a smaller buffer would cost more
/// system calls, and a larger one more memory for each connection.
const COPY_BYTES: usize = 128 * 1024;

/// The login methods in which the server may request the password encrypted with its public key.
const WITH_PUBLIC_KEY: [&[u8]; 2] = [b"caching_sha2_password", b"sha256_password"];

/// MariaDB's login method in which the server sends several packets before the result.
const PARSEC: &[u8] = b"parsec";

/// Whether a login must use this module: only the public key would protect the password.
pub(super) fn must_be_watched(host: &str, is_tls_or_socket: bool, allowed: bool) -> bool {
    let is_this_machine = match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    };
    !(is_this_machine || is_tls_or_socket || allowed)
}

/// What to do with a packet that the server sends during a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Pass the packet on.
    Pass,
    /// Pass the packet on: it ends the login.
    Done,
    /// Refuse the login.
    Refuse,
}

/// Connects and logs in.
///
/// # Errors
/// [`KEY_REFUSED`] as an error of the server if it requests the password encrypted with its public
/// key. Else the error of the driver.
pub(super) async fn connect(opts: &Opts, keepalive: Duration) -> Result<Conn, mysql_async::Error> {
    let server = TcpStream::connect((opts.ip_or_hostname(), opts.tcp_port())).await?;
    server.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(&server, true).map_err(io::Error::from)?;
    rustix::net::sockopt::set_tcp_keepidle(&server, keepalive).map_err(io::Error::from)?;
    // An abstract name: it is not a file, and ends with the listener. Only a connection of this
    // process is accepted.
    let name = format!("\0lemonade-login-{:032x}", u128::from_ne_bytes(random()?));
    let listener = UnixListener::bind(&name)?;
    let accepting = async move {
        loop {
            let (driver, _) = listener.accept().await?;
            if driver.peer_cred()?.pid() == i32::try_from(std::process::id()).ok() {
                tokio::spawn(relay(driver, server));
                return Ok(());
            }
        }
    };
    let opts = OptsBuilder::from_opts(opts.clone()).socket(Some(name));
    let (conn, ()) = tokio::try_join!(Conn::new(opts), accepting)?;
    Ok(conn)
}

fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}

/// Passes packets on until one side closes or fails. Then both connections are closed, and the
/// driver reports the error.
async fn relay(driver: UnixStream, server: TcpStream) {
    let (from_driver, mut to_driver) = driver.into_split();
    let (from_server, mut to_server) = server.into_split();
    let up = async {
        copy_buf(
            &mut BufReader::with_capacity(COPY_BYTES, from_driver),
            &mut to_server,
        )
        .await
    };
    let down = async {
        let mut from_server = BufReader::with_capacity(COPY_BYTES, from_server);
        watch(&mut from_server, &mut to_driver).await?;
        copy_buf(&mut from_server, &mut to_driver).await
    };
    let ended = tokio::select! { ended = up => ended, ended = down => ended };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the database ended");
    }
}

/// Passes on the packets of the server until the login ends.
async fn watch(
    server: &mut (impl AsyncBufRead + Unpin),
    driver: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut method = Vec::new();
    let mut is_greeting = true;
    loop {
        let header = server.read_u32_le().await?;
        let (bytes, sequence) = (header as usize & 0xff_ffff, (header >> 24) as u8);
        if bytes > LOGIN_PACKET_BYTES_MAX {
            let problem = "the server sent a packet that no login has";
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        let mut packet = vec![0; bytes];
        server.read_exact(&mut packet).await?;
        let verdict = if is_greeting {
            Verdict::Pass
        } else {
            judge(&mut method, &packet)
        };
        is_greeting = false;
        if verdict == Verdict::Refuse {
            packet = refusal();
        }
        let header = packet.len() as u32 | u32::from(sequence) << 24;
        driver.write_u32_le(header).await?;
        driver.write_all(&packet).await?;
        match verdict {
            Verdict::Pass => {}
            Verdict::Done => return Ok(()),
            Verdict::Refuse => {
                driver.shutdown().await?;
                return Err(io::Error::other(
                    "the server asked for a login with its public key",
                ));
            }
        }
    }
}

/// What to do with a packet after the greeting. `method` is the login method: that of the greeting,
/// or the one to which the server has switched.
fn judge(method: &mut Vec<u8>, packet: &[u8]) -> Verdict {
    match packet.first() {
        Some(0x00) => Verdict::Done,
        // A switch to another method: its name, and after a zero its data.
        Some(0xfe) => {
            let name = packet[1..].split(|byte| *byte == 0).next();
            *method = name.unwrap_or_default().to_vec();
            if WITH_PUBLIC_KEY.contains(&method.as_slice()) {
                return Verdict::Refuse;
            }
            Verdict::Pass
        }
        // A further packet of the method. Without a switch, only methods with a public key send
        // one.
        Some(0x01) if method != PARSEC => Verdict::Refuse,
        _ => Verdict::Pass,
    }
}

/// An error packet with [`KEY_REFUSED`].
fn refusal() -> Vec<u8> {
    let [low, high] = KEY_REFUSED.to_le_bytes();
    let mut packet = vec![0xff, low, high];
    packet.extend_from_slice(
        b"#HY000the login needs the server's public key, and without TLS an attacker could send \
          theirs",
    );
    packet
}
